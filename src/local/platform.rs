//! All apps of this machine: what the services of `api` are answered from.

mod addresses;
mod figures;
mod history;
mod people;
mod samples;

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use buffa_types::google::protobuf::Timestamp;
use http::StatusCode;
use tokio::sync::{Mutex, OwnedMutexGuard, broadcast};

pub use people::Portrait;
pub use samples::{EVERY as SAMPLE_EVERY, KEPT as SAMPLES_KEPT, Sample};

use super::authority::Authority;
use super::gateway::{self, AppListener, Names, Route, Target};
use super::prune::{Gate, Pruner};
use super::store::{self, AppKey, AppRow, RevisionRow, Store};
use super::supervisor::app::{AppHandle, Change, Command, Owed, Workshop};
use super::supervisor::launch::{self, Setting};
use super::supervisor::spawner::Spawner;
use crate::config::Upkeep;
use crate::crash;
use crate::error::{Code, Diagnostic, with_causes};
use crate::files;
use crate::wire::app::spec::DesiredState;
use crate::wire::app::status::{DeploymentStatus, Substate};
use crate::wire::{app, common, identifier, status};

/// Ports given to apps: below the range that the kernel takes for outgoing connections, so that
/// an app finds its port free after a restart.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Changes that a slow watcher may fall behind before it has to look again.
const CHANGES_BACKLOG: usize = 1024;
/// Locks of apps that nobody changes are forgotten above this number.
const LOCKS_KEPT: usize = 1024;
/// How long an app's port, taken by another program, is tried for before it is given up.
const PORT_PATIENCE: Duration = Duration::from_secs(3);

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    Invalid(String),
    #[error("app `{0}` does not exist")]
    NotFound(String),
    #[error(
        "app `{name}` was changed since revision {known}, and has revision {now} now; nothing of it was replaced"
    )]
    Changed { name: String, known: u64, now: u64 },
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Gateway(#[from] gateway::Error),
}

/// The apps of one home.
pub struct Platform {
    workshop: Workshop,
    apps: RwLock<HashMap<AppKey, AppHandle>>,
    /// One writer at a time for each app: creating, changing and deleting it. Stopping an app may
    /// take seconds, which is no reason for another one to wait.
    changing: std::sync::Mutex<HashMap<AppKey, Arc<Mutex<()>>>>,
    /// Where all apps answer by name.
    names_port: u16,
    /// Vouches for apps where TLS is spoken.
    authority: Arc<Authority>,
    /// How the traffic went lately.
    samples: samples::Samples,
    /// Passed by all that files a revision; closed while what is unused goes.
    gate: Gate,
}

impl Platform {
    /// A platform over an open store; [`restore`](Self::restore) brings its apps back.
    pub fn new(
        setting: Setting,
        store: Store,
        names: Arc<Names>,
        names_port: u16,
        authority: Arc<Authority>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            authority,
            workshop: Workshop {
                setting,
                store: Arc::new(store),
                spawner: Spawner::start()?,
                names,
                changes: broadcast::Sender::new(CHANGES_BACKLOG),
                owed: Owed::default(),
            },
            apps: RwLock::default(),
            changing: std::sync::Mutex::default(),
            names_port,
            samples: samples::Samples::default(),
            gate: Gate::default(),
        })
    }

    /// What tidies this platform's home.
    pub fn pruner(&self, upkeep: Upkeep) -> Pruner {
        Pruner {
            home: self.workshop.setting.home.clone(),
            store: Arc::clone(&self.workshop.store),
            environments: Arc::clone(&self.workshop.setting.environments),
            upkeep,
            gate: Arc::clone(&self.gate),
        }
    }

    /// Changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.workshop.changes.subscribe()
    }

    /// Starts every app that was running when the platform ended, at the endpoint it had. One that
    /// cannot be brought back keeps no other one from it.
    pub async fn restore(&self) -> Result<(), Refused> {
        let rows = self.workshop.store.apps()?;
        // All at once, since a port that is lost is waited for.
        let all = rows.iter().map(async |row| {
            if let Err(error) = self.bring_back(&row.key).await {
                tracing::error!(app = %row.key, error = %with_causes(&error), "is not brought back");
            }
        });
        futures::future::join_all(all).await;
        Ok(())
    }

    async fn bring_back(&self, key: &AppKey) -> Result<(), Refused> {
        let _changing = self.change(key).await;
        // Clients are answered meanwhile, and one may have changed it first.
        let Some(row) = self.workshop.store.app(key)? else {
            return Ok(());
        };
        if self.handle(key).is_some() {
            return Ok(());
        }
        let latest = self.workshop.store.revision(key, row.latest)?;
        let revision = match latest {
            Some(latest) if !latest.failed => row.latest,
            _ => row.serving.unwrap_or(row.latest),
        };
        let at_rest = revision == row.serving.unwrap_or(0) && self.was_at_rest(key)?;
        let handle = self.take_up(&row).await?;
        if !row.desired_active {
            handle.finish(Command::Stop).await;
            return Ok(());
        }
        handle.send(if at_rest {
            Command::Rest(revision)
        } else {
            Command::Deploy(revision)
        });
        Ok(())
    }

    /// Starts the task of an app that is filed: at its port, or where that is lost, at another one. Whoever
    /// takes an app up tells the task what to do: one that knows of nothing is not taken for running.
    async fn take_up(&self, row: &AppRow) -> Result<AppHandle, Refused> {
        let shown = self.shown(row)?;
        let listener = match self.listen(row.port).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(app = %row.key, error = %with_causes(&error), "port is lost");
                let listener = self.listen_for(&row.key).await?;
                let noted = self.workshop.store.set_port(&row.key, listener.port());
                if let Err(error) = noted {
                    tracing::error!(app = %row.key, error = %with_causes(&error), "not recorded");
                }
                listener
            }
        };
        let handle = self.start_task(&row.key, listener);
        self.publish(&row.key, &shown.app);
        Ok(handle)
    }

    /// Whether the app had no replica, for want of traffic, when it was last heard of.
    fn was_at_rest(&self, key: &AppKey) -> Result<bool, Refused> {
        let conditions = self.workshop.store.conditions(key)?;
        Ok(conditions.last().is_some_and(|last| {
            status::is_active(status::condition_status(last))
                && last.substate.as_known() == Some(Substate::SCALED_TO_ZERO)
        }))
    }

    async fn change(&self, key: &AppKey) -> OwnedMutexGuard<()> {
        let lock = {
            let mut changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            // Clients may name any number of apps that are not there, or not any more.
            if changing.len() >= LOCKS_KEPT {
                changing.retain(|_, lock| Arc::strong_count(lock) > 1);
            }
            Arc::clone(changing.entry(key.clone()).or_default())
        };
        lock.lock_owned().await
    }

    /// Creates an app or replaces it. Sending what is running already changes nothing.
    pub async fn apply(&self, app: app::App) -> Result<app::App, Refused> {
        self.put(app, false).await
    }

    /// Changes an app that exists, and that nobody else changed since the caller read it.
    pub async fn update(&self, app: app::App) -> Result<app::App, Refused> {
        self.put(app, true).await
    }

    async fn put(&self, mut app: app::App, is_update: bool) -> Result<app::App, Refused> {
        check(&app)?;
        let key = AppKey::of(&app.metadata.id);
        let _changing = self.change(&key).await;
        let _open = self.gate.read().await;
        let _names = self.reserve_names(&key, &app)?;
        app.status = buffa::MessageField::none();
        app.spec
            .modify(|spec| spec.desired_state = DesiredState::DESIRED_STATE_ACTIVE.into());
        let store = &self.workshop.store;
        let revision = match store.app(&key)? {
            Some(row) => {
                if is_update {
                    self.check_known(&row, app.metadata.revision)?;
                }
                let runs = self.handle(&key).is_some();
                if !runs {
                    // It could not be brought back when the platform started.
                    self.take_up(&row).await?;
                }
                let filed = self.file_again(&row, &app, runs);
                if filed.is_err() && !runs {
                    self.let_go(&key);
                }
                match filed? {
                    Some(revision) => revision,
                    None => return self.view(&key),
                }
            }
            None if is_update => return Err(Refused::NotFound(key.name().to_owned())),
            None => {
                self.clear_folder(&key);
                let listener = self.listen_for(&key).await?;
                let revision = store.file_app(&key, listener.port(), &app, &accepted)?;
                crash::point("apply.created");
                self.start_task(&key, listener);
                revision
            }
        };
        crash::point("apply.filed");
        self.publish(&key, &app);
        let view = self.view(&key);
        // Whatever the view says: what is filed is started.
        if let Some(handle) = self.handle(&key) {
            crash::point("apply.accepted");
            handle.send(Command::Deploy(revision));
        }
        view
    }

    /// Files what an app is to be from now on; tells the revision to start, or nothing where it runs already.
    fn file_again(&self, row: &AppRow, app: &app::App, runs: bool) -> Result<Option<u64>, Refused> {
        let (store, key) = (&self.workshop.store, &row.key);
        let Some(revision) = self.same_revision(row, app)? else {
            return Ok(Some(store.file_revision(key, app, &accepted)?));
        };
        // What crashes again and again is not left to its pauses once someone asks.
        if runs && row.desired_active && !status::is_failing(&self.view(key)?) {
            return Ok(None);
        }
        store.want_again(key, &accepted(revision))?;
        Ok(Some(revision))
    }

    /// Refuses what was made of another revision than the app has now; 0 does not say of which. Who knows
    /// of the newest has missed nothing, though it failed and is not shown any more.
    fn check_known(&self, row: &AppRow, known: u64) -> Result<(), Refused> {
        let now = self.shown(row)?.revision;
        if [0, now, row.latest].contains(&known) {
            return Ok(());
        }
        Err(Refused::Changed {
            name: row.key.name().to_owned(),
            known,
            now,
        })
    }

    /// Ends a task that was told nothing.
    fn let_go(&self, key: &AppKey) {
        self.workshop.names.withdraw(key.as_str());
        let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
        apps.remove(key);
    }

    /// Takes away what a namesake left that was not deleted in full.
    fn clear_folder(&self, key: &AppKey) {
        let home = &self.workshop.setting.home;
        let folder = launch::app_folder(home, key);
        match files::set_aside(&folder, &home.trash()) {
            Ok(None) => {}
            Ok(Some(aside)) => {
                tokio::task::spawn_blocking(move || files::remove_all(&aside));
            }
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "cannot remove an app's folder");
            }
        }
    }

    /// The revision that equals `app` and has not failed, if that is the one in force.
    fn same_revision(&self, row: &AppRow, app: &app::App) -> Result<Option<u64>, Refused> {
        let latest = self.workshop.store.revision(&row.key, row.latest)?;
        let in_force = match latest {
            Some(latest) if latest.failed => match row.serving {
                Some(serving) => self.workshop.store.revision(&row.key, serving)?,
                None => None,
            },
            other => other,
        };
        Ok(in_force
            .filter(|stored| !stored.failed && is_same(&stored.app, app))
            .map(|stored| stored.revision))
    }

    /// Takes an app's traffic and processes away; it stays known.
    pub async fn deactivate(&self, id: &app::Identifier) -> Result<app::App, Refused> {
        let key = AppKey::of(id);
        let changing = self.change(&key).await;
        let row = self.row(&key)?;
        if row.desired_active {
            self.workshop.store.set_desired(&key, false)?;
            crash::point("deactivate.recorded");
            if let Some(handle) = self.handle(&key) {
                // A task of its own: where the caller goes away, whoever is next waits all the same.
                let stopping = tokio::spawn(async move {
                    handle.finish(Command::Stop).await;
                    changing
                });
                // Kept until the app was looked at. A panic in there is in the log.
                let _changing = stopping.await;
                return self.view(&key);
            }
        }
        self.view(&key)
    }

    /// Forgets an app and everything it wrote.
    pub async fn delete(&self, id: &app::Identifier) -> Result<(), Refused> {
        let key = AppKey::of(id);
        let changing = self.change(&key).await;
        if self.workshop.store.app(&key)?.is_none() {
            return Ok(());
        }
        let last = self.view(&key)?;
        // First: while this can fail, the app is as it was. What is left of one that is forgotten
        // goes when the platform starts.
        self.workshop.store.delete_app(&key)?;
        crash::point("delete.forgotten");
        self.workshop.names.withdraw(key.as_str());
        let handle = self
            .apps
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
        let workshop = self.workshop.clone();
        // A task of its own: a caller that goes away leaves nothing half done.
        let ending = tokio::spawn(async move {
            let _changing = changing;
            if let Some(handle) = handle {
                handle.finish(Command::Shutdown).await;
                // Who asked for it by name may still be waiting.
                handle.route.set(Target::Unavailable {
                    status: StatusCode::NOT_FOUND,
                    code: Code::AppNotFound.as_str(),
                    message: format!("app `{}` was deleted", key.name()),
                });
            }
            crash::point("delete.ended");
            workshop.forget(key, last).await;
        });
        // A panic in there is in the log.
        let _ = ending.await;
        Ok(())
    }

    /// Ends all processes; the apps are meant to come back.
    pub async fn shutdown(&self) {
        let handles: Vec<AppHandle> = self
            .apps
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .drain()
            .map(|(_, handle)| handle)
            .collect();
        futures::future::join_all(
            handles
                .iter()
                .map(|handle| handle.finish(Command::Shutdown)),
        )
        .await;
    }

    /// The URI of the image that is known here as `name:tag`.
    pub fn image(&self, name: &str) -> Option<String> {
        self.workshop.setting.environments.find(name)
    }

    /// The task of an app.
    pub fn handle(&self, key: &AppKey) -> Option<AppHandle> {
        self.apps
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// Keys of the apps that have a task.
    fn running(&self) -> impl Iterator<Item = AppKey> {
        let apps = self.apps.read().unwrap_or_else(PoisonError::into_inner);
        apps.keys().cloned().collect::<Vec<_>>().into_iter()
    }

    /// Keys of all apps, sorted.
    pub fn keys(&self) -> Result<Vec<AppKey>, Refused> {
        let rows = self.workshop.store.apps()?;
        Ok(rows.into_iter().map(|row| row.key).collect())
    }

    /// All apps as they are told to clients.
    pub fn views(&self) -> Result<Vec<app::App>, Refused> {
        let mut views = Vec::new();
        for key in self.keys()? {
            match self.view(&key) {
                Ok(app) => views.push(app),
                // Deleted since the keys were read.
                Err(Refused::NotFound(_)) => {}
                Err(error) => {
                    tracing::error!(app = %key, error = %with_causes(&error), "cannot be shown");
                }
            }
        }
        Ok(views)
    }

    /// An app as it is told to clients.
    pub fn view(&self, key: &AppKey) -> Result<app::App, Refused> {
        let row = self.row(key)?;
        let shown = self.shown(&row)?;
        let mut app = shown.app;
        app.metadata.modify(|meta| meta.revision = shown.revision);
        let desired = if row.desired_active {
            DesiredState::DESIRED_STATE_ACTIVE
        } else {
            DesiredState::DESIRED_STATE_STOPPED
        };
        app.spec.modify(|spec| {
            spec.desired_state = desired.into();
            // Clients of other makes change this message in place and need it to be there.
            spec.ingress.get_or_insert_default();
            // Everything here is the platform's user's.
            if spec.creator.is_unset() {
                spec.creator = creator().into();
            }
        });
        let replicas = self
            .handle(key)
            .map_or(0, |handle| handle.live.borrow().replicas.len());
        let by_name = self.address_by_name(&app);
        app.status = app::Status {
            assigned_cluster: "local".into(),
            current_replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
            ingress: app::Ingress {
                public_url: format!("http://localhost:{}", row.port),
                cname_url: by_name,
                ..Default::default()
            }
            .into(),
            created_at: timestamp(row.created_at).into(),
            last_updated_at: timestamp(row.updated_at).into(),
            conditions: self.conditions(key)?,
            ..Default::default()
        }
        .into();
        Ok(app)
    }

    /// Whether an app was not deactivated.
    pub fn is_meant_to_run(&self, key: &AppKey) -> Result<bool, Refused> {
        Ok(self.row(key)?.desired_active)
    }

    /// The newest conditions, those among them that could not be stored.
    fn conditions(&self, key: &AppKey) -> Result<Vec<app::Condition>, Refused> {
        let mut conditions = self.workshop.store.conditions(key)?;
        conditions.extend(self.workshop.owed(key));
        Ok(conditions)
    }

    /// The newest revision, or the one that serves when the newest failed. Where none can be read,
    /// what is known of the app all the same.
    fn shown(&self, row: &AppRow) -> Result<RevisionRow, Refused> {
        let store = &self.workshop.store;
        let latest = store.revision(&row.key, row.latest)?;
        let serving = match row.serving {
            Some(serving) => store.revision(&row.key, serving)?,
            None => None,
        };
        Ok(match (latest, serving) {
            (Some(latest), Some(serving)) if latest.failed => serving,
            (Some(latest), _) => latest,
            (None, Some(serving)) => serving,
            (None, None) => unreadable(row),
        })
    }

    fn row(&self, key: &AppKey) -> Result<AppRow, Refused> {
        self.workshop
            .store
            .app(key)?
            .ok_or_else(|| Refused::NotFound(key.name().to_owned()))
    }

    fn start_task(&self, key: &AppKey, listener: AppListener) -> AppHandle {
        let handle = AppHandle::start(self.workshop.clone(), key.clone(), listener);
        self.apps
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.clone(), handle.clone());
        handle
    }

    /// A listener on the port that the app's name leads to, or the next free one.
    async fn listen_for(&self, key: &AppKey) -> Result<AppListener, Refused> {
        let span = u64::from(PORTS.end - PORTS.start);
        let hash = blake3::hash(key.as_str().as_bytes());
        let first = u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default()) % span;
        let taken: Vec<u16> = self
            .workshop
            .store
            .apps()?
            .iter()
            .map(|row| row.port)
            .collect();
        let candidates = (0..span)
            .map(|step| PORTS.start + u16::try_from((first + step) % span).unwrap_or(0))
            .filter(|port| !taken.contains(port) && is_free(*port))
            .take(50);
        for port in candidates {
            if let Ok(listener) = self.bind(Some(port)).await {
                return Ok(listener);
            }
        }
        Ok(self.bind(None).await?)
    }

    /// A listener on `port`, waiting a little for another program to give it up.
    async fn listen(&self, port: u16) -> Result<AppListener, Refused> {
        let deadline = tokio::time::Instant::now() + PORT_PATIENCE;
        loop {
            match self.bind(Some(port)).await {
                Ok(listener) => return Ok(listener),
                Err(error) if tokio::time::Instant::now() >= deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn bind(&self, port: Option<u16>) -> Result<AppListener, gateway::Error> {
        let route = Route::new(Target::Starting {
            patience: Duration::from_secs(60),
        });
        AppListener::bind(port, route, &self.authority).await
    }
}

impl Refused {
    /// Text for the client, causes included.
    pub fn describe(&self) -> String {
        match self {
            Self::Gateway(error) => {
                let hints = error.hints();
                [vec![with_causes(error)], hints].concat().join("; ")
            }
            Self::Store(error) => [vec![with_causes(error)], error.hints()]
                .concat()
                .join("; "),
            Self::Invalid(_) | Self::NotFound(_) | Self::Changed { .. } => with_causes(self),
        }
    }
}

/// Who the platform and all that it runs belong to.
pub fn user_name() -> String {
    ["USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()))
}

fn creator() -> common::EnrichedIdentity {
    common::EnrichedIdentity {
        principal: Some(
            common::User {
                id: common::UserIdentifier {
                    subject: user_name(),
                    ..Default::default()
                }
                .into(),
                ..Default::default()
            }
            .into(),
        ),
        ..Default::default()
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Whether two apps would run the same.
fn is_same(a: &app::App, b: &app::App) -> bool {
    let essence = |app: &app::App| {
        let mut spec = app.spec.clone();
        spec.modify(|spec| {
            spec.desired_state = DesiredState::DESIRED_STATE_ACTIVE.into();
            spec.creator = buffa::MessageField::none();
        });
        let meta = &app.metadata;
        (spec, meta.code_bundle_uri.clone(), meta.labels.clone())
    };
    essence(a) == essence(b)
}

fn check(app: &app::App) -> Result<(), Refused> {
    let invalid = |text: &str| Err(Refused::Invalid(text.to_owned()));
    let id = &app.metadata.id;
    for (part, value) in [
        ("project", &id.project),
        ("domain", &id.domain),
        ("name", &id.name),
    ] {
        let good = !value.is_empty()
            && value.len() <= 63
            && value
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if !good {
            return Err(Refused::Invalid(format!(
                "the app's {part} is `{value}`; it takes 1 to 63 letters, digits, `-` and `_`"
            )));
        }
    }
    if app.spec.is_unset() {
        return invalid("the app has no spec");
    }
    if app.spec.app_payload.is_none() {
        return invalid("the app has neither a container nor a pod");
    }
    Ok(())
}

/// An app of which no revision can be read: enough to see, to delete and to replace it.
fn unreadable(row: &AppRow) -> RevisionRow {
    let (project, domain, name) = row.key.parts();
    RevisionRow {
        revision: row.latest,
        app: app::App {
            metadata: app::Meta {
                id: identifier("", project, domain, name).into(),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        },
        failed: true,
        overtaken: false,
        created_at: row.created_at,
    }
}

/// The condition that an accepted revision begins with; what follows it is about this attempt.
fn accepted(revision: u64) -> app::Condition {
    app::Condition {
        last_transition_time: timestamp(store::now_ms()).into(),
        deployment_status: DeploymentStatus::DEPLOYMENT_STATUS_PENDING.into(),
        substate: Substate::SUBSTATE_UNSPECIFIED.into(),
        message: format!("revision {revision} accepted"),
        revision,
        ..Default::default()
    }
}

fn timestamp(milliseconds: i64) -> Timestamp {
    Timestamp {
        seconds: milliseconds.div_euclid(1000),
        nanos: i32::try_from(milliseconds.rem_euclid(1000) * 1_000_000).unwrap_or(0),
        ..Default::default()
    }
}

/// One line on an app for `flyte local status`.
pub fn summary(platform: &Platform, key: &AppKey) -> Option<serde_json::Value> {
    let app = platform.view(key).ok()?;
    let id = &app.metadata.id;
    let replicas: Vec<serde_json::Value> = platform
        .handle(key)?
        .live
        .borrow()
        .replicas
        .iter()
        .map(|one| serde_json::json!({"name": one.name, "pid": one.pid}))
        .collect();
    Some(serde_json::json!({
        "name": id.name,
        "project": id.project,
        "domain": id.domain,
        "status": status::short_name(status::deployment_status(&app)),
        "revision": app.metadata.revision,
        "endpoint": app.status.ingress.public_url,
        "replicas": replicas,
    }))
}

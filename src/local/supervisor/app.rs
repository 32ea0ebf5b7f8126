//! The life of one app: a task that starts revisions, moves traffic and mends what breaks.
//!
//! Order is the point. A new revision is started beside the old one; traffic moves when it
//! serves; only then does the old one drain. A revision that fails never touches the old one.
//! What the task decides is written to the store before anybody is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::diagnose::Failure;
use super::launch::{self, Setting};
use super::logs::LogBook;
use super::replica::Replica;
use super::spawner::Spawner;
use crate::error::Code;
use crate::local::gateway::{AppListener, Backend, Route, Target};
use crate::local::store::{self, AppKey, Revision, Store};
use crate::wire::app::status::{DeploymentStatus, Substate};
use crate::wire::build::Health;
use crate::wire::{app, status};

/// How long requests wait for an app that is starting.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long requests of a replaced revision may take to finish.
const DRAIN_GRACE: Duration = Duration::from_secs(30);
/// How long a process may take to end by itself.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// The same for one that never served.
const FAILED_GRACE: Duration = Duration::from_secs(2);
/// The first pause before a crashed app is started again; doubles up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// An app that served for this long starts its backoff anew when it crashes.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// Crashes in a row before the app counts as failed; it is started again all the same.
const CRASHES_TOLERATED: u32 = 5;

/// Something about an app changed; the store tells what.
#[derive(Clone, Debug)]
pub struct Change {
    pub key: AppKey,
    /// The app as it was, when it is gone.
    pub deleted: Option<Box<app::App>>,
}

/// What every app's task works with.
#[derive(Clone)]
pub struct Workshop {
    pub setting: Setting,
    pub store: Arc<Store>,
    pub spawner: Spawner,
    pub changes: broadcast::Sender<Change>,
}

/// What is asked of an app's task.
#[derive(Debug)]
pub enum Command {
    /// Bring this revision up and move traffic to it.
    Deploy(Revision),
    /// Take traffic away and end the processes.
    Stop(oneshot::Sender<()>),
    /// End the processes and the task; the app is meant to come back.
    Shutdown(oneshot::Sender<()>),
}

/// Processes of an app, for whoever shows them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    pub replicas: Vec<(String, i32)>,
}

/// The way to an app's task.
#[derive(Clone)]
pub struct AppHandle {
    pub logs: Arc<LogBook>,
    pub live: watch::Receiver<Live>,
    commands: mpsc::UnboundedSender<Command>,
}

impl AppHandle {
    /// Starts the task of an app whose listener is bound already.
    pub fn start(workshop: Workshop, key: AppKey, listener: AppListener) -> Self {
        let logs = Arc::new(LogBook::new(
            &launch::app_folder(&workshop.setting.home, &key).join("logs"),
        ));
        let (commands, queue) = mpsc::unbounded_channel();
        let (live, watch_live) = watch::channel(Live::default());
        let handle = Self {
            logs: Arc::clone(&logs),
            live: watch_live,
            commands,
        };
        let task = Task {
            route: listener.route().clone(),
            workshop,
            key,
            listener,
            logs,
            live,
            serving: None,
            candidate: None,
            crashes: 0,
            started: 0,
        };
        tokio::spawn(task.run(queue));
        handle
    }

    /// Sends a command; a task that is gone takes none, which its caller sees by the answer.
    pub fn send(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    /// Sends a command and waits until it was carried out.
    pub async fn finish(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
        let (done, answer) = oneshot::channel();
        self.send(command(done));
        let _ = answer.await;
    }
}

struct Serving {
    replica: Replica,
    backend: Arc<Backend>,
    since: Instant,
}

struct Candidate {
    revision: Revision,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<Result<(Replica, SocketAddr), Failure>>,
}

struct Task {
    workshop: Workshop,
    key: AppKey,
    listener: AppListener,
    route: Route,
    logs: Arc<LogBook>,
    live: watch::Sender<Live>,
    serving: Option<Serving>,
    candidate: Option<Candidate>,
    crashes: u32,
    /// Replicas started so far, which numbers them.
    started: u64,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Deploy(revision)) => self.deploy(revision, Duration::ZERO).await,
                    Some(Command::Stop(done)) => {
                        self.stop().await;
                        let _ = done.send(());
                    }
                    Some(Command::Shutdown(done)) => {
                        self.shutdown().await;
                        let _ = done.send(());
                        return;
                    }
                    None => return self.shutdown().await,
                },
                outcome = candidate_outcome(&mut self.candidate) => self.settle(outcome).await,
                () = serving_ended(self.serving.as_ref()) => self.crashed().await,
            }
        }
    }

    /// Starts a revision beside the one that serves; a start that is under way gives way to it.
    async fn deploy(&mut self, revision: Revision, pause: Duration) {
        self.cancel_candidate().await;
        if self.serving.is_none() {
            self.route.set(Target::Starting {
                patience: START_PATIENCE,
            });
        }
        self.started += 1;
        self.note(
            revision,
            DeploymentStatus::DEPLOYMENT_STATUS_DEPLOYING,
            Substate::INITIALIZING,
            &format!("starting revision {revision}"),
        );
        let cancel = CancellationToken::new();
        let start = start(
            self.workshop.clone(),
            self.key.clone(),
            Arc::clone(&self.logs),
            revision,
            self.started,
            cancel.clone(),
        );
        let task = tokio::spawn({
            let cancel = cancel.clone();
            async move {
                tokio::select! {
                    () = tokio::time::sleep(pause) => start.await,
                    () = cancel.cancelled() => Err(cancelled()),
                }
            }
        });
        self.candidate = Some(Candidate {
            revision,
            cancel,
            task,
        });
    }

    async fn settle(&mut self, outcome: Result<(Replica, SocketAddr), Failure>) {
        let Some(candidate) = self.candidate.take() else {
            return;
        };
        match outcome {
            Ok((replica, address)) => self.promote(replica, address),
            Err(failure) => self.fail(candidate.revision, &failure).await,
        }
    }

    /// Moves traffic to a replica that serves, and lets the old one finish what it has begun.
    fn promote(&mut self, replica: Replica, address: SocketAddr) {
        let revision = replica.revision;
        let backend = Backend::new(address, self.request_timeout(revision));
        self.route.set(Target::Backend(Arc::clone(&backend)));
        let old = self.serving.replace(Serving {
            replica,
            backend,
            since: Instant::now(),
        });
        self.record(self.workshop.store.set_serving(&self.key, Some(revision)));
        self.record(self.workshop.store.set_failed(&self.key, revision, false));
        self.show_live();
        self.note(
            revision,
            DeploymentStatus::DEPLOYMENT_STATUS_ACTIVE,
            Substate::RUNNING,
            &format!("revision {revision} is serving"),
        );
        if let Some(old) = old {
            let folder =
                (old.replica.revision != revision).then(|| self.run_folder(old.replica.revision));
            tokio::spawn(retire(old, folder));
        }
    }

    async fn fail(&mut self, revision: Revision, failure: &Failure) {
        let message = status::failure_message(failure.code, &failure.message);
        let restarting = self.is_serving_revision(revision);
        if restarting {
            return self.restart_later(revision, &message).await;
        }
        self.record(self.workshop.store.set_failed(&self.key, revision, true));
        self.note(
            revision,
            DeploymentStatus::DEPLOYMENT_STATUS_FAILED,
            failure.substate,
            &message,
        );
        match &self.serving {
            Some(serving) => self.note(
                serving.replica.revision,
                DeploymentStatus::DEPLOYMENT_STATUS_ACTIVE,
                Substate::RUNNING,
                &format!("revision {} keeps serving", serving.replica.revision),
            ),
            None => match self.fallback(revision) {
                // After a restart of the platform the older revision is not running any more.
                Some(older) => Box::pin(self.deploy(older, Duration::ZERO)).await,
                None => {
                    self.route.set(Target::Unavailable {
                        status: StatusCode::SERVICE_UNAVAILABLE,
                        code: failure.code.as_str(),
                        message: failure.message.clone(),
                    });
                }
            },
        }
    }

    /// The revision that served before, where it is not the one that failed.
    fn fallback(&self, failed: Revision) -> Option<Revision> {
        let row = self.workshop.store.app(&self.key).ok().flatten()?;
        row.serving.filter(|serving| *serving != failed)
    }

    fn is_serving_revision(&self, revision: Revision) -> bool {
        self.workshop
            .store
            .app(&self.key)
            .ok()
            .flatten()
            .is_some_and(|row| row.serving == Some(revision))
    }

    /// The serving replica ended by itself.
    async fn crashed(&mut self) {
        let Some(mut serving) = self.serving.take() else {
            return;
        };
        let ending = serving.replica.ended().await;
        let revision = serving.replica.revision;
        if serving.since.elapsed() >= STABLE_AFTER {
            self.crashes = 0;
        }
        let failure = serving.replica.explain(ending).await;
        serving.replica.clean_up().await;
        serving.backend.retire();
        self.show_live();
        if self.candidate.is_some() {
            // A newer revision is on its way; it takes over.
            self.route.set(Target::Starting {
                patience: START_PATIENCE,
            });
            return;
        }
        let message = format!("the process {ending}; {}", failure.message);
        self.restart_later(revision, &message).await;
    }

    async fn restart_later(&mut self, revision: Revision, message: &str) {
        let pause = FIRST_BACKOFF
            .saturating_mul(1 << self.crashes.min(16))
            .min(LONGEST_BACKOFF);
        self.crashes += 1;
        let (state, substate) = if self.crashes > CRASHES_TOLERATED {
            (
                DeploymentStatus::DEPLOYMENT_STATUS_FAILED,
                Substate::CRASH_LOOP,
            )
        } else {
            (
                DeploymentStatus::DEPLOYMENT_STATUS_PENDING,
                Substate::CRASH_LOOP,
            )
        };
        self.note(
            revision,
            state,
            substate,
            &format!("{message}; starting it again in {} ms", pause.as_millis()),
        );
        self.deploy(revision, pause).await;
    }

    async fn stop(&mut self) {
        self.route.set(Target::Unavailable {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: Code::AppDeactivated.as_str(),
            message: format!("app `{}` is deactivated", self.key.name()),
        });
        self.end_processes().await;
        self.crashes = 0;
        let revision = self
            .workshop
            .store
            .app(&self.key)
            .ok()
            .flatten()
            .map_or(0, |row| row.serving.unwrap_or(row.latest));
        self.note(
            revision,
            DeploymentStatus::DEPLOYMENT_STATUS_STOPPED,
            Substate::SUBSTATE_UNSPECIFIED,
            "deactivated",
        );
    }

    async fn shutdown(&mut self) {
        self.listener.close().await;
        self.end_processes().await;
    }

    /// Ends a start that is under way, and waits until its processes are gone.
    async fn cancel_candidate(&mut self) {
        if let Some(candidate) = self.candidate.take() {
            candidate.cancel.cancel();
            let _ = candidate.task.await;
        }
    }

    async fn end_processes(&mut self) {
        self.cancel_candidate().await;
        if let Some(serving) = self.serving.take() {
            serving.backend.retire();
            serving.replica.stop(STOP_GRACE).await;
        }
        self.show_live();
    }

    fn request_timeout(&self, revision: Revision) -> Option<Duration> {
        let row = self.workshop.store.revision(&self.key, revision).ok()??;
        let timeout = row
            .app
            .spec
            .timeouts
            .as_option()?
            .request_timeout
            .as_option()?
            .clone();
        Some(Duration::new(
            timeout.seconds.unsigned_abs(),
            timeout.nanos.unsigned_abs(),
        ))
    }

    fn run_folder(&self, revision: Revision) -> PathBuf {
        launch::app_folder(&self.workshop.setting.home, &self.key).join(revision.to_string())
    }

    fn show_live(&self) {
        let replicas = self
            .serving
            .iter()
            .map(|serving| (serving.replica.name.clone(), serving.replica.pid()))
            .collect();
        self.live.send_replace(Live { replicas });
    }

    fn note(&self, revision: Revision, state: DeploymentStatus, substate: Substate, message: &str) {
        self.workshop
            .note(&self.key, revision, state, substate, message);
    }

    /// The app goes on when the disk does not; what was lost is in the platform's log.
    fn record(&self, result: Result<(), store::Error>) {
        record(&self.key, result);
    }
}

fn record(key: &AppKey, result: Result<(), store::Error>) {
    if let Err(error) = result {
        tracing::error!(app = %key, error = %crate::error::with_causes(&error), "not recorded");
    }
}

impl Workshop {
    /// Writes a condition down, then tells whoever watches.
    fn note(
        &self,
        key: &AppKey,
        revision: Revision,
        state: DeploymentStatus,
        substate: Substate,
        message: &str,
    ) {
        tracing::info!(app = %key, revision, state = status::short_name(state), message);
        let now = jiff::Timestamp::now();
        let condition = app::Condition {
            last_transition_time: buffa_types::google::protobuf::Timestamp {
                seconds: now.as_second(),
                nanos: now.subsec_nanosecond(),
                ..Default::default()
            }
            .into(),
            deployment_status: state.into(),
            substate: substate.into(),
            message: message.to_owned(),
            revision,
            ..Default::default()
        };
        record(key, self.store.push_condition(key, &condition));
        // Nobody may be watching.
        let _ = self.changes.send(Change {
            key: key.clone(),
            deleted: None,
        });
    }
}

async fn start(
    workshop: Workshop,
    key: AppKey,
    logs: Arc<LogBook>,
    revision: Revision,
    number: u64,
    cancel: CancellationToken,
) -> Result<(Replica, SocketAddr), Failure> {
    let internal =
        |error: store::Error| Failure::new(Code::LocalStore, crate::error::with_causes(&error));
    let row = workshop
        .store
        .revision(&key, revision)
        .map_err(internal)?
        .ok_or_else(|| {
            Failure::new(
                Code::LocalStore,
                format!("revision {revision} is not stored"),
            )
        })?;
    let health = Health::of(launch::container(&row.app)?);
    let launch = launch::prepare(&workshop.setting, &key, &row.app, revision, number)?;
    let mut replica = Replica::start(&workshop.spawner, launch, &logs).await?;
    let note = |text: &str| {
        workshop.note(
            &key,
            revision,
            DeploymentStatus::DEPLOYMENT_STATUS_DEPLOYING,
            Substate::INITIALIZING,
            text,
        );
    };
    let outcome = tokio::select! {
        outcome = replica.ready(&health, &note) => outcome,
        () = cancel.cancelled() => Err(cancelled()),
    };
    match outcome {
        Ok(address) => Ok((replica, address)),
        Err(failure) => {
            replica.stop(FAILED_GRACE).await;
            Err(failure)
        }
    }
}

/// Nobody is told: whoever cancelled a start does something else with the app.
fn cancelled() -> Failure {
    Failure::new(Code::ClientConflict, "the start was given up")
}

async fn candidate_outcome(
    candidate: &mut Option<Candidate>,
) -> Result<(Replica, SocketAddr), Failure> {
    match candidate {
        Some(candidate) => match (&mut candidate.task).await {
            Ok(outcome) => outcome,
            Err(error) => Err(Failure::new(
                Code::Internal,
                format!("starting the app failed inside the platform: {error}"),
            )),
        },
        None => std::future::pending().await,
    }
}

async fn serving_ended(serving: Option<&Serving>) {
    match serving {
        Some(serving) => {
            serving.replica.ended().await;
        }
        None => std::future::pending().await,
    }
}

async fn retire(old: Serving, folder: Option<PathBuf>) {
    old.backend.retire();
    if tokio::time::timeout(DRAIN_GRACE, old.backend.drained())
        .await
        .is_err()
    {
        tracing::info!(
            replica = old.replica.name,
            "requests did not finish in time"
        );
    }
    old.replica.stop(STOP_GRACE).await;
    // The bundle can be unpacked again, should this revision come back.
    if let Some(folder) = folder {
        let _ = tokio::fs::remove_dir_all(folder).await;
    }
}

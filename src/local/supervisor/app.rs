//! The way to an app's task: what it is told, what it shows, and how it tells the world.
//!
//! What the task decides is written to the store before anybody is told. Where that fails, for the
//! disk is full, it is kept here and told all the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::fleet::Yard;
use super::launch::{self, Setting};
use super::logs::LogBook;
use super::spawner::Spawner;
use super::task::Task;
use crate::files;
use crate::local::gateway::{AppListener, Meter, Names, Route};
use crate::local::store::{self, AppKey, Revision, Store};
use crate::wire::app::status::{DeploymentStatus, Substate};
use crate::wire::{app, status};

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
    /// The names under which apps answer at one port.
    pub names: Arc<Names>,
    pub changes: broadcast::Sender<Change>,
    pub owed: Owed,
}

/// Conditions that could not be stored yet.
pub type Owed = Arc<Mutex<HashMap<AppKey, Vec<app::Condition>>>>;

/// How many of those are kept of an app.
const OWED_KEPT: usize = 20;

/// What is asked of an app's task.
#[derive(Debug)]
pub enum Command {
    /// Bring this revision up and move traffic to it.
    Deploy(Revision),
    /// This revision serves, with no replica until the first request.
    Rest(Revision),
    /// Take traffic away and end the processes.
    Stop(oneshot::Sender<()>),
    /// End the processes and the task; the app is meant to come back.
    Shutdown(oneshot::Sender<()>),
}

/// A replica that serves, for whoever shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    pub name: String,
    pub pid: i32,
    /// When it began to serve.
    pub since: jiff::Timestamp,
}

/// An app's present, for whoever shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    /// Each replica that serves.
    pub replicas: Vec<Process>,
    /// Starts because a request came while there was no replica.
    pub cold_starts: u64,
    /// Replicas that ended by themselves.
    pub crashes: u64,
}

/// The way to an app's task.
#[derive(Clone)]
pub struct AppHandle {
    pub logs: Arc<LogBook>,
    pub live: watch::Receiver<Live>,
    pub meter: Arc<Meter>,
    pub route: Route,
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
            meter: Arc::clone(listener.route().meter()),
            route: listener.route().clone(),
            commands,
        };
        let yard = Yard {
            workshop,
            key,
            logs,
            route: listener.route().clone(),
        };
        tokio::spawn(Task::new(yard, listener, live).run(queue));
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

pub(super) fn record(key: &AppKey, result: Result<(), store::Error>) {
    if let Err(error) = result {
        tracing::error!(app = %key, error = %crate::error::with_causes(&error), "not recorded");
    }
}

impl Workshop {
    /// Writes a condition down, then tells whoever watches.
    pub fn note(
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
        self.store(key, condition);
        // Nobody may be watching.
        let _ = self.changes.send(Change {
            key: key.clone(),
            deleted: None,
        });
    }

    /// Stores a condition, and before it those that are due since the disk was full.
    fn store(&self, key: &AppKey, condition: app::Condition) {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let due = owed.entry(key.clone()).or_default();
        due.push(condition);
        while let Some(first) = due.first() {
            let stored = self.store.push_condition(key, first);
            let done = stored.is_ok();
            record(key, stored);
            if !done {
                due.drain(..due.len().saturating_sub(OWED_KEPT));
                return;
            }
            due.remove(0);
        }
        owed.remove(key);
    }

    /// Conditions that are not stored, oldest first.
    pub fn owed(&self, key: &AppKey) -> Vec<app::Condition> {
        let owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        owed.get(key).cloned().unwrap_or_default()
    }

    /// Removes what an app wrote that was deleted, and tells that it is gone.
    pub async fn forget(&self, key: AppKey, last: app::App) {
        self.owed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
        let folder = launch::app_folder(&self.setting.home, &key);
        let trash = self.setting.home.trash();
        let (away, on_its_way) = oneshot::channel();
        let gone = key.clone();
        tokio::task::spawn_blocking(move || {
            let aside = files::set_aside(&folder, &trash);
            // Out of the way is enough for whoever waits; files may be many.
            let _ = away.send(());
            let removed = aside.and_then(|aside| aside.map_or(Ok(()), |it| files::remove_all(&it)));
            if let Err(error) = removed {
                tracing::warn!(app = %gone, %error, "its folder is not removed yet");
            }
        });
        // Where that panicked, the folder goes when the platform starts.
        let _ = on_its_way.await;
        // Nobody may be watching.
        let _ = self.changes.send(Change {
            key,
            deleted: Some(Box::new(last)),
        });
    }
}

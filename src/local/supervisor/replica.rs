//! One replica of an app: started, listened to, ended, wherever it runs.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::{mpsc, watch};

use super::app::Workshop;
use super::container::{self, Order};
use super::diagnose::{Ending, Failure, explain, explain_crash};
use super::logs::{LogBook, Record};
use super::process::{self, Program};
use super::vessel::{Launched, Signs, Vessel};
/// Last lines kept in memory to explain a failure.
const LINES_KEPT: usize = 80;
/// How long a dead replica's last output is waited for.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(300);

/// What to start.
pub struct Launch {
    /// Begins with the mark of the home, so that a restarted platform finds what it left.
    pub mark: String,
    pub name: String,
    pub revision: u64,
    /// Secrets that it reads as files; gone when it is.
    pub secret_files: Option<tempfile::TempDir>,
    pub declared_port: u16,
    /// Bytes; more than that ends it.
    pub memory_limit: Option<u64>,
    /// It is held to that.
    pub cores: Option<f64>,
    pub what: What,
}

impl Launch {
    /// Has the image of a container fetched, unless it is there. That may take a while; nothing of
    /// the replica is there yet, so it may be dropped on the way.
    pub async fn provide(&self, workshop: &Workshop) -> Result<(), Failure> {
        match &self.what {
            What::Program(_) => Ok(()),
            What::Container(order) => container::provide(workshop, order).await,
        }
    }
}

/// What runs in a replica.
pub enum What {
    Program(Program),
    Container(Order),
}

/// A replica that was started.
pub struct Replica {
    pub name: String,
    pub revision: u64,
    pub declared_port: u16,
    /// Where requests for it go, once it listens.
    pub assigned: SocketAddr,
    pub(super) vessel: Box<dyn Vessel>,
    ending: watch::Receiver<Option<Ending>>,
    _secret_files: Option<tempfile::TempDir>,
    /// Taken by whoever waits for it to serve.
    pub(super) signs: Option<mpsc::UnboundedReceiver<Signs>>,
    lines: Arc<Mutex<VecDeque<String>>>,
    output: Option<tokio::task::JoinHandle<()>>,
}

impl Replica {
    /// Starts it; whether it serves is seen by [`Replica::ready`](super::readiness).
    pub async fn start(
        workshop: &Workshop,
        launch: Launch,
        logs: &Arc<LogBook>,
    ) -> Result<Self, Failure> {
        let Launched {
            vessel,
            assigned,
            ending,
            signs,
            output,
        } = match &launch.what {
            What::Program(program) => process::start(&workshop.spawner, &launch, program).await?,
            What::Container(order) => container::start(workshop, &launch, order).await?,
        };
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let output = tokio::spawn(pump(
            output,
            launch.name.clone(),
            launch.revision,
            Arc::clone(logs),
            Arc::clone(&lines),
        ));
        Ok(Self {
            name: launch.name,
            revision: launch.revision,
            declared_port: launch.declared_port,
            assigned,
            vessel,
            ending,
            _secret_files: launch.secret_files,
            signs: Some(signs),
            lines,
            output: Some(output),
        })
    }

    pub fn pid(&self) -> i32 {
        self.vessel.pid()
    }

    /// Resolves when it has ended.
    pub fn ended(&self) -> impl Future<Output = Ending> + use<> {
        let mut ending = self.ending.clone();
        async move {
            // Whoever waits for it sends before dropping the sender.
            let ended = ending.wait_for(Option::is_some).await;
            ended
                .ok()
                .and_then(|ending| *ending)
                .unwrap_or(Ending::Signalled(9))
        }
    }

    pub fn has_ended(&self) -> bool {
        self.ending.borrow().is_some()
    }

    /// Why it ended before it served.
    pub async fn explain(&mut self, ending: Ending) -> Failure {
        self.finish_output().await;
        explain(ending, &self.last_lines(), self.declared_port)
    }

    /// Why it ended after it had served.
    pub async fn explain_crash(&mut self, ending: Ending) -> Failure {
        self.finish_output().await;
        explain_crash(ending, &self.last_lines(), self.declared_port)
    }

    /// Its last lines, oldest first.
    pub fn last_lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    async fn finish_output(&mut self) {
        if let Some(output) = self.output.take() {
            // A grandchild may hold the pipe open for ever.
            let _ = tokio::time::timeout(OUTPUT_PATIENCE, output).await;
        }
    }

    /// Asks it to end, waits for `grace`, then kills what is left, wherever it is.
    pub async fn stop(&self, grace: Duration) {
        if !self.has_ended() {
            self.vessel.terminate().await;
            if tokio::time::timeout(grace, self.ended()).await.is_err() {
                tracing::info!(replica = self.name, "did not end in time; killing it");
            }
        }
        self.clean_up().await;
    }

    /// Leaves nothing of it behind.
    pub async fn clean_up(&self) {
        self.vessel.clear().await;
    }
}

impl Drop for Replica {
    /// Only signals: whoever needs it gone awaits [`Replica::stop`].
    fn drop(&mut self) {
        if !self.has_ended() {
            self.vessel.abandon();
        }
    }
}

async fn pump(
    stream: impl AsyncRead + Unpin,
    replica: String,
    revision: u64,
    logs: Arc<LogBook>,
    lines: Arc<Mutex<VecDeque<String>>>,
) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line that never ends is taken in pieces.
        let mut piece = tokio::io::AsyncReadExt::take(&mut reader, 64 * 1024);
        match piece.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line)
            .trim_end_matches(['\n', '\r'])
            .to_owned();
        {
            let mut kept = lines.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == LINES_KEPT {
                kept.pop_front();
            }
            kept.push_back(text.clone());
        }
        logs.write(Record {
            at: jiff::Timestamp::now(),
            revision,
            replica: replica.clone(),
            text,
        });
    }
}

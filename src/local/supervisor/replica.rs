//! One process of an app: started, listened to, ended.
//!
//! A replica leads a process group of its own, has a clean environment and speaks to the platform
//! over its standard input, which `fserve` takes before it runs the app: there it hands over the
//! watch on ports, and says what went wrong before the app ran.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::diagnose::{Ending, Failure, explain, explain_crash};
use super::logs::{LogBook, Record};
use super::spawner::Spawner;
use super::{memory, sweep};
use crate::error::Code;
use crate::sys::port_watch;

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
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Secrets that it reads as files; gone when it is.
    pub secret_files: Option<tempfile::TempDir>,
    pub folder: PathBuf,
    pub declared_port: u16,
    /// Bytes; more than that ends it.
    pub memory_limit: Option<u64>,
}

/// What a starting replica makes known.
#[derive(Debug)]
pub enum Signs {
    /// Whether its ports are watched; otherwise they have to be looked for.
    Watched(bool),
    /// It could not even run the app.
    Failed(Failure),
    Port(port_watch::Event),
}

/// A running process group.
pub struct Replica {
    pub name: String,
    pub revision: u64,
    pub declared_port: u16,
    /// Where it was told to listen.
    pub assigned: SocketAddr,
    pid: i32,
    mark: String,
    ending: watch::Receiver<Option<Ending>>,
    /// Looks after its memory for as long as it is there.
    _guard: Option<AbortOnDropHandle<()>>,
    _secret_files: Option<tempfile::TempDir>,
    memory_limit: Option<u64>,
    /// The memory for which it was killed.
    exceeded: Arc<AtomicU64>,
    /// Taken by whoever waits for it to serve.
    pub(super) signs: Option<mpsc::UnboundedReceiver<Signs>>,
    lines: Arc<Mutex<VecDeque<String>>>,
    output: Option<tokio::task::JoinHandle<()>>,
}

impl Replica {
    /// Starts the process; whether it serves is seen by [`Replica::ready`](super::readiness).
    pub async fn start(
        spawner: &Spawner,
        launch: Launch,
        logs: &Arc<LogBook>,
    ) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            Failure::new(
                Code::AppFailed,
                format!("cannot start `{}`: {error}", launch.program.display()),
            )
        };
        let assigned = free_port().map_err(failed)?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        let mut command = command(&launch, assigned, theirs.into());
        // One pipe for both streams keeps their lines in order.
        let (reader, writer) = io::pipe().map_err(failed)?;
        command
            .stdout(writer.try_clone().map_err(failed)?)
            .stderr(writer);
        let child = spawner.spawn(command).await.map_err(failed)?;
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let output = tokio::spawn(pump(
            Receiver::from_owned_fd(reader.into()).map_err(failed)?,
            launch.name.clone(),
            launch.revision,
            Arc::clone(logs),
            Arc::clone(&lines),
        ));
        let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
        let exceeded = Arc::new(AtomicU64::new(0));
        let limit = launch.memory_limit;
        let guard = limit.map(|limit| memory::guard(pid, limit, Arc::clone(&exceeded)));
        let (sender, signs) = mpsc::unbounded_channel();
        tokio::spawn(listen(ours, launch.declared_port, assigned.port(), sender));
        Ok(Self {
            pid,
            name: launch.name,
            revision: launch.revision,
            declared_port: launch.declared_port,
            assigned,
            mark: launch.mark,
            ending: wait(child, limit, Arc::clone(&exceeded)),
            _guard: guard.map(|guard| AbortOnDropHandle::new(tokio::spawn(guard))),
            _secret_files: launch.secret_files,
            memory_limit: limit,
            exceeded,
            signs: Some(signs),
            lines,
            output: Some(output),
        })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Resolves when the process has ended.
    pub async fn ended(&self) -> Ending {
        let mut ending = self.ending.clone();
        // The waiting thread sends before it drops the sender.
        let ended = ending.wait_for(Option::is_some).await;
        ended
            .ok()
            .and_then(|ending| *ending)
            .unwrap_or(Ending::Signalled(9))
    }

    pub fn has_ended(&self) -> bool {
        self.ending.borrow().is_some()
    }

    /// Looks at its memory now; tells whether it was killed for it.
    pub(super) fn kill_if_over_memory(&self) -> bool {
        self.memory_limit
            .is_some_and(|limit| memory::kill_if_over(self.pid, limit, &self.exceeded))
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

    /// Asks the group to end, waits for `grace`, then kills what is left, wherever it is.
    pub async fn stop(&self, grace: Duration) {
        if !self.has_ended() {
            sweep::signal_group(self.pid, Signal::TERM);
            if tokio::time::timeout(grace, self.ended()).await.is_err() {
                tracing::info!(replica = self.name, "did not end in time; killing it");
            }
        }
        self.clean_up().await;
    }

    /// Kills what the leader left behind.
    pub async fn clean_up(&self) {
        sweep::signal_group(self.pid, Signal::KILL);
        let mark = self.mark.clone();
        let swept = tokio::task::spawn_blocking(move || sweep::kill_marked(&mark)).await;
        if let Ok(count @ 1..) = swept {
            tracing::debug!(replica = self.name, count, "swept processes");
        }
    }
}

impl Drop for Replica {
    /// Only signals: whoever needs the process gone awaits [`Replica::stop`].
    fn drop(&mut self) {
        if !self.has_ended() {
            sweep::signal_group(self.pid, Signal::KILL);
        }
    }
}

/// The process to start, but for where it writes to.
fn command(launch: &Launch, assigned: SocketAddr, channel: OwnedFd) -> Command {
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .env_clear()
        .envs(launch.env.iter().map(|(key, value)| (key, value)))
        .env(sweep::MARK, &launch.mark)
        .env("_FLYTE_ASSIGNED_PORT", assigned.port().to_string())
        .current_dir(&launch.folder)
        .stdin(channel)
        .process_group(0);
    command
}

/// Ports that replicas are led to: below those that the kernel takes for outgoing connections, of
/// which a loaded gateway makes many between here and the moment when the app binds.
const PORTS: std::ops::Range<u16> = 10_000..20_000;

/// A port of loopback that is free now, and that was not given to another replica just before.
fn free_port() -> io::Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let span = u32::from(PORTS.end - PORTS.start);
    // Platforms of several homes begin at places of their own.
    let home = std::process::id().wrapping_mul(7919);
    for _ in 0..span {
        let step = home.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % span;
        let port = PORTS.start + u16::try_from(step).unwrap_or(0);
        if let Ok(socket) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return socket.local_addr();
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

fn wait(
    mut child: Child,
    limit: Option<u64>,
    exceeded: Arc<AtomicU64>,
) -> watch::Receiver<Option<Ending>> {
    let (sender, receiver) = watch::channel(None);
    let wait = move || {
        let ended = child.wait();
        let used = exceeded.load(Ordering::Acquire);
        let ending = match (ended, limit) {
            (Ok(_), Some(limit)) if used > limit => Ending::OutOfMemory { used, limit },
            (Ok(status), _) => match (status.code(), status.signal()) {
                (Some(code), _) => Ending::Exited(code),
                (None, signal) => Ending::Signalled(signal.unwrap_or(9)),
            },
            (Err(_), _) => Ending::Signalled(9),
        };
        // Nobody listens any more when the replica was dropped.
        let _ = sender.send(Some(ending));
    };
    // Without a thread the sender is dropped, which `ended` reads as "killed".
    if let Err(error) = std::thread::Builder::new()
        .name("replica-wait".into())
        .stack_size(64 * 1024)
        .spawn(wait)
    {
        tracing::error!(%error, "no thread to wait for a replica");
    }
    receiver
}

async fn pump(
    stream: Receiver,
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

/// What `fserve` says on the replica's standard input, one JSON object a line.
#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    /// Comes with the descriptor of the watch when it is true.
    Watched(bool),
    Failed {
        code: String,
        message: String,
    },
}

async fn listen(
    stream: std::os::unix::net::UnixStream,
    declared: u16,
    assigned: u16,
    signs: mpsc::UnboundedSender<Signs>,
) {
    if let Err(error) = read_said(stream, declared, assigned, &signs).await {
        tracing::debug!(%error, "a replica's channel ended");
    }
}

async fn read_said(
    stream: std::os::unix::net::UnixStream,
    declared: u16,
    assigned: u16,
    signs: &mpsc::UnboundedSender<Signs>,
) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(stream)?;
    let mut pending = Vec::new();
    let mut watcher = None;
    loop {
        stream.readable().await?;
        let mut buffer = [0; 8192];
        let received = stream.try_io(tokio::io::Interest::READABLE, || {
            crate::sys::recv_fd(stream.as_fd(), &mut buffer)
        });
        let (count, descriptor) = match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            other => other?,
        };
        if count == 0 {
            return Ok(());
        }
        watcher = descriptor.or(watcher);
        pending.extend_from_slice(&buffer[..count]);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            match serde_json::from_slice(&line)? {
                Said::Watched(true) if watcher.is_some() => {
                    if let Some(listener) = watcher.take() {
                        tokio::spawn(forward_ports(listener, declared, assigned, signs.clone()));
                    }
                    let _ = signs.send(Signs::Watched(true));
                }
                Said::Watched(_) => {
                    let _ = signs.send(Signs::Watched(false));
                }
                Said::Failed { code, message } => {
                    let code = Code::ALL
                        .iter()
                        .copied()
                        .find(|known| known.as_str() == code)
                        .unwrap_or(Code::AppFailed);
                    let _ = signs.send(Signs::Failed(Failure::new(code, message)));
                }
            }
        }
    }
}

async fn forward_ports(
    listener: OwnedFd,
    declared: u16,
    assigned: u16,
    signs: mpsc::UnboundedSender<Signs>,
) {
    let (sender, mut events) = mpsc::unbounded_channel();
    let serve = port_watch::serve(listener, port_watch::Rewrite { declared, assigned }, sender);
    let forward = async {
        while let Some(event) = events.recv().await {
            // The replica was dropped, but its binds must still be answered until it is dead.
            let _ = signs.send(Signs::Port(event));
        }
    };
    tokio::join!(serve, forward);
}

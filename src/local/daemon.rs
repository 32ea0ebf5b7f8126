//! The platform's process: one for each home, started on demand, ended on request.

mod socket;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, flock};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use socket::OwnSocket;

use super::api::{Api, Door, Signer};
use super::authority::Authority;
use super::console::Console;
use super::gateway::{self, NameListener, Names};
use super::platform::{Platform, Refused};
use super::prune::{self, Clock, Pruner};
use super::store::{self, Store};
use super::supervisor::container::{Containers, Logins};
use super::supervisor::launch::{Environments, Setting};
use super::supervisor::{secrets, sweep};
use crate::config::{Home, Upkeep};
use crate::error::{Code, Diagnostic, with_causes};
use crate::secrets::Vault;
use crate::{crash, files, sys, tls};

/// Where the console is looked for first; the next free port is taken when it is not free.
const CONSOLE_PORT: u16 = 32_100;

/// The same for the port at which all apps answer by name.
const NAMES_PORT: u16 = 32_080;

/// When unused things are looked for first: not while apps are brought back, nor in the first serve
/// call of whoever started the platform.
const TIDIED_FIRST: Duration = Duration::from_secs(60);

/// How often after that.
const TIDIED_EVERY: Duration = Duration::from_secs(6 * 3600);

/// How often the log is looked at: it may grow by a megabyte a second while something goes wrong.
const LOG_LOOKED_AT_EVERY: Duration = Duration::from_secs(10);

/// How often memory is given back that is not needed any more.
const MEMORY_RETURNED_EVERY: Duration = Duration::from_secs(60);

/// How long the lock may be held by a client that only looks whether it is free.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Ports tried before any will do.
const PORT_TRIES: u16 = 20;

/// Why the platform did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another platform runs for `{}`", home.display())]
    Running { home: PathBuf },
    #[error("cannot use `{}`", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Files(#[from] files::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Restore(#[from] Refused),
    #[error(transparent)]
    Gateway(#[from] gateway::Error),
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Running { .. } | Self::Io { .. } | Self::Files(_) => Code::LocalStart,
            Self::Store(error) => error.code(),
            Self::Gateway(error) => error.code(),
            Self::Restore(_) => Code::LocalStore,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Running { .. } => vec!["`flyte local status` shows it".into()],
            Self::Files(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::Gateway(error) => error.hints(),
            Self::Io { path, source } => files::advice(path, source).into_iter().collect(),
            Self::Restore(_) => Vec::new(),
        }
    }
}

/// What the platform is started with.
pub struct Options {
    pub home: Home,
    /// Tells builds of the SDK apart.
    pub build: String,
    pub environments: Arc<dyn Environments>,
    /// For fetching private images.
    pub logins: Arc<dyn Logins>,
    /// The command that runs this build's `fserve`.
    pub fserve: Vec<String>,
    /// What is removed by itself.
    pub upkeep: Upkeep,
}

fn containers(
    home: &Home,
    mark: &str,
    names_port: u16,
    logins: Arc<dyn Logins>,
) -> Arc<Containers> {
    Arc::new(Containers::new(home, mark, names_port).with_logins(logins))
}

/// Runs the platform until it is told to end by a signal or over its socket.
pub async fn run(options: Options) -> Result<(), Error> {
    // The client that asks health paths is not made without one, though it never speaks TLS.
    tls::install();
    let home = options.home;
    let started = SystemTime::now();
    let lock = claim(&home)?;
    crash::point("start.locked");
    let mark = mark(&home);
    let swept = sweep::kill_marked(&mark);
    secrets::sweep(&mark);
    Vault::at(home.secrets()).tidy();
    if swept > 0 {
        tracing::warn!(swept, "ended processes that an earlier platform left");
    }
    let store = Store::open(&home.database())?;
    crash::point("start.opened");
    prune::set_aside_left_behind(&home, &store)?;
    let io = |path: PathBuf| move |source| Error::Io { path, source };
    let names = Arc::new(Names::default());
    let authority = Arc::new(Authority::at(home.tls()));
    let by_name = name_listener(&home, &names, &authority).await?;
    let door = Arc::new(Door::default());
    let containers = containers(&home, &mark, by_name.port(), options.logins);
    containers.sweep().await;
    let setting = Setting {
        home: home.clone(),
        mark: mark.clone(),
        environments: options.environments,
        fserve: options.fserve,
        listening: Arc::clone(&door.shown),
        names_port: known_names(by_name.port()),
        containers,
    };
    let platform = Platform::new(setting, store, names, by_name.port(), authority);
    let platform = Arc::new(platform.map_err(io(home.path().into()))?);
    let console = console_listener(&home)
        .await
        .map_err(io("console port".into()))?;
    let pages = Console::new(Arc::clone(&platform)).map_err(io("/dev/urandom".into()))?;
    let port = console
        .local_addr()
        .map_err(io("console port".into()))?
        .port();
    super::gateway::name_console(&format!("http://localhost:{port}"));
    let pruner = platform.pruner(options.upkeep);
    let _tidying = AbortOnDropHandle::new(tokio::spawn(keep_tidy(pruner.clone(), started)));
    let _turning = AbortOnDropHandle::new(tokio::spawn(keep_log_short(home.clone())));
    let _returning =
        AbortOnDropHandle::new(tokio::spawn(keep_memory_short(Arc::clone(&pruner.store))));
    let api = Api {
        pruner,
        platform: Arc::clone(&platform),
        home: home.clone(),
        build: options.build,
        console_url: format!("http://localhost:{port}"),
        names_port: by_name.port(),
        door,
        signer: Arc::new(Signer::new().map_err(io("/dev/urandom".into()))?),
        stop: Arc::new(Notify::new()),
    };
    // Before the apps, some of which ask for the way back.
    api.reopen().await;
    platform.restore().await?;
    crash::point("start.restored");
    let socket = OwnSocket::bind(&home.socket())?;
    crash::point("start.listening");
    tracing::info!(pid = std::process::id(), home = %home.path().display(), "platform is up");
    let door = Arc::clone(&api.door);
    serve(api, socket, pages, console).await;
    door.close();
    by_name.close().await;
    platform.shutdown().await;
    crash::point("end.shut");
    // What escaped its group, and the socket: a client that finds it expects an answer.
    let _ = tokio::task::spawn_blocking(move || sweep::kill_marked(&mark)).await;
    let _ = std::fs::remove_file(home.socket());
    tracing::info!("platform has ended");
    // Whoever waits for the lock waits for the process: only its end gives the lock back.
    std::mem::forget(lock);
    Ok(())
}

/// Makes this process the platform of the home.
fn claim(home: &Home) -> Result<File, Error> {
    // It holds what seals secrets, and apps of the same user run beside it.
    sys::conceal().map_err(|source| Error::Io {
        path: "/proc/self".into(),
        source,
    })?;
    let open_files = sys::open_files::raise();
    tracing::debug!(?open_files, "may have this many files open");
    files::private_folder(home.path())?;
    files::private_folder(&home.run())?;
    if let Some(folder) = home.socket().parent() {
        files::own_folder(folder)?;
    }
    single_instance(home)
}

/// Begins a new log as soon as the old one is full.
async fn keep_log_short(home: Home) {
    loop {
        tokio::time::sleep(LOG_LOOKED_AT_EVERY).await;
        if let Err(error) = prune::turn_log(&home.platform_log()) {
            tracing::warn!(%error, "cannot begin a new log");
        }
    }
}

/// Gives back what a rollout, a listing or an upload took for a moment.
async fn keep_memory_short(store: Arc<Store>) {
    loop {
        tokio::time::sleep(MEMORY_RETURNED_EVERY).await;
        let store = Arc::clone(&store);
        let give_back = move || {
            if let Err(error) = store.return_memory() {
                tracing::warn!(error = %with_causes(&error), "the database keeps its memory");
            }
            sys::return_free_memory();
        };
        // Not on a thread that traffic goes through.
        let _ = tokio::task::spawn_blocking(give_back).await;
    }
}

/// Removes what an earlier platform left, and what nobody uses: early on, then at long intervals.
async fn keep_tidy(pruner: Pruner, started: SystemTime) {
    let mut clock = Clock::now();
    let mut next = tokio::time::Instant::now() + TIDIED_FIRST;
    let home = pruner.home.clone();
    let left = move || prune::remove_left_behind(&home, started);
    if let Err(error) = tokio::task::spawn_blocking(left).await {
        tracing::error!(%error, "cannot remove what was left behind");
    }
    loop {
        tokio::time::sleep_until(next).await;
        if clock.jumped() {
            tracing::warn!(
                "the clock was set, or the machine slept; what is unused is looked for a little later"
            );
            next += prune::GRACE;
            continue;
        }
        next += TIDIED_EVERY;
        let pruner = pruner.clone();
        let tidy = move || pruner.run(prune::Order::default());
        match tokio::task::spawn_blocking(tidy).await {
            Ok(Ok(report)) => {
                let (removed, bytes) = (report.removed.len(), report.freed_bytes);
                tracing::info!(removed, bytes, kept = report.kept_bytes, "tidied up");
            }
            Ok(Err(error)) => tracing::error!(error = %with_causes(&error), "cannot tidy up"),
            Err(error) => tracing::error!(%error, "cannot tidy up"),
        }
    }
}

async fn serve(api: Api, socket: OwnSocket, pages: Console, console: TcpListener) {
    let stop = Arc::clone(&api.stop);
    let services = axum::serve(socket, api.router());
    let pages = axum::serve(console, pages.router());
    tokio::select! {
        result = services => report("services", result),
        result = pages => report("console", result),
        () = asked_to_end(&stop) => {}
    }
}

fn report(what: &str, result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(what, error = %with_causes(&error), "stopped listening");
    }
}

async fn asked_to_end(stop: &Notify) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return stop.notified().await;
    };
    tokio::select! {
        () = stop.notified() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // The answer to `/local/stop` is still on its way.
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// What marks the processes of this home's apps.
fn mark(home: &Home) -> String {
    let hash = blake3::hash(home.path().as_os_str().as_encoded_bytes()).to_hex();
    hash[..16].to_owned()
}

/// Held for as long as the process lives; the kernel gives it back whatever ends it.
fn single_instance(home: &Home) -> Result<File, Error> {
    let path = home.platform_lock();
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| Error::Io { path, source })?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() >= deadline {
            return Err(Error::Running {
                home: home.path().to_path_buf(),
            });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // For people, and for clients that cannot ask it; a full disk costs them the number only.
    let _ = file.set_len(0);
    let _ = (&file).write_all(format!("{}\n", std::process::id()).as_bytes());
    Ok(file)
}

/// The console's listener, at the port it had before: people keep the address of a page.
async fn console_listener(home: &Home) -> std::io::Result<TcpListener> {
    let note = home.run().join("console.port");
    let mut failure = None;
    for port in candidates(&note, CONSOLE_PORT) {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => {
                remember(&note, listener.local_addr()?.port());
                return Ok(listener);
            }
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| std::io::Error::other("no port is free")))
}

/// Notes a port down for the next start. Without the note it is another one then, which is no reason
/// not to start now.
fn remember(note: &Path, port: u16) {
    if let Err(error) = files::write_cache(note, port.to_string().as_bytes()) {
        tracing::warn!(error = %with_causes(&error), "a port is not noted down");
    }
}

/// The listener for all apps by name, at the port it had before.
async fn name_listener(
    home: &Home,
    names: &Arc<Names>,
    authority: &Arc<Authority>,
) -> Result<NameListener, Error> {
    let note = home.run().join("names.port");
    for port in candidates(&note, NAMES_PORT) {
        let bound = NameListener::bind(Some(port), Arc::clone(names), authority).await;
        if let Ok(listener) = bound {
            remember(&note, listener.port());
            return Ok(listener);
        }
    }
    Ok(NameListener::bind(None, Arc::clone(names), authority).await?)
}

/// `port`, as soon as this machine's resolver is seen to lead names below `localhost` to itself. Some
/// leave that to browsers, and asking may take its time.
fn known_names(port: u16) -> Arc<AtomicU16> {
    let known = Arc::new(AtomicU16::new(0));
    let found = Arc::clone(&known);
    tokio::spawn(async move {
        let addresses = tokio::net::lookup_host(("flyte.localhost", port)).await;
        if addresses.is_ok_and(|mut all| all.all(|address| address.ip().is_loopback())) {
            found.store(port, Ordering::Relaxed);
        }
    });
    known
}

/// Ports to try: the one that was noted down, those from `first` on, any.
fn candidates(note: &Path, first: u16) -> impl Iterator<Item = u16> + use<> {
    let before = std::fs::read_to_string(note)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    before
        .into_iter()
        .chain(first..first + PORT_TRIES)
        .chain([0])
}

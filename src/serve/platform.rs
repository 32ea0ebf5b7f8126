//! Reaching the control plane; for the local one, starting it when it does not run.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::auth::DockerCredentials;
use connectrpc::client::{ClientTransport, full_body};
use futures::future::BoxFuture;
use http::{Method, Request};
use http_body_util::BodyExt;
use rustix::fs::{FlockOperation, flock};

use crate::auth::Credentials;
use crate::client::{Client, Transport};
use crate::config::{Endpoint, Home, Settings, Upkeep};
use crate::crash;
use crate::error::{Code, Diagnostic};
use crate::files::{self, FileLock};
use crate::image::env::Toolchain;
use crate::image::{self, Released};
use crate::local::daemon;
use crate::local::prune::{self, Gate, Order, Pruner, Report};
use crate::local::store::Store;
use crate::local::supervisor::container::Logins;
use crate::local::supervisor::diagnose::Failure;
use crate::local::supervisor::launch::{self, Environment, Environments};
use crate::net::{self, Http};

/// How long a platform may take to answer after it was started.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long one may take to end after it was told to.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// How long one that runs may take to say who it is.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing is said while something is waited for.
const SILENCE: Duration = Duration::from_secs(2);
/// How often a lock is tried.
const LOCK_TRIED_EVERY: Duration = Duration::from_millis(20);
/// How often a starting platform's socket is tried.
const KNOCK: Duration = Duration::from_millis(2);

/// The command that runs the platform's process.
#[derive(Clone, Debug)]
pub struct Launcher {
    pub program: PathBuf,
    pub args: Vec<String>,
    /// Tells builds of the SDK apart: a platform of another build is replaced.
    pub build: String,
}

/// Why the control plane could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use `{}`", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the local platform ended as it started ({status})")]
    Ended { status: String, log: Vec<String> },
    #[error("the local platform did not answer within {seconds} s")]
    Silent { seconds: u64, log: Vec<String> },
    #[error("the local platform{} does not answer within {seconds} s", process(*.pid))]
    Stuck { pid: Option<u32>, seconds: u64 },
    #[error("another command{} has been starting the local platform for {seconds} s", process(*.pid))]
    Busy { pid: Option<u32>, seconds: u64 },
    #[error("endpoint `{endpoint}` cannot be used: {reason}")]
    Endpoint {
        endpoint: String,
        reason: &'static str,
    },
    #[error("the local platform does not run")]
    NotRunning,
    #[error("the port for other clients did not open: {0}")]
    Listen(String),
    #[error("what is unused was not removed: {0}")]
    Prune(String),
    #[error("the local platform broke off what it was asked to do")]
    BrokenOff(#[source] connectrpc::ConnectError),
    #[error(transparent)]
    Net(#[from] net::Error),
    #[error(transparent)]
    Files(#[from] files::Error),
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Io { .. }
            | Self::Ended { .. }
            | Self::Silent { .. }
            | Self::Busy { .. }
            | Self::Listen(_) => Code::LocalStart,
            Self::Prune(_) => Code::LocalStore,
            Self::NotRunning | Self::Stuck { .. } | Self::BrokenOff(_) => Code::ClientUnavailable,
            Self::Endpoint { .. } => Code::ConfigInvalid,
            Self::Net(error) => error.code(),
            Self::Files(error) => error.code(),
            Self::Daemon(error) => error.code(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Ended { .. } | Self::Silent { .. } => {
                vec!["`flyte local status` tells where its log is".into()]
            }
            Self::NotRunning => vec!["`flyte local start` starts it".into()],
            Self::BrokenOff(_) => vec![
                "`flyte local status` tells whether it still runs, `flyte local logs` what it wrote"
                    .into(),
            ],
            Self::Stuck { pid: Some(pid), .. } => vec![format!(
                "`kill -CONT {pid}` lets it go on, should it have been stopped; `kill -9 {pid}` ends \
                 it, and its apps come back with the next command"
            )],
            Self::Busy { pid: Some(pid), .. } => vec![format!(
                "`kill -CONT {pid}` lets that command go on, should it have been stopped; \
                 `kill {pid}` ends it"
            )],
            Self::Io { path, source } => files::advice(path, source).into_iter().collect(),
            Self::Net(error) => error.hints(),
            Self::Files(error) => error.hints(),
            Self::Daemon(error) => error.hints(),
            Self::Listen(_) => {
                vec!["another program may have that port; `--listen` takes any other".into()]
            }
            Self::Stuck { pid: None, .. }
            | Self::Busy { pid: None, .. }
            | Self::Endpoint { .. }
            | Self::Prune(_) => Vec::new(),
        }
    }

    fn log_tail(&self) -> Vec<String> {
        match self {
            Self::Ended { log, .. } | Self::Silent { log, .. } => log.clone(),
            Self::Io { .. }
            | Self::Endpoint { .. }
            | Self::NotRunning
            | Self::BrokenOff(_)
            | Self::Stuck { .. }
            | Self::Busy { .. }
            | Self::Net(_)
            | Self::Listen(_)
            | Self::Prune(_)
            | Self::Files(_)
            | Self::Daemon(_) => Vec::new(),
        }
    }
}

/// What to do when a platform of another build of the SDK runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherBuild {
    /// Ask it: the protocol is the same.
    Use,
    /// End it and start our own; its apps come back at their endpoints. What is served must be
    /// run by the build that it was made with.
    Replace,
}

/// A client of the configured control plane, started first where that is needed.
pub async fn connect(
    settings: &Settings,
    launcher: &Launcher,
    other: OtherBuild,
    note: &(dyn Fn(&str) + Send + Sync),
) -> Result<Client, Error> {
    match &settings.endpoint {
        Endpoint::Local => connect_local(&settings.home, launcher, other, note).await,
        Endpoint::Remote(uri) => {
            for warning in settings.warnings() {
                note(&warning);
            }
            connect_remote(settings, uri)
        }
    }
}

/// A client of the configured control plane as it is: nothing is started.
pub async fn reach(settings: &Settings) -> Result<Client, Error> {
    match &settings.endpoint {
        Endpoint::Local => running(&settings.home).await?.ok_or(Error::NotRunning),
        Endpoint::Remote(uri) => connect_remote(settings, uri),
    }
}

fn connect_remote(settings: &Settings, uri: &str) -> Result<Client, Error> {
    let base = uri.parse().map_err(|_| Error::Endpoint {
        endpoint: uri.to_owned(),
        reason: "it is not a URL",
    })?;
    let http = Http::new(&settings.trust, settings.proxy.as_deref())?;
    let credentials = Credentials::new(uri, &settings.login, &http, &settings.home);
    let transport = Transport::http(base, http);
    Ok(Client::remote(transport, credentials, settings.retries))
}

/// A client of the platform that runs for `home`, if one does.
pub async fn running(home: &Home) -> Result<Option<Client>, Error> {
    Ok(found(home).await?.map(|(client, _)| client))
}

/// The platform that runs for `home`, and what it says of itself.
async fn found(home: &Home) -> Result<Option<(Client, About)>, Error> {
    let Some(client) = local(home).filter(|_| home.socket().exists()) else {
        return Ok(None);
    };
    match request(&client, Method::GET, "/local/about").await {
        Answer::Body(body) => Ok(serde_json::from_slice(&body)
            .ok()
            .map(|about| (client, about))),
        Answer::Nothing => Ok(None),
        Answer::Late => Err(stuck(home)),
    }
}

fn stuck(home: &Home) -> Error {
    Error::Stuck {
        pid: noted_pid(&home.platform_lock()),
        seconds: ANSWER_PATIENCE.as_secs(),
    }
}

/// The process that noted itself down as it took a lock.
fn noted_pid(lock: &Path) -> Option<u32> {
    std::fs::read_to_string(lock).ok()?.trim().parse().ok()
}

/// ` (process 7)`, where it is known.
fn process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})"))
        .unwrap_or_default()
}

/// A client of whoever listens on the home's socket; `None` where it lies in no folder of this user.
/// A platform closes that folder to others, so the socket in it is the user's own.
fn local(home: &Home) -> Option<Client> {
    let socket = home.socket();
    let is_own = socket.parent().is_some_and(files::is_own_folder);
    is_own.then(|| Client::new(Transport::unix(&socket)))
}

async fn connect_local(
    home: &Home,
    launcher: &Launcher,
    other: OtherBuild,
    note: &(dyn Fn(&str) + Send + Sync),
) -> Result<Client, Error> {
    if let Some((client, about)) = found(home).await?
        && (about.build == launcher.build || other == OtherBuild::Use)
    {
        return Ok(client);
    }
    start(home, launcher, note).await?;
    Ok(Client::new(Transport::unix(&home.socket())))
}

/// Starts the platform unless one of this very build runs.
async fn start(
    home: &Home,
    launcher: &Launcher,
    note: &(dyn Fn(&str) + Send + Sync),
) -> Result<(), Error> {
    // Several clients may find no platform at once; one starts it, the others wait for it here.
    let _starting = start_lock(home, note).await?;
    if let Some((client, about)) = settled(home, note).await? {
        if about.build == launcher.build {
            return Ok(());
        }
        note(
            "replacing the local platform, which another build of flyte-rs started; its apps restart",
        );
        stop_platform(home, &client).await?;
    }
    let mut child = spawn(home, launcher)?;
    crash::point("start.spawned");
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        // One that brings back many apps may be slow at first.
        if let Ok(Some(_)) = found(home).await {
            return Ok(());
        }
        // Where another one is starting, for somebody who was broken off, it gave way to that.
        if let Ok(Some(status)) = child.try_wait()
            && !is_locked(home)
        {
            return Err(Error::Ended {
                status: status.to_string(),
                log: log_tail(home),
            });
        }
        if Instant::now() >= deadline {
            return Err(Error::Silent {
                seconds: START_PATIENCE.as_secs(),
                log: log_tail(home),
            });
        }
        tokio::time::sleep(KNOCK).await;
    }
}

/// The platform that runs, once that is settled: one that is starting answers soon, and one that is
/// about to end is waited for.
async fn settled(
    home: &Home,
    note: &(dyn Fn(&str) + Send + Sync),
) -> Result<Option<(Client, About)>, Error> {
    let began = Instant::now();
    let mut told = false;
    loop {
        if let Some(found) = found(home).await? {
            return Ok(Some(found));
        }
        if !is_locked(home) {
            return Ok(None);
        }
        let waited = began.elapsed();
        let pid = noted_pid(&home.platform_lock());
        if waited >= STOP_PATIENCE {
            return Err(Error::Stuck {
                pid,
                seconds: STOP_PATIENCE.as_secs(),
            });
        }
        if waited >= SILENCE && !std::mem::replace(&mut told, true) {
            note(&format!(
                "waiting for a local platform{} that ends",
                process(pid)
            ));
        }
        tokio::time::sleep(LOCK_TRIED_EVERY).await;
    }
}

/// Held while one starts the platform, or works on what belongs to it.
async fn start_lock(home: &Home, note: &(dyn Fn(&str) + Send + Sync)) -> Result<FileLock, Error> {
    let path = home.start_lock();
    files::private_folder(home.path())?;
    files::private_folder(&home.run())?;
    // What its holder may take, and some.
    let patience = START_PATIENCE + STOP_PATIENCE + ANSWER_PATIENCE;
    let began = Instant::now();
    let mut told = false;
    loop {
        if let Some(lock) = files::try_lock_exclusive(&path)? {
            // For the message below only.
            let _ = std::fs::write(&path, std::process::id().to_string());
            return Ok(lock);
        }
        let waited = began.elapsed();
        let pid = noted_pid(&path);
        if waited >= patience {
            return Err(Error::Busy {
                pid,
                seconds: patience.as_secs(),
            });
        }
        if waited >= SILENCE && !std::mem::replace(&mut told, true) {
            note(&format!(
                "waiting for another command{} that starts the local platform",
                process(pid)
            ));
        }
        tokio::time::sleep(LOCK_TRIED_EVERY).await;
    }
}

/// Both locks, where no platform runs: nobody starts one while they are held.
struct Alone {
    _starting: FileLock,
    _platform: FileLock,
}

impl Alone {
    async fn with(starting: FileLock, home: &Home) -> Result<Self, Error> {
        let deadline = Instant::now() + STOP_PATIENCE;
        loop {
            if let Some(platform) = files::try_lock_exclusive(&home.platform_lock())? {
                return Ok(Self {
                    _starting: starting,
                    _platform: platform,
                });
            }
            if Instant::now() >= deadline {
                return Err(stuck(home));
            }
            tokio::time::sleep(LOCK_TRIED_EVERY).await;
        }
    }
}

fn spawn(home: &Home, launcher: &Launcher) -> Result<Child, Error> {
    let path = home.platform_log();
    let io = |source| Error::Io {
        path: path.clone(),
        source,
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    let log = || {
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
    };
    let mut command = Command::new(&launcher.program);
    command
        .args(&launcher.args)
        .env("FLYTE_HOME", home.path())
        .current_dir(home.path())
        .stdin(Stdio::null())
        .stdout(log().map_err(io)?)
        .stderr(log().map_err(io)?);
    // It must outlive the caller's terminal and not hear its Ctrl-C.
    crate::sys::detach_command(&mut command);
    command.spawn().map_err(|source| Error::Io {
        path: launcher.program.clone(),
        source,
    })
}

fn log_tail(home: &Home) -> Vec<String> {
    let text = std::fs::read_to_string(home.platform_log()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let skip = lines.len().saturating_sub(15);
    lines[skip..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

/// Starts the platform if it does not run.
pub async fn ensure(
    home: &Home,
    launcher: &Launcher,
    note: &(dyn Fn(&str) + Send + Sync),
) -> Result<Client, Error> {
    connect_local(home, launcher, OtherBuild::Replace, note).await
}

/// Lets a running platform serve other clients at `address`, or no longer; tells where it does.
pub async fn listen(client: &Client, at: Option<SocketAddr>) -> Result<Option<String>, Error> {
    let body = serde_json::json!({"address": at}).to_string();
    let told = post(client, "/local/listen", body.into_bytes()).await;
    let told = told?.map_err(Error::Listen)?;
    let told: serde_json::Value =
        serde_json::from_slice(&told).map_err(|error| Error::Listen(error.to_string()))?;
    Ok(told["listen"].as_str().map(str::to_owned))
}

/// Removes what nobody uses: by the platform, or in its place while it does not run.
pub async fn prune(
    toolchain: Toolchain,
    settings: &Settings,
    order: Order,
) -> Result<Report, Error> {
    let home = &settings.home;
    if let Some(client) = running(home).await? {
        let body = serde_json::to_vec(&order).map_err(|error| Error::Prune(error.to_string()))?;
        let told = post(&client, "/local/prune", body).await?;
        let report =
            told.and_then(|told| serde_json::from_slice(&told).map_err(|error| error.to_string()));
        return report.map_err(Error::Prune);
    }
    let starting = start_lock(home, &|_| {}).await?;
    let _alone = Alone::with(starting, home).await?;
    let pruner = Pruner {
        home: home.clone(),
        store: Arc::new(Store::open(&home.database()).map_err(daemon::Error::from)?),
        environments: Arc::new(BuiltEnvironments { toolchain }),
        upkeep: settings.upkeep,
        gate: Gate::default(),
    };
    let done = tokio::task::spawn_blocking(move || pruner.run(order)).await;
    let done = done.map_err(|error| Error::Prune(error.to_string()))?;
    Ok(done.map_err(daemon::Error::from)?)
}

/// What the platform answers, or why it refuses.
async fn post(
    client: &Client,
    path: &str,
    body: Vec<u8>,
) -> Result<Result<bytes::Bytes, String>, Error> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(address(client, path))
        .body(full_body(bytes::Bytes::from(body)));
    let request = match request {
        Ok(request) => request,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let answer = client.transport().send(request).await;
    let answer = answer.map_err(Error::BrokenOff)?;
    let done = answer.status().is_success();
    let body = answer.into_body().collect().await;
    let body = body.map_err(Error::BrokenOff)?.to_bytes();
    if done {
        return Ok(Ok(body));
    }
    let told: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let told = told["message"].as_str().unwrap_or("it was refused");
    Ok(Err(told.to_owned()))
}

/// Ends the platform and waits until it is gone; `false` when none runs. A port that was opened
/// for other clients stays closed when it starts again.
pub async fn stop(home: &Home, note: &(dyn Fn(&str) + Send + Sync)) -> Result<bool, Error> {
    let _ = std::fs::remove_file(home.listen_note());
    let ends = is_locked(home);
    match settled(home, note).await? {
        Some((client, _)) => stop_platform(home, &client).await.map(|()| true),
        None => Ok(ends),
    }
}

async fn stop_platform(home: &Home, client: &Client) -> Result<(), Error> {
    match request(client, Method::POST, "/local/stop").await {
        Answer::Late => return Err(stuck(home)),
        // It may have ended before it answered.
        Answer::Body(_) | Answer::Nothing => {}
    }
    let deadline = Instant::now() + STOP_PATIENCE;
    // The lock is given back when the process is gone, which is what counts.
    while is_locked(home) {
        if Instant::now() >= deadline {
            return Err(Error::Silent {
                seconds: STOP_PATIENCE.as_secs(),
                log: log_tail(home),
            });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn is_locked(home: &Home) -> bool {
    OpenOptions::new()
        .write(true)
        .open(home.platform_lock())
        .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_err())
}

/// What the platform says of itself and its apps, as JSON; `None` when it does not run.
pub async fn status(home: &Home) -> Result<Option<serde_json::Value>, Error> {
    let Some(client) = local(home) else {
        return Ok(None);
    };
    match request(&client, Method::GET, "/local/status").await {
        Answer::Body(body) => Ok(serde_json::from_slice(&body).ok()),
        Answer::Nothing => Ok(None),
        Answer::Late => Err(stuck(home)),
    }
}

/// What there is to know of a control plane beside what it answers.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// What the addresses of apps' pages begin with; empty when the platform does not tell.
    pub console: String,
    /// The home of the local platform that this is. Environments are built there, by whoever
    /// serves: it alone has the files that an image is declared with.
    pub home: Option<Home>,
    /// The platform's build, where it is another one than `build`.
    pub other_build: bool,
}

/// What a local platform says of itself. One of an older build may say less, and is no less there.
#[derive(serde::Deserialize)]
struct About {
    build: String,
    #[serde(default)]
    console: String,
    #[serde(default)]
    home: PathBuf,
    /// Another one for each process.
    #[serde(default)]
    instance: String,
}

/// Finds out what stands behind a client. A cluster is not asked: an endpoint on another machine
/// has no files here.
pub async fn place(settings: &Settings, client: &Client, build: &str) -> Place {
    match &settings.endpoint {
        Endpoint::Local => {
            let about = about(client).await;
            Place {
                other_build: about.as_ref().is_some_and(|about| about.build != build),
                console: about.map(|about| about.console).unwrap_or_default(),
                home: Some(settings.home.clone()),
            }
        }
        Endpoint::Remote(uri) => {
            let neighbour = if is_loopback(uri) {
                neighbour(client, build).await
            } else {
                None
            };
            neighbour.unwrap_or_else(|| Place {
                console: uri.clone(),
                ..Place::default()
            })
        }
    }
}

/// The local platform of this machine that is reached over TCP, if it is one. It names a folder, and
/// the same process has to answer on the socket in it, which only its user can ask.
async fn neighbour(client: &Client, build: &str) -> Option<Place> {
    let claimed = about(client).await?;
    let home = Home::at(claimed.home);
    let there = about(&local(&home)?).await?;
    (there.instance == claimed.instance).then(|| Place {
        other_build: there.build != build,
        console: there.console,
        home: Some(home),
    })
}

fn is_loopback(uri: &str) -> bool {
    let host = uri.parse::<http::Uri>().ok();
    let host = host.as_ref().and_then(http::Uri::host).unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

async fn about(client: &Client) -> Option<About> {
    match request(client, Method::GET, "/local/about").await {
        Answer::Body(body) => serde_json::from_slice(&body).ok(),
        Answer::Nothing | Answer::Late => None,
    }
}

/// The address of a path beside the calls, with what stands before all paths.
pub(super) fn address(client: &Client, path: &str) -> String {
    let base = client.transport().base_uri().to_string();
    format!("{}{path}", base.trim_end_matches('/'))
}

/// How a platform answered.
enum Answer {
    Body(bytes::Bytes),
    /// Nobody listens, or it was refused.
    Nothing,
    /// Somebody listens and says nothing.
    Late,
}

async fn request(client: &Client, method: Method, path: &str) -> Answer {
    match tokio::time::timeout(ANSWER_PATIENCE, asked(client, method, path)).await {
        Ok(Some(body)) => Answer::Body(body),
        Ok(None) => Answer::Nothing,
        Err(_) => Answer::Late,
    }
}

async fn asked(client: &Client, method: Method, path: &str) -> Option<bytes::Bytes> {
    let request = Request::builder()
        .method(method)
        .uri(address(client, path))
        .body(full_body(bytes::Bytes::new()))
        .ok()?;
    let response = client.transport().send(request).await.ok()?;
    if !response.status().is_success() {
        return None;
    }
    Some(response.into_body().collect().await.ok()?.to_bytes())
}

/// Ends the platform and removes everything that it keeps, and the environments. Nobody starts one
/// meanwhile.
pub async fn reset(home: &Home, note: &(dyn Fn(&str) + Send + Sync)) -> Result<(), Error> {
    let starting = start_lock(home, note).await?;
    stop(home, note).await?;
    let _alone = Alone::with(starting, home).await?;
    let home = home.clone();
    let emptied = tokio::task::spawn_blocking(move || empty(&home)).await;
    emptied.unwrap_or_else(|error| Err(Error::Prune(error.to_string())))
}

/// The database first: an app without its files would be brought back and fail, while files without
/// their app are removed as the platform starts.
fn empty(home: &Home) -> Result<(), Error> {
    let gone = |path: &Path| {
        files::set_aside(path, &home.trash()).map_err(|source| Error::Io {
            path: path.to_path_buf(),
            source,
        })
    };
    for path in beginning_with(&home.database()) {
        gone(&path)?;
        crash::point("reset.database");
    }
    for path in [
        home.apps(),
        home.uploads(),
        home.cache(),
        home.raw_data(),
        home.envs(),
        home.path().join("images"),
        home.tmp(),
    ] {
        gone(&path)?;
        crash::point("reset.folder");
        // Left by builds that removed folders in another way.
        gone(&path.with_extension("deleted"))?;
    }
    // What resists is out of use all the same.
    prune::empty_trash(home);
    Ok(())
}

/// The file of that name and those whose names begin with it: the log of the database comes after it,
/// for alone it means nothing, and so do those that were set aside.
fn beginning_with(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().unwrap_or_default();
    let folder = path.parent().unwrap_or(path);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = entries
        .filter(|entry| {
            let other = entry.file_name();
            other
                .as_encoded_bytes()
                .starts_with(name.as_encoded_bytes())
        })
        .map(|entry| entry.path())
        .collect();
    all.sort();
    all
}

/// Runs the platform in this process until it is told to end.
pub async fn run(
    toolchain: Toolchain,
    home: Home,
    upkeep: Upkeep,
    launcher: Launcher,
) -> Result<(), Error> {
    // Isolated, so that nothing of an app stands in for the package.
    let fserve = ["-I", "-c", "from flyte._runtime import main; main()"].map(str::to_owned);
    let program = launcher.program.to_string_lossy().into_owned();
    Ok(daemon::run(daemon::Options {
        home,
        build: launcher.build,
        environments: Arc::new(BuiltEnvironments { toolchain }),
        logins: Arc::new(DockerLogins),
        fserve: std::iter::once(program).chain(fserve).collect(),
        upkeep,
    })
    .await?)
}

/// What `docker login` keeps, looked for when it is needed.
struct DockerLogins;

impl Logins for DockerLogins {
    fn login<'a>(
        &'a self,
        image: &'a str,
    ) -> BoxFuture<'a, Result<Option<DockerCredentials>, String>> {
        Box::pin(async move {
            let found = image::make::login_of(image).await;
            found.map_err(|error| crate::error::with_causes(&error))
        })
    }
}

/// What the environment builder made, found by image URI.
struct BuiltEnvironments {
    toolchain: Toolchain,
}

impl BuiltEnvironments {
    fn path(&self, image_uri: &str) -> Option<PathBuf> {
        let home = &self.toolchain.home;
        match Released::read(image_uri) {
            Some(released) => released.locate(home),
            None => image::env::locate(home, image_uri),
        }
    }
}

impl Environments for BuiltEnvironments {
    fn locate(&self, image_uri: &str) -> Result<Option<Environment>, String> {
        let Some(path) = self.path(image_uri) else {
            return if image::env::is_ours(image_uri) {
                Err(format!(
                    "the environment `{image_uri}` is not there any more; serve the app again"
                ))
            } else {
                Ok(None)
            };
        };
        let manifest =
            image::env::manifest(&path).map_err(|error| crate::error::with_causes(&error))?;
        let search = launch::search_path(&path);
        Ok(Some(Environment {
            env: manifest.environment(|name| (name == "PATH").then(|| search.clone())),
            workdir: manifest.workdir,
            files: manifest
                .sources
                .into_iter()
                .map(|source| (path.join(source.stored), source.dst))
                .collect(),
            foreign: Released::read(image_uri).is_some(),
            path,
        }))
    }

    fn prepare<'a>(
        &'a self,
        image_uri: &'a str,
        tell: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let Some(released) = Released::read(image_uri) else {
                return Ok(());
            };
            if released.locate(&self.toolchain.home).is_some() {
                return Ok(());
            }
            tell(&format!(
                "building the environment of `{image_uri}`: Python {} with flyte {} from PyPI",
                released.python, released.version
            ));
            let built = released.ensure(&self.toolchain, &|_| {}).await;
            built.map(drop).map_err(|error| {
                let last = error.log_tail().pop().map(|line| format!(": {line}"));
                let text = crate::error::with_causes(&error);
                Failure::new(error.code(), text + &last.unwrap_or_default())
            })
        })
    }

    fn find(&self, name: &str) -> Option<String> {
        if let Some(released) = Released::read_name(name) {
            return Some(released.uri());
        }
        let uri = format!("{}/{name}", image::env::REGISTRY);
        image::env::locate(&self.toolchain.home, &uri).map(|_| uri)
    }
}

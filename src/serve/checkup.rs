//! Whether this machine, and the cluster in use, have what serving needs.
//!
//! Each check looks at the thing itself (the socket answers, the folder can be written), never at
//! what ought to follow from something else. Nothing is started, installed or changed.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use connectrpc::client::{ClientTransport, full_body};
use tokio::process::Command;
use tokio::time::timeout;

use super::platform::{self, Launcher};
use crate::client;
use crate::config::{Endpoint, Home, Settings};
use crate::engine::{self, Engine};
use crate::error::{Code, Diagnostic, with_causes};
use crate::image::env::Toolchain;
use crate::image::registry::{self, Reference, Registry};
use crate::local::store::Store;
use crate::serve::size;
use crate::sys::port_watch;

/// How long a program or a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Environments of a few apps with large packages.
const COMFORTABLE_BYTES: u64 = 5_000_000_000;
/// Below this not even a small environment fits.
const LEAST_BYTES: u64 = 300_000_000;
/// Signatures of upload addresses and sign-ins stop being believed at about five minutes.
const MOST_SKEW: Duration = Duration::from_secs(240);
/// Worth a word, since it grows.
const SOME_SKEW: Duration = Duration::from_secs(30);
/// Where the platform listens unless the port is taken: its page, and all apps by name.
const PORTS: [u16; 2] = [32_100, 32_080];

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Good,
    /// Not there, and only some need it.
    Absent,
    /// Works, with a restriction or a risk.
    Doubtful,
    /// Serving fails because of it.
    Broken,
}

impl State {
    /// The word of a document.
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Absent => "absent",
            Self::Doubtful => "warning",
            Self::Broken => "broken",
        }
    }
}

/// What was found of one thing.
#[derive(Clone, Debug)]
pub struct Finding {
    pub name: &'static str,
    pub state: State,
    pub detail: String,
    /// What mends it, where something is to be mended.
    pub fix: Option<String>,
}

impl Finding {
    pub fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Good,
            detail: detail.into(),
            fix: None,
        }
    }

    pub fn other(
        name: &'static str,
        state: State,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            name,
            state,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }
}

/// Looks at everything, in the order in which one thing needs the other.
pub async fn look(settings: &Settings, toolchain: &Toolchain, launcher: &Launcher) -> Vec<Finding> {
    let (uv, docker, registries) = tokio::join!(uv(&toolchain.uv), docker(), registries(settings));
    let mut findings = vec![
        python(toolchain),
        uv,
        config(settings),
        home(&settings.home),
        disk(&settings.home),
    ];
    match &settings.endpoint {
        Endpoint::Local => {
            match platform::status(&settings.home).await {
                Ok(status) => {
                    findings.extend(ports(status.is_some()));
                    findings.push(local_platform(status.as_ref(), launcher));
                }
                Err(error) => findings.push(Finding::other(
                    "platform",
                    State::Broken,
                    with_causes(&error),
                    error.hints().join("; "),
                )),
            }
            findings.extend(database(&settings.home));
            findings.push(kernel());
        }
        Endpoint::Remote(_) => findings.extend(cluster(settings).await),
    }
    findings.push(docker);
    findings.extend(registries);
    findings
}

fn python(toolchain: &Toolchain) -> Finding {
    let version = toolchain.python_version;
    let detail = format!(
        "{}.{} at {}",
        version.major,
        version.minor,
        toolchain.python.display()
    );
    Finding::good("Python", detail)
}

async fn uv(program: &Path) -> Finding {
    let fix = "pip install uv";
    let asked = timeout(
        PATIENCE,
        Command::new(program)
            .arg("--version")
            .kill_on_drop(true)
            .output(),
    );
    match asked.await {
        Ok(Ok(output)) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            let version = text.split_whitespace().nth(1).unwrap_or_default();
            Finding::good("uv", format!("{version} at {}", program.display()))
        }
        Ok(Ok(output)) => {
            let detail = format!("`{}` ended with {}", program.display(), output.status);
            Finding::other("uv", State::Broken, detail, fix)
        }
        Ok(Err(error)) => {
            let detail = format!("`{}` cannot be run: {error}", program.display());
            Finding::other("uv", State::Broken, detail, fix)
        }
        Err(_) => {
            let detail = format!("`{}` does not answer", program.display());
            Finding::other("uv", State::Broken, detail, fix)
        }
    }
}

fn config(settings: &Settings) -> Finding {
    let from = match &settings.source {
        Some(path) => format!("from {}", path.display()),
        None => "no configuration file".to_owned(),
    };
    Finding::good("config", format!("{from}; {}", settings.describe()))
}

/// The folder itself, or the nearest one above it that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"))
}

fn home(home: &Home) -> Finding {
    let folder = existing(home.path());
    let outcome = if folder.is_dir() {
        rustix::fs::access(folder, rustix::fs::Access::WRITE_OK)
    } else {
        Err(rustix::io::Errno::NOTDIR)
    };
    match outcome {
        Ok(()) => Finding::good("home", home.path().display().to_string()),
        Err(error) => Finding::other(
            "home",
            State::Broken,
            format!("`{}` cannot be written: {error}", folder.display()),
            "make it yours, or set `FLYTE_HOME` to a folder of yours",
        ),
    }
}

fn disk(home: &Home) -> Finding {
    let folder = existing(home.path());
    let stat = match rustix::fs::statvfs(folder) {
        Ok(stat) => stat,
        Err(error) => {
            let detail = format!("the space at `{}` is not known: {error}", folder.display());
            return Finding::other("disk", State::Doubtful, detail, "look with `df -h`");
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let detail = format!("{} free at {}", size(free), folder.display());
    let fix = "free some; `flyte local reset` deletes all apps and environments, and `uv cache prune` \
               what no environment uses";
    match free {
        free if free < LEAST_BYTES => Finding::other("disk", State::Broken, detail, fix),
        free if free < COMFORTABLE_BYTES => Finding::other("disk", State::Doubtful, detail, fix),
        _ => Finding::good("disk", detail),
    }
}

fn ports(platform_runs: bool) -> Option<Finding> {
    // The platform holds them itself.
    if platform_runs {
        return None;
    }
    let is_taken = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err();
    let taken: Vec<String> = PORTS
        .iter()
        .filter(|port| is_taken(port))
        .map(u16::to_string)
        .collect();
    Some(if taken.is_empty() {
        Finding::good("ports", "32080 and 32100 are free")
    } else {
        Finding::good(
            "ports",
            format!(
                "{} taken by another program; the next free one is used",
                taken.join(" and ")
            ),
        )
    })
}

fn local_platform(status: Option<&serde_json::Value>, launcher: &Launcher) -> Finding {
    let Some(status) = status else {
        return Finding {
            name: "platform",
            state: State::Absent,
            detail: "does not run; the first serve starts it".into(),
            fix: None,
        };
    };
    let apps = status["apps"].as_array().map_or(0, Vec::len);
    let detail = format!(
        "version {}, process {}, {apps} app{}",
        status["version"].as_str().unwrap_or("?"),
        status["pid"],
        if apps == 1 { "" } else { "s" }
    );
    if status["build"].as_str() == Some(&launcher.build) {
        Finding::good("platform", detail)
    } else {
        Finding::other(
            "platform",
            State::Doubtful,
            format!("{detail}, of another build than this command"),
            "the next serve replaces it and restarts its apps; `flyte local start` does so now",
        )
    }
}

/// Databases that were found damaged, which somebody may want to look at.
fn database(home: &Home) -> Option<Finding> {
    let aside = Store::all_set_aside(&home.database());
    let newest = aside.last()?.display();
    let fix = "look whether an app is missing and serve it again; then delete the file";
    Some(Finding::other(
        "database",
        State::Doubtful,
        format!("was damaged and rebuilt from what could be read; the damaged one is `{newest}`"),
        fix,
    ))
}

fn kernel() -> Finding {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match port_watch::available() {
        Ok(()) => Finding::good(
            "kernel",
            format!("{release}; apps may declare the same port (seccomp notify)"),
        ),
        Err(error) => Finding::other(
            "kernel",
            State::Doubtful,
            format!("{release} {error}; apps cannot be led to ports of their own")
                .trim_start()
                .to_owned(),
            "let apps listen on `$PORT` (`env.get_port().port`), or give each app a port of its own",
        ),
    }
}

/// Whether the cluster answers, and whether its clock is ours.
async fn cluster(settings: &Settings) -> Vec<Finding> {
    let broken = |detail: String| {
        let fix =
            "check the endpoint in the configuration, the network and a proxy (`HTTPS_PROXY`)";
        vec![Finding::other("cluster", State::Broken, detail, fix)]
    };
    let client = match platform::reach(settings).await {
        Ok(client) => client,
        Err(error) => return broken(with_causes(&error)),
    };
    let endpoint = client.transport().endpoint().to_owned();
    let Ok(request) = http::Request::builder()
        .uri(client.transport().base_uri())
        .body(full_body(bytes::Bytes::new()))
    else {
        return broken(format!("`{endpoint}` is not an address"));
    };
    let started = Instant::now();
    match timeout(PATIENCE, client.transport().send(request)).await {
        Err(_) => broken(format!(
            "{endpoint} does not answer within {} s",
            PATIENCE.as_secs()
        )),
        Ok(Err(error)) => broken(format!("{endpoint} does not answer: {error}")),
        Ok(Ok(answer)) => {
            let took = started.elapsed().as_millis();
            let mut findings = vec![Finding::good(
                "cluster",
                format!("{endpoint} answers after {took} ms"),
            )];
            findings.push(login(&client).await);
            findings.extend(
                answer
                    .headers()
                    .get(http::header::DATE)
                    .and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok())
                    .map(clock),
            );
            findings
        }
    }
}

fn clock(theirs: SystemTime) -> Finding {
    let ours = SystemTime::now();
    let skew = ours
        .duration_since(theirs)
        .unwrap_or_else(|ahead| ahead.duration());
    let direction = if ours > theirs { "ahead of" } else { "behind" };
    let detail = format!("{} s {direction} the cluster's", skew.as_secs());
    let fix = "set the clock, or let it be set (`timedatectl set-ntp true`)";
    match skew {
        skew if skew > MOST_SKEW => Finding::other("clock", State::Broken, detail, fix),
        skew if skew > SOME_SKEW => Finding::other("clock", State::Doubtful, detail, fix),
        // `Date` has whole seconds, so a second is nothing.
        _ => Finding::good("clock", "the same as the cluster's"),
    }
}

/// Found as builds find it, so that what is said here is what they will see.
async fn docker() -> Finding {
    let fix = "start Docker where an image needs a container (base images, Dockerfiles, commands); \
               other images are built without";
    let engine = match Engine::connect().await {
        Ok(engine) => engine,
        Err(error) => {
            let is_refused = matches!(&error, engine::Error::NoEngine { tried }
                if tried.iter().any(|(_, why)| why.contains("ermission")));
            let hints = error.hints();
            return match hints.first() {
                Some(hint) if is_refused => {
                    Finding::other("Docker", State::Doubtful, error.to_string(), hint.clone())
                }
                Some(_) | None => Finding::other("Docker", State::Absent, error.to_string(), fix),
            };
        }
    };
    let place = engine.address();
    match timeout(PATIENCE, engine.docker().version()).await {
        Ok(Ok(version)) => {
            let version = version.version.unwrap_or_default();
            Finding::good("Docker", format!("engine {version} at {place}"))
        }
        Ok(Err(error)) => {
            let detail = format!("{place} does not tell its version: {error}");
            Finding::other("Docker", State::Doubtful, detail, fix)
        }
        Err(_) => Finding::other("Docker", State::Doubtful, "does not answer in time", fix),
    }
}

/// For which registries logins are kept, wherever pushing looks for them. The one that images are
/// configured to be pushed to is asked whether it takes what is kept for it.
async fn registries(settings: &Settings) -> Vec<Finding> {
    let known = match registry::hosts().await {
        Ok(known) => known,
        Err(error) => {
            let fix = error.hints().join("; ");
            let detail = with_causes(&error);
            return vec![Finding::other("registry", State::Doubtful, detail, fix)];
        }
    };
    let fix =
        "`docker login REGISTRY` or `podman login REGISTRY`, where images are pushed for a cluster";
    let logins = if known.is_empty() {
        Finding::other("registry", State::Absent, "no login", fix)
    } else {
        Finding::good("registry", format!("login for {}", known.join(", ")))
    };
    let tried = match &settings.image.registry {
        Some(configured) => Some(try_registry(configured).await),
        None => None,
    };
    [Some(logins), tried].into_iter().flatten().collect()
}

async fn try_registry(configured: &str) -> Finding {
    let doubtful = |detail: String, hints: Vec<String>| {
        let fix = if hints.is_empty() {
            "check `image.registry` in the configuration".to_owned()
        } else {
            hints.join("; ")
        };
        Finding::other("push", State::Doubtful, detail, fix)
    };
    // Nothing has this name; what counts is whether one may ask for it.
    let Ok(reference) = format!("{configured}/flyte-doctor:none").parse::<Reference>() else {
        return doubtful(format!("`{configured}` is no registry"), Vec::new());
    };
    let asked = async {
        Registry::open(&reference)
            .await?
            .has_manifest(&reference)
            .await
    };
    match timeout(PATIENCE, asked).await {
        Ok(Ok(_)) => Finding::good(
            "push",
            format!("`{configured}` answers and knows the login"),
        ),
        Ok(Err(error)) => doubtful(with_causes(&error), error.hints()),
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            doubtful(
                format!("`{configured}` does not answer within {seconds} s"),
                Vec::new(),
            )
        }
    }
}

/// Whether the control plane knows the caller, asked as any other call is.
async fn login(client: &client::Client) -> Finding {
    let other = |state, detail: String, fix: &str| Finding::other("login", state, detail, fix);
    let error = match timeout(PATIENCE, client.user_info()).await {
        Ok(Ok(user)) => {
            let names = [
                &user.preferred_username,
                &user.email,
                &user.name,
                &user.subject,
            ];
            let name = names.into_iter().find(|name| !name.is_empty());
            let name = name.map_or("known to the cluster", String::as_str);
            return Finding::good("login", name);
        }
        Ok(Err(error)) => error,
        Err(_) => {
            let detail = "the cluster does not tell in time who you are".to_owned();
            return other(State::Doubtful, detail, "try `flyte whoami`");
        }
    };
    let text = with_causes(&error).replace('\n', "; ");
    let code = error.code();
    if code == Code::ClientUnauthenticated {
        return other(State::Doubtful, text, "`flyte login`");
    }
    if code == Code::ClientDenied {
        let fix = "ask whoever runs the cluster for the right to it";
        return other(State::Broken, text, fix);
    }
    other(
        State::Doubtful,
        format!("{text}; what answers may be no Flyte control plane"),
        "check the endpoint: `flyte get config` tells where it comes from",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_judged_by_how_far_it_is_off() {
        for (seconds, expected) in [
            (0, State::Good),
            (60, State::Doubtful),
            (600, State::Broken),
        ] {
            let theirs = SystemTime::now() - Duration::from_secs(seconds);
            assert_eq!(clock(theirs).state, expected);
            let theirs = SystemTime::now() + Duration::from_secs(seconds);
            assert_eq!(clock(theirs).state, expected);
        }
        let ahead = clock(SystemTime::now() - Duration::from_secs(600));
        assert!(
            ahead.detail.contains("ahead of the cluster's"),
            "{}",
            ahead.detail
        );
    }
}

//! `fserve`: the first thing that runs in a replica.
//!
//! It ties the process to the platform, hands over the watch on its ports, and puts code and
//! parameters in place. A command then takes this very process over; a server function is
//! returned to Python.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

use pyo3::exceptions::PySystemExit;
use pyo3::prelude::*;
use rustix::process::{Pid, getppid, test_kill_process};

use super::settings;
use crate::config::Given;
use crate::error::Diagnostic;
use crate::files::archive;
use crate::runtime::{self as replica, Args, EndpointLookup, Host, Prepared, Run};
use crate::serve::platform;
use crate::sys::{self, port_watch};
use crate::wire::identifier;

/// The way back to the platform, which is this process's standard input at first.
struct Channel(Option<OwnedFd>);

impl Channel {
    /// Takes the channel where the platform says that there is one, and closes standard input.
    fn take() -> std::io::Result<Self> {
        if std::env::var_os("_FLYTE_CHANNEL").is_none() {
            return Ok(Self(None));
        }
        let channel = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3)?;
        let null = std::fs::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        Ok(Self(Some(channel)))
    }

    /// Says something; a platform that does not listen any more is about to end us anyway.
    fn say(&self, message: &serde_json::Value, descriptor: Option<&OwnedFd>) {
        if let Some(channel) = &self.0 {
            let line = format!("{message}\n");
            let _ = sys::send_fd(
                channel.as_fd(),
                line.as_bytes(),
                descriptor.map(AsFd::as_fd),
            );
        }
    }
}

/// Whether the platform was gone before this process was tied to it: then the kernel, which tells only
/// what happens later, will never end us.
fn is_orphan() -> bool {
    let platform = std::env::var("_FLYTE_PLATFORM").ok();
    let platform = platform.and_then(|text| Pid::from_raw(text.parse().ok()?));
    let Some(platform) = platform else {
        return false;
    };
    let is_child = getppid() == Some(platform);
    // A command of an app may run us once more: its parent is the app, and the platform is there.
    !is_child && test_kill_process(platform) == Err(rustix::io::Errno::SRCH)
}

/// Lets the platform watch and rewrite ports; tells whether that works here.
fn watch_ports(channel: &Channel) -> bool {
    if channel.0.is_none() || port_watch::available().is_err() {
        channel.say(&serde_json::json!({"watched": false}), None);
        return false;
    }
    match port_watch::install_filter() {
        Ok(listener) => {
            channel.say(&serde_json::json!({"watched": true}), Some(&listener));
            true
        }
        Err(_) => {
            channel.say(&serde_json::json!({"watched": false}), None);
            false
        }
    }
}

/// Variables that tell an app its port where ports cannot be rewritten.
fn port_variables(watched: bool) -> Vec<(String, String)> {
    match std::env::var("_FLYTE_ASSIGNED_PORT") {
        Ok(port) if !watched => vec![
            ("PORT".to_owned(), port.clone()),
            ("_FLYTE_APP_PORT".to_owned(), port),
        ],
        _ => Vec::new(),
    }
}

/// Asks the control plane that runs this replica, in the scope that the command line names.
#[derive(Default)]
struct Lookup(OnceLock<Given>);

impl Lookup {
    fn set_scope(&self, args: &Args) {
        let named = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let _ = self.0.set(Given {
            project: named(&args.project),
            domain: named(&args.domain),
            org: named(&args.org),
            ..Given::default()
        });
    }
}

impl EndpointLookup for Lookup {
    fn endpoint(&self, app_name: &str, _public: bool) -> Result<String, String> {
        let scope = self.0.get().cloned().unwrap_or_default();
        let settings = settings::resolve(&scope).map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let client = platform::reach(&settings)
                .await
                .map_err(|error| error.to_string())?;
            let id = identifier(&settings.org, &settings.project, &settings.domain, app_name);
            let app = client.get(&id).await.map_err(|error| error.to_string())?;
            Ok(app.status.ingress.public_url.clone())
        })
    }
}

fn unpack(archive: &std::path::Path, target: &std::path::Path) -> Result<(), replica::BoxError> {
    archive::extract(archive, target, archive::Limits::default()).map_err(Into::into)
}

/// A line of ours in the app's log.
#[expect(clippy::print_stderr, reason = "standard error is the replica's log")]
fn tell(line: &str) {
    eprintln!("fserve: {line}");
}

/// Put code and parameters of a replica in place, and run its command.
///
/// Args:
///     argv: what follows `fserve`.
///
/// Returns:
///     For a server function, where Python finds it. A command replaces this process instead.
///
/// Raises:
///     SystemExit: what the replica needs is missing; standard error says what.
///
/// Example:
///     >>> start = fserve_prepare(sys.argv[1:])    # doctest: +SKIP
#[pyfunction]
fn fserve_prepare(py: Python<'_>, argv: Vec<String>) -> PyResult<Bound<'_, PyAny>> {
    settings::become_replica();
    let channel = Channel::take()?;
    if channel.0.is_some() {
        sys::die_with_parent(rustix::process::Signal::KILL)?;
        if is_orphan() {
            return Err(PySystemExit::new_err(1));
        }
        sys::no_new_privs()?;
        // Where the system has none, the user's other processes are as open to it as ever.
        sys::fence()?;
    }
    let watched = watch_ports(&channel);
    let prepared = py.detach(|| {
        let lookup = Lookup::default();
        let host = Host::current(&lookup, &unpack, std::sync::Arc::new(tell))?;
        let args = Args::parse(&argv, &host.env)?;
        lookup.set_scope(&args);
        replica::prepare(&args, &host)
    });
    let Prepared {
        mut env,
        folder,
        run,
    } = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Err(refuse(&channel, &error)),
    };
    std::env::set_current_dir(&folder)?;
    env.extend(port_variables(watched));
    match run {
        Run::Command(words) => Err(become_command(&channel, &words, &env)),
        Run::Server(start) => {
            let variables = py.import("os")?.getattr("environ")?;
            for (name, value) in env {
                variables.set_item(name, value)?;
            }
            let json = serde_json::to_string(&start)
                .map_err(|error| pyo3::exceptions::PyValueError::new_err(error.to_string()))?;
            py.import("json")?.call_method1("loads", (json,))
        }
    }
}

/// Tells platform and log why the app cannot run.
#[expect(clippy::print_stderr, reason = "standard error is the replica's log")]
fn refuse(channel: &Channel, error: &replica::Error) -> PyErr {
    let failed = serde_json::json!({"failed": {
        "code": error.code().as_str(),
        "message": crate::error::with_causes(error),
    }});
    channel.say(&failed, None);
    eprintln!("{}", error.report());
    PySystemExit::new_err(i32::from(error.exit_status()))
}

/// Replaces this process; what comes back is why it could not.
fn become_command(channel: &Channel, words: &[String], env: &[(String, String)]) -> PyErr {
    let Some((program, arguments)) = words.split_first() else {
        return PySystemExit::new_err(78);
    };
    let error = Command::new(program)
        .args(arguments)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .exec();
    let message = format!("cannot run `{program}`: {error}");
    let failed = serde_json::json!({"failed": {
        "code": "app.missing_command",
        "message": message,
    }});
    channel.say(&failed, None);
    PySystemExit::new_err(message)
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(fserve_prepare, module)?)
}

//! The command line: words in, one use case, words out.
//!
//! `args` is what the user typed, `commands` has one file a verb, `printer` alone decides what is
//! shown. Loading a user's file needs an interpreter, which this module does not have: it asks a
//! [`Host`] for it.

pub mod args;
mod commands;
mod completing;
mod error;
mod help;
mod hidden;
mod live;
pub mod printer;
mod reference;
mod scan;
mod sought;
mod tame;
mod timings;
pub mod watching;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use clap::FromArgMatches;

pub use error::Error;

use crate::config::{Given, Settings};
use crate::error::{Code, Diagnostic, with_causes};
use crate::serve::watch::Loader;
use crate::serve::{self, Reporter, Request, Server};
use crate::wire::app::status::DeploymentStatus;
use crate::wire::status;

use args::{Arguments, Command, UpdateWhat};
use printer::Printer;

/// Why a command ended.
pub enum Failure {
    /// An error of ours.
    Told(Box<dyn Diagnostic>),
    /// A use that makes no sense, found after parsing.
    Usage(String),
    /// Ctrl-C.
    Interrupted,
    /// All has been said; only the status is left.
    Shown { status: u8 },
}

impl<E: Diagnostic> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Told(Box::new(error))
    }
}

/// Which environments of a file are meant.
#[derive(Clone, Debug)]
pub enum Which {
    /// The one that the file declares.
    Only,
    /// The one of this variable or name.
    Named(String),
    /// All, and those that they depend on.
    All,
}

impl From<Option<String>> for Which {
    fn from(name: Option<String>) -> Self {
        name.map_or(Self::Only, Self::Named)
    }
}

/// Which environments of which file are to be loaded, and with which options.
#[derive(Clone, Debug)]
pub struct Load {
    pub file: PathBuf,
    pub which: Which,
    pub root_dir: Option<PathBuf>,
    pub copy_style: Option<String>,
    /// Another file was loaded before, and nothing of it may count for this one.
    pub again: bool,
    /// It will be read again as soon as it is saved. Python tells what it compiled by the second of
    /// the last change and the size, so it has to compile nothing for later.
    pub watched: bool,
    /// Whether a failure is told with the whole traceback.
    pub verbose: bool,
}

/// What the command line needs of the process that it runs in.
pub trait Host {
    fn settings(&self, given: &Given) -> Result<Settings, Failure>;
    fn server(&self, settings: Settings, reporter: Reporter) -> Result<Server, Failure>;
    /// Imports the user's file and reads the environments out of it, the one meant first.
    fn load(&self, load: &Load, settings: &Settings) -> Result<Request, Failure>;
    /// How this very command is run a second time.
    fn loader(&self) -> Result<Loader, Failure>;
    /// Waits, giving way to Ctrl-C.
    fn block<T: Send>(
        &self,
        future: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, Failure>;
}

/// Runs one command; the answer is the exit status.
pub fn run(host: &impl Host, words: &[String]) -> u8 {
    let matches = help::command().try_get_matches_from(with_long_output(words));
    let arguments = match matches.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => {
            let status = if error.use_stderr() { 2 } else { 0 };
            // The terminal is gone; the status still tells.
            let _ = error.print();
            return status;
        }
    };
    let global = &arguments.global;
    let printer = Printer::new(global.output).showing(global.verbose, global.no_progress);
    printer::log_to_terminal(global.verbose, global.log_format());
    let given = global.given();
    let serves = where_it_serves(&given, &arguments.command);
    match dispatch(host, given.clone(), arguments.command, &printer) {
        Ok(()) => 0,
        Err(Failure::Interrupted) => {
            let left = serves.and_then(|there| still_running(host, &given, there));
            printer.note(&left.unwrap_or_else(|| "interrupted".to_owned()));
            130
        }
        Err(failure) => report(&failure, &printer),
    }
}

/// The PyPI SDK's two-letter `-of`, which would be `-o f`.
fn with_long_output(words: &[String]) -> Vec<String> {
    let mut is_option = true;
    let words = words.iter().map(|word| {
        is_option &= word != "--";
        match word.strip_prefix("-of") {
            Some(rest) if is_option && (rest.is_empty() || rest.starts_with('=')) => {
                format!("--output{rest}")
            }
            Some(_) | None => word.clone(),
        }
    });
    words.collect()
}

fn dispatch(
    host: &impl Host,
    given: Given,
    command: Command,
    printer: &Printer,
) -> Result<(), Failure> {
    match command {
        Command::Serve(serve) => commands::serve::run(host, printer, given, serve),
        Command::Deploy(deploy) => commands::deploy::run(host, printer, given, deploy),
        Command::Build(build) => commands::build::run(host, printer, given, build),
        Command::Create(create) => commands::create::run(host, printer, given, create),
        Command::Get(get) => commands::get::run(host, printer, given, get),
        Command::Update(update) => commands::update::run(host, printer, given, update),
        Command::Delete(delete) => commands::delete::run(host, printer, given, delete),
        Command::Whoami => commands::login::whoami(host, printer, given),
        Command::Login => commands::login::login(host, printer, given),
        Command::Logout => commands::login::logout(host, printer, given),
        Command::Bundle(bundle) => commands::bundle::run(host, printer, given, bundle),
        Command::Local(local) => commands::local::run(host, printer, given, local),
        Command::Init(init) => commands::init::run(printer, init),
        Command::Doctor => commands::doctor::run(host, printer, given),
        Command::Explain(explain) => commands::explain::run(printer, explain),
        Command::Completion(completion) => {
            commands::completion::script(printer, &completion);
            Ok(())
        }
        Command::Complete(words) => {
            commands::completion::complete(host, printer, given, &words);
            Ok(())
        }
        Command::Reference => {
            printer.line(reference::markdown(&help::command()).trim_end());
            Ok(())
        }
    }
}

/// Where a command's apps are, if it is about running some.
fn where_it_serves(given: &Given, command: &Command) -> Option<Given> {
    let (scope, is_local) = match command {
        Command::Serve(serve) => (&serve.scope, serve.local),
        Command::Deploy(deploy) => (&deploy.serve.scope, deploy.serve.local),
        Command::Update(update) => match &update.what {
            UpdateWhat::App { scope, .. } => (scope, false),
        },
        _ => return None,
    };
    let mut there = Given {
        project: scope.project.clone(),
        domain: scope.domain.clone(),
        interactive: Some(false),
        ..given.clone()
    };
    if is_local {
        there.endpoint = Some(String::new());
    }
    Some(there)
}

/// What Ctrl-C leaves behind, as far as the control plane tells at once.
fn still_running(host: &impl Host, given: &Given, there: Given) -> Option<String> {
    let settings = host.settings(&there).ok()?;
    let usual = host.settings(given).ok()?;
    let apps = host
        .block(async {
            let asked = tokio::time::timeout(Duration::from_secs(1), serve::apps(&settings));
            Ok(asked.await.ok().flatten())
        })
        .ok()??;
    Some(interrupted(apps, &settings, &usual))
}

/// What Ctrl-C ended there, and what it did not; how one of that is stopped where `usual` settings
/// are in force.
pub fn interrupted(
    apps: Vec<(String, DeploymentStatus)>,
    there: &Settings,
    usual: &Settings,
) -> String {
    let named: Vec<String> = apps
        .into_iter()
        .filter(|(_, state)| {
            !status::is_deactivated(*state) && *state != DeploymentStatus::DEPLOYMENT_STATUS_FAILED
        })
        .map(|(name, state)| format!("`{name}` ({})", status::short_name(state)))
        .collect();
    if named.is_empty() {
        return "interrupted; no app is running".to_owned();
    }
    format!(
        "interrupted; still there: {}; `{}` stops one",
        named.join(", "),
        watching::stopping("NAME", &there.project, &there.domain, usual)
    )
}

fn report(failure: &Failure, printer: &Printer) -> u8 {
    match failure {
        Failure::Told(error) => {
            printer.error(
                error.code(),
                &with_causes(error.as_ref()),
                &error.log_tail(),
                &error.hints(),
            );
            error.code().family().exit_status()
        }
        Failure::Usage(text) => {
            printer.error(Code::ConfigInvalid, text, &[], &[]);
            2
        }
        Failure::Interrupted => 130,
        Failure::Shown { status } => *status,
    }
}

//! What can stop a replica before user code runs, and how that is told to the platform.
//!
//! The platform shows what `fserve` wrote to stderr, so each message names the parameter, path or
//! word at fault. This file does not know how any of it is found out.

use std::path::PathBuf;

use crate::error::{Code, Diagnostic, Family};
use crate::storage;

/// An error of a collaborator whose type is of no interest here.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Exit status for "the command line or the declaration is wrong" (`EX_CONFIG`).
const EXIT_CONFIG: u8 = 78;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the command line of `fserve` cannot be used: {reason}")]
    Arguments { reason: String },
    #[error("the value of `{option}` cannot be decoded")]
    Payload {
        option: &'static str,
        #[source]
        source: BoxError,
    },
    #[error("parameter `{name}` has no value")]
    NoValue { name: String },
    #[error("parameter `{name}` {reason}")]
    Declaration { name: String, reason: String },
    #[error("parameter `{name}` has the value `{value}`, which is no {kind}")]
    Malformed {
        name: String,
        value: String,
        kind: &'static str,
    },
    #[error("parameter `{name}`: `{value}` does not exist")]
    SourceMissing { name: String, value: String },
    #[error("parameter `{name}`: `{value}` is {found}, but a {declared} is declared")]
    SourceKind {
        name: String,
        value: String,
        found: &'static str,
        declared: &'static str,
    },
    #[error("parameter `{name}` cannot be fetched")]
    Fetch {
        name: String,
        #[source]
        source: storage::Error,
    },
    #[error("parameter `{name}`: ignore pattern `{pattern}` cannot be used")]
    Pattern {
        name: String,
        pattern: String,
        #[source]
        source: globset::Error,
    },
    #[error("parameters `{first}` and `{second}` are both put at `{path}`")]
    SameTarget {
        first: String,
        second: String,
        path: PathBuf,
    },
    #[error("parameter `{name}`: cannot write to `{path}`")]
    NotWritable {
        name: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("parameter `{name}`: cannot read `{path}`")]
    NotReadable {
        name: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("parameter `{name}`: the address of app `{app}` is not known: {reason}")]
    Endpoint {
        name: String,
        app: String,
        reason: String,
    },
    #[error("code bundle `{bundle}` does not exist")]
    BundleMissing { bundle: String },
    #[error("code bundle `{bundle}` cannot be fetched")]
    BundleFetch {
        bundle: String,
        #[source]
        source: storage::Error,
    },
    #[error("code bundle `{bundle}` cannot be unpacked into `{dest}`")]
    BundleUnpack {
        bundle: String,
        dest: PathBuf,
        #[source]
        source: BoxError,
    },
    #[error("the parameters cannot be written to `{path}`")]
    ParametersFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the working folder cannot be found")]
    WorkingFolder(#[source] std::io::Error),
    #[error("{} has nothing to run: set args, command or a server function", named(.app.as_deref()))]
    NothingToRun { app: Option<String> },
    #[error("`{item}` uses the environment variable `{variable}`, which is not set")]
    Variable {
        item: String,
        variable: String,
        close: Option<String>,
    },
    #[error("`{item}` holds `{found}`, which names no environment variable")]
    VariableSyntax { item: String, found: String },
    #[error("command `{program}` was not found on PATH")]
    CommandMissing { program: String },
    #[error("command `{program}` is not an executable file")]
    CommandNotExecutable { program: String },
}

fn named(app: Option<&str>) -> String {
    match app {
        Some(app) => format!("app `{app}`"),
        None => "the app".to_owned(),
    }
}

impl Error {
    /// What `fserve` ends with when this stops it.
    pub fn exit_status(&self) -> u8 {
        match self.code().family() {
            Family::Config => EXIT_CONFIG,
            Family::NotFound
            | Family::Conflict
            | Family::Auth
            | Family::Build
            | Family::App
            | Family::Unavailable
            | Family::Timeout
            | Family::Internal => 1,
        }
    }

    /// The text for stderr: one line with the message and its causes, then one line per hint.
    pub fn report(&self) -> String {
        let message = crate::error::with_causes(self)
            .replace("\nCaused by: ", ": ")
            .replace('\n', " ");
        let mut text = format!("fserve: {message}\n");
        for hint in self.hints() {
            text.push_str("  hint: ");
            text.push_str(&hint);
            text.push('\n');
        }
        text
    }
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Arguments { .. }
            | Self::Payload { .. }
            | Self::NoValue { .. }
            | Self::Declaration { .. }
            | Self::NothingToRun { .. }
            | Self::Variable { .. }
            | Self::VariableSyntax { .. } => Code::ConfigInvalid,
            Self::Malformed { .. }
            | Self::SourceMissing { .. }
            | Self::SourceKind { .. }
            | Self::Fetch { .. }
            | Self::Pattern { .. }
            | Self::SameTarget { .. }
            | Self::NotWritable { .. }
            | Self::NotReadable { .. }
            | Self::ParametersFile { .. }
            | Self::Endpoint { .. } => Code::RuntimeParameter,
            Self::BundleMissing { .. }
            | Self::BundleFetch { .. }
            | Self::BundleUnpack { .. }
            | Self::WorkingFolder(_) => Code::RuntimeLoad,
            Self::CommandMissing { .. } | Self::CommandNotExecutable { .. } => {
                Code::AppMissingCommand
            }
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NoValue { name } => vec![format!(
                "give it a value in the declaration, or pass one when serving: \
                 `with_servecontext(input_values={{\"<app>\": {{\"{name}\": ...}}}})`"
            )],
            Self::Fetch {
                source: source @ storage::Error::Scheme { .. },
                ..
            } => {
                let mut hints = source.hints();
                hints.push(
                    "with `download=False` the URL is handed to the app unchanged".to_owned(),
                );
                hints
            }
            Self::Fetch { source, .. } | Self::BundleFetch { source, .. } => source.hints(),
            Self::SourceKind { found, .. } => vec![match *found {
                "a folder" => "declare it as `Dir` or with `type=\"directory\"`".to_owned(),
                _ => "declare it as `File` or with `type=\"file\"`".to_owned(),
            }],
            Self::SameTarget { .. } => {
                vec!["give each of them a `mount` of its own".to_owned()]
            }
            Self::NotWritable { path, .. } if path.is_absolute() => vec![
                "this user may not write there; a relative `mount` such as `models/` is put \
                 into the app's own folder"
                    .to_owned(),
            ],
            Self::Variable { close, .. } => {
                let mut hints: Vec<String> = close
                    .iter()
                    .map(|close| format!("did you mean `${close}`?"))
                    .collect();
                hints.push("write `$$` for a plain dollar sign".to_owned());
                hints
            }
            Self::VariableSyntax { .. } => {
                vec!["use `$NAME` or `${NAME}`, and `$$` for a plain dollar sign".to_owned()]
            }
            Self::CommandMissing { program } if program.contains('/') => {
                vec!["add the file to the bundle with `include`".to_owned()]
            }
            Self::CommandMissing { program } => vec![format!(
                "add the package that brings it to the image: `.with_pip_packages(\"{program}\")`"
            )],
            Self::CommandNotExecutable { program } => vec![format!(
                "run it with its interpreter, or mark it with `chmod +x {program}`"
            )],
            Self::Arguments { .. }
            | Self::Payload { .. }
            | Self::Declaration { .. }
            | Self::Malformed { .. }
            | Self::SourceMissing { .. }
            | Self::Pattern { .. }
            | Self::NotWritable { .. }
            | Self::NotReadable { .. }
            | Self::Endpoint { .. }
            | Self::BundleMissing { .. }
            | Self::BundleUnpack { .. }
            | Self::ParametersFile { .. }
            | Self::WorkingFolder(_)
            | Self::NothingToRun { .. } => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line_and_its_hints() {
        let error = Error::NotWritable {
            name: "model".to_owned(),
            path: PathBuf::from("/root/models"),
            source: std::io::Error::other("first\nsecond"),
        };
        let report = error.report();
        let lines: Vec<&str> = report.lines().collect();
        assert_eq!(
            lines[0],
            "fserve: parameter `model`: cannot write to `/root/models`: first second"
        );
        assert!(lines[1].starts_with("  hint: "), "{report}");
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn wrong_declarations_end_with_78_and_the_rest_with_1() {
        assert_eq!(Error::NothingToRun { app: None }.exit_status(), 78);
        let missing = Error::CommandMissing {
            program: "streamlit".to_owned(),
        };
        assert_eq!(missing.exit_status(), 1);
        assert_eq!(missing.code(), Code::AppMissingCommand);
        assert!(missing.hints()[0].contains(".with_pip_packages(\"streamlit\")"));
    }
}

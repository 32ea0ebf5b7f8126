//! Why an image could not be built.

use std::io;
use std::path::{Path, PathBuf};

use crate::engine;
use crate::error::{Code, Diagnostic, Retry, did_you_mean};

/// Failure to hash, plan or build an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The declaration itself is wrong.
    #[error("`{method}`: {problem}")]
    Invalid {
        method: &'static str,
        problem: String,
    },
    /// A file that the declaration names cannot be read.
    #[error("cannot read `{}`, which the image names", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Only a container engine could do this.
    #[error("{what}")]
    NeedsContainer { what: String, hint: String },
    /// Not even the running interpreter can be used.
    #[error("no Python {asked} was found, and `{}` cannot be used instead", running.display())]
    NoPython { asked: String, running: PathBuf },
    /// An installer ran and failed; `tail` is its own explanation.
    #[error("`{step}` failed: {installer} ended with {status}")]
    Install {
        /// The method of `flyte.Image` with its arguments, as a user would write it.
        step: String,
        installer: &'static str,
        status: String,
        tail: Vec<String>,
        /// The versions that the image is held to.
        held_by: Option<PathBuf>,
    },
    /// What was built is not what its name says.
    #[error("a file of the image changed while the image was built, so nothing of it is kept")]
    Changed,
    /// A program that the build needs did not start.
    #[error("cannot run `{}`", program.display())]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A secret that a build mounts has no value on this machine.
    #[error("`{method}` needs the secret `{key}`, which has no value here")]
    SecretMissing {
        method: &'static str,
        key: String,
        variable: String,
        file: PathBuf,
    },
    #[error("cannot fetch the image `{image}`")]
    Pull {
        image: String,
        #[source]
        source: engine::Error,
    },
    #[error("cannot send the image `{uri}` to its registry")]
    Push {
        uri: String,
        #[source]
        source: engine::Error,
    },
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// What Docker knows of a credential cannot be had.
    #[error("cannot read credentials from `{source_name}`: {problem}")]
    Credentials {
        /// A file, or the program that was asked.
        source_name: String,
        problem: String,
        hint: String,
    },
    /// A registry refused, failed or could not be reached; what it holds is not known.
    #[error("registry `{registry}`: cannot {action}: {reason}")]
    Registry {
        registry: String,
        /// Such as "read the manifest of `x:1`".
        action: String,
        /// The status and what the registry said, or why it was not reached.
        reason: String,
        fault: Fault,
        hint: String,
    },
    /// Each builder that was asked, and why it cannot.
    #[error("no builder can make the image: {}", refusals(refused))]
    NoBuilder { refused: Vec<(&'static str, Error)> },
    #[error("no image is configured under the name `{name}`")]
    UnknownRef { name: String, known: Vec<String> },
    #[error(
        "image `{image}` is for a cluster, and no registry is named that it could be pulled from"
    )]
    NoRegistry { image: String },
    /// The folder of environments cannot be used.
    #[error("cannot {action} `{}`", path.display())]
    Store {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn refusals(refused: &[(&'static str, Error)]) -> String {
    let one = |(builder, error): &(&'static str, Error)| format!("{builder}: {error}");
    refused.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Who has to do something about a registry that did not do as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not know us, or does not let us.
    Denied,
    /// It was not reached, or is not well: later it may work.
    Passing,
    /// What it answers, or holds, is not what was asked for.
    Answer,
}

impl Error {
    /// For `map_err` on operations below the folder of environments.
    pub(super) fn store(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Store {
            action,
            path,
            source,
        }
    }

    /// For `map_err` on reads of files that the user named.
    pub(super) fn unreadable(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Unreadable { path, source }
    }
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } | Self::Unreadable { .. } | Self::SecretMissing { .. } => {
                Code::ImageInvalid
            }
            Self::NoRegistry { .. } | Self::UnknownRef { .. } => Code::ImageInvalid,
            Self::Pull { .. } => Code::ImagePullFailed,
            Self::Push { .. } => Code::ImageBuildFailed,
            Self::Engine(error) => error.code(),
            Self::NeedsContainer { .. } | Self::NoBuilder { .. } => Code::ImageNeedsContainer,
            Self::NoPython { .. } => Code::ImageNoPython,
            Self::Credentials { .. }
            | Self::Registry {
                fault: Fault::Denied,
                ..
            } => Code::ImageDenied,
            Self::Registry {
                fault: Fault::Passing | Fault::Answer,
                ..
            } => Code::ImageRegistry,
            Self::Install { .. } | Self::Start { .. } | Self::Store { .. } | Self::Changed => {
                Code::ImageBuildFailed
            }
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NeedsContainer { hint, .. }
            | Self::Credentials { hint, .. }
            | Self::Registry { hint, .. } => vec![hint.clone()],
            Self::NoPython { asked, .. } => {
                vec![format!(
                    "install Python {asked}, for example with `pyenv` or `uv python install`, or use the Docker builder"
                )]
            }
            Self::Install { tail, held_by, .. } => install_hints(tail, held_by.as_deref()),
            Self::SecretMissing { variable, file, .. } => vec![format!(
                "set the variable `{variable}`, or write its value to `{}`",
                file.display()
            )],
            Self::Pull { .. } | Self::Push { .. } => vec![
                "see that the name is right, and that `docker login` of its registry was done"
                    .into(),
            ],
            Self::Engine(error) => error.hints(),
            Self::NoBuilder { refused } => {
                refused.iter().flat_map(|(_, error)| error.hints()).collect()
            }
            Self::UnknownRef { name, known } => unknown_ref(name, known),
            Self::NoRegistry { .. } => vec![
                "name one: `Image...(registry=\"ghcr.io/acme\")`, `image.registry` in the configuration, or `FLYTE_IMAGE_REGISTRY`".into(),
            ],
            Self::Changed => vec!["build it again, once nobody edits its files".into()],
            Self::Invalid { .. }
            | Self::Unreadable { .. }
            | Self::Start { .. }
            | Self::Store { .. } => Vec::new(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Install { tail, .. } if network_failed(tail) => Retry::Maybe,
            Self::Engine(error)
            | Self::Pull { source: error, .. }
            | Self::Push { source: error, .. } => error.retry(),
            Self::Changed
            | Self::Registry {
                fault: Fault::Passing,
                ..
            } => Retry::Maybe,
            Self::Credentials { .. }
            | Self::NoBuilder { .. }
            | Self::NoRegistry { .. }
            | Self::UnknownRef { .. }
            | Self::Registry { .. }
            | Self::Install { .. }
            | Self::SecretMissing { .. }
            | Self::Invalid { .. }
            | Self::Unreadable { .. }
            | Self::NeedsContainer { .. }
            | Self::NoPython { .. }
            | Self::Start { .. }
            | Self::Store { .. } => Retry::Never,
        }
    }

    fn log_tail(&self) -> Vec<String> {
        match self {
            Self::Install { tail, .. } => tail.clone(),
            Self::SecretMissing { .. }
            | Self::Changed
            | Self::Pull { .. }
            | Self::Push { .. }
            | Self::Engine(_)
            | Self::Credentials { .. }
            | Self::NoBuilder { .. }
            | Self::NoRegistry { .. }
            | Self::UnknownRef { .. }
            | Self::Registry { .. }
            | Self::Invalid { .. }
            | Self::Unreadable { .. }
            | Self::NeedsContainer { .. }
            | Self::NoPython { .. }
            | Self::Start { .. }
            | Self::Store { .. } => Vec::new(),
        }
    }
}

fn unknown_ref(name: &str, known: &[String]) -> Vec<String> {
    let names = known.iter().map(String::as_str);
    let close = did_you_mean(name, names).map(|close| format!("did you mean `{close}`?"));
    let way = "map it to an image: `image.image_refs` in the configuration, `init(images={...})`, or `--image NAME=URI`";
    close.into_iter().chain([way.to_owned()]).collect()
}

fn network_failed(tail: &[String]) -> bool {
    const SIGNS: [&str; 4] = [
        "dns error",
        "timed out",
        "error sending request",
        "Connect)",
    ];
    tail.iter()
        .any(|line| SIGNS.iter().any(|sign| line.contains(sign)))
}

fn install_hints(tail: &[String], held_by: Option<&Path>) -> Vec<String> {
    let said = |sign: &str| tail.iter().any(|line| line.contains(sign));
    let mut hints = Vec::new();
    if network_failed(tail) {
        hints.push(
            "check the connection to the package index, or name another by `index_url=`".into(),
        );
    }
    if said("Python ABI tag") || said("does not satisfy Python") {
        hints.push(
            "choose another interpreter by `python_version=`, for which these packages have wheels"
                .into(),
        );
    }
    if said("because building from source is disabled") {
        hints.push(
            "the OCI builder takes wheels only: use the Docker builder, or a version that has a wheel"
                .into(),
        );
    }
    if said("invalid peer certificate") {
        hints.push(
            "set `UV_SYSTEM_CERTS=1` to believe the certificates that this machine believes".into(),
        );
    }
    if said("Failed to parse") {
        hints.push(
            "a requirement is written as in `requirements.txt`: `name`, `name==1.2`, `name>=1,<2`"
                .into(),
        );
    }
    if said("Unable to locate package") {
        hints.push(
            "the package has another name in this release of Debian: look it up at packages.debian.org"
                .into(),
        );
    }
    if held_by.is_none() && said("No solution found") {
        hints.push("loosen or leave out a version that the lines above name".into());
    }
    if let Some(pins) = held_by.filter(|_| said("No solution found")) {
        hints.push(format!(
            "the image is held to the versions of its first build (`{}`); `flyte build --force` resolves again",
            pins.display()
        ));
    }
    hints
}

//! Why an image could not be built.

use std::io;
use std::path::{Path, PathBuf};

use crate::engine;
use crate::error::{Code, Diagnostic, Retry};

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
    /// The folder of environments cannot be used.
    #[error("cannot {action} `{}`", path.display())]
    Store {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
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
            Self::Pull { .. } => Code::ImagePullFailed,
            Self::Push { .. } => Code::ImageBuildFailed,
            Self::Engine(error) => error.code(),
            Self::NeedsContainer { .. } => Code::ImageNeedsContainer,
            Self::NoPython { .. } => Code::ImageNoPython,
            Self::Install { .. } | Self::Start { .. } | Self::Store { .. } => {
                Code::ImageBuildFailed
            }
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NeedsContainer { hint, .. } => vec![hint.clone()],
            Self::NoPython { asked, .. } => {
                vec![format!(
                    "install Python {asked}, for example with `pyenv` or `uv python install`"
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
            Self::Install { .. }
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
            | Self::Pull { .. }
            | Self::Push { .. }
            | Self::Engine(_)
            | Self::Invalid { .. }
            | Self::Unreadable { .. }
            | Self::NeedsContainer { .. }
            | Self::NoPython { .. }
            | Self::Start { .. }
            | Self::Store { .. } => Vec::new(),
        }
    }
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

//! What only the command line can get wrong.

use std::path::PathBuf;

use crate::error::{Code, Diagnostic, did_you_mean};

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no Python file in `{}` declares an app environment", folder.display())]
    NoApp { folder: PathBuf },
    #[error("several files here declare app environments: {}", list(files))]
    SeveralApps { files: Vec<String> },
    #[error("there is no code `{given}`")]
    NoCode { given: String },
    #[error("`{}` exists, and `flyte init` never overwrites", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write `{}`", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// What the package raised while a file was imported, as it was raised.
    #[error("{message}")]
    Raised {
        code: Code,
        message: String,
        log: Vec<String>,
        hints: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::NoApp { .. }
            | Self::SeveralApps { .. }
            | Self::Exists { .. }
            | Self::Write { .. } => Code::ConfigInvalid,
            Self::NoCode { .. } => Code::ConfigUnknownName,
            Self::Raised { code, .. } => *code,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NoApp { .. } => {
                vec!["name the file: `flyte serve FILE`; `flyte init` writes one that works".into()]
            }
            Self::SeveralApps { files } => vec![format!(
                "name one: `flyte serve {}`",
                files.first().map_or("FILE", String::as_str)
            )],
            Self::NoCode { given } => {
                let codes = Code::ALL.iter().map(|code| code.as_str());
                let close = did_you_mean(given, codes);
                let close = close.map(|code| format!("did you mean `{code}`?"));
                close
                    .into_iter()
                    .chain(["`flyte explain` lists all codes".into()])
                    .collect()
            }
            Self::Exists { .. } => vec!["name another folder: `flyte init TEMPLATE FOLDER`".into()],
            Self::Write { .. } => Vec::new(),
            Self::Raised { hints, .. } => hints.clone(),
        }
    }

    fn log_tail(&self) -> Vec<String> {
        match self {
            Self::Raised { log, .. } => log.clone(),
            Self::NoApp { .. }
            | Self::SeveralApps { .. }
            | Self::NoCode { .. }
            | Self::Exists { .. }
            | Self::Write { .. } => Vec::new(),
        }
    }
}

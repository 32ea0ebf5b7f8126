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
    #[error("`{}` is a folder", folder.display())]
    IsFolder { folder: PathBuf },
    #[error("`{}` is not a folder", file.display())]
    NoFolder { file: PathBuf },
    #[error("there is no file `{}`", file.display())]
    NoFile { file: PathBuf },
    #[error("`{}` is not a Python file (`*.py`)", file.display())]
    NotPython { file: PathBuf },
    #[error("`{}` declares no app environment", file.display())]
    NoEnvironment { file: PathBuf },
    #[error("`{}` declares several app environments, name one: {known}", file.display())]
    SeveralEnvironments { file: PathBuf, known: String },
    #[error("`{}` declares several apps named `{wanted}`; name a variable: {known}", file.display())]
    SeveralNamed {
        file: PathBuf,
        wanted: String,
        known: String,
    },
    #[error("`{}` declares no app environment `{wanted}`; it declares {known}", file.display())]
    UnknownEnvironment {
        file: PathBuf,
        wanted: String,
        known: String,
        close: Option<String>,
    },
    #[error("`--image {given}`: no app here asks for an image called `{name}`")]
    UnknownImage {
        given: String,
        name: String,
        known: Vec<String>,
    },
    /// What a user's file raised while it was imported.
    #[error("`{}` could not be imported: {summary}", file.display())]
    NotImported {
        file: PathBuf,
        summary: String,
        /// Lines of the user's own code, or of everything where all was asked for.
        frames: Vec<String>,
        hints: Vec<String>,
    },
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
            | Self::IsFolder { .. }
            | Self::NoFolder { .. }
            | Self::NoFile { .. }
            | Self::NotPython { .. }
            | Self::NoEnvironment { .. }
            | Self::SeveralEnvironments { .. }
            | Self::SeveralNamed { .. }
            | Self::Exists { .. }
            | Self::Write { .. } => Code::ConfigInvalid,
            Self::UnknownEnvironment { .. } | Self::UnknownImage { .. } | Self::NoCode { .. } => {
                Code::ConfigUnknownName
            }
            Self::NotImported { .. } => Code::AppImportFailed,
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
            Self::IsFolder { .. } => vec![
                "name a file of it; `flyte deploy FOLDER --all` and `flyte build FOLDER` take all of them"
                    .into(),
            ],
            Self::NoFolder { .. } => vec![
                "`--recursive` looks through a folder; `--all` takes all environments of a file".into(),
            ],
            Self::NoFile { file } if file.extension().is_none() => {
                vec![format!("did you mean `{}.py`?", file.display())]
            }
            Self::NoFile { .. } => vec!["paths are relative to the folder that you are in".into()],
            Self::NotPython { .. } => {
                vec!["name the Python file that declares the app: `flyte serve app.py`".into()]
            }
            Self::NoEnvironment { .. } => vec![
                "it needs `env = flyte.app.AppEnvironment(name=...)`; `flyte init` writes a file that has one"
                    .into(),
            ],
            Self::SeveralEnvironments { file, .. } => vec![format!(
                "`flyte serve {0} NAME` serves one, `flyte deploy {0} --all` all of them",
                file.display()
            )],
            Self::SeveralNamed { .. } => {
                vec!["apps of one project and domain need names of their own".into()]
            }
            Self::UnknownEnvironment { close, .. } => close
                .iter()
                .map(|name| format!("did you mean `{name}`?"))
                .collect(),
            Self::UnknownImage { name, known, .. } => vec![if known.is_empty() {
                format!(
                    "declare the app with image=flyte.Image.from_ref_name(\"{name}\") to name its image here"
                )
            } else {
                format!("images that are asked for by name: {}", list(known))
            }],
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
            Self::NotImported { hints, .. } | Self::Raised { hints, .. } => hints.clone(),
        }
    }

    fn log_tail(&self) -> Vec<String> {
        match self {
            Self::Raised { log, .. } => log.clone(),
            Self::NotImported { frames, .. } => frames.clone(),
            Self::NoApp { .. }
            | Self::SeveralApps { .. }
            | Self::IsFolder { .. }
            | Self::NoFolder { .. }
            | Self::NoFile { .. }
            | Self::NotPython { .. }
            | Self::NoEnvironment { .. }
            | Self::SeveralEnvironments { .. }
            | Self::SeveralNamed { .. }
            | Self::UnknownEnvironment { .. }
            | Self::UnknownImage { .. }
            | Self::NoCode { .. }
            | Self::Exists { .. }
            | Self::Write { .. } => Vec::new(),
        }
    }
}

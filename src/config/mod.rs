//! Where the control plane is, and where this machine keeps its files.
//!
//! Settings arrive as they were written (file, environment, arguments) and leave as one resolved
//! [`Settings`]; nothing further down reads a variable or a file again. Whether a call goes to
//! the local platform or to a cluster is decided here, once.

mod file;
mod home;

use std::path::{Path, PathBuf};

pub use home::Home;

use crate::error::{Code, Diagnostic, did_you_mean};

/// Project and domain that the local platform uses when none is configured.
pub const LOCAL_PROJECT: &str = "local";
/// See [`LOCAL_PROJECT`].
pub const LOCAL_DOMAIN: &str = "development";

/// Which control plane is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The background process of this machine, started on demand.
    Local,
    /// A control plane at `http://` or `https://` authority.
    Remote(String),
}

/// Values as given by the caller; `None` means "not said".
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub config_path: Option<PathBuf>,
    pub endpoint: Option<String>,
    pub insecure: Option<bool>,
    pub org: Option<String>,
    pub project: Option<String>,
    pub domain: Option<String>,
    pub home: Option<PathBuf>,
}

/// Everything decided.
#[derive(Clone, Debug)]
pub struct Settings {
    pub endpoint: Endpoint,
    pub org: String,
    pub project: String,
    pub domain: String,
    pub home: Home,
    /// The configuration file that was read, if any.
    pub source: Option<PathBuf>,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("configuration file `{}` does not exist", path.display())]
    Missing { path: PathBuf },
    #[error("cannot read configuration file `{}`", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{}` is not valid YAML", path.display())]
    Syntax {
        path: PathBuf,
        #[source]
        source: serde_norway::Error,
    },
    #[error("`{}` has no setting named `{key}`", path.display())]
    UnknownKey { path: PathBuf, key: String },
    #[error(
        "endpoint `{value}` is not of the form `host:port`, `dns:///host`, `http://host` or `https://host`"
    )]
    Endpoint { value: String },
    #[error("no home folder: neither `FLYTE_HOME` nor `HOME` is set")]
    NoHome,
    #[error("`{variable}` is `{value}`, which is neither true nor false")]
    Boolean { variable: String, value: String },
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Missing { .. }
            | Self::Unreadable { .. }
            | Self::Syntax { .. }
            | Self::UnknownKey { .. }
            | Self::Endpoint { .. }
            | Self::NoHome
            | Self::Boolean { .. } => Code::ConfigInvalid,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::UnknownKey { key, .. } => did_you_mean(key, file::KEYS.iter().copied())
                .map(|name| format!("did you mean `{name}`?"))
                .into_iter()
                .collect(),
            Self::NoHome => vec!["set `FLYTE_HOME` to a folder of yours".into()],
            Self::Missing { .. } => vec![
                "without a configuration file the local platform is used; leave the path out for that"
                    .into(),
            ],
            Self::Unreadable { .. }
            | Self::Syntax { .. }
            | Self::Endpoint { .. }
            | Self::Boolean { .. } => Vec::new(),
        }
    }
}

impl Settings {
    /// Resolves what was given against the environment and the configuration file.
    pub fn resolve(given: &Given) -> Result<Self, Error> {
        let home = match &given.home {
            Some(path) => Home::at(path.clone()),
            None => Home::from_environment()?,
        };
        let source = match &given.config_path {
            Some(path) if path.is_file() => Some(path.clone()),
            Some(path) => return Err(Error::Missing { path: path.clone() }),
            None => file::search(&home),
        };
        let file = match &source {
            Some(path) => file::read(path)?,
            None => file::File::default(),
        };
        let pick = |given: &Option<String>, variable: &str, file: Option<String>| {
            given
                .clone()
                .or_else(|| std::env::var(variable).ok())
                .or(file)
                .filter(|value| !value.is_empty())
        };
        let insecure = match given.insecure {
            Some(value) => value,
            None => boolean("FLYTE_ADMIN_INSECURE")?
                .or(file.insecure)
                .unwrap_or(false),
        };
        let endpoint = match pick(&given.endpoint, "FLYTE_ADMIN_ENDPOINT", file.endpoint) {
            Some(value) => Endpoint::Remote(normalise(&value, insecure)?),
            None => Endpoint::Local,
        };
        let local = endpoint == Endpoint::Local;
        let default = |name: &str| {
            if local {
                name.to_owned()
            } else {
                String::new()
            }
        };
        Ok(Self {
            org: pick(&given.org, "FLYTE_TASK_ORG", file.org).unwrap_or_default(),
            project: pick(&given.project, "FLYTE_TASK_PROJECT", file.project)
                .unwrap_or_else(|| default(LOCAL_PROJECT)),
            domain: pick(&given.domain, "FLYTE_TASK_DOMAIN", file.domain)
                .unwrap_or_else(|| default(LOCAL_DOMAIN)),
            endpoint,
            home,
            source,
        })
    }

    /// One line that says where apps will go.
    pub fn describe(&self) -> String {
        match &self.endpoint {
            Endpoint::Local => format!(
                "using the local platform ({}), project `{}`, domain `{}`",
                self.home.path().display(),
                self.project,
                self.domain
            ),
            Endpoint::Remote(uri) => format!(
                "using {uri}, project `{}`, domain `{}`",
                self.project, self.domain
            ),
        }
    }
}

fn boolean(variable: &str) -> Result<Option<bool>, Error> {
    let Ok(value) = std::env::var(variable) else {
        return Ok(None);
    };
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(Some(true)),
        "0" | "false" | "no" | "off" | "" => Ok(Some(false)),
        _ => Err(Error::Boolean {
            variable: variable.to_owned(),
            value,
        }),
    }
}

/// Turns any accepted form into `http://authority` or `https://authority`.
///
/// A scheme that was written is kept; only `dns:///` and bare authorities follow `insecure`.
fn normalise(value: &str, insecure: bool) -> Result<String, Error> {
    let invalid = || Error::Endpoint {
        value: value.to_owned(),
    };
    let value = value.strip_suffix('/').unwrap_or(value);
    if value.starts_with("http://") || value.starts_with("https://") {
        return Ok(value.to_owned());
    }
    let authority = value.strip_prefix("dns:///").unwrap_or(value);
    if authority.is_empty() || authority.contains("://") {
        return Err(invalid());
    }
    let scheme = if insecure { "http" } else { "https" };
    Ok(format!("{scheme}://{authority}"))
}

/// The nearest folder at or above `start` that holds `.git`.
fn git_root(start: &Path) -> Option<PathBuf> {
    start
        .ancestors()
        .find(|folder| folder.join(".git").exists())
        .map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_keep_the_scheme_that_was_written() {
        for (value, insecure, expected) in [
            ("localhost:8090", true, "http://localhost:8090"),
            ("localhost:8090", false, "https://localhost:8090"),
            ("http://localhost:8090", false, "http://localhost:8090"),
            ("https://a.b.c/", true, "https://a.b.c"),
            ("dns:///a.b.c", false, "https://a.b.c"),
        ] {
            assert_eq!(normalise(value, insecure).unwrap(), expected);
        }
        for value in ["ftp://x", "dns:///", ""] {
            assert!(normalise(value, false).is_err(), "{value}");
        }
    }

    #[test]
    fn a_given_path_that_is_missing_is_an_error() {
        let given = Given {
            config_path: Some("/nonexistent/config.yaml".into()),
            home: Some("/tmp".into()),
            ..Given::default()
        };
        assert!(matches!(
            Settings::resolve(&given),
            Err(Error::Missing { .. })
        ));
    }
}

//! Settings that cannot be used, each by its name, its value and where it stands.

use std::path::PathBuf;

use super::keys;
use crate::error::{Code, Diagnostic, did_you_mean};

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("configuration file `{}` does not exist", path.display())]
    Missing { path: PathBuf },
    #[error("cannot read `{}`", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("configuration file `{}` belongs to user {owner}, and nobody named it", path.display())]
    NotOwned { path: PathBuf, owner: u32 },
    #[error("cannot write `{}`", path.display())]
    Unwritable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{}` is there already", path.display())]
    Exists { path: PathBuf },
    #[error("`{}` is not valid YAML", path.display())]
    Syntax {
        path: PathBuf,
        #[source]
        source: serde_norway::Error,
    },
    #[error("`{}` has no setting named `{key}`", path.display())]
    UnknownKey { path: PathBuf, key: String },
    #[error("in `{}`, {place} is {found}; {wanted} is wanted", path.display())]
    Shape {
        path: PathBuf,
        place: String,
        found: &'static str,
        wanted: &'static str,
    },
    #[error("`{variable}` is `{value}`; {wanted} is wanted")]
    Variable {
        variable: String,
        value: String,
        wanted: &'static str,
    },
    #[error(
        "endpoint `{value}` is not of the form `host:port`, `dns:///host`, `http://host` or `https://host`"
    )]
    Endpoint { value: String },
    #[error("`local.prune_max_size` is `{value}`, which is no size")]
    Size { value: String },
    #[error("`local.prune_unused_days` is `{value}`, which is no number of days")]
    Days { value: String },
    #[error("no home folder: neither `FLYTE_HOME` nor `HOME` is set")]
    NoHome,
    #[error("`admin.authType` is `{value}`, which is none of `{}`", known.join("`, `"))]
    AuthType {
        value: String,
        close: Option<&'static str>,
        known: [&'static str; 5],
    },
    #[error("logging in by `{mode}` needs `{missing}`")]
    Incomplete {
        mode: &'static str,
        missing: &'static str,
    },
    #[error("`admin.clientSecretEnvVar` names `{variable}`, which is not set")]
    NoSecret { variable: String },
    #[error("the API key cannot be used: {reason}")]
    ApiKey { reason: &'static str },
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Missing { .. }
            | Self::Unreadable { .. }
            | Self::NotOwned { .. }
            | Self::Unwritable { .. }
            | Self::Exists { .. }
            | Self::Syntax { .. }
            | Self::UnknownKey { .. }
            | Self::Shape { .. }
            | Self::Variable { .. }
            | Self::Endpoint { .. }
            | Self::Size { .. }
            | Self::Days { .. }
            | Self::NoHome
            | Self::AuthType { .. }
            | Self::Incomplete { .. }
            | Self::NoSecret { .. }
            | Self::ApiKey { .. } => Code::ConfigInvalid,
        }
    }

    fn hints(&self) -> Vec<String> {
        let close = |name: Option<&str>| {
            name.map(|name| format!("did you mean `{name}`?"))
                .into_iter()
                .collect()
        };
        match self {
            Self::UnknownKey { key, .. } => {
                close(keys::nearly(key).or_else(|| did_you_mean(key, keys::SECTIONS)))
            }
            Self::AuthType { close: found, .. } => close(*found),
            Self::Size { .. } => vec!["such as `10GB`, `512MiB` or `off`".into()],
            Self::Days { .. } => vec!["such as `30`, or `off`".into()],
            Self::NoHome => vec!["set `FLYTE_HOME` to a folder of yours".into()],
            Self::Missing { .. } => vec![
                "without a configuration file the local platform is used; leave the path out for that"
                    .into(),
                "`flyte create config` writes one".into(),
            ],
            Self::NotOwned { path, .. } => vec![
                "a configuration can run programs as you; read it before you use it".into(),
                format!("`--config {path}`, or `FLYTECTL_CONFIG={path}`, uses it", path = path.display()),
            ],
            Self::Exists { .. } => vec!["`--force` replaces it".into()],
            Self::ApiKey { .. } => {
                vec!["take it whole, as it was issued, into `FLYTE_API_KEY`".into()]
            }
            Self::Unreadable { .. }
            | Self::Unwritable { .. }
            | Self::Syntax { .. }
            | Self::Shape { .. }
            | Self::Variable { .. }
            | Self::Endpoint { .. }
            | Self::Incomplete { .. }
            | Self::NoSecret { .. } => Vec::new(),
        }
    }
}

//! Why a secret cannot be kept or given out. No message ever holds a value.

use std::path::PathBuf;

use super::Id;
use crate::error::{Code, Diagnostic, Retry};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "`{name}` cannot be the name of a secret: it takes 1 to 253 letters, digits, `.`, `_` and `-`"
    )]
    Name { name: String },
    #[error("secret `{}` exists already in {}", .0.name, .0.scope())]
    Exists(Id),
    #[error("secret `{}` does not exist in {}", .0.name, .0.scope())]
    NotFound(Id),
    #[error("secret `{}` was not written by this machine's key", .0.name)]
    Damaged(Id),
    #[error("a secret holds at most {limit} bytes, this one has {bytes}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("the system keyring, which holds the key of this machine's secrets, {reason}")]
    Keyring { reason: String },
    #[error("cannot use `{}`", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Name { .. } | Self::TooLarge { .. } => Code::ConfigInvalid,
            Self::Exists(_) => Code::SecretExists,
            Self::NotFound(_) => Code::SecretNotFound,
            Self::Damaged(_) | Self::Keyring { .. } | Self::Io { .. } => Code::SecretStore,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Damaged(id) => vec![format!(
                "delete it with `flyte delete secret {}` and create it anew",
                id.name
            )],
            Self::Keyring { .. } => {
                vec!["unlock it, or log in to the desktop session that it belongs to".to_owned()]
            }
            Self::Name { .. }
            | Self::Exists(_)
            | Self::NotFound(_)
            | Self::TooLarge { .. }
            | Self::Io { .. } => Vec::new(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Keyring { .. } => Retry::Maybe,
            Self::Name { .. }
            | Self::Exists(_)
            | Self::NotFound(_)
            | Self::Damaged(_)
            | Self::TooLarge { .. }
            | Self::Io { .. } => Retry::Never,
        }
    }
}

//! Logins that did not come about. No message holds a token, a code or a secret.

use connectrpc::ConnectError;

use crate::error::{Code, Diagnostic, Retry};
use crate::{files, net};

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{endpoint} wants a login, and nobody is here who could log in")]
    LoginNeeded { endpoint: String },
    #[error("the headers that `flyte.remote.auth_metadata` holds were refused by {endpoint}")]
    Passthrough { endpoint: String, is_empty: bool },
    #[error("there is nothing to log in to")]
    NotAsked,
    #[error("{endpoint} does not tell how one logs in: it has no `{missing}`")]
    NoWay {
        endpoint: String,
        missing: &'static str,
    },
    #[error("{endpoint} cannot be asked how one logs in")]
    Discovery {
        endpoint: String,
        #[source]
        source: Box<ConnectError>,
    },
    #[error("{endpoint} sends logins to `{url}`: {reason}")]
    Place {
        endpoint: String,
        url: String,
        reason: &'static str,
    },
    #[error("{endpoint} sends the browser back to `{url}`, which is no port of this machine")]
    Redirect { endpoint: String, url: String },
    #[error("port {port}, where the browser comes back to after the login, cannot be used")]
    Port {
        port: u16,
        #[source]
        source: std::io::Error,
    },
    #[error("the login did not succeed: {reason}")]
    Denied { reason: String },
    #[error("`{place}` gave no token: {reason}")]
    Refused { place: String, reason: String },
    #[error("`{place}` does not renew the login any more: {reason}")]
    Over { place: String, reason: String },
    #[error("`{place}` does not answer")]
    Unreachable {
        place: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("`{place}` answered with something that is no token")]
    Unreadable { place: String },
    #[error("`{program}`, which should print a token, failed: {reason}")]
    Command { program: String, reason: String },
    #[error("`{name}` cannot be sent: its name or its value does not fit into a header")]
    Header { name: String },
    #[error(transparent)]
    Files(#[from] files::Error),
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::LoginNeeded { .. }
            | Self::Passthrough { .. }
            | Self::NotAsked
            | Self::Denied { .. }
            | Self::Port { .. }
            | Self::Refused { .. }
            | Self::Over { .. }
            // Who has no logins cannot tell who somebody is.
            | Self::NoWay { .. }
            | Self::Command { .. } => Code::ClientUnauthenticated,
            Self::Unreachable { .. } | Self::Discovery { .. } => Code::ClientUnavailable,
            Self::Place { .. }
            | Self::Redirect { .. }
            | Self::Unreadable { .. } => Code::ClientProtocol,
            Self::Header { .. } => Code::ConfigInvalid,
            Self::Files(error) => error.code(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::LoginNeeded { .. } => vec![
                "`flyte login` in a terminal logs in".into(),
                "without a person: `admin.clientId` with `admin.clientSecretEnvVar`, an API key, or `admin.command`".into(),
            ],
            Self::Passthrough { is_empty: true, .. } => vec![
                "none are set: call it inside of `with flyte.remote.auth_metadata((\"authorization\", ...))`".into(),
            ],
            Self::Passthrough { .. } => vec!["they are sent as they are and never renewed".into()],
            Self::Port { .. } => {
                vec!["`admin.authType: DeviceFlow` needs no port".into()]
            }
            Self::Redirect { .. } => {
                vec!["`admin.authType: DeviceFlow` needs no such address".into()]
            }
            Self::Discovery { source, .. } => net::advice(source.as_ref()),
            Self::Unreachable { source, .. } => net::advice(source.as_ref()),
            Self::Files(error) => error.hints(),
            Self::NoWay { .. } => vec![
                "it may have no logins, and take calls from whoever reaches it".into(),
            ],
            Self::Refused { .. } => vec!["`flyte login` begins anew".into()],
            Self::NotAsked
            | Self::Place { .. }
            | Self::Denied { .. }
            | Self::Over { .. }
            | Self::Unreadable { .. }
            | Self::Command { .. }
            | Self::Header { .. } => Vec::new(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. } | Self::Discovery { .. } => Retry::Maybe,
            Self::LoginNeeded { .. }
            | Self::Passthrough { .. }
            | Self::NotAsked
            | Self::NoWay { .. }
            | Self::Place { .. }
            | Self::Redirect { .. }
            | Self::Port { .. }
            | Self::Denied { .. }
            | Self::Refused { .. }
            | Self::Over { .. }
            | Self::Unreadable { .. }
            | Self::Command { .. }
            | Self::Header { .. }
            | Self::Files(_) => Retry::Never,
        }
    }
}

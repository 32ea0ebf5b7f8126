//! Calls that did not succeed, with what the control plane knows them by.

use connectrpc::{ConnectError, ErrorCode};

use crate::error::{Code, Diagnostic, Retry};
use crate::{auth, net};

/// How the library words a connection that ends amid an answer; its code says "internal".
const BROKEN_OFF: &str = "failed to read response body";

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach {endpoint}")]
    Unavailable {
        endpoint: String,
        request_id: String,
        #[source]
        source: Box<ConnectError>,
    },
    #[error("{endpoint} refused `{call}`: {message} (request `{request_id}`)")]
    Rejected {
        endpoint: String,
        call: &'static str,
        request_id: String,
        code: ErrorCode,
        message: String,
    },
    #[error("{endpoint} refused `{call}` with the credentials it was just given: {message}")]
    Unauthenticated {
        endpoint: String,
        call: &'static str,
        request_id: String,
        message: String,
    },
    #[error("app `{name}` does not exist in project `{project}`, domain `{domain}`")]
    NotFound {
        name: String,
        project: String,
        domain: String,
    },
    #[error("upload of the code bundle failed: {reason}")]
    Upload { reason: String },
    #[error("{endpoint} answered `{call}` with a message that lacks `{field}`")]
    Protocol {
        endpoint: String,
        call: &'static str,
        field: &'static str,
    },
    #[error("{endpoint} answers for a cluster at `{cluster}`, which cannot be used: {reason}")]
    Cluster {
        endpoint: String,
        cluster: String,
        reason: &'static str,
    },
    #[error("cannot read the code bundle `{}`", path.display())]
    BundleIo {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Auth(#[from] auth::Error),
    #[error(transparent)]
    Net(#[from] net::Error),
}

impl Error {
    /// What became of a call.
    pub(super) fn of(
        endpoint: &str,
        call: &'static str,
        request_id: &str,
        error: ConnectError,
    ) -> Self {
        let endpoint = endpoint.to_owned();
        let request_id = request_id.to_owned();
        if error.code == ErrorCode::Unavailable || is_broken_off(&error) {
            return Self::Unavailable {
                endpoint,
                request_id,
                source: Box::new(error),
            };
        }
        Self::Rejected {
            endpoint,
            call,
            request_id,
            code: error.code,
            message: error.message.unwrap_or_default(),
        }
    }

    /// A stream that breaks off, unless the server said why: the other side is gone.
    pub(super) fn of_stream(
        endpoint: &str,
        call: &'static str,
        request_id: &str,
        error: ConnectError,
    ) -> Self {
        match error.code {
            ErrorCode::Internal | ErrorCode::Unknown | ErrorCode::Canceled => Self::Unavailable {
                endpoint: endpoint.to_owned(),
                request_id: request_id.to_owned(),
                source: Box::new(error),
            },
            _ => Self::of(endpoint, call, request_id, error),
        }
    }
}

/// Whether the connection ended amid an answer.
pub(super) fn is_broken_off(error: &ConnectError) -> bool {
    error
        .message
        .as_deref()
        .is_some_and(|message| message.starts_with(BROKEN_OFF))
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Unavailable { .. } => Code::ClientUnavailable,
            Self::Rejected { code, .. } => rejected_code(*code),
            Self::Unauthenticated { .. } => Code::ClientUnauthenticated,
            Self::NotFound { .. } => Code::AppNotFound,
            Self::Upload { .. } => Code::ClientUpload,
            Self::Protocol { .. } | Self::Cluster { .. } => Code::ClientProtocol,
            Self::BundleIo { .. } => Code::BundleIo,
            Self::Auth(error) => error.code(),
            Self::Net(error) => error.code(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Unavailable { .. } | Self::Upload { .. } => Retry::Maybe,
            Self::Auth(error) => error.retry(),
            Self::Rejected { .. }
            | Self::Unauthenticated { .. }
            | Self::NotFound { .. }
            | Self::Protocol { .. }
            | Self::Cluster { .. }
            | Self::BundleIo { .. }
            | Self::Net(_) => Retry::Never,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NotFound { .. }
            | Self::Rejected {
                code: ErrorCode::NotFound,
                ..
            } => vec!["`flyte get app` lists the apps there are".into()],
            Self::Unavailable { source, .. } => net::advice(source.as_ref()),
            Self::Rejected {
                code: ErrorCode::PermissionDenied,
                ..
            } => vec!["`flyte whoami` tells who you are there".into()],
            Self::Unauthenticated { .. } => vec![
                "`flyte logout` and `flyte login` begin anew".into(),
                "`flyte get config` tells how one logs in".into(),
            ],
            Self::Auth(error) => error.hints(),
            Self::Net(error) => error.hints(),
            Self::Rejected { .. }
            | Self::Upload { .. }
            | Self::Protocol { .. }
            | Self::Cluster { .. }
            | Self::BundleIo { .. } => Vec::new(),
        }
    }

    fn request_id(&self) -> Option<String> {
        match self {
            Self::Unavailable { request_id, .. }
            | Self::Rejected { request_id, .. }
            | Self::Unauthenticated { request_id, .. } => Some(request_id.clone()),
            Self::NotFound { .. }
            | Self::Upload { .. }
            | Self::Protocol { .. }
            | Self::Cluster { .. }
            | Self::BundleIo { .. }
            | Self::Auth(_)
            | Self::Net(_) => None,
        }
    }
}

fn rejected_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::Unauthenticated => Code::ClientUnauthenticated,
        ErrorCode::PermissionDenied => Code::ClientDenied,
        ErrorCode::AlreadyExists | ErrorCode::Aborted | ErrorCode::FailedPrecondition => {
            Code::ClientConflict
        }
        ErrorCode::NotFound => Code::AppNotFound,
        ErrorCode::Unavailable | ErrorCode::ResourceExhausted | ErrorCode::DeadlineExceeded => {
            Code::ClientUnavailable
        }
        ErrorCode::Internal | ErrorCode::Unknown | ErrorCode::DataLoss => Code::ClientProtocol,
        _ => Code::ClientRejected,
    }
}

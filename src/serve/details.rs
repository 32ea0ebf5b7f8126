//! What only the local platform tells of an app: its traffic, its revisions, and going back to one.
//!
//! The protocol of the clusters has no calls for these, so they are plain requests beside it.

use connectrpc::client::{ClientTransport, full_body};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde::Deserialize;

use super::platform::{self, Place};
use crate::client::{self, Client};
use crate::error::{Code, Diagnostic, Retry};
use crate::wire::app::Identifier;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} are known to the local platform only; `{endpoint}` is none")]
    Elsewhere {
        what: &'static str,
        endpoint: String,
    },
    #[error("{message}")]
    Refused { message: String },
    #[error("the local platform's answer cannot be understood")]
    Answer(#[source] serde_json::Error),
    #[error("`{endpoint}` does not answer")]
    Unreachable {
        endpoint: String,
        #[source]
        source: connectrpc::ConnectError,
    },
    #[error(transparent)]
    Client(#[from] client::Error),
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Elsewhere { .. } => Code::ConfigUnsupported,
            Self::Refused { .. } => Code::ClientRejected,
            Self::Answer(_) => Code::ClientProtocol,
            Self::Unreachable { .. } => Code::ClientUnavailable,
            Self::Client(error) => error.code(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Refused { .. } => {
                vec!["`flyte get app NAME --revisions` shows what there is".into()]
            }
            Self::Client(error) => error.hints(),
            Self::Elsewhere { .. } | Self::Answer(_) | Self::Unreachable { .. } => Vec::new(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Client(error) => error.retry(),
            Self::Unreachable { .. } => Retry::Maybe,
            Self::Elsewhere { .. } | Self::Refused { .. } | Self::Answer(_) => Retry::Never,
        }
    }
}

/// The traffic of an app, or `None` where the platform is a cluster.
pub async fn traffic(
    place: &Place,
    client: &Client,
    id: &Identifier,
) -> Result<Option<serde_json::Value>, Error> {
    match place.home {
        Some(_) => ask(client, Method::GET, id, "traffic").await.map(Some),
        None => Ok(None),
    }
}

/// All revisions of an app, newest first, as JSON objects.
pub async fn revisions(
    place: &Place,
    client: &Client,
    id: &Identifier,
) -> Result<Vec<serde_json::Value>, Error> {
    local_only(place, client, "revisions")?;
    let answer = ask(client, Method::GET, id, "revisions").await?;
    Ok(answer.as_array().cloned().unwrap_or_default())
}

/// What going back is answered with.
#[derive(Deserialize)]
struct Back {
    revision: u64,
}

/// Goes back to a revision, or to the one before; tells the number of the new one that equals it.
pub async fn roll_back(
    place: &Place,
    client: &Client,
    id: &Identifier,
    to: Option<u64>,
) -> Result<u64, Error> {
    local_only(place, client, "earlier revisions")?;
    let what = match to {
        Some(revision) => format!("rollback?revision={revision}"),
        None => "rollback".to_owned(),
    };
    let answer = ask(client, Method::POST, id, &what).await?;
    Back::deserialize(answer)
        .map(|back| back.revision)
        .map_err(Error::Answer)
}

fn local_only(place: &Place, client: &Client, what: &'static str) -> Result<(), Error> {
    match place.home {
        Some(_) => Ok(()),
        None => Err(Error::Elsewhere {
            what,
            endpoint: client.endpoint().to_owned(),
        }),
    }
}

async fn ask(
    client: &Client,
    method: Method,
    id: &Identifier,
    what: &str,
) -> Result<serde_json::Value, Error> {
    let path = format!(
        "/local/apps/{}/{}/{}/{what}",
        id.project, id.domain, id.name
    );
    let request = Request::builder()
        .method(method)
        .uri(platform::address(client, &path))
        .body(full_body(bytes::Bytes::new()))
        .map_err(|error| Error::Refused {
            message: format!("`{}` cannot be asked for: {error}", id.name),
        })?;
    let response = client.transport().send(request).await;
    let response = response.map_err(|source| Error::Unreachable {
        endpoint: client.endpoint().to_owned(),
        source,
    })?;
    let status = response.status();
    let body = response.into_body().collect().await;
    let body = body
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    if status == StatusCode::NOT_FOUND {
        return Err(client::Error::NotFound {
            name: id.name.clone(),
            project: id.project.clone(),
            domain: id.domain.clone(),
        }
        .into());
    }
    let answer: serde_json::Value = serde_json::from_slice(&body).map_err(Error::Answer)?;
    if status.is_success() {
        return Ok(answer);
    }
    let message = answer["message"].as_str().unwrap_or("it was refused");
    Err(Error::Refused {
        message: message.to_owned(),
    })
}

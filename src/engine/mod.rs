//! The container engine of this machine: finding it, and speaking to it.
//!
//! Whoever builds images and whoever runs containers share this. It knows sockets and versions;
//! what is asked of the engine is its callers' business. Most of that goes through `bollard`;
//! [`Engine::send`] is for the two calls of a build whose connection has to be our own.

mod address;

use std::io;
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Code, Diagnostic, Retry};
pub use address::Address;

/// An engine that takes longer to say its version does not answer.
const KNOCK: Duration = Duration::from_secs(5);
/// How long the engine may take to begin an answer, in seconds; unpacking a large image is slow.
const ANSWER_SECONDS: u64 = 600;

/// Body of a request of [`Engine::send`].
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Why the engine could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Every place that was tried, and what came of it.
    #[error("no container engine answers (tried {})", tried_text(tried))]
    NoEngine { tried: Vec<(Address, String)> },
    #[error("`DOCKER_HOST={host}` cannot be used: {reason}")]
    Host { host: String, reason: &'static str },
    /// The engine answered, and that it will not.
    #[error("the container engine could not {action}: {reason}")]
    Refused { action: String, reason: String },
    #[error("the connection to the container engine broke while it was to {action}")]
    Broken {
        action: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn tried_text(tried: &[(Address, String)]) -> String {
    let one = |(address, reason): &(Address, String)| format!("`{address}`: {reason}");
    tried.iter().map(one).collect::<Vec<_>>().join("; ")
}

impl Error {
    /// For `map_err` on calls of `bollard`.
    pub fn while_it_should(
        action: impl Into<String>,
    ) -> impl FnOnce(bollard::errors::Error) -> Self {
        use bollard::errors::Error as Cause;
        let action = action.into();
        move |error| match error {
            Cause::DockerResponseServerError {
                message: reason, ..
            }
            | Cause::DockerStreamError { error: reason } => Self::Refused { action, reason },
            other => Self::Broken {
                action,
                source: Box::new(other),
            },
        }
    }
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::NoEngine { .. } => Code::ImageNeedsContainer,
            Self::Host { .. } => Code::ConfigInvalid,
            Self::Refused { .. } | Self::Broken { .. } => Code::EngineFailed,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NoEngine { tried } if tried.iter().any(|(_, why)| why.contains("ermission")) => {
                vec![
                    "let your user speak to the engine, for example by `sudo usermod -aG docker $USER` and a new login"
                        .into(),
                ]
            }
            Self::NoEngine { .. } => vec![
                "install and start one: Docker Engine (Debian and Ubuntu: `apt install docker.io`), Docker Desktop or Colima"
                    .into(),
                "or name the socket of one that runs elsewhere: `DOCKER_HOST=unix:///path/docker.sock`"
                    .into(),
            ],
            Self::Host { .. } => vec![
                "forward the engine's socket to this machine and set `DOCKER_HOST=unix:///path/docker.sock`"
                    .into(),
            ],
            Self::Refused { .. } | Self::Broken { .. } => Vec::new(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Broken { .. } => Retry::Maybe,
            Self::NoEngine { .. } | Self::Host { .. } | Self::Refused { .. } => Retry::Never,
        }
    }
}

/// An engine that answered.
#[derive(Clone, Debug)]
pub struct Engine {
    docker: Docker,
    address: Address,
    /// `linux/amd64`, in the words of image manifests.
    platform: String,
}

impl Engine {
    /// The first engine that answers, at `DOCKER_HOST` or the places that engines use.
    pub async fn connect() -> Result<Self, Error> {
        Self::at_first_of(address::candidates(|name| std::env::var(name).ok())?).await
    }

    async fn at_first_of(places: Vec<Address>) -> Result<Self, Error> {
        let mut tried = Vec::new();
        for address in places {
            match tokio::time::timeout(KNOCK, Self::at(address.clone())).await {
                Ok(Ok(engine)) => return Ok(engine),
                Ok(Err(reason)) => tried.push((address, reason)),
                Err(_) => {
                    let reason = format!("no answer within {} s", KNOCK.as_secs());
                    tried.push((address, reason));
                }
            }
        }
        Err(Error::NoEngine { tried })
    }

    async fn at(address: Address) -> Result<Self, String> {
        let text = |error: bollard::errors::Error| crate::error::with_causes(&error);
        let docker = match &address {
            Address::Unix(path) => {
                // The client's own words for these are about URIs.
                UnixStream::connect(path)
                    .await
                    .map_err(|error| match error.kind() {
                        io::ErrorKind::NotFound => "no such socket".to_owned(),
                        _ => error.to_string(),
                    })?;
                let path = path.to_string_lossy();
                Docker::connect_with_unix(&path, ANSWER_SECONDS, API_DEFAULT_VERSION)
            }
            Address::Tcp(host) => Docker::connect_with_http(
                &format!("tcp://{host}"),
                ANSWER_SECONDS,
                API_DEFAULT_VERSION,
            ),
        };
        let docker = docker
            .map_err(text)?
            .negotiate_version()
            .await
            .map_err(text)?;
        let about = docker.version().await.map_err(text)?;
        let part = |text: Option<String>, default: &str| text.unwrap_or_else(|| default.to_owned());
        Ok(Self {
            docker,
            address,
            platform: format!("{}/{}", part(about.os, "linux"), part(about.arch, "amd64")),
        })
    }

    /// The client for everything but builds.
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What it runs without emulation, such as `linux/amd64`.
    pub fn platform(&self) -> &str {
        &self.platform
    }

    /// Sends one request on a connection of its own, which may be upgraded.
    pub async fn send(&self, request: Request<Body>) -> Result<Answer, Error> {
        let action = format!("answer `{} {}`", request.method(), request.uri().path());
        match self.try_send(request).await {
            Ok(answer) => Ok(answer),
            Err(source) => Err(Error::Broken { action, source }),
        }
    }

    async fn try_send(
        &self,
        mut request: Request<Body>,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        request
            .headers_mut()
            .insert(header::HOST, header::HeaderValue::from_static("docker"));
        let stream: Box<dyn Stream> = match &self.address {
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Address::Tcp(host) => Box::new(TcpStream::connect(host).await?),
        };
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to the container engine ended");
            }
        }));
        Ok(Answer {
            response: sender.send_request(request).await?,
            connection: Connection(connection),
        })
    }
}

/// What the engine says to a request, as it comes.
pub struct Answer {
    pub response: Response<Incoming>,
    pub connection: Connection,
}

/// Closed when this is dropped, which ends what the engine does for the request. An upgraded
/// connection belongs to whoever upgraded it.
pub struct Connection(#[expect(dead_code, reason = "held, not used")] AbortOnDropHandle<()>);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("docker.sock");
        let dead = folder.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        let places = [&absent, &dead].map(|path| Address::Unix(path.clone()));
        let error = Engine::at_first_of(places.to_vec()).await.unwrap_err();
        assert_eq!(error.code(), Code::ImageNeedsContainer);
        let text = error.to_string();
        assert!(text.contains(&*absent.to_string_lossy()), "{text}");
        assert!(text.contains("no such socket"), "{text}");
        assert!(text.contains("refused"), "{text}");
        assert!(error.hints()[0].contains("apt install docker.io"));
    }
}

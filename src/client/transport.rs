//! One transport for two places: HTTP/2 over a Unix socket, or HTTP over TCP.

use std::path::Path;

use connectrpc::ConnectError;
use connectrpc::client::{ClientBody, ClientTransport, Http2Connection, SharedHttp2Connection};
use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use http_body_util::BodyExt;

use crate::net::{Body, Http};

/// Requests that may wait for the one connection of a Unix socket.
const PENDING_REQUESTS: usize = 256;

/// Carries requests to a control plane.
#[derive(Clone)]
pub struct Transport {
    inner: Inner,
    base: Uri,
    endpoint: String,
}

#[derive(Clone)]
enum Inner {
    Unix(SharedHttp2Connection),
    Tcp(Http),
}

impl Transport {
    /// The local platform behind `socket`. Must be called inside a runtime.
    pub fn unix(socket: &Path) -> Self {
        let base = Uri::from_static("http://localhost");
        Self {
            inner: Inner::Unix(
                Http2Connection::lazy_unix(socket, base.clone()).shared(PENDING_REQUESTS),
            ),
            base,
            endpoint: format!("the local platform at `{}`", socket.display()),
        }
    }

    /// A control plane at `http://authority` or `https://authority`, with a path if need be.
    pub fn http(base: Uri, http: Http) -> Self {
        Self {
            inner: Inner::Tcp(http),
            endpoint: base.to_string().trim_end_matches('/').to_owned(),
            base,
        }
    }

    /// The same way to another place; `None` where this one leads nowhere else.
    pub fn elsewhere(&self, base: Uri) -> Option<Self> {
        match &self.inner {
            Inner::Tcp(http) => Some(Self::http(base, http.clone())),
            Inner::Unix(_) => None,
        }
    }

    /// What paths are appended to.
    pub fn base_uri(&self) -> Uri {
        self.base.clone()
    }

    /// Where this leads, for messages.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether the other end is a process of this machine that is of one build with this one.
    pub fn is_local(&self) -> bool {
        matches!(self.inner, Inner::Unix(_))
    }
}

impl ClientTransport for Transport {
    type ResponseBody = Body;
    type Error = ConnectError;

    fn send(
        &self,
        request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Body>, ConnectError>> {
        match &self.inner {
            Inner::Unix(connection) => {
                let answer = connection.send(request);
                Box::pin(async move {
                    let broken = |error| {
                        ConnectError::unavailable_from_transport("the answer broke off", error)
                    };
                    Ok(answer
                        .await?
                        .map(|body| body.map_err(broken).boxed_unsync()))
                })
            }
            Inner::Tcp(http) => http.send(request),
        }
    }
}

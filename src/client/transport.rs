//! One transport for two places: HTTP/2 over a Unix socket, or HTTP over TCP.

use std::path::Path;

use connectrpc::ConnectError;
use connectrpc::client::{
    ClientBody, ClientTransport, Http2Connection, HttpClient, SharedHttp2Connection,
};
use futures::future::BoxFuture;
use http::{Request, Response, Uri};

/// Requests that may wait for the one connection of a Unix socket.
const PENDING_REQUESTS: usize = 256;

/// Carries requests to a control plane.
#[derive(Clone)]
pub struct Transport {
    inner: Inner,
    base: Uri,
    endpoint: String,
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each client, and it is not kept in collections"
)]
#[derive(Clone)]
enum Inner {
    Unix(SharedHttp2Connection),
    Http(HttpClient),
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

    /// A control plane at `http://authority`.
    pub fn http(base: Uri) -> Self {
        Self {
            inner: Inner::Http(HttpClient::plaintext()),
            endpoint: base.to_string().trim_end_matches('/').to_owned(),
            base,
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
}

impl ClientTransport for Transport {
    type ResponseBody = hyper::body::Incoming;
    type Error = ConnectError;

    fn send(
        &self,
        request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Self::ResponseBody>, Self::Error>> {
        match &self.inner {
            Inner::Unix(connection) => connection.send(request),
            Inner::Http(client) => client.send(request),
        }
    }
}

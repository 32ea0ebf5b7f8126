//! The same services over TCP, for clients that are not of this package; closed unless asked for.
//!
//! There is no login: whoever reaches the port can run code as the user of this platform. So it is
//! a loopback port unless somebody insists, and browsers are kept out, for they reach loopback
//! ports on behalf of any page: a request must name this machine in `Host`, which a name that
//! was pointed at 127.0.0.1 does not, and carry no `Origin`, which every page's request does.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::super::gateway::Complaint;

/// How the caller reached this platform: `http://127.0.0.1:8090`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached(pub String);

/// The port for other clients, which opens and closes while the platform runs.
#[derive(Default)]
pub struct Door {
    open: Mutex<Option<Open>>,
    /// `localhost:PORT` while it is open, for apps that ask their way back.
    pub shown: Arc<ArcSwap<String>>,
}

struct Open {
    address: SocketAddr,
    /// Ends with all its connections when it is dropped.
    _accepting: AbortOnDropHandle<()>,
}

impl Door {
    /// Opens at `address` and closes where it was open before; tells the address with its port.
    pub async fn open(&self, address: SocketAddr, router: Router) -> std::io::Result<SocketAddr> {
        if let Some(present) = self.address()
            && present == address
        {
            return Ok(present);
        }
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let router = router.layer(middleware::from_fn(guard));
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, router)));
        self.set(Some(Open {
            address,
            _accepting: accepting,
        }));
        Ok(address)
    }

    pub fn close(&self) {
        self.set(None);
    }

    /// Where it is open.
    pub fn address(&self) -> Option<SocketAddr> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().map(|open| open.address)
    }

    fn set(&self, open: Option<Open>) {
        let shown = open
            .as_ref()
            .map(|open| format!("localhost:{}", open.address.port()));
        self.shown.store(Arc::new(shown.unwrap_or_default()));
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = open;
    }
}

async fn accept(listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    let mut complaint = Complaint::default();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely; some come back as connections end.
                    complaint.make(&error);
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            // A client that goes away is its own business.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn guard(mut request: Request, next: Next) -> Response {
    match admit(request.headers(), request.uri()) {
        Ok(reached) => {
            request.extensions_mut().insert(reached);
            next.run(request).await
        }
        Err(reason) => {
            // In the words of the protocol, with a code that no client tries again or logs in for.
            let body = serde_json::json!({"code": "permission_denied", "message": reason});
            let json = [(header::CONTENT_TYPE, "application/json")];
            (StatusCode::FORBIDDEN, json, body.to_string()).into_response()
        }
    }
}

fn admit(headers: &HeaderMap, uri: &Uri) -> Result<Reached, &'static str> {
    if headers.contains_key(header::ORIGIN) {
        return Err("this port is not for web pages");
    }
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    // HTTP/2 tells it in `:authority`.
    let authority = text(header::HOST).or_else(|| Some(uri.authority()?.as_str()));
    let authority = authority.unwrap_or_default();
    if !names_this_machine(authority) {
        return Err("`Host` has to name this machine: `localhost` or an address in numbers");
    }
    // A proxy with TLS in front says so, and uploads have to come back through it.
    let secure = headers
        .get("x-forwarded-proto")
        .is_some_and(|value| value.as_bytes().starts_with(b"https"));
    let scheme = if secure { "https" } else { "http" };
    Ok(Reached(format!("{scheme}://{authority}")))
}

/// Names below `localhost` and addresses cannot be pointed elsewhere by somebody else's DNS. The
/// last one is how containers call the machine that they run on.
fn names_this_machine(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<http::uri::Authority>() else {
        return false;
    };
    let host = authority.host();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || host == "host.docker.internal"
        || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    header::HeaderName::from_static(name),
                    value.parse().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn names_that_others_could_point_here_are_refused() {
        let path = Uri::from_static("/x");
        for host in [
            "localhost:8090",
            "127.0.0.1:8090",
            "[::1]:8090",
            "a.localhost",
            "10.0.0.5",
        ] {
            let reached = admit(&headers(&[("host", host)]), &path).unwrap();
            assert_eq!(reached.0, format!("http://{host}"));
        }
        for host in [
            "evil.example:8090",
            "localhost.evil.example",
            "",
            "127.0.0.1.evil.example",
            "a@b:c",
        ] {
            assert!(admit(&headers(&[("host", host)]), &path).is_err(), "{host}");
        }
    }

    #[test]
    fn browsers_are_kept_out_and_proxies_with_tls_are_seen() {
        let path = Uri::from_static("/x");
        let page = headers(&[("host", "localhost"), ("origin", "http://localhost")]);
        assert!(admit(&page, &path).is_err());
        let proxied = headers(&[("host", "localhost:443"), ("x-forwarded-proto", "https")]);
        assert_eq!(admit(&proxied, &path).unwrap().0, "https://localhost:443");
        let h2 = Uri::from_static("http://127.0.0.1:1/x");
        assert_eq!(
            admit(&HeaderMap::new(), &h2).unwrap().0,
            "http://127.0.0.1:1"
        );
    }

    #[tokio::test]
    async fn closing_ends_what_is_connected() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let door = Door::default();
        let router = Router::new().route("/", axum::routing::get(async || "ok"));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let address = door.open(any, router.clone()).await.unwrap();
        assert_eq!(door.open(address, router).await.unwrap(), address);
        assert_eq!(**door.shown.load(), format!("localhost:{}", address.port()));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        door.close();
        let mut rest = Vec::new();
        // Ended or reset: both are the end.
        let _ = stream.read_to_end(&mut rest).await;
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
        assert_eq!(door.address(), None);
    }
}

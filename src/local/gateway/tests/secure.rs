//! TLS at the ports that apps have anyway, and web sockets over HTTP/2.

use base64::Engine;
use http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::{Method, Request, Version};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper::ext::Protocol;
use hyper_util::rt::TokioExecutor;
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::tls::{Trust, client_config};

struct Place {
    _folder: tempfile::TempDir,
    authority: Arc<Authority>,
    listener: AppListener,
}

async fn listen(target: Target) -> Place {
    crate::tls::install();
    let folder = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::at(folder.path().join("tls")));
    let route = Route::new(target);
    Place {
        listener: AppListener::bind(None, route, &authority).await.unwrap(),
        _folder: folder,
        authority,
    }
}

impl Place {
    async fn connect(&self, host: &str, h2: bool) -> std::io::Result<TlsStream<TcpStream>> {
        let trust = Trust {
            ca_file: Some(self.authority.certificate()),
            skip_verify: false,
        };
        let mut config = client_config(&trust).unwrap();
        if !h2 {
            config.alpn_protocols.clear();
        }
        let stream = TcpStream::connect(("127.0.0.1", self.listener.port())).await?;
        let name = ServerName::try_from(host.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }
}

/// Tells what the app saw of the request.
fn mirror() -> Router {
    Router::new().route(
        "/",
        any(|request: Request<Body>| async move {
            let proto = request.headers()["x-forwarded-proto"]
                .to_str()
                .unwrap()
                .to_owned();
            let host = request.headers()["host"].to_str().unwrap().to_owned();
            format!("{proto} {host}")
        }),
    )
}

async fn text(response: http::Response<hyper::body::Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn tls_is_spoken_at_the_same_port_once_there_is_an_authority() {
    let app = App::start(mirror()).await;
    let place = listen(app.target()).await;
    assert!(place.authority.acceptor().unwrap().is_none());
    let port = place.listener.port();
    let mut early = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    early.write_all(&[22, 3, 1, 0, 1, 0]).await.unwrap();
    let mut nothing = Vec::new();
    // Reset or ended: nobody answers.
    let _ = within(early.read_to_end(&mut nothing)).await;
    assert!(nothing.is_empty());

    place.authority.ensure(&[]).unwrap();
    let stream = place.connect("web.localhost", false).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/").header("host", "web.localhost");
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap());
    assert_eq!(
        text(within(response).await.unwrap()).await,
        "https web.localhost"
    );

    let stream = place.connect("127.0.0.1", true).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let executor = TokioExecutor::new();
    let (mut sender, connection) = http2::handshake(executor, TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://127.0.0.1/").version(Version::HTTP_2);
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap());
    assert_eq!(
        text(within(response).await.unwrap()).await,
        "https 127.0.0.1"
    );

    // Without TLS nothing has changed.
    let plain = reqwest::get(url(&place.listener, "/")).await.unwrap();
    assert_eq!(
        plain.text().await.unwrap(),
        format!("http 127.0.0.1:{port}")
    );
    assert!(place.connect("bank.example", false).await.is_err());
}

/// Accepts a WebSocket as libraries do, then repeats what it hears.
async fn echo_socket(mut request: Request<Body>) -> http::Response<Body> {
    let headers = request.headers();
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .map(|key| key.as_bytes().len());
    let asked = request.method() == Method::GET
        && headers
            .get("upgrade")
            .is_some_and(|name| name == "websocket")
        && headers
            .get("connection")
            .is_some_and(|name| name == "upgrade")
        && headers
            .get("sec-websocket-protocol")
            .is_some_and(|name| name == "chat");
    if !asked || key != Some(24) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        let mut heard = [0; 5];
        while stream.read_exact(&mut heard).await.is_ok() {
            stream.write_all(&heard).await.unwrap();
        }
    });
    http::Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, "anything")
        .header("sec-websocket-protocol", "chat")
        .body(Body::empty())
        .unwrap()
}

fn socket_request(path: &str, protocol: &'static str) -> Request<Empty<Bytes>> {
    Request::connect(format!("http://localhost{path}"))
        .version(Version::HTTP_2)
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .body(Empty::new())
        .unwrap()
}

#[tokio::test]
async fn a_web_socket_over_http_2_reaches_an_app_of_http_1() {
    let router = Router::new()
        .route("/socket", any(echo_socket))
        .route("/plain", get(|| async { "ok" }));
    let app = App::start(router).await;
    let place = listen(app.target()).await;
    let stream = TcpStream::connect(("127.0.0.1", place.listener.port()))
        .await
        .unwrap();
    let executor = TokioExecutor::new();
    let (mut sender, connection) = http2::handshake(executor, TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    // What the gateway offers is known when its first answer is.
    let request = Request::get("http://localhost/plain").version(Version::HTTP_2);
    let response = sender.send_request(request.body(Empty::new()).unwrap());
    assert_eq!(text(within(response).await.unwrap()).await, "ok");

    let response = within(sender.send_request(socket_request("/socket", "websocket")));
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    for gone in ["connection", "upgrade", "sec-websocket-accept"] {
        assert!(!response.headers().contains_key(gone), "{gone}");
    }
    let mut tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    for word in [b"hello", b"again"] {
        tunnel.write_all(word).await.unwrap();
        let mut heard = [0; 5];
        within(tunnel.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, word);
    }
    assert_eq!(app.backend.in_flight(), 1);
    drop(tunnel);
    within(app.backend.drained()).await;

    let refused = within(sender.send_request(socket_request("/plain", "websocket")));
    assert_eq!(refused.await.unwrap().status(), StatusCode::BAD_GATEWAY);
    let unknown = within(sender.send_request(socket_request("/socket", "connect-udp")));
    assert_eq!(
        unknown.await.unwrap().status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[tokio::test]
async fn a_web_socket_to_an_app_of_http_2_is_refused_with_the_reason() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let terms = crate::local::gateway::Terms {
        h2: true,
        ..Default::default()
    };
    let backend = Backend::with(socket.local_addr().unwrap(), terms);
    let place = listen(Target::Backends(vec![backend])).await;
    let key = base64::engine::general_purpose::STANDARD.encode([7; 16]);
    let request = reqwest::Client::new()
        .get(url(&place.listener, "/"))
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header(SEC_WEBSOCKET_KEY, key);
    let response = within(request.send()).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_IMPLEMENTED);
    assert!(response.text().await.unwrap().contains("h2c"));
}

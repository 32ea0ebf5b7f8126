//! The gateway against real sockets: what clients and apps see of each other through it.
//!
//! Most apps here are axum routers; those that misbehave, and clients that say things no library
//! lets them say, are written as bytes on a stream.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::task::TaskTracker;

use super::super::authority::Authority;
use super::closing::Closing;
use super::forward::{Routing, Site};
use super::listener::serve;
use super::{AppListener, Backend, Error, Route, Target};
use crate::error::{Code, Diagnostic};

mod protocols;
mod secure;

/// An app on a free port; dropping it cuts all of its connections, like a killed process.
struct App {
    address: std::net::SocketAddr,
    backend: Arc<Backend>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl App {
    async fn start(router: Router) -> Self {
        Self::start_limited(router, None).await
    }

    async fn start_limited(router: Router, request_timeout: Option<Duration>) -> Self {
        let router = router.layer(DefaultBodyLimit::disable());
        Self::raw_limited(request_timeout, move |stream| {
            let service = TowerToHyperService::new(router.clone());
            async move {
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            }
        })
        .await
    }

    async fn raw<F, S>(serve: S) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(TcpStream) -> F + Send + 'static,
    {
        Self::raw_limited(None, serve).await
    }

    async fn raw_limited<F, S>(request_timeout: Option<Duration>, serve: S) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(TcpStream) -> F + Send + 'static,
    {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let backend = Backend::new(address, request_timeout);
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = socket.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                open.spawn(serve(stream));
            }
        });
        Self {
            address,
            backend,
            connections,
            task,
        }
    }

    fn target(&self) -> Target {
        Target::Backends(vec![Arc::clone(&self.backend)])
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn nobody_vouches() -> Arc<Authority> {
    Arc::new(Authority::at("/nowhere".into()))
}

async fn listen(target: Target) -> AppListener {
    // Tests ask with a client that wants one, if only for `http:`.
    crate::tls::install();
    AppListener::bind(None, Route::new(target), &nobody_vouches())
        .await
        .unwrap()
}

fn url(listener: &AppListener, path: &str) -> String {
    format!("http://127.0.0.1:{}{path}", listener.port())
}

/// A backend on a port that nobody listens on.
async fn nobody() -> Target {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Target::Backends(vec![Backend::new(socket.local_addr().unwrap(), None)])
}

/// Sends bytes and returns all that comes back until the gateway closes.
async fn say(listener: &AppListener, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Reads until `end` was seen.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        seen.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(seen).unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("took longer than 20 s")
}

/// Resolves its receiver when it is dropped: a request that was called off.
struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(());
        }
    }
}

#[tokio::test]
async fn passes_requests_and_responses() {
    let router = Router::new()
        .route(
            "/head",
            get(|headers: HeaderMap| async move {
                assert!(!headers.contains_key("connection"));
                let text = |name: &str| headers[name].to_str().unwrap().to_owned();
                [text("host"), text("x-forwarded-for"), text("forwarded")].join("|")
            }),
        )
        .route("/echo", any(|body: Bytes| async { body }));
    let app = App::start(router).await;
    let listener = listen(app.target()).await;
    let client = reqwest::Client::new();
    let head = client.get(url(&listener, "/head")).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    let host = format!("127.0.0.1:{}", listener.port());
    let expected = format!("{host}|127.0.0.1|for=127.0.0.1;host=\"{host}\";proto=http");
    assert_eq!(head.text().await.unwrap(), expected);
    for _ in 0..5 {
        let echo = client.post(url(&listener, "/echo")).body("hello");
        let echo = echo.send().await.unwrap();
        assert_eq!(echo.text().await.unwrap(), "hello");
    }
    assert_eq!(app.connections.load(Ordering::SeqCst), 1, "kept alive");
    within(app.backend.drained()).await;
    assert_eq!(app.backend.in_flight(), 0);
}

const CHUNK: usize = 64 * 1024;
const CHUNKS: usize = 800;

/// 50 MB that differ from chunk to chunk, counted as they are asked for.
fn large(asked: Arc<AtomicUsize>) -> impl futures::Stream<Item = Result<Bytes, Infallible>> {
    futures::stream::iter(0..CHUNKS).map(move |i| {
        asked.fetch_add(1, Ordering::SeqCst);
        Ok(Bytes::from(vec![i.to_le_bytes()[0]; CHUNK]))
    })
}

async fn digest(mut body: impl futures::Stream<Item = Bytes> + Unpin) -> String {
    let mut hasher = blake3::Hasher::new();
    while let Some(chunk) = body.next().await {
        hasher.update(&chunk);
    }
    hasher.finalize().to_string()
}

async fn expected_digest() -> String {
    digest(large(Arc::default()).map(|chunk| chunk.unwrap())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_fifty_megabytes_both_ways() {
    let router = Router::new()
        .route(
            "/up",
            post(|body: Body| async {
                digest(Box::pin(
                    body.into_data_stream().map(|chunk| chunk.unwrap()),
                ))
                .await
            }),
        )
        .route(
            "/down",
            get(|| async { Body::from_stream(large(Arc::default())) }),
        );
    let app = App::start(router).await;
    let listener = listen(app.target()).await;
    let client = reqwest::Client::new();
    let upload = client
        .post(url(&listener, "/up"))
        .body(reqwest::Body::wrap_stream(large(Arc::default())));
    let seen = upload.send().await.unwrap().text().await.unwrap();
    assert_eq!(seen, expected_digest().await);
    let download = client.get(url(&listener, "/down")).send().await.unwrap();
    let chunks = download.bytes_stream().map(|chunk| chunk.unwrap());
    assert_eq!(digest(Box::pin(chunks)).await, expected_digest().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_does_not_read_holds_the_client_back() {
    let (resume, resumed) = oneshot::channel::<()>();
    let resumed = Arc::new(std::sync::Mutex::new(Some(resumed)));
    let router = Router::new().route(
        "/",
        post(move |body: Body| {
            let resumed = resumed.lock().unwrap().take().unwrap();
            async move {
                resumed.await.unwrap();
                digest(Box::pin(
                    body.into_data_stream().map(|chunk| chunk.unwrap()),
                ))
                .await
            }
        }),
    );
    let app = App::start(router).await;
    let listener = listen(app.target()).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let body = reqwest::Body::wrap_stream(large(Arc::clone(&asked)));
    let upload = reqwest::Client::new().post(url(&listener, "/")).body(body);
    let upload = tokio::spawn(upload.send());
    // There is no event for "nothing moves any more": look until two looks agree.
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = asked.load(Ordering::SeqCst);
        if now > 0 && now == before {
            break;
        }
        before = now;
    }
    // Four socket buffers may be full, which Linux lets grow to some MB each.
    assert!(before * CHUNK < 36 << 20, "{before} chunks were taken");
    resume.send(()).unwrap();
    let seen = upload.await.unwrap().unwrap().text().await.unwrap();
    assert_eq!(seen, expected_digest().await);
}

#[tokio::test]
async fn an_event_arrives_before_the_stream_ends() {
    let (events, receiver) = mpsc::unbounded_channel::<&'static str>();
    let receiver = Arc::new(std::sync::Mutex::new(Some(receiver)));
    let router = Router::new().route(
        "/",
        get(move || {
            let mut receiver = receiver.lock().unwrap().take().unwrap();
            let stream =
                futures::stream::poll_fn(move |cx| receiver.poll_recv(cx)).map(Ok::<_, Infallible>);
            async { Body::from_stream(stream) }
        }),
    );
    let app = App::start(router).await;
    let listener = listen(app.target()).await;
    let mut response = reqwest::get(url(&listener, "/")).await.unwrap();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        events.send(event).unwrap();
        let seen = within(response.chunk()).await.unwrap().unwrap();
        assert_eq!(seen, event);
    }
    assert_eq!(app.backend.in_flight(), 1);
    drop(events);
    assert_eq!(response.chunk().await.unwrap(), None);
    within(app.backend.drained()).await;
}

fn upgrade_echo() -> Router {
    Router::new().route(
        "/ws",
        get(|mut request: Request| async move {
            assert_eq!(request.headers()["connection"], "upgrade");
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let stream = TokioIo::new(upgraded.await.unwrap());
                let (mut read, mut write) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
            let headers = [("connection", "upgrade"), ("upgrade", "websocket")];
            (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
        }),
    )
}

const UPGRADE: &str =
    "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";

#[tokio::test]
async fn upgraded_connections_carry_bytes_and_count_in_flight() {
    let app = App::start(upgrade_echo()).await;
    let listener = listen(app.target()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .unwrap();
    stream.write_all(UPGRADE.as_bytes()).await.unwrap();
    let head = within(read_until(&mut stream, "\r\n\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: websocket"), "{head}");
    for word in ["ping", "pong"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        assert_eq!(within(read_until(&mut stream, word)).await, word);
    }
    assert_eq!(app.backend.in_flight(), 1);
    stream.shutdown().await.unwrap();
    assert_eq!(within(stream.read(&mut [0; 8])).await.unwrap(), 0);
    within(app.backend.drained()).await;
}

#[tokio::test]
async fn upgraded_connections_keep_their_place() {
    static ROOM: Semaphore = Semaphore::const_new(1);
    let app = App::start(upgrade_echo()).await;
    let site = Site {
        routing: Routing::One(Route::new(app.target())),
        authority: nobody_vouches(),
        tunnels: TaskTracker::new(),
        closing: Closing::default(),
        room: Some(Arc::new(ROOM.try_acquire().unwrap())),
        socket: None,
    };
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    let (stream, from) = socket.accept().await.unwrap();
    let serving = tokio::spawn(serve(stream, from, site));
    client.write_all(UPGRADE.as_bytes()).await.unwrap();
    within(read_until(&mut client, "\r\n\r\n")).await;
    within(serving).await.unwrap();
    assert_eq!(ROOM.available_permits(), 0);
    drop(client);
    drop(within(ROOM.acquire()).await.unwrap());
}

#[tokio::test]
async fn closing_cuts_upgraded_connections() {
    let app = App::start(upgrade_echo()).await;
    let listener = listen(app.target()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .unwrap();
    stream.write_all(UPGRADE.as_bytes()).await.unwrap();
    within(read_until(&mut stream, "\r\n\r\n")).await;
    within(listener.close()).await;
    assert!(matches!(
        within(stream.read(&mut [0; 8])).await,
        Ok(0) | Err(_)
    ));
    within(app.backend.drained()).await;
}

/// `/wait` never answers, `/stream` answers and never ends; both tell when they are called off.
fn endless(called: mpsc::UnboundedSender<oneshot::Receiver<()>>) -> Router {
    let watch = move || {
        let (sender, receiver) = oneshot::channel();
        called.send(receiver).unwrap();
        Dropped(Some(sender))
    };
    let again = watch.clone();
    Router::new()
        .route(
            "/wait",
            get(move || {
                let guard = watch();
                async move {
                    let _guard = guard;
                    std::future::pending::<()>().await;
                }
            }),
        )
        .route(
            "/stream",
            get(move || {
                let guard = again();
                let stream = futures::stream::once(async { Ok::<_, Infallible>("first") })
                    .chain(futures::stream::pending())
                    .map(move |item| {
                        let _held = &guard;
                        item
                    });
                async { Body::from_stream(stream) }
            }),
        )
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_request_upstream() {
    let (called, mut calls) = mpsc::unbounded_channel();
    let app = App::start(endless(called)).await;
    let listener = listen(app.target()).await;
    for (path, answers) in [("/wait", false), ("/stream", true)] {
        let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let gone = within(calls.recv()).await.unwrap();
        if answers {
            within(read_until(&mut stream, "first\r\n")).await;
        }
        assert_eq!(app.backend.in_flight(), 1);
        drop(stream);
        within(gone).await.unwrap();
        within(app.backend.drained()).await;
    }
}

#[tokio::test]
async fn a_request_over_its_time_limit_gets_a_504() {
    let (called, mut calls) = mpsc::unbounded_channel();
    let app = App::start_limited(endless(called), Some(Duration::from_millis(100))).await;
    let listener = listen(app.target()).await;
    let response = reqwest::get(url(&listener, "/wait")).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    within(calls.recv().await.unwrap()).await.unwrap();
    // Only the headers are limited.
    let mut stream = reqwest::get(url(&listener, "/stream")).await.unwrap();
    assert_eq!(stream.chunk().await.unwrap().unwrap(), "first");
    let more = tokio::time::timeout(Duration::from_millis(200), stream.chunk()).await;
    assert!(more.is_err(), "the stream stays open");
}

#[tokio::test]
async fn a_time_limit_that_no_clock_counts_to_is_none() {
    let app = App::start_limited(named(9), Some(Duration::MAX)).await;
    let listener = listen(app.target()).await;
    let response = within(reqwest::get(url(&listener, "/"))).await.unwrap();
    assert_eq!(response.text().await.unwrap(), "9 0");
}

fn named(name: usize) -> Router {
    Router::new().route(
        "/",
        any(move |body: Bytes| async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            format!("{name} {}", body.len())
        }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn swapping_under_load_loses_nothing() {
    let mut app = App::start(named(0)).await;
    let listener = listen(app.target()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for i in 0..8_usize {
        let (stop, served, url) = (stop.clone(), served.clone(), url(&listener, "/"));
        clients.spawn(async move {
            let client = reqwest::Client::new();
            while !stop.load(Ordering::SeqCst) {
                let request = match i % 2 {
                    0 => client.get(&url),
                    _ => client.post(&url).body("x".repeat(i * 1000)),
                };
                let response = request.send().await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                let text = response.text().await.unwrap();
                let size = (i % 2) * i * 1000;
                assert!(text.ends_with(&format!(" {size}")), "{text}");
                served.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    for i in 1..=20 {
        let seen = served.load(Ordering::SeqCst);
        while served.load(Ordering::SeqCst) < seen + 20 {
            assert!(clients.try_join_next().is_none(), "a client gave up");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let next = App::start(named(i)).await;
        let Target::Backends(before) = listener.route().set(next.target()) else {
            panic!("there was a backend before")
        };
        let [old] = before.try_into().expect("one backend");
        old.retire();
        within(old.drained()).await;
        assert_eq!(old.in_flight(), 0);
        app = next;
    }
    let last = reqwest::get(url(&listener, "/")).await.unwrap();
    assert_eq!(last.text().await.unwrap(), "20 0");
    stop.store(true, Ordering::SeqCst);
    clients.join_all().await;
    within(app.backend.drained()).await;
}

#[tokio::test]
async fn requests_wait_while_the_app_starts() {
    let patience = Duration::from_secs(20);
    let listener = listen(Target::Starting { patience }).await;
    let mut waiting = tokio::spawn(reqwest::get(url(&listener, "/")));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut waiting).await;
    assert!(early.is_err(), "it waits");
    let app = App::start(named(7)).await;
    listener.route().set(app.target());
    let response = within(waiting).await.unwrap().unwrap();
    assert_eq!(response.text().await.unwrap(), "7 0");
}

#[tokio::test]
async fn patience_ends_in_a_503() {
    let patience = Duration::from_millis(50);
    let listener = listen(Target::Starting { patience }).await;
    let response = reqwest::get(url(&listener, "/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(error_code(response).await, "app.starting");
}

async fn error_code(response: reqwest::Response) -> String {
    let id = response.headers()["x-request-id"].clone();
    let body: serde_json::Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!(body["error"]["request_id"], id.to_str().unwrap());
    assert!(body["error"]["message"].is_string());
    body["error"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_unavailable_app_is_told_at_once() {
    let listener = listen(Target::Unavailable {
        status: StatusCode::NOT_FOUND,
        code: "app.deactivated",
        message: "the app is deactivated".to_owned(),
    })
    .await;
    let request = reqwest::Client::new().get(url(&listener, "/"));
    let response = request.header("x-request-id", "mine").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(response.headers()["x-request-id"], "mine");
    assert_eq!(error_code(response).await, "app.deactivated");
}

#[tokio::test]
async fn a_dead_app_gets_a_502_after_a_while() {
    let listener = listen(nobody().await).await;
    let response = within(reqwest::get(url(&listener, "/"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(error_code(response).await, "app.unreachable");
}

#[tokio::test]
async fn a_request_to_a_dead_app_goes_to_its_successor_with_its_body() {
    let listener = listen(nobody().await).await;
    let request = reqwest::Client::new()
        .post(url(&listener, "/"))
        .body("12345");
    let mut waiting = tokio::spawn(request.send());
    let early = tokio::time::timeout(Duration::from_millis(100), &mut waiting).await;
    assert!(early.is_err(), "it tries again");
    let app = App::start(named(1)).await;
    listener.route().set(app.target());
    let response = within(waiting).await.unwrap().unwrap();
    assert_eq!(response.text().await.unwrap(), "1 5");
}

async fn answer_once(stream: &mut TcpStream) {
    read_until(stream, "\r\n\r\n").await;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    stream.write_all(answer).await.unwrap();
}

/// Answers the first request of each connection and hangs up when the second one came.
async fn forgetful(mut stream: TcpStream) {
    answer_once(&mut stream).await;
    let _ = stream.read(&mut [0; 1024]).await;
}

#[tokio::test]
async fn a_lost_kept_alive_connection_is_replaced_for_idempotent_requests_only() {
    let app = App::raw(forgetful).await;
    let listener = listen(app.target()).await;
    let client = reqwest::Client::new();
    for _ in 0..4 {
        let response = client.get(url(&listener, "/")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.text().await.unwrap(), "ok");
    }
    assert_eq!(app.connections.load(Ordering::SeqCst), 4);
    // The app read this one before it hung up, so it may have done what was asked.
    let response = client.post(url(&listener, "/")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(error_code(response).await, "app.broken_off");
    assert_eq!(app.connections.load(Ordering::SeqCst), 4);
}

/// Hangs up on the second request of a connection without having read it.
async fn deaf(mut stream: TcpStream) {
    answer_once(&mut stream).await;
    let _ = stream.peek(&mut [0; 1]).await;
}

#[tokio::test]
async fn a_post_without_a_body_is_sent_again_when_nobody_read_it() {
    let app = App::raw(deaf).await;
    let listener = listen(app.target()).await;
    let client = reqwest::Client::new();
    for _ in 0..4 {
        let response = client.post(url(&listener, "/")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(app.connections.load(Ordering::SeqCst), 4);
}

/// Hangs up on its first `count` connections without having read what came, as the system does for a
/// process that was killed.
async fn killed_at_first(count: usize) -> App {
    let left = AtomicUsize::new(count);
    App::raw(move |mut stream: TcpStream| {
        let dies = left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        async move {
            if dies {
                let _ = stream.peek(&mut [0; 1]).await;
            } else {
                let _ = stream.read(&mut [0; 4096]).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await
}

#[tokio::test]
async fn what_nobody_read_is_sent_again() {
    // With `te`, which is not for the short way, or without.
    for special in [false, true] {
        for body in ["", "small"] {
            let app = killed_at_first(1).await;
            let listener = listen(app.target()).await;
            let mut request = reqwest::Client::new().post(url(&listener, "/"));
            if special {
                request = request.header("te", "trailers");
            }
            let response = request.body(body).send().await.unwrap();
            // What streams is gone when it was sent; only the short way still has it.
            let whole = !special || body.is_empty();
            assert_eq!(response.status().is_success(), whole, "{special} {body}");
        }
    }
}

#[tokio::test]
async fn a_large_post_is_not_sent_again() {
    let app = killed_at_first(1).await;
    let listener = listen(app.target()).await;
    let request = reqwest::Client::new().post(url(&listener, "/"));
    let response = request.body("x".repeat(8000)).send().await.unwrap();
    assert_eq!(error_code(response).await, "app.broken_off");
}

#[tokio::test]
async fn an_app_that_never_reads_is_given_up_soon() {
    let app = killed_at_first(usize::MAX).await;
    let listener = listen(app.target()).await;
    for special in ["x", "te"] {
        let before = app.connections.load(Ordering::SeqCst);
        let request = reqwest::Client::new().get(url(&listener, "/"));
        let response = request.header(special, "trailers").send().await.unwrap();
        assert_eq!(error_code(response).await, "app.broken_off");
        assert_eq!(app.connections.load(Ordering::SeqCst), before + 2);
    }
}

/// Answers one request per connection and closes it without having said so.
async fn curt(mut stream: TcpStream) {
    read_until(&mut stream, "\r\n\r\n").await;
    let mut body = [0; 4];
    stream.read_exact(&mut body).await.unwrap();
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    stream.write_all(answer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_the_app_has_closed_are_not_used_for_uploads() {
    let app = App::raw(curt).await;
    let listener = listen(app.target()).await;
    let client = reqwest::Client::new();
    for _ in 0..20 {
        let request = client.post(url(&listener, "/")).body("body");
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        // The answer overtakes the end of the stream by some microseconds.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(app.connections.load(Ordering::SeqCst), 20);
}

#[tokio::test]
async fn http_1_0_absolute_targets_and_missing_hosts() {
    let router = Router::new().fallback(|request: Request| async move {
        let host = request.headers()["host"].to_str().unwrap();
        // Of unknown length on purpose: HTTP/1.0 clients know no chunks.
        let text = format!("{:?} {host} {}", request.version(), request.uri());
        Body::from_stream(futures::stream::iter([Ok::<_, Infallible>(text)]))
    });
    let app = App::start(router).await;
    let listener = listen(app.target()).await;
    let old = say(&listener, "GET /a HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 OK\r\n"), "{old}");
    assert!(!old.contains("chunked"), "{old}");
    let host = format!("127.0.0.1:{}", listener.port());
    assert!(
        old.ends_with(&format!("\r\n\r\nHTTP/1.1 {host} /a")),
        "{old}"
    );
    let absolute = "GET http://x.test/b?c HTTP/1.1\r\nhost: y\r\nconnection: close\r\n\r\n";
    let absolute = say(&listener, absolute).await;
    assert!(absolute.contains("HTTP/1.1 x.test /b?c"), "{absolute}");
    let nameless = say(&listener, "GET / HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    assert!(nameless.starts_with("HTTP/1.1 400 "), "{nameless}");
}

#[tokio::test]
async fn a_client_that_expects_continue_gets_it_from_a_live_app_only() {
    let patience = Duration::from_secs(20);
    let listener = listen(Target::Starting { patience }).await;
    let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .unwrap();
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut byte = [0; 1];
    let early = tokio::time::timeout(Duration::from_millis(100), stream.peek(&mut byte)).await;
    assert!(early.is_err(), "nobody wants the body yet");
    let app = App::start(named(3)).await;
    listener.route().set(app.target());
    let go_on = within(read_until(&mut stream, "\r\n\r\n")).await;
    assert_eq!(go_on, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"12345").await.unwrap();
    let answer = within(read_until(&mut stream, "3 5")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn trailers_pass_both_ways_and_a_get_may_have_a_body() {
    let router = Router::new().route(
        "/",
        get(|request: Request| async move {
            let body = request.into_body().collect().await.unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", body.trailers().unwrap()["x-sum"].clone());
            let frames = [Frame::data(body.to_bytes()), Frame::trailers(trailers)];
            let frames = futures::stream::iter(frames.map(Ok::<_, Infallible>));
            let body = http_body_util::StreamBody::new(frames);
            ([("trailer", "x-sum")], Body::new(body)).into_response()
        }),
    );
    let app = App::start(router).await;
    let listener = listen(app.target()).await;
    let answer = say(
        &listener,
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close, te\r\nte: trailers\r\ntrailer: x-sum\r\n\
         transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n",
    )
    .await;
    assert!(
        answer.contains("3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_head_tells_the_length_and_has_no_body() {
    let app = App::start(Router::new().route("/", get(|| async { "12345" }))).await;
    let listener = listen(app.target()).await;
    let head = "HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answer = say(&listener, head).await;
    assert!(answer.contains("content-length: 5\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_head_that_is_refused_has_no_body_either() {
    let listener = listen(Target::Unavailable {
        status: StatusCode::NOT_FOUND,
        code: "app.deactivated",
        message: "the app is deactivated".to_owned(),
    })
    .await;
    let head = "HEAD / HTTP/1.1\r\nhost: a\r\n";
    let both = format!("{head}\r\n{head}connection: close\r\n\r\n");
    let answers = within(say(&listener, &both)).await;
    let heads: Vec<_> = answers.split_terminator("\r\n\r\n").collect();
    assert_eq!(heads.len(), 2, "{answers}");
    for head in heads {
        assert!(head.starts_with("HTTP/1.1 404 "), "{answers}");
        assert!(head.contains("\r\ncontent-length: "), "{answers}");
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_arrives() {
    let refuse = post(|| async { StatusCode::PAYLOAD_TOO_LARGE });
    let app = App::start(Router::new().route("/", refuse)).await;
    let listener = listen(app.target()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\nbegin";
    stream.write_all(head).await.unwrap();
    let answer = within(read_until(&mut stream, "\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    drop(stream);
    within(app.backend.drained()).await;
}

#[tokio::test]
async fn both_loopback_addresses_answer() {
    let app = App::start(named(4)).await;
    let listener = listen(app.target()).await;
    let mut hosts = vec!["127.0.0.1", "localhost"];
    if TcpListener::bind("[::1]:0").await.is_ok() {
        hosts.push("[::1]");
    }
    for host in hosts {
        let url = format!("http://{host}:{}/", listener.port());
        let response = reqwest::get(url).await.unwrap();
        assert_eq!(response.text().await.unwrap(), "4 0", "{host}");
    }
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let mut hosts = vec!["127.0.0.1:0"];
    if TcpListener::bind("[::1]:0").await.is_ok() {
        hosts.push("[::1]:0");
    }
    for host in hosts {
        let other = TcpListener::bind(host).await.unwrap();
        let port = other.local_addr().unwrap().port();
        let route = Route::new(nobody().await);
        let error = AppListener::bind(Some(port), route, &nobody_vouches())
            .await
            .err()
            .unwrap();
        assert!(matches!(error, Error::PortTaken { .. }), "{error:?}");
        assert_eq!(error.code(), Code::LocalPort);
        assert!(error.to_string().contains(&port.to_string()));
        assert!(error.hints()[0].contains(&port.to_string()));
    }
}

#[tokio::test]
async fn closing_frees_the_port_and_can_be_repeated() {
    let app = App::start(named(5)).await;
    let listener = listen(app.target()).await;
    let client = reqwest::Client::new();
    client.get(url(&listener, "/")).send().await.unwrap();
    within(listener.close()).await;
    within(listener.close()).await;
    // A client that knows no connection from before.
    let client = reqwest::Client::new();
    let refused = client.get(url(&listener, "/")).send().await;
    assert!(refused.unwrap_err().is_connect());
    let route = listener.route().clone();
    let again = AppListener::bind(Some(listener.port()), route, &nobody_vouches())
        .await
        .unwrap();
    let response = client.get(url(&again, "/")).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "5 0");
}

#[tokio::test]
async fn closing_lets_a_request_end_first() {
    let (release, released) = oneshot::channel::<()>();
    let (called, mut calls) = mpsc::unbounded_channel();
    let released = Arc::new(std::sync::Mutex::new(Some(released)));
    let router = Router::new().route(
        "/",
        get(move || {
            let released = released.lock().unwrap().take().unwrap();
            called.send(()).unwrap();
            async move {
                released.await.unwrap();
                "done"
            }
        }),
    );
    let app = App::start(router).await;
    let listener = Arc::new(listen(app.target()).await);
    let request = tokio::spawn(reqwest::get(url(&listener, "/")));
    within(calls.recv()).await.unwrap();
    let closing = Arc::clone(&listener);
    let closing = tokio::spawn(async move { closing.close().await });
    while TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .is_ok()
    {
        tokio::task::yield_now().await;
    }
    assert!(!closing.is_finished());
    release.send(()).unwrap();
    let response = within(request).await.unwrap().unwrap();
    assert_eq!(response.text().await.unwrap(), "done");
    within(closing).await.unwrap();
}

#[tokio::test]
async fn idle_connections_to_the_app_do_not_stay() {
    let (ended, mut ends) = mpsc::unbounded_channel();
    let app = App::raw(move |mut stream| {
        let ended = ended.clone();
        async move {
            answer_once(&mut stream).await;
            ended.send(stream.read(&mut [0; 8]).await.unwrap()).unwrap();
        }
    })
    .await;
    let listener = listen(app.target()).await;
    for retire in [false, true] {
        let response = reqwest::get(url(&listener, "/")).await.unwrap();
        assert_eq!(response.text().await.unwrap(), "ok");
        if retire {
            app.backend.retire();
        }
        assert_eq!(within(ends.recv()).await, Some(0), "closed in order");
    }
}

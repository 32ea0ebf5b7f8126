//! Protocols between client and app: HTTP/2 in and out, names, and the framing of plain answers.

use futures::{FutureExt, TryStreamExt};
use http::{Request, Response, Version};
use http_body_util::StreamBody;
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;

use super::super::{NameListener, Names, Terms};
use super::*;

/// An app that speaks HTTP/2 without TLS and nothing else.
struct H2App {
    backend: Arc<Backend>,
    task: JoinHandle<()>,
}

impl H2App {
    async fn start(router: Router) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let terms = Terms {
            h2: true,
            ..Terms::default()
        };
        let backend = Backend::with(socket.local_addr().unwrap(), terms);
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = socket.accept().await {
                let service = TowerToHyperService::new(router.clone());
                open.spawn(async move {
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .max_concurrent_streams(100_u32)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { backend, task }
    }

    fn target(&self) -> Target {
        Target::Backends(vec![Arc::clone(&self.backend)])
    }
}

impl Drop for H2App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Frames = StreamBody<futures::stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// A connection of HTTP/2 to the gateway, as gRPC clients open it.
async fn h2_client(listener: &AppListener) -> http2::SendRequest<Frames> {
    let stream = TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

fn frames(stream: impl futures::Stream<Item = Frame<Bytes>> + Send + 'static) -> Frames {
    StreamBody::new(stream.map(Ok).boxed())
}

fn call(listener: &AppListener, body: Frames) -> Request<Frames> {
    Request::post(url(listener, "/echo.Echo/Say"))
        .version(Version::HTTP_2)
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap()
}

/// Echoes each piece as it comes and ends with a status, as gRPC does.
fn echo() -> Router {
    Router::new().route(
        "/echo.Echo/Say",
        post(|request: Request<Body>| async move {
            assert_eq!(request.version(), Version::HTTP_2);
            assert_eq!(request.headers()["te"], "trailers");
            let pieces = request.into_body().into_data_stream();
            let pieces = pieces.map_ok(Frame::data);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let end = futures::stream::iter([Ok(Frame::trailers(trailers))]);
            Response::builder()
                .header("content-type", "application/grpc")
                .body(Body::new(StreamBody::new(pieces.chain(end))))
                .unwrap()
        }),
    )
}

#[tokio::test]
async fn a_grpc_call_streams_both_ways_and_ends_with_trailers() {
    let app = H2App::start(echo()).await;
    let listener = listen(app.target()).await;
    let mut client = h2_client(&listener).await;
    let (say, said) = mpsc::unbounded_channel::<&'static str>();
    let said = futures::stream::unfold(said, |mut said| async {
        let word = said.recv().await?;
        Some((Frame::data(Bytes::from(word)), said))
    });
    let response = client.send_request(call(&listener, frames(said)));
    let mut body = within(response).await.unwrap().into_body();
    for word in ["one", "two", "three"] {
        // Each is answered before the next one is said.
        say.send(word).unwrap();
        let frame = within(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    assert_eq!(app.backend.in_flight(), 1);
    drop(say);
    let last = within(body.frame()).await.unwrap().unwrap();
    assert_eq!(last.into_trailers().unwrap()["grpc-status"], "0");
    drop(body);
    within(app.backend.drained()).await;
}

#[tokio::test]
async fn many_streams_pass_at_the_same_time() {
    let app = H2App::start(echo()).await;
    let listener = listen(app.target()).await;
    let client = h2_client(&listener).await;
    let calls = (0..100).map(|n| {
        let mut client = client.clone();
        let text = n.to_string();
        let body = frames(futures::stream::iter([Frame::data(Bytes::from(
            text.clone(),
        ))]));
        let request = call(&listener, body);
        async move {
            let response = client.send_request(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
            assert_eq!(body.to_bytes(), text);
        }
    });
    within(futures::future::join_all(calls)).await;
}

#[tokio::test]
async fn more_streams_last_than_a_connection_to_the_app_takes() {
    let (called, _calls) = mpsc::unbounded_channel();
    let app = H2App::start(endless(called)).await;
    let listener = listen(app.target()).await;
    let mut client = h2_client(&listener).await;
    let mut open = Vec::new();
    for _ in 0..120 {
        let request = Request::get(url(&listener, "/stream"))
            .body(frames(futures::stream::empty()))
            .unwrap();
        open.push(within(client.send_request(request)).await.unwrap());
    }
    assert_eq!(app.backend.in_flight(), 120);
    assert_eq!(app.backend.shared_connections(), 2);
    drop(open);
    within(app.backend.drained()).await;
    let swept = async {
        while app.backend.shared_connections() > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(swept).await;
}

#[tokio::test]
async fn a_caller_that_leaves_resets_its_stream() {
    let (called, mut calls) = mpsc::unbounded_channel();
    let app = H2App::start(endless(called)).await;
    let listener = listen(app.target()).await;
    let mut client = h2_client(&listener).await;
    let request = Request::get(url(&listener, "/stream"))
        .body(frames(futures::stream::empty()))
        .unwrap();
    let mut body = within(client.send_request(request))
        .await
        .unwrap()
        .into_body();
    let gone = within(calls.recv()).await.unwrap();
    within(body.frame()).await.unwrap().unwrap();
    drop(body);
    within(gone).await.unwrap();
    within(app.backend.drained()).await;
}

#[tokio::test]
async fn clients_of_http_1_reach_an_app_of_http_2_and_the_other_way_round() {
    let told = || {
        Router::new().route(
            "/",
            any(|request: Request<Body>| async move {
                let version = request.version();
                let host = request
                    .uri()
                    .authority()
                    .map(ToString::to_string)
                    .or_else(|| Some(request.headers().get("host")?.to_str().ok()?.to_owned()));
                let body = request.into_body().collect().await.unwrap().to_bytes();
                format!("{version:?} {} {}", host.unwrap(), body.len())
            }),
        )
    };
    let new = H2App::start(told()).await;
    let listener = listen(new.target()).await;
    let host = format!("127.0.0.1:{}", listener.port());
    let client = reqwest::Client::new();
    for length in [0, 7, 100_000] {
        let request = client.post(url(&listener, "/")).body("x".repeat(length));
        let text = request.send().await.unwrap().text().await.unwrap();
        assert_eq!(text, format!("HTTP/2.0 {host} {length}"));
    }
    let old = App::start(told()).await;
    listener.route().set(old.target());
    let mut client = h2_client(&listener).await;
    let body = frames(futures::stream::iter([Frame::data(Bytes::from("12345"))]));
    let request = Request::post(url(&listener, "/")).body(body).unwrap();
    let response = within(client.send_request(request)).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, format!("HTTP/1.1 {host} 5"));
}

#[tokio::test]
async fn one_port_serves_all_apps_by_name() {
    let (one, two) = (App::start(named(1)).await, App::start(named(2)).await);
    let (first, second) = (Route::new(one.target()), Route::new(two.target()));
    let names = Arc::new(Names::default());
    names.publish("p/d/one", &["one-p-d.localhost".to_owned()], &first);
    names.publish("p/d/two", &["shop.example".to_owned()], &second);
    let listener = NameListener::bind(None, names, &nobody_vouches())
        .await
        .unwrap();
    let client = reqwest::Client::new();
    let port = listener.port();
    for (host, seen) in [
        (format!("one-p-d.localhost:{port}"), "1 0"),
        ("SHOP.example".to_owned(), "2 0"),
    ] {
        let request = client.get(format!("http://127.0.0.1:{port}/"));
        let response = request.header("host", host).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), seen);
    }
    let nobody = client.get(format!("http://127.0.0.1:{port}/")).send();
    let nobody = nobody.await.unwrap();
    assert_eq!(nobody.status(), StatusCode::NOT_FOUND);
    assert_eq!(error_code(nobody).await, "app.not_found");
    assert_eq!(first.meter().totals().requests, 1);
    within(listener.close()).await;
}

/// An app whose answer to every request is these bytes, in pieces; then it waits for the next one.
async fn recorded(pieces: &'static [&'static str]) -> App {
    App::raw(move |mut stream| async move {
        let mut seen = [0; 4096];
        while stream.read(&mut seen).await.unwrap_or(0) > 0 {
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await.unwrap();
                // Let the piece leave on its own.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    })
    .await
}

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn chunks_pass_as_they_are_and_the_connections_stay() {
    let answer = &[
        "HTTP/1.1 200 OK\r\nconnection: keep-alive, x-mine\r\nx-mine: 1\r\ndate: then\r\n",
        "transfer-encoding: chunked\r\n\r\n5\r\nhel",
        "lo\r\n0\r\nx-sum: 42\r\n",
        "\r\n",
    ];
    let app = recorded(answer).await;
    let listener = listen(app.target()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .unwrap();
    for _ in 0..3 {
        stream.write_all(GET.as_bytes()).await.unwrap();
        let seen = within(read_until(&mut stream, "x-sum: 42\r\n\r\n")).await;
        assert_eq!(
            seen,
            "HTTP/1.1 200 OK\r\ndate: then\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n"
        );
    }
    assert_eq!(app.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order() {
    let app = recorded(&["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]).await;
    let listener = listen(app.target()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .unwrap();
    let last = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let all = format!("{GET}{GET}{last}");
    stream.write_all(all.as_bytes()).await.unwrap();
    let mut seen = String::new();
    within(stream.read_to_string(&mut seen)).await.unwrap();
    assert_eq!(seen.matches("\r\n\r\nok").count(), 3, "{seen}");
    assert!(seen.contains("connection: close\r\n\r\nok"), "{seen}");
    assert!(seen.contains("\r\ndate: "), "an answer has a date: {seen}");
}

#[tokio::test]
async fn an_answer_without_an_end_ends_with_the_connection() {
    let app = App::raw(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        let answer = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nto the end";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let listener = listen(app.target()).await;
    let seen = within(say(&listener, GET)).await;
    assert!(seen.starts_with("HTTP/1.1 200 OK\r\n"), "{seen}");
    assert!(seen.contains("connection: close\r\n"), "{seen}");
    assert!(seen.ends_with("\r\n\r\nto the end"), "{seen}");
}

#[tokio::test]
async fn a_truncated_answer_is_not_passed_off_as_whole() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf",
    ] {
        let app = App::raw(move |mut stream| async move {
            read_until(&mut stream, "\r\n\r\n").await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let listener = listen(app.target()).await;
        let response = reqwest::get(url(&listener, "/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.bytes().await.is_err());
    }
}

#[tokio::test]
async fn what_is_not_http_is_a_502() {
    for answer in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "",
    ] {
        let app = App::raw(move |mut stream| async move {
            read_until(&mut stream, "\r\n\r\n").await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let listener = listen(app.target()).await;
        let response = reqwest::get(url(&listener, "/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "{answer:?}");
        assert_eq!(error_code(response).await, "app.broken_off");
    }
}

#[tokio::test]
async fn a_connection_goes_from_plain_to_special_requests() {
    let app = App::start(upgrade_echo().merge(named(6))).await;
    let listener = listen(app.target()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    within(read_until(&mut stream, "6 0")).await;
    let chunked =
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    stream.write_all(chunked.as_bytes()).await.unwrap();
    within(read_until(&mut stream, "6 3")).await;
    stream.write_all(UPGRADE.as_bytes()).await.unwrap();
    within(read_until(&mut stream, "\r\n\r\n")).await;
    stream.write_all(b"ping").await.unwrap();
    within(read_until(&mut stream, "ping")).await;
    let totals = listener.route().meter().totals();
    assert_eq!((totals.requests, totals.in_flight), (3, 1));
    assert_eq!(totals.by_status, [1, 2, 0, 0, 0]);
}

#[tokio::test]
async fn a_replica_takes_no_more_than_it_may() {
    let most = Arc::new(AtomicUsize::new(0));
    let now = Arc::new(AtomicUsize::new(0));
    let (seen, count) = (Arc::clone(&most), Arc::clone(&now));
    let router = Router::new().route(
        "/",
        get(move || {
            let (seen, count) = (Arc::clone(&seen), Arc::clone(&count));
            async move {
                seen.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                count.fetch_sub(1, Ordering::SeqCst);
                "done"
            }
        }),
    );
    let app = App::start(router).await;
    let listener = listen(Target::Starting {
        patience: Duration::from_secs(20),
    })
    .await;
    let room = super::super::Room {
        limit: 3,
        freed: listener.route().freed(),
    };
    let bounded = Backend::with(
        app.address,
        Terms {
            room: Some(room),
            ..Terms::default()
        },
    );
    listener.route().set(Target::Backends(vec![bounded]));
    let client = reqwest::Client::new();
    let requests = (0..40).map(|_| client.get(url(&listener, "/")).send().boxed());
    for response in within(futures::future::join_all(requests)).await {
        assert_eq!(response.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

/// What an app adds to an answer that was over.
#[tokio::test]
async fn bytes_behind_an_answer_are_nobodys_answer() {
    for (ask, answer, more) in [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n",
            "late",
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", "0\r\n\r\n"),
        (
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret",
        ),
    ] {
        let app = App::raw(move |mut stream| async move {
            read_until(&mut stream, "\r\n\r\n").await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            stream.write_all(more.as_bytes()).await.unwrap();
            read_until(&mut stream, "\r\n\r\n").await;
            let own = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nown";
            let _ = stream.write_all(own).await;
        })
        .await;
        let listener = listen(app.target()).await;
        let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
            .await
            .unwrap();
        let first = format!("{ask} / HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(first.as_bytes()).await.unwrap();
        within(read_until(&mut stream, "\r\n\r\n")).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Somebody else asks; the app gets it on a new connection.
        let seen = within(say(&listener, CLOSING)).await;
        assert!(seen.starts_with("HTTP/1.1 20"), "{ask}: {seen}");
        assert!(!seen.contains("secret"), "{ask}: {seen}");
        assert_eq!(app.connections.load(Ordering::SeqCst), 2, "{ask}");
    }
}

const CLOSING: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_coding_of_chunks_is_passed_on_with_them() {
    for (coding, ends) in [
        ("transfer-encoding: gzip, chunked", true),
        (
            "transfer-encoding: gzip\r\ntransfer-encoding: chunked",
            true,
        ),
        ("transfer-encoding: gzip", false),
    ] {
        let body = if ends { "2\r\nzz\r\n0\r\n\r\n" } else { "zz" };
        let answer = format!("HTTP/1.1 200 OK\r\ndate: then\r\n{coding}\r\n\r\n{body}");
        let app = App::raw(move |mut stream| {
            let answer = answer.clone();
            async move {
                read_until(&mut stream, "\r\n\r\n").await;
                stream.write_all(answer.as_bytes()).await.unwrap();
                if ends {
                    // Whoever does not know the end waits for this one.
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
            }
        })
        .await;
        let listener = listen(app.target()).await;
        let seen = within(say(&listener, CLOSING)).await;
        let expected =
            format!("HTTP/1.1 200 OK\r\ndate: then\r\n{coding}\r\nconnection: close\r\n\r\n{body}");
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn a_list_of_no_codings_is_not_passed_on() {
    let app = recorded(&[
        "HTTP/1.1 200 OK\r\ndate: then\r\ntransfer-encoding: ,\r\ncontent-length: 2\r\n\r\nzz",
    ])
    .await;
    let listener = listen(app.target()).await;
    let seen = within(say(&listener, CLOSING)).await;
    let expected =
        "HTTP/1.1 200 OK\r\ndate: then\r\ncontent-length: 2\r\nconnection: close\r\n\r\nzz";
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn chunks_that_are_coded_again_are_a_502() {
    let app = recorded(&[
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: gzip\r\n\r\nzz",
    ])
    .await;
    let listener = listen(app.target()).await;
    let seen = within(say(&listener, CLOSING)).await;
    assert!(seen.starts_with("HTTP/1.1 502 "), "{seen}");
}

/// More than the buffers of two sockets hold.
fn plenty() -> Router {
    let body = || async { Body::from(vec![b'x'; 64 << 20]) };
    Router::new().route("/", get(body).post(body))
}

#[tokio::test]
async fn a_client_that_reads_no_more_gives_its_place_up() {
    let app = App::start(plenty()).await;
    let listener = listen(app.target()).await;
    // One that goes the short way, and one that does not.
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    for request in [GET, chunked] {
        let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
            .await
            .unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        within(read_until(&mut stream, "\r\n\r\n")).await;
        assert_eq!(app.backend.in_flight(), 1, "{request}");
        within(async {
            while app.backend.in_flight() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn an_unused_connection_of_http_2_ends() {
    let app = App::start(Router::new().route("/", get(|| async { "here" }))).await;
    let listener = listen(app.target()).await;
    let stream = TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .unwrap();
    let (mut sender, connection) =
        http2::handshake::<_, _, Frames>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let request = call(&listener, frames(futures::stream::empty()));
    within(sender.send_request(request)).await.unwrap();
    within(connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_of_http_2_that_never_asks_ends() {
    let listener = listen(nobody().await).await;
    let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .unwrap();
    // Not even all that it begins with.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    let _ = within(stream.read_to_end(&mut seen)).await;
}

#[tokio::test]
async fn a_small_body_that_comes_slowly_is_passed_on_as_it_comes() {
    let (called, mut calls) = mpsc::unbounded_channel();
    let router = Router::new().route(
        "/",
        post(move |body: Body| {
            called.send(()).unwrap();
            async move { body.collect().await.unwrap().to_bytes() }
        }),
    );
    let app = App::start(router).await;
    let listener = listen(app.target()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .unwrap();
    let head = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 6\r\n\r\nsl";
    stream.write_all(head.as_bytes()).await.unwrap();
    within(calls.recv()).await.unwrap();
    stream.write_all(b"owly").await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nslowly"), "{answer}");
}

#[tokio::test]
async fn who_leaves_before_its_body_is_wanted_waits_no_longer() {
    let route = Route::new(Target::Starting {
        patience: Duration::from_secs(60),
    });
    let listener = AppListener::bind(None, route.clone(), &nobody_vouches())
        .await
        .unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .unwrap();
    let begin = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    stream.write_all(begin.as_bytes()).await.unwrap();
    within(route.knocked()).await;
    // Nobody reads this before there is an app.
    stream.write_all(b"3\r\ndef\r\n").await.unwrap();
    drop(stream);
    within(async {
        while route.waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_has_to_go_another_way_is_counted_once() {
    let app = H2App::start(echo()).await;
    let route = Route::new(Target::Starting {
        patience: Duration::from_secs(30),
    });
    let listener = AppListener::bind(None, route.clone(), &nobody_vouches())
        .await
        .unwrap();
    let meter = Arc::clone(route.meter());
    let mut waiting = TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .unwrap();
    waiting.write_all(GET.as_bytes()).await.unwrap();
    within(route.knocked()).await;
    let before = meter.read().arrived;
    let answer = tokio::spawn(async move {
        let mut seen = Vec::new();
        let _ = waiting.read_buf(&mut seen).await;
        seen
    });
    route.set(app.target());
    assert!(!within(answer).await.unwrap().is_empty());
    assert!(meter.read().arrived >= before, "a count never falls");
    let totals = meter.totals();
    assert_eq!(
        (totals.requests, totals.by_status.iter().sum::<u64>()),
        (1, 1)
    );
}

#[tokio::test]
async fn an_answer_of_http_1_0_leaves_its_client_connected() {
    let app = App::raw(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        for piece in ["HTTP/1.0 200 OK\r\ndate: then\r\n\r\nto", " the", " end"] {
            stream.write_all(piece.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let listener = listen(app.target()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
        .await
        .unwrap();
    for _ in 0..2 {
        stream.write_all(GET.as_bytes()).await.unwrap();
        let seen = within(read_until(&mut stream, "\r\n0\r\n\r\n")).await;
        assert_eq!(
            seen,
            "HTTP/1.1 200 OK\r\ndate: then\r\ntransfer-encoding: chunked\r\n\r\n\
             2\r\nto\r\n4\r\n the\r\n4\r\n end\r\n0\r\n\r\n"
        );
    }
    // Whoever wants no more than one answer gets it as it came.
    let seen = within(say(&listener, CLOSING)).await;
    assert!(
        seen.ends_with("connection: close\r\n\r\nto the end"),
        "{seen}"
    );
}

#[tokio::test]
async fn who_finds_the_waiting_room_full_is_told_when_to_come_back() {
    crate::sys::open_files::raise();
    let route = Route::new(Target::Starting {
        patience: Duration::from_secs(60),
    });
    let listener = AppListener::bind(None, route.clone(), &nobody_vouches())
        .await
        .unwrap();
    let mut waiting = Vec::new();
    for _ in 0..1000 {
        let mut stream = TcpStream::connect(("127.0.0.1", listener.port()))
            .await
            .unwrap();
        stream.write_all(GET.as_bytes()).await.unwrap();
        waiting.push(stream);
    }
    within(async {
        while route.waiting() < 1000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let seen = within(say(&listener, CLOSING)).await;
    assert!(seen.starts_with("HTTP/1.1 503 "), "{seen}");
    assert!(seen.contains("\r\nretry-after: 1\r\n"), "{seen}");
    assert!(seen.contains("app.overloaded"), "{seen}");
    drop(waiting);
    within(async {
        while route.waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

//! What the fuzz targets may see of this module's own readers; built for them and for the test that
//! reads their corpus again.
//!
//! Here are no checks: what has to hold stands in `tests/fuzz/readers`.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "where this does not work there is nothing to fuzz"
)]

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;

use super::super::authority::Authority;
use super::answer;
use super::backend::Backend;
use super::chunks::Chunks;
use super::closing::Closing;
use super::forward::{Routing, Site};
use super::headers::Ends;
use super::listener::serve_h2;
use super::request::{Hop, Request};
use super::route::{Route, Target};

/// What a connection may take. Nothing that is sent here has to be waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of a buffer.
#[derive(Debug, PartialEq)]
pub enum Seen {
    /// (bytes of the buffer, host, what the app gets)
    Whole(usize, String, Vec<u8>),
    Partial,
    Special,
}

/// Reads a request as the short way does.
pub fn request(buffer: &[u8], most: usize) -> Seen {
    let here = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let ends = Ends {
        client: here,
        gateway: here,
        secure: false,
    };
    let mut out = Vec::new();
    match Request::read(buffer, most, &Hop::new(ends), &mut out) {
        Request::Whole(asked) => {
            let host = asked.host_in(buffer).unwrap_or_default().to_owned();
            Seen::Whole(asked.length, host, out)
        }
        Request::Partial | Request::Begun => Seen::Partial,
        Request::Special => Seen::Special,
    }
}

/// Follows a chunked body that arrives in these pieces: how much of it belongs to the body, and
/// whether it has ended; `None` where it frames none.
pub fn chunks<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<(usize, bool)> {
    let mut chunks = Chunks::default();
    let mut used = 0;
    for piece in pieces {
        used += chunks.follow(piece).ok()?;
    }
    Some((used, chunks.done()))
}

/// The head of an answer as the client gets it, and where the body begins; `None` where it is not
/// there as a whole or is none.
pub fn answer(bytes: &[u8], to_head: bool) -> Option<(Vec<u8>, usize)> {
    answer::head(bytes, to_head)
}

/// What came out of a connection of HTTP/2.
pub struct Through {
    /// What each connection to the app carried.
    pub to_app: Vec<Vec<u8>>,
    pub to_client: Vec<u8>,
}

thread_local! {
    static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
}

/// Sends bytes as a client of HTTP/2 and hangs up.
pub fn http2(bytes: Vec<u8>) -> Through {
    RUNTIME.with(|runtime| {
        let runtime = runtime.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime")
        });
        runtime.block_on(through(bytes))
    })
}

async fn through(bytes: Vec<u8>) -> Through {
    let app = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = app.local_addr().expect("a port");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let connections = TaskTracker::new();
    let answering = {
        let (heard, connections) = (Arc::clone(&heard), connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = app.accept().await {
                connections.spawn(answer_once(stream, Arc::clone(&heard)));
            }
        })
    };
    let backend = Backend::new(address, Some(PATIENCE));
    let to_client = talk(bytes, Target::Backends(vec![backend])).await;
    answering.abort();
    connections.close();
    tokio::time::timeout(PATIENCE, connections.wait())
        .await
        .expect("the gateway ends its connections to the app");
    let to_app = std::mem::take(&mut *heard.lock().expect("nobody panics with it"));
    Through { to_app, to_client }
}

/// The client's side; what it gets until the gateway hangs up.
async fn talk(bytes: Vec<u8>, target: Target) -> Vec<u8> {
    let here = SocketAddr::from(([127, 0, 0, 1], 1));
    let ends = Ends {
        client: here,
        gateway: here,
        secure: false,
    };
    let site = Site {
        routing: Routing::One(Route::new(target)),
        authority: Arc::new(Authority::at("/nowhere".into())),
        tunnels: TaskTracker::new(),
        closing: Closing::default(),
        room: None,
        socket: None,
    };
    let (mut client, gateway) = tokio::io::duplex(1 << 16);
    let serving = tokio::spawn(serve_h2(gateway, ends, site));
    let mut got = Vec::new();
    let talking = async {
        // A gateway that has heard enough does not read on.
        let _ = client.write_all(&bytes).await;
        let _ = client.shutdown().await;
        let _ = client.read_to_end(&mut got).await;
        serving.await
    };
    tokio::time::timeout(PATIENCE, talking)
        .await
        .expect("a connection ends when its client has gone")
        .expect("the gateway does not panic");
    got
}

/// An app that answers the first head it gets and takes nothing else on that connection.
async fn answer_once(mut stream: TcpStream, heard: Arc<Mutex<Vec<Vec<u8>>>>) {
    let (mut read, mut answered) = (Vec::new(), false);
    while let Ok(1..) = stream.read_buf(&mut read).await {
        if !answered && read.windows(4).any(|four| four == b"\r\n\r\n") {
            answered = true;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    }
    if !read.is_empty() {
        heard.lock().expect("nobody panics with it").push(read);
    }
}

//! The stable address of an app: sockets, connections and their orderly end.
//!
//! An app answers on both loopback addresses under one port, because `localhost` is `::1` for some
//! clients and `127.0.0.1` for others. This file knows when connections begin and end; what is said
//! on them is `forward`'s.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::authority::Authority;
use super::Error;
use super::closing::Closing;
use super::forward::{Routing, Site};
use super::headers::Ends;
use super::lane;
use super::meter::Visit;
use super::names::Names;
use super::plain::{self, HEADER_READ_TIMEOUT};
use super::rewind::Rewind;
use super::route::Route;
use super::wire::Shared;
use crate::error::with_causes;

/// What a connection of HTTP/2 begins with, where that was agreed on before.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much of the preface tells that it is one.
const H2_SIGN: usize = b"PRI * HTTP/2".len();

/// What a connection of TLS begins with: a record of the handshake.
const TLS_SIGN: u8 = 22;

/// Time to agree on a TLS connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the client of a connection of HTTP/2 may be silent before it is asked whether it is there;
/// what it does not read to the end, and streams that last, stay open otherwise for ever.
const H2_PING: Duration = Duration::from_secs(30);

/// Time for it to say so; also to ask for anything at all, once the connection is to end.
const H2_PONG: Duration = if cfg!(test) {
    Duration::from_secs(1)
} else {
    Duration::from_secs(20)
};

/// How long such a connection stays open without a new request, at the least.
const H2_IDLE: Duration = if cfg!(test) {
    Duration::from_secs(2)
} else {
    Duration::from_secs(180)
};

/// Time that requests get to end after the listener was closed.
const CLOSE_GRACE: Duration = Duration::from_secs(3);

/// How often a free port is looked for that is free on both addresses.
const PORT_TRIES: usize = 32;

/// Pause after the system had no socket for us, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The address of an app, open until [`AppListener::close`].
///
/// Dropping it only signals: no new connection is taken and open ones end with their request.
pub struct AppListener {
    route: Route,
    door: Door,
}

impl AppListener {
    /// Opens `port`, or one that the system chooses, on the loopback addresses of this machine.
    ///
    /// TLS is spoken at the same port as soon as there is an authority.
    ///
    /// # Errors
    ///
    /// [`Error::PortTaken`] when another program listens there on either address,
    /// [`Error::PortForbidden`] when the user may not, [`Error::Listen`] for anything else.
    pub async fn bind(
        port: Option<u16>,
        route: Route,
        authority: &Arc<Authority>,
    ) -> Result<Self, Error> {
        let door = Door::open(port, Routing::One(route.clone()), authority).await?;
        Ok(Self { route, door })
    }

    /// The port, the same on both addresses.
    pub fn port(&self) -> u16 {
        self.door.port
    }

    /// Where this app's requests go.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Frees the port, lets requests end for a short while and cuts off what remains.
    ///
    /// Upgraded connections are cut at once: there is no word for "please finish" in them. A
    /// second call waits like the first and changes nothing.
    pub async fn close(&self) {
        self.door.close().await;
    }
}

/// The one address at which all apps answer by name.
pub struct NameListener {
    door: Door,
}

impl NameListener {
    /// Opens `port`, or one that the system chooses; errors are those of [`AppListener::bind`].
    pub async fn bind(
        port: Option<u16>,
        names: Arc<Names>,
        authority: &Arc<Authority>,
    ) -> Result<Self, Error> {
        let door = Door::open(port, Routing::ByName(names), authority).await?;
        Ok(Self { door })
    }

    /// The port, the same on both addresses.
    pub fn port(&self) -> u16 {
        self.door.port
    }

    /// As [`AppListener::close`].
    pub async fn close(&self) {
        self.door.close().await;
    }
}

/// Sockets that accept, and what came in through them.
struct Door {
    port: u16,
    site: Site,
    /// Each ends with the last of its connections.
    acceptors: TaskTracker,
    /// Ends what did not end by itself.
    cut: CancellationToken,
}

impl Door {
    async fn open(
        port: Option<u16>,
        routing: Routing,
        authority: &Arc<Authority>,
    ) -> Result<Self, Error> {
        let lane = lane::handle();
        // Sockets belong to the runtime that they were made on.
        let listening = lane.spawn(async move {
            match port {
                Some(port) => listen_on(port).await.map_err(|source| tell(port, source)),
                None => listen_anywhere().await,
            }
        });
        let (port, sockets) = listening.await.map_err(|error| Error::Listen {
            source: io::Error::other(error),
        })??;
        let door = Self {
            port,
            site: Site {
                routing,
                authority: Arc::clone(authority),
                tunnels: TaskTracker::new(),
                closing: Closing::default(),
                room: None,
                socket: None,
            },
            acceptors: TaskTracker::new(),
            cut: CancellationToken::new(),
        };
        for socket in sockets {
            let accepting = accept(socket, door.site.clone(), door.cut.clone());
            door.acceptors.spawn_on(accepting, &lane);
        }
        Ok(door)
    }

    async fn close(&self) {
        self.site.closing.begin();
        self.acceptors.close();
        self.site.tunnels.close();
        let ended = tokio::time::timeout(CLOSE_GRACE, self.acceptors.wait()).await;
        if ended.is_err() {
            self.cut.cancel();
            self.acceptors.wait().await;
        }
        self.site.tunnels.wait().await;
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.site.closing.begin();
    }
}

fn tell(port: u16, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::AddrInUse => Error::PortTaken { port, source },
        io::ErrorKind::PermissionDenied => Error::PortForbidden { port, source },
        _ => Error::Listen { source },
    }
}

/// The port and the one or two sockets that listen on it.
type Listening = (u16, Vec<TcpListener>);

async fn listen_on(port: u16) -> Result<Listening, io::Error> {
    let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let port = v4.local_addr()?.port();
    match TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
        Ok(v6) => Ok((port, vec![v4, v6])),
        // `localhost` would lead some clients to that other program.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(error) => {
            tracing::debug!(%error, "no IPv6 loopback on this machine");
            Ok((port, vec![v4]))
        }
    }
}

/// The system chooses a port that is free on IPv4; somebody may have it on IPv6.
async fn listen_anywhere() -> Result<Listening, Error> {
    let mut tries = 0;
    loop {
        tries += 1;
        match listen_on(0).await {
            Ok(listening) => return Ok(listening),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < PORT_TRIES => {}
            Err(source) => return Err(Error::Listen { source }),
        }
    }
}

/// Takes connections in, and holds on to them, so that none has to listen for its own end.
async fn accept(socket: TcpListener, site: Site, cut: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut complaint = Complaint::default();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = site.closing.begun() => break,
        };
        match accepted {
            Ok((stream, client)) => {
                // Those behind one that is too many wait in the kernel's line. It is never closed.
                let room = tokio::select! {
                    room = ROOM.acquire() => room.ok(),
                    () = site.closing.begun() => break,
                };
                let site = Site {
                    room: room.map(Arc::new),
                    ..site.clone()
                };
                connections.spawn(serve(stream, client, site));
            }
            Err(error) if is_about_one_client(&error) => {}
            Err(error) => {
                complaint.make(&error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(socket);
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = cut.cancelled() => connections.shutdown().await,
    }
}

/// How many connections all apps have together. Each may take a descriptor to a replica too, and the
/// platform wants some for itself.
static ROOM: LazyLock<Semaphore> = LazyLock::new(|| {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let descriptors = descriptors.and_then(|all| usize::try_from(all).ok());
    let room = descriptors.map_or(MOST_CONNECTIONS, |all| {
        all.saturating_sub(OWN_DESCRIPTORS) / 2
    });
    Semaphore::new(room.clamp(LEAST_CONNECTIONS, MOST_CONNECTIONS))
});
const OWN_DESCRIPTORS: usize = 512;
const LEAST_CONNECTIONS: usize = 256;
const MOST_CONNECTIONS: usize = 50_000;

/// Says that no connection can be accepted, once in a while: it is tried many times a second.
#[derive(Default)]
pub struct Complaint {
    last: Option<Instant>,
}

impl Complaint {
    const EVERY: Duration = Duration::from_secs(60);

    pub fn make(&mut self, error: &io::Error) {
        if self.last.is_none_or(|last| last.elapsed() >= Self::EVERY) {
            self.last = Some(Instant::now());
            tracing::warn!(%error, "failed to accept a connection, and is trying on");
        }
    }
}

fn is_about_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// Serves one connection; errors on it are the client's leaving and concern nobody else.
pub(super) async fn serve(stream: TcpStream, client: SocketAddr, site: Site) {
    let Ok(gateway) = stream.local_addr().and_then(|addr| {
        stream.set_nodelay(true)?;
        Ok(addr)
    }) else {
        return;
    };
    let ends = Ends {
        client,
        gateway,
        secure: false,
    };
    let Some(rest) = plain::serve(stream, ends, &site).await else {
        return;
    };
    let begins_h2 = rest.before.iter().zip(H2_PREFACE).all(|(a, b)| a == b);
    let is_h2 = rest.before.len() >= H2_SIGN && begins_h2;
    let is_tls = rest.before.first() == Some(&TLS_SIGN);
    let socket = Shared::new(rest.stream);
    let site = Site {
        socket: Some(socket.clone()),
        ..site
    };
    let stream = Rewind::new(rest.before, socket);
    if is_tls {
        serve_tls(stream, ends, site).await;
    } else if is_h2 {
        serve_h2(stream, ends, site).await;
    } else {
        serve_h1(stream, ends, site, rest.visit).await;
    }
}

/// Without an authority nobody can be vouched for, and the connection ends.
async fn serve_tls(stream: Rewind, ends: Ends, site: Site) {
    let acceptor = match site.authority.acceptor() {
        Ok(Some(acceptor)) => acceptor,
        Ok(None) => {
            tracing::debug!("TLS was asked for; `flyte local trust` makes it possible");
            return;
        }
        Err(error) => {
            tracing::warn!(error = %with_causes(&error), "TLS cannot be spoken");
            return;
        }
    };
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await
    else {
        return;
    };
    let ends = Ends {
        secure: true,
        ..ends
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        serve_h2(stream, ends, site).await;
    } else {
        serve_h1(stream, ends, site, None).await;
    }
}

/// What is spoken on: a bare connection, or one of TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

async fn serve_h1(stream: impl Stream, ends: Ends, site: Site, first: Option<Visit>) {
    let closing = site.closing.clone();
    let first = Cell::new(first);
    let service = service_fn(move |request| {
        let (site, counted) = (site.clone(), first.take());
        async move { Ok::<_, Infallible>(site.answer(request, ends, counted).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = closing.begun() => connection.as_mut().graceful_shutdown(),
    }
    drop(connection.await);
}

pub(super) async fn serve_h2(stream: impl Stream, ends: Ends, site: Site) {
    let closing = site.closing.clone();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let service = service_fn(move |request| {
        counter.fetch_add(1, Ordering::Relaxed);
        let site = site.clone();
        async move { Ok::<_, Infallible>(site.answer(request, ends, None).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .adaptive_window(true)
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PONG)
        // WebSockets of browsers that have one connection for all.
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = closing.begun() => connection.as_mut().graceful_shutdown(),
        () = unused(&asked) => connection.as_mut().graceful_shutdown(),
    }
    // One that is still being agreed on does not hear of it, and has no end of its own.
    let ended = tokio::time::timeout(H2_PONG, connection.as_mut()).await;
    if ended.is_err() && asked.load(Ordering::Relaxed) > 0 {
        drop(connection.await);
    }
}

/// Resolves once no request has begun for a while. Those under way go on when that ends a connection.
async fn unused(asked: &AtomicUsize) {
    let mut before = 0;
    loop {
        tokio::time::sleep(H2_IDLE).await;
        let now = asked.load(Ordering::Relaxed);
        if std::mem::replace(&mut before, now) == now {
            return;
        }
    }
}

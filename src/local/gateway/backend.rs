//! One replica's address: its pool of kept-alive connections and its requests in flight.
//!
//! A connection carries one request at a time and belongs to whoever holds it; dropping it closes
//! the socket, which is how a client that leaves stops the work upstream. The pool is our own
//! because the retry rules hang on knowing whether a connection had been used before. Nothing here
//! knows of routes: a request that cannot be sent is handed back whole.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::body::{Upload, UploadWatch};
use super::headers::{Head, for_h2};
use super::meter::Visit;
use super::wire::{Shared, Wire, connect, is_open, was_reset};

/// Longest rest of a connection that is used again. Below the shortest keep-alive of common app
/// servers (gunicorn 2 s, uvicorn and node 5 s), so that they do not hang up while we pick up; a
/// new loopback connection costs about 0.1 ms, and an idle one may hold a thread of the app.
const MAX_IDLE: Duration = Duration::from_secs(1);

/// Requests that one connection of HTTP/2 carries at a time. Many servers take 100 and let the others
/// wait for as long as those last; what was broken off counts there a little longer than here.
const MOST_STREAMS: usize = 64;

/// Highest bit of the counter, so that entering and retiring cannot miss each other.
const RETIRED: usize = 1 << (usize::BITS - 1);

/// A replica that requests are sent to.
pub struct Backend {
    addr: SocketAddr,
    terms: Terms,
    load: AtomicUsize,
    idle: Notify,
    pool: Mutex<Pool>,
    /// Held while a connection that requests share is made, so that one is made for all who wait for it.
    opening: tokio::sync::Mutex<()>,
}

/// How a replica wants its requests.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Runs from the moment a request is handed to the backend until the *headers* of the response
    /// arrive, connecting and the upload included; the client then gets a 504. It does not limit
    /// the response body nor a connection that was upgraded.
    pub request_timeout: Option<Duration>,
    /// `None` for any number of requests at the same time.
    pub room: Option<Room>,
    /// Whether it is spoken to in HTTP/2, from the first byte on.
    pub h2: bool,
}

/// A bound for the requests that one replica has at the same time.
#[derive(Clone, Debug)]
pub struct Room {
    pub limit: usize,
    /// Told when there is room again; see [`Route::freed`](super::Route::freed).
    pub freed: Arc<Notify>,
}

#[derive(Default)]
struct Pool {
    resting: Vec<Resting>,
    wires: Vec<(Wire, Instant)>,
    /// Connections of HTTP/2, of which the first with room is used.
    common: Vec<Common>,
    swept: bool,
}

impl Pool {
    fn clear(&mut self) {
        self.resting.clear();
        self.wires.clear();
        self.common.clear();
    }

    /// A way into an open connection that can carry one more request.
    fn with_room(&mut self) -> Option<Common> {
        self.common.retain(|one| !one.sender.is_closed());
        self.common.iter().find(|one| one.has_room()).cloned()
    }
}

/// A connection that requests share, and one share of it.
#[derive(Clone)]
struct Common {
    sender: http2::SendRequest<Upload>,
    /// Held by each request, and by the pool.
    shares: Arc<()>,
}

impl Common {
    fn has_room(&self) -> bool {
        Arc::strong_count(&self.shares) <= MOST_STREAMS
    }

    fn is_used(&self) -> bool {
        Arc::strong_count(&self.shares) > 1
    }
}

struct Resting {
    connection: Own,
    since: Instant,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("addr", &self.addr)
            .field("in_flight", &self.in_flight())
            .field("retired", &self.is_retired())
            .finish_non_exhaustive()
    }
}

impl Backend {
    /// A backend at `addr` that takes any number of requests; nothing is connected yet.
    pub fn new(addr: SocketAddr, request_timeout: Option<Duration>) -> Arc<Self> {
        Self::with(
            addr,
            Terms {
                request_timeout,
                ..Terms::default()
            },
        )
    }

    /// A backend on terms of its own.
    pub fn with(addr: SocketAddr, terms: Terms) -> Arc<Self> {
        Arc::new(Self {
            addr,
            terms,
            load: AtomicUsize::new(0),
            idle: Notify::new(),
            pool: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        })
    }

    /// Requests whose response has not ended, and upgraded connections.
    pub fn in_flight(&self) -> usize {
        self.load.load(Ordering::Acquire) & !RETIRED
    }

    #[cfg(test)]
    pub(super) fn shared_connections(&self) -> usize {
        self.pool().common.len()
    }

    /// Resolves when nothing is in flight. That stays so only after [`Backend::retire`].
    pub async fn drained(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.in_flight() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Takes no new request and closes idle connections; what is in flight goes on.
    ///
    /// A request that was on its way here is sent to the route's new target instead.
    pub fn retire(&self) {
        self.load.fetch_or(RETIRED, Ordering::AcqRel);
        self.pool().clear();
    }

    pub(super) fn request_timeout(&self) -> Option<Duration> {
        self.terms.request_timeout
    }

    /// Counts a request in flight, unless the backend is retired or full.
    pub(super) fn enter(self: &Arc<Self>) -> Option<InFlight> {
        let limit = self.limit();
        let mut before = self.load.load(Ordering::Acquire);
        // A retired one is over every limit: its highest bit is set.
        while before < limit {
            match self.load.compare_exchange_weak(
                before,
                before + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    return Some(InFlight {
                        backend: Arc::clone(self),
                    });
                }
                Err(now) => before = now,
            }
        }
        None
    }

    fn limit(&self) -> usize {
        self.terms.room.as_ref().map_or(RETIRED, |room| room.limit)
    }

    pub(super) fn is_bounded(&self) -> bool {
        self.terms.room.is_some()
    }

    /// Whether it would take a request now.
    pub(super) fn has_room(&self) -> bool {
        self.load.load(Ordering::Acquire) < self.limit()
    }

    /// Whether it has as many requests as it may; a retired one is not waited for.
    pub(super) fn is_full(&self) -> bool {
        !self.has_room() && !self.is_retired()
    }

    fn is_retired(&self) -> bool {
        self.load.load(Ordering::Acquire) & RETIRED != 0
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last, as the app is least likely to close that one.
    fn take_resting(&self) -> Option<Own> {
        let mut pool = self.pool();
        loop {
            let found = pool.resting.iter().rposition(|resting| {
                resting.connection.sender.is_ready() && resting.since.elapsed() < MAX_IDLE
            })?;
            let mut connection = pool.resting.remove(found).connection;
            if is_open(&connection.socket) {
                connection.reused = true;
                return Some(connection);
            }
        }
    }

    fn put_back(self: &Arc<Self>, connection: Own) {
        let mut pool = self.pool();
        // Asked under the lock: `retire` clears the pool after it set the mark.
        if self.is_retired() || connection.sender.is_closed() {
            return;
        }
        pool.resting.push(Resting {
            connection,
            since: Instant::now(),
        });
        self.see_to_sweeping(&mut pool);
    }

    /// A wire that rested a short time only and on which nothing came meanwhile; `surely`, where a
    /// request could not be sent again.
    pub(super) fn take_wire(&self, surely: bool, now: Instant) -> Option<Wire> {
        let mut pool = self.pool();
        while let Some((wire, since)) = pool.wires.pop() {
            if now.duration_since(since) < MAX_IDLE && wire.is_quiet(surely) {
                return Some(wire);
            }
        }
        None
    }

    /// Keeps a wire for the next request.
    pub(super) fn put_wire(self: &Arc<Self>, mut wire: Wire, now: Instant) {
        wire.reused = true;
        let mut pool = self.pool();
        if self.is_retired() {
            return;
        }
        pool.wires.push((wire, now));
        self.see_to_sweeping(&mut pool);
    }

    fn see_to_sweeping(self: &Arc<Self>, pool: &mut Pool) {
        if !std::mem::replace(&mut pool.swept, true) {
            self.start_sweeping();
        }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn speaks_h2(&self) -> bool {
        self.terms.h2
    }

    /// A share of a connection, which is made if none has room.
    async fn share(self: &Arc<Self>) -> Result<Common, io::Error> {
        let open = self.pool().with_room();
        if let Some(common) = open {
            return Ok(common);
        }
        let _opening = self.opening.lock().await;
        let made_meanwhile = self.pool().with_room();
        if let Some(common) = made_meanwhile {
            return Ok(common);
        }
        let stream = connect(self.addr).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .adaptive_window(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // How it ended reaches whoever waits for a response on it.
        tokio::spawn(async move { drop(connection.await) });
        let common = Common {
            sender,
            shares: Arc::default(),
        };
        let mut pool = self.pool();
        // Asked under the lock: `retire` clears the pool after it set the mark.
        if !self.is_retired() {
            pool.common.push(common.clone());
            self.see_to_sweeping(&mut pool);
        }
        Ok(common)
    }

    /// Runs only while connections rest, so that a quiet backend has no timer.
    fn start_sweeping(self: &Arc<Self>) {
        let backend = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(MAX_IDLE).await;
                if !backend.upgrade().is_some_and(|backend| backend.sweep()) {
                    return;
                }
            }
        });
    }

    /// Closes what rested too long; tells whether there is something left to watch.
    fn sweep(&self) -> bool {
        let mut pool = self.pool();
        pool.resting
            .retain(|resting| resting.since.elapsed() < MAX_IDLE);
        pool.wires.retain(|(_, since)| since.elapsed() < MAX_IDLE);
        // The first one stays for the next request; others were made for a peak.
        let mut is_first = true;
        pool.common
            .retain(|one| std::mem::take(&mut is_first) || one.is_used());
        pool.swept = !pool.resting.is_empty() || !pool.wires.is_empty() || pool.common.len() > 1;
        pool.swept
    }
}

/// A request that counts; it no longer does when this is dropped.
#[derive(Debug)]
pub(super) struct InFlight {
    backend: Arc<Backend>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let before = self.backend.load.fetch_sub(1, Ordering::AcqRel);
        if before & !RETIRED == 1 {
            self.backend.idle.notify_waiters();
        }
        if let Some(room) = &self.backend.terms.room {
            room.freed.notify_one();
        }
    }
}

/// One connection to the app with what hyper keeps for it; of HTTP/1.1, closed when dropped.
enum Connection {
    Own(Own),
    /// One stream among others of HTTP/2.
    Shared(Common),
}

struct Own {
    sender: SendRequest<Upload>,
    driver: AbortHandle,
    /// Only ever asked whether the app has hung up.
    socket: Shared,
    reused: bool,
}

impl Own {
    async fn open(addr: SocketAddr) -> Result<Self, io::Error> {
        let socket = Shared::new(connect(addr).await?);
        let (sender, connection) = http1::handshake(TokioIo::new(socket.clone()))
            .await
            .map_err(io::Error::other)?;
        // How it ended reaches whoever waits for the response.
        let driver = tokio::spawn(async move { drop(connection.with_upgrades().await) });
        Ok(Self {
            sender,
            driver: driver.abort_handle(),
            socket,
            reused: false,
        })
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A connection in use, with the request it counts for.
pub(super) struct Lease {
    connection: Connection,
    upload: UploadWatch,
    slot: InFlight,
    /// The request in the app's figures, for as long as it lasts.
    visit: Option<Visit>,
}

impl Lease {
    /// Lets the request count for as long as the connection is in use for it.
    pub(super) fn accompany(&mut self, mut visit: Option<Visit>, status: StatusCode) {
        if let Some(visit) = &mut visit {
            visit.answered(status);
        }
        self.visit = visit;
    }

    /// Returns the connection after the whole response was read.
    ///
    /// An app may answer before it has read the request to its end: then the upload goes on, and
    /// counts, until one side ends it.
    pub(super) fn give_back(self) {
        let Self {
            connection,
            upload,
            slot,
            visit,
        } = self;
        let Connection::Own(mut connection) = connection else {
            return;
        };
        if upload.finished() {
            slot.backend.put_back(connection);
            return;
        }
        tokio::spawn(async move {
            if connection.sender.ready().await.is_ok() {
                slot.backend.put_back(connection);
            }
            drop((slot, upload, visit));
        });
    }
}

/// A request that is ready to be sent.
pub(super) struct Outgoing {
    pub(super) head: Head,
    pub(super) body: Incoming,
}

/// Why there is no response.
pub(super) enum Failure {
    /// The app saw nothing of the request, so that it can be sent elsewhere.
    NotSent {
        outgoing: Box<Outgoing>,
        cause: Cause,
    },
    /// The app closed a new connection before it had read the request, as it does when it is killed.
    Unread {
        outgoing: Box<Outgoing>,
        cause: Cause,
    },
    /// The app may have seen it.
    BrokenOff { cause: Cause },
}

/// What a log should say.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

impl InFlight {
    pub(super) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Sends the request and waits for the headers of the response.
    ///
    /// A kept-alive connection may be closed by the app in the moment it is used. Then the request
    /// is sent once more, on a new connection, if that cannot make the app do something twice: see
    /// [`may_repeat`].
    pub(super) async fn send(
        self,
        outgoing: Outgoing,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let mut outgoing = outgoing;
        if !self.backend.terms.h2
            && let Some(connection) = self.backend.take_resting()
        {
            match attempt(Connection::Own(connection), outgoing).await {
                Ok((response, connection, upload)) => {
                    return Ok((response, self.lease(connection, upload)));
                }
                Err(
                    Failure::NotSent { outgoing: same, .. }
                    | Failure::Unread { outgoing: same, .. },
                ) => outgoing = *same,
                Err(broken @ Failure::BrokenOff { .. }) => return Err(broken),
            }
        }
        let connection = match self.connection().await {
            Ok(connection) => connection,
            Err(error) => {
                let (outgoing, cause) = (Box::new(outgoing), error.into());
                return Err(Failure::NotSent { outgoing, cause });
            }
        };
        let (response, connection, upload) = attempt(connection, outgoing).await?;
        Ok((response, self.lease(connection, upload)))
    }

    async fn connection(&self) -> Result<Connection, io::Error> {
        Ok(if self.backend.terms.h2 {
            Connection::Shared(self.backend.share().await?)
        } else {
            Connection::Own(Own::open(self.backend.addr).await?)
        })
    }

    fn lease(self, connection: Connection, upload: UploadWatch) -> Lease {
        Lease {
            connection,
            upload,
            slot: self,
            visit: None,
        }
    }
}

async fn attempt(
    mut connection: Connection,
    outgoing: Outgoing,
) -> Result<(Response<Incoming>, Connection, UploadWatch), Failure> {
    let Outgoing { head, body } = outgoing;
    let bodiless = body.is_end_stream();
    let copy = head.clone();
    let (upload, watch) = Upload::new(body);
    let mut request = Request::new(upload);
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    *request.headers_mut() = head.headers;
    let sent = match &mut connection {
        Connection::Own(own) => own.sender.try_send_request(request).await,
        Connection::Shared(common) => {
            for_h2(&mut request);
            common.sender.try_send_request(request).await
        }
    };
    let mut failed = match sent {
        Ok(response) => return Ok((response, connection, watch)),
        Err(failed) => failed,
    };
    let untold = failed.take_message().is_some();
    let error = failed.into_error();
    let (reused, unread) = match &connection {
        Connection::Own(own) => (own.reused, is_reset(&error) || was_reset(&own.socket)),
        Connection::Shared(_) => (false, false),
    };
    let lost = unread || error.is_incomplete_message() || error.is_canceled();
    let again = lost && may_repeat(&copy.method, bodiless, reused, unread);
    let cause = error.into();
    let Some(body) = watch.reclaim().filter(|_| untold || again) else {
        return Err(Failure::BrokenOff { cause });
    };
    let outgoing = Box::new(Outgoing { head: copy, body });
    Err(if untold {
        Failure::NotSent { outgoing, cause }
    } else {
        Failure::Unread { outgoing, cause }
    })
}

/// Whether a request may be sent again after its connection was lost without a response.
///
/// Any connection may be lost *unread*: the kernel resets it when the app closed before it read the
/// request, while an app that read it and then died or hung up ends the stream in order. Idempotent
/// requests may also be sent again where a kept-alive connection just ended (RFC 9110, section 9.2.2),
/// but not where a new one did, for a request that kills the app would kill all replicas in turn.
fn may_repeat(method: &Method, bodiless: bool, reused: bool, unread: bool) -> bool {
    let idempotent = method.is_idempotent();
    (unread && (idempotent || bodiless)) || (reused && idempotent)
}

fn is_reset(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return matches!(
                io.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            );
        }
        source = cause.source();
    }
    false
}

#[cfg(test)]
mod tests;

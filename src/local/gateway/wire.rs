//! Bare connections to an app, and what it means when one is lost.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::backend::Cause;

/// Loopback answers at once; it takes long only while the app's accept queue is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked whether there is an end behind what nobody reads.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn connect(addr: SocketAddr) -> Result<TcpStream, io::Error> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks the kernel, since whoever drives the connection may not have run since the app hung up.
/// Bytes that nobody asked for count as hanging up.
pub(super) fn is_open(socket: impl AsFd) -> bool {
    let mut byte = [0_u8; 1];
    let peeked = rustix::net::recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(peeked, Err(rustix::io::Errno::WOULDBLOCK))
}

/// Whether the app's side closed the connection before it had read all that was sent.
///
/// That is what the kernel resets a connection for; what was read to its end, and then not answered,
/// ends in order. A reader that comes late sees the end first and the reset only here.
pub(super) fn was_reset(socket: impl AsFd) -> bool {
    matches!(rustix::net::sockopt::socket_error(socket), Ok(Err(_)))
}

/// A connection of which others drive their part, while its owner can still ask about it. A second
/// descriptor would do as well, but a WebSocket or an upload has two already, and they run out.
#[derive(Clone)]
pub(super) struct Shared(Arc<TcpStream>);

impl Shared {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(stream))
    }

    /// Resolves when the other side has hung up, however much of what it sent is still unread.
    pub(super) async fn hung_up(&self) {
        while let Ok(ready) = self.0.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                return;
            }
            // There is something to read, which is others' part; what comes after it is not told.
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What is tried on a socket that seems ready, until it is done or not ready at all.
fn when<T>(
    mut ready: impl FnMut() -> Poll<io::Result<()>>,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        ready!(ready())?;
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let ready = || self.0.poll_read_ready(cx);
        when(ready, || self.0.try_read_buf(buffer)).map_ok(|_| ())
    }
}

impl AsyncWrite for Shared {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        when(|| self.0.poll_write_ready(cx), || self.0.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        when(
            || self.0.poll_write_ready(cx),
            || self.0.try_write_vectored(slices),
        )
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Write);
        Poll::Ready(done.map_err(io::Error::from))
    }
}

/// A bare connection to the app, for requests that go the short way.
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    pub(super) reused: bool,
    /// Whether its last answer had no body. Apps get that wrong: a `HEAD` is answered with one, a 204
    /// with the end of one, a moment after the head.
    pub(super) bodiless: bool,
}

/// Why there is no answer on a wire.
pub(super) enum Lost {
    /// Nothing of the request was sent.
    NotSent(Cause),
    /// The app may have seen it.
    Broken {
        cause: Cause,
        /// The app closed before it had read the request; see `backend::may_repeat`.
        unread: bool,
        /// A kept-alive connection that was lost before any answer.
        early: bool,
    },
}

impl Wire {
    pub(super) async fn open(addr: SocketAddr) -> Result<Self, Lost> {
        match connect(addr).await {
            Ok(stream) => Ok(Self {
                stream,
                reused: false,
                bodiless: false,
            }),
            Err(error) => Err(Lost::NotSent(error.into())),
        }
    }

    /// Whether nothing came since its last answer: neither an end, nor bytes that would be read as the
    /// beginning of the next answer.
    ///
    /// What the runtime has heard of is known without asking the kernel, which is asked where more
    /// depends on it.
    pub(super) fn is_quiet(&self, surely: bool) -> bool {
        let heard = self.stream.try_read(&mut [0; 1]);
        let quiet = matches!(heard, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        quiet && (!(surely || self.bodiless) || is_open(&self.stream))
    }

    /// What an error means for the request, of whose answer `seen` says whether any was read.
    pub(super) fn lost(&self, error: io::Error, seen: bool) -> Lost {
        let reset = matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        );
        Lost::Broken {
            cause: error.into(),
            unread: !seen && (reset || was_reset(&self.stream)),
            early: self.reused && !seen,
        }
    }
}

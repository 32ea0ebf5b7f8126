//! Bare connections to an app, and what it means when one is lost.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::RecvFlags;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::backend::Cause;

/// Loopback answers at once; it takes long only while the app's accept queue is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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

/// A bare connection to the app, for requests that go the short way.
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    pub(super) reused: bool,
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
            }),
            Err(error) => Err(Lost::NotSent(error.into())),
        }
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

//! Lets unmodified apps share a port number, and tells the moment one starts to listen.
//!
//! Apps hardcode `0.0.0.0:8080`. Instead of a network namespace (needs privileges) or a preloaded
//! library (misses static binaries and Go), the kernel holds every bind(2) and listen(2) of an
//! app and asks us: seccomp user notification. We take a duplicate of the socket, bind it to
//! loopback ourselves, with the declared port replaced by the one assigned to the replica, and
//! answer with the result. Since it is the very socket of the app, its options, forked workers
//! and event loops behave as always; since it is us who call listen(2), [`Event::Listening`] is a
//! fact and not the guess of a poll.
//!
//! Two processes take part. The replica calls [`no_new_privs`](super::no_new_privs) and
//! [`install_filter`] before it execs the app and hands the descriptor to the platform with
//! [`send_fd`](super::send_fd); the platform runs [`serve`]. All descendants of the app are
//! covered. Not covered: 32-bit programs on a 64-bit kernel, and `io_uring`'s own bind and listen
//! (Linux 6.11), both of which pass unseen. connect(2) is held too, which costs an app's new
//! connections some microseconds: one that calls itself on its declared port, as Gradio does before it
//! believes that it is up, is led to where it listens. getsockname(2) is not watched, since servers call
//! it for each connection: apps log the assigned port, and the few that insist on the number they
//! asked for (workers of Node's `cluster`) fail unless assigned and declared port are the same.
//!
//! This is a convenience for well-meaning programs, not a sandbox.

use std::net::SocketAddr;

#[cfg(target_os = "linux")]
mod seccomp;
#[cfg(target_os = "linux")]
mod serve;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
#[cfg(not(target_os = "linux"))]
mod unsupported;

#[cfg(target_os = "linux")]
pub use seccomp::install_filter;
#[cfg(target_os = "linux")]
pub use serve::{available, serve};
#[cfg(not(target_os = "linux"))]
pub use unsupported::{available, install_filter, serve};

/// The one port of an app that is replaced; all others keep their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The port the app binds, as its declaration says.
    pub declared: u16,
    /// The port on loopback that it gets.
    pub assigned: u16,
}

/// What an app did with its TCP sockets, in the order in which it did it.
///
/// `pid` is that of the process, not of the thread. `actual` is where a client must connect to:
/// mostly `127.0.0.1`, but `::1` for a socket that is IPv6 only or that asked for `::1`. IPv4
/// clients of a dual-stack socket are told by its IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A socket got its address.
    Bound {
        /// The port the app asked for; 0 where it left the choice to the kernel.
        declared: u16,
        actual: SocketAddr,
        pid: i32,
    },
    /// From now on connections to `actual` succeed. Comes again when workers that share a socket
    /// each call listen(2) on it.
    Listening {
        /// The port the app believes to listen on.
        wanted_port: u16,
        actual: SocketAddr,
        pid: i32,
    },
    /// The app was told `errno` by bind(2), or by listen(2), where the kernel finds some conflicts
    /// only then.
    BindFailed {
        /// The address as the app knows it.
        wanted: SocketAddr,
        errno: i32,
        pid: i32,
    },
}

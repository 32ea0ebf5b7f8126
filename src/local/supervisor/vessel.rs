//! What a replica runs in: a group of processes of this machine, or a container of an engine.
//!
//! A replica's life is the same in both: it is started, waited for until it serves, watched, asked
//! to end and cleared away. [`Vessel`] is what that life needs from whatever it is lived in.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::AsyncRead;
use tokio::sync::{mpsc, watch};

use super::diagnose::{Ending, Failure};
use crate::sys::port_watch;

/// A running replica, whatever it runs in.
pub trait Vessel: Send + Sync {
    /// The process that leads it, as this machine knows it.
    fn pid(&self) -> i32;

    /// CPU time that it has used; `None` where nobody tells.
    fn cpu_time(&self) -> BoxFuture<'_, Option<Duration>>;

    /// Where its processes listen.
    fn ears(&self) -> BoxFuture<'_, Vec<Ear>>;

    /// Who else has the port that it declares, where that is a port of this machine.
    fn rival(&self) -> Option<String> {
        None
    }

    /// Kills it where it holds more memory than it may; tells whether it did. Who is held to its
    /// limit by the kernel is never over it.
    fn kill_if_over_memory(&self) -> bool;

    /// Asks it to end, and does not wait.
    fn terminate(&self) -> BoxFuture<'_, ()>;

    /// Kills what is left, and leaves nothing of it behind.
    fn clear(&self) -> BoxFuture<'_, ()>;

    /// Kills it and does not wait: it was dropped.
    fn abandon(&self);
}

/// A listening socket of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ear {
    /// The one that the replica's address leads to.
    Served,
    /// The declared port itself, which nobody led elsewhere.
    Declared(SocketAddr),
    /// The right port, but on an address that nothing outside of the replica reaches.
    Inside,
    /// On this port, which is another one than declared.
    Elsewhere(u16),
}

/// What a starting replica makes known.
#[derive(Debug)]
pub enum Signs {
    /// Whether its ports are watched; otherwise they have to be looked for.
    Watched(bool),
    /// It could not even run the app.
    Failed(Failure),
    Port(port_watch::Event),
}

/// A replica that was just started.
pub struct Launched {
    pub vessel: Box<dyn Vessel>,
    /// Where requests for it go.
    pub assigned: SocketAddr,
    pub ending: watch::Receiver<Option<Ending>>,
    pub signs: mpsc::UnboundedReceiver<Signs>,
    /// All that it writes.
    pub output: Box<dyn AsyncRead + Send + Unpin>,
}

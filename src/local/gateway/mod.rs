//! Traffic: the stable address of an app, in front of a replica that comes and goes.
//!
//! A request lives in four steps, one file each: `listener` accepts it, `route` finds the backend
//! (the least busy of them; a request waits while there is none), `backend` sends it over a pooled connection,
//! `forward` ties them together and answers when there is nobody to send to. The invariant is that
//! replacing a backend loses no request: whatever was not yet told to the old one goes to the new
//! one, and the old one is told when its last request is over.
//!
//! The gateway refuses to know what a replica is: it neither starts, probes nor stops anything, and
//! it listens on and connects to this machine's loopback only.
//!
//! The order for a swap is `route.set(new)`, `old.retire()`, `old.drained().await`, stop the old one.

pub mod names;

mod alarm;
mod answer;
mod backend;
mod body;
mod chunks;
mod closing;
mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod headers;
mod lane;
mod listener;
mod meter;
mod plain;
mod refusal;
mod request;
mod rewind;
mod route;
#[cfg(test)]
mod tests;
mod wire;

use std::io;

use crate::error::{Code, Diagnostic, Retry};

pub use backend::{Backend, Room, Terms};
pub use listener::{AppListener, Complaint, NameListener};
pub use meter::{Meter, Reading, Totals};
pub use names::Names;
pub use refusal::name_console;
pub use route::{Route, Target};

/// Why an app's address could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else listens there, on one of the two loopback addresses at least.
    #[error("port `{port}` is used by another program")]
    PortTaken {
        /// The port asked for.
        port: u16,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system keeps this port from ordinary users.
    #[error("this user may not listen on port `{port}`")]
    PortForbidden {
        /// The port asked for.
        port: u16,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Listening failed for a reason that has nothing to do with the port's number.
    #[error("failed to listen on the loopback address")]
    Listen {
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::PortTaken { .. } => Code::LocalPort,
            Self::PortForbidden { .. } => Code::ConfigInvalid,
            Self::Listen { .. } => Code::LocalStart,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::PortTaken { port, .. } => vec![format!(
                "stop the program that listens on port {port}, or leave the port out so that a free one is chosen"
            )],
            Self::PortForbidden { .. } => vec!["choose a port from 1024 upwards".to_owned()],
            Self::Listen { .. } => Vec::new(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::PortTaken { .. } | Self::Listen { .. } => Retry::Maybe,
            Self::PortForbidden { .. } => Retry::Never,
        }
    }
}

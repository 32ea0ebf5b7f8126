//! The port watch where the kernel has nothing like it: honest refusals.

use std::io;
use std::os::fd::OwnedFd;

use tokio::sync::mpsc::UnboundedSender;

use super::{Event, Rewrite};

/// Fails with [`io::ErrorKind::Unsupported`]: only Linux can watch ports.
pub fn available() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Fails with [`io::ErrorKind::Unsupported`]: only Linux can watch ports.
pub fn install_filter() -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Ends at once: without a filter there is nobody to serve.
pub async fn serve(listener: OwnedFd, rewrite: Rewrite, events: UnboundedSender<Event>) {
    drop((listener, rewrite, events));
}

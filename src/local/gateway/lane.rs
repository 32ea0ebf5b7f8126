//! The one thread that all traffic runs on.
//!
//! A request passes through some microseconds of work and three waits. On a runtime with several
//! workers each wait may end on another one, which costs more than the work; so the gateway has a
//! runtime of one thread to itself, apart from what stores, starts and unpacks.

use std::io;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle};

/// The runtime of the gateway's thread, which is started by the first who asks.
///
/// Where no thread can be had, the caller's runtime has to do.
pub(super) fn handle() -> Handle {
    static LANE: OnceLock<Option<Handle>> = OnceLock::new();
    let lane = LANE.get_or_init(|| match start() {
        Ok(handle) => Some(handle),
        Err(error) => {
            tracing::error!(%error, "no thread for the gateway");
            None
        }
    });
    lane.clone().unwrap_or_else(Handle::current)
}

fn start() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("gateway".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

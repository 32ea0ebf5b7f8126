//! Reading what lies elsewhere, and putting things there: object stores, web servers.
//!
//! One call brings a file or a folder to an empty place of this machine, whole or not at all.
//! Where it belongs, and under which parameter's name it is asked for, is decided by the caller.
//! Many files and the parts of large ones are fetched at once; what this machine has already is
//! linked from a [`shelf`].

mod carrier;
mod checksum;
mod credentials;
mod error;
mod fetch;
mod location;
mod open;
mod progress;
mod remote;
mod send;
mod shelf;
mod wire;

use std::path::{Path, PathBuf};

use tokio::runtime::{Handle, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use carrier::{Carrier, Reading, Wanted};
pub use credentials::Variables;
pub use error::Error;
pub use location::{Location, percent_decoded, without_secrets};
pub use progress::{Report, size};
pub use remote::Object;
pub use shelf::hand_out;

/// Threads that fetch. A write waits for the disk where that is behind, and other connections must
/// not wait with it.
const THREADS: usize = 8;

/// A carrier with threads of its own, for code that is not asynchronous; costs nothing until it is
/// made.
pub struct Storage {
    /// Taken when this is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
    carrier: Carrier,
    stop: CancellationToken,
    _ticker: AbortOnDropHandle<()>,
}

impl Drop for Storage {
    /// Waits for nobody: a thread may stand before a lock that another replica holds for long.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Storage {
    /// Connects nowhere yet. `shelf` is the folder of what this machine has fetched before; `stop`
    /// ends everything that is under way.
    ///
    /// # Errors
    /// The folder cannot be made, or the system has no threads to spare.
    pub fn new(
        variables: Variables,
        shelf: Option<PathBuf>,
        report: Report,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("fetch")
            .enable_all()
            .build()
            .map_err(carrier::setup)?;
        let carrier = Carrier::new(variables, shelf, report)?;
        let ticker = runtime.spawn(carrier.tell());
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
            carrier,
            stop,
            _ticker: AbortOnDropHandle::new(ticker),
        })
    }

    /// Brings the file at `url` to `target`, which must not exist. Must be called outside of
    /// asynchronous code.
    ///
    /// # Errors
    /// Why it did not arrive; `target` does not exist then.
    pub fn file(&self, label: &str, url: &str, target: &Path) -> Result<(), Error> {
        self.wait(url, self.carrier.file(label, url, target))
    }

    /// Brings all files below `url` that are wanted into the folder `target`, which exists and is
    /// empty. Must be called outside of asynchronous code.
    ///
    /// # Errors
    /// Why one of them did not arrive.
    pub fn folder(
        &self,
        label: &str,
        url: &str,
        target: &Path,
        wanted: &Wanted<'_>,
    ) -> Result<(), Error> {
        self.wait(url, self.carrier.folder(label, url, target, wanted))
    }

    fn wait(&self, url: &str, work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
        let stopped = || Error::Stopped {
            url: without_secrets(url),
        };
        self.handle.block_on(async {
            let done = self.stop.run_until_cancelled(work).await;
            done.unwrap_or_else(|| Err(stopped()))
        })
    }
}

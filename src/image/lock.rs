//! One builder at a time for each thing that is built, across processes.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::Error;
use super::hash::folder_of;

/// How often a lock that another builder holds is tried.
const INTERVAL: Duration = Duration::from_millis(50);

/// Holds the lock at `path` until the file is dropped; `wait` is told when somebody else has it.
///
/// Tries again and again: unlike a thread that sleeps in the kernel, this ends at once when the
/// caller gives up.
pub(super) async fn exclusive(path: &Path, wait: &(dyn Fn() + Send + Sync)) -> Result<File, Error> {
    let folder = folder_of(path);
    std::fs::create_dir_all(&folder).map_err(Error::store("create", &folder))?;
    let mut options = File::options();
    // Readable, since installers get it as their standard input.
    let file = options
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(path);
    let file = file.map_err(Error::store("open", path))?;
    let mut is_told = false;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(error) => return Err(Error::store("lock", path)(error.into())),
        }
        if !std::mem::replace(&mut is_told, true) {
            wait();
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

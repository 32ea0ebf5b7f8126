//! How many files a process may have open.
//!
//! Systems give 1024 at first, for the sake of old programs, and many more to whoever asks. The
//! platform holds two for each connection that it carries, so it asks; the apps get what it was
//! given itself, since some of them are such programs.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Enough for the platform. Where there is no bound, the system has one of its own.
const WANTED: u64 = 1 << 20;

/// What there was before [`raise`].
static GIVEN: OnceLock<Rlimit> = OnceLock::new();

/// Raises what this process may have as far as it may; tells how many that is now.
pub fn raise() -> Option<u64> {
    let given = getrlimit(Resource::Nofile);
    let most = given.maximum.map_or(WANTED, |most| most.min(WANTED));
    let given_now = given.current?;
    if given_now >= most {
        return Some(given_now);
    }
    let wanted = Rlimit {
        current: Some(most),
        maximum: given.maximum,
    };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => {
            let _ = GIVEN.set(given);
            Some(most)
        }
        Err(error) => {
            tracing::debug!(%error, "the number of open files stays as it is");
            Some(given_now)
        }
    }
}

/// Gives a process that was just started what this one had before it raised its own.
///
/// Other systems cannot do that to another process; there it keeps what it inherited.
pub fn lower_for(pid: u32) {
    #[cfg(target_os = "linux")]
    if let Some(given) = GIVEN.get()
        && let Some(pid) = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        && let Err(error) = rustix::process::prlimit(Some(pid), Resource::Nofile, *given)
    {
        // It may have ended already.
        tracing::debug!(%error, pid = pid.as_raw_nonzero(), "keeps a raised number of open files");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = pid;
}

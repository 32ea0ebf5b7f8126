//! What holds the processes of a replica to the memory and the cores that they may have.
//!
//! The kernel does it where it lets us: see `cgroup`. Elsewhere they are looked at many times a second
//! (`memory`, `cpu`), which finds out a little late. Whoever starts a replica need not know which.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::task::AbortOnDropHandle;

use super::{cpu, memory};

/// What a replica may have; `None` is as much as there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Bytes.
    pub memory: Option<u64>,
    pub cores: Option<f64>,
}

/// Holds a replica's processes for as long as it is there.
pub trait Hold: Send + Sync {
    /// The memory for which they were killed, once they were.
    fn exceeded(&self) -> Option<u64>;

    /// Kills them if they hold too much at this moment; whoever is held by the kernel never does.
    fn kill_if_over(&self) -> bool;

    /// Kills what is left of them, and leaves nothing behind.
    fn clear(&self);
}

/// Holds the group of processes led by `leader`, which has just been started.
pub async fn hold(leader: i32, name: &str, bounds: Bounds) -> Arc<dyn Hold> {
    let bounds = Bounds {
        cores: bounds.cores.filter(|cores| cpu::is_less_than_all(*cores)),
        ..bounds
    };
    if bounds.memory.is_none() && bounds.cores.is_none() {
        return Arc::new(Free);
    }
    match held_by_kernel(leader, name, bounds).await {
        Some(group) => group,
        None => Arc::new(Sampled::start(leader, bounds)),
    }
}

#[cfg(target_os = "linux")]
async fn held_by_kernel(leader: i32, name: &str, bounds: Bounds) -> Option<Arc<dyn Hold>> {
    let name = name.to_owned();
    // The first time, systemd may be asked, which takes some milliseconds.
    let held = move || super::cgroup::hold(leader, &name, bounds);
    let group = tokio::task::spawn_blocking(held).await.ok()??;
    Some(Arc::new(group))
}

#[cfg(not(target_os = "linux"))]
async fn held_by_kernel(_: i32, _: &str, _: Bounds) -> Option<Arc<dyn Hold>> {
    None
}

/// Nothing is asked of it.
pub(super) struct Free;

impl Hold for Free {
    fn exceeded(&self) -> Option<u64> {
        None
    }

    fn kill_if_over(&self) -> bool {
        false
    }

    fn clear(&self) {}
}

/// They are looked at.
struct Sampled {
    leader: i32,
    memory: Option<u64>,
    /// The memory for which they were killed.
    exceeded: Arc<AtomicU64>,
    _guards: [Option<AbortOnDropHandle<()>>; 2],
}

impl Sampled {
    fn start(leader: i32, bounds: Bounds) -> Self {
        let exceeded = Arc::new(AtomicU64::new(0));
        let memory = bounds
            .memory
            .map(|limit| memory::guard(leader, limit, Arc::clone(&exceeded)));
        let cpu = bounds.cores.map(|cores| cpu::guard(leader, cores));
        Self {
            leader,
            memory: bounds.memory,
            exceeded,
            _guards: [
                memory.map(|guard| AbortOnDropHandle::new(tokio::spawn(guard))),
                cpu.map(|guard| AbortOnDropHandle::new(tokio::spawn(guard))),
            ],
        }
    }
}

impl Hold for Sampled {
    fn exceeded(&self) -> Option<u64> {
        let used = self.exceeded.load(Ordering::Acquire);
        (used > 0).then_some(used)
    }

    fn kill_if_over(&self) -> bool {
        self.memory
            .is_some_and(|limit| memory::kill_if_over(self.leader, limit, &self.exceeded))
    }

    fn clear(&self) {}
}

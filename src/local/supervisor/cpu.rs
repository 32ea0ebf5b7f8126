//! The processor time that a replica may have, and what happens when it takes more.
//!
//! A cluster's kernel lets a container run for its share of each tenth of a second and then wait for
//! the next. Here the time that the replica's processes used is looked at, and they are stopped
//! (`SIGSTOP`) until the clock has caught up with them: a control group would be exact, but asks for
//! rights that a user's session seldom has. What was not used is not saved up.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{memory, sweep};

/// How often a busy replica is looked at; the system counts in hundredths of a second.
const LOOK: Duration = Duration::from_millis(20);
/// The same for one that did nothing since the last look.
const IDLE_LOOK: Duration = Duration::from_millis(100);
/// For how long a replica may use more than its share after it used less.
const PERIOD: Duration = Duration::from_millis(100);

/// Holds the group led by `leader` to `cores`; goes on until it is dropped.
pub async fn guard(leader: i32, cores: f64) {
    let mut group = Group {
        leader,
        stopped: false,
    };
    let mut share = Share::new(cores, used_by(leader), Instant::now());
    let mut pause = LOOK;
    loop {
        tokio::time::sleep(pause).await;
        let taken = share.take(used_by(leader), Instant::now());
        pause = if taken.is_zero() { IDLE_LOOK } else { LOOK };
        if let Some(rest) = share.debt() {
            group.stop();
            tokio::time::sleep(rest).await;
            group.go_on();
        }
    }
}

/// Whether a limit means anything on this machine.
pub fn is_less_than_all(cores: f64) -> bool {
    std::thread::available_parallelism()
        .is_ok_and(|all| u32::try_from(all.get()).is_ok_and(|all| cores < f64::from(all)))
}

/// A group that is not left stopped, whatever becomes of its guard.
struct Group {
    leader: i32,
    stopped: bool,
}

impl Group {
    fn stop(&mut self) {
        self.stopped = true;
        sweep::signal_group(self.leader, Signal::STOP);
    }

    fn go_on(&mut self) {
        if std::mem::take(&mut self.stopped) {
            sweep::signal_group(self.leader, Signal::CONT);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.go_on();
    }
}

/// What a replica may still use, in seconds of a core.
struct Share {
    cores: f64,
    left: f64,
    used: Duration,
    at: Instant,
}

impl Share {
    fn new(cores: f64, used: Duration, at: Instant) -> Self {
        Self {
            cores,
            left: 0.0,
            used,
            at,
        }
    }

    /// Counts what was used since the last look, and tells how much it was.
    fn take(&mut self, used: Duration, now: Instant) -> Duration {
        // Processes that ended without being waited for take what they used with them.
        let taken = used.saturating_sub(self.used);
        let earned = self.cores * now.duration_since(self.at).as_secs_f64();
        let most = self.cores * PERIOD.as_secs_f64();
        self.left = (self.left + earned - taken.as_secs_f64()).min(most);
        self.used = used;
        self.at = now;
        taken
    }

    /// How long the clock needs to catch up, if more was used than may be.
    fn debt(&self) -> Option<Duration> {
        (self.left < 0.0).then(|| Duration::from_secs_f64(-self.left / self.cores))
    }
}

/// Processor time that a process, its descendants, and those that they have waited for, have used.
#[cfg(target_os = "linux")]
fn used_by(pid: i32) -> Duration {
    let ticks: u64 = memory::family(pid).into_iter().filter_map(ticks_of).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1))
}

#[cfg(target_os = "linux")]
fn ticks_of(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; fields are counted behind it.
    let (_, rest) = stat.rsplit_once(')')?;
    let times = rest.split_whitespace().skip(11).take(4);
    times.map(|field| field.parse::<u64>().ok()).sum()
}

/// Other systems do not tell without help; nothing is limited there.
#[cfg(not(target_os = "linux"))]
fn used_by(_pid: i32) -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn what_was_used_too_much_is_waited_for_and_what_was_not_used_is_lost() {
        let began = Instant::now();
        let mut share = Share::new(0.5, Duration::ZERO, began);
        share.take(millis(20), began + millis(20));
        assert_eq!(share.debt().unwrap().as_millis(), 20);
        share.take(millis(20), began + millis(40));
        assert_eq!(share.debt(), None);
        // A minute of rest is worth no more than one period.
        let later = began + Duration::from_mins(1);
        assert!(share.take(millis(20), later).is_zero());
        share.take(millis(120), later + millis(20));
        assert_eq!(share.debt().unwrap().as_millis(), 80);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_busy_group_gets_its_share_and_is_not_left_stopped() {
        use std::os::unix::process::CommandExt;
        // The child of a child is as busy, so that both together want two cores.
        let script = "import os\nos.fork()\nwhile True: pass";
        let mut child = std::process::Command::new("python3")
            .args(["-c", script])
            .process_group(0)
            .spawn()
            .unwrap();
        let leader = i32::try_from(child.id()).unwrap();
        let guard = tokio::spawn(guard(leader, 0.2));
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(LOOK).await;
        }
        // How much it gets of a busy machine is not ours to say; more than its share it does not get.
        let share = used_by(leader).as_secs_f64() / began.elapsed().as_secs_f64();
        guard.abort();
        let _ = guard.await;
        let stat = std::fs::read_to_string(format!("/proc/{leader}/stat")).unwrap();
        sweep::signal_group(leader, Signal::KILL);
        child.wait().unwrap();
        assert!(share < 0.35, "{share}");
        let state = stat.rsplit_once(") ").unwrap().1;
        assert!(!state.starts_with('T'), "{stat}");
    }
}

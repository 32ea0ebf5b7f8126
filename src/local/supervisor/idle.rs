//! Whether the processes of a replica are doing anything.
//!
//! An app that loads a model is busy and deserves patience; one that sleeps with nothing
//! listening will not begin to. CPU time tells them apart without asking the app.

use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use super::memory;

/// CPU use below this share of one core counts as idle.
const IDLE_SHARE: f64 = 0.02;

/// Follows the CPU time of one replica.
#[derive(Default)]
pub struct IdleMeter {
    last: Option<(Instant, Duration)>,
    idle_since: Option<Instant>,
}

impl IdleMeter {
    /// Takes the CPU time used so far, and tells for how long it has been idle.
    pub fn sample(&mut self, used: Option<Duration>) -> Duration {
        let now = Instant::now();
        let Some(used) = used else {
            return Duration::ZERO;
        };
        if let Some((then, before)) = self.last {
            let share = used.saturating_sub(before).as_secs_f64()
                / now.duration_since(then).as_secs_f64().max(0.001);
            if share > IDLE_SHARE {
                self.idle_since = None;
            } else {
                self.idle_since.get_or_insert(then);
            }
        }
        self.last = Some((now, used));
        self.idle_since
            .map_or(Duration::ZERO, |since| now.duration_since(since))
    }
}

/// CPU time of all processes in the group led by `leader`, and of its descendants, which may have
/// groups of their own; or `None` where the system does not tell.
#[cfg(target_os = "linux")]
pub fn cpu_time(leader: i32) -> Option<Duration> {
    let family = memory::family(leader);
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name in parentheses may hold spaces; fields are counted behind it.
        let Some((_, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |index: usize| fields.get(index).and_then(|text| text.parse::<i64>().ok());
        if field(2) == Some(i64::from(leader)) || family.contains(&pid) {
            ticks += field(11)? + field(12)?;
        }
    }
    let per_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_millis(
        ticks.unsigned_abs() * 1000 / per_second.max(1),
    ))
}

#[cfg(not(target_os = "linux"))]
pub fn cpu_time(_leader: i32) -> Option<Duration> {
    None
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    fn group(script: &str) -> Child {
        Command::new("sh")
            .args(["-c", script])
            .process_group(0)
            .spawn()
            .unwrap()
    }

    /// Whether it is seen at work, in several samples on end, before it is seen idle for as long. A
    /// loaded machine may take a while to let it work.
    fn is_seen_busy(mut child: Child) -> bool {
        let group = i32::try_from(child.id()).unwrap();
        let mut meter = IdleMeter::default();
        meter.sample(cpu_time(group));
        let (mut busy, mut idle) = (0, 0);
        while busy < 3 && idle < 20 {
            std::thread::sleep(Duration::from_millis(100));
            if meter.sample(cpu_time(group)).is_zero() {
                (busy, idle) = (busy + 1, 0);
            } else {
                (busy, idle) = (0, idle + 1);
            }
        }
        crate::local::supervisor::sweep::signal_group(group, rustix::process::Signal::KILL);
        child.wait().unwrap();
        busy == 3
    }

    #[test]
    fn busy_and_sleeping_are_told_apart() {
        assert!(is_seen_busy(group("while :; do :; done")));
        assert!(!is_seen_busy(group("sleep 60")));
    }

    #[test]
    fn a_busy_worker_with_a_session_of_its_own_counts() {
        // It ends with the shell that started it.
        let worker = "while kill -0 $PPID 2>/dev/null; do :; done";
        assert!(is_seen_busy(group(&format!(
            "setsid sh -c '{worker}' & wait"
        ))));
    }
}

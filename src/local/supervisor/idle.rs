//! Whether the processes of a replica are doing anything.
//!
//! An app that loads a model is busy and deserves patience; one that sleeps with nothing
//! listening will not begin to. CPU time tells them apart without asking the app.

use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use super::memory;

/// CPU use below this share of one core counts as idle.
const IDLE_SHARE: f64 = 0.02;
/// What the kernel may count too much: it counts in ticks, and whoever runs at the moment of one is
/// charged with all of it.
const TICK: Duration = Duration::from_millis(10);

/// Follows the CPU time of one replica.
#[derive(Default)]
pub struct IdleMeter {
    /// When it was last seen at work, and what it had used by then.
    worked: Option<(Instant, Duration)>,
}

impl IdleMeter {
    /// Takes the CPU time used so far, and tells for how long it has been idle.
    pub fn sample(&mut self, used: Option<Duration>) -> Duration {
        self.sample_at(Instant::now(), used)
    }

    fn sample_at(&mut self, now: Instant, used: Option<Duration>) -> Duration {
        let Some(used) = used else {
            return Duration::ZERO;
        };
        if let Some((since, before)) = self.worked {
            let idle = now.duration_since(since);
            // It is less where one of the processes has ended.
            let more = used.checked_sub(before);
            if more.is_some_and(|more| more <= idle.mul_f64(IDLE_SHARE) + TICK) {
                return idle;
            }
        }
        self.worked = Some((now, used));
        Duration::ZERO
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
    fn single_ticks_are_no_work_and_many_are() {
        let start = Instant::now();
        let mut meter = IdleMeter::default();
        let mut sample = |at: u64, used: u64| {
            let used = Some(Duration::from_millis(used));
            let idle = meter.sample_at(start + Duration::from_millis(at), used);
            u64::try_from(idle.as_millis()).unwrap()
        };
        assert_eq!(sample(0, 500), 0);
        assert_eq!(sample(200, 510), 200);
        assert_eq!(sample(3000, 530), 3000);
        // It goes to work, and then ends a part of itself.
        assert_eq!(sample(3200, 630), 0);
        assert_eq!(sample(3400, 630), 200);
        assert_eq!(sample(3600, 100), 0);
        assert_eq!(sample(3800, 100), 200);
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

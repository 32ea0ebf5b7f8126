//! Finding and ending processes that belong to a replica, wherever they hid.
//!
//! A process group reaches most of them. One that made a session of its own still carries the
//! mark in its environment, also after the platform itself was killed.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Environment variable by which a replica's processes are known.
pub const MARK: &str = "_FLYTE_REPLICA";

/// Sends `signal` to the group led by `leader`; a group that is gone is fine.
pub fn signal_group(leader: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(leader) {
        let _ = kill_process_group(pid, signal);
    }
}

/// Kills every process that carries `mark`, or one that goes on with more parts, as those of a home's
/// replicas do; tells how many there were.
pub fn kill_marked(mark: &str) -> usize {
    let mut total = 0;
    // A process may fork while the list is read, so look again until none is left.
    for _ in 0..10 {
        let found = marked(mark);
        if found.is_empty() {
            break;
        }
        total += found.len();
        for pid in found {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    total
}

#[cfg(target_os = "linux")]
fn marked(mark: &str) -> Vec<Pid> {
    let wanted = format!("{MARK}={mark}");
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            // Unreadable: another user's process, or gone.
            std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
                environment
                    .split(|byte| *byte == 0)
                    .any(|entry| is_at_or_below(entry, wanted.as_bytes()))
            })
        })
        .filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
        .collect()
}

/// Whether an entry is the wanted one or goes on with another part: replica `10` is not replica `1`.
#[cfg(target_os = "linux")]
fn is_at_or_below(entry: &[u8], wanted: &[u8]) -> bool {
    matches!(entry.strip_prefix(wanted), Some([] | [b':', ..]))
}

/// Other systems do not show a process's environment; the group has to do.
#[cfg(not(target_os = "linux"))]
fn marked(_mark: &str) -> Vec<Pid> {
    Vec::new()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn a_marked_process_is_found_in_its_own_session_too() {
        let mark = format!("test-{}", std::process::id());
        let mut child = Command::new("setsid")
            .args(["--fork", "--wait", "sleep", "60"])
            .env(MARK, format!("{mark}:app"))
            .spawn()
            .unwrap();
        let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
        // Both `setsid` and `sleep` carry the mark once they have started.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while marked(&mark).len() < 2 {
            assert!(std::time::Instant::now() < deadline, "no marked processes");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(kill_marked(&mark) >= 2);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(bystander.try_wait().unwrap().is_none());
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }

    #[test]
    fn a_replica_is_not_taken_for_one_whose_number_begins_as_its_own() {
        let home = format!("numbered-{}", std::process::id());
        let start = |number: u64| {
            let mark = format!("{home}:p/d/web:1:{number}");
            let mut command = Command::new("sleep");
            command.arg("60").env(MARK, &mark);
            (command.spawn().unwrap(), mark)
        };
        let [(mut first, mark), (mut tenth, _)] = [1, 10].map(start);
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while marked(&home).len() < 2 {
            assert!(std::time::Instant::now() < deadline, "no marked processes");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(kill_marked(&mark) >= 1);
        assert_eq!(first.wait().unwrap().signal(), Some(9));
        assert!(tenth.try_wait().unwrap().is_none());
        assert!(kill_marked(&home) >= 1);
        assert_eq!(tenth.wait().unwrap().signal(), Some(9));
    }
}

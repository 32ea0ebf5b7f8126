//! The memory that a replica may have, and what happens when it takes more.
//!
//! A cluster's kernel kills a container over its limit. Here the memory of the replica's processes
//! is looked at ten times a second, and the replica killed when it is over: a control group would be
//! exact, but asks for rights that a user's session seldom has. What counts is what the processes
//! made themselves, shared memory included; files that they mapped can be dropped.
//!
//! Workers that were forked share their parent's pages until one of them writes there. The quick look
//! counts such a page for each; only where that is too much is it asked, slowly, what they hold
//! together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::sweep;
use crate::wire::core::{self, resources::ResourceName};

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// The share of the time that slow looks may take is one in this many.
const SLOW_LOOKS: u32 = 20;
/// Longest pause for their sake.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The memory that a container may have, in bytes: its limit, else what it asked for.
pub fn limit(container: &core::Container) -> Option<u64> {
    declared(container, ResourceName::MEMORY).and_then(bytes)
}

/// The cores that a container may use: its limit, else what it asked for.
pub fn cores(container: &core::Container) -> Option<f64> {
    declared(container, ResourceName::CPU)
        .and_then(quantity)
        .filter(|cores| *cores > 0.0)
}

/// The same in billionths of a core.
pub fn nano_cpus(container: &core::Container) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "`as` saturates")]
    cores(container).map(|cores| (cores * 1e9) as i64)
}

/// A resource's limit, else what was asked for, which is the limit then.
fn declared(container: &core::Container, name: ResourceName) -> Option<&str> {
    let resources = &container.resources;
    let all = resources.limits.iter().chain(&resources.requests);
    let mut named = all.filter(|entry| entry.name.as_known() == Some(name));
    named.next().map(|entry| entry.value.as_str())
}

/// A quantity of Kubernetes, rounded down to bytes.
pub fn bytes(text: &str) -> Option<u64> {
    let bytes = quantity(text)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, and nobody has more than that"
    )]
    (bytes >= 1.0).then_some(bytes as u64)
}

/// A quantity of Kubernetes.
fn quantity(quantity: &str) -> Option<f64> {
    let unit = quantity.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = &quantity[..quantity.len() - unit.len()];
    let factor: f64 = match unit {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024_f64,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        _ => exponent(unit)?,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

fn exponent(unit: &str) -> Option<f64> {
    let digits = unit.strip_prefix(['e', 'E'])?;
    Some(10_f64.powi(digits.parse().ok()?))
}

/// Kills the group led by `leader` once its processes hold more than `limit`, and says so in
/// `exceeded`; goes on until then, so it is to be dropped with the replica.
pub async fn guard(leader: i32, limit: u64, exceeded: Arc<AtomicU64>) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let began = Instant::now();
        if kill_if_over(leader, limit, &exceeded) {
            return;
        }
        let took = began.elapsed() * SLOW_LOOKS;
        if took > LOOK {
            tokio::time::sleep(took.min(LONGEST_PAUSE)).await;
        }
    }
}

/// Looks once; tells whether the group was over its limit, and so was killed.
pub fn kill_if_over(leader: i32, limit: u64, exceeded: &AtomicU64) -> bool {
    let used = held(leader, limit);
    let is_over = used > limit;
    if is_over {
        exceeded.store(used, Ordering::Release);
        sweep::signal_group(leader, Signal::KILL);
    }
    is_over
}

/// Bytes of memory that a process and its descendants hold.
pub fn used_by(pid: i32) -> u64 {
    held(pid, 0)
}

/// The same; where that is no more than `enough`, a
/// number that is no less than it and no more than that.
#[cfg(target_os = "linux")]
fn held(pid: i32, enough: u64) -> u64 {
    let family = family(pid);
    let each = |pid: &i32| fields(*pid, "status", ["RssAnon:", "RssShmem:"]).unwrap_or(0);
    let at_most = family.iter().map(each).sum();
    if at_most <= enough {
        return at_most;
    }
    let share = |pid: &i32| {
        // Older kernels do not tell.
        let share = fields(*pid, "smaps_rollup", ["Pss_Anon:", "Pss_Shmem:"]);
        share.unwrap_or_else(|| each(pid))
    };
    family.iter().map(share).sum()
}

/// The sum of two fields of a file that the kernel keeps of a process.
#[cfg(target_os = "linux")]
fn fields(pid: i32, file: &str, names: [&str; 2]) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kilobytes * 1024)
    };
    Some(field(names[0])? + field(names[1])?)
}

/// A process and its descendants.
#[cfg(target_os = "linux")]
pub fn family(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let mut looked_at = 0;
    while let Some(pid) = all.get(looked_at) {
        let more = children(*pid);
        all.extend(more);
        looked_at += 1;
    }
    all
}

#[cfg(target_os = "linux")]
fn children(pid: i32) -> Vec<i32> {
    // Each thread has its own list of those that it started.
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}

/// Other systems do not tell without help: only the process itself is known.
#[cfg(not(target_os = "linux"))]
pub fn family(pid: i32) -> Vec<i32> {
    vec![pid]
}

/// Nothing is limited there either.
#[cfg(not(target_os = "linux"))]
fn held(_pid: i32, _enough: u64) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, expected) in [
            ("512Mi", Some(512 << 20)),
            ("1Gi", Some(1 << 30)),
            ("0.5Gi", Some(1 << 29)),
            ("200M", Some(200_000_000)),
            ("1e9", Some(1_000_000_000)),
            ("1500m", Some(1)),
            ("12345", Some(12_345)),
            ("", None),
            ("0", None),
            ("many", None),
            ("5Xi", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[cfg(target_os = "linux")]
    fn python(script: &str) -> std::process::Child {
        use std::os::unix::process::CommandExt;
        std::process::Command::new("python3")
            .args(["-c", script])
            .stdout(std::process::Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap()
    }

    #[cfg(target_os = "linux")]
    fn wait_for_word(child: &mut std::process::Child) -> i32 {
        use std::io::Read;
        let mut word = [0; 3];
        let mut output = child.stdout.take().unwrap();
        output.read_exact(&mut word).unwrap();
        i32::try_from(child.id()).unwrap()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_forked_workers_share_counts_once_and_shared_memory_counts() {
        let share = "import os, time\nx = bytearray(b'x' * (60 << 20))\n\
                     for _ in range(4):\n    if os.fork() == 0: time.sleep(60)\n\
                     time.sleep(0.3)\nprint('ok', flush=True)\ntime.sleep(60)";
        let map = "import mmap, time\nm = mmap.mmap(-1, 60 << 20)\n\
                   m.write(b'x' * (60 << 20))\nprint('ok', flush=True)\ntime.sleep(60)";
        for script in [share, map] {
            let mut child = python(script);
            let leader = wait_for_word(&mut child);
            let (all, exact) = (held(leader, u64::MAX), used_by(leader));
            sweep::signal_group(leader, Signal::KILL);
            child.wait().unwrap();
            assert!(all >= exact, "{all} {exact}");
            let megabytes = exact >> 20;
            assert!((60..140).contains(&megabytes), "{megabytes}: {script}");
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_group_that_takes_too_much_is_killed() {
        use std::os::unix::process::{CommandExt, ExitStatusExt};
        // The child of a child holds it.
        let script = "import os, time\nif os.fork() == 0: x = bytearray(100 << 20)\ntime.sleep(60)";
        let mut child = std::process::Command::new("python3")
            .args(["-c", script])
            .process_group(0)
            .spawn()
            .unwrap();
        let leader = i32::try_from(child.id()).unwrap();
        let exceeded = Arc::new(AtomicU64::new(0));
        guard(leader, 80 << 20, Arc::clone(&exceeded)).await;
        assert!(exceeded.load(Ordering::Acquire) > 80 << 20);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}

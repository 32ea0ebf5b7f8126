//! Control groups (version 2) of our own, one for each replica that has limits.
//!
//! The kernel lets a user have them below a group that was delegated to that user. The platform has
//! one where it runs as a service with `Delegate=yes` or alone in a container; elsewhere it asks the
//! user's systemd for a scope of that kind. Both are tried when the first limit is met, since most
//! homes have none, and given up for good when they fail.
//!
//! A group may have processes or groups in it, and not both, so the platform moves itself to a leaf.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::limits::{Bounds, Hold};
use super::memory;

const MOUNT: &str = "/sys/fs/cgroup";
/// Where the platform itself is, beside its replicas.
const LEAF: &str = "flyte-platform";
/// What the groups of replicas begin with.
const REPLICA: &str = "flyte-replica-";
/// A tenth of a second, as on the clusters; in microseconds.
const PERIOD: u32 = 100_000;
/// The least that the kernel takes.
const LEAST_QUOTA: f64 = 1000.0;
/// Time for systemd to make a scope.
const SCOPE_PATIENCE: Duration = Duration::from_secs(2);
/// Time for a group's killed processes to be gone.
const CLEAR_PATIENCE: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(5);

/// Puts a process under limits; `None` where no control group can be had.
pub fn hold(leader: i32, name: &str, bounds: Bounds) -> Option<Group> {
    static BASE: OnceLock<Option<Base>> = OnceLock::new();
    let base = BASE.get_or_init(|| match find() {
        Ok(base) => Some(base),
        Err(error) => {
            tracing::info!(%error, "no control groups of our own; limits are watched over instead");
            None
        }
    });
    let group = base.as_ref()?.make(name, bounds, leader);
    group
        .inspect_err(|error| tracing::warn!(%error, name, "no control group"))
        .ok()
}

fn find() -> io::Result<Base> {
    let own = || std::fs::read_to_string("/proc/self/cgroup");
    let mount = Path::new(MOUNT);
    let pid = std::process::id();
    let family = |pid| {
        let pid = i32::try_from(pid).unwrap_or(i32::MAX);
        memory::family(pid)
    };
    let first = place(mount, &own()?).and_then(|place| Base::claim(place, pid, &family(pid)));
    if first.is_ok() {
        return first;
    }
    let before = own()?;
    ask_for_scope(pid)?;
    let deadline = Instant::now() + SCOPE_PATIENCE;
    while own()? == before {
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(POLL);
    }
    // Those that were started before stay where they are.
    Base::claim(place(mount, &own()?)?, pid, &[])
}

/// The folder of a process's group, from what the kernel says of it.
fn place(mount: &Path, said: &str) -> io::Result<PathBuf> {
    let path = said.lines().find_map(|line| line.strip_prefix("0::/"));
    let path = path.ok_or_else(|| io::Error::other("control groups of version 2 are not used"))?;
    Ok(mount.join(path))
}

/// Has the user's systemd put the platform into a group that is its own.
fn ask_for_scope(pid: u32) -> io::Result<()> {
    let name = format!("flyte-{pid}.scope");
    let pid = pid.to_string();
    let manager = "org.freedesktop.systemd1";
    let call = [
        "--user",
        "--timeout=2",
        "call",
        manager,
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
        "StartTransientUnit",
        "ssa(sv)a(sa(sv))",
        &name,
        "fail",
        "2",
        "PIDs",
        "au",
        "1",
        &pid,
        "Delegate",
        "b",
        "true",
        "0",
    ];
    let mut command = Command::new("busctl");
    command.args(call).stdin(Stdio::null());
    let done = command.output()?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("no scope: {}", said.trim())))
}

/// A group that is ours, with those of the replicas in it.
struct Base {
    folder: PathBuf,
}

impl Base {
    /// Takes a group over in which there is nobody but the platform and its `family`.
    fn claim(folder: PathBuf, pid: u32, family: &[i32]) -> io::Result<Self> {
        let controllers = std::fs::read_to_string(folder.join("cgroup.controllers"))?;
        for wanted in ["memory", "cpu"] {
            if !controllers.split_whitespace().any(|one| one == wanted) {
                return Err(io::Error::other(format!("`{wanted}` is not delegated")));
            }
        }
        let there = std::fs::read_to_string(folder.join("cgroup.procs"))?;
        let is_foreign = |process: &&str| {
            let process = process.parse().unwrap_or(0);
            process != i32::try_from(pid).unwrap_or(0) && !family.contains(&process)
        };
        if there.lines().any(|process| is_foreign(&process)) {
            return Err(io::Error::other("others are in the platform's group"));
        }
        let leaf = folder.join(LEAF);
        make_folder(&leaf)?;
        for process in there.lines() {
            // It may have ended meanwhile; whoever is left is told by the next step.
            let _ = std::fs::write(leaf.join("cgroup.procs"), process);
        }
        let subtree = folder.join("cgroup.subtree_control");
        if let Err(error) = std::fs::write(subtree, "+memory +cpu") {
            let _ = std::fs::write(folder.join("cgroup.procs"), pid.to_string());
            let _ = std::fs::remove_dir(&leaf);
            return Err(error);
        }
        remove_left_behind(&folder);
        Ok(Self { folder })
    }

    fn make(&self, name: &str, bounds: Bounds, leader: i32) -> io::Result<Group> {
        // Apps of other projects have replicas of the same name.
        let folder = self.folder.join(format!("{REPLICA}{name}-{leader}"));
        make_folder(&folder)?;
        let group = Group { folder, bounds };
        if let Err(error) = group.begin(leader) {
            group.clear();
            return Err(error);
        }
        Ok(group)
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Groups of replicas that an earlier platform did not get to remove.
fn remove_left_behind(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        if entry.file_name().to_string_lossy().starts_with(REPLICA) {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

/// The group of one replica.
pub struct Group {
    folder: PathBuf,
    bounds: Bounds,
}

impl Group {
    fn begin(&self, leader: i32) -> io::Result<()> {
        if let Some(limit) = self.bounds.memory {
            self.set("memory.max", &limit.to_string())?;
            // What is over the limit is not to be put aside either. Not all kernels count that.
            let _ = self.set("memory.swap.max", "0");
            // A replica without one of its processes is of no use.
            let _ = self.set("memory.oom.group", "1");
        }
        if let Some(cores) = self.bounds.cores {
            self.set("cpu.max", &cpu_max(cores))?;
        }
        self.set("cgroup.procs", &leader.to_string())
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        std::fs::write(self.folder.join(file), value)
    }

    fn number(&self, file: &str, field: &str) -> Option<u64> {
        let text = std::fs::read_to_string(self.folder.join(file)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim().parse().ok()
    }
}

fn cpu_max(cores: f64) -> String {
    let quota = (cores * f64::from(PERIOD)).max(LEAST_QUOTA);
    format!("{quota:.0} {PERIOD}")
}

impl Hold for Group {
    fn exceeded(&self) -> Option<u64> {
        let limit = self.bounds.memory?;
        self.number("memory.events", "oom_kill ")
            .filter(|kills| *kills > 0)?;
        // The kernel let it have no more than that; it is what it asked for beyond that that counts.
        let most = self.number("memory.peak", "").unwrap_or(limit);
        Some(most.max(limit + 1))
    }

    fn kill_if_over(&self) -> bool {
        false
    }

    fn clear(&self) {
        let _ = self.set("cgroup.kill", "1");
        let deadline = Instant::now() + CLEAR_PATIENCE;
        while std::fs::remove_dir(&self.folder)
            .is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
            && Instant::now() < deadline
        {
            std::thread::sleep(POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder like one of the kernel's, but that its files are made by whoever writes them.
    fn fake(controllers: &str, processes: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cgroup.controllers"), controllers).unwrap();
        std::fs::write(folder.path().join("cgroup.procs"), processes).unwrap();
        folder
    }

    fn text(folder: &Path, file: &str) -> String {
        std::fs::read_to_string(folder.join(file)).unwrap_or_default()
    }

    const BOUNDS: Bounds = Bounds {
        memory: Some(64 << 20),
        cores: Some(0.25),
    };

    #[test]
    fn the_platform_moves_to_a_leaf_and_hands_its_controllers_down() {
        let fake = fake("cpuset cpu io memory pids\n", "7\n");
        std::fs::create_dir(fake.path().join(format!("{REPLICA}old"))).unwrap();
        let base = Base::claim(fake.path().into(), 7, &[]).unwrap();
        assert_eq!(text(&fake.path().join(LEAF), "cgroup.procs"), "7");
        assert_eq!(text(fake.path(), "cgroup.subtree_control"), "+memory +cpu");
        assert!(!fake.path().join(format!("{REPLICA}old")).exists());
        assert_eq!(base.folder, fake.path());
    }

    #[test]
    fn a_group_that_is_not_ours_alone_or_lacks_a_controller_is_left_alone() {
        for (controllers, processes, part) in [
            ("cpu pids", "7\n", "`memory` is not delegated"),
            (
                "cpu memory",
                "7\n99\n",
                "others are in the platform's group",
            ),
        ] {
            let fake = fake(controllers, processes);
            let refused = Base::claim(fake.path().into(), 7, &[8]).err().unwrap();
            assert_eq!(refused.to_string(), part);
            assert!(!fake.path().join(LEAF).exists());
        }
        let fake = fake("cpu memory", "7\n8\n");
        assert!(Base::claim(fake.path().into(), 7, &[8]).is_ok());
    }

    #[test]
    fn a_replica_is_put_under_its_limits_and_taken_from_them() {
        let fake = fake("cpu memory", "7\n");
        let base = Base::claim(fake.path().into(), 7, &[]).unwrap();
        let group = base.make("web-1-1", BOUNDS, 42).unwrap();
        let folder = fake.path().join(format!("{REPLICA}web-1-1-42"));
        for (file, value) in [
            ("memory.max", "67108864"),
            ("memory.swap.max", "0"),
            ("memory.oom.group", "1"),
            ("cpu.max", "25000 100000"),
            ("cgroup.procs", "42"),
        ] {
            assert_eq!(text(&folder, file), value, "{file}");
        }
        group.clear();
        assert_eq!(text(&folder, "cgroup.kill"), "1");
        assert_eq!(cpu_max(0.001), "1000 100000");
    }

    #[test]
    fn only_a_kill_by_the_kernel_counts_as_too_much_memory() {
        let fake = fake("cpu memory", "7\n");
        let base = Base::claim(fake.path().into(), 7, &[]).unwrap();
        let group = base.make("web-1-1", BOUNDS, 42).unwrap();
        let tell = |text: &str| group.set("memory.events", text).unwrap();
        assert_eq!(group.exceeded(), None);
        tell("low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\n");
        assert_eq!(group.exceeded(), None);
        tell("low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 1\n");
        assert_eq!(group.exceeded(), Some((64 << 20) + 1));
        group.set("memory.peak", "67200000\n").unwrap();
        assert_eq!(group.exceeded(), Some(67_200_000));
        assert!(!group.kill_if_over());
    }

    #[test]
    fn the_place_of_a_process_is_read_from_what_the_kernel_says() {
        let mount = Path::new("/m");
        let said = "4:memory:/a\n0::/user.slice/x.scope\n";
        let found = place(mount, said).unwrap();
        assert_eq!(found, Path::new("/m/user.slice/x.scope"));
        assert!(place(mount, "4:memory:/a\n").is_err());
    }
}

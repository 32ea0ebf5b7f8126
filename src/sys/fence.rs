//! A fence around a replica: it sends signals to, and looks into, its own processes only.
//!
//! Platform and replicas belong to one user, so nothing else keeps a hostile app from ending the
//! platform or from reading the memory and the environment of its neighbours. It is a domain of
//! Landlock (`linux/landlock.h`): whoever is in one may not signal, trace or read (`/proc/<pid>/mem`,
//! `environ`) who is outside. Files and the network are not its business, and root reads what it likes
//! (`CAP_PERFMON`), but signals nobody outside either.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

/// The layout of this module's `Rules`, signals included, is known since Linux 6.12.
const NEEDED: i64 = 6;
const SIGNALS: u64 = 1 << 1;
const ASK_VERSION: libc::c_uint = 1;

#[repr(C)]
struct Rules {
    files: u64,
    network: u64,
    scoped: u64,
}

/// Puts the calling thread, and all it will create or exec, inside a fence of its own; tells
/// whether this kernel has any. Call [`no_new_privs`](super::no_new_privs) before.
pub fn enclose() -> io::Result<bool> {
    if !is_known() {
        return Ok(false);
    }
    let rules = Rules {
        files: 0,
        network: 0,
        scoped: SIGNALS,
    };
    // SAFETY: the kernel reads as many bytes of `rules` as the size that goes along says.
    let made = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const rules,
            size_of::<Rules>(),
            0 as libc::c_uint,
        )
    };
    let made = match RawFd::try_from(made) {
        // SAFETY: the kernel just gave this descriptor to us, and nobody else has it.
        Ok(made @ 0..) => unsafe { OwnedFd::from_raw_fd(made) },
        Ok(_) | Err(_) => return Err(io::Error::last_os_error()),
    };
    // SAFETY: the call takes a descriptor, which lives until behind it, and flags.
    let done = unsafe {
        libc::syscall(
            libc::SYS_landlock_restrict_self,
            made.as_raw_fd(),
            0 as libc::c_uint,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(true)
}

fn is_known() -> bool {
    // SAFETY: with this flag the kernel reads no attributes, and they are given as none.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<Rules>(),
            0_usize,
            ASK_VERSION,
        )
    };
    version >= NEEDED
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn whoever_is_inside_cannot_reach_out() {
        if !is_known() {
            return;
        }
        let mut outside = Command::new("sleep").arg("60").spawn().unwrap();
        let script = format!(
            "sleep 60 & own=$!; kill -0 $own || exit 3; kill $own
             readlink /proc/$$/fd/0 >/dev/null || exit 4
             kill -0 {pid} && exit 5
             readlink /proc/{pid}/fd/0 >/dev/null && exit 6
             exit 0",
            pid = outside.id()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stderr(Stdio::null());
        let fence = || {
            super::super::no_new_privs()?;
            enclose().map(drop)
        };
        // SAFETY: between fork and exec there are system calls only, and nothing is allocated.
        unsafe { command.pre_exec(fence) };
        let status = command.status();
        outside.kill().unwrap();
        outside.wait().unwrap();
        assert_eq!(status.unwrap().code(), Some(0));
    }
}

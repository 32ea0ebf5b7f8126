//! What the operating system can do for us beyond the standard library.
//!
//! The only module that may hold `unsafe`: each such block is here because neither std nor rustix
//! has a safe call for it, and says why it is sound. It knows processes, descriptors and sockets;
//! it refuses to know apps, replicas and configuration. Errors are plain [`io::Error`]s, for only
//! the caller can say what a refused system call means to the user.
// seccomp(2), its ioctls and code between fork and exec have no safe interface.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::Signal;

#[cfg(target_os = "linux")]
mod fence;
pub mod open_files;
pub mod port_watch;

/// Lets the kernel send `signal` to this process when its parent ends.
///
/// Three things to know. "Parent" is the *thread* that created this process: where that thread
/// ends earlier than its process, the signal comes too early, so spawn from a thread that lives as
/// long as the platform does (never from `spawn_blocking`, whose idle threads end). The setting
/// survives exec, but is not inherited by children. And a parent that was gone before this call is
/// not noticed: compare `getppid` with the expected value afterwards.
///
/// Only Linux has it; elsewhere this does nothing.
pub fn die_with_parent(signal: Signal) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(signal))?;
    #[cfg(not(target_os = "linux"))]
    let _ = signal;
    Ok(())
}

/// Gives up, for this thread and all it will create or exec, every gain of privileges by exec.
///
/// The kernel asks for this before an ordinary user may install a seccomp filter. Only Linux has
/// it; elsewhere this does nothing.
pub fn no_new_privs() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// Keeps this process, and all it will create or exec, from signalling, tracing and reading processes
/// that are not of its own; tells whether this system can.
///
/// Linux can since 6.12, where Landlock is switched on. Call [`no_new_privs`] before.
pub fn fence() -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    return fence::enclose();
    #[cfg(not(target_os = "linux"))]
    Ok(false)
}

/// Keeps the memory of this process to itself: no core dump, and no look inside for other processes
/// of the same user. Programs that it starts are not meant. Only Linux has it; elsewhere this does
/// nothing.
pub fn conceal() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Lets all threads of this process allocate from one heap.
///
/// By default glibc gives threads heaps of their own, and room that is free in one is not used by the
/// others: a process that works little and lives long grows for hours. To be called before there are
/// other threads. Where the allocator is another one, this does nothing.
pub fn share_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets a number in the allocator, under its own lock; no memory of ours is involved.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives memory that is free in the heap back to the system; takes a millisecond or so.
pub fn return_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: looks at the allocator's free memory alone, under its own lock.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Makes the command the leader of a session of its own: no terminal, no Ctrl-C from ours.
pub fn detach_command(command: &mut Command) {
    let detach = || rustix::process::setsid().map(drop).map_err(io::Error::from);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; setsid(2) is one,
    // and turning its error number into an `io::Error` does not allocate.
    unsafe { command.pre_exec(detach) };
}

/// Sends `payload`, and with it a duplicate of `fd`, over a Unix stream socket.
///
/// Does not allocate, so it may be called between fork and exec. `payload` must hold a byte at
/// least, for a stream carries descriptors only along with data.
pub fn send_fd(
    socket: BorrowedFd<'_>,
    payload: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    if payload.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(fd.as_slice())) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    // A reader that went away is an error to return, not a reason to be killed by SIGPIPE. macOS
    // has no such flag; Rust programs ignore the signal there as everywhere.
    #[cfg(target_os = "linux")]
    let flags = SendFlags::NOSIGNAL;
    #[cfg(not(target_os = "linux"))]
    let flags = SendFlags::empty();
    let sent = retry_on_intr(|| sendmsg(socket, &[IoSlice::new(payload)], &mut ancillary, flags))?;
    if sent < payload.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

/// Receives what [`send_fd`] sent: the number of bytes (0 at the end of the stream) and the
/// descriptor, if one came along. It will not be inherited by programs that we start.
///
/// On a non-blocking socket this fails with [`io::ErrorKind::WouldBlock`], which is what tokio's
/// `UnixStream::async_io` wants.
pub fn recv_fd(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    #[cfg(target_os = "linux")]
    let flags = RecvFlags::CMSG_CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = RecvFlags::empty();
    let message = retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(buffer)];
        recvmsg(socket, &mut parts, &mut ancillary, flags)
    })?;
    let fd = ancillary.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    #[cfg(not(target_os = "linux"))]
    if let Some(fd) = &fd {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    }
    Ok((message.bytes, fd))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_travels_with_its_payload() {
        let (left, right) = UnixStream::pair().unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        send_fd(left.as_fd(), b"pipe", Some(reader.as_fd())).unwrap();
        send_fd(left.as_fd(), b"bare", None).unwrap();
        drop(left);

        let mut buffer = [0; 4];
        let (count, fd) = recv_fd(right.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"pipe");
        let fd = fd.unwrap();
        let flags = rustix::io::fcntl_getfd(&fd).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        writer.write_all(b"through both").unwrap();
        drop(writer);
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through both");
        assert_eq!(reader.read(&mut buffer).unwrap(), 0);

        let (count, fd) = recv_fd(right.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..count], fd.is_none()), (&b"bare"[..], true));
        let (count, fd) = recv_fd(right.as_fd(), &mut buffer).unwrap();
        assert_eq!((count, fd.is_none()), (0, true));
    }

    #[test]
    fn a_descriptor_needs_a_payload_and_a_reader() {
        let (left, right) = UnixStream::pair().unwrap();
        let empty = send_fd(left.as_fd(), b"", Some(right.as_fd())).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::InvalidInput);
        drop(right);
        let unread = send_fd(left.as_fd(), b"x", None).unwrap_err();
        assert_eq!(unread.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn an_idle_socket_would_block() {
        let (_left, right) = UnixStream::pair().unwrap();
        right.set_nonblocking(true).unwrap();
        let idle = recv_fd(right.as_fd(), &mut [0; 1]).unwrap_err();
        assert_eq!(idle.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_detached_command_leads_its_own_session() {
        let mut command = Command::new("python3");
        command.args(["-c", "import os; print(os.getsid(0) == os.getpid())"]);
        detach_command(&mut command);
        assert_eq!(command.output().unwrap().stdout, b"True\n");
    }

    /// Both the intermediate process and its child hold the pipe that is our `stdout`, so its end
    /// tells that both are gone.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_child_dies_with_its_killed_parent() {
        let mut command = Command::new("sleep");
        command.arg("60").stdout(std::process::Stdio::piped());
        let fork = || {
            // SAFETY: we are in the single thread that fork left; the grandchild only makes
            // system calls before its exec, and never returns.
            unsafe {
                if libc::fork() == 0 {
                    let ready = die_with_parent(Signal::KILL).is_ok();
                    let sleep = [c"sleep".as_ptr(), c"60".as_ptr(), std::ptr::null()];
                    if ready {
                        libc::execvp(sleep[0], sleep.as_ptr());
                    }
                    libc::_exit(1);
                }
            }
            Ok(())
        };
        // SAFETY: see inside; fork(2) and exec(2) are async-signal-safe.
        unsafe { command.pre_exec(fork) };
        let mut parent = command.spawn().unwrap();
        let mut stdout = parent.stdout.take().unwrap();
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || ended.send(stdout.read(&mut [0; 1]).unwrap()));
        assert!(end.try_recv().is_err(), "nobody was killed yet");
        parent.kill().unwrap();
        parent.wait().unwrap();
        let end = end.recv_timeout(std::time::Duration::from_secs(30));
        assert_eq!(end, Ok(0));
    }
}

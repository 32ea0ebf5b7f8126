//! The seccomp filter and the conversation with the kernel about the calls it holds.
//!
//! Knows the ABI of `linux/seccomp.h` and nothing of what is decided about a call.

#![expect(
    clippy::cast_possible_truncation,
    reason = "constants of the kernel that the `libc` crate types wider than the structures they go into"
)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xC000_00B7;

const fn load(offset: usize) -> libc::sock_filter {
    let code = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k: offset as u32,
    }
}

const fn jump_if_equal(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    libc::sock_filter { code, jt, jf, k }
}

const fn give(k: u32) -> libc::sock_filter {
    let code = (libc::BPF_RET | libc::BPF_K) as u16;
    libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Holds bind, listen and connect of the native ABI. x32 calls carry a high bit in their number, so
/// they equal none of them and pass like everything else.
const FILTER: [libc::sock_filter; 8] = [
    load(std::mem::offset_of!(libc::seccomp_data, arch)),
    jump_if_equal(AUDIT_ARCH, 0, 4),
    load(std::mem::offset_of!(libc::seccomp_data, nr)),
    jump_if_equal(libc::SYS_bind as u32, 3, 0),
    jump_if_equal(libc::SYS_listen as u32, 2, 0),
    jump_if_equal(libc::SYS_connect as u32, 1, 0),
    give(libc::SECCOMP_RET_ALLOW),
    give(libc::SECCOMP_RET_USER_NOTIF),
];

/// Puts the calling thread, and all it will create or exec, under the watch.
///
/// The result goes to the platform's [`serve`](super::serve); until that runs, bind, listen
/// and connect wait, and once nobody holds the descriptor they fail with `ENOSYS`. Call
/// [`no_new_privs`](crate::sys::no_new_privs) before. Allocates nothing, so it may be called
/// between fork and exec. Fails with `EBUSY` in a process that is watched already.
pub fn install_filter() -> io::Result<OwnedFd> {
    // Not a sandbox, so old kernels need not slow the app down by speculation barriers.
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // Since Linux 5.19: a signal may not interrupt (and so repeat) a call that we began to work on.
    let killable = flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    match set_filter(killable) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set_filter(flags),
        result => result,
    }
}

fn set_filter(flags: libc::c_ulong) -> io::Result<OwnedFd> {
    let mut filter = FILTER;
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` and the instructions it points to outlive the call; the kernel copies them.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: with NEW_LISTENER a success is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// How much memory this kernel wants for its two structures, in 64-bit words: newer kernels may
/// write more than we know of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    notification: usize,
    response: usize,
}

impl Sizes {
    pub(super) fn of_kernel() -> io::Result<Self> {
        let mut sizes = libc::seccomp_notif_sizes {
            seccomp_notif: 0,
            seccomp_notif_resp: 0,
            seccomp_data: 0,
        };
        // SAFETY: the kernel fills the structure that the pointer names.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_GET_NOTIF_SIZES,
                0,
                &raw mut sizes,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let words = |kernel: u16, ours: usize| usize::from(kernel).max(ours).div_ceil(8);
        Ok(Self {
            notification: words(sizes.seccomp_notif, size_of::<libc::seccomp_notif>()),
            response: words(
                sizes.seccomp_notif_resp,
                size_of::<libc::seccomp_notif_resp>(),
            ),
        })
    }
}

/// Lets the runtime tell when a call is held, or when nobody is left to make one.
pub(super) fn register(listener: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays open and the same for as long as the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }?)
}

/// One held system call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Notification {
    pub(super) id: u64,
    /// Thread that called, in our pid namespace.
    pub(super) tid: i32,
    /// `SYS_bind` or `SYS_listen`, if the listener is of our filter.
    pub(super) number: libc::c_long,
    pub(super) args: [u64; 6],
}

/// What a held call shall come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Let the kernel execute it as if there were no filter.
    Continue,
    /// It returns 0.
    Done,
    /// It fails.
    Failed(Errno),
}

/// Takes the next held call. Blocks when there is none; `ENOENT` when its thread was killed
/// before we came.
pub(super) fn receive(listener: BorrowedFd<'_>, sizes: Sizes) -> Result<Notification, Errno> {
    let mut buffer = vec![0_u64; sizes.notification];
    // SAFETY: zeroed memory of the size that the kernel wants.
    unsafe { ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &mut buffer) }?;
    // SAFETY: the buffer is aligned for u64 and at least as large as the structure, of which every
    // bit pattern is valid.
    let raw: libc::seccomp_notif = unsafe { buffer.as_ptr().cast::<libc::seccomp_notif>().read() };
    Ok(Notification {
        id: raw.id,
        tid: raw.pid.cast_signed(),
        number: raw.data.nr.into(),
        args: raw.data.args,
    })
}

/// Whether the call is still held, hence what was opened by its thread id is of that thread.
pub(super) fn still_held(listener: BorrowedFd<'_>, mut id: u64) -> Result<(), Errno> {
    let id = std::slice::from_mut(&mut id);
    // SAFETY: the request takes one u64.
    unsafe { ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, id) }
}

/// Ends the wait of a held call; `ENOENT` when there is nobody to answer to any more.
pub(super) fn answer(
    listener: BorrowedFd<'_>,
    sizes: Sizes,
    id: u64,
    answer: Answer,
) -> Result<(), Errno> {
    let (error, flags) = match answer {
        Answer::Continue => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Done => (0, 0),
        Answer::Failed(errno) => (-errno.raw_os_error(), 0),
    };
    let response = libc::seccomp_notif_resp {
        id,
        val: 0,
        error,
        flags,
    };
    let mut buffer = vec![0_u64; sizes.response];
    // SAFETY: the buffer is aligned for u64 and at least as large as the structure.
    unsafe {
        buffer
            .as_mut_ptr()
            .cast::<libc::seccomp_notif_resp>()
            .write(response);
    }
    // SAFETY: a buffer of the size that the kernel wants.
    unsafe { ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &mut buffer) }
}

/// # Safety
/// `argument` must be as large as what the kernel reads and writes for `request`.
unsafe fn ioctl(
    listener: BorrowedFd<'_>,
    request: libc::Ioctl,
    argument: &mut [u64],
) -> Result<(), Errno> {
    // SAFETY: the caller vouches for the size; on a descriptor that is no listener the kernel
    // refuses these requests.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), request, argument.as_mut_ptr()) };
    if result < 0 {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}

//! The platform's side: what becomes of each bind, listen and connect of an app.
//!
//! Every step works on a duplicate of the app's socket, so nothing depends on memory that the app
//! could change meanwhile. Where a step fails, the app gets that error from its own call: rather a
//! bind that fails for all to see than a socket open to the network.
#![deny(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "the kernel passes an `int` in a register of 64 bits, whose upper half means nothing"
)]

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedSender;

use super::seccomp::{self, Answer, Notification, Sizes};
use super::{Event, Rewrite};

/// Stands in for `::1` on machines without IPv6; see [`Watch::place`].
const WITHOUT_IPV6: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Connections that may wait to be accepted, whatever the app asks for. Python's servers ask for 5;
/// one more than that at the same moment, as after a rollout, is only tried again after a second.
const LEAST_BACKLOG: i32 = 512;

/// Whether this machine lets us watch ports, as far as one can tell without an app.
///
/// Old kernels, container engines that forbid `pidfd_getfd(2)` (Docker without `SYS_PTRACE`) and a
/// strict Yama refuse; an app under the filter could not bind at all there, so ask first.
pub fn available() -> io::Result<()> {
    Sizes::of_kernel()?;
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    pidfd_getfd(&own, own.as_raw_fd(), PidfdGetfdFlags::empty())?;
    // Absent where the kernel has no Yama. Up to 1, a process may look into its descendants.
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match scope.trim() {
        "3" => Err(io::ErrorKind::PermissionDenied.into()),
        "2" if !rustix::process::geteuid().is_root() => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    }
}

/// Answers the calls held by the filter whose descriptor is `listener`, until every process under
/// it is gone (before Linux 6.11: gone and reaped).
///
/// Events are sent once the app has its answer; nobody needs to receive them. The apps must be
/// descendants of this process, or it must be privileged. When this future is dropped, the app's
/// later calls of bind and listen fail with `ENOSYS`. Before Linux 5.19 a signal that arrives in
/// the few microseconds of a bind may make the app's own retry fail with `EINVAL`.
pub async fn serve(listener: OwnedFd, rewrite: Rewrite, events: UnboundedSender<Event>) {
    let watch = match Watch::new(listener, rewrite) {
        Ok(watch) => watch,
        Err(error) => return tracing::warn!(%error, "ports cannot be watched"),
    };
    while let Some(held) = watch.next().await {
        let (answer, event) = watch.decide(&held).unwrap_or_else(|errno| {
            tracing::debug!(tid = held.tid, %errno, "a held call was refused");
            (Answer::Failed(errno), None)
        });
        let answered = seccomp::answer(watch.fd.as_fd(), watch.sizes, held.id, answer);
        if let (Ok(()), Some(event)) = (answered, event) {
            // The apps go on where nobody listens any more.
            let _ = events.send(event);
        }
    }
}

/// No address of TCP is longer.
const LONGEST: usize = size_of::<libc::sockaddr_in6>();

struct Watch {
    fd: AsyncFd<OwnedFd>,
    sizes: Sizes,
    rewrite: Rewrite,
    /// Where the app listens for what it declares, once it does.
    own_ip: OnceLock<IpAddr>,
}

/// The TCP socket that a held call is about.
struct Subject {
    /// Our duplicate; closed before the answer, so that the app's close is the last one.
    socket: OwnedFd,
    family: AddressFamily,
    pid: i32,
}

/// What the app gets, and what the platform is told once it got it.
type Decision = (Answer, Option<Event>);

impl Watch {
    fn new(listener: OwnedFd, rewrite: Rewrite) -> io::Result<Self> {
        Ok(Self {
            fd: seccomp::register(listener)?,
            sizes: Sizes::of_kernel()?,
            rewrite,
            own_ip: OnceLock::new(),
        })
    }

    /// The next held call; `None` when there will be no more.
    async fn next(&self) -> Option<Notification> {
        loop {
            let mut ready = self.fd.readable().await.ok()?;
            let Ok(pending) = ready.try_io(|fd| pending(fd.get_ref())) else {
                continue;
            };
            if !pending.ok()? {
                return None;
            }
            match seccomp::receive(self.fd.as_fd(), self.sizes) {
                Ok(held) => return Some(held),
                // The thread was killed or interrupted between our poll and now.
                Err(Errno::NOENT | Errno::INTR) => {}
                Err(errno) => {
                    tracing::warn!(%errno, "ports can no longer be watched");
                    return None;
                }
            }
        }
    }

    fn decide(&self, held: &Notification) -> Result<Decision, Errno> {
        if held.number == libc::SYS_connect {
            return Ok((self.connect(held)?, None));
        }
        let Some(subject) = self.subject(held)? else {
            return Ok((Answer::Continue, None));
        };
        match held.number {
            libc::SYS_bind => self.bind(held, &subject),
            libc::SYS_listen => self.listen(held.args[1] as i32, &subject),
            _ => Ok((Answer::Continue, None)),
        }
    }

    /// The socket that the call names, if it is one of TCP's (or MPTCP's).
    fn subject(&self, held: &Notification) -> Result<Option<Subject>, Errno> {
        let pid = process_of(held.tid)?;
        let process = open_process(held.tid, pid)?;
        self.still_held(held)?;
        let number = held.args[0] as i32;
        let socket = pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?;
        let family = sockopt::socket_domain(&socket)?;
        let over_ip = family == AddressFamily::INET || family == AddressFamily::INET6;
        if !over_ip || sockopt::socket_type(&socket)? != SocketType::STREAM {
            return Ok(None);
        }
        Ok(Some(Subject {
            socket,
            family,
            pid,
        }))
    }

    /// Leads an app that calls itself on its declared port to where it really listens.
    ///
    /// All other calls go their own way, and are not looked at beyond the address.
    fn connect(&self, held: &Notification) -> Result<Answer, Errno> {
        let families = [AddressFamily::INET, AddressFamily::INET6];
        // What cannot be read is no call of ours; the kernel says what is wrong with it.
        let read = self.address_bytes(held).ok().flatten();
        let wanted = read.and_then(|(buffer, length)| {
            let parse = |family| parse_address(&buffer[..length], family);
            families.into_iter().find_map(parse)
        });
        let own = |wanted: &SocketAddr| {
            let ip = wanted.ip().to_canonical();
            wanted.port() == self.rewrite.declared && (ip.is_loopback() || ip.is_unspecified())
        };
        let Some(wanted) = wanted.filter(own) else {
            return Ok(Answer::Continue);
        };
        let Some(subject) = self.subject(held)? else {
            return Ok(Answer::Continue);
        };
        let ip = match (self.own_ip.get(), wanted) {
            (_, SocketAddr::V4(_)) => Ipv4Addr::LOCALHOST.into(),
            (Some(IpAddr::V6(ip)), SocketAddr::V6(_)) => IpAddr::V6(*ip),
            // One socket serves both families here.
            (_, SocketAddr::V6(_)) => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        };
        let target = SocketAddr::new(ip, self.rewrite.assigned);
        Ok(match connect_soon(&subject.socket, &target) {
            Ok(()) => Answer::Done,
            Err(errno) => Answer::Failed(errno),
        })
    }

    fn still_held(&self, held: &Notification) -> Result<(), Errno> {
        seccomp::still_held(self.fd.as_fd(), held.id)
    }

    fn bind(&self, held: &Notification, subject: &Subject) -> Result<Decision, Errno> {
        let Some(wanted) = self.wanted_address(held, subject.family)? else {
            return Ok((Answer::Continue, None));
        };
        let pid = subject.pid;
        Ok(match self.place(subject, wanted) {
            Ok(actual) => {
                let declared = wanted.port();
                let event = Event::Bound {
                    declared,
                    actual,
                    pid,
                };
                (Answer::Done, Some(event))
            }
            Err(errno) => refused(wanted, errno, pid),
        })
    }

    /// The address in the memory of the app; `None` where the kernel should name the mistake.
    fn wanted_address(
        &self,
        held: &Notification,
        family: AddressFamily,
    ) -> Result<Option<SocketAddr>, Errno> {
        let read = self.address_bytes(held)?;
        Ok(read.and_then(|(buffer, length)| parse_address(&buffer[..length], family)))
    }

    /// The address as the app wrote it, and how much of it there is.
    fn address_bytes(&self, held: &Notification) -> Result<Option<([u8; LONGEST], usize)>, Errno> {
        let memory = File::open(format!("/proc/{}/mem", held.tid)).map_err(|e| errno_of(&e))?;
        self.still_held(held)?;
        let mut buffer = [0; LONGEST];
        let Ok(length @ 0..=128) = usize::try_from(held.args[2] as i32) else {
            return Ok(None);
        };
        let length = length.min(LONGEST);
        memory
            .read_exact_at(&mut buffer[..length], held.args[1])
            .map_err(|_| Errno::FAULT)?;
        Ok(Some((buffer, length)))
    }

    /// Binds the socket where we want it, and tells where that is.
    ///
    /// Where the machine has no `::1`, an IPv6-only wildcard, which servers open next to their
    /// IPv4 one (asyncio without a host, aiohttp), must not fail as it would not do without us.
    /// It then gets an IPv4 loopback address of its own, since on `127.0.0.1` it would be in the
    /// way of its sibling.
    fn place(&self, subject: &Subject, wanted: SocketAddr) -> Result<SocketAddr, Errno> {
        let socket = &subject.socket;
        let ipv6_only = wanted.is_ipv6() && sockopt::ipv6_v6only(socket)?;
        let target = self.loopback_for(wanted, ipv6_only);
        match rustix::net::bind(socket, &target) {
            Err(Errno::ADDRNOTAVAIL) if ipv6_only && wanted.ip().is_unspecified() => {
                sockopt::set_ipv6_v6only(socket, false)?;
                let ip = WITHOUT_IPV6.to_ipv6_mapped();
                rustix::net::bind(socket, &SocketAddr::from((ip, target.port())))?;
            }
            result => result?,
        }
        local_address(socket)
    }

    /// Where a socket that asks for `wanted` goes: the declared port to the assigned one, all
    /// other ports stay, everything to loopback of the family that its clients use.
    fn loopback_for(&self, wanted: SocketAddr, ipv6_only: bool) -> SocketAddr {
        let is_declared = wanted.port() == self.rewrite.declared;
        let port = if is_declared {
            self.rewrite.assigned
        } else {
            wanted.port()
        };
        let ip: IpAddr = match wanted.ip() {
            IpAddr::V4(ip) if ip.is_loopback() && !is_declared => ip.into(),
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_loopback() || ipv6_only => Ipv6Addr::LOCALHOST.into(),
            // Reachable for IPv4 clients, as every dual-stack socket would be.
            IpAddr::V6(_) => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        };
        SocketAddr::new(ip, port)
    }

    fn listen(&self, backlog: i32, subject: &Subject) -> Result<Decision, Errno> {
        let (socket, pid) = (&subject.socket, subject.pid);
        let mut actual = local_address(socket)?;
        if actual.port() == 0 {
            // Never bound: the kernel would choose a port on all interfaces now.
            actual = self.place(subject, unbound(subject.family))?;
        }
        let wanted_port = self.believed_port(actual.port());
        Ok(
            match rustix::net::listen(socket, backlog.max(LEAST_BACKLOG)) {
                Ok(()) => {
                    if wanted_port == self.rewrite.declared {
                        let _ = self.own_ip.set(actual.ip());
                    }
                    let event = Event::Listening {
                        wanted_port,
                        actual,
                        pid,
                    };
                    (Answer::Done, Some(event))
                }
                Err(errno) => refused(SocketAddr::new(actual.ip(), wanted_port), errno, pid),
            },
        )
    }

    fn believed_port(&self, actual: u16) -> u16 {
        if actual == self.rewrite.assigned {
            self.rewrite.declared
        } else {
            actual
        }
    }
}

/// How long a connection of this machine to itself may take when the app waits for it. It takes that
/// long only where nobody accepts.
const CONNECT_PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Connects as the app would, without holding our thread up for long.
fn connect_soon(socket: &OwnedFd, target: &SocketAddr) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(socket)?;
    if flags.contains(OFlags::NONBLOCK) {
        return rustix::net::connect(socket, target);
    }
    // The app's thread is held, so it does not see this.
    rustix::fs::fcntl_setfl(socket, flags | OFlags::NONBLOCK)?;
    let connected = match rustix::net::connect(socket, target) {
        Err(Errno::INPROGRESS) => {
            let mut watched = [PollFd::new(socket, PollFlags::OUT)];
            match retry_on_intr(|| poll(&mut watched, Some(&CONNECT_PATIENCE)))? {
                0 => Err(Errno::TIMEDOUT),
                _ => sockopt::socket_error(socket)?,
            }
        }
        result => result,
    };
    rustix::fs::fcntl_setfl(socket, flags)?;
    connected
}

fn refused(wanted: SocketAddr, errno: Errno, pid: i32) -> Decision {
    let event = Event::BindFailed {
        wanted,
        errno: errno.raw_os_error(),
        pid,
    };
    (Answer::Failed(errno), Some(event))
}

/// Whether a call is held (`true`) or nobody is left to make one (`false`), else `WouldBlock`.
///
/// Asked before each receive, for that would block our thread whatever `O_NONBLOCK` says.
fn pending(listener: &OwnedFd) -> io::Result<bool> {
    let mut watched = [PollFd::new(listener, PollFlags::IN)];
    retry_on_intr(|| poll(&mut watched, Some(&Timespec::default())))?;
    let seen = watched[0].revents();
    if seen.contains(PollFlags::IN) {
        Ok(true)
    } else if seen.is_empty() {
        Err(io::ErrorKind::WouldBlock.into())
    } else {
        Ok(false)
    }
}

/// The process that a thread belongs to.
fn process_of(tid: i32) -> Result<i32, Errno> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).map_err(|e| errno_of(&e))?;
    let tgid = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    tgid.and_then(|tgid| tgid.trim().parse().ok())
        .ok_or(Errno::SRCH)
}

/// A handle whose descriptor table is that of the thread.
///
/// Before Linux 6.9 only processes have one. That differs only where a thread has a table of its
/// own, or outlived the main thread.
fn open_process(tid: i32, pid: i32) -> Result<OwnedFd, Errno> {
    let thread = PidfdFlags::from_bits_retain(libc::PIDFD_THREAD);
    match pidfd_open(Pid::from_raw(tid).ok_or(Errno::SRCH)?, thread) {
        Err(Errno::INVAL) => {
            pidfd_open(Pid::from_raw(pid).ok_or(Errno::SRCH)?, PidfdFlags::empty())
        }
        result => result,
    }
}

/// The address a socket has, in the form its clients use.
fn local_address(socket: &OwnedFd) -> Result<SocketAddr, Errno> {
    let address = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

fn unbound(family: AddressFamily) -> SocketAddr {
    if family == AddressFamily::INET6 {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    }
}

/// Reads a `sockaddr` for a socket of `family`, by the rules of Linux: for IPv6 the scope may be
/// missing, for IPv4 "no family" will do for the wildcard. `None` for what bind(2) would refuse.
fn parse_address(bytes: &[u8], family: AddressFamily) -> Option<SocketAddr> {
    let given = AddressFamily::from_raw(u16::from_ne_bytes(*bytes.first_chunk()?));
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    if family == AddressFamily::INET6 {
        let ip: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
        return (given == AddressFamily::INET6)
            .then(|| SocketAddr::from((Ipv6Addr::from(ip), port)));
    }
    let ip = Ipv4Addr::from(*bytes.get(4..)?.first_chunk::<4>()?);
    let complete = bytes.len() >= size_of::<libc::sockaddr_in>();
    let fits =
        given == AddressFamily::INET || (given == AddressFamily::UNSPEC && ip.is_unspecified());
    (complete && fits).then(|| SocketAddr::from((ip, port)))
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockaddr(family: AddressFamily, rest: &[u8]) -> Vec<u8> {
        [&family.as_raw().to_ne_bytes()[..], rest].concat()
    }

    #[test]
    fn addresses_are_read_as_the_kernel_reads_them() {
        let any = |family| sockaddr(family, &[0x1f, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let (v4, v6) = (AddressFamily::INET, AddressFamily::INET6);
        let wildcard = Some("0.0.0.0:8080".parse().unwrap());
        assert_eq!(parse_address(&any(v4), v4), wildcard);
        assert_eq!(parse_address(&any(AddressFamily::UNSPEC), v4), wildcard);
        assert_eq!(parse_address(&any(v4)[..15], v4), None, "too short");
        assert_eq!(parse_address(&any(v6), v4), None, "another family");
        assert_eq!(parse_address(&[], v4), None);
        let mut given = any(AddressFamily::UNSPEC);
        given[4] = 10;
        assert_eq!(parse_address(&given, v4), None, "no family, yet an address");

        let mut long = sockaddr(v6, &[0x1f, 0x90, 0, 0, 0, 0]);
        long.extend(Ipv6Addr::LOCALHOST.octets());
        let localhost = Some("[::1]:8080".parse().unwrap());
        assert_eq!(parse_address(&long, v6), localhost, "without a scope");
        assert_eq!(parse_address(&long[..23], v6), None, "too short");
    }

    #[tokio::test]
    async fn every_address_has_its_place_on_loopback() {
        let rewrite = Rewrite {
            declared: 8080,
            assigned: 4000,
        };
        // Any pollable descriptor will do: nothing is received here.
        let (fd, _other) = io::pipe().unwrap();
        let watch = Watch::new(fd.into(), rewrite).unwrap();
        for (wanted, ipv6_only, place) in [
            ("0.0.0.0:8080", false, "127.0.0.1:4000"),
            ("127.0.0.9:8080", false, "127.0.0.1:4000"),
            ("192.0.2.1:9000", false, "127.0.0.1:9000"),
            ("127.0.0.9:9000", false, "127.0.0.9:9000"),
            ("0.0.0.0:0", false, "127.0.0.1:0"),
            ("[::]:8080", false, "[::ffff:127.0.0.1]:4000"),
            ("[::ffff:192.0.2.1]:9000", false, "[::ffff:127.0.0.1]:9000"),
            ("[::]:8080", true, "[::1]:4000"),
            ("[::1]:8080", false, "[::1]:4000"),
            ("[2001:db8::1]:9000", true, "[::1]:9000"),
        ] {
            let target = watch.loopback_for(wanted.parse().unwrap(), ipv6_only);
            assert_eq!(target, place.parse().unwrap(), "{wanted} {ipv6_only}");
        }
    }
}

//! A replica as a group of processes of this machine.
//!
//! It has a clean environment and speaks to the platform over its standard input, which `fserve`
//! takes before it runs the app: there it hands over the watch on ports, and says what went wrong
//! before the app ran.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{mpsc, watch};

use super::diagnose::{Ending, Failure};
use super::limits::{Bounds, Hold};
use super::replica::Launch;
use super::said::{Lines, Said};
use super::spawner::Spawner;
use super::vessel::{Ear, Launched, Signs, Vessel};
use super::{idle, limits, memory, sweep};
use crate::crash;
use crate::error::Code;
use crate::sys::port_watch;

/// The program of a replica.
pub struct Program {
    pub path: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub folder: PathBuf,
}

/// A running process group.
struct Group {
    leader: i32,
    mark: String,
    assigned: SocketAddr,
    declared_port: u16,
    hold: Arc<dyn Hold>,
}

/// Starts the process; whether it serves is seen later.
pub async fn start(
    spawner: &Spawner,
    launch: &Launch,
    program: &Program,
) -> Result<Launched, Failure> {
    let failed = |error: io::Error| {
        Failure::new(
            Code::AppFailed,
            format!("cannot start `{}`: {error}", program.path.display()),
        )
    };
    let assigned = free_port().map_err(failed)?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
    let mut command = command(launch, program, assigned, theirs.into());
    // One pipe for both streams keeps their lines in order.
    let (reader, writer) = io::pipe().map_err(failed)?;
    command
        .stdout(writer.try_clone().map_err(failed)?)
        .stderr(writer);
    let child = spawner.spawn(command).await.map_err(failed)?;
    let leader = i32::try_from(child.id()).unwrap_or(i32::MAX);
    let bounds = Bounds {
        memory: launch.memory_limit,
        cores: launch.cores,
    };
    let hold = limits::hold(leader, &launch.name, bounds).await;
    let (sender, signs) = mpsc::unbounded_channel();
    tokio::spawn(listen(ours, launch.declared_port, assigned.port(), sender));
    let output = Receiver::from_owned_fd(reader.into()).map_err(failed)?;
    Ok(Launched {
        assigned,
        ending: wait(child, launch.memory_limit, Arc::clone(&hold)),
        signs,
        output: Box::new(output),
        vessel: Box::new(Group {
            leader,
            mark: launch.mark.clone(),
            assigned,
            declared_port: launch.declared_port,
            hold,
        }),
    })
}

impl Vessel for Group {
    fn pid(&self) -> i32 {
        self.leader
    }

    fn cpu_time(&self) -> BoxFuture<'_, Option<Duration>> {
        ready(idle::cpu_time(self.leader)).boxed()
    }

    fn ears(&self) -> BoxFuture<'_, Vec<Ear>> {
        ready(self.look()).boxed()
    }

    fn rival(&self) -> Option<String> {
        holder_of(self.declared_port)
    }

    fn kill_if_over_memory(&self) -> bool {
        self.hold.kill_if_over()
    }

    fn terminate(&self) -> BoxFuture<'_, ()> {
        sweep::signal_group(self.leader, Signal::TERM);
        ready(()).boxed()
    }

    fn clear(&self) -> BoxFuture<'_, ()> {
        sweep::signal_group(self.leader, Signal::KILL);
        let (mark, hold) = (self.mark.clone(), Arc::clone(&self.hold));
        let sweep = tokio::task::spawn_blocking(move || {
            hold.clear();
            sweep::kill_marked(&mark)
        });
        async {
            if let Ok(count @ 1..) = sweep.await {
                tracing::debug!(mark = self.mark, count, "swept processes");
            }
        }
        .boxed()
    }

    fn abandon(&self) {
        sweep::signal_group(self.leader, Signal::KILL);
    }
}

impl Group {
    /// Listening sockets of its processes; workers may have groups of their own.
    fn look(&self) -> Vec<Ear> {
        let family = memory::family(self.leader);
        let own = |listener: &listeners::Listener| {
            let pid = i32::try_from(listener.process.pid);
            pid.is_ok_and(|pid| family.contains(&pid) || process_group(pid) == Some(self.leader))
        };
        let all = listeners::get_all().unwrap_or_default();
        all.iter()
            .filter(|listener| own(listener))
            .map(|listener| self.ear(listener.socket))
            .collect()
    }

    fn ear(&self, mut socket: SocketAddr) -> Ear {
        let port = socket.port();
        if port == self.assigned.port() {
            Ear::Served
        } else if port == self.declared_port {
            match socket.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => socket.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => socket.set_ip(Ipv6Addr::LOCALHOST.into()),
                IpAddr::V4(_) | IpAddr::V6(_) => {}
            }
            Ear::Declared(socket)
        } else {
            Ear::Elsewhere(port)
        }
    }
}

/// The process that listens on a port of this machine, for people.
fn holder_of(port: u16) -> Option<String> {
    let all = listeners::get_all().ok()?;
    let holder = all.iter().find(|one| one.socket.port() == port)?;
    let process = &holder.process;
    Some(format!("`{}` (process {})", process.name, process.pid))
}

fn process_group(pid: i32) -> Option<i32> {
    let pid = rustix::process::Pid::from_raw(pid)?;
    rustix::process::getpgid(Some(pid))
        .ok()
        .map(|group| group.as_raw_nonzero().get())
}

/// The process to start, but for where it writes to.
fn command(launch: &Launch, program: &Program, assigned: SocketAddr, channel: OwnedFd) -> Command {
    let mut command = Command::new(&program.path);
    command.args(&program.args).env_clear();
    command
        .envs(program.env.iter().map(|(key, value)| (key, value)))
        .env(sweep::MARK, &launch.mark)
        .env("_FLYTE_ASSIGNED_PORT", assigned.port().to_string())
        .env("_FLYTE_PLATFORM", std::process::id().to_string())
        .current_dir(&program.folder)
        .stdin(channel)
        .process_group(0);
    // The points of `fserve` are points of this platform.
    if let Some(point) = std::env::var_os(crash::CHOICE) {
        command.env(crash::CHOICE, point);
    }
    command
}

/// Ports that replicas are led to: below those that the kernel takes for outgoing connections, of
/// which a loaded gateway makes many between here and the moment when the app binds.
const PORTS: std::ops::Range<u16> = 10_000..20_000;

/// A port of loopback that is free now, and that was not given to another replica just before.
fn free_port() -> io::Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let span = u32::from(PORTS.end - PORTS.start);
    // Platforms of several homes begin at places of their own.
    let home = std::process::id().wrapping_mul(7919);
    for _ in 0..span {
        let step = home.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % span;
        let port = PORTS.start + u16::try_from(step).unwrap_or(0);
        if let Ok(socket) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return socket.local_addr();
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

fn wait(
    mut child: Child,
    limit: Option<u64>,
    hold: Arc<dyn Hold>,
) -> watch::Receiver<Option<Ending>> {
    let (sender, receiver) = watch::channel(None);
    let wait = move || {
        let ended = child.wait();
        let ending = match (ended, limit.zip(hold.exceeded())) {
            (Ok(_), Some((limit, used))) => Ending::OutOfMemory { used, limit },
            (Ok(status), None) => match (status.code(), status.signal()) {
                (Some(code), _) => Ending::Exited(code),
                (None, signal) => Ending::Signalled(signal.unwrap_or(9)),
            },
            (Err(_), _) => Ending::Signalled(9),
        };
        // Nobody listens any more when the replica was dropped.
        let _ = sender.send(Some(ending));
    };
    // Without a thread the sender is dropped, which `ended` reads as "killed".
    if let Err(error) = std::thread::Builder::new()
        .name("replica-wait".into())
        .stack_size(64 * 1024)
        .spawn(wait)
    {
        tracing::error!(%error, "no thread to wait for a replica");
    }
    receiver
}

async fn listen(
    stream: std::os::unix::net::UnixStream,
    declared: u16,
    assigned: u16,
    signs: mpsc::UnboundedSender<Signs>,
) {
    if let Err(error) = read_said(stream, declared, assigned, &signs).await {
        tracing::debug!(%error, "a replica's channel ended");
    }
}

async fn read_said(
    stream: std::os::unix::net::UnixStream,
    declared: u16,
    assigned: u16,
    signs: &mpsc::UnboundedSender<Signs>,
) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(stream)?;
    let mut lines = Lines::default();
    let mut watcher = None;
    loop {
        stream.readable().await?;
        let mut buffer = [0; 8192];
        let received = stream.try_io(tokio::io::Interest::READABLE, || {
            crate::sys::recv_fd(stream.as_fd(), &mut buffer)
        });
        let (count, descriptor) = match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            other => other?,
        };
        if count == 0 {
            return Ok(());
        }
        watcher = descriptor.or(watcher);
        lines.push(&buffer[..count]);
        while let Some(said) = lines.line()? {
            match said {
                Said::Watched(true) if watcher.is_some() => {
                    if let Some(listener) = watcher.take() {
                        tokio::spawn(forward_ports(listener, declared, assigned, signs.clone()));
                    }
                    let _ = signs.send(Signs::Watched(true));
                }
                Said::Watched(_) => {
                    let _ = signs.send(Signs::Watched(false));
                }
                Said::Failed { code, message } => {
                    let code = Code::ALL
                        .iter()
                        .copied()
                        .find(|known| known.as_str() == code)
                        .unwrap_or(Code::AppFailed);
                    let _ = signs.send(Signs::Failed(Failure::new(code, message)));
                }
            }
        }
    }
}

async fn forward_ports(
    listener: OwnedFd,
    declared: u16,
    assigned: u16,
    signs: mpsc::UnboundedSender<Signs>,
) {
    let (sender, mut events) = mpsc::unbounded_channel();
    let serve = port_watch::serve(listener, port_watch::Rewrite { declared, assigned }, sender);
    let forward = async {
        while let Some(event) = events.recv().await {
            // The replica was dropped, but its binds must still be answered until it is dead.
            let _ = signs.send(Signs::Port(event));
        }
    };
    tokio::join!(serve, forward);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unwatched_app_is_served_where_it_listens_and_its_rival_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let group = Group {
            leader: rustix::process::getpgrp().as_raw_nonzero().get(),
            mark: String::new(),
            assigned: SocketAddr::from(([127, 0, 0, 1], 9)),
            declared_port: port,
            hold: Arc::new(limits::Free),
        };
        let served = Ear::Declared(taken.local_addr().unwrap());
        assert!(group.look().contains(&served));
        let everywhere = SocketAddr::from(([0, 0, 0, 0], port));
        assert_eq!(group.ear(everywhere), served);
        let own = std::process::id();
        let rival = group.rival().unwrap();
        assert!(rival.ends_with(&format!("(process {own})")), "{rival}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_worker_with_a_session_of_its_own_is_seen_to_listen() {
        use std::io::BufRead;
        use std::process::Stdio;
        // Both end with what they read.
        let script = "import os, socket, sys\n\
                      if os.fork() == 0:\n    \
                      os.setsid()\n    \
                      ear = socket.create_server(('127.0.0.1', 0))\n    \
                      print(ear.getsockname()[1], flush=True)\n\
                      sys.stdin.read()";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        io::BufReader::new(output).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap();
        let group = Group {
            leader: i32::try_from(child.id()).unwrap(),
            mark: String::new(),
            assigned: SocketAddr::from(([127, 0, 0, 1], 9)),
            declared_port: port,
            hold: Arc::new(limits::Free),
        };
        let seen = group.look();
        child.wait().unwrap();
        let served = Ear::Declared(SocketAddr::from(([127, 0, 0, 1], port)));
        assert!(seen.contains(&served), "{seen:?}");
    }
}

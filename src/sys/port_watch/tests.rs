//! The watch seen from outside: real programs, started as the replica starts them.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

use super::{Event, Rewrite, available, install_filter, serve};
use crate::sys::{no_new_privs, recv_fd, send_fd};

const PATIENCE: Duration = Duration::from_secs(60);

/// Returns from the test where the kernel refuses, which CI must never do.
macro_rules! needs_port_watch {
    () => {
        if let Err(error) = available() {
            assert!(std::env::var_os("CI").is_none(), "refused: {error}");
            return eprintln!("not tested, ports cannot be watched here: {error}");
        }
    };
}

fn free_port() -> u16 {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    probe.local_addr().unwrap().port()
}

fn free_ports() -> Rewrite {
    Rewrite {
        declared: free_port(),
        assigned: free_port(),
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Connects at once or not at all.
fn get(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A socket open to the network would answer on every address of the machine, this one included.
fn is_open_beyond(address: SocketAddr) -> bool {
    TcpStream::connect((Ipv4Addr::new(127, 0, 0, 3), address.port())).is_ok()
}

struct App {
    child: Child,
    events: UnboundedReceiver<Event>,
    watch: JoinHandle<()>,
    started: Instant,
}

impl App {
    /// Starts the command as a process group of its own under the watch.
    fn start(mut command: Command, rewrite: Rewrite) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let enter = move || {
            no_new_privs()?;
            let listener = install_filter()?;
            send_fd(theirs.as_fd(), b"L", Some(listener.as_fd()))
        };
        // SAFETY: the three calls make system calls on stack memory only.
        unsafe { command.process_group(0).pre_exec(enter) };
        let started = Instant::now();
        let child = command.spawn().unwrap();
        let (_, listener) = recv_fd(ours.as_fd(), &mut [0; 1]).unwrap();
        let (sender, events) = unbounded_channel();
        let watch = tokio::spawn(serve(listener.unwrap(), rewrite, sender));
        Self {
            child,
            events,
            watch,
            started,
        }
    }

    /// Runs a Python script with the declared port as `sys.argv[1]`.
    fn python(script: &str, rewrite: Rewrite) -> Self {
        let mut command = Command::new("python3");
        command
            .args(["-c", script, &rewrite.declared.to_string()])
            .stdout(Stdio::piped());
        Self::start(command, rewrite)
    }

    async fn event(&mut self) -> Event {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.unwrap().expect("the app is gone")
    }

    /// The next event that is no [`Event::Bound`]: wanted port and actual address.
    async fn listening(&mut self) -> (u16, SocketAddr) {
        loop {
            match self.event().await {
                Event::Bound { .. } => {}
                Event::Listening {
                    wanted_port,
                    actual,
                    ..
                } => return (wanted_port, actual),
                Event::BindFailed { wanted, errno, .. } => panic!("{wanted}: errno {errno}"),
            }
        }
    }

    async fn line(&mut self) -> String {
        let mut stdout = self.child.stdout.take().unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut line = Vec::new();
            let mut byte = [0];
            while stdout.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
                line.push(byte[0]);
            }
            (String::from_utf8(line).unwrap(), stdout)
        });
        let (line, stdout) = tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        self.child.stdout = Some(stdout);
        line
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        // Only before the child is reaped is the number certainly still its own.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

fn http_server(port: u16) -> Command {
    let mut command = Command::new("python3");
    command
        .args(["-m", "http.server", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_calls_itself_finds_itself() {
    needs_port_watch!();
    let script = "
import socket, sys, threading
port = int(sys.argv[1])
listener = socket.create_server(('0.0.0.0', port))
def accept():
    while True:
        listener.accept()[0].sendall(b'me')
threading.Thread(target=accept, daemon=True).start()
said = []
for family, host in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::1')):
    for timeout in (None, 5):
        caller = socket.socket(family)
        caller.settimeout(timeout)
        caller.connect((host, port))
        said.append(caller.recv(2).decode())
print(' '.join(said), flush=True)
threading.Event().wait()
";
    let mut app = App::python(script, free_ports());
    assert_eq!(app.line().await, "me me me me me me");
}

#[tokio::test]
async fn connections_beyond_a_short_backlog_wait_to_be_accepted() {
    needs_port_watch!();
    let script = "
import socket, sys, threading
listener = socket.socket()
listener.bind(('', int(sys.argv[1])))
listener.listen(1)
threading.Event().wait()
";
    let mut app = App::python(script, free_ports());
    let (_, actual) = app.listening().await;
    // One that does not fit would only be tried again after a second.
    let connect = |_| TcpStream::connect_timeout(&actual, Duration::from_millis(900));
    let waiting: Result<Vec<TcpStream>, _> = (0..32).map(connect).collect();
    assert_eq!(waiting.unwrap().len(), 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_calls_others_is_not_led_astray() {
    needs_port_watch!();
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let script = format!(
        "
import socket, sys
socket.create_connection(('127.0.0.1', {})).sendall(b'x')
refused = socket.socket().connect_ex(('127.0.0.1', int(sys.argv[1])))
pair = socket.socketpair()
missing = socket.socket(socket.AF_UNIX).connect_ex('/nowhere')
print(refused, missing, flush=True)
",
        other.local_addr().unwrap().port()
    );
    let mut app = App::python(&script, free_ports());
    assert_eq!(other.accept().unwrap().0.read(&mut [0; 1]).unwrap(), 1);
    let expected = format!("{} {}", libc::ECONNREFUSED, libc::ENOENT);
    assert_eq!(app.line().await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apps_with_the_same_port_run_side_by_side() {
    needs_port_watch!();
    let declared = free_port();
    let mut apps = Vec::new();
    for _ in 0..2 {
        let rewrite = Rewrite {
            declared,
            assigned: free_port(),
        };
        apps.push((App::start(http_server(declared), rewrite), rewrite));
    }
    for (app, rewrite) in &mut apps {
        let place = (declared, local(rewrite.assigned));
        assert_eq!(app.listening().await, place);
        let told = app.started.elapsed();
        assert!(get(place.1).starts_with("HTTP/1.0 200"));
        eprintln!(
            "told after {told:?}, answered after {:?}",
            app.started.elapsed()
        );
        assert!(!is_open_beyond(place.1));
    }
    TcpStream::connect(local(declared)).expect_err("nobody has the declared port");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bind_is_told_before_the_listen() {
    needs_port_watch!();
    let rewrite = free_ports();
    let mut app = App::start(http_server(rewrite.declared), rewrite);
    let (actual, pid) = (local(rewrite.assigned), app.child.id().cast_signed());
    let bound = Event::Bound {
        declared: rewrite.declared,
        actual,
        pid,
    };
    assert_eq!(app.event().await, bound);
    let listening = Event::Listening {
        wanted_port: rewrite.declared,
        actual,
        pid,
    };
    assert_eq!(app.event().await, listening);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_port_stays_but_moves_to_loopback() {
    needs_port_watch!();
    let other = free_port();
    let mut app = App::start(http_server(other), free_ports());
    assert_eq!(app.listening().await, (other, local(other)));
    assert!(get(local(other)).starts_with("HTTP/1.0 200"));
    assert!(!is_open_beyond(local(other)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_left_to_the_kernel_stays_so() {
    needs_port_watch!();
    let script = "
import signal, socket
bound = socket.create_server(('', 0))
unbound = socket.socket()
unbound.listen()
print(*bound.getsockname(), *unbound.getsockname(), flush=True)
signal.pause()
";
    let mut app = App::python(script, free_ports());
    let (first, second) = (app.listening().await, app.listening().await);
    for (wanted, actual) in [first, second] {
        assert_eq!(local(wanted), actual);
        TcpStream::connect(actual).unwrap();
        assert!(!is_open_beyond(actual));
    }
    let seen = format!("127.0.0.1 {} 127.0.0.1 {}", first.0, second.0);
    assert_eq!(app.line().await, seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dual_stack_wildcard_is_reached_by_ipv4() {
    needs_port_watch!();
    let script = "
import socket, sys
s = socket.create_server(('::', int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    s.accept()[0].sendall(b'six')
";
    let rewrite = free_ports();
    let mut app = App::python(script, rewrite);
    let place = (rewrite.declared, local(rewrite.assigned));
    assert_eq!(app.listening().await, place);
    let mut answer = [0; 3];
    let mut stream = TcpStream::connect(place.1).unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"six");
    assert!(!is_open_beyond(place.1));
}

/// asyncio without a host opens one socket per family, in no certain order, the IPv6 one with
/// `IPV6_V6ONLY`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asyncio_serves_both_families() {
    needs_port_watch!();
    let script = "
import asyncio, sys
async def hello(reader, writer):
    await reader.readuntil(b'\\r\\n\\r\\n')
    writer.write(b'HTTP/1.0 200 OK\\r\\n\\r\\n')
    writer.close()
async def main():
    server = await asyncio.start_server(hello, None, int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
";
    let rewrite = free_ports();
    let mut app = App::python(script, rewrite);
    let mut actual = vec![];
    for _ in 0..2 {
        let (wanted, address) = app.listening().await;
        assert_eq!(
            (wanted, address.port()),
            (rewrite.declared, rewrite.assigned)
        );
        assert!(address.ip().is_loopback());
        assert!(get(address).starts_with("HTTP/1.0 200"));
        actual.push(address);
    }
    actual.sort();
    assert_eq!(actual[0], local(rewrite.assigned));
    assert!(actual[1].is_ipv6());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forked_workers_share_the_port() {
    needs_port_watch!();
    let script = "
import os, socket, sys
workers = [os.fork(), 0]
if workers[0]:
    workers[1] = os.fork()
if all(workers):
    os.wait()
s = socket.create_server(('0.0.0.0', int(sys.argv[1])), reuse_port=True)
while True:
    s.accept()[0].sendall(b'%08d' % os.getpid())
";
    let rewrite = free_ports();
    let mut app = App::python(script, rewrite);
    let mut waiting = std::collections::HashSet::new();
    while waiting.len() < 2 {
        match app.event().await {
            Event::Bound { actual, .. } => assert_eq!(actual, local(rewrite.assigned)),
            Event::Listening { pid, .. } => assert!(waiting.insert(pid), "{pid} twice"),
            failed @ Event::BindFailed { .. } => panic!("{failed:?}"),
        }
    }
    let end = Instant::now() + PATIENCE;
    while !waiting.is_empty() {
        assert!(Instant::now() < end, "never answered: {waiting:?}");
        let mut answer = [0; 8];
        let mut stream = TcpStream::connect(local(rewrite.assigned)).unwrap();
        stream.read_exact(&mut answer).unwrap();
        waiting.remove(&std::str::from_utf8(&answer).unwrap().parse().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grandchildren_and_threads_are_covered() {
    needs_port_watch!();
    let rewrite = free_ports();
    let script = "
import socket, sys, threading
def serve():
    socket.create_server(('', int(sys.argv[1]))).accept()
thread = threading.Thread(target=serve)
thread.start()
thread.join()
";
    let mut command = Command::new("sh");
    let port = rewrite.declared.to_string();
    command.args(["-c", "python3 -c \"$0\" $1 & wait", script, &port]);
    let mut app = App::start(command, rewrite);
    assert_eq!(
        app.listening().await,
        (rewrite.declared, local(rewrite.assigned))
    );
    TcpStream::connect(local(rewrite.assigned)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_come_back_to_the_app() {
    needs_port_watch!();
    let script = "
import errno, os, socket, sys, ctypes
port = int(sys.argv[1])
def code(call):
    try:
        call()
    except OSError as e:
        return errno.errorcode[e.errno]
first, second = socket.socket(), socket.socket()
first.bind(('', port))
libc = ctypes.CDLL(None, use_errno=True)
libc.bind(second.fileno(), ctypes.c_void_p(16), 16)
print(
    code(lambda: second.bind(('', port))),
    code(lambda: first.bind(('', port))),
    errno.errorcode[ctypes.get_errno()],
    code(lambda: socket.socket(fileno=os.open('.', os.O_RDONLY)).listen()),
    flush=True,
)
";
    let rewrite = free_ports();
    let mut app = App::python(script, rewrite);
    assert_eq!(app.line().await, "EADDRINUSE EINVAL EFAULT ENOTSOCK");
    assert!(matches!(app.event().await, Event::Bound { .. }));
    let pid = app.child.id().cast_signed();
    for errno in [libc::EADDRINUSE, libc::EINVAL] {
        let wanted = SocketAddr::from((Ipv4Addr::UNSPECIFIED, rewrite.declared));
        let failed = Event::BindFailed { wanted, errno, pid };
        assert_eq!(app.event().await, failed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_sockets_are_left_alone() {
    needs_port_watch!();
    let script = "
import os, socket, sys, tempfile
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.bind(('0.0.0.0', 0))
unix = socket.socket(socket.AF_UNIX)
with tempfile.TemporaryDirectory() as folder:
    unix.bind(folder + '/s')
    unix.listen()
print(udp.getsockname()[0], flush=True)
";
    let mut app = App::python(script, free_ports());
    assert_eq!(app.line().await, "0.0.0.0");
    assert!(app.child.wait().unwrap().success());
    let end = tokio::time::timeout(PATIENCE, app.events.recv()).await;
    assert_eq!(end, Ok(None), "no event, and the watch is over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watch_ends_with_the_last_process() {
    needs_port_watch!();
    let rewrite = free_ports();
    let mut app = App::start(http_server(rewrite.declared), rewrite);
    app.listening().await;
    assert!(!app.watch.is_finished(), "the app lives");
    app.child.kill().unwrap();
    app.child.wait().unwrap();
    let ended = tokio::time::timeout(PATIENCE, &mut app.watch).await;
    ended.unwrap().unwrap();
    TcpStream::connect(local(rewrite.assigned)).expect_err("no duplicate is left open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_serves_on_where_nobody_receives_events() {
    needs_port_watch!();
    let rewrite = free_ports();
    let mut app = App::python(
        "
import socket, sys
s = socket.create_server(('', int(sys.argv[1])))
print('up', flush=True)
s.accept()
",
        rewrite,
    );
    app.events.close();
    assert_eq!(app.line().await, "up");
    TcpStream::connect(local(rewrite.assigned)).unwrap();
}

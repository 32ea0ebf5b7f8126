//! Where the processes of a container listen, read from the kernel's own table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use bollard::exec::{CreateExecOptions, StartExecResults};
use futures::TryStreamExt;

use super::super::vessel::Ear;
use crate::engine::Engine;

/// The state of a socket that listens, in the kernel's table.
const LISTEN: &str = "0A";
const TABLES: [&str; 2] = ["net/tcp", "net/tcp6"];

/// How the table of a container is come by.
pub(super) enum Sight {
    /// Its processes are those of this machine.
    Kernel(PathBuf),
    /// They are another machine's, such as Docker Desktop's, and one of them is to look.
    Asked,
}

impl Sight {
    /// The nearest way to the processes of the container `id`, whose first one is `pid`.
    pub(super) fn of(pid: i32, id: &str) -> Self {
        let place = PathBuf::from(format!("/proc/{pid}"));
        // The number may be that of a virtual machine.
        let groups = std::fs::read_to_string(place.join("cgroup"));
        let is_here = groups.is_ok_and(|groups| groups.contains(id));
        if is_here && std::fs::read(place.join(TABLES[0])).is_ok() {
            Self::Kernel(place)
        } else {
            Self::Asked
        }
    }

    /// Addresses on which something listens.
    pub(super) async fn sockets(&self, engine: &Engine, id: &str) -> Vec<SocketAddr> {
        let text = match self {
            Self::Kernel(place) => TABLES
                .iter()
                .filter_map(|table| std::fs::read_to_string(place.join(table)).ok())
                .collect::<String>(),
            Self::Asked => ask(engine, id).await.unwrap_or_else(|error| {
                tracing::debug!(%error, container = id, "its sockets cannot be seen");
                String::new()
            }),
        };
        text.lines().filter_map(listening).collect()
    }
}

/// Has a program of the container print the table.
async fn ask(engine: &Engine, id: &str) -> Result<String, bollard::errors::Error> {
    let tables = TABLES.map(|table| format!("/proc/{table}"));
    let options = CreateExecOptions {
        attach_stdout: Some(true),
        cmd: Some(["cat".to_owned()].into_iter().chain(tables).collect()),
        ..Default::default()
    };
    let docker = engine.docker();
    let made = docker.create_exec(id, options).await?;
    match docker.start_exec(&made.id, None).await? {
        StartExecResults::Attached { output, .. } => {
            output
                .try_fold(String::new(), |text, piece| async move {
                    Ok(text + &piece.to_string())
                })
                .await
        }
        StartExecResults::Detached => Ok(String::new()),
    }
}

/// The address in a line of the table, if something listens there.
fn listening(line: &str) -> Option<SocketAddr> {
    let mut fields = line.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = (0..address.len()).step_by(8);
    let words: Vec<u32> = words
        .map(|at| u32::from_str_radix(address.get(at..at + 8)?, 16).ok())
        .collect::<Option<_>>()?;
    let address: IpAddr = match words[..] {
        // Each word is printed as a number, so its bytes stand as they do in memory.
        [word] => Ipv4Addr::from(word.to_ne_bytes()).into(),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (place, word) in bytes.chunks_mut(4).zip([a, b, c, d]) {
                place.copy_from_slice(&word.to_ne_bytes());
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// What the sockets mean for a replica that shall listen on `declared`.
pub(super) fn ears(sockets: &[SocketAddr], declared: u16) -> Vec<Ear> {
    let ear = |socket: &SocketAddr| match (socket.port() == declared, is_inside(socket.ip())) {
        (true, false) => Some(Ear::Served),
        (true, true) => Some(Ear::Inside),
        (false, false) => Some(Ear::Elsewhere(socket.port())),
        // Helpers of its own, such as the engine's resolver.
        (false, true) => None,
    };
    sockets.iter().filter_map(ear).collect()
}

fn is_inside(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    const TABLE: &str = "  sl  local_address rem_address   st tx_queue
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000
   1: 0100007F:1F91 00000000:0000 0A 00000000:00000000
   2: 020011AC:1F90 010011AC:9C40 01 00000000:00000000
   0: 00000000000000000000000000000000:1F92 00000000000000000000000000000000:0000 0A 0
   0: 0000000000000000FFFF00000100007F:1F93 00000000000000000000000000000000:0000 0A 0
";

    #[cfg(target_endian = "little")]
    #[test]
    fn listening_sockets_are_read_from_the_kernels_table() {
        let found: Vec<String> = TABLE
            .lines()
            .filter_map(listening)
            .map(|socket| socket.to_string())
            .collect();
        assert_eq!(
            found,
            [
                "0.0.0.0:8080",
                "127.0.0.1:8081",
                "[::]:8082",
                "[::ffff:127.0.0.1]:8083"
            ]
        );
    }

    /// As for an engine in a virtual machine, whose processes are not this machine's.
    #[tokio::test]
    async fn a_container_can_be_asked_for_its_sockets() {
        const IMAGE: &str = "flyte-test-base:bookworm";
        let ready = match Engine::connect().await {
            Ok(engine) => match engine.docker().inspect_image(IMAGE).await {
                Ok(_) => Ok(engine),
                Err(error) => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
        };
        let engine = match ready {
            Ok(engine) => engine,
            Err(why) => {
                assert!(std::env::var_os("CI").is_none(), "{why}");
                eprintln!("skipped: {why}");
                return;
            }
        };
        let listen = "import socket, time; s = socket.create_server(('', 8080)); time.sleep(60)";
        let body = bollard::models::ContainerCreateBody {
            image: Some(IMAGE.into()),
            entrypoint: Some(["python3", "-c", listen].map(str::to_owned).to_vec()),
            ..Default::default()
        };
        let docker = engine.docker();
        let options = None::<bollard::query_parameters::CreateContainerOptions>;
        let id = docker.create_container(options, body).await.unwrap().id;
        docker.start_container(&id, None).await.unwrap();
        let wanted: SocketAddr = "0.0.0.0:8080".parse().unwrap();
        let seen = async {
            while !Sight::Asked.sockets(&engine, &id).await.contains(&wanted) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let seen = tokio::time::timeout(std::time::Duration::from_secs(20), seen).await;
        super::super::remove(engine.clone(), id).await;
        assert!(seen.is_ok());
    }

    #[test]
    fn only_what_is_reached_from_outside_serves() {
        let sockets = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let outside = sockets(&["0.0.0.0:8080", "127.0.0.11:53", "[::]:9000"]);
        assert_eq!(ears(&outside, 8080), [Ear::Served, Ear::Elsewhere(9000)]);
        assert_eq!(ears(&sockets(&["127.0.0.1:8080"]), 8080), [Ear::Inside]);
        let mapped = sockets(&["[::ffff:127.0.0.1]:8080"]);
        assert_eq!(ears(&mapped, 8080), [Ear::Inside]);
    }
}

//! A replica as a container of the engine of this machine.
//!
//! The engine publishes the app's port on loopback, where the gateway finds it, and holds the
//! container to its limits. Nothing is left to the engine to decide: it restarts nothing and keeps
//! no log, and what a platform that was killed left behind is known by its label and removed.

mod engine;
mod handover;
mod relay;
mod request;
mod sockets;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bollard::errors::Error as Refusal;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, ContainerArchiveInfoOptionsBuilder, CreateContainerOptions,
    KillContainerOptionsBuilder, RemoveContainerOptionsBuilder, StatsOptionsBuilder,
    WaitContainerOptions,
};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::{mpsc, watch};
use tokio_util::io::StreamReader;

use super::app::Workshop;
use super::diagnose::{Ending, Failure};
use super::replica::Launch;
use super::vessel::{Ear, Launched, Signs, Vessel};
use crate::engine::{self as engines, Engine};
use crate::error::{Code, with_causes};
pub use engine::{Containers, Logins, NoLogins};
use handover::Handover;
pub use handover::{Variables, script};
pub use request::{Order, SECRETS};
use sockets::Sight;

/// What the engine's own first process ends with where it cannot run the program.
const NOT_FOUND: i64 = 127;
/// Where programs are looked for in an image that does not say.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Has the engine fetch the image, unless it is there.
pub async fn provide(workshop: &Workshop, order: &Order) -> Result<(), Failure> {
    let engine = engine_for(workshop, order).await?;
    let containers = &workshop.setting.containers;
    containers.provide(engine, &order.image).await
}

async fn engine_for<'a>(workshop: &'a Workshop, order: &Order) -> Result<&'a Engine, Failure> {
    let engine = workshop.setting.containers.engine().await;
    engine.map_err(|error| order.no_engine(&error))
}

/// Starts the container of an image that was provided; whether it serves is seen later.
pub async fn start(
    workshop: &Workshop,
    launch: &Launch,
    order: &Order,
) -> Result<Launched, Failure> {
    let containers = &workshop.setting.containers;
    let engine = engine_for(workshop, order).await?;
    let order = &order.within_cores_of(engine).await;
    let neighbours = engine::neighbours(&workshop.store, order);
    let handover = Handover::of(engine, order).await?;
    let make = async |handover: &Handover| {
        let body = request::body(launch, order, containers, &neighbours, handover);
        Container::make(engine, launch, body)
            .await
            .map_err(|error| order.refused(error))
    };
    let mut container = make(&handover).await?;
    match handover.works(engine, &container.id).await {
        Ok(true) => {}
        Ok(false) => {
            container.clear().await;
            container = make(&Handover::Engine).await?;
        }
        Err(error) => {
            container.clear().await;
            return Err(order.refused(error));
        }
    }
    match container.launch(launch, containers).await {
        Ok((assigned, output)) => {
            let (sender, signs) = mpsc::unbounded_channel();
            // Its ports are the engine's to map, so they are looked for.
            let _ = sender.send(Signs::Watched(false));
            let watched = Watched {
                engine: engine.clone(),
                id: container.id.clone(),
                memory_limit: launch.memory_limit,
                order: order.clone(),
                signs: sender,
            };
            Ok(Launched {
                assigned,
                ending: watched.ending(),
                signs,
                output,
                vessel: Box::new(container),
            })
        }
        Err(error) => {
            container.clear().await;
            Err(order.refused(error))
        }
    }
}

/// A container that was made.
struct Container {
    engine: Engine,
    id: String,
    declared_port: u16,
    /// Of its first process, 0 before it runs.
    pid: i32,
    /// How its sockets are seen.
    sight: Sight,
}

type Output = Box<dyn tokio::io::AsyncRead + Send + Unpin>;

impl Container {
    async fn make(
        engine: &Engine,
        launch: &Launch,
        body: ContainerCreateBody,
    ) -> Result<Self, Refusal> {
        let docker = engine.docker();
        let made = docker
            .create_container(None::<CreateContainerOptions>, body)
            .await?;
        Ok(Self {
            engine: engine.clone(),
            id: made.id,
            declared_port: launch.declared_port,
            pid: 0,
            sight: Sight::Asked,
        })
    }

    /// Runs it; tells where the engine publishes its port, and what it writes.
    async fn launch(
        &mut self,
        launch: &Launch,
        containers: &Containers,
    ) -> Result<(SocketAddr, Output), Refusal> {
        let docker = self.engine.docker();
        // Before it runs, so that nothing it says is missed.
        let options = AttachContainerOptionsBuilder::default()
            .stream(true)
            .stdout(true)
            .stderr(true)
            .build();
        let attached = docker.attach_container(&self.id, Some(options)).await?;
        docker.start_container(&self.id, None).await?;
        let running = docker.inspect_container(&self.id, None).await?;
        let pid = running.state.as_ref().and_then(|state| state.pid);
        self.pid = pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        self.sight = Sight::of(self.pid, &self.id);
        if let Some(gateway) = gateway(&running) {
            containers.open_way(gateway).await;
        }
        let pieces = attached
            .output
            .map_ok(bollard::container::LogOutput::into_bytes)
            .map_err(std::io::Error::other);
        // One that has ended already has no port any more; its end is told by another way.
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let assigned = published(&running, launch.declared_port).unwrap_or(nowhere);
        Ok((assigned, Box::new(StreamReader::new(pieces))))
    }
}

/// Where the engine takes connections for the port of a container.
fn published(running: &ContainerInspectResponse, port: u16) -> Option<SocketAddr> {
    let ports = running.network_settings.as_ref()?.ports.as_ref()?;
    let bindings = ports.get(&format!("{port}/tcp"))?.as_ref()?;
    let port = bindings.first()?.host_port.as_ref()?.parse().ok()?;
    Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// This machine as its containers see it.
fn gateway(running: &ContainerInspectResponse) -> Option<IpAddr> {
    let networks = running.network_settings.as_ref()?.networks.as_ref()?;
    let address =
        |network: &bollard::models::EndpointSettings| network.gateway.as_ref()?.parse().ok();
    networks.values().find_map(address)
}

impl Vessel for Container {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn cpu_time(&self) -> BoxFuture<'_, Option<Duration>> {
        async {
            let options = StatsOptionsBuilder::default()
                .stream(false)
                .one_shot(true)
                .build();
            let mut stats = std::pin::pin!(self.engine.docker().stats(&self.id, Some(options)));
            let now = stats.next().await?.ok()?;
            let used = now.cpu_stats?.cpu_usage?.total_usage?;
            Some(Duration::from_nanos(used))
        }
        .boxed()
    }

    fn ears(&self) -> BoxFuture<'_, Vec<Ear>> {
        async {
            let sockets = self.sight.sockets(&self.engine, &self.id).await;
            sockets::ears(&sockets, self.declared_port)
        }
        .boxed()
    }

    /// The kernel holds it to its limit.
    fn kill_if_over_memory(&self) -> bool {
        false
    }

    fn terminate(&self) -> BoxFuture<'_, ()> {
        async {
            let options = KillContainerOptionsBuilder::default()
                .signal("SIGTERM")
                .build();
            let killed = self.engine.docker().kill_container(&self.id, Some(options));
            // It may have ended meanwhile.
            if let Err(error) = killed.await {
                tracing::debug!(%error, container = self.id, "a container was not asked to end");
            }
        }
        .boxed()
    }

    fn clear(&self) -> BoxFuture<'_, ()> {
        remove(self.engine.clone(), self.id.clone()).boxed()
    }

    fn abandon(&self) {
        tokio::spawn(remove(self.engine.clone(), self.id.clone()));
    }
}

/// Removes a container, whether it runs or not.
async fn remove(engine: Engine, id: String) {
    let options = RemoveContainerOptionsBuilder::default()
        .force(true)
        .v(true)
        .build();
    match engine.docker().remove_container(&id, Some(options)).await {
        Ok(())
        // Gone, or about to be.
        | Err(Refusal::DockerResponseServerError {
            status_code: 404 | 409,
            ..
        }) => {}
        Err(error) => tracing::warn!(%error, container = id, "a container could not be removed"),
    }
}

/// A container whose end is waited for.
struct Watched {
    engine: Engine,
    id: String,
    memory_limit: Option<u64>,
    order: Order,
    signs: mpsc::UnboundedSender<Signs>,
}

impl Watched {
    /// Tells how it ended, when it has.
    fn ending(self) -> watch::Receiver<Option<Ending>> {
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            let ending = self.wait().await;
            // Nobody listens any more when the replica was dropped.
            let _ = sender.send(Some(ending));
        });
        receiver
    }

    async fn wait(&self) -> Ending {
        let docker = self.engine.docker();
        let mut waits =
            std::pin::pin!(docker.wait_container(&self.id, None::<WaitContainerOptions>));
        let code = match waits.next().await {
            Some(Ok(ended)) => ended.status_code,
            Some(Err(Refusal::DockerContainerWaitError { code, .. })) => code,
            // Removed, or the engine itself has ended, and its containers with it.
            Some(Err(_)) | None => 128 + 9,
        };
        let ended = docker.inspect_container(&self.id, None).await;
        let ended = ended.unwrap_or_default();
        if code == NOT_FOUND
            && let Some(program) = self.order.entrypoint.first()
            && !self.holds(program, &ended).await
        {
            let _ = self.signs.send(Signs::Failed(self.order.lacks(program)));
        }
        let out_of_memory = ended.state.and_then(|state| state.oom_killed);
        let exceeded = self.memory_limit.filter(|_| out_of_memory == Some(true));
        ending(code, exceeded)
    }

    /// Whether the image has a program: it may also be another one that was not found.
    async fn holds(&self, program: &str, ended: &ContainerInspectResponse) -> bool {
        let env = ended.config.as_ref().and_then(|config| config.env.as_ref());
        let path = env
            .into_iter()
            .flatten()
            .find_map(|pair| pair.strip_prefix("PATH="))
            .unwrap_or(SYSTEM_PATH);
        let folders: Vec<&str> = if program.contains('/') {
            vec![""]
        } else {
            path.split(':').collect()
        };
        for folder in folders {
            let options = ContainerArchiveInfoOptionsBuilder::default()
                .path(&format!("{folder}/{program}"))
                .build();
            let docker = self.engine.docker();
            let found = docker.get_container_archive_info(&self.id, Some(options));
            if found.await.is_ok() {
                return true;
            }
        }
        false
    }
}

/// `exceeded` is the limit for which the kernel ended it.
fn ending(code: i64, exceeded: Option<u64>) -> Ending {
    if let Some(limit) = exceeded {
        return Ending::OutOfMemory { used: limit, limit };
    }
    let code = i32::try_from(code).unwrap_or(i32::MAX);
    // As shells do, engines tell a signal by adding to its number.
    match code - 128 {
        signal @ 1..=31 => Ending::Signalled(signal),
        _ => Ending::Exited(code),
    }
}

impl Order {
    /// Why it cannot run where no engine is.
    fn no_engine(&self, error: &engines::Error) -> Failure {
        use crate::error::Diagnostic;
        let hint = error.hints().into_iter().next().unwrap_or_default();
        Failure::new(
            Code::ImageNeedsContainer,
            format!(
                "image `{}` is a container image; the local platform runs environments that \
                 `flyte serve` builds from a declared image, and containers where an engine runs: {}; {hint}",
                self.image,
                with_causes(error)
            ),
        )
    }

    /// Why the engine did not run it.
    fn refused(&self, error: Refusal) -> Failure {
        let text = match &error {
            Refusal::DockerResponseServerError { message, .. } => message.clone(),
            _ => with_causes(&error),
        };
        Failure::new(
            Code::AppFailed,
            format!(
                "the container engine does not run image `{}`: {text}",
                self.image
            ),
        )
    }

    /// Why it ended at once, where its image has no such program.
    fn lacks(&self, program: &str) -> Failure {
        let image = &self.image;
        match program {
            "fserve" => Failure::new(
                Code::RuntimeLoad,
                format!(
                    "image `{image}` holds no `fserve`: the Flyte SDK is to be installed in it"
                ),
            ),
            other => Failure::new(
                Code::AppMissingCommand,
                format!("image `{image}` holds no program `{other}`"),
            ),
        }
    }
}

/// The labels by which containers of ours are known.
fn labels(launch: &Launch, mark: &str) -> HashMap<String, String> {
    HashMap::from([
        (engine::HOME_LABEL.to_owned(), mark.to_owned()),
        (engine::REPLICA_LABEL.to_owned(), launch.mark.clone()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_those_of_processes() {
        assert_eq!(ending(0, None), Ending::Exited(0));
        assert_eq!(ending(3, None), Ending::Exited(3));
        assert_eq!(ending(137, None), Ending::Signalled(9));
        let out_of_memory = ending(137, Some(64 << 20));
        assert_eq!(
            out_of_memory.to_string(),
            "was killed, for it wanted more memory than the 64 MiB that it may have"
        );
    }
}

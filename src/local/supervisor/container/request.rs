//! What the engine is asked to run: a container as data.

use std::collections::HashMap;
use std::path::PathBuf;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, PortBinding,
};

use super::engine::Containers;
use super::labels;
use crate::local::gateway::names;
use crate::local::supervisor::replica::Launch;

/// The container of a replica.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Order {
    pub image: String,
    /// The image's own where it is empty.
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Folders of this machine that it sees, at the same paths.
    pub readable: Vec<PathBuf>,
    pub writable: Vec<PathBuf>,
    /// Billionths of a core that it may use.
    pub nano_cpus: Option<i64>,
    /// Bytes of `/dev/shm`.
    pub shared_memory: Option<i64>,
    pub project: String,
    pub domain: String,
}

/// What the engine is sent. `neighbours` are names of apps that this machine answers for.
pub(super) fn body(
    launch: &Launch,
    order: &Order,
    containers: &Containers,
    neighbours: &[String],
) -> ContainerCreateBody {
    let some = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    let pattern = format!(
        "http://{}:{}",
        names::for_containers("{app_fqdn}", &order.project, &order.domain),
        containers.names_port()
    );
    let env = order
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .chain([format!("INTERNAL_APP_ENDPOINT_PATTERN={pattern}")]);
    ContainerCreateBody {
        image: Some(order.image.clone()),
        entrypoint: some(&order.entrypoint),
        cmd: some(&order.command),
        env: Some(env.collect()),
        labels: Some(labels(launch, containers.mark())),
        exposed_ports: Some(vec![format!("{}/tcp", launch.declared_port)]),
        host_config: Some(host(launch, order, neighbours)),
        ..Default::default()
    }
}

fn host(launch: &Launch, order: &Order, neighbours: &[String]) -> HostConfig {
    let any_port = PortBinding {
        host_ip: Some("127.0.0.1".into()),
        host_port: None,
    };
    let port = format!("{}/tcp", launch.declared_port);
    let memory = launch
        .memory_limit
        .and_then(|limit| i64::try_from(limit).ok());
    let readable = order.readable.iter().map(|path| mount(path, true));
    let writable = order.writable.iter().map(|path| mount(path, false));
    let hosts = neighbours.iter().map(String::as_str);
    let hosts = hosts.chain(["host.docker.internal"]);
    HostConfig {
        port_bindings: Some(HashMap::from([(port, Some(vec![any_port]))])),
        mounts: Some(readable.chain(writable).collect()),
        memory,
        // No swap beside it.
        memory_swap: memory,
        nano_cpus: order.nano_cpus,
        shm_size: order.shared_memory,
        extra_hosts: Some(hosts.map(|host| format!("{host}:host-gateway")).collect()),
        // Signals reach a program that is not the first of its kind, and nobody stays a zombie.
        init: Some(true),
        security_opt: Some(vec!["no-new-privileges".into()]),
        // What it writes is kept by the platform.
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".into()),
            config: None,
        }),
        ..Default::default()
    }
}

fn mount(path: &std::path::Path, read_only: bool) -> Mount {
    let path = path.to_string_lossy().into_owned();
    Mount {
        typ: Some(MountType::BIND),
        source: Some(path.clone()),
        target: Some(path),
        read_only: Some(read_only),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Home;
    use crate::local::supervisor::replica::What;

    #[test]
    fn a_container_is_held_to_its_limits_and_published_on_loopback_only() {
        let order = Order {
            image: "i:1".into(),
            env: vec![("A".into(), "b c".into())],
            nano_cpus: Some(500_000_000),
            readable: vec!["/h/uploads".into()],
            project: "p".into(),
            domain: "d".into(),
            ..Order::default()
        };
        let launch = Launch {
            mark: "m:web:1:1".into(),
            name: "web-1-1".into(),
            revision: 1,
            declared_port: 8080,
            memory_limit: Some(1 << 20),
            cores: None,
            secret_files: None,
            what: What::Container(order.clone()),
        };
        let containers = Containers::new(&Home::at("/h".into()), "m", 32_080);
        let body = body(&launch, &order, &containers, &["x.flyte.internal".into()]);
        assert_eq!((body.entrypoint, body.cmd), (None, None));
        assert_eq!(
            body.env.unwrap(),
            [
                "A=b c",
                "INTERNAL_APP_ENDPOINT_PATTERN=http://{app_fqdn}-p-d.flyte.internal:32080"
            ]
        );
        let labels = body.labels.unwrap();
        assert_eq!(labels["org.flyte.home"], "m");
        assert_eq!(labels["org.flyte.replica"], "m:web:1:1");
        let host = body.host_config.unwrap();
        let bindings = &host.port_bindings.unwrap()["8080/tcp"];
        let binding = &bindings.as_ref().unwrap()[0];
        assert_eq!(binding.host_ip.as_deref(), Some("127.0.0.1"));
        assert_eq!(
            (host.memory, host.memory_swap),
            (Some(1 << 20), Some(1 << 20))
        );
        assert_eq!(host.nano_cpus, Some(500_000_000));
        assert_eq!(host.mounts.unwrap()[0].read_only, Some(true));
        let hosts = host.extra_hosts.unwrap();
        assert_eq!(hosts[0], "x.flyte.internal:host-gateway");
    }
}

//! What the engine is asked to run: a container as data.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, PortBinding,
};

use super::engine::Containers;
use super::handover::{self, Handover, Variables};
use super::labels;
use crate::engine::Engine;
use crate::local::gateway::names;
use crate::local::supervisor::replica::Launch;

/// Where clusters mount secrets.
pub const SECRETS: &str = "/etc/flyte/secrets";
/// `fserve` reads it where a public address is asked for.
const PUBLIC_PATTERN_VARIABLE: &str = "_FLYTE_PUBLIC_ENDPOINT_PATTERN";

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
    /// The folder of its secrets, which it sees where a cluster mounts them.
    pub secrets: Option<PathBuf>,
    pub variables: Option<Variables>,
    /// Billionths of a core that it may use.
    pub nano_cpus: Option<i64>,
    /// Bytes of `/dev/shm`.
    pub shared_memory: Option<i64>,
    pub project: String,
    pub domain: String,
}

impl Order {
    /// The same, without a limit that the engine refuses, for it has no more cores than that.
    pub(super) async fn within_cores_of(&self, engine: &Engine) -> Self {
        let mut order = self.clone();
        if let Some(limit) = self.nano_cpus
            && let Ok(about) = engine.docker().info().await
            && let Some(cores) = about.ncpu
        {
            order.nano_cpus = limit_within(limit, cores);
        }
        order
    }
}

/// A limit in billionths of a core, if it means anything where there are so many cores.
fn limit_within(nano_cpus: i64, cores: i64) -> Option<i64> {
    (nano_cpus < cores.saturating_mul(1_000_000_000)).then_some(nano_cpus)
}

/// What the engine is sent. `neighbours` are names of apps that this machine answers for.
pub(super) fn body(
    launch: &Launch,
    order: &Order,
    containers: &Containers,
    neighbours: &[String],
    handover: &Handover,
) -> ContainerCreateBody {
    let some = |words: Vec<String>| (!words.is_empty()).then_some(words);
    let (entrypoint, command) = handover
        .words()
        .unwrap_or_else(|| (order.entrypoint.clone(), order.command.clone()));
    let pattern = format!(
        "http://{}:{}",
        names::for_containers("{app_fqdn}", &order.project, &order.domain),
        containers.names_port()
    );
    // A container cannot ask for what a browser on this machine would call an app.
    let public = format!(
        "http://{}:{}",
        names::of_app("{app_fqdn}", &order.project, &order.domain),
        containers.names_port()
    );
    let env = order
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .chain([
            format!("INTERNAL_APP_ENDPOINT_PATTERN={pattern}"),
            format!("{PUBLIC_PATTERN_VARIABLE}={public}"),
        ])
        .chain(told(order, handover));
    ContainerCreateBody {
        image: Some(order.image.clone()),
        entrypoint: some(entrypoint),
        cmd: some(command),
        env: Some(env.collect()),
        labels: Some(labels(launch, containers.mark())),
        exposed_ports: Some(vec![format!("{}/tcp", launch.declared_port)]),
        host_config: Some(host(launch, order, neighbours)),
        ..Default::default()
    }
}

/// Secrets that the engine cannot be spared.
fn told(order: &Order, handover: &Handover) -> Vec<String> {
    match handover {
        Handover::Shell { .. } => Vec::new(),
        Handover::Engine => {
            let variables = order.variables.iter();
            let values = variables.flat_map(|variables| &variables.values);
            values
                .map(|(name, value)| format!("{name}={}", value.reveal()))
                .collect()
        }
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
    let readable = order.readable.iter().map(|path| mount(path, path, true));
    let writable = order.writable.iter().map(|path| mount(path, path, false));
    let files = order.secrets.iter();
    let files = files.map(|path| mount(path, Path::new(SECRETS), true));
    let variables = order.variables.iter();
    let variables = variables.map(|found| mount(&found.file, Path::new(handover::FILE), true));
    let hosts = neighbours.iter().map(String::as_str);
    let hosts = hosts.chain(["host.docker.internal"]);
    HostConfig {
        port_bindings: Some(HashMap::from([(port, Some(vec![any_port]))])),
        mounts: Some(
            readable
                .chain(writable)
                .chain(files)
                .chain(variables)
                .collect(),
        ),
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

fn mount(source: &Path, target: &Path, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.to_string_lossy().into_owned()),
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
        let body = body(
            &launch,
            &order,
            &containers,
            &["x.flyte.internal".into()],
            &Handover::Engine,
        );
        assert_eq!((body.entrypoint, body.cmd), (None, None));
        assert_eq!(
            body.env.unwrap(),
            [
                "A=b c",
                "INTERNAL_APP_ENDPOINT_PATTERN=http://{app_fqdn}-p-d.flyte.internal:32080",
                "_FLYTE_PUBLIC_ENDPOINT_PATTERN=http://{app_fqdn}-p-d.localhost:32080"
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

    #[test]
    fn a_limit_of_all_cores_or_more_is_none() {
        assert_eq!(limit_within(3_999_999_999, 4), Some(3_999_999_999));
        assert_eq!(limit_within(4_000_000_000, 4), None);
        assert_eq!(limit_within(8_000_000_000, 4), None);
    }

    #[test]
    fn the_engine_is_told_secrets_only_where_no_shell_can_read_them() {
        let order = Order {
            secrets: Some("/m/files".into()),
            variables: Some(Variables {
                file: "/m/variables".into(),
                values: vec![("KEY".into(), crate::config::Secret::new("hunter2"))],
            }),
            ..Order::default()
        };
        let launch = Launch {
            mark: String::new(),
            name: String::new(),
            revision: 1,
            declared_port: 8080,
            memory_limit: None,
            cores: None,
            secret_files: None,
            what: What::Container(order.clone()),
        };
        let containers = Containers::new(&Home::at("/h".into()), "m", 32_080);
        let shell = Handover::Shell {
            program: vec!["fserve".into()],
            command: Vec::new(),
        };
        let with = |handover| body(&launch, &order, &containers, &[], handover);
        assert!(!format!("{:?}", with(&shell)).contains("hunter2"));
        assert!(!format!("{order:?}").contains("hunter2"));
        let told = with(&Handover::Engine).env.unwrap();
        assert!(told.contains(&"KEY=hunter2".to_owned()));
        let mounts = with(&shell).host_config.unwrap().mounts.unwrap();
        let targets: Vec<_> = mounts
            .into_iter()
            .filter_map(|mount| mount.target)
            .collect();
        assert_eq!(targets, ["/etc/flyte/secrets", "/run/flyte/variables"]);
    }
}

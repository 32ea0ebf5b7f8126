//! From a declared app to the message that deploys it.
//!
//! The first message already holds everything: overrides, log settings and the cluster pool. An
//! equal deployment gives an equal message, which is how "nothing changed" is known.

use buffa_types::google::protobuf::Duration as PbDuration;
use serde::{Deserialize, Serialize};

use super::{app, common, core, identifier, task};
use crate::spec::{AppSpec, Metric};

/// Settings of activation that the protocol has no field for. They travel in
/// `Container.config`, which clusters ignore and which the app does not see.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub path: Option<String>,
    pub timeout_ms: Option<u64>,
    pub interval_ms: Option<u64>,
    /// How long the app may take to come up, where its caller said so.
    pub activate_timeout_ms: Option<u64>,
}

const HEALTH_PATH: &str = "flyte.health.path";
const HEALTH_TIMEOUT: &str = "flyte.health.timeout_ms";
const HEALTH_INTERVAL: &str = "flyte.health.interval_ms";
const ACTIVATE_TIMEOUT: &str = "flyte.activate.timeout_ms";

impl Health {
    fn entries(&self) -> Vec<core::KeyValuePair> {
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        [
            (HEALTH_PATH, self.path.clone()),
            (HEALTH_TIMEOUT, number(self.timeout_ms)),
            (HEALTH_INTERVAL, number(self.interval_ms)),
            (ACTIVATE_TIMEOUT, number(self.activate_timeout_ms)),
        ]
        .into_iter()
        .filter_map(|(key, value)| value.map(|value| pair(key, &value)))
        .collect()
    }

    /// What a container says about its health checks.
    pub fn of(container: &core::Container) -> Self {
        let get = |key: &str| {
            container
                .config
                .iter()
                .find(|entry| entry.key == key)
                .map(|entry| entry.value.clone())
        };
        Self {
            path: get(HEALTH_PATH),
            timeout_ms: get(HEALTH_TIMEOUT).and_then(|value| value.parse().ok()),
            interval_ms: get(HEALTH_INTERVAL).and_then(|value| value.parse().ok()),
            activate_timeout_ms: get(ACTIVATE_TIMEOUT).and_then(|value| value.parse().ok()),
        }
    }
}

/// One app together with all that serving added to it.
#[derive(Clone, Debug)]
pub struct Deployment<'a> {
    pub spec: &'a AppSpec,
    pub org: &'a str,
    pub project: &'a str,
    pub domain: &'a str,
    pub image_uri: &'a str,
    /// The whole command line of the container.
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// (name, value) as shown on the app's page.
    pub inputs: Vec<(String, String)>,
    pub code_bundle_uri: Option<String>,
    pub source_link: Option<String>,
    pub health: Health,
    pub sdk_version: &'a str,
}

/// The `App` to create, without a status.
pub fn app(deployment: &Deployment<'_>) -> app::App {
    let spec = deployment.spec;
    app::App {
        metadata: app::Meta {
            id: identifier(
                deployment.org,
                deployment.project,
                deployment.domain,
                &spec.name,
            )
            .into(),
            code_bundle_uri: deployment.code_bundle_uri.clone().unwrap_or_default(),
            source_code: deployment
                .source_link
                .clone()
                .map(|link| task::SourceCode {
                    link,
                    ..Default::default()
                })
                .into(),
            ..Default::default()
        }
        .into(),
        spec: app::Spec {
            app_payload: Some(container(deployment).into()),
            autoscaling: autoscaling(spec).into(),
            ingress: app::IngressConfig {
                private: false,
                subdomain: spec.subdomain.clone().unwrap_or_default(),
                cname: spec.custom_domain.clone().unwrap_or_default(),
                ..Default::default()
            }
            .into(),
            desired_state: app::spec::DesiredState::DESIRED_STATE_ACTIVE.into(),
            cluster_pool: spec.cluster_pool.clone(),
            cluster: spec.cluster.clone().unwrap_or_default(),
            security_context: security(spec).into(),
            extended_resources: extended_resources(spec).into(),
            runtime_metadata: common::RuntimeMetadata {
                r#type: common::runtime_metadata::RuntimeType::FLYTE_SDK.into(),
                version: deployment.sdk_version.to_owned(),
                flavor: "python".into(),
                ..Default::default()
            }
            .into(),
            profile: app::Profile {
                r#type: spec.kind.clone().unwrap_or_default(),
                short_description: spec.description.clone().unwrap_or_default(),
                ..Default::default()
            }
            .into(),
            inputs: inputs(&deployment.inputs).into(),
            links: links(spec),
            timeouts: spec
                .request_timeout
                .map(|timeout| app::TimeoutConfig {
                    request_timeout: duration(timeout).into(),
                    ..Default::default()
                })
                .into(),
            ..Default::default()
        }
        .into(),
        ..Default::default()
    }
}

fn container(deployment: &Deployment<'_>) -> core::Container {
    let spec = deployment.spec;
    core::Container {
        image: deployment.image_uri.to_owned(),
        command: deployment.command.clone(),
        args: deployment.args.clone(),
        resources: resources(spec).into(),
        env: deployment
            .env
            .iter()
            .map(|(key, value)| pair(key, value))
            .collect(),
        config: deployment.health.entries(),
        ports: vec![core::ContainerPort {
            container_port: spec.port.number.into(),
            name: spec.port.name.clone(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn resources(spec: &AppSpec) -> core::Resources {
    use core::resources::{ResourceEntry, ResourceName};
    let entry = |name: ResourceName, value: &str| ResourceEntry {
        name: name.into(),
        value: value.to_owned(),
        ..Default::default()
    };
    let declared = &spec.resources;
    let mut result = core::Resources::default();
    for (name, pair) in [
        (ResourceName::CPU, &declared.cpu),
        (ResourceName::MEMORY, &declared.memory),
    ] {
        if let Some((request, limit)) = pair {
            result.requests.push(entry(name, request));
            if let Some(limit) = limit {
                result.limits.push(entry(name, limit));
            }
        }
    }
    if let Some(count) = declared
        .gpu
        .as_deref()
        .and_then(|gpu| gpu.split(':').nth(1))
    {
        result.requests.push(entry(ResourceName::GPU, count));
    }
    if let Some(disk) = &declared.disk {
        result
            .requests
            .push(entry(ResourceName::EPHEMERAL_STORAGE, disk));
    }
    result
}

fn extended_resources(spec: &AppSpec) -> Option<core::ExtendedResources> {
    let device = spec
        .resources
        .gpu
        .as_deref()
        .and_then(|gpu| gpu.split(':').next())
        .filter(|device| !device.is_empty());
    let shm = spec.resources.shm.as_deref();
    if device.is_none() && shm.is_none() {
        return None;
    }
    Some(core::ExtendedResources {
        gpu_accelerator: device
            .map(|device| core::GPUAccelerator {
                device: device.to_owned(),
                ..Default::default()
            })
            .into(),
        shared_memory: shm
            .map(|size| core::SharedMemory {
                mount_path: "/dev/shm".into(),
                mount_name: "flyte-shm".into(),
                size_limit: if size == "auto" { "" } else { size }.into(),
                ..Default::default()
            })
            .into(),
        ..Default::default()
    })
}

fn autoscaling(spec: &AppSpec) -> app::AutoscalingConfig {
    let scaling = &spec.scaling;
    app::AutoscalingConfig {
        replicas: app::Replicas {
            min: scaling.min,
            max: scaling.max,
            ..Default::default()
        }
        .into(),
        scaledown_period: scaling.scaledown_after.map(duration).into(),
        scaling_metric: scaling
            .metric
            .map(|metric| app::ScalingMetric {
                metric: Some(match metric {
                    Metric::Concurrency(target_value) => app::Concurrency {
                        target_value,
                        ..Default::default()
                    }
                    .into(),
                    Metric::RequestRate(target_value) => app::RequestRate {
                        target_value,
                        ..Default::default()
                    }
                    .into(),
                }),
                ..Default::default()
            })
            .into(),
        ..Default::default()
    }
}

fn security(spec: &AppSpec) -> Option<app::SecurityContext> {
    if spec.secrets.is_empty() && spec.service_account.is_none() && spec.requires_auth {
        return None;
    }
    Some(app::SecurityContext {
        run_as: core::Identity {
            k8s_service_account: spec.service_account.clone().unwrap_or_default(),
            ..Default::default()
        }
        .into(),
        secrets: spec.secrets.iter().map(secret).collect(),
        allow_anonymous: !spec.requires_auth,
        ..Default::default()
    })
}

fn secret(secret: &crate::spec::SecretRef) -> core::Secret {
    use core::secret::MountType;
    let mount = if secret.mount.is_some() {
        MountType::FILE
    } else {
        MountType::ENV_VAR
    };
    core::Secret {
        group: secret.group.clone().unwrap_or_default(),
        key: secret.key.clone(),
        mount_requirement: mount.into(),
        env_var: secret.env_var.clone().unwrap_or_default(),
        ..Default::default()
    }
}

fn inputs(values: &[(String, String)]) -> app::InputList {
    app::InputList {
        items: values
            .iter()
            .map(|(name, value)| app::Input {
                name: name.clone(),
                value: Some(app::input::Value::StringValue(value.clone())),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

fn links(spec: &AppSpec) -> Vec<app::Link> {
    spec.links
        .iter()
        .map(|link| app::Link {
            path: link.path.clone(),
            title: link.title.clone(),
            is_relative: link.is_relative,
            ..Default::default()
        })
        .collect()
}

fn pair(key: &str, value: &str) -> core::KeyValuePair {
    core::KeyValuePair {
        key: key.to_owned(),
        value: value.to_owned(),
        ..Default::default()
    }
}

fn duration(value: std::time::Duration) -> PbDuration {
    PbDuration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
        ..Default::default()
    }
}

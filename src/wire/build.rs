//! From a declared app to the message that deploys it.
//!
//! The first message already holds everything: overrides, log settings and the cluster pool. An
//! equal deployment gives an equal message, which is how "nothing changed" is known.

use buffa_types::google::protobuf::Duration as PbDuration;
use serde::{Deserialize, Serialize};

use super::pod::pod;
use super::{app, common, core, identifier, task};
use crate::spec::{Accelerator, AcceleratorClass, AppSpec, Metric};

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
            app_payload: Some(payload(deployment)),
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

fn payload(deployment: &Deployment<'_>) -> app::spec::AppPayload {
    let template = deployment.spec.pod.as_ref();
    match template.and_then(|template| pod(deployment, template)) {
        Some(pod) => pod.into(),
        None => container(deployment).into(),
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
    if let Some(accelerator) = &declared.accelerator {
        let count = accelerator.count.to_string();
        result.requests.push(entry(ResourceName::GPU, &count));
    }
    if let Some(disk) = &declared.disk {
        result
            .requests
            .push(entry(ResourceName::EPHEMERAL_STORAGE, disk));
    }
    result
}

fn extended_resources(spec: &AppSpec) -> Option<core::ExtendedResources> {
    let resources = &spec.resources;
    let accelerator = resources.accelerator.as_ref().and_then(accelerator);
    let shm = resources.shm.as_deref();
    if accelerator.is_none() && shm.is_none() {
        return None;
    }
    Some(core::ExtendedResources {
        gpu_accelerator: accelerator.into(),
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

/// The label that nodes carry which have a device; where there is none, the device's own name.
const DEVICE_LABELS: &[(&str, &str)] = &[
    ("A10", "nvidia-a10"),
    ("A10G", "nvidia-a10g"),
    ("A100", "nvidia-tesla-a100"),
    ("A100_80G", "nvidia-a100-80gb"),
    ("H100", "nvidia-tesla-h100"),
    ("L4", "nvidia-l4"),
    ("L40s", "nvidia-l40s"),
    ("T4", "nvidia-tesla-t4"),
    ("V100", "nvidia-tesla-v100"),
    ("RTX_PRO_4500", "nvidia-rtx-pro-4500"),
    ("RTX_PRO_6000", "nvidia-rtx-pro-6000"),
    ("V5E", "tpu-v5-lite-podslice"),
    ("V5P", "tpu-v5p-slice"),
    ("V6E", "tpu-v6e-slice"),
];

/// Which device it has to be; `None` where any will do.
fn accelerator(declared: &Accelerator) -> Option<core::GPUAccelerator> {
    use core::gpu_accelerator::{DeviceClass, PartitionSizeValue};
    let device = declared.device.as_deref()?;
    let label = DEVICE_LABELS.iter().find(|(name, _)| *name == device);
    Some(core::GPUAccelerator {
        device: label.map_or(device, |(_, label)| label).to_owned(),
        device_class: match declared.class {
            AcceleratorClass::Gpu => DeviceClass::NVIDIA_GPU,
            AcceleratorClass::Tpu => DeviceClass::GOOGLE_TPU,
            AcceleratorClass::Neuron => DeviceClass::AMAZON_NEURON,
            AcceleratorClass::AmdGpu => DeviceClass::AMD_GPU,
            AcceleratorClass::HabanaGaudi => DeviceClass::HABANA_GAUDI,
        }
        .into(),
        partition_size_value: declared
            .partition
            .clone()
            .map(PartitionSizeValue::PartitionSize),
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
        // Servers that check refuse an empty value; the app gets it by its command line all the same.
        items: values
            .iter()
            .filter(|(_, value)| !value.is_empty())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(class: AcceleratorClass, device: Option<&str>) -> Accelerator {
        Accelerator {
            class,
            device: device.map(str::to_owned),
            count: 1,
            partition: None,
        }
    }

    #[test]
    fn devices_are_named_as_nodes_are_labelled() {
        use super::core::gpu_accelerator::{DeviceClass, PartitionSizeValue};
        let label = |class, device| {
            let sent = accelerator(&declared(class, Some(device))).unwrap();
            (sent.device, sent.device_class.as_known().unwrap())
        };
        let gpu = AcceleratorClass::Gpu;
        assert_eq!(
            label(gpu, "T4"),
            ("nvidia-tesla-t4".into(), DeviceClass::NVIDIA_GPU)
        );
        assert_eq!(label(gpu, "H200").0, "H200");
        assert_eq!(
            label(AcceleratorClass::Tpu, "V5E"),
            ("tpu-v5-lite-podslice".into(), DeviceClass::GOOGLE_TPU)
        );
        assert_eq!(
            label(AcceleratorClass::Neuron, "Trn1"),
            ("Trn1".into(), DeviceClass::AMAZON_NEURON)
        );
        assert_eq!(
            label(AcceleratorClass::AmdGpu, "MI300X").1,
            DeviceClass::AMD_GPU
        );
        assert!(accelerator(&declared(gpu, None)).is_none());
        let slice = accelerator(&Accelerator {
            partition: Some("1g.5gb".into()),
            ..declared(gpu, Some("A100"))
        });
        let size = slice.unwrap().partition_size_value;
        assert_eq!(
            size,
            Some(PartitionSizeValue::PartitionSize("1g.5gb".into()))
        );
    }

    #[test]
    fn empty_values_are_not_shown() {
        let list = inputs(&[("a".into(), String::new()), ("b".into(), "1".into())]);
        let names: Vec<&str> = list.items.iter().map(|input| input.name.as_str()).collect();
        assert_eq!(names, ["b"]);
    }
}

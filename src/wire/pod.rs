//! From a pod template to the pod that an app runs in: the template's own container for the app gets
//! what was declared for the app, and all else of the template goes along as it is.

use buffa_types::google::protobuf::Struct;
use serde_json::{Map, Value, json};

use super::build::Deployment;
use super::core;
use crate::spec::{AcceleratorClass, PodTemplate, ResourceList};

/// The pod of a deployment; `None` where the template has no container for the app, or is no object.
pub fn pod(deployment: &Deployment<'_>, template: &PodTemplate) -> Option<core::K8sPod> {
    let mut spec = template.spec.clone();
    let containers = spec
        .as_object_mut()?
        .entry("containers")
        .or_insert_with(|| json!([]))
        .as_array_mut()?;
    if containers.is_empty() {
        containers.push(json!({"name": template.primary_container}));
    }
    let own = containers
        .iter_mut()
        .find(|container| container["name"] == template.primary_container.as_str())?;
    fill(own.as_object_mut()?, deployment);
    Some(core::K8sPod {
        metadata: core::K8sObjectMetadata {
            labels: template.labels.clone().into_iter().collect(),
            annotations: template.annotations.clone().into_iter().collect(),
            ..Default::default()
        }
        .into(),
        pod_spec: structure(&spec)?.into(),
        ..Default::default()
    })
}

/// What was declared for the app goes first, so that the cluster takes it for the app's.
fn fill(container: &mut Map<String, Value>, deployment: &Deployment<'_>) {
    container
        .entry("image")
        .or_insert_with(|| deployment.image_uri.into());
    container.insert("command".into(), deployment.command.clone().into());
    if !deployment.args.is_empty() {
        container.insert("args".into(), deployment.args.clone().into());
    }
    let variables = deployment.env.iter();
    let variables = variables.map(|(name, value)| json!({"name": name, "value": value}));
    prepend(container, "env", variables.collect());
    let port = &deployment.spec.port;
    let mut declared = json!({"containerPort": port.number});
    if !port.name.is_empty() {
        declared["name"] = port.name.as_str().into();
    }
    prepend(container, "ports", vec![declared]);
    let (requests, limits) = quantities(&deployment.spec.resources);
    for (kind, quantities) in [("requests", requests), ("limits", limits)] {
        if quantities.is_empty() {
            continue;
        }
        let resources = container.entry("resources").or_insert_with(|| json!({}));
        if let Some(resources) = resources.as_object_mut() {
            let known = resources.entry(kind).or_insert_with(|| json!({}));
            if let Some(known) = known.as_object_mut() {
                known.extend(quantities);
            }
        }
    }
}

fn prepend(container: &mut Map<String, Value>, key: &str, mut items: Vec<Value>) {
    if let Some(Value::Array(own)) = container.remove(key) {
        items.extend(own);
    }
    if !items.is_empty() {
        container.insert(key.into(), items.into());
    }
}

/// Requests and limits, as Kubernetes names them.
fn quantities(declared: &ResourceList) -> (Map<String, Value>, Map<String, Value>) {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    for (name, pair) in [("cpu", &declared.cpu), ("memory", &declared.memory)] {
        if let Some((request, limit)) = pair {
            requests.insert(name.into(), request.as_str().into());
            if let Some(limit) = limit {
                limits.insert(name.into(), limit.as_str().into());
            }
        }
    }
    if let Some(disk) = &declared.disk {
        requests.insert("ephemeral-storage".into(), disk.as_str().into());
    }
    if let Some(accelerator) = &declared.accelerator {
        // Kubernetes wants devices limited to what is requested.
        let count = Value::from(accelerator.count.to_string());
        let name = device_plugin(accelerator.class);
        requests.insert(name.into(), count.clone());
        limits.insert(name.into(), count);
    }
    (requests, limits)
}

/// The name under which a cluster counts devices.
fn device_plugin(class: AcceleratorClass) -> &'static str {
    match class {
        AcceleratorClass::Gpu => "nvidia.com/gpu",
        AcceleratorClass::Tpu => "google.com/tpu",
        AcceleratorClass::Neuron => "aws.amazon.com/neuron",
        AcceleratorClass::AmdGpu => "amd.com/gpu",
        AcceleratorClass::HabanaGaudi => "habana.ai/gaudi",
    }
}

/// JSON as protobuf holds it.
fn structure(value: &Value) -> Option<Struct> {
    serde_json::from_value(value.clone()).ok()
}

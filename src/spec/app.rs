//! An app as it is declared: the Rust side of `flyte.app.AppEnvironment`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ImageSpec, Parameter};

/// Which files of the project go into the code bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyStyle {
    /// The modules that are imported when `serve` is called, and what they import.
    LoadedModules,
    /// Everything below the root folder that no ignore rule leaves out.
    All,
    /// Nothing but `include`.
    None,
}

/// The port that an app declares to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    pub number: u16,
    /// Empty, `http1` or `h2c`.
    pub name: String,
}

/// A link shown on the app's page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub path: String,
    pub title: String,
    pub is_relative: bool,
}

/// What the number of replicas follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Metric {
    Concurrency(u32),
    RequestRate(u32),
}

/// Bounds and speed of scaling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaling {
    pub min: u32,
    pub max: u32,
    pub metric: Option<Metric>,
    pub scaledown_after: Option<Duration>,
}

/// A secret by name; the value is never held here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRef {
    pub key: String,
    pub group: Option<String>,
    pub mount: Option<String>,
    pub env_var: Option<String>,
}

/// The family of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AcceleratorClass {
    Gpu,
    Tpu,
    Neuron,
    AmdGpu,
    HabanaGaudi,
}

/// Devices that a replica computes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accelerator {
    pub class: AcceleratorClass,
    /// The model as it is declared, such as `A100_80G`; any of the family where none is.
    pub device: Option<String>,
    pub count: u32,
    /// A slice of the device.
    pub partition: Option<String>,
}

impl std::fmt::Display for Accelerator {
    /// `MODEL:COUNT`, or the count alone where any model will do.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.device {
            Some(device) => write!(f, "{device}:{}", self.count),
            None => write!(f, "{}", self.count),
        }
    }
}

/// A pod to run an app in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodTemplate {
    /// Kubernetes' `PodSpec`.
    pub spec: serde_json::Value,
    /// The container that is the app's.
    pub primary_container: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// Kubernetes quantities, as declared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceList {
    /// (request, limit)
    pub cpu: Option<(String, Option<String>)>,
    /// (request, limit)
    pub memory: Option<(String, Option<String>)>,
    pub accelerator: Option<Accelerator>,
    pub disk: Option<String>,
    pub shm: Option<String>,
}

/// One app, ready to be bundled, built and deployed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppSpec {
    pub name: String,
    pub kind: Option<String>,
    pub description: Option<String>,
    pub image: ImageSpec,
    pub port: PortSpec,
    pub args: Vec<String>,
    /// Replaces `fserve` altogether when given.
    pub command: Option<Vec<String>>,
    /// Whether a server function was registered.
    pub has_server: bool,
    pub env_vars: Vec<(String, String)>,
    pub parameters: Vec<Parameter>,
    pub secrets: Vec<SecretRef>,
    pub resources: ResourceList,
    pub requires_auth: bool,
    pub scaling: Scaling,
    pub subdomain: Option<String>,
    pub custom_domain: Option<String>,
    pub links: Vec<Link>,
    pub cluster_pool: String,
    pub cluster: Option<String>,
    pub request_timeout: Option<Duration>,
    pub service_account: Option<String>,
    pub pod: Option<PodTemplate>,
    /// Paths and globs, relative to `declared_in`'s folder.
    pub include: Vec<String>,
    /// The file whose code made the environment; `None` in notebooks and REPLs.
    pub declared_in: Option<PathBuf>,
    /// `module:variable` for the loader inside the replica.
    pub loader: Option<String>,
    /// Names of the apps this one depends on.
    pub depends_on: Vec<String>,
}

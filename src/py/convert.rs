//! Reading the declarative classes of `flyte`, attribute by attribute.
//!
//! The classes check themselves when they are made, so what is read here has the right type; an
//! attribute that does not is named with its class.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};

use super::error::{mistake, wrong_type};
use crate::spec::image::{Base, Image, InstallMode, InstallOptions, Layer, PythonVersion};
use crate::spec::{
    Accelerator, AcceleratorClass, AppSpec, CopyStyle, ImageSpec, Link, Metric, Parameter,
    ParameterKind, ParameterValue, PodTemplate, PortSpec, ResourceList, Scaling, SecretRef,
};

type Object<'a, 'py> = &'a Bound<'py, PyAny>;

/// Reads `object.name` as a `T`.
pub fn field<'py, T>(object: Object<'_, 'py>, name: &str) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py>,
{
    let value = object.getattr(name)?;
    value.extract::<T>().map_err(|_| {
        let kind = object.get_type().name().map(|name| name.to_string());
        wrong_type(format!(
            "{}.{name} has the value {value}, which is not of the type expected",
            kind.unwrap_or_else(|_| "object".into())
        ))
    })
}

/// Reads `object.name` unless it is `None`.
pub fn optional<'py>(object: Object<'_, 'py>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    let value = object.getattr(name)?;
    Ok((!value.is_none()).then_some(value))
}

/// Reads `object.name` as text unless it is `None`.
pub fn text(object: Object<'_, '_>, name: &str) -> PyResult<Option<String>> {
    match optional(object, name)? {
        Some(value) => Ok(Some(value.str()?.to_string())),
        None => Ok(None),
    }
}

fn each<'py, T>(
    object: Object<'_, 'py>,
    name: &str,
    read: impl Fn(Object<'_, 'py>) -> PyResult<T>,
) -> PyResult<Vec<T>> {
    object
        .getattr(name)?
        .try_iter()?
        .map(|item| read(&item?))
        .collect()
}

/// An `AppEnvironment`.
pub fn app(env: Object<'_, '_>, project: &str, domain: &str) -> PyResult<AppSpec> {
    let words =
        |method: &str| -> PyResult<Option<Vec<String>>> { env.call_method0(method)?.extract() };
    let port = env.getattr("port")?;
    Ok(AppSpec {
        name: field(env, "name")?,
        kind: text(env, "type")?,
        description: text(env, "description")?,
        image: image_of(env)?,
        port: PortSpec {
            number: field(&port, "port")?,
            name: text(&port, "name")?.unwrap_or_default(),
        },
        args: words("_args")?.unwrap_or_default(),
        command: words("_command")?,
        has_server: optional(env, "_server")?.is_some(),
        env_vars: env_vars(env)?,
        parameters: each(env, "parameters", parameter)?,
        secrets: env
            .call_method0("_secrets")?
            .try_iter()?
            .map(|item| secret(&item?))
            .collect::<PyResult<_>>()?,
        resources: resources(env)?,
        requires_auth: field(env, "requires_auth")?,
        scaling: scaling(&env.getattr("scaling")?)?,
        subdomain: subdomain(env, project, domain)?,
        custom_domain: match optional(env, "domain")? {
            Some(domain) => text(&domain, "custom_domain")?,
            None => None,
        },
        links: each(env, "links", link)?,
        cluster_pool: field(env, "cluster_pool")?,
        cluster: text(env, "cluster")?,
        request_timeout: duration(&env.getattr("timeouts")?, "request")?,
        service_account: text(env, "service_account")?,
        pod: pod(env)?,
        include: field::<Vec<String>>(env, "include")?,
        declared_in: text(env, "_declaring_file")?.map(PathBuf::from),
        loader: None,
        depends_on: app_dependencies(env)?
            .iter()
            .map(|env| field(env, "name"))
            .collect::<PyResult<_>>()?,
    })
}

/// The apps in `env.depends_on`; other environments are no concern of ours.
pub fn app_dependencies<'py>(env: Object<'_, 'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let app = env.py().import("flyte.app")?.getattr("AppEnvironment")?;
    let mut apps = Vec::new();
    for dependency in env.getattr("depends_on")?.try_iter()? {
        let dependency = dependency?;
        if dependency.is_instance(&app)? {
            apps.push(dependency);
        }
    }
    Ok(apps)
}

fn env_vars(env: Object<'_, '_>) -> PyResult<Vec<(String, String)>> {
    match optional(env, "env_vars")? {
        Some(variables) => pairs(&variables),
        None => Ok(Vec::new()),
    }
}

/// Variables that are given when serving, of which the same is asked as of declared ones.
pub fn env_vars_given(variables: Object<'_, '_>) -> PyResult<Vec<(String, String)>> {
    let check = variables.py().import("flyte._environment")?;
    pairs(&check.call_method1("_env_vars", (variables,))?)
}

/// The items of a mapping, as text, in its order.
fn pairs(mapping: Object<'_, '_>) -> PyResult<Vec<(String, String)>> {
    mapping
        .call_method0("items")?
        .try_iter()?
        .map(|item| {
            let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item?.extract()?;
            Ok((key.str()?.to_string(), value.str()?.to_string()))
        })
        .collect()
}

fn link(link: Object<'_, '_>) -> PyResult<Link> {
    Ok(Link {
        path: field(link, "path")?,
        title: field(link, "title")?,
        is_relative: field(link, "is_relative")?,
    })
}

fn duration(object: Object<'_, '_>, name: &str) -> PyResult<Option<Duration>> {
    optional(object, name)?
        .map(|value| value.extract())
        .transpose()
}

fn subdomain(env: Object<'_, '_>, project: &str, domain: &str) -> PyResult<Option<String>> {
    let Some(declared) = optional(env, "domain")? else {
        return Ok(None);
    };
    let Some(subdomain) = optional(&declared, "subdomain")? else {
        return Ok(None);
    };
    if let Ok(text) = subdomain.extract::<String>() {
        return Ok(Some(text));
    }
    let scope = PyDict::new(env.py());
    scope.set_item("project", project)?;
    scope.set_item("domain", domain)?;
    let namespace = env.py().import("types")?.getattr("SimpleNamespace")?;
    let context = namespace.call((), Some(&scope))?;
    let resolved = subdomain.call_method1("resolve", (env, context))?;
    Ok(Some(resolved.str()?.to_string()))
}

fn secret(secret: Object<'_, '_>) -> PyResult<SecretRef> {
    Ok(SecretRef {
        key: field(secret, "key")?,
        group: text(secret, "group")?,
        mount: text(secret, "mount")?,
        env_var: text(secret, "as_env_var")?,
    })
}

type Pair<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

fn resources(env: Object<'_, '_>) -> PyResult<ResourceList> {
    let Some(declared) = optional(env, "resources")? else {
        return Ok(ResourceList::default());
    };
    let pair = |name: &str| -> PyResult<Option<(String, Option<String>)>> {
        let Some(value) = optional(&declared, name)? else {
            return Ok(None);
        };
        if let Ok((request, limit)) = value.extract::<Pair<'_>>() {
            return Ok(Some((
                request.str()?.to_string(),
                Some(limit.str()?.to_string()),
            )));
        }
        Ok(Some((value.str()?.to_string(), None)))
    };
    Ok(ResourceList {
        cpu: pair("cpu")?,
        memory: pair("memory")?,
        accelerator: accelerator(&declared)?,
        disk: text(&declared, "disk")?,
        shm: text(&declared, "shm")?,
    })
}

fn accelerator(resources: Object<'_, '_>) -> PyResult<Option<Accelerator>> {
    let device = resources.call_method0("get_device")?;
    if device.is_none() {
        return Ok(None);
    }
    let class: String = field(&device, "device_class")?;
    Ok(Some(Accelerator {
        class: match class.as_str() {
            "GPU" => AcceleratorClass::Gpu,
            "TPU" => AcceleratorClass::Tpu,
            "NEURON" => AcceleratorClass::Neuron,
            "AMD_GPU" => AcceleratorClass::AmdGpu,
            "HABANA_GAUDI" => AcceleratorClass::HabanaGaudi,
            other => {
                return Err(wrong_type(format!("`{other}` is no class of devices")));
            }
        },
        device: text(&device, "device")?,
        count: field(&device, "quantity")?,
        partition: text(&device, "partition")?,
    }))
}

/// A pod template as it is; one that is only named cannot be sent.
fn pod(env: Object<'_, '_>) -> PyResult<Option<PodTemplate>> {
    let Some(declared) = optional(env, "pod_template")? else {
        return Ok(None);
    };
    if declared.is_instance_of::<PyString>() {
        let name: String = field(env, "name")?;
        return Err(wrong_type(format!(
            "the pod template of `{name}` is a name; apps take a flyte.PodTemplate"
        )));
    }
    let document: String = declared.call_method0("_document")?.extract()?;
    let labels = |name: &str| -> PyResult<BTreeMap<String, String>> {
        Ok(match optional(&declared, name)? {
            Some(labels) => pairs(&labels)?.into_iter().collect(),
            None => BTreeMap::new(),
        })
    };
    let spec = serde_json::from_str(&document);
    Ok(Some(PodTemplate {
        spec: spec.map_err(|error| wrong_type(error.to_string()))?,
        primary_container: field(&declared, "primary_container_name")?,
        labels: labels("labels")?,
        annotations: labels("annotations")?,
    }))
}

fn scaling(scaling: Object<'_, '_>) -> PyResult<Scaling> {
    let (min, max) = scaling.call_method0("get_replicas")?.extract()?;
    let metric = match optional(scaling, "metric")? {
        Some(metric) if metric.get_type().name()? == "Concurrency" => {
            Some(Metric::Concurrency(field(&metric, "val")?))
        }
        Some(metric) => Some(Metric::RequestRate(field(&metric, "val")?)),
        None => None,
    };
    Ok(Scaling {
        min,
        max,
        metric,
        scaledown_after: duration(scaling, "scaledown_after")?,
    })
}

fn parameter(parameter: Object<'_, '_>) -> PyResult<Parameter> {
    let kind = match text(parameter, "type")?.as_deref() {
        Some("string") => Some(ParameterKind::String),
        Some("file") => Some(ParameterKind::File),
        Some("directory") => Some(ParameterKind::Directory),
        Some("app_endpoint") => Some(ParameterKind::AppEndpoint),
        Some(_) | None => None,
    };
    let name: String = field(parameter, "name")?;
    let value = match optional(parameter, "value")? {
        Some(value) => Some(parameter_value(&name, &value)?),
        None => None,
    };
    Ok(Parameter {
        value,
        kind,
        env_var: text(parameter, "env_var")?,
        download: field(parameter, "download")?,
        mount: text(parameter, "mount")?,
        ignore_patterns: field(parameter, "ignore_patterns")?,
        name,
    })
}

/// A value of a parameter, declared or given when serving.
pub fn parameter_value(name: &str, value: Object<'_, '_>) -> PyResult<ParameterValue> {
    // A bool is an int to Python, so it is asked first.
    if value.is_instance_of::<PyBool>() {
        return Ok(ParameterValue::Boolean(value.extract()?));
    }
    if value.is_instance_of::<PyInt>() {
        return Ok(ParameterValue::Integer(value.extract()?));
    }
    if value.is_instance_of::<PyFloat>() {
        return Ok(ParameterValue::Float(value.extract()?));
    }
    if value.is_instance_of::<PyString>() {
        return Ok(ParameterValue::Text(value.extract()?));
    }
    let json = || -> PyResult<String> { value.call_method0("model_dump_json")?.extract() };
    let kind = value.get_type().name()?.to_string();
    Ok(match kind.as_str() {
        "File" | "Dir" if field(value, "_from_local")? => ParameterValue::Local {
            path: value.call_method0("__fspath__")?.extract()?,
            is_folder: kind == "Dir",
        },
        "File" => ParameterValue::File(field(value, "path")?),
        "Dir" => ParameterValue::Dir(field(value, "path")?),
        "AppEndpoint" => ParameterValue::AppEndpoint {
            app_name: field(value, "app_name")?,
            public: field(value, "public")?,
        },
        "RunOutput" => ParameterValue::RunOutput(json()?),
        "ArtifactValue" => ParameterValue::Artifact(json()?),
        _ => {
            return Err(wrong_type(format!(
                "parameter `{name}` was given a {kind}; it takes a str, int, float, bool, File, \
                 Dir, AppEndpoint, RunOutput or ArtifactValue"
            )));
        }
    })
}

fn image_of(env: Object<'_, '_>) -> PyResult<ImageSpec> {
    let declared = env.getattr("image")?;
    if declared.is_none() {
        let name: String = field(env, "name")?;
        return Err(wrong_type(format!(
            "image of `{name}` is None; it must be a str, an Image or \"auto\""
        )));
    }
    match declared.extract::<String>() {
        Ok(text) if text == "auto" => {
            let image_class = env.py().import("flyte")?.getattr("Image")?;
            let default = image_class.call_method0("from_debian_base")?;
            Ok(image(&default)?.into())
        }
        Ok(uri) => Ok(ImageSpec::Uri(uri)),
        Err(_) => Ok(image(&declared)?.into()),
    }
}

/// A `flyte.Image`.
pub fn image(image: Object<'_, '_>) -> PyResult<Image> {
    let (major, minor): (u8, u8) = field(image, "python_version")?;
    Ok(Image {
        name: text(image, "name")?,
        registry: text(image, "registry")?,
        base: base(image)?,
        python: PythonVersion { major, minor },
        python_is_explicit: field(image, "_python_is_explicit")?,
        platforms: if field(image, "_platform_is_explicit")? {
            field(image, "platform")?
        } else {
            Vec::new()
        },
        layers: each(image, "_layers", layer)?,
    })
}

fn base(image: Object<'_, '_>) -> PyResult<Base> {
    let kind: String = field(image, "_base_kind")?;
    Ok(match kind.as_str() {
        "debian" => Base::Debian {
            install_flyte: field(image, "_install_flyte")?,
        },
        "dockerfile" => Base::Dockerfile(needed(image, "dockerfile")?),
        "ref" => Base::Ref(text(image, "_ref_name")?.unwrap_or_default()),
        _ => Base::Uri(text(image, "base_image")?.unwrap_or_default()),
    })
}

fn path(object: Object<'_, '_>, name: &str) -> PyResult<Option<PathBuf>> {
    Ok(text(object, name)?.map(PathBuf::from))
}

fn needed(object: Object<'_, '_>, name: &str) -> PyResult<PathBuf> {
    Ok(path(object, name)?.unwrap_or_default())
}

fn options(layer: Object<'_, '_>) -> PyResult<InstallOptions> {
    Ok(InstallOptions {
        index_url: text(layer, "index_url")?,
        extra_index_urls: field(layer, "extra_index_urls")?,
        pre: field(layer, "pre")?,
        extra_args: text(layer, "extra_args")?,
        secret_mounts: each(layer, "secret_mounts", secret)?,
    })
}

fn install_mode(layer: Object<'_, '_>) -> PyResult<InstallMode> {
    let mode: String = field(layer, "project_install_mode")?;
    Ok(match mode.as_str() {
        "install_project" => InstallMode::InstallProject,
        _ => InstallMode::DependenciesOnly,
    })
}

fn layer(layer: Object<'_, '_>) -> PyResult<Layer> {
    let kind: String = field(layer, "kind")?;
    Ok(match kind.as_str() {
        "apt" => Layer::AptPackages {
            packages: field(layer, "packages")?,
            secret_mounts: each(layer, "secret_mounts", secret)?,
        },
        "commands" => Layer::Commands {
            commands: field(layer, "commands")?,
            secret_mounts: each(layer, "secret_mounts", secret)?,
        },
        "env_vars" => Layer::EnvVars(field(layer, "values")?),
        "workdir" => Layer::Workdir(field(layer, "path")?),
        "source_file" => Layer::SourceFile {
            src: needed(layer, "src")?,
            dst: field(layer, "dst")?,
        },
        "source_folder" => Layer::SourceFolder {
            src: needed(layer, "src")?,
            dst: field(layer, "dst")?,
        },
        "code_bundle" => Layer::CodeBundle {
            style: copy_style(&field::<String>(layer, "copy_style")?)?,
            dst: field(layer, "dst")?,
        },
        "dockerignore" => Layer::DockerIgnore(needed(layer, "path")?),
        _ => package_layer(layer, &kind)?,
    })
}

fn package_layer(layer: Object<'_, '_>, kind: &str) -> PyResult<Layer> {
    let options = options(layer)?;
    Ok(match kind {
        "pip" => Layer::PipPackages {
            packages: field(layer, "packages")?,
            options,
        },
        "requirements" => Layer::Requirements {
            file: needed(layer, "file")?,
            options,
        },
        "uv_project" => Layer::UvProject {
            pyproject: needed(layer, "pyproject")?,
            lock: path(layer, "uvlock")?,
            mode: install_mode(layer)?,
            options,
        },
        "poetry_project" => Layer::PoetryProject {
            pyproject: needed(layer, "pyproject")?,
            lock: needed(layer, "poetry_lock")?,
            mode: install_mode(layer)?,
            options,
        },
        "pixi_project" => Layer::PixiProject {
            manifest: needed(layer, "manifest")?,
            lock: path(layer, "pixi_lock")?,
            environment: field(layer, "environment")?,
            mode: install_mode(layer)?,
            options,
        },
        "uv_script" => Layer::UvScript {
            script: needed(layer, "script")?,
            options,
        },
        "pixi_script" => Layer::PixiScript {
            script: needed(layer, "script")?,
            environment: field(layer, "environment")?,
            options,
        },
        "wheels" => Layer::Wheels {
            package: field(layer, "package")?,
            folder: needed(layer, "folder")?,
            options,
        },
        _ => {
            return Err(wrong_type(format!(
                "this build of flyte-rs knows no image layer `{kind}`"
            )));
        }
    })
}

/// `loaded_modules`, `all` or `none`; the command line's `custom` has always meant `all`.
pub fn copy_style(text: &str) -> PyResult<CopyStyle> {
    match text {
        "loaded_modules" => Ok(CopyStyle::LoadedModules),
        "all" | "custom" => Ok(CopyStyle::All),
        "none" => Ok(CopyStyle::None),
        _ => Err(mistake(format!(
            "copy_style is `{text}`; it takes loaded_modules, all or none"
        ))),
    }
}

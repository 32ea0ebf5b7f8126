//! The message that deploys an app: its command line, variables and parameters.

use std::path::Path;

use super::pickles::Code;
use super::plan::set;
use super::{Error, Plan, origin, values};
use crate::runtime::WORKING_FOLDER_VARIABLE;
use crate::runtime::payload::{self, SerializedParameter};
use crate::spec::{AppSpec, ParameterValue};
use crate::wire::app;
use crate::wire::build::{self, Deployment};

/// Names the loader to runtimes of the PyPI SDK; ours reads the arguments alone.
const RESOLVER: &str = "flyte._internal.resolvers.app_env.AppEnvResolver";

/// The `App` to create.
pub fn message(plan: &Plan, spec: &AppSpec, image: &str, code: &Code) -> Result<app::App, Error> {
    let spec = &values::settled(spec, &code.values);
    let parameters = spec
        .parameters
        .iter()
        .map(payload::from_spec)
        .collect::<Result<Vec<_>, _>>()?;
    let version = match &plan.options.version {
        Some(version) => version.clone(),
        None => version(spec, image, code),
    };
    let command = match &spec.command {
        Some(command) => command.clone(),
        None => fserve(plan, spec, &version, image, code, &parameters)?,
    };
    Ok(build::app(&Deployment {
        spec,
        org: &plan.org,
        project: &plan.project,
        domain: &plan.domain,
        image_uri: image,
        command,
        // A server function is what runs; beside a command of the user's, arguments are its own.
        args: if spec.has_server && spec.command.is_none() {
            Vec::new()
        } else {
            spec.args.clone()
        },
        env: variables(plan, spec),
        inputs: inputs(spec, &parameters),
        code_bundle_uri: code.files.as_ref().map(|files| files.uri.clone()),
        source_link: (!plan.local)
            .then(|| origin::link(&plan.source.root))
            .flatten(),
        health: plan.options.health.clone(),
        sdk_version: env!("CARGO_PKG_VERSION"),
    }))
}

/// Parameters as the app's page shows them; another app is shown by its name.
fn inputs(spec: &AppSpec, parameters: &[SerializedParameter]) -> Vec<(String, String)> {
    let values = spec.parameters.iter().map(|parameter| &parameter.value);
    parameters
        .iter()
        .zip(values)
        .map(|(parameter, value)| match value {
            Some(ParameterValue::AppEndpoint { app_name, .. }) => {
                (parameter.name.clone(), app_name.clone())
            }
            Some(_) | None => (parameter.name.clone(), parameter.value.clone()),
        })
        .collect()
}

fn fserve(
    plan: &Plan,
    spec: &AppSpec,
    version: &str,
    image: &str,
    code: &Code,
    parameters: &[SerializedParameter],
) -> Result<Vec<String>, Error> {
    let mut line: Vec<String> = vec!["fserve".into()];
    let mut option = |name: &str, value: &str| line.extend([name.to_owned(), value.to_owned()]);
    option("--version", version);
    option("--project", &plan.project);
    option("--domain", &plan.domain);
    option("--org", &plan.org);
    let images = std::collections::BTreeMap::from([(spec.name.clone(), image.to_owned())]);
    option("--image-cache", &payload::encode_image_cache(&images)?);
    // Ours unpacks the files and loads the pickle; runtimes of the PyPI SDK take one of the two.
    let (files, pickle) = (code.files.as_ref(), code.pickle(spec));
    for (name, sent) in [("--tgz", files), ("--pkl", pickle)] {
        if let Some(sent) = sent {
            option(name, &sent.uri);
        }
    }
    if files.or(pickle).is_some() {
        option("--dest", ".");
    }
    if !parameters.is_empty() {
        option("--parameters", &payload::encode(parameters)?);
    }
    let raw_data = plan.options.raw_data_path.as_deref();
    option(
        "--raw-data-path",
        raw_data.unwrap_or("{{.rawOutputDataPrefix}}"),
    );
    if let Some(loader) = &spec.loader
        && spec.has_server
    {
        option("--resolver", RESOLVER);
        option("--resolver-args", loader);
    }
    line.push("--".into());
    Ok(line)
}

fn variables(plan: &Plan, spec: &AppSpec) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let options = &plan.options;
    for (key, value) in [
        ("LOG_LEVEL", &options.log_level),
        ("LOG_FORMAT", &options.log_format),
        ("USER_LOG_LEVEL", &options.user_log_level),
    ] {
        if let Some(value) = value {
            set(&mut variables, key, value);
        }
    }
    let given = variables.len();
    let named = |key: &str| (options.overrides.env_vars.iter()).any(|(named, _)| named == key);
    for (key, value) in &spec.env_vars {
        // What the call says counts more than what the app declares, and a variable that the call
        // names more than an option; apps that the one asked for depends on keep what they declare.
        let is_option = variables[..given].iter().any(|(option, _)| option == key);
        if !is_option || spec.name != plan.target || named(key) {
            set(&mut variables, key, value);
        }
    }
    let roots: Vec<String> = plan
        .source
        .source_roots
        .iter()
        .filter_map(|root| root.strip_prefix(&plan.source.root).ok())
        .map(|relative| match relative.to_string_lossy().as_ref() {
            "" => "./.".to_owned(),
            relative => format!("./{relative}"),
        })
        .collect();
    if !roots.is_empty() {
        set(&mut variables, "_F_SYS_PATH", &roots.join(":"));
    }
    if let Some(typed) = &plan.source.interactive
        && spec.declared_in.is_none()
        && typed.working_folder != Path::new("")
    {
        let folder = typed.working_folder.to_string_lossy();
        set(&mut variables, WORKING_FOLDER_VARIABLE, &folder);
    }
    variables
}

/// Equal deployments have equal versions, wherever and whenever they are made.
fn version(spec: &AppSpec, image: &str, code: &Code) -> String {
    let mut portable = spec.clone();
    portable.declared_in = None;
    let mut hash = blake3::Hasher::new();
    // A spec is plain data, so it always serializes; were it not so, versions would only differ
    // by less.
    hash.update(&serde_json::to_vec(&portable).unwrap_or_default());
    hash.update(image.as_bytes());
    hash.update(&[0]);
    for sent in [code.files.as_ref(), code.pickle(spec)]
        .into_iter()
        .flatten()
    {
        hash.update(sent.digest.as_bytes());
    }
    hash.finalize().to_hex()[..32].to_owned()
}

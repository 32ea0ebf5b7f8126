//! `flyte serve`, and what `flyte deploy` has in common with it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{describe, pair};
use crate::cli::args::Serve;
use crate::cli::printer::Printer;
use crate::cli::{Error, Failure, Host, Load, sought};
use crate::config::{Given, Settings};
use crate::serve::{App, Request};
use crate::spec::image::Base;
use crate::spec::{AppSpec, ImageSpec, ParameterKind, ParameterValue};

pub fn run(host: &impl Host, printer: &Printer, given: Given, args: Serve) -> Result<(), Failure> {
    let settings = settings(host, given, &args)?;
    let load = Load {
        file: sought::one(printer, args.file.clone(), "serving")?,
        which: args.environment.clone().into(),
        root_dir: args.root_dir.clone(),
        copy_style: args.copy_style.clone(),
        again: false,
        watched: args.watch,
        verbose: printer.is_verbose(),
    };
    let mut request = host.load(&load, &settings)?;
    apply(&mut request, &args)?;
    name_images(std::slice::from_mut(&mut request), &args.image)?;
    if args.watch {
        return super::watch::run(host, printer, settings, request, args.follow);
    }
    let server = host.server(settings, printer.reporter())?;
    let app = host.block(async move { Ok(server.serve(request).await?) })?;
    show(host, printer, &args, &app)
}

/// The settings, with what the options say.
pub fn settings(host: &impl Host, mut given: Given, args: &Serve) -> Result<Settings, Failure> {
    given.project.clone_from(&args.scope.project);
    given.domain.clone_from(&args.scope.domain);
    if args.local {
        given.endpoint = Some(String::new());
    }
    host.settings(&given)
}

/// Tells of the one app that was asked for, and goes on to show its log where that is wanted.
pub fn show(host: &impl Host, printer: &Printer, args: &Serve, app: &App) -> Result<(), Failure> {
    if printer.is_json() {
        let mut document = describe(app);
        document["steps"] = printer.steps().into();
        printer.json(&document);
    } else if !args.dry_run {
        printer.line(&app.endpoint());
    }
    if !args.follow {
        return Ok(());
    }
    host.block(async { Ok(follow(app, |line| printer.line(line)).await?) })
}

/// Hands over what the app writes, from the beginning, for as long as the platform tells.
pub async fn follow(app: &App, show: impl Fn(&str)) -> Result<(), crate::serve::Error> {
    let mut logs = app.logs(true).await?;
    while let Some(lines) = logs.next().await? {
        for line in lines {
            show(&line.text);
        }
    }
    Ok(())
}

/// Takes the options over into the request.
pub fn apply(request: &mut Request, args: &Serve) -> Result<(), Failure> {
    let options = &mut request.options;
    options.version.clone_from(&args.version);
    options.dry_run = args.dry_run;
    options.health.path.clone_from(&args.health_check_path);
    if let Some(seconds) = args.activate_timeout {
        options.activate_timeout = Duration::from_secs(seconds);
        options.health.activate_timeout_ms = Some(seconds.saturating_mul(1000));
    }
    options
        .overrides
        .cluster_pool
        .clone_from(&args.cluster_pool);
    for text in &args.env_var {
        options.overrides.env_vars.push(pair(text, "--env-var")?);
    }
    let mut values = BTreeMap::new();
    for text in &args.param {
        let (name, value) = pair(text, "--param")?;
        let value = typed(request, &name, value)?;
        values.insert(name, value);
    }
    if !values.is_empty() {
        let parameters = &mut request.options.overrides.parameters;
        parameters.insert(request.target.clone(), values);
    }
    let target = request.target.clone();
    if let Some(spec) = request.apps.iter_mut().find(|spec| spec.name == target) {
        change(spec, args);
    }
    if args.no_sync_local_sys_paths {
        request.source.source_roots.clear();
    }
    if let Some(name) = &args.name {
        rename(request, name);
    }
    Ok(())
}

/// Makes the app another one than is declared, and lets its replica know, which reads the declaration
/// again: which of the file's apps it is, and where it has to listen.
fn change(spec: &mut AppSpec, args: &Serve) {
    if args.service_account.is_some() {
        spec.service_account.clone_from(&args.service_account);
    }
    if args.port.is_some() || args.name.is_some() {
        let declared = ("_FLYTE_DECLARED_NAME".to_owned(), spec.name.clone());
        spec.env_vars.push(declared);
    }
    if let Some(port) = args.port {
        spec.port.number = port;
        let chosen = ("_FLYTE_APP_PORT".to_owned(), port.to_string());
        spec.env_vars.push(chosen);
    }
}

/// The text of `--param` as the kind of value that the app declares under that name.
fn typed(request: &Request, name: &str, text: String) -> Result<ParameterValue, Failure> {
    let declared = request
        .apps
        .iter()
        .find(|spec| spec.name == request.target)
        .and_then(|spec| spec.parameters.iter().find(|known| known.name == name))
        .and_then(|parameter| parameter.value.as_ref());
    let wrong = |kind: &str| {
        Failure::Usage(format!(
            "parameter `{name}` is declared as {kind}, which `{text}` is not"
        ))
    };
    Ok(match declared {
        Some(ParameterValue::Integer(_)) => {
            ParameterValue::Integer(text.parse().map_err(|_| wrong("a whole number"))?)
        }
        Some(ParameterValue::Float(_)) => {
            ParameterValue::Float(text.parse().map_err(|_| wrong("a number"))?)
        }
        Some(ParameterValue::Boolean(_)) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => ParameterValue::Boolean(true),
            "false" | "0" | "no" => ParameterValue::Boolean(false),
            _ => return Err(wrong("true or false")),
        },
        Some(ParameterValue::Local { is_folder, .. }) if !text.contains("://") => {
            let path = std::path::absolute(&text).map_err(|_| wrong("a path"))?;
            ParameterValue::Local {
                path: path.to_string_lossy().into_owned(),
                is_folder: *is_folder,
            }
        }
        Some(
            ParameterValue::Dir(_)
            | ParameterValue::Local {
                is_folder: true, ..
            },
        ) => ParameterValue::Dir(text),
        Some(ParameterValue::File(_) | ParameterValue::Local { .. }) => ParameterValue::File(text),
        Some(value @ (ParameterValue::RunOutput(_) | ParameterValue::Artifact(_))) => {
            match value.looked_up_as() {
                Some(ParameterKind::File) => ParameterValue::File(text),
                Some(ParameterKind::Directory) => ParameterValue::Dir(text),
                Some(ParameterKind::String | ParameterKind::AppEndpoint) | None => {
                    ParameterValue::Text(text)
                }
            }
        }
        // A name that is not declared is refused when the plan is made, with the right one.
        Some(ParameterValue::Text(_) | ParameterValue::AppEndpoint { .. }) | None => {
            ParameterValue::Text(text)
        }
    })
}

/// Takes `NAME=URI` over, for each app that asks for an image of that name; without a name it is
/// the one called `default`. A name that nobody asks for is a slip of the hand.
pub fn name_images(requests: &mut [Request], given: &[String]) -> Result<(), Error> {
    for text in given {
        let (name, uri) = text.split_once('=').unwrap_or(("default", text));
        let mut known = Vec::new();
        let mut is_used = false;
        for spec in requests.iter_mut().flat_map(|one| &mut one.apps) {
            let ImageSpec::Declared(image) = &spec.image else {
                continue;
            };
            let Base::Ref(wanted) = &image.base else {
                continue;
            };
            if wanted == name && image.layers.is_empty() {
                spec.image = ImageSpec::Uri(uri.to_owned());
                is_used = true;
            } else if !known.contains(wanted) {
                known.push(wanted.clone());
            }
        }
        if !is_used {
            return Err(Error::UnknownImage {
                given: text.clone(),
                name: name.to_owned(),
                known,
            });
        }
    }
    Ok(())
}

fn rename(request: &mut Request, name: &str) {
    let old = std::mem::replace(&mut request.target, name.to_owned());
    if let Some(values) = request.options.overrides.parameters.remove(&old) {
        let parameters = &mut request.options.overrides.parameters;
        parameters.insert(name.to_owned(), values);
    }
    for spec in &mut request.apps {
        if spec.name == old {
            name.clone_into(&mut spec.name);
        }
    }
}

//! `flyte serve` and `flyte deploy`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{describe, pair};
use crate::cli::args::Serve;
use crate::cli::printer::Printer;
use crate::cli::{Error, Failure, Host, Load, scan};
use crate::config::Given;
use crate::serve::watch::Asked;
use crate::serve::{App, Request};
use crate::spec::image::Base;
use crate::spec::{ImageSpec, ParameterKind, ParameterValue};

/// `overrides` is false for `deploy`, which takes apps as they are declared.
pub fn run(
    host: &impl Host,
    printer: &Printer,
    mut given: Given,
    args: Serve,
    overrides: bool,
) -> Result<(), Failure> {
    if !overrides && let Some(option) = first_override(&args) {
        return Err(Failure::Usage(format!(
            "`flyte deploy` takes apps as they are declared; `flyte serve` takes `{option}`"
        )));
    }
    if !overrides && args.watch {
        return Err(Failure::Usage(
            "`flyte deploy` deploys once; `flyte serve --watch` serves again after each change"
                .into(),
        ));
    }
    given.project.clone_from(&args.scope.project);
    given.domain.clone_from(&args.scope.domain);
    if args.local {
        given.endpoint = Some(String::new());
    }
    let settings = host.settings(&given)?;
    let load = Load {
        file: match &args.file {
            Some(file) => file.clone(),
            None => only_app(printer)?,
        },
        which: args.environment.clone().into(),
        root_dir: args.root_dir.clone(),
        copy_style: args.copy_style.clone(),
    };
    let mut request = host.load(&load, &settings)?;
    apply(&mut request, &args)?;
    request.options.tell_order = !overrides;
    if args.watch {
        return super::watch::run(host, printer, settings, request, args.follow);
    }
    let server = host.server(settings, printer.reporter())?;
    let app = host.block(async move { Ok(server.serve(request).await?) })?;
    if printer.is_json() {
        let mut document = describe(&app);
        document["steps"] = printer.steps().into();
        printer.json(&document);
    } else if !args.dry_run {
        printer.line(&app.endpoint());
    }
    if !args.follow {
        return Ok(());
    }
    host.block(async { Ok(follow(&app, |line| printer.line(line)).await?) })
}

/// The first option that would make the app another one than is declared.
fn first_override(args: &Serve) -> Option<&'static str> {
    [
        ("--param", !args.param.is_empty()),
        ("--env-var", !args.env_var.is_empty()),
        ("--name", args.name.is_some()),
        ("--service-account", args.service_account.is_some()),
        ("--cluster-pool", args.cluster_pool.is_some()),
    ]
    .into_iter()
    .find_map(|(option, is_given)| is_given.then_some(option))
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

/// The one file of this folder that declares apps.
fn only_app(printer: &Printer) -> Result<PathBuf, Error> {
    let mut found = scan::folder(Path::new("."));
    if let [(path, _)] = found.as_mut_slice() {
        let path = path.strip_prefix(".").unwrap_or(path).to_path_buf();
        // The second process of a watch is not heard by anybody.
        if Asked::here().is_none() {
            printer.note(&format!("serving `{}`, the only app here", path.display()));
        }
        return Ok(path);
    }
    if found.is_empty() {
        let folder = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        return Err(Error::NoApp { folder });
    }
    let name = |(path, _): &(PathBuf, _)| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    Err(Error::SeveralApps {
        files: found.iter().filter_map(name).collect(),
    })
}

fn apply(request: &mut Request, args: &Serve) -> Result<(), Failure> {
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
    if let Some(spec) = request.apps.iter_mut().find(|spec| spec.name == target)
        && args.service_account.is_some()
    {
        spec.service_account.clone_from(&args.service_account);
    }
    for text in &args.image {
        name_image(request, text);
    }
    if args.no_sync_local_sys_paths {
        request.source.source_roots.clear();
    }
    if let Some(name) = &args.name {
        rename(request, name);
    }
    Ok(())
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

/// `NAME=URI`; without a name it is the one called `default`.
pub(super) fn name_image(request: &mut Request, text: &str) {
    let (name, uri) = text.split_once('=').unwrap_or(("default", text));
    for spec in &mut request.apps {
        if let ImageSpec::Declared(image) = &spec.image
            && matches!(&image.base, Base::Ref(wanted) if wanted == name)
            && image.layers.is_empty()
        {
            spec.image = ImageSpec::Uri(uri.to_owned());
        }
    }
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

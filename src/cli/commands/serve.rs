//! `flyte serve` and `flyte deploy`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{describe, pair};
use crate::cli::args::Serve;
use crate::cli::printer::Printer;
use crate::cli::{Failure, Host, Load};
use crate::config::Given;
use crate::serve::Request;
use crate::spec::image::Base;
use crate::spec::{ImageSpec, ParameterValue};

/// `overrides` is false for `deploy`, which takes apps as they are declared.
pub fn run(
    host: &impl Host,
    printer: &Printer,
    mut given: Given,
    args: Serve,
    overrides: bool,
) -> Result<(), Failure> {
    if !overrides && (!args.param.is_empty() || !args.env_var.is_empty()) {
        return Err(Failure::Usage(
            "`flyte deploy` takes apps as they are declared; `flyte serve` takes overrides".into(),
        ));
    }
    given.project.clone_from(&args.scope.project);
    given.domain.clone_from(&args.scope.domain);
    if args.local {
        given.endpoint = Some(String::new());
    }
    let settings = host.settings(&given)?;
    let load = Load {
        file: args.file.clone(),
        environment: args.environment.clone(),
        root_dir: args.root_dir.clone(),
        copy_style: args.copy_style.clone(),
    };
    let mut request = host.load(&load, &settings)?;
    apply(&mut request, &args)?;
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
    host.block(async {
        let mut logs = app.logs(true).await?;
        while let Some(lines) = logs.next().await? {
            for line in lines {
                printer.line(&line.text);
            }
        }
        Ok(())
    })
}

fn apply(request: &mut Request, args: &Serve) -> Result<(), Failure> {
    let options = &mut request.options;
    options.version.clone_from(&args.version);
    options.dry_run = args.dry_run;
    options.health.path.clone_from(&args.health_check_path);
    if let Some(seconds) = args.activate_timeout {
        options.activate_timeout = Duration::from_secs(seconds);
    }
    let overrides = &mut options.overrides;
    overrides.cluster_pool.clone_from(&args.cluster_pool);
    for text in &args.env_var {
        overrides.env_vars.push(pair(text, "--env-var")?);
    }
    let mut values = BTreeMap::new();
    for text in &args.param {
        let (name, value) = pair(text, "--param")?;
        values.insert(name, ParameterValue::Text(value));
    }
    if !values.is_empty() {
        overrides.parameters.insert(request.target.clone(), values);
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

/// `NAME=URI`; without a name it is the one called `default`.
fn name_image(request: &mut Request, text: &str) {
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

//! `flyte deploy`: apps as they are declared, one of a file or all of several files.

use std::collections::BTreeSet;

use super::describe;
use super::serve::{apply, name_images, settings, show};
use crate::cli::args::{Deploy, Serve};
use crate::cli::printer::Printer;
use crate::cli::{Failure, Host, Load, Which, report, sought};
use crate::config::{Given, Settings};
use crate::serve::{App, Request};
use crate::spec::AppSpec;
use crate::wire::status;

pub fn run(host: &impl Host, printer: &Printer, given: Given, args: Deploy) -> Result<(), Failure> {
    refuse_overrides(&args.serve)?;
    let settings = settings(host, given, &args.serve)?;
    if args.all || args.search.recursive {
        return all(host, printer, settings, &args);
    }
    let load = Load {
        file: sought::one(printer, args.serve.file.clone(), "deploying")?,
        which: args.serve.environment.clone().into(),
        root_dir: args.serve.root_dir.clone(),
        copy_style: args.serve.copy_style.clone(),
        again: false,
        watched: false,
        verbose: printer.is_verbose(),
    };
    let mut request = host.load(&load, &settings)?;
    prepare(std::slice::from_mut(&mut request), &args.serve)?;
    let server = host.server(settings, printer.reporter())?;
    let app = host.block(async move { Ok(server.serve(request).await?) })?;
    show(host, printer, &args.serve, &app)
}

/// Options that would make the app another one than is declared.
fn refuse_overrides(args: &Serve) -> Result<(), Failure> {
    let first = [
        ("--param", !args.param.is_empty()),
        ("--port", args.port.is_some()),
        ("--env-var", !args.env_var.is_empty()),
        ("--name", args.name.is_some()),
        ("--service-account", args.service_account.is_some()),
        ("--cluster-pool", args.cluster_pool.is_some()),
    ]
    .into_iter()
    .find_map(|(option, is_given)| is_given.then_some(option));
    if let Some(option) = first {
        return Err(Failure::Usage(format!(
            "`flyte deploy` takes apps as they are declared; `flyte serve` takes `{option}`"
        )));
    }
    if args.watch {
        return Err(Failure::Usage(
            "`flyte deploy` deploys once; `flyte serve --watch` serves again after each change"
                .into(),
        ));
    }
    Ok(())
}

fn prepare(requests: &mut [Request], args: &Serve) -> Result<(), Failure> {
    for request in requests.iter_mut() {
        apply(request, args)?;
        request.options.tell_order = true;
    }
    name_images(requests, &args.image)?;
    Ok(())
}

/// Reads and checks all files before anything is deployed, so that one that is wrong changes nothing.
fn all(
    host: &impl Host,
    printer: &Printer,
    settings: Settings,
    args: &Deploy,
) -> Result<(), Failure> {
    if args.serve.follow {
        return Err(Failure::Usage(
            "`--follow` shows the log of one app; `flyte get logs NAME --follow` does so later"
                .into(),
        ));
    }
    let choice = crate::cli::args::Choice {
        copy_style: args.serve.copy_style.clone(),
        root_dir: args.serve.root_dir.clone(),
    };
    let files = sought::all(args.serve.file.clone(), args.search)?;
    let many = Many {
        choice,
        goes_on: args.search.ignore_load_errors,
    };
    let mut requests = many.load(host, printer, &settings, files)?;
    keep_each_once(&mut requests);
    prepare(&mut requests, &args.serve)?;
    let server = host.server(settings, printer.reporter())?;
    let is_rehearsal = args.serve.dry_run;
    let apps = host.block(async move { Ok(server.serve_all(requests).await?) })?;
    tell(printer, &apps, is_rehearsal);
    Ok(())
}

/// Leaves an app that several files know to the first of them: each would deploy it with other files,
/// and replace what the one before has deployed.
fn keep_each_once(requests: &mut Vec<Request>) {
    let identity = |spec: &AppSpec| (spec.name.clone(), spec.declared_in.clone());
    let mut known = BTreeSet::new();
    for request in requests.iter_mut() {
        request.apps.retain(|spec| !known.contains(&identity(spec)));
        known.extend(request.apps.iter().map(identity));
        if let Some(first) = request.apps.first() {
            request.target.clone_from(&first.name);
        }
    }
    requests.retain(|request| !request.apps.is_empty());
}

fn tell(printer: &Printer, apps: &[App], is_rehearsal: bool) {
    if printer.is_json() {
        let documents: Vec<serde_json::Value> = apps.iter().map(describe).collect();
        printer.json(&serde_json::json!({"apps": documents, "steps": printer.steps()}));
    } else if !is_rehearsal {
        let row = |app: &App| {
            let state = status::short_name(app.deployment_status()).to_owned();
            vec![
                app.name(),
                state,
                app.revision().to_string(),
                app.endpoint(),
            ]
        };
        let rows: Vec<Vec<String>> = apps.iter().map(row).collect();
        printer.table(&["NAME", "STATUS", "REVISION", "ENDPOINT"], &rows);
    }
}

/// How all environments of several files are loaded.
pub struct Many {
    pub choice: crate::cli::args::Choice,
    /// Whether a file that cannot be loaded is told of and passed over.
    pub goes_on: bool,
}

impl Many {
    pub fn load(
        &self,
        host: &impl Host,
        printer: &Printer,
        settings: &Settings,
        files: Vec<std::path::PathBuf>,
    ) -> Result<Vec<Request>, Failure> {
        let mut requests = Vec::new();
        let is_alone = files.len() == 1;
        for file in files {
            let load = Load {
                file: file.clone(),
                which: Which::All,
                root_dir: self.choice.root_dir.clone(),
                copy_style: self.choice.copy_style.clone(),
                again: !is_alone,
                watched: false,
                verbose: printer.is_verbose(),
            };
            match host.load(&load, settings) {
                Ok(request) => requests.push(request),
                Err(Failure::Interrupted) => return Err(Failure::Interrupted),
                Err(failure) if self.goes_on => {
                    printer.note(&format!("note: `{}` is left out:", file.display()));
                    report(&failure, &printer.aside());
                }
                Err(failure) => return Err(failure),
            }
        }
        if requests.is_empty() {
            return Err(Failure::Usage("none of the files could be loaded".into()));
        }
        Ok(requests)
    }
}

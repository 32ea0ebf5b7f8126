//! `flyte build`: makes the images of a file's apps, and tells where they are.

use serde_json::json;

use super::deploy::Many;
use super::serve::name_images;
use crate::cli::args::Build;
use crate::cli::printer::Printer;
use crate::cli::{Failure, Host, Load, Which, sought};
use crate::config::{Given, Settings};
use crate::image::make::{Builder, Made};
use crate::serve::Request;
use crate::serve::imaging::Order;

pub fn run(
    host: &impl Host,
    printer: &Printer,
    mut given: Given,
    args: Build,
) -> Result<(), Failure> {
    given.project.clone_from(&args.scope.project);
    given.domain.clone_from(&args.scope.domain);
    let settings = host.settings(&given)?;
    let mut requests = requests(host, printer, &settings, &args)?;
    name_images(&mut requests, &args.image)?;
    let server = host.server(settings, printer.reporter())?;
    let is_rehearsal = args.dry_run;
    let made = host.block(async move {
        let mut all = Vec::new();
        for request in requests {
            let mut order = Order::of(request.apps, request.source, request.options.copy_style);
            order.force = args.force;
            order.layout.clone_from(&args.layout);
            all.extend(if is_rehearsal {
                server.peek(order).await?
            } else {
                server.build(order).await?
            });
        }
        Ok(all)
    })?;
    if printer.is_json() {
        let documents: serde_json::Map<_, _> = made
            .iter()
            .map(|(app, made)| (app.clone(), document(made, is_rehearsal)))
            .collect();
        printer.json(&documents.into());
        return Ok(());
    }
    for (app, made) in &made {
        if let (Some(builder), Some(why)) = (made.builder, &made.why) {
            printer.note(&format!("note: `{app}` needs {}: {why}", builder.name()));
        }
        for note in &made.notes {
            printer.note(&format!("note: {note}"));
        }
    }
    let rows: Vec<Vec<String>> = made
        .into_iter()
        .map(|(app, made)| {
            let how = state(&made, is_rehearsal).to_owned();
            let by = made.builder.map_or("", Builder::name).to_owned();
            vec![app, how, by, made.uri]
        })
        .collect();
    printer.table(&["APP", "STATE", "BUILDER", "IMAGE"], &rows);
    Ok(())
}

/// One environment of a file, or all of a file or a folder.
fn requests(
    host: &impl Host,
    printer: &Printer,
    settings: &Settings,
    args: &Build,
) -> Result<Vec<Request>, Failure> {
    let file = match &args.file {
        None if !args.all && !args.search.recursive => {
            Some(sought::one(printer, None, "building for")?)
        }
        file => file.clone(),
    };
    if let (Some(name), Some(file)) = (&args.environment, &file) {
        let load = Load {
            file: sought::one(printer, Some(file.clone()), "building for")?,
            which: Which::Named(name.clone()),
            root_dir: args.choice.root_dir.clone(),
            copy_style: args.choice.copy_style.clone(),
            again: false,
            watched: false,
            verbose: printer.is_verbose(),
        };
        return Ok(vec![host.load(&load, settings)?]);
    }
    let many = Many {
        choice: args.choice.clone(),
        goes_on: args.search.ignore_load_errors,
    };
    many.load(host, printer, settings, sought::all(file, args.search)?)
}

fn document(made: &Made, is_rehearsal: bool) -> serde_json::Value {
    json!({
        "uri": made.uri,
        "builder": made.builder.map(Builder::name),
        "state": state(made, is_rehearsal),
        "why": made.why,
        "sent": made.sent,
        "notes": made.notes,
    })
}

fn state(made: &Made, is_rehearsal: bool) -> &'static str {
    match (made.builder, made.reused, is_rehearsal) {
        (None, ..) => "as it is",
        (Some(_), true, _) => "reused",
        (Some(_), false, false) => "built",
        (Some(_), false, true) => "missing",
    }
}

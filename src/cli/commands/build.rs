//! `flyte build`: makes the images of a file's apps, and tells where they are.

use serde_json::json;

use super::serve::name_image;
use crate::cli::args::Build;
use crate::cli::printer::Printer;
use crate::cli::{Failure, Host, Load, Which};
use crate::config::Given;
use crate::image::make::{Builder, Made};
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
    let load = Load {
        file: args.file,
        which: match args.environment {
            Some(name) => Which::Named(name),
            None => Which::All,
        },
        root_dir: args.choice.root_dir,
        copy_style: args.choice.copy_style,
    };
    let mut request = host.load(&load, &settings)?;
    for text in &args.image {
        name_image(&mut request, text);
    }
    let server = host.server(settings, printer.reporter())?;
    let mut order = Order::of(request.apps, request.source, request.options.copy_style);
    order.force = args.force;
    order.layout = args.layout;
    let made = if args.dry_run {
        host.block(async move { Ok(server.peek(order).await?) })?
    } else {
        host.block(async move { Ok(server.build(order).await?) })?
    };
    if printer.is_json() {
        let documents: serde_json::Map<_, _> = made
            .iter()
            .map(|(app, made)| (app.clone(), document(made, args.dry_run)))
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
            let how = state(&made, args.dry_run).to_owned();
            let by = made.builder.map_or("", Builder::name).to_owned();
            vec![app, how, by, made.uri]
        })
        .collect();
    printer.table(&["APP", "STATE", "BUILDER", "IMAGE"], &rows);
    Ok(())
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

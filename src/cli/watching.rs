//! How a watch is shown: a line for each roll, and all that is known of one that failed.

use std::sync::Arc;

use serde_json::{Value, json};

use super::args::Output;
use super::commands::describe;
use super::printer::{Printer, duration};
use crate::config::Settings;
use crate::error::{Diagnostic, with_causes};
use crate::serve::App;
use crate::serve::watch::{Change, Happening, Teller};

/// For the command line, whose result is the endpoint.
pub fn for_command_line(printer: &Printer) -> Teller {
    let printer = printer.clone();
    Arc::new(move |happening| match happening {
        happening if printer.is_json() => printer.json_line(&document(&printer, happening)),
        Happening::Serving(app) => printer.line(&app.endpoint()),
        happening => show(&printer, happening),
    })
}

/// For calls from Python, which have nowhere else to show the endpoint.
pub fn for_library() -> Teller {
    let printer = Printer::new(Output::Table);
    Arc::new(move |happening| show(&printer, happening))
}

/// What is said when Ctrl-C ends a watch.
pub fn farewell(printer: &Printer, app: &App, settings: &Settings) {
    let id = app.id();
    let command = stopping(&id.name, &id.project, &id.domain, settings);
    printer.note(&format!(
        "no longer watching; `{}` goes on at {}, and `{command}` stops it",
        id.name,
        app.endpoint()
    ));
}

/// The command that stops an app, where these settings are in force.
pub fn stopping(name: &str, project: &str, domain: &str, settings: &Settings) -> String {
    let mut command = format!("flyte update app {name} --deactivate");
    for (option, value, default) in [
        ("--project", project, settings.project.as_str()),
        ("--domain", domain, settings.domain.as_str()),
    ] {
        if value != default {
            command = format!("{command} {option} {value}");
        }
    }
    command
}

fn show(printer: &Printer, happening: Happening) {
    match happening {
        Happening::Serving(app) => {
            printer.happened(
                true,
                &format!("`{}` answers at {}", app.name(), app.endpoint()),
            );
        }
        Happening::Rolled { change, app, took } => {
            let text = format!(
                "{}: revision {} is ACTIVE  ({})",
                described(&change, "served again"),
                app.revision(),
                duration(took)
            );
            printer.happened(true, &text);
        }
        Happening::Failed {
            change,
            error,
            took,
            keeps,
        } => {
            let keeps = keeps.map_or_else(
                || "not up".to_owned(),
                |revision| format!("the previous revision {revision} keeps serving"),
            );
            let text = format!(
                "{}: {keeps}  ({})",
                described(&change, "first start"),
                duration(took)
            );
            printer.happened(false, &text);
            printer.error(
                error.code(),
                &with_causes(&error),
                &error.log_tail(),
                &error.hints(),
            );
        }
        Happening::Unread { reason, output } => {
            printer.note(&format!("note: {reason}; what was declared before holds"));
            printer.quoted(&output);
        }
        Happening::Note(text) => printer.note(&format!("note: {text}")),
    }
}

/// What has changed, or what else is to be said where nothing has.
fn described(change: &Change, otherwise: &str) -> String {
    if change.is_empty() {
        otherwise.to_owned()
    } else {
        change.describe()
    }
}

fn document(printer: &Printer, happening: Happening) -> Value {
    match happening {
        Happening::Serving(app) => {
            let mut document = describe(&app);
            document["steps"] = printer.steps().into();
            document
        }
        Happening::Rolled { change, app, took } => {
            let mut document = of_change(&change);
            document["status"] = "ACTIVE".into();
            document["revision"] = app.revision().into();
            document["endpoint"] = app.endpoint().into();
            document["seconds"] = took.as_secs_f64().into();
            document
        }
        Happening::Failed {
            change,
            error,
            took,
            keeps,
        } => {
            let mut document = of_change(&change);
            document["status"] = "FAILED".into();
            document["serving_revision"] = keeps.into();
            document["seconds"] = took.as_secs_f64().into();
            document["error"] = json!({
                "code": error.code().as_str(),
                "message": with_causes(&error),
                "log": error.log_tail(),
                "hints": error.hints(),
            });
            document
        }
        Happening::Unread { reason, output } => json!({"unread": reason, "output": output}),
        Happening::Note(text) => json!({"note": text}),
    }
}

fn of_change(change: &Change) -> Value {
    json!({
        "declared": change.declared,
        "changed": change.changed,
        "added": change.added,
        "removed": change.removed,
    })
}

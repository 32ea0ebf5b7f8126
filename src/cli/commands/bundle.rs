//! `flyte bundle`: what a code bundle holds, and why. Nothing is packed or sent.

use std::path::{Path, PathBuf};

use crate::bundle::{self, FileList, Outcome, Selection};
use crate::cli::args::{Bundle, BundleWhat, Choice};
use crate::cli::printer::Printer;
use crate::cli::{Failure, Host, Load, sought};
use crate::config::Given;
use crate::files;
use crate::serve::bundling::{counted, selection, size};
use crate::spec::CopyStyle;

pub fn run(host: &impl Host, printer: &Printer, given: Given, args: Bundle) -> Result<(), Failure> {
    match args.what {
        BundleWhat::Ls {
            file,
            environment,
            choice,
        } => {
            let file = sought::one(printer, file, "listing for")?;
            let selection = of_app(host, printer, &given, file, environment, choice)?;
            list(printer, &bundle::choose(&selection)?);
            Ok(())
        }
        BundleWhat::Why {
            path,
            file,
            environment,
            choice,
        } => {
            // Loading the file may change the working directory.
            let path = std::path::absolute(&path).map_err(files::Error::io("resolve", &path))?;
            let selection = match file {
                Some(file) => of_app(host, printer, &given, file, environment, choice)?,
                None => of_folder(choice)?,
            };
            why(printer, &selection, &path)
        }
    }
}

/// What serving the app chooses from.
fn of_app(
    host: &impl Host,
    printer: &Printer,
    given: &Given,
    file: PathBuf,
    environment: Option<String>,
    choice: Choice,
) -> Result<Selection, Failure> {
    let load = Load {
        file,
        which: environment.into(),
        root_dir: choice.root_dir,
        copy_style: choice.copy_style,
        again: false,
        watched: false,
        verbose: printer.is_verbose(),
    };
    let request = host.load(&load, &host.settings(given)?)?;
    let style = request.options.copy_style;
    Ok(selection(&request.source, style, &request.apps))
}

/// All files of a folder, as copy style `all` chooses them.
fn of_folder(choice: Choice) -> Result<Selection, Failure> {
    if let Some(style) = choice.copy_style.filter(|style| style != "all") {
        return Err(Failure::Usage(format!(
            "`--copy-style {style}` needs the file of an app: `flyte bundle why PATH FILE`"
        )));
    }
    Ok(Selection {
        root: choice.root_dir.unwrap_or_else(|| PathBuf::from(".")),
        style: CopyStyle::All,
        modules: Vec::new(),
        installed: Vec::new(),
        source_roots: Vec::new(),
        include: Vec::new(),
    })
}

fn list(printer: &Printer, list: &FileList) {
    if printer.is_json() {
        let files: Vec<serde_json::Value> = list
            .files()
            .iter()
            .map(|file| {
                serde_json::json!({
                    "name": file.name,
                    "bytes": file.size,
                    "executable": file.executable,
                })
            })
            .collect();
        printer.json(&serde_json::json!({
            "root": list.root(),
            "count": files.len(),
            "bytes": list.total_bytes(),
            "files": files,
            "warnings": list.warnings(),
        }));
        return;
    }
    let rows: Vec<Vec<String>> = list
        .files()
        .iter()
        .map(|file| vec![size(file.size), file.name.to_string()])
        .collect();
    printer.table(&["SIZE", "NAME"], &rows);
    let (count, total) = (counted(list.files().len()), size(list.total_bytes()));
    printer.line(&format!(
        "{count}, {total}, from `{}`",
        list.root().display()
    ));
    for warning in list.warnings() {
        printer.note(&format!("note: {warning}"));
    }
}

fn why(printer: &Printer, selection: &Selection, path: &Path) -> Result<(), Failure> {
    let answer = bundle::explain(selection, path)?;
    if printer.is_json() {
        let (files, bytes) = match answer.outcome {
            Outcome::Taken { bytes, .. } => (1, bytes),
            Outcome::Folder { files, bytes } => (files, bytes),
            Outcome::LeftOut { .. } => (0, 0),
        };
        printer.json(&serde_json::json!({
            "name": answer.name,
            "taken": answer.is_taken(),
            "reason": answer.reason(),
            "files": files,
            "bytes": bytes,
        }));
    } else {
        printer.line(&answer.to_string());
    }
    Ok(())
}

//! `flyte create config` and `flyte get config`.

use std::path::PathBuf;

use crate::cli::args::Scope;
use crate::cli::printer::Printer;
use crate::cli::{Failure, Host};
use crate::config::{self, Given};

/// What `flyte create config` was told.
pub struct New {
    pub file: PathBuf,
    pub force: bool,
    pub ca_cert_file: Option<String>,
    pub registry: Option<String>,
    pub scope: Scope,
}

pub fn create(printer: &Printer, mut given: Given, new: New) -> Result<(), Failure> {
    let New {
        file,
        force,
        ca_cert_file,
        registry,
        scope,
    } = new;
    given.ca_file = ca_cert_file;
    given.image_registry = registry;
    given.project = scope.project;
    given.domain = scope.domain;
    config::write(&file, &given, force)?;
    if printer.is_json() {
        printer.json(&serde_json::json!({"file": file}));
    } else {
        printer.line(&file.display().to_string());
    }
    Ok(())
}

/// Shows every setting that somebody said something about, and who did.
pub fn show(
    host: &impl Host,
    printer: &Printer,
    mut given: Given,
    scope: &Scope,
) -> Result<(), Failure> {
    given.project.clone_from(&scope.project);
    given.domain.clone_from(&scope.domain);
    let settings = host.settings(&given)?;
    if printer.is_json() {
        let rows: Vec<serde_json::Value> = settings
            .entries
            .iter()
            .map(|entry| {
                serde_json::json!({
                    "key": entry.key,
                    "value": entry.value,
                    "source": entry.origin.to_string(),
                })
            })
            .collect();
        printer.json(&rows.into());
        return Ok(());
    }
    let rows: Vec<Vec<String>> = settings
        .entries
        .iter()
        .map(|entry| {
            vec![
                entry.key.to_owned(),
                entry.value.clone(),
                entry.origin.to_string(),
            ]
        })
        .collect();
    printer.table(&["KEY", "VALUE", "SOURCE"], &rows);
    printer.note(&settings.describe());
    Ok(())
}

//! What Python asks of apps that exist, read and checked.

use std::collections::HashMap;

use pyo3::prelude::*;

use super::error::mistake;
use crate::error::did_you_mean;
use crate::wire::app::status::DeploymentStatus;
use crate::wire::{app, status};

/// What `listall` was asked for.
pub struct Wanted {
    pub created_by: Option<String>,
    pub sort_by: Option<(String, bool)>,
    pub limit: usize,
    pub states: Vec<DeploymentStatus>,
}

impl Wanted {
    pub fn read(
        created_by: Option<String>,
        sort_by: Option<(String, String)>,
        limit: usize,
        in_status: Option<InStatus>,
    ) -> PyResult<Self> {
        let sort_by = sort_by.map(|(field, order)| match order.as_str() {
            "asc" => Ok((field, true)),
            "desc" => Ok((field, false)),
            other => Err(mistake(format!(
                "sort_by has the order `{other}`; it takes \"asc\" or \"desc\""
            ))),
        });
        let names = match in_status {
            Some(InStatus::One(name)) => vec![name],
            Some(InStatus::Several(names)) => names,
            None => Vec::new(),
        };
        Ok(Self {
            created_by,
            sort_by: sort_by.transpose()?,
            limit,
            states: names
                .iter()
                .map(|name| state(name))
                .collect::<PyResult<_>>()?,
        })
    }
}

/// `"active"`, or several.
#[derive(FromPyObject)]
pub enum InStatus {
    One(String),
    Several(Vec<String>),
}

fn state(name: &str) -> PyResult<DeploymentStatus> {
    status::state_named(name).ok_or_else(|| {
        let known: Vec<String> = status::state_names().collect();
        let close = did_you_mean(name, known.iter().map(String::as_str));
        let hint = close.map_or_else(
            || format!("it is one of {}", known.join(", ")),
            |close| format!("did you mean `{close}`?"),
        );
        mistake(format!("in_status names no state `{name}`; {hint}"))
    })
}

/// A spec in one of the forms that Python has it in.
pub fn spec_of(value: &Bound<'_, PyAny>) -> PyResult<app::Spec> {
    let wrong = |error: &dyn std::fmt::Display| {
        mistake(format!("updated_app_spec is not a spec of an app: {error}"))
    };
    if let Ok(bytes) = value.call_method0("SerializeToString") {
        let bytes: Vec<u8> = bytes.extract()?;
        return buffa::Message::decode_from_slice(&bytes).map_err(|error| wrong(&error));
    }
    let json = value.py().import("json")?.call_method1("dumps", (value,))?;
    serde_json::from_str(json.extract::<&str>()?).map_err(|error| wrong(&error))
}

/// What `replace` was asked for.
pub struct Replacement {
    pub name: String,
    pub spec: app::Spec,
    pub reason: String,
    pub labels: Option<HashMap<String, String>>,
}

//! The boundary to Python: the only module that names `pyo3`.
//!
//! Each file converts, calls one function of the core and converts back. What Python must never
//! see (runtimes, messages of the wire) stays below; what the core must never see (interpreters,
//! references) stays here.

#![expect(
    clippy::doc_link_with_quotes,
    clippy::doc_markdown,
    reason = "what Python shows as help is written as Python is, and is no Markdown"
)]

mod app;
mod asked;
mod card;
mod command_line;
mod context;
mod convert;
mod error;
mod image;
mod logs;
mod replica;
mod runtime;
mod settings;
mod source;
mod storage;
mod watch;

use pyo3::prelude::*;

/// `flyte._native`.
#[pymodule(gil_used = false)]
#[pyo3(name = "_native")]
fn native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    runtime::register(module)?;
    settings::register(module)?;
    app::register(module)?;
    logs::register(module)?;
    context::register(module)?;
    image::register(module)?;
    replica::register(module)?;
    storage::register(module)?;
    command_line::register(module)
}

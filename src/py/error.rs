//! One way from our errors to exceptions of `flyte.errors`.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::{Diagnostic, Retry, with_causes};

/// The exception that tells `error`, of the class that its code's family names.
pub fn to_python(error: &dyn Diagnostic) -> PyErr {
    Python::attach(|py| match exception(py, error) {
        Ok(exception) => PyErr::from_value(exception),
        // `flyte.errors` cannot be imported; that is the more basic trouble.
        Err(trouble) => trouble,
    })
}

fn exception<'py>(py: Python<'py>, error: &dyn Diagnostic) -> PyResult<Bound<'py, PyAny>> {
    let code = error.code();
    let text = with_causes(error);
    let mut parts = text.split("\nCaused by: ");
    let message = parts.next().unwrap_or_default();
    let causes: Vec<&str> = parts.collect();
    py.import("flyte.errors")?
        .getattr(code.exception())?
        .call1((
            message,
            code.as_str(),
            PyTuple::new(py, error.hints())?,
            PyTuple::new(py, causes)?,
            error.retry() == Retry::Maybe,
            error.request_id(),
            PyTuple::new(py, error.log_tail())?,
        ))
}

/// A value that cannot be used: a `ConfigError`, which is a `ValueError`.
pub fn mistake(message: impl Into<String>) -> PyErr {
    declared("mistake", message.into())
}

/// A value of another type: a `ConfigError` that is a `TypeError` as well.
pub fn wrong_type(message: impl Into<String>) -> PyErr {
    declared("wrong_type", message.into())
}

fn declared(kind: &str, message: String) -> PyErr {
    let made = Python::attach(|py| {
        let exception = py
            .import("flyte._mistake")?
            .getattr(kind)?
            .call1((message,))?;
        Ok(PyErr::from_value(exception))
    });
    made.unwrap_or_else(|trouble: PyErr| trouble)
}

/// Turns a result of the core into one of Python.
pub trait IntoPy<T> {
    fn into_py(self) -> PyResult<T>;
}

impl<T, E: Diagnostic> IntoPy<T> for Result<T, E> {
    fn into_py(self) -> PyResult<T> {
        self.map_err(|error| to_python(&error))
    }
}

//! Files and folders of stores, for `flyte.io`.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyFileNotFoundError;
use pyo3::prelude::*;

use super::error::{IntoPy, to_python};
use super::runtime;
use crate::error::Diagnostic;
use crate::storage::{Carrier, Error, Reading};

/// With the variables of this process as they are now: credentials may have come meanwhile.
fn carrier() -> PyResult<Carrier> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    // Nobody asked for progress, and copies that users made are theirs to write into.
    Carrier::new(variables, None, Arc::new(|_: &str| {})).into_py()
}

/// What Python programs expect of something that is not there, and our own exceptions otherwise.
fn told(error: Error) -> PyErr {
    match &error {
        Error::NotFound { .. } => {
            let words = std::iter::once(error.to_string()).chain(error.hints());
            PyFileNotFoundError::new_err(words.collect::<Vec<_>>().join("; "))
        }
        _ => to_python(&error),
    }
}

async fn fetched(url: String, target: PathBuf, is_folder: bool) -> PyResult<()> {
    let carrier = carrier()?;
    if is_folder {
        carrier.folder(&url, &url, &target, &|_| true).await
    } else {
        carrier.file(&url, &url, &target).await
    }
    .map_err(told)
}

/// Fetch a file or a folder of a store.
///
/// Args:
///     url: address of the file, or what the names of the folder's files begin with.
///     target: where the file is put, which must not exist; or an empty folder.
///     is_folder: whether it is a folder.
///
/// Raises:
///     FileNotFoundError: it is not there.
///     flyte.errors.Error: it did not arrive whole.
///
/// Example:
///     >>> storage_fetch("s3://bucket/model.bin", "/tmp/model.bin", False)  # doctest: +SKIP
#[pyfunction]
fn storage_fetch(py: Python<'_>, url: String, target: PathBuf, is_folder: bool) -> PyResult<()> {
    runtime::block(py, fetched(url, target, is_folder))
}

/// Do what `storage_fetch` does, as an `asyncio` future.
#[pyfunction]
fn storage_fetch_async(
    py: Python<'_>,
    url: String,
    target: PathBuf,
    is_folder: bool,
) -> PyResult<Bound<'_, PyAny>> {
    runtime::future(py, fetched(url, target, is_folder))
}

/// List the files of a folder of a store, sorted.
///
/// Args:
///     url: what their names begin with.
///
/// Returns:
///     Their paths below it.
///
/// Raises:
///     FileNotFoundError: there are none.
///     flyte.errors.Error: it cannot be listed.
///
/// Example:
///     >>> storage_list("s3://bucket/data")     # doctest: +SKIP
///     ['a.csv', 'more/b.csv']
#[pyfunction]
fn storage_list(py: Python<'_>, url: String) -> PyResult<Vec<String>> {
    let found = runtime::block(py, async { carrier()?.list(&url).await.map_err(told) })?;
    Ok(found.into_iter().map(|object| object.relative).collect())
}

async fn sent(path: PathBuf, url: String, is_folder: bool) -> PyResult<()> {
    let carrier = carrier()?;
    if is_folder {
        carrier.send_folder(&path, &url).await
    } else {
        carrier.send(&path, &url).await
    }
    .map_err(told)
}

/// Put a file or a folder of this machine into a store, over what is there.
///
/// Args:
///     path: the file or the folder.
///     url: its address there.
///     is_folder: whether it is a folder.
///
/// Raises:
///     flyte.errors.Error: it did not arrive; what was there before is still there.
///
/// Example:
///     >>> storage_send("/tmp/out.csv", "s3://bucket/out.csv", False)   # doctest: +SKIP
#[pyfunction]
fn storage_send(py: Python<'_>, path: PathBuf, url: String, is_folder: bool) -> PyResult<()> {
    runtime::block(py, sent(path, url, is_folder))
}

/// Do what `storage_send` does, as an `asyncio` future.
#[pyfunction]
fn storage_send_async(
    py: Python<'_>,
    path: PathBuf,
    url: String,
    is_folder: bool,
) -> PyResult<Bound<'_, PyAny>> {
    runtime::future(py, sent(path, url, is_folder))
}

/// A file of a store that is read piece by piece; made by `storage_open`.
///
/// Example:
///     >>> storage_open("s3://bucket/model.bin").read(0, 80)    # doctest: +SKIP
#[pyclass(module = "flyte._native", frozen)]
struct StorageReading {
    carrier: Carrier,
    reading: Reading,
}

#[pymethods]
impl StorageReading {
    /// Its size in bytes; `None` where the server cannot send a part of it.
    #[getter]
    fn size(&self) -> Option<u64> {
        self.reading.size()
    }

    /// Return at most `count` bytes from `start` on; fewer at the end.
    fn read<'py>(
        &self,
        py: Python<'py>,
        start: u64,
        count: u64,
    ) -> PyResult<Bound<'py, pyo3::types::PyBytes>> {
        let read = async {
            let read = self.reading.read(&self.carrier, start, count).await;
            read.map_err(told)
        };
        let bytes = runtime::block(py, read)?;
        Ok(pyo3::types::PyBytes::new(py, &bytes))
    }
}

/// Open a file of a store to read parts of it.
///
/// Args:
///     url: its address.
///
/// Returns:
///     What reads it.
///
/// Raises:
///     FileNotFoundError: it is not there.
///     flyte.errors.Error: it cannot be read.
///
/// Example:
///     >>> storage_open("s3://bucket/model.bin").size           # doctest: +SKIP
///     4096
#[pyfunction]
fn storage_open(py: Python<'_>, url: String) -> PyResult<StorageReading> {
    runtime::block(py, async {
        let carrier = carrier()?;
        let reading = carrier.open(&url).await.map_err(told)?;
        Ok(StorageReading { carrier, reading })
    })
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<StorageReading>()?;
    module.add_function(wrap_pyfunction!(storage_fetch, module)?)?;
    module.add_function(wrap_pyfunction!(storage_fetch_async, module)?)?;
    module.add_function(wrap_pyfunction!(storage_list, module)?)?;
    module.add_function(wrap_pyfunction!(storage_send, module)?)?;
    module.add_function(wrap_pyfunction!(storage_send_async, module)?)?;
    module.add_function(wrap_pyfunction!(storage_open, module)?)
}

//! `flyte.build` and `flyte.build_images`: images alone, without an app.

use std::collections::BTreeMap;

use pyo3::prelude::*;

use super::context::ServeContext;
use super::error::{IntoPy, wrong_type};
use super::{convert, runtime, settings};
use crate::cli::printer;
use crate::config::Given;
use crate::serve::imaging::Order;
use crate::serve::{Options, Server};
use crate::spec::ImageSpec;

/// Under which an image is built that no app wants yet.
const ALONE: &str = "image";

/// Return the tag that an image's content leads to, for `Image.uri`.
///
/// Args:
///     image: a `flyte.Image`.
///
/// Raises:
///     flyte.errors.Error: the declaration cannot be used, or a file that it names not be read.
///
/// Example:
///     >>> len(image_tag(flyte.Image.from_debian_base()))      # doctest: +SKIP
///     32
#[pyfunction]
fn image_tag(py: Python<'_>, image: &Bound<'_, PyAny>) -> PyResult<String> {
    let image = crate::image::make::for_this_machine(convert::image(image)?);
    // It reads all files of the image, which may take a while.
    let hash = py.detach(|| crate::image::content_hash(&image)).into_py()?;
    Ok(hash.tag().to_owned())
}

/// Build an image where it is missing and return its URI.
///
/// Args:
///     image: a `flyte.Image`, or the URI of one, which is returned as it is.
///     dry_run: build nothing.
///     force: build even what is there, and resolve versions again.
///
/// Raises:
///     flyte.errors.BuildError: the image cannot be built; says why.
///     flyte.errors.ConfigError: the declaration cannot be used.
///
/// Example:
///     >>> build_image(flyte.Image.from_debian_base(), dry_run=False, force=False)     # doctest: +SKIP
///     'env.flyte.local/flyte:...'
#[pyfunction]
fn build_image(
    py: Python<'_>,
    image: &Bound<'_, PyAny>,
    dry_run: bool,
    force: bool,
) -> PyResult<String> {
    let (server, order) = one(py, image, force)?;
    Ok(only(runtime::block(py, build(server, order, dry_run))?))
}

/// As `build_image`, without blocking the running event loop.
#[pyfunction]
fn build_image_async<'py>(
    py: Python<'py>,
    image: &Bound<'py, PyAny>,
    dry_run: bool,
    force: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let (server, order) = one(py, image, force)?;
    runtime::future(
        py,
        async move { Ok(only(build(server, order, dry_run).await?)) },
    )
}

/// Build the images of apps, and of those that they depend on, and return the URI of each.
///
/// Args:
///     envs: the app environments.
///     copy_style: with `"none"` the code becomes part of images that have `with_code_bundle`.
///
/// Raises:
///     flyte.errors.BuildError: an image cannot be built; says why.
///     flyte.errors.ConfigError: a declaration cannot be used.
///
/// Example:
///     >>> build_images([env], "loaded_modules")   # doctest: +SKIP
///     {'my-app': 'env.flyte.local/flyte:...'}
#[pyfunction]
fn build_images(
    py: Python<'_>,
    envs: Vec<Bound<'_, PyAny>>,
    copy_style: &str,
) -> PyResult<BTreeMap<String, String>> {
    let (server, order) = all(py, &envs, copy_style)?;
    runtime::block(py, build(server, order, false))
}

/// As `build_images`, without blocking the running event loop.
#[pyfunction]
fn build_images_async<'py>(
    py: Python<'py>,
    envs: Vec<Bound<'py, PyAny>>,
    copy_style: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let (server, order) = all(py, &envs, copy_style)?;
    runtime::future(py, build(server, order, false))
}

fn one(py: Python<'_>, image: &Bound<'_, PyAny>, force: bool) -> PyResult<(Server, Order)> {
    let image = match image.extract::<String>() {
        Ok(uri) => ImageSpec::Uri(uri),
        Err(_) if image.hasattr("_layers")? => convert::image(image)?.into(),
        Err(_) => {
            return Err(wrong_type(format!(
                "build takes a flyte.Image, not {}",
                image.get_type().name()?
            )));
        }
    };
    let order = Order {
        images: vec![(ALONE.to_owned(), image)],
        root: std::env::current_dir().ok(),
        force,
        ..Order::default()
    };
    Ok((server(py)?, order))
}

fn only(uris: BTreeMap<String, String>) -> String {
    uris.into_values().next().unwrap_or_default()
}

fn all<'py>(
    py: Python<'py>,
    envs: &[Bound<'py, PyAny>],
    copy_style: &str,
) -> PyResult<(Server, Order)> {
    let server = server(py)?;
    let options = Options {
        copy_style: convert::copy_style(copy_style)?,
        ..Options::default()
    };
    if envs.is_empty() {
        return Ok((server, Order::default()));
    }
    let style = options.copy_style;
    let context = ServeContext::from_options(options);
    let request = context.request(py, envs, &server.settings)?;
    Ok((server, Order::of(request.apps, request.source, style)))
}

fn server(py: Python<'_>) -> PyResult<Server> {
    let resolved = settings::resolve(&Given::default())?;
    settings::server(py, resolved, printer::for_library())
}

async fn build(server: Server, order: Order, dry_run: bool) -> PyResult<BTreeMap<String, String>> {
    let made = if dry_run {
        server.peek(order).await.into_py()?
    } else {
        server.build(order).await.into_py()?
    };
    Ok(made
        .into_iter()
        .map(|(name, made)| (name, made.uri))
        .collect())
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(image_tag, module)?)?;
    module.add_function(wrap_pyfunction!(build_image, module)?)?;
    module.add_function(wrap_pyfunction!(build_image_async, module)?)?;
    module.add_function(wrap_pyfunction!(build_images, module)?)?;
    module.add_function(wrap_pyfunction!(build_images_async, module)?)
}

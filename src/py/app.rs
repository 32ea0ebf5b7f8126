//! `App`: a served app in Python's hand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::asked::{InStatus, Replacement, Wanted, spec_of};
use super::error::{IntoPy, mistake, to_python};
use super::logs::LogLines;
use super::{runtime, settings};
use crate::cli::printer;
use crate::client::{Client, Listing};
use crate::config::Given;
use crate::serve::platform::OtherBuild;
use crate::serve::{self, Server, platform};
use crate::sys;
use crate::wire::{identifier, status};

/// How long a question about an app's state may take.
const PROBE: Duration = Duration::from_secs(5);

/// An app on a platform, as `flyte.serve` returns it.
///
/// The properties tell what was last known and ask nobody. Methods ask the platform; each has a
/// form to await, `app.activate.aio(...)` beside `app.activate(...)`. An app that was served by
/// another program is found with `App.get`.
///
/// Example:
///     >>> app = flyte.serve(env)              # doctest: +SKIP
///     >>> app.endpoint                        # doctest: +SKIP
///     'http://localhost:24817'
///     >>> app.deactivate(wait=True)           # doctest: +SKIP
///     App(name='hello', status=stopped, revision=1, endpoint='http://localhost:24817')
#[pyclass(module = "flyte.remote", frozen, name = "App")]
pub struct App {
    inner: Arc<serve::App>,
}

impl From<serve::App> for App {
    fn from(app: serve::App) -> Self {
        Self {
            inner: Arc::new(app),
        }
    }
}

impl From<Arc<serve::App>> for App {
    fn from(inner: Arc<serve::App>) -> Self {
        Self { inner }
    }
}

impl App {
    /// What Python holds.
    pub fn inner(&self) -> &serve::App {
        &self.inner
    }

    fn handle(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

/// The app of that name on the control plane of `server`.
pub async fn existing(server: &Server, name: &str) -> PyResult<serve::App> {
    let settings = &server.settings;
    let (client, console) = connected(server).await?;
    let id = identifier(&settings.org, &settings.project, &settings.domain, name);
    serve::App::get(client, console, &id).await.into_py()
}

/// The control plane and where its pages are.
///
/// An app asks the platform that runs it. It must never start one, and least of all replace the
/// one it runs on because its copy of the SDK looks like another build.
async fn connected(server: &Server) -> PyResult<(Client, String)> {
    let settings = &server.settings;
    let client = if settings::in_replica() {
        platform::reach(settings).await.into_py()?
    } else {
        platform::connect(settings, &server.launcher, OtherBuild::Use, &|_| {})
            .await
            .into_py()?
    };
    let place = platform::place(settings, &client, &server.launcher.build).await;
    Ok((client, place.console))
}

async fn replace(server: &Server, wanted: Replacement) -> PyResult<App> {
    let settings = &server.settings;
    let (client, console) = connected(server).await?;
    let id = identifier(
        &settings.org,
        &settings.project,
        &settings.domain,
        &wanted.name,
    );
    let labels = wanted.labels.map(|labels| labels.into_iter().collect());
    let Replacement { spec, reason, .. } = wanted;
    let replaced = serve::App::replace(client, console, &id, spec, labels, &reason);
    Ok(Box::pin(replaced).await.into_py()?.into())
}

async fn all(server: &Server, wanted: Wanted) -> PyResult<Vec<App>> {
    let settings = &server.settings;
    let (client, console) = connected(server).await?;
    let listing = Listing {
        org: &settings.org,
        project: &settings.project,
        domain: &settings.domain,
        states: wanted.states,
        created_by: wanted.created_by,
        sort_by: wanted.sort_by,
        limit: wanted.limit,
    };
    let apps = client.list(&listing).await.into_py()?;
    Ok(apps
        .into_iter()
        .map(|app| serve::App::listed(client.clone(), console.clone(), app).into())
        .collect())
}

fn server_of(py: Python<'_>, project: Option<String>, domain: Option<String>) -> PyResult<Server> {
    let settings = settings::resolve(&Given {
        project,
        domain,
        ..Given::default()
    })?;
    settings::server(py, settings, printer::silent())
}

async fn probe(app: Arc<serve::App>) -> PyResult<i32> {
    match tokio::time::timeout(PROBE, app.refresh()).await {
        Ok(state) => Ok(buffa::Enumeration::to_i32(&state.into_py()?)),
        Err(_) => Ok(buffa::Enumeration::to_i32(&app.deployment_status())),
    }
}

async fn settle(app: Arc<serve::App>, wait_for: String) -> PyResult<App> {
    let timeout = Duration::from_secs(24 * 3600);
    match wait_for.as_str() {
        "activated" => {
            app.refresh().await.into_py()?;
            app.wait_until_active(timeout, |_| {}).await.into_py()?;
        }
        "deactivated" => app.wait_until_deactivated(timeout).await.into_py()?,
        other => {
            return Err(mistake(format!(
                "wait_for is `{other}`; it takes \"activated\" or \"deactivated\""
            )));
        }
    }
    Ok(App { inner: app })
}

#[pymethods]
impl App {
    /// Name of the app, unique in its project and domain.
    #[getter]
    fn name(&self) -> String {
        self.inner.name()
    }

    /// Project that the app is in.
    #[getter]
    fn project(&self) -> String {
        self.inner.id().project
    }

    /// Domain that the app is in, such as `development`.
    #[getter]
    fn domain(&self) -> String {
        self.inner.id().domain
    }

    /// URL of the app's page on the platform, for people; empty after a dry run.
    #[getter]
    fn url(&self) -> String {
        self.inner.url()
    }

    /// URL at which the app answers requests; the same for as long as the app exists.
    #[getter]
    fn endpoint(&self) -> String {
        self.inner.endpoint()
    }

    /// How often the app was changed by serving it; 1 at first, 0 after a dry run.
    #[getter]
    fn revision(&self) -> u64 {
        self.inner.revision()
    }

    /// What the app was doing when the platform was last asked; see `is_active` to ask anew.
    #[getter]
    fn deployment_status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let number = buffa::Enumeration::to_i32(&self.inner.deployment_status());
        py.import("flyte.remote._status")?
            .getattr("DeploymentStatus")?
            .call1((number,))
    }

    /// What the app was last told to be doing.
    #[getter]
    fn desired_state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let number = buffa::Enumeration::to_i32(&self.inner.desired_state());
        py.import("flyte.remote._status")?
            .getattr("DesiredState")?
            .call1((number,))
    }

    /// Return the app as last seen, in the protocol's JSON form.
    ///
    /// Example:
    ///     >>> json.loads(app.to_json())["metadata"]["id"]["name"]     # doctest: +SKIP
    ///     'hello'
    fn to_json(&self) -> PyResult<String> {
        serde_json::to_string(&self.inner.known())
            .map_err(|error| PyValueError::new_err(error.to_string()))
    }

    fn _probe(&self, py: Python<'_>) -> PyResult<i32> {
        runtime::block(py, probe(Arc::clone(&self.inner)))
    }

    fn _probe_async<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        runtime::future(py, probe(Arc::clone(&self.inner)))
    }

    /// Let a deactivated app run again; an app that runs is left alone.
    ///
    /// Args:
    ///     wait: return when the app answers requests, after `activate_timeout` seconds at most.
    ///
    /// Returns:
    ///     The same app.
    ///
    /// Raises:
    ///     flyte.errors.AppError: with `wait`, the app did not come up; has its last log lines.
    ///     flyte.errors.TimeoutError: with `wait`, the time is over.
    ///     flyte.errors.NotFoundError: the app was deleted.
    ///
    /// Example:
    ///     >>> app.activate(wait=True).is_active()     # doctest: +SKIP
    ///     True
    #[pyo3(signature = (wait=false))]
    fn activate(&self, py: Python<'_>, wait: bool) -> PyResult<App> {
        let app = self.handle();
        runtime::block(py, async move {
            app.inner.activate(wait).await.into_py()?;
            Ok(app)
        })
    }

    #[pyo3(signature = (wait=false))]
    fn activate_async<'py>(&self, py: Python<'py>, wait: bool) -> PyResult<Bound<'py, PyAny>> {
        let app = self.handle();
        runtime::future(py, async move {
            app.inner.activate(wait).await.into_py()?;
            Ok(app)
        })
    }

    /// Put the app to rest: no process of it runs until `activate`, its endpoint stays its own.
    ///
    /// Args:
    ///     wait: return when its processes have ended, after `deactivate_timeout` seconds at most.
    ///
    /// Returns:
    ///     The same app.
    ///
    /// Raises:
    ///     flyte.errors.TimeoutError: with `wait`, the time is over.
    ///     flyte.errors.NotFoundError: the app was deleted.
    ///
    /// Example:
    ///     >>> app.deactivate(wait=True).is_deactivated()      # doctest: +SKIP
    ///     True
    #[pyo3(signature = (wait=false))]
    fn deactivate(&self, py: Python<'_>, wait: bool) -> PyResult<App> {
        let app = self.handle();
        runtime::block(py, async move {
            app.inner.deactivate(wait).await.into_py()?;
            Ok(app)
        })
    }

    #[pyo3(signature = (wait=false))]
    fn deactivate_async<'py>(&self, py: Python<'py>, wait: bool) -> PyResult<Bound<'py, PyAny>> {
        let app = self.handle();
        runtime::future(py, async move {
            app.inner.deactivate(wait).await.into_py()?;
            Ok(app)
        })
    }

    /// Wait for the app to reach a state, however long that takes (a day at most).
    ///
    /// Args:
    ///     wait_for: `"activated"` or `"deactivated"`.
    ///
    /// Returns:
    ///     The same app.
    ///
    /// Raises:
    ///     ValueError: another word in `wait_for`.
    ///     flyte.errors.AppError: the app failed, or was deactivated or deleted meanwhile.
    ///
    /// Example:
    ///     >>> app.activate().watch("activated")       # doctest: +SKIP
    ///     App(name='hello', status=active, revision=1, endpoint='http://localhost:24817')
    #[pyo3(signature = (wait_for="activated"))]
    fn watch(&self, py: Python<'_>, wait_for: &str) -> PyResult<App> {
        runtime::block(py, settle(Arc::clone(&self.inner), wait_for.to_owned()))
    }

    #[pyo3(signature = (wait_for="activated"))]
    fn watch_async<'py>(&self, py: Python<'py>, wait_for: &str) -> PyResult<Bound<'py, PyAny>> {
        runtime::future(py, settle(Arc::clone(&self.inner), wait_for.to_owned()))
    }

    fn _delete(&self, py: Python<'_>) -> PyResult<()> {
        let app = Arc::clone(&self.inner);
        runtime::block(py, async move { app.delete().await.into_py() })
    }

    fn _delete_async<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let app = Arc::clone(&self.inner);
        // Python gets an empty tuple for `()`; `None` is what is meant.
        runtime::future(py, async move {
            app.delete().await.into_py()?;
            Python::attach(|py| Ok(py.None()))
        })
    }

    /// Return what the app wrote to standard output and standard error, line by line.
    ///
    /// Args:
    ///     follow: go on with new lines until the loop is left.
    ///     tail: begin with this many last lines; with all that are kept when left out.
    ///
    /// Returns:
    ///     An iterator over lines, for `for` as for `async for`; asks when it is first advanced.
    ///
    /// Raises:
    ///     flyte.errors.NotFoundError: the app was deleted; raised by the iterator.
    ///
    /// Example:
    ///     >>> for line in app.logs(tail=10):      # doctest: +SKIP
    ///     ...     print(line)
    #[pyo3(signature = (*, follow=false, tail=None))]
    fn logs(&self, follow: bool, tail: Option<usize>) -> LogLines {
        LogLines::new(Arc::clone(&self.inner), follow, tail)
    }

    fn __repr__(&self) -> String {
        let endpoint = self.inner.endpoint();
        let at = if endpoint.is_empty() {
            String::new()
        } else {
            format!(", endpoint='{endpoint}'")
        };
        format!(
            "App(name='{}', status={}, revision={}{at})",
            self.inner.name(),
            status::short_name(self.inner.deployment_status()),
            self.inner.revision()
        )
    }

    /// Return the app of that name.
    ///
    /// Args:
    ///     name: name of the app.
    ///     project: where it is; the configured project when left out.
    ///     domain: where it is; the configured domain when left out.
    ///
    /// Raises:
    ///     flyte.errors.NotFoundError: there is no such app; names one that is spelled alike.
    ///     flyte.errors.UnavailableError: the platform cannot be reached.
    ///
    /// Example:
    ///     >>> App.get("hello").endpoint       # doctest: +SKIP
    ///     'http://localhost:24817'
    #[staticmethod]
    #[pyo3(signature = (name, project=None, domain=None))]
    fn get(
        py: Python<'_>,
        name: String,
        project: Option<String>,
        domain: Option<String>,
    ) -> PyResult<App> {
        let server = server_of(py, project, domain)?;
        runtime::block(
            py,
            async move { Ok(existing(&server, &name).await?.into()) },
        )
    }

    #[staticmethod]
    #[pyo3(signature = (name, project=None, domain=None))]
    fn get_async(
        py: Python<'_>,
        name: String,
        project: Option<String>,
        domain: Option<String>,
    ) -> PyResult<Bound<'_, PyAny>> {
        let server = server_of(py, project, domain)?;
        runtime::future(
            py,
            async move { Ok(App::from(existing(&server, &name).await?)) },
        )
    }

    /// Return the apps of a project and domain, deactivated ones included.
    ///
    /// Args:
    ///     created_by_subject: only those that this user created.
    ///     sort_by: a field and `"asc"` or `"desc"`. The local platform sorts by `name` (as it does
    ///         when this is left out), `created_at`, `updated_at`, `created_by` and `status_phase`.
    ///     limit: how many at most.
    ///     in_status: only those in this state, or in one of these, such as `"active"`.
    ///     project: the configured project when left out.
    ///     domain: the configured domain when left out.
    ///
    /// Raises:
    ///     ValueError: no such state or order.
    ///     flyte.errors.UnavailableError: the platform cannot be reached.
    ///
    /// Example:
    ///     >>> [app.name for app in App.listall(in_status="active")]       # doctest: +SKIP
    ///     ['hello']
    #[staticmethod]
    #[pyo3(signature = (created_by_subject=None, sort_by=None, limit=100, in_status=None, *, project=None, domain=None))]
    fn listall(
        py: Python<'_>,
        created_by_subject: Option<String>,
        sort_by: Option<(String, String)>,
        limit: usize,
        in_status: Option<InStatus>,
        project: Option<String>,
        domain: Option<String>,
    ) -> PyResult<Vec<App>> {
        let wanted = Wanted::read(created_by_subject, sort_by, limit, in_status)?;
        let server = server_of(py, project, domain)?;
        runtime::block(py, async move { all(&server, wanted).await })
    }

    #[staticmethod]
    #[pyo3(signature = (created_by_subject=None, sort_by=None, limit=100, in_status=None, *, project=None, domain=None))]
    fn listall_async(
        py: Python<'_>,
        created_by_subject: Option<String>,
        sort_by: Option<(String, String)>,
        limit: usize,
        in_status: Option<InStatus>,
        project: Option<String>,
        domain: Option<String>,
    ) -> PyResult<Bound<'_, PyAny>> {
        let wanted = Wanted::read(created_by_subject, sort_by, limit, in_status)?;
        let server = server_of(py, project, domain)?;
        runtime::future(py, async move { all(&server, wanted).await })
    }

    /// Give an app another spec; one that equals the present changes nothing.
    ///
    /// Args:
    ///     name: name of the app.
    ///     updated_app_spec: the whole spec: a dict in the protocol's JSON form, as in
    ///         `app.to_dict()["spec"]`, or a `Spec` message of the package `flyteidl2`.
    ///     reason: recorded by platforms that record reasons.
    ///     labels: instead of the app's labels.
    ///     project: where it is; the configured project when left out.
    ///     domain: where it is; the configured domain when left out.
    ///
    /// Returns:
    ///     The app, which may still be on its way; see `watch`.
    ///
    /// Raises:
    ///     ValueError: that is no spec.
    ///     flyte.errors.NotFoundError: there is no such app.
    ///
    /// Example:
    ///     >>> spec = app.to_dict()["spec"]                        # doctest: +SKIP
    ///     >>> spec["autoscaling"]["replicas"]["max"] = 3          # doctest: +SKIP
    ///     >>> App.replace(app.name, spec, "more traffic")         # doctest: +SKIP
    #[staticmethod]
    #[pyo3(signature = (name, updated_app_spec, reason, labels=None, project=None, domain=None))]
    fn replace(
        py: Python<'_>,
        name: String,
        updated_app_spec: &Bound<'_, PyAny>,
        reason: String,
        labels: Option<HashMap<String, String>>,
        project: Option<String>,
        domain: Option<String>,
    ) -> PyResult<App> {
        let wanted = Replacement {
            name,
            spec: spec_of(updated_app_spec)?,
            reason,
            labels,
        };
        let server = server_of(py, project, domain)?;
        runtime::block(py, async move { Box::pin(replace(&server, wanted)).await })
    }

    #[staticmethod]
    #[pyo3(signature = (name, updated_app_spec, reason, labels=None, project=None, domain=None))]
    fn replace_async<'py>(
        py: Python<'py>,
        name: String,
        updated_app_spec: &Bound<'py, PyAny>,
        reason: String,
        labels: Option<HashMap<String, String>>,
        project: Option<String>,
        domain: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let wanted = Replacement {
            name,
            spec: spec_of(updated_app_spec)?,
            reason,
            labels,
        };
        let server = server_of(py, project, domain)?;
        runtime::future(py, async move { Box::pin(replace(&server, wanted)).await })
    }
}

/// Endpoints do not change while an app exists, and apps ask for them on every request.
static ENDPOINTS: Mutex<Option<HashMap<String, String>>> = Mutex::new(None);

/// Return where the app of that name answers, for `AppEnvironment.endpoint`.
///
/// Raises:
///     flyte.errors.NotFoundError: there is no such app.
///     flyte.errors.UnavailableError: the platform cannot be reached.
///
/// Example:
///     >>> app_endpoint("hello")   # doctest: +SKIP
///     'http://localhost:24817'
#[pyfunction]
fn app_endpoint(py: Python<'_>, name: String) -> PyResult<String> {
    let known = ENDPOINTS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_default()
        .get(&name)
        .cloned();
    if let Some(endpoint) = known {
        return Ok(endpoint);
    }
    let server = server_of(py, None, None)?;
    let endpoint = runtime::block(py, async { Ok(existing(&server, &name).await?.endpoint()) })?;
    if settings::in_replica() {
        ENDPOINTS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_default()
            .insert(name, endpoint.clone());
    }
    Ok(endpoint)
}

/// How long a thread for work that blocks stays without any. They take turns, so that the many that a
/// burst began would stay for as long as there is any work at all, each with memory of its own.
const IDLE_THREAD: Duration = Duration::from_secs(1);

/// Run the local platform in this process until it is told to end.
///
/// Raises:
///     flyte.errors.Error: another process runs it already, or its folder cannot be used.
///
/// Example:
///     >>> run_platform()      # doctest: +SKIP
#[pyfunction]
fn run_platform(py: Python<'_>) -> PyResult<()> {
    sys::share_heap();
    let settings = settings::resolve(&Given {
        endpoint: Some(String::new()),
        ..Given::default()
    })?;
    let launcher = settings::launcher(py)?;
    let toolchain = settings::toolchain(py, settings.home.path())?;
    printer::log_to_stderr();
    py.detach(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_keep_alive(IDLE_THREAD)
            .enable_all()
            .build()?;
        runtime
            .block_on(platform::run(
                toolchain,
                settings.home,
                settings.upkeep,
                launcher,
            ))
            .map_err(|error| to_python(&error))
    })
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<App>()?;
    module.add_function(wrap_pyfunction!(app_endpoint, module)?)?;
    module.add_function(wrap_pyfunction!(run_platform, module)?)
}

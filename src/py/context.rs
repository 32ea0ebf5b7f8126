//! `with_servecontext(...).serve(env)`: options checked once, used as often as one likes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::app::App;
use super::card::Card;
use super::error::{IntoPy, mistake, wrong_type};
use super::source::Program;
use super::watch::{self, Turn};
use super::{convert, runtime, settings};
use crate::cli::printer;
use crate::config::Given;
use crate::serve::watch::Asked;
use crate::serve::{Interactive, Options, Overrides, Request, Server, Source};
use crate::spec::{AppSpec, ParameterValue};
use crate::wire::build::Health;

/// Options of serving, checked once and used for any number of apps, from any thread.
///
/// Made by `flyte.with_servecontext` only.
///
/// Example:
///     >>> staging = flyte.with_servecontext(env_vars={"STAGE": "staging"})
///     >>> apps = [staging.serve(env) for env in (front, back)]    # doctest: +SKIP
#[pyclass(module = "flyte", frozen, name = "ServeContext")]
pub struct ServeContext {
    options: Options,
    mode: Option<String>,
    interactive: Option<bool>,
    watch: bool,
}

/// Where log levels come as numbers, as in `logging`.
fn level(value: Option<Bound<'_, PyAny>>, argument: &str) -> PyResult<Option<String>> {
    let Some(value) = value else {
        return Ok(None);
    };
    if let Ok(number) = value.extract::<i64>() {
        return Ok(Some(number.to_string()));
    }
    let text: String = value
        .extract()
        .map_err(|_| wrong_type(format!("{argument} takes an int or a str")))?;
    Ok(Some(text))
}

fn seconds(value: Option<f64>, argument: &str, default: Duration) -> PyResult<Duration> {
    let Some(value) = value else {
        return Ok(default);
    };
    Duration::try_from_secs_f64(value).map_err(|_| {
        mistake(format!(
            "{argument} is {value}; it takes seconds, 0 or more"
        ))
    })
}

fn overrides_of(
    values: Option<&Bound<'_, PyDict>>,
    argument: &str,
) -> PyResult<BTreeMap<String, BTreeMap<String, ParameterValue>>> {
    let mut result = BTreeMap::new();
    for (app, parameters) in values.iter().flat_map(|values| values.iter()) {
        let wrong = || {
            wrong_type(format!(
                "{argument} takes a dict of app name to a dict of parameter name to value"
            ))
        };
        let app: String = app.extract().map_err(|_| wrong())?;
        let parameters = parameters.cast_into::<PyDict>().map_err(|_| wrong())?;
        let mut values = BTreeMap::new();
        for (name, value) in parameters.iter() {
            let name: String = name.extract().map_err(|_| wrong())?;
            let value = convert::parameter_value(&name, &value)?;
            values.insert(name, value);
        }
        result.insert(app, values);
    }
    Ok(result)
}

fn check_words(mode: Option<&str>, log_format: Option<&str>) -> PyResult<()> {
    if let Some(mode) = mode
        && !matches!(mode, "local" | "remote")
    {
        return Err(mistake(format!(
            "mode is `{mode}`; it takes \"local\", \"remote\" or None"
        )));
    }
    if let Some(format) = log_format
        && !matches!(format, "console" | "json")
    {
        return Err(mistake(format!(
            "log_format is `{format}`; it takes \"console\" or \"json\""
        )));
    }
    Ok(())
}

/// Return a context whose `serve` applies these options; checks them, and asks nobody.
///
/// Args:
///     mode: `"local"` for the platform of this machine whatever is configured, `"remote"` to
///         insist on a configured endpoint; what is configured when left out.
///     version: recorded with the app instead of one derived from its content.
///     copy_style: which files become the code bundle: `"loaded_modules"` those that the program
///         has imported, `"all"` (or `"custom"`) all below the root folder that no ignore file
///         names, `"none"` nothing but what `include` names.
///     dry_run: report what would be done and do nothing; the app that is returned serves nothing.
///     project: where the app goes, instead of the configured project.
///     domain: where the app goes, instead of the configured domain.
///     env_vars: environment variables of the app, over those that it declares and over the options
///         of logs below; those of apps it depends on stay as declared.
///     input_values: old name of `parameter_values`.
///     parameter_values: app name to parameter name to value, for the app and for apps it
///         depends on: strings, `flyte.io.File`, `flyte.io.Dir` and what `Parameter` takes else.
///     cluster_pool: pool of clusters to run on, instead of the declared one.
///     cluster: cluster to run on, instead of a pool.
///     log_level: level of flyte's own log in the app, as in `logging`; becomes `LOG_LEVEL`.
///     log_format: `"console"` or `"json"`; becomes `LOG_FORMAT`.
///     user_log_level: level of the app's own log, as in `logging`; becomes `USER_LOG_LEVEL`.
///     interactive_mode: send the environment pickled, beside the files of its modules; by default
///         only where no file holds all of it, as in a notebook. Counts for apps with a server
///         function.
///     copy_bundle_to: file, or folder that exists, that gets a copy of the code bundle.
///     deactivate_timeout: seconds that `app.deactivate(wait=True)` waits; 60 when left out.
///     activate_timeout: seconds that `serve` and `app.activate(wait=True)` wait for the app to
///         answer; 600 when left out. An app that ends or cannot start is reported at once.
///     health_check_timeout: seconds that one request to `health_check_path` may take; 2 when
///         left out.
///     health_check_interval: seconds between such requests.
///     health_check_path: path that must answer before the app counts as up, such as `"/health"`;
///         when left out, the app is up as soon as it listens on its port.
///     raw_data_path: folder or object-store prefix where the app may write data; the platform's
///         own when left out.
///     watch: serve again whenever a bundled file changes: `serve` then returns when Ctrl-C ends
///         the watch, and the app goes on. Each change is told on standard error; one that does
///         not come up leaves the version before it serving. `serve.aio` ends by being cancelled.
///
/// Returns:
///     The context; `context.serve(env)` blocks, `await context.serve.aio(env)` does not.
///
/// Raises:
///     ValueError: a word or a number that an option does not take, or `cluster` together with
///         `cluster_pool`, or `watch` with `dry_run`.
///     TypeError: a value of the wrong type, or `input_values` together with `parameter_values`.
///
/// Example:
///     >>> context = flyte.with_servecontext(env_vars={"DEBUG": "1"}, activate_timeout=30)
///     >>> app = context.serve(env)    # doctest: +SKIP
///     >>> flyte.with_servecontext(watch=True).serve(env)      # doctest: +SKIP
#[expect(
    clippy::too_many_arguments,
    reason = "the public signature, keyword-only"
)]
#[pyfunction]
#[pyo3(signature = (
    mode=None, *, version=None, copy_style="loaded_modules", dry_run=false, project=None,
    domain=None, env_vars=None, input_values=None, parameter_values=None, cluster_pool=None,
    cluster=None, log_level=None, log_format=None, user_log_level=None, interactive_mode=None,
    copy_bundle_to=None, deactivate_timeout=None, activate_timeout=None,
    health_check_timeout=None, health_check_interval=None, health_check_path=None,
    raw_data_path=None, watch=false,
))]
fn with_servecontext(
    mode: Option<String>,
    version: Option<String>,
    copy_style: &str,
    dry_run: bool,
    project: Option<String>,
    domain: Option<String>,
    env_vars: Option<Bound<'_, PyDict>>,
    input_values: Option<Bound<'_, PyDict>>,
    parameter_values: Option<Bound<'_, PyDict>>,
    cluster_pool: Option<String>,
    cluster: Option<String>,
    log_level: Option<Bound<'_, PyAny>>,
    log_format: Option<String>,
    user_log_level: Option<Bound<'_, PyAny>>,
    interactive_mode: Option<bool>,
    copy_bundle_to: Option<PathBuf>,
    deactivate_timeout: Option<f64>,
    activate_timeout: Option<f64>,
    health_check_timeout: Option<f64>,
    health_check_interval: Option<f64>,
    health_check_path: Option<String>,
    raw_data_path: Option<String>,
    watch: bool,
) -> PyResult<ServeContext> {
    check_words(mode.as_deref(), log_format.as_deref())?;
    if watch && dry_run {
        return Err(mistake(
            "watch and dry_run are mutually exclusive: a dry run serves nothing",
        ));
    }
    if input_values.is_some() && parameter_values.is_some() {
        return Err(wrong_type(
            "input_values and parameter_values are two names of one argument; pass one of them",
        ));
    }
    if cluster.is_some()
        && cluster_pool
            .as_deref()
            .is_some_and(|pool| pool != "default")
    {
        return Err(mistake("cluster and cluster_pool are mutually exclusive"));
    }
    let defaults = Options::default();
    let millis = |value: Option<f64>, argument| -> PyResult<Option<u64>> {
        let Some(value) = value else { return Ok(None) };
        let duration = seconds(Some(value), argument, Duration::ZERO)?;
        Ok(Some(
            u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        ))
    };
    let mut parameters = overrides_of(input_values.as_ref(), "input_values")?;
    parameters.extend(overrides_of(parameter_values.as_ref(), "parameter_values")?);
    Ok(ServeContext {
        mode,
        interactive: interactive_mode,
        watch,
        options: Options {
            version,
            copy_style: convert::copy_style(copy_style)?,
            dry_run,
            tell_order: false,
            overrides: Overrides {
                project,
                domain,
                env_vars: match env_vars {
                    Some(variables) => convert::env_vars_given(&variables)?,
                    None => Vec::new(),
                },
                parameters,
                cluster_pool,
                cluster,
            },
            log_level: level(log_level, "log_level")?,
            log_format,
            user_log_level: level(user_log_level, "user_log_level")?,
            copy_bundle_to,
            activate_timeout: seconds(
                activate_timeout,
                "activate_timeout",
                defaults.activate_timeout,
            )?,
            deactivate_timeout: seconds(
                deactivate_timeout,
                "deactivate_timeout",
                defaults.deactivate_timeout,
            )?,
            health: Health {
                path: health_check_path,
                timeout_ms: millis(health_check_timeout, "health_check_timeout")?,
                interval_ms: millis(health_check_interval, "health_check_interval")?,
                activate_timeout_ms: millis(activate_timeout, "activate_timeout")?,
            },
            raw_data_path,
        },
    })
}

#[pymethods]
impl ServeContext {
    /// Serve an app under these options and return it when it answers; see `flyte.serve`.
    ///
    /// Args:
    ///     env: the app; all it depends on is served first.
    ///
    /// Returns:
    ///     The app: `app.endpoint` answers requests, `app.url` is its page on the platform.
    ///
    /// Raises:
    ///     TypeError: `env` is no `AppEnvironment`.
    ///     flyte.errors.ConfigError: the declaration or an option cannot be used.
    ///     flyte.errors.BuildError: the code could not be bundled or the image not be built.
    ///     flyte.errors.AppError: the app did not come up; says why, with its last log lines.
    ///     flyte.errors.TimeoutError: the app was not up after `activate_timeout` seconds.
    ///     flyte.errors.UnavailableError: the platform cannot be reached.
    ///
    /// Example:
    ///     >>> app = flyte.with_servecontext(project="demo").serve(env)    # doctest: +SKIP
    fn serve(&self, py: Python<'_>, env: &Bound<'_, PyAny>) -> PyResult<App> {
        let (mut server, request) = self.prepare(py, env)?;
        match self.turn(py, &server, &request)? {
            Turn::Serve => {
                let card = shown(py, &mut server, &request)?;
                let settings = server.settings.clone();
                let result = runtime::block(py, serve(server, request));
                if let Some(card) = card {
                    card.end(py, &result);
                }
                if let Err(error) = &result
                    && error.is_instance_of::<PyKeyboardInterrupt>(py)
                {
                    tell_what_is_left(py, &settings, &self.options.overrides);
                }
                result
            }
            Turn::Watch(watching) => watching.block(py, server, request),
            Turn::Existing => runtime::block(py, existing(server, request)),
        }
    }

    fn serve_async<'py>(
        &self,
        py: Python<'py>,
        env: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (mut server, request) = self.prepare(py, env)?;
        match self.turn(py, &server, &request)? {
            Turn::Serve => {
                let card = shown(py, &mut server, &request)?;
                runtime::future(py, async move {
                    let result = Box::pin(serve(server, request)).await;
                    if let Some(card) = card {
                        Python::attach(|py| card.end(py, &result));
                    }
                    result
                })
            }
            Turn::Watch(watching) => runtime::future(py, watching.run(server, request)),
            Turn::Existing => runtime::future(py, existing(server, request)),
        }
    }

    fn __repr__(&self) -> String {
        let options = &self.options;
        format!(
            "ServeContext(version={:?}, project={:?}, domain={:?}, dry_run={})",
            options.version, options.overrides.project, options.overrides.domain, options.dry_run
        )
    }
}

impl ServeContext {
    /// For the command line, which has options of its own.
    pub fn from_options(options: Options) -> Self {
        Self {
            options,
            mode: None,
            interactive: Some(false),
            watch: false,
        }
    }

    fn prepare(&self, py: Python<'_>, env: &Bound<'_, PyAny>) -> PyResult<(Server, Request)> {
        let mut given = Given::default();
        if self.mode.as_deref() == Some("local") {
            // An empty endpoint is none: whatever is configured is passed over.
            given.endpoint = Some(String::new());
        }
        let settings = settings::resolve(&given)?;
        if self.mode.as_deref() == Some("remote")
            && settings.endpoint == crate::config::Endpoint::Local
        {
            return Err(mistake(
                "mode is \"remote\", but no endpoint is configured; call flyte.init(endpoint=...)",
            ));
        }
        let request = self.request(py, std::slice::from_ref(env), &settings)?;
        let server = settings::server(py, settings, printer::for_library())?;
        Ok((server, request))
    }

    /// What a call of `serve` does in this process.
    fn turn(&self, py: Python<'_>, server: &Server, request: &Request) -> PyResult<Turn> {
        if settings::in_replica() {
            // The module of an app is loaded again inside its replica. A `serve` at its top level
            // must not deploy from there: that would go round for ever.
            Ok(Turn::Existing)
        } else if self.watch {
            watch::turn(py, server, request)
        } else if Asked::here().is_some() && !self.options.dry_run {
            // Who runs the program only to read what it declares has served this before.
            Ok(Turn::Existing)
        } else {
            Ok(Turn::Serve)
        }
    }

    /// Reads everything that serving needs out of the interpreter. The first environment is the
    /// one that was asked for.
    pub fn request<'py>(
        &self,
        py: Python<'py>,
        wanted: &[Bound<'py, PyAny>],
        settings: &crate::config::Settings,
    ) -> PyResult<Request> {
        let app_class = py.import("flyte.app")?.getattr("AppEnvironment")?;
        let overrides = &self.options.overrides;
        let project = overrides.project.as_ref().unwrap_or(&settings.project);
        let domain = overrides.domain.as_ref().unwrap_or(&settings.domain);
        let mut apps = Vec::new();
        let mut envs = Vec::new();
        for env in wanted {
            if !env.is_instance(&app_class)? {
                return Err(wrong_type(format!(
                    "serve takes an AppEnvironment, not {}",
                    env.get_type().name()?
                )));
            }
            collect(env, project, domain, &mut apps, &mut envs)?;
        }
        let source = self.source(py, &mut apps, &envs)?;
        Ok(Request {
            target: apps[0].name.clone(),
            apps,
            source,
            options: self.options.clone(),
        })
    }

    /// The code of the apps: the files around them, and what was typed.
    fn source(
        &self,
        py: Python<'_>,
        apps: &mut [AppSpec],
        envs: &[Bound<'_, PyAny>],
    ) -> PyResult<Source> {
        let notebook = py.import("flyte._notebook")?;
        let pickled = self.to_pickle(&notebook, apps, envs)?;
        let folder: PathBuf = notebook.call_method0("folder")?.extract()?;
        let folder = folder.canonicalize().unwrap_or(folder);
        let typed = apps.iter().any(|spec| spec.declared_in.is_none());
        // Modules of a notebook count for its bundle, wherever other apps are declared.
        let declared_in = apps[0].declared_in.as_deref().filter(|_| !typed);
        let mut program = Program::look(py, declared_in, &folder)?;
        program.declared_in(apps.iter().filter_map(|spec| spec.declared_in.as_deref()));
        let interactive = if typed || !pickled.is_empty() {
            Some(pickle(py, folder, &pickled, &mut program)?)
        } else {
            None
        };
        for (spec, env) in apps.iter_mut().zip(envs) {
            if !pickled.iter().any(|(name, _)| *name == spec.name) {
                spec.loader = program.loader(env, spec.declared_in.as_deref())?;
            }
        }
        Ok(program.source(interactive))
    }

    /// The environments, by name, that no file holds, or all where it was asked for.
    fn to_pickle<'py>(
        &self,
        notebook: &Bound<'py, PyModule>,
        apps: &[AppSpec],
        envs: &[Bound<'py, PyAny>],
    ) -> PyResult<Vec<(String, Bound<'py, PyAny>)>> {
        let mut pickled = Vec::new();
        for (spec, env) in apps.iter().zip(envs) {
            let chosen = spec.has_server
                && spec.command.is_none()
                && match self.interactive {
                    Some(asked) => asked,
                    None => notebook.call_method1("needs_pickle", (env,))?.extract()?,
                };
            if chosen {
                pickled.push((spec.name.clone(), env.clone()));
            }
        }
        Ok(pickled)
    }
}

/// The card that a notebook shows instead of lines.
fn shown(py: Python<'_>, server: &mut Server, request: &Request) -> PyResult<Option<Card>> {
    let card = Card::open(py, &request.target)?;
    if let Some(card) = &card {
        server.reporter = card.reporter()?;
    }
    Ok(card)
}

/// What Ctrl-C did not end, as far as the control plane tells at once.
fn tell_what_is_left(py: Python<'_>, settings: &crate::config::Settings, overrides: &Overrides) {
    let asked = tokio::time::Duration::from_millis(300);
    let there = overrides.place(settings);
    let apps = async {
        let apps = tokio::time::timeout(asked, crate::serve::apps(&there));
        Ok(apps.await.ok().flatten())
    };
    // A second Ctrl-C ends this, too.
    if let Ok(Some(apps)) = runtime::block(py, apps) {
        printer::prompt(&crate::cli::interrupted(apps, &there, settings));
    }
}

async fn serve(server: Server, request: Request) -> PyResult<App> {
    let app = server.serve(request).await.into_py()?;
    Ok(App::from(app))
}

async fn existing(mut server: Server, request: Request) -> PyResult<App> {
    server.settings = request.options.overrides.place(&server.settings);
    let app = super::app::existing(&server, &request.target).await?;
    Ok(App::from(app))
}

/// Pickles environments, each alone, so that a change of one does not touch the others.
fn pickle(
    py: Python<'_>,
    folder: PathBuf,
    envs: &[(String, Bound<'_, PyAny>)],
    program: &mut Program<'_>,
) -> PyResult<Interactive> {
    let mut interactive = Interactive {
        folder,
        ..Interactive::default()
    };
    for (name, env) in envs {
        let packed = py
            .import("flyte._pickling")?
            .call_method1("pack", (env, program.modules_elsewhere()))?;
        let (bytes, imports, notes): (Vec<u8>, Vec<PathBuf>, Vec<String>) = packed.extract()?;
        program.will_import(imports);
        interactive.notes.extend(notes);
        let mut gzip = flate2::GzBuilder::new()
            .mtime(0)
            .write(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut gzip, &bytes)?;
        interactive.pickles.insert(name.clone(), gzip.finish()?);
    }
    interactive.working_folder = program.working_folder(&interactive.folder);
    Ok(interactive)
}

/// `env` and all it depends on, each once, `env` first.
fn collect<'py>(
    env: &Bound<'py, PyAny>,
    project: &str,
    domain: &str,
    apps: &mut Vec<AppSpec>,
    envs: &mut Vec<Bound<'py, PyAny>>,
) -> PyResult<()> {
    if envs.iter().any(|known| known.is(env)) {
        return Ok(());
    }
    apps.push(convert::app(env, project, domain)?);
    envs.push(env.clone());
    for dependency in convert::app_dependencies(env)? {
        collect(&dependency, project, domain, apps, envs)?;
    }
    Ok(())
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ServeContext>()?;
    module.add_function(wrap_pyfunction!(with_servecontext, module)?)
}

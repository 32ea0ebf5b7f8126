//! What `flyte.init*` was told, and the tools that come with this interpreter.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use super::error::IntoPy;
use crate::config::{Endpoint, Given, Home, Mode, Secret, Settings, in_cluster};
use crate::files;
use crate::image::env::{SdkPayload, Toolchain};
use crate::runtime::IN_REPLICA_VARIABLE;
use crate::serve::platform::Launcher;
use crate::serve::{Reporter, Server};
use crate::spec::PythonVersion;

/// What the last `init` said.
#[derive(Clone, Default)]
struct Configured {
    given: Given,
    root_dir: Option<PathBuf>,
}

static CONFIGURED: Mutex<Option<Configured>> = Mutex::new(None);

fn configured() -> Configured {
    CONFIGURED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
        .unwrap_or_else(unconfigured)
}

/// The root folder that `init` was given.
pub fn root_dir() -> Option<PathBuf> {
    configured().root_dir
}

/// Lets the command line name the root folder.
pub fn set_root_dir(root: &Path) {
    CONFIGURED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_default()
        .root_dir = Some(std::path::absolute(root).unwrap_or_else(|_| root.to_path_buf()));
}

/// Remember what `flyte.init` and its kin were given.
///
/// Args:
///     root_dir: folder that the names in a code bundle are relative to.
///     settings: the arguments of `flyte.init` that are about the control plane, and `config_path`.
///
/// Returns:
///     Whether apps will go to the local platform, and a sentence that says where they go.
///
/// Raises:
///     flyte.errors.ConfigError: a value, or the configuration file, cannot be used.
///
/// Example:
///     >>> local, where = configure(project="demo")    # doctest: +SKIP
#[pyfunction]
#[pyo3(signature = (*, root_dir=None, **settings))]
fn configure(
    root_dir: Option<PathBuf>,
    settings: Option<&Bound<'_, PyDict>>,
) -> PyResult<(bool, String)> {
    let given = match settings {
        Some(settings) => read_given(settings)?,
        None => Given::default(),
    };
    let root_dir = root_dir.map(|path| std::path::absolute(&path).unwrap_or(path));
    let settings = remember(given, root_dir)?;
    let local = settings.endpoint == Endpoint::Local;
    Ok((local, settings.describe()))
}

fn remember(given: Given, root_dir: Option<PathBuf>) -> PyResult<Settings> {
    let settings = Settings::resolve(&given).into_py()?;
    *CONFIGURED.lock().unwrap_or_else(PoisonError::into_inner) =
        Some(Configured { given, root_dir });
    Ok(settings)
}

/// Use the control plane that runs this container; the arguments are those of `init_in_cluster`.
///
/// A replica of the local platform is left as it is unless something says otherwise.
///
/// Returns:
///     Endpoint, and whether it is plain HTTP, where they are known from here.
///
/// Raises:
///     flyte.errors.ConfigError: a value that cannot be used.
///
/// Example:
///     >>> endpoint, insecure = configure_in_cluster()     # doctest: +SKIP
#[pyfunction]
#[pyo3(signature = (**settings))]
fn configure_in_cluster(
    settings: Option<&Bound<'_, PyDict>>,
) -> PyResult<(Option<String>, Option<bool>)> {
    let over = match settings {
        Some(settings) => read_given(settings)?,
        None => Given::default(),
    };
    let is_given = over.api_key.is_some() || over.endpoint.is_some();
    if in_replica() && is_local() && !is_given && !in_cluster::is_told(&variable) {
        return Ok((None, None));
    }
    let given = in_cluster::given(&over, &variable);
    let told = (given.endpoint.clone(), given.insecure);
    remember(given, None)?;
    Ok(if told.0.is_some() { told } else { (None, None) })
}

/// Let calls to a cluster act for whoever is being answered, and never for this process itself.
///
/// Where this process has credentials of its own, whoever reaches it could use them.
///
/// Raises:
///     flyte.errors.ConfigError: the settings cannot be used.
///
/// Example:
///     >>> act_for_callers()       # doctest: +SKIP
#[pyfunction]
fn act_for_callers() -> PyResult<()> {
    let settings = resolve(&Given::default())?;
    let (Endpoint::Remote(uri), false) = (
        &settings.endpoint,
        matches!(settings.login.mode, Mode::Passthrough(_)),
    ) else {
        return Ok(());
    };
    let known = configured();
    let given = Given {
        endpoint: Some(uri.clone()),
        org: Some(settings.org),
        project: Some(settings.project),
        domain: Some(settings.domain),
        auth_type: Some("Passthrough".to_owned()),
        api_key: None,
        client_secret: None,
        ..known.given
    };
    remember(given, known.root_dir).map(drop)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether the local platform runs this replica.
fn is_local() -> bool {
    variable("_RUN_MODE").as_deref() == Some("local")
}

/// What holds where nobody called an `init`: on a cluster, a replica belongs to the control plane
/// that runs it, without being told by its author.
fn unconfigured() -> Configured {
    let given = if in_replica() && !is_local() && in_cluster::is_told(&variable) {
        in_cluster::given(&Given::default(), &variable)
    } else {
        Given::default()
    };
    Configured {
        given,
        root_dir: None,
    }
}

/// The arguments of an `init` function, under the names that they have there.
fn read_given(settings: &Bound<'_, PyDict>) -> PyResult<Given> {
    let mut given = Given::default();
    for (name, value) in settings {
        if value.is_none() {
            continue;
        }
        let secret =
            |value: &Bound<'_, PyAny>| Ok::<_, PyErr>(Secret::new(value.extract::<String>()?));
        let name: String = name.extract()?;
        match name.as_str() {
            "config_path" => given.config_path = value.extract()?,
            "endpoint" => given.endpoint = value.extract()?,
            "insecure" => given.insecure = value.extract()?,
            "org" => given.org = value.extract()?,
            "project" => given.project = value.extract()?,
            "domain" => given.domain = value.extract()?,
            "insecure_skip_verify" => given.insecure_skip_verify = value.extract()?,
            "ca_cert_file_path" => {
                let path: PathBuf = value.extract()?;
                given.ca_file = Some(path.to_string_lossy().into_owned());
            }
            "auth_type" => given.auth_type = value.extract()?,
            "command" => given.command = value.extract()?,
            "proxy_command" => given.proxy_command = value.extract()?,
            "api_key" => given.api_key = Some(secret(&value)?),
            "client_id" => given.client_id = value.extract()?,
            "client_credentials_secret" => given.client_secret = Some(secret(&value)?),
            "scopes" => given.scopes = value.extract()?,
            "http_proxy_url" => given.http_proxy = value.extract()?,
            "disable_keyring" => given.disable_keyring = value.extract()?,
            "rpc_retries" => given.retries = value.extract()?,
            "image_builder" => given.image_builder = value.extract()?,
            "image_registry" => given.image_registry = value.extract()?,
            "images" => given.images = value.extract()?,
            _ => {
                let text = format!("configure() got an unexpected argument `{name}`");
                return Err(PyTypeError::new_err(text));
            }
        }
    }
    Ok(given)
}

/// Return the project and the domain that apps go to.
///
/// Raises:
///     flyte.errors.ConfigError: the configuration file cannot be used.
///
/// Example:
///     >>> project, domain = current_scope()   # doctest: +SKIP
#[pyfunction]
fn current_scope() -> PyResult<(String, String)> {
    let settings = resolve(&Given::default())?;
    Ok((settings.project, settings.domain))
}

/// Settings in force.
pub fn resolve(over: &Given) -> PyResult<Settings> {
    Settings::resolve(&merged(over)?).into_py()
}

/// What is given now over what `init` was given.
pub fn merged(over: &Given) -> PyResult<Given> {
    let mut given = configured().given;
    let take = |value: &mut Option<String>, over: &Option<String>| {
        if over.is_some() {
            value.clone_from(over);
        }
    };
    take(&mut given.endpoint, &over.endpoint);
    take(&mut given.org, &over.org);
    take(&mut given.project, &over.project);
    take(&mut given.domain, &over.domain);
    given.insecure = over.insecure.or(given.insecure);
    given.config_path = over.config_path.clone().or(given.config_path);
    if over.endpoint.is_some() {
        given.api_key = None; // it names an endpoint as well
    }
    Python::attach(|py| {
        given.interactive = over.interactive.or_else(|| Some(somebody_is_there(py)));
        given.headers = auth_metadata(py)?;
        Ok::<_, PyErr>(())
    })?;
    if in_replica() {
        // An app sees the project and domain that it runs in.
        given.project = given
            .project
            .or_else(|| variable("FLYTE_INTERNAL_EXECUTION_PROJECT"));
        given.domain = given
            .domain
            .or_else(|| variable("FLYTE_INTERNAL_EXECUTION_DOMAIN"));
    }
    Ok(given)
}

/// Whether there is a person who could log in: at a terminal, or at a notebook.
fn somebody_is_there(py: Python<'_>) -> bool {
    let unattended = std::env::var("CI").is_ok_and(|value| !matches!(&*value, "" | "0" | "false"));
    let notebook = || {
        let modules = py.import("sys")?.getattr("modules")?;
        modules.contains("ipykernel")
    };
    !unattended && (std::io::stderr().is_terminal() || notebook().unwrap_or(false))
}

/// What `flyte.remote.auth_metadata` holds here and now.
fn auth_metadata(py: Python<'_>) -> PyResult<Vec<(String, Secret)>> {
    const MODULE: &str = "flyte.remote._auth_metadata";
    let modules = py.import("sys")?.getattr("modules")?;
    if !modules.contains(MODULE)? {
        return Ok(Vec::new()); // nobody can have set any
    }
    let pairs: Vec<(String, String)> = py.import(MODULE)?.call_method0("current")?.extract()?;
    Ok(pairs
        .into_iter()
        .map(|(name, value)| (name, Secret::new(value)))
        .collect())
}

/// Set by `fserve`, whose own look-ups come before any variable can be set.
static IS_REPLICA: AtomicBool = AtomicBool::new(false);

/// Makes this process count as a replica.
pub fn become_replica() {
    IS_REPLICA.store(true, Ordering::Relaxed);
}

/// Whether this process is a replica of an app.
pub fn in_replica() -> bool {
    IS_REPLICA.load(Ordering::Relaxed) || variable(IN_REPLICA_VARIABLE).is_some()
}

/// Everything that serving works with.
pub fn server(py: Python<'_>, settings: Settings, reporter: Reporter) -> PyResult<Server> {
    Ok(Server {
        toolchain: toolchain(py, settings.home.path())?,
        launcher: launcher(py)?,
        settings,
        reporter,
    })
}

/// How the platform's process is started: this interpreter with this package.
pub fn launcher(py: Python<'_>) -> PyResult<Launcher> {
    let executable: PathBuf = py.import("sys")?.getattr("executable")?.extract()?;
    Ok(Launcher {
        program: executable,
        args: ["-m", "flyte._platform"].map(str::to_owned).into(),
        build: payload(py)?.identity,
    })
}

/// The tools for environments below `home`.
pub fn toolchain(py: Python<'_>, home: &Path) -> PyResult<Toolchain> {
    let sys = py.import("sys")?;
    let version = sys.getattr("version_info")?;
    let executable: PathBuf = sys
        .getattr("_base_executable")
        .or_else(|_| sys.getattr("executable"))?
        .extract()?;
    Ok(Toolchain {
        home: home.to_path_buf(),
        uv: find_uv(py)?,
        python: executable,
        python_version: PythonVersion {
            major: version.getattr("major")?.extract()?,
            minor: version.getattr("minor")?.extract()?,
        },
        sdk: payload(py)?,
    })
}

/// `uv` of this environment, else of the `PATH`; whether it exists is seen when it is needed.
fn find_uv(py: Python<'_>) -> PyResult<PathBuf> {
    let prefix: PathBuf = py.import("sys")?.getattr("prefix")?.extract()?;
    let executable: PathBuf = py.import("sys")?.getattr("executable")?.extract()?;
    let beside = executable.parent().map(|folder| folder.join("uv"));
    let own = [Some(prefix.join("bin/uv")), beside];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = own
        .into_iter()
        .flatten()
        .chain(std::env::split_paths(&path).map(|folder| folder.join("uv")))
        .find(|candidate| candidate.is_file());
    Ok(found.unwrap_or_else(|| PathBuf::from("uv")))
}

/// The files of this SDK, which every environment gets; looked at once in a process.
fn payload(py: Python<'_>) -> PyResult<SdkPayload> {
    static KNOWN: PyOnceLock<SdkPayload> = PyOnceLock::new();
    KNOWN.get_or_try_init(py, || read_payload(py)).cloned()
}

fn read_payload(py: Python<'_>) -> PyResult<SdkPayload> {
    let init: PathBuf = py.import("flyte")?.getattr("__file__")?.extract()?;
    let package = init.parent().map(Path::to_path_buf).unwrap_or_default();
    let site = package.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut entries = vec![package.clone()];
    entries.extend(
        std::fs::read_dir(&site)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("flyte_rs-") && name.ends_with(".dist-info")
            }),
    );
    let path: Vec<PathBuf> = py.import("sys")?.getattr("path")?.extract()?;
    entries.extend(
        path.iter()
            .map(|folder| folder.join("cloudpickle"))
            .find(|folder| folder.join("__init__.py").is_file()),
    );
    Ok(SdkPayload {
        identity: identity(&package)?,
        entries,
    })
}

/// The same wherever the same SDK is installed, and another one whenever a file of it changes.
///
/// Two projects with an environment each share one platform; were this a matter of paths or
/// times, each would replace the other's platform and restart all apps.
fn identity(package: &Path) -> PyResult<String> {
    // One for each place of installation, so that two do not overwrite each other's.
    let place = blake3::hash(package.as_os_str().as_encoded_bytes()).to_hex();
    let cache = Home::from_environment()
        .ok()
        .map(|home| home.cache().join(format!("sdk-{}.stat", &place[..16])));
    Ok(files::identity::of_folder(package, cache.as_deref())?)
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    crate::auth::speak_through(crate::cli::printer::prompt);
    module.add_function(wrap_pyfunction!(configure, module)?)?;
    module.add_function(wrap_pyfunction!(configure_in_cluster, module)?)?;
    module.add_function(wrap_pyfunction!(act_for_callers, module)?)?;
    module.add_function(wrap_pyfunction!(current_scope, module)?)
}

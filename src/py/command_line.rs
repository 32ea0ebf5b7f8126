//! The console script `flyte`: lends the command line an interpreter.

use std::future::Future;
use std::path::{Path, PathBuf};

use pyo3::exceptions::{PyKeyboardInterrupt, PyModuleNotFoundError, PySystemExit};
use pyo3::prelude::*;

use super::context::ServeContext;
use super::{convert, runtime, settings};
use crate::cli::{self, Failure, Host, Load, Which};
use crate::config::{Given, Settings};
use crate::error::{Code, did_you_mean};
use crate::serve::watch::Loader;
use crate::serve::{Options, Reporter, Request, Server};

struct Interpreter;

/// An exception that no file of a user's raised: ours as it tells itself, any other as a defect.
fn raised(error: PyErr) -> Failure {
    Python::attach(|py| {
        if error.is_instance_of::<PyKeyboardInterrupt>(py) {
            return Failure::Interrupted;
        }
        match ours(error.value(py)) {
            Ok(Some(error)) => error,
            Ok(None) | Err(_) => {
                let told = Told::of(py, &error);
                cli::Error::Raised {
                    code: Code::Internal,
                    message: told.summary,
                    log: told.whole,
                    hints: vec!["please report it, with the lines above".to_owned()],
                }
            }
        }
        .into()
    })
}

/// What a user's file raised: a declaration that cannot be used, with its place, or anything else
/// as the reason why the file cannot be imported, with the lines of the user's own code.
fn not_loaded(py: Python<'_>, load: &Load, error: &PyErr) -> Failure {
    if error.is_instance_of::<PyKeyboardInterrupt>(py) {
        return Failure::Interrupted;
    }
    let value = with_traceback(py, error);
    if let Ok(Some(mut told)) = ours(&value) {
        if let cli::Error::Raised { message, .. } = &mut told
            && let Some(place) = place(&value)
        {
            message.push_str("\nat ");
            message.push_str(&place);
        }
        return told.into();
    }
    let told = Told::of(py, error);
    let is_end = error.is_instance_of::<PySystemExit>(py);
    cli::Error::NotImported {
        file: load.file.clone(),
        summary: if is_end {
            format!("it ended the program ({})", told.summary)
        } else {
            told.summary
        },
        frames: if load.verbose { told.whole } else { told.own },
        hints: advice(py, load, error),
    }
    .into()
}

fn advice(py: Python<'_>, load: &Load, error: &PyErr) -> Vec<String> {
    let mut hints: Vec<String> = not_installed(py, error).into_iter().collect();
    if error.is_instance_of::<PySystemExit>(py) {
        hints.push(
            "what must not run at the import belongs below `if __name__ == \"__main__\":`"
                .to_owned(),
        );
    }
    if !load.verbose {
        hints.push("`flyte -v` shows the whole traceback".to_owned());
    }
    hints
}

/// An exception in words.
struct Told {
    summary: String,
    /// The lines of the user's own code.
    own: Vec<String>,
    /// The whole traceback.
    whole: Vec<String>,
}

impl Told {
    fn of(py: Python<'_>, error: &PyErr) -> Self {
        let told = || -> PyResult<_> {
            py.import("flyte._loading")?
                .call_method1("told", (with_traceback(py, error),))?
                .extract()
        };
        let (summary, own, whole) =
            told().unwrap_or_else(|_| (error.to_string(), Vec::new(), Vec::new()));
        Self {
            summary,
            own,
            whole,
        }
    }
}

/// An exception that knows where it was raised: before Python 3.12 it lies beside it until somebody asks.
fn with_traceback<'py>(
    py: Python<'py>,
    error: &PyErr,
) -> Bound<'py, pyo3::exceptions::PyBaseException> {
    error.clone_ref(py).into_value(py).into_bound(py)
}

/// The line of the user's code that led to an exception.
fn place(value: &Bound<'_, pyo3::exceptions::PyBaseException>) -> Option<String> {
    let loading = value.py().import("flyte._loading").ok()?;
    loading.call_method1("place", (value,)).ok()?.extract().ok()
}

/// Advice on a module that the file imports and that only the image has.
fn not_installed(py: Python<'_>, error: &PyErr) -> Option<String> {
    if !error.is_instance_of::<PyModuleNotFoundError>(py) {
        return None;
    }
    let name: String = error.value(py).getattr("name").ok()?.extract().ok()?;
    let name = name.split('.').next().unwrap_or_default();
    Some(format!(
        "serving imports the file on this machine too; install `{name}` here, or import it \
         inside of the function that uses it"
    ))
}

/// An exception of `flyte.errors` as the error that it tells.
fn ours(value: &Bound<'_, pyo3::exceptions::PyBaseException>) -> PyResult<Option<cli::Error>> {
    let class = value.py().import("flyte.errors")?.getattr("Error")?;
    if !value.is_instance(&class)? {
        return Ok(None);
    }
    let texts = |name: &str| value.getattr(name)?.extract::<Vec<String>>();
    let code: String = value.getattr("code")?.extract()?;
    let message: String = value.getattr("message")?.extract()?;
    let mut lines = vec![message];
    lines.extend(
        texts("causes")?
            .iter()
            .map(|cause| format!("Caused by: {cause}")),
    );
    Ok(Some(cli::Error::Raised {
        code: Code::parse(&code).unwrap_or(Code::Internal),
        message: lines.join("\n"),
        log: texts("log_tail")?,
        hints: texts("hints")?,
    }))
}

impl Host for Interpreter {
    fn settings(&self, given: &Given) -> Result<Settings, Failure> {
        Ok(Settings::resolve(
            &settings::merged(given).map_err(raised)?,
        )?)
    }

    fn server(&self, settings: Settings, reporter: Reporter) -> Result<Server, Failure> {
        Python::attach(|py| settings::server(py, settings, reporter)).map_err(raised)
    }

    fn load(&self, load: &Load, settings: &Settings) -> Result<Request, Failure> {
        Python::attach(|py| {
            if let Some(root) = &load.root_dir {
                settings::set_root_dir(root);
            }
            if load.again {
                let begun = || py.import("flyte._loading")?.call_method0("begin");
                begun().map_err(raised)?;
            }
            if load.watched {
                let keep_nothing = || py.import("sys")?.setattr("dont_write_bytecode", true);
                keep_nothing().map_err(raised)?;
            }
            let file = python_file(&load.file)?;
            let module = import(py, &file).map_err(|error| not_loaded(py, load, &error))?;
            let envs = choose(py, &module, load)?;
            let mut options = Options::default();
            if let Some(style) = &load.copy_style {
                options.copy_style = convert::copy_style(style).map_err(raised)?;
            }
            ServeContext::from_options(options)
                .request(py, &envs, settings)
                .map_err(|error| not_loaded(py, load, &error))
        })
    }

    fn loader(&self) -> Result<Loader, Failure> {
        Python::attach(|py| super::watch::loader(py, 0)).map_err(raised)
    }

    fn block<T: Send>(
        &self,
        future: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, Failure> {
        // The outer result is Ctrl-C, the inner one the command's own.
        let outcome = Python::attach(|py| runtime::block(py, async { Ok(Carried(future.await)) }));
        match outcome {
            Ok(carried) => carried.0,
            Err(error) => Err(raised(error)),
        }
    }
}

/// `Failure` holds a `dyn Diagnostic`, which is `Send`.
struct Carried<T>(Result<T, Failure>);

fn python_file(file: &Path) -> Result<PathBuf, cli::Error> {
    match file.canonicalize() {
        Ok(found) if found.is_file() => {
            let is_python = found.extension().is_some_and(|kind| kind == "py");
            let file = file.to_path_buf();
            is_python
                .then_some(found)
                .ok_or(cli::Error::NotPython { file })
        }
        Ok(_) | Err(_) => Err(cli::Error::NoFile {
            file: file.to_path_buf(),
        }),
    }
}

/// Imports a file under its own name, as `python FILE` would find its neighbours.
fn import<'py>(py: Python<'py>, file: &Path) -> PyResult<Bound<'py, PyAny>> {
    let path = py.import("sys")?.getattr("path")?;
    let cwd = std::env::current_dir().unwrap_or_default();
    let (folder, package) = above_packages(file);
    for entry in [cwd.as_path(), folder] {
        // The import system takes text only.
        path.call_method1("insert", (0, entry.to_string_lossy()))?;
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    if !package.is_empty() {
        let name = format!("{}.{stem}", package.join("."));
        let module = py
            .import("importlib")?
            .call_method1("import_module", (name,))?;
        return Ok(module);
    }
    let util = py.import("importlib.util")?;
    let spec = util.call_method1("spec_from_file_location", (stem.as_ref(), file))?;
    let module = util.call_method1("module_from_spec", (&spec,))?;
    let modules = py.import("sys")?.getattr("modules")?;
    modules.set_item(stem.as_ref(), &module)?;
    spec.getattr("loader")?
        .call_method1("exec_module", (&module,))?;
    Ok(module)
}

/// The folder from which a file is imported, and the packages between the two.
fn above_packages(file: &Path) -> (&Path, Vec<String>) {
    let mut folder = file.parent().unwrap_or(Path::new("/"));
    let mut package = Vec::new();
    while folder.join("__init__.py").is_file()
        && let (Some(name), Some(parent)) = (folder.file_name(), folder.parent())
    {
        package.insert(0, name.to_string_lossy().into_owned());
        folder = parent;
    }
    (folder, package)
}

/// The environments that were asked for: by variable or by name, the only one of the file, or all.
fn choose<'py>(
    py: Python<'py>,
    module: &Bound<'py, PyAny>,
    load: &Load,
) -> Result<Vec<Bound<'py, PyAny>>, Failure> {
    let mut found = environments(py, module, &load.file).map_err(raised)?;
    let file = load.file.clone();
    match &load.which {
        Which::Named(wanted) => Ok(vec![named(&found, wanted, file)?]),
        Which::Only | Which::All if found.is_empty() => {
            Err(cli::Error::NoEnvironment { file }.into())
        }
        Which::Only if found.len() > 1 => {
            let known = listed(&found);
            Err(cli::Error::SeveralEnvironments { file, known }.into())
        }
        Which::Only | Which::All => Ok(found.drain(..).map(|(_, _, env)| env).collect()),
    }
}

fn named<'py>(
    found: &[Found<'py>],
    wanted: &str,
    file: PathBuf,
) -> Result<Bound<'py, PyAny>, cli::Error> {
    let by_variable = |(variable, _, _): &&Found<'py>| variable.as_deref() == Some(wanted);
    let mut matching: Vec<&Found<'py>> = found.iter().filter(by_variable).collect();
    if matching.is_empty() {
        matching = found.iter().filter(|(_, name, _)| name == wanted).collect();
    }
    if let [(_, _, env)] = matching.as_slice() {
        return Ok(env.clone());
    }
    let (wanted, known) = (wanted.to_owned(), listed(found));
    if found.is_empty() {
        return Err(cli::Error::NoEnvironment { file });
    }
    if !matching.is_empty() {
        return Err(cli::Error::SeveralNamed {
            file,
            wanted,
            known,
        });
    }
    let candidates = found
        .iter()
        .flat_map(|(variable, name, _)| variable.as_deref().into_iter().chain([name.as_str()]));
    let close = did_you_mean(&wanted, candidates).map(str::to_owned);
    Err(cli::Error::UnknownEnvironment {
        file,
        wanted,
        known,
        close,
    })
}

/// "`env` (`my-app`)", one after the other.
fn listed(found: &[Found<'_>]) -> String {
    let names: Vec<String> = found
        .iter()
        .map(|(variable, name, _)| match variable {
            Some(variable) if variable != name => format!("`{variable}` (`{name}`)"),
            _ => format!("`{name}`"),
        })
        .collect();
    names.join(", ")
}

type Found<'py> = (Option<String>, String, Bound<'py, PyAny>);

/// The app environments that a file declares, and those of its variables.
fn environments<'py>(
    py: Python<'py>,
    module: &Bound<'py, PyAny>,
    file: &Path,
) -> PyResult<Vec<Found<'py>>> {
    let class = py.import("flyte.app")?.getattr("AppEnvironment")?;
    let mut found: Vec<Found<'py>> = Vec::new();
    let namespace = module.getattr("__dict__")?;
    for item in namespace.call_method0("items")?.try_iter()? {
        let (variable, value): (String, Bound<'py, PyAny>) = item?.extract()?;
        if value.is_instance(&class)? && !found.iter().any(|(_, _, known)| known.is(&value)) {
            let name: String = convert::field(&value, "name")?;
            found.push((Some(variable), name, value));
        }
    }
    let file = file.canonicalize().unwrap_or_else(|_| file.to_path_buf());
    let registry = py.import("flyte._environment")?.getattr("_REGISTRY")?;
    for env in registry.try_iter()? {
        let env = env?;
        let declared = convert::text(&env, "_declaring_file")?.map(PathBuf::from);
        if env.is_instance(&class)?
            && declared.and_then(|path| path.canonicalize().ok()).as_ref() == Some(&file)
            && !found.iter().any(|(_, _, known)| known.is(&env))
        {
            found.push((None, convert::field(&env, "name")?, env));
        }
    }
    Ok(found)
}

/// Run one command of the command line `flyte` and return its exit status.
///
/// Args:
///     words: the command line, the program's name first.
///
/// Example:
///     >>> command_line(["flyte", "get", "app"])   # doctest: +SKIP
///     0
#[pyfunction]
fn command_line(words: Vec<String>) -> u8 {
    cli::run(&Interpreter, &words)
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(command_line, module)?)
}

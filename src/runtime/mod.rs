//! What runs inside a replica before user code: `fserve`.
//!
//! Code is unpacked first and parameters are put into place after it, so code never overwrites a
//! parameter. Both may lie in any store that `storage` reads. The outcome is plain data: variables to set, and either a command to become or
//! what the Python edge needs to find the app's server function. Replacing the process, signals
//! and Python objects belong to others; so do archives, which arrive as [`Unpack`].

pub mod args;
pub mod command;
mod error;
pub mod materialize;
pub mod payload;
mod place;
mod stores;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::storage::{Location, Report, without_secrets};

pub use args::Args;
pub use error::{BoxError, Error};
pub use materialize::{EndpointLookup, Materialized};
pub use payload::{ScalarKind, SerializedParameter, WireType};
pub use stores::Stores;

/// Unpacks an archive (first path) into a folder (second path) that exists.
pub type Unpack = dyn Fn(&Path, &Path) -> Result<(), BoxError> + Send + Sync;

/// File with all values as JSON, in the working folder where that is writable.
const PARAMETERS_FILE: &str = "flyte-parameters.json";
/// Variable with that file's path. The second name is the one that PyPI's `get_parameter` reads;
/// shells drop it, because it is no identifier.
const PARAMETERS_FILE_VARIABLES: [&str; 2] = ["FLYTE_PARAMETERS_FILE", PARAMETERS_FILE];
const RAW_DATA_VARIABLE: &str = "_FLYTE_APP_RAW_DATA_PATH";
const APP_NAME_VARIABLE: &str = "_FLYTE_APP_NAME";
const SYS_PATH_VARIABLE: &str = "_F_SYS_PATH";
/// Where in the bundle the app runs; in its root unless said.
pub const WORKING_FOLDER_VARIABLE: &str = "_FLYTE_WORKING_FOLDER";
const ENDPOINT_PATTERN_VARIABLE: &str = "INTERNAL_APP_ENDPOINT_PATTERN";
/// The same for addresses that people use; set where the app could not ask for them.
pub const PUBLIC_PATTERN_VARIABLE: &str = "_FLYTE_PUBLIC_ENDPOINT_PATTERN";
/// Tells declarations, which a replica reads a second time, that files they name may be absent and
/// that nothing is to be deployed from here.
pub const IN_REPLICA_VARIABLE: &str = "_FLYTE_IN_REPLICA";

/// The process that `fserve` runs in, and its helpers.
pub struct Host<'a> {
    pub cwd: PathBuf,
    pub env: BTreeMap<String, String>,
    pub lookup: &'a dyn EndpointLookup,
    pub unpack: &'a Unpack,
    /// Takes lines for the app's log.
    pub report: Report,
}

impl<'a> Host<'a> {
    /// This process; variables that are not UTF-8 are out of reach for the app's arguments.
    ///
    /// # Errors
    /// `runtime.load` when the working folder was removed.
    pub fn current(
        lookup: &'a dyn EndpointLookup,
        unpack: &'a Unpack,
        report: Report,
    ) -> Result<Self, Error> {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Ok(Self {
            cwd: std::env::current_dir().map_err(Error::WorkingFolder)?,
            env,
            lookup,
            unpack,
            report,
        })
    }
}

/// Everything is in place for user code.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// To be set before anything runs, in this order.
    pub env: Vec<(String, String)>,
    /// To be entered before anything runs.
    pub folder: PathBuf,
    pub run: Run,
}

/// What the replica becomes.
#[derive(Clone, Debug, PartialEq)]
pub enum Run {
    /// This program replaces the process; word by word, without a shell.
    Command(Vec<String>),
    /// The Python edge loads the app and calls its functions.
    Server(ServerStart),
}

/// What the Python edge needs; its JSON is what `fserve_prepare` returns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerStart {
    /// `module:variable` or `module:@app-name`
    pub loader: Option<String>,
    /// Pickled app instead of a module to import.
    pub pkl: Option<PathBuf>,
    /// Name under which the platform knows the app.
    pub app: Option<String>,
    pub parameters: Map<String, Value>,
    pub kinds: BTreeMap<String, WireType>,
    /// Absolute folders, to be searched in this order before all others.
    pub sys_path: Vec<PathBuf>,
}

/// Fetches code and parameters, and says what to run.
///
/// A command wins over a resolver: control planes send a resolver for every app whose module they
/// know, also for those that consist of arguments only, and importing such a module just to learn
/// that it has no server function would cost every start of it.
///
/// # Errors
/// `config.invalid` for a wrong declaration, `runtime.load` for the code, `runtime.parameter` for
/// a parameter, `app.missing_command` for a program that is not there.
pub fn prepare(args: &Args, host: &Host<'_>) -> Result<Prepared, Error> {
    let app = host
        .env
        .get(APP_NAME_VARIABLE)
        .filter(|name| !name.is_empty())
        .cloned();
    if args.command.is_empty() && args.resolver_args.is_none() && args.pkl.is_none() {
        return Err(Error::NothingToRun { app });
    }
    let dest: PathBuf = host.cwd.join(&args.dest).components().collect();
    let stores = Stores::of(&host.env, &host.report);
    let pkl = fetch_code(args, host, &dest, &stores)?;
    let folder = working_folder(host, &dest)?;
    let parameters = args
        .parameters
        .as_deref()
        .map(payload::decode)
        .transpose()?;
    let shared = stores::uploads(&host.env);
    let site = materialize::Site {
        cwd: &folder,
        dest: &dest,
        endpoint_pattern: host.env.get(ENDPOINT_PATTERN_VARIABLE).map(String::as_str),
        public_pattern: host.env.get(PUBLIC_PATTERN_VARIABLE).map(String::as_str),
        lookup: host.lookup,
        stores: &stores,
        shared: shared.as_deref(),
    };
    let all = materialize::materialize(&parameters.unwrap_or_default(), &site)?;
    let env = variables(args, &folder, &all)?;
    let run = if args.command.is_empty() {
        Run::Server(ServerStart {
            loader: args.resolver_args.clone(),
            pkl,
            app,
            sys_path: sys_path(host, &dest),
            parameters: all.json,
            kinds: all.kinds,
        })
    } else {
        Run::Command(command_line(args, host, &folder, &env)?)
    };
    Ok(Prepared { env, folder, run })
}

/// Unpacks the bundle, and brings the pickle here.
fn fetch_code(
    args: &Args,
    host: &Host<'_>,
    dest: &Path,
    stores: &Stores,
) -> Result<Option<PathBuf>, Error> {
    if let Some(bundle) = &args.tgz {
        let archive = brought(bundle, &host.cwd, stores)?;
        fs::create_dir_all(dest)
            .map_err(BoxError::from)
            .and_then(|()| (host.unpack)(archive.path(), dest))
            .map_err(|source| Error::BundleUnpack {
                bundle: without_secrets(bundle),
                dest: dest.to_owned(),
                source,
            })?;
    }
    args.pkl
        .as_deref()
        .map(|pickle| Ok(brought(pickle, &host.cwd, stores)?.keep()))
        .transpose()
}

/// The folder that the app runs in: a notebook finds files where it found them at home.
fn working_folder(host: &Host<'_>, dest: &Path) -> Result<PathBuf, Error> {
    let named = host.env.get(WORKING_FOLDER_VARIABLE).map(String::as_str);
    let Some(named) = named.filter(|named| !named.is_empty()) else {
        return Ok(host.cwd.clone());
    };
    let folder = dest.join(named);
    // A bundle holds no empty folders.
    fs::create_dir_all(&folder).map_err(Error::WorkingFolder)?;
    Ok(folder)
}

/// A file of this machine, which may have been fetched for the moment.
enum Brought {
    Here(PathBuf),
    Fetched(tempfile::TempDir, PathBuf),
}

impl Brought {
    fn path(&self) -> &Path {
        match self {
            Self::Here(path) | Self::Fetched(_, path) => path,
        }
    }

    /// The path, for as long as the app runs.
    fn keep(self) -> PathBuf {
        match self {
            Self::Here(path) => path,
            Self::Fetched(folder, path) => {
                let _ = folder.keep();
                path
            }
        }
    }
}

fn brought(url: &str, cwd: &Path, stores: &Stores) -> Result<Brought, Error> {
    if let Some(path) = materialize::local_path(url) {
        let path = cwd.join(path);
        return if path.is_file() {
            Ok(Brought::Here(path))
        } else {
            Err(Error::BundleMissing {
                bundle: url.to_owned(),
            })
        };
    }
    let failed = |source| Error::BundleFetch {
        bundle: without_secrets(url),
        source,
    };
    let name = Location::parse(url).map_err(failed)?.name();
    let folder = tempfile::tempdir().map_err(Error::WorkingFolder)?;
    let path = folder.path().join(name);
    let fetched = stores
        .get()
        .and_then(|storage| storage.file("code", url, &path));
    fetched.map_err(failed)?;
    Ok(Brought::Fetched(folder, path))
}

/// All variables that the app finds beside those it already has.
fn variables(
    args: &Args,
    folder: &Path,
    all: &Materialized,
) -> Result<Vec<(String, String)>, Error> {
    let file = write_parameters(folder, &all.json)?
        .to_string_lossy()
        .into_owned();
    let mut env = Vec::new();
    let mut offer = |name: &str, value: &Option<String>| {
        if let Some(value) = value {
            env.push((name.to_owned(), value.clone()));
        }
    };
    // `flyte.app.ctx()` reads these; a control plane may have told them by option only.
    offer("FLYTE_INTERNAL_EXECUTION_PROJECT", &args.project);
    offer("FLYTE_INTERNAL_EXECUTION_DOMAIN", &args.domain);
    offer(RAW_DATA_VARIABLE, &args.raw_data_path);
    offer(IN_REPLICA_VARIABLE, &Some("1".to_owned()));
    env.extend(all.env.iter().cloned());
    env.extend(PARAMETERS_FILE_VARIABLES.map(|name| (name.to_owned(), file.clone())));
    Ok(env)
}

fn write_parameters(cwd: &Path, values: &Map<String, Value>) -> Result<PathBuf, Error> {
    let target = cwd.join(PARAMETERS_FILE);
    let in_cwd = stage_json(cwd, values).and_then(|staged| Ok(staged.persist(&target)?));
    match in_cwd {
        Ok(_) => Ok(target),
        // Images often have a working folder that belongs to another user.
        Err(_) => stage_json(&std::env::temp_dir(), values)
            .and_then(|staged| Ok(staged.keep()?.1))
            .map_err(|source| Error::ParametersFile {
                path: target,
                source,
            }),
    }
}

fn stage_json(folder: &Path, values: &Map<String, Value>) -> io::Result<tempfile::NamedTempFile> {
    let mut staged = tempfile::Builder::new()
        .prefix(".flyte-parameters-")
        .suffix(".json")
        .tempfile_in(folder)?;
    serde_json::to_writer(&mut staged, values)?;
    staged.flush()?;
    Ok(staged)
}

fn sys_path(host: &Host<'_>, dest: &Path) -> Vec<PathBuf> {
    let listed = host.env.get(SYS_PATH_VARIABLE).map_or("", String::as_str);
    let mut folders: Vec<PathBuf> = vec![host.cwd.clone()];
    let more = listed
        .split(':')
        .filter(|entry| !entry.is_empty())
        .map(|entry| host.cwd.join(entry));
    for folder in more.chain([dest.to_owned()]) {
        let folder = folder.components().collect();
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

fn command_line(
    args: &Args,
    host: &Host<'_>,
    folder: &Path,
    added: &[(String, String)],
) -> Result<Vec<String>, Error> {
    let mut env = host.env.clone();
    env.extend(added.iter().cloned());
    let words = command::expand(&args.command, &env)?;
    let Some(program) = words.first() else {
        return Ok(words);
    };
    let check = |program: &str| {
        command::check_program(program, env.get("PATH").map(String::as_str), folder)
    };
    let Err(missing) = check(program) else {
        return Ok(words);
    };
    // Runtimes that join words for a shell made `["streamlit run", "app.py"]` work, and published
    // apps rely on it; a program whose own name holds a space was found above.
    match shlex::split(program) {
        Some(parts) if parts.len() > 1 && check(&parts[0]).is_ok() => {
            Ok(parts.into_iter().chain(words.into_iter().skip(1)).collect())
        }
        _ => Err(missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Diagnostic};
    use serde_json::json;

    struct NoApps;
    impl EndpointLookup for NoApps {
        fn endpoint(&self, _: &str, _: bool) -> Result<String, String> {
            Err("no control plane".to_owned())
        }
    }

    /// Stands for an archive whose only entry is `model.bin`.
    fn unpack_model(archive: &Path, dest: &Path) -> Result<(), BoxError> {
        fs::copy(archive, dest.join("model.bin"))?;
        Ok(())
    }

    struct Scene(tempfile::TempDir);

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("bundle.tar.gz"), "from the bundle").unwrap();
            fs::write(folder.path().join("weights"), "from the parameter").unwrap();
            fs::create_dir(folder.path().join("cwd")).unwrap();
            Self(folder)
        }

        fn cwd(&self) -> PathBuf {
            self.0.path().join("cwd")
        }

        fn prepare(&self, args: &Args, env: &[(&str, &str)]) -> Result<Prepared, Error> {
            let mut host =
                Host::current(&NoApps, &unpack_model, std::sync::Arc::new(|_: &str| {}))?;
            host.cwd = self.cwd();
            host.env
                .extend(env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
            prepare(args, &host)
        }

        fn weights(&self) -> String {
            payload::encode(&[SerializedParameter {
                name: "weights".to_owned(),
                value: self.0.path().join("weights").display().to_string(),
                download: true,
                wire_type: WireType::File,
                env_var: Some("WEIGHTS".to_owned()),
                dest: Some("model.bin".to_owned()),
                ignore_patterns: Vec::new(),
                kind: None,
            }])
            .unwrap()
        }
    }

    fn args(command: &[&str]) -> Args {
        Args {
            dest: ".".to_owned(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            ..Args::default()
        }
    }

    fn value<'a>(prepared: &'a Prepared, name: &str) -> &'a str {
        let found = prepared.env.iter().rev().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    #[test]
    fn code_never_overwrites_a_parameter() {
        let scene = Scene::new();
        let mut given = args(&["sh", "-c", "exit 7", "$WEIGHTS", "a b;c"]);
        let bundle = scene.0.path().join("bundle.tar.gz");
        given.tgz = Some(format!("file://{}", bundle.display()));
        given.parameters = Some(scene.weights());
        let prepared = scene.prepare(&given, &[]).unwrap();
        let model = scene.cwd().join("model.bin");
        assert_eq!(fs::read_to_string(&model).unwrap(), "from the parameter");
        let model = model.display().to_string();
        let expected = ["sh", "-c", "exit 7", model.as_str(), "a b;c"].map(str::to_owned);
        assert_eq!(prepared.run, Run::Command(expected.to_vec()));
    }

    #[test]
    fn the_values_stand_in_a_file_that_two_variables_name() {
        let scene = Scene::new();
        let mut given = args(&["sh"]);
        given.parameters = Some(scene.weights());
        given.raw_data_path = Some("/raw".to_owned());
        given.project = Some("shop".to_owned());
        let prepared = scene.prepare(&given, &[]).unwrap();
        let file = scene.cwd().join("flyte-parameters.json");
        assert_eq!(
            value(&prepared, "FLYTE_PARAMETERS_FILE"),
            file.display().to_string()
        );
        assert_eq!(
            value(&prepared, "flyte-parameters.json"),
            file.display().to_string()
        );
        assert_eq!(value(&prepared, "_FLYTE_APP_RAW_DATA_PATH"), "/raw");
        assert_eq!(value(&prepared, "FLYTE_INTERNAL_EXECUTION_PROJECT"), "shop");
        assert_eq!(value(&prepared, IN_REPLICA_VARIABLE), "1");
        let read: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let model = scene.cwd().join("model.bin").display().to_string();
        assert_eq!(read, json!({"weights": model}));
    }

    #[test]
    fn a_working_folder_that_cannot_be_written_gets_a_temporary_file() {
        let scene = Scene::new();
        // A folder in the file's place stops root too.
        fs::create_dir_all(scene.cwd().join("flyte-parameters.json/x")).unwrap();
        let prepared = scene.prepare(&args(&["sh"]), &[]).unwrap();
        let file = value(&prepared, "FLYTE_PARAMETERS_FILE");
        assert_eq!(fs::read_to_string(file).unwrap(), "{}");
        assert!(!Path::new(file).starts_with(scene.cwd()));
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_server_start_tells_the_python_edge_everything() {
        let scene = Scene::new();
        let mut given = args(&[]);
        given.resolver_args = Some("web.app:env".to_owned());
        given.parameters = Some(scene.weights());
        given.dest = "code".to_owned();
        let env = [
            ("_F_SYS_PATH", "./.:./src:./src"),
            ("_FLYTE_APP_NAME", "web"),
        ];
        let prepared = scene.prepare(&given, &env).unwrap();
        let Run::Server(start) = prepared.run else {
            panic!("a command was not given");
        };
        let cwd = scene.cwd();
        assert_eq!(
            serde_json::to_value(&start).unwrap(),
            json!({
                "loader": "web.app:env",
                "pkl": null,
                "app": "web",
                "parameters": {"weights": cwd.join("model.bin")},
                "kinds": {"weights": "file"},
                "sys_path": [cwd, cwd.join("src"), cwd.join("code")],
            })
        );
    }

    #[test]
    fn a_pickle_is_left_where_it_is() {
        let scene = Scene::new();
        let mut given = args(&[]);
        given.pkl = Some("../bundle.tar.gz".to_owned());
        let Run::Server(start) = scene.prepare(&given, &[]).unwrap().run else {
            panic!("a command was not given");
        };
        assert_eq!(start.pkl, Some(scene.cwd().join("../bundle.tar.gz")));
        assert_eq!(start.loader, None);
    }

    #[test]
    fn a_notebook_runs_in_its_own_folder_with_its_files_beside_its_pickle() {
        let scene = Scene::new();
        let bundle = scene.0.path().join("bundle.tar.gz").display().to_string();
        let mut given = args(&[]);
        given.tgz = Some(bundle.clone());
        given.pkl = Some(bundle);
        let env = [
            ("_FLYTE_WORKING_FOLDER", "notebooks/x"),
            ("_F_SYS_PATH", "./src"),
        ];
        let prepared = scene.prepare(&given, &env).unwrap();
        assert_eq!(prepared.folder, scene.cwd().join("notebooks/x"));
        assert!(prepared.folder.join("flyte-parameters.json").is_file());
        assert!(scene.cwd().join("model.bin").is_file());
        let Run::Server(start) = prepared.run else {
            panic!("a command was not given");
        };
        assert!(start.pkl.is_some());
        assert_eq!(start.sys_path, [scene.cwd(), scene.cwd().join("src")]);
    }

    #[test]
    fn code_that_is_not_there_or_out_of_reach_is_named() {
        let scene = Scene::new();
        let mut given = args(&["sh"]);
        given.tgz = Some("ftp://host/fast.tar.gz?key=1".to_owned());
        let error = scene.prepare(&given, &[]).unwrap_err();
        assert_eq!(
            crate::error::with_causes(&error),
            "code bundle `ftp://host/fast.tar.gz` cannot be fetched\n\
             Caused by: `ftp://host/fast.tar.gz` has the scheme `ftp`, which cannot be read"
        );
        given.tgz = Some("/no/such.tar.gz".to_owned());
        let error = scene.prepare(&given, &[]).unwrap_err();
        assert_eq!(error.code(), Code::RuntimeLoad);
        assert!(error.to_string().contains("/no/such.tar.gz"));
    }

    #[test]
    fn nothing_to_run_names_the_app() {
        let error = Scene::new()
            .prepare(&args(&[]), &[("_FLYTE_APP_NAME", "web")])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "app `web` has nothing to run: set args, command or a server function"
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_found_out_before_it_is_run() {
        let error = Scene::new()
            .prepare(&args(&["no-such-program"]), &[])
            .unwrap_err();
        assert_eq!(error.code(), Code::AppMissingCommand);
        assert!(error.to_string().contains("`no-such-program`"));
    }
}

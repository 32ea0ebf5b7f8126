//! From a stored app to the process that runs it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;

use super::diagnose::Failure;
use super::memory;
use super::replica::Launch;
use super::secrets;
use crate::config::Home;
use crate::error::Code;
use crate::local::store::AppKey;
use crate::wire::{app, core};

/// What stands in for a container image on this machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Environment {
    /// Holds `bin/python` and `bin/fserve`.
    pub path: PathBuf,
    pub env: Vec<(String, String)>,
    pub workdir: Option<String>,
    /// (file or folder, where it belongs in the run folder)
    pub files: Vec<(PathBuf, String)>,
    /// Its `fserve` is the PyPI SDK's: it knows nothing of this platform.
    pub foreign: bool,
}

/// Finds the environment that an image URI names. Implemented above this layer.
pub trait Environments: Send + Sync + 'static {
    /// `Err` says why the image cannot be run here.
    fn locate(&self, image_uri: &str) -> Result<Environment, String>;

    /// Makes the environment of an image that can be made from its name alone, where it is
    /// missing; `tell` hears what is going on. Other images are left as they are.
    fn prepare<'a>(
        &'a self,
        image_uri: &'a str,
        tell: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<(), Failure>>;

    /// The URI of the image that is known here as `name:tag`.
    fn find(&self, name: &str) -> Option<String>;
}

/// What all replicas of this platform have in common.
#[derive(Clone)]
pub struct Setting {
    pub home: Home,
    /// Prefix of every replica's mark.
    pub mark: String,
    pub environments: Arc<dyn Environments>,
    /// The command that runs our own `fserve`, for environments that have another one.
    pub fserve: Vec<String>,
    /// Where other clients reach this platform; empty while they cannot.
    pub listening: Arc<ArcSwap<String>>,
    /// Where all apps answer by name, once it is known that programs here find such names; else 0.
    pub names_port: Arc<AtomicU16>,
}

/// Variables of the platform's own environment that apps may need to reach the network.
const INHERITED: &[&str] = &[
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// Folders searched for programs behind the environment's own.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where programs are looked for: in the environment first.
pub fn search_path(environment: &Path) -> String {
    format!("{}:{SYSTEM_PATH}", environment.join("bin").display())
}

/// Folder of everything that an app writes: run folders and logs.
pub fn app_folder(home: &Home, key: &AppKey) -> PathBuf {
    home.apps().join(key.as_str())
}

/// The container of an app, or why it has none that runs here.
pub fn container(app: &app::App) -> Result<&core::Container, Failure> {
    match &app.spec.app_payload {
        Some(app::spec::AppPayload::Container(container)) => Ok(container),
        Some(app::spec::AppPayload::Pod(_)) => Err(Failure::new(
            Code::ConfigUnsupported,
            "pod templates run on a cluster only",
        )),
        None => Err(Failure::new(Code::AppFailed, "the app has no container")),
    }
}

/// Whether the app's port is declared to speak HTTP/2 without TLS.
pub fn speaks_h2(container: &core::Container) -> bool {
    container
        .ports
        .first()
        .is_some_and(|port| port.name == "h2c")
}

/// Prepares the run folder of a replica and tells what to start in it.
pub fn prepare(
    setting: &Setting,
    key: &AppKey,
    app: &app::App,
    root: &Path,
    revision: u64,
    number: u64,
) -> Result<Launch, Failure> {
    let container = container(app)?;
    let environment = setting
        .environments
        .locate(&container.image)
        .map_err(|reason| Failure::new(Code::ImageNeedsContainer, reason))?;
    let folder = match &environment.workdir {
        Some(workdir) => inside(root, workdir),
        None => root.to_path_buf(),
    };
    std::fs::create_dir_all(&folder)
        .and_then(|()| place_files(root, &environment.files))
        .map_err(|error| {
            Failure::new(
                Code::AppFailed,
                format!("cannot prepare `{}`: {error}", folder.display()),
            )
        })?;
    let declared_port = container
        .ports
        .first()
        .and_then(|port| u16::try_from(port.container_port).ok())
        .unwrap_or(8080);
    let raw_data = setting.home.raw_data().join(key.as_str());
    let (program, args) = start(setting, &environment, app, container, &raw_data);
    let secrets = secrets::reveal(setting, app)?;
    let mut env = variables(setting, key, app, container, &environment, declared_port);
    env.extend(secrets.variables);
    Ok(Launch {
        mark: format!("{}:{key}:{revision}:{number}", setting.mark),
        name: format!("{}-{revision}-{number}", key.name()),
        revision,
        program,
        args,
        env,
        secret_files: secrets.files,
        folder,
        declared_port,
        memory_limit: memory::limit(container),
    })
}

/// The program and its arguments: always an `fserve` of ours first, for it ties the process to the
/// platform and hands over the watch on its ports. One of theirs takes the process over from it, as
/// any command does.
fn start(
    setting: &Setting,
    environment: &Environment,
    app: &app::App,
    container: &core::Container,
    raw_data: &Path,
) -> (PathBuf, Vec<String>) {
    let arguments = arguments(app, container, raw_data);
    let (program, own) = match setting.fserve.split_first() {
        Some((program, own)) if environment.foreign => (program, own),
        Some(_) | None => return (environment.path.join("bin/fserve"), arguments),
    };
    let mut all = own.to_vec();
    if !is_fserve(container) {
        all.extend(arguments);
        return (program.into(), all);
    }
    let theirs = environment.path.join("bin/fserve");
    all.extend(["--version", "", "--"].map(str::to_owned));
    all.push(theirs.to_string_lossy().into_owned());
    // Theirs fills in variables itself, those of parameters among them.
    all.extend(arguments.iter().map(|word| word.replace('$', "$$")));
    (program.into(), all)
}

/// Whether the container's command is the runtime, rather than one of the user's.
fn is_fserve(container: &core::Container) -> bool {
    let program = container.command.first().map(Path::new);
    program.is_some_and(|program| program.file_name() == Some("fserve".as_ref()))
}

/// The command line behind `fserve`.
fn arguments(app: &app::App, container: &core::Container, raw_data: &Path) -> Vec<String> {
    let words = container.command.iter().chain(&container.args);
    let words =
        words.map(|word| word.replace("{{.rawOutputDataPrefix}}", &raw_data.to_string_lossy()));
    if is_fserve(container) {
        return words.skip(1).collect();
    }
    // A command of the user's: it still gets its code, as it would from an image.
    let mut arguments = vec!["--version".to_owned(), String::new()];
    let bundle = &app.metadata.code_bundle_uri;
    if !bundle.is_empty() {
        arguments.extend(["--tgz".into(), bundle.clone(), "--dest".into(), ".".into()]);
    }
    arguments.push("--".into());
    arguments.extend(words);
    arguments
}

fn variables(
    setting: &Setting,
    key: &AppKey,
    app: &app::App,
    container: &core::Container,
    environment: &Environment,
    declared_port: u16,
) -> Vec<(String, String)> {
    let id = &app.metadata.id;
    let mut variables: Vec<(String, String)> = INHERITED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
        .collect();
    let mut set = |name: &str, value: String| variables.push((name.to_owned(), value));
    set("PATH", search_path(&environment.path));
    set("VIRTUAL_ENV", environment.path.display().to_string());
    set("PYTHONUNBUFFERED", "1".into());
    set("PORT", declared_port.to_string());
    for (name, value) in &environment.env {
        set(name, value.clone());
    }
    for entry in &container.env {
        set(&entry.key, entry.value.clone());
    }
    set("FLYTE_HOME", setting.home.path().display().to_string());
    set("FLYTE_INTERNAL_EXECUTION_PROJECT", id.project.clone());
    set("FLYTE_INTERNAL_EXECUTION_DOMAIN", id.domain.clone());
    if environment.foreign {
        for (name, value) in of_a_cluster(setting, id) {
            set(name, value);
        }
    } else {
        set("_RUN_MODE", "local".into());
    }
    set("_FLYTE_APP_NAME", key.name().to_owned());
    set("_FLYTE_DECLARED_PORT", declared_port.to_string());
    set("_FLYTE_IN_REPLICA", "1".into());
    set("_FLYTE_CHANNEL", "stdin".into());
    variables
}

/// What the PyPI SDK expects of a cluster: the way back to the control plane, and to other apps.
fn of_a_cluster(setting: &Setting, id: &app::Identifier) -> Vec<(&'static str, String)> {
    let mut variables = vec![("_U_ORG_NAME", id.org.clone())];
    let port = setting.names_port.load(Ordering::Relaxed);
    if port != 0 {
        let (project, domain) = (&id.project, &id.domain);
        let pattern = format!("http://{{app_fqdn}}-{project}-{domain}.localhost:{port}");
        variables.push(("INTERNAL_APP_ENDPOINT_PATTERN", pattern));
    }
    let listening = setting.listening.load();
    if !listening.is_empty() {
        variables.push(("_U_EP_OVERRIDE", listening.as_ref().clone()));
        variables.push(("_U_INSECURE", "true".into()));
    }
    variables
}

/// A path of the image, below the run folder: an image's root is not this machine's.
fn inside(root: &Path, path: &str) -> PathBuf {
    let mut result = root.to_path_buf();
    for part in Path::new(path).components() {
        if let std::path::Component::Normal(part) = part {
            result.push(part);
        }
    }
    result
}

fn place_files(root: &Path, files: &[(PathBuf, String)]) -> std::io::Result<()> {
    for (source, target) in files {
        let target = inside(root, target);
        if source.is_dir() {
            copy_folder(source, &target)?;
        } else {
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::copy(source, &target)?;
        }
    }
    Ok(())
}

fn copy_folder(source: &Path, target: &Path) -> std::io::Result<()> {
    for entry in walkdir::WalkDir::new(source).min_depth(1) {
        let entry = entry?;
        let relative = entry.path().strip_prefix(source).unwrap_or(entry.path());
        let target = target.join(relative);
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(&target)?;
        } else {
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::identifier;

    struct Fixed(Environment);

    impl Environments for Fixed {
        fn locate(&self, image_uri: &str) -> Result<Environment, String> {
            if image_uri == "known" {
                Ok(self.0.clone())
            } else {
                Err(format!("no image `{image_uri}`"))
            }
        }

        fn prepare<'a>(
            &'a self,
            _: &'a str,
            _: &'a (dyn Fn(&str) + Send + Sync),
        ) -> BoxFuture<'a, Result<(), Failure>> {
            Box::pin(async { Ok(()) })
        }

        fn find(&self, _: &str) -> Option<String> {
            None
        }
    }

    fn setting(folder: &Path, environment: Environment) -> Setting {
        Setting {
            home: Home::at(folder.to_path_buf()),
            mark: "m".into(),
            environments: Arc::new(Fixed(environment)),
            fserve: ["python", "-c", "ours"].map(str::to_owned).into(),
            listening: Arc::new(ArcSwap::from_pointee("localhost:8090".to_owned())),
            names_port: Arc::new(AtomicU16::new(80)),
        }
    }

    fn app(image: &str, command: &[&str], args: &[&str]) -> app::App {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        app::App {
            metadata: app::Meta {
                id: identifier("", "p", "d", "web").into(),
                code_bundle_uri: "file:///b.tar.zst".into(),
                ..Default::default()
            }
            .into(),
            spec: app::Spec {
                app_payload: Some(
                    core::Container {
                        image: image.into(),
                        command: words(command),
                        args: words(args),
                        env: vec![core::KeyValuePair {
                            key: "MODE".into(),
                            value: "test".into(),
                            ..Default::default()
                        }],
                        ..Default::default()
                    }
                    .into(),
                ),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        }
    }

    fn key() -> AppKey {
        AppKey::of(&identifier("", "p", "d", "web"))
    }

    fn launch_of(setting: &Setting, app: &app::App) -> Result<Launch, Failure> {
        let root = app_folder(&setting.home, &key()).join("1");
        prepare(setting, &key(), app, &root, 1, 1)
    }

    #[test]
    fn fserve_lines_are_kept_and_own_commands_are_wrapped() {
        let folder = tempfile::tempdir().unwrap();
        let setting = setting(folder.path(), Environment::default());
        let app_ = app("known", &["fserve", "--version", "1", "--"], &["python"]);
        let launch = launch_of(&setting, &app_).unwrap();
        assert_eq!(launch.args, ["--version", "1", "--", "python"]);

        let app_ = app("known", &["gunicorn", "x:y"], &["-w", "2"]);
        let launch = launch_of(&setting, &app_).unwrap();
        assert_eq!(
            launch.args[2..],
            [
                "--tgz",
                "file:///b.tar.zst",
                "--dest",
                ".",
                "--",
                "gunicorn",
                "x:y",
                "-w",
                "2"
            ]
        );
    }

    #[test]
    fn a_foreign_runtime_takes_the_process_over_from_ours() {
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment {
            path: "/env".into(),
            foreign: true,
            ..Environment::default()
        };
        let setting = setting(folder.path(), environment);
        let words = ["fserve", "--version", "1", "--", "sh", "-c", "$MODE"];
        let launch = launch_of(&setting, &app("known", &words, &[])).unwrap();
        assert_eq!(launch.program, Path::new("python"));
        let expected = ["-c", "ours", "--version", "", "--", "/env/bin/fserve"];
        assert_eq!(launch.args[..6], expected);
        assert_eq!(
            launch.args[6..],
            ["--version", "1", "--", "sh", "-c", "$$MODE"]
        );
        let told = |name: &str| launch.env.iter().find(|(key, _)| key == name).cloned();
        assert_eq!(told("_U_EP_OVERRIDE").unwrap().1, "localhost:8090");
        assert_eq!(told("_RUN_MODE"), None);
        let pattern = told("INTERNAL_APP_ENDPOINT_PATTERN").unwrap().1;
        assert_eq!(pattern, "http://{app_fqdn}-p-d.localhost:80");

        let launch = launch_of(&setting, &app("known", &["gunicorn"], &[])).unwrap();
        assert_eq!(launch.args[..3], ["-c", "ours", "--version"]);
        assert_eq!(launch.args.last().unwrap(), "gunicorn");
    }

    #[test]
    fn the_callers_environment_does_not_leak_in() {
        let folder = tempfile::tempdir().unwrap();
        let setting = setting(folder.path(), Environment::default());
        let app_ = app("known", &["fserve"], &[]);
        let launch = launch_of(&setting, &app_).unwrap();
        let get = |name: &str| {
            launch
                .env
                .iter()
                .rev()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(get("MODE"), Some("test"));
        assert_eq!(get("PORT"), Some("8080"));
        assert_eq!(get("CARGO_MANIFEST_DIR"), None);
    }

    #[test]
    fn an_unknown_image_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let setting = setting(folder.path(), Environment::default());
        let failure = launch_of(&setting, &app("other", &["fserve"], &[]))
            .err()
            .unwrap();
        assert_eq!(failure.code, Code::ImageNeedsContainer);
        assert!(failure.message.contains("`other`"));
    }

    #[test]
    fn files_and_workdir_stay_inside_the_run_folder() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("data.txt");
        std::fs::write(&source, "x").unwrap();
        let environment = Environment {
            workdir: Some("/app".into()),
            files: vec![(source, "../../app/data.txt".into())],
            ..Environment::default()
        };
        let setting = setting(folder.path(), environment);
        let launch = launch_of(&setting, &app("known", &["fserve"], &[])).unwrap();
        assert!(launch.folder.ends_with("p/d/web/1/app"));
        assert!(launch.folder.join("data.txt").is_file());
    }
}

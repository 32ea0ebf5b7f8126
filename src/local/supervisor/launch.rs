//! From a stored app to the process or the container that runs it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;

use super::container::{Containers, Order};
use super::diagnose::Failure;
use super::entry;
use super::memory;
use super::process::Program;
use super::replica::{Launch, What};
use super::secrets::{self, Revealed};
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
    /// `None` for an image that is a container's; `Err` says why an environment cannot be used.
    fn locate(&self, image_uri: &str) -> Result<Option<Environment>, String>;

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
    pub containers: Arc<Containers>,
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

/// Tells what to start as a replica, and prepares the folder that a process runs in.
pub fn prepare(
    setting: &Setting,
    key: &AppKey,
    app: &app::App,
    root: &Path,
    revision: u64,
    number: u64,
) -> Result<Launch, Failure> {
    let container = container(app)?;
    let declared_port = container
        .ports
        .first()
        .and_then(|port| u16::try_from(port.container_port).ok())
        .unwrap_or(8080);
    let raw_data = setting.home.raw_data().join(key.as_str());
    let environment = setting
        .environments
        .locate(&container.image)
        .map_err(|reason| Failure::new(Code::ImageNeedsContainer, reason))?;
    let revealed = secrets::reveal(setting, app)?;
    let (what, secret_files) = match environment {
        Some(environment) => {
            let Revealed {
                variables: secret_variables,
                files,
            } = revealed;
            let (path, args) = start(setting, &environment, app, container, &raw_data);
            let mut env = variables(setting, key, app, container, &environment, declared_port);
            env.extend(secret_variables);
            let program = Program {
                folder: run_folder(root, &environment)?,
                path,
                args,
                env,
            };
            (What::Program(program), files)
        }
        None => {
            let mut order = order(setting, key, app, container, raw_data, declared_port)?;
            let files = secrets::for_container(revealed, &setting.mark, &mut order)?;
            (What::Container(order), files)
        }
    };
    Ok(Launch {
        mark: format!("{}:{key}:{revision}:{number}", setting.mark),
        name: format!("{}-{revision}-{number}", key.name()),
        revision,
        declared_port,
        memory_limit: memory::limit(container),
        cores: memory::cores(container),
        secret_files,
        what,
    })
}

/// The folder that a process runs in, with the files of its image in place.
fn run_folder(root: &Path, environment: &Environment) -> Result<PathBuf, Failure> {
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
    Ok(folder)
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
        Some(_) | None => return entry::command(&environment.path, arguments),
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

/// The container of an app, as a cluster would run it.
fn order(
    setting: &Setting,
    key: &AppKey,
    app: &app::App,
    container: &core::Container,
    raw_data: PathBuf,
    declared_port: u16,
) -> Result<Order, Failure> {
    let uploads = setting.home.uploads();
    // Whoever the image runs as writes there; the home itself admits nobody else.
    let everybody = std::fs::Permissions::from_mode(0o777);
    std::fs::create_dir_all(&uploads)
        .and_then(|()| std::fs::create_dir_all(&raw_data))
        .and_then(|()| std::fs::set_permissions(&raw_data, everybody))
        .map_err(|error| {
            let text = format!("cannot prepare `{}`: {error}", raw_data.display());
            Failure::new(Code::AppFailed, text)
        })?;
    let words = |words: &[String]| -> Vec<String> {
        let prefix = raw_data.to_string_lossy();
        let words = words.iter();
        words
            .map(|word| word.replace("{{.rawOutputDataPrefix}}", &prefix))
            .collect()
    };
    let mut env = vec![
        ("PYTHONUNBUFFERED".to_owned(), "1".to_owned()),
        ("PORT".to_owned(), declared_port.to_string()),
    ];
    let declared = container.env.iter();
    env.extend(declared.map(|entry| (entry.key.clone(), entry.value.clone())));
    env.push(("_RUN_MODE".to_owned(), "local".to_owned()));
    env.extend(about(key, app));
    let shared = memory::bytes(&app.spec.extended_resources.shared_memory.size_limit);
    Ok(Order {
        image: container.image.clone(),
        entrypoint: words(&container.command),
        command: words(&container.args),
        env,
        readable: vec![uploads],
        secrets: None,
        variables: None,
        nano_cpus: memory::nano_cpus(container),
        project: app.metadata.id.project.clone(),
        domain: app.metadata.id.domain.clone(),
        writable: vec![raw_data],
        shared_memory: shared.and_then(|bytes| i64::try_from(bytes).ok()),
    })
}

/// Variables by which a replica knows itself.
fn about(key: &AppKey, app: &app::App) -> [(String, String); 4] {
    let id = &app.metadata.id;
    [
        ("FLYTE_INTERNAL_EXECUTION_PROJECT", id.project.clone()),
        ("FLYTE_INTERNAL_EXECUTION_DOMAIN", id.domain.clone()),
        ("_FLYTE_APP_NAME", key.name().to_owned()),
        ("_FLYTE_IN_REPLICA", "1".into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
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
    set("_FLYTE_CHANNEL", "stdin".into());
    if environment.foreign {
        for (name, value) in of_a_cluster(setting, &app.metadata.id) {
            set(name, value);
        }
    } else {
        set("_RUN_MODE", "local".into());
    }
    variables.extend(about(key, app));
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
            copy_folder(root, source, &target)?;
        } else {
            place_file(root, source, &target)?;
        }
    }
    Ok(())
}

fn copy_folder(root: &Path, source: &Path, target: &Path) -> std::io::Result<()> {
    for entry in walkdir::WalkDir::new(source).min_depth(1) {
        let entry = entry?;
        let relative = entry.path().strip_prefix(source).unwrap_or(entry.path());
        let target = target.join(relative);
        if entry.file_type().is_dir() {
            make_folder(root, &target)?;
        } else {
            place_file(root, entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Puts a file in its place, or a link, which stays one as in the image. What an earlier start put
/// there is removed, since it may be read-only.
fn place_file(root: &Path, source: &Path, target: &Path) -> std::io::Result<()> {
    if let Some(parent) = target.parent() {
        make_folder(root, parent)?;
    }
    match std::fs::remove_file(target) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    if source.is_symlink() {
        std::os::unix::fs::symlink(std::fs::read_link(source)?, target)
    } else {
        std::fs::copy(source, target).map(drop)
    }
}

/// Makes a folder of the run folder. A link in its way goes: the app may have made it before it was
/// started again, and may not write where it leads.
fn make_folder(root: &Path, folder: &Path) -> std::io::Result<()> {
    let mut path = root.to_path_buf();
    for part in folder.strip_prefix(root).into_iter().flatten() {
        path.push(part);
        if path.is_symlink() {
            std::fs::remove_file(&path)?;
        }
    }
    std::fs::create_dir_all(&path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::identifier;

    struct Fixed(Environment);

    impl Environments for Fixed {
        fn locate(&self, image_uri: &str) -> Result<Option<Environment>, String> {
            match image_uri {
                "known" => Ok(Some(self.0.clone())),
                "broken" => Err(format!("no image `{image_uri}`")),
                _ => Ok(None),
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
            containers: Arc::new(Containers::new(&Home::at(folder.to_path_buf()), "m", 1)),
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

    fn program(launch: Launch) -> Program {
        match launch.what {
            What::Program(program) => program,
            What::Container(order) => panic!("a container: {order:?}"),
        }
    }

    #[test]
    fn fserve_lines_are_kept_and_own_commands_are_wrapped() {
        let folder = tempfile::tempdir().unwrap();
        let setting = setting(folder.path(), Environment::default());
        let app_ = app("known", &["fserve", "--version", "1", "--"], &["python"]);
        let launch = program(launch_of(&setting, &app_).unwrap());
        assert_eq!(launch.args, ["--version", "1", "--", "python"]);

        let app_ = app("known", &["gunicorn", "x:y"], &["-w", "2"]);
        let launch = program(launch_of(&setting, &app_).unwrap());
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
        let launch = program(launch_of(&setting, &app("known", &words, &[])).unwrap());
        assert_eq!(launch.path, Path::new("python"));
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

        let launch = program(launch_of(&setting, &app("known", &["gunicorn"], &[])).unwrap());
        assert_eq!(launch.args[..3], ["-c", "ours", "--version"]);
        assert_eq!(launch.args.last().unwrap(), "gunicorn");
    }

    #[test]
    fn the_callers_environment_does_not_leak_in() {
        let folder = tempfile::tempdir().unwrap();
        let setting = setting(folder.path(), Environment::default());
        let app_ = app("known", &["fserve"], &[]);
        let launch = program(launch_of(&setting, &app_).unwrap());
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
    fn a_lost_environment_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let setting = setting(folder.path(), Environment::default());
        let failure = launch_of(&setting, &app("broken", &["fserve"], &[]))
            .err()
            .unwrap();
        assert_eq!(failure.code, Code::ImageNeedsContainer);
        assert!(failure.message.contains("`broken`"));
    }

    #[test]
    fn other_images_are_run_as_a_cluster_runs_them() {
        let folder = tempfile::tempdir().unwrap();
        let setting = setting(folder.path(), Environment::default());
        let app_ = app(
            "other",
            &["fserve", "--raw-data-path", "{{.rawOutputDataPrefix}}"],
            &["x"],
        );
        let launch = launch_of(&setting, &app_).unwrap();
        let What::Container(order) = launch.what else {
            panic!("not a container");
        };
        let raw_data = setting.home.raw_data().join("p/d/web");
        assert_eq!(order.entrypoint[2], raw_data.to_string_lossy());
        assert_eq!(
            (order.image.as_str(), &order.command[..]),
            ("other", &["x".to_owned()][..])
        );
        assert_eq!(order.writable, [raw_data]);
        let names: Vec<&str> = order.env.iter().map(|(name, _)| name.as_str()).collect();
        assert!(
            names.contains(&"MODE") && !names.contains(&"PATH"),
            "{names:?}"
        );
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
        let launch = program(launch_of(&setting, &app("known", &["fserve"], &[])).unwrap());
        assert!(launch.folder.ends_with("p/d/web/1/app"));
        assert!(launch.folder.join("data.txt").is_file());
    }

    #[test]
    fn a_start_replaces_files_that_are_read_only_and_keeps_links() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("site");
        let page = source.join("pages/index.html");
        std::fs::create_dir_all(source.join("pages")).unwrap();
        std::fs::write(&page, "x").unwrap();
        std::fs::set_permissions(&page, std::fs::Permissions::from_mode(0o444)).unwrap();
        symlink("pages", source.join("current")).unwrap();
        symlink("nowhere", source.join("dangling")).unwrap();
        let environment = Environment {
            files: vec![(source, "/site".into())],
            ..Environment::default()
        };
        let setting = setting(folder.path(), environment);
        let app_ = app("known", &["fserve"], &[]);
        let start = || program(launch_of(&setting, &app_).unwrap()).folder;
        let site = start().join("site");
        let (page, before) = (site.join("pages/index.html"), site.join("before.html"));
        std::fs::hard_link(&page, &before).unwrap();
        start();
        // Root could write to the first one, which nobody else can.
        let file = |path: &Path| std::fs::metadata(path).unwrap().ino();
        assert_ne!(file(&page), file(&before));
        for (link, target) in [("current", "pages"), ("dangling", "nowhere")] {
            let found = std::fs::read_link(site.join(link)).unwrap();
            assert_eq!(found, Path::new(target));
        }
        // What an app leaves in the way leads nowhere.
        let elsewhere = folder.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::remove_dir_all(site.join("pages")).unwrap();
        symlink(&elsewhere, site.join("pages")).unwrap();
        start();
        assert!(page.is_file() && !site.join("pages").is_symlink());
        assert!(!elsewhere.join("index.html").exists());
    }
}

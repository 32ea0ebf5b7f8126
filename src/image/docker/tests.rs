//! Builds by the real engine: every layer, looked at from inside a container.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::error::{Code, Diagnostic};
use crate::image::env::{SdkPayload, Toolchain};
use crate::image::uri;
use crate::spec::{InstallMode, InstallOptions, PythonVersion, SecretRef};

/// Made by `.ci/docker`: Debian with Python 3.11 and `venv`.
const BASE: &str = "flyte-test-base:bookworm";
const SECRET: &str = "s3cret-0f-flyte-tests";

fn quiet(_: Progress<'_>) {}

fn no_login() -> Lookup {
    Arc::new(|_| Box::pin(async { Ok(None) }))
}

/// An engine that has the test base, without which only continuous integration fails.
async fn engine() -> Option<Engine> {
    let problem = match Engine::connect().await {
        Ok(engine) => match inspect(&engine, BASE).await {
            Ok(Some(_)) => return Some(engine),
            Ok(None) => format!("no image `{BASE}`; `.ci/docker` makes it"),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    assert!(std::env::var_os("CI").is_none(), "{problem}");
    eprintln!("skipped: {problem}");
    None
}

struct World {
    engine: Engine,
    dir: tempfile::TempDir,
    toolchain: Toolchain,
}

impl World {
    async fn new() -> Option<Self> {
        let engine = engine().await?;
        let dir = tempfile::tempdir().unwrap();
        let package = dir.path().join("sdk/flyte");
        std::fs::create_dir_all(&package).unwrap();
        std::fs::write(package.join("__init__.py"), "").unwrap();
        let main = "def main():\n    print('served')\n";
        std::fs::write(package.join("_runtime.py"), main).unwrap();
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/uv");
        let uv = std::env::var_os("FLYTE_TEST_UV")
            .map(PathBuf::from)
            .or_else(|| crate::image::system::find_on_path("uv"))
            .unwrap_or(here);
        let world = Self {
            toolchain: Toolchain {
                home: dir.path().join("home"),
                uv,
                python: "/usr/bin/python3".into(),
                python_version: PythonVersion {
                    major: 3,
                    minor: 11,
                },
                sdk: SdkPayload {
                    entries: vec![package],
                    identity: "1".into(),
                },
            },
            engine,
            dir,
        };
        world.trusting_base().await;
        Some(world)
    }

    /// The test base with the certificates of this machine, so that steps reach an index as it does.
    async fn trusting_base(&self) {
        let folder = self.dir.path().join("base");
        std::fs::create_dir_all(&folder).unwrap();
        let bundle = std::env::var("SSL_CERT_FILE")
            .unwrap_or_else(|_| "/etc/ssl/certs/ca-certificates.crt".into());
        std::fs::copy(bundle, folder.join("ca.crt")).unwrap();
        let text = format!(
            "FROM {BASE}\nCOPY ca.crt /etc/ssl/certs/ca-certificates.crt\nENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt\n"
        );
        std::fs::write(folder.join("Dockerfile"), text).unwrap();
        let image = Image {
            base: Base::Dockerfile(folder.join("Dockerfile")),
            ..self.image(vec![])
        };
        let order = Order {
            uri: TRUSTING.to_owned(),
            force: false,
            ..self.order(&image)
        };
        self.made(&image, &order).await.unwrap();
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn image(&self, layers: Vec<Layer>) -> Image {
        Image {
            name: Some("flyte-test-made".into()),
            registry: None,
            base: Base::Debian {
                install_flyte: true,
            },
            python: self.toolchain.python_version,
            python_is_explicit: false,
            platforms: vec![],
            layers,
        }
    }

    /// An order of a tag that no earlier run has used.
    fn order(&self, image: &Image) -> Order {
        let hash = blake3::hash(self.dir.path().as_os_str().as_encoded_bytes()).to_hex();
        Order {
            uri: format!("{}-{}", uri(image).unwrap(), &hash[..8]),
            content: None,
            platform: None,
            force: false,
            base: Some(TRUSTING.into()),
            network: Some(
                std::env::var("FLYTE_DOCKER_BUILD_NETWORK").unwrap_or_else(|_| "host".into()),
            ),
            login: no_login(),
        }
    }

    async fn made(&self, image: &Image, order: &Order) -> Result<Built, Error> {
        build(&self.engine, &self.toolchain, image, order, &quiet).await
    }

    /// What a shell prints in a container of the image with these layers.
    async fn printed(&self, image: &Image, script: &str) -> String {
        let order = self.order(image);
        let built = self.made(image, &order).await;
        let built =
            built.unwrap_or_else(|error| panic!("{error}\n{}", error.log_tail().join("\n")));
        run(&self.engine, &built.uri, script).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let hash = blake3::hash(self.dir.path().as_os_str().as_encoded_bytes()).to_hex();
        let made = format!(
            "docker images --quiet --filter 'reference=flyte-test-made:*-{}' | sort -u | xargs -r docker rmi -f",
            &hash[..8]
        );
        let _ = Command::new("sh").args(["-c", &made]).output();
    }
}

const TRUSTING: &str = "flyte-test-trusting:bookworm";

/// Runs a shell in a container and tells what it printed.
async fn run(engine: &Engine, image: &str, script: &str) -> String {
    use bollard::models::ContainerCreateBody;
    use bollard::query_parameters::{LogsOptionsBuilder, RemoveContainerOptionsBuilder};
    use futures::TryStreamExt;
    let docker = engine.docker();
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(vec!["/bin/sh".into(), "-c".into()]),
        cmd: Some(vec![script.to_owned()]),
        ..Default::default()
    };
    let made = docker
        .create_container(
            None::<bollard::query_parameters::CreateContainerOptions>,
            body,
        )
        .await
        .unwrap();
    docker.start_container(&made.id, None).await.unwrap();
    let options = LogsOptionsBuilder::default()
        .follow(true)
        .stdout(true)
        .stderr(true)
        .build();
    let pieces: Vec<_> = docker
        .logs(&made.id, Some(options))
        .map_ok(|piece| piece.to_string())
        .try_collect()
        .await
        .unwrap();
    let force = RemoveContainerOptionsBuilder::default().force(true).build();
    docker
        .remove_container(&made.id, Some(force))
        .await
        .unwrap();
    pieces.concat().trim().to_owned()
}

fn pip(packages: &[&str]) -> Layer {
    Layer::PipPackages {
        packages: packages.iter().map(|text| (*text).to_owned()).collect(),
        options: InstallOptions::default(),
    }
}

fn commands(commands: &[&str], secrets: Vec<SecretRef>) -> Layer {
    Layer::Commands {
        commands: commands.iter().map(|text| (*text).to_owned()).collect(),
        secret_mounts: secrets,
    }
}

const PROJECT: &str = "[project]\nname = \"demo-project\"\nversion = \"1\"\nrequires-python = \">=3.9\"\ndependencies = [\"six\"]\n[build-system]\nrequires = [\"setuptools\"]\nbuild-backend = \"setuptools.build_meta\"\n[tool.setuptools]\npy-modules = [\"demo_module\"]\n";

/// A project of one module that depends on `six`, locked by `uv`.
fn project(world: &World) -> PathBuf {
    let pyproject = world.write("project/pyproject.toml", PROJECT);
    world.write("project/demo_module.py", "VALUE = 7\n");
    let mut uv = Command::new(&world.toolchain.uv);
    uv.args(["lock", "--quiet", "--project"])
        .arg(world.at("project"));
    assert!(uv.status().unwrap().success());
    pyproject
}

#[tokio::test]
async fn packages_come_from_names_files_scripts_wheels_and_folders() {
    let Some(world) = World::new().await else {
        return;
    };
    let options = InstallOptions::default;
    world.write("list/requirements.txt", "-r more.txt\nflyte>=2\n");
    world.write("list/more.txt", "iniconfig\n");
    let script = world.write(
        "s.py",
        "# /// script\n# requires-python = \">=3.11\"\n# dependencies = [\"packaging<25\"]\n# ///\n",
    );
    project(&world);
    let mut uv = Command::new(&world.toolchain.uv);
    uv.args(["build", "--quiet", "--wheel", "--out-dir"])
        .arg(world.at("dist"))
        .arg(world.at("project"));
    assert!(uv.status().unwrap().success());
    world.write(
        "lib/pyproject.toml",
        &PROJECT
            .replace("demo-project", "demo-lib")
            .replace("demo_module", "demo_lib"),
    );
    world.write("lib/demo_lib.py", "VALUE = 8\n");
    let layers = vec![
        pip(&["six", &format!("{}", world.at("lib").display())]),
        Layer::Requirements {
            file: world.at("list/requirements.txt"),
            options: options(),
        },
        Layer::UvScript {
            script,
            options: options(),
        },
        Layer::Wheels {
            package: "demo-project".into(),
            folder: world.at("dist"),
            options: options(),
        },
    ];
    let code = "python -c 'import six, iniconfig, packaging, demo_module, demo_lib, sys; print(demo_module.VALUE, demo_lib.VALUE, packaging.__version__ < \"25\", sys.prefix)'; fserve; id -u; pwd; ls /tmp/.flyte /tmp/.flyte/uv-cache 2>/dev/null | wc -c";
    let printed = world.printed(&world.image(layers), code).await;
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(
        lines[..4],
        ["7 8 True /opt/venv", "served", "1000", "/home/flyte"]
    );
}

#[tokio::test]
async fn projects_are_installed_with_and_without_their_code() {
    let Some(world) = World::new().await else {
        return;
    };
    let pyproject = project(&world);
    let other = world.at("other.lock");
    std::fs::copy(world.at("project/uv.lock"), &other).unwrap();
    let code = "python -c \"import six, importlib.util as u; print(u.find_spec('demo_module') is not None)\"";
    for (lock, mode, expected) in [
        (
            Some(world.at("project/uv.lock")),
            InstallMode::InstallProject,
            "True",
        ),
        (Some(other), InstallMode::DependenciesOnly, "False"),
        (None, InstallMode::DependenciesOnly, "False"),
    ] {
        let layer = Layer::UvProject {
            pyproject: pyproject.clone(),
            lock,
            mode,
            options: InstallOptions::default(),
        };
        assert_eq!(
            world.printed(&world.image(vec![layer]), code).await,
            expected
        );
    }
}

#[tokio::test]
async fn poetry_makes_a_list_and_stays_out() {
    let Some(world) = World::new().await else {
        return;
    };
    let text = "[project]\nname = \"demo\"\nversion = \"1\"\nrequires-python = \">=3.11\"\ndependencies = [\"six (==1.16.0)\"]\n[build-system]\nrequires = [\"poetry-core\"]\nbuild-backend = \"poetry.core.masonry.api\"\n[[tool.poetry.source]]\nname = \"index\"\nurl = \"https://pypi.org/simple/\"\npriority = \"primary\"\n";
    let pyproject = world.write("p/pyproject.toml", text);
    let mut uv = Command::new(&world.toolchain.uv);
    uv.args(["tool", "run", "poetry", "lock", "--directory"])
        .arg(world.at("p"));
    assert!(uv.output().unwrap().status.success());
    let layer = Layer::PoetryProject {
        pyproject,
        lock: world.at("p/poetry.lock"),
        mode: InstallMode::DependenciesOnly,
        options: InstallOptions::default(),
    };
    let code = "python -c \"import six, importlib.util as u; print(six.__version__, u.find_spec('poetry'))\"";
    let printed = world.printed(&world.image(vec![layer]), code).await;
    assert_eq!(printed, "1.16.0 None");
}

#[tokio::test]
async fn files_variables_folders_and_commands_are_as_declared() {
    let Some(world) = World::new().await else {
        return;
    };
    world.write("web/a.txt", "a");
    world.write("web/skipped/b.txt", "b");
    world.write("web/.git/HEAD", "x");
    let ignore = world.write(".dockerignore", "web/skipped\n");
    let file = world.write("my file.txt", "text");
    let layers = vec![
        Layer::EnvVars(vec![
            ("GREETING".into(), "hello  world".into()),
            ("PATH".into(), "/x:$PATH".into()),
            ("PRICE".into(), r#"\$5 "net""#.into()),
        ]),
        Layer::Workdir("/srv/app".into()),
        Layer::SourceFile {
            src: file,
            dst: ".".into(),
        },
        Layer::SourceFolder {
            src: world.at("web"),
            dst: "./web".into(),
        },
        Layer::DockerIgnore(ignore),
        commands(
            &[
                "echo one > /made # why",
                "if true\nthen uv --version >> /made\nfi",
            ],
            vec![],
        ),
    ];
    let script = "echo \"$GREETING|${PATH%%:*}|$PRICE\"; pwd; cat 'my file.txt'; echo; find web | sort | tr '\\n' ' '; echo; stat -c '%u %a' web/a.txt; cut -c1-3 /made | tr '\\n' ' '; echo; touch mine && echo writable; command -v uv || echo no uv";
    let printed = world.printed(&world.image(layers), script).await;
    let expected = "hello  world|/x|$5 \"net\"\n/srv/app\ntext\nweb web/a.txt \n1000 644\none uv  \nwritable\nno uv";
    assert_eq!(printed, expected);
}

/// `apt` itself needs a mirror; what it is told is looked at by a stand-in in its place.
#[tokio::test]
async fn system_packages_are_installed_by_apt() {
    let Some(world) = World::new().await else {
        return;
    };
    let layers = vec![
        commands(
            &[
                "printf '#!/bin/sh\\necho \"$@\" >> /apt.log\\n' > /usr/local/bin/apt-get && chmod +x /usr/local/bin/apt-get",
            ],
            vec![],
        ),
        Layer::AptPackages {
            packages: vec!["git".into(), "libx=1~2".into()],
            secret_mounts: vec![],
        },
    ];
    let printed = world.printed(&world.image(layers), "cat /apt.log").await;
    assert_eq!(
        printed,
        "update\ninstall -y --no-install-recommends git 'libx=1~2'".replace('\'', "")
    );
}

#[tokio::test]
async fn a_foreign_base_keeps_its_user_and_gets_packages() {
    let Some(world) = World::new().await else {
        return;
    };
    let folder = world.at("foreign");
    world.write(
        "foreign/Dockerfile",
        &format!("FROM {TRUSTING}\nRUN useradd --uid 4242 worker\nWORKDIR /work\nUSER worker\n"),
    );
    world.write("foreign/left out.txt", "x");
    world.write("foreign/.dockerignore", "*.txt\n");
    let foreign = Image {
        base: Base::Dockerfile(folder.join("Dockerfile")),
        ..world.image(vec![])
    };
    let order = world.order(&foreign);
    let base = world.made(&foreign, &order).await.unwrap();
    let image = Image {
        base: Base::Uri(base.uri),
        ..world.image(vec![
            pip(&["six"]),
            Layer::SourceFile {
                src: world.write("x.txt", ""),
                dst: "x.txt".into(),
            },
        ])
    };
    let script = "id -un; pwd; stat -c %U x.txt; python -c 'import six; print(1)'; command -v fserve || echo no sdk";
    let printed = world.printed(&image, script).await;
    assert_eq!(printed, "worker\n/work\nworker\n1\nno sdk");
}

#[tokio::test]
async fn a_failing_step_is_named_with_what_it_wrote() {
    let Some(world) = World::new().await else {
        return;
    };
    let image = world.image(vec![commands(
        &["echo before; echo the reason >&2; exit 3"],
        vec![],
    )]);
    let order = world.order(&image);
    let error = world.made(&image, &order).await.unwrap_err();
    assert_eq!(error.code(), Code::ImageBuildFailed);
    let text = error.to_string();
    assert!(text.contains("with_commands('echo before;"), "{text}");
    assert!(text.ends_with("exit code 3"), "{text}");
    // The engine reads a step's two streams one beside the other.
    let mut tail = error.log_tail();
    tail.sort();
    assert_eq!(tail, ["before", "the reason"]);
    assert_eq!(find(&world.engine, &order.uri).await.unwrap(), None);
    let missing = world.image(vec![pip(&["flyte-rs-no-such-package-0"])]);
    let error = world
        .made(&missing, &world.order(&missing))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("with_pip_packages('flyte-rs-no-such-package-0')")
    );
    assert!(
        error
            .log_tail()
            .join("\n")
            .contains("flyte-rs-no-such-package-0")
    );
}

#[tokio::test]
async fn secrets_reach_a_step_and_nothing_else() {
    let Some(world) = World::new().await else {
        return;
    };
    let secret = |mount: Option<&str>| SecretRef {
        key: "flyte-docker-test".into(),
        group: None,
        mount: mount.map(str::to_owned),
        env_var: None,
    };
    // Steps that ran before are not run again, and write nothing.
    let unique = format!("true {}", world.dir.path().display());
    let image = world.image(vec![
        commands(&[&unique], vec![]),
        commands(
            &["echo \"$FLYTE_DOCKER_TEST\"; printf %s \"$FLYTE_DOCKER_TEST\" | sha256sum > /sum"],
            vec![secret(None)],
        ),
        commands(
            &["sha256sum < /etc/flyte/secrets/flyte-docker-test >> /sum"],
            vec![secret(Some("/etc/flyte/secrets"))],
        ),
    ]);
    let order = world.order(&image);
    let missing = world.made(&image, &order).await.unwrap_err();
    assert!(
        missing.to_string().contains("`flyte-docker-test`"),
        "{missing}"
    );
    let told = Mutex::new(Vec::new());
    let sink = |progress: Progress<'_>| told.lock().unwrap().push(format!("{progress:?}"));
    let secrets = crate::image::secret::Secrets::of("FLYTE_DOCKER_TEST", SECRET);
    let built = build::with_secrets(
        &world.engine,
        &world.toolchain,
        &image,
        &order,
        Some(secrets),
        &sink,
    )
    .await
    .unwrap();
    let told = told.into_inner().unwrap().join("\n");
    assert!(told.contains("***") && !told.contains(SECRET), "{told}");
    let sums = run(
        &world.engine,
        &built.uri,
        "cat /sum; grep -rls s3cret-0f / --include='*' --exclude-dir=proc --exclude-dir=sys | head",
    )
    .await;
    let lines: Vec<&str> = sums.lines().collect();
    assert_eq!(lines.len(), 2, "{sums}");
    assert_eq!(lines[0], lines[1]);
    let saved = world.at("saved.tar");
    let save = format!(
        "docker save {uri} -o {path} && ! grep -a -q {SECRET} {path} && ! docker history --no-trunc {uri} | grep -q {SECRET} && ! docker inspect {uri} | grep -q {SECRET}",
        uri = built.uri,
        path = saved.display()
    );
    let checked = Command::new("sh").args(["-c", &save]).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

/// Whether a process of the machine is `sleep <seconds>`.
fn sleeps(seconds: &str) -> bool {
    let wanted = format!("sleep\0{seconds}\0");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok())
        .any(|line| line == wanted)
}

#[tokio::test]
async fn a_dropped_build_ends_in_the_engine() {
    let Some(world) = World::new().await else {
        return;
    };
    let seconds = format!("98{}", std::process::id());
    let image = world.image(vec![commands(&[&format!("sleep {seconds}")], vec![])]);
    let order = world.order(&image);
    let began = Arc::new(tokio::sync::Notify::new());
    let sink = {
        let began = Arc::clone(&began);
        move |progress: Progress<'_>| {
            if let Progress::Stage(stage) = progress
                && stage.text.contains("sleep 98")
            {
                began.notify_one();
            }
        }
    };
    tokio::select! {
        built = build(&world.engine, &world.toolchain, &image, &order, &sink) => panic!("{built:?}"),
        () = async {
            began.notified().await;
            while !sleeps(&seconds) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        } => {}
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while sleeps(&seconds) {
        assert!(std::time::Instant::now() < deadline, "the step goes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(find(&world.engine, &order.uri).await.unwrap(), None);
}

#[tokio::test]
async fn equal_images_are_built_once_and_forced_ones_anew() {
    let Some(world) = World::new().await else {
        return;
    };
    let unique = format!("true {}", world.dir.path().display());
    let image = world.image(vec![commands(&[&unique], vec![])]);
    let order = world.order(&image);
    let call = || world.made(&image, &order);
    let (a, b) = tokio::try_join!(call(), call()).unwrap();
    assert_eq!(
        [a.reused, b.reused]
            .iter()
            .filter(|reused| **reused)
            .count(),
        1
    );
    assert_eq!(a.id, b.id);
    let forced = Order {
        force: true,
        ..order.clone()
    };
    let again = world.made(&image, &forced).await.unwrap();
    assert!(!again.reused && again.id != a.id);
}

/// Debian's registry, with a user and a password.
struct Registry {
    process: std::process::Child,
    host: String,
}

impl Registry {
    async fn start(folder: &Path) -> Option<Self> {
        let program = crate::image::system::find_on_path("docker-registry");
        let Some(program) = program else {
            assert!(std::env::var_os("CI").is_none(), "no `docker-registry`");
            return None;
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let users = folder.join("htpasswd");
        std::fs::write(&users, HTPASSWD).unwrap();
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\nauth:\n  htpasswd:\n    realm: tests\n    path: {}\n",
            folder.join("registry").display(),
            users.display()
        );
        let file = folder.join("registry.yml");
        std::fs::write(&file, config).unwrap();
        let process = Command::new(program)
            .arg("serve")
            .arg(&file)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let host = format!("127.0.0.1:{port}");
        while tokio::net::TcpStream::connect(&host).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some(Self { process, host })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `tester`, whose password is `open-sesame`.
const HTPASSWD: &str = "tester:$2b$04$B68Ail.mIIXaoNKYkA71h.lUF8/ZaZWHEnlw98RrOFu4U0vGm4APW\n";

#[tokio::test]
async fn an_image_is_pushed_with_credentials_and_pulled_as_a_base() {
    let Some(world) = World::new().await else {
        return;
    };
    let Some(registry) = Registry::start(world.dir.path()).await else {
        return;
    };
    let image = world.image(vec![commands(&["echo pushed > /said"], vec![])]);
    let order = Order {
        uri: format!("{}/team/made:1", registry.host),
        ..world.order(&image)
    };
    world.made(&image, &order).await.unwrap();
    let refused = push(&world.engine, &order.uri, &no_login(), &quiet)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ImageBuildFailed);
    let reason = crate::error::with_causes(&refused);
    assert!(reason.contains("no basic auth credentials"), "{reason}");
    let host = registry.host.clone();
    let login: Lookup = Arc::new(move |asked| {
        assert_eq!(asked, host);
        let credentials = DockerCredentials {
            username: Some("tester".into()),
            password: Some("open-sesame".into()),
            ..DockerCredentials::default()
        };
        Box::pin(async move { Ok(Some(credentials)) })
    });
    let pushed = push(&world.engine, &order.uri, &login, &quiet)
        .await
        .unwrap();
    assert!(pushed.digest.starts_with("sha256:"), "{pushed:?}");
    let forget = Command::new("docker")
        .args(["rmi", "--force", &order.uri])
        .output();
    assert!(forget.unwrap().status.success());

    // A private image that the recipe of a user's Dockerfile starts from: asked for in the session.
    let folder = world.at("private");
    world.write(
        "private/Dockerfile",
        &format!("FROM {}\nRUN cat /said > /tmp/again\n", order.uri),
    );
    let derived = Image {
        base: Base::Dockerfile(folder.join("Dockerfile")),
        ..world.image(vec![])
    };
    let with_login = Order {
        login,
        ..world.order(&derived)
    };
    let built = world.made(&derived, &with_login).await.unwrap();
    assert_eq!(
        run(&world.engine, &built.uri, "cat /tmp/again").await,
        "pushed"
    );
}

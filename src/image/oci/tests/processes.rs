//! Builds in a process of their own: it can be killed, and it has an environment to set.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::world::{self, PASSWORD, Server, World, image, pip};
use crate::error::{Diagnostic, with_causes};
use crate::image::oci::build;
use crate::spec::{InstallOptions, Layer, SecretRef};

const ORDER: &str = "FLYTE_TEST_ORDER";
const MARK: &str = "RESULT ";
/// What the package of [`index`] builds into.
const WHEEL: &str = "own_lib-1-py2.py3-none-any.whl";

/// Not a test: what the tests below run in a process of its own.
#[tokio::test]
#[ignore = "run by others"]
async fn child() {
    let order: Value = serde_json::from_str(&std::env::var(ORDER).unwrap()).unwrap();
    let text = |field: &str| order[field].as_str().unwrap().to_owned();
    let package = PathBuf::from(text("payload"));
    let toolchain = world::toolchain(Path::new(&text("home")), Path::new(&text("uv")), package);
    let secret_mounts = order["secret"].as_str().map(|name| SecretRef {
        key: name.to_owned(),
        env_var: Some(name.to_owned()),
        group: None,
        mount: None,
    });
    let options = InstallOptions {
        extra_args: order["extra_args"].as_str().map(str::to_owned),
        secret_mounts: secret_mounts.into_iter().collect(),
        ..InstallOptions::default()
    };
    let packages = serde_json::from_value(order["packages"].clone()).unwrap();
    let layers = vec![Layer::PipPackages { packages, options }];
    let mut wanted = world::order(&text("host"), "app:1");
    wanted.base = Some(text("base"));
    let print = |progress: crate::image::env::Progress<'_>| println!("{progress:?}");
    let built = build(&toolchain, &image(true, layers), &wanted, &print).await;
    let result = match built {
        Ok(built) => json!({"digest": built.digest, "sent": built.bytes_sent}),
        Err(error) => json!({
            "code": error.code().as_str(), "error": with_causes(&error), "hints": error.hints(),
            "tail": error.log_tail(),
        }),
    };
    println!("\n{MARK}{result}");
}

fn command(order: &Value) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "image::oci::tests::processes::child",
            "--ignored",
            "--nocapture",
        ])
        .env(ORDER, order.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn result(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix(MARK));
    serde_json::from_str(line.unwrap_or_else(|| panic!("{output:?}"))).unwrap()
}

fn order_of(world: &World, home: &str, packages: &[&str]) -> Value {
    let toolchain = world.toolchain(home);
    json!({
        "home": toolchain.home, "uv": toolchain.uv, "payload": toolchain.sdk.entries[0],
        "host": world.server.host(), "base": format!("{}/base:1", world.server.host()),
        "packages": packages,
    })
}

#[tokio::test]
async fn ten_killed_builds_leave_nothing_that_a_later_one_takes_for_whole() {
    let Some(world) = World::new().await else {
        return;
    };
    let packages = ["flask==3.1.0", "idna==3.10", "markupsafe==3.0.2"];
    let expected = result(
        &command(&order_of(&world, "reference", &packages))
            .output()
            .unwrap(),
    );
    // How long a build takes on this machine, whatever it is doing besides.
    let started = std::time::Instant::now();
    let whole = result(
        &command(&order_of(&world, "measure", &packages))
            .output()
            .unwrap(),
    );
    let took = started.elapsed();
    assert_eq!(whole["digest"], expected["digest"]);
    let mut seed = blake3::hash(&std::process::id().to_le_bytes());
    let order = order_of(&world, "killed", &packages);
    for _ in 0..10 {
        seed = blake3::hash(seed.as_bytes());
        let part = f64::from(seed.as_bytes()[0]) / 255.0;
        let mut build = command(&order).spawn().unwrap();
        // The moment of death is what is tested: it is meant to be arbitrary.
        std::thread::sleep(took.mul_f64(part));
        build.kill().unwrap();
        build.wait().unwrap();
    }
    let later = result(&command(&order).output().unwrap());
    assert_eq!(later["digest"], expected["digest"], "{later}");
    let (manifest, _) = world.read("app:1").await;
    let cache = world.toolchain("killed").home.join("cache/images/blobs");
    for layer in &manifest.layers {
        let path = cache.join(layer.digest.replace(':', "-"));
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(crate::image::registry::digest(&bytes), layer.digest);
    }
}

/// A registry behind TLS and a password, with a base in it.
async fn guarded() -> Option<(World, Server, PathBuf)> {
    let world = World::new().await?;
    let server = Server::guarded()?;
    let login = config(&world, "right", PASSWORD);
    let skopeo = world::program("skopeo", "FLYTE_TEST_SKOPEO")?;
    let certificates = world.dir.path().join("certificates");
    std::fs::create_dir_all(&certificates).unwrap();
    std::fs::copy(
        server.authority.as_ref().unwrap(),
        certificates.join("ca.crt"),
    )
    .unwrap();
    let copied = Command::new(skopeo)
        .args(["copy", "--all", "--src-tls-verify=false"])
        .args(["--dest-creds", &format!("tester:{PASSWORD}")])
        .arg("--dest-cert-dir")
        .arg(certificates)
        .arg(format!("docker://{}/base:1", world.server.host()))
        .arg(format!("docker://{}/base:1", server.host()))
        .output()
        .unwrap();
    assert!(copied.status.success(), "{copied:?}");
    Some((world, server, login))
}

/// A folder for `DOCKER_CONFIG` in which every host has this password.
fn config(world: &World, name: &str, password: &str) -> PathBuf {
    use base64::Engine as _;
    let folder = world.dir.path().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("tester:{password}"));
    // Any port: the registry has one that nobody knows beforehand.
    let auths: serde_json::Map<_, _> = [("HOST", json!({"auth": auth}))]
        .map(|(host, auth)| (host.to_owned(), auth))
        .into_iter()
        .collect();
    std::fs::write(
        folder.join("config.json"),
        json!({"auths": auths}).to_string(),
    )
    .unwrap();
    folder
}

#[tokio::test]
async fn a_password_over_tls_is_used_and_its_absence_or_fault_is_said() {
    let Some((world, server, login)) = guarded().await else {
        return;
    };
    let mut order = order_of(&world, "home", &["six==1.17.0"]);
    order["host"] = server.host().into();
    order["base"] = format!("{}/base:1", server.host()).into();
    let run = |folder: &Path, authority: Option<&PathBuf>| {
        let file = folder.join("config.json");
        if let Ok(text) = std::fs::read_to_string(&file) {
            std::fs::write(&file, text.replace("HOST", &server.host())).unwrap();
        }
        let mut command = command(&order);
        command
            .env("DOCKER_CONFIG", folder)
            .env_remove("REGISTRY_AUTH_FILE");
        if let Some(authority) = authority {
            command
                .env("SSL_CERT_FILE", authority)
                .env_remove("SSL_CERT_DIR");
        }
        result(&command.output().unwrap())
    };
    let authority = server.authority.as_ref();
    let wrong = run(&config(&world, "wrong", "hunter2-wrong"), authority);
    assert_eq!(wrong["code"], "image.denied", "{wrong}");
    assert!(
        wrong["hints"][0].as_str().unwrap().contains("`tester`"),
        "{wrong}"
    );
    let none = run(&world.dir.path().join("nowhere"), authority);
    assert_eq!(none["code"], "image.denied", "{none}");
    assert!(
        none["error"]
            .as_str()
            .unwrap()
            .contains("holds none for it"),
        "{none}"
    );
    let untrusted = run(&login, None);
    assert_eq!(untrusted["code"], "image.registry", "{untrusted}");
    assert!(
        untrusted["hints"][0]
            .as_str()
            .unwrap()
            .contains("SSL_CERT_FILE"),
        "{untrusted}"
    );
    for answer in [&wrong, &none, &untrusted] {
        assert!(!answer.to_string().contains("hunter2"), "{answer}");
    }
    // The certificates of the package index are not needed: `uv` has what it needs in its cache.
    order["packages"] = json!([]);
    let mut run_empty = command(&order);
    run_empty
        .env("DOCKER_CONFIG", &login)
        .env("SSL_CERT_FILE", authority.unwrap())
        .env_remove("SSL_CERT_DIR");
    let right = result(&run_empty.output().unwrap());
    assert!(right["digest"].as_str().is_some(), "{right}");
}

#[tokio::test]
async fn a_secret_reaches_the_installer_and_nothing_else() {
    const SECRET: &str = "hunter2-of-the-index";
    let Some(world) = World::new().await else {
        return;
    };
    let index = index(&world, SECRET).await;
    let mut order = order_of(&world, "home", &["own-lib==1"]);
    order["extra_args"] = format!("--index private=http://{index}/simple").into();
    order["secret"] = "UV_INDEX_PRIVATE_PASSWORD".into();
    let run = |secret: Option<&str>| {
        let mut command = command(&order);
        command.env("UV_INDEX_PRIVATE_USERNAME", "tester");
        if let Some(secret) = secret {
            command.env("UV_INDEX_PRIVATE_PASSWORD", secret);
        }
        let child = command.spawn().unwrap();
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        async move { output.await.unwrap() }
    };
    let without = result(&run(None).await);
    assert_eq!(without["code"], "image.build_failed", "{without}");
    let output = run(Some(SECRET)).await;
    assert!(result(&output)["digest"].as_str().is_some(), "{output:?}");
    let (manifest, config) = world.read("app:1").await;
    assert!(manifest.layers.len() > 2);
    let mut texts = vec![
        format!("{config} {manifest:?}").into_bytes(),
        output.stdout.clone(),
        output.stderr.clone(),
    ];
    for file in walkdir::WalkDir::new(world.dir.path()) {
        let file = file.unwrap();
        if file.file_type().is_file() {
            texts.push(plain(file.path()));
        }
    }
    assert!(texts.len() > 20);
    let needle = SECRET.as_bytes();
    let holds = |text: &Vec<u8>| text.windows(needle.len()).any(|window| window == needle);
    assert_eq!(texts.iter().filter(|text| holds(text)).count(), 0);
}

/// The content of a file, unpacked where it is a layer.
fn plain(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    let mut unpacked = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(bytes.as_slice());
    match reader.read_to_end(&mut unpacked) {
        Ok(_) => unpacked,
        Err(_) => bytes,
    }
}

/// A package index with one package, for `tester` with a password; its address.
async fn index(world: &World, password: &'static str) -> String {
    use axum::extract::Path as Segment;
    use axum::http::{HeaderMap, StatusCode};
    use base64::Engine as _;

    let folder = world.dir.path().join("lib");
    std::fs::create_dir_all(folder.join("own_lib")).unwrap();
    std::fs::write(folder.join("own_lib/__init__.py"), "x = 1\n").unwrap();
    let manifest = "[project]\nname='own-lib'\nversion='1'\n\
         [build-system]\nrequires=['hatchling']\nbuild-backend='hatchling.build'\n";
    std::fs::write(folder.join("pyproject.toml"), manifest).unwrap();
    let built = Command::new(&world.uv)
        .args(["build", "--wheel", "--quiet", "--out-dir"])
        .arg(world.dir.path())
        .arg(&folder)
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
    let wheel = std::fs::read(world.dir.path().join(WHEEL)).unwrap();
    let digest = crate::image::registry::digest(&wheel).replace("sha256:", "sha256=");
    let page = format!("<a href=\"/files/{WHEEL}#{digest}\">{WHEEL}</a>");
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("tester:{password}"));
    let allowed = move |headers: &HeaderMap| {
        headers
            .get("authorization")
            .is_some_and(|own| own.as_bytes() == format!("Basic {auth}").as_bytes())
    };
    let files_allowed = allowed.clone();
    let app = axum::Router::new()
        .route(
            "/simple/{name}/",
            axum::routing::get(
                move |Segment(name): Segment<String>, headers: HeaderMap| async move {
                    match (name.as_str(), allowed(&headers)) {
                        (_, false) => (
                            StatusCode::UNAUTHORIZED,
                            [("content-type", "text/html")],
                            String::new(),
                        ),
                        ("own-lib", true) => {
                            (StatusCode::OK, [("content-type", "text/html")], page)
                        }
                        (_, true) => (
                            StatusCode::NOT_FOUND,
                            [("content-type", "text/html")],
                            String::new(),
                        ),
                    }
                },
            ),
        )
        .route(
            "/files/{name}",
            axum::routing::get(move |headers: HeaderMap| async move {
                if files_allowed(&headers) {
                    (StatusCode::OK, wheel)
                } else {
                    (StatusCode::UNAUTHORIZED, Vec::new())
                }
            }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address.to_string()
}

/// Removes what a test has put into the engine.
struct Pulled(String);

impl Drop for Pulled {
    fn drop(&mut self) {
        let removed = Command::new("docker")
            .args(["rmi", "--force", &self.0])
            .output();
        assert!(removed.unwrap().status.success());
    }
}

#[tokio::test]
async fn what_was_built_without_an_engine_runs_in_one() {
    const BASE: &str = "flyte-test-base:bookworm";
    let (Some(world), Some(docker), Some(skopeo)) = (
        World::new().await,
        world::program("docker", "FLYTE_TEST_DOCKER"),
        world::program("skopeo", "FLYTE_TEST_SKOPEO"),
    ) else {
        return;
    };
    let known = Command::new(&docker)
        .args(["image", "inspect", BASE])
        .output()
        .unwrap();
    if !known.status.success() {
        assert!(
            std::env::var_os("CI").is_none(),
            "no image `{BASE}`: {known:?}"
        );
        eprintln!("skipped: no engine that has `{BASE}`");
        return;
    }
    let real = format!("{}/real:1", world.server.host());
    let copied = Command::new(skopeo)
        .args(["copy", "--dest-tls-verify=false"])
        .arg(format!("docker-daemon:{BASE}"))
        .arg(format!("docker://{real}"))
        .output()
        .unwrap();
    assert!(copied.status.success(), "{copied:?}");
    let app = "import flask, getpass, os, markupsafe._speedups\n\
        app = flask.Flask(__name__)\n\
        client = app.test_client()\n\
        @app.route('/')\ndef hello():\n    return f'{getpass.getuser()} {os.getcwd()} {os.environ[\"GREETING\"]}'\n\
        print(client.get('/').text)\n";
    let file = world.dir.path().join("app.py");
    std::fs::write(&file, app).unwrap();
    let layers = vec![
        pip(&["flask==3.1.0"]),
        Layer::EnvVars(vec![("GREETING".into(), "good day".into())]),
        Layer::SourceFile {
            src: file,
            dst: ".".into(),
        },
    ];
    let mut order = world.order("app:1");
    order.base = Some(real);
    world
        .build("home", &image(true, layers), &order)
        .await
        .unwrap();
    let _pulled = Pulled(order.reference.clone());
    let run = |words: &[&str]| {
        let output = Command::new(&docker)
            .args([
                "run",
                "--rm",
                "--pull",
                "always",
                "--quiet",
                &order.reference,
            ])
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(run(&["python", "app.py"]), "flyte /home/flyte good day");
    assert_eq!(run(&["fserve"]), "runs");
    assert!(run(&["flask", "--version"]).contains("Flask 3.1.0"));
    let code = "import importlib.metadata as m; print(len(m.files('flask')) > 10, m.version('jinja2') > '3')";
    assert_eq!(run(&["python", "-c", code]), "True True");
}

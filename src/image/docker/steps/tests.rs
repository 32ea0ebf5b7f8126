//! Recipes that no test's engine can follow, and choices that need none.

use super::*;
use crate::error::{Code, Diagnostic};
use crate::image::env::SdkPayload;
use crate::spec::{InstallMode, InstallOptions};

const PYTHON: PythonVersion = PythonVersion {
    major: 3,
    minor: 12,
};

fn image(base: Declared, layers: Vec<Layer>) -> Image {
    Image {
        name: None,
        registry: None,
        base,
        python: PYTHON,
        python_is_explicit: false,
        platforms: vec![],
        layers,
    }
}

fn written(image: &Image, platform: &str, base: Base) -> Result<Work, Error> {
    let toolchain = Toolchain {
        home: "/nowhere".into(),
        uv: "/bin/uv".into(),
        python: "/bin/python3".into(),
        python_version: PYTHON,
        sdk: SdkPayload {
            entries: vec![],
            identity: "1".into(),
        },
    };
    let start = Start {
        from: "base:1".into(),
        base,
        python: python(image)?,
        platform: platform.into(),
    };
    write(image, &toolchain, start)
}

fn debian(install_flyte: bool) -> Declared {
    Declared::Debian { install_flyte }
}

/// The engine of no test reaches the registries that have pixi, so its recipe is read.
#[test]
fn pixi_takes_the_place_of_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let [manifest, lock] = ["pixi.toml", "pixi.lock"].map(|name| dir.path().join(name));
    std::fs::write(&manifest, "").unwrap();
    std::fs::write(&lock, "").unwrap();
    let pixi = Layer::PixiProject {
        manifest,
        lock: Some(lock),
        environment: "web".into(),
        mode: InstallMode::DependenciesOnly,
        options: InstallOptions::default(),
    };
    let image = image(debian(false), vec![pixi]);
    let work = written(&image, "linux/amd64", Base::default()).unwrap();
    let text = work.context.read("Dockerfile");
    for part in [
        "COPY [\".flyte/pixi/\",\"/opt/pixi-project\"]",
        "type=bind,from=ghcr.io/prefix-dev/pixi:0.72.2,source=/usr/local/bin/pixi",
        "install --environment web --manifest-path /opt/pixi-project/pixi.toml --locked",
        "ENV VIRTUAL_ENV=\"/opt/pixi-project/.pixi/envs/web\"",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(text.ends_with("USER 1000\n"), "{text}");
    // The engine's numbers count from `FROM`, and lead back to what the user wrote.
    let origins: Vec<_> = work.origins.iter().flatten().collect();
    assert!(
        origins
            .iter()
            .all(|origin| origin.starts_with("with_pixi_project('"))
    );
    assert_eq!(work.origins.len(), text.matches("\nRUN ").count() + 3);
}

#[test]
fn projects_beside_a_project_go_along_and_are_built_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    // One of them has the name of a command.
    let app = "[project]\nname = \"app\"\n[tool.uv.sources]\nlib = [{ path = \"../lib\" }]\n\
               sync = { path = \"../sync\" }\n";
    for (name, text) in [
        ("app/pyproject.toml", app),
        ("app/uv.lock", ""),
        ("lib/pyproject.toml", "[project]\nname = \"lib\"\n"),
        ("sync/setup.py", ""),
    ] {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let project = Layer::UvProject {
        pyproject: dir.path().join("app/pyproject.toml"),
        lock: Some(dir.path().join("app/uv.lock")),
        mode: InstallMode::DependenciesOnly,
        options: InstallOptions::default(),
    };
    let image = image(debian(false), vec![project]);
    let work = written(&image, "linux/amd64", Base::default()).unwrap();
    let text = work.context.read("Dockerfile");
    let words = "--project /tmp/.flyte/0/app --refresh-package lib --refresh-package sync";
    assert!(text.contains(words), "{text}");
}

#[test]
fn what_does_not_run_on_a_platform_is_fetched_or_refused() {
    let base = Base {
        user: "worker".into(),
        ..Base::default()
    };
    let packages = Layer::PipPackages {
        packages: vec!["six".into()],
        options: InstallOptions::default(),
    };
    let foreign = image(Declared::Uri("x".into()), vec![packages]);
    let work = written(&foreign, "linux/s390x", base).unwrap();
    let text = work.context.read("Dockerfile");
    assert!(
        text.starts_with("FROM base:1\nUSER 0\nRUN --mount=type=bind,from=ghcr.io/astral-sh/uv")
    );
    assert!(text.ends_with("USER worker\n"), "{text}");
    let with_sdk = image(debian(true), vec![]);
    let error = written(&with_sdk, "linux/s390x", Base::default())
        .err()
        .unwrap();
    assert_eq!(error.code(), Code::ImageInvalid);
    assert!(error.to_string().contains("linux/s390x"), "{error}");
}

#[test]
fn a_value_of_several_lines_is_refused_by_name() {
    let lines = Layer::EnvVars(vec![("KEY".into(), "a\nb".into())]);
    let image = image(debian(false), vec![lines]);
    let error = written(&image, "linux/amd64", Base::default())
        .err()
        .unwrap();
    assert!(error.to_string().contains("`KEY`"), "{error}");
}

#[test]
fn a_script_chooses_among_versions_unless_one_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("s.py");
    let header = "# /// script\n# requires-python = \">=3.13\"\n# dependencies = []\n# ///\n";
    std::fs::write(&script, header).unwrap();
    let layer = Layer::UvScript {
        script,
        options: InstallOptions::default(),
    };
    let mut image = image(debian(false), vec![layer]);
    assert_eq!(python(&image).unwrap().minor, 14);
    image.python_is_explicit = true;
    assert_eq!(python(&image).unwrap(), PYTHON);
}

fn options(index_url: &str) -> InstallOptions {
    InstallOptions {
        index_url: Some(index_url.into()),
        ..InstallOptions::default()
    }
}

fn packages(packages: &[&str], options: InstallOptions) -> Layer {
    Layer::PipPackages {
        packages: packages.iter().map(|text| (*text).to_owned()).collect(),
        options,
    }
}

#[test]
fn credentials_of_indexes_and_requirements_stay_out_of_the_recipe() {
    let words = [
        "six",
        "git+https://me:tok2@h/x.git",
        "x @ https://me:tok3@h/x.whl",
    ];
    let layer = packages(&words, options("https://me:tok1@h/simple"));
    let work = written(
        &image(debian(false), vec![layer]),
        "linux/amd64",
        Base::default(),
    );
    let work = work.unwrap();
    let text = work.context.read("Dockerfile");
    assert!(!text.contains("tok"), "{text}");
    assert!(text.contains(" && export UV_INDEX_URL && "), "{text}");
    assert!(text.contains("export GIT_CONFIG_VALUE_0"), "{text}");
    assert!(text.contains(" six git+https://h/x.git -r "), "{text}");
    assert!(
        work.origins
            .iter()
            .flatten()
            .all(|origin| !origin.contains("tok"))
    );
    let kept: Vec<String> = work
        .private
        .iter()
        .map(|(name, _)| name.to_owned())
        .collect();
    let value = |start: &str| {
        let name = kept.iter().find(|name| name.starts_with(start)).unwrap();
        work.private.text(name).unwrap()
    };
    assert_eq!(value("flyte-UV_INDEX_URL-"), "https://me:tok1@h/simple");
    assert_eq!(value("flyte-list-"), "x @ https://me:tok3@h/x.whl");
    assert_eq!(work.private.hide("a tok1 tok2 tok3"), "a *** *** ***");
}

/// The engine's cache tells steps apart by their text, and a password is no part of it.
#[test]
fn another_password_is_the_same_step_and_another_index_is_not() {
    let text = |url: &str| {
        let layer = packages(&["six"], options(url));
        let work = written(
            &image(debian(false), vec![layer]),
            "linux/amd64",
            Base::default(),
        );
        work.unwrap().context.read("Dockerfile")
    };
    assert_eq!(text("https://a:one@h/s"), text("https://a:two@h/s"));
    assert_ne!(text("https://a:one@h/s"), text("https://a:one@g/s"));
}

#[test]
fn many_files_of_code_are_one_layer() {
    let dir = tempfile::tempdir().unwrap();
    let mut layers = Vec::new();
    for number in 0..200 {
        let src = dir.path().join(format!("m{number}.py"));
        std::fs::write(&src, "").unwrap();
        layers.push(Layer::SourceFile {
            src,
            dst: format!("./pkg/m{number}.py"),
        });
    }
    let work = written(
        &image(debian(false), layers),
        "linux/amd64",
        Base::default(),
    );
    let work = work.unwrap();
    let text = work.context.read("Dockerfile");
    assert_eq!(text.matches("COPY ").count(), 1, "{text}");
    let origin = work.origins.iter().flatten().last().unwrap();
    assert!(origin.ends_with(" and 199 more"), "{origin}");
}

#[test]
fn a_base_with_a_python_keeps_it_unless_another_is_asked_for() {
    let mut image = image(
        Declared::Uri("x".into()),
        vec![packages(&["six"], InstallOptions::default())],
    );
    let text = |image: &Image| {
        let work = written(image, "linux/amd64", Base::default()).unwrap();
        work.context.read("Dockerfile")
    };
    let expected = r#"--python \"$(command -v python3 || echo 3.12)\" /opt/venv"#;
    assert!(text(&image).contains(expected), "{}", text(&image));
    image.python_is_explicit = true;
    assert!(text(&image).contains("--python 3.12 /opt/venv"));
}

#[test]
fn a_secret_of_a_group_lies_where_its_path_says() {
    let secret = SecretRef {
        key: "k".into(),
        group: Some("team".into()),
        mount: Some("/etc/flyte/secrets".into()),
        env_var: None,
    };
    assert_eq!(
        place_of("/etc/flyte/secrets/", &secret),
        "/etc/flyte/secrets/team/k"
    );
}

#[test]
fn a_script_of_pixi_is_a_project_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("train.py");
    let header =
        "# /// script\n# requires-python = \">=3.11\"\n# dependencies = [\"six\"]\n# ///\n";
    std::fs::write(&script, header).unwrap();
    std::fs::write(dir.path().join("train.py.pixi.lock"), "").unwrap();
    let layer = Layer::PixiScript {
        script,
        environment: "default".into(),
        options: InstallOptions::default(),
    };
    let work = written(
        &image(debian(false), vec![layer]),
        "linux/amd64",
        Base::default(),
    );
    let work = work.unwrap();
    let text = work.context.read("Dockerfile");
    let part = "--environment default --manifest-path /opt/pixi-project/pixi.toml --locked";
    assert!(text.contains(part), "{text}");
    let manifest = work.context.read(".flyte/pixi/pixi.toml");
    assert!(manifest.contains("linux-64"), "{manifest}");
}

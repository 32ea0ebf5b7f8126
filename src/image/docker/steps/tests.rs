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

//! Builds against a registry that runs.

mod processes;
mod world;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::process::Command;

pub(super) use world::image;
use world::{World, pip};

use super::*;
use crate::error::{Code, Diagnostic};
use crate::image::registry::exists;
use crate::spec::{InstallOptions, Layer};

/// Packages of one wheel for every platform, and one with a wheel for each.
const PACKAGES: [&str; 3] = ["six==1.17.0", "flask==3.1.0", "markupsafe==3.0.2"];

fn digests(manifest: &registry::Manifest) -> BTreeSet<String> {
    let layers = manifest.layers.iter();
    layers.map(|layer| layer.digest.clone()).collect()
}

fn project(dir: &Path) -> Layer {
    let folder = dir.join("app");
    std::fs::create_dir_all(folder.join("inner")).unwrap();
    std::fs::write(folder.join("main.py"), "print(1)\n").unwrap();
    std::fs::write(folder.join("inner/data.txt"), "1\n").unwrap();
    Layer::SourceFolder {
        src: folder,
        dst: "./code/app".into(),
    }
}

#[tokio::test]
async fn an_image_says_what_was_declared() {
    let Some(world) = World::new().await else {
        return;
    };
    let layers = vec![
        pip(&PACKAGES),
        project(world.dir.path()),
        Layer::EnvVars(vec![
            ("A".into(), "one two".into()),
            ("PATH".into(), "/x:$PATH".into()),
        ]),
        Layer::Workdir("work".into()),
    ];
    let built = world
        .build("home", &image(true, layers), &world.order("app:1"))
        .await
        .unwrap();
    let (manifest, config) = world.read("app:1").await;
    assert_eq!(built.layers, manifest.layers.len());
    assert!(!built.reused && built.bytes_sent > 0);
    let run = &config["config"];
    assert_eq!(
        run["Env"],
        serde_json::json!([
            "PATH=/x:/opt/venv/bin:/usr/bin:/bin",
            "LANG=C.UTF-8",
            "VIRTUAL_ENV=/opt/venv",
            "A=one two"
        ])
    );
    assert_eq!(run["User"], "1000");
    assert_eq!(run["WorkingDir"], "/home/flyte/work");
    assert_eq!(run["Cmd"][0], "python3");
    assert_eq!(config["created"], "1970-01-01T00:00:00Z");
    assert!(config.get("docker_version").is_none());
    let history: Vec<_> = config["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["created_by"].as_str().unwrap())
        .collect();
    assert_eq!(history.len(), manifest.layers.len());
    assert!(history.contains(&"this SDK"), "{history:?}");
    assert!(
        history.iter().any(|title| title.starts_with("flask 3.1.0")),
        "{history:?}"
    );
    let cache = Cache::open(&world.toolchain("home").home).unwrap();
    let names = paths(&cache, &manifest);
    for path in [
        "etc/passwd",
        "home/flyte/code/app/inner/data.txt",
        "home/flyte/work/",
        "opt/venv/bin/fserve",
        "opt/venv/bin/flask",
        "opt/venv/bin/python",
        "opt/venv/pyvenv.cfg",
        "opt/venv/lib/python3.11/site-packages/six.py",
        "opt/venv/lib/python3.11/site-packages/flyte/_runtime.py",
    ] {
        assert!(names.contains(path), "{path} in {names:?}");
    }
}

/// What the layers hold that were made here.
fn paths(cache: &Cache, manifest: &registry::Manifest) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for layer in &manifest.layers[1..] {
        let file = std::fs::File::open(cache.blob(&layer.digest)).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
        for entry in archive.entries().unwrap() {
            let path = entry
                .unwrap()
                .path()
                .unwrap()
                .to_string_lossy()
                .into_owned();
            names.insert(path);
        }
    }
    names
}

#[tokio::test]
async fn two_builds_on_two_days_are_one_image() {
    let Some(world) = World::new().await else {
        return;
    };
    let (one, two) = (world.dir.path().join("one"), world.dir.path().join("two"));
    let first = image(true, vec![pip(&PACKAGES), project(&one)]);
    let second = image(true, vec![pip(&PACKAGES), project(&two)]);
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(90 * 86_400);
    for file in ["app/main.py", "app/inner/data.txt"] {
        let file = std::fs::File::options()
            .append(true)
            .open(two.join(file))
            .unwrap();
        file.set_modified(past).unwrap();
    }
    let built = world
        .build("home", &first, &world.order("app:1"))
        .await
        .unwrap();
    let again = world
        .build("other", &second, &world.order("app:2"))
        .await
        .unwrap();
    assert_eq!(built.digest, again.digest);
    assert!(again.bytes_sent == 0 && !again.reused, "{again:?}");
    let same = world
        .build("home", &first, &world.order("app:1"))
        .await
        .unwrap();
    assert!(same.reused);
    assert_eq!(same.digest, built.digest);
}

#[tokio::test]
async fn one_changed_package_sends_nothing_of_the_others() {
    let Some(world) = World::new().await else {
        return;
    };
    let with = |version: &str| {
        image(
            false,
            vec![pip(&["flask==3.1.0", "werkzeug==3.1.3", version])],
        )
    };
    let order = world.order("app:1");
    let first = world
        .build("home", &with("idna==3.9"), &order)
        .await
        .unwrap();
    let (before, _) = world.read("app:1").await;
    let second = world
        .build("home", &with("idna==3.10"), &order)
        .await
        .unwrap();
    let (after, _) = world.read("app:1").await;
    let changed = digests(&after).difference(&digests(&before)).count();
    assert_eq!(changed, 1, "{before:?} {after:?}");
    assert!(
        second.bytes_sent * 2 < first.bytes_sent,
        "{first:?} {second:?}"
    );
}

#[tokio::test]
async fn a_package_keeps_its_file_where_another_one_has_that_too() {
    const FILE: &str = "opt/venv/lib/python3.11/site-packages/shared.py";
    let Some(world) = World::new().await else {
        return;
    };
    let project = |name: &str| {
        let folder = world.dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let manifest = format!(
            "[project]\nname='{name}'\nversion='1'\n\
             [build-system]\nrequires=['hatchling']\nbuild-backend='hatchling.build'\n\
             [tool.hatch.build.targets.wheel]\nonly-include=['shared.py']\n"
        );
        std::fs::write(folder.join("pyproject.toml"), manifest).unwrap();
        // Large enough for a layer of its own.
        let text = format!("# {name}\n").repeat(100_000);
        std::fs::write(folder.join("shared.py"), text).unwrap();
        folder.display().to_string()
    };
    let (one, two) = (project("one"), project("two"));
    let both = image(false, vec![pip(&[one.as_str(), two.as_str()])]);
    let order = world.order("app:1");
    world.build("home", &both, &order).await.unwrap();
    let cache = Cache::open(&world.toolchain("home").home).unwrap();
    for (name, folder) in [("one", &one), ("two", &two)] {
        let alone = image(false, vec![pip(&[folder.as_str()])]);
        world.build("home", &alone, &order).await.unwrap();
        let (manifest, _) = world.read("app:1").await;
        let text = text(&cache, &manifest, FILE);
        assert!(text.starts_with(&format!("# {name}\n")), "{name}");
    }
}

/// What a file holds in the topmost layer that has it.
fn text(cache: &Cache, manifest: &registry::Manifest, name: &str) -> String {
    let mut text = String::new();
    for layer in &manifest.layers[1..] {
        let file = std::fs::File::open(cache.blob(&layer.digest)).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            if entry.path().unwrap() == Path::new(name) {
                text.clear();
                entry.read_to_string(&mut text).unwrap();
            }
        }
    }
    text
}

#[tokio::test]
async fn several_platforms_are_an_index_and_share_what_is_for_both() {
    let Some(world) = World::new().await else {
        return;
    };
    let mut order = world.order("app:1");
    order.platforms = vec!["linux/amd64".into(), "linux/arm64".into()];
    let image = image(false, vec![pip(&["markupsafe==3.0.2", "idna==3.10"])]);
    world.build("home", &image, &order).await.unwrap();
    let reference = registry::reference(&order.reference).unwrap();
    assert!(exists(&reference, &order.platforms).await.unwrap());
    assert!(!exists(&reference, &["linux/s390x".into()]).await.unwrap());
    let registry = registry::Registry::open(&reference).await.unwrap();
    let found = registry.document(&reference).await.unwrap().unwrap();
    let registry::Document::Index(index) = found.document else {
        panic!("{found:?}");
    };
    let mut layers = Vec::new();
    for entry in &index.manifests {
        let exact = by_digest(&reference, &entry.digest);
        match registry.document(&exact).await.unwrap().unwrap().document {
            registry::Document::Manifest(manifest) => layers.push(digests(&manifest)),
            registry::Document::Index(index) => panic!("{index:?}"),
        }
    }
    // The environment, and `idna`, which is large and the same everywhere.
    assert_eq!(layers[0].intersection(&layers[1]).count(), 2, "{layers:?}");
}

#[tokio::test]
async fn what_exists_is_told_from_what_does_not_and_from_what_cannot_be_told() {
    let Some(world) = World::new().await else {
        return;
    };
    let reference =
        |text: &str| registry::reference(&format!("{}/{text}", world.server.host())).unwrap();
    let host = format!("linux/{}", host_platform().architecture);
    assert!(
        exists(&reference("base:1"), std::slice::from_ref(&host))
            .await
            .unwrap()
    );
    assert!(!exists(&reference("base:2"), &[]).await.unwrap());
    assert!(!exists(&reference("nobody/nothing:1"), &[]).await.unwrap());
    let gone = registry::reference("localhost:1/base:1").unwrap();
    let error = exists(&gone, &[]).await.unwrap_err();
    assert_eq!(error.code(), Code::ImageRegistry);
    assert!(error.to_string().contains("localhost:1"), "{error}");
    assert_eq!(error.hints().len(), 1);
}

#[tokio::test]
async fn a_base_without_the_python_or_the_platform_is_named() {
    let Some(world) = World::new().await else {
        return;
    };
    let mut other = image(false, vec![]);
    other.python.minor = 12;
    let error = world
        .build("home", &other, &world.order("app:1"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("holds `/usr/bin/python3.11`"),
        "{error}"
    );
    let mut order = world.order("app:1");
    order.platforms = vec!["linux/riscv64".into()];
    let error = world
        .build("home", &image(false, vec![]), &order)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("not for `linux/riscv64`"),
        "{error}"
    );
    order = world.order("app:1");
    order.base = Some(format!("{}/nothing:1", world.server.host()));
    let error = world
        .build("home", &image(false, vec![]), &order)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no such image"), "{error}");
}

#[tokio::test]
async fn a_package_without_a_wheel_is_refused_by_name() {
    let Some(world) = World::new().await else {
        return;
    };
    let image = image(false, vec![pip(&["docopt==0.6.2"])]);
    let error = world
        .build("home", &image, &world.order("app:1"))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("with_pip_packages('docopt==0.6.2')"),
        "{error}"
    );
    assert!(
        error
            .hints()
            .iter()
            .any(|hint| hint.contains("wheels only")),
        "{:?}",
        error.hints()
    );
}

#[tokio::test]
async fn a_folder_is_a_valid_image() {
    let Some(world) = World::new().await else {
        return;
    };
    let folder = world.dir.path().join("layout");
    let mut order = world.order("app:1");
    order.push = false;
    order.layout = Some(folder.clone());
    let image = image(false, vec![pip(&["six==1.17.0"])]);
    let built = world.build("home", &image, &order).await.unwrap();
    assert_eq!(built.bytes_sent, 0);
    let again = world.build("home", &image, &order).await.unwrap();
    assert_eq!(again.digest, built.digest);
    let index = std::fs::read_to_string(folder.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    for entry in std::fs::read_dir(folder.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let digest = registry::digest(&std::fs::read(&path).unwrap());
        assert!(
            digest.ends_with(&*path.file_name().unwrap().to_string_lossy()),
            "{path:?}"
        );
    }
    if let Some(skopeo) = world::program("skopeo", "FLYTE_TEST_SKOPEO") {
        let source = format!("oci:{}:1", folder.display());
        let output = Command::new(skopeo)
            .args(["inspect", &source])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&built.digest), "{text}");
    }
    let busy = world.dir.path().to_path_buf();
    order.layout = Some(busy);
    let error = world.build("home", &image, &order).await.unwrap_err();
    assert_eq!(error.code(), Code::ImageBuildFailed);
}

#[tokio::test]
async fn projects_scripts_and_wheels_are_packed_as_the_environment_builder_would() {
    let Some(world) = World::new().await else {
        return;
    };
    let folder = world.dir.path().join("lib");
    std::fs::create_dir_all(folder.join("src/own_lib")).unwrap();
    std::fs::write(folder.join("src/own_lib/__init__.py"), "x = 1\n").unwrap();
    let manifest = "[project]\nname='own-lib'\nversion='1'\ndependencies=['six==1.16.0']\n\
         [build-system]\nrequires=['hatchling']\nbuild-backend='hatchling.build'\n";
    std::fs::write(folder.join("pyproject.toml"), manifest).unwrap();
    let script = world.dir.path().join("s.py");
    let header = "# /// script\n# requires-python = \">=3.11\"\n# dependencies = [\"click==8.1.8\"]\n# ///\n";
    std::fs::write(&script, header).unwrap();
    let requirements = world.dir.path().join("requirements.txt");
    std::fs::write(&requirements, "itsdangerous==2.2.0\n").unwrap();
    let options = InstallOptions::default;
    let layers = vec![
        Layer::UvProject {
            pyproject: folder.join("pyproject.toml"),
            lock: None,
            mode: crate::spec::InstallMode::InstallProject,
            options: options(),
        },
        Layer::UvScript {
            script,
            options: options(),
        },
        Layer::Requirements {
            file: requirements,
            options: options(),
        },
        pip(&["six"]), // stays what the project wants
    ];
    let image = image(false, layers);
    let built = world
        .build("home", &image, &world.order("app:1"))
        .await
        .unwrap();
    let (manifest, _) = world.read("app:1").await;
    let cache = Cache::open(&world.toolchain("home").home).unwrap();
    let names = paths(&cache, &manifest);
    for path in [
        "own_lib/__init__.py",
        "six-1.16.0.dist-info/METADATA",
        "click/core.py",
        "itsdangerous/url_safe.py",
    ] {
        let path = format!("opt/venv/lib/python3.11/site-packages/{path}");
        assert!(names.contains(&path), "{path}");
    }
    assert!(
        !names
            .iter()
            .any(|name| name.contains("direct_url") || name.contains("uv_cache"))
    );
    let again = world
        .build("other", &image, &world.order("app:2"))
        .await
        .unwrap();
    assert_eq!(again.digest, built.digest);
}

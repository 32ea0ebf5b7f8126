//! What makes two images the same.
//!
//! The hash is taken over a form of our own, versioned and independent of the declaration's Rust
//! types: fields are named and layers are tagged, so that no two different images share a text,
//! and files enter by content, never by path. Registry and name say where an image goes, not what
//! it is, and stay out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::digest::{self, Projects, Sight};
use super::error::Error;
use super::ignore::Ignore;
use super::local_packages;
use super::requirement;
use super::script;
use super::workspace::Workspace;
use crate::spec::image::Base;
use crate::spec::{Image, InstallMode, InstallOptions, Layer, SecretRef};

/// Raised whenever the form below changes its meaning.
const SCHEMA: u8 = 1;
/// Name of an image that was given none.
pub(super) const DEFAULT_NAME: &str = "flyte";

/// BLAKE3 of an image's content, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageHash(String);

impl ImageHash {
    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 32 digits, which are enough to name an image.
    pub fn tag(&self) -> &str {
        &self.0[..32]
    }

    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).to_hex().to_string())
    }
}

#[derive(Serialize)]
struct Canonical<'a> {
    base: CanonicalBase<'a>,
    python: String,
    /// A script's `requires-python` decides, unless a version was asked for.
    python_follows_script: bool,
    platforms: BTreeSet<&'a str>,
    layers: Vec<CanonicalLayer<'a>>,
}

#[derive(Serialize)]
enum CanonicalBase<'a> {
    Debian { install_flyte: bool },
    Uri(&'a str),
    Dockerfile { text: String, context: String },
    Ref(&'a str),
}

#[derive(Serialize)]
struct CanonicalOptions<'a> {
    index_url: Option<&'a str>,
    extra_index_urls: &'a [String],
    pre: bool,
    extra_args: Option<&'a str>,
    secret_mounts: Vec<CanonicalSecret<'a>>,
}

#[derive(Serialize)]
struct CanonicalSecret<'a> {
    env_var: String,
    mount: Option<&'a str>,
}

#[derive(Serialize)]
enum CanonicalLayer<'a> {
    Pip {
        packages: &'a [String],
        local: Vec<String>,
        options: CanonicalOptions<'a>,
    },
    Requirements {
        files: Vec<String>,
        options: CanonicalOptions<'a>,
    },
    Project {
        tool: &'static str,
        environment: Option<&'a str>,
        content: Vec<String>,
        installs_project: bool,
        options: CanonicalOptions<'a>,
    },
    Script {
        tool: &'static str,
        environment: Option<&'a str>,
        header: String,
        lock: Option<String>,
        options: CanonicalOptions<'a>,
    },
    Wheels {
        package: &'a str,
        wheels: Vec<(String, String)>,
        options: CanonicalOptions<'a>,
    },
    Apt {
        packages: &'a [String],
        secret_mounts: Vec<CanonicalSecret<'a>>,
    },
    Commands {
        commands: &'a [String],
        secret_mounts: Vec<CanonicalSecret<'a>>,
    },
    EnvVars(&'a [(String, String)]),
    Workdir(&'a str),
    SourceFile {
        name: String,
        content: String,
        executable: bool,
        dst: &'a str,
    },
    SourceFolder {
        content: String,
        dst: &'a str,
    },
}

/// The hash of everything that decides what the image holds. Reads the files that it names.
pub fn content_hash(image: &Image) -> Result<ImageHash, Error> {
    hash_with(image, &Sight::new(rules(image)?))
}

/// What is left out of the folders that the image names.
fn rules(image: &Image) -> Result<Ignore, Error> {
    match &image.base {
        Base::Dockerfile(file) => Ignore::of_dockerfile(file),
        Base::Debian { .. } | Base::Uri(_) | Base::Ref(_) => Ignore::of_image(image),
    }
}

/// What an image held at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub content: ImageHash,
    /// The same without the folders that packages are built from: whoever builds them writes into them.
    settled: ImageHash,
}

impl Held {
    /// What `image` holds now.
    pub fn now(image: &Image, home: &Path) -> Result<Self, Error> {
        // First, so that an edit between the two is a difference later on.
        let settled = look(image, home, Projects::LeftOut)?;
        let content = look(image, home, Projects::Seen)?;
        Ok(Self { content, settled })
    }

    /// Refuses what was made of `image` when its files are other ones by now.
    pub(super) fn refuse_changed(&self, image: &Image, home: &Path) -> Result<(), Error> {
        if look(image, home, Projects::LeftOut)? == self.settled {
            return Ok(());
        }
        Err(Error::Changed)
    }
}

/// As [`content_hash`]; files that have not changed since the last look are not read again.
///
/// What was seen is kept below `home`.
pub fn remembered_hash(image: &Image, home: &Path) -> Result<ImageHash, Error> {
    look(image, home, Projects::Seen)
}

fn look(image: &Image, home: &Path, projects: Projects) -> Result<ImageHash, Error> {
    let sight = Sight::new(rules(image)?).with_projects(projects);
    let is_folder = matches!(image.base, Base::Dockerfile(_));
    if !is_folder && !image.layers.iter().any(may_name_a_folder) {
        return hash_with(image, &sight);
    }
    // Each has its own: one that saw less would forget what the other knew.
    let key = ImageHash::of(format!("{projects:?} {image:?}").as_bytes());
    let cache = home.join("cache/images/seen").join(key.tag());
    let sight = sight.remembering(&cache);
    let hash = hash_with(image, &sight)?;
    sight.remember(&cache);
    Ok(hash)
}

/// Also where a list or a project may lead to a folder; that costs a look for the cache at most.
fn may_name_a_folder(layer: &Layer) -> bool {
    match layer {
        Layer::SourceFolder { .. }
        | Layer::UvProject { .. }
        | Layer::PoetryProject { .. }
        | Layer::PixiProject { .. }
        | Layer::UvScript { .. }
        | Layer::Requirements { .. } => true,
        Layer::PipPackages { packages, .. } => packages
            .iter()
            .any(|text| requirement::local_path(text, Path::new(".")).is_some()),
        Layer::PixiScript { .. }
        | Layer::Wheels { .. }
        | Layer::AptPackages { .. }
        | Layer::Commands { .. }
        | Layer::EnvVars(_)
        | Layer::Workdir(_)
        | Layer::SourceFile { .. }
        | Layer::CodeBundle { .. }
        | Layer::DockerIgnore(_) => false,
    }
}

fn hash_with(image: &Image, sight: &Sight) -> Result<ImageHash, Error> {
    let mut layers = Vec::with_capacity(image.layers.len());
    for layer in &image.layers {
        layers.extend(canonical_layer(layer, sight)?);
    }
    let has_script =
        |layer: &Layer| matches!(layer, Layer::UvScript { .. } | Layer::PixiScript { .. });
    let canonical = Canonical {
        base: canonical_base(&image.base, sight)?,
        python: image.python.to_string(),
        python_follows_script: !image.python_is_explicit && image.layers.iter().any(has_script),
        platforms: image.platforms.iter().map(String::as_str).collect(),
        layers,
    };
    let mut bytes = vec![SCHEMA];
    serde_json::to_writer(&mut bytes, &canonical).map_err(|error| Error::Invalid {
        method: "Image",
        problem: error.to_string(),
    })?;
    Ok(ImageHash::of(&bytes))
}

/// `registry/name:tag`, or `name:tag` without a registry.
pub fn uri(image: &Image) -> Result<String, Error> {
    Ok(named(image, &content_hash(image)?))
}

/// The image under the name and registry that it was given, and this tag.
pub(super) fn named(image: &Image, hash: &ImageHash) -> String {
    let name = image.name.as_deref().unwrap_or(DEFAULT_NAME);
    let tag = hash.tag();
    match &image.registry {
        Some(registry) => format!("{}/{name}:{tag}", registry.trim_end_matches('/')),
        None => format!("{name}:{tag}"),
    }
}

fn canonical_base<'a>(base: &'a Base, sight: &Sight) -> Result<CanonicalBase<'a>, Error> {
    Ok(match base {
        Base::Debian { install_flyte } => CanonicalBase::Debian {
            install_flyte: *install_flyte,
        },
        Base::Uri(uri) => CanonicalBase::Uri(uri),
        Base::Ref(name) => CanonicalBase::Ref(name),
        Base::Dockerfile(file) => CanonicalBase::Dockerfile {
            text: digest::file(file)?,
            context: sight.tree(&folder_of(file))?,
        },
    })
}

fn canonical_layer<'a>(
    layer: &'a Layer,
    sight: &Sight,
) -> Result<Option<CanonicalLayer<'a>>, Error> {
    match layer {
        Layer::PipPackages { packages, options } => pip(packages, options, sight),
        Layer::Requirements { file, options } => requirements(file, options, sight),
        Layer::UvProject {
            pyproject,
            lock,
            mode,
            options,
        } => project(
            "uv",
            None,
            pyproject,
            lock.as_deref(),
            *mode,
            options,
            sight,
        ),
        Layer::PoetryProject {
            pyproject,
            lock,
            mode,
            options,
        } => project("poetry", None, pyproject, Some(lock), *mode, options, sight),
        Layer::PixiProject {
            manifest,
            lock,
            environment,
            mode,
            options,
        } => project(
            "pixi",
            Some(environment),
            manifest,
            lock.as_deref(),
            *mode,
            options,
            sight,
        ),
        Layer::UvScript { script, options } => uv_script(script, options, sight),
        Layer::PixiScript {
            script,
            environment,
            options,
        } => pixi_script(script, environment, options),
        // Every environment holds the SDK that builds it.
        Layer::Wheels { package, .. } if requirement::is_sdk(package) => return Ok(None),
        Layer::Wheels {
            package,
            folder,
            options,
        } => local_wheels(package, folder, options),
        Layer::AptPackages {
            packages,
            secret_mounts,
        } => Ok(CanonicalLayer::Apt {
            packages,
            secret_mounts: canonical_secrets(secret_mounts),
        }),
        Layer::Commands {
            commands,
            secret_mounts,
        } => Ok(CanonicalLayer::Commands {
            commands,
            secret_mounts: canonical_secrets(secret_mounts),
        }),
        Layer::EnvVars(pairs) => Ok(CanonicalLayer::EnvVars(pairs)),
        Layer::Workdir(path) => Ok(CanonicalLayer::Workdir(path)),
        Layer::SourceFile { src, dst } => source_file(src, dst),
        Layer::SourceFolder { src, dst } => source_folder(src, dst, sight),
        // Code travels in the bundle, and ignore rules count by what they leave out.
        Layer::CodeBundle { .. } | Layer::DockerIgnore(_) => return Ok(None),
    }
    .map(Some)
}

fn pip<'a>(
    packages: &'a [String],
    options: &'a InstallOptions,
    sight: &Sight,
) -> Result<CanonicalLayer<'a>, Error> {
    Ok(CanonicalLayer::Pip {
        packages,
        local: local_digests(packages.iter().map(String::as_str), Path::new("."), sight)?,
        options: canonical_options(options),
    })
}

fn requirements<'a>(
    file: &Path,
    options: &'a InstallOptions,
    sight: &Sight,
) -> Result<CanonicalLayer<'a>, Error> {
    Ok(CanonicalLayer::Requirements {
        files: requirement_digests(file, sight)?,
        options: canonical_options(options),
    })
}

fn project<'a>(
    tool: &'static str,
    environment: Option<&'a str>,
    manifest: &Path,
    lock: Option<&Path>,
    mode: InstallMode,
    options: &'a InstallOptions,
    sight: &Sight,
) -> Result<CanonicalLayer<'a>, Error> {
    Ok(CanonicalLayer::Project {
        tool,
        environment,
        content: project_digests(manifest, lock, mode, sight)?,
        installs_project: mode == InstallMode::InstallProject,
        options: canonical_options(options),
    })
}

fn uv_script<'a>(
    script: &Path,
    options: &'a InstallOptions,
    sight: &Sight,
) -> Result<CanonicalLayer<'a>, Error> {
    Ok(CanonicalLayer::Script {
        tool: "uv",
        environment: None,
        header: script_digest(script, sight)?,
        lock: None,
        options: canonical_options(options),
    })
}

fn pixi_script<'a>(
    script: &Path,
    environment: &'a str,
    options: &'a InstallOptions,
) -> Result<CanonicalLayer<'a>, Error> {
    Ok(CanonicalLayer::Script {
        tool: "pixi",
        environment: Some(environment),
        header: script::block(script)?,
        lock: sidecar_lock(script)?,
        options: canonical_options(options),
    })
}

fn local_wheels<'a>(
    package: &'a str,
    folder: &Path,
    options: &'a InstallOptions,
) -> Result<CanonicalLayer<'a>, Error> {
    let named = |wheel: &PathBuf| Ok((file_name(wheel), digest::file(wheel)?));
    Ok(CanonicalLayer::Wheels {
        package,
        wheels: wheels(package, folder)?
            .iter()
            .map(named)
            .collect::<Result<_, Error>>()?,
        options: canonical_options(options),
    })
}

fn source_file<'a>(src: &Path, dst: &'a str) -> Result<CanonicalLayer<'a>, Error> {
    Ok(CanonicalLayer::SourceFile {
        name: file_name(src),
        content: digest::file(src)?,
        executable: digest::is_executable(src)?,
        dst,
    })
}

fn source_folder<'a>(src: &Path, dst: &'a str, sight: &Sight) -> Result<CanonicalLayer<'a>, Error> {
    Ok(CanonicalLayer::SourceFolder {
        content: sight.tree(src)?,
        dst,
    })
}

fn canonical_options(options: &InstallOptions) -> CanonicalOptions<'_> {
    CanonicalOptions {
        index_url: options.index_url.as_deref(),
        extra_index_urls: &options.extra_index_urls,
        pre: options.pre,
        extra_args: options.extra_args.as_deref(),
        secret_mounts: canonical_secrets(&options.secret_mounts),
    }
}

fn canonical_secrets(secrets: &[SecretRef]) -> Vec<CanonicalSecret<'_>> {
    secrets
        .iter()
        .map(|secret| CanonicalSecret {
            env_var: secret_env_var(secret),
            mount: secret.mount.as_deref(),
        })
        .collect()
}

/// The environment variable under which a secret's value is looked up.
pub(super) fn secret_env_var(secret: &SecretRef) -> String {
    secret.env_var.clone().unwrap_or_else(|| {
        let name = match &secret.group {
            Some(group) => format!("{group}_{}", secret.key),
            None => secret.key.clone(),
        };
        name.to_uppercase().replace('-', "_")
    })
}

pub(super) fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn local_digests<'a>(
    requirements: impl Iterator<Item = &'a str>,
    base: &Path,
    sight: &Sight,
) -> Result<Vec<String>, Error> {
    let packages = local_packages::of_requirements(requirements, base).into_iter();
    packages
        .map(|package| sight.package(&package.path))
        .collect()
}

/// Digests of a requirements file, the files it includes and the local packages it names.
fn requirement_digests(file: &Path, sight: &Sight) -> Result<Vec<String>, Error> {
    let mut digests = Vec::new();
    for (file, text) in local_packages::lists(file)? {
        digests.push(digest::file(&file)?);
        for package in local_packages::of_list(&file, &text) {
            digests.push(sight.package(&package.path)?);
        }
    }
    Ok(digests)
}

fn project_digests(
    manifest: &Path,
    lock: Option<&Path>,
    mode: InstallMode,
    sight: &Sight,
) -> Result<Vec<String>, Error> {
    let mut digests = vec![digest::file(manifest)?];
    let workspace = Workspace::of(manifest)?;
    let shared = workspace.as_ref().map(Workspace::lock);
    let lock = lock.map(Path::to_path_buf);
    let lock = lock.or(shared.filter(|lock| lock.is_file()));
    digests.push(
        lock.as_deref()
            .map(digest::file)
            .transpose()?
            .unwrap_or_default(),
    );
    let needed = workspace.as_ref().map(|found| found.needed_by(manifest));
    for member in needed.into_iter().flatten() {
        digests.push(sight.package(&member)?);
    }
    match mode {
        InstallMode::DependenciesOnly => {}
        InstallMode::InstallProject => digests.push(sight.package(&folder_of(manifest))?),
    }
    let local = local_packages::of_project(manifest, lock.as_deref(), workspace.as_ref());
    for package in local {
        digests.push(sight.package(&package.path)?);
    }
    Ok(digests)
}

fn script_digest(path: &Path, sight: &Sight) -> Result<String, Error> {
    let header = script::block(path)?;
    let script = script::read(path, false)?;
    let local = local_digests(
        script.dependencies.iter().map(String::as_str),
        &folder_of(path),
        sight,
    )?;
    Ok(format!("{header}\0{}", local.join("\0")))
}

fn sidecar_lock(script: &Path) -> Result<Option<String>, Error> {
    let mut lock = script.as_os_str().to_owned();
    lock.push(".pixi.lock");
    let lock = PathBuf::from(lock);
    lock.is_file().then(|| digest::file(&lock)).transpose()
}

/// The wheels of `package` in `folder`, sorted by name.
pub(super) fn wheels(package: &str, folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let missing = |problem: String| Error::Invalid {
        method: "with_local_v2",
        problem,
    };
    let listing = std::fs::read_dir(folder).map_err(|error| {
        missing(format!(
            "the folder of wheels `{}` cannot be read: {error}",
            folder.display()
        ))
    })?;
    let mut found: Vec<PathBuf> = listing
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .filter(|path| {
            let name = file_name(path);
            requirement::same_name(name.split('-').next().unwrap_or_default(), package)
        })
        .collect();
    if found.is_empty() {
        return Err(missing(format!(
            "`{}` holds no wheel of `{package}`",
            folder.display()
        )));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::spec::PythonVersion;

    pub(in crate::image) fn image(layers: Vec<Layer>) -> Image {
        Image {
            name: None,
            registry: None,
            base: Base::Debian {
                install_flyte: true,
            },
            python: PythonVersion {
                major: 3,
                minor: 12,
            },
            python_is_explicit: false,
            platforms: vec![],
            layers,
        }
    }

    fn hash(image: &Image) -> String {
        content_hash(image).unwrap().as_str().to_owned()
    }

    fn texts(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    fn pip_layer(packages: &[&str], options: InstallOptions) -> Layer {
        Layer::PipPackages {
            packages: texts(packages),
            options,
        }
    }

    #[test]
    fn images_that_differ_never_share_a_hash() {
        let plain = InstallOptions::default;
        let apt = |packages: &[&str]| Layer::AptPackages {
            packages: texts(packages),
            secret_mounts: vec![],
        };
        let commands = Layer::Commands {
            commands: texts(&["git"]),
            secret_mounts: vec![],
        };
        let layers = vec![
            vec![],
            vec![pip_layer(&["ab", "c"], plain())],
            vec![pip_layer(&["a", "bc"], plain())],
            vec![pip_layer(&["git"], plain())],
            vec![apt(&["git"])],
            vec![apt(&["g", "it"])],
            vec![commands],
            vec![Layer::Workdir("git".into())],
            vec![pip_layer(
                &["x"],
                InstallOptions {
                    index_url: Some("u".into()),
                    ..plain()
                },
            )],
            vec![pip_layer(
                &["x"],
                InstallOptions {
                    extra_index_urls: texts(&["u"]),
                    ..plain()
                },
            )],
            vec![pip_layer(
                &["x"],
                InstallOptions {
                    extra_args: Some("u".into()),
                    ..plain()
                },
            )],
            vec![pip_layer(
                &["x"],
                InstallOptions {
                    extra_args: Some("True".into()),
                    ..plain()
                },
            )],
            vec![pip_layer(
                &["x"],
                InstallOptions {
                    pre: true,
                    ..plain()
                },
            )],
            vec![Layer::EnvVars(vec![("A".into(), "1 B=2".into())])],
            vec![Layer::EnvVars(vec![
                ("A".into(), "1".into()),
                ("B".into(), "2".into()),
            ])],
        ];
        let mut seen = std::collections::HashSet::new();
        for layers in layers {
            let text = format!("{layers:?}");
            assert!(seen.insert(hash(&image(layers))), "{text}");
        }
        let mut other = image(vec![]);
        other.python.minor = 10;
        assert!(seen.insert(hash(&other)), "python version");
        other.platforms = texts(&["linux/arm64"]);
        assert!(seen.insert(hash(&other)), "platform");
        other.base = Base::Uri("x".into());
        assert!(seen.insert(hash(&other)), "base");
        other.base = Base::Ref("x".into());
        assert!(seen.insert(hash(&other)), "kind of base");
    }

    #[test]
    fn projects_and_wheels_do_not_stand_for_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let pyproject = dir.path().join("pyproject.toml");
        let lock = dir.path().join("x.lock");
        std::fs::write(&pyproject, "[project]\nname='x'\nversion='1'\n").unwrap();
        std::fs::write(&lock, "").unwrap();
        std::fs::write(dir.path().join("foo-1-py3-none-any.whl"), "same").unwrap();
        std::fs::write(dir.path().join("bar-1-py3-none-any.whl"), "same").unwrap();
        let mode = InstallMode::DependenciesOnly;
        let options = InstallOptions::default();
        let wheel = |package: &str| Layer::Wheels {
            package: package.into(),
            folder: dir.path().into(),
            options: options.clone(),
        };
        let uv = Layer::UvProject {
            pyproject: pyproject.clone(),
            lock: Some(lock.clone()),
            mode,
            options: options.clone(),
        };
        let poetry = Layer::PoetryProject {
            pyproject,
            lock,
            mode,
            options: options.clone(),
        };
        assert_ne!(hash(&image(vec![uv])), hash(&image(vec![poetry])));
        assert_ne!(
            hash(&image(vec![wheel("foo")])),
            hash(&image(vec![wheel("bar")]))
        );
        let error = content_hash(&image(vec![wheel("baz")])).unwrap_err();
        assert!(error.to_string().contains("no wheel of `baz`"), "{error}");
    }

    #[test]
    fn files_count_by_content_and_not_by_place() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let layer = |dir: &tempfile::TempDir, text: &str| {
            let file = dir.path().join("requirements.txt");
            std::fs::write(&file, "-r more.txt\n").unwrap();
            std::fs::write(dir.path().join("more.txt"), text).unwrap();
            hash(&image(vec![Layer::Requirements {
                file,
                options: InstallOptions::default(),
            }]))
        };
        let six = layer(&one, "six\n");
        assert_eq!(six, layer(&two, "six\n"));
        assert_ne!(six, layer(&two, "seven\n"));
    }

    /// Their content does not become part of the environment, so an edit makes no new one.
    #[test]
    fn of_a_workspace_only_what_a_project_depends_on_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        write(
            "pyproject.toml",
            "[tool.uv.workspace]\nmembers = [\"app\", \"libs/*\"]\n",
        );
        write("uv.lock", "");
        let project = |name: &str, needs: &str| {
            format!("[project]\nname = \"{name}\"\ndependencies = [{needs}]\n")
        };
        let app = write("app/pyproject.toml", &project("app", "\"Lib_one>=1\""));
        write(
            "libs/one/pyproject.toml",
            &project("lib-one", "\"lib-two\""),
        );
        write("libs/two/pyproject.toml", &project("lib-two", ""));
        write("libs/other/pyproject.toml", &project("other", ""));
        let mode = InstallMode::DependenciesOnly;
        let tag = || {
            hash(&image(vec![Layer::UvProject {
                pyproject: app.clone(),
                lock: None,
                mode,
                options: InstallOptions::default(),
            }]))
        };
        let before = tag();
        write("app/app.py", "1");
        write("libs/other/other.py", "1");
        assert_eq!(tag(), before);
        write("libs/two/two.py", "1");
        assert_ne!(tag(), before);
    }

    /// Files below `dir`, of which the last one is returned.
    fn write(dir: &Path, files: &[(&str, &str)]) -> PathBuf {
        let mut last = PathBuf::new();
        for (name, text) in files {
            last = dir.join(name);
            std::fs::create_dir_all(last.parent().unwrap()).unwrap();
            std::fs::write(&last, text).unwrap();
        }
        last
    }

    fn uv_project(pyproject: PathBuf, lock: Option<PathBuf>) -> Layer {
        Layer::UvProject {
            pyproject,
            lock,
            mode: InstallMode::DependenciesOnly,
            options: InstallOptions::default(),
        }
    }

    #[test]
    fn folders_that_packages_are_built_from_count_wherever_they_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let address = format!(
            "[project]\nname = \"app\"\ndependencies = [\"lib @ file://{}\"]\n",
            at.join("libs/mylib").display()
        );
        let poetry_lock = write(at, &[("poetry/poetry.lock", "")]);
        let sources = |entry: &str| format!("[tool.uv.sources]\nlib = {entry}\n");
        let poetry = "[tool.poetry.dependencies]\nlib = { path = \"../libs/mylib\" }\n";
        let locked = "[[package]]\nname = \"lib\"\nsource = { directory = \"../libs/mylib\" }\n";
        write(
            at,
            &[
                (
                    "root/pyproject.toml",
                    "[tool.uv.workspace]\nmembers = [\"app\"]\n[tool.uv.sources]\nlib = { path = \"../libs/mylib\" }\n",
                ),
                ("locked/uv.lock", locked),
                (
                    "between/pyproject.toml",
                    sources("{ path = \"../libs/mylib\" }").as_str(),
                ),
            ],
        );
        let project = |name: &str, text: &str| write(at, &[(name, text)]);
        let layers = [
            Layer::PoetryProject {
                pyproject: project("poetry/pyproject.toml", poetry),
                lock: poetry_lock,
                mode: InstallMode::DependenciesOnly,
                options: InstallOptions::default(),
            },
            uv_project(
                project(
                    "list/pyproject.toml",
                    &sources("[{ path = \"../libs/mylib\" }]"),
                ),
                None,
            ),
            uv_project(
                project(
                    "behind/pyproject.toml",
                    &sources("{ path = \"../between\" }"),
                ),
                None,
            ),
            uv_project(project("address/pyproject.toml", &address), None),
            uv_project(
                project("root/app/pyproject.toml", "[project]\nname = \"app\"\n"),
                None,
            ),
            uv_project(
                project("locked/pyproject.toml", "[project]\nname = \"app\"\n"),
                Some(at.join("locked/uv.lock")),
            ),
            Layer::Requirements {
                file: project("requirements.txt", "libs/mylib\n"),
                options: InstallOptions::default(),
            },
        ];
        let tags = || {
            let images = layers.iter().map(|layer| image(vec![layer.clone()]));
            images.map(|image| hash(&image)).collect::<Vec<_>>()
        };
        write(at, &[("libs/mylib/lib.py", "1")]);
        let before = tags();
        assert_eq!(tags(), before);
        write(at, &[("libs/mylib/lib.py", "2")]);
        for ((before, after), layer) in before.iter().zip(tags()).zip(&layers) {
            assert_ne!(*before, after, "{layer:?}");
        }
    }

    /// What was built meanwhile may be of either; whoever builds projects writes into their folders.
    #[test]
    fn edits_of_what_is_read_are_noticed_and_not_those_of_builders() {
        let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = dir.path();
        let list = write(
            at,
            &[("more.txt", "six\n"), ("list.txt", "-r more.txt\n./app\n")],
        );
        let lock = write(at, &[("app/uv.lock", "")]);
        let pyproject = write(at, &[("app/pyproject.toml", "[project]\nname = \"app\"\n")]);
        let script = write(
            at,
            &[("s.py", "# /// script\n# dependencies = []\n# ///\n")],
        );
        write(at, &[("dist/own-1-py3-none-any.whl", "1")]);
        let options = InstallOptions::default();
        let image = image(vec![
            Layer::Requirements {
                file: list,
                options: options.clone(),
            },
            Layer::UvProject {
                pyproject,
                lock: Some(lock),
                mode: InstallMode::InstallProject,
                options: options.clone(),
            },
            Layer::UvScript {
                script,
                options: options.clone(),
            },
            Layer::Wheels {
                package: "own".into(),
                folder: at.join("dist"),
                options,
            },
        ]);
        for (name, text) in [
            ("more.txt", "six<2\n"),
            ("app/uv.lock", "version = 1\n"),
            ("app/pyproject.toml", "[project]\nname = \"other\"\n"),
            ("s.py", "# /// script\n# dependencies = [\"six\"]\n# ///\n"),
            ("dist/own-1-py3-none-any.whl", "2"),
        ] {
            let before = Held::now(&image, home.path()).unwrap();
            before.refuse_changed(&image, home.path()).unwrap();
            write(at, &[(name, text)]);
            let error = before.refuse_changed(&image, home.path()).unwrap_err();
            assert!(matches!(error, Error::Changed), "{name}: {error}");
        }
        let before = Held::now(&image, home.path()).unwrap();
        write(at, &[("app/build/lib/app.py", "1")]);
        before.refuse_changed(&image, home.path()).unwrap();
        assert_ne!(
            Held::now(&image, home.path()).unwrap().content,
            before.content
        );
    }

    #[test]
    fn what_was_seen_once_is_not_read_again() {
        use std::os::unix::fs::MetadataExt;
        let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(dir.path(), &[("app/main.py", "1")]);
        let image = image(vec![Layer::SourceFolder {
            src: dir.path().join("app"),
            dst: ".".into(),
        }]);
        // Nothing that was changed just now is believed.
        std::thread::sleep(std::time::Duration::from_millis(40));
        let inodes = || {
            let entries = std::fs::read_dir(home.path().join("cache/images/seen")).unwrap();
            let inodes = entries.map(|entry| entry.unwrap().metadata().unwrap().ino());
            inodes.collect::<Vec<_>>()
        };
        let first = remembered_hash(&image, home.path()).unwrap();
        assert_eq!(first, content_hash(&image).unwrap());
        // It is written anew whenever a file had to be read.
        let before = inodes();
        assert_eq!(before.len(), 1);
        assert_eq!(remembered_hash(&image, home.path()).unwrap(), first);
        assert_eq!(inodes(), before);
        write(dir.path(), &[("app/main.py", "2")]);
        assert_ne!(remembered_hash(&image, home.path()).unwrap(), first);
    }

    #[test]
    fn registry_and_name_are_not_content() {
        let mut named = image(vec![]);
        let tag = content_hash(&named).unwrap().tag().to_owned();
        assert_eq!(uri(&named).unwrap(), format!("flyte:{tag}"));
        named.registry = Some("r.io/x/".into());
        named.name = Some("n".into());
        assert_eq!(uri(&named).unwrap(), format!("r.io/x/n:{tag}"));
        assert_eq!(tag.len(), 32);
    }

    #[test]
    fn bundled_code_and_ignore_rules_are_not_content() {
        let bundle = Layer::CodeBundle {
            style: crate::spec::CopyStyle::All,
            dst: ".".into(),
        };
        let rules = tempfile::NamedTempFile::new().unwrap();
        let ignore = Layer::DockerIgnore(rules.path().into());
        assert_eq!(hash(&image(vec![bundle, ignore])), hash(&image(vec![])));
    }
}

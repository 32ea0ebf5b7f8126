//! What an app needs to be installed: the Rust side of `flyte.Image`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::SecretRef;

/// A Python minor version, such as 3.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PythonVersion {
    /// Always 3 today.
    pub major: u8,
    /// The part that decides which wheels fit.
    pub minor: u8,
}

impl std::fmt::Display for PythonVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The `image` of an environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ImageSpec {
    /// A ready image, named by its URI; nothing is built or checked.
    Uri(String),
    /// An image declared layer by layer.
    Declared(Image),
}

impl From<Image> for ImageSpec {
    /// An existing image to which nothing was added is that image.
    fn from(image: Image) -> Self {
        match &image.base {
            Base::Uri(uri) if image.layers.is_empty() && image.name.is_none() => {
                Self::Uri(uri.clone())
            }
            Base::Uri(_) | Base::Debian { .. } | Base::Dockerfile(_) | Base::Ref(_) => {
                Self::Declared(image)
            }
        }
    }
}

/// A declared image: a base and the layers on top of it, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Last part of the repository, without registry or tag.
    pub name: Option<String>,
    /// Registry to push to, when one was declared.
    pub registry: Option<String>,
    /// Where the layers start.
    pub base: Base,
    /// Python of the image; for scripts, `requires-python` narrows it further.
    pub python: PythonVersion,
    /// Whether `python` was asked for, or is the running interpreter's.
    pub python_is_explicit: bool,
    /// `linux/amd64`, `linux/arm64`.
    pub platforms: Vec<String>,
    /// What is added, in the order of declaration.
    pub layers: Vec<Layer>,
}

/// What an image starts from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Base {
    /// Our own recipe: Debian, Python, and this SDK unless `install_flyte` is false.
    Debian { install_flyte: bool },
    /// An existing container image.
    Uri(String),
    /// A user's Dockerfile.
    Dockerfile(PathBuf),
    /// A name that the configuration maps to an image.
    Ref(String),
}

/// How packages are looked up and installed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstallOptions {
    pub index_url: Option<String>,
    pub extra_index_urls: Vec<String>,
    /// Allow pre-releases.
    pub pre: bool,
    /// Raw text appended to the installer's arguments.
    pub extra_args: Option<String>,
    pub secret_mounts: Vec<SecretRef>,
}

/// Whether a project itself is installed, or only what it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InstallMode {
    DependenciesOnly,
    InstallProject,
}

/// One step of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Layer {
    PipPackages {
        packages: Vec<String>,
        options: InstallOptions,
    },
    Requirements {
        file: PathBuf,
        options: InstallOptions,
    },
    UvProject {
        pyproject: PathBuf,
        lock: Option<PathBuf>,
        mode: InstallMode,
        options: InstallOptions,
    },
    PoetryProject {
        pyproject: PathBuf,
        lock: PathBuf,
        mode: InstallMode,
        options: InstallOptions,
    },
    PixiProject {
        manifest: PathBuf,
        lock: Option<PathBuf>,
        environment: String,
        mode: InstallMode,
        options: InstallOptions,
    },
    UvScript {
        script: PathBuf,
        options: InstallOptions,
    },
    PixiScript {
        script: PathBuf,
        environment: String,
        options: InstallOptions,
    },
    Wheels {
        package: String,
        folder: PathBuf,
        options: InstallOptions,
    },
    AptPackages {
        packages: Vec<String>,
        secret_mounts: Vec<SecretRef>,
    },
    Commands {
        commands: Vec<String>,
        secret_mounts: Vec<SecretRef>,
    },
    /// In order of declaration; a value may use `$NAME` of an earlier one.
    EnvVars(Vec<(String, String)>),
    Workdir(String),
    SourceFile {
        src: PathBuf,
        dst: String,
    },
    SourceFolder {
        src: PathBuf,
        dst: String,
    },
    /// Source baked into the image when no code bundle is sent.
    CodeBundle {
        style: super::CopyStyle,
        dst: String,
    },
    DockerIgnore(PathBuf),
}

impl Layer {
    /// The method of `flyte.Image` that declared this layer, for messages.
    pub fn method(&self) -> &'static str {
        match self {
            Self::PipPackages { .. } => "with_pip_packages",
            Self::Requirements { .. } => "with_requirements",
            Self::UvProject { .. } => "with_uv_project",
            Self::PoetryProject { .. } => "with_poetry_project",
            Self::PixiProject { .. } => "with_pixi_project",
            Self::UvScript { .. } => "from_uv_script",
            Self::PixiScript { .. } => "from_pixi_script",
            Self::Wheels { .. } => "with_local_v2",
            Self::AptPackages { .. } => "with_apt_packages",
            Self::Commands { .. } => "with_commands",
            Self::EnvVars(_) => "with_env_vars",
            Self::Workdir(_) => "with_workdir",
            Self::SourceFile { .. } => "with_source_file",
            Self::SourceFolder { .. } => "with_source_folder",
            Self::CodeBundle { .. } => "with_code_bundle",
            Self::DockerIgnore(_) => "with_dockerignore",
        }
    }
}

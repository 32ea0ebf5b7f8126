//! From a declared image to a recipe, the files that it reads and the secrets that it mounts.
//!
//! Steps run as root and the image ends as whoever shall run the app. What a step needs of this
//! machine is mounted while it runs, below [`MOUNTS`], and leaves no copy in the image. Running
//! the recipe is somebody else's.

use std::path::{Component, Path, PathBuf};

use pep440_rs::{Version, VersionSpecifiers};

use super::base::Base;
use super::build::split;
use super::context::Context;
use super::recipe::{Instruction, Mount, Step, render};
use crate::image::digest::Sight;
use crate::image::env::Toolchain;
use crate::image::hash::{file_name, folder_of, secret_env_var};
use crate::image::ignore::Ignore;
use crate::image::plan::absolute;
use crate::image::secret::Secrets;
use crate::image::{Error, private, script, sdk};
use crate::spec::image::Base as Declared;
use crate::spec::{Image, Layer, PythonVersion, SecretRef};

/// What `from_debian_base` starts on.
pub(super) const DEBIAN: &str = "python:{python}-slim-bookworm";
/// Has `uv` for platforms that this machine's own does not run on.
const UV_IMAGE: &str = "ghcr.io/astral-sh/uv:0.9";

/// Where this machine's files are while a step runs.
pub(super) const MOUNTS: &str = "/tmp/.flyte";
/// The folder of the context that holds them.
pub(super) const SHELF: &str = ".flyte";
pub(super) const UV: &str = "/tmp/.flyte/bin/uv";
pub(super) const UV_CACHE: &str = "/tmp/.flyte/uv-cache";
const VENV: &str = "/opt/venv";
/// Whoever runs apps on `from_debian_base`.
const USER: &str = "1000";
const OWNER: &str = "1000:1000";
const HOME: &str = "/home/flyte";

/// What a recipe begins with.
pub(super) struct Start {
    /// The image to start from; of no meaning for a Dockerfile.
    pub from: String,
    pub base: Base,
    pub python: PythonVersion,
    pub platform: String,
}

/// Everything that the engine needs.
pub(super) struct Work {
    pub context: Context,
    /// Name of the Dockerfile in the context.
    pub dockerfile: String,
    pub platform: String,
    /// For each numbered instruction, what the user wrote.
    pub origins: Vec<Option<String>>,
    /// With the method that asks for it.
    pub secrets: Vec<(&'static str, SecretRef)>,
    /// What the recipe reads and does not show, such as the address of an index with its password.
    pub private: Secrets,
    pub notes: Vec<String>,
}

/// The recipe of `image`, with all that it reads. Reads files and runs nothing.
pub(super) fn write(image: &Image, toolchain: &Toolchain, start: Start) -> Result<Work, Error> {
    if let Declared::Dockerfile(file) = &image.base {
        return dockerfile(file, start.platform);
    }
    let mut writer = Writer::new(image, toolchain, start)?;
    writer.begin();
    for layers in image
        .layers
        .chunk_by(|one, next| place_below(one).is_some() && place_below(next).is_some())
    {
        match layers {
            [one] => writer.layer(one)?,
            several => writer.copy_together(several)?,
        }
    }
    writer.end()
}

/// Where a file lands below the working directory, if it does: such files can be copied together.
fn place_below(layer: &Layer) -> Option<PathBuf> {
    let Layer::SourceFile { src, dst } = layer else {
        return None;
    };
    let name = file_name(src);
    let place = match dst.as_str() {
        "" | "." => PathBuf::from(&name),
        dst if dst.ends_with('/') => Path::new(dst).join(&name),
        // Another name may be that of a folder, into which an engine would put the file.
        dst => Some(PathBuf::from(dst)).filter(|dst| file_name(dst) == name)?,
    };
    let mut plain = PathBuf::new();
    for part in place.components() {
        match part {
            Component::Normal(part) => plain.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(plain)
}

fn dockerfile(file: &Path, platform: String) -> Result<Work, Error> {
    let (folder, name) = split(file);
    let mut context = Context::default();
    let sight = Sight::new(Ignore::of_dockerfile(file)?);
    context.add(Path::new(""), &folder, &sight)?;
    // An ignore file may name it, which concerns what it copies.
    context.add(Path::new(&name), file, &sight)?;
    Ok(Work {
        context,
        dockerfile: name,
        platform,
        origins: Vec::new(),
        secrets: Vec::new(),
        private: Secrets::default(),
        notes: Vec::new(),
    })
}

/// The Python of an image: as asked for, else the newest that its script allows.
pub(super) fn python(image: &Image) -> Result<PythonVersion, Error> {
    let script = image.layers.iter().find_map(|layer| match layer {
        Layer::UvScript { script, .. } => Some(script),
        _ => None,
    });
    let (Some(path), false) = (script, image.python_is_explicit) else {
        return Ok(image.python);
    };
    let Some(wanted) = script::read(path, false)?.requires_python else {
        return Ok(image.python);
    };
    let newest_first = (9..=14)
        .rev()
        .map(|minor| PythonVersion { major: 3, minor });
    std::iter::once(image.python)
        .chain(newest_first)
        .find(|version| allows(&wanted, *version))
        .ok_or_else(|| Error::Invalid {
            method: "from_uv_script",
            problem: format!("no Python from 3.9 to 3.14 meets `requires-python = \"{wanted}\"`"),
        })
}

/// Whether some release of this minor version is allowed.
fn allows(wanted: &VersionSpecifiers, version: PythonVersion) -> bool {
    let release = |micro: u64| Version::new([version.major.into(), version.minor.into(), micro]);
    (0..=30).any(|micro| wanted.contains(&release(micro)))
}

/// Files of this machine as a step sees them.
pub(super) struct Staged {
    from: PathBuf,
    pub mount: Mount,
    pub at: PathBuf,
}

impl Staged {
    pub(super) fn path(&self, host: &Path) -> String {
        let real = host.canonicalize().unwrap_or_else(|_| host.to_path_buf());
        let relative = real.strip_prefix(&self.from).unwrap_or(&real);
        self.at.join(relative).display().to_string()
    }
}

/// A recipe that is being written.
pub(super) struct Writer<'a> {
    image: &'a Image,
    toolchain: &'a Toolchain,
    start: Start,
    pub sight: Sight,
    steps: Vec<Step>,
    pub context: Context,
    secrets: Vec<(&'static str, SecretRef)>,
    pub private: Secrets,
    pub notes: Vec<String>,
    /// The environment that packages go into, once there is one.
    env: Option<String>,
    /// Whether this SDK becomes part of the image.
    pub with_sdk: bool,
    staged: usize,
}

impl<'a> Writer<'a> {
    fn new(image: &'a Image, toolchain: &'a Toolchain, start: Start) -> Result<Self, Error> {
        let installs = matches!(
            image.base,
            Declared::Debian {
                install_flyte: true
            }
        );
        Ok(Self {
            image,
            toolchain,
            start,
            sight: Sight::new(Ignore::of_image(image)?),
            steps: Vec::new(),
            context: Context::default(),
            secrets: Vec::new(),
            private: Secrets::default(),
            notes: Vec::new(),
            env: None,
            with_sdk: installs,
            staged: 0,
        })
    }

    fn is_debian(&self) -> bool {
        matches!(self.image.base, Declared::Debian { .. })
    }

    /// Whether what is installed on this machine runs in the image.
    fn is_native(&self) -> bool {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let own = format!("{}/{architecture}", std::env::consts::OS);
        self.start.platform == own
    }

    pub(super) fn platform(&self) -> &str {
        &self.start.platform
    }

    pub(super) fn push(&mut self, instruction: Instruction, origin: Option<&str>) {
        self.steps.push(Step {
            instruction,
            origin: origin.map(str::to_owned),
        });
    }

    pub(super) fn run(&mut self, mounts: Vec<Mount>, script: String, origin: Option<&str>) {
        self.push(Instruction::Run { mounts, script }, origin);
    }

    fn begin(&mut self) {
        let from = self.start.from.clone();
        self.push(Instruction::From(from), None);
        if !is_root(&self.start.base.user) {
            self.push(Instruction::User("0".into()), None);
        }
        if self.is_debian() {
            let script = format!(
                "id {USER} >/dev/null 2>&1 || useradd --create-home --home-dir {HOME} --shell /bin/bash --uid {USER} flyte; \
                 mkdir -p {HOME} && chown {OWNER} {HOME}"
            );
            self.run(Vec::new(), script, None);
            self.push(Instruction::Workdir(HOME.into()), None);
            self.env();
        }
    }

    /// The environment that packages go into, made when the first one does.
    pub(super) fn env(&mut self) -> String {
        if let Some(env) = &self.env {
            return env.clone();
        }
        let own = self.start.base.env.get("VIRTUAL_ENV").cloned();
        let env = own.unwrap_or_else(|| VENV.to_owned());
        let at = quote(&env);
        // Where no version was asked for, a base that has a Python is used with it.
        let python = if self.is_debian() || self.image.python_is_explicit {
            self.start.python.to_string()
        } else {
            format!("\"$(command -v python3 || echo {})\"", self.start.python)
        };
        let script = format!(
            "[ -x {at}/bin/python ] || UV_PYTHON_INSTALL_DIR=/opt/python {UV} venv --quiet --no-project --python {python} {at}"
        );
        let mounts = self.uv();
        self.run(mounts, script, None);
        self.enter(&env);
        env
    }

    pub(super) fn enter(&mut self, env: &str) {
        self.push(Instruction::Env("VIRTUAL_ENV".into(), env.into()), None);
        let path = format!("{env}/bin:$PATH");
        self.push(Instruction::Env("PATH".into(), path), None);
        self.env = Some(env.to_owned());
    }

    /// What a step that calls `uv` mounts.
    pub(super) fn uv(&mut self) -> Vec<Mount> {
        let cache = Mount::Cache {
            id: "flyte-uv".into(),
            target: UV_CACHE.into(),
        };
        vec![self.uv_program(), cache]
    }

    fn uv_program(&mut self) -> Mount {
        if !self.is_native() {
            return Mount::Image {
                image: UV_IMAGE.into(),
                source: "/uv".into(),
                target: UV.into(),
            };
        }
        let source = format!("{SHELF}/uv");
        self.context.executable(&source, &self.toolchain.uv);
        Mount::Context {
            source,
            target: UV.into(),
        }
    }

    /// Takes files of this machine along and says where a step finds them. Their places to each
    /// other stay; where they lie on this machine is not told.
    pub(super) fn stage(&mut self, paths: &[PathBuf]) -> Result<Staged, Error> {
        let mut real = Vec::with_capacity(paths.len());
        for path in paths {
            real.push(path.canonicalize().map_err(Error::unreadable(path))?);
        }
        let mut from = real.first().map(|path| folder_of(path)).unwrap_or_default();
        while !real.iter().all(|path| path.starts_with(&from)) && from.pop() {}
        let name = self.staged.to_string();
        self.staged += 1;
        let source = Path::new(SHELF).join(&name);
        for path in &real {
            let relative = path.strip_prefix(&from).unwrap_or(path);
            self.context
                .add(&source.join(relative), path, &self.sight)?;
        }
        let at = Path::new(MOUNTS).join(&name);
        Ok(Staged {
            from,
            mount: Mount::Context {
                source: source.display().to_string(),
                target: at.display().to_string(),
            },
            at,
        })
    }

    fn layer(&mut self, layer: &Layer) -> Result<(), Error> {
        let method = layer.method();
        match layer {
            Layer::PipPackages { packages, options } => self.packages(method, packages, options),
            Layer::Requirements { file, options } => self.requirements(method, file, options),
            Layer::UvProject {
                pyproject,
                lock,
                mode,
                options,
            } => self.uv_project(method, pyproject, lock.as_deref(), *mode, options),
            Layer::PoetryProject {
                pyproject,
                lock,
                mode,
                options,
            } => self.poetry(method, pyproject, lock, *mode, options),
            Layer::PixiProject {
                manifest,
                lock,
                environment,
                mode,
                options,
            } => self.pixi(
                method,
                manifest,
                lock.as_deref(),
                environment,
                *mode,
                options,
            ),
            Layer::UvScript { script, options } => self.script(method, script, options),
            Layer::Wheels {
                package,
                folder,
                options,
            } => self.wheels(method, package, folder, options),
            Layer::AptPackages {
                packages,
                secret_mounts,
            } => {
                self.apt(method, packages, secret_mounts);
                Ok(())
            }
            Layer::Commands {
                commands,
                secret_mounts,
            } => {
                self.commands(method, commands, secret_mounts);
                Ok(())
            }
            Layer::EnvVars(pairs) => self.variables(method, pairs),
            Layer::Workdir(path) => {
                self.workdir(method, path);
                Ok(())
            }
            Layer::SourceFile { src, dst } | Layer::SourceFolder { src, dst } => {
                self.copy(method, src, dst)
            }
            Layer::PixiScript {
                script,
                environment,
                options,
            } => self.pixi_script(method, script, environment, options),
            // Code travels in a bundle, and `sight` has the rules.
            Layer::CodeBundle { .. } | Layer::DockerIgnore(_) => Ok(()),
        }
    }

    pub(super) fn secrets(&mut self, method: &'static str, wanted: &[SecretRef]) -> Vec<Mount> {
        let mut mounts = Vec::with_capacity(wanted.len());
        for secret in wanted {
            let target = secret.mount.as_ref().map(|folder| place_of(folder, secret));
            mounts.push(Mount::Secret {
                id: secret_env_var(secret),
                target,
            });
            self.secrets.push((method, secret.clone()));
        }
        mounts
    }

    /// Without a cache of archives: Debian's images drop them, and `apt` locks the folder.
    fn apt(&mut self, method: &'static str, packages: &[String], secrets: &[SecretRef]) {
        if packages.is_empty() {
            return;
        }
        let mounts = self.secrets(method, secrets);
        let script = format!(
            "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {} && rm -rf /var/lib/apt/lists/*",
            sentence(packages)
        );
        self.run(mounts, script, Some(&told(method, packages)));
    }

    fn commands(&mut self, method: &'static str, commands: &[String], secrets: &[SecretRef]) {
        for command in commands {
            let mut mounts = self.secrets(method, secrets);
            let is_word = |c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_';
            let mut script = command.clone();
            if command.split(is_word).any(|word| word == "uv") {
                mounts.push(self.uv_program());
                script = format!("PATH=\"$PATH:{MOUNTS}/bin\"; {command}");
            }
            let origin = told(method, std::slice::from_ref(command));
            self.run(mounts, script, Some(&origin));
        }
    }

    fn variables(&mut self, method: &'static str, pairs: &[(String, String)]) -> Result<(), Error> {
        for (name, value) in pairs {
            if value.contains(['\n', '\r']) {
                return Err(Error::Invalid {
                    method,
                    problem: format!(
                        "the value of `{name}` has several lines, which no image can hold"
                    ),
                });
            }
            self.push(Instruction::Env(name.clone(), value.clone()), None);
        }
        Ok(())
    }

    fn workdir(&mut self, method: &'static str, path: &str) {
        let origin = told(method, &[path.to_owned()]);
        if let Some(owner) = self.owner() {
            // The engine makes it root's, and apps write into it.
            let at = path.replace('\\', "\\\\").replace('"', "\\\"");
            let script = format!("mkdir -p \"{at}\" && chown {} \"{at}\"", quote(&owner));
            self.run(Vec::new(), script, Some(&origin));
        }
        self.push(Instruction::Workdir(path.to_owned()), Some(&origin));
    }

    /// Copies files that stand next to each other as one layer: engines mount no more than some 125,
    /// and code may be hundreds of files.
    fn copy_together(&mut self, layers: &[Layer]) -> Result<(), Error> {
        let source = Path::new(SHELF).join(self.staged.to_string());
        self.staged += 1;
        let mut told = String::new();
        for layer in layers {
            if let (Some(place), Layer::SourceFile { src, .. }) = (place_below(layer), layer) {
                self.context
                    .add(&source.join(place), &absolute(src), &self.sight)?;
                if told.is_empty() {
                    told = self::told(layer.method(), &[src.display().to_string()]);
                }
            }
        }
        let origin = format!("{told} and {} more", layers.len() - 1);
        let copy = Instruction::Copy {
            source: format!("{}/", source.display()),
            target: "./".to_owned(),
            owner: self.owner(),
        };
        self.push(copy, Some(&origin));
        Ok(())
    }

    fn copy(&mut self, method: &'static str, src: &Path, dst: &str) -> Result<(), Error> {
        let origin = told(method, &[src.display().to_string()]);
        let src = absolute(src);
        let source = Path::new(SHELF).join(self.staged.to_string());
        self.staged += 1;
        let source = if src.is_dir() {
            self.context.add(&source, &src, &self.sight)?;
            format!("{}/", source.display())
        } else {
            let name = source.join(file_name(&src));
            self.context.add(&name, &src, &self.sight)?;
            name.display().to_string()
        };
        let target = match dst {
            // Without the slash it would be taken for a file's name.
            "" | "." => "./".to_owned(),
            other if source.ends_with('/') => format!("{}/", other.trim_end_matches('/')),
            other => other.to_owned(),
        };
        let owner = self.owner();
        let copy = Instruction::Copy {
            source,
            target,
            owner,
        };
        self.push(copy, Some(&origin));
        Ok(())
    }

    /// Whose files are, where that is not root.
    fn owner(&self) -> Option<String> {
        if self.is_debian() {
            return Some(OWNER.to_owned());
        }
        let user = &self.start.base.user;
        (!is_root(user)).then(|| user.clone())
    }

    fn end(mut self) -> Result<Work, Error> {
        if self.with_sdk {
            self.sdk()?;
        }
        if self.is_debian() {
            self.push(Instruction::User(USER.into()), None);
        } else if !is_root(&self.start.base.user) {
            let user = self.start.base.user.clone();
            self.push(Instruction::User(user), None);
        }
        self.context.text("Dockerfile", render(&self.steps));
        let numbered = self.steps.into_iter();
        let numbered = numbered.filter(|step| step.instruction.is_numbered());
        Ok(Work {
            context: self.context,
            dockerfile: "Dockerfile".into(),
            platform: self.start.platform,
            origins: numbered.map(|step| step.origin).collect(),
            secrets: self.secrets,
            private: self.private,
            notes: self.notes,
        })
    }

    /// Places this SDK: ours replaces what an installer left, and what we merely need yields.
    fn sdk(&mut self) -> Result<(), Error> {
        if !self.is_native() {
            return Err(Error::Invalid {
                method: "Image",
                problem: format!(
                    "the SDK that is installed here does not run on `{}`; build on such a machine, or with `install_flyte=False`",
                    self.start.platform
                ),
            });
        }
        let env = self.env();
        let source = format!("{SHELF}/sdk");
        for entry in &self.toolchain.sdk.entries {
            let name = Path::new(&source).join("site").join(file_name(entry));
            self.context.add(&name, entry, &Sight::default())?;
        }
        for (name, module) in sdk::PROGRAMS {
            let python = PathBuf::from(&env).join("bin/python");
            let program = format!("{source}/bin/{name}");
            self.context
                .program(program, sdk::launcher(&python, module));
        }
        let from = format!("{MOUNTS}/sdk");
        let script = format!(
            "site=\"$({python} -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')\" && \
             for entry in {from}/site/*; do \
             name=\"${{entry##*/}}\"; \
             case \"$name\" in flyte|flyte_rs-*) rm -rf \"$site/$name\";; esac; \
             [ -e \"$site/$name\" ] || cp -R \"$entry\" \"$site/\" || exit 1; \
             done && cp {from}/bin/* {bin}/ && {python} -m compileall -q \"$site/flyte\"",
            python = quote(&format!("{env}/bin/python")),
            bin = quote(&format!("{env}/bin")),
        );
        let mount = Mount::Context {
            source,
            target: from,
        };
        self.run(vec![mount], script, None);
        Ok(())
    }
}

/// Where a secret lies below its folder: as `Secret.path` has it.
fn place_of(folder: &str, secret: &SecretRef) -> String {
    let group = secret.group.iter().map(String::as_str);
    let parts = std::iter::once(folder.trim_end_matches('/')).chain(group);
    let parts: Vec<&str> = parts.chain([secret.key.as_str()]).collect();
    parts.join("/")
}

fn is_root(user: &str) -> bool {
    matches!(user.split(':').next(), None | Some("" | "0" | "root"))
}

/// The declaration as the user wrote it, for messages.
pub(super) fn told(method: &str, arguments: &[String]) -> String {
    private::without(&format!("{method}('{}')", arguments.join("', '")))
}

pub(super) fn quote(word: &str) -> String {
    // Only a zero byte cannot be quoted, and no path or argument of a process holds one.
    shlex::try_quote(word).map_or_else(|_| word.replace('\0', ""), std::borrow::Cow::into_owned)
}

pub(super) fn sentence(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
    quoted.join(" ")
}

#[cfg(test)]
mod tests;

//! Which packages an image gets, and how `uv` unpacks them for a machine that is not this one.
//!
//! Versions are decided once and remembered; a wheel is named by its digest, so what is installed
//! is what was decided. Only wheels are taken: a source distribution would have to be built inside
//! the image. Projects that lie on this machine are built into wheels first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::cache::{Cache, key};
use super::stage::{self, Unpacked, Venv};
use crate::image::Error;
use crate::image::build::{is_set_by_us, off_thread, open_repositories, poetry_export};
use crate::image::env::{Progress, Sink, Toolchain, held, refuse_changed};
use crate::image::hash::{file_name, folder_of};
use crate::image::plan::{Step, Work};
use crate::image::registry::Platform;
use crate::image::secret::Secrets;
use crate::image::workspace::Workspace;
use crate::image::{digest, private, requirement, uv};
use crate::spec::{Image, PythonVersion};

/// Makes a requirement of `flyte` by another package hold nothing: ours is put in afterwards.
const OVERRIDES: &str = "flyte ; python_version < '0'\n";
/// The oldest time that a wheel's archive can hold: what is built twice is the same wheel.
const EPOCH: &str = "315532800";

/// What packages are chosen for.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub python: PythonVersion,
    /// As `uv` writes it, such as `x86_64-manylinux_2_28`.
    pub platform: String,
}

impl Target {
    /// `glibc` is the minor version of the C library that the base has at least.
    pub(super) fn new(
        python: PythonVersion,
        platform: &Platform,
        glibc: u32,
    ) -> Result<Self, Error> {
        let architecture = match platform.architecture.as_str() {
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            other => {
                return Err(Error::Invalid {
                    method: "platform",
                    problem: format!(
                        "packages cannot be chosen for `linux/{other}`, only for `linux/amd64` and `linux/arm64`"
                    ),
                });
            }
        };
        Ok(Self {
            python,
            platform: format!("{architecture}-manylinux_2_{glibc}"),
        })
    }
}

/// Where a package is taken from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Source {
    Index,
    /// A wheel of this machine.
    Wheel(PathBuf),
    /// A requirement that names a URL.
    Url(String),
}

/// One package whose version is decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Package {
    /// Normalised.
    pub name: String,
    pub version: String,
    /// Of its wheel.
    pub sha256: String,
    source: Source,
    /// The step that asked for it last.
    step: usize,
}

impl Package {
    /// Names what the package becomes in an image.
    pub(super) fn key(&self, python: PythonVersion, venv: &Path) -> String {
        let (python, venv) = (python.to_string(), venv.to_string_lossy());
        key(&[
            "package",
            &self.name,
            &self.version,
            &self.sha256,
            &python,
            &venv,
        ])
    }

    /// Whether the wheel is still there that was built for it here. What is used is not tidied away.
    fn is_there(&self, cache: &Cache) -> bool {
        match &self.source {
            Source::Wheel(path) => {
                cache.touch_wheel(path);
                path.exists()
            }
            Source::Index | Source::Url(_) => true,
        }
    }

    /// Of a list that `uv` installs; `step` is the one that asked for the package.
    fn line(&self, step: &Step) -> String {
        let hash = format!("--hash=sha256:{}", self.sha256);
        match &self.source {
            Source::Index => format!("{}=={} {hash}\n", self.name, self.version),
            Source::Wheel(path) => format!("{} @ file://{} {hash}\n", self.name, encoded(path)),
            // The step has it with the credentials that are not remembered.
            Source::Url(remembered) => {
                let declared = match &step.work {
                    Work::Pip { targets, .. } => targets.as_slice(),
                    Work::Sync { .. } | Work::Poetry { .. } => &[],
                };
                let mut declared = declared.iter();
                let declared = declared.find(|one| requirement::same_name(one, &self.name));
                format!("{}\n", declared.unwrap_or(remembered))
            }
        }
    }
}

fn encoded(path: &Path) -> String {
    match url::Url::from_file_path(path) {
        Ok(url) => url.path().to_owned(),
        Err(()) => path.display().to_string(),
    }
}

/// Decides and unpacks; its scratch folder goes with it.
pub(super) struct Installer<'a> {
    toolchain: &'a Toolchain,
    cache: &'a Cache,
    target: &'a Target,
    steps: &'a [Step],
    secrets: Secrets,
    progress: &'a Sink<'a>,
    scratch: TempDir,
}

impl<'a> Installer<'a> {
    pub(super) fn new(
        toolchain: &'a Toolchain,
        cache: &'a Cache,
        target: &'a Target,
        steps: &'a [Step],
        secrets: Secrets,
        progress: &'a Sink<'a>,
    ) -> Result<Self, Error> {
        let installer = Self {
            toolchain,
            cache,
            target,
            steps,
            secrets,
            progress,
            scratch: cache.folder()?,
        };
        installer.write("overrides.txt", OVERRIDES)?;
        Ok(installer)
    }

    /// The packages for all steps, by name: those remembered for what is `declared`, or decided now.
    pub(super) async fn packages(
        &self,
        declared: &Image,
        force: bool,
    ) -> Result<Vec<Package>, Error> {
        let Target { python, platform } = self.target;
        let held = held(self.toolchain, declared).await?;
        let content = held.content.as_str();
        let key = key(&["lock", content, &python.to_string(), platform]);
        let known: Option<Vec<Package>> = self.cache.recall("locks", &key);
        if let (false, Some(known)) = (force, known)
            && known.iter().all(|package| package.is_there(self.cache))
        {
            return Ok(known);
        }
        let mut packages: BTreeMap<String, Package> = BTreeMap::new();
        for number in 0..self.steps.len() {
            for package in self.decide(number, &packages).await? {
                packages.insert(package.name.clone(), package);
            }
        }
        let packages: Vec<_> = packages.into_values().collect();
        // What was decided for other files is not remembered for these.
        refuse_changed(self.toolchain, declared, &held).await?;
        self.cache.remember("locks", &key, &packages)?;
        Ok(packages)
    }

    async fn decide(
        &self,
        number: usize,
        before: &BTreeMap<String, Package>,
    ) -> Result<Vec<Package>, Error> {
        let step = &self.steps[number];
        let mut arguments = index_flags(step);
        let (targets, folder) = match &step.work {
            Work::Pip { targets, folder } => {
                arguments.clone_from(&step.flags);
                (targets.clone(), folder.clone())
            }
            Work::Sync { pyproject, lock } => {
                let (list, folder) = self.exported(step, pyproject, lock).await?;
                arguments.push("--no-deps".to_owned());
                (vec!["-r".to_owned(), list], Some(folder))
            }
            Work::Poetry { folder } => {
                let list = self.poetry(step, folder).await?;
                (vec!["-r".to_owned(), list], Some(folder.clone()))
            }
        };
        let targets = self.built(step, targets).await?;
        // What earlier steps decided stays, unless this one cannot live with it.
        let from_index = |package: &&Package| package.source == Source::Index;
        let mut known = String::new();
        for Package { name, version, .. } in before.values().filter(from_index) {
            known.extend([name, "==", version, "\n"]);
        }
        if !known.is_empty() {
            let constraints = self.write("constraints.txt", &known)?;
            let mut kept = arguments.clone();
            kept.extend(["--constraints".to_owned(), constraints]);
            if let Ok(lock) = self.compile(step, &kept, &targets, folder.as_deref()).await {
                return read_lock(&lock, number, step, &targets, folder.as_deref());
            }
        }
        let lock = self
            .compile(step, &arguments, &targets, folder.as_deref())
            .await?;
        read_lock(&lock, number, step, &targets, folder.as_deref())
    }

    /// The lock in the form of PEP 751. It may hold what a secret was filled into: it stays in memory.
    async fn compile(
        &self,
        step: &Step,
        arguments: &[String],
        targets: &[String],
        folder: Option<&Path>,
    ) -> Result<String, Error> {
        // `uv` compiles lists, so single requirements become one.
        let mut list = String::new();
        let mut inputs = Vec::new();
        let mut command = self.uv([
            "pip",
            "compile",
            "--quiet",
            "--format",
            "pylock.toml",
            "--no-header",
        ]);
        let secrets = self.secrets.only(&step.secrets);
        command.secrets(&secrets);
        let targets = open_repositories(targets, &secrets, &mut command);
        let mut rest = targets.iter();
        while let Some(target) = rest.next() {
            match target.as_str() {
                "-r" => inputs.extend(rest.next().cloned()),
                requirement => {
                    list.push_str(requirement);
                    list.push('\n');
                }
            }
        }
        if !list.is_empty() {
            inputs.push(self.write("requirements.in", &list)?);
        }
        command
            .args(["--only-binary", ":all:", "--overrides"])
            .arg(self.scratch.path().join("overrides.txt"))
            .args(arguments)
            .args(inputs);
        if let Some(folder) = folder {
            command.current_dir(folder);
        }
        self.run(step.text(), "uv", command).await
    }

    /// Unpacks packages, as they belong into `venv`; the files live as long as the installer.
    pub(super) async fn unpack(
        &self,
        packages: &[&Package],
        venv: &Venv,
    ) -> Result<BTreeMap<String, Unpacked>, Error> {
        let mut found = self.unpack_together(packages, venv).await?;
        // What is remembered of a package must not hold the files of another one.
        let contested = stage::contested(&found);
        for package in packages {
            if contested.contains(&package.name) {
                found.extend(self.unpack_together(&[package], venv).await?);
            }
        }
        Ok(found)
    }

    async fn unpack_together(
        &self,
        packages: &[&Package],
        venv: &Venv,
    ) -> Result<BTreeMap<String, Unpacked>, Error> {
        let scratch = self.scratch.path();
        let prefix = tempfile::tempdir_in(scratch).map_err(Error::store("write to", scratch))?;
        let prefix = prefix.keep();
        for (number, step) in self.steps.iter().enumerate() {
            let own = packages.iter().filter(|package| package.step == number);
            let lines: String = own.map(|package| package.line(step)).collect();
            if lines.is_empty() {
                continue;
            }
            let list = self.write("install.txt", &lines)?;
            let mut command = self.uv(["pip", "install", "--no-deps", "--only-binary", ":all:"]);
            command.arg("--prefix").arg(&prefix).arg("-r").arg(list);
            match &step.work {
                Work::Pip { folder, .. } => {
                    command.args(step.flags.iter().filter(|flag| *flag != "--no-deps"));
                    if let Some(folder) = folder {
                        command.current_dir(folder);
                    }
                }
                Work::Sync { pyproject, .. } => {
                    command
                        .args(index_flags(step))
                        .current_dir(folder_of(pyproject));
                }
                Work::Poetry { folder } => {
                    command.args(index_flags(step)).current_dir(folder);
                }
            }
            command.secrets(&self.secrets.only(&step.secrets));
            self.run(step.text(), "uv", command).await?;
        }
        let venv = venv.clone();
        off_thread(move || stage::take_apart(&prefix, &venv)).await
    }

    /// The packages that a project's lock names, as a list, and the folder to read it in.
    async fn exported(
        &self,
        step: &Step,
        pyproject: &Path,
        lock: &Path,
    ) -> Result<(String, PathBuf), Error> {
        let mut folder = folder_of(pyproject);
        let shared = Workspace::of(pyproject)?.map(|workspace| workspace.lock());
        // Other projects of a workspace are named as they lie from its root.
        let root = shared.as_deref().map_or_else(|| folder.clone(), folder_of);
        if lock != folder.join("uv.lock") && shared.as_deref() != Some(lock) {
            folder = self.scratch.path().join("project");
            std::fs::create_dir_all(&folder).map_err(Error::store("create", &folder))?;
            for (from, name) in [(pyproject, "pyproject.toml"), (lock, "uv.lock")] {
                std::fs::copy(from, folder.join(name)).map_err(Error::unreadable(from))?;
            }
        }
        let mut command = uv::uv(
            &self.toolchain.uv,
            ["export", "--quiet", "--frozen", "--no-editable"],
        );
        command
            .args([
                "--no-header",
                "--no-emit-project",
                "--no-emit-package",
                "flyte",
            ])
            .args(["--format", "requirements.txt", "--project"])
            .arg(&folder)
            .args(step.flags.iter().filter(|flag| !is_set_by_us(flag)))
            .current_dir(&folder);
        command.secrets(&self.secrets.only(&step.secrets));
        let list = self.run(step.text(), "uv", command).await?;
        let mut lines = String::new();
        for line in list.lines() {
            let is_local =
                !line.starts_with([' ', '#']) && requirement::local_path(line, &root).is_some();
            if is_local {
                let target = requirement::absolute(line, &root);
                lines.push_str(&self.built(step, vec![target]).await?.concat());
            } else {
                lines.push_str(line);
            }
            lines.push('\n');
        }
        Ok((self.write("exported.txt", &lines)?, folder))
    }

    async fn poetry(&self, step: &Step, folder: &Path) -> Result<String, Error> {
        let list = self.scratch.path().join("poetry.txt");
        let command = poetry_export(step, folder, &list, &self.secrets)?;
        self.run(step.text(), "poetry", command).await?;
        Ok(list.display().to_string())
    }

    /// The targets, with wheels in place of the folders of this machine.
    async fn built(&self, step: &Step, targets: Vec<String>) -> Result<Vec<String>, Error> {
        let mut out = Vec::with_capacity(targets.len());
        for target in targets {
            match requirement::local_path(&target, Path::new("/")) {
                Some(folder) if folder.is_dir() => out.push(self.wheel(step, &folder).await?),
                Some(_) | None => out.push(target),
            }
        }
        Ok(out)
    }

    async fn wheel(&self, step: &Step, folder: &Path) -> Result<String, Error> {
        let out = self.cache.folder()?;
        let mut command = uv::uv(
            &self.toolchain.uv,
            ["build", "--quiet", "--wheel", "--python"],
        );
        command
            .arg(&self.toolchain.python)
            .arg("--out-dir")
            .arg(out.path())
            .arg(folder)
            .env("SOURCE_DATE_EPOCH", EPOCH);
        command.secrets(&self.secrets.only(&step.secrets));
        self.run(step.text(), "uv", command).await?;
        let listing = std::fs::read_dir(out.path()).map_err(Error::store("read", out.path()))?;
        let wheel = listing
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"));
        let wheel = wheel.ok_or_else(|| Error::Invalid {
            method: step.method,
            problem: format!("`{}` builds into no wheel", folder.display()),
        })?;
        let kept = self.cache.wheel(&digest::file(&wheel)?, &file_name(&wheel));
        if kept.is_file() {
            Cache::touch(&kept);
        } else {
            let mut file = self.cache.temporary()?;
            let mut from = std::fs::File::open(&wheel).map_err(Error::unreadable(&wheel))?;
            std::io::copy(&mut from, file.as_file_mut()).map_err(Error::store("write", &kept))?;
            self.cache.keep(file, &kept)?;
        }
        Ok(kept.display().to_string())
    }

    /// `uv`, told for whom it chooses.
    fn uv<const N: usize>(&self, arguments: [&str; N]) -> uv::Call {
        let mut command = uv::uv(&self.toolchain.uv, arguments);
        command
            .arg("--python")
            .arg(&self.toolchain.python)
            .args(["--python-version", &self.target.python.to_string()])
            .args(["--python-platform", &self.target.platform]);
        command
    }

    fn write(&self, name: &str, text: &str) -> Result<String, Error> {
        let path = self.scratch.path().join(name);
        std::fs::write(&path, text).map_err(Error::store("write", &path))?;
        Ok(path.display().to_string())
    }

    async fn run(
        &self,
        step: String,
        installer: &'static str,
        command: uv::Call,
    ) -> Result<String, Error> {
        let program = command.program().to_path_buf();
        let outcome = uv::run(command, |line| (self.progress)(Progress::Line(line)))
            .await
            .map_err(|source| Error::Start { program, source })?;
        if outcome.success {
            return Ok(outcome.stdout);
        }
        Err(Error::Install {
            step,
            installer,
            status: outcome.status,
            tail: outcome.tail,
            held_by: None,
        })
    }
}

/// Of a step whose flags are meant for another program: those that every installer knows.
fn index_flags(step: &Step) -> Vec<String> {
    let mut flags = Vec::new();
    let mut rest = step.flags.iter();
    while let Some(flag) = rest.next() {
        match flag.as_str() {
            "--index-url" | "--extra-index-url" => {
                flags.push(flag.clone());
                flags.extend(rest.next().cloned());
            }
            "--prerelease=allow" => flags.push(flag.clone()),
            _ => {}
        }
    }
    flags
}

/// The packages of a lock, each with the one wheel that fits.
fn read_lock(
    text: &str,
    number: usize,
    step: &Step,
    targets: &[String],
    folder: Option<&Path>,
) -> Result<Vec<Package>, Error> {
    let odd = |problem: String| Error::Invalid {
        method: step.method,
        problem,
    };
    let lock: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        odd(format!(
            "`uv` wrote a lock that cannot be read: {}",
            error.message()
        ))
    })?;
    let packages = lock.get("packages").and_then(toml::Value::as_array);
    packages
        .into_iter()
        .flatten()
        .filter_map(toml::Value::as_table)
        .map(|package| {
            let mut package = read_package(step.method, package, number, targets)?;
            if let Source::Wheel(path) = &mut package.source {
                // Before 0.10.10 `uv` wrote it as seen from where it ran.
                *path = folder.unwrap_or(Path::new("/")).join(&*path);
            }
            Ok(package)
        })
        .collect()
}

fn read_package(
    method: &'static str,
    package: &toml::Table,
    number: usize,
    targets: &[String],
) -> Result<Package, Error> {
    let odd = |problem: String| Error::Invalid { method, problem };
    let text = |table: &toml::Table, field: &str| {
        table
            .get(field)
            .and_then(toml::Value::as_str)
            .map(str::to_owned)
    };
    let name = text(package, "name").unwrap_or_default();
    let wheel = package
        .get("wheels")
        .and_then(|wheels| wheels.as_array()?.first()?.as_table());
    let archive = package.get("archive").and_then(toml::Value::as_table);
    let Some(file) = wheel.or(archive) else {
        return Err(Error::NeedsContainer {
            what: format!(
                "`{method}`: `{name}` exists only as source, which would have to be built inside the image"
            ),
            hint: "use the Docker builder, or a version that has a wheel".to_owned(),
        });
    };
    let source = match (text(file, "path"), archive) {
        (Some(path), _) => Source::Wheel(PathBuf::from(path)),
        (None, None) => Source::Index,
        // As it was declared: what `uv` wrote may hold a secret that it filled in.
        (None, Some(_)) => {
            let declared = targets
                .iter()
                .find(|target| requirement::same_name(target, &name));
            Source::Url(declared.map(|one| private::without(one)).ok_or_else(|| {
                odd(format!(
                    "`{name}` is named by a URL in a file; name it by `with_pip_packages`"
                ))
            })?)
        }
    };
    let hash = file
        .get("hashes")
        .and_then(|hashes| hashes.get("sha256")?.as_str().map(str::to_owned));
    let sha256 = hash.ok_or_else(|| {
        odd(format!(
            "the index gives no digest of the wheel of `{name}`"
        ))
    })?;

    Ok(Package {
        version: text(package, "version").unwrap_or_default(),
        name,
        sha256,
        source,
        step: number,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn a_wheel_that_was_built_here_is_used_or_missed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let wheel = cache.wheel("00", "own-1-py3-none-any.whl");
        // As `uv` writes the path: seen from where the list is.
        let path = dir.path().join("cache/../cache/images/wheels/00");
        let package = Package {
            name: "own".into(),
            version: "1".into(),
            sha256: String::new(),
            source: Source::Wheel(path.join("own-1-py3-none-any.whl")),
            step: 0,
        };
        assert!(!package.is_there(&cache));
        std::fs::create_dir_all(wheel.parent().unwrap()).unwrap();
        let file = std::fs::File::create(&wheel).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(package.is_there(&cache));
        assert_ne!(
            std::fs::metadata(&wheel).unwrap().modified().unwrap(),
            SystemTime::UNIX_EPOCH
        );
    }
}

//! From a declared image to the steps that `uv` can take, and the refusal of what it cannot.
//!
//! A plan reads the files that the image names, runs nothing and writes nothing.

use std::path::{Path, PathBuf};

use super::env::Source;
use super::error::Error;
use super::hash::{file_name, folder_of, wheels};
use super::ignore::Ignore;
use super::local_packages::{self, LocalPackage};
use super::private;
use super::python::Asked;
use super::requirement::{self, Line};
use super::script;
use super::workspace::{Workspace, project_name};
use crate::spec::image::Base;
use crate::spec::{Image, InstallMode, InstallOptions, Layer, SecretRef};

/// What a step does.
#[derive(Debug, PartialEq)]
pub(super) enum Work {
    /// `uv pip install`, run in `folder` when relative paths or project settings matter.
    Pip {
        targets: Vec<String>,
        folder: Option<PathBuf>,
    },
    /// `uv sync` of the dependencies that a lock file names.
    Sync { pyproject: PathBuf, lock: PathBuf },
    /// `poetry export`, then as `Pip`.
    Poetry { folder: PathBuf },
}

/// One call of an installer.
#[derive(Debug, PartialEq)]
pub(super) struct Step {
    pub method: &'static str,
    /// What the user passed, for messages.
    pub arguments: Vec<String>,
    pub flags: Vec<String>,
    /// Those that the installer may see, as variables.
    pub secrets: Vec<SecretRef>,
    /// What it may build from folders of this machine.
    pub local: Vec<LocalPackage>,
    pub work: Work,
}

impl Step {
    /// The step as it was declared, such as `with_pip_packages('six')`.
    pub(super) fn text(&self) -> String {
        private::without(&format!(
            "{}('{}')",
            self.method,
            self.arguments.join("', '")
        ))
    }
}

/// A file or folder that becomes part of the environment.
#[derive(Debug, PartialEq)]
pub(super) struct Copy {
    pub src: PathBuf,
    pub source: Source,
}

/// Everything to do for an image, in order.
#[derive(Debug)]
pub(super) struct Plan {
    pub python: Asked,
    /// Whether no other Python will do.
    pub python_is_explicit: bool,
    pub system_packages: Vec<String>,
    pub steps: Vec<Step>,
    pub copies: Vec<Copy>,
    /// What of the folders to copy is left out.
    pub ignore: Ignore,
    pub env_vars: Vec<(String, String)>,
    pub workdir: Option<String>,
    pub notes: Vec<String>,
}

/// Refuses what no environment can be, before a file is read.
pub(super) fn refuse(image: &Image) -> Result<(), Error> {
    refuse_base(&image.base)?;
    refuse_platform(&image.platforms)?;
    image.layers.iter().try_for_each(refuse_layer)?;
    image.layers.iter().try_for_each(refuse_mounts)
}

/// Refuses secrets that a step wants as files: only a container has a place for them.
pub(super) fn refuse_mounts(layer: &Layer) -> Result<(), Error> {
    let mounted = |secret: &&SecretRef| secret.mount.is_some();
    let Some(secret) = secret_mounts(layer).iter().find(mounted) else {
        return Ok(());
    };
    needs_container(
        format!(
            "`{}` mounts the secret `{}` as a file in `{}`, which only a container has",
            layer.method(),
            secret.key,
            secret.mount.as_deref().unwrap_or_default()
        ),
        "leave out `mount=`, so that the secret is a variable, or use the Docker builder",
    )
}

/// The secrets that a layer's step may read.
pub(super) fn secret_mounts(layer: &Layer) -> &[SecretRef] {
    match layer {
        Layer::PipPackages { options, .. }
        | Layer::Requirements { options, .. }
        | Layer::UvProject { options, .. }
        | Layer::PoetryProject { options, .. }
        | Layer::PixiProject { options, .. }
        | Layer::UvScript { options, .. }
        | Layer::PixiScript { options, .. }
        | Layer::Wheels { options, .. } => &options.secret_mounts,
        Layer::AptPackages { secret_mounts, .. } | Layer::Commands { secret_mounts, .. } => {
            secret_mounts
        }
        Layer::EnvVars(_)
        | Layer::Workdir(_)
        | Layer::SourceFile { .. }
        | Layer::SourceFolder { .. }
        | Layer::CodeBundle { .. }
        | Layer::DockerIgnore(_) => &[],
    }
}

fn needs_container(what: String, hint: &str) -> Result<(), Error> {
    Err(Error::NeedsContainer {
        what,
        hint: hint.to_owned(),
    })
}

fn refuse_base(base: &Base) -> Result<(), Error> {
    match base {
        Base::Debian { .. } => Ok(()),
        Base::Uri(uri) => needs_container(
            format!(
                "image base `{uri}` is a container image, which the environment builder cannot reproduce"
            ),
            "use a container builder, or start from `Image.from_debian_base()` to get its Python layers without a container",
        ),
        Base::Dockerfile(file) => needs_container(
            format!(
                "`from_dockerfile('{}')`: Dockerfile images need a container builder",
                file.display()
            ),
            "use a container builder, or declare the Python packages on `Image.from_debian_base()`",
        ),
        Base::Ref(name) => needs_container(
            format!(
                "`from_ref_name('{name}')` names no image that is configured, and a container image is needed"
            ),
            "map the name to an image in the configuration (`image.image_refs`) or by `--image`",
        ),
    }
}

/// Whether a container of the image holds this SDK: on our own base by default, and where a layer
/// asks for it. What cannot be read asks for nothing; the build says so later.
pub(super) fn holds_sdk(image: &Image) -> bool {
    let installs = matches!(
        image.base,
        Base::Debian {
            install_flyte: true
        }
    );
    let takes_layers = !matches!(image.base, Base::Dockerfile(_));
    installs || (takes_layers && image.layers.iter().any(asks_for_sdk))
}

fn asks_for_sdk(layer: &Layer) -> bool {
    let is_sdk = |text: &String| requirement::is_sdk(text);
    match layer {
        Layer::PipPackages { packages, .. } => packages.iter().any(is_sdk),
        Layer::Wheels { package, .. } => is_sdk(package),
        Layer::UvScript { script, .. } => {
            script::read(script, false).is_ok_and(|script| script.dependencies.iter().any(is_sdk))
        }
        Layer::Requirements { file, .. } => std::fs::read_to_string(file).is_ok_and(|text| {
            requirement::lines(&text)
                .any(|line| matches!(line, Line::Requirement(text) if requirement::is_sdk(text)))
        }),
        Layer::UvProject { pyproject, .. } | Layer::PoetryProject { pyproject, .. } => {
            manifest_of(layer.method(), pyproject).is_ok_and(|manifest| {
                dependencies(&manifest).iter().any(is_sdk)
                    || project_name(&manifest).as_ref().is_some_and(is_sdk)
            })
        }
        Layer::PixiProject { .. }
        | Layer::PixiScript { .. }
        | Layer::AptPackages { .. }
        | Layer::Commands { .. }
        | Layer::EnvVars(_)
        | Layer::Workdir(_)
        | Layer::SourceFile { .. }
        | Layer::SourceFolder { .. }
        | Layer::CodeBundle { .. }
        | Layer::DockerIgnore(_) => false,
    }
}

/// The platform of containers on this machine.
pub(super) fn host_platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

fn refuse_platform(platforms: &[String]) -> Result<(), Error> {
    let host = host_platform();
    if platforms.is_empty() || platforms.contains(&host) {
        return Ok(());
    }
    needs_container(
        format!(
            "the image is for `{}` only, and this machine is `{host}`",
            platforms.join("`, `")
        ),
        "add this machine's platform to `platform=`, or use a container builder",
    )
}

fn refuse_layer(layer: &Layer) -> Result<(), Error> {
    match layer {
        Layer::Commands { commands, .. } => needs_container(
            format!(
                "`with_commands('{}')` runs a shell while the image is built, and the environment builder has no sandbox",
                commands.join("', '")
            ),
            "run the commands on this machine yourself and drop the layer, or use a container builder",
        ),
        Layer::PixiProject { .. } | Layer::PixiScript { .. } => needs_container(
            format!(
                "`{}`: pixi environments cannot be built without a container yet",
                layer.method()
            ),
            "declare the packages by `with_pip_packages`, or use a container builder",
        ),
        Layer::PipPackages { .. }
        | Layer::Requirements { .. }
        | Layer::UvProject { .. }
        | Layer::PoetryProject { .. }
        | Layer::UvScript { .. }
        | Layer::Wheels { .. }
        | Layer::AptPackages { .. }
        | Layer::EnvVars(_)
        | Layer::Workdir(_)
        | Layer::SourceFile { .. }
        | Layer::SourceFolder { .. }
        | Layer::CodeBundle { .. }
        | Layer::DockerIgnore(_) => Ok(()),
    }
}

impl Plan {
    /// All secrets, with the method that asks for them.
    pub(super) fn secrets(&self) -> Vec<(&'static str, SecretRef)> {
        let of = |step: &Step| {
            let method = step.method;
            let all = step.secrets.iter().cloned();
            all.map(move |secret| (method, secret)).collect::<Vec<_>>()
        };
        self.steps.iter().flat_map(of).collect()
    }

    /// The steps for an image that [`refuse`] lets pass.
    pub(super) fn new(image: &Image) -> Result<Self, Error> {
        let mut plan = Self {
            python: Asked::Minor(image.python),
            python_is_explicit: image.python_is_explicit,
            system_packages: Vec::new(),
            steps: Vec::new(),
            copies: Vec::new(),
            ignore: Ignore::of_image(image)?,
            env_vars: Vec::new(),
            workdir: None,
            notes: Vec::new(),
        };
        for layer in &image.layers {
            plan.layer(layer, image)?;
        }
        plan.notes.dedup();
        Ok(plan)
    }

    fn layer(&mut self, layer: &Layer, image: &Image) -> Result<(), Error> {
        let method = layer.method();
        match layer {
            Layer::PipPackages { packages, options } => self.pip(method, packages, options)?,
            Layer::Requirements { file, options } => self.requirements(method, file, options)?,
            Layer::UvProject {
                pyproject,
                lock,
                mode,
                options,
            } => {
                self.project(method, pyproject, lock.as_deref(), options)?;
                self.project_itself(method, pyproject, *mode, options)?;
            }
            Layer::PoetryProject {
                pyproject,
                lock,
                mode,
                options,
                ..
            } => {
                self.poetry(method, pyproject, lock, options)?;
                self.project_itself(method, pyproject, *mode, options)?;
            }
            Layer::UvScript { script, options } => self.script(method, script, options, image)?,
            Layer::Wheels {
                package,
                folder,
                options,
            } => self.wheels(method, package, folder, options)?,
            Layer::AptPackages { packages, .. } => self.system_packages.extend_from_slice(packages),
            Layer::EnvVars(pairs) => self.env_vars.extend_from_slice(pairs),
            Layer::Workdir(path) => self.workdir = Some(below(self.workdir.as_deref(), path)),
            Layer::SourceFile { src, dst } => self.copy(src, dst, false),
            Layer::SourceFolder { src, dst } => self.copy(src, dst, true),
            // Code travels in the bundle; ignore rules concern what a container would copy; the
            // others were refused.
            Layer::CodeBundle { .. }
            | Layer::DockerIgnore(_)
            | Layer::Commands { .. }
            | Layer::PixiProject { .. }
            | Layer::PixiScript { .. } => {}
        }
        Ok(())
    }

    fn pip(
        &mut self,
        method: &'static str,
        packages: &[String],
        options: &InstallOptions,
    ) -> Result<(), Error> {
        let here = std::env::current_dir().unwrap_or_default();
        let wanted = self.without_sdk(method, packages);
        let step = Step {
            method,
            arguments: wanted.clone(),
            flags: flags(method, options)?,
            secrets: options.secret_mounts.clone(),
            local: local_packages::of_requirements(wanted.iter().map(String::as_str), &here),
            work: Work::Pip {
                targets: wanted
                    .iter()
                    .map(|text| requirement::absolute(text, &here))
                    .collect(),
                folder: None,
            },
        };
        self.push(step);
        Ok(())
    }

    /// Adds a step, or lets the step before it do the work: one resolution is faster than two.
    ///
    /// Not when a package stands in both, because then the later layer replaces the earlier.
    fn push(&mut self, step: Step) {
        let Work::Pip {
            targets,
            folder: None,
        } = &step.work
        else {
            self.steps.push(step);
            return;
        };
        if targets.is_empty() {
            return;
        }
        if let Some(last) = self.steps.last_mut()
            && last.method == step.method
            && last.flags == step.flags
            && last.secrets == step.secrets
            && let Work::Pip {
                targets: before,
                folder: None,
            } = &mut last.work
            && !before
                .iter()
                .any(|a| targets.iter().any(|b| requirement::same_name(a, b)))
        {
            before.extend_from_slice(targets);
            last.arguments.extend_from_slice(&step.arguments);
            last.local.extend_from_slice(&step.local);
            return;
        }
        self.steps.push(step);
    }

    fn without_sdk(&mut self, method: &str, packages: &[String]) -> Vec<String> {
        let (sdk, others): (Vec<_>, Vec<_>) = packages
            .iter()
            .cloned()
            .partition(|text| requirement::is_sdk(text));
        self.note_sdk(method, &sdk);
        others
    }

    fn note_sdk(&mut self, method: &str, dropped: &[String]) {
        self.notes.extend(dropped.iter().map(|text| {
            format!("{method}: `{}` is this SDK, which every environment holds; it is not installed from an index", text.trim())
        }));
    }

    fn requirements(
        &mut self,
        method: &'static str,
        file: &Path,
        options: &InstallOptions,
    ) -> Result<(), Error> {
        let file = absolute(file);
        let lists = local_packages::lists(&file)?;
        let text = lists.first().map_or("", |(_, text)| text.as_str());
        let named: Vec<String> = requirement::lines(text)
            .filter_map(|line| match line {
                Line::Requirement(text) => Some(text.to_owned()),
                Line::Include(_) => None,
            })
            .collect();
        self.without_sdk(method, &named);
        let local = lists
            .iter()
            .flat_map(|(file, text)| local_packages::of_list(file, text));
        self.steps.push(Step {
            method,
            arguments: vec![file.display().to_string()],
            flags: flags(method, options)?,
            secrets: options.secret_mounts.clone(),
            local: local.collect(),
            work: Work::Pip {
                targets: vec!["-r".to_owned(), file.display().to_string()],
                folder: Some(folder_of(&file)),
            },
        });
        Ok(())
    }

    fn project(
        &mut self,
        method: &'static str,
        pyproject: &Path,
        lock: Option<&Path>,
        options: &InstallOptions,
    ) -> Result<(), Error> {
        let manifest = manifest_of(method, pyproject)?;
        let named = dependencies(&manifest);
        self.without_sdk(method, &named);
        let pyproject = absolute(pyproject);
        let workspace = Workspace::of(&pyproject)?;
        let shared = workspace.as_ref().map(Workspace::lock);
        let lock = lock.map(absolute).or(shared.filter(|lock| lock.is_file()));
        let local = local_packages::with_siblings(&pyproject, lock.as_deref(), workspace.as_ref());
        let work = match lock {
            Some(lock) => Work::Sync {
                pyproject: pyproject.clone(),
                lock,
            },
            None => Work::Pip {
                targets: vec!["-r".to_owned(), pyproject.display().to_string()],
                folder: Some(folder_of(&pyproject)),
            },
        };
        self.steps.push(Step {
            method,
            arguments: vec![pyproject.display().to_string()],
            flags: flags(method, options)?,
            secrets: options.secret_mounts.clone(),
            local,
            work,
        });
        Ok(())
    }

    fn poetry(
        &mut self,
        method: &'static str,
        pyproject: &Path,
        lock: &Path,
        options: &InstallOptions,
    ) -> Result<(), Error> {
        manifest_of(method, pyproject)?;
        let pyproject = absolute(pyproject);
        // `poetry export` reads this one, whatever was declared.
        if absolute(lock) != folder_of(&pyproject).join("poetry.lock") {
            return Err(Error::Invalid {
                method,
                problem: format!(
                    "`{}` does not stand next to `pyproject.toml` as `poetry.lock`",
                    lock.display()
                ),
            });
        }
        self.steps.push(Step {
            method,
            arguments: vec![pyproject.display().to_string()],
            flags: flags(method, options)?,
            secrets: options.secret_mounts.clone(),
            local: local_packages::of_project(&pyproject, Some(&absolute(lock)), None),
            work: Work::Poetry {
                folder: folder_of(&pyproject),
            },
        });
        Ok(())
    }

    /// Installs the project itself, where that is asked for. Its dependencies are there already.
    fn project_itself(
        &mut self,
        method: &'static str,
        pyproject: &Path,
        mode: InstallMode,
        options: &InstallOptions,
    ) -> Result<(), Error> {
        match mode {
            InstallMode::DependenciesOnly => return Ok(()),
            InstallMode::InstallProject => {}
        }
        let folder = folder_of(&absolute(pyproject));
        let plain = InstallOptions {
            extra_args: None, // meant for the dependencies
            ..options.clone()
        };
        let mut flags = flags(method, &plain)?;
        flags.push("--no-deps".to_owned());
        self.steps.push(Step {
            method,
            arguments: vec![folder.display().to_string()],
            flags,
            secrets: options.secret_mounts.clone(),
            local: vec![LocalPackage::at(&folder)],
            work: Work::Pip {
                targets: vec![folder.display().to_string()],
                folder: Some(folder),
            },
        });
        Ok(())
    }

    fn script(
        &mut self,
        method: &'static str,
        path: &Path,
        options: &InstallOptions,
        image: &Image,
    ) -> Result<(), Error> {
        let script = script::read(path, options.index_url.is_some())?;
        let wanted = self.without_sdk(method, &script.dependencies);
        self.notes.extend(script.notes);
        if let (Some(specifiers), false) = (script.requires_python, image.python_is_explicit) {
            self.python = Asked::Script(specifiers);
        }
        let base = folder_of(&absolute(path));
        let mut all_flags = script.flags;
        all_flags.extend(flags(method, options)?);
        self.push(Step {
            method,
            arguments: wanted.clone(),
            flags: all_flags,
            secrets: options.secret_mounts.clone(),
            local: local_packages::of_requirements(wanted.iter().map(String::as_str), &base),
            work: Work::Pip {
                targets: wanted
                    .iter()
                    .map(|text| requirement::absolute(text, &base))
                    .collect(),
                folder: None,
            },
        });
        Ok(())
    }

    fn wheels(
        &mut self,
        method: &'static str,
        package: &str,
        folder: &Path,
        options: &InstallOptions,
    ) -> Result<(), Error> {
        if requirement::is_sdk(package) {
            self.note_sdk(method, &[package.to_owned()]);
            return Ok(());
        }
        let wheels = wheels(package, &absolute(folder))?;
        let mut flags = flags(method, options)?;
        flags.extend([
            "--find-links".to_owned(),
            absolute(folder).display().to_string(),
        ]);
        self.steps.push(Step {
            method,
            arguments: wheels.iter().map(|wheel| file_name(wheel)).collect(),
            flags,
            secrets: options.secret_mounts.clone(),
            local: Vec::new(),
            work: Work::Pip {
                targets: wheels
                    .iter()
                    .map(|wheel| wheel.display().to_string())
                    .collect(),
                folder: None,
            },
        });
        Ok(())
    }

    fn copy(&mut self, src: &Path, dst: &str, is_folder: bool) {
        let slot = PathBuf::from("files").join(self.copies.len().to_string());
        let name = file_name(src);
        let into_folder = dst.is_empty() || dst == "." || dst.ends_with('/') || dst.ends_with("/.");
        let target = if !is_folder && into_folder {
            below(Some(dst), &name)
        } else {
            dst.to_owned()
        };
        self.copies.push(Copy {
            src: absolute(src),
            source: Source {
                stored: if is_folder { slot } else { slot.join(&name) },
                dst: below(self.workdir.as_deref(), &target),
                is_folder,
            },
        });
    }
}

/// `path` as seen from `base`, the way `WORKDIR` and `COPY` resolve it.
fn below(base: Option<&str>, path: &str) -> String {
    match base {
        Some(base) => Path::new(base).join(path).to_string_lossy().into_owned(),
        None => path.to_owned(),
    }
}

pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

pub(super) fn flags(method: &'static str, options: &InstallOptions) -> Result<Vec<String>, Error> {
    let mut flags = Vec::new();
    if let Some(url) = &options.index_url {
        flags.extend(["--index-url".to_owned(), url.clone()]);
    }
    for url in &options.extra_index_urls {
        flags.extend(["--extra-index-url".to_owned(), url.clone()]);
    }
    if options.pre {
        flags.push("--prerelease=allow".to_owned());
    }
    if let Some(text) = &options.extra_args {
        flags.extend(shlex::split(text).ok_or_else(|| Error::Invalid {
            method,
            problem: format!("`extra_args` has a quote that is not closed: `{text}`"),
        })?);
    }
    Ok(flags)
}

pub(super) fn manifest_of(method: &'static str, pyproject: &Path) -> Result<toml::Table, Error> {
    let text = std::fs::read_to_string(pyproject).map_err(Error::unreadable(pyproject))?;
    text.parse()
        .map_err(|error: toml::de::Error| Error::Invalid {
            method,
            problem: format!(
                "`{}` is not valid: {}",
                pyproject.display(),
                error.message()
            ),
        })
}

pub(super) fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let listed = manifest
        .get("project")
        .and_then(|project| project.get("dependencies"))
        .and_then(toml::Value::as_array);
    listed
        .into_iter()
        .flatten()
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Diagnostic};
    use crate::image::hash::tests::image;

    fn pip(packages: &[&str], pre: bool) -> Layer {
        Layer::PipPackages {
            packages: packages.iter().map(|text| (*text).to_owned()).collect(),
            options: InstallOptions {
                pre,
                ..InstallOptions::default()
            },
        }
    }

    #[test]
    fn what_needs_a_container_is_refused_by_name() {
        let options = InstallOptions::default;
        let on = |base: Base| Image {
            base,
            ..image(vec![])
        };
        let pixi = Layer::PixiProject {
            manifest: "pixi.toml".into(),
            lock: None,
            environment: "default".into(),
            mode: InstallMode::DependenciesOnly,
            options: options(),
        };
        let pixi_script = Layer::PixiScript {
            script: "s.py".into(),
            environment: "default".into(),
            options: options(),
        };
        let commands = Layer::Commands {
            commands: vec!["make".into()],
            secret_mounts: vec![],
        };
        let foreign = Image {
            platforms: vec!["linux/s390x".into()],
            ..image(vec![])
        };
        for (image, part) in [
            (
                on(Base::Uri("ghcr.io/x:1".into())),
                "`ghcr.io/x:1` is a container image",
            ),
            (
                on(Base::Dockerfile("/p/Dockerfile".into())),
                "Dockerfile images need a container builder",
            ),
            (on(Base::Ref("gpu".into())), "from_ref_name('gpu')"),
            (image(vec![commands]), "with_commands('make')"),
            (image(vec![pixi]), "with_pixi_project"),
            (image(vec![pixi_script]), "from_pixi_script"),
            (foreign, "for `linux/s390x` only"),
        ] {
            let error = refuse(&image).unwrap_err();
            assert_eq!(error.code(), Code::ImageNeedsContainer, "{part}");
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.hints().len(), 1, "{part}");
        }
        let both = vec!["linux/amd64".into(), "linux/arm64".into()];
        refuse(&Image {
            platforms: both,
            ..image(vec![pip(&["six"], false)])
        })
        .unwrap();
    }

    #[test]
    fn equal_pip_layers_become_one_step() {
        let plan = |layers| Plan::new(&image(layers)).unwrap().steps;
        let merged = plan(vec![pip(&["a"], false), pip(&["b", "c"], false)]);
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].text(), "with_pip_packages('a', 'b', 'c')");
        assert_eq!(plan(vec![pip(&["a"], false), pip(&["b"], true)]).len(), 2);
        assert_eq!(
            plan(vec![pip(&["a<2"], false), pip(&["A>=2"], false)]).len(),
            2
        );
        assert_eq!(plan(vec![pip(&[], false)]).len(), 0);
    }

    #[test]
    fn the_sdk_is_dropped_and_told() {
        let plan = Plan::new(&image(vec![pip(&["flyte>=2.0", "six"], false)])).unwrap();
        assert_eq!(plan.steps[0].text(), "with_pip_packages('six')");
        assert!(
            plan.notes[0].contains("`flyte>=2.0` is this SDK"),
            "{:?}",
            plan.notes
        );
    }

    #[test]
    fn options_become_arguments() {
        let options = InstallOptions {
            index_url: Some("https://i".into()),
            extra_index_urls: vec!["https://j".into()],
            pre: true,
            extra_args: Some("--no-deps --config 'a b'".into()),
            secret_mounts: vec![],
        };
        assert_eq!(
            flags("m", &options).unwrap().join("|"),
            "--index-url|https://i|--extra-index-url|https://j|--prerelease=allow|--no-deps|--config|a b"
        );
        let open = InstallOptions {
            extra_args: Some("'a".into()),
            ..InstallOptions::default()
        };
        assert_eq!(flags("m", &open).unwrap_err().code(), Code::ImageInvalid);
    }

    #[test]
    fn a_script_decides_the_python_unless_one_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("s.py");
        std::fs::write(
            &script,
            "# /// script\n# requires-python = \">=3.13\"\n# dependencies = [\"./lib\"]\n# ///\n",
        )
        .unwrap();
        let layer = Layer::UvScript {
            script,
            options: InstallOptions::default(),
        };
        let mut image = image(vec![layer]);
        let plan = Plan::new(&image).unwrap();
        assert!(matches!(plan.python, Asked::Script(_)));
        let lib = dir.path().join("./lib").display().to_string();
        assert_eq!(
            plan.steps[0].work,
            Work::Pip {
                targets: vec![lib],
                folder: None
            }
        );
        image.python_is_explicit = true;
        assert!(matches!(Plan::new(&image).unwrap().python, Asked::Minor(_)));
    }

    #[test]
    fn copies_land_where_a_container_would_put_them() {
        let file = |dst: &str| Layer::SourceFile {
            src: "/p/app.py".into(),
            dst: dst.into(),
        };
        let folder = |dst: &str| Layer::SourceFolder {
            src: "/p/web".into(),
            dst: dst.into(),
        };
        let plan = Plan::new(&image(vec![
            file("."),
            file("/etc/x/"),
            file("main.py"),
            folder("./web"),
            Layer::Workdir("/app".into()),
            Layer::Workdir("sub".into()),
            file("."),
            folder("static"),
        ]));
        let plan = plan.unwrap();
        let places: Vec<_> = plan
            .copies
            .iter()
            .map(|copy| copy.source.dst.as_str())
            .collect();
        assert_eq!(
            places,
            [
                "./app.py",
                "/etc/x/app.py",
                "main.py",
                "./web",
                "/app/sub/./app.py",
                "/app/sub/static"
            ]
        );
        assert_eq!(plan.workdir.as_deref(), Some("/app/sub"));
        assert_eq!(plan.copies[0].source.stored, Path::new("files/0/app.py"));
    }
}

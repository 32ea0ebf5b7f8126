//! The steps that install Python packages, whatever tool they were declared for.
//!
//! `uv` installs them all but those of pixi, from lists, locks and folders that are mounted while it
//! runs; [`Writer`] says where they are and what the image is otherwise.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::recipe::{Instruction, Mount};
use super::steps::{MOUNTS, SHELF, Staged, UV, UV_CACHE, Writer, quote, sentence, told};
use crate::image::hash::{file_name, folder_of, wheels};
use crate::image::local_packages::LocalPackage;
use crate::image::plan::{absolute, dependencies, flags, manifest_of};
use crate::image::requirement::{self, Line};
use crate::image::secret::Secrets;
use crate::image::uv::without_passwords;
use crate::image::workspace::{Workspace, project_name};
use crate::image::{Error, local_packages, pixi, private, script};
use crate::spec::{InstallMode, InstallOptions};

const PIXI_IMAGE: &str = "ghcr.io/prefix-dev/pixi:0.72.2";
const PIXI_PROJECT: &str = "/opt/pixi-project";
/// Variables of the caller's that name indexes, and whether one takes the place of the usual index.
const CALLERS_INDEXES: [(&str, bool); 4] = [
    ("UV_DEFAULT_INDEX", true),
    ("UV_INDEX_URL", true),
    ("UV_EXTRA_INDEX_URL", false),
    ("UV_INDEX", false),
];
/// Makes a requirement of `flyte` by another package hold nothing: ours is put in afterwards.
const OVERRIDES: &str = "flyte ; python_version < '0'\n";

impl Writer<'_> {
    /// One call of `uv pip install`; `arguments` are words, and `before` is run in front of it.
    fn install(
        &mut self,
        origin: &str,
        mut mounts: Vec<Mount>,
        before: &str,
        arguments: &[String],
        (method, options): (&'static str, &InstallOptions),
    ) -> Result<(), Error> {
        let env = self.env();
        mounts.splice(0..0, self.uv());
        mounts.extend(self.secrets(method, &options.secret_mounts));
        let arguments = self.opened(arguments, (method, options), &mut mounts)?;
        let arguments = self.unseen(arguments, &mut mounts);
        self.callers_indexes(&arguments, &mut mounts);
        let mut words = vec![
            UV.to_owned(),
            "pip".into(),
            "install".into(),
            "--compile-bytecode".into(),
            "--python".into(),
            format!("{env}/bin/python"),
        ];
        if self.with_sdk {
            let name = format!("{SHELF}/overrides.txt");
            let target = format!("{MOUNTS}/overrides.txt");
            self.context.text(&name, OVERRIDES);
            words.extend(["--overrides".to_owned(), target.clone()]);
            mounts.push(Mount::Context {
                source: name,
                target,
            });
        }
        words.extend(arguments);
        let script = format!("{before}{} {}", uv_settings(), sentence(&words));
        self.run(mounts, script, Some(origin));
        Ok(())
    }

    /// The words, with repositories that need credentials opened by settings that only `git` sees.
    fn opened(
        &mut self,
        words: &[String],
        (method, options): (&'static str, &InstallOptions),
        mounts: &mut Vec<Mount>,
    ) -> Result<Vec<String>, Error> {
        let is_open = |word: &String| private::repository(word, |_| None).is_none();
        if words.iter().all(is_open) {
            return Ok(words.to_vec());
        }
        let wanted = options.secret_mounts.iter().cloned();
        let wanted: Vec<_> = wanted.map(|secret| (method, secret)).collect();
        let secrets = Secrets::find(&wanted)?;
        let mut found = Vec::new();
        let mut plain = Vec::with_capacity(words.len());
        for word in words {
            match private::repository(word, |name| secrets.text(name)) {
                Some(repository) => {
                    private::passwords(word).for_each(|password| self.private.hide_too(password));
                    plain.push(repository.requirement.clone());
                    found.push(repository);
                }
                None => plain.push(word.clone()),
            }
        }
        for (variable, value) in private::git_settings(&found) {
            let addresses: Vec<_> = found.iter().map(|one| one.key.as_str()).collect();
            mounts.push(self.setting(&variable, &value, &addresses.concat()));
        }
        Ok(plain)
    }

    /// The words without credentials: an image shows its steps to whoever pulls it.
    fn unseen(&mut self, words: Vec<String>, mounts: &mut Vec<Mount>) -> Vec<String> {
        let (words, variables) = without_passwords(words.into_iter().map(OsString::from));
        for (variable, value) in variables {
            let public = private::without(&value);
            mounts.push(self.setting(variable, &value, &public));
        }
        let words = words
            .into_iter()
            .map(|word| word.to_string_lossy().into_owned());
        let (hidden, mut words): (Vec<_>, Vec<_>) =
            words.partition(|word| private::is_private(word));
        if !hidden.is_empty() {
            let list = hidden.join("\n");
            let id = self.keep("list", &list, &private::without(&list));
            let target = format!("{MOUNTS}/{id}.txt");
            words.extend(["-r".to_owned(), target.clone()]);
            mounts.push(Mount::Secret {
                id,
                target: Some(target),
            });
        }
        words
    }

    /// The indexes of whoever builds, as for an installer of this machine; what the image names wins.
    fn callers_indexes(&mut self, words: &[String], mounts: &mut Vec<Mount>) {
        let is_set = |mounts: &[Mount], name: &str| {
            let is =
                |one: &Mount| matches!(one, Mount::Setting { variable, .. } if variable == name);
            mounts.iter().any(is)
        };
        let names_default = words
            .iter()
            .any(|word| word == "--index-url" || word == "--default-index")
            || is_set(mounts, "UV_INDEX_URL")
            || is_set(mounts, "UV_DEFAULT_INDEX");
        for (variable, is_default) in CALLERS_INDEXES {
            if (is_default && names_default) || is_set(mounts, variable) {
                continue;
            }
            if let Ok(value) = std::env::var(variable) {
                let public = private::without(&value);
                mounts.push(self.setting(variable, &value, &public));
            }
        }
    }

    fn setting(&mut self, variable: &str, value: &str, public: &str) -> Mount {
        Mount::Setting {
            id: self.keep(variable, value, public),
            variable: variable.to_owned(),
        }
    }

    /// Keeps a value for the session. Its name tells one from another to the engine's cache, by what
    /// of it is `public`: a new password makes no step run again, and another address does.
    fn keep(&mut self, kind: &str, value: &str, public: &str) -> String {
        let hash = blake3::hash(public.as_bytes()).to_hex();
        let id = format!("flyte-{kind}-{}", &hash[..12]);
        private::passwords(value).for_each(|password| self.private.hide_too(password));
        self.private.insert(&id, value);
        id
    }

    /// Requirements without this SDK, which is placed rather than installed.
    fn without_sdk(&mut self, requirements: &[String]) -> Vec<String> {
        let (sdk, others): (Vec<_>, Vec<_>) = requirements
            .iter()
            .cloned()
            .partition(|text| requirement::is_sdk(text));
        self.with_sdk |= !sdk.is_empty();
        others
    }

    pub(super) fn packages(
        &mut self,
        method: &'static str,
        packages: &[String],
        options: &InstallOptions,
    ) -> Result<(), Error> {
        let here = std::env::current_dir().unwrap_or_default();
        let wanted = self.without_sdk(packages);
        self.requirements_of(method, &wanted, &here, Vec::new(), options)
    }

    /// Installs requirements, those of this machine's folders among them.
    fn requirements_of(
        &mut self,
        method: &'static str,
        wanted: &[String],
        folder: &Path,
        mut arguments: Vec<String>,
        options: &InstallOptions,
    ) -> Result<(), Error> {
        if wanted.is_empty() {
            return Ok(());
        }
        let mut mounts = Vec::new();
        arguments.extend(flags(method, options)?);
        let local = local_packages::of_requirements(wanted.iter().map(String::as_str), folder);
        arguments.extend(local_packages::refreshed(&local, &arguments));
        for text in wanted {
            let Some(path) = requirement::local_path(text, folder) else {
                arguments.push(text.clone());
                continue;
            };
            let staged = self.stage(std::slice::from_ref(&path))?;
            arguments.push(requirement::relocated(text, &staged.path(&path)));
            mounts.push(staged.mount);
        }
        let origin = told(method, wanted);
        self.install(&origin, mounts, "", &arguments, (method, options))
    }

    pub(super) fn requirements(
        &mut self,
        method: &'static str,
        file: &Path,
        options: &InstallOptions,
    ) -> Result<(), Error> {
        let origin = told(method, &[file.display().to_string()]);
        let mut files = Vec::new();
        let mut local = Vec::new();
        for (file, text) in local_packages::lists(&absolute(file))? {
            self.with_sdk |= requirement::lines(&text)
                .any(|line| matches!(line, Line::Requirement(text) if requirement::is_sdk(text)));
            local.extend(local_packages::of_list(&file, &text));
            files.push(file);
        }
        files.extend(local.iter().map(|package| package.path.clone()));
        let staged = self.stage(&files)?;
        let list = staged.path(&absolute(file));
        let folder = folder_of(Path::new(&list));
        let mut arguments = flags(method, options)?;
        arguments.extend(local_packages::refreshed(&local, &arguments));
        arguments.extend(["-r".to_owned(), list]);
        let before = format!("cd {} && ", quote(&folder.to_string_lossy()));
        let mounts = vec![staged.mount];
        self.install(&origin, mounts, &before, &arguments, (method, options))
    }

    pub(super) fn uv_project(
        &mut self,
        method: &'static str,
        pyproject: &Path,
        lock: Option<&Path>,
        mode: InstallMode,
        options: &InstallOptions,
    ) -> Result<(), Error> {
        let origin = told(method, &[pyproject.display().to_string()]);
        let pyproject = absolute(pyproject);
        let manifest = manifest_of(method, &pyproject)?;
        self.with_sdk |= names_sdk(&manifest);
        let workspace = Workspace::of(&pyproject)?;
        let shared = workspace.as_ref().map(Workspace::lock);
        let lock = lock.map(absolute).or(shared.filter(|lock| lock.is_file()));
        let of_workspace = workspace.as_ref();
        let local = local_packages::with_siblings(&pyproject, lock.as_deref(), of_workspace);
        let staged = self.stage_project(&pyproject, of_workspace, &local, mode)?;
        let place = folder_of(Path::new(&staged.path(&pyproject)));
        let place = place.to_string_lossy().into_owned();
        let given = flags(method, options)?;
        let fresh = local_packages::refreshed(&local, &given);
        match lock {
            Some(lock) => {
                self.stage_lock(&staged, &pyproject, &lock, of_workspace)?;
                let secrets = self.secrets(method, &options.secret_mounts);
                self.sync(&origin, &staged, &place, given, fresh, secrets);
            }
            None => {
                let mut arguments = [given, fresh].concat();
                arguments.extend(["-r".to_owned(), staged.path(&pyproject)]);
                let mounts = vec![staged.mount.clone()];
                let before = format!("cd {} && ", quote(&place));
                self.install(&origin, mounts, &before, &arguments, (method, options))?;
            }
        }
        self.project_itself(method, &origin, staged, &place, mode, options)
    }

    /// The lock under the name and at the place where `uv` looks for it.
    fn stage_lock(
        &mut self,
        staged: &Staged,
        pyproject: &Path,
        lock: &Path,
        workspace: Option<&Workspace>,
    ) -> Result<(), Error> {
        let root = match workspace {
            Some(workspace) => workspace.root.join("pyproject.toml"),
            None => pyproject.to_path_buf(),
        };
        let beside = PathBuf::from(staged.path(&root)).with_file_name("uv.lock");
        let relative = beside.strip_prefix(MOUNTS).unwrap_or(&beside);
        let name = Path::new(SHELF).join(relative);
        self.context.add(&name, lock, &self.sight)
    }

    /// What of a project its installer reads.
    fn stage_project(
        &mut self,
        pyproject: &Path,
        workspace: Option<&Workspace>,
        local: &[LocalPackage],
        mode: InstallMode,
    ) -> Result<Staged, Error> {
        let mut paths = match (workspace, mode) {
            (Some(Workspace { root, .. }), _) => vec![root.join("pyproject.toml"), root.clone()],
            (None, InstallMode::InstallProject) => {
                vec![pyproject.to_path_buf(), folder_of(pyproject)]
            }
            (None, InstallMode::DependenciesOnly) => vec![pyproject.to_path_buf()],
        };
        let is_taken = |path: &Path| workspace.is_some_and(|all| path.starts_with(&all.root));
        let others = local.iter().map(|package| package.path.clone());
        paths.extend(others.filter(|path| !is_taken(path)));
        self.stage(&paths)
    }

    fn sync(
        &mut self,
        origin: &str,
        staged: &Staged,
        place: &str,
        given: Vec<String>,
        fresh: Vec<String>,
        secrets: Vec<Mount>,
    ) {
        let env = self.env();
        let mut words: Vec<String> = [
            UV,
            "sync",
            "--frozen",
            "--inexact",
            "--no-editable",
            "--no-install-project",
            "--no-install-package",
            "flyte",
            "--compile-bytecode",
            "--python",
        ]
        .map(str::to_owned)
        .to_vec();
        words.push(format!("{env}/bin/python"));
        words.extend(["--project".to_owned(), place.to_owned()]);
        let is_ours =
            |flag: &String| words.contains(flag) || flag == "--locked" || flag == "--active";
        let given: Vec<String> = given.into_iter().filter(|flag| !is_ours(flag)).collect();
        let mut mounts = self.uv();
        mounts.push(staged.mount.clone());
        mounts.extend(secrets);
        let given = self.unseen(given, &mut mounts);
        self.callers_indexes(&given, &mut mounts);
        words.extend(given);
        words.extend(fresh);
        let script = format!(
            "{} UV_PROJECT_ENVIRONMENT={} {}",
            uv_settings(),
            quote(&env),
            sentence(&words)
        );
        self.run(mounts, script, Some(origin));
    }

    /// Installs the project itself where that is asked for; its dependencies are there already.
    fn project_itself(
        &mut self,
        method: &'static str,
        origin: &str,
        staged: Staged,
        place: &str,
        mode: InstallMode,
        options: &InstallOptions,
    ) -> Result<(), Error> {
        match mode {
            InstallMode::DependenciesOnly => return Ok(()),
            InstallMode::InstallProject => {}
        }
        let plain = InstallOptions {
            extra_args: None, // meant for the dependencies
            ..options.clone()
        };
        let mut arguments = flags(method, &plain)?;
        arguments.extend([
            "--no-deps".to_owned(),
            "--no-cache".into(),
            place.to_owned(),
        ]);
        let mounts = vec![staged.mount];
        self.install(origin, mounts, "", &arguments, (method, options))
    }

    /// Poetry stays out of the image: it makes a list, and `uv` installs that.
    pub(super) fn poetry(
        &mut self,
        method: &'static str,
        pyproject: &Path,
        lock: &Path,
        mode: InstallMode,
        options: &InstallOptions,
    ) -> Result<(), Error> {
        let origin = told(method, &[pyproject.display().to_string()]);
        let pyproject = absolute(pyproject);
        let manifest = manifest_of(method, &pyproject)?;
        self.with_sdk |= names_sdk(&manifest);
        let local = local_packages::of_project(&pyproject, Some(lock), None);
        let staged = self.stage_project(&pyproject, None, &local, mode)?;
        let place = folder_of(Path::new(&staged.path(&pyproject)));
        let relative = place.strip_prefix(MOUNTS).unwrap_or(&place);
        let name = Path::new(SHELF).join(relative).join("poetry.lock");
        self.context.add(&name, lock, &self.sight)?;
        let place = place.to_string_lossy().into_owned();
        let env = self.env();
        let list = format!("{MOUNTS}/poetry.txt");
        let mut export: Vec<String> = [UV, "tool", "run", "--python"].map(str::to_owned).to_vec();
        export.push(format!("{env}/bin/python"));
        export.extend(
            [
                "--with",
                "poetry-plugin-export",
                "poetry",
                "export",
                "--without-hashes",
            ]
            .map(str::to_owned),
        );
        export.extend(["--directory".to_owned(), place.clone()]);
        export.extend(["--output".to_owned(), list.clone()]);
        export.extend(flags(method, options)?);
        let before = format!(
            "{} POETRY_VIRTUALENVS_CREATE=false {} && ",
            uv_settings(),
            sentence(&export)
        );
        let mut arguments = vec!["-r".to_owned(), list];
        arguments.extend(local_packages::refreshed(&local, &[]));
        let mounts = vec![staged.mount.clone()];
        self.install(&origin, mounts, &before, &arguments, (method, options))?;
        self.project_itself(method, &origin, staged, &place, mode, options)
    }

    /// The environment of pixi takes the place of the image's own.
    pub(super) fn pixi(
        &mut self,
        method: &'static str,
        manifest: &Path,
        lock: Option<&Path>,
        environment: &str,
        mode: InstallMode,
        options: &InstallOptions,
    ) -> Result<(), Error> {
        let origin = told(method, &[manifest.display().to_string()]);
        let manifest = absolute(manifest);
        let given = flags(method, options)?;
        let source = format!("{SHELF}/pixi");
        match mode {
            InstallMode::InstallProject => {
                let folder = folder_of(&manifest);
                self.context.add(Path::new(&source), &folder, &self.sight)?;
            }
            InstallMode::DependenciesOnly => {
                let name = Path::new(&source).join(file_name(&manifest));
                self.context.add(&name, &manifest, &self.sight)?;
            }
        }
        self.pixi_install(
            method,
            &origin,
            (&file_name(&manifest), lock),
            environment,
            (given, options),
        )
    }

    /// The header of a script as a manifest of pixi.
    pub(super) fn pixi_script(
        &mut self,
        method: &'static str,
        script: &Path,
        environment: &str,
        options: &InstallOptions,
    ) -> Result<(), Error> {
        let origin = told(method, &[script.display().to_string()]);
        let project = pixi::Project::of(script, &[self.platform()])?;
        self.with_sdk |= project.names_sdk;
        let given = flags(method, options)?;
        let name = format!("{SHELF}/pixi/pixi.toml");
        self.context.text(name, project.manifest);
        self.pixi_install(
            method,
            &origin,
            ("pixi.toml", project.lock.as_deref()),
            environment,
            (given, options),
        )
    }

    /// Installs what the shelf of pixi holds.
    fn pixi_install(
        &mut self,
        method: &'static str,
        origin: &str,
        (manifest, lock): (&str, Option<&Path>),
        environment: &str,
        (given, options): (Vec<String>, &InstallOptions),
    ) -> Result<(), Error> {
        let source = format!("{SHELF}/pixi");
        if let Some(lock) = lock {
            let name = Path::new(&source).join("pixi.lock");
            self.context.add(&name, lock, &self.sight)?;
        }
        let copy = Instruction::Copy {
            source: format!("{source}/"),
            target: PIXI_PROJECT.into(),
            owner: None,
        };
        self.push(copy, Some(origin));
        let program = format!("{MOUNTS}/bin/pixi");
        let mut words = vec![program.clone(), "install".into(), "--environment".into()];
        words.push(environment.to_owned());
        words.push("--manifest-path".into());
        words.push(format!("{PIXI_PROJECT}/{manifest}"));
        if lock.is_some() && !given.iter().any(|flag| flag == "--frozen") {
            words.push("--locked".into());
        }
        words.extend(given);
        let mut mounts = vec![
            Mount::Image {
                image: PIXI_IMAGE.into(),
                source: "/usr/local/bin/pixi".into(),
                target: program,
            },
            Mount::Cache {
                id: "flyte-pixi".into(),
                target: "/root/.cache/rattler".into(),
            },
        ];
        mounts.extend(self.secrets(method, &options.secret_mounts));
        self.run(mounts, sentence(&words), Some(origin));
        self.enter(&format!("{PIXI_PROJECT}/.pixi/envs/{environment}"));
        Ok(())
    }

    pub(super) fn script(
        &mut self,
        method: &'static str,
        path: &Path,
        options: &InstallOptions,
    ) -> Result<(), Error> {
        let script = script::read(path, options.index_url.is_some())?;
        let wanted = self.without_sdk(&script.dependencies);
        self.notes.extend(script.notes);
        let folder = folder_of(&absolute(path));
        self.requirements_of(method, &wanted, &folder, script.flags, options)
    }

    pub(super) fn wheels(
        &mut self,
        method: &'static str,
        package: &str,
        folder: &Path,
        options: &InstallOptions,
    ) -> Result<(), Error> {
        if requirement::is_sdk(package) {
            self.with_sdk = true;
            return Ok(());
        }
        let wheels = wheels(package, &absolute(folder))?;
        let names: Vec<String> = wheels.iter().map(|wheel| file_name(wheel)).collect();
        let staged = self.stage(&wheels)?;
        let mut arguments = flags(method, options)?;
        arguments.extend(["--find-links".to_owned(), staged.at.display().to_string()]);
        arguments.extend(wheels.iter().map(|wheel| staged.path(wheel)));
        let (origin, mounts) = (told(method, &names), vec![staged.mount]);
        self.install(&origin, mounts, "", &arguments, (method, options))
    }
}

/// What every call of `uv` is told.
fn uv_settings() -> String {
    format!("UV_CACHE_DIR={UV_CACHE} UV_LINK_MODE=copy UV_NO_PROGRESS=1 UV_PYTHON_DOWNLOADS=never")
}

fn names_sdk(manifest: &toml::Table) -> bool {
    dependencies(manifest)
        .iter()
        .any(|text| requirement::is_sdk(text))
        || project_name(manifest).is_some_and(|name| requirement::is_sdk(&name))
}

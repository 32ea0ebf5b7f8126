//! Carrying out a plan in a folder that is ours alone, under a lock that somebody else holds.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::digest::Sight;
use super::env::{Manifest, Progress, Sink, Toolchain};
use super::error::Error;
use super::hash::folder_of;
use super::pins::Pins;
use super::plan::{Copy, Plan, Step, Work};
use super::private;
use super::released::Released;
use super::secret::Secrets;
use super::workspace::Workspace;
use super::{local_packages, pins, python, sdk, system, uv};
use crate::files::Scratch;

/// Makes a requirement of `flyte` by another package hold nothing: ours is put in afterwards.
const OVERRIDES: &str = "flyte ; python_version < '0'\n";

/// Where an environment is built, and the lock that keeps others away from there.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub env: &'a Path,
    pub lock: &'a File,
}

/// One build in progress.
struct Build<'a> {
    toolchain: &'a Toolchain,
    place: Place<'a>,
    pins: Option<&'a Pins>,
    secrets: Secrets,
    progress: &'a Sink<'a>,
    scratch: Scratch,
    overrides: PathBuf,
}

/// Runs `work` where blocking is allowed.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Builds at `env`, which must not exist; says what the marker should hold, and where `pins` has no
/// versions yet to be held to, what the environment held after each step.
pub(super) async fn build(
    toolchain: &Toolchain,
    plan: Plan,
    pins: &Pins,
    place: Place<'_>,
    progress: &Sink<'_>,
) -> Result<(Manifest, Vec<String>), Error> {
    let (secrets, missing) = Secrets::find_for_installers(&plan.secrets())?;
    for note in &missing {
        progress(Progress::Note(note));
    }
    let mut notes = plan.notes;
    notes.extend(system::require(&plan.system_packages).await?);
    if plan
        .steps
        .iter()
        .any(|step| matches!(step.work, Work::Poetry { .. }))
    {
        find_poetry()?;
    }
    let search = python::Search::from_environment();
    let choice = python::choose(toolchain, &search, &plan.python).await?;
    if choice.is_instead && plan.python_is_explicit {
        return Err(python::missing(toolchain, &plan.python));
    }
    notes.extend(choice.notes);
    for note in &notes {
        progress(Progress::Note(note));
    }
    let build = Build::new(toolchain, place, Some(pins), secrets, progress)?;
    build.venv(&choice.exe).await?;
    let mut states = Vec::with_capacity(plan.steps.len());
    for (number, step) in plan.steps.iter().enumerate() {
        build.step(number, step).await?;
        if !pins.are_known() {
            states.push(pins::state(place.env)?);
        }
    }
    let (payload, copies, ignore) = (toolchain.sdk.clone(), plan.copies, plan.ignore);
    let target = place.env.to_path_buf();
    // Whoever waits may give up; the thread goes on, and nobody else builds here before it has ended.
    let lock = shared(place)?;
    let sources = off_thread(move || {
        let placed = sdk::place(&payload, &target);
        let sources = placed.and_then(|()| snapshot(copies, &Sight::new(ignore), &target));
        drop(lock);
        sources
    });
    let manifest = Manifest {
        env_vars: plan.env_vars,
        workdir: plan.workdir,
        sources: sources.await?,
        notes,
    };
    Ok((manifest, states))
}

/// The lock once more: it is free when everybody who has it has let go.
fn shared(place: Place<'_>) -> Result<File, Error> {
    let lock = place.lock.try_clone();
    lock.map_err(Error::store("share the lock of", place.env))
}

/// Builds the environment of a released image at `env`: their SDK, and not ours.
pub(super) async fn released(
    toolchain: &Toolchain,
    image: &Released,
    place: Place<'_>,
    progress: &Sink<'_>,
) -> Result<Manifest, Error> {
    let search = python::Search::from_environment();
    let asked = python::Asked::Minor(image.python);
    let choice = python::choose(toolchain, &search, &asked).await?;
    let build = Build::new(toolchain, place, None, Secrets::default(), progress)?;
    build.venv(&choice.exe).await?;
    let requirement = format!("flyte=={}", image.version);
    let mut command = uv::uv(&toolchain.uv, ["pip", "install", "--python"]);
    command.arg(build.python()).arg(&requirement);
    let step = format!("uv pip install {requirement}");
    build.run(step, "uv", command).await?;
    Ok(Manifest {
        env_vars: Vec::new(),
        workdir: None,
        sources: Vec::new(),
        notes: choice.notes,
    })
}

fn snapshot(
    copies: Vec<Copy>,
    sight: &Sight,
    env: &Path,
) -> Result<Vec<super::env::Source>, Error> {
    let mut sources = Vec::with_capacity(copies.len());
    for Copy { src, source } in copies {
        let to = env.join(&source.stored);
        if source.is_folder {
            sight.copy_tree(&src, &to)?;
        } else {
            let folder = folder_of(&to);
            std::fs::create_dir_all(&folder).map_err(Error::store("create", &folder))?;
            std::fs::copy(&src, &to).map_err(Error::store("write", &to))?;
        }
        sources.push(source);
    }
    Ok(sources)
}

impl<'a> Build<'a> {
    fn new(
        toolchain: &'a Toolchain,
        place: Place<'a>,
        pins: Option<&'a Pins>,
        secrets: Secrets,
        progress: &'a Sink<'a>,
    ) -> Result<Self, Error> {
        // In the home, where the next build removes what a killed one left.
        let folder = toolchain.home.join("tmp");
        let scratch = Scratch::under(&folder)
            .map_err(|error| Error::store("write to", &folder)(io::Error::other(error)))?;
        let overrides = scratch.path().join("overrides.txt");
        std::fs::write(&overrides, OVERRIDES).map_err(Error::store("write", &overrides))?;
        Ok(Self {
            toolchain,
            place,
            pins,
            secrets,
            progress,
            scratch,
            overrides,
        })
    }

    fn python(&self) -> PathBuf {
        self.place.env.join("bin/python")
    }

    async fn venv(&self, interpreter: &Path) -> Result<(), Error> {
        let mut command = uv::uv(
            &self.toolchain.uv,
            ["venv", "--no-project", "--quiet", "--python"],
        );
        command.arg(interpreter).arg(self.place.env);
        self.run("uv venv".to_owned(), "uv", command).await
    }

    async fn step(&self, number: usize, step: &Step) -> Result<(), Error> {
        match &step.work {
            Work::Pip { targets, folder } => {
                let flags = step.flags.as_slice();
                self.pip(number, step, targets, folder.as_deref(), flags)
                    .await
            }
            Work::Sync { pyproject, lock } => self.sync(step, pyproject, lock).await,
            Work::Poetry { folder } => self.poetry(number, step, folder).await,
        }
    }

    async fn pip(
        &self,
        number: usize,
        step: &Step,
        targets: &[String],
        folder: Option<&Path>,
        flags: &[String],
    ) -> Result<(), Error> {
        let mut command = uv::uv(&self.toolchain.uv, ["pip", "install", "--python"]);
        command
            .arg(self.python())
            .arg("--overrides")
            .arg(&self.overrides);
        if let Some(known) = self.pins.and_then(|pins| pins.known(number)) {
            let file = self.scratch.path().join("constraints.txt");
            std::fs::write(&file, known).map_err(Error::store("write", &file))?;
            command.arg("--constraints").arg(file);
        }
        command.args(flags).args(refreshed(step, flags));
        if let Some(folder) = folder {
            command.current_dir(folder);
        }
        let secrets = self.secrets.only(&step.secrets);
        command.secrets(&secrets);
        let targets = open_repositories(targets, &secrets, &mut command);
        command.args(listed(targets, self.scratch.path())?);
        self.run(step.text(), "uv", command).await
    }

    /// `uv sync` rather than an exported list: only it honours the indexes that a lock names for
    /// single packages, and `extra_args` are its arguments.
    async fn sync(&self, step: &Step, pyproject: &Path, lock: &Path) -> Result<(), Error> {
        let project = self.project_folder(pyproject, lock)?;
        let mut command = uv::uv(
            &self.toolchain.uv,
            [
                "sync",
                "--frozen",
                "--inexact",
                "--no-editable",
                "--no-install-project",
            ],
        );
        command
            .args(["--no-install-package", "flyte", "--python"])
            .arg(self.python())
            .arg("--project")
            .arg(&project)
            .args(step.flags.iter().filter(|flag| !is_set_by_us(flag)))
            .args(refreshed(step, &step.flags))
            .current_dir(&project)
            .env("UV_PROJECT_ENVIRONMENT", self.place.env)
            .secrets(&self.secrets.only(&step.secrets));
        self.run(step.text(), "uv", command).await
    }

    /// The folder to sync: the project's own, or a copy when its lock has another name or place.
    fn project_folder(&self, pyproject: &Path, lock: &Path) -> Result<PathBuf, Error> {
        let folder = folder_of(pyproject);
        let shared = Workspace::of(pyproject)?.map(|workspace| workspace.lock());
        if lock == folder.join("uv.lock") || shared.as_deref() == Some(lock) {
            return Ok(folder);
        }
        for (from, name) in [(pyproject, "pyproject.toml"), (lock, "uv.lock")] {
            let to = self.scratch.path().join(name);
            std::fs::copy(from, &to).map_err(Error::unreadable(from))?;
        }
        Ok(self.scratch.path().to_path_buf())
    }

    async fn poetry(&self, number: usize, step: &Step, folder: &Path) -> Result<(), Error> {
        let list = self.scratch.path().join("poetry.txt");
        let command = poetry_export(step, folder, &list, &self.secrets)?;
        let result = self.run(step.text(), "poetry", command).await;
        if let Err(Error::Install { tail, .. }) = &result
            && tail
                .iter()
                .any(|line| line.contains("export") && line.contains("does not exist"))
        {
            return Err(no_poetry(
                "add the command by `poetry self add poetry-plugin-export`",
            ));
        }
        result?;
        let targets = ["-r".to_owned(), list.display().to_string()];
        self.pip(number, step, &targets, Some(folder), &[]).await
    }

    async fn run(
        &self,
        step: String,
        installer: &'static str,
        mut command: uv::Call,
    ) -> Result<(), Error> {
        // It shares the lock: where this process is killed and the installer is not, nobody else
        // builds here before it has ended as well.
        command.stdin(shared(self.place)?);
        let program = command.program().to_path_buf();
        let outcome = uv::run(command, |line| (self.progress)(Progress::Line(line)))
            .await
            .map_err(|source| Error::Start { program, source })?;
        if outcome.success {
            return Ok(());
        }
        Err(Error::Install {
            step,
            installer,
            status: outcome.status,
            tail: outcome.tail,
            held_by: self.pins.and_then(Pins::held_by),
        })
    }
}

fn no_poetry(hint: &str) -> Error {
    Error::NeedsContainer {
        what:
            "`with_poetry_project` needs `poetry` with its export command, or a container builder"
                .to_owned(),
        hint: hint.to_owned(),
    }
}

pub(super) fn find_poetry() -> Result<PathBuf, Error> {
    let hint = "install it, for example by `uv tool install poetry --with poetry-plugin-export`";
    system::find_on_path("poetry").ok_or_else(|| no_poetry(hint))
}

/// The call that writes what a project's lock holds into `list`, as requirements.
pub(super) fn poetry_export(
    step: &Step,
    folder: &Path,
    list: &Path,
    secrets: &Secrets,
) -> Result<uv::Call, Error> {
    let mut command = uv::clean(&find_poetry()?);
    command
        .args([
            "export",
            "--without-hashes",
            "--format",
            "requirements.txt",
            "--output",
        ])
        .arg(list)
        .args(&step.flags)
        .current_dir(folder)
        .secrets(&secrets.only(&step.secrets));
    Ok(command)
}

/// Arguments that users pass to `uv sync` and that would now come twice.
pub(super) fn is_set_by_us(flag: &str) -> bool {
    matches!(
        flag,
        "--frozen"
            | "--locked"
            | "--inexact"
            | "--active"
            | "--no-editable"
            | "--no-install-project"
    )
}

/// The targets, with the repositories among them opened by settings that only `git` sees.
pub(super) fn open_repositories(
    targets: &[String],
    secrets: &Secrets,
    command: &mut uv::Call,
) -> Vec<String> {
    let mut found = Vec::new();
    let mut plain = Vec::with_capacity(targets.len());
    for target in targets {
        private::passwords(target).for_each(|password| command.hide(password));
        match private::repository(target, |name| secrets.text(name)) {
            Some(repository) => {
                plain.push(repository.requirement.clone());
                found.push(repository);
            }
            None => plain.push(target.clone()),
        }
    }
    for (name, value) in private::git_settings(&found) {
        command.env(name, value);
    }
    plain
}

/// The targets as words; those that hold credentials are read from a file, which others cannot.
fn listed(targets: Vec<String>, scratch: &Path) -> Result<Vec<String>, Error> {
    if !targets.iter().any(|target| private::is_private(target)) {
        return Ok(targets);
    }
    // The folder was made for this user alone.
    let file = scratch.join("targets.txt");
    std::fs::write(&file, targets.join("\n")).map_err(Error::store("write", &file))?;
    Ok(vec!["-r".to_owned(), file.display().to_string()])
}

/// Flags by which packages of this machine are built anew; a variable counts as the flag that it is
/// for.
fn refreshed(step: &Step, flags: &[String]) -> Vec<String> {
    let mut asked = flags.to_vec();
    let offline = std::env::var("UV_OFFLINE").unwrap_or_default();
    if !["", "0", "false"].contains(&offline.as_str()) {
        asked.push("--offline".to_owned());
    }
    local_packages::refreshed(&step.local, &asked)
}

/// Byte-compiles in the background: done at once it costs seconds, done never it costs every start.
///
/// The child may be dropped: it goes on, and nobody waits for it. It works from within the folder, so
/// that it stays with its environment: by name it would write into the next one of that name, while
/// that is being built.
pub(super) fn compile_in_background(env: &Path) -> Result<Child, Error> {
    let modules = sdk::site_packages(env)?;
    Command::new("nice")
        .args(["-n", "19"])
        .arg(env.join("bin/python"))
        .args(["-I", "-m", "compileall", "-q", "-j", "1", "-d"])
        .arg(&modules)
        .arg(".")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(&modules)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|source| Error::Start {
            program: "nice".into(),
            source,
        })
}

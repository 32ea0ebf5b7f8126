//! Python environments on this machine, named by content and built once.
//!
//! `<home>/envs/<tag>/` is complete exactly when its marker `flyte-env.json` is there: the marker
//! is written last, and a folder without one is what a killed build left. One that is complete waits
//! at `<tag>.old` while it is replaced; where the builder was killed, whoever comes next puts it back.
//! One file lock per tag keeps builders apart, across processes. Environments are built where they stay, because a
//! virtual environment cannot be moved. Nothing here knows apps; the [`Manifest`] says what
//! whoever starts one must apply.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::build::{self, Place};
use super::error::Error;
use super::hash::{DEFAULT_NAME, Held, ImageHash, remembered_hash};
use super::lock;
use super::pins::Pins;
use super::plan::{self, Plan};
use crate::crash;
use crate::files::{self, archive::machine_start};
use crate::spec::{Image, PythonVersion};

/// Registry part of the URI of an environment.
pub const REGISTRY: &str = "env.flyte.local";
/// Raised whenever the same image would be built differently.
const RECIPE: u32 = 2;
const MARKER: &str = "flyte-env.json";
/// How often an image is looked at anew that was edited while its build waited for its turn.
const LOOKS: u32 = 3;
/// Says that not all of an environment is on the disk yet, and since which start of the machine:
/// after the next one it does not count as complete.
const UNFLUSHED: &str = ".flyte-env.unflushed";

/// What builds environments.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// `FLYTE_HOME`.
    pub home: PathBuf,
    pub uv: PathBuf,
    /// The running interpreter.
    pub python: PathBuf,
    pub python_version: PythonVersion,
    pub sdk: SdkPayload,
}

/// This SDK, as it is installed where the caller runs.
#[derive(Clone, Debug)]
pub struct SdkPayload {
    /// Files and folders to place into `site-packages`.
    pub entries: Vec<PathBuf>,
    /// Changes when the SDK changes.
    pub identity: String,
}

/// News of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A line of an installer's output.
    Line(&'a str),
    /// Something the user should know.
    Note(&'a str),
    /// How far sending the image is, in bytes.
    Sent { done: u64, total: u64 },
}

pub(super) type Sink<'s> = dyn Fn(Progress<'_>) + Send + Sync + 's;

/// An environment that is complete.
#[derive(Clone, Debug)]
pub struct Environment {
    /// `env.flyte.local/<name>:<tag>`.
    pub uri: String,
    pub path: PathBuf,
    pub python: PathBuf,
    /// Whether it was there already.
    pub reused: bool,
    /// What the user should know about it, also when it is reused.
    pub notes: Vec<String>,
}

/// What to apply when a program is started in an environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// As declared; [`Manifest::environment`] gives them expanded.
    pub env_vars: Vec<(String, String)>,
    /// As in a container: it may be absolute.
    pub workdir: Option<String>,
    pub sources: Vec<Source>,
    pub notes: Vec<String>,
}

/// A file or folder that was declared with the image and is kept in the environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Relative to the environment.
    pub stored: PathBuf,
    /// Where the file itself, or the folder's content, belongs: absolute or relative to where the
    /// program is started. The declared working directory is already in it.
    pub dst: String,
    pub is_folder: bool,
}

impl Manifest {
    /// The variables to set, in order. As in a Dockerfile, a value may use the earlier ones;
    /// `inherited` answers for those that are not declared, such as `PATH`.
    pub fn environment(&self, inherited: impl Fn(&str) -> Option<String>) -> Vec<(String, String)> {
        let mut done: Vec<(String, String)> = Vec::with_capacity(self.env_vars.len());
        for (name, value) in &self.env_vars {
            let value = expand(value, &|wanted| {
                let earlier = done.iter().rev().find(|(name, _)| name == wanted);
                earlier
                    .map(|(_, value)| value.clone())
                    .or_else(|| inherited(wanted))
            });
            done.push((name.clone(), value));
        }
        done
    }
}

/// Replaces `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+other}`; `\$` stays a dollar.
fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let before = &rest[..at];
        rest = &rest[at + 1..];
        if let Some(before) = before.strip_suffix('\\') {
            out.push_str(before);
            out.push('$');
            continue;
        }
        out.push_str(before);
        let (replacement, left) = reference(rest, lookup);
        out.push_str(&replacement);
        rest = left;
    }
    out.push_str(rest);
    out
}

/// The value of the reference that `text` begins with, after its dollar, and what follows it.
fn reference<'a>(text: &'a str, lookup: &dyn Fn(&str) -> Option<String>) -> (String, &'a str) {
    if let Some((inner, left)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        let value = |name| lookup(name).filter(|value| !value.is_empty());
        let replacement = if let Some((name, default)) = inner.split_once(":-") {
            value(name).unwrap_or_else(|| default.to_owned())
        } else if let Some((name, other)) = inner.split_once(":+") {
            value(name).map(|_| other.to_owned()).unwrap_or_default()
        } else {
            lookup(inner).unwrap_or_default()
        };
        return (replacement, left);
    }
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    match &text[..end] {
        "" => ("$".to_owned(), text),
        name => (lookup(name).unwrap_or_default(), &text[end..]),
    }
}

/// The place of one environment.
pub(super) struct Slot {
    uri: String,
    pub(super) path: PathBuf,
}

impl Slot {
    fn new(toolchain: &Toolchain, image: &Image, content: &ImageHash) -> Self {
        let parts = (content.as_str(), &toolchain.sdk.identity, RECIPE);
        // Debug of a tuple of strings quotes and escapes: parts cannot run into each other.
        let hash = ImageHash::of(format!("{parts:?}").as_bytes());
        Self::at(
            &toolchain.home,
            image.name.as_deref().unwrap_or(DEFAULT_NAME),
            &hash,
        )
    }

    pub(super) fn at(home: &Path, name: &str, hash: &ImageHash) -> Self {
        Self {
            uri: format!("{REGISTRY}/{name}:{}", hash.tag()),
            path: envs(home).join(hash.tag()),
        }
    }

    fn environment(&self, reused: bool, notes: Vec<String>) -> Environment {
        Environment {
            uri: self.uri.clone(),
            path: self.path.clone(),
            python: self.path.join("bin/python"),
            reused,
            notes,
        }
    }

    pub(super) fn finished(&self) -> Option<Environment> {
        if complete(&self.path).is_none() {
            put_back_unless_built(&self.path);
        }
        let manifest = complete(&self.path)?;
        // What was used lately is not tidied away; what just was has to be built again.
        if !files::touch(&self.path.join(MARKER)) {
            return None;
        }
        flush_in_background(&self.path);
        Some(self.environment(true, manifest.notes))
    }

    /// Keeps other builders out. Before anything else the caller finds what was there before a
    /// builder was killed.
    pub(super) async fn lock(&self, progress: &Sink<'_>) -> Result<File, Error> {
        let wait = || {
            progress(Progress::Note(
                "waiting for another build of the same environment",
            ));
        };
        let lock = lock::exclusive(&self.path.with_extension("lock"), &wait).await?;
        put_back(&self.path)?;
        Ok(lock)
    }

    pub(super) fn place<'a>(&'a self, lock: &'a File) -> Place<'a> {
        Place {
            env: &self.path,
            lock,
        }
    }

    /// Where the environment waits while it is being replaced.
    fn replaced(&self) -> PathBuf {
        replaced(&self.path)
    }

    /// Clears the place; one that is complete is kept aside, in case its replacement fails.
    pub(super) fn clear(&self) -> Result<(), Error> {
        let old = self.replaced();
        // Not while it is the only one.
        put_back(&self.path)?;
        remove(&old)?;
        crash::point("image.emptied");
        if complete(&self.path).is_some() {
            return std::fs::rename(&self.path, &old).map_err(Error::store("move", &self.path));
        }
        remove(&self.path)
    }

    /// After a failed build: no half-built folder, and the environment that was there before.
    fn restore(&self) -> Result<(), Error> {
        remove(&self.path)?;
        crash::point("image.given.up");
        put_back(&self.path)
    }

    /// Writes the marker, which makes the environment complete: after all that it speaks of.
    fn finish(&self, manifest: &Manifest) -> Result<(), Error> {
        let marker = self.path.join(MARKER);
        crash::point("image.unmarked");
        let write = || -> io::Result<()> {
            // It is many files, which nobody waits for. Where the machine's starts have no name,
            // there is no other way.
            let start = machine_start();
            if start.is_empty() {
                flush(&self.path)?;
            } else {
                std::fs::write(self.path.join(UNFLUSHED), start)?;
            }
            let temporary = self.path.join(".flyte-env.json.tmp");
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(manifest)?)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &marker)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(Error::store("write", &marker))?;
        flush_in_background(&self.path);
        // Nobody needs it any more; what cannot be removed now is removed by the next build.
        let _ = remove(&self.replaced());
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    files::remove_all(path).map_err(Error::store("remove", path))
}

/// Waits until an environment is on the disk.
fn flush(env: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(File::open(env)?)?;
    #[cfg(not(target_os = "linux"))]
    let _ = env;
    #[cfg(not(target_os = "linux"))]
    rustix::fs::sync();
    Ok(())
}

/// Sees to it that an environment is on the disk. Where this process ends before that, the next one
/// that uses the environment begins again.
fn flush_in_background(env: &Path) {
    let pending = env.join(UNFLUSHED);
    if !pending.exists() {
        return;
    }
    let env = env.to_path_buf();
    let flush = move || {
        let done = flush(&env).and_then(|()| std::fs::remove_file(&pending));
        if let Err(error) = done {
            tracing::debug!(%error, "an environment is not flushed");
        }
    };
    if let Err(error) = std::thread::Builder::new().spawn(flush) {
        tracing::debug!(%error, "no thread to flush an environment");
    }
}

/// Whether the machine stopped before all of an environment was on the disk.
fn is_cut(env: &Path) -> bool {
    std::fs::read(env.join(UNFLUSHED)).is_ok_and(|start| start != machine_start())
}

/// Where the environment at `path` waits while it is being replaced.
fn replaced(path: &Path) -> PathBuf {
    path.with_extension("old")
}

/// Puts back the environment whose replacement was never finished; the caller holds the lock.
fn put_back(path: &Path) -> Result<(), Error> {
    let old = replaced(path);
    if !old.exists() || complete(path).is_some() || complete(&old).is_none() {
        return Ok(());
    }
    remove(path)?;
    std::fs::rename(&old, path).map_err(Error::store("move", &old))
}

/// The same for whoever only looks: while a builder is at work, it is left to that one.
fn put_back_unless_built(path: &Path) {
    if !replaced(path).exists() {
        return;
    }
    if let Ok(Some(_lock)) = files::try_lock_exclusive(&path.with_extension("lock"))
        && let Err(error) = put_back(path)
    {
        tracing::warn!(%error, "an environment that was being replaced is not put back");
    }
}

fn envs(home: &Path) -> PathBuf {
    home.join("envs")
}

/// The manifest of an environment that is complete and whose interpreter still exists.
fn complete(path: &Path) -> Option<Manifest> {
    let manifest = manifest(path).ok()?;
    // Written after everything else; but a cleaner of disks may have come by since.
    let whole = !is_cut(path)
        && path.join("bin/python").exists()
        && path.join("bin/fserve").exists()
        && holds_sdk(path).unwrap_or(false);
    whole.then_some(manifest)
}

fn holds_sdk(path: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(path.join("lib"))? {
        let package = entry?.path().join("site-packages/flyte");
        if package.join("__init__.py").exists() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What to apply when something is started in the environment at `env`.
pub fn manifest(env: &Path) -> Result<Manifest, Error> {
    let path = env.join(MARKER);
    let bytes = std::fs::read(&path).map_err(Error::store("read", &path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::store("read", &path)(error.into()))
}

/// Whether `uri` names an environment, be it there or not.
pub fn is_ours(uri: &str) -> bool {
    let rest = uri.strip_prefix(REGISTRY);
    rest.is_some_and(|rest| rest.starts_with('/'))
}

/// The folder of the environment that `uri` names, when it is complete.
pub fn locate(home: &Path, uri: &str) -> Option<PathBuf> {
    let (_, tag) = uri
        .strip_prefix(REGISTRY)?
        .strip_prefix('/')?
        .rsplit_once(':')?;
    let is_tag = tag.len() == 32 && tag.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !is_tag {
        return None;
    }
    let path = envs(home).join(tag);
    if complete(&path).is_none() {
        put_back_unless_built(&path);
    }
    complete(&path).is_some().then_some(path)
}

/// The URI of the environment for `image`, and whether it is there; nothing is built.
pub async fn peek(toolchain: &Toolchain, image: &Image) -> Result<(String, bool), Error> {
    plan::refuse(image)?;
    let slot = Slot::new(toolchain, image, &content(toolchain, image).await?);
    let environment = slot.environment(true, Vec::new());
    Ok((environment.uri, slot.finished().is_some()))
}

/// The environment for `image`: the one that is there, or a new one; `force` always builds.
///
/// Dropping the future ends what runs, and the next call starts over.
pub async fn ensure(
    toolchain: &Toolchain,
    image: &Image,
    force: bool,
    progress: &(dyn Fn(Progress<'_>) + Send + Sync),
) -> Result<Environment, Error> {
    plan::refuse(image)?;
    for _ in 0..LOOKS {
        let content = content(toolchain, image).await?;
        let slot = Slot::new(toolchain, image, &content);
        if let (false, Some(environment)) = (force, slot.finished()) {
            return Ok(environment);
        }
        let lock = slot.lock(progress).await?;
        // Whoever held the lock may have built it.
        if let (false, Some(environment)) = (force, slot.finished()) {
            return Ok(environment);
        }
        // Waiting takes a while: what is built must be what the image holds from here on.
        let held = held(toolchain, image).await?;
        if held.content != content {
            continue;
        }
        let plan = Plan::new(image)?;
        let pins = Pins::of(&toolchain.home, &content, force);
        slot.clear()?;
        crash::point("image.cleared");
        let place = slot.place(&lock);
        let built = build_held(toolchain, image, &held, plan, &pins, place, progress).await;
        return settle(&slot, built);
    }
    Err(Error::Changed)
}

/// Builds, and keeps the versions that were decided, unless the image holds something else by now.
async fn build_held(
    toolchain: &Toolchain,
    image: &Image,
    held: &Held,
    plan: Plan,
    pins: &Pins,
    place: Place<'_>,
    progress: &Sink<'_>,
) -> Result<Manifest, Error> {
    let (manifest, states) = build::build(toolchain, plan, pins, place, progress).await?;
    refuse_changed(toolchain, image, held).await?;
    if !pins.are_known() {
        pins.keep(&states)?;
    }
    Ok(manifest)
}

async fn content(toolchain: &Toolchain, image: &Image) -> Result<ImageHash, Error> {
    let (declared, home) = (image.clone(), toolchain.home.clone());
    build::off_thread(move || remembered_hash(&declared, &home)).await
}

/// Refuses what was built of other files than its name was made of.
pub(super) async fn refuse_changed(
    toolchain: &Toolchain,
    image: &Image,
    before: &Held,
) -> Result<(), Error> {
    let (declared, home, before) = (image.clone(), toolchain.home.clone(), before.clone());
    build::off_thread(move || before.refuse_changed(&declared, &home)).await
}

/// What the image holds now.
pub(super) async fn held(toolchain: &Toolchain, image: &Image) -> Result<Held, Error> {
    let (declared, home) = (image.clone(), toolchain.home.clone());
    build::off_thread(move || Held::now(&declared, &home)).await
}

/// Makes what was built complete, or clears it away.
pub(super) fn settle(slot: &Slot, built: Result<Manifest, Error>) -> Result<Environment, Error> {
    match built {
        Ok(manifest) => {
            crash::point("image.built");
            slot.finish(&manifest)?;
            crash::point("image.finished");
            if let Err(error) = build::compile_in_background(&slot.path) {
                tracing::debug!(%error, "modules are compiled when they are first imported");
            }
            Ok(slot.environment(false, manifest.notes))
        }
        Err(error) => {
            if let Err(cleanup) = slot.restore() {
                tracing::warn!(%cleanup, "a failed build could not be cleared away");
            }
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::content_hash;
    use super::*;
    use crate::error::{Code, Diagnostic};
    use crate::spec::image::Base;
    use crate::spec::{InstallMode, InstallOptions, Layer};
    use std::sync::Mutex;
    use std::time::Duration;

    fn quiet(_: Progress<'_>) {}

    /// `uv`, when this machine has it; without it only continuous integration fails.
    fn find_uv() -> Option<PathBuf> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/uv");
        let found = std::env::var_os("FLYTE_TEST_UV")
            .map(PathBuf::from)
            .or_else(|| super::super::system::find_on_path("uv"))
            .or_else(|| here.is_file().then_some(here));
        if found.is_none() {
            assert!(
                std::env::var_os("CI").is_none(),
                "`uv` is needed: set FLYTE_TEST_UV"
            );
            eprintln!("skipped: no `uv` on PATH, in .venv/bin or in FLYTE_TEST_UV");
        }
        found
    }

    fn running_python() -> (PathBuf, PythonVersion) {
        let code = "import sys; print(sys._base_executable, *sys.version_info[:2])";
        let output = std::process::Command::new("python3")
            .args(["-c", code])
            .output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [exe, major, minor] = parts[..] else {
            panic!("unexpected answer: {text}");
        };
        let (major, minor) = (major.parse().unwrap(), minor.parse().unwrap());
        (exe.into(), PythonVersion { major, minor })
    }

    struct World {
        dir: tempfile::TempDir,
        toolchain: Toolchain,
    }

    impl World {
        fn new() -> Option<Self> {
            let uv = find_uv()?;
            let dir = tempfile::tempdir().unwrap();
            let (python, python_version) = running_python();
            let package = dir.path().join("payload/flyte");
            std::fs::create_dir_all(&package).unwrap();
            std::fs::write(package.join("__init__.py"), "").unwrap();
            let main =
                "import sys\ndef main():\n    import six\n    print(six.__name__, sys.prefix)\n";
            std::fs::write(package.join("_runtime.py"), main).unwrap();
            let toolchain = Toolchain {
                home: dir.path().join("home"),
                uv,
                python,
                python_version,
                sdk: SdkPayload {
                    entries: vec![package],
                    identity: "test".into(),
                },
            };
            Some(Self { dir, toolchain })
        }

        fn image(&self, packages: &[&str]) -> Image {
            let packages = packages.iter().map(|text| (*text).to_owned()).collect();
            let options = InstallOptions::default();
            Image {
                name: Some("demo".into()),
                registry: None,
                base: Base::Debian {
                    install_flyte: true,
                },
                python: self.toolchain.python_version,
                python_is_explicit: false,
                platforms: vec![],
                layers: vec![Layer::PipPackages { packages, options }],
            }
        }
    }

    #[tokio::test]
    async fn a_built_environment_runs_and_is_reused() {
        let Some(mut world) = World::new() else {
            return;
        };
        let file = world.dir.path().join("data.txt");
        std::fs::write(&file, "data").unwrap();
        let mut image = world.image(&["six", "flyte>=2"]);
        image.layers.push(Layer::SourceFile {
            src: file,
            dst: ".".into(),
        });
        image
            .layers
            .push(Layer::EnvVars(vec![("A".into(), "1".into())]));
        let lines = Mutex::new(Vec::new());
        let progress = |news: Progress<'_>| lines.lock().unwrap().push(format!("{news:?}"));
        let built = ensure(&world.toolchain, &image, false, &progress)
            .await
            .unwrap();
        assert!(!built.reused);
        assert!(
            built.uri.starts_with("env.flyte.local/demo:"),
            "{}",
            built.uri
        );
        assert!(built.notes[0].contains("is this SDK"), "{:?}", built.notes);
        let lines = lines.into_inner().unwrap().join("\n");
        assert!(lines.contains("+ six=="), "{lines}");
        let manifest = manifest(&built.path).unwrap();
        let stored = built.path.join(&manifest.sources[0].stored);
        assert_eq!(std::fs::read_to_string(stored).unwrap(), "data");
        assert_eq!(
            locate(&world.toolchain.home, &built.uri),
            Some(built.path.clone())
        );
        // `python` reads the launcher: it was written by this process and could be "text busy".
        let output = tokio::process::Command::new(&built.python)
            .arg(built.path.join("bin/fserve"))
            .output();
        let said = String::from_utf8(output.await.unwrap().stdout).unwrap();
        assert_eq!(said.trim(), format!("six {}", built.path.display()));

        // No program can be run now, so nothing was.
        world.toolchain.uv = "/nowhere/uv".into();
        world.toolchain.python = "/nowhere/python".into();
        let again = ensure(&world.toolchain, &image, false, &quiet)
            .await
            .unwrap();
        assert!(again.reused);
        assert_eq!(again.notes, built.notes);
    }

    #[tokio::test]
    async fn a_later_build_is_held_to_the_versions_of_the_first() {
        let Some(world) = World::new() else { return };
        let image = world.image(&["six"]);
        let pins = Pins::of(&world.toolchain.home, &content_hash(&image).unwrap(), false);
        let built = ensure(&world.toolchain, &image, false, &quiet)
            .await
            .unwrap();
        let resolved = std::fs::read_to_string(pins.path()).unwrap();
        assert!(resolved.starts_with("six=="), "{resolved}");
        let version = async || {
            let site = super::super::sdk::site_packages(&built.path).unwrap();
            let python = tokio::process::Command::new(&built.python)
                .args(["-c", "import six; print(six.__version__)"])
                .current_dir(site)
                .output();
            String::from_utf8(python.await.unwrap().stdout).unwrap()
        };
        // As if it had been built when that was the newest.
        std::fs::write(pins.path(), "six==1.16.0\n").unwrap();
        files::remove_all(&built.path).unwrap();
        ensure(&world.toolchain, &image, false, &quiet)
            .await
            .unwrap();
        assert_eq!(version().await.trim(), "1.16.0");
        ensure(&world.toolchain, &image, true, &quiet)
            .await
            .unwrap();
        assert_eq!(format!("six=={}", version().await), resolved);

        std::fs::write(pins.path(), "six==0.0.1\n").unwrap();
        files::remove_all(&built.path).unwrap();
        let error = ensure(&world.toolchain, &image, false, &quiet)
            .await
            .unwrap_err();
        let hints = error.hints().join("\n");
        assert!(hints.contains("`flyte build --force`"), "{error}: {hints}");
    }

    #[tokio::test]
    async fn concurrent_calls_build_once() {
        // Callers spawn it.
        fn sendable<F: Future + Send>(future: F) -> F {
            future
        }
        let Some(world) = World::new() else { return };
        let image = world.image(&[]);
        let call = || sendable(ensure(&world.toolchain, &image, false, &quiet));
        let (a, b, c) = tokio::try_join!(call(), call(), call()).unwrap();
        let built = [&a, &b, &c].iter().filter(|env| !env.reused).count();
        assert_eq!(built, 1);
        assert!(a.path == b.path && b.path == c.path);
    }

    #[tokio::test]
    async fn modules_are_compiled_behind_the_callers_back() {
        let Some(world) = World::new() else { return };
        let built = ensure(&world.toolchain, &world.image(&[]), false, &quiet)
            .await
            .unwrap();
        let mut compiler = build::compile_in_background(&built.path).unwrap();
        assert!(compiler.wait().await.unwrap().success());
        let site = super::super::sdk::site_packages(&built.path).unwrap();
        assert!(site.join("flyte/__pycache__").is_dir());
    }

    #[tokio::test]
    async fn the_compiler_writes_nothing_into_the_next_environment_of_that_name() {
        let scratch = tempfile::tempdir().unwrap();
        let (env, aside) = (scratch.path().join("env"), scratch.path().join("aside"));
        let modules = "lib/python3/site-packages";
        std::fs::create_dir_all(env.join(modules)).unwrap();
        std::fs::create_dir(env.join("bin")).unwrap();
        std::os::unix::fs::symlink(running_python().0, env.join("bin/python")).unwrap();
        let count = 300;
        for number in 0..count {
            let module = env.join(modules).join(format!("m{number}.py"));
            std::fs::write(module, "x = 1\n".repeat(100)).unwrap();
        }
        let mut compiler = build::compile_in_background(&env).unwrap();
        while !env.join(modules).join("__pycache__").is_dir() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        std::fs::rename(&env, &aside).unwrap();
        assert!(compiler.wait().await.unwrap().success());
        assert!(!env.exists());
        let compiled = aside.join(modules).join("__pycache__");
        assert_eq!(std::fs::read_dir(compiled).unwrap().count(), count);
    }

    #[tokio::test]
    async fn poetry_and_system_packages_are_refused_where_they_are_missing() {
        let Some(world) = World::new() else { return };
        let (pyproject, lock) = (
            world.dir.path().join("pyproject.toml"),
            world.dir.path().join("poetry.lock"),
        );
        std::fs::write(&pyproject, "[project]\nname = \"x\"\nversion = \"1\"\n").unwrap();
        std::fs::write(&lock, "").unwrap();
        let poetry = Layer::PoetryProject {
            pyproject,
            lock,
            mode: InstallMode::DependenciesOnly,
            options: InstallOptions::default(),
        };
        let apt = Layer::AptPackages {
            packages: vec!["no-such-package".into()],
            secret_mounts: vec![],
        };
        let has_poetry = super::super::system::find_on_path("poetry").is_some();
        for (layer, method) in [(apt, "with_apt_packages"), (poetry, "with_poetry_project")] {
            if has_poetry && method == "with_poetry_project" {
                continue;
            }
            let image = Image {
                layers: vec![layer],
                ..world.image(&[])
            };
            let error = ensure(&world.toolchain, &image, false, &quiet)
                .await
                .unwrap_err();
            assert_eq!(error.code(), Code::ImageNeedsContainer);
            assert!(error.to_string().contains(method), "{error}");
        }
    }

    /// What passes for an environment that is complete, for whoever only looks at it.
    fn pretend(path: &Path, note: &str) {
        for name in [
            "bin/python",
            "bin/fserve",
            "lib/python3/site-packages/flyte/__init__.py",
        ] {
            let path = path.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let manifest = Manifest {
            env_vars: Vec::new(),
            workdir: None,
            sources: Vec::new(),
            notes: vec![note.to_owned()],
        };
        let marker = serde_json::to_vec(&manifest).unwrap();
        std::fs::write(path.join(MARKER), marker).unwrap();
    }

    #[tokio::test]
    async fn a_killed_replacement_loses_nothing() {
        let home = tempfile::tempdir().unwrap();
        let slot = Slot::at(home.path(), "web", &ImageHash::of(b"x"));
        pretend(&slot.path, "the old one");
        let lock = slot.lock(&quiet).await.unwrap();
        slot.clear().unwrap();
        std::fs::create_dir_all(slot.path.join("bin")).unwrap();
        // While it is replaced, nobody moves it.
        assert_eq!(locate(home.path(), &slot.uri), None);
        drop(lock);
        assert_eq!(locate(home.path(), &slot.uri), Some(slot.path.clone()));
        // The same for the builder that comes next, be it killed as well.
        for _ in 0..2 {
            let lock = slot.lock(&quiet).await.unwrap();
            slot.clear().unwrap();
            drop(lock);
        }
        assert_eq!(slot.finished().unwrap().notes, ["the old one"]);
    }

    #[test]
    fn what_was_not_on_the_disk_when_the_machine_stopped_is_built_again() {
        let home = tempfile::tempdir().unwrap();
        let slot = Slot::at(home.path(), "web", &ImageHash::of(b"x"));
        pretend(&slot.path, "");
        std::fs::write(slot.path.join(UNFLUSHED), "another start").unwrap();
        assert!(slot.finished().is_none());
        std::fs::write(slot.path.join(UNFLUSHED), machine_start()).unwrap();
        assert!(slot.finished().is_some());
    }

    #[tokio::test]
    async fn what_is_edited_meanwhile_is_not_kept_under_the_old_name() {
        let Some(world) = World::new() else { return };
        let file = world.toolchain.home.with_extension("txt");
        std::fs::create_dir_all(&world.toolchain.home).unwrap();
        std::fs::write(&file, "one").unwrap();
        let layer = Layer::SourceFile {
            src: file.clone(),
            dst: ".".into(),
        };
        let mut image = world.image(&["six"]);
        image.layers.push(layer);
        let edit = |_: Progress<'_>| std::fs::write(&file, "two").unwrap();
        let pins = Pins::of(&world.toolchain.home, &content_hash(&image).unwrap(), false);
        let error = ensure(&world.toolchain, &image, false, &edit).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Changed), "{error}");
        assert_eq!(error.retry(), crate::error::Retry::Maybe);
        assert!(!pins.path().exists());
        let built = ensure(&world.toolchain, &image, false, &quiet).await;
        let built = built.unwrap();
        let kept =
            std::fs::read_to_string(built.path.join("files/0").join(file.file_name().unwrap()));
        assert_eq!(kept.unwrap(), "two");
    }

    #[tokio::test]
    async fn what_is_edited_while_a_build_waits_is_built_as_it_is_then() {
        let Some(world) = World::new() else { return };
        let file = world.dir.path().join("data.txt");
        std::fs::write(&file, "one").unwrap();
        let mut image = world.image(&[]);
        image.layers.push(Layer::SourceFile {
            src: file.clone(),
            dst: ".".into(),
        });
        let before = Slot::new(&world.toolchain, &image, &content_hash(&image).unwrap());
        let other = Mutex::new(Some(before.lock(&quiet).await.unwrap()));
        // Told that it waits: the other one is done, and the file is another one.
        let edit = |_: Progress<'_>| {
            std::fs::write(&file, "two").unwrap();
            drop(other.lock().unwrap().take());
        };
        let built = ensure(&world.toolchain, &image, false, &edit).await;
        let built = built.unwrap();
        assert_ne!(built.path, before.path);
        assert!(!before.path.exists());
        assert_eq!(
            std::fs::read_to_string(built.path.join("files/0/data.txt")).unwrap(),
            "two"
        );
    }

    /// What writes into the environment does so on a thread, which nobody can stop.
    #[tokio::test]
    async fn a_build_that_is_given_up_has_its_place_until_it_writes_no_more() {
        let Some(world) = World::new() else { return };
        let file = world.dir.path().join("data.txt");
        std::fs::write(&file, "data").unwrap();
        let mut image = world.image(&["six"]);
        image.layers.push(Layer::SourceFile {
            src: file.clone(),
            dst: ".".into(),
        });
        let slot = Slot::new(&world.toolchain, &image, &content_hash(&image).unwrap());
        // Whoever reads a pipe waits for a writer.
        let swap = |_: Progress<'_>| {
            let _ = std::fs::remove_file(&file);
            let made = std::process::Command::new("mkfifo").arg(&file).status();
            assert!(made.unwrap().success());
        };
        let writes = async {
            while !slot.path.join("files/0").is_dir() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            built = ensure(&world.toolchain, &image, false, &swap) => panic!("{built:?}"),
            () = writes => {}
        }
        let lock = slot.path.with_extension("lock");
        assert!(files::try_lock_exclusive(&lock).unwrap().is_none());
        std::fs::write(&file, "").unwrap();
        let free = async {
            while files::try_lock_exclusive(&lock).unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let bound = Duration::from_secs(60);
        tokio::time::timeout(bound, free).await.unwrap();
    }

    /// The second step asks for another version than the first: each is held to its own.
    #[tokio::test]
    async fn steps_that_replace_each_other_are_built_again_from_their_pins() {
        let Some(world) = World::new() else { return };
        let mut image = world.image(&["six<1.17"]);
        image.layers.extend(world.image(&["six>=1.17"]).layers);
        let built = ensure(&world.toolchain, &image, false, &quiet).await;
        files::remove_all(&built.unwrap().path).unwrap();
        let again = ensure(&world.toolchain, &image, false, &quiet).await;
        assert!(!again.unwrap().reused);
    }

    #[tokio::test]
    async fn what_a_killed_build_left_is_rebuilt() {
        let Some(world) = World::new() else { return };
        let image = world.image(&[]);
        let content = content_hash(&image).unwrap();
        let slot = Slot::new(&world.toolchain, &image, &content);
        std::fs::create_dir_all(slot.path.join("bin")).unwrap();
        std::fs::write(slot.path.join("bin/rubbish"), "").unwrap();
        assert_eq!(locate(&world.toolchain.home, &slot.uri), None);
        let built = ensure(&world.toolchain, &image, false, &quiet)
            .await
            .unwrap();
        assert!(!built.reused);
        assert!(!built.path.join("bin/rubbish").exists());
    }

    #[tokio::test]
    async fn a_failing_installer_explains_itself_and_leaves_the_old() {
        let Some(world) = World::new() else { return };
        let image = world.image(&["flyte-rs-no-such-package-0"]);
        let error = ensure(&world.toolchain, &image, false, &quiet)
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::ImageBuildFailed);
        assert!(
            error
                .to_string()
                .contains("with_pip_packages('flyte-rs-no-such-package-0')"),
            "{error}"
        );
        assert!(
            error
                .log_tail()
                .join("\n")
                .contains("flyte-rs-no-such-package-0")
        );
        let slot = Slot::new(&world.toolchain, &image, &content_hash(&image).unwrap());
        assert!(!slot.path.exists());

        let good = world.image(&[]);
        let built = ensure(&world.toolchain, &good, false, &quiet)
            .await
            .unwrap();
        let mut broken = world.toolchain.clone();
        broken.uv = "/bin/false".into();
        let error = ensure(&broken, &good, true, &quiet).await.unwrap_err();
        assert!(matches!(error, Error::Install { .. }), "{error}");
        assert_eq!(locate(&world.toolchain.home, &built.uri), Some(built.path));
        let forced = ensure(&world.toolchain, &good, true, &quiet).await.unwrap();
        assert!(!forced.reused);
    }

    /// What `python -c code` prints in the environment for `layers`.
    async fn printed(world: &World, layers: Vec<Layer>, code: &str) -> String {
        let image = Image {
            layers,
            ..world.image(&[])
        };
        let built = ensure(&world.toolchain, &image, false, &quiet).await;
        let built =
            built.unwrap_or_else(|error| panic!("{error}\n{}", error.log_tail().join("\n")));
        let output = tokio::process::Command::new(&built.python)
            .args(["-c", code])
            .output()
            .await;
        let output = output.unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// A project of one module that depends on `six`, locked by `uv`.
    fn project(world: &World) -> PathBuf {
        let folder = world.dir.path().join("project");
        std::fs::create_dir(&folder).unwrap();
        let pyproject = "[project]\nname = \"demo-project\"\nversion = \"1\"\nrequires-python = \">=3.9\"\ndependencies = [\"six\"]\n[build-system]\nrequires = [\"setuptools\"]\nbuild-backend = \"setuptools.build_meta\"\n[tool.setuptools]\npy-modules = [\"demo_module\"]\n";
        std::fs::write(folder.join("pyproject.toml"), pyproject).unwrap();
        std::fs::write(folder.join("demo_module.py"), "VALUE = 1\n").unwrap();
        let mut uv = std::process::Command::new(&world.toolchain.uv);
        let status = uv
            .args(["lock", "--quiet", "--project"])
            .arg(&folder)
            .status();
        assert!(status.unwrap().success());
        folder
    }

    #[tokio::test]
    async fn projects_are_installed_with_and_without_their_code() {
        let Some(world) = World::new() else { return };
        let folder = project(&world);
        let layer = |lock: Option<PathBuf>, mode| Layer::UvProject {
            pyproject: folder.join("pyproject.toml"),
            lock,
            mode,
            options: InstallOptions::default(),
        };
        let (lock, elsewhere) = (folder.join("uv.lock"), world.dir.path().join("other.lock"));
        std::fs::copy(&lock, &elsewhere).unwrap();
        let code = "import six, importlib.util as u; print(u.find_spec('demo_module') is not None)";
        for lock in [Some(lock.clone()), Some(elsewhere), None] {
            let layers = vec![layer(lock, InstallMode::DependenciesOnly)];
            assert_eq!(printed(&world, layers, code).await, "False");
        }
        let code = "import six, demo_module; print(demo_module.VALUE)";
        for value in [1, 2] {
            std::fs::write(folder.join("demo_module.py"), format!("VALUE = {value}\n")).unwrap();
            let layers = vec![layer(Some(lock.clone()), InstallMode::InstallProject)];
            assert_eq!(printed(&world, layers, code).await, value.to_string());
        }
        assert!(!folder.join(".venv").exists());
    }

    #[tokio::test]
    async fn members_of_a_workspace_are_installed_as_they_are_now() {
        let Some(world) = World::new() else { return };
        let root = world.dir.path().join("workspace");
        let member = |name: &str, depends: &str| {
            let folder = root.join(name);
            std::fs::create_dir_all(&folder).unwrap();
            let text = format!(
                "[project]\nname = \"{name}\"\nversion = \"1\"\nrequires-python = \">=3.9\"\ndependencies = [{depends}]\n[build-system]\nrequires = [\"setuptools\"]\nbuild-backend = \"setuptools.build_meta\"\n[tool.setuptools]\npy-modules = [\"{name}_module\"]\n[tool.uv.sources]\nlibrary = {{ workspace = true }}\n"
            );
            std::fs::write(folder.join("pyproject.toml"), text).unwrap();
            std::fs::write(folder.join(format!("{name}_module.py")), "VALUE = 1\n").unwrap();
        };
        member("library", "");
        member("front", "\"library\", \"six\"");
        let top = "[tool.uv.workspace]\nmembers = [\"library\", \"front\"]\n";
        std::fs::write(root.join("pyproject.toml"), top).unwrap();
        let mut uv = std::process::Command::new(&world.toolchain.uv);
        uv.args(["lock", "--quiet", "--project"]).arg(&root);
        assert!(uv.status().unwrap().success());
        let code = "import six, library_module as l, importlib.util as u; print(l.VALUE, u.find_spec('front_module') is None)";
        for (lock, value) in [(None, 1), (Some(root.join("uv.lock")), 2)] {
            let module = root.join("library/library_module.py");
            std::fs::write(module, format!("VALUE = {value}\n")).unwrap();
            let layers = vec![Layer::UvProject {
                pyproject: root.join("front/pyproject.toml"),
                lock,
                mode: InstallMode::DependenciesOnly,
                options: InstallOptions::default(),
            }];
            let expected = format!("{value} True");
            assert_eq!(printed(&world, layers, code).await, expected);
        }
        assert!(!root.join(".venv").exists());
    }

    #[tokio::test]
    async fn projects_beside_a_project_are_installed_as_they_are_now() {
        let Some(world) = World::new() else { return };
        let at = |name: &str| world.dir.path().join(name);
        let write = |name: &str, text: &str| {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), text).unwrap();
        };
        write(
            "library/pyproject.toml",
            "[project]\nname = \"library\"\nversion = \"1\"\nrequires-python = \">=3.9\"\n[build-system]\nrequires = [\"setuptools\"]\nbuild-backend = \"setuptools.build_meta\"\n[tool.setuptools]\npy-modules = [\"library_module\"]\n",
        );
        write(
            "front/pyproject.toml",
            "[project]\nname = \"front\"\nversion = \"1\"\nrequires-python = \">=3.9\"\ndependencies = [\"library\"]\n[tool.uv.sources]\nlibrary = { path = \"../library\" }\n",
        );
        write("list.txt", "./library\n");
        let mut uv = std::process::Command::new(&world.toolchain.uv);
        uv.args(["lock", "--quiet", "--project"]).arg(at("front"));
        assert!(uv.status().unwrap().success());
        let project = |lock: Option<PathBuf>| Layer::UvProject {
            pyproject: at("front/pyproject.toml"),
            lock,
            mode: InstallMode::DependenciesOnly,
            options: InstallOptions::default(),
        };
        let layers = [
            project(Some(at("front/uv.lock"))),
            project(None),
            Layer::Requirements {
                file: at("list.txt"),
                options: InstallOptions::default(),
            },
        ];
        let code = "import library_module; print(library_module.VALUE)";
        for (value, layer) in layers.iter().chain(&layers).enumerate() {
            write("library/library_module.py", &format!("VALUE = {value}\n"));
            let installed = printed(&world, vec![layer.clone()], code).await;
            assert_eq!(installed, value.to_string(), "{layer:?}");
        }
    }

    #[tokio::test]
    async fn requirements_scripts_and_wheels_are_installed() {
        let Some(world) = World::new() else { return };
        let at = |name: &str| world.dir.path().join(name);
        let options = InstallOptions::default;
        std::fs::write(at("requirements.txt"), "-r more.txt\nflyte>=2\n").unwrap();
        std::fs::write(at("more.txt"), "six\n").unwrap();
        std::fs::write(
            at("s.py"),
            "# /// script\n# dependencies = [\"six<1.17\"]\n# ///\n",
        )
        .unwrap();
        let mut uv = std::process::Command::new(&world.toolchain.uv);
        uv.args(["build", "--quiet", "--wheel", "--out-dir"])
            .arg(at("dist"))
            .arg(project(&world));
        assert!(uv.status().unwrap().success());
        let requirements = Layer::Requirements {
            file: at("requirements.txt"),
            options: options(),
        };
        let script = Layer::UvScript {
            script: at("s.py"),
            options: options(),
        };
        let wheel = Layer::Wheels {
            package: "demo-project".into(),
            folder: at("dist"),
            options: options(),
        };
        let code = "import demo_module, six; print(six.__version__)";
        let version = printed(&world, vec![requirements, script, wheel], code).await;
        assert_eq!(version, "1.16.0");
    }

    #[tokio::test]
    async fn refusals_come_before_any_work() {
        let Some(world) = World::new() else { return };
        let mut image = world.image(&["six"]);
        image.base = Base::Uri("ghcr.io/x:1".into());
        let error = ensure(&world.toolchain, &image, false, &quiet)
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::ImageNeedsContainer);
        assert!(!world.toolchain.home.exists());
    }

    #[test]
    fn variables_are_expanded_in_order() {
        let pairs = [
            ("PATH", "/x:$PATH"),
            ("A", "one two"),
            ("B", "${A}/$PATH"),
            ("C", r"\$A ${NO:-d} ${A:+s} $NO. $"),
        ];
        let manifest = Manifest {
            env_vars: pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            workdir: None,
            sources: vec![],
            notes: vec![],
        };
        let done = manifest.environment(|name| (name == "PATH").then(|| "/bin".to_owned()));
        let values: Vec<&str> = done.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(
            values,
            ["/x:/bin", "one two", "one two//x:/bin", "$A d s . $"]
        );
    }

    #[test]
    fn only_uris_of_ours_are_located() {
        let dir = tempfile::tempdir().unwrap();
        let tag = "0123456789abcdef0123456789abcdef";
        let env = dir.path().join("envs").join(tag);
        std::fs::create_dir_all(env.join("bin")).unwrap();
        let package = env.join("lib/python3.12/site-packages/flyte");
        std::fs::create_dir_all(&package).unwrap();
        for file in [
            env.join("bin/python"),
            env.join("bin/fserve"),
            package.join("__init__.py"),
        ] {
            std::fs::write(file, "").unwrap();
        }
        let uri = format!("env.flyte.local/x:{tag}");
        assert_eq!(locate(dir.path(), &uri), None);
        let empty = r#"{"env_vars":[],"workdir":null,"sources":[],"notes":[]}"#;
        std::fs::write(env.join(MARKER), empty).unwrap();
        assert_eq!(locate(dir.path(), &uri), Some(env));
        for other in [
            format!("ghcr.io/x:{tag}"),
            "env.flyte.local/x:../../etc".into(),
            tag.into(),
        ] {
            assert_eq!(locate(dir.path(), &other), None, "{other}");
        }
    }
}

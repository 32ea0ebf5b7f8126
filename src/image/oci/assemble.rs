//! One image for one platform: what is put on its base, layer by layer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pep440_rs::Version;

use super::base::{Base, Facts, version_of};
use super::cache::{Cache, key};
use super::config::{self, Additions, Written};
use super::layer::{Layer, Node, Owner, Packed};
use super::packages::{Installer, Target};
use super::packing::{Packages, Packer};
use super::stage::Venv;
use super::{DEBIAN, Order};
use crate::image::build::off_thread;
use crate::image::digest::Sight;
use crate::image::env::{Manifest as Settings, Progress, Sink, Toolchain};
use crate::image::plan::{Copy, Plan, holds_sdk};
use crate::image::python::Asked;
use crate::image::registry::{self, Descriptor, MANIFEST, Platform};
use crate::image::secret::Secrets;
use crate::image::{Error, ImageHash, sdk};
use crate::spec::image::Base as Declared;
use crate::spec::{Image, Layer as Declaration, PythonVersion};

const VENV: &str = "/opt/venv";
const HOME: &str = "/home/flyte";
/// Whoever runs apps on `from_debian_base`.
const USER: &str = "1000";
const OWNER: Owner = Owner {
    uid: 1000,
    gid: 1000,
};
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Engines mount no more.
const MAX_LAYERS: usize = 125;
/// C libraries: of Debian 12, and of what is still met elsewhere.
const GLIBC_DEBIAN: u32 = 36;
const GLIBC_ANY: u32 = 28;

/// An image for one platform: all of it but the blobs, which are in the cache or in the base.
pub(super) struct Made {
    pub platform: Platform,
    pub base: Base,
    pub layers: Vec<(String, Packed)>,
    pub written: Written,
    pub notes: Vec<String>,
}

impl Made {
    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: MANIFEST.to_owned(),
            digest: self.written.digest.clone(),
            size: self.written.bytes.len() as u64,
            platform: Some(self.platform.clone()),
        }
    }
}

/// The environment for packages, and what has to be made for it to exist.
struct Home {
    venv: Venv,
    /// The base's interpreter, unless the environment is the base's own.
    interpreter: Option<PathBuf>,
}

/// What one image is made from.
pub(super) struct Assembly<'a> {
    pub toolchain: &'a Toolchain,
    pub image: &'a Image,
    pub order: &'a Order,
    pub content: &'a ImageHash,
    pub cache: &'a Cache,
    pub progress: &'a Sink<'a>,
}

impl Assembly<'_> {
    pub(super) async fn make(&self, platform: Platform) -> Result<Made, Error> {
        let plan = Plan::new(self.image)?;
        let python = python(self.image, &plan.python)?;
        let base = self.base(python, &platform).await?;
        let mut layers = Vec::new();
        let home = self.home(&base, python, &plan).await?;
        let beginning = self.beginning(&base, home.as_ref()).await?;
        self.pack_small(&mut layers, "user and environment", beginning)
            .await?;
        if let Some(home) = &home {
            // Beside packages: user and environment, this SDK, and the working directory.
            let others = base.manifest.layers.len() + together(&plan.copies).count() + 3;
            let limit = MAX_LAYERS.saturating_sub(others);
            let packages = self.packages(&plan, home, &platform, limit).await?;
            layers.extend(packages.layers);
            if holds_sdk(self.image) {
                layers.push(self.sdk(&home.venv, packages.tops).await?);
            }
        }
        let env = variables(&base, &plan, home.as_ref());
        let workdir = self.workdir(&base, &plan);
        if plan.workdir.is_some() {
            let mut layer = Layer::default();
            layer.folder(&workdir, self.owner(&base));
            let title = format!("with_workdir('{workdir}')");
            self.pack_small(&mut layers, &title, layer).await?;
        }
        let sight = Arc::new(Sight::new(plan.ignore));
        for copies in together(&plan.copies) {
            let (title, layer) = self.copies(copies, &sight, &base, &workdir).await?;
            self.pack_small(&mut layers, &title, layer).await?;
        }
        refuse_too_many(base.manifest.layers.len() + layers.len())?;
        let additions = Additions {
            layers: &layers,
            env: &env,
            workdir: Some(&workdir),
            user: self.is_debian().then_some(USER),
            content_hash: self.content.as_str(),
        };
        let written = config::write(&base, &additions)?;
        for note in &plan.notes {
            (self.progress)(Progress::Note(note));
        }
        Ok(Made {
            platform,
            written,
            base,
            layers,
            notes: plan.notes,
        })
    }

    fn is_debian(&self) -> bool {
        matches!(self.image.base, Declared::Debian { .. })
    }

    async fn base(&self, python: PythonVersion, platform: &Platform) -> Result<Base, Error> {
        let reference = match &self.image.base {
            Declared::Uri(uri) => uri.clone(),
            Declared::Debian { .. } | Declared::Dockerfile(_) | Declared::Ref(_) => {
                let base = self.order.base.as_deref().unwrap_or(DEBIAN);
                base.replace("{python}", &python.to_string())
            }
        };
        Base::find(registry::reference(&reference)?, platform).await
    }

    /// Where packages go; `None` when there are none.
    async fn home(
        &self,
        base: &Base,
        asked: PythonVersion,
        plan: &Plan,
    ) -> Result<Option<Home>, Error> {
        if plan.steps.is_empty() && !holds_sdk(self.image) && !self.is_debian() {
            return Ok(None);
        }
        let is_asked = self.is_debian() || self.image.python_is_explicit;
        let own = base.env("VIRTUAL_ENV").map(PathBuf::from);
        let found = match base.told_python() {
            Some(told) => vec![told],
            None => interpreters(&base.facts(self.cache).await?, own.as_deref()),
        };
        let fits = |(version, _): &&(PythonVersion, PathBuf)| *version == asked;
        let only = || found.first().filter(|_| found.len() == 1 && !is_asked);
        let chosen = found.iter().find(fits).or_else(only);
        let Some((python, interpreter)) = chosen.cloned() else {
            return Err(Error::Invalid {
                method: "python_version",
                problem: no_python(base, asked, &found),
            });
        };
        Ok(Some(Home {
            interpreter: own.is_none().then_some(interpreter),
            venv: Venv {
                path: own.unwrap_or_else(|| VENV.into()),
                python,
            },
        }))
    }

    /// The user who runs the app, and an environment without packages.
    async fn beginning(&self, base: &Base, home: Option<&Home>) -> Result<Layer, Error> {
        let mut layer = Layer::default();
        if self.is_debian() {
            accounts(&mut layer, &base.facts(self.cache).await?);
        }
        if let Some(Home {
            venv,
            interpreter: Some(interpreter),
        }) = home
        {
            environment(&mut layer, venv, interpreter);
        }
        Ok(layer)
    }

    async fn packages(
        &self,
        plan: &Plan,
        home: &Home,
        platform: &Platform,
        limit: usize,
    ) -> Result<Packages, Error> {
        if plan.steps.is_empty() {
            return Ok(Packages::default());
        }
        let is_ours = self.is_debian() && self.order.base.is_none();
        let glibc = if is_ours { GLIBC_DEBIAN } else { GLIBC_ANY };
        let target = Target::new(home.venv.python, platform, glibc)?;
        let steps = plan.steps.as_slice();
        let (secrets, missing) = Secrets::find_for_installers(&plan.secrets())?;
        for note in &missing {
            (self.progress)(Progress::Note(note));
        }
        let installer = Installer::new(
            self.toolchain,
            self.cache,
            &target,
            steps,
            secrets,
            self.progress,
        )?;
        let declared = only_packages(self.image);
        let packages = installer.packages(&declared, self.order.force).await?;
        let packer = Packer {
            installer: &installer,
            cache: self.cache,
            venv: &home.venv,
            packing: self.order.packing,
            limit,
        };
        packer.pack(&packages).await
    }

    /// This SDK, less what the image's own packages bring along.
    async fn sdk(&self, venv: &Venv, tops: BTreeSet<String>) -> Result<(String, Packed), Error> {
        let payload = self.toolchain.sdk.clone();
        let is_brought = |entry: &&PathBuf| {
            let name = entry.file_name().unwrap_or_default();
            !sdk::is_ours(name) && tops.contains(&*name.to_string_lossy())
        };
        let (brought, own): (Vec<_>, Vec<_>) = payload.entries.iter().partition(is_brought);
        let (at, brought) = (venv.path.to_string_lossy(), format!("{brought:?}"));
        let python = venv.python.to_string();
        let key = key(&[
            "sdk",
            &payload.identity,
            &at,
            &python,
            &brought,
            self.order.packing.name(),
        ]);
        let title = "this SDK".to_owned();
        if let Some(packed) = Packed::recall(self.cache, &key) {
            return Ok((title, packed));
        }
        let own: Vec<PathBuf> = own.into_iter().cloned().collect();
        let (venv, cache, packing) = (venv.clone(), self.cache.clone(), self.order.packing);
        let packed = off_thread(move || {
            let mut layer = Layer::default();
            let sight = Sight::default();
            for entry in &own {
                let to = venv
                    .site_packages()
                    .join(entry.file_name().unwrap_or_default());
                add(&mut layer, &to, entry, &sight, Owner::default())?;
            }
            for (name, module) in sdk::PROGRAMS {
                let text = sdk::launcher(&venv.interpreter(), module).into_bytes();
                let to = venv.path.join("bin").join(name);
                layer.add(to, 0o755, Owner::default(), Node::Text(text));
            }
            Packed::make(&cache, &key, packing, &layer)
        });
        Ok((title, packed.await?))
    }

    /// The layer of what is copied together, and what it is called.
    async fn copies(
        &self,
        copies: &[Copy],
        sight: &Arc<Sight>,
        base: &Base,
        workdir: &str,
    ) -> Result<(String, Layer), Error> {
        let mut whole = Layer::default();
        let mut title = String::new();
        for copy in copies {
            let (to, layer) = self.copy(copy, sight, base, workdir).await?;
            whole.entries.extend(layer.entries);
            if title.is_empty() {
                let name = copy.src.file_name().unwrap_or_default().to_string_lossy();
                title = format!("`{name}` as `{}`", to.display());
            }
        }
        if copies.len() > 1 {
            title = format!("{title} and {} more", copies.len() - 1);
        }
        Ok((title, whole))
    }

    /// The layer of a file or folder of this machine, and where it goes.
    async fn copy(
        &self,
        copy: &Copy,
        sight: &Arc<Sight>,
        base: &Base,
        workdir: &str,
    ) -> Result<(PathBuf, Layer), Error> {
        let (owner, workdir) = (self.owner(base), PathBuf::from(workdir));
        let to = absolute(&self.root(base), &copy.source.dst);
        let (src, sight) = (copy.src.clone(), Arc::clone(sight));
        off_thread(move || {
            let mut layer = Layer::default();
            // Folders between are the app's as well; those above it are the base's.
            let between = to
                .ancestors()
                .skip(1)
                .take_while(|folder| *folder != workdir);
            if to.starts_with(&workdir) && workdir != Path::new("/") {
                between.for_each(|folder| layer.folder(folder, owner));
            }
            add(&mut layer, &to, &src, &sight, owner)?;
            Ok((to, layer))
        })
        .await
    }

    /// Packs a layer that is named by what it holds.
    async fn pack_small(
        &self,
        layers: &mut Vec<(String, Packed)>,
        title: &str,
        layer: Layer,
    ) -> Result<(), Error> {
        if layer.entries.is_empty() {
            return Ok(());
        }
        let (cache, packing) = (self.cache.clone(), self.order.packing);
        let packed = off_thread(move || Packed::of_files(&cache, packing, &layer));
        layers.push((title.to_owned(), packed.await?));
        Ok(())
    }

    fn workdir(&self, base: &Base, plan: &Plan) -> String {
        let root = self.root(base);
        let workdir = match &plan.workdir {
            Some(workdir) => absolute(&root, workdir),
            None => root,
        };
        workdir.to_string_lossy().into_owned()
    }

    /// Where relative paths begin.
    fn root(&self, base: &Base) -> PathBuf {
        if self.is_debian() {
            return HOME.into();
        }
        base.text("WorkingDir").unwrap_or("/").into()
    }

    fn owner(&self, base: &Base) -> Owner {
        if self.is_debian() {
            return OWNER;
        }
        // A name would have to be looked up in the base; files of root can be read by all.
        let user = base.text("User").unwrap_or_default();
        let (uid, gid) = user.split_once(':').unwrap_or((user, user));
        match (uid.parse(), gid.parse()) {
            (Ok(uid), Ok(gid)) => Owner { uid, gid },
            _ => Owner::default(),
        }
    }
}

/// Files that stand next to each other share a layer: code may be hundreds of them.
fn together(copies: &[Copy]) -> impl Iterator<Item = &[Copy]> {
    copies.chunk_by(|one, next| !one.source.is_folder && !next.source.is_folder)
}

fn refuse_too_many(layers: usize) -> Result<(), Error> {
    if layers <= MAX_LAYERS {
        return Ok(());
    }
    Err(Error::Invalid {
        method: "Image",
        problem: format!("it has {layers} layers, and engines mount no more than {MAX_LAYERS}"),
    })
}

/// The variables of the base, of the environment, and those declared, expanded in order.
fn variables(base: &Base, plan: &Plan, home: Option<&Home>) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    for pair in base.env_pairs() {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        set(&mut env, name, value.to_owned());
    }
    if let Some(Home {
        venv,
        interpreter: Some(_),
    }) = home
    {
        let path = get(&env, "PATH").unwrap_or_else(|| DEFAULT_PATH.to_owned());
        let venv = venv.path.to_string_lossy();
        set(&mut env, "VIRTUAL_ENV", venv.clone().into_owned());
        set(&mut env, "PATH", format!("{venv}/bin:{path}"));
    }
    let declared = Settings {
        env_vars: plan.env_vars.clone(),
        workdir: None,
        sources: Vec::new(),
        notes: Vec::new(),
    };
    let known = env.clone();
    for (name, value) in declared.environment(|name| get(&known, name)) {
        set(&mut env, &name, value);
    }
    env
}

/// The Python of an image: as asked for, else the newest that its script allows.
fn python(image: &Image, asked: &Asked) -> Result<PythonVersion, Error> {
    let wanted = match asked {
        Asked::Minor(version) => return Ok(*version),
        Asked::Script(wanted) => wanted,
    };
    let newest_first = (10..=14)
        .rev()
        .map(|minor| PythonVersion { major: 3, minor });
    std::iter::once(image.python)
        .chain(newest_first)
        .find(|version| {
            let release =
                |micro: u64| Version::new([version.major.into(), version.minor.into(), micro]);
            (0..=30).any(|micro| wanted.contains(&release(micro)))
        })
        .ok_or_else(|| Error::Invalid {
            method: "from_uv_script",
            problem: format!("no Python from 3.10 to 3.14 meets `requires-python = \"{wanted}\"`"),
        })
}

fn no_python(base: &Base, asked: PythonVersion, found: &[(PythonVersion, PathBuf)]) -> String {
    let found: Vec<_> = found
        .iter()
        .map(|(_, path)| path.display().to_string())
        .collect();
    let held = match found.as_slice() {
        [] => "no Python".to_owned(),
        some => format!("`{}`", some.join("`, `")),
    };
    format!(
        "the image is for Python {asked}, and its base `{}` holds {held}",
        base.reference
    )
}

/// The interpreters of a base, or of its own environment; the usual places first.
fn interpreters(facts: &Facts, venv: Option<&Path>) -> Vec<(PythonVersion, PathBuf)> {
    const USUAL: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];
    let rank = |path: &Path| {
        let folder = path.parent().unwrap_or(path);
        USUAL
            .iter()
            .position(|usual| folder == Path::new(usual))
            .unwrap_or(USUAL.len())
    };
    let is_own = |path: &&PathBuf| venv.is_none_or(|venv| path.starts_with(venv));
    let mut found: Vec<_> = facts
        .pythons
        .iter()
        .filter(is_own)
        .filter_map(|path| Some((version_of(path)?, path.clone())))
        .collect();
    found.sort_by_key(|(version, path)| (rank(path), *version));
    let mut seen = BTreeSet::new();
    found.retain(|(version, _)| seen.insert(*version));
    found
}

/// A user with a name and a home, unless the base has one of that number.
fn accounts(layer: &mut Layer, facts: &Facts) {
    let lacks = |text: &str| {
        !text
            .lines()
            .any(|line| line.split(':').nth(2) == Some(USER))
    };
    let files = [
        (
            "/etc/passwd",
            &facts.passwd,
            format!("flyte:x:{USER}:{USER}::{HOME}:/bin/bash"),
        ),
        ("/etc/group", &facts.group, format!("flyte:x:{USER}:")),
    ];
    for (path, text, line) in files {
        if let Some(text) = text.as_ref().filter(|text| lacks(text)) {
            let text = format!("{}\n{line}\n", text.trim_end_matches('\n'));
            layer.add(path, 0o644, Owner::default(), Node::Text(text.into_bytes()));
        }
    }
    layer.folder(HOME, OWNER);
}

/// What `python -m venv` would make, were it run in the base.
fn environment(layer: &mut Layer, venv: &Venv, interpreter: &Path) {
    let root = Owner::default();
    let python = venv.python;
    let home = interpreter.parent().unwrap_or(interpreter).display();
    let settings = format!(
        "home = {home}\nimplementation = CPython\nversion_info = {python}\ninclude-system-site-packages = false\n"
    );
    let site = venv.site_packages();
    for folder in site
        .ancestors()
        .take_while(|folder| folder.starts_with(&venv.path))
    {
        layer.folder(folder, root);
    }
    let bin = venv.path.join("bin");
    layer.folder(&bin, root);
    layer.add(
        venv.path.join("pyvenv.cfg"),
        0o644,
        root,
        Node::Text(settings.into_bytes()),
    );
    layer.add(
        bin.join("python"),
        0o777,
        root,
        Node::Link(interpreter.to_path_buf()),
    );
    for name in ["python3".to_owned(), format!("python{python}")] {
        layer.add(bin.join(name), 0o777, root, Node::Link("python".into()));
    }
}

/// Adds a file of this machine, or what is to be seen of a folder.
fn add(
    layer: &mut Layer,
    to: &Path,
    from: &Path,
    sight: &Sight,
    owner: Owner,
) -> Result<(), Error> {
    if from.is_dir() {
        layer.found(to, from, sight.walk(from)?, owner);
        return Ok(());
    }
    layer.file(to, from, owner)
}

/// `path` as seen from `root`, without `.`.
fn absolute(root: &Path, path: &str) -> PathBuf {
    root.join(path).components().collect()
}

/// What decides the packages, and nothing else: files may change without a new decision.
fn only_packages(image: &Image) -> Image {
    let is_package = |layer: &&Declaration| installs(layer);
    Image {
        name: None,
        registry: None,
        base: Declared::Debian {
            install_flyte: false,
        },
        platforms: Vec::new(),
        layers: image.layers.iter().filter(is_package).cloned().collect(),
        ..image.clone()
    }
}

fn installs(layer: &Declaration) -> bool {
    match layer {
        Declaration::PipPackages { .. }
        | Declaration::Requirements { .. }
        | Declaration::UvProject { .. }
        | Declaration::PoetryProject { .. }
        | Declaration::UvScript { .. }
        | Declaration::Wheels { .. } => true,
        Declaration::PixiProject { .. }
        | Declaration::PixiScript { .. }
        | Declaration::AptPackages { .. }
        | Declaration::Commands { .. }
        | Declaration::EnvVars(_)
        | Declaration::Workdir(_)
        | Declaration::SourceFile { .. }
        | Declaration::SourceFolder { .. }
        | Declaration::CodeBundle { .. }
        | Declaration::DockerIgnore(_) => false,
    }
}

fn get(env: &[(String, String)], name: &str) -> Option<String> {
    let found = env.iter().find(|(own, _)| own == name);
    found.map(|(_, value)| value.clone())
}

fn set(env: &mut Vec<(String, String)>, name: &str, value: String) {
    match env.iter_mut().find(|(own, _)| own == name) {
        Some((_, own)) => *own = value,
        None => env.push((name.to_owned(), value)),
    }
}

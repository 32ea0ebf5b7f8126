//! What a git repository says about its own files: the excludes beside the `.gitignore` files, and
//! which files it tracks.
//!
//! Read from the repository's own files, never by running `git`, which may be missing, slow to
//! start, or refuse. The index is read when the first file turns up that a rule leaves out: all
//! others are in the list whether tracked or not. Settings for one worktree alone
//! (`config.worktree`), `GIT_*` variables that name another repository, and the content of folders
//! that a sparse checkout does not have are not looked at.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use gix_config::path::interpolate;
use gix_config::{File, Source, file};
use gix_index::hash;

use super::rules::{Case, Rules};

/// The folder, or the file that leads to it, which makes a folder a repository.
pub const MARK: &str = ".git";

/// A repository with a working tree.
#[derive(Debug)]
pub struct Repository {
    /// What holds in all of it, strongest first, weaker than any `.gitignore`.
    pub excludes: Vec<Arc<Rules>>,
    pub case: Case,
    /// Where names relative to its top begin in names relative to where the walk's names begin.
    pub start: usize,
    index_path: PathBuf,
    object_hash: hash::Kind,
    tracked: OnceLock<Tracked>,
}

impl Repository {
    /// The repository whose working tree is `top`, if there is one. Only what cannot be read of it
    /// is told to `warn`.
    pub fn open(top: &Path, start: usize, warn: &dyn Fn(String)) -> Option<Self> {
        let own = git_folder(top)?;
        let shared = match fs::read_to_string(own.join("commondir")) {
            Ok(text) => own.join(text.trim_end()),
            Err(_) => own.clone(),
        };
        let config = configuration(&own, &shared).unwrap_or_else(|error| {
            warn(format!(
                "the git configuration for `{}` is not used: {error}",
                top.display()
            ));
            File::default()
        });
        let own_rules = shared.join("info/exclude");
        let excludes = [Some(own_rules), excludes_file(&config, top)];
        let is_set = |key: &str| matches!(config.boolean(key), Ok(Some(true)));
        Some(Self {
            excludes: excludes
                .into_iter()
                .flatten()
                .filter_map(|path| read_excludes(&path, warn))
                .collect(),
            case: if is_set("core.ignoreCase") {
                Case::Fold
            } else {
                Case::Sensitive
            },
            start,
            index_path: own.join("index"),
            object_hash: match config.string("extensions.objectFormat") {
                Some(format) if format == "sha256" => hash::Kind::Sha256,
                Some(_) | None => hash::Kind::Sha1,
            },
            tracked: OnceLock::new(),
        })
    }

    /// What the index holds; read once, and only if asked for.
    pub fn tracked(&self, warn: &dyn Fn(String)) -> &Tracked {
        self.tracked.get_or_init(|| {
            Tracked::read(&self.index_path, self.object_hash).unwrap_or_else(|reason| {
                warn(format!(
                    "`{}` cannot be read, so tracked files that a rule matches are left out: {reason}",
                    self.index_path.display()
                ));
                Tracked(None)
            })
        })
    }
}

/// The folder with the repository's own files.
fn git_folder(top: &Path) -> Option<PathBuf> {
    let mark = top.join(MARK);
    let folder = if fs::metadata(&mark).ok()?.is_dir() {
        mark
    } else {
        // In a worktree and in a submodule it is a file that leads there.
        let text = fs::read_to_string(&mark).ok()?;
        top.join(text.strip_prefix("gitdir:")?.trim())
    };
    folder.join("HEAD").exists().then_some(folder)
}

/// All settings that hold in a repository, the strongest last.
fn configuration(own: &Path, shared: &Path) -> Result<File, String> {
    let home = std::env::home_dir();
    let mut variable = |name: &str| std::env::var_os(name);
    let mut files: Vec<file::Metadata> = [Source::System, Source::Git, Source::User]
        .into_iter()
        .filter_map(|source| {
            let path = source.storage_location(&mut variable)?;
            Some(file::Metadata::from(source).at(path))
        })
        .collect();
    files.push(file::Metadata::from(Source::Local).at(shared.join("config")));
    let conditional = file::includes::conditional::Context {
        git_dir: Some(own),
        branch_name: None,
    };
    let options = file::init::Options {
        includes: file::includes::Options::follow(to_home(home.as_deref()), conditional),
        lossy: true,
        ignore_io_errors: true,
    };
    let (mut buffer, must_exist) = (Vec::new(), false);
    File::from_paths_metadata_buf(&mut files.into_iter(), &mut buffer, must_exist, options)
        .map(Option::unwrap_or_default)
        .map_err(|error| error.to_string())
}

fn to_home(home: Option<&Path>) -> interpolate::Context<'_> {
    interpolate::Context {
        git_install_dir: None,
        home_dir: home,
        home_for_user: Some(interpolate::home_for_user),
    }
}

/// The user's own excludes: what is hidden from git is not meant to be shipped either.
fn excludes_file(config: &File, top: &Path) -> Option<PathBuf> {
    if let Some(path) = config.path("core.excludesFile") {
        let home = std::env::home_dir();
        let path = path.interpolate(to_home(home.as_deref())).ok()?;
        return Some(top.join(path));
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    let folder = match variable("XDG_CONFIG_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => std::env::home_dir()?.join(".config"),
    };
    Some(folder.join("git/ignore"))
}

fn read_excludes(path: &Path, warn: &dyn Fn(String)) -> Option<Arc<Rules>> {
    match fs::read(path) {
        Ok(bytes) => Some(Arc::new(Rules::parse(path, bytes))),
        Err(error) => {
            let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
            if !absent.contains(&error.kind()) && !path.is_dir() {
                warn(format!("`{}` is not used: {error}", path.display()));
            }
            None
        }
    }
}

/// The files that a repository tracks; none where it has no index.
#[derive(Debug)]
pub struct Tracked(Option<gix_index::State>);

/// What the index knows about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Nothing,
    Itself,
    /// A folder with tracked files somewhere below it.
    Below,
}

impl Tracked {
    /// Reads an index of any version, split ones included.
    pub fn read(path: &Path, object_hash: hash::Kind) -> Result<Self, String> {
        let options = gix_index::decode::Options {
            thread_limit: Some(1),
            ..gix_index::decode::Options::default()
        };
        if !path.exists() {
            return Ok(Self(None));
        }
        // Its checksum is not checked, which would double the time.
        gix_index::File::at(path, object_hash, true, options)
            .map(|file| Self(Some(file.into_parts().0)))
            .map_err(|error| error.to_string())
    }

    /// Looks a name up, relative to the top of the repository.
    pub fn known(&self, name: &[u8], is_dir: bool) -> Known {
        let Some(index) = &self.0 else {
            return Known::Nothing;
        };
        let entry = index
            .entry_range(name.into())
            .and_then(|range| index.entries().get(range)?.first());
        let is_submodule = entry.is_some_and(|entry| entry.mode.is_submodule());
        if !is_dir {
            return match entry {
                Some(_) if !is_submodule => Known::Itself,
                Some(_) | None => Known::Nothing,
            };
        }
        let mut folder = name.to_vec();
        folder.push(b'/');
        if is_submodule {
            Known::Itself
        } else if index
            .prefixed_entries_range(folder.as_slice().into())
            .is_some()
        {
            Known::Below
        } else {
            Known::Nothing
        }
    }
}

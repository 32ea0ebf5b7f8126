//! Digests of files and folders, and the one walk that hashing and copying share.
//!
//! Because both use [`Sight::walk`], what is hashed is exactly what is copied.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rayon::prelude::*;

use super::error::Error;
use super::ignore::Ignore;
use crate::files::Digest;
use crate::files::stat_cache::{StatCache, State, is_settled, now_ns};

/// Never part of an image: history, environments and caches change without the project changing.
const LEFT_OUT: [&str; 3] = [".git", ".venv", "__pycache__"];

/// What stands at a path below a root.
#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    Folder,
    File {
        executable: bool,
    },
    /// Kept as it is, as `COPY` does.
    Link {
        target: PathBuf,
    },
}

/// One entry below a root.
#[derive(Debug)]
pub(super) struct Entry {
    /// Relative to the root.
    pub path: PathBuf,
    pub kind: Kind,
}

/// What becomes of the folders that packages are built from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Projects {
    #[default]
    Seen,
    /// Not looked into: whoever builds them writes into them.
    LeftOut,
}

/// How the files of an image are looked at: which of them count, and what is known of them.
#[derive(Default)]
pub(super) struct Sight {
    ignore: Ignore,
    projects: Projects,
    known: StatCache,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    files: Vec<(State, [Digest; 1])>,
    /// Whether a file had to be read.
    is_new: bool,
}

impl Sight {
    /// Sees all but what `ignore` leaves out.
    pub(super) fn new(ignore: Ignore) -> Self {
        Self {
            ignore,
            ..Self::default()
        }
    }

    /// Sees or leaves out the folders that packages are built from.
    pub(super) fn with_projects(self, projects: Projects) -> Self {
        Self { projects, ..self }
    }

    /// Believes what was remembered at `cache` of files that have not changed since.
    pub(super) fn remembering(self, cache: &Path) -> Self {
        Self {
            known: StatCache::load(cache),
            ..self
        }
    }

    /// Remembers at `cache` what was seen. A cache that cannot be written costs the next look.
    pub(super) fn remember(&self, cache: &Path) {
        let seen = lock(&self.seen);
        if !seen.is_new {
            return;
        }
        let files = seen
            .files
            .iter()
            .map(|(state, digest)| (*state, &digest[..]));
        if let Err(error) = StatCache::save(cache, files) {
            tracing::debug!(%error, "what the files of an image hold is not remembered");
        }
    }

    /// Everything below `root` that counts, in an order that does not depend on the file system.
    pub(super) fn walk(&self, root: &Path) -> Result<Vec<Entry>, Error> {
        // A link given as the root itself is followed; links below it are kept.
        let real = root.canonicalize().map_err(Error::unreadable(root))?;
        let may_take_back = self.ignore.may_take_back();
        let mut entries = walkdir::WalkDir::new(&real)
            .min_depth(1)
            .into_iter()
            .filter_entry(|entry| {
                let goes_on = entry.file_type().is_dir() && may_take_back;
                !is_left_out(entry.file_name())
                    && (goes_on || self.ignore.is_empty() || !self.ignore.leaves_out(entry.path()))
            })
            .filter_map(|entry| entry_of(&real, entry).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        if may_take_back {
            self.drop_left_out(&real, &mut entries);
        }
        Ok(entries)
    }

    /// Drops the folders that were walked only for what they may have given back.
    fn drop_left_out(&self, root: &Path, entries: &mut Vec<Entry>) {
        let kept: Vec<PathBuf> = entries
            .iter()
            .filter(|entry| !self.ignore.leaves_out(&root.join(&entry.path)))
            .map(|entry| entry.path.clone())
            .collect();
        // Sorted, so that what lies below a folder stands right behind it.
        let holds_kept = |folder: &Path| {
            let at = kept.partition_point(|path| path.as_path() < folder);
            kept.get(at).is_some_and(|path| path.starts_with(folder))
        };
        entries.retain(|entry| holds_kept(&entry.path));
    }

    /// Digest of a folder: names, executable bits, link targets and contents.
    pub(super) fn tree(&self, root: &Path) -> Result<String, Error> {
        let entries = self.walk(root)?;
        let payloads = entries
            .par_iter()
            .map(|entry| self.payload(root, entry))
            .collect::<Result<Vec<_>, _>>()?;
        let mut hasher = blake3::Hasher::new();
        for (entry, (kind, payload)) in entries.iter().zip(payloads) {
            hasher.update(&[kind]);
            for part in [entry.path.as_os_str().as_encoded_bytes(), &payload] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn payload(&self, root: &Path, entry: &Entry) -> Result<(u8, Vec<u8>), Error> {
        Ok(match &entry.kind {
            Kind::Folder => (b'd', Vec::new()),
            Kind::File { executable } => {
                let digest = self.file(&root.join(&entry.path))?;
                (if *executable { b'x' } else { b'f' }, digest.into_bytes())
            }
            Kind::Link { target } => (b'l', target.as_os_str().as_encoded_bytes().to_vec()),
        })
    }

    /// Digest of the bytes of a file, which is read only when it has changed.
    fn file(&self, path: &Path) -> Result<String, Error> {
        let read_at_ns = now_ns();
        let metadata = path.metadata().map_err(Error::unreadable(path))?;
        let state = State::of(&metadata);
        if let Some(&[digest]) = self.known.digests(&state, 1) {
            lock(&self.seen).files.push((state, [digest]));
            return Ok(digest.to_string());
        }
        let digest = hash(path)?;
        let mut seen = lock(&self.seen);
        seen.is_new = true;
        if is_settled(&state.stamp, read_at_ns) {
            seen.files.push((state, [digest.into()]));
        }
        Ok(digest.to_hex().to_string())
    }

    /// Digest of a file or folder, whichever it is.
    pub(super) fn any(&self, path: &Path) -> Result<String, Error> {
        if path.is_dir() {
            self.tree(path)
        } else {
            file(path)
        }
    }

    /// Digest of a folder or archive that a package is built from.
    pub(super) fn package(&self, path: &Path) -> Result<String, Error> {
        match self.projects {
            Projects::LeftOut if path.is_dir() => Ok(String::new()),
            Projects::Seen | Projects::LeftOut => self.any(path),
        }
    }

    /// Copies what [`Sight::walk`] sees below `source` to `target`.
    pub(super) fn copy_tree(&self, source: &Path, target: &Path) -> Result<(), Error> {
        std::fs::create_dir_all(target).map_err(Error::store("create", target))?;
        for entry in self.walk(source)? {
            let to = target.join(&entry.path);
            match entry.kind {
                Kind::Folder => std::fs::create_dir_all(&to),
                Kind::File { .. } => std::fs::copy(source.join(&entry.path), &to).map(drop),
                Kind::Link { target } => std::os::unix::fs::symlink(target, &to),
            }
            .map_err(Error::store("write", &to))?;
        }
        Ok(())
    }
}

/// A thread that panicked has pushed all of an entry or nothing.
fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn is_left_out(name: &OsStr) -> bool {
    LEFT_OUT.iter().any(|left_out| name == *left_out)
}

/// `None` for what no image can hold: opening a pipe waits for a writer, and a socket is no file.
fn entry_of(
    root: &Path,
    entry: walkdir::Result<walkdir::DirEntry>,
) -> Result<Option<Entry>, Error> {
    let entry = entry.map_err(|error| {
        let path = error.path().unwrap_or(root).to_path_buf();
        Error::Unreadable {
            path,
            source: error.into(),
        }
    })?;
    let kind = if entry.file_type().is_dir() {
        Kind::Folder
    } else if entry.file_type().is_symlink() {
        let target = std::fs::read_link(entry.path()).map_err(Error::unreadable(entry.path()))?;
        Kind::Link { target }
    } else if entry.file_type().is_file() {
        Kind::File {
            executable: is_executable(entry.path())?,
        }
    } else {
        return Ok(None);
    };
    let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
    Ok(Some(Entry {
        path: path.to_path_buf(),
        kind,
    }))
}

/// Whether the owner may execute the file.
pub(super) fn is_executable(path: &Path) -> Result<bool, Error> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = path.metadata().map_err(Error::unreadable(path))?;
    Ok(metadata.permissions().mode() & 0o100 != 0)
}

/// Digest of the bytes of a file.
pub(super) fn file(path: &Path) -> Result<String, Error> {
    Ok(hash(path)?.to_hex().to_string())
}

/// Refuses a pipe, a socket or a device that was named where a file is meant.
pub(super) fn refuse_special(path: &Path) -> Result<(), Error> {
    let metadata = path.metadata().map_err(Error::unreadable(path))?;
    if metadata.is_file() || metadata.is_dir() {
        return Ok(());
    }
    let problem = io::Error::other("it is neither a file nor a folder");
    Err(Error::unreadable(path)(problem))
}

fn hash(path: &Path) -> Result<blake3::Hash, Error> {
    refuse_special(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut reader = std::fs::File::open(path).map_err(Error::unreadable(path))?;
    std::io::copy(&mut reader, &mut hasher).map_err(Error::unreadable(path))?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn tree(root: &Path) -> Result<String, Error> {
        Sight::default().tree(root)
    }

    #[test]
    fn the_order_of_creation_does_not_matter() {
        let one = folder(&[("a/x", "1"), ("b/y", "2"), ("c", "3")]);
        let two = folder(&[("c", "3"), ("b/y", "2"), ("a/x", "1")]);
        assert_eq!(tree(one.path()).unwrap(), tree(two.path()).unwrap());
    }

    #[test]
    fn separators_bits_and_targets_count() {
        let plain = folder(&[("ab/c", "1")]);
        let before = tree(plain.path()).unwrap();
        assert_ne!(before, tree(folder(&[("a/bc", "1")]).path()).unwrap());
        let file = plain.path().join("ab/c");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let executable = tree(plain.path()).unwrap();
        assert_ne!(before, executable);
        std::os::unix::fs::symlink("c", plain.path().join("ab/l")).unwrap();
        let linked = tree(plain.path()).unwrap();
        assert_ne!(executable, linked);
    }

    #[test]
    fn a_copy_has_the_digest_of_its_source() {
        let source = folder(&[
            ("a/x", "1"),
            (".git/HEAD", "r"),
            ("a/__pycache__/x.pyc", "b"),
        ]);
        let target = tempfile::tempdir().unwrap();
        let sight = Sight::default();
        sight.copy_tree(source.path(), target.path()).unwrap();
        assert!(!target.path().join(".git").exists());
        assert!(!target.path().join("a/__pycache__").exists());
        assert_eq!(tree(source.path()).unwrap(), tree(target.path()).unwrap());
    }

    #[test]
    fn pipes_and_sockets_are_left_out_and_refused_by_name() {
        let source = folder(&[("a", "1")]);
        let before = tree(source.path()).unwrap();
        let pipe = source.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let socket = std::os::unix::net::UnixListener::bind(source.path().join("socket"));
        assert!(socket.is_ok());
        assert_eq!(tree(source.path()).unwrap(), before);
        let target = tempfile::tempdir().unwrap();
        let copied = Sight::default().copy_tree(source.path(), target.path());
        copied.unwrap();
        assert!(!target.path().join("pipe").exists());
        let error = Sight::default().any(&pipe).unwrap_err();
        assert!(error.to_string().contains("pipe"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Sight::default()
            .any(Path::new("/nowhere/at/all"))
            .unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }

    #[test]
    fn what_is_ignored_neither_counts_nor_travels() {
        let source = folder(&[
            (".dockerignore", "*\n!app.py\n!data/keep/*.csv\n"),
            ("app.py", "1"),
            ("data/keep/a.csv", "2"),
            ("data/keep/a.log", "3"),
            ("data/other/b.csv", "4"),
        ]);
        let image = |rules: &Path| crate::spec::Image {
            layers: vec![crate::spec::Layer::DockerIgnore(rules.to_path_buf())],
            ..super::super::hash::tests::image(vec![])
        };
        let rules = source.path().join(".dockerignore");
        let sight = || Sight::new(Ignore::of_image(&image(&rules)).unwrap());
        let seen: Vec<_> = sight().walk(source.path()).unwrap();
        let names: Vec<_> = seen.iter().map(|e| e.path.to_str().unwrap()).collect();
        assert_eq!(names, ["app.py", "data", "data/keep", "data/keep/a.csv"]);
        let target = tempfile::tempdir().unwrap();
        sight().copy_tree(source.path(), target.path()).unwrap();
        let before = sight().tree(source.path()).unwrap();
        assert_eq!(before, tree(target.path()).unwrap());
        fs::write(source.path().join("data/keep/a.log"), "changed").unwrap();
        assert_eq!(sight().tree(source.path()).unwrap(), before);
    }

    #[test]
    fn what_is_remembered_is_the_same_and_changes_are_seen() {
        let source = folder(&[("a/x", "1"), ("b", "2")]);
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        for name in ["a/x", "b"] {
            let file = fs::File::open(source.path().join(name)).unwrap();
            file.set_modified(old).unwrap();
        }
        let cache = source.path().join("../sight-cache");
        let cache = tempfile::tempdir_in(cache.parent().unwrap()).unwrap();
        let cache = cache.path().join("stat");
        // The change of the times themselves is recent; nothing recent is believed.
        std::thread::sleep(std::time::Duration::from_millis(40));
        let first = Sight::default().remembering(&cache);
        let before = first.tree(source.path()).unwrap();
        first.remember(&cache);
        let second = Sight::default().remembering(&cache);
        assert_eq!(second.tree(source.path()).unwrap(), before);
        assert!(!lock(&second.seen).is_new, "nothing had to be read");
        fs::write(source.path().join("b"), "3").unwrap();
        let third = Sight::default().remembering(&cache);
        assert_ne!(third.tree(source.path()).unwrap(), before);
    }
}

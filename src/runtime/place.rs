//! Puts a file or a folder at its target, whole or not at all.
//!
//! Everything is made next to the target under a temporary name and then renamed, so a reader
//! never meets half a file and an interrupted start leaves nothing behind that looks finished.
//! Does not know why something goes where it goes; `materialize` decides that. Nor does it know
//! how things from elsewhere arrive: whoever fetches them is handed a place to put them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use rayon::prelude::*;
use walkdir::WalkDir;

use super::Error;
use crate::storage;

/// Prefix of unfinished copies; they are removed when a copy fails.
const STAGE_PREFIX: &str = ".fserve-";

/// Where something goes, with the parameter's name for errors.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub name: &'a str,
    pub path: &'a Path,
    /// A folder of files that never change; those are linked instead of copied.
    pub shared: Option<&'a Path>,
}

impl Target<'_> {
    fn not_writable(&self, path: &Path) -> impl FnOnce(io::Error) -> Error + use<'_> {
        let (name, path) = (self.name.to_owned(), path.to_owned());
        move |source| Error::NotWritable { name, path, source }
    }

    fn not_readable(&self, path: &Path) -> impl FnOnce(io::Error) -> Error + use<'_> {
        let (name, path) = (self.name.to_owned(), path.to_owned());
        move |source| Error::NotReadable { name, path, source }
    }

    fn holds(&self, source: &Path) -> bool {
        match (source.canonicalize(), self.path.canonicalize()) {
            (Ok(source), Ok(target)) => source == target,
            _ => false,
        }
    }

    /// Copies one file to exactly this path.
    ///
    /// # Errors
    /// `runtime.parameter` naming the parameter and the path that cannot be read or written.
    pub fn file(&self, source: &Path) -> Result<(), Error> {
        if self.holds(source) {
            return Ok(());
        }
        self.made_file(|path| self.copy(source, path))
    }

    /// Takes a file that `make` puts at the path it is given.
    ///
    /// # Errors
    /// As [`Self::file`], and what `make` says.
    pub fn made_file(&self, make: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
        let parent = parent_of(self.path);
        fs::create_dir_all(parent).map_err(self.not_writable(parent))?;
        let stage = self.stage_in(parent)?;
        let made = stage.path().join("file");
        make(&made)?;
        fs::rename(&made, self.path).map_err(self.not_writable(self.path))
    }

    /// Copies what is in the folder `source` to this path, beside what is there.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn directory(&self, source: &Path, ignored: &Ignored) -> Result<(), Error> {
        if self.holds(source) {
            return Ok(());
        }
        let listed = self.list(source, ignored)?;
        self.made_directory(|folder| self.copy_into(source, folder, &listed))
    }

    /// Takes what `make` puts into the empty folder it is given, beside what is there.
    ///
    /// # Errors
    /// As [`Self::file`], and what `make` says.
    pub fn made_directory(
        &self,
        make: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let parent = parent_of(self.path);
        fs::create_dir_all(parent).map_err(self.not_writable(parent))?;
        // A target that exists may be the only writable folder here, such as a mounted volume.
        let room = if self.path.is_dir() {
            self.path
        } else {
            parent
        };
        let stage = self.stage_in(room)?;
        let contents = stage.path().join("contents");
        fs::create_dir(&contents).map_err(self.not_writable(&contents))?;
        make(&contents)?;
        if !self.path.exists() && fs::rename(&contents, self.path).is_ok() {
            return Ok(());
        }
        self.merge(&contents)
    }

    fn stage_in(&self, folder: &Path) -> Result<tempfile::TempDir, Error> {
        tempfile::Builder::new()
            .prefix(STAGE_PREFIX)
            .tempdir_in(folder)
            .map_err(self.not_writable(folder))
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let written = self.path;
        if self.shared.is_some_and(|shared| from.starts_with(shared)) {
            return storage::hand_out(from, to).map_err(self.not_writable(written));
        }
        let mut reader = fs::File::open(from).map_err(self.not_readable(from))?;
        let mode = reader
            .metadata()
            .map_err(self.not_readable(from))?
            .permissions();
        let mut writer = fs::File::create(to).map_err(self.not_writable(written))?;
        // The kernel moves the bytes where it can; memory use does not grow with the file.
        io::copy(&mut reader, &mut writer).map_err(self.not_writable(written))?;
        fs::set_permissions(to, mode).map_err(self.not_writable(written))
    }

    /// What is below `source`, relative to it, folders before what they hold.
    fn list(&self, source: &Path, ignored: &Ignored) -> Result<Vec<Entry>, Error> {
        let target = self.path.canonicalize().ok();
        let relative = |path: &Path| path.strip_prefix(source).unwrap_or(path).to_owned();
        let walk = WalkDir::new(source)
            .min_depth(1)
            .follow_links(true)
            .sort_by_file_name()
            .into_iter()
            .filter_entry(|entry| {
                // A target inside the source must not be copied into itself.
                let is_target = target.is_some() && entry.path().canonicalize().ok() == target;
                !is_target && !ignored.matches(&relative(entry.path()))
            });
        let mut listed = Vec::new();
        for entry in walk {
            let entry = entry.map_err(|error| {
                let path = error.path().unwrap_or(source).to_owned();
                self.not_readable(&path)(error.into())
            })?;
            let kind = entry.file_type();
            if kind.is_dir() || kind.is_file() {
                listed.push(Entry {
                    relative: relative(entry.path()),
                    is_dir: kind.is_dir(),
                });
            } else {
                // Reading a pipe would wait for ever.
                tracing::warn!(path = %entry.path().display(), "neither file nor folder, left out");
            }
        }
        Ok(listed)
    }

    fn copy_into(&self, source: &Path, folder: &Path, listed: &[Entry]) -> Result<(), Error> {
        for entry in listed.iter().filter(|entry| entry.is_dir) {
            let path = folder.join(&entry.relative);
            fs::create_dir(&path).map_err(self.not_writable(&path))?;
        }
        listed
            .par_iter()
            .filter(|entry| !entry.is_dir)
            .try_for_each(|entry| {
                self.copy(&source.join(&entry.relative), &folder.join(&entry.relative))
            })
    }

    /// Moves what was made into a folder that is there.
    fn merge(&self, made: &Path) -> Result<(), Error> {
        fs::create_dir_all(self.path).map_err(self.not_writable(self.path))?;
        for entry in WalkDir::new(made).min_depth(1) {
            let entry = entry.map_err(|error| self.not_readable(made)(error.into()))?;
            let relative = entry.path().strip_prefix(made).unwrap_or(entry.path());
            let path = self.path.join(relative);
            let done = if entry.file_type().is_dir() {
                fs::create_dir_all(&path)
            } else {
                fs::rename(entry.path(), &path)
            };
            done.map_err(self.not_writable(&path))?;
        }
        Ok(())
    }
}

/// What is left out of a folder.
#[derive(Clone, Debug)]
pub struct Ignored(GlobSet);

impl Ignored {
    /// As fnmatch-style lists expect it, `*` also crosses `/`.
    ///
    /// # Errors
    /// `runtime.parameter` for a pattern that is no glob, naming the parameter.
    pub fn new(name: &str, patterns: &[String]) -> Result<Self, Error> {
        let wrong = |pattern: &str, source| Error::Pattern {
            name: name.to_owned(),
            pattern: pattern.to_owned(),
            source,
        };
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let bare = pattern.trim_start_matches("./").trim_matches('/');
            let glob = GlobBuilder::new(bare).build();
            set.add(glob.map_err(|source| wrong(pattern, source))?);
        }
        let set = set.build();
        set.map(Self)
            .map_err(|source| wrong(&patterns.join(", "), source))
    }

    /// Whether a pattern means this very entry.
    fn matches(&self, relative: &Path) -> bool {
        let name = relative.file_name().unwrap_or_default();
        self.0.is_match(relative) || self.0.is_match(name)
    }

    /// Whether a pattern means this entry or a folder around it.
    pub fn covers(&self, relative: &Path) -> bool {
        let mut around = relative.ancestors();
        around.any(|path| !path.as_os_str().is_empty() && self.matches(path))
    }
}

#[derive(Debug)]
struct Entry {
    relative: PathBuf,
    is_dir: bool,
}

fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn put(path: &Path) -> Target<'_> {
        Target {
            name: "model",
            path,
            shared: None,
        }
    }

    fn none() -> Ignored {
        Ignored::new("p", &[]).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = WalkDir::new(folder)
            .min_depth(1)
            .into_iter()
            .map(|entry| {
                entry
                    .unwrap()
                    .path()
                    .strip_prefix(folder)
                    .unwrap()
                    .display()
                    .to_string()
            })
            .collect();
        names.sort();
        names
    }

    fn tree(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
    }

    #[test]
    fn a_file_arrives_whole_with_its_mode_and_leaves_no_traces() {
        let scratch = tempfile::tempdir().unwrap();
        let source = scratch.path().join("run.sh");
        fs::write(&source, "x").unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
        let target = scratch.path().join("deep/er/copy.sh");
        put(&target).file(&source).unwrap();
        put(&target).file(&source).unwrap();
        assert_eq!(
            fs::metadata(&target).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert_eq!(names(target.parent().unwrap()), ["copy.sh"]);
    }

    #[test]
    fn what_never_changes_is_linked() {
        let scratch = tempfile::tempdir().unwrap();
        let source = scratch.path().join("uploads/data");
        tree(&source, &["a", "sub/b"]);
        let uploads = scratch.path().join("uploads");
        let target = scratch.path().join("t");
        let target = Target {
            shared: Some(&uploads),
            ..put(&target)
        };
        target.directory(&source, &none()).unwrap();
        target.directory(&source, &none()).unwrap();
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let linked = target.path.join("sub/b");
        assert_eq!(inode(&linked), inode(&source.join("sub/b")));
        // What the app puts beside it stays its own.
        fs::write(target.path.join("c"), "").unwrap();
        assert_eq!(names(&source), ["a", "sub", "sub/b"]);
    }

    #[test]
    fn a_failed_copy_leaves_the_old_file_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let target = scratch.path().join("copy");
        fs::write(&target, "old").unwrap();
        let source = scratch.path().join("gone");
        let error = put(&target).file(&source).unwrap_err();
        assert!(matches!(error, Error::NotReadable { .. }), "{error}");
        assert_eq!(fs::read_to_string(&target).unwrap(), "old");
        assert_eq!(names(scratch.path()), ["copy"]);
    }

    #[test]
    fn contents_land_directly_in_a_new_and_in_an_existing_target() {
        let scratch = tempfile::tempdir().unwrap();
        let source = scratch.path().join("src");
        tree(&source, &["a.txt", "sub/b.txt"]);
        fs::create_dir(source.join("empty")).unwrap();
        let fresh = scratch.path().join("x/fresh");
        put(&fresh).directory(&source, &none()).unwrap();
        assert_eq!(names(&fresh), ["a.txt", "empty", "sub", "sub/b.txt"]);
        assert_eq!(names(&scratch.path().join("x")).len(), 5);

        let used = scratch.path().join("used");
        tree(&used, &["a.txt", "sub/kept.txt"]);
        fs::write(used.join("a.txt"), "old").unwrap();
        put(&used).directory(&source, &none()).unwrap();
        assert_eq!(
            names(&used),
            ["a.txt", "empty", "sub", "sub/b.txt", "sub/kept.txt"]
        );
        assert_eq!(fs::read_to_string(used.join("a.txt")).unwrap(), "a.txt");
    }

    #[test]
    fn patterns_leave_files_and_folders_out_at_any_depth() {
        let scratch = tempfile::tempdir().unwrap();
        let source = scratch.path().join("src");
        tree(
            &source,
            &[
                "a.bin",
                "keep.txt",
                "sub/b.bin",
                ".git/config",
                "sub/logs/x",
                "logs2/y",
            ],
        );
        let target = scratch.path().join("t");
        let patterns = ["*.bin", ".git/", "logs"].map(str::to_owned);
        put(&target)
            .directory(&source, &Ignored::new("p", &patterns).unwrap())
            .unwrap();
        assert_eq!(names(&target), ["keep.txt", "logs2", "logs2/y", "sub"]);
        let error = Ignored::new("p", &["[".to_owned()]).unwrap_err();
        assert!(matches!(error, Error::Pattern { .. }), "{error}");
    }

    #[test]
    fn what_lies_in_an_ignored_folder_is_covered() {
        let ignored = Ignored::new("p", &["logs".to_owned(), "*.tmp".to_owned()]).unwrap();
        for (path, covered) in [
            ("a/logs/x", true),
            ("logs", true),
            ("a/b.tmp", true),
            ("a.tmp/b", true),
            ("a/b", false),
        ] {
            assert_eq!(ignored.covers(Path::new(path)), covered, "{path}");
        }
    }

    #[test]
    fn a_folder_is_not_copied_into_itself_for_ever() {
        let scratch = tempfile::tempdir().unwrap();
        tree(scratch.path(), &["a.txt", "t/old.txt"]);
        let target = scratch.path().join("t");
        put(&target).directory(scratch.path(), &none()).unwrap();
        assert_eq!(names(&target), ["a.txt", "old.txt"]);
        put(scratch.path())
            .directory(scratch.path(), &none())
            .unwrap();
        assert_eq!(names(scratch.path()).len(), 4);
    }

    #[test]
    fn links_are_followed_and_pipes_are_left_out() {
        let scratch = tempfile::tempdir().unwrap();
        let source = scratch.path().join("src");
        tree(&source, &["real.txt"]);
        tree(scratch.path(), &["outside.txt"]);
        std::os::unix::fs::symlink("../outside.txt", source.join("link.txt")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(source.join("s")).unwrap();
        let target = scratch.path().join("t");
        put(&target).directory(&source, &none()).unwrap();
        assert_eq!(names(&target), ["link.txt", "real.txt"]);
        assert_eq!(
            fs::read_to_string(target.join("link.txt")).unwrap(),
            "outside.txt"
        );
        assert!(!target.join("link.txt").is_symlink());
    }

    #[test]
    fn a_target_that_cannot_be_made_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        tree(scratch.path(), &["f", "blocker"]);
        // A file where a folder is needed fails for root too, unlike a read-only folder.
        let target = scratch.path().join("blocker/inside/f");
        let error = put(&target).file(&scratch.path().join("f")).unwrap_err();
        assert!(matches!(error, Error::NotWritable { .. }), "{error}");
        assert!(error.to_string().contains("`model`") && error.to_string().contains("blocker"));
    }
}

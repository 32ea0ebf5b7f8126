//! Puts a file or a folder at its target, whole or not at all.
//!
//! Everything is copied next to the target under a temporary name and then renamed, so a reader
//! never meets half a file and an interrupted start leaves nothing behind that looks finished.
//! Does not know why something goes where it goes; `materialize` decides that.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use rayon::prelude::*;
use walkdir::WalkDir;

use super::Error;

/// Prefix of unfinished copies; they are removed when a copy fails.
const STAGE_PREFIX: &str = ".fserve-";

/// One copy, with the parameter's name for its errors.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'a> {
    pub name: &'a str,
    pub source: &'a Path,
    pub target: &'a Path,
}

impl Placement<'_> {
    fn not_writable(&self, path: &Path) -> impl FnOnce(io::Error) -> Error + use<'_> {
        let (name, path) = (self.name.to_owned(), path.to_owned());
        move |source| Error::NotWritable { name, path, source }
    }

    fn not_readable(&self, path: &Path) -> impl FnOnce(io::Error) -> Error + use<'_> {
        let (name, path) = (self.name.to_owned(), path.to_owned());
        move |source| Error::NotReadable { name, path, source }
    }

    fn is_in_place(&self) -> bool {
        match (self.source.canonicalize(), self.target.canonicalize()) {
            (Ok(source), Ok(target)) => source == target,
            _ => false,
        }
    }

    /// Copies one file to exactly `target`.
    ///
    /// # Errors
    /// `runtime.parameter` naming the parameter and the path that cannot be read or written.
    pub fn file(&self) -> Result<(), Error> {
        if self.is_in_place() {
            return Ok(());
        }
        let parent = parent_of(self.target);
        fs::create_dir_all(parent).map_err(self.not_writable(parent))?;
        let staged = tempfile::Builder::new()
            .prefix(STAGE_PREFIX)
            .tempfile_in(parent)
            .map_err(self.not_writable(parent))?;
        self.copy(self.source, staged.path())?;
        staged
            .persist(self.target)
            .map_err(|error| self.not_writable(self.target)(error.error))?;
        Ok(())
    }

    /// Copies what is in the folder `source` into the folder `target`, beside what is there.
    ///
    /// # Errors
    /// As [`Self::file`]; also for an ignore pattern that is no glob.
    pub fn directory(&self, ignore_patterns: &[String]) -> Result<(), Error> {
        let ignored = self.ignored(ignore_patterns)?;
        if self.is_in_place() {
            return Ok(());
        }
        let listed = self.list(&ignored)?;
        let parent = parent_of(self.target);
        fs::create_dir_all(parent).map_err(self.not_writable(parent))?;
        // A target that exists may be the only writable folder here, such as a mounted volume.
        let room = if self.target.is_dir() {
            self.target
        } else {
            parent
        };
        let stage = tempfile::Builder::new()
            .prefix(STAGE_PREFIX)
            .tempdir_in(room)
            .map_err(self.not_writable(room))?;
        let contents = stage.path().join("contents");
        fs::create_dir(&contents).map_err(self.not_writable(&contents))?;
        self.copy_into(&contents, &listed)?;
        if !self.target.exists() && fs::rename(&contents, self.target).is_ok() {
            return Ok(());
        }
        self.merge(&contents, &listed)
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let written = self.target;
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
    fn list(&self, ignored: &GlobSet) -> Result<Vec<Entry>, Error> {
        let target = self.target.canonicalize().ok();
        let walk = WalkDir::new(self.source)
            .min_depth(1)
            .follow_links(true)
            .sort_by_file_name()
            .into_iter()
            .filter_entry(|entry| {
                // A target inside the source must not be copied into itself.
                let is_target = target.is_some() && entry.path().canonicalize().ok() == target;
                let relative = entry
                    .path()
                    .strip_prefix(self.source)
                    .unwrap_or(entry.path());
                !is_target && !ignored.is_match(relative) && !ignored.is_match(entry.file_name())
            });
        let mut listed = Vec::new();
        for entry in walk {
            let entry = entry.map_err(|error| {
                let path = error.path().unwrap_or(self.source).to_owned();
                self.not_readable(&path)(error.into())
            })?;
            let relative = entry
                .path()
                .strip_prefix(self.source)
                .unwrap_or(entry.path());
            let kind = entry.file_type();
            if kind.is_dir() || kind.is_file() {
                listed.push(Entry {
                    relative: relative.to_owned(),
                    is_dir: kind.is_dir(),
                });
            } else {
                // Reading a pipe would wait for ever.
                tracing::warn!(path = %entry.path().display(), "neither file nor folder, left out");
            }
        }
        Ok(listed)
    }

    fn copy_into(&self, folder: &Path, listed: &[Entry]) -> Result<(), Error> {
        for entry in listed.iter().filter(|entry| entry.is_dir) {
            let path = folder.join(&entry.relative);
            fs::create_dir(&path).map_err(self.not_writable(&path))?;
        }
        listed
            .par_iter()
            .filter(|entry| !entry.is_dir)
            .try_for_each(|entry| {
                self.copy(
                    &self.source.join(&entry.relative),
                    &folder.join(&entry.relative),
                )
            })
    }

    fn merge(&self, staged: &Path, listed: &[Entry]) -> Result<(), Error> {
        fs::create_dir_all(self.target).map_err(self.not_writable(self.target))?;
        for entry in listed {
            let path = self.target.join(&entry.relative);
            let done = if entry.is_dir {
                fs::create_dir_all(&path)
            } else {
                fs::rename(staged.join(&entry.relative), &path)
            };
            done.map_err(self.not_writable(&path))?;
        }
        Ok(())
    }

    /// As fnmatch-style lists expect it, `*` also crosses `/`.
    fn ignored(&self, patterns: &[String]) -> Result<GlobSet, Error> {
        let wrong = |pattern: &str, source| Error::Pattern {
            name: self.name.to_owned(),
            pattern: pattern.to_owned(),
            source,
        };
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let bare = pattern.trim_start_matches("./").trim_matches('/');
            let glob = GlobBuilder::new(bare).build();
            set.add(glob.map_err(|source| wrong(pattern, source))?);
        }
        set.build()
            .map_err(|source| wrong(&patterns.join(", "), source))
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
        let placement = Placement {
            name: "p",
            source: &source,
            target: &target,
        };
        placement.file().unwrap();
        placement.file().unwrap();
        assert_eq!(
            fs::metadata(&target).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert_eq!(names(target.parent().unwrap()), ["copy.sh"]);
    }

    #[test]
    fn a_failed_copy_leaves_the_old_file_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let target = scratch.path().join("copy");
        fs::write(&target, "old").unwrap();
        let source = scratch.path().join("gone");
        let error = Placement {
            name: "p",
            source: &source,
            target: &target,
        }
        .file()
        .unwrap_err();
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
        Placement {
            name: "p",
            source: &source,
            target: &fresh,
        }
        .directory(&[])
        .unwrap();
        assert_eq!(names(&fresh), ["a.txt", "empty", "sub", "sub/b.txt"]);
        assert_eq!(names(&scratch.path().join("x")).len(), 5);

        let used = scratch.path().join("used");
        tree(&used, &["a.txt", "sub/kept.txt"]);
        fs::write(used.join("a.txt"), "old").unwrap();
        Placement {
            name: "p",
            source: &source,
            target: &used,
        }
        .directory(&[])
        .unwrap();
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
        Placement {
            name: "p",
            source: &source,
            target: &target,
        }
        .directory(&patterns)
        .unwrap();
        assert_eq!(names(&target), ["keep.txt", "logs2", "logs2/y", "sub"]);
        let error = Placement {
            name: "p",
            source: &source,
            target: &target,
        }
        .directory(&["[".to_owned()])
        .unwrap_err();
        assert!(matches!(error, Error::Pattern { .. }), "{error}");
    }

    #[test]
    fn a_folder_is_not_copied_into_itself_for_ever() {
        let scratch = tempfile::tempdir().unwrap();
        tree(scratch.path(), &["a.txt", "t/old.txt"]);
        let target = scratch.path().join("t");
        Placement {
            name: "p",
            source: scratch.path(),
            target: &target,
        }
        .directory(&[])
        .unwrap();
        assert_eq!(names(&target), ["a.txt", "old.txt"]);
        Placement {
            name: "p",
            source: scratch.path(),
            target: scratch.path(),
        }
        .directory(&[])
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
        Placement {
            name: "p",
            source: &source,
            target: &target,
        }
        .directory(&[])
        .unwrap();
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
        let error = Placement {
            name: "model",
            source: &scratch.path().join("f"),
            target: &target,
        }
        .file()
        .unwrap_err();
        assert!(matches!(error, Error::NotWritable { .. }), "{error}");
        assert!(error.to_string().contains("`model`") && error.to_string().contains("blocker"));
    }
}

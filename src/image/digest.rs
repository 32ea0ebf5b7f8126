//! Digests of files and folders, and the one walk that hashing and copying share.
//!
//! Because both use [`walk`], what is hashed is exactly what is copied.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::error::Error;

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

/// Everything below `root`, in an order that does not depend on the file system.
pub(super) fn walk(root: &Path) -> Result<Vec<Entry>, Error> {
    // A link given as the root itself is followed; links below it are kept.
    let real = root.canonicalize().map_err(Error::unreadable(root))?;
    let mut entries = walkdir::WalkDir::new(&real)
        .min_depth(1)
        .into_iter()
        .filter_entry(|entry| !is_left_out(entry.file_name()))
        .map(|entry| entry_of(&real, entry))
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

fn is_left_out(name: &OsStr) -> bool {
    LEFT_OUT.iter().any(|left_out| name == *left_out)
}

fn entry_of(root: &Path, entry: walkdir::Result<walkdir::DirEntry>) -> Result<Entry, Error> {
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
    } else {
        Kind::File {
            executable: is_executable(entry.path())?,
        }
    };
    let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
    Ok(Entry {
        path: path.to_path_buf(),
        kind,
    })
}

/// Whether the owner may execute the file.
pub(super) fn is_executable(path: &Path) -> Result<bool, Error> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = path.metadata().map_err(Error::unreadable(path))?;
    Ok(metadata.permissions().mode() & 0o100 != 0)
}

/// Digest of the bytes of a file.
pub(super) fn file(path: &Path) -> Result<String, Error> {
    let mut hasher = blake3::Hasher::new();
    let mut reader = std::fs::File::open(path).map_err(Error::unreadable(path))?;
    std::io::copy(&mut reader, &mut hasher).map_err(Error::unreadable(path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Digest of a folder: names, executable bits, link targets and contents.
pub(super) fn tree(root: &Path) -> Result<String, Error> {
    let entries = walk(root)?;
    let payloads = entries
        .par_iter()
        .map(|entry| payload(root, entry))
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

fn payload(root: &Path, entry: &Entry) -> Result<(u8, Vec<u8>), Error> {
    Ok(match &entry.kind {
        Kind::Folder => (b'd', Vec::new()),
        Kind::File { executable } => {
            let digest = file(&root.join(&entry.path))?;
            (if *executable { b'x' } else { b'f' }, digest.into_bytes())
        }
        Kind::Link { target } => (b'l', target.as_os_str().as_encoded_bytes().to_vec()),
    })
}

/// Digest of a file or folder, whichever it is.
pub(super) fn any(path: &Path) -> Result<String, Error> {
    if path.is_dir() {
        tree(path)
    } else {
        file(path)
    }
}

/// Copies what [`walk`] sees below `source` to `target`.
pub(super) fn copy_tree(source: &Path, target: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(target).map_err(Error::store("create", target))?;
    for entry in walk(source)? {
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
        copy_tree(source.path(), target.path()).unwrap();
        assert!(!target.path().join(".git").exists());
        assert!(!target.path().join("a/__pycache__").exists());
        assert_eq!(tree(source.path()).unwrap(), tree(target.path()).unwrap());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = any(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}

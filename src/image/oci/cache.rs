//! What is kept between builds, below `<home>/cache/images`.
//!
//! Nothing here is looked at before it is whole: each file is written beside its place and moved
//! there, a record after the blob that it speaks of. So builds need no lock against each other, and
//! one that is killed leaves at most a file that nobody asks for.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

use crate::image::Error;

/// Raised whenever the same declaration would be packed differently.
pub(super) const RECIPE: u32 = 2;
/// Blobs above this are removed, those that were not used for longest first.
const LIMIT_BYTES: u64 = 10 << 30;
/// What a build may still be about to send is left alone.
const GRACE: Duration = Duration::from_secs(6 * 3600);

/// The folder, and how things are named in it.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    root: PathBuf,
}

impl Cache {
    pub(super) fn open(home: &Path) -> Result<Self, Error> {
        let root = home.join("cache/images");
        for name in [
            "blobs", "layers", "packages", "locks", "bases", "wheels", "tmp",
        ] {
            let folder = root.join(name);
            std::fs::create_dir_all(&folder).map_err(Error::store("create", &folder))?;
        }
        Ok(Self { root })
    }

    /// Where the blob of a digest is, or would be.
    pub(super) fn blob(&self, digest: &str) -> PathBuf {
        self.root.join("blobs").join(digest.replace(':', "-"))
    }

    /// The blob, when it is there and as long as it has to be.
    pub(super) fn whole_blob(&self, digest: &str, size: u64) -> Option<PathBuf> {
        let path = self.blob(digest);
        let metadata = std::fs::metadata(&path).ok()?;
        (metadata.len() == size).then_some(path)
    }

    /// Where a wheel that was built here stays.
    pub(super) fn wheel(&self, digest: &str, name: &str) -> PathBuf {
        self.root.join("wheels").join(digest).join(name)
    }

    /// Says that a wheel is still wanted, should it be one that was built here.
    pub(super) fn touch_wheel(&self, path: &Path) {
        let folder = path.parent().and_then(Path::file_name);
        if let (Some(folder), Some(name)) = (folder, path.file_name()) {
            Self::touch(&self.root.join("wheels").join(folder).join(name));
        }
    }

    /// A new file that becomes part of the cache by [`Self::keep`].
    pub(super) fn temporary(&self) -> Result<NamedTempFile, Error> {
        let folder = self.root.join("tmp");
        NamedTempFile::new_in(&folder).map_err(Error::store("write to", &folder))
    }

    /// A new folder on the same file system, removed when dropped.
    pub(super) fn folder(&self) -> Result<tempfile::TempDir, Error> {
        let folder = self.root.join("tmp");
        tempfile::tempdir_in(&folder).map_err(Error::store("write to", &folder))
    }

    /// Moves a finished file to its place.
    pub(super) fn keep(&self, file: NamedTempFile, path: &Path) -> Result<(), Error> {
        let folder = path.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(folder).map_err(Error::store("create", folder))?;
        file.as_file()
            .sync_data()
            .map_err(Error::store("write", path))?;
        file.persist(path)
            .map(drop)
            .map_err(|error| Error::store("write", path)(error.error))
    }

    /// What was remembered; one that cannot be read counts as absent and is made anew.
    pub(super) fn recall<T: DeserializeOwned>(&self, kind: &str, key: &str) -> Option<T> {
        let path = self.record(kind, key);
        let text = std::fs::read(&path).ok()?;
        Self::touch(&path);
        serde_json::from_slice(&text).ok()
    }

    pub(super) fn remember(
        &self,
        kind: &str,
        key: &str,
        value: &impl Serialize,
    ) -> Result<(), Error> {
        let path = self.record(kind, key);
        let mut file = self.temporary()?;
        serde_json::to_writer(file.as_file_mut(), value)
            .map_err(io::Error::from)
            .and_then(|()| file.as_file_mut().flush())
            .map_err(Error::store("write", &path))?;
        self.keep(file, &path)
    }

    fn record(&self, kind: &str, key: &str) -> PathBuf {
        self.root.join(kind).join(format!("{key}.json"))
    }

    /// Says that a blob is still wanted.
    pub(super) fn touch(path: &Path) {
        let file = File::options().append(true).open(path);
        // Only the order of removal suffers when it cannot be told.
        let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Removes what killed builds left and, above the limit, blobs that nobody used for long.
    pub(super) fn tidy(&self) {
        let old = |path: &Path| age(path).is_some_and(|age| age > GRACE);
        for path in listing(&self.root.join("tmp")).filter(|path| old(path)) {
            let removed = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            log_failure(&path, removed);
        }
        let mut blobs: Vec<_> = listing(&self.root.join("blobs"))
            .filter_map(|path| {
                let size = path.metadata().ok()?.len();
                Some((age(&path)?, size, path))
            })
            .collect();
        blobs.sort();
        let mut total = 0;
        for (age, size, path) in blobs {
            total += size;
            if total > LIMIT_BYTES && age > GRACE {
                log_failure(&path, std::fs::remove_file(&path));
            }
        }
    }
}

fn listing(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

fn age(path: &Path) -> Option<Duration> {
    let modified = path.metadata().ok()?.modified().ok()?;
    Some(modified.elapsed().unwrap_or_default())
}

fn log_failure(path: &Path, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, path = %path.display(), "cannot be removed");
    }
}

/// A key of the cache: parts cannot run into each other.
pub(super) fn key(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&RECIPE.to_le_bytes());
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..40].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_record_and_a_cut_blob_are_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        cache.remember("locks", "k", &vec!["a", "b"]).unwrap();
        assert_eq!(
            cache.recall::<Vec<String>>("locks", "k").unwrap(),
            ["a", "b"]
        );
        std::fs::write(cache.record("locks", "k"), "[\"a\",").unwrap();
        assert_eq!(cache.recall::<Vec<String>>("locks", "k"), None);
        std::fs::write(cache.blob("sha256:0"), "abc").unwrap();
        assert!(cache.whole_blob("sha256:0", 3).is_some());
        assert!(cache.whole_blob("sha256:0", 4).is_none());
    }

    #[test]
    fn parts_of_a_key_do_not_run_into_each_other() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["a"]), key(&["a", ""]));
    }

    #[test]
    fn what_killed_builds_left_is_removed_once_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let (old, new) = (cache.root.join("tmp/old"), cache.root.join("tmp/new"));
        std::fs::write(&old, "").unwrap();
        std::fs::write(&new, "").unwrap();
        let past = SystemTime::now() - GRACE * 2;
        File::options()
            .append(true)
            .open(&old)
            .unwrap()
            .set_modified(past)
            .unwrap();
        cache.tidy();
        assert!(!old.exists() && new.exists());
    }
}

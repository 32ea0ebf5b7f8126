//! One name for all that a folder holds, for which only files that have changed are read.
//!
//! The name goes by contents and relative names, never by place or time. What each file held is
//! remembered by its state (see [`super::stat_cache`]) in a file of the caller's choice; the
//! folder that this file is in has to exist, for asking for a name must not make folders.

use std::io;
use std::path::{Path, PathBuf};

use super::Digest;
use super::stat_cache::{self, StatCache, State};

/// The same for equal folders, and another one whenever a file changes, comes or goes. What Python
/// compiles beside its files does not count.
pub fn of_folder(folder: &Path, cache: Option<&Path>) -> io::Result<String> {
    let known = cache.map(StatCache::load).unwrap_or_default();
    let mut whole = blake3::Hasher::new();
    let mut seen = Vec::new();
    let mut has_news = false;
    for path in files(folder) {
        let metadata = path.metadata()?;
        let state = State::of(&metadata);
        let digest = match known.digests(&state, 1) {
            Some([digest]) => *digest,
            Some(_) | None => {
                has_news = true;
                read(&path)?
            }
        };
        let relative = path.strip_prefix(folder).unwrap_or(&path);
        whole.update(relative.as_os_str().as_encoded_bytes());
        whole.update(digest.as_bytes());
        seen.push((state, [digest]));
    }
    if let (true, Some(cache)) = (has_news, cache) {
        remember(cache, &seen);
    }
    Ok(whole.finalize().to_hex()[..32].to_owned())
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    walkdir::WalkDir::new(folder)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| entry.file_name() != "__pycache__")
        .flatten()
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
}

fn read(path: &Path) -> io::Result<Digest> {
    let mut hash = blake3::Hasher::new();
    // In pieces: the platform lives on with what it needed at its start.
    hash.update_reader(std::fs::File::open(path)?)?;
    Ok(hash.finalize().into())
}

fn remember(cache: &Path, seen: &[(State, [Digest; 1])]) {
    let now = stat_cache::now_ns();
    let settled = seen
        .iter()
        .filter(|(state, _)| stat_cache::is_settled(&state.stamp, now))
        .map(|(state, digest)| (*state, &digest[..]));
    // Without it the next call reads everything again, which is all that is lost.
    let _ = StatCache::save(cache, settled);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_cache_saves_reading_and_hides_no_change() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("package");
        let cache = place.path().join("package.stat");
        fs::create_dir_all(folder.join("__pycache__")).unwrap();
        let file = folder.join("a.py");
        fs::write(&file, "a = 1").unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(9);
        fs::File::open(&file)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        let name = || of_folder(&folder, Some(&cache)).unwrap();

        let first = name();
        fs::write(folder.join("__pycache__/a.pyc"), "x").unwrap();
        assert_eq!(name(), first);
        assert_eq!(of_folder(&folder, None).unwrap(), first);

        fs::write(&file, "a = 2").unwrap();
        fs::File::open(&file)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        let second = name();
        assert_ne!(
            second, first,
            "the same size and time, but the kernel knows"
        );
        fs::rename(&file, folder.join("b.py")).unwrap();
        assert_ne!(name(), second);
    }
}

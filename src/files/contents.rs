//! What an archive holds, told without unpacking it.
//!
//! For comparing two archives: each file's name, size and digest. Nothing is written, and no more
//! is read than the limits allow, since the archive is not trusted.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use super::Error;
use super::archive::{Limits, open};

/// What is known of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub bytes: u64,
    digest: blake3::Hash,
}

/// The files and links of a `tar.zst` or `tar.gz`, by name.
pub fn of(archive: &Path, limits: Limits) -> Result<BTreeMap<String, Content>, Error> {
    let failed = Error::io("read", archive);
    let too_large = |limit, unit| Error::TooLarge {
        archive: archive.to_path_buf(),
        limit,
        unit,
    };
    // Names and headers count as well: one byte more than allowed is the sign of too much.
    let whole = open(archive)?.take(limits.max_bytes.saturating_add(1));
    let mut tar = tar::Archive::new(whole);
    let result = read(&mut tar, limits);
    let left = tar.into_inner().limit();
    if left == 0 {
        return Err(too_large(limits.max_bytes, "bytes"));
    }
    let contents = result.map_err(failed)?;
    contents.ok_or_else(|| too_large(limits.max_entries, "entries"))
}

/// `None` when there are too many entries.
fn read(
    tar: &mut tar::Archive<impl Read>,
    limits: Limits,
) -> io::Result<Option<BTreeMap<String, Content>>> {
    let mut contents = BTreeMap::new();
    for (index, entry) in tar.entries()?.enumerate() {
        if index as u64 >= limits.max_entries {
            return Ok(None);
        }
        let mut entry = entry?;
        if entry.header().entry_type().is_dir() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut hasher = blake3::Hasher::new();
        if let Some(link) = entry.link_name_bytes() {
            hasher.update(&link);
        }
        let bytes = io::copy(&mut entry, &mut hasher)?;
        let digest = hasher.finalize();
        contents.insert(name, Content { bytes, digest });
    }
    Ok(Some(contents))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(path: &Path, files: &[(&str, &str)]) {
        let file = std::fs::File::create(path).unwrap();
        let zstd = zstd::Encoder::new(file, 1).unwrap().auto_finish();
        let mut tar = tar::Builder::new(zstd);
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap();
    }

    #[test]
    fn equal_files_are_equal_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        archive(&one, &[("a.py", "x"), ("b.py", "y")]);
        archive(&two, &[("b.py", "z"), ("a.py", "x")]);
        let (one, two) = (of(&one, Limits::default()), of(&two, Limits::default()));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one["a.py"], two["a.py"]);
        assert_ne!(one["b.py"], two["b.py"]);
        assert_eq!(one["b.py"].bytes, 1);
    }

    #[test]
    fn an_archive_that_holds_too_much_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        archive(&path, &[("a", &"x".repeat(100_000)), ("b", ""), ("c", "")]);
        let limited = |max_bytes, max_entries| {
            of(
                &path,
                Limits {
                    max_bytes,
                    max_entries,
                },
            )
            .map_err(|error| error.to_string())
        };
        assert!(limited(50_000, 100).unwrap_err().contains("50000 bytes"));
        assert!(limited(1 << 20, 2).unwrap_err().contains("2 entries"));
        assert_eq!(limited(1 << 20, 3).unwrap().len(), 3);
    }
}

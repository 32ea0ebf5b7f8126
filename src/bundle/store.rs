//! Keeps the compressed frames of earlier archives, and notes of what the archives were.
//!
//! One folder for each root and way of choosing. A *frame* lies under its key. A *note* lies under
//! the fingerprint of the list that it was made of (names, sizes and stamps) and tells the frames of
//! the archive, so that an unchanged list costs no more than the walk that made it. Everything here
//! can be made again: nothing is waited for the disk, and whoever reads checks.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Error, Format};
use crate::crash;
use crate::files::{self, Digest, write_cache};

/// Archives of one root that stay known; notebooks go back and forth between a few.
const KEPT_NOTES: usize = 4;
/// A frame that no note names may belong to an archive that another process is making or sending.
const FRAME_GRACE: Duration = Duration::from_secs(3600);
/// Roots that were not bundled for so long are forgotten.
const KEPT_UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);
/// What the frames of all roots together may take; the longest unused go first.
const BUDGET_BYTES: u64 = 4 << 30;
/// How often that is looked after.
const SWEEP_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Where frames and notes of one root lie.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// Holds everything where the cache cannot be written; gone when dropped.
    _temporary: Option<tempfile::TempDir>,
}

/// What is known of an archive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) format: String,
    pub(super) digest: Digest,
    pub(super) md5: [u8; 16],
    pub(super) bytes: u64,
    pub(super) frames: Vec<FrameNote>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FrameNote {
    pub(super) key: Digest,
    pub(super) bytes: u64,
    /// The state of the archive's MD5 after this frame.
    #[serde(with = "as_base64")]
    pub(super) md5_state: Vec<u8>,
}

impl Store {
    /// The store for `root` below the cache folder of the home; `scope` tells ways of choosing
    /// apart.
    ///
    /// Where that folder cannot be written, a temporary one serves this time.
    pub fn open(cache: &Path, root: &Path, scope: &str) -> Result<Self, Error> {
        let mut hasher = blake3::Hasher::new_derive_key("flyte-rs bundle store 1");
        hasher.update(root.as_os_str().as_encoded_bytes());
        hasher.update(&[0]);
        hasher.update(scope.as_bytes());
        let name = hasher.finalize().to_hex();
        let all = cache.join("bundles");
        let folder = all.join(&name.as_str()[..32]);
        if fs::create_dir_all(folder.join("frames"))
            .and_then(|()| fs::create_dir_all(folder.join("notes")))
            .is_ok()
            && tempfile::tempfile_in(&folder).is_ok()
        {
            // What is about to be used is not tidied away.
            files::touch(&folder);
            sweep(&all);
            return Ok(Self {
                folder,
                _temporary: None,
            });
        }
        Self::temporary()
    }

    /// A store that nobody else has and that ends with this value.
    pub fn temporary() -> Result<Self, Error> {
        let place = std::env::temp_dir();
        let temporary = tempfile::Builder::new()
            .prefix("flyte-bundle-")
            .tempdir()
            .map_err(files::Error::io("create a temporary folder in", &place))?;
        let folder = temporary.path().to_path_buf();
        for name in ["frames", "notes"] {
            let path = folder.join(name);
            fs::create_dir(&path).map_err(files::Error::io("create", &path))?;
        }
        Ok(Self {
            folder,
            _temporary: Some(temporary),
        })
    }

    /// Forgets everything, for when it turned out to be damaged.
    pub fn clear(&self) -> Result<(), Error> {
        for name in ["frames", "notes"] {
            let path = self.folder.join(name);
            fs::remove_dir_all(&path)
                .and_then(|()| fs::create_dir(&path))
                .map_err(files::Error::io("empty", &path))?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn stat_cache(&self) -> PathBuf {
        self.folder.join("stat")
    }

    pub(super) fn frame_path(&self, key: &Digest) -> PathBuf {
        self.folder.join("frames").join(key.to_string())
    }

    /// The size of a frame that is there.
    pub(super) fn frame_bytes(&self, key: &Digest) -> Option<u64> {
        let metadata = fs::metadata(self.frame_path(key)).ok()?;
        (metadata.is_file() && metadata.len() > 0).then_some(metadata.len())
    }

    pub(super) fn put_frame(&self, key: &Digest, bytes: &[u8]) -> Result<(), Error> {
        Ok(write_cache(&self.frame_path(key), bytes)?)
    }

    fn note_path(&self, fingerprint: &Digest) -> PathBuf {
        self.folder.join("notes").join(fingerprint.to_string())
    }

    /// The note of a list with this fingerprint whose frames are all there.
    pub(super) fn note(&self, fingerprint: &Digest, format: Format) -> Option<Note> {
        let path = self.note_path(fingerprint);
        let note = read_note(&path, format)?;
        let whole = |frame: &FrameNote| self.frame_bytes(&frame.key) == Some(frame.bytes);
        if !note.frames.iter().all(whole) {
            return None;
        }
        // Counts as used; where that fails the note may be forgotten earlier, no more.
        if let Ok(file) = fs::File::open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(note)
    }

    /// The notes of archives in this format, the latest first.
    pub(super) fn recent(&self, format: Format) -> Vec<Note> {
        self.note_files()
            .iter()
            .filter_map(|(path, _)| read_note(path, format))
            .collect()
    }

    /// Notes by when they were used, the latest first.
    fn note_files(&self) -> Vec<(PathBuf, SystemTime)> {
        let mut notes = listed(&self.folder.join("notes"));
        notes.sort_by_key(|(path, used)| (std::cmp::Reverse(*used), path.clone()));
        notes
    }

    /// Remembers an archive and forgets those before the last few, with the frames that only they
    /// had.
    pub(super) fn put_note(&self, fingerprint: &Digest, note: &Note) -> Result<(), Error> {
        let bytes = serde_json::to_vec(note).map_err(|error| Error::Output(error.into()))?;
        crash::point("bundle.packed");
        write_cache(&self.note_path(fingerprint), &bytes)?;
        crash::point("bundle.noted");
        self.prune();
        Ok(())
    }

    /// What cannot be removed stays; the next bundle tries again.
    fn prune(&self) {
        let notes = self.note_files();
        for (path, _) in notes.iter().skip(KEPT_NOTES) {
            let _ = fs::remove_file(path);
        }
        let frames = listed(&self.folder.join("frames"));
        let kept: HashSet<String> = notes
            .iter()
            .take(KEPT_NOTES)
            .filter_map(|(path, _)| parse_note(path))
            .flat_map(|note| note.frames.into_iter().map(|frame| frame.key.to_string()))
            .collect();
        for (path, made) in frames {
            let is_kept = path
                .file_name()
                .is_some_and(|name| kept.contains(&*name.to_string_lossy()));
            if !is_kept && age(made) > FRAME_GRACE {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn parse_note(path: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn read_note(path: &Path, format: Format) -> Option<Note> {
    parse_note(path).filter(|note| note.format == format.extension())
}

/// The files of a folder with the time of their last change; none where it cannot be read.
fn listed(folder: &Path) -> Vec<(PathBuf, SystemTime)> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.path(), entry.metadata().ok()?.modified().ok()?))
        })
        .collect()
}

/// Zero for times in the future.
fn age(time: SystemTime) -> Duration {
    SystemTime::now().duration_since(time).unwrap_or_default()
}

/// Keeps the stores of all roots within their bounds, once a day.
fn sweep(all: &Path) {
    let mark = all.join(".swept");
    let last = fs::metadata(&mark).and_then(|metadata| metadata.modified());
    if last.is_ok_and(|time| age(time) < SWEEP_EVERY) || write_cache(&mark, b"").is_err() {
        return;
    }
    let mut stores: Vec<(PathBuf, SystemTime)> = listed(all)
        .into_iter()
        .filter(|(path, _)| path.join("notes").is_dir())
        .map(|(path, opened)| {
            let notes = listed(&path.join("notes"));
            let used = notes.into_iter().map(|(_, used)| used).max();
            // One that is packed into has no note of that yet.
            let used = used.map_or(opened, |used| used.max(opened));
            (path, used)
        })
        .collect();
    stores.sort_by_key(|(_, used)| std::cmp::Reverse(*used));
    let mut bytes: u64 = 0;
    for (path, used) in stores {
        bytes = bytes.saturating_add(bytes_of(&path.join("frames")));
        let idle = age(used);
        if idle > KEPT_UNUSED || (bytes > BUDGET_BYTES && idle > FRAME_GRACE) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

fn bytes_of(folder: &Path) -> u64 {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()))
        .sum()
}

/// Finds where the MD5 of an archive can begin: behind the frames that an earlier one began with.
pub(super) struct Resumption {
    candidates: Vec<Note>,
}

impl Resumption {
    pub(super) fn new(candidates: Vec<Note>) -> Self {
        Self { candidates }
    }

    /// How long each frame was when it was written; one of another length is damaged.
    pub(super) fn lengths(&self) -> HashMap<Digest, u64> {
        let frames = self.candidates.iter().flat_map(|note| &note.frames);
        frames.map(|frame| (frame.key, frame.bytes)).collect()
    }

    /// The state of the MD5 behind the frame at `index`, if an earlier archive was equal so far.
    pub(super) fn state(&mut self, index: usize, key: &Digest) -> Option<&[u8]> {
        self.candidates.retain(|note| {
            note.frames
                .get(index)
                .is_some_and(|frame| frame.key == *key)
        });
        let frame = self.candidates.first()?.frames.get(index)?;
        Some(&frame.md5_state)
    }
}

mod as_base64 {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

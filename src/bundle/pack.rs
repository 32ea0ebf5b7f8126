//! Makes the archive, or finds that it is made.
//!
//! The tar stream is cut into frames (see `layout`), and each becomes a zstd frame or gzip member
//! of its own; both formats define such concatenations to mean the whole. Frames are made on all
//! processors, each file is read once, and the result depends neither on how many processors there
//! are nor on what was made before. A frame that an earlier archive had is not made again, and a
//! list that has not changed at all is not even read.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use md5::digest::common::hazmat::{SerializableState, SerializedState};
use md5::{Digest as _, Md5};

use super::frame::{self, Compressor, Raw, Seen, Segment, segments};
use super::layout::{Frame, Layout, piece_count};
use super::ordered;
use super::store::{FrameNote, Note, Resumption, Store};
use super::{Error, FileList};
use crate::files::stat_cache::StatCache;
use crate::files::{self, Digest, read_in_pieces};

/// More threads than this wait for the disk and for each other.
const MAX_THREADS: usize = 8;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For our own replicas: faster and smaller.
    TarZst,
    /// For replicas that unpack with any `tar`.
    TarGz,
}

impl Format {
    /// The end of a file name, without a leading dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::TarZst => "tar.zst",
            Self::TarGz => "tar.gz",
        }
    }
}

/// A finished archive, as parts that follow each other.
#[derive(Clone, Debug)]
pub struct Archive {
    pub format: Format,
    /// Of the names, executable bits and contents of its files, whatever the format.
    pub digest: Digest,
    /// Of the compressed bytes, as object stores ask for it.
    pub md5: [u8; 16],
    pub bytes: u64,
    /// Bytes that had to be compressed now; the rest was there.
    pub made_bytes: u64,
    pub parts: Vec<Part>,
}

/// A piece of an archive in a file of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub path: PathBuf,
    pub bytes: u64,
}

impl Archive {
    /// Named by content, so that an equal bundle has an equal name.
    pub fn file_name(&self) -> String {
        format!("{}.{}", self.digest, self.format.extension())
    }

    /// Writes the archive as one file would hold it.
    pub fn write_to(&self, mut out: impl Write) -> Result<(), Error> {
        for part in &self.parts {
            let mut file =
                fs::File::open(&part.path).map_err(files::Error::io("open", &part.path))?;
            io::copy(&mut file, &mut out).map_err(Error::Output)?;
        }
        out.flush().map_err(Error::Output)
    }

    /// Whether the parts still are what they were when they were written.
    pub fn is_intact(&self) -> bool {
        let mut md5 = Md5::new();
        let mut parts = self.parts.iter();
        let all_read =
            parts.all(|part| read_in_pieces(&part.path, |piece| md5.update(piece)).is_ok());
        all_read && <[u8; 16]>::from(md5.finalize()) == self.md5
    }

    fn of(note: Note, format: Format, made_bytes: u64, store: &Store) -> Self {
        Self {
            format,
            digest: note.digest,
            md5: note.md5,
            bytes: note.bytes,
            made_bytes,
            parts: note
                .frames
                .iter()
                .map(|frame| Part {
                    path: store.frame_path(&frame.key),
                    bytes: frame.bytes,
                })
                .collect(),
        }
    }
}

/// Packs the files of the list.
///
/// Fails with [`Error::Changed`] if a file is not what it was when it was chosen; then the list has
/// to be made again.
pub fn pack(list: &FileList, format: Format, store: &Store) -> Result<Archive, Error> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    pack_on(processors.min(MAX_THREADS), list, format, store)
}

pub(super) fn pack_on(
    threads: usize,
    list: &FileList,
    format: Format,
    store: &Store,
) -> Result<Archive, Error> {
    let fingerprint = fingerprint(list, format);
    if let Some(note) = store.note(&fingerprint, format) {
        return Ok(Archive::of(note, format, 0, store));
    }
    let known = Contents::of(list, &StatCache::load(&store.stat_cache()));
    let mut growing = Growing::new(format, store);
    let found = make_frames(threads, list, &known, &mut growing)?;
    let contents = known.with(&found);
    let archive = growing.finish(contents.digest(list));
    let settled = Settled::of(list, &found);
    if !found.is_empty() {
        settled.save(list, &contents, store)?;
    }
    // A file that is not settled may change under the same fingerprint; then the note would be wrong.
    if settled.is_all() {
        store.put_note(&fingerprint, &archive.note)?;
    }
    Ok(Archive::of(archive.note, format, archive.made_bytes, store))
}

/// Names the state of the list: equal ones have equal archives, as long as nothing in it was
/// changed in the moment in which it was read.
pub(super) fn fingerprint(list: &FileList, format: Format) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("flyte-rs bundle fingerprint 1");
    hasher.update(format.extension().as_bytes());
    for file in list.files() {
        frame::feed(&mut hasher, file);
        for number in [file.stamp.device, file.stamp.inode] {
            hasher.update(&number.to_le_bytes());
        }
        for number in [file.stamp.modified_ns, file.stamp.changed_ns] {
            hasher.update(&number.to_le_bytes());
        }
    }
    hasher.finalize().into()
}

/// What a worker keeps between frames.
struct Worker {
    compressor: Compressor,
    raw: Raw,
}

/// One frame as it leaves a worker.
struct Finished {
    key: Digest,
    bytes: u64,
    /// As many if it was compressed now, none if it was there.
    made_bytes: u64,
    segments: Vec<Segment>,
    /// What reading has shown; empty where nothing had to be read.
    seen: Vec<Seen>,
    /// The compressed bytes, if they are still in memory.
    fresh: Option<Vec<u8>>,
}

/// The content of each piece of each file, as far as it is known.
struct Contents {
    /// Where the pieces of a file begin.
    first: Vec<usize>,
    pieces: Vec<Option<Digest>>,
}

impl Contents {
    fn of(list: &FileList, cache: &StatCache) -> Self {
        let mut contents = Self {
            first: Vec::with_capacity(list.files().len()),
            pieces: Vec::with_capacity(list.files().len()),
        };
        for file in list.files() {
            contents.first.push(contents.pieces.len());
            let count = piece_count(file.size);
            match cache.digests(&frame::state_of(file), count) {
                Some(known) => contents.pieces.extend(known.iter().copied().map(Some)),
                None => contents.pieces.extend(std::iter::repeat_n(None, count)),
            }
        }
        contents
    }

    fn get(&self, segment: Segment) -> Option<Digest> {
        self.pieces[self.first[segment.file] + segment.piece]
    }

    /// Adds what reading has shown.
    fn with(mut self, found: &[(Segment, Seen)]) -> Self {
        for (segment, seen) in found {
            self.pieces[self.first[segment.file] + segment.piece] = Some(seen.digest);
        }
        self
    }

    /// The pieces of a file, when all are known.
    fn of_file(&self, file: usize, size: u64) -> Option<Vec<Digest>> {
        let first = self.first[file];
        self.pieces[first..first + piece_count(size)]
            .iter()
            .copied()
            .collect()
    }

    /// One hash of names, executable bits and contents.
    ///
    /// Each content is hashed on its own.
    fn digest(&self, list: &FileList) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("flyte-rs code bundle 2");
        for (index, file) in list.files().iter().enumerate() {
            frame::feed(&mut hasher, file);
            for digest in self.of_file(index, file.size).iter().flatten() {
                hasher.update(digest.as_bytes());
            }
        }
        hasher.finalize().into()
    }
}

/// Which files cannot change without showing it, see [`crate::files::stat_cache::is_settled`].
struct Settled(Vec<bool>);

impl Settled {
    fn of(list: &FileList, found: &[(Segment, Seen)]) -> Self {
        let mut settled = vec![true; list.files().len()];
        for (segment, seen) in found {
            settled[segment.file] &= seen.settled;
        }
        Self(settled)
    }

    fn is_all(&self) -> bool {
        !self.0.contains(&false)
    }

    /// Remembers what the settled files hold.
    fn save(&self, list: &FileList, contents: &Contents, store: &Store) -> Result<(), Error> {
        let known: Vec<_> = list
            .files()
            .iter()
            .enumerate()
            .filter(|(index, _)| self.0[*index])
            .filter_map(|(index, file)| {
                let pieces = contents.of_file(index, file.size)?;
                Some((frame::state_of(file), pieces))
            })
            .collect();
        let records = known.iter().map(|(state, pieces)| (*state, &pieces[..]));
        Ok(StatCache::save(&store.stat_cache(), records)?)
    }
}

/// The archive while frames are added to its end.
struct Growing<'a> {
    format: Format,
    store: &'a Store,
    resumption: Resumption,
    md5: Md5,
    frames: Vec<FrameNote>,
    made_bytes: u64,
}

/// The archive when nothing is added any more.
struct Grown {
    note: Note,
    made_bytes: u64,
}

impl<'a> Growing<'a> {
    fn new(format: Format, store: &'a Store) -> Self {
        Self {
            format,
            store,
            resumption: Resumption::new(store.recent(format)),
            md5: Md5::new(),
            frames: Vec::new(),
            made_bytes: 0,
        }
    }

    fn add(&mut self, made: &Finished) -> Result<(), Error> {
        let earlier = self.resumption.state(self.frames.len(), &made.key);
        if let Some(md5) = earlier.and_then(restore) {
            self.md5 = md5;
        } else if let Some(bytes) = &made.fresh {
            self.md5.update(bytes);
        } else {
            let path = self.store.frame_path(&made.key);
            read_in_pieces(&path, |piece| self.md5.update(piece))
                .map_err(files::Error::io("read", &path))?;
        }
        self.made_bytes += made.made_bytes;
        self.frames.push(FrameNote {
            key: made.key,
            bytes: made.bytes,
            md5_state: self.md5.serialize().to_vec(),
        });
        Ok(())
    }

    fn finish(self, digest: Digest) -> Grown {
        Grown {
            note: Note {
                format: self.format.extension().to_owned(),
                digest,
                md5: self.md5.finalize().into(),
                bytes: self.frames.iter().map(|frame| frame.bytes).sum(),
                frames: self.frames,
            },
            made_bytes: self.made_bytes,
        }
    }
}

/// Makes all frames and adds them in their order; tells what reading has shown.
fn make_frames(
    threads: usize,
    list: &FileList,
    known: &Contents,
    growing: &mut Growing<'_>,
) -> Result<Vec<(Segment, Seen)>, Error> {
    let layout = Layout::of(list);
    let mut found = Vec::new();
    let memory = Memory::default();
    let maker = Maker {
        list,
        format: growing.format,
        store: growing.store,
        known,
        expected: growing.resumption.lengths(),
        memory: &memory,
    };
    let worker = || {
        Ok(Worker {
            compressor: Compressor::new(maker.format).map_err(Error::Output)?,
            raw: Raw::default(),
        })
    };
    ordered::for_each(
        layout.frames.len(),
        threads,
        worker,
        |worker, index| maker.make(worker, &layout, &layout.frames[index]),
        |mut made| {
            growing.add(&made)?;
            found.extend(made.segments.iter().copied().zip(made.seen));
            if let Some(bytes) = made.fresh.take() {
                memory.put_back(bytes);
            }
            Ok(())
        },
    )?;
    Ok(found)
}

fn restore(state: &[u8]) -> Option<Md5> {
    let state = SerializedState::<Md5>::try_from(state).ok()?;
    Md5::deserialize(&state).ok()
}

/// Makes frames, on any thread.
struct Maker<'a> {
    list: &'a FileList,
    format: Format,
    store: &'a Store,
    known: &'a Contents,
    expected: HashMap<Digest, u64>,
    memory: &'a Memory,
}

/// Memory for compressed frames. It goes round: asking the system for 2 MiB each time costs as much
/// as hashing what comes into them.
///
/// The MD5 of the archive is slower than all else, and cannot be shared between processors. So
/// workers hand over the bytes of a frame only as long as few are waiting for it; it reads the
/// others back from where they are stored, while the workers are long at the next ones.
#[derive(Default)]
struct Memory {
    free: Mutex<Vec<Vec<u8>>>,
    handed_over: AtomicUsize,
}

/// Frames in memory that wait for their turn.
const MAX_HANDED_OVER: usize = 8;

impl Memory {
    fn take(&self) -> Vec<u8> {
        self.free().pop().unwrap_or_default()
    }

    /// Gives the bytes of a frame to the consumer, if not too many wait there.
    fn hand_over(&self, bytes: Vec<u8>) -> Option<Vec<u8>> {
        if self.handed_over.fetch_add(1, Ordering::Relaxed) < MAX_HANDED_OVER {
            return Some(bytes);
        }
        self.put_back(bytes);
        None
    }

    fn put_back(&self, bytes: Vec<u8>) {
        self.handed_over.fetch_sub(1, Ordering::Relaxed);
        self.free().push(bytes);
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Maker<'_> {
    fn make(&self, worker: &mut Worker, layout: &Layout, frame: &Frame) -> Result<Finished, Error> {
        let segments = segments(layout, frame);
        let known: Option<Vec<Digest>> = segments
            .iter()
            .map(|&segment| self.known.get(segment))
            .collect();
        if let Some(digests) = known {
            let key = frame::key(self.list, self.format, &segments, digests.into_iter());
            if let Some(bytes) = self.stored(&key) {
                return Ok(Finished {
                    key,
                    bytes,
                    made_bytes: 0,
                    segments,
                    seen: Vec::new(),
                    fresh: None,
                });
            }
        }
        let seen = frame::read(self.list, frame, &segments, &mut worker.raw)?;
        let digests = seen.iter().map(|seen| seen.digest);
        let key = frame::key(self.list, self.format, &segments, digests);
        let mut made_bytes = 0;
        let (bytes, fresh) = match self.stored(&key) {
            Some(bytes) => (bytes, None),
            None => {
                let mut out = self.memory.take();
                let compressed = worker.compressor.compress(worker.raw.bytes(), &mut out);
                compressed.map_err(Error::Output)?;
                self.store.put_frame(&key, &out)?;
                made_bytes = out.len() as u64;
                (made_bytes, self.memory.hand_over(out))
            }
        };
        Ok(Finished {
            key,
            bytes,
            made_bytes,
            segments,
            seen,
            fresh,
        })
    }

    /// The length of a frame that is there and not damaged, as far as its length tells.
    fn stored(&self, key: &Digest) -> Option<u64> {
        let bytes = self.store.frame_bytes(key)?;
        let expected = self.expected.get(key);
        expected
            .is_none_or(|expected| *expected == bytes)
            .then_some(bytes)
    }
}

//! Makes the archive, or finds that it is made.
//!
//! The tar stream is cut into frames (see `layout`), and each becomes a zstd frame or gzip member
//! of its own; both formats define such concatenations to mean the whole. Frames are made on all
//! processors, each file is read once, and the result depends neither on how many processors there
//! are nor on what was made before. A frame that an earlier archive had is not made again, and a
//! list that has not changed at all is not even read.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
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
use crate::files::{self, Digest};

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
        let mut buffer = buffer();
        let mut parts = self.parts.iter();
        let all_read = parts.all(|part| read_into(&mut md5, &part.path, &mut buffer).is_ok());
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

/// Small enough to stay in the cache of a processor between reading and hashing.
fn buffer() -> Vec<u8> {
    vec![0; 1 << 17]
}

fn read_into(md5: &mut Md5, path: &Path, buffer: &mut [u8]) -> io::Result<()> {
    let mut file = fs::File::open(path)?;
    loop {
        match file.read(buffer)? {
            0 => return Ok(()),
            count => md5.update(&buffer[..count]),
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
    let mut packing = Packing::new(list, format, store);
    packing.run(threads)?;
    packing.finish(&fingerprint)
}

/// Names the state of the list: equal ones have equal archives, as long as nothing in it was
/// changed in the moment in which it was read.
pub(super) fn fingerprint(list: &FileList, format: Format) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("flyte-rs bundle fingerprint 1");
    hasher.update(format.extension().as_bytes());
    for file in list.files() {
        hasher.update(&(file.name.len() as u64).to_le_bytes());
        hasher.update(file.name.as_bytes());
        hasher.update(&[u8::from(file.executable)]);
        for number in [file.size, file.stamp.device, file.stamp.inode] {
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

    fn set(&mut self, segment: Segment, digest: Digest) {
        self.pieces[self.first[segment.file] + segment.piece] = Some(digest);
    }

    /// The pieces of a file, when all are known.
    fn of_file(&self, file: usize, size: u64) -> Option<Vec<Digest>> {
        let first = self.first[file];
        self.pieces[first..first + piece_count(size)]
            .iter()
            .copied()
            .collect()
    }
}

struct Packing<'a> {
    list: &'a FileList,
    format: Format,
    store: &'a Store,
    contents: Contents,
    /// Files that may change without showing it, see [`crate::files::stat_cache::is_settled`].
    unsettled: Vec<bool>,
    anything_read: bool,
    resumption: Resumption,
    md5: Md5,
    /// For frames that are read back.
    buffer: Vec<u8>,
    note: Note,
    made_bytes: u64,
}

impl<'a> Packing<'a> {
    fn new(list: &'a FileList, format: Format, store: &'a Store) -> Self {
        let cache = StatCache::load(&store.stat_cache());
        Self {
            list,
            format,
            store,
            contents: Contents::of(list, &cache),
            unsettled: vec![false; list.files().len()],
            anything_read: false,
            resumption: Resumption::new(store.recent(format)),
            md5: Md5::new(),
            buffer: buffer(),
            note: Note {
                format: format.extension().to_owned(),
                digest: blake3::hash(b"").into(),
                md5: [0; 16],
                bytes: 0,
                frames: Vec::new(),
            },
            made_bytes: 0,
        }
    }

    fn run(&mut self, threads: usize) -> Result<(), Error> {
        let layout = Layout::of(self.list);
        // Workers read what was known before; what they find out is kept here until the end.
        let known = std::mem::replace(
            &mut self.contents,
            Contents {
                first: Vec::new(),
                pieces: Vec::new(),
            },
        );
        let mut found = Vec::new();
        let memory = Memory::default();
        let maker = Maker {
            list: self.list,
            format: self.format,
            store: self.store,
            known: &known,
            expected: self.resumption.lengths(),
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
                for (&segment, seen) in made.segments.iter().zip(&made.seen) {
                    found.push((segment, *seen));
                }
                self.take(&made)?;
                if let Some(bytes) = made.fresh.take() {
                    memory.put_back(bytes);
                }
                Ok(())
            },
        )?;
        self.contents = known;
        self.anything_read = !found.is_empty();
        for (segment, seen) in found {
            self.contents.set(segment, seen.digest);
            self.unsettled[segment.file] |= !seen.settled;
        }
        Ok(())
    }

    /// Adds a frame to the end of the archive.
    fn take(&mut self, made: &Finished) -> Result<(), Error> {
        let index = self.note.frames.len();
        let earlier = self.resumption.state(index, &made.key);
        if let Some(md5) = earlier.and_then(restore) {
            self.md5 = md5;
        } else if let Some(bytes) = &made.fresh {
            self.md5.update(bytes);
        } else {
            let path = self.store.frame_path(&made.key);
            read_into(&mut self.md5, &path, &mut self.buffer)
                .map_err(files::Error::io("read", &path))?;
        }
        self.made_bytes += made.made_bytes;
        self.note.bytes += made.bytes;
        self.note.frames.push(FrameNote {
            key: made.key,
            bytes: made.bytes,
            md5_state: self.md5.serialize().to_vec(),
        });
        Ok(())
    }

    fn finish(mut self, fingerprint: &Digest) -> Result<Archive, Error> {
        self.note.md5 = self.md5.clone().finalize().into();
        self.note.digest = self.digest();
        if self.anything_read {
            self.save_contents()?;
        }
        // An unsettled file may change under the same fingerprint; then the note would be wrong.
        if !self.unsettled.contains(&true) {
            self.store.put_note(fingerprint, &self.note)?;
        }
        Ok(Archive::of(
            self.note,
            self.format,
            self.made_bytes,
            self.store,
        ))
    }

    /// One hash of names, executable bits and contents.
    ///
    /// Each name is preceded by its length and each content is hashed on its own, so that no two
    /// different lists are fed as the same bytes.
    fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("flyte-rs code bundle 2");
        for (index, file) in self.list.files().iter().enumerate() {
            hasher.update(&(file.name.len() as u64).to_le_bytes());
            hasher.update(file.name.as_bytes());
            hasher.update(&[u8::from(file.executable)]);
            hasher.update(&file.size.to_le_bytes());
            for digest in self.contents.of_file(index, file.size).iter().flatten() {
                hasher.update(digest.as_bytes());
            }
        }
        hasher.finalize().into()
    }

    fn save_contents(&self) -> Result<(), Error> {
        let settled: Vec<_> = self
            .list
            .files()
            .iter()
            .enumerate()
            .filter(|(index, _)| !self.unsettled[*index])
            .filter_map(|(index, file)| {
                let pieces = self.contents.of_file(index, file.size)?;
                Some((frame::state_of(file), pieces))
            })
            .collect();
        let records = settled.iter().map(|(state, pieces)| (*state, &pieces[..]));
        Ok(StatCache::save(&self.store.stat_cache(), records)?)
    }
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

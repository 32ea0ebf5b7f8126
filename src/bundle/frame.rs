//! One frame of the archive: reads its files, knows its key, compresses it.
//!
//! A frame's raw bytes are whole tar entries, or a part of a large one. Its key is a hash of all
//! that they follow from, so a frame whose files are known need not be read to be recognized. Where
//! frames are kept is not known here.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::layout::{Frame, Layout, piece_count, piece_range};
use super::{BundleFile, Error, FileList, Format};
use crate::files::stat_cache::{State, is_settled, now_ns};
use crate::files::{self, Digest};

const RECORD_BYTES: usize = 512;
const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: u32 = 6;
/// For what cannot be made smaller, which zstd finds out by itself at the speed of a copy.
const GZIP_LEVEL_INCOMPRESSIBLE: u32 = 0;

/// A part of a file in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Position in the list.
    pub(super) file: usize,
    pub(super) piece: usize,
}

/// The parts of files in a frame, in their order.
pub(super) fn segments(layout: &Layout, frame: &Frame) -> Vec<Segment> {
    match frame {
        Frame::Files(range) => layout.small[range.clone()]
            .iter()
            .map(|&file| Segment { file, piece: 0 })
            .collect(),
        &Frame::Piece { file, piece } => vec![Segment { file, piece }],
        Frame::End => Vec::new(),
    }
}

/// What reading a segment has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) digest: Digest,
    /// Whether the file's stamp will tell of the next change, see [`is_settled`].
    pub(super) settled: bool,
}

/// Names what a frame of this format holds.
pub(super) fn key(
    list: &FileList,
    format: Format,
    segments: &[Segment],
    digests: impl Iterator<Item = Digest>,
) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("flyte-rs bundle frame 1");
    hasher.update(format.extension().as_bytes());
    for (segment, digest) in segments.iter().zip(digests) {
        feed(&mut hasher, &list.files()[segment.file]);
        hasher.update(&(segment.piece as u64).to_le_bytes());
        hasher.update(digest.as_bytes());
    }
    hasher.finalize().into()
}

/// Feeds what a bundle keeps of a file beside its content.
///
/// The name is preceded by its length, so that no two different lists are fed as the same bytes.
pub(super) fn feed(hasher: &mut blake3::Hasher, file: &BundleFile) {
    hasher.update(&(file.name.len() as u64).to_le_bytes());
    hasher.update(file.name.as_bytes());
    hasher.update(&[u8::from(file.executable)]);
    hasher.update(&file.size.to_le_bytes());
}

/// The raw bytes of a frame, in memory that is used for the next frame again.
#[derive(Default)]
pub(super) struct Raw {
    /// Only the first `used` count; what is behind them is of an earlier frame.
    memory: Vec<u8>,
    used: usize,
}

impl Raw {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[..self.used]
    }

    /// Adds `length` bytes of any content.
    fn extend(&mut self, length: usize) -> &mut [u8] {
        let start = self.used;
        self.used = start.saturating_add(length);
        if self.memory.len() < self.used {
            self.memory.resize(self.used, 0);
        }
        &mut self.memory[start..self.used]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.extend(bytes.len()).copy_from_slice(bytes);
    }

    /// Adds zeros up to the end of the record.
    fn pad(&mut self) {
        let missing = self.used.next_multiple_of(RECORD_BYTES) - self.used;
        self.extend(missing).fill(0);
    }
}

/// Reads a frame into `raw`, in place of what was there.
///
/// Fails with [`Error::Changed`] where a file is not as it was when it was chosen.
pub(super) fn read(
    list: &FileList,
    frame: &Frame,
    segments: &[Segment],
    raw: &mut Raw,
) -> Result<Vec<Seen>, Error> {
    raw.used = 0;
    if *frame == Frame::End {
        raw.extend(2 * RECORD_BYTES).fill(0);
    }
    segments
        .iter()
        .map(|segment| {
            let file = &list.files()[segment.file];
            append(&list.path_of(file), file, segment.piece, raw)
        })
        .collect()
}

fn append(path: &Path, file: &BundleFile, piece: usize, raw: &mut Raw) -> Result<Seen, Error> {
    let range = piece_range(file.size, piece);
    if piece == 0 {
        write_header(raw, file).map_err(Error::Output)?;
    }
    let read_at_ns = now_ns();
    // A pipe that took the file's place would otherwise be waited for.
    let opened = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(|error| lost(path, error))?;
    let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let content = raw.extend(length);
    let read = opened.read_exact_at(content, range.start);
    let digest = Digest::from(blake3::hash(content));
    // Asked afterwards, the state tells of changes before and during the reading.
    let now = opened.metadata().map_err(files::Error::io("read", path))?;
    if State::of(&now) != state_of(file) {
        return Err(Error::Changed {
            path: path.to_path_buf(),
        });
    }
    read.map_err(|error| lost(path, error))?;
    if piece + 1 == piece_count(file.size) {
        raw.pad();
    }
    Ok(Seen {
        digest,
        settled: is_settled(&file.stamp, read_at_ns),
    })
}

/// The padding at the end of a piece that is not the last one is none: pieces are whole records.
const _: () = assert!(super::layout::PIECE_BYTES.is_multiple_of(RECORD_BYTES as u64));

pub(super) fn state_of(file: &BundleFile) -> State {
    State {
        size: file.size,
        stamp: file.stamp,
    }
}

/// A file that was there a moment ago and is not, or has become shorter, has changed.
fn lost(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => Error::Changed {
            path: path.to_path_buf(),
        },
        _ => files::Error::io("read", path)(error).into(),
    }
}

/// The ustar header of a file, preceded by a pax record where the name does not fit into it.
fn write_header(raw: &mut Raw, file: &BundleFile) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    if !file.name.is_ascii() || header.set_path(&*file.name).is_err() {
        write_pax_path(raw, &file.name)?;
        header.set_path("long-name")?;
    }
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(if file.executable { 0o755 } else { 0o644 });
    header.set_size(file.size);
    finish_header(raw, header);
    Ok(())
}

fn finish_header(raw: &mut Raw, mut header: tar::Header) {
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    raw.push(header.as_bytes());
}

/// An extended header with the one record `path`.
fn write_pax_path(raw: &mut Raw, name: &str) -> io::Result<()> {
    let rest = format!(" path={name}\n");
    // The length counts its own digits.
    let mut length = rest.len() + 1;
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    let record = format!("{length}{rest}");
    let mut header = tar::Header::new_ustar();
    header.set_path("pax-header")?;
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_mode(0o644);
    header.set_size(record.len() as u64);
    finish_header(raw, header);
    raw.push(record.as_bytes());
    raw.pad();
    Ok(())
}

/// Compresses one frame after the other; equal frames give equal bytes on every machine.
pub(super) enum Compressor {
    TarZst(zstd::bulk::Compressor<'static>),
    TarGz,
}

impl Compressor {
    pub(super) fn new(format: Format) -> io::Result<Self> {
        Ok(match format {
            Format::TarZst => {
                let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
                compressor.include_checksum(true)?;
                Self::TarZst(compressor)
            }
            Format::TarGz => Self::TarGz,
        })
    }

    /// Compresses into `out`, in place of what was there.
    pub(super) fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        match self {
            Self::TarZst(compressor) => {
                out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
                compressor.compress_to_buffer(raw, out)?;
                Ok(())
            }
            Self::TarGz => {
                let level = if looks_incompressible(raw) {
                    GZIP_LEVEL_INCOMPRESSIBLE
                } else {
                    GZIP_LEVEL
                };
                let mut encoder = flate2::GzBuilder::new()
                    .mtime(0)
                    .operating_system(255) // unknown, or the bytes would differ between systems
                    .write(out, flate2::Compression::new(level));
                encoder.write_all(raw)?;
                encoder.finish()?;
                Ok(())
            }
        }
    }
}

/// Whether the bytes are as even as those of encrypted or compressed data, judged by samples.
///
/// Such pieces of a bundle (images, weights, archives) cost as much as all source code around them
/// when a compressor searches them in earnest, and come out as they went in.
fn looks_incompressible(raw: &[u8]) -> bool {
    const SAMPLES: usize = 16;
    const SAMPLE_BYTES: usize = 4096;
    if raw.len() < SAMPLES * SAMPLE_BYTES {
        return false;
    }
    let stride = (raw.len() - SAMPLE_BYTES) / (SAMPLES - 1);
    let sample: Vec<u8> = (0..SAMPLES)
        .flat_map(|index| &raw[index * stride..][..SAMPLE_BYTES])
        .copied()
        .collect();
    is_even(&sample) && !repeats(&sample)
}

/// Whether all byte values are about as frequent as each other.
fn is_even(sample: &[u8]) -> bool {
    let mut counts = [0_u64; 256];
    for &byte in sample {
        counts[usize::from(byte)] += 1;
    }
    // Pearson's test in whole numbers: even bytes have a sum near 255, text one of 100,000s.
    let expected = (sample.len() / 256) as u64;
    let deviation: u64 = counts
        .iter()
        .map(|&count| count.abs_diff(expected).pow(2))
        .sum();
    deviation < expected * 2000
}

/// Whether there is something to gain although no value is rare, as in a table of numbers.
fn repeats(sample: &[u8]) -> bool {
    zstd::bulk::compress(sample, 1).is_ok_and(|out| out.len() < sample.len() / 20 * 19)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes without any order, the same each time.
    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn noise_is_passed_through_and_everything_else_is_compressed() {
        assert!(looks_incompressible(&noise(1 << 20)));
        let text = include_bytes!("frame.rs").repeat(20);
        assert!(!looks_incompressible(&text));
        let floats: Vec<u8> = (0..300_000_u32)
            .flat_map(|n| f32::from_bits(n.wrapping_mul(2_654_435_761) >> 8).to_le_bytes())
            .collect();
        assert!(!looks_incompressible(&floats));
        let ramp: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        assert!(is_even(&ramp) && !looks_incompressible(&ramp));
        assert!(!looks_incompressible(b"short"));
        for format in [Format::TarZst, Format::TarGz] {
            let mut compressor = Compressor::new(format).unwrap();
            let mut out = Vec::new();
            compressor.compress(&noise(1 << 20), &mut out).unwrap();
            assert!(out.len() < (1 << 20) + 1024, "{}", out.len());
            compressor.compress(&text, &mut out).unwrap();
            assert!(out.len() < text.len() / 3);
        }
    }

    #[test]
    fn the_length_of_a_pax_record_counts_itself() {
        for length in [1, 90, 91, 92, 93, 989, 990, 991, 992, 9985] {
            let mut raw = Raw::default();
            write_pax_path(&mut raw, &"x".repeat(length)).unwrap();
            let record = &raw.bytes()[RECORD_BYTES..];
            let end = record.iter().position(|&byte| byte == b'\n').unwrap() + 1;
            let text = std::str::from_utf8(&record[..end]).unwrap();
            let (count, _) = text.split_once(' ').unwrap();
            assert_eq!(count.parse::<usize>().unwrap(), end, "{length}");
        }
    }
}

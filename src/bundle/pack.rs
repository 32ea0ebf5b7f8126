//! Writes the archive: the same bytes for the same files on every machine.
//!
//! The tar stream is cut into blocks of fixed size and each block becomes a frame (zstd) or member
//! (gzip) of its own. The formats define such concatenations to mean the whole, the blocks can be
//! compressed on all processors, and the result does not depend on how many there are. Files are
//! read once, and no more than two rounds of blocks are in memory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use md5::{Digest as _, Md5};
use rayon::prelude::*;

use super::{BundleFile, Error, FileList};
use crate::files;

/// Bytes of one compressed block before compression.
const BLOCK_BYTES: usize = 2 << 20;
/// Blocks compressed at the same time, whatever the number of processors.
const MAX_ROUND: usize = 16;
const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: u32 = 6;

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

    fn compress(self, block: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::TarZst => {
                let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
                compressor.include_checksum(true)?;
                compressor.compress(block)
            }
            Self::TarGz => {
                let mut encoder = flate2::GzBuilder::new()
                    .mtime(0)
                    .operating_system(255) // unknown, or the bytes would differ between systems
                    .write(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
                encoder.write_all(block)?;
                encoder.finish()
            }
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    /// Of the compressed bytes, as object stores ask for it.
    pub md5: [u8; 16],
}

/// Packs the files into `out`.
///
/// Fails if a file is not there any more or has another size than when it was chosen.
pub fn write_archive(files: &FileList, format: Format, out: impl Write) -> Result<Written, Error> {
    let mut tar = tar::Builder::new(Blocks::new(format, Counted::new(out)));
    for file in files.files() {
        append(&mut tar, file, &files.path_of(file))?;
    }
    tar.into_inner()
        .and_then(Blocks::finish)
        .and_then(Counted::finish)
        .map_err(Error::Output)
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    file: &BundleFile,
    path: &Path,
) -> Result<(), Error> {
    let opened = File::open(path).map_err(files::Error::io("open", path))?;
    let header = header(tar, file).map_err(Error::Output)?;
    let mut content = Content {
        // One byte more than announced shows that the file has grown.
        inner: opened.take(file.size.saturating_add(1)),
        seen: 0,
        failure: None,
    };
    let appended = tar.append(&header, &mut content);
    if let Some(failure) = content.failure {
        return Err(files::Error::io("read", path)(failure).into());
    }
    appended.map_err(Error::Output)?;
    if content.seen == file.size {
        Ok(())
    } else {
        Err(Error::Changed {
            path: path.to_path_buf(),
        })
    }
}

/// The ustar header of a file, preceded by a pax record where the name does not fit into it.
fn header<W: Write>(tar: &mut tar::Builder<W>, file: &BundleFile) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    if !file.name.is_ascii() || header.set_path(&*file.name).is_err() {
        tar.append_pax_extensions([("path", file.name.as_bytes())])?;
        header.set_path("long-name")?;
    }
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(if file.executable { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(file.size);
    header.set_cksum();
    Ok(header)
}

/// Tells a failure to read the file from a failure to write the archive.
struct Content<R> {
    inner: R,
    seen: u64,
    failure: Option<io::Error>,
}

impl<R: Read> Read for Content<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(count) => {
                self.seen += count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.failure = Some(error);
                Err(io::Error::other("the file cannot be read"))
            }
        }
    }
}

/// Collects blocks and compresses a round of them in parallel.
struct Blocks<W> {
    format: Format,
    out: W,
    current: Vec<u8>,
    full: Vec<Vec<u8>>,
    round: usize,
}

impl<W: Write> Blocks<W> {
    fn new(format: Format, out: W) -> Self {
        Self {
            format,
            out,
            current: Vec::new(),
            full: Vec::new(),
            round: rayon::current_num_threads().clamp(1, MAX_ROUND),
        }
    }

    fn close_block(&mut self) -> io::Result<()> {
        self.full.push(std::mem::take(&mut self.current));
        if self.full.len() < self.round {
            return Ok(());
        }
        self.write_round()
    }

    fn write_round(&mut self) -> io::Result<()> {
        let format = self.format;
        let compressed: Vec<Vec<u8>> = self
            .full
            .par_iter()
            .map(|block| format.compress(block))
            .collect::<io::Result<_>>()?;
        self.full.clear();
        compressed
            .iter()
            .try_for_each(|block| self.out.write_all(block))
    }

    fn finish(mut self) -> io::Result<W> {
        if !self.current.is_empty() {
            self.close_block()?;
        }
        self.write_round()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Blocks<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.current.capacity() == 0 {
            self.current.reserve_exact(BLOCK_BYTES);
        }
        let count = bytes.len().min(BLOCK_BYTES - self.current.len());
        self.current.extend_from_slice(&bytes[..count]);
        if self.current.len() == BLOCK_BYTES {
            self.close_block()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // a block that is cut short here would make the bytes depend on the caller
    }
}

/// Counts and hashes what passes through.
struct Counted<W> {
    out: W,
    md5: Md5,
    bytes: u64,
}

impl<W: Write> Counted<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            md5: Md5::new(),
            bytes: 0,
        }
    }

    fn finish(mut self) -> io::Result<Written> {
        self.out.flush()?;
        Ok(Written {
            bytes: self.bytes,
            md5: self.md5.finalize().into(),
        })
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.md5.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

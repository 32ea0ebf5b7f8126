//! One layer: entries in, a compressed archive with its two digests out.
//!
//! The bytes depend on nothing but the entries: they are sorted, times and names of users are
//! fixed. What the entries mean is somebody else's business.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::cache::{Cache, key};
use crate::image::Error;
use crate::image::digest::{self, Kind};
use crate::image::registry::Descriptor;

const ZSTD_LEVEL: i32 = 9;

/// How layers are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// Read by every engine and registry.
    #[default]
    Gzip,
    /// Smaller and quicker, but Docker reads it from version 23 on.
    Zstd,
}

impl Packing {
    /// Reads the words of the configuration (`image.compression`).
    pub fn parse(word: &str) -> Result<Self, Error> {
        match word {
            "" | "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            other => Err(Error::Invalid {
                method: "image.compression",
                problem: format!("there is no `{other}`; it takes `gzip` or `zstd`"),
            }),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// Who owns an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Folder,
    File(PathBuf),
    Text(Vec<u8>),
    Link(PathBuf),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub mode: u32,
    pub owner: Owner,
    pub node: Node,
}

/// The entries of a layer, by their path below `/`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Layer {
    pub entries: BTreeMap<PathBuf, Entry>,
}

impl Layer {
    /// Adds an entry; a later one of the same path replaces it.
    pub(super) fn add(&mut self, path: impl AsRef<Path>, mode: u32, owner: Owner, node: Node) {
        let path = path.as_ref();
        let path = path.strip_prefix("/").unwrap_or(path).to_path_buf();
        if !path.as_os_str().is_empty() {
            self.entries.insert(path, Entry { mode, owner, node });
        }
    }

    pub(super) fn folder(&mut self, path: impl AsRef<Path>, owner: Owner) {
        self.add(path, 0o755, owner, Node::Folder);
    }

    /// Adds a file as it lies on this machine.
    pub(super) fn file(&mut self, path: &Path, from: &Path, owner: Owner) -> Result<(), Error> {
        let executable = digest::is_executable(from)?;
        self.add(
            path,
            mode(executable),
            owner,
            Node::File(from.to_path_buf()),
        );
        Ok(())
    }

    /// Adds what was found by walking a folder of this machine.
    pub(super) fn found(
        &mut self,
        path: &Path,
        root: &Path,
        entries: Vec<digest::Entry>,
        owner: Owner,
    ) {
        self.folder(path, owner);
        for entry in entries {
            let to = path.join(&entry.path);
            match entry.kind {
                Kind::Folder => self.folder(to, owner),
                Kind::File { executable } => {
                    let from = root.join(&entry.path);
                    self.add(to, mode(executable), owner, Node::File(from));
                }
                Kind::Link { target } => self.add(to, 0o777, owner, Node::Link(target)),
            }
        }
    }

    /// What the entries are, whatever they are made from.
    pub(super) fn digest(&self) -> Result<String, Error> {
        use std::fmt::Write as _;
        let mut text = String::new();
        for (path, entry) in &self.entries {
            let node = match &entry.node {
                Node::Folder => "folder".to_owned(),
                Node::File(from) => digest::file(from)?,
                Node::Text(bytes) => blake3::hash(bytes).to_hex().to_string(),
                Node::Link(target) => format!("link {}", target.display()),
            };
            let Owner { uid, gid } = entry.owner;
            let length = path.as_os_str().len();
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "{length} {} {:o} {uid} {gid} {node:?}",
                path.display(),
                entry.mode
            );
        }
        Ok(blake3::hash(text.as_bytes()).to_hex().to_string())
    }
}

fn mode(executable: bool) -> u32 {
    if executable { 0o755 } else { 0o644 }
}

/// A layer as a registry holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Packed {
    pub blob: Descriptor,
    /// Digest of what was compressed.
    pub diff_id: String,
}

impl Packed {
    /// The layer packed before under `key`, if its blob is still there.
    pub(super) fn recall(cache: &Cache, key: &str) -> Option<Self> {
        let packed: Self = cache.recall("layers", key)?;
        let path = cache.whole_blob(&packed.blob.digest, packed.blob.size)?;
        Cache::touch(&path);
        Some(packed)
    }

    /// A layer of files that somebody may be editing: the one packed before of the same content, or a
    /// new one.
    pub(super) fn of_files(cache: &Cache, packing: Packing, layer: &Layer) -> Result<Self, Error> {
        let digest = layer.digest()?;
        let key = key(&["files", &digest, packing.name()]);
        if let Some(packed) = Self::recall(cache, &key) {
            return Ok(packed);
        }
        let packed = Self::pack(cache, packing, layer)?;
        // They were read once more, and what is kept has to be what the key says.
        if layer.digest()? != digest {
            return Err(Error::Changed);
        }
        cache.remember("layers", &key, &packed)?;
        Ok(packed)
    }

    /// Packs a layer and keeps it under `key`.
    pub(super) fn make(
        cache: &Cache,
        key: &str,
        packing: Packing,
        layer: &Layer,
    ) -> Result<Self, Error> {
        let packed = Self::pack(cache, packing, layer)?;
        cache.remember("layers", key, &packed)?;
        Ok(packed)
    }

    fn pack(cache: &Cache, packing: Packing, layer: &Layer) -> Result<Self, Error> {
        let mut file = cache.temporary()?;
        let path = file.path().to_path_buf();
        let mut out = Hashing::new(io::BufWriter::with_capacity(1 << 17, file.as_file_mut()));
        let diff_id = match packing {
            Packing::Gzip => {
                let zip = GzBuilder::new()
                    .operating_system(255)
                    .write(&mut out, Compression::default());
                let (mut zip, diff_id) = archive(zip, layer)?;
                zip.try_finish().map_err(Error::store("write", &path))?;
                drop(zip);
                diff_id
            }
            Packing::Zstd => {
                let zip = zstd::Encoder::new(&mut out, ZSTD_LEVEL);
                let zip = zip.map_err(Error::store("write", &path))?;
                let (zip, diff_id) = archive(zip, layer)?;
                zip.finish().map_err(Error::store("write", &path))?;
                diff_id
            }
        };
        out.flush().map_err(Error::store("write", &path))?;
        let (digest, size) = out.finish();
        let packed = Self {
            blob: Descriptor {
                media_type: packing.media_type().to_owned(),
                digest,
                size,
                platform: None,
            },
            diff_id,
        };
        cache.keep(file, &cache.blob(&packed.blob.digest))?;
        Ok(packed)
    }
}

fn archive<W: Write>(out: W, layer: &Layer) -> Result<(W, String), Error> {
    let mut tar = tar::Builder::new(Hashing::new(out));
    for (path, entry) in &layer.entries {
        append(&mut tar, path, entry).map_err(|source| match &entry.node {
            Node::File(from) => Error::unreadable(from)(source),
            Node::Folder | Node::Text(_) | Node::Link(_) => Error::store("write", path)(source),
        })?;
    }
    let out = tar.into_inner().map_err(Error::store("write", "a layer"))?;
    let inner = out.inner_digest();
    Ok(inner)
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &Path, entry: &Entry) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.owner.uid.into());
    header.set_gid(entry.owner.gid.into());
    header.set_mtime(0);
    header.set_size(0);
    match &entry.node {
        Node::Folder => {
            header.set_entry_type(EntryType::Directory);
            let mut name = path.as_os_str().to_owned();
            name.push("/");
            tar.append_data(&mut header, Path::new(&name), io::empty())
        }
        Node::Link(target) => {
            header.set_entry_type(EntryType::Symlink);
            tar.append_link(&mut header, path, target)
        }
        Node::Text(bytes) => {
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, path, bytes.as_slice())
        }
        Node::File(from) => {
            let file = std::fs::File::open(from)?;
            let size = file.metadata()?.len();
            header.set_size(size);
            let mut exact = Exact {
                left: size,
                inner: file,
            };
            tar.append_data(&mut header, path, &mut exact)?;
            match exact.left {
                0 => Ok(()),
                _ => Err(io::Error::other("it became shorter while it was read")),
            }
        }
    }
}

/// Gives as many bytes as the header says, should the file grow meanwhile.
struct Exact<R> {
    left: u64,
    inner: R,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = self.inner.read(&mut buffer[..limit])?;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Hashes and counts what passes.
pub(super) struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    pub(super) fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            size: 0,
        }
    }

    /// The digest as registries write it, and the number of bytes.
    pub(super) fn finish(self) -> (String, u64) {
        let size = self.size;
        (self.inner_digest().1, size)
    }

    fn inner_digest(self) -> (W, String) {
        use std::fmt::Write as _;
        let mut text = "sha256:".to_owned();
        for byte in self.hasher.finalize() {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        (self.inner, text)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn packed(dir: &Path, layer: &Layer, packing: Packing) -> (Cache, Packed) {
        let cache = Cache::open(dir).unwrap();
        let packed = Packed::make(&cache, "k", packing, layer).unwrap();
        (cache, packed)
    }

    fn sample(dir: &Path) -> Layer {
        let file = dir.join("script.sh");
        std::fs::write(&file, "echo").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut layer = Layer::default();
        let owner = Owner {
            uid: 1000,
            gid: 100,
        };
        layer.add("/z/text", 0o644, owner, Node::Text(b"hello".to_vec()));
        layer.folder("/z", owner);
        layer
            .file(Path::new("/a/script.sh"), &file, Owner::default())
            .unwrap();
        let long = format!("/{}/link", "x".repeat(200));
        layer.add(long, 0o777, owner, Node::Link("../z/text".into()));
        layer
    }

    #[test]
    fn a_layer_reads_back_as_it_was_meant() {
        let dir = tempfile::tempdir().unwrap();
        let layer = sample(dir.path());
        for packing in [Packing::Gzip, Packing::Zstd] {
            let (cache, packed) = packed(dir.path(), &layer, packing);
            let file = std::fs::File::open(cache.blob(&packed.blob.digest)).unwrap();
            let reader: Box<dyn Read> = match packing {
                Packing::Gzip => Box::new(flate2::read::GzDecoder::new(file)),
                Packing::Zstd => Box::new(zstd::Decoder::new(file).unwrap()),
            };
            let mut archive = tar::Archive::new(reader);
            let seen: Vec<_> = archive
                .entries()
                .unwrap()
                .map(|entry| {
                    let entry = entry.unwrap();
                    let header = entry.header();
                    assert_eq!(header.mtime().unwrap(), 0);
                    let path = entry.path().unwrap().to_string_lossy().into_owned();
                    (path, header.mode().unwrap(), header.uid().unwrap())
                })
                .collect();
            let link = format!("{}/link", "x".repeat(200));
            assert_eq!(
                seen,
                [
                    ("a/script.sh".to_owned(), 0o755, 0),
                    (link, 0o777, 1000),
                    ("z/".to_owned(), 0o755, 1000),
                    ("z/text".to_owned(), 0o644, 1000),
                ]
            );
        }
    }

    #[test]
    fn files_are_packed_once_for_the_same_content() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let of_files = || Packed::of_files(&cache, Packing::Gzip, &sample(dir.path())).unwrap();
        let packed = of_files();
        let blob = cache.blob(&packed.blob.digest);
        let written = std::fs::metadata(&blob).unwrap().ino();
        assert_eq!(of_files(), packed);
        assert_eq!(std::fs::metadata(&blob).unwrap().ino(), written);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_changes_while_it_is_packed_leaves_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        // Something else each time that it is read.
        let from = Path::new("/proc/sys/kernel/random/uuid");
        let mut layer = Layer::default();
        let owner = Owner::default();
        layer.file(Path::new("/a"), from, owner).unwrap();
        let error = Packed::of_files(&cache, Packing::Gzip, &layer).unwrap_err();
        assert!(matches!(error, Error::Changed), "{error}");
        let records = std::fs::read_dir(dir.path().join("cache/images/layers"));
        assert_eq!(records.unwrap().count(), 0);
    }

    #[test]
    fn equal_entries_are_equal_bytes_and_both_digests_are_true() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (cache, first) = packed(one.path(), &sample(one.path()), Packing::Gzip);
        let (_, second) = packed(two.path(), &sample(two.path()), Packing::Gzip);
        assert_eq!(first, second);
        let bytes = std::fs::read(cache.blob(&first.blob.digest)).unwrap();
        assert_eq!(crate::image::registry::digest(&bytes), first.blob.digest);
        assert_eq!(bytes.len() as u64, first.blob.size);
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_slice())
            .read_to_end(&mut plain)
            .unwrap();
        assert_eq!(crate::image::registry::digest(&plain), first.diff_id);
        assert_eq!(Packed::recall(&cache, "k").unwrap(), first);
        std::fs::write(cache.blob(&first.blob.digest), "cut").unwrap();
        assert_eq!(Packed::recall(&cache, "k"), None);
    }
}

//! Unpacks archives whose content is not trusted.
//!
//! Nothing is ever written outside the folder asked for, an archive cannot grow beyond the limits,
//! and a folder counts as unpacked only once its marker is there, which is written last. Owners
//! and times are not taken over. The marker goes by the archive's file name: whoever names two
//! different archives the same has to unpack them to different folders.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use crate::crash;

use super::{Error, FileLock, folder_of, lock_exclusive, try_lock_exclusive, write_atomic};

/// What an archive spends on headers and long names between two entries; more is an attack, since
/// names are held in memory.
const HEADER_BYTES: u64 = 1 << 20;
const STAGING_PREFIX: &str = ".flyte-unpack-";
#[cfg(target_os = "linux")]
/// Up to so many files it is quicker to flush each than all that the machine has not written yet.
const FLUSHED_ONE_BY_ONE: usize = 64;

/// Bounds on what is unpacked.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Size of all files together.
    pub max_bytes: u64,
    pub max_entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 20 << 30,
            max_entries: 1_000_000,
        }
    }
}

/// Unpacks a `tar.zst` or `tar.gz` into `dest`; returns at once if that was done before.
///
/// A `dest` that does not exist appears at once and complete. One that exists keeps its other
/// files; files of the same name are replaced, one by one, and the archive's folders are merged
/// into those that are there.
pub fn extract(archive: &Path, dest: &Path, limits: Limits) -> Result<(), Error> {
    let marker = marker_name(archive)?;
    if is_marked(&dest.join(&marker)) {
        return Ok(());
    }
    if !dest.exists() && extract_new(archive, dest, &marker, limits)? {
        return Ok(());
    }
    let _lock = lock_exclusive(dest)?;
    if is_marked(&dest.join(&marker)) {
        return Ok(());
    }
    // Inside `dest`, which is sure to be writable and on the same file system, unlike its parent.
    let staging = Staging::begin(dest)?;
    let written = unpack(archive, staging.path(), &marker, limits)?;
    crash::point("unpack.staged");
    merge(archive, staging.path(), dest)?;
    crash::point("unpack.merged");
    mark(dest, &marker, &written)
}

/// Unpacks beside `dest` and renames; false if somebody else made `dest` meanwhile.
fn extract_new(archive: &Path, dest: &Path, marker: &str, limits: Limits) -> Result<bool, Error> {
    let parent = folder_of(dest);
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    let staging = {
        let _lock = lock_exclusive(parent)?;
        Staging::begin(parent)?
    };
    let written = unpack(archive, staging.path(), marker, limits)?;
    mark(staging.path(), marker, &written)?;
    fs::set_permissions(staging.path(), fs::Permissions::from_mode(0o755))
        .map_err(Error::io("set the mode of", staging.path()))?;
    match fs::rename(staging.path(), dest) {
        Ok(()) => {
            staging.keep();
            Ok(true)
        }
        Err(_) if dest.is_dir() => Ok(false),
        Err(error) => Err(Error::io("create", dest)(error)),
    }
}

/// A folder to unpack into, which goes when this is dropped.
///
/// A process that is killed leaves its folder behind, but not the lock on it: that is how the next
/// one tells it from those in use.
struct Staging {
    // Dropped in this order: while the folder goes, it is still locked.
    folder: tempfile::TempDir,
    _lock: FileLock,
}

impl Staging {
    /// Makes the folder in one that the caller has locked, and removes what others left there.
    fn begin(parent: &Path) -> Result<Self, Error> {
        remove_leftovers(parent);
        let folder = tempfile::Builder::new()
            .prefix(STAGING_PREFIX)
            .tempdir_in(parent)
            .map_err(Error::io("create a temporary folder in", parent))?;
        Ok(Self {
            _lock: lock_exclusive(folder.path())?,
            folder,
        })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves the folder where it was moved to.
    fn keep(self) {
        // What the guard does not hold any more it must not remove.
        let _ = self.folder.keep();
    }
}

/// A folder for what is made on the way to something, which goes when this is dropped. One whose
/// process was killed goes with the next one beside it.
pub struct Scratch(Staging);

impl Scratch {
    /// A new folder in `parent`, which is made, for nobody else.
    pub fn under(parent: &Path) -> Result<Self, Error> {
        super::private_folder(parent)?;
        let _lock = lock_exclusive(parent)?;
        Ok(Self(Staging::begin(parent)?))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Removes what killed processes left in `parent`.
    pub fn sweep(parent: &Path) {
        if let Ok(_lock) = lock_exclusive(parent) {
            remove_leftovers(parent);
        }
    }
}

/// Only saves space, so what cannot be removed is left to the next one.
fn remove_leftovers(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(STAGING_PREFIX)
            && let Ok(Some(_lock)) = try_lock_exclusive(&entry.path())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Says that the folder is complete.
///
/// After a crash of the machine the marker may be on the disk without the files that it speaks of.
/// So it holds for the time until the next start, if the machine has a name for that; then nothing
/// has to wait for the disk. Elsewhere the files are flushed first.
fn mark(folder: &Path, marker: &str, written: &[PathBuf]) -> Result<(), Error> {
    let start = machine_start();
    if start.is_empty() {
        flush(folder, written)?;
    }
    write_atomic(&folder.join(marker), &start, 0o644)
}

fn is_marked(marker: &Path) -> bool {
    fs::read(marker).is_ok_and(|text| text == machine_start())
}

/// Linux has a random name for each start of the machine; empty where there is none.
pub fn machine_start() -> Vec<u8> {
    fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Sees to it that the files are on the disk.
fn flush(folder: &Path, written: &[PathBuf]) -> Result<(), Error> {
    #[cfg(target_os = "linux")]
    if written.len() > FLUSHED_ONE_BY_ONE {
        let all = File::open(folder).map_err(Error::io("open", folder))?;
        return rustix::fs::syncfs(&all).map_err(|errno| Error::io("flush", folder)(errno.into()));
    }
    let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
    for name in written {
        // A name is only on the disk once its folder is.
        paths.extend(name.ancestors().map(|name| folder.join(name)));
    }
    for path in paths {
        match File::open(&path) {
            Ok(file) => file.sync_all().map_err(Error::io("flush", &path))?,
            // Its mode keeps us from opening it again; what is not ours to read is not ours to use.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(Error::io("flush", &path)(error)),
        }
    }
    Ok(())
}

fn marker_name(archive: &Path) -> Result<String, Error> {
    match archive.file_name() {
        Some(name) => Ok(format!(".{}.extracted", name.to_string_lossy())),
        None => Err(Error::io("open", archive)(
            io::ErrorKind::InvalidInput.into(),
        )),
    }
}

/// The budget of bytes that the archive may still yield, shared by the reader under the tar
/// parser and the loop above it.
#[derive(Default)]
struct Budget {
    left: Cell<u64>,
    exceeded: Cell<bool>,
    ended: Cell<bool>,
}

/// Reads the unpacked stream within a budget.
struct Metered<R> {
    inner: R,
    budget: Rc<Budget>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.budget.left.get();
        if left == 0 && !buffer.is_empty() {
            self.budget.exceeded.set(true);
            return Err(io::Error::other("over the limit"));
        }
        let room = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.inner.read(&mut buffer[..room])?;
        self.budget.left.set(left - count as u64);
        if count == 0 && room > 0 {
            self.budget.ended.set(true);
        }
        Ok(count)
    }
}

/// Returns the names of the files, each once.
fn unpack(
    archive: &Path,
    staging: &Path,
    marker: &str,
    limits: Limits,
) -> Result<Vec<PathBuf>, Error> {
    let budget = Rc::new(Budget::default());
    let mut tar = tar::Archive::new(Metered {
        inner: open(archive)?,
        budget: Rc::clone(&budget),
    });
    let mut unpacking = Unpacking {
        archive,
        staging,
        marker,
        limits,
        budget: &budget,
        bytes: 0,
        written: BTreeSet::new(),
        links: Vec::new(),
    };
    budget.left.set(HEADER_BYTES);
    let entries = tar.entries().map_err(|e| unpacking.failed(e))?;
    for (index, entry) in entries.enumerate() {
        let entry = entry.map_err(|e| unpacking.failed(e))?;
        if index as u64 >= limits.max_entries {
            return Err(unpacking.too_large(limits.max_entries, "entries"));
        }
        unpacking.entry(entry)?;
        budget.left.set(HEADER_BYTES);
    }
    if budget.ended.get() {
        return Err(unpacking.failed(io::ErrorKind::UnexpectedEof.into()));
    }
    // Reading to the end is what checks the checksum of the compressed stream.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(|e| unpacking.failed(e))?;
    unpacking.make_links()?;
    Ok(unpacking.written.into_iter().collect())
}

/// Opens an archive by what its first bytes say.
pub(super) fn open(archive: &Path) -> Result<Box<dyn Read>, Error> {
    let mut file = File::open(archive).map_err(Error::io("open", archive))?;
    let mut magic = [0; 4];
    let filled = super::fill(&mut file, &mut magic).map_err(Error::io("read", archive))?;
    let whole = BufReader::with_capacity(
        1 << 17,
        io::Cursor::new(magic).take(filled as u64).chain(file),
    );
    match magic {
        [0x28, 0xb5, 0x2f, 0xfd] => zstd::Decoder::with_buffer(whole)
            .map(|decoder| Box::new(decoder) as Box<dyn Read>)
            .map_err(Error::io("read", archive)),
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(whole))),
        _ => Err(Error::UnknownFormat {
            path: archive.to_path_buf(),
        }),
    }
}

/// One archive on its way into an empty folder of ours.
struct Unpacking<'a> {
    archive: &'a Path,
    staging: &'a Path,
    marker: &'a str,
    limits: Limits,
    budget: &'a Budget,
    bytes: u64,
    written: BTreeSet<PathBuf>,
    /// Symbolic links are made last: until then every folder in `staging` is a real one, so that no
    /// entry can be written through a link.
    links: Vec<(PathBuf, PathBuf)>,
}

impl Unpacking<'_> {
    fn entry<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<(), Error> {
        use tar::EntryType as Kind;
        let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        if kind == Kind::XGlobalHeader {
            return Ok(());
        }
        let path = entry.path().map_err(|e| self.failed(e))?.into_owned();
        let name = self.safe_name(&raw, &path)?;
        if name.as_os_str().is_empty() && kind == Kind::Directory {
            return Ok(());
        }
        if name.as_os_str().is_empty() || name.starts_with(self.marker) {
            return Err(self.refused(&raw, "has a name that is not allowed"));
        }
        let target = self.staging.join(&name);
        if kind != Kind::Directory {
            self.make_room(&raw, &target)?;
        }
        match kind {
            Kind::Regular | Kind::Continuous => {
                self.file(&target, &mut entry)?;
                self.written.insert(name);
                Ok(())
            }
            Kind::Directory => self.folder(&target, entry.header()),
            Kind::Symlink | Kind::Link => {
                let link = entry.link_name().map_err(|e| self.failed(e))?;
                let Some(link) = link else {
                    return Err(self.refused(&raw, "is a link without a target"));
                };
                self.link(&raw, name, &link, kind == Kind::Symlink)
            }
            _ => Err(self.refused(&raw, "is a device, a pipe or of an unknown kind")),
        }
    }

    /// The name without `.` parts.
    fn safe_name(&self, raw: &str, path: &Path) -> Result<PathBuf, Error> {
        let mut name = PathBuf::new();
        for part in path.components() {
            match part {
                Component::Normal(part) => name.push(part),
                Component::CurDir => {}
                Component::ParentDir => return Err(self.refused(raw, "has `..` in its name")),
                Component::RootDir | Component::Prefix(_) => {
                    return Err(self.refused(raw, "has an absolute name"));
                }
            }
        }
        Ok(name)
    }

    /// Makes the folders around `target` and removes an earlier entry of the same name, as tar does.
    fn make_room(&mut self, raw: &str, target: &Path) -> Result<(), Error> {
        let parent = folder_of(target);
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        self.links
            .retain(|(name, _)| self.staging.join(name) != target);
        match fs::symlink_metadata(target) {
            Err(_) => Ok(()),
            Ok(there) if there.is_dir() => {
                Err(self.refused(raw, "has the name of a folder in the same archive"))
            }
            Ok(_) => {
                if let Ok(name) = target.strip_prefix(self.staging) {
                    self.written.remove(name);
                }
                fs::remove_file(target).map_err(Error::io("replace", target))
            }
        }
    }

    fn file<R: Read>(&mut self, target: &Path, entry: &mut tar::Entry<'_, R>) -> Result<(), Error> {
        let size = entry.size();
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.max_bytes {
            return Err(self.too_large(self.limits.max_bytes, "bytes"));
        }
        self.budget.left.set(size.saturating_add(HEADER_BYTES));
        let mode = self.mode(entry.header())?;
        let mut file = File::create_new(target).map_err(Error::io("create", target))?;
        let written = io::copy(entry, &mut file).map_err(|e| self.failed_at(e, target))?;
        if written != size {
            return Err(self.failed(io::ErrorKind::UnexpectedEof.into()));
        }
        file.set_permissions(fs::Permissions::from_mode(mode))
            .map_err(Error::io("set the mode of", target))
    }

    fn folder(&self, target: &Path, header: &tar::Header) -> Result<(), Error> {
        // We must be able to write into it, whatever the archive says.
        let mode = self.mode(header)? | 0o700;
        fs::create_dir_all(target)
            .and_then(|()| fs::set_permissions(target, fs::Permissions::from_mode(mode)))
            .map_err(Error::io("create", target))
    }

    fn mode(&self, header: &tar::Header) -> Result<u32, Error> {
        header
            .mode()
            .map(|mode| mode & 0o777)
            .map_err(|e| self.failed(e))
    }

    fn link(&mut self, raw: &str, name: PathBuf, to: &Path, symbolic: bool) -> Result<(), Error> {
        if symbolic {
            if !stays_inside(&name, to) {
                return Err(self.refused(raw, "is a link that leaves the folder"));
            }
            self.links.push((name, to.to_path_buf()));
            return Ok(());
        }
        let source = self.staging.join(self.safe_name(raw, to)?);
        let target = self.staging.join(&name);
        if !fs::symlink_metadata(&source).is_ok_and(|there| there.is_file()) {
            return Err(self.refused(raw, "is a hard link to no earlier file of the archive"));
        }
        fs::hard_link(&source, &target).map_err(Error::io("create", &target))
    }

    fn make_links(&self) -> Result<(), Error> {
        for (name, to) in &self.links {
            let target = self.staging.join(name);
            symlink(to, &target).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => self.refused(
                    &name.to_string_lossy(),
                    "is a link with the name of another entry",
                ),
                _ => Error::io("create", &target)(error),
            })?;
        }
        Ok(())
    }

    fn refused(&self, entry: &str, reason: &'static str) -> Error {
        Error::UnsafeEntry {
            archive: self.archive.to_path_buf(),
            entry: entry.to_owned(),
            reason,
        }
    }

    fn too_large(&self, limit: u64, unit: &'static str) -> Error {
        Error::TooLarge {
            archive: self.archive.to_path_buf(),
            limit,
            unit,
        }
    }

    /// What a failed read of the archive means.
    fn failed(&self, error: io::Error) -> Error {
        self.failed_at(error, self.archive)
    }

    /// What a failed copy means: reading and writing fail alike, the budget tells some apart.
    fn failed_at(&self, error: io::Error, path: &Path) -> Error {
        if self.budget.exceeded.get() {
            return self.too_large(HEADER_BYTES, "bytes of headers or padding at once");
        }
        if self.budget.ended.get() || error.kind() == io::ErrorKind::UnexpectedEof {
            return Error::CutShort {
                archive: self.archive.to_path_buf(),
            };
        }
        Error::io("unpack", path)(error)
    }
}

/// Whether a link named `name` to `to` ends inside the folder, whatever else is in the archive.
///
/// `..` is accepted at the front only, where it climbs real folders (links are made last). Behind a
/// name it could climb out of what another link leads to.
fn stays_inside(name: &Path, to: &Path) -> bool {
    let mut height = name.components().count().saturating_sub(1);
    let mut descended = false;
    for part in to.components() {
        match part {
            Component::Normal(_) => descended = true,
            Component::CurDir => {}
            Component::ParentDir if descended || height == 0 => return false,
            Component::ParentDir => height -= 1,
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

/// Moves what is in `from` into `into`, which exists.
fn merge(archive: &Path, from: &Path, into: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(from).map_err(Error::io("list", from))?;
    for entry in entries {
        let entry = entry.map_err(Error::io("list", from))?;
        let (source, target) = (entry.path(), into.join(entry.file_name()));
        let ours = entry.file_type().map_err(Error::io("read", &source))?;
        let theirs = fs::symlink_metadata(&target).ok();
        match theirs {
            Some(there) if there.is_dir() && ours.is_dir() => {
                merge(archive, &source, &target)?;
                continue;
            }
            Some(there) if there.is_dir() => {
                return Err(Error::InTheWay {
                    path: target,
                    archive: archive.to_path_buf(),
                });
            }
            // A rename puts a file over a file, but no folder over a file or a link.
            Some(_) if ours.is_dir() => {
                fs::remove_file(&target).map_err(Error::io("replace", &target))?;
            }
            Some(_) | None => {}
        }
        fs::rename(&source, &target).map_err(Error::io("create", &target))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

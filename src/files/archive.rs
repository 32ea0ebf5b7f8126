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
    if dest.join(&marker).exists() {
        return Ok(());
    }
    if !dest.exists() && extract_new(archive, dest, &marker, limits)? {
        return Ok(());
    }
    let _lock = lock_exclusive(dest)?;
    if dest.join(&marker).exists() {
        return Ok(());
    }
    // Inside `dest`, which is sure to be writable and on the same file system, unlike its parent.
    let staging = Staging::begin(dest)?;
    let written = unpack(archive, staging.path(), &marker, limits)?;
    merge(archive, staging.path(), dest)?;
    flush(dest, &written)?;
    write_atomic(&dest.join(&marker), b"", 0o644)
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
    flush(staging.path(), &written)?;
    write_atomic(&staging.path().join(marker), b"", 0o644)?;
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

/// Sees to it that the files are on the disk: after a crash of the machine, a marker without their
/// content would be believed.
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
fn open(archive: &Path) -> Result<Box<dyn Read>, Error> {
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
mod tests {
    use super::*;
    use crate::error::{Code, Diagnostic};
    use std::io::Write;
    use tar::EntryType as Kind;

    /// One entry as raw as a hostile archive may hold it.
    struct Raw<'a> {
        name: &'a str,
        kind: Kind,
        link: &'a str,
        content: &'a [u8],
        mode: u32,
    }

    fn file<'a>(name: &'a str, content: &'a str) -> Raw<'a> {
        Raw {
            name,
            kind: Kind::Regular,
            link: "",
            content: content.as_bytes(),
            mode: 0o644,
        }
    }

    fn special<'a>(name: &'a str, kind: Kind, link: &'a str) -> Raw<'a> {
        Raw {
            kind,
            link,
            ..file(name, "")
        }
    }

    fn tar_of(entries: &[Raw]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for entry in entries {
            let mut header = tar::Header::new_ustar();
            let bytes = header.as_ustar_mut().unwrap();
            bytes.name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
            bytes.linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
            header.set_entry_type(entry.kind);
            header.set_mode(entry.mode);
            header.set_size(entry.content.len() as u64);
            header.set_cksum();
            builder.append(&header, entry.content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    struct Scene {
        folder: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                folder: tempfile::tempdir().unwrap(),
            }
        }

        fn dest(&self) -> PathBuf {
            self.folder.path().join("box/dest")
        }

        fn archive(&self) -> PathBuf {
            self.folder.path().join("code.tar.zst")
        }

        fn extract(&self, entries: &[Raw]) -> Result<(), Error> {
            self.extract_bytes(&zstd::encode_all(&*tar_of(entries), 1).unwrap())
        }

        fn extract_bytes(&self, bytes: &[u8]) -> Result<(), Error> {
            fs::write(self.archive(), bytes).unwrap();
            extract(&self.archive(), &self.dest(), Limits::default())
        }

        /// That the archive is refused with this reason and has left nothing behind.
        fn refuses(entries: &[Raw], reason: &str) {
            for dest_exists in [false, true] {
                let scene = Self::new();
                if dest_exists {
                    fs::create_dir_all(scene.dest()).unwrap();
                }
                let error = scene.extract(entries).unwrap_err();
                assert!(error.to_string().contains(reason), "{error}");
                assert_eq!(error.code(), Code::BundleUnsafe, "{error}");
                let around = scene.folder.path().join("box");
                assert_eq!(count(&around), usize::from(dest_exists));
                assert!(!dest_exists || count(&scene.dest()) == 0);
                assert!(!scene.folder.path().join("evil").exists());
            }
        }
    }

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    fn read(path: PathBuf) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn unpacks_files_folders_links_and_modes() {
        let scene = Scene::new();
        let script = Raw {
            mode: 0o104_755,
            ..file("bin/run", "#!")
        };
        scene
            .extract(&[
                file("./a/b.txt", "hello"),
                script,
                special("empty", Kind::Directory, ""),
                special("a/up", Kind::Symlink, "../bin/run"),
                special("same", Kind::Link, "a/b.txt"),
            ])
            .unwrap();
        let dest = scene.dest();
        assert_eq!(read(dest.join("a/b.txt")), "hello");
        assert_eq!(read(dest.join("a/up")), "#!");
        assert_eq!(read(dest.join("same")), "hello");
        assert!(dest.join("empty").is_dir());
        let mode = fs::metadata(dest.join("bin/run")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o7777, 0o755);
        assert!(dest.join(".code.tar.zst.extracted").exists());
        assert_eq!(count(&scene.folder.path().join("box")), 1);
    }

    #[test]
    fn a_second_call_does_nothing() {
        let scene = Scene::new();
        scene.extract(&[file("a", "1")]).unwrap();
        fs::write(scene.dest().join("a"), "mine").unwrap();
        fs::write(scene.archive(), "garbage").unwrap();
        extract(&scene.archive(), &scene.dest(), Limits::default()).unwrap();
        assert_eq!(read(scene.dest().join("a")), "mine");
    }

    #[test]
    fn merges_into_a_folder_with_other_files() {
        let scene = Scene::new();
        let dest = scene.dest();
        fs::create_dir_all(dest.join("pkg")).unwrap();
        fs::write(dest.join("pkg/own.txt"), "own").unwrap();
        fs::write(dest.join("pkg/main.py"), "old").unwrap();
        symlink("/nowhere", dest.join("link")).unwrap();
        scene
            .extract(&[
                file("pkg/main.py", "new"),
                file("pkg/in/x", "x"),
                file("link/y", "y"),
            ])
            .unwrap();
        assert_eq!(read(dest.join("pkg/own.txt")), "own");
        assert_eq!(read(dest.join("pkg/main.py")), "new");
        assert_eq!(read(dest.join("pkg/in/x")), "x");
        assert_eq!(read(dest.join("link/y")), "y");
        assert_eq!(count(&dest), 3, "no temporary folder stays");
    }

    #[test]
    fn a_folder_in_the_way_is_not_removed_and_leaves_no_marker() {
        let scene = Scene::new();
        fs::create_dir_all(scene.dest().join("a/b")).unwrap();
        let error = scene.extract(&[file("a", "1")]).unwrap_err();
        assert!(matches!(error, Error::InTheWay { .. }), "{error}");
        assert!(scene.dest().join("a/b").is_dir());
        assert_eq!(count(&scene.dest()), 1);
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_is_in_use_is_not() {
        let scene = Scene::new();
        let parent = scene.folder.path().join("box");
        for (folder, dest_exists) in [(parent.clone(), false), (scene.dest(), true)] {
            fs::create_dir_all(folder.join(".flyte-unpack-left/sub")).unwrap();
            fs::create_dir_all(folder.join(".flyte-unpack-used")).unwrap();
            let _in_use = lock_exclusive(&folder.join(".flyte-unpack-used")).unwrap();
            assert_eq!(scene.dest().exists(), dest_exists);
            scene.extract(&[file("a", "1")]).unwrap();
            assert!(!folder.join(".flyte-unpack-left").exists(), "{folder:?}");
            assert!(folder.join(".flyte-unpack-used").exists(), "{folder:?}");
            fs::remove_file(scene.dest().join(".code.tar.zst.extracted")).unwrap();
        }
    }

    #[test]
    fn many_files_are_flushed_and_there() {
        let scene = Scene::new();
        let names: Vec<String> = (0..200).map(|i| format!("d{}/f{i}", i % 7)).collect();
        let raws: Vec<Raw> = names.iter().map(|name| file(name, name)).collect();
        scene.extract(&raws).unwrap();
        for name in &names {
            assert_eq!(read(scene.dest().join(name)), *name);
        }
    }

    #[test]
    fn concurrent_calls_agree() {
        let scene = Scene::new();
        let entries: Vec<String> = (0..50).map(|i| format!("d{i}/f")).collect();
        let raws: Vec<Raw> = entries.iter().map(|name| file(name, name)).collect();
        fs::write(
            scene.archive(),
            zstd::encode_all(&*tar_of(&raws), 1).unwrap(),
        )
        .unwrap();
        std::thread::scope(|scope| {
            let calls: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| extract(&scene.archive(), &scene.dest(), Limits::default()))
                })
                .collect();
            for call in calls {
                call.join().unwrap().unwrap();
            }
        });
        assert_eq!(count(&scene.dest()), 51);
    }

    #[test]
    fn hostile_names_are_refused() {
        Scene::refuses(&[file("../evil", "x")], "`..`");
        Scene::refuses(&[file("a/../../../evil", "x")], "`..`");
        Scene::refuses(&[file("/tmp/evil", "x")], "absolute");
        Scene::refuses(&[file(".code.tar.zst.extracted", "")], "not allowed");
        Scene::refuses(&[file(".code.tar.zst.extracted/x", "")], "not allowed");
        Scene::refuses(&[file(".", "")], "not allowed");
    }

    #[test]
    fn hostile_links_are_refused() {
        let link = |name, to| special(name, Kind::Symlink, to);
        Scene::refuses(&[link("l", "/etc/passwd")], "leaves the folder");
        Scene::refuses(&[link("l", "../../evil")], "leaves the folder");
        Scene::refuses(&[link("a/l", "../../x")], "leaves the folder");
        // By its text `l` stays inside, but `d/e` leads to the top and `..` from there leaves.
        let climbing = [link("d/e", ".."), link("l", "d/e/../x")];
        Scene::refuses(&climbing, "leaves the folder");
        Scene::refuses(&[link("l", "sub"), file("l/x", "x")], "another entry");
        Scene::refuses(&[special("h", Kind::Link, "../evil")], "`..`");
        Scene::refuses(&[special("h", Kind::Link, "gone")], "no earlier file");
        let through = [link("l", "sub"), special("h", Kind::Link, "l")];
        Scene::refuses(&through, "no earlier file");
    }

    #[test]
    fn devices_and_pipes_are_refused() {
        for kind in [Kind::Char, Kind::Block, Kind::Fifo] {
            Scene::refuses(&[special("x", kind, "")], "a device, a pipe");
        }
    }

    #[test]
    fn the_last_entry_of_a_name_wins() {
        let scene = Scene::new();
        let entries = [
            special("a", Kind::Symlink, "b"),
            file("a", "1"),
            file("a", "2"),
        ];
        scene.extract(&entries).unwrap();
        assert_eq!(read(scene.dest().join("a")), "2");
        Scene::refuses(&[file("d/x", ""), file("d", "")], "a folder in the same");
    }

    #[test]
    fn limits_hold() {
        let scene = Scene::new();
        let tar = tar_of(&[file("a", "12345"), file("b", "12345")]);
        fs::write(scene.archive(), zstd::encode_all(&*tar, 1).unwrap()).unwrap();
        let limited = |max_bytes, max_entries| {
            let limits = Limits {
                max_bytes,
                max_entries,
            };
            extract(&scene.archive(), &scene.dest(), limits)
        };
        let error = limited(9, 2).unwrap_err();
        assert!(error.to_string().ends_with("more than 9 bytes"), "{error}");
        let error = limited(10, 1).unwrap_err();
        assert!(
            error.to_string().ends_with("more than 1 entries"),
            "{error}"
        );
        assert!(!scene.dest().exists());
        limited(10, 2).unwrap();
    }

    #[test]
    fn a_bomb_in_a_header_or_behind_the_end_is_refused() {
        let name = "x".repeat(2 << 20);
        let long = Raw {
            kind: Kind::GNULongName,
            ..file("n", &name)
        };
        Scene::refuses(&[long, file("a", "")], "headers or padding");
        let mut tar = tar_of(&[file("a", "")]);
        tar.resize(tar.len() + (2 << 20), 0);
        let scene = Scene::new();
        let error = scene
            .extract_bytes(&zstd::encode_all(&*tar, 1).unwrap())
            .unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }

    #[test]
    fn gzip_of_several_members_is_read_to_its_end() {
        let scene = Scene::new();
        let tar = tar_of(&[file("a", "1"), file("b", "2")]);
        let mut bytes = Vec::new();
        for part in tar.chunks(700) {
            let mut encoder =
                flate2::write::GzEncoder::new(&mut bytes, flate2::Compression::default());
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap();
        }
        scene.extract_bytes(&bytes).unwrap();
        assert_eq!(read(scene.dest().join("b")), "2");
    }

    #[test]
    fn every_cut_and_every_foreign_format_is_an_error() {
        let tar = tar_of(&[file("a", "1"), file("b", "2")]);
        let scene = Scene::new();
        let whole = zstd::encode_all(&*tar, 1).unwrap();
        let uncompressed_cuts = (0..=2048).step_by(256);
        let cuts = uncompressed_cuts.map(|cut| zstd::encode_all(&tar[..cut], 1).unwrap());
        for bytes in cuts.chain((4..whole.len()).map(|cut| whole[..cut].to_vec())) {
            let error = scene.extract_bytes(&bytes).unwrap_err();
            assert_eq!(error.code(), Code::BundleIo, "{error}");
            assert!(!scene.dest().exists());
        }
        for bytes in [&tar[..], b"", b"PK\x03\x04"] {
            let error = scene.extract_bytes(bytes).unwrap_err();
            assert!(matches!(error, Error::UnknownFormat { .. }), "{error}");
        }
    }
}

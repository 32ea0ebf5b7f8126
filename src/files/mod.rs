//! Files as the rest of the crate needs them: hashed, walked, unpacked, locked, written whole.
//!
//! Every failure names the path it happened on. What a file is for (a module, a bundle, an image
//! context) is not known here.

pub mod archive;
pub mod contents;
pub mod identity;
mod removal;
pub mod stat_cache;
pub mod walk;
pub mod watch;

pub use archive::Scratch;
pub use removal::{remove_all, set_aside};

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Diagnostic, Retry};

/// How much of a file is read at once where it only passes through.
const READ_BYTES: usize = 1 << 17;

/// What can go wrong with files and archives.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to {action} `{path}`")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("`{path}` is neither a zstd nor a gzip archive")]
    UnknownFormat { path: PathBuf },
    #[error("`{archive}` ends before its last entry is complete")]
    CutShort { archive: PathBuf },
    #[error("entry `{entry}` of `{archive}` {reason}")]
    UnsafeEntry {
        archive: PathBuf,
        entry: String,
        reason: &'static str,
    },
    #[error("`{archive}` holds more than {limit} {unit}")]
    TooLarge {
        archive: PathBuf,
        limit: u64,
        unit: &'static str,
    },
    #[error("`{path}` is in the way of an entry of `{archive}`")]
    InTheWay { path: PathBuf, archive: PathBuf },
    #[error("`{path}` is not a folder of user {user}, who would keep private things there")]
    NotOwned { path: PathBuf, user: u32 },
}

impl Error {
    /// Names the path on which an I/O call failed; `action` completes "failed to".
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Io { .. }
            | Self::UnknownFormat { .. }
            | Self::CutShort { .. }
            | Self::InTheWay { .. }
            | Self::NotOwned { .. } => Code::BundleIo,
            Self::UnsafeEntry { .. } | Self::TooLarge { .. } => Code::BundleUnsafe,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Io { source, path, .. } => io_hint(source, path).into_iter().collect(),
            Self::CutShort { .. } => vec!["download or write the archive again".to_owned()],
            Self::InTheWay { path, .. } => {
                vec![format!(
                    "move `{}` away or unpack elsewhere",
                    path.display()
                )]
            }
            Self::NotOwned { path, .. } => vec![format!(
                "remove `{}` if it is nothing you know, or set `FLYTE_HOME` to a folder of yours",
                path.display()
            )],
            Self::UnknownFormat { .. } | Self::UnsafeEntry { .. } | Self::TooLarge { .. } => {
                Vec::new()
            }
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::CutShort { .. } => Retry::Maybe,
            Self::Io { .. }
            | Self::UnknownFormat { .. }
            | Self::UnsafeEntry { .. }
            | Self::TooLarge { .. }
            | Self::InTheWay { .. }
            | Self::NotOwned { .. } => Retry::Never,
        }
    }
}

/// What mends a failure that a file system tells, for a file of our own.
pub fn advice(path: &Path, source: &io::Error) -> Option<String> {
    match source.kind() {
        io::ErrorKind::PermissionDenied => Some(format!(
            "give the current user access to `{}`, or set `FLYTE_HOME` to another folder",
            path.display()
        )),
        _ => io_hint(source, path),
    }
}

fn io_hint(source: &io::Error, path: &Path) -> Option<String> {
    match source.kind() {
        io::ErrorKind::PermissionDenied => Some(format!(
            "give the current user access to `{}`, or leave it out with `.flyteignore`",
            path.display()
        )),
        io::ErrorKind::StorageFull => Some("free some disk space".to_owned()),
        io::ErrorKind::ReadOnlyFilesystem => Some(
            "what lies there cannot be changed; set `FLYTE_HOME` to a folder that can".to_owned(),
        ),
        _ => None,
    }
}

/// A BLAKE3 hash; shown and stored as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest of 64 hexadecimal digits")]
pub struct NotADigest(String);

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        blake3::Hash::from_hex(text)
            .map(Self::from)
            .map_err(|_| NotADigest(text.to_owned()))
    }
}

impl TryFrom<String> for Digest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Hands the content of a file over in pieces, which stay in the cache of the processor.
pub fn read_in_pieces(path: &Path, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match fill(&mut file, &mut buffer)? {
            0 => return Ok(()),
            count => take(&buffer[..count]),
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes a file so that a reader sees the old content or all of the new one, also after a crash.
///
/// `mode` holds the permission bits, which the umask does not narrow.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    write_beside(path, bytes, mode, File::sync_all)?;
    // A name is only on the disk once its folder is.
    sync_folder_of(path).map_err(Error::io("flush the folder of", path))
}

/// Waits until the names in the folder of `path` are on the disk.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// Like [`write_atomic`] for what can be made again, and whose reader can tell that it is damaged:
/// it is not waited for the disk.
pub fn write_cache(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_beside(path, bytes, 0o600, |_| Ok(()))
}

fn write_beside(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    sync: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), Error> {
    let folder = folder_of(path);
    let mut temporary = tempfile::Builder::new()
        .prefix(".flyte-write-")
        .tempfile_in(folder)
        .map_err(Error::io("create a temporary file in", folder))?;
    let file = temporary.as_file_mut();
    file.set_permissions(fs::Permissions::from_mode(mode))
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| sync(file))
        .map_err(Error::io("write", path))?;
    temporary
        .persist(path)
        .map_err(|failure| Error::io("replace", path)(failure.error))?;
    Ok(())
}

/// Makes a folder, and those above it that are missing, which nobody else may enter, whatever the
/// umask says. One that is there is closed to others.
pub fn private_folder(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::io("create", path))?;
    let there = fs::metadata(path).map_err(Error::io("look at", path))?;
    let open_to_others = there.mode() & 0o077;
    if open_to_others != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .map_err(Error::io("set the mode of", path))?;
    }
    Ok(())
}

/// The same for a folder whose place others can write to, such as the temporary folder: what
/// somebody else put there, be it a link, is refused.
pub fn own_folder(path: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().mode(0o700).create(path);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io("create", path)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let user = rustix::process::geteuid().as_raw();
    let not_owned = || Error::NotOwned {
        path: path.to_path_buf(),
        user,
    };
    // What was looked at is what is closed: by its name, another folder could be put there meanwhile.
    let folder = match open_folder(path) {
        Ok(folder) => folder,
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => return Err(not_owned()),
        Err(rustix::io::Errno::ACCESS) if !is_own_folder(path) => return Err(not_owned()),
        Err(error) => return Err(Error::io("open", path)(error.into())),
    };
    let there = folder.metadata().map_err(Error::io("look at", path))?;
    if there.uid() != user {
        return Err(not_owned());
    }
    if there.mode() & 0o077 != 0 {
        let closed = fs::Permissions::from_mode(0o700);
        folder
            .set_permissions(closed)
            .map_err(Error::io("set the mode of", path))?;
    }
    Ok(())
}

/// A folder, and nothing that a link leads to.
fn open_folder(path: &Path) -> rustix::io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from)
}

/// Whether a folder, and no link to one, is there and belongs to this user.
pub fn is_own_folder(path: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    fs::symlink_metadata(path).is_ok_and(|there| there.is_dir() && there.uid() == user)
}

/// Says that what lies at `path` was used just now; tells whether it is there. By its path and not by
/// a descriptor: what was moved away meanwhile is not there to be used.
pub fn touch(path: &Path) -> bool {
    let now = rustix::fs::Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_NOW,
    };
    let times = rustix::fs::Timestamps {
        last_access: now,
        last_modification: now,
    };
    let flags = rustix::fs::AtFlags::empty();
    // One that cannot be touched is there all the same.
    !matches!(
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR)
    )
}

/// The folder that holds `path`, `.` for a bare name.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// An exclusive `flock`, released when this is dropped or the process ends.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // A child that inherited the descriptor would otherwise keep the lock after us. A failure
        // cannot be told from here and closing the file releases the lock in any other case.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Waits until nobody else holds the lock on `path`; makes the file where there is none.
///
/// `path` may be an existing folder.
pub fn lock_exclusive(path: &Path) -> Result<FileLock, Error> {
    let file = open_to_lock(path)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
        .map_err(|errno| Error::io("lock", path)(errno.into()))?;
    Ok(FileLock { file })
}

/// The same without waiting; `None` if somebody else holds the lock.
pub fn try_lock_exclusive(path: &Path) -> Result<Option<FileLock>, Error> {
    let file = open_to_lock(path)?;
    let locked = rustix::io::retry_on_intr(|| {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
    });
    match locked {
        Ok(()) => Ok(Some(FileLock { file })),
        Err(errno) if errno == rustix::io::Errno::WOULDBLOCK => Ok(None),
        Err(errno) => Err(Error::io("lock", path)(errno.into())),
    }
}

fn open_to_lock(path: &Path) -> Result<File, Error> {
    let opened = if path.is_dir() {
        File::open(path)
    } else {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
    };
    opened.map_err(Error::io("open the lock file", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::with_causes;

    #[test]
    fn a_digest_survives_text_and_json() {
        let digest = Digest::from(blake3::hash(b"x"));
        let text = digest.to_string();
        assert_eq!(text.len(), 64);
        assert_eq!(text.parse::<Digest>().unwrap(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        assert!("abc".parse::<Digest>().is_err());
    }

    #[test]
    fn failures_name_the_path() {
        let error = lock_exclusive(Path::new("/no/such/file")).unwrap_err();
        assert!(error.to_string().contains("`/no/such/file`"));
        assert!(with_causes(&error).contains("Caused by: No such file"));
        let error = write_atomic(Path::new("/no/such/file"), b"", 0o600).unwrap_err();
        assert!(error.to_string().contains("/no/such"));
    }

    #[test]
    fn an_atomic_write_replaces_content_and_mode_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        fs::write(&path, "old").unwrap();
        write_atomic(&path, b"new", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_private_folder_is_closed_whatever_was_there() {
        let scratch = tempfile::tempdir().unwrap();
        let open = scratch.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let inner = open.join("a/b");
        for path in [&open, &inner] {
            private_folder(path).unwrap();
            own_folder(path).unwrap();
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700);
        }
        assert_eq!(fs::metadata(open.join("a")).unwrap().mode() & 0o077, 0);
    }

    #[test]
    fn a_link_in_the_place_of_an_own_folder_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let (elsewhere, link) = (scratch.path().join("mine"), scratch.path().join("link"));
        fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        let refused = own_folder(&link).unwrap_err();
        assert!(matches!(refused, Error::NotOwned { .. }), "{refused}");
    }

    /// Others swap the folder for a link again and again, in a place without the sticky bit.
    #[test]
    fn a_link_that_takes_the_place_of_an_own_folder_leads_nowhere() {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let (place, link, victim) = (at("place"), at("link"), at("victim"));
        for folder in [&place, &victim] {
            fs::create_dir(folder).unwrap();
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    renameat_with(CWD, &place, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                    for folder in [&place, &link] {
                        // Open to all again, so that there is something to close.
                        if fs::symlink_metadata(folder).is_ok_and(|there| there.is_dir()) {
                            let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
                        }
                    }
                }
            });
            for _ in 0..20_000 {
                // Refused or not, as it happens.
                let _ = own_folder(&place);
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mode = fs::metadata(&victim).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o755, "the folder behind the link was touched");
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_replaced_and_not_written_through() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let (victim, soft, hard) = (at("victim"), at("soft"), at("hard"));
        fs::write(&victim, b"theirs").unwrap();
        std::os::unix::fs::symlink(&victim, &soft).unwrap();
        fs::hard_link(&victim, &hard).unwrap();
        for path in [&soft, &hard] {
            write_atomic(path, b"ours", 0o600).unwrap();
            assert_eq!(fs::read(path).unwrap(), b"ours");
            assert!(fs::symlink_metadata(path).unwrap().is_file());
        }
        assert_eq!(fs::read(&victim).unwrap(), b"theirs");
    }

    #[test]
    fn touching_tells_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("used");
        assert!(!touch(&path));
        fs::write(&path, "").unwrap();
        let past = std::time::SystemTime::UNIX_EPOCH;
        File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .set_modified(past)
            .unwrap();
        assert!(touch(&path));
        assert!(fs::metadata(&path).unwrap().modified().unwrap() > past);
    }

    fn is_free(path: &Path) -> bool {
        try_lock_exclusive(path).unwrap().is_some()
    }

    #[test]
    fn a_lock_excludes_others_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_path_buf(), folder.path().join("lock")] {
            let held = lock_exclusive(&path).unwrap();
            assert!(!is_free(&path));
            drop(held);
            assert!(is_free(&path));
        }
    }
}

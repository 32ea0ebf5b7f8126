//! What the walk tells of a file that it found.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

/// A regular file, or a link to one.
///
/// It lies at its name below the root. There may be 100,000 of these, so no second path is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Relative to the root, with `/` between the parts.
    pub name: Box<str>,
    pub size: u64,
    /// Whether anybody may execute it.
    pub executable: bool,
    /// Tells whether it changed since.
    pub stamp: Stamp,
}

impl FileEntry {
    /// Describes the file of that name; `None` where it is not a regular file.
    pub fn of(name: String, metadata: &Metadata) -> Option<Self> {
        metadata.is_file().then(|| Self {
            name: name.into_boxed_str(),
            size: metadata.len(),
            executable: metadata.permissions().mode() & 0o111 != 0,
            stamp: Stamp::of(metadata),
        })
    }
}

/// What the file system says of the state of a file: each change of its content changes the stamp,
/// but for changes that follow each other within one tick of the file system's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub device: u64,
    pub inode: u64,
    /// When the content was written, in nanoseconds since 1970; programs can set it.
    pub modified_ns: i64,
    /// When the content or anything about the file was changed; only the kernel sets it.
    pub changed_ns: i64,
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        let nanoseconds =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

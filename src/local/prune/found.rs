//! What lies in the home, with its size and when it was last used. Nothing is decided here.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use walkdir::WalkDir;

use super::{Kind, Removed};
use crate::config::Home;

/// Says that an environment is complete, and when it was last used.
const ENVIRONMENT_MARKER: &str = "flyte-env.json";
/// What a build may still be about to send.
const LAYER_GRACE: Duration = Duration::from_secs(6 * 3600);

/// One thing that is removed as a whole.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub kind: Kind,
    pub path: PathBuf,
    /// What would be free without it.
    pub bytes: u64,
    pub used: SystemTime,
    /// Held by whoever makes it.
    pub lock: Option<PathBuf>,
}

impl Found {
    fn new(kind: Kind, path: PathBuf) -> Option<Self> {
        let mut found = Self {
            kind,
            bytes: 0,
            used: SystemTime::UNIX_EPOCH,
            lock: None,
            path,
        };
        found.used = found.used_at()?;
        found.bytes = size(&found.path);
        Some(found)
    }

    pub fn idle(&self, now: SystemTime) -> Duration {
        let idle = now.duration_since(self.used).unwrap_or_default();
        if self.kind == Kind::Image {
            idle.saturating_sub(LAYER_GRACE)
        } else {
            idle
        }
    }

    /// The same thing at another place.
    pub fn moved_to(&self, path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            ..self.clone()
        }
    }

    /// When it was last used, by what tells that of its kind.
    pub fn used_at(&self) -> Option<SystemTime> {
        let changed = |path: &Path| fs::symlink_metadata(path).ok()?.modified().ok();
        match self.kind {
            Kind::Bundle => newest(&self.path),
            Kind::Environment => {
                changed(&self.path.join(ENVIRONMENT_MARKER)).or_else(|| changed(&self.path))
            }
            // Whoever opens it touches the folder, and writes a note in the end.
            Kind::Archive => newest(&self.path.join("notes")).max(changed(&self.path)),
            Kind::Parameter => {
                // Its own time is that of its source; links change this one.
                let there = fs::symlink_metadata(&self.path).ok()?;
                let seconds = u64::try_from(there.ctime()).ok()?;
                Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
            }
            Kind::Image | Kind::Run | Kind::Revision => changed(&self.path),
        }
    }

    /// Whether nobody used it since it was found. A rename is a change to a file as a link is, so a
    /// parameter is asked for its links.
    pub fn is_as_found(&self) -> bool {
        match self.kind {
            Kind::Parameter => {
                fs::symlink_metadata(&self.path).is_ok_and(|there| there.nlink() == 1)
            }
            Kind::Bundle
            | Kind::Environment
            | Kind::Archive
            | Kind::Image
            | Kind::Run
            | Kind::Revision => self.used_at() == Some(self.used),
        }
    }

    pub fn told(&self, now: SystemTime) -> Removed {
        Removed {
            kind: self.kind,
            name: self.path.display().to_string(),
            bytes: self.bytes,
            unused_seconds: self.idle(now).as_secs(),
        }
    }
}

/// Those that are not part of another one.
pub(super) fn outermost(mut all: Vec<Found>) -> Vec<Found> {
    let folders: HashSet<PathBuf> = all.iter().map(|one| one.path.clone()).collect();
    all.retain(|one| {
        one.path
            .parent()
            .is_none_or(|around| !folders.contains(around))
    });
    all
}

/// Everything that might go.
pub(super) fn all(home: &Home) -> Vec<Found> {
    let mut found = Vec::new();
    let mut add = |kind, paths: Vec<PathBuf>| {
        found.extend(paths.into_iter().filter_map(|path| Found::new(kind, path)));
    };
    // project/domain/digest
    add(Kind::Bundle, at_depth(&home.uploads(), 3));
    add(Kind::Archive, at_depth(&home.cache().join("bundles"), 1));
    let images = home.cache().join("images");
    for folder in [
        "blobs", "layers", "packages", "locks", "bases", "wheels", "pins", "seen",
    ] {
        add(Kind::Image, at_depth(&images.join(folder), 1));
    }
    // project/domain/name/revision
    add(Kind::Run, at_depth(&home.apps(), 3));
    add(Kind::Run, at_depth(&home.apps(), 4));
    found.retain(|one| one.path.is_dir() || one.kind == Kind::Image);
    found.extend(environments(home));
    found.extend(parameters(home));
    found
}

fn environments(home: &Home) -> Vec<Found> {
    let folders = at_depth(&home.path().join("envs"), 1).into_iter();
    let folders = folders.filter(|path| path.is_dir());
    folders
        .filter_map(|path| {
            // One that was set aside while it is replaced has the same lock.
            let lock = Some(path.with_extension("lock"));
            let found = Found::new(Kind::Environment, path)?;
            Some(Found { lock, ..found })
        })
        .collect()
}

fn parameters(home: &Home) -> Vec<Found> {
    let blobs = home.cache().join("parameters/blobs");
    let files = at_depth(&blobs, 2).into_iter();
    files
        .filter(|path| fs::symlink_metadata(path).is_ok_and(|there| there.nlink() == 1))
        .filter_map(|path| Found::new(Kind::Parameter, path))
        .collect()
}

/// Folders of single replicas, beside that of their revision: `3-17`.
pub(super) fn of_replicas(home: &Home) -> Vec<PathBuf> {
    let is_replica = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.split_once('-').is_some_and(|(revision, number)| {
            revision.parse::<u64>().is_ok() && number.parse::<u64>().is_ok()
        })
    };
    let mut folders = at_depth(&home.apps(), 4);
    folders.retain(|path| is_replica(path) && path.is_dir());
    folders
}

/// What lies `depth` folders below; links are not followed.
pub(super) fn at_depth(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let walk = WalkDir::new(folder).min_depth(depth).max_depth(depth);
    let entries = walk.into_iter().flatten();
    entries.map(walkdir::DirEntry::into_path).collect()
}

/// When something in a folder was changed last, however deep it lies.
fn newest(folder: &Path) -> Option<SystemTime> {
    let entries = WalkDir::new(folder).min_depth(1).into_iter().flatten();
    let times = entries.filter_map(|entry| entry.metadata().ok()?.modified().ok());
    times.max()
}

/// What removing it frees: files that are linked from elsewhere, as the installer's are, stay.
fn size(path: &Path) -> u64 {
    let entries = WalkDir::new(path).into_iter().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(|there| there.is_file() && there.nlink() == 1)
        .map(|there| there.blocks() * 512)
        .sum()
}

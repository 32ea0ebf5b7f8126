//! Tells that something in some folders may have changed.
//!
//! The operating system is asked through `notify`, folder by folder: what is not named here is not
//! watched, so that a `node_modules` beside the code costs nothing. Where the system will not watch
//! (its limit is reached, or a folder is gone), the answer is "maybe" twice a second. Whether what
//! changed matters to anybody is not known here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// A save is over when nothing has happened for so long: editors delete, write, rename and chmod.
const QUIET: Duration = Duration::from_millis(20);
/// The same behind an event that a save can end with.
const QUIET_AFTER_END: Duration = Duration::from_millis(8);
/// Who never rests, such as a log beside the code, is not waited for any longer.
const LONGEST_BURST: Duration = Duration::from_millis(300);
/// How often is looked where the system does not tell.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Watches folders, not what lies in folders below them.
pub struct FolderWatch {
    /// `None` where the system offers none.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    is_complete: bool,
    shared: Arc<Shared>,
}

/// What following a set of folders came to.
#[derive(Debug, Default, PartialEq)]
pub struct Followed {
    /// Whether a folder came in: what happened in it until now was not seen.
    pub has_grown: bool,
    /// Why it has to be looked every so often instead.
    pub trouble: Option<String>,
}

/// Between the watcher's thread and whoever waits.
#[derive(Default)]
struct Shared {
    woken: Notify,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    /// When the first change that was not told yet happened.
    since: Option<Instant>,
    /// Whether a save may have ended with the last one.
    may_be_over: bool,
    /// Watched folders that may be gone or elsewhere now, and with them the watches on them.
    moved: Vec<PathBuf>,
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: notify::Result<Event>) {
        // What went wrong with the watch may have hidden a change.
        let event = event.unwrap_or_default();
        let may_be_over = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => true,
            // Reading is no change, and we are among those who read.
            EventKind::Access(_) => return,
            EventKind::Any
            | EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_)
            | EventKind::Other => false,
        };
        let mut heard = self.heard();
        heard.may_be_over = may_be_over;
        heard.since.get_or_insert_with(Instant::now);
        if matches!(
            event.kind,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
        ) {
            heard.moved.extend(event.paths);
        }
        drop(heard);
        self.woken.notify_one();
    }
}

impl FolderWatch {
    /// A watch on nothing yet.
    pub fn new() -> Self {
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        Self {
            watcher: notify::recommended_watcher(move |event| told.take(event)).ok(),
            watched: BTreeSet::new(),
            is_complete: false,
            shared,
        }
    }

    /// Watches exactly these folders from now on; blocks for as long as the system takes.
    pub fn follow(&mut self, folders: BTreeSet<PathBuf>) -> Followed {
        let moved = std::mem::take(&mut self.shared.heard().moved);
        self.watched
            .retain(|folder| !moved.iter().any(|path| folder.starts_with(path)));
        let mut followed = Followed::default();
        let Some(watcher) = &mut self.watcher else {
            followed.trouble = Some("the system offers no way to watch files".to_owned());
            return followed;
        };
        for gone in self.watched.difference(&folders) {
            // It may have ended by itself.
            let _ = watcher.unwatch(gone);
        }
        self.watched.retain(|folder| folders.contains(folder));
        for folder in folders {
            if self.watched.contains(&folder) || !folder.is_dir() {
                continue;
            }
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    followed.has_grown = true;
                    self.watched.insert(folder);
                }
                Err(error) if !folder.is_dir() => drop(error),
                Err(error) => followed.trouble = Some(told(&error, &folder)),
            }
        }
        self.is_complete = followed.trouble.is_none() && !self.watched.is_empty();
        followed
    }

    /// Waits for a change and for the end of the burst it comes in; tells when it began.
    ///
    /// Nothing is lost where this future is dropped.
    pub async fn changed(&self) -> Instant {
        if self.is_complete {
            self.burst().await
        } else {
            let look = tokio::time::timeout(LOOK_EVERY, self.burst()).await;
            look.unwrap_or_else(|_| Instant::now())
        }
    }

    async fn burst(&self) -> Instant {
        let first = loop {
            let since = self.shared.heard().since;
            match since {
                Some(since) => break since,
                None => self.shared.woken.notified().await,
            }
        };
        let patience = LONGEST_BURST.saturating_sub(first.elapsed());
        let _ = tokio::time::timeout(patience, async {
            loop {
                let may_be_over = self.shared.heard().may_be_over;
                let quiet = if may_be_over { QUIET_AFTER_END } else { QUIET };
                if tokio::time::timeout(quiet, self.shared.woken.notified())
                    .await
                    .is_err()
                {
                    return;
                }
            }
        })
        .await;
        self.shared.heard().since.take().unwrap_or(first)
    }
}

impl Default for FolderWatch {
    fn default() -> Self {
        Self::new()
    }
}

fn told(error: &notify::Error, folder: &Path) -> String {
    match error.kind {
        notify::ErrorKind::MaxFilesWatch => "the system's limit on watched folders is reached \
             (`sysctl fs.inotify.max_user_watches` raises it)"
            .to_owned(),
        notify::ErrorKind::Generic(_)
        | notify::ErrorKind::Io(_)
        | notify::ErrorKind::PathNotFound
        | notify::ErrorKind::WatchNotFound
        | notify::ErrorKind::InvalidConfig(_) => {
            format!("`{}` cannot be watched: {error}", folder.display())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);
    const NEVER: Duration = Duration::from_millis(150);

    async fn is_told(watch: &FolderWatch, patience: Duration) -> bool {
        tokio::time::timeout(patience, watch.changed())
            .await
            .is_ok()
    }

    fn watch(folders: &[&Path]) -> FolderWatch {
        let mut watch = FolderWatch::new();
        let folders = folders.iter().map(|path| path.to_path_buf()).collect();
        assert_eq!(
            watch.follow(folders),
            Followed {
                has_grown: true,
                trouble: None
            }
        );
        watch
    }

    #[tokio::test]
    async fn changes_are_told_and_reading_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.py");
        std::fs::write(&file, "1").unwrap();
        let watch = watch(&[folder.path()]);
        std::fs::read(&file).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(!is_told(&watch, NEVER).await);
        for step in 0..4 {
            let other = folder.path().join("b");
            match step {
                0 => std::fs::write(&file, "2").unwrap(),
                1 => std::fs::write(&other, "3").unwrap(),
                2 => std::fs::rename(&other, &file).unwrap(),
                _ => std::fs::remove_file(&file).unwrap(),
            }
            assert!(is_told(&watch, SOON).await, "step {step}");
            // One burst is told once.
            assert!(!is_told(&watch, NEVER).await, "step {step}");
        }
    }

    #[tokio::test]
    async fn only_the_named_folders_are_watched() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let mut watch = watch(&[folder.path()]);
        std::fs::write(inner.join("a"), "1").unwrap();
        assert!(!is_told(&watch, NEVER).await);
        let both = BTreeSet::from([folder.path().to_path_buf(), inner.clone()]);
        assert!(watch.follow(both.clone()).has_grown);
        assert!(!watch.follow(both).has_grown);
        std::fs::write(inner.join("a"), "2").unwrap();
        assert!(is_told(&watch, SOON).await);
        watch.follow(BTreeSet::from([folder.path().to_path_buf()]));
        std::fs::write(inner.join("a"), "3").unwrap();
        assert!(!is_told(&watch, NEVER).await);
    }

    #[tokio::test]
    async fn a_folder_that_was_made_anew_is_watched_again() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let both = BTreeSet::from([folder.path().to_path_buf(), inner.clone()]);
        let mut watch = watch(&[folder.path(), &inner]);
        std::fs::rename(&inner, folder.path().join("away")).unwrap();
        std::fs::create_dir(&inner).unwrap();
        assert!(is_told(&watch, SOON).await);
        assert!(watch.follow(both).has_grown);
        std::fs::write(inner.join("a"), "1").unwrap();
        assert!(is_told(&watch, SOON).await);
    }

    #[tokio::test]
    async fn without_the_system_it_is_looked_every_so_often() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = FolderWatch::new();
        watch.watcher = None;
        let followed = watch.follow(BTreeSet::from([folder.path().to_path_buf()]));
        assert!(followed.trouble.is_some());
        assert!(is_told(&watch, SOON).await);
    }

    #[tokio::test]
    async fn a_writer_that_never_rests_does_not_hide_changes() {
        let folder = tempfile::tempdir().unwrap();
        let watch = watch(&[folder.path()]);
        let log = folder.path().join("log");
        let writing = async {
            loop {
                std::fs::write(&log, "line").unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            told = is_told(&watch, SOON) => assert!(told),
            () = writing => {}
        }
    }
}

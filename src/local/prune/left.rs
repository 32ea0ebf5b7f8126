//! What a killed platform, client or replica left: moved aside at once when a platform starts, which
//! takes no time, and removed when it is up.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use walkdir::WalkDir;

use super::found;
use crate::config::Home;
use crate::files;
use crate::local::store::{self, Store};

/// Unfinished copies of parameters, in or beside a run folder.
const STAGE: &str = ".fserve-";

/// No parameter takes longer to arrive, of a replica that still lives.
pub(super) const LONGEST_STAGE: Duration = Duration::from_secs(24 * 3600);

/// Uploads that a platform had not finished: their names are its own.
const UPLOADING: &str = ".flyte-upload-";

/// What has arrived of an upload whose connection broke.
const BEGUN: &str = ".begun-";

/// Moves aside what would be in the way: folders of single replicas, and all of apps that are not
/// stored, whose names may be given again. None of this home's replicas may run.
pub fn set_aside_left_behind(home: &Home, store: &Store) -> Result<(), store::Error> {
    let mut left = found::of_replicas(home);
    // Where rows were lost, what those apps wrote may be all that is left of them.
    if store.set_aside().is_none() {
        left.extend(of_nobody(home, store)?);
    }
    for path in left {
        if let Err(error) = files::set_aside(&path, &home.trash()) {
            tracing::warn!(path = %path.display(), %error, "was left behind and stays");
        }
    }
    Ok(())
}

/// Folders of apps that are not stored.
fn of_nobody(home: &Home, store: &Store) -> Result<Vec<PathBuf>, store::Error> {
    let apps = store.apps()?;
    let known: HashSet<PathBuf> = apps
        .iter()
        .map(|row| home.apps().join(row.key.as_str()))
        .collect();
    let mut folders = found::at_depth(&home.apps(), 3);
    folders.retain(|path| path.is_dir() && !known.contains(path));
    Ok(folders)
}

/// Removes what is in nobody's way, however long that takes: beginnings of uploads and of copies, and
/// the trash. `started` is when this platform began, since it makes such files itself.
pub fn remove_left_behind(home: &Home, started: SystemTime) {
    let _alone = super::one_at_a_time();
    // Somebody may come back for what has arrived of an upload.
    let patience = |name: &str| match name {
        _ if name.starts_with(UPLOADING) => Some(Duration::ZERO),
        _ if name.starts_with(BEGUN) => Some(super::GRACE),
        _ => None,
    };
    let uploads = WalkDir::new(home.uploads()).into_iter().flatten();
    for entry in uploads.filter(|entry| entry.file_type().is_file()) {
        let patience = patience(&entry.file_name().to_string_lossy());
        if patience.is_some_and(|patience| is_older(&entry, started - patience)) {
            forget(entry.path());
        }
    }
    // Secrets are made whole beside their place as well, by names that are nobody's.
    for entry in WalkDir::new(home.secrets())
        .max_depth(1)
        .into_iter()
        .flatten()
    {
        if entry.file_name().to_string_lossy().starts_with(".tmp") && is_older(&entry, started) {
            forget(entry.path());
        }
    }
    if home.tmp().exists() {
        files::Scratch::sweep(&home.tmp());
    }
    forget_stages(home, started);
    empty_trash(home);
}

/// Removes unfinished copies that were last changed before: each link in one would keep a file of the
/// cache for good.
pub(super) fn forget_stages(home: &Home, before: SystemTime) {
    let runs = WalkDir::new(home.apps()).min_depth(4).into_iter().flatten();
    for entry in runs.filter(|entry| entry.file_type().is_dir()) {
        let is_stage = entry.file_name().to_string_lossy().starts_with(STAGE);
        if is_stage && is_older(&entry, before) {
            forget(entry.path());
        }
    }
}

fn is_older(entry: &walkdir::DirEntry, than: SystemTime) -> bool {
    let changed = entry
        .metadata()
        .ok()
        .and_then(|there| there.modified().ok());
    changed.is_some_and(|changed| changed < than)
}

/// Removes what was moved aside; what resists is looked at again next time.
pub fn empty_trash(home: &Home) {
    let trash = std::fs::read_dir(home.trash()).into_iter().flatten();
    for entry in trash.flatten() {
        forget(&entry.path());
    }
    // It stays where something in it does.
    let _ = std::fs::remove_dir(home.trash());
}

fn forget(path: &Path) {
    if let Err(error) = files::remove_all(path) {
        tracing::warn!(path = %path.display(), %error, "cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::store::AppKey;
    use crate::wire::{app, identifier};
    use std::fs;

    #[test]
    fn what_a_killed_platform_left_goes_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let home = Home::at(scratch.path().to_path_buf());
        let store = Store::open(&home.database()).unwrap();
        let key = AppKey::of(&identifier("", "p", "d", "web"));
        store.create_app(&key, 4000, &app::App::default()).unwrap();
        let make = |name: &str| {
            let path = scratch.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            path
        };
        let gone = [
            make("uploads/p/d/0/.flyte-upload-1"),
            make("apps/p/d/web/3/data/.fserve-1/file"),
            make("apps/p/d/web/3-7/file"),
            make("apps/p/d/deleted/1/file"),
            make("trash/x/it"),
        ];
        let stays = [
            make("uploads/p/d/0/code.tar.zst"),
            make("uploads/p/d/0/.begun-code.tar.zst"),
            make("apps/p/d/web/3/data/file"),
            make("apps/p/d/web/logs/app.log"),
        ];
        let later = SystemTime::now() + Duration::from_secs(1);
        set_aside_left_behind(&home, &store).unwrap();
        assert!(!gone[2].exists() && !gone[3].exists());
        remove_left_behind(&home, later);
        for path in &gone {
            assert!(!path.exists(), "{}", path.display());
        }
        for path in &stays {
            assert!(path.exists(), "{}", path.display());
        }
        assert!(!home.trash().exists());
        remove_left_behind(&home, later + super::super::GRACE);
        assert!(!stays[1].exists());
    }
}

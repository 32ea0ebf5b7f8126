//! What is done with a damaged database: it is set aside, never deleted, and read row by row into a
//! new one. A page that cannot be read ends a walk over its table, so each is walked from both ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use buffa::Message;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::Error;
use crate::wire::app;

/// What its name gets in addition.
const SUFFIX: &str = ".damaged-";

/// Ports for apps whose own is not known any more; one that is taken is given up as apps come back.
const PORTS: std::ops::Range<i64> = 20_000..32_000;

/// How much was taken over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub apps: usize,
    pub revisions: usize,
}

/// Where the new database is made. It is only there without the damaged one when it is whole.
pub(super) fn new_place(path: &Path) -> PathBuf {
    with(path, ".new")
}

/// Removes a database, and what belongs to one that is not there any more.
pub(super) fn forget(path: &Path) -> Result<(), Error> {
    ["", "-wal", "-shm"].into_iter().try_for_each(|suffix| {
        let path = with(path, suffix);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Damaged { path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    })
}

/// Puts the new database in its place.
pub(super) fn take_place(path: &Path) -> Result<(), Error> {
    std::fs::rename(new_place(path), path).map_err(|source| Error::Damaged {
        path: path.to_path_buf(),
        source,
    })
}

/// Renames the database, its log and its index, and tells where it lies now.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, Error> {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ");
    let aside = with(path, &format!("{SUFFIX}{now}"));
    let moved = |suffix: &str| match std::fs::rename(with(path, suffix), with(&aside, suffix)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    };
    // A log alone means nothing: whoever finds no database removes it.
    ["", "-wal", "-shm"]
        .into_iter()
        .try_for_each(moved)
        .map_err(|source| Error::Damaged {
            path: path.to_path_buf(),
            source,
        })?;
    Ok(aside)
}

/// Databases that were set aside beside the one at `path`, oldest first.
pub(super) fn all_set_aside(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{name}{SUFFIX}");
    let folder = path.parent().unwrap_or(path);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_one = |name: &str| {
        name.starts_with(&prefix) && !name.ends_with("-wal") && !name.ends_with("-shm")
    };
    let mut all: Vec<PathBuf> = entries
        .filter(|entry| is_one(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    all.sort();
    all
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Copies what can be read into a new database, and makes sense of what is left of each app.
pub(super) fn take_over(damaged: &Path, into: &mut Connection) -> Result<Taken, Error> {
    let old = Connection::open_with_flags(damaged, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mut apps = rows(&old, "apps", APPS);
    let mut revisions = rows(&old, "revisions", REVISIONS);
    let conditions = rows(&old, "conditions", CONDITIONS);
    revisions.retain(|row| {
        matches!(row.get(2), Some(Value::Blob(app)) if app::App::decode_from_slice(app).is_ok())
    });
    fit(&mut apps, &revisions);
    let transaction = into.transaction()?;
    let put = |table, columns: &[&str], rows: &[Row]| -> usize {
        let marks = vec!["?"; columns.len()].join(", ");
        let columns = columns.join(", ");
        let insert = format!("INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})");
        // A row that does not fit is one that could not be read.
        let put = |row: &&Row| {
            let done = transaction.execute(&insert, params_from_iter(row.iter()));
            done.unwrap_or(0) == 1
        };
        rows.iter().filter(put).count()
    };
    let taken = Taken {
        apps: put("apps", APPS, &apps),
        revisions: put("revisions", REVISIONS, &revisions),
    };
    put("conditions", CONDITIONS, &conditions);
    transaction.commit()?;
    Ok(taken)
}

type Row = Vec<Value>;

const APPS: &[&str] = &[
    "key",
    "port",
    "desired_active",
    "serving",
    "latest",
    "created_at",
    "updated_at",
];
const REVISIONS: &[&str] = &["key", "revision", "app", "failed", "created_at"];
const CONDITIONS: &[&str] = &["id", "key", "condition"];

/// What can be read of a table, each row once.
fn rows(old: &Connection, table: &str, columns: &[&str]) -> Vec<Row> {
    let mut found = BTreeMap::new();
    for order in ["ASC", "DESC"] {
        let query = format!(
            "SELECT rowid, {} FROM {table} NOT INDEXED ORDER BY rowid {order}",
            columns.join(", ")
        );
        let Ok(mut statement) = old.prepare(&query) else {
            continue;
        };
        let read = statement.query_map([], |row| {
            let number: i64 = row.get(0)?;
            let values = (1..=columns.len()).map(|column| row.get(column));
            Ok((number, values.collect::<Result<Row, _>>()?))
        });
        // The first error is the page that cannot be passed from this side.
        found.extend(read.into_iter().flatten().map_while(Result::ok));
    }
    found.into_values().collect()
}

/// Makes apps and revisions agree: an app is nothing without a revision, and its newest one is at
/// least the newest that is there. Revisions whose app is lost get it back, at another port.
fn fit(apps: &mut Vec<Row>, revisions: &[Row]) {
    let mut newest: BTreeMap<String, (i64, Value)> = BTreeMap::new();
    for row in revisions {
        if let [Value::Text(key), Value::Integer(number), .., created] = row.as_slice() {
            let known = newest.entry(key.clone()).or_insert((0, created.clone()));
            if *number >= known.0 {
                *known = (*number, created.clone());
            }
        }
    }
    apps.retain_mut(|row| {
        let [Value::Text(key), .., Value::Integer(latest), _, _] = row.as_mut_slice() else {
            return false;
        };
        let known = newest.remove(key);
        *latest = (*latest).max(known.as_ref().map_or(0, |(number, _)| *number));
        known.is_some()
    });
    let mut taken: BTreeSet<i64> = apps
        .iter()
        .filter_map(|row| match row.get(1) {
            Some(Value::Integer(port)) => Some(*port),
            _ => None,
        })
        .collect();
    for (key, (latest, created)) in newest {
        let Some(port) = PORTS.into_iter().find(|port| taken.insert(*port)) else {
            return;
        };
        apps.push(vec![
            Value::Text(key),
            Value::Integer(port),
            Value::Integer(1),
            Value::Null,
            Value::Integer(latest),
            created.clone(),
            created,
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AppKey, Store};
    use super::*;
    use crate::wire::identifier;

    fn key(number: u16) -> AppKey {
        AppKey::of(&identifier("", "p", "d", &format!("app-{number:03}")))
    }

    fn app(key: &AppKey) -> app::App {
        let (project, domain, name) = key.parts();
        app::App {
            metadata: app::Meta {
                id: identifier("", project, domain, name).into(),
                code_bundle_uri: "x".repeat(3000),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        }
    }

    /// A database of many apps, and its path.
    fn filled() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("platform.db");
        let store = Store::open(&path).unwrap();
        for number in 0..100 {
            let key = key(number);
            let app = app(&key);
            store.create_app(&key, 20_500 + number, &app).unwrap();
        }
        drop(store);
        (folder, path)
    }

    fn damage(path: &Path, from: usize, bytes: usize) {
        let mut all = std::fs::read(path).unwrap();
        all[from..from + bytes].fill(0xa5);
        std::fs::write(path, all).unwrap();
    }

    #[test]
    fn what_can_be_read_of_a_damaged_database_is_taken_over() {
        let (folder, path) = filled();
        let size = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap();
        damage(&path, size / 2, 4096);
        let store = Store::open(&path).unwrap();
        let kept = store.apps().unwrap();
        assert!((50..100).contains(&kept.len()), "{}", kept.len());
        for row in &kept {
            assert!(store.revision(&row.key, row.latest).unwrap().is_some());
        }
        let aside = store.set_aside().unwrap().clone();
        assert_eq!(all_set_aside(&path), [aside]);
        drop(store);
        assert!(Store::open(&path).unwrap().set_aside().is_none());
        drop(folder);
    }

    #[test]
    fn a_rescue_that_was_cut_short_goes_on() {
        let (_folder, path) = filled();
        // The damaged one is away already, the new one is not in its place yet.
        std::fs::rename(&path, new_place(&path)).unwrap();
        let store = Store::open(&path).unwrap();
        assert_eq!(store.apps().unwrap().len(), 100);
    }

    #[test]
    fn what_is_no_database_is_set_aside() {
        let (_folder, path) = filled();
        damage(&path, 0, 100);
        let store = Store::open(&path).unwrap();
        assert!(store.apps().unwrap().is_empty());
        assert!(store.set_aside().is_some());
    }

    #[test]
    fn revisions_get_back_the_app_that_is_lost() {
        let (_folder, path) = filled();
        let other = Connection::open(&path).unwrap();
        other
            .execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM apps WHERE key LIKE '%-007'")
            .unwrap();
        drop(other);
        let store = Store::open(&with(&path, "-new")).unwrap();
        let taken = take_over(&path, &mut store.connection()).unwrap();
        assert_eq!((taken.apps, taken.revisions), (100, 100));
        let back = store.app(&key(7)).unwrap().unwrap();
        assert_eq!((back.latest, back.serving, back.port), (1, None, 20_000));
    }
}

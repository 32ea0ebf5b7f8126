//! Opening the database: of which layout it is, whether it is whole, and what becomes of one that is
//! not.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::{Error, Store, rescue};
use crate::crash;
use crate::error::with_causes;

/// What leads from each layout to the next one, the first from nothing. A step that was released is
/// never changed; `fixtures` holds a database of each layout.
const STEPS: &[&str] = &["
CREATE TABLE apps (
    key TEXT PRIMARY KEY,
    port INTEGER NOT NULL UNIQUE,
    desired_active INTEGER NOT NULL,
    serving INTEGER,
    latest INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE TABLE revisions (
    key TEXT NOT NULL REFERENCES apps(key) ON DELETE CASCADE,
    revision INTEGER NOT NULL,
    app BLOB NOT NULL,
    failed INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (key, revision)
) STRICT;
CREATE TABLE conditions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL REFERENCES apps(key) ON DELETE CASCADE,
    condition BLOB NOT NULL
) STRICT;
CREATE INDEX conditions_by_key ON conditions(key, id);
"];

/// How long another program may have the database locked.
const PATIENCE: Duration = Duration::from_secs(5);

impl Store {
    /// Opens the database at `path`, making or upgrading it; newer layouts are refused. One that is
    /// damaged is set aside, and what can be read of it taken over.
    ///
    /// The caller is the only one who has it open.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if !path.exists() {
            // The log of another database must not be taken for that of a new one.
            rescue::forget(path)?;
            if rescue::new_place(path).exists() {
                rescue::take_place(path)?;
            }
        }
        match whole(path) {
            Ok(connection) => Ok(Self::over(connection, None)),
            Err(error) if is_damage(&error) => {
                tracing::error!(error = %with_causes(&error), "the database is damaged");
                let aside = replace(path)?;
                Ok(Self::over(whole(path)?, Some(aside)))
            }
            Err(error) => Err(error),
        }
    }

    /// Databases beside the one at `path` that were damaged and set aside.
    pub fn all_set_aside(path: &Path) -> Vec<PathBuf> {
        rescue::all_set_aside(path)
    }

    fn over(connection: Connection, set_aside: Option<PathBuf>) -> Self {
        Self {
            connection: Mutex::new(connection),
            set_aside,
        }
    }
}

/// Makes a new database of what can be read of a damaged one, which is set aside: first all of the
/// new one, so that being killed, or a full disk, loses nothing.
fn replace(path: &Path) -> Result<PathBuf, Error> {
    let new = rescue::new_place(path);
    rescue::forget(&new)?;
    let mut connection = whole(&new)?;
    let taken = rescue::take_over(path, &mut connection)?;
    // Closing it brings all into the one file.
    connection.close().map_err(|(_, error)| error)?;
    crash::point("rescue.made");
    let aside = rescue::set_aside(path)?;
    crash::point("rescue.aside");
    rescue::take_place(path)?;
    tracing::error!(
        apps = taken.apps,
        revisions = taken.revisions,
        aside = %aside.display(),
        "took over what could be read of the damaged database, which was set aside"
    );
    Ok(aside)
}

/// A connection to a database that was looked through.
fn whole(path: &Path) -> Result<Connection, Error> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    // Before anything is written: a newer build may keep its database in another way.
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(Error::Newer { found, known });
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    look_through(&connection)?;
    for (number, step) in (1_i64..).zip(STEPS).filter(|(number, _)| *number > found) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(connection)
}

/// Reads every page once. A database of a thousand apps takes a few milliseconds.
fn look_through(connection: &Connection) -> Result<(), Error> {
    let told: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if told == "ok" {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(rusqlite::Error::SqliteFailure(code, Some(told)).into())
}

fn is_damage(error: &Error) -> bool {
    let Error::Database(error) = error else {
        return false;
    };
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

#[cfg(test)]
mod tests {
    use super::super::AppKey;
    use super::*;
    use crate::wire::identifier;

    /// A database of each layout that was released, as SQL.
    const FIXTURES: [&str; STEPS.len()] = [include_str!("fixtures/1.sql")];

    #[test]
    fn databases_of_all_layouts_are_brought_up_to_the_newest() {
        for (number, fixture) in FIXTURES.iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("platform.db");
            let old = Connection::open(&path).unwrap();
            old.execute_batch(fixture).unwrap();
            drop(old);
            let store = Store::open(&path).unwrap();
            assert!(store.set_aside().is_none(), "layout {}", number + 1);
            let key = AppKey::of(&identifier("", "p", "d", "web"));
            let row = store.app(&key).unwrap().unwrap();
            assert_eq!((row.port, row.serving, row.latest), (20_100, Some(1), 2));
            let revision = store.revision(&key, 2).unwrap().unwrap();
            assert_eq!(revision.app.metadata.id.name, "web");
            assert_eq!(store.conditions(&key).unwrap()[0].message, "hello");
            drop(store);
            let again = Connection::open(&path).unwrap();
            let found: i64 = again
                .query_row("PRAGMA user_version", [], |row| row.get(0))
                .unwrap();
            assert_eq!(usize::try_from(found).unwrap(), STEPS.len());
        }
    }

    #[test]
    fn a_newer_database_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("platform.db");
        let newer = Connection::open(&path).unwrap();
        newer
            .execute_batch("CREATE TABLE t (x); PRAGMA user_version = 99;")
            .unwrap();
        drop(newer);
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(Store::open(&path), Err(Error::Newer { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}

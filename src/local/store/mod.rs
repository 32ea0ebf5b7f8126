//! What the platform must not forget: apps, their revisions and conditions, and uploads.
//!
//! One SQLite file in WAL mode behind one connection. Messages are stored as they came, so that
//! fields this build does not know survive. Every call is one transaction: after a crash either
//! all of it is there or none. What was answered for (filed, wanted, forgotten) is on the disk
//! before the call returns; what only tells how things go may be a moment behind. A message that
//! cannot be read is said in the log and treated as one that is not there, so that it costs no more
//! than itself.

mod open;
mod rescue;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use buffa::Message;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};

use crate::error::{Code, Diagnostic};
use crate::wire::app;

/// Conditions kept for each app.
const CONDITIONS_KEPT: u32 = 50;

/// Revisions kept for each app, besides the one that takes traffic: more than anybody goes back by,
/// and a loop that serves all day does not fill the disk.
const REVISIONS_KEPT: i64 = 100;

/// The database failed, or holds what cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the platform's database failed")]
    Database(#[from] rusqlite::Error),
    #[error("cannot move the damaged database `{}` aside", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the platform's database has layout {found}; this build of flyte-rs knows layouts up to {known}"
    )]
    Newer { found: i64, known: i64 },
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::Database(_) | Self::Damaged { .. } | Self::Newer { .. } => Code::LocalStore,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Newer { .. } => {
                vec!["upgrade flyte-rs, or set `FLYTE_HOME` to another folder".into()]
            }
            Self::Damaged { .. } => vec!["move it away by hand".into()],
            Self::Database(error) => advice(error.sqlite_error_code())
                .map(str::to_owned)
                .into_iter()
                .collect(),
        }
    }
}

/// What mends what SQLite complains of. Its codes are not ours, so there is a rest.
fn advice(code: Option<ErrorCode>) -> Option<&'static str> {
    match code? {
        ErrorCode::DiskFull => Some("free some disk space; `flyte doctor` tells how much there is"),
        ErrorCode::SystemIoFailure => {
            Some("look at the disk that `FLYTE_HOME` is on: it may be full or failing")
        }
        ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied => {
            Some("make `FLYTE_HOME` a folder that you can write to")
        }
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Some(
            "`flyte local stop` and `flyte local start`: what can be read of a damaged database is \
             taken over as the platform starts",
        ),
        _ => None,
    }
}

impl Error {
    /// Whether there was no room for what was to be written.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Database(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }
}

/// `project/domain/name`: what an app is filed under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppKey(String);

impl AppKey {
    pub fn of(id: &app::Identifier) -> Self {
        Self(format!("{}/{}/{}", id.project, id.domain, id.name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The app's own part of the key.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Project, domain and name.
    pub fn parts(&self) -> (&str, &str, &str) {
        let mut parts = self.0.splitn(3, '/');
        let mut next = || parts.next().unwrap_or_default();
        (next(), next(), next())
    }
}

impl std::fmt::Display for AppKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Number of a revision, from 1.
pub type Revision = u64;

/// Everything stored of one app.
#[derive(Clone, Debug)]
pub struct AppRow {
    pub key: AppKey,
    /// Where the gateway listens for it; stays the same for as long as the app exists.
    pub port: u16,
    pub desired_active: bool,
    /// The revision that takes traffic, once there was one.
    pub serving: Option<Revision>,
    pub latest: Revision,
    /// Milliseconds since 1970.
    pub created_at: i64,
    pub updated_at: i64,
}

/// One stored revision.
#[derive(Clone, Debug)]
pub struct RevisionRow {
    pub revision: Revision,
    pub app: app::App,
    pub failed: bool,
    /// Whether a newer one took its place before it served.
    pub overtaken: bool,
    /// Milliseconds since 1970.
    pub created_at: i64,
}

/// The little that a list of many apps shows of each.
#[derive(Clone, Debug)]
pub struct Glance {
    pub row: AppRow,
    /// Whether the newest revision did not come up.
    pub latest_failed: bool,
    pub last: Option<app::Condition>,
}

/// The condition that a revision begins with, by its number.
pub type Beginning<'a> = &'a dyn Fn(Revision) -> app::Condition;

/// The database.
pub struct Store {
    connection: Mutex<Connection>,
    /// Where a database lies that was damaged and set aside as this one was opened.
    set_aside: Option<PathBuf>,
}

impl Store {
    /// Where the damaged database lies that this one was rebuilt from.
    pub fn set_aside(&self) -> Option<&PathBuf> {
        self.set_aside.as_ref()
    }

    /// Gives back the memory that pages were kept in, which are read again when they are needed:
    /// otherwise it grows for hours, up to two megabytes.
    pub fn return_memory(&self) -> Result<(), Error> {
        Ok(self.connection().execute_batch("PRAGMA shrink_memory")?)
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic while the lock was held rolled its transaction back; the connection is sound.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// One transaction that is on the disk when this returns. Other ones are there after a crash of
    /// the process, and after one of the machine as far as they got.
    fn durably<T>(
        &self,
        write: impl FnOnce(&Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut connection = self.connection();
        connection.pragma_update(None, "synchronous", "FULL")?;
        let written = connection
            .transaction()
            .map_err(Error::from)
            .and_then(|transaction| {
                let result = write(&transaction)?;
                transaction.commit()?;
                Ok(result)
            });
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        written
    }

    /// All apps, by key.
    pub fn apps(&self) -> Result<Vec<AppRow>, Error> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT key, port, desired_active, serving, latest, created_at, updated_at
             FROM apps ORDER BY key",
        )?;
        let rows = statement.query_map([], app_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// A look at all apps, by key, in one query.
    pub fn glances(&self) -> Result<Vec<Glance>, Error> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT key, port, desired_active, serving, latest, created_at, updated_at,
                    (SELECT failed FROM revisions
                     WHERE revisions.key = apps.key AND revision = latest),
                    (SELECT condition FROM conditions
                     WHERE conditions.key = apps.key ORDER BY id DESC LIMIT 1)
             FROM apps ORDER BY key",
        )?;
        let rows = statement.query_map([], |row| {
            let failed: Option<bool> = row.get(7)?;
            let last: Option<Vec<u8>> = row.get(8)?;
            Ok((app_row(row)?, failed.unwrap_or(false), last))
        })?;
        rows.map(|row| {
            let (row, latest_failed, last) = row?;
            let last = last.and_then(|bytes| condition(&row.key, &bytes));
            Ok(Glance {
                row,
                latest_failed,
                last,
            })
        })
        .collect()
    }

    pub fn app(&self, key: &AppKey) -> Result<Option<AppRow>, Error> {
        Ok(self
            .connection()
            .prepare_cached(
                "SELECT key, port, desired_active, serving, latest, created_at, updated_at
                 FROM apps WHERE key = ?1",
            )?
            .query_row([key.as_str()], app_row)
            .optional()?)
    }

    /// A revision; one whose message cannot be read is none.
    pub fn revision(&self, key: &AppKey, revision: Revision) -> Result<Option<RevisionRow>, Error> {
        let row = self
            .connection()
            .prepare_cached(
                "SELECT revision, app, failed, created_at FROM revisions
                 WHERE key = ?1 AND revision = ?2",
            )?
            .query_row(params![key.as_str(), number(revision)], stored_revision)
            .optional()?;
        Ok(row.and_then(|row| row.read(key)))
    }

    /// All revisions, oldest first.
    pub fn revisions(&self, key: &AppKey) -> Result<Vec<RevisionRow>, Error> {
        let mut all = Vec::new();
        self.each_revision(key, |row| all.push(row))?;
        Ok(all)
    }

    /// Shows all revisions, oldest first, one at a time: together they may take megabytes.
    ///
    /// `look` must not ask the store for anything, which is not open to anyone meanwhile.
    pub fn each_revision(
        &self,
        key: &AppKey,
        mut look: impl FnMut(RevisionRow),
    ) -> Result<(), Error> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT revision, app, failed, created_at FROM revisions
             WHERE key = ?1 ORDER BY revision",
        )?;
        for row in statement.query_map([key.as_str()], stored_revision)? {
            row?.read(key).into_iter().for_each(&mut look);
        }
        Ok(())
    }

    /// The newest `count` revisions, newest first.
    pub fn newest(&self, key: &AppKey, count: u32) -> Result<Vec<RevisionRow>, Error> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT revision, app, failed, created_at FROM revisions
             WHERE key = ?1 ORDER BY revision DESC LIMIT ?2",
        )?;
        let rows = statement.query_map(params![key.as_str(), count], stored_revision)?;
        let all = rows.collect::<Result<Vec<_>, _>>()?.into_iter();
        Ok(all.filter_map(|row| row.read(key)).collect())
    }

    /// Forgets revisions of an app; those that are not there are forgotten already.
    pub fn delete_revisions(&self, key: &AppKey, revisions: &[Revision]) -> Result<(), Error> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        for revision in revisions {
            transaction.execute(
                "DELETE FROM revisions WHERE key = ?1 AND revision = ?2",
                params![key.as_str(), number(*revision)],
            )?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// The newest conditions, oldest first.
    pub fn conditions(&self, key: &AppKey) -> Result<Vec<app::Condition>, Error> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached("SELECT condition FROM conditions WHERE key = ?1 ORDER BY id")?;
        let rows = statement.query_map([key.as_str()], |row| row.get::<_, Vec<u8>>(0))?;
        let all = rows.collect::<Result<Vec<_>, _>>()?.into_iter();
        Ok(all.filter_map(|bytes| condition(key, &bytes)).collect())
    }

    /// Files a new app under a port, with its first revision and that one's first condition.
    pub fn file_app(
        &self,
        key: &AppKey,
        port: u16,
        app: &app::App,
        begin: Beginning<'_>,
    ) -> Result<Revision, Error> {
        self.durably(|transaction| {
            new_app(transaction, key, port)?;
            let revision = next_revision(transaction, key, app)?;
            add_condition(transaction, key, &begin(revision))?;
            Ok(revision)
        })
    }

    /// Files a new revision and makes it the one that is wanted, with its first condition.
    pub fn file_revision(
        &self,
        key: &AppKey,
        app: &app::App,
        begin: Beginning<'_>,
    ) -> Result<Revision, Error> {
        self.durably(|transaction| {
            let revision = next_revision(transaction, key, app)?;
            add_condition(transaction, key, &begin(revision))?;
            Ok(revision)
        })
    }

    /// Wants a revision again that is filed already.
    pub fn want_again(&self, key: &AppKey, condition: &app::Condition) -> Result<(), Error> {
        self.durably(|transaction| {
            want(transaction, key, true)?;
            add_condition(transaction, key, condition)
        })
    }

    /// Records which revision takes traffic.
    pub fn set_serving(&self, key: &AppKey, revision: Option<Revision>) -> Result<(), Error> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        // Traffic only ever moves on, so what lies between the two never had any.
        transaction.execute(
            "UPDATE revisions SET failed = ?3 WHERE key = ?1 AND failed = 0 AND revision < ?2
             AND revision > (SELECT coalesce(serving, 0) FROM apps WHERE key = ?1)",
            params![key.as_str(), revision.map(number), OVERTAKEN],
        )?;
        transaction.execute(
            "UPDATE apps SET serving = ?2, updated_at = ?3 WHERE key = ?1",
            params![key.as_str(), revision.map(number), now_ms()],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// Records that a revision did not come up.
    pub fn set_failed(&self, key: &AppKey, revision: Revision, failed: bool) -> Result<(), Error> {
        self.connection().execute(
            "UPDATE revisions SET failed = ?3 WHERE key = ?1 AND revision = ?2",
            params![key.as_str(), number(revision), failed],
        )?;
        Ok(())
    }

    /// Records whether the app is meant to run.
    pub fn set_desired(&self, key: &AppKey, active: bool) -> Result<(), Error> {
        self.durably(|transaction| want(transaction, key, active))
    }

    /// Moves an app to another port, for when its own was lost to another program for good.
    pub fn set_port(&self, key: &AppKey, port: u16) -> Result<(), Error> {
        self.connection().execute(
            "UPDATE apps SET port = ?2 WHERE key = ?1",
            params![key.as_str(), port],
        )?;
        Ok(())
    }

    /// Adds a condition and forgets the oldest. An app that is gone takes none.
    pub fn push_condition(&self, key: &AppKey, condition: &app::Condition) -> Result<(), Error> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        add_condition(&transaction, key, condition)?;
        transaction.commit()?;
        Ok(())
    }

    /// Forgets an app with all that belongs to it.
    pub fn delete_app(&self, key: &AppKey) -> Result<(), Error> {
        self.durably(|transaction| {
            transaction.execute("DELETE FROM apps WHERE key = ?1", [key.as_str()])?;
            Ok(())
        })
    }
}

fn new_app(transaction: &Transaction<'_>, key: &AppKey, port: u16) -> Result<(), Error> {
    transaction.execute(
        "INSERT INTO apps (key, port, desired_active, serving, latest, created_at, updated_at)
         VALUES (?1, ?2, 1, NULL, 0, ?3, ?3)",
        params![key.as_str(), port, now_ms()],
    )?;
    Ok(())
}

fn want(transaction: &Transaction<'_>, key: &AppKey, active: bool) -> Result<(), Error> {
    transaction.execute(
        "UPDATE apps SET desired_active = ?2, updated_at = ?3 WHERE key = ?1",
        params![key.as_str(), active, now_ms()],
    )?;
    Ok(())
}

fn add_condition(
    transaction: &Transaction<'_>,
    key: &AppKey,
    condition: &app::Condition,
) -> Result<(), Error> {
    transaction.execute(
        "INSERT INTO conditions (key, condition) SELECT key, ?2 FROM apps WHERE key = ?1",
        params![key.as_str(), condition.encode_to_vec()],
    )?;
    transaction.execute(
        "DELETE FROM conditions WHERE key = ?1 AND id NOT IN
         (SELECT id FROM conditions WHERE key = ?1 ORDER BY id DESC LIMIT ?2)",
        params![key.as_str(), CONDITIONS_KEPT],
    )?;
    Ok(())
}

fn next_revision(
    transaction: &Transaction<'_>,
    key: &AppKey,
    app: &app::App,
) -> Result<Revision, Error> {
    let latest: i64 = transaction.query_row(
        "UPDATE apps SET latest = latest + 1, desired_active = 1, updated_at = ?2
         WHERE key = ?1 RETURNING latest",
        params![key.as_str(), now_ms()],
        |row| row.get(0),
    )?;
    transaction.execute(
        "INSERT INTO revisions (key, revision, app, created_at) VALUES (?1, ?2, ?3, ?4)",
        params![key.as_str(), latest, app.encode_to_vec(), now_ms()],
    )?;
    transaction.execute(
        "DELETE FROM revisions WHERE key = ?1 AND revision <= ?2
         AND revision IS NOT (SELECT serving FROM apps WHERE key = ?1)",
        params![key.as_str(), latest - REVISIONS_KEPT],
    )?;
    Ok(latest.unsigned_abs())
}

/// What is stored as a revision's failure where it was not its own: 1 is its own.
const OVERTAKEN: i64 = 2;

/// A revision before its message was read.
struct StoredRevision {
    revision: Revision,
    app: Vec<u8>,
    failed: i64,
    created_at: i64,
}

impl StoredRevision {
    /// Nothing where the message cannot be read, which is said.
    fn read(self, key: &AppKey) -> Option<RevisionRow> {
        let app = app::App::decode_from_slice(&self.app)
            .inspect_err(|error| {
                tracing::error!(app = %key, revision = self.revision, %error, "cannot be read");
            })
            .ok()?;
        Some(RevisionRow {
            revision: self.revision,
            app,
            failed: self.failed != 0 && self.failed != OVERTAKEN,
            overtaken: self.failed == OVERTAKEN,
            created_at: self.created_at,
        })
    }
}

fn condition(key: &AppKey, bytes: &[u8]) -> Option<app::Condition> {
    app::Condition::decode_from_slice(bytes)
        .inspect_err(|error| tracing::error!(app = %key, %error, "a condition cannot be read"))
        .ok()
}

fn stored_revision(row: &rusqlite::Row<'_>) -> rusqlite::Result<StoredRevision> {
    Ok(StoredRevision {
        revision: row.get::<_, i64>(0)?.unsigned_abs(),
        app: row.get(1)?,
        failed: row.get(2)?,
        created_at: row.get(3)?,
    })
}

fn app_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<AppRow> {
    Ok(AppRow {
        key: AppKey(row.get(0)?),
        port: row.get(1)?,
        desired_active: row.get(2)?,
        serving: row.get::<_, Option<i64>>(3)?.map(i64::unsigned_abs),
        latest: row.get::<_, i64>(4)?.unsigned_abs(),
        created_at: row.get(5)?,
        updated_at: row.get(6)?,
    })
}

fn number(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// What tests need no condition for.
#[cfg(test)]
impl Store {
    pub fn create_app(&self, key: &AppKey, port: u16, app: &app::App) -> Result<Revision, Error> {
        self.durably(|transaction| {
            new_app(transaction, key, port)?;
            next_revision(transaction, key, app)
        })
    }

    pub fn insert_revision(&self, key: &AppKey, app: &app::App) -> Result<Revision, Error> {
        self.durably(|transaction| next_revision(transaction, key, app))
    }

    /// Spoils what is stored of a revision.
    pub fn spoil(&self, key: &AppKey, revision: Revision) -> Result<(), Error> {
        self.connection().execute(
            "UPDATE revisions SET app = x'ff' WHERE key = ?1 AND revision = ?2",
            params![key.as_str(), number(revision)],
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::identifier;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("platform.db")).unwrap();
        (folder, store)
    }

    fn key() -> AppKey {
        AppKey::of(&identifier("", "p", "d", "app"))
    }

    #[test]
    fn old_revisions_are_forgotten_but_not_the_one_that_serves() {
        let (_folder, store) = store();
        let app = app::App::default();
        store.create_app(&key(), 4000, &app).unwrap();
        store.insert_revision(&key(), &app).unwrap();
        store.set_serving(&key(), Some(2)).unwrap();
        for _ in 0..=REVISIONS_KEPT {
            store.insert_revision(&key(), &app).unwrap();
        }

        let kept = store.revisions(&key()).unwrap();

        let numbers: Vec<Revision> = kept.iter().map(|row| row.revision).collect();
        let newest = REVISIONS_KEPT.unsigned_abs() + 3;
        let expected: Vec<Revision> = std::iter::once(2).chain(4..=newest).collect();
        assert_eq!(numbers, expected);
    }

    #[test]
    fn revisions_count_up_and_survive_reopening() {
        let (folder, store) = store();
        let app = app::App {
            metadata: app::Meta {
                code_bundle_uri: "file:///x".into(),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        };
        assert_eq!(store.create_app(&key(), 4100, &app).unwrap(), 1);
        assert_eq!(store.insert_revision(&key(), &app).unwrap(), 2);
        store.set_serving(&key(), Some(2)).unwrap();
        drop(store);

        let store = Store::open(&folder.path().join("platform.db")).unwrap();
        let row = store.app(&key()).unwrap().unwrap();
        assert_eq!((row.latest, row.serving, row.port), (2, Some(2), 4100));
        let stored = store.revision(&key(), 2).unwrap().unwrap();
        assert_eq!(stored.app, app);
    }

    #[test]
    fn what_never_served_before_a_newer_one_did_is_marked() {
        let (_folder, store) = store();
        let app = app::App::default();
        store.create_app(&key(), 4100, &app).unwrap();
        store.set_serving(&key(), Some(1)).unwrap();
        for _ in 0..3 {
            store.insert_revision(&key(), &app).unwrap();
        }
        store.set_failed(&key(), 3, true).unwrap();
        store.set_serving(&key(), Some(4)).unwrap();
        let rows = store.revisions(&key()).unwrap();
        let marks: Vec<_> = rows.iter().map(|row| (row.failed, row.overtaken)).collect();
        let served = (false, false);
        assert_eq!(marks, [served, (false, true), (true, false), served]);
    }

    #[test]
    fn unknown_fields_are_kept() {
        let (_folder, store) = store();
        let mut bytes = Vec::new();
        // Field 1000, a string: unknown to the subset.
        bytes.extend([0xc2, 0x3e, 3, b'a', b'b', b'c']);
        let app = app::App::decode_from_slice(&bytes).unwrap();
        store.create_app(&key(), 4100, &app).unwrap();
        let stored = store.revision(&key(), 1).unwrap().unwrap();
        assert_eq!(stored.app.encode_to_vec(), bytes);
    }

    #[test]
    fn conditions_are_bounded_and_ordered() {
        let (_folder, store) = store();
        store
            .create_app(&key(), 4100, &app::App::default())
            .unwrap();
        for number in 0..(CONDITIONS_KEPT + 10) {
            let condition = app::Condition {
                message: number.to_string(),
                ..Default::default()
            };
            store.push_condition(&key(), &condition).unwrap();
        }
        let kept = store.conditions(&key()).unwrap();
        assert_eq!(kept.len(), CONDITIONS_KEPT as usize);
        assert_eq!(kept.first().unwrap().message, "10");
        assert_eq!(kept.last().unwrap().message, "59");
    }

    #[test]
    fn a_glance_tells_the_newest_of_each_app() {
        let (_folder, store) = store();
        let app = app::App::default();
        store.create_app(&key(), 4100, &app).unwrap();
        assert!(store.glances().unwrap()[0].last.is_none());
        for message in ["first", "second"] {
            let condition = app::Condition {
                message: message.into(),
                ..Default::default()
            };
            store.push_condition(&key(), &condition).unwrap();
        }
        store.insert_revision(&key(), &app).unwrap();
        store.set_failed(&key(), 2, true).unwrap();
        let glances = store.glances().unwrap();
        let [glance] = glances.as_slice() else {
            panic!("one app, one glance")
        };
        assert_eq!(glance.last.as_ref().unwrap().message, "second");
        assert_eq!((glance.row.latest, glance.latest_failed), (2, true));
        let numbers = |count| -> Vec<Revision> {
            let rows = store.newest(&key(), count).unwrap();
            rows.iter().map(|row| row.revision).collect()
        };
        assert_eq!((numbers(1), numbers(9)), (vec![2], vec![2, 1]));
    }

    #[test]
    fn a_newer_layout_is_refused() {
        let (folder, store) = store();
        drop(store);
        let path = folder.path().join("platform.db");
        Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        assert!(matches!(
            Store::open(&path),
            Err(Error::Newer { found: 99, .. })
        ));
    }

    #[test]
    fn a_revision_comes_with_its_first_condition_or_not_at_all() {
        let (folder, store) = store();
        let begin = |revision| app::Condition {
            message: format!("{revision} begins"),
            ..Default::default()
        };
        let app = app::App::default();
        store.file_app(&key(), 4100, &app, &begin).unwrap();
        store.file_revision(&key(), &app, &begin).unwrap();
        let told = |store: &Store| -> Vec<String> {
            let all = store.conditions(&key()).unwrap().into_iter();
            all.map(|one| one.message).collect()
        };
        assert_eq!(told(&store), ["1 begins", "2 begins"]);
        // As where the disk is full between the two.
        let path = folder.path().join("platform.db");
        let refuse = "CREATE TRIGGER full BEFORE INSERT ON conditions
                      BEGIN SELECT RAISE(ABORT, 'full'); END";
        Connection::open(&path)
            .unwrap()
            .execute_batch(refuse)
            .unwrap();
        store.file_revision(&key(), &app, &begin).unwrap_err();
        assert_eq!(store.app(&key()).unwrap().unwrap().latest, 2);
        let other = AppKey::of(&identifier("", "p", "d", "other"));
        store.file_app(&other, 4101, &app, &begin).unwrap_err();
        assert!(store.app(&other).unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_read_costs_no_more_than_itself() {
        let (_folder, store) = store();
        let app = app::App::default();
        store.create_app(&key(), 4100, &app).unwrap();
        store.insert_revision(&key(), &app).unwrap();
        store.spoil(&key(), 2).unwrap();
        assert!(store.revision(&key(), 2).unwrap().is_none());
        assert_eq!(store.revisions(&key()).unwrap().len(), 1);
        assert_eq!(store.newest(&key(), 9).unwrap().len(), 1);
    }

    #[test]
    fn an_app_that_is_gone_takes_no_condition() {
        let (_folder, store) = store();
        store
            .push_condition(&key(), &app::Condition::default())
            .unwrap();
        assert!(store.conditions(&key()).unwrap().is_empty());
    }

    #[test]
    fn deleting_an_app_deletes_what_belongs_to_it() {
        let (_folder, store) = store();
        store
            .create_app(&key(), 4100, &app::App::default())
            .unwrap();
        store.delete_app(&key()).unwrap();
        assert!(store.app(&key()).unwrap().is_none());
        assert!(store.revision(&key(), 1).unwrap().is_none());
    }
}

//! What nobody uses any more: found, measured and removed.
//!
//! In use is what a revision of an app names that is kept, what a builder has locked, and whatever
//! was touched a while ago at most, for a client may be between two steps of its work. Removal is a
//! rename into `<home>/trash`, under the same gate that an app passes to be filed: nothing can come
//! into use between the look and the rename. What was touched in that moment is moved back. Results
//! of apps (`raw-data`), secrets and logins are nobody's leftovers and not looked at. What a killed
//! platform left is known by its place and its name, since nobody of this home runs when a new one
//! starts.

mod clock;
mod found;
mod left;
mod used;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::RwLock;

use crate::config::{Home, Upkeep};
use crate::crash;
use crate::files;
use crate::local::store::{self, AppKey, Revision, Store};
use crate::local::supervisor::launch::Environments;

use found::Found;
use used::Used;

/// Passed by all that brings something into use.
pub type Gate = Arc<RwLock<()>>;

pub use clock::Clock;
pub use left::{empty_trash, remove_left_behind, set_aside_left_behind};

/// What was touched later than this stays, whatever the bounds say.
pub const GRACE: Duration = Duration::from_secs(3600);

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Code and pickles that were uploaded.
    Bundle,
    /// Python environments.
    Environment,
    /// Parameters that were fetched.
    Parameter,
    /// Layers, locks and pins of images.
    Image,
    /// Frames of archives that were made here.
    Archive,
    /// Run folders and logs of apps and revisions that are gone.
    Run,
    /// Old revisions of apps.
    Revision,
}

/// What to remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Order {
    /// Only look.
    pub dry_run: bool,
    /// All that is not in use, whatever the bounds.
    pub all: bool,
}

/// Something that was removed, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    pub kind: Kind,
    /// Its path; of a revision, the app and the number.
    pub name: String,
    pub bytes: u64,
    pub unused_seconds: u64,
}

/// How much there is of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    pub count: u64,
    pub bytes: u64,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub dry_run: bool,
    pub removed: Vec<Removed>,
    pub freed_bytes: u64,
    /// What stays.
    pub kept: BTreeMap<Kind, Sum>,
    pub kept_bytes: u64,
}

/// What there is to tidy, and with what in hand.
#[derive(Clone)]
pub struct Pruner {
    pub home: Home,
    pub store: Arc<Store>,
    pub environments: Arc<dyn Environments>,
    pub upkeep: Upkeep,
    pub gate: Gate,
}

impl Pruner {
    /// Removes what the bounds, or the order, want gone. Blocks; never called on a runtime's thread.
    pub fn run(&self, order: Order) -> Result<Report, store::Error> {
        let _alone = one_at_a_time();
        let now = SystemTime::now();
        if !order.dry_run {
            // What an earlier run could not finish.
            empty_trash(&self.home);
            left::forget_stages(&self.home, now - left::LONGEST_STAGE);
        }
        let mut report = Report {
            dry_run: order.dry_run,
            ..Report::default()
        };
        let revisions = self.revisions(order, now, &mut report)?;
        let found = found::all(&self.home);
        let used = self.used(&revisions)?;
        let (leaving, staying) = self.choose(found, &used, order, now);
        for one in staying {
            report.keep(&one);
        }
        let gone = if order.dry_run {
            leaving
        } else {
            self.remove(leaving, &mut report)?
        };
        for one in gone {
            report.freed_bytes += one.bytes;
            report.removed.push(one.told(now));
        }
        Ok(report)
    }

    /// Forgets old revisions; tells which.
    fn revisions(
        &self,
        order: Order,
        now: SystemTime,
        report: &mut Report,
    ) -> Result<BTreeMap<AppKey, Vec<Revision>>, store::Error> {
        let mut old = BTreeMap::new();
        // The newest revision of an app may not serve yet; nothing is filed while this looks.
        let _closed = self.gate.blocking_write();
        for app in self.store.apps()? {
            let rows = used::past(&self.store, &app.key)?;
            let outdated = used::outdated(&app, &rows, now);
            let kept = (rows.len() - outdated.len()) as u64;
            report.kept.entry(Kind::Revision).or_default().count += kept;
            let gone: Vec<Revision> = outdated.iter().map(|row| row.revision).collect();
            report.removed.extend(outdated.iter().map(|row| Removed {
                kind: Kind::Revision,
                name: format!("{} {}", app.key, row.revision),
                bytes: 0,
                unused_seconds: used::age_of(row.created_at, now).as_secs(),
            }));
            if !order.dry_run {
                self.store.delete_revisions(&app.key, &gone)?;
            }
            old.insert(app.key, gone);
        }
        Ok(old)
    }

    fn used(&self, without: &BTreeMap<AppKey, Vec<Revision>>) -> Result<Used, store::Error> {
        Used::by(&self.store, self.environments.as_ref(), without)
    }

    /// What goes, and what stays: too old, or the oldest of what is too much.
    fn choose(
        &self,
        mut found: Vec<Found>,
        used: &Used,
        order: Order,
        now: SystemTime,
    ) -> (Vec<Found>, Vec<Found>) {
        let mut total: u64 = found.iter().map(|one| one.bytes).sum();
        found.sort_by_key(|one| one.used);
        let (mut leaving, mut staying) = (Vec::new(), Vec::new());
        for one in found {
            let idle = one.idle(now);
            let wanted = order.all
                || one.kind == Kind::Run
                || idle > self.upkeep.unused_for
                || total > self.upkeep.max_bytes;
            if wanted && idle > GRACE && !used.holds(&one) {
                total = total.saturating_sub(one.bytes);
                leaving.push(one);
            } else {
                staying.push(one);
            }
        }
        (found::outermost(leaving), staying)
    }

    /// Takes things away, all at once for whoever looks; tells what is gone.
    fn remove(&self, leaving: Vec<Found>, report: &mut Report) -> Result<Vec<Found>, store::Error> {
        let away = self.take_away(leaving, report)?;
        crash::point("prune.away");
        // Nothing finds it there, so it may take its time.
        let mut gone = Vec::new();
        for (one, aside) in away {
            match files::remove_all(&aside) {
                Ok(()) => gone.push(one),
                Err(error) => {
                    let path = one.path.display();
                    tracing::warn!(%path, %error, "is out of use and cannot be removed");
                    report.keep(&one);
                }
            }
        }
        let _ = std::fs::remove_dir(self.home.trash());
        Ok(gone)
    }

    /// Moves things into the trash, under the gate; tells where each of them is.
    fn take_away(
        &self,
        leaving: Vec<Found>,
        report: &mut Report,
    ) -> Result<Vec<(Found, PathBuf)>, store::Error> {
        if leaving.is_empty() {
            return Ok(Vec::new());
        }
        let _closed = self.gate.blocking_write();
        // What was filed since the first look counts as well.
        let used = self.used(&BTreeMap::new())?;
        let mut away = Vec::new();
        for one in leaving {
            let wanted = used.holds(&one);
            match (!wanted)
                .then(|| take_away(&one, &self.home.trash()))
                .flatten()
            {
                Some(aside) => away.push((one, aside)),
                None => report.keep(&one),
            }
        }
        Ok(away)
    }
}

/// Held by whoever works in the trash: what is looked at there once more may go back to its place,
/// unless another one removes it.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TIDYING: Mutex<()> = Mutex::new(());
    TIDYING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Report {
    fn keep(&mut self, one: &Found) {
        let sum = self.kept.entry(one.kind).or_default();
        sum.count += 1;
        sum.bytes += one.bytes;
        self.kept_bytes += one.bytes;
    }
}

/// Moves a thing into the trash, unless somebody builds it or used it in this moment; tells where it
/// is now.
fn take_away(one: &Found, trash: &Path) -> Option<PathBuf> {
    let _lock = match one.lock.as_deref().map(files::try_lock_exclusive) {
        Some(Ok(Some(lock))) => Some(lock),
        // A builder is at work.
        Some(Ok(None) | Err(_)) => return None,
        None => None,
    };
    let place = files::set_aside(&one.path, trash)
        .inspect_err(|error| {
            let path = one.path.display();
            tracing::warn!(%path, %error, "cannot be moved into the trash");
        })
        .ok()??;
    crash::point("prune.moved");
    let aside = place.join("it");
    if one.moved_to(&aside).is_as_found() {
        return Some(place);
    }
    // It is wanted; where its place was taken meanwhile, there is another one already.
    let _ = std::fs::rename(aside, &one.path);
    let _ = std::fs::remove_dir(place);
    let _ = std::fs::remove_dir(trash);
    None
}

/// What is kept of the platform's own log, twice: the file and the one before it.
const LOG_BYTES: u64 = 16 << 20;

/// Begins a new log where the old one is full. Only where this process writes there: one that was
/// started by hand writes to a terminal.
pub fn turn_log(path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let Ok(there) = std::fs::metadata(path) else {
        return Ok(false);
    };
    let own = rustix::fs::fstat(rustix::stdio::stderr())?;
    let is_own = (own.st_dev, own.st_ino) == (there.dev(), there.ino());
    if !is_own || there.len() < LOG_BYTES {
        return Ok(false);
    }
    let mut before = PathBuf::from(path);
    before.set_extension("log.1");
    std::fs::rename(path, before)?;
    let new = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    rustix::stdio::dup2_stdout(&new)?;
    rustix::stdio::dup2_stderr(&new)?;
    Ok(true)
}

#[cfg(test)]
mod tests;

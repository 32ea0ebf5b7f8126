//! What the revisions that are kept hold, and which revisions those are.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buffa::Message;

use super::Kind;
use super::found::Found;
use crate::local::store::{self, AppKey, AppRow, Revision, Store};
use crate::local::supervisor::launch::{self, Environments};
use crate::wire::app;

/// Revisions of an app that stay, however old; the numbers are those of Knative.
const KEPT_REVISIONS: usize = 20;
/// Younger ones stay too, as far as the store keeps them.
const KEPT_FOR: Duration = Duration::from_secs(48 * 3600);
/// Most of a packed argument that is looked into.
const ARGUMENT_BYTES: u64 = 16 << 20;

/// What is in use.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// Names of folders of bundles.
    digests: HashSet<String>,
    environments: HashSet<PathBuf>,
    /// `project/domain/name`, and the same with a revision behind it.
    apps: BTreeSet<String>,
}

impl Used {
    /// What the store's revisions hold, but for those that are `without` any further use.
    pub fn by(
        store: &Store,
        environments: &dyn Environments,
        without: &BTreeMap<AppKey, Vec<Revision>>,
    ) -> Result<Self, store::Error> {
        let mut used = Self::default();
        let mut images = BTreeSet::new();
        for row in store.apps()? {
            used.apps.insert(row.key.as_str().to_owned());
            let gone = without.get(&row.key);
            store.each_revision(&row.key, |revision| {
                if !gone.is_some_and(|gone| gone.contains(&revision.revision)) {
                    used.apps
                        .insert(format!("{}/{}", row.key, revision.revision));
                    images.extend(used.take(&revision.app));
                }
            })?;
        }
        let located = images.iter().map(|image| environments.locate(image));
        used.environments = located
            .filter_map(|found| Some(found.ok()??.path))
            .collect();
        Ok(used)
    }

    /// Takes note of the bundles that an app names; tells its image.
    fn take(&mut self, app: &app::App) -> Option<String> {
        self.take_digests(&app.encode_to_vec());
        let container = launch::container(app).ok()?;
        for word in container.command.iter().chain(&container.args) {
            if let Some(text) = unpacked(word) {
                self.take_digests(&text);
            }
        }
        Some(container.image.clone())
    }

    /// Every word that could name a bundle: a message may hold its address anywhere.
    fn take_digests(&mut self, bytes: &[u8]) {
        let words = bytes.split(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let digests = words.filter(|word| word.len() == 32);
        self.digests
            .extend(digests.map(|word| String::from_utf8_lossy(word).into_owned()));
    }

    pub fn holds(&self, one: &Found) -> bool {
        let name = one.path.file_name().unwrap_or_default().to_string_lossy();
        match one.kind {
            Kind::Bundle => self.digests.contains(&*name),
            Kind::Environment => self.environments.contains(&one.path),
            Kind::Run => self.holds_run(one),
            // They are copies of what is elsewhere, and touched when they are used.
            Kind::Parameter | Kind::Image | Kind::Archive | Kind::Revision => false,
        }
    }

    fn holds_run(&self, one: &Found) -> bool {
        let mut parts: Vec<_> = one.path.iter().rev().take(4).collect();
        parts.reverse();
        let parts: Vec<String> = parts
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        let [project, domain, app, last] = parts.as_slice() else {
            return true;
        };
        // An app's folder, or one in an app's folder: `logs`, a revision, a replica's (`3-17`).
        if self.apps.contains(&format!("{domain}/{app}/{last}")) {
            return true;
        }
        let key = format!("{project}/{domain}/{app}");
        let revision = last.split('-').next().unwrap_or_default();
        let is_revision = revision.parse::<Revision>().is_ok();
        self.apps.contains(&key)
            && (!is_revision || self.apps.contains(&format!("{key}/{revision}")))
    }
}

/// What an argument holds that was packed: parameters are JSON, zipped, as base64.
fn unpacked(word: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(word).ok()?;
    let mut text = Vec::new();
    let mut unzipped = flate2::read::GzDecoder::new(bytes.as_slice()).take(ARGUMENT_BYTES);
    unzipped.read_to_end(&mut text).ok()?;
    Some(text)
}

/// What decides whether a revision stays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    pub revision: Revision,
    pub failed: bool,
    /// Milliseconds since 1970.
    pub created_at: i64,
}

/// An app's revisions, oldest first.
pub(super) fn past(store: &Store, key: &AppKey) -> Result<Vec<Past>, store::Error> {
    let mut rows = Vec::new();
    store.each_revision(key, |row| {
        rows.push(Past {
            revision: row.revision,
            failed: row.failed,
            created_at: row.created_at,
        });
    })?;
    Ok(rows)
}

/// Revisions that nobody will come back to, of those that an app has.
pub(super) fn outdated(app: &AppRow, rows: &[Past], now: SystemTime) -> Vec<Past> {
    let in_force = app.serving.unwrap_or(app.latest);
    let before = rows.iter().rev();
    // Where going back leads to.
    let way_back = before
        .filter(|row| !row.failed)
        .map(|row| row.revision)
        .find(|revision| *revision < in_force);
    let newest_first = rows.iter().rev().enumerate();
    newest_first
        .filter(|(place, row)| *place >= KEPT_REVISIONS && age_of(row.created_at, now) >= KEPT_FOR)
        .map(|(_, row)| *row)
        .filter(|row| ![Some(app.latest), app.serving, way_back].contains(&Some(row.revision)))
        .collect()
}

/// The age of what was made at that many milliseconds since 1970.
pub(super) fn age_of(made: i64, now: SystemTime) -> Duration {
    let made = Duration::from_millis(u64::try_from(made).unwrap_or_default());
    now.duration_since(SystemTime::UNIX_EPOCH + made)
        .unwrap_or_default()
}

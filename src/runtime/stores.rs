//! The connection to stores, made when the first thing is fetched: most apps fetch nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::config::Home;
use crate::storage::{Error, Report, Storage};

/// Fetches with the variables of the app.
pub struct Stores {
    variables: BTreeMap<String, String>,
    shelf: Option<PathBuf>,
    report: Report,
    storage: OnceLock<Storage>,
    making: Mutex<()>,
    stop: CancellationToken,
}

impl Stores {
    /// For a process with these variables.
    pub fn of(variables: &BTreeMap<String, String>, report: &Report) -> Self {
        Self {
            shelf: shelf(variables),
            variables: variables.clone(),
            report: report.clone(),
            storage: OnceLock::new(),
            making: Mutex::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Gives up all that is being fetched, and all that would be.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// What fetches.
    ///
    /// # Errors
    /// The system has no threads or the shelf cannot be written.
    pub fn get(&self) -> Result<&Storage, Error> {
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(storage) = self.storage.get() {
            return Ok(storage);
        }
        let made = Storage::new(
            self.variables.clone(),
            self.shelf.clone(),
            self.report.clone(),
            self.stop.clone(),
        )?;
        Ok(self.storage.get_or_init(|| made))
    }
}

/// The home of the local platform, if that is what runs this replica. A container or a cluster
/// starts from nothing and has nobody to share with.
fn home(variables: &BTreeMap<String, String>) -> Option<Home> {
    let local = variables
        .get("_RUN_MODE")
        .is_some_and(|mode| mode == "local");
    let home = Path::new(variables.get("FLYTE_HOME").filter(|_| local)?);
    home.is_dir().then(|| Home::at(home.to_owned()))
}

/// Where this machine keeps what it fetched.
fn shelf(variables: &BTreeMap<String, String>) -> Option<PathBuf> {
    home(variables).map(|home| home.cache().join("parameters"))
}

/// Where this machine keeps what was sent to it: read-only files, named by what they hold, of which
/// a link is as good as a copy.
pub fn uploads(variables: &BTreeMap<String, String>) -> Option<PathBuf> {
    home(variables).map(|home| home.uploads())
}

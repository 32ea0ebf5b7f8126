//! What the pages for people ask beyond what the protocol's clients do.

use std::path::PathBuf;

use super::{Platform, Refused};
use crate::local::store::{AppKey, AppRow, Glance, Revision, RevisionRow};
use crate::wire::app;

/// One app with what is stored around it.
#[derive(Debug)]
pub struct Portrait {
    pub row: AppRow,
    /// As it is told to clients.
    pub app: app::App,
    /// Newest first; not all of them where there are many.
    pub revisions: Vec<RevisionRow>,
}

impl Platform {
    /// A look at every app, by key.
    pub fn glances(&self) -> Result<Vec<Glance>, Refused> {
        let mut glances = self.workshop.store.glances()?;
        for glance in &mut glances {
            if let Some(last) = self.workshop.owed(&glance.row.key).pop() {
                glance.last = Some(last);
            }
        }
        Ok(glances)
    }

    /// An app with its newest `revisions`.
    pub fn portrait(&self, key: &AppKey, revisions: u32) -> Result<Portrait, Refused> {
        Ok(Portrait {
            row: self.row(key)?,
            app: self.view(key)?,
            revisions: self.workshop.store.newest(key, revisions)?,
        })
    }

    /// One revision as it was sent.
    pub fn revision(&self, key: &AppKey, revision: Revision) -> Result<RevisionRow, Refused> {
        let found = self.workshop.store.revision(key, revision)?;
        found.ok_or_else(|| {
            Refused::Invalid(format!("app `{}` has no revision {revision}", key.name()))
        })
    }

    /// Serves an app again that was deactivated, or tries once more with one that failed.
    pub async fn activate(&self, key: &AppKey) -> Result<app::App, Refused> {
        let app = self.view(key)?;
        self.update(app).await
    }

    /// Where code bundles lie.
    pub fn uploads(&self) -> PathBuf {
        self.workshop.setting.home.uploads()
    }
}

//! The names under which apps answer at the shared port.
//!
//! They are an app's from the moment when a revision that asks for them is accepted, and lead to it
//! once that revision serves: one that does not come up takes nothing from the one that goes on.

use super::{Platform, Refused};
use crate::local::gateway::names::Reservation;
use crate::local::store::{AppKey, Revision};
use crate::local::supervisor::app::Workshop;
use crate::local::supervisor::hosts;
use crate::wire::app;

/// Names that are kept for an app's next revision, unless that is not filed after all.
#[must_use]
pub(super) struct Reserved<'a> {
    platform: &'a Platform,
    key: AppKey,
    revision: Revision,
    before: Option<Reservation>,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let Workshop { store, names, .. } = &self.platform.workshop;
        let row = store.app(&self.key).ok().flatten();
        let is_filed = row.is_some_and(|row| row.latest >= self.revision);
        if !is_filed {
            names.take_back(self.key.as_str(), self.before.take());
        }
    }
}

impl Platform {
    /// Keeps the names of an app's next revision for it; refuses one that asks for another app's.
    pub(super) fn reserve_names(
        &self,
        key: &AppKey,
        app: &app::App,
    ) -> Result<Reserved<'_>, Refused> {
        let names = &self.workshop.names;
        let row = self.workshop.store.app(key)?;
        let revision = row.map_or(1, |row| row.latest + 1);
        let before = names
            .reserve(key.as_str(), &hosts::of(app), revision)
            .map_err(|taken| {
                Refused::Invalid(format!(
                    "the host name `{}` belongs to app `{}`",
                    taken.host, taken.owner
                ))
            })?;
        Ok(Reserved {
            platform: self,
            key: key.clone(),
            revision,
            before,
        })
    }

    /// Lets an app that has no names yet answer under its own.
    ///
    /// They are those of the revision that serves; where none does, requests wait for the first one, or
    /// are told why there is none. Those that `app` asks for besides are kept for it.
    pub(super) fn publish(&self, key: &AppKey, app: &app::App) {
        let Workshop { store, names, .. } = &self.workshop;
        let Some(handle) = self.handle(key).filter(|_| !names.has(key.as_str())) else {
            return;
        };
        let row = store.app(key).ok().flatten();
        let latest = row.as_ref().map_or(1, |row| row.latest);
        let serving = row.and_then(|row| store.revision(key, row.serving?).ok()?);
        let (shown, coming) = (serving.map(|row| hosts::of(&row.app)), hosts::of(app));
        names.publish(
            key.as_str(),
            shown.as_ref().unwrap_or(&coming),
            &handle.route,
        );
        // Which of two apps came first is not known any more when a platform begins.
        if let Err(taken) = names.reserve(key.as_str(), &coming, latest) {
            tracing::warn!(app = %key, host = taken.host, owner = taken.owner, "name is taken");
        }
    }

    /// The address of an app by name: by the one it asks for, where it asks for one.
    pub(super) fn address_by_name(&self, app: &app::App) -> String {
        let host = hosts::of(app).pop().unwrap_or_default();
        format!("http://{host}:{}", self.names_port)
    }
}

//! The names under which apps answer at the shared port.
//!
//! They are an app's from the moment when a revision that asks for them is accepted, and lead to it
//! once that revision serves: one that does not come up takes nothing from the one that goes on.

use super::{Platform, Refused};
use crate::local::gateway::Names;
use crate::local::gateway::names::Reservation;
use crate::local::store::{AppKey, AppRow};
use crate::local::supervisor::hosts;
use crate::wire::app;

/// Names that are kept for a revision, unless it is not filed after all.
#[must_use]
pub(super) struct Reserved<'a> {
    names: &'a Names,
    key: AppKey,
    before: Option<Reservation>,
    is_filed: bool,
}

impl Reserved<'_> {
    /// The revision is there, and answers for its names from now on.
    pub(super) fn keep(mut self) {
        self.is_filed = true;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.is_filed {
            self.names.take_back(self.key.as_str(), self.before.take());
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
            names,
            key: key.clone(),
            before,
            is_filed: false,
        })
    }

    /// Lets an app that has no names yet answer under its own: its requests wait for its first
    /// revision, or are told why there is none.
    pub(super) fn publish_first(&self, key: &AppKey, app: &app::App) {
        let names = &self.workshop.names;
        if let Some(handle) = self.handle(key)
            && !names.has(key.as_str())
        {
            names.publish(key.as_str(), &hosts::of(app), &handle.route);
        }
    }

    /// Lets an app that was there before answer under the names of the revision that serves, and
    /// keeps those of a newer one for it.
    pub(super) fn republish(&self, row: &AppRow) -> Result<(), Refused> {
        let store = &self.workshop.store;
        let shown = self.shown(row)?;
        let serving = match row.serving {
            Some(serving) => store.revision(&row.key, serving)?,
            None => None,
        };
        self.publish_first(&row.key, &serving.as_ref().unwrap_or(&shown).app);
        let (key, hosts) = (row.key.as_str(), hosts::of(&shown.app));
        // Who asked first is told by the order of apps alone; whoever comes too late goes without.
        if let Err(taken) = self.workshop.names.reserve(key, &hosts, shown.revision) {
            tracing::warn!(
                app = key,
                host = taken.host,
                owner = taken.owner,
                "name is taken"
            );
        }
        Ok(())
    }

    /// The address of an app by name: by the one it asks for, where it asks for one.
    pub(super) fn address_by_name(&self, app: &app::App) -> String {
        let host = hosts::of(app).pop().unwrap_or_default();
        format!("http://{host}:{}", self.names_port)
    }
}

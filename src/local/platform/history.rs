//! Earlier revisions of an app, and going back to one.

use super::{Platform, Refused, accepted};
use crate::local::store::{AppKey, AppRow, Revision, RevisionRow};
use crate::local::supervisor::app::Command;
use crate::local::supervisor::launch;

impl Platform {
    /// All revisions of an app, newest first.
    pub fn revisions(&self, key: &AppKey) -> Result<serde_json::Value, Refused> {
        let row = self.row(key)?;
        let revisions = self.workshop.store.revisions(key)?;
        let entries = revisions.iter().rev().map(|one| entry(&row, one));
        Ok(entries.collect::<Vec<_>>().into())
    }

    /// Serves again what an earlier revision was, as a new one; tells the new one's number.
    ///
    /// Without a number it is the newest that came up before the one in force.
    pub async fn roll_back(&self, key: &AppKey, to: Option<Revision>) -> Result<Revision, Refused> {
        let _changing = self.change(key).await;
        let _open = self.gate.read().await;
        let row = self.row(key)?;
        let revisions = self.workshop.store.revisions(key)?;
        let wanted = choose(&row, &revisions, to)?;
        let _names = self.reserve_names(key, &wanted.app)?;
        let runs = self.handle(key).is_some();
        if !runs {
            self.take_up(&row).await?;
        }
        let store = &self.workshop.store;
        let revision = store
            .file_revision(key, &wanted.app, &accepted)
            .inspect_err(|_| {
                if !runs {
                    self.let_go(key);
                }
            })?;
        self.publish(key, &wanted.app);
        if let Some(handle) = self.handle(key) {
            handle.send(Command::Deploy(revision));
        }
        Ok(revision)
    }
}

fn choose<'a>(
    row: &AppRow,
    revisions: &'a [RevisionRow],
    to: Option<Revision>,
) -> Result<&'a RevisionRow, Refused> {
    let name = row.key.name();
    let in_force = row.serving.unwrap_or(row.latest);
    match to {
        None => revisions
            .iter()
            .rev()
            .find(|one| one.revision < in_force && !one.failed && !one.overtaken)
            .ok_or_else(|| {
                Refused::Invalid(format!(
                    "app `{name}` has no revision before {in_force} that came up"
                ))
            }),
        Some(number) if number == in_force => Err(Refused::Invalid(format!(
            "revision {number} of app `{name}` is the one that serves"
        ))),
        Some(number) => revisions
            .iter()
            .find(|one| one.revision == number)
            .ok_or_else(|| {
                let known: Vec<String> = revisions
                    .iter()
                    .map(|one| one.revision.to_string())
                    .collect();
                Refused::Invalid(format!(
                    "app `{name}` has no revision {number}; there are {}",
                    known.join(", ")
                ))
            }),
    }
}

fn entry(row: &AppRow, one: &RevisionRow) -> serde_json::Value {
    let state = if row.serving == Some(one.revision) {
        "SERVING"
    } else if one.failed {
        "FAILED"
    } else if one.overtaken {
        "OVERTAKEN"
    } else if one.revision < row.serving.unwrap_or(0) {
        "REPLACED"
    } else if one.revision < row.latest {
        "OVERTAKEN"
    } else if row.desired_active {
        "STARTING"
    } else {
        "DEACTIVATED"
    };
    let image = launch::container(&one.app).map_or("", |container| &container.image);
    serde_json::json!({
        "revision": one.revision,
        "state": state,
        "created_at": jiff::Timestamp::from_millisecond(one.created_at)
            .map(|time| format!("{time:.3}"))
            .unwrap_or_default(),
        "image": image,
        "bundle": one.app.metadata.code_bundle_uri,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{app, identifier};

    fn row(serving: Option<Revision>, latest: Revision) -> AppRow {
        AppRow {
            key: AppKey::of(&identifier("", "p", "d", "web")),
            port: 1,
            desired_active: true,
            serving,
            latest,
            created_at: 0,
            updated_at: 0,
        }
    }

    fn revisions(failed: &[Revision], latest: Revision) -> Vec<RevisionRow> {
        let one = |revision| RevisionRow {
            revision,
            app: app::App::default(),
            failed: failed.contains(&revision),
            overtaken: false,
            created_at: 0,
        };
        (1..=latest).map(one).collect()
    }

    #[test]
    fn the_newest_that_came_up_before_is_gone_back_to() {
        let all = revisions(&[3], 5);
        let chosen = choose(&row(Some(4), 5), &all, None).unwrap();
        assert_eq!(chosen.revision, 2);
        let chosen = choose(&row(Some(4), 5), &all, Some(1)).unwrap();
        assert_eq!(chosen.revision, 1);
    }

    #[test]
    fn one_that_never_served_is_not_gone_back_to_and_is_called_so() {
        let mut all = revisions(&[], 4);
        all[1].overtaken = true;
        let row = row(Some(3), 4);
        assert_eq!(choose(&row, &all, None).unwrap().revision, 1);
        let states = all.iter().map(|one| entry(&row, one)["state"].clone());
        let states: Vec<_> = states.collect();
        assert_eq!(states, ["REPLACED", "OVERTAKEN", "SERVING", "STARTING"]);
    }

    #[test]
    fn what_cannot_be_gone_back_to_is_named() {
        let all = revisions(&[1], 2);
        let refused = |to| match choose(&row(Some(2), 2), &all, to) {
            Err(Refused::Invalid(text)) => text,
            _ => panic!("was not refused"),
        };
        assert!(refused(None).contains("no revision before 2"));
        assert!(refused(Some(2)).contains("the one that serves"));
        assert!(refused(Some(9)).contains("there are 1, 2"));
    }
}

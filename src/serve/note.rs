//! A note that an upload arrived, for object stores that let nobody look.
//!
//! A signed URL gives the right to write and no other, so whether a bundle is there cannot be asked
//! of the store. That it arrived a short while ago is known here, and that the app is made with it
//! is known by the control plane; where both say so, it is not sent again.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::config::Home;
use crate::wire::app::{self, spec::AppPayload};

/// How long stores are taken to keep what they were given; the PyPI SDK takes as much for granted.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The note of one upload to one control plane.
pub(super) struct Note {
    path: PathBuf,
    url: String,
}

impl Note {
    pub fn of(home: &Home, endpoint: &str, native_url: &str) -> Self {
        let name = blake3::hash(format!("{endpoint}\n{native_url}").as_bytes()).to_hex();
        Self {
            path: home.cache().join("sent").join(name.as_str()),
            url: native_url.to_owned(),
        }
    }

    /// Whether the upload need not be made for `app` again.
    pub fn holds_for(&self, app: &app::App) -> bool {
        is_made_with(app, &self.url) && self.is_fresh()
    }

    fn is_fresh(&self) -> bool {
        let written = std::fs::metadata(&self.path).and_then(|there| there.modified());
        // A time to come is no time that anything was sent at.
        let age = written.map(|written| SystemTime::now().duration_since(written));
        matches!(age, Ok(Ok(age)) if age < KEPT)
    }

    /// Takes note. Without a note, the next upload is made again, which does no harm.
    pub fn write(&self) {
        if let Some(folder) = self.path.parent() {
            let _ = std::fs::create_dir_all(folder);
        }
        let _ = std::fs::write(&self.path, &self.url);
    }
}

fn is_made_with(app: &app::App, url: &str) -> bool {
    match &app.spec.app_payload {
        Some(AppPayload::Container(container)) => container.command.iter().any(|word| word == url),
        Some(AppPayload::Pod(_)) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::core;

    fn made_with(url: &str) -> app::App {
        let container = core::Container {
            command: vec!["fserve".into(), "--tgz".into(), url.into()],
            ..Default::default()
        };
        app::App {
            spec: app::Spec {
                app_payload: Some(container.into()),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_note_holds_for_a_day_and_for_apps_that_were_made_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().to_owned());
        let note = Note::of(&home, "https://h", "s3://b/k");
        assert!(!note.holds_for(&made_with("s3://b/k")));
        note.write();
        assert!(note.holds_for(&made_with("s3://b/k")));
        assert!(!note.holds_for(&made_with("s3://b/other")));
        let elsewhere = Note::of(&home, "https://other", "s3://b/k");
        assert!(!elsewhere.holds_for(&made_with("s3://b/k")));
        let file = std::fs::File::options()
            .write(true)
            .open(&note.path)
            .unwrap();
        file.set_modified(SystemTime::now() - KEPT).unwrap();
        assert!(!note.holds_for(&made_with("s3://b/k")));
    }
}

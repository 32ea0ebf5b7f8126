//! What the packages of an image were resolved to, kept by the image's content.
//!
//! The first build of an image resolves; every later one is held to its answer, so that an
//! environment that was removed, or is built anew for another version of this SDK, gets the same
//! packages. `force` resolves again.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::hash::ImageHash;
use super::sdk;
use crate::files;

/// Says that a package came from a path or an address, whose content the image's hash holds.
const DIRECT: &str = "direct_url.json";

/// Stands between what one step left in the environment and what the next one did.
const NEXT: &str = "# after the next step\n";

/// The versions that one image is held to.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    path: PathBuf,
    /// For each step what the environment held after it; `None` where the image was not resolved
    /// yet, or shall be anew.
    states: Option<Vec<String>>,
}

impl Pins {
    /// `anew` has the image resolved again.
    pub(super) fn of(home: &Path, content: &ImageHash, anew: bool) -> Self {
        let name = format!("{}.txt", content.tag());
        let path = home.join("cache/images/pins").join(name);
        let is_there = !anew && files::touch(&path);
        let text = is_there.then(|| std::fs::read_to_string(&path).ok());
        Self {
            states: text
                .flatten()
                .map(|text| text.split(NEXT).map(str::to_owned).collect()),
            path,
        }
    }

    pub(super) fn are_known(&self) -> bool {
        self.states.is_some()
    }

    /// The constraints for a step. Each step has its own: a later one may replace what an earlier
    /// one installed.
    pub(super) fn known(&self, step: usize) -> Option<&str> {
        let states = self.states.as_ref()?;
        states.get(step).map(String::as_str)
    }

    #[cfg(test)]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file that holds the image to its versions, if one does.
    pub(super) fn held_by(&self) -> Option<PathBuf> {
        self.are_known().then(|| self.path.clone())
    }

    /// Keeps what the environment held after each step.
    pub(super) fn keep(&self, states: &[String]) -> Result<(), Error> {
        let text = states.join(NEXT);
        let folder = self.path.parent().unwrap_or(&self.path);
        std::fs::create_dir_all(folder).map_err(Error::store("create", folder))?;
        files::write_atomic(&self.path, text.as_bytes(), 0o644).map_err(|error| Error::Store {
            action: "write",
            path: self.path.clone(),
            source: std::io::Error::other(error),
        })
    }
}

/// The versions that the environment at `env` holds, as constraints.
pub(super) fn state(env: &Path) -> Result<String, Error> {
    let mut lines = installed(&sdk::site_packages(env)?)?;
    lines.sort();
    Ok(lines.concat())
}

/// `name==version` of each package that an index gave.
fn installed(site_packages: &Path) -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    let entries = std::fs::read_dir(site_packages).map_err(Error::unreadable(site_packages))?;
    for entry in entries {
        let entry = entry.map_err(Error::unreadable(site_packages))?;
        let name = entry.file_name();
        let Some((package, version)) = name
            .to_str()
            .and_then(|name| name.strip_suffix(".dist-info"))
            .and_then(|name| name.split_once('-'))
        else {
            continue;
        };
        if !entry.path().join(DIRECT).exists() {
            lines.push(format!("{package}=={version}\n"));
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_index_gave_is_pinned() {
        let home = tempfile::tempdir().unwrap();
        let site = home.path().join("env/lib/python3.12/site-packages");
        for folder in [
            "six-1.17.0.dist-info",
            "b_c-2.dist-info",
            "six",
            "own-1.dist-info",
        ] {
            std::fs::create_dir_all(site.join(folder)).unwrap();
        }
        std::fs::write(site.join("own-1.dist-info").join(DIRECT), "{}").unwrap();
        let pins = |anew| Pins::of(home.path(), &ImageHash::of(b"image"), anew);
        assert!(pins(false).known(0).is_none());
        let state = state(&home.path().join("env")).unwrap();
        assert_eq!(state, "b_c==2\nsix==1.17.0\n");
        pins(false)
            .keep(&[state.clone(), "six==2\n".into()])
            .unwrap();
        assert_eq!(pins(false).known(0), Some(state.as_str()));
        assert_eq!(pins(false).known(1), Some("six==2\n"));
        assert!(pins(false).held_by().is_some());
        assert!(!pins(true).are_known(), "to be resolved again");
    }
}

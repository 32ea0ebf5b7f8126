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

/// The versions that one image is held to.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    path: PathBuf,
    /// Whether what is known does not count.
    anew: bool,
}

impl Pins {
    /// `anew` has the image resolved again.
    pub(super) fn of(home: &Path, content: &ImageHash, anew: bool) -> Self {
        let name = format!("{}.txt", content.tag());
        Self {
            path: home.join("cache/images/pins").join(name),
            anew,
        }
    }

    /// The file of constraints, where the image was resolved before.
    pub(super) fn known(&self) -> Option<&Path> {
        (!self.anew && files::touch(&self.path)).then_some(self.path.as_path())
    }

    /// Keeps the versions that the environment at `env` holds.
    pub(super) fn keep(&self, env: &Path) -> Result<(), Error> {
        let mut lines = installed(&sdk::site_packages(env)?)?;
        lines.sort();
        let folder = self.path.parent().unwrap_or(&self.path);
        std::fs::create_dir_all(folder).map_err(Error::store("create", folder))?;
        files::write_atomic(&self.path, lines.concat().as_bytes(), 0o644).map_err(|error| {
            Error::Store {
                action: "write",
                path: self.path.clone(),
                source: std::io::Error::other(error),
            }
        })
    }
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
        let pins = Pins::of(home.path(), &ImageHash::of(b"image"), false);
        assert!(pins.known().is_none());
        pins.keep(&home.path().join("env")).unwrap();
        let text = std::fs::read_to_string(pins.known().unwrap()).unwrap();
        assert_eq!(text, "b_c==2\nsix==1.17.0\n");
    }
}

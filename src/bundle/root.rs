//! The root folder under all the names it has, and what may be taken from it.
//!
//! Python may know the project through a symbolic link, the walk through its real path. Everything
//! that asks "does this lie below the root, and under which name" asks here.

use std::fs;
use std::path::{Path, PathBuf};

use super::{BundleFile, normalized};
use crate::files::Error;

pub(super) struct Root {
    given: PathBuf,
    real: PathBuf,
    installed: Vec<PathBuf>,
}

impl Root {
    pub(super) fn open(given: &Path, installed: &[PathBuf]) -> Result<Self, Error> {
        let real = fs::canonicalize(given).map_err(Error::io("open the root folder", given))?;
        if !real.is_dir() {
            return Err(Error::io("list the root folder", given)(
                std::io::ErrorKind::NotADirectory.into(),
            ));
        }
        let absolute = std::path::absolute(given).map_err(Error::io("resolve", given))?;
        let mut installed: Vec<PathBuf> = installed
            .iter()
            .flat_map(|folder| [Some(folder.clone()), fs::canonicalize(folder).ok()])
            .flatten()
            .collect();
        installed.sort();
        installed.dedup();
        Ok(Self {
            given: normalized(&absolute),
            real,
            installed,
        })
    }

    pub(super) fn real(&self) -> &Path {
        &self.real
    }

    pub(super) fn installed(&self) -> &[PathBuf] {
        &self.installed
    }

    /// The name of a path below the root by its text, links below the root unresolved.
    ///
    /// `None` for a path elsewhere and for one that is not UTF-8.
    pub(super) fn name_of(&self, path: &Path) -> Option<String> {
        let path = normalized(&std::path::absolute(path).ok()?);
        let below = path
            .strip_prefix(&self.real)
            .or_else(|_| path.strip_prefix(&self.given))
            .ok()
            .or_else(|| self.below_another_name(&path))?;
        below.to_str().map(str::to_owned)
    }

    /// Where one of the folders above `path` is the root under a third name.
    fn below_another_name<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        path.ancestors()
            .find(|folder| fs::canonicalize(folder).is_ok_and(|real| real == self.real))
            .and_then(|folder| path.strip_prefix(folder).ok())
    }

    /// The bundle's view of an imported file; `None` for installed code, virtualenvs and whatever
    /// lies elsewhere.
    ///
    /// A link below the root keeps its own name, under which it is imported, wherever it leads.
    pub(super) fn module(&self, path: &Path) -> Option<BundleFile> {
        let real = fs::canonicalize(path).ok()?;
        if self.is_installed(&real) || self.virtualenv_of(&real).is_some() {
            return None;
        }
        let own_name = (!self.is_installed(path))
            .then(|| self.name_of(path))
            .flatten();
        let name = match own_name {
            Some(name) => name,
            None => real.strip_prefix(&self.real).ok()?.to_str()?.to_owned(),
        };
        if self.virtualenv_of(&self.real.join(&name)).is_some() {
            return None;
        }
        self.file(name)
    }

    /// Whether a loaded module is neither installed nor below the root.
    pub(super) fn is_elsewhere(&self, path: &Path) -> bool {
        !self.is_installed(path)
            && self.name_of(path).is_none()
            && fs::canonicalize(path).is_ok_and(|real| {
                !real.starts_with(&self.real)
                    && !self.is_installed(&real)
                    && self.virtualenv_of(&real).is_none()
            })
    }

    /// The regular file of that name, if there is one.
    pub(super) fn file(&self, name: String) -> Option<BundleFile> {
        let metadata = fs::metadata(self.real.join(&name)).ok()?;
        BundleFile::of(name, &metadata)
    }

    pub(super) fn is_installed(&self, path: &Path) -> bool {
        self.installed.iter().any(|folder| path.starts_with(folder))
    }

    /// The virtualenv that a path lies in, be it below the root or elsewhere; one that holds the
    /// root itself does not count.
    pub(super) fn virtualenv_of<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        path.ancestors()
            .skip(1)
            .take_while(|folder| !self.real.starts_with(folder))
            .find(|folder| folder.join("pyvenv.cfg").exists())
    }
}

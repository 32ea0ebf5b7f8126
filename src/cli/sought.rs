//! Which files a command is about: one that is named, the only one of a folder, or all of it.

use std::path::{Path, PathBuf};

use super::args::Search;
use super::printer::Printer;
use super::{Error, Failure, scan};
use crate::serve::watch::Asked;

/// The file that was named, or the one of this folder that declares apps.
pub fn one(printer: &Printer, file: Option<PathBuf>, verb: &str) -> Result<PathBuf, Error> {
    match file {
        Some(folder) if folder.is_dir() => Err(Error::IsFolder { folder }),
        Some(file) => Ok(file),
        None => only_app(printer, verb),
    }
}

/// All files that were meant: a named one, or those of a folder.
pub fn all(file: Option<PathBuf>, search: Search) -> Result<Vec<PathBuf>, Failure> {
    let folder = match file {
        Some(file) if !file.is_dir() => {
            return if search.recursive {
                Err(Error::NoFolder { file }.into())
            } else {
                Ok(vec![file])
            };
        }
        Some(folder) => folder,
        None => PathBuf::from("."),
    };
    let found = if search.recursive {
        scan::tree(&folder)
    } else {
        let files = scan::folder(&folder).into_iter();
        files.map(|(path, _)| path).collect()
    };
    if found.is_empty() {
        return Err(Error::NoApp { folder }.into());
    }
    Ok(found)
}

fn only_app(printer: &Printer, verb: &str) -> Result<PathBuf, Error> {
    let mut found = scan::folder(Path::new("."));
    if let [(path, _)] = found.as_mut_slice() {
        let path = path.strip_prefix(".").unwrap_or(path).to_path_buf();
        // The second process of a watch is not heard by anybody.
        if Asked::here().is_none() {
            printer.note(&format!("{verb} `{}`, the only app here", path.display()));
        }
        return Ok(path);
    }
    if found.is_empty() {
        let folder = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        return Err(Error::NoApp { folder });
    }
    let name = |(path, _): &(PathBuf, _)| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    Err(Error::SeveralApps {
        files: found.iter().filter_map(name).collect(),
    })
}

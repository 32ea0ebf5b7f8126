//! Files that the user names: a file, a folder or a glob.
//!
//! A file named in full is taken whatever the ignore rules say; folders and globs respect them. An
//! entry that exists is never read as a glob, so that `a[1].txt` can be named.

use std::fs;
use std::path::{Component, Path, PathBuf};

use globset::GlobBuilder;

use super::root::Root;
use super::{Error, Include, Picked, normalized};
use crate::error::did_you_mean;
use crate::files::walk::Walk;

/// Adds what one entry names.
pub(super) fn pick(root: &Root, include: &Include, picked: &mut Picked) -> Result<(), Error> {
    let path = normalized(&include.base.join(&include.pattern));
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => pick_folder(root, include, &path, picked),
        Ok(_) => pick_file(root, include, &path, picked),
        Err(_) => pick_glob(root, include, &path, picked),
    }
}

fn pick_file(
    root: &Root,
    include: &Include,
    path: &Path,
    picked: &mut Picked,
) -> Result<(), Error> {
    let name = name_of(root, include, path)?;
    match root.file(name) {
        Some(file) => picked.add(file),
        None => picked.warnings.push(format!(
            "`{}` is left out: it is no regular file",
            path.display()
        )),
    }
    Ok(())
}

fn pick_folder(
    root: &Root,
    include: &Include,
    path: &Path,
    picked: &mut Picked,
) -> Result<(), Error> {
    let name = name_of(root, include, path)?;
    let walked = Walk {
        root: root.real(),
        start: &name,
        skip: root.installed(),
        max_depth: usize::MAX,
    }
    .run()?;
    if walked.files.is_empty() {
        picked.warnings.push(format!(
            "`include` entry `{}` holds no file that no ignore rule leaves out",
            include.pattern
        ));
    }
    walked.files.into_iter().for_each(|file| picked.add(file));
    picked.warnings.extend(walked.warnings);
    Ok(())
}

fn pick_glob(
    root: &Root,
    include: &Include,
    path: &Path,
    picked: &mut Picked,
) -> Result<(), Error> {
    let (folder, glob) = split(path);
    let name = name_of(root, include, &folder)?;
    if glob.is_empty() || !folder.is_dir() {
        return Err(missing(include, &folder));
    }
    let matcher = GlobBuilder::new(&glob)
        .literal_separator(true)
        .build()
        .map_err(|source| Error::BadGlob {
            pattern: include.pattern.clone(),
            source,
        })?
        .compile_matcher();
    let walked = Walk {
        root: root.real(),
        start: &name,
        skip: root.installed(),
        max_depth: depth(&glob),
    }
    .run()?;
    let mut matched = false;
    for file in walked.files {
        let below = file.name.strip_prefix(&name).unwrap_or(&file.name);
        if matcher.is_match(below.trim_start_matches('/')) {
            matched = true;
            picked.add(file);
        }
    }
    if matched {
        Ok(())
    } else {
        Err(missing(include, &folder))
    }
}

/// The leading folders without glob characters, and the rest.
fn split(path: &Path) -> (PathBuf, String) {
    let is_glob = |part: &Component| {
        part.as_os_str()
            .to_string_lossy()
            .contains(['*', '?', '[', '{'])
    };
    let parts: Vec<Component> = path.components().collect();
    match parts.iter().position(is_glob) {
        Some(first) => (
            parts[..first].iter().collect(),
            parts[first..]
                .iter()
                .collect::<PathBuf>()
                .to_string_lossy()
                .into_owned(),
        ),
        None => (path.to_path_buf(), String::new()),
    }
}

/// How many levels of folders a glob can reach into.
fn depth(glob: &str) -> usize {
    if glob.contains("**") || glob.contains('{') {
        usize::MAX
    } else {
        glob.split('/').count()
    }
}

fn name_of(root: &Root, include: &Include, path: &Path) -> Result<String, Error> {
    root.name_of(path).ok_or_else(|| {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let common = root
            .real()
            .ancestors()
            .find(|folder| real.starts_with(folder))
            .unwrap_or(Path::new("/"));
        Error::OutsideRoot {
            pattern: include.pattern.clone(),
            path: path.to_path_buf(),
            root: root.real().to_path_buf(),
            common: common.to_path_buf(),
        }
    })
}

/// Says in which folder the search ended, and what there looks like the last part looked for.
fn missing(include: &Include, path: &Path) -> Error {
    let folder = path
        .ancestors()
        .find(|folder| folder.is_dir())
        .unwrap_or(&include.base);
    let wanted = normalized(&include.base.join(&include.pattern));
    let wanted = wanted
        .strip_prefix(folder)
        .ok()
        .and_then(|rest| rest.components().next())
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Error::Missing {
        pattern: include.pattern.clone(),
        folder: folder.to_path_buf(),
        similar: did_you_mean(&wanted, names.iter().map(String::as_str)).map(str::to_owned),
    }
}

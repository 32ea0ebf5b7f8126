//! Files that the user names: a file, a folder or a glob.
//!
//! A file named in full is taken whatever the ignore rules say; folders and globs respect them. An
//! entry that exists is never read as a glob, so that `a[1].txt` can be named.

use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

use super::root::Root;
use super::{BundleFile, Error, Include, Origin, Picked, normalized};
use crate::error::did_you_mean;
use crate::files;
use crate::files::walk::{Explained, Walk, special_kind};

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
    let metadata = fs::metadata(path).map_err(files::Error::io("read", path))?;
    if let Some(why) = special_kind(&metadata) {
        return Err(Error::NotAFile {
            pattern: include.pattern.clone(),
            path: path.to_path_buf(),
            why,
        });
    }
    // Who names a file needs it; better to fail now than when the others are read.
    File::open(path).map_err(files::Error::io("read", path))?;
    if let Some(file) = BundleFile::of(name, &metadata) {
        picked.add(file, || origin(include));
    }
    Ok(())
}

fn origin(include: &Include) -> Origin {
    Origin::Include(include.pattern.clone())
}

fn pick_folder(
    root: &Root,
    include: &Include,
    path: &Path,
    picked: &mut Picked,
) -> Result<(), Error> {
    let name = name_of(root, include, path)?;
    let walk = from(root, &name, usize::MAX);
    let walked = walk.run()?;
    if walked.files.is_empty() {
        let because = match walk.explain(&name)? {
            Some(answer) if answer.is_left_out() => answer.clause(&name, root.real()),
            Some(_) | None => "every file in it is left out by a rule".to_owned(),
        };
        let pattern = &include.pattern;
        let warning = format!("`include` entry `{pattern}` takes nothing: {because}");
        picked.warnings.push(warning);
    }
    picked.take(walked, || origin(include));
    Ok(())
}

fn from<'a>(root: &'a Root, start: &'a str, max_depth: usize) -> Walk<'a> {
    Walk {
        root: root.real(),
        start,
        skip: root.installed(),
        max_depth,
    }
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
    let matcher = matcher(include, &glob)?;
    let mut walked = from(root, &name, depth(&glob)).run()?;
    let is_meant = |path: &Path| {
        let own = root.name_of(path);
        own.is_some_and(|own| matcher.is_match(below(&own, &name)))
    };
    walked
        .files
        .retain(|file| matcher.is_match(below(&file.name, &name)));
    walked.unusable.retain(|entry| is_meant(entry.path()));
    if walked.files.is_empty() {
        return Err(missing(include, &folder));
    }
    picked.take(walked, || origin(include));
    Ok(())
}

fn matcher(include: &Include, glob: &str) -> Result<GlobMatcher, Error> {
    GlobBuilder::new(glob)
        .literal_separator(true)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|source| Error::BadGlob {
            pattern: include.pattern.clone(),
            source,
        })
}

/// A name relative to a folder around it.
fn below<'a>(name: &'a str, folder: &str) -> &'a str {
    let rest = name.strip_prefix(folder).unwrap_or(name);
    rest.trim_start_matches('/')
}

/// Why an entry that means the file of that name does not take it; `None` if it means others.
pub(super) fn why_not(
    root: &Root,
    include: &Include,
    name: &str,
) -> Result<Option<Explained>, Error> {
    let path = normalized(&include.base.join(&include.pattern));
    let (folder, glob) = if path.is_dir() {
        (path, None)
    } else {
        let (folder, glob) = split(&path);
        (folder, Some(glob))
    };
    let start = name_of(root, include, &folder)?;
    let levels = glob.as_deref().map_or(usize::MAX, depth);
    let is_below = Path::new(name).strip_prefix(&start).is_ok();
    let is_meant = match &glob {
        Some(glob) => matcher(include, glob)?.is_match(below(name, &start)),
        None => true,
    };
    if !is_below || !is_meant {
        return Ok(None);
    }
    Ok(from(root, &start, levels).explain(name)?)
}

/// The leading folders, and the rest from where it is a glob on: what exists is a name, whatever
/// characters are in it.
fn split(path: &Path) -> (PathBuf, String) {
    let parts: Vec<Component> = path.components().collect();
    let joined = |parts: &[Component]| parts.iter().collect::<PathBuf>();
    let is_glob = |&index: &usize| {
        let part = parts[index].as_os_str().to_string_lossy();
        part.contains(['*', '?', '[', '{']) && !joined(&parts[..=index]).exists()
    };
    match (0..parts.len()).find(is_glob) {
        Some(first) => (
            joined(&parts[..first]),
            joined(&parts[first..]).to_string_lossy().into_owned(),
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

//! Why one file is or is not in the bundle.
//!
//! Whether it is in, [`pick`] decides, as for [`super::choose`]; here it is only told why.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::root::Root;
use super::{Error, Origin, Picked, Selection, everything, include, normalized, pick};
use crate::error::did_you_mean;
use crate::files;
use crate::spec::CopyStyle;

/// The answer for one path.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Relative to the root; as it was given where it lies elsewhere.
    pub name: String,
    pub outcome: Outcome,
}

/// What becomes of a path, and why.
#[derive(Clone, Debug)]
pub enum Outcome {
    Taken {
        bytes: u64,
        why: String,
    },
    /// A folder of which something is in the bundle.
    Folder {
        files: usize,
        bytes: u64,
    },
    LeftOut {
        why: String,
    },
}

impl Explanation {
    pub fn is_taken(&self) -> bool {
        match self.outcome {
            Outcome::Taken { .. } | Outcome::Folder { .. } => true,
            Outcome::LeftOut { .. } => false,
        }
    }

    /// The reason without the verdict.
    pub fn reason(&self) -> String {
        match &self.outcome {
            Outcome::Taken { why, .. } | Outcome::LeftOut { why } => why.clone(),
            Outcome::Folder { files: 1, .. } => "1 file in it".to_owned(),
            Outcome::Folder { files, .. } => format!("{files} files in it"),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_taken() { "taken" } else { "left out" };
        write!(f, "{verdict}: {}", self.reason())
    }
}

/// Tells whether the bundle holds the file or folder at `path`, and why.
pub fn explain(selection: &Selection, path: &Path) -> Result<Explanation, Error> {
    let root = Root::open(&selection.root, &selection.installed)?;
    let path = std::path::absolute(path).map_err(files::Error::io("resolve", path))?;
    let path = normalized(&path);
    if fs::symlink_metadata(&path).is_err() {
        return Err(no_such(&path));
    }
    let Some(name) = root.name_of(&path).or_else(|| real_name(&root, &path)) else {
        let root = root.real().display();
        return Ok(Explanation {
            name: path.display().to_string(),
            outcome: left_out(format!("it lies outside the root folder `{root}`")),
        });
    };
    let mut picked = Picked {
        watched: Some(name.clone().into_boxed_str()),
        ..Picked::default()
    };
    pick(&root, selection, &mut picked)?;
    let outcome = match (picked.files.get(name.as_str()), &picked.origin) {
        (Some(file), Some(origin)) => Outcome::Taken {
            bytes: file.size,
            why: why(&root, &name, origin)?,
        },
        _ => match below(&picked, &name) {
            (0, _) => left_out(why_not(&root, selection, &name)?),
            (files, bytes) => Outcome::Folder { files, bytes },
        },
    };
    Ok(Explanation { name, outcome })
}

fn left_out(why: String) -> Outcome {
    Outcome::LeftOut { why }
}

/// The name of what a link from elsewhere leads to.
fn real_name(root: &Root, path: &Path) -> Option<String> {
    root.name_of(&fs::canonicalize(path).ok()?)
}

/// Count and size of the chosen files in a folder.
fn below(picked: &Picked, folder: &str) -> (usize, u64) {
    let files = picked.files.values().filter(|file| {
        folder.is_empty()
            || file
                .name
                .strip_prefix(folder)
                .is_some_and(|rest| rest.starts_with('/'))
    });
    files.fold((0, 0), |(count, bytes), file| {
        (count + 1, bytes + file.size)
    })
}

fn why(root: &Root, name: &str, origin: &Origin) -> Result<String, Error> {
    Ok(match origin {
        Origin::Loaded => "Python has loaded it".to_owned(),
        Origin::Imported(file, line) => format!("imported by `{file}`, line {line}"),
        Origin::Package(file) => format!("it makes a package of the folder that `{file}` is in"),
        Origin::Include(pattern) => format!("`include` entry `{pattern}`"),
        Origin::Walk => match everything(root).explain(name)? {
            Some(answer) => answer.clause(name, root.real()),
            None => "it was there a moment ago".to_owned(),
        },
    })
}

fn why_not(root: &Root, selection: &Selection, name: &str) -> Result<String, Error> {
    for include in &selection.include {
        if let Some(answer) = include::why_not(root, include, name)?
            && answer.is_left_out()
        {
            let clause = answer.clause(name, root.real());
            let pattern = &include.pattern;
            return Ok(format!(
                "{clause} (though `include` entry `{pattern}` is around it)"
            ));
        }
    }
    let path = root.real().join(name);
    if let Some(folder) = root.virtualenv_of(&path) {
        let folder = root.name_of(folder).unwrap_or_default();
        return Ok(format!("in the virtualenv `{folder}`"));
    }
    Ok(match selection.style {
        CopyStyle::All => match everything(root).explain(name)? {
            Some(answer) if answer.is_left_out() => answer.clause(name, root.real()),
            Some(_) if path.is_dir() => "every file in it is left out by a rule".to_owned(),
            // Its folder was there when asked, or it is only now.
            Some(_) | None => "it changed while it was looked at".to_owned(),
        },
        CopyStyle::LoadedModules if root.is_installed(&path) => {
            "in a folder of installed packages".to_owned()
        }
        CopyStyle::LoadedModules => {
            "no module of the bundle imports it, and no `include` entry names it".to_owned()
        }
        CopyStyle::None => "copy style `none` takes only what an `include` entry names".to_owned(),
    })
}

/// Says what there looks like the first part of the path that does not exist.
fn no_such(path: &Path) -> Error {
    let there = path.ancestors().skip(1).find(|folder| folder.is_dir());
    let similar = there.and_then(|folder| {
        let wanted = path.strip_prefix(folder).ok()?.iter().next()?;
        let names: Vec<String> = fs::read_dir(folder)
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        let names = names.iter().map(String::as_str);
        let close = did_you_mean(wanted.to_str()?, names)?;
        Some(folder.join(close))
    });
    Error::NoSuchPath {
        path: path.to_path_buf(),
        similar: similar.map(|path: PathBuf| path.display().to_string()),
    }
}

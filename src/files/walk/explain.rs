//! Why the walk takes or leaves out one path: the same decisions, told instead of counted.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::level::Marks;
use super::rules::Line;
use super::{Candidate, Error, FileEntry, Folder, Seen, Walk, Walker, join};

/// What decided upon an entry.
#[derive(Clone, Debug)]
pub enum Reason {
    /// No rule speaks of it.
    Unruled,
    /// A line takes it back from another one.
    Kept(Line),
    /// Git knows the file although the line matches it.
    Tracked(Line),
    /// It falls under this entry of the standard list.
    Standard(&'static str),
    Ignored(Line),
    /// It is or lies in the virtualenv of that name.
    Virtualenv(String),
    /// It holds installed packages.
    Installed,
    /// It lies deeper than was asked for.
    TooDeep,
    /// It cannot be shipped, which the user should hear of.
    Unusable(PathBuf, &'static str),
}

impl Reason {
    /// As a clause behind "taken" or "left out"; `root` is left off the names of files.
    pub fn clause(&self, root: &Path) -> String {
        match self {
            Self::Unruled => "no rule leaves it out".to_owned(),
            Self::Kept(line) => format!("{} takes it back", place(line, root)),
            Self::Tracked(line) => {
                format!("tracked by git although {} matches", place(line, root))
            }
            Self::Standard(entry) => format!("the standard list has `{entry}`"),
            Self::Ignored(line) => place(line, root),
            Self::Virtualenv(name) => format!("in the virtualenv `{name}`"),
            Self::Installed => "it holds installed packages".to_owned(),
            Self::TooDeep => "it lies deeper than the glob reaches".to_owned(),
            Self::Unusable(_, why) => (*why).to_owned(),
        }
    }
}

/// `` `*.csv` in `data/.gitignore`, line 3 ``
fn place(line: &Line, root: &Path) -> String {
    let source = line.source();
    let source = source.strip_prefix(root).unwrap_or(source).display();
    format!("`{line}` in `{source}`, line {}", line.number())
}

/// The answer for one path.
#[derive(Debug)]
pub struct Explained {
    pub taken: Taken,
    /// The path itself, or the folder above it that is left out with all that it holds; relative to
    /// the root.
    pub decided_at: String,
    pub reason: Reason,
}

/// What becomes of a path.
#[derive(Debug)]
pub enum Taken {
    No,
    File(FileEntry),
    /// A folder that is looked into, which says nothing about what lies in it.
    Folder,
}

impl Explained {
    pub fn is_left_out(&self) -> bool {
        matches!(self.taken, Taken::No)
    }

    /// The reason, and where it is about a folder above `name`, which one.
    pub fn clause(&self, name: &str, root: &Path) -> String {
        let mut text = self.reason.clause(root);
        if self.decided_at != name && !matches!(self.reason, Reason::Virtualenv(_)) {
            let _ = write!(text, " (of the folder `{}`)", self.decided_at);
        }
        text
    }
}

impl Walk<'_> {
    /// Tells what becomes of the file or folder of that name, relative to the root; `None` where
    /// the walk does not come by: outside the start, or where there is nothing.
    pub fn explain(&self, name: &str) -> Result<Option<Explained>, Error> {
        let walker = Walker::new(self);
        let Ok(below) = Path::new(name).strip_prefix(self.start) else {
            return Ok(None);
        };
        let mut here = walker.start()?;
        let mut done = self.start.to_owned();
        if let Some(virtualenv) = walker.virtualenv_of(&done) {
            return Ok(Some(left_out(done, Reason::Virtualenv(virtualenv))));
        }
        let mut reason = Reason::Unruled;
        for part in below {
            let part = part.to_string_lossy();
            done = join(&done, &part);
            match walker.step(&here, &part)? {
                None => return Ok(None),
                Some(Seen::LeftOut(reason)) => return Ok(Some(left_out(done, reason))),
                Some(Seen::File(file, own)) => {
                    let is_last = done == name;
                    return Ok(is_last.then(|| Explained {
                        taken: Taken::File(file),
                        reason: own.or(reason),
                        decided_at: done,
                    }));
                }
                Some(Seen::Folder(folder, own)) => {
                    if Marks::look(&folder.path).virtualenv {
                        return Ok(Some(left_out(done.clone(), Reason::Virtualenv(done))));
                    }
                    reason = own.or(reason);
                    here = folder;
                }
            }
        }
        Ok(Some(Explained {
            taken: Taken::Folder,
            decided_at: done,
            reason,
        }))
    }
}

impl Walker<'_> {
    /// Looks at one entry of a folder; `None` if there is none of that name.
    fn step(&self, folder: &Folder, part: &str) -> Result<Option<Seen>, Error> {
        let path = folder.path.join(part);
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            return Ok(None);
        };
        let level = self.enter(folder, Marks::look(&folder.path))?;
        let candidate = Candidate {
            path,
            file_name: part.into(),
            kind: metadata.file_type(),
            listed: None,
        };
        self.look_at(candidate, folder, &level).map(Some)
    }
}

impl Reason {
    /// What is said of a thing is more to the point than what was said of a folder around it.
    fn or(self, outer: Self) -> Self {
        match self {
            Self::Unruled => outer,
            Self::Kept(_)
            | Self::Tracked(_)
            | Self::Standard(_)
            | Self::Ignored(_)
            | Self::Virtualenv(_)
            | Self::Installed
            | Self::TooDeep
            | Self::Unusable(..) => self,
        }
    }
}

fn left_out(decided_at: String, reason: Reason) -> Explained {
    Explained {
        taken: Taken::No,
        decided_at,
        reason,
    }
}

//! One walk over a folder that leaves out what nobody wants to ship.
//!
//! Rules, strongest first: the fixed list of [`standard`] and every virtualenv; `.flyteignore`;
//! git. Git's part of the list is what `git ls-files --cached --others --exclude-standard` gives:
//! `.gitignore` files, `.git/info/exclude` and the user's `core.excludesFile` count, and a tracked
//! file stays whatever matches it. Without a repository `.gitignore` files hold all the same.
//! `.flyteignore` has the same syntax, is nested in the same way (the innermost file that has an
//! opinion wins, the last matching line in it decides, nothing below an excluded folder is looked
//! at), holds for tracked files too, and may take back what git leaves out.
//!
//! Where this goes beyond git: links to folders inside the root are followed, a repository within
//! the root is listed by its own rules, and the root is walked even where git leaves it out.
//! Below a link, rules count and the index does not, which has no such names.
//!
//! [`Walk::run`] and [`Walk::explain`] take the same decisions in the same functions. What a file
//! holds and what the list is for is not known here.

mod entry;
mod explain;
pub mod git;
mod level;
#[cfg(test)]
mod properties;
pub mod rules;
mod standard;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use rustix::fs::Access;

use super::Error;
use git::Known;
use level::{Identity, Level, Marks, Name, VENV_MARK};
use rules::Line;

pub use entry::{FileEntry, Stamp};
pub use explain::{Explained, Reason, Taken};

/// What a walk found, in no particular order.
#[derive(Debug, Default)]
pub struct Walked {
    pub files: Vec<FileEntry>,
    pub unusable: Vec<Unusable>,
    /// The folders that were listed: a change in one of them may change the result.
    pub folders: Vec<PathBuf>,
    /// What is wrong with the rules, one sentence each.
    pub warnings: Vec<String>,
}

/// Something that no rule leaves out and that cannot be shipped all the same. The user may miss it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    path: PathBuf,
    why: &'static str,
}

impl Unusable {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is left out: {}", self.path.display(), self.why)
    }
}

impl Walked {
    /// All that the user should hear of.
    pub fn into_sentences(self) -> impl Iterator<Item = String> {
        let unusable = self.unusable.into_iter().map(|entry| entry.to_string());
        unusable.chain(self.warnings)
    }
}

/// What to walk.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    /// Names are relative to this folder, and its ignore files count. Must be canonical.
    pub root: &'a Path,
    /// The folder to start in, relative to `root`, empty for `root` itself. It is walked even if a
    /// rule excludes it, since the caller named it; the rules hold for what lies in it.
    pub start: &'a str,
    /// Folders that are passed over, such as an interpreter's `site-packages`.
    pub skip: &'a [PathBuf],
    /// How many levels of folders below `start` to list; 1 lists `start` only.
    pub max_depth: usize,
}

impl Walk<'_> {
    /// Lists the files that no rule leaves out.
    pub fn run(&self) -> Result<Walked, Error> {
        let walker = Walker::new(self);
        let start = walker.start()?;
        let files = if walker.virtualenv_of(self.start).is_some() {
            Vec::new()
        } else {
            walker.list(&start)?
        };
        Ok(walker.told(files))
    }
}

/// A walk under way.
struct Walker<'a> {
    walk: &'a Walk<'a>,
    /// The outermost folder whose rules count: the top of the repository, or the root.
    outermost: PathBuf,
    /// Where names relative to the root begin in names relative to the outermost folder.
    root_at: usize,
    /// Without the files, which come back as results.
    told: Mutex<Walked>,
}

/// A folder about to be listed.
struct Folder {
    path: PathBuf,
    /// Relative to the outermost folder.
    name: Vec<u8>,
    depth: usize,
    outer: Option<Arc<Level>>,
    /// The line by which git leaves it out, where it holds tracked files.
    excluded: Option<Line>,
}

/// An entry of a folder, before it is decided upon.
struct Candidate {
    path: PathBuf,
    file_name: OsString,
    kind: FileType,
    /// Where it was listed, if it was: asked there, the system need not look the whole path up.
    listed: Option<fs::DirEntry>,
}

impl Candidate {
    /// What is behind it, links followed.
    fn metadata(&self) -> io::Result<Metadata> {
        match &self.listed {
            Some(entry) if !self.kind.is_symlink() => entry.metadata(),
            Some(_) | None => fs::metadata(&self.path),
        }
    }
}

/// What is decided about an entry.
enum Seen {
    LeftOut(Reason),
    File(FileEntry, Reason),
    Folder(Folder, Reason),
}

impl<'a> Walker<'a> {
    fn new(walk: &'a Walk<'a>) -> Self {
        let outermost = walk
            .root
            .ancestors()
            .find(|folder| folder.join(git::MARK).exists())
            .unwrap_or(walk.root)
            .to_path_buf();
        let above = walk.root.strip_prefix(&outermost).unwrap_or(walk.root);
        let root_at = match above.as_os_str().len() {
            0 => 0,
            length => length + 1,
        };
        Self {
            walk,
            outermost,
            root_at,
            told: Mutex::default(),
        }
    }

    fn warn(&self, text: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.warnings.push(text);
    }

    fn pass_over(&self, path: PathBuf, why: &'static str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.unusable.push(Unusable { path, why });
    }

    fn note_listed(&self, path: &Path) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.folders.push(path.to_path_buf());
    }

    fn told(self, files: Vec<FileEntry>) -> Walked {
        let told = self.told.into_inner();
        Walked {
            files,
            ..told.unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// The folder to start in, with the rules from the outermost folder down to it.
    fn start(&self) -> Result<Folder, Error> {
        let path = self.walk.root.join(self.walk.start);
        let mut above: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .take_while(|folder| folder.starts_with(&self.outermost))
            .collect();
        above.reverse();
        let mut outer = None;
        for folder in above {
            let name = self.name_of(folder);
            let marks = Marks::look(folder);
            let warn = |text| self.warn(text);
            let level = Level::read(folder, &name, marks, outer, None, &warn)?;
            outer = Some(Arc::new(level));
        }
        Ok(Folder {
            name: self.name_of(&path),
            path,
            depth: 1,
            outer,
            excluded: None,
        })
    }

    /// Relative to the outermost folder.
    fn name_of(&self, path: &Path) -> Vec<u8> {
        let below = path.strip_prefix(&self.outermost).unwrap_or(path);
        below.as_os_str().as_bytes().to_vec()
    }

    /// A name relative to the outermost folder as one relative to the root.
    fn below_root<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        name.get(self.root_at..).unwrap_or_default()
    }

    /// The files in a folder and below it.
    fn list(&self, folder: &Folder) -> Result<Vec<FileEntry>, Error> {
        let entries: io::Result<Vec<fs::DirEntry>> =
            fs::read_dir(&folder.path).and_then(Iterator::collect);
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) if folder.depth > 1 && error.kind() == io::ErrorKind::NotFound => {
                self.pass_over(folder.path.clone(), VANISHED);
                return Ok(Vec::new());
            }
            Err(error) => return Err(Error::io("list", &folder.path)(error)),
        };
        self.note_listed(&folder.path);
        let mut marks = Marks::default();
        for entry in &entries {
            marks.note(&entry.file_name());
        }
        if self.is_virtualenv(folder, marks) {
            return Ok(Vec::new());
        }
        let level = self.enter(folder, marks)?;
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        for entry in entries {
            let path = entry.path();
            let candidate = Candidate {
                kind: entry.file_type().map_err(Error::io("read", &path))?,
                file_name: entry.file_name(),
                path,
                listed: Some(entry),
            };
            match self.look_at(candidate, folder, &level)? {
                Seen::LeftOut(Reason::Unusable(path, why)) => self.pass_over(path, why),
                Seen::LeftOut(_) => {}
                Seen::File(file, _) => files.push(file),
                Seen::Folder(inner, _) => folders.push(inner),
            }
        }
        let inner: Vec<Vec<FileEntry>> = folders
            .par_iter()
            .map(|folder| self.list(folder))
            .collect::<Result<_, _>>()?;
        files.extend(inner.into_iter().flatten());
        Ok(files)
    }

    /// A project may live in a virtualenv, but none lives in a project.
    fn is_virtualenv(&self, folder: &Folder, marks: Marks) -> bool {
        marks.virtualenv && !self.below_root(&folder.name).is_empty()
    }

    fn enter(&self, folder: &Folder, marks: Marks) -> Result<Arc<Level>, Error> {
        let (outer, excluded) = (folder.outer.clone(), folder.excluded.clone());
        let warn = |text| self.warn(text);
        Level::read(&folder.path, &folder.name, marks, outer, excluded, &warn).map(Arc::new)
    }

    /// Decides upon one entry of a folder.
    fn look_at(
        &self,
        candidate: Candidate,
        folder: &Folder,
        level: &Arc<Level>,
    ) -> Result<Seen, Error> {
        let kind = candidate.kind;
        let Some(text) = candidate.file_name.to_str() else {
            return Ok(unusable(candidate.path, "its name is not UTF-8"));
        };
        let at_top = folder.name.len() < self.root_at.max(1);
        if let Some(entry) = standard::entry(text, at_top) {
            return Ok(Seen::LeftOut(Reason::Standard(entry)));
        }
        let name = Name::new(&folder.name, text.as_bytes());
        // Git takes a link for a file; who writes `data/` into `.flyteignore` means what is there.
        let is_folder = kind.is_dir() || (kind.is_symlink() && candidate.path.is_dir());
        let (reason, excluded) = match self.judge(&name, kind.is_dir(), is_folder, level) {
            Judged::LeftOut(reason) => return Ok(Seen::LeftOut(reason)),
            Judged::Taken(reason, excluded) => (reason, excluded),
        };
        let metadata = match candidate.metadata() {
            Ok(metadata) => metadata,
            Err(error) => return unreachable_entry(candidate.path, kind, error),
        };
        let path = candidate.path;
        if metadata.is_dir() {
            let folder = Folder {
                path,
                name: name.text,
                depth: folder.depth + 1,
                outer: Some(Arc::clone(level)),
                excluded,
            };
            return self.look_into(folder, reason, &metadata, kind.is_symlink(), level);
        }
        if let Some(why) = special_kind(&metadata).or_else(|| unreadable(&path, &metadata)) {
            return Ok(unusable(path, why));
        }
        let name = String::from_utf8_lossy(self.below_root(&name.text)).into_owned();
        Ok(match FileEntry::of(name, &metadata) {
            Some(file) => Seen::File(file, reason),
            None => unusable(path, "it is no regular file"),
        })
    }

    /// Asks the rules of the project.
    fn judge(&self, name: &Name, is_dir: bool, is_folder: bool, level: &Level) -> Judged {
        match level.flyte(name, is_folder) {
            Some(line) if !line.takes_back() => return Judged::LeftOut(Reason::Ignored(line)),
            // As in git, nothing is taken back from a folder that is left out.
            Some(line) if !level.is_excluded() => return Judged::Taken(Reason::Kept(line), None),
            Some(_) | None => {}
        }
        let Some(line) = level.git(name, is_dir) else {
            return Judged::Taken(Reason::Unruled, None);
        };
        if line.takes_back() {
            return Judged::Taken(Reason::Kept(line), None);
        }
        match level.known(name, is_dir, &|text| self.warn(text)) {
            Known::Nothing => Judged::LeftOut(Reason::Ignored(line)),
            Known::Itself => Judged::Taken(Reason::Tracked(line), None),
            Known::Below => Judged::Taken(Reason::Tracked(line.clone()), Some(line)),
        }
    }

    /// Decides upon a folder or a link to one.
    fn look_into(
        &self,
        folder: Folder,
        reason: Reason,
        metadata: &Metadata,
        is_link: bool,
        level: &Level,
    ) -> Result<Seen, Error> {
        if self.walk.skip.contains(&folder.path) {
            return Ok(Seen::LeftOut(Reason::Installed));
        }
        if let Some(why) = unreadable(&folder.path, metadata) {
            return Ok(unusable(folder.path, why));
        }
        if is_link {
            let end = match fs::canonicalize(&folder.path) {
                Ok(end) => end,
                Err(error) => return unreachable_link(folder.path, error),
            };
            if self
                .walk
                .skip
                .iter()
                .any(|skipped| end.starts_with(skipped))
            {
                return Ok(Seen::LeftOut(Reason::Installed));
            }
            let Ok(below) = end.strip_prefix(self.walk.root) else {
                return Ok(unusable(
                    folder.path,
                    "it links to a folder outside the root",
                ));
            };
            if let Some(virtualenv) = self.virtualenv_of(&below.to_string_lossy()) {
                return Ok(Seen::LeftOut(Reason::Virtualenv(virtualenv)));
            }
            if level.is_inside(Identity::of(metadata)) {
                return Ok(unusable(folder.path, "it links to a folder that holds it"));
            }
        }
        if folder.depth > self.walk.max_depth {
            return Ok(Seen::LeftOut(Reason::TooDeep));
        }
        Ok(Seen::Folder(folder, reason))
    }

    /// The virtualenv that a folder below the root is or lies in.
    fn virtualenv_of(&self, name: &str) -> Option<String> {
        Path::new(name)
            .ancestors()
            .filter(|folder| !folder.as_os_str().is_empty())
            .find(|folder| self.walk.root.join(folder).join(VENV_MARK).exists())
            .map(|folder| folder.to_string_lossy().into_owned())
    }
}

/// What the rules of the project say.
enum Judged {
    LeftOut(Reason),
    /// With the line by which git leaves out the rest of the folder.
    Taken(Reason, Option<Line>),
}

const VANISHED: &str = "it vanished meanwhile";

fn unusable(path: PathBuf, why: &'static str) -> Seen {
    Seen::LeftOut(Reason::Unusable(path, why))
}

/// What a failed look behind a name means.
fn unreachable_entry(path: PathBuf, kind: FileType, error: io::Error) -> Result<Seen, Error> {
    if kind.is_symlink() {
        unreachable_link(path, error)
    } else if error.kind() == io::ErrorKind::NotFound {
        Ok(unusable(path, VANISHED))
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        Ok(unusable(path, UNREADABLE))
    } else {
        Err(Error::io("read", &path)(error))
    }
}

fn unreachable_link(path: PathBuf, error: io::Error) -> Result<Seen, Error> {
    if leads_nowhere(&error) {
        Ok(unusable(path, "it is a link that leads nowhere"))
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        Ok(unusable(path, UNREADABLE))
    } else {
        Err(Error::io("resolve", &path)(error))
    }
}

fn leads_nowhere(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
        || error.raw_os_error() == Some(rustix::io::Errno::NOTDIR.raw_os_error())
}

/// Names what can be opened but has no content to ship; opening a pipe would even wait for a writer.
pub fn special_kind(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_file() {
        None
    } else if kind.is_socket() {
        Some("it is a socket")
    } else if kind.is_fifo() {
        Some("it is a named pipe")
    } else {
        Some("it is a device")
    }
}

const UNREADABLE: &str = "this user may not read it";

/// The kernel is asked only where not everybody may read it, which is rare.
fn unreadable(path: &Path, metadata: &Metadata) -> Option<&'static str> {
    use std::os::unix::fs::MetadataExt;
    let (everybody, access) = if metadata.is_dir() {
        (0o555, Access::READ_OK | Access::EXEC_OK)
    } else {
        (0o444, Access::READ_OK)
    };
    let denied = metadata.mode() & everybody != everybody
        && rustix::fs::access(path, access) == Err(rustix::io::Errno::ACCESS);
    denied.then_some(UNREADABLE)
}

/// Appends one part to a name relative to the root, which itself has the empty name.
pub fn join(folder: &str, part: &str) -> String {
    if folder.is_empty() {
        part.to_owned()
    } else {
        format!("{folder}/{part}")
    }
}

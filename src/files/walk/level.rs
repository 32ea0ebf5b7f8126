//! The rules that hold in a folder: its own and those of the folders around it.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::git::{self, Repository};
use super::leads_nowhere;
use super::rules::{Case, Line, Rules};
use crate::files::Error;

const GIT_RULES: &str = ".gitignore";
const FLYTE_RULES: &str = ".flyteignore";
/// The file that makes a folder a virtualenv.
pub const VENV_MARK: &str = "pyvenv.cfg";

/// Device and inode: a folder may be reached under many names, but inodes alone repeat between
/// devices.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identity(u64, u64);

impl Identity {
    pub fn of(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

/// Which of the files that the walk looks for are in a folder.
#[derive(Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a file that is there or not"
)]
pub struct Marks {
    git_rules: bool,
    flyte_rules: bool,
    repository: bool,
    pub virtualenv: bool,
}

impl Marks {
    /// Notes the name of a file in the folder.
    pub fn note(&mut self, name: &std::ffi::OsStr) {
        self.git_rules |= name == GIT_RULES;
        self.flyte_rules |= name == FLYTE_RULES;
        self.repository |= name == git::MARK;
        self.virtualenv |= name == VENV_MARK;
    }

    /// Looks for them without listing the folder.
    pub fn look(folder: &Path) -> Self {
        let mut marks = Self::default();
        for name in [GIT_RULES, FLYTE_RULES, git::MARK, VENV_MARK] {
            if fs::symlink_metadata(folder.join(name)).is_ok() {
                marks.note(name.as_ref());
            }
        }
        marks
    }
}

/// The rules that one folder adds to those around it.
pub struct Level {
    outer: Option<Arc<Level>>,
    identity: Identity,
    /// Where names relative to this folder begin in names relative to the outermost one.
    start: usize,
    git: Option<Arc<Rules>>,
    flyte: Option<Arc<Rules>>,
    /// The repository that the folder is in.
    repository: Option<Arc<Repository>>,
    /// Git rules from further out do not reach into a repository.
    begins_repository: bool,
    /// The line by which git leaves out the folder itself; it is open for tracked files only.
    excluded: Option<Line>,
}

impl Level {
    /// Reads the rules of the folder named `name`, seen from the outermost one.
    pub fn read(
        folder: &Path,
        name: &[u8],
        marks: Marks,
        outer: Option<Arc<Self>>,
        excluded: Option<Line>,
        warn: &dyn Fn(String),
    ) -> Result<Self, Error> {
        let metadata = fs::metadata(folder).map_err(Error::io("read", folder))?;
        let start = if name.is_empty() { 0 } else { name.len() + 1 };
        let own = if marks.repository {
            Repository::open(folder, start, warn)
        } else {
            None
        };
        let begins_repository = own.is_some();
        let around = outer.as_ref().and_then(|outer| outer.repository.clone());
        let rules = |is_there: bool, file: &str| {
            if is_there {
                read_rules(&folder.join(file), warn)
            } else {
                Ok(None)
            }
        };
        Ok(Self {
            identity: Identity::of(&metadata),
            start,
            git: rules(marks.git_rules, GIT_RULES)?,
            flyte: rules(marks.flyte_rules, FLYTE_RULES)?,
            repository: own.map(Arc::new).or(around),
            begins_repository,
            excluded,
            outer,
        })
    }

    /// What `.flyteignore` files say of a name: the innermost that says anything.
    pub fn flyte(&self, name: &Name, is_dir: bool) -> Option<Line> {
        self.levels().find_map(|level| {
            name.last_match(level.flyte.as_ref()?, level.start, is_dir, Case::Sensitive)
        })
    }

    /// What git's rules say of a name.
    pub fn git(&self, name: &Name, is_dir: bool) -> Option<Line> {
        if self.excluded.is_some() {
            return self.excluded.clone();
        }
        let repository = self.repository.as_deref();
        let case = repository.map_or(Case::Sensitive, |repository| repository.case);
        for level in self.levels() {
            if let Some(rules) = &level.git
                && let Some(line) = name.last_match(rules, level.start, is_dir, case)
            {
                return Some(line);
            }
            if level.begins_repository {
                break;
            }
        }
        let Repository {
            excludes, start, ..
        } = repository?;
        excludes
            .iter()
            .find_map(|rules| name.last_match(rules, *start, is_dir, case))
    }

    /// What the repository's index says of a name.
    pub fn known(&self, name: &Name, is_dir: bool, warn: &dyn Fn(String)) -> git::Known {
        match &self.repository {
            Some(repository) => repository
                .tracked(warn)
                .known(&name.text[repository.start..], is_dir),
            None => git::Known::Nothing,
        }
    }

    /// Whether git leaves out the folder itself.
    pub fn is_excluded(&self) -> bool {
        self.excluded.is_some()
    }

    /// Whether the folder is this one or around it.
    pub fn is_inside(&self, identity: Identity) -> bool {
        self.levels().any(|level| level.identity == identity)
    }

    /// This folder and those around it.
    fn levels(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |level| level.outer.as_deref())
    }
}

/// A name relative to the outermost folder of rules.
pub struct Name {
    pub text: Vec<u8>,
    /// Where its last part begins.
    last: usize,
}

impl Name {
    pub fn new(folder: &[u8], part: &[u8]) -> Self {
        let mut text = Vec::with_capacity(folder.len() + 1 + part.len());
        if !folder.is_empty() {
            text.extend_from_slice(folder);
            text.push(b'/');
        }
        let last = text.len();
        text.extend_from_slice(part);
        Self { text, last }
    }

    fn last_match(
        &self,
        rules: &Arc<Rules>,
        start: usize,
        is_dir: bool,
        case: Case,
    ) -> Option<Line> {
        rules.last_match(&self.text[start..], self.last - start, is_dir, case)
    }
}

/// The rules of a file; none where something else has its name. Like git, it takes no link for one.
fn read_rules(path: &Path, warn: &dyn Fn(String)) -> Result<Option<Arc<Rules>>, Error> {
    let mut bytes = Vec::new();
    let opened = OpenOptions::new()
        .read(true)
        // Nor does a pipe of that name hold anybody up.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    match opened.and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(Arc::new(Rules::parse(path, bytes)))),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(None),
        Err(error) if leads_nowhere(&error) => {
            if fs::symlink_metadata(path).is_ok_and(|there| there.is_symlink()) {
                warn(format!(
                    "the rules of `{}` are not used: it is a link, which git does not follow",
                    path.display()
                ));
            }
            Ok(None)
        }
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

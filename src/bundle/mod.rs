//! The code bundle: which files of a project travel, what they are as one digest, and the archive.
//!
//! One list, several sinks: [`choose`] decides, and listing and [`pack`] read that same
//! [`FileList`], so that they cannot disagree. The digest and the archive depend on names, content
//! and executable bits alone, never on the machine, the folder of the checkout, the order of the
//! file system, installed tools or what was bundled before. Where a bundle goes is not known here.

mod explain;
mod frame;
pub mod imports;
mod include;
mod layout;
mod modules;
mod ordered;
mod pack;
mod root;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use unicode_normalization::UnicodeNormalization;

use crate::error::{Code, Diagnostic, Retry};
use crate::files;
use crate::files::archive::Limits;
use crate::files::walk::{Walk, Walked};
use crate::spec::CopyStyle;

pub use crate::files::walk::FileEntry as BundleFile;
pub use explain::{Explanation, Outcome, explain};
pub use pack::{Archive, Format, Part, pack};
pub use store::Store;

use root::Root;

/// What to choose files from.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The folder that the bundle mirrors.
    pub root: PathBuf,
    pub style: CopyStyle,
    /// The `__file__` of every module in `sys.modules`, as Python shows them.
    pub modules: Vec<PathBuf>,
    /// Folders of installed code: the standard library, `site-packages`, the SDK. Never a bare
    /// `sys.prefix`, under which projects may live.
    pub installed: Vec<PathBuf>,
    /// Entries of `sys.path`, in their order; those outside the root are passed over.
    pub source_roots: Vec<PathBuf>,
    pub include: Vec<Include>,
}

/// A file, folder or glob that the user asks for by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Include {
    pub pattern: String,
    /// The folder that a relative pattern starts from.
    pub base: PathBuf,
}

/// The files of a bundle, by name.
#[derive(Clone, Debug, Default)]
pub struct FileList {
    root: PathBuf,
    files: Vec<BundleFile>,
    looked_into: Vec<PathBuf>,
    warnings: Vec<String>,
}

/// What can go wrong between choosing files and the finished archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] files::Error),
    #[error("no file to bundle was found in `{root}`")]
    Empty { root: PathBuf, style: CopyStyle },
    #[error("`include` entry `{pattern}` matches nothing in `{folder}`")]
    Missing {
        pattern: String,
        folder: PathBuf,
        similar: Option<String>,
    },
    #[error("`include` entry `{pattern}` is not a valid glob")]
    BadGlob {
        pattern: String,
        source: globset::Error,
    },
    #[error("`include` entry `{pattern}` leads to `{path}`, outside the root folder `{root}`")]
    OutsideRoot {
        pattern: String,
        path: PathBuf,
        root: PathBuf,
        /// The deepest folder that holds both.
        common: PathBuf,
    },
    #[error("`include` entry `{pattern}` leads to `{path}`, which cannot be bundled: {why}")]
    NotAFile {
        pattern: String,
        path: PathBuf,
        why: &'static str,
    },
    #[error("there is no `{path}`")]
    NoSuchPath {
        path: PathBuf,
        similar: Option<String>,
    },
    #[error("`{path}` changed while it was bundled")]
    Changed { path: PathBuf },
    #[error("the bundle holds {found} {unit}, and replicas unpack at most {limit}")]
    TooLarge {
        found: u64,
        limit: u64,
        unit: &'static str,
        /// Names of the largest files.
        largest: Vec<String>,
    },
    #[error("failed to write the archive")]
    Output(#[source] io::Error),
}

impl Diagnostic for Error {
    fn code(&self) -> Code {
        match self {
            Self::File(error) => error.code(),
            Self::Empty { .. } => Code::BundleEmpty,
            Self::Missing { .. } | Self::BadGlob { .. } => Code::BundleMissing,
            Self::OutsideRoot { .. } => Code::BundleOutsideRoot,
            Self::NoSuchPath { .. } => Code::ConfigInvalid,
            Self::NotAFile { .. } | Self::Changed { .. } | Self::Output(_) => Code::BundleIo,
            Self::TooLarge { .. } => Code::BundleTooLarge,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::File(error) => error.hints(),
            Self::Empty { style, .. } => empty_hints(*style),
            Self::Missing {
                pattern, similar, ..
            } => missing_hints(pattern, similar.as_deref()),
            Self::NoSuchPath { similar, .. } => similar
                .iter()
                .map(|similar| format!("did you mean `{similar}`?"))
                .collect(),
            Self::NotAFile { .. } | Self::BadGlob { .. } | Self::Output(_) => Vec::new(),
            Self::OutsideRoot { common, .. } => vec![outside_hint(common)],
            Self::Changed { .. } => {
                vec!["stop what writes to it, or leave it out with `.flyteignore`".to_owned()]
            }
            Self::TooLarge { largest, .. } => vec![
                format!("its largest files are `{}`", largest.join("`, `")),
                "leave data out with `.flyteignore` and pass it as a `Parameter`".to_owned(),
            ],
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::File(error) => error.retry(),
            Self::Changed { .. } => Retry::Maybe,
            Self::Empty { .. }
            | Self::Missing { .. }
            | Self::BadGlob { .. }
            | Self::OutsideRoot { .. }
            | Self::TooLarge { .. }
            | Self::NotAFile { .. }
            | Self::NoSuchPath { .. }
            | Self::Output(_) => Retry::Never,
        }
    }
}

fn empty_hints(style: CopyStyle) -> Vec<String> {
    match style {
        CopyStyle::LoadedModules => vec![
            "no imported module lies below it; set `root_dir` to the folder of your code"
                .to_owned(),
            "name files with `include`, or set `copy_style=\"none\"` if the image holds the code"
                .to_owned(),
        ],
        CopyStyle::All => vec![
            "every file is left out by `.gitignore`, `.flyteignore` or the standard list"
                .to_owned(),
        ],
        CopyStyle::None => Vec::new(),
    }
}

fn missing_hints(pattern: &str, similar: Option<&str>) -> Vec<String> {
    let mut hints = Vec::new();
    if let Some(similar) = similar {
        let composed = |text: &str| text.nfc().collect::<String>();
        hints.push(if composed(pattern).ends_with(&composed(similar)) {
            format!(
                "the name `{similar}` looks the same but is another sequence of Unicode \
                 characters (composed or decomposed); rename the file"
            )
        } else {
            format!("did you mean `{similar}`?")
        });
    }
    hints.push(
        "relative entries start from the folder of the file that declares the app, and a glob \
         passes over files that an ignore rule leaves out"
            .to_owned(),
    );
    hints
}

fn outside_hint(common: &Path) -> String {
    if common.parent().is_none() {
        "copy or link it into the root folder".to_owned()
    } else {
        format!("set `root_dir` to `{}`, which holds both", common.display())
    }
}

/// How a file came into the bundle.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// Python had loaded it.
    Loaded,
    /// This file imports it, in this line.
    Imported(Box<str>, usize),
    /// It makes a package of a folder around this file.
    Package(Box<str>),
    /// This entry of `include` means it.
    Include(String),
    /// The walk over all files came by.
    Walk,
}

/// Files by name while they are collected; a name that is found twice counts once.
#[derive(Default)]
struct Picked {
    files: BTreeMap<Box<str>, BundleFile>,
    /// Folders that were looked into.
    looked_into: Vec<PathBuf>,
    warnings: Vec<String>,
    /// The one file whose origin is asked for.
    watched: Option<Box<str>>,
    origin: Option<Origin>,
}

impl Picked {
    fn add(&mut self, file: BundleFile, origin: impl FnOnce() -> Origin) {
        if self.watched.as_ref() == Some(&file.name) && self.origin.is_none() {
            self.origin = Some(origin());
        }
        self.files.entry(file.name.clone()).or_insert(file);
    }

    /// Which line imports a module says more than that Python has loaded it.
    fn tell_more(&mut self, name: &str, origin: &Origin) {
        if self.watched.as_deref() == Some(name)
            && self.origin == Some(Origin::Loaded)
            && matches!(origin, Origin::Imported(file, _) if **file != *name)
        {
            self.origin = Some(origin.clone());
        }
    }

    fn take(&mut self, mut walked: Walked, origin: impl Fn() -> Origin) {
        for file in std::mem::take(&mut walked.files) {
            self.add(file, &origin);
        }
        self.looked_into.append(&mut walked.folders);
        self.warnings.extend(walked.into_sentences());
    }
}

/// Decides which files the bundle holds.
///
/// With [`CopyStyle::None`] and no `include` the list is empty: there is nothing to bundle.
pub fn choose(selection: &Selection) -> Result<FileList, Error> {
    let root = Root::open(&selection.root, &selection.installed)?;
    let mut picked = Picked::default();
    pick(&root, selection, &mut picked)?;
    if picked.files.is_empty() && needs_files(selection) {
        return Err(Error::Empty {
            root: root.real().to_path_buf(),
            style: selection.style,
        });
    }
    Ok(FileList::new(root.real().to_path_buf(), picked))
}

/// Everything that decides: [`choose`] lists the outcome, [`explain`] asks for one file of it.
fn pick(root: &Root, selection: &Selection, picked: &mut Picked) -> Result<(), Error> {
    match selection.style {
        CopyStyle::LoadedModules => {
            modules::pick(root, &selection.modules, &selection.source_roots, picked)?;
        }
        CopyStyle::All => {
            picked.take(everything(root).run()?, || Origin::Walk);
        }
        CopyStyle::None => {}
    }
    for include in &selection.include {
        include::pick(root, include, picked)?;
    }
    Ok(())
}

/// The walk of [`CopyStyle::All`].
fn everything(root: &Root) -> Walk<'_> {
    Walk {
        root: root.real(),
        start: "",
        skip: root.installed(),
        max_depth: usize::MAX,
    }
}

fn needs_files(selection: &Selection) -> bool {
    match selection.style {
        CopyStyle::LoadedModules | CopyStyle::All => true,
        CopyStyle::None => false,
    }
}

impl FileList {
    fn new(root: PathBuf, picked: Picked) -> Self {
        let mut warnings = picked.warnings;
        warnings.sort();
        warnings.dedup();
        Self {
            root,
            files: picked.files.into_values().collect(),
            looked_into: picked.looked_into,
            warnings,
        }
    }

    /// The folder that all names start from; canonical.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where to read a file of this list.
    pub fn path_of(&self, file: &BundleFile) -> PathBuf {
        self.root.join(&*file.name)
    }

    /// Sorted by the bytes of the name, each name once.
    pub fn files(&self) -> &[BundleFile] {
        &self.files
    }

    /// The folders in which a change may change this list: those that hold its files, those that
    /// were looked into and hold none yet, all around them up to the root, and where links lead.
    pub fn folders(&self) -> BTreeSet<PathBuf> {
        let mut names: Vec<&str> = self.files.iter().map(|file| parent(&file.name)).collect();
        names.dedup();
        let holding = names.into_iter().map(|name| self.root.join(name));
        let mut folders = BTreeSet::from([self.root.clone()]);
        for folder in holding.chain(self.looked_into.iter().cloned()) {
            let around = folder.ancestors();
            for folder in around.take_while(|folder| folder.starts_with(&self.root)) {
                if !folders.insert(folder.to_path_buf()) {
                    break;
                }
            }
        }
        folders.extend(self.folders_behind_links());
        folders
    }

    fn folders_behind_links(&self) -> Vec<PathBuf> {
        let behind = |file: &BundleFile| {
            let path = self.path_of(file);
            if !fs::symlink_metadata(&path).ok()?.is_symlink() {
                return None;
            }
            Some(fs::canonicalize(&path).ok()?.parent()?.to_path_buf())
        };
        self.files.par_iter().filter_map(behind).collect()
    }

    /// What was left out that the user may miss, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Size of all files together, before compression.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files that weigh most, the heaviest first.
    pub fn largest(&self, count: usize) -> Vec<&BundleFile> {
        let mut largest: Vec<&BundleFile> = self.files.iter().collect();
        largest.sort_by_key(|file| std::cmp::Reverse(file.size));
        largest.truncate(count);
        largest
    }

    /// Refuses what no replica would unpack, before anything is sent.
    pub fn check_limits(&self, limits: Limits) -> Result<(), Error> {
        let entries = self.files.len() as u64;
        let over = [
            (self.total_bytes(), limits.max_bytes, "bytes"),
            (entries, limits.max_entries, "files"),
        ];
        match over.into_iter().find(|(found, limit, _)| found > limit) {
            None => Ok(()),
            Some((found, limit, unit)) => Err(Error::TooLarge {
                found,
                limit,
                unit,
                largest: self
                    .largest(5)
                    .iter()
                    .map(|file| file.name.to_string())
                    .collect(),
            }),
        }
    }
}

/// The folder that a name of a bundle lies in; empty for the root.
fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// `path` without `.` and with `..` taken back, by its text alone.
fn normalized(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                plain.pop();
            }
            std::path::Component::RootDir
            | std::path::Component::Prefix(_)
            | std::path::Component::Normal(_) => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod choice_tests;
#[cfg(test)]
mod pack_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

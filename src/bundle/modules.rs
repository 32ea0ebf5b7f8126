//! From the modules that Python has loaded to the files the project needs.
//!
//! Added to the loaded ones: the `__init__.py` of every package around them, and what their source
//! imports inside functions or for type checkers only, again and again until nothing is new. Which
//! of several folders an absolute import means is decided like `sys.path` does: first come. Ignore
//! rules do not hold here: what is imported is needed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::imports::{Import, scan};
use super::root::Root;
use super::{BundleFile, Error, Origin, Picked, parent};
use crate::files;
use crate::files::walk::join;

/// A file by its name, and how it was found.
type Found<F> = (F, Origin);

/// Adds the modules below the root and what they import there.
pub(super) fn pick(
    root: &Root,
    modules: &[PathBuf],
    source_roots: &[PathBuf],
    picked: &mut Picked,
) -> Result<(), Error> {
    let mut resolver = Resolver::new(root, source_roots);
    let mut elsewhere = Elsewhere::new(root, modules);
    let mut seen = HashSet::new();
    let mut found: Vec<Found<BundleFile>> = modules
        .par_iter()
        .filter_map(|path| Some((root.module(path)?, Origin::Loaded)))
        .collect();
    loop {
        found.retain(|(file, _)| seen.insert(file.name.clone()));
        if found.is_empty() {
            picked.warnings.extend(elsewhere.into_warnings());
            let looked_into = resolver.listings.into_keys();
            let looked_into = looked_into.map(|name| root.real().join(name));
            picked.looked_into.extend(looked_into);
            return Ok(());
        }
        let mut names: Vec<Found<String>> = Vec::new();
        for ((file, _), imports) in found.iter().zip(read_imports(root, &found)?) {
            let mut reached = Vec::new();
            resolver.packages_around(&file.name, &mut reached);
            let package = |name| (name, Origin::Package(file.name.clone()));
            names.extend(reached.drain(..).map(package));
            for import in &imports {
                resolver.resolve(&file.name, import, &mut reached);
                if reached.is_empty() {
                    elsewhere.note(file, import);
                }
                let imported = |name| (name, Origin::Imported(file.name.clone(), import.line));
                names.extend(reached.drain(..).map(imported));
            }
        }
        for (file, origin) in found.drain(..) {
            picked.add(file, || origin);
        }
        for (name, origin) in &names {
            picked.tell_more(name, origin);
        }
        names.retain(|(name, _)| !seen.contains(name.as_str()));
        names.sort();
        names.dedup_by(|(name, _), (before, _)| name == before);
        found = names
            .into_par_iter()
            .filter_map(|(name, origin)| Some((root.module(&root.real().join(name))?, origin)))
            .collect();
    }
}

/// The imports of each file; none for what is not Python source.
fn read_imports(
    root: &Root,
    found: &[Found<BundleFile>],
) -> Result<Vec<Vec<Import>>, files::Error> {
    found
        .par_iter()
        .map(|(file, _)| {
            if file.name.strip_suffix(".py").is_none() {
                return Ok(Vec::new());
            }
            let path = root.real().join(&*file.name);
            let source = fs::read(&path).map_err(files::Error::io("read", &path))?;
            Ok(scan(&source))
        })
        .collect()
}

/// Loaded modules that the bundle needs and cannot hold: those of a project beside the root, such as
/// one that is installed in editable form.
struct Elsewhere<'a> {
    root: &'a Root,
    /// By the name that an import begins with.
    modules: BTreeMap<String, &'a Path>,
    warnings: BTreeMap<String, String>,
}

impl<'a> Elsewhere<'a> {
    fn new(root: &'a Root, modules: &'a [PathBuf]) -> Self {
        let outside = modules.iter().filter(|path| root.is_elsewhere(path));
        Self {
            root,
            modules: outside
                .filter_map(|path| Some((top_level_name(path)?, path.as_path())))
                .collect(),
            warnings: BTreeMap::new(),
        }
    }

    /// Told of each import that leads to nothing below the root.
    fn note(&mut self, file: &BundleFile, import: &Import) {
        let Some(name) = import.module.first().filter(|_| import.level == 0) else {
            return;
        };
        let Some(path) = self.modules.get(name) else {
            return;
        };
        self.warnings.entry(name.clone()).or_insert_with(|| {
            format!(
                "`{name}`, which `{}` imports in line {}, is not bundled: `{}` lies outside the root \
                 folder `{}`; install it in the image, or set `root_dir` to a folder that holds both",
                file.name,
                import.line,
                path.display(),
                self.root.real().display()
            )
        });
    }

    fn into_warnings(self) -> impl Iterator<Item = String> {
        self.warnings.into_values()
    }
}

/// The first part of the name under which a file is imported: that of its outermost package.
fn top_level_name(file: &Path) -> Option<String> {
    let mut module = file.to_path_buf();
    while let Some(folder) = module
        .parent()
        .filter(|folder| folder.join("__init__.py").exists())
    {
        module = folder.to_path_buf();
    }
    let name = module.file_name()?.to_str()?;
    // Compiled modules are named `x.cpython-312-x86_64-linux-gnu.so`.
    name.split('.').next().map(str::to_owned)
}

/// What a dotted path leads to.
enum End {
    /// A file, which has no submodules.
    Module,
    /// A package, with or without `__init__.py`.
    Folder(String),
}

/// Finds modules by name. Folders are listed once each: most imports are not local, and asking the
/// file system for each of them would cost more than all the rest.
struct Resolver<'a> {
    root: &'a Root,
    /// Relative to the root, in the order of `sys.path`, the root last.
    search: Vec<String>,
    listings: HashMap<String, HashSet<String>>,
}

impl<'a> Resolver<'a> {
    fn new(root: &'a Root, source_roots: &[PathBuf]) -> Self {
        let mut search: Vec<String> = Vec::new();
        let below = source_roots.iter().filter_map(|path| root.name_of(path));
        for name in below.chain([String::new()]) {
            if !search.contains(&name) {
                search.push(name);
            }
        }
        Self {
            root,
            search,
            listings: HashMap::new(),
        }
    }

    /// The `__init__.py` of each folder between the file and the root.
    fn packages_around(&mut self, file: &str, names: &mut Vec<String>) {
        let mut folder = parent(file);
        while !folder.is_empty() {
            if self.has(folder, "__init__.py") {
                names.push(join(folder, "__init__.py"));
            }
            folder = parent(folder);
        }
    }

    fn resolve(&mut self, file: &str, import: &Import, names: &mut Vec<String>) {
        let own = parent(file);
        if import.level > 0 {
            let mut folder = own;
            for _ in 1..import.level {
                folder = parent(folder);
            }
            self.resolve_in(folder, import, names);
            return;
        }
        for index in 0..self.search.len() {
            let folder = self.search[index].clone();
            if self.resolve_in(&folder, import, names) {
                return;
            }
        }
        self.resolve_in(own, import, names);
    }

    /// Adds what an import means if it starts in `folder`; false if it means nothing there.
    fn resolve_in(&mut self, folder: &str, import: &Import, names: &mut Vec<String>) -> bool {
        let before = names.len();
        let Some(end) = self.descend(folder, &import.module, names) else {
            return false;
        };
        if let End::Folder(package) = end {
            if import.module.is_empty() && self.has(&package, "__init__.py") {
                names.push(join(&package, "__init__.py"));
            }
            for name in &import.names {
                self.descend(&package, std::slice::from_ref(name), names);
            }
        }
        names.len() > before
    }

    /// Follows a dotted path from `folder`, adding the files of modules and packages on the way.
    ///
    /// `None` if it leads nowhere; then nothing is added.
    fn descend(&mut self, folder: &str, path: &[String], names: &mut Vec<String>) -> Option<End> {
        let before = names.len();
        let mut folder = folder.to_owned();
        for part in path {
            let inner = join(&folder, part);
            let is_there = self.has(&folder, part);
            if is_there && self.has(&inner, "__init__.py") {
                names.push(join(&inner, "__init__.py"));
            } else if self.has(&folder, &format!("{part}.py")) {
                names.push(format!("{inner}.py"));
                return Some(End::Module);
            } else if !is_there || self.listing(&inner).is_empty() {
                names.truncate(before);
                return None;
            }
            folder = inner;
        }
        Some(End::Folder(folder))
    }

    fn has(&mut self, folder: &str, name: &str) -> bool {
        self.listing(folder).contains(name)
    }

    /// The names in a folder; empty for what is none, which no import can lead through.
    fn listing(&mut self, folder: &str) -> &HashSet<String> {
        if !self.listings.contains_key(folder) {
            let names = list(&self.root.real().join(folder));
            self.listings.insert(folder.to_owned(), names);
        }
        &self.listings[folder]
    }
}

fn list(folder: &Path) -> HashSet<String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

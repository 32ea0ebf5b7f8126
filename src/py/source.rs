//! Reading the caller's program: which files it is made of and where an environment is found.
//!
//! The interpreter is asked once, for plain paths; which of them are bundled is decided below.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyModule};

use super::{convert, settings};
use crate::serve::{Interactive, Source};

/// A module that is loaded, with the file it came from.
struct Loaded<'py> {
    name: String,
    file: PathBuf,
    module: Bound<'py, PyAny>,
}

/// The caller's program as seen from one environment.
pub struct Program<'py> {
    loaded: Vec<Loaded<'py>>,
    /// Files of modules that are not loaded yet.
    later: Vec<PathBuf>,
    installed: Vec<PathBuf>,
    search: Vec<PathBuf>,
    root: PathBuf,
}

impl<'py> Program<'py> {
    /// Looks at the interpreter; `declared_in` is the file of the environment that is served, or
    /// `None` in a notebook, which lies in `folder`.
    pub fn look(py: Python<'py>, declared_in: Option<&Path>, folder: &Path) -> PyResult<Self> {
        let installed = installed(py)?;
        let loaded = loaded(py, &installed)?;
        let search = search_path(py)?;
        let root = match (settings::root_dir(), declared_in) {
            (Some(root), _) => root.canonicalize().unwrap_or(root),
            (None, Some(file)) => infer_root(&loaded, &search, file)?,
            (None, None) => notebook_root(&loaded, &search, folder)?,
        };
        Ok(Self {
            loaded,
            later: Vec::new(),
            installed,
            search,
            root,
        })
    }

    /// Loaded modules that are neither installed nor under the root folder.
    pub fn modules_elsewhere(&self) -> Vec<Bound<'py, PyAny>> {
        self.loaded
            .iter()
            .filter(|module| module.name != "__main__" && !module.file.starts_with(&self.root))
            .map(|module| module.module.clone())
            .collect()
    }

    /// Takes in files of modules that will be imported once the app runs.
    pub fn will_import(&mut self, files: Vec<PathBuf>) {
        for file in self.own_files(files) {
            if settings::root_dir().is_none() {
                let root = std::mem::take(&mut self.root);
                self.root = widened(root, &import_root(&file, &self.search));
            }
            self.later.push(file);
        }
    }

    /// Takes in files that declare environments; `python -i` forgets that it has run one.
    pub fn declared_in<'a>(&mut self, files: impl Iterator<Item = &'a Path>) {
        let files = self.own_files(files.map(Path::to_path_buf).collect());
        self.later.extend(files);
    }

    fn own_files(&self, files: Vec<PathBuf>) -> Vec<PathBuf> {
        files
            .into_iter()
            .filter_map(|file| file.canonicalize().ok())
            .filter(|file| file.is_file() && !is_installed(file, &self.installed))
            .collect()
    }

    /// The folder of the bundle in which an app finds what its notebook found beside it.
    pub fn working_folder(&self, notebook: &Path) -> PathBuf {
        let current = std::env::current_dir().and_then(|folder| folder.canonicalize());
        let candidates = [current.ok(), Some(notebook.to_path_buf())];
        candidates
            .into_iter()
            .flatten()
            .find_map(|folder| Some(folder.strip_prefix(&self.root).ok()?.to_path_buf()))
            .unwrap_or_default()
    }

    /// What is needed to bundle it.
    pub fn source(&self, interactive: Option<Interactive>) -> Source {
        let mut seen = BTreeSet::new();
        Source {
            root: self.root.clone(),
            modules: self
                .loaded
                .iter()
                .map(|module| module.file.clone())
                .chain(self.later.iter().cloned())
                .collect(),
            installed: self.installed.clone(),
            source_roots: self
                .search
                .iter()
                .filter(|path| path.starts_with(&self.root) && seen.insert((*path).clone()))
                .cloned()
                .collect(),
            interactive,
        }
    }

    /// `module:variable` under which a replica finds `env`; where no variable holds it,
    /// `module:@name`, which our runtime looks up among the environments that the module made.
    pub fn loader(
        &self,
        env: &Bound<'py, PyAny>,
        declared_in: Option<&Path>,
    ) -> PyResult<Option<String>> {
        let name: String = convert::field(env, "name")?;
        let declared = declared_in.map(|path| path.canonicalize().unwrap_or_else(|_| path.into()));
        let own = |module: &&Loaded<'py>| module.file.starts_with(&self.root);
        // The program that was started first, then the declaring file, then the rest.
        let mut order: Vec<&Loaded<'py>> = self.loaded.iter().filter(own).collect();
        order.sort_by_key(|module| {
            (
                module.name != "__main__",
                Some(&module.file) != declared.as_ref(),
            )
        });
        for module in &order {
            let namespace = module.module.getattr("__dict__")?.cast_into::<PyDict>()?;
            for (variable, value) in namespace.iter() {
                if value.is(env)
                    && let Some(path) = self.module_name(module)
                {
                    return Ok(Some(format!("{path}:{variable}")));
                }
            }
        }
        let fallback = order
            .iter()
            .find(|module| module.name == "__main__")
            .or_else(|| {
                order
                    .iter()
                    .find(|module| Some(&module.file) == declared.as_ref())
            });
        Ok(fallback
            .and_then(|module| self.module_name(module))
            // A script that `python -i` has run to its end is no module any more.
            .or_else(|| declared.and_then(|file| self.file_name(&file)))
            .map(|path| format!("{path}:@{name}")))
    }

    /// The name under which a replica imports a module: the one that this program uses, so that
    /// nothing is imported twice under two names.
    fn module_name(&self, module: &Loaded<'py>) -> Option<String> {
        let is_file = module.file.file_stem().is_some_and(|stem| {
            // The command line imports a file under its own stem, dots and all.
            stem.to_string_lossy().contains('.')
        });
        if module.name != "__main__" && module.name != "__mp_main__" && !is_file {
            return Some(module.name.clone());
        }
        self.file_name(&module.file)
    }

    /// A program has no name; it gets that of its file, seen from the nearest search folder.
    fn file_name(&self, file: &Path) -> Option<String> {
        let folder = self
            .search
            .iter()
            .filter(|folder| folder.starts_with(&self.root) && file.starts_with(folder))
            .max_by_key(|folder| folder.components().count())
            .unwrap_or(&self.root);
        let file = file.strip_prefix(folder).ok()?;
        let relative = file.with_extension("");
        if relative.to_string_lossy().contains('.') {
            // No import can spell it; our runtime takes the file itself.
            return Some(file.to_string_lossy().into_owned());
        }
        let parts: Vec<String> = relative
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect();
        Some(parts.join("."))
    }
}

/// Files of all loaded modules that are not installed packages.
fn loaded<'py>(py: Python<'py>, installed: &[PathBuf]) -> PyResult<Vec<Loaded<'py>>> {
    let modules = py
        .import("sys")?
        .getattr("modules")?
        .cast_into::<PyDict>()?;
    let mut result = Vec::new();
    for (name, module) in modules.iter() {
        // Attributes of lazy modules may import; their dictionary does not.
        let Ok(module_type) = module.cast::<PyModule>() else {
            continue;
        };
        let Some(file) = module_type.dict().get_item("__file__")? else {
            continue;
        };
        let Ok(file) = file.extract::<PathBuf>() else {
            continue;
        };
        let Ok(file) = file.canonicalize() else {
            continue;
        };
        if !is_installed(&file, installed) && file.is_file() {
            result.push(Loaded {
                name: name.extract()?,
                file,
                module,
            });
        }
    }
    result.sort_by(|a, b| a.file.cmp(&b.file).then(a.name.cmp(&b.name)));
    Ok(result)
}

fn is_installed(file: &Path, installed: &[PathBuf]) -> bool {
    installed.iter().any(|folder| file.starts_with(folder))
        || file.components().any(|part| {
            let part = part.as_os_str();
            part == "site-packages" || part == "dist-packages"
        })
}

/// Folders of the standard library, of installed packages and of this SDK.
fn installed(py: Python<'_>) -> PyResult<Vec<PathBuf>> {
    let folder_of = |module: &str| -> PyResult<Option<PathBuf>> {
        let file: PathBuf = py.import(module)?.getattr("__file__")?.extract()?;
        Ok(file.parent().map(Path::to_path_buf))
    };
    // The command line is a script beside the interpreter, and no part of the user's program.
    let executable: PathBuf = py.import("sys")?.getattr("executable")?.extract()?;
    let scripts = executable.parent().map(Path::to_path_buf);
    let mut folders: Vec<PathBuf> = [folder_of("os")?, folder_of("flyte")?, scripts]
        .into_iter()
        .flatten()
        .collect();
    if let Ok(site) = py.import("site") {
        if let Ok(paths) = site.call_method0("getsitepackages") {
            folders.extend(paths.extract::<Vec<PathBuf>>()?);
        }
        if let Ok(path) = site.call_method0("getusersitepackages") {
            folders.push(path.extract()?);
        }
    }
    Ok(folders
        .into_iter()
        .map(|path| path.canonicalize().unwrap_or(path))
        .collect())
}

fn search_path(py: Python<'_>) -> PyResult<Vec<PathBuf>> {
    let entries = py.import("sys")?.getattr("path")?.cast_into::<PyList>()?;
    let mut folders = Vec::new();
    for entry in entries.iter() {
        if let Ok(path) = entry.extract::<PathBuf>()
            && let Ok(path) = if path.as_os_str().is_empty() {
                std::env::current_dir()
            } else {
                path.canonicalize()
            }
            && path.is_dir()
        {
            folders.push(path);
        }
    }
    Ok(folders)
}

/// The narrowest folder that holds the declaring file and what it imports from around it.
///
/// `cwd` only widens it: a script in `cwd/apps/x/` that imports nothing from above is its own
/// root, so that `python server.py` in `args` finds `server.py`, wherever it was served from.
fn infer_root(loaded: &[Loaded<'_>], search: &[PathBuf], declared_in: &Path) -> PyResult<PathBuf> {
    let cwd = std::env::current_dir()?;
    let Ok(declared) = declared_in.canonicalize() else {
        return Ok(cwd);
    };
    let mut root = import_root(&declared, search);
    if root.starts_with(&cwd) {
        for module in loaded {
            if module.file.starts_with(&cwd) {
                root = common(&root, &import_root(&module.file, search));
            }
        }
    }
    Ok(root)
}

/// The narrowest folder that holds a notebook, where it runs, and what it imports from around it.
fn notebook_root(loaded: &[Loaded<'_>], search: &[PathBuf], notebook: &Path) -> PyResult<PathBuf> {
    let cwd = std::env::current_dir()?;
    let cwd = cwd.canonicalize().unwrap_or(cwd);
    // One that runs further up opens files from there; one that runs elsewhere has no choice.
    let start = if notebook.starts_with(&cwd) {
        widened(notebook.to_path_buf(), &cwd)
    } else {
        notebook.to_path_buf()
    };
    Ok(loaded.iter().fold(start, |root, module| {
        widened(root, &import_root(&module.file, search))
    }))
}

/// The folder that holds `root` and `other`; `root` itself where that would be no project's folder.
fn widened(root: PathBuf, other: &Path) -> PathBuf {
    let both = common(&root, other);
    let home = std::env::home_dir().and_then(|home| home.canonicalize().ok());
    if both.parent().is_none() || home.is_some_and(|home| home.starts_with(&both)) {
        root
    } else {
        both
    }
}

/// The folder from which a file is imported: above all packages that it is in.
fn import_root(file: &Path, search: &[PathBuf]) -> PathBuf {
    let mut folder = file.parent().unwrap_or(file);
    while folder.join("__init__.py").is_file() {
        match folder.parent() {
            Some(parent) => folder = parent,
            None => break,
        }
    }
    // Namespace packages have no `__init__.py`; a search folder above tells where they begin.
    if search.iter().any(|entry| entry == folder) {
        return folder.to_path_buf();
    }
    search
        .iter()
        .filter(|entry| folder.starts_with(entry))
        .max_by_key(|entry| entry.components().count())
        .cloned()
        .unwrap_or_else(|| folder.to_path_buf())
}

fn common(a: &Path, b: &Path) -> PathBuf {
    a.components()
        .zip(b.components())
        .take_while(|(a, b)| a == b)
        .map(|(part, _)| part)
        .collect()
}

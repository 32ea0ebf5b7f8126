//! The packages of this machine that an image is installed with, wherever they are named: in
//! requirements, manifests and locks.
//!
//! What they hold is part of what the image holds, and an installer must not take an older build of
//! them from its cache. Both are asked here, so that neither misses one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::hash::folder_of;
use super::requirement::{self, Line};
use super::workspace::{self, Workspace};

/// What a lock of uv calls the sources that lie on this machine and are installed.
const UV_SOURCES: [&str; 3] = ["editable", "directory", "path"];

/// A package that lies on this machine.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LocalPackage {
    /// `None` where only its build would tell.
    pub name: Option<String>,
    /// A folder or an archive.
    pub path: PathBuf,
}

impl LocalPackage {
    /// The project in a folder.
    pub(super) fn at(folder: &Path) -> Self {
        Self {
            name: name_of(folder),
            path: folder.to_path_buf(),
        }
    }

    /// The one that a requirement names, as seen from `base`.
    fn of(requirement: &str, base: &Path) -> Option<Self> {
        let path = requirement::local_path(requirement, base)?;
        let name = requirement::name(requirement).or_else(|| name_of(&path));
        Some(Self { name, path })
    }
}

/// The name that the manifest of a folder gives it.
fn name_of(folder: &Path) -> Option<String> {
    let manifest = workspace::manifest(&folder.join("pyproject.toml"))?;
    workspace::project_name(&manifest).or_else(|| {
        let poetry = manifest.get("tool")?.get("poetry")?;
        poetry.get("name")?.as_str().map(requirement::normalise)
    })
}

/// Those that requirements name, as seen from `base`, and what they are installed with in turn.
pub(super) fn of_requirements<'a>(
    requirements: impl Iterator<Item = &'a str>,
    base: &Path,
) -> Vec<LocalPackage> {
    let named = requirements.filter_map(|text| LocalPackage::of(text, base));
    let mut found: Vec<_> = named.collect();
    let known = real(found.iter().map(|package| package.path.as_path()));
    let behind = found
        .iter()
        .flat_map(|package| in_folder(&package.path, Role::Dependency));
    let behind = with_those_behind(behind.collect(), known);
    found.extend(behind);
    found
}

/// A requirements file and those that it includes, each with its text.
pub(super) fn lists(file: &Path) -> Result<Vec<(PathBuf, String)>, Error> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut waiting = vec![file.to_path_buf()];
    while let Some(file) = waiting.pop() {
        if !seen.insert(file.clone()) {
            continue;
        }
        let text = std::fs::read_to_string(&file).map_err(Error::unreadable(&file))?;
        let folder = folder_of(&file);
        for line in requirement::lines(&text) {
            if let Line::Include(other) = line
                && !other.contains("://")
            {
                waiting.push(folder.join(other));
            }
        }
        found.push((file, text));
    }
    Ok(found)
}

/// Those that a list names itself, and what they are installed with in turn.
pub(super) fn of_list(file: &Path, text: &str) -> Vec<LocalPackage> {
    let requirements = requirement::lines(text).filter_map(|line| match line {
        Line::Requirement(text) => Some(text),
        Line::Include(_) => None,
    });
    of_requirements(requirements, &folder_of(file))
}

/// Those that a project is installed with, beside itself and the other projects of its workspace.
pub(super) fn of_project(
    pyproject: &Path,
    lock: Option<&Path>,
    workspace: Option<&Workspace>,
) -> Vec<LocalPackage> {
    let folder = folder_of(pyproject);
    let mut named = in_manifest(pyproject, Role::Asked);
    let (mut root, mut known) = (folder.as_path(), real([folder.as_path()]));
    if let Some(workspace) = workspace {
        root = workspace.root.as_path();
        let members = workspace.members.iter().map(PathBuf::as_path);
        known.extend(real(members.chain([root])));
        // What the root names holds for all of its projects.
        named.extend(in_folder(root, Role::Asked));
        let needed = workspace.needed_by(pyproject);
        let behind = needed
            .iter()
            .flat_map(|member| in_folder(member, Role::Dependency));
        named.extend(behind);
    }
    named.extend(lock.into_iter().flat_map(|lock| in_lock(lock, root)));
    with_those_behind(named, known)
}

/// The same, and the other projects of its workspace.
pub(super) fn with_siblings(
    pyproject: &Path,
    lock: Option<&Path>,
    workspace: Option<&Workspace>,
) -> Vec<LocalPackage> {
    let mut found = of_project(pyproject, lock, workspace);
    let members = workspace.into_iter().flat_map(|found| &found.members);
    found.extend(members.map(|member| LocalPackage::at(member)));
    found
}

/// Has `uv` build these from what their folders hold now; `asked` is what it is told anyway.
///
/// It keys its build of a folder on the manifest's time stamp and would miss edited code. Where one
/// without a name makes it ask for everything anew, it must not be told to stay off the network.
pub(super) fn refreshed(packages: &[LocalPackage], asked: &[String]) -> Vec<String> {
    const ALL: &str = "--refresh";
    if asked.iter().any(|flag| flag == ALL) {
        return Vec::new(); // it takes that once
    }
    let is_offline = asked.iter().any(|flag| flag == "--offline");
    let mut names = BTreeSet::new();
    for package in packages.iter().filter(|package| package.path.is_dir()) {
        match &package.name {
            Some(name) => _ = names.insert(name),
            None if is_offline => {}
            None => return vec![ALL.to_owned()],
        }
    }
    names
        .into_iter()
        .flat_map(|name| ["--refresh-package".to_owned(), name.clone()])
        .collect()
}

fn real<'a>(paths: impl IntoIterator<Item = &'a Path>) -> BTreeSet<PathBuf> {
    let paths = paths.into_iter();
    paths.filter_map(|path| path.canonicalize().ok()).collect()
}

/// Those of `waiting` that are there and not `known`, and what they are installed with in turn.
fn with_those_behind(
    mut waiting: Vec<LocalPackage>,
    mut known: BTreeSet<PathBuf>,
) -> Vec<LocalPackage> {
    let mut found = Vec::new();
    while let Some(package) = waiting.pop() {
        // One that is missing may not be needed here; if it is, the installer says so.
        let Ok(real) = package.path.canonicalize() else {
            continue;
        };
        if known.insert(real.clone()) {
            waiting.extend(in_folder(&real, Role::Dependency));
            found.push(LocalPackage {
                path: real,
                ..package
            });
        }
    }
    found
}

/// Whose manifest it is.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    /// Of what is to be installed.
    Asked,
    /// Of what that needs. What only those need who work on it is installed for nobody else.
    Dependency,
}

fn in_folder(folder: &Path, role: Role) -> Vec<LocalPackage> {
    in_manifest(&folder.join("pyproject.toml"), role)
}

/// Those that a manifest names: sources of uv, dependencies of Poetry, requirements with an address.
fn in_manifest(pyproject: &Path, role: Role) -> Vec<LocalPackage> {
    let Some(manifest) = workspace::manifest(pyproject) else {
        return Vec::new(); // the installer explains it better
    };
    let folder = folder_of(pyproject);
    let base = folder.as_path();
    let tool = |name: &str| manifest.get("tool").and_then(|tool| tool.get(name));
    let poetry = tool("poetry");
    let of_uv = tool("uv").and_then(|uv| uv.get("sources"));
    let mut tables = vec![of_uv, poetry.and_then(|poetry| poetry.get("dependencies"))];
    if role == Role::Asked {
        let groups = poetry.and_then(|poetry| poetry.get("group")?.as_table());
        let groups = groups.into_iter().flat_map(toml::Table::values);
        tables.extend(groups.map(|group| group.get("dependencies")));
        tables.push(poetry.and_then(|poetry| poetry.get("dev-dependencies")));
    }
    let (requirements, needed) = match role {
        Role::Asked => (workspace::requirements(&manifest), None),
        Role::Dependency => (
            workspace::requirements_of_others(&manifest),
            needed(&manifest),
        ),
    };
    let mut found = Vec::new();
    for table in tables.into_iter().flatten() {
        for (name, entry) in table.as_table().into_iter().flatten() {
            let name = requirement::normalise(name);
            if needed.as_ref().is_none_or(|needed| needed.contains(&name)) {
                found.extend(paths(entry).map(|path| LocalPackage {
                    name: Some(name.clone()),
                    path: base.join(path),
                }));
            }
        }
    }
    let named = requirements.iter();
    found.extend(named.filter_map(|text| LocalPackage::of(text, base)));
    found
}

/// Names of what a dependency is built and installed with; `None` where only its build would tell.
fn needed(manifest: &toml::Table) -> Option<BTreeSet<String>> {
    let listed = |table: &str, list: &str| {
        let list = manifest.get(table).and_then(|table| table.get(list));
        let words = list.and_then(toml::Value::as_array).into_iter().flatten();
        words.filter_map(toml::Value::as_str)
    };
    // Poetry has tables of its own.
    manifest.get("project")?;
    if manifest
        .get("tool")
        .and_then(|tool| tool.get("poetry"))
        .is_some()
        || listed("project", "dynamic").any(|field| field.ends_with("dependencies"))
    {
        return None;
    }
    let mut texts = workspace::requirements_of_others(manifest);
    texts.extend(listed("build-system", "requires").map(str::to_owned));
    let names = texts.iter().filter_map(|text| requirement::name(text));
    Some(names.collect())
}

/// The `path` of an entry, or of each where it is a list of them.
fn paths(entry: &toml::Value) -> impl Iterator<Item = &str> {
    let each = entry
        .as_array()
        .map_or(std::slice::from_ref(entry), Vec::as_slice);
    each.iter().filter_map(|one| one.get("path")?.as_str())
}

/// Those that a lock of uv or Poetry names, as seen from the folder that it is for.
fn in_lock(lock: &Path, base: &Path) -> Vec<LocalPackage> {
    let Some(lock) = workspace::manifest(lock) else {
        return Vec::new(); // the installer explains it better
    };
    let packages = lock.get("package").and_then(toml::Value::as_array);
    packages
        .into_iter()
        .flatten()
        .filter_map(|package| {
            let source = package.get("source")?;
            let path = match source.get("type").and_then(toml::Value::as_str) {
                Some("directory" | "file") => source.get("url"),
                Some(_) | None => UV_SOURCES.iter().find_map(|kind| source.get(*kind)),
            };
            let name = package.get("name").and_then(toml::Value::as_str);
            Some(LocalPackage {
                name: name.map(requirement::normalise),
                path: base.join(path?.as_str()?),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files.
    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for (name, text) in files {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        (dir, root)
    }

    /// Names and folders below `root`, sorted.
    fn told(root: &Path, packages: &[LocalPackage]) -> Vec<String> {
        let mut told: Vec<_> = packages
            .iter()
            .map(|package| {
                let real = package.path.canonicalize().unwrap();
                let place = real.strip_prefix(root).unwrap().display().to_string();
                format!("{} {place}", package.name.as_deref().unwrap_or("?"))
            })
            .collect();
        told.sort();
        told
    }

    #[test]
    fn sources_are_found_as_lists_in_the_root_and_behind_each_other() {
        let (_dir, root) = folder(&[
            (
                "ws/pyproject.toml",
                "[tool.uv.workspace]\nmembers = [\"app\", \"other\"]\n[tool.uv.sources]\nshared = { path = \"../shared\" }\n",
            ),
            (
                "ws/app/pyproject.toml",
                "[project]\nname = \"app\"\n[tool.uv.sources]\nlib = [{ path = \"../../lib\" }]\ngone = { path = \"../../gone\" }\n",
            ),
            ("ws/other/pyproject.toml", "[project]\nname = \"other\"\n"),
            ("shared/setup.py", ""),
            (
                "lib/pyproject.toml",
                "[project]\nname = \"lib\"\ndependencies = [\"deep-one\"]\n[tool.uv.sources]\ndeep_one = { path = \"../deep\" }\nlib = { path = \".\" }\n",
            ),
            ("deep/setup.py", ""),
        ]);
        let app = root.join("ws/app/pyproject.toml");
        let workspace = Workspace::of(&app).unwrap().unwrap();
        let found = of_project(&app, None, Some(&workspace));
        let expected = ["deep-one deep", "lib lib", "shared shared"];
        assert_eq!(told(&root, &found), expected);
    }

    #[test]
    fn what_only_those_need_who_work_on_a_dependency_does_not_count() {
        let (_dir, root) = folder(&[
            ("requirements.txt", "./core\n"),
            (
                "core/pyproject.toml",
                "[project]\nname = \"core\"\ndependencies = [\"low\"]\n\
                 [build-system]\nrequires = [\"maker\"]\n[dependency-groups]\ndev = [\"web\"]\n\
                 [tool.uv.sources]\nlow = { path = \"../low\" }\nmaker = { path = \"../maker\" }\n\
                 web = { path = \"../web\" }\n",
            ),
            (
                "low/pyproject.toml",
                "[tool.poetry]\nname = \"low\"\n[tool.poetry.dependencies]\ndeep = { path = \"../deep\" }\n\
                 [tool.poetry.group.dev.dependencies]\nweb = { path = \"../web\" }\n",
            ),
            ("deep/setup.py", ""),
            ("maker/setup.py", ""),
            ("web/setup.py", ""),
        ]);
        let found = of_list(&root.join("requirements.txt"), "./core\n");
        let expected = ["core core", "deep deep", "low low", "maker maker"];
        assert_eq!(told(&root, &found), expected);
    }

    #[test]
    fn poetry_and_addresses_name_folders_too() {
        let (_dir, root) = folder(&[
            ("one/setup.py", ""),
            ("two/setup.py", ""),
            ("three/setup.py", ""),
        ]);
        let pyproject = root.join("app/pyproject.toml");
        let text = format!(
            "[project]\nname = \"app\"\ndependencies = [\"three @ file://{}\"]\n\
             [tool.poetry.dependencies]\npython = \"^3.10\"\none = {{ path = \"../one\" }}\n\
             [tool.poetry.group.dev.dependencies]\ntwo = {{ path = \"../two\", develop = true }}\n",
            root.join("three").display()
        );
        std::fs::create_dir(root.join("app")).unwrap();
        std::fs::write(&pyproject, text).unwrap();
        let found = of_project(&pyproject, None, None);
        let expected = ["one one", "three three", "two two"];
        assert_eq!(told(&root, &found), expected);
    }

    #[test]
    fn locks_name_what_they_hold_of_this_machine() {
        let (_dir, root) = folder(&[
            ("app/pyproject.toml", "[project]\nname = \"app\"\n"),
            (
                "app/uv.lock",
                "version = 1\n\
                 [[package]]\nname = \"app\"\nsource = { virtual = \".\" }\n\
                 [[package]]\nname = \"six\"\nsource = { registry = \"https://pypi.org/simple\" }\n\
                 [[package]]\nname = \"lib\"\nsource = { directory = \"../lib\" }\n\
                 [[package]]\nname = \"edited\"\nsource = { editable = \"../edited\" }\n\
                 [[package]]\nname = \"wheel\"\nsource = { path = \"../wheel-1-py3-none-any.whl\" }\n",
            ),
            (
                "app/poetry.lock",
                "[[package]]\nname = \"lib\"\n[package.source]\ntype = \"directory\"\nurl = \"../lib\"\n\
                 [[package]]\nname = \"git\"\n[package.source]\ntype = \"git\"\nurl = \"https://h/x\"\n",
            ),
            ("lib/setup.py", ""),
            ("edited/setup.py", ""),
            ("wheel-1-py3-none-any.whl", ""),
        ]);
        let pyproject = root.join("app/pyproject.toml");
        let of = |lock: &str| of_project(&pyproject, Some(&root.join("app").join(lock)), None);
        let found = of("uv.lock");
        let expected = ["edited edited", "lib lib", "wheel wheel-1-py3-none-any.whl"];
        assert_eq!(told(&root, &found), expected);
        assert_eq!(told(&root, &of("poetry.lock")), ["lib lib"]);
        // An archive has a time stamp of its own.
        let words = ["--refresh-package", "edited", "--refresh-package", "lib"];
        assert_eq!(refreshed(&found, &[]), words);
    }

    #[test]
    fn folders_of_lists_are_built_anew_by_name_or_all_at_once() {
        let (_dir, root) = folder(&[
            ("requirements.txt", "six\nlibs/one\n-r more/list.txt\n"),
            ("more/list.txt", "-e ../libs/two\n"),
            ("libs/one/pyproject.toml", "[project]\nname = \"One.Lib\"\n"),
            ("libs/two/setup.py", ""),
        ]);
        let lists = lists(&root.join("requirements.txt")).unwrap();
        let of = |index: usize| of_list(&lists[index].0, &lists[index].1);
        assert_eq!(told(&root, &of(0)), ["one-lib libs/one"]);
        assert_eq!(refreshed(&of(0), &[]), ["--refresh-package", "one-lib"]);
        assert_eq!(told(&root, &of(1)), ["? libs/two"]);
        assert_eq!(refreshed(&of(1), &[]), ["--refresh"]);
        for asked in ["--refresh", "--offline"] {
            assert!(refreshed(&of(1), &[asked.to_owned()]).is_empty());
        }
    }
}

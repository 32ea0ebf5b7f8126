//! The uv workspace that a project belongs to: one lock file, several projects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use globset::GlobBuilder;

use super::error::Error;
use super::hash::folder_of;
use super::requirement;

/// A folder whose `pyproject.toml` has `[tool.uv.workspace]`.
#[derive(Debug, PartialEq)]
pub(super) struct Workspace {
    pub root: PathBuf,
    /// Folders of the other projects, sorted.
    pub members: Vec<PathBuf>,
}

impl Workspace {
    /// The workspace of the project at `pyproject`: its own, or the nearest above that counts it in.
    pub(super) fn of(pyproject: &Path) -> Result<Option<Self>, Error> {
        let folder = folder_of(&std::path::absolute(pyproject).unwrap_or(pyproject.to_path_buf()));
        for root in folder.ancestors() {
            let Some(table) = workspace_table(&root.join("pyproject.toml")) else {
                continue;
            };
            let members = members(root, &table)?;
            if root == folder || members.contains(&folder) {
                let root = root.to_path_buf();
                return Ok(Some(Self { root, members }));
            }
        }
        Ok(None)
    }

    /// The folders of the projects that the one at `pyproject` depends on, directly or not. The
    /// project itself is not among them, and one that cannot be read might depend on all.
    pub(super) fn needed_by(&self, pyproject: &Path) -> Vec<PathBuf> {
        let own = folder_of(&std::path::absolute(pyproject).unwrap_or(pyproject.to_path_buf()));
        let mut known: BTreeMap<String, &PathBuf> = BTreeMap::new();
        for member in self.members.iter().filter(|member| **member != own) {
            let manifest = manifest(&member.join("pyproject.toml"));
            match manifest.as_ref().and_then(project_name) {
                Some(name) => drop(known.insert(name, member)),
                None => {
                    return self
                        .members
                        .iter()
                        .filter(|one| **one != own)
                        .cloned()
                        .collect();
                }
            }
        }
        let mut needed: Vec<PathBuf> = Vec::new();
        let mut waiting = vec![own];
        while let Some(folder) = waiting.pop() {
            for name in manifest(&folder.join("pyproject.toml"))
                .iter()
                .flat_map(requirements)
                .filter_map(|text| requirement::name(&text))
            {
                if let Some(member) = known.remove(&name) {
                    needed.push(member.clone());
                    waiting.push(member.clone());
                }
            }
        }
        needed.sort();
        needed
    }

    /// The lock file of all its projects.
    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("uv.lock")
    }
}

pub(super) fn manifest(pyproject: &Path) -> Option<toml::Table> {
    std::fs::read_to_string(pyproject).ok()?.parse().ok()
}

/// The name that a manifest gives its project.
pub(super) fn project_name(manifest: &toml::Table) -> Option<String> {
    let name = manifest.get("project")?.get("name")?.as_str()?;
    Some(requirement::normalise(name))
}

/// All that a project may have installed: its dependencies, extras and groups.
pub(super) fn requirements(manifest: &toml::Table) -> Vec<String> {
    let tool = manifest.get("tool");
    let groups = [
        manifest.get("dependency-groups"),
        tool.and_then(|tool| tool.get("uv")?.get("dev-dependencies")),
    ];
    let mut found = requirements_of_others(manifest);
    found.extend(texts(&groups));
    found
}

/// What those may have installed who depend on a project: its dependencies and extras.
pub(super) fn requirements_of_others(manifest: &toml::Table) -> Vec<String> {
    let project = manifest.get("project");
    texts(&["dependencies", "optional-dependencies"].map(|list| project?.get(list)))
}

/// All texts in these values, however deep.
fn texts(values: &[Option<&toml::Value>]) -> Vec<String> {
    let mut texts = Vec::new();
    let mut waiting: Vec<&toml::Value> = values.iter().copied().flatten().collect();
    while let Some(value) = waiting.pop() {
        match value {
            toml::Value::String(text) => texts.push(text.clone()),
            toml::Value::Array(values) => waiting.extend(values),
            toml::Value::Table(table) => waiting.extend(table.values()),
            toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_) => {}
        }
    }
    texts
}

/// `None` as well for a manifest that cannot be read: the installer explains it better.
fn workspace_table(pyproject: &Path) -> Option<toml::Table> {
    let manifest = manifest(pyproject)?;
    let workspace = manifest.get("tool")?.get("uv")?.get("workspace")?;
    workspace.as_table().cloned()
}

fn members(root: &Path, table: &toml::Table) -> Result<Vec<PathBuf>, Error> {
    let excluded = patterns(table, "exclude")?;
    let mut members = Vec::new();
    for pattern in patterns(table, "members")? {
        let depth = pattern.glob().glob().split('/').count();
        let any_depth = pattern.glob().glob().contains("**");
        let walk = walkdir::WalkDir::new(root)
            .min_depth(1)
            .max_depth(if any_depth { usize::MAX } else { depth });
        for entry in walk.into_iter().filter_map(Result::ok) {
            let name = entry.path().strip_prefix(root).unwrap_or(entry.path());
            if entry.file_type().is_dir()
                && pattern.is_match(name)
                && !excluded.iter().any(|out| out.is_match(name))
                && entry.path().join("pyproject.toml").is_file()
            {
                members.push(entry.into_path());
            }
        }
    }
    members.sort();
    members.dedup();
    Ok(members)
}

fn patterns(table: &toml::Table, key: &str) -> Result<Vec<globset::GlobMatcher>, Error> {
    let texts = table.get(key).and_then(toml::Value::as_array);
    texts
        .into_iter()
        .flatten()
        .filter_map(toml::Value::as_str)
        .map(|text| {
            GlobBuilder::new(text.trim_start_matches("./").trim_end_matches('/'))
                .literal_separator(true)
                .build()
                .map(|glob| glob.compile_matcher())
                .map_err(|error| Error::Invalid {
                    method: "with_uv_project",
                    problem: format!("`[tool.uv.workspace] {key}` holds `{text}`: {error}"),
                })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_from_the_root_and_from_each_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        let table =
            "[tool.uv.workspace]\nmembers = [\"libs/*\", \"app\"]\nexclude = [\"libs/old\"]\n";
        let top = write("pyproject.toml", table);
        let app = write("app/pyproject.toml", "");
        write("libs/one/pyproject.toml", "");
        let old = write("libs/old/pyproject.toml", "");
        write("libs/none/README", "");
        let expected = Workspace {
            root: root.clone(),
            members: vec![root.join("app"), root.join("libs/one")],
        };
        assert_eq!(Workspace::of(&top).unwrap().as_ref(), Some(&expected));
        assert_eq!(Workspace::of(&app).unwrap().as_ref(), Some(&expected));
        assert_eq!(Workspace::of(&old).unwrap(), None);
        assert_eq!(expected.lock(), root.join("uv.lock"));
    }
}

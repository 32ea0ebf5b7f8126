//! The manifest of pixi that a script's own header (PEP 723) stands for.
//!
//! What `[tool.pixi]` says is taken as it is; what the header says besides becomes what pixi calls
//! the same.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::error::Error;
use super::{requirement, script};

const METHOD: &str = "from_pixi_script";

/// A script as a project of pixi.
#[derive(Debug)]
pub(super) struct Project {
    /// The text of its `pixi.toml`.
    pub manifest: String,
    /// Beside the script, where there is one.
    pub lock: Option<PathBuf>,
    /// Whether it asks for this SDK, which is put in rather than installed.
    pub names_sdk: bool,
}

impl Project {
    /// The project of `script`, for an image of these platforms.
    pub(super) fn of(script: &Path, platforms: &[&str]) -> Result<Self, Error> {
        let invalid = |problem: String| Error::Invalid {
            method: METHOD,
            problem: format!("`{}` {problem}", script.display()),
        };
        let header: Table = script::block(script)?
            .parse()
            .map_err(|error: toml::de::Error| {
                invalid(format!(
                    "has a header that is not valid: {}",
                    error.message()
                ))
            })?;
        let own = header.get("tool").and_then(|tool| tool.get("pixi"));
        let mut manifest = own.and_then(Value::as_table).cloned().unwrap_or_default();
        workspace(&mut manifest, script, platforms).map_err(invalid)?;
        if let Some(python) = header.get("requires-python") {
            let dependencies = table(&mut manifest, "dependencies").map_err(invalid)?;
            dependencies.entry("python").or_insert(python.clone());
        }
        let wanted = header.get("dependencies").and_then(Value::as_array);
        let wanted = wanted.into_iter().flatten().filter_map(Value::as_str);
        let (sdk, others): (Vec<_>, Vec<_>) = wanted.partition(|text| requirement::is_sdk(text));
        for text in others {
            let (name, value) = dependency(text).map_err(invalid)?;
            let packages = table(&mut manifest, "pypi-dependencies").map_err(invalid)?;
            packages.entry(name).or_insert(value);
        }
        let mut lock = script.as_os_str().to_owned();
        lock.push(".pixi.lock");
        Ok(Self {
            manifest: manifest.to_string(),
            lock: Some(PathBuf::from(lock)).filter(|lock| lock.is_file()),
            names_sdk: !sdk.is_empty(),
        })
    }
}

fn table<'a>(manifest: &'a mut Table, name: &str) -> Result<&'a mut Table, String> {
    let value = manifest
        .entry(name)
        .or_insert_with(|| Value::Table(Table::new()));
    value
        .as_table_mut()
        .ok_or_else(|| format!("has a `[tool.pixi] {name}` that is no table"))
}

fn workspace(manifest: &mut Table, script: &Path, platforms: &[&str]) -> Result<(), String> {
    // The older name of the same.
    let place = if manifest.contains_key("project") {
        "project"
    } else {
        "workspace"
    };
    let needed: Vec<Value> = platforms
        .iter()
        .map(|name| pixi_name(name).into())
        .collect();
    let workspace = table(manifest, place)?;
    let name = script.file_stem().unwrap_or_default().to_string_lossy();
    workspace.entry("name").or_insert(name.into_owned().into());
    workspace
        .entry("channels")
        .or_insert(Value::Array(vec!["conda-forge".into()]));
    let declared = workspace
        .entry("platforms")
        .or_insert_with(|| Value::Array(needed.clone()));
    let covers = |name: &Value| declared.as_array().is_some_and(|list| list.contains(name));
    match needed.iter().find(|name| !covers(name)) {
        Some(lacking) => Err(format!(
            "is for the platforms {declared}, and the image is for {lacking} as well"
        )),
        None => Ok(()),
    }
}

/// `linux/amd64` as pixi calls it.
fn pixi_name(platform: &str) -> &'static str {
    match platform {
        "linux/arm64" => "linux-aarch64",
        _ => "linux-64",
    }
}

/// A requirement (PEP 508) as an entry of `[pypi-dependencies]`.
fn dependency(text: &str) -> Result<(String, Value), String> {
    if text.contains(';') {
        return Err(format!(
            "asks for `{text}`, and pixi knows no markers; write it into `[tool.pixi.target]`"
        ));
    }
    let name =
        requirement::name(text).ok_or_else(|| format!("asks for `{text}`, which has no name"))?;
    let rest = text
        .trim()
        .trim_start_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        .trim();
    let (extras, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((extras, rest)) => (extras, rest.trim()),
        None => ("", rest),
    };
    let mut entry = match rest.strip_prefix('@') {
        Some(address) => from_address(address.trim()),
        None if rest.is_empty() => Table::from_iter([("version".to_owned(), Value::from("*"))]),
        None => Table::from_iter([("version".to_owned(), Value::from(rest))]),
    };
    let extras: Vec<Value> = extras
        .split(',')
        .map(str::trim)
        .filter(|extra| !extra.is_empty())
        .map(Value::from)
        .collect();
    if !extras.is_empty() {
        entry.insert("extras".to_owned(), Value::Array(extras));
    }
    Ok((name, Value::Table(entry)))
}

fn from_address(address: &str) -> Table {
    let Some(repository) = address.strip_prefix("git+") else {
        return Table::from_iter([("url".to_owned(), Value::from(address))]);
    };
    // What stands behind an `@` in the path, and not before the host.
    let start = repository.find("://").map_or(0, |at| at + "://".len());
    let path = repository[start..]
        .find('/')
        .map_or(repository.len(), |at| start + at);
    match repository[path..].rsplit_once('@') {
        Some((before, revision)) => Table::from_iter([
            (
                "git".to_owned(),
                Value::from(format!("{}{before}", &repository[..path])),
            ),
            ("rev".to_owned(), Value::from(revision)),
        ]),
        None => Table::from_iter([("git".to_owned(), Value::from(repository))]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(header: &str, platforms: &[&str]) -> Result<Project, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.py");
        let lines = header.trim_end().replace('\n', "\n# ");
        std::fs::write(&path, format!("# /// script\n# {lines}\n# ///\n")).unwrap();
        Project::of(&path, platforms)
    }

    #[test]
    fn a_header_becomes_a_manifest() {
        let header = "requires-python = \">=3.11\"\ndependencies = [\"flyte\", \"six\", \"Own_X[a, b]>=1,<2\", \"y @ git+https://h/y.git@v1\", \"z @ https://h/z.whl\"]\n[tool.pixi.dependencies]\ncuda = \"12\"\n";
        let made = project(header, &["linux/amd64"]).unwrap();
        assert!(made.names_sdk && made.lock.is_none());
        let read: Table = made.manifest.parse().unwrap();
        let expected: Table = "[workspace]\nname = \"train\"\nchannels = [\"conda-forge\"]\nplatforms = [\"linux-64\"]\n[dependencies]\ncuda = \"12\"\npython = \">=3.11\"\n[pypi-dependencies]\nsix = {version = \"*\"}\nown-x = {version = \">=1,<2\", extras = [\"a\", \"b\"]}\ny = {git = \"https://h/y.git\", rev = \"v1\"}\nz = {url = \"https://h/z.whl\"}\n".parse().unwrap();
        assert_eq!(read, expected);
    }

    #[test]
    fn what_pixi_cannot_do_is_refused_by_name() {
        let error = project("dependencies = [\"six; python_version > '3'\"]\n", &[]).unwrap_err();
        assert!(error.to_string().contains("knows no markers"), "{error}");
        let header = "[tool.pixi.workspace]\nplatforms = [\"linux-64\"]\n";
        let error = project(header, &["linux/amd64", "linux/arm64"]).unwrap_err();
        assert!(error.to_string().contains("linux-aarch64"), "{error}");
    }
}

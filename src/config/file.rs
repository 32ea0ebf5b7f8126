//! The YAML configuration file, as written: found, read, and every value of the kind it must be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_norway::Value as Yaml;

use super::keys::{self, Kind};
use super::{Error, Home, Value, git_root};
use crate::error::did_you_mean;

/// The values of a file, by dotted name.
pub(super) type File = BTreeMap<&'static str, Value>;

/// A file as it was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub file: File,
    /// Settings that mean nothing here, by dotted name.
    pub unknown: Vec<String>,
}

/// The first configuration file that exists, in the order that the PyPI SDK searches.
///
/// A file that a variable names is meant, so it need not look like one of ours, or even exist: what
/// is wrong with it is told when it is read.
///
/// One that was found without being named has to be this user's, or root's: a program that it names
/// (`admin.command`) is run, and tokens go to the endpoint that it names. In a folder that others
/// write to, such as `/tmp`, anybody could lay it out for whoever comes by.
pub(super) fn search(home: &Home) -> Result<Option<PathBuf>, Error> {
    let current = std::env::current_dir().unwrap_or_default();
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let near = [
        Some(current.join("config.yaml")),
        Some(current.join(".flyte/config.yaml")),
        git_root(&current).map(|root| root.join(".flyte/config.yaml")),
    ];
    let far = [
        variable("HOME").map(|user| user.join(".union/config.yaml")),
        Some(home.path().join("config.yaml")),
    ];
    let there = |path: &PathBuf| path.is_file() && speaks_of_flyte(path, home);
    if let Some(found) = near.into_iter().flatten().find(there) {
        return trusted(found).map(Some);
    }
    let named = variable("UCTL_CONFIG").or_else(|| variable("FLYTECTL_CONFIG"));
    if named.is_some() {
        return Ok(named);
    }
    let found = far.into_iter().flatten().find(there);
    found.map(trusted).transpose()
}

/// The file, unless somebody else wrote it.
fn trusted(path: PathBuf) -> Result<PathBuf, Error> {
    use std::os::unix::fs::MetadataExt;
    let user = rustix::process::geteuid().as_raw();
    // Whoever became root by `sudo` is still the owner of what is their own.
    let before = std::env::var("SUDO_UID").ok().filter(|_| user == 0);
    let owner = std::fs::metadata(&path).map_or(user, |there| there.uid());
    if owner == user || owner == 0 || before.is_some_and(|uid| uid == owner.to_string()) {
        return Ok(path);
    }
    Err(Error::NotOwned { path, owner })
}

/// A `config.yaml` of some other program in the current folder is not ours, even if it has a section of
/// the same name: `task: detect` and `image: {size: 640}` are of a training. What cannot be told, or is
/// wrong, is ours to complain about only below a folder of ours.
fn speaks_of_flyte(path: &Path, home: &Home) -> bool {
    let ours = path.parent().is_some_and(|folder| {
        let name = folder.file_name().unwrap_or_default();
        folder == home.path() || name == ".flyte" || name == ".union"
    });
    let Ok(text) = std::fs::read_to_string(path) else {
        return ours;
    };
    match serde_norway::from_str::<Yaml>(&text) {
        Ok(value) => keys::SECTIONS
            .iter()
            .filter_map(|section| Some((section, value.get(section)?)))
            .any(|(section, entries)| ours || has_setting(section, entries)),
        Err(_) => ours,
    }
}

/// Whether a section holds a setting of ours, or a slip of one.
fn has_setting(section: &str, entries: &Yaml) -> bool {
    let entries = entries.as_mapping().into_iter().flatten();
    entries
        .filter_map(|(key, _)| key.as_str())
        .any(|key| keys::nearly(&format!("{section}.{key}")).is_some())
}

/// Reads a file in full; whatever cannot be used is an error that names it.
pub(super) fn read(path: &Path) -> Result<Read, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
        path: path.to_path_buf(),
        source,
    })?;
    let value: Yaml = serde_norway::from_str(&text).map_err(|source| Error::Syntax {
        path: path.to_path_buf(),
        source,
    })?;
    let shape = |found: &Yaml, place: &str| Error::Shape {
        path: path.to_path_buf(),
        place: place.to_owned(),
        wanted: "a mapping",
        found: describe(found),
    };
    if value.is_null() {
        return Ok(Read::default());
    }
    let sections = value
        .as_mapping()
        .ok_or_else(|| shape(&value, "the file as a whole"))?;
    let mut read = Read::default();
    for (section, entries) in sections {
        let section = section.as_str().unwrap_or_default();
        if !keys::SECTIONS.contains(&section) {
            foreign(path, section)?;
            continue;
        }
        if entries.is_null() {
            continue; // `task:` with nothing below it
        }
        let entries = entries
            .as_mapping()
            .ok_or_else(|| shape(entries, &format!("`{section}`")))?;
        for (key, value) in entries {
            let dotted = format!("{section}.{}", key.as_str().unwrap_or_default());
            match entry(path, &dotted, value)? {
                Found::Value(name, value) => {
                    read.file.insert(name, value);
                }
                Found::Nothing => {}
                Found::Unknown => read.unknown.push(dotted),
            }
        }
    }
    Ok(read)
}

/// Other programs keep sections of theirs in the same file; one that is nearly ours is a slip.
fn foreign(path: &Path, section: &str) -> Result<(), Error> {
    match did_you_mean(section, keys::SECTIONS) {
        Some(_) => Err(Error::UnknownKey {
            path: path.to_path_buf(),
            key: section.to_owned(),
        }),
        None => Ok(()),
    }
}

/// What a line of the file says.
enum Found {
    Value(&'static str, Value),
    /// A setting without a value.
    Nothing,
    /// A setting of some other program.
    Unknown,
}

/// One setting of the file. The file may be one of `flytectl` or `uctl`, which have more settings;
/// one that is nearly ours is a slip.
fn entry(path: &Path, dotted: &str, yaml: &Yaml) -> Result<Found, Error> {
    let Some(key) = keys::ALL.iter().find(|key| key.name == dotted) else {
        return match keys::nearly(dotted) {
            Some(_) => Err(Error::UnknownKey {
                path: path.to_path_buf(),
                key: dotted.to_owned(),
            }),
            None => Ok(Found::Unknown),
        };
    };
    if yaml.is_null() {
        return Ok(Found::Nothing);
    }
    let value = convert(key.kind, yaml).ok_or_else(|| Error::Shape {
        path: path.to_path_buf(),
        place: format!("`{dotted}`"),
        wanted: key.kind.describe(),
        found: describe(yaml),
    })?;
    Ok(Found::Value(key.name, value))
}

fn convert(kind: Kind, yaml: &Yaml) -> Option<Value> {
    let texts = |list: &Vec<Yaml>| -> Option<Vec<String>> {
        list.iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    match (kind, yaml) {
        (Kind::Text, Yaml::String(text)) => Some(Value::Text(text.clone())),
        (Kind::Switch, Yaml::Bool(on)) => Some(Value::Switch(*on)),
        (Kind::Words | Kind::Names, Yaml::Sequence(list)) => texts(list).map(Value::List),
        (Kind::Words, Yaml::String(text)) => shlex::split(text).map(Value::List),
        (Kind::Names, Yaml::String(text)) => Some(Value::List(super::names(text))),
        (Kind::Table, Yaml::Mapping(table)) => table
            .iter()
            .map(|(name, value)| Some((name.as_str()?.to_owned(), value.as_str()?.to_owned())))
            .collect::<Option<BTreeMap<_, _>>>()
            .map(Value::Table),
        (Kind::Text | Kind::Switch | Kind::Words | Kind::Names | Kind::Table, _) => None,
    }
}

fn describe(yaml: &Yaml) -> &'static str {
    match yaml {
        Yaml::Null => "nothing",
        Yaml::Bool(_) => "true or false (quotation marks make it text)",
        Yaml::Number(_) => "a number (quotation marks make it text)",
        Yaml::String(_) => "text",
        Yaml::Sequence(_) => "a list",
        Yaml::Mapping(_) => "a mapping",
        Yaml::Tagged(_) => "a tagged value",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Diagnostic;

    fn read_text(text: &str) -> Result<File, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, text).unwrap();
        read(&path).map(|read| read.file)
    }

    #[test]
    fn settings_of_other_programs_are_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        let text = "admin:\n  endpoint: dns:///h\n  authorizationHeader: x\n  useAuth: true\n  \
                    maxBackoffDelay: 5s\n  maxRetries: 4\nlogger:\n  level: 4\n";
        std::fs::write(&path, text).unwrap();
        let read = read(&path).unwrap();
        assert_eq!(read.file["admin.endpoint"], Value::Text("dns:///h".into()));
        assert_eq!(
            read.unknown,
            [
                "admin.authorizationHeader",
                "admin.useAuth",
                "admin.maxBackoffDelay",
                "admin.maxRetries"
            ]
        );
    }

    #[test]
    fn reads_what_it_knows_and_names_what_it_does_not() {
        let file = read_text(
            "admin:\n  endpoint: dns:///h.x\n  insecure: true\n  command: get token '--for me'\n  \
             scopes: a, b\ntask:\n  project: p\nimage:\n  image_refs: {default: x:1}\nlogger:\n  level: 4\n",
        )
        .unwrap();
        assert_eq!(file["admin.endpoint"], Value::Text("dns:///h.x".into()));
        assert_eq!(file["admin.insecure"], Value::Switch(true));
        assert_eq!(
            file["admin.command"],
            Value::List(vec!["get".into(), "token".into(), "--for me".into()])
        );
        assert_eq!(
            file["admin.scopes"],
            Value::List(vec!["a".into(), "b".into()])
        );
        assert!(matches!(&file["image.image_refs"], Value::Table(t) if t["default"] == "x:1"));

        for (text, wrong, right) in [
            ("admin:\n  endpont: x\n", "admin.endpont", "admin.endpoint"),
            ("amdin:\n  endpoint: x\n", "amdin", "admin"),
        ] {
            let error = read_text(text).unwrap_err();
            assert!(error.to_string().contains(wrong));
            assert_eq!(error.hints(), [format!("did you mean `{right}`?")]);
        }
    }

    #[test]
    fn a_value_of_another_kind_is_named() {
        for (text, wanted) in [
            ("- admin\n", "the file as a whole is a list"),
            ("admin: https://h\n", "`admin` is text; a mapping is wanted"),
            ("task:\n  project: 7\n", "`task.project` is a number"),
            ("admin:\n  insecure: \"no\"\n", "`admin.insecure` is text"),
            (
                "image:\n  image_refs: [x]\n",
                "`image.image_refs` is a list",
            ),
        ] {
            let error = read_text(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(read_text("").unwrap().is_empty());
        assert!(
            read_text("task:\nadmin:\n  endpoint:\n")
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn another_programs_file_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        let mut own = folder.path().join(".flyte");
        std::fs::create_dir(&own).unwrap();
        own.push("config.yaml");
        for (text, is_flytes) in [
            ("server:\n  port: 1\n", false),
            ("task: detect\nimage: 640\nlocal: true\n", false),
            ("image:\n  size: 640\ntask:\nlocal: [1]\n", false),
            ("task: detect\nadmin:\n  endpoint: dns:///h\n", true),
            ("admin:\n  endpont: dns:///h\n", true),
        ] {
            std::fs::write(&path, text).unwrap();
            let home = Home::at("/elsewhere".into());
            assert_eq!(speaks_of_flyte(&path, &home), is_flytes, "{text}");
        }
        // What lies in a folder of ours is complained about.
        let home = Home::at(folder.path().to_path_buf());
        for path in [path, own] {
            std::fs::write(&path, "task: detect\n").unwrap();
            assert!(speaks_of_flyte(&path, &home));
        }
    }
}

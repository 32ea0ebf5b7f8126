//! The YAML configuration file, as written.

use std::path::{Path, PathBuf};

use serde_norway::Value;

use super::{Error, Home, git_root};

/// Settings that the file may hold, dotted.
pub(super) const KEYS: &[&str] = &[
    "admin.endpoint",
    "admin.insecure",
    "admin.insecureSkipVerify",
    "admin.caCertFilePath",
    "admin.authType",
    "admin.command",
    "admin.proxyCommand",
    "admin.clientId",
    "admin.clientSecretLocation",
    "admin.clientSecretEnvVar",
    "admin.scopes",
    "admin.httpProxyURL",
    "admin.disableKeyring",
    "console.endpoint",
    "task.org",
    "task.project",
    "task.domain",
    "image.builder",
    "image.registry",
    "image.image_refs",
    "local.persistence",
    "local.tracked",
    "local.tracked_strict",
];

/// What this project reads of the file.
#[derive(Debug, Default)]
pub(super) struct File {
    pub endpoint: Option<String>,
    pub insecure: Option<bool>,
    pub org: Option<String>,
    pub project: Option<String>,
    pub domain: Option<String>,
}

/// The first configuration file that exists, in the order that the PyPI SDK searches.
pub(super) fn search(home: &Home) -> Option<PathBuf> {
    let current = std::env::current_dir().unwrap_or_default();
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    [
        Some(current.join("config.yaml")),
        Some(current.join(".flyte/config.yaml")),
        git_root(&current).map(|root| root.join(".flyte/config.yaml")),
        variable("UCTL_CONFIG"),
        variable("FLYTECTL_CONFIG"),
        variable("HOME").map(|user| user.join(".union/config.yaml")),
        Some(home.path().join("config.yaml")),
    ]
    .into_iter()
    .flatten()
    .find(|path| path.is_file() && speaks_of_flyte(path))
}

/// A `config.yaml` of some other program in the current folder is not ours.
fn speaks_of_flyte(path: &Path) -> bool {
    std::fs::read_to_string(path)
        .ok()
        .and_then(|text| serde_norway::from_str::<Value>(&text).ok())
        .is_some_and(|value| {
            ["admin", "task", "image", "local", "console"]
                .iter()
                .any(|section| value.get(section).is_some_and(Value::is_mapping))
        })
}

pub(super) fn read(path: &Path) -> Result<File, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
        path: path.to_path_buf(),
        source,
    })?;
    let value: Value = serde_norway::from_str(&text).map_err(|source| Error::Syntax {
        path: path.to_path_buf(),
        source,
    })?;
    check_keys(path, &value)?;
    let text = |section: &str, key: &str| {
        value
            .get(section)
            .and_then(|section| section.get(key))
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    Ok(File {
        endpoint: text("admin", "endpoint"),
        insecure: value
            .get("admin")
            .and_then(|admin| admin.get("insecure"))
            .and_then(Value::as_bool),
        org: text("task", "org"),
        project: text("task", "project"),
        domain: text("task", "domain"),
    })
}

/// A misspelt key would otherwise be ignored in silence.
fn check_keys(path: &Path, value: &Value) -> Result<(), Error> {
    let Some(sections) = value.as_mapping() else {
        return Ok(());
    };
    for (section, entries) in sections {
        let section = section.as_str().unwrap_or_default();
        let known_section = KEYS
            .iter()
            .any(|key| key.split('.').next() == Some(section));
        let Some(entries) = entries.as_mapping().filter(|_| known_section) else {
            continue;
        };
        for key in entries.keys() {
            let dotted = format!("{section}.{}", key.as_str().unwrap_or_default());
            if !KEYS.contains(&dotted.as_str()) {
                return Err(Error::UnknownKey {
                    path: path.to_path_buf(),
                    key: dotted,
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Diagnostic;

    #[test]
    fn reads_what_it_knows_and_names_what_it_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(
            &path,
            "admin:\n  endpoint: dns:///h.x\n  insecure: true\ntask:\n  project: p\n",
        )
        .unwrap();
        let file = read(&path).unwrap();
        assert_eq!(file.endpoint.as_deref(), Some("dns:///h.x"));
        assert_eq!(file.insecure, Some(true));
        assert_eq!(file.project.as_deref(), Some("p"));

        std::fs::write(&path, "admin:\n  endpont: x\n").unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().contains("admin.endpont"));
        assert_eq!(error.hints(), ["did you mean `admin.endpoint`?"]);
    }

    #[test]
    fn another_programs_file_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, "server:\n  port: 1\n").unwrap();
        assert!(!speaks_of_flyte(&path));
    }
}

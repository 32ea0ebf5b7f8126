//! A configuration file for those who have none.

use std::path::Path;

use serde_norway::{Mapping, Value as Yaml};

use super::{Error, Given, Value, file, keys, normalise};

/// Writes what is given to `path`, as a file that is read back to the same settings.
pub fn write(path: &Path, given: &Given, replace: bool) -> Result<(), Error> {
    if path.exists() && !replace {
        return Err(Error::Exists {
            path: path.to_owned(),
        });
    }
    if let Some(endpoint) = &given.endpoint {
        normalise(endpoint, false)?;
    }
    let text = |value: &Option<String>| value.clone().map(Value::Text);
    let values = [
        (keys::ENDPOINT, text(&given.endpoint)),
        (keys::INSECURE, given.insecure.map(Value::Switch)),
        (keys::AUTH_TYPE, text(&given.auth_type)),
        (keys::CA_FILE, text(&given.ca_file)),
        (keys::ORG, text(&given.org)),
        (keys::PROJECT, text(&given.project)),
        (keys::DOMAIN, text(&given.domain)),
        (keys::BUILDER, text(&given.image_builder)),
        (keys::REGISTRY, text(&given.image_registry)),
    ];
    let mut sections = Mapping::new();
    for (key, value) in values {
        let (Some((section, name)), Some(value)) = (key.name.split_once('.'), value) else {
            continue;
        };
        let yaml = match value {
            Value::Switch(on) => Yaml::Bool(on),
            other => Yaml::String(other.to_string()),
        };
        let entries = sections
            .entry(Yaml::String(section.to_owned()))
            .or_insert_with(|| Yaml::Mapping(Mapping::new()));
        if let Yaml::Mapping(entries) = entries {
            entries.insert(Yaml::String(name.to_owned()), yaml);
        }
    }
    let text = serde_norway::to_string(&sections).map_err(|source| Error::Syntax {
        path: path.to_owned(),
        source,
    })?;
    let unwritable = |source| Error::Unwritable {
        path: path.to_owned(),
        source,
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(unwritable)?;
    }
    std::fs::write(path, text).map_err(unwritable)?;
    file::read(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Endpoint, Settings};

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".flyte/config.yaml");
        let given = Given {
            endpoint: Some("localhost:30080".into()),
            insecure: Some(true),
            // Text that YAML would take for something else.
            project: Some("007".into()),
            domain: Some("no".into()),
            ..Given::default()
        };
        write(&path, &given, false).unwrap();
        let settings = Settings::resolve(&Given {
            config_path: Some(path.clone()),
            home: Some(folder.path().to_owned()),
            ..Given::default()
        })
        .unwrap();
        assert_eq!(
            settings.endpoint,
            Endpoint::Remote("http://localhost:30080".into())
        );
        assert_eq!(
            (settings.project.as_str(), settings.domain.as_str()),
            ("007", "no")
        );
        assert!(matches!(
            write(&path, &given, false),
            Err(Error::Exists { .. })
        ));
        write(&path, &given, true).unwrap();
    }
}

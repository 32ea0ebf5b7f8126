//! The values of secrets that an image mounts while it is built: found before the build begins,
//! handed to the engine over its session or to an installer as a variable, and in nobody's log.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::error::Error;
use super::hash::secret_env_var;
use crate::error::Diagnostic;
use crate::spec::SecretRef;

/// Where machines that are given secrets as files keep them.
const FOLDER: &str = "/etc/secrets";
/// Shorter values stand in too many lines by chance.
const SHORTEST_HIDDEN: usize = 4;

/// Values by the name under which a build knows them.
#[derive(Clone, Default)]
pub(super) struct Secrets {
    values: Arc<BTreeMap<String, Zeroizing<Vec<u8>>>>,
    /// More that no line may hold, such as the password in an address.
    hidden: Vec<Zeroizing<String>>,
}

impl Secrets {
    /// One that a test knows.
    #[cfg(test)]
    pub(super) fn of(name: &str, value: &str) -> Self {
        let value = Zeroizing::new(value.as_bytes().to_vec());
        Self {
            values: Arc::new(BTreeMap::from([(name.to_owned(), value)])),
            hidden: Vec::new(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.values.get(name).map(|value| value.as_slice())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let values = self.values.iter();
        values.map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// Adds the values of others.
    pub(super) fn add(&mut self, others: &Self) {
        let values = Arc::make_mut(&mut self.values);
        for (name, value) in others.values.iter() {
            values.insert(name.clone(), value.clone());
        }
        self.hidden.extend(others.hidden.iter().cloned());
    }

    /// Adds a value of our own making.
    pub(super) fn insert(&mut self, name: &str, value: &str) {
        let value = Zeroizing::new(value.as_bytes().to_vec());
        Arc::make_mut(&mut self.values).insert(name.to_owned(), value);
    }

    /// Keeps a value out of lines that is no secret of its own.
    pub(super) fn hide_too(&mut self, value: &str) {
        self.hidden.push(Zeroizing::new(value.to_owned()));
    }

    /// Those that a step asks for.
    pub(super) fn only(&self, wanted: &[SecretRef]) -> Self {
        let names: Vec<String> = wanted.iter().map(secret_env_var).collect();
        let values = self.values.iter();
        let values = values.filter(|(name, _)| names.contains(name));
        Self {
            values: Arc::new(
                values
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
            ),
            hidden: Vec::new(),
        }
    }

    /// As text; a line break at the end of a file is not part of the value.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let value = String::from_utf8_lossy(self.get(name)?);
        Some(value.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The line, with every secret in it made unreadable.
    pub(super) fn hide(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for value in self.values.values() {
            let value = String::from_utf8_lossy(value);
            for part in value.lines().filter(|part| part.len() >= SHORTEST_HIDDEN) {
                line = line.replace(part, "***");
            }
        }
        let hidden = self.hidden.iter();
        for part in hidden.filter(|part| part.len() >= SHORTEST_HIDDEN) {
            line = line.replace(part.as_str(), "***");
        }
        line
    }

    /// The values of all that `wanted` names; the first that is nowhere is an error.
    pub(super) fn find(wanted: &[(&'static str, SecretRef)]) -> Result<Self, Error> {
        let lookup = |name: &str| std::env::var(name).ok();
        Self::find_in(wanted, lookup, Path::new(FOLDER))
    }

    /// The values of those that are somewhere, and what to say of the others: an installer explains
    /// best what it may not do without them.
    pub(super) fn find_for_installers(
        wanted: &[(&'static str, SecretRef)],
    ) -> Result<(Self, Vec<String>), Error> {
        let mut found = Self::default();
        let mut notes = Vec::new();
        for one in wanted {
            match Self::find(std::slice::from_ref(one)) {
                Ok(secret) => found.add(&secret),
                Err(error @ Error::SecretMissing { .. }) => {
                    let way = error.hints().join("; ");
                    notes.push(format!("warning: {error}; {way}"));
                }
                Err(error) => return Err(error),
            }
        }
        notes.dedup();
        Ok((found, notes))
    }

    fn find_in(
        wanted: &[(&'static str, SecretRef)],
        variable: impl Fn(&str) -> Option<String>,
        folder: &Path,
    ) -> Result<Self, Error> {
        let mut values = BTreeMap::new();
        for (method, secret) in wanted {
            let mut names = vec![own_name(secret), secret_env_var(secret)];
            names.dedup();
            let file = folder.join(file_name(secret));
            let value = names
                .iter()
                .find_map(|name| variable(name))
                .map(String::into_bytes);
            let value = match value {
                Some(value) => Some(value),
                None => read(&file)?,
            };
            let Some(value) = value else {
                return Err(Error::SecretMissing {
                    method,
                    key: secret.key.clone(),
                    variable: names.swap_remove(0),
                    file,
                });
            };
            values.insert(secret_env_var(secret), Zeroizing::new(value));
        }
        Ok(Self {
            values: Arc::new(values),
            hidden: Vec::new(),
        })
    }
}

/// What the file holds; one that is there and may not be read is an error, and no missing value.
fn read(file: &Path) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::read(file) {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(Error::unreadable(file)(error)),
    }
}

/// The variable in which the user's shell holds it, whatever it is to be called in the build.
fn own_name(secret: &SecretRef) -> String {
    secret_env_var(&SecretRef {
        env_var: None,
        ..secret.clone()
    })
}

fn file_name(secret: &SecretRef) -> String {
    match &secret.group {
        Some(group) => format!("{group}_{}", secret.key),
        None => secret.key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn secret(key: &str, env_var: Option<&str>) -> (&'static str, SecretRef) {
        let secret = SecretRef {
            key: key.into(),
            group: Some("team".into()),
            mount: None,
            env_var: env_var.map(str::to_owned),
        };
        ("with_commands", secret)
    }

    #[test]
    fn values_come_from_variables_then_from_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("team_from-file"), "two").unwrap();
        let variable = |name: &str| (name == "TEAM_MY_KEY").then(|| "one".to_owned());
        let wanted = [secret("my-key", Some("TOKEN")), secret("from-file", None)];
        let found = Secrets::find_in(&wanted, variable, folder.path()).unwrap();
        assert_eq!(found.get("TOKEN"), Some(&b"one"[..]));
        assert_eq!(found.get("TEAM_FROM_FILE"), Some(&b"two"[..]));
        assert_eq!(found.get("MY_KEY"), None);
    }

    #[test]
    fn a_secret_that_is_nowhere_is_named_with_its_places() {
        let error = Secrets::find_in(&[secret("k", None)], |_| None, Path::new("/nowhere"));
        let error = error.err().unwrap();
        assert_eq!(error.code(), Code::ImageInvalid);
        assert!(error.to_string().contains("`k`"), "{error}");
        let hint = error.hints().join(" ");
        assert!(
            hint.contains("TEAM_K") && hint.contains("/nowhere/team_k"),
            "{hint}"
        );
    }

    #[test]
    fn a_file_that_may_not_be_read_is_no_missing_value() {
        let folder = tempfile::tempdir().unwrap();
        // A folder cannot be read as a file, whoever asks; a mode would not stop root.
        std::fs::create_dir(folder.path().join("team_k")).unwrap();
        let error = Secrets::find_in(&[secret("k", None)], |_| None, folder.path());
        let error = error.err().unwrap();
        assert!(error.to_string().contains("cannot read `"), "{error}");
    }

    #[test]
    fn a_step_gets_its_own_alone() {
        let mut all = Secrets::of("ONE", "1");
        all.insert("TEAM_K", "two\n");
        let only = all.only(&[secret("k", None).1]);
        let names: Vec<_> = only.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["TEAM_K"]);
        assert_eq!(only.text("TEAM_K").as_deref(), Some("two"));
    }

    #[test]
    fn values_are_hidden_in_lines() {
        let variable = |_: &str| Some("s3cret-value\nx".to_owned());
        let found = Secrets::find_in(&[secret("k", None)], variable, Path::new("/")).unwrap();
        assert_eq!(found.hide("token=s3cret-value x"), "token=*** x");
    }
}

//! Where each value comes from: an argument, a variable or the file, in this order.
//!
//! Whatever is taken is written down, so that `flyte get config` tells what is in force and why.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::Error;
use super::file::File;
use super::keys::{Key, Kind};

/// A value of any kind, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Switch(bool),
    List(Vec<String>),
    Table(BTreeMap<String, String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Switch(on) => write!(f, "{on}"),
            Self::List(words) => f.write_str(&words.join(" ")),
            Self::Table(table) => {
                let pairs: Vec<String> = table
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                f.write_str(&pairs.join(" "))
            }
        }
    }
}

/// Who said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An argument of `init` or an option of the command line.
    Argument,
    Variable(String),
    File(PathBuf),
    ApiKey,
    /// It follows from the endpoint.
    Endpoint,
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument => f.write_str("argument"),
            Self::Variable(name) => write!(f, "${name}"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::ApiKey => f.write_str("API key"),
            Self::Endpoint => f.write_str("endpoint"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One setting in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: &'static str,
    /// Without what must not be seen.
    pub value: String,
    pub origin: Origin,
}

/// What is looked at, and what was found.
pub(super) struct Sources<'a> {
    file: &'a File,
    path: Option<PathBuf>,
    entries: Vec<Entry>,
}

impl<'a> Sources<'a> {
    pub fn new(file: &'a File, path: Option<PathBuf>) -> Self {
        Self {
            file,
            path,
            entries: Vec::new(),
        }
    }

    /// What was taken, in the order of asking.
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// Writes down a value that comes from elsewhere.
    pub fn note(&mut self, key: &'static str, value: impl Into<String>, origin: Origin) {
        self.entries.push(Entry {
            key,
            value: value.into(),
            origin,
        });
    }

    pub fn text(&mut self, key: Key, given: Option<&String>) -> Result<Option<String>, Error> {
        let given = given.map(|text| Value::Text(text.clone()));
        let text = match self.take(key, given)? {
            Some(Value::Text(text)) => Some(text),
            Some(Value::Switch(_) | Value::List(_) | Value::Table(_)) | None => None,
        };
        Ok(text.filter(|text| !text.is_empty()))
    }

    pub fn switch(&mut self, key: Key, given: Option<bool>) -> Result<Option<bool>, Error> {
        Ok(match self.take(key, given.map(Value::Switch))? {
            Some(Value::Switch(on)) => Some(on),
            Some(Value::Text(_) | Value::List(_) | Value::Table(_)) | None => None,
        })
    }

    pub fn list(&mut self, key: Key, given: &[String]) -> Result<Vec<String>, Error> {
        let given = (!given.is_empty()).then(|| Value::List(given.to_vec()));
        Ok(match self.take(key, given)? {
            Some(Value::List(list)) => list,
            Some(Value::Text(_) | Value::Switch(_) | Value::Table(_)) | None => Vec::new(),
        })
    }

    /// What is given adds to what is written, name by name.
    pub fn table(
        &mut self,
        key: Key,
        given: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Error> {
        let mut table = match self.take(key, None)? {
            Some(Value::Table(table)) => table,
            Some(Value::Text(_) | Value::Switch(_) | Value::List(_)) | None => BTreeMap::new(),
        };
        if !given.is_empty() {
            table.extend(given.clone());
            let value = Value::Table(given.clone()).to_string();
            self.note(key.name, value, Origin::Argument);
        }
        Ok(table)
    }

    fn take(&mut self, key: Key, given: Option<Value>) -> Result<Option<Value>, Error> {
        let (value, origin) = if let Some(value) = given {
            (value, Origin::Argument)
        } else if let Some((variable, value)) = from_variables(key)? {
            (value, Origin::Variable(variable))
        } else if let Some(value) = self.file.get(key.name) {
            let path = self.path.clone().unwrap_or_default();
            (value.clone(), Origin::File(path))
        } else {
            return Ok(None);
        };
        self.note(key.name, without_password(&value.to_string()), origin);
        Ok(Some(value))
    }
}

/// A text without the password that a URL in it may hold.
fn without_password(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(mut url) if url.password().is_some() => {
            // It has a host, so both are possible.
            let _ = url.set_password(Some("…"));
            url.to_string().replace("%E2%80%A6", "…")
        }
        Ok(_) | Err(_) => text.to_owned(),
    }
}

/// What the variables of a setting say. One that is set to nothing says nothing.
fn from_variables(key: Key) -> Result<Option<(String, Value)>, Error> {
    for variable in key.variables() {
        let Ok(text) = std::env::var(&variable) else {
            continue;
        };
        if text.trim().is_empty() {
            continue;
        }
        let value = parse(key.kind, &text).ok_or_else(|| Error::Variable {
            variable: variable.clone(),
            value: text,
            wanted: key.kind.describe(),
        })?;
        return Ok(Some((variable, value)));
    }
    Ok(None)
}

fn parse(kind: Kind, text: &str) -> Option<Value> {
    let json = || text.trim_start().starts_with(['[', '{']);
    match kind {
        Kind::Text => Some(Value::Text(text.to_owned())),
        Kind::Switch => match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "t" | "yes" | "on" => Some(Value::Switch(true)),
            "0" | "false" | "f" | "no" | "off" => Some(Value::Switch(false)),
            _ => None,
        },
        Kind::Words | Kind::Names if json() => serde_json::from_str(text).ok().map(Value::List),
        Kind::Words => shlex::split(text).map(Value::List),
        Kind::Names => Some(Value::List(super::names(text))),
        Kind::Table if json() => serde_json::from_str(text).ok().map(Value::Table),
        Kind::Table => super::names(text)
            .iter()
            .map(|pair| {
                let (name, value) = pair.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect::<Option<BTreeMap<_, _>>>()
            .map(Value::Table),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_not_shown() {
        assert_eq!(
            without_password("http://me:hunter2@proxy:3128"),
            "http://me:…@proxy:3128/"
        );
        assert_eq!(without_password("localhost:8090"), "localhost:8090");
    }

    #[test]
    fn variables_are_read_by_kind() {
        let list = |words: &[&str]| {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            Some(Value::List(words))
        };
        assert_eq!(parse(Kind::Switch, "False"), Some(Value::Switch(false)));
        assert_eq!(parse(Kind::Switch, "perhaps"), None);
        assert_eq!(parse(Kind::Words, "a 'b c'"), list(&["a", "b c"]));
        assert_eq!(parse(Kind::Words, r#"["a", "b c"]"#), list(&["a", "b c"]));
        assert_eq!(parse(Kind::Words, "a 'b"), None);
        assert_eq!(parse(Kind::Names, "a, b  c"), list(&["a", "b", "c"]));
        assert!(matches!(parse(Kind::Table, "d=x:1"), Some(Value::Table(t)) if t["d"] == "x:1"));
        assert_eq!(parse(Kind::Table, "d"), None);
    }
}

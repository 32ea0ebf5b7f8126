//! What is different between two lists of files, or between two declarations, in words.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde_json::Value;

use crate::bundle::FileList;
use crate::serve::Request;

/// Names that are told one by one.
const NAMED: usize = 3;

/// What a roll is made for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// Fields of declarations, such as ``env_vars of `web` ``.
    pub declared: BTreeSet<String>,
    pub changed: Vec<String>,
    pub added: Vec<String>,
    pub removed: Vec<String>,
}

impl Change {
    /// From one list of files to a later one; both are sorted by name.
    pub fn between(old: &FileList, new: &FileList) -> Self {
        let mut change = Self::default();
        let (mut before, mut after) =
            (old.files().iter().peekable(), new.files().iter().peekable());
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => return change,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.name.cmp(&new.name),
            };
            let old = order.is_le().then(|| before.next()).flatten();
            let new = order.is_ge().then(|| after.next()).flatten();
            match (old, new) {
                (Some(old), Some(new)) if old != new => change.changed.push(new.name.to_string()),
                (None, Some(new)) => change.added.push(new.name.to_string()),
                (Some(old), None) => change.removed.push(old.name.to_string()),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
    }

    /// Which fields of which declarations two requests differ in.
    pub fn of_declarations(old: &Request, new: &Request) -> BTreeSet<String> {
        let mut fields = differing(&value(&old.options), &value(&new.options));
        let apps = |request: &Request| -> BTreeSet<String> {
            request.apps.iter().map(|app| app.name.clone()).collect()
        };
        for name in apps(old).union(&apps(new)) {
            let find = |request: &Request| {
                let app = request.apps.iter().find(|app| app.name == *name);
                app.map_or(Value::Null, value)
            };
            for field in differing(&find(old), &find(new)) {
                fields.insert(format!("{field} of `{name}`"));
            }
        }
        fields
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether files went and nothing else happened.
    pub fn only_removes(&self) -> bool {
        self.declared.is_empty() && self.changed.is_empty() && self.added.is_empty()
    }

    /// `changed app.py, words.py; added x.py`, with at most three names.
    pub fn describe(&self) -> String {
        let declared: Vec<String> = self.declared.iter().cloned().collect();
        let all = [
            ("changed", &declared),
            ("changed", &self.changed),
            ("added", &self.added),
            ("removed", &self.removed),
        ];
        let mut room = NAMED;
        let mut parts: Vec<(&str, Vec<&str>)> = Vec::new();
        for (verb, names) in all {
            let shown: Vec<&str> = names.iter().take(room).map(String::as_str).collect();
            room -= shown.len();
            match parts.last_mut() {
                _ if shown.is_empty() => {}
                Some((last, known)) if *last == verb => known.extend(shown),
                Some(_) | None => parts.push((verb, shown)),
            }
        }
        let told: Vec<String> = parts
            .iter()
            .map(|(verb, names)| format!("{verb} {}", names.join(", ")))
            .collect();
        let total: usize = all.iter().map(|(_, names)| names.len()).sum();
        let rest = match total - (NAMED - room) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        told.join("; ") + &rest
    }
}

fn value(of: &impl serde::Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

/// The keys whose values differ; all of them where one side is no object.
fn differing(old: &Value, new: &Value) -> BTreeSet<String> {
    let keys = [old, new].into_iter().filter_map(Value::as_object);
    keys.flat_map(|object| object.keys())
        .filter(|key| old.get(*key) != new.get(*key))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn few_names_are_told_and_many_are_counted() {
        let mut change = Change {
            changed: names(&["app.py", "helper/words.py"]),
            added: names(&["x.py"]),
            ..Change::default()
        };
        assert_eq!(
            change.describe(),
            "changed app.py, helper/words.py; added x.py"
        );
        change.removed = names(&["a", "b"]);
        assert_eq!(
            change.describe(),
            "changed app.py, helper/words.py; added x.py and 2 more"
        );
        change.declared = BTreeSet::from(["env_vars of `web`".to_owned()]);
        assert_eq!(
            change.describe(),
            "changed env_vars of `web`, app.py, helper/words.py and 3 more"
        );
    }

    #[test]
    fn lists_are_compared_by_name_and_state() {
        let folder = tempfile::tempdir().unwrap();
        let list = |include: &[&str]| {
            let pattern = |pattern: &&str| crate::bundle::Include {
                pattern: (*pattern).to_owned(),
                base: folder.path().to_path_buf(),
            };
            crate::bundle::choose(&crate::bundle::Selection {
                root: folder.path().to_path_buf(),
                style: crate::spec::CopyStyle::None,
                modules: Vec::new(),
                installed: Vec::new(),
                source_roots: Vec::new(),
                include: include.iter().map(pattern).collect(),
            })
            .unwrap()
        };
        for name in ["a", "b", "c", "d"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let old = list(&["a", "b", "d"]);
        std::fs::write(folder.path().join("b"), "longer").unwrap();
        let change = Change::between(&old, &list(&["b", "c", "d"]));
        assert_eq!(change.changed, ["b"]);
        assert_eq!(change.added, ["c"]);
        assert_eq!(change.removed, ["a"]);
        assert!(Change::between(&old, &old).is_empty());
    }
}

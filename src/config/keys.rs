//! The settings there are: their names, their kinds and the variables that override them.

/// What a setting's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Switch,
    /// Words of a command line.
    Words,
    /// Names, separated by commas or blanks where they are one text.
    Names,
    /// Names and what they stand for.
    Table,
}

impl Kind {
    /// For messages.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Switch => "true or false",
            Self::Words => "a list of words",
            Self::Names => "a list of names",
            Self::Table => "a mapping of names to texts",
        }
    }
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// Dotted, as in the file.
    pub name: &'static str,
    pub kind: Kind,
    /// Looked at before `FLYTE_` and the name in capitals.
    pub alias: Option<&'static str>,
}

impl Key {
    /// The variables that override it, the first one wins.
    pub fn variables(&self) -> Vec<String> {
        let own = format!("FLYTE_{}", self.name.to_uppercase().replace('.', "_"));
        self.alias
            .map(str::to_owned)
            .into_iter()
            .chain([own])
            .collect()
    }
}

const fn key(name: &'static str, kind: Kind) -> Key {
    Key {
        name,
        kind,
        alias: None,
    }
}

const fn aliased(name: &'static str, kind: Kind, alias: &'static str) -> Key {
    Key {
        name,
        kind,
        alias: Some(alias),
    }
}

pub(super) const ENDPOINT: Key = key("admin.endpoint", Kind::Text);
pub(super) const INSECURE: Key = key("admin.insecure", Kind::Switch);
pub(super) const SKIP_VERIFY: Key = key("admin.insecureSkipVerify", Kind::Switch);
pub(super) const CA_FILE: Key = key("admin.caCertFilePath", Kind::Text);
pub(super) const AUTH_TYPE: Key = aliased("admin.authType", Kind::Text, "FLYTE_AUTH_TYPE");
pub(super) const COMMAND: Key = aliased("admin.command", Kind::Words, "FLYTE_AUTH_COMMAND");
pub(super) const PROXY_COMMAND: Key = aliased(
    "admin.proxyCommand",
    Kind::Words,
    "FLYTE_AUTH_PROXY_COMMAND",
);
pub(super) const CLIENT_ID: Key = key("admin.clientId", Kind::Text);
pub(super) const SECRET_FILE: Key = key("admin.clientSecretLocation", Kind::Text);
pub(super) const SECRET_VARIABLE: Key = key("admin.clientSecretEnvVar", Kind::Text);
pub(super) const SCOPES: Key = key("admin.scopes", Kind::Names);
pub(super) const HTTP_PROXY: Key = key("admin.httpProxyURL", Kind::Text);
pub(super) const DISABLE_KEYRING: Key = key("admin.disableKeyring", Kind::Switch);
pub(super) const CONSOLE: Key = key("console.endpoint", Kind::Text);
pub(super) const ORG: Key = key("task.org", Kind::Text);
pub(super) const PROJECT: Key = key("task.project", Kind::Text);
pub(super) const DOMAIN: Key = key("task.domain", Kind::Text);
pub(super) const BUILDER: Key = key("image.builder", Kind::Text);
pub(super) const REGISTRY: Key = key("image.registry", Kind::Text);
pub(super) const IMAGE_REFS: Key = key("image.image_refs", Kind::Table);
pub(super) const BASE: Key = key("image.base", Kind::Text);
pub(super) const COMPRESSION: Key = key("image.compression", Kind::Text);
pub(super) const PRUNE_SIZE: Key = key("local.prune_max_size", Kind::Text);
pub(super) const PRUNE_DAYS: Key = key("local.prune_unused_days", Kind::Text);

/// All of them, in the order in which they are shown. The last three concern tasks: they may stand
/// in a file and mean nothing here.
pub(super) const ALL: [Key; 27] = [
    ENDPOINT,
    INSECURE,
    SKIP_VERIFY,
    CA_FILE,
    AUTH_TYPE,
    COMMAND,
    PROXY_COMMAND,
    CLIENT_ID,
    SECRET_FILE,
    SECRET_VARIABLE,
    SCOPES,
    HTTP_PROXY,
    DISABLE_KEYRING,
    CONSOLE,
    ORG,
    PROJECT,
    DOMAIN,
    BUILDER,
    REGISTRY,
    IMAGE_REFS,
    BASE,
    COMPRESSION,
    PRUNE_SIZE,
    PRUNE_DAYS,
    key("local.persistence", Kind::Switch),
    key("local.tracked", Kind::Switch),
    key("local.tracked_strict", Kind::Switch),
];

/// The setting that a name is a slip of, if it is one.
pub(super) fn nearly(dotted: &str) -> Option<&'static str> {
    let (section, written) = dotted.split_once('.')?;
    let slips = |name: &str| {
        let (name, written) = (name.to_lowercase(), written.to_lowercase());
        let slips = strsim::damerau_levenshtein(&name, &written);
        // In a short name, two letters are half of it.
        (slips <= if name.len() > 5 { 2 } else { 1 }).then_some(slips)
    };
    let own = ALL.iter().filter_map(|key| {
        let (place, name) = key.name.split_once('.')?;
        let slips = (place == section).then(|| slips(name))??;
        Some((slips, key.name))
    });
    own.min().map(|(_, name)| name)
}

/// The names of the sections.
pub(super) const SECTIONS: [&str; 5] = ["admin", "task", "image", "console", "local"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_the_name_in_capitals() {
        assert_eq!(PROJECT.variables(), ["FLYTE_TASK_PROJECT"]);
        assert_eq!(
            AUTH_TYPE.variables(),
            ["FLYTE_AUTH_TYPE", "FLYTE_ADMIN_AUTHTYPE"]
        );
        assert_eq!(IMAGE_REFS.variables(), ["FLYTE_IMAGE_IMAGE_REFS"]);
    }

    #[test]
    fn every_key_stands_in_a_section() {
        for key in ALL {
            let section = key.name.split('.').next().unwrap();
            assert!(SECTIONS.contains(&section), "{}", key.name);
        }
    }
}

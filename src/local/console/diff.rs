//! What changed between two revisions of an app, as data.
//!
//! Read from what was sent alone, so it costs nothing; which files changed is asked of the bundles
//! by whoever shows that.

use std::collections::BTreeMap;

use super::masks;
use crate::wire::{app, core};

/// A thing that has a value in a revision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Field {
    pub kind: Kind,
    /// Empty where there is one of the kind.
    pub name: String,
}

/// In the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Code,
    Image,
    Command,
    Arguments,
    Parameter,
    Variable,
    Secret,
    Resource,
    Replicas,
    Port,
    Link,
    Domain,
    Timeout,
    Health,
    Other,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Image => "image",
            Self::Command => "command",
            Self::Arguments => "arguments",
            Self::Parameter => "parameter",
            Self::Variable => "variable",
            Self::Secret => "secret",
            Self::Resource => "resource",
            Self::Replicas => "replicas",
            Self::Port => "port",
            Self::Link => "link",
            Self::Domain => "domain",
            Self::Timeout => "timeout",
            Self::Health => "health",
            Self::Other => "other",
        }
    }
}

/// One thing that differs; values are as they may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub field: Field,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// A value, and how it is shown.
#[derive(PartialEq)]
struct Value {
    whole: String,
    shown: String,
}

/// Everything that differs, in a fixed order.
pub fn between(before: &app::App, after: &app::App) -> Vec<Change> {
    let (mut old, mut new) = (fields(before), fields(after));
    let mut names: Vec<Field> = old.keys().chain(new.keys()).cloned().collect();
    names.sort();
    names.dedup();
    let changes = names.into_iter().filter_map(|field| {
        let (before, after) = (old.remove(&field), new.remove(&field));
        (before != after).then(|| Change {
            field,
            before: before.map(|value| value.shown),
            after: after.map(|value| value.shown),
        })
    });
    let changes: Vec<Change> = changes.collect();
    if changes.is_empty() && before.spec != after.spec {
        // Something that this page has no words for.
        return vec![Change {
            field: Field {
                kind: Kind::Other,
                name: "settings".into(),
            },
            before: None,
            after: None,
        }];
    }
    changes
}

/// The kinds that changed, each once: what a row of a list has room for.
pub fn kinds(changes: &[Change]) -> Vec<&'static str> {
    let mut kinds: Vec<Kind> = changes.iter().map(|change| change.field.kind).collect();
    kinds.dedup();
    kinds.into_iter().map(Kind::name).collect()
}

/// The digest in a bundle's address, which is where the upload was filed.
pub fn digest(uri: &str) -> &str {
    let mut parts = uri.rsplit('/');
    let (file, folder) = (
        parts.next().unwrap_or(uri),
        parts.next().unwrap_or_default(),
    );
    let is_digest = folder.len() == 32 && folder.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest { folder } else { file }
}

/// Everything that has a value in a revision.
#[derive(Default)]
struct Fields(BTreeMap<Field, Value>);

impl Fields {
    fn plain(&mut self, kind: Kind, name: &str, value: &str) {
        self.masked(kind, name, value, value.to_owned());
    }

    fn masked(&mut self, kind: Kind, name: &str, whole: &str, shown: String) {
        if whole.is_empty() {
            return;
        }
        let field = Field {
            kind,
            name: name.to_owned(),
        };
        let whole = whole.to_owned();
        self.0.insert(field, Value { whole, shown });
    }

    fn words(&mut self, kind: Kind, words: &[String]) {
        self.masked(kind, "", &words.join("\0"), masks::words(words).join(" "));
    }

    fn of_container(&mut self, container: &core::Container) {
        self.plain(Kind::Image, "", &container.image);
        self.words(Kind::Command, own_command(container));
        self.words(Kind::Arguments, &container.args);
        if let Some(loader) = option(container, "--resolver-args") {
            self.plain(Kind::Command, "server", loader);
        }
        if let Some(pickle) = option(container, "--pkl") {
            self.plain(Kind::Code, "typed", digest(pickle));
        }
        for entry in variables(container) {
            let shown = masks::shown(&entry.key, &entry.value).into_owned();
            // An empty variable is one too.
            let whole = format!("={}", entry.value);
            self.masked(Kind::Variable, &entry.key, &whole, shown);
        }
        for port in &container.ports {
            self.plain(Kind::Port, &port.name, &port.container_port.to_string());
        }
        for (name, value) in resources(container) {
            self.plain(Kind::Resource, &name, &value);
        }
        for entry in &container.config {
            let name = entry.key.trim_start_matches("flyte.");
            self.plain(Kind::Health, name, &entry.value);
        }
    }
}

fn fields(app: &app::App) -> BTreeMap<Field, Value> {
    let mut fields = Fields::default();
    let spec = &app.spec;
    fields.plain(Kind::Code, "", digest(&app.metadata.code_bundle_uri));
    fields.plain(Kind::Domain, "subdomain", &spec.ingress.subdomain);
    fields.plain(Kind::Domain, "custom domain", &spec.ingress.cname);
    fields.plain(Kind::Replicas, "", &replicas(app));
    fields.plain(Kind::Timeout, "request", &request_timeout(app));
    for link in &spec.links {
        fields.plain(Kind::Link, &link.title, &link.path);
    }
    for secret in &spec.security_context.secrets {
        fields.plain(Kind::Secret, &secret_name(secret), &secret_place(secret));
    }
    for input in &spec.inputs.items {
        let (whole, shown) = input_value(input);
        fields.masked(Kind::Parameter, &input.name, &whole, shown);
    }
    if let Some(app::spec::AppPayload::Container(container)) = &spec.app_payload {
        fields.of_container(container);
    }
    fields.0
}

/// The user's own command; what runs a server function is ours.
pub fn own_command(container: &core::Container) -> &[String] {
    match container.command.first().map(String::as_str) {
        Some("fserve") => &[],
        Some(_) | None => &container.command,
    }
}

fn option<'a>(container: &'a core::Container, name: &str) -> Option<&'a str> {
    own_command(container).is_empty().then_some(())?;
    let at = container.command.iter().position(|word| word == name)?;
    container.command.get(at + 1).map(String::as_str)
}

/// The variables that the app declares, without those that the SDK speaks to itself with.
pub fn variables(container: &core::Container) -> impl Iterator<Item = &core::KeyValuePair> {
    let own = |name: &str| name.starts_with("_F_") || name.starts_with("_FLYTE");
    container.env.iter().filter(move |entry| !own(&entry.key))
}

/// Memory, processors and so on: (name, what it asks for and what it may have).
pub fn resources(container: &core::Container) -> Vec<(String, String)> {
    let named = |entry: &core::resources::ResourceEntry| {
        let name = entry.name.as_known().unwrap_or_default();
        buffa::Enumeration::proto_name(&name)
            .to_lowercase()
            .replace('_', " ")
    };
    let mut values: BTreeMap<String, (String, String)> = BTreeMap::new();
    for entry in &container.resources.requests {
        values
            .entry(named(entry))
            .or_default()
            .0
            .clone_from(&entry.value);
    }
    for entry in &container.resources.limits {
        values
            .entry(named(entry))
            .or_default()
            .1
            .clone_from(&entry.value);
    }
    values
        .into_iter()
        .map(
            |(name, (request, limit))| match (request.as_str(), limit.as_str()) {
                (_, "") => (name, request),
                ("", _) => (name, format!("at most {limit}")),
                _ => (name, format!("{request}, at most {limit}")),
            },
        )
        .collect()
}

/// The declared number of replicas; empty where none is declared.
pub fn replicas(app: &app::App) -> String {
    let Some(replicas) = app.spec.autoscaling.replicas.as_option() else {
        return String::new();
    };
    if replicas.min == replicas.max {
        replicas.max.to_string()
    } else {
        format!("{} to {}", replicas.min, replicas.max)
    }
}

fn request_timeout(app: &app::App) -> String {
    let timeout = app.spec.timeouts.request_timeout.as_option();
    timeout.map_or_else(String::new, |timeout| format!("{} s", timeout.seconds))
}

/// A secret's name and where the app finds it; never its value, which is not in the app.
pub fn secret_name(secret: &core::Secret) -> String {
    match secret.group.as_str() {
        "" => secret.key.clone(),
        group => format!("{group}/{}", secret.key),
    }
}

pub fn secret_place(secret: &core::Secret) -> String {
    match secret.env_var.as_str() {
        "" => "as declared".to_owned(),
        variable => format!("as ${variable}"),
    }
}

/// A parameter's value, whole and as it may be shown.
pub fn input_value(input: &app::Input) -> (String, String) {
    match &input.value {
        Some(app::input::Value::StringValue(value)) => {
            (value.clone(), masks::shown(&input.name, value).into_owned())
        }
        Some(app::input::Value::AppId(id)) => {
            let text = format!("app {}", id.name);
            (text.clone(), text)
        }
        Some(app::input::Value::ArtifactId(id)) => {
            let text = format!("artifact {}@{}", id.key.name, id.version);
            (text.clone(), text)
        }
        None => (String::new(), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(image: &str, env: &[(&str, &str)], args: &[&str]) -> app::App {
        let container = core::Container {
            image: image.into(),
            args: args.iter().map(|word| (*word).to_owned()).collect(),
            env: env
                .iter()
                .map(|(key, value)| core::KeyValuePair {
                    key: (*key).into(),
                    value: (*value).into(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        app::App {
            spec: app::Spec {
                app_payload: Some(container.into()),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        }
    }

    #[test]
    fn what_came_went_and_changed_is_told_in_order() {
        let before = app(
            "one",
            &[("A", "1"), ("B", "2"), ("_F_SYS_PATH", "x")],
            &["x"],
        );
        let after = app("two", &[("B", "3"), ("C", "")], &["x"]);
        let changes = between(&before, &after);
        let told: Vec<(&str, &str, Option<&str>, Option<&str>)> = changes
            .iter()
            .map(|change| {
                (
                    change.field.kind.name(),
                    change.field.name.as_str(),
                    change.before.as_deref(),
                    change.after.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("image", "", Some("one"), Some("two")),
                ("variable", "A", Some("1"), None),
                ("variable", "B", Some("2"), Some("3")),
                ("variable", "C", None, Some("")),
            ]
        );
        assert_eq!(kinds(&changes), ["image", "variable"]);
        assert!(between(&before, &before).is_empty());
    }

    #[test]
    fn a_secret_that_changed_is_told_without_its_value() {
        let before = app("i", &[("API_KEY", "hunter2")], &["--token=hunter2"]);
        let after = app("i", &[("API_KEY", "hunter3")], &["--token=hunter3"]);
        let changes = between(&before, &after);
        assert_eq!(kinds(&changes), ["arguments", "variable"]);
        assert!(!format!("{changes:?}").contains("hunter"), "{changes:?}");
    }

    #[test]
    fn what_has_no_words_here_is_not_kept_quiet() {
        let mut after = app("i", &[], &[]);
        after.spec.modify(|spec| spec.cluster_pool = "gpu".into());
        assert_eq!(kinds(&between(&app("i", &[], &[]), &after)), ["other"]);
    }

    #[test]
    fn a_bundle_goes_by_its_digest() {
        let md5 = "0123456789abcdef0123456789abcdef";
        assert_eq!(
            digest(&format!("file:///h/uploads/p/d/{md5}/b.tar.zst")),
            md5
        );
        assert_eq!(digest("s3://bucket/code.tar.gz"), "code.tar.gz");
        assert_eq!(digest(""), "");
    }
}

//! What an app declares, as lists of names and values.

use std::borrow::Cow;

use super::html::{Html, html};
use super::{diff, masks, words};
use crate::local::store::AppKey;
use crate::wire::{app, core};

/// Everything that is known of a revision.
pub fn of(app: &app::App) -> Html {
    let mut facts = group("Configuration", &configuration(app));
    facts += group("Parameters", &parameters(app));
    facts += group("Links", &links(app));
    if let Some(app::spec::AppPayload::Container(container)) = &app.spec.app_payload {
        facts += group("Environment", &variables(container));
    }
    facts += group("Secrets", &secrets(app));
    facts
}

/// A name and what is known under it.
type Fact = (String, Html);

fn group(title: &str, facts: &[Fact]) -> Html {
    if facts.is_empty() {
        return Html::default();
    }
    let list: Html = facts
        .iter()
        .map(|(name, value)| {
            let name = words::breakable(name);
            html!("<div><dt>{}</dt><dd>{}</dd></div>", name, value)
        })
        .collect();
    html!("<section><h2>{}</h2><dl>{}</dl></section>", title, list)
}

fn fact(name: &str, value: &str) -> Option<Fact> {
    (!value.is_empty()).then(|| (name.to_owned(), html!("{}", value)))
}

fn code(name: &str, value: &str) -> Option<Fact> {
    (!value.is_empty()).then(|| (name.to_owned(), html!("<code>{}</code>", value)))
}

/// A name that ends with a digest, of which the first digits are enough for eyes.
fn short(name: &str, value: &str) -> Option<Fact> {
    let shown = words::shortened(value);
    (!value.is_empty()).then(|| {
        (
            name.to_owned(),
            html!(
                "<code title=\"{}\">{}</code>",
                value,
                words::breakable(&shown)
            ),
        )
    })
}

fn configuration(app: &app::App) -> Vec<Fact> {
    let by_name = &app.status.ingress.cname_url;
    let mut facts = vec![(
        "By name".to_owned(),
        html!(
            "<a href=\"{}\" target=\"_blank\" rel=\"noopener\">{}</a>",
            by_name,
            words::breakable(by_name)
        ),
    )];
    facts.extend(fact("Type", &app.spec.profile.r#type));
    facts.extend(fact("Replicas", &diff::replicas(app)));
    facts.extend(short("Code", diff::digest(&app.metadata.code_bundle_uri)));
    if let Some(app::spec::AppPayload::Container(container)) = &app.spec.app_payload {
        facts.extend(short("Image", &container.image));
        facts.extend(code(
            "Command",
            &masks::words(diff::own_command(container)).join(" "),
        ));
        facts.extend(code("Arguments", &masks::words(&container.args).join(" ")));
        for port in &container.ports {
            facts.extend(fact("Port", &port.container_port.to_string()));
        }
        for (name, value) in diff::resources(container) {
            facts.extend(fact(&capitalized(&name), &value));
        }
    }
    facts
}

/// `Memory`, but `CPU`.
fn capitalized(text: &str) -> String {
    if text.len() == 3 {
        return text.to_uppercase();
    }
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

fn parameters(app: &app::App) -> Vec<Fact> {
    let inputs = app.spec.inputs.items.iter();
    inputs
        .map(|input| {
            let shown = match &input.value {
                Some(app::input::Value::AppId(id)) => {
                    html!(
                        "<a href=\"{}\">{}</a>",
                        super::page_path(&AppKey::of(id)),
                        id.name
                    )
                }
                _ => html!("<code>{}</code>", diff::input_value(input).1),
            };
            (input.name.clone(), shown)
        })
        .collect()
}

fn links(app: &app::App) -> Vec<Fact> {
    let endpoint = &app.status.ingress.public_url;
    let links = app.spec.links.iter();
    links
        .map(|link| {
            let address: Cow<'_, str> = if link.is_relative {
                format!("{endpoint}/{}", link.path.trim_start_matches('/')).into()
            } else {
                link.path.as_str().into()
            };
            // A link of another kind would run as a script of this page.
            let is_web = address.starts_with("http://") || address.starts_with("https://");
            let shown = if is_web {
                html!(
                    "<a href=\"{}\" target=\"_blank\" rel=\"noopener\">{}</a>",
                    address,
                    address
                )
            } else {
                html!("{}", address)
            };
            (link.title.clone(), shown)
        })
        .collect()
}

fn variables(container: &core::Container) -> Vec<Fact> {
    diff::variables(container)
        .map(|entry| {
            let value = masks::shown(&entry.key, &entry.value);
            (entry.key.clone(), html!("<code>{}</code>", value))
        })
        .collect()
}

fn secrets(app: &app::App) -> Vec<Fact> {
    let secrets = app.spec.security_context.secrets.iter();
    secrets
        .map(|secret| {
            (
                diff::secret_name(secret),
                html!("{}", diff::secret_place(secret)),
            )
        })
        .collect()
}

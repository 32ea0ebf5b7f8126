//! Which app a host name means, for the one port where all apps answer by name.
//!
//! The names are those of a cluster: `<app>-<project>-<domain>`, the declared subdomain, both below
//! `localhost`, and the declared domain as it is. Browsers and curl take every name below
//! `localhost` to this machine, so nothing has to be set up.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};

use super::route::Route;

/// Where names of this machine end.
const SUFFIX: &str = ".localhost";
/// The same as containers know them: to a container, `localhost` is itself, and `curl` believes that
/// of every name below it.
const CONTAINER_SUFFIX: &str = ".flyte.internal";
/// Longest label of a host name.
const LABEL: usize = 63;
/// What is kept of a longer one, in front of eight digits that tell it from others.
const KEPT: usize = 54;

/// All names and whose they are; read by every request at the shared port.
#[derive(Default)]
pub struct Names {
    known: ArcSwap<HashMap<String, Entry>>,
}

#[derive(Clone)]
struct Entry {
    owner: String,
    route: Route,
}

impl Names {
    /// Lets `hosts` lead to the app filed under `owner`, and no others of those it had.
    ///
    /// A name that another app has stays with that one.
    pub fn publish(&self, owner: &str, hosts: &[String], route: &Route) {
        self.known.rcu(|known| {
            let mut known = without(known, owner);
            for host in hosts {
                known
                    .entry(host.to_ascii_lowercase())
                    .or_insert_with(|| Entry {
                        owner: owner.to_owned(),
                        route: route.clone(),
                    });
            }
            known
        });
    }

    /// Forgets the names of an app.
    pub fn withdraw(&self, owner: &str) {
        self.known.rcu(|known| without(known, owner));
    }

    /// The app that has `host` and is not `owner`.
    pub fn taken_by(&self, host: &str, owner: &str) -> Option<String> {
        let known = self.known.load();
        let entry = known.get(&host.to_ascii_lowercase())?;
        (entry.owner != owner).then(|| entry.owner.clone())
    }

    /// Where requests for `host` go; a port behind the name says nothing.
    pub(super) fn find(&self, host: &str) -> Option<Route> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            Some(_) | None => host,
        };
        let mut name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(label) = name.strip_suffix(CONTAINER_SUFFIX) {
            name = format!("{label}{SUFFIX}");
        }
        self.known
            .load()
            .get(&name)
            .map(|entry| entry.route.clone())
    }
}

fn without(known: &Arc<HashMap<String, Entry>>, owner: &str) -> HashMap<String, Entry> {
    known
        .iter()
        .filter(|(_, entry)| entry.owner != owner)
        .map(|(host, entry)| (host.clone(), entry.clone()))
        .collect()
}

/// The name of an app as a cluster makes it, below `localhost`.
pub fn of_app(name: &str, project: &str, domain: &str) -> String {
    let mut label = format!("{name}-{project}-{domain}").to_ascii_lowercase();
    if label.len() > LABEL {
        let digest: [u8; 32] = Sha256::digest(format!("{project}/{domain}/{name}")).into();
        label.truncate(KEPT);
        let [a, b, c, d, ..] = digest;
        label = format!("{label}-{:08x}", u32::from_be_bytes([a, b, c, d]));
    }
    label + SUFFIX
}

/// The name of an app for containers of this machine.
pub fn for_containers(name: &str, project: &str, domain: &str) -> String {
    let own = of_app(name, project, domain);
    let label = own.strip_suffix(SUFFIX).unwrap_or(&own);
    format!("{label}{CONTAINER_SUFFIX}")
}

/// A declared subdomain, below `localhost`.
pub fn of_subdomain(subdomain: &str) -> String {
    format!("{}{SUFFIX}", subdomain.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::super::route::Target;
    use super::*;
    use std::time::Duration;

    fn route() -> Route {
        Route::new(Target::Starting {
            patience: Duration::ZERO,
        })
    }

    #[test]
    fn names_lead_to_their_app_whatever_their_case_and_port() {
        let names = Names::default();
        let hosts = ["Web-p-d.localhost".to_owned(), "shop.example".to_owned()];
        names.publish("p/d/web", &hosts, &route());
        for host in [
            "web-p-d.localhost",
            "WEB-P-D.LOCALHOST:8080",
            "shop.example.",
            "shop.example:1",
        ] {
            assert!(names.find(host).is_some(), "{host}");
        }
        for host in ["web.localhost", "", "[::1]:80", "localhost"] {
            assert!(names.find(host).is_none(), "{host}");
        }
    }

    #[test]
    fn a_name_belongs_to_who_had_it_first_until_it_is_given_up() {
        let names = Names::default();
        let shop = ["shop.localhost".to_owned()];
        names.publish("a", &shop, &route());
        names.publish("b", &shop, &route());
        assert_eq!(names.taken_by("SHOP.localhost", "b").as_deref(), Some("a"));
        assert_eq!(names.taken_by("shop.localhost", "a"), None);
        names.withdraw("a");
        assert_eq!(names.taken_by("shop.localhost", "b"), None);
        names.publish("b", &shop, &route());
        names.publish("b", &["other.localhost".to_owned()], &route());
        assert!(names.find("shop.localhost").is_none());
    }

    #[test]
    fn long_names_are_cut_as_on_a_cluster() {
        assert_eq!(of_app("Web", "p", "d"), "web-p-d.localhost");
        let long = "a".repeat(30);
        let name = of_app(&long, &"p".repeat(30), "development");
        let label = name.strip_suffix(".localhost").unwrap();
        assert_eq!(label.len(), 63);
        assert!(label.starts_with(&format!("{long}-{}-", "p".repeat(23))));
        assert_ne!(name, of_app(&long, &"p".repeat(30), "production"));
    }
}

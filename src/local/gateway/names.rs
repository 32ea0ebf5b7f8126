//! Which app a host name means, for the one port where all apps answer by name.
//!
//! The names are those of a cluster: `<app>-<project>-<domain>`, the declared subdomain, both below
//! `localhost`, and the declared domain as it is. Browsers and curl take every name below
//! `localhost` to this machine, so nothing has to be set up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// All names and whose they are; what they lead to is read by every request at the shared port.
#[derive(Default)]
pub struct Names {
    known: ArcSwap<HashMap<String, Route>>,
    /// In the order in which their owners came.
    claims: Mutex<Vec<Claim>>,
}

/// The names of one app.
struct Claim {
    owner: String,
    /// Those that lead somewhere, where no earlier claim has them too.
    published: Option<(Vec<String>, Route)>,
    /// Those of a revision that does not serve yet.
    reserved: Option<Reservation>,
}

/// Names that are kept for an app, and the revision of it that asks for them.
pub type Reservation = (Vec<String>, u64);

/// A name belongs to somebody else.
#[derive(Debug, PartialEq)]
pub struct Taken {
    pub host: String,
    pub owner: String,
}

impl Names {
    /// Keeps `hosts` for the app filed under `owner`, whose revision asks for them, unless another app
    /// has one of them, whether it leads there or is kept for it.
    ///
    /// What it kept before is given up, and returned; what leads to it goes on to.
    pub fn reserve(
        &self,
        owner: &str,
        hosts: &[String],
        revision: u64,
    ) -> Result<Option<Reservation>, Taken> {
        let hosts = lower(hosts);
        let mut claims = self.claims();
        for host in &hosts {
            // Whoever waits for it behind its owner has no say.
            let first = claims.iter().find(|claim| claim.has(host));
            if let Some(other) = first.filter(|first| first.owner != owner) {
                return Err(Taken {
                    host: host.clone(),
                    owner: other.owner.clone(),
                });
            }
        }
        let reserved = &mut claim(&mut claims, owner).reserved;
        Ok(reserved.replace((hosts, revision)))
    }

    /// Puts things as they were before [`Names::reserve`].
    pub fn take_back(&self, owner: &str, before: Option<Reservation>) {
        let mut claims = self.claims();
        claim(&mut claims, owner).reserved = before;
        forget_empty(&mut claims);
    }

    /// Gives up what is kept for a revision, or for an earlier one.
    pub fn release(&self, owner: &str, revision: u64) {
        let mut claims = self.claims();
        claim(&mut claims, owner).release(revision);
        forget_empty(&mut claims);
    }

    /// Lets `hosts` lead to the app filed under `owner`, and no others of those that did.
    ///
    /// A name that another app has stays with that one, until it gives it up.
    pub fn publish(&self, owner: &str, hosts: &[String], route: &Route) {
        let mut claims = self.claims();
        claim(&mut claims, owner).published = Some((lower(hosts), route.clone()));
        self.show(&claims);
    }

    /// Lets the `hosts` of a revision lead to the app, instead of those that did, and keeps none for it
    /// any more. An app that was withdrawn gets none.
    pub fn serve(&self, owner: &str, hosts: &[String], revision: u64) {
        let mut claims = self.claims();
        let Some(claim) = claims.iter_mut().find(|claim| claim.owner == owner) else {
            return;
        };
        if let Some((published, _)) = &mut claim.published {
            *published = lower(hosts);
        }
        claim.release(revision);
        self.show(&claims);
    }

    /// Forgets the names of an app.
    pub fn withdraw(&self, owner: &str) {
        let mut claims = self.claims();
        claims.retain(|claim| claim.owner != owner);
        self.show(&claims);
    }

    /// Whether names lead to an app.
    pub fn has(&self, owner: &str) -> bool {
        let claims = self.claims();
        claims
            .iter()
            .any(|claim| claim.owner == owner && claim.published.is_some())
    }

    fn claims(&self) -> MutexGuard<'_, Vec<Claim>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, claims: &[Claim]) {
        let mut known = HashMap::new();
        for (hosts, route) in claims.iter().filter_map(|claim| claim.published.as_ref()) {
            for host in hosts {
                known.entry(host.clone()).or_insert_with(|| route.clone());
            }
        }
        self.known.store(Arc::new(known));
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
        self.known.load().get(&name).cloned()
    }
}

impl Claim {
    fn has(&self, host: &String) -> bool {
        let published = self.published.iter().flat_map(|(hosts, _)| hosts);
        let reserved = self.reserved.iter().flat_map(|(hosts, _)| hosts);
        published.chain(reserved).any(|own| own == host)
    }

    fn release(&mut self, revision: u64) {
        if self
            .reserved
            .as_ref()
            .is_some_and(|(_, of)| *of <= revision)
        {
            self.reserved = None;
        }
    }
}

fn forget_empty(claims: &mut Vec<Claim>) {
    claims.retain(|claim| claim.published.is_some() || claim.reserved.is_some());
}

fn lower(hosts: &[String]) -> Vec<String> {
    hosts.iter().map(|host| host.to_ascii_lowercase()).collect()
}

/// The claim of an owner, which is the last one where it is new.
fn claim<'a>(claims: &'a mut Vec<Claim>, owner: &str) -> &'a mut Claim {
    let found = claims.iter().position(|claim| claim.owner == owner);
    let place = found.unwrap_or(claims.len());
    if found.is_none() {
        claims.push(Claim {
            owner: owner.to_owned(),
            published: None,
            reserved: None,
        });
    }
    &mut claims[place]
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
        let (first, second) = (route(), route());
        let leads_to = |route: &Route| {
            let found = names.find("shop.localhost").unwrap();
            Arc::ptr_eq(found.meter(), route.meter())
        };
        names.publish("a", &shop, &first);
        names.publish("b", &shop, &second);
        assert!(leads_to(&first));
        let taken = names.reserve("b", &["SHOP.localhost".to_owned()], 1);
        assert_eq!(taken.unwrap_err().owner, "a");
        assert!(names.reserve("a", &shop, 2).is_ok());
        // Whoever waited for it gets it.
        names.withdraw("a");
        assert!(leads_to(&second));
        assert!(names.reserve("b", &shop, 1).is_ok());
        names.publish("b", &["other.localhost".to_owned()], &second);
        assert!(names.find("shop.localhost").is_none());
    }

    #[test]
    fn a_name_that_is_kept_for_a_revision_is_nobody_elses_and_leads_nowhere_yet() {
        let names = Names::default();
        let shop = ["shop.localhost".to_owned()];
        names.publish("a", &["a.localhost".to_owned()], &route());
        let before = names.reserve("a", &shop, 2).unwrap();
        assert_eq!(before, None);
        assert!(names.find("shop.localhost").is_none());
        assert!(names.find("a.localhost").is_some());
        assert_eq!(names.reserve("b", &shop, 1).unwrap_err().owner, "a");
        // A later revision keeps it when the earlier one fails.
        let before = names.reserve("a", &shop, 3).unwrap();
        // One that is not filed after all leaves things as they were.
        names.take_back("a", before.clone());
        assert_eq!(names.reserve("a", &shop, 3).unwrap(), before);
        names.release("a", 2);
        assert!(names.reserve("b", &shop, 1).is_err());
        names.release("a", 3);
        assert!(names.reserve("b", &shop, 1).is_ok());
        names.take_back("b", None);
        assert!(names.find("a.localhost").is_some());
        names.serve("a", &shop, 4);
        assert!(names.find("a.localhost").is_none());
        assert!(names.find("shop.localhost").is_some());
        names.withdraw("a");
        names.serve("a", &shop, 5);
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

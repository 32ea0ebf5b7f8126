//! The names under which apps answer at the shared port.

use super::{Platform, Refused};
use crate::local::gateway::names;
use crate::local::store::AppKey;
use crate::wire::app;

/// All host names of an app: the cluster's form, the declared subdomain, the declared domain.
fn hosts(app: &app::App) -> Vec<String> {
    let id = &app.metadata.id;
    let mut hosts = vec![names::of_app(&id.name, &id.project, &id.domain)];
    hosts.extend(declared(app));
    hosts
}

/// Those that the app asks for, which another one may have.
fn declared(app: &app::App) -> impl Iterator<Item = String> {
    let ingress = &app.spec.ingress;
    let subdomain = Some(&ingress.subdomain).filter(|name| !name.is_empty());
    let domain = Some(&ingress.cname).filter(|name| !name.is_empty());
    let subdomain = subdomain.map(|name| names::of_subdomain(name));
    subdomain.into_iter().chain(domain.cloned())
}

impl Platform {
    /// Refuses an app that asks for a name which another one has.
    pub(super) fn check_names(&self, key: &AppKey, app: &app::App) -> Result<(), Refused> {
        for host in declared(app) {
            if let Some(other) = self.workshop.names.taken_by(&host, key.as_str()) {
                return Err(Refused::Invalid(format!(
                    "the host name `{host}` belongs to app `{other}`"
                )));
            }
        }
        Ok(())
    }

    /// Lets an app answer under its names.
    pub(super) fn publish(&self, key: &AppKey, app: &app::App) {
        if let Some(handle) = self.handle(key) {
            self.workshop
                .names
                .publish(key.as_str(), &hosts(app), &handle.route);
        }
    }

    /// The address of an app by name: by the one it asks for, where it asks for one.
    pub(super) fn address_by_name(&self, app: &app::App) -> String {
        let host = hosts(app).pop().unwrap_or_default();
        format!("http://{host}:{}", self.names_port)
    }
}

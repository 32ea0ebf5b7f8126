//! The host names of an app, as it declares them.

use crate::local::gateway::names;
use crate::wire::app;

/// All of them: the cluster's form, the declared subdomain, the declared domain.
pub fn of(app: &app::App) -> Vec<String> {
    let id = &app.metadata.id;
    let ingress = &app.spec.ingress;
    let subdomain = Some(&ingress.subdomain).filter(|name| !name.is_empty());
    let domain = Some(&ingress.cname).filter(|name| !name.is_empty());
    let mut hosts = vec![names::of_app(&id.name, &id.project, &id.domain)];
    hosts.extend(subdomain.map(|name| names::of_subdomain(name)));
    hosts.extend(domain.cloned());
    hosts
}

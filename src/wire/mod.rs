//! Messages and services of the control plane, and what is said with them.
//!
//! The messages are generated from the subset in `proto/`; fields that the subset does not name
//! are kept and sent back. [`build`] turns a declared app into a message.

pub mod build;
pub mod status;

#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    reason = "generated; not ours to style"
)]
mod generated {
    connectrpc::include_generated!();
}

pub use generated::flyteidl2::{
    app, auth, cluster, common, core, dataproxy, imagebuilder, logs, project, secret, task,
};

/// The message that names an app.
pub fn identifier(org: &str, project: &str, domain: &str, name: &str) -> app::Identifier {
    app::Identifier {
        org: org.to_owned(),
        project: project.to_owned(),
        domain: domain.to_owned(),
        name: name.to_owned(),
        ..Default::default()
    }
}

//! Messages and services of the control plane, and what is said with them.
//!
//! The messages are generated from the subset in `proto/`; fields that the subset does not name
//! are kept and sent back. [`build`] turns a declared app into a message. [`buildkit`] has what a
//! container engine asks of whoever lets it build.

pub mod build;
pub mod pod;
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

/// What is said between `BuildKit` and its client while an image is built.
pub mod buildkit {
    pub use super::generated::grpc::health::v1 as health;
    pub use super::generated::moby::buildkit::secrets::v1 as secrets;
    pub use super::generated::moby::buildkit::v1 as control;
    pub use super::generated::moby::filesync::v1 as filesync;
}

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

//! The local platform: the control plane's services and its data plane on one machine.
//!
//! It is spoken to over the wire only; it knows nothing of who calls it or of bundles being made.
//! Inside, each part uses only those before it: `store`, `authority`, `gateway`, `supervisor`, `prune`,
//! `platform`, `api` and `console`, `daemon`.

pub mod authority;
pub mod gateway;
pub mod store;
pub mod supervisor;

pub mod prune;

pub mod platform;

pub mod api;
pub mod console;

pub mod daemon;

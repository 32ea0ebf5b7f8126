//! The local platform: what a laptop runs in place of a cluster.
//!
//! It knows nothing of bundles being made or of who calls it; it is spoken to over the wire.

pub mod gateway;

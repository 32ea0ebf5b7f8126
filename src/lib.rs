//! The app-serving half of Flyte 2.
//!
//! The modules stand in the order in which they may use each other; `tests/rust/layering.rs`
//! checks it. ARCHITECTURE.md tells the life of one `serve` call through them.

pub mod error;
pub mod spec;

pub mod files;
pub mod wire;

pub mod bundle;

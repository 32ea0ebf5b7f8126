//! The app-serving half of Flyte 2.
//!
//! The modules stand in the order in which they may use each other; `tests/rust/layering.rs`
//! checks it. ARCHITECTURE.md tells the life of one `serve` call through them.

pub mod crash;
pub mod error;
pub mod sys;

pub mod spec;
pub mod tls;

pub mod config;
pub mod engine;
pub mod files;
pub mod net;
pub mod secrets;
pub mod storage;
pub mod wire;

pub mod auth;

pub mod bundle;
pub mod client;
pub mod image;
pub mod local;
pub mod runtime;

pub mod serve;

pub mod cli;

#[cfg(feature = "python")]
mod py;

// The readers of the fuzz targets name the crate as programs outside of it do.
#[cfg(test)]
extern crate self as flyte_native;
#[cfg(test)]
#[path = "../tests/fuzz/replay.rs"]
mod replay;

//! Runs apps: one task an app decides, replicas are processes, readiness is seen, not polled for.
//!
//! The supervisor knows processes, ports and logs. It knows nothing of the wire services above
//! it: they send it commands and read its state from the store.

pub mod app;
pub mod diagnose;
pub mod launch;
pub mod logs;
pub mod replica;
pub mod secrets;
pub mod spawner;
pub mod sweep;

mod fleet;
mod idle;
mod memory;
mod readiness;
mod scale;
mod task;

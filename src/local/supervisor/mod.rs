//! Runs apps: one task an app decides, replicas are processes or containers, readiness is seen.
//!
//! The supervisor knows processes, containers, ports and logs. It knows nothing of the wire services above
//! it: they send it commands and read its state from the store.

pub mod app;
pub mod container;
pub mod diagnose;
pub mod hosts;
pub mod launch;
pub mod logs;
pub mod memory;
pub mod replica;
pub mod said;
pub mod secrets;
pub mod spawner;
pub mod sweep;

#[cfg(target_os = "linux")]
mod cgroup;
mod cpu;
mod entry;
mod fleet;
mod idle;
mod limits;
mod parcel;
mod process;
mod readiness;
mod scale;
mod task;
mod vessel;

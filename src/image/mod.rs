//! From a declared image to something that an app can be started in.
//!
//! [`content_hash`] says what an image *is*, independent of who builds it; [`mod@env`] builds it as a
//! Python environment on this machine, without containers. What cannot be had that way is refused
//! by name, never skipped. This module knows nothing of apps, bundles or control planes.

mod build;
mod digest;
pub mod docker;
pub mod env;
mod error;
mod hash;
mod ignore;
mod local_packages;
mod lock;
pub mod make;
pub mod oci;
mod pins;
mod pixi;
mod plan;
mod private;
mod python;
pub mod registry;
mod released;
mod requirement;
mod script;
mod sdk;
mod secret;
mod system;
mod uv;
mod workspace;

pub use error::{Error, Fault};
pub use hash::{Held, ImageHash, content_hash, remembered_hash, uri};
pub use released::Released;

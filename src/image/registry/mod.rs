//! Registries: who we are to them, what they hold, and moving blobs to and from them.

mod credentials;

pub use credentials::{Credential, credentials};

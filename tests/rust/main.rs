//! Rules of the source tree that no compiler checks.
//!
//! One binary, because each further one links the whole crate again.

mod codes;
mod layering;

//! Rules of the source tree that no compiler checks.
//!
//! One binary, because each further one links the whole crate again.

#![expect(
    clippy::expect_used,
    reason = "helpers of tests, which clippy does not take for tests"
)]

mod audits;
mod codes;
mod layering;
mod threats;

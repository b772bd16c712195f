//! The background work of a backend, and the callbacks by which it comes back to the core.
//!
//! A worker looks at the core for a short while, does its work without it, and comes back with the result.

pub(super) mod coordinate;
pub(super) mod linger;
pub(super) mod materialize;
pub(super) mod publish;
pub(super) mod snapshot;
pub(super) mod upload;

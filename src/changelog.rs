//! The changelog.

pub mod block;
pub mod compression;
pub mod segment;

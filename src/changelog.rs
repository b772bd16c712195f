//! The changelog.

pub mod block;

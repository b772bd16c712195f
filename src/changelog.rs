//! The changelog.

pub mod batcher;
pub mod block;
pub mod compression;
pub mod metrics;
pub mod reader;
pub mod segment;
pub mod uploader;

//! One run of one system, as its process prints it.

use serde::{Deserialize, Serialize};

use super::distribution::Distribution;

/// The result of one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// The version of the system.
    pub(crate) version: String,
    /// Operations that were applied in the window, by its length.
    pub(crate) operations_per_second: f64,
    /// Processor seconds of all processes, client and server, for a million operations.
    pub(crate) cpu_seconds_per_million: f64,
    /// How long durable points of the window took, in milliseconds; nothing where the system does not tell.
    pub(crate) durable_ms: Option<Distribution>,
    /// The most resident memory of the process that has the state, in bytes.
    pub(crate) peak_rss_bytes: u64,
}

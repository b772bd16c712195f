//! The signals that wake the workers of a backend, and tell others of its end.

use tokio::sync::{Notify, watch};

use crate::error::Error;

/// The signals of one backend.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Wakes the worker that publishes manifests.
    pub(super) wake: Notify,
    /// Wakes the materialization worker.
    pub(super) materialize: Notify,
    /// The reason for the end, once the backend has ended. The directory reads it while it holds a lock of its own, so
    /// it must not wait for the core.
    pub(super) ended: watch::Sender<Option<Error>>,
}

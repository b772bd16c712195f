//! Metrics of reading from outside, over all backends of the daemon.

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use crate::metrics::Metrics;

/// Metrics of queries. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct QueryMetrics {
    sessions: Gauge,
    batches: Counter,
    failed: Counter,
    operations: Counter,
    undo_bytes: Gauge,
    undo_dropped: Counter,
}

impl QueryMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(name, help, Counter::default());
        let gauge = |name: &str, help: &str| metrics.register(name, help, Gauge::default());
        Self {
            sessions: gauge("query_sessions", "Sessions that read from outside"),
            batches: counter("query_batches", "Batches of queries that were answered"),
            failed: counter("query_failed_batches", "Batches of queries that could not be answered"),
            operations: counter("query_operations", "Operations of answered batches of queries"),
            undo_bytes: gauge(
                "undo_bytes",
                "Bytes of what was overwritten since checkpoints that can be queried, or gone back to",
            ),
            undo_dropped: counter(
                "undo_dropped_marks",
                "Checkpoints that cannot be queried, or gone back to, because more has changed since than memory.undo holds",
            ),
        }
    }

    pub(crate) fn started(&self) {
        self.sessions.inc();
    }

    pub(crate) fn ended(&self) {
        self.sessions.dec();
    }

    pub(crate) fn answered(&self, operations: usize, is_ok: bool) {
        if is_ok {
            self.batches.inc();
            self.operations.inc_by(operations as u64);
        } else {
            self.failed.inc();
        }
    }

    /// Records grew by so many bytes, and so many marks were dropped.
    pub(crate) fn undone(&self, bytes: i64, dropped: u64) {
        self.undo_bytes.inc_by(bytes);
        self.undo_dropped.inc_by(dropped);
    }
}

//! Metrics of the backends of one daemon.
//!
//! Counters and histograms are kept over all backends: a daemon has few, and what belongs to one is in `Describe`.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};

use super::checkpointing::CompletedCheckpoint;
use crate::{metrics::Metrics, restore::Progress};

/// A part of a checkpoint's duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prometheus_client::encoding::EncodeLabelValue)]
#[allow(non_camel_case_types)]
enum Phase {
    sync,
    persist,
    publish,
    total,
}

/// Metrics of backends. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BackendMetrics {
    open: Gauge,
    fenced: Counter,
    batches: Counter,
    operations: Counter,
    appended_bytes: Counter,
    triggered: Counter,
    completed: Counter,
    failed: Counter,
    in_flight: Gauge,
    duration: Family<PhaseLabels, Histogram, fn() -> Histogram>,
    incremental_bytes: Histogram,
    last_full_bytes: Gauge,
    restores: Counter,
    restore_duration: Histogram,
    restored_changes: Counter,
    restored_bytes: Counter,
}

/// One open that succeeded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Restores {
    /// Whether there was a checkpoint.
    pub(super) replayed: bool,
    /// From the call to the answer.
    pub(super) duration: Duration,
    /// How much was replayed.
    pub(super) progress: Progress,
}

fn durations() -> Histogram {
    // 0.5 ms to 16 s, then everything slower.
    Histogram::new(exponential_buckets(0.000_5, 2.0, 16))
}

impl BackendMetrics {
    /// Registers all of them.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(name, help, Counter::default());
        let gauge = |name: &str, help: &str| metrics.register(name, help, Gauge::default());
        let size_buckets = || Histogram::new(exponential_buckets(256.0, 4.0, 14));
        Self {
            open: gauge("backend_open", "Backends that this daemon has open"),
            fenced: counter("backend_fenced", "Backends that ended because a newer owner took over"),
            batches: counter("backend_batches", "Batches applied"),
            operations: counter("backend_operations", "Operations of applied batches, reads included"),
            appended_bytes: counter("changelog_appended_bytes", "Bytes appended to the changelogs"),
            triggered: counter("checkpoint_triggered", "Checkpoints triggered"),
            completed: counter("checkpoint_completed", "Checkpoints that became restorable"),
            failed: counter(
                "checkpoint_failed",
                "Checkpoints that timed out, were aborted, or ended with their backend",
            ),
            in_flight: gauge("checkpoint_in_flight", "Checkpoints triggered and not yet answered"),
            duration: metrics.register(
                "checkpoint_duration_seconds",
                "Duration of restorable checkpoints by phase: sync (writes wait), persist, publish, and total",
                Family::new_with_constructor(durations as fn() -> Histogram),
            ),
            incremental_bytes: metrics.register(
                "checkpoint_incremental_bytes",
                "Bytes appended between a checkpoint and the one before",
                size_buckets(),
            ),
            last_full_bytes: gauge("checkpoint_last_full_bytes", "Bytes that a restore of the newest checkpoint reads"),
            restores: counter("restore_completed", "Restores of a checkpoint"),
            restore_duration: metrics.register("restore_duration_seconds", "Duration of restores", durations()),
            restored_changes: counter("restore_changes", "State changes replayed"),
            restored_bytes: counter("restore_read_bytes", "Stored bytes of changelog replayed"),
        }
    }

    pub(super) fn open_backends(&self, count: usize) {
        self.open.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn fenced(&self) {
        self.fenced.inc();
    }

    pub(super) fn batch_applied(&self, operations: usize, appended: u64) {
        self.batches.inc();
        self.operations.inc_by(operations as u64);
        self.appended_bytes.inc_by(appended);
    }

    pub(super) fn checkpoint_triggered(&self) {
        self.triggered.inc();
        self.in_flight.inc();
    }

    pub(super) fn checkpoint_failed(&self) {
        self.failed.inc();
        self.in_flight.dec();
    }

    pub(super) fn checkpoint_completed(&self, checkpoint: &CompletedCheckpoint) {
        self.completed.inc();
        self.in_flight.dec();
        let phases = [
            (Phase::sync, checkpoint.sync),
            (Phase::persist, checkpoint.persist),
            (Phase::publish, checkpoint.publish),
            (Phase::total, checkpoint.total),
        ];
        for (phase, duration) in phases {
            self.duration.get_or_create(&PhaseLabels { phase }).observe(duration.as_secs_f64());
        }
        #[allow(clippy::cast_precision_loss, reason = "a histogram of sizes needs no more than 52 bits")]
        self.incremental_bytes.observe(checkpoint.incremental_bytes as f64);
        self.last_full_bytes.set(i64::try_from(checkpoint.full_bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn restored(&self, restore: Restores) {
        if restore.replayed {
            self.restores.inc();
            self.restore_duration.observe(restore.duration.as_secs_f64());
            self.restored_changes.inc_by(restore.progress.changes);
            self.restored_bytes.inc_by(restore.progress.bytes_done);
        }
    }
}

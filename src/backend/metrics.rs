//! Metrics of the backends of one daemon.
//!
//! Counters and histograms are sums over all backends of the daemon. Facts that must be visible per backend (bytes of a
//! restore, retained checkpoints, failsafe) are gauges labelled with its name, which disappear with the backend.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};

mod query;

use self::query::QueryMetrics;
use super::{
    journal::{Journal, Outcome, Phases},
    words::CompletedCheckpoint,
};
use crate::{
    error::Error,
    metrics::{BackendLabels, Metrics},
    restore::Progress,
    state::op::Upkeep,
    types::{BackendId, CheckpointId, TimeMs},
};

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

/// The mechanism that removed entries with TTL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prometheus_client::encoding::EncodeLabelValue)]
#[allow(non_camel_case_types)]
enum Cause {
    read,
    incremental,
    materialization,
}

/// Why a backend without session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LingerLabels {
    cause: LingerEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prometheus_client::encoding::EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub(super) enum LingerEnd {
    time,
    memory,
    owner,
}

/// Metrics of backends. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BackendMetrics {
    open: Gauge,
    fenced: Counter,
    lingered: Family<LingerLabels, Counter>,
    batches: Counter,
    operations: Counter,
    appended_bytes: Counter,
    triggered: Counter,
    inlined: Counter,
    completed: Counter,
    failed: Counter,
    in_flight: Gauge,
    duration: Family<PhaseLabels, Histogram, fn() -> Histogram>,
    incremental_bytes: Histogram,
    full_bytes: Family<BackendLabels, Gauge>,
    retained: Family<BackendLabels, Gauge>,
    failsafe: Family<BackendLabels, Gauge>,
    state_bytes: Gauge,
    pending_bytes: Gauge,
    sessions: Gauge,
    halts: Counter,
    replay: Family<BackendLabels, Gauge<f64, AtomicU64>>,
    pushed_back: Family<BackendLabels, Gauge>,
    push_backs: Counter,
    materializations_started: Counter,
    materializations: Counter,
    materializations_failed: Counter,
    materialization_failures: Family<BackendLabels, Gauge>,
    materialization_bytes: Histogram,
    materialization_uploaded: Counter,
    materialization_pause: Histogram,
    restores: Counter,
    warm_restores: Counter,
    rolled_back: Counter,
    restore_duration: Histogram,
    restored_changes: Counter,
    restored_bytes: Counter,
    ttl_removed: Family<CauseLabels, Counter>,
    committed: Counter,
    reported: Gauge,
    /// Metrics of queries.
    pub(super) queries: QueryMetrics,
    journal: Journal,
}

/// Work that all backends of a daemon have done since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Number of batches applied.
    pub batches: u64,
    /// Number of operations in these batches, reads included.
    pub operations: u64,
    /// Bytes appended to the changelogs.
    pub appended_bytes: u64,
}

/// One open that succeeded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Restores {
    /// Whether a checkpoint was restored.
    pub(super) replayed: bool,
    /// For a warm restart: the number of changes that were rolled back.
    pub(super) warm: Option<u64>,
    /// Time from the call to the answer.
    pub(super) duration: Duration,
    /// Bytes and changes that were restored.
    pub(super) progress: Progress,
}

fn gauge_value(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn durations() -> Histogram {
    // From 0.5 ms to 16 s in powers of two; the last bucket has everything slower.
    Histogram::new(exponential_buckets(0.000_5, 2.0, 16))
}

fn removed_entries(metrics: &Metrics) -> Family<CauseLabels, Counter> {
    let help = "Expired entries removed, by cause: reads, incremental clean-up, left out of materializations";
    metrics.register("state_ttl_removed_entries", help, Family::default())
}

impl BackendMetrics {
    /// Registers all metrics of backends.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(name, help, Counter::default());
        let gauge = |name: &str, help: &str| metrics.register(name, help, Gauge::default());
        let family = |name: &str, help: &str| metrics.register(name, help, Family::<BackendLabels, Gauge>::default());
        let size_buckets = || Histogram::new(exponential_buckets(256.0, 4.0, 14));
        Self {
            open: gauge("backend_open", "Backends that this daemon has open"),
            fenced: counter("backend_fenced", "Backends that ended because a newer owner took over"),
            lingered: metrics.register(
                "backend_lingered",
                "Backends without session that were ended, by cause: their time was over, memory was short, a newer owner took over",
                Family::default(),
            ),
            batches: counter("backend_batches", "Batches applied"),
            operations: counter("backend_operations", "Operations of applied batches, reads included"),
            appended_bytes: counter("changelog_appended_bytes", "Bytes appended to the changelogs"),
            triggered: counter("checkpoint_triggered", "Checkpoints triggered"),
            inlined: counter("checkpoint_inlined", "Change sets that went into manifests rather than segments"),
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
            full_bytes: family(
                "checkpoint_full_bytes",
                "Stored bytes of changelog that a restore of the newest checkpoint reads",
            ),
            retained: family("checkpoint_retained", "Checkpoints retained"),
            failsafe: family("backend_failsafe", "1 for a backend that refuses writes after a fatal fault"),
            state_bytes: gauge("state_bytes", "Bytes that the inner backends hold, as they account for them"),
            pending_bytes: gauge("changelog_pending_bytes", "Bytes of changes that are not yet durable"),
            sessions: gauge("session_open", "Sessions that write"),
            replay: metrics.register(
                "backend_replay_seconds",
                "How long a restore would replay the changelog, as estimated by recovery.replay-rate",
                Family::default(),
            ),
            pushed_back: family(
                "backend_pushed_back",
                "1 for a backend whose writer waits for a materialization because that would take too long",
            ),
            push_backs: counter("backend_push_backs", "Times that a writer had to wait for a materialization"),
            materializations_started: counter("materialization_started", "Materializations begun"),
            materializations: counter("materialization_completed", "Materializations made"),
            materializations_failed: counter("materialization_failed", "Materializations that failed"),
            materialization_failures: family(
                "materialization_consecutive_failures",
                "Materializations that failed since the last one that did not",
            ),
            materialization_bytes: metrics.register(
                "materialization_size_bytes",
                "Stored bytes of materializations, pieces that were there already included",
                size_buckets(),
            ),
            materialization_uploaded: counter("materialization_uploaded_bytes", "Bytes uploaded by materializations"),
            materialization_pause: metrics.register(
                "materialization_pause_seconds",
                "How long writes waited for an image of a part of an inner backend on local disk",
                durations(),
            ),
            halts: counter("session_halts", "Batches that were rejected and halted their session"),
            restores: counter("restore_completed", "Restores of a checkpoint"),
            warm_restores: counter(
                "restore_warm",
                "Restores that rolled back the state in place, without reading it from the store; part of all",
            ),
            rolled_back: counter(
                "restore_rolled_back_changes",
                "Changes that these restores made to bring their checkpoints back",
            ),
            restore_duration: metrics.register("restore_duration_seconds", "Duration of restores", durations()),
            restored_changes: counter("restore_changes", "State changes replayed"),
            restored_bytes: counter("restore_read_bytes", "Stored bytes of changelog replayed"),
            ttl_removed: removed_entries(metrics),
            committed: counter("checkpoint_committed", "Checkpoints of declared jobs that this daemon committed"),
            reported: gauge(
                "checkpoint_reported",
                "Checkpoints of declared jobs that backends have reported and whose commit they await",
            ),
            queries: QueryMetrics::register(metrics),
            journal: Journal::default(),
        }
    }

    /// The newest outcomes of checkpoints, and errors.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Work that all backends have done so far.
    #[must_use]
    pub fn work(&self) -> Work {
        Work {
            batches: self.batches.get(),
            operations: self.operations.get(),
            appended_bytes: self.appended_bytes.get(),
        }
    }

    pub(super) fn open_backends(&self, count: usize) {
        self.open.set(gauge_value(count as u64));
    }

    pub(super) fn fenced(&self) {
        self.fenced.inc();
    }

    pub(super) fn lingered(&self, cause: LingerEnd) {
        self.lingered.get_or_create(&LingerLabels { cause }).inc();
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

    pub(super) fn tail_inlined(&self) {
        self.inlined.inc();
    }

    pub(super) fn checkpoint_failed(&self, backend: &BackendId, id: CheckpointId, at: TimeMs, error: &Error) {
        self.failed.inc();
        self.in_flight.dec();
        let result = Err(error.message.clone());
        self.journal.add(backend, Outcome { id, at, result, incremental_bytes: 0 });
    }

    pub(super) fn checkpoint_completed(&self, backend: &BackendId, at: TimeMs, checkpoint: &CompletedCheckpoint) {
        let CompletedCheckpoint { sync, persist, publish, incremental_bytes, .. } = *checkpoint;
        let result = Ok(Phases { sync, persist, publish });
        self.journal.add(backend, Outcome { id: checkpoint.identity.id, at, result, incremental_bytes });
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
    }

    /// Records the number of retained checkpoints after a manifest was published, and the bytes that a restore of the
    /// newest one reads.
    pub(super) fn published(&self, backend: &BackendId, retained: usize, full_bytes: u64) {
        let labels = BackendLabels::from(backend);
        self.retained.get_or_create(&labels).set(gauge_value(retained as u64));
        self.full_bytes.get_or_create(&labels).set(gauge_value(full_bytes));
    }

    pub(super) fn failed_safe(&self, backend: &BackendId) {
        self.failsafe.get_or_create(&BackendLabels::from(backend)).set(1);
    }

    /// Removes the gauges of one backend.
    pub(super) fn ended(&self, backend: &BackendId) {
        self.journal.forget(backend);
        let labels = BackendLabels::from(backend);
        self.retained.remove(&labels);
        self.full_bytes.remove(&labels);
        self.failsafe.remove(&labels);
        self.materialization_failures.remove(&labels);
        self.replay.remove(&labels);
        self.pushed_back.remove(&labels);
    }

    /// Records the estimated time of a replay.
    pub(super) fn replay(&self, backend: &BackendId, time: Duration) {
        self.replay.get_or_create(&BackendLabels::from(backend)).set(time.as_secs_f64());
    }

    /// Records that the writer waits, because a replay would take too long.
    pub(super) fn pushed_back(&self, backend: &BackendId) {
        self.push_backs.inc();
        self.pushed_back.get_or_create(&BackendLabels::from(backend)).set(1);
    }

    /// Records that the writer goes on.
    pub(super) fn relieved(&self, backend: &BackendId) {
        self.pushed_back.get_or_create(&BackendLabels::from(backend)).set(0);
    }

    pub(super) fn materialization_started(&self) {
        self.materializations_started.inc();
    }

    pub(super) fn materialized(&self, backend: &BackendId, stored_bytes: u64, uploaded_bytes: u64) {
        self.materializations.inc();
        self.materialization_uploaded.inc_by(uploaded_bytes);
        #[allow(clippy::cast_precision_loss, reason = "a histogram of sizes needs no more than 52 bits")]
        self.materialization_bytes.observe(stored_bytes as f64);
        self.materialization_failures.get_or_create(&BackendLabels::from(backend)).set(0);
    }

    pub(super) fn materialization_failed(&self, backend: &BackendId, consecutive: u32) {
        self.materializations_failed.inc();
        self.materialization_failures.get_or_create(&BackendLabels::from(backend)).set(consecutive.into());
    }

    pub(super) fn image_taken(&self, pause: Duration) {
        self.materialization_pause.observe(pause.as_secs_f64());
    }

    pub(super) fn state_grew(&self, bytes: i64) {
        self.state_bytes.inc_by(bytes);
    }

    pub(super) fn pending_grew(&self, bytes: i64) {
        self.pending_bytes.inc_by(bytes);
    }

    pub(super) fn session_started(&self) {
        self.sessions.inc();
    }

    pub(super) fn session_ended(&self) {
        self.sessions.dec();
    }

    pub(super) fn halted(&self) {
        self.halts.inc();
    }

    pub(super) fn restored(&self, restore: Restores) {
        if restore.replayed {
            self.restores.inc();
            if let Some(changes) = restore.warm {
                self.warm_restores.inc();
                self.rolled_back.inc_by(changes);
            }
            self.restore_duration.observe(restore.duration.as_secs_f64());
            self.restored_changes.inc_by(restore.progress.changes);
            self.restored_bytes.inc_by(restore.progress.bytes_done);
        }
    }

    /// Counts expired entries that a batch removed, by its reads and by incremental clean-up.
    pub(super) fn ttl_removed(&self, reads: Option<&Upkeep>, incremental: Option<&Upkeep>) {
        for (cause, upkeep) in [(Cause::read, reads), (Cause::incremental, incremental)] {
            let entries = upkeep.map_or(0, Upkeep::removed_entries);
            if entries > 0 {
                self.ttl_removed.get_or_create(&CauseLabels { cause }).inc_by(entries);
            }
        }
    }

    pub(super) fn committed(&self) {
        self.committed.inc();
    }

    /// Adds to the number of checkpoints that await their commit.
    pub(super) fn reported(&self, more: i64) {
        self.reported.inc_by(more);
    }

    /// Counts expired entries that a materialization left out.
    pub(super) fn ttl_left_out(&self, entries: u64) {
        if entries > 0 {
            self.ttl_removed.get_or_create(&CauseLabels { cause: Cause::materialization }).inc_by(entries);
        }
    }
}

/// A number of bytes in the type of a gauge.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

//! The figures of a daemon at one moment, as the status page, `/status` and `dstl top` show them.
//!
//! Times are milliseconds since the Unix epoch unless a name says otherwise; sizes are bytes; rates are per second,
//! except those that say `per_hour`.

use serde::{Deserialize, Serialize};

/// All figures of a daemon at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// The daemon's version.
    pub version: String,
    /// Changes with every start of the daemon.
    pub instance: String,
    /// `starting`, `ready` or `draining`.
    pub readiness: String,
    /// When these figures were taken.
    pub at_ms: u64,
    /// Milliseconds since the daemon started to take figures.
    pub uptime_ms: u64,
    /// Rates of the last seconds, of all backends together.
    pub rates: Rates,
    /// Figures of the last minutes, oldest first.
    pub history: Vec<Moment>,
    /// The open backends, by name.
    pub backends: Vec<BackendFigures>,
    /// Requests to the object store.
    pub store: StoreFigures,
    /// The newest errors, newest first.
    pub errors: Vec<ErrorFigures>,
}

/// Work of all backends, per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rates {
    /// Batches applied per second.
    pub batches: f64,
    /// Operations of these batches per second, reads included.
    pub operations: f64,
    /// Bytes appended to changelogs.
    pub appended_bytes: f64,
}

/// Figures of the daemon at one moment of the last minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Moment {
    /// The moment, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Rates at that moment.
    pub rates: Rates,
    /// Bytes of changes that were not yet durable.
    pub pending_bytes: u64,
}

/// One open backend.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendFigures {
    /// Its name: job, operator and subtask.
    pub name: String,
    /// When these figures were taken: before the snapshot, if others have used the backend since without a gap.
    pub at_ms: u64,
    /// The present activity: `writing`, `idle`, `pushed back`, `failsafe`, `closing` or `ended`; `unknown` before the
    /// first figures.
    pub phase: String,
    /// The inner backend, and whether changes are logged.
    pub inner: String,
    /// Whether changes are logged.
    pub changelog: bool,
    /// The number of its owner's epoch.
    pub epoch: u64,
    /// The attempt of its owner.
    pub attempt: u64,
    /// Batches applied per second.
    pub batches_per_second: f64,
    /// Batches below are in the inner backend.
    pub applied_to: u64,
    /// Batches below are durable.
    pub persisted_to: u64,
    /// Batches below are part of a completed checkpoint.
    pub confirmed_to: u64,
    /// Bytes of state in memory.
    pub state_bytes: u64,
    /// Bytes of changes that are not yet durable.
    pub pending_bytes: u64,
    /// Stored bytes of the changelog that is kept.
    pub log_bytes: u64,
    /// Stored bytes of the newest materialization.
    pub materialized_bytes: u64,
    /// Estimated milliseconds to replay the changelog.
    pub replay_ms: u64,
    /// Materializations that failed since the last success.
    pub materialization_failures: u64,
    /// Why writes are refused; empty if they are not.
    pub failsafe: String,
    /// Checkpoints that are retained.
    pub retained: u64,
    /// Checkpoints that are triggered and not yet answered.
    pub in_flight: u64,
    /// The newest retained checkpoint, if there is one.
    pub newest: Option<NewestFigures>,
    /// The newest checkpoint that was proved restorable, or not, if one was tried.
    pub verified: Option<VerifiedFigures>,
    /// The newest checkpoints, oldest first.
    pub checkpoints: Vec<CheckpointFigures>,
}

/// The newest retained checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct NewestFigures {
    /// The id of the checkpoint.
    pub id: u64,
    /// When its barrier came.
    pub triggered_at_ms: u64,
}

/// A checkpoint that was read back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VerifiedFigures {
    /// The id of the checkpoint.
    pub id: u64,
    /// When it was read.
    pub at_ms: u64,
    /// Milliseconds that reading and rebuilding all of it took.
    pub took_ms: u64,
    /// Stored bytes that were read.
    pub bytes: u64,
    /// Why it cannot be restored; empty if it can.
    pub fault: String,
}

/// The outcome of one checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointFigures {
    /// The id of the checkpoint.
    pub id: u64,
    /// When it was done, or failed.
    pub at_ms: u64,
    /// Milliseconds from the barrier to the cut.
    pub sync_ms: f64,
    /// Milliseconds from then until all changes were durable.
    pub persist_ms: f64,
    /// Milliseconds from then until its manifest was durable.
    pub publish_ms: f64,
    /// Bytes of changelog since the checkpoint before.
    pub bytes: u64,
    /// Why it failed; empty if it did not.
    pub fault: String,
}

impl CheckpointFigures {
    /// Milliseconds from the barrier until it was restorable.
    #[must_use]
    pub fn total_ms(&self) -> f64 {
        self.sync_ms + self.persist_ms + self.publish_ms
    }
}

/// Requests to the object store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreFigures {
    /// Figures of each operation.
    pub operations: Vec<OperationFigures>,
    /// Price of all requests of an hour, at the rate of the last minutes.
    pub price_per_hour: f64,
    /// The currency of prices.
    pub currency: String,
    /// The newest failed request of the last ten minutes; empty if there is none.
    pub trouble: String,
    /// Milliseconds since then.
    pub trouble_ago_ms: u64,
}

/// Requests of one operation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OperationFigures {
    /// Name of the operation, as in the metrics.
    pub operation: String,
    /// Requests since the daemon started.
    pub total: u64,
    /// Requests of an hour, at the rate of the last minutes.
    pub per_hour: f64,
    /// Price of the requests of an hour, at the rate of the last minutes.
    pub price_per_hour: f64,
}

/// A recent error, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorFigures {
    /// When it happened.
    pub at_ms: u64,
    /// The backend, or the part of the daemon, that it is about.
    pub about: String,
    /// The text of the error.
    pub text: String,
}

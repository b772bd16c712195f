//! What the supervisor and the task tell each other: JSON, one object a line, over the task's standard input and
//! output.

use serde::{Deserialize, Serialize};

/// From the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Report {
    /// The daemon restores.
    Restoring {
        /// State changes replayed so far.
        changes: u64,
    },
    /// The backend is open.
    Opened {
        /// The record at which the work goes on.
        record: u64,
        /// State changes that were replayed.
        changes: u64,
    },
    /// The first batch of this life is applied.
    Applied,
    /// How far the work is.
    Progress {
        /// Records handed over.
        record: u64,
        /// Updates so far, those of the restored checkpoint included.
        updates: u64,
    },
    /// A checkpoint completed.
    Checkpoint {
        /// From the barrier to the reply, in microseconds.
        duration_us: u64,
        /// Bytes of changelog since the one before.
        bytes: u64,
    },
    /// A checkpoint did not complete; the next one has its changes.
    CheckpointFailed {
        /// Why.
        message: String,
    },
    /// All is done, checkpointed and closed.
    Finished {
        /// Updates in all.
        updates: u64,
    },
}

/// From the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Work up to this record and wait there.
    Permit(u64),
    /// The daemon's process: the task ends it if the supervisor is gone.
    Daemon(u32),
}

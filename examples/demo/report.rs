//! The messages between supervisor and task: JSON, one object per line, over the task's standard input and output.

use serde::{Deserialize, Serialize};

/// A message from the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Report {
    /// The daemon is restoring.
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
    /// The progress of the work.
    Progress {
        /// Number of records that were sent.
        record: u64,
        /// Updates so far, those of the restored checkpoint included.
        updates: u64,
    },
    /// A checkpoint has completed.
    Checkpoint {
        /// Duration from the barrier to the reply, in microseconds.
        duration_us: u64,
        /// Bytes of changelog since the checkpoint before.
        bytes: u64,
    },
    /// A checkpoint did not complete; the next one includes its changes.
    CheckpointFailed {
        /// Why the checkpoint did not complete, for people.
        message: String,
    },
    /// The work is done, checkpointed and closed.
    Finished {
        /// Number of all updates.
        updates: u64,
    },
}

/// A message from the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Work up to this record and wait there.
    Permit(u64),
    /// The daemon's process id: the task ends the daemon if the supervisor is gone.
    Daemon(u32),
}

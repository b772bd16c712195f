//! The words between a backend and its callers: requests, results, descriptions.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    checkpoint::manifest::Manifest,
    claim::states::RegisteredState,
    error::Error,
    savepoint::SavepointId,
    state::op::{Answer, Op},
    types::{BackendId, CheckpointId, CheckpointIdentity, Epoch, Sqn, StateId},
};

/// One operation as it came from a client.
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    /// The state that it reads or changes.
    pub state: StateId,
    /// The key group, exactly if the client assigns key groups; never for operator state.
    pub key_group: Option<u32>,
    /// The key; empty for operator state.
    pub key: &'a [u8],
    /// The namespace; empty for the void namespace.
    pub namespace: &'a [u8],
    /// The operation itself.
    pub op: Op<'a>,
}

/// The result of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BatchResult {
    /// The number of the batch.
    pub number: u64,
    /// Answers by the index of their operation: those of reads, and those of writes that return something. `None` for a
    /// read, or a firing of timers, that was not carried out because earlier answers fill the reply.
    pub answers: Vec<(u32, Option<Answer>)>,
    /// Whether the batch had been applied before, so that nothing was done now.
    pub repeated: bool,
}

/// Why a request of a session was not carried out.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// The session is halted since batch `first_failed`.
    Halted {
        /// The number of the batch that was rejected; `resume` has to name it.
        first_failed: u64,
        /// Why it was rejected.
        error: Error,
    },
    /// This request alone is refused.
    Request(Error),
    /// The session is over.
    Over(Error),
}

/// A request for a checkpoint, from a session or a unary call.
#[derive(Debug, Clone)]
pub struct BarrierRequest {
    /// The checkpoint's id, chosen by the engine.
    pub id: CheckpointId,
    /// Bytes of the task that are stored with the checkpoint.
    pub attachment: Bytes,
    /// Longest time until it is durable; `None` for the configured time.
    pub timeout: Option<Duration>,
}

/// A checkpoint that is restorable.
#[derive(Debug, Clone)]
pub struct CompletedCheckpoint {
    /// The epoch, id and UUID that name it.
    pub identity: CheckpointIdentity,
    /// The encoded handle, with which the engine can restore it.
    pub handle: Bytes,
    /// Batches below this number are part of it.
    pub applied_to: u64,
    /// Bytes of log since the checkpoint before; without changelog, bytes that its snapshot uploaded.
    pub incremental_bytes: u64,
    /// Bytes that a restore of it would read.
    pub full_bytes: u64,
    /// Changes since the checkpoint before.
    pub changes: u64,
    /// Time from the barrier until the cut was made.
    pub sync: Duration,
    /// Time from the cut until all changes, or the snapshot, were durable.
    pub persist: Duration,
    /// Time from then until the manifest was durable.
    pub publish: Duration,
    /// Time from the barrier until now.
    pub total: Duration,
    /// The id of this owner's first checkpoint, from which on it needs none of the objects that it restored and must
    /// not claim. 0 if there is none yet, or if it claimed them.
    pub self_sustained_since: CheckpointId,
}

/// A savepoint that a barrier has made.
#[derive(Debug, Clone)]
pub struct SavepointMade {
    /// The checkpoint behind it, which is let go. Its handle is empty.
    pub checkpoint: CompletedCheckpoint,
    /// Job and name of the savepoint.
    pub id: SavepointId,
    /// Files of rows, of all operators and subtasks.
    pub files: u64,
    /// Number of rows in these files.
    pub rows: u64,
    /// Bytes of these files.
    pub bytes: u64,
}

/// Cumulative durability of batches: each value holds for all batches below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Batches below are in the inner backend.
    pub applied_to: u64,
    /// Batches below are durable in the object store.
    pub persisted_to: u64,
    /// Batches below are part of a completed checkpoint.
    pub confirmed_to: u64,
}

/// One state, for people and tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSummary {
    /// Its id and descriptor.
    pub state: RegisteredState,
    /// Number of its entries: keys for values, map entries, list elements, timers.
    pub entries: u64,
    /// True if counting stopped early, so `entries` is a lower bound.
    pub at_least: bool,
}

impl StateSummary {
    /// A state whose entries were not counted.
    pub(super) fn uncounted(state: RegisteredState) -> Self {
        Self { state, entries: 0, at_least: true }
    }
}

/// The contents of a backend, for people and tools.
#[derive(Debug, Clone)]
pub struct Description {
    /// The name of the backend.
    pub id: BackendId,
    /// The epoch of its owner.
    pub epoch: Epoch,
    /// The newest manifest, with the present log index and ledger.
    pub manifest: Manifest,
    /// Every state that is in force.
    pub states: Vec<StateSummary>,
    /// How durable its batches are.
    pub acknowledgement: Acknowledgement,
    /// Changes below this sequence number are durable.
    pub persisted_to: Sqn,
    /// Bytes of its state, as the inner backend accounts for them.
    pub state_bytes: u64,
    /// Bytes of changes that are not yet durable.
    pub pending_bytes: u64,
    /// Estimated time to replay the changelog.
    pub replay: Duration,
    /// Whether the writer waits for a materialization because of that time.
    pub pushed_back: bool,
    /// Materializations that failed since the last success.
    pub materialization_failures: u32,
    /// See [`CompletedCheckpoint::self_sustained_since`].
    pub self_sustained_since: CheckpointId,
    /// Why writes are refused; empty if they are not.
    pub failsafe: String,
}

//! The request to open a backend.

use std::time::Duration;

use bytes::Bytes;

use super::claiming::{ClaimMode, Claiming};
use crate::{
    checkpoint::{
        handle::CheckpointHandle,
        job::Opener,
        ledger::Retention,
        manifest::{CheckpointRecord, EpochRecord},
    },
    savepoint::SavepointId,
    types::{Attempt, BackendId, InnerBackend, KeyGroupAssignment, KeyGroupRange},
};

/// A request to open a backend.
#[derive(Debug, Clone)]
pub struct OpenSpec {
    /// The backend to open.
    pub id: BackendId,
    /// Number of subtasks of the operator.
    pub parallelism: u32,
    /// Number of key groups of the operator; `None` for that of the existing state, or the default.
    pub max_parallelism: Option<u32>,
    /// The key groups of the subtask; `None` to compute them.
    pub key_groups: Option<KeyGroupRange>,
    /// Whether the daemon or the client computes key groups; `None` for that of the existing state, or the daemon.
    pub assignment: Option<KeyGroupAssignment>,
    /// The inner backend; `None` as configured.
    pub inner: Option<InnerBackend>,
    /// Whether changes are logged; `None` as configured.
    pub changelog: Option<bool>,
    /// Orders the owners. With a `token`, it is the attempt that was taken for it.
    pub attempt: Attempt,
    /// Names the start of the job, instead of an attempt; empty for none.
    pub token: Bytes,
    /// Whether a running owner of the same attempt is replaced instead of returned.
    pub fresh: bool,
    /// Openers with the same value are peers, whatever their attempts. If empty, the openers of the same attempt are
    /// peers.
    pub peers: Bytes,
    /// The run of the job that its checkpoints belong to.
    pub job_run: Bytes,
    /// The state to begin with.
    pub restore: RestoreFrom,
    /// If that checkpoint is damaged, whether to begin with the newest checkpoint before it that every subtask of the
    /// job retains undamaged.
    pub fallback: bool,
    /// How many checkpoints to retain; `None` as configured.
    pub retention: Option<Retention>,
    /// How long the backend stays open without session; `None` as configured.
    pub linger: Option<Duration>,
    /// Who owns the restored checkpoint. `None` as configured; the checkpoint of another operator cannot be claimed.
    pub claim: Option<ClaimMode>,
}

impl OpenSpec {
    /// The subtask that opens, for the decisions of its job.
    pub(crate) fn opener(&self) -> Opener<'_> {
        Opener { backend: &self.id, parallelism: self.parallelism, attempt: self.attempt }
    }

    /// Whether `owner` was started together with this one. Peers neither fence nor outdate each other in chains that
    /// they only read.
    pub(crate) fn is_peer(&self, owner: &EpochRecord) -> bool {
        owner.attempt == self.attempt || (!self.peers.is_empty() && owner.peers == self.peers)
    }

    /// Whether the request is for a checkpoint of another job or operator, or for a savepoint.
    pub(crate) fn is_clone(&self) -> bool {
        matches!(self.restore, RestoreFrom::Savepoint(_))
            || self.restore.handles().iter().any(|handle| !same_operator(&handle.backend, &self.id))
    }

    /// Marks `record` as restored. If it is claimed, it counts in this run from then on. If it must not be claimed, it
    /// is pinned, since a checkpoint of the own run would be counted otherwise.
    pub(crate) fn mark(&self, by: &Claiming, record: &mut CheckpointRecord) {
        if self.is_no_claim(by) {
            record.pinned |= record.job_run == self.job_run;
        } else {
            record.job_run = self.job_run.clone();
        }
    }

    /// Whether `record` is marked as [`mark`](Self::mark) does.
    pub(crate) fn has_marked(&self, by: &Claiming, record: &CheckpointRecord) -> bool {
        let is_own = record.job_run == self.job_run;
        if self.is_no_claim(by) { record.pinned || !is_own } else { is_own }
    }

    /// Whether the restored checkpoint must not be claimed.
    pub(crate) fn is_no_claim(&self, by: &Claiming) -> bool {
        self.is_clone() || self.claim.unwrap_or(by.claim) == ClaimMode::NoClaim
    }
}

/// The state that a backend begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreFrom {
    /// The empty state.
    Empty,
    /// The checkpoint with this id, of the newest attempt that has all of it; otherwise of the newest that has all key
    /// groups of this backend.
    Id(u64),
    /// The checkpoint of these handles, which together must have all key groups of this backend.
    Handles(Vec<CheckpointHandle>),
    /// The parts that these handles name, which the engine says belong together. They may be of different checkpoints,
    /// operators and jobs, but no two may share a key group. Key groups that none of them has begin empty.
    Vouched(Vec<CheckpointHandle>),
    /// A savepoint that has this operator.
    Savepoint(SavepointId),
    /// The newest checkpoint that every subtask of the job can restore.
    Latest {
        /// Whether to begin empty if some subtask has no completed checkpoint.
        or_empty: bool,
    },
}

impl RestoreFrom {
    /// The given handles; empty for other requests.
    pub(crate) fn handles(&self) -> &[CheckpointHandle] {
        match self {
            Self::Handles(handles) | Self::Vouched(handles) => handles,
            Self::Empty | Self::Id(_) | Self::Savepoint(_) | Self::Latest { .. } => &[],
        }
    }

    /// The kind of restore, for tracing.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Id(_) => "id",
            Self::Handles(_) | Self::Vouched(_) => "handles",
            Self::Savepoint(_) => "savepoint",
            Self::Latest { .. } => "latest",
        }
    }
}

/// Whether both are subtasks of one operator of one job.
pub(crate) fn same_operator(one: &BackendId, other: &BackendId) -> bool {
    (&one.job, &one.operator) == (&other.job, &other.operator)
}

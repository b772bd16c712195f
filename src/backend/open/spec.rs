//! What a backend shall be opened as.

use std::time::Duration;

use bytes::Bytes;

use super::{super::environment::Environment, clone};
use crate::{
    checkpoint::{
        handle::CheckpointHandle,
        ledger::Retention,
        manifest::{CheckpointRecord, EpochRecord},
    },
    savepoint::SavepointId,
    types::{Attempt, BackendId, InnerBackend, KeyGroupAssignment, KeyGroupRange},
};

/// A request to open a backend.
#[derive(Debug, Clone)]
pub struct OpenSpec {
    /// Which.
    pub id: BackendId,
    /// Subtasks of the operator.
    pub parallelism: u32,
    /// Key groups of the operator; `None` for those of the state there is, or the default.
    pub max_parallelism: Option<u32>,
    /// Those of the subtask; `None` to compute them.
    pub key_groups: Option<KeyGroupRange>,
    /// `None` for that of the state there is, or hashed.
    pub assignment: Option<KeyGroupAssignment>,
    /// `None` as configured.
    pub inner: Option<InnerBackend>,
    /// `None` as configured.
    pub changelog: Option<bool>,
    /// Orders the owners; where there is a `token`, the one that was taken for it.
    pub attempt: Attempt,
    /// Names the start of the job that this is part of, instead of an attempt; empty: none.
    pub token: Bytes,
    /// An owner of this very attempt is replaced, rather than found again.
    pub fresh: bool,
    /// Those that open with the same are its peers, whatever their attempts; empty: those of its attempt are.
    pub peers: Bytes,
    /// The run of the job that its checkpoints belong to.
    pub job_run: Bytes,
    /// What to begin with.
    pub restore: RestoreFrom,
    /// Where that is damaged, with the newest checkpoint before it that all subtasks of the job retain and of which
    /// nothing is.
    pub fallback: bool,
    /// `None` as configured.
    pub retention: Option<Retention>,
    /// How long it stays open without session; `None` as configured.
    pub linger: Option<Duration>,
    /// `None` as configured, if it is of the same operator; else it cannot be claimed.
    pub claim: Option<ClaimMode>,
}

/// Who owns the checkpoint that is restored from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimMode {
    /// The new owner, which builds on it and lets it go.
    Claim,
    /// Nobody: it stays until a user lets it go, and the new owner needs nothing of it from its first checkpoint on.
    NoClaim,
}

impl OpenSpec {
    /// Whether `owner` was started together with this one. Such owners neither fence nor outdate each other where they
    /// only read.
    pub(super) fn is_peer(&self, owner: &EpochRecord) -> bool {
        owner.attempt == self.attempt || (!self.peers.is_empty() && owner.peers == self.peers)
    }

    /// Marks `record` as what is restored: claimed, it is counted in this run from then on. Of the own run it would be
    /// counted, so where nobody shall claim it, it is pinned.
    pub(super) fn mark(&self, env: &Environment, record: &mut CheckpointRecord) {
        if self.is_no_claim(env) {
            record.pinned |= record.job_run == self.job_run;
        } else {
            record.job_run = self.job_run.clone();
        }
    }

    /// Whether that was done.
    pub(super) fn has_marked(&self, env: &Environment, record: &CheckpointRecord) -> bool {
        let is_own = record.job_run == self.job_run;
        if self.is_no_claim(env) { record.pinned || !is_own } else { is_own }
    }

    /// Whether what is restored shall not be claimed.
    pub(super) fn is_no_claim(&self, env: &Environment) -> bool {
        let is_nobodys = clone::is_clone(self) || matches!(self.restore, RestoreFrom::Savepoint(_));
        is_nobodys || self.claim.unwrap_or(env.options.claim) == ClaimMode::NoClaim
    }
}

/// What a backend begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreFrom {
    /// Nothing.
    Empty,
    /// The checkpoint with this id: of the newest attempt that has it whole, or else all key groups of this backend.
    Id(u64),
    /// The checkpoint of these handles, which together must have all key groups of this backend.
    Handles(Vec<CheckpointHandle>),
    /// What these handles name, which the engine says belongs together: they may be of different checkpoints, operators
    /// and jobs, as long as none has a key group of another. Key groups that none has begin empty.
    Vouched(Vec<CheckpointHandle>),
    /// A savepoint, which has the operator.
    Savepoint(SavepointId),
    /// The newest that every subtask of the job can restore.
    Latest {
        /// Begin empty where no subtask has a completed one.
        or_empty: bool,
    },
}

impl RestoreFrom {
    /// The handles that were given; none otherwise.
    pub(super) fn handles(&self) -> &[CheckpointHandle] {
        match self {
            Self::Handles(handles) | Self::Vouched(handles) => handles,
            Self::Empty | Self::Id(_) | Self::Savepoint(_) | Self::Latest { .. } => &[],
        }
    }
}

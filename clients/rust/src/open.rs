//! Options of opening a backend.

use bytes::Bytes;

use dstl_proto::{
    types::KeyGroupRange,
    v1::{self, OpenRequest, restore, retention},
};

pub use dstl_proto::v1::{ClaimMode, InnerBackend, KeyGroupAssignment};

/// The state that the backend has when it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restore {
    /// The empty state.
    Empty,
    /// The newest checkpoint of this backend with this id.
    Id(u64),
    /// The checkpoints that these handles name.
    Handles(Vec<Bytes>),
    /// The parts that these handles name, which may be of different checkpoints, operators or jobs; the caller vouches
    /// that they belong together. Key groups that none of them has begin empty.
    Vouched(Vec<Bytes>),
    /// A savepoint, by its URL in the store.
    Savepoint(String),
    /// The newest checkpoint that every subtask of the job can restore.
    Latest {
        /// Whether to begin empty if there is none, instead of being refused.
        or_empty: bool,
    },
}

/// Which completed checkpoints stay restorable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// The newest ones, as many as this number; at least 1.
    Count(u32),
    /// All, until a notice SUBSUME or DISCARD lets them go.
    Explicit,
}

/// Options of opening a backend. The daemon's defaults apply to options that are not set; see `OpenRequest` in the
/// protocol.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct OpenOptions {
    request: OpenRequest,
}

impl OpenOptions {
    /// The only subtask of an operator, attempt 0, restoring the latest checkpoint or starting empty.
    pub fn new(job: impl Into<String>, operator: impl Into<String>) -> Self {
        let backend = Some(v1::BackendId { job: job.into(), operator: operator.into(), subtask: 0 });
        let request = OpenRequest { backend, parallelism: 1, ..OpenRequest::default() };
        Self { request }.restore(Restore::Latest { or_empty: true })
    }

    /// One subtask, from 0, of `parallelism`.
    pub fn subtask(mut self, subtask: u32, parallelism: u32) -> Self {
        self.request.backend.get_or_insert_default().subtask = subtask;
        self.request.parallelism = parallelism;
        self
    }

    /// The number of key groups, 1 to 32768; fixed for the life of the state.
    pub fn max_parallelism(mut self, max_parallelism: u32) -> Self {
        self.request.max_parallelism = max_parallelism;
        self
    }

    /// The subtask's key groups, instead of those that Flink would give it.
    pub fn key_groups(mut self, range: KeyGroupRange) -> Self {
        self.request.key_groups =
            Some(v1::KeyGroupRange { first: u32::from(range.first().0), last: u32::from(range.last().0) });
        self
    }

    /// Whether the daemon or the client computes key groups; fixed for the life of the state.
    pub fn key_group_assignment(mut self, assignment: KeyGroupAssignment) -> Self {
        self.request.key_group_assignment = assignment.into();
        self
    }

    /// The inner backend.
    pub fn inner(mut self, inner: InnerBackend) -> Self {
        self.request.inner = inner.into();
        self
    }

    /// Whether changes are logged; yes by default.
    pub fn changelog(mut self, enabled: bool) -> Self {
        let mode = if enabled { v1::ChangelogMode::Enabled } else { v1::ChangelogMode::Disabled };
        self.request.changelog = mode.into();
        self
    }

    /// The attempt, which orders the owners of one backend: each new start of the task takes a higher one.
    pub fn attempt(mut self, attempt: u64) -> Self {
        self.request.attempt = attempt;
        self
    }

    /// Names this start of the job by 1 to 64 opaque bytes, instead of by an attempt. Use the same token for all
    /// subtasks that are started together, and never use it again. The daemon gives it the job's next attempt, which
    /// `Opened.attempt` tells.
    pub fn attempt_token(mut self, token: impl Into<Bytes>) -> Self {
        self.request.attempt_token = token.into();
        self
    }

    /// Replaces a running owner of the same attempt and restores, instead of returning that owner.
    pub fn fresh(mut self) -> Self {
        self.request.fresh = true;
        self
    }

    /// The group of this owner, up to 64 bytes. Owners of one group neither fence nor outdate each other in backends
    /// that they only read, whatever their attempts.
    pub fn peer_group(mut self, group: impl Into<Bytes>) -> Self {
        self.request.peer_group = group.into();
        self
    }

    /// The run of the job that the checkpoints belong to, up to 64 bytes. Retention by count considers only checkpoints
    /// of this run.
    pub fn run(mut self, run: impl Into<Bytes>) -> Self {
        self.request.run = run.into();
        self
    }

    /// How long the backend stays open without session. Zero means the daemon's configuration, which by default is for
    /// ever.
    pub fn linger(mut self, linger: std::time::Duration) -> Self {
        self.request.linger_ms = u64::try_from(linger.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// The state to begin with.
    pub fn restore(mut self, restore: Restore) -> Self {
        let restore = match restore {
            Restore::Empty => restore::Restore::Empty(restore::Empty {}),
            Restore::Id(id) => restore::Restore::Id(id),
            Restore::Handles(handles) => restore::Restore::Handles(restore::Handles { handles, vouched: false }),
            Restore::Vouched(handles) => restore::Restore::Handles(restore::Handles { handles, vouched: true }),
            Restore::Savepoint(url) => restore::Restore::Savepoint(url),
            Restore::Latest { or_empty } => restore::Restore::Latest(restore::Latest { or_empty }),
        };
        self.request.restore = Some(v1::Restore { restore: Some(restore), ..v1::Restore::default() });
        self
    }

    /// If the checkpoint to restore is damaged, begin with the newest one before it that the whole job can restore.
    /// Call it after [`OpenOptions::restore`] with an id or the latest.
    pub fn fallback(mut self, fallback: bool) -> Self {
        self.request.restore.get_or_insert_default().fallback = fallback;
        self
    }

    /// The owner of the restored checkpoint from then on.
    pub fn claim(mut self, mode: ClaimMode) -> Self {
        self.request.claim_mode = mode.into();
        self
    }

    /// Which completed checkpoints stay restorable.
    pub fn retain(mut self, retention: Retention) -> Self {
        let retention = match retention {
            Retention::Count(count) => retention::Retention::Count(count),
            Retention::Explicit => retention::Retention::Explicit(retention::Explicit {}),
        };
        self.request.retention = Some(v1::Retention { retention: Some(retention) });
        self
    }

    /// The request itself.
    #[must_use]
    pub fn into_request(self) -> OpenRequest {
        self.request
    }
}

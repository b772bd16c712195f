//! Options of backends.

use std::time::Duration;

use crate::{
    changelog::{block::SPLIT_BYTES, compression::Compression},
    checkpoint::ledger::Retention,
    claim::claiming::ClaimMode,
    materialization::schedule::ScheduleOptions,
    types::{InnerBackend, Limits},
};

/// Options of backends; the configuration options of the same names explain each.
#[derive(Debug, Clone)]
pub struct BackendOptions {
    /// Limits on a client's requests.
    pub limits: Limits,
    /// Inner backend if `Open` names none.
    pub inner: InnerBackend,
    /// Whether changes are logged if `Open` does not say.
    pub changelog: bool,
    /// Retention if `Open` names none.
    pub retention: Retention,
    /// Time limit of a checkpoint whose barrier has none.
    pub checkpoint_timeout: Duration,
    /// Bytes of changes in one writer's memory at which they are uploaded without a barrier.
    pub preemptive_persist_threshold: u64,
    /// Longest un-uploaded changes, in bytes, that a barrier puts into the manifest instead of a segment; 0 for never.
    /// The daemon's default is 20 KiB.
    pub data_inline_threshold: usize,
    /// A change set of at least this many bytes is cut into one block per part of the key groups.
    pub block_split_threshold: usize,
    /// Bytes of state in memory that all backends of the daemon may hold together.
    pub state_memory: u64,
    /// Range reads of one restore in flight at the same time.
    pub download_parallelism: usize,
    /// How long changes of the ledger by notices may wait for the manifest of a checkpoint, before a manifest is
    /// written for them alone.
    pub notice_delay: Duration,
    /// How long an open tries to reach the store.
    pub open_timeout: Duration,
    /// How often a daemon looks for commits of other daemons, in declared jobs.
    pub coordination_interval: Duration,
    /// Owner of a restored checkpoint if `Open` does not say.
    pub claim: ClaimMode,
    /// How long a pin of a clone stays valid after its last renewal.
    pub pin_lease: Duration,
    /// How long a backend stays open without session if `Open` does not say; `None` for ever.
    pub linger: Option<Duration>,
    /// How long a start that was named by a token is remembered after another start has superseded it.
    pub start_grace: Duration,
    /// When backends materialize.
    pub materialization: ScheduleOptions,
    /// Time limit of one materialization.
    pub materialization_timeout: Duration,
    /// Compression of snapshots, and of tails in manifests.
    pub compression: Compression,
    /// Whether clients may read backends while they are written. Then completed checkpoints stay readable in memory.
    pub queries: bool,
    /// Whether a task that comes back to this daemon gets its state from this host's memory or disk, as far as
    /// possible, instead of the store.
    pub warm: bool,
    /// Bytes of state overwritten since the last completed checkpoint that each backend may keep.
    pub undo_memory: u64,
    /// Bytes of state that a reader of a checkpoint may hold.
    pub reading_memory: u64,
    /// How long a savepoint of a barrier may take if the barrier does not say.
    pub savepoint_timeout: Duration,
}

impl Default for BackendOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            inner: InnerBackend::HashMap,
            changelog: true,
            retention: Retention::Count(3),
            checkpoint_timeout: Duration::from_secs(600),
            preemptive_persist_threshold: 5 << 20,
            data_inline_threshold: 0,
            block_split_threshold: SPLIT_BYTES,
            state_memory: 4 << 30,
            download_parallelism: 4,
            notice_delay: Duration::from_secs(5),
            open_timeout: Duration::from_secs(120),
            coordination_interval: Duration::from_secs(1),
            claim: ClaimMode::Claim,
            pin_lease: Duration::from_secs(600),
            linger: None,
            start_grace: Duration::from_secs(3_600),
            materialization: ScheduleOptions::default(),
            materialization_timeout: Duration::from_secs(600),
            compression: Compression::None,
            queries: false,
            warm: false,
            undo_memory: 16 << 20,
            reading_memory: 64 << 20,
            savepoint_timeout: Duration::from_secs(3_600),
        }
    }
}

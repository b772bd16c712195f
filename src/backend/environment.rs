//! What the backends of one daemon share.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::{
    coordination::Coordinators, core::Core, credit::CreditPool, linger::Idle, metrics::BackendMetrics, open::ClaimMode,
    turns::Turns,
};
use crate::{
    changelog::{block::SPLIT_BYTES, compression::Compression, registry::Registry},
    checkpoint::{job::Decisions, ledger::Retention},
    clock::Clock,
    materialization::schedule::ScheduleOptions,
    object::Store,
    random::Random,
    state::image::LocalBackends,
    tasks::Tasks,
    types::{InnerBackend, Limits},
};

/// Settings of backends; see the options of the same names in the configuration.
#[derive(Debug, Clone)]
pub struct BackendOptions {
    /// What a client may ask for at most.
    pub limits: Limits,
    /// Inner backend where `Open` names none.
    pub inner: InnerBackend,
    /// Whether changes are logged where `Open` does not say.
    pub changelog: bool,
    /// Retention where `Open` names none.
    pub retention: Retention,
    /// How long a checkpoint may take where its barrier does not say.
    pub checkpoint_timeout: Duration,
    /// Bytes of changes in one writer's memory at which they are uploaded without a barrier.
    pub preemptive_persist_threshold: u64,
    /// Bytes of un-uploaded changes up to which a barrier puts them into the manifest rather than a segment; 0: never.
    /// The daemon's configuration has 20 KiB.
    pub data_inline_threshold: usize,
    /// Bytes of a change set from which on it is cut into a block for each part of the key groups.
    pub block_split_threshold: usize,
    /// Bytes of state that all backends of the daemon may hold in memory.
    pub state_memory: u64,
    /// Range reads of one restore in flight.
    pub download_parallelism: usize,
    /// How long changes to the ledger (notices) may wait for a manifest to be written with a checkpoint before one is
    /// written for them alone.
    pub notice_delay: Duration,
    /// How long opening tries to reach the store.
    pub open_timeout: Duration,
    /// How often a daemon looks whether another one has committed what its backends reported, in declared jobs.
    pub coordination_interval: Duration,
    /// Who owns what is restored where `Open` does not say.
    pub claim: ClaimMode,
    /// How long what a clone reads is kept for it after it last said that it still reads.
    pub pin_lease: Duration,
    /// How long a backend stays open without session where `Open` does not say; `None`: for ever.
    pub linger: Option<Duration>,
    /// How long a start that was named by a token is remembered after another one superseded it.
    pub start_grace: Duration,
    /// When backends materialize.
    pub materialization: ScheduleOptions,
    /// How long one materialization may take.
    pub materialization_timeout: Duration,
    /// How snapshots, and tails in manifests, are stored.
    pub compression: Compression,
    /// Whether anybody may read backends beside their writers. Then their completed checkpoints are kept readable.
    pub queries: bool,
    /// Whether a task that comes back to this daemon gets its state back from memory, where what changed since its
    /// checkpoint is known.
    pub warm: bool,
    /// Bytes that each backend may keep of what was overwritten since its last completed checkpoint.
    pub undo_memory: u64,
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
        }
    }
}

/// What the backends of one daemon share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The only door to the object store.
    pub store: Store,
    /// The wall clock.
    pub clock: Clock,
    /// The source of UUIDs and jitter.
    pub random: Random,
    /// Where background work runs.
    pub tasks: Tasks,
    /// This daemon process.
    pub instance: Uuid,
    /// Settings.
    pub options: Arc<BackendOptions>,
    /// Uploads per job.
    pub uploads: Registry,
    /// Memory for changes that are not yet durable.
    pub credit: CreditPool,
    /// Memory that states take, over all backends.
    pub state_bytes: Arc<std::sync::atomic::AtomicU64>,
    /// Backends that may go when memory runs short.
    pub idle: Idle,
    /// Inner backends on local disk, if the daemon has any.
    pub local: Option<Arc<dyn LocalBackends>>,
    /// One materialization at a time.
    pub materializing: Turns,
    /// Of jobs that were declared.
    pub coordinators: Coordinators,
    /// Which checkpoints the attempts of jobs begin with.
    pub decisions: Decisions,
    /// Metrics.
    pub metrics: BackendMetrics,
}

impl Environment {
    /// Bytes that the states of all backends take.
    pub(super) fn taken_by_state(&self) -> u64 {
        self.state_bytes.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Ends idle backends for as long as states take more than they may.
    pub(super) fn make_room_for_state(&self) {
        let why = "memory for state ran short (`memory.state`)";
        while self.taken_by_state() >= self.options.state_memory && self.idle.make_room(why, Core::takes_memory) {}
    }
}

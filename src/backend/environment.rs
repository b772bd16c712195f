//! The environment that the backends of one daemon share.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::{
    coordination::Coordinators, core::Core, credit::CreditPool, linger::Idle, metrics::BackendMetrics, turns::Turns,
};
use crate::{
    changelog::{block::SPLIT_BYTES, compression::Compression, registry::Registry},
    checkpoint::{job::Decisions, ledger::Retention},
    claim::claiming::{ClaimMode, Claiming},
    clock::Clock,
    materialization::schedule::ScheduleOptions,
    object::Store,
    random::Random,
    state::image::LocalBackends,
    tasks::Tasks,
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

/// The environment that the backends of one daemon share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The object store.
    pub store: Store,
    /// The wall clock.
    pub clock: Clock,
    /// The source of UUIDs and jitter.
    pub random: Random,
    /// Runs background work.
    pub tasks: Tasks,
    /// Names this daemon process.
    pub instance: Uuid,
    /// Options of backends.
    pub options: Arc<BackendOptions>,
    /// The uploads of each job.
    pub uploads: Registry,
    /// Memory for changes that are not yet durable.
    pub credit: CreditPool,
    /// Bytes that the states of all backends take together.
    pub state_bytes: Arc<std::sync::atomic::AtomicU64>,
    /// Idle backends, which may be ended when memory runs short.
    pub idle: Idle,
    /// Inner backends on local disk, if the daemon has any.
    pub local: Option<Arc<dyn LocalBackends>>,
    /// Lets one backend at a time materialize.
    pub materializing: Turns,
    /// Coordinators of declared jobs.
    pub coordinators: Coordinators,
    /// Decisions about which checkpoint an attempt begins with.
    pub decisions: Decisions,
    /// Metrics of backends.
    pub metrics: BackendMetrics,
}

impl Environment {
    /// The resources of an opener that claims a backend.
    pub(super) fn claiming(&self) -> Claiming {
        let options = &self.options;
        Claiming {
            store: self.store.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
            instance: self.instance,
            decisions: self.decisions.clone(),
            inner: options.inner,
            changelog: options.changelog,
            claim: options.claim,
            limits: options.limits,
            pin_lease: options.pin_lease,
            open_timeout: options.open_timeout,
            start_grace: options.start_grace,
        }
    }

    /// Bytes that the states of all backends take together.
    pub(super) fn taken_by_state(&self) -> u64 {
        self.state_bytes.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Ends idle backends as long as all states together exceed their memory.
    pub(super) fn make_room_for_state(&self) {
        let why = "memory for state ran short (`memory.state`)";
        while self.taken_by_state() >= self.options.state_memory && self.idle.make_room(why, Core::takes_memory) {}
    }
}

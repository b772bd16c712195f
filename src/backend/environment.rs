//! The environment that the backends of one daemon share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use uuid::Uuid;

use super::{
    credit::CreditPool,
    idle::{Frees, Idle},
    metrics::BackendMetrics,
    options::BackendOptions,
    turns::Turns,
};
use crate::{
    changelog::registry::Registry, checkpoint::job::Decisions, claim::claiming::Claiming, clock::Clock, object::Store,
    random::Random, state::image::LocalBackends, tasks::Tasks,
};

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
    pub state_bytes: Arc<AtomicU64>,
    /// Idle backends, which may be ended when memory runs short.
    pub idle: Idle,
    /// Inner backends on local disk, if the daemon has any.
    pub local: Option<Arc<dyn LocalBackends>>,
    /// Lets one backend at a time materialize.
    pub materializing: Turns,
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
        self.state_bytes.load(Ordering::Relaxed)
    }

    /// Ends idle backends as long as all states together exceed their memory.
    pub(super) fn make_room_for_state(&self) {
        let why = "memory for state ran short (`memory.state`)";
        while self.taken_by_state() >= self.options.state_memory && self.idle.make_room(why, Frees::State) {}
    }
}

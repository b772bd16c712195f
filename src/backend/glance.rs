//! A glance at a backend: the figures of the status page, taken without waiting for a lock.

use std::time::Duration;

use super::{condition::Condition, core::Core, handle::Backend, words::Acknowledgement};
use crate::types::{Attempt, BackendId, CheckpointId, InnerBackend, TimeMs};

/// The present activity of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A session writes.
    Writing,
    /// It has no session.
    Idle,
    /// Its writer waits for a materialization, since a replay would take too long.
    PushedBack,
    /// It refuses writes after a fatal fault.
    Failsafe,
    /// It is being closed.
    Closing,
    /// It has ended.
    Ended,
}

/// The figures of one backend at one moment.
#[derive(Debug, Clone)]
pub struct Glance {
    /// The name of the backend.
    pub id: BackendId,
    /// The number of its owner's epoch.
    pub epoch: u64,
    /// The attempt of its owner.
    pub attempt: Attempt,
    /// The inner backend that has the state.
    pub inner: InnerBackend,
    /// Whether changes are logged.
    pub changelog: bool,
    /// The present activity.
    pub phase: Phase,
    /// How durable its batches are.
    pub acknowledgement: Acknowledgement,
    /// Bytes of its state in memory, as counted after the last batch.
    pub state_bytes: u64,
    /// Bytes of changes that are not yet durable.
    pub pending_bytes: u64,
    /// Stored bytes of the changelog that is kept.
    pub log_bytes: u64,
    /// Stored bytes of the newest materialization.
    pub base_bytes: u64,
    /// Estimated time to replay the changelog.
    pub replay: Duration,
    /// Materializations that failed since the last success.
    pub materialization_failures: u32,
    /// Why writes are refused; empty if they are not.
    pub failsafe: String,
    /// Checkpoints that are retained.
    pub retained: usize,
    /// Checkpoints that are triggered and not yet answered.
    pub in_flight: usize,
    /// The newest retained checkpoint: its id, and when it was triggered.
    pub newest: Option<(CheckpointId, TimeMs)>,
}

impl Backend {
    /// The figures of the backend; `None` while others use it, be it for microseconds or because a disk hangs.
    #[must_use]
    pub fn glance(&self) -> Option<Glance> {
        self.shared.try_core().map(|core| glance(&core))
    }
}

fn glance(core: &Core) -> Glance {
    let owner = &core.owner;
    let (manifest, retained) = (owner.manifest(), owner.ledger().retained());
    Glance {
        id: core.id.clone(),
        epoch: owner.epoch().number,
        attempt: manifest.owner().attempt,
        inner: manifest.shape.inner,
        changelog: manifest.shape.changelog,
        phase: phase(core),
        acknowledgement: core.acknowledgement(),
        state_bytes: core.table.counted_bytes(),
        pending_bytes: owner.writer().unpersisted_bytes(),
        log_bytes: manifest.log_totals().stored_bytes,
        base_bytes: owner.base().map_or(0, |base| base.stored_bytes),
        replay: core.bases.replay_time(),
        materialization_failures: core.bases.failures(),
        failsafe: core.condition.failsafe(),
        retained: retained.len(),
        in_flight: core.waiters.in_flight().len(),
        newest: retained.last().map(|record| (record.identity.id, record.triggered_at)),
    }
}

fn phase(core: &Core) -> Phase {
    // The most serious phase counts: a backend that closes, for example, may still have a session.
    match &core.condition {
        Condition::Ended(_) => Phase::Ended,
        Condition::Failsafe(_) => Phase::Failsafe,
        Condition::Serving if core.owner.is_closing() => Phase::Closing,
        Condition::Serving if core.bases.push_back.is_on() => Phase::PushedBack,
        Condition::Serving if core.seat.is_taken() => Phase::Writing,
        Condition::Serving => Phase::Idle,
    }
}

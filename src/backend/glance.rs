//! A glance at a backend: the figures of the status page, taken without waiting for anybody.

use std::time::Duration;

use super::{
    core::{Acknowledgement, Condition, Core},
    handle::Backend,
};
use crate::types::{Attempt, BackendId, CheckpointId, InnerBackend, TimeMs};

/// What a backend is doing.
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
    /// What it is doing.
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
        self.shared.try_core().map(|core| core.glance())
    }
}

impl Core {
    fn glance(&self) -> Glance {
        let newest = self.owner.ledger().retained().last();
        Glance {
            id: self.id.clone(),
            epoch: self.owner.epoch().number,
            attempt: self.owner.manifest().owner().attempt,
            inner: self.owner.manifest().shape.inner,
            changelog: self.owner.manifest().shape.changelog,
            phase: self.phase(),
            acknowledgement: self.acknowledgement(),
            state_bytes: self.counted_state_bytes,
            pending_bytes: self.owner.writer().unpersisted_bytes(),
            log_bytes: self.owner.manifest().log_totals().stored_bytes,
            base_bytes: self.owner.base().map_or(0, |base| base.stored_bytes),
            replay: self.replay_time(),
            materialization_failures: self.materialization_failures,
            failsafe: match &self.condition {
                Condition::Failsafe(why) => why.clone(),
                Condition::Serving | Condition::Ended(_) => String::new(),
            },
            retained: self.owner.ledger().retained().len(),
            in_flight: self.flights.len(),
            newest: newest.map(|record| (record.identity.id, record.triggered_at)),
        }
    }

    fn phase(&self) -> Phase {
        match &self.condition {
            Condition::Ended(_) => Phase::Ended,
            Condition::Failsafe(_) => Phase::Failsafe,
            Condition::Serving if self.owner.is_closing() => Phase::Closing,
            Condition::Serving if self.push_back.is_on() => Phase::PushedBack,
            Condition::Serving if self.session.is_some() => Phase::Writing,
            Condition::Serving => Phase::Idle,
        }
    }
}

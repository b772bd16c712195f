//! Descriptions of a backend, for people and tools.

use tokio::time::{Duration, Instant};

use super::{
    core::Core,
    handle::Backend,
    words::{Description, StateSummary},
};
use crate::tasks;

/// Longest time that a description spends counting entries.
const COUNTING_TIME: Duration = Duration::from_secs(10);

impl Backend {
    /// Describes the backend, without the numbers of entries.
    #[must_use]
    pub fn outline(&self) -> Description {
        outline(&self.shared.core())
    }

    /// Describes the backend, with the numbers of entries. An inner backend on disk may block for up to
    /// ten seconds to count them; the writer goes on meanwhile.
    #[must_use]
    pub fn describe(&self) -> Description {
        let (mut description, counting) = {
            let core = self.shared.core();
            (outline(&core), core.table.counting())
        };
        // Counted without the core: the writer goes on, and the counts may be of a later moment than the rest.
        let until = Instant::now() + COUNTING_TIME;
        // A fault of the local store leads to failsafe elsewhere; here the counts are only unknown.
        let counts = tasks::blocking(|| counting(&mut || Instant::now() < until)).unwrap_or_default();
        for state in &mut description.states {
            state.entries = counts.entries.get(&state.state.id).copied().unwrap_or(0);
            state.at_least = !counts.complete;
        }
        description
    }
}

/// Describes the backend without counting entries.
fn outline(core: &Core) -> Description {
    let mut manifest = core.owner.manifest().clone();
    manifest.checkpoints = core.owner.ledger().retained().to_vec();
    Description {
        id: core.id.clone(),
        epoch: core.owner.epoch(),
        manifest,
        states: core.table.states().in_force().map(StateSummary::uncounted).collect(),
        acknowledgement: core.acknowledgement(),
        persisted_to: core.owner.writer().persisted_to(),
        state_bytes: core.table.bytes(),
        pending_bytes: core.owner.writer().unpersisted_bytes(),
        replay: core.bases.replay_time(),
        pushed_back: core.bases.push_back.is_on(),
        materialization_failures: core.bases.failures(),
        self_sustained_since: core.owner.sustained_since(),
        failsafe: core.condition.failsafe(),
    }
}

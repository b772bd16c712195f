//! Incremental clean-up of the states with TTL of one backend: what each batch looks at.

use std::collections::BTreeMap;

use super::{
    marks::{Live, Marks},
    states::{RegisteredState, States},
};
use crate::{
    state::{
        Change, StateBackend, StateError,
        op::{
            Upkeep,
            incremental::{Cursor, Target, clean},
        },
        ttl::Lifespan,
    },
    types::{KeyGroupRange, StateDescriptor, StateId, TimeMs},
};

/// Entries of one state that one batch looks at, at most.
const MAX_ENTRIES: u64 = 1_000;

/// How far the clean-up of each state has come, and what the batch at hand owes.
#[derive(Debug, Default)]
pub(super) struct CleanUps {
    /// States that every batch looks at, with the number of entries.
    every_batch: Vec<(StateId, u64)>,
    cursors: BTreeMap<StateId, Cursor>,
    /// Entries to look at in this batch.
    owed: BTreeMap<StateId, u64>,
}

impl CleanUps {
    /// Of these states, from the beginning. Whenever a state is registered, or its TTL changes, there is a new one.
    pub(super) fn new(states: &States) -> Self {
        let every_batch = states.in_force().filter_map(|RegisteredState { id, descriptor, .. }| {
            let incremental = descriptor.ttl?.cleanup.incremental?;
            incremental.every_batch.then_some((id, incremental.entries.into()))
        });
        Self { every_batch: every_batch.collect(), ..Self::default() }
    }

    /// Whether batches may change something that do not touch any state with TTL.
    pub(super) fn is_for_every_batch(&self) -> bool {
        !self.every_batch.is_empty()
    }

    /// Notes an operation of the batch.
    pub(super) fn touched(&mut self, state: StateId, descriptor: &StateDescriptor) {
        if let Some(incremental) = descriptor.ttl.and_then(|ttl| ttl.cleanup.incremental) {
            let owed = self.owed.entry(state).or_default();
            *owed = (*owed + u64::from(incremental.entries)).min(MAX_ENTRIES);
        }
    }

    /// Looks at what the batch owes. Without `upkeep` nothing is owed.
    pub(super) fn settle(
        &mut self,
        (marks, inner): (&mut Option<Marks>, &mut dyn StateBackend),
        states: &States,
        (key_groups, time, upkeep): (KeyGroupRange, TimeMs, Option<&Upkeep>),
        log: &mut impl FnMut(&Change<'_>),
    ) -> Result<(), StateError> {
        let mut owed = std::mem::take(&mut self.owed);
        let Some(upkeep) = upkeep else { return Ok(()) };
        for (state, entries) in &self.every_batch {
            owed.entry(*state).or_insert(*entries);
        }
        for (state, entries) in owed {
            let Some(descriptor) = states.get(state) else { continue };
            let Some(ttl) = descriptor.ttl else { continue };
            let life = Lifespan::new(ttl, time);
            let target = Target { state, kind: descriptor.kind, key_groups, life };
            let mut live = Live::new(marks, &mut *inner, descriptor.kind);
            clean(live.backend(), &target, self.cursors.entry(state).or_default(), (entries, upkeep), log)?;
        }
        Ok(())
    }
}

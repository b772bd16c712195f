//! Incremental clean-up of states with TTL: the entries that each batch looks at.

use std::{collections::BTreeMap, sync::Arc};

use super::marks::{Live, Marks};
use crate::{
    claim::states::{RegisteredState, States},
    state::{
        Change, StateBackend, StateError,
        op::{
            Upkeep,
            incremental::{Cursor, Target, clean},
            lists::Cursors,
        },
        ttl::Lifespan,
    },
    types::{KeyGroupRange, StateDescriptor, StateId, TimeMs, Ttl},
};

/// Most entries of one state that one batch looks at.
const MAX_ENTRIES: u64 = 1_000;

/// How far the clean-up of each state has come, and how many entries the current batch still has to look at.
#[derive(Debug, Default)]
pub(super) struct CleanUps {
    /// States that every batch looks at, with the number of entries.
    every_batch: BTreeMap<StateId, u64>,
    cursors: BTreeMap<StateId, Cursor>,
    /// Number of entries of each state that this batch has to look at.
    owed: BTreeMap<StateId, u64>,
    /// Positions in lists, by the tokens of pages that were handed out.
    lists: Arc<Cursors>,
}

/// One pass of clean-up at the end of a batch, and the facts about that batch.
pub(super) struct Pass<'a> {
    /// The registered states.
    pub(super) states: &'a States,
    /// The key groups of the backend.
    pub(super) key_groups: KeyGroupRange,
    /// The time of the batch, by which entries have expired or not.
    pub(super) time: TimeMs,
    /// The upkeep that removes expired entries; `None` if the batch may not write.
    pub(super) upkeep: Option<&'a Upkeep>,
}

impl CleanUps {
    /// Begins the clean-up of these states.
    pub(super) fn new(states: &States) -> Self {
        let mut new = Self::default();
        states.in_force().for_each(|RegisteredState { id, descriptor, .. }| new.set(id, descriptor.ttl));
        new
    }

    /// Cleans a state up by this TTL from now on, starting again at its first entry. Without a TTL, or if the state is
    /// not in force, its clean-up ends.
    pub(super) fn set(&mut self, state: StateId, ttl: Option<Ttl>) {
        self.cursors.remove(&state);
        // The list elements may be stored again, so the positions are no longer valid.
        self.lists.clear();
        match ttl.and_then(|ttl| ttl.cleanup.incremental).filter(|incremental| incremental.every_batch) {
            Some(incremental) => _ = self.every_batch.insert(state, incremental.entries.into()),
            None => _ = self.every_batch.remove(&state),
        }
    }

    /// Positions in lists, by the tokens of pages that were handed out.
    pub(super) fn lists(&self) -> &Arc<Cursors> {
        &self.lists
    }

    /// The upkeep that one batch may do.
    pub(super) fn upkeep(&self) -> Upkeep {
        Upkeep::new(Arc::clone(&self.lists))
    }

    /// Whether a batch may change entries even if it touches no state with TTL.
    pub(super) fn is_for_every_batch(&self) -> bool {
        !self.every_batch.is_empty()
    }

    /// Notes that the batch has an operation on `state`.
    pub(super) fn touched(&mut self, state: StateId, descriptor: &StateDescriptor) {
        if let Some(incremental) = descriptor.ttl.and_then(|ttl| ttl.cleanup.incremental) {
            let owed = self.owed.entry(state).or_default();
            *owed = (*owed + u64::from(incremental.entries)).min(MAX_ENTRIES);
        }
    }

    /// Looks at the entries that the batch of `pass` owes, and removes the expired ones. Without upkeep nothing is
    /// owed.
    pub(super) fn settle(
        &mut self,
        marks: &mut Option<Marks>,
        inner: &mut dyn StateBackend,
        pass: &Pass<'_>,
        log: &mut impl FnMut(&Change<'_>),
    ) -> Result<(), StateError> {
        let Pass { states, key_groups, time, upkeep } = *pass;
        // Taken even if nothing is done: a batch does not pay for the ones before it.
        let mut owed = std::mem::take(&mut self.owed);
        let Some(upkeep) = upkeep else { return Ok(()) };
        for (state, entries) in &self.every_batch {
            owed.entry(*state).or_insert(*entries);
        }
        for (state, entries) in owed {
            let Some(descriptor) = states.get(state) else { continue };
            let Some(ttl) = descriptor.ttl else { continue };
            let life = Lifespan::new(ttl, time);
            let target = Target { state, kind: descriptor.kind, key_groups, life, entries };
            let mut live = Live::new(marks, &mut *inner, descriptor.kind);
            clean(live.backend(), &target, self.cursors.entry(state).or_default(), upkeep, log)?;
        }
        Ok(())
    }
}

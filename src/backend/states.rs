//! The registered states of a backend, and which of their registrations are in force.
//!
//! ```text
//!   register: descriptors, changes ──plan (pure)──▶ new registrations, which are in force now, entries to move
//!                 ▲                                      │ carried out at once, under the core's lock
//!                 └───────── until nothing moves ◀───────┴─▶ mover (batches of the daemon's own)
//! ```
//!
//! A [`Registration`] never changes. If the entries can stay as they are, a changed descriptor is another registration
//! of the same data, which replaces the old one. Any other change is a registration of new data; the old one stays in
//! force beside it until its entries have moved. A checkpoint records which registrations were in force at its cut, so
//! a restore gets back the descriptors of that moment, even in the middle of a move or migration.

mod adopt;
mod check;
mod plan;

use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(super) use self::{
    adopt::{Adopted, adopt},
    check::check,
    plan::{Move, Plan, Rewrite},
};
use crate::{
    checkpoint::manifest::Registration,
    types::{StateDescriptor, StateId},
};

/// A state as clients know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredState {
    /// The id that operations name.
    pub id: StateId,
    /// The descriptor as it was declared.
    pub descriptor: StateDescriptor,
    /// The state whose entries the client has yet to rewrite into this one; if there are several, the oldest.
    pub migrating_from: Option<StateId>,
}

/// Registrations by id. Ids count from 1 without gaps, and are never used again for another registration.
///
/// A restored manifest may have registrations that were not in force at the restored checkpoint, because they were made
/// later or replaced before. Their ids stay taken, but their descriptors do not bind: if the name is declared with
/// another descriptor, it gets a new id.
///
/// Invariants: no two registrations in force share their data; data without a registration in force has no entries.
#[derive(Debug, Default)]
pub(super) struct States {
    registrations: Vec<Registration>,
    /// The registrations in force.
    bound: BTreeSet<StateId>,
    /// The registration in force by the id of its data, counted from 1.
    by_data: Vec<Option<StateId>>,
    /// All registrations of each name, in order.
    by_name: HashMap<String, Vec<StateId>>,
}

impl States {
    /// The registrations of a manifest; those for which `is_bound` is true are in force.
    pub(super) fn restored(states: &BTreeMap<StateId, Registration>, is_bound: impl Fn(StateId) -> bool) -> Self {
        assert!(states.keys().zip(1..).all(|(id, n)| id.0 == n), "ids are dense");
        let bound = states.keys().copied().filter(|id| is_bound(*id)).collect();
        let mut restored = Self { bound, ..Self::default() };
        states.values().for_each(|registration| _ = restored.push(registration.clone()));
        restored.bound.clone().into_iter().for_each(|id| restored.put_in_force(id));
        restored
    }

    /// The descriptor that is in force for operations on `id`.
    pub(super) fn get(&self, id: StateId) -> Option<&StateDescriptor> {
        let registration = (*self.by_data.get((id.0 as usize).checked_sub(1)?)?)?;
        Some(&self.registration(registration).descriptor)
    }

    /// Every registration by its id.
    pub(super) fn registrations(&self) -> impl Iterator<Item = (StateId, &Registration)> {
        (1..).map(StateId).zip(&self.registrations)
    }

    /// Registrations that are not in force.
    pub(super) fn unbound(&self) -> impl Iterator<Item = StateId> + '_ {
        self.registrations().map(|(id, _)| id).filter(|id| !self.bound.contains(id))
    }

    /// Every id by which inner backends know a state, even without entries, and its newest descriptor.
    pub(super) fn data(&self) -> impl Iterator<Item = (StateId, &StateDescriptor)> {
        let first = self.registrations().filter(|(id, registration)| registration.data == *id);
        first.map(|(id, registration)| (id, self.get(id).unwrap_or(&registration.descriptor)))
    }

    /// The states in force, by the id of their data.
    pub(super) fn in_force(&self) -> impl Iterator<Item = RegisteredState> + '_ {
        self.by_data.iter().flatten().map(|id| self.registered(*id))
    }

    /// The highest id of a registration; 0 if there is none.
    pub(super) fn last_id(&self) -> u32 {
        u32::try_from(self.registrations.len()).expect("their number is limited")
    }

    /// Carries out a plan, right after it was made.
    pub(super) fn carry_out(&mut self, plan: &Plan) {
        for (id, registration) in &plan.new {
            assert_eq!(self.push(registration.clone()), *id, "a plan is carried out at once");
        }
        for id in &plan.unbinds {
            self.bound.remove(id);
            let data = self.data_of(*id);
            if let Some(slot) = self.by_data.get_mut(data.0 as usize - 1) {
                *slot = None;
            }
        }
        for id in &plan.binds {
            self.bound.insert(*id);
            self.put_in_force(*id);
        }
    }

    /// Adds a registration that is not in force; returns its id.
    fn push(&mut self, registration: Registration) -> StateId {
        let id = StateId(self.last_id() + 1);
        self.by_name.entry(registration.descriptor.name.clone()).or_default().push(id);
        self.registrations.push(registration);
        self.by_data.push(None);
        id
    }

    fn put_in_force(&mut self, id: StateId) {
        let data = self.data_of(id);
        let slot = self.by_data.get_mut(data.0 as usize - 1);
        let before = slot.expect("data has the id of its first registration").replace(id);
        assert_eq!(before, None, "registrations in force do not share their data");
    }

    /// The registrations of a name, in order.
    fn named(&self, name: &str) -> impl Iterator<Item = StateId> {
        self.by_name.get(name).into_iter().flatten().copied()
    }

    /// The newest descriptor of the state that inner backends know as `data`, if there is one.
    pub(super) fn of_data(&self, data: StateId) -> Option<&StateDescriptor> {
        self.get(data).or_else(|| Some(&self.registrations.get((data.0 as usize).checked_sub(1)?)?.descriptor))
    }

    /// A registration as clients know it.
    pub(super) fn registered(&self, id: StateId) -> RegisteredState {
        let Registration { descriptor, data, migrating_from } = self.registration(id);
        let waits = |source: &&StateId| self.by_data.get(source.0 as usize - 1).is_some_and(Option::is_some);
        let migrating_from = migrating_from.iter().filter(waits).min().copied();
        RegisteredState { id: *data, descriptor: descriptor.clone(), migrating_from }
    }

    /// The id by which inner backends know the entries of a registration.
    pub(super) fn data_of(&self, id: StateId) -> StateId {
        self.registration(id).data
    }

    fn registration(&self, id: StateId) -> &Registration {
        self.registrations.get(id.0 as usize - 1).expect("ids are those of registrations")
    }
}

#[cfg(test)]
mod tests;

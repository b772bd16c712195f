//! Registrations, and which of them are in force.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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
pub(crate) struct States {
    pub(super) registrations: Vec<Registration>,
    /// The registrations in force.
    pub(super) bound: BTreeSet<StateId>,
    /// The registration in force by the id of its data, counted from 1.
    pub(super) by_data: Vec<Option<StateId>>,
    /// All registrations of each name, in order.
    by_name: HashMap<String, Vec<StateId>>,
}

impl States {
    /// The registrations of a manifest; those for which `is_bound` is true are in force.
    pub(crate) fn restored(states: &BTreeMap<StateId, Registration>, is_bound: impl Fn(StateId) -> bool) -> Self {
        assert!(states.keys().zip(1..).all(|(id, n)| id.0 == n), "ids are dense");
        let bound = states.keys().copied().filter(|id| is_bound(*id)).collect();
        let mut restored = Self { bound, ..Self::default() };
        states.values().for_each(|registration| _ = restored.push(registration.clone()));
        // Ordering: all registrations are pushed before one is put in force. Each push adds the slot of its data.
        restored.bound.clone().into_iter().for_each(|id| restored.put_in_force(id));
        restored
    }

    /// The descriptor that is in force for operations on `id`.
    pub(crate) fn get(&self, id: StateId) -> Option<&StateDescriptor> {
        let registration = (*self.by_data.get((id.0 as usize).checked_sub(1)?)?)?;
        Some(&self.registration(registration).descriptor)
    }

    /// Every registration by its id.
    pub(crate) fn registrations(&self) -> impl Iterator<Item = (StateId, &Registration)> {
        (1..).map(StateId).zip(&self.registrations)
    }

    /// Registrations that are not in force.
    pub(crate) fn unbound(&self) -> impl Iterator<Item = StateId> + '_ {
        self.registrations().map(|(id, _)| id).filter(|id| !self.bound.contains(id))
    }

    /// Every id by which inner backends know a state, even without entries, and its newest descriptor.
    pub(crate) fn data(&self) -> impl Iterator<Item = (StateId, &StateDescriptor)> {
        let first = self.registrations().filter(|(id, registration)| registration.data == *id);
        first.map(|(id, registration)| (id, self.get(id).unwrap_or(&registration.descriptor)))
    }

    /// The states in force, by the id of their data.
    pub(crate) fn in_force(&self) -> impl Iterator<Item = RegisteredState> + '_ {
        self.by_data.iter().flatten().map(|id| self.registered(*id))
    }

    /// The highest id of a registration; 0 if there is none.
    pub(crate) fn last_id(&self) -> u32 {
        u32::try_from(self.registrations.len()).expect("their number is limited")
    }

    /// Adds a registration that is not in force; returns its id.
    pub(super) fn push(&mut self, registration: Registration) -> StateId {
        let id = StateId(self.last_id() + 1);
        self.by_name.entry(registration.descriptor.name.clone()).or_default().push(id);
        self.registrations.push(registration);
        self.by_data.push(None);
        id
    }

    pub(super) fn put_in_force(&mut self, id: StateId) {
        let data = self.data_of(id);
        let slot = self.by_data.get_mut(data.0 as usize - 1);
        let before = slot.expect("data has the id of its first registration").replace(id);
        assert_eq!(before, None, "registrations in force do not share their data");
    }

    /// The registrations of a name, in order.
    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = StateId> {
        self.by_name.get(name).into_iter().flatten().copied()
    }

    /// The newest descriptor of the state that inner backends know as `data`, if there is one.
    pub(crate) fn of_data(&self, data: StateId) -> Option<&StateDescriptor> {
        self.get(data).or_else(|| Some(&self.registrations.get((data.0 as usize).checked_sub(1)?)?.descriptor))
    }

    /// A registration as clients know it.
    pub(crate) fn registered(&self, id: StateId) -> RegisteredState {
        let Registration { descriptor, data, migrating_from } = self.registration(id);
        let waits = |source: &&StateId| self.by_data.get(source.0 as usize - 1).is_some_and(Option::is_some);
        let migrating_from = migrating_from.iter().filter(waits).min().copied();
        RegisteredState { id: *data, descriptor: descriptor.clone(), migrating_from }
    }

    /// The id by which inner backends know the entries of a registration.
    pub(crate) fn data_of(&self, id: StateId) -> StateId {
        self.registration(id).data
    }

    pub(super) fn registration(&self, id: StateId) -> &Registration {
        self.registrations.get(id.0 as usize - 1).expect("ids are those of registrations")
    }
}

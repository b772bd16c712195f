//! Maps the states of restored parts to the states of the new backend. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::plan::{same_shape, show};
use crate::{
    checkpoint::manifest::{CheckpointRecord, Manifest, Registration},
    error::{Error, Reason},
    types::{BackendId, StateDescriptor, StateId},
};

/// The states of a backend that begins with parts of a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Adopted {
    /// All registrations that it knows.
    pub(crate) known: BTreeMap<StateId, Registration>,
    /// The registrations in force.
    pub(crate) bound: BTreeSet<StateId>,
    /// For each part: its data ids, and the ids that they get here.
    pub(crate) names: Vec<BTreeMap<StateId, StateId>>,
    /// For each part of which only operator state is read: its data ids, and the ids that they get here.
    pub(crate) operator_names: Vec<BTreeMap<StateId, StateId>>,
    /// The registrations of each name, in order.
    by_name: HashMap<String, Vec<StateId>>,
}

/// A state that parts have with one descriptor.
struct Found<'a> {
    descriptor: &'a StateDescriptor,
    of: &'a BackendId,
    data: StateId,
    migrating_from: BTreeSet<StateId>,
}

/// All states that were found, with indexes.
#[derive(Default)]
struct Finds<'a> {
    found: Vec<Found<'a>>,
    by_name: HashMap<&'a str, Vec<usize>>,
    data: HashSet<StateId>,
}

impl<'a> Finds<'a> {
    fn push(&mut self, found: Found<'a>) {
        self.by_name.entry(&found.descriptor.name).or_default().push(self.found.len());
        self.data.insert(found.data);
        self.found.push(found);
    }

    /// The states that were found with this name, in order.
    fn named(&self, name: &str) -> impl Iterator<Item = &Found<'a>> {
        self.by_name.get(name).into_iter().flatten().filter_map(|index| self.found.get(*index))
    }

    /// The state that was found with this descriptor.
    fn of(&mut self, descriptor: &StateDescriptor) -> Option<&mut Found<'a>> {
        let named = self.by_name.get(descriptor.name.as_str())?;
        let is_it = |index: &&usize| self.found.get(**index).is_some_and(|found| found.descriptor == descriptor);
        let index = *named.iter().find(is_it)?;
        self.found.get_mut(index)
    }
}

/// Maps the states of `parts` to ids of a backend that knows `known`. States with the same descriptor get the same id,
/// others get new ones. With `is_own`, the parts are the backend's own and keep their ids. Of the parts in `operator`,
/// only operator state is adopted. Subtasks may have registered a change or not yet. Then old and new states stay
/// beside each other until the state is registered here.
///
/// # Errors
/// If two parts have states of one name that differ in a property that never changes.
pub(crate) fn adopt(
    known: BTreeMap<StateId, Registration>,
    parts: &[(&Manifest, &CheckpointRecord)],
    operator: &[(&Manifest, &CheckpointRecord)],
    is_own: bool,
) -> Result<Adopted, Error> {
    let mut adopted = Adopted { known, ..Adopted::default() };
    for (id, registration) in &adopted.known {
        adopted.by_name.entry(registration.descriptor.name.clone()).or_default().push(*id);
    }
    let mut found = Finds::default();
    for (manifest, record) in parts {
        let names = match is_own {
            true => own(manifest, record, &mut found),
            false => adopted.names_of(manifest, record, |_| true, &mut found)?,
        };
        adopted.names.push(names);
    }
    for (manifest, record) in operator {
        let names = adopted.names_of(manifest, record, |state| state.redistribution.is_some(), &mut found)?;
        adopted.operator_names.push(names);
    }
    // Registrations are made once all parts were read, because the sources of a migration are those of all parts
    // together.
    for found in found.found {
        let id = adopted.id_of(&found);
        adopted.bound.insert(id);
    }
    Ok(adopted)
}

/// The ids of a part that is the backend's own, whose registrations stay as they are.
fn own<'a>(manifest: &'a Manifest, record: &'a CheckpointRecord, found: &mut Finds<'a>) -> BTreeMap<StateId, StateId> {
    let mut names = BTreeMap::new();
    for (_, Registration { descriptor, data, migrating_from }) in in_force(manifest, record) {
        let (of, migrating_from) = (&manifest.backend, migrating_from.iter().copied().collect());
        found.push(Found { descriptor, of, data: *data, migrating_from });
        names.insert(*data, *data);
    }
    names
}

fn in_force<'a>(
    manifest: &'a Manifest,
    record: &'a CheckpointRecord,
) -> impl Iterator<Item = (&'a StateId, &'a Registration)> {
    manifest.states.iter().filter(|(id, _)| record.has_state(**id))
}

impl Adopted {
    /// The ids that the entries of a part's states get here; only states for which `is_adopted` is true.
    fn names_of<'a>(
        &mut self,
        manifest: &'a Manifest,
        record: &'a CheckpointRecord,
        is_adopted: impl Fn(&StateDescriptor) -> bool,
        found: &mut Finds<'a>,
    ) -> Result<BTreeMap<StateId, StateId>, Error> {
        let adopted = || in_force(manifest, record).filter(|(_, registration)| is_adopted(&registration.descriptor));
        let mut names = BTreeMap::new();
        // Two passes: a state may migrate from one with a higher id, and both need their new ids first.
        for (_, registration) in adopted() {
            let data = self.data_of(&registration.descriptor, &manifest.backend, found)?;
            names.insert(registration.data, data);
        }
        for (_, registration) in adopted() {
            let sources = registration.migrating_from.iter().filter_map(|data| names.get(data)).copied();
            let of = found.of(&registration.descriptor).expect("it was found above");
            of.migrating_from.extend(sources);
        }
        Ok(names)
    }

    /// The id of the entries of `wanted`: that of the newest state with the same descriptor, or a new one.
    fn data_of<'a>(
        &mut self,
        wanted: &'a StateDescriptor,
        of: &'a BackendId,
        found: &mut Finds<'a>,
    ) -> Result<StateId, Error> {
        for other in found.named(&wanted.name) {
            if other.descriptor == wanted {
                return Ok(other.data);
            }
            if !same_shape(other.descriptor, wanted) {
                let text = format!(
                    "state `{}` has {} in the checkpoint of `{}` but {} in that of `{of}`",
                    wanted.name,
                    show(other.descriptor),
                    other.of,
                    show(wanted),
                );
                return Err(Error::new(Reason::StateMismatch, text));
            }
        }
        let alike = |known: &Registration| known.descriptor == *wanted && !found.data.contains(&known.data);
        let known = self.named(&wanted.name).rev().find(|(_, known)| alike(known)).map(|(_, known)| known.data);
        let data = known.unwrap_or_else(|| {
            let id = self.next_id();
            self.insert(id, Registration::first(id, wanted.clone()));
            id
        });
        found.push(Found { descriptor: wanted, of, data, migrating_from: BTreeSet::new() });
        Ok(data)
    }

    /// The registration of a found state, or a new one.
    fn id_of(&mut self, found: &Found<'_>) -> StateId {
        let Found { descriptor, data, migrating_from, .. } = found;
        let is_it = |known: &Registration| {
            known.descriptor == **descriptor
                && known.data == *data
                && known.migrating_from.iter().copied().collect::<BTreeSet<_>>() == *migrating_from
        };
        if let Some((id, _)) = self.named(&descriptor.name).rev().find(|(_, known)| is_it(known)) {
            return id;
        }
        let (id, migrating_from) = (self.next_id(), migrating_from.iter().copied().collect());
        self.insert(id, Registration { descriptor: (*descriptor).clone(), data: *data, migrating_from });
        id
    }

    /// The registrations of a name, in order.
    fn named(&self, name: &str) -> impl DoubleEndedIterator<Item = (StateId, &Registration)> {
        let ids = self.by_name.get(name).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.known.get(id)?)))
    }

    fn insert(&mut self, id: StateId, registration: Registration) {
        self.by_name.entry(registration.descriptor.name.clone()).or_default().push(id);
        self.known.insert(id, registration);
    }

    fn next_id(&self) -> StateId {
        StateId(self.known.keys().next_back().map_or(0, |last| last.0) + 1)
    }
}

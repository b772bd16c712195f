//! What a backend calls the states of the parts that it begins with. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{same_shape, show};
use crate::{
    checkpoint::manifest::{CheckpointRecord, Manifest, Registration},
    error::{Error, Reason},
    types::{BackendId, StateDescriptor, StateId},
};

/// The states of a backend that begins with parts of a checkpoint.
#[derive(Debug, Default)]
pub(in crate::backend) struct Adopted {
    /// All registrations that it knows.
    pub(in crate::backend) known: BTreeMap<StateId, Registration>,
    /// Those in force.
    pub(in crate::backend) bound: BTreeSet<StateId>,
    /// For each part: its data, and what that is called here.
    pub(in crate::backend) names: Vec<BTreeMap<StateId, StateId>>,
    /// For each of those of operator state alone, likewise.
    pub(in crate::backend) operator_names: Vec<BTreeMap<StateId, StateId>>,
}

/// What parts have with one descriptor.
struct Found<'a> {
    descriptor: &'a StateDescriptor,
    of: &'a BackendId,
    data: StateId,
    migrating_from: BTreeSet<StateId>,
}

/// What a backend that knows `known` calls the states of `parts`: what has the same descriptor has the same id, others get new
/// ones. With `is_own`, the parts are its own and keep their ids. Of those of `operator`, operator state alone is adopted. Subtasks may have registered a change or not yet: then
/// old and new are there beside each other, until they are registered here.
///
/// # Errors
/// If two parts have states of one name that differ in what never changes.
pub(in crate::backend) fn adopt(
    known: BTreeMap<StateId, Registration>,
    parts: &[(&Manifest, &CheckpointRecord)],
    operator: &[(&Manifest, &CheckpointRecord)],
    is_own: bool,
) -> Result<Adopted, Error> {
    let mut adopted = Adopted { known, ..Adopted::default() };
    let mut found: Vec<Found<'_>> = vec![];
    for part in parts {
        let names = if is_own { own(*part, &mut found) } else { adopted.names_of(*part, |_| true, &mut found)? };
        adopted.names.push(names);
    }
    for part in operator {
        let names = adopted.names_of(*part, |state| state.redistribution.is_some(), &mut found)?;
        adopted.operator_names.push(names);
    }
    for found in found {
        let id = adopted.id_of(&found);
        adopted.bound.insert(id);
    }
    Ok(adopted)
}

/// The names of a part that is the backend's own, whose registrations stay as they are.
fn own<'a>(
    (manifest, record): (&'a Manifest, &'a CheckpointRecord),
    found: &mut Vec<Found<'a>>,
) -> BTreeMap<StateId, StateId> {
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
    /// What the entries of those states of a part that `is_adopted` are called here.
    fn names_of<'a>(
        &mut self,
        (manifest, record): (&'a Manifest, &'a CheckpointRecord),
        is_adopted: impl Fn(&StateDescriptor) -> bool,
        found: &mut Vec<Found<'a>>,
    ) -> Result<BTreeMap<StateId, StateId>, Error> {
        let adopted = || in_force(manifest, record).filter(|(_, registration)| is_adopted(&registration.descriptor));
        let mut names = BTreeMap::new();
        for (_, registration) in adopted() {
            let data = self.data_of(&registration.descriptor, &manifest.backend, found)?;
            names.insert(registration.data, data);
        }
        for (_, registration) in adopted() {
            let sources = registration.migrating_from.iter().filter_map(|data| names.get(data)).copied();
            let of = found.iter_mut().find(|found| *found.descriptor == registration.descriptor);
            of.expect("it was found above").migrating_from.extend(sources);
        }
        Ok(names)
    }

    /// What the entries of `wanted` are called here: like those of the newest state that was just like it, or by a new id.
    fn data_of<'a>(
        &mut self,
        wanted: &'a StateDescriptor,
        of: &'a BackendId,
        found: &mut Vec<Found<'a>>,
    ) -> Result<StateId, Error> {
        for other in found.iter().filter(|found| found.descriptor.name == wanted.name) {
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
        let is_free = |data| found.iter().all(|found| found.data != data);
        let alike = |known: &&Registration| known.descriptor == *wanted && is_free(known.data);
        let known = self.known.values().rev().find(alike).map(|known| known.data);
        let data = known.unwrap_or_else(|| {
            let id = self.next_id();
            self.known.insert(id, Registration::first(id, wanted.clone()));
            id
        });
        found.push(Found { descriptor: wanted, of, data, migrating_from: BTreeSet::new() });
        Ok(data)
    }

    /// The registration of what was found, or a new one.
    fn id_of(&mut self, found: &Found<'_>) -> StateId {
        let Found { descriptor, data, migrating_from, .. } = found;
        let is_it = |known: &Registration| {
            known.descriptor == **descriptor
                && known.data == *data
                && known.migrating_from.iter().copied().collect::<BTreeSet<_>>() == *migrating_from
        };
        if let Some((id, _)) = self.known.iter().rev().find(|(_, known)| is_it(known)) {
            return *id;
        }
        let (id, migrating_from) = (self.next_id(), migrating_from.iter().copied().collect());
        self.known.insert(id, Registration { descriptor: (*descriptor).clone(), data: *data, migrating_from });
        id
    }

    fn next_id(&self) -> StateId {
        StateId(self.known.keys().next_back().map_or(0, |last| last.0) + 1)
    }
}

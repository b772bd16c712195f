//! What a backend calls the states of the parts that it begins with. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

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
    /// What is known of each name, in order.
    by_name: HashMap<String, Vec<StateId>>,
}

/// What parts have with one descriptor.
struct Found<'a> {
    descriptor: &'a StateDescriptor,
    of: &'a BackendId,
    data: StateId,
    migrating_from: BTreeSet<StateId>,
}

/// All that was found, and where to look for what.
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

    /// What was found by this name, in order.
    fn named(&self, name: &str) -> impl Iterator<Item = &Found<'a>> {
        self.by_name.get(name).into_iter().flatten().filter_map(|index| self.found.get(*index))
    }

    /// What was found with this descriptor.
    fn of(&mut self, descriptor: &StateDescriptor) -> Option<&mut Found<'a>> {
        let named = self.by_name.get(descriptor.name.as_str())?;
        let is_it = |index: &&usize| self.found.get(**index).is_some_and(|found| found.descriptor == descriptor);
        let index = *named.iter().find(is_it)?;
        self.found.get_mut(index)
    }
}

/// What a backend that knows `known` calls the states of `parts`: what has the same descriptor has the same id, others
/// get new ones. With `is_own`, the parts are its own and keep their ids. Of those of `operator`, operator state alone
/// is adopted. Subtasks may have registered a change or not yet: then old and new are there beside each other, until
/// they are registered here.
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
    for (id, registration) in &adopted.known {
        adopted.by_name.entry(registration.descriptor.name.clone()).or_default().push(*id);
    }
    let mut found = Finds::default();
    for part in parts {
        let names = if is_own { own(*part, &mut found) } else { adopted.names_of(*part, |_| true, &mut found)? };
        adopted.names.push(names);
    }
    for part in operator {
        let names = adopted.names_of(*part, |state| state.redistribution.is_some(), &mut found)?;
        adopted.operator_names.push(names);
    }
    for found in found.found {
        let id = adopted.id_of(&found);
        adopted.bound.insert(id);
    }
    Ok(adopted)
}

/// The names of a part that is the backend's own, whose registrations stay as they are.
fn own<'a>(
    (manifest, record): (&'a Manifest, &'a CheckpointRecord),
    found: &mut Finds<'a>,
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
        found: &mut Finds<'a>,
    ) -> Result<BTreeMap<StateId, StateId>, Error> {
        let adopted = || in_force(manifest, record).filter(|(_, registration)| is_adopted(&registration.descriptor));
        let mut names = BTreeMap::new();
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

    /// What the entries of `wanted` are called here: like those of the newest state that was just like it, or by a new
    /// id.
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

    /// The registration of what was found, or a new one.
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

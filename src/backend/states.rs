//! The registered states of a backend: ids by name, descriptors by id.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    checkpoint::manifest::{CheckpointRecord, Manifest},
    error::{Error, Reason},
    types::{Limits, Redistribution, Schema, Serializer, StateDescriptor, StateId, StateKind},
};

/// Longest name or serializer id of a state, in bytes.
const MAX_NAME_BYTES: usize = 200;

/// Registered states. Ids are dense from 1 and never used again for another descriptor.
///
/// A restored manifest may know states that the restored checkpoint does not have (registered later, or before the backend
/// began empty again). Their ids stay taken, but their descriptors bind nobody: asked for with another one, the name gets a
/// new id.
#[derive(Debug, Default)]
pub(super) struct States {
    descriptors: Vec<StateDescriptor>,
    by_name: BTreeMap<String, StateId>,
    /// States that have, or may have, contents.
    bound: BTreeSet<StateId>,
}

impl States {
    /// The states of a manifest, of which the restored checkpoint has those that `is_bound` tells.
    pub(super) fn restored(states: &BTreeMap<StateId, StateDescriptor>, is_bound: impl Fn(StateId) -> bool) -> Self {
        let mut restored = Self::default();
        let (bound, free): (Vec<_>, Vec<_>) = states.iter().partition(|(id, _)| is_bound(**id));
        for (id, descriptor) in free.into_iter().chain(bound) {
            restored.by_name.insert(descriptor.name.clone(), *id);
        }
        restored.descriptors = states.values().cloned().collect();
        assert!(states.keys().zip(1..).all(|(id, n)| id.0 == n), "ids are dense");
        restored.bound = states.keys().copied().filter(|id| is_bound(*id)).collect();
        restored
    }

    /// States that have, or may have, contents, by id.
    pub(super) fn bound(&self) -> impl Iterator<Item = (StateId, &StateDescriptor)> {
        self.iter().filter(|(id, _)| self.bound.contains(id))
    }

    /// States that have no contents, and bind nobody.
    pub(super) fn unbound(&self) -> impl Iterator<Item = StateId> + '_ {
        self.iter().map(|(id, _)| id).filter(|id| !self.bound.contains(id))
    }

    /// The descriptor of `id`.
    pub(super) fn get(&self, id: StateId) -> Option<&StateDescriptor> {
        self.descriptors.get((id.0 as usize).checked_sub(1)?)
    }

    /// Every state by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (StateId, &StateDescriptor)> {
        (1..).map(StateId).zip(&self.descriptors)
    }

    /// The highest id; 0 without states.
    pub(super) fn last_id(&self) -> u32 {
        u32::try_from(self.descriptors.len()).expect("their number is limited")
    }

    /// What registering `wanted` gives: the ids, in order, and which of them are new. Changes nothing.
    ///
    /// # Errors
    /// If one is malformed, differs from what is registered, or there would be too many.
    pub(super) fn plan(&self, wanted: &[StateDescriptor], limits: &Limits) -> Result<Registration, Error> {
        let mut ids = Vec::with_capacity(wanted.len());
        let mut new: Vec<(StateId, StateDescriptor)> = vec![];
        for descriptor in wanted {
            check(descriptor)?;
            let known = match self.by_name.get(&descriptor.name) {
                Some(id) => self.get(*id).map(|known| (*id, known)),
                None => new.iter().find(|(_, d)| d.name == descriptor.name).map(|(id, d)| (*id, d)),
            };
            match known {
                Some((id, known)) if known == descriptor => ids.push(id),
                Some((id, known)) if self.bound.contains(&id) || id.0 > self.last_id() => {
                    return Err(mismatch(known, descriptor));
                }
                _ => {
                    let id = StateId(self.last_id() + u32::try_from(new.len()).unwrap_or(u32::MAX) + 1);
                    new.push((id, descriptor.clone()));
                    ids.push(id);
                }
            }
        }
        if self.descriptors.len() + new.len() > limits.max_states {
            let text =
                format!("{} states: a backend has at most {}", self.descriptors.len() + new.len(), limits.max_states);
            return Err(Error::new(Reason::TooManyStates, text));
        }
        Ok(Registration { ids, new })
    }

    /// Carries out a plan.
    pub(super) fn register(&mut self, registration: &Registration) {
        for (id, descriptor) in &registration.new {
            assert_eq!(id.0, self.last_id() + 1, "a plan is carried out at once");
            self.by_name.insert(descriptor.name.clone(), *id);
            self.descriptors.push(descriptor.clone());
        }
        self.bound.extend(registration.ids.iter().copied());
    }
}

/// The states of a backend that begins with parts of a checkpoint.
#[derive(Debug, Default)]
pub(super) struct Adopted {
    /// All that it knows.
    pub(super) known: BTreeMap<StateId, StateDescriptor>,
    /// Those that the checkpoint has.
    pub(super) bound: BTreeSet<StateId>,
    /// For each part: its ids, and what they are called here.
    pub(super) names: Vec<BTreeMap<StateId, StateId>>,
    /// For each of those of operator state alone, likewise.
    pub(super) operator_names: Vec<BTreeMap<StateId, StateId>>,
}

/// What a backend that knows `known` calls the states of `parts`: what has the same descriptor has the same id, others get new
/// ones. With `is_own`, the parts are its own and keep their ids. Of `operator`, operator state alone is adopted. Pure.
///
/// # Errors
/// If two parts have different states of one name.
pub(super) fn adopt(
    known: BTreeMap<StateId, StateDescriptor>,
    parts: &[(&Manifest, &CheckpointRecord)],
    operator: &[(&Manifest, &CheckpointRecord)],
    is_own: bool,
) -> Result<Adopted, Error> {
    let mut adopted = Adopted { known, ..Adopted::default() };
    let mut by_name: BTreeMap<&str, (&StateDescriptor, StateId, &Manifest)> = BTreeMap::new();
    let wholly = parts.iter().map(|part| (part, true)).chain(operator.iter().map(|part| (part, false)));
    for ((manifest, record), wholly) in wholly {
        let mut names = BTreeMap::new();
        let is_adopted =
            |id: StateId, state: &StateDescriptor| record.has_state(id) && (wholly || state.redistribution.is_some());
        for (id, descriptor) in manifest.states.iter().filter(|(id, state)| is_adopted(**id, state)) {
            let own = match by_name.get(descriptor.name.as_str()) {
                Some((other, own, _)) if *other == descriptor => *own,
                Some((other, _, of)) => {
                    let text = format!(
                        "state `{}` has {} in the checkpoint of `{}` but {} in that of `{}`",
                        descriptor.name,
                        show(other),
                        of.backend,
                        show(descriptor),
                        manifest.backend
                    );
                    return Err(Error::new(Reason::StateMismatch, text));
                }
                None if is_own && wholly => *id,
                None => adopted.id_of(descriptor),
            };
            by_name.insert(&descriptor.name, (descriptor, own, manifest));
            adopted.bound.insert(own);
            names.insert(*id, own);
        }
        let of_kind = if wholly { &mut adopted.names } else { &mut adopted.operator_names };
        of_kind.push(names);
    }
    Ok(adopted)
}

impl Adopted {
    /// The id of the newest state that is just like `wanted`, or a new one.
    fn id_of(&mut self, wanted: &StateDescriptor) -> StateId {
        let known = self.known.iter().rev().find(|(_, known)| *known == wanted);
        if let Some((id, _)) = known {
            return *id;
        }
        let id = StateId(self.known.keys().next_back().map_or(0, |last| last.0) + 1);
        self.known.insert(id, wanted.clone());
        id
    }
}

/// What registering states gives.
#[derive(Debug)]
pub(super) struct Registration {
    /// In the order asked.
    pub(super) ids: Vec<StateId>,
    /// Those that were not registered yet.
    pub(super) new: Vec<(StateId, StateDescriptor)>,
}

fn check(descriptor: &StateDescriptor) -> Result<(), Error> {
    let length = descriptor.name.len();
    let Schema { key, namespace, value } = &descriptor.schema;
    let is_long = |serializer: &Serializer| serializer.id.len() > MAX_NAME_BYTES;
    if length == 0 || length > MAX_NAME_BYTES || [key, namespace, value].into_iter().any(is_long) {
        let text = format!(
            "state `{}`: a name has 1 to {MAX_NAME_BYTES} bytes, a serializer id up to as many",
            descriptor.name
        );
        return Err(Error::new(Reason::LimitExceeded, text));
    }
    if let Some(redistribution) = descriptor.redistribution {
        check_operator_state(descriptor, redistribution)?;
    }
    if descriptor.ttl.is_some() {
        let text = format!("state `{}`: TTL is not offered yet", descriptor.name);
        return Err(Error::new(Reason::Unsupported, text));
    }
    if descriptor.merge.is_some() && descriptor.kind == StateKind::List {
        let text = format!("state `{}`: a list has no merge function; use LIST_ADD", descriptor.name);
        return Err(Error::new(Reason::InvalidArgument, text));
    }
    Ok(())
}

/// Checks what only operator state must be.
fn check_operator_state(descriptor: &StateDescriptor, redistribution: Redistribution) -> Result<(), Error> {
    let wanted = match redistribution {
        Redistribution::Split | Redistribution::Union => StateKind::List,
        Redistribution::Broadcast => StateKind::Map,
    };
    let what = if descriptor.kind != wanted {
        format!("redistribution {redistribution:?} is for states of kind {wanted:?}, not {:?}", descriptor.kind)
    } else if descriptor.ttl.is_some() {
        "operator state has no TTL".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(Reason::InvalidArgument, format!("state `{}`: {what}", descriptor.name)))
}

fn show(descriptor: &StateDescriptor) -> String {
    let merge = descriptor.merge.map_or_else(|| "none".to_owned(), |merge| format!("{merge:?}"));
    let redistribution = descriptor.redistribution.map(|one| format!(", redistribution {one:?}")).unwrap_or_default();
    format!("kind {:?}, merge {merge}{redistribution}, serializers: {}", descriptor.kind, descriptor.schema)
}

fn mismatch(known: &StateDescriptor, wanted: &StateDescriptor) -> Error {
    let text = format!(
        "state `{}` is registered with {} but was asked for with {}; use the registered descriptor or another name",
        known.name,
        show(known),
        show(wanted)
    );
    Error::new(Reason::StateMismatch, text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::types::MergeFunction;

    fn descriptor(name: &str, kind: StateKind) -> StateDescriptor {
        StateDescriptor::new(name, kind)
    }

    fn register(states: &mut States, wanted: &[StateDescriptor]) -> Result<Vec<StateId>, Error> {
        let plan = states.plan(wanted, &Limits::default())?;
        states.register(&plan);
        Ok(plan.ids)
    }

    #[test]
    fn the_same_descriptor_has_the_same_id() {
        let mut states = States::default();
        let (a, b) = (descriptor("a", StateKind::Value), descriptor("b", StateKind::Map));
        assert_eq!(
            register(&mut states, &[a.clone(), b.clone(), a.clone()]).unwrap(),
            [StateId(1), StateId(2), StateId(1)]
        );
        assert_eq!(register(&mut states, &[b, a]).unwrap(), [StateId(2), StateId(1)]);
    }

    #[test]
    fn a_mismatch_tells_both_sides_and_registers_nothing() {
        let mut states = States::default();
        register(&mut states, &[descriptor("a", StateKind::Value)]).unwrap();
        let other = StateDescriptor { merge: Some(MergeFunction::SumI64), ..descriptor("a", StateKind::Value) };
        let error = register(&mut states, &[descriptor("new", StateKind::List), other]).unwrap_err();
        assert_eq!(error.reason, Reason::StateMismatch);
        assert!(error.message.contains("merge none") && error.message.contains("SumI64"), "{error}");
        assert_eq!(states.last_id(), 1);
    }

    #[test]
    fn a_state_that_the_restored_checkpoint_does_not_have_binds_nobody() {
        let known = [descriptor("a", StateKind::Value), descriptor("b", StateKind::Value)];
        let manifest: BTreeMap<_, _> = (1..).map(StateId).zip(known).collect();
        let mut states = States::restored(&manifest, |id| id == StateId(1));
        assert_eq!(states.bound().count(), 1);
        assert!(register(&mut states, &[descriptor("a", StateKind::Map)]).is_err());
        assert_eq!(register(&mut states, &[descriptor("b", StateKind::Map)]).unwrap(), [StateId(3)]);
        assert!(register(&mut states, &[descriptor("b", StateKind::Value)]).is_err());
        assert_eq!(states.unbound().collect::<Vec<_>>(), [StateId(2)], "it has an id below that of a bound one");
    }

    #[test]
    fn parts_name_their_states_in_any_order_and_agree_on_what_they_are() {
        use crate::checkpoint::manifest::tests::sample;
        let with = |states: &[StateDescriptor]| {
            let mut manifest = sample();
            manifest.states = (1..).map(StateId).zip(states.iter().cloned()).collect();
            let mut record = manifest.checkpoints[0].clone();
            (record.states_to, record.missing_states) = (2, vec![]);
            (manifest, record)
        };
        let (a, b, c) =
            (descriptor("a", StateKind::Value), descriptor("b", StateKind::Map), descriptor("c", StateKind::List));
        let one = with(&[a.clone(), b.clone(), descriptor("later", StateKind::Value)]);
        let mut two = with(&[b.clone(), c.clone(), a.clone()]);
        two.1.states_to = 3;
        two.1.missing_states = vec![StateId(2)];
        let own = BTreeMap::from([(StateId(1), c.clone()), (StateId(2), b.clone())]);
        let adopted = adopt(own, &[(&one.0, &one.1), (&two.0, &two.1)], &[], false).unwrap();
        let ids = |pairs: &[(u32, u32)]| -> BTreeMap<_, _> {
            pairs.iter().map(|(from, to)| (StateId(*from), StateId(*to))).collect()
        };
        assert_eq!(adopted.names, [ids(&[(1, 3), (2, 2)]), ids(&[(1, 2), (3, 3)])]);
        assert_eq!(adopted.bound, BTreeSet::from([StateId(2), StateId(3)]), "`c` is no part of the checkpoint");
        assert_eq!(adopted.known.get(&StateId(3)), Some(&a));
        let other = with(&[descriptor("b", StateKind::Value)]);
        let error = adopt(BTreeMap::new(), &[(&one.0, &one.1), (&other.0, &other.1)], &[], false).unwrap_err();
        assert_eq!(error.reason, Reason::StateMismatch);
        assert!(error.message.contains("kind Map") && error.message.contains("kind Value"), "{error}");
    }

    #[test]
    fn operator_state_is_of_the_kind_that_its_redistribution_is_for() {
        use Redistribution::{Broadcast, Split, Union};
        let mut states = States::default();
        let operator = |name: &str, kind, redistribution| StateDescriptor {
            redistribution: Some(redistribution),
            ..descriptor(name, kind)
        };
        for (redistribution, fits) in [(Split, StateKind::List), (Union, StateKind::List), (Broadcast, StateKind::Map)]
        {
            for kind in [StateKind::Value, StateKind::List, StateKind::Map] {
                let registered =
                    register(&mut states, &[operator(&format!("{redistribution:?}"), kind, redistribution)]);
                assert_eq!(registered.is_ok(), kind == fits, "{redistribution:?} {kind:?}");
            }
        }
        let error = register(&mut states, &[operator("Split", StateKind::List, Union)]).unwrap_err();
        assert_eq!(error.reason, Reason::StateMismatch);
        assert!(error.message.contains("Split") && error.message.contains("Union"), "{error}");
        let ttl = StateDescriptor { ttl: Some(crate::types::Ttl::new(9)), ..operator("t", StateKind::List, Split) };
        assert_eq!(register(&mut states, &[ttl]).unwrap_err().reason, Reason::InvalidArgument);
    }

    #[test]
    fn refuses_nameless_states_and_merging_lists() {
        let mut states = States::default();
        assert!(register(&mut states, &[descriptor("", StateKind::Value)]).is_err());
        let list = StateDescriptor { merge: Some(MergeFunction::Append), ..descriptor("l", StateKind::List) };
        assert!(register(&mut states, &[list]).is_err());
    }
}

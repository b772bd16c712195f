//! Plans the registration of states. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{check::check, registered::States};
use crate::{
    checkpoint::manifest::Registration,
    error::{Error, Reason},
    types::{Limits, SchemaChange, SchemaMode, StateDescriptor, StateId, StateKind, Ttl},
};

/// The effects of registering states.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The registration of each descriptor, in the order of the request.
    pub(crate) ids: Vec<StateId>,
    /// Registrations that the plan adds, with their ids.
    pub(crate) new: Vec<(StateId, Registration)>,
    /// Registrations that are in force from then on.
    pub(crate) binds: BTreeSet<StateId>,
    /// Registrations that are no longer in force.
    pub(crate) unbinds: BTreeSet<StateId>,
    /// Moves of entries that have to be done before the registration is complete.
    pub(crate) moves: Vec<Move>,
}

impl Plan {
    /// The former time-to-live of all existing data that the plan puts in force.
    pub(crate) fn ttls_before(&self, states: &States) -> BTreeMap<StateId, Option<Ttl>> {
        let data = |id: &StateId| match id.0.checked_sub(states.last_id() + 1) {
            None => states.data_of(*id),
            Some(new) => self.new.get(new as usize).map_or(*id, |(_, new)| new.data),
        };
        let known = self.ids.iter().map(data).filter_map(|data| Some((data, states.of_data(data)?.ttl)));
        known.collect()
    }
}

/// A move of entries from one id to another, done by the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Move {
    /// The id that has the entries now.
    pub(crate) from: StateId,
    /// The id that gets them.
    pub(crate) to: StateId,
    /// The kind of both states.
    pub(crate) kind: StateKind,
    /// The change of each entry's bytes.
    pub(crate) rewrite: Rewrite,
}

/// How the bytes of an entry change when it moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rewrite {
    /// The bytes stay the same.
    Keep,
    /// The bytes are stamped with the time of the move.
    Stamp,
    /// The bytes lose their stamp; entries older than so many milliseconds are dropped.
    Strip(u64),
}

/// How the entries of one registration get the form of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The daemon moves them.
    Moved(Rewrite),
    /// The client rewrites them.
    Migrated,
}

/// A plan that is being made.
struct Draft<'a> {
    states: &'a States,
    /// Data ids that have entries.
    filled: &'a BTreeSet<StateId>,
    plan: Plan,
}

impl States {
    /// Carries out a plan, right after it was made.
    pub(crate) fn carry_out(&mut self, plan: &Plan) {
        for (id, registration) in &plan.new {
            assert_eq!(self.push(registration.clone()), *id, "a plan is carried out at once");
        }
        // Ordering: registrations leave before others come. Both may be of the same data, of which only one is in force
        // at a time.
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

    /// Plans the registration of `wanted`. `filled` is the subset of the [suspects](Self::suspects) that have entries.
    /// Changes nothing.
    ///
    /// # Errors
    /// If a descriptor is malformed or differs from the one in force without a declared change, a change names no state
    /// of the request, or there would be too many states.
    pub(crate) fn plan(
        &self,
        wanted: &[StateDescriptor],
        changes: &[SchemaChange],
        filled: &BTreeSet<StateId>,
        limits: &Limits,
    ) -> Result<Plan, Error> {
        wanted.iter().try_for_each(|wanted| check(wanted, limits))?;
        self.plan_checked(wanted, changes, filled, limits)
    }

    /// Plans a registration as [`plan`](Self::plan) does, for descriptors that are well-formed.
    pub(super) fn plan_checked(
        &self,
        wanted: &[StateDescriptor],
        changes: &[SchemaChange],
        filled: &BTreeSet<StateId>,
        limits: &Limits,
    ) -> Result<Plan, Error> {
        let modes = modes(wanted, changes)?;
        let (binds, unbinds) = (BTreeSet::new(), BTreeSet::new());
        let plan = Plan { ids: Vec::with_capacity(wanted.len()), new: vec![], binds, unbinds, moves: vec![] };
        let mut draft = Draft { states: self, filled, plan };
        let mut seen: BTreeMap<&str, (&StateDescriptor, StateId)> = BTreeMap::new();
        for descriptor in wanted {
            let id = match seen.get(descriptor.name.as_str()) {
                Some((known, id)) if *known == descriptor => *id,
                Some((known, _)) => return Err(mismatch(known, descriptor)),
                None => draft.settle(descriptor, modes.get(descriptor.name.as_str()).copied())?,
            };
            seen.insert(&descriptor.name, (descriptor, id));
            draft.plan.ids.push(id);
        }
        let count = self.registrations.len() + draft.plan.new.len();
        if !draft.plan.new.is_empty() && count > limits.max_states {
            let text =
                format!("{count} states, earlier forms of them included: a backend has at most {}", limits.max_states);
            return Err(Error::new(Reason::TooManyStates, text));
        }
        Ok(draft.plan)
    }

    /// Data ids that a plan for `wanted` depends on: it has to know whether they have entries.
    pub(crate) fn suspects(&self, wanted: &[StateDescriptor]) -> BTreeSet<StateId> {
        let differing = |wanted: &StateDescriptor| {
            let bound = self.named(&wanted.name).filter(|id| self.bound.contains(id)).map(|id| self.registration(id));
            bound.filter(|known| known.descriptor != *wanted).map(|known| known.data).collect::<Vec<_>>()
        };
        wanted.iter().flat_map(differing).collect()
    }
}

impl Draft<'_> {
    fn registration(&self, id: StateId) -> &Registration {
        match (id.0 as usize).checked_sub(self.states.registrations.len() + 1) {
            None => self.states.registration(id),
            Some(new) => self.plan.new.get(new).map(|(_, new)| new).expect("ids are those of registrations"),
        }
    }

    fn is_bound(&self, id: StateId) -> bool {
        let was_bound = self.states.bound.contains(&id);
        self.plan.binds.contains(&id) || (was_bound && !self.plan.unbinds.contains(&id))
    }

    fn bind(&mut self, id: StateId) {
        if !self.plan.unbinds.remove(&id) && !self.is_bound(id) {
            self.plan.binds.insert(id);
        }
    }

    fn unbind(&mut self, id: StateId) {
        if !self.plan.binds.remove(&id) {
            self.plan.unbinds.insert(id);
        }
    }

    /// Puts one descriptor in force, the only one of its name in the plan; returns its registration.
    fn settle(&mut self, wanted: &StateDescriptor, mode: Option<SchemaMode>) -> Result<StateId, Error> {
        // Several registrations of a name are in force while entries wait to be moved or migrated.
        let named: Vec<StateId> = self.states.named(&wanted.name).filter(|id| self.is_bound(*id)).collect();
        let equal = named.iter().copied().find(|id| self.registration(*id).descriptor == *wanted);
        let mut others = vec![];
        for id in named.into_iter().filter(|id| Some(*id) != equal) {
            others.push((id, self.way(id, wanted, mode, equal)?));
        }
        let stays = |(_, way): &(StateId, Way)| *way == Way::Moved(Rewrite::Keep);
        // One of the old registrations is replaced in place, because its entries stay as they are; of several, the
        // newest.
        let replaced = equal.or_else(|| others.iter().rev().find(|other| stays(other)).map(|(id, _)| *id));
        others.retain(|(id, _)| Some(*id) != replaced);
        // Old registrations without entries are simply replaced.
        let (waiting, empty): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|(id, _)| self.filled.contains(&self.registration(*id).data));
        let sources = waiting.iter().filter(|(_, way)| *way == Way::Migrated);
        let sources: Vec<StateId> = sources.map(|(id, _)| self.registration(*id).data).collect();
        let knows = |id: &StateId| sources.iter().all(|data| self.registration(*id).migrating_from.contains(data));
        // A registration never changes. So if there are sources that the equal one does not list, another registration
        // takes its place.
        let target = match equal.filter(knows) {
            Some(id) => id,
            None => self.find(wanted, replaced.map(|id| self.registration(id).data), sources),
        };
        // Ordering: unbind before bind. An equal registration that stays is in both, and must be in force at the end.
        for id in empty.iter().map(|(id, _)| id).chain(&replaced) {
            self.unbind(*id);
        }
        self.bind(target);
        let to = self.registration(target).data;
        for (id, way) in waiting {
            if let Way::Moved(rewrite) = way {
                let from = self.registration(id).data;
                self.plan.moves.push(Move { from, to, kind: wanted.kind, rewrite });
            }
        }
        Ok(target)
    }

    /// A registration that is not in force and has exactly the wanted descriptor, of `data` or else of data without
    /// entries; otherwise a new one.
    fn find(&mut self, wanted: &StateDescriptor, data: Option<StateId>, migrating_from: Vec<StateId>) -> StateId {
        // Only registrations of one name share data.
        let bound = self.states.named(&wanted.name).filter(|id| self.is_bound(*id));
        let taken: BTreeSet<StateId> = bound.map(|id| self.registration(id).data).collect();
        let fits = |known: &Registration| match data {
            Some(data) => known.data == data,
            None => !taken.contains(&known.data),
        };
        let known = self.states.named(&wanted.name).find(|id| {
            let known = self.registration(*id);
            let is_it = known.descriptor == *wanted && known.migrating_from == migrating_from;
            is_it && !self.is_bound(*id) && fits(known)
        });
        if let Some(id) = known {
            return id;
        }
        let id = StateId(self.states.last_id() + u32::try_from(self.plan.new.len()).unwrap_or(u32::MAX) + 1);
        let registration = Registration { descriptor: wanted.clone(), data: data.unwrap_or(id), migrating_from };
        self.plan.new.push((id, registration));
        id
    }

    /// How the entries of registration `id` become those of `wanted`. `equal` is a registration with that descriptor
    /// that is in force already.
    fn way(
        &self,
        id: StateId,
        wanted: &StateDescriptor,
        mode: Option<SchemaMode>,
        equal: Option<StateId>,
    ) -> Result<Way, Error> {
        let known = self.registration(id);
        if !same_shape(&known.descriptor, wanted) {
            return Err(mismatch(&known.descriptor, wanted));
        }
        if known.descriptor.schema != wanted.schema {
            // A migration that is under way goes on without being declared again, but cannot be turned back.
            let is_under_way = equal.is_some_and(|equal| {
                let target = self.registration(equal);
                let is_reverse = known.migrating_from.contains(&target.data) && id > equal;
                target.migrating_from.contains(&known.data) && !is_reverse
            });
            match mode.or(is_under_way.then_some(SchemaMode::Migrate)) {
                None => return Err(mismatch(&known.descriptor, wanted)),
                Some(SchemaMode::Migrate) => return Ok(Way::Migrated),
                Some(SchemaMode::Compatible) => {}
            }
        }
        Ok(Way::Moved(match (&known.descriptor.ttl, &wanted.ttl) {
            (None, Some(_)) => Rewrite::Stamp,
            (Some(ttl), None) => Rewrite::Strip(ttl.duration_ms),
            (None, None) | (Some(_), Some(_)) => Rewrite::Keep,
        }))
    }
}

/// Whether two descriptors agree in everything that never changes.
pub(super) fn same_shape(one: &StateDescriptor, other: &StateDescriptor) -> bool {
    (one.kind, one.merge, one.redistribution) == (other.kind, other.merge, other.redistribution)
}

/// The declared changes by the name of their state.
fn modes<'a>(wanted: &[StateDescriptor], changes: &'a [SchemaChange]) -> Result<BTreeMap<&'a str, SchemaMode>, Error> {
    let mut modes = BTreeMap::new();
    if changes.is_empty() {
        return Ok(modes);
    }
    let names: BTreeSet<&str> = wanted.iter().map(|wanted| wanted.name.as_str()).collect();
    for SchemaChange { state, mode } in changes {
        if !names.contains(state.as_str()) {
            let text = format!("a schema change of state `{state}`, which is not among the states of the request");
            return Err(Error::new(Reason::UnknownState, text));
        }
        if modes.insert(state.as_str(), *mode).is_some() {
            let text = format!("two schema changes of state `{state}`: there is at most one");
            return Err(Error::new(Reason::InvalidArgument, text));
        }
    }
    Ok(modes)
}

/// The properties that have to agree, for messages.
pub(super) fn show(descriptor: &StateDescriptor) -> String {
    let merge = descriptor.merge.map_or_else(|| "none".to_owned(), |merge| format!("{merge:?}"));
    let redistribution = descriptor.redistribution.map(|it| format!(", redistribution {it:?}")).unwrap_or_default();
    format!("kind {:?}, merge {merge}{redistribution}, serializers: {}", descriptor.kind, descriptor.schema)
}

fn mismatch(known: &StateDescriptor, wanted: &StateDescriptor) -> Error {
    let advice = if same_shape(known, wanted) {
        "use the registered serializers, another name, or declare a schema change"
    } else {
        "use the registered descriptor or another name"
    };
    let text = format!(
        "state `{}` is registered with {} but was asked for with {}; {advice}",
        known.name,
        show(known),
        show(wanted)
    );
    Error::new(Reason::StateMismatch, text)
}

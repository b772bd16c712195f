//! What registering states comes to. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{States, check::check};
use crate::{
    checkpoint::manifest::Registration,
    error::{Error, Reason},
    types::{Limits, SchemaChange, SchemaMode, StateDescriptor, StateId, StateKind},
};

/// What registering states comes to.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::backend) struct Plan {
    /// The registration of each descriptor, in the order asked.
    pub(in crate::backend) ids: Vec<StateId>,
    /// Those that there were not.
    pub(in crate::backend) new: Vec<(StateId, Registration)>,
    /// All that are in force then.
    pub(in crate::backend) bound: BTreeSet<StateId>,
    /// Entries that have to move before it is done.
    pub(in crate::backend) moves: Vec<Move>,
}

/// Entries that the daemon moves from one id to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) struct Move {
    /// Where they are.
    pub(in crate::backend) from: StateId,
    /// Where they belong.
    pub(in crate::backend) to: StateId,
    /// Of both.
    pub(in crate::backend) kind: StateKind,
    /// What becomes of each.
    pub(in crate::backend) rewrite: Rewrite,
}

/// What becomes of the bytes of an entry that moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) enum Rewrite {
    /// Nothing.
    Keep,
    /// They are stamped with the time of the move.
    Stamp,
    /// They lose their stamp; what is older than so many milliseconds is dropped.
    Strip(u64),
}

/// How the entries of a registration come into the form of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The daemon moves them.
    Moved(Rewrite),
    /// The client rewrites them.
    Migrated,
}

/// A plan being made.
struct Draft<'a> {
    states: &'a States,
    /// Data that has entries.
    filled: &'a BTreeSet<StateId>,
    plan: Plan,
}

impl States {
    /// What registering `wanted` comes to. `filled` is which of the [suspects](Self::suspects) have entries. Changes nothing.
    ///
    /// # Errors
    /// If one is malformed or differs from what is in force, a change is about no state of the request, or there would be too
    /// many.
    pub(in crate::backend) fn plan(
        &self,
        wanted: &[StateDescriptor],
        changes: &[SchemaChange],
        filled: &BTreeSet<StateId>,
        limits: &Limits,
    ) -> Result<Plan, Error> {
        wanted.iter().try_for_each(|wanted| check(wanted, limits))?;
        self.plan_checked(wanted, changes, filled, limits)
    }

    /// The same for descriptors that are well-formed.
    pub(super) fn plan_checked(
        &self,
        wanted: &[StateDescriptor],
        changes: &[SchemaChange],
        filled: &BTreeSet<StateId>,
        limits: &Limits,
    ) -> Result<Plan, Error> {
        let modes = modes(wanted, changes)?;
        let plan = Plan { ids: vec![], new: vec![], bound: self.bound.clone(), moves: vec![] };
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

    /// Data of which a plan for `wanted` has to know whether there are entries.
    pub(in crate::backend) fn suspects(&self, wanted: &[StateDescriptor]) -> BTreeSet<StateId> {
        let differs = |known: &Registration| {
            wanted.iter().any(|wanted| wanted.name == known.descriptor.name && *wanted != known.descriptor)
        };
        let bound = self.bound.iter().map(|id| self.registration(*id));
        bound.filter(|known| differs(known)).map(|known| known.data).collect()
    }
}

impl Draft<'_> {
    fn registration(&self, id: StateId) -> &Registration {
        match (id.0 as usize).checked_sub(self.states.registrations.len() + 1) {
            None => self.states.registration(id),
            Some(new) => self.plan.new.get(new).map(|(_, new)| new).expect("ids are those of registrations"),
        }
    }

    /// Puts one descriptor in force; returns its registration.
    fn settle(&mut self, wanted: &StateDescriptor, mode: Option<SchemaMode>) -> Result<StateId, Error> {
        let is_named = |id: &StateId| self.registration(*id).descriptor.name == wanted.name;
        let named: Vec<StateId> = self.plan.bound.iter().copied().filter(is_named).collect();
        let equal = named.iter().copied().find(|id| self.registration(*id).descriptor == *wanted);
        let mut others = vec![];
        for id in named.into_iter().filter(|id| Some(*id) != equal) {
            others.push((id, self.way(id, wanted, mode, equal)?));
        }
        let stays = |(_, way): &(StateId, Way)| *way == Way::Moved(Rewrite::Keep);
        let replaced = equal.or_else(|| others.iter().rev().find(|other| stays(other)).map(|(id, _)| *id));
        others.retain(|(id, _)| Some(*id) != replaced);
        // What is empty is done with.
        let (waiting, empty): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|(id, _)| self.filled.contains(&self.registration(*id).data));
        let sources = waiting.iter().filter(|(_, way)| *way == Way::Migrated);
        let sources: Vec<StateId> = sources.map(|(id, _)| self.registration(*id).data).collect();
        let knows = |id: &StateId| sources.iter().all(|data| self.registration(*id).migrating_from.contains(data));
        let target = match equal.filter(knows) {
            Some(id) => id,
            None => self.find(wanted, replaced.map(|id| self.registration(id).data), sources),
        };
        for id in empty.iter().map(|(id, _)| id).chain(&replaced) {
            self.plan.bound.remove(id);
        }
        self.plan.bound.insert(target);
        let to = self.registration(target).data;
        for (id, way) in waiting {
            if let Way::Moved(rewrite) = way {
                let from = self.registration(id).data;
                self.plan.moves.push(Move { from, to, kind: wanted.kind, rewrite });
            }
        }
        Ok(target)
    }

    /// A registration that is not in force and just what is wanted, of `data` or else of data without entries; or a new one.
    fn find(&mut self, wanted: &StateDescriptor, data: Option<StateId>, migrating_from: Vec<StateId>) -> StateId {
        let taken: BTreeSet<StateId> = self.plan.bound.iter().map(|id| self.registration(*id).data).collect();
        let fits = |known: &Registration| match data {
            Some(data) => known.data == data,
            None => !taken.contains(&known.data),
        };
        let known = self.states.registrations().find(|(id, known)| {
            let is_it = known.descriptor == *wanted && known.migrating_from == migrating_from;
            is_it && !self.plan.bound.contains(id) && fits(known)
        });
        if let Some((id, _)) = known {
            return id;
        }
        let id = StateId(self.states.last_id() + u32::try_from(self.plan.new.len()).unwrap_or(u32::MAX) + 1);
        let registration = Registration { descriptor: wanted.clone(), data: data.unwrap_or(id), migrating_from };
        self.plan.new.push((id, registration));
        id
    }

    /// How the entries of registration `id` become those of `wanted`, of which `equal` is in force already.
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
            // A migration that is under way goes on without being declared again, but not back.
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

/// Whether two descriptors agree in what never changes.
pub(super) fn same_shape(one: &StateDescriptor, other: &StateDescriptor) -> bool {
    (one.kind, one.merge, one.redistribution) == (other.kind, other.merge, other.redistribution)
}

/// The declared changes by name.
fn modes<'a>(wanted: &[StateDescriptor], changes: &'a [SchemaChange]) -> Result<BTreeMap<&'a str, SchemaMode>, Error> {
    let mut modes = BTreeMap::new();
    for SchemaChange { state, mode } in changes {
        if !wanted.iter().any(|wanted| wanted.name == *state) {
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

/// What has to agree, for messages.
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

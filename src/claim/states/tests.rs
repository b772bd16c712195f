//! Histories of registrations.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::*;
use crate::{
    checkpoint::manifest::Registration,
    error::{Error, Reason},
    types::{
        Limits, MergeFunction, Redistribution, SchemaChange, SchemaMode, Serializer, StateDescriptor, StateId,
        StateKind, Ttl,
    },
};

const COMPATIBLE: Option<SchemaMode> = Some(SchemaMode::Compatible);
const MIGRATE: Option<SchemaMode> = Some(SchemaMode::Migrate);

fn descriptor(name: &str, kind: StateKind) -> StateDescriptor {
    StateDescriptor::new(name, kind)
}

/// The state `a` with values of this version.
fn version(version: u32) -> StateDescriptor {
    let mut descriptor = descriptor("a", StateKind::Value);
    descriptor.schema.value = Serializer { id: "row".to_owned(), version };
    descriptor
}

fn with_ttl(descriptor: StateDescriptor, duration_ms: u64) -> StateDescriptor {
    StateDescriptor { ttl: Some(Ttl::new(duration_ms)), ..descriptor }
}

fn ids(ids: &[u32]) -> Vec<StateId> {
    ids.iter().copied().map(StateId).collect()
}

/// Registered states, and which of their data ids have entries.
#[derive(Default)]
struct History {
    states: States,
    filled: BTreeSet<StateId>,
}

impl History {
    fn plan(&self, wanted: &[StateDescriptor], changes: &[SchemaChange]) -> Result<Plan, Error> {
        let filled = self.states.suspects(wanted).intersection(&self.filled).copied().collect();
        self.states.plan_checked(wanted, changes, &filled, &Limits::default())
    }

    /// Registers `a`, and moves entries that the daemon has to move at once. Returns id and source of a migration.
    fn register(&mut self, wanted: StateDescriptor, mode: Option<SchemaMode>) -> Result<(u32, Option<u32>), Error> {
        let change = mode.map(|mode| SchemaChange { state: wanted.name.clone(), mode });
        loop {
            let plan = self.plan(std::slice::from_ref(&wanted), change.as_slice())?;
            self.states.carry_out(&plan);
            for Move { from, to, .. } in &plan.moves {
                assert!(self.filled.remove(from), "only entries that there are move");
                self.filled.insert(*to);
            }
            if plan.moves.is_empty() {
                let registered = self.states.registered(plan.ids[0]);
                assert_eq!(registered.descriptor, wanted);
                assert_eq!(self.states.get(registered.id), Some(&wanted), "it is in force");
                return Ok((registered.id.0, registered.migrating_from.map(|id| id.0)));
            }
        }
    }

    /// The registrations in force, as a restored owner finds them.
    fn cut(&self) -> impl Fn(StateId) -> bool + use<> {
        let (last, missing): (_, Vec<_>) = (self.states.last_id(), self.states.unbound().collect());
        move |id| id.0 <= last && !missing.contains(&id)
    }

    /// Restores a cut; `filled` are the data ids that had entries then.
    fn restore(&mut self, cut: impl Fn(StateId) -> bool, filled: &[u32]) {
        let known = self.states.registrations().map(|(id, known)| (id, known.clone())).collect();
        self.states = States::restored(&known, cut);
        self.filled = ids(filled).into_iter().collect();
    }
}

fn register(states: &mut States, wanted: &[StateDescriptor]) -> Result<Vec<StateId>, Error> {
    let plan = states.plan(wanted, &[], &BTreeSet::new(), &Limits::default())?;
    states.carry_out(&plan);
    Ok(plan.ids)
}

#[test]
fn the_same_descriptor_has_the_same_id() {
    let mut states = States::default();
    let (a, b) = (descriptor("a", StateKind::Value), descriptor("b", StateKind::Map));
    assert_eq!(register(&mut states, &[a.clone(), b.clone(), a.clone()]).unwrap(), ids(&[1, 2, 1]));
    assert_eq!(register(&mut states, &[b, a]).unwrap(), ids(&[2, 1]));
}

/// The shortest time of three calls.
fn least(mut call: impl FnMut()) -> std::time::Duration {
    let timed = |()| {
        let began = std::time::Instant::now();
        call();
        began.elapsed()
    };
    [(); 3].map(timed).into_iter().min().unwrap()
}

#[test]
fn ten_times_the_states_take_about_ten_times_as_long() {
    let wanted = |count| (0..count).map(|n| descriptor(&format!("{n:0>190}"), StateKind::Value)).collect::<Vec<_>>();
    let limits = Limits { max_states: 100_000, ..Limits::default() };
    let at_once = |wanted: &[StateDescriptor]| {
        let mut states = States::default();
        let plan = states.plan(wanted, &[], &BTreeSet::new(), &limits).unwrap();
        states.carry_out(&plan);
        assert!(states.suspects(wanted).is_empty());
        states
    };
    let one_by_one = |wanted: &[StateDescriptor]| {
        let mut states = States::default();
        for wanted in wanted {
            let plan = states.plan(std::slice::from_ref(wanted), &[], &BTreeSet::new(), &limits).unwrap();
            states.carry_out(&plan);
        }
        assert_eq!(states.in_force().count(), wanted.len());
    };
    let adopting = |wanted: &[StateDescriptor]| {
        let none: &[u32] = &[];
        let states: Vec<_> = wanted.iter().zip(1..).map(|(wanted, id)| (wanted.clone(), id, none)).collect();
        let (manifest, record) = parts::part(&states, &[]);
        assert_eq!(adopt(BTreeMap::new(), &[(&manifest, &record)], &[], false).unwrap().bound.len(), wanted.len());
    };
    let (few, many) = (wanted(1_000), wanted(10_000));
    type Call<'a> = &'a dyn Fn(&[StateDescriptor]);
    let calls: [(&str, Call<'_>); 3] =
        [("at once", &|wanted| drop(at_once(wanted))), ("one by one", &one_by_one), ("adopted", &adopting)];
    for (name, call) in calls {
        let (few, many) = (least(|| call(&few)), least(|| call(&many)));
        assert!(
            many < few * 40,
            "{name}: {few:?} for 1,000, {many:?} for 10,000; were it quadratic, 100 times as long"
        );
    }
}

#[test]
fn every_difference_that_is_not_declared_is_refused_with_both_sides_and_registers_nothing() {
    let base = descriptor("a", StateKind::Map);
    let schema = |change: fn(&mut crate::types::Schema, Serializer)| {
        let mut other = base.clone();
        change(&mut other.schema, Serializer { id: "other".to_owned(), version: 9 });
        other
    };
    let cases = [
        (StateDescriptor { kind: StateKind::List, ..base.clone() }, "kind Map", "kind List", true),
        (base.clone().with_merge(MergeFunction::SumI64), "merge none", "merge SumI64", true),
        (
            StateDescriptor { redistribution: Some(Redistribution::Broadcast), ..base.clone() },
            "merge none, serializers",
            "redistribution Broadcast",
            true,
        ),
        (schema(|schema, other| schema.key = other), "key none", "key `other` version 9", false),
        (schema(|schema, other| schema.namespace = other), "namespace none", "namespace `other` version 9", false),
        (schema(|schema, other| schema.value = other), "value none", "value `other` version 9", false),
    ];
    for (other, one_side, other_side, for_ever) in cases {
        let mut history = History::default();
        history.register(base.clone(), None).unwrap();
        let new = descriptor("new", StateKind::List);
        let error = history.plan(&[new, other.clone()], &[]).unwrap_err();
        assert_eq!(error.reason, Reason::StateMismatch);
        assert!(error.message.contains(one_side) && error.message.contains(other_side), "{error}");
        assert_eq!(error.message.contains("declare a schema change"), !for_ever, "{error}");
        for mode in [COMPATIBLE, MIGRATE] {
            assert_eq!(history.register(other.clone(), mode).is_err(), for_ever, "{other:?} {mode:?}");
        }
    }
}

#[test]
fn changes_are_about_states_of_the_request_and_at_most_one_each() {
    let mut history = History::default();
    history.register(version(1), None).unwrap();
    let change = |state: &str, mode| SchemaChange { state: state.to_owned(), mode };
    let error = history.plan(&[version(1)], &[change("b", SchemaMode::Migrate)]).unwrap_err();
    assert_eq!(error.reason, Reason::UnknownState);
    let both = [change("a", SchemaMode::Migrate), change("a", SchemaMode::Compatible)];
    assert_eq!(history.plan(&[version(1)], &both).unwrap_err().reason, Reason::InvalidArgument);
    assert_eq!(history.register(version(1), MIGRATE), Ok((1, None)), "without difference nothing happens");
    assert_eq!(history.states.last_id(), 1);
    let twice = history.plan(&[version(1), version(2)], &[change("a", SchemaMode::Compatible)]);
    assert_eq!(twice.unwrap_err().reason, Reason::StateMismatch, "one name, two descriptors");
}

#[test]
fn a_change_that_keeps_the_bytes_keeps_the_id_and_each_cut_has_its_own_descriptor() {
    let mut history = History::default();
    history.register(version(1), None).unwrap();
    history.filled.insert(StateId(1));
    let before = history.cut();
    assert_eq!(history.register(version(2), COMPATIBLE), Ok((1, None)));
    let defaulted = StateDescriptor { default_value: Bytes::from_static(b"0"), ..version(2) };
    assert_eq!(history.register(defaulted.clone(), None), Ok((1, None)), "needs no declaration");
    let after = history.cut();
    history.restore(&before, &[1]);
    assert_eq!(history.states.get(StateId(1)), Some(&version(1)));
    assert_eq!(history.register(version(3), COMPATIBLE), Ok((1, None)), "it goes on differently");
    let branch = history.cut();
    history.restore(&after, &[1]);
    assert_eq!(history.states.get(StateId(1)), Some(&defaulted));
    history.restore(&branch, &[1]);
    assert_eq!(history.states.get(StateId(1)), Some(&version(3)));
    history.restore(&before, &[1]);
    assert_eq!(history.register(version(2), COMPATIBLE), Ok((1, None)));
    assert_eq!(history.states.last_id(), 4, "what was registered once is found again");
}

#[test]
fn a_migration_goes_on_until_the_old_state_has_no_entries() {
    let mut history = History::default();
    history.register(version(1), None).unwrap();
    history.filled.insert(StateId(1));
    assert!(history.register(version(2), None).is_err());
    assert_eq!(history.register(version(2), MIGRATE), Ok((2, Some(1))));
    assert_eq!(history.states.in_force().count(), 2);
    assert_eq!(history.states.get(StateId(1)), Some(&version(1)), "it is readable meanwhile");
    history.filled.insert(StateId(2));
    let middle = history.cut();
    for mode in [None, MIGRATE] {
        history.restore(&middle, &[1, 2]);
        assert_eq!(history.states.registered(StateId(2)).migrating_from, Some(StateId(1)));
        assert_eq!(history.register(version(2), mode), Ok((2, Some(1))), "under way: {mode:?}");
    }
    assert!(history.register(version(1), None).is_err(), "back is another migration");
    assert_eq!(history.register(version(1), MIGRATE), Ok((1, Some(2))));
    assert!(history.register(version(2), None).is_err(), "which is under way now");
    history.restore(&middle, &[2]);
    assert_eq!(history.register(version(2), None), Ok((2, None)), "all is rewritten");
    assert_eq!(history.states.get(StateId(1)), None, "nobody writes there any more");
    assert_eq!(history.register(version(3), MIGRATE).map(|(_, from)| from), Ok(Some(2)));
}

#[test]
fn a_migration_of_nothing_is_over_at_once() {
    let mut history = History::default();
    history.register(version(1), None).unwrap();
    assert_eq!(history.register(version(2), MIGRATE), Ok((2, None)));
    assert_eq!(history.states.in_force().count(), 1);
}

#[test]
fn a_migration_on_top_of_another_one_has_both_sources_one_after_the_other() {
    let mut history = History::default();
    history.register(version(1), None).unwrap();
    history.filled.insert(StateId(1));
    history.register(version(2), MIGRATE).unwrap();
    history.filled.insert(StateId(2));
    assert_eq!(history.register(version(3), MIGRATE), Ok((3, Some(1))));
    history.filled.remove(&StateId(1));
    assert_eq!(history.register(version(3), None), Ok((3, Some(2))), "both were declared");
    history.filled.remove(&StateId(2));
    assert_eq!(history.register(version(3), None), Ok((3, None)));
}

#[test]
fn ttl_goes_on_and_off_with_the_entries_moved_and_changes_its_parameters_without() {
    let mut history = History::default();
    let plain = descriptor("a", StateKind::Map);
    let lives = |ms| with_ttl(plain.clone(), ms);
    assert_eq!(history.register(plain.clone(), None), Ok((1, None)));
    history.filled.insert(StateId(1));
    let plan = history.plan(&[lives(5)], &[]).unwrap();
    let to = Move { from: StateId(1), to: StateId(2), kind: StateKind::Map, rewrite: Rewrite::Stamp };
    assert_eq!(plan.moves, [to]);
    history.states.carry_out(&plan);
    let middle = history.cut();
    assert_eq!(history.register(lives(5), None), Ok((2, None)));
    assert_eq!(history.register(lives(7), None), Ok((2, None)), "parameters");
    let off = history.plan(std::slice::from_ref(&plain), &[]).unwrap();
    assert_eq!((off.moves[0].rewrite, off.moves[0].to), (Rewrite::Strip(7), StateId(1)), "the old id is free again");
    assert_eq!(history.register(plain.clone(), None), Ok((1, None)));
    assert_eq!(history.register(lives(5), None), Ok((2, None)), "on again");
    history.restore(&middle, &[1, 2]);
    assert_eq!(history.states.in_force().count(), 2);
    assert_eq!(history.register(lives(5), None), Ok((2, None)), "it went on");
    assert_eq!(history.states.in_force().count(), 1);
    history.restore(&middle, &[1, 2]);
    assert_eq!(history.register(plain, None), Ok((1, None)), "or back");
}

#[test]
fn a_state_that_the_restored_checkpoint_does_not_have_binds_nobody() {
    let known = [descriptor("a", StateKind::Value), descriptor("b", StateKind::Value)];
    let known = (1..).map(StateId).zip(known).map(|(id, descriptor)| (id, Registration::first(id, descriptor)));
    let mut states = States::restored(&known.collect(), |id| id == StateId(1));
    assert_eq!(states.in_force().count(), 1);
    assert_eq!(states.get(StateId(2)), None, "nobody registered it");
    assert!(register(&mut states, &[descriptor("a", StateKind::Map)]).is_err());
    assert_eq!(register(&mut states, &[descriptor("b", StateKind::Map)]).unwrap(), ids(&[3]));
    assert!(register(&mut states, &[descriptor("b", StateKind::Value)]).is_err());
    assert_eq!(states.unbound().collect::<Vec<_>>(), ids(&[2]), "it has an id below that of a bound one");
}

#[test]
fn refuses_what_no_state_can_be() {
    let mut states = States::default();
    let reason = |states: &mut States, descriptor| register(states, &[descriptor]).unwrap_err().reason;
    assert_eq!(reason(&mut states, descriptor("", StateKind::Value)), Reason::LimitExceeded);
    let list = descriptor("l", StateKind::List).with_merge(MergeFunction::Append);
    assert_eq!(reason(&mut states, list), Reason::InvalidArgument);
    let default =
        |kind, bytes: usize| StateDescriptor { default_value: vec![7; bytes].into(), ..descriptor("d", kind) };
    assert_eq!(reason(&mut states, default(StateKind::Map, 1)), Reason::InvalidArgument);
    let most = Limits::default().max_value_bytes;
    assert_eq!(reason(&mut states, default(StateKind::Value, most + 1)), Reason::LimitExceeded);
    let sum = |bytes| default(StateKind::Value, bytes).with_merge(MergeFunction::SumI64);
    assert_eq!(reason(&mut states, sum(7)), Reason::InvalidArgument, "a sum has 8 bytes");
    let timer = || descriptor("t", StateKind::Timer);
    let redistributed = |redistribution, of| StateDescriptor { redistribution: Some(redistribution), ..of };
    let misfits = [
        timer().with_merge(MergeFunction::Count),
        StateDescriptor { ttl: Some(Ttl::new(5)), ..timer() },
        redistributed(Redistribution::Split, timer()),
        redistributed(Redistribution::Union, descriptor("u", StateKind::Map)),
        redistributed(Redistribution::Broadcast, descriptor("b", StateKind::List)),
        redistributed(
            Redistribution::Split,
            StateDescriptor { ttl: Some(Ttl::new(5)), ..descriptor("s", StateKind::List) },
        ),
        default(StateKind::Timer, 1),
    ];
    for misfit in misfits {
        assert_eq!(reason(&mut states, misfit), Reason::InvalidArgument);
    }
    assert_eq!(states.last_id(), 0);
    assert!(register(&mut states, &[default(StateKind::Value, most)]).is_ok());
    assert!(register(&mut States::default(), &[sum(8)]).is_ok());
}

mod parts {
    use super::*;
    use crate::checkpoint::manifest::{CheckpointRecord, Manifest, tests::sample};

    /// A part with these registrations (data, sources), of which all but `missing` are in force.
    pub(super) fn part(states: &[(StateDescriptor, u32, &[u32])], missing: &[u32]) -> (Manifest, CheckpointRecord) {
        let mut manifest = sample();
        let state = |(descriptor, data, from): &(StateDescriptor, u32, &[u32])| Registration {
            descriptor: descriptor.clone(),
            data: StateId(*data),
            migrating_from: ids(from),
        };
        manifest.states = (1..).map(StateId).zip(states.iter().map(state)).collect();
        let mut record = manifest.checkpoints[0].clone();
        (record.states_to, record.missing_states) = (u32::try_from(states.len()).unwrap(), ids(missing));
        (manifest, record)
    }

    fn names(pairs: &[(u32, u32)]) -> BTreeMap<StateId, StateId> {
        pairs.iter().map(|(from, to)| (StateId(*from), StateId(*to))).collect()
    }

    fn adopted(
        own: BTreeMap<StateId, Registration>,
        parts: &[&(Manifest, CheckpointRecord)],
    ) -> Result<Adopted, Error> {
        let parts: Vec<_> = parts.iter().map(|(manifest, record)| (manifest, record)).collect();
        adopt(own, &parts, &[], false)
    }

    #[test]
    fn name_their_states_in_any_order_and_agree_on_their_shape() {
        let (a, b, c) =
            (descriptor("a", StateKind::Value), descriptor("b", StateKind::Map), descriptor("c", StateKind::List));
        let later = descriptor("later", StateKind::Value);
        let one = part(&[(a.clone(), 1, &[]), (b.clone(), 2, &[]), (later, 3, &[])], &[3]);
        let two = part(&[(b.clone(), 1, &[]), (c.clone(), 2, &[]), (a.clone(), 3, &[])], &[2]);
        let own = BTreeMap::from([(StateId(1), c), (StateId(2), b)]);
        let own = own.into_iter().map(|(id, descriptor)| (id, Registration::first(id, descriptor))).collect();
        let adopted = self::adopted(own, &[&one, &two]).unwrap();
        assert_eq!(adopted.names, [names(&[(1, 3), (2, 2)]), names(&[(1, 2), (3, 3)])]);
        assert_eq!(adopted.bound, BTreeSet::from([StateId(2), StateId(3)]), "`c` is no part of the checkpoint");
        assert_eq!(adopted.known[&StateId(3)].descriptor, a);
        let other = part(&[(descriptor("b", StateKind::Value), 1, &[])], &[]);
        let error = self::adopted(BTreeMap::new(), &[&one, &other]).unwrap_err();
        assert_eq!(error.reason, Reason::StateMismatch);
        assert!(error.message.contains("kind Map") && error.message.contains("kind Value"), "{error}");
    }

    #[test]
    fn with_and_without_a_change_are_there_beside_each_other_until_it_is_registered() {
        let old = part(&[(version(1), 1, &[])], &[]);
        let new = part(&[(version(1), 1, &[]), (version(2), 1, &[])], &[1]);
        let adopted = self::adopted(BTreeMap::new(), &[&old, &new]).unwrap();
        assert_eq!(adopted.names, [names(&[(1, 1)]), names(&[(1, 2)])], "two ids, although of one in the second");
        let restored = || {
            let states = States::restored(&adopted.known, |id| adopted.bound.contains(&id));
            History { states, filled: ids(&[1, 2]).into_iter().collect() }
        };
        let error = restored().register(version(2), None).unwrap_err();
        assert!(error.message.contains("version 1") && error.message.contains("version 2"), "{error}");
        assert_eq!(restored().register(version(2), COMPATIBLE), Ok((2, None)));
        assert_eq!(restored().register(version(2), MIGRATE), Ok((2, Some(1))));
        assert_eq!(restored().register(version(1), COMPATIBLE), Ok((1, None)));
        assert_eq!(restored().register(version(3), COMPATIBLE), Ok((2, None)), "one stays, the other is moved to it");
    }

    #[test]
    fn in_the_middle_of_a_migration_go_on_with_it() {
        let middle = part(&[(version(1), 1, &[]), (version(2), 2, &[1])], &[]);
        let done = part(&[(version(2), 1, &[])], &[]);
        let before = part(&[(version(1), 1, &[])], &[]);
        for parts in [[&done, &middle, &before], [&before, &done, &middle], [&middle, &before, &done]] {
            let adopted = self::adopted(BTreeMap::new(), &parts).unwrap();
            let states = States::restored(&adopted.known, |id| adopted.bound.contains(&id));
            let mut history = History { states, filled: (1..9).map(StateId).collect() };
            assert_eq!(history.states.in_force().count(), 2);
            let (id, from) = history.register(version(2), None).unwrap();
            assert_eq!(history.states.get(StateId(from.unwrap())), Some(&version(1)));
            assert!(history.register(version(1), None).is_err());
            history.filled.remove(&StateId(from.unwrap()));
            assert_eq!(history.register(version(2), None), Ok((id, None)));
        }
    }

    fn redistributed(descriptor: StateDescriptor) -> StateDescriptor {
        let (kind, redistribution) = (StateKind::List, Some(Redistribution::Union));
        StateDescriptor { kind, redistribution, ..descriptor }
    }

    #[test]
    fn of_operator_state_alone_are_called_like_those_of_the_own_part() {
        let [one, two, three] = [1, 2, 3].map(|n| redistributed(version(n)));
        let keyed = descriptor("keyed", StateKind::Value);
        let own = part(&[(keyed.clone(), 1, &[]), (one.clone(), 2, &[]), (two.clone(), 2, &[])], &[2]);
        let sibling = part(&[(one.clone(), 1, &[]), (two.clone(), 2, &[1]), (keyed, 3, &[])], &[]);
        let [own, sibling] = [&own, &sibling].map(|(manifest, record)| (manifest, record));
        let known = own.0.states.clone();
        let adopted = adopt(known.clone(), &[own], &[own], true).unwrap();
        assert_eq!((adopted.known, adopted.bound), (known.clone(), ids(&[1, 3]).into_iter().collect()));
        assert_eq!((&adopted.names[0], &adopted.operator_names[0]), (&names(&[(1, 1), (2, 2)]), &names(&[(2, 2)])));
        let adopted = adopt(known, &[own], &[own, sibling], true).unwrap();
        assert_eq!(
            adopted.operator_names,
            [names(&[(2, 2)]), names(&[(1, 4), (2, 2)])],
            "an old form has data of its own"
        );
        let states = States::restored(&adopted.known, |id| adopted.bound.contains(&id));
        assert_eq!((states.get(StateId(2)), states.get(StateId(4))), (Some(&two), Some(&one)));
        let migrating = states.in_force().find(|state| state.id == StateId(2)).and_then(|state| state.migrating_from);
        assert_eq!(migrating, Some(StateId(4)), "one of all is in the middle of a migration");
        let other = part(&[(StateDescriptor { redistribution: None, ..three }, 1, &[])], &[]);
        assert!(
            adopt(BTreeMap::new(), &[own], &[(&other.0, &other.1)], false).is_ok(),
            "keyed state of others is not read"
        );
    }

    #[test]
    fn of_one_descriptor_and_forms_of_it_never_share_data() {
        let own = part(&[(version(1), 1, &[]), (version(2), 1, &[])], &[1]).0.states;
        let (one, two) = (part(&[(version(1), 1, &[])], &[]), part(&[(version(2), 1, &[])], &[]));
        let adopted = self::adopted(own, &[&one, &two]).unwrap();
        assert_eq!(adopted.names, [names(&[(1, 1)]), names(&[(1, 3)])]);
        let states = States::restored(&adopted.known, |id| adopted.bound.contains(&id));
        assert_eq!(states.get(StateId(3)), Some(&version(2)));
    }
}

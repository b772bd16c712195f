//! The bench of the conformance checks: a backend, its states and its log.

use bytes::Bytes;

use super::Factory;
use crate::{
    state::{
        Action, Address, Change, MapKeys, PieceSnapshots, StateBackend, StateError,
        op::{Answer, Op, OpContext, Timer, check, execute},
    },
    types::{KeyGroup, KeyGroupRange, Limits, MergeFunction, StateDescriptor, StateId, StateKind},
};

/// Longest value on the bench, in bytes.
pub(super) const MAX_VALUE_BYTES: usize = 64;

/// Most bytes of a page on the bench.
pub(super) const PAGE_BYTES: usize = 256;

/// States of the bench: name, kind, merge function. Their ids count from 1, with a gap after the first.
const STATES: [(StateId, StateKind, Option<MergeFunction>); 20] = [
    (VALUE, StateKind::Value, None),
    (OTHER_VALUE, StateKind::Value, None),
    (LIST, StateKind::List, None),
    (MAP, StateKind::Map, None),
    (SUM, StateKind::Value, Some(MergeFunction::SumI64)),
    (MIN, StateKind::Value, Some(MergeFunction::MinI64)),
    (MAX, StateKind::Value, Some(MergeFunction::MaxI64)),
    (SUM_F64, StateKind::Value, Some(MergeFunction::SumF64)),
    (MIN_F64, StateKind::Value, Some(MergeFunction::MinF64)),
    (APPEND, StateKind::Value, Some(MergeFunction::Append)),
    (MAP_SUM, StateKind::Map, Some(MergeFunction::SumI64)),
    (MAP_APPEND, StateKind::Map, Some(MergeFunction::Append)),
    (COUNT, StateKind::Value, Some(MergeFunction::Count)),
    (AVERAGE, StateKind::Value, Some(MergeFunction::AverageI64)),
    (AVERAGE_F64, StateKind::Value, Some(MergeFunction::AverageF64)),
    (SET, StateKind::Value, Some(MergeFunction::SetUnion)),
    (SKETCH, StateKind::Value, Some(MergeFunction::HyperLogLog)),
    (MAP_SET, StateKind::Map, Some(MergeFunction::SetUnion)),
    (MAP_COUNT, StateKind::Map, Some(MergeFunction::Count)),
    (TIMER, StateKind::Timer, None),
];

pub(super) const VALUE: StateId = StateId(1);
pub(super) const OTHER_VALUE: StateId = StateId(3);
pub(super) const LIST: StateId = StateId(4);
pub(super) const MAP: StateId = StateId(5);
pub(super) const SUM: StateId = StateId(6);
pub(super) const MIN: StateId = StateId(7);
pub(super) const MAX: StateId = StateId(8);
pub(super) const SUM_F64: StateId = StateId(9);
pub(super) const MIN_F64: StateId = StateId(10);
pub(super) const APPEND: StateId = StateId(11);
pub(super) const MAP_SUM: StateId = StateId(12);
pub(super) const MAP_APPEND: StateId = StateId(13);
pub(super) const COUNT: StateId = StateId(14);
pub(super) const AVERAGE: StateId = StateId(15);
pub(super) const AVERAGE_F64: StateId = StateId(16);
pub(super) const SET: StateId = StateId(17);
pub(super) const SKETCH: StateId = StateId(18);
pub(super) const MAP_SET: StateId = StateId(19);
pub(super) const MAP_COUNT: StateId = StateId(20);
pub(super) const TIMER: StateId = StateId(21);

/// Key groups of the bench.
pub(super) fn range() -> KeyGroupRange {
    KeyGroupRange::new(10, 13).unwrap()
}

/// The address of `key` in the void namespace; its key group follows from its bytes.
pub(super) fn at(state: StateId, key: &str) -> Address<'_> {
    at_namespace(state, key, "")
}

/// The address of `key` in `namespace`.
pub(super) fn at_namespace<'a>(state: StateId, key: &'a str, namespace: &'a str) -> Address<'a> {
    let sum: usize = key.bytes().map(usize::from).sum();
    let key_group = KeyGroup(range().first().0 + u16::try_from(sum % range().count()).unwrap());
    Address { state, key_group, key: key.as_bytes(), namespace: namespace.as_bytes() }
}

/// The address of operations on all keys of a state.
pub(super) fn everywhere(state: StateId) -> Address<'static> {
    Address { state, key_group: range().first(), key: b"", namespace: b"" }
}

/// Elements in the form that operations take.
pub(super) fn elements(of: &[&str]) -> Vec<Bytes> {
    of.iter().map(|element| Bytes::copy_from_slice(element.as_bytes())).collect()
}

/// A backend with registered states, and the changes that it logged.
pub(super) struct Bench {
    pub(super) backend: Box<dyn StateBackend>,
    log: Vec<(KeyGroup, Vec<u8>)>,
    descriptors: Vec<(StateId, StateDescriptor)>,
}

impl Bench {
    pub(super) fn new(factory: Factory<'_>) -> Self {
        let mut backend = factory(range());
        let mut descriptors = Vec::new();
        for (state, kind, merge) in STATES {
            let descriptor = StateDescriptor::new(format!("state-{}", state.0), kind).with_merge(merge);
            backend.register(state, &descriptor);
            descriptors.push((state, descriptor));
        }
        Self { backend, log: Vec::new(), descriptors }
    }

    /// Checks and executes an operation, and records the changes that it logs.
    pub(super) fn run(&mut self, at: Address<'_>, op: Op<'_>) -> Option<Answer> {
        self.try_run(at, op).unwrap()
    }

    /// The same; returns the backend's error instead of panicking.
    pub(super) fn try_run(&mut self, at: Address<'_>, op: Op<'_>) -> Result<Option<Answer>, StateError> {
        let (_, descriptor) = self.descriptors.iter().find(|(state, _)| *state == at.state).unwrap();
        let limits = Limits { max_value_bytes: MAX_VALUE_BYTES, ..Limits::default() };
        check(&op, &at, descriptor, &limits).unwrap();
        let context = OpContext {
            descriptor,
            max_value_bytes: MAX_VALUE_BYTES,
            page_bytes: PAGE_BYTES,
            key_groups: range(),
            scope: 7,
            time: 0,
            upkeep: None,
            reach: Default::default(),
            cursors: None,
        };
        let mut log = |change: &Change<'_>| {
            let mut bytes = Vec::new();
            change.encode(&mut bytes);
            self.log.push((change.at.key_group, bytes));
        };
        execute(&mut *self.backend, at, &op, &context, &mut log)
    }

    /// Runs a write that must have no answer and must log exactly `changes`.
    pub(super) fn write(&mut self, at: Address<'_>, op: Op<'_>, changes: &[Action<'_>]) {
        let from = self.log.len();
        assert_eq!(self.run(at, op), None, "{op:?}");
        let logged: Vec<_> = self.changes(from).collect();
        let expected: Vec<_> = changes.iter().map(|&action| Change { at, action }).collect();
        assert_eq!(logged, expected, "what {op:?} logs");
    }

    /// Merges namespaces of `key` into `target`, which must log exactly `changes`: namespace and action of each.
    pub(super) fn merge_namespaces(
        &mut self,
        state: StateId,
        key: &str,
        target: &str,
        sources: &[&str],
        changes: &[(&str, Action<'_>)],
    ) {
        let from = self.log.len();
        let merged = self.run(at_namespace(state, key, target), Op::MergeNamespaces(&elements(sources)));
        assert_eq!(merged, None);
        let logged: Vec<_> = self.changes(from).collect();
        let change = |&(namespace, action)| Change { at: at_namespace(state, key, namespace), action };
        assert_eq!(logged, changes.iter().map(change).collect::<Vec<_>>());
    }

    /// Runs a read, which must log nothing.
    pub(super) fn read(&mut self, at: Address<'_>, op: Op<'_>) -> Answer {
        let logged = self.logged();
        let answer = self.run(at, op).unwrap();
        assert_eq!(self.logged(), logged, "{op:?} is not logged");
        answer
    }

    /// The value at `at`.
    pub(super) fn value(&mut self, at: Address<'_>) -> Option<Vec<u8>> {
        let Answer::Value(value) = self.read(at, Op::Get) else { unreachable!("Get answers a value") };
        value.map(Vec::from)
    }

    /// The value of a map entry.
    pub(super) fn map_value(&mut self, at: Address<'_>, map_key: &str) -> Option<Vec<u8>> {
        let op = Op::MapGet { map_key: map_key.as_bytes() };
        let Answer::Value(value) = self.read(at, op) else { unreachable!("MapGet answers a value") };
        value.map(Vec::from)
    }

    /// Every map entry, page by page.
    pub(super) fn map(&mut self, at: Address<'_>) -> Vec<(Bytes, Bytes)> {
        let (mut all, mut from) = (Vec::new(), Vec::new());
        loop {
            let answer = self.read(at, Op::MapEntries { keys: MapKeys::from(&from), limit: 0 });
            let Answer::Entries { entries, more } = answer else { unreachable!("MapEntries answers entries") };
            all.extend(entries);
            if !more {
                return all;
            }
            from = all.last().expect("a page is not empty while others follow").0.to_vec();
            from.push(0);
        }
    }

    /// Every list element, page by page.
    pub(super) fn list(&mut self, at: Address<'_>) -> Vec<Bytes> {
        let (mut all, mut from) = (Vec::new(), Bytes::new());
        loop {
            let answer = self.read(at, Op::ListGet { start: 0, token: &from, limit: 0 });
            let Answer::Elements { elements, token } = answer else { unreachable!("ListGet answers elements") };
            all.extend(elements);
            match token {
                Some(token) => from = token,
                None => return all,
            }
        }
    }

    /// Every timer at or before `up_to`, page by page of `limit`.
    pub(super) fn timers(&mut self, up_to: i64, limit: u64) -> Vec<Timer> {
        let (mut all, mut from) = (Vec::new(), Bytes::new());
        loop {
            let answer = self.read(everywhere(TIMER), Op::Timers { up_to, token: &from, limit });
            let Answer::Timers { timers, token } = answer else { unreachable!("Timers answers timers") };
            all.extend(timers);
            let Some(token) = token else { return all };
            from = token;
        }
    }

    /// Fires up to `limit` timers at or before `up_to`. Each is logged as one removal.
    pub(super) fn fire(&mut self, up_to: i64, limit: u64) -> (Vec<Timer>, bool) {
        let logged = self.logged();
        let answer = self.run(everywhere(TIMER), Op::TimersFire { up_to, limit });
        let Some(Answer::Fired { timers, more }) = answer else { unreachable!("TimersFire answers what it fired") };
        let removal = |timer: &Timer| (timer.clone(), Action::TimerRemove { time: timer.time });
        let removed = self.changes(logged).map(|Change { at, action }| {
            let Action::TimerRemove { time } = action else { unreachable!("firing removes") };
            let copy = Bytes::copy_from_slice;
            let (key, namespace) = (copy(at.key), copy(at.namespace));
            (Timer { time, key, namespace, key_group: at.key_group }, action)
        });
        assert_eq!(removed.collect::<Vec<_>>(), timers.iter().map(removal).collect::<Vec<_>>());
        (timers, more)
    }

    /// The times of one (key, namespace).
    fn timers_of(&mut self, at: Address<'_>) -> Vec<(Bytes, Bytes)> {
        let here = |timer: &Timer| timer.key == at.key && timer.namespace == at.namespace;
        let timers = self.timers(i64::MAX, 0).into_iter().filter(here);
        timers.map(|timer| (Bytes::copy_from_slice(&timer.time.to_be_bytes()), Bytes::new())).collect()
    }

    /// Number of entries of a state.
    pub(super) fn entries(&self, state: StateId) -> u64 {
        self.backend.entries(state).unwrap()
    }

    /// The backend's interface for copying pieces.
    pub(super) fn pieces(&self) -> &dyn PieceSnapshots {
        self.backend.pieces().expect("a backend of pieces")
    }

    /// Number of logged changes.
    pub(super) fn logged(&self) -> usize {
        self.log.len()
    }

    /// The logged changes from the `from`th on, in order.
    pub(super) fn changes(&self, from: usize) -> impl Iterator<Item = Change<'_>> {
        self.log[from..].iter().map(|(group, bytes)| Change::decode(*group, bytes).unwrap())
    }

    /// Ids of the registered states.
    pub(super) fn states(&self) -> impl Iterator<Item = StateId> + use<> {
        STATES.into_iter().map(|(state, _, _)| state)
    }

    /// A bench on a fresh backend to which the log was replayed.
    pub(super) fn replayed(&self, factory: Factory<'_>) -> Self {
        let mut replayed = Self::new(factory);
        for change in self.changes(0) {
            replayed.backend.apply(&change).unwrap();
        }
        replayed.backend.finish_batch().unwrap();
        replayed
    }

    /// Asserts that replaying the log makes a backend that is equal at `places`, and in its counts.
    pub(super) fn assert_replays(&mut self, factory: Factory<'_>, places: &[Address<'_>]) {
        let mut replayed = self.replayed(factory);
        self.assert_equals(&mut replayed, places);
    }

    /// Asserts that another bench, rebuilt from this one, is equal at `places`, and in its counts.
    pub(super) fn assert_equals(&mut self, rebuilt: &mut Self, places: &[Address<'_>]) {
        for &at in places {
            assert_eq!(self.contents(at), rebuilt.contents(at), "rebuilt {at:?}");
        }
        for (state, _, _) in STATES {
            assert_eq!(self.entries(state), rebuilt.entries(state), "rebuilt entries of {state:?}");
        }
    }

    /// All entries at `at`: (map key or nothing, value or element).
    pub(super) fn contents(&mut self, at: Address<'_>) -> Vec<(Bytes, Bytes)> {
        let (_, descriptor) = self.descriptors.iter().find(|(state, _)| *state == at.state).unwrap();
        let contents: Vec<_> = match descriptor.kind {
            StateKind::Value => self.value(at).into_iter().map(|value| (Bytes::new(), value.into())).collect(),
            StateKind::List => self.list(at).into_iter().map(|element| (Bytes::new(), element)).collect(),
            StateKind::Map => self.map(at),
            StateKind::Timer => self.timers_of(at),
        };
        assert_eq!(self.backend.len(at).unwrap(), contents.len() as u64, "length at {at:?}");
        contents
    }
}

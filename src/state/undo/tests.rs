//! Compares random changes, marks, releases and roll-backs with copies of a plain model.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::*;
use crate::{
    state::{Action, MapKeys, PageLimit, TimerRef, hashmap::HashMapBackend},
    types::{KeyGroupRange, StateDescriptor},
};

const KINDS: [(StateId, StateKind); 4] = [
    (StateId(1), StateKind::Value),
    (StateId(2), StateKind::Map),
    (StateId(3), StateKind::List),
    (StateId(4), StateKind::Timer),
];
const KEYS: [&str; 5] = ["a", "b", "\0", "\0\u{1}", "long key"];
const NAMESPACES: [&str; 2] = ["", "n"];

type Factory<'a> = &'a dyn Fn(KeyGroupRange) -> Box<dyn StateBackend>;
/// State, key, namespace.
type Place = (u32, &'static str, &'static str);
/// Map entries, list elements by big-endian index, times without their sign, or a value under the empty key.
type Model = BTreeMap<Place, BTreeMap<Vec<u8>, Vec<u8>>>;

#[derive(Debug, Clone)]
enum Step {
    Change { state: usize, key: &'static str, namespace: &'static str, verb: u8, entry: u8, value: Vec<u8> },
    Mark,
    Release(usize),
    Settle(usize),
    RollBack(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop::collection::vec(any::<u8>(), 0..4);
    let place = (0..KINDS.len(), prop::sample::select(&KEYS[..]), prop::sample::select(&NAMESPACES[..]));
    prop_oneof![
        40 => (place, 0..8_u8, 0..6_u8, value).prop_map(|((state, key, namespace), verb, entry, value)| {
            Step::Change { state, key, namespace, verb, entry, value }
        }),
        5 => Just(Step::Mark),
        3 => (0..4_usize).prop_map(Step::Release),
        3 => (1..5_usize).prop_map(Step::Settle),
        1 => (0..4_usize).prop_map(Step::RollBack),
    ]
}

fn range() -> KeyGroupRange {
    KeyGroupRange::new(5, 6).unwrap()
}

fn at((state, key, namespace): Place) -> Address<'static> {
    let key_group = KeyGroup(if key == "b" { 6 } else { 5 });
    Address { state: StateId(state), key_group, key: key.as_bytes(), namespace: namespace.as_bytes() }
}

/// A backend with marks, a model of the live contents, and one model for each open mark.
struct Bench {
    backend: Box<dyn StateBackend>,
    undo: Undo,
    live: Model,
    marks: BTreeMap<Mark, Model>,
    next: u64,
}

impl Bench {
    fn new(factory: Factory<'_>, limit: u64) -> Self {
        let mut backend = factory(range());
        for (state, kind) in KINDS {
            backend.register(state, &StateDescriptor::new(format!("{kind:?}"), kind));
        }
        Self { backend, undo: Undo::new(limit), live: Model::new(), marks: BTreeMap::new(), next: 1 }
    }

    fn change(&mut self, place: Place, kind: StateKind, action: Action<'_>) {
        let change = Change { at: at(place), action };
        self.undo.recording(self.backend.as_mut(), kind).apply(&change).unwrap();
        apply(&mut self.live, place, action);
    }

    fn mark(&mut self) -> Mark {
        let mark = Mark(self.next);
        self.next += 1;
        self.undo.mark(mark);
        self.marks.insert(mark, self.live.clone());
        mark
    }

    fn nth(&self, nth: usize) -> Option<Mark> {
        self.marks.keys().nth(nth % self.marks.len().max(1)).copied()
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Change { state, key, namespace, verb, entry, value } => {
                let (id, kind) = KINDS[*state];
                let place = (id.0, *key, *namespace);
                let map_key = &[*entry][..];
                let length = self.live.get(&place).map_or(0, |list| list.len() as u64);
                let time = i64::from(*entry);
                let action = match (kind, verb) {
                    (StateKind::Timer, 0..4) => Action::TimerRemove { time },
                    (StateKind::Timer, _) => Action::TimerPut { time },
                    (_, 0) => Action::Clear,
                    (StateKind::Value, 1..3) => Action::Append(value),
                    (StateKind::Value, _) => Action::Put(value),
                    (StateKind::Map, 1..3) => Action::MapRemove { map_key },
                    (StateKind::Map, 3) => Action::MapAppend { map_key, value },
                    (StateKind::Map, _) => Action::MapPut { map_key, value },
                    (StateKind::List, 1..3) => Action::ListPut { index: u64::from(*entry).min(length), element: value },
                    _ => Action::ListPut { index: length, element: value },
                };
                self.change(place, kind, action);
            }
            Step::Mark => {
                self.mark();
            }
            Step::Release(nth) => {
                if let Some(mark) = self.nth(*nth) {
                    self.undo.release(mark);
                    self.marks.remove(&mark);
                }
            }
            Step::Settle(most) => self.undo.settle(self.backend.as_ref(), *most),
            Step::RollBack(nth) => {
                let Some(mark) = self.nth(*nth) else { return };
                let mut log = vec![];
                let rolled_back = self.undo.roll_back(self.backend.as_mut(), mark, &mut |change| {
                    let mut bytes = vec![];
                    change.encode(&mut bytes);
                    log.push((change.at.key_group, bytes));
                });
                assert!(rolled_back.unwrap());
                for (group, bytes) in &log {
                    let change = Change::decode(*group, bytes).unwrap();
                    let known =
                        KEYS.iter().flat_map(|key| NAMESPACES.map(|namespace| (change.at.state.0, *key, namespace)));
                    let place = { known }.find(|place| at(*place) == change.at).unwrap();
                    apply(&mut self.live, place, change.action);
                }
                self.marks.retain(|other, _| *other <= mark);
                assert_eq!(self.live, self.marks[&mark], "the changes that were logged bring the cut back");
            }
        }
    }

    /// Compares every open mark, and the live contents, with their models.
    fn check(&mut self) {
        let open: Vec<Mark> = self.undo.marks().collect();
        assert_eq!(open, self.marks.keys().copied().collect::<Vec<_>>());
        compare(self.backend.as_ref(), &self.live);
        for (mark, model) in self.marks.iter().filter(|_| !self.undo.is_lazy) {
            compare(&self.undo.view(self.backend.as_mut(), *mark).unwrap(), model);
        }
        let recount: u64 = self.undo.layers.iter().map(|layer| layer.recount()).sum();
        assert_eq!((self.undo.bytes, recount), (recount, self.undo.layers.iter().map(|layer| layer.bytes).sum()));
    }
}

impl Layer {
    fn recount(&self) -> u64 {
        let old = |old: &Old| match old {
            Old::Value(old) => old.as_ref().map_or(0, |old| old.len() as u64),
            Old::Map(map) | Old::Timers(map) => {
                let bytes =
                    |key: &[u8], old: Option<&[u8]>| ENTRY_BYTES + (key.len() + old.map_or(0, <[u8]>::len)) as u64;
                map.entries.iter().map(|(key, old)| bytes(key, old.as_deref())).sum()
            }
            Old::List(list) => list.elements.values().map(|element| ENTRY_BYTES + element.len() as u64).sum(),
        };
        let names = |id: &[u8], cell: &Cell| (id.len() + cell.key.len() + cell.namespace.len()) as u64;
        let cells: u64 = self.cells.iter().map(|(id, cell)| CELL_BYTES + names(id, cell) + old(&cell.old)).sum();
        cells + self.journal.bytes() + self.timers.keys().map(OldTimer::bytes).sum::<u64>()
    }
}

fn apply(model: &mut Model, place: Place, action: Action<'_>) {
    let cell = model.entry(place).or_default();
    match action {
        Action::Clear => cell.clear(),
        Action::Put(value) => drop(cell.insert(vec![], value.to_vec())),
        Action::Append(value) => cell.entry(vec![]).or_default().extend_from_slice(value),
        Action::MapPut { map_key, value } => drop(cell.insert(map_key.to_vec(), value.to_vec())),
        Action::MapRemove { map_key } => drop(cell.remove(map_key)),
        Action::MapAppend { map_key, value } => cell.entry(map_key.to_vec()).or_default().extend_from_slice(value),
        Action::ListPut { index, element } => drop(cell.insert(index.to_be_bytes().to_vec(), element.to_vec())),
        Action::TimerPut { time } => drop(cell.insert(time.to_be_bytes().to_vec(), vec![])),
        Action::TimerRemove { time } => drop(cell.remove(&time.to_be_bytes()[..])),
    }
    if cell.is_empty() {
        model.remove(&place);
    }
}

/// Reads everything in every way, in pages of several lengths.
fn compare(backend: &dyn StateBackend, model: &Model) {
    for (state, kind) in KINDS {
        for (key, namespace) in KEYS.iter().flat_map(|key| NAMESPACES.map(|namespace| (*key, namespace))) {
            let place = (state.0, key, namespace);
            let empty = BTreeMap::new();
            let cell = model.get(&place).unwrap_or(&empty);
            assert_eq!(backend.len(at(place)).unwrap(), cell.len() as u64, "{place:?}");
            match kind {
                StateKind::Value => {
                    let mut value = None;
                    backend.value(at(place), &mut |stored| value = stored.map(<[u8]>::to_vec)).unwrap();
                    assert_eq!(value.as_ref(), cell.get(&vec![]), "{place:?}");
                }
                StateKind::Map => compare_map(backend, place, cell),
                StateKind::List => compare_list(backend, place, cell),
                StateKind::Timer => {
                    for time in 0..6 {
                        let expected = cell.contains_key(&i64::to_be_bytes(time)[..]);
                        assert_eq!(backend.timer(at(place), time).unwrap(), expected, "{place:?} {time}");
                    }
                }
            }
        }
        if kind == StateKind::Timer {
            compare_timers(backend, state, model);
        }
        for entries in [1, 2, usize::MAX] {
            let mut found: Vec<Place> = vec![];
            for group in range().iter() {
                found.extend(names(backend, state, group, entries));
            }
            let mut sorted = found.clone();
            sorted.sort_unstable();
            let expected: Vec<_> = model.keys().filter(|place| place.0 == state.0).copied().collect();
            assert_eq!(sorted, expected, "the names of state {state:?}, each once, {entries} at a time");
            let rank = |place: &Place| {
                let (mut rank, at) = (vec![], at(*place));
                backend.name_rank(at.key, at.namespace, &mut rank);
                (at.key_group, rank)
            };
            assert!(found.is_sorted_by_key(rank), "in the order of the backend");
        }
    }
}

fn compare_map(backend: &dyn StateBackend, place: Place, cell: &BTreeMap<Vec<u8>, Vec<u8>>) {
    for map_key in (0..6_u8).map(|entry| vec![entry]) {
        let mut value = None;
        backend.map_value(at(place), &map_key, &mut |stored| value = stored.map(<[u8]>::to_vec)).unwrap();
        assert_eq!(value.as_ref(), cell.get(&map_key), "{place:?} {map_key:?}");
    }
    for (first, to, prefix, entries) in [(0, 9, None, 1), (2, 9, None, 2), (1, 4, None, 1), (0, 9, Some(3), 1)] {
        let (mut found, mut from) = (vec![], vec![first]);
        let prefix: Vec<u8> = prefix.into_iter().collect();
        loop {
            let limit = PageLimit { entries, bytes: usize::MAX };
            let mut read = |key: &[u8], value: &[u8]| found.push((key.to_vec(), value.to_vec()));
            let keys = MapKeys { from: &from, to: &[to], prefix: &prefix };
            if !backend.map_page(at(place), keys, limit, &mut read).unwrap() {
                break;
            }
            from = [&found.last().unwrap().0[..], &[0]].concat();
        }
        let expected = cell.range(vec![first]..vec![to]).filter(|(key, _)| key.starts_with(&prefix));
        let expected: Vec<_> = expected.map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(found, expected, "{place:?} from {first} to {to}, {entries} at a time");
    }
}

fn compare_timers(backend: &dyn StateBackend, state: StateId, model: &Model) {
    let of_cell = |(place, times): (&Place, &BTreeMap<Vec<u8>, Vec<u8>>)| {
        let at = at(*place);
        let time = |entry: &Vec<u8>| i64::from_be_bytes(entry[..].try_into().unwrap());
        times.keys().map(|entry| (time(entry), at.key, at.namespace, at.key_group)).collect::<Vec<_>>()
    };
    for (up_to, entries) in [(3, 1), (i64::MAX, 2), (i64::MAX, usize::MAX)] {
        let mut expected: Vec<_> = model.iter().filter(|(place, _)| place.0 == state.0).flat_map(of_cell).collect();
        expected.retain(|(time, ..)| *time <= up_to);
        expected.sort_unstable();
        let mut found: Vec<(i64, Vec<u8>, Vec<u8>, KeyGroup)> = vec![];
        loop {
            let last = found.last().cloned();
            let after = last.as_ref().map(|(time, key, namespace, key_group)| TimerRef {
                time: *time,
                key,
                namespace,
                key_group: *key_group,
            });
            let mut read = |timer: TimerRef<'_>| {
                found.push((timer.time, timer.key.to_vec(), timer.namespace.to_vec(), timer.key_group));
            };
            let limit = PageLimit { entries, bytes: usize::MAX };
            if !backend.timer_page(state, after, up_to, limit, &mut read).unwrap() {
                break;
            }
        }
        let found: Vec<_> = found.iter().map(|(time, key, ns, group)| (*time, &key[..], &ns[..], *group)).collect();
        assert_eq!(found, expected, "timers up to {up_to}, {entries} at a time");
    }
}

fn compare_list(backend: &dyn StateBackend, place: Place, cell: &BTreeMap<Vec<u8>, Vec<u8>>) {
    for (first, entries) in [(0, 1), (1, 2), (0, usize::MAX)] {
        let mut found: Vec<Vec<u8>> = vec![];
        loop {
            let limit = PageLimit { entries, bytes: usize::MAX };
            let from = (first + found.len()) as u64;
            if !backend.list_page(at(place), from, limit, &mut |element| found.push(element.to_vec())).unwrap() {
                break;
            }
        }
        let expected: Vec<_> = cell.values().skip(first).cloned().collect();
        assert_eq!(found, expected, "{place:?} from {first}, {entries} at a time");
    }
}

fn names(backend: &dyn StateBackend, state: StateId, group: KeyGroup, entries: usize) -> Vec<Place> {
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = vec![];
    loop {
        let last = found.last().cloned();
        let after = last.as_ref().map(|(key, namespace)| (&key[..], &namespace[..]));
        let limit = PageLimit { entries, bytes: usize::MAX };
        let mut read = |key: &[u8], namespace: &[u8]| found.push((key.to_vec(), namespace.to_vec()));
        if !backend.name_page(state, group, after, limit, &mut read).unwrap() {
            break;
        }
    }
    let known = |bytes: &[u8], of: &[&'static str]| *of.iter().find(|known| known.as_bytes() == bytes).unwrap();
    found.iter().map(|(key, namespace)| (state.0, known(key, &KEYS), known(namespace, &NAMESPACES))).collect()
}

/// Every mark must read as the live contents when it was set, whatever changes came after it.
pub(in crate::state) fn marks_equal_copies_of_the_model(factory: Factory<'_>, cases: u32) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let steps = prop::collection::vec(step(), 1..150);
    let run = runner.run(&steps, |steps| {
        let mut bench = Bench::new(factory, u64::MAX);
        for (index, step) in steps.iter().enumerate() {
            bench.run(step);
            if index % 16 == 0 {
                bench.check();
            }
        }
        bench.check();
        Ok(())
    });
    run.unwrap_or_else(|failed| panic!("{failed}"));
}

fn hashmap() -> Bench {
    Bench::new(&|range| Box::new(HashMapBackend::new(range)), 100_000)
}

#[test]
fn marks_of_the_hash_map_equal_copies_of_the_model() {
    marks_equal_copies_of_the_model(&|range| Box::new(HashMapBackend::new(range)), 400);
}

#[test]
fn lazy_marks_bring_back_copies_of_the_model() {
    let mut runner = TestRunner::new(Config { cases: 600, failure_persistence: None, ..Config::default() });
    let steps = (prop::collection::vec(step(), 1..150), 0..4_usize, prop::sample::select(&[u64::MAX, 60][..]));
    let run = runner.run(&steps, |(steps, nth, limit)| {
        let mut bench = hashmap();
        // Journals take too much room soon, or never.
        bench.undo = Undo { journal_limit: limit, ..Undo::lazy(u64::MAX) };
        for (index, step) in steps.iter().enumerate() {
            bench.run(step);
            if index % 16 == 0 {
                bench.check();
            }
        }
        bench.check();
        bench.run(&Step::RollBack(nth));
        bench.check();
        Ok(())
    });
    run.unwrap_or_else(|failed| panic!("{failed}"));
}

#[test]
fn nothing_is_recorded_without_a_mark_and_an_entry_once_after_each() {
    let mut bench = hashmap();
    let put = |bench: &mut Bench, value: &[u8]| bench.change((1, "a", ""), StateKind::Value, Action::Put(value));
    put(&mut bench, b"old");
    assert_eq!((bench.undo.is_recording(), bench.undo.bytes()), (false, 0));
    let first = bench.mark();
    put(&mut bench, b"newer");
    let once = bench.undo.bytes();
    assert!(once > 0);
    put(&mut bench, &[7; 10_000]);
    assert_eq!(bench.undo.bytes(), once, "only its first change");
    bench.mark();
    put(&mut bench, b"newest");
    assert!(bench.undo.bytes() > once + 10_000);
    bench.check();
    bench.undo.release(first);
    bench.marks.remove(&first);
    assert!(bench.undo.take_garbage().is_some() && bench.undo.take_garbage().is_none());
    assert!(bench.undo.bytes() < once + 10_100);
    bench.check();
}

#[test]
fn records_of_a_closed_mark_go_to_the_one_before_a_few_at_a_time() {
    let mut bench = hashmap();
    let first = bench.mark();
    let closed = bench.mark();
    for entry in 0..6 {
        bench.change((2, "a", ""), StateKind::Map, Action::MapPut { map_key: &[entry], value: b"value" });
    }
    bench.change((2, "a", ""), StateKind::Map, Action::Clear);
    bench.undo.release(closed);
    bench.marks.remove(&closed);
    for _ in 0..10 {
        bench.check();
        bench.change((2, "a", ""), StateKind::Map, Action::MapPut { map_key: &[1], value: b"again" });
        bench.undo.settle(bench.backend.as_ref(), 1);
    }
    assert_eq!(bench.undo.layers.len(), 1);
    bench.undo.release(first);
    assert_eq!((bench.undo.is_recording(), bench.undo.bytes()), (false, 0));
}

#[test]
fn beyond_the_limit_the_oldest_mark_goes_first_and_later_ones_serve_on() {
    let mut bench = hashmap();
    let first = bench.mark();
    for index in 0..90 {
        bench.change((3, "a", ""), StateKind::List, Action::ListPut { index, element: &[7; 1000] });
    }
    let second = bench.mark();
    bench.change((3, "a", ""), StateKind::List, Action::Clear);
    assert!(bench.undo.has(first) && bench.undo.has(second) && bench.undo.dropped() == 0);
    for _ in 0..2 {
        bench.mark();
        bench.change((1, "b", ""), StateKind::Value, Action::Put(&[7; 50_000]));
    }
    assert_eq!((bench.undo.marks().collect::<Vec<_>>(), bench.undo.dropped()), (vec![Mark(3), Mark(4)], 2));
    bench.marks.retain(|mark, _| *mark > second);
    bench.check();
    assert!(bench.undo.bytes() <= 100_000);
}

#[test]
fn one_clear_beyond_the_limit_lets_every_mark_go_and_a_new_one_begins_again() {
    let mut bench = hashmap();
    for index in 0..200 {
        bench.change((3, "a", ""), StateKind::List, Action::ListPut { index, element: &[7; 1000] });
        let map_key = &u32::try_from(index).unwrap().to_be_bytes();
        bench.change((2, "a", ""), StateKind::Map, Action::MapPut { map_key, value: &[7; 1000] });
    }
    for (place, kind) in [((3, "a", ""), StateKind::List), ((2, "a", ""), StateKind::Map)] {
        let lost = bench.mark();
        bench.change(place, kind, Action::Clear);
        bench.marks.clear();
        assert!(!bench.undo.is_recording() && bench.undo.bytes() == 0, "{kind:?}");
        assert!(bench.undo.view(bench.backend.as_mut(), lost).is_none());
        assert!(!bench.undo.roll_back(bench.backend.as_mut(), lost, &mut |_| panic!("nothing to do")).unwrap());
    }
    bench.mark();
    bench.change((2, "a", ""), StateKind::Map, Action::MapPut { map_key: b"m", value: b"v" });
    bench.check();
}

#[test]
fn a_view_is_for_reads_alone() {
    let mut bench = hashmap();
    let mark = bench.mark();
    bench.change((1, "a", ""), StateKind::Value, Action::Put(b"v"));
    let mut view = bench.undo.view(bench.backend.as_mut(), mark).unwrap();
    let change = Change { at: at((1, "a", "")), action: Action::Clear };
    assert!(matches!(view.apply(&change), Err(StateError::Mismatch { .. })));
    let other = view.map_value(at((1, "a", "")), b"m", &mut |_| ());
    assert!(matches!(other, Err(StateError::Mismatch { .. })), "of another kind");
}

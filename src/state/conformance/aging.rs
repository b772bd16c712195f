//! Compares random operations on states with TTL, as time passes, with a plain model, also after a replay.

#![allow(clippy::panic)]

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::{
    Factory,
    bench::MAX_VALUE_BYTES,
    ttl::{LIVES, READ, Timeline, at, plain},
};
use crate::{
    state::{
        MapKeys,
        op::{Answer, Op, incremental::Cursor},
    },
    types::{MergeFunction, StateKind, TimeMs},
};

const NAMESPACES: [&str; 3] = ["", "a", "b"];

/// The next step.
#[derive(Debug, Clone)]
struct Step {
    verb: u8,
    namespace: &'static str,
    map_key: Vec<u8>,
    values: Vec<Bytes>,
    sources: Vec<&'static str>,
    pause: u64,
}

/// Entries of a namespace: map key (for a list a running number, for a value empty), time of the last touch, value.
type Entries = BTreeMap<Vec<u8>, (TimeMs, Vec<u8>)>;

/// The visible entries at key `k`, none of which is expired.
#[derive(Debug)]
struct Model {
    kind: StateKind,
    touches: bool,
    now: TimeMs,
    namespaces: BTreeMap<&'static str, Entries>,
    next: u64,
}

impl Step {
    fn any() -> impl Strategy<Value = Self> {
        let value = prop::collection::vec(0..3_u8, 0..6).prop_map(Bytes::from);
        let sources = prop::sample::subsequence(&NAMESPACES[..], 0..3).prop_shuffle();
        let place = (prop::sample::select(&NAMESPACES[..]), prop::collection::vec(0..3_u8, 0..2));
        (0..12_u8, place, prop::collection::vec(value, 1..4), sources, 0..4_u64).prop_map(
            |(verb, (namespace, map_key), values, sources, pause)| {
                let sources = sources.into_iter().filter(|source| *source != namespace).collect();
                Self { verb, namespace, map_key, values, sources, pause }
            },
        )
    }

    /// The same for `kind`; `None` for an incremental clean-up.
    fn op<'a>(&'a self, kind: StateKind, sources: &'a [Bytes]) -> Option<Op<'a>> {
        let (map_key, value) = (&self.map_key[..], &self.values[0][..]);
        Some(match (self.verb, kind) {
            (0, _) => return None,
            (1, _) => Op::Clear,
            (2, _) => Op::MergeNamespaces(sources),
            (3..6, StateKind::Value) => Op::Put(value),
            (6..9, StateKind::Value) => Op::Merge(value),
            (_, StateKind::Value) => Op::Get,
            (3..5, StateKind::Map) => Op::MapPut { map_key, value },
            (5..7, StateKind::Map) => Op::MapMerge { map_key, operand: value },
            (7, StateKind::Map) => Op::MapRemove { map_key },
            (8, StateKind::Map) => Op::MapGet { map_key },
            (9, StateKind::Map) => Op::MapContains { map_key },
            (10, StateKind::Map) => Op::MapCount,
            (_, StateKind::Map) => Op::MapEntries { keys: MapKeys::default(), limit: self.pause },
            (3, StateKind::List) => Op::ListUpdate(&self.values),
            (4..6, StateKind::List) => Op::ListAddAll(&self.values),
            (6..9, StateKind::List) => Op::ListAdd(value),
            (9, StateKind::List) => Op::ListCount,
            (_, StateKind::List) => Op::ListGet { start: self.values.len() as u64 - 1, token: &[], limit: self.pause },
            (_, StateKind::Timer) => unreachable!("timers do not age"),
        })
    }
}

impl Model {
    fn pass(&mut self, pause: u64) {
        self.now += pause;
        for entries in self.namespaces.values_mut() {
            entries.retain(|_, (touched, _)| *touched + LIVES > self.now);
        }
    }

    fn entries(&mut self, namespace: &'static str) -> &mut Entries {
        self.namespaces.entry(namespace).or_default()
    }

    fn set(&mut self, namespace: &'static str, map_key: &[u8], value: Vec<u8>) {
        let now = self.now;
        self.entries(namespace).insert(map_key.to_vec(), (now, value));
    }

    fn append(&mut self, namespace: &'static str, elements: &[Bytes]) {
        for element in elements {
            self.next += 1;
            let number = self.next.to_be_bytes();
            self.set(namespace, &number, element.to_vec());
        }
    }

    fn merge(&mut self, namespace: &'static str, map_key: &[u8], operand: &[u8]) -> Option<Answer> {
        let current = self.entries(namespace).get(map_key).map(|(_, value)| value.clone()).unwrap_or_default();
        let merged = [&current, operand].concat();
        if merged.len() > MAX_VALUE_BYTES {
            return Some(Answer::LimitReached);
        }
        self.set(namespace, map_key, merged);
        None
    }

    fn merge_namespaces(&mut self, target: &'static str, sources: &[&'static str]) -> Option<Answer> {
        let mut result = self.entries(target).clone();
        for (map_key, (touched, value)) in sources.iter().filter_map(|source| self.namespaces.get(source)).flatten() {
            if self.kind == StateKind::List {
                self.next += 1;
                result.insert(self.next.to_be_bytes().to_vec(), (*touched, value.clone()));
                continue;
            }
            let current = result.get(map_key).map(|(_, value)| value.clone()).unwrap_or_default();
            result.insert(map_key.clone(), (self.now, [&current[..], value].concat()));
        }
        if self.kind != StateKind::List && result.values().any(|(_, value)| value.len() > MAX_VALUE_BYTES) {
            return Some(Answer::LimitReached);
        }
        sources.iter().for_each(|source| self.entries(source).clear());
        *self.entries(target) = result;
        None
    }

    /// The answer of a read of the entries for which `is_read`, by position and key; touches them.
    fn read(&mut self, namespace: &'static str, is_read: impl Fn(usize, &[u8]) -> bool) -> Vec<(Bytes, Bytes)> {
        let (now, touches) = (self.now, self.touches);
        let entries = self.entries(namespace).iter_mut().enumerate();
        let read = entries.filter(|(position, (map_key, _))| is_read(*position, map_key));
        let answer = read.map(|(_, (map_key, (touched, value)))| {
            *touched = if touches { now } else { *touched };
            (Bytes::from(map_key.clone()), Bytes::from(value.clone()))
        });
        answer.collect()
    }

    fn execute(&mut self, step: &Step, op: &Op<'_>) -> Option<Answer> {
        let namespace = step.namespace;
        let page = |limit: u64| if limit == 0 { usize::MAX } else { limit as usize };
        match *op {
            Op::Clear => self.entries(namespace).clear(),
            Op::MergeNamespaces(_) => return self.merge_namespaces(namespace, &step.sources),
            Op::Put(value) => self.set(namespace, b"", value.to_vec()),
            Op::MapPut { map_key, value } => self.set(namespace, map_key, value.to_vec()),
            Op::MapRemove { map_key } => _ = self.entries(namespace).remove(map_key),
            Op::Merge(operand) => return self.merge(namespace, b"", operand),
            Op::MapMerge { map_key, operand } => return self.merge(namespace, map_key, operand),
            Op::ListAdd(element) => self.append(namespace, &[Bytes::copy_from_slice(element)]),
            Op::ListAddAll(elements) => self.append(namespace, elements),
            Op::ListUpdate(elements) => {
                self.entries(namespace).clear();
                self.append(namespace, elements);
            }
            Op::MapCount | Op::ListCount => return Some(Answer::Count(self.entries(namespace).len() as u64)),
            Op::Get => {
                let read = self.read(namespace, |_, _| true).pop();
                return Some(Answer::Value(read.map(|(_, value)| value)));
            }
            Op::MapGet { map_key } => {
                let read = self.read(namespace, |_, key| key == map_key).pop();
                return Some(Answer::Value(read.map(|(_, value)| value)));
            }
            Op::MapContains { map_key } => {
                return Some(Answer::Found(!self.read(namespace, |_, key| key == map_key).is_empty()));
            }
            Op::MapEntries { limit, .. } => {
                let entries = self.read(namespace, |position, _| position < page(limit));
                let more = entries.len() < self.entries(namespace).len();
                return Some(Answer::Entries { entries, more });
            }
            Op::ListGet { start, limit, .. } => {
                let start = start as usize;
                let read = self.read(namespace, |at, _| at >= start && at - start < page(limit));
                let more = start + read.len() < self.entries(namespace).len();
                let elements = read.into_iter().map(|(_, element)| element).collect();
                return Some(Answer::Elements { elements, token: more.then(Bytes::new) });
            }
            _ => panic!("{op:?} is no step"),
        }
        None
    }

    /// Asserts that reads without effects see the same entries.
    fn assert_equals(&mut self, line: &mut Timeline) {
        let kind = self.kind;
        for namespace in NAMESPACES {
            let expected: Vec<_> = self.entries(namespace).iter().map(|(key, (_, value))| (key, value)).collect();
            let values: Vec<_> = expected.iter().map(|(_, value)| (*value).clone()).collect();
            let place = at("k", namespace);
            match kind {
                StateKind::Value => {
                    assert_eq!(line.look(place, Op::Get), Answer::Value(values.first().cloned().map(Bytes::from)));
                }
                StateKind::List => {
                    assert_eq!(line.look(place, Op::ListCount), Answer::Count(values.len() as u64));
                    let elements = line.look(place, Op::ListGet { start: 0, token: &[], limit: 0 });
                    let Answer::Elements { elements, token } = elements else { panic!("{elements:?}") };
                    assert_eq!(elements, values.get(..elements.len()).unwrap());
                    assert_eq!(token.is_some(), elements.len() < values.len());
                }
                StateKind::Map => {
                    let entries = line.look(place, Op::MapEntries { keys: MapKeys::default(), limit: 0 });
                    let Answer::Entries { entries, more: false } = entries else { panic!("{entries:?}") };
                    let entries: Vec<_> = entries.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
                    assert!(entries.iter().map(|(key, value)| (key, value)).eq(expected));
                }
                StateKind::Timer => unreachable!("timers do not age"),
            }
        }
    }
}

/// Runs random operations on a backend and on the model. They must stay equal, and so must a backend that replays the
/// log.
pub(crate) fn random_operations_equal_the_model(factory: Factory<'_>, cases: u32) {
    let kind = prop::sample::select(&[StateKind::Value, StateKind::List, StateKind::Map][..]);
    let steps = (kind, any::<bool>(), prop::collection::vec(Step::any(), 0..80));
    let result = TestRunner::new(Config { cases, ..Config::default() }).run(&steps, |(kind, touches, steps)| {
        let merge = (kind != StateKind::List).then_some(MergeFunction::Append);
        let mut line = Timeline::new(factory, kind, merge, if touches { READ } else { plain() });
        let mut model = Model { kind, touches, now: line.now, namespaces: BTreeMap::new(), next: 0 };
        let mut cursor = Cursor::default();
        for step in &steps {
            model.pass(step.pause);
            line.now = model.now;
            let sources: Vec<_> = step.sources.iter().map(|source| Bytes::from_static(source.as_bytes())).collect();
            match step.op(kind, &sources) {
                Some(op) => {
                    let expected = model.execute(step, &op);
                    let answer = line.run(at("k", step.namespace), op).map(Answer::comparable);
                    assert_eq!(answer, expected, "{step:?}");
                }
                None => _ = line.clean(&mut cursor, step.pause),
            }
            model.assert_equals(&mut line);
        }
        model.assert_equals(&mut line.replayed(factory));
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

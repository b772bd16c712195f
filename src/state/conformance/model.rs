//! Compares random operations with a plain model, also after a replay.

#![allow(clippy::panic)]

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::{Bench, Factory, bench::*};
use crate::{
    state::{
        Address,
        op::{Answer, Op, Timer},
    },
    types::StateId,
};

const STATES: [StateId; 10] = [VALUE, LIST, MAP, SUM, APPEND, SET, MAP_SUM, MAP_APPEND, MAP_SET, TIMER];

/// Times of timers; there are few, so that they coincide.
const TIMES: [i64; 6] = [i64::MIN + 1, -1, 0, 1, 256, i64::MAX];
const KEYS: [&str; 4] = ["a", "b", "ab", "c"];
const NAMESPACES: [&str; 3] = ["", "b", "c"];

/// A random operation: its kind, place and data.
#[derive(Debug, Clone)]
pub(super) struct Step {
    state: StateId,
    key: &'static str,
    namespace: &'static str,
    verb: u8,
    map_key: Vec<u8>,
    value: Vec<u8>,
    values: Vec<Bytes>,
    sources: Vec<Bytes>,
    time: i64,
}

impl Step {
    pub(super) fn any() -> impl Strategy<Value = Self> {
        let place =
            (prop::sample::select(&STATES[..]), prop::sample::select(&KEYS[..]), prop::sample::select(&NAMESPACES[..]));
        let value = || prop::collection::vec(0..3_u8, 0..20);
        let values = prop::collection::vec(value().prop_map(Bytes::from), 0..4);
        let sources = prop::sample::subsequence(&NAMESPACES[..], 0..3).prop_shuffle();
        let time = prop::sample::select(&TIMES[..]);
        let data = (prop::collection::vec(0..3_u8, 0..3), value(), any::<i64>(), values, time);
        (place, 0..7_u8, data, sources).prop_map(
            |((state, key, namespace), verb, (map_key, mut value, number, values, time), sources)| {
                if state == SUM || state == MAP_SUM {
                    value = number.to_le_bytes().to_vec();
                }
                if state == SET || state == MAP_SET {
                    value = encode_set(&values.iter().map(|value| value.to_vec()).collect());
                    value.truncate(if value.len() > MAX_VALUE_BYTES { 0 } else { value.len() });
                }
                let sources = sources.into_iter().filter(|source| *source != namespace).map(Bytes::from).collect();
                Self { state, key, namespace, verb, map_key, value, values, sources, time }
            },
        )
    }

    pub(super) fn at(&self) -> Address<'static> {
        if let Op::TimersFire { .. } = self.op() {
            return everywhere(self.state);
        }
        at_namespace(self.state, self.key, self.namespace)
    }

    pub(super) fn op(&self) -> Op<'_> {
        let (map_key, value) = (&self.map_key[..], &self.value[..]);
        let time = self.time;
        match (self.state, self.verb) {
            (TIMER, 0) => Op::TimersFire { up_to: time, limit: 1 + self.value.len() as u64 % 3 },
            (TIMER, 1 | 2) => Op::TimerDelete { time },
            (TIMER, _) => Op::TimerRegister { time },
            (_, 0) => Op::Clear,
            (_, 6) => Op::MergeNamespaces(&self.sources),
            (SUM | APPEND | SET, 1..4) => Op::Merge(value),
            (VALUE | SUM | APPEND | SET, _) => Op::Put(value),
            (LIST, 1) => Op::ListUpdate(&self.values),
            (LIST, 2) => Op::ListAddAll(&self.values),
            (LIST, _) => Op::ListAdd(value),
            (_, 1) => Op::MapRemove { map_key },
            (MAP_SUM | MAP_APPEND | MAP_SET, 2..=4) => Op::MapMerge { map_key, operand: value },
            _ => Op::MapPut { map_key, value },
        }
    }
}

/// A place: state, key and namespace.
type Place = (u32, &'static str, &'static str);

/// The contents of each place: map entries, list elements by big-endian index, a value under the empty key, or times in
/// order.
type Model = BTreeMap<Place, BTreeMap<Vec<u8>, Vec<u8>>>;

type Set = std::collections::BTreeSet<Vec<u8>>;

fn encode_set(set: &Set) -> Vec<u8> {
    set.iter().flat_map(|member| [&(member.len() as u32).to_le_bytes()[..], member].concat()).collect()
}

fn decode_set(mut bytes: &[u8]) -> Set {
    let mut set = Set::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (member, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        set.insert(member.to_vec());
        bytes = rest;
    }
    set
}

/// The result of joining two values, in a merge or when namespaces are merged.
fn merged(state: StateId, stored: Option<&Vec<u8>>, value: &[u8]) -> Vec<u8> {
    let Some(stored) = stored else { return value.to_vec() };
    match state {
        SUM | MAP_SUM => {
            let number = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap());
            number(stored).wrapping_add(number(value)).to_le_bytes().to_vec()
        }
        SET | MAP_SET => encode_set(&(&decode_set(stored) | &decode_set(value))),
        APPEND | MAP_APPEND => [stored, value].concat(),
        VALUE => stored.clone(),
        _ => value.to_vec(),
    }
}

/// Merges namespaces of the model. Returns whether a limit prevented it.
fn merge_namespaces(model: &mut Model, step: &Step) -> bool {
    let place = |namespace| (step.state.0, step.key, namespace);
    let mut target = model.get(&place(step.namespace)).cloned().unwrap_or_default();
    let sources = step.sources.iter().map(|source| NAMESPACES.into_iter().find(|name| source == name).unwrap());
    let places: Vec<_> = sources.map(place).collect();
    for (map_key, value) in places.iter().filter_map(|place| model.get(place)).flatten() {
        let map_key = if step.state == LIST { target.len().to_be_bytes().to_vec() } else { map_key.clone() };
        let value = merged(step.state, target.get(&map_key), value);
        target.insert(map_key, value);
    }
    if step.state != LIST && target.values().any(|value| value.len() > MAX_VALUE_BYTES) {
        return true;
    }
    places.iter().for_each(|place| _ = model.remove(place));
    model.insert(place(step.namespace), target);
    false
}

/// The bytes of a time, which sort like times.
fn row(time: i64) -> Vec<u8> {
    (time.cast_unsigned() ^ 1 << 63).to_be_bytes().to_vec()
}

/// All timers of the model, in order.
fn timers(model: &Model) -> Vec<Timer> {
    let places = model.iter().filter(|((state, ..), _)| *state == TIMER.0);
    let timers = places.flat_map(|((_, key, namespace), times)| {
        times.keys().map(move |row| Timer {
            time: TIMES.into_iter().find(|time| super::model::row(*time) == *row).unwrap(),
            key: Bytes::from(*key),
            namespace: Bytes::from(*namespace),
            key_group: at(TIMER, key).key_group,
        })
    });
    let mut timers: Vec<_> = timers.collect();
    timers.sort();
    timers
}

/// Applies the step to the model; returns the expected answer.
fn step_model(model: &mut Model, step: &Step) -> Option<Answer> {
    let Op::TimersFire { up_to, limit } = step.op() else {
        return set(model, step).then_some(Answer::LimitReached);
    };
    let mut due: Vec<_> = timers(model).into_iter().filter(|timer| timer.time <= up_to).collect();
    let more = due.len() as u64 > limit;
    due.truncate(limit as usize);
    for ((_, key, namespace), times) in model.iter_mut().filter(|((state, ..), _)| *state == TIMER.0) {
        for timer in due.iter().filter(|timer| timer.key == *key && timer.namespace == *namespace) {
            times.remove(&row(timer.time));
        }
    }
    Some(Answer::Fired { timers: due, more })
}

/// Applies a step on one key to the model. Returns whether a limit prevented it.
fn set(model: &mut Model, step: &Step) -> bool {
    if let Op::MergeNamespaces(_) = step.op() {
        return merge_namespaces(model, step);
    }
    let place = model.entry((step.state.0, step.key, step.namespace)).or_default();
    match step.op() {
        Op::Clear => place.clear(),
        Op::Put(value) => _ = place.insert(Vec::new(), value.to_vec()),
        Op::MapPut { map_key, value } => _ = place.insert(map_key.to_vec(), value.to_vec()),
        Op::MapRemove { map_key } => _ = place.remove(map_key),
        Op::Merge(operand) | Op::MapMerge { operand, .. } => {
            let map_key = if matches!(step.op(), Op::Merge(_)) { Vec::new() } else { step.map_key.clone() };
            let merged = merged(step.state, place.get(&map_key), operand);
            if merged.len() > MAX_VALUE_BYTES {
                return true;
            }
            place.insert(map_key, merged);
        }
        Op::ListAdd(element) => _ = place.insert(place.len().to_be_bytes().to_vec(), element.to_vec()),
        Op::ListAddAll(elements) | Op::ListUpdate(elements) => {
            if matches!(step.op(), Op::ListUpdate(_)) {
                place.clear();
            }
            for element in elements {
                place.insert(place.len().to_be_bytes().to_vec(), element.to_vec());
            }
        }
        Op::TimerRegister { time } => _ = place.insert(row(time), vec![]),
        Op::TimerDelete { time } => _ = place.remove(&row(time)),
        read => panic!("{read:?} is no step"),
    }
    false
}

fn assert_equals(bench: &mut Bench, model: &Model) {
    assert_eq!(bench.timers(i64::MAX, 0), timers(model));
    for (&(state, key, namespace), expected) in model {
        let state = StateId(state);
        let contents = bench.contents(at_namespace(state, key, namespace));
        if [MAP, MAP_SUM, MAP_APPEND, MAP_SET].contains(&state) {
            let keys: Vec<_> = contents.iter().map(|(map_key, _)| map_key.to_vec()).collect();
            assert_eq!(keys, expected.keys().cloned().collect::<Vec<_>>());
        }
        let values: Vec<_> = contents.iter().map(|(_, value)| value.to_vec()).collect();
        assert_eq!(values, expected.values().cloned().collect::<Vec<_>>(), "{state:?} {key} {namespace}");
    }
    for state in STATES {
        let expected: usize = model.iter().filter(|(place, _)| place.0 == state.0).map(|(_, at)| at.len()).sum();
        assert_eq!(bench.entries(state), expected as u64, "entries of {state:?}");
    }
}

/// Runs random operations on a backend and on the model. They must stay equal, and so must a backend that replays the
/// log.
pub(crate) fn random_operations_equal_the_model(factory: Factory<'_>) {
    random_operations_equal_the_model_in(factory, Config::default().cases);
}

/// The same with a given number of cases, for backends that take long to make.
pub(crate) fn random_operations_equal_the_model_in(factory: Factory<'_>, cases: u32) {
    let steps = prop::collection::vec(Step::any(), 0..200);
    let result = TestRunner::new(Config { cases, ..Config::default() }).run(&steps, |steps| {
        let (mut bench, mut model) = (Bench::new(factory), Model::new());
        for step in &steps {
            let answer = step_model(&mut model, step);
            assert_eq!(bench.run(step.at(), step.op()), answer, "{step:?}");
        }
        assert_equals(&mut bench, &model);
        assert_equals(&mut bench.replayed(factory), &model);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

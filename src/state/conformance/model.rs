//! Random operations compared with a plain model, by replay too.

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
        op::{Answer, Op},
    },
    types::StateId,
};

const STATES: [StateId; 7] = [VALUE, LIST, MAP, SUM, APPEND, MAP_SUM, MAP_APPEND];
const KEYS: [&str; 4] = ["a", "b", "ab", "c"];
const NAMESPACES: [&str; 2] = ["", "b"];

/// A random operation: what to do, where, with which data.
#[derive(Debug, Clone)]
pub(super) struct Step {
    state: StateId,
    key: &'static str,
    namespace: &'static str,
    verb: u8,
    map_key: Vec<u8>,
    value: Vec<u8>,
    values: Vec<Bytes>,
}

impl Step {
    pub(super) fn any() -> impl Strategy<Value = Self> {
        let place =
            (prop::sample::select(&STATES[..]), prop::sample::select(&KEYS[..]), prop::sample::select(&NAMESPACES[..]));
        let value = || prop::collection::vec(0..3_u8, 0..20);
        let values = prop::collection::vec(value().prop_map(Bytes::from), 0..4);
        (place, 0..6_u8, prop::collection::vec(0..3_u8, 0..3), value(), any::<i64>(), values).prop_map(
            |((state, key, namespace), verb, map_key, mut value, number, values)| {
                if state == SUM || state == MAP_SUM {
                    value = number.to_le_bytes().to_vec();
                }
                Self { state, key, namespace, verb, map_key, value, values }
            },
        )
    }

    pub(super) fn at(&self) -> Address<'static> {
        at_namespace(self.state, self.key, self.namespace)
    }

    pub(super) fn op(&self) -> Op<'_> {
        let (map_key, value) = (&self.map_key[..], &self.value[..]);
        match (self.state, self.verb) {
            (_, 0) => Op::Clear,
            (SUM | APPEND, 1..4) => Op::Merge(value),
            (VALUE | SUM | APPEND, _) => Op::Put(value),
            (LIST, 1) => Op::ListUpdate(&self.values),
            (LIST, 2) => Op::ListAddAll(&self.values),
            (LIST, _) => Op::ListAdd(value),
            (_, 1) => Op::MapRemove { map_key },
            (MAP_SUM | MAP_APPEND, 2..5) => Op::MapMerge { map_key, operand: value },
            _ => Op::MapPut { map_key, value },
        }
    }
}

/// State, key and namespace.
type Place = (u32, &'static str, &'static str);

/// What is at each place: map entries, list elements by big-endian index, or a value under the empty key.
type Model = BTreeMap<Place, BTreeMap<Vec<u8>, Vec<u8>>>;

/// Does the step to the model. Returns whether a limit kept it from it.
fn step_model(model: &mut Model, step: &Step) -> bool {
    let place = model.entry((step.state.0, step.key, step.namespace)).or_default();
    let merge = |stored: Option<&Vec<u8>>, operand: &[u8]| -> Vec<u8> {
        match stored {
            Some(stored) if step.state == SUM || step.state == MAP_SUM => {
                let number = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap());
                number(stored).wrapping_add(number(operand)).to_le_bytes().to_vec()
            }
            Some(stored) => [stored, operand].concat(),
            None => operand.to_vec(),
        }
    };
    match step.op() {
        Op::Clear => place.clear(),
        Op::Put(value) => _ = place.insert(Vec::new(), value.to_vec()),
        Op::MapPut { map_key, value } => _ = place.insert(map_key.to_vec(), value.to_vec()),
        Op::MapRemove { map_key } => _ = place.remove(map_key),
        Op::Merge(operand) | Op::MapMerge { operand, .. } => {
            let map_key = if matches!(step.op(), Op::Merge(_)) { Vec::new() } else { step.map_key.clone() };
            let merged = merge(place.get(&map_key), operand);
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
        read => panic!("{read:?} is no step"),
    }
    false
}

fn assert_equals(bench: &mut Bench, model: &Model) {
    for (&(state, key, namespace), expected) in model {
        let state = StateId(state);
        let contents = bench.contents(at_namespace(state, key, namespace));
        if [MAP, MAP_SUM, MAP_APPEND].contains(&state) {
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

/// Runs random operations on a backend and on the model; they must stay equal, and so must a backend that replays the log.
pub(crate) fn random_operations_equal_the_model(factory: Factory<'_>) {
    random_operations_equal_the_model_in(factory, Config::default().cases);
}

/// Likewise, in so many cases: for backends that take long to make.
pub(crate) fn random_operations_equal_the_model_in(factory: Factory<'_>, cases: u32) {
    let steps = prop::collection::vec(Step::any(), 0..200);
    let result = TestRunner::new(Config { cases, ..Config::default() }).run(&steps, |steps| {
        let (mut bench, mut model) = (Bench::new(factory), Model::new());
        for step in &steps {
            let limited = step_model(&mut model, step);
            assert_eq!(bench.run(step.at(), step.op()), limited.then_some(Answer::LimitReached), "{step:?}");
        }
        assert_equals(&mut bench, &model);
        assert_equals(&mut bench.replayed(factory), &model);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

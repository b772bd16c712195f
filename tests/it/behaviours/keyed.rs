//! Value, list and map state; merges; namespaces; iteration.

use std::collections::BTreeMap;

use bytes::Bytes;
use dstl::{
    random::Random,
    state::{
        MapKeys,
        op::{Answer, Op},
    },
    types::{MergeFunction, StateDescriptor, StateKind},
};

use super::{Bench, everywhere};

const PLACES: [(&str, &str); 5] = [("a", ""), ("a", "window"), ("b", ""), ("b", "window"), ("a long key", "w")];

fn state(name: &str, kind: StateKind) -> StateDescriptor {
    StateDescriptor::new(name, kind)
}

fn merging(name: &str, merge: MergeFunction) -> StateDescriptor {
    StateDescriptor::new(name, StateKind::Value).with_merge(merge)
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn texts(texts: &[&str]) -> Vec<Bytes> {
    texts.iter().map(|text| bytes(text)).collect()
}

fn value(bench: &mut Bench, state: usize, place: (&str, &str)) -> Option<Bytes> {
    match bench.run(state, place, Op::Get) {
        Some(Answer::Value(value)) => value,
        other => panic!("a get answers a value, not {other:?}"),
    }
}

fn list(bench: &mut Bench, state: usize, place: (&str, &str)) -> Vec<Bytes> {
    match bench.run(state, place, Op::ListGet { start: 0, token: &[], limit: 0 }) {
        Some(Answer::Elements { elements, token: None }) => elements,
        other => panic!("a list answers its elements, not {other:?}"),
    }
}

fn map(bench: &mut Bench, state: usize, place: (&str, &str)) -> Vec<(Bytes, Bytes)> {
    match bench.run(state, place, Op::MapEntries { keys: MapKeys::default(), limit: 0 }) {
        Some(Answer::Entries { entries, more: false }) => entries,
        other => panic!("a map answers its entries, not {other:?}"),
    }
}

/// All (key, namespace) pairs of a state, sorted.
fn names(bench: &mut Bench, state: usize) -> Vec<(Bytes, Bytes)> {
    let answers = bench.run_all(state, Op::Keys { all_namespaces: true, token: &[], limit: 0 });
    let mut names = vec![];
    for answer in answers {
        let Some(Answer::Keys { keys, token: None }) = answer else { panic!("keys on one page, not {answer:?}") };
        names.extend(keys.into_iter().map(|(_, key, namespace)| (key, namespace)));
    }
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn values_are_set_read_and_cleared_by_key_and_namespace() {
    let states = vec![state("one", StateKind::Value), state("two", StateKind::Value)];
    everywhere(states, async |bench| {
        for (number, place) in PLACES.into_iter().enumerate() {
            bench.write(0, place, Op::Put(&[number as u8]));
            bench.write(1, place, Op::Put(b"two"));
        }
        bench.halfway().await;
        bench.write(0, PLACES[0], Op::Put(b"again"));
        bench.write(0, PLACES[1], Op::Clear);
        bench.write(0, PLACES[1], Op::Clear);
        bench.write(1, PLACES[2], Op::Put(b""));
        bench.turn().await;
        assert_eq!(value(bench, 0, PLACES[0]), Some(bytes("again")));
        assert_eq!(value(bench, 0, PLACES[1]), None);
        assert_eq!(value(bench, 0, PLACES[2]), Some(Bytes::from_static(&[2])));
        assert_eq!(value(bench, 1, PLACES[1]), Some(bytes("two")), "states are independent");
        assert_eq!(value(bench, 1, PLACES[2]), Some(bytes("")), "an empty value is a value");
        assert_eq!(value(bench, 0, ("nobody", "")), None);
        // What was restored can be cleared and comes back.
        bench.write(0, PLACES[0], Op::Clear);
        bench.write(0, PLACES[1], Op::Put(b"back"));
        bench.turn().await;
        assert_eq!(value(bench, 0, PLACES[0]), None);
        assert_eq!(value(bench, 0, PLACES[1]), Some(bytes("back")));
        bench.turn().await;
        assert_eq!(names(bench, 0).len(), PLACES.len() - 1, "untouched states survive the next snapshot");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lists_keep_their_order() {
    everywhere(vec![state("list", StateKind::List)], async |bench| {
        for place in PLACES {
            bench.write(0, place, Op::ListAdd(b"x"));
            bench.write(0, place, Op::ListAddAll(&texts(&["y", "", "x"])));
        }
        bench.halfway().await;
        bench.write(0, PLACES[0], Op::ListAdd(b"z"));
        bench.write(0, PLACES[1], Op::ListUpdate(&texts(&["only"])));
        bench.write(0, PLACES[2], Op::ListUpdate(&[]));
        bench.write(0, PLACES[3], Op::Clear);
        bench.write(0, PLACES[3], Op::ListAdd(b"new"));
        bench.turn().await;
        assert_eq!(list(bench, 0, PLACES[0]), texts(&["x", "y", "", "x", "z"]));
        assert_eq!(list(bench, 0, PLACES[1]), texts(&["only"]));
        assert_eq!(list(bench, 0, PLACES[2]), texts(&[]));
        assert_eq!(list(bench, 0, PLACES[3]), texts(&["new"]));
        assert_eq!(bench.run(0, PLACES[4], Op::ListCount), Some(Answer::Count(4)));
        bench.write(0, PLACES[0], Op::ListAddAll(&texts(&["end"])));
        bench.turn().await;
        assert_eq!(list(bench, 0, PLACES[0]), texts(&["x", "y", "", "x", "z", "end"]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn maps_are_put_removed_counted_and_read_in_order() {
    everywhere(vec![state("map", StateKind::Map)], async |bench| {
        for place in PLACES {
            for map_key in ["b", "", "a", "ab"] {
                bench.write(0, place, Op::MapPut { map_key: map_key.as_bytes(), value: b"v" });
            }
        }
        bench.halfway().await;
        bench.write(0, PLACES[0], Op::MapPut { map_key: b"b", value: b"w" });
        bench.write(0, PLACES[0], Op::MapRemove { map_key: b"" });
        bench.write(0, PLACES[0], Op::MapRemove { map_key: b"missing" });
        bench.write(0, PLACES[1], Op::Clear);
        for map_key in ["b", "", "a", "ab"] {
            bench.write(0, PLACES[2], Op::MapRemove { map_key: map_key.as_bytes() });
        }
        bench.turn().await;
        let entry = |key: &str, value: &str| (bytes(key), bytes(value));
        assert_eq!(map(bench, 0, PLACES[0]), [entry("a", "v"), entry("ab", "v"), entry("b", "w")]);
        assert_eq!(map(bench, 0, PLACES[1]), []);
        assert_eq!(map(bench, 0, PLACES[2]), []);
        assert_eq!(bench.run(0, PLACES[3], Op::MapCount), Some(Answer::Count(4)));
        assert_eq!(bench.run(0, PLACES[3], Op::MapContains { map_key: b"" }), Some(Answer::Found(true)));
        assert_eq!(bench.run(0, PLACES[0], Op::MapContains { map_key: b"" }), Some(Answer::Found(false)));
        let keys = MapKeys { from: b"", to: b"b", prefix: b"a" };
        let answer = bench.run(0, PLACES[3], Op::MapEntries { keys, limit: 1 });
        assert_eq!(answer, Some(Answer::Entries { entries: vec![entry("a", "v")], more: true }));
        let empty = names(bench, 0).into_iter().filter(|(key, namespace)| {
            [PLACES[1], PLACES[2]].contains(&(str::from_utf8(key).unwrap(), str::from_utf8(namespace).unwrap()))
        });
        assert_eq!(empty.count(), 0, "a map without entries is no key of the state");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn reducing_and_aggregating_states_merge_and_so_do_their_namespaces() {
    use MergeFunction::{Append, AverageI64, Count, HyperLogLog, MaxI64, SetUnion, SumI64};
    let functions = [SumI64, MaxI64, Count, AverageI64, Append, SetUnion, HyperLogLog];
    let states = functions.map(|function| merging(&format!("{function:?}"), function)).to_vec();
    everywhere(states, async |bench| {
        let operand = |function: MergeFunction, number: i64| match function {
            SetUnion => [&8_u32.to_le_bytes()[..], &number.to_be_bytes()].concat(),
            _ => number.to_le_bytes().to_vec(),
        };
        let mut expected: BTreeMap<(usize, &str), Vec<i64>> = BTreeMap::new();
        let mut add = |bench: &mut Bench, window: &'static str, number: i64| {
            for (state, function) in functions.into_iter().enumerate() {
                bench.write(state, ("k", window), Op::Merge(&operand(function, number)));
                expected.entry((state, window)).or_default().push(number);
            }
        };
        for (number, window) in (1..).zip(["w1", "w2", "w1", "w3", "w2", "w1"]) {
            add(bench, window, number);
        }
        bench.halfway().await;
        add(bench, "w2", 40);
        for state in 0..functions.len() {
            bench.write(state, ("k", "all"), Op::MergeNamespaces(&texts(&["w1", "w2", "empty"])));
        }
        bench.turn().await;
        let numbers = [1, 3, 6, 2, 5, 40];
        let int = |number: i64| Some(Bytes::copy_from_slice(&number.to_le_bytes()));
        assert_eq!(value(bench, 0, ("k", "all")), int(57));
        assert_eq!(value(bench, 1, ("k", "all")), int(40));
        assert_eq!(value(bench, 2, ("k", "all")), int(57), "counts add up what they are given");
        assert_eq!(value(bench, 3, ("k", "all")).unwrap()[..8], 57_i64.to_le_bytes());
        assert_eq!(value(bench, 3, ("k", "all")).unwrap()[8..], 6_i64.to_le_bytes());
        assert_eq!(value(bench, 4, ("k", "all")).unwrap(), numbers.map(i64::to_le_bytes).concat());
        assert_eq!(value(bench, 5, ("k", "all")).unwrap().len(), 6 * 12);
        let sketch = dstl::types::Sketch::decode(&value(bench, 6, ("k", "all")).unwrap()).unwrap();
        assert!((sketch.estimate() - 6.0).abs() < 0.1);
        for state in 0..functions.len() {
            assert_eq!(value(bench, state, ("k", "w1")), None, "sources are empty");
            assert!(value(bench, state, ("k", "w3")).is_some());
        }
        bench.write(0, ("k", "all"), Op::MergeNamespaces(&texts(&["w3"])));
        bench.turn().await;
        assert_eq!(value(bench, 0, ("k", "all")), int(61));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn namespaces_of_lists_and_maps_merge() {
    let states = vec![state("list", StateKind::List), state("map", StateKind::Map)];
    everywhere(states, async |bench| {
        for (window, elements) in [("w1", ["a", "b"]), ("w2", ["c", "d"]), ("target", ["e", "f"])] {
            bench.write(0, ("k", window), Op::ListAddAll(&texts(&elements)));
            for map_key in elements {
                bench.write(1, ("k", window), Op::MapPut { map_key: map_key.as_bytes(), value: window.as_bytes() });
                bench.write(1, ("k", window), Op::MapPut { map_key: b"same", value: window.as_bytes() });
            }
        }
        bench.halfway().await;
        for state in [0, 1] {
            bench.write(state, ("k", "target"), Op::MergeNamespaces(&texts(&["w2", "w1"])));
        }
        bench.turn().await;
        assert_eq!(list(bench, 0, ("k", "target")), texts(&["e", "f", "c", "d", "a", "b"]));
        let united = map(bench, 1, ("k", "target"));
        assert_eq!(united.len(), 7);
        assert_eq!(united.last(), Some(&(bytes("same"), bytes("w1"))), "the last one remains");
        for state in [0, 1] {
            assert_eq!(names(bench, state), [(bytes("k"), bytes("target"))]);
        }
    })
    .await;
}

/// A model of all kinds, many keys, random operations, turns in between.
#[tokio::test(start_paused = true)]
async fn random_operations_of_every_kind_equal_a_model() {
    let states = vec![
        state("value", StateKind::Value),
        merging("sum", MergeFunction::SumI64),
        state("list", StateKind::List),
        state("map", StateKind::Map),
    ];
    type Place = (usize, String, String);
    everywhere(states, async |bench| {
        let random = Random::seeded(77);
        let mut model: BTreeMap<Place, BTreeMap<Vec<u8>, Vec<u8>>> = BTreeMap::new();
        let one = |random: &Random, bench: &mut Bench, model: &mut BTreeMap<Place, BTreeMap<Vec<u8>, Vec<u8>>>| {
            let (key, window) = (format!("key {}", random.below(12)), format!("w{}", random.below(3)));
            let state = random.below(4) as usize;
            let cell = model.entry((state, key.clone(), window.clone())).or_default();
            let number = random.below(1_000);
            let text = number.to_be_bytes();
            let op = match (state, random.below(8)) {
                (_, 0) => {
                    cell.clear();
                    Op::Clear
                }
                (0, _) => {
                    cell.insert(vec![], text.to_vec());
                    Op::Put(&text)
                }
                (1, _) => {
                    let sum = cell.entry(vec![]).or_insert_with(|| vec![0; 8]);
                    let before = i64::from_be_bytes(sum[..].try_into().unwrap());
                    *sum = (before + number as i64).to_be_bytes().to_vec();
                    let operand = (number as i64).to_le_bytes();
                    bench.write(state, (&key, &window), Op::Merge(&operand));
                    return;
                }
                (2, _) => {
                    let index = cell.len() as u64;
                    cell.insert(index.to_be_bytes().to_vec(), text.to_vec());
                    Op::ListAdd(&text)
                }
                (_, 1) => {
                    cell.remove(&text[7..]);
                    Op::MapRemove { map_key: &text[7..] }
                }
                _ => {
                    cell.insert(text[7..].to_vec(), text.to_vec());
                    Op::MapPut { map_key: &text[7..], value: &text }
                }
            };
            bench.write(state, (&key, &window), op);
        };
        for _ in 0..4 {
            for _ in 0..150 {
                one(&random, bench, &mut model);
            }
            bench.halfway().await;
            for _ in 0..50 {
                one(&random, bench, &mut model);
            }
            bench.turn().await;
            model.retain(|_, cell| !cell.is_empty());
            for ((state, key, window), cell) in &model {
                let place = (key.as_str(), window.as_str());
                let found: Vec<Vec<u8>> = match state {
                    0 => value(bench, 0, place).into_iter().map(Vec::from).collect(),
                    1 => value(bench, 1, place).into_iter().map(|sum| sum.iter().rev().copied().collect()).collect(),
                    2 => list(bench, 2, place).into_iter().map(Vec::from).collect(),
                    _ => map(bench, 3, place).into_iter().map(|(_, value)| value.into()).collect(),
                };
                assert_eq!(found, cell.values().cloned().collect::<Vec<_>>(), "{state} {place:?} {:?}", bench.setting);
            }
            for state in 0..4 {
                let of_state = model.keys().filter(|(of, _, _)| *of == state);
                let expected: Vec<_> = of_state.map(|(_, key, window)| (bytes(key), bytes(window))).collect();
                assert_eq!(names(bench, state), expected);
            }
        }
    })
    .await;
}

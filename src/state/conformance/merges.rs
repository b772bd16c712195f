//! Checks of merge functions whose values are not plain numbers.

use super::{Bench, Factory, bench::*};
use crate::{
    state::{
        Action, Change, StateError,
        op::{Answer, Op},
    },
    types::Sketch,
};

/// A set in its stored form; `members` ascend.
pub(super) fn set(members: &[&str]) -> Vec<u8> {
    let one = |member: &&str| [&u32::try_from(member.len()).unwrap().to_le_bytes()[..], member.as_bytes()].concat();
    members.iter().flat_map(one).collect()
}

pub(super) fn counts_and_averages_merge(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let (count, entry) = (at(COUNT, "key"), at_namespace(MAP_COUNT, "key", "ns"));
    for (operand, total) in [(None, 1), (Some(4), 5), (Some(-2), 3), (None, 4), (Some(i64::MAX), i64::MIN + 3)] {
        let operand = operand.map_or(Vec::new(), |number: i64| number.to_le_bytes().to_vec());
        let (map_key, total) = (&b"m"[..], total.to_le_bytes());
        bench.write(count, Op::Merge(&operand), &[Action::Put(&total)]);
        let merge = Op::MapMerge { map_key, operand: &operand };
        bench.write(entry, merge, &[Action::MapPut { map_key, value: &total }]);
    }
    let average = |sum: [u8; 8], count: i64| [sum, count.to_le_bytes()].concat();
    let here = at(AVERAGE, "key");
    for (number, sum, count) in [(7, 7, 1), (-3, 4, 2), (i64::MAX, i64::MIN + 3, 3)] {
        let result = average(i64::to_le_bytes(sum), count);
        bench.write(here, Op::Merge(&i64::to_le_bytes(number)), &[Action::Put(&result)]);
        assert_eq!(bench.value(here), Some(result));
    }
    let partial = average(1_i64.to_le_bytes(), 10);
    let result = average((i64::MIN + 4).to_le_bytes(), 13);
    bench.write(here, Op::Merge(&partial), &[Action::Put(&result)]);
    let there = at(AVERAGE_F64, "key");
    for (number, sum, count) in [(0.5, 0.5, 1), (1.0, 1.5, 2), (f64::INFINITY, f64::INFINITY, 3)] {
        let result = average(f64::to_le_bytes(sum), count);
        bench.write(there, Op::Merge(&f64::to_le_bytes(number)), &[Action::Put(&result)]);
    }
    bench.assert_replays(factory, &[count, entry, here, there]);
}

pub(super) fn sets_and_sketches_grow_by_what_is_new(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let (value, entry) = (at(SET, "key"), at(MAP_SET, "key"));
    let map_key = &b"m"[..];
    let steps: [(&[&str], &[&str]); 4] =
        [(&[], &[]), (&["b"], &["b"]), (&["", "c"], &["", "b", "c"]), (&["a", "b"], &["", "a", "b", "c"])];
    for (operand, result) in steps.map(|(operand, result)| (set(operand), set(result))) {
        bench.write(value, Op::Merge(&operand), &[Action::Put(&result)]);
        assert_eq!(bench.value(value).as_ref(), Some(&result));
        let merge = Op::MapMerge { map_key, operand: &operand };
        bench.write(entry, merge, &[Action::MapPut { map_key, value: &result }]);
        bench.write(value, Op::Merge(&operand), &[]);
        bench.write(entry, merge, &[]);
    }
    let sketch = at_namespace(SKETCH, "key", "ns");
    let mut expected = Sketch::new();
    for thing in [&b"key"[..], b""] {
        assert!(expected.insert(thing));
        bench.write(sketch, Op::Merge(thing), &[Action::Put(&expected.encode())]);
    }
    bench.write(sketch, Op::Merge(b"key"), &[]);
    for i in 0..8_u8 {
        bench.run(sketch, Op::Merge(&[i]));
        bench.write(sketch, Op::Merge(&[i]), &[]);
    }
    let estimate = Sketch::decode(&bench.value(sketch).unwrap()).unwrap().estimate();
    assert!((estimate - 10.0).abs() < 0.5, "{estimate}");
    bench.assert_replays(factory, &[value, entry, sketch]);
}

pub(super) fn sets_and_sketches_stop_at_the_limit(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let (value, entry, sketch) = (at(SET, "key"), at(MAP_SET, "key"), at(SKETCH, "key"));
    let map_key = &b"m"[..];
    let halves = ["a", "b"].map(|member| set(&[&member.repeat(MAX_VALUE_BYTES / 2 - 4)]));
    for half in &halves {
        bench.run(value, Op::Merge(half));
        bench.run(entry, Op::MapMerge { map_key, operand: half });
    }
    let mut things = 0_u64;
    while bench.run(sketch, Op::Merge(&things.to_le_bytes())).is_none() {
        things += 1;
    }
    assert!(bench.value(sketch).unwrap().len() <= MAX_VALUE_BYTES && things > 2, "{things}");
    let logged = bench.logged();
    let more = set(&["c"]);
    assert_eq!(bench.run(value, Op::Merge(&more)), Some(Answer::LimitReached));
    assert_eq!(bench.run(entry, Op::MapMerge { map_key, operand: &more }), Some(Answer::LimitReached));
    bench.write(sketch, Op::Merge(&0_u64.to_le_bytes()), &[]);
    assert_eq!((bench.value(value), bench.logged()), (Some(halves.concat()), logged), "the value is left as it is");
    bench.assert_replays(factory, &[value, entry, sketch]);
}

pub(super) fn what_does_not_fit_its_function_is_refused(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    // As in a damaged or foreign checkpoint.
    for state in [SUM, COUNT, AVERAGE, SET, SKETCH] {
        let at = at(state, "key");
        bench.backend.apply(&Change { at, action: Action::Put(b"foreign") }).unwrap();
        let operand: &[u8] = if state == SET { b"" } else { &[0; 8] };
        let refused = bench.try_run(at, Op::Merge(operand));
        assert!(matches!(refused, Err(StateError::Mismatch { state: named, .. }) if named == state), "{refused:?}");
        assert_eq!(bench.value(at).as_deref(), Some(&b"foreign"[..]));
    }
    assert_eq!(bench.logged(), 0);
}

//! Checks of value states and of merges into them.

use super::{Bench, Factory, bench::*};
use crate::state::{
    Action,
    op::{Answer, Op},
};

pub(super) fn values_are_set_read_and_cleared(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let at = at(VALUE, "key");
    assert_eq!(bench.value(at), None);
    for value in [&b"first"[..], b"other", b"a longer one", b"short", b"", b"", b"again"] {
        bench.write(at, Op::Put(value), &[Action::Put(value)]);
        assert_eq!(bench.value(at).as_deref(), Some(value), "an empty value is a value");
        assert_eq!(bench.backend.len(at).unwrap(), 1);
    }
    bench.assert_replays(factory, &[at]);
    bench.write(at, Op::Clear, &[Action::Clear]);
    assert_eq!(bench.value(at), None);
    assert_eq!(bench.backend.len(at).unwrap(), 0);
    bench.assert_replays(factory, &[at]);
    bench.write(at, Op::Put(b"back"), &[Action::Put(b"back")]);
    assert_eq!(bench.value(at).as_deref(), Some(&b"back"[..]));
    bench.assert_replays(factory, &[at]);
}

pub(super) fn states_keys_and_namespaces_are_independent(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let foreign_group = |key| {
        let at = at(VALUE, key);
        let group = if at.key_group == range().last() { range().first() } else { range().last() };
        crate::state::Address { key_group: group, ..at }
    };
    // Some pairs concatenate to the same bytes; the same key in another key group is another key.
    let places = [
        at(VALUE, "ab"),
        at(OTHER_VALUE, "ab"),
        at(VALUE, "a"),
        at_namespace(VALUE, "a", "b"),
        at_namespace(VALUE, "ab", "a"),
        at_namespace(VALUE, "b", "a"),
        at_namespace(OTHER_VALUE, "a", "b"),
        foreign_group("ab"),
    ];
    let values: Vec<_> = (0..places.len()).map(|i| format!("value {i}").into_bytes()).collect();
    for (at, value) in places.iter().zip(&values) {
        bench.write(*at, Op::Put(value), &[Action::Put(value)]);
    }
    for removed in 0..=places.len() {
        for (i, (at, value)) in places.iter().zip(&values).enumerate() {
            assert_eq!(bench.value(*at).as_ref(), (i >= removed).then_some(value), "{at:?} after {removed} removals");
        }
        bench.assert_replays(factory, &places);
        if let Some(at) = places.get(removed) {
            bench.write(*at, Op::Clear, &[Action::Clear]);
        }
    }
}

pub(super) fn numbers_merge(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let integers = [
        (SUM, [5, -7, i64::MAX, 2, 1], [5, -2, i64::MAX - 2, i64::MAX, i64::MIN]),
        (MIN, [5, 7, -3, 0, i64::MIN], [5, 5, -3, -3, i64::MIN]),
        (MAX, [5, 3, -3, 8, i64::MAX], [5, 5, 5, 8, i64::MAX]),
    ];
    for (state, operands, results) in integers {
        for (operand, result) in operands.into_iter().zip(results) {
            let (operand, result) = (operand.to_le_bytes(), result.to_le_bytes());
            // The result is logged, not the operand: replay does not merge.
            bench.write(at(state, "key"), Op::Merge(&operand), &[Action::Put(&result)]);
            assert_eq!(bench.value(at(state, "key")).as_deref(), Some(&result[..]), "{state:?}");
        }
    }
    let floats = [
        (SUM_F64, [0.5, 0.25, f64::INFINITY], [0.5, 0.75, f64::INFINITY]),
        (MIN_F64, [f64::NAN, 1.5, f64::NAN], [f64::NAN, 1.5, 1.5]),
    ];
    for (state, operands, results) in floats {
        for (operand, result) in operands.into_iter().zip(results) {
            let (operand, result) = (operand.to_le_bytes(), result.to_le_bytes());
            bench.write(at(state, "key"), Op::Merge(&operand), &[Action::Put(&result)]);
        }
    }
    bench.assert_replays(factory, &[SUM, MIN, MAX, SUM_F64, MIN_F64].map(|state| at(state, "key")));
    bench.write(at(SUM, "key"), Op::Clear, &[Action::Clear]);
    let one = 1_i64.to_le_bytes();
    bench.write(at(SUM, "key"), Op::Merge(&one), &[Action::Put(&one)]);
}

pub(super) fn appends_stop_at_the_limit(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let at = at(APPEND, "key");
    let part = [b'x'; MAX_VALUE_BYTES / 4];
    bench.write(at, Op::Merge(b""), &[Action::Append(b"")]);
    assert_eq!(bench.value(at).as_deref(), Some(&b""[..]));
    for parts in 1..=4 {
        bench.write(at, Op::Merge(&part), &[Action::Append(&part)]);
        assert_eq!(bench.value(at), Some(part.repeat(parts)));
    }
    let logged = bench.logged();
    assert_eq!(bench.run(at, Op::Merge(b"y")), Some(Answer::LimitReached));
    assert_eq!((bench.value(at), bench.logged()), (Some(part.repeat(4)), logged), "the value is left as it is");
    bench.assert_replays(factory, &[at]);
    bench.write(at, Op::Put(b"new"), &[Action::Put(b"new")]);
    bench.write(at, Op::Merge(b"er"), &[Action::Append(b"er")]);
    assert_eq!(bench.value(at).as_deref(), Some(&b"newer"[..]));
    bench.assert_replays(factory, &[at]);
}

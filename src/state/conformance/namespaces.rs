//! Checks of merges of namespaces.

use bytes::Bytes;

use super::{Bench, Factory, bench::*, merges::set};
use crate::{
    state::{
        Action, Address, Change, StateError,
        op::{Answer, Op},
    },
    types::{Sketch, StateId},
};

const WINDOWS: [&str; 5] = ["", "a", "b", "c", "target"];

fn windows(state: StateId) -> [Address<'static>; 5] {
    WINDOWS.map(|window| at_namespace(state, "key", window))
}

fn average(sum: i64, count: i64) -> Vec<u8> {
    [sum.to_le_bytes(), count.to_le_bytes()].concat()
}

/// Merges the namespaces `a`, `` and `b` into `target`, with and without a value there.
fn sketch(things: &[&str]) -> Sketch {
    let mut sketch = Sketch::new();
    things.iter().for_each(|thing| _ = sketch.insert(thing.as_bytes()));
    sketch
}

fn check_values(factory: Factory<'_>, state: StateId, values: [&[u8]; 4], results: [&[u8]; 2]) {
    let [in_target, in_a, in_void, in_b] = values;
    for (has_target, result) in [true, false].into_iter().zip(results) {
        let mut bench = Bench::new(factory);
        for (window, value) in [("a", in_a), ("", in_void), ("b", in_b)] {
            bench.run(at_namespace(state, "key", window), Op::Put(value));
            bench.run(at_namespace(state, "other", window), Op::Put(value));
        }
        if has_target {
            bench.run(at_namespace(state, "key", "target"), Op::Put(in_target));
        }
        let mut changes = vec![("target", Action::Put(result))];
        if has_target && state == VALUE {
            changes.clear();
        }
        changes.extend([("a", Action::Clear), ("", Action::Clear), ("b", Action::Clear)]);
        // The namespace `c` is empty.
        bench.merge_namespaces(state, "key", "target", &["a", "c", "", "b"], &changes);
        assert_eq!(bench.value(at_namespace(state, "key", "target")).as_deref(), Some(result), "{state:?}");
        assert_eq!(bench.entries(state), 4, "no other key is touched");
        bench.assert_replays(factory, &windows(state));
    }
}

pub(super) fn namespaces_of_values_merge(factory: Factory<'_>) {
    check_values(factory, VALUE, [b"target", b"a", b"void", b"b"], [b"target", b"a"]);
    check_values(factory, APPEND, [b"t", b"a", b"", b"b"], [b"tab", b"ab"]);
    let integers = |values: [i64; 6]| values.map(i64::to_le_bytes);
    let [t, a, void, b, all, sources] = integers([1, 20, i64::MAX, -5, i64::MIN + 15, i64::MIN + 14]);
    for state in [SUM, COUNT] {
        check_values(factory, state, [&t, &a, &void, &b], [&all, &sources]);
    }
    let [t, a, void, b, all, sources] = integers([1, 20, 7, 3, 1, 3]);
    check_values(factory, MIN, [&t, &a, &void, &b], [&all, &sources]);
    let [t, a, void, b, all, sources] = integers([1, 20, 7, 3, 20, 20]);
    check_values(factory, MAX, [&t, &a, &void, &b], [&all, &sources]);
    let [t, a, void, b] = [average(1, 1), average(20, 2), average(-7, 3), average(0, 0)];
    check_values(factory, AVERAGE, [&t, &a, &void, &b], [&average(14, 6), &average(13, 5)]);
    let [t, a, void, b] = [set(&["x"]), set(&["a", "x"]), set(&[]), set(&["b", "x"])];
    check_values(factory, SET, [&t, &a, &void, &b], [&set(&["a", "b", "x"]), &set(&["a", "b", "x"])]);
    let [t, a, void, b] = [sketch(&["x"]), sketch(&["a", "x"]), sketch(&[]), sketch(&["b", "x"])];
    let united = |sketches: &[&Sketch]| {
        let mut all = Sketch::new();
        sketches.iter().for_each(|one| all.unite(one));
        all.encode()
    };
    let (all, sources) = (united(&[&t, &a, &b]), united(&[&a, &b]));
    let bytes = [&t, &a, &void, &b].map(Sketch::encode);
    check_values(factory, SKETCH, bytes.each_ref().map(Vec::as_slice), [&all, &sources]);
}

pub(super) fn namespaces_of_lists_merge_in_order(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    for (window, contents) in [("target", &["t"][..]), ("a", &["x", "", "y"]), ("b", &["z"])] {
        bench.run(at_namespace(LIST, "key", window), Op::ListAddAll(&elements(contents)));
    }
    let put = |index, element: &'static str| ("target", Action::ListPut { index, element: element.as_bytes() });
    let changes = [put(1, "z"), put(2, "x"), put(3, ""), put(4, "y"), ("b", Action::Clear), ("a", Action::Clear)];
    bench.merge_namespaces(LIST, "key", "target", &["b", "a", "c"], &changes);
    assert_eq!(bench.list(at_namespace(LIST, "key", "target")), elements(&["t", "z", "x", "", "y"]));
    // More than one read of the inner backend returns.
    let many: Vec<_> = (0..2_500_u32).map(|i| Bytes::copy_from_slice(&i.to_be_bytes())).collect();
    bench.run(at_namespace(LIST, "key", "c"), Op::ListAddAll(&many));
    bench.run(at_namespace(LIST, "key", ""), Op::MergeNamespaces(&elements(&["c", "target"])));
    let all: Vec<_> = many.into_iter().chain(elements(&["t", "z", "x", "", "y"])).collect();
    assert_eq!(bench.list(at(LIST, "key")), all);
    assert_eq!(bench.entries(LIST), 2_505);
    bench.assert_replays(factory, &windows(LIST));
}

pub(super) fn namespaces_of_maps_unite(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let put = |map_key: &'static str, value| ("target", Action::MapPut { map_key: map_key.as_bytes(), value });
    let fill = |bench: &mut Bench, state, window, entries: &[(&str, &[u8])]| {
        for &(map_key, value) in entries {
            bench.run(at_namespace(state, "key", window), Op::MapPut { map_key: map_key.as_bytes(), value });
        }
    };
    fill(&mut bench, MAP, "target", &[("only t", b"t"), ("t and b", b"t"), ("all", b"t")]);
    fill(&mut bench, MAP, "a", &[("only a", b"a"), ("a and b", b"a"), ("all", b"a")]);
    fill(&mut bench, MAP, "b", &[("", b""), ("t and b", b"b"), ("a and b", b"b"), ("all", b"b")]);
    // Each map key once, at the first source that has it.
    let united = [put("a and b", b"b"), put("all", b"b"), put("only a", b"a"), put("", b""), put("t and b", b"b")];
    let changes = [&united[..], &[("a", Action::Clear), ("b", Action::Clear)]].concat();
    bench.merge_namespaces(MAP, "key", "target", &["a", "c", "b"], &changes);
    assert_eq!(bench.entries(MAP), 6);
    assert_eq!(bench.map_value(at_namespace(MAP, "key", "target"), "only t").as_deref(), Some(&b"t"[..]));
    let [one, two, three] = [1_i64, 2, 3].map(i64::to_le_bytes);
    fill(&mut bench, MAP_SUM, "target", &[("all", &one)]);
    fill(&mut bench, MAP_SUM, "a", &[("all", &one), ("one", &one)]);
    fill(&mut bench, MAP_SUM, "b", &[("all", &one), ("two", &two)]);
    let changes = [put("all", &three), put("two", &two), put("one", &one), ("b", Action::Clear), ("a", Action::Clear)];
    bench.merge_namespaces(MAP_SUM, "key", "target", &["b", "a"], &changes);
    fill(&mut bench, MAP_APPEND, "target", &[("m", b"t")]);
    fill(&mut bench, MAP_APPEND, "a", &[("m", b"a")]);
    fill(&mut bench, MAP_APPEND, "b", &[("m", b"b")]);
    let changes = [put("m", b"tba"), ("b", Action::Clear), ("a", Action::Clear)];
    bench.merge_namespaces(MAP_APPEND, "key", "target", &["b", "a"], &changes);
    for i in 0..2_500_u32 {
        bench.run(at_namespace(MAP, "key", "c"), Op::MapPut { map_key: &i.to_be_bytes(), value: b"c" });
    }
    bench.run(at(MAP, "key"), Op::MergeNamespaces(&elements(&["target", "c"])));
    assert_eq!((bench.map(at(MAP, "key")).len(), bench.entries(MAP)), (2_506, 2_506));
    let places: Vec<_> = [MAP, MAP_SUM, MAP_APPEND].into_iter().flat_map(windows).collect();
    bench.assert_replays(factory, &places);
}

pub(super) fn namespaces_beyond_the_limit_stay_as_they_are(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let half = [b'x'; MAX_VALUE_BYTES / 2];
    for window in ["target", "a", "b"] {
        bench.run(at_namespace(APPEND, "key", window), Op::Put(&half));
        let entries = [(b"first", &b"f"[..]), (b"limit", &half)];
        for (map_key, value) in entries {
            bench.run(at_namespace(MAP_APPEND, "key", window), Op::MapPut { map_key, value });
        }
    }
    for state in [APPEND, MAP_APPEND] {
        let (before, logged) = (windows(state).map(|at| bench.contents(at)), bench.logged());
        let at = at_namespace(state, "key", "target");
        let sources = elements(&["a", "b"]);
        assert_eq!(bench.run(at, Op::MergeNamespaces(&sources)), Some(Answer::LimitReached));
        assert_eq!(windows(state).map(|at| bench.contents(at)), before);
        assert_eq!(bench.logged(), logged, "nothing is changed");
        assert_eq!(bench.run(at, Op::MergeNamespaces(&sources[..1])), None, "just within the limit");
        bench.assert_replays(factory, &windows(state));
    }
    // As in a damaged or foreign checkpoint.
    for window in ["a", "b"] {
        let at = at_namespace(SUM, "key", window);
        bench.backend.apply(&Change { at, action: Action::Put(b"foreign") }).unwrap();
    }
    let refused = bench.try_run(at(SUM, "key"), Op::MergeNamespaces(&elements(&["a", "b"])));
    assert!(matches!(refused, Err(StateError::Mismatch { state: SUM, .. })), "{refused:?}");
}

pub(super) fn namespaces_without_anything_log_nothing(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    for state in bench.states().filter(|state| *state != TIMER) {
        bench.merge_namespaces(state, "key", "target", &[], &[]);
        bench.merge_namespaces(state, "key", "target", &["a", "", "b"], &[]);
    }
    bench.run(at_namespace(SUM, "key", "target"), Op::Merge(&[1; 8]));
    bench.merge_namespaces(SUM, "key", "target", &["a"], &[]);
    bench.merge_namespaces(SUM, "key", "target", &[], &[]);
    assert_eq!(bench.logged(), 1);
}

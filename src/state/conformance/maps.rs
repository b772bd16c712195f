//! Checks of map states and of merges into them.

use bytes::Bytes;

use super::{Bench, Factory, bench::*};
use crate::state::{
    Action, MapKeys, PageLimit,
    op::{Answer, Op},
};

fn put<'a>(map_key: &'a [u8], value: &'a [u8]) -> (Op<'a>, Action<'a>) {
    (Op::MapPut { map_key, value }, Action::MapPut { map_key, value })
}

pub(super) fn maps_are_ordered(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let at = at_namespace(MAP, "key", "ns");
    let keys: [&[u8]; 6] = [b"b", b"", b"\xff", b"a", b"a\0", b"aa"];
    for (i, map_key) in keys.iter().enumerate() {
        let (op, action) = put(map_key, b"v");
        bench.write(at, op, &[action]);
        assert_eq!(bench.read(at, Op::MapCount), Answer::Count(i as u64 + 1));
    }
    let (op, action) = put(b"a", b"overwritten");
    bench.write(at, op, &[action]);
    let (op, action) = put(b"aa", b"");
    bench.write(at, op, &[action]);
    let expected: [(&[u8], &[u8]); 6] =
        [(b"", b"v"), (b"a", b"overwritten"), (b"a\0", b"v"), (b"aa", b""), (b"b", b"v"), (b"\xff", b"v")];
    let expected = expected.map(|(map_key, value)| (Bytes::from_static(map_key), Bytes::from_static(value)));
    assert_eq!(bench.map(at), expected);
    assert_eq!(bench.map_value(at, "aa").as_deref(), Some(&b""[..]), "an empty value is a value");
    assert_eq!(bench.map_value(at, "ab"), None);
    assert_eq!(bench.read(at, Op::MapContains { map_key: b"" }), Answer::Found(true));
    assert_eq!(bench.read(at, Op::MapContains { map_key: b"c" }), Answer::Found(false));
    bench.assert_replays(factory, &[at]);
}

pub(super) fn map_pages_join_to_the_whole(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let at = at(MAP, "key");
    for i in 0..100_u8 {
        bench.run(at, Op::MapPut { map_key: &[i], value: &[i; 50] });
    }
    assert_eq!(bench.map(at).len(), 100);
    let read = |bench: &mut Bench, from: &[u8], limit| {
        let answer = bench.read(at, Op::MapEntries { keys: MapKeys::from(from), limit });
        let Answer::Entries { entries, more } = answer else { unreachable!("MapEntries answers entries") };
        (entries.iter().map(|(map_key, _)| map_key[0]).collect::<Vec<_>>(), more)
    };
    assert_eq!(read(&mut bench, &[], 3), (vec![0, 1, 2], true));
    assert_eq!(read(&mut bench, &[2], 1), (vec![2], true), "inclusive");
    assert_eq!(read(&mut bench, &[2, 0], 1), (vec![3], true), "the key after it");
    assert_eq!(read(&mut bench, &[98], 2), (vec![98, 99], false));
    assert_eq!(read(&mut bench, &[98], u64::MAX), (vec![98, 99], false));
    assert_eq!(read(&mut bench, &[100], 0), (vec![], false));
    assert_eq!(read(&mut bench, &[], 0), (vec![0, 1, 2, 3, 4], true), "as many as fit");
    let mut first = Vec::new();
    let tiny = PageLimit { entries: 9, bytes: 1 };
    let more =
        bench.backend.map_page(at, MapKeys::default(), tiny, &mut |map_key, _| first.push(map_key.to_vec())).unwrap();
    assert_eq!((first, more), (vec![vec![0]], true), "a first entry is always returned");
}

pub(super) fn map_pages_keep_to_a_range_and_a_prefix(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let here = at(MAP, "key");
    for high in 0..3_u8 {
        for low in 0..4_u8 {
            bench.run(here, Op::MapPut { map_key: &[high, low], value: b"v" });
            bench.run(at(MAP, "other"), Op::MapPut { map_key: &[high, low, 0], value: b"v" });
        }
    }
    let read = |bench: &mut Bench, from: &[u8], to: &[u8], prefix: &[u8], limit| {
        let answer = bench.read(here, Op::MapEntries { keys: MapKeys { from, to, prefix }, limit });
        let Answer::Entries { entries, more } = answer else { unreachable!("MapEntries answers entries") };
        (entries.iter().map(|(map_key, _)| (map_key[0], map_key[1])).collect::<Vec<_>>(), more)
    };
    assert_eq!(read(&mut bench, &[0, 3], &[1, 1], &[], 0), (vec![(0, 3), (1, 0)], false));
    assert_eq!(read(&mut bench, &[0, 3], &[1, 1], &[], 1), (vec![(0, 3)], true));
    assert_eq!(read(&mut bench, &[0, 3], &[1, 1], &[], 2), (vec![(0, 3), (1, 0)], false), "behind the end is no more");
    assert_eq!(read(&mut bench, &[], &[], &[1], 0).0, [(1, 0), (1, 1), (1, 2), (1, 3)]);
    assert_eq!(read(&mut bench, &[1, 2], &[], &[1], 0), (vec![(1, 2), (1, 3)], false));
    assert_eq!(read(&mut bench, &[1, 2], &[1, 3], &[1], 0), (vec![(1, 2)], false));
    assert_eq!(read(&mut bench, &[2], &[], &[1], 0), (vec![], false), "behind the prefix");
    assert_eq!(read(&mut bench, &[2], &[1], &[], 0), (vec![], false), "an end before the beginning");
}

pub(super) fn map_entries_are_removed_and_cleared(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let (here, there) = (at_namespace(MAP, "key", "a"), at_namespace(MAP, "key", "b"));
    for at in [here, there] {
        for map_key in ["x", "y", "z"] {
            let (op, action) = put(map_key.as_bytes(), b"v");
            bench.write(at, op, &[action]);
        }
    }
    let remove = |map_key: &'static [u8]| (Op::MapRemove { map_key }, [Action::MapRemove { map_key }]);
    for (left, map_key) in [(2, &b"y"[..]), (1, b"x"), (0, b"z")] {
        let (op, actions) = remove(map_key);
        bench.write(here, op, &actions);
        assert_eq!(bench.read(here, Op::MapCount), Answer::Count(left));
    }
    assert_eq!(bench.read(there, Op::MapCount), Answer::Count(3), "another namespace");
    bench.write(here, Op::Clear, &[]);
    bench.write(there, Op::Clear, &[Action::Clear]);
    assert_eq!(bench.map(there), []);
    bench.assert_replays(factory, &[here, there]);
    let (op, action) = put(b"x", b"back");
    bench.write(there, op, &[action]);
    assert_eq!(bench.map_value(there, "x").as_deref(), Some(&b"back"[..]));
    bench.assert_replays(factory, &[here, there]);
}

pub(super) fn map_entries_merge(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let (sum, append) = (at(MAP_SUM, "key"), at(MAP_APPEND, "key"));
    let map_key = &b"entry"[..];
    for total in 1..=3_i64 {
        let result = total.to_le_bytes();
        let op = Op::MapMerge { map_key, operand: &1_i64.to_le_bytes() };
        bench.write(sum, op, &[Action::MapPut { map_key, value: &result }]);
        assert_eq!(bench.map_value(sum, "entry").as_deref(), Some(&result[..]));
    }
    let half = [b'h'; MAX_VALUE_BYTES / 2];
    for _ in 0..2 {
        bench.write(append, Op::MapMerge { map_key, operand: &half }, &[Action::MapAppend { map_key, value: &half }]);
    }
    let logged = bench.logged();
    assert_eq!(bench.run(append, Op::MapMerge { map_key, operand: b"y" }), Some(Answer::LimitReached));
    assert_eq!((bench.map_value(append, "entry"), bench.logged()), (Some(half.repeat(2)), logged));
    assert_eq!(bench.read(append, Op::MapCount), Answer::Count(1));
    bench.assert_replays(factory, &[sum, append]);
}

//! Checks that apply to all kinds of state: the log, the counts, and changes that do not fit.

use super::{Bench, Factory, bench::*};
use crate::{
    state::{Action, Address, Change, MapKeys, PageLimit, StateError, op::Op},
    types::{KeyGroup, StateId},
};

pub(super) fn reads_are_never_logged(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    bench.run(at(VALUE, "key"), Op::Put(b"v"));
    bench.run(at(LIST, "key"), Op::ListAdd(b"e"));
    bench.run(at(MAP, "key"), Op::MapPut { map_key: b"m", value: b"v" });
    for key in ["key", "missing"] {
        // `read` asserts that nothing is logged.
        bench.read(at(VALUE, key), Op::Get);
        bench.read(at(LIST, key), Op::ListGet { start: 0, token: &[], limit: 0 });
        bench.read(at(LIST, key), Op::ListCount);
        bench.read(at(MAP, key), Op::MapGet { map_key: b"m" });
        bench.read(at(MAP, key), Op::MapContains { map_key: b"m" });
        bench.read(at(MAP, key), Op::MapEntries { keys: MapKeys::default(), limit: 0 });
        bench.read(at(MAP, key), Op::MapCount);
    }
    bench.read(everywhere(TIMER), Op::Timers { up_to: i64::MAX, token: b"", limit: 0 });
    assert_eq!(bench.logged(), 3);
}

pub(super) fn what_changes_nothing_is_not_logged(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    for state in [VALUE, LIST, MAP] {
        bench.write(at(state, "key"), Op::Clear, &[]);
    }
    bench.write(at(LIST, "key"), Op::ListUpdate(&[]), &[]);
    bench.write(at(LIST, "key"), Op::ListAddAll(&[]), &[]);
    bench.write(at(MAP, "key"), Op::MapRemove { map_key: b"m" }, &[]);
    let put = Op::MapPut { map_key: b"m", value: b"v" };
    for _ in 0..2 {
        // Setting an equal value is logged.
        bench.write(at(VALUE, "key"), Op::Put(b"v"), &[Action::Put(b"v")]);
        bench.write(at(MAP, "key"), put, &[Action::MapPut { map_key: b"m", value: b"v" }]);
    }
    bench.write(at(MAP, "key"), Op::MapRemove { map_key: b"n" }, &[]);
    bench.write(at_namespace(MAP, "key", "ns"), Op::Clear, &[]);
}

pub(super) fn names_are_paged_in_a_lasting_order(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let keys: Vec<_> = (0..200).map(|i| format!("key {i}")).collect();
    for (key, namespace) in keys.iter().flat_map(|key| ["", "ns"].map(|namespace| (key, namespace))) {
        bench.run(at_namespace(VALUE, key, namespace), Op::Put(b"v"));
        bench.run(at_namespace(LIST, key, namespace), Op::ListAddAll(&elements(&["a", "b"])));
        for map_key in [&b""[..], b"m", b"n"] {
            bench.run(at_namespace(MAP, key, namespace), Op::MapPut { map_key, value: b"v" });
        }
        for time in [-5, 5] {
            bench.run(at_namespace(TIMER, key, namespace), Op::TimerRegister { time });
        }
    }
    // Names behind `after`, page by page.
    let names = |bench: &Bench, state, group, after: Option<(Vec<u8>, Vec<u8>)>, entries| {
        let (mut names, mut after) = (vec![], after);
        loop {
            let last = after.as_ref().map(|(key, namespace)| (&key[..], &namespace[..]));
            let mut page: Vec<(Vec<u8>, Vec<u8>)> = vec![];
            let limit = PageLimit { entries, bytes: usize::MAX };
            let mut read = |key: &[u8], namespace: &[u8]| page.push((key.to_vec(), namespace.to_vec()));
            let more = bench.backend.name_page(state, group, last, limit, &mut read).unwrap();
            assert!(page.len() == entries || !more);
            names.append(&mut page);
            if !more {
                return names;
            }
            after = names.last().cloned();
        }
    };
    let rank = |bench: &Bench, key: &[u8], namespace: &[u8]| {
        let mut rank = vec![];
        bench.backend.name_rank(key, namespace, &mut rank);
        rank
    };
    for state in [VALUE, LIST, MAP, TIMER] {
        let all: Vec<_> = range().iter().flat_map(|group| names(&bench, state, group, None, 7)).collect();
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!((all.len(), distinct.len()), (400, 400), "{state:?}");
        let group = at(state, "key 7").key_group;
        let before = names(&bench, state, group, None, 3);
        let ranks: Vec<Vec<u8>> = before.iter().map(|(key, namespace)| rank(&bench, key, namespace)).collect();
        // The names of timers are found in another way.
        assert!(state == TIMER || ranks.is_sorted_by(|a, b| a < b), "ranks are in the order of pages");
        assert_eq!(before, names(&bench, state, group, None, usize::MAX));
        let (gone, rest) = before.split_at(before.len() / 2);
        let last = gone.last().unwrap().clone();
        for (key, namespace) in gone {
            let at = at_namespace(state, std::str::from_utf8(key).unwrap(), std::str::from_utf8(namespace).unwrap());
            match state {
                TIMER => [-5, 5].map(|time| _ = bench.run(at, Op::TimerDelete { time })),
                _ => [bench.run(at, Op::Clear), None].map(drop),
            };
        }
        assert_eq!(names(&bench, state, group, Some(last), 5), rest, "what others follow need not be there");
    }
    let outside = KeyGroup(range().last().0 + 1);
    let limit = PageLimit { entries: 1, bytes: 1 };
    assert!(bench.backend.name_page(VALUE, outside, None, limit, &mut |_, _| ()).is_err());
    assert!(bench.backend.name_page(StateId(2), range().first(), None, limit, &mut |_, _| ()).is_err());
}

pub(super) fn entries_and_bytes_follow_the_contents(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let keys: Vec<_> = (0..500).map(|i| format!("key {i}")).collect();
    for key in &keys {
        bench.run(at(VALUE, key), Op::Put(&[1; 60]));
        bench.run(at(VALUE, key), Op::Put(&[2; 61]));
        bench.run(at(LIST, key), Op::ListAddAll(&elements(&["a", "b", "c"])));
        for map_key in [&b"m"[..], b"n", b"m"] {
            bench.run(at(MAP, key), Op::MapPut { map_key, value: b"v" });
        }
    }
    bench.backend.finish_batch().unwrap();
    let entries = |bench: &Bench| [VALUE, LIST, MAP, OTHER_VALUE, StateId(999)].map(|state| bench.entries(state));
    assert_eq!(entries(&bench), [500, 1500, 1000, 0, 0]);
    let full = bench.backend.bytes();
    assert!(full > 500 * 61, "{full} bytes");
    for key in &keys {
        bench.run(at(VALUE, key), Op::Clear);
        bench.run(at(LIST, key), Op::Clear);
        bench.run(at(MAP, key), Op::MapRemove { map_key: b"m" });
    }
    assert_eq!(entries(&bench), [0, 0, 500, 0, 0]);
    for key in &keys {
        bench.run(at(MAP, key), Op::MapRemove { map_key: b"n" });
    }
    bench.backend.finish_batch().unwrap();
    assert_eq!(entries(&bench), [0; 5]);
    bench.assert_replays(factory, &[at(VALUE, &keys[0])]);
}

pub(super) fn changes_that_do_not_fit_change_nothing(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    bench.run(at(VALUE, "key"), Op::Put(b"v"));
    bench.run(at(LIST, "key"), Op::ListAdd(b"e"));
    let (map_key, value) = (&b"m"[..], &b"v"[..]);
    let outside = Address { key_group: KeyGroup(range().last().0 + 1), ..at(VALUE, "key") };
    let misfits = [
        (at(StateId(2), "key"), Action::Put(value)),
        (at(StateId(0), "key"), Action::Clear),
        (at(StateId(u32::MAX), "key"), Action::Clear),
        (outside, Action::Put(value)),
        (outside, Action::Clear),
        (at(VALUE, "key"), Action::ListPut { index: 0, element: value }),
        (at(VALUE, "key"), Action::MapPut { map_key, value }),
        (at(VALUE, "key"), Action::MapRemove { map_key }),
        (at(LIST, "key"), Action::Put(value)),
        (at(LIST, "key"), Action::ListPut { index: 2, element: value }),
        (at(LIST, "other"), Action::ListPut { index: 1, element: value }),
        (at(MAP, "key"), Action::Append(value)),
        (at(MAP, "key"), Action::TimerPut { time: 1 }),
        (at(VALUE, "key"), Action::TimerRemove { time: 1 }),
        (at(TIMER, "key"), Action::Put(value)),
        (at(TIMER, "key"), Action::Clear),
        (Address { key_group: outside.key_group, ..at(TIMER, "key") }, Action::TimerPut { time: 1 }),
    ];
    for (at, action) in misfits {
        let error = bench.backend.apply(&Change { at, action }).unwrap_err();
        assert!(matches!(error, StateError::Mismatch { state, .. } if state == at.state), "{at:?} {action:?}: {error}");
    }
    for count in [0, 64, 65, 1000] {
        bench.backend.warm(&mut misfits.iter().map(|(at, _)| *at).cycle().take(count));
    }
    assert!(bench.backend.value(at(LIST, "key"), &mut |_| ()).is_err());
    assert!(bench.backend.map_value(at(VALUE, "key"), b"", &mut |_| ()).is_err());
    assert!(bench.backend.len(outside).is_err());
    assert!(bench.backend.timer(at(MAP, "key"), 1).is_err());
    let all = PageLimit { entries: 9, bytes: 9 };
    assert!(bench.backend.timer_page(VALUE, None, i64::MAX, all, &mut |_| ()).is_err());
    assert_eq!(bench.value(at(VALUE, "key")).as_deref(), Some(&b"v"[..]));
    assert_eq!(bench.list(at(LIST, "key")), elements(&["e"]));
    assert_eq!([VALUE, LIST, MAP].map(|state| bench.entries(state)), [1, 1, 0]);
}

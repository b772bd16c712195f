//! Checks of timers.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Bench, Factory, bench::*};
use crate::state::{
    Action, PageLimit,
    op::{Answer, Op, Timer},
};

/// The timer of `key` in `namespace`, where the bench puts it.
fn timer(time: i64, key: &str, namespace: &str) -> Timer {
    let key_group = at_namespace(TIMER, key, namespace).key_group;
    let (key, namespace) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(namespace.as_bytes()));
    Timer { time, key, namespace, key_group }
}

fn register(bench: &mut Bench, timer: &Timer) {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let (key, namespace) = (text(&timer.key), text(&timer.namespace));
    let at = at_namespace(TIMER, &key, &namespace);
    bench.write(at, Op::TimerRegister { time: timer.time }, &[Action::TimerPut { time: timer.time }]);
}

/// Timers in order: equal times, keys that begin with other keys, zero bytes, both ends of the range.
fn in_order() -> Vec<Timer> {
    let mut timers =
        vec![timer(i64::MIN + 1, "z", "z"), timer(-256, "b", ""), timer(-255, "a", ""), timer(-1, "b", "")];
    for key in ["a", "a\0", "a\0\0", "a\0\x01", "a\x01", "aa", "b", "ba", "c"] {
        timers.extend(["", "\0", "a", "b"].map(|namespace| timer(0, key, namespace)));
    }
    timers.extend([timer(1, "a", ""), timer(256, "a", ""), timer(i64::MAX - 1, "b", ""), timer(i64::MAX, "a", "")]);
    timers
}

pub(super) fn timers_come_in_order_of_time_key_and_namespace(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    assert_eq!(bench.timers(i64::MAX, 0), []);
    assert_eq!(bench.fire(i64::MAX, 0), (vec![], false));
    let expected = in_order();
    let mut shuffled = expected.clone();
    shuffled.sort_by_key(|timer| (timer.namespace.clone(), timer.time.wrapping_mul(-7)));
    for timer in &shuffled {
        register(&mut bench, timer);
    }
    for limit in [0, 1, 3, 1000] {
        assert_eq!(bench.timers(i64::MAX, limit), expected, "in pages of {limit}");
    }
    for up_to in [i64::MIN, i64::MIN + 1, -256, -2, -1, 0, 255, i64::MAX - 1] {
        let due: Vec<_> = expected.iter().filter(|timer| timer.time <= up_to).cloned().collect();
        assert_eq!(bench.timers(up_to, 2), due, "up to {up_to}");
    }
    let mut groups: Vec<_> = expected.iter().map(|timer| timer.key_group).collect();
    groups.dedup();
    assert!(groups.len() > 5, "key groups alternate");
    let places: Vec<_> = ["a", "b", "a\0"].into_iter().map(|key| at(TIMER, key)).collect();
    bench.assert_replays(factory, &places);
    assert_eq!(bench.replayed(factory).timers(i64::MAX, 0), expected);
}

pub(super) fn timers_are_there_once_and_deleted_once(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let here = at_namespace(TIMER, "key", "ns");
    let (register, delete) = (|time| Op::TimerRegister { time }, |time| Op::TimerDelete { time });
    bench.write(here, delete(5), &[]);
    bench.write(here, register(5), &[Action::TimerPut { time: 5 }]);
    bench.write(here, register(5), &[]);
    bench.write(here, register(-5), &[Action::TimerPut { time: -5 }]);
    bench.write(at(TIMER, "key"), register(5), &[Action::TimerPut { time: 5 }]);
    bench.write(at_namespace(TIMER, "other", "ns"), register(5), &[Action::TimerPut { time: 5 }]);
    assert_eq!((bench.entries(TIMER), bench.backend.len(here).unwrap()), (4, 2));
    bench.write(here, delete(6), &[]);
    bench.write(here, delete(5), &[Action::TimerRemove { time: 5 }]);
    bench.write(here, delete(5), &[]);
    let left = [timer(-5, "key", "ns"), timer(5, "key", ""), timer(5, "other", "ns")];
    assert_eq!(bench.timers(i64::MAX, 0), left);
    assert_eq!((bench.entries(TIMER), bench.backend.len(here).unwrap()), (3, 1));
    bench.write(here, delete(-5), &[Action::TimerRemove { time: -5 }]);
    bench.write(here, register(5), &[Action::TimerPut { time: 5 }]);
    assert_eq!(bench.timers(i64::MAX, 0)[1], timer(5, "key", "ns"), "it comes back");
    bench.assert_replays(factory, &[here, at(TIMER, "key")]);
    // Changes are absolute: applying one again has no effect.
    for _ in 0..2 {
        for change in bench.replayed(factory).changes(0) {
            bench.backend.apply(&change).unwrap();
        }
    }
    assert_eq!(bench.entries(TIMER), 3);
}

pub(super) fn timers_fire_up_to_a_time_and_a_limit(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let mut expected = in_order();
    for timer in expected.iter().rev() {
        register(&mut bench, timer);
    }
    let mut fire = |bench: &mut Bench, up_to, limit| {
        let due = expected.iter().filter(|timer| timer.time <= up_to).count();
        let (fired, more) = bench.fire(up_to, limit);
        let left = expected.split_off(fired.len());
        assert_eq!(fired, expected, "up to {up_to}, at most {limit}");
        assert_eq!(more, due > fired.len());
        expected = left;
        fired.len()
    };
    assert_eq!(fire(&mut bench, i64::MIN, 0), 0);
    assert_eq!(fire(&mut bench, -256, 9), 2);
    assert_eq!(fire(&mut bench, -1, 1), 1);
    assert_eq!(fire(&mut bench, -1, 1), 1);
    assert_eq!(fire(&mut bench, -1, 1), 0);
    assert_eq!(fire(&mut bench, 0, 5), 5);
    assert_eq!(fire(&mut bench, i64::MAX, 7), 7);
    let page = fire(&mut bench, i64::MAX, 0);
    assert!((2..=PAGE_BYTES / 32).contains(&page), "as many as fit a page: {page}");
    let mut replayed = bench.replayed(factory);
    assert_eq!(replayed.timers(i64::MAX, 0), bench.timers(i64::MAX, 0));
    while fire(&mut bench, i64::MAX, 0) > 0 {}
    assert_eq!((bench.timers(i64::MAX, 0), bench.entries(TIMER)), (vec![], 0));
    bench.assert_replays(factory, &[at(TIMER, "a")]);
}

pub(super) fn pages_join_while_some_come_and_go(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let mut expected: BTreeSet<_> = in_order().into_iter().collect();
    expected.iter().for_each(|timer| register(&mut bench, timer));
    let (mut seen, mut from) = (vec![], Bytes::new());
    loop {
        let answer = bench.read(everywhere(TIMER), Op::Timers { up_to: 300, token: &from, limit: 3 });
        let Answer::Timers { timers, token } = answer else { unreachable!("Timers answers timers") };
        seen.extend(timers);
        let Some(token) = token else { break };
        from = token;
        // The last timer of the page is removed, one is added before it and one behind it.
        let last = seen.last().unwrap().clone();
        bench.run(
            at_namespace(TIMER, std::str::from_utf8(&last.key).unwrap(), std::str::from_utf8(&last.namespace).unwrap()),
            Op::TimerDelete { time: last.time },
        );
        let count = i64::try_from(seen.len()).unwrap();
        register(&mut bench, &timer(-1_000 - count, "before", ""));
        if last.time < 200 {
            let behind = timer(200 + count, "behind", "");
            register(&mut bench, &behind);
            expected.insert(behind);
        }
    }
    assert_eq!(seen, expected.into_iter().filter(|timer| timer.time <= 300).collect::<Vec<_>>());
    let tiny = PageLimit { entries: 9, bytes: 1 };
    let mut first = 0;
    let more = bench.backend.timer_page(TIMER, None, i64::MAX, tiny, &mut |_| first += 1).unwrap();
    assert_eq!((first, more), (1, true), "a first timer is always returned");
}

/// More timers than any backend keeps in memory, with the first ones removed again and again.
pub(super) fn many_timers_fire_while_others_are_registered(factory: Factory<'_>) {
    const TIMERS: i64 = 24_000;
    let mut bench = Bench::new(factory);
    let key = |time: i64| format!("{}", time % 11);
    for time in (0..TIMERS).map(|i| i * 7919 % TIMERS) {
        bench.run(at(TIMER, &key(time)), Op::TimerRegister { time });
    }
    assert_eq!(bench.entries(TIMER), TIMERS as u64);
    let (mut next, mut added) = (0, TIMERS);
    while next < TIMERS + 3_000 {
        // One timer is due at once, two are far off, and one of these is deleted again.
        if next < 10_000 {
            register(&mut bench, &timer(next - 1, "early", ""));
            assert_eq!(bench.fire(i64::MAX, 1), (vec![timer(next - 1, "early", "")], true));
        }
        for time in [added, added + 1_000_000] {
            bench.run(at(TIMER, &key(time)), Op::TimerRegister { time });
        }
        bench.run(at(TIMER, &key(added + 1_000_000)), Op::TimerDelete { time: added + 1_000_000 });
        added += 1;
        let (fired, more) = bench.fire(i64::MAX, 3);
        let expected: Vec<_> = (next..next + 3).map(|time| timer(time, &key(time), "")).collect();
        assert_eq!((fired, more), (expected, true));
        next += 3;
        bench.backend.finish_batch().unwrap();
    }
    let left: Vec<_> = (next..added).map(|time| timer(time, &key(time), "")).collect();
    assert_eq!(bench.timers(i64::MAX, 0), left);
    assert_eq!(bench.replayed(factory).timers(i64::MAX, 0), left);
}

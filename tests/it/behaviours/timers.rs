//! Timers: they fire in order of time, each exactly once, whatever becomes of the backend.

use std::collections::BTreeMap;

use bytes::Bytes;
use dstl::{
    random::Random,
    state::{
        op::{Answer, Op, Timer},
        rocksdb::TimerService,
    },
    types::{KeyGroup, StateDescriptor, StateKind},
};

use super::{Bench, everywhere_with, group};

const SERVICES: [TimerService; 2] = [TimerService::RocksDb, TimerService::Heap];
const EVENT_TIME: usize = 0;
const PROCESSING_TIME: usize = 1;
const FIRED: usize = 2;
const END: i64 = i64::MAX;

fn states() -> Vec<StateDescriptor> {
    let state = |name: &str, kind| StateDescriptor::new(name, kind);
    let timers = ["event time", "processing time"].map(|name| state(name, StateKind::Timer));
    timers.into_iter().chain([state("fired", StateKind::List)]).collect()
}

fn timer(time: i64, key: &str, namespace: &str) -> Timer {
    let (key_group, copy) = (KeyGroup(group(key) as u16), |text: &str| Bytes::copy_from_slice(text.as_bytes()));
    Timer { time, key: copy(key), namespace: copy(namespace), key_group }
}

fn register(bench: &mut Bench, state: usize, time: i64, place: (&str, &str)) {
    bench.write(state, place, Op::TimerRegister { time });
}

/// All timers of all subtasks up to a time, in pages of `limit`; each subtask has its own in order.
fn timers(bench: &mut Bench, state: usize, up_to: i64, limit: u64) -> Vec<Timer> {
    let (mut all, subtasks) = (vec![], bench.subtasks.len());
    for subtask in 0..subtasks {
        let (mut own, mut from) = (vec![], Bytes::new());
        loop {
            let op = Op::Timers { up_to, token: &from, limit };
            let answer = bench.subtasks[subtask].apply(state, (None, b"", b""), op);
            let Some(Answer::Timers { timers, token }) = answer else { panic!("timers, not {answer:?}") };
            own.extend(timers);
            let Some(token) = token else { break };
            from = token;
        }
        assert!(own.is_sorted(), "{own:?}");
        all.extend(own);
    }
    all.sort();
    all
}

/// Fires up to `limit` timers of each subtask.
fn fire(bench: &mut Bench, state: usize, up_to: i64, limit: u64) -> Vec<Timer> {
    let mut all = vec![];
    for answer in bench.run_all(state, Op::TimersFire { up_to, limit }) {
        let Some(Answer::Fired { timers, .. }) = answer else { panic!("what was fired, not {answer:?}") };
        assert!(timers.is_sorted());
        all.extend(timers);
    }
    all.sort();
    all
}

#[tokio::test(start_paused = true)]
async fn timers_fire_in_order_once_and_not_again_after_a_restore() {
    everywhere_with(&SERVICES, states(), async |bench| {
        let mut left: Vec<_> = (0..300_i64).map(|n| timer(n % 40 - 20, &format!("key {}", n % 90), "w")).collect();
        left.extend([timer(END, "a", ""), timer(i64::MIN + 1, "a", ""), timer(5, "a", ""), timer(5, "a", "w")]);
        left.sort();
        left.dedup();
        for Timer { time, key, namespace, .. } in left.iter().rev() {
            let place = (std::str::from_utf8(key).unwrap(), std::str::from_utf8(namespace).unwrap());
            register(bench, EVENT_TIME, *time, place);
        }
        register(bench, PROCESSING_TIME, 1, ("other", ""));
        bench.halfway().await;
        // Removals that are in the log alone.
        assert_eq!(fire(bench, EVENT_TIME, -15, 0), left.extract_if(.., |timer| timer.time <= -15).collect::<Vec<_>>());
        for time in [5, 5, 6] {
            bench.write(EVENT_TIME, ("a", ""), Op::TimerDelete { time });
        }
        left.retain(|gone| *gone != timer(5, "a", ""));
        bench.turn().await;
        assert_eq!(timers(bench, EVENT_TIME, END, 7), left);
        assert_eq!(
            timers(bench, EVENT_TIME, 0, 0),
            left.iter().filter(|one| one.time <= 0).cloned().collect::<Vec<_>>()
        );
        assert_eq!(fire(bench, EVENT_TIME, -15, 0), [], "they fired before the restore");
        let due: Vec<_> = left.extract_if(.., |timer| timer.time <= 3).collect();
        assert_eq!(fire(bench, EVENT_TIME, 3, 0), due);
        // What was restored is deleted and comes back.
        bench.write(EVENT_TIME, ("a", "w"), Op::TimerDelete { time: 5 });
        bench.turn().await;
        register(bench, EVENT_TIME, 5, ("a", "w"));
        register(bench, EVENT_TIME, 5, ("a", "w"));
        bench.halfway().await;
        bench.turn().await;
        assert_eq!(timers(bench, EVENT_TIME, END, 0), left);
        assert_eq!(fire(bench, EVENT_TIME, END, 0), left);
        bench.turn().await;
        assert_eq!(timers(bench, EVENT_TIME, END, 0), []);
        assert_eq!(timers(bench, PROCESSING_TIME, END, 0), [timer(1, "other", "")], "states are independent");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn many_timers_are_restored_and_fired_by_limits() {
    everywhere_with(&SERVICES, states(), async |bench| {
        let random = Random::seeded(7);
        let mut model: BTreeMap<Timer, ()> = BTreeMap::new();
        let mut clock = 0;
        for round in 0..9 {
            for _ in 0..600 {
                let (time, key) = (clock + random.below(500) as i64, format!("key {}", random.below(200)));
                if random.below(8) == 0 {
                    bench.write(EVENT_TIME, (&key, ""), Op::TimerDelete { time });
                    model.remove(&timer(time, &key, ""));
                } else {
                    register(bench, EVENT_TIME, time, (&key, ""));
                    model.insert(timer(time, &key, ""), ());
                }
            }
            clock += 150;
            loop {
                let fired = fire(bench, EVENT_TIME, clock, 1 + random.below(50));
                let all_due = fired.iter().all(|timer| timer.time <= clock && model.remove(timer).is_some());
                assert!(all_due, "{fired:?} in {:?}", bench.setting);
                if fired.is_empty() {
                    break;
                }
            }
            assert!(model.keys().all(|timer| timer.time > clock), "all that were due fired");
            match round % 3 {
                0 => bench.halfway().await,
                2 => bench.turn().await,
                _ => {}
            }
            assert_eq!(timers(bench, EVENT_TIME, END, 0), model.keys().cloned().collect::<Vec<_>>());
        }
    })
    .await;
}

/// A task that reads what is due, and deletes each in the batch that writes what it leads to.
#[tokio::test(start_paused = true)]
async fn each_timer_leads_to_one_write_across_crashes() {
    everywhere_with(&SERVICES, states(), async |bench| {
        for n in 0..60_i64 {
            register(bench, PROCESSING_TIME, n, (&format!("key {}", n % 7), "w"));
        }
        bench.halfway().await;
        for clock in [10, 25, 40, 70] {
            for due in timers(bench, PROCESSING_TIME, clock, 0) {
                let key = std::str::from_utf8(&due.key).unwrap();
                let place = (key, "w");
                bench.write(FIRED, place, Op::ListAdd(&due.time.to_be_bytes()));
                bench.write(PROCESSING_TIME, place, Op::TimerDelete { time: due.time });
            }
            bench.turn().await;
        }
        assert_eq!(timers(bench, PROCESSING_TIME, END, 0), []);
        for key in 0..7 {
            let answer = bench.run(FIRED, (&format!("key {key}"), "w"), Op::ListGet { start: 0, token: &[], limit: 0 });
            let Some(Answer::Elements { elements, .. }) = answer else { panic!("elements, not {answer:?}") };
            let expected: Vec<_> = (0..60_i64).filter(|n| n % 7 == key).map(|n| n.to_be_bytes()).collect();
            assert_eq!(elements, expected.iter().map(|time| Bytes::copy_from_slice(time)).collect::<Vec<_>>());
        }
    })
    .await;
}

/// Everything of one key group, in pages of `limit`.
fn of_key_group(bench: &mut Bench, key_group: KeyGroup, limit: u64) -> (Vec<Timer>, Vec<Bytes>) {
    let has = |subtask: &super::Subtask| subtask.task.opened.shape.key_groups.contains(key_group);
    let subtask = bench.subtasks.iter_mut().find(|subtask| has(subtask)).unwrap();
    let place = (Some(key_group.0.into()), &b""[..], &b""[..]);
    let (mut timers, mut keys, mut from) = (vec![], vec![], Bytes::new());
    loop {
        let answer = subtask.apply(EVENT_TIME, place, Op::Timers { up_to: END, token: &from, limit });
        let Some(Answer::Timers { timers: page, token }) = answer else { panic!("timers, not {answer:?}") };
        assert!(limit == 0 || page.len() as u64 <= limit);
        timers.extend(page);
        let Some(token) = token else { break };
        from = token;
    }
    from.clear();
    loop {
        let answer = subtask.apply(EVENT_TIME, place, Op::Keys { all_namespaces: true, token: &from, limit });
        let Some(Answer::Keys { keys: page, token }) = answer else { panic!("keys, not {answer:?}") };
        keys.extend(page.into_iter().map(|(group, key, _)| {
            assert_eq!(group, key_group);
            key
        }));
        let Some(token) = token else { break };
        from = token;
    }
    keys.sort();
    (timers, keys)
}

#[tokio::test(start_paused = true)]
async fn timers_are_counted_and_read_of_one_key_group() {
    everywhere_with(&SERVICES, states(), async |bench| {
        let mut all: Vec<_> = (0..200_i64).map(|n| timer(n % 23, &format!("key {}", n % 50), "")).collect();
        all.sort();
        all.dedup();
        for Timer { time, key, .. } in &all {
            register(bench, EVENT_TIME, *time, (std::str::from_utf8(key).unwrap(), ""));
        }
        bench.halfway().await;
        let gone = all.remove(17);
        bench.write(EVENT_TIME, (std::str::from_utf8(&gone.key).unwrap(), ""), Op::TimerDelete { time: gone.time });
        bench.turn().await;
        for (state, expected) in [(EVENT_TIME, all.len() as u64), (PROCESSING_TIME, 0)] {
            let counts = bench.run_all(state, Op::TimerCount).into_iter().map(|answer| match answer {
                Some(Answer::Count(count)) => count,
                other => panic!("a count, not {other:?}"),
            });
            assert_eq!(counts.sum::<u64>(), expected, "{:?}", bench.setting);
        }
        let groups = [all[0].key_group, all[40].key_group, all[90].key_group];
        for (key_group, limit) in groups.into_iter().flat_map(|group| [(group, 0), (group, 1), (group, 3)]) {
            let expected: Vec<_> = all.iter().filter(|timer| timer.key_group == key_group).cloned().collect();
            let keys: std::collections::BTreeSet<_> = expected.iter().map(|timer| timer.key.clone()).collect();
            let (found, of_keys) = of_key_group(bench, key_group, limit);
            assert_eq!(found, expected, "{key_group:?} by {limit} in {:?}", bench.setting);
            assert_eq!(of_keys, keys.into_iter().collect::<Vec<_>>());
        }
    })
    .await;
}

//! States whose entries live for some time.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use dstl::{
    state::{
        MapKeys,
        op::{Answer, Op},
    },
    types::{IncrementalCleanup, MergeFunction, StateDescriptor, StateKind, Ttl, TtlCleanup, TtlUpdate, TtlVisibility},
};

use super::{Bench, everywhere};

/// How long entries live, in milliseconds.
const LIVES: u64 = 100;

const VALUE: usize = 0;
const MAP: usize = 1;
const LIST: usize = 2;
const SUM: usize = 3;

const KEYS: [&str; 6] = ["a", "b", "c", "another", "d", "e"];
const NAMESPACES: [&str; 2] = ["", "window"];

fn states(ttl: Ttl) -> Vec<StateDescriptor> {
    let kinds =
        [StateKind::Value, StateKind::Map, StateKind::List].map(|kind| StateDescriptor::new(format!("{kind:?}"), kind));
    let sum = StateDescriptor::new("sum", StateKind::Value).with_merge(MergeFunction::SumI64);
    kinds.into_iter().chain([sum]).map(|state| StateDescriptor { ttl: Some(ttl), ..state }).collect()
}

/// With every clean-up that batches and materializations have.
fn cleaned() -> Ttl {
    let incremental = Some(IncrementalCleanup { entries: 3, every_batch: true });
    Ttl { cleanup: TtlCleanup { at_materialization: true, incremental, compaction: None }, ..Ttl::new(LIVES) }
}

fn places() -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYS.into_iter().flat_map(|key| NAMESPACES.map(|namespace| (key, namespace)))
}

fn pass(bench: &Bench, to: u64) {
    bench.world.time.store(to, Ordering::Relaxed);
}

/// Adds an entry to each state.
fn write(bench: &mut Bench, place: (&str, &str), text: &str) {
    let value = text.as_bytes();
    bench.write(VALUE, place, Op::Put(value));
    bench.write(MAP, place, Op::MapPut { map_key: value, value });
    bench.write(LIST, place, Op::ListAdd(value));
    bench.write(SUM, place, Op::Merge(&1_i64.to_le_bytes()));
}

/// Asserts that there are just these entries in the map and the list, and the last of them as value.
fn assert_has(bench: &mut Bench, place: (&str, &str), texts: &[&'static str], sum: Option<i64>) {
    let texts: Vec<_> = texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect();
    let setting = bench.setting;
    let number = sum.map(|sum| Bytes::copy_from_slice(&sum.to_le_bytes()));
    let entries = texts.iter().map(|text| (text.clone(), text.clone())).collect();
    for (state, op, expected) in [
        (VALUE, Op::Get, Answer::Value(texts.last().cloned())),
        (SUM, Op::Get, Answer::Value(number)),
        (MAP, Op::MapCount, Answer::Count(texts.len() as u64)),
        (MAP, Op::MapEntries { keys: MapKeys::default(), limit: 0 }, Answer::Entries { entries, more: false }),
        (LIST, Op::ListCount, Answer::Count(texts.len() as u64)),
        (
            LIST,
            Op::ListGet { start: 0, token: &[], limit: 0 },
            Answer::Elements { elements: texts.clone(), token: None },
        ),
    ] {
        assert_eq!(bench.run(state, place, op), Some(expected), "{place:?} in {setting:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn entries_expire_one_by_one_in_every_key_and_namespace() {
    everywhere(states(cleaned()), async |bench| {
        for (text, time) in [("a", 1_000), ("b", 1_040)] {
            pass(bench, time);
            places().for_each(|place| write(bench, place, text));
            bench.halfway().await;
        }
        pass(bench, 1_099);
        bench.turn().await;
        places().for_each(|place| assert_has(bench, place, &["a", "b"], Some(2)));
        pass(bench, 1_100);
        bench.turn().await;
        places().for_each(|place| assert_has(bench, place, &["b"], Some(2)));
        bench.halfway().await;
        places().step_by(2).for_each(|place| write(bench, place, "c"));
        bench.turn().await;
        pass(bench, 1_140);
        for (position, place) in places().enumerate() {
            let (texts, sum) = if position % 2 == 0 { (&["c"][..], Some(3)) } else { (&[][..], None) };
            assert_has(bench, place, texts, sum);
        }
        bench.turn().await;
        pass(bench, 1_200);
        places().for_each(|place| assert_has(bench, place, &[], None));
        places().for_each(|place| write(bench, place, "d"));
        bench.turn().await;
        places().for_each(|place| assert_has(bench, place, &["d"], Some(1)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_read_lives_on_where_reads_touch() {
    let touching = Ttl { update: TtlUpdate::OnReadAndWrite, ..cleaned() };
    everywhere(states(touching), async |bench| {
        for place in places() {
            write(bench, place, "a");
        }
        let read: Vec<_> = places().step_by(3).collect();
        for time in [1_090, 1_180, 1_270] {
            pass(bench, time);
            read.iter().for_each(|place| assert_has(bench, *place, &["a"], Some(1)));
            bench.halfway().await;
            bench.turn().await;
        }
        for place in places() {
            let (texts, sum) = if read.contains(&place) { (&["a"][..], Some(1)) } else { (&[][..], None) };
            assert_has(bench, place, texts, sum);
        }
        pass(bench, 1_370);
        bench.turn().await;
        places().for_each(|place| assert_has(bench, place, &[], None));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_cleaned_up_is_not_shown_again() {
    let shown = Ttl { visibility: TtlVisibility::ReturnExpiredIfNotCleanedUp, ..Ttl::new(LIVES) };
    let cleanup = TtlCleanup { at_materialization: false, incremental: None, compaction: None };
    everywhere(states(Ttl { cleanup, ..shown }), async |bench| {
        places().for_each(|place| write(bench, place, "a"));
        bench.halfway().await;
        pass(bench, 5_000);
        bench.turn().await;
        for (position, place) in places().enumerate() {
            let value = Some(Answer::Value(Some(Bytes::from_static(b"a"))));
            assert_eq!(bench.run(VALUE, place, Op::Get), value);
            if position % 2 == 0 {
                // Merging goes on with what is still there.
                bench.write(SUM, place, Op::Merge(&5_i64.to_le_bytes()));
            }
            assert_eq!(bench.run(LIST, place, Op::ListCount), Some(Answer::Count(1)));
            assert_eq!(bench.run(MAP, place, Op::MapContains { map_key: b"a" }), Some(Answer::Found(true)));
        }
        bench.turn().await;
        for (position, place) in places().enumerate() {
            let sum = if position % 2 == 0 { 6_i64 } else { 1 };
            let sum = Bytes::copy_from_slice(&sum.to_le_bytes());
            assert_eq!(bench.run(SUM, place, Op::Get), Some(Answer::Value(Some(sum))));
            assert_eq!(bench.run(VALUE, place, Op::Get), Some(Answer::Value(None)));
            assert_eq!(bench.run(LIST, place, Op::ListCount), Some(Answer::Count(0)));
            assert_eq!(bench.run(MAP, place, Op::MapCount), Some(Answer::Count(0)));
        }
    })
    .await;
}

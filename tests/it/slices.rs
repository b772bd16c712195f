//! Long batches of reads: cut into slices, answered as if at once, and over with whoever asked.

use std::pin::pin;

use dstl::{
    backend::{Operation, RestoreFrom},
    state::op::{Answer, Op},
    types::{InnerBackend, KeyGroupRange, StateDescriptor, StateId, StateKind, Ttl},
};

use super::support::{Daemon, Settings, Task, World, group_of, on_both};

const VALUE: StateId = StateId(1);
const MAP: StateId = StateId(3);
const AGING: StateId = StateId(4);

/// Batches that fill the maps, of so many entries each.
const BATCHES: u32 = 10;
const ENTRIES: u32 = 1_000;

/// Values that are read one by one.
const KEYS: u32 = 3_000;

/// An operation on a value.
fn at<'a>(groups: KeyGroupRange, key: &'a str, op: Op<'a>) -> Operation<'a> {
    let key_group = Some(group_of(groups, key));
    Operation { state: VALUE, key_group, key: key.as_bytes(), namespace: b"", op }
}

/// A task with two maps of ten thousand entries, one of them with a time to live.
async fn with_maps(daemon: &Daemon) -> Task {
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    let map = StateDescriptor::new("map", StateKind::Map);
    let aging = StateDescriptor { ttl: Some(Ttl::new(1 << 40)), ..StateDescriptor::new("aging", StateKind::Map) };
    let backend = task.opened.backend.clone();
    assert_eq!(backend.register(backend.epoch(), &[map, aging]).unwrap(), [MAP, AGING]);
    let key_group = Some(group_of(task.opened.shape.key_groups, "key"));
    for batch in 0..BATCHES {
        let map_keys: Vec<[u8; 4]> = (0..ENTRIES).map(|n| (batch * ENTRIES + n).to_be_bytes()).collect();
        let put = |state| {
            let entry = move |map_key| Op::MapPut { map_key, value: b"value" };
            let operation = move |op| Operation { state, key_group, key: b"key", namespace: b"", op };
            map_keys.iter().map(move |map_key| operation(entry(&map_key[..])))
        };
        let operations: Vec<_> = put(MAP).chain(put(AGING)).collect();
        task.session.acknowledgement();
        task.apply(batch.into(), 0, &operations).unwrap();
    }
    task
}

async fn a_long_batch_is_answered_as_if_at_once_and_ends_with_its_caller(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let mut task = with_maps(&daemon).await;
    let key_group = Some(group_of(task.opened.shape.key_groups, "key"));
    let operation = |state, op| Operation { state, key_group, key: b"key", namespace: b"", op };
    let mut operations = vec![operation(MAP, Op::MapCount), operation(AGING, Op::MapCount)];
    operations.extend((0..100).map(|_| operation(VALUE, Op::Get)));
    operations.push(operation(MAP, Op::MapPut { map_key: b"one more", value: b"" }));
    operations.push(operation(MAP, Op::MapCount));
    let result = task.apply(BATCHES.into(), 0, &operations).unwrap().unwrap();
    let count = |(at, answer): &(u32, Option<Answer>)| match answer {
        Some(Answer::Count(count)) => Some((*at, *count)),
        _ => None,
    };
    let counts: Vec<_> = result.answers.iter().filter_map(count).collect();
    assert_eq!(counts, [(0, 10_000), (1, 10_000), (103, 10_001)]);
    assert_eq!(result.answers.len(), 103, "each read, and no write");
    let backend = task.opened.backend.clone();
    let counts = vec![operation(AGING, Op::MapCount); 100];
    {
        let mut reading = pin!(backend.apply_batch(backend.epoch(), None, 0, &counts));
        assert!(futures::poll!(reading.as_mut()).is_pending(), "others are let in between two slices");
    }
    // Nobody waits for what is over.
    let (result, acknowledgement) = backend.apply_batch(backend.epoch(), None, 0, &counts).await.unwrap();
    assert!(result.answers.iter().all(|(_, answer)| *answer == Some(Answer::Count(10_000))));
    assert_eq!((result.answers.len(), acknowledgement.applied_to), (100, u64::from(BATCHES) + 1));
}

async fn values_are_read_many_at_a_time_in_memory_and_before_the_writes_behind_them(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    let groups = task.opened.shape.key_groups;
    let keys: Vec<String> = (0..KEYS).map(|n| format!("key {n}")).collect();
    let puts: Vec<_> = keys.iter().skip(1).map(|key| at(groups, key, Op::Put(key.as_bytes()))).collect();
    task.apply(0, 0, &puts).unwrap();
    let mut operations: Vec<_> = keys.iter().map(|key| at(groups, key, Op::Get)).collect();
    let backend = task.opened.backend.clone();
    for (reads, at_once) in [(&operations[..500], inner == InnerBackend::HashMap), (&operations[..], false)] {
        let mut reading = pin!(backend.apply_batch(backend.epoch(), None, 0, reads));
        assert_eq!(futures::poll!(reading.as_mut()).is_ready(), at_once, "{} reads", reads.len());
    }
    operations.extend([at(groups, &keys[0], Op::Put(b"late")), at(groups, &keys[0], Op::Get)]);
    let result = task.apply(1, 0, &operations).unwrap().unwrap();
    let value = |key: &String| Some(Answer::Value(Some(key.clone().into())));
    let mut expected: Vec<_> = (0..).zip(keys.iter().map(value)).collect();
    expected[0].1 = Some(Answer::Value(None));
    expected.push((KEYS + 1, value(&"late".to_owned())));
    assert_eq!(result.answers, expected);
}

on_both! {
    a_long_batch_is_answered_as_if_at_once_and_ends_with_its_caller
    values_are_read_many_at_a_time_in_memory_and_before_the_writes_behind_them
}

//! Tests of the change set reader.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;

use object_store::{ObjectStoreExt as _, memory::InMemory};
use uuid::Uuid;

use super::*;
use crate::{
    changelog::{
        block::BlockBuilder,
        compression::Compression,
        segment::{ChangeSet, encode},
    },
    metrics::Metrics,
    object::RetryOptions,
    random::Random,
    tasks::Tasks,
    types::{BackendId, KeyGroup, Name, Sqn},
};

fn key_groups(first: u32, last: u32) -> KeyGroupRange {
    KeyGroupRange::new(first, last).unwrap()
}

/// A store with `segments` segments of `sets` change sets each, of 50 batches of about 1 kB, change set `i` in key
/// group `i`; and the handles in order.
async fn stored(segments: u64, sets: u64, compression: Compression) -> (Arc<InMemory>, Store, Vec<SegmentHandle>) {
    let memory = Arc::new(InMemory::new());
    let mut builder = BlockBuilder::new();
    let mut handles = Vec::new();
    let job = Name::new("job").unwrap();
    let mut sqn = Sqn::first_of(1);
    for number in 0..segments {
        let id = SegmentId { job: job.clone(), instance: Uuid::from_u128(1), number };
        let sets: Vec<_> = (0..sets)
            .map(|set| {
                for _ in 0..50 {
                    builder.begin_batch(sqn, 9);
                    builder
                        .push(KeyGroup(u16::try_from(set).unwrap()), |out| out.extend_from_slice(&[set as u8; 1_000]));
                    builder.end_batch();
                    sqn = sqn.next();
                }
                let backend = BackendId { job: job.clone(), operator: Name::new("op").unwrap(), subtask: 0 };
                ChangeSet { backend, epoch: 1, body: builder.finish().unwrap() }
            })
            .collect();
        let segment = encode(id.clone(), &sets, compression);
        memory.put(&path(&id), segment.payload).await.unwrap();
        handles.extend(segment.handles);
    }
    let store =
        Store::new(memory.clone(), Path::default(), RetryOptions::default(), &Metrics::new(), Random::seeded(1));
    (memory, store, handles)
}

fn segment_of(handle: &SegmentHandle) -> &SegmentId {
    handle.segment().unwrap()
}

fn options(parallel_reads: usize, max_bytes: u64) -> ReplayOptions {
    ReplayOptions { key_groups: vec![key_groups(0, 127)], parallel_reads, max_bytes, retry: Retry::forever() }
}

async fn damage(memory: &InMemory, id: &SegmentId, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = memory.get(&path(id)).await.unwrap().bytes().await.unwrap().to_vec();
    change(&mut bytes);
    memory.put(&path(id), bytes.into()).await.unwrap();
}

#[tokio::test]
async fn a_replay_brings_every_batch_in_order_whatever_its_bounds() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let (_, store, handles) = stored(7, 3, compression).await;
        for (parallel, max_bytes) in [(1, 1), (4, 1), (3, 200_000), (50, u64::MAX)] {
            let mut stream = ReplayStream::new(store.clone(), Tasks::default(), &handles, options(parallel, max_bytes));
            let mut next = Sqn::first_of(1);
            while let Some(block) = stream.next().await {
                for batch in block.unwrap().batches() {
                    let batch = batch.unwrap();
                    assert_eq!(batch.sqn, next);
                    next = next.next();
                }
            }
            assert_eq!(next.0 - Sqn::first_of(1).0, 7 * 3 * 50);
            assert_eq!(stream.remaining_bytes(), 0);
        }
    }
}

#[tokio::test]
async fn only_blocks_of_the_wanted_key_groups_are_read() {
    let (_, store, handles) = stored(2, 3, Compression::None).await;
    let wanted = key_groups(1, 1);
    let mut stream = ReplayStream::new(
        store.clone(),
        Tasks::default(),
        &handles,
        ReplayOptions { key_groups: vec![wanted], ..options(2, 1) },
    );
    let mut ranges = Vec::new();
    while let Some(block) = stream.next().await {
        ranges.push(block.unwrap().range);
    }
    assert_eq!(ranges, [handles[1].range, handles[4].range]);
    assert!(read_change_set(&store, &handles[0], wanted, Retry::forever()).await.unwrap().is_empty());
}

#[tokio::test]
async fn neighbours_in_a_segment_are_one_read() {
    let (_, _, handles) = stored(2, 3, Compression::None).await;
    let reads = plan::reads(&handles, &[key_groups(0, 127)]);
    assert_eq!(reads.iter().map(|read| read.blocks.len()).collect::<Vec<_>>(), [3, 3]);
    let around_a_gap = plan::reads(&[handles[0].clone(), handles[2].clone()], &[key_groups(0, 127)]);
    assert_eq!(around_a_gap.len(), 1);
    let backwards = plan::reads(&[handles[2].clone(), handles[0].clone()], &[key_groups(0, 127)]);
    assert_eq!(backwards.len(), 2);
}

#[tokio::test]
async fn a_flipped_bit_is_named_with_object_and_place_after_what_came_before() {
    let (memory, store, handles) = stored(3, 1, Compression::None).await;
    let offset = handles[1].blocks[0].offset;
    damage(&memory, segment_of(&handles[1]), |bytes| bytes[offset as usize + 77] ^= 1).await;
    let mut stream = ReplayStream::new(store, Tasks::default(), &handles, options(3, u64::MAX));
    assert_eq!(stream.next().await.unwrap().unwrap().range, handles[0].range);
    match stream.next().await.unwrap().unwrap_err() {
        ReadError::Corrupt { object, offset: at, what } => {
            assert_eq!((object, at), (path(segment_of(&handles[1])).to_string(), offset));
            assert!(what.contains("checksum"), "{what}");
        }
        other => panic!("{other}"),
    }
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_missing_and_a_truncated_segment_are_named() {
    let (memory, store, handles) = stored(2, 1, Compression::None).await;
    memory.delete(&path(segment_of(&handles[0]))).await.unwrap();
    damage(&memory, segment_of(&handles[1]), |bytes| bytes.truncate(1_000)).await;
    let missing = read_change_set(&store, &handles[0], key_groups(0, 1), Retry::forever()).await.unwrap_err();
    assert!(matches!(missing, ReadError::Missing { object } if object == path(segment_of(&handles[0])).to_string()));
    let truncated = read_change_set(&store, &handles[1], key_groups(0, 1), Retry::forever()).await.unwrap_err();
    assert!(matches!(truncated, ReadError::Corrupt { offset: 1_000, .. }), "{truncated}");
}

#[tokio::test]
async fn a_segment_under_anothers_name_is_recognised() {
    let (memory, store, handles) = stored(2, 1, Compression::None).await;
    let ids = [segment_of(&handles[0]), segment_of(&handles[1])];
    memory.copy(&path(ids[0]), &path(ids[1])).await.unwrap();
    read_index(&store, ids[0], Retry::forever()).await.unwrap();
    let error = read_index(&store, ids[1], Retry::forever()).await.unwrap_err();
    assert!(error.to_string().contains("holds segment"), "{error}");
}

#[tokio::test]
async fn a_dropped_replay_ends_its_reads_and_an_ended_runtime_is_an_error() {
    let (_, store, handles) = stored(3, 1, Compression::None).await;
    let tasks = Tasks::default();
    let mut stream = ReplayStream::new(store, tasks.clone(), &handles, options(3, u64::MAX));
    stream.next().await.unwrap().unwrap();
    tasks.abort_all();
    while let Some(block) = stream.next().await {
        match block {
            Ok(_) => {}
            Err(error) => assert!(matches!(error, ReadError::Stopped { .. }), "{error}"),
        }
    }
}

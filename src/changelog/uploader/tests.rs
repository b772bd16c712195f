//! Tests of the uploads of a job.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::{future::Future, time::Duration};

use object_store::{
    ObjectStoreExt as _,
    memory::InMemory,
    throttle::{ThrottleConfig, ThrottledStore},
};
use tokio::sync::oneshot;

use super::*;
use crate::{
    changelog::{
        block::BlockBuilder,
        metrics::UploadMetrics,
        reader::{read_change_set, read_index},
    },
    metrics::Metrics,
    object::{ObjectName, Path, Retry, RetryOptions},
    random::Random,
    types::{KeyGroup, KeyGroupRange, Sqn},
};

const INSTANCE: Uuid = Uuid::from_u128(0xabc);

struct Fixture {
    memory: Arc<ThrottledStore<InMemory>>,
    store: Store,
    tasks: Tasks,
    metrics: Metrics,
    client: Client,
}

fn job() -> Name {
    Name::new("job").unwrap()
}

fn segment(number: u64) -> Path {
    ObjectName::Segment { job: job(), instance: INSTANCE, number }.path()
}

fn start(options: UploadOptions) -> Fixture {
    start_slow(options, Duration::ZERO)
}

/// Each create takes `wait_put_per_call`.
fn start_slow(options: UploadOptions, wait_put_per_call: Duration) -> Fixture {
    let slow = ThrottleConfig { wait_put_per_call, ..ThrottleConfig::default() };
    let memory = Arc::new(ThrottledStore::new(InMemory::new(), slow));
    let (metrics, tasks) = (Metrics::new(), Tasks::default());
    let random = Random::seeded(1);
    let store = Store::new(memory.clone(), Path::default(), RetryOptions::default(), &metrics, random);
    let edge = UploadEdge {
        store: store.clone(),
        tasks: tasks.clone(),
        numbers: SegmentNumbers::new(INSTANCE),
        metrics: UploadMetrics::register(&metrics).of_job(&job()),
        entry_of: |_| None,
    };
    Fixture { memory, store, tasks, metrics, client: Client::start(job(), options, edge) }
}

/// A change set of 100 bytes, in one change after `sqn` others.
fn set(subtask: u32, sqn: u64) -> ChangeSet {
    let mut builder = BlockBuilder::new();
    builder.begin_batch(Sqn(sqn), 5);
    builder.push(KeyGroup(u16::try_from(subtask).unwrap()), |out| out.extend_from_slice(&[7; 95]));
    builder.end_batch();
    let backend = BackendId { job: job(), operator: Name::new("op").unwrap(), subtask };
    ChangeSet { backend, epoch: 1, body: builder.finish().unwrap() }
}

impl Fixture {
    fn submit(&self, set: ChangeSet, urgent: bool) -> impl Future<Output = Result<SegmentHandle, UploadError>> + use<> {
        let (send, outcome) = oneshot::channel();
        self.client.submit(Submission { set, urgent, done: Box::new(|done| send.send(done).unwrap()) });
        async { outcome.await.unwrap() }
    }

    fn metric(&self, name: &str) -> String {
        let text = self.metrics.encode();
        let line = text.lines().find(|line| line.starts_with(&format!("dstl_changelog_{name}{{job=\"job\"}} ")));
        line.and_then(|line| line.rsplit(' ').next()).unwrap_or("none").to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn change_sets_of_several_backends_share_a_segment_and_read_back() {
    let fixture = start(UploadOptions::default());
    let _writers: Vec<_> = (0..3).map(|_| fixture.client.writer()).collect();
    let sets = [set(1, 0), set(0, 0), set(1, 1)];
    let begun = tokio::time::Instant::now();
    let outcomes = sets.clone().map(|set| fixture.submit(set, false));
    let mut numbers = Vec::new();
    for (outcome, set) in outcomes.into_iter().zip(&sets) {
        let handle = outcome.await.unwrap();
        let key_groups = KeyGroupRange::new(0, 127).unwrap();
        let blocks = read_change_set(&fixture.store, &handle, key_groups, Retry::forever()).await.unwrap();
        assert_eq!(blocks[0].bytes, set.body.blocks[0].bytes);
        assert_eq!(handle.range, set.body.range);
        numbers.push(handle.segment().unwrap().number);
    }
    assert_eq!(begun.elapsed(), Duration::from_millis(10), "the persist delay");
    assert_eq!(numbers, [1, 1, 1]);
    let id = SegmentId { job: job(), instance: INSTANCE, number: 1 };
    let index = read_index(&fixture.store, &id, Retry::forever()).await.unwrap();
    let order: Vec<_> = index.sets.iter().map(|set| (set.subtask, set.range.from)).collect();
    assert_eq!(order, [(0, Sqn(0)), (1, Sqn(0)), (1, Sqn(1))], "neighbours of one backend, in their order");
}

#[tokio::test(start_paused = true)]
async fn a_single_backend_does_not_wait_and_an_urgent_set_neither() {
    let fixture = start(UploadOptions::default());
    let first = fixture.client.writer();
    let begun = tokio::time::Instant::now();
    fixture.submit(set(0, 0), false).await.unwrap();
    let _second = fixture.client.writer();
    fixture.submit(set(0, 1), true).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let waiting = fixture.submit(set(0, 2), false);
    drop(first);
    waiting.await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO, "the one that left is not waited for");
}

#[tokio::test(start_paused = true)]
async fn metrics_count_exactly() {
    let fixture = start(UploadOptions::default());
    let _writers: Vec<_> = (0..3).map(|_| fixture.client.writer()).collect();
    let waiting = [fixture.submit(set(0, 0), false), fixture.submit(set(1, 0), false)];
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!((fixture.metric("waiting_change_sets"), fixture.metric("waiting_bytes")), ("2".into(), "200".into()));
    for outcome in waiting {
        outcome.await.unwrap();
    }
    fixture.submit(set(2, 0), true).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut stored = 0;
    for number in 1..=2 {
        let path = segment(number);
        stored += fixture.memory.head(&path).await.unwrap().size;
    }
    let expected = [
        ("uploads_total", "2".to_owned()),
        ("upload_failures_total", "0".to_owned()),
        ("upload_conflicts_total", "0".to_owned()),
        ("uploaded_bytes_total", "300".to_owned()),
        ("stored_bytes_total", stored.to_string()),
        ("segment_size_bytes_sum", format!("{stored}.0")),
        ("segment_size_bytes_count", "2".to_owned()),
        ("segment_change_sets_sum", "3.0".to_owned()),
        ("segment_change_sets_count", "2".to_owned()),
        ("upload_attempts_sum", "2.0".to_owned()),
        ("upload_attempts_count", "2".to_owned()),
        ("upload_duration_seconds_count", "2".to_owned()),
        ("upload_duration_seconds_sum", "0.0".to_owned()),
        ("waiting_change_sets", "0".to_owned()),
        ("waiting_bytes", "0".to_owned()),
        ("uploads_in_flight", "0".to_owned()),
    ];
    for (name, value) in expected {
        assert_eq!(fixture.metric(name), value, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_taken_name_costs_another_number_and_harms_neither_object() {
    let fixture = start(UploadOptions::default());
    let taken = segment(1);
    fixture.memory.put(&taken, "somebody else's".into()).await.unwrap();
    let handle = fixture.submit(set(0, 0), true).await.unwrap();
    assert_eq!(handle.segment().unwrap().number, 2);
    read_index(&fixture.store, handle.segment().unwrap(), Retry::forever()).await.unwrap();
    assert_eq!(fixture.memory.get(&taken).await.unwrap().bytes().await.unwrap(), "somebody else's");
    assert_eq!((fixture.metric("upload_conflicts_total"), fixture.metric("uploads_total")), ("1".into(), "1".into()));
}

#[tokio::test(start_paused = true)]
async fn withdrawn_change_sets_are_cancelled_and_the_neighbours_are_uploaded() {
    let fixture = start(UploadOptions::default());
    let _writers: Vec<_> = (0..3).map(|_| fixture.client.writer()).collect();
    let (withdrawn, kept) = (fixture.submit(set(0, 0), false), fixture.submit(set(1, 0), false));
    fixture.client.withdraw(&set(0, 0).backend, 1);
    assert!(matches!(withdrawn.await, Err(UploadError::Cancelled)));
    let handle = kept.await.unwrap();
    let index = read_index(&fixture.store, handle.segment().unwrap(), Retry::forever()).await.unwrap();
    assert_eq!(index.sets.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn low_water_passes_a_segment_only_after_its_outcome_was_told() {
    let fixture = start(UploadOptions { compression: Compression::Zstd, ..UploadOptions::default() });
    assert_eq!(fixture.client.low_water(), 1);
    let (send, seen) = oneshot::channel();
    let client = fixture.client.clone();
    let done = move |_| send.send(client.low_water()).unwrap();
    fixture.client.submit(Submission { set: set(0, 0), urgent: true, done: Box::new(done) });
    assert_eq!(seen.await.unwrap(), 1);
    tokio::task::yield_now().await;
    assert_eq!(fixture.client.low_water(), 2);
}

#[tokio::test(start_paused = true)]
async fn when_the_last_client_goes_what_waits_is_cancelled_and_what_is_in_flight_finishes() {
    let options = UploadOptions { num_threads: 1, ..UploadOptions::default() };
    let fixture = start_slow(options, Duration::from_millis(50));
    let (in_flight, waiting) = (fixture.submit(set(0, 0), true), fixture.submit(set(0, 1), true));
    let Fixture { client, tasks: _tasks, .. } = fixture;
    drop(client);
    assert!(matches!(waiting.await, Err(UploadError::Cancelled)));
    in_flight.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_finishes_though_it_is_withdrawn() {
    let fixture = start_slow(UploadOptions::default(), Duration::from_millis(50));
    let in_flight = fixture.submit(set(0, 0), true);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!((fixture.metric("uploads_in_flight"), fixture.client.low_water()), ("1".into(), 1));
    fixture.client.withdraw(&set(0, 0).backend, 1);
    in_flight.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_more_segments_are_in_flight_than_there_are_slots() {
    let batch = BatchOptions { persist_size_threshold: 0, ..BatchOptions::default() };
    let options = UploadOptions { batch, num_threads: 2, ..UploadOptions::default() };
    let fixture = start_slow(options, Duration::from_millis(50));
    let begun = tokio::time::Instant::now();
    for outcome in (0..6).map(|sqn| fixture.submit(set(0, sqn), false)).collect::<Vec<_>>() {
        outcome.await.unwrap();
    }
    assert_eq!(begun.elapsed(), Duration::from_millis(150));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_worker_tells_every_submitter() {
    let fixture = start(UploadOptions::default());
    let _writers: Vec<_> = (0..2).map(|_| fixture.client.writer()).collect();
    let waiting = fixture.submit(set(0, 0), false);
    tokio::task::yield_now().await;
    fixture.tasks.abort_all();
    assert!(matches!(waiting.await, Err(UploadError::Stopped)));
    tokio::task::yield_now().await;
    assert!(matches!(fixture.submit(set(0, 1), false).await, Err(UploadError::Stopped)));
}

#[tokio::test(start_paused = true)]
async fn a_backlog_goes_in_full_segments_and_every_set_arrives_once() {
    let batch = BatchOptions { persist_size_threshold: 250, ..BatchOptions::default() };
    let fixture = start(UploadOptions { batch, num_threads: 2, ..UploadOptions::default() });
    let _writers: Vec<_> = (0..2).map(|_| fixture.client.writer()).collect();
    let outcomes: Vec<_> = (0..10).map(|sqn| fixture.submit(set(0, sqn), false)).collect();
    let mut numbers = Vec::new();
    for (sqn, outcome) in outcomes.into_iter().enumerate() {
        let handle = outcome.await.unwrap();
        assert_eq!(handle.range.from, Sqn(sqn as u64));
        numbers.push(handle.segment().unwrap().number);
    }
    assert_eq!(numbers, [1, 1, 1, 2, 2, 2, 3, 3, 3, 4]);
}

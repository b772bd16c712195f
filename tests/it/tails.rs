//! Inline tails: a checkpoint with few changes is one write, bounded whatever lies before it, and restores like any
//! other.

use std::time::Duration;

use dstl::{
    backend::{BackendOptions, RestoreFrom, SessionEvent},
    checkpoint::{index::INLINE_BYTES, job, ledger::NoticeKind},
    object::Retry,
    types::{InnerBackend, Name},
};

use crate::support::{Daemon, Settings, Task, World, on_both};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };

/// The threshold of these tests.
const SHORT: usize = 2_000;

fn settings(inner: InnerBackend, seed: u64) -> Settings {
    let settings = Settings::on_request(inner, seed);
    let options = BackendOptions { data_inline_threshold: SHORT, ..settings.options };
    Settings { options, ..settings }
}

/// Puts one value of so many bytes and takes checkpoint `id`.
async fn step(task: &mut Task, id: u64, bytes: usize) {
    let value = vec![u8::try_from(id % 251).unwrap(); bytes];
    task.put(id - 1, &[(&format!("key {id}"), &value)]);
    task.checkpoint(id).await;
    task.notice(NoticeKind::Complete, id);
}

/// Asserts that the task has what steps 1 to `last` put, each of `bytes`; its next batch is 0.
fn check(task: &mut Task, last: u64, bytes: usize) {
    for id in 1..=last {
        let value = vec![u8::try_from(id % 251).unwrap(); bytes];
        assert_eq!(task.get(id - 1, &format!("key {id}")), Some(value), "key {id}");
    }
    assert_eq!(task.get(last, &format!("key {}", last + 1)), None);
}

/// The bytes of the newest manifest of each chain.
async fn manifest_bytes(world: &World) -> Vec<usize> {
    let heads = job::read_heads(&world.store(), &Name::new("job").unwrap(), Retry::none()).await.unwrap();
    heads.iter().map(|head| head.encode().len()).collect()
}

async fn a_short_tail_costs_one_write_and_restores(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    for id in 1..=5 {
        let before = daemon.faults.counts().puts;
        step(&mut task, id, 100).await;
        assert_eq!(daemon.faults.counts().puts - before, 1, "checkpoint {id}");
        assert_eq!(task.session.acknowledgement().0.persisted_to, id);
    }
    assert_eq!(world.paths("segments").await, Vec::<String>::new());
    assert!(daemon.metrics.encode().contains("dstl_checkpoint_inlined_total 5\n"));
    let before = daemon.faults.counts().puts;
    step(&mut task, 6, SHORT + 1).await;
    assert_eq!(daemon.faults.counts().puts - before, 2, "a long one goes into a segment");
    step(&mut task, 7, 100).await;
    daemon.crash();
    let daemon = Daemon::start(&world, settings(inner, 2));
    let mut task = daemon.task(2, LATEST).await.unwrap();
    assert_eq!(task.opened.restored.changes, 7);
    assert_eq!(task.get(0, "key 5"), Some(vec![5; 100]));
    assert_eq!(task.get(1, "key 6"), Some(vec![6; SHORT + 1]));
    assert_eq!(task.get(2, "key 7"), Some(vec![7; 100]));
}

async fn what_a_checkpoint_writes_stays_bounded_over_many_tails_and_rescaling(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    let last = 300;
    for id in 1..=last {
        step(&mut task, id, 1_500).await;
        if id % 30 == 0 {
            let bytes = manifest_bytes(&world).await[0];
            assert!(bytes < INLINE_BYTES + 2 * SHORT + 40_000, "{bytes} bytes after {id} tails");
        }
    }
    assert!(!world.paths("index").await.is_empty(), "older tails lie in pages");
    daemon.crash();
    // Two subtasks go on from what one had: its tails and pages are imported, and stand for themselves.
    let daemon = Daemon::start(&world, settings(inner, 2));
    for subtask in 0..2 {
        let mut task = daemon.subtask(subtask, 2, 2, LATEST).await.unwrap();
        assert!(task.opened.restored.changes > 0);
        task.put(0, &[("new", b"value")]);
        task.checkpoint(last + 1).await;
        task.notice(NoticeKind::Complete, last + 1);
    }
    for bytes in manifest_bytes(&world).await {
        assert!(bytes < INLINE_BYTES + 2 * SHORT + 60_000, "{bytes} bytes with imports");
    }
    daemon.crash();
    let daemon = Daemon::start(&world, settings(inner, 3));
    let mut task = daemon.task(3, LATEST).await.unwrap();
    let found: u64 = task.opened.backend.describe().states[0].entries;
    assert_eq!(found, last + 2, "all keys, and one new per subtask");
    let before = daemon.faults.counts().puts;
    task.put(0, &[("newest", b"value")]);
    task.checkpoint(last + 2).await;
    assert_eq!(daemon.faults.counts().puts - before, 1);
}

async fn a_tail_whose_manifest_is_lost_was_never_there(inner: InnerBackend) {
    let world = World::new();
    let zombie = Daemon::start(&world, settings(inner, 1));
    let mut stale = zombie.task(1, LATEST).await.unwrap();
    step(&mut stale, 1, 100).await;
    let successor = Daemon::start(&world, settings(inner, 2));
    let mut task = successor.task(2, LATEST).await.unwrap();
    stale.put(1, &[("key 2", b"of a zombie")]);
    stale.barrier(2);
    let refused = stale.event().await;
    assert!(matches!(refused, SessionEvent::CheckpointFailed { id: 2, .. }), "{refused:?}");
    assert_eq!(task.get(0, "key 2"), None);
    task.put(1, &[("key 2", b"mine")]);
    task.checkpoint(2).await;
    successor.crash();
    let daemon = Daemon::start(&world, settings(inner, 3));
    let mut task = daemon.task(3, LATEST).await.unwrap();
    assert_eq!(task.get(0, "key 2"), Some(b"mine".to_vec()));
}

async fn tails_become_durable_with_any_manifest_after_an_outage(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    step(&mut task, 1, 100).await;
    daemon.faults.set_outage(true);
    for id in 2..=4 {
        let value = [u8::try_from(id).unwrap(); 100];
        task.put(id - 1, &[(&format!("key {id}"), &value)]);
        task.barrier(id);
        tokio::time::sleep(Duration::from_millis(100)).await;
        task.notice(NoticeKind::Abort, id);
        let failed = task.event().await;
        assert!(matches!(failed, SessionEvent::CheckpointFailed { .. }), "{failed:?}");
    }
    assert_eq!(task.session.acknowledgement().0.persisted_to, 1, "nothing is durable before its manifest is");
    daemon.faults.set_outage(false);
    task.session.persist(1).unwrap();
    let persisted = task.event().await;
    assert!(matches!(persisted, SessionEvent::Persisted { persisted_to: 4, .. }), "{persisted:?}");
    task.checkpoint(5).await;
    daemon.crash();
    let daemon = Daemon::start(&world, settings(inner, 2));
    check(&mut daemon.task(2, LATEST).await.unwrap(), 4, 100);
}

async fn a_materialization_truncates_tails(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    for id in 1..=5 {
        step(&mut task, id, 1_000).await;
    }
    let backend = task.opened.backend.clone();
    backend.materialize(backend.epoch()).await.unwrap();
    for id in 6..=9 {
        step(&mut task, id, 1_000).await;
    }
    task.checkpoint(10).await;
    let heads = job::read_heads(&world.store(), &Name::new("job").unwrap(), Retry::none()).await.unwrap();
    let tails: Vec<_> = heads[0].runs.values().flat_map(|run| &run.handles).collect();
    assert_eq!(tails.len(), 4, "{tails:?}");
    daemon.crash();
    let daemon = Daemon::start(&world, settings(inner, 2));
    check(&mut daemon.task(2, LATEST).await.unwrap(), 9, 1_000);
}

async fn a_threshold_of_0_writes_segments(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    step(&mut task, 1, 100).await;
    assert_eq!(world.paths("segments").await.len(), 1);
}

on_both! {
    a_short_tail_costs_one_write_and_restores
    what_a_checkpoint_writes_stays_bounded_over_many_tails_and_rescaling
    a_tail_whose_manifest_is_lost_was_never_there
    tails_become_durable_with_any_manifest_after_an_outage
    a_materialization_truncates_tails
    a_threshold_of_0_writes_segments
}

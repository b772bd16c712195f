//! The five ways in which Flink's changelog state backend fails, each as a test that it does not happen here.

use std::time::Duration;

use dstl::{
    backend::{BackendOptions, RestoreFrom, SessionEvent},
    checkpoint::{
        collect::{self, SweepOptions},
        ledger::{NoticeKind, Retention},
    },
    error::Reason,
    object::{Retry, faulty::FaultPlan},
    types::{InnerBackend, Name},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    gc::everything_named_is_there,
    support::{Daemon, Settings, Task, World, on_both},
    vanish::copy_without,
    windows::merge_crash_and_compare,
};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };

// 1. After two windows that are not empty have merged, no checkpoint restores, because replay needs the user's
//    function.
on_both! {
    merged_namespaces_cannot_be_replayed_elsewhere_but_are_here_from_the_log_alone: |inner| super::merge_crash_and_compare(inner, None);
    merged_namespaces_cannot_be_replayed_elsewhere_but_are_here_over_a_base_without_them: |inner| super::merge_crash_and_compare(inner, Some(true));
    merged_namespaces_cannot_be_replayed_elsewhere_but_are_here_over_a_base_with_them: |inner| super::merge_crash_and_compare(inner, Some(false));
    a_failed_close_counts_as_success_elsewhere_but_never_completes_a_checkpoint_here: super::failed_closes;
    a_closing_task_harms_its_neighbours_elsewhere_but_takes_no_shared_segment_with_it_here: super::closing_beside_a_neighbour;
    a_closing_task_harms_its_neighbours_elsewhere_but_leaves_no_checkpoint_waiting_here: super::closing_while_a_neighbour_waits;
    a_completion_notice_overtaken_by_the_next_trigger_deletes_elsewhere_but_nothing_retained_here: super::overtaken_notices;
    one_failed_upload_poisons_the_writer_elsewhere_but_its_changes_are_uploaded_again_here: super::failed_uploads;
}

fn settings(inner: InnerBackend, seed: u64, change: impl FnOnce(&mut BackendOptions)) -> Settings {
    let mut settings = Settings::on_request(inner, seed);
    change(&mut settings.options);
    settings
}

/// Deletes all that nothing names, without grace.
async fn sweep(world: &World) {
    let options = SweepOptions { grace: Duration::ZERO, now_ms: 0, delete: true };
    collect::sweep(&world.store(), &Name::new("job").unwrap(), &options, Retry::none()).await.unwrap();
}

/// What `key` of a subtask is in checkpoint `id`, as another host restores it.
async fn restored(world: &World, inner: InnerBackend, (subtask, of): (u32, u32), id: u64, key: &str) -> Vec<u8> {
    // Whoever opens a copy fences nobody.
    let copy = copy_without(world, "").await;
    let daemon = Daemon::start(&copy, Settings::on_request(inner, 77));
    let mut task = daemon.subtask(subtask, of, 99, RestoreFrom::Id(id)).await.unwrap();
    task.get(0, key).unwrap()
}

/// 2. The store fails at the end of an upload, the checkpoint completes, the object is missing.
async fn failed_closes(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    let fails =
        |error_before, error_after, refused| FaultPlan { error_before, error_after, refused, ..FaultPlan::none() };
    // Without the object being there: failing, or saying that it exists.
    for (id, plan) in [(1, fails(1.0, 0.0, 0.0)), (2, fails(0.0, 0.0, 1.0))] {
        daemon.faults.set_plan(plan);
        task.put(id - 1, &[("key", id.to_string().as_bytes())]);
        task.barrier(id);
        assert!(timeout(Duration::from_secs(30), task.event()).await.is_err(), "it is not durable");
        daemon.faults.set_plan(FaultPlan::none());
        assert!(matches!(task.event().await, SessionEvent::CheckpointCompleted(done) if done.identity.id == id));
        everything_named_is_there(&world).await;
        assert_eq!(restored(&world, inner, (0, 1), id, "key").await, id.to_string().into_bytes());
    }
    daemon.faults.set_plan(fails(0.3, 0.2, 0.2));
    for id in 3..40 {
        task.put(id - 1, &[("key", id.to_string().as_bytes())]);
        if id % 10 == 0 {
            // It may fail; then nothing of it is named.
            let _ = task.opened.backend.materialize(task.opened.backend.epoch()).await;
        }
        task.checkpoint(id).await;
        everything_named_is_there(&world).await;
        task.notice(NoticeKind::Complete, id);
    }
    assert_eq!(restored(&world, inner, (0, 1), 39, "key").await, b"39");
}

/// Two subtasks that share segments.
async fn neighbours(daemon: &Daemon) -> [Task; 2] {
    let mut tasks = [daemon.subtask(0, 2, 1, LATEST).await.unwrap(), daemon.subtask(1, 2, 1, LATEST).await.unwrap()];
    for task in &mut tasks {
        task.put(0, &[("key", b"shared")]);
        task.barrier(1);
    }
    for task in &mut tasks {
        assert!(matches!(task.event().await, SessionEvent::CheckpointCompleted(_)));
        task.notice(NoticeKind::Complete, 1);
    }
    tasks
}

/// 3. A closing task deletes a shared segment that another task's completed checkpoint uses, …
async fn closing_beside_a_neighbour(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let [mut closing, mut staying] = neighbours(&daemon).await;
    assert_eq!(world.paths("segments").await.len(), 1);
    // One more that both have a part of, and that no checkpoint of the closing task names.
    for task in [&mut closing, &mut staying] {
        task.put(1, &[("key", b"later")]);
    }
    closing.session.persist(1).unwrap();
    staying.barrier(2);
    assert!(matches!(staying.event().await, SessionEvent::CheckpointCompleted(_)));
    assert_eq!(world.paths("segments").await.len(), 2);
    closing.notice(NoticeKind::Discard, 1);
    let backend = closing.opened.backend.clone();
    daemon.directory.close(backend.id(), backend.epoch()).await.unwrap();
    sweep(&world).await;
    everything_named_is_there(&world).await;
    assert_eq!(world.paths("segments").await.len(), 2);
    assert_eq!(restored(&world, inner, (1, 2), 1, "key").await, b"shared");
    assert_eq!(restored(&world, inner, (1, 2), 2, "key").await, b"later");
}

/// … or leaves that task's checkpoint waiting for ever.
async fn closing_while_a_neighbour_waits(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let [mut closing, mut staying] = neighbours(&daemon).await;
    daemon.faults.set_outage(true);
    for task in [&mut closing, &mut staying] {
        task.put(1, &[("key", b"later")]);
        task.barrier(2);
    }
    sleep(Duration::from_secs(1)).await;
    let backend = closing.opened.backend.clone();
    // It gives up waiting for its last manifest.
    daemon.directory.close(backend.id(), backend.epoch()).await.unwrap();
    assert!(staying.session.outbox().pop().is_none(), "the store does not answer");
    daemon.faults.set_outage(false);
    let event = timeout(Duration::from_secs(30), staying.event()).await.unwrap();
    assert!(matches!(event, SessionEvent::CheckpointCompleted(_)), "{event:?}");
    staying.notice(NoticeKind::Complete, 2);
    staying.put(2, &[("key", b"latest")]);
    staying.checkpoint(3).await;
    sweep(&world).await;
    assert_eq!(restored(&world, inner, (1, 2), 2, "key").await, b"later");
    assert_eq!(restored(&world, inner, (1, 2), 3, "key").await, b"latest");
}

/// 4. The notice of a checkpoint comes after the next one's barrier, and truncation deletes what the retained one
///    needs.
async fn overtaken_notices(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1, |options| options.retention = Retention::Count(1)));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    let (mut number, value) = (0, |id: u64| id.to_string().into_bytes());
    for id in 1..=20_u64 {
        task.put(number, &[("key", &value(id))]);
        number += 1;
        task.barrier(id);
        // The notice of the one before arrives only now; some never do.
        if id > 1 && id % 3 != 0 {
            task.notice(NoticeKind::Complete, id - 1);
        }
        task.put(number, &[("key", b"after the barrier")]);
        number += 1;
        if id % 4 == 0 {
            task.opened.backend.materialize(task.opened.backend.epoch()).await.unwrap();
        }
        let event = task.event().await;
        assert!(matches!(&event, SessionEvent::CheckpointCompleted(done) if done.identity.id == id), "{event:?}");
        // The manifest that lets older ones go.
        sleep(Duration::from_secs(10)).await;
        sweep(&world).await;
        everything_named_is_there(&world).await;
        let retained = task.opened.backend.describe().manifest.checkpoints;
        assert!(retained.iter().any(|record| record.completed) || id < 3);
        for record in retained {
            let id = record.identity.id;
            assert_eq!(restored(&world, inner, (0, 1), id, "key").await, value(id));
        }
    }
}

/// 5. After a short outage every later checkpoint fails until the task restarts.
async fn failed_uploads(inner: InnerBackend) {
    let world = World::new();
    let timeout = |options: &mut BackendOptions| options.checkpoint_timeout = Duration::from_secs(10);
    let daemon = Daemon::start(&world, settings(inner, 1, timeout));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    let mut id = 0;
    for round in 0..3_u64 {
        daemon.faults.set_outage(true);
        id += 1;
        let key = format!("only in round {round}");
        task.put(2 * round, &[(&key, b"kept"), ("key", b"in the outage")]);
        task.barrier(id);
        let began = Instant::now();
        let event = task.event().await;
        let SessionEvent::CheckpointFailed { id: failed, error } = event else { panic!("{event:?}") };
        assert_eq!((failed, error.reason, error.retryable), (id, Reason::CheckpointTimeout, true));
        assert_eq!(began.elapsed().as_secs(), 10);
        daemon.faults.set_outage(false);
        id += 1;
        task.put(2 * round + 1, &[("key", b"after it")]);
        task.checkpoint(id).await;
        assert_eq!(restored(&world, inner, (0, 1), id, "key").await, b"after it");
        for round in 0..=round {
            assert_eq!(restored(&world, inner, (0, 1), id, &format!("only in round {round}")).await, b"kept");
        }
    }
    assert_eq!(task.opened.backend.epoch().number, 1, "the task never restarted");
}

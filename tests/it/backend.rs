//! The changelog backend over a store with faults: what becomes durable when, what survives, what is refused.

use std::time::Duration;

use dstl::{
    backend::{BackendOptions, RestoreFrom, SessionEvent},
    checkpoint::ledger::NoticeKind,
    error::Reason,
    object::Retry,
    types::Limits,
};

use crate::support::{Daemon, Settings, World};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };

fn settings(change: impl FnOnce(&mut BackendOptions)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings.options);
    settings
}

#[tokio::test(start_paused = true)]
async fn appending_alone_writes_nothing() {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::default());
    let mut task = daemon.task(1, LATEST).await.unwrap();
    let before = world.paths("").await;
    for number in 0..100 {
        task.put(number, &[("key", b"value")]);
    }
    // Materializations come by time.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.paths("").await, before);
    assert_eq!(task.session.acknowledgement().0.persisted_to, 0);
}

#[tokio::test(start_paused = true)]
async fn changes_beyond_the_threshold_are_uploaded_without_a_barrier_and_not_again_by_it() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(|options| options.preemptive_persist_threshold = 1000));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    for number in 0..11 {
        task.put(number, &[("key", &[7; 100])]);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.paths("segments").await.len(), 1);
    let persisted = task.session.acknowledgement().0.persisted_to;
    assert!((9..11).contains(&persisted), "{persisted}");
    task.checkpoint(1).await;
    assert_eq!(world.paths("segments").await.len(), 2, "only the rest");
    task.checkpoint(2).await;
    assert_eq!(world.paths("segments").await.len(), 2, "nothing new, nothing uploaded");
}

#[tokio::test(start_paused = true)]
async fn persisting_makes_durable_what_was_applied_before() {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::default());
    let mut task = daemon.task(1, LATEST).await.unwrap();
    task.put(0, &[("a", b"1")]);
    task.session.persist(77).unwrap();
    task.put(1, &[("b", b"2")]);
    let SessionEvent::Persisted { token: 77, persisted_to: 1 } = task.event().await else { panic!("not persisted") };
    let (acknowledgement, _) = task.session.acknowledgement();
    assert_eq!((acknowledgement.applied_to, acknowledgement.persisted_to, acknowledgement.confirmed_to), (2, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_restores_on_another_daemon_and_later_changes_do_not() {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::default());
    let mut task = daemon.task(1, LATEST).await.unwrap();
    task.put(0, &[("a", b"1"), ("b", b"2")]);
    let completed = task.checkpoint(1).await;
    task.put(1, &[("a", b"later")]);
    task.session.persist(1).unwrap();
    task.event().await;
    daemon.crash();
    let handle = dstl::checkpoint::handle::CheckpointHandle::decode(&completed.handle).unwrap();
    for (attempt, restore) in [(2, LATEST), (3, RestoreFrom::Id(1)), (4, RestoreFrom::Handles(vec![handle]))] {
        let other = Daemon::start(&world, Settings { seed: attempt * 10, ..Settings::default() });
        let mut task = other.task(attempt, restore).await.unwrap();
        assert_eq!(task.opened.attachment, "at 1".as_bytes());
        assert_eq!(task.opened.applied_to, 0);
        assert_eq!(task.get(0, "a"), Some(b"1".to_vec()));
        assert_eq!(task.get(1, "b"), Some(b"2".to_vec()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_checkpoint_can_be_restored_and_the_newer_one_stays_restorable() {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::default());
    let mut task = daemon.task(1, LATEST).await.unwrap();
    for id in 1..=3 {
        task.put(id - 1, &[("key", id.to_string().as_bytes())]);
        task.checkpoint(id).await;
    }
    let mut task = daemon.task(2, RestoreFrom::Id(1)).await.unwrap();
    assert_eq!(task.get(0, "key"), Some(b"1".to_vec()));
    task.put(1, &[("key", b"other")]);
    task.checkpoint(2).await;
    let mut task = daemon.task(3, RestoreFrom::Id(3)).await.unwrap();
    assert_eq!(task.get(0, "key"), Some(b"3".to_vec()), "of the first epoch");
    let mut task = daemon.task(4, RestoreFrom::Id(2)).await.unwrap();
    assert_eq!(task.get(0, "key"), Some(b"other".to_vec()), "the newest with this id");
}

#[tokio::test(start_paused = true)]
async fn an_outage_makes_checkpoints_late_and_pushes_the_writer_back() {
    let world = World::new();
    let limits = Limits { max_message_bytes: 10_000, max_value_bytes: 1000, ..Limits::default() };
    let options = BackendOptions { limits, ..BackendOptions::default() };
    let daemon = Daemon::start(&world, Settings { options, budget: 20_000, ..Settings::default() });
    let mut task = daemon.task(1, LATEST).await.unwrap();
    task.put(0, &[("before", b"1")]);
    task.checkpoint(1).await;
    daemon.faults.set_outage(true);
    let mut number = 1;
    let mut spent = "before".len() as u64 + 1;
    loop {
        let (_, credit) = task.session.acknowledgement();
        if spent + 1000 > credit {
            break;
        }
        task.put(number, &[("key", &[number as u8; 997])]);
        (number, spent) = (number + 1, spent + 1000);
        assert!(number < 100, "the budget is never reached");
    }
    task.barrier(2);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(task.session.outbox().pop().is_none(), "late, not failed");
    daemon.faults.set_outage(false);
    let SessionEvent::CheckpointCompleted(completed) = task.event().await else {
        panic!("the checkpoint after it fails")
    };
    assert_eq!(completed.applied_to, number);
    assert!(task.session.acknowledgement().1 > spent + 1000, "credit is granted again");
    let mut task = daemon.task(2, RestoreFrom::Id(2)).await.unwrap();
    assert_eq!(task.get(0, "key").map(|value| value[0]), Some((number - 1) as u8));
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_times_out_leaves_its_changes_to_the_next() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(|options| options.checkpoint_timeout = Duration::from_secs(10)));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    task.put(0, &[("key", b"1")]);
    daemon.faults.set_outage(true);
    task.barrier(1);
    let SessionEvent::CheckpointFailed { id: 1, error } = task.event().await else { panic!("it does not fail") };
    assert_eq!((error.reason, error.retryable), (Reason::CheckpointTimeout, true));
    daemon.faults.set_outage(false);
    task.checkpoint(2).await;
    assert!(
        matches!(daemon.task(2, RestoreFrom::Id(1)).await, Err(error) if error.reason == Reason::CheckpointNotFound)
    );
    let mut task = daemon.task(2, RestoreFrom::Id(2)).await.unwrap();
    assert_eq!(task.get(0, "key"), Some(b"1".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_stale_owner_publishes_nothing() {
    let world = World::new();
    let (old, new) = (
        Daemon::start(&world, Settings::default()),
        Daemon::start(&world, Settings { seed: 50, ..Settings::default() }),
    );
    let mut zombie = old.task(1, LATEST).await.unwrap();
    zombie.put(0, &[("key", b"old")]);
    zombie.checkpoint(1).await;
    let mut task = new.task(2, LATEST).await.unwrap();
    zombie.put(1, &[("key", b"zombie")]);
    zombie.barrier(2);
    let SessionEvent::CheckpointFailed { id: 2, error } = zombie.event().await else { panic!("a zombie publishes") };
    assert_eq!(error.reason, Reason::Fenced);
    let SessionEvent::Ended(error) = zombie.event().await else { panic!("its session goes on") };
    assert_eq!(error.reason, Reason::Fenced);
    let lower = old.task(1, LATEST).await;
    assert!(matches!(lower, Err(error) if error.reason == Reason::Fenced), "a lower attempt");
    assert_eq!(task.get(0, "key"), Some(b"old".to_vec()));
    task.checkpoint(5).await;
}

#[tokio::test(start_paused = true)]
async fn damaged_and_missing_segments_are_named_with_what_they_spoil() {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::default());
    let mut task = daemon.task(1, LATEST).await.unwrap();
    for id in 1..=3 {
        task.put(id - 1, &[("key", format!("value {id}").as_bytes())]);
        task.checkpoint(id).await;
    }
    daemon.crash();
    let second = world.paths("segments").await[1].clone();
    let path = dstl::object::Path::from(second.clone());
    let store = world.store();
    let mut bytes = store.get(&path, Retry::none()).await.unwrap().to_vec();
    bytes[45] ^= 1;
    for (attempt, contents, reason) in [(2, Some(bytes), Reason::CorruptObject), (3, None, Reason::MissingObject)] {
        store.delete(&path, Retry::none()).await.unwrap();
        if let Some(contents) = contents {
            store.create(&path, contents.into(), Retry::none()).await.unwrap();
        }
        let daemon = Daemon::start(&world, Settings { seed: attempt * 100, ..Settings::default() });
        let error = daemon.task(attempt, RestoreFrom::Id(3)).await.err().unwrap();
        assert_eq!(error.reason, reason);
        assert!(error.message.contains(&second), "{error}");
        assert!(error.message.contains("spoils: 2 (epoch 1), 3 (epoch 1); still restore: 1 (epoch 1)"), "{error}");
        daemon.task(attempt, RestoreFrom::Id(1)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_keeps_its_first_and_newest_manifests() {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::default());
    let mut task = daemon.task(1, LATEST).await.unwrap();
    for id in 1..=40 {
        task.put(id - 1, &[("key", b"value")]);
        task.checkpoint(id).await;
        task.notice(NoticeKind::Complete, id);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let manifests = world.paths("manifest").await;
    assert!(manifests[0].ends_with("001") && manifests.len() < 20, "{manifests:?}");
    let description = task.opened.backend.describe();
    let ids: Vec<_> = description.manifest.checkpoints.iter().map(|record| record.identity.id).collect();
    assert_eq!(ids, [38, 39, 40]);
    assert_eq!(description.acknowledgement.confirmed_to, 40);
}

#[tokio::test(start_paused = true)]
async fn subtasks_of_one_attempt_restore_the_same_checkpoint() {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::default());
    let mut tasks = vec![];
    for subtask in 0..2 {
        tasks.push(daemon.subtask(subtask, 2, 1, LATEST).await.unwrap());
    }
    for task in &mut tasks {
        task.put(0, &[("key", b"1")]);
        task.checkpoint(1).await;
        task.notice(NoticeKind::Complete, 1);
    }
    tasks[0].put(1, &[("key", b"2")]);
    tasks[0].checkpoint(2).await;
    daemon.crash();
    let daemon = Daemon::start(&world, Settings { seed: 7, ..Settings::default() });
    let mut first = daemon.subtask(0, 2, 2, LATEST).await.unwrap();
    assert_eq!(first.opened.checkpoint.map(|checkpoint| checkpoint.id), Some(1), "2 is not everybody's");
    first.checkpoint(2).await;
    first.checkpoint(3).await;
    let second = daemon.subtask(1, 2, 2, LATEST).await.unwrap();
    assert_eq!(second.opened.checkpoint.map(|checkpoint| checkpoint.id), Some(1));
}

#[tokio::test(start_paused = true)]
async fn backends_of_one_job_share_segments() {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::default());
    let mut tasks = vec![];
    for subtask in 0..8 {
        tasks.push(daemon.subtask(subtask, 8, 1, LATEST).await.unwrap());
    }
    for id in 1..=10 {
        for task in &mut tasks {
            task.put(id - 1, &[("key", b"value")]);
            task.barrier(id);
        }
        for task in &mut tasks {
            let event = task.event().await;
            assert!(matches!(event, SessionEvent::CheckpointCompleted(_)), "{event:?}");
        }
    }
    assert_eq!(world.paths("segments").await.len(), 10, "one for all eight, each time");
}

#[tokio::test(start_paused = true)]
async fn metrics_have_exact_values() {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::default());
    let mut task = daemon.task(1, LATEST).await.unwrap();
    task.put(0, &[("a", b"1"), ("b", b"2")]);
    task.checkpoint(1).await;
    task.put(1, &[("a", b"3")]);
    let text = daemon.metrics.encode();
    let labels = r#"{job="job",operator="op",subtask="0"}"#;
    for line in [
        "dstl_backend_open 1",
        "dstl_backend_batches_total 2",
        "dstl_backend_operations_total 3",
        "dstl_checkpoint_triggered_total 1",
        "dstl_checkpoint_completed_total 1",
        "dstl_checkpoint_failed_total 0",
        "dstl_checkpoint_in_flight 0",
        "dstl_checkpoint_duration_seconds_count{phase=\"total\"} 1",
        "dstl_session_open 1",
        "dstl_session_halts_total 0",
        "dstl_restore_completed_total 0",
        &format!("dstl_checkpoint_retained{labels} 1"),
        // One batch record of one change: 1 byte of sqn, 2 of time, 1 of key group, 1 of length, 6 of change, 1 of end.
        "dstl_changelog_pending_bytes 12",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    task.session.persist(1).unwrap();
    task.event().await;
    task.opened.backend.close(task.opened.backend.epoch()).await.unwrap();
    let text = daemon.metrics.encode();
    for line in ["dstl_changelog_pending_bytes 0", "dstl_session_open 0", "dstl_state_bytes 0"] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("dstl_checkpoint_retained{"), "what is closed is forgotten");
}

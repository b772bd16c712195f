//! Warm restarts at other checkpoints than the newest, of other generations, and of owners that somebody else fenced.

use super::*;

on_both! {
    an_older_checkpoint_comes_back_and_its_ids_are_used_again
    behind_the_newest_completed_checkpoint_there_is_no_way_back
    after_a_rescale_restarts_are_warm_again
    an_owner_that_another_host_fenced_keeps_nothing
    a_restart_that_is_given_up_keeps_nothing
}

async fn cold(world: &World, inner: InnerBackend, seed: u64) -> Task {
    let daemon = Daemon::start(world, settings(inner, seed));
    let task = daemon.task(1_000 + seed, LATEST).await.unwrap();
    assert!(!task.opened.warm && task.opened.not_warm.is_empty());
    task
}

async fn an_older_checkpoint_comes_back_and_its_ids_are_used_again(inner: InnerBackend) {
    for materialized in [false, true] {
        let world = World::new();
        let daemon = Daemon::start(&world, settings(inner, 1));
        let random = Random::seeded(7);
        let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
        register(&task);
        let mut cuts = vec![];
        for id in 1..=3 {
            for _ in 0..40 {
                write(&mut task, &random);
            }
            if materialized {
                let backend = &task.opened.backend;
                backend.materialize(backend.epoch()).await.unwrap();
            }
            cuts.push(everything(&mut task));
            // None completes, so any of them may be restored.
            task.checkpoint(id).await;
        }
        write(&mut task, &random);
        task = come_back(&world, &daemon, task, RestoreFrom::Id(1)).await;
        assert_eq!(everything(&mut task), cuts[0]);
        for id in 2..=3 {
            for _ in 0..20 {
                write(&mut task, &random);
            }
            task.checkpoint(id).await;
            task.notice(NoticeKind::Complete, id);
        }
        let last = everything(&mut task);
        assert_ne!(last, cuts[2]);
        write(&mut task, &random);
        task = come_back(&world, &daemon, task, RestoreFrom::Id(3)).await;
        assert_eq!(everything(&mut task), last, "the newest attempt that has it");
        drop(task);
        daemon.crash();
        assert_eq!(everything(&mut cold(&world, inner, 2).await), last);
    }
}

async fn behind_the_newest_completed_checkpoint_there_is_no_way_back(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    register(&task);
    for id in 1..=2 {
        put(&mut task, "a", id.to_string().as_bytes());
        let backend = &task.opened.backend;
        backend.materialize(backend.epoch()).await.unwrap();
        task.checkpoint(id).await;
        task.notice(NoticeKind::Complete, id);
    }
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    drop(task);
    let mut task = daemon.task(2, RestoreFrom::Id(1)).await.unwrap();
    let why = &task.opened.not_warm;
    let expected =
        if inner == InnerBackend::HashMap { "checkpoint 1 is not one of which" } else { "went to the store" };
    assert!(!task.opened.warm && why.contains(expected), "{why}");
    assert_eq!(task.get(0, "a"), Some(b"1".to_vec()));
}

async fn after_a_rescale_restarts_are_warm_again(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut tasks = vec![];
    for subtask in 0..2 {
        let mut task = daemon.subtask(subtask, 2, 1, RestoreFrom::Empty).await.unwrap();
        register(&task);
        for key in 0..KEYS {
            put(&mut task, &format!("key {key} of {subtask}"), b"1");
        }
        let backend = &task.opened.backend;
        backend.materialize(backend.epoch()).await.unwrap();
        tasks.push(task);
    }
    for task in &mut tasks {
        task.checkpoint(1).await;
    }
    drop(tasks);
    let mut task = daemon.task(2, LATEST).await.unwrap();
    // What is on this host is not that of one owner.
    assert!(!task.opened.warm && !task.opened.not_warm.is_empty());
    register(&task);
    put(&mut task, "more", b"2");
    task.checkpoint(2).await;
    task.notice(NoticeKind::Complete, 2);
    let before = everything(&mut task);
    put(&mut task, "more", b"lost");
    put(&mut task, "key 1 of 1", b"lost");
    let mut task = come_back(&world, &daemon, task, LATEST).await;
    assert_eq!(everything(&mut task), before);
    assert_eq!(task.opened.backend.describe().states[0].entries, 2 * KEYS + 1);
    put(&mut task, "more", b"3");
    task.checkpoint(3).await;
    let last = everything(&mut task);
    drop(task);
    daemon.crash();
    assert_eq!(everything(&mut cold(&world, inner, 2).await), last);
}

/// Bytes of undo records, and materializations with images on local disk.
fn kept(daemon: &Daemon, world: &World) -> (u64, usize) {
    (value(daemon, "dstl_undo_bytes"), disk::images(world).len())
}

async fn an_owner_that_another_host_fenced_keeps_nothing(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    register(&task);
    put(&mut task, "a", b"1");
    let backend = task.opened.backend.clone();
    backend.materialize(backend.epoch()).await.unwrap();
    task.checkpoint(1).await;
    put(&mut task, "a", b"2");
    assert_ne!(kept(&daemon, &world), (0, 0));
    let other = Daemon::start(&world, Settings::on_request(inner, 2));
    let elsewhere = other.task(2, LATEST).await.unwrap();
    task.barrier(2);
    while !backend.has_ended() {
        task.event().await;
    }
    drop(task);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(kept(&daemon, &world), (0, 0));
    drop(elsewhere);
    other.crash();
    let mut task = daemon.task(3, LATEST).await.unwrap();
    assert!(!task.opened.warm);
    assert_eq!(task.get(0, "a"), Some(b"1".to_vec()));
}

async fn a_restart_that_is_given_up_keeps_nothing(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    register(&task);
    put(&mut task, "a", b"1");
    let backend = task.opened.backend.clone();
    backend.materialize(backend.epoch()).await.unwrap();
    task.checkpoint(1).await;
    put(&mut task, "a", b"2");
    let before = kept(&daemon, &world);
    // What is refused ends nobody.
    let error = daemon.task(2, RestoreFrom::Id(9)).await.map(drop).unwrap_err();
    assert_eq!(error.reason, Reason::CheckpointNotFound);
    assert!(!backend.has_ended());
    assert_eq!(kept(&daemon, &world), before);
    daemon.directory.close(backend.id(), backend.epoch()).await.unwrap();
    drop(task);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(kept(&daemon, &world), (0, 0));
}

//! A declared job of which one task stalls, or has ended: the others go on, within bounds, and are committed again once
//! it is back.

use dstl::{checkpoint::job::Asked, object::Retry, types::InnerBackend};
use tokio::time::{sleep, timeout};

use super::{checkpoint, committed, declare, name, open_all, retained};
use crate::support::{Daemon, Settings, World, on_both};

/// Checkpoints that the others take meanwhile.
const ROUNDS: u64 = 1100;

on_both! {
    a_task_that_stalls_holds_up_nobody_and_is_waited_for: |inner| super::stalls(inner, false);
    a_task_that_has_ended_holds_up_nobody: |inner| super::stalls(inner, true);
    the_last_checkpoint_is_committed_however_far_behind_commits_were: super::the_last;
}

async fn reports(world: &World) -> usize {
    let reports = dstl::checkpoint::job::reported(&world.store(), &name("job"), 1, Retry::none()).await.unwrap();
    reports.len()
}

async fn stalls(inner: InnerBackend, ends: bool) {
    let world = World::new();
    let daemons = [1, 50].map(|seed| Daemon::start(&world, Settings::on_request(inner, seed)));
    declare(&daemons[0], 1, Asked::Latest).await.unwrap();
    let mut tasks = open_all([&daemons[0], &daemons[1]], 1).await;
    checkpoint(&mut tasks, 1, "one").await;
    let mut last = tasks.pop().unwrap();
    if ends {
        let backend = &last.opened.backend;
        daemons[1].directory.close(backend.id(), backend.epoch()).await.unwrap();
    }
    for id in 2..ROUNDS {
        for task in &mut tasks {
            task.barrier(id);
        }
        for task in &mut tasks {
            loop {
                match task.event().await {
                    dstl::backend::SessionEvent::CheckpointCompleted(done) if done.identity.id == id => break,
                    dstl::backend::SessionEvent::JobCheckpointCompleted(_) => {}
                    other => panic!("checkpoint {id}: {other:?}"),
                }
            }
        }
    }
    sleep(std::time::Duration::from_secs(5)).await;
    for task in &tasks {
        assert!(retained(task).len() < 300, "{} of {ROUNDS} parts are kept", retained(task).len());
    }
    assert!(reports(&world).await < 900, "{} reports", reports(&world).await);
    if ends {
        return;
    }
    // It takes part in what comes while it runs.
    for task in tasks.iter_mut().chain([&mut last]) {
        task.barrier(ROUNDS);
    }
    for task in tasks.iter_mut().chain([&mut last]) {
        committed(task, ROUNDS).await;
        assert_eq!(retained(task).last(), Some(&ROUNDS));
    }
    tasks.push(last);
    checkpoint(&mut tasks, ROUNDS + 1, "more").await;
}

async fn the_last(inner: InnerBackend) {
    let world = World::new();
    let daemons = [1, 50].map(|seed| Daemon::start(&world, Settings::on_request(inner, seed)));
    declare(&daemons[0], 1, Asked::Latest).await.unwrap();
    let mut tasks = open_all([&daemons[0], &daemons[1]], 1).await;
    // Faster than reports are looked at, so that many wait, and some are held.
    for id in 1..=200 {
        for task in &mut tasks {
            task.barrier(id);
        }
        tokio::task::yield_now().await;
        if id % 2 == 0 {
            sleep(std::time::Duration::from_millis(1)).await;
        }
    }
    for task in &mut tasks {
        loop {
            let event = timeout(std::time::Duration::from_secs(60), task.event()).await.expect("the last is committed");
            if matches!(event, dstl::backend::SessionEvent::JobCheckpointCompleted(part) if part.id == 200) {
                break;
            }
        }
    }
}

//! Savepoints by barrier: exact at it, beside the stream, of the whole job or not at all.
//!
//! Real time and threads: what reads a checkpoint has a thread of its own.

use std::{collections::BTreeSet, time::Duration};

use dstl::{
    backend::{BarrierRequest, SessionEvent},
    checkpoint::ledger::NoticeKind,
    error::{Error, Reason},
    savepoint::SavepointId,
    types::InnerBackend,
};

use super::{KEYS, Subtask, expected, filled, id, name, rows, write};
use crate::support::{Daemon, Settings, World};

const ID: u64 = 5;

fn request(timeout: Duration) -> BarrierRequest {
    BarrierRequest { id: ID, attachment: format!("at {ID}").into(), timeout: Some(timeout) }
}

fn barrier(daemon: &Daemon, subtask: &mut Subtask, savepoint: &str, timeout: Duration) {
    let session = &mut subtask.task.session;
    session.savepoint_barrier(request(timeout), name(savepoint), &daemon.directory).unwrap();
}

/// What became of the savepoint of a barrier; other events are skipped.
async fn outcome(subtask: &mut Subtask) -> Result<SavepointId, Error> {
    loop {
        match subtask.task.event().await {
            SessionEvent::SavepointMade(made) => {
                assert_eq!((made.checkpoint.identity.id, made.checkpoint.handle.len()), (ID, 0));
                assert_eq!(made.rows, expected().len() as u64);
                return Ok(made.id);
            }
            SessionEvent::CheckpointFailed { id: ID, error } => return Err(error),
            SessionEvent::CheckpointCompleted(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Ids of the checkpoints that a subtask retains.
fn retained(subtask: &Subtask) -> Vec<u64> {
    let checkpoints = subtask.task.opened.backend.outline().manifest.checkpoints;
    checkpoints.iter().map(|record| record.identity.id).collect()
}

async fn is_exact(inner: InnerBackend, changelog: bool) {
    let world = World::new();
    let mut settings = Settings::on_request(inner, 7);
    settings.options.changelog = changelog;
    let (daemon, mut subtasks) = filled(&world, settings).await;
    for subtask in &mut subtasks {
        barrier(&daemon, subtask, "s", Duration::from_secs(60));
    }
    // The stream goes on, and so do checkpoints.
    write(&mut subtasks, 2, 0..KEYS);
    for subtask in &mut subtasks {
        subtask.task.barrier(ID + 1);
        assert!(subtask.task.session.is_owed());
    }
    for subtask in &mut subtasks {
        assert_eq!(outcome(subtask).await.unwrap(), id("job", "s"));
    }
    let found = rows(&world, &id("job", "s")).await;
    assert_eq!(found.iter().cloned().collect::<BTreeSet<_>>(), expected());
    assert_eq!(world.paths("pins").await, Vec::<String>::new());
    for subtask in &subtasks {
        assert!(!retained(subtask).contains(&ID), "it is let go once it was read");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_memory_it_has_all_state_of_its_barrier_and_nothing_since() {
    is_exact(InnerBackend::HashMap, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_disk_it_has_all_state_of_its_barrier_and_nothing_since() {
    is_exact(InnerBackend::RocksDb, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_does_not_let_go_of_what_is_being_made_into_one() {
    let world = World::new();
    let (daemon, mut subtasks) = filled(&world, Settings::on_request(InnerBackend::HashMap, 7)).await;
    let (first, second) = subtasks.split_at_mut(1);
    let (first, second) = (&mut first[0], &mut second[0]);
    barrier(&daemon, first, "s", Duration::from_secs(60));
    for id in ID + 1..ID + 8 {
        first.task.checkpoint(id).await;
        first.task.notice(NoticeKind::Complete, id);
    }
    assert_eq!(retained(first), [ID, ID + 5, ID + 6, ID + 7]);
    barrier(&daemon, second, "s", Duration::from_secs(60));
    outcome(first).await.unwrap();
    outcome(second).await.unwrap();
    assert_eq!(retained(first), [ID + 5, ID + 6, ID + 7]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_barrier_of_every_subtask_there_is_none() {
    let world = World::new();
    let (daemon, mut subtasks) = filled(&world, Settings::on_request(InnerBackend::HashMap, 7)).await;
    barrier(&daemon, &mut subtasks[0], "s", Duration::from_millis(400));
    let error = outcome(&mut subtasks[0]).await.unwrap_err();
    assert_eq!(error.reason, Reason::CheckpointTimeout, "{error}");
    assert!(error.message.contains("does every subtask of the job get the barrier 5?"), "{error}");
    assert_eq!(world.paths("savepoints").await, Vec::<String>::new());
    assert_eq!(retained(&subtasks[0]), Vec::<u64>::new());
    subtasks[0].task.checkpoint(ID + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_is_refused_and_what_has_it_stays() {
    let world = World::new();
    let (daemon, mut subtasks) = filled(&world, Settings::on_request(InnerBackend::HashMap, 7)).await;
    for subtask in &mut subtasks {
        barrier(&daemon, subtask, "s", Duration::from_secs(60));
    }
    for subtask in &mut subtasks {
        outcome(subtask).await.unwrap();
    }
    let before = rows(&world, &id("job", "s")).await;
    for subtask in &mut subtasks {
        let request = BarrierRequest { id: ID + 9, ..request(Duration::from_secs(60)) };
        subtask.task.session.savepoint_barrier(request, name("s"), &daemon.directory).unwrap();
    }
    for subtask in &mut subtasks {
        match subtask.task.event().await {
            SessionEvent::CheckpointFailed { error, .. } => {
                assert_eq!(error.reason, Reason::InvalidArgument, "{error}");
                assert!(error.message.contains("job/savepoints/s` exists already"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rows(&world, &id("job", "s")).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_fit_into_memory_fails_and_leaves_nothing() {
    let world = World::new();
    let mut settings = Settings::on_request(InnerBackend::HashMap, 7);
    settings.options.reading_memory = 300;
    let (daemon, mut subtasks) = filled(&world, settings).await;
    for subtask in &mut subtasks {
        barrier(&daemon, subtask, "s", Duration::from_secs(2));
    }
    let error = outcome(&mut subtasks[0]).await.unwrap_err();
    assert_eq!(error.reason, Reason::StateMemory, "{error}");
    assert!(error.message.contains("`memory.reading`"), "{error}");
    let error = outcome(&mut subtasks[1]).await.unwrap_err();
    assert_eq!(error.reason, Reason::CheckpointTimeout, "{error}");
    assert_eq!(world.paths("savepoints").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_makes_one_beside_sessions() {
    let world = World::new();
    let (daemon, subtasks) = filled(&world, Settings::on_request(InnerBackend::HashMap, 7)).await;
    let made = subtasks.iter().map(|subtask| {
        let backend = &subtask.task.opened.backend;
        daemon.directory.savepoint(backend, backend.epoch(), request(Duration::from_secs(60)), name("s"))
    });
    for made in futures::future::join_all(made).await {
        assert_eq!(made.unwrap().rows, expected().len() as u64);
    }
    assert_eq!(rows(&world, &id("job", "s")).await.len(), expected().len());
}

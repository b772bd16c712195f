//! Runs of a job: retention by count looks at the checkpoints of its own run alone.

use bytes::Bytes;

use super::*;
use crate::support::Daemon;

const COUNT: usize = 3;
/// What the first run retains.
const OLD: [u64; 3] = [5, 6, 7];

fn run(name: &'static str) -> Bytes {
    Bytes::from_static(name.as_bytes())
}

/// How a subtask of two is opened in a run.
fn in_run(name: &'static str, subtask: u32, (parallelism, attempt): (u32, u64), restore: RestoreFrom) -> OpenSpec {
    OpenSpec { job_run: run(name), restore, ..spec(subtask, parallelism, attempt) }
}

fn counting(inner: InnerBackend, seed: u64) -> Settings {
    let mut settings = settings(inner, seed);
    settings.options.retention = Retention::Count(COUNT);
    settings
}

/// Both subtasks of the first run, in each key the number of the checkpoint that contains it; by checkpoint: the
/// handles of both.
async fn first_run(daemon: &Daemon) -> Vec<Vec<CheckpointHandle>> {
    let mut tasks = vec![];
    for subtask in 0..2 {
        tasks.push(open(&daemon.directory, in_run("first", subtask, (2, 1), RestoreFrom::Empty)).await.unwrap());
    }
    let mut handles = vec![];
    for id in 1..=7 {
        let mut parts = vec![];
        for task in &mut tasks {
            fill(task, id);
            let completed = task.checkpoint(id).await;
            parts.push(CheckpointHandle::decode(&completed.handle).unwrap());
        }
        for task in &mut tasks {
            task.notice(NoticeKind::Complete, id);
        }
        handles.push(parts);
    }
    for task in &tasks {
        let ids: Vec<_> = task.opened.backend.outline().manifest.checkpoints.iter().map(|r| r.identity.id).collect();
        assert_eq!(ids, OLD, "the run itself retains as many as it shall");
        daemon.directory.close(task.opened.backend.id(), task.opened.backend.epoch()).await.unwrap();
    }
    handles.split_off(4)
}

/// More checkpoints of a run than it retains.
async fn go_on(world: &World, tasks: &mut [Task]) {
    for id in 20..=24 {
        for task in tasks.iter_mut() {
            fill(task, id);
            task.checkpoint(id).await;
        }
        for task in tasks.iter_mut() {
            task.notice(NoticeKind::Complete, id);
        }
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    sweep_job(world, "job").await;
    sweep_job(world, "job").await;
}

/// Which of the old checkpoints restore now, whole and as they were.
async fn restorable(world: &World, inner: InnerBackend, handles: &[Vec<CheckpointHandle>]) -> Vec<u64> {
    let mut found = vec![];
    let daemon = Daemon::start(world, counting(inner, 900));
    for (id, (parts, attempt)) in OLD.into_iter().zip(handles.iter().zip(900..)) {
        let mut restored = 0;
        for (subtask, handle) in (0..).zip(parts) {
            let restore = RestoreFrom::Handles(vec![handle.clone()]);
            let spec = OpenSpec { claim: Some(ClaimMode::NoClaim), ..in_run("look", subtask, (2, attempt), restore) };
            match open(&daemon.directory, spec).await {
                Ok(mut task) => {
                    check(&mut task, id);
                    restored += 1;
                }
                Err(error) => assert_eq!(error.reason, Reason::CheckpointNotFound, "{error}"),
            }
        }
        assert!(restored == 0 || restored == 2, "checkpoint {id} is restorable as a whole, or not at all");
        if restored == 2 {
            found.push(id);
        }
    }
    found
}

/// A second run of as many subtasks that begins as `restore` says of the handles of a subtask; what it then leaves of
/// the first one.
async fn second_run(
    inner: InnerBackend,
    name: &'static str,
    claim: Option<ClaimMode>,
    restore: impl Fn(&[Vec<CheckpointHandle>], usize) -> RestoreFrom,
) -> Vec<u64> {
    let world = dated();
    let daemon = Daemon::start(&world, counting(inner, 1));
    let handles = first_run(&daemon).await;
    let mut tasks = vec![];
    for subtask in 0..2 {
        let spec = in_run(name, subtask, (2, 2), restore(&handles, subtask as usize));
        tasks.push(open(&daemon.directory, OpenSpec { claim, ..spec }).await.unwrap());
    }
    let left: Vec<_> = tasks[0].opened.backend.outline().manifest.checkpoints.iter().map(|r| r.identity.id).collect();
    assert_eq!(left, OLD, "opening alone lets nothing go");
    go_on(&world, &mut tasks).await;
    for task in &tasks {
        let own = task.opened.backend.outline().manifest.checkpoints;
        let own: Vec<_> = own.iter().map(|r| r.identity.id).filter(|id| *id >= 20).collect();
        assert_eq!(own, [22, 23, 24], "of its own it retains as many as it shall");
    }
    daemon.crash();
    restorable(&world, inner, &handles).await
}

fn of_checkpoint(at: usize) -> impl Fn(&[Vec<CheckpointHandle>], usize) -> RestoreFrom {
    move |handles, subtask| RestoreFrom::Handles(vec![handles[at][subtask].clone()])
}

async fn a_new_run_lets_go_of_nothing_but_what_it_claimed_and_made(inner: InnerBackend) {
    let claim = Some(ClaimMode::Claim);
    assert_eq!(second_run(inner, "second", claim, of_checkpoint(0)).await, [6, 7], "from 5, claimed");
    assert_eq!(second_run(inner, "second", claim, of_checkpoint(2)).await, [5, 6], "from 7, claimed");
    assert_eq!(second_run(inner, "second", claim, |_, _| RestoreFrom::Empty).await, OLD, "from nothing");
}

async fn a_run_that_goes_on_retains_by_count_over_all_its_owners(inner: InnerBackend) {
    assert!(second_run(inner, "first", Some(ClaimMode::Claim), of_checkpoint(2)).await.is_empty());
    assert!(second_run(inner, "first", None, |_, _| RestoreFrom::Empty).await.is_empty());
}

async fn a_new_run_that_claims_nothing_keeps_what_it_began_with_without_a_pin(inner: InnerBackend) {
    let unclaimed = Some(ClaimMode::NoClaim);
    assert_eq!(second_run(inner, "second", unclaimed, of_checkpoint(1)).await, OLD);
    let world = dated();
    let daemon = Daemon::start(&world, counting(inner, 1));
    let handles = first_run(&daemon).await;
    let spec = OpenSpec { claim: unclaimed, ..in_run("second", 0, (2, 2), of_checkpoint(1)(&handles, 0)) };
    let task = open(&daemon.directory, spec).await.unwrap();
    assert!(task.opened.backend.outline().manifest.checkpoints.iter().all(|record| !record.pinned));
    let discarding = Discard::Checkpoint(task.opened.backend.id().clone(), target_of(&handles[1][0]));
    daemon.directory.close(task.opened.backend.id(), task.opened.backend.epoch()).await.unwrap();
    assert_eq!(daemon.directory.discard(&discarding, false).await.unwrap().checkpoints, 1, "so it can be discarded");
}

fn target_of(handle: &CheckpointHandle) -> NoticeTarget {
    let identity = handle.checkpoint;
    NoticeTarget { epoch: identity.epoch, id: identity.id, uuid: Some(identity.uuid) }
}

async fn vanished_chains_let_go_of_what_the_new_run_claimed_alone(inner: InnerBackend) {
    for (name, left) in [("second", vec![5, 6]), ("first", vec![])] {
        let world = dated();
        let daemon = Daemon::start(&world, counting(inner, 1));
        let handles = first_run(&daemon).await;
        let spec = in_run(name, 0, (1, 2), RestoreFrom::Handles(handles[2].clone()));
        let mut tasks =
            vec![open(&daemon.directory, OpenSpec { claim: Some(ClaimMode::Claim), ..spec }).await.unwrap()];
        go_on(&world, &mut tasks).await;
        daemon.crash();
        assert_eq!(restorable(&world, inner, &handles).await, left, "the new run is `{name}`");
    }
}

on_both! {
    a_new_run_lets_go_of_nothing_but_what_it_claimed_and_made
    a_run_that_goes_on_retains_by_count_over_all_its_owners
    a_new_run_that_claims_nothing_keeps_what_it_began_with_without_a_pin
    vanished_chains_let_go_of_what_the_new_run_claimed_alone
}

//! Jobs without a coordinator: an engine declares its tasks, and the daemons commit its checkpoints.

mod holding;
mod races;
mod stalled;
mod storm;

use std::{collections::BTreeMap, time::Duration};

use dstl::{
    backend::{OpenSpec, RestoreFrom, Session, SessionEvent},
    checkpoint::{
        discard::Discard,
        job::{self, Asked, Declaration, Generation, JobCheckpoint, JobRecord},
        ledger::{NoticeKind, NoticeOutcome, NoticeTarget, Retention},
    },
    client::{ClientError, JobDeclaration, OpenOptions},
    error::{Error, Reason},
    object::{Retry, faulty::FaultPlan},
    types::{InnerBackend, Name},
};
use tokio::time::{sleep, timeout};

use crate::support::{Daemon, Settings, Task, World, on_both, spec, states};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };

/// Operators, each with two tasks.
const OPERATORS: [&str; 2] = ["op", "sink"];

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

fn declaration(asked: Asked) -> Declaration {
    Declaration { operators: OPERATORS.map(|operator| (name(operator), 2)).into(), asked }
}

async fn declare(daemon: &Daemon, attempt: u64, asked: Asked) -> Result<Generation, Error> {
    daemon.directory.declare_job(&name("job"), attempt, &declaration(asked)).await
}

async fn open(
    daemon: &Daemon,
    (operator, subtask): (&str, u32),
    attempt: u64,
    restore: RestoreFrom,
) -> Result<Task, Error> {
    let mut spec = OpenSpec { restore, ..spec(subtask, 2, attempt) };
    spec.id.operator = name(operator);
    let opened = daemon.directory.open(spec, |_| {}).await?;
    let backend = opened.backend.clone();
    backend.register(backend.epoch(), &states())?;
    let session = Session::start(backend.clone(), backend.epoch())?;
    Ok(Task { opened, session })
}

/// All tasks of `attempt`, those with odd numbers on the second daemon.
async fn open_all(daemons: [&Daemon; 2], attempt: u64) -> Vec<Task> {
    let mut tasks = vec![];
    for operator in OPERATORS {
        for subtask in 0..2 {
            let task = open(daemons[subtask as usize], (operator, subtask), attempt, LATEST).await.unwrap();
            assert!(task.opened.coordinated);
            tasks.push(task);
        }
    }
    tasks
}

fn start(world: &World, seed: u64) -> Daemon {
    Daemon::start(world, Settings::on_request(InnerBackend::HashMap, seed))
}

/// Waits until the checkpoint `id` is committed; what comes before it may only be other good news.
async fn committed(task: &mut Task, id: u64) {
    loop {
        match timeout(Duration::from_secs(60), task.event()).await.unwrap() {
            SessionEvent::JobCheckpointCompleted(part) if part.id == id => return,
            SessionEvent::JobCheckpointCompleted(_) | SessionEvent::CheckpointCompleted(_) => {}
            other => panic!("instead of the commit of {id}: {other:?}"),
        }
    }
}

/// Waits until the task's backend has ended, as its attempt is outdated.
async fn outdated(task: &mut Task) {
    loop {
        match timeout(Duration::from_secs(60), task.event()).await.unwrap() {
            SessionEvent::Ended(error) => {
                assert_eq!(error.reason, Reason::Fenced);
                return;
            }
            SessionEvent::JobCheckpointCompleted(part) => panic!("{part} is committed"),
            _ => {}
        }
    }
}

/// Writes `value` under one key and takes a checkpoint of all tasks.
async fn checkpoint(tasks: &mut [Task], id: u64, value: &str) {
    for task in tasks.iter_mut() {
        let number = task.session.acknowledgement().0.applied_to;
        task.put(number, &[("key", value.as_bytes())]);
        task.barrier(id);
    }
    for task in tasks.iter_mut() {
        committed(task, id).await;
    }
}

fn value(task: &mut Task) -> Option<String> {
    let number = task.session.acknowledgement().0.applied_to;
    task.get(number, "key").map(|value| String::from_utf8(value).unwrap())
}

async fn record(world: &World) -> JobRecord {
    job::newest(&world.store(), &name("job"), Retry::none()).await.unwrap().unwrap()
}

/// Ids of the retained checkpoints.
fn retained(task: &Task) -> Vec<u64> {
    let outline = task.opened.backend.outline();
    outline.manifest.checkpoints.iter().map(|record| record.identity.id).collect()
}

/// The value of a metric without labels.
fn metric(daemon: &Daemon, name: &str) -> f64 {
    let text = daemon.metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    line.parse().unwrap()
}

fn on(attempt: u64, id: u64) -> JobCheckpoint {
    JobCheckpoint { attempt, id }
}

async fn completes_for_all_tasks_and_restores(inner: InnerBackend) {
    let world = World::new();
    let mut daemons = [1, 50].map(|seed| Settings::on_request(inner, seed));
    for settings in &mut daemons {
        settings.options.retention = Retention::Count(2);
    }
    let daemons = daemons.map(|settings| Daemon::start(&world, settings));
    for daemon in &daemons {
        let generation = declare(daemon, 1, Asked::Latest).await.unwrap();
        assert_eq!((generation.restore, generation.number), (None, 1), "every task may declare");
    }
    let mut tasks = open_all([&daemons[0], &daemons[1]], 1).await;
    for id in 1..=3 {
        checkpoint(&mut tasks, id, &format!("value {id}")).await;
        for task in &mut tasks {
            assert_eq!(task.session.acknowledgement().0.confirmed_to, id);
        }
    }
    let sum = |name| metric(&daemons[0], name) + metric(&daemons[1], name);
    assert_eq!((sum("dstl_checkpoint_committed_total"), sum("dstl_checkpoint_reported")), (3.0, 0.0));
    assert_eq!(record(&world).await.commits(), [on(1, 1), on(1, 2), on(1, 3)]);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.paths("/reports/").await, Vec::<String>::new(), "they are of no more use");
    for task in &mut tasks {
        assert_eq!(retained(task), [2, 3]);
        for (kind, id) in [(NoticeKind::Complete, 3), (NoticeKind::Subsume, 3), (NoticeKind::Discard, 3)] {
            let target = NoticeTarget { epoch: task.opened.backend.epoch().number, id, uuid: None };
            assert_eq!(task.session.notice(kind, target).unwrap(), NoticeOutcome::Coordinated, "{kind:?}");
        }
        let older = NoticeTarget { epoch: task.opened.backend.epoch().number, id: 2, uuid: None };
        assert_eq!(task.session.notice(NoticeKind::Discard, older).unwrap(), NoticeOutcome::Done);
        assert_eq!(retained(task), [3]);
    }
    // A new session of the same owner is told again.
    let backend = tasks[0].opened.backend.clone();
    tasks[0].session = Session::start(backend.clone(), backend.epoch()).unwrap();
    committed(&mut tasks[0], 3).await;
    let [one, other] = daemons;
    one.crash();
    assert_eq!(declare(&other, 2, Asked::Latest).await.unwrap().restore, Some(on(1, 3)));
    let one = Daemon::start(&world, Settings::on_request(inner, 90));
    let described = one.directory.describe_job(&name("job")).await.unwrap();
    assert_eq!(described.record.unwrap().commits().len(), 3);
    for task in &mut open_all([&one, &other], 2).await {
        assert_eq!(value(task), Some("value 3".to_owned()));
        assert_eq!(task.opened.attachment, "at 3".as_bytes());
        assert!(task.opened.backend.outline().manifest.checkpoints.iter().all(|record| record.completed));
    }
}

on_both! {
    completes_for_all_tasks_and_restores
}

/// Two daemons with all tasks of attempt 1, which have committed checkpoint 1.
async fn running(world: &World) -> ([Daemon; 2], Vec<Task>) {
    let daemons = [1, 50].map(|seed| start(world, seed));
    declare(&daemons[0], 1, Asked::Latest).await.unwrap();
    let mut tasks = open_all([&daemons[0], &daemons[1]], 1).await;
    checkpoint(&mut tasks, 1, "value 1").await;
    (daemons, tasks)
}

/// Takes checkpoint 2 in all tasks, the second daemon's slowly; waits until all have reported it.
async fn report_slowly(world: &World, daemons: &[Daemon; 2], tasks: &mut [Task]) {
    let slow = FaultPlan { latency: Duration::from_millis(500)..Duration::from_millis(501), ..FaultPlan::none() };
    daemons[1].faults.set_plan(slow);
    for task in tasks.iter_mut() {
        task.put(1, &[("key", b"value 2")]);
        task.barrier(2);
    }
    // The local tasks of the first daemon have long reported, and it looks every second.
    while world.paths("/reports/").await.len() < 4 {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(record(world).await.commits(), [on(1, 1)]);
}

#[tokio::test(start_paused = true)]
async fn what_the_last_reporter_did_not_commit_before_it_was_killed_another_daemon_does() {
    let world = World::new();
    let (daemons, mut tasks) = running(&world).await;
    report_slowly(&world, &daemons, &mut tasks).await;
    let [one, other] = daemons;
    other.crash();
    assert_eq!(metric(&one, "dstl_checkpoint_reported"), 2.0);
    for task in tasks.iter_mut().step_by(2) {
        committed(task, 2).await;
    }
    assert_eq!(record(&world).await.commits(), [on(1, 1), on(1, 2)]);
    assert_eq!(metric(&one, "dstl_checkpoint_reported"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn what_all_daemons_reported_before_they_were_killed_the_next_declaration_commits() {
    let world = World::new();
    let (daemons, mut tasks) = running(&world).await;
    report_slowly(&world, &daemons, &mut tasks).await;
    for daemon in daemons {
        daemon.crash();
    }
    let daemons = [100, 150].map(|seed| start(&world, seed));
    assert_eq!(declare(&daemons[0], 2, Asked::Latest).await.unwrap().restore, Some(on(1, 2)));
    for task in &mut open_all([&daemons[0], &daemons[1]], 2).await {
        assert_eq!(value(task), Some("value 2".to_owned()));
        let outline = task.opened.backend.outline();
        let newest = outline.manifest.checkpoints.last().unwrap().clone();
        assert!(newest.completed, "whoever opens completes it");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outdated_generation_commits_nothing_and_its_owners_end() {
    let world = World::new();
    let (daemons, mut old) = running(&world).await;
    let third = start(&world, 200);
    assert_eq!(declare(&third, 2, Asked::Latest).await.unwrap().restore, Some(on(1, 1)));
    // None of the new tasks has opened, so nobody is fenced by a manifest.
    for task in &mut old {
        task.put(1, &[("key", b"zombie")]);
        task.barrier(2);
    }
    for task in &mut old {
        outdated(task).await;
    }
    assert_eq!(record(&world).await.commits(), [on(1, 1)]);
    let mut tasks = open_all([&third, &daemons[1]], 2).await;
    for task in &mut tasks {
        assert_eq!(value(task), Some("value 1".to_owned()), "though all of checkpoint 2 of attempt 1 is there");
    }
    checkpoint(&mut tasks, 2, "new").await;
    assert_eq!(record(&world).await.commits(), [on(1, 1), on(2, 2)]);
    let lower = declare(&daemons[0], 1, Asked::Latest).await;
    assert_eq!(lower.unwrap_err().reason, Reason::Fenced);
}

#[tokio::test(start_paused = true)]
async fn engines_that_restart_from_an_older_checkpoint_use_ids_again() {
    let world = World::new();
    let (daemons, mut tasks) = running(&world).await;
    checkpoint(&mut tasks, 2, "value 2").await;
    checkpoint(&mut tasks, 3, "value 3").await;
    let given = Asked::Given { id: 1, attempt: None };
    let generation = declare(&daemons[0], 2, given).await.unwrap();
    assert_eq!(generation.restore, Some(on(1, 1)));
    let mut tasks = open_all([&daemons[0], &daemons[1]], 2).await;
    for task in &mut tasks {
        assert_eq!(value(task), Some("value 1".to_owned()));
    }
    // It failed before its first commit: it does not meet what it went back from.
    assert_eq!(declare(&daemons[1], 3, Asked::Latest).await.unwrap().restore, Some(on(1, 1)));
    let mut tasks = open_all([&daemons[0], &daemons[1]], 3).await;
    checkpoint(&mut tasks, 2, "other 2").await;
    checkpoint(&mut tasks, 3, "other 3").await;
    let missing = declare(&daemons[0], 4, Asked::Given { id: 9, attempt: None }).await;
    assert_eq!(missing.unwrap_err().reason, Reason::NoConsistentCheckpoint);
    assert_eq!(declare(&daemons[0], 4, Asked::Latest).await.unwrap().restore, Some(on(3, 3)));
    for task in &mut open_all([&daemons[0], &daemons[1]], 4).await {
        assert_eq!(value(task), Some("other 3".to_owned()));
    }
    let older = Asked::Given { id: 3, attempt: Some(1) };
    assert_eq!(declare(&daemons[0], 5, older).await.unwrap().restore, Some(on(1, 3)));
    for task in &mut open_all([&daemons[0], &daemons[1]], 5).await {
        assert_eq!(value(task), Some("value 3".to_owned()));
    }
    assert_eq!(declare(&daemons[0], 6, Asked::Empty).await.unwrap().restore, None);
    for task in &mut open_all([&daemons[0], &daemons[1]], 6).await {
        assert_eq!((value(task), task.opened.checkpoint), (None, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_one_task_aborts_blocks_no_later_one() {
    let world = World::new();
    let (_daemons, mut tasks) = running(&world).await;
    for task in &mut tasks {
        task.put(1, &[("key", b"value 2")]);
        task.barrier(2);
    }
    let target = NoticeTarget { epoch: tasks[3].opened.backend.epoch().number, id: 2, uuid: None };
    assert_eq!(tasks[3].session.notice(NoticeKind::Abort, target).unwrap(), NoticeOutcome::Done, "it is in flight");
    let SessionEvent::CheckpointFailed { id: 2, .. } = tasks[3].event().await else { panic!("it is not aborted") };
    sleep(Duration::from_secs(20)).await;
    for task in &mut tasks[..3] {
        let SessionEvent::CheckpointCompleted(_) = task.event().await else { panic!("its own part is durable") };
        assert!(task.session.outbox().pop().is_none());
        assert_eq!(retained(task), [1, 2], "it may still be committed, as far as this task knows");
        let abort = NoticeTarget { epoch: task.opened.backend.epoch().number, ..target };
        assert_eq!(task.session.notice(NoticeKind::Abort, abort).unwrap(), NoticeOutcome::Coordinated);
    }
    let daemon = start(&world, 300);
    let described = daemon.directory.describe_job(&name("job")).await.unwrap();
    assert_eq!(described.reported, [(on(1, 2), 3)]);
    checkpoint(&mut tasks, 3, "value 3").await;
    for task in &tasks {
        assert_eq!(retained(task), [1, 3], "what the commit outdates goes");
    }
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.paths("/reports/").await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_outage_makes_commits_late() {
    let world = World::new();
    let (daemons, mut tasks) = running(&world).await;
    for task in &mut tasks {
        task.put(1, &[("key", b"value 2")]);
        task.barrier(2);
    }
    // The parts are durable at once; the outage begins with the reports.
    for daemon in &daemons {
        while metric(daemon, "dstl_checkpoint_completed_total") < 4.0 {
            sleep(Duration::from_micros(1)).await;
        }
        daemon.faults.set_outage(true);
    }
    sleep(Duration::from_secs(60)).await;
    let before = record(&world).await.commits();
    for daemon in &daemons {
        daemon.faults.set_outage(false);
    }
    for task in &mut tasks {
        committed(task, 2).await;
    }
    assert!(before.len() <= 2);
    assert_eq!(record(&world).await.commits(), [on(1, 1), on(1, 2)]);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_declared_is_refused() {
    let world = World::new();
    let daemon = start(&world, 1);
    let empty = Declaration { operators: BTreeMap::new(), asked: Asked::Latest };
    let refused = daemon.directory.declare_job(&name("job"), 1, &empty).await;
    assert_eq!(refused.unwrap_err().reason, Reason::InvalidArgument);
    declare(&daemon, 2, Asked::Latest).await.unwrap();
    let reason = |error: Error| (error.reason, error.retryable);
    let mismatch = (Reason::DeclarationMismatch, false);
    assert_eq!(reason(declare(&daemon, 2, Asked::Empty).await.unwrap_err()), mismatch);
    assert_eq!(reason(declare(&daemon, 1, Asked::Latest).await.unwrap_err()), (Reason::Fenced, false));
    assert_eq!(reason(open(&daemon, ("map", 0), 2, LATEST).await.err().unwrap()), mismatch);
    assert_eq!(reason(open(&daemon, ("op", 0), 2, RestoreFrom::Id(3)).await.err().unwrap()), mismatch);
    assert_eq!(reason(open(&daemon, ("op", 0), 1, LATEST).await.err().unwrap()), (Reason::Fenced, false));
    let alone = daemon.subtask(0, 1, 2, LATEST).await.err().unwrap();
    assert_eq!(reason(alone), mismatch, "another parallelism");
    let mut task = open(&daemon, ("op", 0), 2, RestoreFrom::Empty).await.unwrap();
    assert!(task.opened.coordinated);
    task.checkpoint(1).await;
    let backend = task.opened.backend.clone();
    backend.close(backend.epoch()).await.unwrap();
    let again = open(&daemon, ("op", 0), 2, LATEST).await.err().unwrap();
    assert_eq!(reason(again), (Reason::Fenced, false), "its part of checkpoint 1 may be committed");
}

#[tokio::test(start_paused = true)]
async fn a_higher_attempt_that_was_not_declared_outdates_the_declared_one() {
    let world = World::new();
    let (daemons, mut old) = running(&world).await;
    let task = open(&daemons[0], ("op", 0), 2, RestoreFrom::Id(1)).await.unwrap();
    assert!(!task.opened.coordinated);
    for task in &mut old[1..] {
        task.barrier(2);
    }
    for task in &mut old[1..] {
        outdated(task).await;
    }
    let late = declare(&daemons[0], 2, Asked::Latest).await.unwrap_err();
    assert_eq!(late.reason, Reason::DeclarationMismatch, "it has begun without");
    // From here on its engine coordinates, and the latest is chosen as ever.
    let task = open(&daemons[1], ("op", 1), 2, LATEST).await.unwrap();
    assert_eq!(task.opened.checkpoint.map(|checkpoint| checkpoint.id), Some(1));
    assert_eq!(declare(&daemons[0], 3, Asked::Latest).await.unwrap().restore, Some(on(1, 1)));
}

#[tokio::test(start_paused = true)]
async fn operators_come_and_go_and_change_their_parallelism() {
    let world = World::new();
    let (daemons, _) = running(&world).await;
    let operators = BTreeMap::from([(name("op"), 3), (name("new"), 2)]);
    let declaration = Declaration { operators, asked: Asked::Latest };
    let generation = daemons[0].directory.declare_job(&name("job"), 2, &declaration).await.unwrap();
    assert_eq!((generation.restore, generation.new_operators), (Some(on(1, 1)), [name("new")].into()));
    let mut tasks = vec![];
    for (operator, parallelism) in [("op", 3), ("new", 2)] {
        for subtask in 0..parallelism {
            let mut spec = OpenSpec { restore: LATEST, ..spec(subtask, parallelism, 2) };
            spec.id.operator = name(operator);
            let opened = daemons[0].directory.open(spec, |_| {}).await.unwrap();
            assert_eq!(opened.checkpoint.is_some(), operator == "op");
            let backend = opened.backend.clone();
            tasks.push(Task { session: Session::start(backend.clone(), backend.epoch()).unwrap(), opened });
        }
    }
    for task in &mut tasks {
        task.barrier(2);
    }
    for task in &mut tasks {
        committed(task, 2).await;
    }
    let again = daemons[1].directory.declare_job(&name("job"), 3, &declaration).await.unwrap();
    assert_eq!((again.restore, again.new_operators.len()), (Some(on(2, 2)), 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_task_published_before_it_closed_is_reported_all_the_same() {
    let world = World::new();
    let (_daemons, mut tasks) = running(&world).await;
    let last = tasks.pop().unwrap();
    let request = dstl::backend::BarrierRequest { id: 2, attachment: bytes::Bytes::new(), timeout: None };
    let backend = last.opened.backend.clone();
    backend.checkpoint(backend.epoch(), request).await.unwrap();
    backend.close(backend.epoch()).await.unwrap();
    for task in &mut tasks {
        task.barrier(2);
    }
    for task in &mut tasks {
        committed(task, 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_declared_job_restores_is_discarded_only_by_force_which_ends_its_attempt() {
    let world = World::new();
    let (daemons, mut tasks) = running(&world).await;
    checkpoint(&mut tasks, 2, "value 2").await;
    tasks[0].checkpoint(3).await;
    let backend = tasks[0].opened.backend.clone();
    let part = |id| {
        let target = NoticeTarget { epoch: backend.epoch().number, id, uuid: None };
        Discard::Checkpoint(backend.id().clone(), target)
    };
    backend.close(backend.epoch()).await.unwrap();
    for id in [2, 3] {
        let refused = daemons[0].directory.discard(&part(id), false).await.unwrap_err();
        assert_eq!(refused.reason, Reason::InUse, "{id}");
    }
    assert_eq!(daemons[0].directory.discard(&part(1), false).await.unwrap().checkpoints, 1, "the older commit may go");
    assert_eq!(daemons[0].directory.discard(&part(3), true).await.unwrap().checkpoints, 1);
    // All others report it, too late.
    for task in &mut tasks[1..] {
        task.barrier(3);
    }
    for task in &mut tasks[1..] {
        outdated(task).await;
    }
    assert_eq!(declare(&daemons[1], 2, Asked::Latest).await.unwrap().restore, Some(on(1, 2)));
    for task in &mut open_all([&daemons[0], &daemons[1]], 2).await {
        assert_eq!(value(task), Some("value 2".to_owned()));
    }
}

#[tokio::test]
async fn the_rust_client_declares_and_hears_of_commits() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = crate::local::Daemon::start(folder.path(), &[]);
    let client = daemon.client().await;
    let declaration = |attempt| JobDeclaration::new("wc", attempt).tasks("count", 2);
    assert_eq!(client.declare_job(declaration(1)).await.unwrap().restore, None);
    let mut sessions = vec![];
    for subtask in 0..2 {
        let options = OpenOptions::new("wc", "count").subtask(subtask, 2).attempt(1);
        let backend = client.open(options).await.unwrap();
        assert!(backend.opened().coordinated);
        sessions.push(backend.session().await.unwrap());
    }
    assert_eq!(*sessions[0].job_completed().borrow(), None);
    let first = sessions[0].barrier(7, "").await.unwrap().await.unwrap();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(*sessions[0].job_completed().borrow(), None, "one of two");
    sessions[1].barrier(7, "").await.unwrap().await.unwrap();
    for session in &sessions {
        assert_eq!(session.wait_job_completed(7).await.unwrap().checkpoint_id, 7);
    }
    let part = first.checkpoint.unwrap();
    assert_eq!(sessions[0].complete(&part).await.unwrap(), dstl::proto::v1::NoticeOutcome::Coordinated);
    let restore = client.declare_job(declaration(2).from_checkpoint(7, None)).await.unwrap().restore.unwrap();
    assert_eq!((restore.attempt, restore.id), (1, 7));
    let outdated = client.declare_job(declaration(1)).await.unwrap_err();
    assert!(matches!(outdated, ClientError::Fenced(_)), "{outdated}");
    assert_eq!(client.declare_job(declaration(3).from_empty()).await.unwrap().restore, None);
}

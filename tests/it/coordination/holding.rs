//! What a declaration was told stays there, whoever lets go, discards or opens meanwhile, before whichever of its
//! requests.

use dstl::{
    backend::{OpenSpec, RestoreFrom},
    checkpoint::{
        discard::Discard,
        job::Asked,
        ledger::{NoticeKind, NoticeTarget, Retention},
    },
    error::{Error, Reason},
    types::InnerBackend,
};

use super::{LATEST, OPERATORS, checkpoint, declare, name, on, open, open_all, retained, value};
use crate::{
    gate::Gate,
    support::{Daemon, Settings, Task, World},
};

/// More requests than a declaration, or an open, makes.
const REQUESTS: u64 = 200;

fn settings(seed: u64) -> Settings {
    let mut settings = Settings::on_request(InnerBackend::HashMap, seed);
    settings.options.retention = Retention::Count(1);
    settings
}

fn start(world: &World, seed: u64) -> Daemon {
    Daemon::start(world, settings(seed))
}

/// What happens while somebody waits for the store.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Meanwhile {
    /// The owners of before say what they have let go of.
    TheyLetGo,
    /// The checkpoint of one of them is discarded.
    IsDiscarded,
}

/// A job of which attempt 1 has committed 1 and 2, and its owners have let go of 1 but not said so.
async fn scene(world: &World) -> (Daemon, Daemon, Vec<Task>) {
    let daemons = [start(world, 1), start(world, 100)];
    declare(&daemons[0], 1, Asked::Latest).await.unwrap();
    let mut tasks = open_all([&daemons[0], &daemons[1]], 1).await;
    checkpoint(&mut tasks, 1, "value 1").await;
    checkpoint(&mut tasks, 2, "value 2").await;
    let [one, two] = daemons;
    (one, two, tasks)
}

/// Whether all tasks of `attempt` begin with checkpoint 1.
async fn all_begin_with_it(daemons: [&Daemon; 2], attempt: u64, what: &str) {
    let mut tasks = open_all(daemons, attempt).await;
    for task in &mut tasks {
        assert_eq!(task.opened.checkpoint.map(|checkpoint| checkpoint.id), Some(1), "{what}");
        assert_eq!(value(task).as_deref(), Some("value 1"), "{what}");
    }
}

/// Declares attempt 2 from checkpoint 1, stopped before request `step`; `None` if it makes fewer. Returns whether it
/// was told so.
async fn declare_while(step: u64, meanwhile: Meanwhile) -> Option<bool> {
    let world = World::new();
    let (one, two, mut tasks) = scene(&world).await;
    let (slow, gate) = Gate::before(&world);
    let late = start(&slow, 200);
    gate.close_after(step, false);
    let declaring = declare(&late, 2, Asked::Given { id: 1, attempt: Some(1) });
    tokio::pin!(declaring);
    let done = tokio::select! {
        biased;
        done = &mut declaring => Some(done),
        () = gate.closed() => None,
    };
    let what = format!("{meanwhile:?} before request {step}");
    let is_over = done.is_some();
    match meanwhile {
        Meanwhile::TheyLetGo => {
            for task in &mut tasks {
                // A manifest for the notices alone.
                task.barrier(3);
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        Meanwhile::IsDiscarded => {
            let records = tasks[0].opened.backend.outline().manifest.checkpoints;
            let target = records.iter().find(|record| record.identity.id == 1).map(|record| record.identity);
            let third = start(&world, 300);
            if let Some(identity) = target {
                let target = NoticeTarget { epoch: identity.epoch, id: identity.id, uuid: Some(identity.uuid) };
                let discard = Discard::Checkpoint(tasks[0].opened.backend.id().clone(), target);
                match third.directory.discard(&discard, false).await {
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.reason, Reason::InUse, "{what}: {error}"),
                }
            }
        }
    }
    gate.open();
    let told = match done {
        Some(done) => done,
        None => declaring.await,
    };
    let told = match told {
        Ok(generation) => {
            assert_eq!(generation.restore, Some(on(1, 1)), "{what}");
            all_begin_with_it([&one, &two], 2, &what).await;
            true
        }
        Err(error) => {
            assert_eq!(error.reason, Reason::NoConsistentCheckpoint, "{what}: {error}");
            // The next one finds its way.
            let next = declare(&late, 3, Asked::Latest).await;
            assert!(next.is_ok_and(|next| next.restore != Some(on(1, 1))), "{what}");
            false
        }
    };
    (!is_over).then_some(told)
}

async fn at_every_step(meanwhile: Meanwhile) {
    let mut told = vec![];
    for step in 0..REQUESTS {
        let Some(outcome) = declare_while(step, meanwhile).await else { break };
        told.push(outcome);
    }
    // Some intruders come too late at every step: then all were told, and began with it.
    assert!(told.len() < REQUESTS as usize && told.contains(&true), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_declaration_was_told_is_there_although_owners_of_before_let_it_go() {
    at_every_step(Meanwhile::TheyLetGo).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_declaration_was_told_is_there_although_somebody_discards_it() {
    at_every_step(Meanwhile::IsDiscarded).await;
}

/// Takes its part of checkpoint 1, unless it is fenced already.
fn report(task: &mut Task) {
    let request = dstl::backend::BarrierRequest { id: 1, attachment: bytes::Bytes::new(), timeout: None };
    drop(task.session.barrier(request));
}

/// Opens subtask 0 of `op` with attempt 6, which nobody declared, stopped before request `step`, while attempt 5 is
/// declared, opens and reports; `None` if it makes fewer requests. Returns whether it opened.
async fn open_while(step: u64, restore: RestoreFrom) -> Option<bool> {
    let world = World::new();
    let daemons = [start(&world, 1), start(&world, 100)];
    let (slow, gate) = Gate::before(&world);
    let late = start(&slow, 200);
    gate.close_after(step, false);
    let spec = |attempt| OpenSpec { restore: restore.clone(), ..crate::support::spec(0, 2, attempt) };
    let opening = late.directory.open(spec(6), |_| {});
    tokio::pin!(opening);
    let opened = tokio::select! {
        biased;
        opened = &mut opening => Some(opened),
        () = gate.closed() => None,
    };
    let (is_over, what) = (opened.is_some(), format!("before request {step}"));
    // Refused where attempt 6 was there first.
    let declared: Result<_, Error> = declare(&daemons[0], 5, Asked::Latest).await;
    let mut tasks = vec![];
    if declared.is_ok() {
        for operator in OPERATORS {
            for subtask in 0..2 {
                tasks.push(open(&daemons[subtask as usize], (operator, subtask), 5, LATEST).await);
            }
        }
    }
    let others = tasks.len().saturating_sub(1);
    let (reporting, last) = tasks.split_at_mut(others);
    for task in reporting.iter_mut().flatten() {
        report(task);
    }
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    gate.open();
    let opened = match opened {
        Some(opened) => opened,
        None => opening.await,
    };
    let is_open = opened.is_ok();
    match &opened {
        Ok(opened) => {
            let backend = &opened.backend;
            for id in 1..4 {
                let request = dstl::backend::BarrierRequest { id, attachment: bytes::Bytes::new(), timeout: None };
                backend.checkpoint(backend.epoch(), request).await.unwrap();
                let target = NoticeTarget { epoch: backend.epoch().number, id, uuid: None };
                backend.notice(backend.epoch(), NoticeKind::Complete, target).unwrap();
            }
        }
        Err(error) => {
            assert_eq!((error.reason, error.retryable), (Reason::DeclarationMismatch, true), "{what}: {error}");
            // It outdated attempt 5, and may go on.
            late.directory.open(spec(6), |_| {}).await.unwrap();
        }
    }
    // The last report: whatever is committed has all its parts.
    for task in last.iter_mut().flatten() {
        report(task);
    }
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let description = daemons[0].directory.describe_job(&name("job")).await.unwrap();
    let commits = description.record.map_or_else(Vec::new, |record| record.commits());
    for commit in commits {
        assert!(description.view.consistent.contains(&commit), "{what}: {commit} was committed and is not there");
    }
    (!is_over).then_some(is_open)
}

#[tokio::test(start_paused = true)]
async fn an_opener_that_waited_while_a_lower_attempt_was_declared_takes_nothing_away() {
    let mut opened = vec![];
    for step in 0..REQUESTS {
        let Some(outcome) = open_while(step, RestoreFrom::Empty).await else { break };
        opened.push(outcome);
    }
    assert!(opened.len() < REQUESTS as usize && opened.contains(&true) && opened.contains(&false), "{opened:?}");
}

#[tokio::test(start_paused = true)]
async fn a_declaration_fences_nobody_where_owners_keep_what_it_restores_anyway() {
    let world = World::new();
    let (one, two, mut tasks) = scene(&world).await;
    let numbers = |tasks: &[Task]| tasks.iter().map(|task| task.opened.backend.outline().manifest.number).max();
    assert_eq!(declare(&one, 2, Asked::Latest).await.unwrap().restore, Some(on(1, 2)));
    let before = numbers(&tasks);
    // Nobody wrote to their chains: they go on, and hear only that they are outdated.
    tasks[0].barrier(3);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(numbers(&tasks) > before && retained(&tasks[0]).contains(&2));
    drop(tasks);
    for mut task in open_all([&one, &two], 2).await {
        assert_eq!(value(&mut task).as_deref(), Some("value 2"));
    }
}

//! Restarts of a whole job: the requests to the store grow with its subtasks, not with their square, and few wait for
//! one another.

use std::{ops::Range, time::Duration};

use dstl::{
    backend::{BackendOptions, RestoreFrom, SessionEvent},
    checkpoint::ledger::NoticeKind,
    object::faulty::{FaultPlan, RequestCounts},
    types::InnerBackend,
};
use tokio::time::Instant;

use crate::support::{Daemon, Settings, Task, World};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: false };

/// A daemon of which every request to the store takes a second.
fn slow(world: &World, seed: u64) -> Daemon {
    let settings = Settings::on_request(InnerBackend::HashMap, seed);
    let options = BackendOptions { data_inline_threshold: 20 << 10, ..settings.options };
    let daemon = Daemon::start(world, Settings { options, budget: 64 << 30, ..settings });
    let latency: Range<Duration> = Duration::from_secs(1)..Duration::from_nanos(1_000_000_001);
    daemon.faults.set_plan(FaultPlan { latency, ..FaultPlan::none() });
    daemon
}

fn requests(RequestCounts { puts, gets, lists, deletes, .. }: RequestCounts) -> u64 {
    puts + gets + lists + deletes
}

/// Opens all subtasks at once, and checks their state.
async fn restart(daemon: &Daemon, subtasks: u32, attempt: u64, restore: &RestoreFrom) -> Vec<Task> {
    let opening = (0..subtasks).map(|subtask| daemon.subtask(subtask, subtasks, attempt, restore.clone()));
    futures::future::try_join_all(opening).await.unwrap()
}

/// A job of so many subtasks, each with a checkpoint that completed, whose daemon has died.
async fn job(world: &World, subtasks: u32) {
    let daemon = slow(world, 1);
    let mut tasks = restart(&daemon, subtasks, 1, &RestoreFrom::Empty).await;
    for task in &mut tasks {
        task.put(0, &[("key", b"1")]);
        task.barrier(1);
    }
    for task in &mut tasks {
        assert!(matches!(task.event().await, SessionEvent::CheckpointCompleted(_)));
        task.notice(NoticeKind::Complete, 1);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    daemon.crash();
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_a_thousand_subtasks_costs_each_at_most_eight_requests() {
    const SUBTASKS: u32 = 1_000;
    let world = World::new();
    job(&world, SUBTASKS).await;
    let daemon = slow(&world, 50);
    let mut tasks = restart(&daemon, SUBTASKS, 2, &LATEST).await;
    let all = requests(daemon.faults.counts());
    assert!(all <= 8 * u64::from(SUBTASKS), "{all} requests: {:?}", daemon.faults.counts());
    for task in tasks.iter_mut().step_by(97) {
        assert_eq!(task.get(0, "key"), Some(b"1".to_vec()));
    }
}

#[tokio::test(start_paused = true)]
async fn it_costs_as_few_where_many_daemons_restart_at_once() {
    const SUBTASKS: u32 = 1_000;
    for daemons in [10, 100] {
        let world = World::new();
        job(&world, SUBTASKS).await;
        let daemons: Vec<_> = (0..daemons).map(|number| slow(&world, 50 + 100 * number)).collect();
        let host = |subtask: u32| &daemons[subtask as usize % daemons.len()];
        let opening = (0..SUBTASKS).map(|subtask| host(subtask).subtask(subtask, SUBTASKS, 2, LATEST));
        let mut tasks = futures::future::try_join_all(opening).await.unwrap();
        let all: u64 = daemons.iter().map(|daemon| requests(daemon.faults.counts())).sum();
        assert!(all <= 8 * u64::from(SUBTASKS), "{all} requests of {} daemons", daemons.len());
        for task in tasks.iter_mut().step_by(97) {
            assert_eq!(task.get(0, "key"), Some(b"1".to_vec()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_dies_while_it_decides_for_all_delays_the_others_and_no_more() {
    const SUBTASKS: u32 = 100;
    let world = World::new();
    job(&world, SUBTASKS).await;
    let (one, two) = (slow(&world, 50), slow(&world, 60));
    tokio::select! {
        biased;
        _ = restart(&one, SUBTASKS, 2, &LATEST) => panic!("it takes longer"),
        // By now it has announced that it decides, and reads.
        () = tokio::time::sleep(Duration::from_secs(8)) => {}
    }
    one.crash();
    let mut tasks = restart(&two, SUBTASKS, 2, &LATEST).await;
    for task in tasks.iter_mut().step_by(7) {
        assert_eq!(task.get(0, "key"), Some(b"1".to_vec()));
    }
}

#[tokio::test(start_paused = true)]
async fn at_most_four_requests_of_a_subtask_that_opens_wait_for_one_another() {
    const SUBTASKS: u32 = 8;
    let world = World::new();
    job(&world, SUBTASKS).await;
    let daemon = slow(&world, 50);
    // It reads all chains, and chooses for the others.
    daemon.subtask(0, SUBTASKS, 2, LATEST).await.unwrap();
    for subtask in 1..SUBTASKS {
        let (started, before) = (Instant::now(), requests(daemon.faults.counts()));
        let mut task = daemon.subtask(subtask, SUBTASKS, 2, LATEST).await.unwrap();
        let (seconds, requests) = (started.elapsed().as_secs_f64(), requests(daemon.faults.counts()) - before);
        assert!(seconds < 4.1 && requests <= 8, "subtask {subtask}: {requests} requests in {seconds} s of one each");
        assert_eq!(task.get(0, "key"), Some(b"1".to_vec()));
    }
}

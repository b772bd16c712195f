//! A declared job under a storm: daemons that are killed at any time, faults of the store, sweeps without grace,
//! engines that go back.

use std::time::Duration;

use dstl::{
    backend::{BackendOptions, SessionEvent},
    checkpoint::{
        collect::{self, SweepOptions},
        job::{Asked, JobCheckpoint},
        ledger::Retention,
    },
    error::Reason,
    object::{Retry, faulty::FaultPlan},
    random::Random,
    types::InnerBackend,
};
use tokio::time::{Instant, sleep};

use super::{LATEST, OPERATORS, declare, name, on, open, record, value};
use crate::support::{Daemon, Settings, Task, World};

/// Restarts of the job.
const ATTEMPTS: u64 = 10;

/// Delays, losses and effects that come later.
fn trouble() -> FaultPlan {
    FaultPlan {
        latency: Duration::ZERO..Duration::from_millis(40),
        error_before: 0.03,
        error_after: 0.03,
        refused: 0.03,
        hang: 0.0,
        delayed: 0.01,
        delay: Duration::ZERO..Duration::from_secs(5),
    }
}

struct Storm {
    world: World,
    random: Random,
    inner: InnerBackend,
    daemons: Vec<Daemon>,
    seeds: u64,
    /// What the job restores at least.
    promised: Option<JobCheckpoint>,
    commits: u64,
}

impl Storm {
    fn daemon(&mut self) -> Daemon {
        self.seeds += 10;
        let mut settings = Settings::on_request(self.inner, self.seeds);
        settings.options = BackendOptions {
            retention: Retention::Count(2),
            notice_delay: Duration::from_secs(1),
            coordination_interval: Duration::from_millis(200),
            ..settings.options
        };
        let daemon = Daemon::start(&self.world, settings);
        daemon.faults.set_plan(trouble());
        daemon
    }

    fn one_in(&self, n: u64) -> bool {
        self.random.below(n) == 0
    }

    fn some(&self) -> usize {
        usize::try_from(self.random.below(self.daemons.len() as u64)).unwrap()
    }

    fn kill(&mut self, at: usize) {
        let next = self.daemon();
        std::mem::replace(&mut self.daemons[at], next).crash();
    }

    /// Declares `attempt` with patience, mostly from the newest commit; checks what it restores.
    async fn begin(&mut self, attempt: u64) {
        let commits = match attempt {
            1 => vec![],
            _ => record(&self.world).await.commits(),
        };
        let older = commits.len().checked_sub(2).filter(|_| self.one_in(4)).map(|at| commits[at]);
        let asked = older.map_or(Asked::Latest, |on| Asked::Given { id: on.id, attempt: Some(on.attempt) });
        let mut gone = false;
        let generation = loop {
            let asked = if gone { Asked::Latest } else { asked };
            match declare(&self.daemons[self.some()], attempt, asked).await {
                Ok(generation) => break generation,
                // The commit before the newest, which one is not obliged to keep.
                Err(error) if error.reason == Reason::NoConsistentCheckpoint && !gone => gone = true,
                Err(error) => assert!(error.retryable, "attempt {attempt}: {error}"),
            }
            sleep(Duration::from_millis(50)).await;
        };
        if let Some(older) = older.filter(|_| !gone) {
            assert_eq!(generation.restore, Some(older));
        } else {
            assert!(generation.restore >= self.promised, "{:?}, and {:?} was told", generation.restore, self.promised);
        }
        self.promised = generation.restore;
    }

    /// Opens all tasks on some daemons and checks that each has exactly what the generation restores. None if a daemon
    /// has no room.
    async fn open(&self, attempt: u64) -> Vec<Task> {
        let mut tasks = vec![];
        for operator in OPERATORS {
            for subtask in 0..2 {
                let mut task = loop {
                    match open(&self.daemons[self.some()], (operator, subtask), attempt, LATEST).await {
                        Ok(task) => break task,
                        Err(error) => assert!(error.retryable, "attempt {attempt}: {error}"),
                    }
                    sleep(Duration::from_millis(50)).await;
                };
                let expected = self.promised.map(|on| on.to_string());
                assert_eq!(value(&mut task), expected, "`{operator}/{subtask}` of attempt {attempt}");
                tasks.push(task);
            }
        }
        tasks
    }

    /// Works for a while; a task that fails is the end of the attempt.
    async fn work(&mut self, attempt: u64, mut tasks: Vec<Task>) {
        let end = Instant::now() + Duration::from_millis(self.random.below(6_000));
        for id in 1.. {
            for task in &mut tasks {
                let (acknowledgement, _) = task.session.acknowledgement();
                task.put(acknowledgement.applied_to, &[("key", on(attempt, id).to_string().as_bytes())]);
                task.barrier(id);
                if self.one_in(20) {
                    sleep(Duration::from_millis(self.random.below(500))).await;
                }
            }
            if self.one_in(3) {
                sleep(Duration::from_millis(self.random.below(100))).await;
            }
            if self.one_in(6) {
                return self.kill(self.some());
            }
            let patience = Instant::now() + Duration::from_secs(30);
            for task in &mut tasks {
                loop {
                    let event = tokio::time::timeout_at(patience, task.event()).await.expect("it is committed");
                    match event {
                        SessionEvent::JobCheckpointCompleted(part) => {
                            self.promised = self.promised.max(Some(on(attempt, part.id)));
                            if part.id == id {
                                break;
                            }
                        }
                        SessionEvent::CheckpointCompleted(_) => {}
                        other => panic!("attempt {attempt}: {other:?}"),
                    }
                }
            }
            self.commits += 1;
            if Instant::now() >= end {
                return;
            }
        }
    }

    async fn rage(&mut self) {
        for attempt in 1..=ATTEMPTS {
            self.begin(attempt).await;
            let tasks = self.open(attempt).await;
            self.work(attempt, tasks).await;
            if self.one_in(5) {
                self.kill(0);
                self.kill(1);
            }
        }
        assert!(self.commits > ATTEMPTS, "{}", self.commits);
    }
}

async fn sweep(world: &World) -> Vec<String> {
    let options = SweepOptions { grace: Duration::ZERO, now_ms: 0, delete: true };
    let report = collect::sweep(&world.store(), &name("job"), &options, Retry::none()).await.unwrap();
    let left = report.findings.iter().filter(|found| found.verdict.word() != "live" && !found.deleted);
    left.map(|found| format!("{}: {}", found.meta.path, found.verdict.reason())).collect()
}

async fn storm(inner: InnerBackend, seed: u64) {
    let world = World::new();
    let random = Random::seeded(seed);
    let (seeds, daemons) = (seed * 10_000, vec![]);
    let mut storm = Storm { world: world.clone(), random, inner, daemons, seeds, promised: None, commits: 0 };
    storm.daemons = vec![storm.daemon(), storm.daemon()];
    let sweeping = async {
        loop {
            sweep(&world).await;
            sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        biased;
        () = storm.rage() => {}
        () = sweeping => {}
    }
    storm.kill(0);
    storm.kill(1);
    // Delayed effects have come by then.
    sleep(Duration::from_secs(60)).await;
    storm.begin(ATTEMPTS + 1).await;
    let tasks = storm.open(ATTEMPTS + 1).await;
    for task in tasks {
        task.opened.backend.close(task.opened.backend.epoch()).await.unwrap();
    }
    sweep(&world).await;
    sweep(&world).await;
    let reports = world.paths("/reports/").await;
    assert!(reports.is_empty(), "{reports:?}");
    let records = world.paths("/job/").await;
    assert!(records.len() as u64 <= dstl::checkpoint::job::KEPT_RECORDS, "{}", records.len());
}

#[tokio::test(start_paused = true)]
async fn nothing_that_was_committed_is_lost_in_a_storm() {
    for seed in 1..=2 {
        storm(InnerBackend::HashMap, seed).await;
    }
    storm(InnerBackend::RocksDb, 3).await;
}

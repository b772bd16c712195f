//! Outages of the store, short and long: checkpoints are late or fail one by one, and nothing else happens.

use std::{collections::BTreeMap, time::Duration};

use dstl::{
    backend::{BackendOptions, RestoreFrom, SessionEvent},
    checkpoint::ledger::{NoticeKind, Retention},
    error::Reason,
    types::{InnerBackend, Limits},
};
use tokio::time::{Instant, sleep};

use crate::support::{Daemon, Settings, Task, World, on_both};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };

/// Bytes of a batch, the largest there is.
const BATCH: u64 = 1000;

/// Bytes of changes that are not durable, of both tasks together.
const BUDGET: u64 = 300_000;

/// How long a checkpoint may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Between two looks at everything.
const TICK: Duration = Duration::from_millis(100);

on_both! {
    an_outage_of_1_second_is_hardly_noticed: |inner| super::outage(inner, 1);
    an_outage_of_10_seconds_makes_checkpoints_late: |inner| super::outage(inner, 10);
    an_outage_of_60_seconds_fails_checkpoints_one_by_one: |inner| super::outage(inner, 60);
}

fn settings(inner: InnerBackend, seed: u64) -> Settings {
    let settings = Settings::on_request(inner, seed);
    let options = BackendOptions {
        limits: Limits { max_message_bytes: BATCH as usize, max_value_bytes: 1000, ..Limits::default() },
        preemptive_persist_threshold: 20_000,
        checkpoint_timeout: TIMEOUT,
        retention: Retention::Count(10),
        ..settings.options
    };
    Settings { options, budget: BUDGET, ..settings }
}

/// A task that writes steadily, as far as it has credit, and checkpoints every second.
struct Writer {
    task: Task,
    number: u64,
    spent: u64,
    model: BTreeMap<String, Vec<u8>>,
    next_id: u64,
    completed: Vec<u64>,
    failed: Vec<u64>,
    /// Ticks in which there was no credit for a batch.
    refused: u64,
}

impl Writer {
    fn new(task: Task) -> Self {
        let (model, completed, failed) = Default::default();
        Self { task, number: 0, spent: 0, model, next_id: 1, completed, failed, refused: 0 }
    }

    fn write(&mut self) {
        for _ in 0..5 {
            let (_, credit) = self.task.session.acknowledgement();
            if self.spent + BATCH > credit {
                self.refused += 1;
                return;
            }
            let key = format!("key {:03}", self.number % 100);
            let value = vec![self.number as u8; BATCH as usize - key.len()];
            self.task.put(self.number, &[(&key, &value)]);
            (self.number, self.spent) = (self.number + 1, self.spent + BATCH);
            self.model.insert(key, value);
        }
    }

    fn barrier(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.task.barrier(id);
        id
    }

    fn look(&mut self) {
        while let Some(event) = self.task.session.outbox().pop() {
            match event {
                SessionEvent::CheckpointCompleted(done) => {
                    self.completed.push(done.identity.id);
                    self.task.notice(NoticeKind::Complete, done.identity.id);
                }
                SessionEvent::CheckpointFailed { id, error } => {
                    assert_eq!((error.reason, error.retryable), (Reason::CheckpointTimeout, true));
                    self.failed.push(id);
                }
                SessionEvent::Ended(error) => panic!("{error}"),
                _ => {}
            }
        }
        assert!(!self.task.opened.backend.has_ended());
    }
}

/// Lets everything go on for a while.
async fn live(daemon: &Daemon, writers: &mut [Writer], time: Duration) {
    for tick in 0..(time.as_millis() / TICK.as_millis()) {
        for writer in &mut *writers {
            writer.write();
            if tick % 10 == 0 {
                writer.barrier();
            }
            writer.look();
        }
        let text = daemon.metrics.encode();
        let pending = text.lines().find_map(|line| line.strip_prefix("dstl_changelog_pending_bytes ")).unwrap();
        assert!(pending.parse::<u64>().unwrap() <= BUDGET, "{pending} bytes of changes are held");
        sleep(TICK).await;
    }
}

async fn outage(inner: InnerBackend, seconds: u64) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut writers = vec![];
    for subtask in 0..2 {
        writers.push(Writer::new(daemon.subtask(subtask, 2, 1, LATEST).await.unwrap()));
    }
    live(&daemon, &mut writers, Duration::from_secs(3)).await;
    assert!(writers.iter().all(|writer| writer.completed == [1, 2, 3] && writer.refused == 0));
    daemon.faults.set_outage(true);
    live(&daemon, &mut writers, Duration::from_secs(seconds)).await;
    for writer in &writers {
        assert_eq!(writer.completed, [1, 2, 3], "nothing is durable");
        let failed: Vec<u64> = (4..4 + seconds.saturating_sub(TIMEOUT.as_secs())).collect();
        assert_eq!(writer.failed, failed, "each when its own time is up");
        assert_eq!(writer.refused > 0, seconds >= 10, "the writer waits once the budget is used up");
        assert_eq!(writer.task.opened.backend.epoch().number, 1);
    }
    daemon.faults.set_outage(false);
    let first: Vec<u64> = writers.iter_mut().map(Writer::barrier).collect();
    let models: Vec<_> = writers.iter().map(|writer| writer.model.clone()).collect();
    let over = Instant::now();
    while writers.iter().zip(&first).any(|(writer, first)| !writer.completed.contains(first)) {
        writers.iter_mut().for_each(Writer::look);
        sleep(TICK).await;
        assert!(over.elapsed() < TIMEOUT, "the first checkpoint after it is late");
    }
    let refused: Vec<u64> = writers.iter().map(|writer| writer.refused).collect();
    live(&daemon, &mut writers, Duration::from_secs(5)).await;
    for ((writer, refused), first) in writers.iter().zip(refused).zip(&first) {
        assert_eq!(writer.refused, refused, "the writer goes on");
        let late: Vec<u64> = (4..*first).filter(|id| !writer.failed.contains(id)).collect();
        assert!(late.iter().all(|id| writer.completed.contains(id)), "those whose time was not up are late");
        assert!(writer.completed.contains(&(first + 4)));
    }
    daemon.crash();
    let daemon = Daemon::start(&world, settings(inner, 9));
    for (subtask, (model, first)) in (0_u32..).zip(models.iter().zip(first)) {
        // Subtasks came to the same ids.
        let mut task = daemon.subtask(subtask, 2, 2, RestoreFrom::Id(first)).await.unwrap();
        for (number, (key, value)) in (0..).zip(model) {
            assert_eq!(task.get(number, key).as_ref(), Some(value), "{key}");
        }
    }
}

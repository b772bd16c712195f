//! A store that takes segments and manifests but no snapshots: checkpoints go on, recovery stays bounded.

use std::time::Duration;

use dstl::{
    backend::{BackendOptions, Operation, RestoreFrom},
    checkpoint::ledger::NoticeKind,
    error::Reason,
    materialization::schedule::ScheduleOptions,
    state::op::Op,
    types::{Limits, StateId},
};

use crate::{
    picky::Refused,
    support::{Daemon, Settings, Task, World},
};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };
const LABELS: &str = r#"{job="job",operator="op",subtask="0"}"#;
const SNAPSHOTS: Option<&str> = Some("/snapshot/");

/// Bytes of the largest batch.
const LARGEST: u64 = 1000;

/// Changes of a batch of that size.
const BATCH: u64 = 10;

/// The limit: 1000 changes, at 100 a second.
const LIMIT: Duration = Duration::from_secs(10);

fn settings(seed: u64) -> Settings {
    let materialization = ScheduleOptions { interval: None, max_replay: LIMIT, replay_rate: 100.0 };
    let options = BackendOptions {
        materialization,
        materialization_timeout: Duration::from_secs(5),
        limits: Limits { max_message_bytes: LARGEST as usize, max_value_bytes: 100, ..Limits::default() },
        preemptive_persist_threshold: 2000,
        ..BackendOptions::default()
    };
    Settings { options, budget: 100_000, seed, ..Settings::default() }
}

/// What batch `number` puts under each of its keys, so that the batch is one of the largest.
fn value(number: u64) -> String {
    format!("{number:098}")
}

/// A task that writes as far as it has credit.
struct Writer {
    task: Task,
    number: u64,
    spent: u64,
}

impl Writer {
    fn new(task: Task) -> Self {
        Self { task, number: 0, spent: 0 }
    }

    /// Writes one batch if there is credit for it; returns whether.
    fn write(&mut self) -> bool {
        let (_, credit) = self.task.session.acknowledgement();
        if self.spent + LARGEST > credit {
            return false;
        }
        let (keys, value) = ((0..BATCH).map(|key| format!("k{key}")).collect::<Vec<_>>(), value(self.number));
        let entries: Vec<_> = keys.iter().map(|key| (key.as_str(), value.as_bytes())).collect();
        self.task.put(self.number, &entries);
        (self.number, self.spent) = (self.number + 1, self.spent + LARGEST);
        true
    }

    /// Writes until there is no more credit, however long uploads are waited for. Returns the number of the last batch.
    async fn write_all(&mut self) -> u64 {
        let mut refused = 0;
        while refused < 20 {
            refused = if self.write() { 0 } else { refused + 1 };
            assert!(self.number < 1000, "the writer is never pushed back");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.number - 1
    }

    fn read(&mut self) -> String {
        self.number += 1;
        String::from_utf8(self.task.get(self.number - 1, "k3").unwrap()).unwrap()
    }

    fn replay(&self) -> Duration {
        self.task.opened.backend.describe().replay
    }
}

fn assert_metric(daemon: &Daemon, line: &str) {
    let text = daemon.metrics.encode();
    assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
}

#[tokio::test(start_paused = true)]
async fn without_materializations_the_log_stops_at_its_limit_and_goes_on_after_one() {
    let refused = Refused::default();
    let world = refused.by(World::new());
    let daemon = Daemon::start(&world, settings(1));
    let mut writer = Writer::new(daemon.task(1, LATEST).await.unwrap());
    refused.set(SNAPSHOTS);
    let last = writer.write_all().await;
    assert_eq!(writer.replay(), LIMIT);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let description = writer.task.opened.backend.describe();
    assert!(description.pushed_back && description.materialization_failures > 0);
    assert_metric(&daemon, &format!("dstl_backend_pushed_back{LABELS} 1"));
    assert_metric(&daemon, "dstl_backend_push_backs_total 1");
    assert_metric(&daemon, &format!("dstl_backend_replay_seconds{LABELS} 10.0"));
    // Everything but writes goes on.
    for id in 1..=5 {
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(writer.read(), value(last));
        writer.task.checkpoint(id).await;
        writer.task.notice(NoticeKind::Complete, id);
        assert!(!writer.write(), "no credit is granted");
    }
    writer.task.barrier(6);
    writer.task.notice(NoticeKind::Abort, 6);
    let dstl::backend::SessionEvent::CheckpointFailed { id: 6, error } = writer.task.event().await else {
        panic!("it was aborted")
    };
    assert_eq!((error.reason, writer.replay()), (Reason::CheckpointAborted, LIMIT));

    refused.set(None);
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!(writer.replay(), Duration::ZERO);
    assert_metric(&daemon, &format!("dstl_backend_pushed_back{LABELS} 0"));
    assert_metric(&daemon, &format!("dstl_materialization_consecutive_failures{LABELS} 0"));
    for _ in 0..300 {
        assert!(writer.write(), "materializations keep up");
        assert!(writer.replay() < LIMIT);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_metric(&daemon, "dstl_backend_push_backs_total 1");
    writer.task.checkpoint(7).await;
    let last = writer.number - 1;
    daemon.crash();
    let daemon = Daemon::start(&world, settings(2));
    let mut writer = Writer::new(daemon.task(2, RestoreFrom::Id(7)).await.unwrap());
    assert_eq!(writer.read(), value(last));
}

#[tokio::test(start_paused = true)]
async fn a_unary_batch_waits_for_the_materialization_and_an_owner_that_ends_does_not() {
    let refused = Refused::default();
    let world = refused.by(World::new());
    let daemon = Daemon::start(&world, settings(1));
    let mut writer = Writer::new(daemon.task(1, LATEST).await.unwrap());
    refused.set(SNAPSHOTS);
    writer.write_all().await;
    let Writer { task, .. } = writer;
    let backend = task.opened.backend.clone();
    drop(task);
    let put = || {
        let backend = backend.clone();
        tokio::spawn(async move {
            let op = Op::Put(b"written");
            let put = Operation { state: StateId(1), key_group: Some(0), key: b"unary", namespace: b"", op };
            backend.apply_batch(backend.epoch(), None, 12, &[put]).await
        })
    };
    let mut waiting = put();
    assert!(tokio::time::timeout(Duration::from_secs(300), &mut waiting).await.is_err(), "it waits");
    let read = Operation { state: StateId(1), key_group: Some(0), key: b"unary", namespace: b"", op: Op::Get };
    backend.apply_batch(backend.epoch(), None, 0, &[read]).await.unwrap();
    refused.set(None);
    waiting.await.unwrap().unwrap();

    refused.set(SNAPSHOTS);
    let mut writer = Writer::new(daemon.task(1, LATEST).await.unwrap());
    writer.number = writer.task.opened.applied_to;
    writer.write_all().await;
    drop(writer);
    let waiting = put();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    backend.close(backend.epoch()).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().reason, Reason::BackendClosed);
    assert!(!daemon.metrics.encode().contains("dstl_backend_pushed_back{"), "what is closed is forgotten");
}

#[tokio::test(start_paused = true)]
async fn checkpoints_and_restores_go_on_while_every_materialization_fails() {
    let refused = Refused::default();
    let world = refused.by(World::new());
    refused.set(SNAPSHOTS);
    let settings = |seed| {
        let mut settings = settings(seed);
        settings.options.materialization.interval = Some(Duration::from_secs(1));
        settings.options.materialization.max_replay = Duration::from_secs(1000);
        settings
    };
    let mut id = 0;
    for attempt in 1..=5 {
        let daemon = Daemon::start(&world, settings(attempt * 10));
        let mut writer = Writer::new(daemon.task(attempt, LATEST).await.unwrap());
        if id > 0 {
            assert_eq!(writer.read(), value(2 * id), "attempt {attempt}");
        }
        for _ in 0..20 {
            id += 1;
            writer.number = writer.task.session.acknowledgement().0.applied_to;
            let written = value(2 * id);
            let spent = writer.spent + 2 + written.len() as u64;
            while writer.task.session.acknowledgement().1 < spent {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            writer.task.put(writer.number, &[("k3", written.as_bytes())]);
            writer.spent = spent;
            writer.task.checkpoint(id).await;
            writer.task.notice(NoticeKind::Complete, id);
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        let failures = writer.task.opened.backend.describe().materialization_failures;
        assert!(failures >= 3, "{failures}");
        assert_metric(&daemon, &format!("dstl_materialization_consecutive_failures{LABELS} {failures}"));
        assert_metric(&daemon, &format!("dstl_materialization_failed_total {failures}"));
        assert_metric(&daemon, "dstl_materialization_completed_total 0");
        daemon.crash();
    }
    assert!(world.paths("/snapshot/").await.is_empty());
}

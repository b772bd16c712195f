//! Two daemons fight over one backend, while sweeps without grace run all the time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dstl::{
    backend::{BackendOptions, Operation, RestoreFrom, SessionEvent},
    checkpoint::{
        collect::{self, SweepOptions, SweepReport},
        ledger::{NoticeKind, NoticeTarget},
    },
    error::Reason,
    materialization::schedule::ScheduleOptions,
    object::{Retry, faulty::FaultPlan},
    random::Random,
    state::op::Op,
    types::{InnerBackend, Name, StateId},
};
use tokio::{task::JoinSet, time::sleep};

use crate::support::{Daemon, Settings, Task, World, group_of};

/// Takeovers.
const TAKEOVERS: u64 = 12;

/// All have the value of the checkpoint's id when it is cut.
const KEYS: u64 = 40;

/// Ids of an attempt begin at its number times this.
const IDS: u64 = 10_000;

fn settings(inner: InnerBackend, seed: u64) -> Settings {
    let materialization = ScheduleOptions { interval: Some(Duration::from_secs(2)), ..ScheduleOptions::default() };
    let options = BackendOptions {
        inner,
        materialization,
        preemptive_persist_threshold: 300,
        notice_delay: Duration::from_secs(1),
        ..BackendOptions::default()
    };
    Settings { options, seed, ..Settings::default() }
}

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

async fn sweep(world: &World) -> SweepReport {
    let options = SweepOptions { grace: Duration::ZERO, now_ms: 0, delete: true };
    collect::sweep(&world.store(), &Name::new("job").unwrap(), &options, Retry::none()).await.unwrap()
}

/// One owner at work.
struct Owner {
    task: Task,
    random: Random,
    /// The highest id of which any owner was told that its checkpoint is restorable.
    promised: Arc<AtomicU64>,
}

impl Owner {
    /// Writes `value` under all keys, in two batches. An error is the end of the owner.
    fn write(&mut self, value: u64) -> Result<(), ()> {
        for half in 0..2 {
            let (acknowledgement, _) = self.task.session.acknowledgement();
            let keys: Vec<_> = (half * KEYS / 2..(half + 1) * KEYS / 2).map(|key| format!("key {key}")).collect();
            let value = value.to_string();
            let groups = self.task.opened.shape.key_groups;
            let mut operations = vec![];
            for key in &keys {
                let (state, key_group) = (StateId(1), Some(group_of(groups, key)));
                let op = Op::Put(value.as_bytes());
                operations.push(Operation { state, key_group, key: key.as_bytes(), namespace: b"", op });
            }
            self.task.apply(acknowledgement.applied_to, 0, &operations).map_err(|_| ())?;
        }
        Ok(())
    }

    /// Works until it is fenced.
    async fn work(mut self, attempt: u64) {
        let mut id = attempt * IDS;
        loop {
            id += 1;
            if self.write(id).is_err() {
                return;
            }
            let request = dstl::backend::BarrierRequest { id, attachment: id.to_string().into(), timeout: None };
            if self.task.session.barrier(request).is_err() || self.write(0).is_err() {
                return;
            }
            match self.task.event().await {
                SessionEvent::CheckpointCompleted(completed) => {
                    assert_eq!(completed.identity.id, id);
                    self.promised.fetch_max(id, Ordering::Relaxed);
                    let target = NoticeTarget { epoch: completed.identity.epoch, id, uuid: None };
                    if self.random.below(4) > 0 && self.task.session.notice(NoticeKind::Complete, target).is_err() {
                        return;
                    }
                }
                SessionEvent::CheckpointFailed { .. }
                | SessionEvent::SavepointMade(_)
                | SessionEvent::Persisted { .. }
                | SessionEvent::JobCheckpointCompleted(_) => {}
                SessionEvent::Ended(_) => return,
            }
            sleep(Duration::from_millis(self.random.below(300))).await;
        }
    }
}

/// Opens with patience and checks that the state is exactly that of the checkpoint. Counts attempts on.
async fn open(daemon: &Daemon, attempt: &mut u64, promised: &AtomicU64) -> Task {
    let at_least = promised.load(Ordering::Relaxed);
    let restore = RestoreFrom::Latest { or_empty: at_least == 0 };
    let mut task = loop {
        match daemon.task(*attempt, restore.clone()).await {
            Ok(task) => break task,
            // What this attempt is bound to restore was subsumed by the owner that it was about to fence.
            Err(error) if error.reason == Reason::CheckpointNotFound => *attempt += 1,
            Err(error) => assert!(error.retryable, "attempt {attempt}: {error}"),
        }
        sleep(Duration::from_millis(50)).await;
    };
    let restored = task.opened.checkpoint.map_or(0, |checkpoint| checkpoint.id);
    assert!(restored >= at_least, "attempt {attempt} restored {restored}, and {at_least} was promised");
    for (number, key) in (task.opened.applied_to..).zip(0..KEYS) {
        let value = task.get(number, &format!("key {key}"));
        assert_eq!(value, (restored > 0).then(|| restored.to_string().into_bytes()), "key {key} of {restored}");
    }
    let attachment = if restored > 0 { restored.to_string() } else { String::new() };
    assert_eq!(&task.opened.attachment[..], attachment.as_bytes());
    task
}

async fn fight(inner: InnerBackend, seed: u64) {
    let world = World::new();
    let daemons = [1, 2].map(|n| Daemon::start(&world, settings(inner, seed * 100 + n * 10)));
    for daemon in &daemons {
        daemon.faults.set_plan(trouble());
    }
    let random = Random::seeded(seed);
    let promised = Arc::new(AtomicU64::new(0));
    let mut owners = JoinSet::new();
    let fighting = async {
        let mut attempt = 0;
        for _ in 0..TAKEOVERS {
            attempt += 1;
            // Mostly the other one; a daemon may take over from itself.
            let daemon = &daemons[usize::from(random.below(4) == 0) ^ (attempt % 2) as usize];
            let task = open(daemon, &mut attempt, &promised).await;
            let owner = Owner { task, random: random.clone(), promised: promised.clone() };
            owners.spawn(owner.work(attempt));
            sleep(Duration::from_millis(random.below(4000))).await;
        }
        attempt
    };
    let sweeping = async {
        loop {
            sweep(&world).await;
            sleep(Duration::from_millis(100)).await;
        }
    };
    let mut attempt = tokio::select! {
        biased;
        attempt = fighting => attempt + 1,
        () = sweeping => 0,
    };
    let task = open(&daemons[0], &mut attempt, &promised).await;
    assert!(promised.load(Ordering::Relaxed) > IDS, "checkpoints completed under the fight");
    while let Some(ended) = owners.join_next().await {
        ended.unwrap();
    }
    task.opened.backend.close(task.opened.backend.epoch()).await.unwrap();
    // Delayed effects have come by then.
    sleep(Duration::from_secs(60)).await;
    sweep(&world).await;
    let left = sweep(&world).await;
    let unreferenced: Vec<_> = left.findings.iter().filter(|f| f.verdict.word() != "live").collect();
    assert!(unreferenced.is_empty(), "{unreferenced:?}");
    assert!(!world.paths("/snapshot/").await.is_empty(), "materializations were made under the fight");
    for daemon in &daemons {
        daemon.faults.set_plan(FaultPlan::none());
    }
    open(&daemons[1], &mut (attempt + 1), &promised).await;
}

#[tokio::test(start_paused = true)]
async fn two_daemons_that_fight_while_sweeps_run_lose_nothing_and_leave_nothing() {
    for (seed, inner) in [(1, InnerBackend::HashMap), (2, InnerBackend::RocksDb)] {
        fight(inner, seed).await;
    }
}

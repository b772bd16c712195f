//! Checkpoints without changelog: each is what was there at its barrier, whatever is written, fails or is aborted
//! meanwhile.

use std::{collections::BTreeMap, time::Duration};

use dstl::{
    backend::{BarrierRequest, OpenSpec, Operation, RestoreFrom, SessionEvent},
    checkpoint::{
        collect::{self, SweepOptions},
        ledger::{NoticeKind, Retention},
    },
    error::Reason,
    object::{Retry, faulty::FaultPlan},
    random::Random,
    state::op::Op,
    types::{InnerBackend, Name, StateId},
};
use tokio::time::Instant;

use crate::{
    picky::Refused,
    support::{Daemon, Settings, Task, World, group_of, on_both, spec},
};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };
const NO_GRACE: SweepOptions = SweepOptions { grace: Duration::ZERO, now_ms: 0, delete: true };

on_both! {
    checkpoints_in_flight_are_each_what_was_there_at_their_barrier
    failures_aborts_and_subsumption_leave_retained_checkpoints_whole_and_nothing_else
    a_refused_upload_fails_its_checkpoint_alone_and_does_not_hold_up_the_next
    what_did_not_change_is_not_uploaded_again_by_any_owner
    a_checkpoint_without_changes_writes_a_manifest_alone
    persisted_follows_snapshots
    a_stale_owner_publishes_no_snapshot
    the_changelog_is_switched_at_every_restore
    there_is_nothing_to_persist_or_materialize
    a_reconnect_in_another_mode_is_refused
}

type Model = BTreeMap<String, Vec<u8>>;

fn settings(inner: InnerBackend, seed: u64) -> Settings {
    let mut settings = Settings::on_request(inner, seed);
    settings.options.changelog = false;
    settings
}

fn slow(from: u64, to: u64) -> FaultPlan {
    FaultPlan { latency: Duration::from_millis(from)..Duration::from_millis(to), ..FaultPlan::none() }
}

/// A task and what its state should be.
struct State {
    task: Task,
    number: u64,
    model: Model,
    random: Random,
}

impl State {
    async fn open(daemon: &Daemon, attempt: u64, restore: RestoreFrom, model: Model) -> Self {
        let opened = daemon.task(attempt, restore).await.unwrap();
        Self { task: opened, number: 0, model, random: Random::seeded(attempt) }
    }

    /// One that keeps every checkpoint until it is told otherwise.
    async fn open_explicit(daemon: &Daemon, attempt: u64) -> Self {
        let spec = OpenSpec { restore: LATEST, retention: Some(Retention::Explicit), ..spec(0, 1, attempt) };
        daemon.directory.open(spec, |_| {}).await.unwrap();
        Self::open(daemon, attempt, LATEST, Model::new()).await
    }

    /// Overwrites or clears `count` of `keys` keys, a few in a batch.
    fn write(&mut self, count: u64, keys: u64) {
        let groups = self.task.opened.shape.key_groups;
        for _ in 0..count.div_ceil(5) {
            let entries: Vec<(String, Vec<u8>, bool)> = (0..5)
                .map(|_| {
                    let value = vec![self.random.below(256) as u8; self.random.below(60) as usize];
                    (format!("key {}", self.random.below(keys)), value, self.random.below(4) == 0)
                })
                .collect();
            let operation = |(key, value, clears): &(String, Vec<u8>, bool)| (key.clone(), value.clone(), *clears);
            let owned: Vec<_> = entries.iter().map(operation).collect();
            let operations: Vec<Operation<'_>> = owned
                .iter()
                .map(|(key, value, clears)| Operation {
                    state: StateId(1),
                    key_group: Some(group_of(groups, key)),
                    key: key.as_bytes(),
                    namespace: b"",
                    op: if *clears { Op::Clear } else { Op::Put(value) },
                })
                .collect();
            self.task.session.acknowledgement();
            self.task.apply(self.number, 1000, &operations).unwrap();
            self.number += 1;
            for (key, value, clears) in owned {
                if clears {
                    self.model.remove(&key)
                } else {
                    self.model.insert(key, value)
                };
            }
        }
    }

    fn barrier(&mut self, id: u64, timeout: Option<Duration>) {
        let request = BarrierRequest { id, attachment: format!("at {id}").into(), timeout };
        self.task.session.barrier(request).unwrap();
    }

    async fn checkpoint(&mut self, id: u64) -> dstl::backend::CompletedCheckpoint {
        let completed = self.task.checkpoint(id).await;
        self.task.notice(NoticeKind::Complete, id);
        completed
    }

    /// Asserts that the state equals the model, to the last entry.
    fn check(&mut self, keys: u64, what: &str) {
        for key in (0..keys).map(|key| format!("key {key}")) {
            assert_eq!(self.task.get(self.number, &key), self.model.get(&key).cloned(), "{what}: {key}");
            self.number += 1;
        }
        let description = self.task.opened.backend.describe();
        assert_eq!(description.states[0].entries, self.model.len() as u64, "{what}");
    }
}

/// Lets time pass, a little at a time, with writes in between.
async fn write_on(state: &mut State, millis: u64, keys: u64) {
    for _ in 0..millis / 10 {
        state.write(5, keys);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn sweep(world: &World) -> Vec<String> {
    let job = Name::new("job").unwrap();
    let report = collect::sweep(&world.store(), &job, &NO_GRACE, Retry::none()).await.unwrap();
    let left = report.findings.iter().filter(|finding| finding.verdict.word() != "live");
    left.map(|finding| format!("{} {}", finding.verdict.word(), finding.meta.path)).collect()
}

async fn checkpoints_in_flight_are_each_what_was_there_at_their_barrier(inner: InnerBackend) {
    const KEYS: u64 = 6_000;
    let seeds = if inner == InnerBackend::HashMap { 1..=3 } else { 1..=1 };
    for seed in seeds {
        let world = World::new();
        let daemon = Daemon::start(&world, settings(inner, seed * 100));
        let mut state = State::open_explicit(&daemon, 1).await;
        state.write(9_000, KEYS);
        let mut models = BTreeMap::new();
        daemon.faults.set_plan(slow(50, 400));
        for id in 1..=12 {
            state.barrier(id, None);
            models.insert(id, state.model.clone());
            // Few keys now and then, so that there is something to use again.
            write_on(&mut state, 20 + 60 * (id % 4), if id % 3 == 0 { 50 } else { KEYS }).await;
        }
        for _ in 1..=12 {
            let event = state.task.event().await;
            assert!(matches!(event, SessionEvent::CheckpointCompleted(_)), "seed {seed}: {event:?}");
        }
        let held = daemon.metrics.encode();
        assert!(held.contains("dstl_changelog_pending_bytes 0\n"), "copies are given back");
        daemon.crash();
        for (attempt, (id, model)) in (2..).zip(models) {
            let daemon = Daemon::start(&world, settings(inner, seed * 1000 + attempt * 10));
            let mut restored = State::open(&daemon, attempt, RestoreFrom::Id(id), model).await;
            assert_eq!(restored.task.opened.attachment, format!("at {id}"));
            restored.check(KEYS, &format!("seed {seed}, checkpoint {id}"));
            daemon.crash();
        }
    }
}

async fn failures_aborts_and_subsumption_leave_retained_checkpoints_whole_and_nothing_else(inner: InnerBackend) {
    const KEYS: u64 = 3_000;
    let seeds = if inner == InnerBackend::HashMap { 1..=4 } else { 1..=2 };
    for seed in seeds {
        let world = World::new();
        let random = Random::seeded(seed);
        let mut options = settings(inner, seed * 100);
        options.options.checkpoint_timeout = Duration::from_secs(40);
        let daemon = Daemon::start(&world, options);
        let mut state = State::open_explicit(&daemon, 1).await;
        state.write(3_000, KEYS);
        let (mut models, mut completed, mut failed) = (BTreeMap::new(), vec![], 0);
        let wild = FaultPlan {
            error_before: 0.1,
            error_after: 0.1,
            refused: 0.05,
            hang: 0.02,
            delayed: 0.05,
            delay: Duration::from_secs(1)..Duration::from_secs(30),
            ..slow(10, 600)
        };
        daemon.faults.set_plan(wild);
        for id in 1..=25 {
            state.barrier(id, None);
            models.insert(id, state.model.clone());
            let pause = 30 + random.below(3000);
            write_on(&mut state, pause, if id % 3 == 0 { 20 } else { KEYS }).await;
            match random.below(6) {
                0 => state.task.notice(NoticeKind::Abort, id),
                1 => state.task.notice(NoticeKind::Subsume, id.saturating_sub(6)),
                2 => {
                    daemon.faults.set_outage(true);
                    write_on(&mut state, random.below(2) * 15_000, 30).await;
                    daemon.faults.set_outage(false);
                }
                3 => drop(sweep(&world).await),
                _ => {}
            }
        }
        daemon.faults.set_plan(FaultPlan::none());
        tokio::time::sleep(Duration::from_secs(60)).await;
        while let Some(event) = state.task.session.outbox().pop() {
            match event {
                SessionEvent::CheckpointCompleted(done) => completed.push(done.identity.id),
                SessionEvent::CheckpointFailed { .. } => failed += 1,
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        assert!(completed.len() > 4 && failed > 0, "seed {seed}: {completed:?}, {failed} failed");
        state.task.opened.backend.close(state.task.opened.backend.epoch()).await.unwrap();
        let retained: Vec<u64> =
            state.task.opened.backend.outline().manifest.checkpoints.iter().map(|r| r.identity.id).collect();
        daemon.crash();
        for (attempt, id) in (2..).zip(retained.clone()) {
            sweep(&world).await;
            let daemon = Daemon::start(&world, settings(inner, seed * 1000 + attempt * 10));
            let mut restored = State::open(&daemon, attempt, RestoreFrom::Id(id), models[&id].clone()).await;
            restored.check(KEYS, &format!("seed {seed}, checkpoint {id} of {retained:?}"));
            daemon.crash();
        }
        // What comes after all of that needs nothing of it, and nothing stays.
        let daemon = Daemon::start(&world, settings(inner, seed * 1000 + 999));
        let newest = RestoreFrom::Id(*retained.last().unwrap());
        let mut state = State::open(&daemon, 99, newest, models[retained.last().unwrap()].clone()).await;
        for id in 101..=106 {
            state.write(KEYS, KEYS);
            state.checkpoint(id).await;
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        sweep(&world).await;
        assert_eq!(sweep(&world).await, Vec::<String>::new());
        assert_eq!(world.paths("segments").await, Vec::<String>::new());
        let own = world.paths("/snapshot/").await.into_iter();
        let foreign: Vec<_> = own.filter(|path| !path.contains("/00000")).collect();
        assert_eq!(foreign, Vec::<String>::new());
    }
}

async fn a_refused_upload_fails_its_checkpoint_alone_and_does_not_hold_up_the_next(inner: InnerBackend) {
    let refused = Refused::default();
    let world = refused.by(World::new());
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut state = State::open(&daemon, 1, LATEST, Model::new()).await;
    state.write(500, 300);
    let began = Instant::now();
    refused.set(Some("/00000001-000000000001."));
    state.barrier(1, Some(Duration::from_secs(60)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let model = state.model.clone();
    state.barrier(2, Some(Duration::from_secs(40)));
    state.write(500, 300);
    match state.task.event().await {
        SessionEvent::CheckpointCompleted(done) => assert_eq!(done.identity.id, 2),
        other => panic!("{other:?}"),
    }
    assert!(began.elapsed() < Duration::from_secs(15), "it waited a quarter of its time: {:?}", began.elapsed());
    match state.task.event().await {
        SessionEvent::CheckpointFailed { id, error } => assert_eq!((id, error.reason), (1, Reason::CheckpointTimeout)),
        other => panic!("{other:?}"),
    }
    assert!((58..=60).contains(&began.elapsed().as_secs()), "it was tried until then");
    refused.set(None);
    state.checkpoint(3).await;
    assert!(state.task.opened.backend.outline().failsafe.is_empty());
    daemon.crash();
    let daemon = Daemon::start(&world, settings(inner, 2));
    State::open(&daemon, 2, RestoreFrom::Id(2), model).await.check(300, "the second");
}

async fn what_did_not_change_is_not_uploaded_again_by_any_owner(inner: InnerBackend) {
    const KEYS: u64 = 20_000;
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut state = State::open(&daemon, 1, LATEST, Model::new()).await;
    state.write(20_000, KEYS);
    let full = state.checkpoint(1).await;
    assert!(full.incremental_bytes >= full.full_bytes && full.full_bytes > 100_000, "{full:?}");
    state.write(1, 1);
    let second = state.checkpoint(2).await;
    assert!(second.incremental_bytes < full.incremental_bytes / 3, "{second:?} after {full:?}");
    let manifest = state.task.opened.backend.outline().manifest;
    for record in &manifest.checkpoints {
        let base = manifest.materialization(record.base.unwrap()).unwrap();
        assert_eq!((base.from, base.complete_at), (record.cut, record.cut));
        assert_eq!(manifest.contents(record).sources, []);
    }
    assert!(manifest.runs.is_empty());
    let model = state.model.clone();
    daemon.crash();
    let daemon = Daemon::start(&world, settings(inner, 2));
    let mut restored = State::open(&daemon, 2, LATEST, model).await;
    restored.check(KEYS, "restored");
    restored.write(1, 1);
    let third = restored.checkpoint(3).await;
    assert!(third.incremental_bytes < full.incremental_bytes / 3, "{third:?} after {full:?}");
    // Two that begin at a time: the second waits for the first and uses what that had to upload.
    restored.write(10_000, KEYS);
    daemon.faults.set_plan(slow(50, 400));
    restored.barrier(4, None);
    restored.write(1, 1);
    restored.barrier(5, None);
    let mut uploaded = vec![];
    for _ in 0..2 {
        match restored.task.event().await {
            SessionEvent::CheckpointCompleted(done) => uploaded.push(done.incremental_bytes),
            other => panic!("{other:?}"),
        }
    }
    assert!(uploaded[1] < uploaded[0] / 2, "{uploaded:?}");
    let model = restored.model.clone();
    daemon.crash();
    let daemon = Daemon::start(&world, settings(inner, 3));
    State::open(&daemon, 3, RestoreFrom::Id(5), model).await.check(KEYS, "restored again");
}

async fn a_checkpoint_without_changes_writes_a_manifest_alone(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut state = State::open(&daemon, 1, LATEST, Model::new()).await;
    state.checkpoint(1).await;
    assert_eq!(world.paths("snapshot").await, Vec::<String>::new(), "an empty state has no snapshot");
    state.write(100, 100);
    state.checkpoint(2).await;
    let before = (world.paths("snapshot").await, daemon.faults.counts().puts);
    state.check(100, "reading changes nothing");
    let again = state.checkpoint(3).await;
    assert_eq!((world.paths("snapshot").await, daemon.faults.counts().puts), (before.0.clone(), before.1 + 1));
    assert_eq!((again.incremental_bytes, again.changes), (0, 0));
    let model = state.model.clone();
    daemon.crash();
    let daemon = Daemon::start(&world, settings(inner, 2));
    let mut state = State::open(&daemon, 2, RestoreFrom::Id(3), model).await;
    state.checkpoint(4).await;
    assert_eq!(world.paths("snapshot").await, before.0, "nor does what was restored");
    let model = state.model.clone();
    daemon.crash();
    let daemon = Daemon::start(&world, settings(inner, 3));
    State::open(&daemon, 3, RestoreFrom::Id(4), model).await.check(100, "restored");
}

async fn persisted_follows_snapshots(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut state = State::open(&daemon, 1, LATEST, Model::new()).await;
    let rungs = |state: &State| {
        let all = state.task.opened.backend.outline().acknowledgement;
        (all.applied_to, all.persisted_to, all.confirmed_to)
    };
    state.write(50, 20);
    assert_eq!(rungs(&state), (10, 0, 0));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!((rungs(&state), world.paths("segments").await.len()), ((10, 0, 0), 0), "nothing is logged");
    daemon.faults.set_plan(slow(100, 200));
    state.barrier(1, None);
    state.write(10, 20);
    assert_eq!(rungs(&state), (12, 0, 0));
    state.task.event().await;
    assert_eq!(rungs(&state), (12, 10, 0));
    state.task.notice(NoticeKind::Complete, 1);
    assert_eq!(rungs(&state), (12, 10, 10));
    state.checkpoint(2).await;
    assert_eq!(rungs(&state), (12, 12, 12));
    assert_eq!(state.task.get(12, "key 1"), state.model.get("key 1").cloned());
    assert_eq!(rungs(&state), (13, 13, 12), "a batch without changes is as durable as those before it");
}

async fn a_stale_owner_publishes_no_snapshot(inner: InnerBackend) {
    let world = World::new();
    let old = Daemon::start(&world, settings(inner, 1));
    let mut zombie = State::open(&old, 1, LATEST, Model::new()).await;
    zombie.write(500, 200);
    zombie.checkpoint(1).await;
    let model = zombie.model.clone();
    zombie.write(500, 200);
    old.faults.set_plan(slow(2_000, 3_000));
    zombie.barrier(2, None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let new = Daemon::start(&world, settings(inner, 20));
    let mut state = State::open(&new, 2, LATEST, model).await;
    state.check(200, "the successor");
    state.write(300, 200);
    state.checkpoint(2).await;
    sweep(&world).await;
    loop {
        match zombie.task.event().await {
            SessionEvent::CheckpointFailed { id, error } => assert_eq!((id, error.reason), (2, Reason::Fenced)),
            SessionEvent::Ended(error) => {
                assert_eq!(error.reason, Reason::Fenced);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    state.write(300, 200);
    state.checkpoint(3).await;
    sweep(&world).await;
    assert_eq!(sweep(&world).await, Vec::<String>::new(), "what the stale owner uploaded is gone");
    let model = state.model.clone();
    new.crash();
    let newest = Daemon::start(&world, settings(inner, 30));
    State::open(&newest, 3, LATEST, model).await.check(200, "the newest");
}

async fn the_changelog_is_switched_at_every_restore(inner: InnerBackend) {
    const KEYS: u64 = 2_000;
    let other = if inner == InnerBackend::HashMap { InnerBackend::RocksDb } else { InnerBackend::HashMap };
    let world = World::new();
    let mut model = Model::new();
    let modes = [(true, inner), (false, inner), (true, inner), (false, other), (false, inner), (true, other)];
    for (attempt, (changelog, inner)) in (1..).zip(modes) {
        let mut settings = settings(inner, attempt * 10);
        settings.options.changelog = changelog;
        let daemon = Daemon::start(&world, settings);
        let restore = if attempt % 2 == 0 { RestoreFrom::Id(attempt - 1) } else { LATEST };
        let mut state = State::open(&daemon, attempt, restore, model).await;
        assert_eq!((state.task.opened.shape.changelog, state.task.opened.shape.inner), (changelog, inner));
        state.check(KEYS, &format!("attempt {attempt}"));
        state.write(800, KEYS);
        if changelog && attempt == 3 {
            let backend = &state.task.opened.backend;
            backend.materialize(backend.epoch()).await.unwrap();
            state.write(100, KEYS);
        }
        state.checkpoint(attempt).await;
        sweep(&world).await;
        model = state.model.clone();
        state.write(100, KEYS);
        daemon.crash();
        sweep(&world).await;
    }
    let daemon = Daemon::start(&world, settings(inner, 99));
    State::open(&daemon, 99, LATEST, model).await.check(KEYS, "the last");
}

async fn there_is_nothing_to_persist_or_materialize(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut state = State::open(&daemon, 1, LATEST, Model::new()).await;
    state.write(10, 10);
    let backend = state.task.opened.backend.clone();
    let refused = [
        backend.persist(backend.epoch()).await.unwrap_err(),
        backend.materialize(backend.epoch()).await.unwrap_err(),
        match state.task.session.persist(7).unwrap_err() {
            dstl::backend::Refusal::Request(error) => error,
            other => panic!("{other:?}"),
        },
    ];
    for error in refused {
        assert_eq!(error.reason, Reason::Unsupported);
        assert!(error.message.contains("take a checkpoint"), "{error}");
    }
    state.write(10, 10);
    state.checkpoint(1).await;
}

async fn a_reconnect_in_another_mode_is_refused(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let reopen = |changelog| daemon.directory.open(OpenSpec { changelog, restore: LATEST, ..spec(0, 1, 1) }, |_| {});
    assert!(!reopen(Some(false)).await.unwrap().reconnected);
    assert!(reopen(Some(false)).await.unwrap().reconnected);
    assert!(reopen(None).await.unwrap().reconnected);
    let error = reopen(Some(true)).await.unwrap_err();
    assert_eq!(error.reason, Reason::BackendMismatch);
    assert!(error.message.contains("open with a higher attempt"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn copies_take_write_credit_until_they_are_uploaded_or_given_up() {
    const KEYS: u64 = 30_000;
    let world = World::new();
    let mut options = settings(InnerBackend::HashMap, 1);
    options.options.limits.max_message_bytes = 256 << 10;
    options.budget = 384 << 10;
    let daemon = Daemon::start(&world, options);
    let mut state = State::open(&daemon, 1, LATEST, Model::new()).await;
    state.write(30_000, KEYS);
    daemon.faults.set_outage(true);
    state.barrier(1, Some(Duration::from_secs(30)));
    let mut batches = 0;
    while state.task.session.acknowledgement().1 >= 1000 * (state.number + 1) {
        state.write(5, KEYS);
        batches += 1;
        assert!(batches < 20_000, "the writer is pushed back");
    }
    let pending = |daemon: &Daemon| {
        let text = daemon.metrics.encode();
        let line = text.lines().find(|line| line.starts_with("dstl_changelog_pending_bytes ")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    assert!(pending(&daemon) > 256 << 10, "{} bytes are held", pending(&daemon));
    match state.task.event().await {
        SessionEvent::CheckpointFailed { id: 1, .. } => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(pending(&daemon), 0);
    daemon.faults.set_outage(false);
    state.checkpoint(2).await;
    assert_eq!(pending(&daemon), 0);
    let model = state.model.clone();
    daemon.crash();
    let daemon = Daemon::start(&world, settings(InnerBackend::HashMap, 2));
    State::open(&daemon, 2, LATEST, model).await.check(KEYS, "restored");
}

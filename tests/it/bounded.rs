//! What a checkpoint writes beside its changes is bounded, however much lies since the last materialization, whatever
//! lies there: the log of one owner, of owners before, or of other chains.

use std::{collections::BTreeMap, time::Duration};

use dstl::{
    backend::{BackendOptions, OpenSpec, Operation, RestoreFrom, Session, SessionEvent},
    checkpoint::{
        collect::{self, SweepOptions, SweepReport},
        handle::CheckpointHandle,
        index::INLINE_BYTES,
        job,
        ledger::NoticeKind,
    },
    object::{ObjectName, Path, Retry, faulty::FaultPlan},
    state::op::{Answer, Op},
    types::{BackendId, InnerBackend, Name, StateId},
};
use tokio::time::Instant;

use crate::{
    gc::everything_named_is_there,
    support::{Daemon, Settings, Task, World, spec, states},
};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };
const NO_GRACE: SweepOptions = SweepOptions { grace: Duration::ZERO, now_ms: 0, delete: true };
const KEY_GROUPS: u64 = 128;
const KEYS: u64 = 1_009;

/// What a manifest of these tests has at most, without inline tails: three checkpoints, two states.
const MOST_MANIFEST_BYTES: u64 = 30_000;

/// The same with them.
const MOST_WITH_TAILS: u64 = MOST_MANIFEST_BYTES + INLINE_BYTES as u64;

/// How long each request takes.
const LATENCY: Duration = Duration::from_millis(10);

fn settings(seed: u64) -> Settings {
    Settings::on_request(InnerBackend::HashMap, seed)
}

/// All subtasks of one attempt, and what they should have.
struct Fleet {
    tasks: Vec<(Task, u64)>,
    model: BTreeMap<u64, u64>,
    /// Checkpoints so far.
    last: u64,
    writes: u64,
}

impl Fleet {
    async fn open(
        daemon: &Daemon,
        (parallelism, attempt): (u32, u64),
        (model, last): (BTreeMap<u64, u64>, u64),
    ) -> Self {
        let mut fleet = Self { tasks: vec![], model, last, writes: attempt * 1_000_000 };
        for subtask in 0..parallelism {
            fleet.begin(daemon, OpenSpec { restore: LATEST, ..spec(subtask, parallelism, attempt) }).await;
        }
        fleet
    }

    async fn begin(&mut self, daemon: &Daemon, spec: OpenSpec) {
        let opened = daemon.directory.open(spec, |_| {}).await.unwrap();
        let backend = opened.backend.clone();
        backend.register(backend.epoch(), &states()).unwrap();
        let session = Session::start(backend.clone(), backend.epoch()).unwrap();
        self.tasks.push((Task { opened, session }, 0));
    }

    fn apply(&mut self, key: u64, op: Op<'_>) -> Option<Vec<u8>> {
        let group = u32::try_from(key % KEY_GROUPS).unwrap();
        let range = |task: &Task| task.opened.shape.key_groups;
        let has = |task: &Task| u32::from(range(task).first().0) <= group && group <= u32::from(range(task).last().0);
        let (task, next) = self.tasks.iter_mut().find(|(task, _)| has(task)).unwrap();
        let name = key.to_be_bytes();
        let operation = Operation { state: StateId(1), key_group: Some(group), key: &name, namespace: b"", op };
        task.session.acknowledgement();
        let cost = if operation.op.is_write() { 30 } else { 0 };
        let result = task.apply(*next, cost, &[operation]).unwrap().map(|result| result.answers);
        *next += 1;
        match result.unwrap_or_default().pop() {
            Some((0, Some(Answer::Value(value)))) => value.map(|value| value.to_vec()),
            _ => None,
        }
    }

    /// Writes something in each subtask.
    fn write(&mut self) {
        self.writes += 1;
        for part in 0..16 {
            let key = (self.writes * 16 + part * 8) % KEYS;
            self.model.insert(key, self.writes);
            self.apply(key, Op::Put(&self.writes.to_be_bytes()));
        }
    }

    /// A change set for each subtask.
    async fn roll_over(&mut self) {
        self.write();
        for (task, _) in &mut self.tasks {
            task.session.persist(1).unwrap();
        }
        for (task, _) in &mut self.tasks {
            let event = task.event().await;
            assert!(matches!(event, SessionEvent::Persisted { .. }), "{event:?}");
        }
    }

    /// A change set for each subtask, and a checkpoint of all; returns its handles.
    async fn checkpoint(&mut self) -> Vec<CheckpointHandle> {
        self.write();
        self.last += 1;
        for (task, _) in &mut self.tasks {
            task.barrier(self.last);
        }
        let mut handles = vec![];
        for (task, _) in &mut self.tasks {
            let event = task.event().await;
            let SessionEvent::CheckpointCompleted(completed) = event else { panic!("{event:?}") };
            handles.push(CheckpointHandle::decode(&completed.handle).unwrap());
            task.notice(NoticeKind::Complete, self.last);
        }
        handles
    }

    async fn materialize(&mut self) {
        for (task, _) in &self.tasks {
            task.opened.backend.materialize(task.opened.backend.epoch()).await.unwrap();
        }
        for _ in 0..4 {
            self.checkpoint().await;
        }
    }

    fn check(&mut self) {
        for key in 0..KEYS {
            let expected = self.model.get(&key).map(|value| value.to_be_bytes().to_vec());
            assert_eq!(self.apply(key, Op::Get), expected, "key {key}");
        }
    }
}

/// Asserts that no manifest or page is larger than `most`; returns the size of the largest manifest.
async fn check_sizes(world: &World, most: u64) -> u64 {
    let mut largest = 0;
    for meta in world.store().list(&Path::default(), Retry::none()).await.unwrap() {
        let name = ObjectName::parse(&meta.path);
        if let Some(ObjectName::Manifest { .. } | ObjectName::IndexPage { .. }) = name {
            assert!(meta.size <= most, "{} of {} bytes", meta.path, meta.size);
        }
        if let Some(ObjectName::Manifest { .. }) = name {
            largest = largest.max(meta.size);
        }
    }
    largest
}

async fn sweep(world: &World) -> SweepReport {
    let report = collect::sweep(&world.store(), &Name::new("job").unwrap(), &NO_GRACE, Retry::none()).await.unwrap();
    everything_named_is_there(world).await;
    report
}

/// What is sewed together from all of that restores, and goes once a materialization has it.
async fn restores_and_goes(world: &World, (parallelism, attempt): (u32, u64), fleet: Fleet) {
    sweep(world).await;
    let daemon = Daemon::start(world, settings(9_000));
    let mut fleet = Fleet::open(&daemon, (parallelism, attempt), (fleet.model, fleet.last)).await;
    fleet.check();
    fleet.materialize().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    sweep(world).await;
    assert_eq!(world.paths("/index/").await, Vec::<String>::new(), "no page is left");
    let segments = world.paths("/segments/").await.len();
    assert!(segments <= 10 * fleet.tasks.len(), "{segments} segments are left");
    let report = sweep(world).await;
    assert_eq!(report.tally("garbage").objects, 0);
    daemon.crash();
    let daemon = Daemon::start(world, settings(9_100));
    Fleet::open(&daemon, (parallelism, attempt + 1), (fleet.model, fleet.last)).await.check();
    for head in job::read_heads(&world.store(), &Name::new("job").unwrap(), Retry::none()).await.unwrap() {
        let bytes = head.encode().len();
        assert!(bytes < 3_000, "{} names it no longer: {bytes} bytes", head.backend);
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_change_sets_cost_a_checkpoint_no_more_than_a_few() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(1));
    let latency = LATENCY..LATENCY + Duration::from_nanos(1);
    daemon.faults.set_plan(FaultPlan { latency, ..FaultPlan::none() });
    let mut fleet = Fleet::open(&daemon, (1, 1), Default::default()).await;
    for n in 1..=10_000_u64 {
        if n % 4 != 0 {
            fleet.roll_over().await;
            continue;
        }
        let (before, puts) = (Instant::now(), daemon.faults.counts().puts);
        fleet.checkpoint().await;
        let (took, puts) = (before.elapsed(), daemon.faults.counts().puts - puts);
        assert!(took < 3 * LATENCY, "segment and manifest, one after the other: {took:?} after {n}");
        assert!(puts <= 4, "{puts} writes after {n}");
        if n % 500 == 0 {
            check_sizes(&world, MOST_MANIFEST_BYTES).await;
        }
    }
    daemon.crash();
    restores_and_goes(&world, (1, 2), fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_change_sets_between_two_checkpoints_are_in_pages_before_the_second() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(1));
    let latency = LATENCY..LATENCY + Duration::from_nanos(1);
    daemon.faults.set_plan(FaultPlan { latency, ..FaultPlan::none() });
    let mut fleet = Fleet::open(&daemon, (1, 1), Default::default()).await;
    for _ in 0..1_000 {
        fleet.roll_over().await;
    }
    let before = Instant::now();
    fleet.checkpoint().await;
    assert!(before.elapsed() < 3 * LATENCY, "{:?}", before.elapsed());
    check_sizes(&world, MOST_MANIFEST_BYTES).await;
    daemon.crash();
    restores_and_goes(&world, (1, 2), fleet).await;
}

#[tokio::test(start_paused = true)]
async fn fifty_owners_without_a_materialization_cost_no_more_than_a_few() {
    let world = World::new();
    let (mut model, mut last, mut largest) = (BTreeMap::new(), 0, vec![]);
    for attempt in 1..=50 {
        let mut settings = settings(attempt * 10);
        settings.options =
            BackendOptions { data_inline_threshold: [0, 1_000][attempt as usize % 2], ..settings.options };
        let daemon = Daemon::start(&world, settings);
        let mut fleet = Fleet::open(&daemon, (1, attempt), (model, last)).await;
        for _ in 0..[1, 30, 250][attempt as usize % 3] {
            fleet.checkpoint().await;
        }
        largest.push(check_sizes(&world, MOST_WITH_TAILS).await);
        // Of no checkpoint.
        let known = fleet.model.clone();
        fleet.roll_over().await;
        (model, last) = (known, fleet.last);
        daemon.crash();
        if attempt % 10 == 0 {
            sweep(&world).await;
        }
    }
    let most = |of: &[u64]| of.iter().copied().max().unwrap();
    assert!(most(&largest[25..]) <= most(&largest[..25]) + 2_000, "{largest:?}");
    let fleet = Fleet { tasks: vec![], model, last, writes: 0 };
    restores_and_goes(&world, (1, 51), fleet).await;
}

#[tokio::test(start_paused = true)]
async fn long_logs_of_other_chains_cost_no_more_than_short_ones() {
    let world = World::new();
    let (mut model, mut last, mut largest) = (BTreeMap::new(), 0, vec![]);
    for (attempt, parallelism) in (1..).zip([2, 3, 2, 2]) {
        let daemon = Daemon::start(&world, settings(attempt * 10));
        let mut fleet = Fleet::open(&daemon, (parallelism, attempt), (model, last)).await;
        fleet.check();
        for n in 1..=700 {
            if n % 4 == 0 { drop(fleet.checkpoint().await) } else { fleet.roll_over().await }
        }
        largest.push(check_sizes(&world, MOST_MANIFEST_BYTES).await);
        sweep(&world).await;
        (model, last) = (fleet.model, fleet.last);
        daemon.crash();
    }
    let fleet = Fleet { tasks: vec![], model, last, writes: 0 };
    restores_and_goes(&world, (2, 5), fleet).await;
}

#[tokio::test(start_paused = true)]
async fn many_rescales_in_a_row_do_not_pile_up_imports() {
    let world = World::new();
    let (mut model, mut last, mut most) = (BTreeMap::new(), 0, 0);
    for attempt in 1..=16 {
        let daemon = Daemon::start(&world, settings(attempt * 10));
        let mut fleet = Fleet::open(&daemon, (2 + attempt as u32 % 2, attempt), (model, last)).await;
        fleet.check();
        // Where that is due, a materialization is made meanwhile.
        tokio::time::sleep(Duration::from_secs(10)).await;
        for _ in 0..4 {
            fleet.checkpoint().await;
        }
        for head in job::read_heads(&world.store(), &Name::new("job").unwrap(), Retry::none()).await.unwrap() {
            most = most.max(head.imports.len());
        }
        sweep(&world).await;
        (model, last) = (fleet.model, fleet.last);
        daemon.crash();
    }
    assert!((10..=24).contains(&most), "{most} imports");
    let fleet = Fleet { tasks: vec![], model, last, writes: 0 };
    restores_and_goes(&world, (2, 17), fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_clone_reads_pages_of_any_past_and_names_none() {
    let world = World::new();
    let (mut model, mut last) = (BTreeMap::new(), 0);
    let mut handles = vec![];
    for attempt in 1..=4 {
        let daemon = Daemon::start(&world, settings(attempt * 10));
        let parallelism = if attempt == 1 { 1 } else { 2 };
        let mut fleet = Fleet::open(&daemon, (parallelism, attempt), (model, last)).await;
        for _ in 0..200 {
            handles = fleet.checkpoint().await;
        }
        (model, last) = (fleet.model, fleet.last);
        daemon.crash();
    }
    assert!(!world.paths("/index/").await.is_empty());
    let daemon = Daemon::start(&world, settings(90));
    let mut fleet = Fleet { tasks: vec![], model, last, writes: 5_000_000 };
    let own = spec(0, 1, 1);
    let id = BackendId { job: Name::new("copy").unwrap(), ..own.id.clone() };
    fleet.begin(&daemon, OpenSpec { id, restore: RestoreFrom::Handles(handles), ..own }).await;
    fleet.check();
    for _ in 0..4 {
        fleet.checkpoint().await;
    }
    assert_eq!(world.paths("copy/operators/op/0/index/").await, Vec::<String>::new());
    let heads = job::read_heads(&world.store(), &Name::new("copy").unwrap(), Retry::none()).await.unwrap();
    assert!(heads[0].encode().len() < 3_000 && heads[0].imports.is_empty());
    sweep(&world).await;
}

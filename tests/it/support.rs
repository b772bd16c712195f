//! What several integration tests need: daemons without their wire, over one store in memory.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use dstl::{
    backend::{
        BackendMetrics, BackendOptions, BatchResult, CreditPool, Directory, Environment, OpenSpec, Operation, Refusal,
        RestoreFrom, Session, SessionEvent, Turns,
    },
    changelog::{
        batcher::BatchOptions,
        compression::Compression,
        metrics::UploadMetrics,
        registry::Registry,
        uploader::{SegmentNumbers, UploadOptions},
    },
    checkpoint::job::Decisions,
    clock::Clock,
    error::Error,
    materialization::schedule::ScheduleOptions,
    metrics::Metrics,
    object::{
        Copies, CopyOptions, CopyScope, Path, Retry, RetryOptions, Store,
        faulty::{Faults, FaultyStore},
    },
    random::Random,
    state::{
        folder::Folders,
        image::LocalBackends,
        op::{Answer, Op},
        rocksdb::{ResourceOptions, Resources, TimerService},
        set_or_extended,
    },
    tasks::Tasks,
    types::{BackendId, InnerBackend, Limits, Name, StateDescriptor, StateId, StateKind},
};
use object_store::ObjectStore;

/// The store of a test and its clock.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) time: Arc<AtomicU64>,
    /// The local disk of its daemons.
    pub(crate) disk: Arc<tempfile::TempDir>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            objects: Arc::new(object_store::memory::InMemory::new()),
            time: Arc::new(AtomicU64::new(1_000)),
            disk: Arc::new(tempfile::tempdir().unwrap()),
        }
    }

    pub(crate) fn clock(&self) -> Clock {
        let time = self.time.clone();
        Clock::new(move || time.load(Ordering::Relaxed))
    }

    /// The store without any daemon.
    pub(crate) fn store(&self) -> Store {
        Store::new(self.objects.clone(), Path::default(), RetryOptions::default(), &Metrics::new(), Random::seeded(9))
    }

    /// Paths of all objects that contain `part`, sorted.
    pub(crate) async fn paths(&self, part: &str) -> Vec<String> {
        let all = self.store().list(&Path::default(), Retry::none()).await.unwrap();
        all.iter().map(|meta| meta.path.to_string()).filter(|path| path.contains(part)).collect()
    }
}

/// What a daemon has for RocksDB.
fn local(world: &World, instance: uuid::Uuid, timers: TimerService) -> Resources {
    let folders = Folders::new(&[world.disk.path().to_owned()], instance).unwrap();
    Resources::new(ResourceOptions { memory_bytes: 16 << 20, timers, ..ResourceOptions::default() }, folders).unwrap()
}

/// One daemon without its wire.
pub(crate) struct Daemon {
    pub(crate) directory: Directory,
    pub(crate) faults: Faults,
    pub(crate) metrics: Metrics,
}

/// Settings of [`Daemon::start`].
pub(crate) struct Settings {
    pub(crate) options: BackendOptions,
    pub(crate) budget: u64,
    pub(crate) seed: u64,
    pub(crate) timers: TimerService,
    /// What it has in place of RocksDB.
    pub(crate) local: Option<Arc<dyn LocalBackends>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            options: BackendOptions::default(),
            budget: 64 << 20,
            seed: 1,
            timers: TimerService::default(),
            local: None,
        }
    }
}

impl Settings {
    /// Only a request materializes.
    pub(crate) fn on_request(inner: InnerBackend, seed: u64) -> Self {
        let materialization =
            ScheduleOptions { interval: None, max_replay: Duration::from_secs(1 << 30), ..ScheduleOptions::default() };
        let options = BackendOptions { materialization, inner, ..BackendOptions::default() };
        Self { seed, options, ..Self::default() }
    }
}

/// Runs tests on both inner backends: each is an async function of the inner backend, or named (`name: function;`).
macro_rules! on_both {
    ($($test:ident: $call:expr;)*) => {
        mod hashmap {
            $(#[tokio::test(start_paused = true)]
            async fn $test() {
                let call = $call;
                call(dstl::types::InnerBackend::HashMap).await;
            })*
        }
        mod rocksdb {
            $(#[tokio::test(start_paused = true)]
            async fn $test() {
                let call = $call;
                call(dstl::types::InnerBackend::RocksDb).await;
            })*
        }
    };
    ($($test:ident)*) => {
        $crate::support::on_both! { $($test: super::$test;)* }
    };
}
pub(crate) use on_both;

impl Daemon {
    pub(crate) fn start(world: &World, settings: Settings) -> Self {
        let folder = world.disk.path().join(format!("copies of {}", settings.seed));
        let for_warm = CopyOptions {
            folders: vec![folder],
            write: CopyScope::Wanted,
            read: false,
            max_bytes: 1 << 30,
            idle_timeout: Duration::from_secs(600),
        };
        let is_warm = settings.options.warm;
        Self::start_with_copies(world, settings, |metrics| is_warm.then(|| Copies::open(for_warm, metrics).unwrap()))
    }

    /// With the local copies that `copies` makes.
    pub(crate) fn start_with_copies(
        world: &World,
        settings: Settings,
        copies: impl FnOnce(&Metrics) -> Option<Copies>,
    ) -> Self {
        let (metrics, tasks, random) = (Metrics::new(), Tasks::default(), Random::seeded(settings.seed));
        let faulty = FaultyStore::new(world.objects.clone(), Random::seeded(settings.seed + 1), Tasks::default());
        let faults = faulty.faults();
        let store = Store::new(Arc::new(faulty), Path::default(), RetryOptions::default(), &metrics, random.clone());
        let store = store.with_copies(copies(&metrics));
        if let Some(copies) = store.copies() {
            tasks.spawn(copies.clone().run());
        }
        let instance = random.uuid();
        let limits: Limits = settings.options.limits;
        let upload = UploadOptions { batch: BatchOptions::default(), num_threads: 5, compression: Compression::None };
        let uploads = Registry::new(
            store.clone(),
            tasks.clone(),
            SegmentNumbers::new(instance),
            upload,
            UploadMetrics::register(&metrics),
            set_or_extended,
        );
        let env = Environment {
            store,
            clock: world.clock(),
            random,
            tasks,
            instance,
            options: Arc::new(settings.options),
            uploads,
            credit: CreditPool::new(settings.budget, limits.max_message_bytes as u64),
            state_bytes: Arc::new(AtomicU64::new(0)),
            local: Some(settings.local.unwrap_or_else(|| Arc::new(local(world, instance, settings.timers)))),
            materializing: Turns::default(),
            decisions: Decisions::default(),
            idle: dstl::backend::Idle::default(),
            metrics: BackendMetrics::register(&metrics),
        };
        Self { directory: Directory::new(env), faults, metrics }
    }

    /// Ends the daemon as kill -9 does.
    pub(crate) fn crash(self) {
        self.directory.environment().tasks.abort_all();
    }

    /// Opens `job/op/0` and starts a session; state 1 is a value, 2 a sum.
    pub(crate) async fn task(&self, attempt: u64, restore: RestoreFrom) -> Result<Task, Error> {
        self.subtask(0, 1, attempt, restore).await
    }

    pub(crate) async fn subtask(
        &self,
        subtask: u32,
        parallelism: u32,
        attempt: u64,
        restore: RestoreFrom,
    ) -> Result<Task, Error> {
        let spec = OpenSpec { restore, ..spec(subtask, parallelism, attempt) };
        let opened = self.directory.open(spec, |_| {}).await?;
        let backend = opened.backend.clone();
        backend.register(backend.epoch(), &states())?;
        let session = Session::start(backend.clone(), backend.epoch())?;
        Ok(Task { opened, session })
    }
}

pub(crate) fn states() -> Vec<StateDescriptor> {
    let state = |name: &str, merge| StateDescriptor::new(name, StateKind::Value).with_merge(merge);
    vec![state("value", None), state("sum", Some(dstl::types::MergeFunction::SumI64))]
}

pub(crate) fn spec(subtask: u32, parallelism: u32, attempt: u64) -> OpenSpec {
    let name = |name: &str| Name::new(name).unwrap();
    OpenSpec {
        id: BackendId { job: name("job"), operator: name("op"), subtask },
        parallelism,
        max_parallelism: None,
        key_groups: None,
        assignment: Some(dstl::types::KeyGroupAssignment::Given),
        inner: None,
        changelog: None,
        attempt,
        token: bytes::Bytes::new(),
        fresh: false,
        peers: bytes::Bytes::new(),
        job_run: bytes::Bytes::new(),
        restore: RestoreFrom::Empty,
        fallback: false,
        retention: None,
        linger: None,
        claim: None,
    }
}

/// The key group of a key.
pub(crate) fn group_of(groups: dstl::types::KeyGroupRange, key: &str) -> u32 {
    let sum: usize = key.bytes().map(usize::from).sum();
    groups.iter().nth(sum % groups.count()).unwrap().0.into()
}

/// A task with its session.
pub(crate) struct Task {
    pub(crate) opened: dstl::backend::Opened,
    pub(crate) session: Session,
}

impl Task {
    /// Applies a batch. It lets others in between its slices, and waits for nothing else.
    pub(crate) fn apply(
        &mut self,
        number: u64,
        bytes: u64,
        operations: &[Operation<'_>],
    ) -> Result<Option<BatchResult>, Refusal> {
        let mut applying = pin!(self.session.apply(number, bytes, operations));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..1_000_000 {
            if let Poll::Ready(applied) = applying.as_mut().poll(&mut context) {
                return applied;
            }
        }
        panic!("the batch waits for something else");
    }

    /// Applies one batch of puts to state 1.
    pub(crate) fn put(&mut self, number: u64, entries: &[(&str, &[u8])]) {
        let groups = self.opened.shape.key_groups;
        let operations: Vec<Operation<'_>> = entries
            .iter()
            .map(|(key, value)| Operation {
                state: StateId(1),
                key_group: Some(group_of(groups, key)),
                key: key.as_bytes(),
                namespace: b"",
                op: Op::Put(value),
            })
            .collect();
        self.session.acknowledgement();
        let cost = entries.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        self.apply(number, cost, &operations).unwrap();
    }

    /// Reads a value of state 1, as batch `number`.
    pub(crate) fn get(&mut self, number: u64, key: &str) -> Option<Vec<u8>> {
        let operation = Operation {
            state: StateId(1),
            key_group: Some(group_of(self.opened.shape.key_groups, key)),
            key: key.as_bytes(),
            namespace: b"",
            op: Op::Get,
        };
        let result = self.apply(number, 0, &[operation]).unwrap().unwrap();
        match &result.answers[..] {
            [(0, Some(Answer::Value(value)))] => value.as_ref().map(|value| value.to_vec()),
            other => panic!("a get answers one value, not {other:?}"),
        }
    }

    /// Sends a barrier.
    pub(crate) fn barrier(&mut self, id: u64) {
        let request = dstl::backend::BarrierRequest { id, attachment: format!("at {id}").into(), timeout: None };
        self.session.barrier(request).unwrap();
    }

    /// The next event of the session.
    pub(crate) async fn event(&mut self) -> SessionEvent {
        loop {
            if let Some(event) = self.session.outbox().pop() {
                return event;
            }
            self.session.outbox().changed().await;
        }
    }

    /// Sends a barrier and waits until its checkpoint is restorable.
    pub(crate) async fn checkpoint(&mut self, id: u64) -> dstl::backend::CompletedCheckpoint {
        self.barrier(id);
        match self.event().await {
            SessionEvent::CheckpointCompleted(completed) => *completed,
            other => panic!("checkpoint {id}: {other:?}"),
        }
    }

    pub(crate) fn notice(&mut self, kind: dstl::checkpoint::ledger::NoticeKind, id: u64) {
        let epoch = self.opened.backend.epoch().number;
        let target = dstl::checkpoint::ledger::NoticeTarget { epoch, id, uuid: None };
        self.session.notice(kind, target).unwrap();
    }
}

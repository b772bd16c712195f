//! Daemons without gRPC, for unit tests of backends.

use std::sync::{Arc, atomic::AtomicU64};

use bytes::Bytes;
use object_store::memory::InMemory;

use super::{
    Backend, BackendMetrics, BackendOptions, ClaimMode, CreditPool, Directory, Environment, Idle, OpenSpec, Operation,
    RestoreFrom, Session, Turns,
};
use crate::{
    changelog::{
        batcher::BatchOptions,
        compression::Compression,
        metrics::UploadMetrics,
        registry::Registry,
        uploader::{SegmentNumbers, UploadOptions},
    },
    checkpoint::job::Decisions,
    clock::Clock,
    metrics::Metrics,
    object::{Path, RetryOptions, Store},
    random::Random,
    state::{
        op::{Answer, Op},
        set_or_extended,
    },
    tasks::Tasks,
    types::{BackendId, KeyGroupAssignment, Name, StateDescriptor, StateId, StateKind},
};

/// A daemon over `objects` that materializes on request.
pub(super) fn daemon(objects: &Arc<InMemory>, seed: u64) -> Directory {
    let (metrics, tasks, random) = (Metrics::new(), Tasks::default(), Random::seeded(seed));
    let store = Store::new(objects.clone(), Path::default(), RetryOptions::default(), &metrics, random.clone());
    let mut options = BackendOptions::default();
    options.materialization.interval = None;
    let instance = random.uuid();
    let upload = UploadOptions { batch: BatchOptions::default(), num_threads: 5, compression: Compression::None };
    let (numbers, uploads) = (SegmentNumbers::new(instance), UploadMetrics::register(&metrics));
    Directory::new(Environment {
        uploads: Registry::new(store.clone(), tasks.clone(), numbers, upload, uploads, set_or_extended),
        store,
        clock: Clock::new(|| 1_000),
        random,
        tasks,
        instance,
        credit: CreditPool::new(64 << 20, options.limits.max_message_bytes as u64),
        options: Arc::new(options),
        state_bytes: Arc::new(AtomicU64::new(0)),
        local: None,
        materializing: Turns::default(),
        idle: Idle::default(),
        decisions: Decisions::default(),
        metrics: BackendMetrics::register(&metrics),
    })
}

/// Opens `job/op/0`, one subtask of one, with a state `first` of id 1.
pub(super) async fn open(daemon: &Directory, attempt: u64, restore: RestoreFrom, changelog: bool) -> Backend {
    let name = |name: &str| Name::new(name).expect("a name");
    let spec = OpenSpec {
        id: BackendId { job: name("job"), operator: name("op"), subtask: 0 },
        parallelism: 1,
        max_parallelism: None,
        key_groups: None,
        assignment: Some(KeyGroupAssignment::Given),
        inner: None,
        changelog: Some(changelog),
        attempt,
        token: Bytes::new(),
        fresh: false,
        peers: Bytes::new(),
        job_run: Bytes::new(),
        restore,
        fallback: false,
        retention: None,
        linger: None,
        claim: Some(ClaimMode::Claim),
    };
    let backend = daemon.open(spec, |_| {}).await.expect("it opens").backend;
    register(&backend, "first");
    backend
}

/// Registers a value state.
pub(super) fn register(backend: &Backend, name: &str) -> StateId {
    let state = StateDescriptor::new(name, StateKind::Value);
    backend.register(backend.epoch(), &[state]).expect("it is new, or the same")[0]
}

fn operation(state: StateId, op: Op<'_>) -> Operation<'_> {
    Operation { state, key_group: Some(0), key: b"key", namespace: b"", op }
}

/// Writes `value` to the one key of `state`, as one batch.
pub(super) async fn put(backend: &Backend, state: StateId, value: &[u8]) {
    let mut session = Session::start(backend.clone(), backend.epoch()).expect("nobody else writes");
    let number = session.acknowledgement().0.applied_to;
    session.apply(number, 100, &[operation(state, Op::Put(value))]).await.expect("a put is applied");
}

/// Reads the one key of `state`.
pub(super) async fn get(backend: &Backend, state: StateId) -> Option<Vec<u8>> {
    let mut session = Session::start(backend.clone(), backend.epoch()).expect("nobody else writes");
    let number = session.acknowledgement().0.applied_to;
    let result = session.apply(number, 0, &[operation(state, Op::Get)]).await.expect("a get is answered");
    match result.expect("it has an answer").answers.as_slice() {
        [(0, Some(Answer::Value(value)))] => value.as_ref().map(|value| value.to_vec()),
        other => panic!("a get answers one value, not {other:?}"),
    }
}

//! Opening a backend: validate, fence, restore, serve.
//!
//! Everything that can be refused is refused before the chain is touched (an owner that is running goes on). Then a manifest
//! with a higher epoch fences every older owner; only then the contents are read, so that nobody changes them meanwhile.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{
    core::{Condition, Core},
    environment::Environment,
    handle::{Backend, Shared},
    materialize,
    metrics::Restores,
    pushback::PushBack,
    states::States,
    worker,
};
use crate::{
    changelog::{pending::Pending, writer::Writer},
    checkpoint::{
        chain::{self, ChainError, Head},
        handle::CheckpointHandle,
        job::{self, JobError},
        ledger::{Ledger, Retention},
        manifest::{CheckpointRecord, Contents, EpochRecord, Manifest, Shape},
    },
    error::{Error, Reason},
    object::Retry,
    restore::{Progress, Restore, RestoreError, Restored},
    state::{StateBackend, hashmap::HashMapBackend},
    tasks,
    types::{
        Attempt, BackendId, CheckpointIdentity, Epoch, InnerBackend, KeyGroupAssignment, KeyGroupRange, Sqn,
        StateDescriptor, StateId, default_max_parallelism,
    },
};

/// How often an opener derives its first manifest anew when others open the same backend.
const FENCE_ATTEMPTS: usize = 16;

/// How often a restore tries each of its reads before it gives up.
const RESTORE_READ_ATTEMPTS: u32 = 12;

/// What a backend shall be opened as.
#[derive(Debug, Clone)]
pub struct OpenSpec {
    /// Which.
    pub id: BackendId,
    /// Subtasks of the operator.
    pub parallelism: u32,
    /// Key groups of the operator; `None` for those of the state there is, or the default.
    pub max_parallelism: Option<u32>,
    /// Those of the subtask; `None` to compute them.
    pub key_groups: Option<KeyGroupRange>,
    /// `None` for that of the state there is, or hashed.
    pub assignment: Option<KeyGroupAssignment>,
    /// `None` as configured.
    pub inner: Option<InnerBackend>,
    /// `None` as configured.
    pub changelog: Option<bool>,
    /// Orders the owners.
    pub attempt: Attempt,
    /// What to begin with.
    pub restore: RestoreFrom,
    /// `None` as configured.
    pub retention: Option<Retention>,
}

/// What a backend begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreFrom {
    /// Nothing.
    Empty,
    /// The newest checkpoint of this backend with this id.
    Id(u64),
    /// The checkpoint of this handle.
    Handle(CheckpointHandle),
    /// The newest that every subtask of the job can restore.
    Latest {
        /// Begin empty where no subtask has a completed one.
        or_empty: bool,
    },
}

/// A backend that is open.
#[derive(Debug, Clone)]
pub struct Opened {
    /// It.
    pub backend: Backend,
    /// What was restored.
    pub checkpoint: Option<CheckpointIdentity>,
    /// The task's bytes of it.
    pub attachment: bytes::Bytes,
    /// The batch number that is expected next.
    pub applied_to: u64,
    /// Its states.
    pub states: Vec<(StateId, StateDescriptor)>,
    /// Whether it was running already.
    pub reconnected: bool,
    /// As it was opened.
    pub shape: Shape,
    /// How much was replayed.
    pub restored: Progress,
    /// The highest checkpoint id so far.
    pub last_checkpoint_id: u64,
}

/// Opens the backend of `spec`. `predecessor` is an older owner of it on this daemon, which ends once it is fenced. Cancel-safe,
/// except that older owners may be fenced by then.
///
/// # Errors
/// Says what to change, or to try again.
pub(super) async fn open(
    env: &Environment,
    spec: &OpenSpec,
    predecessor: Option<Backend>,
    progress: impl FnMut(Progress) + Send,
) -> Result<Opened, Error> {
    let started = Instant::now();
    let retry = Retry::until(started + env.options.open_timeout);
    let account = || env.credit.account().ok_or_else(|| change_memory(&spec.id));
    let reserved = if predecessor.is_none() { Some(account()?) } else { None };
    let (manifest, crc, checkpoint) = fence(env, spec, retry).await?;
    if let Some(predecessor) = predecessor {
        predecessor.end(&super::error::fenced_by(&spec.id, manifest.owner().epoch));
    }
    let account = reserved.map_or_else(account, Ok)?;
    let mut inner = inner_backend(env, &manifest.shape)?;
    let states = States::restored(&manifest.states, |id| {
        checkpoint.as_ref().is_some_and(|record| id.0 <= record.states_to && !record.missing_states.contains(&id))
    });
    for (id, descriptor) in states.iter() {
        inner.register(id, descriptor);
    }
    let restored = match &checkpoint {
        Some(checkpoint) => {
            let restore = Restore {
                store: &env.store,
                tasks: &env.tasks,
                local: env.local.as_deref(),
                manifest: &manifest,
                checkpoint,
                parallel_reads: env.options.download_parallelism,
                // Each read by itself: a restore takes as long as the state is large.
                retry: Retry::forever().at_most(RESTORE_READ_ATTEMPTS),
            };
            restore.run(inner.as_mut(), progress).await.map_err(|error| restore_error(&spec.id, error))?
        }
        None => Restored::default(),
    };
    env.metrics.restored(Restores {
        replayed: checkpoint.is_some(),
        duration: started.elapsed(),
        progress: restored.progress,
    });
    let progress = restored.progress;
    let core = assemble(env, spec, Assembly { manifest, crc, inner, states, account, restored });
    Ok(serve(core, checkpoint, progress))
}

struct Assembly {
    manifest: Manifest,
    crc: u32,
    inner: Box<dyn StateBackend>,
    states: States,
    account: super::credit::Account,
    restored: Restored,
}

/// Puts the parts of an owner together.
fn assemble(env: &Environment, spec: &OpenSpec, parts: Assembly) -> Core {
    let Assembly { manifest, crc, inner, states, account, restored } = parts;
    let owner = manifest.owner();
    let (epoch, attempt) = (owner.epoch, owner.attempt);
    let uploads = env.uploads.of_job(&spec.id.job);
    let same_attempt = manifest.checkpoints.iter().filter(|record| record.attempt == attempt);
    let last_id = same_attempt.map(|record| record.identity.id).max().unwrap_or(0);
    let retention = spec.retention.unwrap_or(env.options.retention);
    let mut core = Core {
        env: env.clone(),
        shared: std::sync::Weak::new(),
        id: spec.id.clone(),
        epoch,
        condition: Condition::Serving,
        inner,
        states,
        writer: Writer::new(spec.id.clone(), epoch.number),
        _registered: uploads.writer(),
        uploads,
        ledger: Ledger::new(epoch.number, retention, manifest.checkpoints.clone(), last_id),
        manifest_crc: crc,
        opened_number: manifest.number,
        deleted_below: 0,
        manifest,
        dirty_since: None,
        publish_now: vec![],
        publishing_for: vec![],
        withdrawing: false,
        closing: false,
        sealed: false,
        flights: BTreeMap::new(),
        barrier_sessions: BTreeMap::new(),
        persist_waiters: Pending::default(),
        account,
        session: None,
        sessions: 0,
        undelivered: vec![],
        next_batch: 0,
        time: restored.time,
        base: None,
        previous: restored.base,
        log_changes: restored.log_changes,
        push_back: PushBack::default(),
        materialization_failures: 0,
        materialization_requests: vec![],
        snapshot_files: Arc::new(AtomicU64::new(1)),
        snapshot_low_water: 0,
        counted_state_bytes: 0,
        since_barrier: (0, 0),
        key_groups: vec![],
    };
    core.count_state_bytes(core.inner.memory_bytes());
    core
}

/// Starts the background work of an owner.
fn serve(core: Core, checkpoint: Option<CheckpointRecord>, restored: Progress) -> Opened {
    let (store, tasks) = (core.env.store.clone(), core.env.tasks.clone());
    let shared = Arc::new_cyclic(|weak| {
        let mut core = core;
        core.shared = weak.clone();
        Shared { core: Mutex::new(core), wake: Notify::new(), materialize: Notify::new(), store }
    });
    tasks.spawn(worker::run(shared.clone()));
    tasks.spawn(materialize::run(shared.clone()));
    let mut opened = describe(&Backend::new(shared));
    opened.reconnected = false;
    opened.checkpoint = checkpoint.as_ref().map(|record| record.identity);
    opened.attachment = checkpoint.map(|record| record.attachment).unwrap_or_default();
    opened.restored = restored;
    tracing::info!(
        backend = %opened.backend.id(),
        epoch = opened.backend.epoch().number,
        attempt = opened.backend.attempt(),
        checkpoint = opened.checkpoint.map(|c| c.id),
        changes = restored.changes,
        bytes = restored.bytes_done,
        "backend opened"
    );
    opened
}

/// What an owner that reconnects to its running backend is told.
///
/// # Errors
/// If it asks for another shape than it opened with.
pub(super) fn reconnect(env: &Environment, spec: &OpenSpec, backend: &Backend) -> Result<Opened, Error> {
    let running = backend.shared.core.lock().manifest.shape;
    shape(env, spec, Some(&running), false)?;
    Ok(describe(backend))
}

fn describe(backend: &Backend) -> Opened {
    let core = backend.shared.core.lock();
    let restored = core.manifest.owner().restored.map(|(identity, _)| identity);
    let record = restored.and_then(|identity| core.ledger.retained().iter().find(|r| r.identity == identity));
    Opened {
        backend: backend.clone(),
        checkpoint: restored,
        attachment: record.map(|record| record.attachment.clone()).unwrap_or_default(),
        applied_to: core.next_batch,
        states: core.states.bound().map(|(id, descriptor)| (id, descriptor.clone())).collect(),
        reconnected: true,
        shape: core.manifest.shape,
        restored: Progress::default(),
        last_checkpoint_id: core.ledger.last_id(),
    }
}

/// Validates the request against the newest manifest and makes the manifest that opens the new epoch. Returns it, its
/// checksum, and what to restore.
async fn fence(
    env: &Environment,
    spec: &OpenSpec,
    retry: Retry,
) -> Result<(Manifest, u32, Option<CheckpointRecord>), Error> {
    for _ in 0..FENCE_ATTEMPTS {
        let head = chain::read_head(&env.store, &spec.id, retry).await?;
        if let Some(owner) = head.as_ref().map(|head| head.manifest.owner())
            && owner.attempt > spec.attempt
        {
            let text = format!(
                "backend `{}`: attempt {} is outdated, attempt {} has opened it; stop, or open with a higher attempt",
                spec.id, spec.attempt, owner.attempt
            );
            return Err(Error::new(Reason::Fenced, text));
        }
        let binding = head.as_ref().map(|head| &head.manifest.shape);
        let shape = shape(env, spec, binding, spec.restore == RestoreFrom::Empty)?;
        let checkpoint = match choose(env, spec, head.as_ref(), retry).await {
            Ok(checkpoint) => checkpoint,
            Err(error) if error.reason == Reason::CheckpointNotFound => {
                // An owner at work may have published it after its head was read.
                let now = chain::read_head(&env.store, &spec.id, retry).await?;
                let number = |head: &Option<Head>| head.as_ref().map(|head| head.manifest.number);
                if number(&now) == number(&head) {
                    return Err(error);
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        let manifest = derive(env, spec, shape, head, checkpoint.as_ref())?;
        match chain::append(&env.store, &manifest, retry).await {
            Ok(crc) => return Ok((manifest, crc, checkpoint)),
            Err(ChainError::Fenced { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ChainError::Contended(spec.id.clone()).into())
}

/// The manifest that opens the next epoch.
fn derive(
    env: &Environment,
    spec: &OpenSpec,
    shape: Shape,
    head: Option<Head>,
    checkpoint: Option<&CheckpointRecord>,
) -> Result<Manifest, Error> {
    let number = head.as_ref().map_or(0, |head| head.manifest.owner().epoch.number) + 1;
    if number > Sqn::MAX_EPOCH {
        let text = format!("backend `{}` was opened {} times, the most there may be", spec.id, Sqn::MAX_EPOCH);
        return Err(Error::new(Reason::LimitExceeded, text));
    }
    let contents = match (checkpoint, &head) {
        (Some(checkpoint), Some(head)) => head.manifest.contents(checkpoint),
        _ => Contents::default(),
    };
    let record = EpochRecord {
        epoch: Epoch { number, owner: env.random.uuid() },
        attempt: spec.attempt,
        restored: checkpoint.map(|record| (record.identity, record.attempt)),
        contents,
    };
    let mut manifest = match head {
        Some(Head { manifest, crc }) => Manifest { number: manifest.number + 1, previous_crc: crc, ..manifest },
        None => Manifest {
            number: 1,
            backend: spec.id.clone(),
            shape,
            epochs: vec![],
            states: BTreeMap::new(),
            runs: BTreeMap::new(),
            checkpoints: vec![],
            instance: env.instance,
            segment_low_water: 0,
            snapshot_low_water: 0,
            materializations: vec![],
            previous_crc: 0,
            opens_epoch: true,
        },
    };
    manifest.shape = shape;
    manifest.epochs.push(record);
    manifest.instance = env.instance;
    manifest.segment_low_water = 0;
    manifest.snapshot_low_water = 0;
    manifest.opens_epoch = true;
    // The engine restores only what completed, whether or not the notice came in time.
    let restored = checkpoint.map(|record| record.identity);
    for record in manifest.checkpoints.iter_mut().filter(|record| Some(record.identity) == restored) {
        record.completed = true;
    }
    manifest.prune(&[]);
    Ok(manifest)
}

/// What the backend is opened as, given what is known of it, which binds unless it begins empty.
fn shape(env: &Environment, spec: &OpenSpec, known: Option<&Shape>, begins_empty: bool) -> Result<Shape, Error> {
    let mismatch = |text: String| Error::new(Reason::BackendMismatch, format!("backend `{}`: {text}", spec.id));
    let max_parallelism = match (spec.max_parallelism, known) {
        (Some(wanted), Some(known)) if wanted != known.max_parallelism && !begins_empty => {
            return Err(mismatch(format!(
                "max parallelism {wanted} was asked for, the state has {}, fixed for its life; ask for that, or 0",
                known.max_parallelism
            )));
        }
        (Some(wanted), _) => wanted,
        (None, Some(known)) => known.max_parallelism,
        (None, None) => default_max_parallelism(spec.parallelism),
    };
    let computed = KeyGroupRange::of_subtask(spec.id.subtask, spec.parallelism, max_parallelism);
    let computed = computed.map_err(|error| Error::new(Reason::InvalidArgument, error.to_string()))?;
    let key_groups = spec.key_groups.unwrap_or(computed);
    if u32::from(key_groups.last().0) >= max_parallelism {
        let text = format!("key groups {key_groups} reach beyond max parallelism {max_parallelism}");
        return Err(Error::new(Reason::InvalidArgument, text));
    }
    if let Some(known) = known.filter(|known| known.key_groups != key_groups && !begins_empty) {
        return Err(mismatch(format!(
            "key groups {key_groups} were asked for, the state has {}; rescaling is not offered yet",
            known.key_groups
        )));
    }
    let assignment = match (spec.assignment, known) {
        (Some(wanted), Some(known)) if wanted != known.assignment && !begins_empty => {
            return Err(mismatch(format!(
                "key-group assignment {wanted:?} was asked for, the state has {:?}, fixed for its life",
                known.assignment
            )));
        }
        (Some(wanted), _) => wanted,
        (None, known) => known.map_or(KeyGroupAssignment::Hashed, |known| known.assignment),
    };
    let inner = spec.inner.unwrap_or(env.options.inner);
    let changelog = spec.changelog.unwrap_or(env.options.changelog);
    if !changelog {
        let text = "a backend without changelog is not offered yet; open it with CHANGELOG_MODE_ENABLED";
        return Err(Error::new(Reason::Unsupported, text));
    }
    Ok(Shape { parallelism: spec.parallelism, max_parallelism, key_groups, assignment, inner, changelog })
}

/// The checkpoint to restore; `None` to begin empty.
async fn choose(
    env: &Environment,
    spec: &OpenSpec,
    head: Option<&Head>,
    retry: Retry,
) -> Result<Option<CheckpointRecord>, Error> {
    let manifest = head.map(|head| &head.manifest);
    let not_found = |what: String| {
        let retained: Vec<String> =
            manifest.map(|m| m.checkpoints.iter().map(|r| r.identity.id.to_string()).collect()).unwrap_or_default();
        let retained = if retained.is_empty() { "none".to_owned() } else { retained.join(", ") };
        let text = format!("backend `{}` retains no checkpoint {what}; retained are: {retained}", spec.id);
        Error::new(Reason::CheckpointNotFound, text)
    };
    match &spec.restore {
        RestoreFrom::Empty => Ok(None),
        RestoreFrom::Id(id) => {
            let found = manifest.and_then(|manifest| manifest.checkpoint_by_id(*id));
            Ok(Some(found.ok_or_else(|| not_found(id.to_string()))?.clone()))
        }
        RestoreFrom::Handle(handle) => {
            if handle.backend != spec.id {
                let text = format!(
                    "the handle is of backend `{}`, not of `{}`; restoring other backends' checkpoints is not offered yet",
                    handle.backend, spec.id
                );
                return Err(Error::new(Reason::Unsupported, text));
            }
            let same = |record: &&CheckpointRecord| record.identity == handle.checkpoint;
            let found = manifest.and_then(|manifest| manifest.checkpoints.iter().find(same));
            Ok(Some(found.ok_or_else(|| not_found(handle.checkpoint.to_string()))?.clone()))
        }
        RestoreFrom::Latest { or_empty } => {
            let chosen = job::choose(&env.store, &spec.id, spec.attempt, retry).await.map_err(job_error)?;
            let Some(chosen) = chosen else {
                return if *or_empty { Ok(None) } else { Err(not_found("at all that completed".to_owned())) };
            };
            let same = |record: &&CheckpointRecord| record.attempt == chosen.attempt && record.identity.id == chosen.id;
            let found = manifest.and_then(|manifest| manifest.checkpoints.iter().rev().find(same));
            Ok(Some(found.ok_or_else(|| not_found(format!("{} of attempt {}", chosen.id, chosen.attempt)))?.clone()))
        }
    }
}

/// An empty inner backend.
fn inner_backend(env: &Environment, shape: &Shape) -> Result<Box<dyn StateBackend>, Error> {
    let local = match (shape.inner, &env.local) {
        (InnerBackend::HashMap, _) => return Ok(Box::new(HashMapBackend::new(shape.key_groups))),
        (InnerBackend::RocksDb, Some(local)) => local,
        (InnerBackend::RocksDb, None) => {
            let text = "this daemon has no inner backend `rocksdb`: it was built without it, or cannot write \
                        `state.backend.rocksdb.localdir` (its log says so); open with `hashmap`";
            return Err(Error::new(Reason::Unsupported, text));
        }
    };
    let made = tasks::blocking(|| local.create(shape.key_groups, shape.max_parallelism));
    made.map_err(|fault| {
        let text = format!("{}; is there room in `state.backend.rocksdb.localdir`?", super::error::inner(&fault));
        Error::new(Reason::Internal, text)
    })
}

fn change_memory(backend: &BackendId) -> Error {
    let text = format!(
        "backend `{backend}`: the memory for changes that are not yet durable cannot guarantee one more backend its largest \
         batch; close one, or raise `state.changelog.dstl.dfs.upload.max-in-flight`"
    );
    Error::new(Reason::ChangeMemory, text)
}

fn job_error(error: JobError) -> Error {
    let reason = match &error {
        JobError::Outdated { .. } | JobError::Used { .. } => Reason::Fenced,
        JobError::Inconsistent(_) => Reason::NoConsistentCheckpoint,
        JobError::Corrupt { .. } => Reason::CorruptObject,
        JobError::Chain(_) => {
            let JobError::Chain(source) = error else { unreachable!("matched above") };
            return source.into();
        }
    };
    Error::new(reason, error.to_string())
}

fn restore_error(backend: &BackendId, error: RestoreError) -> Error {
    let text = |error: &RestoreError| format!("backend `{backend}`: {error}");
    match error {
        RestoreError::Damaged { missing, .. } => {
            let reason = if missing { Reason::MissingObject } else { Reason::CorruptObject };
            Error::new(reason, text(&error))
        }
        RestoreError::Store(source) => source.into(),
        RestoreError::Inner { ref source, .. } => {
            Error::new(Reason::Internal, format!("{}: {}", text(&error), super::error::inner(source)))
        }
        RestoreError::NoLocalBackends { .. } => Error::new(Reason::Unsupported, text(&error)),
        RestoreError::Folder { .. } => Error::new(Reason::Internal, text(&error)),
        RestoreError::Stopped => Error::new(Reason::Draining, text(&error)),
    }
}

//! Opening a backend: claim, load, assemble, serve.
//!
//! A [claim](crate::claim) makes the opener the owner: older owners are fenced. Only then are the contents
//! [loaded](load), so that no owner changes them meanwhile. If the older owner that is fenced ran on this daemon, its
//! state in memory or on local disk is used instead of the store, if possible ([`warm`]). The parts of the owner are
//! then assembled, and its workers begin.
//!
//! With [`NoClaim`](crate::claim::claiming::ClaimMode::NoClaim) the restored checkpoint is pinned, and the owner serves only once all of its state is in
//! a materialization of its own ([`sustain`]). So each of its checkpoints builds on that materialization, and needs
//! nothing of the restored one.

mod load;
mod native;
mod restored;
mod savepoint;
mod shares;
mod sustain;
mod warm;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
};

use bytes::Bytes;
use futures::future;
use tokio::time::Instant;

use self::{
    load::load,
    restored::{LoadError, Loaded},
};
use super::{
    cleanup::CleanUps,
    core::{Condition, Core, Uploading},
    credit::Account,
    environment::Environment,
    error::restore_error,
    handle::{Backend, Shared},
    marks::Marks,
    materialize::{self, Reusable},
    metrics::Restores,
    pushback::PushBack,
    snapshotting::Snapshots,
    worker,
};
use crate::{
    changelog::{block::ChangeSetBuilder, pending::Pending},
    checkpoint::{
        self, chain,
        job::{JobRecord, Spoilt},
        manifest::{Manifest, Shape},
        owner::{Beginning, Owner},
    },
    claim::{
        self, admit,
        claimed::{Claim, Known},
        clone, damage,
        part::RestoredPart,
        shape::shape,
        spec::OpenSpec,
        states::{RegisteredState, States},
    },
    error::{Error, Reason},
    object::Retry,
    restore::{KeptImages, Progress, RestoreError, Restored},
    state::{StateBackend as _, operator::WithOperatorState, undo::Undo},
    tasks::Panicked,
    types::{BackendId, CheckpointIdentity, Epoch},
};

/// A backend that was opened, and the answer to its opener.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The backend, ready to serve.
    pub backend: Backend,
    /// The checkpoint that was restored; if it has several parts, the first.
    pub checkpoint: Option<CheckpointIdentity>,
    /// The bytes that the task attached to it; empty if there are several parts.
    pub attachment: Bytes,
    /// Every part of the restored checkpoint, by subtask.
    pub parts: Vec<RestoredPart>,
    /// The batch number that is expected next.
    pub applied_to: u64,
    /// The states in force.
    pub states: Vec<RegisteredState>,
    /// Whether the backend was running already, with the same owner.
    pub reconnected: bool,
    /// The shape that it was opened with.
    pub shape: Shape,
    /// Bytes and changes that were restored.
    pub restored: Progress,
    /// The highest checkpoint id so far.
    pub last_checkpoint_id: u64,
    /// See [`CompletedCheckpoint::self_sustained_since`](super::CompletedCheckpoint::self_sustained_since).
    pub self_sustained_since: u64,
    /// Newer checkpoints that were skipped because they are damaged, newest first.
    pub skipped: Vec<Spoilt>,
    /// Whether it was restored from local memory or disk, without reading the store.
    pub warm: bool,
    /// If there was an older owner on this daemon, the reason why that was not possible.
    pub not_warm: String,
    /// Whether dstl completes its checkpoints itself, because its attempt of the job was declared.
    pub coordinated: bool,
}

/// Opens the backend of `spec`. `predecessor` is an older owner of it on this daemon, which ends once it is fenced.
/// `on_fenced` is told the other chains whose owners were fenced, and the epochs that fenced them. Cancel-safe, except
/// that older owners may be fenced by then.
///
/// # Errors
/// An [`Error`] that says what to change, or to try again.
pub(super) async fn open(
    env: &Environment,
    spec: &OpenSpec,
    predecessor: Option<Backend>,
    on_fenced: impl Fn(&[(BackendId, Epoch)]),
    mut progress: impl FnMut(Progress) + Send,
) -> Result<Opened, Error> {
    let started = Instant::now();
    let retry = Retry::until(started + env.options.open_timeout);
    let claiming = env.claiming();
    let (admitted, head) =
        future::join(admit::admit(&claiming, spec, retry), chain::read_head(&env.store, &spec.id, retry)).await;
    let admitted = admitted?;
    let mut known = Known::new(head?, admitted.seen.clone());
    let spec = &admitted.spec;
    let reserve = || reserve(env, &spec.id);
    let mut predecessor = predecessor.map(|predecessor| (predecessor.succeeded(), predecessor));
    let mut account = if predecessor.is_none() { Some(reserve()?) } else { None };
    loop {
        // Boxed, because the future is large and would make every future around it large.
        let mut claim = Box::pin(claim::claim(&claiming, &admitted, &mut known, retry)).await?;
        let predecessor = predecessor.take();
        if let Some((_, predecessor)) = &predecessor {
            predecessor.end(&super::error::fenced_by(&spec.id, claim.manifest.owner().epoch));
        }
        on_fenced(&claim.fenced);
        if account.is_none() {
            account = Some(reserve()?);
        }
        let pins = std::mem::take(&mut claim.pins);
        let still = std::mem::replace(&mut claim.still, Ok(()));
        let owner = predecessor.as_ref().map(|(_, owner)| owner);
        let begun = async {
            still?;
            let admitted = (spec, admitted.declared.as_deref());
            Box::pin(begin(env, admitted, (claim, owner, &mut account), (started, &mut progress))).await
        };
        if let Some(opened) = clone::holding(&claiming, &spec.id, pins, begun).await? {
            return Ok(opened);
        }
    }
}

/// Reserves credit, and makes room for state. If either is short, idle backends are ended.
fn reserve(env: &Environment, id: &BackendId) -> Result<Account, Error> {
    env.make_room_for_state();
    loop {
        if let Some(account) = env.credit.account() {
            return Ok(account);
        }
        let why = "memory for changes ran short (`state.changelog.dstl.dfs.upload.max-in-flight`)";
        if !env.idle.make_room(why, |_| true) {
            return Err(change_memory(id));
        }
    }
}

/// Begins with the claimed state, and serves; `None` if that state is damaged and another checkpoint may be claimed
/// instead.
async fn begin(
    env: &Environment,
    (spec, declared): (&OpenSpec, Option<&JobRecord>),
    (claim, predecessor, account): (Claim, Option<&Backend>, &mut Option<Account>),
    (started, progress): (Instant, &mut (impl FnMut(Progress) + Send)),
) -> Result<Option<Opened>, Error> {
    let loaded = match load(env, &claim, predecessor, progress).await {
        Ok(loaded) => loaded,
        Err(LoadError::Refused(error)) => return Err(error),
        Err(LoadError::Restore(RestoreError::Damaged { checkpoint, fault })) => {
            damage::weigh(&env.claiming(), spec, &claim, (checkpoint, &fault)).await?;
            return Ok(None);
        }
        Err(LoadError::Restore(error)) => return Err(restore_error(&spec.id, error)),
    };
    let Loaded { inner, states, parts, restored, previous, images, shares, warm, not_warm } = loaded;
    let Claim { manifest, crc, skipped, .. } = claim;
    env.metrics.restored(Restores {
        replayed: !parts.is_empty(),
        warm,
        duration: started.elapsed(),
        progress: restored.progress,
    });
    let progress = restored.progress;
    let account = account.take().expect("it was reserved before anything was read");
    let no_claim = spec.is_no_claim(&env.claiming()) && !parts.is_empty();
    // Otherwise its materializations would name files of the restored checkpoint.
    let previous = previous.filter(|_| !no_claim);
    let assembly =
        Assembly { manifest, crc, inner, states, account, restored, previous, images, parts, skipped, no_claim };
    let mut core = assemble(env, spec, assembly);
    // Order: commits and operator state of the beginning first, then calls are served.
    core.begin_coordinated(declared);
    core.begin_with(&shares).map_err(|fault| Error::new(Reason::Internal, fault))?;
    let opened = Opened { warm: warm.is_some(), not_warm, ..serve(core, progress) };
    if no_claim {
        sustain::materialized((&opened.backend, opened.shape.changelog)).await?;
    }
    Ok(Some(opened))
}

struct Assembly {
    manifest: Manifest,
    crc: u32,
    inner: WithOperatorState,
    states: States,
    account: Account,
    restored: Restored,
    previous: Option<Arc<Reusable>>,
    images: Option<KeptImages>,
    parts: Vec<RestoredPart>,
    skipped: Vec<Spoilt>,
    no_claim: bool,
}

/// Assembles the core of an owner.
fn assemble(env: &Environment, spec: &OpenSpec, parts: Assembly) -> Core {
    let Assembly { manifest, crc, inner, states, account, restored, previous, images, parts, skipped, no_claim } =
        parts;
    let uploads = env.uploads.of_job(&spec.id.job);
    let parts_of_log = manifest.shape.key_groups.parts(manifest.shape.max_parallelism).collect();
    let shape = manifest.shape;
    let blocks = ChangeSetBuilder::new(parts_of_log, env.options.block_split_threshold);
    let retention = spec.retention.unwrap_or(env.options.retention);
    // A base may lack entries that were expired at the cut, and this daemon's clock may be behind; so time must not go
    // back.
    let time = parts.iter().map(|part| part.time).max().unwrap_or(0).max(restored.time);
    let began_with = parts.first().map(|part| part.checkpoint);
    let keeps_marks = env.options.queries || warm::needs_marks(env, shape.inner);
    // Without a log, replays do not grow any more.
    let log_changes = if shape.changelog { restored.log_changes } else { 0 };
    let mut core = Core {
        env: env.clone(),
        shared: std::sync::Weak::new(),
        id: spec.id.clone(),
        condition: Condition::Serving,
        owner: Owner::new(
            Beginning { manifest, crc, retention, is_claimed: !no_claim, blocks },
            checkpoint::owner::Options::new(env.options.notice_delay),
            Instant::now().into_std(),
        ),
        inner,
        clean_ups: CleanUps::new(&states),
        states,
        uploads: Some(Uploading { _writer: uploads.writer(), uploads }),
        coordinated: None,
        publish_now: vec![],
        publishing_for: vec![],
        flights: BTreeMap::new(),
        held: BTreeMap::new(),
        barriers: BTreeMap::new(),
        persist_waiters: Pending::default(),
        account,
        session: None,
        sessions: 0,
        linger: None,
        idle_since: Some(Instant::now()),
        is_watched: false,
        undelivered: vec![],
        next_batch: 0,
        time,
        own_time: Core::own_time(env, &spec.id, time),
        restored: parts,
        skipped,
        previous,
        snapshots: Snapshots::default(),
        log_changes,
        push_back: PushBack::default(),
        materialization_failures: 0,
        materialization_requests: vec![],
        snapshot_files: Arc::new(AtomicU64::new(1)),
        counted_state_bytes: 0,
        marks: keeps_marks.then(|| Marks::new(undo(env), began_with, log_changes)),
        images,
        successors: 0,
        key_groups: vec![],
    };
    core.count_state_bytes(core.inner.memory_bytes());
    core.want_copies();
    core
}

/// The undo log that completed-checkpoint queries and warm restarts read.
fn undo(env: &Environment) -> Undo {
    let limit = env.options.undo_memory;
    if env.options.queries { Undo::new(limit) } else { Undo::lazy(limit) }
}

/// Starts the background work of an owner.
fn serve(core: Core, restored: Progress) -> Opened {
    let (env, tasks) = (core.env.clone(), core.env.tasks.clone());
    let changelog = core.owner.manifest().shape.changelog;
    let shared = Shared::new(core);
    // Weak, so that an ended backend frees its memory even if its tasks still run.
    let end = |weak: std::sync::Weak<Shared>| {
        move |panicked: &Panicked| {
            if let Some(shared) = weak.upgrade() {
                shared.core().end_panicked(panicked);
            }
        }
    };
    let weak = Arc::downgrade(&shared);
    tasks.supervise("the worker of a backend", worker::run(shared.clone()), end(weak.clone()));
    if changelog {
        tasks.supervise("the materialization of a backend", materialize::run(shared.clone()), end(weak));
    }
    let coordinated = shared.core().coordinated.is_some();
    if coordinated {
        env.coordinators.join(&env, &shared);
    }
    let mut opened = describe(&Backend::new(shared));
    opened.reconnected = false;
    opened.restored = restored;
    tracing::info!(
        backend = %opened.backend.id(),
        epoch = opened.backend.epoch().number,
        attempt = opened.backend.attempt(),
        checkpoint = opened.checkpoint.map(|c| c.id),
        parts = opened.parts.len(),
        changes = restored.changes,
        bytes = restored.bytes_done,
        "backend opened"
    );
    opened
}

/// The answer for an owner that reconnects to its running backend.
///
/// # Errors
/// If it asks for another shape than it opened with.
pub(super) fn reconnect(env: &Environment, spec: &OpenSpec, backend: &Backend) -> Result<Opened, Error> {
    let running = backend.shared.core().owner.manifest().shape;
    let wanted = shape(&env.claiming(), spec, Some(&running.span()))?;
    if wanted.key_groups != running.key_groups {
        let text = format!(
            "backend `{}`: key groups {} were asked for, it runs with {}; to rescale, open with a higher attempt",
            spec.id, wanted.key_groups, running.key_groups
        );
        return Err(Error::new(Reason::BackendMismatch, text));
    }
    if let Some(changelog) = spec.changelog.filter(|changelog| *changelog != running.changelog) {
        let mode = |on| if on { "enabled" } else { "disabled" };
        let text = format!(
            "backend `{}`: changelog {} was asked for, it runs with changelog {}; to switch, open with a higher attempt",
            spec.id,
            mode(changelog),
            mode(running.changelog)
        );
        return Err(Error::new(Reason::BackendMismatch, text));
    }
    Ok(describe(backend))
}

fn describe(backend: &Backend) -> Opened {
    let core = backend.shared.core();
    let attachment = match core.restored.as_slice() {
        [part] => part.attachment.clone(),
        _ => Bytes::new(),
    };
    Opened {
        backend: backend.clone(),
        checkpoint: core.restored.first().map(|part| part.checkpoint),
        attachment,
        parts: core.restored.clone(),
        applied_to: core.next_batch,
        states: core.states.in_force().collect(),
        reconnected: true,
        shape: core.owner.manifest().shape,
        restored: Progress::default(),
        last_checkpoint_id: core.owner.ledger().last_id(),
        self_sustained_since: core.owner.sustained_since(),
        skipped: core.skipped.clone(),
        warm: false,
        not_warm: String::new(),
        coordinated: core.coordinated.is_some(),
    }
}

fn change_memory(backend: &BackendId) -> Error {
    let text = format!(
        "backend `{backend}`: the memory for changes that are not yet durable cannot guarantee one more backend its largest \
         batch; close one, or raise `state.changelog.dstl.dfs.upload.max-in-flight`"
    );
    Error::new(Reason::ChangeMemory, text)
}

//! Opening a backend: claim, load, assemble, serve.
//!
//! A [claim](crate::claim) makes the opener the owner: older owners are fenced. Only then are the contents
//! [loaded](load), so that no owner changes them meanwhile. If the older owner that is fenced ran on this daemon, its
//! state in memory or on local disk is used instead of the store, if possible ([`warm`]). The parts of the owner are
//! then [assembled](assemble), and its workers begin.
//!
//! With [`ClaimMode::NoClaim`](super::ClaimMode::NoClaim) the restored checkpoint is pinned, and the owner serves only
//! once all of its state is in a materialization of its own ([`sustain`]). So each of its checkpoints builds on that
//! materialization, and needs nothing of the restored one.

mod assemble;
mod load;
mod native;
mod restored;
mod savepoint;
mod shares;
mod sustain;
mod warm;

use std::sync::Arc;

use bytes::Bytes;
use futures::future;
use tokio::time::Instant;

use self::{
    assemble::{Assembly, assemble},
    load::load,
    restored::{LoadError, Loaded},
};
use super::{
    apply,
    credit::Account,
    environment::Environment,
    error::{self, restore_error},
    handle::Backend,
    idle::Frees,
    metrics::Restores,
    shared::Shared,
    worker::{
        coordinate::{self, Coordinators},
        materialize, publish,
    },
};
use crate::{
    checkpoint::{chain, job::Spoilt, manifest::Shape},
    claim::{
        self,
        admit::{self, Admitted},
        claimed::Known,
        clone, damage,
        part::RestoredPart,
        shape::shape,
        spec::OpenSpec,
        states::RegisteredState,
    },
    error::{Error, Reason},
    object::Retry,
    restore::{Progress, RestoreError},
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

/// Opens the backends of one daemon.
pub(super) struct Opener<'a> {
    /// The environment that these backends share.
    pub(super) env: &'a Environment,
    /// The coordinators that the backends of declared jobs join.
    pub(super) coordinators: &'a Coordinators,
}

impl Opener<'_> {
    /// Opens the backend of `spec`. `predecessor` is an older owner of it on this daemon, which ends once it is fenced.
    /// `on_fenced` is told the other chains whose owners were fenced, and the epochs that fenced them. Cancel-safe,
    /// except that older owners may be fenced by then.
    ///
    /// # Errors
    /// An [`Error`] whose message advises a change of the request, or another try.
    pub(super) async fn open(
        &self,
        spec: &OpenSpec,
        predecessor: Option<Backend>,
        on_fenced: impl Fn(&[(BackendId, Epoch)]),
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<Opened, Error> {
        let env = self.env;
        let started = Instant::now();
        let retry = Retry::until(started + env.options.open_timeout);
        let claiming = env.claiming();
        // Neither read needs the other, so an open waits for one round trip instead of two.
        let (admitted, head) =
            future::join(admit::admit(&claiming, spec, retry), chain::read_head(&env.store, &spec.id, retry)).await;
        let admitted = admitted?;
        let mut known = Known::new(head?, admitted.seen.clone());
        let spec = &admitted.spec;
        let reserve = || reserve(env, &spec.id);
        // Ordering 1: before anybody is fenced. From here on the older owner keeps its state when it ends as fenced,
        // which a warm restart needs. Without an older owner, credit is reserved now: a daemon without memory refuses
        // the open, and no owner elsewhere is disturbed. With one, its credit comes free only when it ends.
        let mut predecessor = predecessor.map(|predecessor| (predecessor.succeeded(), predecessor));
        let mut account = if predecessor.is_none() { Some(reserve()?) } else { None };
        loop {
            // Boxed, because the future is large and would make every future around it large.
            let mut claim = Box::pin(claim::claim(&claiming, &admitted, &mut known, retry)).await?;
            let predecessor = predecessor.take();
            // Ordering 2: the manifest of the new epoch is durable, so every further manifest of the older owner is
            // refused. That owner ends before its state is looked at, and before anybody else serves calls of this
            // backend.
            if let Some((_, predecessor)) = &predecessor {
                predecessor.end(&error::fenced_by(&spec.id, claim.manifest.owner().epoch));
            }
            on_fenced(&claim.fenced);
            // Ordering 3: the older owner has given its credit back. Another open may have taken it in between; then
            // idle backends end.
            if account.is_none() {
                account = Some(reserve()?);
            }
            let pins = std::mem::take(&mut claim.pins);
            let still = std::mem::replace(&mut claim.still, Ok(()));
            let owner = predecessor.as_ref().map(|(_, owner)| owner);
            let begun = Box::pin(async {
                // Ordering 4: the second look at the job, before anything is read or served. An opener that may not
                // begin any more leaves its manifest as a fence, and has let go of nothing. This runs under the pins,
                // so that they are released in either case.
                still?;
                let loaded = match load(env, &claim, owner, &mut progress).await {
                    Ok(loaded) => loaded,
                    Err(LoadError::Refused(error)) => return Err(error),
                    Err(LoadError::Restore(RestoreError::Damaged { checkpoint, fault })) => {
                        damage::weigh(&claiming, spec, &claim, checkpoint, &fault).await?;
                        // The damage is recorded in the job's chain by now, so the next turn of the loop chooses
                        // another checkpoint.
                        return Ok(None);
                    }
                    Err(LoadError::Restore(error)) => return Err(restore_error(&spec.id, error)),
                };
                env.metrics.restored(Restores {
                    replayed: !loaded.parts.is_empty(),
                    warm: loaded.warm,
                    duration: started.elapsed(),
                    progress: loaded.restored.progress,
                });
                let account = account.take().expect("it was reserved before anything was read");
                let no_claim = spec.is_no_claim(&claiming) && !loaded.parts.is_empty();
                let opened = self.begin(&admitted, Assembly { claim, loaded, account, no_claim })?;
                if no_claim {
                    // Ordering 5: the pins are held until all state is in a materialization of this backend's own.
                    // Otherwise a sweep could delete objects that its checkpoints still need.
                    sustain::materialized(&opened.backend, opened.shape.changelog).await?;
                }
                Ok(Some(opened))
            });
            if let Some(opened) = clone::holding(&claiming, &spec.id, pins, begun).await? {
                return Ok(opened);
            }
        }
    }

    /// Begins with the loaded state, and serves.
    fn begin(&self, admitted: &Admitted, assembly: Assembly) -> Result<Opened, Error> {
        let Self { env, coordinators } = *self;
        let Loaded { shares, warm, not_warm, restored, .. } = &assembly.loaded;
        let (shares, warm, not_warm, restored) = (shares.clone(), warm.is_some(), not_warm.clone(), restored.progress);
        let shared = Shared::new(|shared| assemble(env, &admitted.spec, assembly, shared));
        {
            // Ordering 1: commits that the owner before had no time to note, and operator state of the beginning. No
            // call is served yet, so both are part of every cut of this epoch.
            let mut core = shared.core();
            coordinate::begin(&mut core, admitted.declared.as_deref());
            apply::begin_with(&mut core, &shares).map_err(|fault| Error::new(Reason::Internal, fault))?;
        }
        // Ordering 2: the workers begin after that, so their first manifest has both.
        serve(env, &shared);
        if admitted.declared.is_some() {
            coordinators.join(env, &shared);
        }
        let opened = Opened { reconnected: false, restored, warm, not_warm, ..describe(&Backend::new(shared)) };
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
        Ok(opened)
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
        if !env.idle.make_room(why, Frees::Changes) {
            return Err(change_memory(id));
        }
    }
}

/// Starts the background work of an owner.
fn serve(env: &Environment, shared: &Arc<Shared>) {
    // Weak, so that an ended backend frees its memory even if its tasks still run.
    let end = |weak: std::sync::Weak<Shared>| {
        move |panicked: &Panicked| {
            if let Some(shared) = weak.upgrade() {
                shared.core().end_panicked(panicked);
            }
        }
    };
    let (tasks, weak) = (&env.tasks, Arc::downgrade(shared));
    tasks.supervise("the worker of a backend", publish::run(shared.clone()), end(weak.clone()));
    if !shared.core().owner.is_unlogged() {
        tasks.supervise("the materialization of a backend", materialize::run(shared.clone()), end(weak));
    }
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
    let attachment = match core.origin.restored.as_slice() {
        [part] => part.attachment.clone(),
        _ => Bytes::new(),
    };
    Opened {
        backend: backend.clone(),
        checkpoint: core.origin.restored.first().map(|part| part.checkpoint),
        attachment,
        parts: core.origin.restored.clone(),
        applied_to: core.seat.next_batch(),
        states: core.table.in_force(),
        reconnected: true,
        shape: core.owner.manifest().shape,
        restored: Progress::default(),
        last_checkpoint_id: core.owner.ledger().last_id(),
        self_sustained_since: core.owner.sustained_since(),
        skipped: core.origin.skipped.clone(),
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

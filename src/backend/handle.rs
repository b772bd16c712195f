//! A handle on a backend, for its callers.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use super::{
    apply::{BatchResult, Operation},
    checkpointing::{BarrierRequest, CheckpointReply, CompletedCheckpoint, PersistWaiter},
    core::{Acknowledgement, Condition, Core, Description},
    error,
    held::Held,
    lane::Lane,
    outbox::Outbox,
    slices::Ahead,
};
use crate::{
    checkpoint::ledger::{NoticeKind, NoticeOutcome, NoticeTarget},
    error::{Error, Reason},
    object::Store,
    state::StateBackend as _,
    tasks,
    types::{Attempt, BackendId, Epoch, KeyGroupRange, StateDescriptor, StateId},
};

/// How long an orderly close waits for its last manifest.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time that a description spends counting entries.
const COUNTING_TIME: Duration = Duration::from_secs(10);

/// The core, and the signals that wake its workers.
pub(super) struct Shared {
    core: Mutex<Core>,
    /// Whether the holder of the core may wait for a disk.
    may_block: bool,
    /// Lane of batches and moves of entries: no other one runs between the slices of one.
    pub(super) batches: Lane,
    pub(super) wake: Notify,
    /// Wakes the materialization worker.
    pub(super) materialize: Notify,
    /// The reason for the end, once the backend has ended. The directory reads it while it holds a lock of its own, so
    /// it must not wait for the core.
    pub(super) ended: watch::Sender<Option<Error>>,
    pub(super) store: Store,
}

impl Shared {
    /// The core, if it is free.
    pub(super) fn try_core(&self) -> Option<Held<'_>> {
        self.core.try_lock().map(Held::new)
    }

    /// Shares `core` between its workers and callers.
    pub(super) fn new(mut core: Core) -> Arc<Self> {
        let (may_block, store) = (core.inner.may_block(), core.env.store.clone());
        Arc::new_cyclic(|weak| {
            core.shared = weak.clone();
            Self {
                core: Mutex::new(core),
                may_block,
                batches: Lane::default(),
                wake: Notify::new(),
                materialize: Notify::new(),
                ended: watch::Sender::default(),
                store,
            }
        })
    }

    /// Locks the core. This is the only way to it.
    ///
    /// If its holder may wait for a disk, this thread hands its other tasks away before it waits, too. Otherwise a
    /// worker of the runtime would keep sockets and timers from running while it waits.
    pub(super) fn core(&self) -> Held<'_> {
        Held::new(match self.core.try_lock() {
            Some(core) => core,
            None if self.may_block => tasks::blocking(|| self.core.lock()),
            None => self.core.lock(),
        })
    }
}

/// One open backend. Cheap to clone. Every call names the caller's epoch, which is checked under the lock.
#[derive(Clone)]
pub struct Backend {
    pub(super) shared: Arc<Shared>,
    id: BackendId,
    epoch: Epoch,
    attempt: Attempt,
}

impl Backend {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let (id, epoch, attempt) = {
            let core = shared.core();
            (core.id.clone(), core.owner.epoch(), core.owner.manifest().owner().attempt)
        };
        Self { shared, id, epoch, attempt }
    }

    /// The name of the backend.
    #[must_use]
    pub fn id(&self) -> &BackendId {
        &self.id
    }

    /// The epoch of its owner.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The attempt of its owner.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The key groups of this subtask.
    #[must_use]
    pub fn key_groups(&self) -> KeyGroupRange {
        self.shared.core().owner.manifest().shape.key_groups
    }

    /// Whether the backend has ended: fenced, closed, or ended by a fault.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.shared.ended.borrow().is_some()
    }

    /// Waits for the end of the backend without keeping it in memory. Returns the reason; `None` if it was dropped
    /// before. Cancel-safe.
    pub(super) fn ended(&self) -> impl Future<Output = Option<Error>> + use<> {
        let mut ended = self.shared.ended.subscribe();
        async move { ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) }
    }

    /// Registers states that have no entries to move, as [`register_states`](Self::register_states) does; returns their
    /// ids in order. If entries have to move, the ids are valid only after `register_states` was called for them.
    ///
    /// # Errors
    /// If a descriptor is malformed, or differs from the registered one.
    pub fn register(&self, epoch: Epoch, wanted: &[StateDescriptor]) -> Result<Vec<StateId>, Error> {
        let mut core = self.shared.core();
        core.check_owner(epoch)?;
        let (_, registered) = core.register(wanted, &[])?;
        Ok(registered.into_iter().map(|state| state.id).collect())
    }

    /// Whether the backend had a session and has none now.
    #[must_use]
    pub fn is_left(&self) -> bool {
        let core = self.shared.core();
        core.sessions > 0 && core.session.is_none() && !matches!(core.condition, Condition::Ended(_))
    }

    /// Applies one batch of `bytes` outside a session. Waits for credit, unless the batch only reads. Without a number,
    /// a batch with writes takes the next number, and a batch that only reads takes none. Cancel-safe: if dropped, the
    /// batch is not applied.
    ///
    /// # Errors
    /// The batch was not applied.
    pub async fn apply_batch(
        &self,
        epoch: Epoch,
        number: Option<u64>,
        bytes: u64,
        operations: &[Operation<'_>],
    ) -> Result<(BatchResult, Acknowledgement), Error> {
        let outbox = Arc::new(Outbox::default());
        loop {
            let turn = self.shared.batches.enter().await;
            let mut ahead = Ahead::default();
            while self.read_ahead(epoch, number, operations, &mut ahead)? {
                tokio::task::yield_now().await;
            }
            {
                let mut core = self.shared.core();
                core.check_owner(epoch)?;
                let (next, writes) = (core.next_batch, core.writes(operations));
                let cost = if writes { bytes } else { 0 };
                match number {
                    Some(number) if number < next => {
                        let result = BatchResult { number, answers: vec![], repeated: true };
                        return Ok((result, core.acknowledgement()));
                    }
                    Some(number) if number > next => return Err(out_of_order(&self.id, number, next)),
                    None if !writes => return Ok((core.read_batch(operations, ahead)?, core.acknowledgement())),
                    None if core.session.is_some() => return Err(beside_session(&self.id, next)),
                    _ => {}
                }
                if cost > 0 && core.pushes_back() {
                    core.wait_for_materialization(&outbox);
                } else if core.account.grant_exactly(cost, &outbox) {
                    let applied = core.apply_batch(next, operations, ahead);
                    let held = applied.as_ref().map_or(0, |(_, appended)| *appended);
                    core.account.spend(cost, held);
                    let acknowledgement = core.acknowledgement();
                    return applied.map(|(result, _)| (result, acknowledgement));
                } else {
                    core.roll_over(true);
                }
            }
            // A batch that waits for credit lets others go first.
            drop(turn);
            outbox.changed().await;
        }
    }

    /// Reads a slice of the leading reads of a batch; returns whether others follow.
    fn read_ahead(
        &self,
        epoch: Epoch,
        number: Option<u64>,
        operations: &[Operation<'_>],
        ahead: &mut Ahead,
    ) -> Result<bool, Error> {
        let mut core = self.shared.core();
        core.check_owner(epoch)?;
        let writes = core.writes(operations);
        if writes || number.is_some_and(|number| number != core.next_batch) {
            return Ok(false);
        }
        core.read_ahead(operations, ahead, number.is_none())
    }

    /// Takes one checkpoint outside a session. Not cancel-safe: if dropped, the checkpoint goes on.
    ///
    /// # Errors
    /// If the checkpoint was refused or failed.
    pub async fn checkpoint(&self, epoch: Epoch, request: BarrierRequest) -> Result<CompletedCheckpoint, Error> {
        let answer = self.call_barrier(epoch, |core, reply| core.barrier(request, reply))?;
        answer.await.map_err(|_| closed(&self.id))?
    }

    /// Cuts by `cut`, outside a session; the outcome comes through the returned channel.
    pub(super) fn call_barrier(
        &self,
        epoch: Epoch,
        cut: impl FnOnce(&mut Core, CheckpointReply) -> Result<(), Error>,
    ) -> Result<oneshot::Receiver<Result<CompletedCheckpoint, Error>>, Error> {
        let (reply, answer) = oneshot::channel();
        self.flush();
        {
            let mut core = self.shared.core();
            core.check_owner(epoch)?;
            cut(&mut core, CheckpointReply::Call(reply))?;
        }
        self.shared.wake.notify_one();
        Ok(answer)
    }

    /// Makes all applied changes durable; returns the batch number below which all batches are durable. Cancel-safe.
    ///
    /// # Errors
    /// If the backend has no changelog, or ends first.
    pub async fn persist(&self, epoch: Epoch) -> Result<u64, Error> {
        let (reply, answer) = oneshot::channel();
        {
            let mut core = self.shared.core();
            core.check_owner(epoch)?;
            core.persist(PersistWaiter::Call(reply))?;
        }
        answer.await.map_err(|_| closed(&self.id))?
    }

    /// Carries out a notice. Idempotent.
    ///
    /// # Errors
    /// If the caller is not the owner.
    pub fn notice(&self, epoch: Epoch, kind: NoticeKind, target: NoticeTarget) -> Result<NoticeOutcome, Error> {
        let outcome = {
            let mut core = self.shared.core();
            core.check_owner(epoch)?;
            core.notice(kind, target)
        };
        self.shared.wake.notify_one();
        Ok(outcome)
    }

    /// Pins a checkpoint; on success the pin is durable. Not cancel-safe: if dropped, it may be pinned.
    ///
    /// # Errors
    /// If there is no such checkpoint.
    pub async fn pin(&self, epoch: Epoch, target: NoticeTarget) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        {
            let mut core = self.shared.core();
            core.check_owner(epoch)?;
            if !core.owner.pin(target) {
                return Err(not_found(&self.id, target));
            }
            core.publish_now.push(reply);
        }
        self.shared.wake.notify_one();
        answer.await.map_err(|_| closed(&self.id))?
    }

    /// Removes a pin; returns whether there was one.
    ///
    /// # Errors
    /// If the caller is not the owner.
    pub fn release(&self, epoch: Epoch, target: NoticeTarget) -> Result<bool, Error> {
        let released = {
            let mut core = self.shared.core();
            core.check_owner(epoch)?;
            core.owner.release(target).unwrap_or(false)
        };
        self.shared.wake.notify_one();
        Ok(released)
    }

    /// Describes the backend, without the numbers of entries.
    #[must_use]
    pub fn outline(&self) -> Description {
        self.shared.core().outline()
    }

    /// Describes the backend, with the numbers of entries. An inner backend on disk may block for up to
    /// ten seconds to count them; the writer goes on meanwhile.
    #[must_use]
    pub fn describe(&self) -> Description {
        let (mut description, counting) = {
            let core = self.shared.core();
            (core.outline(), tasks::blocking_if(core.inner.may_block(), || core.inner.counting()))
        };
        let until = tokio::time::Instant::now() + COUNTING_TIME;
        // A fault of the local store leads to failsafe elsewhere; here the counts are only unknown.
        let counts = tasks::blocking(|| counting(&mut || tokio::time::Instant::now() < until)).unwrap_or_default();
        for state in &mut description.states {
            state.entries = counts.entries.get(&state.state.id).copied().unwrap_or(0);
            state.at_least = !counts.complete;
        }
        description
    }

    /// Ends this owner in order. Waits, within bounds, until the present set of retained checkpoints is in a manifest.
    ///
    /// # Errors
    /// If the caller is not the owner.
    pub async fn close(&self, epoch: Epoch) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        {
            let mut core = self.shared.core();
            if core.owner.epoch() != epoch {
                return Err(error::fenced(&self.id, epoch, core.owner.epoch()));
            }
            if matches!(core.condition, Condition::Ended(_)) {
                return Ok(());
            }
            core.owner.close();
            core.publish_now.push(reply);
        }
        self.shared.wake.notify_one();
        if tokio::time::timeout(CLOSE_TIMEOUT, answer).await.is_err() {
            tracing::warn!(backend = %self.id, "closed without its last manifest: the store did not answer");
        }
        self.end(&closed(&self.id));
        Ok(())
    }

    /// Ends this owner at once; waiting callers get this error.
    pub(super) fn end(&self, error: &Error) {
        self.shared.core().end(error);
        self.shared.wake.notify_one();
    }

    /// If this owner is fenced, it keeps its state for a successor as long as the result lives.
    pub(super) fn succeeded(&self) -> Succeeded {
        self.shared.core().successors += 1;
        Succeeded(self.clone())
    }
}

/// An owner whose successor is being opened on this daemon.
pub(super) struct Succeeded(Backend);

impl Drop for Succeeded {
    fn drop(&mut self) {
        let mut core = self.0.shared.core();
        core.successors -= 1;
        if core.successors == 0 && matches!(core.condition, Condition::Ended(_)) {
            core.drop_kept();
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("id", &self.id).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// The error for a batch number that is not the next one.
pub(super) fn out_of_order(backend: &BackendId, number: u64, next: u64) -> Error {
    let text = format!("backend `{backend}`: batch {number} came where {next} is next; numbers are consecutive");
    Error::new(Reason::BatchOutOfOrder, text)
}

/// The error for a unary batch that would take the batch number which a session uses next.
fn beside_session(backend: &BackendId, next: u64) -> Error {
    let text = format!(
        "backend `{backend}`: a session writes, whose next batch is {next}; send writes there, or end it first (batches that \
         only read are welcome)"
    );
    Error::new(Reason::BatchOutOfOrder, text)
}

pub(super) fn closed(backend: &BackendId) -> Error {
    Error::new(Reason::BackendClosed, format!("backend `{backend}` was closed; open it again"))
}

fn not_found(backend: &BackendId, target: NoticeTarget) -> Error {
    let text = format!(
        "backend `{backend}` retains no checkpoint {} of epoch {}: it never completed, or was subsumed or discarded",
        target.id, target.epoch
    );
    Error::new(Reason::CheckpointNotFound, text)
}

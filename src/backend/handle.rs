//! A handle on a backend, for its callers.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    apply, barrier,
    core::Core,
    error::{self, closed},
    notice,
    outbox::Outbox,
    seat::Admission,
    shared::Shared,
    table::slices::Ahead,
    waiters::{CheckpointReply, PersistWaiter},
    words::{Acknowledgement, BarrierRequest, BatchResult, CompletedCheckpoint, Operation},
};
use crate::{
    checkpoint::{
        ledger::{NoticeKind, NoticeOutcome, NoticeTarget},
        manifest::Materialization,
    },
    error::{Error, Reason},
    tasks,
    types::{Attempt, BackendId, Epoch, KeyGroupRange},
};

/// How long an orderly close waits for its last manifest.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

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
        self.shared.signals.ended.borrow().is_some()
    }

    /// Waits for the end of the backend without keeping it in memory. Returns the reason; `None` if it was dropped
    /// before. Cancel-safe.
    pub(super) fn ended(&self) -> impl Future<Output = Option<Error>> + use<> {
        let mut ended = self.shared.signals.ended.subscribe();
        async move { ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) }
    }

    /// Whether the backend had a session and has none now.
    #[must_use]
    pub fn is_left(&self) -> bool {
        let core = self.shared.core();
        core.seat.is_left() && !core.has_ended()
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
            // The lane is held over all slices of the batch: no other batch comes between its leading reads and the
            // rest.
            let turn = self.shared.batches.enter().await;
            let mut ahead = Ahead::default();
            while self.read_ahead(epoch, number, operations, &mut ahead)? {
                tokio::task::yield_now().await;
            }
            {
                let mut core = self.shared.core();
                core.check_owner(epoch)?;
                let writes = core.table.writes(operations);
                let cost = if writes { bytes } else { 0 };
                // Ordering: the number is judged before credit is asked for. A repetition changes nothing, so it is
                // answered even if there is no credit.
                match core.seat.admit_call(number, writes)? {
                    Admission::Next => {}
                    Admission::Repeated => {
                        let number = number.expect("only a batch with a number is a repetition");
                        let result = BatchResult { number, answers: vec![], repeated: true };
                        return Ok((result, core.acknowledgement()));
                    }
                    Admission::Reads => {
                        let result = apply::read_batch(&mut core, operations, ahead)?;
                        return Ok((result, core.acknowledgement()));
                    }
                }
                if cost > 0 && core.pushes_back() {
                    core.bases.push_back.wait(&outbox);
                } else if core.seat.grant_call(cost, &outbox) {
                    let applied = apply::apply_batch(&mut core, operations, ahead);
                    core.seat.settle(cost, applied.as_ref().map_or(0, |(_, appended)| *appended));
                    let acknowledgement = core.acknowledgement();
                    return applied.map(|(result, _)| (result, acknowledgement));
                } else {
                    // Only durable changes free credit, so the held ones are uploaded at once. The refused grant has
                    // entered the outbox among those that a release wakes.
                    core.roll_over(true);
                }
            }
            // A batch that waits for credit lets others go first.
            drop(turn);
            // A wake-up between the look and this wait is kept by the outbox. Then everything is judged anew.
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
        // A batch out of order is not read ahead: it is a repetition, or an error.
        if core.table.writes(operations) || number.is_some_and(|number| number != core.seat.next_batch()) {
            return Ok(false);
        }
        apply::read_ahead(&mut core, operations, ahead, number.is_none())
    }

    /// Materializes now; returns when it is done. A checkpoint that is triggered after that builds on it. Cancel-safe:
    /// if dropped, the materialization goes on.
    ///
    /// # Errors
    /// If the caller is not the owner, there is no changelog to truncate, or the store refuses it. Then the previous
    /// base stays in use.
    pub async fn materialize(&self, epoch: Epoch) -> Result<Materialization, Error> {
        let (reply, answer) = oneshot::channel();
        {
            let mut core = self.shared.core();
            core.check_owner(epoch)?;
            check_logged(&core, "materialize")?;
            core.waiters.materialize(reply);
        }
        // Ordering: the caller waits among the others before the worker is woken. The worker would find nobody who asks
        // otherwise, and go back to sleep.
        self.shared.signals.materialize.notify_one();
        let gone = || Error::new(Reason::BackendClosed, format!("backend `{}` was closed", self.id()));
        answer.await.map_err(|_| gone())?
    }

    /// Does the flushes that are better done before a barrier than by it.
    pub(super) fn flush(&self) {
        let flushes = {
            let mut core = self.shared.core();
            let Core { table, bases, owner, .. } = &mut *core;
            let previous = bases.previous().map(|previous| &**previous);
            if owner.is_unlogged() { table.flushes(previous) } else { vec![] }
        };
        for flush in flushes {
            // If the disk fails, the barrier reports it.
            let _ = tasks::blocking(flush);
        }
    }

    /// Takes one checkpoint outside a session. Not cancel-safe: if dropped, the checkpoint goes on.
    ///
    /// # Errors
    /// If the checkpoint was refused or failed.
    pub async fn checkpoint(&self, epoch: Epoch, request: BarrierRequest) -> Result<CompletedCheckpoint, Error> {
        let answer = self.call_barrier(epoch, |core, reply| barrier::take(core, request, reply))?;
        answer.await.map_err(|_| closed(&self.id))?
    }

    /// Cuts by `cut`, outside a session; the outcome comes through the returned channel.
    pub(super) fn call_barrier(
        &self,
        epoch: Epoch,
        cut: impl FnOnce(&mut Core, CheckpointReply) -> Result<(), Error>,
    ) -> Result<oneshot::Receiver<Result<CompletedCheckpoint, Error>>, Error> {
        let (reply, answer) = oneshot::channel();
        // Ordering: the flush comes before the cut, and without the core. The cut then links files, and batches wait
        // only for that.
        self.flush();
        {
            let mut core = self.shared.core();
            core.check_owner(epoch)?;
            cut(&mut core, CheckpointReply::Call(reply))?;
        }
        self.shared.wake();
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
            persist(&mut core, PersistWaiter::Call(reply))?;
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
            notice::carry_out(&mut core, kind, target)
        };
        self.shared.wake();
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
            // A manifest that is under way does not have the pin. So this waits for the next one to begin and to become
            // durable.
            core.waiters.publish(reply);
        }
        self.shared.wake();
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
        self.shared.wake();
        Ok(released)
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
            if core.has_ended() {
                return Ok(());
            }
            // Ordering: the next manifest is marked as the last one before a manifest is asked for. So there is one
            // even if nothing has changed, and none begins after it.
            core.owner.close();
            core.waiters.publish(reply);
        }
        self.shared.wake();
        // Without its last manifest the owner ends as in a crash: its successor reads the one before.
        if tokio::time::timeout(CLOSE_TIMEOUT, answer).await.is_err() {
            tracing::warn!(backend = %self.id, "closed without its last manifest: the store did not answer");
        }
        self.end(&closed(&self.id));
        Ok(())
    }

    /// Ends this owner at once; waiting callers get this error.
    pub(super) fn end(&self, error: &Error) {
        self.shared.core().end(error);
        self.shared.wake();
    }

    /// If this owner is fenced, it keeps its state for a successor as long as the result lives.
    pub(super) fn succeeded(&self) -> Succeeded {
        self.shared.core().kept.begin_successor();
        Succeeded(self.clone())
    }
}

/// An owner whose successor is being opened on this daemon.
pub(super) struct Succeeded(Backend);

impl Drop for Succeeded {
    fn drop(&mut self) {
        let mut core = self.0.shared.core();
        // The state of an owner that has ended is of use only to a successor on this daemon. Nobody else reads it.
        if !core.kept.end_successor() && core.has_ended() {
            core.drop_kept();
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("id", &self.id).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// Refuses a request that needs a changelog, if there is none.
fn check_logged(core: &Core, what: &str) -> Result<(), Error> {
    if core.owner.is_unlogged() { Err(error::unlogged(&core.id, what)) } else { Ok(()) }
}

/// Makes all applied changes durable, then answers `waiter`.
///
/// # Errors
/// If the backend has no changelog.
pub(super) fn persist(core: &mut Core, waiter: PersistWaiter) -> Result<(), Error> {
    check_logged(core, "persist")?;
    core.roll_over(false);
    core.waiters.persist(core.owner.writer().next(), waiter);
    // If everything was durable before, no upload comes back to answer this waiter.
    core.on_persisted();
    Ok(())
}

fn not_found(backend: &BackendId, target: NoticeTarget) -> Error {
    let text = format!(
        "backend `{backend}` retains no checkpoint {} of epoch {}: it never completed, or was subsumed or discarded",
        target.id, target.epoch
    );
    Error::new(Reason::CheckpointNotFound, text)
}

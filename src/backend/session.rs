//! The session of the writer, without its wire format: numbering, halts, credit.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    apply, barrier,
    coordinated::Coordinated,
    core::Core,
    handle::{Backend, persist},
    outbox::Outbox,
    seat::Admission,
    table::slices::Ahead,
    waiters::{CheckpointReply, PersistWaiter},
    words::{Acknowledgement, BarrierRequest, BatchResult, Operation, Refusal},
};
use crate::{
    checkpoint::ledger::{NoticeKind, NoticeOutcome, NoticeTarget},
    error::Error,
    tasks::Panicked,
    types::Epoch,
};

/// The session that writes to a backend. If it is dropped, it gives back its credit, and the backend goes on.
#[derive(Debug)]
pub struct Session {
    backend: Backend,
    epoch: Epoch,
    number: u64,
    outbox: Arc<Outbox>,
    /// Bytes granted since the start, as the client was told.
    granted: u64,
}

impl Session {
    /// Begins to write to `backend`; an older session of it ends.
    ///
    /// # Errors
    /// If the caller is not the owner.
    pub fn start(backend: Backend, epoch: Epoch) -> Result<Self, Error> {
        let outbox = Arc::new(Outbox::default());
        let number = {
            let mut core = backend.shared.core();
            core.check_owner(epoch)?;
            core.lingering.begin_session();
            let committed = core.coordinated.as_ref().and_then(Coordinated::committed);
            core.seat.start(outbox.clone(), committed)
        };
        Ok(Self { backend, epoch, number, outbox, granted: 0 })
    }

    /// Ends the backend, because the task that served it panicked, maybe in the middle of a batch.
    pub fn end_panicked(&self, panicked: &Panicked) {
        self.backend.shared.core().end_panicked(panicked);
    }

    /// The outbox in which its events arrive.
    #[must_use]
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// How durable the batches are, and the credit granted since the start. Grants more credit now, as far as there is
    /// room.
    pub fn acknowledgement(&mut self) -> (Acknowledgement, u64) {
        let mut core = self.backend.shared.core();
        self.granted += top_up(&mut core, self.number);
        (core.acknowledgement(), self.granted)
    }

    /// Applies one batch of `bytes`, which costs as much credit unless it only reads. Returns `None` if the
    /// acknowledgement is the whole answer. Cancel-safe: if dropped, the batch is not applied.
    ///
    /// # Errors
    /// Nothing of the batch was applied.
    pub async fn apply(
        &mut self,
        number: u64,
        bytes: u64,
        operations: &[Operation<'_>],
    ) -> Result<Option<BatchResult>, Refusal> {
        // The lane is held over all slices of the batch: no other batch comes between its leading reads and the rest.
        let _turn = self.backend.shared.batches.enter().await;
        let mut ahead = Ahead::default();
        loop {
            {
                let mut core = self.backend.shared.core();
                self.check(&core)?;
                // The core was free between two slices, so session and number are judged anew for each. Only the next
                // batch is read ahead: a repetition is answered without its reads, and any other batch is refused.
                let follows = core.seat.is_next(number) && {
                    let read = apply::read_ahead(&mut core, operations, &mut ahead, false);
                    read.map_err(|error| core.seat.halt(error))?
                };
                if !follows {
                    return apply_rest(&mut core, number, bytes, operations, ahead);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Refuses batch `number`, which could not be decoded, in the way in which [`apply`](Self::apply) refuses a batch.
    #[must_use]
    pub fn reject(&mut self, number: u64, cost: u64, error: Error) -> Refusal {
        let mut core = self.backend.shared.core();
        if let Err(refusal) = self.check(&core) {
            return refusal;
        }
        core.seat.reject(number, cost, error)
    }

    /// Takes a barrier; its outcome arrives in the outbox.
    ///
    /// # Errors
    /// Nothing was cut.
    pub fn barrier(&mut self, request: BarrierRequest) -> Result<(), Refusal> {
        let reply = CheckpointReply::Session(self.number);
        self.take_barrier(request, |core, request| barrier::take(core, request, reply)).map(|_| ())
    }

    /// Cuts by `cut`; `None` if the barrier was sent before, and is answered without a cut.
    pub(super) fn take_barrier<T>(
        &mut self,
        request: BarrierRequest,
        cut: impl FnOnce(&mut Core, BarrierRequest) -> Result<T, Error>,
    ) -> Result<Option<T>, Refusal> {
        // Ordering: the flush comes before the cut, and without the core. The cut then links files, and batches wait
        // only for that.
        self.backend.flush();
        let taken = {
            let mut core = self.backend.shared.core();
            self.check(&core)?;
            if let Some(refusal) = core.seat.halted() {
                return Err(refusal);
            }
            // Ordering: a repetition is recognised before anything that could refuse it. Its first sending was taken,
            // so the client must get the answer to that.
            if core.holds.is_being_made(request.id) || barrier::is_repeated(&mut core, request.id, self.number) {
                return Ok(None);
            }
            barrier::check_owed(&core).map_err(Refusal::Request)?;
            cut(&mut core, request).map_err(Refusal::Request)?
        };
        self.backend.shared.wake();
        Ok(Some(taken))
    }

    /// The backend that the session writes to.
    pub(super) fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The number of the session; sessions are counted per backend.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Carries out a notice.
    ///
    /// # Errors
    /// If the session is over.
    pub fn notice(&mut self, kind: NoticeKind, target: NoticeTarget) -> Result<NoticeOutcome, Refusal> {
        self.check(&self.backend.shared.core())?;
        self.backend.notice(self.epoch, kind, target).map_err(Refusal::Over)
    }

    /// Asks to make all applied changes durable; the outbox then gets an event with `token`.
    ///
    /// # Errors
    /// If the session is over, the backend has no changelog, or too many answers are waiting already.
    pub fn persist(&mut self, token: u64) -> Result<(), Refusal> {
        let mut core = self.backend.shared.core();
        self.check(&core)?;
        barrier::check_owed(&core).map_err(Refusal::Request)?;
        persist(&mut core, PersistWaiter::Session { token }).map_err(Refusal::Request)
    }

    /// Ends a halt. `number` is the batch that the refusals named.
    ///
    /// # Errors
    /// If the session is not halted, or halted at another number.
    pub fn resume(&mut self, number: u64) -> Result<(), Refusal> {
        let mut core = self.backend.shared.core();
        self.check(&core)?;
        core.seat.resume(number)
    }

    /// Whether an answer is still due to this session: a checkpoint in flight, a persist request, or an event that was
    /// not taken.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        let core = self.backend.shared.core();
        !self.outbox.is_empty() || core.waiters.has_of_session(self.number) || core.holds.is_any_being_made()
    }

    fn check(&self, core: &Core) -> Result<(), Refusal> {
        core.check_owner(self.epoch).map_err(Refusal::Over)?;
        core.seat.check_session(self.number)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut core = self.backend.shared.core();
        // A session that was replaced has no seat any more, and the backend is not idle.
        if core.seat.end(self.number) {
            core.lingering.end_session(Instant::now());
        }
    }
}

/// Grants more credit to session `number`, as far as there is room; returns how many bytes.
fn top_up(core: &mut Core, number: u64) -> u64 {
    let is_near = core.bases.is_near_limit();
    let Some(wanted) = core.seat.wants(number, is_near).filter(|_| !core.pushes_back()) else { return 0 };
    let granted = core.seat.top_up(wanted);
    if core.seat.is_short() {
        // The largest batch fits only when held changes are durable, which must not have to wait for a barrier.
        core.roll_over(true);
    }
    granted
}

/// Applies the operations of batch `number`, which has `bytes`, without those that were read `ahead`.
fn apply_rest(
    core: &mut Core,
    number: u64,
    bytes: u64,
    operations: &[Operation<'_>],
    ahead: Ahead,
) -> Result<Option<BatchResult>, Refusal> {
    let cost = if core.table.writes(operations) { bytes } else { 0 };
    if core.seat.admit(number, cost)? == Admission::Repeated {
        return Ok(Some(BatchResult { number, answers: vec![], repeated: true }));
    }
    match apply::apply_batch(core, operations, ahead) {
        Ok((result, held)) => {
            core.seat.settle(cost, held);
            Ok((!result.answers.is_empty()).then_some(result))
        }
        Err(error) => Err(core.seat.refuse(cost, error)),
    }
}

//! The session of the writer, without its wire format: numbering, halts, credit.

use std::sync::Arc;

use super::{
    apply::{BatchResult, Operation},
    checkpointing::{BarrierRequest, CheckpointReply, PersistWaiter},
    core::{Acknowledgement, Core},
    handle::{Backend, out_of_order},
    hold::Hold,
    outbox::Outbox,
    slices::Ahead,
};
use crate::{
    checkpoint::ledger::{NoticeKind, NoticeOutcome, NoticeTarget},
    error::{Error, Reason, Scope},
    tasks::Panicked,
    types::Epoch,
};

/// Credit of a session that need not wait, in largest batches.
const WINDOW_BATCHES: u64 = 2;

/// The session that writes to a backend. If it is dropped, it gives back its credit, and the backend goes on.
#[derive(Debug)]
pub struct Session {
    backend: Backend,
    epoch: Epoch,
    number: u64,
    outbox: Arc<Outbox>,
    /// Bytes granted since the start, as the client was told.
    granted: u64,
    window: u64,
    /// Cost of the largest batch.
    largest: u64,
}

/// Why a request of a session was not carried out.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// The session is halted since batch `first_failed`.
    Halted {
        /// The number of the batch that was rejected; `resume` has to name it.
        first_failed: u64,
        /// Why it was rejected.
        error: Error,
    },
    /// This request alone is refused.
    Request(Error),
    /// The session is over.
    Over(Error),
}

impl Session {
    /// Begins to write to `backend`; an older session of it ends.
    ///
    /// # Errors
    /// If the caller is not the owner.
    pub fn start(backend: Backend, epoch: Epoch) -> Result<Self, Error> {
        let outbox = Arc::new(Outbox::default());
        let (number, largest) = {
            let mut core = backend.shared.core();
            core.check_owner(epoch)?;
            let largest = core.env.options.limits.max_message_bytes as u64;
            (core.start_session(outbox.clone()), largest)
        };
        Ok(Self { backend, epoch, number, outbox, granted: 0, window: WINDOW_BATCHES * largest, largest })
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
        if core.session.as_ref().is_some_and(|session| session.number == self.number) {
            // Near its limit the window is one batch, so that little is under way when the log reaches the limit. The
            // largest batch must always fit.
            let is_near = core.env.options.materialization.is_near_limit(core.log_changes);
            let (window, least) = if is_near { (self.largest, 1) } else { (self.window, self.window / 4) };
            let wanted = window.saturating_sub(core.account.outstanding());
            if wanted >= least && !core.pushes_back() {
                let granted = core.account.grant(wanted, &self.outbox);
                self.granted += granted;
                if core.account.outstanding() < self.largest {
                    // The largest batch fits only when held changes are durable, which must not have to wait for a
                    // barrier.
                    core.roll_over(true);
                }
            }
        }
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
        let _turn = self.backend.shared.batches.enter().await;
        let mut ahead = Ahead::default();
        loop {
            {
                let mut core = self.backend.shared.core();
                self.check(&core)?;
                let is_next = number == core.next_batch && halted(&core).is_none();
                let follows = is_next
                    && core.read_ahead(operations, &mut ahead, false).map_err(|error| halt(&mut core, error))?;
                if !follows {
                    return self.apply_rest(&mut core, (number, bytes), operations, ahead);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Applies the operations of a batch of `bytes` that were not read ahead.
    fn apply_rest(
        &self,
        core: &mut Core,
        (number, bytes): (u64, u64),
        operations: &[Operation<'_>],
        ahead: Ahead,
    ) -> Result<Option<BatchResult>, Refusal> {
        let cost = if core.writes(operations) { bytes } else { 0 };
        if cost > core.account.outstanding() {
            let text = format!(
                "batch {number} of {cost} bytes exceeds the {} bytes of credit that are left; wait for acknowledgements",
                core.account.outstanding()
            );
            return Err(Refusal::Over(Error::new(Reason::CreditExceeded, text)));
        }
        let next = core.next_batch;
        let applied = if let Some(refusal) = halted(core) {
            Err(refusal)
        } else if number < next {
            Ok((Some(BatchResult { number, answers: vec![], repeated: true }), 0))
        } else if number > next {
            Err(halt(core, out_of_order(self.backend.id(), number, next)))
        } else {
            match core.apply_batch(number, operations, ahead) {
                Ok((result, held)) => Ok(((!result.answers.is_empty()).then_some(result), held)),
                Err(error) => Err(halt(core, error)),
            }
        };
        core.account.spend(cost, applied.as_ref().map_or(0, |(_, held)| *held));
        applied.map(|(result, _)| result)
    }

    /// Refuses batch `number`, which could not be decoded, in the way in which [`apply`](Self::apply) refuses a batch.
    #[must_use]
    pub fn reject(&mut self, number: u64, cost: u64, error: Error) -> Refusal {
        let mut core = self.backend.shared.core();
        if let Err(refusal) = self.check(&core) {
            return refusal;
        }
        let cost = cost.min(core.account.outstanding());
        core.account.spend(cost, 0);
        let next = core.next_batch;
        match halted(&core) {
            Some(refusal) => refusal,
            None if number == next => halt(&mut core, error),
            None => halt(&mut core, out_of_order(self.backend.id(), number, next)),
        }
    }

    /// Takes a barrier; its outcome arrives in the outbox.
    ///
    /// # Errors
    /// Nothing was cut.
    pub fn barrier(&mut self, request: BarrierRequest) -> Result<(), Refusal> {
        let reply = CheckpointReply::Session(self.number);
        self.take_barrier(request, |core, request| core.barrier(request, reply)).map(|_| ())
    }

    /// Cuts by `cut`; `None` if the barrier was sent before, and is answered without a cut.
    pub(super) fn take_barrier<T>(
        &mut self,
        request: BarrierRequest,
        cut: impl FnOnce(&mut Core, BarrierRequest) -> Result<T, Error>,
    ) -> Result<Option<T>, Refusal> {
        self.backend.flush();
        let taken = {
            let mut core = self.backend.shared.core();
            self.check(&core)?;
            if let Some(refusal) = halted(&core) {
                return Err(refusal);
            }
            let is_being_made = core.held.get(&request.id) == Some(&Hold::Savepoint);
            if is_being_made || core.repeated_barrier(request.id, self.number) {
                return Ok(None);
            }
            core.check_owed().map_err(Refusal::Request)?;
            cut(&mut core, request).map_err(Refusal::Request)?
        };
        self.backend.shared.wake.notify_one();
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
        core.check_owed().map_err(Refusal::Request)?;
        core.persist(PersistWaiter::Session { token }).map_err(Refusal::Request)
    }

    /// Ends a halt. `number` is the batch that the refusals named.
    ///
    /// # Errors
    /// If the session is not halted, or halted at another number.
    pub fn resume(&mut self, number: u64) -> Result<(), Refusal> {
        let mut core = self.backend.shared.core();
        self.check(&core)?;
        let next = core.next_batch;
        let refused = |text: String| Refusal::Request(Error::new(Reason::InvalidArgument, text));
        let Some(session) = core.session.as_mut() else { return Ok(()) };
        if session.halt.is_none() {
            return Err(refused(format!("resume({number}): the session is not halted; go on with batch {next}")));
        }
        if number != next {
            return Err(refused(format!("resume({number}): the halt is at batch {next}; send resume({next})")));
        }
        session.halt = None;
        Ok(())
    }

    /// Whether an answer is still due to this session: a checkpoint in flight, a persist request, or an event that was
    /// not taken.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        let core = self.backend.shared.core();
        let mine =
            |reply: &CheckpointReply| matches!(reply, CheckpointReply::Session(number) if *number == self.number);
        !self.outbox.is_empty()
            || core.flights.values().any(|flight| mine(&flight.reply))
            || core.held.values().any(|hold| *hold == Hold::Savepoint)
            || core.persist_waiters.iter().any(|waiter| matches!(waiter, PersistWaiter::Session { .. }))
    }

    fn check(&self, core: &Core) -> Result<(), Refusal> {
        core.check_owner(self.epoch).map_err(Refusal::Over)?;
        if core.session.as_ref().is_none_or(|session| session.number != self.number) {
            let text = format!("backend `{}`: a newer session of the same owner was started", self.backend.id());
            return Err(Refusal::Over(Error::new(Reason::SessionReplaced, text)));
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.backend.shared.core().end_session(self.number);
    }
}

fn halted(core: &Core) -> Option<Refusal> {
    let error = core.session.as_ref()?.halt.clone()?;
    Some(Refusal::Halted { first_failed: core.next_batch, error })
}

fn halt(core: &mut Core, error: Error) -> Refusal {
    core.env.metrics.halted();
    let error = if error.reason == Reason::Failsafe { error.in_scope(Scope::Backend) } else { error };
    if let Some(session) = core.session.as_mut() {
        session.halt = Some(error.clone());
    }
    Refusal::Halted { first_failed: core.next_batch, error }
}

//! The seat of the writer: the only place that decides whether a batch is the next one, a repetition or out of order,
//! whether its session is halted, and how much credit there is.
//!
//! ```text
//!   batch n ─▶ admit: n < next: repeated, nothing is done    ─▶ spend
//!                     n > next: halt                         ─▶ spend
//!                     n = next ─▶ the table applies it ─▶ applied: next + 1, spend, hold bytes that are not durable
//!                                                      ╰▶ refused: halt, spend
//! ```
//!
//! One session at a time has the seat. A newer session of the same owner takes it over, with the events that the older
//! one has not taken. Unary calls write beside the seat, as long as it is empty or they name their number.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    credit::Account,
    metrics::{BackendMetrics, signed},
    outbox::{Outbox, SessionEvent},
    words::Refusal,
};
use crate::{
    error::{Error, Reason, Scope},
    types::{BackendId, CheckpointId, CheckpointIdentity},
};

/// Number of barriers that are recognised when a new session sends them again; the newest are kept.
const REMEMBERED_BARRIERS: usize = 1024;

/// Credit of a session that need not wait, in largest batches.
const WINDOW_BATCHES: u64 = 2;

/// The session that may write.
#[derive(Debug)]
struct Writing {
    /// Its number; sessions are counted per backend.
    number: u64,
    /// Events for its client.
    outbox: Arc<Outbox>,
    /// The error of a rejected batch, while the session is halted.
    halt: Option<Error>,
}

/// A barrier that a session sent, in case a later session sends it again.
#[derive(Debug)]
struct SentBarrier {
    /// The session that sent it last.
    session: u64,
    /// Why its checkpoint has failed, if it has.
    failure: Option<Error>,
}

/// The decision about a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is the next one, and has to be applied.
    Next,
    /// It was applied before.
    Repeated,
    /// It only reads, and takes no number.
    Reads,
}

/// The order of a numbered batch.
enum Order {
    Next,
    Repeated,
    Gap,
}

/// The seat of one backend.
///
/// Invariants: batch numbers are consecutive; no more credit is spent than was granted.
#[derive(Debug)]
pub(super) struct Seat {
    id: BackendId,
    metrics: BackendMetrics,
    session: Option<Writing>,
    sessions: u64,
    /// Events without a session to take them.
    undelivered: Vec<SessionEvent>,
    /// The newest barriers of sessions, to recognise those that are sent again.
    barriers: BTreeMap<CheckpointId, SentBarrier>,
    /// The number of the next batch.
    next_batch: u64,
    account: Account,
    /// Cost of the largest batch.
    largest: u64,
    /// Bytes of copies that are counted in the account.
    copied_bytes: u64,
}

impl Seat {
    /// The empty seat of an owner, whose first batch has number 0. The largest batch costs `largest`.
    pub(super) fn new(id: &BackendId, metrics: &BackendMetrics, account: Account, largest: u64) -> Self {
        Self {
            id: id.clone(),
            metrics: metrics.clone(),
            session: None,
            sessions: 0,
            undelivered: vec![],
            barriers: BTreeMap::new(),
            next_batch: 0,
            account,
            largest,
            copied_bytes: 0,
        }
    }

    /// The number of the next batch.
    pub(super) fn next_batch(&self) -> u64 {
        self.next_batch
    }

    /// Whether a session writes.
    pub(super) fn is_taken(&self) -> bool {
        self.session.is_some()
    }

    /// Whether there was a session and is none now.
    pub(super) fn is_left(&self) -> bool {
        self.sessions > 0 && self.session.is_none()
    }

    /// Refuses requests of a session other than the writing one.
    pub(super) fn check_session(&self, number: u64) -> Result<(), Refusal> {
        if self.is_of(number) {
            return Ok(());
        }
        let text = format!("backend `{}`: a newer session of the same owner was started", self.id);
        Err(Refusal::Over(Error::new(Reason::SessionReplaced, text)))
    }

    fn is_of(&self, number: u64) -> bool {
        self.session.as_ref().is_some_and(|session| session.number == number)
    }

    /// Gives the seat to a new session, and ends the session that had it. Returns the number of the new one.
    pub(super) fn start(&mut self, outbox: Arc<Outbox>, committed: Option<CheckpointIdentity>) -> u64 {
        if let Some(old) = self.session.take() {
            let error = Error::new(
                Reason::SessionReplaced,
                format!("backend `{}`: a newer session of the same owner was started; this one is over", self.id),
            );
            // Ordering: events that the old session did not take are kept before it is told of its end, since keeping
            // empties its outbox.
            self.keep_owed(&old.outbox);
            old.outbox.push(SessionEvent::Ended(error));
            self.metrics.session_ended();
        }
        self.metrics.session_started();
        // The new session counts its credit from zero. Credit of the old one cannot be spent any more.
        self.account.revoke();
        self.sessions += 1;
        for event in std::mem::take(&mut self.undelivered) {
            outbox.push(event);
        }
        if let Some(part) = committed {
            outbox.push(SessionEvent::JobCheckpointCompleted(part));
        }
        self.session = Some(Writing { number: self.sessions, outbox, halt: None });
        self.sessions
    }

    /// Takes the seat from session `number`, if it has it; returns whether it had.
    pub(super) fn end(&mut self, number: u64) -> bool {
        let Some(session) = self.session.take_if(|session| session.number == number) else { return false };
        self.keep_owed(&session.outbox);
        self.metrics.session_ended();
        self.account.revoke();
        true
    }

    /// Ends the session because the owner has ended: it hears of that after all other events.
    pub(super) fn evict(&mut self, error: &Error) {
        if let Some(session) = self.session.take() {
            session.outbox.push(SessionEvent::Ended(error.clone()));
            self.metrics.session_ended();
        }
    }

    /// Keeps the undelivered events of a session that is over, for the next session. The newest commit is left out,
    /// since every new session is told it anyway.
    fn keep_owed(&mut self, outbox: &Outbox) {
        let is_owed = |event: &SessionEvent| !matches!(event, SessionEvent::JobCheckpointCompleted(_));
        self.undelivered.extend(outbox.take().into_iter().filter(is_owed));
    }

    /// Sends `event` to the writing session, or keeps it for the next session.
    pub(super) fn tell(&mut self, event: SessionEvent) {
        match &self.session {
            Some(session) => session.outbox.push(event),
            None => self.undelivered.push(event),
        }
    }

    /// Makes the writing session read acknowledgements and credit again.
    pub(super) fn wake(&self) {
        if let Some(session) = &self.session {
            session.outbox.wake();
        }
    }

    /// Number of events that no client has taken yet.
    pub(super) fn unsent(&self) -> usize {
        self.session.as_ref().map_or(0, |session| session.outbox.len()) + self.undelivered.len()
    }

    fn order(&self, number: u64) -> Order {
        match number {
            number if number < self.next_batch => Order::Repeated,
            number if number > self.next_batch => Order::Gap,
            _ => Order::Next,
        }
    }

    /// Whether batch `number` of the session is the next one and would be applied.
    pub(super) fn is_next(&self, number: u64) -> bool {
        matches!(self.order(number), Order::Next) && self.halted().is_none()
    }

    /// Admits batch `number` of the session, which costs `cost`. If it is the next one, the caller applies it, and then
    /// calls [`settle`](Self::settle) or [`refuse`](Self::refuse).
    ///
    /// # Errors
    /// If the session is halted or the batch is out of order; its cost is spent. Or if there is less credit.
    pub(super) fn admit(&mut self, number: u64, cost: u64) -> Result<Admission, Refusal> {
        // Credit comes first: a client that sends more than it may is at fault itself, however good the batch is. Its
        // session is over, and nothing is spent.
        if cost > self.account.outstanding() {
            let text = format!(
                "batch {number} of {cost} bytes exceeds the {} bytes of credit that are left; wait for acknowledgements",
                self.account.outstanding()
            );
            return Err(Refusal::Over(Error::new(Reason::CreditExceeded, text)));
        }
        // Every refused or repeated batch is paid for all the same. The client has subtracted its cost, and both sides
        // must agree on the credit that is left.
        if let Some(refusal) = self.halted() {
            self.account.spend(cost, 0);
            return Err(refusal);
        }
        match self.order(number) {
            Order::Next => Ok(Admission::Next),
            Order::Repeated => {
                self.account.spend(cost, 0);
                Ok(Admission::Repeated)
            }
            Order::Gap => Err(self.refuse(cost, self.out_of_order(number))),
        }
    }

    /// Admits a unary batch. Without a number it takes the next one, if it `writes`.
    ///
    /// # Errors
    /// If it is out of order, or would take the number that a session uses next.
    pub(super) fn admit_call(&self, number: Option<u64>, writes: bool) -> Result<Admission, Error> {
        match number.map(|number| (number, self.order(number))) {
            Some((_, Order::Next)) => Ok(Admission::Next),
            Some((_, Order::Repeated)) => Ok(Admission::Repeated),
            Some((number, Order::Gap)) => Err(self.out_of_order(number)),
            None if !writes => Ok(Admission::Reads),
            // It would take the number that the session uses next, and halt it.
            None if self.is_taken() => Err(self.beside_session()),
            None => Ok(Admission::Next),
        }
    }

    /// Notes that the next batch was applied. Its credit has yet to be [settled](Self::settle).
    pub(super) fn applied(&mut self) {
        self.next_batch += 1;
    }

    /// Spends the cost of a batch that was applied, or that a unary call could not apply. `held` bytes of it are not
    /// durable yet.
    pub(super) fn settle(&mut self, cost: u64, held: u64) {
        self.account.spend(cost, held);
    }

    /// Spends the cost of a batch that cannot be applied, and halts the session because of `error`.
    pub(super) fn refuse(&mut self, cost: u64, error: Error) -> Refusal {
        self.account.spend(cost, 0);
        self.halt(error)
    }

    /// Refuses batch `number`, which could not be decoded, in the way in which [`admit`](Self::admit) does.
    pub(super) fn reject(&mut self, number: u64, cost: u64, error: Error) -> Refusal {
        // A batch that cannot be decoded was not compared with the credit, so its length may exceed that.
        self.account.spend(cost.min(self.account.outstanding()), 0);
        match (self.halted(), self.order(number)) {
            (Some(refusal), _) => refusal,
            (None, Order::Next) => self.halt(error),
            (None, Order::Repeated | Order::Gap) => self.halt(self.out_of_order(number)),
        }
    }

    /// The refusal of every batch and barrier while the session is halted.
    pub(super) fn halted(&self) -> Option<Refusal> {
        let error = self.session.as_ref()?.halt.clone()?;
        Some(Refusal::Halted { first_failed: self.next_batch, error })
    }

    /// Halts the session because of `error`, until it resumes.
    pub(super) fn halt(&mut self, error: Error) -> Refusal {
        self.metrics.halted();
        let error = if error.reason == Reason::Failsafe { error.in_scope(Scope::Backend) } else { error };
        if let Some(session) = self.session.as_mut() {
            session.halt = Some(error.clone());
        }
        Refusal::Halted { first_failed: self.next_batch, error }
    }

    /// Ends a halt. `number` is the batch that the refusals named.
    ///
    /// # Errors
    /// If the session is not halted, or halted at another number.
    pub(super) fn resume(&mut self, number: u64) -> Result<(), Refusal> {
        let next = self.next_batch;
        let refused = |text: String| Refusal::Request(Error::new(Reason::InvalidArgument, text));
        let Some(session) = self.session.as_mut() else { return Ok(()) };
        if session.halt.is_none() {
            return Err(refused(format!("resume({number}): the session is not halted; go on with batch {next}")));
        }
        if number != next {
            return Err(refused(format!("resume({number}): the halt is at batch {next}; send resume({next})")));
        }
        session.halt = None;
        Ok(())
    }

    /// The credit that session `number` should get now; `None` if it has enough, or does not write. Near the replay
    /// limit the window is one batch, so that little is under way when the log reaches the limit.
    pub(super) fn wants(&self, number: u64, is_near: bool) -> Option<u64> {
        let full = WINDOW_BATCHES * self.largest;
        // The largest batch must always fit.
        // A refill is at least a quarter of the window, so that not every batch is followed by a grant of its own.
        let (window, least) = if is_near { (self.largest, 1) } else { (full, full / 4) };
        let wanted = window.saturating_sub(self.account.outstanding());
        (self.is_of(number) && wanted >= least).then_some(wanted)
    }

    /// Grants up to `wanted` more bytes to the session, as far as there is room; returns how many.
    pub(super) fn top_up(&mut self, wanted: u64) -> u64 {
        self.session.as_ref().map_or(0, |session| self.account.grant(wanted, &session.outbox))
    }

    /// Whether the session has less credit than the largest batch costs.
    pub(super) fn is_short(&self) -> bool {
        self.account.outstanding() < self.largest
    }

    /// Grants exactly `cost` to a unary call, or nothing; returns whether. If not, `outbox` is woken when there may be
    /// room.
    pub(super) fn grant_call(&mut self, cost: u64, outbox: &Arc<Outbox>) -> bool {
        self.account.grant_exactly(cost, outbox)
    }

    /// Counts bytes of the daemon's own changes, which cost no credit, as held until they are durable.
    pub(super) fn hold(&mut self, bytes: u64) {
        self.account.hold(bytes);
    }

    /// Sets the bytes of copies that are held until they are uploaded to `bytes`.
    pub(super) fn hold_copies(&mut self, bytes: u64) {
        let before = std::mem::replace(&mut self.copied_bytes, bytes);
        if bytes > before {
            self.account.hold(bytes - before);
        } else {
            self.account.release(before - bytes);
        }
        self.metrics.pending_grew(signed(bytes) - signed(before));
    }

    /// Whether the daemon's own changes have to wait: as many bytes are held as every backend is guaranteed to hold.
    pub(super) fn holds_most(&self) -> bool {
        self.account.held() >= self.largest
    }

    /// Releases bytes of changes that are durable.
    pub(super) fn release(&mut self, bytes: u64) {
        self.account.release(bytes);
        self.metrics.pending_grew(-signed(bytes));
    }

    /// Gives all credit back, because the owner has ended.
    pub(super) fn close(&mut self) {
        self.account.close();
    }

    /// Notes that session `session` has sent the barrier `id`.
    pub(super) fn remember_barrier(&mut self, id: CheckpointId, session: u64) {
        self.barriers.insert(id, SentBarrier { session, failure: None });
        // The lowest id is the oldest: ids increase within an attempt.
        if self.barriers.len() > REMEMBERED_BARRIERS {
            self.barriers.pop_first();
        }
    }

    /// Notes why the checkpoint of a session's barrier has failed.
    pub(super) fn remember_failure(&mut self, id: CheckpointId, error: &Error) {
        if let Some(sent) = self.barriers.get_mut(&id) {
            sent.failure = Some(error.clone());
        }
    }

    /// Recognises a barrier that session `session` sends again after the stream of an older session broke. Returns why
    /// its checkpoint has failed, if it has; `None` if the barrier is a new one.
    pub(super) fn repeated_barrier(&mut self, id: CheckpointId, session: u64) -> Option<Option<Error>> {
        let sent = self.barriers.get_mut(&id).filter(|sent| sent.session < session)?;
        sent.session = session;
        Some(sent.failure.clone())
    }

    /// The error for a batch number that is not the next one.
    fn out_of_order(&self, number: u64) -> Error {
        let (backend, next) = (&self.id, self.next_batch);
        let text = format!("backend `{backend}`: batch {number} came where {next} is next; numbers are consecutive");
        Error::new(Reason::BatchOutOfOrder, text)
    }

    /// The error for a unary batch that would take the batch number which a session uses next.
    fn beside_session(&self) -> Error {
        let (backend, next) = (&self.id, self.next_batch);
        let text = format!(
            "backend `{backend}`: a session writes, whose next batch is {next}; send writes there, or end it first (batches that \
             only read are welcome)"
        );
        Error::new(Reason::BatchOutOfOrder, text)
    }
}

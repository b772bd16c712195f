//! Answers that a session still has to get: they outlive its stream and go to the next session. And barriers that are
//! sent again.

use super::{
    checkpointing::CheckpointReply,
    core::Core,
    outbox::{Outbox, SessionEvent},
};
use crate::{
    error::{Error, Reason},
    types::CheckpointId,
};

/// Most answers that a session may wait for: checkpoints and persist requests under way, and events that were not sent
/// yet.
const MOST_OWED: usize = 4096;

/// Number of barriers that are recognised when a new session sends them again; the newest are kept.
const REMEMBERED_BARRIERS: usize = 1024;

/// A barrier that a session sent, in case a later session sends it again.
#[derive(Debug)]
pub(super) struct SentBarrier {
    /// The session that sent it last.
    session: u64,
    /// Why its checkpoint has failed, if it has.
    failure: Option<Error>,
}

impl Core {
    /// Keeps the undelivered events of a session that is over, for the next session. The newest commit is left out,
    /// since every new session is told it anyway.
    pub(super) fn keep_owed(&mut self, outbox: &Outbox) {
        let is_owed = |event: &SessionEvent| !matches!(event, SessionEvent::JobCheckpointCompleted(_));
        self.undelivered.extend(outbox.take().into_iter().filter(is_owed));
    }

    /// Notes that session `session` has sent the barrier `id`.
    pub(super) fn remember_barrier(&mut self, id: CheckpointId, session: u64) {
        self.barriers.insert(id, SentBarrier { session, failure: None });
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

    /// Recognises a barrier that session `session` sends again after the stream of an older session broke. Such a
    /// barrier cuts nothing new; its answer is sent again. Returns whether it was one.
    pub(super) fn repeated_barrier(&mut self, id: CheckpointId, session: u64) -> bool {
        let Some(sent) = self.barriers.get_mut(&id).filter(|sent| sent.session < session) else { return false };
        sent.session = session;
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.reply = CheckpointReply::Session(session);
            return true;
        }
        if let Some(error) = sent.failure.clone() {
            self.tell(SessionEvent::CheckpointFailed { id, error });
            return true;
        }
        let epoch = self.owner.epoch().number;
        let published =
            self.owner.ledger().retained().iter().find(|r| r.identity.id == id && r.identity.epoch == epoch);
        let event = match published {
            Some(record) => SessionEvent::CheckpointCompleted(Box::new(self.completed(record, None))),
            None => {
                let text =
                    format!("backend `{}`: checkpoint {id} was let go since: a notice or retention did it", self.id);
                SessionEvent::CheckpointFailed { id, error: Error::new(Reason::CheckpointAborted, text) }
            }
        };
        self.tell(event);
        true
    }

    /// Refuses a request of the session if too many answers are waiting already. So no answer ever has to be dropped.
    ///
    /// # Errors
    /// [`Reason::LimitExceeded`], retryable.
    pub(super) fn check_owed(&self) -> Result<(), Error> {
        let unsent = self.session.as_ref().map_or(0, |session| session.outbox.len());
        let owed = unsent + self.undelivered.len() + self.persist_waiters.len() + self.flights.len();
        if owed < MOST_OWED {
            return Ok(());
        }
        let text =
            format!("{owed} answers are owed to the session of `{}`, the most there may be; wait for some", self.id);
        Err(Error { retryable: true, ..Error::new(Reason::LimitExceeded, text) })
    }
}

//! The outbox of a session: events in order, and a wake-up for facts that are read off the core (acknowledgements,
//! credit).

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::words::{CompletedCheckpoint, SavepointMade};
use crate::{
    error::Error,
    types::{CheckpointId, CheckpointIdentity},
};

/// An event that a session tells its client.
#[derive(Debug, Clone)]
pub enum SessionEvent {
    /// A checkpoint is complete and can be restored.
    CheckpointCompleted(Box<CompletedCheckpoint>),
    /// The checkpoint with this part of the backend is committed for a declared job.
    JobCheckpointCompleted(CheckpointIdentity),
    /// The savepoint of a barrier was made.
    SavepointMade(Box<SavepointMade>),
    /// A checkpoint, or the savepoint of a barrier, has failed.
    CheckpointFailed {
        /// The id of the failed checkpoint.
        id: CheckpointId,
        /// Why it failed.
        error: Error,
    },
    /// The changes that a persist request meant are durable.
    Persisted {
        /// The token of the request.
        token: u64,
        /// Batches below this number are durable.
        persisted_to: u64,
    },
    /// The session is over; this is its last event.
    Ended(Error),
}

/// The events of one session. Their number is bounded, since each answers a request and the core refuses requests
/// beyond a limit.
#[derive(Debug, Default)]
pub struct Outbox {
    events: Mutex<VecDeque<SessionEvent>>,
    notify: Notify,
}

impl Outbox {
    /// Adds an event and wakes the session.
    pub fn push(&self, event: SessionEvent) {
        self.events.lock().push_back(event);
        self.wake();
    }

    /// Removes the oldest event.
    pub fn pop(&self) -> Option<SessionEvent> {
        self.events.lock().pop_front()
    }

    /// Removes all events.
    pub fn take(&self) -> VecDeque<SessionEvent> {
        std::mem::take(&mut self.events.lock())
    }

    /// Number of events that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.lock().len()
    }

    /// Whether no event waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Wakes the session, now or when it next waits.
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    /// Waits to be woken. Cancel-safe.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }
}

//! What a session is owed: events in order, and a wake-up for what can be read off the core (acknowledgements, credit).

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::checkpointing::CompletedCheckpoint;
use crate::{
    error::Error,
    types::{CheckpointId, CheckpointIdentity},
};

/// Something that a session has to tell its client.
#[derive(Debug, Clone)]
pub enum SessionEvent {
    /// A checkpoint is restorable.
    CheckpointCompleted(Box<CompletedCheckpoint>),
    /// The checkpoint is committed for a declared job: this backend's part.
    JobCheckpointCompleted(CheckpointIdentity),
    /// A checkpoint will not be.
    CheckpointFailed {
        /// Which.
        id: CheckpointId,
        /// Why.
        error: Error,
    },
    /// What a persist request asked for is durable.
    Persisted {
        /// As given with the request.
        token: u64,
        /// Batches below are durable.
        persisted_to: u64,
    },
    /// The session is over: the last event.
    Ended(Error),
}

/// The events of one session. They are bounded by what the client asked for, of which the core refuses what would be
/// too many.
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

    /// Takes the oldest event.
    pub fn pop(&self) -> Option<SessionEvent> {
        self.events.lock().pop_front()
    }

    /// Takes all events.
    pub fn take(&self) -> VecDeque<SessionEvent> {
        std::mem::take(&mut self.events.lock())
    }

    /// Number of events that nobody took.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.lock().len()
    }

    /// Whether there is none.
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

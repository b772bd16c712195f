//! Everything that waits for an answer: checkpoints in flight, and requests for durability, manifests and
//! materializations.

use std::collections::BTreeMap;

use tokio::{sync::oneshot, time::Instant};

use super::words::CompletedCheckpoint;
use crate::{
    changelog::pending::Pending,
    checkpoint::manifest::Materialization,
    error::Error,
    types::{CheckpointId, Sqn},
};

/// Where the answer to a barrier goes.
#[derive(Debug)]
pub(super) enum CheckpointReply {
    /// To the writing session with this number, or to its successor.
    Session(u64),
    /// To a unary call.
    Call(oneshot::Sender<Result<CompletedCheckpoint, Error>>),
}

/// Where the answer to a persist request goes.
#[derive(Debug)]
pub(super) enum PersistWaiter {
    /// To the writing session.
    Session {
        /// The client's token, which the answer repeats.
        token: u64,
    },
    /// To a unary call.
    Call(oneshot::Sender<Result<u64, Error>>),
}

/// A checkpoint in flight: triggered, and not yet answered.
#[derive(Debug)]
pub(super) struct Flight {
    /// Where its answer goes.
    pub(super) reply: CheckpointReply,
    /// When its time is over.
    pub(super) deadline: Instant,
    /// When its barrier came.
    pub(super) triggered: Instant,
    /// When it was cut.
    pub(super) cut: Instant,
    /// When its contents were durable.
    pub(super) persisted: Option<Instant>,
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// The waiters of one backend.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    flights: BTreeMap<CheckpointId, Flight>,
    persists: Pending<PersistWaiter>,
    /// Callers that wait for a manifest which has not begun yet.
    publish_next: Vec<Reply<()>>,
    /// Callers that wait for the manifest under way.
    publish_now: Vec<Reply<()>>,
    /// Callers that asked for a materialization.
    materializations: Vec<Reply<Materialization>>,
}

impl Waiters {
    /// Adds a checkpoint in flight.
    pub(super) fn depart(&mut self, id: CheckpointId, flight: Flight) {
        self.flights.insert(id, flight);
    }

    /// Removes a checkpoint in flight, to answer it.
    pub(super) fn land(&mut self, id: CheckpointId) -> Option<Flight> {
        self.flights.remove(&id)
    }

    /// A checkpoint in flight.
    pub(super) fn flight(&self, id: CheckpointId) -> Option<&Flight> {
        self.flights.get(&id)
    }

    /// The ids of all checkpoints in flight.
    pub(super) fn in_flight(&self) -> Vec<CheckpointId> {
        self.flights.keys().copied().collect()
    }

    /// The checkpoints in flight whose time is over.
    pub(super) fn late(&self, now: Instant) -> Vec<CheckpointId> {
        self.flights.iter().filter(|(_, flight)| flight.deadline <= now).map(|(id, _)| *id).collect()
    }

    /// The earliest deadline of a checkpoint in flight.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.flights.values().map(|flight| flight.deadline).min()
    }

    /// Lets session `number` have the answer of a checkpoint in flight; returns whether there is one.
    pub(super) fn hand_over(&mut self, id: CheckpointId, number: u64) -> bool {
        let Some(flight) = self.flights.get_mut(&id) else { return false };
        flight.reply = CheckpointReply::Session(number);
        true
    }

    /// Notes that the contents of a checkpoint in flight are durable.
    pub(super) fn persisted(&mut self, id: CheckpointId, now: Instant) {
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.persisted.get_or_insert(now);
        }
    }

    /// Number of answers that are due, apart from those of manifests and materializations.
    pub(super) fn len(&self) -> usize {
        self.persists.len() + self.flights.len()
    }

    /// Whether session `number` waits for an answer.
    pub(super) fn has_of_session(&self, number: u64) -> bool {
        let mine = |flight: &Flight| matches!(flight.reply, CheckpointReply::Session(of) if of == number);
        // One session writes at a time, so a persist request of a session is of this one.
        let of_session = |waiter: &PersistWaiter| matches!(waiter, PersistWaiter::Session { .. });
        self.flights.values().any(mine) || self.persists.iter().any(of_session)
    }

    /// Adds a persist request, for all changes below `sqn`.
    pub(super) fn persist(&mut self, sqn: Sqn, waiter: PersistWaiter) {
        self.persists.push(sqn, waiter);
    }

    /// Removes the persist requests that changes below `sqn` answer.
    pub(super) fn persisted_to(&mut self, sqn: Sqn) -> Vec<PersistWaiter> {
        self.persists.release(sqn).into_iter().collect()
    }

    /// Adds a caller that waits for a manifest of the present checkpoints.
    pub(super) fn publish(&mut self, reply: Reply<()>) {
        self.publish_next.push(reply);
    }

    /// Whether callers wait for a manifest.
    pub(super) fn want_manifest(&self) -> bool {
        !self.publish_next.is_empty()
    }

    /// Notes that a manifest has begun.
    pub(super) fn publishing(&mut self) {
        self.publish_now.append(&mut self.publish_next);
    }

    /// Answers the callers that waited for the manifest that was under way.
    pub(super) fn published(&mut self) {
        for reply in self.publish_now.drain(..) {
            let _ = reply.send(Ok(()));
        }
    }

    /// Adds a caller that asks for a materialization.
    pub(super) fn materialize(&mut self, reply: Reply<Materialization>) {
        self.materializations.push(reply);
    }

    /// Whether callers wait for a materialization.
    pub(super) fn want_materialization(&self) -> bool {
        !self.materializations.is_empty()
    }

    /// Answers the callers that asked for a materialization.
    pub(super) fn materialized(&mut self, result: &Result<Materialization, Error>) {
        for reply in self.materializations.drain(..) {
            let _ = reply.send(result.clone());
        }
    }

    /// Answers every caller with `error`, except for checkpoints in flight. The owner has ended.
    pub(super) fn end(&mut self, error: &Error) {
        for waiter in self.persists.drain() {
            // A session needs no answer of its own here: its last event tells it of the end.
            if let PersistWaiter::Call(reply) = waiter {
                let _ = reply.send(Err(error.clone()));
            }
        }
        self.materialized(&Err(error.clone()));
        for reply in self.publish_next.drain(..).chain(self.publish_now.drain(..)) {
            let _ = reply.send(Err(error.clone()));
        }
    }
}

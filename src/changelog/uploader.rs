//! Uploads: the actor that joins the change sets of one job's backends to segments and makes these durable.
//!
//! ```text
//!   Client::submit ──▶ Worker ──▶ Batcher: waits, joins ──▶ up to `num_threads` upload tasks ──▶ Store::create
//!                                                                       └──▶ `done` of each submission
//! ```
//!
//! * Every `done` is called exactly once, whatever happens: success, a permanent error of the store, withdrawal, the
//!   end of the worker.
//! * Nothing here refuses work: what may wait is bounded by the credit that the submitters hold for their bytes. Beside
//!   it an upload in flight needs memory for its compressed blocks, so at most as much again.
//! * An outage of the store is waited out inside [`Store::create`], with the same bytes under the same name.
//! * Uploads are compressed inside of their tasks, yielding after each change set, never on other threads: so a
//!   simulation on one thread stays deterministic, and on many the tasks run in parallel anyway.

mod upload;
mod worker;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use uuid::Uuid;

use self::worker::{Message, Worker};
use super::{
    batcher::BatchOptions,
    compression::Compression,
    metrics::JobUploadMetrics,
    segment::{ChangeSet, SegmentHandle, SegmentId},
};
use crate::{
    object::{Store, StoreError},
    tasks::Tasks,
    types::{BackendId, Name},
};

/// How segments are made and uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadOptions {
    /// When change sets go out.
    pub batch: BatchOptions,
    /// Most segments of one job in flight, at least 1. Default 5.
    pub num_threads: usize,
    /// How blocks are stored. Default none.
    pub compression: Compression,
}

impl Default for UploadOptions {
    fn default() -> Self {
        Self { batch: BatchOptions::default(), num_threads: 5, compression: Compression::None }
    }
}

/// Takes the outcome of one submission. Called on the worker's or an upload's task: it must be short and not block.
pub type Done = Box<dyn FnOnce(Result<SegmentHandle, UploadError>) + Send>;

/// A change set to be made durable.
pub struct Submission {
    /// The changes.
    pub set: ChangeSet,
    /// Do not wait for other backends' change sets.
    pub urgent: bool,
    /// Called exactly once.
    pub done: Done,
}

/// Why a change set was not made durable. It may be submitted again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UploadError {
    /// Withdrawn before its upload began, or still waiting when the last client went away.
    #[error("the upload was cancelled before it began")]
    Cancelled,
    /// The uploads of the job were stopped, with the daemon.
    #[error("uploads were stopped")]
    Stopped,
    /// Its upload, or that of all change sets of the job, panicked. Whether the object exists is unknown.
    #[error("the upload panicked, which is a bug in dstl")]
    Panicked,
    /// The store refused it for good. Whether the object exists is unknown.
    #[error("uploading segment `{}` of job `{}`", segment.number, segment.job)]
    Store {
        /// What was to be made.
        segment: SegmentId,
        /// Why not.
        source: StoreError,
    },
}

/// What uploads need from outside.
#[derive(Debug, Clone)]
pub struct UploadEdge {
    /// Where segments go.
    pub store: Store,
    /// Where the worker and its uploads run.
    pub tasks: Tasks,
    /// The daemon instance's source of segment numbers.
    pub numbers: SegmentNumbers,
    /// The job's metrics.
    pub metrics: JobUploadMetrics,
}

/// The segment numbers of one daemon instance, from 1: each is given out once, whatever the job. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SegmentNumbers {
    instance: Uuid,
    next: Arc<Mutex<u64>>,
}

impl SegmentNumbers {
    /// The numbers of a new `instance`.
    #[must_use]
    pub fn new(instance: Uuid) -> Self {
        Self { instance, next: Arc::new(Mutex::new(1)) }
    }
}

/// Submits change sets of the backends of one job. Cheap to clone; when the last clone and the last [`WriterGuard`] are
/// dropped, what still waits for a slot is cancelled, what is in flight finishes, and the worker ends.
#[derive(Debug, Clone)]
pub struct Client {
    messages: mpsc::UnboundedSender<Message>,
    in_flight: InFlight,
    tasks: Tasks,
    /// Whether the worker has.
    panicked: Arc<AtomicBool>,
}

/// Counts one backend among those whose change sets are worth waiting for, until it is dropped.
#[derive(Debug)]
pub struct WriterGuard {
    messages: mpsc::UnboundedSender<Message>,
}

impl Client {
    /// Starts the uploads of `job`.
    ///
    /// # Panics
    /// If `options.num_threads` is 0, or outside of a tokio runtime.
    #[must_use]
    pub fn start(job: Name, options: UploadOptions, edge: UploadEdge) -> Self {
        assert!(options.num_threads > 0, "uploads need at least one slot");
        let (messages, received) = mpsc::unbounded_channel();
        let in_flight = InFlight { numbers: edge.numbers.clone(), begun: Arc::default() };
        let tasks = edge.tasks.clone();
        let worker = Worker::new(job, options, edge, in_flight.clone(), received);
        // Whoever waits hears of a panic by its ticket, and whoever comes later finds that the worker is gone.
        let panicked = Arc::new(AtomicBool::new(false));
        let flag = panicked.clone();
        tasks.supervise("the uploads of a job", worker.run(), move |_| flag.store(true, Ordering::Relaxed));
        Self { messages, in_flight, tasks, panicked }
    }

    /// Registers a backend as one that submits.
    #[must_use]
    pub fn writer(&self) -> WriterGuard {
        let _ = self.messages.send(Message::WriterJoined);
        WriterGuard { messages: self.messages.clone() }
    }

    /// Hands over a change set. Never blocks; a backend's change sets keep their order within and over segments, but a
    /// later segment may be durable before an earlier one.
    pub fn submit(&self, submission: Submission) {
        let Submission { set, urgent, done } = submission;
        let message = Message::Submit { set, urgent, ticket: Ticket::new(done) };
        if let Err(mpsc::error::SendError(Message::Submit { ticket, .. })) = self.messages.send(message) {
            // The worker is gone. Not from here: the caller may hold what `done` waits for.
            let panicked = self.panicked.clone();
            self.tasks.spawn(async move {
                let panicked = panicked.load(Ordering::Relaxed);
                ticket.call(Err(if panicked { UploadError::Panicked } else { UploadError::Stopped }));
            });
        }
    }

    /// Whether nobody takes change sets any more: the worker has panicked, or the daemon stops.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.messages.is_closed()
    }

    /// Cancels what `epoch` of `backend` submitted and whose upload has not begun. What is in flight finishes.
    pub fn withdraw(&self, backend: &BackendId, epoch: u64) {
        let _ = self.messages.send(Message::Withdraw { backend: backend.clone(), epoch });
    }

    /// The lowest number of this instance that a segment of the job may still get, or that is in flight. Every segment
    /// below is finished: durable and handed to its `done`, or failed; for garbage collection.
    #[must_use]
    pub fn low_water(&self) -> u64 {
        self.in_flight.low_water()
    }
}

impl Drop for WriterGuard {
    fn drop(&mut self) {
        let _ = self.messages.send(Message::WriterLeft);
    }
}

impl std::fmt::Debug for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Submission").field("set", &self.set).field("urgent", &self.urgent).finish_non_exhaustive()
    }
}

/// The `done` of a submission; calls it with [`UploadError::Stopped`] if it is dropped before it was called, and with
/// [`UploadError::Panicked`] if that is by a panic.
struct Ticket(Option<Done>);

impl Ticket {
    fn new(done: Done) -> Self {
        Self(Some(done))
    }

    fn call(mut self, outcome: Result<SegmentHandle, UploadError>) {
        if let Some(done) = self.0.take() {
            done(outcome);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(done) = self.0.take() else { return };
        done(Err(if std::thread::panicking() { UploadError::Panicked } else { UploadError::Stopped }));
    }
}

/// The numbers of one job's segments whose upload has not ended.
#[derive(Debug, Clone)]
struct InFlight {
    numbers: SegmentNumbers,
    begun: Arc<Mutex<BTreeSet<u64>>>,
}

/// A segment's number; in flight until it is dropped.
#[derive(Debug)]
struct Number {
    number: u64,
    begun: Arc<Mutex<BTreeSet<u64>>>,
}

impl InFlight {
    /// Gives out a number. It is in flight before any later call of [`low_water`](Self::low_water) can see a higher
    /// one.
    fn begin(&self) -> Number {
        let mut begun = self.begun.lock();
        let mut next = self.numbers.next.lock();
        let number = *next;
        *next += 1;
        begun.insert(number);
        Number { number, begun: self.begun.clone() }
    }

    fn low_water(&self) -> u64 {
        let begun = self.begun.lock();
        begun.first().copied().unwrap_or_else(|| *self.numbers.next.lock())
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.begun.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests;

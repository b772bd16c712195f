//! Uploads: an actor joins the change sets of one job's backends into segments and makes these durable.
//!
//! ```text
//!   Client::submit ──▶ Worker ──▶ Batcher: waits, joins ──▶ up to `num_threads` upload tasks ──▶ Store::create
//!                                                                       └──▶ `done` of each submission
//! ```
//!
//! * Every `done` is called exactly once, in every case: success, a permanent error of the store, withdrawal, or the
//!   end of the worker.
//! * No submission is refused. The credit that submitters hold for their bytes bounds how much can wait. Besides, an
//!   upload in flight needs memory for its compressed blocks, at most as much again.
//! * [`Store::create`] waits out an outage of the store, with the same bytes under the same name.
//! * Uploads are compressed in their own tasks, which yield after each change set, and never on other threads. So a
//!   simulation on one thread stays deterministic; with many threads the tasks run in parallel anyway.

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
    squash::EntryOf,
};
use crate::{
    object::{Store, StoreError},
    setting::{Kind, options},
    tasks::Tasks,
    types::{BackendId, Name},
};

options! {
    /// How segments are made and uploaded.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct UploadOptions {
        /// When change sets are sent.
        pub batch: BatchOptions = group();
        /// Most segments that are uploaded at a time.
        pub num_threads: usize = option("state.changelog.dstl.dfs.upload.num-threads", Transfer 1, Kind::THREADS, "5");
        /// How change sets are compressed.
        pub compression: Compression =
            option("state.changelog.dstl.dfs.compression", Changelog 4, Kind::of::<Compression>(), "none");
    }
}

/// Takes the outcome of one submission. Called on the worker's or an upload's task: it must be short and not block.
pub type Done = Box<dyn FnOnce(Result<SegmentHandle, UploadError>) + Send>;

/// A change set to be made durable.
pub struct Submission {
    /// The changes to upload.
    pub set: ChangeSet,
    /// Whether not to wait for other backends' change sets.
    pub urgent: bool,
    /// Takes the outcome; called exactly once.
    pub done: Done,
}

/// The reason why a change set was not made durable. It may be submitted again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UploadError {
    /// The change set was withdrawn before its upload began, or was waiting when the last client went away.
    #[error("the upload was cancelled before it began")]
    Cancelled,
    /// The uploads of the job were stopped, with the daemon.
    #[error("uploads were stopped")]
    Stopped,
    /// The upload, or the worker of the job, panicked. Whether the object exists is unknown.
    #[error("the upload panicked, which is a bug in dstl")]
    Panicked,
    /// The store refused the object permanently. Whether the object exists is unknown.
    #[error("uploading segment `{}` of job `{}`", segment.number, segment.job)]
    Store {
        /// The segment that was to be made.
        segment: SegmentId,
        /// The error of the store.
        source: StoreError,
    },
}

/// The resources that uploads need.
#[derive(Debug, Clone)]
pub struct UploadEdge {
    /// The store for segments.
    pub store: Store,
    /// The tasks on which the worker and its uploads run.
    pub tasks: Tasks,
    /// The daemon instance's source of segment numbers.
    pub numbers: SegmentNumbers,
    /// The job's metrics.
    pub metrics: JobUploadMetrics,
    /// Tells which changes overwrite others.
    pub entry_of: EntryOf,
}

/// The segment numbers of one daemon instance, from 1. Each is used once over all jobs. Cheap to clone.
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

/// Submits change sets of the backends of one job. Cheap to clone. When the last clone and the last [`WriterGuard`] are
/// dropped, change sets that wait for a slot are cancelled, uploads in flight finish, and the worker ends.
#[derive(Debug, Clone)]
pub struct Client {
    messages: mpsc::UnboundedSender<Message>,
    in_flight: InFlight,
    tasks: Tasks,
    /// Whether the worker has panicked.
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
        // Waiting callers hear of a panic by their tickets; later callers find that the worker is gone.
        let panicked = Arc::new(AtomicBool::new(false));
        let flag = panicked.clone();
        tasks.supervise("the uploads of a job", worker.run(), move |_| flag.store(true, Ordering::Relaxed));
        Self { messages, in_flight, tasks, panicked }
    }

    /// Registers a backend that will submit.
    #[must_use]
    pub fn writer(&self) -> WriterGuard {
        // If the worker has ended, nothing waits for writers any more; submissions find that out by themselves.
        let _ = self.messages.send(Message::WriterJoined);
        WriterGuard { messages: self.messages.clone() }
    }

    /// Hands over a change set. Never blocks; a backend's change sets keep their order within and over segments, but a
    /// later segment may be durable before an earlier one.
    pub fn submit(&self, submission: Submission) {
        let Submission { set, urgent, done } = submission;
        let message = Message::Submit { set, urgent, ticket: Ticket::new(done) };
        if let Err(mpsc::error::SendError(Message::Submit { ticket, .. })) = self.messages.send(message) {
            // Called on another task, since the caller may hold a lock that `done` waits for.
            let panicked = self.panicked.clone();
            self.tasks.spawn(async move {
                let panicked = panicked.load(Ordering::Relaxed);
                ticket.call(Err(if panicked { UploadError::Panicked } else { UploadError::Stopped }));
            });
        }
    }

    /// Whether change sets are no longer accepted, because the worker has panicked or the daemon stops.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.messages.is_closed()
    }

    /// Cancels the submissions of `epoch` of `backend` whose upload has not begun. Uploads in flight finish.
    pub fn withdraw(&self, backend: &BackendId, epoch: u64) {
        // A worker that has ended has dropped its tickets, which called all of them.
        let _ = self.messages.send(Message::Withdraw { backend: backend.clone(), epoch });
    }

    /// The lowest segment number of this instance that is in flight or may still be used for the job. Every lower
    /// segment is finished: durable and passed to its `done`, or failed. Garbage collection relies on that.
    #[must_use]
    pub fn low_water(&self) -> u64 {
        self.in_flight.low_water()
    }
}

impl Drop for WriterGuard {
    fn drop(&mut self) {
        // As on joining, a worker that has ended needs no count.
        let _ = self.messages.send(Message::WriterLeft);
    }
}

impl std::fmt::Debug for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Submission").field("set", &self.set).field("urgent", &self.urgent).finish_non_exhaustive()
    }
}

/// The `done` of a submission. If it is dropped before it was called, it is called with [`UploadError::Stopped`], or
/// during a panic with [`UploadError::Panicked`].
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
        // A ticket that was called is empty. So `done` is called exactly once, whichever task drops the ticket.
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
    /// Takes the next number. It is in flight before any later call of [`low_water`](Self::low_water) can return a
    /// higher one.
    fn begin(&self) -> Number {
        // Ordering 1: this job's lock is taken before the number is. `low_water` takes it, too, so it sees either the
        // old counter or the new number among those that have begun. If the number were taken first, `low_water` could
        // read the raised counter and an empty set in between. It would then pass a segment that is about to be
        // uploaded, and a sweep could delete it.
        // Ordering 2: the lock of the job comes before that of the instance, here as in `low_water`. The other order
        // could deadlock.
        let mut begun = self.begun.lock();
        let mut next = self.numbers.next.lock();
        let number = *next;
        *next += 1;
        begun.insert(number);
        Number { number, begun: self.begun.clone() }
    }

    fn low_water(&self) -> u64 {
        let begun = self.begun.lock();
        // Without an upload of this job, the counter of the whole instance is right: other jobs may take the numbers
        // below it, but this job will only use later ones.
        begun.first().copied().unwrap_or_else(|| *self.numbers.next.lock())
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        // Nobody holds this lock while a number is dropped: `begin` returns the number after it has released the lock.
        self.begun.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests;

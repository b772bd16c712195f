//! Checkpoints that are made to be read, and the reading of checkpoints through a daemon.
//!
//! ```text
//!   barrier ──▶ checkpoint, held ──▶ savepoint written, or pages sent ──▶ let loose
//!      │            │ retention, SUBSUME: it stays          a pin of its own keeps the objects meanwhile
//!      │            └ the owner ends: the next one lets it go as any that did not complete
//!      └ later barriers, batches and notices go on all the time
//! ```
//!
//! A hold is only in memory, so nothing that a dead daemon held stays for ever. The memory for reading is that of one
//! reader: further ones wait. A reader has a thread of its own that gives way to the writers.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{sleep, timeout},
};

use super::{
    barrier::take_held,
    directory::Directory,
    environment::Environment,
    error::{closed, restore_error},
    handle::Backend,
    holds::Hold,
    notice,
    session::Session,
    shared::Shared,
    waiters::CheckpointReply,
    words::{BarrierRequest, CompletedCheckpoint, Refusal},
};
use crate::{
    checkpoint::handle::CheckpointHandle,
    error::{Error, Reason},
    export::{
        pages::{self, Message, ReadError, Wanted},
        part::PartSource,
        source::SourceError,
    },
    object::{Retry, Store},
    restore::reader::{ReaderError, ReaderOptions},
    tasks::Panicked,
    types::{CheckpointId, Epoch},
};

/// How often a request to the store is made before a reader gives up.
const ATTEMPTS: u32 = 8;

/// How long a readable checkpoint waits for its first reader.
const UNREAD: Duration = Duration::from_secs(600);

/// How long a page waits to be taken.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);

/// Messages that wait to be taken.
const WAITING: usize = 2;

impl Session {
    /// Takes a barrier whose checkpoint can be read until a reader has ended, or for ten minutes if no reader begins.
    /// Its outcome arrives in the outbox.
    ///
    /// # Errors
    /// Nothing was cut.
    pub fn readable_barrier(&mut self, request: BarrierRequest) -> Result<(), Refusal> {
        let id = request.id;
        let reply = CheckpointReply::Session(self.number());
        let taken = self.take_barrier(request, |core, request| take_held(core, request, reply, Hold::Readable(0)))?;
        // A barrier that was sent again cuts nothing, and its checkpoint has its timer already.
        if taken.is_some() {
            forget_unread(self.backend(), id);
        }
        Ok(())
    }
}

impl Backend {
    /// As [`checkpoint`](Self::checkpoint), and the checkpoint can be read until a reader has ended, or for ten minutes
    /// if no reader begins.
    ///
    /// # Errors
    /// As for [`checkpoint`](Self::checkpoint).
    pub async fn readable_checkpoint(
        &self,
        epoch: Epoch,
        request: BarrierRequest,
    ) -> Result<CompletedCheckpoint, Error> {
        let id = request.id;
        let answer = self.call_barrier(epoch, |core, reply| take_held(core, request, reply, Hold::Readable(0)))?;
        forget_unread(self, id);
        answer.await.map_err(|_| closed(self.id()))?
    }
}

/// Releases the readable checkpoint `id` if no reader has begun for a while.
fn forget_unread(backend: &Backend, id: CheckpointId) {
    let shared = Arc::downgrade(&backend.shared);
    let tasks = backend.shared.core().env.tasks.clone();
    tasks.spawn(async move {
        // Only a weak reference is kept meanwhile, so that a backend that ends frees its memory.
        sleep(UNREAD).await;
        let Some(shared) = shared.upgrade() else { return };
        let mut core = shared.core();
        if core.holds.is_unread(id) {
            notice::let_loose(&mut core, id);
            drop(core);
            shared.wake();
        }
    });
}

/// A reader of a readable checkpoint that is open here; it ends when this is dropped.
struct Counted(Arc<Shared>, CheckpointId);

impl Counted {
    fn begin(backend: &Backend, id: CheckpointId) -> Self {
        backend.shared.core().holds.begin_reading(id);
        Self(backend.shared.clone(), id)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        notice::end_reader(&mut self.0.core(), self.1);
        self.0.wake();
    }
}

impl Directory {
    /// Waits until no other reader reads checkpoints. Cancel-safe.
    pub(super) async fn may_read(&self) -> OwnedSemaphorePermit {
        self.reading.clone().acquire_owned().await.expect("nobody closes it")
    }

    /// Reads the `wanted` part of the checkpoint that `handle` names, wherever its backend is open. The messages come
    /// through the returned channel, the end last. If the receiver is dropped, the reading ends.
    #[must_use]
    pub fn read_checkpoint(&self, handle: CheckpointHandle, wanted: Wanted) -> mpsc::Receiver<Result<Message, Error>> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let (directory, tasks) = (self.clone(), self.environment().tasks.clone());
        tasks.clone().spawn(async move {
            let running = directory.running(&handle.backend).ok();
            // Only the owner that made the checkpoint holds it. Under any other owner it is read like those that stay
            // anyway.
            let is_own = |backend: &Backend| backend.epoch().number == handle.checkpoint.epoch;
            // Ordering: the reader counts before it waits for its turn. The checkpoint could be let loose as unread
            // meanwhile.
            let counted = running.filter(is_own).map(|backend| Counted::begin(&backend, handle.checkpoint.id));
            let (env, failed) = (directory.environment().clone(), sender.clone());
            let permit = tokio::select! {
                biased;
                permit = directory.may_read() => permit,
                () = sender.closed() => return,
            };
            let id = handle.backend.clone();
            let read = tasks.aside("reading a checkpoint", move || async move {
                // The permit is part of the work, which goes on even if the task around it ends: so does its memory.
                let _permit = permit;
                read(&env, handle, &wanted, &sender).await
            });
            let ended = read.await.unwrap_or_else(|panicked| Err(bug(&panicked)));
            drop(counted);
            match ended {
                Ok(()) => tracing::debug!(backend = %id, "a checkpoint was read"),
                Err(error) => {
                    tracing::info!(backend = %id, %error, "reading a checkpoint");
                    // If nobody receives any more, nobody asks for the reason.
                    let _ = failed.send(Err(error)).await;
                }
            }
        });
        receiver
    }
}

async fn read(
    env: &Environment,
    handle: CheckpointHandle,
    wanted: &Wanted,
    sender: &mpsc::Sender<Result<Message, Error>>,
) -> Result<(), Error> {
    let (options, backend) = (reader_options(env, &env.store), handle.backend.clone());
    let source = PartSource { backend: handle.backend, checkpoint: handle.checkpoint, lease_ms: lease_ms(env) };
    // A page that nobody takes ends the reading, because the memory for reading is one for all.
    let send = async |message: Message| matches!(timeout(TAKEN_WITHIN, sender.send(Ok(message))).await, Ok(Ok(())));
    let done = source
        .read(&options, async |manifest, record| pages::read(manifest, record, &options, wanted, send).await)
        .await;
    done.map_err(|error| match error {
        ReadError::NoState(_) => Error::new(Reason::InvalidArgument, error.to_string()),
        ReadError::NotTaken => Error::new(Reason::TooSlow, format!("backend `{backend}`: {error}; ask again")),
        ReadError::Source(error) => unreadable(error),
    })
}

/// Most reads at a time of such a reader. Each may take a processor from a writer while it copies what it has read.
const READS_AT_A_TIME: usize = 2;

/// The resources of a reader of `store`.
pub(super) fn reader_options<'a>(env: &'a Environment, store: &'a Store) -> ReaderOptions<'a> {
    ReaderOptions {
        store,
        tasks: &env.tasks,
        random: &env.random,
        local: env.local.as_deref(),
        memory: env.options.reading_memory,
        parallel_reads: env.options.download_parallelism.min(READS_AT_A_TIME),
        retry: Retry::forever().at_most(ATTEMPTS),
    }
}

/// The lease of a pin of a reader, in milliseconds.
pub(super) fn lease_ms(env: &Environment) -> u64 {
    u64::try_from(env.options.pin_lease.as_millis()).unwrap_or(u64::MAX)
}

/// The error for a checkpoint that cannot be read.
pub(super) fn unreadable(error: SourceError) -> Error {
    let text = error.to_string();
    match error {
        SourceError::NoJob(_) | SourceError::NoCheckpoint { .. } | SourceError::NoPart { .. } => {
            Error::new(Reason::CheckpointNotFound, text)
        }
        SourceError::LetGo(_) => Error::new(Reason::CheckpointNotFound, text),
        SourceError::Unreadable { of, source } => match source {
            ReaderError::Restore(error) => restore_error(&of, error),
            ReaderError::KeyGroup { .. } | ReaderError::OperatorState { .. } => {
                Error::new(Reason::StateMemory, format!("{text} (`memory.reading`)"))
            }
        },
        SourceError::Rows { .. } => Error::new(Reason::Internal, text),
        SourceError::Pin(_) => Error::new(Reason::PinExpired, text),
        SourceError::Chain(error) => error.into(),
        SourceError::Store(error) => error.into(),
    }
}

/// The error for a reader that has panicked.
pub(super) fn bug(panicked: &Panicked) -> Error {
    Error::new(Reason::Internal, panicked.to_string())
}

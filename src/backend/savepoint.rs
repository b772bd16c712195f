//! Savepoints by barrier: exact at it, made beside the stream.
//!
//! ```text
//!   subtask 0 of each operator          every other subtask
//!     barrier ▶ its part is durable       barrier ▶ its part is durable
//!     reads the heads of the job          looks for the metadata, now and then
//!     until all have their part             │
//!     the first operator's: exports         │
//!     └──────── metadata.json ──────────────┘ has this very part ▶ answered
//! ```
//!
//! Each barrier has the same name and id. Metadata that names another cut means that the name is taken. If the one that
//! exports fails or dies, the others fail when their time is over.

use std::time::Duration;

use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};

use super::{
    barrier::take_held,
    core::Core,
    directory::Directory,
    error::closed,
    handle::Backend,
    holds::Hold,
    notice,
    outbox::SessionEvent,
    reading::{bug, lease_ms, reader_options, unreadable},
    session::Session,
    waiters::CheckpointReply,
    words::{BarrierRequest, CompletedCheckpoint, Refusal, SavepointMade},
};
use crate::{
    checkpoint::job::{self, JobView},
    error::{Error, Reason},
    export::{self, Export, ExportError, source::Source},
    object::Retry,
    savepoint::{Metadata, SavepointError, SavepointId},
    types::{CheckpointId, Epoch, Name},
};

/// First and longest pause between two looks at the store.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How often a request to the store is made before a look fails.
const ATTEMPTS: u32 = 8;

/// A barrier that was taken, of whose checkpoint a savepoint is to be made.
struct TakenBarrier {
    /// The id of its checkpoint.
    id: CheckpointId,
    /// Gets the checkpoint once it is durable, or why it failed.
    answer: oneshot::Receiver<Result<CompletedCheckpoint, Error>>,
    /// When the savepoint must be there.
    deadline: Instant,
}

impl Session {
    /// Takes a barrier that makes the savepoint `name` of the whole job; its outcome arrives in the outbox.
    ///
    /// # Errors
    /// Nothing was cut.
    pub fn savepoint_barrier(
        &mut self,
        request: BarrierRequest,
        name: Name,
        directory: &Directory,
    ) -> Result<(), Refusal> {
        let (id, deadline) = (request.id, deadline(&request, directory));
        let (reply, answer) = oneshot::channel();
        let begin = |core: &mut Core, request| take_held(core, request, CheckpointReply::Call(reply), Hold::Savepoint);
        // A barrier that was sent again is answered by the task that its first sending began.
        if self.take_barrier(request, begin)?.is_none() {
            return Ok(());
        }
        let (directory, backend) = (directory.clone(), self.backend().clone());
        let barrier = TakenBarrier { id, answer, deadline };
        directory.environment().tasks.clone().spawn(async move {
            let made = directory.make_savepoint(&backend, barrier, name).await;
            let event = match made {
                Ok(made) => SessionEvent::SavepointMade(Box::new(made)),
                Err(error) => SessionEvent::CheckpointFailed { id, error },
            };
            backend.shared.core().seat.tell(event);
        });
        Ok(())
    }
}

impl Directory {
    /// Makes the savepoint `name` of the whole job by a barrier outside a session. Dropped, it goes on.
    ///
    /// # Errors
    /// If there is no savepoint.
    pub async fn savepoint(
        &self,
        backend: &Backend,
        epoch: Epoch,
        request: BarrierRequest,
        name: Name,
    ) -> Result<SavepointMade, Error> {
        let (id, deadline) = (request.id, deadline(&request, self));
        let answer = backend.call_barrier(epoch, |core, reply| take_held(core, request, reply, Hold::Savepoint))?;
        let (directory, backend, tasks) = (self.clone(), backend.clone(), self.environment().tasks.clone());
        let (reply, made) = oneshot::channel();
        let gone = closed(backend.id());
        let barrier = TakenBarrier { id, answer, deadline };
        tasks.spawn(async move {
            let _ = reply.send(directory.make_savepoint(&backend, barrier, name).await);
        });
        made.await.map_err(|_| gone)?
    }

    /// Makes a savepoint once the checkpoint of `barrier` is there, and lets that go.
    async fn make_savepoint(
        &self,
        backend: &Backend,
        barrier: TakenBarrier,
        name: Name,
    ) -> Result<SavepointMade, Error> {
        let TakenBarrier { id, answer, deadline } = barrier;
        let savepoint = SavepointId { job: backend.id().job.clone(), name };
        let made = async {
            let checkpoint = answer.await.map_err(|_| closed(backend.id()))??;
            let metadata = self.gather(backend, &checkpoint, &savepoint, deadline).await?;
            let files = || metadata.operators.values().flat_map(|operator| &operator.files);
            Ok(SavepointMade {
                checkpoint: CompletedCheckpoint { handle: bytes::Bytes::new(), ..checkpoint },
                id: savepoint.clone(),
                files: files().count() as u64,
                rows: files().map(|file| file.rows).fold(0, u64::saturating_add),
                bytes: files().map(|file| file.bytes).fold(0, u64::saturating_add),
            })
        };
        let made = made.await;
        match &made {
            Ok(made) => tracing::info!(backend = %backend.id(), savepoint = %made.id.folder(), "a savepoint was made"),
            Err(error) => tracing::warn!(backend = %backend.id(), %error, "a savepoint was not made"),
        }
        // Whether or not there is a savepoint now: nobody else would end the hold before the owner ends.
        notice::let_loose(&mut backend.shared.core(), id);
        backend.shared.wake();
        made
    }

    /// Waits until all subtasks have their part, and makes the savepoint, or waits until another subtask has made it.
    async fn gather(
        &self,
        backend: &Backend,
        checkpoint: &CompletedCheckpoint,
        savepoint: &SavepointId,
        deadline: Instant,
    ) -> Result<Metadata, Error> {
        let (env, retry) = (self.environment(), Retry::forever().at_most(ATTEMPTS));
        let mut pause = FIRST_PAUSE;
        loop {
            // The whole look is under the deadline, the export included, since the caller waits for that, too.
            let looked = async {
                if self.is_maker(backend, checkpoint.identity.id, retry).await? {
                    return self.export(backend, checkpoint.identity.id, savepoint).await.map(Some);
                }
                match Metadata::read(&env.store, savepoint, retry).await {
                    Ok(metadata) if has_part(&metadata, backend, checkpoint) => Ok(Some(metadata)),
                    Ok(_) => Err(failed(ExportError::Exists(savepoint.folder()))),
                    Err(SavepointError::NotFound(_)) => Ok(None),
                    Err(error) => Err(failed(error.into())),
                }
            };
            let text = || {
                format!(
                    "savepoint `{}`: it was not made in time; does every subtask of the job get the barrier {}?",
                    savepoint.folder(),
                    checkpoint.identity.id
                )
            };
            let late = |_| Error::new(Reason::CheckpointTimeout, text());
            if let Some(metadata) = timeout_at(deadline, looked).await.map_err(late)?? {
                return Ok(metadata);
            }
            timeout_at(deadline, sleep(pause)).await.map_err(late)?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether every subtask of the job has its part of checkpoint `id`, and `backend` is to export it.
    async fn is_maker(&self, backend: &Backend, id: CheckpointId, retry: Retry) -> Result<bool, Error> {
        // One subtask of each operator asks, and only the first operator's makes it: others would write the same files.
        if backend.id().subtask != 0 {
            return Ok(false);
        }
        let heads = job::read_heads(&self.environment().store, &backend.id().job, retry).await?;
        let view = JobView::of(&heads);
        let is_there = |whole: &job::JobCheckpoint| whole.id == id && whole.attempt == backend.attempt();
        let first = view.operators.keys().next();
        Ok(view.consistent.iter().any(is_there) && first == Some(&backend.id().operator))
    }

    async fn export(&self, backend: &Backend, id: CheckpointId, savepoint: &SavepointId) -> Result<Metadata, Error> {
        let (env, attempt, permit) = (self.environment().clone(), backend.attempt(), self.may_read().await);
        let source = Source { job: savepoint.job.clone(), checkpoint: Some(id), lease_ms: lease_ms(&env) };
        let export = Export { source, name: savepoint.name.clone(), now: env.clock.now_ms() };
        let made = self.environment().tasks.aside("making a savepoint", move || async move {
            let _permit = permit;
            export::create_of(&export, Some(attempt), &reader_options(&env, &env.store), |_| {}).await
        });
        made.await.map_err(|panicked| bug(&panicked))?.map_err(failed)
    }
}

/// When a savepoint must be there.
fn deadline(request: &BarrierRequest, directory: &Directory) -> Instant {
    Instant::now() + request.timeout.unwrap_or(directory.environment().options.savepoint_timeout)
}

/// Whether a savepoint has the part that `checkpoint` is.
fn has_part(metadata: &Metadata, backend: &Backend, checkpoint: &CompletedCheckpoint) -> bool {
    let operator = metadata.operators.get(backend.id().operator.as_str());
    let subtask = operator.and_then(|operator| operator.subtasks.get(backend.id().subtask as usize));
    subtask.is_some_and(|subtask| subtask.uuid == checkpoint.identity.uuid.to_string())
}

fn failed(error: ExportError) -> Error {
    let text = error.to_string();
    match error {
        ExportError::Source(error) => unreadable(error),
        ExportError::Exists(_) | ExportError::TwoForms { .. } => Error::new(Reason::InvalidArgument, text),
        ExportError::Unfit(_) | ExportError::Rows(_) => Error::new(Reason::Internal, text),
        ExportError::Store(error) | ExportError::Savepoint(SavepointError::Store(error)) => error.into(),
        ExportError::Savepoint(_) => Error::new(Reason::CorruptObject, text),
    }
}

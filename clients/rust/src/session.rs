//! The session as a task uses it.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Applied, BatchBuilder, ClientError, Op,
    outgoing::{Outgoing, Reply},
    worker::{Message, NoticeMessage},
};
use dstl_proto::v1::{
    Acknowledgement, Barrier, CheckpointCompleted, CheckpointIdentity, Limits, Notice, NoticeKind, NoticeOutcome,
    OperationResult,
};

/// How a session behaves when its stream breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOptions {
    /// How long to reconnect a broken stream to the same daemon instance. Default: 30 s.
    pub reconnect_timeout: Duration,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { reconnect_timeout: Duration::from_secs(30) }
    }
}

/// How durable the batches are. Each number holds for all batches below it; `confirmed_to <= persisted_to <=
/// applied_to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Acknowledged {
    /// Batches below are in the inner backend.
    pub applied_to: u64,
    /// Batches below are durable in the object store.
    pub persisted_to: u64,
    /// Batches below are part of a completed checkpoint.
    pub confirmed_to: u64,
}

impl From<Acknowledgement> for Acknowledged {
    fn from(from: Acknowledgement) -> Self {
        Self { applied_to: from.applied_to, persisted_to: from.persisted_to, confirmed_to: from.confirmed_to }
    }
}

/// The writer's stream of a backend. Cheap to clone; all clones are one session.
///
/// Batches, barriers and single operations are handled in the order in which they are passed in. If a batch is
/// rejected, its own caller gets the error, and the session goes on: everything that was sent behind the batch
/// (barriers included) is applied without it, in order, under the following numbers. If that is not right for a task,
/// the task must stop at the error before it triggers the next barrier.
///
/// A broken stream is opened again on the same daemon instance, and every batch is applied once. Reads whose results
/// were lost with the old stream are sent again, so they may see later writes of this session. A barrier in flight
/// fails with [`ClientError::CheckpointInterrupted`]. If the daemon is another instance, the backend is closed, or
/// another owner has it, everything that is pending fails with [`ClientError::SessionLost`] or [`ClientError::Fenced`].
///
/// If the last clone is dropped without [`close`](Self::close), everything that was passed in is still sent, in the
/// background.
#[derive(Debug, Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    messages: mpsc::Sender<Message>,
    notices: mpsc::Sender<NoticeMessage>,
    acknowledged: watch::Receiver<Acknowledged>,
    job_completed: watch::Receiver<Option<CheckpointIdentity>>,
    failure: Failure,
    limits: Limits,
    epoch: u64,
}

/// The reason why a session is over, once it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Failure(Arc<OnceLock<ClientError>>);

impl Failure {
    pub(super) fn set(&self, error: ClientError) {
        let _ = self.0.set(error);
    }

    fn get(&self) -> ClientError {
        // A worker that has left no reason has ended with its runtime.
        self.0.get().cloned().unwrap_or(ClientError::Closed)
    }
}

/// The ends of a session's channels that its worker does not hold.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) notices: mpsc::Sender<NoticeMessage>,
    pub(super) acknowledged: watch::Receiver<Acknowledged>,
    pub(super) job_completed: watch::Receiver<Option<CheckpointIdentity>>,
    pub(super) failure: Failure,
}

impl Session {
    pub(super) fn new(ends: Ends, limits: Limits, epoch: u64) -> Self {
        let Ends { messages, notices, acknowledged, job_completed, failure } = ends;
        Self { shared: Arc::new(Shared { messages, notices, acknowledged, job_completed, failure, limits, epoch }) }
    }

    /// An empty batch.
    #[must_use]
    pub fn batch(&self) -> BatchBuilder {
        BatchBuilder::new()
    }

    /// Passes a batch in, and returns as soon as credit covers it; so the daemon's push-back makes the task wait here.
    /// The receipt tells when the batch is applied, and its results.
    ///
    /// Not cancel-safe: a batch whose call was dropped may have been sent.
    ///
    /// # Errors
    /// [`ClientError::BatchTooLarge`] before anything is sent; otherwise the reason why the session is over.
    pub async fn send(&self, batch: BatchBuilder) -> Result<Receipt, ClientError> {
        let sealed = batch.seal(&self.shared.limits)?;
        let (accepted, is_accepted) = oneshot::channel();
        let (applied, is_applied) = oneshot::channel();
        self.tell(Message::Batch(Outgoing::new(sealed, accepted, applied))).await?;
        // The worker drops this sender only when the session is over.
        is_accepted.await.map_err(|_| self.shared.failure.get())?;
        Ok(Receipt { applied: is_applied, session: self.clone() })
    }

    /// Runs one operation, in one batch with those of other tasks that wait at the same time. A write is applied when
    /// the call returns; an operation whose call was dropped may have been sent.
    ///
    /// # Errors
    /// The error of the daemon, or the reason why the session is over; for reads also [`ClientError::Malformed`] if
    /// stored bytes do not fit the handle's types.
    pub async fn run<O: Op>(&self, operation: O) -> Result<O::Output, ClientError> {
        let reader = operation.reader();
        let mut alone = BatchBuilder::new();
        alone.push(operation);
        reader(&self.operate(alone).await?)
    }

    async fn operate(&self, operation: BatchBuilder) -> Result<OperationResult, ClientError> {
        let (reply, answer) = oneshot::channel();
        let limits = &self.shared.limits;
        // The same check as for a batch: an operation that is too long by itself must not spoil those that share its
        // batch.
        let operation = operation.checked(limits)?;
        self.tell(Message::Operation(operation, reply)).await?;
        self.answered(answer).await
    }

    /// Runs operations, one in each builder, in as few batches as limits allow. Returns one result each, in order. Not
    /// cancel-safe.
    pub(super) async fn operate_together(
        &self,
        operations: Vec<BatchBuilder>,
    ) -> Vec<Result<OperationResult, ClientError>> {
        let limits = &self.shared.limits;
        let mut answers = Vec::with_capacity(operations.len());
        let (mut batch, mut replies) = (BatchBuilder::new(), Vec::new());
        for operation in operations {
            let (reply, answer) = oneshot::channel();
            answers.push(answer);
            match operation.checked(limits) {
                Ok(operation) => {
                    if !batch.has_room_for(&operation, limits) {
                        self.send_shared(&mut batch, &mut replies).await;
                    }
                    batch.append(&operation);
                    replies.push(reply);
                }
                // An operation that is too long by itself fails alone, as in `operate`.
                Err(error) => drop(reply.send(Err(error))),
            }
        }
        self.send_shared(&mut batch, &mut replies).await;
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(self.answered(answer).await);
        }
        results
    }

    /// A session that is over drops the replies, by which the callers are told.
    async fn send_shared(&self, batch: &mut BatchBuilder, replies: &mut Vec<Reply<OperationResult>>) {
        let (batch, replies) = (std::mem::take(batch), std::mem::take(replies));
        if !batch.is_empty() {
            let sealed = batch.seal(&self.shared.limits).expect("it has room for every operation in it");
            let _ = self.tell(Message::Batch(Outgoing::shared(sealed, replies))).await;
        }
    }

    /// Triggers a checkpoint behind everything that was passed in so far. It may take as long as the daemon's
    /// `checkpoint.timeout`.
    ///
    /// The first await puts the barrier in its place, the second one waits for the checkpoint:
    /// `session.barrier(7, offsets).await?.await?`. `id` must be above every earlier one of this epoch.
    ///
    /// Not cancel-safe: a barrier whose call was dropped may have been sent.
    ///
    /// # Errors
    /// The reason why the session is over.
    pub async fn barrier(&self, id: u64, attachment: impl Into<Bytes>) -> Result<PendingCheckpoint, ClientError> {
        self.trigger(Barrier { checkpoint_id: id, attachment: attachment.into(), ..Barrier::default() }).await
    }

    /// Like [`barrier`](Self::barrier), with its own timeout (at least 1 ms).
    ///
    /// # Errors
    /// As for [`barrier`](Self::barrier).
    pub async fn barrier_with_timeout(
        &self,
        id: u64,
        attachment: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<PendingCheckpoint, ClientError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        let attachment = attachment.into();
        self.trigger(Barrier { checkpoint_id: id, attachment, timeout_ms, ..Barrier::default() }).await
    }

    /// Triggers a barrier that makes the savepoint `name` of the whole job, exact behind everything that was passed in
    /// so far, while the session goes on. Every subtask of the job has to trigger it, with the same id and name. The
    /// second await ends once the savepoint exists: `CheckpointCompleted::savepoint` tells its path for
    /// [`restore`](super::OpenOptions). Send no notice for this id.
    ///
    /// # Errors
    /// As for [`barrier`](Self::barrier).
    pub async fn savepoint(
        &self,
        id: u64,
        name: impl Into<String>,
        attachment: impl Into<Bytes>,
    ) -> Result<PendingCheckpoint, ClientError> {
        let (attachment, savepoint) = (attachment.into(), name.into());
        self.trigger(Barrier { checkpoint_id: id, attachment, savepoint, ..Barrier::default() }).await
    }

    /// Triggers a barrier whose checkpoint is made to be read: see [`Client::read_checkpoint`](super::Client). It
    /// counts for no retention, and is let go once a reader has ended, or after ten minutes without one.
    ///
    /// # Errors
    /// As for [`barrier`](Self::barrier).
    pub async fn readable(&self, id: u64, attachment: impl Into<Bytes>) -> Result<PendingCheckpoint, ClientError> {
        let attachment = attachment.into();
        self.trigger(Barrier { checkpoint_id: id, attachment, readable: true, ..Barrier::default() }).await
    }

    async fn trigger(&self, barrier: Barrier) -> Result<PendingCheckpoint, ClientError> {
        let id = barrier.checkpoint_id;
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Barrier(barrier, reply)).await?;
        Ok(PendingCheckpoint { id, answer, failure: self.shared.failure.clone() })
    }

    /// Tells the daemon that the whole job has this checkpoint. Like every notice it is idempotent and may come late;
    /// cancel-safe.
    ///
    /// # Errors
    /// The error of the daemon, or the reason why the session is over.
    pub async fn complete(&self, checkpoint: &CheckpointIdentity) -> Result<NoticeOutcome, ClientError> {
        self.notify(NoticeKind::Complete, checkpoint).await
    }

    /// Tells the daemon that a checkpoint, in flight or published, will not complete.
    ///
    /// # Errors
    /// As for [`complete`](Self::complete).
    pub async fn abort(&self, checkpoint: &CheckpointIdentity) -> Result<NoticeOutcome, ClientError> {
        self.notify(NoticeKind::Abort, checkpoint).await
    }

    /// Lets a checkpoint and every older one of its epoch go.
    ///
    /// # Errors
    /// As for [`complete`](Self::complete).
    pub async fn subsume(&self, checkpoint: &CheckpointIdentity) -> Result<NoticeOutcome, ClientError> {
        self.notify(NoticeKind::Subsume, checkpoint).await
    }

    /// Lets this one checkpoint go.
    ///
    /// # Errors
    /// As for [`complete`](Self::complete).
    pub async fn discard(&self, checkpoint: &CheckpointIdentity) -> Result<NoticeOutcome, ClientError> {
        self.notify(NoticeKind::Discard, checkpoint).await
    }

    /// The identity of a checkpoint of this epoch whose UUID is not known, for example one in flight.
    #[must_use]
    pub fn checkpoint(&self, id: u64) -> CheckpointIdentity {
        CheckpointIdentity { epoch: self.shared.epoch, checkpoint_id: id, handle_uuid: Bytes::new() }
    }

    async fn notify(&self, kind: NoticeKind, checkpoint: &CheckpointIdentity) -> Result<NoticeOutcome, ClientError> {
        let (reply, answer) = oneshot::channel();
        let notice = Notice { kind: kind.into(), checkpoint: Some(checkpoint.clone()) };
        let sent = self.shared.notices.send(NoticeMessage { notice, reply }).await;
        sent.map_err(|_| self.shared.failure.get())?;
        self.answered(answer).await
    }

    /// Makes everything that was passed in so far durable; returns `persisted_to`. Cancel-safe: the request may still
    /// be sent.
    ///
    /// # Errors
    /// The error of the daemon, or the reason why the session is over.
    pub async fn persist(&self) -> Result<u64, ClientError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Persist(reply)).await?;
        Ok(self.answered(answer).await?.persisted_to)
    }

    /// The latest acknowledgement.
    #[must_use]
    pub fn acknowledged(&self) -> Acknowledged {
        *self.shared.acknowledged.borrow()
    }

    /// A receiver that sees every new acknowledgement.
    #[must_use]
    pub fn acknowledgements(&self) -> watch::Receiver<Acknowledged> {
        self.shared.acknowledged.clone()
    }

    /// A receiver of the newest checkpoint that is committed for the whole job, if the job was
    /// [declared](super::Client::declare_job). Sinks publish up to it the output that they hold back. `None` before the
    /// first commit of this epoch.
    #[must_use]
    pub fn job_completed(&self) -> watch::Receiver<Option<CheckpointIdentity>> {
        self.shared.job_completed.clone()
    }

    /// Waits until the checkpoint `id`, or a newer one, is committed for the whole job; returns that checkpoint.
    /// Cancel-safe.
    ///
    /// # Errors
    /// The reason why the session ended before.
    pub async fn wait_job_completed(&self, id: u64) -> Result<CheckpointIdentity, ClientError> {
        let mut watched = self.job_completed();
        let reached = watched.wait_for(|newest| newest.as_ref().is_some_and(|newest| newest.checkpoint_id >= id)).await;
        let reached = reached.map_err(|_| self.shared.failure.get())?.clone();
        reached.ok_or(ClientError::Incomplete("the completed checkpoint"))
    }

    /// Waits until every batch below `to` is applied. Cancel-safe, like the next two methods.
    ///
    /// # Errors
    /// The reason why the session ended before.
    pub async fn wait_applied(&self, to: u64) -> Result<Acknowledged, ClientError> {
        self.wait(|acknowledged| acknowledged.applied_to >= to).await
    }

    /// Waits until every batch below `to` is durable.
    ///
    /// # Errors
    /// The reason why the session ended before.
    pub async fn wait_persisted(&self, to: u64) -> Result<Acknowledged, ClientError> {
        self.wait(|acknowledged| acknowledged.persisted_to >= to).await
    }

    /// Waits until every batch below `to` is part of a completed checkpoint.
    ///
    /// # Errors
    /// The reason why the session ended before.
    pub async fn wait_confirmed(&self, to: u64) -> Result<Acknowledged, ClientError> {
        self.wait(|acknowledged| acknowledged.confirmed_to >= to).await
    }

    /// Waits until the batch with this final number is durable. This does not ask the daemon to make it durable: see
    /// [`persist`](Self::persist).
    ///
    /// # Errors
    /// The reason why the session ended before.
    pub async fn persisted(&self, number: u64) -> Result<Acknowledged, ClientError> {
        self.wait_persisted(number + 1).await
    }

    async fn wait(&self, mut enough: impl FnMut(&Acknowledged) -> bool) -> Result<Acknowledged, ClientError> {
        let mut watched = self.shared.acknowledged.clone();
        let reached = watched.wait_for(|acknowledged| enough(acknowledged)).await;
        reached.map(|acknowledged| *acknowledged).map_err(|_| self.shared.failure.get())
    }

    /// Ends the session in order: sends everything that was passed in, waits until it is applied and until the daemon
    /// has answered everything, checkpoints included. Other clones are useless afterwards.
    ///
    /// # Errors
    /// The reason why the session ended otherwise, even if that was before the call.
    pub async fn close(self) -> Result<(), ClientError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Close(reply)).await?;
        self.answered(answer).await
    }

    async fn tell(&self, message: Message) -> Result<(), ClientError> {
        self.shared.messages.send(message).await.map_err(|_| self.shared.failure.get())
    }

    async fn answered<T>(&self, answer: oneshot::Receiver<Result<T, ClientError>>) -> Result<T, ClientError> {
        answer.await.unwrap_or_else(|_| Err(self.shared.failure.get()))
    }
}

/// A batch that was passed in.
#[derive(Debug)]
pub struct Receipt {
    applied: oneshot::Receiver<Result<Applied, ClientError>>,
    session: Session,
}

impl Receipt {
    /// Waits until the batch is applied and its results have come.
    ///
    /// # Errors
    /// The reason why the batch was rejected, or why the session ended before.
    pub async fn applied(self) -> Result<Applied, ClientError> {
        self.session.answered(self.applied).await
    }

    /// Waits until the batch is durable; see [`Session::persisted`].
    ///
    /// # Errors
    /// As for [`applied`](Self::applied).
    pub async fn persisted(self) -> Result<Applied, ClientError> {
        let session = self.session.clone();
        let applied = self.applied().await?;
        session.persisted(applied.number).await?;
        Ok(applied)
    }
}

/// A checkpoint in flight: a future of its [`CheckpointCompleted`]. Dropping it does not abort the checkpoint.
#[derive(Debug)]
#[must_use = "it tells what became of the checkpoint"]
pub struct PendingCheckpoint {
    id: u64,
    answer: oneshot::Receiver<Result<CheckpointCompleted, ClientError>>,
    failure: Failure,
}

impl PendingCheckpoint {
    /// The id of the checkpoint.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl Future for PendingCheckpoint {
    type Output = Result<CheckpointCompleted, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| answer.unwrap_or_else(|_| Err(self.failure.get())))
    }
}

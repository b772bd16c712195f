//! The stream of a session: requests in, responses out, in one task.
//!
//! The response stream drives everything: when tonic asks for the next response, the session sends the responses that
//! are due, and then reads and handles requests. So a client that does not read its responses is not read from either,
//! and delays no other client.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::{
    FutureExt as _, Stream, StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use prost::Message as _;
use tonic::Status;

use super::{
    access::Access,
    codec::{self, Incoming},
    convert, guard,
    messages::Outgoing as _,
    reply::Reply,
    status,
};
use crate::{
    backend::{Acknowledgement, Directory, Operation, Refusal, Session, SessionEvent},
    error::{Error, Reason, Scope},
    proto::v1::{self, SessionRequest, session_request::Request, session_response::Response},
    tasks,
};

/// Most requests that are handled before an acknowledgement is sent, if they are there already: several batches share
/// one acknowledgement.
const REQUESTS_PER_ACKNOWLEDGEMENT: usize = 32;

/// Batches of at least this many bytes take longer than handing the other tasks of the thread to another one.
const LONG_BATCH_BYTES: usize = 16 << 10;

/// Most responses that wait to be sent before the next request is handled. Each is a message of up to
/// `max_message_bytes`.
const READY_RESPONSES: usize = 4;

/// Most bytes of results that wait to be sent; further batches wait until these are sent.
const READY_BYTES: usize = 256 << 10;

/// The response stream of a session.
pub(super) type Responses = BoxStream<'static, Result<Reply, Status>>;

/// A session and its stream.
struct Wire {
    directory: Directory,
    access: Access,
    /// The session; `None` until SessionStart has come.
    session: Option<Session>,
    requests: BoxStream<'static, Result<Incoming, Status>>,
    /// Whether the client may still send requests.
    open: bool,
    ready: VecDeque<Reply>,
    /// Bytes of the results in `ready`.
    ready_bytes: usize,
    /// A batch of reads for whose answer there is no room before `ready` is sent.
    postponed: Option<Incoming>,
    acknowledged: (Acknowledgement, u64),
    /// How the stream ends once `ready` is empty.
    end: Option<Result<(), Status>>,
}

/// Serves one session until its stream ends.
pub(super) fn serve(
    directory: Directory,
    access: Access,
    requests: impl Stream<Item = Result<Incoming, Status>> + Send + 'static,
) -> Responses {
    let wire = Wire {
        directory,
        access,
        session: None,
        requests: requests.boxed(),
        open: true,
        ready: VecDeque::new(),
        ready_bytes: 0,
        postponed: None,
        acknowledged: Default::default(),
        end: None,
    };
    stream::unfold(Some(wire), |wire| async move {
        let mut wire = wire?;
        let tasks = wire.directory.environment().tasks.clone();
        let next = match tasks.catch("a session", wire.next()).await {
            Ok(next) => next,
            Err(panicked) => {
                if let Some(session) = &wire.session {
                    session.end_panicked(&panicked);
                }
                Some(Err(status::panicked(&panicked)))
            }
        };
        match next {
            Some(Ok(reply)) => Some((Ok(reply), Some(wire))),
            Some(Err(status)) => Some((Err(status), None)),
            None => None,
        }
    })
    .boxed()
}

impl Wire {
    /// The next response. Cancel-safe: if dropped, nothing is lost.
    async fn next(&mut self) -> Option<Result<Reply, Status>> {
        loop {
            // Events stay in the session's outbox until they are sent: if the stream breaks, the next session gets
            // them.
            if let Some(reply) = self.ready.pop_front().or_else(|| self.take_event().map(Reply::from)) {
                return Some(Ok(reply));
            }
            // All results were taken by now.
            self.ready_bytes = 0;
            // Ordering: the postponed batch came before everything that is read after it, and before the end of the
            // stream.
            if let Some(postponed) = self.postponed.take() {
                self.received(Ok(Some(postponed))).await;
                continue;
            }
            // Ordering: the end comes after all responses, which are answers to earlier requests.
            if let Some(end) = self.end.take() {
                return end.err().map(Err);
            }
            if let Some(acknowledgement) = self.acknowledge() {
                return Some(Ok(acknowledgement.into()));
            }
            let owed = self.session.as_ref().is_some_and(Session::is_owed);
            // A client that has half-closed still gets the answers that it is owed.
            if !self.open && !owed {
                return None;
            }
            self.wait().await;
        }
    }

    /// Waits for a request or an event and handles it, together with requests that are already there.
    async fn wait(&mut self) {
        let outbox = self.session.as_ref().map(|session| session.outbox().clone());
        let changed = async {
            match &outbox {
                Some(outbox) => outbox.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            request = self.requests.try_next(), if self.open => self.received(request).await,
            () = changed => return,
        }
        for _ in 1..REQUESTS_PER_ACKNOWLEDGEMENT {
            // Bounded by number and bytes, since a client that sends and does not read would fill this otherwise.
            let full = self.ready.len() >= READY_RESPONSES || self.ready_bytes >= READY_BYTES;
            if !self.open || self.end.is_some() || full || self.postponed.is_some() {
                return;
            }
            match self.requests.try_next().now_or_never() {
                // The client is faster than this task. The connection, which reads the next requests, would wait for
                // this task, so it goes on elsewhere meanwhile.
                Some(Ok(Some(Incoming::Batch(batch)))) if batch.len() >= LONG_BATCH_BYTES => {
                    tasks::taking_long(self.handle_raw(batch)).await;
                }
                Some(request) => self.received(request).await,
                None => return,
            }
        }
    }

    async fn received(&mut self, request: Result<Option<Incoming>, Status>) {
        match request {
            Ok(Some(Incoming::Batch(batch))) => self.handle_raw(batch).await,
            Ok(Some(Incoming::Request(SessionRequest { request: Some(request) }))) => self.handle(request).await,
            Ok(Some(Incoming::Request(SessionRequest { request: None }))) => {
                let text = "a session request without contents, or with contents that this daemon does not know";
                self.finish(&Error::new(Reason::InvalidArgument, text));
            }
            Ok(None) => self.open = false,
            Err(library_says) => {
                let limit = self.directory.environment().options.limits.max_message_bytes;
                match status::refused(&library_says, limit) {
                    Some(error) => self.finish(&error),
                    None => self.end = Some(Ok(())),
                }
            }
        }
    }

    /// Applies a batch that prost has not decoded.
    async fn handle_raw(&mut self, bytes: Bytes) {
        let limits = self.directory.environment().options.limits;
        if self.session.is_some()
            && let Some((number, operations)) = codec::operations(&bytes, limits.max_batch_operations)
        {
            // Ordering: room comes before the batch is applied. An applied batch must be answered, and could not be
            // postponed any more.
            if !self.has_room(&operations) {
                self.postponed = Some(Incoming::Batch(bytes.clone()));
                return;
            }
            let Some(session) = &mut self.session else { return };
            let applied = apply(session, number, bytes.len() as u64, &operations).await;
            let handled = self.applied(number, applied);
            return self.answer(handled);
        }
        // A batch in any other form is counted before prost makes structs of it, which take far more memory than its
        // bytes.
        if let (Err(error), Some(session)) = (guard::check_batch(&bytes, &limits), &mut self.session) {
            let number = codec::number(&bytes);
            let refused = Err(session.reject(number, bytes.len() as u64, error));
            let handled = self.applied(number, refused);
            return self.answer(handled);
        }
        match codec::decode_batch(bytes) {
            Ok(batch) => self.handle(Request::Batch(batch)).await,
            Err(error) => self.finish(&Error::new(Reason::InvalidArgument, format!("a batch that is none: {error}"))),
        }
    }

    /// Whether the answers of `operations` may be read now. If nothing waits to be sent they may, since each session
    /// has memory for that of its own.
    fn has_room(&self, operations: &[Operation<'_>]) -> bool {
        if !operations.iter().any(|operation| operation.op.answers()) {
            return true;
        }
        let Some(answers) = &self.access.answers else { return true };
        let longest = self.directory.environment().options.limits.max_message_bytes as u64;
        // Memory that earlier batches acquired can be used for this one, too, since few bytes wait beside it.
        answers.0.held() >= longest || answers.0.try_acquire(longest) || self.ready.is_empty()
    }

    async fn handle(&mut self, request: Request) {
        let Some(session) = &mut self.session else {
            match self.start(request) {
                Ok(started) => self.ready.push_back(started.into()),
                Err(error) => self.finish(&error),
            }
            return;
        };
        let handled = match request {
            Request::Start(_) => {
                Err(Refusal::Over(Error::new(Reason::InvalidArgument, "SessionStart may only be the first message")))
            }
            Request::Batch(batch) => {
                // Batches that come in this form are rare, so they do not wait for memory.
                let applied = apply_decoded(session, &batch).await;
                self.applied(batch.number, applied)
            }
            Request::Barrier(barrier) => {
                let (id, cut) = (barrier.checkpoint_id, convert::barrier(&barrier));
                let taken = match convert::savepoint(&barrier) {
                    Err(error) => Err(Refusal::Request(error)),
                    Ok(Some(name)) => session.savepoint_barrier(cut, name, &self.directory),
                    Ok(None) if barrier.readable => session.readable_barrier(cut),
                    Ok(None) => session.barrier(cut),
                };
                taken.or_else(|refusal| match refusal {
                    Refusal::Request(error) => {
                        let error = Some(status::message(&error));
                        let failed = v1::CheckpointFailed { checkpoint_id: id, error };
                        self.ready.push_back(Response::CheckpointFailed(failed).into());
                        Ok(())
                    }
                    other => self.refuse(other, v1::session_halted::Refused::CheckpointId(id)),
                })
            }
            Request::Notice(notice) => convert::notice(&notice)
                .map_err(Refusal::Request)
                .and_then(|(kind, target)| session.notice(kind, target))
                .map(|outcome| {
                    let outcome = convert::to_outcome(outcome).into();
                    let reply = v1::NoticeReply { notice: Some(notice), outcome };
                    self.ready.push_back(Response::Notice(reply).into());
                }),
            Request::Resume(resume) => session.resume(resume.number),
            Request::Persist(mark) => session.persist(mark.token),
        };
        self.answer(handled);
    }

    /// Takes in the result of batch `number`.
    fn applied(&mut self, number: u64, applied: Result<Option<Reply>, Refusal>) -> Result<(), Refusal> {
        applied
            .map(|result| {
                self.ready_bytes += result.as_ref().map_or(0, Reply::len_in_bytes);
                self.ready.extend(result);
            })
            .or_else(|refusal| self.refuse(refusal, v1::session_halted::Refused::Batch(number)))
    }

    /// Answers a request, if it was refused.
    fn answer(&mut self, handled: Result<(), Refusal>) {
        match handled {
            Ok(()) => {}
            Err(Refusal::Request(error)) => self.ready.push_back(Response::Error(status::message(&error)).into()),
            Err(Refusal::Over(error) | Refusal::Halted { error, .. }) => self.finish(&error),
        }
    }

    fn start(&mut self, request: Request) -> Result<Response, Error> {
        let Request::Start(start) = request else {
            return Err(Error::new(Reason::InvalidArgument, "the first message of a session must be SessionStart"));
        };
        let (id, epoch) = convert::backend_ref(start.backend.as_ref())?;
        self.access.check(id.job.as_str())?;
        let backend = self.directory.get(&id, epoch)?;
        let mut session = Session::start(backend, epoch)?;
        self.acknowledged = session.acknowledgement();
        self.session = Some(session);
        let (acknowledgement, credit) = self.acknowledged;
        Ok(Response::Started(v1::SessionStarted { applied_to: acknowledgement.applied_to, credit }))
    }

    /// Answers a halt; other refusals are returned.
    fn refuse(&mut self, refusal: Refusal, refused: v1::session_halted::Refused) -> Result<(), Refusal> {
        let Refusal::Halted { first_failed, error } = refusal else { return Err(refusal) };
        let error = Some(status::message(&error));
        let halted = v1::SessionHalted { first_failed, error, refused: Some(refused) };
        self.ready.push_back(Response::Halted(halted).into());
        Ok(())
    }

    /// The oldest event as a response. If it is the end of the session, notes that.
    fn take_event(&mut self) -> Option<Response> {
        Some(match self.session.as_ref()?.outbox().pop()? {
            SessionEvent::CheckpointCompleted(checkpoint) => {
                Response::CheckpointCompleted(convert::to_completed(&checkpoint))
            }
            SessionEvent::SavepointMade(made) => Response::CheckpointCompleted(convert::to_savepoint_made(&made)),
            SessionEvent::JobCheckpointCompleted(part) => {
                let checkpoint = Some(convert::to_identity(&part));
                Response::JobCheckpointCompleted(v1::JobCheckpointCompleted { checkpoint })
            }
            SessionEvent::CheckpointFailed { id, error } => {
                let error = Some(status::message(&error));
                Response::CheckpointFailed(v1::CheckpointFailed { checkpoint_id: id, error })
            }
            SessionEvent::Persisted { token, persisted_to } => {
                Response::Persisted(v1::PersistReply { token, persisted_to })
            }
            SessionEvent::Ended(error) => {
                self.end = Some(Err(status::status(&error)));
                return None;
            }
        })
    }

    /// An acknowledgement, if it differs from the last one.
    fn acknowledge(&mut self) -> Option<Response> {
        let now = self.session.as_mut()?.acknowledgement();
        if now == self.acknowledged {
            return None;
        }
        self.acknowledged = now;
        Some(Response::Acknowledgement(convert::to_acknowledgement(now.0, now.1)))
    }

    /// Ends the session with `error`, whose scope becomes at least the session.
    fn finish(&mut self, error: &Error) {
        self.open = false;
        let error = match error.scope {
            Scope::Unspecified | Scope::Batch => error.clone().in_scope(Scope::Session),
            Scope::Session | Scope::Backend | Scope::Daemon => error.clone(),
        };
        self.end = Some(Err(status::status(&error)));
    }
}

/// Applies one batch that prost has decoded.
async fn apply_decoded(session: &mut Session, batch: &v1::Batch) -> Result<Option<Reply>, Refusal> {
    let bytes = batch.encoded_len() as u64;
    match convert::operations(batch) {
        Ok(operations) => apply(session, batch.number, bytes, &operations).await,
        Err(error) => Err(session.reject(batch.number, bytes, error)),
    }
}

/// Applies one batch of `bytes`.
async fn apply(
    session: &mut Session,
    number: u64,
    bytes: u64,
    operations: &[Operation<'_>],
) -> Result<Option<Reply>, Refusal> {
    Ok(session.apply(number, bytes, operations).await?.map(convert::to_reply))
}

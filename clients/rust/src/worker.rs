//! The actor of a session, which moves messages between the callers, the [`Book`] and the stream.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};

use super::{
    Acknowledged, BatchBuilder, Client, ClientError, SessionOptions,
    book::Book,
    error::{Lost, after_break, violation},
    outgoing::{Outgoing, Reply},
    session::{Ends, Failure},
    touched::Touched,
    wire::{Frame, SessionCodec},
};
use dstl_proto::v1::{
    BackendRef, Barrier, CheckpointCompleted, CheckpointIdentity, Limits, Notice, NoticeOutcome, OperationResult,
    PersistReply, SessionRequest, SessionResponse, SessionStart, SessionStarted, session_request::Request,
    session_response::Response,
};

/// Messages from callers that may wait for the worker.
const MAX_MESSAGES: usize = 1024;
/// Notices that may wait for the worker.
const MAX_NOTICES: usize = 256;
/// Messages that may wait for the connection.
const MAX_FRAMES: usize = 64;
/// The first and the longest pause between two tries to reconnect.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

const SESSION_PATH: PathAndQuery = PathAndQuery::from_static("/dstl.v1.StateBackendService/Session");

/// Requests of callers, in order.
#[derive(Debug)]
pub(super) enum Message {
    Operation(BatchBuilder, Reply<OperationResult>),
    Batch(Outgoing),
    Barrier(Barrier, Reply<CheckpointCompleted>),
    Persist(Reply<PersistReply>),
    Close(Reply<()>),
}

/// A notice, which overtakes other messages.
#[derive(Debug)]
pub(super) struct NoticeMessage {
    pub(super) notice: Notice,
    pub(super) reply: Reply<NoticeOutcome>,
}

/// One stream to the daemon.
#[derive(Debug)]
struct Link {
    /// `None` once half-closed.
    outbound: Option<mpsc::Sender<Frame>>,
    inbound: Streaming<SessionResponse>,
}

/// Whether a session is to end.
#[derive(Debug)]
enum Closing {
    Open,
    /// Everything that callers passed in is still sent; then the stream is half-closed.
    Draining(Option<Reply<()>>),
}

#[derive(Debug)]
pub(super) struct Worker {
    client: Client,
    backend: BackendRef,
    options: SessionOptions,
    messages: mpsc::Receiver<Message>,
    notices: mpsc::Receiver<NoticeMessage>,
    acknowledged: watch::Sender<Acknowledged>,
    job_completed: watch::Sender<Option<CheckpointIdentity>>,
    failure: Failure,
    book: Book,
    link: Link,
    inbox: Vec<Message>,
    /// Whether no message can come any more.
    messages_ended: bool,
    closing: Closing,
}

impl Worker {
    /// Opens the first stream. The worker does nothing until it runs.
    pub(super) async fn start(
        client: Client,
        backend: BackendRef,
        touched: Touched,
        options: SessionOptions,
    ) -> Result<(Self, Ends), ClientError> {
        let (link, started) = open_stream(&client, &backend).await?;
        let (messages, messages_of_callers) = mpsc::channel(MAX_MESSAGES);
        let (notices, notices_of_callers) = mpsc::channel(MAX_NOTICES);
        let book = Book::new(*client.limits(), touched, &started);
        let (acknowledged, watched) = watch::channel(book.acknowledged().into());
        let (job_completed, watched_job) = watch::channel(None);
        let failure = Failure::default();
        let ends =
            Ends { messages, notices, acknowledged: watched, job_completed: watched_job, failure: failure.clone() };
        let worker = Self {
            client,
            backend,
            options,
            messages: messages_of_callers,
            notices: notices_of_callers,
            acknowledged,
            job_completed,
            failure,
            book,
            link,
            inbox: Vec::new(),
            messages_ended: false,
            closing: Closing::Open,
        };
        Ok((worker, ends))
    }

    /// Serves until the session is over. All replies are then dropped, so callers that still wait get the failure.
    pub(super) async fn run(mut self) {
        loop {
            let ended = match self.serve().await {
                Ok(()) => Ok(()),
                Err(error) => match after_break(error) {
                    // Everything was answered before the stream broke, so the break changes nothing. If an answer is
                    // missing, it is that of a checkpoint, a notice or a persist request: batches are settled before
                    // the stream is half-closed.
                    Ok(_) if self.is_half_closed() && !self.book.is_owed() => Ok(()),
                    Ok(broken) if self.is_half_closed() => Err(broken),
                    Ok(broken) => match self.reconnect(broken).await {
                        Ok(()) => continue,
                        Err(error) => Err(error),
                    },
                    Err(error) => Err(error),
                },
            };
            match &ended {
                Ok(()) => tracing::debug!("session closed"),
                Err(error) => tracing::debug!(%error, "session ended"),
            }
            // Ordering: the failure is set before any reply is dropped, which happens when this returns. A caller whose
            // reply is dropped asks for the failure at once.
            self.failure.set(ended.clone().err().unwrap_or(ClientError::Closed));
            if let Closing::Draining(Some(reply)) = self.closing {
                let _ = reply.send(ended);
            }
            return;
        }
    }

    /// Moves messages until the stream ends; `Ok` if it ended in order.
    async fn serve(&mut self) -> Result<(), ClientError> {
        loop {
            self.half_close_if_drained();
            let can_send = self.book.can_send() && self.link.outbound.is_some();
            // A full book takes nothing more from callers, so they wait in `send`. That is how the daemon's push-back
            // reaches a task.
            let has_room = self.book.has_room() && !self.messages_ended;
            // Ordering: answers come first. They free credit and room in the window, and a stream that is not read
            // makes the daemon hold back. Notices overtake other messages. Sending comes last: answers are to messages
            // that were sent, so they cannot keep it waiting for ever.
            tokio::select! { biased;
                response = self.link.inbound.message() => match response? {
                    Some(response) => self.on_response(response)?,
                    None if self.is_half_closed() && !self.book.is_owed() => return Ok(()),
                    None => return Err(tonic::Status::unavailable("the stream ended").into()),
                },
                Some(NoticeMessage { notice, reply }) = self.notices.recv(), if !self.is_half_closed() => {
                    self.book.add_notice(notice, reply);
                }
                count = self.messages.recv_many(&mut self.inbox, MAX_MESSAGES), if has_room => self.on_messages(count),
                is_open = room(self.link.outbound.as_ref()), if can_send => match is_open {
                    true => self.send_what_fits(),
                    // The stream has ended; `inbound` has the reason.
                    false => self.link.outbound = None,
                }
            }
        }
    }

    /// Sends as much as credit covers and the connection has room for.
    fn send_what_fits(&mut self) {
        let Some(outbound) = &self.link.outbound else { return };
        while self.book.can_send()
            && let Ok(permit) = outbound.try_reserve()
        {
            match self.book.take_next() {
                Some(frame) => permit.send(frame),
                None => return,
            }
        }
    }

    fn on_messages(&mut self, count: usize) {
        if count == 0 {
            self.messages_ended = true;
            // Every handle is gone, or `close` was called before. In the second case its reply stays.
            if matches!(self.closing, Closing::Open) {
                self.closing = Closing::Draining(None);
            }
        }
        for message in self.inbox.drain(..) {
            match message {
                Message::Operation(operation, reply) => self.book.add_operation(&operation, reply),
                Message::Batch(outgoing) => self.book.add_batch(outgoing),
                Message::Barrier(barrier, reply) => self.book.add_barrier(barrier, reply),
                Message::Persist(reply) => self.book.add_persist(reply),
                Message::Close(reply) => {
                    // Messages that are in the channel already still come, and then it ends.
                    self.messages.close();
                    if matches!(self.closing, Closing::Open) {
                        self.closing = Closing::Draining(Some(reply));
                    }
                }
            }
        }
    }

    fn on_response(&mut self, response: SessionResponse) -> Result<(), ClientError> {
        match response.response.ok_or_else(|| violation("a response without content"))? {
            Response::Started(_) => return Err(violation("a second `SessionStarted`")),
            Response::Acknowledgement(acknowledgement) => {
                self.book.on_acknowledgement(&acknowledgement)?;
                self.publish();
            }
            Response::Result(result) => self.book.on_result(result)?,
            Response::CheckpointCompleted(completed) => self.book.on_checkpoint_completed(completed),
            Response::JobCheckpointCompleted(completed) => self.on_job_completed(completed.checkpoint),
            Response::CheckpointFailed(failed) => self.book.on_checkpoint_failed(failed),
            Response::Halted(halted) => self.book.on_halted(halted)?,
            Response::Notice(answer) => self.book.on_notice_reply(&answer),
            Response::Persisted(answer) => self.book.on_persisted(answer),
            Response::Error(error) => self.book.on_error(error.into()),
        }
        Ok(())
    }

    fn on_job_completed(&self, checkpoint: Option<CheckpointIdentity>) {
        self.job_completed.send_if_modified(|before| std::mem::replace(before, checkpoint.clone()) != checkpoint);
    }

    fn publish(&self) {
        let now = Acknowledged::from(self.book.acknowledged());
        self.acknowledged.send_if_modified(|before| std::mem::replace(before, now) != now);
    }

    /// If nothing waits and every batch is settled, a halt has nothing left to put back, so the stream can be
    /// half-closed.
    fn half_close_if_drained(&mut self) {
        if self.messages_ended && self.notices.is_empty() && self.book.is_settled() {
            self.link.outbound = None;
        }
    }

    fn is_half_closed(&self) -> bool {
        self.link.outbound.is_none() && self.messages_ended && self.book.is_settled()
    }

    /// Opens a new stream on the same daemon instance, or returns the reason why the session is lost.
    async fn reconnect(&mut self, broken: ClientError) -> Result<(), ClientError> {
        tracing::info!(error = %broken, "session stream broke");
        // Ordering: the book forgets the old stream before there is a new one. An answer that was due on the old stream
        // would else be expected on the new one.
        self.book.on_break();
        let deadline = Instant::now() + self.options.reconnect_timeout;
        let mut pause = FIRST_PAUSE;
        let mut last = broken;
        loop {
            match timeout_at(deadline, self.try_reconnect()).await {
                Ok(Ok(started)) => {
                    // Ordering: applied batches are settled before callers see the new acknowledgement.
                    self.book.on_started(&started)?;
                    self.publish();
                    return Ok(());
                }
                Ok(Err(error)) => last = after_break(error)?,
                Err(_) => {
                    let waited = self.options.reconnect_timeout;
                    return Err(ClientError::SessionLost(Lost::Unreachable { waited, last: Box::new(last) }));
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_reconnect(&mut self) -> Result<SessionStarted, ClientError> {
        // Ordering: the instance is asked before the stream is opened. Another process has lost the state since the
        // last checkpoint, so batches sent to it would leave a hole.
        let is = self.client.hello().await?.daemon_instance;
        let was = self.client.daemon_instance();
        if is != was {
            return Err(ClientError::SessionLost(Lost::DaemonRestarted { was: was.to_owned(), is }));
        }
        let (link, started) = open_stream(&self.client, &self.backend).await?;
        self.link = link;
        Ok(started)
    }
}

/// Waits for room to send one frame; `false` if the stream accepts no more.
async fn room(outbound: Option<&mpsc::Sender<Frame>>) -> bool {
    match outbound {
        // The permit is given back at once. No one else sends on this channel, so the room is still there afterwards.
        Some(outbound) => outbound.reserve().await.is_ok(),
        None => false,
    }
}

/// Opens a session stream and reads its first message.
async fn open_stream(client: &Client, backend: &BackendRef) -> Result<(Link, SessionStarted), ClientError> {
    let (outbound, frames) = mpsc::channel(MAX_FRAMES);
    let start = Request::Start(SessionStart { backend: Some(backend.clone()) });
    let first = Frame::Request(SessionRequest { request: Some(start) });
    // Ordering: the first message is in the channel before the call begins, so the daemon never waits for it.
    outbound.try_send(first).expect("a new channel has room");

    let mut grpc = grpc(client.channel(), client.limits());
    grpc.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let request = tonic::Request::new(ReceiverStream::new(frames));
    let mut inbound = grpc.streaming(request, SESSION_PATH, SessionCodec).await?.into_inner();
    match inbound.message().await?.and_then(|first| first.response) {
        Some(Response::Started(started)) => Ok((Link { outbound: Some(outbound), inbound }, started)),
        Some(Response::Error(error)) => Err(error.into()),
        Some(_) => Err(violation("a first message other than `SessionStarted`")),
        None => Err(tonic::Status::unavailable("the stream ended before `SessionStarted`").into()),
    }
}

fn grpc(channel: Channel, limits: &Limits) -> Grpc<Channel> {
    let most = usize::try_from(limits.max_message_bytes).unwrap_or(usize::MAX);
    Grpc::new(channel).max_decoding_message_size(most).max_encoding_message_size(most)
}

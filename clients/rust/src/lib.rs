//! The Rust client library: connect to a daemon, open a backend, write and read its state, checkpoint.
//!
//! The story of a task:
//!
//! ```no_run
//! use dstl_client::{Client, ClientError, OpenOptions, StateOptions};
//! use dstl_client::types::MergeFunction;
//!
//! # async fn task(words: Vec<String>) -> Result<(), ClientError> {
//! // Open the state of the last attempt: every start of a task has a higher attempt.
//! let client = Client::connect("/run/dstl/dstl.sock").await?;
//! let backend = client.open(OpenOptions::new("word-count", "count").attempt(3)).await?;
//! let offsets = backend.attachment().clone(); // where to read on
//!
//! let sums = StateOptions::new().with_merge(MergeFunction::SumI64);
//! let counts = backend.value_state::<String, i64>("counts", sums).await?;
//! let session = backend.session().await?;
//!
//! // Bulk: batches are pipelined, `send` waits only for credit.
//! for (checkpoint, chunk) in (1..).zip(words.chunks(500)) {
//!     let mut batch = session.batch();
//!     for word in chunk {
//!         batch.push(counts.merge(word, &1));
//!     }
//!     session.send(batch).await?;
//!     // A cut exactly here; it completes while the next batches go on.
//!     let pending = session.barrier(checkpoint, offsets.clone()).await?;
//!     let completed = pending.await?;
//!     if let Some(identity) = &completed.checkpoint {
//!         session.complete(identity).await?;
//!     }
//! }
//!
//! // One operation at a time; those of concurrent tasks share batches.
//! println!("{:?}", session.run(counts.get("flink")).await?);
//!
//! session.close().await?;
//! backend.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Session`] documents how it handles rejected batches and broken streams.
//!
//! # States
//!
//! [`Backend`] registers states and returns typed handles; [`StateOptions`] are the options of states.
//!
//! | handle | keeps, per key and namespace | read by pages ([`Scan`]) |
//! | --- | --- | --- |
//! | [`ValueState`] | one value; with a merge function of the daemon, sums, counts, sketches … | |
//! | [`AggregatingState`], [`ReducingState`] | the result of a function of the task over its inputs | |
//! | [`MapState`] | a map, in order of its keys | entries, ranges, prefixes |
//! | [`ListState`] | a list | elements |
//! | [`TimerState`] | times | those that are due, for all keys |
//!
//! [Keys](ValueState::keys) of every state are read by pages, too. Operator state is a [`ListState`] or [`MapState`]
//! with the key `&()`: [`Backend::operator_list`], [`Backend::broadcast_map`].
//!
//! The methods of a handle make operations ([`Op`]). An operation is pushed into a [`BatchBuilder`] (bulk: one batch,
//! one answer), or [run](Session::run) by itself; operations that run at the same time share batches.
//!
//! The folder `examples` of the repository has whole tasks: windows, sessions, a join, deduplication, a buffering sink.

#![expect(
    clippy::disallowed_methods,
    reason = "the client has no supervised tasks: they tell of their end by channels"
)]

mod aggregate;
mod backend;
mod batch;
mod book;
mod codec;
mod declare;
mod error;
mod fold;
mod migration;
mod op;
mod open;
mod outgoing;
mod peer;
mod query;
mod scan;
mod session;
mod state;
mod timer;
mod touched;
mod ttl;
mod wire;
mod worker;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use dstl_proto::{self as proto, types};

use std::{path::Path, sync::Arc};

use hyper_util::rt::TokioIo;
use tonic::{
    IntoRequest,
    transport::{Channel, Endpoint, Uri},
};

use dstl_proto::v1::{
    ApplyBatchRequest, ApplyBatchResponse, BackendDescription, BackendRef, Barrier, Batch, CheckpointCompleted,
    CheckpointIdentity, CheckpointRequest, CloseRequest, DeclareJobResponse, DescribeRequest, HelloRequest,
    HelloResponse, Limits, Notice, NoticeOutcome, NotifyRequest, OpenedPart, PersistRequest, PinRequest,
    ReadCheckpointRequest, ReadCheckpointResponse, ReleaseRequest, Restoring, open_response::Response,
    state_backend_service_client::StateBackendServiceClient,
};

pub use self::{
    aggregate::Average,
    backend::Backend,
    batch::{Applied, BatchBuilder, RawOperation, Slot},
    codec::{Decode, Encode, Ordered},
    declare::JobDeclaration,
    error::{ClientError, DaemonError, Lost, Reason, Scope},
    fold::{Aggregate, AggregatingState, BoundAggregate, Reduce, ReducingState},
    migration::{OldEntries, OldKey},
    op::{Form, Op},
    open::{ClaimMode, InnerBackend, KeyGroupAssignment, OpenOptions, Restore, Retention},
    query::Query,
    scan::{Scan, StoredKey},
    session::{Acknowledged, PendingCheckpoint, Receipt, Session, SessionOptions},
    state::{ListState, MapState, State, StateOptions, TimerState, ValueState},
    timer::{Fired, Timer},
};

const PROTOCOL: u32 = 1;
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
const FRAME_BYTES: u32 = 1 << 20;
/// Number of requests that tonic queues between its handle and the connection.
const REQUEST_BUFFER: usize = 1024;

/// A connection to one daemon. Cheap to clone; it reconnects by itself.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    stub: StateBackendServiceClient<Channel>,
    hello: Arc<HelloResponse>,
    limits: Limits,
}

impl Client {
    /// Connects to the Unix socket at `path`. It must be served by this user, by root, or by the owner of folders that
    /// root made for it.
    ///
    /// # Errors
    /// [`ClientError::Connect`] if there is no server or another user's; or the reason why the daemon refused the
    /// protocol version.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path: Arc<Path> = path.as_ref().into();
        let name = path.display().to_string();
        // This runs for every connection, so a reconnect is checked like the first one.
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { peer::connect(&path).await.map(TokioIo::new) }
        });
        let endpoint = tuned(Endpoint::from_static("http://localhost"));
        let channel = endpoint.connect_with_connector(connector).await;
        Self::over(channel.map_err(|source| ClientError::Connect { endpoint: name, source: Arc::new(source) })?).await
    }

    /// Connects over TCP, for example to `http://127.0.0.1:7000`.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn connect_tcp(url: &str) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { endpoint: url.to_owned(), source: Arc::new(source) };
        let endpoint = tuned(Endpoint::from_shared(url.to_owned()).map_err(failed)?).tcp_nodelay(true);
        Self::over(endpoint.connect().await.map_err(failed)?).await
    }

    /// Uses a connection that the caller made, for example one with TLS. It should have large HTTP/2 windows.
    ///
    /// # Errors
    /// The error of the first call, or the reason why the daemon refused the protocol version.
    pub async fn over(channel: Channel) -> Result<Self, ClientError> {
        let mut stub = StateBackendServiceClient::new(channel.clone());
        let hello = stub.hello(hello_request()).await?.into_inner();
        let limits = hello.limits.ok_or(ClientError::Incomplete("limits"))?;
        let most = usize::try_from(limits.max_message_bytes).unwrap_or(usize::MAX);
        let stub = stub.max_decoding_message_size(most).max_encoding_message_size(most);
        Ok(Self { channel, stub, hello: Arc::new(hello), limits })
    }

    /// The limits of the daemon.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The instance id of the daemon process that answered the first call; each process has its own.
    #[must_use]
    pub fn daemon_instance(&self) -> &str {
        &self.hello.daemon_instance
    }

    /// Everything that the daemon told in `Hello`: version, features.
    #[must_use]
    pub fn daemon(&self) -> &HelloResponse {
        &self.hello
    }

    pub(crate) fn stub(&self) -> StateBackendServiceClient<Channel> {
        self.stub.clone()
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Calls `Hello` again. Cancel-safe, like all calls here that change nothing or are idempotent.
    ///
    /// # Errors
    /// The error of the daemon, or of the call; the same for all calls here.
    pub async fn hello(&self) -> Result<HelloResponse, ClientError> {
        Ok(self.stub().hello(hello_request()).await?.into_inner())
    }

    /// Opens a backend: fences every earlier owner and restores. Dropping the call ends the restore.
    ///
    /// # Errors
    /// As for all calls; [`ClientError::Fenced`] if a higher attempt has it.
    pub async fn open(&self, options: OpenOptions) -> Result<Backend, ClientError> {
        self.open_with(options, |_| {}).await
    }

    /// Like [`open`](Self::open); calls `progress` about once a second with the progress of the restore.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn open_with(
        &self,
        options: OpenOptions,
        mut progress: impl FnMut(Restoring) + Send,
    ) -> Result<Backend, ClientError> {
        let mut stream = self.stub().open(options.into_request()).await?.into_inner();
        let mut before = OpenedPart::default();
        while let Some(message) = stream.message().await? {
            match message.response {
                Some(Response::Restoring(restoring)) => progress(restoring),
                Some(Response::Part(part)) => {
                    before.states.extend(part.states);
                    before.parts.extend(part.parts);
                    before.skipped.extend(part.skipped);
                }
                Some(Response::Opened(mut opened)) => {
                    opened.states.splice(..0, before.states);
                    opened.parts.splice(..0, before.parts);
                    opened.skipped.splice(..0, before.skipped);
                    return Backend::new(self.clone(), opened);
                }
                None => return Err(ClientError::Incomplete("content while opening")),
            }
        }
        Err(ClientError::Incomplete("the opened backend"))
    }

    /// Begins an attempt of a job and declares its tasks, so that the daemons coordinate its checkpoints. Call it in
    /// every task, before the task opens with this attempt. Idempotent and cancel-safe.
    ///
    /// # Errors
    /// As for all calls; [`ClientError::Fenced`] if a later attempt has begun.
    pub async fn declare_job(&self, declaration: JobDeclaration) -> Result<DeclareJobResponse, ClientError> {
        Ok(self.stub().declare_job(declaration.into_request()).await?.into_inner())
    }

    /// Describes one backend, or with `None` all of this daemon.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn describe(&self, backend: Option<&BackendRef>) -> Result<Vec<BackendDescription>, ClientError> {
        let mut request = DescribeRequest { backend: backend.cloned(), page_token: bytes::Bytes::new() };
        let mut described: Vec<BackendDescription> = vec![];
        loop {
            let page = self.stub().describe(request.clone()).await?.into_inner();
            for description in page.backends {
                // A backend with many states goes over several pages, which follow each other.
                match described.last_mut() {
                    Some(last) if last.backend == description.backend => last.states.extend(description.states),
                    _ => described.push(description),
                }
            }
            if page.next_page_token.is_empty() {
                return Ok(described);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Applies one batch without a session; with `numbered`, its number is checked. Cancel-safe only if numbered.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn apply_batch(
        &self,
        backend: &BackendRef,
        batch: Batch,
        numbered: bool,
    ) -> Result<ApplyBatchResponse, ClientError> {
        let request = ApplyBatchRequest { backend: Some(backend.clone()), batch: Some(batch), numbered };
        Ok(self.stub().apply_batch(request).await?.into_inner())
    }

    /// Makes one checkpoint of everything applied before, without a session. Not cancel-safe.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn checkpoint(&self, backend: &BackendRef, barrier: Barrier) -> Result<CheckpointCompleted, ClientError> {
        let request = CheckpointRequest { backend: Some(backend.clone()), barrier: Some(barrier) };
        let response = self.stub().checkpoint(request.into_request()).await?.into_inner();
        response.checkpoint.ok_or(ClientError::Incomplete("the checkpoint"))
    }

    /// Reads a checkpoint: its header, then pages of its entries, key group by key group. Needs no ownership.
    /// Cancel-safe.
    ///
    /// # Errors
    /// As for all calls, and those of the stream as [`tonic::Status`].
    pub async fn read_checkpoint(
        &self,
        request: ReadCheckpointRequest,
    ) -> Result<tonic::Streaming<ReadCheckpointResponse>, ClientError> {
        Ok(self.stub().read_checkpoint(request).await?.into_inner())
    }

    /// Tells the daemon the outcome of a checkpoint.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn notify(&self, backend: &BackendRef, notice: Notice) -> Result<NoticeOutcome, ClientError> {
        let request = NotifyRequest { backend: Some(backend.clone()), notice: Some(notice) };
        Ok(self.stub().notify(request).await?.into_inner().outcome())
    }

    /// Makes everything that was applied before durable; returns `persisted_to`.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn persist(&self, backend: &BackendRef) -> Result<u64, ClientError> {
        let request = PersistRequest { backend: Some(backend.clone()) };
        Ok(self.stub().persist(request).await?.into_inner().persisted_to)
    }

    /// Pins a checkpoint, which keeps it until it is released.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn pin(&self, backend: &BackendRef, checkpoint: &CheckpointIdentity) -> Result<(), ClientError> {
        let request = PinRequest { backend: Some(backend.clone()), checkpoint: Some(checkpoint.clone()) };
        self.stub().pin(request).await?;
        Ok(())
    }

    /// Removes a pin; returns whether there was one.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn release(&self, backend: &BackendRef, checkpoint: &CheckpointIdentity) -> Result<bool, ClientError> {
        let request = ReleaseRequest { backend: Some(backend.clone()), checkpoint: Some(checkpoint.clone()) };
        Ok(self.stub().release(request).await?.into_inner().released)
    }

    /// Ends an owner; returns whether the daemon had the backend.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn close(&self, backend: &BackendRef) -> Result<bool, ClientError> {
        let request = CloseRequest { backend: Some(backend.clone()) };
        Ok(self.stub().close(request).await?.into_inner().closed)
    }
}

fn hello_request() -> HelloRequest {
    let client = concat!("dstl-rust/", env!("CARGO_PKG_VERSION")).to_owned();
    HelloRequest { protocol_min: PROTOCOL, protocol_max: PROTOCOL, client }
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .buffer_size(REQUEST_BUFFER)
}

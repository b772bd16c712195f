//! The floor of `update`: a server of the same messages on bare tonic, which reads them with dstl's own decoder, puts
//! the bytes into a hash table, or into RocksDB without its log, and appends them to a buffer. It checks nothing, takes
//! no checkpoints, and has no store.
//!
//! ```text
//!   tonic ─▶ whole messages ─▶ batch, read in place ─▶ buffer
//!                                       └────────────▶ hash table (`map`), or RocksDB (`disk`)
//! ```
//!
//! It does what makes dstl fast on this way: prost decodes rare messages only, batches that are there share an
//! acknowledgement, and the look-ups of a batch wait for memory together. A simpler server is slower, and no limit.

#[cfg(feature = "rocksdb")]
mod disk;
mod map;
mod table;

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use dstl::proto::v1::{
    self as pb, SessionRequest, SessionResponse,
    session_request::Request as Ask,
    session_response::Response as Answer,
    state_backend_service_server::{StateBackendService, StateBackendServiceServer},
};
use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use prost::Message as _;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http,
    server::{Grpc, NamedService},
    transport::Server,
};
use tower::Service;

use self::table::Table;
use super::{Fault, echo::incoming};

const SESSION_PATH: &str = "/dstl.v1.StateBackendService/Session";

/// Limits of HTTP/2, those of a daemon with much memory.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
const FRAME_BYTES: u32 = 64 << 10;

/// Most messages that share an acknowledgement, as in the daemon.
const ASKS_PER_ACKNOWLEDGEMENT: usize = 32;

/// Serves until the process is killed; from RocksDB if there is a folder for it.
pub(crate) async fn serve(socket: &Path, folder: Option<&Path>) -> Result<(), Fault> {
    let floor = Floor { folder: folder.map(Path::to_owned) };
    let service = Routed { others: StateBackendServiceServer::new(floor.clone()), floor };
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .add_service(service)
        .serve_with_incoming(incoming(socket)?)
        .await?;
    Ok(())
}

#[derive(Clone)]
struct Floor {
    folder: Option<PathBuf>,
}

/// The generated service, except for sessions: their messages stay as they came.
#[derive(Clone)]
struct Routed {
    others: StateBackendServiceServer<Floor>,
    floor: Floor,
}

impl NamedService for Routed {
    const NAME: &'static str = <StateBackendServiceServer<Floor> as NamedService>::NAME;
}

impl Service<http::Request<Body>> for Routed {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != SESSION_PATH {
            return self.others.call(request);
        }
        let floor = self.floor.clone();
        Box::pin(async move { Ok(Grpc::new(SessionCodec).streaming(floor, request).await) })
    }
}

/// Passes on each message of a client as its bytes.
#[derive(Debug, Clone, Copy, Default)]
struct SessionCodec;

impl Codec for SessionCodec {
    type Decode = Bytes;
    type Decoder = Self;
    type Encode = SessionResponse;
    type Encoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Decoder for SessionCodec {
    type Error = Status;
    type Item = Bytes;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(bytes.copy_to_bytes(bytes.remaining())))
    }
}

impl Encoder for SessionCodec {
    type Error = Status;
    type Item = SessionResponse;

    fn encode(&mut self, response: SessionResponse, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        response.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

/// A session on its way.
struct Session {
    asks: stream::Fuse<Streaming<Bytes>>,
    table: Table,
    ready: VecDeque<Answer>,
    acknowledged_to: u64,
}

impl Session {
    async fn next(&mut self) -> Result<Option<Answer>, Status> {
        loop {
            if let Some(answer) = self.ready.pop_front() {
                return Ok(Some(answer));
            }
            if self.table.applied_to() > self.acknowledged_to {
                self.acknowledged_to = self.table.applied_to();
                return Ok(Some(self.table.acknowledgement()));
            }
            let Some(ask) = self.asks.try_next().await? else { return Ok(None) };
            self.take(&ask)?;
            for _ in 1..ASKS_PER_ACKNOWLEDGEMENT {
                let Some(Some(ask)) = self.asks.try_next().now_or_never().transpose()? else { break };
                self.take(&ask)?;
            }
        }
    }

    fn take(&mut self, ask: &Bytes) -> Result<(), Status> {
        if let Some(result) = self.table.batch(ask)? {
            self.ready.extend((!result.results.is_empty()).then_some(Answer::Result(result)));
            return Ok(());
        }
        let ask = SessionRequest::decode(&**ask).map_err(|error| Status::invalid_argument(error.to_string()))?;
        match ask.request {
            Some(Ask::Start(_)) => {
                let started = pb::SessionStarted { applied_to: 0, credit: table::CREDIT };
                self.ready.push_back(Answer::Started(started));
            }
            Some(Ask::Persist(mark)) => {
                let persisted = pb::PersistReply { token: mark.token, persisted_to: self.table.applied_to() };
                self.ready.push_back(Answer::Persisted(persisted));
            }
            // Batches of generated code alone come here.
            _ => return Err(Status::unimplemented("the floor does not have it")),
        }
        Ok(())
    }
}

impl Service<Request<Streaming<Bytes>>> for Floor {
    type Response = Response<Answers<SessionResponse>>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let session = |table| {
            let asks = request.into_inner().fuse();
            let session = Session { asks, table, ready: VecDeque::new(), acknowledged_to: 0 };
            let answers = stream::try_unfold(session, |mut session| async {
                let answer = session.next().await?;
                Ok(answer.map(|answer| (SessionResponse { response: Some(answer) }, session)))
            });
            Response::new(answers.boxed())
        };
        ready(Table::open(self.folder.as_deref()).map(session))
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Calls that the floor does not have, as `async_trait` writes them.
macro_rules! without {
    ($($name:ident($request:ident) -> $response:ident),* $(,)?) => {
        $(fn $name<'a, 'f>(&'a self, _: Request<pb::$request>) -> BoxFuture<'f, Result<Response<pb::$response>, Status>>
        where
            'a: 'f,
            Self: 'f,
        {
            ready(Err(Status::unimplemented("the floor does not have it"))).boxed()
        })*
    };
}

#[tonic::async_trait]
impl StateBackendService for Floor {
    type OpenStream = Answers<pb::OpenResponse>;
    type QueryStream = Answers<pb::QueryResponse>;
    type ReadCheckpointStream = Answers<pb::ReadCheckpointResponse>;
    type SessionStream = Answers<SessionResponse>;

    async fn hello(&self, _: Request<pb::HelloRequest>) -> Result<Response<pb::HelloResponse>, Status> {
        let limits = pb::Limits {
            max_message_bytes: 4 << 20,
            max_key_bytes: 1 << 15,
            max_value_bytes: 1 << 20,
            max_batch_operations: 1 << 20,
            ..Default::default()
        };
        let daemon_instance = "floor".to_owned();
        let hello = pb::HelloResponse { protocol: 1, daemon_instance, limits: Some(limits), ..Default::default() };
        Ok(Response::new(hello))
    }

    async fn open(&self, request: Request<pb::OpenRequest>) -> Result<Response<Self::OpenStream>, Status> {
        let epoch = Some(pb::Epoch { number: 1, owner: vec![1; 16].into() });
        let backend = Some(pb::BackendRef { id: request.into_inner().backend, epoch });
        let opened = pb::open_response::Response::Opened(pb::Opened { backend, ..Default::default() });
        Ok(Response::new(Box::pin(stream::iter([Ok(pb::OpenResponse { response: Some(opened) })]))))
    }

    async fn register_states(
        &self,
        request: Request<pb::RegisterStatesRequest>,
    ) -> Result<Response<pb::RegisterStatesResponse>, Status> {
        let states = (1..).zip(request.into_inner().states);
        let states =
            states.map(|(id, state)| pb::RegisteredState { id, descriptor: Some(state), ..Default::default() });
        Ok(Response::new(pb::RegisterStatesResponse { states: states.collect() }))
    }

    async fn session(&self, _: Request<Streaming<SessionRequest>>) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented("sessions are served elsewhere"))
    }

    async fn read_checkpoint(
        &self,
        _: Request<pb::ReadCheckpointRequest>,
    ) -> Result<Response<Self::ReadCheckpointStream>, Status> {
        Err(Status::unimplemented("the floor has no store"))
    }

    async fn query(&self, _: Request<Streaming<pb::QueryRequest>>) -> Result<Response<Self::QueryStream>, Status> {
        Err(Status::unimplemented("the floor does not have it"))
    }

    async fn close(&self, _: Request<pb::CloseRequest>) -> Result<Response<pb::CloseResponse>, Status> {
        Ok(Response::new(pb::CloseResponse::default()))
    }

    without! {
        apply_batch(ApplyBatchRequest) -> ApplyBatchResponse,
        checkpoint(CheckpointRequest) -> CheckpointResponse,
        notify(NotifyRequest) -> NotifyResponse,
        persist(PersistRequest) -> PersistResponse,
        pin(PinRequest) -> PinResponse,
        release(ReleaseRequest) -> ReleaseResponse,
        materialize(MaterializeRequest) -> MaterializeResponse,
        describe(DescribeRequest) -> DescribeResponse,
        discard(DiscardRequest) -> DiscardResponse,
        describe_job(DescribeJobRequest) -> DescribeJobResponse,
        declare_job(DeclareJobRequest) -> DeclareJobResponse,
    }
}

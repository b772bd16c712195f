//! The floor of `update`: a server of the same messages on bare tonic, which decodes them, puts the bytes into a hash
//! map, or into RocksDB without its log, and appends them to a buffer. It checks nothing, takes no checkpoints, and has
//! no store.

use std::{
    collections::VecDeque,
    future::ready,
    path::{Path, PathBuf},
    pin::Pin,
};

use bytes::Bytes;
use dstl::proto::v1::{
    self as pb, OperationKind, SessionRequest, SessionResponse,
    session_request::Request as Ask,
    session_response::Response as Answer,
    state_backend_service_server::{StateBackendService, StateBackendServiceServer},
};
use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture, stream};
use hashbrown::HashMap;
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::{Fault, echo::incoming};

/// Credit of a session, as the daemon gives it.
const CREDIT: u64 = 32 << 20;

/// The log is forgotten beyond so many bytes.
const LOG_BYTES: usize = 64 << 20;

/// Serves until the process is killed; from RocksDB if there is a folder for it.
pub(crate) async fn serve(socket: &Path, folder: Option<&Path>) -> Result<(), Fault> {
    let service = StateBackendServiceServer::new(Floor { folder: folder.map(Path::to_owned) });
    Server::builder().add_service(service).serve_with_incoming(incoming(socket)?).await?;
    Ok(())
}

#[derive(Clone)]
struct Floor {
    folder: Option<PathBuf>,
}

/// All that a session has.
struct Table {
    entries: Entries,
    log: Vec<u8>,
    used: u64,
    applied_to: u64,
}

/// Where the entries are.
enum Entries {
    Map(HashMap<Bytes, Bytes>),
    #[cfg(feature = "rocksdb")]
    Disk(disk::Disk),
}

impl Entries {
    fn open(folder: Option<&Path>) -> Result<Self, Status> {
        match folder {
            None => Ok(Self::Map(HashMap::new())),
            #[cfg(feature = "rocksdb")]
            Some(folder) => Ok(Self::Disk(disk::Disk::open(folder)?)),
            #[cfg(not(feature = "rocksdb"))]
            Some(_) => Err(Status::unimplemented("this build has no RocksDB")),
        }
    }

    fn get(&self, key: &Bytes) -> Result<Option<Bytes>, Status> {
        match self {
            Self::Map(entries) => Ok(entries.get(key).cloned()),
            #[cfg(feature = "rocksdb")]
            Self::Disk(disk) => disk.get(key),
        }
    }

    /// Puts a value; on disk not before the end of the batch.
    fn put(&mut self, key: &Bytes, value: &Bytes) {
        match self {
            Self::Map(entries) => {
                // Copies: the bytes of the message would hold all of it.
                let value = Bytes::copy_from_slice(value);
                match entries.get_mut(key) {
                    Some(entry) => *entry = value,
                    None => _ = entries.insert(Bytes::copy_from_slice(key), value),
                }
            }
            #[cfg(feature = "rocksdb")]
            Self::Disk(disk) => disk.put(key, value),
        }
    }

    fn end_batch(&mut self) -> Result<(), Status> {
        match self {
            Self::Map(_) => Ok(()),
            #[cfg(feature = "rocksdb")]
            Self::Disk(disk) => disk.end_batch(),
        }
    }
}

/// RocksDB with its own defaults, but for the log that a changelog makes superfluous.
#[cfg(feature = "rocksdb")]
mod disk {
    use std::path::Path;

    use bytes::Bytes;
    use rocksdb::{DB, Options, WriteBatch, WriteOptions};
    use tonic::Status;

    pub(super) struct Disk {
        db: DB,
        batch: WriteBatch,
    }

    impl Disk {
        pub(super) fn open(folder: &Path) -> Result<Self, Status> {
            // Sessions come one after the other, and each begins with nothing.
            let _ = std::fs::remove_dir_all(folder);
            let mut options = Options::default();
            options.create_if_missing(true);
            let db = DB::open(&options, folder).map_err(|error| status(&error))?;
            Ok(Self { db, batch: WriteBatch::default() })
        }

        pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Status> {
            self.db.get(key).map(|value| value.map(Bytes::from)).map_err(|error| status(&error))
        }

        pub(super) fn put(&mut self, key: &[u8], value: &[u8]) {
            self.batch.put(key, value);
        }

        pub(super) fn end_batch(&mut self) -> Result<(), Status> {
            let mut options = WriteOptions::default();
            options.disable_wal(true);
            let batch = std::mem::take(&mut self.batch);
            self.db.write_opt(batch, &options).map_err(|error| status(&error))
        }
    }

    fn status(error: &rocksdb::Error) -> Status {
        Status::internal(error.to_string())
    }
}

impl Table {
    fn open(folder: Option<&Path>) -> Result<Self, Status> {
        Ok(Self { entries: Entries::open(folder)?, log: vec![], used: 0, applied_to: 0 })
    }

    fn batch(&mut self, batch: pb::Batch) -> Result<Vec<Answer>, Status> {
        let number = batch.number;
        self.used += batch.encoded_len() as u64;
        let mut results = vec![];
        for (at, operation) in (0..).zip(batch.operations) {
            if operation.kind == i32::from(OperationKind::Get) {
                let value = self.entries.get(&operation.key)?;
                let found = value.is_some();
                let value = value.unwrap_or_default();
                results.push(pb::OperationResult { operation: at, found, value, ..Default::default() });
                continue;
            }
            self.log.extend_from_slice(&operation.key);
            self.log.extend_from_slice(&operation.value);
            self.entries.put(&operation.key, &operation.value);
        }
        self.entries.end_batch()?;
        if self.log.len() > LOG_BYTES {
            self.log.clear();
        }
        self.applied_to = number + 1;
        let result = Answer::Result(pb::BatchResult { number, results, repeated_batch: false });
        let answered = matches!(&result, Answer::Result(result) if !result.results.is_empty());
        Ok(answered.then_some(result).into_iter().chain([self.acknowledgement()]).collect())
    }

    fn acknowledgement(&self) -> Answer {
        let (to, credit) = (self.applied_to, self.used + CREDIT);
        Answer::Acknowledgement(pb::Acknowledgement { applied_to: to, persisted_to: to, confirmed_to: to, credit })
    }

    fn answers(&mut self, ask: Ask) -> Result<Vec<Answer>, Status> {
        Ok(match ask {
            Ask::Start(_) => vec![Answer::Started(pb::SessionStarted { applied_to: 0, credit: CREDIT })],
            Ask::Batch(batch) => self.batch(batch)?,
            Ask::Persist(mark) => {
                let persisted_to = self.applied_to;
                vec![Answer::Persisted(pb::PersistReply { token: mark.token, persisted_to })]
            }
            Ask::Barrier(_) | Ask::Notice(_) | Ask::Resume(_) => vec![],
        })
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

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let state = (request.into_inner(), Table::open(self.folder.as_deref())?, VecDeque::new());
        let answers = stream::try_unfold(state, |(mut asks, mut table, mut ready)| async {
            while ready.is_empty() {
                let Some(ask) = asks.message().await? else { return Ok(None) };
                if let Some(ask) = ask.request {
                    ready.extend(table.answers(ask)?);
                }
            }
            let response = ready.pop_front().map(|answer| SessionResponse { response: Some(answer) });
            Ok(response.map(|response| (response, (asks, table, ready))))
        });
        Ok(Response::new(answers.boxed()))
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

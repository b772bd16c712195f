//! Everything but the session: Hello, Open, and the unary calls.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use tokio::{sync::watch, time::Instant};
use tonic::{Request, Response, Status, Streaming};

use super::{codec::Incoming, convert, query, session, status};
use crate::{
    backend::{Backend, Directory},
    error::{Error, Reason},
    proto::v1::{self, open_response, state_backend_service_server::StateBackendService},
    restore::Progress,
    types::Epoch,
};

/// The protocol version that this daemon speaks.
const PROTOCOL: u32 = 1;

/// How often an open tells its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// What is built in, as told in `Hello`.
const FEATURES: &[&str] = &[
    "inner.hashmap",
    "state.value",
    "state.list",
    "state.map",
    "state.operator",
    "state.ttl",
    "timers.count",
    "keys.key-group",
    "merge.builtin",
    "state.default-value",
    "state.schema-change",
    "restore.empty",
    "restore.id",
    "restore.handles",
    "restore.latest",
    "restore.fallback",
    "job.view",
    "job.coordination",
    "rescale",
    "retention.count",
    "retention.explicit",
    "pin",
    "claim",
    "open.attempt-token",
    "open.peer-group",
    "open.run",
    "open.linger",
    "handles.vouched",
    "clone",
    "discard",
    "materialization",
    "store.file",
    "store.s3",
    "store.gs",
    "store.az",
];

/// Likewise, where the daemon allows it.
const QUERY: &str = "query";

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service of one daemon.
#[derive(Debug, Clone)]
pub struct Service {
    directory: Directory,
}

impl Service {
    /// Serves the backends of `directory`.
    #[must_use]
    pub fn new(directory: Directory) -> Self {
        Self { directory }
    }

    fn backend(&self, reference: Option<&v1::BackendRef>) -> Result<(Backend, Epoch), Status> {
        let found = convert::backend_ref(reference)
            .and_then(|(id, epoch)| self.directory.get(&id, epoch).map(|backend| (backend, epoch)));
        found.map_err(|error| status::status(&error))
    }
}

/// The result of a call, with its error as a status.
fn reply<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| status::status(&error))
}

#[tonic::async_trait]
impl StateBackendService for Service {
    async fn hello(&self, request: Request<v1::HelloRequest>) -> Result<Response<v1::HelloResponse>, Status> {
        let request = request.into_inner();
        let (min, max) = (request.protocol_min.max(1), request.protocol_max.max(1));
        if min > PROTOCOL || max < PROTOCOL {
            let text =
                format!("the client speaks protocol {min} to {max}, this daemon {PROTOCOL}; update the older one");
            return reply(Err(Error::new(Reason::IncompatibleProtocol, text)));
        }
        tracing::debug!(client = request.client, "hello");
        let env = self.directory.environment();
        let allowed = env.options.queries.then_some(&QUERY);
        reply(Ok(v1::HelloResponse {
            protocol: PROTOCOL,
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            daemon_instance: env.instance.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: FEATURES.iter().chain(allowed).map(|&feature| feature.to_owned()).collect(),
            limits: Some(convert::to_limits(&env.options.limits)),
        }))
    }

    type QueryStream = ResponseStream<v1::QueryResponse>;

    async fn query(
        &self,
        request: Request<Streaming<v1::QueryRequest>>,
    ) -> Result<Response<Self::QueryStream>, Status> {
        Ok(Response::new(query::serve(self.directory.clone(), request.into_inner())))
    }

    type OpenStream = ResponseStream<v1::OpenResponse>;

    async fn open(&self, request: Request<v1::OpenRequest>) -> Result<Response<Self::OpenStream>, Status> {
        let spec = convert::open_spec(&request.into_inner()).map_err(|error| status::status(&error))?;
        let directory = self.directory.clone();
        let (report, progress) = watch::channel(Progress::default());
        let opening = async move {
            let opened = directory.open(spec, |progress| {
                report.send_replace(progress);
            });
            let opened = directory.environment().tasks.catch("opening a backend", opened).await;
            let opened =
                opened.map_err(|panicked| status::panicked(&panicked))?.map_err(|error| status::status(&error))?;
            Ok(open_response::Response::Opened(convert::to_opened(&opened)))
        };
        Ok(Response::new(Box::pin(opening_stream(opening, progress))))
    }

    async fn register_states(
        &self,
        request: Request<v1::RegisterStatesRequest>,
    ) -> Result<Response<v1::RegisterStatesResponse>, Status> {
        let request = request.into_inner();
        let (backend, epoch) = self.backend(request.backend.as_ref())?;
        let states: Result<Vec<_>, _> = request.states.iter().map(convert::descriptor).collect();
        let changes: Result<Vec<_>, _> = request.changes.iter().map(convert::schema_change).collect();
        let registered = match (states, changes) {
            (Ok(states), Ok(changes)) => backend.register_states(epoch, &states, &changes).await,
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        let registered = registered.map(|states| states.iter().map(convert::to_registered).collect());
        reply(registered.map(|states| v1::RegisterStatesResponse { states }))
    }

    type SessionStream = ResponseStream<v1::SessionResponse>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        // For whoever serves this without `Routed`, whose sessions are faster.
        let requests = request.into_inner().map_ok(Incoming::Request);
        Ok(Response::new(session::serve(self.directory.clone(), requests)))
    }

    async fn apply_batch(
        &self,
        request: Request<v1::ApplyBatchRequest>,
    ) -> Result<Response<v1::ApplyBatchResponse>, Status> {
        let request = request.into_inner();
        let (backend, epoch) = self.backend(request.backend.as_ref())?;
        let batch = request.batch.unwrap_or_default();
        let applied = match convert::operations(&batch) {
            Ok(operations) => {
                let number = request.numbered.then_some(batch.number);
                backend.apply_batch(epoch, number, batch.encoded_len() as u64, &operations).await
            }
            Err(error) => Err(error),
        };
        reply(applied.map(|(result, acknowledgement)| v1::ApplyBatchResponse {
            result: Some(convert::to_batch_result(result)),
            acknowledgement: Some(convert::to_acknowledgement(acknowledgement, 0)),
        }))
    }

    async fn checkpoint(
        &self,
        request: Request<v1::CheckpointRequest>,
    ) -> Result<Response<v1::CheckpointResponse>, Status> {
        let request = request.into_inner();
        let (backend, epoch) = self.backend(request.backend.as_ref())?;
        let barrier = convert::barrier(&request.barrier.unwrap_or_default());
        let checkpoint = backend.checkpoint(epoch, barrier).await;
        reply(checkpoint.map(|c| v1::CheckpointResponse { checkpoint: Some(convert::to_completed(&c)) }))
    }

    async fn notify(&self, request: Request<v1::NotifyRequest>) -> Result<Response<v1::NotifyResponse>, Status> {
        let request = request.into_inner();
        let (backend, epoch) = self.backend(request.backend.as_ref())?;
        let noticed = convert::notice(&request.notice.unwrap_or_default())
            .and_then(|(kind, target)| backend.notice(epoch, kind, target));
        reply(noticed.map(|outcome| v1::NotifyResponse { outcome: convert::to_outcome(outcome).into() }))
    }

    async fn persist(&self, request: Request<v1::PersistRequest>) -> Result<Response<v1::PersistResponse>, Status> {
        let (backend, epoch) = self.backend(request.into_inner().backend.as_ref())?;
        reply(backend.persist(epoch).await.map(|persisted_to| v1::PersistResponse { persisted_to }))
    }

    async fn pin(&self, request: Request<v1::PinRequest>) -> Result<Response<v1::PinResponse>, Status> {
        let request = request.into_inner();
        let (backend, epoch) = self.backend(request.backend.as_ref())?;
        let pinned = match convert::target(request.checkpoint.as_ref()) {
            Ok(target) => backend.pin(epoch, target).await,
            Err(error) => Err(error),
        };
        reply(pinned.map(|()| v1::PinResponse {}))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        let request = request.into_inner();
        let (backend, epoch) = self.backend(request.backend.as_ref())?;
        let released = convert::target(request.checkpoint.as_ref()).and_then(|target| backend.release(epoch, target));
        reply(released.map(|released| v1::ReleaseResponse { released }))
    }

    async fn materialize(
        &self,
        request: Request<v1::MaterializeRequest>,
    ) -> Result<Response<v1::MaterializeResponse>, Status> {
        let (backend, epoch) = self.backend(request.into_inner().backend.as_ref())?;
        let made = backend.materialize(epoch).await;
        reply(made.map(|made| v1::MaterializeResponse { stored_bytes: made.stored_bytes, changes: made.changes }))
    }

    async fn describe(&self, request: Request<v1::DescribeRequest>) -> Result<Response<v1::DescribeResponse>, Status> {
        let described = match request.into_inner().backend {
            None => self.directory.describe(None),
            Some(reference) => {
                convert::backend_id(reference.id.as_ref()).and_then(|id| self.directory.describe(Some(&id)))
            }
        };
        reply(described.map(|descriptions| v1::DescribeResponse {
            backends: descriptions.iter().map(convert::to_description).collect(),
        }))
    }

    async fn discard(&self, request: Request<v1::DiscardRequest>) -> Result<Response<v1::DiscardResponse>, Status> {
        let request = request.into_inner();
        let discarded = match convert::claim::discard(&request) {
            Ok(what) => self.directory.discard(&what, request.force).await,
            Err(error) => Err(error),
        };
        reply(discarded.map(|discarded| v1::DiscardResponse {
            checkpoints: discarded.checkpoints,
            objects: discarded.objects,
            bytes: discarded.bytes,
        }))
    }

    async fn describe_job(
        &self,
        request: Request<v1::DescribeJobRequest>,
    ) -> Result<Response<v1::DescribeJobResponse>, Status> {
        let described = match convert::job_name(&request.into_inner().job) {
            Ok(job) => self.directory.describe_job(&job).await,
            Err(error) => Err(error),
        };
        reply(described.map(|job| convert::to_job(&job)))
    }

    async fn declare_job(
        &self,
        request: Request<v1::DeclareJobRequest>,
    ) -> Result<Response<v1::DeclareJobResponse>, Status> {
        let request = request.into_inner();
        let declared = match convert::job_name(&request.job).and_then(|job| Ok((job, convert::declaration(&request)?)))
        {
            Ok((job, declaration)) => self.directory.declare_job(&job, request.attempt, &declaration).await,
            Err(error) => Err(error),
        };
        reply(declared.map(|generation| convert::to_declared(&generation)))
    }

    async fn close(&self, request: Request<v1::CloseRequest>) -> Result<Response<v1::CloseResponse>, Status> {
        let closed = match convert::backend_ref(request.into_inner().backend.as_ref()) {
            Ok((id, epoch)) => self.directory.close(&id, epoch).await,
            Err(error) => Err(error),
        };
        reply(closed.map(|closed| v1::CloseResponse { closed }))
    }
}

/// Tells the progress of `opening` about once a second, then what came of it.
fn opening_stream(
    opening: impl Future<Output = Result<open_response::Response, Status>> + Send + 'static,
    progress: watch::Receiver<Progress>,
) -> impl Stream<Item = Result<v1::OpenResponse, Status>> + Send {
    let started = Instant::now();
    let state = Some((Box::pin(opening), progress, started + PROGRESS_INTERVAL));
    stream::unfold(state, move |state| async move {
        let (mut opening, progress, next) = state?;
        tokio::select! {
            biased;
            opened = &mut opening => Some((opened, None)),
            () = tokio::time::sleep_until(next) => {
                let now = *progress.borrow();
                Some((Ok(restoring(now, started.elapsed())), Some((opening, progress, next + PROGRESS_INTERVAL))))
            }
        }
    })
    .map(|response| response.map(|response| v1::OpenResponse { response: Some(response) }))
}

fn restoring(progress: Progress, elapsed: Duration) -> open_response::Response {
    let left = progress.bytes_total.saturating_sub(progress.bytes_done);
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let eta_ms = elapsed_ms.saturating_mul(left).checked_div(progress.bytes_done).unwrap_or(0);
    open_response::Response::Restoring(v1::Restoring {
        bytes_done: progress.bytes_done,
        bytes_total: progress.bytes_total,
        changes: progress.changes,
        eta_ms,
    })
}

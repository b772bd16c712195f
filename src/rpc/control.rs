//! The service without sessions: Hello, Open, and the unary calls.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use tokio::{sync::watch, time::Instant};
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use super::{access::Access, codec::Incoming, convert, pages, query, reply::Reply, session, status};
use crate::{
    backend::{Backend, Directory, Environment, RestoreFrom},
    checkpoint::discard::Discard,
    error::{Error, Reason},
    proto::v1::{self, open_response, state_backend_service_server::StateBackendService},
    restore::Progress,
    types::{AllowedJobs, BackendId, Epoch},
};

/// The protocol version that this daemon speaks.
const PROTOCOL: u32 = 1;

/// Most bytes of a registered state in an answer, besides its descriptor.
const REGISTERED_BYTES: usize = 32;

/// How often an open reports its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Features that `Hello` lists: always, or if the condition holds.
const FEATURES: &[(&str, Condition)] = &[
    ("inner.hashmap", always),
    // RocksDB may be compiled in while its folders cannot be used.
    ("inner.rocksdb", |env| env.local.is_some()),
    ("state.value", always),
    ("state.list", always),
    ("state.map", always),
    ("state.timer", always),
    ("state.operator", always),
    ("state.ttl", always),
    ("state.keys", always),
    ("state.merge-namespaces", always),
    ("merge.builtin", always),
    ("state.default-value", always),
    ("state.schema-change", always),
    ("restore.empty", always),
    ("restore.id", always),
    ("restore.handles", always),
    ("restore.latest", always),
    ("restore.fallback", always),
    ("restore.warm", |env| env.options.warm),
    ("job.view", always),
    ("job.coordination", always),
    ("rescale", always),
    ("retention.count", always),
    ("retention.explicit", always),
    ("pin", always),
    ("claim", always),
    ("clone", always),
    ("discard", always),
    ("changelog.enabled", always),
    ("changelog.disabled", always),
    ("materialization", always),
    ("pages", always),
    ("timers.count", always),
    ("keys.key-group", always),
    ("open.attempt-token", always),
    ("open.peer-group", always),
    ("open.run", always),
    ("open.linger", always),
    ("handles.vouched", always),
    ("savepoint.barrier", always),
    ("checkpoint.read", always),
    ("query", |env| env.options.queries),
    ("store.file", always),
    ("store.s3", always),
    ("store.gs", always),
    ("store.az", always),
];

/// Whether a daemon offers a feature.
type Condition = fn(&Environment) -> bool;

fn always(_: &Environment) -> bool {
    true
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service of one daemon.
#[derive(Debug, Clone)]
pub struct Service {
    directory: Directory,
    jobs: Arc<AllowedJobs>,
}

impl Service {
    /// Serves the backends of `directory` to the callers that `jobs` allow.
    #[must_use]
    pub fn new(directory: Directory, jobs: Arc<AllowedJobs>) -> Self {
        Self { directory, jobs }
    }

    fn backend(&self, access: &Access, reference: Option<&v1::BackendRef>) -> Result<(Backend, Epoch), Status> {
        let found = convert::backend_ref(reference).and_then(|(id, epoch)| {
            access.check(id.job.as_str())?;
            self.directory.get(&id, epoch).map(|backend| (backend, epoch))
        });
        found.map_err(|error| status::status(&error))
    }

    /// The backend that a request names, and the request.
    fn named<T>(
        &self,
        request: Request<T>,
        reference: impl FnOnce(&T) -> Option<&v1::BackendRef>,
    ) -> Result<(Backend, Epoch, T), Status> {
        let (access, request) = Access::enter(&self.jobs, request);
        let (backend, epoch) = self.backend(&access, reference(&request))?;
        Ok((backend, epoch, request))
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
        reply(Ok(v1::HelloResponse {
            protocol: PROTOCOL,
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            daemon_instance: env.instance.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: FEATURES.iter().filter(|(_, offers)| offers(env)).map(|(name, _)| (*name).to_owned()).collect(),
            limits: Some(convert::to_limits(&env.options.limits)),
        }))
    }

    type QueryStream = ResponseStream<v1::QueryResponse>;

    async fn query(
        &self,
        request: Request<Streaming<v1::QueryRequest>>,
    ) -> Result<Response<Self::QueryStream>, Status> {
        let (access, requests) = Access::enter(&self.jobs, request);
        Ok(Response::new(query::serve(self.directory.clone(), access, requests)))
    }

    type OpenStream = ResponseStream<v1::OpenResponse>;

    async fn open(&self, request: Request<v1::OpenRequest>) -> Result<Response<Self::OpenStream>, Status> {
        let (access, request) = Access::enter(&self.jobs, request);
        let spec = convert::open_spec(&request).map_err(|error| status::status(&error))?;
        access.admit(spec.id.job.as_str())?;
        // A handle or savepoint of another job is read, too, so the caller needs permission for that job as well.
        if let RestoreFrom::Handles(handles) | RestoreFrom::Vouched(handles) = &spec.restore {
            handles.iter().try_for_each(|handle| access.admit(handle.backend.job.as_str()))?;
        }
        if let RestoreFrom::Savepoint(id) = &spec.restore {
            access.admit(id.job.as_str())?;
        }
        let span = access.span();
        let directory = self.directory.clone();
        let (report, progress) = watch::channel(Progress::default());
        let opening = async move {
            let opened = directory.open(spec, |progress| {
                report.send_replace(progress);
            });
            let opened = directory.environment().tasks.catch("opening a backend", opened).await;
            let opened =
                opened.map_err(|panicked| status::panicked(&panicked))?.map_err(|error| status::status(&error))?;
            let most = directory.environment().options.limits.max_message_bytes;
            Ok::<_, Status>(pages::opened(convert::to_opened(&opened), most))
        };
        Ok(Response::new(Box::pin(opening_stream(opening.instrument(span), progress))))
    }

    async fn register_states(
        &self,
        request: Request<v1::RegisterStatesRequest>,
    ) -> Result<Response<v1::RegisterStatesResponse>, Status> {
        let (backend, epoch, request) = self.named(request, |request| request.backend.as_ref())?;
        // The answer repeats the descriptors. Its length is judged before the states are registered, since an answer
        // that is too long could not be sent afterwards.
        let answer = request.encoded_len() + request.states.len() * REGISTERED_BYTES;
        let most = self.directory.environment().options.limits.max_message_bytes;
        if answer > most {
            let text = format!(
                "the answer would have {answer} bytes, a message has at most {most}: register fewer states at once"
            );
            return reply(Err(Error::new(Reason::LimitExceeded, text)));
        }
        let states: Result<Vec<_>, _> = request.states.iter().map(convert::descriptor).collect();
        let changes: Result<Vec<_>, _> = request.changes.iter().map(convert::schema_change).collect();
        let registered = match (states, changes) {
            (Ok(states), Ok(changes)) => backend.register_states(epoch, &states, &changes).await,
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        let registered = registered.map(|states| states.iter().map(convert::to_registered).collect());
        reply(registered.map(|states| v1::RegisterStatesResponse { states }))
    }

    type ReadCheckpointStream = ResponseStream<v1::ReadCheckpointResponse>;

    async fn read_checkpoint(
        &self,
        request: Request<v1::ReadCheckpointRequest>,
    ) -> Result<Response<Self::ReadCheckpointStream>, Status> {
        let (access, request) = Access::enter(&self.jobs, request);
        query::read(&self.directory, &access, request).map(Response::new)
    }

    type SessionStream = ResponseStream<v1::SessionResponse>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        // For servers without `Routed`, which has faster sessions.
        let (access, requests) = Access::enter(&self.jobs, request);
        let replies = session::serve(self.directory.clone(), access, requests.map_ok(Incoming::Request));
        Ok(Response::new(replies.map_ok(Reply::into_message).boxed()))
    }

    async fn apply_batch(
        &self,
        request: Request<v1::ApplyBatchRequest>,
    ) -> Result<Response<v1::ApplyBatchResponse>, Status> {
        let (access, request) = Access::enter(&self.jobs, request);
        let (backend, epoch) = self.backend(&access, request.backend.as_ref())?;
        let batch = request.batch.unwrap_or_default();
        let applied = match convert::operations(&batch) {
            Ok(operations) => {
                let number = request.numbered.then_some(batch.number);
                let longest = self.directory.environment().options.limits.max_message_bytes;
                // Writes without answers need no room, and must not wait for the readers of others.
                let reads = operations.iter().any(|operation| operation.op.answers());
                let applying = async {
                    if reads {
                        access.make_room(longest).await?;
                    }
                    backend.apply_batch(epoch, number, batch.encoded_len() as u64, &operations).await
                };
                tokio::select! {
                    biased;
                    applied = applying => applied,
                    // The batch waits for credit while others need its memory. Nothing was applied.
                    error = access.given_up() => Err(error),
                }
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
        let (backend, epoch, request) = self.named(request, |request| request.backend.as_ref())?;
        let barrier = request.barrier.unwrap_or_default();
        let cut = convert::barrier(&barrier);
        let checkpoint = match convert::savepoint(&barrier) {
            Err(error) => Err(error),
            Ok(Some(name)) => {
                let made = self.directory.savepoint(&backend, epoch, cut, name).await;
                made.map(|made| convert::to_savepoint_made(&made))
            }
            Ok(None) if barrier.readable => {
                backend.readable_checkpoint(epoch, cut).await.map(|checkpoint| convert::to_completed(&checkpoint))
            }
            Ok(None) => backend.checkpoint(epoch, cut).await.map(|checkpoint| convert::to_completed(&checkpoint)),
        };
        reply(checkpoint.map(|checkpoint| v1::CheckpointResponse { checkpoint: Some(checkpoint) }))
    }

    async fn notify(&self, request: Request<v1::NotifyRequest>) -> Result<Response<v1::NotifyResponse>, Status> {
        let (backend, epoch, request) = self.named(request, |request| request.backend.as_ref())?;
        let noticed = convert::notice(&request.notice.unwrap_or_default())
            .and_then(|(kind, target)| backend.notice(epoch, kind, target));
        reply(noticed.map(|outcome| v1::NotifyResponse { outcome: convert::to_outcome(outcome).into() }))
    }

    async fn persist(&self, request: Request<v1::PersistRequest>) -> Result<Response<v1::PersistResponse>, Status> {
        let (backend, epoch, _) = self.named(request, |request| request.backend.as_ref())?;
        reply(backend.persist(epoch).await.map(|persisted_to| v1::PersistResponse { persisted_to }))
    }

    async fn pin(&self, request: Request<v1::PinRequest>) -> Result<Response<v1::PinResponse>, Status> {
        let (backend, epoch, request) = self.named(request, |request| request.backend.as_ref())?;
        let pinned = match convert::target(request.checkpoint.as_ref()) {
            Ok(target) => backend.pin(epoch, target).await,
            Err(error) => Err(error),
        };
        reply(pinned.map(|()| v1::PinResponse {}))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        let (backend, epoch, request) = self.named(request, |request| request.backend.as_ref())?;
        let released = convert::target(request.checkpoint.as_ref()).and_then(|target| backend.release(epoch, target));
        reply(released.map(|released| v1::ReleaseResponse { released }))
    }

    async fn materialize(
        &self,
        request: Request<v1::MaterializeRequest>,
    ) -> Result<Response<v1::MaterializeResponse>, Status> {
        let (backend, epoch, _) = self.named(request, |request| request.backend.as_ref())?;
        let made = backend.materialize(epoch).await;
        reply(made.map(|made| v1::MaterializeResponse { stored_bytes: made.stored_bytes, changes: made.changes }))
    }

    async fn describe(&self, request: Request<v1::DescribeRequest>) -> Result<Response<v1::DescribeResponse>, Status> {
        let (access, request) = Access::enter(&self.jobs, request);
        let only = match &request.backend {
            None => None,
            Some(reference) => {
                let id = convert::backend_id(reference.id.as_ref()).map_err(|error| status::status(&error))?;
                access.admit(id.job.as_str())?;
                Some(id)
            }
        };
        let longest = self.directory.environment().options.limits.max_message_bytes;
        access.make_room(longest).await.map_err(|error| status::status(&error))?;
        let may_see = |id: &BackendId| access.may_use(id.job.as_str());
        reply(pages::describe(&self.directory, only.as_ref(), &request.page_token, may_see))
    }

    async fn discard(&self, request: Request<v1::DiscardRequest>) -> Result<Response<v1::DiscardResponse>, Status> {
        let (access, request) = Access::enter(&self.jobs, request);
        let span = access.span();
        let discarded = match convert::claim::discard(&request) {
            Ok(what) => {
                let (Discard::Job(job) | Discard::Checkpoint(BackendId { job, .. }, _)) = &what;
                access.admit(job.as_str())?;
                self.directory.discard(&what, request.force).instrument(span).await
            }
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
        let (access, request) = Access::enter(&self.jobs, request);
        access.admit(&request.job)?;
        let described = match convert::job_name(&request.job) {
            Ok(job) => self.directory.describe_job(&job).await,
            Err(error) => Err(error),
        };
        reply(described.map(|job| convert::to_job(&job)))
    }

    async fn declare_job(
        &self,
        request: Request<v1::DeclareJobRequest>,
    ) -> Result<Response<v1::DeclareJobResponse>, Status> {
        let (access, request) = Access::enter(&self.jobs, request);
        access.admit(&request.job)?;
        let span = access.span();
        let declared = match convert::job_name(&request.job).and_then(|job| Ok((job, convert::declaration(&request)?)))
        {
            Ok((job, declaration)) => {
                self.directory.declare_job(&job, request.attempt, &declaration).instrument(span).await
            }
            Err(error) => Err(error),
        };
        reply(declared.map(|generation| convert::to_declared(&generation)))
    }

    async fn close(&self, request: Request<v1::CloseRequest>) -> Result<Response<v1::CloseResponse>, Status> {
        let (access, request) = Access::enter(&self.jobs, request);
        let closed = match convert::backend_ref(request.backend.as_ref()) {
            Ok((id, epoch)) => {
                access.admit(id.job.as_str())?;
                let closed = self.directory.close(&id, epoch).instrument(access.span()).await;
                if closed == Ok(true) {
                    tracing::info!(peer = access.name(), backend = %id, epoch = epoch.number, "backend closed");
                }
                closed
            }
            Err(error) => Err(error),
        };
        reply(closed.map(|closed| v1::CloseResponse { closed }))
    }
}

/// Reports the progress of `opening` about once a second, then its result.
fn opening_stream(
    opening: impl Future<Output = Result<Vec<open_response::Response>, Status>> + Send + 'static,
    progress: watch::Receiver<Progress>,
) -> impl Stream<Item = Result<v1::OpenResponse, Status>> + Send {
    let started = Instant::now();
    let state = Some((Box::pin(opening), progress, started + PROGRESS_INTERVAL));
    stream::unfold(state, move |state| async move {
        let (mut opening, progress, next) = state?;
        tokio::select! {
            // The result is looked at first, so an open that is done tells no progress any more.
            biased;
            opened = &mut opening => Some((told(opened), None)),
            () = tokio::time::sleep_until(next) => {
                let now = *progress.borrow();
                let restoring = vec![Ok(restoring(now, started.elapsed()))];
                Some((restoring, Some((opening, progress, next + PROGRESS_INTERVAL))))
            }
        }
    })
    .flat_map(stream::iter)
    .map(|response| response.map(|response| v1::OpenResponse { response: Some(response) }))
}

/// The result of an open in the form of the stream.
fn told(opened: Result<Vec<open_response::Response>, Status>) -> Vec<Result<open_response::Response, Status>> {
    match opened {
        Ok(pages) => pages.into_iter().map(Ok).collect(),
        Err(status) => vec![Err(status)],
    }
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

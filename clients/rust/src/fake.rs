//! A daemon for tests: it follows the protocol documents with one backend in memory, and fails when it is told to.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::UnboundedReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};

use super::error::status_of;
use dstl_proto::v1::{
    self as pb, OperationKind as Kind, Reason, Scope, SessionRequest, SessionResponse,
    session_request::Request as Ask,
    session_response::Response as Answer,
    state_backend_service_server::{StateBackendService, StateBackendServiceServer},
};

/// An event that the fake saw, in order.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    Started,
    Applied(u64, usize),
    Rejected(u64),
    Refused(u64),
    RefusedBarrier(u64),
    Barrier(u64),
    Resume(u64),
    Ended,
}

/// The state of the fake, and instructions how to behave.
#[derive(Debug)]
pub(super) struct State {
    pub(super) instance: String,
    pub(super) applied_to: u64,
    pub(super) events: Vec<Event>,
    pub(super) values: BTreeMap<(u32, Bytes, Bytes), Bytes>,
    pub(super) maps: BTreeMap<(u32, Bytes), BTreeMap<Bytes, Bytes>>,
    pub(super) lists: BTreeMap<(u32, Bytes), Vec<Bytes>>,
    /// Timers as state, time, key and namespace.
    pub(super) timers: BTreeSet<(u32, i64, Bytes, Bytes)>,
    pub(super) states: Vec<pb::StateDescriptor>,
    /// Credit of an idle session, in bytes.
    pub(super) credit: u64,
    /// Most bytes written and not yet granted again.
    pub(super) most_used: u64,
    /// How long acknowledgements and results are delayed.
    pub(super) answer_delay: Duration,
    /// Numbers of batches; after applying one of these, the stream breaks without an answer.
    pub(super) breaks: VecDeque<u64>,
    /// How much too low the next `SessionStarted.applied_to` is.
    pub(super) understated: u64,
    /// The reason with which sessions are refused.
    pub(super) refusal: Option<Reason>,
    /// Whether barriers stay unanswered.
    pub(super) holds_barriers: bool,
    /// Most elements, entries, keys and timers per page.
    pub(super) page: usize,
    /// Most reads that one message answers.
    pub(super) reads_per_message: usize,
}

/// A daemon for tests. Cheap to clone.
#[derive(Clone)]
pub(super) struct Fake(Arc<Mutex<State>>);

/// One session's side of the fake.
struct Serving {
    fake: Fake,
    answers: mpsc::UnboundedSender<Result<SessionResponse, Status>>,
    granted: u64,
    used: u64,
    halted: Option<u64>,
}

pub(super) fn error(reason: Reason, scope: Scope) -> pb::Error {
    pb::Error { reason: reason.into(), scope: scope.into(), retryable: false, message: format!("{reason:?}") }
}

impl Fake {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            instance: "one".to_owned(),
            applied_to: 0,
            events: Vec::new(),
            values: BTreeMap::new(),
            maps: BTreeMap::new(),
            lists: BTreeMap::new(),
            timers: BTreeSet::new(),
            states: Vec::new(),
            credit: 1 << 20,
            most_used: 0,
            answer_delay: Duration::ZERO,
            breaks: VecDeque::new(),
            understated: 0,
            refusal: None,
            holds_barriers: false,
            page: 2,
            reads_per_message: usize::MAX,
        })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Serves on a Unix socket in `folder` and returns its path.
    pub(super) fn serve(&self, folder: &std::path::Path) -> std::path::PathBuf {
        let path = folder.join("dstl.sock");
        let _ = std::fs::remove_file(&path);
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let service = StateBackendServiceServer::new(self.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        path
    }
}

impl State {
    fn page_of(&self, op: &pb::Operation) -> usize {
        let limit = usize::try_from(op.limit).unwrap();
        if limit == 0 { self.page } else { self.page.min(limit) }
    }

    fn is_write(&self, op: &pb::Operation) -> bool {
        let reads = [Kind::Get, Kind::MapEntries, Kind::ListGet, Kind::Keys, Kind::Timers];
        let state = usize::try_from(op.state).unwrap().checked_sub(1).and_then(|index| self.states.get(index));
        let ttl = state.and_then(|state| state.ttl.as_ref());
        !reads.contains(&op.kind()) || ttl.is_some_and(|ttl| ttl.update() == pb::ttl::Update::OnReadAndWrite)
    }

    fn operate(&mut self, index: u32, op: &pb::Operation) -> Option<pb::OperationResult> {
        let key = (op.state, op.namespace.clone(), op.key.clone());
        let pair = (op.state, op.key.clone());
        let mut result = pb::OperationResult { operation: index, ..Default::default() };
        let page = self.page_of(op);
        match op.kind() {
            Kind::Put => drop(self.values.insert(key, op.value.clone())),
            Kind::Merge => {
                let number = |bytes: &Bytes| i64::from_le_bytes(bytes[..].try_into().unwrap());
                let sum = self.values.get(&key).map_or(0, number) + number(&op.value);
                self.values.insert(key, sum.to_le_bytes().to_vec().into());
            }
            Kind::Get => {
                result.found = self.values.contains_key(&key);
                let default = self.states.get(op.state as usize - 1).map(|state| state.default_value.clone());
                result.value = self.values.get(&key).cloned().or(default).unwrap_or_default();
                return Some(result);
            }
            Kind::MergeNamespaces => {
                let number = |bytes: &Bytes| i64::from_le_bytes(bytes[..].try_into().unwrap());
                let own = self.values.get(&key).map(number);
                let taken = op.values.iter().filter_map(|source| {
                    self.values.remove(&(op.state, source.clone(), op.key.clone())).as_ref().map(number)
                });
                if let Some(sum) = own.into_iter().chain(taken).reduce(|a, b| a + b) {
                    self.values.insert(key, sum.to_le_bytes().to_vec().into());
                }
            }
            Kind::Clear => drop(self.values.remove(&key)),
            Kind::MapPut => drop(self.maps.entry(pair).or_default().insert(op.map_key.clone(), op.value.clone())),
            Kind::MapRemove => drop(self.maps.entry(pair).or_default().remove(&op.map_key)),
            Kind::MapEntries => {
                let map = self.maps.entry(pair).or_default();
                let is_wanted =
                    |key: &Bytes| key.starts_with(&op.map_prefix) && (op.map_key_to.is_empty() || *key < op.map_key_to);
                let mut entries = map.range(op.map_key.clone()..).filter(|(key, _)| is_wanted(key));
                let page = entries.by_ref().take(page);
                result.entries = page.map(|(k, v)| pb::MapEntry { key: k.clone(), value: v.clone() }).collect();
                result.more = entries.next().is_some();
                return Some(result);
            }
            Kind::ListAdd => self.lists.entry(pair).or_default().push(op.value.clone()),
            Kind::ListUpdate => drop(self.lists.insert(pair, op.values.clone())),
            Kind::ListGet => {
                let list = self.lists.entry(pair).or_default();
                let start = std::str::from_utf8(&op.token).unwrap().parse().unwrap_or(op.start as usize);
                result.elements = list.iter().skip(start).take(page).cloned().collect();
                result.more = list.len() > start + page;
                result.token = if result.more { (start + page).to_string().into() } else { Bytes::new() };
                return Some(result);
            }
            Kind::Keys => {
                let skipped = std::str::from_utf8(&op.token).unwrap().parse().unwrap_or(0);
                let is_wanted = |state: u32, namespace: &Bytes| {
                    state == op.state && (op.all_namespaces || *namespace == op.namespace)
                };
                let stored = |(_, namespace, key): &(u32, Bytes, Bytes)| pb::StoredKey {
                    key: key.clone(),
                    namespace: namespace.clone(),
                    key_group: 7,
                };
                let keys = self.values.keys().filter(|(state, namespace, _)| is_wanted(*state, namespace));
                let mut keys = keys.skip(skipped);
                result.keys = keys.by_ref().take(page).map(stored).collect();
                let token = keys.next().map(|_| Bytes::from((skipped + page).to_string()));
                result.token = token.unwrap_or_default();
                return Some(result);
            }
            Kind::TimerRegister => drop(self.timers.insert((op.state, op.time, op.key.clone(), op.namespace.clone()))),
            Kind::TimerDelete => {
                self.timers.remove(&(op.state, op.time, op.key.clone(), op.namespace.clone()));
            }
            Kind::TimerCount => {
                result.count = self.timers.iter().filter(|(state, ..)| *state == op.state).count() as u64;
                result.found = result.count > 0;
                return Some(result);
            }
            Kind::Timers | Kind::TimersFire => {
                let skipped = std::str::from_utf8(&op.token).unwrap().parse().unwrap_or(0);
                let due = self.timers.iter().filter(|(state, time, ..)| *state == op.state && *time <= op.time);
                let mut due = due.skip(skipped);
                let page_timers: Vec<_> = due.by_ref().take(page).cloned().collect();
                let more = due.next().is_some();
                if op.kind() == Kind::TimersFire {
                    self.timers.retain(|timer| !page_timers.contains(timer));
                    result.more = more;
                } else if more {
                    result.token = (skipped + page).to_string().into();
                }
                let timers = page_timers.into_iter();
                result.timers =
                    timers.map(|(_, time, key, namespace)| pb::Timer { time, key, namespace, key_group: 7 }).collect();
                return Some(result);
            }
            other => panic!("the fake does no {other:?}"),
        }
        None
    }
}

impl Serving {
    fn answer(&self, answer: Answer) {
        let _ = self.answers.send(Ok(SessionResponse { response: Some(answer) }));
    }

    /// Handles one request; `Err` ends the stream.
    fn handle(&mut self, ask: Ask) -> Result<(), Status> {
        match ask {
            Ask::Start(_) => panic!("a second start"),
            Ask::Batch(batch) => return self.batch(&batch),
            Ask::Barrier(barrier) => self.barrier(&barrier),
            Ask::Notice(notice) => {
                let outcome = pb::NoticeOutcome::Done.into();
                self.answer(Answer::Notice(pb::NoticeReply { notice: Some(notice), outcome }));
            }
            Ask::Resume(resume) => {
                assert_eq!(self.halted.take(), Some(resume.number));
                self.fake.state().events.push(Event::Resume(resume.number));
            }
            Ask::Persist(mark) => {
                let persisted_to = self.fake.state().applied_to;
                self.answer(Answer::Persisted(pb::PersistReply { token: mark.token, persisted_to }));
            }
        }
        Ok(())
    }

    fn batch(&mut self, batch: &pb::Batch) -> Result<(), Status> {
        let is_written = batch.operations.iter().any(|op| self.fake.state().is_write(op));
        if is_written {
            self.used += batch.encoded_len() as u64;
        }
        if self.used > self.granted {
            let error = error(Reason::CreditExceeded, Scope::Session);
            return Err(status_of(Code::FailedPrecondition, &error));
        }
        let fake = self.fake.clone();
        let mut state = fake.state();
        state.most_used = state.most_used.max(self.used + state.credit - self.granted);
        if let Some(first_failed) = self.halted {
            state.events.push(Event::Refused(batch.number));
            self.refuse(first_failed, pb::session_halted::Refused::Batch(batch.number));
        } else if batch.number < state.applied_to {
            let number = batch.number;
            self.answer(Answer::Result(pb::BatchResult { number, results: Vec::new(), repeated_batch: true }));
        } else {
            assert_eq!(batch.number, state.applied_to, "batches come in order");
            if batch.operations.iter().any(|op| op.key == "bad") {
                state.events.push(Event::Rejected(batch.number));
                self.halted = Some(batch.number);
                self.refuse(batch.number, pb::session_halted::Refused::Batch(batch.number));
            } else {
                let operations = (0..).zip(&batch.operations);
                let mut results: Vec<_> = operations.filter_map(|(index, op)| state.operate(index, op)).collect();
                for result in results.iter_mut().skip(state.reads_per_message) {
                    let outcome = pb::Outcome::AskAgain.into();
                    *result = pb::OperationResult { operation: result.operation, outcome, ..Default::default() };
                }
                state.applied_to += 1;
                state.events.push(Event::Applied(batch.number, batch.operations.len()));
                if state.breaks.front() == Some(&batch.number) {
                    state.breaks.pop_front();
                    return Err(Status::unavailable("broken by the test"));
                }
                if !results.is_empty() {
                    let number = batch.number;
                    self.answer(Answer::Result(pb::BatchResult { number, results, repeated_batch: false }));
                }
            }
        }
        self.granted = self.used + state.credit;
        self.answer(Answer::Acknowledgement(pb::Acknowledgement {
            applied_to: state.applied_to,
            persisted_to: 0,
            confirmed_to: 0,
            credit: self.granted,
        }));
        Ok(())
    }

    fn refuse(&self, first_failed: u64, refused: pb::session_halted::Refused) {
        let error = Some(error(Reason::UnknownState, Scope::Batch));
        self.answer(Answer::Halted(pb::SessionHalted { first_failed, error, refused: Some(refused) }));
    }

    fn barrier(&self, barrier: &pb::Barrier) {
        let checkpoint_id = barrier.checkpoint_id;
        let mut state = self.fake.state();
        if let Some(first_failed) = self.halted {
            state.events.push(Event::RefusedBarrier(checkpoint_id));
            return self.refuse(first_failed, pb::session_halted::Refused::CheckpointId(checkpoint_id));
        }
        state.events.push(Event::Barrier(checkpoint_id));
        if !state.holds_barriers {
            let checkpoint = pb::CheckpointIdentity { epoch: 1, checkpoint_id, handle_uuid: vec![7; 16].into() };
            self.answer(Answer::CheckpointCompleted(pb::CheckpointCompleted {
                checkpoint: Some(checkpoint),
                handle: barrier.attachment.clone(),
                applied_to: state.applied_to,
                ..Default::default()
            }));
        }
    }

    async fn run(mut self, mut asks: Streaming<SessionRequest>) {
        while let Ok(Some(ask)) = asks.message().await {
            if let Err(status) = self.handle(ask.request.unwrap()) {
                let _ = self.answers.send(Err(status));
                return;
            }
        }
        self.fake.state().events.push(Event::Ended);
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl StateBackendService for Fake {
    type OpenStream = Answers<pb::OpenResponse>;
    type QueryStream = Answers<pb::QueryResponse>;
    type ReadCheckpointStream = Answers<pb::ReadCheckpointResponse>;
    type SessionStream = Answers<SessionResponse>;

    async fn hello(&self, _: Request<pb::HelloRequest>) -> Result<Response<pb::HelloResponse>, Status> {
        let limits = pb::Limits { max_message_bytes: 1 << 20, max_batch_operations: 1000, ..Default::default() };
        let daemon_instance = self.state().instance.clone();
        Ok(Response::new(pb::HelloResponse {
            protocol: 1,
            daemon_instance,
            limits: Some(limits),
            ..Default::default()
        }))
    }

    async fn read_checkpoint(
        &self,
        _: Request<pb::ReadCheckpointRequest>,
    ) -> Result<Response<Self::ReadCheckpointStream>, Status> {
        Err(Status::unimplemented("the fake has no store"))
    }

    async fn query(
        &self,
        request: Request<Streaming<pb::QueryRequest>>,
    ) -> Result<Response<Self::QueryStream>, Status> {
        use pb::{query_request::Request as Ask, query_response::Response as Answer};
        let fake = self.clone();
        let answers = tokio_stream::StreamExt::map(request.into_inner(), move |request| {
            let mut state = fake.state();
            let response = match request?.request {
                Some(Ask::Start(_)) => {
                    let states = (1..).zip(state.states.iter().cloned());
                    let states =
                        states.map(|(id, d)| pb::RegisteredState { id, descriptor: Some(d), migrating_from: 0 });
                    Answer::Started(pb::QueryStarted { states: states.collect(), ..Default::default() })
                }
                Some(Ask::Batch(pb::QueryBatch { number, operations })) if operations.is_empty() => {
                    let error = Some(error(Reason::BackendNotOpen, Scope::Batch));
                    Answer::Failed(pb::QueryFailed { number, error })
                }
                Some(Ask::Batch(batch)) => {
                    let results = (0..).zip(&batch.operations).filter_map(|(index, op)| state.operate(index, op));
                    let results = results.collect();
                    Answer::Result(pb::QueryResult { number: batch.number, results, ..Default::default() })
                }
                None => return Err(Status::invalid_argument("nothing")),
            };
            Ok(pb::QueryResponse { response: Some(response) })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn open(&self, request: Request<pb::OpenRequest>) -> Result<Response<Self::OpenStream>, Status> {
        let epoch = Some(pb::Epoch { number: 1, owner: vec![1; 16].into() });
        let backend = Some(pb::BackendRef { id: request.into_inner().backend, epoch });
        let opened = pb::Opened { backend, attachment: "offset 7".into(), ..Default::default() };
        let restoring = pb::Restoring { bytes_done: 1, bytes_total: 2, ..Default::default() };
        let answers = [pb::open_response::Response::Restoring(restoring), pb::open_response::Response::Opened(opened)];
        let answers = answers.map(|response| Ok(pb::OpenResponse { response: Some(response) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn register_states(
        &self,
        request: Request<pb::RegisterStatesRequest>,
    ) -> Result<Response<pb::RegisterStatesResponse>, Status> {
        let mut state = self.state();
        let mut states = Vec::new();
        for descriptor in request.into_inner().states {
            let known = state.states.iter().position(|known| known.name == descriptor.name);
            let index = known.unwrap_or_else(|| {
                state.states.push(descriptor.clone());
                state.states.len() - 1
            });
            if state.states[index] != descriptor {
                let error = error(Reason::StateMismatch, Scope::Batch);
                return Err(status_of(Code::FailedPrecondition, &error));
            }
            let id = u32::try_from(index).unwrap() + 1;
            states.push(pb::RegisteredState { id, descriptor: Some(descriptor), ..Default::default() });
        }
        Ok(Response::new(pb::RegisterStatesResponse { states }))
    }

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let refusal = self.state().refusal;
        if let Some(reason) = refusal {
            return Err(status_of(Code::Aborted, &error(reason, Scope::Backend)));
        }
        let mut asks = request.into_inner();
        let first = asks.message().await?.and_then(|ask| ask.request);
        assert!(matches!(first, Some(Ask::Start(_))), "{first:?}");
        let (answers, received) = mpsc::unbounded_channel();
        let (granted, delay) = {
            let mut state = self.state();
            state.events.push(Event::Started);
            let applied_to = state.applied_to - std::mem::take(&mut state.understated);
            let started = pb::SessionStarted { applied_to, credit: state.credit };
            let _ = answers.send(Ok(SessionResponse { response: Some(Answer::Started(started)) }));
            (state.credit, state.answer_delay)
        };
        tokio::spawn(Serving { fake: self.clone(), answers, granted, used: 0, halted: None }.run(asks));
        let received = UnboundedReceiverStream::new(received);
        if delay.is_zero() {
            return Ok(Response::new(Box::pin(received)));
        }
        Ok(Response::new(Box::pin(tokio_stream::StreamExt::throttle(received, delay))))
    }

    async fn close(&self, _: Request<pb::CloseRequest>) -> Result<Response<pb::CloseResponse>, Status> {
        Ok(Response::new(pb::CloseResponse { closed: true }))
    }

    async fn apply_batch(&self, _: Request<pb::ApplyBatchRequest>) -> Result<Response<pb::ApplyBatchResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn checkpoint(&self, _: Request<pb::CheckpointRequest>) -> Result<Response<pb::CheckpointResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn notify(&self, _: Request<pb::NotifyRequest>) -> Result<Response<pb::NotifyResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn persist(&self, _: Request<pb::PersistRequest>) -> Result<Response<pb::PersistResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn materialize(
        &self,
        _: Request<pb::MaterializeRequest>,
    ) -> Result<Response<pb::MaterializeResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn pin(&self, _: Request<pb::PinRequest>) -> Result<Response<pb::PinResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn release(&self, _: Request<pb::ReleaseRequest>) -> Result<Response<pb::ReleaseResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn discard(&self, _: Request<pb::DiscardRequest>) -> Result<Response<pb::DiscardResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn describe(&self, _: Request<pb::DescribeRequest>) -> Result<Response<pb::DescribeResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn declare_job(&self, _: Request<pb::DeclareJobRequest>) -> Result<Response<pb::DeclareJobResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn describe_job(
        &self,
        _: Request<pb::DescribeJobRequest>,
    ) -> Result<Response<pb::DescribeJobResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
}

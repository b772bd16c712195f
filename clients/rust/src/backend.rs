//! An opened backend.

use bytes::Bytes;
use tracing::Instrument as _;

use super::{
    Aggregate, AggregatingState, Client, ClientError, ListState, MapState, Reduce, ReducingState, Session,
    SessionOptions, StateOptions, TimerState, ValueState, touched::Touched, worker::Worker,
};
use dstl_proto::{
    types::{Redistribution, StateKind},
    v1::{
        BackendRef, CheckpointIdentity, Epoch, Opened, RegisteredState, RestoredPart, SchemaChange, StateDescriptor,
        schema_change::Mode,
    },
};

/// A backend under its owner. Cheap to clone; dropping it closes nothing.
#[derive(Debug, Clone)]
pub struct Backend {
    client: Client,
    backend: BackendRef,
    opened: Opened,
    touched: Touched,
}

impl Backend {
    pub(super) fn new(client: Client, opened: Opened) -> Result<Self, ClientError> {
        let backend = opened.backend.clone().ok_or(ClientError::Incomplete("the opened backend"))?;
        let touched = Touched::default();
        touched.learn(&opened.states);
        Ok(Self { client, backend, opened, touched })
    }

    /// Everything that the daemon answered when it opened.
    #[must_use]
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Name and epoch, as the calls of [`Client`] need them.
    #[must_use]
    pub fn reference(&self) -> &BackendRef {
        &self.backend
    }

    /// The epoch of this owner.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.backend.epoch.clone().unwrap_or_default()
    }

    /// The restored checkpoint; `None` if it started empty.
    #[must_use]
    pub fn checkpoint(&self) -> Option<&CheckpointIdentity> {
        self.opened.checkpoint.as_ref()
    }

    /// The attachment of the restored checkpoint; empty if it had none, or has several [parts](Self::parts).
    #[must_use]
    pub fn attachment(&self) -> &Bytes {
        &self.opened.attachment
    }

    /// The parts of the restored checkpoint, by subtask, each with its attachment. There is one part, unless the
    /// operator was rescaled.
    #[must_use]
    pub fn parts(&self) -> &[RestoredPart] {
        &self.opened.parts
    }

    /// The next batch number at open: 0, or more if a running backend was found.
    #[must_use]
    pub fn applied_to(&self) -> u64 {
        self.opened.applied_to
    }

    /// The states that the backend had at open.
    #[must_use]
    pub fn states(&self) -> &[RegisteredState] {
        &self.opened.states
    }

    /// Registers states, all or none, and returns them in order. Idempotent and cancel-safe.
    ///
    /// # Errors
    /// The error of the daemon, for example if the name is registered with another descriptor.
    pub async fn register(&self, states: &[StateDescriptor]) -> Result<Vec<RegisteredState>, ClientError> {
        self.register_with(states, &[]).await
    }

    pub(super) fn touched(&self) -> &Touched {
        &self.touched
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    async fn register_one(&self, name: &str, kind: StateKind, options: StateOptions) -> Result<u32, ClientError> {
        let state = name.to_owned();
        let change = options.is_compatible().then_some(SchemaChange { state, mode: Mode::Compatible.into() });
        let registered = self.register_with(&[options.descriptor(name, kind)], change.as_slice()).await?;
        registered.first().map(|state| state.id).ok_or(ClientError::Incomplete("the registered state"))
    }

    /// Registers a state with one value per key.
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    pub async fn value_state<K: ?Sized, V: ?Sized>(
        &self,
        name: &str,
        options: StateOptions,
    ) -> Result<ValueState<K, V>, ClientError> {
        Ok(ValueState::from_id(self.register_one(name, StateKind::Value, options).await?))
    }

    /// Registers a state with a map per key.
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    pub async fn map_state<K: ?Sized, M: ?Sized, V: ?Sized>(
        &self,
        name: &str,
        options: StateOptions,
    ) -> Result<MapState<K, M, V>, ClientError> {
        Ok(MapState::from_id(self.register_one(name, StateKind::Map, options).await?))
    }

    /// Registers a state with a list per key.
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    pub async fn list_state<K: ?Sized, V: ?Sized>(
        &self,
        name: &str,
        options: StateOptions,
    ) -> Result<ListState<K, V>, ClientError> {
        Ok(ListState::from_id(self.register_one(name, StateKind::List, options).await?))
    }

    /// Registers timers.
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    pub async fn timer_state<K: ?Sized, N: ?Sized>(
        &self,
        name: &str,
        options: StateOptions,
    ) -> Result<TimerState<K, N>, ClientError> {
        Ok(TimerState::from_id(self.register_one(name, StateKind::Timer, options).await?))
    }

    /// Registers a state with one value per key, into which `function` folds inputs in the client. For the daemon it is
    /// a value state. If one of the daemon's [merge functions](crate::types::MergeFunction) will do, it saves the read.
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    pub async fn aggregating_state<K: ?Sized, A: Aggregate>(
        &self,
        name: &str,
        function: A,
        options: StateOptions,
    ) -> Result<AggregatingState<K, A>, ClientError> {
        Ok(AggregatingState::new(self.value_state(name, options).await?, function))
    }

    /// Registers a state like [`aggregating_state`](Self::aggregating_state), where inputs, accumulators and results
    /// have one type: `function` makes one value of two.
    pub async fn reducing_state<K: ?Sized, V, F>(
        &self,
        name: &str,
        function: F,
        options: StateOptions,
    ) -> Result<ReducingState<K, V, F>, ClientError>
    where
        Reduce<V, F>: Aggregate<Accumulator = V>,
    {
        self.aggregating_state(name, Reduce::new(function), options).await
    }

    /// Registers operator state: a list that belongs to the subtask; its key is `&()`. After a restore with another
    /// parallelism, [`Redistribution::Split`] cuts the elements of all subtasks evenly. With [`Redistribution::Union`],
    /// every restore gives each subtask the elements of all.
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    pub async fn operator_list<V: ?Sized>(
        &self,
        name: &str,
        redistribution: Redistribution,
        options: StateOptions,
    ) -> Result<ListState<(), V>, ClientError> {
        self.list_state(name, options.redistributed(redistribution)).await
    }

    /// Registers operator state: a map that is the same in every subtask; its key is `&()`.
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    pub async fn broadcast_map<M: ?Sized, V: ?Sized>(
        &self,
        name: &str,
        options: StateOptions,
    ) -> Result<MapState<(), M, V>, ClientError> {
        self.map_state(name, options.redistributed(Redistribution::Broadcast)).await
    }

    /// Opens the writer's session with default options; an older session of this backend ends.
    ///
    /// # Errors
    /// The error of the daemon, or of the call. The first stream is tried once.
    pub async fn session(&self) -> Result<Session, ClientError> {
        self.session_with(SessionOptions::default()).await
    }

    /// Opens the writer's session. Its worker runs on the current tokio runtime. Cancel-safe.
    ///
    /// # Errors
    /// As for [`session`](Self::session).
    pub async fn session_with(&self, options: SessionOptions) -> Result<Session, ClientError> {
        let (worker, ends) =
            Worker::start(self.client.clone(), self.backend.clone(), self.touched.clone(), options).await?;
        let id = self.backend.id.clone().unwrap_or_default();
        let span = tracing::info_span!("session", job = id.job, operator = id.operator, subtask = id.subtask);
        tokio::spawn(worker.run().instrument(span));
        Ok(Session::new(ends, *self.client.limits(), self.epoch().number))
    }

    /// Ends this owner: published checkpoints stay, all other state is dropped. Returns whether the daemon had the
    /// backend.
    ///
    /// # Errors
    /// The error of the daemon, or of the call.
    pub async fn close(self) -> Result<bool, ClientError> {
        self.client.close(&self.backend).await
    }
}

//! An opened backend.

use bytes::Bytes;
use tracing::Instrument as _;

use super::{
    Aggregate, AggregatingState, Client, ClientError, ListState, MapState, Reduce, ReducingState, Session,
    SessionOptions, StateOptions, TimerState, ValueState, touched::Touched, worker::Worker,
};
use crate::{
    proto::v1::{
        BackendRef, CheckpointIdentity, Epoch, Opened, RegisteredState, RestoredPart, SchemaChange, StateDescriptor,
        schema_change::Mode,
    },
    types::{Redistribution, StateKind},
};

/// A backend as its owner has it. Cheap to clone; dropping it closes nothing.
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

    /// Everything that the daemon told when it opened.
    #[must_use]
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Name and epoch, as the raw calls of [`Client`] want them.
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

    /// What the subtasks of the time of the restored checkpoint had of it, each with its attachment, by subtask: one
    /// part, unless the operator was rescaled.
    #[must_use]
    pub fn parts(&self) -> &[RestoredPart] {
        &self.opened.parts
    }

    /// The batch number that was expected at open: 0, or more if a running backend was found.
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
    /// What the daemon refused, as another descriptor under the same name.
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

    /// Registers a state with one value per key that `function` folds inputs into, here, in the client. The daemon
    /// knows it as a value state; where one of its [merge functions](crate::types::MergeFunction) does, that saves
    /// reading.
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

    /// The same where inputs, what is stored and the result are of one type, and `function` makes one of two.
    ///
    /// # Errors
    /// As for [`register`](Self::register).
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

    /// Registers operator state: a list of the subtask, not of a key, which is `&()`. With [`Redistribution::Split`] a
    /// restore with another parallelism cuts the elements of all subtasks evenly, with [`Redistribution::Union`] every
    /// restore gives each subtask the elements of all.
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

    /// Registers operator state: a map of the subtask, with the key `&()`, that is the same in every subtask.
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
    /// What the daemon refused, or what the call met. The first stream is tried once.
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

    /// Ends this owner: published checkpoints stay, all else is dropped. Returns whether the daemon had the backend.
    ///
    /// # Errors
    /// What the daemon refused, or what the call met.
    pub async fn close(self) -> Result<bool, ClientError> {
        self.client.close(&self.backend).await
    }
}

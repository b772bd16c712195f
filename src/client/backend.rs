//! An opened backend.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use tokio::sync::watch;
use tracing::Instrument as _;

use super::{
    Client, ClientError, ListState, MapState, Session, SessionOptions, StateOptions, ValueState, worker::Worker,
};
use crate::{
    proto::v1::{BackendRef, CheckpointIdentity, Epoch, Opened, RegisteredState, RestoredPart, StateDescriptor, ttl},
    types::StateKind,
};

/// A backend as its owner has it. Cheap to clone; dropping it closes nothing.
#[derive(Debug, Clone)]
pub struct Backend {
    client: Client,
    backend: BackendRef,
    opened: Opened,
    /// Ids of states whose entries are touched by reads, so that these cost credit.
    touched_by_reads: Arc<watch::Sender<BTreeSet<u32>>>,
}

impl Backend {
    pub(super) fn new(client: Client, opened: Opened) -> Result<Self, ClientError> {
        let backend = opened.backend.clone().ok_or(ClientError::Incomplete("the opened backend"))?;
        let touched_by_reads = Arc::new(watch::Sender::default());
        note_touched(&touched_by_reads, &opened.states);
        Ok(Self { client, backend, opened, touched_by_reads })
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

    /// What the subtasks of the time of the restored checkpoint had of it, each with its attachment, by subtask: one part, unless the
    /// operator was rescaled.
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

    /// Learns which states are touched by reads.
    pub(super) fn note_registered(&self, states: &[RegisteredState]) {
        note_touched(&self.touched_by_reads, states);
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    async fn register_one(&self, name: &str, kind: StateKind, options: StateOptions) -> Result<u32, ClientError> {
        let registered = self.register(&[options.descriptor(name, kind)]).await?;
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
        let touched = self.touched_by_reads.subscribe();
        let (worker, ends) = Worker::start(self.client.clone(), (self.backend.clone(), touched), options).await?;
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

/// Notes which of these states are touched by reads, as they are registered now.
fn note_touched(touched: &watch::Sender<BTreeSet<u32>>, states: &[RegisteredState]) {
    touched.send_modify(|touched| {
        for state in states {
            let ttl = state.descriptor.as_ref().and_then(|descriptor| descriptor.ttl.as_ref());
            if ttl.is_some_and(|ttl| ttl.update() == ttl::Update::OnReadAndWrite) {
                touched.insert(state.id);
            } else {
                touched.remove(&state.id);
            }
        }
    });
}

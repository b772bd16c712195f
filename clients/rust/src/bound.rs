//! Handles bound to a session: one operation at a time, awaited.
//!
//! Operations that are awaited at the same time are sent in one batch. A write is applied when its call returns. A call
//! that is dropped may have been sent.

use std::borrow::Borrow;

use super::{
    BatchBuilder, ClientError, Decode, Encode, ListState, MapState, Session, State, ValueState, state::encoded,
};
use crate::proto::v1::{OperationKind, OperationResult, Outcome};

const NO: &() = &();

/// A state handle bound to a session, made with its `on`. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bound<S> {
    state: S,
    session: Session,
}

impl<S: State> Bound<S> {
    pub(super) fn new(state: S, session: Session) -> Self {
        Self { state, session }
    }

    /// The handle without the session.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.state
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// The same state in another namespace.
    #[must_use]
    pub fn namespace(&self, namespace: &(impl Encode + ?Sized)) -> Self {
        let mut other = self.clone();
        other.state.scope_mut().set_namespace(encoded(namespace));
        other
    }

    /// The same state for keys of this key group; needed exactly if the backend's assignment is GIVEN.
    #[must_use]
    pub fn key_group(&self, key_group: u32) -> Self {
        let mut other = self.clone();
        other.state.scope_mut().set_key_group(key_group);
        other
    }

    /// Removes everything of `key` in this namespace. `key` must be of the handle's key type.
    ///
    /// # Errors
    /// The error of the daemon, or the reason why the session is over; the same for all operations here.
    pub async fn clear(&self, key: &(impl Encode + ?Sized)) -> Result<(), ClientError> {
        self.run(OperationKind::Clear, key, NO, NO).await.map(drop)
    }

    /// Merges the contents that `sources` have of `key` into this namespace, and clears them, as for session windows
    /// that meet. `key` must be of the handle's key type. The sources are distinct, and none is this namespace.
    /// [`Outcome::LimitReached`] means that a result would have become too long, and nothing was changed.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn merge_namespaces<N: Encode>(
        &self,
        key: &(impl Encode + ?Sized),
        sources: &[N],
    ) -> Result<Outcome, ClientError> {
        let mut operation = BatchBuilder::new();
        operation.merge_namespaces(&self.state, key, sources);
        Ok(self.session.operate(operation).await?.outcome())
    }

    async fn run<K, M, V>(
        &self,
        kind: OperationKind,
        key: &K,
        map_key: &M,
        value: &V,
    ) -> Result<OperationResult, ClientError>
    where
        K: Encode + ?Sized,
        M: Encode + ?Sized,
        V: Encode + ?Sized,
    {
        let mut operation = BatchBuilder::new();
        operation.one(&self.state, kind, key, map_key, value);
        self.session.operate(operation).await
    }
}

impl<K: ?Sized, V> Bound<ValueState<K, V>> {
    /// The value of `key`.
    ///
    /// # Errors
    /// As for every operation, or [`ClientError::Malformed`] if the stored bytes are not a `V`.
    pub async fn get<Q>(&self, key: &Q) -> Result<Option<V>, ClientError>
    where
        K: Borrow<Q>,
        V: Decode,
        Q: Encode + ?Sized,
    {
        found(self.run(OperationKind::Get, key, NO, NO).await?)
    }

    /// The value of `key`, or else the state's default value.
    ///
    /// # Errors
    /// As for [`get`](Self::get); also if the state has no default value, unless empty bytes are a `V`.
    pub async fn get_or_default<Q>(&self, key: &Q) -> Result<V, ClientError>
    where
        K: Borrow<Q>,
        V: Decode,
        Q: Encode + ?Sized,
    {
        V::decode(self.run(OperationKind::Get, key, NO, NO).await?.value)
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn put<Q, W>(&self, key: &Q, value: &W) -> Result<(), ClientError>
    where
        K: Borrow<Q>,
        V: Borrow<W>,
        Q: Encode + ?Sized,
        W: Encode + ?Sized,
    {
        self.run(OperationKind::Put, key, NO, value).await.map(drop)
    }

    /// Merges `value` into the value of `key`. [`Outcome::LimitReached`] means that the result would have become too
    /// long, and nothing was changed.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn merge<Q, W>(&self, key: &Q, value: &W) -> Result<Outcome, ClientError>
    where
        K: Borrow<Q>,
        V: Borrow<W>,
        Q: Encode + ?Sized,
        W: Encode + ?Sized,
    {
        Ok(self.run(OperationKind::Merge, key, NO, value).await?.outcome())
    }

    /// Merges an operand that has another form than the value; see
    /// [`BatchBuilder::merge_operand`](super::BatchBuilder::merge_operand).
    ///
    /// # Errors
    /// As for every operation.
    pub async fn merge_operand<Q>(&self, key: &Q, operand: &(impl Encode + ?Sized)) -> Result<Outcome, ClientError>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        Ok(self.run(OperationKind::Merge, key, NO, operand).await?.outcome())
    }
}

impl<K: ?Sized, M, V> Bound<MapState<K, M, V>> {
    /// The value of one entry.
    ///
    /// # Errors
    /// As for every operation, or [`ClientError::Malformed`] if the stored bytes are not a `V`.
    pub async fn get<Q, N>(&self, key: &Q, map_key: &N) -> Result<Option<V>, ClientError>
    where
        K: Borrow<Q>,
        M: Borrow<N>,
        V: Decode,
        Q: Encode + ?Sized,
        N: Encode + ?Sized,
    {
        found(self.run(OperationKind::MapGet, key, map_key, NO).await?)
    }

    /// Whether the map has this entry.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn contains<Q, N>(&self, key: &Q, map_key: &N) -> Result<bool, ClientError>
    where
        K: Borrow<Q>,
        M: Borrow<N>,
        Q: Encode + ?Sized,
        N: Encode + ?Sized,
    {
        Ok(self.run(OperationKind::MapContains, key, map_key, NO).await?.found)
    }

    /// Sets one entry.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn put<Q, N, W>(&self, key: &Q, map_key: &N, value: &W) -> Result<(), ClientError>
    where
        K: Borrow<Q>,
        M: Borrow<N>,
        V: Borrow<W>,
        Q: Encode + ?Sized,
        N: Encode + ?Sized,
        W: Encode + ?Sized,
    {
        self.run(OperationKind::MapPut, key, map_key, value).await.map(drop)
    }

    /// Merges `value` into one entry; see [`Bound::merge`] of values.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn merge<Q, N, W>(&self, key: &Q, map_key: &N, value: &W) -> Result<Outcome, ClientError>
    where
        K: Borrow<Q>,
        M: Borrow<N>,
        V: Borrow<W>,
        Q: Encode + ?Sized,
        N: Encode + ?Sized,
        W: Encode + ?Sized,
    {
        Ok(self.run(OperationKind::MapMerge, key, map_key, value).await?.outcome())
    }

    /// Merges an operand that has another form than the value into one entry.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn merge_operand<Q, N>(
        &self,
        key: &Q,
        map_key: &N,
        operand: &(impl Encode + ?Sized),
    ) -> Result<Outcome, ClientError>
    where
        K: Borrow<Q>,
        M: Borrow<N>,
        Q: Encode + ?Sized,
        N: Encode + ?Sized,
    {
        Ok(self.run(OperationKind::MapMerge, key, map_key, operand).await?.outcome())
    }

    /// Removes one entry, if it is there.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn remove<Q, N>(&self, key: &Q, map_key: &N) -> Result<(), ClientError>
    where
        K: Borrow<Q>,
        M: Borrow<N>,
        Q: Encode + ?Sized,
        N: Encode + ?Sized,
    {
        self.run(OperationKind::MapRemove, key, map_key, NO).await.map(drop)
    }

    /// Number of entries.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn count<Q>(&self, key: &Q) -> Result<u64, ClientError>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        Ok(self.run(OperationKind::MapCount, key, NO, NO).await?.count)
    }

    /// All entries in memory, ordered by the bytes of their keys; [`scan`](Self::scan) reads one after the other. Long
    /// maps take several reads, between which other writes may be applied.
    ///
    /// # Errors
    /// As for every operation, or [`ClientError::Malformed`] if stored bytes are not an `M` or `V`.
    pub async fn entries<Q>(&self, key: &Q) -> Result<Vec<(M, V)>, ClientError>
    where
        K: Borrow<Q>,
        M: Decode,
        V: Decode,
        Q: Encode + ?Sized,
    {
        self.scan(key).page_of(0).collect().await
    }
}

impl<K: ?Sized, V> Bound<ListState<K, V>> {
    /// All elements in memory; [`scan`](Self::scan) reads one after the other. Long lists take several reads, between
    /// which other writes may be applied.
    ///
    /// # Errors
    /// As for every operation, or [`ClientError::Malformed`] if stored bytes are not a `V`.
    pub async fn get<Q>(&self, key: &Q) -> Result<Vec<V>, ClientError>
    where
        K: Borrow<Q>,
        V: Decode,
        Q: Encode + ?Sized,
    {
        self.scan(key).page_of(0).collect().await
    }

    /// Appends one element.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn add<Q, W>(&self, key: &Q, value: &W) -> Result<(), ClientError>
    where
        K: Borrow<Q>,
        V: Borrow<W>,
        Q: Encode + ?Sized,
        W: Encode + ?Sized,
    {
        self.run(OperationKind::ListAdd, key, NO, value).await.map(drop)
    }

    /// Appends elements in order, all at once.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn add_all<Q>(&self, key: &Q, values: &[V]) -> Result<(), ClientError>
    where
        K: Borrow<Q>,
        V: Encode,
        Q: Encode + ?Sized,
    {
        let mut operation = BatchBuilder::new();
        operation.list_add_all(&self.state, key, values);
        self.session.operate(operation).await.map(drop)
    }

    /// Replaces the list; without `values` it is cleared.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn update<Q>(&self, key: &Q, values: &[V]) -> Result<(), ClientError>
    where
        K: Borrow<Q>,
        V: Encode,
        Q: Encode + ?Sized,
    {
        let mut operation = BatchBuilder::new();
        operation.list_update(&self.state, key, values);
        self.session.operate(operation).await.map(drop)
    }

    /// Number of elements.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn count<Q>(&self, key: &Q) -> Result<u64, ClientError>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        Ok(self.run(OperationKind::ListCount, key, NO, NO).await?.count)
    }
}

fn found<V: Decode>(result: OperationResult) -> Result<Option<V>, ClientError> {
    result.found.then(|| V::decode(result.value)).transpose()
}

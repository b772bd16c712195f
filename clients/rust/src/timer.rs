//! Timers of a session.

use std::borrow::Borrow;

use super::{BatchBuilder, Bound, ClientError, Decode, Encode, Scan, TimerState, state::private::Sealed as _};
use crate::proto::v1::{self, Operation, OperationKind, OperationResult};

/// A registered timer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timer<K, N> {
    /// The time at which it fires.
    pub time: i64,
    /// The key that it belongs to.
    pub key: K,
    /// The namespace that it belongs to.
    pub namespace: N,
    /// The key group of the key, which is needed to delete the timer if the backend's assignment is GIVEN.
    pub key_group: u32,
}

/// Timers that were read and deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fired<K, N> {
    /// The timers, in order of time, then key, then namespace.
    pub timers: Vec<Timer<K, N>>,
    /// Whether more timers up to the same time are left.
    pub more: bool,
}

impl<K: ?Sized, N: ?Sized> Bound<TimerState<K, N>> {
    /// Registers a timer of `key` in this namespace; an existing one stays. `time` is above the lowest `i64`.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn register<Q>(&self, key: &Q, time: i64) -> Result<(), ClientError>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        self.write(OperationKind::TimerRegister, key, time).await
    }

    /// Deletes a timer of `key` in this namespace, if it is there.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn delete<Q>(&self, key: &Q, time: i64) -> Result<(), ClientError>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        self.write(OperationKind::TimerDelete, key, time).await
    }

    async fn write<Q: Encode + ?Sized>(&self, kind: OperationKind, key: &Q, time: i64) -> Result<(), ClientError> {
        let mut operation = BatchBuilder::new();
        operation.timer(self.state(), kind, key, time);
        self.session().operate(operation).await.map(drop)
    }

    fn of_all(&self, kind: OperationKind, time: i64) -> Operation {
        let state = self.state().scope().operation(kind);
        Operation { namespace: bytes::Bytes::new(), key_group: None, time, ..state }
    }
}

impl<K, N> Bound<TimerState<K, N>>
where
    K: ToOwned<Owned: Decode> + ?Sized,
    N: ToOwned<Owned: Decode> + ?Sized,
{
    /// The timers of all keys and namespaces at or before `time`, in order of time, then key, then namespace (by their
    /// bytes).
    ///
    /// The effects of a timer must be written in the same batch as its deletion. Otherwise a crash between the two
    /// carries them out twice or never:
    ///
    /// ```no_run
    /// # use dstl_client::{ClientError, Session, TimerState, ValueState};
    /// # async fn fire(session: &Session, timers: &TimerState<String, i64>, fired: &ValueState<String, i64>,
    /// #     watermark: i64) -> Result<(), ClientError> {
    /// let mut due = timers.on(session).due(watermark);
    /// let mut batch = session.batch();
    /// while let Some(timer) = due.next().await? {
    ///     batch.timer_delete(&timers.namespace(&timer.namespace), &timer.key, timer.time);
    ///     batch.merge(fired, &timer.key, &1);
    /// }
    /// session.send(batch).await?.applied().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn due(&self, time: i64) -> Scan<Timer<K::Owned, N::Owned>> {
        Scan::new(self.session(), self.of_all(OperationKind::Timers, time), |result, operation| {
            operation.token = result.token.clone();
            Ok((timers(result)?, !operation.token.is_empty()))
        })
    }

    /// The first of all timers. Cancel-safe.
    ///
    /// # Errors
    /// As for every operation, or [`ClientError::Malformed`] if stored bytes are not a `K` or `N`.
    pub async fn peek(&self) -> Result<Option<Timer<K::Owned, N::Owned>>, ClientError> {
        self.due(i64::MAX).page_of(1).next().await
    }

    /// Number of timers of all keys and namespaces. With inner backend rocksdb this may take as long as reading all of
    /// them. Cancel-safe.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn count(&self) -> Result<u64, ClientError> {
        let mut operation = BatchBuilder::new();
        operation.push(&self.of_all(OperationKind::TimerCount, 0));
        Ok(self.session().operate(operation).await?.count)
    }

    /// Reads the timers of [`due`](Self::due), at most `limit` (0: as many as fit into a message), and deletes them. It
    /// saves a round trip for tasks that trigger no barrier until the effects of the timers are written. Not
    /// cancel-safe: if dropped, timers may be deleted without being returned.
    ///
    /// # Errors
    /// As for [`peek`](Self::peek); [`ClientError::AnswerLost`] if the stream broke after timers were deleted and
    /// before they were returned.
    pub async fn fire(&self, time: i64, limit: u64) -> Result<Fired<K::Owned, N::Owned>, ClientError> {
        let mut batch = BatchBuilder::new();
        let fire = batch.push(&Operation { limit, ..self.of_all(OperationKind::TimersFire, time) });
        let mut applied = self.session().send(batch).await?.applied().await?;
        let at = applied.results.iter().position(|result| result.operation as usize == fire);
        let result = at.map(|at| applied.results.swap_remove(at)).ok_or(ClientError::AnswerLost("fired timers"))?;
        let more = result.more;
        Ok(Fired { timers: timers(result)?, more })
    }
}

fn timers<K: Decode, N: Decode, C: FromIterator<Timer<K, N>>>(result: OperationResult) -> Result<C, ClientError> {
    let decoded = result.timers.into_iter().map(|v1::Timer { time, key, namespace, key_group }| {
        Ok(Timer { time, key: K::decode(key)?, namespace: N::decode(namespace)?, key_group })
    });
    decoded.collect()
}

//! Reading timers, and firing them.

use super::{BatchBuilder, ClientError, Decode, Scan, Session, TimerState, state::private::Sealed as _};
use dstl_proto::v1::{self, Operation, OperationKind, OperationResult};

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

impl<K, N> TimerState<K, N>
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
    /// let mut due = timers.due(watermark);
    /// let mut batch = session.batch();
    /// while let Some(timer) = due.next(session).await? {
    ///     batch.push(timers.namespace(&timer.namespace).delete(&timer.key, timer.time));
    ///     batch.push(fired.merge(&timer.key, &1));
    /// }
    /// session.send(batch).await?.applied().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn due(&self, time: i64) -> Scan<Timer<K::Owned, N::Owned>> {
        Scan::new(self.of_all(OperationKind::Timers, time), |result, operation| {
            operation.token = result.token.clone();
            Ok((timers(result)?, !operation.token.is_empty()))
        })
    }

    /// The first of all timers. Cancel-safe.
    ///
    /// # Errors
    /// As for every operation, or [`ClientError::Malformed`] if stored bytes are not a `K` or `N`.
    pub async fn peek(&self, session: &Session) -> Result<Option<Timer<K::Owned, N::Owned>>, ClientError> {
        self.due(i64::MAX).page_of(1).next(session).await
    }

    /// Number of timers of all keys and namespaces. With inner backend rocksdb this may take as long as reading all of
    /// them. Cancel-safe.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn count(&self, session: &Session) -> Result<u64, ClientError> {
        Ok(session.run(&self.of_all(OperationKind::TimerCount, 0)).await?.count)
    }

    fn of_all(&self, kind: OperationKind, time: i64) -> Operation {
        let state = self.scope().operation(kind);
        Operation { namespace: bytes::Bytes::new(), key_group: None, time, ..state }
    }

    /// Reads the timers of [`due`](Self::due), at most `limit` (0: as many as fit into a message), and deletes them. It
    /// saves a round trip for tasks that trigger no barrier until the effects of the timers are written. Not
    /// cancel-safe: if dropped, timers may be deleted without being returned.
    ///
    /// # Errors
    /// As for [`peek`](Self::peek); [`ClientError::AnswerLost`] if the stream broke after timers were deleted and
    /// before they were returned.
    pub async fn fire(
        &self,
        session: &Session,
        time: i64,
        limit: u64,
    ) -> Result<Fired<K::Owned, N::Owned>, ClientError> {
        let mut batch = BatchBuilder::new();
        batch.push(&Operation { limit, ..self.of_all(OperationKind::TimersFire, time) });
        let mut applied = session.send(batch).await?.applied().await?;
        // Firing is a write. If it was applied before a break of the stream, its result does not come again.
        let result = applied.results.pop().ok_or(ClientError::AnswerLost("fired timers"))?;
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

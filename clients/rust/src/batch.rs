//! Builds batches for bulk work, and reads their results.

use std::borrow::Borrow;

use bytes::Bytes;

use super::{
    ClientError, Decode, Encode, ListState, MapState, State, TimerState, ValueState,
    touched::Touched,
    wire::{self, Fields, Target},
};
use crate::proto::v1::{Limits, Operation, OperationKind, OperationResult};

const NO: &() = &();

/// A batch that is being built. Every operation is written straight into the bytes that will be sent.
///
/// Each method returns the index of its operation, by which [`Applied`] finds its result. Keys and values are accepted
/// in any borrowed form of the handle's type (`&str` for `String`).
///
/// ```
/// use dstl_client::{BatchBuilder, ValueState};
///
/// let counts: ValueState<String, i64> = ValueState::from_id(1);
/// let mut batch = BatchBuilder::new();
/// batch.merge(&counts, "flink", &1);
/// let read = batch.get(&counts, "flink");
/// assert_eq!((read, batch.operations()), (1, 2));
/// ```
#[derive(Debug, Clone, Default)]
pub struct BatchBuilder {
    bytes: Vec<u8>,
    operations: u32,
    reads: u32,
}

/// One operation as slices, for callers with encodings of their own; see `Operation` in the protocol.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawOperation<'a> {
    /// The kind of operation.
    pub kind: OperationKind,
    /// The state's id.
    pub state: u32,
    /// The key, which is required.
    pub key: &'a [u8],
    /// The namespace; empty for the void namespace.
    pub namespace: &'a [u8],
    /// The map key, for operations on map entries.
    pub map_key: &'a [u8],
    /// The value, for writes.
    pub value: &'a [u8],
    /// The first index, for LIST_GET.
    pub start: u64,
    /// The most entries, for LIST_GET and MAP_ENTRIES.
    pub limit: u64,
    /// The key group, if the client assigns key groups.
    pub key_group: Option<u32>,
}

/// A finished batch.
#[derive(Debug, Clone)]
pub(super) struct Sealed {
    pub(super) operations: Bytes,
    pub(super) count: u32,
    pub(super) reads: u32,
    /// Whether a read touches the entry that it reads, and so is a write as well.
    pub(super) touches: bool,
}

impl Sealed {
    pub(super) fn writes(&self) -> bool {
        self.touches || self.count > self.reads
    }

    /// Finds out whether a read touches its entry.
    pub(super) fn look_for_touches(&mut self, touched: &Touched) {
        self.touches = self.reads > 0 && touched.has_any_of(&self.operations);
    }
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch with room for `bytes`.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Number of operations so far.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.operations as usize
    }

    /// Encoded length so far in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no operation.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations == 0
    }

    /// Sets a value.
    #[inline]
    pub fn put<K, V, Q, W>(&mut self, state: &ValueState<K, V>, key: &Q, value: &W) -> usize
    where
        K: Borrow<Q> + ?Sized,
        V: Borrow<W> + ?Sized,
        Q: Encode + ?Sized,
        W: Encode + ?Sized,
    {
        self.one(state, OperationKind::Put, key, NO, value)
    }

    /// Merges `value` into a value.
    #[inline]
    pub fn merge<K, V, Q, W>(&mut self, state: &ValueState<K, V>, key: &Q, value: &W) -> usize
    where
        K: Borrow<Q> + ?Sized,
        V: Borrow<W> + ?Sized,
        Q: Encode + ?Sized,
        W: Encode + ?Sized,
    {
        self.one(state, OperationKind::Merge, key, NO, value)
    }

    /// Merges an operand that has another form than the value: a thing to count for `HyperLogLog`, one number for an
    /// average, `()` to count one.
    #[inline]
    pub fn merge_operand<K, V, Q>(
        &mut self,
        state: &ValueState<K, V>,
        key: &Q,
        operand: &(impl Encode + ?Sized),
    ) -> usize
    where
        K: Borrow<Q> + ?Sized,
        V: ?Sized,
        Q: Encode + ?Sized,
    {
        self.one(state, OperationKind::Merge, key, NO, operand)
    }

    /// Reads a value; [`Applied::value`] returns it.
    #[inline]
    pub fn get<K, V, Q>(&mut self, state: &ValueState<K, V>, key: &Q) -> usize
    where
        K: Borrow<Q> + ?Sized,
        V: ?Sized,
        Q: Encode + ?Sized,
    {
        self.one(state, OperationKind::Get, key, NO, NO)
    }

    /// Removes everything of `key` in the handle's namespace. `key` must be of the handle's key type.
    #[inline]
    pub fn clear(&mut self, state: &impl State, key: &(impl Encode + ?Sized)) -> usize {
        self.one(state, OperationKind::Clear, key, NO, NO)
    }

    /// Merges the contents that `sources` have of `key` into the handle's namespace, and clears them, as for session
    /// windows that meet. `key` must be of the handle's key type. The sources are distinct, and none is the handle's
    /// namespace.
    pub fn merge_namespaces<N: Encode>(
        &mut self,
        state: &impl State,
        key: &(impl Encode + ?Sized),
        sources: &[N],
    ) -> usize {
        self.elements(state, OperationKind::MergeNamespaces, key, sources)
    }

    /// Sets one entry of a map.
    #[inline]
    pub fn map_put<K, M, V, Q, N, W>(&mut self, state: &MapState<K, M, V>, key: &Q, map_key: &N, value: &W) -> usize
    where
        K: Borrow<Q> + ?Sized,
        M: Borrow<N> + ?Sized,
        V: Borrow<W> + ?Sized,
        Q: Encode + ?Sized,
        N: Encode + ?Sized,
        W: Encode + ?Sized,
    {
        self.one(state, OperationKind::MapPut, key, map_key, value)
    }

    /// Merges `value` into one entry of a map.
    #[inline]
    pub fn map_merge<K, M, V, Q, N, W>(&mut self, state: &MapState<K, M, V>, key: &Q, map_key: &N, value: &W) -> usize
    where
        K: Borrow<Q> + ?Sized,
        M: Borrow<N> + ?Sized,
        V: Borrow<W> + ?Sized,
        Q: Encode + ?Sized,
        N: Encode + ?Sized,
        W: Encode + ?Sized,
    {
        self.one(state, OperationKind::MapMerge, key, map_key, value)
    }

    /// Merges an operand that has another form than the value into one entry of a map; see
    /// [`merge_operand`](Self::merge_operand).
    #[inline]
    pub fn map_merge_operand<K, M, V, Q, N>(
        &mut self,
        state: &MapState<K, M, V>,
        key: &Q,
        map_key: &N,
        operand: &(impl Encode + ?Sized),
    ) -> usize
    where
        K: Borrow<Q> + ?Sized,
        M: Borrow<N> + ?Sized,
        V: ?Sized,
        Q: Encode + ?Sized,
        N: Encode + ?Sized,
    {
        self.one(state, OperationKind::MapMerge, key, map_key, operand)
    }

    /// Reads one entry of a map; [`Applied::value`] returns it.
    #[inline]
    pub fn map_get<K, M, V, Q, N>(&mut self, state: &MapState<K, M, V>, key: &Q, map_key: &N) -> usize
    where
        K: Borrow<Q> + ?Sized,
        M: Borrow<N> + ?Sized,
        V: ?Sized,
        Q: Encode + ?Sized,
        N: Encode + ?Sized,
    {
        self.one(state, OperationKind::MapGet, key, map_key, NO)
    }

    /// Removes one entry of a map, if it is there.
    #[inline]
    pub fn map_remove<K, M, V, Q, N>(&mut self, state: &MapState<K, M, V>, key: &Q, map_key: &N) -> usize
    where
        K: Borrow<Q> + ?Sized,
        M: Borrow<N> + ?Sized,
        V: ?Sized,
        Q: Encode + ?Sized,
        N: Encode + ?Sized,
    {
        self.one(state, OperationKind::MapRemove, key, map_key, NO)
    }

    /// Appends one element to a list.
    #[inline]
    pub fn list_add<K, V, Q, W>(&mut self, state: &ListState<K, V>, key: &Q, value: &W) -> usize
    where
        K: Borrow<Q> + ?Sized,
        V: Borrow<W> + ?Sized,
        Q: Encode + ?Sized,
        W: Encode + ?Sized,
    {
        self.one(state, OperationKind::ListAdd, key, NO, value)
    }

    /// Appends elements to a list, in order.
    pub fn list_add_all<K, V, Q>(&mut self, state: &ListState<K, V>, key: &Q, values: &[V]) -> usize
    where
        K: Borrow<Q> + ?Sized,
        V: Encode,
        Q: Encode + ?Sized,
    {
        self.elements(state, OperationKind::ListAddAll, key, values)
    }

    /// Replaces a list; without `values` it is cleared.
    pub fn list_update<K, V, Q>(&mut self, state: &ListState<K, V>, key: &Q, values: &[V]) -> usize
    where
        K: Borrow<Q> + ?Sized,
        V: Encode,
        Q: Encode + ?Sized,
    {
        self.elements(state, OperationKind::ListUpdate, key, values)
    }

    /// Registers a timer of `key` in the handle's namespace; an existing one stays. `time` is above the lowest `i64`.
    #[inline]
    pub fn timer_register<K, N, Q>(&mut self, state: &TimerState<K, N>, key: &Q, time: i64) -> usize
    where
        K: Borrow<Q> + ?Sized,
        N: ?Sized,
        Q: Encode + ?Sized,
    {
        self.timer(state, OperationKind::TimerRegister, key, time)
    }

    /// Deletes a timer of `key` in the handle's namespace, if it is there.
    #[inline]
    pub fn timer_delete<K, N, Q>(&mut self, state: &TimerState<K, N>, key: &Q, time: i64) -> usize
    where
        K: Borrow<Q> + ?Sized,
        N: ?Sized,
        Q: Encode + ?Sized,
    {
        self.timer(state, OperationKind::TimerDelete, key, time)
    }

    /// Appends any operation of the protocol.
    pub fn push(&mut self, operation: &Operation) -> usize {
        prost::encoding::message::encode(2, operation, &mut self.bytes);
        self.counted(operation.kind())
    }

    /// Appends an operation given as slices; it is copied only into the batch.
    #[inline]
    pub fn push_raw(&mut self, operation: &RawOperation<'_>) -> usize {
        let target = Target {
            kind: operation.kind,
            state: operation.state,
            namespace: operation.namespace,
            key_group: operation.key_group,
        };
        let fields = Fields {
            key: operation.key,
            map_key: operation.map_key,
            value: operation.value,
            start: operation.start,
            limit: operation.limit,
        };
        wire::put_operation(&mut self.bytes, &target, &fields);
        self.counted(operation.kind)
    }

    #[inline]
    pub(super) fn one<K, M, V>(
        &mut self,
        state: &impl State,
        kind: OperationKind,
        key: &K,
        map_key: &M,
        value: &V,
    ) -> usize
    where
        K: Encode + ?Sized,
        M: Encode + ?Sized,
        V: Encode + ?Sized,
    {
        let fields = Fields { key, map_key, value, start: 0, limit: 0 };
        wire::put_operation(&mut self.bytes, &state.scope().target(kind), &fields);
        self.counted(kind)
    }

    #[inline]
    pub(super) fn timer<Q>(&mut self, state: &impl State, kind: OperationKind, key: &Q, time: i64) -> usize
    where
        Q: Encode + ?Sized,
    {
        wire::put_timer(&mut self.bytes, &state.scope().target(kind), key, time);
        self.counted(kind)
    }

    fn elements<K, V>(&mut self, state: &impl State, kind: OperationKind, key: &K, values: &[V]) -> usize
    where
        K: Encode + ?Sized,
        V: Encode,
    {
        wire::put_elements(&mut self.bytes, &state.scope().target(kind), key, values);
        self.counted(kind)
    }

    #[inline]
    fn counted(&mut self, kind: OperationKind) -> usize {
        let index = self.operations;
        self.operations += 1;
        self.reads += u32::from(wire::is_read(kind));
        index as usize
    }

    /// Adds the operations of another batch behind those of this one.
    pub(super) fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.operations += other.operations;
        self.reads += other.reads;
    }

    /// The greatest length of its request in bytes.
    pub(super) fn seal_len(&self) -> u64 {
        (self.bytes.len() + wire::BATCH_OVERHEAD) as u64
    }

    /// Whether the daemon would accept this batch with the operations of `other` behind it.
    pub(super) fn has_room_for(&self, other: &Self, limits: &Limits) -> bool {
        self.seal_len() + other.seal_len() <= limits.max_message_bytes
            && u64::from(self.operations) + u64::from(other.operations) <= limits.max_batch_operations
    }

    /// The batch itself, if the daemon would accept it.
    ///
    /// # Errors
    /// [`ClientError::BatchTooLarge`] if it would not.
    pub(super) fn checked(self, limits: &Limits) -> Result<Self, ClientError> {
        if self.seal_len() > limits.max_message_bytes || u64::from(self.operations) > limits.max_batch_operations {
            return Err(ClientError::BatchTooLarge {
                bytes: self.bytes.len() + wire::BATCH_OVERHEAD,
                operations: self.operations(),
                max_bytes: limits.max_message_bytes,
                max_operations: limits.max_batch_operations,
            });
        }
        Ok(self)
    }

    /// Finishes the batch.
    ///
    /// # Errors
    /// As for [`checked`](Self::checked).
    pub(super) fn seal(self, limits: &Limits) -> Result<Sealed, ClientError> {
        let batch = self.checked(limits)?;
        let (operations, count, reads) = (batch.bytes.into(), batch.operations, batch.reads);
        Ok(Sealed { operations, count, reads, touches: false })
    }
}

/// A batch that was applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Its final number. Every `applied_to` above it covers the batch.
    pub number: u64,
    /// The results of its operations, in order of `operation`: one for each read, and one for each write whose outcome
    /// is not DONE. Writes that were applied before a broken stream have none.
    pub results: Vec<OperationResult>,
}

impl Applied {
    /// The result of the operation with this index, if it has one.
    #[must_use]
    pub fn result(&self, operation: usize) -> Option<&OperationResult> {
        let index = u32::try_from(operation).ok()?;
        let position = self.results.binary_search_by_key(&index, |result| result.operation).ok()?;
        self.results.get(position)
    }

    /// The value that a GET found, or else the state's default value.
    ///
    /// # Errors
    /// As for [`value`](Self::value); [`ClientError::Malformed`] also if there is neither, and empty bytes are not a
    /// `V`.
    pub fn value_or_default<V: Decode>(&self, operation: usize) -> Result<V, ClientError> {
        let result = self.result(operation).ok_or(ClientError::Incomplete("the result of a read"))?;
        V::decode(result.value.clone())
    }

    /// The value that a GET or MAP_GET found.
    ///
    /// # Errors
    /// [`ClientError::Malformed`] if it is not a `V`; [`ClientError::Incomplete`] if the operation is not a read.
    pub fn value<V: Decode>(&self, operation: usize) -> Result<Option<V>, ClientError> {
        let result = self.result(operation).ok_or(ClientError::Incomplete("the result of a read"))?;
        result.found.then(|| V::decode(result.value.clone())).transpose()
    }
}

/// Keeps the reads whose index is `wanted`; `None` if there are none. The second part of the result has their former
/// indexes.
///
/// # Errors
/// [`ClientError::Incomplete`] if the batch is incomplete.
pub(super) fn only_reads(
    batch: &Sealed,
    wanted: impl Fn(u32) -> bool,
) -> Result<Option<(Sealed, Vec<u32>)>, ClientError> {
    let mut bytes = Vec::new();
    let mut indexes = Vec::new();
    for (index, part) in (0..).zip(wire::split_operations(&batch.operations)?) {
        if wire::part_is_read(&part) && wanted(index) {
            bytes.extend_from_slice(&part);
            indexes.push(index);
        }
    }
    let count = u32::try_from(indexes.len()).expect("operations are counted in 32 bits");
    Ok((count > 0).then(|| (Sealed { operations: bytes.into(), count, reads: count, touches: false }, indexes)))
}

/// Cuts a batch of several operations in two; the first part has `first` operations.
///
/// # Errors
/// [`ClientError::Incomplete`] if the batch is incomplete.
pub(super) fn split(batch: &Sealed, first: usize) -> Result<(Sealed, Sealed), ClientError> {
    let parts = wire::split_operations(&batch.operations)?;
    let bytes: usize = parts.iter().take(first).map(Bytes::len).sum();
    let reads = parts.iter().take(first).filter(|part| wire::part_is_read(part)).count();
    let mut tail = batch.operations.clone();
    let head = tail.split_to(bytes);
    let counted = |count: usize| u32::try_from(count).expect("operations are counted in 32 bits");
    let (first, reads) = (counted(first), counted(reads));
    let tail = Sealed { operations: tail, count: batch.count - first, reads: batch.reads - reads, touches: false };
    Ok((Sealed { operations: head, count: first, reads, touches: false }, tail))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::{Average, proto::v1::Batch, types::Sketch};

    #[test]
    fn typed_operations_are_those_of_the_protocol() {
        let map: MapState<String, u64, String> = MapState::from_id(3);
        let mut batch = BatchBuilder::new();
        batch.map_put(&map.namespace(&7_u64).key_group(0), "k", &1, "v");
        let expected = Operation {
            kind: OperationKind::MapPut.into(),
            state: 3,
            key: "k".into(),
            namespace: 7_u64.to_le_bytes().to_vec().into(),
            map_key: 1_u64.to_le_bytes().to_vec().into(),
            value: "v".into(),
            key_group: Some(0),
            ..Operation::default()
        };
        batch.push(&expected);
        let decoded = Batch::decode(Bytes::from(batch.bytes)).unwrap();
        assert_eq!(decoded.operations, [expected.clone(), expected]);
    }

    #[test]
    fn operands_and_sources_are_those_of_the_protocol() {
        let things: ValueState<str, Sketch> = ValueState::from_id(4);
        let means: MapState<str, str, Average<i64>> = MapState::from_id(5);
        let mut batch = BatchBuilder::new();
        batch.merge_operand(&things, "k", "thing");
        batch.map_merge_operand(&means, "k", "m", &7_i64);
        batch.map_merge(&means, "k", "m", &Average { sum: 7, count: 1 });
        batch.merge_namespaces(&things.namespace("all"), "k", &["a", ""]);
        let operation = |kind: OperationKind, state| Operation {
            kind: kind.into(),
            state,
            key: "k".into(),
            ..Operation::default()
        };
        let seven = 7_i64.to_le_bytes();
        let average = [seven, 1_i64.to_le_bytes()].concat();
        let merge = Operation { map_key: "m".into(), ..operation(OperationKind::MapMerge, 5) };
        let expected = [
            Operation { value: "thing".into(), ..operation(OperationKind::Merge, 4) },
            Operation { value: seven.to_vec().into(), ..merge.clone() },
            Operation { value: average.into(), ..merge },
            Operation {
                namespace: "all".into(),
                values: vec!["a".into(), Bytes::new()],
                ..operation(OperationKind::MergeNamespaces, 4)
            },
        ];
        let batch = batch.seal(&Limits { max_message_bytes: 1000, max_batch_operations: 4, ..Limits::default() });
        let batch = batch.unwrap();
        assert_eq!((batch.count, batch.reads), (4, 0));
        assert_eq!(Batch::decode(batch.operations).unwrap().operations, expected);
    }

    #[test]
    fn reads_are_asked_again_alone() {
        let counts: ValueState<String, i64> = ValueState::from_id(1);
        let mut batch = BatchBuilder::new();
        batch.merge(&counts, "a", &1);
        batch.get(&counts, "a");
        batch.clear(&counts, "b");
        batch.get(&counts, "b");
        let sealed = batch.seal(&Limits { max_message_bytes: 1000, max_batch_operations: 4, ..Limits::default() });
        let sealed = sealed.unwrap();
        let (reads, indexes) = only_reads(&sealed, |_| true).unwrap().unwrap();
        assert_eq!(indexes, [1, 3]);
        assert_eq!(only_reads(&sealed, |index| index > 1).unwrap().unwrap().1, [3]);
        assert!(!reads.writes());
        assert_eq!(Batch::decode(reads.operations).unwrap().operations.len(), 2);
    }

    #[test]
    fn what_the_daemon_would_not_take_is_not_sent() {
        let counts: ValueState<u64, i64> = ValueState::from_id(1);
        let mut batch = BatchBuilder::new();
        batch.put(&counts, &1, &1);
        batch.put(&counts, &2, &1);
        let limits = Limits { max_message_bytes: 1000, max_batch_operations: 1, ..Limits::default() };
        assert!(matches!(batch.seal(&limits), Err(ClientError::BatchTooLarge { operations: 2, .. })));
    }
}

//! Builds batches for bulk work, and reads their results.

use std::fmt;

use bytes::Bytes;

use super::{ClientError, Op, op::Reader, touched::Touched, wire};
use dstl_proto::v1::{Limits, OperationKind, OperationResult};

/// A batch that is being built. Every operation is written straight into the bytes that will be sent.
///
/// ```
/// # use dstl_client::{ClientError, Session, ValueState};
/// # async fn count(session: &Session) -> Result<(), ClientError> {
/// let counts: ValueState<String, i64> = ValueState::from_id(1);
/// let mut batch = session.batch();
/// batch.push(counts.merge("flink", &1));
/// let read = batch.push(counts.get("flink"));
/// let applied = session.send(batch).await?.applied().await?;
/// println!("{:?}", applied.get(read)?);
/// # Ok(())
/// # }
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

    /// Appends an operation. The slot finds its result in [`Applied`].
    #[inline]
    pub fn push<O: Op>(&mut self, operation: O) -> Slot<O::Output> {
        let kind = operation.put(&mut self.bytes);
        let (index, is_read) = (self.operations, wire::is_read(kind));
        self.operations += 1;
        self.reads += u32::from(is_read);
        Slot { index, is_read, reader: operation.reader() }
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
        // In a batch of reads alone, each result has the position of its operation.
        if let Some(result) = self.results.get(operation).filter(|result| result.operation == index) {
            return Some(result);
        }
        let position = self.results.binary_search_by_key(&index, |result| result.operation).ok()?;
        self.results.get(position)
    }

    /// The result of the operation that was pushed into this slot.
    ///
    /// # Errors
    /// [`ClientError::Malformed`] if stored bytes do not fit the handle's types; [`ClientError::Incomplete`] if a read
    /// has no result.
    pub fn get<R>(&self, slot: Slot<R>) -> Result<R, ClientError> {
        match self.result(slot.index as usize) {
            Some(result) => (slot.reader)(result),
            None if slot.is_read => Err(ClientError::Incomplete("the result of a read")),
            None => (slot.reader)(&OperationResult::default()),
        }
    }
}

/// The place of one operation in a batch.
pub struct Slot<R> {
    index: u32,
    is_read: bool,
    reader: Reader<R>,
}

impl<R> Clone for Slot<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Slot<R> {}

impl<R> fmt::Debug for Slot<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.index).finish()
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
    // Both parts share the bytes of the batch.
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
    use dstl_proto::{
        types::Sketch,
        v1::{Batch, Operation},
    };
    use prost::Message as _;

    use super::*;
    use crate::{Average, MapState, ValueState};

    #[test]
    fn typed_operations_are_those_of_the_protocol() {
        let map: MapState<String, u64, String> = MapState::from_id(3);
        let mut batch = BatchBuilder::new();
        batch.push(map.namespace(&7_u64).key_group(0).put("k", &1, "v"));
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
        batch.push(things.merge_operand("k", "thing"));
        batch.push(means.merge_operand("k", "m", &7_i64));
        batch.push(means.merge("k", "m", &Average { sum: 7, count: 1 }));
        batch.push(things.namespace("all").merge_namespaces("k", &["a", ""]));
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
        batch.push(counts.merge("a", &1));
        batch.push(counts.get("a"));
        batch.push(counts.clear("b"));
        batch.push(counts.get("b"));
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
        batch.push(counts.put(&1, &1));
        batch.push(counts.put(&2, &1));
        let limits = Limits { max_message_bytes: 1000, max_batch_operations: 1, ..Limits::default() };
        assert!(matches!(batch.seal(&limits), Err(ClientError::BatchTooLarge { operations: 2, .. })));
    }
}

//! Batches of updates, as a client sends them.

use bytes::Bytes;
use dstl::{
    backend::{Operation, hash_key_group},
    proto::v1::{self, OperationKind, SessionRequest, session_request::Request},
    rpc::stage,
    types::{BackendId, KeyGroup, KeyGroupRange, Name, StateDescriptor, StateId, StateKind},
};
use prost::Message as _;

use super::Fault;

/// Updates of a batch.
pub(crate) const BATCH: usize = 500;

/// Batches that a stage goes through, again and again.
pub(crate) const BATCHES: usize = 200;

/// Lengths of values.
pub(crate) const VALUE_BYTES: [usize; 2] = [8, 100];

/// Number of key groups, all of which the backend has.
pub(crate) const MAX_PARALLELISM: u32 = 128;

/// The only state.
pub(crate) const STATE: StateId = StateId(1);

/// The description of the state.
pub(crate) fn descriptor() -> StateDescriptor {
    StateDescriptor::new("values", StateKind::Value)
}

/// All key groups.
pub(crate) fn key_groups() -> Result<KeyGroupRange, Fault> {
    Ok(KeyGroupRange::new(0, MAX_PARALLELISM - 1)?)
}

/// The backend that the changes are of.
pub(crate) fn backend() -> Result<BackendId, Fault> {
    Ok(BackendId { job: Name::new("bench")?, operator: Name::new("stages")?, subtask: 0 })
}

/// Numbers that look random, the same in every run.
#[derive(Debug, Clone)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new() -> Self {
        Self(1)
    }

    /// The next number of the generator SplitMix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// So many bytes.
    fn bytes(&mut self, length: usize) -> Bytes {
        let words = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(length).collect::<Vec<_>>().into()
    }
}

/// A message with a batch that puts values of this length at these keys.
pub(crate) fn message(
    number: u64,
    keys: impl IntoIterator<Item = u64>,
    value_bytes: usize,
    numbers: &mut Numbers,
) -> Bytes {
    let operations = keys.into_iter().map(|key| v1::Operation {
        kind: OperationKind::Put.into(),
        state: STATE.0,
        key: Bytes::copy_from_slice(&key.to_le_bytes()),
        value: numbers.bytes(value_bytes),
        ..Default::default()
    });
    let batch = v1::Batch { number, operations: operations.collect() };
    SessionRequest { request: Some(Request::Batch(batch)) }.encode_to_vec().into()
}

/// Messages with batches of updates of random keys below `keys`.
pub(crate) fn messages(keys: u64, value_bytes: usize) -> Vec<Bytes> {
    let mut numbers = Numbers::new();
    let batch = |number| {
        let of: Vec<u64> = (0..BATCH).map(|_| numbers.next() % keys).collect();
        message(number, of, value_bytes, &mut numbers)
    };
    (0..BATCHES as u64).map(batch).collect()
}

/// The bytes of the batches in these messages.
pub(crate) fn batches(messages: &[Bytes]) -> Result<Vec<Bytes>, Fault> {
    let batches = messages.iter().map(|message| stage::batch(message).ok_or("not a batch in the usual form"));
    Ok(batches.collect::<Result<_, _>>()?)
}

/// The operations of a batch.
pub(crate) fn operations(batch: &[u8]) -> Result<Vec<Operation<'_>>, Fault> {
    let (_, operations) = stage::operations(batch, usize::MAX).ok_or("a batch that only prost can read")?;
    Ok(operations)
}

/// The key group of an operation.
pub(crate) fn key_group(operation: &Operation<'_>) -> KeyGroup {
    KeyGroup(u16::try_from(hash_key_group(operation.key, MAX_PARALLELISM)).unwrap_or_default())
}

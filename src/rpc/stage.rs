//! The door of benches to the decoder of sessions: the two steps by which a session reads a batch. No daemon has it.

use bytes::Bytes;

use super::codec;
use crate::backend::Operation;

/// The batch that a session's message consists of, in the form of any generated code; `None` for another message. The
/// bytes are not copied.
#[must_use]
pub fn batch(message: &Bytes) -> Option<Bytes> {
    match codec::decode_usual(message) {
        Some(codec::Incoming::Batch(batch)) => Some(batch),
        _ => None,
    }
}

/// The number of a batch, and its operations, which borrow from its bytes. `None` if it has more than `most`
/// operations, or has to be decoded by prost.
#[must_use]
pub fn operations(batch: &[u8], most: usize) -> Option<(u64, Vec<Operation<'_>>)> {
    codec::operations(batch, most)
}

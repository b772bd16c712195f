//! The contents of a piece of a snapshot: the state changes that rebuild the cells of one state and key group in one
//! range of stable hashes.
//!
//! ```text
//!   length varint │ state change │ length varint │ state change │ …
//! ```
//!
//! The format does not depend on the backend that was copied: any inner backend loads it by applying the changes.

use bytes::Bytes;

use super::{Change, StateError};
use crate::types::KeyGroup;

/// Collects the changes of one piece.
#[derive(Debug, Default)]
pub struct PieceBuilder {
    bytes: Vec<u8>,
    change: Vec<u8>,
    changes: u64,
}

/// The contents of one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceContents {
    /// The encoded changes, uncompressed.
    pub bytes: Bytes,
    /// Number of changes.
    pub changes: u64,
}

impl PieceBuilder {
    /// Adds one change.
    pub fn push(&mut self, change: &Change<'_>) {
        // The length stands before the change, so the change is encoded aside.
        self.change.clear();
        change.encode(&mut self.change);
        prost::encoding::encode_varint(self.change.len() as u64, &mut self.bytes);
        self.bytes.extend_from_slice(&self.change);
        self.changes += 1;
    }

    /// The collected contents; `None` if there are no changes.
    #[must_use]
    pub fn finish(self) -> Option<PieceContents> {
        (self.changes > 0).then(|| PieceContents { bytes: self.bytes.into(), changes: self.changes })
    }
}

/// The changes of a piece of `group`, in order. The iterator ends after an error.
pub fn changes(group: KeyGroup, raw: &[u8]) -> impl Iterator<Item = Result<Change<'_>, StateError>> {
    let mut rest = raw;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut after = rest;
        let length = prost::encoding::decode_varint(&mut after).ok().and_then(|length| usize::try_from(length).ok());
        let Some((change, next)) = length.and_then(|length| after.split_at_checked(length)) else {
            rest = &[];
            return Some(Err(StateError::Undecodable("a piece ends inside a change")));
        };
        rest = next;
        Some(Change::decode(group, change))
    })
}

//! The bytes of change sets: blocks of batch records, before compression.
//!
//! A change set is one block, or one per part of its backend's key groups ([`ChangeSetBuilder`]); then a batch has a
//! record in each block that one of its changes lies in.
//!
//! ```text
//!   block   = batch, batch, … to the end of the block; at least one
//!
//!   batch   = sqn gap: varint │ time: zigzag varint │ change, change, … (at least one) │ 0x00
//!   change  = key group + 1: varint │ length: varint │ that many bytes
//! ```
//!
//! * A varint is LEB128 as in protobuf: seven bits per byte, the lowest first, the high bit set on all but the last
//!   byte. It may be padded with bytes `0x80` before its last byte (the writer pads lengths, which it knows only
//!   afterwards); at most ten bytes.
//! * The sqn gap counts the sequence numbers that are skipped since the batch before (since the change set's `from` for
//!   the first batch). So sequence numbers increase strictly, and consecutive ones cost one byte.
//! * The time is the difference to the batch before (to 0 for the first batch) in milliseconds, modulo 2^64, zigzag as
//!   in protobuf.
//! * A key group of 0 is no change but the end of the batch. Operator state has the key group 65535, and blocks of its
//!   own.
//!
//! A block carries no checksum; the segment that holds it does. What the bytes of a change mean is not known here.

mod builder;
mod reader;
mod set;
mod varint;

use bytes::Bytes;

pub use self::{
    builder::BlockBuilder,
    reader::{Batch, BlockReader, Changes},
    set::ChangeSetBuilder,
};
use crate::types::{KeyGroupRange, Sqn, SqnRange};

/// Most bytes of one block before compression. The writer rolls over long before; a reader refuses more.
pub const MAX_BLOCK_BYTES: usize = 1 << 30;

/// Bytes from which on a change set is cut into several blocks: below, a reader gains less than its requests cost it.
pub const SPLIT_BYTES: usize = 64 << 10;

/// The contents of one finished change set. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeSetBody {
    /// At least one, of disjoint key groups, in their order.
    pub blocks: Vec<BlockBody>,
    /// From the first batch's sqn to one beyond the last batch's.
    pub range: SqnRange,
    /// Number of changes in all blocks, at least 1.
    pub changes: u64,
}

/// The contents of one finished block. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockBody {
    /// Uncompressed; never empty.
    pub bytes: Bytes,
    /// From the lowest to the highest key group that is changed.
    pub key_groups: KeyGroupRange,
}

impl ChangeSetBody {
    /// Bytes of all blocks, uncompressed.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.blocks.iter().map(|block| block.bytes.len() as u64).sum()
    }
}

/// Why bytes are no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("block byte {offset}: {fault}")]
pub struct BlockError {
    /// Where in the uncompressed block, from 0.
    pub offset: usize,
    /// What is wrong there.
    pub fault: BlockFault,
}

/// What can be wrong with a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// The block ends inside of a varint, or it has more than 64 bits.
    #[error("no varint")]
    Varint,
    /// The sequence number lies outside of the change set's range.
    #[error("a gap of {gap} after sqn {after} leaves the change set, which ends before {to}")]
    Sqn {
        /// The sequence number that the gap counts from.
        after: Sqn,
        /// The gap.
        gap: u64,
        /// The end of the range, exclusive.
        to: Sqn,
    },
    /// The key group is beyond the highest possible one.
    #[error("key group {0} does not exist")]
    KeyGroup(u64),
    /// A change is longer than what remains of the block.
    #[error("a change of {length} bytes where {remaining} remain")]
    Length {
        /// As recorded.
        length: u64,
        /// Bytes after the length.
        remaining: usize,
    },
    /// A batch has no changes.
    #[error("a batch without changes")]
    EmptyBatch,
}

#[cfg(test)]
mod tests;

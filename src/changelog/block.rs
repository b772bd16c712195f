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
//! * The sqn gap counts the sequence numbers that are skipped since the batch before (for the first batch, since the
//!   change set's `from`). So sequence numbers increase strictly, and consecutive ones cost one byte.
//! * The time is the difference in milliseconds to the batch before (for the first batch, to 0), modulo 2^64, zigzag as
//!   in protobuf.
//! * A key group field of 0 is not a change but the end of the batch. Operator state has the key group 65535, and
//!   blocks of its own.
//!
//! A block has no checksum; the segment that contains it has. The meaning of a change's bytes is not known here.

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

/// Change sets of at least this many bytes are cut into several blocks; with fewer, a reader would gain less than its
/// requests cost.
pub const SPLIT_BYTES: usize = 64 << 10;

/// The contents of one finished change set. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeSetBody {
    /// At least one block; their key groups are disjoint and ascend.
    pub blocks: Vec<BlockBody>,
    /// From the first batch's sqn to one after the last batch's. A first batch that is overwritten may be left out.
    pub range: SqnRange,
    /// Number of changes in all blocks, at least 1.
    pub changes: u64,
}

/// The contents of one finished block. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockBody {
    /// The uncompressed bytes; never empty.
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

/// Bytes that are not a valid block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("block byte {offset}: {fault}")]
pub struct BlockError {
    /// Offset in the uncompressed block, from 0.
    pub offset: usize,
    /// The fault at this offset.
    pub fault: BlockFault,
}

/// A fault of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// The block ends inside of a varint, or a varint has more than 64 bits.
    #[error("no varint")]
    Varint,
    /// The sequence number is outside of the change set's range.
    #[error("a gap of {gap} after sqn {after} leaves the change set, which ends before {to}")]
    Sqn {
        /// The sequence number that the gap counts from.
        after: Sqn,
        /// The recorded gap.
        gap: u64,
        /// The end of the range, exclusive.
        to: Sqn,
    },
    /// The key group is beyond the highest possible one.
    #[error("key group {0} does not exist")]
    KeyGroup(u64),
    /// A change is longer than the rest of the block.
    #[error("a change of {length} bytes where {remaining} remain")]
    Length {
        /// The recorded length.
        length: u64,
        /// Number of bytes after the length.
        remaining: usize,
    },
    /// A batch has no changes.
    #[error("a batch without changes")]
    EmptyBatch,
}

#[cfg(test)]
mod tests;

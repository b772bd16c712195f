//! Segments: the immutable objects of the changelog. One upload makes one segment, with change sets of one or more
//! backends of one job.
//!
//! ```text
//!           ┌──────────────────────────────────────────────────────────────┐
//!   0       │ header, 40 bytes                                             │
//!           │   magic "DSTLSEG1" │ version u16 │ flags u16 │ instance [16] │
//!           │   number u64 │ CRC of the 36 bytes before u32                │
//!           ├──────────────────────────────────────────────────────────────┤
//!   40      │ block │ block │ …     each stored by its own compression     │
//!           ├──────────────────────────────────────────────────────────────┤
//!   i       │ index: number of change sets u32, then for each              │
//!           │   operator: length u8, bytes │ subtask u32 │ epoch u64       │
//!           │   sqn from u64 │ sqn to u64 │ changes u64                    │
//!           │   number of blocks u16, then for each (25 bytes)             │
//!           │     key group first u16, last u16 │ offset u64               │
//!           │     stored length u32 │ length u32 │ compression u8 │ CRC u32│
//!           ├──────────────────────────────────────────────────────────────┤
//!   n - 28  │ trailer, 28 bytes                                            │
//!           │   index offset i u64 │ index length u32 │ index CRC u32      │
//!           │   CRC of all bytes before this field u32 │ magic "DSTLEND1"  │
//!           └──────────────────────────────────────────────────────────────┘
//!   n
//! ```
//!
//! * All numbers are little-endian; every CRC is CRC-32 (IEEE, as in zlib).
//! * Instance (a UUID) and number repeat the object's name, so a segment under another one's name is recognised. Flags
//!   are 0.
//! * Blocks fill the space between header and index without gaps, in the order of the index. A block's CRC is that of
//!   its stored bytes, its offset counts from the segment's first byte, its length is that before compression.
//!   Compression: 0 none, 1 lz4 (block format), 2 zstd. What is inside a block: [`block`](super::block).
//! * Key groups are inclusive on both sides; 65535 alone stands for operator state. Of the sqns, from is inclusive and
//!   to is exclusive. The blocks of one change set have disjoint, ascending ranges of key groups. Each may have batches
//!   anywhere within the sqns of the set.
//!
//! A small change set needs no segment: its blocks are in its handle, see [`inline`].
//!
//! With a [`SegmentHandle`], a reader reads the blocks by byte range and needs neither header nor index; those are for
//! tools and verification.

mod encode;
mod index;
mod verify;

pub use self::{
    encode::{EncodedSegment, SegmentEncoder, encode, inline},
    index::{IndexedSet, SegmentIndex, decode_index},
    verify::{open_block, verify},
};
use super::{
    block::{BlockError, ChangeSetBody},
    compression::{Compression, CompressionError},
};
use crate::types::{BackendId, KeyGroupRange, Name, SqnRange};

use bytes::Bytes;
use uuid::Uuid;

const MAGIC: &[u8; 8] = b"DSTLSEG1";
const END_MAGIC: &[u8; 8] = b"DSTLEND1";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 40;
const TRAILER_BYTES: usize = 28;

/// Consecutive changes of one backend that are to be stored. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeSet {
    /// The backend that made the changes.
    pub backend: BackendId,
    /// The number of the fencing epoch that appended them.
    pub epoch: u64,
    /// The changes as blocks.
    pub body: ChangeSetBody,
}

/// The name of one segment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    /// The job whose folder it lies in.
    pub job: Name,
    /// The daemon instance that made it.
    pub instance: Uuid,
    /// Its number within job and instance.
    pub number: u64,
}

/// The place of a change set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// The change set lies in this segment.
    Segment(SegmentId),
    /// The handle itself has the change set: its stored blocks, one after the other.
    Inline(Bytes),
}

/// The position of one change set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SegmentHandle {
    /// The segment, or the bytes themselves.
    pub place: Place,
    /// The blocks of the change set, at least one, with disjoint key groups.
    pub blocks: Vec<BlockHandle>,
    /// Its sequence numbers.
    pub range: SqnRange,
    /// Number of changes.
    pub changes: u64,
    /// Stored bytes of all its blocks.
    pub stored_bytes: u64,
}

/// The position of one block, and its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockHandle {
    /// The key groups that its changes lie in.
    pub key_groups: KeyGroupRange,
    /// Offset from the start of the segment, or of the inline bytes.
    pub offset: u64,
    /// Stored length in bytes.
    pub stored_length: u32,
    /// Length in bytes after decompression.
    pub length: u32,
    /// Compression of the stored bytes.
    pub compression: Compression,
    /// CRC-32 of the stored bytes.
    pub crc: u32,
}

/// Bytes that are not the expected segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// A part does not follow the format.
    #[error("byte {offset}: {what}")]
    Format {
        /// Offset in the segment, from 0.
        offset: u64,
        /// A description of the fault.
        what: &'static str,
    },
    /// A later version made it.
    #[error("byte 8: format version {0}, where up to {VERSION} is known")]
    Version(u16),
    /// The bytes differ from those that were written.
    #[error("byte {offset}: the checksum of {part} is {found:08x}, {expected:08x} recorded")]
    Checksum {
        /// The name of the damaged part.
        part: &'static str,
        /// Offset of that part.
        offset: u64,
        /// The recorded checksum.
        expected: u32,
        /// The checksum of the bytes that were found.
        found: u32,
    },
    /// A block cannot be decompressed.
    #[error("byte {offset}: {error}")]
    Compression {
        /// Offset of the block.
        offset: u64,
        /// The error of the decompression.
        error: CompressionError,
    },
    /// A block's contents are invalid although its checksum is right.
    #[error("byte {offset}: {error}")]
    Block {
        /// Offset of the stored block.
        offset: u64,
        /// The fault, with its place in the uncompressed block.
        error: BlockError,
    },
}

impl SegmentError {
    /// Offset of the fault in the segment, from 0.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self {
            Self::Version(_) => MAGIC.len() as u64,
            Self::Format { offset, .. }
            | Self::Checksum { offset, .. }
            | Self::Compression { offset, .. }
            | Self::Block { offset, .. } => *offset,
        }
    }
}

impl SegmentHandle {
    /// The segment that it lies in; `None` if it is inline.
    #[must_use]
    pub fn segment(&self) -> Option<&SegmentId> {
        match &self.place {
            Place::Segment(id) => Some(id),
            Place::Inline(_) => None,
        }
    }

    /// Number of bytes that the handle itself contains.
    #[must_use]
    pub fn inline_bytes(&self) -> usize {
        match &self.place {
            Place::Segment(_) => 0,
            Place::Inline(bytes) => bytes.len(),
        }
    }
}

impl BlockHandle {
    /// The range of the block's bytes in the segment, half-open; `None` if it ends above 2^64.
    #[must_use]
    pub fn stored_range(&self) -> Option<std::ops::Range<u64>> {
        // The offset may come from a forged record.
        Some(self.offset..self.offset.checked_add(u64::from(self.stored_length))?)
    }
}

#[cfg(test)]
mod tests;

//! The encoder of segments.

use bytes::{BufMut as _, Bytes};
use crc32fast::Hasher;
use object_store::PutPayload;

use super::{
    BlockHandle, ChangeSet, END_MAGIC, HEADER_BYTES, MAGIC, Place, SegmentHandle, SegmentId, TRAILER_BYTES, VERSION,
};
use crate::changelog::{
    block::{BlockBody, MAX_BLOCK_BYTES},
    compression::Compression,
};

/// A segment ready for upload.
#[derive(Debug, Clone)]
pub struct EncodedSegment {
    /// Its bytes; uncompressed blocks are shared with the change sets, not copied.
    pub payload: PutPayload,
    /// The positions of the change sets, in the given order.
    pub handles: Vec<SegmentHandle>,
    /// Length of the whole segment.
    pub bytes: u64,
}

/// Encodes a segment change set by change set, so that an async caller can yield in between.
#[derive(Debug)]
pub struct SegmentEncoder {
    id: SegmentId,
    compression: Compression,
    parts: Vec<Bytes>,
    offset: u64,
    /// Checksum of all parts so far.
    hasher: Hasher,
    /// The index without its first field.
    index: Vec<u8>,
    handles: Vec<SegmentHandle>,
}

/// Encodes `sets`, in their order, as the segment `id`.
///
/// # Panics
/// As [`SegmentEncoder::push`].
#[must_use]
pub fn encode(id: SegmentId, sets: &[ChangeSet], compression: Compression) -> EncodedSegment {
    let mut encoder = SegmentEncoder::new(id, compression);
    for set in sets {
        encoder.push(set);
    }
    encoder.finish()
}

impl SegmentEncoder {
    /// Begins the segment `id`, whose blocks are compressed with `compression`.
    #[must_use]
    pub fn new(id: SegmentId, compression: Compression) -> Self {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.put_slice(MAGIC);
        header.put_u16_le(VERSION);
        header.put_u16_le(0);
        header.put_slice(id.instance.as_bytes());
        header.put_u64_le(id.number);
        // The header has a checksum of its own, so that a fault in it is named as such.
        header.put_u32_le(crc32fast::hash(&header));
        debug_assert_eq!(header.len(), HEADER_BYTES, "the length of the header");
        let mut hasher = Hasher::new();
        hasher.update(&header);
        Self {
            id,
            compression,
            offset: header.len() as u64,
            parts: vec![header.into()],
            hasher,
            index: Vec::new(),
            handles: Vec::new(),
        }
    }

    /// Compresses and appends one change set. Takes as long as compressing it does.
    ///
    /// # Panics
    /// If a block of the set exceeds [`MAX_BLOCK_BYTES`] or is empty, the set has no block, or it belongs to another
    /// job.
    pub fn push(&mut self, set: &ChangeSet) {
        let ChangeSet { backend, epoch, body } = set;
        // The index names operator and subtask only, and takes the job from the segment's path. A set of another job
        // would be found in the wrong folder, and swept with the wrong job.
        assert_eq!(backend.job, self.id.job, "a segment holds change sets of one job");
        assert!(!body.blocks.is_empty(), "a change set has a block");
        let blocks: Vec<_> = body.blocks.iter().map(|block| self.push_block(block)).collect();
        let handle = SegmentHandle {
            place: Place::Segment(self.id.clone()),
            range: body.range,
            changes: body.changes,
            stored_bytes: blocks.iter().map(|block| u64::from(block.stored_length)).sum(),
            blocks,
        };
        put_set(&mut self.index, set, *epoch, &handle);
        self.handles.push(handle);
    }

    fn push_block(&mut self, block: &BlockBody) -> BlockHandle {
        let (handle, stored, hasher) = store_block(block, self.compression, self.offset);
        // Each stored byte is hashed once, for its block and for the segment together.
        self.hasher.combine(&hasher);
        self.offset += u64::from(handle.stored_length);
        self.parts.push(stored);
        handle
    }

    /// Bytes of the segment so far, without index and trailer.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    /// Appends index and trailer.
    #[must_use]
    pub fn finish(mut self) -> EncodedSegment {
        let mut end = Vec::with_capacity(4 + self.index.len() + TRAILER_BYTES);
        end.put_u32_le(u32::try_from(self.handles.len()).expect("fewer change sets than bytes of memory"));
        end.put_slice(&self.index);
        let index_length = u32::try_from(end.len()).expect("an index is far below 4 GiB");
        // Before offset, length and checksum are appended: the checksum of the index covers the index alone, and that
        // of the segment covers these fields, too.
        let index_crc = crc32fast::hash(&end);
        end.put_u64_le(self.offset);
        end.put_u32_le(index_length);
        end.put_u32_le(index_crc);
        self.hasher.update(&end);
        end.put_u32_le(self.hasher.finalize());
        end.put_slice(END_MAGIC);
        let bytes = self.offset + end.len() as u64;
        self.parts.push(end.into());
        EncodedSegment { payload: self.parts.into_iter().collect(), handles: self.handles, bytes }
    }
}

/// The handle of a change set that lies in the handle itself, with its blocks compressed with `compression`.
///
/// # Panics
/// As [`SegmentEncoder::push`].
#[must_use]
pub fn inline(set: &ChangeSet, compression: Compression) -> SegmentHandle {
    let body = &set.body;
    assert!(!body.blocks.is_empty(), "a change set has a block");
    let (mut bytes, mut blocks) = (Vec::new(), Vec::with_capacity(body.blocks.len()));
    for block in &body.blocks {
        let (handle, stored, _) = store_block(block, compression, bytes.len() as u64);
        bytes.extend_from_slice(&stored);
        blocks.push(handle);
    }
    let stored_bytes = bytes.len() as u64;
    let place = Place::Inline(bytes.into());
    SegmentHandle { place, blocks, range: body.range, changes: body.changes, stored_bytes }
}

/// A block in its stored form, its handle at `offset`, and its running checksum.
fn store_block(block: &BlockBody, compression: Compression, offset: u64) -> (BlockHandle, Bytes, Hasher) {
    let BlockBody { bytes, key_groups } = block;
    assert!((1..=MAX_BLOCK_BYTES).contains(&bytes.len()), "a block of {} bytes", bytes.len());
    let (compression, stored) = compression.compress(bytes);
    let mut hasher = Hasher::new();
    hasher.update(&stored);
    let narrow = |length: usize| u32::try_from(length).expect("at most the bound asserted above");
    let handle = BlockHandle {
        key_groups: *key_groups,
        offset,
        stored_length: narrow(stored.len()),
        length: narrow(bytes.len()),
        compression,
        crc: hasher.clone().finalize(),
    };
    (handle, stored, hasher)
}

fn put_set(index: &mut Vec<u8>, set: &ChangeSet, epoch: u64, handle: &SegmentHandle) {
    let operator = set.backend.operator.as_str();
    index.put_u8(u8::try_from(operator.len()).expect("names have at most 200 bytes"));
    index.put_slice(operator.as_bytes());
    index.put_u32_le(set.backend.subtask);
    index.put_u64_le(epoch);
    index.put_u64_le(handle.range.from.0);
    index.put_u64_le(handle.range.to.0);
    index.put_u64_le(handle.changes);
    index.put_u16_le(u16::try_from(handle.blocks.len()).expect("at most one block per key group"));
    for block in &handle.blocks {
        index.put_u16_le(block.key_groups.first().0);
        index.put_u16_le(block.key_groups.last().0);
        index.put_u64_le(block.offset);
        index.put_u32_le(block.stored_length);
        index.put_u32_le(block.length);
        index.put_u8(block.compression.code());
        index.put_u32_le(block.crc);
    }
}

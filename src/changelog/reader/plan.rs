//! Plans which byte ranges to read for which blocks, and does one such read.

use std::ops::Range;

use bytes::Bytes;

use super::{ChangeBlock, ReadError, corrupt, object_of, path, store_error};
use crate::{
    changelog::segment::{BlockHandle, Place, SegmentError, SegmentHandle, open_block},
    object::{Retry, Store},
    tasks,
    types::{KeyGroupRange, SqnRange},
};

/// Blocks of a segment with at most this many bytes between them are fetched by one read, which is cheaper than two
/// requests.
const MAX_GAP_BYTES: u64 = 64 << 10;

/// No block is added to a read that has this many bytes already.
const MAX_JOINED_BYTES: u64 = 8 << 20;

/// No block is added to a read whose blocks would have more than this many bytes after decompression.
const MAX_DECOMPRESSED_BYTES: u64 = 32 << 20;

/// A read of one range of a segment or of inline bytes, and the blocks wanted from it, in order of their offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) place: Place,
    pub(super) range: Range<u64>,
    pub(super) blocks: Vec<(BlockHandle, SqnRange)>,
    /// Bytes of the blocks after decompression.
    pub(super) decompressed: u64,
}

/// The reads for the blocks of `handles` that share a key group with one of `key_groups`, in order.
pub(super) fn reads(handles: &[SegmentHandle], key_groups: &[KeyGroupRange]) -> Vec<Read> {
    let is_wanted = |block: &&BlockHandle| key_groups.iter().any(|wanted| block.key_groups.overlaps(*wanted));
    let mut reads: Vec<Read> = Vec::new();
    for handle in handles {
        for block in handle.blocks.iter().filter(is_wanted) {
            let end = block.offset.saturating_add(u64::from(block.stored_length));
            // Only the last read is looked at. Handles come in the order of the log, so the blocks of one segment are
            // neighbours here, and an earlier read could not take the block without changing the order of the replay.
            match reads.last_mut() {
                Some(last) if last.can_join(&handle.place, block) => {
                    last.range.end = end;
                    last.blocks.push((*block, handle.range));
                    last.decompressed += u64::from(block.length);
                }
                _ => reads.push(Read {
                    place: handle.place.clone(),
                    range: block.offset..end,
                    blocks: vec![(*block, handle.range)],
                    decompressed: block.length.into(),
                }),
            }
        }
    }
    reads
}

impl Read {
    fn can_join(&self, place: &Place, block: &BlockHandle) -> bool {
        matches!((&self.place, place), (Place::Segment(of), Place::Segment(next)) if of == next)
            // A block before the end would have to be cut out of bytes that are not in ascending order. Such a handle
            // is not made by the encoder, but a damaged one may say so.
            && block.offset >= self.range.end
            && block.offset - self.range.end <= MAX_GAP_BYTES
            && self.range.end - self.range.start < MAX_JOINED_BYTES
            && self.decompressed.saturating_add(block.length.into()) <= MAX_DECOMPRESSED_BYTES
    }

    /// Bytes of memory that it may take: the stored bytes, and the decompressed ones beside them.
    pub(super) fn memory(&self) -> u64 {
        (self.range.end - self.range.start).saturating_add(self.decompressed)
    }

    /// The name of its object in errors.
    pub(super) fn object(&self) -> String {
        self.blocks.first().map(|(_, range)| object_of(&self.place, *range)).unwrap_or_default()
    }

    /// Reads, verifies and decompresses the blocks.
    pub(super) async fn execute(self, store: &Store, retry: Retry) -> Result<Vec<ChangeBlock>, ReadError> {
        match &self.place {
            Place::Segment(id) => {
                let path = path(id);
                let open = |bytes: &Bytes| self.open(self.range.start, bytes);
                let read = store.get_range_checked(&path, self.range.clone(), retry, open).await;
                read.map_err(|error| store_error(&path, error))?
            }
            // Inline bytes begin at 0 and are cut where a block needs them.
            Place::Inline(bytes) => self.open(0, bytes),
        }
    }

    /// The blocks in the bytes that were read, which begin at offset `start` of their place.
    fn open(&self, start: u64, bytes: &Bytes) -> Result<Vec<ChangeBlock>, ReadError> {
        let Self { place, blocks, .. } = self;
        let open = |(handle, sqns): &(BlockHandle, SqnRange)| {
            tasks::breathe();
            let opened = slice(bytes, start, handle).and_then(|stored| open_block(handle, &stored));
            let bytes = opened.map_err(|error| corrupt(place, *sqns, &error))?;
            Ok(ChangeBlock { place: place.clone(), handle: *handle, range: *sqns, bytes })
        };
        blocks.iter().map(open).collect()
    }
}

/// The stored bytes of a block in `bytes`, which begin at offset `start` of their place.
fn slice(bytes: &Bytes, start: u64, handle: &BlockHandle) -> Result<Bytes, SegmentError> {
    let cut_off = SegmentError::Format { offset: handle.offset, what: "the segment is cut off inside of a block" };
    // No underflow: `start` is 0, or the offset of the first block of the read, and later blocks lie behind it.
    let from = usize::try_from(handle.offset - start).map_err(|_| cut_off.clone())?;
    let to = from.saturating_add(usize::try_from(handle.stored_length).unwrap_or(usize::MAX));
    if to > bytes.len() { Err(cut_off) } else { Ok(bytes.slice(from..to)) }
}

//! Checks that stored bytes match their records.

use bytes::Bytes;

use super::{
    BlockHandle, IndexedSet, SegmentError, SegmentIndex, TRAILER_BYTES,
    index::{check, decode_index, format},
};
use crate::{changelog::block::BlockReader, types::SqnRange};

/// Verifies length and checksum of one stored block and decompresses it. Without compression nothing is copied.
///
/// # Errors
/// If the stored bytes are not those that the handle was made for.
pub fn open_block(handle: &BlockHandle, stored: &Bytes) -> Result<Bytes, SegmentError> {
    let offset = handle.offset;
    if stored.len() as u64 != u64::from(handle.stored_length) {
        return Err(SegmentError::Format { offset, what: "a block is shorter or longer than recorded" });
    }
    // Before decompression, so that a decoder never sees bytes that no writer made.
    let found = crc32fast::hash(stored);
    if found != handle.crc {
        return Err(SegmentError::Checksum { part: "a block", offset, expected: handle.crc, found });
    }
    let length = usize::try_from(handle.length).expect("a usize has at least 32 bits");
    handle.compression.decompress(stored, length).map_err(|error| SegmentError::Compression { offset, error })
}

/// Checks the whole segment `bytes` down to the framing of each change, and returns its index.
///
/// # Errors
/// The first fault; parts are checked before the whole, so that the damaged part is named.
pub fn verify(bytes: &Bytes) -> Result<SegmentIndex, SegmentError> {
    let index = decode_index(bytes)?;
    for set in &index.sets {
        let mut changes = 0;
        for block in &set.blocks {
            changes += verify_block(block, bytes, set.range)?;
        }
        check_count(set, changes)?;
    }
    let crc_at = bytes.len() - TRAILER_BYTES + 16;
    // Last, after the parts: a checksum over everything could only say that something is wrong.
    let (covered, rest) = bytes.split_at(crc_at);
    let recorded = rest.first_chunk().ok_or(format(crc_at, "cut off"))?;
    check("the segment", 0, covered, u32::from_le_bytes(*recorded))?;
    Ok(index)
}

/// Checks a block; returns its number of changes.
fn verify_block(block: &BlockHandle, bytes: &Bytes, range: SqnRange) -> Result<u64, SegmentError> {
    let offset = block.offset;
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(block.stored_length).unwrap_or(usize::MAX));
    if end > bytes.len() {
        return Err(SegmentError::Format { offset, what: "a block ends beyond the segment" });
    }
    let contents = open_block(block, &bytes.slice(start..end))?;
    let mut changes = 0;
    for batch in BlockReader::new(&contents, range) {
        for (key_group, _) in batch.map_err(|error| SegmentError::Block { offset, error })?.changes {
            // A reader of some key groups would skip the block, and miss the change.
            if !block.key_groups.contains(key_group) {
                return Err(SegmentError::Format { offset, what: "a change outside of its block's key groups" });
            }
            changes += 1;
        }
    }
    Ok(changes)
}

fn check_count(set: &IndexedSet, changes: u64) -> Result<(), SegmentError> {
    let offset = set.blocks.first().map_or(0, |block| block.offset);
    if changes == set.changes {
        Ok(())
    } else {
        Err(SegmentError::Format { offset, what: "a change set with another number of changes than recorded" })
    }
}

//! Reads header, trailer and index of a segment.

use bytes::Buf as _;
use uuid::Uuid;

use super::{
    BlockHandle, END_MAGIC, HEADER_BYTES, MAGIC, Place, SegmentError, SegmentHandle, SegmentId, TRAILER_BYTES, VERSION,
};
use crate::{
    changelog::compression::Compression,
    types::{BackendId, KeyGroupRange, Name, Sqn, SqnRange},
};

/// The facts that a segment contains about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentIndex {
    /// The daemon instance that made it.
    pub instance: Uuid,
    /// Its number within job and instance.
    pub number: u64,
    /// Its change sets, in the order of their blocks.
    pub sets: Vec<IndexedSet>,
}

/// One change set of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedSet {
    /// The operator of its backend.
    pub operator: Name,
    /// The subtask of its backend.
    pub subtask: u32,
    /// The number of the fencing epoch that appended it.
    pub epoch: u64,
    /// Its sequence numbers.
    pub range: SqnRange,
    /// Number of changes.
    pub changes: u64,
    /// Its blocks, at least one.
    pub blocks: Vec<BlockHandle>,
}

impl IndexedSet {
    /// Its backend, which belongs to `job`.
    #[must_use]
    pub fn backend(&self, job: &Name) -> BackendId {
        BackendId { job: job.clone(), operator: self.operator.clone(), subtask: self.subtask }
    }

    /// Its handle within `segment`.
    #[must_use]
    pub fn handle(&self, segment: &SegmentId) -> SegmentHandle {
        SegmentHandle {
            place: Place::Segment(segment.clone()),
            blocks: self.blocks.clone(),
            range: self.range,
            changes: self.changes,
            stored_bytes: self.blocks.iter().map(|block| u64::from(block.stored_length)).sum(),
        }
    }
}

/// Reads the index of the whole segment `bytes`. Checks header, trailer and index, but neither the blocks nor the
/// checksum of the whole; for that see [`verify`](super::verify()).
///
/// # Errors
/// If they are damaged, cut off, or not a segment.
pub fn decode_index(bytes: &[u8]) -> Result<SegmentIndex, SegmentError> {
    let (instance, number) = header(bytes)?;
    let (offset, index) = index_bytes(bytes)?;
    let mut fields = Fields { rest: index, end: (offset + index.len()) as u64 };
    let mut sets = Vec::new();
    let mut next_block = HEADER_BYTES as u64;
    // The count may be forged. No memory is reserved by it: each set takes bytes of the index, so the loop ends with an
    // error when they run out.
    for _ in 0..fields.u32()? {
        sets.push(set(&mut fields, &mut next_block)?);
    }
    if !fields.rest.is_empty() {
        return Err(fields.error("bytes after the last change set of the index"));
    }
    if next_block != offset as u64 {
        return Err(SegmentError::Format { offset: next_block, what: "the blocks do not end where the index begins" });
    }
    Ok(SegmentIndex { instance, number, sets })
}

fn header(bytes: &[u8]) -> Result<(Uuid, u64), SegmentError> {
    let header = bytes.get(..HEADER_BYTES).ok_or(format(0, "shorter than a header"))?;
    let mut fields = Fields { rest: header, end: HEADER_BYTES as u64 };
    if fields.array::<8>()? != *MAGIC {
        return Err(format(0, "no segment: the magic is missing"));
    }
    let version = fields.u16()?;
    if !(1..=VERSION).contains(&version) {
        return Err(SegmentError::Version(version));
    }
    let flags = fields.u16()?;
    let (instance, number) = (Uuid::from_bytes(fields.array()?), fields.u64()?);
    // The version was looked at before the checksum, since a later version may have its checksum elsewhere. The flags
    // are judged after it, since they mean something only in a header that is whole.
    let checked = header.get(..HEADER_BYTES - 4).unwrap_or(header);
    check("the header", 0, checked, fields.u32()?)?;
    if flags != 0 {
        return Err(format(10, "unknown flags"));
    }
    Ok((instance, number))
}

/// The index and its offset.
fn index_bytes(bytes: &[u8]) -> Result<(usize, &[u8]), SegmentError> {
    let at = bytes.len().saturating_sub(TRAILER_BYTES);
    // A trailer never overlaps the header. For an object that is too short the slice is shorter than a trailer, and the
    // first field that is cut off reports that.
    let trailer = bytes.get(at.max(HEADER_BYTES)..).unwrap_or_default();
    let mut fields = Fields { rest: trailer, end: bytes.len() as u64 };
    let (offset, length, crc, _) = (fields.u64()?, fields.u32()?, fields.u32()?, fields.u32()?);
    if fields.array::<8>()? != *END_MAGIC {
        return Err(format(bytes.len() - END_MAGIC.len(), "cut off: the magic at the end is missing"));
    }
    let index = usize::try_from(offset).ok().filter(|offset| {
        *offset >= HEADER_BYTES && offset.checked_add(usize::try_from(length).unwrap_or(usize::MAX)) == Some(at)
    });
    let offset = index.ok_or(format(at, "the index does not lie between header and trailer"))?;
    let index = bytes.get(offset..at).unwrap_or_default();
    check("the index", offset, index, crc)?;
    Ok((offset, index))
}

fn set(fields: &mut Fields<'_>, next_block: &mut u64) -> Result<IndexedSet, SegmentError> {
    let length = usize::from(fields.u8()?);
    let operator = fields.slice(length)?;
    let operator = str::from_utf8(operator).ok().and_then(|name| Name::new(name).ok());
    let operator = operator.ok_or(fields.error("no name of an operator"))?;
    let subtask = fields.u32()?;
    let epoch = fields.u64()?;
    let range = SqnRange { from: Sqn(fields.u64()?), to: Sqn(fields.u64()?) };
    if range.is_empty() {
        return Err(fields.error("an empty range of sequence numbers"));
    }
    let changes = fields.u64()?;
    let mut blocks = Vec::new();
    for _ in 0..fields.u16()? {
        blocks.push(block(fields, next_block)?);
    }
    if blocks.is_empty() {
        return Err(fields.error("a change set without blocks"));
    }
    Ok(IndexedSet { operator, subtask, epoch, range, changes, blocks })
}

fn block(fields: &mut Fields<'_>, next_block: &mut u64) -> Result<BlockHandle, SegmentError> {
    let (first, last) = (fields.u16()?, fields.u16()?);
    let key_groups =
        KeyGroupRange::stored(first.into(), last.into()).map_err(|_| fields.error("no range of key groups"))?;
    let (offset, stored_length, length) = (fields.u64()?, fields.u32()?, fields.u32()?);
    let compression = Compression::from_code(fields.u8()?).ok_or(fields.error("unknown compression"))?;
    let block = BlockHandle { key_groups, offset, stored_length, length, compression, crc: fields.u32()? };
    match block.stored_range() {
        // Blocks have to abut. So they neither overlap, nor do they leave bytes between them that no checksum of a
        // block covers.
        Some(range) if range.start == *next_block => *next_block = range.end,
        _ => return Err(fields.error("a block does not follow the one before")),
    }
    Ok(block)
}

/// Compares a checksum with the expected one.
pub(super) fn check(part: &'static str, offset: usize, bytes: &[u8], expected: u32) -> Result<(), SegmentError> {
    let found = crc32fast::hash(bytes);
    if found == expected {
        Ok(())
    } else {
        Err(SegmentError::Checksum { part, offset: offset as u64, expected, found })
    }
}

pub(super) fn format(offset: usize, what: &'static str) -> SegmentError {
    SegmentError::Format { offset: offset as u64, what }
}

/// Takes little-endian fields off the front of `rest`, which ends at byte `end` of the segment.
struct Fields<'a> {
    rest: &'a [u8],
    end: u64,
}

impl<'a> Fields<'a> {
    fn slice(&mut self, length: usize) -> Result<&'a [u8], SegmentError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(self.error("cut off inside of a field"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SegmentError> {
        let mut array = [0; N];
        self.slice(N)?.copy_to_slice(&mut array);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, SegmentError> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, SegmentError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, SegmentError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, SegmentError> {
        self.array().map(u64::from_le_bytes)
    }

    /// An error at the place just before the rest.
    fn error(&self, what: &'static str) -> SegmentError {
        SegmentError::Format { offset: self.end - self.rest.len() as u64, what }
    }
}

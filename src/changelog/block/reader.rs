//! Reads blocks, trusting nothing in them.

use super::{BlockError, BlockFault, varint};
use crate::types::{KeyGroup, MAX_PARALLELISM_LIMIT, Sqn, SqnRange, TimeMs};

/// Iterates over the batches of a block, from which it borrows. A batch is checked as a whole before it is returned.
/// After an error the iteration ends.
#[derive(Debug, Clone)]
pub struct BlockReader<'a> {
    block: &'a [u8],
    rest: &'a [u8],
    next: Sqn,
    to: Sqn,
    time: TimeMs,
}

/// One batch of a block.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// Its sequence number, within the change set's range.
    pub sqn: Sqn,
    /// The time at which it was applied.
    pub time: TimeMs,
    /// Its changes in order, at least one.
    pub changes: Changes<'a>,
}

/// Iterates over the changes of a batch: key group and bytes.
#[derive(Debug, Clone)]
pub struct Changes<'a> {
    rest: &'a [u8],
    remaining: usize,
}

impl<'a> BlockReader<'a> {
    /// Reads `block`, the uncompressed block of a change set with the sequence numbers `range`.
    #[must_use]
    pub fn new(block: &'a [u8], range: SqnRange) -> Self {
        Self { block, rest: block, next: range.from, to: range.to, time: 0 }
    }

    fn batch(&mut self) -> Result<Batch<'a>, BlockError> {
        let mut rest = self.rest;
        let gap = varint::take(&mut rest).ok_or_else(|| self.error(self.rest, BlockFault::Varint))?;
        let outside = BlockFault::Sqn { after: self.next, gap, to: self.to };
        // Checked against the range of the change set, which is known from a record with a checksum of its own. A wrong
        // gap would otherwise give the changes sequence numbers of another change set.
        let sqn = self.next.0.checked_add(gap).filter(|sqn| *sqn < self.to.0);
        let sqn = Sqn(sqn.ok_or_else(|| self.error(self.rest, outside))?);
        let at_time = rest;
        let difference = varint::take(&mut rest).ok_or_else(|| self.error(at_time, BlockFault::Varint))?;
        let time = self.time.wrapping_add_signed(varint::unzigzag(difference));

        // The whole batch is parsed before any of it is returned, although it is parsed again on the way out. A replay
        // applies a batch whole or not at all, so it must not meet a fault in the middle of one.
        let mut changes = Changes { rest, remaining: 0 };
        loop {
            let at = rest;
            match take_change(&mut rest) {
                Ok(Some(_)) => changes.remaining += 1,
                Ok(None) if changes.remaining == 0 => return Err(self.error(at, BlockFault::EmptyBatch)),
                Ok(None) => break,
                Err(fault) => return Err(self.error(at, fault)),
            }
        }
        self.rest = rest;
        // No overflow: the number is below `to`.
        self.next = Sqn(sqn.0 + 1);
        self.time = time;
        Ok(Batch { sqn, time, changes })
    }

    /// A fault; `at` is the part of the block that begins with it.
    fn error(&self, at: &[u8], fault: BlockFault) -> BlockError {
        BlockError { offset: self.block.len() - at.len(), fault }
    }
}

impl<'a> Iterator for BlockReader<'a> {
    type Item = Result<Batch<'a>, BlockError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = self.batch();
        if batch.is_err() {
            self.rest = &[];
        }
        Some(batch)
    }
}

impl<'a> Changes<'a> {
    /// The next change: its key group, and its record in the form that it has in the block.
    pub(in crate::changelog) fn next_record(&mut self) -> Option<(KeyGroup, &'a [u8])> {
        let before = self.rest;
        let (key_group, _) = self.next()?;
        Some((key_group, before.get(..before.len() - self.rest.len())?))
    }
}

impl<'a> Iterator for Changes<'a> {
    type Item = (KeyGroup, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.remaining = self.remaining.checked_sub(1)?;
        // Cannot fail: `batch` has parsed exactly these bytes, and `remaining` stops before the end mark.
        take_change(&mut self.rest).ok().flatten()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for Changes<'_> {}

/// Takes one change off the front; `None` at the end of the batch.
#[inline]
fn take_change<'a>(rest: &mut &'a [u8]) -> Result<Option<(KeyGroup, &'a [u8])>, BlockFault> {
    // The field is the key group plus 1, so 0 is free to end the batch.
    let Some(key_group) = varint::take(rest).ok_or(BlockFault::Varint)?.checked_sub(1) else { return Ok(None) };
    let key_group = u16::try_from(key_group)
        .ok()
        .filter(|group| u32::from(*group) < MAX_PARALLELISM_LIMIT || *group == KeyGroup::OPERATOR.0)
        .ok_or(BlockFault::KeyGroup(key_group))?;
    let length = varint::take(rest).ok_or(BlockFault::Varint)?;
    let (bytes, after) = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length))
        .ok_or(BlockFault::Length { length, remaining: rest.len() })?;
    *rest = after;
    Ok(Some((KeyGroup(key_group), bytes)))
}

//! Builds blocks; this is the hot path of the writer.

use super::{BlockBody, ChangeSetBody, varint};
use crate::types::{KeyGroup, KeyGroupRange, Sqn, SqnRange, TimeMs};

/// Capacity of a first block, and the least of every further one, in bytes.
const MIN_CAPACITY: usize = 4 << 10;

/// Most capacity in bytes that a block is given before it needs it.
const MAX_CAPACITY: usize = 8 << 20;

/// Most bytes that are reserved for a length: changes are far shorter than 2^35 bytes.
const MAX_LENGTH_WIDTH: usize = 5;

/// Builds one block after the other. Each block is a change set by itself, unless it is built for a part of one.
///
/// ```text
///   begin_batch (push…) end_batch | abandon_batch    … again and again …    finish, and so on
/// ```
///
/// Invariants: sequence numbers increase strictly over all batches, also across [`finish`](Self::finish). A batch that
/// was abandoned, or ended without changes, leaves nothing behind.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct BlockBuilder {
    bytes: Vec<u8>,
    /// The ended batches of this block; `None` before the first one.
    done: Option<Summary>,
    open: Option<OpenBatch>,
    /// Bytes to reserve for the next change's length. If a change turns out longer, it is moved and the reservation
    /// grows. So at most four changes of a batch are moved, however short and long ones mix.
    length_width: usize,
    /// The lowest sequence number that the next batch may have.
    next: Sqn,
    /// The beginning of the change set; `None` if it is the first batch.
    from: Option<Sqn>,
}

/// A summary of the ended batches of a block.
#[derive(Debug, Clone, Copy)]
struct Summary {
    range: SqnRange,
    time: TimeMs,
    contents: Contents,
}

/// The changes of a batch or block; at least one.
#[derive(Debug, Clone, Copy)]
struct Contents {
    lowest: KeyGroup,
    highest: KeyGroup,
    changes: u64,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct OpenBatch {
    sqn: Sqn,
    time: TimeMs,
    /// Length of the block before this batch.
    start: usize,
    /// `None` before the first change.
    contents: Option<Contents>,
}

impl BlockBuilder {
    /// An empty builder.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(MIN_CAPACITY, Sqn::default())
    }

    /// An empty builder with room for `capacity` bytes, within limits, for batches from `next` on.
    pub(in crate::changelog) fn with_capacity(capacity: usize, next: Sqn) -> Self {
        let bytes = Vec::with_capacity(capacity.clamp(MIN_CAPACITY, MAX_CAPACITY));
        Self { bytes, done: None, open: None, length_width: 1, next, from: None }
    }

    /// A builder with room for `capacity` bytes, for a part of the change set in `whole`. Its change set begins where
    /// that of `whole` does, even if the part has nothing of the first batches.
    pub(super) fn of_part(whole: &Self, capacity: usize) -> Self {
        let open = whole.open.as_ref().map(|open| open.sqn);
        let from = whole.from.or(whole.range().map(|range| range.from)).or(open).unwrap_or(whole.next);
        let part = Self::with_capacity(capacity, from);
        Self { from: Some(from), length_width: whole.length_width, ..part }
    }

    /// Lets the change set begin at `from`, like another block of the same set. The first batch of this block, if there
    /// is one, is not before `from`.
    pub(in crate::changelog) fn begin_at(&mut self, from: Sqn) {
        if self.done.is_none() {
            self.from = Some(from);
        }
    }

    /// The beginning of the change set, if it is known.
    pub(super) fn from(&self) -> Option<Sqn> {
        self.from
    }

    /// Opens the batch `sqn`, applied at `time`. Writes nothing yet.
    ///
    /// # Panics
    /// If a batch is open, or `sqn` is not above all earlier ones.
    pub fn begin_batch(&mut self, sqn: Sqn, time: TimeMs) {
        assert!(self.open.is_none(), "batch {sqn} begins inside of another");
        assert!(sqn >= self.next, "batch {sqn} begins where {} is next", self.next);
        self.open = Some(OpenBatch { sqn, time, start: self.bytes.len(), contents: None });
    }

    /// Appends one change to the open batch. `encode` appends its bytes, and must not touch the bytes before them.
    ///
    /// # Panics
    /// If no batch is open.
    pub fn push(&mut self, key_group: KeyGroup, encode: impl FnOnce(&mut Vec<u8>)) {
        self.count(key_group);
        varint::put(&mut self.bytes, u64::from(key_group.0) + 1);
        self.put_framed(encode);
    }

    /// Appends one change of `key_group` to the open batch, in the form that it has in another block.
    ///
    /// # Panics
    /// If no batch is open.
    pub(in crate::changelog) fn push_record(&mut self, key_group: KeyGroup, record: &[u8]) {
        self.count(key_group);
        self.bytes.extend_from_slice(record);
    }

    /// Counts one change of the open batch.
    fn count(&mut self, key_group: KeyGroup) {
        let open = self.open.as_mut().expect("a change is pushed between `begin_batch` and `end_batch`");
        let contents = match &mut open.contents {
            Some(contents) => contents,
            none => {
                let (expected, before) = match &self.done {
                    // Gap and time are written with the first change, not when the batch is opened: a batch without
                    // changes then leaves no bytes, and needs no removal.
                    Some(done) => (done.range.to, done.time),
                    None => (self.from.unwrap_or(open.sqn), 0),
                };
                varint::put(&mut self.bytes, open.sqn.0 - expected.0);
                varint::put(&mut self.bytes, varint::zigzag(open.time.wrapping_sub(before).cast_signed()));
                none.insert(Contents { lowest: key_group, highest: key_group, changes: 0 })
            }
        };
        contents.lowest = contents.lowest.min(key_group);
        contents.highest = contents.highest.max(key_group);
        contents.changes += 1;
    }

    /// Reserves space for the length, lets `encode` append, then writes the length.
    fn put_framed(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        const NO_LENGTH: [u8; MAX_LENGTH_WIDTH] = [0; MAX_LENGTH_WIDTH];
        let at = self.bytes.len();
        let reserved = self.length_width;
        // The length is known only after `encode` has appended. Encoding into a second buffer first would copy every
        // change once more, on the hot path.
        self.bytes.extend_from_slice(NO_LENGTH.get(..reserved).unwrap_or(&NO_LENGTH));
        encode(&mut self.bytes);
        let end = self.bytes.len();
        let length = end.checked_sub(at + reserved).expect("`encode` only appends");
        let needed = varint::width(length as u64);
        if needed > reserved {
            assert!(needed <= MAX_LENGTH_WIDTH, "a change of {length} bytes");
            self.bytes.extend_from_slice(NO_LENGTH.get(..needed - reserved).unwrap_or(&NO_LENGTH));
            // Rare: the change is moved up to make room for a longer length, and the next changes of the batch reserve
            // as much.
            self.bytes.copy_within(at + reserved..end, at + needed);
            self.length_width = needed;
        }
        // A length that is shorter than the reservation is padded, since moving the change down would cost more than
        // the bytes.
        let slot = self.bytes.get_mut(at..at + needed.max(reserved)).expect("was appended above");
        varint::fill(slot, length as u64);
    }

    /// Ends the open batch; returns whether it had changes, and so uses its sequence number.
    ///
    /// # Panics
    /// If no batch is open.
    pub fn end_batch(&mut self) -> bool {
        let open = self.open.take().expect("a batch ends after `begin_batch`");
        let Some(contents) = open.contents else { return false };
        // A key group field of 0 ends the batch.
        self.bytes.push(0);
        let to = Sqn(open.sqn.0 + 1);
        self.next = to;
        let done = match self.done {
            None => Summary { range: SqnRange { from: self.from.unwrap_or(open.sqn), to }, time: open.time, contents },
            Some(done) => Summary {
                range: SqnRange { from: done.range.from, to },
                time: open.time,
                contents: done.contents.and(contents),
            },
        };
        self.done = Some(done);
        self.settle_length_width(&open);
        true
    }

    /// Ends the open batch and removes its changes. Without an open batch, nothing happens.
    pub fn abandon_batch(&mut self) {
        if let Some(open) = self.open.take() {
            // `next` stays: the batch did not use its sequence number, and the next batch may have it.
            self.bytes.truncate(open.start);
        }
    }

    /// Bytes of the block so far, an open batch included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no batch with changes has ended since the block was started.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done.is_none()
    }

    /// Sequence numbers of the ended batches of this block.
    #[must_use]
    pub fn range(&self) -> Option<SqnRange> {
        self.done.map(|done| done.range)
    }

    /// Number of changes in the ended batches of this block.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.done.map_or(0, |done| done.contents.changes)
    }

    /// The lowest and the highest key group that is changed so far, in an open batch too; `None` without a change.
    pub(super) fn bounds(&self) -> Option<(KeyGroup, KeyGroup)> {
        let open = self.open.as_ref().and_then(|open| open.contents);
        let both = self.done.map(|done| done.contents).into_iter().chain(open).reduce(Contents::and);
        both.map(|contents| (contents.lowest, contents.highest))
    }

    /// Returns the block and starts the next one, with room for as much again; `None` if it [is empty](Self::is_empty).
    ///
    /// # Panics
    /// If a batch is open.
    pub fn finish(&mut self) -> Option<ChangeSetBody> {
        assert!(self.open.is_none(), "a change set ends inside of a batch");
        self.done?;
        let next = Self { length_width: self.length_width, ..Self::with_capacity(self.bytes.len(), self.next) };
        std::mem::replace(self, next).close()
    }

    /// Returns the last block; `None` if it [is empty](Self::is_empty).
    ///
    /// # Panics
    /// If a batch is open.
    pub(in crate::changelog) fn close(self) -> Option<ChangeSetBody> {
        assert!(self.open.is_none(), "a change set ends inside of a batch");
        let Summary { range, contents, .. } = self.done?;
        let key_groups = KeyGroupRange::stored(contents.lowest.0.into(), contents.highest.0.into())
            .expect("a change's key group exists, and the lowest is not above the highest");
        let block = BlockBody { bytes: self.bytes.into(), key_groups };
        Some(ChangeSetBody { blocks: vec![block], range, changes: contents.changes })
    }

    /// Reserves, for the next batch, the length of an average change of this one.
    fn settle_length_width(&mut self, ended: &OpenBatch) {
        let changes = ended.contents.map_or(1, |contents| contents.changes);
        let bytes = (self.bytes.len() - ended.start) as u64;
        self.length_width = varint::width(bytes / changes).min(MAX_LENGTH_WIDTH);
    }
}

impl Default for BlockBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl Contents {
    fn and(self, other: Self) -> Self {
        Self {
            lowest: self.lowest.min(other.lowest),
            highest: self.highest.max(other.highest),
            changes: self.changes + other.changes,
        }
    }
}

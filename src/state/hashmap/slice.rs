//! Slices: bounded hash tables of the cells of one hash range.

use std::{mem, mem::size_of};

use hashbrown::HashTable;

use super::{cell::Cell, name::Name};

/// Most cells of a slice, which a table of 4096 buckets can take: the next cell splits the slice instead of growing the
/// table.
pub(super) const MAX_SLICE_CELLS: usize = 3584;

/// Most bytes of a slice that has at least [`MIN_SPLIT_CELLS`] cells.
pub(super) const MAX_SLICE_BYTES: u64 = 1 << 20;

/// Slices with fewer cells are not split, however large the cells are. Separating a few large cells could take many
/// hash bits, and the directory doubles with each bit.
pub(super) const MIN_SPLIT_CELLS: usize = 8;

/// Most hash bits that distinguish slices. Hash tables use other bits, see [`table_hash`].
pub(super) const MAX_DEPTH: u32 = 18;

/// A table with at most this many buckets does not shrink.
const MIN_SHRINK_BUCKETS: usize = 16;

/// The size of a state, or of a part of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Number of values, map entries or list elements.
    pub(super) entries: u64,
    /// Bytes of memory.
    pub(super) bytes: u64,
}

impl Usage {
    #[inline]
    fn of(cell: &impl Cell) -> Self {
        Self { entries: cell.entries(), bytes: cell.bytes() }
    }

    /// Replaces the size of a part, `before`, by `after`.
    #[inline]
    pub(super) fn replace(&mut self, before: Self, after: Self) {
        self.entries = self.entries - before.entries + after.entries;
        self.bytes = self.bytes - before.bytes + after.bytes;
    }

    /// Replaces the bytes of a part, `before`, by `after`.
    pub(super) fn replace_bytes(&mut self, before: u64, after: u64) {
        self.bytes = self.bytes - before + after;
    }
}

/// The size of a state, and the stamp that its changes get.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) usage: Usage,
    /// The stamp of the next change.
    pub(super) stamp: u64,
}

/// The cells whose hashes begin with the same `depth` bits.
///
/// Every method that changes cells updates the `Usage` or [`Tally`] of the state that is passed to it, and stamps the
/// slice.
pub(super) struct Slice<C> {
    /// The lowest hash of the range; all bits after the highest `depth` are 0.
    first: u64,
    depth: u32,
    cells: HashTable<C>,
    /// Bytes of the cells themselves.
    contents_bytes: u64,
    /// A stamp at or above that of the last change of any cell of the range, existing or removed; 0 before the first
    /// change.
    changed: u64,
}

impl<C: Cell> Slice<C> {
    /// An empty slice of all hashes.
    pub(super) fn new() -> Self {
        Self { first: 0, depth: 0, cells: HashTable::new(), contents_bytes: 0, changed: 0 }
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The highest hash of the range.
    pub(super) fn last(&self) -> u64 {
        self.first | u64::MAX >> self.depth
    }

    /// A stamp at or above that of the last change of any cell of the range, existing or removed; 0 before the first
    /// change.
    pub(super) fn changed(&self) -> u64 {
        self.changed
    }

    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// All bytes of memory of the slice.
    pub(super) fn bytes(&self) -> u64 {
        (size_of::<Self>() + self.cells.allocation_size()) as u64 + self.contents_bytes
    }

    /// Whether it has to be split.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        let cells = self.cells.len();
        (cells > MAX_SLICE_CELLS || (self.contents_bytes > MAX_SLICE_BYTES && cells >= MIN_SPLIT_CELLS))
            && self.depth < MAX_DEPTH
    }

    /// Whether it has to be merged with `buddy`, the other half of their common range. The limit is a quarter of the
    /// bounds, so that a merged slice is not soon split again.
    pub(super) fn merges_with(&self, buddy: &Self) -> bool {
        self.depth == buddy.depth
            && self.cells.len() + buddy.cells.len() <= MAX_SLICE_CELLS / 4
            && self.contents_bytes + buddy.contents_bytes <= MAX_SLICE_BYTES / 4
    }

    #[inline]
    pub(super) fn find(&self, name: &Name<'_>) -> Option<&C> {
        self.cells.find(table_hash(name.hash()), |cell| is_of(cell, name))
    }

    /// The block of a cell with this hash, not read yet; empty if there is none.
    #[inline]
    pub(super) fn block(&self, hash: u64) -> &[u8] {
        self.cells.find(table_hash(hash), |cell| cell.hash() == hash).map_or(&[], Cell::block)
    }

    /// Changes the cell of `name`, if there is one; the cell stays.
    #[inline]
    pub(super) fn change<R>(
        &mut self,
        name: &Name<'_>,
        tally: &mut Tally,
        change: impl FnOnce(&mut C) -> R,
    ) -> Option<R> {
        let cell = self.cells.find_mut(table_hash(name.hash()), |cell| is_of(cell, name))?;
        // The stamp rises even if `change` refuses. A stamp that is too high costs a copy too many. One that is too low
        // would let a snapshot reuse a piece that lacks the change.
        self.changed = tally.stamp;
        let before = Usage::of(cell);
        let result = change(cell);
        let after = Usage::of(cell);
        self.contents_bytes = self.contents_bytes - before.bytes + after.bytes;
        tally.usage.replace(before, after);
        Some(result)
    }

    /// Changes the cell of `name`, if there is one, and removes it unless `change` returns that it stays. Returns
    /// whether it was removed.
    pub(super) fn change_or_remove(
        &mut self,
        name: &Name<'_>,
        tally: &mut Tally,
        change: impl FnOnce(&mut C) -> bool,
    ) -> bool {
        let Ok(mut found) = self.cells.find_entry(table_hash(name.hash()), |cell| is_of(cell, name)) else {
            return false;
        };
        // A removed cell leaves nothing behind but this stamp. Without it, a snapshot would reuse a piece in which the
        // cell still is.
        self.changed = tally.stamp;
        let before = Usage::of(found.get());
        if change(found.get_mut()) {
            let after = Usage::of(found.get());
            self.contents_bytes = self.contents_bytes - before.bytes + after.bytes;
            tally.usage.replace(before, after);
            return false;
        }
        found.remove();
        self.contents_bytes -= before.bytes;
        tally.usage.replace(before, Usage::default());
        self.shrink(&mut tally.usage);
        true
    }

    /// Adds a cell with a new name.
    pub(super) fn insert(&mut self, cell: C, tally: &mut Tally) {
        let added = Usage::of(&cell);
        let table = self.cells.allocation_size() as u64;
        self.contents_bytes += added.bytes;
        self.changed = tally.stamp;
        self.cells.insert_unique(table_hash(cell.hash()), cell, cell_hash);
        tally.usage.replace(Usage::default(), added);
        tally.usage.replace_bytes(table, self.cells.allocation_size() as u64);
    }

    /// Cuts off the upper half of the range.
    pub(super) fn split(&mut self) -> Self {
        let bit = 1 << (u64::BITS - 1 - self.depth);
        self.depth += 1;
        // Both halves inherit the stamp, since it is not known in which of them the last change was.
        let mut upper = Self { first: self.first | bit, depth: self.depth, changed: self.changed, ..Self::new() };
        let cells = mem::take(&mut self.cells);
        self.contents_bytes = 0;
        let uppers = cells.iter().filter(|cell| cell.hash() & bit != 0).count();
        // Tables of the right size at once: if they grew cell by cell, every cell would be hashed several times.
        self.cells.reserve(cells.len() - uppers, cell_hash);
        upper.cells.reserve(uppers, cell_hash);
        for cell in cells {
            let half = if cell.hash() & bit == 0 { &mut *self } else { &mut upper };
            half.adopt(cell);
        }
        upper
    }

    /// Merges it with its buddy.
    pub(super) fn merge(&mut self, buddy: Self) {
        assert_eq!(self.depth, buddy.depth, "buddies are halves of one range");
        self.depth -= 1;
        self.first &= buddy.first;
        self.changed = self.changed.max(buddy.changed);
        for cell in buddy.cells {
            self.adopt(cell);
        }
    }

    fn adopt(&mut self, cell: C) {
        self.contents_bytes += cell.bytes();
        self.cells.insert_unique(table_hash(cell.hash()), cell, cell_hash);
    }

    fn shrink(&mut self, usage: &mut Usage) {
        let buckets = self.cells.num_buckets();
        if buckets <= MIN_SHRINK_BUCKETS || self.cells.len() > buckets / 8 {
            return;
        }
        let table = self.cells.allocation_size() as u64;
        // Half of the room stays free, so that a slice that shrinks and grows in turn does not move its cells at every
        // turn.
        self.cells.shrink_to(self.cells.len() * 2, cell_hash);
        usage.replace_bytes(table, self.cells.allocation_size() as u64);
    }

    pub(super) fn cells(&self) -> impl Iterator<Item = &C> {
        self.cells.iter()
    }
}

/// The hash as a hash table sees it. A hash table uses the lowest bits for positions and the 7 highest for tags, but
/// the highest bits are the same for all cells of a slice. So the two halves are swapped: a slice's table takes
/// positions from bits 32 and up, and tags from bits 25 to 31.
#[inline]
fn table_hash(hash: u64) -> u64 {
    hash.rotate_left(32)
}

fn cell_hash<C: Cell>(cell: &C) -> u64 {
    table_hash(cell.hash())
}

#[inline]
fn is_of<C: Cell>(cell: &C, name: &Name<'_>) -> bool {
    cell.hash() == name.hash() && name.heads(cell.block())
}

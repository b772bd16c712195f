//! Slices: the cells of one hash range, bounded in number and bytes.

use std::mem::size_of;

use super::{
    cells::{Cells, Effect},
    usage::Tally,
};

/// Most cells of a slice, which a hash table of 4096 buckets can take: the next cell splits the slice instead of
/// growing that table.
pub(super) const MAX_SLICE_CELLS: usize = 3584;

/// Most bytes of the cells of a slice that has at least [`MIN_SPLIT_CELLS`] cells.
pub(super) const MAX_SLICE_BYTES: u64 = 1 << 20;

/// Slices with fewer cells are not split, however large the cells are. Separating a few large cells could take many
/// hash bits, and the directory doubles with each bit.
pub(super) const MIN_SPLIT_CELLS: usize = 8;

/// Most hash bits that distinguish slices. The tables of cells use other bits.
pub(super) const MAX_DEPTH: u32 = 18;

/// The cells whose hashes begin with the same `depth` bits.
pub(super) struct Slice<S> {
    /// The lowest hash of the range; all bits after the highest `depth` are 0.
    first: u64,
    /// A stamp at or above that of the last change of any cell of the range, existing or removed; 0 before the first
    /// change.
    changed: u64,
    depth: u32,
    cells: S,
}

impl<S: Cells> Slice<S> {
    /// An empty slice of all hashes.
    pub(super) fn new() -> Self {
        Self { first: 0, changed: 0, depth: 0, cells: S::default() }
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

    pub(super) fn cells(&self) -> &S {
        &self.cells
    }

    /// All bytes of memory of the slice.
    pub(super) fn bytes(&self) -> u64 {
        size_of::<Self>() as u64 + self.cells.usage().bytes
    }

    /// Whether it has to be split.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        let cells = self.cells.len();
        (cells > MAX_SLICE_CELLS || (self.cells.contents_bytes() > MAX_SLICE_BYTES && cells >= MIN_SPLIT_CELLS))
            && self.depth < MAX_DEPTH
    }

    /// Whether it has to be merged with `buddy`, the other half of their common range. The limit is a quarter of the
    /// bounds, so that a merged slice is not soon split again.
    pub(super) fn merges_with(&self, buddy: &Self) -> bool {
        self.depth == buddy.depth
            && self.cells.len() + buddy.cells.len() <= MAX_SLICE_CELLS / 4
            && self.cells.contents_bytes() + buddy.cells.contents_bytes() <= MAX_SLICE_BYTES / 4
    }

    /// Lets `write` change the cells of the range, stamps the slice, and counts the change in `tally`.
    ///
    /// # Errors
    /// The error of `write`, which must have changed nothing then.
    #[inline]
    pub(super) fn write<E>(
        &mut self,
        tally: &mut Tally,
        write: impl FnOnce(&mut S) -> Result<Effect, E>,
    ) -> Result<Effect, E> {
        let before = self.cells.usage();
        let effect = write(&mut self.cells)?;
        if effect != Effect::Nothing {
            // A removed cell leaves nothing behind but this stamp. Without it, a snapshot would reuse a piece in which
            // the cell still is.
            self.changed = tally.stamp;
            tally.usage.replace(before, self.cells.usage());
        }
        Ok(effect)
    }

    /// Cuts off the upper half of the range.
    pub(super) fn split(&mut self) -> Self {
        let bit = 1 << (u64::BITS - 1 - self.depth);
        self.depth += 1;
        // Both halves inherit the stamp, since it is not known in which of them the last change was.
        Self { first: self.first | bit, changed: self.changed, depth: self.depth, cells: self.cells.split_off(bit) }
    }

    /// Merges it with its buddy.
    pub(super) fn merge(&mut self, buddy: Self) {
        assert_eq!(self.depth, buddy.depth, "buddies are halves of one range");
        self.depth -= 1;
        self.first &= buddy.first;
        self.changed = self.changed.max(buddy.changed);
        self.cells.take_in(buddy.cells);
    }
}

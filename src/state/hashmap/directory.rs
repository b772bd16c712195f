//! The directory of one (state, key group): extendible hashing over bounded slices.
//!
//! ```text
//!   index, by the highest 2 hash bits     slices
//!     00 ───────────────────────────────▶ 0…  depth 1
//!     01 ──────────────────────────────┘
//!     10 ───────────────────────────────▶ 10… depth 2
//!     11 ───────────────────────────────▶ 11… depth 2
//! ```
//!
//! A full slice is split by its next hash bit. The index (4 bytes per position) doubles only if the slice already uses
//! all bits of the index. Two small halves of a range are merged again. No step touches the cells of more than two
//! slices.

use std::mem::size_of;

use super::{
    cells::{Cells, Effect},
    slice::Slice,
    usage::{Tally, Usage},
};
use crate::{tasks, types::HashRange};

/// The slices of one (state, key group). Invariants: `index` has 2^`depth` positions; exactly the positions in a
/// slice's range lead to it; `deepest` slices have the directory's depth.
pub(super) struct Directory<S> {
    depth: u32,
    deepest: usize,
    index: Vec<u32>,
    slices: Vec<Slice<S>>,
}

impl<S> Drop for Directory<S> {
    /// Freeing the cells of a large state takes long. A work aside does it slice by slice.
    fn drop(&mut self) {
        while self.slices.pop().is_some() {
            tasks::breathe();
        }
    }
}

impl<S: Cells> Directory<S> {
    /// A directory with one empty slice.
    pub(super) fn new() -> Self {
        Self { depth: 0, deepest: 1, index: vec![0], slices: vec![Slice::new()] }
    }

    /// Bytes of memory, including all slices. Linear in the number of slices.
    pub(super) fn bytes(&self) -> u64 {
        let slices: u64 = self.slices.iter().map(Slice::bytes).sum();
        (size_of::<Self>() + size_of::<u32>() * self.index.len()) as u64 + slices
    }

    pub(super) fn slices(&self) -> &[Slice<S>] {
        &self.slices
    }

    /// The slice whose range contains `hash`.
    pub(super) fn slice_of(&self, hash: u64) -> &Slice<S> {
        self.slice(self.position(hash))
    }

    /// A stamp at or above that of any change in the slices that share a hash with `range`.
    pub(super) fn changed(&self, range: HashRange) -> u64 {
        let (mut changed, mut from) = (0, range.first);
        loop {
            let slice = self.slice_of(from);
            changed = changed.max(slice.changed());
            match slice.last().checked_add(1) {
                Some(next) if next <= range.last => from = next,
                _ => return changed,
            }
        }
    }

    /// The cells of the slice of `hash`.
    #[inline]
    pub(super) fn cells(&self, hash: u64) -> Option<&S> {
        self.slices.get(self.position(hash)).map(Slice::cells)
    }

    /// Lets `write` change the cells of the slice of `hash`.
    ///
    /// # Errors
    /// The error of `write`, which must have changed nothing then.
    #[inline]
    pub(super) fn write<E>(
        &mut self,
        hash: u64,
        tally: &mut Tally,
        write: impl FnOnce(&mut S) -> Result<Effect, E>,
    ) -> Result<(), E> {
        let position = self.position(hash);
        let slice = self.slice_mut(position);
        // Ordering: the slice is split after the change. A refused change therefore splits nothing. One split is
        // enough: if all cells fall into one half, the next write to that half splits it again.
        match slice.write(tally, write)? {
            Effect::Changed if slice.is_full() => self.split(position, &mut tally.usage),
            Effect::Removed => self.merge(position, &mut tally.usage),
            Effect::Changed | Effect::Nothing => {}
        }
        Ok(())
    }

    /// The position in `slices` of the slice of `hash`.
    #[inline]
    fn position(&self, hash: u64) -> usize {
        // The shift is 64 at depth 0, where there is one position.
        let at = hash.checked_shr(u64::BITS - self.depth).unwrap_or(0) as usize;
        *self.index.get(at).expect("the index has 2^depth positions") as usize
    }

    #[inline]
    fn slice_mut(&mut self, position: usize) -> &mut Slice<S> {
        self.slices.get_mut(position).expect("the index only names slices")
    }

    fn slice(&self, position: usize) -> &Slice<S> {
        self.slices.get(position).expect("the index only names slices")
    }

    fn split(&mut self, position: usize, usage: &mut Usage) {
        let index = self.index.len();
        if self.slice(position).depth() == self.depth {
            // Positions are the highest bits of a hash. So each becomes two neighbours that lead to the same slice, and
            // no slice uses the new bit yet.
            self.index = self.index.iter().flat_map(|&slice| [slice, slice]).collect();
            self.depth += 1;
            self.deepest = 0;
        }
        let slice = self.slice_mut(position);
        let before = slice.bytes();
        let upper = slice.split();
        let after = slice.bytes() + upper.bytes();
        usage.replace_bytes(before, after);
        usage.replace_bytes((index * size_of::<u32>()) as u64, (self.index.len() * size_of::<u32>()) as u64);
        // Both halves have the new depth. Of their positions only those of the upper half change.
        if upper.depth() == self.depth {
            self.deepest += 2;
        }
        let (first, depth) = (upper.first(), upper.depth());
        self.point(first, depth, self.slices.len());
        self.slices.push(upper);
    }

    /// Merges the slice with its buddy, if both are small enough.
    fn merge(&mut self, position: usize, usage: &mut Usage) {
        let slice = self.slice(position);
        let depth = slice.depth();
        if depth == 0 {
            return;
        }
        // The buddy's range differs in the last bit of the prefix. The slice found there may be deeper, if the buddy
        // was split; then `merges_with` says no.
        let buddy_position = self.position(slice.first() ^ (1 << (u64::BITS - depth)));
        let buddy = self.slice(buddy_position);
        if !slice.merges_with(buddy) {
            return;
        }
        let before = slice.bytes() + buddy.bytes();
        // The lower position stays, so that the swap below does not move it.
        let (kept, freed) = (position.min(buddy_position), position.max(buddy_position));
        let other = self.slices.swap_remove(freed);
        // The last slice has moved into the free place, unless it was the one that was freed.
        if let Some(moved) = self.slices.get(freed) {
            let (first, depth) = (moved.first(), moved.depth());
            self.point(first, depth, freed);
        }
        let slice = self.slice_mut(kept);
        slice.merge(other);
        let (first, after) = (slice.first(), slice.bytes());
        usage.replace_bytes(before, after);
        // One merge is enough. If the merged slice is small enough for its own buddy, the next removal finds that, and
        // no removal moves more than two slices.
        self.point(first, depth - 1, kept);
        if depth == self.depth {
            self.deepest -= 2;
            self.halve_unused(usage);
        }
    }

    /// Halves the index as long as no slice uses its last bit.
    fn halve_unused(&mut self, usage: &mut Usage) {
        while self.deepest == 0 {
            let before = self.index.len();
            self.index = self.index.iter().step_by(2).copied().collect();
            self.depth -= 1;
            // Counting takes as long as there are slices. A halving needs a merge, and the bounds of merges are far
            // below those of splits, so two halvings of one index lie many changes apart.
            self.deepest = self.slices.iter().filter(|slice| slice.depth() == self.depth).count();
            usage.replace_bytes((before * size_of::<u32>()) as u64, (self.index.len() * size_of::<u32>()) as u64);
        }
    }

    /// Lets the index positions of a slice's range point to it.
    fn point(&mut self, first: u64, depth: u32, position: usize) {
        let slice = u32::try_from(position).expect("at most 2^MAX_DEPTH slices");
        let from = first.checked_shr(u64::BITS - self.depth).unwrap_or(0) as usize;
        let count = 1 << (self.depth - depth);
        self.index.get_mut(from..from + count).expect("the index covers all hashes").fill(slice);
    }

    /// Asserts the invariants.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.index.len(), 1 << self.depth);
        assert_eq!(self.deepest, self.slices.iter().filter(|slice| slice.depth() == self.depth).count());
        let mut led_to = vec![0; self.slices.len()];
        for &slice in &self.index {
            *led_to.get_mut(slice as usize).expect("a slice") += 1;
        }
        for (position, slice) in self.slices.iter().enumerate() {
            assert_eq!(self.position(slice.first()), position);
            assert_eq!(led_to.get(position), Some(&(1 << (self.depth - slice.depth()))));
            let shift = u64::BITS - slice.depth();
            slice.cells().names(&mut |hash, _, _| {
                assert_eq!(hash.checked_shr(shift), slice.first().checked_shr(shift));
            });
        }
    }
}

//! The cells of one slice, as slices and directories see them.

use super::{name::Name, usage::Usage};

/// The cells of one slice.
pub(super) trait Cells: Default {
    /// Number of (key, namespace) pairs.
    fn len(&self) -> usize;

    /// Entries, and bytes of memory outside of `Self`. Constant time.
    fn usage(&self) -> Usage;

    /// Bytes of the cells themselves, without room for more. Constant time.
    fn contents_bytes(&self) -> u64;

    /// Number of entries of a cell; 0 if there is none.
    fn entries(&self, name: &Name<'_>) -> u64;

    /// The memory of a cell with this hash, not read yet, as far as it is known without reading; empty without a cell.
    fn block(&self, hash: u64) -> &[u8];

    /// Takes out the cells whose hashes have `bit`.
    fn split_off(&mut self, bit: u64) -> Self;

    /// Takes in the cells of `other`, none of which is there yet.
    fn take_in(&mut self, other: Self);

    /// Calls `each` with hash, key and namespace of all cells, in no particular order.
    fn names<'a>(&'a self, each: &mut dyn FnMut(u64, &'a [u8], &'a [u8]));

    /// Counts `usage` anew, and checks the invariants.
    #[cfg(test)]
    fn recount(&self) -> Usage;
}

/// The effect of a write on the cells of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// The write was for a cell that does not exist.
    Nothing,
    /// A cell was changed or added.
    Changed,
    /// A cell was removed.
    Removed,
}

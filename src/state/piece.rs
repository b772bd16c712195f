//! Pieces: parts of a backend by ranges of stable hashes.
//!
//! A piece is the contents of one (state, key group) with stable hashes in one range. The
//! [hash](super::stable_hash) alone tells which piece a change belongs to, whichever backend made the piece.

use super::{
    Change, StateError,
    cut::{CutPiece, Kept},
};
pub use crate::types::HashRange;
use crate::types::{KeyGroup, StateId};

/// A backend whose contents are copied piece by piece, while changes go on.
pub trait PieceSnapshots {
    /// Copies a bounded part of (state, key group). Calls `copy` with the changes that rebuild, in an empty backend,
    /// every cell (all of one key and namespace) with a stable hash at or after `from`, up to an end that the backend
    /// chooses. Cells come in no particular order, the changes of one cell in order. Returns the last hash that was
    /// covered (inclusive, not below `from`); the next copy begins behind it. `u64::MAX` means the end. A key group in
    /// which nothing was ever written is covered at once, without a change.
    ///
    /// # Errors
    /// [`StateError::Mismatch`] for a state that is not registered, or a foreign key group.
    fn copy_piece(
        &self,
        state: StateId,
        key_group: KeyGroup,
        from: u64,
        copy: &mut dyn FnMut(&Change<'_>),
    ) -> Result<u64, StateError>;

    /// A stamp at or above the highest of any change to a cell of (state, key group) with a hash in `range`. The
    /// backend may look at a wider range, never at a narrower one. Changes of cells that were removed since count, and
    /// so does their removal; removing a missing cell may count or not. 0 if nothing there ever changed, or the place
    /// does not exist.
    fn changed(&self, state: StateId, key_group: KeyGroup, range: HashRange) -> u64;

    /// The range of hashes around `hash` that one copy covers if it begins at the first of them.
    fn slice(&self, state: StateId, key_group: KeyGroup, hash: u64) -> HashRange;

    /// Begins a snapshot of the present contents, under a number that no other snapshot has; see [`super::cut`].
    fn begin_cut(&mut self, number: u64, kept: Kept);

    /// Sets the pieces that a cut need not copy.
    fn keep(&mut self, number: u64, kept: Kept);

    /// The next piece of a cut; each part is returned once, then `None`.
    ///
    /// # Errors
    /// As [`copy_piece`](Self::copy_piece).
    fn next_of_cut(&mut self, number: u64) -> Result<Option<CutPiece>, StateError>;

    /// Ends a cut and frees its copies. Idempotent.
    fn end_cut(&mut self, number: u64);

    /// Bytes of copies for cuts that were not yet returned.
    fn held_bytes(&self) -> u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_includes_both_of_its_ends() {
        let range = HashRange { first: 3, last: 5 };
        assert!([3, 4, 5].into_iter().all(|hash| range.contains(hash)));
        assert!(![2, 6, u64::MAX].into_iter().any(|hash| range.contains(hash)));
        assert!([0, u64::MAX].into_iter().all(|hash| HashRange::ALL.contains(hash)));
    }
}

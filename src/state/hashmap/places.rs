//! The table of places of an arena's cells: a hash table of offsets, in four bytes each.
//!
//! ```text
//!   tag: 14 bits of the hash │ offset in words of 8 bytes, and 2: 18 bits
//! ```
//!
//! Open addressing with linear probing, so a look-up touches one cache line. The table does not see the cells: the
//! caller compares those that have the same tag, and tells their hashes when the table is made anew.

/// Bytes of a word, in which offsets are counted.
pub(super) const WORD: usize = 8;

/// A place that was never used.
const FREE: u32 = 0;

/// A place whose cell was removed.
const REMOVED: u32 = 1;

/// Added to an offset in words, to tell it from the two above.
const FIRST_OFFSET: u32 = 2;

/// Bits of a place that have the offset.
const OFFSET_BITS: u32 = 18;

const OFFSET_MASK: u32 = (1 << OFFSET_BITS) - 1;

/// Offsets are below this.
pub(super) const MAX_OFFSET: usize = (OFFSET_MASK - FIRST_OFFSET) as usize * WORD;

/// Fewest places of a table that has any.
const MIN_PLACES: usize = 8;

/// The places of the cells of an arena. Invariant: at most three quarters are in use.
#[derive(Default)]
pub(super) struct Places {
    /// None, or a power of two.
    table: Vec<u32>,
    /// Places that are not free.
    used: u32,
}

/// A place that was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    at: usize,
    pub(super) offset: usize,
}

impl Places {
    /// An empty table for so many cells.
    pub(super) fn with_room_for(cells: usize) -> Self {
        // At most five eighths are in use at first, and at most three quarters later. Without this distance, a slice
        // that loses a cell and gets another one in turn could make a table each time.
        let places = (cells * 8).div_ceil(5).next_power_of_two().max(MIN_PLACES);
        Self { table: vec![FREE; places], used: 0 }
    }

    /// The first place of a cell that may have this hash, and for which `is_it` is true of its offset.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(usize) -> bool) -> Option<Found> {
        let mask = self.table.len().checked_sub(1)?;
        let (tag, mut at) = (tag(hash), hash as usize & mask);
        loop {
            let place = *self.table.get(at)?;
            let offset = place ^ tag;
            if (FIRST_OFFSET..=OFFSET_MASK).contains(&offset) {
                let offset = (offset - FIRST_OFFSET) as usize * WORD;
                if is_it(offset) {
                    return Some(Found { at, offset });
                }
            }
            if place == FREE {
                return None;
            }
            at = (at + 1) & mask;
        }
    }

    /// The place at which the look-up of this hash begins, whatever it has.
    #[inline]
    pub(super) fn first(&self, hash: u64) -> u32 {
        let mask = self.table.len().wrapping_sub(1);
        self.table.get(hash as usize & mask).copied().unwrap_or(FREE)
    }

    /// Whether there is no room for one more cell.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        (self.used as usize + 1) * 4 > self.table.len() * 3
    }

    /// Adds the place of a cell, for which there is room.
    pub(super) fn insert(&mut self, hash: u64, offset: usize) {
        debug_assert!(!self.is_full() && offset < MAX_OFFSET && offset.is_multiple_of(WORD));
        let words = u32::try_from(offset / WORD).expect("an offset is bounded");
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let place = self.table.get_mut(at).expect("the mask bounds it");
            if *place <= REMOVED {
                self.used += u32::from(*place == FREE);
                *place = tag(hash) | (words + FIRST_OFFSET);
                return;
            }
            at = (at + 1) & mask;
        }
    }

    pub(super) fn remove(&mut self, found: Found) {
        *self.table.get_mut(found.at).expect("a place that was found") = REMOVED;
    }

    /// Bytes of memory.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.table.capacity() * size_of::<u32>()
    }

    /// Counts the places that lead to cells, and checks the invariants.
    #[cfg(test)]
    pub(super) fn recount(&self) -> usize {
        assert_eq!(self.table.iter().filter(|place| **place != FREE).count(), self.used as usize);
        assert!(self.used as usize * 4 <= self.table.len() * 3);
        self.table.iter().filter(|place| **place > REMOVED).count()
    }
}

/// The part of a hash that a place has, in its position there. The lowest bits tell where a probe begins, and the
/// highest are the same for all cells of a slice.
#[inline]
fn tag(hash: u64) -> u32 {
    hash as u32 & !OFFSET_MASK
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_by_tag_and_by_the_caller() {
        let mut places = Places::with_room_for(4);
        assert!(places.find(7, |_| true).is_none());
        // The same home; the first two have the same tag, too.
        let hashes = [7, 7 | 1 << 40, 7 | 3 << OFFSET_BITS];
        for (hash, offset) in hashes.into_iter().zip([0, 8, MAX_OFFSET - WORD]) {
            places.insert(hash, offset);
        }
        assert_eq!(places.find(7, |_| true).unwrap().offset, 0);
        assert_eq!(places.find(7, |offset| offset == 8).unwrap().offset, 8);
        assert_eq!(places.find(hashes[2], |_| true).unwrap().offset, MAX_OFFSET - WORD);
        places.remove(places.find(7, |_| true).unwrap());
        assert_eq!(places.find(7, |_| true).unwrap().offset, 8, "a removed place does not end a probe");
        assert_eq!((places.recount(), places.used), (2, 3));
        places.insert(7, 16);
        assert_eq!((places.recount(), places.used), (3, 3), "a removed place is used again");
    }
}

//! Stable hashes, and the ranges of them that pieces cover.
//!
//! A piece is the contents of one (state, key group) whose stable hashes are in one range. What holds a snapshot in pieces
//! finds the piece of a change by [`stable_hash`] alone, whichever backend the piece came from.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Stable hashes from `first` to `last`, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HashRange {
    /// Inclusive.
    pub first: u64,
    /// Inclusive, not below `first`.
    pub last: u64,
}

impl HashRange {
    /// Every hash.
    pub const ALL: Self = Self { first: 0, last: u64::MAX };

    /// Whether `hash` is inside.
    #[must_use]
    pub fn contains(self, hash: u64) -> bool {
        (self.first..=self.last).contains(&hash)
    }
}

/// The hash of a key and namespace that is the same on every host and in every version: xxh3-64 of the key, seeded with
/// xxh3-64 of the namespace, or with 0 for the void namespace.
#[must_use]
#[inline]
pub fn stable_hash(key: &[u8], namespace: &[u8]) -> u64 {
    if namespace.is_empty() { xxh3_64(key) } else { xxh3_64_with_seed(key, xxh3_64(namespace)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_stable() {
        // Fixed for ever: snapshots name hash ranges.
        assert_eq!(stable_hash(b"key", b""), xxh3_64(b"key"));
        assert_eq!(stable_hash(b"key", b""), 0xbbea_0d63_a051_65e3);
        assert_eq!(stable_hash(b"key", b"window"), 0x3d8b_f55b_9816_f9a7);
    }

    #[test]
    fn a_range_includes_both_of_its_ends() {
        let range = HashRange { first: 3, last: 5 };
        assert!([3, 4, 5].into_iter().all(|hash| range.contains(hash)));
        assert!(![2, 6, u64::MAX].into_iter().any(|hash| range.contains(hash)));
        assert!([0, u64::MAX].into_iter().all(|hash| HashRange::ALL.contains(hash)));
    }
}

//! Which manifests of a chain stay for ever, told by their numbers. Pure.
//!
//! The first and the last manifest of every epoch stay (see [`chain`](crate::checkpoint::chain)); those between are
//! deleted. Readers need not read them again and again to know that. The head tells where epochs opened, as far back as
//! a manifest between may be left; before that there is none.
//!
//! ```text
//!   1 2 ┊ 3 · · 7 8 · 10 11 ┊ 12 13 14 15 16 17 …       a point: deleted
//!       │                   └ openers: 12, 15, …  the rest from there on has to be looked at
//!       └ tracked_from: what is before was written by a version that did not tell
//! ```

use std::ops::Range;

use crate::checkpoint::chain::KEPT_MANIFESTS;

/// Most epochs that are remembered because a manifest between their first and last one may be left.
const MOST_OPENERS: usize = 256;

/// The facts that a manifest tells about those before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fences {
    /// The facts are about manifests from this number on.
    pub(super) tracked_from: u64,
    /// The numbers of the manifests that opened epochs, ascending, the present one last. Between `tracked_from` and the
    /// first of them, every existing manifest stays. Empty if nothing is known.
    pub(super) openers: Vec<u64>,
}

impl Fences {
    /// Notes that manifest `number` opens an epoch.
    pub fn open(&mut self, number: u64) {
        // If nothing is known, or too much to list, the facts begin anew here. Sweeps then read the manifests below
        // once more.
        if self.openers.is_empty() || self.openers.len() >= MOST_OPENERS {
            *self = Self { tracked_from: number, openers: vec![] };
        }
        self.openers.push(number);
        self.settle(0);
    }

    /// The numbers between the first and the last manifest of past epochs, except the newest ones of a chain whose head
    /// is `head`.
    #[must_use]
    pub fn between(&self, head: u64) -> Vec<Range<u64>> {
        let epochs = self.openers.iter().zip(self.openers.iter().skip(1));
        // `next - 1` is the last manifest of the epoch, which stays.
        let between = epochs.map(|(first, next)| first + 1..next.saturating_sub(1));
        between.filter(|range| !range.is_empty() && range.end + KEPT_MANIFESTS <= head).collect()
    }

    /// Notes that all manifests that [lie between](Self::between) and below `deleted_below` are deleted.
    pub fn settle(&mut self, deleted_below: u64) {
        // With at most one manifest between two openers, that one is the last of its epoch, and there is nothing to
        // delete.
        let is_settled = |first: u64, next: u64| next <= first + 2 || next <= deleted_below.saturating_add(1);
        while let [first, next, ..] = self.openers.as_slice()
            && is_settled(*first, *next)
        {
            self.openers.remove(0);
        }
    }

    /// Whether manifest `number`, if it exists, opened or ended an epoch, because no other manifest is left there.
    #[must_use]
    pub fn has(&self, number: u64) -> bool {
        self.openers.first().is_some_and(|first| (self.tracked_from..*first).contains(&number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_with_nothing_between_are_settled_at_once() {
        let mut fences = Fences::default();
        for number in [1, 3, 4, 6] {
            fences.open(number);
        }
        assert_eq!(fences, Fences { tracked_from: 1, openers: vec![6] });
        assert!((1..6).all(|number| fences.has(number)) && !fences.has(6) && !fences.has(0));
    }

    #[test]
    fn what_lies_between_is_settled_once_it_is_deleted() {
        let mut fences = Fences::default();
        for number in [1, 5, 7, 12] {
            fences.open(number);
        }
        assert_eq!(fences.openers, [1, 5, 7, 12], "2 and 3 are left, and what comes after them");
        assert_eq!(fences.between(11), []);
        assert_eq!(fences.between(12), std::slice::from_ref(&(2..4)));
        assert_eq!(fences.between(19), [2..4, 8..11]);
        let mut first = fences.clone();
        first.settle(4);
        assert_eq!(first.openers, [7, 12]);
        assert!(first.has(6) && !first.has(8));
        fences.settle(11);
        assert_eq!(fences.openers, [12]);
        fences.settle(99);
        assert_eq!(fences.openers, [12], "the present epoch's owner deletes its own");
    }

    #[test]
    fn a_chain_of_an_older_version_is_told_of_from_the_next_epoch_on() {
        let mut fences = Fences::default();
        fences.open(40);
        fences.open(42);
        assert_eq!((fences.has(39), fences.has(40), fences.has(41)), (false, true, true));
        for number in 0..300 {
            fences.open(100 + 10 * number);
        }
        assert!(fences.openers.len() <= MOST_OPENERS && fences.tracked_from > 40);
    }
}

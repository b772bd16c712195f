//! Ranges of keys that are known to have no entries, so that scans need not walk over tombstones there.
//!
//! ```text
//!   keys   a b c d e f … x y z     a queue: written at its end, removed at its beginning
//!          ✝ ✝ ✝ ✝ ✝ ✝ … ✝ y z     each removal stays behind as a tombstone, until a compaction meets it
//!          ╰──── gap ────╯         the next scan begins at `y`
//! ```
//!
//! A scan that meets many tombstones between two entries notes them as a gap. A write into a gap shortens it; a removal
//! at one of its ends extends it. So a queue whose first entries are removed, or a stack whose last ones are, is never
//! walked over twice. Gaps are a hint about the contents of one database. They may be forgotten at any time, which
//! costs only time.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

/// Number of tombstones between two entries that is worth a gap.
pub(super) const WORTH: u64 = 256;

/// Most gaps that are kept; those with the most tombstones stay.
const MOST: usize = 64;

/// The gaps of one database; they are disjoint.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// By their ends, which are exclusive.
    by_end: BTreeMap<Vec<u8>, Gap>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Gap {
    from: Vec<u8>,
    /// Number of tombstones that were met in it.
    dead: u64,
}

/// The first key behind `key`.
pub(super) fn successor(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

fn is_successor(of: &[u8], key: &[u8]) -> bool {
    key.strip_prefix(of) == Some(&[0][..])
}

impl Gaps {
    /// The first gap that ends behind `key`: its begin (inclusive) and end (exclusive).
    pub(super) fn next(&self, key: &[u8]) -> Option<(&[u8], &[u8])> {
        let (end, gap) = self.by_end.range::<[u8], _>((Excluded(key), Unbounded)).next()?;
        Some((&gap.from, end))
    }

    /// Notes that there is an entry at `key` now.
    pub(super) fn written(&mut self, key: &[u8]) {
        let Some((from, end)) = self.next(key).filter(|(from, _)| *from <= key) else { return };
        // A write cuts the gap in two. Only the part before it is kept, or the part behind it if there is none before.
        // To forget the other part costs only time.
        let (is_first, end, behind) = (from == key, end.to_vec(), successor(key));
        let gap = self.by_end.remove(&end).expect("it was found by this end");
        if !is_first {
            self.by_end.insert(key.to_vec(), gap);
        } else if behind < end {
            self.by_end.insert(end, Gap { from: behind, ..gap });
        }
    }

    /// Notes that there is no entry at `key` any more.
    pub(super) fn removed(&mut self, key: &[u8]) {
        if self.by_end.is_empty() {
            return;
        }
        // Ends are exclusive: a gap that ends at `key` grows to include it. It may now touch the next gap, so it is
        // noted anew.
        if let Some(Gap { from, dead }) = self.by_end.remove(key) {
            self.found(&from, &successor(key), dead + 1);
            return;
        }
        let Some((from, end)) = self.next(key).filter(|(from, _)| is_successor(key, from)) else { return };
        debug_assert!(from > key, "a gap begins behind what comes before it");
        let end = end.to_vec();
        if let Some(gap) = self.by_end.get_mut(&end) {
            gap.from = key.to_vec();
            gap.dead += 1;
        }
    }

    /// Notes that a scan from `from` to `end` has met `dead` tombstones and no entry.
    pub(super) fn found(&mut self, from: &[u8], end: &[u8], dead: u64) {
        if from >= end {
            return;
        }
        let mut merged = Gap { from: from.to_vec(), dead };
        let mut merged_end = end.to_vec();
        // Gaps that it overlaps or touches are merged with it.
        loop {
            let other = self.by_end.range(from.to_vec()..).next();
            let Some((other_end, other)) = other.filter(|(_, other)| *other.from <= *merged_end) else { break };
            let other_end = other_end.clone();
            merged.from = merged.from.min(other.from.clone());
            merged.dead = merged.dead.saturating_add(other.dead);
            self.by_end.remove(&other_end);
            merged_end = merged_end.max(other_end);
        }
        self.by_end.insert(merged_end, merged);
        if self.by_end.len() > MOST {
            let least = self.by_end.iter().min_by_key(|(_, gap)| gap.dead).map(|(end, _)| end.clone());
            least.and_then(|end| self.by_end.remove(&end));
        }
    }

    /// Forgets all gaps, because entries come from elsewhere.
    pub(super) fn forget(&mut self) {
        self.by_end.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn spans(gaps: &Gaps) -> Vec<(&[u8], &[u8])> {
        gaps.by_end.iter().map(|(end, gap)| (&gap.from[..], &end[..])).collect()
    }

    #[test]
    fn a_queue_makes_its_gap_longer_at_either_end_and_a_write_makes_it_shorter() {
        let mut gaps = Gaps::default();
        gaps.found(b"b", b"e", WORTH);
        gaps.removed(b"e");
        assert_eq!(spans(&gaps), [(&b"b"[..], &b"e\0"[..])]);
        gaps.found(b"e\0", b"h", WORTH);
        assert_eq!(spans(&gaps), [(&b"b"[..], &b"h"[..])], "what touches is one");
        gaps.written(b"g");
        assert_eq!(spans(&gaps), [(&b"b"[..], &b"g"[..])]);
        gaps.found(b"x\0", b"z", WORTH);
        gaps.removed(b"x");
        assert_eq!(gaps.next(b"g"), Some((&b"x"[..], &b"z"[..])));
        gaps.written(b"x");
        assert_eq!(gaps.next(b"g"), Some((&b"x\0"[..], &b"z"[..])));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write(u8),
        Remove(u8),
        Scan(u8, u8),
    }

    proptest! {
        #[test]
        fn no_gap_ever_has_an_entry(
            steps in prop::collection::vec(
                prop_oneof![
                    any::<u8>().prop_map(Step::Write),
                    any::<u8>().prop_map(Step::Remove),
                    any::<(u8, u8)>().prop_map(|(one, other)| Step::Scan(one.min(other), one.max(other))),
                ],
                0..200,
            ),
        ) {
            let (mut gaps, mut entries) = (Gaps::default(), BTreeSet::new());
            for step in steps {
                match step {
                    Step::Write(key) => {
                        entries.insert(key);
                        gaps.written(&[key]);
                    }
                    Step::Remove(key) => {
                        entries.remove(&key);
                        gaps.removed(&[key]);
                    }
                    Step::Scan(from, to) => {
                        let first = entries.range(from..).next().copied().unwrap_or(u8::MAX).min(to);
                        gaps.found(&[from], &[first], 1);
                    }
                }
                let spans = spans(&gaps);
                prop_assert!(spans.windows(2).all(|pair| pair[0].1 < pair[1].0), "disjoint: {spans:?}");
                for (from, end) in spans {
                    prop_assert!(from < end);
                    prop_assert!(entries.iter().all(|key| &[*key][..] < from || &[*key][..] >= end));
                }
            }
        }
    }
}

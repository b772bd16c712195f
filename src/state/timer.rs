//! Timers in order: references to timers, and an index of them in memory.

use std::{cmp::Ordering, collections::BTreeSet, mem::size_of, ops::Bound, sync::Arc};

use super::{
    Page, PageLimit,
    hashmap::{Name, read_name},
};
use crate::types::KeyGroup;

/// Bytes of a B-tree node per entry, when the nodes are two thirds full.
const ENTRY_BYTES: usize = size_of::<Entry>() * 3 / 2;

/// A reference to one timer of a state. Timers are ordered by time, then by the bytes of their keys, then by those of
/// their namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerRef<'a> {
    /// The time, above the lowest `i64`.
    pub time: i64,
    /// The key; at least 1 byte.
    pub key: &'a [u8],
    /// The namespace; empty for the void namespace.
    pub namespace: &'a [u8],
    /// The key group of the key.
    pub key_group: KeyGroup,
}

impl TimerRef<'_> {
    /// Bytes of a timer in a page besides its key and namespace: the time, the key group, and the framing in a reply.
    pub const FRAME_BYTES: usize = 32;

    /// Bytes that the timer takes of a page, which is at least its size in a reply.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        Self::FRAME_BYTES + self.key.len() + self.namespace.len()
    }
}

/// The timers of a state, in order.
#[derive(Debug, Default)]
pub(super) struct TimerIndex(BTreeSet<Entry>);

/// A timer. Its name may be shared with other timers and with its cell.
#[derive(Debug, Clone)]
struct Entry {
    time: i64,
    /// In the form of a [`Name`]'s block.
    name: Arc<[u8]>,
    key_group: KeyGroup,
}

impl TimerIndex {
    /// Adds a timer; returns whether it is new.
    pub(super) fn insert(&mut self, time: i64, name: Arc<[u8]>, key_group: KeyGroup) -> bool {
        self.0.insert(Entry { time, name, key_group })
    }

    /// Removes a timer; returns whether it was set.
    pub(super) fn remove(&mut self, time: i64, name: Arc<[u8]>, key_group: KeyGroup) -> bool {
        self.0.remove(&Entry { time, name, key_group })
    }

    /// Number of timers. Constant time.
    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Bytes of memory without the names. Constant time.
    pub(super) fn bytes(&self) -> u64 {
        (self.0.len() * ENTRY_BYTES) as u64
    }

    /// As [`StateBackend::timer_page`](super::StateBackend::timer_page).
    pub(super) fn page(
        &self,
        after: Option<TimerRef<'_>>,
        up_to: i64,
        limit: PageLimit,
        read: &mut dyn FnMut(TimerRef<'_>),
    ) -> bool {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(Entry::of(after)));
        let mut page = Page::new(limit);
        let rest = self.0.range((from, Bound::Unbounded)).map(Entry::timer);
        for timer in rest.take_while(|timer| timer.time <= up_to) {
            if !page.takes(timer.page_bytes()) {
                return true;
            }
            read(timer);
        }
        false
    }
}

impl Entry {
    fn of(timer: TimerRef<'_>) -> Self {
        let TimerRef { time, key, namespace, key_group } = timer;
        Self { time, name: Name::new(key, namespace).block(&[]).into(), key_group }
    }

    fn timer(&self) -> TimerRef<'_> {
        let (key, namespace) = read_name(&self.name);
        TimerRef { time: self.time, key, namespace, key_group: self.key_group }
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // The time decides most comparisons, so names are read only where times are equal.
        self.time.cmp(&other.time).then_with(|| self.timer().cmp(&other.timer()))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_lie_in_order_of_time_then_key_then_namespace() {
        let timer = |time, key: &'static str, namespace: &'static str, group| TimerRef {
            time,
            key: key.as_bytes(),
            namespace: namespace.as_bytes(),
            key_group: KeyGroup(group),
        };
        let ordered = [
            timer(-9, "z", "", 3),
            timer(0, "a", "", 1),
            timer(0, "a", "b", 0),
            timer(0, "ab", "", 0),
            timer(0, "ab", "", 1),
            timer(0, "b", "", 0),
            timer(i64::MAX, "a", "", 0),
        ];
        let mut index = TimerIndex::default();
        for entry in ordered.iter().rev().map(|timer| Entry::of(*timer)) {
            assert!(index.insert(entry.time, entry.name.clone(), entry.key_group));
            assert!(!index.insert(entry.time, entry.name, entry.key_group), "once");
        }
        let page = |after, up_to, entries| {
            let mut found = vec![];
            let limit = PageLimit { entries, bytes: usize::MAX };
            let more = index.page(after, up_to, limit, &mut |timer| {
                found.extend(ordered.iter().position(|other| *other == timer));
            });
            (found, more)
        };
        assert_eq!(page(None, i64::MAX, 99), ((0..7).collect(), false));
        assert_eq!(page(None, 0, 99), ((0..6).collect(), false));
        assert_eq!(page(None, -10, 99), (vec![], false));
        assert_eq!(page(ordered.get(1).copied(), 0, 3), (vec![2, 3, 4], true));
        assert_eq!(page(Some(timer(0, "aa", "", 9)), i64::MAX, 2), (vec![3, 4], true));
    }
}

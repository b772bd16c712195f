//! The timers of one state: cells as for any other kind, and an index over all of them in order of time.

use std::{cell::Cell as Slot, collections::BTreeSet, mem::size_of, sync::Arc};

use super::{
    cell::{ALLOCATION_BYTES, Cell},
    cell_table::CellTable,
    name::Name,
    table::{Groups, Misfit},
    usage::Usage,
};
use crate::{
    state::{Action, Address, PageLimit, TimerRef, timer::TimerIndex},
    types::KeyGroupRange,
};

/// Bytes of a B-tree leaf of times: room for 11, links and counters.
const LEAF_BYTES: usize = 11 * size_of::<i64>() + 16;

/// Bytes of B-tree nodes per time, when the nodes are two thirds full.
const TIME_BYTES: usize = size_of::<i64>() * 3 / 2;

/// Bytes of the counters of a shared name.
const SHARED_BYTES: usize = 2 * size_of::<usize>();

/// The timers of one state. Invariant: the index has exactly the timers of the cells.
pub(super) struct Timers {
    pub(super) groups: Groups<CellTable<TimerCell>>,
    index: TimerIndex,
}

/// The times of one (key, namespace). Never empty while it is stored.
pub(super) struct TimerCell {
    hash: u64,
    /// The name, shared with the index.
    name: Arc<[u8]>,
    times: Times,
}

/// Most cells have only one time.
enum Times {
    One(i64),
    Many(BTreeSet<i64>),
}

impl Timers {
    pub(super) fn new(range: KeyGroupRange) -> Self {
        Self { groups: Groups::new(range), index: TimerIndex::default() }
    }

    pub(super) fn usage(&self) -> Usage {
        self.with_index(self.groups.tally.usage)
    }

    #[cfg(test)]
    pub(super) fn recount(&self) -> Usage {
        self.with_index(self.groups.recount())
    }

    fn with_index(&self, cells: Usage) -> Usage {
        Usage { bytes: cells.bytes + self.index.bytes(), ..cells }
    }

    pub(super) fn put(&mut self, at: Address<'_>, name: &Name<'_>, time: i64) -> Result<(), Misfit> {
        // Either closure sets it, and both are alive at once, so it is a cell.
        let added = Slot::new(None);
        let put = |cell: &mut TimerCell| {
            if cell.put(time) {
                added.set(Some(cell.name.clone()));
            }
            Ok(())
        };
        let create = || {
            let cell = TimerCell::new(name, time);
            added.set(Some(cell.name.clone()));
            Ok(cell)
        };
        // Ordering: the cells first. They refuse a foreign key group before anything has changed, so the index never
        // has a timer that no cell has.
        self.groups.upsert(at, name, put, create)?;
        if let Some(name) = added.take() {
            let is_new = self.index.insert(time, name, at.key_group);
            debug_assert!(is_new, "the index has what the cells have");
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, at: Address<'_>, name: &Name<'_>, time: i64) -> Result<(), Misfit> {
        let mut removed = None;
        self.groups.change_or_remove(at, name, |cell| {
            let left = cell.remove(time);
            if left != Left::NoChange {
                removed = Some(cell.name.clone());
            }
            left != Left::Nothing
        })?;
        if let Some(name) = removed {
            let was_there = self.index.remove(time, name, at.key_group);
            debug_assert!(was_there, "the index has what the cells have");
        }
        Ok(())
    }

    pub(super) fn count(&self) -> u64 {
        self.index.len()
    }

    pub(super) fn page(
        &self,
        after: Option<TimerRef<'_>>,
        up_to: i64,
        limit: PageLimit,
        read: &mut dyn FnMut(TimerRef<'_>),
    ) -> bool {
        self.index.page(after, up_to, limit, read)
    }
}

/// The effect of a removal on a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// The time was not set, so the cell is unchanged.
    NoChange,
    /// Other times remain.
    Others,
    Nothing,
}

impl TimerCell {
    fn new(name: &Name<'_>, time: i64) -> Self {
        Self { hash: name.hash(), name: name.block(&[]).into(), times: Times::One(time) }
    }

    pub(super) fn contains(&self, time: i64) -> bool {
        match &self.times {
            Times::One(one) => *one == time,
            Times::Many(times) => times.contains(&time),
        }
    }

    /// Adds a time; returns whether it is new.
    fn put(&mut self, time: i64) -> bool {
        match &mut self.times {
            Times::One(one) if *one == time => false,
            Times::One(one) => {
                self.times = Times::Many(BTreeSet::from([*one, time]));
                true
            }
            Times::Many(times) => times.insert(time),
        }
    }

    fn remove(&mut self, time: i64) -> Left {
        match &mut self.times {
            Times::One(one) if *one == time => Left::Nothing,
            Times::One(_) => Left::NoChange,
            Times::Many(times) => {
                if !times.remove(&time) {
                    return Left::NoChange;
                }
                // A single time needs no tree. Most cells are in this form, so it pays to come back to it.
                if let (1, Some(last)) = (times.len(), times.first()) {
                    self.times = Times::One(*last);
                }
                Left::Others
            }
        }
    }
}

impl Cell for TimerCell {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn block(&self) -> &[u8] {
        &self.name
    }

    fn entries(&self) -> u64 {
        match &self.times {
            Times::One(_) => 1,
            Times::Many(times) => times.len() as u64,
        }
    }

    fn bytes(&self) -> u64 {
        let times = match &self.times {
            Times::One(_) => 0,
            Times::Many(times) => LEAF_BYTES.max(times.len() * TIME_BYTES) + ALLOCATION_BYTES,
        };
        (self.name.len() + SHARED_BYTES + ALLOCATION_BYTES + times) as u64
    }

    fn rebuild(&self, each: &mut dyn FnMut(Action<'_>)) {
        match &self.times {
            Times::One(time) => each(Action::TimerPut { time: *time }),
            Times::Many(times) => times.iter().for_each(|time| each(Action::TimerPut { time: *time })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_keeps_each_time_once_and_gives_memory_back() {
        let mut cell = TimerCell::new(&Name::new(b"key", b"ns"), 7);
        let one = cell.bytes();
        assert!(!cell.put(7) && cell.contains(7) && !cell.contains(8));
        assert_eq!(cell.remove(8), Left::NoChange);
        for time in 0..100 {
            assert_eq!(cell.put(time), time != 7);
        }
        assert!(cell.bytes() >= one + 100 * 8 && cell.entries() == 100);
        let mut next = 0;
        cell.rebuild(&mut |action| {
            assert_eq!(action, Action::TimerPut { time: next });
            next += 1;
        });
        assert_eq!(next, 100);
        for time in (0..100).filter(|time| *time != 50) {
            assert_eq!(cell.remove(time), Left::Others);
            assert_eq!(cell.remove(time), Left::NoChange);
        }
        assert_eq!((cell.bytes(), cell.entries(), cell.remove(50)), (one, 1, Left::Nothing));
    }
}

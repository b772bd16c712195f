//! Timers of this backend: rows in order of time within each key group, and the means to find the first ones over all
//! key groups.
//!
//! Rows are written in either mode ([`TimerService`]). So an image has all of them, and loading it needs no special
//! care: the contents of memory are read again from the rows on first use.
//!
//! - `Heap`: an index of all timers of the state.
//! - `RocksDb`: the first rows of each key group (`Group`). Reads merge the key groups, those with the earliest heads
//!   first, and continue in the database where the rows in memory end. The database is read again only after a whole
//!   cached part has been fired, and from behind it, so tombstones of fired timers are never walked over. Since such a
//!   read passes on the writes of a shard, all of its key groups that have become short are refilled then.

mod disk;

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use self::disk::Disk;
use super::{RocksDbBackend, Shard, TimerService, key};
use crate::{
    state::{Action, Address, Change, Page, PageLimit, StateError, TimerRef, hashmap::Name, timer::TimerIndex},
    types::{KeyGroup, KeyGroupRange, StateId, StateKind},
};

/// Overhead of a shared name: the allocator's, and counters.
const NAME_BYTES: usize = 32;

/// Takes a row, which is the rest of a timer's key; can break off the scan.
type ReadRow<'a> = &'a mut dyn FnMut(&[u8]) -> Result<ControlFlow<()>, StateError>;

/// The order of the timers of one state.
pub(super) enum Timers {
    /// `None` until it is read from the rows.
    Heap(Option<Heap>),
    Disk(Disk),
}

/// All timers of a state, in memory.
#[derive(Default)]
pub(super) struct Heap {
    index: TimerIndex,
    name_bytes: u64,
}

/// The rows of one state.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    state: StateId,
    key_groups: KeyGroupRange,
    shards: &'a [Shard],
}

impl Timers {
    /// The timers of a state without rows if `is_empty`; otherwise nothing is known about the rows.
    pub(super) fn new(service: TimerService, key_groups: KeyGroupRange, is_empty: bool) -> Self {
        match service {
            TimerService::Heap => Self::Heap(is_empty.then(Heap::default)),
            TimerService::RocksDb => Self::Disk(Disk::new(key_groups, is_empty)),
        }
    }

    /// Forgets everything, because rows come from elsewhere.
    pub(super) fn forget(&mut self) {
        match self {
            Self::Heap(heap) => *heap = None,
            Self::Disk(disk) => disk.forget(),
        }
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Heap(heap) => heap.as_ref().map_or(0, |heap| heap.index.bytes() + heap.name_bytes),
            Self::Disk(disk) => disk.bytes(),
        }
    }

    /// Notes that a timer was added or removed; `row` is the rest of its key.
    fn note(&mut self, timer: TimerRef<'_>, row: &[u8], is_there: bool) {
        match self {
            // The rows tell, once they are read.
            Self::Heap(None) => {}
            Self::Heap(Some(heap)) => heap.note(timer, is_there),
            Self::Disk(disk) => disk.note(timer.key_group, row, is_there),
        }
    }

    fn page(
        &mut self,
        rows: Rows<'_>,
        after: Option<TimerRef<'_>>,
        up_to: i64,
        limit: PageLimit,
        read: &mut dyn FnMut(TimerRef<'_>),
    ) -> Result<bool, StateError> {
        match self {
            Self::Disk(disk) => disk.page(rows, after, up_to, limit, read),
            Self::Heap(heap) => {
                let heap = match heap {
                    Some(heap) => heap,
                    None => heap.insert(Heap::load(rows)?),
                };
                Ok(heap.index.page(after, up_to, limit, read))
            }
        }
    }
}

impl Heap {
    fn load(rows: Rows<'_>) -> Result<Self, StateError> {
        let mut heap = Self::default();
        for key_group in rows.key_groups.iter() {
            rows.scan(key_group, &[], &mut |row| {
                heap.note(key::parse_timer(row)?.of(key_group), true);
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(heap)
    }

    fn note(&mut self, timer: TimerRef<'_>, is_there: bool) {
        // The bytes change only if the index does: a timer may be set or removed twice.
        let name: Arc<[u8]> = Name::new(timer.key, timer.namespace).block(&[]).into();
        let bytes = (name.len() + NAME_BYTES) as u64;
        if is_there {
            self.name_bytes += if self.index.insert(timer.time, name, timer.key_group) { bytes } else { 0 };
        } else {
            self.name_bytes -= if self.index.remove(timer.time, name, timer.key_group) { bytes } else { 0 };
        }
    }
}

impl Rows<'_> {
    /// The position of the shard of a key group.
    fn position(&self, key_group: KeyGroup) -> usize {
        self.shards.partition_point(|shard| shard.key_groups.last() < key_group)
    }

    fn shard(&self, key_group: KeyGroup) -> &Shard {
        self.shards.get(self.position(key_group)).expect("the shards cover the range")
    }

    fn prefix(&self, key_group: KeyGroup) -> Vec<u8> {
        let mut prefix = vec![];
        key::state_prefix(key_group, self.state, &mut prefix);
        prefix
    }

    /// Whether reading a key group passes on buffered writes.
    fn hands_on(&self, key_group: KeyGroup) -> bool {
        self.shard(key_group).buffers(&self.prefix(key_group))
    }

    /// Calls `read` with the rows of a key group at or after `from`, in order, until it breaks off.
    fn scan(&self, key_group: KeyGroup, from: &[u8], read: ReadRow<'_>) -> Result<(), StateError> {
        let prefix = self.prefix(key_group);
        let start = [&prefix, from].concat();
        self.shard(key_group).scan(&prefix, &start, &mut |key, _| read(key.get(prefix.len()..).unwrap_or_default()))
    }
}

impl RocksDbBackend {
    fn rows(&self, state: StateId) -> Rows<'_> {
        Rows { state, key_groups: self.key_groups, shards: &self.shards }
    }

    /// Refuses a state that does not have timers.
    fn expect_timers(&self, state: StateId) -> Result<(), StateError> {
        match self.kind(state)? {
            StateKind::Timer => Ok(()),
            _ => Err(StateError::Mismatch { state, what: "a read of timers" }),
        }
    }

    /// Applies a change to a timer state; returns the bytes that its shard has buffered.
    pub(super) fn apply_timer(&mut self, change: &Change<'_>) -> Result<usize, StateError> {
        let Address { state, key_group, key, namespace } = change.at;
        let (time, is_there) = match change.action {
            Action::TimerPut { time } => (time, true),
            Action::TimerRemove { time } => (time, false),
            _ => return Err(StateError::Mismatch { state, what: "a change of another kind for a timer state" }),
        };
        let position = self.position(change.at)?;
        let Self { shards, timers, key: entry, .. } = self;
        let shard = shards.get(position).expect("the shards cover the range");
        // Ordering: the row is written before the order in memory learns of it. Both happen in one call, and nothing in
        // between can fail.
        entry.clear();
        key::state_prefix(key_group, state, entry);
        let prefix = entry.len();
        key::push_timer(time, key, namespace, entry);
        if is_there {
            shard.put(entry, Some(prefix), &[])
        } else {
            shard.delete(entry, Some(prefix))
        }
        if let (Some(timers), Some(row)) = (timers.get_mut(&state), entry.get(prefix..)) {
            timers.get_mut().note(TimerRef { time, key, namespace, key_group }, row, is_there);
        }
        Ok(shard.buffered_bytes())
    }

    /// As [`StateBackend::timer`](crate::state::StateBackend::timer).
    pub(super) fn has_timer(&self, at: Address<'_>, time: i64) -> Result<bool, StateError> {
        self.expect_timers(at.state)?;
        let shard = self.shard(at)?;
        let mut entry = self.rows(at.state).prefix(at.key_group);
        key::push_timer(time, at.key, at.namespace, &mut entry);
        shard.get(&entry, |stored| stored.is_some())
    }

    /// As [`StateBackend::timer_page`](crate::state::StateBackend::timer_page).
    pub(super) fn page_of_timers(
        &self,
        state: StateId,
        after: Option<TimerRef<'_>>,
        up_to: i64,
        limit: PageLimit,
        read: &mut dyn FnMut(TimerRef<'_>),
    ) -> Result<bool, StateError> {
        self.expect_timers(state)?;
        let Some(timers) = self.timers.get(&state) else { return Ok(false) };
        timers.borrow_mut().page(self.rows(state), after, up_to, limit, read)
    }

    /// As [`StateBackend::timer_count`](crate::state::StateBackend::timer_count): from an index in memory, or else by
    /// reading all rows.
    pub(super) fn count_of_timers(&self, state: StateId) -> Result<u64, StateError> {
        self.expect_timers(state)?;
        // An index that was not read yet is not read for its count alone: rows can be counted without memory.
        if let Some(Timers::Heap(Some(heap))) = self.timers.get(&state).map(|timers| timers.borrow()).as_deref() {
            return Ok(heap.index.len());
        }
        let mut count = 0;
        let rows = self.rows(state);
        for key_group in rows.key_groups.iter() {
            rows.scan(key_group, &[], &mut |_| {
                count += 1;
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(count)
    }

    /// Number of timers of a (key, namespace); reads all timers of its key group.
    pub(super) fn count_timers(&self, at: Address<'_>) -> Result<u64, StateError> {
        let mut count = 0;
        self.rows(at.state).scan(at.key_group, &[], &mut |row| {
            let timer = key::parse_timer(row)?;
            count += u64::from(*timer.key == *at.key && timer.namespace == at.namespace);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(count)
    }

    /// As [`StateBackend::name_page`](crate::state::StateBackend::name_page): reads all timers of the key group, and
    /// keeps the first names behind `after`.
    pub(super) fn names_of_timers(
        &self,
        state: StateId,
        key_group: KeyGroup,
        after: Option<(&[u8], &[u8])>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, StateError> {
        // This refuses a foreign key group, whose rows would be looked for in the wrong shard.
        self.position(Address { state, key_group, key: &[], namespace: &[] })?;
        let rank = |key: &[u8], namespace: &[u8]| {
            let mut rank = vec![];
            key::push_name(key, namespace, &mut rank);
            rank
        };
        let after = after.map(|(key, namespace)| rank(key, namespace));
        let mut names: BTreeMap<Vec<u8>, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
        self.rows(state).scan(key_group, &[], &mut |row| {
            let timer = key::parse_timer(row)?;
            let rank = rank(&timer.key, timer.namespace);
            if after.as_ref().is_none_or(|after| rank > *after) {
                names.insert(rank, (timer.key.into_owned(), timer.namespace.to_vec()));
                // One more than the page may have, since the first one is always on it.
                if names.len() > limit.entries.saturating_add(1) {
                    names.pop_last();
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let mut page = Page::new(limit);
        for (key, namespace) in names.values() {
            if !page.takes(key.len() + namespace.len()) {
                return Ok(true);
            }
            read(key, namespace);
        }
        Ok(false)
    }
}

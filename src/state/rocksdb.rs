//! The inner backend on local disk: RocksDB.
//!
//! ```text
//!   backend ─▶ shard: an aligned part of its key groups, one database with one column family
//!                     key group │ state │ key │ namespace │ map key or index ─▶ value            (`key`)
//!                     key group │ state │ time │ key │ namespace                                  (`timers`)
//! ```
//!
//! A backend has one to a few shards: at most [`KEY_GROUP_PARTS`](crate::types::KEY_GROUP_PARTS) over all key groups of
//! the operator, cut at the same key groups for every parallelism. So images stay usable when an operator is rescaled:
//! a subtask reads only the shards that it overlaps, and takes over the files of a shard that is wholly its own. States
//! share the database, so ten thousand of them cost nothing but their entries.
//!
//! The write-ahead log is off: the changelog makes changes durable, and local files die with the daemon. One block
//! cache, in which the memtables are counted, bounds the memory of all backends of a daemon together (`resources`).
//!
//! Reads and writes may block as long as the disk takes. A write is visible to the next read. Writes are collected
//! (`buffer`) and passed to RocksDB thousands at a time. Rows that were read lately are kept (`rows`).

mod buffer;
mod entries;
mod expiry;
mod gaps;
mod image;
mod key;
mod metrics;
mod overrides;
mod resources;
mod rows;
mod shard;
mod timers;

use std::{cell::RefCell, collections::BTreeMap, ops::ControlFlow};

use self::{
    expiry::Expiry,
    shard::{HandOn, Shard},
    timers::Timers,
};
pub use self::{metrics::register_metrics, overrides::refused_options, resources::Resources};
pub use super::options::{PredefinedOptions, ResourceOptions, TimerService};
use super::{
    Action, Address, Change, Counting, Counts, ImageSnapshots, MapKeys, Page, PageLimit, StateBackend, StateError,
    TimerRef,
    folder::Folder,
    image::{Flush, Loaded, LocalBackends, LocalImage, StateIds},
};
use crate::{
    tasks,
    types::{KeyGroup, KeyGroupRange, StateDescriptor, StateId, StateKind, TimeMs, Ttl},
};

/// Size of one shard's write buffer at which it is passed to the database.
const BUFFER_BYTES: usize = 2 << 20;

/// Entries that are counted between two questions whether to go on.
const COUNTED_BETWEEN: u64 = 10_000;

/// An inner backend that keeps all state in RocksDB.
pub struct RocksDbBackend {
    resources: Resources,
    key_groups: KeyGroupRange,
    /// The shards, in order of their key groups.
    shards: Vec<Shard>,
    /// The kinds of the registered states, ordered by id.
    states: Vec<(StateId, StateKind)>,
    stamp: u64,
    /// The timers of each timer state.
    timers: BTreeMap<StateId, RefCell<Timers>>,
    /// Whether everything in the databases was applied here, and nothing was loaded.
    is_known: bool,
    /// Tells compactions which entries to remove.
    expiry: Expiry,
    /// The age at which files are compacted for clean-up alone; 0 for never.
    periodic_seconds: u64,
    /// Scratch memory: the current key.
    key: Vec<u8>,
}

/// The destination of a change.
struct Place<'a> {
    shard: &'a mut Shard,
    kind: StateKind,
    key: &'a mut Vec<u8>,
}

impl RocksDbBackend {
    /// An empty backend of `key_groups` of `max_parallelism`.
    ///
    /// # Errors
    /// If its databases cannot be made.
    pub fn new(resources: &Resources, key_groups: KeyGroupRange, max_parallelism: u32) -> Result<Self, StateError> {
        let parts = key_groups.parts(max_parallelism);
        let expiry = Expiry::new(resources.expired().clone());
        let shards = parts.map(|part| Shard::create(resources, part, &expiry)).collect::<Result<_, _>>()?;
        Ok(Self {
            resources: resources.clone(),
            key_groups,
            shards,
            states: vec![],
            stamp: 0,
            timers: BTreeMap::new(),
            is_known: true,
            expiry,
            periodic_seconds: 0,
            key: vec![],
        })
    }

    /// Passes the writes of every shard whose buffer is nearly full to its database, all in parallel.
    fn hand_on(&self) -> Result<(), StateError> {
        // Shards that are soon full go along, so that the writer waits once for the slowest of them and not for each in
        // turn.
        let full = self.shards.iter().filter(|shard| shard.buffered_bytes() >= BUFFER_BYTES / 2);
        // The buffers belong to this thread, and only batches go to the others. This thread waits below, so it reads
        // nothing while a write is neither buffered nor in its database.
        let full: Vec<HandOn<'_>> = full.map(Shard::handing_on).collect();
        std::thread::scope(|scope| {
            let writes: Vec<_> = full.into_iter().map(|writes| scope.spawn(|| writes.run())).collect();
            let joined = writes.into_iter().map(|write| write.join().expect("a write does not panic"));
            // Every write is awaited, those behind a failed one too. The first error is returned.
            joined.fold(Ok(()), Result::and)
        })
    }

    /// Sets periodic compaction to the lowest age that any state wants.
    fn compact_periodically(&mut self) {
        let seconds = self.expiry.periodic_seconds().unwrap_or(0);
        // To set an option makes each database write all of its options anew, so it is done only for a change.
        if seconds != self.periodic_seconds {
            self.periodic_seconds = seconds;
            self.shards.iter().for_each(|shard| shard.compact_every(seconds));
        }
    }

    fn kind(&self, state: StateId) -> Result<StateKind, StateError> {
        let found = self.states.binary_search_by_key(&state, |(id, _)| *id).ok();
        let kind = found.and_then(|position| self.states.get(position)).map(|(_, kind)| *kind);
        kind.ok_or(StateError::Mismatch { state, what: "the state is not registered" })
    }

    /// The position of the shard of a place.
    fn position(&self, at: Address<'_>) -> Result<usize, StateError> {
        let foreign = StateError::Mismatch { state: at.state, what: "the key group is not in the backend's range" };
        if !self.key_groups.contains(at.key_group) {
            return Err(foreign);
        }
        Ok(self.shards.partition_point(|shard| shard.key_groups.last() < at.key_group))
    }

    fn shard(&self, at: Address<'_>) -> Result<&Shard, StateError> {
        Ok(self.shards.get(self.position(at)?).expect("the shards cover the range"))
    }

    fn place(&mut self, at: Address<'_>, kind: StateKind) -> Result<Place<'_>, StateError> {
        let position = self.position(at)?;
        let shard = self.shards.get_mut(position).expect("the shards cover the range");
        key::prefix(at, &mut self.key);
        Ok(Place { shard, kind, key: &mut self.key })
    }

    /// Refuses a read that does not fit the kind of the state.
    fn expect(&self, at: Address<'_>, kind: StateKind, what: &'static str) -> Result<(&Shard, Vec<u8>), StateError> {
        if self.kind(at.state)? != kind {
            return Err(StateError::Mismatch { state: at.state, what });
        }
        let mut prefix = Vec::with_capacity(16 + at.key.len() + at.namespace.len());
        key::prefix(at, &mut prefix);
        Ok((self.shard(at)?, prefix))
    }
}

impl Place<'_> {
    /// Applies a change; returns the bytes that the shard has buffered.
    fn apply(self, change: &Change<'_>) -> Result<usize, StateError> {
        let Place { shard, kind, key } = self;
        let shard: &Shard = shard;
        // The prefix that scans of a map or list use; values are not scanned.
        let prefix = Some(key.len());
        let misfit = |what| Err(StateError::Mismatch { state: change.at.state, what });
        match (change.action, kind) {
            (Action::Clear, StateKind::Value) => shard.delete(key, None),
            // The record of a list's length has the same prefix, so it goes with the elements.
            (Action::Clear, StateKind::Map | StateKind::List) => shard.clear(key)?,
            (Action::Put(value), StateKind::Value) => shard.put(key, None, value),
            (Action::Append(value), StateKind::Value) => append(shard, key, None, value)?,
            (Action::MapPut { map_key, value }, StateKind::Map) => {
                key.extend_from_slice(map_key);
                shard.put(key, prefix, value);
            }
            (Action::MapAppend { map_key, value }, StateKind::Map) => {
                key.extend_from_slice(map_key);
                append(shard, key, prefix, value)?;
            }
            (Action::MapRemove { map_key }, StateKind::Map) => {
                key.extend_from_slice(map_key);
                shard.delete(key, prefix);
            }
            (Action::ListPut { index, element }, StateKind::List) => {
                let length = list_length(shard, key)?;
                if index > length {
                    return misfit("a list element beyond the end");
                }
                if index == length {
                    shard.put(key, prefix, &(length + 1).to_le_bytes());
                }
                key::push_index(index, key);
                shard.put(key, prefix, element);
            }
            (_, StateKind::Value) => return misfit("a change of another kind for a value state"),
            (_, StateKind::Map) => return misfit("a change of another kind for a map state"),
            (_, StateKind::List) => return misfit("a change of another kind for a list state"),
            (_, StateKind::Timer) => return misfit("timers are applied elsewhere"),
        }
        Ok(shard.buffered_bytes())
    }
}

fn append(shard: &Shard, key: &[u8], prefix: Option<usize>, value: &[u8]) -> Result<(), StateError> {
    let mut whole = shard.get(key, |stored| stored.map(<[u8]>::to_vec))?.unwrap_or_default();
    whole.extend_from_slice(value);
    shard.put(key, prefix, &whole);
    Ok(())
}

fn list_length(shard: &Shard, prefix: &[u8]) -> Result<u64, StateError> {
    shard.get(prefix, |record| record.map_or(Ok(0), key::length))?
}

impl StateBackend for RocksDbBackend {
    fn register(&mut self, state: StateId, descriptor: &StateDescriptor) {
        match self.states.binary_search_by_key(&state, |(id, _)| *id) {
            Ok(_) => debug_assert!(false, "state {state:?} is registered twice"),
            Err(position) => self.states.insert(position, (state, descriptor.kind)),
        }
        if descriptor.kind == StateKind::Timer {
            // After a load, the databases may have rows of this state, which its timers have to read first.
            let timers = Timers::new(self.resources.timers(), self.key_groups, self.is_known);
            self.timers.insert(state, RefCell::new(timers));
        }
        if let Some(ttl) = descriptor.ttl {
            self.expiry.set(state, descriptor.kind, ttl);
            self.compact_periodically();
        }
    }

    fn apply(&mut self, change: &Change<'_>) -> Result<(), StateError> {
        let stamp = self.stamp;
        let kind = self.kind(change.at.state)?;
        let place = self.place(change.at, kind)?;
        // Ordering: the stamp rises before the change. If the change is refused, one image too many is taken. The other
        // way round, a change could be missing in an image that is reused.
        place.shard.changed = stamp;
        let buffered = if kind == StateKind::Timer { self.apply_timer(change)? } else { place.apply(change)? };
        if buffered >= BUFFER_BYTES { self.hand_on() } else { Ok(()) }
    }

    fn value(&self, at: Address<'_>, read: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), StateError> {
        let (shard, key) = self.expect(at, StateKind::Value, "a read of a value")?;
        shard.get(&key, read)
    }

    fn map_value(
        &self,
        at: Address<'_>,
        map_key: &[u8],
        read: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<(), StateError> {
        let (shard, mut key) = self.expect(at, StateKind::Map, "a read of a map entry")?;
        key.extend_from_slice(map_key);
        shard.get(&key, read)
    }

    fn map_page(
        &self,
        at: Address<'_>,
        keys: MapKeys<'_>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, StateError> {
        let (shard, prefix) = self.expect(at, StateKind::Map, "a read of map entries")?;
        let start = [&prefix, keys.first()].concat();
        let (mut page, mut more) = (Page::new(limit), false);
        shard.scan(&prefix, &start, &mut |key, value| {
            let map_key = key.get(prefix.len()..).unwrap_or_default();
            if keys.end_before(map_key) {
                return Ok(ControlFlow::Break(()));
            }
            if !page.takes(map_key.len() + value.len()) {
                more = true;
                return Ok(ControlFlow::Break(()));
            }
            read(map_key, value);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(more)
    }

    fn list_page(
        &self,
        at: Address<'_>,
        from: u64,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StateError> {
        let (shard, prefix) = self.expect(at, StateKind::List, "a read of list elements")?;
        let mut start = prefix.clone();
        key::push_index(from, &mut start);
        let (mut page, mut more) = (Page::new(limit), false);
        shard.scan(&prefix, &start, &mut |_, element| {
            if !page.takes(element.len()) {
                more = true;
                return Ok(ControlFlow::Break(()));
            }
            read(element);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(more)
    }

    fn timer(&self, at: Address<'_>, time: i64) -> Result<bool, StateError> {
        self.has_timer(at, time)
    }

    fn timer_page(
        &self,
        state: StateId,
        after: Option<TimerRef<'_>>,
        up_to: i64,
        limit: PageLimit,
        read: &mut dyn FnMut(TimerRef<'_>),
    ) -> Result<bool, StateError> {
        self.page_of_timers(state, after, up_to, limit, read)
    }

    fn timer_count(&self, state: StateId) -> Result<u64, StateError> {
        self.count_of_timers(state)
    }

    fn len(&self, at: Address<'_>) -> Result<u64, StateError> {
        let kind = self.kind(at.state)?;
        let (shard, prefix) = self.expect(at, kind, "a read of a length")?;
        match kind {
            StateKind::Value => shard.get(&prefix, |stored| u64::from(stored.is_some())),
            StateKind::List => list_length(shard, &prefix),
            StateKind::Timer => self.count_timers(at),
            StateKind::Map => {
                let mut count = 0;
                shard.scan(&prefix, &prefix, &mut |_, _| {
                    count += 1;
                    Ok(ControlFlow::Continue(()))
                })?;
                Ok(count)
            }
        }
    }

    /// In order of the keys' lengths and bytes, then the namespaces'.
    fn name_page(
        &self,
        state: StateId,
        key_group: KeyGroup,
        after: Option<(&[u8], &[u8])>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, StateError> {
        if self.kind(state)? == StateKind::Timer {
            return self.names_of_timers(state, key_group, after, limit, read);
        }
        let at = Address { state, key_group, key: &[], namespace: &[] };
        let (shard, mut all) = (self.shard(at)?, vec![]);
        key::state_prefix(key_group, state, &mut all);
        let (mut page, mut more, mut prefix) = (Page::new(limit), false, vec![]);
        let mut from = Some(all.clone());
        if let Some((key, namespace)) = after {
            key::prefix(Address { key, namespace, ..at }, &mut prefix);
            from = key::behind(&prefix);
        }
        // The other entries of a name are skipped by seeking behind them.
        shard.skip(&all, from, &mut |entry| {
            let found = key::parse(entry)?.at;
            if !page.takes(found.key.len() + found.namespace.len()) {
                more = true;
                return Ok(None);
            }
            read(found.key, found.namespace);
            key::prefix(found, &mut prefix);
            Ok(key::behind(&prefix))
        })?;
        Ok(more)
    }

    fn name_rank(&self, key: &[u8], namespace: &[u8], rank: &mut Vec<u8>) {
        key::push_name(key, namespace, rank);
    }

    /// One pass over all keys that exist when it begins.
    fn counting(&self) -> Counting {
        // The buffers belong to this thread, so they are passed on here. The other thread then reads the databases
        // alone. An error is kept for it to report.
        let readers: Vec<_> = self.shards.iter().map(Shard::reader).collect();
        let lists: Vec<StateId> =
            self.states.iter().filter(|(_, kind)| *kind == StateKind::List).map(|(state, _)| *state).collect();
        Box::new(move |go_on| {
            let mut counts = Counts { entries: BTreeMap::new(), complete: true };
            let mut since_asked = 0;
            for reader in readers {
                reader?.scan_range(&[], None, &mut |entry, _| {
                    let state = key::head(entry)?.state;
                    // The record of a list's length is not an entry.
                    if lists.binary_search(&state).is_err() || !key::parse(entry)?.rest.is_empty() {
                        *counts.entries.entry(state).or_default() += 1;
                    }
                    since_asked += 1;
                    if since_asked < COUNTED_BETWEEN {
                        return Ok(ControlFlow::Continue(()));
                    }
                    since_asked = 0;
                    counts.complete = go_on();
                    Ok(if counts.complete { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
                })?;
                if !counts.complete {
                    break;
                }
            }
            Ok(counts)
        })
    }

    fn bytes(&self) -> u64 {
        self.shards.iter().map(Shard::bytes).sum()
    }

    /// The block cache and the memtables are shared.
    fn memory_bytes(&self) -> u64 {
        let timers: u64 = self.timers.values().map(|timers| timers.borrow().bytes()).sum();
        self.shards.iter().map(|shard| shard.buffered_bytes() as u64).sum::<u64>() + timers
    }

    fn may_block(&self) -> bool {
        true
    }

    fn images(&mut self) -> Option<&mut dyn ImageSnapshots> {
        Some(self)
    }

    fn set_stamp(&mut self, stamp: u64) {
        debug_assert!(stamp >= self.stamp, "the stamp went back from {} to {stamp}", self.stamp);
        self.stamp = stamp;
    }

    fn set_time(&mut self, time: TimeMs) {
        self.expiry.set_time(time);
    }

    fn set_ttl(&mut self, state: StateId, ttl: Ttl) {
        if let Ok(kind) = self.kind(state) {
            self.expiry.set(state, kind, ttl);
            self.compact_periodically();
            // Compactions may have removed entries that would live again by the new time-to-live.
            self.shards.iter().for_each(Shard::forget_rows);
        }
    }
}

impl Drop for RocksDbBackend {
    /// Closing databases and removing their files may take the disk a while.
    fn drop(&mut self) {
        tasks::blocking(|| self.shards.clear());
    }
}

impl ImageSnapshots for RocksDbBackend {
    fn parts(&self) -> Vec<KeyGroupRange> {
        self.shards.iter().map(|shard| shard.key_groups).collect()
    }

    fn changed(&self, part: usize) -> u64 {
        self.shards.get(part).map_or(0, |shard| shard.changed)
    }

    fn flush(&self, part: usize) -> Flush {
        let shard = self.shards.get(part);
        // Buffered writes are passed on by the writer's own thread, and only the flush runs beside it. A failure is
        // kept for the flush to report.
        let handed_on = shard.map_or(Ok(()), Shard::hand_on);
        let db = shard.map(Shard::database);
        Box::new(move || handed_on.and_then(|()| db.map_or(Ok(()), |db| db.flush().map_err(resources::local))))
    }

    fn image(&mut self, part: usize) -> Result<LocalImage, StateError> {
        self.shards.get(part).ok_or(StateError::Undecodable("a part that is not there"))?.image()
    }

    fn load(&mut self, image: LocalImage, states: &StateIds) -> Result<Loaded, StateError> {
        // Ordering: the timers forget their rows before the first file is in place. If the load fails half-way, no
        // timer order says that it knows the rows.
        self.is_known = false;
        self.timers.values().for_each(|timers| timers.borrow_mut().forget());
        let part = self.shards.iter().position(|shard| shard.key_groups == image.key_groups);
        match part.and_then(|part| self.shards.get_mut(part).map(|shard| (part, shard))) {
            // Ids are parts of keys, so files can be taken over only if no id differs.
            Some((part, shard)) if states.iter().all(|(there, here)| there == here) => {
                *shard = Shard::adopt(&self.resources, image, Some(&self.expiry))?;
                // The database was opened anew: to this backend all of it changed just now, and its options have no
                // period.
                shard.changed = self.stamp;
                if self.periodic_seconds > 0 {
                    shard.compact_every(self.periodic_seconds);
                }
                Ok(Loaded::Adopted(part))
            }
            _ => {
                image::copy(&self.resources, image, states, &self.shards)?;
                Ok(Loaded::Copied)
            }
        }
    }
}

impl LocalBackends for Resources {
    fn create(&self, key_groups: KeyGroupRange, max_parallelism: u32) -> Result<Box<dyn StateBackend>, StateError> {
        Ok(Box::new(RocksDbBackend::new(self, key_groups, max_parallelism)?))
    }

    fn folder(&self) -> std::io::Result<Folder> {
        self.folders().create()
    }

    fn read(
        &self,
        image: LocalImage,
        key_groups: KeyGroupRange,
        kind: &dyn Fn(StateId) -> Option<StateKind>,
        read: &mut dyn FnMut(&Change<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        image::read(self, image, key_groups, kind, read)
    }
}

#[cfg(test)]
mod tests;

//! Compaction filters that remove expired entries of states with TTL.
//!
//! Time is that of the last applied batch, so that no entry is removed which a batch has seen alive. Values and map
//! entries are removed. A list element keeps its place, and a list keeps its length record. RocksDB writes a deletion
//! if an older entry may lie below, so no older value can reappear.
//!
//! No read uses a RocksDB snapshot; iterators keep the files that they began with.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ffi::CStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use rocksdb::{
    CompactionDecision,
    compaction_filter::CompactionFilter,
    compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory},
};

use super::key;
use crate::{
    state::ttl::{Lifespan, REMOVED, split},
    types::{StateId, StateKind, TimeMs, Ttl},
};

/// The filter's name in RocksDB's own log.
const NAME: &CStr = c"expiry";

/// The facts that the compactions of one backend use. Cheap to clone.
#[derive(Clone)]
pub(super) struct Expiry(Arc<Known>);

struct Known {
    time: AtomicU64,
    /// The states with clean-up by compactions, by id.
    states: RwLock<BTreeMap<StateId, Aging>>,
    /// How many states want files compacted from each age on, in seconds.
    ages: Mutex<BTreeMap<u64, usize>>,
    /// Counts removed entries.
    removed: Arc<AtomicU64>,
}

#[derive(Debug, Clone, Copy)]
struct Aging {
    kind: StateKind,
    ttl: Ttl,
    time_every: u64,
}

impl Expiry {
    /// For a backend without states; `removed` counts removed entries.
    pub(super) fn new(removed: Arc<AtomicU64>) -> Self {
        let (states, ages) = (RwLock::default(), Mutex::default());
        Self(Arc::new(Known { time: AtomicU64::new(0), states, ages, removed }))
    }

    /// Sets how the entries of a state live from now on.
    pub(super) fn set(&self, state: StateId, kind: StateKind, ttl: Ttl) {
        // Both locks are held together, so `ages` always counts exactly the states.
        let (mut states, mut ages) = (self.0.states.write(), self.0.ages.lock());
        let before = match ttl.cleanup.compaction {
            Some(compaction) => {
                *ages.entry(compaction.periodic_ms.div_ceil(1_000)).or_default() += 1;
                states.insert(state, Aging { kind, ttl, time_every: compaction.time_every_entries })
            }
            None => states.remove(&state),
        };
        let Some(compaction) = before.and_then(|before| before.ttl.cleanup.compaction) else { return };
        if let Entry::Occupied(mut age) = ages.entry(compaction.periodic_ms.div_ceil(1_000)) {
            *age.get_mut() -= 1;
            if *age.get() == 0 {
                age.remove();
            }
        }
    }

    /// Sets the time of the last batch.
    pub(super) fn set_time(&self, time: TimeMs) {
        // A compaction that sees an older time only keeps entries longer, and nothing else hangs on the order.
        self.0.time.store(time, Ordering::Relaxed);
    }

    /// The lowest age in seconds from which on any state wants files compacted; `None` if no state does.
    pub(super) fn periodic_seconds(&self) -> Option<u64> {
        self.0.ages.lock().keys().next().copied()
    }

    /// The factory of filters for compactions.
    pub(super) fn filters(&self) -> Filters {
        Filters(self.clone())
    }
}

/// Makes a filter for each compaction.
pub(super) struct Filters(Expiry);

impl CompactionFilterFactory for Filters {
    type Filter = Filter;

    fn create(&mut self, _: CompactionFilterContext) -> Filter {
        let known = self.0.0.clone();
        // A copy: under the lock, a compaction of minutes would hold up the writer that registers a state.
        let states = known.states.read().clone();
        let now = known.time.load(Ordering::Relaxed);
        Filter { known, states, now, since_read: 0 }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

/// The filter of one compaction.
pub(super) struct Filter {
    known: Arc<Known>,
    states: BTreeMap<StateId, Aging>,
    now: TimeMs,
    /// Number of entries since the time was read.
    since_read: u64,
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        if self.states.is_empty() {
            return CompactionDecision::Keep;
        }
        // An entry that cannot be read stays; a later read reports it.
        let Ok(key::Parsed { at, rest }) = key::parse(key) else { return CompactionDecision::Keep };
        let Some(aging) = self.states.get(&at.state) else { return CompactionDecision::Keep };
        self.since_read += 1;
        if self.since_read >= aging.time_every {
            // The writer changes the time with every batch. To read it for every entry would cost more than the entry.
            (self.since_read, self.now) = (0, self.known.time.load(Ordering::Relaxed));
        }
        // A removal of a list element would move the index of all elements behind it, so it is replaced.
        let decision = match aging.kind {
            StateKind::List if rest.is_empty() || value == REMOVED => return CompactionDecision::Keep,
            StateKind::List => CompactionDecision::Change(REMOVED),
            StateKind::Value | StateKind::Map => CompactionDecision::Remove,
            StateKind::Timer => return CompactionDecision::Keep,
        };
        let life = Lifespan::new(aging.ttl, self.now);
        if !split(value).is_ok_and(|(touched, _)| life.is_expired(touched)) {
            return CompactionDecision::Keep;
        }
        self.known.removed.fetch_add(1, Ordering::Relaxed);
        decision
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

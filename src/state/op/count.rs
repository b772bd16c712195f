//! Counts page by page where no count is kept: entries of maps on disk, and visible entries of a state with TTL.

use super::{
    super::{Address, MapKeys, PageLimit, StateBackend, StateError, ttl::Lifespan},
    Op, Timer,
};
use crate::types::{StateDescriptor, StateId};

/// A `MapCount`, `ListCount` or `TimerCount` that is under way. It changes nothing, not even expired entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PagedCount {
    /// The count so far.
    count: u64,
    /// For a map: the first key that is not counted yet.
    map_key: Vec<u8>,
    /// For a list: the first index that is not counted yet.
    index: u64,
    /// For timers: the last timer that was counted.
    timer: Option<Timer>,
}

/// The result of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountedPage {
    /// Number of entries that were looked at.
    pub looked_at: usize,
    /// The count, once everything is counted.
    pub total: Option<u64>,
}

/// Whether counting takes longer for more entries. `walks_maps` says that the backend keeps no counts of maps.
#[must_use]
pub fn is_paged(op: &Op<'_>, descriptor: &StateDescriptor, walks_maps: bool) -> bool {
    match op {
        Op::MapCount => walks_maps || descriptor.ttl.is_some(),
        Op::ListCount => descriptor.ttl.is_some(),
        Op::TimerCount => walks_maps,
        _ => false,
    }
}

impl PagedCount {
    /// Counts the next page: of the map or list at `at`, or of all timers. `life` is the TTL of the state, if it has
    /// one, at the time of the batch.
    ///
    /// # Errors
    /// The error of the backend.
    pub fn page<B: StateBackend + ?Sized>(
        &mut self,
        backend: &B,
        at: Address<'_>,
        op: &Op<'_>,
        life: Option<Lifespan>,
        limit: PageLimit,
    ) -> Result<CountedPage, StateError> {
        // Timers do not expire, so `life` does not matter to them.
        if matches!(op, Op::TimerCount) {
            return self.page_of_timers(backend, at.state, limit);
        }
        let (mut visible, mut looked_at, mut fault) = (0, 0, None);
        let mut look = |stored: &[u8]| {
            looked_at += 1;
            match life.map_or(Ok(true), |life| life.entry(stored).map(|entry| entry.is_visible)) {
                Ok(is_visible) => visible += u64::from(is_visible),
                Err(error) => fault = Some(error),
            }
        };
        let more = if matches!(op, Op::MapCount) {
            let from = std::mem::take(&mut self.map_key);
            backend.map_page(at, MapKeys::from(&from), limit, &mut |key, stored| {
                look(stored);
                self.map_key.clear();
                self.map_key.extend_from_slice(key);
                // The first possible key behind the last one, which may be gone when the next page begins.
                self.map_key.push(0);
            })?
        } else {
            backend.list_page(at, self.index, limit, &mut look)?
        };
        if let Some(fault) = fault {
            return Err(fault);
        }
        self.count += visible;
        self.index += looked_at as u64;
        Ok(CountedPage { looked_at, total: (!more).then_some(self.count) })
    }

    fn page_of_timers<B: StateBackend + ?Sized>(
        &mut self,
        backend: &B,
        state: StateId,
        limit: PageLimit,
    ) -> Result<CountedPage, StateError> {
        let (mut looked_at, after) = (0, self.timer.take());
        let more = backend.timer_page(state, after.as_ref().map(Timer::as_ref), i64::MAX, limit, &mut |timer| {
            looked_at += 1;
            self.timer = Some(Timer::copied(timer));
        })?;
        self.count += looked_at as u64;
        Ok(CountedPage { looked_at, total: (!more).then_some(self.count) })
    }
}

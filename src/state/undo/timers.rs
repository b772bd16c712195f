//! Timers: recorded as entries of their cells, by time, and also in order over all cells of a state, as pages read
//! them.

use std::{
    collections::VecDeque,
    ops::Bound::{Excluded, Included, Unbounded},
};

use super::{
    Address, Blob, ENTRY_BYTES, Layer, Old, OldMap, Undo,
    record::Place,
    view::{LIVE_PAGE, View},
};
use crate::{
    state::{PageLimit, StateBackend, StateError, TimerRef, page::Page},
    types::{KeyGroup, StateId},
};

/// A timer that was added or removed, in the order of pages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OldTimer {
    state: StateId,
    time: i64,
    key: Blob,
    namespace: Blob,
    key_group: KeyGroup,
}

impl OldTimer {
    fn new(state: StateId, timer: TimerRef<'_>) -> Self {
        let TimerRef { time, key, namespace, key_group } = timer;
        Self { state, time, key: key.into(), namespace: namespace.into(), key_group }
    }

    fn timer(&self) -> TimerRef<'_> {
        TimerRef { time: self.time, key: &self.key, namespace: &self.namespace, key_group: self.key_group }
    }

    pub(super) fn bytes(&self) -> u64 {
        ENTRY_BYTES + (self.key.len() + self.namespace.len()) as u64
    }
}

/// The form of a time in the records of a cell.
pub(super) fn entry(time: i64) -> [u8; 8] {
    time.to_be_bytes()
}

/// The time of an entry.
pub(super) fn time(entry: &[u8]) -> i64 {
    i64::from_be_bytes(entry.try_into().expect("only times are recorded of timers"))
}

impl Undo {
    pub(super) fn record_timer(
        &mut self,
        live: &dyn StateBackend,
        cell: Place<'_>,
        time: i64,
    ) -> Result<(), StateError> {
        let entry = entry(time);
        let is_entry = |old: &Old| matches!(old, Old::Timers(timers) if timers.entries.contains_key(&entry[..]));
        if self.recent(cell.id).any(is_entry) {
            return Ok(());
        }
        let was_there = live.timer(cell.at, time)?;
        self.note(cell, Old::Timers(OldMap::default()), |recorded| {
            if let Old::Timers(timers) = recorded {
                timers.insert(entry.into(), was_there.then(Blob::default));
            }
        });
        if let Some(layer) = self.layers.back_mut() {
            let Address { state, key_group, key, namespace } = cell.at;
            let timer = OldTimer::new(state, TimerRef { time, key, namespace, key_group });
            let bytes = timer.bytes();
            layer.timers.insert(timer, was_there);
            (layer.bytes, self.bytes) = (layer.bytes + bytes, self.bytes + bytes);
        }
        Ok(())
    }
}

impl Layer {
    /// As [`Layer::take_from`], for the order of timers.
    pub(super) fn take_timers_from(&mut self, later: &mut Self, left: &mut usize) {
        while *left > 0
            && let Some((timer, was_there)) = later.timers.pop_first()
        {
            *left -= 1;
            let bytes = timer.bytes();
            later.bytes -= bytes;
            self.timers.entry(timer).or_insert_with(|| {
                self.bytes += bytes;
                was_there
            });
        }
    }
}

/// Whether a timer was set, according to the records of its cell, oldest first.
pub(super) fn was_there(recorded: &[&OldMap], time: i64) -> Option<bool> {
    recorded.iter().find_map(|timers| timers.entries.get(&entry(time)[..])).map(Option::is_some)
}

/// Number of timers of a cell that has records.
pub(super) fn count(live: &dyn StateBackend, at: Address<'_>, recorded: &[&OldMap]) -> Result<u64, StateError> {
    let mut count = live.len(at)?;
    for (index, timers) in recorded.iter().enumerate() {
        let (older, _) = recorded.split_at(index);
        for (entry, old) in &timers.entries {
            if !older.iter().any(|older| older.entries.contains_key(entry)) {
                // A timer that is set now is in `count` already, so the difference is not below 0.
                count = count + u64::from(old.is_some()) - u64::from(live.timer(at, time(entry))?);
            }
        }
    }
    Ok(count)
}

impl View<'_> {
    /// As [`StateBackend::timer_page`], at the mark of the view.
    pub(super) fn page_of_timers(
        &self,
        state: StateId,
        after: Option<TimerRef<'_>>,
        up_to: i64,
        limit: PageLimit,
        read: &mut dyn FnMut(TimerRef<'_>),
    ) -> Result<bool, StateError> {
        let first = TimerRef { time: i64::MIN, key: &[], namespace: &[], key_group: KeyGroup(0) };
        let mut last = after.map(|after| OldTimer::new(state, after));
        let mut position = last.clone().map_or_else(|| Included(OldTimer::new(state, first)), Excluded);
        let (mut ahead, mut more): (VecDeque<OldTimer>, bool) = (VecDeque::new(), true);
        let mut page = Page::new(limit);
        loop {
            // Live timers are read ahead whenever there are none left. So a recorded timer never overtakes a live one
            // that is still unread.
            if ahead.is_empty() && more {
                let read = &mut |timer: TimerRef<'_>| ahead.push_back(OldTimer::new(state, timer));
                more = self.live.timer_page(state, last.as_ref().map(OldTimer::timer), up_to, LIVE_PAGE, read)?;
                last = ahead.back().cloned().or(last);
            }
            // Of equal timers, the oldest record counts.
            let nexts =
                self.layers.iter().filter_map(|layer| layer.timers.range((position.as_ref(), Unbounded)).next());
            let nexts = nexts.filter(|(timer, _)| timer.state == state && timer.time <= up_to);
            let recorded = nexts.min_by(|(a, _), (b, _)| a.cmp(b));
            let is_live = match (ahead.front(), recorded) {
                (None, None) => return Ok(false),
                (Some(live), Some((recorded, _))) => live < recorded,
                (front, _) => front.is_some(),
            };
            let timer = match recorded {
                Some((timer, was_there)) if !is_live => {
                    // A record stands for its timer in all layers and in `live`: both go on behind it, whether or not
                    // it was set.
                    position = Excluded(timer.clone());
                    ahead.pop_front_if(|live| live == timer);
                    was_there.then(|| timer.clone())
                }
                _ => ahead.pop_front(),
            };
            let Some(timer) = timer else { continue };
            if !page.takes(timer.timer().page_bytes()) {
                return Ok(true);
            }
            read(timer.timer());
        }
    }
}

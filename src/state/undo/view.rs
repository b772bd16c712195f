//! Reading at a mark: the records since the mark, over the live backend.

use std::{
    collections::VecDeque,
    mem,
    ops::Bound::{Excluded, Included, Unbounded},
};

use super::{Address, Cell, Layer, Old, OldList, OldMap, put_group, put_id, timers};
use crate::{
    state::{Change, Counting, Counts, MapKeys, PageLimit, StateBackend, StateError, TimerRef, page::Page},
    types::{KeyGroup, StateDescriptor, StateId},
};

/// Page size for reading the live backend.
pub(super) const LIVE_PAGE: PageLimit = PageLimit { entries: 256, bytes: 64 << 10 };

/// A backend as it was at a mark; for reads only. A read takes as long as the backend's, plus the records between the
/// ends of its page.
pub struct View<'a> {
    pub(super) live: &'a mut dyn StateBackend,
    /// The layers from the mark on, oldest first.
    pub(super) layers: Vec<&'a Layer>,
}

/// Live map entries, or names, that were not returned yet.
struct Live<T> {
    page: VecDeque<T>,
    /// Whether others follow the page, or nothing was read yet.
    more: bool,
}

impl<T> Live<T> {
    fn new(more: bool) -> Self {
        Self { page: VecDeque::new(), more }
    }
}

impl<'a> View<'a> {
    pub(super) fn new(live: &'a mut dyn StateBackend, layers: Vec<&'a Layer>) -> Self {
        Self { live, layers }
    }

    fn id(&self, at: Address<'_>) -> Vec<u8> {
        let mut id = Vec::with_capacity(32 + at.key.len() + at.namespace.len());
        put_id(self.live, at, &mut id);
        id
    }

    /// The records of a cell, oldest first.
    fn recorded(&self, at: Address<'_>) -> Vec<&'a Old> {
        let id = self.id(at);
        self.layers.iter().filter_map(|layer| layer.cells.get(&id[..])).map(|cell| &cell.old).collect()
    }

    /// The records of a map, up to the first one that makes later ones irrelevant.
    fn maps(&self, at: Address<'_>) -> Result<Vec<&'a OldMap>, StateError> {
        let mut maps = vec![];
        for old in self.recorded(at) {
            let Old::Map(map) = old else { return Err(mismatch(at)) };
            maps.push(map);
            if map.is_whole {
                break;
            }
        }
        Ok(maps)
    }

    fn lists(&self, at: Address<'_>) -> Result<Vec<&'a OldList>, StateError> {
        let mut lists = vec![];
        for old in self.recorded(at) {
            let Old::List(list) = old else { return Err(mismatch(at)) };
            lists.push(list);
        }
        Ok(lists)
    }

    fn timers(&self, at: Address<'_>) -> Result<Vec<&'a OldMap>, StateError> {
        let mut timers = vec![];
        for old in self.recorded(at) {
            let Old::Timers(of_layer) = old else { return Err(mismatch(at)) };
            timers.push(of_layer);
        }
        Ok(timers)
    }

    /// Calls `visit` with the entries of `keys` of a map that has records, until it says to stop. Returns whether it
    /// did.
    fn scan_map(
        &self,
        at: Address<'_>,
        maps: &[&OldMap],
        keys: MapKeys<'_>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<bool, StateError> {
        let mut live: Live<(Vec<u8>, Vec<u8>)> = Live::new(maps.last().is_none_or(|map| !map.is_whole));
        let (mut next, mut position) = (keys.first().to_vec(), Included(keys.first()));
        loop {
            // Live entries are read whenever there are none left. So a recorded entry never overtakes a live one that
            // is still unread.
            if live.page.is_empty() && live.more {
                let read = &mut |key: &[u8], value: &[u8]| live.page.push_back((key.to_vec(), value.to_vec()));
                live.more = self.live.map_page(at, MapKeys { from: &next, ..keys }, LIVE_PAGE, read)?;
                if let Some((last, _)) = live.page.back() {
                    next.clone_from(last);
                    next.push(0);
                }
            }
            // Of equal keys, the oldest record counts.
            let entries = maps.iter().filter_map(|map| map.entries.range::<[u8], _>((position, Unbounded)).next());
            let recorded = entries.min_by(|(a, _), (b, _)| a.cmp(b)).filter(|(key, _)| !keys.end_before(key));
            let is_live = match (live.page.front(), recorded) {
                (None, None) => return Ok(false),
                (Some((key, _)), Some((recorded, _))) => key[..] < recorded[..],
                (front, _) => front.is_some(),
            };
            let go_on = if is_live {
                live.page.pop_front().is_none_or(|(key, value)| visit(&key, &value))
            } else {
                let Some((map_key, old)) = recorded else { continue };
                position = Excluded(map_key);
                // The record stands for the live entry, whether or not the entry existed at the mark.
                live.page.pop_front_if(|(key, _)| key[..] == map_key[..]);
                old.as_ref().is_none_or(|value| visit(map_key, value))
            };
            if !go_on {
                return Ok(true);
            }
        }
    }

    /// Number of entries of a map that has records.
    fn count_map(&self, at: Address<'_>, maps: &[&OldMap]) -> Result<u64, StateError> {
        let is_whole = maps.last().is_some_and(|map| map.is_whole);
        let mut count = if is_whole { 0 } else { self.live.len(at)? };
        for (index, map) in maps.iter().enumerate() {
            let (older, _) = maps.split_at(index);
            for (map_key, old) in &map.entries {
                if older.iter().any(|older| older.entries.contains_key(map_key)) {
                    continue;
                }
                count += u64::from(old.is_some());
                if !is_whole {
                    // An entry that exists now is in `count` already, so the difference is not below 0.
                    self.live.map_value(at, map_key, &mut |stored| count -= u64::from(stored.is_some()))?;
                }
            }
        }
        Ok(count)
    }

    /// Whether a cell that has records had entries.
    fn exists(&self, at: Address<'_>) -> Result<bool, StateError> {
        Ok(match self.recorded(at).first() {
            None => true,
            Some(Old::Value(old)) => old.is_some(),
            Some(Old::List(list)) => list.length > 0,
            Some(Old::Map(_)) => self.scan_map(at, &self.maps(at)?, MapKeys::default(), &mut |_, _| false)?,
            Some(Old::Timers(_)) => timers::count(self.live, at, &self.timers(at)?)? > 0,
        })
    }
}

impl StateBackend for View<'_> {
    /// A state that was registered after the mark has no entries at it.
    fn register(&mut self, _state: StateId, _descriptor: &StateDescriptor) {}

    fn apply(&mut self, change: &Change<'_>) -> Result<(), StateError> {
        Err(StateError::Mismatch { state: change.at.state, what: "a change of what was" })
    }

    fn value(&self, at: Address<'_>, read: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), StateError> {
        match self.recorded(at).first() {
            None => self.live.value(at, read)?,
            Some(Old::Value(old)) => read(old.as_deref()),
            Some(Old::Map(_) | Old::List(_) | Old::Timers(_)) => return Err(mismatch(at)),
        }
        Ok(())
    }

    fn map_value(
        &self,
        at: Address<'_>,
        map_key: &[u8],
        read: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<(), StateError> {
        for map in self.maps(at)? {
            let recorded = map.entries.get(map_key);
            if recorded.is_some() || map.is_whole {
                read(recorded.and_then(|old| old.as_deref()));
                return Ok(());
            }
        }
        self.live.map_value(at, map_key, read)
    }

    fn map_page(
        &self,
        at: Address<'_>,
        keys: MapKeys<'_>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, StateError> {
        let maps = self.maps(at)?;
        if maps.is_empty() {
            return self.live.map_page(at, keys, limit, read);
        }
        let mut page = Page::new(limit);
        self.scan_map(at, &maps, keys, &mut |key, value| {
            let fits = page.takes(key.len() + value.len());
            if fits {
                read(key, value);
            }
            fits
        })
    }

    fn list_page(
        &self,
        at: Address<'_>,
        from: u64,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StateError> {
        let lists = self.lists(at)?;
        let Some(length) = lists.first().map(|list| list.length) else {
            return self.live.list_page(at, from, limit, read);
        };
        let mut page = Page::new(limit);
        let mut live: VecDeque<Vec<u8>> = VecDeque::new();
        let mut live_from = from;
        for index in from..length {
            let recorded = lists.iter().find_map(|list| list.elements.get(&index));
            // Pages are read only where an element has no record: behind a shortened list there may be nothing to read.
            if live_from + live.len() as u64 <= index && recorded.is_none() {
                (live_from, live) = (index, VecDeque::new());
                self.live.list_page(at, index, LIVE_PAGE, &mut |element| live.push_back(element.to_vec()))?;
            }
            let offset = index.checked_sub(live_from).and_then(|offset| usize::try_from(offset).ok());
            let is_live = offset.and_then(|offset| live.get(offset)).map(Vec::as_slice);
            let Some(element) = recorded.map(|element| &element[..]).or(is_live) else {
                return Err(StateError::Mismatch { state: at.state, what: "an element that was not recorded" });
            };
            if !page.takes(element.len()) {
                return Ok(true);
            }
            read(element);
        }
        Ok(false)
    }

    fn timer(&self, at: Address<'_>, time: i64) -> Result<bool, StateError> {
        timers::was_there(&self.timers(at)?, time).map_or_else(|| self.live.timer(at, time), Ok)
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

    fn len(&self, at: Address<'_>) -> Result<u64, StateError> {
        match self.recorded(at).first() {
            None => self.live.len(at),
            Some(Old::Value(old)) => Ok(old.is_some().into()),
            Some(Old::List(list)) => Ok(list.length),
            Some(Old::Map(_)) => self.count_map(at, &self.maps(at)?),
            Some(Old::Timers(_)) => timers::count(self.live, at, &self.timers(at)?),
        }
    }

    fn name_page(
        &self,
        state: StateId,
        key_group: KeyGroup,
        after: Option<(&[u8], &[u8])>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, StateError> {
        let mut group = vec![];
        put_group(state, key_group, &mut group);
        let place = |(key, namespace): (&'_ [u8], &'_ [u8])| self.id(Address { state, key_group, key, namespace });
        let mut position: Vec<u8> = after.map_or_else(|| group.clone(), place);
        let mut last = after.map(|(key, namespace)| (key.to_vec(), namespace.to_vec()));
        let mut live: Live<(Vec<u8>, Vec<u8>, Vec<u8>)> = Live::new(true);
        let mut page = Page::new(limit);
        loop {
            if live.page.is_empty() && live.more {
                let behind = last.as_ref().map(|(key, namespace)| (&key[..], &namespace[..]));
                let mut names = vec![];
                let read = &mut |key: &[u8], namespace: &[u8]| names.push((key.to_vec(), namespace.to_vec()));
                live.more = self.live.name_page(state, key_group, behind, LIVE_PAGE, read)?;
                last = names.last().cloned().or_else(|| mem::take(&mut last));
                live.page.extend(names.into_iter().map(|(key, ns)| (place((&key, &ns)), key, ns)));
            }
            let cells = self.layers.iter().filter_map(|layer| next_cell(layer, &position, &group));
            let recorded = cells.min_by(|(a, _), (b, _)| a.cmp(b));
            let is_live = match (live.page.front(), recorded) {
                (None, None) => return Ok(false),
                (Some((id, ..)), Some((recorded, _))) => id[..] < recorded[..],
                (front, _) => front.is_some(),
            };
            if is_live {
                let Some((id, key, namespace)) = live.page.pop_front() else { continue };
                position = id;
                if !page.takes(key.len() + namespace.len()) {
                    return Ok(true);
                }
                read(&key, &namespace);
            } else {
                let Some((id, cell)) = recorded else { continue };
                position = id.to_vec();
                live.page.pop_front_if(|(live, ..)| live[..] == id[..]);
                let (key, namespace) = (&cell.key[..], &cell.namespace[..]);
                // A name has a record also if its first entry came after the mark. Then it had none at the mark.
                if self.exists(Address { state, key_group, key, namespace })? {
                    if !page.takes(key.len() + namespace.len()) {
                        return Ok(true);
                    }
                    read(key, namespace);
                }
            }
        }
    }

    fn name_rank(&self, key: &[u8], namespace: &[u8], rank: &mut Vec<u8>) {
        self.live.name_rank(key, namespace, rank);
    }

    /// Entries at a mark are not counted.
    fn counting(&self) -> Counting {
        Box::new(|_| Ok(Counts::default()))
    }

    fn bytes(&self) -> u64 {
        self.live.bytes()
    }

    fn set_stamp(&mut self, _stamp: u64) {}
}

/// The first cell behind `position` whose identity begins with `group`.
fn next_cell<'a>(layer: &'a Layer, position: &[u8], group: &[u8]) -> Option<(&'a [u8], &'a Cell)> {
    let next = layer.cells.range::<[u8], _>((Excluded(position), Unbounded)).next();
    next.map(|(id, cell)| (&id[..], cell)).filter(|(id, _)| id.starts_with(group))
}

fn mismatch(at: Address<'_>) -> StateError {
    StateError::Mismatch { state: at.state, what: "a read of another kind" }
}

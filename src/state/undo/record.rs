//! Records the entries that a change will overwrite.

use std::{collections::btree_map::Entry, mem};

use super::{Address, Blob, CELL_BYTES, Cell, Change, ENTRY_BYTES, Layer, Old, OldList, OldMap, PAGE, Undo, put_id};
use crate::{
    state::{Action, MapKeys, PageLimit, StateBackend, StateError},
    types::StateKind,
};

impl Undo {
    /// Records the entries of `live` that `change`, of a state of `kind`, will overwrite. A change that the backend
    /// will refuse may be recorded or not.
    ///
    /// # Errors
    /// The error of the backend.
    pub fn record(&mut self, live: &dyn StateBackend, kind: StateKind, change: &Change<'_>) -> Result<(), StateError> {
        if self.layers.is_empty() {
            return Ok(());
        }
        if self.is_lazy && self.journal(live, kind, change)? {
            return Ok(());
        }
        // This scratch memory is put back below before any error is returned.
        let mut id = mem::take(&mut self.id);
        put_id(live, change.at, &mut id);
        let cell = Place { id: &id, at: change.at };
        let recorded = match (kind, change.action) {
            (StateKind::Value, _) => self.record_value(live, cell),
            (StateKind::Map, Action::Clear) => self.record_map(live, cell),
            (
                StateKind::Map,
                Action::MapPut { map_key, .. } | Action::MapRemove { map_key } | Action::MapAppend { map_key, .. },
            ) => self.record_entry(live, cell, map_key),
            (StateKind::List, Action::Clear) => self.record_list(live, cell),
            (StateKind::List, Action::ListPut { index, .. }) => self.record_element(live, cell, index),
            (StateKind::Timer, Action::TimerPut { time } | Action::TimerRemove { time }) => {
                self.record_timer(live, cell, time)
            }
            // The change does not fit the state, so the backend will refuse it.
            (StateKind::Map | StateKind::List | StateKind::Timer, _) => Ok(()),
        };
        self.id = id;
        self.keep_to_limit();
        recorded
    }

    /// The records of a cell since the newest open mark.
    pub(super) fn recent<'a>(&'a self, id: &'a [u8]) -> impl Iterator<Item = &'a Old> {
        // A record made since the newest open mark serves this mark too, in a closed layer as well. Records before it
        // are of an older moment and say nothing about this one.
        let newest = self.layers.iter().rposition(|layer| layer.is_open).unwrap_or(0);
        self.layers.range(newest..).filter_map(|layer| layer.cells.get(id)).map(|cell| &cell.old)
    }

    /// Changes the record of a cell in the newest layer; if there is none, it begins with `empty`.
    pub(super) fn note(&mut self, cell: Place<'_>, empty: Old, change: impl FnOnce(&mut Old)) {
        let Some(layer) = self.layers.back_mut() else { return };
        self.bytes -= layer.bytes;
        layer.note(cell, empty, change);
        self.bytes += layer.bytes;
    }

    fn record_value(&mut self, live: &dyn StateBackend, cell: Place<'_>) -> Result<(), StateError> {
        if self.recent(cell.id).next().is_some() {
            return Ok(());
        }
        let mut old = None;
        live.value(cell.at, &mut |stored| old = stored.map(Box::from))?;
        self.note(cell, Old::Value(old), |_| {});
        Ok(())
    }

    fn record_entry(&mut self, live: &dyn StateBackend, cell: Place<'_>, map_key: &[u8]) -> Result<(), StateError> {
        if self.has_entry(cell, map_key) {
            return Ok(());
        }
        let mut old = None;
        live.map_value(cell.at, map_key, &mut |stored| old = stored.map(Box::from))?;
        self.note_entry(cell, map_key, old);
        Ok(())
    }

    fn has_entry(&self, cell: Place<'_>, map_key: &[u8]) -> bool {
        self.recent(cell.id)
            .any(|old| matches!(old, Old::Map(map) if map.is_whole || map.entries.contains_key(map_key)))
    }

    fn note_entry(&mut self, cell: Place<'_>, map_key: &[u8], old: Option<Blob>) {
        self.note(cell, Old::Map(OldMap::default()), |recorded| {
            if let Old::Map(map) = recorded {
                map.insert(map_key.into(), old);
            }
        });
    }

    /// Records all entries of a map.
    fn record_map(&mut self, live: &dyn StateBackend, cell: Place<'_>) -> Result<(), StateError> {
        if self.recent(cell.id).any(|old| matches!(old, Old::Map(map) if map.is_whole)) {
            return Ok(());
        }
        let mut from = Vec::new();
        loop {
            let mut page: Vec<(Blob, Blob)> = vec![];
            let more = live.map_page(cell.at, MapKeys::from(&from), PAGE, &mut |key, value| {
                page.push((key.into(), value.into()))
            })?;
            let last = page.last().map(|(key, _)| key.to_vec());
            for (map_key, value) in page {
                // An entry that has a record has changed since the mark: the record is the old contents, the page is
                // not.
                if !self.has_entry(cell, &map_key) {
                    self.note_entry(cell, &map_key, Some(value));
                }
            }
            self.keep_to_limit();
            // The limit has dropped the last mark, so nobody needs the rest.
            if !self.is_recording() {
                return Ok(());
            }
            match last {
                Some(last) if more => {
                    from = last;
                    from.push(0);
                }
                _ => break,
            }
        }
        // Ordering: whole only behind the last page. A map that says so hides the live entries without a record, so an
        // error half-way must not leave it behind.
        self.note(cell, Old::Map(OldMap::default()), |recorded| {
            if let Old::Map(map) = recorded {
                map.is_whole = true;
            }
        });
        Ok(())
    }

    /// The length of a list at the newest open mark; records it if it is not recorded yet.
    fn record_length(&mut self, live: &dyn StateBackend, cell: Place<'_>) -> Result<u64, StateError> {
        let recorded = self.recent(cell.id).find_map(|old| match old {
            Old::List(list) => Some(list.length),
            Old::Value(_) | Old::Map(_) | Old::Timers(_) => None,
        });
        if let Some(length) = recorded {
            return Ok(length);
        }
        let length = live.len(cell.at)?;
        self.note(cell, Old::List(OldList::new(length)), |_| {});
        Ok(length)
    }

    fn has_element(&self, cell: Place<'_>, index: u64) -> bool {
        self.recent(cell.id)
            .any(|old| matches!(old, Old::List(list) if list.is_whole || list.elements.contains_key(&index)))
    }

    fn note_element(&mut self, cell: Place<'_>, length: u64, index: u64, element: Blob) {
        self.note(cell, Old::List(OldList::new(length)), |recorded| {
            if let Old::List(list) = recorded {
                list.insert(index, element);
            }
        });
    }

    fn record_element(&mut self, live: &dyn StateBackend, cell: Place<'_>, index: u64) -> Result<(), StateError> {
        let length = self.record_length(live, cell)?;
        // An element behind the recorded length did not exist at the mark, as the length tells.
        if index >= length || self.has_element(cell, index) {
            return Ok(());
        }
        let mut old = None;
        live.list_page(cell.at, index, PageLimit { entries: 1, bytes: 0 }, &mut |element| old = Some(element.into()))?;
        if let Some(old) = old {
            self.note_element(cell, length, index, old);
        }
        Ok(())
    }

    /// Records all elements of a list.
    fn record_list(&mut self, live: &dyn StateBackend, cell: Place<'_>) -> Result<(), StateError> {
        let length = self.record_length(live, cell)?;
        if self.recent(cell.id).any(|old| matches!(old, Old::List(list) if list.is_whole)) {
            return Ok(());
        }
        let mut from = 0;
        while from < length {
            let mut page: Vec<Blob> = vec![];
            let more = live.list_page(cell.at, from, PAGE, &mut |element| page.push(element.into()))?;
            let next = from + page.len() as u64;
            for (index, element) in (from..length).zip(page) {
                if !self.has_element(cell, index) {
                    self.note_element(cell, length, index, element);
                }
            }
            self.keep_to_limit();
            if !more || !self.is_recording() {
                break;
            }
            from = next;
        }
        // Ordering: whole only behind the last page, as for a map.
        if self.is_recording() {
            self.note(cell, Old::List(OldList::new(length)), |recorded| {
                if let Old::List(list) = recorded {
                    list.is_whole = true;
                }
            });
        }
        Ok(())
    }
}

/// A cell that will change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) id: &'a [u8],
    pub(super) at: Address<'a>,
}

impl Layer {
    fn note(&mut self, cell: Place<'_>, empty: Old, change: impl FnOnce(&mut Old)) {
        let recorded = match self.cells.get_mut(cell.id) {
            Some(recorded) => {
                self.bytes -= recorded.bytes(cell.id.len());
                recorded
            }
            None => {
                let new = Cell { key: cell.at.key.into(), namespace: cell.at.namespace.into(), old: empty };
                self.cells.entry(cell.id.into()).or_insert(new)
            }
        };
        change(&mut recorded.old);
        self.bytes += recorded.bytes(cell.id.len());
    }

    /// Takes over records that a later layer has and this one has not, until the later layer or `left` is used up.
    pub(super) fn take_from(&mut self, later: &mut Self, left: &mut usize) {
        while *left > 0
            && let Some(mut first) = later.cells.first_entry()
        {
            let id_bytes = first.key().len();
            let bytes = first.get().bytes(id_bytes);
            *left -= 1;
            let Some(own) = self.cells.get_mut(first.key()) else {
                let (id, cell) = first.remove_entry();
                (self.bytes, later.bytes) = (self.bytes + bytes, later.bytes - bytes);
                self.cells.insert(id, cell);
                continue;
            };
            self.bytes -= own.bytes(id_bytes);
            // The own record of an entry is older, so it stays, and only entries without one are taken over.
            let is_empty = own.old.take_from(&mut first.get_mut().old, left);
            self.bytes += own.bytes(id_bytes);
            later.bytes -= bytes;
            if is_empty {
                first.remove();
            } else {
                later.bytes += first.get().bytes(id_bytes);
            }
        }
    }
}

impl Cell {
    pub(super) fn bytes(&self, id_bytes: usize) -> u64 {
        CELL_BYTES + (id_bytes + self.key.len() + self.namespace.len()) as u64 + self.old.bytes()
    }
}

impl Old {
    fn bytes(&self) -> u64 {
        match self {
            Self::Value(old) => old.as_ref().map_or(0, |old| old.len() as u64),
            Self::Map(map) | Self::Timers(map) => map.bytes,
            Self::List(list) => list.bytes,
        }
    }

    /// As [`Layer::take_from`]; returns whether nothing is left.
    fn take_from(&mut self, later: &mut Self, left: &mut usize) -> bool {
        match (self, later) {
            (Self::Map(own), Self::Map(later)) if !own.is_whole => own.take_from(later, left),
            (Self::Timers(own), Self::Timers(later)) => own.take_from(later, left),
            (Self::List(own), Self::List(later)) if !own.is_whole => own.take_from(later, left),
            // This record is complete already.
            _ => true,
        }
    }
}

impl OldMap {
    pub(super) fn insert(&mut self, map_key: Blob, old: Option<Blob>) {
        if let Entry::Vacant(vacant) = self.entries.entry(map_key) {
            self.bytes += entry_bytes(vacant.key(), old.as_deref());
            vacant.insert(old);
        }
    }

    fn take_from(&mut self, later: &mut Self, left: &mut usize) -> bool {
        while let Some((map_key, old)) = later.entries.pop_first() {
            later.bytes -= entry_bytes(&map_key, old.as_deref());
            self.insert(map_key, old);
            *left = left.saturating_sub(1);
            if *left == 0 && !later.entries.is_empty() {
                return false;
            }
        }
        self.is_whole = later.is_whole;
        true
    }
}

impl OldList {
    fn new(length: u64) -> Self {
        Self { length, elements: std::collections::BTreeMap::new(), is_whole: false, bytes: 0 }
    }

    fn insert(&mut self, index: u64, element: Blob) {
        if index < self.length
            && let Entry::Vacant(vacant) = self.elements.entry(index)
        {
            self.bytes += entry_bytes(&[], Some(&element));
            vacant.insert(element);
        }
    }

    fn take_from(&mut self, later: &mut Self, left: &mut usize) -> bool {
        while let Some((index, element)) = later.elements.pop_first() {
            later.bytes -= entry_bytes(&[], Some(&element));
            self.insert(index, element);
            *left = left.saturating_sub(1);
            if *left == 0 && !later.elements.is_empty() {
                return false;
            }
        }
        // If the list was shorter here, no more of its elements could change; if it was longer, it was cleared in
        // between, and recorded then.
        self.is_whole = later.is_whole;
        true
    }
}

fn entry_bytes(map_key: &[u8], old: Option<&[u8]>) -> u64 {
    ENTRY_BYTES + (map_key.len() + old.map_or(0, <[u8]>::len)) as u64
}

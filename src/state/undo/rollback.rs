//! Rolling back to a mark: the changes that restore its contents.

use std::slice;

use super::{Address, Cell, Change, Layer, Mark, Old, OldMap, Undo, View, timers};
use crate::{
    state::{Action, MapKeys, PageLimit, StateBackend, StateError},
    types::{KeyGroup, StateId},
};

/// A page with everything.
const ALL: PageLimit = PageLimit { entries: usize::MAX, bytes: usize::MAX };

/// Makes the changes of one cell.
struct Restoring<'a> {
    live: &'a mut dyn StateBackend,
    log: &'a mut dyn FnMut(&Change<'_>),
    at: Address<'a>,
}

impl Undo {
    /// Restores the contents of `live` at `mark`, cell by cell, and passes each change to `log` after applying it. The
    /// mark stays open; later marks are dropped. Returns `false`, and does nothing, if the mark is not open. Memory:
    /// the largest list that changed.
    ///
    /// # Errors
    /// The error of the backend, whose contents are then a mixture of both states.
    pub fn roll_back(
        &mut self,
        live: &mut dyn StateBackend,
        mark: Mark,
        log: &mut dyn FnMut(&Change<'_>),
    ) -> Result<bool, StateError> {
        let Some(at) = self.position(mark) else { return Ok(false) };
        let layers: Vec<Layer> = self.layers.split_off(at).into();
        self.bytes -= layers.iter().map(|layer| layer.bytes).sum::<u64>();
        // The mark is opened again for the contents that are about to come back. The changes below go to `live`
        // directly and are not recorded: what they overwrite is not needed any more.
        self.mark(mark);
        if self.is_lazy {
            for layer in layers.iter().rev() {
                // Ordering: layers from the newest to the oldest, and in each the journal before the cells, which are
                // older. The oldest record of an entry has the last word, and that is its contents at the mark.
                layer.journal.roll_back(live, log)?;
                for (id, cell) in layer.cells.iter().filter(|(_, cell)| !cell.is_list()) {
                    restore(live, log, slice::from_ref(layer), id, cell)?;
                }
            }
        }
        for (index, layer) in layers.iter().enumerate() {
            let (older, from_here) = layers.split_at(index);
            let is_first = |id: &[u8]| !older.iter().any(|older| older.cells.contains_key(id));
            // Journals have no lists, so lists come back from cells in either mode.
            let is_left = |cell: &Cell| !self.is_lazy || cell.is_list();
            for (id, cell) in layer.cells.iter().filter(|(id, cell)| is_left(cell) && is_first(id)) {
                restore(live, log, from_here, id, cell)?;
            }
        }
        self.garbage.extend(layers);
        Ok(true)
    }
}

impl Cell {
    fn is_list(&self) -> bool {
        matches!(self.old, Old::List(_))
    }
}

/// Restores one cell with the identity `id` from the layers that may have it.
fn restore(
    live: &mut dyn StateBackend,
    log: &mut dyn FnMut(&Change<'_>),
    layers: &[Layer],
    id: &[u8],
    cell: &Cell,
) -> Result<(), StateError> {
    let (state, key_group) = place(id);
    let at = Address { state, key_group, key: &cell.key, namespace: &cell.namespace };
    let olds = || layers.iter().filter_map(|layer| layer.cells.get(id)).map(|cell| &cell.old);
    match &cell.old {
        Old::Value(old) => Restoring { live, log, at }.value(old.as_deref()),
        Old::Map(_) => {
            let mut restoring = Restoring { live, log, at };
            let maps = olds().filter_map(|old| if let Old::Map(map) = old { Some(map) } else { None });
            let mut maps: Vec<_> = maps.collect();
            if let Some(whole) = maps.iter().position(|map| map.is_whole) {
                // A whole record has every entry that the map had then. Later records are of entries that came after a
                // clear.
                maps.truncate(whole + 1);
                restoring.clear_map()?;
            }
            oldest(&maps).try_for_each(|(map_key, old)| restoring.entry(map_key, old))
        }
        Old::Timers(_) => {
            let mut restoring = Restoring { live, log, at };
            let of_cell = olds().filter_map(|old| if let Old::Timers(timers) = old { Some(timers) } else { None });
            let of_cell: Vec<_> = of_cell.collect();
            oldest(&of_cell).try_for_each(|(entry, old)| restoring.timer(timers::time(entry), old.is_some()))
        }
        Old::List(list) => {
            let mut old: Vec<Vec<u8>> = vec![];
            // Ordering: the old list is read whole before the first change. The view reads elements without a record
            // from `live`.
            let view = View::new(&mut *live, layers.iter().collect());
            view.list_page(at, 0, ALL, &mut |element| old.push(element.to_vec()))?;
            let is_changed =
                |index: &u64| olds().any(|old| matches!(old, Old::List(list) if list.elements.contains_key(index)));
            let mut restoring = Restoring { live, log, at };
            // There is no change that shortens a list, so one of another length is written again from its beginning.
            let is_as_long = restoring.live.len(at)? == list.length;
            if !is_as_long {
                restoring.clear_list()?;
            }
            let elements = (0..).zip(&old).filter(|(index, _)| !is_as_long || is_changed(index));
            elements.into_iter().try_for_each(|(index, element)| restoring.write(Action::ListPut { index, element }))
        }
    }
}

/// The oldest record of each entry.
fn oldest<'a>(maps: &'a [&'a OldMap]) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
    maps.iter().enumerate().flat_map(move |(index, map)| {
        let (older, _) = maps.split_at(index);
        let first = map.entries.iter().filter(|(key, _)| !older.iter().any(|map| map.entries.contains_key(*key)));
        first.map(|(key, old)| (&key[..], old.as_deref()))
    })
}

impl Restoring<'_> {
    fn write(&mut self, action: Action<'_>) -> Result<(), StateError> {
        let change = Change { at: self.at, action };
        self.live.apply(&change)?;
        (self.log)(&change);
        Ok(())
    }

    fn value(&mut self, old: Option<&[u8]>) -> Result<(), StateError> {
        if let Some(old) = old {
            return self.write(Action::Put(old));
        }
        let mut is_there = false;
        self.live.value(self.at, &mut |stored| is_there = stored.is_some())?;
        if is_there { self.write(Action::Clear) } else { Ok(()) }
    }

    fn entry(&mut self, map_key: &[u8], old: Option<&[u8]>) -> Result<(), StateError> {
        if let Some(value) = old {
            return self.write(Action::MapPut { map_key, value });
        }
        let mut is_there = false;
        self.live.map_value(self.at, map_key, &mut |stored| is_there = stored.is_some())?;
        if is_there { self.write(Action::MapRemove { map_key }) } else { Ok(()) }
    }

    fn timer(&mut self, time: i64, was_there: bool) -> Result<(), StateError> {
        match (was_there, self.live.timer(self.at, time)?) {
            (true, false) => self.write(Action::TimerPut { time }),
            (false, true) => self.write(Action::TimerRemove { time }),
            _ => Ok(()),
        }
    }

    fn clear_map(&mut self) -> Result<(), StateError> {
        let mut is_there = false;
        let first = PageLimit { entries: 1, bytes: 0 };
        self.live.map_page(self.at, MapKeys::default(), first, &mut |_, _| is_there = true)?;
        if is_there { self.write(Action::Clear) } else { Ok(()) }
    }

    fn clear_list(&mut self) -> Result<(), StateError> {
        if self.live.len(self.at)? > 0 { self.write(Action::Clear) } else { Ok(()) }
    }
}

/// State and key group of a cell, from the beginning of its identity.
fn place(id: &[u8]) -> (StateId, KeyGroup) {
    let read = || {
        let (state, rest) = id.split_first_chunk()?;
        let (group, _) = rest.split_first_chunk()?;
        Some((StateId(u32::from_be_bytes(*state)), KeyGroup(u16::from_be_bytes(*group))))
    };
    read().expect("an identity begins with both")
}

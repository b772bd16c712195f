//! The contents of one state: its directories, one per key group, and its usage.

use std::ops::Bound;

#[cfg(test)]
use super::slice::Slice;
use super::{
    cell::{Cell, CopyCells, ListCell, MapCell},
    cell_table::CellTable,
    cells::{Cells, Effect},
    directory::Directory,
    name::Name,
    timers::Timers,
    usage::{Tally, Usage},
    values::Values,
};
use crate::{
    state::{Action, Address, Change, HashRange, MapKeys, Page, PageLimit, TimerRef, stable_hash},
    types::{KeyGroup, KeyGroupRange, StateId, StateKind},
};

/// The text of a `StateError::Mismatch`.
pub(super) type Misfit = &'static str;

const FOREIGN_KEY_GROUP: Misfit = "the key group is outside the backend's range";
const OTHER_KIND: Misfit = "the change or read is for another kind of state";
const LIST_HOLE: Misfit = "a list element beyond the next index";

/// The contents of one state.
pub(super) enum Table {
    Value(Groups<Values>),
    List(Groups<CellTable<ListCell>>),
    Map(Groups<CellTable<MapCell>>),
    Timer(Timers),
}

/// The cells of each key group.
pub(super) struct Groups<S> {
    range: KeyGroupRange,
    /// One for each key group of the range; empty before the first write.
    directories: Vec<Directory<S>>,
    pub(super) tally: Tally,
}

impl Table {
    pub(super) fn new(kind: StateKind, range: KeyGroupRange) -> Self {
        match kind {
            StateKind::Value => Self::Value(Groups::new(range)),
            StateKind::List => Self::List(Groups::new(range)),
            StateKind::Map => Self::Map(Groups::new(range)),
            StateKind::Timer => Self::Timer(Timers::new(range)),
        }
    }

    pub(super) fn usage(&self) -> Usage {
        match self {
            Self::Value(groups) => groups.tally.usage,
            Self::List(groups) => groups.tally.usage,
            Self::Map(groups) => groups.tally.usage,
            Self::Timer(timers) => timers.usage(),
        }
    }

    /// Counts everything that `usage` tracks, and checks the invariants.
    #[cfg(test)]
    pub(super) fn recount(&self) -> Usage {
        match self {
            Self::Value(groups) => groups.recount(),
            Self::List(groups) => groups.recount(),
            Self::Map(groups) => groups.recount(),
            Self::Timer(timers) => timers.recount(),
        }
    }

    /// Cells and bytes of each slice of a key group, in no particular order.
    pub(super) fn slices(&self, group: KeyGroup) -> Vec<(usize, u64)> {
        match self {
            Self::Value(groups) => groups.slices(group),
            Self::List(groups) => groups.slices(group),
            Self::Map(groups) => groups.slices(group),
            Self::Timer(timers) => timers.groups.slices(group),
        }
    }

    /// Sets the stamp of later changes.
    pub(super) fn set_stamp(&mut self, stamp: u64) {
        match self {
            Self::Value(groups) => groups.tally.stamp = stamp,
            Self::List(groups) => groups.tally.stamp = stamp,
            Self::Map(groups) => groups.tally.stamp = stamp,
            Self::Timer(timers) => timers.groups.tally.stamp = stamp,
        }
    }

    /// A stamp at or above that of any change in the slices that share a hash with `range`.
    pub(super) fn changed(&self, group: KeyGroup, range: HashRange) -> u64 {
        match self {
            Self::Value(groups) => groups.changed(group, range),
            Self::List(groups) => groups.changed(group, range),
            Self::Map(groups) => groups.changed(group, range),
            Self::Timer(timers) => timers.groups.changed(group, range),
        }
    }

    /// The hash range of the slice of `hash`.
    pub(super) fn slice(&self, group: KeyGroup, hash: u64) -> HashRange {
        match self {
            Self::Value(groups) => groups.slice(group, hash),
            Self::List(groups) => groups.slice(group, hash),
            Self::Map(groups) => groups.slice(group, hash),
            Self::Timer(timers) => timers.groups.slice(group, hash),
        }
    }

    /// Copies the cells of the slice of the hash `from` that are at or after it. Returns the slice's last hash.
    pub(super) fn copy_slice(
        &self,
        state: StateId,
        key_group: KeyGroup,
        from: u64,
        copy: &mut dyn FnMut(&Change<'_>),
    ) -> Result<u64, Misfit> {
        match self {
            Self::Value(groups) => groups.copy_slice(state, key_group, from, copy),
            Self::List(groups) => groups.copy_slice(state, key_group, from, copy),
            Self::Map(groups) => groups.copy_slice(state, key_group, from, copy),
            Self::Timer(timers) => timers.groups.copy_slice(state, key_group, from, copy),
        }
    }

    /// Reads the names of cells behind `after`, in order of their hashes, slice by slice.
    pub(super) fn name_page(
        &self,
        key_group: KeyGroup,
        after: Option<(&[u8], &[u8])>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, Misfit> {
        match self {
            Self::Value(groups) => groups.name_page(key_group, after, limit, read),
            Self::List(groups) => groups.name_page(key_group, after, limit, read),
            Self::Map(groups) => groups.name_page(key_group, after, limit, read),
            Self::Timer(timers) => timers.groups.name_page(key_group, after, limit, read),
        }
    }

    pub(super) fn apply(&mut self, at: Address<'_>, action: Action<'_>) -> Result<(), Misfit> {
        let name = Name::new(at.key, at.namespace);
        match (self, action) {
            (Self::Value(groups), Action::Put(value)) => groups.write(at, &name, |values| Ok(values.put(&name, value))),
            (Self::Value(groups), Action::Append(value)) => {
                groups.write(at, &name, |values| Ok(values.append(&name, value)))
            }
            (Self::Map(groups), Action::MapPut { map_key, value }) => {
                let put = |cell: &mut MapCell| {
                    cell.put(map_key, value);
                    Ok(())
                };
                groups.upsert(at, &name, put, || Ok(MapCell::new(&name, map_key, value)))
            }
            (Self::Map(groups), Action::MapAppend { map_key, value }) => {
                let append = |cell: &mut MapCell| {
                    cell.append(map_key, value);
                    Ok(())
                };
                groups.upsert(at, &name, append, || Ok(MapCell::new(&name, map_key, value)))
            }
            (Self::Map(groups), Action::MapRemove { map_key }) => groups.change_or_remove(at, &name, |cell| {
                // A map that has become empty goes, or its name would be listed without entries.
                cell.remove(map_key);
                cell.entries() > 0
            }),
            (Self::List(groups), Action::ListPut { index, element }) => {
                let put = |cell: &mut ListCell| if cell.put(index, element) { Ok(()) } else { Err(LIST_HOLE) };
                let create = || {
                    // Any index but 0 fails here, so no empty list is stored.
                    let mut cell = ListCell::new(&name);
                    put(&mut cell).map(|()| cell)
                };
                groups.upsert(at, &name, put, create)
            }
            (Self::Value(groups), Action::Clear) => groups.write_old(at, &name, |values| Ok(values.remove(&name))),
            (Self::List(groups), Action::Clear) => groups.change_or_remove(at, &name, |_| false),
            (Self::Map(groups), Action::Clear) => groups.change_or_remove(at, &name, |_| false),
            (Self::Timer(timers), Action::TimerPut { time }) => timers.put(at, &name, time),
            (Self::Timer(timers), Action::TimerRemove { time }) => timers.remove(at, &name, time),
            _ => Err(OTHER_KIND),
        }
    }

    /// Reads the place at which the look-up of a stable hash begins; returns something of it.
    #[inline]
    pub(super) fn touch(&self, key_group: KeyGroup, hash: u64) -> u32 {
        match self {
            Self::Value(groups) => groups.of_hash(key_group, hash).map_or(0, |cells| cells.touch(hash)),
            // Their tables cannot be read without looking something up.
            Self::List(_) | Self::Map(_) | Self::Timer(_) => 0,
        }
    }

    /// The address of the block of the cell with this stable hash, not read yet; empty if there is none.
    #[inline]
    pub(super) fn block(&self, key_group: KeyGroup, hash: u64) -> &[u8] {
        match self {
            Self::Value(groups) => groups.block(key_group, hash),
            Self::List(groups) => groups.block(key_group, hash),
            Self::Map(groups) => groups.block(key_group, hash),
            Self::Timer(timers) => timers.groups.block(key_group, hash),
        }
    }

    pub(super) fn value(&self, at: Address<'_>) -> Result<Option<&[u8]>, Misfit> {
        let Self::Value(groups) = self else { return Err(OTHER_KIND) };
        Ok(groups.cells(at)?.and_then(|values| values.find(&Name::new(at.key, at.namespace))))
    }

    pub(super) fn map_value(&self, at: Address<'_>, map_key: &[u8]) -> Result<Option<&[u8]>, Misfit> {
        let Self::Map(groups) = self else { return Err(OTHER_KIND) };
        Ok(groups.find(at)?.and_then(|cell| cell.map().get(map_key)).map(Vec::as_slice))
    }

    pub(super) fn map_page(
        &self,
        at: Address<'_>,
        keys: MapKeys<'_>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, Misfit> {
        let Self::Map(groups) = self else { return Err(OTHER_KIND) };
        let Some(cell) = groups.find(at)? else { return Ok(false) };
        let mut page = Page::new(limit);
        for (map_key, value) in cell.map().range::<[u8], _>((Bound::Included(keys.first()), Bound::Unbounded)) {
            if keys.end_before(map_key) {
                return Ok(false);
            }
            if !page.takes(map_key.len() + value.len()) {
                return Ok(true);
            }
            read(map_key, value);
        }
        Ok(false)
    }

    pub(super) fn list_page(
        &self,
        at: Address<'_>,
        from: u64,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, Misfit> {
        let Self::List(groups) = self else { return Err(OTHER_KIND) };
        let Some(cell) = groups.find(at)? else { return Ok(false) };
        let mut page = Page::new(limit);
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        for element in cell.elements().get(from..).unwrap_or_default() {
            if !page.takes(element.len()) {
                return Ok(true);
            }
            read(element);
        }
        Ok(false)
    }

    pub(super) fn timer(&self, at: Address<'_>, time: i64) -> Result<bool, Misfit> {
        let Self::Timer(timers) = self else { return Err(OTHER_KIND) };
        Ok(timers.groups.find(at)?.is_some_and(|cell| cell.contains(time)))
    }

    pub(super) fn timer_page(
        &self,
        after: Option<TimerRef<'_>>,
        up_to: i64,
        limit: PageLimit,
        read: &mut dyn FnMut(TimerRef<'_>),
    ) -> Result<bool, Misfit> {
        let Self::Timer(timers) = self else { return Err(OTHER_KIND) };
        Ok(timers.page(after, up_to, limit, read))
    }

    pub(super) fn timer_count(&self) -> Result<u64, Misfit> {
        let Self::Timer(timers) = self else { return Err(OTHER_KIND) };
        Ok(timers.count())
    }

    pub(super) fn len(&self, at: Address<'_>) -> Result<u64, Misfit> {
        match self {
            Self::Value(groups) => groups.len(at),
            Self::List(groups) => groups.len(at),
            Self::Map(groups) => groups.len(at),
            Self::Timer(timers) => timers.groups.len(at),
        }
    }
}

impl<S: Cells + CopyCells> Groups<S> {
    pub(super) fn new(range: KeyGroupRange) -> Self {
        Self { range, directories: Vec::new(), tally: Tally::default() }
    }

    #[cfg(test)]
    pub(super) fn recount(&self) -> Usage {
        let slices = self.directories.iter().flat_map(Directory::slices).map(Slice::cells);
        let bytes = self.directories.iter().inspect(|directory| directory.check()).map(Directory::bytes).sum();
        Usage { entries: slices.map(|cells| cells.recount().entries).sum(), bytes }
    }

    fn slices(&self, group: KeyGroup) -> Vec<(usize, u64)> {
        let directory = self.range.index(group).and_then(|index| self.directories.get(index));
        let slices = directory.map(Directory::slices).unwrap_or_default();
        slices.iter().map(|slice| (slice.cells().len(), slice.bytes())).collect()
    }

    fn changed(&self, group: KeyGroup, range: HashRange) -> u64 {
        let directory = self.range.index(group).and_then(|index| self.directories.get(index));
        directory.map_or(0, |directory| directory.changed(range))
    }

    fn slice(&self, group: KeyGroup, hash: u64) -> HashRange {
        let directory = self.range.index(group).and_then(|index| self.directories.get(index));
        let slice = directory.map(|directory| directory.slice_of(hash));
        slice.map_or(HashRange::ALL, |slice| HashRange { first: slice.first(), last: slice.last() })
    }

    fn copy_slice(
        &self,
        state: StateId,
        key_group: KeyGroup,
        from: u64,
        copy: &mut dyn FnMut(&Change<'_>),
    ) -> Result<u64, Misfit> {
        let index = self.range.index(key_group).ok_or(FOREIGN_KEY_GROUP)?;
        // Nothing was ever written to the state, so all hashes are covered at once.
        let Some(directory) = self.directories.get(index) else { return Ok(u64::MAX) };
        let slice = directory.slice_of(from);
        slice.cells().copy(from, &mut |key, namespace, action| {
            copy(&Change { at: Address { state, key_group, key, namespace }, action });
        });
        Ok(slice.last())
    }

    fn name_page(
        &self,
        key_group: KeyGroup,
        after: Option<(&[u8], &[u8])>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, Misfit> {
        let index = self.range.index(key_group).ok_or(FOREIGN_KEY_GROUP)?;
        let Some(directory) = self.directories.get(index) else { return Ok(false) };
        // Names with equal hashes are ordered by the names themselves.
        let after = after.map(|(key, namespace)| (stable_hash(key, namespace), (key, namespace)));
        let mut page = Page::new(limit);
        let mut from = Some(after.map_or(0, |(hash, _)| hash));
        while let Some(first) = from {
            let slice = directory.slice_of(first);
            let mut names = Vec::new();
            slice.cells().names(&mut |hash, key, namespace| {
                let name = (hash, (key, namespace));
                names.extend(after.is_none_or(|after| name > after).then_some(name));
            });
            // Slices come in order of hashes, and a hash table has no order. So each slice is sorted by itself, and
            // `after` need not exist.
            names.sort_unstable();
            for (_, (key, namespace)) in names {
                if !page.takes(key.len() + namespace.len()) {
                    return Ok(true);
                }
                read(key, namespace);
            }
            from = slice.last().checked_add(1);
        }
        Ok(false)
    }

    #[inline]
    fn block(&self, key_group: KeyGroup, hash: u64) -> &[u8] {
        self.of_hash(key_group, hash).map_or(&[], |cells| cells.block(hash))
    }

    /// The cells of the slice of a hash.
    #[inline]
    fn of_hash(&self, key_group: KeyGroup, hash: u64) -> Option<&S> {
        let directory = self.range.index(key_group).and_then(|index| self.directories.get(index));
        directory.and_then(|directory| directory.cells(hash))
    }

    /// The cells of the slice of a name; `None` before the first write.
    #[inline]
    fn cells(&self, at: Address<'_>) -> Result<Option<&S>, Misfit> {
        let index = self.range.index(at.key_group).ok_or(FOREIGN_KEY_GROUP)?;
        let directory = self.directories.get(index);
        Ok(directory.and_then(|directory| directory.cells(stable_hash(at.key, at.namespace))))
    }

    fn len(&self, at: Address<'_>) -> Result<u64, Misfit> {
        Ok(self.cells(at)?.map_or(0, |cells| cells.entries(&Name::new(at.key, at.namespace))))
    }

    /// Lets `write` change the cells of the slice of a name.
    #[inline]
    fn write(
        &mut self,
        at: Address<'_>,
        name: &Name<'_>,
        write: impl FnOnce(&mut S) -> Result<Effect, Misfit>,
    ) -> Result<(), Misfit> {
        let index = self.range.index(at.key_group).ok_or(FOREIGN_KEY_GROUP)?;
        if self.directories.is_empty() {
            self.allocate();
        }
        let directory = self.directories.get_mut(index).expect("one for each key group of the range");
        directory.write(name.hash(), &mut self.tally, write)
    }

    /// As [`write`](Self::write), for a write that changes cells that exist only.
    fn write_old(
        &mut self,
        at: Address<'_>,
        name: &Name<'_>,
        write: impl FnOnce(&mut S) -> Result<Effect, Misfit>,
    ) -> Result<(), Misfit> {
        let index = self.range.index(at.key_group).ok_or(FOREIGN_KEY_GROUP)?;
        let Some(directory) = self.directories.get_mut(index) else { return Ok(()) };
        directory.write(name.hash(), &mut self.tally, write)
    }

    fn allocate(&mut self) {
        // This happens at the first write, so that thousands of states that are never written cost nothing.
        self.directories = self.range.iter().map(|_| Directory::new()).collect();
        self.tally.usage.bytes += self.directories.iter().map(Directory::bytes).sum::<u64>();
    }
}

impl<C: Cell> Groups<CellTable<C>> {
    pub(super) fn find(&self, at: Address<'_>) -> Result<Option<&C>, Misfit> {
        Ok(self.cells(at)?.and_then(|cells| cells.find(&Name::new(at.key, at.namespace))))
    }

    #[inline]
    pub(super) fn upsert(
        &mut self,
        at: Address<'_>,
        name: &Name<'_>,
        change: impl FnOnce(&mut C) -> Result<(), Misfit>,
        create: impl FnOnce() -> Result<C, Misfit>,
    ) -> Result<(), Misfit> {
        self.write(at, name, |cells| cells.upsert(name, change, create))
    }

    pub(super) fn change_or_remove(
        &mut self,
        at: Address<'_>,
        name: &Name<'_>,
        change: impl FnOnce(&mut C) -> bool,
    ) -> Result<(), Misfit> {
        self.write_old(at, name, |cells| Ok(cells.change_or_remove(name, change)))
    }
}

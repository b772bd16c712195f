//! The usual form of the cells of a slice: a hash table.

use std::mem;

use hashbrown::HashTable;

use super::{
    cell::{Cell, CopyCells, Rebuild},
    cells::{Cells, Effect},
    name::{Name, read_name},
    usage::Usage,
};

/// A table with at most this many buckets does not shrink.
const MIN_SHRINK_BUCKETS: usize = 16;

/// Cells in a hash table.
pub(super) struct CellTable<C> {
    cells: HashTable<C>,
    /// Entries of the cells, and bytes of the cells themselves.
    contents: Usage,
}

impl<C> Default for CellTable<C> {
    fn default() -> Self {
        Self { cells: HashTable::new(), contents: Usage::default() }
    }
}

impl<C: Cell> CellTable<C> {
    #[inline]
    pub(super) fn find(&self, name: &Name<'_>) -> Option<&C> {
        self.cells.find(table_hash(name.hash()), |cell| is_of(cell, name))
    }

    /// Changes the cell of `name`, or adds the one that `create` makes.
    ///
    /// # Errors
    /// The error of `change` or `create`; `change` must have changed nothing then.
    #[inline]
    pub(super) fn upsert<E>(
        &mut self,
        name: &Name<'_>,
        change: impl FnOnce(&mut C) -> Result<(), E>,
        create: impl FnOnce() -> Result<C, E>,
    ) -> Result<Effect, E> {
        match self.cells.find_mut(table_hash(name.hash()), |cell| is_of(cell, name)) {
            Some(cell) => {
                let before = cell.usage();
                let result = change(cell);
                self.contents.replace(before, cell.usage());
                result?;
            }
            None => self.insert(create()?),
        }
        Ok(Effect::Changed)
    }

    /// Changes the cell of `name`, if there is one, and removes it unless `change` returns that it stays.
    pub(super) fn change_or_remove(&mut self, name: &Name<'_>, change: impl FnOnce(&mut C) -> bool) -> Effect {
        let Ok(mut found) = self.cells.find_entry(table_hash(name.hash()), |cell| is_of(cell, name)) else {
            return Effect::Nothing;
        };
        let before = found.get().usage();
        if change(found.get_mut()) {
            self.contents.replace(before, found.get().usage());
            return Effect::Changed;
        }
        found.remove();
        self.contents.replace(before, Usage::default());
        self.shrink();
        Effect::Removed
    }

    /// Adds a cell with a new name.
    pub(super) fn insert(&mut self, cell: C) {
        self.contents.replace(Usage::default(), cell.usage());
        self.cells.insert_unique(table_hash(cell.hash()), cell, cell_hash);
    }

    fn shrink(&mut self) {
        let buckets = self.cells.num_buckets();
        // Half of the room stays free, so that a slice that shrinks and grows in turn does not move its cells at every
        // turn.
        if buckets > MIN_SHRINK_BUCKETS && self.cells.len() <= buckets / 8 {
            self.cells.shrink_to(self.cells.len() * 2, cell_hash);
        }
    }
}

impl<C: Cell> Cells for CellTable<C> {
    #[inline]
    fn len(&self) -> usize {
        self.cells.len()
    }

    #[inline]
    fn usage(&self) -> Usage {
        Usage { bytes: self.contents.bytes + self.cells.allocation_size() as u64, ..self.contents }
    }

    #[inline]
    fn contents_bytes(&self) -> u64 {
        self.contents.bytes
    }

    fn entries(&self, name: &Name<'_>) -> u64 {
        self.find(name).map_or(0, Cell::entries)
    }

    #[inline]
    fn block(&self, hash: u64) -> &[u8] {
        self.cells.find(table_hash(hash), |cell| cell.hash() == hash).map_or(&[], Cell::block)
    }

    fn split_off(&mut self, bit: u64) -> Self {
        let Self { cells, .. } = mem::take(self);
        let mut upper = Self::default();
        let uppers = cells.iter().filter(|cell| cell.hash() & bit != 0).count();
        // Tables of the right size at once: if they grew cell by cell, every cell would be hashed several times.
        self.cells.reserve(cells.len() - uppers, cell_hash);
        upper.cells.reserve(uppers, cell_hash);
        for cell in cells {
            let half = if cell.hash() & bit == 0 { &mut *self } else { &mut upper };
            half.insert(cell);
        }
        upper
    }

    fn take_in(&mut self, other: Self) {
        other.cells.into_iter().for_each(|cell| self.insert(cell));
    }

    fn names<'a>(&'a self, each: &mut dyn FnMut(u64, &'a [u8], &'a [u8])) {
        for cell in &self.cells {
            let (key, namespace) = read_name(cell.block());
            each(cell.hash(), key, namespace);
        }
    }

    #[cfg(test)]
    fn recount(&self) -> Usage {
        let mut usage = Usage::default();
        self.cells.iter().for_each(|cell| usage.replace(Usage::default(), cell.usage()));
        assert_eq!(usage, self.contents);
        self.usage()
    }
}

impl<C: Cell> CopyCells for CellTable<C> {
    fn copy(&self, from: u64, each: Rebuild<'_>) {
        for cell in self.cells.iter().filter(|cell| cell.hash() >= from) {
            let (key, namespace) = read_name(cell.block());
            cell.rebuild(&mut |action| each(key, namespace, action));
        }
    }
}

/// The hash as a hash table sees it. A hash table uses the lowest bits for positions and the 7 highest for tags, but
/// the highest bits are the same for all cells of a slice. So the two halves are swapped: a slice's table takes
/// positions from bits 32 and up, and tags from bits 25 to 31.
#[inline]
fn table_hash(hash: u64) -> u64 {
    hash.rotate_left(32)
}

fn cell_hash<C: Cell>(cell: &C) -> u64 {
    table_hash(cell.hash())
}

#[inline]
fn is_of<C: Cell>(cell: &C, name: &Name<'_>) -> bool {
    cell.hash() == name.hash() && name.heads(cell.block())
}

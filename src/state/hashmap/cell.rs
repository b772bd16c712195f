//! Cells: the stored contents of one (key, namespace), by kind of state.
//!
//! A long value lies behind its name in one block; short ones are in arenas (`values`). Maps and lists have the name in
//! a block of its own.

use std::{collections::BTreeMap, mem::size_of};

use super::{
    name::{Name, content_start},
    usage::Usage,
};
use crate::state::Action;

/// The allocator's overhead per block: its header, and half of the rounding to 16 bytes.
pub(super) const ALLOCATION_BYTES: usize = 16;

/// Bytes of a B-tree leaf of a map: room for 11 entries, links and counters.
const MAP_LEAF_BYTES: usize = 11 * size_of::<(Box<[u8]>, Vec<u8>)>() + 16;

/// Bytes of B-tree nodes per map entry, when the nodes are two thirds full.
const MAP_ENTRY_BYTES: usize = size_of::<(Box<[u8]>, Vec<u8>)>() * 3 / 2;

/// The properties of a cell that slices need.
pub(super) trait Cell {
    /// The stable hash of the cell's name.
    fn hash(&self) -> u64;

    /// A block that begins with the cell's name.
    fn block(&self) -> &[u8];

    /// Number of entries: 1 for a value, map entries, list elements. Constant time.
    fn entries(&self) -> u64;

    /// Bytes of the cell outside its bucket. Constant time.
    fn bytes(&self) -> u64;

    /// Entries and bytes.
    #[inline]
    fn usage(&self) -> Usage {
        Usage { entries: self.entries(), bytes: self.bytes() }
    }

    /// Calls `each` with the actions that rebuild the cell, in order.
    fn rebuild(&self, each: &mut dyn FnMut(Action<'_>));
}

/// Takes key and namespace of a cell, and one of the actions that rebuild it.
pub(super) type Rebuild<'a> = &'a mut dyn FnMut(&[u8], &[u8], Action<'_>);

/// Cells that can be copied.
pub(super) trait CopyCells {
    /// Calls `each` for all cells with a hash at or after `from`. Cells come in no particular order, the actions of one
    /// cell in order.
    fn copy(&self, from: u64, each: Rebuild<'_>);
}

/// The value of one (key, namespace), in one block with its name.
pub(super) struct ValueCell {
    hash: u64,
    block: Vec<u8>,
}

impl ValueCell {
    pub(super) fn new(name: &Name<'_>, value: &[u8]) -> Self {
        Self { hash: name.hash(), block: name.block(value) }
    }

    pub(super) fn value(&self) -> &[u8] {
        self.block.get(content_start(&self.block)..).expect("a block is at least as long as its name")
    }

    #[inline]
    pub(super) fn set(&mut self, value: &[u8]) {
        let start = content_start(&self.block);
        overwrite(&mut self.block, start, value);
    }

    pub(super) fn append(&mut self, value: &[u8]) {
        append(&mut self.block, value);
    }
}

impl Cell for ValueCell {
    #[inline]
    fn hash(&self) -> u64 {
        self.hash
    }

    #[inline]
    fn block(&self) -> &[u8] {
        &self.block
    }

    #[inline]
    fn entries(&self) -> u64 {
        1
    }

    #[inline]
    fn bytes(&self) -> u64 {
        (self.block.capacity() + ALLOCATION_BYTES) as u64
    }

    fn rebuild(&self, each: &mut dyn FnMut(Action<'_>)) {
        each(Action::Put(self.value()));
    }
}

/// A map. Never empty while it is stored.
pub(super) struct MapCell {
    hash: u64,
    block: Box<[u8]>,
    map: BTreeMap<Box<[u8]>, Vec<u8>>,
    /// Heap bytes of the keys and values, without the tree nodes.
    contents_bytes: usize,
}

impl MapCell {
    /// A map with one entry.
    pub(super) fn new(name: &Name<'_>, map_key: &[u8], value: &[u8]) -> Self {
        let block = name.block(&[]).into();
        let mut cell = Self { hash: name.hash(), block, map: BTreeMap::new(), contents_bytes: 0 };
        cell.put(map_key, value);
        cell
    }

    pub(super) fn map(&self) -> &BTreeMap<Box<[u8]>, Vec<u8>> {
        &self.map
    }

    pub(super) fn put(&mut self, map_key: &[u8], value: &[u8]) {
        self.change(map_key, value, |stored| overwrite(stored, 0, value));
    }

    pub(super) fn append(&mut self, map_key: &[u8], value: &[u8]) {
        self.change(map_key, value, |stored| append(stored, value));
    }

    pub(super) fn remove(&mut self, map_key: &[u8]) {
        if let Some((map_key, value)) = self.map.remove_entry(map_key) {
            self.contents_bytes -= entry_bytes(&map_key, &value);
        }
    }

    /// Changes the value of an entry, or inserts it with `value`.
    fn change(&mut self, map_key: &[u8], value: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(stored) = self.map.get_mut(map_key) {
            self.contents_bytes -= stored.capacity();
            change(stored);
            self.contents_bytes += stored.capacity();
        } else {
            let (map_key, value) = (Box::from(map_key), value.to_vec());
            self.contents_bytes += entry_bytes(&map_key, &value);
            self.map.insert(map_key, value);
        }
    }
}

impl Cell for MapCell {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn block(&self) -> &[u8] {
        &self.block
    }

    fn entries(&self) -> u64 {
        self.map.len() as u64
    }

    fn bytes(&self) -> u64 {
        let nodes = MAP_LEAF_BYTES.max(self.map.len() * MAP_ENTRY_BYTES);
        (self.block.len() + ALLOCATION_BYTES + nodes + self.contents_bytes) as u64
    }

    fn rebuild(&self, each: &mut dyn FnMut(Action<'_>)) {
        for (map_key, value) in &self.map {
            each(Action::MapPut { map_key, value });
        }
    }
}

/// A list. Never empty while it is stored.
pub(super) struct ListCell {
    hash: u64,
    block: Box<[u8]>,
    elements: Vec<Box<[u8]>>,
    /// Heap bytes of the elements, without the vector of them.
    contents_bytes: usize,
}

impl ListCell {
    pub(super) fn new(name: &Name<'_>) -> Self {
        Self { hash: name.hash(), block: name.block(&[]).into(), elements: Vec::new(), contents_bytes: 0 }
    }

    pub(super) fn elements(&self) -> &[Box<[u8]>] {
        &self.elements
    }

    /// Sets the element at `index`, which is an existing one or the next. Returns `false` for any other index.
    pub(super) fn put(&mut self, index: u64, element: &[u8]) -> bool {
        let Ok(index) = usize::try_from(index) else { return false };
        let length = self.elements.len();
        match self.elements.get_mut(index) {
            // An element of equal length is overwritten in place, which saves the allocator two calls.
            Some(stored) if stored.len() == element.len() => stored.copy_from_slice(element),
            Some(stored) => {
                self.contents_bytes = self.contents_bytes - stored.len() + element.len();
                *stored = element.into();
            }
            None if index == length => {
                self.elements.push(element.into());
                self.contents_bytes += element.len() + ALLOCATION_BYTES;
            }
            None => return false,
        }
        true
    }
}

impl Cell for ListCell {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn block(&self) -> &[u8] {
        &self.block
    }

    fn entries(&self) -> u64 {
        self.elements.len() as u64
    }

    fn bytes(&self) -> u64 {
        let vector = self.elements.capacity() * size_of::<Box<[u8]>>();
        (self.block.len() + 2 * ALLOCATION_BYTES + vector + self.contents_bytes) as u64
    }

    fn rebuild(&self, each: &mut dyn FnMut(Action<'_>)) {
        for (index, element) in (0..).zip(&self.elements) {
            each(Action::ListPut { index, element });
        }
    }
}

/// Replaces the bytes behind `start` by `value`: in place if the length is equal, otherwise without keeping a block
/// that is more than half empty.
#[inline]
fn overwrite(block: &mut Vec<u8>, start: usize, value: &[u8]) {
    if let Some(stored) = block.get_mut(start..)
        && stored.len() == value.len()
    {
        stored.copy_from_slice(value);
        return;
    }
    block.truncate(start);
    block.reserve_exact(value.len());
    block.extend_from_slice(value);
    if block.capacity() / 2 > block.len() {
        block.shrink_to_fit();
    }
}

/// Appends, and grows the block by at least a quarter, so that many appends take linear time.
fn append(block: &mut Vec<u8>, value: &[u8]) {
    if block.capacity() - block.len() < value.len() {
        block.reserve_exact(value.len().max(block.len() / 4));
    }
    block.extend_from_slice(value);
}

fn entry_bytes(map_key: &[u8], value: &Vec<u8>) -> usize {
    map_key.len() + value.capacity() + 2 * ALLOCATION_BYTES
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_overwritten_in_place_and_gives_room_back() {
        let mut cell = ValueCell::new(&Name::new(b"key", b"ns"), &[1; 100]);
        let (place, bytes) = (cell.value().as_ptr(), cell.bytes());
        cell.set(&[2; 100]);
        assert_eq!((cell.value(), cell.value().as_ptr(), cell.bytes()), (&[2; 100][..], place, bytes));
        cell.set(b"short");
        assert_eq!(cell.value(), b"short");
        assert_eq!(cell.bytes(), (8 + 3 + 2 + 5 + ALLOCATION_BYTES) as u64);
        cell.append(b"er");
        assert_eq!(cell.value(), b"shorter");
        cell.set(b"");
        assert_eq!(cell.value(), b"");
    }

    #[test]
    fn a_map_gives_back_what_its_entries_took() {
        let mut cell = MapCell::new(&Name::new(b"key", b""), b"first", b"");
        cell.remove(b"first");
        let empty = cell.bytes();
        for i in 0..100_u8 {
            cell.put(&[i], &[i; 50]);
            cell.append(&[i], &[i; 50]);
        }
        assert!(cell.bytes() > empty + 100 * 101);
        for i in 0..100_u8 {
            cell.remove(&[i]);
        }
        assert_eq!((cell.bytes(), cell.entries()), (empty, 0));
    }

    #[test]
    fn a_list_has_no_holes() {
        let mut cell = ListCell::new(&Name::new(b"key", b""));
        assert!(!cell.put(1, b"b") && cell.put(0, b"a") && cell.put(1, b"b") && cell.put(0, b"aa"));
        assert!(!cell.put(3, b"d") && !cell.put(u64::MAX, b"z"));
        assert_eq!(cell.elements(), [Box::from(&b"aa"[..]), Box::from(&b"b"[..])]);
    }
}

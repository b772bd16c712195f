//! The values of one slice: names and values in one block of memory, and a small table of their places.
//!
//! ```text
//!   places ──▶ arena: cells, one behind the other
//!                room, value, key, namespace: lengths, u16 each │ key │ namespace │ value
//! ```
//!
//! A look-up touches one of the places and one cell. With a block of its own for each value, a hash table would
//! have eight times as many bytes, few of which stay in the processor's caches.
//!
//! A cell has room for a whole number of 8-byte words. A value that needs other room moves to the end of the arena, and
//! leaves dead bytes behind. When most bytes are dead, the arena is written anew. Long cells are not copied about: they
//! are `apart`, in a hash table.

use std::{iter, mem};

use super::{
    cell::{CopyCells, Rebuild, ValueCell},
    cell_table::CellTable,
    cells::{Cells, Effect},
    name::Name,
    places::{Found, MAX_OFFSET, Places, WORD},
    usage::Usage,
};
use crate::state::{Action, stable_hash};

/// Bytes of the lengths before a name.
const HEADER_BYTES: usize = 8;

/// Most bytes of a cell in the arena.
const MAX_CELL_BYTES: usize = 4096;

/// The key and namespace lengths of a dead cell.
const DEAD: u32 = u32::MAX;

/// An arena of at most so many bytes is not written anew to give memory back.
const MIN_SHRINK_BYTES: usize = 1024;

/// The values of one slice.
///
/// Invariants: there is one place for each live cell of the arena; no name is both in the arena and apart.
#[derive(Default)]
pub(super) struct Values {
    places: Places,
    arena: Vec<u8>,
    /// Live cells of the arena.
    live: u32,
    /// Bytes of dead cells.
    dead: u32,
    apart: Option<Box<CellTable<ValueCell>>>,
}

/// The lengths at the beginning of a cell.
#[derive(Debug, Clone, Copy)]
struct Header {
    /// Length of the whole cell, in words.
    room: u16,
    value: u16,
    /// Lengths of key (low half) and namespace, or [`DEAD`].
    name: u32,
}

impl Header {
    #[inline]
    fn read(cell: &[u8]) -> Option<Self> {
        let word = u64::from_le_bytes(*cell.first_chunk()?);
        Some(Self { room: word as u16, value: (word >> 16) as u16, name: (word >> 32) as u32 })
    }

    fn bytes(self) -> [u8; HEADER_BYTES] {
        (u64::from(self.room) | u64::from(self.value) << 16 | u64::from(self.name) << 32).to_le_bytes()
    }

    #[inline]
    fn room_bytes(self) -> usize {
        usize::from(self.room) * WORD
    }

    #[inline]
    fn key(self) -> usize {
        usize::from(self.name as u16)
    }

    #[inline]
    fn namespace(self) -> usize {
        (self.name >> 16) as usize
    }

    /// The offset of the value in the cell.
    #[inline]
    fn value_at(self) -> usize {
        HEADER_BYTES + self.key() + self.namespace()
    }
}

/// A cell that is not dead.
#[derive(Debug, Clone, Copy)]
struct Live<'a> {
    offset: usize,
    header: Header,
    /// The whole cell, with all of its room.
    bytes: &'a [u8],
}

impl<'a> Live<'a> {
    fn parts(&self) -> (&'a [u8], &'a [u8], &'a [u8]) {
        let split = || {
            let (key, rest) = self.bytes.get(HEADER_BYTES..)?.split_at_checked(self.header.key())?;
            let (namespace, rest) = rest.split_at_checked(self.header.namespace())?;
            Some((key, namespace, rest.get(..usize::from(self.header.value))?))
        };
        split().expect("a cell has room for its parts")
    }

    fn hash(&self) -> u64 {
        let (key, namespace, _) = self.parts();
        stable_hash(key, namespace)
    }
}

/// The live cells of an arena, in its order.
fn live(arena: &[u8]) -> impl Iterator<Item = Live<'_>> {
    let mut next = 0;
    let cells = iter::from_fn(move || {
        let (offset, rest) = (next, arena.get(next..)?);
        let header = Header::read(rest)?;
        next += header.room_bytes();
        Some(Live { offset, header, bytes: rest.get(..header.room_bytes())? })
    });
    cells.filter(|cell| cell.header.name != DEAD)
}

impl Values {
    /// The value of a name.
    #[inline]
    pub(super) fn find(&self, name: &Name<'_>) -> Option<&[u8]> {
        match self.locate(name) {
            Some(found) => Some(self.value(found.offset)),
            None => self.apart.as_ref()?.find(name).map(ValueCell::value),
        }
    }

    /// Reads the place at which the look-up of a hash begins, so that it is in a cache; returns something of it.
    #[inline]
    pub(super) fn touch(&self, hash: u64) -> u32 {
        self.places.first(hash)
    }

    /// Sets the value of a name.
    #[inline]
    pub(super) fn put(&mut self, name: &Name<'_>, value: &[u8]) -> Effect {
        match self.locate(name) {
            Some(found) if self.overwrite(found.offset, value) => {}
            Some(found) => self.replace(found, name, value, 0),
            None if self.apart.is_some() => self.put_beside_apart(name, value),
            None => self.add(name, value, 0),
        }
        Effect::Changed
    }

    /// Appends to the value of a name, which is empty if there is none.
    pub(super) fn append(&mut self, name: &Name<'_>, value: &[u8]) -> Effect {
        if let Some(found) = self.locate(name) {
            if !self.extend(found.offset, value) {
                // The room grows by a quarter, so that many appends take linear time.
                let all = [self.value(found.offset), value].concat();
                self.replace(found, name, &all, all.len() / 4);
            }
        } else if let Some(apart) = &mut self.apart
            && apart.find(name).is_some()
        {
            apart.change_or_remove(name, |cell| {
                cell.append(value);
                true
            });
        } else {
            self.add(name, value, 0);
        }
        Effect::Changed
    }

    /// Removes a name.
    pub(super) fn remove(&mut self, name: &Name<'_>) -> Effect {
        if let Some(found) = self.locate(name) {
            self.bury(found);
            self.shrink();
            return Effect::Removed;
        }
        self.remove_apart(name)
    }

    /// The cell of `name` in the arena.
    #[inline]
    fn locate(&self, name: &Name<'_>) -> Option<Found> {
        let lengths = name.short_lengths()?;
        self.places.find(name.hash(), |offset| {
            let cell = self.arena.get(offset..).unwrap_or_default();
            Header::read(cell).is_some_and(|header| header.name == lengths)
                && cell.get(HEADER_BYTES..).is_some_and(|rest| name.begins(rest))
        })
    }

    #[inline]
    fn cell(&self, offset: usize) -> (Header, &[u8]) {
        let cell = self.arena.get(offset..).unwrap_or_default();
        (Header::read(cell).expect("a place leads to a cell"), cell)
    }

    #[inline]
    fn value(&self, offset: usize) -> &[u8] {
        let (header, cell) = self.cell(offset);
        let start = header.value_at();
        cell.get(start..start + usize::from(header.value)).expect("a cell is in the arena")
    }

    /// Sets the value of a cell, if that needs about as much room as it has.
    #[inline]
    fn overwrite(&mut self, offset: usize, value: &[u8]) -> bool {
        let (header, _) = self.cell(offset);
        if usize::from(header.value) != value.len() {
            let needed = (header.value_at() + value.len()).div_ceil(WORD);
            if needed > usize::from(header.room) || needed < usize::from(header.room) / 2 {
                return false;
            }
            self.set_header(offset, Header { value: short(value.len()), ..header });
        }
        self.write_at(offset + header.value_at(), value);
        true
    }

    /// Appends to the value of a cell, if it has room.
    fn extend(&mut self, offset: usize, value: &[u8]) -> bool {
        let (header, _) = self.cell(offset);
        let end = header.value_at() + usize::from(header.value);
        if end + value.len() > header.room_bytes() {
            return false;
        }
        self.write_at(offset + end, value);
        self.set_header(offset, Header { value: header.value + short(value.len()), ..header });
        true
    }

    #[inline]
    fn write_at(&mut self, at: usize, bytes: &[u8]) {
        self.arena.get_mut(at..at + bytes.len()).expect("a cell is in the arena").copy_from_slice(bytes);
    }

    fn set_header(&mut self, offset: usize, header: Header) {
        self.write_at(offset, &header.bytes());
    }

    /// Makes a cell dead.
    fn bury(&mut self, found: Found) {
        let (header, _) = self.cell(found.offset);
        self.set_header(found.offset, Header { name: DEAD, ..header });
        self.places.remove(found);
        self.live -= 1;
        self.dead += u32::from(header.room) * WORD as u32;
    }

    /// Moves a value that needs other room, and leaves room for `more` bytes if that fits.
    fn replace(&mut self, found: Found, name: &Name<'_>, value: &[u8], more: usize) {
        self.bury(found);
        self.add(name, value, more);
        self.shrink();
    }

    /// Gives memory back if most of the arena is dead.
    fn shrink(&mut self) {
        if self.live == 0 {
            (self.arena, self.places, self.dead) = Default::default();
        } else if self.dead as usize > self.arena.len() / 2 && self.arena.len() > MIN_SHRINK_BYTES {
            self.rewrite(0);
        }
    }

    /// Adds a new name with its value, and with room for `more` bytes if that fits.
    fn add(&mut self, name: &Name<'_>, value: &[u8], more: usize) {
        let bytes = HEADER_BYTES + name.len() + value.len();
        let room = (bytes + more).min(MAX_CELL_BYTES).max(bytes).next_multiple_of(WORD);
        let (Some(lengths), true) = (name.short_lengths(), bytes <= MAX_CELL_BYTES) else {
            return self.set_apart(name, value);
        };
        if self.arena.capacity() - self.arena.len() < room {
            self.make_room(room);
        }
        if self.arena.len() + room > MAX_OFFSET {
            return self.set_apart(name, value);
        }
        let offset = self.arena.len();
        let header = Header { room: short(room / WORD), value: short(value.len()), name: lengths };
        for part in [&header.bytes(), name.key(), name.namespace(), value] {
            self.arena.extend_from_slice(part);
        }
        self.arena.resize(offset + room, 0);
        self.place(name.hash(), offset);
    }

    /// Makes room for `bytes` at the end of the arena.
    fn make_room(&mut self, bytes: usize) {
        if self.dead as usize > self.arena.len() / 8 {
            self.rewrite(bytes);
        } else {
            // Little at a time: room that is not used counts as memory of the state.
            self.arena.reserve_exact(bytes.max(self.arena.len() / 8));
        }
    }

    /// Notes the place of a new cell at the end of the arena.
    fn place(&mut self, hash: u64, offset: usize) {
        self.live += 1;
        if self.places.is_full() {
            self.make_places(0);
        } else {
            self.places.insert(hash, offset);
        }
    }

    /// Makes the table of places anew, with room for `more` cells.
    fn make_places(&mut self, more: usize) {
        let mut places = Places::with_room_for(self.live as usize + more);
        live(&self.arena).for_each(|cell| places.insert(cell.hash(), cell.offset));
        self.places = places;
    }

    /// Writes the arena anew, without dead cells, and with room for `more` bytes.
    fn rewrite(&mut self, more: usize) {
        let bytes = self.live_bytes();
        let old = mem::replace(&mut self.arena, Vec::with_capacity(bytes + more.max(bytes / 8)));
        self.dead = 0;
        live(&old).for_each(|cell| self.arena.extend_from_slice(cell.bytes));
        self.make_places(0);
    }

    fn live_bytes(&self) -> usize {
        self.arena.len() - self.dead as usize
    }

    /// Takes a copy of a cell of another arena.
    fn adopt(&mut self, hash: u64, cell: Live<'_>) {
        let offset = self.arena.len();
        if offset + cell.bytes.len() <= MAX_OFFSET {
            self.arena.extend_from_slice(cell.bytes);
            return self.place(hash, offset);
        }
        let (key, namespace, value) = cell.parts();
        self.set_apart(&Name::new(key, namespace), value);
    }

    /// Adds a new name apart.
    #[cold]
    fn set_apart(&mut self, name: &Name<'_>, value: &[u8]) {
        self.apart.get_or_insert_default().insert(ValueCell::new(name, value));
    }

    /// Sets the value of a name that is not in the arena.
    #[cold]
    fn put_beside_apart(&mut self, name: &Name<'_>, value: &[u8]) {
        let long = HEADER_BYTES + name.len() + value.len() > MAX_CELL_BYTES;
        if let (Some(apart), true) = (&mut self.apart, long) {
            let set = |cell: &mut ValueCell| {
                cell.set(value);
                Ok::<_, std::convert::Infallible>(())
            };
            let Ok(_) = apart.upsert(name, set, || Ok(ValueCell::new(name, value)));
        } else {
            self.remove_apart(name);
            self.add(name, value, 0);
        }
    }

    #[cold]
    fn remove_apart(&mut self, name: &Name<'_>) -> Effect {
        let Some(apart) = &mut self.apart else { return Effect::Nothing };
        let effect = apart.change_or_remove(name, |_| false);
        if apart.len() == 0 {
            self.apart = None;
        }
        effect
    }
}

impl Cells for Values {
    #[inline]
    fn len(&self) -> usize {
        self.live as usize + self.apart.as_ref().map_or(0, |apart| apart.len())
    }

    #[inline]
    fn usage(&self) -> Usage {
        let bytes = self.arena.capacity() + self.places.bytes();
        let here = Usage { entries: u64::from(self.live), bytes: bytes as u64 };
        let Some(apart) = &self.apart else { return here };
        let there = apart.usage();
        let bytes = here.bytes + there.bytes + size_of::<CellTable<ValueCell>>() as u64;
        Usage { entries: here.entries + there.entries, bytes }
    }

    #[inline]
    fn contents_bytes(&self) -> u64 {
        self.live_bytes() as u64 + self.apart.as_ref().map_or(0, |apart| apart.contents_bytes())
    }

    fn entries(&self, name: &Name<'_>) -> u64 {
        u64::from(self.find(name).is_some())
    }

    /// The length of a cell is in the cell, so this has the mean length.
    #[inline]
    fn block(&self, hash: u64) -> &[u8] {
        let Some(found) = self.places.find(hash, |_| true) else { return self.block_apart(hash) };
        let mean = self.arena.len() as u32 / self.live.max(1);
        let cell = self.arena.get(found.offset..).unwrap_or_default();
        cell.get(..mean as usize).unwrap_or(cell)
    }

    fn split_off(&mut self, bit: u64) -> Self {
        let (old, mut upper) = (mem::take(self), Self::default());
        let hashes: Vec<u64> = live(&old.arena).map(|cell| cell.hash()).collect();
        let is_upper = |hash: u64| hash & bit != 0;
        let uppers = || hashes.iter().zip(live(&old.arena)).filter(|(hash, _)| is_upper(**hash));
        let (cells, bytes) = (uppers().count(), uppers().map(|(_, cell)| cell.bytes.len()).sum());
        upper.expect(cells, bytes);
        self.expect(hashes.len() - cells, old.live_bytes() - bytes);
        for (&hash, cell) in hashes.iter().zip(live(&old.arena)) {
            let half = if is_upper(hash) { &mut upper } else { &mut *self };
            half.adopt(hash, cell);
        }
        if let Some(mut apart) = old.apart {
            upper.take_apart(apart.split_off(bit));
            self.take_apart(*apart);
        }
        upper
    }

    fn take_in(&mut self, other: Self) {
        self.expect(other.live as usize, other.live_bytes());
        live(&other.arena).for_each(|cell| self.adopt(cell.hash(), cell));
        if let Some(apart) = other.apart {
            self.take_apart(*apart);
        }
        self.shrink();
    }

    fn names<'a>(&'a self, each: &mut dyn FnMut(u64, &'a [u8], &'a [u8])) {
        for cell in live(&self.arena) {
            let (key, namespace, _) = cell.parts();
            each(cell.hash(), key, namespace);
        }
        if let Some(apart) = &self.apart {
            apart.names(each);
        }
    }

    #[cfg(test)]
    fn recount(&self) -> Usage {
        let cells: Vec<_> = live(&self.arena).collect();
        assert_eq!(cells.len(), self.live as usize);
        assert_eq!(cells.iter().map(|cell| cell.bytes.len()).sum::<usize>(), self.live_bytes());
        assert_eq!(self.places.recount(), cells.len());
        for cell in cells {
            let (key, namespace, _) = cell.parts();
            assert_eq!(self.locate(&Name::new(key, namespace)).map(|found| found.offset), Some(cell.offset));
        }
        if let Some(apart) = &self.apart {
            apart.recount();
            assert!(apart.len() > 0);
            apart.names(&mut |_, key, namespace| assert!(self.locate(&Name::new(key, namespace)).is_none()));
        }
        self.usage()
    }
}

impl CopyCells for Values {
    fn copy(&self, from: u64, each: Rebuild<'_>) {
        for cell in live(&self.arena).filter(|cell| from == 0 || cell.hash() >= from) {
            let (key, namespace, value) = cell.parts();
            each(key, namespace, Action::Put(value));
        }
        if let Some(apart) = &self.apart {
            apart.copy(from, each);
        }
    }
}

impl Values {
    #[inline]
    fn block_apart(&self, hash: u64) -> &[u8] {
        self.apart.as_ref().map_or(&[], |apart| apart.block(hash))
    }

    /// Makes room for `cells` of `bytes`, and an eighth more.
    fn expect(&mut self, cells: usize, bytes: usize) {
        self.arena.reserve_exact(bytes + bytes / 8);
        if cells > 0 {
            self.make_places(cells);
        }
    }

    fn take_apart(&mut self, other: CellTable<ValueCell>) {
        if other.len() == 0 {
            return;
        }
        match &mut self.apart {
            Some(apart) => apart.take_in(other),
            None => self.apart = Some(Box::new(other)),
        }
    }
}

fn short(length: usize) -> u16 {
    u16::try_from(length).expect("a cell in an arena is short")
}

#[cfg(test)]
mod tests;

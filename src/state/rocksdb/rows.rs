//! Rows of a shard that were read lately, in front of its database.
//!
//! ```text
//!   read ─▶ write buffer ─▶ young rows ─▶ old rows ─▶ database
//!                              ▲  ▲           │           │
//!                              │  ╰───────────╯           │
//!                              ╰──────────────────────────╯   a row that was found is young again
//! ```
//!
//! RocksDB finds an entry of its memtable by some twenty steps in a list, each of which waits for memory, and looks
//! into several lists and files. A task that reads an entry which it wrote a second ago, such as a counter, pays that
//! at each read. Here a row is found after two waits.
//!
//! The young rows become the old ones when they take half of the memory, and the old ones are forgotten. That an entry
//! does not exist is a row, too. Only reads add rows. When the write buffer is passed on, the rows that it overwrites
//! are renewed, so a row is always that of the database.
//!
//! The memory is part of `memory.rocksdb`: what rows take, the block cache does not.

use super::{
    entries::{Entries, Span},
    resources::Resources,
};

/// Bytes of the longest value that is kept. Blocks of the block cache are of this size.
const LONGEST_VALUE: usize = 4 << 10;

/// The rows of one shard.
pub(super) struct Rows {
    young: Entries,
    old: Entries,
    /// Bytes of memory of all rows, as they are told to the resources.
    told: usize,
    /// Most bytes of the young rows.
    most: usize,
    resources: Resources,
}

/// A row that was found: the place of its value, `None` if there is no entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row(Option<Span>);

impl Rows {
    pub(super) fn new(resources: &Resources) -> Self {
        let (young, old) = Default::default();
        Self { young, old, told: 0, most: 0, resources: resources.clone() }
    }

    /// Finds a row, which is young from then on.
    #[inline]
    pub(super) fn find(&mut self, hash: u64, key: &[u8]) -> Option<Row> {
        if let Some(found) = self.young.find(hash, key) {
            return Some(Row(found));
        }
        let found = self.old.find(hash, key)?;
        self.make_room(key.len() + found.map_or(0, Span::length));
        // The old rows may have been forgotten for the room.
        let value = self.old.find(hash, key)?;
        self.young.set(hash, key, self.old.value(value));
        self.young.find(hash, key).map(Row)
    }

    /// The value of a row that was found just now.
    #[inline]
    pub(super) fn value(&self, row: Row) -> Option<&[u8]> {
        self.young.value(row.0)
    }

    /// Adds the row of `key`, which has none, as the database has it.
    pub(super) fn add(&mut self, hash: u64, key: &[u8], value: Option<&[u8]>) {
        let length = value.map_or(0, <[u8]>::len);
        if length <= LONGEST_VALUE && self.make_room(key.len() + length) {
            self.young.set(hash, key, value);
        }
    }

    /// Sets the row of a key that is written to the database, if it has one.
    #[inline]
    pub(super) fn renew(&mut self, hash: u64, key: &[u8], value: Option<&[u8]>) {
        match self.young.renew(hash, key, value) {
            Some(true) => {}
            // An old row of this key was hidden by the young one, and was not renewed.
            Some(false) => self.old.remove(hash, key),
            None => _ = self.old.renew(hash, key, value),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    /// Forgets all rows, where entries of the database changed past the write buffer.
    pub(super) fn forget(&mut self) {
        (self.young, self.old) = Default::default();
        self.tell();
    }

    /// Makes room for a young row of so many bytes; returns whether there is room.
    fn make_room(&mut self, bytes: usize) -> bool {
        if self.young.bytes_with(bytes) > self.most {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
            // Other shards were opened or closed meanwhile.
            self.most = self.resources.rows_of_each() / 2;
            for entries in [&mut self.young, &mut self.old] {
                if entries.allocated_bytes() > self.most + self.most / 4 {
                    *entries = Entries::default();
                }
            }
            if self.young.bytes_with(bytes) > self.most {
                self.tell();
                return false;
            }
        }
        self.young.reserve(bytes, self.most);
        self.tell();
        true
    }

    fn tell(&mut self) {
        let bytes = self.young.allocated_bytes() + self.old.allocated_bytes();
        if bytes != self.told {
            self.resources.rows_changed(self.told, bytes);
            self.told = bytes;
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.resources.rows_changed(self.told, 0);
    }
}

//! Entries in memory, found by their keys: a hash table over an arena. To find one waits for memory twice.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

/// The hash of a key.
pub(super) fn hash_of(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Entries by key, each with a value or without one.
#[derive(Default)]
pub(super) struct Entries {
    table: HashTable<Entry>,
    /// Keys and values, including overwritten ones.
    arena: Vec<u8>,
}

struct Entry {
    hash: u64,
    key: Span,
    value: Option<Span>,
}

/// A range of the arena.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    at: usize,
    length: usize,
}

impl Span {
    pub(super) fn length(self) -> usize {
        self.length
    }
}

impl Entries {
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Bytes of keys, values and entries, without room for more.
    pub(super) fn used_bytes(&self) -> usize {
        self.arena.len() + self.table.len() * size_of::<Entry>()
    }

    /// Bytes of memory.
    pub(super) fn allocated_bytes(&self) -> usize {
        self.arena.capacity() + self.table.allocation_size()
    }

    /// Bytes of memory that another entry of so many bytes would make of it, at least.
    pub(super) fn bytes_with(&self, more: usize) -> usize {
        let growth = if self.table.len() < self.table.capacity() { 1 } else { 2 };
        self.arena.len() + more + self.table.allocation_size() * growth
    }

    /// The place of the value of `key`, or `Some(None)` if the entry has none.
    #[inline]
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<Option<Span>> {
        let is_key = |entry: &Entry| entry.hash == hash && slice(&self.arena, entry.key) == key;
        self.table.find(hash, is_key).map(|entry| entry.value)
    }

    /// The bytes of a value that was found, if no entry was set since.
    #[inline]
    pub(super) fn value(&self, value: Option<Span>) -> Option<&[u8]> {
        value.map(|span| slice(&self.arena, span))
    }

    /// Sets the entry of `key`; returns whether it is new. The old value stays in the arena.
    #[inline]
    pub(super) fn set(&mut self, hash: u64, key: &[u8], value: Option<&[u8]>) -> bool {
        let Self { table, arena } = self;
        let value = value.map(|value| push(arena, value));
        if let Some(entry) = table.find_mut(hash, |entry| entry.hash == hash && slice(arena, entry.key) == key) {
            entry.value = value;
            return false;
        }
        let entry = Entry { hash, key: push(arena, key), value };
        table.insert_unique(hash, entry, |entry| entry.hash);
        true
    }

    /// Sets the value of the entry of `key` without more memory, or else removes the entry. Returns whether there is an
    /// entry now; `None` if there was none.
    #[inline]
    pub(super) fn renew(&mut self, hash: u64, key: &[u8], value: Option<&[u8]>) -> Option<bool> {
        let Self { table, arena } = self;
        let is_key = |entry: &Entry| entry.hash == hash && slice(arena, entry.key) == key;
        let mut found = table.find_entry(hash, is_key).ok()?;
        match (found.get().value, value) {
            (_, None) => found.get_mut().value = None,
            (Some(span), Some(value)) if span.length == value.len() => {
                arena.get_mut(span.at..span.at + span.length).expect("spans lie in their arena").copy_from_slice(value);
            }
            (_, Some(value)) if arena.capacity() - arena.len() >= value.len() => {
                found.get_mut().value = Some(push(arena, value));
            }
            _ => {
                found.remove();
                return Some(false);
            }
        }
        Some(true)
    }

    /// Removes the entry of `key`, if there is one.
    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) {
        let Self { table, arena } = self;
        if let Ok(found) = table.find_entry(hash, |entry| entry.hash == hash && slice(arena, entry.key) == key) {
            found.remove();
        }
    }

    /// Makes room for so many bytes in the arena; the memory of all is `most` then, unless that is too little.
    pub(super) fn reserve(&mut self, more: usize, most: usize) {
        let (length, capacity) = (self.arena.len(), self.arena.capacity());
        if capacity - length < more {
            // Doubled as far as the bound allows, so that many entries take linear time.
            let most = most.saturating_sub(self.table.allocation_size());
            self.arena.reserve_exact(more.max((2 * capacity).min(most).saturating_sub(length)));
        }
    }

    /// All entries, in no order: hash, key and value.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &[u8], Option<&[u8]>)> {
        self.table.iter().map(|entry| (entry.hash, slice(&self.arena, entry.key), self.value(entry.value)))
    }

    /// Removes all entries. The memory stays allocated for the next ones.
    pub(super) fn clear(&mut self) {
        self.table.clear();
        self.arena.clear();
    }
}

fn push(arena: &mut Vec<u8>, bytes: &[u8]) -> Span {
    let at = arena.len();
    arena.extend_from_slice(bytes);
    Span { at, length: bytes.len() }
}

fn slice(arena: &[u8], span: Span) -> &[u8] {
    arena.get(span.at..span.at + span.length).expect("spans lie in their arena")
}

//! The write buffer of a shard: the newest writes by key, which the database does not have yet.
//!
//! RocksDB's own buffer is a skip list, in which a write at a random key waits for memory a dozen times. Here it waits
//! once. When thousands of writes are passed on in key order, each finds its place in the list near the one before.
//! Overwritten values are never passed on. Nothing is lost that the database would have kept, since neither has a
//! write-ahead log.

use hashbrown::{HashSet, HashTable};
use rocksdb::WriteBatch;
use xxhash_rust::xxh3::xxh3_64;

/// The newest write of a key.
struct Entry {
    hash: u64,
    key: Span,
    /// The value; `None` if the key is removed.
    value: Option<Span>,
}

/// A range of the arena.
#[derive(Clone, Copy)]
struct Span {
    at: usize,
    length: usize,
}

/// Writes by key.
#[derive(Default)]
pub(super) struct Buffer {
    entries: HashTable<Entry>,
    /// Keys and values, including overwritten ones.
    arena: Vec<u8>,
    /// Hashes of the prefixes under which keys were written.
    prefixes: HashSet<u64>,
}

impl Buffer {
    /// Bytes of memory that are in use.
    pub(super) fn bytes(&self) -> usize {
        self.arena.len() + self.entries.len() * size_of::<Entry>() + self.prefixes.len() * size_of::<u64>()
    }

    /// The newest write of `key`: its value, or `Some(None)` if it was removed.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        if self.entries.is_empty() {
            return None;
        }
        let hash = xxh3_64(key);
        let found = self.entries.find(hash, |entry| entry.hash == hash && slice(&self.arena, entry.key) == key)?;
        Some(found.value.map(|value| slice(&self.arena, value)))
    }

    /// Whether there are writes under `prefix`.
    pub(super) fn has_prefix(&self, prefix: &[u8]) -> bool {
        // Two prefixes with one hash only make a read pass on writes that it does not need.
        !self.prefixes.is_empty() && self.prefixes.contains(&xxh3_64(prefix))
    }

    /// Whether there are no writes.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Notes a write of `key`. Its first `prefix` bytes, if given, are shared by the entries that are scanned together.
    pub(super) fn write(&mut self, key: &[u8], prefix: Option<usize>, value: Option<&[u8]>) {
        let Self { entries, arena, prefixes } = self;
        let hash = xxh3_64(key);
        let value = value.map(|value| push(arena, value));
        if let Some(entry) = entries.find_mut(hash, |entry| entry.hash == hash && slice(arena, entry.key) == key) {
            // The old value stays in the arena, and counts, until the buffer is taken. So a key that is written again
            // and again fills the buffer like any other. The prefix was noted with the first write of the key.
            entry.value = value;
            return;
        }
        let entry = Entry { hash, key: push(arena, key), value };
        entries.insert_unique(hash, entry, |entry| entry.hash);
        if let Some(prefix) = prefix.and_then(|length| key.get(..length)) {
            prefixes.insert(xxh3_64(prefix));
        }
    }

    /// Takes all writes, in order of their keys, and empties the buffer.
    pub(super) fn take(&mut self) -> WriteBatch {
        let arena = &self.arena;
        let mut entries: Vec<(&[u8], Option<Span>)> =
            self.entries.iter().map(|entry| (slice(arena, entry.key), entry.value)).collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        let mut batch = WriteBatch::with_capacity_bytes(arena.len() + entries.len() * 16);
        for (key, value) in entries {
            match value {
                Some(value) => batch.put(key, slice(arena, value)),
                None => batch.delete(key),
            }
        }
        // The memory stays allocated for the next writes.
        self.entries.clear();
        self.arena.clear();
        self.prefixes.clear();
        batch
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_write_of_a_key_counts() {
        let mut buffer = Buffer::default();
        for round in 0..3_u32 {
            for key in 0..1_000_u32 {
                buffer.write(
                    &key.to_be_bytes(),
                    Some(2),
                    (key % 3 != round).then(|| round.to_le_bytes()).as_ref().map(|v| &v[..]),
                );
            }
        }
        for key in 0..1_000_u32 {
            let expected = (key % 3 != 2).then_some(2_u32.to_le_bytes());
            assert_eq!(buffer.get(&key.to_be_bytes()).unwrap(), expected.as_ref().map(|v| &v[..]));
        }
        assert_eq!(buffer.get(&1_000_u32.to_be_bytes()), None);
        assert!(buffer.has_prefix(&[0, 0]) && !buffer.has_prefix(&[0, 1]));
        assert!(buffer.bytes() > 12_000);
        let batch = buffer.take();
        assert_eq!(batch.len(), 1_000, "each key once");
        assert!(buffer.is_empty() && buffer.bytes() == 0 && !buffer.has_prefix(&[0, 0]));
    }
}

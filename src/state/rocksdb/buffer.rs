//! The write buffer of a shard: the newest writes by key, which the database does not have yet.
//!
//! RocksDB's own buffer is a skip list, in which a write at a random key waits for memory a dozen times. Here it waits
//! once. When thousands of writes are passed on in key order, each finds its place in the list near the one before.
//! Overwritten values are never passed on. Nothing is lost that the database would have kept, since neither has a
//! write-ahead log.

use hashbrown::HashSet;
use rocksdb::WriteBatch;

use super::entries::{Entries, hash_of};

/// Writes by key: the newest value of each, none if the key is removed.
#[derive(Default)]
pub(super) struct Buffer {
    entries: Entries,
    /// Hashes of the prefixes under which keys were written.
    prefixes: HashSet<u64>,
}

impl Buffer {
    /// Bytes of memory that are in use.
    pub(super) fn bytes(&self) -> usize {
        self.entries.used_bytes() + self.prefixes.len() * size_of::<u64>()
    }

    /// The newest write of `key`: its value, or `Some(None)` if it was removed.
    #[inline]
    pub(super) fn get(&self, hash: u64, key: &[u8]) -> Option<Option<&[u8]>> {
        self.entries.find(hash, key).map(|value| self.entries.value(value))
    }

    /// Whether there are writes under `prefix`.
    pub(super) fn has_prefix(&self, prefix: &[u8]) -> bool {
        // Two prefixes with one hash only make a read pass on writes that it does not need.
        !self.prefixes.is_empty() && self.prefixes.contains(&hash_of(prefix))
    }

    /// Whether there are no writes.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Notes a write of `key`. Its first `prefix` bytes, if given, are shared by the entries that are scanned together.
    pub(super) fn write(&mut self, key: &[u8], prefix: Option<usize>, value: Option<&[u8]>) {
        // The old value of a key counts until the buffer is taken. So a key that is written again and again fills the
        // buffer like any other. The prefix was noted with the first write of the key.
        if self.entries.set(hash_of(key), key, value)
            && let Some(prefix) = prefix.and_then(|length| key.get(..length))
        {
            self.prefixes.insert(hash_of(prefix));
        }
    }

    /// All writes, in no order: hash, key and value.
    pub(super) fn writes(&self) -> impl Iterator<Item = (u64, &[u8], Option<&[u8]>)> {
        self.entries.iter()
    }

    /// Takes all writes, in order of their keys, and empties the buffer.
    pub(super) fn take(&mut self) -> WriteBatch {
        let mut writes: Vec<(&[u8], Option<&[u8]>)> = self.entries.iter().map(|(_, key, value)| (key, value)).collect();
        writes.sort_unstable_by_key(|(key, _)| *key);
        let mut batch = WriteBatch::with_capacity_bytes(self.entries.used_bytes());
        for (key, value) in writes {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        // The memory stays allocated for the next writes.
        self.entries.clear();
        self.prefixes.clear();
        batch
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_write_of_a_key_counts() {
        let get = |buffer: &Buffer, key: u32| {
            let key = key.to_be_bytes();
            buffer.get(hash_of(&key), &key).map(|value| value.map(<[u8]>::to_vec))
        };
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
            assert_eq!(get(&buffer, key).unwrap(), expected.map(Vec::from));
        }
        assert_eq!(get(&buffer, 1_000), None);
        assert!(buffer.has_prefix(&[0, 0]) && !buffer.has_prefix(&[0, 1]));
        assert!(buffer.bytes() > 12_000);
        let batch = buffer.take();
        assert_eq!(batch.len(), 1_000, "each key once");
        assert!(buffer.is_empty() && buffer.bytes() == 0 && !buffer.has_prefix(&[0, 0]));
    }
}

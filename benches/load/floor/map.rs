//! The entries in memory: one hash table, with key and value of an entry in one block.

use std::hint::black_box;

use bytes::Bytes;
use dstl::state::stable_hash;
use hashbrown::{HashTable, hash_table};

use super::table::Step;

/// Operations whose places are looked up together.
const TOGETHER: usize = 64;

/// Entries by key.
#[derive(Default)]
pub(super) struct Map {
    entries: HashTable<Entry>,
}

struct Entry {
    hash: u64,
    key_bytes: u32,
    /// The key, and the value behind it.
    block: Box<[u8]>,
}

/// The hash of a key, and the bucket that an entry with this hash was found in.
type Place = (u64, Option<usize>);

impl Entry {
    fn new(hash: u64, key: &[u8], value: &[u8]) -> Self {
        let key_bytes = u32::try_from(key.len()).unwrap_or(u32::MAX);
        Self { hash, key_bytes, block: [key, value].concat().into() }
    }

    fn is_of(&self, hash: u64, key: &[u8]) -> bool {
        self.hash == hash && self.block.get(..self.key_bytes as usize) == Some(key)
    }

    fn value(&self) -> &[u8] {
        self.block.get(self.key_bytes as usize..).unwrap_or_default()
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        match self.block.get_mut(key.len()..) {
            Some(stored) if stored.len() == value.len() => stored.copy_from_slice(value),
            _ => self.block = [key, value].concat().into(),
        }
    }
}

impl Map {
    /// Carries out operations in order, and calls `answer` with the index and the value of each read.
    pub(super) fn run(&mut self, steps: &[Step<'_>], answer: &mut dyn FnMut(usize, Option<Bytes>)) {
        for (number, steps) in steps.chunks(TOGETHER).enumerate() {
            // The table and the blocks of a large state are in no cache. In these two loops, no step needs what another
            // one fetches, so the processor waits for many of them at a time.
            let mut places = [(0, None); TOGETHER];
            for ((hash, bucket), step) in places.iter_mut().zip(steps) {
                *hash = stable_hash(step.key, b"");
                *bucket = self.entries.find_bucket_index(*hash, |entry| entry.hash == *hash);
            }
            let blocks = places.iter().filter_map(|(_, bucket)| self.entries.get_bucket((*bucket)?));
            let ends = |entry: &Entry| entry.block.first().copied().unwrap_or(0) ^ entry.value().last().unwrap_or(&0);
            black_box(blocks.fold(0, |all, entry| all ^ ends(entry)));
            for (at, (step, place)) in (number * TOGETHER..).zip(steps.iter().zip(places)) {
                match step.value {
                    Some(value) => self.put(place, step.key, value),
                    None => answer(at, self.get(place.0, step.key).map(Bytes::copy_from_slice)),
                }
            }
        }
    }

    fn get(&self, hash: u64, key: &[u8]) -> Option<&[u8]> {
        self.entries.find(hash, |entry| entry.is_of(hash, key)).map(Entry::value)
    }

    fn put(&mut self, (hash, bucket): Place, key: &[u8], value: &[u8]) {
        // An operation before it may have moved the entries, so the key tells whether it is still there.
        if let Some(entry) = bucket.and_then(|bucket| self.entries.get_bucket_mut(bucket))
            && entry.is_of(hash, key)
        {
            return entry.set(key, value);
        }
        match self.entries.entry(hash, |entry| entry.is_of(hash, key), |entry| entry.hash) {
            hash_table::Entry::Occupied(mut found) => found.get_mut().set(key, value),
            hash_table::Entry::Vacant(place) => _ = place.insert(Entry::new(hash, key, value)),
        }
    }
}

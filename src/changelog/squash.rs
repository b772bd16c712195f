//! Change sets without the changes that later ones overwrite.
//!
//! Only the last value of an entry matters to a restore, since checkpoints end between two change sets. So where a few
//! entries get most of the writes, most of a change set need not be written at all.
//!
//! It pays only there. The first changes of a block tell: if hardly one of them overwrites another, the block stays.

use bytes::Bytes;
use hashbrown::{HashTable, hash_table::Entry};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::block::{BlockBody, BlockBuilder, BlockReader, ChangeSetBody};
use crate::types::{KeyGroup, SqnRange};

/// After so many changes it is decided whether a block is squashed.
const SAMPLE: usize = 512;

/// A block is squashed if at least one of so many changes is overwritten.
const WORTHWHILE: usize = 8;

/// Tells the entry of a change within its key group, and whether the change alone decides what the entry is from then
/// on, whatever it was before. `None` for changes of which it does not know that.
pub type EntryOf = fn(&[u8]) -> Option<(&[u8], bool)>;

/// `body` without overwritten changes; `None` if it is better left as it is. Changes of which `entry_of` tells nothing
/// stay. So does a change that others add to: without it, a replay would add to whatever the entry was.
///
/// # Panics
/// If the blocks are not those of a builder.
#[must_use]
pub fn squash(body: &ChangeSetBody, entry_of: EntryOf) -> Option<ChangeSetBody> {
    let squashed: Vec<_> = body.blocks.iter().map(|block| squash_block(&block.bytes, body.range, entry_of)).collect();
    let dropped: usize = squashed.iter().flatten().map(|(_, dropped)| dropped).sum();
    if dropped == 0 {
        return None;
    }
    let blocks = body.blocks.iter().zip(squashed).map(|(block, squashed)| BlockBody {
        bytes: squashed.map_or_else(|| block.bytes.clone(), |(bytes, _)| bytes),
        ..block.clone()
    });
    Some(ChangeSetBody { blocks: blocks.collect(), range: body.range, changes: body.changes - dropped as u64 })
}

/// A change that sets an entry.
struct Set<'a> {
    hash: u64,
    key_group: KeyGroup,
    entry: &'a [u8],
    /// Its index in the block.
    index: usize,
}

/// A block without overwritten changes, and how many those were; `None` if it is better left as it is.
fn squash_block(block: &[u8], range: SqnRange, entry_of: EntryOf) -> Option<(Bytes, usize)> {
    // By key group and entry: the index of the change that set it last, if none has added to it since.
    let mut last: HashTable<Set<'_>> = HashTable::new();
    let (mut is_overwritten, mut overwritten) = (vec![], 0);
    for (key_group, change) in BlockReader::new(block, range).flat_map(|batch| batch.expect("it was built").changes) {
        let index = is_overwritten.len();
        is_overwritten.push(false);
        if let Some((entry, sets)) = entry_of(change) {
            let hash = xxh3_64_with_seed(entry, u64::from(key_group.0));
            let is_it = |set: &Set<'_>| set.hash == hash && set.key_group == key_group && set.entry == entry;
            match last.entry(hash, is_it, |set| set.hash) {
                Entry::Occupied(mut found) if sets => {
                    let before = std::mem::replace(&mut found.get_mut().index, index);
                    *is_overwritten.get_mut(before).expect("an earlier change") = true;
                    overwritten += 1;
                }
                Entry::Occupied(found) => _ = found.remove(),
                Entry::Vacant(place) if sets => _ = place.insert(Set { hash, key_group, entry, index }),
                Entry::Vacant(_) => {}
            }
        }
        if is_overwritten.len() == SAMPLE && overwritten * WORTHWHILE < SAMPLE {
            return None;
        }
    }
    if overwritten == 0 || overwritten * WORTHWHILE < is_overwritten.len() {
        return None;
    }
    let mut squashed = BlockBuilder::with_capacity(block.len(), range.from);
    squashed.begin_at(range.from);
    let mut is_overwritten = is_overwritten.into_iter();
    for batch in BlockReader::new(block, range) {
        let mut batch = batch.expect("it was built");
        squashed.begin_batch(batch.sqn, batch.time);
        while let Some((key_group, record)) = batch.changes.next_record() {
            if is_overwritten.next() == Some(false) {
                squashed.push_record(key_group, record);
            }
        }
        // A batch of which nothing is left becomes a gap.
        squashed.end_batch();
    }
    let body = squashed.close().expect("the last change of an entry stays");
    body.blocks.into_iter().next().map(|block| (block.bytes, overwritten))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        changelog::block::{ChangeSetBuilder, SPLIT_BYTES},
        types::{KeyGroupRange, Sqn},
    };

    /// Changes begin with 1 if they set an entry, with 2 if they add to it; the entry is their second byte.
    fn entry(change: &[u8]) -> Option<(&[u8], bool)> {
        let sets = match change.first()? {
            1 => true,
            2 => false,
            _ => return None,
        };
        Some((change.get(1..2)?, sets))
    }

    /// Changes of batches of three, in two parts; `of` tells the key group, the kind and the entry of each.
    fn body(changes: u32, of: impl Fn(u32) -> (u16, u8, u8)) -> ChangeSetBody {
        let parts = [(0, 63), (64, 127)].map(|(first, last)| KeyGroupRange::new(first, last).unwrap()).to_vec();
        let mut builder = ChangeSetBuilder::new(parts, SPLIT_BYTES / 16);
        for change in 0..changes {
            let sqn = Sqn(u64::from(change / 3) * 2 + 7);
            if change.is_multiple_of(3) {
                builder.begin_batch(sqn, u64::from(change) * 10);
            }
            let (key_group, kind, entry) = of(change);
            builder.push(KeyGroup(key_group), |out| {
                out.extend([kind, entry]);
                out.extend(change.to_le_bytes());
            });
            if change % 3 == 2 || change == changes - 1 {
                builder.end_batch();
            }
        }
        builder.finish().unwrap()
    }

    /// By key group and entry (empty for changes of none): its changes, each with sequence number and time.
    type Entries = BTreeMap<(KeyGroup, Vec<u8>), Vec<(Sqn, u64, Vec<u8>)>>;

    /// The entries in the end, and the most changes that one of them consisted of meanwhile.
    fn replay(body: &ChangeSetBody) -> (Entries, usize) {
        let (mut entries, mut most) = (BTreeMap::<_, Vec<_>>::new(), 0);
        for batch in body.blocks.iter().flat_map(|block| BlockReader::new(&block.bytes, body.range)) {
            let batch = batch.unwrap();
            for (key_group, change) in batch.changes {
                let (name, sets) = entry(change).unwrap_or((&[], false));
                let found = entries.entry((key_group, name.to_vec())).or_default();
                if sets {
                    found.clear();
                }
                found.push((batch.sqn, batch.time, change.to_vec()));
                most = most.max(if name.is_empty() { 0 } else { found.len() });
            }
        }
        (entries, most)
    }

    #[test]
    fn what_is_left_replays_to_the_same_entries() {
        // Entries are the same in several key groups of a block. One in seven changes is of none, one in five adds.
        let of = |change: u32| {
            let kind = if change.is_multiple_of(7) { 0 } else { 1 + u8::from(change.is_multiple_of(5)) };
            let random = change.wrapping_mul(2_654_435_761) >> 16;
            ((random % 8 * 16) as u16, kind, (random / 8 % 50) as u8)
        };
        let body = body(10_000, of);
        assert!(body.blocks.len() > 1);
        let squashed = squash(&body, entry).unwrap();
        assert_eq!(replay(&squashed), replay(&body));
        assert!(squashed.changes < body.changes / 2, "{} of {}", squashed.changes, body.changes);
        let blocks = squashed.blocks.iter().flat_map(|block| BlockReader::new(&block.bytes, squashed.range));
        assert_eq!(blocks.map(|batch| batch.unwrap().changes.count() as u64).sum::<u64>(), squashed.changes);
        assert_eq!(squashed.range, body.range);
        let groups = |body: &ChangeSetBody| body.blocks.iter().map(|block| block.key_groups).collect::<Vec<_>>();
        assert_eq!(groups(&squashed), groups(&body), "no key group loses its last change");
    }

    #[test]
    fn a_change_set_with_few_overwritten_changes_stays_as_it_is() {
        assert_eq!(squash(&body(150, |change| (0, 1, change as u8)), entry), None);
        assert_eq!(squash(&body(150, |change| (0, 1, if change < 15 { 1 } else { change as u8 })), entry), None);
        assert_eq!(squash(&body(120, |change| (change as u16, 1, 1)), entry), None, "an entry of each key group");
        assert_eq!(squash(&body(5_000, |_| (0, 0, 1)), entry), None, "changes of no entry");
        assert_eq!(squash(&body(5_000, |change| (0, 1 + u8::from(change % 2 == 1), 1)), entry), None, "all added to");
        assert!(squash(&body(2, |_| (0, 1, 1)), entry).is_some());
    }
}

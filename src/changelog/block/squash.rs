//! Change sets without the changes that later ones overwrite.
//!
//! Only the last value of an entry matters to a restore, since checkpoints end between two change sets. So where a few
//! entries get most of the writes, most of a change set need not be written at all.
//!
//! It pays only there. The first changes of a block tell: if hardly one of them overwrites another, the block stays as
//! it is.

use bytes::Bytes;
use hashbrown::{HashTable, hash_table::Entry};
use xxhash_rust::xxh3::xxh3_64;

use super::{BlockBody, BlockReader, ChangeSetBody, builder::BlockBuilder};
use crate::types::SqnRange;

/// After so many changes it is decided whether a block is squashed.
const SAMPLE: usize = 512;

/// A block is squashed if at least one of so many changes is overwritten.
const WORTHWHILE: usize = 8;

/// `body` without overwritten changes; `None` if it is better left as it is.
///
/// `entry` tells the entry that a change sets: it may only be told for a change that alone decides what the entry is
/// from then on, whatever it was before. Changes of any other kind stay.
///
/// # Panics
/// If the blocks are not those of a builder.
#[must_use]
pub fn squash(body: &ChangeSetBody, entry: impl Fn(&[u8]) -> Option<&[u8]>) -> Option<ChangeSetBody> {
    let squashed: Vec<_> = body.blocks.iter().map(|block| squash_block(&block.bytes, body.range, &entry)).collect();
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

/// A block without overwritten changes, and how many those were; `None` if it is better left as it is.
fn squash_block(block: &[u8], range: SqnRange, entry: impl Fn(&[u8]) -> Option<&[u8]>) -> Option<(Bytes, usize)> {
    // By the entry: the index of its last change so far.
    let mut last: HashTable<(u64, usize, &[u8])> = HashTable::new();
    let (mut is_overwritten, mut overwritten) = (vec![], 0);
    for (_, change) in BlockReader::new(block, range).flat_map(|batch| batch.expect("it was built").changes) {
        let index = is_overwritten.len();
        is_overwritten.push(false);
        if let Some(entry) = entry(change) {
            let hash = xxh3_64(entry);
            match last.entry(hash, |(other, _, old)| *other == hash && *old == entry, |(hash, _, _)| *hash) {
                Entry::Occupied(mut found) => {
                    let before = std::mem::replace(&mut found.get_mut().1, index);
                    *is_overwritten.get_mut(before).expect("an earlier change") = true;
                    overwritten += 1;
                }
                Entry::Vacant(place) => _ = place.insert((hash, index, entry)),
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
        types::{KeyGroup, KeyGroupRange, Sqn},
    };

    /// A change that sets the entry of its first byte, if that is below 200.
    fn entry(change: &[u8]) -> Option<&[u8]> {
        change.get(..1).filter(|first| first.first().is_some_and(|byte| *byte < 200))
    }

    /// Changes of batches of three, in two parts; each has the entry that `of` tells for its number.
    fn body(changes: u32, of: impl Fn(u32) -> u8) -> ChangeSetBody {
        let parts = [(0, 63), (64, 127)].map(|(first, last)| KeyGroupRange::new(first, last).unwrap()).to_vec();
        let mut builder = ChangeSetBuilder::new(parts, SPLIT_BYTES / 16);
        for change in 0..changes {
            let sqn = Sqn(u64::from(change / 3) * 2 + 7);
            if change % 3 == 0 {
                builder.begin_batch(sqn, u64::from(change) * 10);
            }
            let entry = of(change);
            builder.push(KeyGroup(u16::from(entry % 128)), |out| {
                out.push(entry);
                out.extend(change.to_le_bytes());
            });
            if change % 3 == 2 || change == changes - 1 {
                builder.end_batch();
            }
        }
        builder.finish().unwrap()
    }

    /// All changes with sequence number and time, in order of the blocks.
    fn read(body: &ChangeSetBody) -> Vec<(Sqn, u64, KeyGroup, Vec<u8>)> {
        let batches = body.blocks.iter().flat_map(|block| BlockReader::new(&block.bytes, body.range));
        let changes = batches
            .map(Result::unwrap)
            .flat_map(|batch| batch.changes.map(move |(group, bytes)| (batch.sqn, batch.time, group, bytes.to_vec())));
        changes.collect()
    }

    #[test]
    fn only_the_last_change_of_an_entry_stays_and_all_changes_that_set_none() {
        // One in seven changes sets no entry.
        let body = body(10_000, |change| if change % 7 == 0 { 201 } else { (change * change % 193) as u8 });
        assert!(body.blocks.len() > 1);
        let squashed = squash(&body, entry).unwrap();
        let mut last = BTreeMap::new();
        for (index, (_, _, _, bytes)) in read(&body).iter().enumerate() {
            if let Some(entry) = entry(bytes) {
                last.insert(entry.to_vec(), index);
            }
        }
        let stays = |index: usize, bytes: &[u8]| entry(bytes).is_none_or(|entry| last.get(entry) == Some(&index));
        let all = read(&body).into_iter().enumerate();
        let expected: Vec<_> =
            all.filter(|(index, (_, _, _, bytes))| stays(*index, bytes)).map(|(_, change)| change).collect();
        assert_eq!(read(&squashed), expected);
        assert_eq!(squashed.changes, expected.len() as u64);
        assert_eq!(squashed.range, body.range);
        let groups = |body: &ChangeSetBody| body.blocks.iter().map(|block| block.key_groups).collect::<Vec<_>>();
        assert_eq!(groups(&squashed), groups(&body), "no key group loses its last change");
    }

    #[test]
    fn a_change_set_with_few_overwritten_changes_stays_as_it_is() {
        assert_eq!(squash(&body(150, |change| change as u8), entry), None);
        assert_eq!(squash(&body(150, |change| if change < 15 { 1 } else { change as u8 }), entry), None);
        assert_eq!(squash(&body(5_000, |_| 201), entry), None, "changes that set no entry");
        assert!(squash(&body(2, |_| 1), entry).is_some());
    }
}

//! Tests of the block codec.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::types::{KeyGroup, MAX_PARALLELISM_LIMIT, TimeMs};

/// A batch as plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plain {
    sqn: Sqn,
    time: TimeMs,
    changes: Vec<(KeyGroup, Vec<u8>)>,
}

fn build(builder: &mut BlockBuilder, batches: &[Plain]) -> Option<ChangeSetBody> {
    for batch in batches {
        builder.begin_batch(batch.sqn, batch.time);
        for (key_group, bytes) in &batch.changes {
            builder.push(*key_group, |out| out.extend_from_slice(bytes));
        }
        builder.end_batch();
    }
    builder.finish()
}

fn read(body: &ChangeSetBody) -> Vec<Plain> {
    BlockReader::new(&body.blocks[0].bytes, body.range)
        .map(|batch| {
            let Batch { sqn, time, changes } = batch.unwrap();
            let expected = changes.len();
            let changes: Vec<_> = changes.map(|(key_group, bytes)| (key_group, bytes.to_vec())).collect();
            assert_eq!(changes.len(), expected);
            Plain { sqn, time, changes }
        })
        .collect()
}

fn batches() -> impl Strategy<Value = Vec<Plain>> {
    let length = prop_oneof![6 => 0..40usize, 2 => 120..135usize, 1 => 16_370..16_400usize];
    let change =
        (0..1u16 << 15, length, any::<u8>()).prop_map(|(group, length, fill)| (KeyGroup(group), vec![fill; length]));
    let batch = (0..300u64, any::<u64>(), prop::collection::vec(change, 0..8));
    (0..1u64 << 60, prop::collection::vec(batch, 0..12)).prop_map(|(mut sqn, batches)| {
        let plain = batches.into_iter().map(|(gap, time, changes)| {
            sqn += gap + 1;
            Plain { sqn: Sqn(sqn), time, changes }
        });
        plain.collect()
    })
}

/// The history of each key group: sqn and time of each batch, and the change.
type Histories = BTreeMap<KeyGroup, Vec<(Sqn, TimeMs, Vec<u8>)>>;

fn histories(batches: &[Plain]) -> Histories {
    let mut histories = Histories::new();
    for Plain { sqn, time, changes } in batches {
        for (key_group, bytes) in changes {
            histories.entry(*key_group).or_default().push((*sqn, *time, bytes.clone()));
        }
    }
    histories
}

/// Compares change sets of `batches` with and without a split, in two change sets. Groups are moved into `range`, and
/// times made not to go back. One of every `operator` groups is that of operator state; 0 for none.
fn assert_split_like(range: KeyGroupRange, split_bytes: usize, operator: u16, mut batches: Vec<Plain>) {
    let width = range.count() as u16;
    let mut times: Vec<_> = batches.iter().map(|batch| batch.time >> 20).collect();
    times.sort_unstable();
    for (batch, time) in batches.iter_mut().zip(times) {
        batch.time = time;
        let is_operator = |group: u16| operator > 0 && group.is_multiple_of(operator);
        let moved =
            |group: u16| if is_operator(group) { KeyGroup::OPERATOR.0 } else { range.first().0 + group % width };
        batch.changes.iter_mut().for_each(|(group, _)| *group = KeyGroup(moved(group.0)));
    }
    let parts: Vec<_> = range.parts(MAX_PARALLELISM_LIMIT).collect();
    let (mut split, mut whole) = (ChangeSetBuilder::new(parts.clone(), split_bytes), BlockBuilder::new());
    let (first, second) = batches.split_at(batches.len() / 2);
    for set in [first, second] {
        for Plain { sqn, time, changes } in set {
            let before = split.len();
            split.begin_batch(*sqn, *time);
            changes.iter().for_each(|(group, bytes)| split.push(*group, |out| out.extend_from_slice(bytes)));
            assert_eq!(split.end_batch(), !changes.is_empty());
            assert!(split.len() >= before + usize::from(!changes.is_empty()));
        }
        let length = split.len();
        let mut keyed = set.to_vec();
        let is_operator = |group: &KeyGroup| *group == KeyGroup::OPERATOR;
        let changes = keyed.iter_mut().flat_map(|batch| &mut batch.changes);
        changes.filter(|(group, _)| is_operator(group)).for_each(|(group, _)| *group = range.first());
        let (body, expected) = (split.finish(), build(&mut whole, &keyed));
        assert_eq!((split.len(), split.is_empty()), (0, true));
        let (Some(body), Some(expected)) = (&body, &expected) else {
            assert_eq!(body, expected);
            continue;
        };
        assert_eq!((body.range, body.changes, body.length()), (expected.range, expected.changes, length as u64));
        let read = |block: &BlockBody| {
            read(&ChangeSetBody { blocks: vec![block.clone()], range: body.range, changes: body.changes })
        };
        let is_operator = |block: &&BlockBody| block.key_groups == KeyGroupRange::OPERATOR;
        let keyed = body.blocks.iter().filter(|block| !is_operator(block)).count();
        let has_operator = histories(set).contains_key(&KeyGroup::OPERATOR);
        assert_eq!(body.blocks.iter().filter(is_operator).count(), usize::from(has_operator), "a block of its own");
        if length < split_bytes {
            assert!(keyed <= 1);
        }
        let mut all = Histories::new();
        for block in &body.blocks {
            let of_block = histories(&read(block));
            assert_eq!(*of_block.first_key_value().unwrap().0, block.key_groups.first());
            assert_eq!(*of_block.last_key_value().unwrap().0, block.key_groups.last());
            assert!(all.last_key_value().is_none_or(|(last, _)| *last < block.key_groups.first()), "in order");
            let overlapping = parts.iter().filter(|part| part.overlaps(block.key_groups)).count();
            let is_whole = keyed == 1 && block.bytes.len() <= split_bytes;
            assert!(overlapping == 1 || is_whole || is_operator(&block), "in one part");
            all.extend(of_block);
        }
        assert_eq!(all, histories(set));
    }
}

proptest! {
    #[test]
    fn blocks_of_parts_have_together_what_one_block_has(
        batches in batches(), ends: (u16, u16), split_bytes in prop_oneof![0..400usize, 0..40_000usize], operator in 0..4u16,
    ) {
        let (first, last) = (u32::from(ends.0.min(ends.1) >> 1), u32::from(ends.0.max(ends.1) >> 1));
        assert_split_like(KeyGroupRange::new(first, last).unwrap(), split_bytes, operator, batches);
    }

    #[test]
    fn reads_back_what_was_built(first in batches(), second in batches()) {
        let mut builder = BlockBuilder::new();
        let highest = first.last().map_or(0, |batch| batch.sqn.0);
        let second: Vec<_> = second.into_iter().map(|b| Plain { sqn: Sqn(highest + 1 + b.sqn.0), ..b }).collect();
        for set in [first, second] {
            let kept: Vec<_> = set.iter().filter(|batch| !batch.changes.is_empty()).cloned().collect();
            let Some(body) = build(&mut builder, &set) else {
                prop_assert!(kept.is_empty());
                continue;
            };
            prop_assert_eq!(body.range.from, kept[0].sqn);
            prop_assert_eq!(body.range.to.0, kept.last().unwrap().sqn.0 + 1);
            let groups = || kept.iter().flat_map(|batch| batch.changes.iter().map(|change| change.0));
            prop_assert_eq!(body.blocks[0].key_groups.first(), groups().min().unwrap());
            prop_assert_eq!(body.blocks[0].key_groups.last(), groups().max().unwrap());
            prop_assert_eq!(body.changes, groups().count() as u64);
            prop_assert_eq!(read(&body), kept);
        }
    }

    #[test]
    fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), from: u64, length: u64) {
        let range = SqnRange { from: Sqn(from), to: Sqn(from.saturating_add(length)) };
        let mut seen = from;
        for batch in BlockReader::new(&bytes, range) {
            match batch {
                Ok(batch) => {
                    prop_assert!(range.contains(batch.sqn) && batch.sqn.0 >= seen);
                    seen = batch.sqn.0;
                    prop_assert_eq!(batch.changes.len(), batch.changes.count());
                }
                Err(error) => prop_assert!(error.offset <= bytes.len(), "{}", error),
            }
        }
    }

    #[test]
    fn every_truncation_loses_whole_batches_or_is_refused(set in batches(), cut in any::<prop::sample::Index>()) {
        let Some(body) = build(&mut BlockBuilder::new(), &set) else { return Ok(()) };
        let whole = read(&body);
        let cut = cut.index(body.blocks[0].bytes.len());
        let batches: Vec<_> = BlockReader::new(&body.blocks[0].bytes[..cut], body.range).collect();
        let good = batches.iter().filter(|batch| batch.is_ok()).count();
        prop_assert!(good < whole.len());
        prop_assert!(batches.iter().take(good).zip(&whole).all(|(read, whole)| read.as_ref().unwrap().sqn == whole.sqn));
    }
}

#[test]
fn an_empty_change_and_one_outside_of_all_parts_are_split_as_well() {
    let batch = |sqn, changes: &[(u16, usize)]| {
        let changes = changes.iter().map(|&(group, length)| (KeyGroup(group), vec![0; length])).collect();
        Plain { sqn: Sqn(sqn), time: 0, changes }
    };
    let range = |last| KeyGroupRange::new(0, last).unwrap();
    assert_split_like(range(0), 0, 2, vec![batch(1, &[(22, 0), (2_055, 0)])]);
    let batches = vec![batch(1, &[(560, 16_370)]), batch(2, &[(11_297, 0), (2_089, 0)]), batch(3, &[]), batch(4, &[])];
    assert_split_like(range(11_297), 9, 2, batches);
}

#[test]
fn consecutive_batches_of_short_changes_cost_three_bytes_each_and_two_per_change() {
    let change = |group: u16| (KeyGroup(group), vec![7; 20]);
    let sqn = Sqn::first_of(3);
    let set = [
        Plain { sqn, time: 0, changes: vec![change(0), change(126)] },
        Plain { sqn: sqn.next(), time: 50, changes: vec![change(5)] },
    ];
    let body = build(&mut BlockBuilder::new(), &set).unwrap();
    assert_eq!(body.blocks[0].bytes.len(), 2 * 3 + 3 * (2 + 20));
}

#[test]
fn a_long_change_after_short_ones_is_framed_like_any_other() {
    let lengths = [3, 200, 5, 20_000, 5, 3_000_000, 1];
    let changes: Vec<_> = lengths.iter().map(|length| (KeyGroup(1), vec![9; *length])).collect();
    let set = [Plain { sqn: Sqn(1), time: 1, changes }];
    assert_eq!(read(&build(&mut BlockBuilder::new(), &set).unwrap()), set);
}

#[test]
fn a_batch_without_changes_or_abandoned_leaves_no_trace() {
    let mut builder = BlockBuilder::new();
    builder.begin_batch(Sqn(1), 10);
    assert!(!builder.end_batch());
    builder.begin_batch(Sqn(1), 11);
    builder.push(KeyGroup(9), |out| out.push(1));
    builder.abandon_batch();
    assert!(builder.is_empty() && builder.finish().is_none());
    builder.begin_batch(Sqn(1), 12);
    builder.push(KeyGroup(4), |out| out.push(2));
    assert!(builder.end_batch());
    let body = builder.finish().unwrap();
    assert_eq!(body.blocks[0].key_groups, KeyGroupRange::new(4, 4).unwrap());
    assert_eq!(read(&body), [Plain { sqn: Sqn(1), time: 12, changes: vec![(KeyGroup(4), vec![2])] }]);
}

#[test]
fn a_batch_that_is_abandoned_after_the_split_leaves_no_trace() {
    let parts = KeyGroupRange::new(0, 127).unwrap().parts(128).collect();
    let mut builder = ChangeSetBuilder::new(parts, 50);
    let mut batch = |sqn, groups: &[u16], end| {
        builder.begin_batch(Sqn(sqn), sqn);
        groups.iter().for_each(|group| builder.push(KeyGroup(*group), |out| out.extend_from_slice(&[1; 20])));
        if end { _ = builder.end_batch() } else { builder.abandon_batch() }
    };
    batch(7, &[0, 40, 80, 120], false);
    batch(7, &[1, 2], true);
    batch(8, &[3, 100, 4], false);
    batch(8, &[99], true);
    let body = builder.finish().unwrap();
    assert_eq!(body.range, SqnRange { from: Sqn(7), to: Sqn(9) });
    let groups: Vec<_> =
        body.blocks.iter().map(|block| (block.key_groups.first().0, block.key_groups.last().0)).collect();
    assert_eq!(groups, [(1, 2), (99, 99)]);
    assert_eq!(body.changes, 3);
    assert!(builder.finish().is_none());
}

#[test]
fn operator_state_has_a_block_of_its_own_however_batches_mix_and_are_abandoned() {
    let operator = KeyGroup::OPERATOR.0;
    for split_bytes in [0, 50, 10_000] {
        let mut builder = ChangeSetBuilder::new(KeyGroupRange::new(0, 127).unwrap().parts(128).collect(), split_bytes);
        let mut batch = |sqn, groups: &[u16], end| {
            builder.begin_batch(Sqn(sqn), sqn);
            groups.iter().for_each(|group| builder.push(KeyGroup(*group), |out| out.extend_from_slice(&[1; 20])));
            if end { _ = builder.end_batch() } else { builder.abandon_batch() }
        };
        batch(7, &[operator, 3], false);
        batch(7, &[operator], true);
        batch(8, &[100, 3, operator, 4], true);
        batch(9, &[operator, 5], false);
        batch(9, &[4], true);
        let body = builder.finish().unwrap();
        assert_eq!((body.range, body.changes), (SqnRange { from: Sqn(7), to: Sqn(10) }, 6));
        let mut sqns = BTreeMap::<u16, Vec<u64>>::new();
        for block in &body.blocks {
            for batch in BlockReader::new(&block.bytes, body.range) {
                let batch = batch.unwrap();
                assert_eq!(batch.time, batch.sqn.0);
                batch.changes.for_each(|(group, _)| sqns.entry(group.0).or_default().push(batch.sqn.0));
            }
        }
        assert_eq!(sqns, [(3, vec![8]), (4, vec![8, 9]), (100, vec![8]), (operator, vec![7, 8])].into());
        assert_eq!(body.blocks.last().unwrap().key_groups, KeyGroupRange::OPERATOR);
        assert!(builder.finish().is_none());
    }
}

#[test]
fn errors_say_where_and_what() {
    let range = SqnRange { from: Sqn(10), to: Sqn(12) };
    let first_error = |bytes: &[u8]| BlockReader::new(bytes, range).find_map(Result::err).unwrap();
    let gap = BlockFault::Sqn { after: Sqn(10), gap: 2, to: Sqn(12) };
    let cases: [(&[u8], usize, BlockFault); 6] = [
        (&[2, 0, 1, 0, 0], 0, gap),
        (&[0, 0x80], 1, BlockFault::Varint),
        (&[0, 0, 0], 2, BlockFault::EmptyBatch),
        (&[0, 0, 1, 3, 7], 2, BlockFault::Length { length: 3, remaining: 1 }),
        (&[0, 0, 0x81, 0x80, 0x02, 0], 2, BlockFault::KeyGroup(32_768)),
        (&[0, 0, 1, 0], 4, BlockFault::Varint),
    ];
    for (bytes, offset, fault) in cases {
        assert_eq!(first_error(bytes), BlockError { offset, fault }, "{bytes:?}");
    }
}

#[test]
#[should_panic(expected = "is next")]
fn sequence_numbers_never_go_back() {
    let mut builder = BlockBuilder::new();
    build(&mut builder, &[Plain { sqn: Sqn(5), time: 0, changes: vec![(KeyGroup(0), vec![])] }]);
    builder.begin_batch(Sqn(5), 0);
}

//! Tests of the block codec.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;
use crate::types::{KeyGroup, TimeMs};

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
    BlockReader::new(&body.bytes, body.range)
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

proptest! {
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
            prop_assert_eq!(body.key_groups.first(), groups().min().unwrap());
            prop_assert_eq!(body.key_groups.last(), groups().max().unwrap());
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
        let cut = cut.index(body.bytes.len());
        let batches: Vec<_> = BlockReader::new(&body.bytes[..cut], body.range).collect();
        let good = batches.iter().filter(|batch| batch.is_ok()).count();
        prop_assert!(good < whole.len());
        prop_assert!(batches.iter().take(good).zip(&whole).all(|(read, whole)| read.as_ref().unwrap().sqn == whole.sqn));
    }
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
    assert_eq!(body.bytes.len(), 2 * 3 + 3 * (2 + 20));
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
    assert_eq!(body.key_groups, KeyGroupRange::new(4, 4).unwrap());
    assert_eq!(read(&body), [Plain { sqn: Sqn(1), time: 12, changes: vec![(KeyGroup(4), vec![2])] }]);
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

/// `cargo test --release --lib append_rate -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn append_rate() {
    let value = [7u8; 120];
    let mut builder = BlockBuilder::new();
    let start = std::time::Instant::now();
    let mut sqn = Sqn::first_of(1);
    let changes = 20_000_000u32;
    for _ in 0..changes / 500 {
        builder.begin_batch(sqn, 1_700_000_000_000);
        for group in 0..500u16 {
            builder.push(KeyGroup(group % 128), |out| out.extend_from_slice(&value));
        }
        builder.end_batch();
        sqn = sqn.next();
        if builder.len() > 5 << 20 {
            std::hint::black_box(builder.finish());
        }
    }
    println!("{:.1} M changes/s", f64::from(changes) / start.elapsed().as_secs_f64() / 1e6);
}

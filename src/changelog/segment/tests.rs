//! Tests of the segment format.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::{fs, path::PathBuf};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    changelog::block::{BlockBuilder, BlockReader, ChangeSetBuilder},
    types::{KeyGroup, Sqn},
};

fn id() -> SegmentId {
    SegmentId {
        job: Name::new("word-count").unwrap(),
        instance: Uuid::from_u128(0x0123_4567_89ab_cdef << 64 | 0xfedc),
        number: 42,
    }
}

fn set(operator: &str, subtask: u32, batches: u64) -> ChangeSet {
    let mut builder = BlockBuilder::new();
    let mut sqn = Sqn::first_of(u64::from(subtask) + 1);
    for batch in 0..batches {
        builder.begin_batch(sqn, 1_700_000_000_000 + 10 * batch);
        for change in 0..=batch {
            builder.push(KeyGroup(u16::try_from(subtask * 10 + 1).unwrap()), |out| {
                out.extend_from_slice(format!("{operator}: change {change} of batch {batch}").as_bytes());
            });
        }
        builder.end_batch();
        sqn = sqn.next();
    }
    let backend = BackendId { job: id().job, operator: Name::new(operator).unwrap(), subtask };
    ChangeSet { backend, epoch: u64::from(subtask) + 1, body: builder.finish().unwrap() }
}

fn sets() -> Vec<ChangeSet> {
    vec![set("count", 0, 5), set("count", 1, 1), set("windows", 0, 12)]
}

/// A change set of three quarters of 128 key groups, between two of one block.
fn sets_of_several_blocks() -> Vec<ChangeSet> {
    let mut builder = ChangeSetBuilder::new(KeyGroupRange::new(0, 127).unwrap().parts(128).collect(), 300);
    let mut sqn = Sqn::first_of(2);
    for batch in 0..12_u16 {
        builder.begin_batch(sqn, 1_700_000_000_000 + 10 * u64::from(batch));
        for change in 0..=batch {
            let group = KeyGroup(32 + (7 * batch + 11 * change) % 96);
            builder.push(group, |out| out.extend_from_slice(format!("{} of {batch}", group.0).as_bytes()));
        }
        builder.end_batch();
        sqn = sqn.next();
    }
    let middle = ChangeSet { body: builder.finish().unwrap(), ..set("count", 1, 1) };
    assert_eq!(middle.body.blocks.len(), 3);
    vec![set("count", 0, 2), middle, set("windows", 0, 2)]
}

fn encoded(compression: Compression) -> (Bytes, Vec<SegmentHandle>) {
    let EncodedSegment { payload, handles, bytes } = encode(id(), &sets(), compression);
    assert_eq!(payload.content_length() as u64, bytes);
    (payload.into(), handles)
}

fn stored(bytes: &Bytes, block: &BlockHandle) -> Bytes {
    let range = block.stored_range().unwrap();
    bytes.slice(range.start as usize..range.end as usize)
}

fn assert_holds_the_sets(bytes: &Bytes) {
    let index = verify(bytes).unwrap();
    assert_eq!((index.instance, index.number), (id().instance, 42));
    assert_eq!(index.sets.len(), 3);
    for (indexed, set) in index.sets.iter().zip(sets()) {
        assert_eq!(indexed.backend(&id().job), set.backend);
        assert_eq!((indexed.epoch, indexed.range), (set.epoch, set.body.range));
        assert_eq!(indexed.changes, set.body.changes);
        let [block] = indexed.blocks.as_slice() else { panic!("one block per set") };
        assert_eq!(block.key_groups, set.body.blocks[0].key_groups);
        assert_eq!(open_block(block, &stored(bytes, block)).unwrap(), set.body.blocks[0].bytes);
    }
}

/// Compares with the golden bytes, or writes them if there are none (delete a fixture to make it again).
fn fixture(name: &str, now: &Bytes) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    if !path.exists() {
        fs::write(&path, now).unwrap();
    }
    fs::read(path).unwrap().into()
}

#[test]
fn the_bytes_of_version_1_are_golden() {
    let (now, _) = encoded(Compression::None);
    assert_eq!(fixture("segment-v1-none.bin", &now), now);
    for (name, compression) in [("segment-v1-lz4.bin", Compression::Lz4), ("segment-v1-zstd.bin", Compression::Zstd)] {
        let golden = fixture(name, &encoded(compression).0);
        assert_holds_the_sets(&golden);
        assert!(decode_index(&golden).unwrap().sets.iter().any(|set| set.blocks[0].compression == compression));
    }
}

#[test]
fn the_bytes_of_a_change_set_of_several_blocks_are_golden() {
    let sets = sets_of_several_blocks();
    let EncodedSegment { payload, handles, .. } = encode(id(), &sets, Compression::None);
    let now: Bytes = payload.into();
    let golden = fixture("segment-v1-blocks.bin", &now);
    assert_eq!(golden, now);
    let index = verify(&golden).unwrap();
    assert_eq!(index.sets.iter().map(|set| set.handle(&id())).collect::<Vec<_>>(), handles);
    for (handle, set) in handles.iter().zip(&sets) {
        let contents: Vec<_> = handle.blocks.iter().map(|b| open_block(b, &stored(&golden, b)).unwrap()).collect();
        assert_eq!(contents, set.body.blocks.iter().map(|block| block.bytes.clone()).collect::<Vec<_>>());
        assert_eq!(handle.stored_bytes, set.body.length());
        assert_eq!((handle.range, handle.changes), (set.body.range, set.body.changes));
    }
}

#[test]
fn handles_agree_with_the_index_and_lead_to_the_change_sets() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let (bytes, handles) = encoded(compression);
        assert_holds_the_sets(&bytes);
        let indexed: Vec<_> = decode_index(&bytes).unwrap().sets.iter().map(|set| set.handle(&id())).collect();
        assert_eq!(indexed, handles);
        for (handle, set) in handles.iter().zip(sets()) {
            let contents = open_block(&handle.blocks[0], &stored(&bytes, &handle.blocks[0])).unwrap();
            let changes = BlockReader::new(&contents, handle.range).map(|batch| batch.unwrap().changes.len());
            assert_eq!(changes.sum::<usize>() as u64, set.body.changes);
        }
    }
}

#[test]
fn uncompressed_blocks_are_not_copied() {
    let sets = sets();
    let payload = encode(id(), &sets, Compression::None).payload;
    for (part, set) in payload.iter().skip(1).zip(&sets) {
        assert_eq!(part.as_ptr(), set.body.blocks[0].bytes.as_ptr());
    }
}

#[test]
fn every_flipped_bit_and_every_truncation_is_detected() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let (bytes, _) = encoded(compression);
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1 << (at % 8);
            let error = verify(&damaged.into()).unwrap_err();
            assert!(error.offset() <= at as u64 || at >= bytes.len() - TRAILER_BYTES, "bit of byte {at}: {error}");
            assert!(verify(&bytes.slice(..at)).is_err(), "cut at {at}");
        }
    }
}

#[test]
fn a_damaged_block_is_named() {
    let (bytes, handles) = encoded(Compression::None);
    let block = handles[1].blocks[0];
    let mut damaged = bytes.to_vec();
    damaged[block.offset as usize + 3] ^= 4;
    match verify(&damaged.into()).unwrap_err() {
        SegmentError::Checksum { part: "a block", offset, expected, .. } => {
            assert_eq!((offset, expected), (block.offset, block.crc));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_later_version_is_refused_by_its_number() {
    let (bytes, _) = encoded(Compression::None);
    let mut later = bytes.to_vec();
    later[8] = 2;
    assert_eq!(verify(&later.into()), Err(SegmentError::Version(2)));
}

proptest! {
    #[test]
    fn garbage_between_right_ends_is_refused_without_a_panic(
        index in prop::collection::vec(any::<u8>(), 0..120),
        blocks in 0..50usize,
        few in any::<bool>(),
    ) {
        let empty = encode(id(), &[], Compression::None);
        let mut bytes = Bytes::from(empty.payload)[..HEADER_BYTES].to_vec();
        bytes.resize(HEADER_BYTES + blocks, 7);
        let mut index = index;
        if few {
            index.splice(0..0, [1, 0, 0, 0, 1, b'a']);
        }
        bytes.extend_from_slice(&index);
        bytes.extend_from_slice(&((HEADER_BYTES + blocks) as u64).to_le_bytes());
        bytes.extend_from_slice(&(index.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&index).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.extend_from_slice(END_MAGIC);
        if let Ok(index) = verify(&bytes.into()) {
            prop_assert!(index.sets.is_empty());
        }
    }
}

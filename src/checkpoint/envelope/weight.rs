//! Estimates the memory of a message from its bytes, before it is decoded. Pure.
//!
//! An empty element of a list takes two bytes of an object, and about a hundred bytes of memory once it is decoded. So
//! four mebibytes of empty elements would take hundreds of mebibytes of memory. Writers never make such objects:
//! [`PER_BYTE`].

use std::mem::size_of;

use bytes::Bytes;
use prost::encoding::{WireType, decode_key, decode_varint};

use super::Kind;
use crate::proto::store;

/// Most bytes of memory for each byte of an object. Of all that writers make, a state with a name of one byte takes
/// most: some 25.
const PER_BYTE: usize = 32;

/// Bytes of memory that any object may take, however short it is.
const ALWAYS: usize = 64 << 10;

/// A field whose elements take more memory than bytes.
struct Field {
    number: u32,
    /// Memory of one element, without the elements inside it.
    bytes: usize,
    below: &'static [Field],
}

const fn field<T>(number: u32, below: &'static [Field]) -> Field {
    Field { number, bytes: size_of::<T>(), below }
}

const RUN: &[Field] =
    &[field::<store::PageRef>(2, &[]), field::<store::SegmentHandle>(3, &[field::<store::Block>(6, &[])])];

const IMPORT: &[Field] = &[
    field::<store::ImportedState>(5, &[]),
    field::<store::Run>(7, RUN),
    field::<store::Source>(8, &[]),
    field::<store::PageRef>(9, &[]),
];

const MANIFEST: &[Field] = &[
    field::<store::EpochRecord>(
        12,
        &[field::<store::Source>(6, &[]), field::<Bytes>(8, &[]), field::<store::PageRef>(15, &[])],
    ),
    field::<store::State>(13, &[]),
    field::<store::Run>(14, RUN),
    field::<store::Checkpoint>(15, &[]),
    field::<store::Materialization>(20, &[]),
    field::<store::Import>(22, IMPORT),
];

const PAGE: &[Field] = &[
    field::<store::PageRef>(2, &[]),
    field::<store::SegmentHandle>(3, &[field::<store::Block>(6, &[])]),
    field::<store::Stretch>(4, &[field::<store::Run>(2, RUN)]),
    field::<store::Attachment>(8, &[]),
];

const JOB_RECORD: &[Field] = &[
    field::<store::SpoiltCheckpoint>(4, &[]),
    field::<store::JobDeclaration>(7, &[field::<store::DeclaredOperator>(1, &[])]),
    field::<String>(8, &[]),
    field::<store::JobCommit>(9, &[field::<store::CommittedOperator>(2, &[field::<store::CheckpointName>(2, &[])])]),
    field::<store::JobCheckpoint>(10, &[]),
];

const BASE_INDEX: &[Field] = &[
    field::<store::SnapshotFile>(1, &[]),
    field::<store::Piece>(2, &[]),
    field::<store::Image>(3, &[field::<store::ImageFile>(4, &[])]),
];

const PIN: &[Field] = &[field::<store::Import>(3, IMPORT)];

/// Whether a message of `kind` takes no more memory than an object of its length may.
pub(super) fn is_bearable(kind: Kind, message: &[u8]) -> bool {
    let fields = match kind {
        Kind::Manifest => MANIFEST,
        Kind::Page => PAGE,
        Kind::JobRecord => JOB_RECORD,
        Kind::BaseIndex => BASE_INDEX,
        Kind::Pin => PIN,
        Kind::Report | Kind::Handle => &[],
    };
    weight(message, fields) <= ALWAYS.saturating_add(message.len().saturating_mul(PER_BYTE))
}

/// The memory of the elements of `fields` in `message`. Bytes that are not a message count up to the fault; decoding
/// refuses them.
fn weight(mut message: &[u8], fields: &[Field]) -> usize {
    let mut weight = 0_usize;
    // Walks the message without decoding it, so it takes no memory itself. The recursion below is as deep as the
    // constant tables, and not as deep as the message.
    while let Ok((number, wire)) = decode_key(&mut message) {
        let length = match wire {
            WireType::Varint => decode_varint(&mut message).ok().map(|_| 0),
            WireType::SixtyFourBit => Some(8),
            WireType::ThirtyTwoBit => Some(4),
            WireType::LengthDelimited => decode_varint(&mut message).ok(),
            // No version writes groups, and decoding would skip a group without a look at its contents.
            WireType::StartGroup | WireType::EndGroup => return usize::MAX,
        };
        let length = length.and_then(|length| usize::try_from(length).ok());
        let Some((element, rest)) = length.and_then(|length| message.split_at_checked(length)) else { break };
        message = rest;
        if let Some(field) = fields.iter().find(|field| field.number == number && wire == WireType::LengthDelimited) {
            // Per element and not per byte: an empty element takes two bytes here and a whole struct in memory.
            weight = weight.saturating_add(field.bytes);
            // An element without heavy fields may be a string, whose bytes are not a message.
            if !field.below.is_empty() {
                weight = weight.saturating_add(self::weight(element, field.below));
            }
        }
    }
    weight
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn empty_elements_are_too_many_whatever_stands_before_them() {
        let empties = |tag: u8, count: usize| [tag, 0].repeat(count);
        // Field 15 of a manifest is a checkpoint; field 100 is unknown: a varint, four bytes, eight bytes, bytes, a
        // group.
        let prefixes: [&[u8]; 6] = [
            &[],
            &[0xa0, 6, 1],
            &[0xa5, 6, 0, 0, 0, 0],
            &[0xa1, 6, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0xa2, 6, 1, 7],
            &[0xa3, 6, 0xa4, 6],
        ];
        for prefix in prefixes {
            let message = [prefix, &empties(0x7a, 100_000)].concat();
            assert!(store::Manifest::decode(&message[..]).is_ok(), "{prefix:?}: it is a message");
            assert!(!is_bearable(Kind::Manifest, &message), "{prefix:?}");
        }
        assert!(!is_bearable(Kind::BaseIndex, &empties(0x12, 100_000)), "pieces");
        let nested = store::Stretch { source: None, run: Some(store::Run::default()) };
        let page = store::Page { past: vec![nested], ..store::Page::default() };
        assert!(is_bearable(Kind::Page, &page.encode_to_vec()));
        let run = store::Run { pages: vec![store::PageRef::default(); 100_000], ..store::Run::default() };
        let past = vec![store::Stretch { source: None, run: Some(run) }];
        assert!(
            !is_bearable(Kind::Page, &store::Page { past, ..store::Page::default() }.encode_to_vec()),
            "page references"
        );
    }

    #[test]
    fn the_smallest_elements_that_writers_make_are_bearable() {
        let state = |id| store::State { id, name: "s".to_owned(), kind: 1, ..store::State::default() };
        let source = |epoch| store::Source { epoch, from: 1, to: 2 };
        let epochs =
            vec![store::EpochRecord { sources: (1..10_000).map(source).collect(), ..store::EpochRecord::default() }];
        let manifest =
            store::Manifest { states: (1..10_000).map(state).collect(), epochs, ..store::Manifest::default() };
        assert!(is_bearable(Kind::Manifest, &manifest.encode_to_vec()));
    }
}

//! The index of a materialization: which piece of the state lies where, and at which sqn it was copied.
//!
//! An [`super::envelope`] around `BaseIndex` of `proto/dstl/store/v1/manifest.proto`, one object per
//! materialization. The pieces cover every (state, key group, stable hash) exactly once, empty ones included, so a replay can
//! decide of each change whether its piece has it already: it has every change below its sqn.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    envelope::{self, EnvelopeError, Kind},
    manifest::{
        SnapshotFile,
        codec::{decode_file, encode_file},
    },
};
use crate::{
    changelog::compression::{Compression, CompressionError},
    proto::store,
    types::{HashRange, KeyGroup, KeyGroupRange, Sqn, StateId},
};

/// One slice of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Of this state,
    pub state: StateId,
    /// these key groups (more than one only where nothing is stored),
    pub key_groups: KeyGroupRange,
    /// and these stable hashes.
    pub hashes: HashRange,
    /// It holds every change below this.
    pub sqn: Sqn,
    /// Where its contents lie; `None` where nothing is stored.
    pub block: Option<PieceBlock>,
}

/// Where the contents of a piece lie, and how to check them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceBlock {
    /// The object.
    pub file: SnapshotFile,
    /// Bytes from its start.
    pub offset: u64,
    /// Bytes as stored.
    pub stored_length: u32,
    /// Bytes after decompression.
    pub length: u32,
    /// CRC-32 of the stored bytes.
    pub crc: u32,
    /// How it is stored.
    pub compression: Compression,
    /// Number of changes.
    pub changes: u64,
}

/// Why stored bytes are not the piece that they should be.
#[derive(Debug, thiserror::Error)]
pub enum PieceError {
    /// Fewer or more bytes than recorded.
    #[error("{actual} bytes of a piece, {expected} recorded")]
    Length {
        /// As recorded.
        expected: usize,
        /// As found.
        actual: usize,
    },
    /// Damaged.
    #[error("the checksum of a piece is {actual:08x}, {expected:08x} recorded")]
    Checksum {
        /// As recorded.
        expected: u32,
        /// As computed.
        actual: u32,
    },
    /// Cannot be decompressed.
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

impl PieceBlock {
    /// Verifies and decompresses the contents of a piece.
    ///
    /// # Errors
    /// If `stored` is not what was written.
    pub fn open(&self, stored: &Bytes) -> Result<Bytes, PieceError> {
        if stored.len() != self.stored_length as usize {
            return Err(PieceError::Length { expected: self.stored_length as usize, actual: stored.len() });
        }
        let actual = crc32fast::hash(stored);
        if actual != self.crc {
            return Err(PieceError::Checksum { expected: self.crc, actual });
        }
        Ok(self.compression.decompress(stored, self.length as usize)?)
    }
}

/// All pieces of one materialization.
///
/// Invariant: those of one (state, key group) cover all hashes without gap or overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseIndex {
    /// By (state, key group), each in order of hashes.
    pieces: BTreeMap<(StateId, KeyGroup), Vec<Piece>>,
}

impl BaseIndex {
    /// An index of `pieces`.
    ///
    /// # Errors
    /// If they leave a gap or overlap.
    pub fn new(pieces: impl IntoIterator<Item = Piece>) -> Result<Self, &'static str> {
        let mut index = Self::default();
        for piece in pieces {
            for group in piece.key_groups.iter() {
                let one = KeyGroupRange::new(group.0.into(), group.0.into()).expect("a key group is in range");
                let of_group = Piece { key_groups: one, ..piece.clone() };
                index.pieces.entry((piece.state, group)).or_default().push(of_group);
            }
        }
        for pieces in index.pieces.values_mut() {
            pieces.sort_by_key(|piece| piece.hashes.first);
            let mut next = Some(0);
            for piece in &*pieces {
                if next != Some(piece.hashes.first) || piece.hashes.last < piece.hashes.first {
                    return Err("pieces leave a gap or overlap");
                }
                next = piece.hashes.last.checked_add(1);
            }
            if next.is_some() {
                return Err("pieces leave a gap or overlap");
            }
        }
        Ok(index)
    }

    /// The piece that covers a place; `None` for a state or key group that the materialization does not have.
    #[must_use]
    pub fn find(&self, state: StateId, group: KeyGroup, hash: u64) -> Option<&Piece> {
        let pieces = self.pieces.get(&(state, group))?;
        pieces.get(pieces.partition_point(|piece| piece.hashes.last < hash))
    }

    /// Every piece with contents, by state and key group.
    pub fn stored(&self) -> impl Iterator<Item = (&Piece, &PieceBlock)> {
        self.pieces.values().flatten().filter_map(|piece| Some((piece, piece.block.as_ref()?)))
    }

    /// Every object that holds a piece, with the bytes of it that are in use.
    #[must_use]
    pub fn files(&self) -> BTreeMap<SnapshotFile, u64> {
        let mut files = BTreeMap::new();
        for (_, block) in self.stored() {
            *files.entry(block.file.clone()).or_default() += u64::from(block.stored_length);
        }
        files
    }

    /// Lowest and highest sqn of its pieces; `None` without any.
    #[must_use]
    pub fn sqns(&self) -> Option<(Sqn, Sqn)> {
        let sqns = || self.pieces.values().flatten().map(|piece| piece.sqn);
        Some((sqns().min()?, sqns().max()?))
    }

    /// The index as an object.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let files: Vec<SnapshotFile> = self.files().into_keys().collect();
        let mut pieces: Vec<store::Piece> = vec![];
        for ((state, group), found) in &self.pieces {
            for piece in found {
                let group = u32::from(group.0);
                // An empty piece of the key group before goes on here.
                if let Some(last) = pieces.last_mut()
                    && piece.block.is_none()
                    && piece.hashes == HashRange::ALL
                    && last.block.is_none()
                    && (last.state, last.sqn, last.key_group_last + 1) == (state.0, piece.sqn.0, group)
                    && (last.hash_first, last.hash_last) == (0, u64::MAX)
                {
                    last.key_group_last = group;
                    continue;
                }
                pieces.push(store::Piece {
                    state: state.0,
                    key_group_first: group,
                    key_group_last: group,
                    hash_first: piece.hashes.first,
                    hash_last: piece.hashes.last,
                    sqn: piece.sqn.0,
                    block: piece.block.as_ref().map(|block| encode_block(&files, block)),
                });
            }
        }
        envelope::seal(Kind::BaseIndex, &store::BaseIndex { files: files.iter().map(encode_file).collect(), pieces })
    }

    /// Reads an index.
    ///
    /// # Errors
    /// If the bytes are damaged or the pieces do not cover their key groups.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let message: store::BaseIndex = envelope::open(Kind::BaseIndex, bytes)?;
        let contents = |what: &'static str| EnvelopeError::Contents(what.to_owned());
        let files = message.files.iter().map(decode_file).collect::<Result<Vec<_>, _>>().map_err(contents)?;
        let pieces = message.pieces.iter().map(|piece| decode_piece(&files, piece));
        let pieces = pieces.collect::<Result<Vec<_>, _>>().map_err(contents)?;
        Self::new(pieces).map_err(contents)
    }
}

fn encode_block(files: &[SnapshotFile], block: &PieceBlock) -> store::PieceBlock {
    let file = files.binary_search(&block.file).expect("the files are those of the pieces");
    store::PieceBlock {
        file: u32::try_from(file).expect("a materialization has far fewer files"),
        offset: block.offset,
        stored_bytes: block.stored_length,
        raw_bytes: block.length,
        crc: block.crc,
        compression: block.compression.code().into(),
        changes: block.changes,
    }
}

fn decode_piece(files: &[SnapshotFile], piece: &store::Piece) -> Result<Piece, &'static str> {
    let block = |block: &store::PieceBlock| {
        let compression = u8::try_from(block.compression).ok().and_then(Compression::from_code);
        Ok::<_, &'static str>(PieceBlock {
            file: files.get(block.file as usize).ok_or("a piece in a file that is not listed")?.clone(),
            offset: block.offset,
            stored_length: block.stored_bytes,
            length: block.raw_bytes,
            crc: block.crc,
            compression: compression.ok_or("an unknown compression")?,
            changes: block.changes,
        })
    };
    Ok(Piece {
        state: StateId(piece.state),
        key_groups: KeyGroupRange::new(piece.key_group_first, piece.key_group_last)
            .map_err(|_| "a malformed range of key groups")?,
        hashes: HashRange { first: piece.hash_first, last: piece.hash_last },
        sqn: Sqn(piece.sqn),
        block: piece.block.as_ref().map(block).transpose()?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::types::Name;

    fn piece(group: u32, first: u64, last: u64, sqn: u64, stored: bool) -> Piece {
        let file = SnapshotFile { instance: Uuid::from_u128(7), name: Name::new("1.pieces").unwrap(), bytes: 100 };
        let block = PieceBlock {
            file,
            offset: 16,
            stored_length: 40,
            length: 80,
            crc: 3,
            compression: Compression::Lz4,
            changes: 2,
        };
        Piece {
            state: StateId(1),
            key_groups: KeyGroupRange::new(group, group).unwrap(),
            hashes: HashRange { first, last },
            sqn: Sqn(sqn),
            block: stored.then_some(block),
        }
    }

    #[test]
    fn finds_the_piece_of_every_hash_and_survives_its_bytes() {
        let mut pieces = vec![piece(3, 0, 99, 5, true), piece(3, 100, u64::MAX, 6, false)];
        pieces.extend((4..100).map(|group| piece(group, 0, u64::MAX, 9, false)));
        let index = BaseIndex::new(pieces).unwrap();
        let sqn = |group, hash| index.find(StateId(1), KeyGroup(group), hash).map(|piece| piece.sqn.0);
        assert_eq!((sqn(3, 0), sqn(3, 99), sqn(3, 100), sqn(3, u64::MAX)), (Some(5), Some(5), Some(6), Some(6)));
        assert_eq!((sqn(50, 7), sqn(100, 7)), (Some(9), None));
        assert_eq!(index.sqns(), Some((Sqn(5), Sqn(9))));
        assert_eq!(index.files().into_values().collect::<Vec<_>>(), [40]);
        let bytes = index.encode();
        assert!(bytes.len() < 250, "{} bytes: empty pieces are joined", bytes.len());
        assert_eq!(BaseIndex::decode(&bytes).unwrap(), index);
    }

    #[test]
    fn refuses_gaps_and_overlaps() {
        for pieces in [
            vec![piece(3, 0, 98, 5, true), piece(3, 100, u64::MAX, 6, true)],
            vec![piece(3, 0, 100, 5, true), piece(3, 100, u64::MAX, 6, true)],
            vec![piece(3, 0, 100, 5, true)],
            vec![piece(3, 1, u64::MAX, 5, true)],
        ] {
            assert!(BaseIndex::new(pieces).is_err());
        }
    }
}

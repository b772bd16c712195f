//! The index of a materialization: where each part of the state lies, and at which sqn it was copied.
//!
//! An [`super::envelope`] around `BaseIndex` of `proto/dstl/store/v1/manifest.proto`, one object per materialization.
//! Pieces (of a backend in memory) cover every (state, key group, stable hash) exactly once, empty ones included.
//! Images (of a backend on local disk) cover every key group exactly once; beside them there are only pieces of
//! operator state. A piece or image has every change below its sqn. So a replay can decide for each change whether the
//! base has it already.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    envelope::{self, EnvelopeError, Kind},
    manifest::{
        Materialization, SnapshotFile,
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
    /// The state that it is a part of.
    pub state: StateId,
    /// The key groups that it covers; more than one only if it is empty.
    pub key_groups: KeyGroupRange,
    /// The stable hashes that it covers.
    pub hashes: HashRange,
    /// The piece has every change below this sqn.
    pub sqn: Sqn,
    /// Where its contents lie; `None` if it is empty.
    pub block: Option<PieceBlock>,
}

/// Where the contents of a piece lie, and how to check them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceBlock {
    /// The object that has the contents.
    pub file: SnapshotFile,
    /// Offset of the contents in the object, in bytes.
    pub offset: u64,
    /// Length in the object, in bytes.
    pub stored_length: u32,
    /// Length after decompression, in bytes.
    pub length: u32,
    /// CRC-32 of the stored bytes.
    pub crc: u32,
    /// Compression of the stored bytes.
    pub compression: Compression,
    /// Number of changes in the contents.
    pub changes: u64,
}

/// A fault of a stored piece.
#[derive(Debug, thiserror::Error)]
pub enum PieceError {
    /// The number of bytes differs from the recorded one.
    #[error("{actual} bytes of a piece, {expected} recorded")]
    Length {
        /// The recorded number of bytes.
        expected: usize,
        /// The number of bytes that was found.
        actual: usize,
    },
    /// The bytes are damaged.
    #[error("the checksum of a piece is {actual:08x}, {expected:08x} recorded")]
    Checksum {
        /// The recorded checksum.
        expected: u32,
        /// The checksum of the bytes that were found.
        actual: u32,
    },
    /// The bytes cannot be decompressed.
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

impl PieceBlock {
    /// Verifies and decompresses the contents of a piece.
    ///
    /// # Errors
    /// If `stored` differs from the bytes that were written.
    pub fn open(&self, stored: &Bytes) -> Result<Bytes, PieceError> {
        if stored.len() != self.stored_length as usize {
            return Err(PieceError::Length { expected: self.stored_length as usize, actual: stored.len() });
        }
        let actual = crc32fast::hash(stored);
        // Before decompression, so that no decoder sees bytes that were not written here.
        if actual != self.crc {
            return Err(PieceError::Checksum { expected: self.crc, actual });
        }
        Ok(self.compression.decompress(stored, self.length as usize)?)
    }
}

/// All states of some key groups, as files of an inner backend's local store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The key groups that it covers.
    pub key_groups: KeyGroupRange,
    /// The image has every change below this sqn.
    pub sqn: Sqn,
    /// Its files, in order of their local names.
    pub files: Vec<StoredFile>,
    /// Estimated number of state changes that would rebuild it.
    pub changes: u64,
}

/// A local file that is stored as a whole object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its name in the local store. During one life of that store a name always stands for the same bytes.
    pub local: String,
    /// The object that has its bytes.
    pub file: SnapshotFile,
    /// CRC-32 of its bytes.
    pub crc: u32,
}

impl Piece {
    /// Joins an empty piece with an empty piece of the next key group, if both have the same sqn. Returns whether it
    /// did. A state has a piece for each of its key groups; with thousands of states there are millions, and most are
    /// empty.
    pub fn join(&mut self, next: &Self) -> bool {
        let is_whole = |piece: &Self| piece.block.is_none() && piece.hashes == HashRange::ALL;
        let follows = u32::from(self.key_groups.last().0) + 1 == u32::from(next.key_groups.first().0);
        if (self.state, self.sqn) != (next.state, next.sqn) || !follows || !is_whole(self) || !is_whole(next) {
            return false;
        }
        let (first, last) = (self.key_groups.first().0, next.key_groups.last().0);
        // Only for empty pieces of the same sqn, so no reader can tell the joined piece from the two.
        self.key_groups = KeyGroupRange::new(first.into(), last.into()).expect("the ranges follow each other");
        true
    }
}

/// All pieces and images of one materialization.
///
/// Invariants: the pieces of one (state, key group) cover all hashes without gap or overlap; no two images overlap;
/// beside images there are pieces of operator state alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseIndex {
    /// The pieces of each state, in order of key groups and hashes. A piece covers several key groups only if it is
    /// empty.
    pieces: BTreeMap<StateId, Vec<Piece>>,
    /// The images, in order of key groups.
    images: Vec<Image>,
}

impl BaseIndex {
    /// An index of `pieces`.
    ///
    /// # Errors
    /// If they leave a gap or overlap.
    pub fn new(pieces: impl IntoIterator<Item = Piece>) -> Result<Self, &'static str> {
        let mut index = Self::default();
        for piece in pieces {
            index.pieces.entry(piece.state).or_default().push(piece);
        }
        for pieces in index.pieces.values_mut() {
            pieces.sort_by_key(|piece| (piece.key_groups.first(), piece.hashes.first));
            // Before the check, which then has few pieces to look at.
            pieces.dedup_by(|next, last| last.join(next));
            check(pieces)?;
        }
        Ok(index)
    }

    /// Adds `images` to the index.
    ///
    /// # Errors
    /// If images overlap, or there are pieces of keyed state.
    pub fn with_images(self, images: impl IntoIterator<Item = Image>) -> Result<Self, &'static str> {
        let mut images: Vec<Image> = images.into_iter().collect();
        images.sort_by_key(|image| image.key_groups.first());
        // Sorted by their beginnings, so each has to end before the next begins.
        if !images.is_sorted_by(|a, b| a.key_groups.last() < b.key_groups.first()) {
            return Err("images overlap");
        }
        let is_keyed = |piece: &Piece| piece.key_groups != KeyGroupRange::OPERATOR;
        if !images.is_empty() && self.pieces.values().flatten().any(is_keyed) {
            return Err("pieces of keyed state beside images");
        }
        Ok(Self { images, ..self })
    }

    /// Its images, in order of key groups.
    #[must_use]
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// The sqn below which the base has every change of a place; `None` for a state or key group that it does not have.
    #[must_use]
    pub fn covered_to(&self, state: StateId, group: KeyGroup, hash: u64) -> Option<Sqn> {
        // Images first: beside images there are only pieces of operator state, whose key group no image contains.
        let image = self.images.iter().find(|image| image.key_groups.contains(group));
        image.map(|image| image.sqn).or_else(|| self.find(state, group, hash).map(|piece| piece.sqn))
    }

    /// Stored bytes, and state changes, of all pieces and images together.
    #[must_use]
    pub fn extent(&self) -> (u64, u64) {
        let pieces = self.stored().map(|(_, block)| (u64::from(block.stored_length), block.changes));
        let of_image = |image: &Image| {
            let bytes = image.files.iter().map(|stored| stored.file.bytes);
            (bytes.fold(0, u64::saturating_add), image.changes)
        };
        let sum = |(bytes, changes): (u64, u64), (more, others): (u64, u64)| {
            (bytes.saturating_add(more), changes.saturating_add(others))
        };
        pieces.chain(self.images.iter().map(of_image)).fold((0, 0), sum)
    }

    /// The piece that covers a place; `None` for a state or key group that the materialization does not have.
    #[must_use]
    pub fn find(&self, state: StateId, group: KeyGroup, hash: u64) -> Option<&Piece> {
        let pieces = self.pieces.get(&state)?;
        // Pieces are in order of their ends, too, since they do not overlap.
        let before = |piece: &Piece| (piece.key_groups.last(), piece.hashes.last) < (group, hash);
        pieces.get(pieces.partition_point(before)).filter(|piece| piece.key_groups.contains(group))
    }

    /// Every piece, by state and key group.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.pieces.values().flatten()
    }

    /// Every piece with contents, by state and key group.
    pub fn stored(&self) -> impl Iterator<Item = (&Piece, &PieceBlock)> {
        self.pieces.values().flatten().filter_map(|piece| Some((piece, piece.block.as_ref()?)))
    }

    /// Every object that has a piece or is a file of an image, with the number of its bytes that are in use.
    #[must_use]
    pub fn files(&self) -> BTreeMap<SnapshotFile, u64> {
        let whole = self.images.iter().flat_map(|image| &image.files);
        let mut files: BTreeMap<_, _> = whole.map(|stored| (stored.file.clone(), stored.file.bytes)).collect();
        for (_, block) in self.stored() {
            // A file of an earlier materialization may have pieces that this one does not use, so only the used bytes
            // count.
            let used = files.entry(block.file.clone()).or_default();
            *used = used.saturating_add(block.stored_length.into());
        }
        files
    }

    /// The lowest and the highest sqn of its pieces and images; `None` if it has none.
    #[must_use]
    pub fn sqns(&self) -> Option<(Sqn, Sqn)> {
        let images = || self.images.iter().map(|image| image.sqn);
        let sqns = || self.pieces.values().flatten().map(|piece| piece.sqn).chain(images());
        Some((sqns().min()?, sqns().max()?))
    }

    /// The index as the bytes of an object.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let files: Vec<SnapshotFile> = self.files().into_keys().collect();
        let piece = |piece: &Piece| store::Piece {
            state: piece.state.0,
            key_group_first: piece.key_groups.first().0.into(),
            key_group_last: piece.key_groups.last().0.into(),
            hash_first: piece.hashes.first,
            hash_last: piece.hashes.last,
            sqn: piece.sqn.0,
            block: piece.block.as_ref().map(|block| encode_block(&files, block)),
        };
        let pieces = self.pieces.values().flatten().map(piece).collect();
        let images = self.images.iter().map(|image| encode_image(&files, image)).collect();
        let index = store::BaseIndex { files: files.iter().map(encode_file).collect(), pieces, images };
        envelope::seal(Kind::BaseIndex, &index)
    }

    /// Reads the index of `base`.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), and if the checksum shows that it is another index.
    pub fn of(base: &Materialization, bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let index = Self::decode(bytes)?;
        let found = envelope::crc_of(bytes);
        match base.index_crc.filter(|recorded| *recorded != found) {
            None => Ok(index),
            Some(recorded) => {
                let what = format!("it is another index: its checksum is {found:08x}, {recorded:08x} is recorded");
                Err(EnvelopeError::Contents(what))
            }
        }
    }

    /// Reads an index.
    ///
    /// # Errors
    /// If the bytes are damaged, or the pieces do not cover their key groups.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let message: store::BaseIndex = envelope::open(Kind::BaseIndex, bytes)?;
        let contents = |what: &'static str| EnvelopeError::Contents(what.to_owned());
        let files = message.files.iter().map(decode_file).collect::<Result<Vec<_>, _>>().map_err(contents)?;
        let pieces = message.pieces.iter().map(|piece| decode_piece(&files, piece));
        let pieces = pieces.collect::<Result<Vec<_>, _>>().map_err(contents)?;
        let images = message.images.iter().map(|image| decode_image(&files, image));
        let images = images.collect::<Result<Vec<_>, _>>().map_err(contents)?;
        Self::new(pieces).and_then(|index| index.with_images(images)).map_err(contents)
    }
}

/// Checks that the pieces of one state, in order, cover all hashes of their key groups exactly once.
fn check(pieces: &[Piece]) -> Result<(), &'static str> {
    let gap = Err("pieces leave a gap or overlap");
    // The key group that is partly covered, and the first hash in it that is not; `None` between two key groups.
    let mut begun: Option<(KeyGroup, u64)> = None;
    let mut done: Option<KeyGroup> = None;
    for piece in pieces {
        let (first, last) = (piece.key_groups.first(), piece.key_groups.last());
        // Within a key group a piece has to begin exactly where the one before ended; a new key group begins at hash 0,
        // after the ones that are done.
        let fits = match begun {
            Some((group, hash)) => (first, last, piece.hashes.first) == (group, group, hash),
            None => piece.hashes.first == 0 && done.is_none_or(|done| done < first),
        };
        let is_one = first == last || (piece.block.is_none() && piece.hashes == HashRange::ALL);
        if !fits || !is_one || piece.hashes.last < piece.hashes.first {
            return gap;
        }
        // The highest hash has no next one: the key group is complete then.
        begun = piece.hashes.last.checked_add(1).map(|hash| (first, hash));
        done = Some(last);
    }
    if begun.is_some() { gap } else { Ok(()) }
}

/// The position of an object in `files`.
fn position(files: &[SnapshotFile], file: &SnapshotFile) -> u32 {
    let position = files.binary_search(file).expect("the files are those of the index");
    u32::try_from(position).expect("a materialization has far fewer files")
}

fn encode_image(files: &[SnapshotFile], image: &Image) -> store::Image {
    let encode = |stored: &StoredFile| store::ImageFile {
        name: stored.local.clone(),
        file: position(files, &stored.file),
        crc: stored.crc,
    };
    store::Image {
        key_group_first: image.key_groups.first().0.into(),
        key_group_last: image.key_groups.last().0.into(),
        sqn: image.sqn.0,
        files: image.files.iter().map(encode).collect(),
        changes: image.changes,
    }
}

fn decode_image(files: &[SnapshotFile], image: &store::Image) -> Result<Image, &'static str> {
    let decode = |stored: &store::ImageFile| {
        // The name becomes that of a local file, so only harmless characters are allowed.
        let is_name = stored.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
        if !is_name || stored.name.starts_with('.') || stored.name.is_empty() {
            return Err("a malformed name of a local file");
        }
        Ok(StoredFile {
            local: stored.name.clone(),
            file: files.get(stored.file as usize).ok_or("an image's file that is not listed")?.clone(),
            crc: stored.crc,
        })
    };
    if !image.files.is_sorted_by(|one, next| one.name < next.name) {
        return Err("files of an image that are out of order, or there twice");
    }
    Ok(Image {
        key_groups: KeyGroupRange::new(image.key_group_first, image.key_group_last)
            .map_err(|_| "a malformed range of key groups")?,
        sqn: Sqn(image.sqn),
        files: image.files.iter().map(decode).collect::<Result<_, _>>()?,
        changes: image.changes,
    })
}

fn encode_block(files: &[SnapshotFile], block: &PieceBlock) -> store::PieceBlock {
    store::PieceBlock {
        file: position(files, &block.file),
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
        let compression = compression.ok_or("an unknown compression")?;
        compression.check(block.stored_bytes.into(), block.raw_bytes.into())?;
        let file = files.get(block.file as usize).ok_or("a piece in a file that is not listed")?.clone();
        // The length of the file is part of its record, so no read is needed to see that the piece cannot lie there.
        if block.offset.checked_add(block.stored_bytes.into()).is_none_or(|end| end > file.bytes) {
            return Err("a piece that ends beyond its file");
        }
        Ok::<_, &'static str>(PieceBlock {
            file,
            offset: block.offset,
            stored_length: block.stored_bytes,
            length: block.raw_bytes,
            crc: block.crc,
            compression,
            changes: block.changes,
        })
    };
    Ok(Piece {
        state: StateId(piece.state),
        key_groups: KeyGroupRange::stored(piece.key_group_first, piece.key_group_last)
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

    fn image(first: u32, last: u32, sqn: u64) -> Image {
        let stored = |number: u128, local: &str| StoredFile {
            local: local.to_owned(),
            file: SnapshotFile { instance: Uuid::from_u128(number), name: Name::new("1.sst").unwrap(), bytes: 7 },
            crc: 5,
        };
        let files = vec![stored(u128::from(first), "000009.sst"), stored(99, "MANIFEST-000007")];
        Image { key_groups: KeyGroupRange::new(first, last).unwrap(), sqn: Sqn(sqn), files, changes: 3 }
    }

    #[test]
    fn images_survive_their_bytes_and_cover_their_key_groups() {
        let of_images = |images: &[Image]| BaseIndex::default().with_images(images.iter().cloned());
        let index = of_images(&[image(8, 9, 6), image(2, 7, 5)]).unwrap();
        assert_eq!(BaseIndex::decode(&index.encode()).unwrap(), index);
        let covered = |group| index.covered_to(StateId(1), KeyGroup(group), 7).map(|sqn| sqn.0);
        assert_eq!([1, 2, 7, 8, 10].map(covered), [None, Some(5), Some(5), Some(6), None]);
        assert_eq!(index.sqns(), Some((Sqn(5), Sqn(6))));
        assert_eq!(index.extent(), (28, 6));
        assert_eq!(index.files().len(), 3, "one is shared");
        assert!(of_images(&[image(2, 8, 5), image(8, 9, 6)]).is_err());
        for name in ["", "../x", ".", "a/b"] {
            let mut index = index.clone();
            name.clone_into(&mut index.images[0].files[0].local);
            assert!(BaseIndex::decode(&index.encode()).is_err(), "{name}");
        }
    }

    #[test]
    fn another_index_of_the_same_name_is_not_taken_for_it() {
        let (own, other) = (BaseIndex::new([piece(3, 0, u64::MAX, 5, true)]), BaseIndex::default());
        let (own, other) = (own.unwrap().encode(), other.encode());
        let index = SnapshotFile { instance: Uuid::from_u128(7), name: Name::new("1.index").unwrap(), bytes: 100 };
        let (uuid, sqn) = (Uuid::from_u128(8), Sqn(5));
        let (from, complete_at, stored_bytes, changes) = (sqn, sqn, 40, 2);
        let index_crc = Some(envelope::crc_of(&own));
        let base = Materialization { uuid, from, complete_at, index, index_crc, stored_bytes, changes };
        assert!(BaseIndex::of(&base, &own).is_ok());
        assert!(BaseIndex::of(&base, &other).unwrap_err().to_string().contains("another index"));
        let of_an_older_version = Materialization { index_crc: None, ..base };
        assert!(BaseIndex::of(&of_an_older_version, &other).is_ok());
    }

    #[test]
    fn operator_state_is_in_pieces_beside_images() {
        let operator = Piece { key_groups: KeyGroupRange::OPERATOR, ..piece(1, 0, u64::MAX, 4, true) };
        let index = BaseIndex::new([operator.clone()]).unwrap().with_images([image(2, 9, 6)]).unwrap();
        assert_eq!(BaseIndex::decode(&index.encode()).unwrap(), index);
        let covered = |group| index.covered_to(StateId(1), group, 7).map(|sqn| sqn.0);
        assert_eq!([KeyGroup(2), KeyGroup::OPERATOR, KeyGroup(10)].map(covered), [Some(6), Some(4), None]);
        assert_eq!((index.sqns(), index.extent()), (Some((Sqn(4), Sqn(6))), (54, 5)));
        let keyed = BaseIndex::new([operator, piece(3, 0, u64::MAX, 4, false)]).unwrap();
        assert!(keyed.with_images([image(4, 9, 6)]).is_err());
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

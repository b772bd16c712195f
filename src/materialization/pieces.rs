//! Uploads the pieces of a materialization: they are joined into files of bounded size, and the index follows.
//!
//! ```text
//!   0      │ magic "DSTLPIEC" │ version u32 │ reserved u32 │
//!   16     │ piece │ piece │ …      as stored: each compressed on its own, its CRC-32 in the index of the materialization
//!   n - 12 │ CRC-32 of all bytes before u32 │ magic "DSTLPEND" │
//! ```
//!
//! Numbers are little-endian. Only the index says where a piece lies (`checkpoint/base.rs`). Magic and the checksum of
//! the whole file are for tools. `state/snapshot.rs` describes the contents of a piece.

use bytes::Bytes;

use super::target::{Made, MaterializationError, Target};
use crate::{
    checkpoint::{
        base::{BaseIndex, Image, Piece, PieceBlock},
        manifest::SnapshotFile,
    },
    state::snapshot::PieceContents,
    types::{HashRange, KeyGroup, KeyGroupRange, Name, Sqn, StateId},
};

const MAGIC: &[u8; 8] = b"DSTLPIEC";
const END_MAGIC: &[u8; 8] = b"DSTLPEND";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 16;

/// A file is uploaded once it has this many bytes of pieces.
const FILE_BYTES: usize = 16 << 20;

/// Checks a whole file of pieces; returns how many bytes of pieces it has. Only the index says where each piece lies.
///
/// # Errors
/// The fault and its place.
pub fn verify(bytes: &[u8]) -> Result<u64, String> {
    let (covered, trailer) = bytes.split_last_chunk::<12>().ok_or("cut off: shorter than its trailer")?;
    let [c0, c1, c2, c3, end @ ..] = trailer;
    if end != END_MAGIC {
        return Err("cut off: the magic at the end is missing".to_owned());
    }
    let (recorded, found) = (u32::from_le_bytes([*c0, *c1, *c2, *c3]), crc32fast::hash(covered));
    if recorded != found {
        return Err(format!("the checksum of the whole is {found:08x}, {recorded:08x} recorded"));
    }
    // Ordering: the checksum comes before the header. A wrong header under a right checksum is of another version, and
    // no damage.
    let header: &[u8; HEADER_BYTES as usize] = covered.first_chunk().ok_or("cut off: shorter than its header")?;
    let [magic @ .., v0, v1, v2, v3, _, _, _, _] = header;
    if magic != MAGIC || u32::from_le_bytes([*v0, *v1, *v2, *v3]) != VERSION {
        return Err(format!("byte 0: no file of pieces of version {VERSION}"));
    }
    Ok(covered.len() as u64 - HEADER_BYTES)
}

/// The part of a backend's contents that one piece has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PiecePlace {
    /// The state whose entries it has.
    pub state: StateId,
    /// The key group of these entries.
    pub key_group: KeyGroup,
    /// The stable hashes of these entries.
    pub hashes: HashRange,
}

/// A materialization that is being made. If it is dropped, its files stay on the store without a reference until a
/// sweep deletes them.
#[derive(Debug)]
pub struct PieceWriter {
    target: Target,
    pieces: Vec<Piece>,
    /// The file that is being filled: its name, its chunks and, for each of its pieces, the position in `pieces`.
    name: Name,
    chunks: Vec<Bytes>,
    bytes: usize,
    filling: Vec<usize>,
    uploaded_bytes: u64,
}

impl PieceWriter {
    /// A materialization that has no pieces yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        let name = target.file_name("pieces");
        Self { target, pieces: vec![], name, chunks: vec![], bytes: 0, filling: vec![], uploaded_bytes: 0 }
    }

    /// Adds a piece that is on the store already, stamped with a new sqn.
    pub fn reuse(&mut self, piece: &Piece, group: KeyGroup, sqn: Sqn) {
        self.push(Piece { sqn, key_groups: KeyGroupRange::one(group), ..piece.clone() });
    }

    /// Adds a piece that was copied at `sqn`; without contents it is empty. Uploads a file when it is full.
    ///
    /// # Errors
    /// If the store does not take it.
    pub async fn add(
        &mut self,
        place: PiecePlace,
        sqn: Sqn,
        contents: Option<PieceContents>,
    ) -> Result<(), MaterializationError> {
        // The file's length is not known before it is full, so its blocks get it when it is uploaded.
        let block = contents.map(|contents| {
            let (compression, stored) = self.target.compression.compress(&contents.bytes);
            let crc = crc32fast::hash(&stored);
            let narrow = |bytes: usize| u32::try_from(bytes).expect("a piece is a slice, far below 4 GiB");
            let block = PieceBlock {
                file: SnapshotFile { instance: self.target.instance, name: self.name.clone(), bytes: 0 },
                offset: HEADER_BYTES + self.bytes as u64,
                stored_length: narrow(stored.len()),
                length: narrow(contents.bytes.len()),
                crc,
                compression,
                changes: contents.changes,
            };
            self.bytes += stored.len();
            self.chunks.push(stored);
            self.filling.push(self.pieces.len());
            block
        });
        let PiecePlace { state, key_group, hashes } = place;
        self.push(Piece { state, key_groups: KeyGroupRange::one(key_group), hashes, sqn, block });
        if self.bytes >= FILE_BYTES { self.upload_file().await } else { Ok(()) }
    }

    fn push(&mut self, piece: Piece) {
        if !self.pieces.last_mut().is_some_and(|last| last.join(&piece)) {
            self.pieces.push(piece);
        }
    }

    /// Uploads the last file and then the index, which also lists `images`; `image_bytes` were uploaded for these. At
    /// `listed_at` it was decided which states have pieces.
    ///
    /// # Errors
    /// If the store does not take it, or the pieces do not cover the state.
    pub async fn finish(
        mut self,
        images: Vec<Image>,
        image_bytes: u64,
        listed_at: Sqn,
    ) -> Result<Made, MaterializationError> {
        // Ordering 1: the files.
        // Ordering 2: the index that lists them. A manifest names only the index, so it never leads to a missing file,
        // and a materialization that is given up in the middle is only files without a reference.
        if !self.chunks.is_empty() {
            self.upload_file().await?;
        }
        let index = BaseIndex::new(std::mem::take(&mut self.pieces)).and_then(|index| index.with_images(images));
        let index = index.map_err(MaterializationError::Incomplete)?;
        self.target.publish(index, self.uploaded_bytes + image_bytes, listed_at).await
    }

    async fn upload_file(&mut self) -> Result<(), MaterializationError> {
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend([0; 4]);
        let mut chunks = vec![Bytes::from(header)];
        chunks.append(&mut self.chunks);
        let mut hasher = crc32fast::Hasher::new();
        chunks.iter().for_each(|chunk| hasher.update(chunk));
        let mut trailer = hasher.finalize().to_le_bytes().to_vec();
        trailer.extend(END_MAGIC);
        chunks.push(trailer.into());
        let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let file = SnapshotFile { instance: self.target.instance, name: self.name.clone(), bytes };
        self.target.create(&file, chunks.into_iter().collect()).await?;
        self.uploaded_bytes += bytes;
        for position in self.filling.drain(..) {
            if let Some(block) = self.pieces.get_mut(position).and_then(|piece| piece.block.as_mut()) {
                block.file.bytes = bytes;
            }
        }
        self.bytes = 0;
        self.name = self.target.file_name("pieces");
        Ok(())
    }
}

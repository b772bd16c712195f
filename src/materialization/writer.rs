//! Uploading a materialization: pieces are joined into files of bounded size, then the index follows.
//!
//! ```text
//!   0      │ magic "DSTLPIEC" │ version u32 │ reserved u32 │
//!   16     │ piece │ piece │ …      as stored: each compressed on its own, its CRC-32 in the index of the materialization
//!   n - 12 │ CRC-32 of all bytes before u32 │ magic "DSTLPEND" │
//! ```
//!
//! Numbers are little-endian. Where a piece lies is in the index alone (`checkpoint/base.rs`); magic and checksum of the
//! whole serve tools. What is inside a piece: `state/snapshot.rs`.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    changelog::compression::Compression,
    checkpoint::{
        base::{BaseIndex, Piece, PieceBlock},
        manifest::{Materialization, SnapshotFile},
    },
    object::{Created, PutPayload, Retry, Store, StoreError, layout::ObjectName},
    random::Random,
    state::snapshot::PieceContents,
    types::{BackendId, HashRange, KeyGroup, KeyGroupRange, Name, Sqn, StateId},
};

const MAGIC: &[u8; 8] = b"DSTLPIEC";
const END_MAGIC: &[u8; 8] = b"DSTLPEND";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 16;

/// Bytes of pieces after which a file is uploaded.
const FILE_BYTES: usize = 16 << 20;

/// Where a materialization goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// The store.
    pub store: Store,
    /// Whose.
    pub backend: BackendId,
    /// This daemon process.
    pub instance: Uuid,
    /// The owner's epoch, and its counter of files.
    pub epoch: u64,
    /// The next file's number.
    pub numbers: Arc<AtomicU64>,
    /// For the name of the materialization.
    pub random: Random,
    /// How pieces are stored.
    pub compression: Compression,
    /// For each upload.
    pub retry: Retry,
}

/// Why a materialization was not made.
#[derive(Debug, thiserror::Error)]
pub enum MaterializationError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The pieces do not cover the state: a bug.
    #[error("the snapshot is incomplete: {0}")]
    Incomplete(&'static str),
    /// A name was taken: by another owner of the same epoch number, which is fenced.
    #[error("object `{0}` exists with other contents")]
    Conflict(String),
}

/// A materialization being made. Dropped, it leaves files that nothing names, for the sweep.
#[derive(Debug)]
pub struct Writer {
    target: Target,
    pieces: Vec<Piece>,
    /// The file that is being filled: its chunks and, for each of its pieces, where it stands in `pieces`.
    name: Name,
    chunks: Vec<Bytes>,
    bytes: usize,
    filling: Vec<usize>,
    uploaded_bytes: u64,
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// For the manifest.
    pub materialization: Materialization,
    /// Its pieces, for the next one.
    pub index: BaseIndex,
    /// Bytes uploaded now, the index included.
    pub uploaded_bytes: u64,
}

impl Writer {
    /// A materialization without pieces.
    #[must_use]
    pub fn new(target: Target) -> Self {
        let name = target.file_name("pieces");
        Self { target, pieces: vec![], name, chunks: vec![], bytes: 0, filling: vec![], uploaded_bytes: 0 }
    }

    /// Adds a piece that is on the store already, stamped with a new sqn.
    pub fn reuse(&mut self, piece: &Piece, group: KeyGroup, sqn: Sqn) {
        self.pieces.push(Piece { sqn, key_groups: one(group), ..piece.clone() });
    }

    /// Adds a piece that was copied at `sqn`; without contents it is empty. Uploads a file when one is full.
    ///
    /// # Errors
    /// If the store does not take it.
    pub async fn add(
        &mut self,
        (state, group, hashes): (StateId, KeyGroup, HashRange),
        sqn: Sqn,
        contents: Option<PieceContents>,
    ) -> Result<(), MaterializationError> {
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
        self.pieces.push(Piece { state, key_groups: one(group), hashes, sqn, block });
        if self.bytes >= FILE_BYTES { self.upload_file().await } else { Ok(()) }
    }

    /// Uploads what is left and the index.
    ///
    /// # Errors
    /// If the store does not take it, or the pieces do not cover the state.
    pub async fn finish(mut self) -> Result<Made, MaterializationError> {
        if !self.chunks.is_empty() {
            self.upload_file().await?;
        }
        let index = BaseIndex::new(std::mem::take(&mut self.pieces)).map_err(MaterializationError::Incomplete)?;
        let (from, complete_at) = index.sqns().ok_or(MaterializationError::Incomplete("no pieces"))?;
        let bytes = index.encode();
        let name = self.target.file_name("index");
        let file = SnapshotFile { instance: self.target.instance, name, bytes: bytes.len() as u64 };
        self.create(&file, PutPayload::from_bytes(bytes)).await?;
        let stored = |(bytes, changes): (u64, u64), (_, block): (&Piece, &PieceBlock)| {
            (bytes + u64::from(block.stored_length), changes + block.changes)
        };
        let (stored_bytes, changes) = index.stored().fold((0, 0), stored);
        let uuid = self.target.random.uuid();
        let materialization = Materialization { uuid, from, complete_at, index: file, stored_bytes, changes };
        Ok(Made { materialization, index, uploaded_bytes: self.uploaded_bytes })
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
        self.create(&file, chunks.into_iter().collect()).await?;
        for position in self.filling.drain(..) {
            if let Some(block) = self.pieces.get_mut(position).and_then(|piece| piece.block.as_mut()) {
                block.file.bytes = bytes;
            }
        }
        self.bytes = 0;
        self.name = self.target.file_name("pieces");
        Ok(())
    }

    async fn create(&mut self, file: &SnapshotFile, payload: PutPayload) -> Result<(), MaterializationError> {
        let Target { store, backend, retry, .. } = &self.target;
        let name =
            ObjectName::SnapshotFile { backend: backend.clone(), instance: file.instance, file: file.name.clone() };
        let path = name.path();
        match store.create(&path, payload, *retry).await? {
            Created::New | Created::Identical => {}
            Created::Conflict => return Err(MaterializationError::Conflict(path.to_string())),
        }
        self.uploaded_bytes += file.bytes;
        Ok(())
    }
}

fn one(group: KeyGroup) -> KeyGroupRange {
    KeyGroupRange::new(group.0.into(), group.0.into()).expect("a key group is in range")
}

impl Target {
    fn file_name(&self, kind: &str) -> Name {
        SnapshotFile::name(self.epoch, self.numbers.fetch_add(1, Ordering::Relaxed), kind)
    }
}

//! The parts of a materialization that the next one may reuse, so that only changes are uploaded.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    checkpoint::{
        base::{BaseIndex, Image, Piece},
        manifest::SnapshotFile,
    },
    state::cut::Kept,
    types::{KeyGroup, KeyGroupRange, Sqn, StateId},
};

/// A file is not reused if less than this share of it is in use, so that it can be deleted.
const LEAST_USE: f64 = 0.5;

/// The parts of a materialization that may be reused: all except pieces in files that are mostly unused.
#[derive(Debug)]
pub struct Reusable {
    uuid: Uuid,
    index: Arc<BaseIndex>,
    sparse: Vec<SnapshotFile>,
}

impl Reusable {
    /// The parts of the materialization `uuid`, which has this index.
    #[must_use]
    pub fn new(uuid: Uuid, index: Arc<BaseIndex>) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "a ratio")]
        let is_sparse = |(file, used): &(SnapshotFile, u64)| (*used as f64) < LEAST_USE * file.bytes as f64;
        // Pieces of such a file are copied anew, even if they have not changed: otherwise a few of them would keep a
        // large file for ever.
        let sparse = index.files().into_iter().filter(is_sparse).map(|(file, _)| file).collect();
        Self { uuid, index, sparse }
    }

    /// The UUID of the materialization.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Whether all of it was copied at or before `cut`.
    #[must_use]
    pub fn is_before(&self, cut: Sqn) -> bool {
        self.index.sqns().is_none_or(|(_, highest)| highest <= cut)
    }

    /// The piece that has `hash`.
    #[must_use]
    pub fn covering(&self, state: StateId, group: KeyGroup, hash: u64) -> Option<&Piece> {
        let piece = self.index.find(state, group, hash)?;
        let is_sparse = piece.block.as_ref().is_some_and(|block| self.sparse.contains(&block.file));
        (!is_sparse).then_some(piece)
    }

    /// A piece that begins exactly at `first`.
    #[must_use]
    pub fn find(&self, state: StateId, group: KeyGroup, first: u64) -> Option<&Piece> {
        self.covering(state, group, first).filter(|piece| piece.hashes.first == first)
    }

    /// The image of exactly these key groups.
    #[must_use]
    pub fn image(&self, key_groups: KeyGroupRange) -> Option<&Image> {
        self.index.images().iter().find(|image| image.key_groups == key_groups)
    }

    /// The pieces that a cut need not copy: those of `reusable`.
    #[must_use]
    pub fn kept(reusable: Option<&Arc<Self>>) -> Kept {
        let Some(reusable) = reusable.cloned() else { return Arc::new(|_, _, _| None) };
        Arc::new(move |state, group, hash| {
            reusable.covering(state, group, hash).map(|piece| (piece.hashes, piece.sqn.0))
        })
    }
}

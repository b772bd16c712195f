//! Copies of a table: pieces and images of the present contents, and cuts that freeze the contents of one moment.
//!
//! A materialization copies part by part while the writer goes on. A snapshot cuts: a slice of memory is copied before
//! its first change after the cut, and a part on disk is linked. Parts that the materialization before has already, and
//! that did not change since, are not copied.

use std::sync::Arc;

use tokio::time::Instant;

use super::Table;
use crate::{
    checkpoint::base::{Image, Piece},
    materialization::reusable::Reusable,
    state::{
        StateBackend as _, StateError,
        cut::CutPiece,
        image::{Flush, LocalImage},
        operator,
        snapshot::{PieceBuilder, PieceContents},
        ttl::Lifespan,
    },
    tasks,
    types::{CheckpointId, KeyGroup, KeyGroupRange, StateDescriptor, StateId},
};

/// A part of one (state, key group).
#[derive(Debug)]
pub(crate) enum Pieced {
    /// The part is on the store already, unchanged.
    Known(Piece),
    /// The part was copied, up to the hash `last`; without contents it is empty.
    Copied {
        /// The last hash of the part.
        last: u64,
        /// The contents of the part.
        contents: Option<PieceContents>,
    },
}

/// One part of an inner backend on local disk.
#[derive(Debug)]
pub(crate) enum Imaged {
    /// The part is on the store already, unchanged.
    Known(Image),
    /// An image was taken, of a part that has the image `previous` on the store.
    Taken(LocalImage, Option<Image>),
}

/// One part of an inner backend on local disk, as it was at a cut.
#[derive(Debug, Clone)]
pub(crate) enum FrozenImage {
    /// The image is on the store already.
    Known(Image),
    /// The image was taken; with the highest stamp of any change in it.
    Taken(Arc<LocalImage>, u64),
}

impl Table {
    /// The number of parts that images are taken of; `None` if the inner backend is copied by pieces alone.
    pub(crate) fn image_parts(&mut self) -> Option<usize> {
        self.inner.images().map(|images| images.parts().len())
    }

    /// A flush of one part, which is better done before an image of it is taken.
    pub(crate) fn flush(&mut self, part: usize) -> Option<Flush> {
        let may_block = self.may_block();
        self.inner.images().map(|images| tasks::blocking_if(may_block, || images.flush(part)))
    }

    /// Flushes of the parts that changed since `previous`.
    pub(crate) fn flushes(&mut self, previous: Option<&Reusable>) -> Vec<Flush> {
        let may_block = self.may_block();
        let Some(images) = self.inner.images() else { return vec![] };
        let is_changed = |part: &(usize, _)| {
            let known = previous.and_then(|previous| previous.image(part.1));
            known.is_none_or(|known| images.changed(part.0) >= known.sqn.0)
        };
        let parts = images.parts().into_iter().enumerate().filter(is_changed);
        let flush = || parts.map(|(part, _)| images.flush(part)).collect();
        tasks::blocking_if(may_block, flush)
    }

    /// Takes an image of one part, unless that of `previous` has all its changes.
    pub(crate) fn image(&mut self, part: usize, previous: Option<&Reusable>) -> Result<Imaged, StateError> {
        let images = self.inner.images().expect("a backend of images stays one");
        let key_groups = images.parts().get(part).copied();
        let known = previous.zip(key_groups).and_then(|(previous, key_groups)| previous.image(key_groups));
        // Strictly below: an image at some sqn has all changes below that sqn, and a change is stamped with the sqn of
        // its batch. With equal numbers the change came after the image.
        if let Some(known) = known.filter(|known| images.changed(part) < known.sqn.0) {
            return Ok(Imaged::Known(known.clone()));
        }
        let began = Instant::now();
        let image = images.image(part)?;
        self.env.metrics.image_taken(began.elapsed());
        Ok(Imaged::Taken(image, known.cloned()))
    }

    /// The states that are copied as pieces, those whose descriptors are `wanted`; each with its key groups.
    pub(crate) fn pieces_of(&self, wanted: impl Fn(&StateDescriptor) -> bool) -> Vec<(StateId, KeyGroupRange)> {
        let keyed = self.shape.key_groups;
        let wanted = self.states.data().filter(|(_, descriptor)| wanted(descriptor));
        wanted.map(|(id, descriptor)| (id, operator::key_groups_of(descriptor, keyed))).collect()
    }

    /// Copies the piece of (state, key group) that begins at the hash `first`, unless that of `previous` has all its
    /// changes.
    pub(crate) fn piece(
        &self,
        previous: Option<&Reusable>,
        state: StateId,
        group: KeyGroup,
        first: u64,
    ) -> Result<Pieced, StateError> {
        tasks::blocking_if(self.may_block(), || self.copy_piece(previous, state, group, first))
    }

    fn copy_piece(
        &self,
        previous: Option<&Reusable>,
        state: StateId,
        group: KeyGroup,
        first: u64,
    ) -> Result<Pieced, StateError> {
        let is_operator = group == KeyGroup::OPERATOR;
        let pieces = if is_operator { Some(self.inner.operator_pieces()) } else { self.inner.pieces() };
        let pieces = pieces.expect("a backend of pieces stays one");
        // Strictly below: a piece at some sqn has all changes below that sqn, and a change is stamped with the sqn of
        // its batch. With equal numbers the change came after the piece.
        if let Some(piece) = previous.and_then(|previous| previous.find(state, group, first))
            && pieces.changed(state, group, piece.hashes) < piece.sqn.0
        {
            return Ok(Pieced::Known(piece.clone()));
        }
        let mut contents = PieceBuilder::default();
        let ttl = self.states.get(state).and_then(|descriptor| descriptor.ttl);
        let last = match ttl.filter(|ttl| ttl.cleanup.at_materialization) {
            None => pieces.copy_piece(state, group, first, &mut |change| contents.push(change))?,
            Some(ttl) => {
                // Expiry is judged at the time of the last batch, which is not after that of any checkpoint that builds
                // on this.
                let (life, mut left_out) = (Lifespan::new(ttl, self.time), 0);
                let last = pieces.copy_piece(state, group, first, &mut |change| {
                    let kept = life.without_expired(*change);
                    left_out += u64::from(kept != Some(*change));
                    kept.iter().for_each(|change| contents.push(change));
                });
                self.env.metrics.ttl_left_out(left_out);
                last?
            }
        };
        Ok(Pieced::Copied { last, contents: contents.finish() })
    }

    /// Cuts the present contents for checkpoint `id`: from then on a slice is copied before it changes, unless
    /// `previous` has it. Returns the images of all parts, if there are images: of unchanged parts those of `previous`,
    /// or of the cut before, which took `newest`.
    ///
    /// # Errors
    /// If the local disk fails: nothing was cut.
    pub(crate) fn begin_cut(
        &mut self,
        id: CheckpointId,
        previous: Option<&Arc<Reusable>>,
        newest: &[FrozenImage],
    ) -> Result<Vec<FrozenImage>, StateError> {
        tasks::blocking_if(self.may_block(), || {
            // Ordering: the images first, since the disk may refuse them. A cut of contents in memory cannot fail.
            let frozen = self.freeze_images(previous.map(|previous| &**previous), newest)?;
            self.inner.cuts().begin_cut(id, Reusable::kept(previous));
            Ok(frozen)
        })
    }

    fn freeze_images(
        &mut self,
        previous: Option<&Reusable>,
        newest: &[FrozenImage],
    ) -> Result<Vec<FrozenImage>, StateError> {
        let Some(images) = self.inner.images() else { return Ok(vec![]) };
        let mut frozen = vec![];
        for (part, key_groups) in images.parts().into_iter().enumerate() {
            let changed = images.changed(part);
            let known = previous.and_then(|previous| previous.image(key_groups));
            if let Some(known) = known.filter(|known| changed < known.sqn.0) {
                frozen.push(FrozenImage::Known(known.clone()));
                continue;
            }
            // With the same newest stamp, nothing has changed between the two cuts, and they share one image.
            let same = |image: &&FrozenImage| matches!(image, FrozenImage::Taken(_, stamp) if *stamp == changed);
            if let Some(same) = newest.get(part).filter(same) {
                frozen.push(same.clone());
                continue;
            }
            let began = Instant::now();
            let image = images.image(part)?;
            self.env.metrics.image_taken(began.elapsed());
            frozen.push(FrozenImage::Taken(Arc::new(image), changed));
        }
        Ok(frozen)
    }

    /// Lets the cut of checkpoint `id` do without the pieces that `newest` has, too.
    pub(crate) fn keep_in_cut(&mut self, id: CheckpointId, newest: &Arc<Reusable>) {
        self.inner.cuts().keep(id, Reusable::kept(Some(newest)));
    }

    /// The next piece of the cut of checkpoint `id`; `None` at its end.
    pub(crate) fn next_of_cut(&mut self, id: CheckpointId) -> Result<Option<CutPiece>, StateError> {
        tasks::blocking_if(self.may_block(), || self.inner.cuts().next_of_cut(id))
    }

    /// Ends the cut of checkpoint `id`.
    pub(crate) fn end_cut(&mut self, id: CheckpointId) {
        self.inner.cuts().end_cut(id);
    }

    /// Bytes of copies that wait for their upload.
    pub(crate) fn copied_bytes(&mut self) -> u64 {
        self.inner.cuts().held_bytes()
    }
}

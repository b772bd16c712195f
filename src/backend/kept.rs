//! Images that are kept on local disk for a successor on this daemon, which then begins without the store.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    checkpoint::base::BaseIndex,
    restore::{KeptImages, Unneeded},
    state::image::LocalImage,
};

/// The means of a warm restart that one owner keeps, besides its table.
#[derive(Debug)]
pub(super) struct Kept {
    /// Images on local disk, if warm restarts need them.
    images: Option<KeptImages>,
    /// Number of opens on this daemon that may go on with the state of this owner.
    successors: usize,
}

impl Kept {
    /// Keeps `images`, if there are to be some.
    pub(super) fn new(images: Option<KeptImages>) -> Self {
        Self { images, successors: 0 }
    }

    /// Whether images are kept.
    pub(super) fn has_images(&self) -> bool {
        self.images.is_some()
    }

    /// Keeps the images of the materialization `base`; `taken` are those that were made for it.
    pub(super) fn keep(&self, base: Uuid, index: &BaseIndex, taken: &[Arc<LocalImage>]) {
        if let Some(images) = &self.images {
            images.keep(base, index, taken);
        }
    }

    /// Removes the images of materializations that are not `wanted`. Dropping them may take the disk a while.
    pub(super) fn retain(&self, wanted: impl Fn(&Uuid) -> bool) -> Option<Unneeded> {
        let unneeded = self.images.as_ref()?.retain(|base| wanted(base));
        (!unneeded.is_empty()).then_some(unneeded)
    }

    /// Takes the images out.
    pub(super) fn take(&mut self) -> Option<KeptImages> {
        self.images.take()
    }

    /// Notes that a successor is being opened.
    pub(super) fn begin_successor(&mut self) {
        self.successors += 1;
    }

    /// Notes that a successor does not need the state any more; returns whether others do.
    pub(super) fn end_successor(&mut self) -> bool {
        self.successors -= 1;
        self.has_successor()
    }

    /// Whether a successor is being opened.
    pub(super) fn has_successor(&self) -> bool {
        self.successors > 0
    }
}

//! What a backend would restore from, on local disk: copies of objects, and images of an inner backend that is there
//! itself.

use std::{mem, sync::Arc};

use uuid::Uuid;

use super::core::Core;
use crate::{
    checkpoint::{base::BaseIndex, local},
    restore::Unneeded,
    state::{hashmap::HashMapBackend, image::LocalImage, operator::WithOperatorState},
    tasks,
};

impl Core {
    /// Says which local copies are of use, if the daemon has any, and lets go of the images that are not.
    pub(super) fn want_copies(&self) {
        if let Some(copies) = self.env.store.copies().filter(|copies| copies.has_all() || self.images.is_some()) {
            let wanted =
                local::wanted(&self.manifest, &self.ledger, self.snapshots.contents(), self.snapshot_low_water());
            copies.want(&self.id, self.epoch.number, wanted);
        }
        if let Some(images) = &self.images {
            let bases = local::bases(&self.manifest, &self.ledger, self.snapshots.contents());
            self.drop_images(images.retain(|base| bases.contains(base)));
        }
    }

    /// Says that this owner has ended.
    pub(super) fn release_copies(&self) {
        if let Some(copies) = self.env.store.copies() {
            copies.release(&self.id, self.epoch.number);
        }
    }

    /// Keeps the images of a materialization, of which `taken` were made for it.
    pub(super) fn keep_images(&self, base: Uuid, index: &BaseIndex, taken: &[Arc<LocalImage>]) {
        if let Some(images) = &self.images {
            images.keep(base, index, taken);
        }
    }

    /// Lets go of the state, and of all else that lets a successor on this daemon do without the store. For a backend
    /// that has ended: others may hold it for a while, but nobody is answered from it.
    pub(super) fn drop_kept(&mut self) {
        self.drop_marks();
        self.previous = None;
        self.uploads = None;
        if let Some(images) = self.images.take() {
            self.drop_images(images.retain(|_| false));
        }
        let emptied = HashMapBackend::new(self.manifest.shape.key_groups);
        let state = mem::replace(&mut self.inner, WithOperatorState::new(Box::new(emptied)));
        self.env.tasks.spawn(async move { tasks::blocking(|| drop(state)) });
    }

    fn drop_images(&self, images: Unneeded) {
        if !images.is_empty() {
            self.env.tasks.spawn(async move { tasks::blocking(|| drop(images)) });
        }
    }
}

//! The parts of a backend that a restore could read from local disk: copies of objects, and images of RocksDB.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
};

use uuid::Uuid;

use super::core::Core;
use crate::{
    checkpoint::{base::BaseIndex, local},
    restore::Unneeded,
    state::{hashmap::HashMapBackend, image::LocalImage, operator::WithOperatorState},
    tasks,
};

impl Core {
    /// Tells the local copies which objects this backend would restore from, and drops images that are no longer
    /// needed.
    pub(super) fn want_copies(&self) {
        if let Some(copies) = self.env.store.copies().filter(|copies| copies.has_all() || self.images.is_some()) {
            let owner = &self.owner;
            let files_from = owner.snapshot_low_water(self.snapshot_files.load(Ordering::Relaxed));
            let wanted = local::wanted(owner.manifest(), owner.ledger(), owner.snapshot_contents(), files_from);
            copies.want(&self.id, owner.epoch().number, wanted);
        }
        if let Some(images) = &self.images {
            let bases = local::bases(self.owner.manifest(), self.owner.ledger(), self.owner.snapshot_contents());
            self.drop_images(images.retain(|base| bases.contains(base)));
        }
    }

    /// Tells the local copies that this owner has ended.
    pub(super) fn release_copies(&self) {
        if let Some(copies) = self.env.store.copies() {
            copies.release(&self.id, self.owner.epoch().number);
        }
    }

    /// Keeps the images of the materialization `base`; `taken` are those that were made for it.
    pub(super) fn keep_images(&self, base: Uuid, index: &BaseIndex, taken: &[Arc<LocalImage>]) {
        if let Some(images) = &self.images {
            images.keep(base, index, taken);
        }
    }

    /// Drops the state, and everything else that would let a successor on this daemon begin without the store. Called
    /// for a backend that has ended: others may still hold it for a while, but no call is answered from it.
    pub(super) fn drop_kept(&mut self) {
        self.drop_marks();
        self.previous = None;
        self.uploads = None;
        if let Some(images) = self.images.take() {
            self.drop_images(images.retain(|_| false));
        }
        let emptied = HashMapBackend::new(self.owner.manifest().shape.key_groups);
        let state = mem::replace(&mut self.inner, WithOperatorState::new(Box::new(emptied)));
        self.env.tasks.spawn(async move { tasks::blocking(|| drop(state)) });
    }

    fn drop_images(&self, images: Unneeded) {
        if !images.is_empty() {
            self.env.tasks.spawn(async move { tasks::blocking(|| drop(images)) });
        }
    }
}

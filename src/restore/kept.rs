//! Images of bases that are on this host's disk already. The inner backends took or loaded them, and links keep their
//! files.
//!
//! RocksDB makes an image by hard links, so keeping it costs only the space of files that compactions have replaced
//! since. A restore links the files once more instead of downloading them. It does not read them for that: RocksDB
//! verifies the checksum of each block when it reads the block, as in the database that the files come from.

use std::{collections::BTreeMap, io, mem, sync::Arc};

use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    checkpoint::base::{BaseIndex, Image, StoredFile},
    state::image::LocalImage,
};

/// Images on local disk, by materialization. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct KeptImages(Arc<Mutex<BTreeMap<Uuid, Vec<Kept>>>>);

/// One image, on the store and on local disk.
#[derive(Debug, Clone)]
struct Kept {
    /// The files of the image on the store.
    files: Vec<StoredFile>,
    local: Arc<LocalImage>,
}

/// Images that are no longer needed. Dropping them removes their folders, which may take the disk a while.
#[derive(Debug)]
#[must_use]
pub struct Unneeded(#[allow(dead_code, reason = "kept to be dropped")] Vec<Vec<Kept>>);

impl KeptImages {
    /// Keeps the images of the materialization `base` that are in `taken` or kept already.
    pub fn keep(&self, base: Uuid, index: &BaseIndex, taken: &[Arc<LocalImage>]) {
        let mut bases = self.0.lock();
        // Images that were reused have been kept for an earlier base, and belong to this one as well.
        let kept = index.images().iter().filter_map(|image| {
            let taken = taken.iter().find(|local| is_same(local, image)).cloned();
            let local = taken.or_else(|| find(&bases, &image.files))?;
            Some(Kept { files: image.files.clone(), local })
        });
        let kept: Vec<Kept> = kept.collect();
        bases.insert(base, kept);
    }

    /// Keeps one image of the materialization `base`. It replaces an older copy of the same image, which could not be
    /// used.
    pub(super) fn add(&self, base: Uuid, image: &Image, local: LocalImage) {
        let mut bases = self.0.lock();
        bases.values_mut().for_each(|kept| kept.retain(|kept| kept.files != image.files));
        let kept = Kept { files: image.files.clone(), local: Arc::new(local) };
        bases.entry(base).or_default().push(kept);
    }

    /// Drops every materialization that is not `is_needed`.
    pub fn retain(&self, is_needed: impl Fn(&Uuid) -> bool) -> Unneeded {
        let mut bases = self.0.lock();
        let (kept, unneeded) = mem::take(&mut *bases).into_iter().partition(|(base, _)| is_needed(base));
        *bases = kept;
        let unneeded: BTreeMap<Uuid, Vec<Kept>> = unneeded;
        Unneeded(unneeded.into_values().collect())
    }

    /// The materializations that images are kept of.
    #[must_use]
    pub fn bases(&self) -> Vec<Uuid> {
        self.0.lock().keys().copied().collect()
    }

    /// Links the files of an image once more, to be loaded; `None` if the image is not kept. Blocks for the disk.
    ///
    /// # Errors
    /// If its files cannot be linked.
    pub(super) fn link(&self, image: &Image) -> Option<io::Result<LocalImage>> {
        // Ordering: the lock is let go before the files are linked, which waits for the disk. The handle keeps the
        // folder meanwhile.
        let local = find(&self.0.lock(), &image.files)?;
        Some(local.link())
    }
}

impl Unneeded {
    /// Whether there is no image to drop.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn find(bases: &BTreeMap<Uuid, Vec<Kept>>, files: &[StoredFile]) -> Option<Arc<LocalImage>> {
    let found = bases.values().flatten().find(|kept| kept.files == files);
    found.map(|kept| kept.local.clone())
}

/// Whether `image` was uploaded from `local`.
fn is_same(local: &LocalImage, image: &Image) -> bool {
    let files = local.files.iter().map(|file| (&file.name, file.bytes));
    local.key_groups == image.key_groups && files.eq(image.files.iter().map(|file| (&file.local, file.file.bytes)))
}

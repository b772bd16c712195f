//! Loads a base of images. Its files are downloaded in parallel and verified; then they become local files of the inner
//! backend, or are read into it.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{fs::File, io::AsyncWriteExt as _};

use super::{Imported, Progress, Restore, RestoreError};
use crate::{
    checkpoint::{
        base::{BaseIndex, Image, StoredFile},
        damage::Fault,
    },
    object::Store,
    state::{
        Address, Change, StateBackend, StateError,
        image::{ImageFile, LocalBackends, LocalImage, StateIds},
    },
    tasks,
};

/// Most bytes that one read fetches.
const READ_BYTES: u64 = 1 << 20;

/// Bytes that are written to a local file in one go.
const WRITE_BYTES: usize = 256 << 10;

impl Restore<'_> {
    /// Loads every image that overlaps the backend's key groups.
    pub(super) async fn load_images(
        &self,
        inner: &mut dyn StateBackend,
        base: &BaseIndex,
        progress: &mut Progress,
        report: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), RestoreError> {
        let key_groups = self.manifest.shape.key_groups;
        let wanted: Vec<&Image> = base.images().iter().filter(|image| key_groups.overlaps(image.key_groups)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let checkpoint = self.checkpoint.identity.id;
        let local = self.local.ok_or(RestoreError::NoLocalBackends { checkpoint })?;
        for image in wanted {
            let files = match self.linked(image) {
                // Counted as read although nothing was, so that the progress still reaches its total.
                Some(linked) => {
                    progress.bytes_done += linked.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
                    linked
                }
                None => self.download(local, image, progress, report).await?,
            };
            let loaded = tasks::blocking(|| self.load_image(inner, local, files));
            loaded.map_err(|source| self.unfit_image(image, source))?;
            progress.changes = progress.changes.saturating_add(image.changes);
            report(*progress);
        }
        Ok(())
    }

    /// The image as links to files on local disk. `None` if they are not there or cannot be linked; then it is
    /// downloaded.
    fn linked(&self, image: &Image) -> Option<LocalImage> {
        // Of no use is no fault: the store has the same files.
        let linked = tasks::blocking(|| self.kept?.link(image))?;
        let failed = |error: &std::io::Error| tracing::warn!(%error, "a local image is of no use: downloading it");
        linked.inspect_err(failed).ok()
    }

    /// Keeps an image that was downloaded, for later restores.
    fn keep(&self, image: &Image, local: &LocalImage) {
        let base = self.manifest.contents(self.checkpoint).base;
        let (Some(kept), Some(base)) = (self.kept, base) else { return };
        match local.link() {
            Ok(link) => kept.add(base, image, link),
            Err(error) => tracing::warn!(%error, "an image cannot be kept on local disk"),
        }
    }

    fn load_image(
        &self,
        inner: &mut dyn StateBackend,
        local: &dyn LocalBackends,
        image: LocalImage,
    ) -> Result<(), StateError> {
        let states: StateIds = match self.imported {
            Some(imported) => imported.import.states.clone(),
            None => self.manifest.states.keys().map(|id| (*id, *id)).collect(),
        };
        // A whole image becomes a part of an inner backend on disk. Otherwise its entries are read one by one.
        if let Some(images) = inner.images().filter(|_| self.is_wanted_whole(&image)) {
            return images.load(image, &states).map(|_| ());
        }
        let kind = |id| self.manifest.states.get(&id).map(|registration| registration.descriptor.kind);
        local.read(image, self.manifest.shape.key_groups, &kind, &mut |change| {
            let renamed = states.get(&change.at.state).map(|state| Address { state: *state, ..change.at });
            let at = renamed.ok_or(StateError::Undecodable("a state that the checkpoint does not have"))?;
            inner.apply(&Change { at, ..*change })
        })?;
        inner.finish_batch()
    }

    /// The error for an image that could not be loaded. If its files are whole but are not an image, the index that
    /// lists them is damaged.
    fn unfit_image(&self, image: &Image, source: StateError) -> RestoreError {
        if !source.is_damage() {
            return self.inner_error(source);
        }
        let base = self.manifest.contents(self.checkpoint).base.and_then(|uuid| self.manifest.materialization(uuid));
        let Some(base) = base else { return self.inner_error(source) };
        let mut what = format!("the files of its image of key groups {} are no image: {source}", image.key_groups);
        let mut cause = std::error::Error::source(&source);
        while let Some(of) = cause {
            what.push_str(&format!(": {of}"));
            cause = of.source();
        }
        self.damaged(Fault::corrupt(&self.file_path(&base.index), None, what))
    }

    /// Whether the restore wants all key groups of the image that this backend has. An import may want fewer.
    fn is_wanted_whole(&self, image: &LocalImage) -> bool {
        let Some(Imported { by, .. }) = self.imported else { return true };
        let (meant, own) = (self.manifest.shape.key_groups, by.shape.key_groups);
        image.key_groups.intersection(own) == image.key_groups.intersection(meant)
    }

    /// Downloads the files of an image into a new folder.
    async fn download(
        &self,
        local: &dyn LocalBackends,
        image: &Image,
        progress: &mut Progress,
        report: &mut (impl FnMut(Progress) + Send),
    ) -> Result<LocalImage, RestoreError> {
        let folder_error = |source| RestoreError::Folder { path: "the local folder".into(), source };
        let folder = local.folder().map_err(folder_error)?;
        let files = image.files.iter().map(|stored| ImageFile {
            name: stored.local.clone(),
            bytes: stored.file.bytes,
            // The database that the image becomes gives its files new names, so a name does not identify the contents.
            is_immutable: false,
        });
        let local = LocalImage { key_groups: image.key_groups, folder, files: files.collect(), changes: image.changes };
        let fetches = image.files.iter().map(|stored| self.fetch(&local, stored));
        // Collected first: a stream of borrowing closures makes the restore a future that cannot be spawned.
        let fetches: Vec<_> = fetches.collect();
        let mut fetched = stream::iter(fetches).buffer_unordered(self.parallel_reads.max(1));
        while let Some(bytes) = fetched.try_next().await? {
            progress.bytes_done += bytes;
            report(*progress);
        }
        drop(fetched);
        tasks::blocking(|| self.keep(image, &local));
        Ok(local)
    }

    /// Downloads one file and verifies it. If verification fails, it is downloaded once more, past the local copies.
    /// Returns its length.
    async fn fetch(&self, image: &LocalImage, stored: &StoredFile) -> Result<u64, RestoreError> {
        match self.fetch_from(self.store, image, stored).await {
            // Damage is a verdict of two reads, of which the second one goes past the local copies.
            Err(RestoreError::Damaged { fault, .. }) => {
                tracing::debug!(%fault, "reading again what was refused");
                let object = self.file_path(&stored.file);
                self.fetch_from(&self.store.past_copies(&object), image, stored).await
            }
            fetched => fetched,
        }
    }

    async fn fetch_from(&self, store: &Store, image: &LocalImage, stored: &StoredFile) -> Result<u64, RestoreError> {
        let object = self.file_path(&stored.file);
        let path = image.folder.path().join(&stored.local);
        let folder_error = |source| RestoreError::Folder { path: path.clone(), source };
        let mut file = File::create(&path).await.map_err(folder_error)?;
        file.set_max_buf_size(WRITE_BYTES);
        let (mut from, mut hasher) = (0, crc32fast::Hasher::new());
        while from < stored.file.bytes {
            let to = (from + READ_BYTES).min(stored.file.bytes);
            let bytes = store.get_range(&object, from..to, self.retry).await;
            let bytes = bytes.map_err(|error| self.base_unreadable(&object, error))?;
            for piece in bytes.chunks(WRITE_BYTES) {
                hasher.update(piece);
                file.write_all(piece).await.map_err(folder_error)?;
                tasks::breathe();
            }
            from = to;
        }
        file.flush().await.map_err(folder_error)?;
        // Verified as it was received. The inner backend opens these files only after all of them were verified.
        let crc = hasher.finalize();
        if crc != stored.crc {
            let what = format_args!("its checksum is {crc:08x}, {:08x} recorded", stored.crc);
            return Err(self.damaged(Fault::corrupt(&object, None, what)));
        }
        Ok(stored.file.bytes)
    }
}

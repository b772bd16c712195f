//! Uploads the images of a materialization, without the files that the materialization before has already.

use bytes::Bytes;

use super::target::{MaterializationError, Target};
use crate::{
    checkpoint::{
        base::{Image, StoredFile},
        manifest::SnapshotFile,
    },
    object::PutPayload,
    state::image::{ImageFile, LocalImage},
    types::Sqn,
};

/// A materialization that is being made. If it is dropped, its files stay on the store without a reference until a
/// sweep deletes them.
#[derive(Debug)]
pub struct ImageWriter {
    target: Target,
    images: Vec<Image>,
    uploaded_bytes: u64,
}

impl ImageWriter {
    /// A materialization that has no images yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, images: vec![], uploaded_bytes: 0 }
    }

    /// Adds an image that is on the store already, stamped with a new sqn.
    pub fn reuse(&mut self, image: &Image, sqn: Sqn) {
        self.images.push(Image { sqn, ..image.clone() });
    }

    /// Adds an image that was taken at `sqn`. Files that `previous` has are not uploaded again; `previous` is an image
    /// of the same part of the same local store. One file at a time is in memory. If the future is dropped, files may
    /// stay on the store without a reference.
    ///
    /// # Errors
    /// If a file cannot be read, or the store does not take it.
    pub async fn add(
        &mut self,
        image: &LocalImage,
        sqn: Sqn,
        previous: Option<&Image>,
    ) -> Result<(), MaterializationError> {
        let mut files = vec![];
        for file in &image.files {
            // Name and length are enough: both images are of one local store, where an immutable file is not written
            // again under its name.
            let same = |stored: &&StoredFile| stored.local == file.name && stored.file.bytes == file.bytes;
            let known = previous.filter(|_| file.is_immutable).and_then(|image| image.files.iter().find(same));
            files.push(match known {
                Some(stored) => stored.clone(),
                None => self.upload(image, file).await?,
            });
        }
        self.images.push(Image { key_groups: image.key_groups, sqn, files, changes: image.changes });
        Ok(())
    }

    async fn upload(&mut self, image: &LocalImage, file: &ImageFile) -> Result<StoredFile, MaterializationError> {
        let bytes = tokio::fs::read(image.path(file)).await;
        let bytes =
            Bytes::from(bytes.map_err(|source| MaterializationError::Local { name: file.name.clone(), source })?);
        let kind = if file.is_immutable { "sst" } else { "manifest" };
        let (instance, name) = (self.target.instance, self.target.file_name(kind));
        let stored = StoredFile {
            local: file.name.clone(),
            file: SnapshotFile { instance, name, bytes: bytes.len() as u64 },
            crc: crc32fast::hash(&bytes),
        };
        self.uploaded_bytes += stored.file.bytes;
        self.target.create_of_image(&stored.file, PutPayload::from_bytes(bytes)).await?;
        Ok(stored)
    }

    /// All images, and the number of bytes that were uploaded for them, as
    /// [`PieceWriter::finish`](super::pieces::PieceWriter::finish) takes them.
    #[must_use]
    pub fn finish(self) -> (Vec<Image>, u64) {
        (self.images, self.uploaded_bytes)
    }
}

//! Uploading the images of a materialization: the files that the materialization before does not have.

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

/// A materialization being made. Dropped, it leaves files that nothing names, for the sweep.
#[derive(Debug)]
pub struct ImageWriter {
    target: Target,
    images: Vec<Image>,
    uploaded_bytes: u64,
}

impl ImageWriter {
    /// A materialization without images.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, images: vec![], uploaded_bytes: 0 }
    }

    /// Adds an image that is on the store already, stamped with a new sqn.
    pub fn reuse(&mut self, image: &Image, sqn: Sqn) {
        self.images.push(Image { sqn, ..image.clone() });
    }

    /// Adds an image that was taken at `sqn`. Files that `previous` has, an image of the same part of the same local
    /// store, are not uploaded again. One file is held in memory at a time. Dropped, it leaves files that nothing
    /// names.
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

    /// All images, and the bytes that were uploaded for them: for
    /// [`PieceWriter::finish`](super::pieces::PieceWriter::finish).
    #[must_use]
    pub fn finish(self) -> (Vec<Image>, u64) {
        (self.images, self.uploaded_bytes)
    }
}

//! Attachments: the bytes that tasks put on their barriers.
//!
//! The attachment of a new checkpoint stands in its manifest, so that a checkpoint takes one write. Each later manifest
//! would repeat it as long as the checkpoint is retained. So if there are many bytes of attachments, they move into a
//! page, which is written beside the manifest that has them first, and named by the next.

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use super::{CheckpointRecord, Manifest};
use crate::{
    checkpoint::{
        damage::Fault,
        envelope::EnvelopeError,
        index::{Home, NewPage, Page, PageRef, page_id},
    },
    object::{Retry, Store, StoreError},
    types::{BackendId, CheckpointIdentity},
};

/// Most bytes of attachments that manifests repeat.
pub const ATTACHMENT_BYTES: usize = 16 << 10;

/// Bytes of attachments after which another page begins.
const PAGE_BYTES: usize = 1 << 20;

/// The bytes that a task attached to one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attachment {
    /// The bytes stand in the manifest itself.
    Here(Bytes),
    /// The bytes are in this page.
    Page(PageRef),
}

impl From<Bytes> for Attachment {
    fn from(bytes: Bytes) -> Self {
        Self::Here(bytes)
    }
}

impl Attachment {
    /// The page that has it, if it is in one.
    #[must_use]
    pub fn page(&self) -> Option<PageRef> {
        match self {
            Self::Here(_) => None,
            Self::Page(page) => Some(*page),
        }
    }

    fn bytes_here(&self) -> usize {
        match self {
            Self::Here(bytes) => bytes.len(),
            Self::Page(_) => 0,
        }
    }

    /// Reads the bytes that `checkpoint` of `backend` has; or returns the fault of the page that should have them.
    /// Cancel-safe.
    ///
    /// # Errors
    /// The error of the store.
    pub async fn read(
        &self,
        store: &Store,
        backend: &BackendId,
        checkpoint: CheckpointIdentity,
        retry: Retry,
    ) -> Result<Result<Bytes, Fault>, StoreError> {
        let page = match self {
            Self::Here(bytes) => return Ok(Ok(bytes.clone())),
            Self::Page(page) => page,
        };
        let path = page.name(backend).path();
        let read = |bytes: &Bytes| match Page::decode(&backend.job, page, bytes)? {
            Page::Attachments(all) => all
                .into_iter()
                // By identity: a page has attachments of several checkpoints, also of those that were let go.
                .find_map(|(of, bytes)| (of == checkpoint).then_some(bytes))
                .ok_or_else(|| EnvelopeError::Contents(format!("no attachment of checkpoint {checkpoint}"))),
            _ => Err(EnvelopeError::Contents("a page without attachments".to_owned())),
        };
        match store.get_checked(&path, retry, read).await {
            Ok(read) => Ok(read.map_err(|error| Fault::corrupt(&path, None, error))),
            Err(StoreError::NotFound { .. }) => Ok(Err(Fault::missing(&path))),
            Err(error) => Err(error),
        }
    }
}

impl Manifest {
    /// Moves the attachments that stand in the manifest into pages, if they have more than [`ATTACHMENT_BYTES`]
    /// together. Returns the pages, which must be durable before a manifest that is derived from this one. `next` is
    /// the number of the next page, `random` makes UUIDs.
    pub fn fold_attachments(&mut self, next: &mut u64, mut random: impl FnMut() -> Uuid) -> Vec<NewPage> {
        let mut pages = vec![];
        if self.checkpoints.iter().map(|record| record.attachment.bytes_here()).sum::<usize>() <= ATTACHMENT_BYTES {
            return pages;
        }
        let home = Home { subtask: self.backend.subtask, epoch: self.owner().epoch.number };
        let mut here: Vec<&mut CheckpointRecord> =
            self.checkpoints.iter_mut().filter(|record| record.attachment.bytes_here() > 0).collect();
        // Ends: `count` is at least 1 for all sizes.
        while !here.is_empty() {
            let mut bytes = 0;
            let is_beyond = |record: &&mut CheckpointRecord| {
                bytes += record.attachment.bytes_here();
                // Checked after the record is added, so one attachment that is larger than a page has a page of its
                // own.
                bytes >= PAGE_BYTES
            };
            let count = here.iter().position(is_beyond).map_or(here.len(), |last| last + 1);
            let moved: Vec<_> = here.drain(..count).collect();
            let all = moved.iter().filter_map(|record| match &record.attachment {
                Attachment::Here(bytes) => Some((record.identity, bytes.clone())),
                Attachment::Page(_) => None,
            });
            let page = Page::Attachments(all.collect()).seal(home, page_id(*next, random()));
            *next += 1;
            for record in moved {
                // In this manifest's records only. The caller passes them on to the ledger, because later manifests get
                // their records from there.
                record.attachment = Attachment::Page(page.reference);
            }
            pages.push(page);
        }
        pages
    }
}

/// Gives `records` the places of attachments that the records of the same name in `moved` have.
pub fn follow<'r>(records: impl Iterator<Item = &'r mut CheckpointRecord>, moved: &[CheckpointRecord]) {
    let moved: BTreeMap<_, _> = moved.iter().map(|record| (record.identity, &record.attachment)).collect();
    for record in records {
        if let Some(attachment) = moved.get(&record.identity) {
            record.attachment = (*attachment).clone();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::checkpoint::{index::tests::uuids, manifest::tests::sample};

    fn with(lengths: [usize; 3]) -> Manifest {
        let mut manifest = sample();
        for (record, length) in manifest.checkpoints.iter_mut().zip(lengths) {
            record.attachment = Bytes::from(vec![7; length]).into();
        }
        manifest
    }

    #[test]
    fn few_bytes_of_attachments_stay_and_many_move_into_pages_of_bounded_size() {
        let mut next = 3;
        let mut few = with([ATTACHMENT_BYTES, 0, 0]);
        assert!(few.fold_attachments(&mut next, uuids()).is_empty());
        let mut many = with([1, 0, ATTACHMENT_BYTES]);
        let pages = many.fold_attachments(&mut next, uuids());
        assert_eq!((pages.len(), next), (1, 4));
        assert_eq!(Manifest::decode(&many.encode()).unwrap(), many);
        assert_eq!(many.checkpoints[1].attachment, Bytes::new().into(), "what is empty needs no page");
        assert!(many.encode().len() < 4_000);
        let mut huge = with([PAGE_BYTES, 1, 1]);
        assert_eq!(huge.fold_attachments(&mut next, uuids()).len(), 2);
        assert!(huge.fold_attachments(&mut next, uuids()).is_empty());
    }

    #[test]
    fn records_follow_those_of_their_name() {
        let mut moved = with([1, 0, ATTACHMENT_BYTES]);
        let mut records = moved.checkpoints[1..].to_vec();
        moved.fold_attachments(&mut 0, uuids());
        follow(records.iter_mut(), &moved.checkpoints);
        assert_eq!(records, moved.checkpoints[1..]);
    }
}

//! The way of change sets to the uploads of the backend's job, and back.

use std::{fmt, sync::Arc};

use crate::{
    changelog::{
        registry::JobUploads,
        segment::{ChangeSet, SegmentHandle},
        uploader::{Submission, UploadError, WriterGuard},
    },
    types::BackendId,
};

/// Takes the outcome of the upload of a change set: it is durable, or will never be.
pub(super) type OnUploaded = Arc<dyn Fn(Result<SegmentHandle, UploadError>, ChangeSet) + Send + Sync>;

/// The uploads of one backend. Once it has ended there are none, so that the job's uploads and their metrics can end,
/// too.
pub(super) struct Uploading {
    uploads: Option<JobUploads>,
    /// Counts this backend among those whose changes share segments.
    writer: Option<WriterGuard>,
    on_uploaded: OnUploaded,
}

impl Uploading {
    /// Uploads by `uploads`, which tell the outcomes to `on_uploaded`.
    pub(super) fn new(uploads: JobUploads, on_uploaded: OnUploaded) -> Self {
        Self { writer: Some(uploads.writer()), uploads: Some(uploads), on_uploaded }
    }

    /// Hands a change set to the uploads, unless the backend has ended: it must not write any more. `urgent` if a
    /// writer is pushed back until it is durable.
    pub(super) fn submit(&self, set: ChangeSet, urgent: bool) {
        let Some(uploads) = &self.uploads else { return };
        // The outcome gives the set back, so that a set which the store refuses can be tried again.
        let (on_uploaded, again) = (self.on_uploaded.clone(), set.clone());
        let done = move |result| on_uploaded(result, again);
        uploads.submit(Submission { set, urgent, done: Box::new(done) });
    }

    /// Segments of this daemon below this number are uploaded or given up.
    pub(super) fn low_water(&self) -> u64 {
        self.uploads.as_ref().map_or(u64::MAX, |uploads| uploads.low_water())
    }

    /// Gives up all uploads of the owner with epoch number `epoch`.
    pub(super) fn withdraw(&self, id: &BackendId, epoch: u64) {
        if let Some(uploads) = &self.uploads {
            uploads.withdraw(id, epoch);
        }
    }

    /// Ends the uploads.
    pub(super) fn end(&mut self) {
        self.uploads = None;
        self.writer = None;
    }
}

impl fmt::Debug for Uploading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploading").field("uploads", &self.uploads).finish_non_exhaustive()
    }
}

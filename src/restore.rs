//! Restore: load a base (none yet: the empty state) and replay the changelog up to a checkpoint's cut.
//!
//! ```text
//!   manifest, checkpoint ──▶ sources: runs, each up to a sequence number
//!        ──expand pages──▶ handles of all change sets, in order ──▶ read ahead, verified ──▶ replay into the inner backend
//! ```
//!
//! Nothing is served that does not have its checksum: a damaged or missing object ends the restore with an error that
//! names it, the checkpoints that it spoils and those that do not need it.

use crate::{
    changelog::{
        reader::{ReadError, ReplayOptions, ReplayStream},
        segment::SegmentHandle,
    },
    checkpoint::{
        envelope::EnvelopeError,
        index::{Page, PageRef},
        manifest::{CheckpointRecord, Manifest, Source},
    },
    object::{Path, Retry, Store, StoreError, layout::ObjectName},
    state::{Change, StateBackend, StateError},
    tasks::Tasks,
    types::{CheckpointId, Sqn, TimeMs},
};

/// Bytes of changelog that a restore holds in memory at most, besides the state itself.
const READ_AHEAD_BYTES: u64 = 64 << 20;

/// Changes between two points at which other tasks of the thread may run.
const CHANGES_PER_TURN: u64 = 8 << 10;

/// How far a restore has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Stored bytes replayed.
    pub bytes_done: u64,
    /// Stored bytes altogether.
    pub bytes_total: u64,
    /// Changes replayed.
    pub changes: u64,
}

/// What a restore did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// How much.
    pub progress: Progress,
    /// The time of the newest batch: the clock of the state.
    pub time: TimeMs,
}

/// Why a checkpoint cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// An object is damaged or missing.
    #[error("checkpoint {checkpoint} cannot be restored: {what}; {advice}")]
    Damaged {
        /// Which.
        checkpoint: CheckpointId,
        /// Object, offset, and how.
        what: String,
        /// Which other checkpoints it spoils and which remain.
        advice: String,
        /// Whether the object is gone rather than changed.
        missing: bool,
    },
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The inner backend refuses a change.
    #[error("replaying checkpoint {checkpoint}")]
    Inner {
        /// Which.
        checkpoint: CheckpointId,
        /// Why.
        source: StateError,
    },
    /// The daemon stops.
    #[error("the restore was stopped")]
    Stopped,
}

/// A restore to do.
#[derive(Debug)]
pub struct Restore<'a> {
    /// Where the objects are.
    pub store: &'a Store,
    /// Where reads run.
    pub tasks: &'a Tasks,
    /// What the backend consists of.
    pub manifest: &'a Manifest,
    /// What to restore.
    pub checkpoint: &'a CheckpointRecord,
    /// Range reads in flight.
    pub parallel_reads: usize,
    /// For each read.
    pub retry: Retry,
}

impl Restore<'_> {
    /// Replays the checkpoint into `inner`, which must be empty and know its states. Calls `progress` after each block.
    /// Dropped, it leaves `inner` half filled.
    ///
    /// # Errors
    /// [`RestoreError`]; then `inner` is half filled.
    pub async fn run(
        &self,
        inner: &mut dyn StateBackend,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<Restored, RestoreError> {
        let handles = self.plan().await?;
        let mut restored = Restored::default();
        restored.progress.bytes_total = handles.iter().map(|handle| handle.stored_bytes).sum();
        progress(restored.progress);
        let options = ReplayOptions {
            key_groups: self.manifest.shape.key_groups,
            parallel_reads: self.parallel_reads,
            max_bytes: READ_AHEAD_BYTES,
            retry: self.retry,
        };
        let mut stream = ReplayStream::new(self.store.clone(), self.tasks.clone(), &handles, options);
        let mut since_turn = 0;
        while let Some(block) = stream.next().await {
            let block = block.map_err(|error| self.read_error(error, &handles))?;
            // An iterator of borrowed batches does not live across an await, so turns are taken between blocks and the block's
            // size bounds how long one lasts.
            let changes = self.replay(inner, &block, &mut restored.time, &handles)?;
            since_turn += changes;
            restored.progress.changes += changes;
            restored.progress.bytes_done += u64::from(block.handle.stored_length);
            progress(restored.progress);
            if since_turn >= CHANGES_PER_TURN {
                since_turn = 0;
                tokio::task::yield_now().await;
            }
        }
        Ok(restored)
    }

    fn replay(
        &self,
        inner: &mut dyn StateBackend,
        block: &crate::changelog::reader::ChangeBlock,
        time: &mut TimeMs,
        handles: &[SegmentHandle],
    ) -> Result<u64, RestoreError> {
        let key_groups = self.manifest.shape.key_groups;
        let mut replayed = 0;
        for batch in block.batches() {
            let batch = batch.map_err(|error| self.read_error(error, handles))?;
            *time = (*time).max(batch.time);
            for (key_group, bytes) in batch.changes.filter(|(group, _)| key_groups.contains(*group)) {
                let applied = Change::decode(key_group, bytes).and_then(|change| inner.apply(&change));
                applied.map_err(|source| self.inner_error(source))?;
                replayed += 1;
            }
            inner.finish_batch().map_err(|source| self.inner_error(source))?;
        }
        Ok(replayed)
    }

    /// Handles of all change sets of the checkpoint, in order.
    async fn plan(&self) -> Result<Vec<SegmentHandle>, RestoreError> {
        let mut handles = vec![];
        for source in self.manifest.contents(self.checkpoint) {
            handles.extend(self.expand(source).await?);
        }
        Ok(handles)
    }

    /// Handles of the change sets of one source: its run's pages opened.
    async fn expand(&self, source: Source) -> Result<Vec<SegmentHandle>, RestoreError> {
        let Some(run) = self.manifest.runs.get(&source.epoch) else {
            return Err(self.damaged(format!("the manifest has no run of epoch {}", source.epoch), true, &|_| true));
        };
        let mut open: Vec<PageRef> =
            run.pages.iter().rev().filter(|page| page.range.from < source.to).copied().collect();
        let mut handles = vec![];
        while let Some(page) = open.pop() {
            match self.read_page(&page).await? {
                Page::Handles(found) => handles.extend(found),
                Page::Pages(children) => open.extend(children.into_iter().rev()),
            }
        }
        handles.extend(run.handles.iter().cloned());
        handles.retain(|handle| handle.range.to <= source.to);
        let mut next = Sqn::first_of(source.epoch);
        for handle in &handles {
            if handle.range.from != next {
                let what = format!("the log index of epoch {} has a gap at {next}", source.epoch);
                return Err(self.damaged(what, true, &|_| true));
            }
            next = handle.range.to;
        }
        if next != source.to {
            let what =
                format!("the log index of epoch {} ends at {next}, the checkpoint needs {}", source.epoch, source.to);
            return Err(self.damaged(what, true, &|_| true));
        }
        Ok(handles)
    }

    async fn read_page(&self, page: &PageRef) -> Result<Page, RestoreError> {
        let path = page.name(&self.manifest.backend).path();
        let of_page_epoch = |source: &Source| source.epoch == page.range.from.epoch() && source.to > page.range.from;
        let bytes = match self.store.get(&path, self.retry).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => {
                return Err(self.damaged(format!("object `{path}` is missing"), true, &of_page_epoch));
            }
            Err(error) => return Err(error.into()),
        };
        Page::decode(&self.manifest.backend.job, page, &bytes)
            .map_err(|error: EnvelopeError| self.damaged(format!("object `{path}`, {error}"), false, &of_page_epoch))
    }

    fn read_error(&self, error: ReadError, handles: &[SegmentHandle]) -> RestoreError {
        let (object, missing) = match error {
            ReadError::Store { source, .. } => return RestoreError::Store(source),
            ReadError::Stopped { .. } => return RestoreError::Stopped,
            ReadError::Corrupt { ref object, .. } => (object, false),
            ReadError::Missing { ref object } => (object, true),
        };
        // The first change set that lies in the damaged object: every source that reaches it is spoilt.
        let first =
            handles.iter().filter(|handle| path_of(handle).as_ref() == object).map(|handle| handle.range.from).min();
        let spoils = |source: &Source| first.is_some_and(|first| source.epoch == first.epoch() && source.to > first);
        self.damaged(error.to_string(), missing, &spoils)
    }

    fn damaged(&self, what: String, missing: bool, spoils: &dyn Fn(&Source) -> bool) -> RestoreError {
        let (spoilt, intact): (Vec<_>, Vec<_>) =
            self.manifest.checkpoints.iter().partition(|record| self.manifest.contents(record).iter().any(spoils));
        let ids = |records: Vec<&CheckpointRecord>| {
            let ids: Vec<String> = records.iter().map(|record| record.identity.id.to_string()).collect();
            if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
        };
        let advice =
            format!("retained checkpoints that it spoils: {}; that do not need it: {}", ids(spoilt), ids(intact));
        RestoreError::Damaged { checkpoint: self.checkpoint.identity.id, what, advice, missing }
    }

    fn inner_error(&self, source: StateError) -> RestoreError {
        RestoreError::Inner { checkpoint: self.checkpoint.identity.id, source }
    }
}

fn path_of(handle: &SegmentHandle) -> Path {
    let segment = &handle.segment;
    ObjectName::Segment { job: segment.job.clone(), instance: segment.instance, number: segment.number }.path()
}

//! Restore: load a base (or begin with the empty state) and replay the changelog up to a checkpoint's cut.
//!
//! ```text
//!   manifest, checkpoint ──▶ base: pieces or images ──read ahead, verified──▶ load into the inner backend
//!                       └──▶ sources: runs, each from and up to a sequence number
//!        ──expand pages──▶ handles of all change sets, in order ──▶ read ahead, verified ──▶ replay
//! ```
//!
//! The pieces of a snapshot were copied at different moments: a change that a piece has already is skipped.
//!
//! Nothing is served that does not have its checksum: a damaged or missing object ends the restore with an error that
//! names it, the checkpoints that it spoils and those that do not need it.

mod images;
mod load;

use std::sync::Arc;

use crate::{
    changelog::{
        reader::{ReadError, ReplayOptions, ReplayStream},
        segment::SegmentHandle,
    },
    checkpoint::{
        base::BaseIndex,
        envelope::EnvelopeError,
        index::{Page, PageRef},
        manifest::{CheckpointRecord, Contents, Manifest, Source},
    },
    object::{Path, Retry, Store, StoreError, layout::ObjectName},
    state::{Change, StateBackend, StateError, image::LocalBackends, stable_hash},
    tasks::Tasks,
    types::{CheckpointId, Sqn, SqnRange, TimeMs},
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// How much.
    pub progress: Progress,
    /// How many of the changes were of the log.
    pub log_changes: u64,
    /// The time of the newest batch: the clock of the state.
    pub time: TimeMs,
    /// The materialization that it began with.
    pub base: Option<Arc<BaseIndex>>,
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
    /// The base was made by an inner backend on local disk, and this daemon has none.
    #[error(
        "checkpoint {checkpoint} was made with inner backend `rocksdb`, which this daemon has not: it was built without it, or \
         cannot write `state.backend.rocksdb.localdir`"
    )]
    NoLocalBackends {
        /// Which.
        checkpoint: CheckpointId,
    },
    /// A local folder cannot be written.
    #[error("writing `{}` for a restore; is there room in `state.backend.rocksdb.localdir`?", path.display())]
    Folder {
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
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
    /// Inner backends on local disk, if the daemon has any.
    pub local: Option<&'a dyn LocalBackends>,
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
        let contents = self.manifest.contents(self.checkpoint);
        let base = self.read_base(&contents).await?;
        let handles = self.plan(&contents).await?;
        let mut restored = Restored { base: base.clone().map(Arc::new), ..Restored::default() };
        let logged: u64 = handles.iter().map(|handle| handle.stored_bytes).sum();
        let stored = base.as_ref().map_or(0, |base| base.extent().0);
        restored.progress.bytes_total = logged + stored;
        progress(restored.progress);
        if let Some(base) = &base {
            self.load(inner, base, &mut restored.progress, &mut progress).await?;
            self.load_images(inner, base, &mut restored.progress, &mut progress).await?;
        }
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
            let changes = self.replay(inner, &block, &mut restored, &handles)?;
            since_turn += changes;
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
        restored: &mut Restored,
        handles: &[SegmentHandle],
    ) -> Result<u64, RestoreError> {
        let key_groups = self.manifest.shape.key_groups;
        let mut replayed = 0;
        for batch in block.batches() {
            let batch = batch.map_err(|error| self.read_error(error, handles))?;
            restored.time = restored.time.max(batch.time);
            inner.set_stamp(batch.sqn.0);
            for (key_group, bytes) in batch.changes.filter(|(group, _)| key_groups.contains(*group)) {
                let change = Change::decode(key_group, bytes).map_err(|source| self.inner_error(source))?;
                replayed += 1;
                if restored.base.as_ref().is_some_and(|base| has_change(base, &change, batch.sqn)) {
                    continue;
                }
                inner.apply(&change).map_err(|source| self.inner_error(source))?;
            }
        }
        inner.finish_batch().map_err(|source| self.inner_error(source))?;
        restored.progress.changes += replayed;
        restored.log_changes += replayed;
        Ok(replayed)
    }

    /// Handles of all change sets of the checkpoint, in order.
    async fn plan(&self, contents: &Contents) -> Result<Vec<SegmentHandle>, RestoreError> {
        let mut handles = vec![];
        for source in &contents.sources {
            handles.extend(self.expand(*source).await?);
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
        handles.retain(|handle| handle.range.to > source.from && handle.range.to <= source.to);
        let mut next = source.from;
        for (position, handle) in handles.iter().enumerate() {
            // The first change set may begin before the lowest piece of the base.
            if handle.range.from != next && !(position == 0 && handle.range.contains(next)) {
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
        let reads_page = |source: &Source| reads(source, page.range);
        let bytes = match self.store.get(&path, self.retry).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => {
                return Err(self.damaged(format!("object `{path}` is missing"), true, &reads_page));
            }
            Err(error) => return Err(error.into()),
        };
        Page::decode(&self.manifest.backend.job, page, &bytes)
            .map_err(|error: EnvelopeError| self.damaged(format!("object `{path}`, {error}"), false, &reads_page))
    }

    fn read_error(&self, error: ReadError, handles: &[SegmentHandle]) -> RestoreError {
        let (object, missing) = match error {
            ReadError::Store { source, .. } => return RestoreError::Store(source),
            ReadError::Stopped { .. } => return RestoreError::Stopped,
            ReadError::Corrupt { ref object, .. } => (object, false),
            ReadError::Missing { ref object } => (object, true),
        };
        // What later checkpoints need of the object is newer than this one, so it is not yet in a page.
        let known = handles.iter().chain(self.manifest.runs.values().flat_map(|run| &run.handles));
        let lost: Vec<_> = known.filter(|h| path_of(h).as_ref() == object).map(|handle| handle.range).collect();
        let spoils = |source: &Source| lost.iter().any(|range| reads(source, *range));
        self.damaged(error.to_string(), missing, &spoils)
    }

    fn damaged(&self, what: String, missing: bool, spoils: &dyn Fn(&Source) -> bool) -> RestoreError {
        self.damaged_where(what, missing, |contents| contents.sources.iter().any(spoils))
    }

    /// Names damage and the retained checkpoints that it spoils: those whose contents `spoils` says so of.
    fn damaged_where(&self, what: String, missing: bool, spoils: impl Fn(&Contents) -> bool) -> RestoreError {
        let (spoilt, intact): (Vec<_>, Vec<_>) =
            self.manifest.checkpoints.iter().partition(|record| spoils(&self.manifest.contents(record)));
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

/// Whether the piece of a change has it already.
fn has_change(base: &BaseIndex, change: &Change<'_>, sqn: Sqn) -> bool {
    let at = change.at;
    let covered_to = base.covered_to(at.state, at.key_group, stable_hash(at.key, at.namespace));
    covered_to.is_some_and(|covered_to| sqn < covered_to)
}

/// Whether what `source` replays lies, in part, in `range`.
fn reads(source: &Source, range: SqnRange) -> bool {
    source.epoch == range.from.epoch() && source.from < range.to && source.to > range.from
}

fn path_of(handle: &SegmentHandle) -> Path {
    let segment = &handle.segment;
    ObjectName::Segment { job: segment.job.clone(), instance: segment.instance, number: segment.number }.path()
}

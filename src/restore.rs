//! Restore: load a base (or begin with the empty state) and replay the changelog up to a checkpoint's cut.
//!
//! ```text
//!   manifest, checkpoint ──▶ base: pieces or images ──read ahead, verified──▶ load into the inner backend
//!                       └──▶ sources: runs, each from and up to a sequence number
//!        ──expand pages──▶ handles of all change sets, in order ──▶ read ahead, verified ──▶ replay
//! ```
//!
//! The pieces of a snapshot were copied at different moments, so a change that a piece has already is skipped.
//!
//! After a rescale the state comes in several parts of other chains, the imports, each with its base and its sources.
//! They are restored one after the other into the same inner backend, each only with the key groups that this backend
//! has, and under the ids that its states have here. Of two changes to one entry, the later part wins.
//!
//! Every object is checked against its checksum before it is used: a damaged or missing object ends the restore with an
//! error that names it. [`crate::checkpoint::damage`] lists the other damaged objects and the checkpoints that can
//! still be restored.

mod changes;
mod images;
mod kept;
mod load;
pub mod reader;

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    changelog::{
        reader::{ReadError, ReplayOptions, ReplayStream, object_of},
        segment::SegmentHandle,
    },
    checkpoint::{
        base::BaseIndex,
        damage::Fault,
        envelope::EnvelopeError,
        index::{Page, PageRef, Stretch},
        manifest::{CheckpointRecord, Import, Manifest},
    },
    object::{Retry, Store, StoreError},
    state::{Address, Change, StateBackend, StateError, WARM_PLACES, image::LocalBackends, stable_hash},
    tasks::{self, Panicked, Tasks},
    types::{CheckpointId, KeyGroup, KeyGroupRange, Sqn, StateId, TimeMs},
};

pub use self::{
    changes::Logged,
    kept::{KeptImages, Unneeded},
};

/// Most bytes of changelog that a restore holds in memory, besides the state itself.
const READ_AHEAD_BYTES: u64 = 64 << 20;

/// A block of at least this many bytes takes longer to replay than handing over the other tasks of the thread.
const LONG_BLOCK_BYTES: u32 = 64 << 10;

/// Changes between two points at which other tasks of the thread may run.
const CHANGES_PER_TURN: u64 = 8 << 10;

/// How far a restore has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Stored bytes that were loaded or replayed.
    pub bytes_done: u64,
    /// Stored bytes to read altogether.
    pub bytes_total: u64,
    /// Changes applied, those of the base included.
    pub changes: u64,
}

/// The result of a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Bytes and changes that were read.
    pub progress: Progress,
    /// How many of the changes came from the log.
    pub log_changes: u64,
    /// The time of the newest batch, at which the backend's own time goes on.
    pub time: TimeMs,
    /// The materialization that the restore began with, if nothing was imported.
    pub base: Option<Arc<BaseIndex>>,
    /// The highest stamp that a change has had so far.
    stamp: Sqn,
}

/// Why a checkpoint cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// An object is damaged or missing.
    #[error("checkpoint {checkpoint} cannot be restored: {fault}")]
    Damaged {
        /// The checkpoint to restore.
        checkpoint: CheckpointId,
        /// The object, the offset in it and the fault.
        fault: Fault,
    },
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A block is larger than this daemon may hold.
    #[error(
        "checkpoint {checkpoint} cannot be restored here: {object} has a block of {bytes} bytes, and `memory.state` allows {allowed}; \
         raise `memory.state`, or restore on a host with more memory"
    )]
    TooLarge {
        /// The checkpoint to restore.
        checkpoint: CheckpointId,
        /// The object that has the block.
        object: String,
        /// Bytes of the block once it is decompressed.
        bytes: u64,
        /// Bytes that a block may have on this daemon.
        allowed: u64,
    },
    /// The inner backend refuses a change.
    #[error("replaying checkpoint {checkpoint}")]
    Inner {
        /// The checkpoint to restore.
        checkpoint: CheckpointId,
        /// The error of the inner backend.
        source: StateError,
    },
    /// The base was made by an inner backend on local disk, and this daemon has none.
    #[error(
        "checkpoint {checkpoint} was made with inner backend `rocksdb`, which this daemon has not: it was built without it, or \
         cannot write `state.backend.rocksdb.localdir`"
    )]
    NoLocalBackends {
        /// The checkpoint to restore.
        checkpoint: CheckpointId,
    },
    /// A local folder cannot be written.
    #[error("writing `{}` for a restore; is there room in `state.backend.rocksdb.localdir`?", path.display())]
    Folder {
        /// The local path that could not be written.
        path: std::path::PathBuf,
        /// The error of the file system.
        source: std::io::Error,
    },
    /// A read panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// The daemon stops.
    #[error("the restore was stopped")]
    Stopped,
}

/// A restore to do.
#[derive(Debug)]
pub struct Restore<'a> {
    /// The store that has the objects.
    pub store: &'a Store,
    /// The tasks that reads run on.
    pub tasks: &'a Tasks,
    /// Inner backends on local disk, if the daemon has any.
    pub local: Option<&'a dyn LocalBackends>,
    /// Images on local disk. Images that are there are not downloaded; downloaded images are kept there.
    pub kept: Option<&'a KeptImages>,
    /// The manifest that has the checkpoint.
    pub manifest: &'a Manifest,
    /// The checkpoint to restore.
    pub checkpoint: &'a CheckpointRecord,
    /// Range reads in flight at the same time.
    pub parallel_reads: usize,
    /// How each read is retried.
    pub retry: Retry,
    /// Bytes that one block may have once it is decompressed: [`block_memory`].
    pub block_memory: u64,
    /// The import to restore. `None` for the backend's own chain; then the imports of its checkpoint are restored too.
    pub imported: Option<Imported<'a>>,
}

/// An import, whose [view](Import::view) is restored as if it were a manifest.
#[derive(Debug, Clone, Copy)]
pub struct Imported<'a> {
    /// The import itself.
    pub import: &'a Import,
    /// The manifest that has the import.
    pub by: &'a Manifest,
}

/// A node in a tree of pages, before or after it was read.
enum Node {
    Unread(PageRef),
    Read(Page),
}

/// Bytes that one block may have in a daemon whose state may take `state_memory` bytes. A block contains one batch, or
/// one cell of a state in memory, plus overhead. If a block is larger, its state would not fit either.
#[must_use]
pub fn block_memory(state_memory: u64) -> u64 {
    state_memory.max(READ_AHEAD_BYTES)
}

/// The objects that one part of a restore reads.
struct Plan {
    base: Option<BaseIndex>,
    handles: Vec<SegmentHandle>,
}

impl Progress {
    /// Adds the counts of another read.
    pub fn add(&mut self, read: Self) {
        let Self { bytes_done, bytes_total, changes } = self;
        *bytes_done = bytes_done.saturating_add(read.bytes_done);
        *bytes_total = bytes_total.saturating_add(read.bytes_total);
        *changes = changes.saturating_add(read.changes);
    }
}

impl Restore<'_> {
    /// Replays the checkpoint into `inner`, which must be empty and know its states. Calls `progress` after each block.
    /// If the future is dropped, `inner` is half filled.
    ///
    /// # Errors
    /// [`RestoreError`]; then `inner` is half filled.
    pub async fn run(
        &self,
        inner: &mut dyn StateBackend,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<Restored, RestoreError> {
        let views = self.imports()?;
        let imports = views.iter().map(|(import, manifest, checkpoint)| Restore {
            manifest,
            checkpoint,
            imported: Some(Imported { import, by: self.manifest }),
            ..*self
        });
        let own = Restore { ..*self };
        let mut parts = vec![];
        let mut restored = Restored::default();
        // All is planned before anything is loaded. The total is known then, and an index that is missing is told
        // before the disk is filled.
        for part in imports.chain([own]) {
            let plan = part.plan().await?;
            restored.progress.add(Progress { bytes_total: plan.bytes(&part.wanted()), ..Progress::default() });
            parts.push((part, plan));
        }
        progress(restored.progress);
        // Ordering: imports first, then the own chain. Of two changes to one entry the later part wins, and the own
        // chain is younger than everything that it has imported.
        for (part, plan) in &parts {
            // Ordering: the base before the log, whose changes are relative to it.
            if let Some(base) = &plan.base {
                part.load(inner, base, &mut restored.progress, &mut progress).await?;
                part.load_images(inner, base, &mut restored.progress, &mut progress).await?;
            }
            part.replay_log(inner, plan, &mut restored, &mut progress).await?;
        }
        // Stamps are compared with sqns of the backend's own chain only, so a base of another chain is no base here.
        if views.is_empty() {
            // The own chain is the last part, and with no imports the only one.
            restored.base = parts.pop().and_then(|(_, plan)| plan.base).map(Arc::new);
        }
        Ok(restored)
    }

    /// The imports of the checkpoint, each as a manifest of its origin, in order.
    fn imports(&self) -> Result<Vec<(&Import, Manifest, CheckpointRecord)>, RestoreError> {
        let view = |uuid: &uuid::Uuid| {
            let missing = || self.lacks(format_args!("the manifest has no import {uuid}"));
            let import = self.manifest.import(*uuid).ok_or_else(missing)?;
            let (manifest, checkpoint) = import.view(self.manifest, self.checkpoint.identity.id);
            Ok((import, manifest, checkpoint))
        };
        self.manifest.contents(self.checkpoint).imports.iter().map(view).collect()
    }

    /// The key groups to restore. Operator state comes with the backend's own chain; operator state of other subtasks
    /// is an import of its own.
    fn wanted(&self) -> Vec<KeyGroupRange> {
        let mut wanted = vec![self.manifest.shape.key_groups];
        if self.imported.is_none() {
            wanted.push(KeyGroupRange::OPERATOR);
        }
        wanted
    }

    /// Replays the log of one part.
    async fn replay_log(
        &self,
        inner: &mut dyn StateBackend,
        plan: &Plan,
        restored: &mut Restored,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), RestoreError> {
        let options = ReplayOptions {
            key_groups: self.wanted(),
            parallel_reads: self.parallel_reads,
            max_bytes: READ_AHEAD_BYTES,
            retry: self.retry,
        };
        let mut stream = ReplayStream::new(self.store.clone(), self.tasks.clone(), &plan.handles, options);
        let mut since_turn = 0;
        while let Some(block) = stream.next().await {
            let block = block.map_err(|error| self.read_error(error))?;
            // An iterator of borrowed batches cannot live across an await. So other tasks of this thread, which read
            // the next blocks, go on elsewhere. Where they cannot, the size of a block bounds how long they wait.
            let takes_long = inner.may_block() || block.handle.length >= LONG_BLOCK_BYTES;
            let changes = tasks::blocking_if(takes_long, || self.replay(inner, &block, plan, restored))?;
            since_turn += changes;
            restored.progress.bytes_done += u64::from(block.handle.stored_length);
            progress(restored.progress);
            if since_turn >= CHANGES_PER_TURN {
                since_turn = 0;
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn replay(
        &self,
        inner: &mut dyn StateBackend,
        block: &crate::changelog::reader::ChangeBlock,
        plan: &Plan,
        restored: &mut Restored,
    ) -> Result<u64, RestoreError> {
        let wanted = self.wanted();
        let is_wanted = |group: KeyGroup| wanted.iter().any(|wanted| wanted.contains(group));
        let unfit = |source| self.unfit(source, &object_of(&block.place, block.range), block.handle.offset);
        let (mut replayed, mut together) = (0, Vec::with_capacity(WARM_PLACES));
        for batch in block.batches() {
            let batch = batch.map_err(|error| self.read_error(error))?;
            // Batches of several chains come one chain after the other, so their times may go back.
            restored.time = restored.time.max(batch.time);
            inner.set_time(restored.time);
            // Sqns of other chains are no stamps: imported changes count as older than all others.
            if self.imported.is_none() {
                // The blocks of one change set begin again with its first batches, and stamps must never decrease. A
                // stamp that is higher than the batch's sqn only makes the change look later than it was.
                restored.stamp = restored.stamp.max(batch.sqn);
                inner.set_stamp(restored.stamp.0);
            }
            let mut changes = batch.changes.filter(|(group, _)| is_wanted(*group)).peekable();
            while changes.peek().is_some() {
                together.clear();
                for (key_group, bytes) in changes.by_ref().take(WARM_PLACES) {
                    let change = Change::decode(key_group, bytes).map_err(unfit)?;
                    replayed += 1;
                    // Decided before the state is renamed: a base knows its states by the ids of its own chain.
                    if plan.base.as_ref().is_none_or(|base| !has_change(base, &change, batch.sqn)) {
                        together.extend(self.renamed(change));
                    }
                }
                inner.warm(&mut together.iter().map(|change| change.at));
                together.iter().try_for_each(|change| inner.apply(change)).map_err(unfit)?;
            }
        }
        inner.finish_batch().map_err(|source| self.inner_error(source))?;
        restored.progress.changes += replayed;
        restored.log_changes += replayed;
        Ok(replayed)
    }

    /// A stored change with the id that its state has here. `None` if the state had no entries left at the cut: then an
    /// import leaves it out.
    fn renamed<'a>(&self, change: Change<'a>) -> Option<Change<'a>> {
        let Some(Imported { import, .. }) = self.imported else { return Some(change) };
        let state: StateId = import.states.get(&change.at.state).copied()?;
        Some(Change { at: Address { state, ..change.at }, ..change })
    }

    /// The base of the checkpoint without its imports, and handles of all change sets after it, in order.
    async fn plan(&self) -> Result<Plan, RestoreError> {
        let contents = self.manifest.contents(self.checkpoint);
        let base = self.read_base(&contents).await?;
        let mut stretches = self.past(&contents.past).await?;
        for source in contents.sources {
            // A source without a run would be an empty log, and its changes would be lost without a word.
            let Some(run) = self.manifest.runs.get(&source.epoch) else {
                return Err(self.lacks(format_args!("the manifest has no run of epoch {}", source.epoch)));
            };
            stretches.push(Stretch { source, run: run.clone() });
        }
        let mut handles = vec![];
        for stretch in stretches {
            handles.extend(self.expand(stretch).await?);
        }
        Ok(Plan { base, handles })
    }

    /// The sources that `pages` list, in order.
    async fn past(&self, pages: &[PageRef]) -> Result<Vec<Stretch>, RestoreError> {
        let mut past = vec![];
        for page in self.leaves(pages.to_vec(), |_| true).await? {
            match page {
                Page::Past(stretches) => past.extend(stretches),
                _ => return Err(self.lacks("a page of the past lists no sources")),
            }
        }
        Ok(past)
    }

    /// Handles of the change sets of one source, from its run's pages and its list.
    async fn expand(&self, Stretch { source, run }: Stretch) -> Result<Vec<SegmentHandle>, RestoreError> {
        let mut handles = vec![];
        for page in self.leaves(run.pages, |page| page.range.from < source.to && page.range.to > source.from).await? {
            match page {
                Page::Handles(found) => handles.extend(found),
                _ => return Err(self.lacks("a page of a run lists no change sets")),
            }
        }
        handles.extend(run.handles);
        for handle in &handles {
            let object = || object_of(&handle.place, handle.range);
            handle.blocks.iter().try_for_each(|block| self.check_length(block.length, object))?;
        }
        handles.retain(|handle| handle.range.to > source.from && handle.range.to <= source.to);
        // The index is checked for gaps before anything is read: a restore that misses a change set would look whole.
        let mut next = source.from;
        for (position, handle) in handles.iter().enumerate() {
            // The first change set may begin before the lowest piece of the base.
            if handle.range.from != next && !(position == 0 && handle.range.contains(next)) {
                let what = format!("the log index of epoch {} has a gap at {next}", source.epoch);
                return Err(self.lacks(what));
            }
            next = handle.range.to;
        }
        if next != source.to {
            let what =
                format!("the log index of epoch {} ends at {next}, the checkpoint needs {}", source.epoch, source.to);
            return Err(self.lacks(what));
        }
        Ok(handles)
    }

    /// The pages of level 1 of the trees below `pages`, in order; pages that are not `wanted` are left out.
    async fn leaves(&self, pages: Vec<PageRef>, wanted: impl Fn(&PageRef) -> bool) -> Result<Vec<Page>, RestoreError> {
        let mut level = vec![Page::Pages(pages)];
        while level.iter().any(|page| matches!(page, Page::Pages(_))) {
            let mut reads = vec![];
            for page in level {
                match page {
                    Page::Pages(pages) => reads.extend(pages.into_iter().filter(&wanted).map(Node::Unread)),
                    leaf => reads.push(Node::Read(leaf)),
                }
            }
            // Collected first: a stream of borrowing closures would make the restore a future that cannot be spawned.
            let reads: Vec<_> = reads.into_iter().map(|node| self.read_node(node)).collect();
            level = stream::iter(reads).buffered(self.parallel_reads.max(1)).try_collect().await?;
        }
        Ok(level)
    }

    async fn read_node(&self, node: Node) -> Result<Page, RestoreError> {
        match node {
            Node::Unread(page) => self.read_page(&page).await,
            Node::Read(page) => Ok(page),
        }
    }

    async fn read_page(&self, page: &PageRef) -> Result<Page, RestoreError> {
        let path = page.name(&self.manifest.backend).path();
        let job = &self.manifest.backend.job;
        match self.store.get_checked(&path, self.retry, |bytes| Page::decode(job, page, bytes)).await {
            Ok(read) => read,
            Err(StoreError::NotFound { .. }) => return Err(self.damaged(Fault::missing(&path))),
            Err(error) => return Err(error.into()),
        }
        .map_err(|error: EnvelopeError| self.damaged(Fault::corrupt(&path, None, error)))
    }

    fn read_error(&self, error: ReadError) -> RestoreError {
        let what = error.to_string();
        match error {
            ReadError::Store { source, .. } => RestoreError::Store(source),
            ReadError::Stopped { .. } => RestoreError::Stopped,
            ReadError::Panicked { source, .. } => RestoreError::Panicked(source),
            ReadError::Corrupt { object, offset, .. } => {
                self.damaged(Fault { object, offset: Some(offset), what, missing: false })
            }
            ReadError::Missing { object } => self.damaged(Fault { object, offset: None, what, missing: true }),
        }
    }

    fn damaged(&self, fault: Fault) -> RestoreError {
        RestoreError::Damaged { checkpoint: self.checkpoint.identity.id, fault }
    }

    /// The error for a manifest that lacks something that it should have.
    fn lacks(&self, what: impl std::fmt::Display) -> RestoreError {
        let manifest = self.imported.map_or(self.manifest, |imported| imported.by);
        self.damaged(Fault::of_manifest(manifest, what))
    }

    /// Checks that the block of `object` is not too large for this daemon.
    fn check_length(&self, length: u32, object: impl Fn() -> String) -> Result<(), RestoreError> {
        let (bytes, allowed) = (u64::from(length), self.block_memory);
        if bytes <= allowed {
            return Ok(());
        }
        Err(RestoreError::TooLarge { checkpoint: self.checkpoint.identity.id, object: object(), bytes, allowed })
    }

    /// The error for a change at `offset` of `object` that could not be applied. If the change fits no registered
    /// state, the object itself is damaged.
    fn unfit(&self, source: StateError, object: &str, offset: u64) -> RestoreError {
        if !source.is_damage() {
            return self.inner_error(source);
        }
        let what = format!("object `{object}`, byte {offset}: {source}");
        self.damaged(Fault { object: object.to_owned(), offset: Some(offset), what, missing: false })
    }

    fn inner_error(&self, source: StateError) -> RestoreError {
        RestoreError::Inner { checkpoint: self.checkpoint.identity.id, source }
    }
}

impl Plan {
    /// Stored bytes to read for the key groups of `wanted`.
    fn bytes(&self, wanted: &[KeyGroupRange]) -> u64 {
        let is_wanted = |of: KeyGroupRange| wanted.iter().any(|wanted| wanted.overlaps(of));
        let pieces = self.base.iter().flat_map(BaseIndex::stored);
        let pieces = pieces.filter(|(piece, _)| is_wanted(piece.key_groups));
        let images = self.base.iter().flat_map(BaseIndex::images);
        let images = images.filter(|image| is_wanted(image.key_groups));
        let files = images.flat_map(|image| &image.files).map(|stored| stored.file.bytes);
        let files = files.fold(0, u64::saturating_add);
        let blocks = self.handles.iter().flat_map(|handle| &handle.blocks);
        let blocks = blocks.filter(|block| is_wanted(block.key_groups));
        let stored: u64 = pieces.map(|(_, block)| u64::from(block.stored_length)).sum();
        let blocks: u64 = blocks.map(|block| u64::from(block.stored_length)).sum();
        files.saturating_add(stored).saturating_add(blocks)
    }
}

/// Whether the piece that a change belongs to has the change already.
fn has_change(base: &BaseIndex, change: &Change<'_>, sqn: Sqn) -> bool {
    let at = change.at;
    let covered_to = base.covered_to(at.state, at.key_group, stable_hash(at.key, at.namespace));
    covered_to.is_some_and(|covered_to| sqn < covered_to)
}

//! The snapshots of one backend that are under way, one for each checkpoint that is made without changelog.
//!
//! A snapshot waits for the ones before it, so that it uploads only the changes since them; but it does not wait for
//! one that makes no progress.

use std::{collections::BTreeMap, fmt, sync::Arc};

use tokio::{
    sync::{Notify, futures::OwnedNotified},
    task::AbortHandle,
    time::Instant,
};

use crate::{
    backend::table::copy::FrozenImage, checkpoint::base::Piece, materialization::reusable::Reusable,
    state::cut::CutPiece, types::CheckpointId,
};

/// A snapshot waits for an earlier one that makes no progress for this fraction of its own time.
const PATIENCE: u32 = 4;

/// Begins the task that uploads the frozen snapshot of a checkpoint.
pub(crate) type BeginUpload = Arc<dyn Fn(CheckpointId) -> AbortHandle + Send + Sync>;

/// The snapshots of one backend that are under way, by checkpoint.
pub(crate) struct Snapshots {
    running: BTreeMap<CheckpointId, Snapshot>,
    /// Notified when a snapshot is over.
    over: Arc<Notify>,
    begin_upload: BeginUpload,
}

/// The snapshot of one checkpoint.
#[derive(Debug)]
pub(crate) struct Snapshot {
    triggered: Instant,
    /// When its time is over.
    pub(crate) deadline: Instant,
    /// When it last made progress.
    progressed: Instant,
    /// Materializations whose pieces or images it uses, oldest first.
    leans_on: Vec<Arc<Reusable>>,
    /// The images of an inner backend on local disk.
    pub(crate) images: Vec<FrozenImage>,
    task: Option<AbortHandle>,
}

/// When the turn of a snapshot comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// The turn has come.
    Now,
    /// The turn comes at this time, if not earlier.
    Later(Instant),
    /// The snapshot was given up.
    Never,
}

impl Snapshot {
    /// A snapshot that is frozen at `now`, and has time until `deadline`. It uses parts of `newest`.
    pub(crate) fn new(
        now: Instant,
        deadline: Instant,
        newest: Option<&Arc<Reusable>>,
        images: Vec<FrozenImage>,
    ) -> Self {
        let leans_on = newest.into_iter().cloned().collect();
        Self { triggered: now, deadline, progressed: now, leans_on, images, task: None }
    }

    /// Notes that the snapshot has made progress, which postpones the end of its patience.
    pub(crate) fn progress(&mut self) {
        self.progressed = Instant::now();
    }

    /// Uses parts of `newest`, too. Returns whether it did not before.
    pub(crate) fn lean_on(&mut self, newest: &Arc<Reusable>) -> bool {
        // Materializations are leaned on in their order, so the last one is the newest.
        let is_new = self.leans_on.last().is_none_or(|last| last.uuid() != newest.uuid());
        if is_new {
            self.leans_on.push(newest.clone());
        }
        is_new
    }

    /// The piece on the store that equals `piece`.
    pub(crate) fn known(&self, piece: &CutPiece) -> Option<Piece> {
        let same = |base: &Arc<Reusable>| {
            let known = base.find(piece.state, piece.key_group, piece.hashes.first)?;
            (known.hashes == piece.hashes && piece.changed < known.sqn.0).then(|| known.clone())
        };
        // Newest first: it has the highest sqn, so it knows most of the pieces that have not changed.
        self.leans_on.iter().rev().find_map(same)
    }

    /// Whether it has taken images, whose folders take the disk a while to remove.
    pub(crate) fn has_taken_images(&self) -> bool {
        self.images.iter().any(|image| matches!(image, FrozenImage::Taken(..)))
    }
}

impl Snapshots {
    /// No snapshots, whose uploads `begin_upload` begins.
    pub(crate) fn new(begin_upload: BeginUpload) -> Self {
        Self { running: BTreeMap::new(), over: Arc::default(), begin_upload }
    }

    /// Adds a frozen snapshot.
    pub(crate) fn add(&mut self, id: CheckpointId, snapshot: Snapshot) {
        self.running.insert(id, snapshot);
    }

    /// Begins the upload of the frozen snapshot of checkpoint `id`, if it has one.
    pub(crate) fn begin(&mut self, id: CheckpointId) {
        if let Some(snapshot) = self.running.get_mut(&id) {
            snapshot.task = Some((self.begin_upload)(id));
        }
    }

    /// The snapshot of checkpoint `id`.
    pub(crate) fn of(&mut self, id: CheckpointId) -> Option<&mut Snapshot> {
        self.running.get_mut(&id)
    }

    /// Images of the newest snapshot, which the next one may share.
    pub(crate) fn newest_images(&self) -> &[FrozenImage] {
        self.running.values().next_back().map_or(&[], |newest| &newest.images)
    }

    /// Removes the snapshot of checkpoint `id`, because its materialization is durable.
    pub(crate) fn finish(&mut self, id: CheckpointId) -> Option<Snapshot> {
        self.running.remove(&id)
    }

    /// Removes the snapshot of checkpoint `id`, and ends its upload.
    pub(crate) fn give_up(&mut self, id: CheckpointId) -> Option<Snapshot> {
        let snapshot = self.running.remove(&id)?;
        if let Some(task) = &snapshot.task {
            // It ends at its next wait, and holds no lock there. Files that it has uploaded are left to a sweep.
            task.abort();
        }
        Some(snapshot)
    }

    /// Lets other snapshots go on, after one is over.
    pub(crate) fn one_is_over(&self) {
        self.over.notify_waiters();
    }

    /// Waits until the next snapshot is over, counted from now.
    pub(crate) fn one_over(&self) -> OwnedNotified {
        // A future of this kind hears of every end from its making on, whenever it is first polled.
        self.over.clone().notified_owned()
    }

    /// When the turn of checkpoint `id` comes.
    pub(crate) fn turn(&self, id: CheckpointId, now: Instant) -> When {
        let Some(snapshot) = self.running.get(&id) else { return When::Never };
        // Nothing before it is under way, so there is nothing to wait for.
        let Some(progressed) = self.running.range(..id).map(|(_, before)| before.progressed).max() else {
            return When::Now;
        };
        // A snapshot waits as long as one before it goes on. A quarter of its own time without any progress ends that:
        // it must not fail because the store does not take the files of another one.
        let patience = snapshot.deadline.saturating_duration_since(snapshot.triggered) / PATIENCE;
        let latest = progressed.max(snapshot.triggered) + patience;
        if latest <= now { When::Now } else { When::Later(latest) }
    }

    #[cfg(test)]
    pub(crate) fn abort(&self, id: CheckpointId) {
        self.running.get(&id).and_then(|snapshot| snapshot.task.as_ref()).expect("it is uploaded").abort();
    }
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshots").field("running", &self.running).finish_non_exhaustive()
    }
}

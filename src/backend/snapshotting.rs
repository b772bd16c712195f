//! Checkpoints without changelog: each is a snapshot of the inner backend at exactly its barrier.
//!
//! ```text
//!   barrier ─▶ freeze: a cut of what is in memory, images of what is on disk ──▶ records of ledger and flights
//!                 │ writes go on; a slice is copied before it changes (state/cut.rs)
//!                 ▼
//!   turn ─▶ upload what the newest snapshot does not have ─▶ a materialization that is complete at the cut ─▶ manifest
//! ```
//!
//! A snapshot waits for the ones before it, so that it uploads only the changes since them; but it does not wait for
//! one that makes no progress. Parts of an older snapshot that it uses stay named in the manifest until it is done.
//! Each snapshot is retried until its checkpoint's time is over. Then that checkpoint has failed, and no other.
//!
//! Copies that wait for their upload take write credit, like changes that are not durable.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{
    sync::{Notify, futures::OwnedNotified},
    task::AbortHandle,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use super::{
    core::{Condition, Core, signed},
    handle::Shared,
    materialize::{Reusable, failed, local, target},
};
use crate::{
    checkpoint::{
        base::Image,
        owner::{Cut, Turn},
    },
    error::{Error, Reason},
    materialization::{
        images::ImageWriter,
        pieces::PieceWriter,
        target::{Made, Target},
    },
    object::Retry,
    state::{
        StateBackend as _,
        cut::{CutContents, CutPiece, Kept},
        image::{Flush, LocalImage},
    },
    tasks::{self, Panicked},
    types::{CheckpointId, Sqn},
};

/// A snapshot waits for an earlier one that makes no progress for this fraction of its own time.
const PATIENCE: u32 = 4;

/// Pieces without contents that are looked at between two points at which others may get the core.
const EMPTY_PIECES: usize = 64;

/// The snapshots of one backend that are under way, by checkpoint.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    running: BTreeMap<CheckpointId, Snapshot>,
    /// Notified when a snapshot is over.
    over: Arc<Notify>,
    /// Bytes of copies that are counted in the credit account.
    held_bytes: u64,
}

/// The snapshot of one checkpoint.
#[derive(Debug)]
struct Snapshot {
    triggered: Instant,
    deadline: Instant,
    /// When it last made progress.
    progressed: Instant,
    /// Materializations whose pieces or images it uses, oldest first.
    leans_on: Vec<Arc<Reusable>>,
    /// The images of an inner backend on local disk.
    images: Vec<FrozenImage>,
    task: Option<AbortHandle>,
}

/// One part of an inner backend on local disk, as it was at the cut.
#[derive(Debug, Clone)]
enum FrozenImage {
    /// The image is on the store already.
    Known(Image),
    /// The image was taken; with the highest stamp of any change in it.
    Taken(Arc<LocalImage>, u64),
}

/// The work of a snapshot when its turn comes.
struct Work {
    target: Target,
    cut: Sqn,
    images: Vec<FrozenImage>,
    /// For images: the materialization whose files may be reused.
    newest: Option<Arc<Reusable>>,
}

/// How a snapshot goes on when its turn comes.
enum Begun {
    /// The snapshot equals this materialization, which is durable.
    Durable(Uuid),
    /// The missing parts have to be uploaded.
    Works(Box<Work>),
}

/// The result of a snapshot.
enum Snapped {
    /// The snapshot equals this materialization, which was durable when its turn came.
    Durable(Uuid),
    /// A materialization of its own.
    Made(Box<Made>),
}

/// When the turn of a snapshot comes.
enum When {
    /// The turn has come.
    Now,
    /// The turn comes at this time, if not earlier.
    Later(Instant),
    /// The snapshot was given up.
    Never,
}

impl Snapshots {
    /// Waits until the next snapshot is over, counted from now.
    pub(super) fn one_over(&self) -> OwnedNotified {
        self.over.clone().notified_owned()
    }

    fn turn(&self, id: CheckpointId, now: Instant) -> When {
        let Some(snapshot) = self.running.get(&id) else { return When::Never };
        let Some(progressed) = self.running.range(..id).map(|(_, before)| before.progressed).max() else {
            return When::Now;
        };
        let patience = snapshot.deadline.saturating_duration_since(snapshot.triggered) / PATIENCE;
        let latest = progressed.max(snapshot.triggered) + patience;
        if latest <= now { When::Now } else { When::Later(latest) }
    }
}

impl Core {
    /// Whether the backend has no changelog, so that its checkpoints are snapshots.
    pub(super) fn is_unlogged(&self) -> bool {
        self.owner.is_unlogged()
    }

    /// The error for a request that needs a changelog.
    pub(super) fn check_logged(&self, what: &str) -> Result<(), Error> {
        if !self.is_unlogged() {
            return Ok(());
        }
        let text = format!(
            "backend `{}` was opened without changelog, so there is nothing to {what}: take a checkpoint, which is a snapshot \
             then, or open it with CHANGELOG_MODE_ENABLED",
            self.id
        );
        Err(Error::new(Reason::Unsupported, text))
    }

    /// Flushes that may take long, so they are better done before a barrier than by it.
    pub(super) fn flushes(&mut self) -> Vec<Flush> {
        if !self.is_unlogged() {
            return vec![];
        }
        let previous = self.previous.clone();
        let may_block = self.inner.may_block();
        let Some(images) = self.inner.images() else { return vec![] };
        let is_changed = |part: &(usize, _)| {
            let known = previous.as_ref().and_then(|previous| previous.image(part.1));
            known.is_none_or(|known| images.changed(part.0) >= known.sqn.0)
        };
        let parts = images.parts().into_iter().enumerate().filter(is_changed);
        let flush = || parts.map(|(part, _)| images.flush(part)).collect();
        tasks::blocking_if(may_block, flush)
    }

    /// Cuts the present contents for checkpoint `id`, and freezes them unless they are durable.
    ///
    /// # Errors
    /// If the local disk fails: nothing was frozen.
    pub(super) fn freeze(&mut self, id: CheckpointId, deadline: Instant) -> Result<Cut, Error> {
        if let Some(cut) = self.owner.cut_durable(self.next_batch) {
            return Ok(cut);
        }
        let leans_on: Vec<Arc<Reusable>> = self.previous.iter().cloned().collect();
        let may_block = self.inner.may_block();
        let images = match self.inner.images() {
            Some(_) => tasks::blocking_if(may_block, || self.freeze_images())?,
            None => vec![],
        };
        tasks::blocking_if(may_block, || self.inner.cuts().begin_cut(id, kept(leans_on.first())));
        let now = Instant::now();
        let cut = self.owner.begin_snapshot(id, self.next_batch, leans_on.first().map(|newest| newest.uuid()));
        let snapshot = Snapshot { triggered: now, deadline, progressed: now, leans_on, images, task: None };
        self.snapshots.running.insert(id, snapshot);
        self.env.metrics.materialization_started();
        Ok(cut)
    }

    /// Takes an image of every part that has changed since its last known image.
    fn freeze_images(&mut self) -> Result<Vec<FrozenImage>, Error> {
        let Self { inner, previous, snapshots, env, .. } = self;
        let images = inner.images().expect("a backend has pieces or images");
        let newest = snapshots.running.values().next_back();
        let mut frozen = vec![];
        for (part, key_groups) in images.parts().into_iter().enumerate() {
            let changed = images.changed(part);
            let known = previous.as_ref().and_then(|previous| previous.image(key_groups));
            if let Some(known) = known.filter(|known| changed < known.sqn.0) {
                frozen.push(FrozenImage::Known(known.clone()));
                continue;
            }
            let same = |image: &&FrozenImage| matches!(image, FrozenImage::Taken(_, stamp) if *stamp == changed);
            if let Some(same) = newest.and_then(|newest| newest.images.get(part)).filter(same) {
                frozen.push(same.clone());
                continue;
            }
            let began = Instant::now();
            let image = images.image(part).map_err(|fault| local(&fault))?;
            env.metrics.image_taken(began.elapsed());
            frozen.push(FrozenImage::Taken(Arc::new(image), changed));
        }
        Ok(frozen)
    }

    /// Begins the upload of the frozen snapshot of checkpoint `id`, if it has one.
    pub(super) fn upload_snapshot(&mut self, id: CheckpointId) {
        let Some(shared) = self.shared.upgrade() else { return };
        if let Some(snapshot) = self.snapshots.running.get_mut(&id) {
            let weak = self.shared.clone();
            let on_panic = move |panicked: &Panicked| {
                let Some(shared) = weak.upgrade() else { return };
                let text = format!("checkpoint {id} was given up because of {panicked}");
                shared.core().fail_checkpoint(id, Error::new(Reason::Internal, text));
                shared.wake.notify_one();
            };
            let task = async move { run(&shared, id).await };
            snapshot.task = Some(self.env.tasks.supervise("the snapshot of a checkpoint", task, on_panic));
        }
    }

    /// Gives up the snapshot of a failed checkpoint, if it has one.
    pub(super) fn give_up_snapshot(&mut self, id: CheckpointId, why: &Error) {
        let Some(snapshot) = self.snapshots.running.remove(&id) else { return };
        if let Some(task) = &snapshot.task {
            task.abort();
        }
        let was_wanted = why.reason != Reason::CheckpointAborted && !matches!(self.condition, Condition::Ended(_));
        if was_wanted {
            self.materialization_failures = self.materialization_failures.saturating_add(1);
            self.env.metrics.materialization_failed(&self.id, self.materialization_failures);
        }
        self.end_snapshot(id, snapshot);
    }

    /// Updates the credit held for copies.
    pub(super) fn count_copies(&mut self) {
        if !self.is_unlogged() {
            return;
        }
        let held = self.inner.cuts().held_bytes();
        let before = std::mem::replace(&mut self.snapshots.held_bytes, held);
        if held > before {
            self.account.hold(held - before);
        } else {
            self.account.release(before - held);
        }
        self.env.metrics.pending_grew(signed(held) - signed(before));
    }

    /// Takes the result of the snapshot of `id`; called by its task.
    fn snapshot_done(&mut self, id: CheckpointId, made: Result<Snapped, Error>) {
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!(backend = %self.id, checkpoint = id, %error, "snapshot failed");
                // The store was tried until the end of the checkpoint's time.
                let error = match error.reason {
                    Reason::StoreUnavailable => self.timed_out(id, &error.message),
                    _ => error,
                };
                self.fail_checkpoint(id, error);
                return;
            }
        };
        let Some(snapshot) = self.snapshots.running.remove(&id) else { return };
        match made {
            Snapped::Made(made) => self.install(id, *made, &snapshot),
            Snapped::Durable(base) => _ = self.owner.snapshotted(id, Err(base)),
        }
        self.end_snapshot(id, snapshot);
        self.wake_session();
    }

    /// Adds the new materialization of checkpoint `id`.
    fn install(&mut self, id: CheckpointId, made: Made, snapshot: &Snapshot) {
        let Made { materialization, index, uploaded_bytes } = made;
        let taken = snapshot.images.iter().filter_map(|image| match image {
            FrozenImage::Taken(image, _) => Some(image.clone()),
            FrozenImage::Known(_) => None,
        });
        self.keep_images(materialization.uuid, &index, &taken.collect::<Vec<_>>());
        self.env.metrics.materialized(&self.id, materialization.stored_bytes, uploaded_bytes);
        tracing::info!(
            backend = %self.id,
            changes = materialization.changes,
            stored_bytes = materialization.stored_bytes,
            uploaded_bytes,
            "snapshot is durable"
        );
        self.materialization_failures = 0;
        let uuid = materialization.uuid;
        if self.owner.snapshotted(id, Ok((materialization, uploaded_bytes))) == Some(true) {
            self.previous = Some(Arc::new(Reusable::new(uuid, Arc::new(index))));
        }
    }

    /// Frees the memory of a snapshot, and lets the next ones go on.
    fn end_snapshot(&mut self, id: CheckpointId, snapshot: Snapshot) {
        self.inner.cuts().end_cut(id);
        self.count_copies();
        self.snapshots.over.notify_waiters();
        if snapshot.images.iter().any(|image| matches!(image, FrozenImage::Taken(..))) {
            // Dropping it removes its folders, which may take the disk a while.
            self.env.tasks.spawn(async move { tasks::blocking(|| drop(snapshot)) });
        }
    }

    /// The work of the snapshot of `id` now; `None` if it was given up.
    fn begin_snapshot(&mut self, id: CheckpointId, target: impl FnOnce(&Self, Instant) -> Target) -> Option<Begun> {
        let number = self.snapshot_files.load(std::sync::atomic::Ordering::Relaxed);
        let deadline = self.snapshots.running.get(&id)?.deadline;
        let target = target(self, deadline);
        // A later materialization has changes that this cut must not have.
        let cut = self.owner.snapshot_cut(id)?;
        let newest = self.previous.clone().filter(|newest| newest.is_before(cut));
        match self.owner.take_turn(id, number, newest.as_ref().map(|newest| newest.uuid()))? {
            Turn::Durable(base) => return Some(Begun::Durable(base)),
            Turn::Works => {}
        }
        let snapshot = self.snapshots.running.get_mut(&id)?;
        snapshot.progressed = Instant::now();
        if let Some(newest) = &newest
            && snapshot.leans_on.last().is_none_or(|last| last.uuid() != newest.uuid())
        {
            snapshot.leans_on.push(newest.clone());
            self.inner.cuts().keep(id, kept(Some(newest)));
        }
        let snapshot = self.snapshots.running.get(&id)?;
        Some(Begun::Works(Box::new(Work { target, cut, images: snapshot.images.clone(), newest })))
    }

    /// The next piece of a snapshot, and the piece on the store that it replaces.
    #[allow(clippy::type_complexity, reason = "a piece and where it is known from")]
    fn next_piece(
        &mut self,
        id: CheckpointId,
    ) -> Result<Option<(CutPiece, Option<crate::checkpoint::base::Piece>)>, Error> {
        if let Condition::Ended(error) = &self.condition {
            return Err(error.clone());
        }
        let may_block = self.inner.may_block();
        let next = tasks::blocking_if(may_block, || self.inner.cuts().next_of_cut(id));
        let Some(piece) = next.map_err(|fault| local(&fault))? else { return Ok(None) };
        let Some(snapshot) = self.snapshots.running.get_mut(&id) else { return Ok(None) };
        snapshot.progressed = Instant::now();
        let same = |base: &Arc<Reusable>| {
            let known = base.find(piece.state, piece.key_group, piece.hashes.first)?;
            (known.hashes == piece.hashes && piece.changed < known.sqn.0).then(|| known.clone())
        };
        let known = snapshot.leans_on.iter().rev().find_map(same);
        self.count_copies();
        Ok(Some((piece, known)))
    }
}

impl super::Backend {
    /// Does the flushes that are better done before a barrier than by it.
    pub(super) fn flush(&self) {
        let flushes = self.shared.core().flushes();
        for flush in flushes {
            // If the disk fails, the barrier reports it.
            let _ = tasks::blocking(flush);
        }
    }
}

/// The pieces that a cut need not copy.
fn kept(reusable: Option<&Arc<Reusable>>) -> Kept {
    let Some(reusable) = reusable.cloned() else { return Arc::new(|_, _, _| None) };
    Arc::new(move |state, group, hash| reusable.covering(state, group, hash).map(|piece| (piece.hashes, piece.sqn.0)))
}

/// Makes one snapshot when its turn comes, and passes the result to the core.
async fn run(shared: &Arc<Shared>, id: CheckpointId) {
    if !wait_for_turn(shared, id).await {
        return;
    }
    let begun = shared.core().begin_snapshot(id, |core, deadline| Target {
        insist_until: Some(deadline),
        ..target(core, shared, Retry::until(deadline))
    });
    let made = |made| Snapped::Made(Box::new(made));
    let made = match begun {
        None => return,
        Some(Begun::Durable(base)) => Ok(Snapped::Durable(base)),
        Some(Begun::Works(work)) if work.images.is_empty() => {
            pieces(shared, id, (work.target, work.cut), (vec![], 0)).await.map(made)
        }
        Some(Begun::Works(work)) => images(shared, id, *work).await.map(made),
    };
    shared.core().snapshot_done(id, made);
    shared.wake.notify_one();
}

/// Waits for the turn of snapshot `id`; returns whether it came.
async fn wait_for_turn(shared: &Shared, id: CheckpointId) -> bool {
    let over = shared.core().snapshots.over.clone();
    loop {
        let ended = over.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        let turn = shared.core().snapshots.turn(id, Instant::now());
        let until = match turn {
            When::Now => return true,
            When::Never => return false,
            When::Later(until) => until,
        };
        tokio::select! {
            biased;
            () = ended => {}
            () = sleep_until(until) => {}
        }
    }
}

/// Uploads the pieces of a cut, and lists `images` with them.
async fn pieces(
    shared: &Shared,
    id: CheckpointId,
    (target, cut): (Target, Sqn),
    images: (Vec<Image>, u64),
) -> Result<Made, Error> {
    let mut writer = PieceWriter::new(target);
    let mut empty = 0;
    loop {
        let next = shared.core().next_piece(id)?;
        let Some((piece, known)) = next else { break };
        let place = (piece.state, piece.key_group, piece.hashes);
        match (known, piece.contents) {
            (Some(known), _) => writer.reuse(&known, piece.key_group, cut),
            (None, CutContents::Copied(contents)) => {
                empty = if contents.is_some() { EMPTY_PIECES } else { empty };
                writer.add(place, cut, contents).await.map_err(|error| failed(&error))?;
            }
            (None, CutContents::Kept) => {
                return Err(Error::new(Reason::Internal, format!("snapshot {id}: {place:?} is kept nowhere")));
            }
        }
        empty += 1;
        if empty >= EMPTY_PIECES {
            empty = 0;
            tokio::task::yield_now().await;
        }
    }
    writer.finish(images, cut).await.map_err(|error| failed(&error))
}

/// Uploads images, and operator state as pieces.
async fn images(shared: &Shared, id: CheckpointId, work: Work) -> Result<Made, Error> {
    let Work { target, cut, images, newest } = work;
    let mut writer = ImageWriter::new(target.clone());
    for image in images {
        match image {
            FrozenImage::Known(image) => writer.reuse(&image, cut),
            FrozenImage::Taken(taken, changed) => {
                let known = newest.as_ref().and_then(|newest| newest.image(taken.key_groups));
                match known.filter(|known| changed < known.sqn.0) {
                    Some(known) => writer.reuse(known, cut),
                    None => writer.add(&taken, cut, known).await.map_err(|error| failed(&error))?,
                }
            }
        }
        if let Some(snapshot) = shared.core().snapshots.running.get_mut(&id) {
            snapshot.progressed = Instant::now();
        }
    }
    pieces(shared, id, (target, cut), writer.finish()).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;

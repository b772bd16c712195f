//! Checkpoints without changelog: each is a snapshot of the inner backend at exactly its barrier.
//!
//! ```text
//!   barrier ─▶ freeze: a cut of what is in memory, images of what is on disk ──▶ records of ledger and flights
//!                 │ writes go on; a slice is copied before it changes (state/cut.rs)
//!                 ▼
//!   turn ─▶ upload what the newest snapshot does not have ─▶ a materialization that is complete at the cut ─▶ manifest
//! ```
//!
//! A snapshot waits for its turn ([`snapshots`](crate::backend::bases::snapshots)). Parts of an older snapshot that it
//! uses stay named in the manifest until it is done. Each snapshot is retried until its checkpoint's time is over. Then
//! that checkpoint has failed, and no other.
//!
//! Copies that wait for their upload take write credit, like changes that are not durable.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::materialize::{Done, install};
use crate::{
    backend::{
        barrier::timed_out,
        bases::snapshots::{BeginUpload, When},
        core::Core,
        error,
        shared::Shared,
        table::copy::FrozenImage,
    },
    checkpoint::owner::Turn,
    error::{Error, Reason},
    materialization::{
        driver::{self, Source, Step},
        pieces::PiecePlace,
        reusable::Reusable,
        target::{Made, Target},
    },
    object::Retry,
    state::cut::CutContents,
    tasks::{Panicked, Tasks},
    types::{CheckpointId, Sqn},
};

/// Pieces without contents that are looked at between two points at which others may get the core.
const EMPTY_PIECES: usize = 64;

/// The work of a snapshot when its turn comes.
struct Work {
    target: Target,
    cut: Sqn,
    images: VecDeque<FrozenImage>,
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

/// Begins uploads of snapshots of the backend `shared`, among `tasks`.
pub(crate) fn uploads_of(shared: Weak<Shared>, tasks: Tasks) -> BeginUpload {
    Arc::new(move |id| {
        let (uploaded, weak) = (shared.clone(), shared.clone());
        let upload = async move {
            if let Some(shared) = uploaded.upgrade() {
                run(&shared, id).await;
            }
        };
        let on_panic = move |panicked: &Panicked| {
            let Some(shared) = weak.upgrade() else { return };
            let text = format!("checkpoint {id} was given up because of {panicked}");
            shared.core().fail_checkpoint(id, Error::new(Reason::Internal, text));
            shared.wake();
        };
        tasks.supervise("the snapshot of a checkpoint", upload, on_panic)
    })
}

/// Makes one snapshot when its turn comes, and passes the result to the core.
async fn run(shared: &Arc<Shared>, id: CheckpointId) {
    if !wait_for_turn(shared, id).await {
        return;
    }
    let begun = begin(&mut shared.core(), id);
    let made = match begun {
        None => return,
        Some(Begun::Durable(base)) => Ok(Snapped::Durable(base)),
        Some(Begun::Works(work)) => {
            let Work { target, cut, images, newest } = *work;
            let mut source = Cutting { shared, id, cut, images, newest, empty: 0 };
            driver::run(target, &mut source).await.map(|made| Snapped::Made(Box::new(made)))
        }
    };
    done(&mut shared.core(), id, made);
    shared.wake();
}

/// Waits for the turn of snapshot `id`; returns whether it came.
async fn wait_for_turn(shared: &Shared, id: CheckpointId) -> bool {
    loop {
        // Counted from before the look at the turn, so that no end is missed.
        let (ended, turn) = {
            let core = shared.core();
            (core.bases.snapshots.one_over(), core.bases.snapshots.turn(id, Instant::now()))
        };
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

/// The work of the snapshot of `id` now; `None` if it was given up.
fn begin(core: &mut Core, id: CheckpointId) -> Option<Begun> {
    let Core { bases, owner, table, .. } = core;
    // The number comes before the turn: files of this snapshot get it or higher ones, and the low water stays below
    // them.
    let (number, deadline) = (bases.next_file(), bases.snapshots.of(id)?.deadline);
    let target = bases.target(owner.epoch().number, Retry::until(deadline));
    let target = Target { insist_until: Some(deadline), ..target };
    // A later materialization has changes that this cut must not have.
    let cut = owner.snapshot_cut(id)?;
    let newest = bases.previous().cloned().filter(|newest| newest.is_before(cut));
    match owner.take_turn(id, number, newest.as_ref().map(|newest| newest.uuid()))? {
        Turn::Durable(base) => return Some(Begun::Durable(base)),
        Turn::Works => {}
    }
    let snapshot = bases.snapshots.of(id)?;
    snapshot.progress();
    // Ordering: the owner keeps `newest` named from the turn on. Only then the cut lets its copies of those pieces go.
    if let Some(newest) = &newest
        && snapshot.lean_on(newest)
    {
        table.keep_in_cut(id, newest);
    }
    let images = snapshot.images.iter().cloned().collect();
    Some(Begun::Works(Box::new(Work { target, cut, images, newest })))
}

/// Takes the result of the snapshot of `id`.
fn done(core: &mut Core, id: CheckpointId, made: Result<Snapped, Error>) {
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            tracing::warn!(backend = %core.id, checkpoint = id, %error, "snapshot failed");
            // The store was tried until the end of the checkpoint's time.
            let error = match error.reason {
                Reason::StoreUnavailable => timed_out(core, id, &error.message),
                _ => error,
            };
            core.fail_checkpoint(id, error);
            return;
        }
    };
    // It was given up meanwhile. Its checkpoint has failed, and its files are left to a sweep.
    let Some(snapshot) = core.bases.snapshots.finish(id) else { return };
    match made {
        Snapped::Made(made) => {
            let taken = snapshot.images.iter().filter_map(|image| match image {
                FrozenImage::Taken(image, _) => Some(image.clone()),
                FrozenImage::Known(_) => None,
            });
            let images = taken.collect();
            let durable = (made.materialization.clone(), made.uploaded_bytes);
            let is_newest = core.owner.snapshotted(id, Ok(durable)) == Some(true);
            let done = Done { made: *made, covered: 0, images };
            install(core, done, is_newest, "snapshot is durable");
        }
        // Whether it is the newest is of no interest: no part of it is new.
        Snapped::Durable(base) => _ = core.owner.snapshotted(id, Err(base)),
    }
    core.end_snapshot(id, snapshot);
    core.seat.wake();
}

/// The contents of a cut, part by part.
struct Cutting<'a> {
    shared: &'a Shared,
    id: CheckpointId,
    cut: Sqn,
    images: VecDeque<FrozenImage>,
    newest: Option<Arc<Reusable>>,
    /// Pieces without contents since others could get the core.
    empty: usize,
}

impl Source for Cutting<'_> {
    type Error = Error;

    async fn next(&mut self) -> Result<Step, Error> {
        if let Some(image) = self.images.pop_front() {
            if let Some(snapshot) = self.shared.core().bases.snapshots.of(self.id) {
                snapshot.progress();
            }
            return Ok(self.image(image));
        }
        if self.empty >= EMPTY_PIECES {
            self.empty = 0;
            tokio::task::yield_now().await;
        }
        self.piece()
    }
}

impl Cutting<'_> {
    fn image(&self, image: FrozenImage) -> Step {
        let sqn = self.cut;
        match image {
            FrozenImage::Known(image) => Step::KnownImage { image, sqn },
            FrozenImage::Taken(image, changed) => {
                let known = self.newest.as_ref().and_then(|newest| newest.image(image.key_groups)).cloned();
                match known {
                    Some(image) if changed < image.sqn.0 => Step::KnownImage { image, sqn },
                    previous => Step::TakenImage { image, sqn, previous },
                }
            }
        }
    }

    /// The next piece of the cut; a piece that the store has is not uploaded again.
    fn piece(&mut self) -> Result<Step, Error> {
        let mut core = self.shared.core();
        core.condition.check_running()?;
        let (id, sqn) = (self.id, self.cut);
        let Core { table, bases, .. } = &mut *core;
        let next = table.next_of_cut(id).map_err(|fault| error::local_store(&fault))?;
        let Some((piece, snapshot)) = next.zip(bases.snapshots.of(id)) else { return Ok(Step::Done(sqn)) };
        snapshot.progress();
        let known = snapshot.known(&piece);
        core.count_copies();
        self.empty += 1;
        let place = PiecePlace { state: piece.state, key_group: piece.key_group, hashes: piece.hashes };
        Ok(match (known, piece.contents) {
            (Some(known), _) => Step::KnownPiece { piece: known, group: piece.key_group, sqn },
            (None, CutContents::Copied(contents)) => {
                self.empty = if contents.is_some() { EMPTY_PIECES } else { self.empty };
                Step::CopiedPiece { place, sqn, contents }
            }
            // A cut keeps only pieces of materializations that the snapshot leans on, so this does not happen. If it
            // did, a made-up empty piece would lose entries.
            (None, CutContents::Kept) => {
                return Err(Error::new(Reason::Internal, format!("snapshot {id}: {place:?} is kept nowhere")));
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;

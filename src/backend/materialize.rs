//! Materializes one backend in the background, between batches. It copies slice by slice, so that the writer never
//! waits longer than one slice takes to copy; or image by image, so that it never waits longer than linking files
//! takes. Operator state is always copied as slices.

use std::sync::Arc;

use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::{
    core::{Condition, Core},
    handle::Shared,
    turns::Turn,
};
use crate::{
    checkpoint::{
        base::{BaseIndex, Image, Piece},
        manifest::{Materialization, SnapshotFile},
    },
    error::{Error, Reason},
    materialization::{
        images::ImageWriter,
        pace::{Pace, Progress},
        pieces::PieceWriter,
        schedule::{Facts, Schedule},
        target::{Made, MaterializationError, Target},
    },
    object::Retry,
    state::{
        StateBackend as _, StateError,
        image::LocalImage,
        operator,
        snapshot::{PieceBuilder, PieceContents},
        ttl::Lifespan,
    },
    tasks,
    types::{HashRange, KeyGroup, KeyGroupRange, Sqn, StateDescriptor, StateId},
};

/// How often the schedule checks the length of the log.
const POLL: std::time::Duration = std::time::Duration::from_secs(1);

/// An owner that began with more imports materializes at once. Each rescale adds imports, and all of the owner's
/// manifests name them.
const MANY_IMPORTS: usize = 16;

/// A file is not reused if less than this share of it is in use, so that it can be deleted.
const LEAST_USE: f64 = 0.5;

/// The result of one step: a part of one (state, key group).
enum Step {
    /// The part is on the store already, unchanged.
    Unchanged(Piece, Sqn),
    /// The part was copied.
    Copied { last: u64, sqn: Sqn, contents: Option<PieceContents> },
}

/// Materializes whenever the schedule says so, until the backend ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let (options, fraction, turns) = {
        let core = shared.core();
        (core.env.options.materialization.clone(), core.env.random.fraction(), core.env.materializing.clone())
    };
    let mut schedule = Schedule::new(options, Instant::now(), fraction);
    loop {
        let now = Instant::now();
        let facts = {
            let mut core = shared.core();
            if matches!(core.condition, Condition::Ended(_)) {
                return;
            }
            core.note_replay();
            let requested = !core.materialization_requests.is_empty();
            let scattered =
                core.owner.base().is_none() && core.owner.manifest().owner().contents.imports.len() > MANY_IMPORTS;
            Facts { now, changed: core.log_changes > 0, log_changes: core.log_changes, requested, scattered }
        };
        if schedule.is_due(facts) {
            let is_urgent = || {
                let core = shared.core();
                core.env.options.materialization.is_near_limit(core.log_changes)
            };
            let turn = tokio::select! {
                biased;
                // A backend that has ended must not stay in memory while it waits for a turn.
                () = shared.materialize.notified() => continue,
                turn = turns.wait(is_urgent) => turn,
            };
            let made = materialize(&shared, turn).await;
            finish(&shared, &mut schedule, made);
            continue;
        }
        let poll = now + POLL;
        tokio::select! {
            biased;
            () = shared.materialize.notified() => {}
            () = sleep_until(schedule.next(now).map_or(poll, |next| next.min(poll))) => {}
        }
    }
}

/// Installs a materialization that was made, or notes the failure; then answers the callers that asked for it.
fn finish(shared: &Shared, schedule: &mut Schedule, made: Result<Done, Error>) {
    let mut core = shared.core();
    // The callers were answered when the backend ended, and its metrics are gone.
    if matches!(core.condition, Condition::Ended(_)) {
        return;
    }
    let now = Instant::now();
    let next_file = core.snapshot_files.load(std::sync::atomic::Ordering::Relaxed);
    let durable = made.as_ref().ok().map(|done| done.made.materialization.clone());
    core.owner.materialized(durable, next_file);
    let result = match made {
        Ok(Done { made, log_changes_before, images }) => {
            schedule.succeeded(now);
            core.env.metrics.materialized(&core.id, made.materialization.stored_bytes, made.uploaded_bytes);
            tracing::info!(
                backend = %core.id,
                changes = made.materialization.changes,
                stored_bytes = made.materialization.stored_bytes,
                uploaded_bytes = made.uploaded_bytes,
                "materialized"
            );
            core.log_changes -= log_changes_before;
            core.keep_images(made.materialization.uuid, &made.index, &images);
            core.previous = Some(Arc::new(Reusable::new(made.materialization.uuid, Arc::new(made.index))));
            Ok(made.materialization)
        }
        Err(error) => {
            schedule.failed(now);
            core.env.metrics.materialization_failed(&core.id, schedule.consecutive_failures());
            tracing::warn!(backend = %core.id, %error, failures = schedule.consecutive_failures(), "materialization failed");
            Err(error)
        }
    };
    core.materialization_failures = schedule.consecutive_failures();
    for reply in std::mem::take(&mut core.materialization_requests) {
        let _ = reply.send(result.clone());
    }
}

/// A materialization that was made.
struct Done {
    made: Made,
    /// Changes in the log when it began.
    log_changes_before: u64,
    /// The images that were taken for it, if they are to be kept.
    images: Vec<Arc<LocalImage>>,
}

/// Pauses between the steps of one materialization.
struct Pacing {
    pace: Pace,
    turn: Turn,
}

impl Pacing {
    /// Pauses as the pace says, after a step that began at `began`; `done` is the share of the work that is done.
    async fn step_ended(&mut self, shared: &Shared, began: Instant, done: f64) {
        let now = Instant::now();
        let pause = {
            let core = shared.core();
            let awaited = self.turn.is_awaited() || !core.materialization_requests.is_empty();
            let progress = Progress { now, log_changes: core.log_changes, done, awaited };
            self.pace.pause(now - began, progress)
        };
        if let Some(pause) = pause {
            tokio::select! {
                biased;
                // Somebody asks for a materialization, or the backend ended.
                () = shared.materialize.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }
}

/// Makes one materialization, which others wait for until `turn` is dropped.
async fn materialize(shared: &Shared, turn: Turn) -> Result<Done, Error> {
    let (target, log_changes_before, parts, pace) = {
        let mut core = shared.core();
        core.env.metrics.materialization_started();
        let retry = Retry::until(Instant::now() + core.env.options.materialization_timeout);
        let target = target(&core, shared, retry);
        let pace = Pace::new(&core.env.options.materialization, Instant::now(), core.log_changes);
        (target, core.log_changes, core.inner.images().map(|images| images.parts().len()), pace)
    };
    let mut pacing = Pacing { pace, turn };
    let (made, images) = match parts {
        None => (pieces(shared, target, &mut pacing).await?, vec![]),
        Some(parts) => images(shared, target, parts, &mut pacing).await?,
    };
    Ok(Done { made, log_changes_before, images })
}

/// The target of this backend's materializations.
pub(super) fn target(core: &Core, shared: &Shared, retry: Retry) -> Target {
    Target {
        store: shared.store.clone(),
        backend: core.id.clone(),
        instance: core.env.instance,
        epoch: core.owner.epoch().number,
        numbers: core.snapshot_files.clone(),
        random: core.env.random.clone(),
        compression: core.env.options.compression,
        retry,
        insist_until: None,
    }
}

pub(super) fn failed(error: &MaterializationError) -> Error {
    let is_local = matches!(error, MaterializationError::Local { .. });
    let reason = if is_local { super::error::local(error) } else { Reason::StoreUnavailable };
    Error::new(reason, error.to_string())
}

pub(super) fn local(fault: &StateError) -> Error {
    Error::new(super::error::local(fault), super::error::inner(fault))
}

/// Copies an inner backend by pieces.
async fn pieces(shared: &Shared, target: Target, pacing: &mut Pacing) -> Result<Made, Error> {
    let mut writer = PieceWriter::new(target);
    let listed = Listed::of(&shared.core(), |_| true);
    copy_states(shared, &mut writer, &listed, Some(pacing)).await?;
    writer.finish((vec![], 0), listed.at).await.map_err(|error| failed(&error))
}

/// The states that are copied as pieces.
struct Listed {
    /// Each state with its key groups.
    states: Vec<(StateId, KeyGroupRange)>,
    reusable: Option<Arc<Reusable>>,
    /// The sqn at which they were listed. The changes of a state that is registered later are in the log alone.
    at: Sqn,
}

impl Listed {
    /// The states whose descriptors are `wanted`.
    fn of(core: &Core, wanted: impl Fn(&StateDescriptor) -> bool) -> Self {
        let keyed = core.owner.manifest().shape.key_groups;
        let wanted = core.states.data().filter(|(_, descriptor)| wanted(descriptor));
        let states = wanted.map(|(id, descriptor)| (id, operator::key_groups_of(descriptor, keyed))).collect();
        Self { states, reusable: core.previous.clone(), at: core.owner.writer().next() }
    }
}

/// Copies the states of `listed` as pieces, at the pace of `pacing` if there is one.
async fn copy_states(
    shared: &Shared,
    writer: &mut PieceWriter,
    listed: &Listed,
    mut pacing: Option<&mut Pacing>,
) -> Result<(), Error> {
    let total: usize = listed.states.iter().map(|(_, groups)| groups.iter().count()).sum();
    let mut copied = 0_usize;
    for &(state, groups) in &listed.states {
        for group in groups.iter() {
            let mut from = Some(0);
            while let Some(first) = from {
                let began = Instant::now();
                let step = {
                    let mut core = shared.core();
                    let (may_block, reusable) = (core.inner.may_block(), listed.reusable.as_deref());
                    tasks::blocking_if(may_block, || step(&mut core, reusable, (state, group, first)))?
                };
                let last = match step {
                    Step::Unchanged(piece, sqn) => {
                        writer.reuse(&piece, group, sqn);
                        piece.hashes.last
                    }
                    Step::Copied { last, sqn, contents } => {
                        let place = (state, group, HashRange { first, last });
                        writer.add(place, sqn, contents).await.map_err(|error| failed(&error))?;
                        last
                    }
                };
                from = last.checked_add(1);
                if let Some(pacing) = &mut pacing {
                    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
                    let done = (copied as f64 + last as f64 / u64::MAX as f64) / total as f64;
                    pacing.step_ended(shared, began, done).await;
                }
            }
            copied += 1;
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Copies an inner backend as images of its parts, and operator state as pieces.
async fn images(
    shared: &Shared,
    target: Target,
    parts: usize,
    pacing: &mut Pacing,
) -> Result<(Made, Vec<Arc<LocalImage>>), Error> {
    let mut pieces = PieceWriter::new(target.clone());
    let mut writer = ImageWriter::new(target);
    let mut kept = vec![];
    for part in 0..parts {
        let began = Instant::now();
        let flush = {
            let mut core = shared.core();
            if let Condition::Ended(error) = &core.condition {
                return Err(error.clone());
            }
            let may_block = core.inner.may_block();
            core.inner.images().map(|images| tasks::blocking_if(may_block, || images.flush(part)))
        };
        if let Some(flush) = flush {
            tasks::blocking(flush).map_err(|fault| local(&fault))?;
        }
        match tasks::blocking(|| image(&mut shared.core(), part))? {
            Imaged::Unchanged(image, sqn) => writer.reuse(&image, sqn),
            Imaged::Taken(image, sqn, previous) => {
                writer.add(&image, sqn, previous.as_ref()).await.map_err(|error| failed(&error))?;
                if shared.core().images.is_some() {
                    kept.push(Arc::new(image));
                }
            }
        }
        #[allow(clippy::cast_precision_loss, reason = "a ratio")]
        let done = (part + 1) as f64 / parts as f64;
        pacing.step_ended(shared, began, done).await;
    }
    let listed = Listed::of(&shared.core(), |descriptor| descriptor.redistribution.is_some());
    copy_states(shared, &mut pieces, &listed, Some(pacing)).await?;
    let made = pieces.finish(writer.finish(), listed.at).await.map_err(|error| failed(&error))?;
    Ok((made, kept))
}

/// The result for one part.
enum Imaged {
    /// The part is on the store already, unchanged.
    Unchanged(Image, Sqn),
    /// An image was taken. The last field is the previous image of the same part.
    Taken(LocalImage, Sqn, Option<Image>),
}

/// Takes an image of one part under the core's lock.
fn image(core: &mut Core, part: usize) -> Result<Imaged, Error> {
    if let Condition::Ended(error) = &core.condition {
        return Err(error.clone());
    }
    let sqn = core.owner.writer().next();
    let Core { inner, previous, env, .. } = core;
    let images = inner.images().expect("a backend of images stays one");
    let key_groups = images.parts().get(part).copied();
    let known = previous.as_ref().zip(key_groups).and_then(|(previous, key_groups)| previous.image(key_groups));
    if let Some(known) = known.filter(|known| images.changed(part) < known.sqn.0) {
        return Ok(Imaged::Unchanged(known.clone(), sqn));
    }
    let began = Instant::now();
    let image = images.image(part).map_err(|fault| local(&fault))?;
    env.metrics.image_taken(began.elapsed());
    Ok(Imaged::Taken(image, sqn, known.cloned()))
}

/// Does one step under the core's lock. `first` is the first hash that is not covered yet.
fn step(
    core: &mut Core,
    reusable: Option<&Reusable>,
    (state, group, first): (StateId, KeyGroup, u64),
) -> Result<Step, Error> {
    if let Condition::Ended(error) = &core.condition {
        return Err(error.clone());
    }
    // All changes below this sqn are applied, and none at or above it.
    let sqn = core.owner.writer().next();
    let is_operator = group == KeyGroup::OPERATOR;
    let pieces = if is_operator { Some(core.inner.operator_pieces()) } else { core.inner.pieces() };
    let pieces = pieces.expect("a backend of pieces stays one");
    if let Some(piece) = reusable.and_then(|reusable| reusable.find(state, group, first))
        && pieces.changed(state, group, piece.hashes) < piece.sqn.0
    {
        return Ok(Step::Unchanged(piece.clone(), sqn));
    }
    let mut contents = PieceBuilder::default();
    let ttl = core.states.get(state).and_then(|descriptor| descriptor.ttl);
    let last = match ttl.filter(|ttl| ttl.cleanup.at_materialization) {
        None => pieces.copy_piece(state, group, first, &mut |change| contents.push(change)),
        Some(ttl) => {
            // Expiry is judged at the time of the last batch, which is not after that of any checkpoint that builds on
            // this.
            let (life, mut left_out) = (Lifespan::new(ttl, core.time), 0);
            let last = pieces.copy_piece(state, group, first, &mut |change| {
                let kept = life.without_expired(*change);
                left_out += u64::from(kept != Some(*change));
                kept.iter().for_each(|change| contents.push(change));
            });
            core.env.metrics.ttl_left_out(left_out);
            last
        }
    };
    let last = last.map_err(|fault| local(&fault))?;
    Ok(Step::Copied { last, sqn, contents: contents.finish() })
}

/// The parts of a materialization that may be reused: all except pieces in files that are mostly unused.
#[derive(Debug)]
pub(super) struct Reusable {
    uuid: Uuid,
    index: Arc<BaseIndex>,
    sparse: Vec<SnapshotFile>,
}

impl Reusable {
    pub(super) fn new(uuid: Uuid, index: Arc<BaseIndex>) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "a ratio")]
        let is_sparse = |(file, used): &(SnapshotFile, u64)| (*used as f64) < LEAST_USE * file.bytes as f64;
        let sparse = index.files().into_iter().filter(is_sparse).map(|(file, _)| file).collect();
        Self { uuid, index, sparse }
    }

    /// The UUID of the materialization.
    pub(super) fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Whether all of it was copied at or before `cut`.
    pub(super) fn is_before(&self, cut: Sqn) -> bool {
        self.index.sqns().is_none_or(|(_, highest)| highest <= cut)
    }

    /// The piece that has `hash`.
    pub(super) fn covering(&self, state: StateId, group: KeyGroup, hash: u64) -> Option<&Piece> {
        let piece = self.index.find(state, group, hash)?;
        let is_sparse = piece.block.as_ref().is_some_and(|block| self.sparse.contains(&block.file));
        (!is_sparse).then_some(piece)
    }

    /// A piece that begins exactly at `first`.
    pub(super) fn find(&self, state: StateId, group: KeyGroup, first: u64) -> Option<&Piece> {
        self.covering(state, group, first).filter(|piece| piece.hashes.first == first)
    }

    /// The image of exactly these key groups.
    pub(super) fn image(&self, key_groups: KeyGroupRange) -> Option<&Image> {
        self.index.images().iter().find(|image| image.key_groups == key_groups)
    }
}

impl super::Backend {
    /// Materializes now; returns when it is done. A checkpoint that is triggered after that builds on it. Cancel-safe:
    /// if dropped, the materialization goes on.
    ///
    /// # Errors
    /// If the caller is not the owner, there is no changelog to truncate, or the store refuses it. Then the previous
    /// base stays in use.
    pub async fn materialize(&self, epoch: crate::types::Epoch) -> Result<Materialization, Error> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        {
            let mut core = self.shared.core();
            core.check_owner(epoch)?;
            core.check_logged("materialize")?;
            core.materialization_requests.push(reply);
        }
        self.shared.materialize.notify_one();
        let gone = || Error::new(Reason::BackendClosed, format!("backend `{}` was closed", self.id()));
        answer.await.map_err(|_| gone())?
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;

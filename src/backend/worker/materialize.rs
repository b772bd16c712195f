//! Materializes one backend in the background, between batches. It copies slice by slice, so that the writer never
//! waits longer than one slice takes to copy; or image by image, so that it never waits longer than linking files
//! takes. Operator state is always copied as slices.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    backend::{
        core::Core,
        environment::Environment,
        error,
        shared::Shared,
        table::copy::{Imaged, Pieced},
        turns::Turn,
    },
    error::Error,
    materialization::{
        driver::{self, Source, Step},
        pace::{Pace, Progress},
        pieces::PiecePlace,
        reusable::Reusable,
        schedule::{Facts, Schedule},
        target::Made,
    },
    object::Retry,
    state::image::LocalImage,
    tasks,
    types::{HashRange, KeyGroup, KeyGroupRange, Sqn, StateDescriptor, StateId, TimeMs},
};

/// How often the schedule checks the length of the log.
const POLL: Duration = Duration::from_secs(1);

/// An owner that began with more imports materializes at once. Each rescale adds imports, and all of the owner's
/// manifests name them.
const MANY_IMPORTS: usize = 16;

/// Materializes whenever the schedule says so, until the backend ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    let (options, fraction, turns, clock) = {
        let Environment { options, random, materializing, clock, .. } = &shared.core().env;
        (options.materialization.clone(), random.fraction(), materializing.clone(), clock.clone())
    };
    let mut schedule = Schedule::new(options, Instant::now(), fraction);
    loop {
        let now = Instant::now();
        let facts = {
            let mut core = shared.core();
            if core.has_ended() {
                return;
            }
            note_replay(&mut core);
            facts(&core, now)
        };
        if schedule.is_due(facts) {
            let is_urgent = || shared.core().bases.is_near_limit();
            let turn = tokio::select! {
                biased;
                // A backend that has ended must not stay in memory while it waits for a turn.
                () = shared.signals.materialize.notified() => continue,
                turn = turns.wait(is_urgent) => turn,
            };
            let made = materialize(&shared, turn).await;
            finish(&shared, &mut schedule, made);
            continue;
        }
        let poll = now + until_poll(clock.now_ms());
        tokio::select! {
            biased;
            () = shared.signals.materialize.notified() => {}
            () = sleep_until(schedule.next(now).map_or(poll, |next| next.min(poll))) => {}
        }
    }
}

/// The time from `now` until the next check. All backends check in the middle of each second of the clock, so that they
/// wake an idle daemon once for all.
fn until_poll(now: TimeMs) -> Duration {
    POLL * 3 / 2 - Duration::from_millis(now % 1_000)
}

/// The facts by which the schedule decides.
fn facts(core: &Core, now: Instant) -> Facts {
    let (owner, log_changes) = (&core.owner, core.bases.log_changes());
    let scattered = owner.base().is_none() && owner.manifest().owner().contents.imports.len() > MANY_IMPORTS;
    let requested = core.waiters.want_materialization();
    Facts { now, changed: log_changes > 0, log_changes, requested, scattered }
}

/// Records the length of the log, and lets the writer go on if it is short enough again.
fn note_replay(core: &mut Core) {
    let may_go = core.bases.push_back.is_on() && !core.pushes_back();
    if core.bases.note_replay(may_go) {
        core.seat.wake();
    }
}

/// Installs a materialization that was made, or notes the failure; then answers the callers that asked for it.
fn finish(shared: &Shared, schedule: &mut Schedule, done: Result<Done, Error>) {
    let mut core = shared.core();
    // The callers were answered when the backend ended, and its metrics are gone.
    if core.has_ended() {
        return;
    }
    let now = Instant::now();
    let durable = done.as_ref().ok().map(|done| done.made.materialization.clone());
    // Ordering: the numbers of files are read after the last upload, and noted even after a failure. Files of a failed
    // materialization are never named, so the low water may pass them, and a sweep finds them.
    let next_file = core.bases.next_file();
    core.owner.materialized(durable, next_file);
    let result = match done {
        Ok(done) => {
            schedule.succeeded(now);
            let materialization = done.made.materialization.clone();
            // The owner names it in its manifests already, so the next materialization may reuse its parts.
            install(&mut core, done, true, "materialized");
            Ok(materialization)
        }
        Err(error) => {
            schedule.failed(now);
            let failures = core.bases.failed();
            tracing::warn!(backend = %core.id, %error, failures, "materialization failed");
            Err(error)
        }
    };
    core.waiters.materialized(&result);
}

/// Installs a materialization that the owner knows: the next one reuses its parts if it is the newest, and the images
/// that were taken for it are kept. `told` goes into the log of the daemon.
pub(super) fn install(core: &mut Core, done: Done, is_newest: bool, told: &str) {
    let Done { made, covered, images } = done;
    tracing::info!(
        backend = %core.id,
        changes = made.materialization.changes,
        stored_bytes = made.materialization.stored_bytes,
        uploaded_bytes = made.uploaded_bytes,
        "{told}"
    );
    core.kept.keep(made.materialization.uuid, &made.index, &images);
    core.bases.succeeded(made, is_newest, covered);
}

/// A materialization that was made.
pub(super) struct Done {
    /// The materialization itself.
    pub(super) made: Made,
    /// How many changes of the log it has: those that were there when it began.
    pub(super) covered: u64,
    /// The images that were taken for it, if they are to be kept.
    pub(super) images: Vec<Arc<LocalImage>>,
}

/// Makes one materialization, which others wait for until `turn` is dropped.
async fn materialize(shared: &Shared, turn: Turn) -> Result<Done, Error> {
    let (target, covered, copying) = {
        let mut core = shared.core();
        core.env.metrics.materialization_started();
        // The length of the log and the list of states are of one moment: `covered` changes lie below the sqn of the
        // list.
        let (options, log_changes) = (core.env.options.clone(), core.bases.log_changes());
        let target = core
            .bases
            .target(core.owner.epoch().number, Retry::until(Instant::now() + options.materialization_timeout));
        let pace = Pace::new(&options.materialization, Instant::now(), log_changes);
        let at = match core.table.image_parts() {
            None => At::Pieces(Listed::of(&core, |_| true)),
            Some(parts) => At::Images { part: 0, parts },
        };
        (target, log_changes, Copying { shared, pacing: Some(Pacing { pace, turn, began: None }), at, images: vec![] })
    };
    let mut copying = copying;
    let made = driver::run(target, &mut copying).await?;
    Ok(Done { made, covered, images: copying.images })
}

/// Pauses between the steps of one materialization.
struct Pacing {
    pace: Pace,
    turn: Turn,
    /// When the step before began, if there was one.
    began: Option<Instant>,
}

impl Pacing {
    /// Pauses as the pace says, after a step; `done` is the share of the work that is done.
    async fn step_ended(&mut self, shared: &Shared, done: f64) {
        let now = Instant::now();
        let Some(began) = self.began.take() else { return };
        let pause = {
            let core = shared.core();
            let awaited = self.turn.is_awaited() || core.waiters.want_materialization();
            let progress = Progress { now, log_changes: core.bases.log_changes(), done, awaited };
            self.pace.pause(now - began, progress)
        };
        if let Some(pause) = pause {
            tokio::select! {
                biased;
                // A caller asks for a materialization, or the backend ended.
                () = shared.signals.materialize.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }
}

/// The present contents of a backend, copied part by part while the writer goes on.
struct Copying<'a> {
    shared: &'a Shared,
    /// `None` to make no pauses.
    pacing: Option<Pacing>,
    at: At,
    /// The images that were taken, if they are to be kept.
    images: Vec<Arc<LocalImage>>,
}

/// How far the copying has come.
enum At {
    /// Images are taken, next that of `part`.
    Images { part: usize, parts: usize },
    /// Pieces are copied.
    Pieces(Listed),
}

/// The states that are copied as pieces.
struct Listed {
    /// Each (state, key group) that is left, the next one last.
    left: Vec<(StateId, KeyGroup)>,
    /// How many there were.
    total: usize,
    /// The first hash of the next one that is not copied yet.
    first: u64,
    reusable: Option<Arc<Reusable>>,
    /// The sqn at which they were listed. The changes of a state that is registered later are in the log alone.
    at: Sqn,
}

impl Listed {
    /// The states whose descriptors are `wanted`.
    fn of(core: &Core, wanted: impl Fn(&StateDescriptor) -> bool) -> Self {
        let each =
            |(id, groups): (StateId, KeyGroupRange)| groups.iter().map(move |group| (id, group)).collect::<Vec<_>>();
        let mut left: Vec<_> = core.table.pieces_of(wanted).into_iter().flat_map(each).collect();
        left.reverse();
        let reusable = core.bases.previous().cloned();
        Self { total: left.len(), left, first: 0, reusable, at: core.owner.writer().next() }
    }

    /// The share that is copied.
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    fn done(&self) -> f64 {
        if self.total == 0 {
            return 1.0;
        }
        let copied = (self.total - self.left.len()) as f64 + self.first as f64 / u64::MAX as f64;
        copied / self.total as f64
    }

    /// Notes that the next (state, key group) is copied up to the hash `last`.
    fn copied_to(&mut self, last: u64) {
        // Hashes are inclusive, so the highest one ends the key group.
        match last.checked_add(1) {
            Some(first) => self.first = first,
            None => {
                self.left.pop();
                self.first = 0;
            }
        }
    }
}

impl Source for Copying<'_> {
    type Error = Error;

    async fn next(&mut self) -> Result<Step, Error> {
        self.pause().await;
        if let Some(pacing) = &mut self.pacing {
            pacing.began = Some(Instant::now());
        }
        if let At::Images { part, parts } = self.at {
            if part < parts {
                self.at = At::Images { part: part + 1, parts };
                return self.image(part);
            }
            self.at = At::Pieces(Listed::of(&self.shared.core(), |descriptor| descriptor.redistribution.is_some()));
        }
        let At::Pieces(listed) = &mut self.at else { unreachable!("images come first") };
        let Some((state, group)) = listed.left.last().copied() else { return Ok(Step::Done(listed.at)) };
        let first = listed.first;
        let (step, last) = {
            let core = self.shared.core();
            core.condition.check_running()?;
            // All changes below this sqn are applied, and none at or above it.
            let sqn = core.owner.writer().next();
            let piece = core.table.piece(listed.reusable.as_deref(), state, group, first);
            match piece.map_err(|fault| error::local_store(&fault))? {
                Pieced::Known(piece) => {
                    let last = piece.hashes.last;
                    (Step::KnownPiece { piece, group, sqn }, last)
                }
                Pieced::Copied { last, contents } => {
                    let place = PiecePlace { state, key_group: group, hashes: HashRange { first, last } };
                    (Step::CopiedPiece { place, sqn, contents }, last)
                }
            }
        };
        listed.copied_to(last);
        Ok(step)
    }
}

impl Copying<'_> {
    /// Lets others go on, after a step.
    async fn pause(&mut self) {
        #[allow(clippy::cast_precision_loss, reason = "a ratio")]
        let (done, ends_group) = match &self.at {
            At::Images { part, parts } => (*part as f64 / *parts as f64, false),
            At::Pieces(listed) => (listed.done(), listed.first == 0 && listed.left.len() < listed.total),
        };
        if let Some(pacing) = &mut self.pacing {
            pacing.step_ended(self.shared, done).await;
        }
        if ends_group {
            tokio::task::yield_now().await;
        }
    }

    /// Takes the image of one part. It is flushed first, without the core: the writer need not wait for that.
    fn image(&mut self, part: usize) -> Result<Step, Error> {
        // Ordering: the flush comes first, without the core. The image then has little left to flush, and batches wait
        // only for the links.
        let flush = {
            let mut core = self.shared.core();
            core.condition.check_running()?;
            core.table.flush(part)
        };
        if let Some(flush) = flush {
            tasks::blocking(flush).map_err(|fault| error::local_store(&fault))?;
        }
        let (imaged, sqn, keeps) = tasks::blocking(|| {
            let mut core = self.shared.core();
            core.condition.check_running()?;
            // Read in the same hold of the lock in which the image is taken, so no batch comes between.
            let sqn = core.owner.writer().next();
            let Core { table, bases, .. } = &mut *core;
            let imaged = table.image(part, bases.previous().map(|previous| &**previous));
            Ok::<_, Error>((imaged.map_err(|fault| error::local_store(&fault))?, sqn, core.kept.has_images()))
        })?;
        Ok(match imaged {
            Imaged::Known(image) => Step::KnownImage { image, sqn },
            Imaged::Taken(image, previous) => {
                let image = Arc::new(image);
                if keeps {
                    self.images.push(image.clone());
                }
                Step::TakenImage { image, sqn, previous }
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;

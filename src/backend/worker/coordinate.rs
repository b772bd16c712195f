//! Coordination of declared jobs, whose checkpoints dstl completes itself: the backends of this daemon report their
//! parts, and learn of commits.
//!
//! ```text
//!   Core: part published ──unreported──▶ Coordinator ──report──▶ store ──▶ all tasks? ──commit──▶ job chain
//!                                          (one per job           ▲                                 │ by whomever
//!   Core: completed, session told ◀────────and attempt) ◀──────────┴── looks again, while it waits ◀─┘
//! ```
//!
//! [`crate::checkpoint::job`] shows why that is correct. It demands the following of an owner:
//!
//! * A part is reported only after the manifest that names it is durable. From then on no notice may let go of it,
//!   until a commit that is as new or the end of the owner.
//! * A commit does the same as the engine's COMPLETE, and is durable with the next manifest. If the daemon dies before
//!   that, the owner that restores the commit reads it in the job's chain.
//! * Reports outlive their owner: a part that a backend published before it was closed is still reported.
//!
//! A coordinator is level-triggered: each round compares published with reported parts, and reported parts with
//! commits. A round comes at once when a part is published, and at intervals while a commit is awaited or the store
//! fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

use crate::{
    backend::{
        coordinated::{Coordinated, target},
        core::Core,
        environment::Environment,
        outbox::SessionEvent,
        shared::Shared,
    },
    checkpoint::job::{self, Commit, Finished, JobCheckpoint, JobError, JobRecord, Report},
    error::{Error, Reason},
    object::Retry,
    tasks::Panicked,
    types::{Attempt, BackendId, CheckpointId, CheckpointIdentity, Name},
};

/// Attempts of a request before it is left for the next round.
const REQUEST_ATTEMPTS: u32 = 3;

/// Most reports under way at the same time.
const CONCURRENT_REPORTS: usize = 16;

/// An end of time, for a timer that is not armed.
const FAR: Duration = Duration::from_secs(86_400);

/// The coordinators of a daemon, one for each job and attempt of its backends. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Coordinators(Arc<Mutex<All>>);

type All = BTreeMap<(Name, Attempt), Arc<Coordinator>>;

/// Reports and commits for the backends of one attempt of a job on this daemon, and tells them about commits.
struct Coordinator {
    job: Name,
    attempt: Attempt,
    /// The members by name and epoch. A member that has ended stays until all its parts are reported.
    members: Mutex<BTreeMap<(BackendId, u64), Arc<Shared>>>,
    wake: Arc<Notify>,
}

/// The work of one round.
struct Round {
    unreported: Vec<(Arc<Shared>, Report)>,
    /// Whether some parts await a commit.
    awaits: bool,
}

impl Coordinators {
    /// Coordinates an owner from now on.
    pub(crate) fn join(&self, env: &Environment, shared: &Arc<Shared>) {
        let (id, epoch, attempt) = {
            let core = shared.core();
            (core.id.clone(), core.owner.epoch().number, core.owner.manifest().owner().attempt)
        };
        // Ordering: all coordinators are locked until the member is entered. Otherwise a round in between could find
        // this coordinator without members and forget it, and nobody would serve the new one.
        let mut all = self.0.lock();
        let coordinator = all.entry((id.job.clone(), attempt)).or_insert_with(|| {
            let (job, members, wake) = (id.job.clone(), Mutex::default(), Arc::default());
            let coordinator = Arc::new(Coordinator { job, attempt, members, wake });
            let (served, all) = (coordinator.clone(), self.clone());
            let on_panic = move |panicked: &Panicked| all.end(&served, panicked);
            env.tasks.supervise("a coordinator", run(self.clone(), env.clone(), coordinator.clone()), on_panic);
            coordinator
        });
        coordinator.members.lock().insert((id, epoch), shared.clone());
        let wake = coordinator.wake.clone();
        drop(all);
        // Only now, since no core is waited for under that lock.
        let mut core = shared.core();
        if core.has_ended() {
            // The backend may have ended before it could tell this coordinator.
            wake.notify_one();
        }
        if let Some(coordinated) = &mut core.coordinated {
            coordinated.join(wake);
        }
    }

    /// Ends the members of `coordinator`, whose task has panicked: otherwise their checkpoints would never complete.
    /// The next open begins another coordinator.
    fn end(&self, coordinator: &Coordinator, panicked: &Panicked) {
        self.0.lock().remove(&(coordinator.job.clone(), coordinator.attempt));
        coordinator.each(|core| core.end_panicked(panicked));
    }

    /// The work of `coordinator`; `None` once it has no more members, and is forgotten.
    fn round(&self, coordinator: &Coordinator) -> Option<Round> {
        let mut round = Round { unreported: vec![], awaits: false };
        let mut over = vec![];
        // No other lock is held while this waits for a core, since opens need those locks.
        for (name, shared) in coordinator.members() {
            let core = shared.core();
            let Some(coordinated) = &core.coordinated else {
                over.push(name);
                continue;
            };
            let report = |part: &CheckpointIdentity| {
                let report = Report { backend: core.id.clone(), attempt: coordinator.attempt, part: *part };
                (shared.clone(), report)
            };
            round.unreported.extend(coordinated.unreported().map(report));
            round.awaits |= coordinated.awaits();
            // A backend that has ended publishes no more, so it leaves once everything is reported.
            if core.has_ended() && coordinated.unreported().next().is_none() {
                over.push(name);
            }
        }
        let mut all = self.0.lock();
        let mut members = coordinator.members.lock();
        over.iter().for_each(|name| drop(members.remove(name)));
        if members.is_empty() {
            all.remove(&(coordinator.job.clone(), coordinator.attempt));
            return None;
        }
        Some(round)
    }
}

/// Serves the members of `coordinator` until there are none.
async fn run(all: Coordinators, env: Environment, coordinator: Arc<Coordinator>) {
    while let Some(round) = all.round(&coordinator) {
        let awaits = match coordinator.serve(&env, round).await {
            Ok(awaits) => awaits,
            Err(error) => {
                tracing::warn!(job = %coordinator.job, %error, "checkpoints of the declared job wait");
                true
            }
        };
        // A random pause, so that not all daemons look at the same time.
        let pause = env.options.coordination_interval.mul_f64(0.75 + env.random.fraction() / 2.0);
        tokio::select! {
            biased;
            () = coordinator.wake.notified() => {}
            () = sleep(if awaits { pause } else { FAR }) => {}
        }
    }
}

impl Coordinator {
    /// Reports published parts, then commits if that is possible, and tells the members. Returns whether parts still
    /// await a commit.
    async fn serve(&self, env: &Environment, round: Round) -> Result<bool, JobError> {
        let retry = Retry::forever().at_most(REQUEST_ATTEMPTS);
        let awaits = round.awaits || !round.unreported.is_empty();
        let reports = round.unreported.into_iter().map(|(shared, report)| async move {
            // Ordering 1: the report is durable before the owner hears of it. If the store fails, the part stays
            // unreported, and the next round reports it again.
            job::report(&env.store, &report, retry).await?;
            reported(&mut shared.core(), report.part.id);
            Ok::<_, JobError>(())
        });
        stream::iter(reports).buffer_unordered(CONCURRENT_REPORTS).try_collect::<()>().await?;
        if !awaits {
            return Ok(false);
        }
        // Ordering 2: commits are looked for after the reports, because the last report of a checkpoint may be one of
        // these.
        let (record, appended) = match job::finish(&env.store, &self.job, self.attempt, retry).await? {
            Finished::Current { record, appended, reported } => {
                self.each(|core| reported_elsewhere(core, &reported));
                (record, appended)
            }
            Finished::Outdated { by } => {
                self.each(|core| outdated(core, by));
                return Ok(false);
            }
        };
        // Ordering 3: members hear of a commit only from the job's record. It is durable, so no other daemon can come
        // to another decision.
        if let Some(commit) = record.commit.as_ref().filter(|commit| commit.checkpoint.attempt == self.attempt) {
            self.each(|core| job_completed(core, commit));
        }
        if appended {
            env.metrics.committed();
            // Ordering 4: outdated reports go last, and only by the one that has committed: their parts are below the
            // record now.
            job::delete_outdated(&env.store, &self.job, &record, retry).await;
        }
        let awaits = |core: &Core| core.coordinated.as_ref().is_some_and(Coordinated::awaits);
        Ok(self.members().iter().any(|(_, shared)| awaits(&shared.core())))
    }

    /// The members, by name and epoch.
    fn members(&self) -> Vec<((BackendId, u64), Arc<Shared>)> {
        self.members.lock().iter().map(|(name, shared)| (name.clone(), shared.clone())).collect()
    }

    fn each(&self, act: impl Fn(&mut Core)) {
        for (_, shared) in self.members() {
            act(&mut shared.core());
            shared.wake();
        }
    }
}

/// Begins under the generation of `record` if its attempt was declared. Completes commits here that the owner before
/// had no time to note.
pub(crate) fn begin(core: &mut Core, record: Option<&JobRecord>) {
    let Some(record) = record else { return };
    core.coordinated = Some(Coordinated::new(record));
    let commits = record.commits();
    core.owner.recall(|record| commits.contains(&JobCheckpoint::of(record)));
}

/// Notes that the report of a part is durable.
fn reported(core: &mut Core, id: CheckpointId) {
    let has_ended = core.has_ended();
    if let Some(coordinated) = &mut core.coordinated {
        coordinated.reported(id, has_ended, &core.env.metrics);
    }
}

/// Notes that other tasks have reported `ids`.
fn reported_elsewhere(core: &mut Core, ids: &BTreeSet<CheckpointId>) {
    if core.has_ended() {
        return;
    }
    if let Some(coordinated) = &mut core.coordinated {
        coordinated.reported_elsewhere(ids);
    }
}

/// Takes a new commit into account: completes the part of this backend, lets go of the parts that it subsumes, and
/// tells the session. Idempotent.
fn job_completed(core: &mut Core, commit: &Commit) {
    if core.has_ended() {
        return;
    }
    let part = commit.part(&core.id.operator, core.id.subtask);
    let (Some(coordinated), Some(part)) = (&mut core.coordinated, part) else { return };
    let is_own = part.epoch == core.owner.epoch().number;
    if !coordinated.commit(commit.checkpoint, part, is_own, &core.env.metrics) {
        return;
    }
    // Ordering: first the mark of the committed checkpoint becomes the newest one, then older marks and copies go.
    let outcome = core.owner.commit(target(&part));
    core.table.mark_completed(&core.owner, target(&part), outcome);
    core.retain_marks();
    core.want_copies();
    // Without a session nothing has to be kept: each session is told the newest commit when it begins.
    if is_own && core.seat.is_taken() {
        core.seat.tell(SessionEvent::JobCheckpointCompleted(part));
    }
    core.seat.wake();
}

/// Ends the owner, because attempt `by` has begun.
fn outdated(core: &mut Core, by: Attempt) {
    let Some(coordinated) = &mut core.coordinated else { return };
    coordinated.outdated();
    let attempt = core.owner.manifest().owner().attempt;
    let text = format!("backend `{}`: attempt {attempt} is outdated, attempt {by} of the job has begun; stop", core.id);
    if !core.has_ended() {
        core.env.metrics.fenced();
    }
    core.end(&Error::new(Reason::Fenced, text));
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator").field("job", &self.job).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

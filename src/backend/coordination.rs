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
//! # Tasks that do not keep up
//!
//! While a task stalls, or has ended, nothing is committed, and the parts that the others reported must not be let go.
//! So tasks report fewer and fewer of their parts: for each 32 parts that await a commit, only half as many of the next
//! ones ([`is_reported_at`]). The id alone decides which, so all tasks choose the same: an id that a task with many
//! waiting parts reports is also reported by a task with fewer. The newest other parts are *held*. A held part is
//! reported as soon as another task has reported the same checkpoint, or if no newer one comes for a long time;
//! otherwise it is let go, oldest first. So the number of waiting parts grows with the logarithm of the number of
//! checkpoints, and no barrier is refused. Once the task is back, its first checkpoint is committed.
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

use super::{
    core::{Condition, Core},
    environment::Environment,
    handle::Shared,
    outbox::SessionEvent,
};
use crate::{
    checkpoint::{
        job::{self, Commit, Finished, JobCheckpoint, JobError, JobRecord, Report},
        ledger::{NoticeKind, NoticeTarget},
        manifest::CheckpointRecord,
    },
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

/// Number of waiting parts after which only half as many of the next parts are reported unasked.
const PARTS_PER_HALVING: usize = 32;

/// Most parts that are held; the newest are kept.
const HELD_PARTS: usize = 16;

/// The coordinators of a daemon, one for each job and attempt of its backends. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Coordinators(Arc<Mutex<All>>);

type All = BTreeMap<(Name, Attempt), Arc<Coordinator>>;

/// Reports and commits for the backends of one attempt of a job on this daemon, and tells them about commits.
struct Coordinator {
    job: Name,
    attempt: Attempt,
    /// The members by name and epoch. A member that has ended stays until all its parts are reported.
    members: Mutex<BTreeMap<(BackendId, u64), Arc<Shared>>>,
    wake: Arc<Notify>,
}

/// The part of an owner in its job's coordination.
#[derive(Debug)]
pub(super) struct Coordinated {
    /// Parts that are published and not yet reported.
    unreported: BTreeMap<CheckpointId, CheckpointIdentity>,
    /// Parts that are published but held back, because many parts await a commit.
    held: BTreeMap<CheckpointId, CheckpointIdentity>,
    /// The newest held part, and for how many rounds it has been the newest.
    newest_held: (CheckpointId, u64),
    /// Parts that are reported, and neither committed nor subsumed.
    reported: BTreeSet<CheckpointId>,
    /// The newest committed part of this attempt.
    committed: Option<CheckpointIdentity>,
    /// The checkpoint that the job would restore, as far as known: the newest commit, or the one that this attempt
    /// restored.
    stands_on: Option<JobCheckpoint>,
    wake: Arc<Notify>,
}

/// The work of one round.
struct Round {
    unreported: Vec<(Arc<Shared>, Report)>,
    /// Whether some parts await a commit.
    awaits: bool,
}

impl Coordinated {
    /// The part of an owner in the generation of `record`.
    pub(super) fn new(record: &JobRecord) -> Self {
        Self {
            unreported: BTreeMap::new(),
            held: BTreeMap::new(),
            newest_held: (0, 0),
            reported: BTreeSet::new(),
            committed: None,
            stands_on: record.stands_on(),
            wake: Arc::default(),
        }
    }

    /// The newest committed part.
    pub(super) fn committed(&self) -> Option<CheckpointIdentity> {
        self.committed
    }

    /// Moves the held parts that are `wanted` to those that are to be reported.
    fn report_held(&mut self, wanted: impl Fn(CheckpointId) -> bool) {
        for (id, part) in self.held.extract_if(.., |id, _| wanted(*id)) {
            self.unreported.insert(id, part);
            self.wake.notify_one();
        }
    }

    /// Ends a round. If the newest held part stays the newest for long, it is reported, since it may be the last. The
    /// more parts wait, the longer that takes.
    fn outlast(&mut self) {
        let Some(newest) = self.held.last_key_value().map(|(id, _)| *id) else { return };
        let (held, rounds) = self.newest_held;
        self.newest_held = if held == newest { (held, rounds + 1) } else { (newest, 0) };
        let halvings = u32::try_from(self.waiting() / PARTS_PER_HALVING).unwrap_or(u32::MAX);
        if self.newest_held.1.checked_shr(halvings).is_some_and(|rounds| rounds > 0) {
            self.report_held(|id| id == newest);
        }
    }

    /// Number of parts that await a commit.
    fn waiting(&self) -> usize {
        self.reported.len() + self.unreported.len()
    }
}

/// Whether a part of checkpoint `id` is reported unasked while `waiting` parts await a commit. For each
/// [`PARTS_PER_HALVING`] more, half as many ids are; they are a subset of the ids that are reported with fewer waiting.
/// Pure.
fn is_reported_at(id: CheckpointId, waiting: usize) -> bool {
    // The id is scrambled, since engines may count in steps of their own.
    let spread = (id ^ (id >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    spread.leading_zeros() as usize >= waiting / PARTS_PER_HALVING
}

impl Coordinators {
    /// Coordinates an owner from now on.
    pub(super) fn join(&self, env: &Environment, shared: &Arc<Shared>) {
        let (id, epoch, attempt) = {
            let core = shared.core();
            (core.id.clone(), core.owner.epoch().number, core.owner.manifest().owner().attempt)
        };
        let mut all = self.0.lock();
        let coordinator = all.entry((id.job.clone(), attempt)).or_insert_with(|| {
            let (job, members, wake) = (id.job.clone(), Mutex::default(), Arc::default());
            let coordinator = Arc::new(Coordinator { job, attempt, members, wake });
            let (served, all) = (coordinator.clone(), self.clone());
            let on_panic = move |panicked: &Panicked| all.end(&served, panicked);
            env.tasks.supervise("a coordinator", run(env.clone(), coordinator.clone()), on_panic);
            coordinator
        });
        coordinator.members.lock().insert((id, epoch), shared.clone());
        let wake = coordinator.wake.clone();
        drop(all);
        let mut core = shared.core();
        if matches!(core.condition, Condition::Ended(_)) {
            // The backend may have ended before it could tell this coordinator.
            wake.notify_one();
        }
        if let Some(coordinated) = &mut core.coordinated {
            coordinated.wake = wake;
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
            round.unreported.extend(coordinated.unreported.values().map(report));
            round.awaits |= !coordinated.reported.is_empty();
            // A backend that has ended publishes no more, so it leaves once everything is reported.
            if matches!(core.condition, Condition::Ended(_)) && coordinated.unreported.is_empty() {
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
async fn run(env: Environment, coordinator: Arc<Coordinator>) {
    while let Some(round) = env.coordinators.round(&coordinator) {
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
            job::report(&env.store, &report, retry).await?;
            shared.core().reported(report.part.id);
            Ok::<_, JobError>(())
        });
        stream::iter(reports).buffer_unordered(CONCURRENT_REPORTS).try_collect::<()>().await?;
        if !awaits {
            return Ok(false);
        }
        let (record, appended) = match job::finish(&env.store, &self.job, self.attempt, retry).await? {
            Finished::Current { record, appended, reported } => {
                self.each(|core| core.report_held(&reported));
                (record, appended)
            }
            Finished::Outdated { by } => {
                self.each(|core| core.outdated(by));
                return Ok(false);
            }
        };
        if let Some(commit) = record.commit.as_ref().filter(|commit| commit.checkpoint.attempt == self.attempt) {
            self.each(|core| core.job_completed(commit));
        }
        if appended {
            env.metrics.committed();
            job::delete_outdated(&env.store, &self.job, &record, retry).await;
        }
        let awaits = |core: &Core| core.coordinated.as_ref().is_some_and(|it| !it.reported.is_empty());
        Ok(self.members().iter().any(|(_, shared)| awaits(&shared.core())))
    }

    /// The members, by name and epoch.
    fn members(&self) -> Vec<((BackendId, u64), Arc<Shared>)> {
        self.members.lock().iter().map(|(name, shared)| (name.clone(), shared.clone())).collect()
    }

    fn each(&self, act: impl Fn(&mut Core)) {
        for (_, shared) in self.members() {
            act(&mut shared.core());
            shared.wake.notify_one();
        }
    }
}

impl Core {
    /// Begins under the generation of `record` if its attempt was declared. Completes commits here that the owner
    /// before had no time to note.
    pub(super) fn begin_coordinated(&mut self, record: Option<&JobRecord>) {
        let Some(record) = record else { return };
        self.coordinated = Some(Coordinated::new(record));
        let commits = record.commits();
        self.owner.recall(|record| commits.contains(&JobCheckpoint::of(record)));
    }

    /// Notes that a part is published and has to be reported, unless a newer commit has subsumed it already.
    pub(super) fn owe_report(&mut self, record: &CheckpointRecord) {
        let Some(coordinated) = &mut self.coordinated else { return };
        let part = record.identity;
        if coordinated.committed.is_some_and(|committed| part.id <= committed.id) {
            self.owner.let_go(target(&part));
            return;
        }
        if is_reported_at(part.id, coordinated.waiting()) {
            coordinated.unreported.insert(part.id, part);
            coordinated.wake.notify_one();
            return;
        }
        coordinated.held.insert(part.id, part);
        if coordinated.held.len() > HELD_PARTS
            && let Some((_, oldest)) = coordinated.held.pop_first()
        {
            self.owner.let_go(target(&oldest));
        }
    }

    /// Notes that other tasks have reported `ids`: held parts of these checkpoints are reported, too.
    fn report_held(&mut self, ids: &BTreeSet<CheckpointId>) {
        if let Some(coordinated) = self.coordinated.as_mut().filter(|_| !matches!(self.condition, Condition::Ended(_)))
        {
            coordinated.report_held(|id| ids.contains(&id));
            coordinated.outlast();
        }
    }

    /// Notes that the report of a part is durable.
    fn reported(&mut self, id: CheckpointId) {
        let has_ended = matches!(self.condition, Condition::Ended(_));
        let Some(coordinated) = &mut self.coordinated else { return };
        if coordinated.unreported.remove(&id).is_some() && !has_ended {
            coordinated.reported.insert(id);
            self.env.metrics.reported(1);
        }
    }

    /// Takes a new commit into account: completes the part of this backend, lets go of the parts that it subsumes, and
    /// tells the session. Idempotent.
    pub(super) fn job_completed(&mut self, commit: &Commit) {
        if matches!(self.condition, Condition::Ended(_)) {
            return;
        }
        let part = commit.part(&self.id.operator, self.id.subtask);
        let (Some(coordinated), Some(part)) = (&mut self.coordinated, part) else { return };
        let is_own = part.epoch == self.owner.epoch().number;
        if is_own && coordinated.committed.is_some_and(|committed| committed.id >= part.id) {
            return;
        }
        coordinated.stands_on = Some(commit.checkpoint);
        if is_own {
            coordinated.committed = Some(part);
            let reported = coordinated.reported.len();
            coordinated.reported.retain(|id| *id > part.id);
            coordinated.unreported.retain(|id, _| *id > part.id);
            let settled = reported - coordinated.reported.len();
            coordinated.held.retain(|id, _| *id > part.id);
            let waiting = coordinated.waiting();
            coordinated.report_held(|id| is_reported_at(id, waiting));
            self.env.metrics.reported(-i64::try_from(settled).unwrap_or(i64::MAX));
        }
        let outcome = self.owner.commit(target(&part));
        self.mark_completed(target(&part), outcome);
        self.retain_marks();
        self.want_copies();
        if is_own && self.session.is_some() {
            self.tell(SessionEvent::JobCheckpointCompleted(part));
        }
        self.wake_session();
    }

    /// Notes that a later attempt has begun, after which nothing of this attempt is committed.
    fn outdated(&mut self, by: Attempt) {
        let Some(coordinated) = &mut self.coordinated else { return };
        coordinated.unreported.clear();
        coordinated.held.clear();
        let attempt = self.owner.manifest().owner().attempt;
        let text =
            format!("backend `{}`: attempt {attempt} is outdated, attempt {by} of the job has begun; stop", self.id);
        if !matches!(self.condition, Condition::Ended(_)) {
            self.env.metrics.fenced();
        }
        self.end(&Error::new(Reason::Fenced, text));
    }

    /// Stops awaiting commits, because the owner has ended.
    pub(super) fn stop_awaiting(&mut self) {
        let Some(coordinated) = &mut self.coordinated else { return };
        // The task may have ended in order right after these parts, and the other tasks may still report them.
        coordinated.report_held(|_| true);
        let awaited = std::mem::take(&mut coordinated.reported).len();
        self.env.metrics.reported(-i64::try_from(awaited).unwrap_or(i64::MAX));
        coordinated.wake.notify_one();
    }

    /// Whether a notice about a published checkpoint is not for the engine to send: COMPLETE, and a notice that lets go
    /// of a checkpoint which the job may restore. Checkpoints older than the one that the job stands on may go.
    pub(super) fn is_coordinated(&self, kind: NoticeKind, target: NoticeTarget) -> bool {
        let Some(coordinated) = &self.coordinated else { return false };
        let is_past = |record| coordinated.stands_on.is_some_and(|on| JobCheckpoint::of(record) < on);
        kind == NoticeKind::Complete || self.owner.ledger().find(target).is_some_and(|record| !is_past(record))
    }
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator").field("job", &self.job).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

fn target(part: &CheckpointIdentity) -> NoticeTarget {
    NoticeTarget { epoch: part.epoch, id: part.id, uuid: Some(part.uuid) }
}

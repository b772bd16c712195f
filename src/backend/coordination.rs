//! Checkpoints of declared jobs, which dstl completes itself: what the backends of this daemon report, and what they
//! hear of it.
//!
//! ```text
//!   Core: part published ──unreported──▶ Coordinator ──report──▶ store ──▶ all tasks? ──commit──▶ job chain
//!                                          (one per job           ▲                                 │ by whomever
//!   Core: completed, session told ◀────────and attempt) ◀──────────┴── looks again, while it waits ◀─┘
//! ```
//!
//! Why that is right is told by [`crate::checkpoint::job`]; what it demands of an owner is here:
//!
//! * A part is reported only after the manifest that names it is durable, and then not let go of, for no notice, before
//!   a commit that is as new, or the end of the owner.
//! * A commit does what the engine's COMPLETE does, durable with the next manifest. Should this daemon die before: the
//!   owner that restores the commit reads it in the job's chain.
//! * Reports outlive their owner: what a backend published before it was closed is still reported.
//!
//! # Tasks that do not keep up
//!
//! While a task stalls, or has ended, nothing is committed, and what the others reported may not be let go. So they
//! report ever fewer of their parts: of 32 more that await a commit each time only half as many ([`is_reported_at`]).
//! Which, the id alone decides, so that all tasks choose the same: an id that one reports who has many waiting,
//! everybody does who has fewer. The newest other parts are *held*: reported as soon as any other task has reported the
//! same checkpoint, or none has come after it for long, and let go, oldest first, otherwise. So what waits grows with
//! the logarithm of the number of checkpoints, no barrier is refused, and once the task is back, its first checkpoint
//! is committed.
//!
//! A coordinator is level-triggered: each round compares what is published with what is reported, and what is reported
//! with what is committed. Rounds come at once when a part is published, and by time while a commit is awaited or the
//! store fails.

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

/// How often a request is tried before the round is left for the next.
const REQUEST_ATTEMPTS: u32 = 3;

/// Reports under way at once.
const CONCURRENT_REPORTS: usize = 16;

/// An end of time, for a timer that is not armed.
const FAR: Duration = Duration::from_secs(86_400);

/// Parts that await a commit, beyond each of which only half as many of the next ones are reported unasked.
const PARTS_PER_HALVING: usize = 32;

/// The newest parts that are held, at most.
const HELD_PARTS: usize = 16;

/// The coordinators of a daemon: one for each job and attempt of which it has backends. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Coordinators(Arc<Mutex<All>>);

type All = BTreeMap<(Name, Attempt), Arc<Coordinator>>;

/// Reports for the backends of one attempt of a job on this daemon, commits, and tells them.
struct Coordinator {
    job: Name,
    attempt: Attempt,
    /// By name and epoch. One that has ended stays until all is reported.
    members: Mutex<BTreeMap<(BackendId, u64), Arc<Shared>>>,
    wake: Arc<Notify>,
}

/// What one owner knows of the job's coordination.
#[derive(Debug)]
pub(super) struct Coordinated {
    /// Published, and not yet reported.
    unreported: BTreeMap<CheckpointId, CheckpointIdentity>,
    /// Published, and not reported unless another task does, because many await a commit.
    held: BTreeMap<CheckpointId, CheckpointIdentity>,
    /// The newest of those, and for how many rounds it has been that.
    newest_held: (CheckpointId, u64),
    /// Reported, and neither committed nor subsumed.
    reported: BTreeSet<CheckpointId>,
    /// The newest part that is committed, of this attempt.
    committed: Option<CheckpointIdentity>,
    /// What the job would restore, as far as known: the newest commit, or what this attempt restored.
    stands_on: Option<JobCheckpoint>,
    wake: Arc<Notify>,
}

/// What a round has to do.
struct Round {
    unreported: Vec<(Arc<Shared>, Report)>,
    /// Whether commits are awaited.
    awaits: bool,
}

impl Coordinated {
    /// For an owner of the generation of `record`.
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

    /// The newest part that is committed.
    pub(super) fn committed(&self) -> Option<CheckpointIdentity> {
        self.committed
    }

    /// Reports those that are held and `wanted`.
    fn report_held(&mut self, wanted: impl Fn(CheckpointId) -> bool) {
        for (id, part) in self.held.extract_if(.., |id, _| wanted(*id)) {
            self.unreported.insert(id, part);
            self.wake.notify_one();
        }
    }

    /// A round is over. The newest that is held is reported, too, if none comes after it for long, the longer the more
    /// wait: it may be the last.
    fn outlast(&mut self) {
        let Some(newest) = self.held.last_key_value().map(|(id, _)| *id) else { return };
        let (held, rounds) = self.newest_held;
        self.newest_held = if held == newest { (held, rounds + 1) } else { (newest, 0) };
        let halvings = u32::try_from(self.waiting() / PARTS_PER_HALVING).unwrap_or(u32::MAX);
        if self.newest_held.1.checked_shr(halvings).is_some_and(|rounds| rounds > 0) {
            self.report_held(|id| id == newest);
        }
    }

    /// Parts that await a commit.
    fn waiting(&self) -> usize {
        self.reported.len() + self.unreported.len()
    }
}

/// Whether a part of checkpoint `id` is reported unasked where so many wait already: of each [`PARTS_PER_HALVING`]
/// more, half as many are; those among them that are with more waiting, too. Pure.
fn is_reported_at(id: CheckpointId, waiting: usize) -> bool {
    // Spread, since engines count in steps of their own.
    let spread = (id ^ (id >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    spread.leading_zeros() as usize >= waiting / PARTS_PER_HALVING
}

impl Coordinators {
    /// Coordinates an owner from now on.
    pub(super) fn join(&self, env: &Environment, shared: &Arc<Shared>) {
        let (id, epoch, attempt) = {
            let core = shared.core();
            (core.id.clone(), core.epoch.number, core.manifest.owner().attempt)
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
            // It may have ended before it knew whom to tell.
            wake.notify_one();
        }
        if let Some(coordinated) = &mut core.coordinated {
            coordinated.wake = wake;
        }
    }

    /// Ends the members of `coordinator`, whose task has panicked: nobody would complete their checkpoints. The next
    /// one to open begins another.
    fn end(&self, coordinator: &Coordinator, panicked: &Panicked) {
        self.0.lock().remove(&(coordinator.job.clone(), coordinator.attempt));
        coordinator.each(|core| core.end_panicked(panicked));
    }

    /// What `coordinator` has to do; `None` once it has no more members, and is forgotten.
    fn round(&self, coordinator: &Coordinator) -> Option<Round> {
        let mut round = Round { unreported: vec![], awaits: false };
        let mut over = vec![];
        // Cores are waited for without any other lock: opens need those.
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
            // What has ended publishes no more.
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
        // So that not all daemons look at the same time.
        let pause = env.options.coordination_interval.mul_f64(0.75 + env.random.fraction() / 2.0);
        tokio::select! {
            biased;
            () = coordinator.wake.notified() => {}
            () = sleep(if awaits { pause } else { FAR }) => {}
        }
    }
}

impl Coordinator {
    /// Reports what is published; then commits, and tells the members, as far as that is possible. Returns whether
    /// commits are awaited.
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

    /// By name and epoch.
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
    /// Begins under the generation of `record`, if its attempt was declared. Commits that the owner before had no time
    /// to take note of complete here.
    pub(super) fn begin_coordinated(&mut self, record: Option<&JobRecord>) {
        let Some(record) = record else { return };
        self.coordinated = Some(Coordinated::new(record));
        let commits = record.commits();
        self.ledger.recall(|record| commits.contains(&JobCheckpoint::of(record)));
    }

    /// A part is published: it is to be reported, unless a newer commit has subsumed it already.
    pub(super) fn owe_report(&mut self, record: &CheckpointRecord) {
        let Some(coordinated) = &mut self.coordinated else { return };
        let part = record.identity;
        if coordinated.committed.is_some_and(|committed| part.id <= committed.id) {
            self.ledger.notice(NoticeKind::Discard, target(&part));
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
            self.ledger.notice(NoticeKind::Discard, target(&oldest));
        }
    }

    /// Other tasks have reported `ids`: those that are held are worth a report, too.
    fn report_held(&mut self, ids: &BTreeSet<CheckpointId>) {
        if let Some(coordinated) = self.coordinated.as_mut().filter(|_| !matches!(self.condition, Condition::Ended(_)))
        {
            coordinated.report_held(|id| ids.contains(&id));
            coordinated.outlast();
        }
    }

    /// The report of a part is durable.
    fn reported(&mut self, id: CheckpointId) {
        let has_ended = matches!(self.condition, Condition::Ended(_));
        let Some(coordinated) = &mut self.coordinated else { return };
        if coordinated.unreported.remove(&id).is_some() && !has_ended {
            coordinated.reported.insert(id);
            self.env.metrics.reported(1);
        }
    }

    /// Takes note of the newest commit: completes the part of this backend, lets go of what that subsumes, tells the
    /// session. Idempotent.
    pub(super) fn job_completed(&mut self, commit: &Commit) {
        if matches!(self.condition, Condition::Ended(_)) {
            return;
        }
        let part = commit.part(&self.id.operator, self.id.subtask);
        let (Some(coordinated), Some(part)) = (&mut self.coordinated, part) else { return };
        let is_own = part.epoch == self.epoch.number;
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
        let outcome = self.ledger.commit(target(&part));
        self.mark_completed(target(&part), outcome);
        self.retain_marks();
        self.want_copies();
        if is_own && self.session.is_some() {
            self.tell(SessionEvent::JobCheckpointCompleted(part));
        }
        self.wake_session();
    }

    /// A later attempt has begun: nothing of this one is committed any more.
    fn outdated(&mut self, by: Attempt) {
        let Some(coordinated) = &mut self.coordinated else { return };
        coordinated.unreported.clear();
        coordinated.held.clear();
        let attempt = self.manifest.owner().attempt;
        let text =
            format!("backend `{}`: attempt {attempt} is outdated, attempt {by} of the job has begun; stop", self.id);
        if !matches!(self.condition, Condition::Ended(_)) {
            self.env.metrics.fenced();
        }
        self.end(&Error::new(Reason::Fenced, text));
    }

    /// Awaits no commits any more: the owner has ended.
    pub(super) fn stop_awaiting(&mut self) {
        let Some(coordinated) = &mut self.coordinated else { return };
        // The last ones that the task made, before it ended in order: others may still come to them.
        coordinated.report_held(|_| true);
        let awaited = std::mem::take(&mut coordinated.reported).len();
        self.env.metrics.reported(-i64::try_from(awaited).unwrap_or(i64::MAX));
        coordinated.wake.notify_one();
    }

    /// Whether a notice about what is published is not the engine's to send: COMPLETE, and what would let go of a
    /// checkpoint that the job may restore. What is older than what the job stands on may go.
    pub(super) fn is_coordinated(&self, kind: NoticeKind, target: NoticeTarget) -> bool {
        let Some(coordinated) = &self.coordinated else { return false };
        let is_past = |record| coordinated.stands_on.is_some_and(|on| JobCheckpoint::of(record) < on);
        kind == NoticeKind::Complete || self.ledger.find(target).is_some_and(|record| !is_past(record))
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

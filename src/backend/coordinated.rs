//! The part of an owner in the coordination of its declared job: which of its checkpoints are reported, and which are
//! committed.
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

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::Notify;

use super::metrics::BackendMetrics;
use crate::{
    checkpoint::{
        job::{JobCheckpoint, JobRecord},
        ledger::{NoticeKind, NoticeTarget},
        manifest::CheckpointRecord,
        owner::Owner,
    },
    types::{CheckpointId, CheckpointIdentity},
};

/// Number of waiting parts after which only half as many of the next parts are reported unasked.
const PARTS_PER_HALVING: usize = 32;

/// Most parts that are held; the newest are kept.
const HELD_PARTS: usize = 16;

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
        // With so many halvings the part has to be the newest for two to the power of that number of rounds.
        let halvings = u32::try_from(self.waiting() / PARTS_PER_HALVING).unwrap_or(u32::MAX);
        if self.newest_held.1.checked_shr(halvings).is_some_and(|rounds| rounds > 0) {
            self.report_held(|id| id == newest);
        }
    }

    /// Number of parts that await a commit.
    fn waiting(&self) -> usize {
        self.reported.len() + self.unreported.len()
    }

    /// The parts that have to be reported.
    pub(super) fn unreported(&self) -> impl Iterator<Item = &CheckpointIdentity> {
        self.unreported.values()
    }

    /// Whether parts await a commit.
    pub(super) fn awaits(&self) -> bool {
        !self.reported.is_empty()
    }

    /// Lets it wake its coordinator.
    pub(super) fn join(&mut self, wake: Arc<Notify>) {
        self.wake = wake;
    }

    /// Notes that a part is published and has to be reported, unless a newer commit has subsumed it already.
    pub(super) fn owe_report(&mut self, owner: &mut Owner, record: &CheckpointRecord) {
        let part = record.identity;
        // A commit subsumes all older ids of the attempt, so no commit can ever have this part.
        if self.committed.is_some_and(|committed| part.id <= committed.id) {
            owner.let_go(target(&part));
            return;
        }
        if is_reported_at(part.id, self.waiting()) {
            self.unreported.insert(part.id, part);
            self.wake.notify_one();
            return;
        }
        // The oldest goes: a newer commit would subsume it first.
        self.held.insert(part.id, part);
        if self.held.len() > HELD_PARTS
            && let Some((_, oldest)) = self.held.pop_first()
        {
            owner.let_go(target(&oldest));
        }
    }

    /// Notes that other tasks have reported `ids`: held parts of these checkpoints are reported, too. Ends a round.
    pub(super) fn reported_elsewhere(&mut self, ids: &BTreeSet<CheckpointId>) {
        self.report_held(|id| ids.contains(&id));
        self.outlast();
    }

    /// Notes that the report of a part is durable. An owner that `has_ended` awaits no commit.
    pub(super) fn reported(&mut self, id: CheckpointId, has_ended: bool, metrics: &BackendMetrics) {
        if self.unreported.remove(&id).is_some() && !has_ended {
            self.reported.insert(id);
            metrics.reported(1);
        }
    }

    /// Takes a new commit into account, with the part of this backend in it, which is of its own epoch or of an earlier
    /// one. Returns whether it is news.
    pub(super) fn commit(
        &mut self,
        checkpoint: JobCheckpoint,
        part: CheckpointIdentity,
        is_own: bool,
        metrics: &BackendMetrics,
    ) -> bool {
        if is_own && self.committed.is_some_and(|committed| committed.id >= part.id) {
            return false;
        }
        self.stands_on = Some(checkpoint);
        if is_own {
            self.committed = Some(part);
            let reported = self.reported.len();
            // Ordering: the parts that this commit settles go first, then the held ones are judged again. Fewer parts
            // wait by then, so more of the held ones may be reported.
            self.reported.retain(|id| *id > part.id);
            self.unreported.retain(|id, _| *id > part.id);
            let settled = reported - self.reported.len();
            self.held.retain(|id, _| *id > part.id);
            let waiting = self.waiting();
            self.report_held(|id| is_reported_at(id, waiting));
            metrics.reported(-i64::try_from(settled).unwrap_or(i64::MAX));
        }
        true
    }

    /// Notes that a later attempt has begun, after which nothing of this attempt is committed.
    pub(super) fn outdated(&mut self) {
        self.unreported.clear();
        self.held.clear();
    }

    /// Stops awaiting commits, because the owner has ended.
    pub(super) fn stop_awaiting(&mut self, metrics: &BackendMetrics) {
        // The task may have ended in order right after these parts, and the other tasks may still report them.
        self.report_held(|_| true);
        let awaited = std::mem::take(&mut self.reported).len();
        metrics.reported(-i64::try_from(awaited).unwrap_or(i64::MAX));
        self.wake.notify_one();
    }

    /// Whether a notice about a published checkpoint is not for the engine to send: COMPLETE, and a notice that lets go
    /// of a checkpoint which the job may restore. Checkpoints older than the one that the job stands on may go.
    pub(super) fn takes(&self, owner: &Owner, kind: NoticeKind, target: NoticeTarget) -> bool {
        let is_past = |record| self.stands_on.is_some_and(|on| JobCheckpoint::of(record) < on);
        kind == NoticeKind::Complete || owner.ledger().find(target).is_some_and(|record| !is_past(record))
    }
}

/// Whether a part of checkpoint `id` is reported unasked while `waiting` parts await a commit. For each
/// [`PARTS_PER_HALVING`] more, half as many ids are; they are a subset of the ids that are reported with fewer waiting.
/// Pure.
fn is_reported_at(id: CheckpointId, waiting: usize) -> bool {
    // The id is scrambled, since engines may count in steps of their own.
    let spread = (id ^ (id >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // Each further zero that is demanded at the front halves the ids, and the ids that are left were among those
    // before. So tasks with different numbers of waiting parts still agree on the fewest.
    spread.leading_zeros() as usize >= waiting / PARTS_PER_HALVING
}

/// A part, as a notice names it.
pub(super) fn target(part: &CheckpointIdentity) -> NoticeTarget {
    NoticeTarget { epoch: part.epoch, id: part.id, uuid: Some(part.uuid) }
}

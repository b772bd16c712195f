//! What engines were told, and what therefore must hold.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dstl::{
    checkpoint::{handle::CheckpointHandle, ledger::Retention, manifest::CheckpointRecord},
    types::{Attempt, CheckpointId, StateId},
};

use super::{model::Model, plan::Plan};

/// Epoch and id: names a checkpoint of one backend.
pub(super) type CutKey = (u64, CheckpointId);

/// Attempt and id: names a checkpoint of the job.
pub(super) type JobKey = (Attempt, CheckpointId);

/// What was where a barrier cut.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    pub(super) attempt: Attempt,
    pub(super) attachment: Bytes,
    pub(super) applied_to: u64,
    pub(super) model: Model,
    pub(super) ids: BTreeMap<usize, StateId>,
    /// From its answer: it is restorable.
    pub(super) handle: Option<CheckpointHandle>,
    /// The engine was told that it failed.
    pub(super) failed: bool,
    /// The daemon was told that it completed.
    pub(super) completed: bool,
    pub(super) pinned: bool,
    /// Whether retention, or a notice, may have let it go.
    pub(super) let_go: bool,
    /// Whether a later attempt did not have the backend: then it stays only as long as those that it has retain theirs.
    pub(super) vanished: bool,
}

impl Cut {
    fn is_retained(&self) -> bool {
        self.handle.is_some() && (self.pinned || !self.let_go)
    }
}

/// What is known of one backend.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) cuts: BTreeMap<CutKey, Cut>,
    /// Per epoch, in order: its attempt, and which checkpoints its first manifest retains.
    opened: BTreeMap<u64, (Attempt, BTreeSet<CutKey>)>,
}

impl Truth {
    /// The newest owner's epoch; 0 before the first.
    pub(super) fn epoch(&self) -> u64 {
        self.opened.keys().next_back().copied().unwrap_or(0)
    }

    /// The highest attempt that opened.
    pub(super) fn attempt(&self) -> Attempt {
        self.opened.values().map(|(attempt, _)| *attempt).max().unwrap_or(0)
    }

    /// Whether the checkpoint has to be restorable.
    pub(super) fn must(&self, key: CutKey) -> bool {
        self.cuts.get(&key).is_some_and(|cut| !cut.vanished && cut.is_retained())
    }

    /// All that have to be, oldest first.
    pub(super) fn musts(&self) -> Vec<CutKey> {
        self.cuts.keys().copied().filter(|key| self.must(*key)).collect()
    }

    /// Whether its part of the job's checkpoint has to be restorable, given that all others retain theirs.
    pub(super) fn must_of_job(&self, (attempt, id): JobKey) -> bool {
        self.cuts.iter().any(|(key, cut)| (cut.attempt, key.1) == (attempt, id) && cut.is_retained())
    }

    /// An attempt began that does not have the backend.
    pub(super) fn vanish(&mut self) {
        self.cuts.values_mut().for_each(|cut| cut.vanished = true);
    }

    /// An owner has opened; its first manifest has `records`.
    pub(super) fn open(&mut self, epoch: u64, attempt: Attempt, records: &[CheckpointRecord]) {
        let newest = self.epoch();
        assert!(epoch > newest, "epoch {epoch} opened after {newest}");
        assert!(attempt >= self.attempt(), "attempt {attempt} opened after {}", self.attempt());
        let found: BTreeSet<_> = records.iter().map(|record| (record.identity.epoch, record.identity.id)).collect();
        for key in self.musts() {
            assert!(found.contains(&key), "checkpoint {key:?} was answered, but epoch {epoch} does not find it");
        }
        // What an older owner was told and did not publish is forgotten.
        self.cuts.values_mut().for_each(|cut| cut.let_go = true);
        for record in records {
            let key = (record.identity.epoch, record.identity.id);
            let cut = self.cuts.get_mut(&key).unwrap_or_else(|| panic!("nobody asked for checkpoint {key:?}"));
            (cut.completed, cut.pinned, cut.let_go) = (record.completed, record.pinned, record.subsumed);
            assert_eq!(
                (record.attempt, record.applied_to, &record.attachment),
                (cut.attempt, cut.applied_to, &cut.attachment.clone().into()),
                "{key:?}"
            );
        }
        self.opened.insert(epoch, (attempt, found));
    }

    /// A checkpoint was answered: it is restorable now. A fenced owner's answer is good only if its successor found it.
    pub(super) fn answered(&mut self, key: CutKey, handle: CheckpointHandle) {
        let vanished = self.cuts.get(&key).is_some_and(|cut| cut.vanished);
        if let Some((epoch, (_, found))) = self.opened.range(key.0 + 1..).next().filter(|_| !vanished) {
            assert!(found.contains(&key), "checkpoint {key:?} was answered, but epoch {epoch} had opened without it");
        }
        let cut = self.cuts.get_mut(&key).expect("a barrier was sent");
        assert!(!cut.failed, "checkpoint {key:?} was answered twice, once as failed");
        cut.handle = Some(handle);
    }

    /// A checkpoint was completed: retention lets older ones go.
    pub(super) fn retain(&mut self, retention: Retention) {
        self.retain_up_to(retention, (u64::MAX, 0));
    }

    /// An owner that began with `restored` takes a checkpoint: once that is published, retention lets go of what owners
    /// before left.
    pub(super) fn retain_before(&mut self, retention: Retention, restored: JobKey) {
        let is_it = |(key, cut): &(&CutKey, &Cut)| (cut.attempt, key.1) == restored;
        let beginning = self.cuts.iter().rev().find(is_it).map(|(key, _)| *key);
        if let Some(beginning) = beginning {
            self.retain_up_to(retention, beginning);
        }
    }

    fn retain_up_to(&mut self, retention: Retention, last: CutKey) {
        let Retention::Count(count) = retention else { return };
        let cuts = self.cuts.range(..=last).rev();
        let completed = cuts.filter(|(_, cut)| cut.completed && !cut.let_go).map(|(key, _)| *key);
        let Some(oldest) = completed.take(count).nth(count - 1) else { return };
        self.cuts.range_mut(..oldest).for_each(|(_, cut)| cut.let_go = true);
    }
}

/// What is known of the job.
#[derive(Debug, Default)]
pub(super) struct JobTruth {
    /// The newest attempt that was started.
    pub(super) attempt: Attempt,
    /// The newest barrier that was ordered.
    pub(super) barrier: CheckpointId,
    /// Which backends answered which checkpoint.
    answers: BTreeMap<JobKey, BTreeSet<usize>>,
    /// What the backends of each attempt restored when they asked for the latest.
    latest: BTreeMap<Attempt, Option<JobKey>>,
    /// Which ids the backends of each attempt asked for by name.
    named: BTreeSet<JobKey>,
    /// Whether any asked for one that not all backends of its attempt had. To restore it says that it completed.
    pub(super) named_part: bool,
}

impl JobTruth {
    pub(super) fn answered(&mut self, key: JobKey, seat: usize) {
        self.answers.entry(key).or_default().insert(seat);
    }

    pub(super) fn is_complete(&self, key: JobKey, seats: usize) -> bool {
        self.answers.get(&key).is_some_and(|answers| answers.len() == seats)
    }

    /// Those that all backends of their attempt answered, newest first.
    pub(super) fn complete<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = JobKey> + 'a {
        let is_complete = |(key, answers): &(&JobKey, &BTreeSet<usize>)| answers.len() == plan.seats_of(key.0).len();
        self.answers.iter().rev().filter(is_complete).map(|(key, _)| *key)
    }

    /// A backend of `attempt` asks for checkpoint `id` by name, be it of another attempt.
    pub(super) fn names(&mut self, attempt: Attempt, id: CheckpointId) {
        self.named.insert((attempt, id));
    }

    /// Whether one of `attempt` did.
    pub(super) fn has_named(&self, attempt: Attempt, id: CheckpointId) -> bool {
        self.named.contains(&(attempt, id))
    }

    /// A backend of `attempt` restored the latest.
    pub(super) fn restored_latest(&mut self, attempt: Attempt, found: Option<JobKey>) {
        let first = *self.latest.entry(attempt).or_insert(found);
        assert_eq!(first, found, "the subtasks of attempt {attempt} restored different checkpoints");
    }
}

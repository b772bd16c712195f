//! The ledger of one owner's checkpoints: which are in flight, which are retained, and how notices change that. Pure.
//!
//! ```text
//!   trigger ─▶ Waiting ────durable────▶ Publishing ──manifest durable──▶ retained ──complete──▶ retained, completed
//!                 │ timeout, abort          │ timeout, abort                │ subsume, discard, abort, retention
//!                 ▼                         ▼                               ▼
//!               failed                   failed, withdrawn               let go (if pinned: once released)
//! ```
//!
//! If a checkpoint fails while its manifest is under way, the manifest may become durable all the same. Then the
//! checkpoint is withdrawn: the next manifest does not have it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::manifest::{self, CheckpointRecord};
use crate::{
    setting::{FromValue, Value},
    types::{Attempt, CheckpointId, CheckpointIdentity, Sqn},
};

/// The rule by which completed checkpoints stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// The newest ones stay, as many as this number; at least 1.
    Count(usize),
    /// All stay until a notice lets them go.
    Explicit,
}

impl FromValue for Retention {
    fn from_value(value: Value) -> Result<Self, String> {
        usize::from_value(value).map(Self::Count)
    }
}

/// An engine's statement about a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    /// The checkpoint is complete for the whole job.
    Complete,
    /// The checkpoint will not complete.
    Abort,
    /// This checkpoint and older ones of its epoch are no longer needed.
    Subsume,
    /// This checkpoint alone is no longer wanted.
    Discard,
}

/// The checkpoint that a notice means; without a UUID, epoch and id decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoticeTarget {
    /// The number of the epoch that made it.
    pub epoch: u64,
    /// The id that the engine gave it.
    pub id: CheckpointId,
    /// Its UUID, if the caller gave it.
    pub uuid: Option<uuid::Uuid>,
}

/// The effect of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeOutcome {
    /// The notice took effect.
    Done,
    /// The notice changed nothing, since it had been carried out before.
    Unchanged,
    /// There is no such checkpoint.
    Unknown,
    /// The checkpoint is pinned; it goes once the pin is released.
    Pinned,
    /// The engine may not send this notice, since dstl coordinates the job.
    Coordinated,
}

/// A barrier is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TriggerError {
    /// The id of the checkpoint is not above the last one.
    #[error("checkpoint id {id} is not above {last}, the last one of this epoch")]
    OutOfOrder {
        /// The id of the barrier.
        id: CheckpointId,
        /// The highest id so far.
        last: CheckpointId,
    },
    /// Too many checkpoints are in flight, and none of them [gives way](Ledger::gives_way).
    #[error("{0} checkpoints are in flight, the most that `execution.checkpointing.max-concurrent-checkpoints` allows")]
    InFlight(usize),
    /// Too many checkpoints are retained.
    #[error("{0} checkpoints are retained, the most there may be; complete newer ones, subsume or discard some")]
    Retained(usize),
}

/// The thing that has to be durable before a checkpoint can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaits {
    /// The log up to the checkpoint's cut.
    Log,
    /// A snapshot of the checkpoint's own, because there is no log.
    Snapshot,
    /// Nothing: all its contents are durable.
    Nothing,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Flight {
    record: CheckpointRecord,
    awaits: Awaits,
    publishing: bool,
}

impl Flight {
    fn is_durable(&self, persisted_to: Sqn) -> bool {
        match self.awaits {
            Awaits::Log => self.record.cut <= persisted_to,
            Awaits::Snapshot => false,
            Awaits::Nothing => true,
        }
    }
}

/// The checkpoints of one owner.
///
/// Invariants: `retained` ascends by (epoch, id); a withdrawn checkpoint is neither in flight nor retained. With a log,
/// ids in flight are above every id that this epoch published; snapshots may be done in another order.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Ledger {
    epoch: u64,
    retention: Retention,
    /// The run of the job that the owner belongs to. Retention by count ignores checkpoints of other runs; their makers
    /// decide about them.
    job_run: Bytes,
    in_flight: BTreeMap<CheckpointId, Flight>,
    /// Checkpoints that failed while their manifest was under way.
    withdrawn: BTreeSet<CheckpointId>,
    retained: Vec<CheckpointRecord>,
    /// Checkpoints of this epoch that a reader on this daemon reads. They stay like pinned ones, but no manifest says
    /// so: the next owner may release them.
    held: BTreeSet<CheckpointId>,
    last_id: CheckpointId,
    /// The (attempt, id) of the checkpoint that the owner began with, even if another chain has the restored part.
    began_with: Option<(Attempt, CheckpointId)>,
    confirmed_to: u64,
    /// Whether `retained` differs from the newest manifest.
    dirty: bool,
}

impl Ledger {
    /// The ledger of a new owner that found `retained` in the manifest. `last_id` is the highest id of its attempt so
    /// far.
    #[must_use]
    pub fn new(epoch: u64, retention: Retention, retained: Vec<CheckpointRecord>, last_id: CheckpointId) -> Self {
        Self {
            epoch,
            retention,
            job_run: Bytes::new(),
            in_flight: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            retained,
            held: BTreeSet::new(),
            last_id,
            began_with: None,
            confirmed_to: 0,
            dirty: false,
        }
    }

    /// The same ledger, for an owner that belongs to `job_run`.
    #[must_use]
    pub fn of_run(self, job_run: Bytes) -> Self {
        Self { job_run, ..self }
    }

    /// Notes that the owner begins with `restored`. That alone lets no checkpoint go: see [`Ledger::begin_publishing`].
    pub fn begin(&mut self, restored: (Attempt, CheckpointId)) {
        self.began_with = Some(restored);
    }

    /// Applies retention by count to the checkpoints of earlier owners, who may have died before they let any go. Among
    /// the checkpoints up to the one that this owner began with, the newest `count` completed ones stay and older ones
    /// go. The one that it began with stays, and so do newer ones, since other subtasks may not have opened yet. If
    /// runs are told apart, this waits for the first checkpoint that completes, since only that proves which run this
    /// is.
    fn let_go_before_beginning(&mut self) {
        let Retention::Count(count) = self.retention else { return };
        // If the restored part lies in another chain, this chain cannot tell which of its checkpoints are older, so all
        // stay.
        let Some(at) = self.retained.iter().rposition(|record| self.is_beginning(record)) else { return };
        if !self.job_run.is_empty() {
            return;
        }
        // The checkpoint that the owner began with counts as one of the newest. Those after it do not count, and stay.
        let before = self.retained.iter().take(at + 1).rev().filter(|record| self.is_of_run(record));
        if let Some(oldest_kept) = oldest_of_newest(before, count) {
            self.subsume_of_run(|record| key(record) < oldest_kept);
        }
    }

    /// Makes room if `most` checkpoints would be retained, because no completed one came to let others go. Oldest
    /// first, lets go of as many as necessary of two kinds: completed ones beyond the count, and uncompleted ones of
    /// earlier owners. Never lets go of the checkpoint that this owner began with. Returns whether any went.
    pub fn make_room(&mut self, most: usize) -> bool {
        let Retention::Count(count) = self.retention else { return false };
        // One more for the checkpoint that is about to be triggered. Those in flight will be retained, too, unless they
        // fail.
        let excess = (self.retained.len() + self.in_flight.len() + 1).saturating_sub(most);
        if excess == 0 {
            return false;
        }
        let own = || self.retained.iter().filter(|record| self.is_of_run(record));
        let oldest_kept = oldest_of_newest(own().rev(), count);
        let is_over = |record: &&CheckpointRecord| {
            let is_beyond = oldest_kept.is_some_and(|kept| key(record) < kept);
            let is_left = record.identity.epoch < self.epoch && !record.completed;
            (is_beyond || is_left) && !record.pinned && !self.is_beginning(record)
        };
        // Collected before `subsume` changes the list that the filter looks at.
        let over: BTreeSet<_> = own().filter(is_over).take(excess).map(key).collect();
        self.subsume(|record| over.contains(&key(record)));
        !over.is_empty()
    }

    fn is_beginning(&self, record: &CheckpointRecord) -> bool {
        self.began_with == Some((record.attempt, record.identity.id))
    }

    fn is_of_run(&self, record: &CheckpointRecord) -> bool {
        record.job_run == self.job_run
    }

    /// The highest id of a barrier of this epoch; 0 before the first one.
    #[must_use]
    pub fn last_id(&self) -> CheckpointId {
        self.last_id
    }

    /// Batches below this number are part of a completed checkpoint of this epoch.
    #[must_use]
    pub fn confirmed_to(&self) -> u64 {
        self.confirmed_to
    }

    /// Whether the retained checkpoints differ from those in the newest manifest.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Retained checkpoints, oldest first.
    #[must_use]
    pub fn retained(&self) -> &[CheckpointRecord] {
        &self.retained
    }

    /// The checkpoint that gives way to a newer one if too many are in flight: the second oldest that is in no manifest
    /// under way. The oldest stays, because otherwise no checkpoint would ever finish if barriers come faster than
    /// uploads. The newest stays, because it is worth most to a restore.
    #[must_use]
    pub fn gives_way(&self) -> Option<CheckpointId> {
        // A checkpoint in a manifest under way cannot give way: the manifest may be durable already, and then the
        // failure would have to be published by another one.
        let mut later = self.in_flight.iter().skip(1);
        later.find(|(_, flight)| !flight.publishing).map(|(id, _)| *id)
    }

    /// Number of checkpoints that are neither published nor failed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Checks whether a barrier with `id` can be accepted.
    ///
    /// # Errors
    /// [`TriggerError`] gives the reason.
    pub fn check(&self, id: CheckpointId, most_in_flight: usize, most_retained: usize) -> Result<(), TriggerError> {
        if id <= self.last_id {
            return Err(TriggerError::OutOfOrder { id, last: self.last_id });
        }
        // If one gives way, the caller fails it before it triggers, so the number in flight does not grow.
        if self.in_flight.len() >= most_in_flight && self.gives_way().is_none() {
            return Err(TriggerError::InFlight(self.in_flight.len()));
        }
        // Those in flight count: each of them is retained once it is published, and no retention may come before that.
        if self.retained.len() + self.in_flight.len() >= most_retained {
            return Err(TriggerError::Retained(self.retained.len()));
        }
        Ok(())
    }

    /// Adds the checkpoint of a barrier that was [checked](Self::check).
    pub fn trigger(&mut self, record: CheckpointRecord, awaits: Awaits) {
        let id = record.identity.id;
        assert_eq!(record.identity.epoch, self.epoch, "an owner triggers under its own epoch");
        assert!(id > self.last_id, "ids increase");
        // Also if the checkpoint fails later. The id is used up: an owner of the same attempt must not make another
        // checkpoint of the same name.
        self.last_id = id;
        self.in_flight.insert(id, Flight { record, awaits, publishing: false });
    }

    /// Notes that the snapshot of a checkpoint in flight is durable, as the materialization `base`; `uploaded_bytes`
    /// were uploaded for it.
    pub fn snapshotted(&mut self, id: CheckpointId, base: uuid::Uuid, uploaded_bytes: u64) {
        // A checkpoint that failed while its snapshot was uploaded is no longer here, and stays failed.
        if let Some(flight) = self.in_flight.get_mut(&id) {
            flight.record.base = Some(base);
            flight.record.incremental_bytes = uploaded_bytes;
            flight.awaits = Awaits::Nothing;
        }
    }

    /// Whether a checkpoint waits only for a manifest, if the log is durable up to `persisted_to`.
    #[must_use]
    pub fn is_ready(&self, persisted_to: Sqn) -> bool {
        self.in_flight.values().any(|flight| !flight.publishing && flight.is_durable(persisted_to))
    }

    /// Begins a manifest with every checkpoint in flight that is durable. Returns the ids of these, and all records
    /// that the manifest must have. With its first checkpoint, an owner also lets go of older owners' checkpoints
    /// beyond the count.
    pub fn begin_publishing(&mut self, persisted_to: Sqn) -> (Vec<CheckpointId>, Vec<CheckpointRecord>) {
        // Only with a first checkpoint of its own. Before that a crash would leave this owner's successor with fewer
        // checkpoints to fall back to, and nothing new.
        if self.is_ready(persisted_to) {
            self.let_go_before_beginning();
        }
        let mut records = self.retained.clone();
        let mut ids = vec![];
        for (id, flight) in &mut self.in_flight {
            // So `publishing` marks exactly the checkpoints of the manifest that begins here.
            assert!(!flight.publishing, "one manifest at a time");
            if flight.is_durable(persisted_to) {
                flight.publishing = true;
                ids.push(*id);
                records.push(flight.record.clone());
            }
        }
        records.sort_by_key(key);
        // The manifest has all changes up to now. A notice that comes while it is under way sets this again, and
        // thereby asks for the next manifest.
        self.dirty = false;
        (ids, records)
    }

    /// Takes over the places of attachments from `moved`, so that later manifests name them there.
    pub fn follow(&mut self, moved: &[CheckpointRecord]) {
        let in_flight = self.in_flight.values_mut().map(|flight| &mut flight.record);
        manifest::follow(self.retained.iter_mut().chain(in_flight), moved);
    }

    /// Notes that the manifest that was begun is durable. Returns the checkpoints that it publishes, without those that
    /// failed meanwhile.
    pub fn published(&mut self) -> Vec<CheckpointRecord> {
        // A checkpoint that failed meanwhile was removed by `fail`, so nobody is told of it although it is in the
        // manifest.
        let ids: Vec<_> = self.in_flight.iter().filter(|(_, flight)| flight.publishing).map(|(id, _)| *id).collect();
        let records: Vec<_> =
            ids.iter().filter_map(|id| self.in_flight.remove(id)).map(|flight| flight.record).collect();
        self.retained.extend(records.iter().cloned());
        self.retained.sort_by_key(key);
        // The durable manifest has checkpoints that failed while it was under way. Until the next manifest, a restart
        // could restore one that the engine has given up.
        self.dirty |= !std::mem::take(&mut self.withdrawn).is_empty();
        records
    }

    /// Fails one checkpoint in flight. Returns whether it was in flight.
    pub fn fail(&mut self, id: CheckpointId) -> bool {
        let Some(flight) = self.in_flight.remove(&id) else { return false };
        // Only then may a manifest have it. Otherwise it never gets into one, and there is nothing to withdraw.
        if flight.publishing {
            self.withdrawn.insert(id);
        }
        true
    }

    /// Checkpoints in flight whose contents the manifest names already, lowest id first: all except those that await a
    /// snapshot.
    pub fn in_flight_records(&self) -> impl Iterator<Item = &CheckpointRecord> + '_ {
        self.in_flight.values().filter(|flight| flight.awaits != Awaits::Snapshot).map(|flight| &flight.record)
    }

    /// Ids of all checkpoints in flight, lowest first.
    pub fn in_flight_ids(&self) -> impl Iterator<Item = CheckpointId> + '_ {
        self.in_flight.keys().copied()
    }

    /// Whether `target` means a checkpoint in flight; an abort or discard makes it fail.
    #[must_use]
    pub fn means_in_flight(&self, target: NoticeTarget) -> bool {
        let same = |flight: &Flight| target.uuid.is_none_or(|uuid| uuid == flight.record.identity.uuid);
        target.epoch == self.epoch && self.in_flight.get(&target.id).is_some_and(same)
    }

    /// Carries out a notice about a published checkpoint. Idempotent. A notice about a checkpoint that is not retained
    /// changes nothing.
    pub fn notice(&mut self, kind: NoticeKind, target: NoticeTarget) -> NoticeOutcome {
        match kind {
            NoticeKind::Complete => self.complete(target),
            NoticeKind::Abort | NoticeKind::Discard => self.let_go(target, |identity| matches(target, identity)),
            NoticeKind::Subsume => {
                // A subsume of an unknown checkpoint must not let go of the older ones. It may be late, for a
                // checkpoint that failed here and is retained nowhere, so that an older one is the newest that
                // restores.
                if self.position(target).is_none() {
                    return NoticeOutcome::Unknown;
                }
                // Only within the epoch: ids of another epoch may belong to another attempt, which counts anew.
                self.let_go(target, |identity| identity.epoch == target.epoch && identity.id <= target.id)
            }
        }
    }

    /// Notes that `target` is committed for the whole job, which commits nothing older any more. The checkpoint
    /// completes, and older uncompleted ones go.
    pub fn commit(&mut self, target: NoticeTarget) -> NoticeOutcome {
        let outcome = self.complete(target);
        // `complete` may have let the checkpoint itself go, if it is older than enough completed ones.
        let Some(committed) = self.position(target).and_then(|at| self.retained.get(at)).map(key) else {
            return outcome;
        };
        // Completed ones stay as long as retention says; only those that can no longer be committed go.
        self.subsume_of_run(|record| key(record) < committed && !record.completed);
        outcome
    }

    /// Marks those for which `is_committed` as completed; they completed under an earlier owner that may not have
    /// known. Retention by count takes them into account when the next one completes. Until then no checkpoint goes
    /// that this owner may have begun with.
    pub fn recall(&mut self, is_committed: impl Fn(&CheckpointRecord) -> bool) {
        for record in self.retained.iter_mut().filter(|record| !record.completed && is_committed(record)) {
            record.completed = true;
            self.dirty = true;
        }
    }

    /// The retained checkpoint that `target` means.
    #[must_use]
    pub fn find(&self, target: NoticeTarget) -> Option<&CheckpointRecord> {
        self.position(target).and_then(|at| self.retained.get(at))
    }

    /// Pins a retained checkpoint; `false` if it is not retained.
    pub fn pin(&mut self, target: NoticeTarget) -> bool {
        let Some(record) = self.position(target).and_then(|at| self.retained.get_mut(at)) else { return false };
        self.dirty |= !record.pinned;
        record.pinned = true;
        true
    }

    /// Removes a pin; `None` if there is no such checkpoint, otherwise whether it was pinned.
    pub fn release(&mut self, target: NoticeTarget) -> Option<bool> {
        let at = self.position(target)?;
        let record = self.retained.get_mut(at)?;
        let was_pinned = std::mem::take(&mut record.pinned);
        // A pin that was released a second time changes nothing, and needs no manifest.
        self.dirty |= was_pinned;
        self.drop_subsumed();
        Some(was_pinned)
    }

    /// Keeps the checkpoint `id` of this epoch, in flight or retained, until [`let_loose`](Self::let_loose) or the end
    /// of this owner.
    pub fn hold(&mut self, id: CheckpointId) {
        self.held.insert(id);
    }

    /// Ends a [`hold`](Self::hold). If the checkpoint `was_for_it`, and neither completed nor was pinned meanwhile, it
    /// goes.
    pub fn let_loose(&mut self, id: CheckpointId, was_for_it: bool) {
        // Removed before `subsume`, which keeps checkpoints that are held.
        let (was_held, epoch) = (self.held.remove(&id), self.epoch);
        self.subsume(|record| was_held && was_for_it && key(record) == (epoch, id) && !record.completed);
    }

    /// Marks the newest manifest as out of date, because of a change outside the ledger.
    pub fn mark_dirty(&mut self) {
        self.dirty = true;
    }

    fn position(&self, target: NoticeTarget) -> Option<usize> {
        self.retained.iter().rposition(|record| matches(target, &record.identity))
    }

    fn complete(&mut self, target: NoticeTarget) -> NoticeOutcome {
        let Some(record) = self.position(target).and_then(|at| self.retained.get_mut(at)) else {
            return NoticeOutcome::Unknown;
        };
        if record.completed {
            return NoticeOutcome::Unchanged;
        }
        record.completed = true;
        self.dirty = true;
        if record.identity.epoch == self.epoch {
            // Notices come in any order, so the position never goes back. Batch numbers of earlier epochs are counted
            // by other sessions and say nothing here.
            self.confirmed_to = self.confirmed_to.max(record.applied_to);
        }
        if let Retention::Count(count) = self.retention {
            self.retain_newest(count);
        }
        NoticeOutcome::Done
    }

    /// Lets go of everything of the owner's run that is older than its newest `count` completed checkpoints.
    fn retain_newest(&mut self, count: usize) {
        let own = self.retained.iter().rev().filter(|record| self.is_of_run(record));
        let Some(oldest_kept) = oldest_of_newest(own, count) else { return };
        self.subsume_of_run(|record| key(record) < oldest_kept);
    }

    fn let_go(&mut self, target: NoticeTarget, which: impl Fn(&CheckpointIdentity) -> bool) -> NoticeOutcome {
        let Some(at) = self.position(target) else { return NoticeOutcome::Unknown };
        // Looked at before `subsume`, which may remove the record.
        let target_is_pinned = self.retained.get(at).is_some_and(|record| record.pinned);
        self.subsume(|record| which(&record.identity));
        if target_is_pinned { NoticeOutcome::Pinned } else { NoticeOutcome::Done }
    }

    /// Lets go of checkpoints of the owner's run for which `is_over`.
    fn subsume_of_run(&mut self, is_over: impl Fn(&CheckpointRecord) -> bool) {
        let job_run = self.job_run.clone();
        self.subsume(|record| record.job_run == job_run && is_over(record));
    }

    /// Lets go of checkpoints for which `is_over`; pinned ones go once they are released.
    fn subsume(&mut self, is_over: impl Fn(&CheckpointRecord) -> bool) {
        for record in self.retained.iter_mut().filter(|record| !record.subsumed && is_over(record)) {
            record.subsumed = true;
            self.dirty = true;
        }
        self.drop_subsumed();
    }

    fn drop_subsumed(&mut self) {
        let is_held =
            |record: &CheckpointRecord| record.identity.epoch == self.epoch && self.held.contains(&record.identity.id);
        // `subsumed` is remembered in the record, and so in the manifest: if the pin is released by a later owner, the
        // checkpoint goes without another notice.
        self.retained.retain(|record| record.pinned || !record.subsumed || is_held(record));
    }
}

/// The oldest of the `count` newest completed checkpoints; `None` if there are fewer. The input begins with the newest.
fn oldest_of_newest<'r>(
    newest_first: impl Iterator<Item = &'r CheckpointRecord>,
    count: usize,
) -> Option<(u64, CheckpointId)> {
    newest_first.filter(|record| record.completed && !record.subsumed).nth(count.max(1) - 1).map(key)
}

fn matches(target: NoticeTarget, identity: &CheckpointIdentity) -> bool {
    target.epoch == identity.epoch && target.id == identity.id && target.uuid.is_none_or(|uuid| uuid == identity.uuid)
}

fn key(record: &CheckpointRecord) -> (u64, CheckpointId) {
    (record.identity.epoch, record.identity.id)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;

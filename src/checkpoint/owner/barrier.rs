//! Barriers: the cut of a checkpoint, and the parts that it waits for and builds on.

use bytes::Bytes;
use uuid::Uuid;

use super::{
    rules::Rule,
    state::{Cut, Owner, SinceBarrier, Sustained},
};
use crate::{
    changelog::{
        compression::Compression,
        segment::{self, ChangeSet},
    },
    checkpoint::{
        index::Run,
        ledger::{Awaits, TriggerError},
        manifest::CheckpointRecord,
    },
    types::{CheckpointId, CheckpointIdentity, Sqn, StateId, TimeMs},
};

/// A barrier that was checked.
#[derive(Debug, Clone)]
pub struct Barrier {
    /// The checkpoint's id.
    pub id: CheckpointId,
    /// The checkpoint's UUID, which is new.
    pub uuid: Uuid,
    /// Bytes of the task that are stored with the checkpoint.
    pub attachment: Bytes,
    /// Batches below this number come before the barrier.
    pub applied_to: u64,
    /// When the barrier came, by the daemon's clock.
    pub triggered_at: TimeMs,
    /// The time of the newest batch.
    pub time: TimeMs,
    /// The highest id of a registration.
    pub states_to: u32,
    /// Ids of registrations that are not in force.
    pub missing_states: Vec<StateId>,
}

/// Which changes go into the manifest itself.
#[derive(Debug, Clone, Copy)]
pub struct Tails {
    /// Most bytes of such changes, uncompressed; 0 for none.
    pub most_bytes: usize,
    /// Compression of these changes.
    pub compression: Compression,
}

/// The place of the changes before a barrier that were not yet rolled over.
#[derive(Debug)]
pub enum RolledOver {
    /// There were none.
    Nothing,
    /// They are in the log index itself.
    Inlined,
    /// They have to be uploaded.
    Upload(ChangeSet),
}

impl Owner {
    /// Whether the backend has no changelog, so that its checkpoints are snapshots.
    #[must_use]
    pub fn is_unlogged(&self) -> bool {
        self.writer.is_silent()
    }

    /// Makes room if `most` checkpoints would be retained. Returns whether some were let go.
    pub fn make_room(&mut self, most: usize) -> bool {
        self.ledger.make_room(most)
    }

    /// Checks whether a barrier with `id` can be accepted.
    ///
    /// # Errors
    /// [`TriggerError`] gives the reason.
    pub fn check(&self, id: CheckpointId, most_in_flight: usize, most_retained: usize) -> Result<(), TriggerError> {
        self.ledger.check(id, most_in_flight, most_retained)
    }

    /// Cuts the log for a barrier. Rolls over the changes that are not yet durable. If they are short and all earlier
    /// change sets are listed, they go into the manifest itself.
    pub fn cut_log(&mut self, tails: Tails) -> (Cut, RolledOver) {
        assert!(!self.is_unlogged(), "without a log the state is cut");
        // A tail is listed at once, so every set before it has to be listed: the log index has no gaps. Behind a set
        // that is still being uploaded, the tail is uploaded, too.
        let is_short = self.writer.is_all_listed() && self.writer.active_bytes() <= tails.most_bytes;
        let run = self.manifest.runs.get(&self.epoch.number);
        // While the store is down, such tails would pile up in the manifest; the next durable manifest makes room.
        let has_room = run.map_or(0, Run::inline_bytes) <= self.options.soon.inline_bytes;
        let may_inline = tails.most_bytes > 0 && is_short && has_room;
        // Ordering 1: the log is rolled over before the caller triggers. Everything that was applied before the barrier
        // is then below `next`, which becomes the cut. If a change were appended in between, the checkpoint would wait
        // for a change set that is rolled over only later, at worst by the next barrier.
        let rolled = match self.roll_over() {
            None => RolledOver::Nothing,
            Some(set) if may_inline => {
                let handle = segment::inline(&set, tails.compression);
                // Ordering 2: the writer notes the tail before it enters the log index. The writer asserts that it
                // abuts what is listed, and `list` that it abuts the last handle.
                self.writer.on_inlined(handle.range);
                self.list([handle]);
                RolledOver::Inlined
            }
            Some(set) => RolledOver::Upload(set),
        };
        // A base that is complete only after the cut has pieces with later changes, which the checkpoint must not have.
        let base = self.base.as_ref().filter(|base| base.complete_at <= self.writer.next());
        (Cut { awaits: Awaits::Log, base: base.map(|base| base.uuid) }, rolled)
    }

    /// Cuts the state for a barrier, if its contents are durable already: they equal the base, or the contents that the
    /// epoch began with.
    pub fn cut_durable(&mut self, applied_to: u64) -> Option<Cut> {
        assert!(self.is_unlogged(), "with a log the log is cut");
        let cut = self.writer.next();
        // Without a log nothing can be replayed from a base to the cut, so a base serves only if it was made at exactly
        // this cut.
        let durable = self.base.as_ref().filter(|base| self.equals(base.complete_at, cut)).map(|base| base.uuid);
        // An owner that must not need the restored checkpoint takes even its beginning as a snapshot of its own.
        let owns_beginning = self.sustained == Sustained::Claimed || !self.obeys(Rule::OwnObjectsOnly);
        if durable.is_none() && !(owns_beginning && cut == Sqn::first_of(self.epoch.number)) {
            return None;
        }
        // The contents are durable, so every batch up to the barrier counts as durable now.
        self.writer.on_snapshot(cut, applied_to);
        Some(Cut { awaits: Awaits::Nothing, base: durable })
    }

    /// The checkpoint in flight that has to fail before another one is triggered, if there are `most` in flight.
    #[must_use]
    pub fn gives_way(&self, most: usize) -> Option<CheckpointId> {
        self.ledger.gives_way().filter(|_| self.ledger.in_flight() >= most)
    }

    /// Triggers the checkpoint of `barrier`, right after its `cut` was made.
    pub fn trigger(&mut self, barrier: Barrier, cut: Cut) -> CheckpointIdentity {
        // Amounts since the barrier before, whatever became of that checkpoint: if it failed, its part of the log is
        // not counted again.
        let SinceBarrier { bytes, changes } = std::mem::take(&mut self.since_barrier);
        let identity = CheckpointIdentity { epoch: self.epoch.number, id: barrier.id, uuid: barrier.uuid };
        let owner = self.manifest.owner();
        let record = CheckpointRecord {
            identity,
            attempt: owner.attempt,
            // The same position as at the cut: this call comes right after the cut, so no batch lies in between.
            cut: self.writer.next(),
            applied_to: barrier.applied_to,
            attachment: barrier.attachment.into(),
            job_run: owner.job_run.clone(),
            completed: false,
            pinned: false,
            subsumed: false,
            triggered_at: barrier.triggered_at,
            time: barrier.time,
            incremental_bytes: bytes,
            changes,
            states_to: barrier.states_to,
            base: cut.base,
            missing_states: barrier.missing_states,
        };
        let is_running = self.snapshots.get(&barrier.id).is_some_and(|snapshot| snapshot.cut == record.cut);
        assert_eq!(cut.awaits == Awaits::Snapshot, is_running, "a checkpoint waits for a snapshot that is made");
        let is_named = |uuid: Uuid| self.manifest.materialization(uuid).is_some();
        assert!(record.base.is_none_or(is_named), "a checkpoint builds on what the manifest names");
        self.ledger.trigger(record, cut.awaits);
        identity
    }

    /// Fails one checkpoint in flight, and gives up its snapshot.
    pub fn fail(&mut self, id: CheckpointId) {
        self.ledger.fail(id);
        // Its materializations need no longer stay named. Files that were uploaded for it are below the next low water,
        // so a sweep deletes them.
        self.snapshots.remove(&id);
    }
}

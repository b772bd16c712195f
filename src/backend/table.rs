//! The table of a backend: its inner state backend, with the states that are registered, their time, and the marks of
//! checkpoints.
//!
//! ```text
//!   batch ─▶ check ─▶ (slices: leading reads) ─▶ execute: operation by operation ─▶ clean-up ─▶ changes into the log
//!   query ─▶ check ─▶ reads: a few operations at a time, of the present or at a mark
//!   registration ─▶ register ─▶ moving: entries go from old to new states, in batches
//!   materialization, snapshot ─▶ copy: pieces and images, each at one sequence number
//! ```
//!
//! Only this folder meets the inner backend, which may have to wait for a disk. A table has a log to append to when it
//! is changed, and knows neither owner nor session.

mod begin;
pub(super) mod check;
pub(super) mod cleanup;
pub(super) mod copy;
mod execute;
pub(super) mod log;
pub(super) mod marking;
pub(super) mod marks;
pub(super) mod moving;
pub(super) mod reads;
mod register;
pub(super) mod slices;
pub(super) mod view;

use std::{mem, sync::atomic::Ordering};

use self::{
    cleanup::CleanUps,
    marks::{MarkedCut, Marks},
};
use super::{environment::Environment, metrics::signed};
use crate::{
    checkpoint::manifest::Shape,
    claim::states::{RegisteredState, States},
    clock::OwnTime,
    state::{
        Counting, StateBackend as _,
        hashmap::HashMapBackend,
        operator::WithOperatorState,
        undo::{Mark, Undo},
    },
    tasks,
    types::{BackendId, CheckpointIdentity, Epoch, KeyGroup, KeyGroupRange, StateId, TimeMs},
};

/// If the time of a restored state is further ahead of the clock than this, a warning says so.
const FAR_AHEAD_MS: u64 = 60_000;

/// A filled inner backend, and the facts about it that a table begins with.
pub(super) struct Filled {
    /// The inner backend.
    pub(super) inner: WithOperatorState,
    /// The states that are registered in it.
    pub(super) states: States,
    /// The time of its newest change.
    pub(super) time: TimeMs,
    /// The restored checkpoint; if it has several parts, the first.
    pub(super) restored: Option<CheckpointIdentity>,
    /// Changes that a restore of that checkpoint replays.
    pub(super) log_changes: u64,
    /// Records overwritten entries for marks, if queries or warm restarts need them.
    pub(super) undo: Option<Undo>,
}

/// The table of one owner.
///
/// Invariants: every state in force is registered in the inner backend; time never goes back.
pub(super) struct Table {
    env: Environment,
    id: BackendId,
    shape: Shape,
    /// The scope of scan tokens of this owner: tokens of another owner are refused.
    scope: u64,
    inner: WithOperatorState,
    states: States,
    /// Incremental TTL clean-up, one cursor per state.
    clean_ups: CleanUps,
    /// Marks of checkpoints, if queries or warm restarts need them.
    marks: Option<Marks>,
    /// Time of the newest batch; it never goes back.
    time: TimeMs,
    /// Moves `time` on with the clock.
    own_time: OwnTime,
    /// Scratch memory: the key groups of the current batch.
    key_groups: Vec<KeyGroup>,
    /// Bytes of state that this backend has counted into `env.state_bytes`.
    counted_bytes: u64,
}

/// The parts of an old owner's table that a new owner takes over.
pub(super) struct Taken {
    /// The inner backend, with changes up to the old owner's end.
    pub(super) inner: WithOperatorState,
    /// The marks of the old owner, `mark` among them.
    pub(super) marks: Marks,
    /// The mark to roll back to.
    pub(super) mark: Mark,
    /// Changes that a restore of the checkpoint of that mark would replay.
    pub(super) log_changes: u64,
    /// The time of the old owner's newest batch.
    pub(super) time: TimeMs,
    /// The highest state id that the old owner knew.
    pub(super) last_state: u32,
}

impl Table {
    /// The table of an owner with this `epoch`, which begins with `filled`.
    pub(super) fn new(env: &Environment, id: &BackendId, shape: Shape, epoch: Epoch, filled: Filled) -> Self {
        let Filled { inner, states, time, restored, log_changes, undo } = filled;
        let clock = env.clock.now_ms();
        let ahead_ms = time.saturating_sub(clock);
        if ahead_ms > FAR_AHEAD_MS {
            tracing::warn!(backend = %id, ahead_ms, "the state was last changed at a time that is yet to come here: one of the clocks is wrong. Its time goes on from there, and time-to-live with it");
        }
        let mut table = Self {
            env: env.clone(),
            id: id.clone(),
            shape,
            scope: epoch.owner.as_u64_pair().0 ^ epoch.number,
            clean_ups: CleanUps::new(&states),
            marks: undo.map(|undo| Marks::new(undo, restored, log_changes)),
            inner,
            states,
            time,
            own_time: OwnTime::new(time, clock),
            key_groups: vec![],
            counted_bytes: 0,
        };
        table.count_bytes();
        table
    }

    /// Whether a call may have to wait for a disk.
    pub(super) fn may_block(&self) -> bool {
        self.inner.may_block()
    }

    /// The registered states.
    pub(super) fn states(&self) -> &States {
        &self.states
    }

    /// The states in force.
    pub(super) fn in_force(&self) -> Vec<RegisteredState> {
        self.states.in_force().collect()
    }

    /// The time of the newest batch.
    pub(super) fn time(&self) -> TimeMs {
        self.time
    }

    /// The key groups that have entries of a state.
    pub(super) fn groups_of(&self, state: StateId) -> KeyGroupRange {
        let keyed = self.shape.key_groups;
        let groups = |descriptor| crate::state::operator::key_groups_of(descriptor, keyed);
        self.states.get(state).map_or(keyed, groups)
    }

    /// Moves the table's time on. It follows the clock; if the clock is behind, it advances by the time that passes.
    pub(super) fn read_clock(&mut self) {
        self.time = self.own_time.pass(self.env.clock.now_ms());
    }

    /// Reads the clock for a batch. An entry that was expired for one batch stays expired for all later ones.
    pub(super) fn pass_time(&mut self) {
        self.read_clock();
        self.inner.set_time(self.time);
    }

    /// Stamps the changes to come with the sequence number `stamp`.
    pub(super) fn set_stamp(&mut self, stamp: u64) {
        self.inner.set_stamp(stamp);
    }

    /// Bytes of its state, as the inner backend accounts for them.
    pub(super) fn bytes(&self) -> u64 {
        tasks::blocking_if(self.may_block(), || self.inner.bytes())
    }

    /// A count of all entries, which runs without the table.
    pub(super) fn counting(&self) -> Counting {
        tasks::blocking_if(self.may_block(), || self.inner.counting())
    }

    /// Bytes of its state in memory, as counted after the last batch.
    pub(super) fn counted_bytes(&self) -> u64 {
        self.counted_bytes
    }

    /// Counts its bytes in memory into the daemon's total.
    pub(super) fn count_bytes(&mut self) {
        self.set_counted(self.inner.memory_bytes());
    }

    /// Takes its bytes out of the daemon's total, because its owner has ended.
    pub(super) fn discount(&mut self) {
        self.set_counted(0);
    }

    fn set_counted(&mut self, bytes: u64) {
        let total = &self.env.state_bytes;
        if bytes >= self.counted_bytes {
            total.fetch_add(bytes - self.counted_bytes, Ordering::Relaxed);
        } else {
            total.fetch_sub(self.counted_bytes - bytes, Ordering::Relaxed);
        }
        self.env.metrics.state_grew(signed(bytes) - signed(self.counted_bytes));
        self.counted_bytes = bytes;
    }

    /// Takes the contents out; the receiver rolls them back to the mark of checkpoint `to`. The table is empty from
    /// then on: its owner has ended, so no call reads it any more.
    ///
    /// # Errors
    /// Why there is no way back to that checkpoint.
    pub(super) fn take(&mut self, to: &CheckpointIdentity) -> Result<Taken, String> {
        const NOTHING: &str = "nothing was kept of what changed";
        // Ordering: every reason to refuse comes before anything is taken out.
        let way_back = self.marks.as_ref().map(|marks| marks.way_back(to));
        let (mark, MarkedCut { log_changes, .. }) = way_back.ok_or(NOTHING)??;
        let marks = self.take_marks().ok_or(NOTHING)?;
        let last_state = self.states.last_id();
        Ok(Taken { inner: self.take_inner(), marks, mark, log_changes, time: self.time, last_state })
    }

    /// Takes the inner backend out, and drops all marks.
    pub(super) fn empty(&mut self) -> WithOperatorState {
        self.drop_marks();
        self.take_inner()
    }

    fn take_inner(&mut self) -> WithOperatorState {
        let emptied = HashMapBackend::new(self.shape.key_groups);
        mem::replace(&mut self.inner, WithOperatorState::new(Box::new(emptied)))
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.discount();
        self.drop_marks();
    }
}

//! Applies batches, each as a whole or not at all.

use std::sync::Arc;

use super::{
    core::{Condition, Core, signed},
    environment::Environment,
    error,
    marks::Live,
    outbox::SessionEvent,
    slices::Ahead,
};
use crate::{
    checkpoint::owner::Log,
    clock::OwnTime,
    error::{Error, Reason},
    state::{
        Address, Change, StateBackend as _, TimerRef,
        op::{self, Answer, Op, OpContext, Upkeep, lists::Cursors, scan::Reach},
    },
    tasks,
    types::{
        BackendId, Epoch, KeyGroup, KeyGroupAssignment, KeyGroupRange, Limits, StateDescriptor, StateId, TimeMs,
        TtlUpdate,
    },
};

/// If the time of a restored state is further ahead of the clock than this, a warning says so.
const FAR_AHEAD_MS: u64 = 60_000;

/// Bytes of a reply that stay free for its framing.
const REPLY_OVERHEAD_BYTES: usize = 64 << 10;

/// One operation as it came from a client.
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    /// The state that it reads or changes.
    pub state: StateId,
    /// The key group, exactly if the client assigns key groups; never for operator state.
    pub key_group: Option<u32>,
    /// The key; empty for operator state.
    pub key: &'a [u8],
    /// The namespace; empty for the void namespace.
    pub namespace: &'a [u8],
    /// The operation itself.
    pub op: Op<'a>,
}

/// The result of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BatchResult {
    /// The number of the batch.
    pub number: u64,
    /// Answers by the index of their operation: those of reads, and those of writes that return something. `None` for a
    /// read, or a firing of timers, that was not carried out because earlier answers fill the reply.
    pub answers: Vec<(u32, Option<Answer>)>,
    /// Whether the batch had been applied before, so that nothing was done now.
    pub repeated: bool,
}

/// The effects that a batch may have, judged by the kinds and states of its operations.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Effects {
    /// Whether one of the operations is a write.
    writes: bool,
    /// Whether its reads may change state: they may clean up expired entries, or touch the entries that they read.
    reads_change: bool,
}

/// Appends the changes of the current batch to the changelog.
pub(super) struct Appender<'a> {
    pub(super) log: Log<'a>,
    pub(super) log_changes: &'a mut u64,
}

/// The progress of a batch, and its answers so far.
#[derive(Debug, Default)]
pub(super) struct BatchView {
    answers: Vec<(u32, Option<Answer>)>,
    /// Bytes of answers that still fit into the reply.
    room: usize,
    /// Number of operations that were carried out.
    pub(super) done: usize,
    /// The time of the batch, which all its operations see.
    pub(super) time: TimeMs,
}

impl BatchView {
    /// A batch that begins at `time`.
    pub(super) fn new(limits: &Limits, time: TimeMs) -> Self {
        let room = limits.max_message_bytes.saturating_sub(REPLY_OVERHEAD_BYTES);
        Self { answers: vec![], room, done: 0, time }
    }

    /// Whether the longest possible answer no longer fits, so that further answers are left out.
    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        // A timer has a key and a namespace.
        let longest = limits.max_value_bytes.max(2 * limits.max_key_bytes + TimerRef::FRAME_BYTES);
        !self.answers.is_empty() && self.room < longest
    }

    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Records the answer of the next operation; `None` if there was no room for it.
    pub(super) fn answered(&mut self, answer: Option<Answer>) {
        let position = u32::try_from(self.done).expect("the number of operations is limited");
        self.room = self.room.saturating_sub(answer.as_ref().map_or(0, reply_bytes));
        self.answers.push((position, answer));
        self.done += 1;
    }

    /// The context in which the next operation is executed.
    pub(super) fn context<'a>(
        &self,
        descriptor: &'a StateDescriptor,
        limits: &Limits,
        (key_groups, scope): (KeyGroupRange, u64),
        (upkeep, cursors): (Option<&'a Upkeep>, &'a Cursors),
    ) -> OpContext<'a> {
        OpContext {
            descriptor,
            max_value_bytes: limits.max_value_bytes,
            page_bytes: self.room,
            key_groups,
            scope,
            time: self.time,
            upkeep,
            reach: Reach::default(),
            cursors: Some(cursors),
        }
    }
}

impl Appender<'_> {
    #[inline]
    pub(super) fn append(&mut self, change: &Change<'_>) {
        *self.log_changes += u64::from(!self.log.is_silent());
        self.log.push(change.at.key_group, |buffer| change.encode(buffer));
    }
}

impl Core {
    /// Whether a batch costs credit and has a number: it has a write, or an operation on a state whose entries are
    /// touched by reads.
    pub(super) fn writes(&self, operations: &[Operation<'_>]) -> bool {
        let touches = |operation: &Operation<'_>| {
            let ttl = self.states.get(operation.state).and_then(|descriptor| descriptor.ttl);
            ttl.is_some_and(|ttl| ttl.update == TtlUpdate::OnReadAndWrite)
        };
        operations.iter().any(|operation| operation.op.is_write() || touches(operation))
    }

    /// Applies batch `number`, which must be the next one, without the operations that were read `ahead`. The caller
    /// has to account for the credit.
    ///
    /// # Errors
    /// Nothing was applied, except with [`Reason::Failsafe`].
    pub(super) fn apply_batch(
        &mut self,
        number: u64,
        operations: &[Operation<'_>],
        ahead: Ahead,
    ) -> Result<(BatchResult, u64), Error> {
        assert_eq!(number, self.next_batch, "the caller checks the number");
        let Effects { writes, reads_change } = self.check_batch(operations)?;
        if writes {
            self.check_writable()?;
        }
        self.pass_time();
        // Reads go on in failsafe, but without upkeep, since upkeep writes.
        let upkeep = (reads_change && self.check_writable().is_ok()).then(|| self.clean_ups.upkeep());
        let logs = writes || upkeep.is_some();
        let bytes_before = self.owner.writer().active_bytes();
        if logs {
            self.begin_logging();
        }
        let executed = self.execute(operations, upkeep.as_ref(), ahead);
        if executed.is_err() {
            // The batch is not logged. Changes that were logged before can still become durable.
            self.owner.abandon_batch();
        }
        let answers = executed?;
        let appended = if logs { self.owner.end_batch(bytes_before) } else { 0 };
        self.next_batch += 1;
        self.env.metrics.batch_applied(operations.len(), appended);
        self.count_appended(appended);
        self.tend_marks();
        self.count_copies();
        self.roll_over_if_long();
        Ok((BatchResult { number, answers, repeated: false }, appended))
    }

    /// Begins to log a batch, whose changes an [`Appender`] takes. In the log it has the number of the next batch,
    /// whether it is that batch or one of the daemon's own before it.
    pub(super) fn begin_logging(&mut self) {
        self.inner.set_stamp(self.owner.writer().next().0);
        self.owner.begin_batch(self.next_batch, self.time);
    }

    /// Counts the bytes that a batch appended.
    pub(super) fn count_appended(&mut self, appended: u64) {
        self.env.metrics.pending_grew(signed(appended));
        self.count_state_bytes(self.inner.memory_bytes());
    }

    /// Rolls over the active block once it has reached its greatest length.
    pub(super) fn roll_over_if_long(&mut self) {
        if self.owner.writer().active_bytes() as u64 >= self.env.options.preemptive_persist_threshold {
            self.roll_over(false);
        }
    }

    /// Answers a batch that only reads. It takes no number.
    ///
    /// # Errors
    /// If it is malformed, or with [`Reason::Failsafe`].
    pub(super) fn read_batch(&mut self, operations: &[Operation<'_>], ahead: Ahead) -> Result<BatchResult, Error> {
        let effects = self.check_batch(operations)?;
        assert!(!effects.writes, "the caller checks that there are only reads");
        self.pass_time();
        let answers = self.execute(operations, None, ahead)?;
        self.env.metrics.batch_applied(operations.len(), 0);
        Ok(BatchResult { number: self.next_batch, answers, repeated: false })
    }

    /// Reads the clock for a batch. An entry that was expired for one batch stays expired for all later ones.
    pub(super) fn pass_time(&mut self) {
        self.read_clock();
        self.inner.set_time(self.time);
    }

    /// The time of a state that was last changed at `time`.
    pub(super) fn own_time(env: &Environment, backend: &BackendId, time: TimeMs) -> OwnTime {
        let clock = env.clock.now_ms();
        let ahead_ms = time.saturating_sub(clock);
        if ahead_ms > FAR_AHEAD_MS {
            tracing::warn!(%backend, ahead_ms, "the state was last changed at a time that is yet to come here: one of the clocks is wrong. Its time goes on from there, and time-to-live with it");
        }
        OwnTime::new(time, clock)
    }

    /// Moves the backend's time on. It follows the clock; if the clock is behind, it advances by the time that passes.
    pub(super) fn read_clock(&mut self) {
        self.time = self.own_time.pass(self.env.clock.now_ms());
    }

    /// Rolls over the active block and hands it to the uploads. `urgent` if a writer is pushed back until it is
    /// durable. Checkpoints and persist requests wait out the persist delay, so that backends share a segment.
    pub(super) fn roll_over(&mut self, urgent: bool) {
        if let Some(set) = self.owner.roll_over() {
            self.submit(set, urgent);
        }
    }

    /// Checks every operation by its shape, ids and sizes. Puts the key groups into `self.key_groups`.
    pub(super) fn check_batch(&mut self, operations: &[Operation<'_>]) -> Result<Effects, Error> {
        let limits = self.env.options.limits;
        if operations.len() > limits.max_batch_operations {
            let text = format!("{} operations: a batch has at most {}", operations.len(), limits.max_batch_operations);
            return Err(Error::new(Reason::LimitExceeded, text));
        }
        let mut effects = Effects { writes: false, reads_change: self.clean_ups.is_for_every_batch() };
        let mut grows = false;
        self.key_groups.clear();
        for (index, operation) in operations.iter().enumerate() {
            let key_group = self.check_operation(index, operation)?;
            self.key_groups.push(key_group);
            effects.writes |= operation.op.is_write();
            effects.reads_change |= self.states.get(operation.state).is_some_and(|descriptor| descriptor.ttl.is_some());
            grows |= operation.op.grows();
        }
        if grows {
            self.check_state_memory()?;
        }
        Ok(effects)
    }

    /// Refuses writes that would add to the state while all state together exceeds its memory.
    pub(super) fn check_state_memory(&self) -> Result<(), Error> {
        self.env.make_room_for_state();
        let (taken, allowed) = (self.env.taken_by_state(), self.env.options.state_memory);
        if taken < allowed {
            return Ok(());
        }
        let text = format!(
            "state takes {taken} bytes, `memory.state` allows {allowed}; deletes and reads still work, or raise the setting"
        );
        Err(Error::new(Reason::StateMemory, text))
    }

    /// Checks one operation by its shape, ids and sizes; returns its key group.
    pub(super) fn check_operation(&self, index: usize, operation: &Operation<'_>) -> Result<KeyGroup, Error> {
        self.check_read_at(index, operation, false)
    }

    /// Checks an operation as [`check_operation`](Self::check_operation) does. It may read `at_mark`: an earlier
    /// moment, where lists cannot be rewritten.
    pub(super) fn check_read_at(
        &self,
        index: usize,
        operation: &Operation<'_>,
        at_mark: bool,
    ) -> Result<KeyGroup, Error> {
        let Some(descriptor) = self.states.get(operation.state) else {
            let text = format!(
                "operation {index}: state id {} is not registered; ids come from RegisterStates",
                operation.state.0
            );
            return Err(Error::new(Reason::UnknownState, text));
        };
        let key_group = self.key_group(index, operation, descriptor.redistribution.is_some())?;
        let at = address(operation, key_group);
        let checked = op::check(&operation.op, &at, descriptor, &self.env.options.limits);
        checked.map_err(|fault| error::operation(index, &fault))?;
        let read = read_key_groups(operation, key_group, self.owner.manifest().shape.key_groups);
        let cursors = (descriptor.ttl.is_some() && !at_mark).then(|| &**self.clean_ups.lists());
        let token = op::scan::check_token(&operation.op, at, (scope(self.owner.epoch()), cursors), read);
        token.map_err(|fault| error::operation(index, &fault))?;
        Ok(key_group)
    }

    fn key_group(&self, index: usize, operation: &Operation<'_>, is_operator_state: bool) -> Result<KeyGroup, Error> {
        let shape = &self.owner.manifest().shape;
        let wrong = |what: String| Error::new(Reason::WrongKeyGroup, format!("operation {index}: {what}"));
        match operation.key_group {
            _ if !is_operator_state => {}
            None => return Ok(KeyGroup::OPERATOR),
            Some(group) => {
                return Err(wrong(format!("key group {group} is given, but operator state has none; leave it out")));
            }
        }
        let group = match (shape.assignment, operation.key_group) {
            // Such an operation reads all key groups.
            (_, None) if !operation.op.is_keyed() => return Ok(shape.key_groups.first()),
            (_, Some(group)) if operation.op.may_be_of_key_group() => group,
            (_, Some(group)) if matches!(operation.op, Op::TimerCount) => {
                return Err(wrong(format!("key group {group} is given, but timers of all are counted; leave it out")));
            }
            (KeyGroupAssignment::Hashed, None) => hash_key_group(operation.key, shape.max_parallelism),
            (KeyGroupAssignment::Given, Some(group)) => group,
            (KeyGroupAssignment::Hashed, Some(group)) => {
                return Err(wrong(format!("key group {group} is given, but this backend hashes keys; leave it out")));
            }
            (KeyGroupAssignment::Given, None) => {
                return Err(wrong("no key group is given, but this backend was opened with GIVEN".to_owned()));
            }
        };
        u16::try_from(group).ok().map(KeyGroup).filter(|group| shape.key_groups.contains(*group)).ok_or_else(|| {
            wrong(format!(
                "key group {group} is outside {}, the range of this subtask; send the record to the subtask that owns it",
                shape.key_groups
            ))
        })
    }

    /// Carries out checked operations. A fault of the inner backend leads to failsafe.
    fn execute(
        &mut self,
        operations: &[Operation<'_>],
        upkeep: Option<&Upkeep>,
        ahead: Ahead,
    ) -> Result<Vec<(u32, Option<Answer>)>, Error> {
        let may_block = self.inner.may_block();
        let executed = tasks::blocking_if(may_block, || self.try_execute(operations, upkeep, ahead));
        executed.map_err(|fault| self.fail_safe(fault))
    }

    /// Refuses writes from now on, because of a fault of the inner backend. Returns the error for the caller.
    pub(super) fn fail_safe(&mut self, fault: String) -> Error {
        let error = error::failsafe(&self.id, &fault);
        tracing::error!(backend = %self.id, fault, "backend goes into failsafe");
        self.env.metrics.failed_safe(&self.id);
        self.close_way_back("the owner before failed");
        // The fault may be in these very files.
        self.images = None;
        self.condition = Condition::Failsafe(fault);
        error
    }

    fn try_execute(
        &mut self,
        operations: &[Operation<'_>],
        upkeep: Option<&Upkeep>,
        ahead: Ahead,
    ) -> Result<Vec<(u32, Option<Answer>)>, String> {
        let limits = &self.env.options.limits;
        let mut view = ahead.view(limits);
        view.time = self.time;
        let Self { inner, states, owner, key_groups, log_changes, clean_ups, marks, .. } = self;
        let (all, scope) = (owner.manifest().shape.key_groups, scope(owner.epoch()));
        let cursors = Arc::clone(clean_ups.lists());
        let mut appender = Appender { log: owner.log(), log_changes };
        let done = view.done;
        let left = || operations.iter().zip(key_groups.iter()).skip(done);
        inner.warm(&mut left().map(|(operation, group)| address(operation, *group)));
        let mut log = |change: &Change<'_>| appender.append(change);
        for (operation, key_group) in left() {
            let descriptor = states.get(operation.state).expect("a checked operation has a state");
            if operation.op.answers() && view.is_full(limits) {
                view.answered(None);
                continue;
            }
            let key_groups = read_key_groups(operation, *key_group, all);
            let context = view.context(descriptor, limits, (key_groups, scope), (upkeep, &*cursors));
            let at = address(operation, *key_group);
            if descriptor.ttl.is_some() {
                clean_ups.touched(operation.state, descriptor);
            }
            let mut live = Live::new(marks, inner, descriptor.kind);
            let answer = op::execute(live.backend(), at, &operation.op, &context, &mut log);
            match answer.map_err(|fault| error::inner(&fault))? {
                Some(answer) => view.answered(Some(answer)),
                None => view.done += 1,
            }
        }
        let incremental = upkeep.map(|_| clean_ups.upkeep());
        let settled = (all, self.time, incremental.as_ref());
        clean_ups.settle((marks, inner), states, settled, &mut log).map_err(|fault| error::inner(&fault))?;
        inner.finish_batch().map_err(|fault| error::inner(&fault))?;
        self.env.metrics.ttl_removed(upkeep, incremental.as_ref());
        Ok(view.answers)
    }

    /// Answers the callers that wait for the changelog, after more of it became durable.
    pub(super) fn on_persisted(&mut self) {
        let persisted_batches = self.acknowledgement().persisted_to;
        for waiter in self.persist_waiters.release(self.owner.writer().persisted_to()) {
            match waiter {
                super::checkpointing::PersistWaiter::Session { token } => {
                    self.tell(SessionEvent::Persisted { token, persisted_to: persisted_batches });
                }
                super::checkpointing::PersistWaiter::Call(reply) => {
                    let _ = reply.send(Ok(persisted_batches));
                }
            }
        }
        self.wake_session();
    }
}

/// The key groups that an operation without a key reads: the one that it names, or all.
pub(super) fn read_key_groups(operation: &Operation<'_>, key_group: KeyGroup, all: KeyGroupRange) -> KeyGroupRange {
    let of_one = operation.op.may_be_of_key_group() && operation.key_group.is_some();
    if of_one { KeyGroupRange::one(key_group) } else { all }
}

/// The key group of `key` if the daemon assigns key groups: murmur3_32 (seed 0) modulo `max_parallelism`, unsigned.
#[must_use]
pub fn hash_key_group(key: &[u8], max_parallelism: u32) -> u32 {
    let hash = murmur3::murmur3_32(&mut std::io::Cursor::new(key), 0).expect("reading a slice cannot fail");
    hash % max_parallelism
}

/// Most bytes that an answer takes in a reply.
pub(super) fn reply_bytes(answer: &Answer) -> usize {
    /// Tags and lengths of one result or entry.
    const FRAME: usize = 24;
    FRAME
        + match answer {
            Answer::Value(value) => value.as_ref().map_or(0, bytes::Bytes::len),
            Answer::Default(value) => value.len(),
            Answer::Entries { entries, .. } => entries.iter().map(|(key, value)| key.len() + value.len() + FRAME).sum(),
            Answer::Elements { elements, token } => {
                let token = token.as_ref().map_or(0, bytes::Bytes::len);
                elements.iter().map(|element| element.len() + FRAME).sum::<usize>() + token
            }
            Answer::Keys { keys, .. } => keys.iter().map(|(_, key, ns)| key.len() + ns.len() + FRAME).sum(),
            Answer::Timers { timers, token } => {
                let token = token.as_ref().map_or(0, bytes::Bytes::len);
                timers.iter().map(|timer| timer.as_ref().page_bytes()).sum::<usize>() + token
            }
            Answer::Fired { timers, .. } => timers.iter().map(|timer| timer.as_ref().page_bytes()).sum(),
            Answer::Found(_) | Answer::Count(_) | Answer::LimitReached | Answer::AskAgain => 0,
        }
}

/// The scope of scan tokens of an owner: tokens of another owner are refused.
pub(super) fn scope(epoch: Epoch) -> u64 {
    epoch.owner.as_u64_pair().0 ^ epoch.number
}

pub(super) fn address<'a>(operation: &Operation<'a>, key_group: KeyGroup) -> Address<'a> {
    Address { state: operation.state, key_group, key: operation.key, namespace: operation.namespace }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_groups_are_those_of_the_public_murmur3() {
        // Reference values of MurmurHash3_x86_32 with seed 0: "" is 0, "hello" is 0x248bfa47, "hello, world" is
        // 0x149bbb7f.
        for (key, hash) in [("", 0), ("hello", 0x248b_fa47_u32), ("hello, world", 0x149b_bb7f)] {
            assert_eq!(hash_key_group(key.as_bytes(), 128), hash % 128, "{key}");
        }
    }
}

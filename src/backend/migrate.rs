//! Registers states, and moves the entries of states whose descriptor changed, in batches of the daemon's own.
//!
//! ```text
//!   old data ──a page of names──▶ each (key, namespace): written to the new data, removed from the old, in one batch
//!      ▲                                                                        │ logged, own sqn, no batch number
//!      └── lock released; un-uploaded changes and the replay bound are waited for ◀┘
//! ```
//!
//! A batch is bounded, but one list moves as a whole: it may have more than a few thousand elements, but is never split
//! between old and new data. So at every cut each entry is in exactly one of the two. A move that a crash interrupts
//! goes on when the state is registered again. An entry that the new data has already is newer, and stays.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use tokio::sync::{futures::OwnedNotified, oneshot};

use super::{Backend, apply::Appender, checkpointing::PersistWaiter, core::Core, error, marks::Live, outbox::Outbox};
use crate::{
    claim::states::{Move, Plan, RegisteredState, Rewrite},
    error::Error,
    state::{Action, Address, Change, MapKeys, PageLimit, StateBackend, StateError, TimerRef, operator, ttl},
    tasks,
    types::{Epoch, KeyGroup, KeyGroupRange, SchemaChange, StateDescriptor, StateId, StateKind, TimeMs},
};

/// About the size of one batch.
const BATCH: PageLimit = PageLimit { entries: 1_000, bytes: 256 << 10 };

/// Most key groups that are looked at for one batch.
const GROUPS_PER_BATCH: usize = 256;

/// How far a move has come: entries before the cursor are moved.
#[derive(Debug)]
struct Cursor {
    /// The key group to go on with; `None` at the end.
    group: Option<KeyGroup>,
    /// The (key, namespace) in it behind which to go on.
    after: Option<(Bytes, Bytes)>,
}

/// The next step of a mover.
enum Next {
    /// Move another batch.
    Batch,
    /// End: all entries are moved.
    Done,
    /// Wait until the logged changes are durable.
    Durable(oneshot::Receiver<Result<u64, Error>>),
    /// Wait until a snapshot has ended.
    Copied(OwnedNotified),
    /// Wait until the outbox is woken.
    Woken,
}

impl Backend {
    /// Registers states, all or none, and moves their entries if a change of descriptor demands it; returns the states
    /// in order. Cancel-safe: after a drop or a crash, registering again goes on with the moves.
    ///
    /// # Errors
    /// If a descriptor is malformed, or differs from the registered one without a declared change: nothing was changed
    /// then. Or if entries could not be moved.
    pub async fn register_states(
        &self,
        epoch: Epoch,
        wanted: &[StateDescriptor],
        changes: &[SchemaChange],
    ) -> Result<Vec<RegisteredState>, Error> {
        loop {
            let (plan, registered) = {
                let _turn = self.shared.batches.enter().await;
                let mut core = self.shared.core();
                core.check_owner(epoch)?;
                core.register(wanted, changes)?
            };
            if plan.moves.is_empty() {
                return Ok(registered);
            }
            for of in plan.moves {
                self.move_all(epoch, of).await?;
            }
        }
    }

    /// Moves all entries, beginning at the first key group.
    async fn move_all(&self, epoch: Epoch, of: Move) -> Result<(), Error> {
        let outbox = Arc::new(Outbox::default());
        let groups = self.shared.core().groups_of(of.from);
        let mut cursor = Cursor { group: Some(groups.first()), after: None };
        tracing::info!(backend = %self.id(), from = of.from.0, to = of.to.0, rewrite = ?of.rewrite, "moving entries");
        loop {
            let next = {
                let _turn = self.shared.batches.enter().await;
                let mut core = self.shared.core();
                core.check_owner(epoch)?;
                core.move_next(of, &mut cursor, &outbox)?
            };
            match next {
                Next::Done => return Ok(()),
                Next::Batch => tokio::task::yield_now().await,
                Next::Copied(copied) => copied.await,
                Next::Woken => outbox.changed().await,
                // If the wait failed, the next look at the core says why.
                Next::Durable(durable) => drop(durable.await),
            }
        }
    }
}

impl Core {
    /// Plans the registration of `wanted`, and carries out everything except the moves.
    ///
    /// # Errors
    /// As [`Backend::register_states`]; nothing was changed.
    pub(super) fn register(
        &mut self,
        wanted: &[StateDescriptor],
        changes: &[SchemaChange],
    ) -> Result<(Plan, Vec<RegisteredState>), Error> {
        let suspects = self.states.suspects(wanted);
        let filled = self.filled(suspects)?;
        let plan = self.states.plan(wanted, changes, &filled, &self.env.options.limits)?;
        if !plan.moves.is_empty() {
            self.check_writable()?;
        }
        let may_block = self.inner.may_block();
        tasks::blocking_if(may_block, || {
            for (id, registration) in plan.new.iter().filter(|(id, registration)| registration.data == *id) {
                self.inner.register(*id, &registration.descriptor);
            }
        });
        let before = plan.ttls_before(&self.states);
        self.states.carry_out(&plan);
        let changed: BTreeSet<StateId> =
            plan.binds.iter().chain(&plan.unbinds).map(|id| self.states.data_of(*id)).collect();
        for data in changed {
            self.clean_ups.set(data, self.states.get(data).and_then(|descriptor| descriptor.ttl));
        }
        let registered: Vec<_> = plan.ids.iter().map(|id| self.states.registered(*id)).collect();
        // An old registration that is in force again is no new one.
        for RegisteredState { id, descriptor, .. } in &registered {
            if let Some(ttl) = descriptor.ttl {
                tasks::blocking_if(may_block, || self.inner.set_ttl(*id, ttl));
                if before.get(id).is_some_and(|before| *before != Some(ttl)) {
                    // Entries that were alive at these marks may be dropped from now on.
                    self.close_way_back("the time-to-live of a state was changed");
                }
            }
        }
        Ok((plan, registered))
    }

    /// The subset of `data` that has entries.
    fn filled(&self, data: BTreeSet<StateId>) -> Result<BTreeSet<StateId>, Error> {
        let inner = &self.inner;
        let look = || -> Result<BTreeSet<StateId>, StateError> {
            let mut filled = BTreeSet::new();
            for state in data {
                if has_entries(inner, state, self.groups_of(state))? {
                    filled.insert(state);
                }
            }
            Ok(filled)
        };
        tasks::blocking_if(inner.may_block(), look)
            .map_err(|fault| Error::new(error::local(&fault), error::inner(&fault)))
    }

    /// The key groups that have entries of a state.
    fn groups_of(&self, state: StateId) -> KeyGroupRange {
        let keyed = self.owner.manifest().shape.key_groups;
        self.states.get(state).map_or(keyed, |descriptor| operator::key_groups_of(descriptor, keyed))
    }

    /// Moves one batch, or returns what to wait for first.
    fn move_next(&mut self, of: Move, cursor: &mut Cursor, outbox: &Arc<Outbox>) -> Result<Next, Error> {
        self.check_writable()?;
        if of.rewrite == Rewrite::Stamp {
            self.check_state_memory()?;
        }
        if self.pushes_back() {
            self.wait_for_materialization(outbox);
            return Ok(Next::Woken);
        }
        // The bytes that every backend is guaranteed to hold.
        if self.account.held() >= self.env.options.limits.max_message_bytes as u64 {
            if self.is_unlogged() {
                return Ok(Next::Copied(self.snapshots.one_over()));
            }
            let (reply, durable) = oneshot::channel();
            self.persist(PersistWaiter::Call(reply))?;
            return Ok(Next::Durable(durable));
        }
        self.move_batch(of, cursor)?;
        Ok(if cursor.group.is_none() { Next::Done } else { Next::Batch })
    }

    /// Moves one batch. It has no number: it becomes durable with the next batch.
    fn move_batch(&mut self, of: Move, cursor: &mut Cursor) -> Result<(), Error> {
        let bytes_before = self.owner.writer().active_bytes();
        self.pass_time();
        self.begin_logging();
        let (may_block, groups, time) = (self.inner.may_block(), self.groups_of(of.from), self.time);
        let Self { inner, owner, log_changes, marks, .. } = self;
        let mut appender = Appender { log: owner.log(), log_changes };
        let mut log = |change: &Change<'_>| appender.append(change);
        let moved = tasks::blocking_if(may_block, || {
            let mut live = Live::new(marks, inner, of.kind);
            let mut mover = Mover { inner: live.backend(), of, time, log: &mut log, left: BATCH };
            mover.run(cursor, groups)?;
            inner.finish_batch()
        });
        if let Err(fault) = moved {
            self.owner.abandon_batch();
            return Err(self.fail_safe(error::inner(&fault)));
        }
        let appended = self.owner.end_batch(bytes_before);
        self.account.hold(appended);
        self.env.metrics.batch_applied(0, appended);
        self.count_appended(appended);
        self.count_copies();
        self.roll_over_if_long();
        Ok(())
    }
}

fn has_entries(inner: &dyn StateBackend, state: StateId, groups: KeyGroupRange) -> Result<bool, StateError> {
    let (first, mut found) = (PageLimit { entries: 1, bytes: 0 }, false);
    for group in groups.iter() {
        inner.name_page(state, group, None, first, &mut |_, _| found = true)?;
        if found {
            break;
        }
    }
    Ok(found)
}

/// Moves entries from one id to another.
struct Mover<'a> {
    inner: &'a mut dyn StateBackend,
    of: Move,
    time: TimeMs,
    log: &'a mut dyn FnMut(&Change<'_>),
    /// Room left in the current batch.
    left: PageLimit,
}

impl Mover<'_> {
    /// Moves entries behind the cursor until the batch is full, and moves the cursor on.
    fn run(&mut self, cursor: &mut Cursor, groups: KeyGroupRange) -> Result<(), StateError> {
        if self.of.kind == StateKind::Timer {
            return self.timers(cursor);
        }
        for _ in 0..GROUPS_PER_BATCH {
            let Some(group) = cursor.group else { return Ok(()) };
            let mut names: Vec<(Bytes, Bytes)> = vec![];
            let after = cursor.after.as_ref().map(|(key, namespace)| (&key[..], &namespace[..]));
            let more = self.inner.name_page(self.of.from, group, after, self.left, &mut |key, namespace| {
                names.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(namespace)));
            })?;
            for (key, namespace) in names {
                if !self.cell(group, &key, &namespace)? {
                    return Ok(());
                }
                cursor.after = Some((key, namespace));
                if self.is_full() {
                    return Ok(());
                }
            }
            if !more {
                let next = groups.last() > group;
                *cursor = Cursor { group: next.then(|| KeyGroup(group.0 + 1)), after: None };
            }
        }
        Ok(())
    }

    /// Moves the earliest timers of all key groups.
    fn timers(&mut self, cursor: &mut Cursor) -> Result<(), StateError> {
        let mut timers = vec![];
        let more = self.inner.timer_page(self.of.from, None, i64::MAX, self.left, &mut |timer| {
            let TimerRef { time, key, namespace, key_group } = timer;
            timers.push((time, Bytes::copy_from_slice(key), Bytes::copy_from_slice(namespace), key_group));
        })?;
        for (time, key, namespace, key_group) in &timers {
            let from = Address { state: self.of.from, key_group: *key_group, key, namespace };
            self.write(Address { state: self.of.to, ..from }, Action::TimerPut { time: *time })?;
            self.write(from, Action::TimerRemove { time: *time })?;
        }
        if !more {
            *cursor = Cursor { group: None, after: None };
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.left.entries == 0 || self.left.bytes == 0
    }

    /// Moves all entries of one (key, namespace), or a page of a map; returns whether none is left.
    fn cell(&mut self, key_group: KeyGroup, key: &[u8], namespace: &[u8]) -> Result<bool, StateError> {
        let from = Address { state: self.of.from, key_group, key, namespace };
        let to = Address { state: self.of.to, ..from };
        match self.of.kind {
            StateKind::Value => {
                let (mut stored, mut is_there) = (None, false);
                self.inner.value(from, &mut |value| stored = value.map(<[u8]>::to_vec))?;
                self.inner.value(to, &mut |value| is_there = value.is_some())?;
                if let Some(value) = self.rewritten(stored.as_deref(), is_there)? {
                    self.write(to, Action::Put(&value))?;
                }
                self.write(from, Action::Clear)?;
                Ok(true)
            }
            StateKind::Map => self.map(from, to),
            StateKind::List => self.list(from, to).map(|()| true),
            StateKind::Timer => Err(StateError::Mismatch { state: from.state, what: "timers have no cells" }),
        }
    }

    fn map(&mut self, from: Address<'_>, to: Address<'_>) -> Result<bool, StateError> {
        let mut entries = vec![];
        let more = self.inner.map_page(from, MapKeys::default(), self.left, &mut |map_key, value| {
            entries.push((map_key.to_vec(), value.to_vec()));
        })?;
        for (map_key, value) in &entries {
            let mut is_there = false;
            self.inner.map_value(to, map_key, &mut |value| is_there = value.is_some())?;
            if let Some(value) = self.rewritten(Some(value), is_there)? {
                self.write(to, Action::MapPut { map_key, value: &value })?;
            }
            self.write(from, Action::MapRemove { map_key })?;
        }
        Ok(!more)
    }

    /// Appends the moved elements behind those that the new list has already.
    fn list(&mut self, from: Address<'_>, to: Address<'_>) -> Result<(), StateError> {
        let (mut next, mut read, mut more) = (self.inner.len(to)?, 0, true);
        while more {
            let mut elements = vec![];
            more = self.inner.list_page(from, read, BATCH, &mut |element| elements.push(element.to_vec()))?;
            for stored in &elements {
                if let Some(element) = self.rewritten(Some(stored), false)? {
                    self.write(to, Action::ListPut { index: next, element: &element })?;
                    next += 1;
                }
            }
            read += elements.len() as u64;
        }
        self.write(from, Action::Clear)
    }

    /// The new bytes of a stored entry; `None` if there is nothing to write.
    fn rewritten<'a>(&self, stored: Option<&'a [u8]>, is_there: bool) -> Result<Option<Cow<'a, [u8]>>, StateError> {
        match stored.filter(|_| !is_there) {
            Some(stored) => rewritten(self.of.rewrite, self.time, stored),
            None => Ok(None),
        }
    }

    fn write(&mut self, at: Address<'_>, action: Action<'_>) -> Result<(), StateError> {
        let bytes = match action {
            Action::Put(value) | Action::MapPut { value, .. } | Action::ListPut { element: value, .. } => value.len(),
            _ => 0,
        };
        self.left.entries = self.left.entries.saturating_sub(1);
        self.left.bytes = self.left.bytes.saturating_sub(at.key.len() + at.namespace.len() + bytes);
        let change = Change { at, action };
        self.inner.apply(&change)?;
        (self.log)(&change);
        Ok(())
    }
}

/// The stored bytes of an entry after its move at `time`; `None` if it is expired.
fn rewritten(rewrite: Rewrite, time: TimeMs, stored: &[u8]) -> Result<Option<Cow<'_, [u8]>>, StateError> {
    Ok(match rewrite {
        Rewrite::Keep => Some(Cow::Borrowed(stored)),
        // Time 0 marks elements that were removed from a list, so no entry is stamped with it.
        Rewrite::Stamp => Some(Cow::Owned(ttl::stamp(time.max(1), stored))),
        Rewrite::Strip(duration_ms) => {
            let (touched, value) = ttl::split(stored)?;
            let lives = touched > 0 && time.saturating_sub(touched) < duration_ms;
            lives.then_some(Cow::Borrowed(value))
        }
    })
}

#[cfg(test)]
mod tests;

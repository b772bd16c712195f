//! Moves the entries of states whose descriptor changed, in batches of the daemon's own.
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

use std::borrow::Cow;

use bytes::Bytes;

use super::{Table, log::Log, marks::Live};
use crate::{
    backend::error,
    claim::states::{Move, Rewrite},
    state::{Action, Address, Change, MapKeys, PageLimit, StateBackend, StateError, TimerRef, ttl},
    tasks,
    types::{KeyGroup, KeyGroupRange, StateKind, TimeMs},
};

/// About the size of one batch.
const BATCH: PageLimit = PageLimit { entries: 1_000, bytes: 256 << 10 };

/// Most key groups that are looked at for one batch.
const GROUPS_PER_BATCH: usize = 256;

/// How far a move has come: entries before the cursor are moved.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// The key group to go on with; `None` at the end.
    group: Option<KeyGroup>,
    /// The (key, namespace) in it behind which to go on.
    after: Option<(Bytes, Bytes)>,
}

impl Cursor {
    /// At the first of `groups`.
    pub(crate) fn first_of(groups: KeyGroupRange) -> Self {
        Self { group: Some(groups.first()), after: None }
    }

    /// Whether all entries are moved.
    pub(crate) fn is_at_end(&self) -> bool {
        self.group.is_none()
    }
}

impl Table {
    /// Moves the entries of one batch, and the cursor on.
    ///
    /// # Errors
    /// A fault of the inner backend, as text.
    pub(crate) fn move_entries(&mut self, of: Move, cursor: &mut Cursor, log: &mut Log<'_>) -> Result<(), String> {
        let (may_block, groups, time) = (self.may_block(), self.groups_of(of.from), self.time);
        let Self { inner, marks, .. } = self;
        let mut log = |change: &Change<'_>| log.append(change);
        let moved = tasks::blocking_if(may_block, || {
            let mut live = Live::new(marks, inner, of.kind);
            let mut mover = Mover { inner: live.backend(), of, time, log: &mut log, left: BATCH };
            mover.run(cursor, groups)?;
            inner.finish_batch()
        });
        moved.map_err(|fault| error::inner(&fault))
    }
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
        // Empty key groups fill no batch. Their number is bounded as well, since the core is let go only between two
        // batches.
        for _ in 0..GROUPS_PER_BATCH {
            let Some(group) = cursor.group else { return Ok(()) };
            let mut names: Vec<(Bytes, Bytes)> = vec![];
            let after = cursor.after.as_ref().map(|(key, namespace)| (&key[..], &namespace[..]));
            let more = self.inner.name_page(self.of.from, group, after, self.left, &mut |key, namespace| {
                names.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(namespace)));
            })?;
            for (key, namespace) in names {
                // Ordering: the cursor passes a cell only when nothing of it is left. A map that is moved page by page
                // is met again until then.
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
        // Timers that were moved are gone from the old data, so each page begins at the earliest one that is left.
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

//! Operations on state: their reads, decisions and changes.
//!
//! An operation is first checked by its own shape and sizes alone ([`check()`]); every operation that passes has a
//! defined result. Then it is executed ([`execute`]). A write decides absolute [`Change`]s, applies each to the backend
//! and passes it to the log, so that replaying the log has the same effect on another backend. Reads log nothing.

mod check;
pub mod count;
pub mod incremental;
pub mod lists;
pub mod namespaces;
pub mod scan;
mod timed;
mod timers;
mod upkeep;

use bytes::Bytes;

pub use self::{
    check::{OpError, OpField, check},
    timers::Timer,
    upkeep::Upkeep,
};
use super::{
    Action, Address, Change, MapKeys, PageLimit, StateBackend, StateError,
    merge::{Merged, combine},
};
use crate::types::{KeyGroup, KeyGroupRange, StateDescriptor, StateKind, TimeMs};

/// One operation on one (key, namespace) of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// Removes all of (key, namespace), of any kind except timers.
    Clear,
    /// Sets a value.
    Put(&'a [u8]),
    /// Reads a value.
    Get,
    /// Merges the operand into a value.
    Merge(&'a [u8]),
    /// Sets a map entry.
    MapPut {
        /// The key of the map entry.
        map_key: &'a [u8],
        /// The new value of the map entry.
        value: &'a [u8],
    },
    /// Reads a map entry.
    MapGet {
        /// The key of the map entry.
        map_key: &'a [u8],
    },
    /// Removes a map entry, if it is there.
    MapRemove {
        /// The key of the map entry.
        map_key: &'a [u8],
    },
    /// Asks whether a map entry is there.
    MapContains {
        /// The key of the map entry.
        map_key: &'a [u8],
    },
    /// Merges the operand into a map entry.
    MapMerge {
        /// The key of the map entry.
        map_key: &'a [u8],
        /// The operand of the state's merge function.
        operand: &'a [u8],
    },
    /// Reads map entries in order of their keys.
    MapEntries {
        /// The entries to read.
        keys: MapKeys<'a>,
        /// Most entries; 0 for as many as fit a page.
        limit: u64,
    },
    /// Counts map entries.
    MapCount,
    /// Appends one list element.
    ListAdd(&'a [u8]),
    /// Appends list elements, in order.
    ListAddAll(&'a [Bytes]),
    /// Replaces the whole list; without elements it is cleared.
    ListUpdate(&'a [Bytes]),
    /// Reads list elements in order.
    ListGet {
        /// The first index, counted over visible elements.
        start: u64,
        /// Empty, or the token of the page before; then `start` is 0.
        token: &'a [u8],
        /// Most elements; 0 for as many as fit a page.
        limit: u64,
    },
    /// Counts list elements.
    ListCount,
    /// Merges the contents of these namespaces of the key into the operation's namespace, for any kind except timers:
    /// see [`namespaces`].
    MergeNamespaces(&'a [Bytes]),
    /// Reads the keys of the state, of all key groups of the backend: see [`scan`].
    Keys {
        /// Whether to read the keys of every namespace, instead of the operation's only.
        all_namespaces: bool,
        /// Empty for the first page, then the token of the page before.
        token: &'a [u8],
        /// Most keys; 0 for as many as fit a page.
        limit: u64,
    },
    /// Registers a timer, if it is not set.
    TimerRegister {
        /// The time of the timer, above the lowest `i64`.
        time: i64,
    },
    /// Deletes a timer, if it is set.
    TimerDelete {
        /// The time of the timer, above the lowest `i64`.
        time: i64,
    },
    /// Reads the timers of all key groups of the backend, in order of time, key and namespace.
    Timers {
        /// The highest time to read, inclusive.
        up_to: i64,
        /// Empty for the first page, then the token of the page before.
        token: &'a [u8],
        /// Most timers; 0 for as many as fit a page.
        limit: u64,
    },
    /// Reads timers like `Timers`, from the first one on, and deletes those that it returns.
    TimersFire {
        /// The highest time to fire, inclusive.
        up_to: i64,
        /// Most timers; 0 for as many as fit a page.
        limit: u64,
    },
    /// Counts the timers of all key groups of the backend.
    TimerCount,
}

/// The context in which an operation is executed.
#[derive(Debug, Clone, Copy)]
pub struct OpContext<'a> {
    /// The descriptor of the operation's state.
    pub descriptor: &'a StateDescriptor,
    /// Longest result of a merge, in bytes.
    pub max_value_bytes: usize,
    /// Most bytes of keys and values in one answer; the first entry is always included.
    pub page_bytes: usize,
    /// The key groups of the backend; for `Keys` and `Timers`, those to read.
    pub key_groups: KeyGroupRange,
    /// The scope of tokens: that of the present owner. Tokens of other owners are refused.
    pub scope: u64,
    /// The time of the batch, which never goes back. It decides which entries with TTL are expired.
    pub time: TimeMs,
    /// The clean-up that reads may still do, over the whole batch; `None` if they must not change anything.
    pub upkeep: Option<&'a Upkeep>,
    /// How much one page of keys looks at.
    pub reach: scan::Reach,
    /// The list cursors of the backend; `None` if the state does not change between two pages.
    pub cursors: Option<&'a lists::Cursors>,
}

impl OpContext<'_> {
    /// The page size of a read of at most `limit` entries; 0 for as many as fit.
    fn page(&self, limit: u64) -> PageLimit {
        let entries = if limit == 0 { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) };
        PageLimit { entries, bytes: self.page_bytes }
    }
}

/// The answer of an operation. Each read has one; a write has one only if there is more to say than that it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The value of `Get` and `MapGet`, if there is one.
    Value(Option<Bytes>),
    /// There is no value for `Get`; this is the default of the state.
    Default(Bytes),
    /// Whether the entry of `MapContains` is there.
    Found(bool),
    /// A page of `MapEntries`.
    Entries {
        /// Keys and values, in order of the keys.
        entries: Vec<(Bytes, Bytes)>,
        /// Whether others follow.
        more: bool,
    },
    /// A page of `ListGet`.
    Elements {
        /// The elements, in order of the list.
        elements: Vec<Bytes>,
        /// The token of the next page; `None` after the last one.
        token: Option<Bytes>,
    },
    /// The count of `MapCount`, `ListCount` and `TimerCount`.
    Count(u64),
    /// A page of `Keys`.
    Keys {
        /// Key group, key and namespace of each.
        keys: Vec<(KeyGroup, Bytes, Bytes)>,
        /// The token of the next page; `None` after the last one.
        token: Option<Bytes>,
    },
    /// A page of `Timers`.
    Timers {
        /// The timers, in order of time.
        timers: Vec<Timer>,
        /// The token of the next page; `None` after the last one.
        token: Option<Bytes>,
    },
    /// The timers that `TimersFire` deleted.
    Fired {
        /// The timers, in order of time.
        timers: Vec<Timer>,
        /// Whether others follow.
        more: bool,
    },
    /// A value would have become longer than `max_value_bytes`; nothing was changed.
    LimitReached,
    /// The batch itself dropped the position of the `ListGet` token; nothing was changed.
    AskAgain,
}

impl Answer {
    /// The answer with an empty list token, to compare it with the answer of a model, which has no tokens.
    #[must_use]
    pub fn comparable(self) -> Self {
        match self {
            Self::Elements { elements, token } => Self::Elements { elements, token: token.map(|_| Bytes::new()) },
            other => other,
        }
    }
}

impl Op<'_> {
    /// Whether the operation may change state.
    #[must_use]
    pub fn is_write(&self) -> bool {
        match self {
            Self::Clear
            | Self::Put(_)
            | Self::Merge(_)
            | Self::MapPut { .. }
            | Self::MapRemove { .. }
            | Self::MapMerge { .. }
            | Self::ListAdd(_)
            | Self::ListAddAll(_)
            | Self::ListUpdate(_)
            | Self::MergeNamespaces(_)
            | Self::TimerRegister { .. }
            | Self::TimerDelete { .. }
            | Self::TimersFire { .. } => true,
            Self::Get
            | Self::MapGet { .. }
            | Self::MapContains { .. }
            | Self::MapEntries { .. }
            | Self::MapCount
            | Self::ListGet { .. }
            | Self::ListCount
            | Self::Keys { .. }
            | Self::Timers { .. }
            | Self::TimerCount => false,
        }
    }

    /// Whether the operation reads one entry, and nothing else.
    #[must_use]
    pub fn is_point(&self) -> bool {
        matches!(self, Self::Get | Self::MapGet { .. } | Self::MapContains { .. })
    }

    /// Whether an operation without a key may name a key group.
    #[must_use]
    pub fn may_be_of_key_group(&self) -> bool {
        matches!(self, Self::Keys { .. } | Self::Timers { .. })
    }

    /// Whether the operation is about one key, instead of everything in the backend.
    #[must_use]
    pub fn is_keyed(&self) -> bool {
        !matches!(self, Self::Keys { .. } | Self::Timers { .. } | Self::TimersFire { .. } | Self::TimerCount)
    }

    /// Whether the operation always has an answer, so that it must not be carried out if there is no room for the
    /// answer.
    #[must_use]
    pub fn answers(&self) -> bool {
        !self.is_write() || matches!(self, Self::TimersFire { .. })
    }

    /// Whether the operation may add bytes to the state. A merge of namespaces frees as many bytes as it takes.
    #[must_use]
    pub fn grows(&self) -> bool {
        match self {
            Self::Clear
            | Self::MapRemove { .. }
            | Self::MergeNamespaces(_)
            | Self::TimerDelete { .. }
            | Self::TimersFire { .. } => false,
            Self::ListAddAll(elements) | Self::ListUpdate(elements) => !elements.is_empty(),
            _ => self.is_write(),
        }
    }

    /// The kind of state that the operation is for; `None` for any.
    #[must_use]
    pub fn kind(&self) -> Option<StateKind> {
        match self {
            Self::Clear | Self::MergeNamespaces(_) | Self::Keys { .. } => None,
            Self::Put(_) | Self::Get | Self::Merge(_) => Some(StateKind::Value),
            Self::MapPut { .. }
            | Self::MapGet { .. }
            | Self::MapRemove { .. }
            | Self::MapContains { .. }
            | Self::MapMerge { .. }
            | Self::MapEntries { .. }
            | Self::MapCount => Some(StateKind::Map),
            Self::ListAdd(_) | Self::ListAddAll(_) | Self::ListUpdate(_) | Self::ListGet { .. } | Self::ListCount => {
                Some(StateKind::List)
            }
            Self::TimerRegister { .. }
            | Self::TimerDelete { .. }
            | Self::Timers { .. }
            | Self::TimersFire { .. }
            | Self::TimerCount => Some(StateKind::Timer),
        }
    }
}

/// Executes an operation that passed [`check()`]. Each change is applied to `backend`, then passed to `log`. A write
/// that certainly changes nothing is not logged, for example the removal of a missing entry. Setting an equal value is
/// logged, and so is every touch of an entry with TTL.
///
/// # Errors
/// The error of the backend. Changes made before it stay made and logged.
pub fn execute<B: StateBackend + ?Sized>(
    backend: &mut B,
    at: Address<'_>,
    op: &Op<'_>,
    context: &OpContext<'_>,
    log: &mut (impl FnMut(&Change<'_>) + Send),
) -> Result<Option<Answer>, StateError> {
    match context.descriptor.ttl {
        None => run(backend, at, op, context, log),
        Some(_) => timed::execute(backend, at, op, context, log),
    }
}

/// Executes an operation on entries in their stored form.
fn run<B: StateBackend + ?Sized>(
    backend: &mut B,
    at: Address<'_>,
    op: &Op<'_>,
    context: &OpContext<'_>,
    log: &mut impl FnMut(&Change<'_>),
) -> Result<Option<Answer>, StateError> {
    let mut writer = Writer { backend, at, log };
    match *op {
        Op::Put(value) => writer.write(Action::Put(value))?,
        Op::MapPut { map_key, value } => writer.write(Action::MapPut { map_key, value })?,
        Op::Merge(operand) => return writer.merge(None, operand, context),
        Op::MapMerge { map_key, operand } => return writer.merge(Some(map_key), operand, context),
        Op::Clear => writer.clear(context.descriptor.kind)?,
        Op::MergeNamespaces(sources) => return namespaces::merge(&mut writer, sources, context),
        Op::MapRemove { map_key } => {
            let mut found = false;
            writer.backend.map_value(at, map_key, &mut |stored| found = stored.is_some())?;
            if found {
                writer.write(Action::MapRemove { map_key })?;
            }
        }
        Op::ListAdd(element) => {
            // The element is numbered here, so that its replay needs no other entry.
            let index = writer.backend.len(at)?;
            writer.write(Action::ListPut { index, element })?;
        }
        Op::ListAddAll(elements) => {
            if !elements.is_empty() {
                let first = writer.backend.len(at)?;
                writer.put_elements(first, elements)?;
            }
        }
        // Without the clear, a list that was longer would keep its old end.
        Op::ListUpdate(elements) => {
            writer.clear(StateKind::List)?;
            writer.put_elements(0, elements)?;
        }
        Op::TimerRegister { time } => timers::set(&mut writer, time, true)?,
        Op::TimerDelete { time } => timers::set(&mut writer, time, false)?,
        Op::Timers { up_to, token, limit } => {
            let scan = timers::Scan { state: at.state, up_to, token, limit };
            return timers::read(backend, scan, context).map(Some);
        }
        Op::TimersFire { up_to, limit } => {
            let scan = timers::Scan { state: at.state, up_to, token: &[], limit };
            return timers::fire(&mut writer, scan, context).map(Some);
        }
        Op::TimerCount => return Ok(Some(Answer::Count(backend.timer_count(at.state)?))),
        Op::Get
        | Op::MapGet { .. }
        | Op::MapContains { .. }
        | Op::MapEntries { .. }
        | Op::MapCount
        | Op::ListGet { .. }
        | Op::ListCount => return read(backend, at, op, context),
        Op::Keys { all_namespaces, token, limit } => {
            let namespace = (!all_namespaces).then_some(at.namespace);
            let keys = scan::keys(backend, scan::Scan { state: at.state, namespace, token, limit }, context)?;
            return Ok(Some(keys));
        }
    }
    Ok(None)
}

/// Answers a read; `None` for a write.
fn read<B: StateBackend + ?Sized>(
    backend: &B,
    at: Address<'_>,
    op: &Op<'_>,
    context: &OpContext<'_>,
) -> Result<Option<Answer>, StateError> {
    let page = |limit| context.page(limit);
    Ok(Some(match *op {
        Op::Get => {
            let mut value = None;
            backend.value(at, &mut |stored| value = stored.map(Bytes::copy_from_slice))?;
            let default = &context.descriptor.default_value;
            if value.is_none() && !default.is_empty() { Answer::Default(default.clone()) } else { Answer::Value(value) }
        }
        Op::MapGet { map_key } => {
            let mut value = None;
            backend.map_value(at, map_key, &mut |stored| value = stored.map(Bytes::copy_from_slice))?;
            Answer::Value(value)
        }
        Op::MapContains { map_key } => {
            let mut found = false;
            backend.map_value(at, map_key, &mut |stored| found = stored.is_some())?;
            Answer::Found(found)
        }
        Op::MapEntries { keys, limit } => {
            let mut entries = Vec::new();
            let more = backend.map_page(at, keys, page(limit), &mut |map_key, value| {
                entries.push((Bytes::copy_from_slice(map_key), Bytes::copy_from_slice(value)));
            })?;
            Answer::Entries { entries, more }
        }
        Op::ListGet { start, token, limit } => {
            let start = lists::Token::decode(token, at, context.scope).map_or(start, |token| token.index);
            let mut elements = Vec::new();
            let more = backend.list_page(at, start, page(limit), &mut |element| {
                elements.push(Bytes::copy_from_slice(element));
            })?;
            let next = || lists::Token::at(start + elements.len() as u64).encode(at, context.scope);
            Answer::Elements { token: more.then(next), elements }
        }
        Op::MapCount | Op::ListCount => Answer::Count(backend.len(at)?),
        _ => return Ok(None),
    }))
}

/// Makes the changes of one operation.
struct Writer<'a, B: ?Sized, L> {
    backend: &'a mut B,
    at: Address<'a>,
    log: &'a mut L,
}

impl<B: StateBackend + ?Sized, L: FnMut(&Change<'_>)> Writer<'_, B, L> {
    fn write(&mut self, action: Action<'_>) -> Result<(), StateError> {
        let change = Change { at: self.at, action };
        // Ordering: the backend takes the change before the log does. A change that the backend refuses must not be
        // logged, or every replay would fail at it.
        self.backend.apply(&change)?;
        (self.log)(&change);
        Ok(())
    }

    fn put_elements(&mut self, first: u64, elements: &[Bytes]) -> Result<(), StateError> {
        (first..).zip(elements).try_for_each(|(index, element)| self.write(Action::ListPut { index, element }))
    }

    /// Clears everything at the place.
    fn clear(&mut self, kind: StateKind) -> Result<(), StateError> {
        // The length would do as well, but counts all of a map on disk.
        if self.backend.has_entries(self.at, kind)? { self.write(Action::Clear) } else { Ok(()) }
    }

    /// Writes the entry again, to touch it.
    fn touch(&mut self, map_key: Option<&[u8]>) -> Result<(), StateError> {
        // In the view of a state with TTL, the same value gets the time of the batch by being written again.
        let mut value = None;
        let mut read = |stored: Option<&[u8]>| value = stored.map(<[u8]>::to_vec);
        match map_key {
            None => self.backend.value(self.at, &mut read)?,
            Some(map_key) => self.backend.map_value(self.at, map_key, &mut read)?,
        }
        match (value, map_key) {
            (None, _) => Ok(()),
            (Some(value), None) => self.write(Action::Put(&value)),
            (Some(value), Some(map_key)) => self.write(Action::MapPut { map_key, value: &value }),
        }
    }

    /// Merges into the value, or into a map entry.
    fn merge(
        &mut self,
        map_key: Option<&[u8]>,
        operand: &[u8],
        context: &OpContext<'_>,
    ) -> Result<Option<Answer>, StateError> {
        let state = self.at.state;
        let function = context.descriptor.merge;
        let function = function.ok_or(StateError::Mismatch { state, what: "the state has no merge function" })?;
        let (mut length, mut merged) = (0, Ok(Merged::Unchanged));
        // The stored value is merged where it lies. To copy it first could cost as much as the merge.
        let mut merge = |stored: Option<&[u8]>| {
            length = stored.map_or(0, <[u8]>::len);
            merged = combine(function, stored, operand);
        };
        match map_key {
            None => self.backend.value(self.at, &mut merge)?,
            Some(map_key) => self.backend.map_value(self.at, map_key, &mut merge)?,
        }
        let merged = merged.map_err(|wrong| wrong.stored(state))?;
        let value = match &merged {
            // With a TTL, even a merge without effect is a touch, and touches are logged.
            Merged::Unchanged if context.descriptor.ttl.is_none() => return Ok(None),
            Merged::Unchanged => return self.touch(map_key).map(|()| None),
            Merged::Append => operand,
            Merged::Number(number) => number,
            Merged::Average(average) => average,
            Merged::Bytes(bytes) => bytes,
        };
        let is_append = matches!(merged, Merged::Append);
        // An append adds to the stored bytes, and everything else replaces them.
        let kept = if is_append { length } else { 0 };
        // Only the length of the result is known so far, which is enough: nothing is written that would have to be
        // taken back.
        if value.len().saturating_add(kept) > context.max_value_bytes {
            return Ok(Some(Answer::LimitReached));
        }
        let action = match (is_append, map_key) {
            (true, None) => Action::Append(value),
            (true, Some(map_key)) => Action::MapAppend { map_key, value },
            (false, None) => Action::Put(value),
            (false, Some(map_key)) => Action::MapPut { map_key, value },
        };
        self.write(action)?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_add_bytes_grows() {
        let elements = [Bytes::new()];
        let (map_key, value) = (&b""[..], &b""[..]);
        let growing = [
            Op::Put(value),
            Op::Merge(value),
            Op::MapPut { map_key, value },
            Op::MapMerge { map_key, operand: value },
            Op::ListAdd(value),
            Op::ListAddAll(&elements),
            Op::ListUpdate(&elements),
            Op::TimerRegister { time: 0 },
        ];
        let shrinking = [
            Op::Clear,
            Op::MapRemove { map_key },
            Op::ListAddAll(&[]),
            Op::ListUpdate(&[]),
            Op::MergeNamespaces(&elements),
            Op::TimerDelete { time: 0 },
            Op::TimersFire { up_to: 0, limit: 0 },
        ];
        let reads = [
            Op::Get,
            Op::MapGet { map_key },
            Op::MapContains { map_key },
            Op::MapEntries { keys: MapKeys::default(), limit: 0 },
            Op::MapCount,
            Op::ListGet { start: 0, token: &[], limit: 0 },
            Op::ListCount,
            Op::Timers { up_to: 0, token: b"", limit: 0 },
        ];
        assert!(growing.iter().all(|op| op.is_write() && op.grows()));
        assert!(shrinking.iter().all(|op| op.is_write() && !op.grows()));
        assert!(reads.iter().all(|op| !op.is_write() && !op.grows()));
    }
}

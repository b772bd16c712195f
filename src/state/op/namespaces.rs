//! Merges namespaces, as a session window does when it meets others.
//!
//! The contents of a key in the source namespaces are moved to the target, and the sources are cleared. The log gets
//! the results: values, entries and elements of the target, and clears. So a replay needs neither the sources nor the
//! merge function.
//!
//! With TTL, expired entries are not moved. The merge touches the entries that it writes, but list elements keep their
//! time.
//!
//! All results are checked against their limit before anything is changed. Memory is bounded by a page and one result.

use super::{Answer, OpContext, Writer};
use crate::{
    state::{
        Action, Address, Change, MapKeys, PageLimit, StateBackend, StateError,
        merge::{Merged, join},
    },
    types::{MergeFunction, StateKind},
};

use bytes::Bytes;

/// Most namespaces that one operation merges into the target.
pub const MAX_SOURCES: usize = 1_000;

/// Bounds of one read of the inner backend.
const PAGE: PageLimit = PageLimit { entries: 1_000, bytes: 64 << 10 };

/// A result is longer than the limit.
#[derive(Debug)]
struct TooLong;

/// Whether to make the changes, or only to check them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    Dry,
    Real,
}

/// Merges `sources` into the writer's namespace. They are distinct, and none of them is the target.
pub(super) fn merge<B: StateBackend + ?Sized, L: FnMut(&Change<'_>)>(
    writer: &mut Writer<'_, B, L>,
    sources: &[Bytes],
    context: &OpContext<'_>,
) -> Result<Option<Answer>, StateError> {
    let kind = context.descriptor.kind;
    let target: Address<'_> = writer.at;
    let sources: Vec<_> = sources.iter().map(|namespace| Address { namespace, ..target }).collect();
    let merged = match kind {
        StateKind::Value => values(writer, &sources, context)?,
        StateKind::List => lists(writer, &sources).map(Ok)?,
        StateKind::Map => maps(writer, &sources, context)?,
        StateKind::Timer => {
            return Err(StateError::Mismatch { state: target.state, what: "namespaces of timers are merged" });
        }
    };
    if merged.is_err() {
        return Ok(Some(Answer::LimitReached));
    }
    // Ordering: the results are written first, since they are read from the sources, which are cleared last. Nothing
    // was written if a result is too long.
    for at in sources {
        Writer { backend: &mut *writer.backend, at, log: &mut *writer.log }.clear(kind)?;
    }
    Ok(None)
}

fn values<B: StateBackend + ?Sized, L: FnMut(&Change<'_>)>(
    writer: &mut Writer<'_, B, L>,
    sources: &[Address<'_>],
    context: &OpContext<'_>,
) -> Result<Result<(), TooLong>, StateError> {
    let mut joined = Joined::new(writer.at, context, First::Wins);
    writer.backend.value(writer.at, &mut |stored| joined.add(stored))?;
    // Joining begins with the target's own value. Only the values that the sources add are a change.
    joined.is_changed = false;
    for source in sources {
        writer.backend.value(*source, &mut |stored| joined.add(stored))?;
    }
    Ok(match joined.finish()? {
        Ok(Some(value)) => Ok(writer.write(Action::Put(&value))?),
        Ok(None) => Ok(()),
        Err(too_long) => Err(too_long),
    })
}

fn lists<B: StateBackend + ?Sized, L: FnMut(&Change<'_>)>(
    writer: &mut Writer<'_, B, L>,
    sources: &[Address<'_>],
) -> Result<(), StateError> {
    // The target grows while the sources are read. It is none of them, so no page meets an element that was just
    // written.
    let mut end = writer.backend.len(writer.at)?;
    for source in sources {
        let mut start = 0;
        loop {
            let mut page = Vec::new();
            let mut read = |element: &[u8]| page.push(Bytes::copy_from_slice(element));
            let more = writer.backend.list_page(*source, start, PAGE, &mut read)?;
            writer.put_elements(end, &page)?;
            (start, end) = (start + page.len() as u64, end + page.len() as u64);
            if !more {
                break;
            }
        }
    }
    Ok(())
}

fn maps<B: StateBackend + ?Sized, L: FnMut(&Change<'_>)>(
    writer: &mut Writer<'_, B, L>,
    sources: &[Address<'_>],
    context: &OpContext<'_>,
) -> Result<Result<(), TooLong>, StateError> {
    // Without a merge function, every result is an existing value, which is within the limit.
    if context.descriptor.merge.is_some() && unite(writer, sources, context, Run::Dry)?.is_err() {
        return Ok(Err(TooLong));
    }
    unite(writer, sources, context, Run::Real)
}

/// Goes through all entries of the sources. A map key is handled at the first source that has it, with the values of
/// all.
fn unite<B: StateBackend + ?Sized, L: FnMut(&Change<'_>)>(
    writer: &mut Writer<'_, B, L>,
    sources: &[Address<'_>],
    context: &OpContext<'_>,
    run: Run,
) -> Result<Result<(), TooLong>, StateError> {
    for (index, source) in sources.iter().enumerate() {
        let (before, from_here) = sources.split_at(index);
        let mut from = Vec::new();
        loop {
            let mut page = Vec::new();
            let more =
                writer.backend.map_page(*source, MapKeys::from(&from), PAGE, &mut |key, _| page.push(key.to_vec()))?;
            for map_key in &page {
                // Ordering: the page of keys was read before the first write. Writes go to the target, which is no
                // source, so the next page of this source begins where this one ended.
                let result = entry(writer, map_key, before, from_here, context)?;
                let Ok(value) = result else { return Ok(Err(TooLong)) };
                if let (Some(value), Run::Real) = (value, run) {
                    writer.write(Action::MapPut { map_key, value: &value })?;
                }
            }
            match page.pop() {
                Some(last) if more => {
                    from = last;
                    from.push(0);
                }
                _ => break,
            }
        }
    }
    Ok(Ok(()))
}

/// The new value of one map key in the target; `None` if it stays, or an earlier source had the key.
fn entry<B: StateBackend + ?Sized, L: FnMut(&Change<'_>)>(
    writer: &Writer<'_, B, L>,
    map_key: &[u8],
    before: &[Address<'_>],
    from_here: &[Address<'_>],
    context: &OpContext<'_>,
) -> Result<Result<Option<Vec<u8>>, TooLong>, StateError> {
    // An earlier source with this key has handled it, with the values of this source as well.
    for source in before {
        let mut is_done = false;
        writer.backend.map_value(*source, map_key, &mut |stored| is_done = stored.is_some())?;
        if is_done {
            return Ok(Ok(None));
        }
    }
    let mut joined = Joined::new(writer.at, context, First::Yields);
    writer.backend.map_value(writer.at, map_key, &mut |stored| joined.add(stored))?;
    joined.is_changed = false;
    for source in from_here {
        writer.backend.map_value(*source, map_key, &mut |stored| joined.add(stored))?;
    }
    joined.finish()
}

/// Which value wins if there is no merge function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    Wins,
    Yields,
}

/// Values that are joined one after the other.
#[derive(Debug)]
struct Joined<'a> {
    at: Address<'a>,
    function: Option<MergeFunction>,
    first: First,
    limit: usize,
    /// Whether a merge touches the value even if it does not change it.
    touches: bool,
    value: Option<Vec<u8>>,
    is_changed: bool,
    stopped: Option<Stopped>,
}

/// The reason why no more values are joined.
#[derive(Debug)]
enum Stopped {
    TooLong,
    Unfit(StateError),
}

impl<'a> Joined<'a> {
    fn new(at: Address<'a>, context: &OpContext<'_>, first: First) -> Self {
        let function = context.descriptor.merge;
        let (limit, touches) = (context.max_value_bytes, context.descriptor.ttl.is_some());
        Self { at, function, first, limit, touches, value: None, is_changed: false, stopped: None }
    }

    fn add(&mut self, stored: Option<&[u8]>) {
        let Some(stored) = stored.filter(|_| self.stopped.is_none()) else { return };
        match (self.function, &mut self.value) {
            (Some(function), value) => match join(function, value.as_deref(), stored) {
                Ok(Merged::Unchanged) if !self.touches => return,
                Ok(Merged::Unchanged) => {}
                Ok(Merged::Append) => value.get_or_insert_default().extend_from_slice(stored),
                Ok(Merged::Number(number)) => *value = Some(number.to_vec()),
                Ok(Merged::Average(average)) => *value = Some(average.to_vec()),
                Ok(Merged::Bytes(bytes)) => *value = Some(bytes),
                Err(unfit) => self.stopped = Some(Stopped::Unfit(unfit.stored(self.at.state))),
            },
            // Without a merge function one value wins and the others are dropped: the first one for values, the last
            // one for map entries.
            (None, Some(_)) if self.first == First::Wins => return,
            (None, value) => *value = Some(stored.to_vec()),
        }
        self.is_changed = true;
        // Values that are only copied are within the limit, since they were stored before.
        if self.stopped.is_none()
            && self.function.is_some()
            && self.value.as_ref().is_some_and(|value| value.len() > self.limit)
        {
            self.stopped = Some(Stopped::TooLong);
        }
    }

    /// The result, if it differs from the first value.
    fn finish(self) -> Result<Result<Option<Vec<u8>>, TooLong>, StateError> {
        match self.stopped {
            Some(Stopped::Unfit(error)) => Err(error),
            Some(Stopped::TooLong) => Ok(Err(TooLong)),
            None => Ok(Ok(self.value.filter(|_| self.is_changed))),
        }
    }
}

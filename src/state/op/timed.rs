//! Operations on states with TTL. They are the same as on other states, applied to a view in which values have no times
//! and only visible entries exist.

use std::cell::RefCell;

use bytes::Bytes;

use super::{
    Answer, Op, OpContext, Writer, lists, run, scan,
    upkeep::{self, Tally, Upkeep},
};
use crate::{
    state::{
        Action, Address, Change, MapKeys, Page, PageLimit, StateBackend, StateError,
        forward::forward,
        ttl::{Entry, Lifespan, REMOVED, stamp},
    },
    types::{StateKind, TtlUpdate},
};

/// Bounds of one read of the inner backend.
const CHUNK: PageLimit = PageLimit { entries: 1_000, bytes: 64 << 10 };

/// A state with TTL as operations see it. Lists count visible elements; only [`len`](StateBackend::len) tells the
/// stored index of the next element.
struct Timed<'a, B: ?Sized, L> {
    inner: &'a mut B,
    log: &'a mut L,
    life: Lifespan,
    /// Whether list elements expire by themselves.
    moves_elements: bool,
    /// Entries that reads met; `None` if reads have no effect.
    met: Option<RefCell<Met>>,
    /// Where the last page of a list ended, for this namespace.
    resume: RefCell<(Vec<u8>, Walk)>,
}

/// The progress of reading a list.
#[derive(Debug, Clone, Copy, Default)]
struct Walk {
    /// Position among visible elements.
    position: u64,
    /// Index of the next stored element, hidden ones counted too.
    index: u64,
    /// Summary of the elements before it.
    tally: Tally,
}

/// The entries that a read met.
#[derive(Debug, Default)]
struct Met {
    expired: Vec<Place>,
    /// Entries to touch; empty if reads do not touch.
    touched: Vec<(Place, Vec<u8>)>,
    touches: bool,
    /// Summary of a list that was read to its end.
    list: Option<Tally>,
}

/// An entry of a (key, namespace).
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Value,
    Entry(Vec<u8>),
    Element(u64),
}

/// As [`execute`](super::execute), for a state with TTL.
pub(super) fn execute<B: StateBackend + ?Sized>(
    backend: &mut B,
    at: Address<'_>,
    op: &Op<'_>,
    context: &OpContext<'_>,
    log: &mut (impl FnMut(&Change<'_>) + Send),
) -> Result<Option<Answer>, StateError> {
    // The view of a state without TTL would be the state itself.
    let Some(ttl) = context.descriptor.ttl else { return run(backend, at, op, context, log) };
    if let Op::Keys { all_namespaces, token, limit } = *op {
        let namespace = (!all_namespaces).then_some(at.namespace);
        return scan::keys(backend, scan::Scan { state: at.state, namespace, token, limit }, context).map(Some);
    }
    // Writes remove no expired entry. Those that they leave are hidden, and a read or a clean-up removes them.
    let upkeep = context.upkeep.filter(|_| !op.is_write());
    let counts = matches!(op, Op::MapCount | Op::ListCount);
    let touches = ttl.update == TtlUpdate::OnReadAndWrite && !counts;
    let mut timed = Timed {
        inner: backend,
        log,
        life: Lifespan::new(ttl, context.time),
        moves_elements: matches!(op, Op::MergeNamespaces(_)),
        met: upkeep.map(|_| RefCell::new(Met { touches, ..Met::default() })),
        resume: RefCell::default(),
    };
    let answer = match *op {
        Op::MapCount => Some(Answer::Count(timed.count(at, StateKind::Map)?)),
        Op::ListCount => Some(Answer::Count(timed.count(at, StateKind::List)?)),
        Op::ListGet { start, token, limit } => Some(timed.list(at, start, token, limit, context)?),
        // A hidden entry is removed, too.
        Op::MapRemove { map_key } => {
            let mut found = false;
            timed.inner.map_value(at, map_key, &mut |stored| found = stored.is_some())?;
            if found {
                timed.apply(&Change { at, action: Action::MapRemove { map_key } })?;
            }
            None
        }
        _ => run(&mut timed, at, op, context, &mut |_| {})?,
    };
    // Ordering: entries are removed and touched after the answer is made. The answer's page must not move while it is
    // read.
    if let Some(upkeep) = upkeep {
        timed.settle(at, upkeep)?;
    }
    Ok(answer)
}

/// Whether `at` has an entry that reads see.
pub(super) fn has_visible<B: StateBackend + ?Sized>(
    backend: &B,
    at: Address<'_>,
    context: &OpContext<'_>,
) -> Result<bool, StateError> {
    match context.descriptor.ttl {
        None => Ok(true),
        Some(ttl) => upkeep::has_visible(backend, at, context.descriptor.kind, Lifespan::new(ttl, context.time)),
    }
}

impl<B: StateBackend + ?Sized, L: FnMut(&Change<'_>) + Send> Timed<'_, B, L> {
    /// Calls `read` with the visible part of an entry, and notes the entry.
    fn look(
        &self,
        place: impl FnOnce() -> Place,
        stored: Option<&[u8]>,
        read: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<(), StateError> {
        let Some(stored) = stored else {
            read(None);
            return Ok(());
        };
        let entry = self.life.entry(stored)?;
        read(entry.is_visible.then_some(entry.value));
        self.note(place, &entry);
        Ok(())
    }

    fn note(&self, place: impl FnOnce() -> Place, entry: &Entry<'_>) {
        let Some(met) = &self.met else { return };
        let mut met = met.borrow_mut();
        if entry.is_expired {
            met.expired.push(place());
        } else if met.touches && entry.touched != self.life.now() {
            met.touched.push((place(), entry.value.to_vec()));
        }
    }

    fn count(&self, at: Address<'_>, kind: StateKind) -> Result<u64, StateError> {
        let all = PageLimit { entries: usize::MAX, bytes: usize::MAX };
        let mut count = 0;
        match kind {
            StateKind::Map => _ = self.map_page(at, MapKeys::default(), all, &mut |_, _| count += 1)?,
            _ => _ = self.list_page(at, 0, all, &mut |_| count += 1)?,
        }
        Ok(count)
    }

    /// Reads a page of a list.
    fn list(
        &self,
        at: Address<'_>,
        start: u64,
        token: &[u8],
        limit: u64,
        context: &OpContext<'_>,
    ) -> Result<Answer, StateError> {
        let begin = match (lists::Token::decode(token, at, context.scope), context.cursors) {
            (None, _) => lists::Place::default(),
            (Some(token), None) => lists::Place { index: token.index, ..lists::Place::default() },
            (Some(token), Some(cursors)) => match cursors.find(at, token) {
                Some(place) => place,
                // The token was good when the batch was checked. Since then, the batch itself has noted so many cursors
                // that this one was dropped.
                None => return Ok(Answer::AskAgain),
            },
        };
        let mut elements = vec![];
        let walk = Walk { position: 0, index: begin.index, tally: begin.before };
        let (end, is_full) = self.walk(at, walk, start, context.page(limit), &mut |element| {
            elements.push(Bytes::copy_from_slice(element));
        })?;
        let place = lists::Place { index: end.index, before: end.tally };
        let next = || match context.cursors {
            Some(cursors) => cursors.note(at, place),
            None => lists::Token::at(end.index),
        };
        Ok(Answer::Elements { elements, token: is_full.then(|| next().encode(at, context.scope)) })
    }

    /// Calls `read` with visible elements from position `from` on. Returns where the page ends, and whether it ended
    /// for want of room.
    fn walk(
        &self,
        at: Address<'_>,
        mut walk: Walk,
        from: u64,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8]),
    ) -> Result<(Walk, bool), StateError> {
        let (mut page, mut is_full, mut fault) = (Page::new(limit), false, None);
        let mut end = walk;
        loop {
            // Skipped elements do not count for the page.
            // One element more than the page may have tells whether others follow.
            let entries = if walk.position < from { usize::MAX } else { limit.entries.saturating_add(1) };
            let chunk = PageLimit { entries: entries.min(CHUNK.entries), ..CHUNK };
            let more = self.inner.list_page(at, walk.index, chunk, &mut |stored| {
                let entry = self.life.entry(stored);
                // This counts elements behind a full page too, but `end` stays at the last element of the page, with
                // its tally.
                if let Ok(entry) = &entry {
                    walk.tally.add(entry);
                }
                match entry {
                    _ if is_full => {}
                    Ok(entry) if walk.position < from => walk.position += u64::from(entry.is_visible),
                    Ok(entry) if entry.is_visible && !page.takes(entry.value.len()) => is_full = true,
                    Ok(entry) => {
                        if entry.is_visible {
                            read(if self.moves_elements { stored } else { entry.value });
                            walk.position += 1;
                        }
                        // A removed element is expired already; to remove it again would be a change without effect.
                        if stored != REMOVED {
                            self.note(|| Place::Element(walk.index), &entry);
                        }
                    }
                    Err(error) => fault = Some(error),
                }
                walk.index += 1;
                if !is_full {
                    end = walk;
                }
            })?;
            if let Some(error) = fault {
                return Err(error);
            }
            if is_full || !more {
                // Only a walk to the end has a tally of the whole list.
                if let Some(met) = self.met.as_ref().filter(|_| !is_full) {
                    met.borrow_mut().list = Some(walk.tally);
                }
                return Ok((end, is_full));
            }
        }
    }

    /// Removes and touches the entries that a read met.
    fn settle(&mut self, at: Address<'_>, upkeep: &Upkeep) -> Result<(), StateError> {
        let Some(met) = self.met.take().map(RefCell::into_inner) else { return Ok(()) };
        let touched: Vec<u64> = met.touched.iter().filter_map(|(place, _)| place.index()).collect();
        let mut writer = Writer { backend: &mut *self.inner, at, log: &mut *self.log };
        // Ordering: the rewriting goes first, and alone. It moves elements, so the indexes in `met` would name others
        // afterwards. It drops what is expired, and touches what is to be touched.
        if met.list.is_some_and(|list| list.is_mostly_gone())
            && upkeep::compact(&mut writer, self.life, upkeep, &touched)?
        {
            return Ok(());
        }
        for place in &met.expired {
            let key = at.key.len() + at.namespace.len();
            // The rest stays, hidden from reads, until another read or a clean-up meets it.
            if !upkeep.takes(key + place.bytes()) {
                break;
            }
            writer.write(match place {
                Place::Value => Action::Clear,
                Place::Entry(map_key) => Action::MapRemove { map_key },
                Place::Element(index) => Action::ListPut { index: *index, element: REMOVED },
            })?;
            upkeep.removed();
        }
        // Touches have no budget: without its touch, an entry that is read all the time could expire. An entry is
        // expired or touched, never both, so the two loops do not meet.
        for (place, value) in &met.touched {
            let value = &stamp(self.life.now(), value)[..];
            writer.write(match place {
                Place::Value => Action::Put(value),
                Place::Entry(map_key) => Action::MapPut { map_key, value },
                Place::Element(index) => Action::ListPut { index: *index, element: value },
            })?;
        }
        Ok(())
    }
}

impl Place {
    fn index(&self) -> Option<u64> {
        if let Self::Element(index) = self { Some(*index) } else { None }
    }

    fn bytes(&self) -> usize {
        if let Self::Entry(map_key) = self { map_key.len() } else { 0 }
    }
}

impl<B: StateBackend + ?Sized, L: FnMut(&Change<'_>) + Send> StateBackend for Timed<'_, B, L> {
    /// Stores values behind the time of the batch. Appends become whole values, since their time is new.
    fn apply(&mut self, change: &Change<'_>) -> Result<(), StateError> {
        let Change { at, action } = *change;
        let mut whole = vec![];
        let mut read = |stored: Option<&[u8]>| whole.extend_from_slice(stored.unwrap_or_default());
        let value = match action {
            Action::Clear | Action::MapRemove { .. } | Action::TimerPut { .. } | Action::TimerRemove { .. } => &[],
            Action::ListPut { element, .. } if self.moves_elements => element,
            Action::Put(value) | Action::MapPut { value, .. } | Action::ListPut { element: value, .. } => {
                whole = stamp(self.life.now(), value);
                &whole[..]
            }
            Action::Append(value) => {
                self.value(at, &mut read)?;
                whole = stamp(self.life.now(), &[&whole, value].concat());
                &whole
            }
            Action::MapAppend { map_key, value } => {
                self.map_value(at, map_key, &mut read)?;
                whole = stamp(self.life.now(), &[&whole, value].concat());
                &whole
            }
        };
        let action = match action {
            Action::Clear | Action::MapRemove { .. } | Action::TimerPut { .. } | Action::TimerRemove { .. } => action,
            Action::ListPut { index, .. } => Action::ListPut { index, element: value },
            Action::Put(_) | Action::Append(_) => Action::Put(value),
            Action::MapPut { map_key, .. } | Action::MapAppend { map_key, .. } => Action::MapPut { map_key, value },
        };
        let change = Change { at, action };
        // Ordering: as in `Writer::write`, a change that the backend refuses is not logged.
        self.inner.apply(&change)?;
        (self.log)(&change);
        Ok(())
    }

    fn value(&self, at: Address<'_>, read: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), StateError> {
        let mut looked = Ok(());
        self.inner.value(at, &mut |stored| looked = self.look(|| Place::Value, stored, read))?;
        looked
    }

    fn map_value(
        &self,
        at: Address<'_>,
        map_key: &[u8],
        read: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<(), StateError> {
        let mut looked = Ok(());
        let place = || Place::Entry(map_key.to_vec());
        self.inner.map_value(at, map_key, &mut |stored| looked = self.look(place, stored, read))?;
        looked
    }

    fn map_page(
        &self,
        at: Address<'_>,
        keys: MapKeys<'_>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, StateError> {
        let (mut page, mut is_full, mut fault) = (Page::new(limit), false, None);
        let mut from = keys.from.to_vec();
        let chunk = PageLimit { entries: limit.entries.saturating_add(1).min(CHUNK.entries), ..CHUNK };
        loop {
            let mut last = vec![];
            let more = self.inner.map_page(at, MapKeys { from: &from, ..keys }, chunk, &mut |map_key, stored| {
                last.clear();
                last.extend_from_slice(map_key);
                match self.life.entry(stored) {
                    _ if is_full => {}
                    Ok(entry) if entry.is_visible && !page.takes(map_key.len() + entry.value.len()) => is_full = true,
                    Ok(entry) => {
                        if entry.is_visible {
                            read(map_key, entry.value);
                        }
                        self.note(|| Place::Entry(map_key.to_vec()), &entry);
                    }
                    Err(error) => fault = Some(error),
                }
            })?;
            match fault {
                Some(error) => return Err(error),
                None if is_full || !more => return Ok(is_full),
                None => from = [&last[..], &[0]].concat(),
            }
        }
    }

    fn list_page(
        &self,
        at: Address<'_>,
        from: u64,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StateError> {
        // A merge of namespaces reads each source page by page. The next page goes on where the last one ended, or a
        // list would be walked from its beginning for each page.
        let (namespace, walk) = self.resume.take();
        let goes_on = namespace == at.namespace && walk.position <= from;
        let (end, is_full) = self.walk(at, if goes_on { walk } else { Walk::default() }, from, limit, read)?;
        self.resume.replace((at.namespace.to_vec(), end));
        Ok(is_full)
    }

    /// For a list, the stored index of the next element.
    fn len(&self, at: Address<'_>) -> Result<u64, StateError> {
        self.inner.len(at)
    }

    forward!(
        inner: register, timer, timer_page, timer_count, has_entries, name_page, name_rank, counting, bytes, memory_bytes, set_stamp,
        set_time, set_ttl, warm, finish_batch
    );
}

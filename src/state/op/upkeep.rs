//! Removes expired entries, by changes like any others.
//!
//! Values and map entries are removed. A list element leaves [`REMOVED`](crate::state::ttl::REMOVED) in its place. If
//! at least half of a list is gone, it is written again without these elements, once a read was at its end. So each
//! element is moved about once, however often the list is read.

use std::{cell::Cell, sync::Arc};

use super::{Writer, lists::Cursors};
use crate::{
    state::{
        Action, Address, Change, MapKeys, PageLimit, StateBackend, StateError,
        ttl::{Entry, Lifespan, REMOVED, stamp},
    },
    types::StateKind,
};

/// Most entries that one batch removes.
const ENTRIES: u64 = 1_000;

/// Most bytes that this logs; the last entry may exceed it.
const BYTES: u64 = 4 << 20;

/// Bounds of one read of the inner backend: the first one is small, later ones grow.
const FIRST_ENTRIES: usize = 4;
const MOST_ENTRIES: usize = 1_000;
const MOST_BYTES: usize = 64 << 10;

/// The work that one batch may still do to remove expired entries, and the result so far.
#[derive(Debug)]
pub struct Upkeep {
    entries: Cell<u64>,
    bytes: Cell<u64>,
    removed: Cell<u64>,
    /// The list cursors of the backend.
    cursors: Arc<Cursors>,
}

impl Upkeep {
    /// The upkeep of one batch, with the list cursors of its backend.
    #[must_use]
    pub fn new(cursors: Arc<Cursors>) -> Self {
        Self { entries: Cell::new(ENTRIES), bytes: Cell::new(BYTES), removed: Cell::new(0), cursors }
    }

    /// Number of entries that were removed.
    #[must_use]
    pub fn removed_entries(&self) -> u64 {
        self.removed.get()
    }

    /// Whether another entry may be removed, by a change of about `bytes`.
    pub(super) fn takes(&self, bytes: usize) -> bool {
        let (entries, left) = (self.entries.get(), self.bytes.get());
        if entries == 0 || left == 0 {
            return false;
        }
        self.entries.set(entries - 1);
        self.bytes.set(left.saturating_sub(bytes as u64));
        true
    }

    /// Whether so many bytes may be written again.
    pub(super) fn takes_bytes(&self, bytes: u64) -> bool {
        let left = self.bytes.get().checked_sub(bytes);
        self.bytes.set(left.unwrap_or(self.bytes.get()));
        left.is_some()
    }

    /// Counts a removed entry.
    pub(super) fn removed(&self) {
        self.removed.set(self.removed.get() + 1);
    }
}

/// A summary of list elements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Number of elements that are expired or removed.
    pub(super) gone: u64,
    /// Number of other elements.
    pub(super) kept: u64,
    /// Bytes of the other elements.
    pub(super) kept_bytes: u64,
}

impl Tally {
    pub(super) fn add(&mut self, entry: &Entry<'_>) {
        if entry.is_expired {
            self.gone += 1;
        } else {
            self.kept += 1;
            self.kept_bytes += entry.value.len() as u64;
        }
    }

    pub(super) fn is_mostly_gone(&self) -> bool {
        self.gone > 0 && self.gone >= self.kept
    }
}

/// Writes a list again without its expired elements, if most of it is gone by now; it may have changed since its first
/// elements were looked at. Touches the elements with an index in `touched`, which ascends. Returns whether it did.
pub(super) fn compact<B: StateBackend + ?Sized, L: FnMut(&Change<'_>)>(
    writer: &mut Writer<'_, B, L>,
    life: Lifespan,
    upkeep: &Upkeep,
    touched: &[u64],
) -> Result<bool, StateError> {
    let (mut tally, mut expired, mut fault) = (Tally::default(), 0, None);
    each_element(writer.backend, writer.at, 0, &mut |_, stored| {
        match life.entry(stored) {
            Ok(entry) => {
                tally.add(&entry);
                expired += u64::from(entry.is_expired && stored != REMOVED);
            }
            Err(error) => fault = Some(error),
        }
        fault.is_none()
    })?;
    if let Some(fault) = fault {
        return Err(fault);
    }
    // Ordering: the whole list is counted, and the budget asked, before anything is written. A rewriting cannot stop
    // half-way: the clear below leaves nothing to go back to.
    if !tally.is_mostly_gone() || !upkeep.takes_bytes(tally.kept_bytes) {
        return Ok(false);
    }
    let (mut kept, mut indexes) = (vec![], vec![]);
    each_element(writer.backend, writer.at, 0, &mut |index, stored| {
        // The first pass has read every element without an error.
        let Ok(entry) = life.entry(stored) else { return false };
        if !entry.is_expired {
            let is_touched = touched.binary_search(&index).is_ok();
            kept.push(if is_touched { stamp(life.now(), entry.value) } else { stored.to_vec() });
            indexes.push(index);
        }
        true
    })?;
    // Ordering 1: all kept elements are in memory now, since the clear removes them.
    // Ordering 2: the cursors move last, when the elements have their new indexes. A token that kept its index would
    // skip as many elements as were dropped before it.
    writer.write(Action::Clear)?;
    (0..).zip(&kept).try_for_each(|(index, element)| writer.write(Action::ListPut { index, element }))?;
    upkeep.cursors.rewritten(writer.at, &indexes);
    (0..expired).for_each(|_| upkeep.removed());
    Ok(true)
}

/// Whether `at` has an entry that reads see.
pub(super) fn has_visible<B: StateBackend + ?Sized>(
    backend: &B,
    at: Address<'_>,
    kind: StateKind,
    life: Lifespan,
) -> Result<bool, StateError> {
    let (mut found, mut fault) = (false, None);
    let mut look = |stored: &[u8]| {
        match life.entry(stored) {
            Ok(entry) => found = entry.is_visible,
            Err(error) => fault = Some(error),
        }
        !found && fault.is_none()
    };
    match kind {
        StateKind::Value => backend.value(at, &mut |stored| _ = stored.is_some_and(&mut look))?,
        StateKind::Map => each_entry(backend, at, &mut |_, stored| look(stored))?,
        StateKind::List => each_element(backend, at, 0, &mut |_, stored| look(stored))?,
        // Timers do not expire.
        StateKind::Timer => found = backend.has_entries(at, kind)?,
    }
    fault.map_or(Ok(found), Err)
}

/// Calls `read` with stored map entries until it returns `false`.
fn each_entry<B: StateBackend + ?Sized>(
    backend: &B,
    at: Address<'_>,
    read: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), StateError> {
    let (mut from, mut goes_on, mut entries) = (vec![], true, FIRST_ENTRIES);
    loop {
        let mut last = vec![];
        let more = backend.map_page(
            at,
            MapKeys::from(&from),
            PageLimit { entries, bytes: MOST_BYTES },
            &mut |map_key, stored| {
                goes_on = goes_on && read(map_key, stored);
                last.clear();
                last.extend_from_slice(map_key);
            },
        )?;
        if !more || !goes_on {
            return Ok(());
        }
        last.push(0);
        (from, entries) = (last, (entries * 4).min(MOST_ENTRIES));
    }
}

/// Calls `read` with stored list elements from `index` on, with their index, until it returns `false`.
pub(super) fn each_element<B: StateBackend + ?Sized>(
    backend: &B,
    at: Address<'_>,
    mut index: u64,
    read: &mut dyn FnMut(u64, &[u8]) -> bool,
) -> Result<(), StateError> {
    let (mut goes_on, mut entries) = (true, FIRST_ENTRIES);
    loop {
        let more = backend.list_page(at, index, PageLimit { entries, bytes: MOST_BYTES }, &mut |stored| {
            goes_on = goes_on && read(index, stored);
            index += 1;
        })?;
        if !more || !goes_on {
            return Ok(());
        }
        entries = (entries * 4).min(MOST_ENTRIES);
    }
}

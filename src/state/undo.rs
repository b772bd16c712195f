//! Marks, and the records that undo the changes since them: they give the contents of a backend at earlier moments.
//!
//! ```text
//!   mark 7 ──▶ layer: old contents of the entries changed since   ┐ of each entry the oldest record from the mark on,
//!   mark 8 ──▶ layer: old contents of the entries changed since   ┘ or else the live entry: the contents at the mark
//! ```
//!
//! While a mark is open, every change goes through [`Undo`] before it is applied ([`Undo::recording`]). The first
//! change of an entry after the newest mark records the old entry: a value, a map entry, a list element and the length
//! of its list, or whether a timer was set. The clear of a map or list records all its entries. So an unchanged entry
//! costs nothing, and a changed one costs its old contents, once per mark.
//!
//! Checking whether an entry is already recorded costs more than overwriting it. So if marks are never read, only
//! rolled back to ([`Undo::lazy`]), each change of anything but a list appends the change that undoes it to a journal,
//! without a check (`journal`).
//!
//! A [`View`] reads at a mark. [`Undo::roll_back`] brings the contents at a mark back, by ordinary changes.
//!
//! - When the oldest mark is [released](Undo::release), its records go with it. A later mark leaves its records to the
//!   mark before, which still needs them; [`Undo::settle`] moves them a few at a time.
//! - If the records exceed the limit in bytes, the oldest mark is dropped, then the next.
//!
//! Dropped records are not freed at once, since that takes time in proportion to their size: [`Undo::take_garbage`].

mod journal;
mod record;
mod rollback;
#[cfg(test)]
pub(super) mod tests;
mod timers;
mod view;

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
};

pub use self::view::View;
use self::{journal::Journal, timers::OldTimer};
use super::{Action, Address, Change, PageLimit, StateBackend, StateError, forward::forward};
use crate::types::{KeyGroup, StateId, StateKind};

/// Page size for reading a map or list that is cleared.
const PAGE: PageLimit = PageLimit { entries: 256, bytes: 64 << 10 };

/// Memory of a recorded cell besides its bytes: its places in trees, its lengths, and the allocator's overhead.
const CELL_BYTES: u64 = 224;

/// Memory of a recorded map entry or list element besides its bytes.
const ENTRY_BYTES: u64 = 96;

/// Number of journal records that are moved for each one that was added, while journals take too much room.
const MOVED_PER_ADDED: usize = 2;

/// A moment of a backend. Later marks are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub u64);

/// The marks of one backend, and the records that lead back to them.
///
/// Invariants: marks ascend. The oldest layer is open. A cell is recorded under the same identity, and as the same
/// kind, in every layer. The record of an entry in a layer was true from its mark until the entry first changed. If an
/// entry has records in both a cell and the journal of a layer, the cell is older.
#[derive(Debug)]
pub struct Undo {
    /// The layers, oldest first.
    layers: VecDeque<Layer>,
    /// Bytes of all layers.
    bytes: u64,
    limit: u64,
    /// Whether changes are recorded in journals.
    is_lazy: bool,
    /// Bytes of journals above which they are moved into cells.
    journal_limit: u64,
    /// Blocks of dropped journals, for reuse: fresh memory costs more than writing to old memory.
    spare: Vec<Vec<u8>>,
    /// Number of records added to journals since the last call of [`settle`](Self::settle).
    journaled: usize,
    /// Number of marks that were dropped because of the limit.
    dropped: u64,
    garbage: Vec<Layer>,
    /// Scratch memory: the identity of the current cell.
    id: Vec<u8>,
}

/// The records between a mark and the next one.
#[derive(Debug)]
struct Layer {
    mark: Mark,
    /// Whether the mark can be read; otherwise the records only serve earlier marks.
    is_open: bool,
    /// By state, key group and rank of the name.
    cells: BTreeMap<Blob, Cell>,
    /// Records that are not in cells yet.
    journal: Journal,
    /// The timers of all cells, and whether they were set; for reading.
    timers: BTreeMap<OldTimer, bool>,
    bytes: u64,
}

/// The records of one (key, namespace).
#[derive(Debug)]
struct Cell {
    key: Blob,
    namespace: Blob,
    old: Old,
}

/// Bytes of a key or value.
type Blob = Box<[u8]>;

#[derive(Debug)]
enum Old {
    Value(Option<Blob>),
    Map(OldMap),
    List(OldList),
    /// By time; the entry of a timer that was set is an empty value.
    Timers(OldMap),
}

#[derive(Debug, Default)]
struct OldMap {
    /// `None` for an entry that did not exist.
    entries: BTreeMap<Blob, Option<Blob>>,
    /// Whether all other entries did not exist either.
    is_whole: bool,
    /// Bytes of the entries.
    bytes: u64,
}

#[derive(Debug)]
struct OldList {
    length: u64,
    /// The changed elements below the length.
    elements: BTreeMap<u64, Blob>,
    /// Whether all of these are recorded, here or in layers between this one and the newest open mark before.
    is_whole: bool,
    /// Bytes of the elements.
    bytes: u64,
}

/// Records that are no longer needed. Dropping them may take a while.
#[derive(Debug)]
pub struct Garbage(#[allow(dead_code, reason = "kept to be dropped")] Vec<Layer>);

impl Undo {
    /// An undo log without marks; its records take at most about `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self {
            layers: VecDeque::new(),
            bytes: 0,
            limit,
            is_lazy: false,
            journal_limit: limit / 2,
            spare: vec![],
            journaled: 0,
            dropped: 0,
            garbage: vec![],
            id: vec![],
        }
    }

    /// An undo log for marks that are only rolled back to, never read.
    #[must_use]
    pub fn lazy(limit: u64) -> Self {
        Self { is_lazy: true, ..Self::new(limit) }
    }

    /// Whether changes have to be recorded.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        !self.layers.is_empty()
    }

    /// Bytes of all records, by its own accounting.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of marks that were dropped because of the limit, since the beginning.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The open marks, oldest first.
    pub fn marks(&self) -> impl Iterator<Item = Mark> + '_ {
        self.layers.iter().filter(|layer| layer.is_open).map(|layer| layer.mark)
    }

    /// Whether `mark` is open.
    #[must_use]
    pub fn has(&self, mark: Mark) -> bool {
        self.position(mark).is_some()
    }

    /// Opens a mark for the present contents. It must be greater than any before.
    pub fn mark(&mut self, mark: Mark) {
        assert!(self.layers.back().is_none_or(|layer| layer.mark < mark), "marks ascend");
        // The next interval may need as many blocks as the last one.
        self.spare.truncate(self.layers.back().map_or(0, |layer| layer.journal.blocks()));
        let (cells, journal, timers) = Default::default();
        self.layers.push_back(Layer { mark, is_open: true, cells, journal, timers, bytes: 0 });
    }

    /// Closes a mark. Records that lead back to an older mark stay. Idempotent.
    pub fn release(&mut self, mark: Mark) {
        if let Some(layer) = self.position(mark).and_then(|at| self.layers.get_mut(at)) {
            // Only layers at the front can go at once. The records of a later one are needed by the mark before it.
            layer.is_open = false;
            self.let_go();
        }
    }

    /// Closes every mark that is not `is_wanted`.
    pub fn retain(&mut self, is_wanted: impl Fn(Mark) -> bool) {
        for layer in &mut self.layers {
            layer.is_open &= is_wanted(layer.mark);
        }
        self.let_go();
    }

    /// Reads `live` as it was at `mark`; `live` must be the backend whose changes were recorded. `None` if the mark is
    /// not open. Not for [lazy](Self::lazy) marks.
    pub fn view<'a>(&'a self, live: &'a mut dyn StateBackend, mark: Mark) -> Option<View<'a>> {
        let at = self.position(mark)?;
        assert!(!self.is_lazy, "lazy marks are not read");
        Some(View::new(live, self.layers.range(at..).collect()))
    }

    /// A wrapper of `live` that records every change of a state of `kind` before it applies it.
    pub fn recording<'a>(&'a mut self, live: &'a mut dyn StateBackend, kind: StateKind) -> Recording<'a> {
        Recording { live, undo: self, kind }
    }

    /// Moves records of closed marks to the mark before them, at most `most`, so that nothing is kept twice. Also moves
    /// journal records to cells, while journals take more than half of the limit. The owner of the backend `live` calls
    /// it now and then.
    pub fn settle(&mut self, live: &dyn StateBackend, most: usize) {
        // More are moved than came since the last call, so journals shrink however fast changes come.
        let mut left = most.max(MOVED_PER_ADDED * mem::take(&mut self.journaled));
        if self.journal_bytes() > self.journal_limit {
            self.dissolve(live, None, &mut left);
            self.keep_to_limit();
        }
        let mut left = most;
        while left > 0
            && let Some(at) = self.layers.iter().position(|layer| !layer.is_open)
        {
            // The oldest layer is open, so a closed one has a layer before it.
            let before = at.saturating_sub(1);
            // Ordering 1: the layer before is rid of its journal first. Its records are older than those of the later
            // layer, and the first record of an entry stays. In the other order, the later record would stay, and the
            // mark would show an entry as it was at the later mark.
            // Ordering 2: then the cells of the later layer follow, and its journal last, as it is younger than its
            // cells.
            // Records of a later layer are newer.
            self.dissolve(live, Some(before), &mut left);
            if left == 0 {
                return;
            }
            let Some(mut layer) = self.layers.remove(at) else { return };
            let into = self.layers.get_mut(before).expect("the oldest layer is open");
            // Both layers change their sizes below, so the total is taken apart here and put together behind that.
            self.bytes -= into.bytes + layer.bytes;
            into.take_from(&mut layer, &mut left);
            into.take_timers_from(&mut layer, &mut left);
            if layer.cells.is_empty() && layer.timers.is_empty() {
                // The journal of `into` is empty: it was dissolved above.
                into.journal = mem::take(&mut layer.journal);
                into.bytes += into.journal.bytes();
                layer.bytes -= into.journal.bytes();
            }
            self.bytes += into.bytes + layer.bytes;
            if !layer.is_empty() {
                self.layers.insert(at, layer);
            }
        }
    }

    /// The records that were dropped since the last call.
    #[must_use]
    pub fn take_garbage(&mut self) -> Option<Garbage> {
        (!self.garbage.is_empty()).then(|| Garbage(mem::take(&mut self.garbage)))
    }

    fn position(&self, mark: Mark) -> Option<usize> {
        let at = self.layers.binary_search_by_key(&mark, |layer| layer.mark).ok()?;
        self.layers.get(at).is_some_and(|layer| layer.is_open).then_some(at)
    }

    /// Drops the oldest layers until the oldest one is open.
    fn let_go(&mut self) {
        while let Some(mut layer) = self.layers.pop_front_if(|layer| !layer.is_open) {
            self.bytes -= layer.bytes;
            layer.journal.retire(&mut self.spare, self.limit.saturating_sub(self.bytes));
            if !layer.is_empty() {
                self.garbage.push(layer);
            }
        }
    }

    /// Drops the oldest marks until the records are within the limit.
    fn keep_to_limit(&mut self) {
        while self.bytes > self.limit
            && let Some(oldest) = self.layers.front_mut()
        {
            // The oldest mark goes first. A later one does not need its records, since a mark is read from its own
            // layer on.
            oldest.is_open = false;
            self.dropped += 1;
            self.let_go();
        }
    }
}

impl Layer {
    fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.journal.is_empty() && self.timers.is_empty()
    }
}

/// A backend that records its changes before it applies them, and is otherwise the same.
pub struct Recording<'a> {
    live: &'a mut dyn StateBackend,
    undo: &'a mut Undo,
    kind: StateKind,
}

impl StateBackend for Recording<'_> {
    fn apply(&mut self, change: &Change<'_>) -> Result<(), StateError> {
        // Ordering: the record is read from the live entry, so it comes before the change. If the change then fails,
        // the record is of an entry that did not change, and true all the same.
        self.undo.record(self.live, self.kind, change)?;
        self.live.apply(change)
    }

    forward!(
        live: register, value, map_value, map_page, list_page, timer, timer_page, timer_count, len, has_entries, name_page, name_rank,
        counting, bytes, memory_bytes, set_stamp, set_time, set_ttl, warm, finish_batch
    );
}

/// Empties `id`, and writes the beginning of the identities of all cells of (state, key group) into it.
fn put_group(state: StateId, key_group: KeyGroup, id: &mut Vec<u8>) {
    id.clear();
    id.extend(state.0.to_be_bytes());
    id.extend(key_group.0.to_be_bytes());
}

/// Writes the identity of the cell at `at` into `id`.
fn put_id(live: &dyn StateBackend, at: Address<'_>, id: &mut Vec<u8>) {
    put_group(at.state, at.key_group, id);
    live.name_rank(at.key, at.namespace, id);
}

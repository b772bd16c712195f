//! Marks, and what undoes the changes since them: what a backend contained at earlier moments.
//!
//! ```text
//!   mark 7 ──▶ layer: old contents of what changed first after it ┐ of each entry the oldest record from the mark on,
//!   mark 8 ──▶ layer: old contents of what changed first after it ┘ or else what is live: the contents at the mark
//! ```
//!
//! While a mark is open, whoever changes the backend lets [`Undo`] see each change before it is applied
//! ([`Undo::recording`]). The first change of an entry after the newest mark records what the entry was: a value, a map
//! entry, a list element and the length of its list, whether a timer was there; the clear of a map or list, all that it
//! had. So an unchanged entry costs nothing, and a changed one its old contents, once per mark.
//!
//! To look whether an entry is recorded costs more than to overwrite it. So where nobody reads marks, and they are only
//! gone back to ([`Undo::lazy`]), each change of anything but a list appends what undoes it to a journal, and looks for
//! nothing (`journal`).
//!
//! A mark is read through a [`View`], and its contents come back by [`Undo::roll_back`]: as ordinary changes.
//!
//! - [Released](Undo::release), the oldest mark goes with its records. One behind it leaves its records to the mark
//!   before, which they still serve where they are; [`Undo::settle`] moves them a few at a time.
//! - Records beyond the limit in bytes let the oldest mark go, then the next: nothing ever grows beyond it.
//!
//! What goes is not freed at once, which takes as long as it is large: [`Undo::take_garbage`].

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

/// What is read in one go of a map or list that is cleared.
const PAGE: PageLimit = PageLimit { entries: 256, bytes: 64 << 10 };

/// What a recorded cell takes beside its bytes: its places in trees, its lengths, the allocator's cost of its blocks.
const CELL_BYTES: u64 = 224;

/// Likewise a recorded entry of a map or list.
const ENTRY_BYTES: u64 = 96;

/// So many records of journals are moved for each that was added, while they take too much room.
const MOVED_PER_ADDED: usize = 2;

/// A moment of a backend. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub u64);

/// The marks of one backend, and the records that lead back to them.
///
/// Invariants: marks ascend; the oldest layer is open; a cell is recorded under the same identity, and as the same
/// kind, in every layer; what a layer says of an entry was true from its mark until the entry changed first; of an
/// entry that has records in both, the cell of a layer is older than its journal.
#[derive(Debug)]
pub struct Undo {
    /// Oldest first.
    layers: VecDeque<Layer>,
    /// Sum over the layers.
    bytes: u64,
    limit: u64,
    /// Whether changes are recorded in journals.
    is_lazy: bool,
    /// Bytes of journals beyond which they are dissolved.
    journal_limit: u64,
    /// Blocks of journals that went: memory that is new costs more than to write to it.
    spare: Vec<Vec<u8>>,
    /// Records that journals got since the last call of [`settle`](Self::settle).
    journaled: usize,
    /// Marks that were let go because of the limit.
    dropped: u64,
    garbage: Vec<Layer>,
    /// Scratch: the identity of the cell at hand.
    id: Vec<u8>,
}

/// What was recorded between a mark and the next one.
#[derive(Debug)]
struct Layer {
    mark: Mark,
    /// Whether the mark can be read; else the records serve those before.
    is_open: bool,
    /// By state, key group, rank of the name.
    cells: BTreeMap<Blob, Cell>,
    /// What is not in cells yet.
    journal: Journal,
    /// The timers of all cells, and whether they were there; for reading.
    timers: BTreeMap<OldTimer, bool>,
    bytes: u64,
}

/// What was recorded of one (key, namespace).
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
    /// By time; what stands for one that was there is empty.
    Timers(OldMap),
}

#[derive(Debug, Default)]
struct OldMap {
    /// `None` for an entry that was not there.
    entries: BTreeMap<Blob, Option<Blob>>,
    /// Whether every other entry was not there either.
    is_whole: bool,
    /// Of the entries.
    bytes: u64,
}

#[derive(Debug)]
struct OldList {
    length: u64,
    /// Those below the length that changed.
    elements: BTreeMap<u64, Blob>,
    /// Whether all of them are recorded, here or in layers between this one and the newest open mark before.
    is_whole: bool,
    /// Of the elements.
    bytes: u64,
}

/// What is no longer needed; to be dropped where that may take a while.
#[derive(Debug)]
pub struct Garbage(#[allow(dead_code, reason = "kept to be dropped")] Vec<Layer>);

impl Undo {
    /// Without marks; records take at most about `limit` bytes.
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

    /// The same for marks that are only gone back to, never read.
    #[must_use]
    pub fn lazy(limit: u64) -> Self {
        Self { is_lazy: true, ..Self::new(limit) }
    }

    /// Whether changes have to be recorded.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        !self.layers.is_empty()
    }

    /// Bytes of all records, as they are accounted for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Marks that were let go because of the limit, since the beginning.
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

    /// Opens a mark: what the backend contains now. Greater than any before.
    pub fn mark(&mut self, mark: Mark) {
        assert!(self.layers.back().is_none_or(|layer| layer.mark < mark), "marks ascend");
        // The next interval may need as many as the last one.
        self.spare.truncate(self.layers.back().map_or(0, |layer| layer.journal.blocks()));
        let (cells, journal, timers) = Default::default();
        self.layers.push_back(Layer { mark, is_open: true, cells, journal, timers, bytes: 0 });
    }

    /// Closes a mark. What still leads back to an older one stays. Idempotent.
    pub fn release(&mut self, mark: Mark) {
        if let Some(layer) = self.position(mark).and_then(|at| self.layers.get_mut(at)) {
            layer.is_open = false;
            self.let_go();
        }
    }

    /// Closes every mark of which `is_wanted` does not say that it is.
    pub fn retain(&mut self, is_wanted: impl Fn(Mark) -> bool) {
        for layer in &mut self.layers {
            layer.is_open &= is_wanted(layer.mark);
        }
        self.let_go();
    }

    /// Reads `live`, which must be the backend that all changes were recorded of, as it was at `mark`; `None` if that
    /// is not open. Not for [lazy](Self::lazy) marks.
    pub fn view<'a>(&'a self, live: &'a mut dyn StateBackend, mark: Mark) -> Option<View<'a>> {
        let at = self.position(mark)?;
        assert!(!self.is_lazy, "lazy marks are not read");
        Some(View::new(live, self.layers.range(at..).collect()))
    }

    /// `live`, with every change of a state of `kind` recorded before it is applied.
    pub fn recording<'a>(&'a mut self, live: &'a mut dyn StateBackend, kind: StateKind) -> Recording<'a> {
        Recording { live, undo: self, kind }
    }

    /// Moves records of closed marks to the mark before them, at most `most`, so that nothing is kept twice; and
    /// likewise records of journals, while those take more than half of the limit. Whoever changes the backend, which
    /// is `live`, calls it now and then.
    pub fn settle(&mut self, live: &dyn StateBackend, most: usize) {
        let mut left = most.max(MOVED_PER_ADDED * mem::take(&mut self.journaled));
        if self.journal_bytes() > self.journal_limit {
            self.dissolve(live, None, &mut left);
            self.keep_to_limit();
        }
        let mut left = most;
        while left > 0
            && let Some(at) = self.layers.iter().position(|layer| !layer.is_open)
        {
            let before = at.saturating_sub(1);
            // What comes from a later layer is newer.
            self.dissolve(live, Some(before), &mut left);
            if left == 0 {
                return;
            }
            let Some(mut layer) = self.layers.remove(at) else { return };
            let into = self.layers.get_mut(before).expect("the oldest layer is open");
            self.bytes -= into.bytes + layer.bytes;
            into.take_from(&mut layer, &mut left);
            into.take_timers_from(&mut layer, &mut left);
            if layer.cells.is_empty() && layer.timers.is_empty() {
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

    /// What went since the last call.
    #[must_use]
    pub fn take_garbage(&mut self) -> Option<Garbage> {
        (!self.garbage.is_empty()).then(|| Garbage(mem::take(&mut self.garbage)))
    }

    fn position(&self, mark: Mark) -> Option<usize> {
        let at = self.layers.binary_search_by_key(&mark, |layer| layer.mark).ok()?;
        self.layers.get(at).is_some_and(|layer| layer.is_open).then_some(at)
    }

    /// Lets the oldest layers go until the oldest is open.
    fn let_go(&mut self) {
        while let Some(mut layer) = self.layers.pop_front_if(|layer| !layer.is_open) {
            self.bytes -= layer.bytes;
            layer.journal.retire(&mut self.spare, self.limit.saturating_sub(self.bytes));
            if !layer.is_empty() {
                self.garbage.push(layer);
            }
        }
    }

    /// Lets the oldest marks go until the records keep to the limit.
    fn keep_to_limit(&mut self) {
        while self.bytes > self.limit
            && let Some(oldest) = self.layers.front_mut()
        {
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

/// A backend that records its changes before it applies them. Nothing else differs.
pub struct Recording<'a> {
    live: &'a mut dyn StateBackend,
    undo: &'a mut Undo,
    kind: StateKind,
}

impl StateBackend for Recording<'_> {
    fn apply(&mut self, change: &Change<'_>) -> Result<(), StateError> {
        self.undo.record(self.live, self.kind, change)?;
        self.live.apply(change)
    }

    forward!(
        live: register, value, map_value, map_page, list_page, timer, timer_page, timer_count, len, has_entries, name_page, name_rank,
        counting, bytes, memory_bytes, set_stamp, set_time, set_ttl, warm, finish_batch
    );
}

/// Puts the beginning of the identities of all cells of (state, key group) into `id`, which is emptied first.
fn put_group(state: StateId, key_group: KeyGroup, id: &mut Vec<u8>) {
    id.clear();
    id.extend(state.0.to_be_bytes());
    id.extend(key_group.0.to_be_bytes());
}

/// Puts the identity of the cell at `at` into `id`.
fn put_id(live: &dyn StateBackend, at: Address<'_>, id: &mut Vec<u8>) {
    put_group(at.state, at.key_group, id);
    live.name_rank(at.key, at.namespace, id);
}

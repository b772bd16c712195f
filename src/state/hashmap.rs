//! The inner backend in memory, in bounded slices.
//!
//! ```text
//!   state ─▶ key group ─▶ directory ─▶ slice ─▶ cell: one (key, namespace)
//!                         by hash bits  table        value: name and value, in the slice's arena
//!                                                    map:   B-tree     list: vector
//!                                                    timer: B-tree of times, or one
//! ```
//!
//! A slice has the cells of one range of stable hashes (`name`), and is bounded in cells and bytes. It is a hash table
//! (`cells`), or for values a block of memory with a table of places (`values`). A full slice is split, and two small
//! ones are merged (`directory`). So growing and shrinking move at most one slice's cells at a time, and never stall
//! the writer by rehashing a huge table. Slices are also the unit of copying, and each knows its last change. The
//! halves of a split slice inherit its stamp; a merged slice takes the higher stamp.
//!
//! The timers of a state are also in an index over all of its key groups, in order of time (`timers`).
//!
//! A cell is never divided. One map or list of millions of entries is in one slice, which then exceeds its bound; a
//! clear takes as long as freeing the entries, and a copy as long as reading them.
//!
//! [`bytes`](StateBackend::bytes) counts hash tables, directories and blocks as allocated, B-tree nodes by estimate,
//! and a constant for the allocator's own cost per block.

mod cell;
mod cell_table;
mod cells;
mod directory;
mod name;
mod places;
mod slice;
mod table;
mod timers;
mod usage;
mod values;

use std::hint::black_box;

pub(super) use self::name::{Name, read_name};
use self::table::{Misfit, Table};
use super::{
    Address, Change, Counting, Counts, HashRange, MapKeys, PageLimit, PieceSnapshots, StateBackend, StateError,
    TimerRef, WARM_PLACES,
    cut::{CutPiece, Cuts, Kept},
    stable_hash,
};
use crate::types::{KeyGroup, KeyGroupRange, StateDescriptor, StateId};

/// An inner backend that keeps everything in memory.
pub struct HashMapBackend {
    range: KeyGroupRange,
    /// Ordered by id. Ids usually count from 1 without gaps; then the id tells the position.
    states: Vec<(StateId, Table)>,
    /// Bytes of all states.
    bytes: u64,
    /// The stamp of the next change.
    stamp: u64,
    /// Cuts that are under way, whose slices are copied before they change.
    cuts: Cuts,
}

/// The size of one slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceExtent {
    /// Number of (key, namespace) pairs.
    pub cells: usize,
    /// Bytes of memory of the slice.
    pub bytes: u64,
}

impl HashMapBackend {
    /// An empty backend for the key groups of `range`.
    #[must_use]
    pub fn new(range: KeyGroupRange) -> Self {
        Self { range, states: Vec::new(), bytes: 0, stamp: 0, cuts: Cuts::default() }
    }

    /// The sizes of the slices of one (state, key group), in no particular order; empty if it does not exist.
    #[must_use]
    pub fn slices(&self, state: StateId, group: KeyGroup) -> Vec<SliceExtent> {
        let slices = self.table(state).map(|table| table.slices(group)).unwrap_or_default();
        slices.into_iter().map(|(cells, bytes)| SliceExtent { cells, bytes }).collect()
    }

    /// Calls `call` with the cuts and with the rest, which is read-only meanwhile.
    fn with_cuts<T>(&mut self, call: impl FnOnce(&mut Cuts, &Self) -> T) -> T {
        // The cuts change while they read the backend, so they are taken out. They read it through `copy_piece`,
        // `changed` and `slice`, which do not look at the cuts. They are put back even if `call` fails.
        let mut cuts = std::mem::take(&mut self.cuts);
        let result = call(&mut cuts, self);
        self.cuts = cuts;
        result
    }

    fn position(&self, state: StateId) -> Option<usize> {
        // Id 0 wraps around to a position that no vector has, and goes on to the search.
        let dense = (state.0 as usize).wrapping_sub(1);
        if self.states.get(dense).is_some_and(|(id, _)| *id == state) {
            return Some(dense);
        }
        self.states.binary_search_by_key(&state, |(id, _)| *id).ok()
    }

    fn table(&self, state: StateId) -> Result<&Table, StateError> {
        let table = self.position(state).and_then(|position| self.states.get(position));
        table.map(|(_, table)| table).ok_or(StateError::Mismatch { state, what: "the state is not registered" })
    }
}

impl StateBackend for HashMapBackend {
    fn register(&mut self, state: StateId, descriptor: &StateDescriptor) {
        match self.states.binary_search_by_key(&state, |(id, _)| *id) {
            Ok(_) => debug_assert!(false, "state {state:?} is registered twice"),
            Err(position) => self.states.insert(position, (state, Table::new(descriptor.kind, self.range))),
        }
    }

    fn apply(&mut self, change: &Change<'_>) -> Result<(), StateError> {
        // Ordering: the cuts copy the slice before the change. Afterwards the old contents would be gone, and the cut
        // would have a change that came behind it. If the table refuses the change below, the copy is right all the
        // same.
        if !self.cuts.is_empty() {
            self.with_cuts(|cuts, backend| cuts.before(backend, change.at))?;
        }
        let state = change.at.state;
        let table = self.position(state).and_then(|position| self.states.get_mut(position));
        let Some((_, table)) = table else {
            return Err(StateError::Mismatch { state, what: "the state is not registered" });
        };
        let before = table.usage().bytes;
        // The stamp is passed on here and not in `set_stamp`, which would have to visit thousands of tables for each
        // stamp.
        table.set_stamp(self.stamp);
        let applied = table.apply(change.at, change.action);
        // The size counts even if the change was refused: the first write of a state allocates directories either way.
        self.bytes = self.bytes - before + table.usage().bytes;
        applied.map_err(mismatch(change.at))
    }

    fn value(&self, at: Address<'_>, read: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), StateError> {
        read(self.table(at.state)?.value(at).map_err(mismatch(at))?);
        Ok(())
    }

    fn map_value(
        &self,
        at: Address<'_>,
        map_key: &[u8],
        read: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<(), StateError> {
        read(self.table(at.state)?.map_value(at, map_key).map_err(mismatch(at))?);
        Ok(())
    }

    fn map_page(
        &self,
        at: Address<'_>,
        keys: MapKeys<'_>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, StateError> {
        self.table(at.state)?.map_page(at, keys, limit, read).map_err(mismatch(at))
    }

    fn list_page(
        &self,
        at: Address<'_>,
        from: u64,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StateError> {
        self.table(at.state)?.list_page(at, from, limit, read).map_err(mismatch(at))
    }

    fn timer(&self, at: Address<'_>, time: i64) -> Result<bool, StateError> {
        self.table(at.state)?.timer(at, time).map_err(mismatch(at))
    }

    fn timer_page(
        &self,
        state: StateId,
        after: Option<TimerRef<'_>>,
        up_to: i64,
        limit: PageLimit,
        read: &mut dyn FnMut(TimerRef<'_>),
    ) -> Result<bool, StateError> {
        let page = self.table(state)?.timer_page(after, up_to, limit, read);
        page.map_err(|what| StateError::Mismatch { state, what })
    }

    fn timer_count(&self, state: StateId) -> Result<u64, StateError> {
        self.table(state)?.timer_count().map_err(|what| StateError::Mismatch { state, what })
    }

    fn len(&self, at: Address<'_>) -> Result<u64, StateError> {
        self.table(at.state)?.len(at).map_err(mismatch(at))
    }

    fn pieces(&self) -> Option<&dyn PieceSnapshots> {
        Some(self)
    }

    fn pieces_mut(&mut self) -> Option<&mut dyn PieceSnapshots> {
        Some(self)
    }

    /// In order of stable hashes.
    fn name_page(
        &self,
        state: StateId,
        key_group: KeyGroup,
        after: Option<(&[u8], &[u8])>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, StateError> {
        let page = self.table(state)?.name_page(key_group, after, limit, read);
        page.map_err(|what| StateError::Mismatch { state, what })
    }

    /// The rank is the stable hash. The names follow, to order equal hashes; a key in it ends with two zero bytes.
    fn name_rank(&self, key: &[u8], namespace: &[u8], rank: &mut Vec<u8>) {
        rank.extend(stable_hash(key, namespace).to_be_bytes());
        for &byte in key {
            rank.push(byte);
            if byte == 0 {
                rank.push(u8::MAX);
            }
        }
        rank.extend([0, 0]);
        rank.extend_from_slice(namespace);
    }

    /// The entries are counted all the time.
    fn counting(&self) -> Counting {
        let counts = self.states.iter().map(|(state, table)| (*state, table.usage().entries));
        let counts = Counts { entries: counts.filter(|(_, count)| *count > 0).collect(), complete: true };
        Box::new(move |_| Ok(counts))
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn set_stamp(&mut self, stamp: u64) {
        debug_assert!(stamp >= self.stamp, "the stamp went back from {} to {stamp}", self.stamp);
        self.stamp = stamp;
    }

    /// An update of a place that is in no cache waits for memory three times in sequence: slice, table of places, cell.
    /// These short loops let the processor wait for several places at the same time.
    fn warm(&self, places: &mut dyn Iterator<Item = Address<'_>>) {
        let mut cells = [(None, KeyGroup(0), 0); WARM_PLACES];
        let mut blocks: [&[u8]; WARM_PLACES] = [&[]; WARM_PLACES];
        loop {
            let mut count = 0;
            // Ordering: the cells come first. `zip` asks its left side first, so when no cell is left, no place is
            // taken and lost.
            for (cell, at) in cells.iter_mut().zip(&mut *places) {
                *cell = (self.table(at.state).ok(), at.key_group, stable_hash(at.key, at.namespace));
                count += 1;
            }
            // A processor looks a few hundred instructions ahead, and begins anew where it guessed a branch wrong. So
            // no branch of this loop depends on the memory that it reads, and the look-ups come after it.
            let touch = |(table, key_group, hash): &(Option<&Table>, KeyGroup, u64)| {
                table.map_or(0, |table| table.touch(*key_group, *hash))
            };
            black_box(cells.iter().take(count).fold(0, |all, cell| all ^ touch(cell)));
            for (block, (table, key_group, hash)) in blocks.iter_mut().zip(cells).take(count) {
                *block = table.map(|table| table.block(key_group, hash)).unwrap_or_default();
            }
            // The fold reads both ends and the middle of every block, since a short one spans up to three cache lines.
            // The compiler must believe that the sum is needed, or it leaves the reads out.
            let byte = |block: &[u8], at: usize| block.get(at).copied().unwrap_or(0);
            let read = |block: &&[u8]| {
                let last = block.len().saturating_sub(1);
                byte(block, 0) ^ byte(block, last / 2) ^ byte(block, last)
            };
            black_box(blocks.iter().take(count).fold(0, |all, block| all ^ read(block)));
            if count < WARM_PLACES {
                return;
            }
        }
    }
}

impl PieceSnapshots for HashMapBackend {
    /// Copies one slice, or the part of it at or after `from`.
    fn copy_piece(
        &self,
        state: StateId,
        key_group: KeyGroup,
        from: u64,
        copy: &mut dyn FnMut(&Change<'_>),
    ) -> Result<u64, StateError> {
        let copied = self.table(state)?.copy_slice(state, key_group, from, copy);
        copied.map_err(|what| StateError::Mismatch { state, what })
    }

    fn changed(&self, state: StateId, key_group: KeyGroup, range: HashRange) -> u64 {
        self.table(state).map_or(0, |table| table.changed(key_group, range))
    }

    fn slice(&self, state: StateId, key_group: KeyGroup, hash: u64) -> HashRange {
        self.table(state).map_or(HashRange::ALL, |table| table.slice(key_group, hash))
    }

    fn begin_cut(&mut self, number: u64, kept: Kept) {
        let states = self.states.iter().map(|(state, _)| *state).collect();
        self.cuts.begin(number, states, self.range, kept);
    }

    fn keep(&mut self, number: u64, kept: Kept) {
        self.cuts.keep(number, kept);
    }

    fn next_of_cut(&mut self, number: u64) -> Result<Option<CutPiece>, StateError> {
        self.with_cuts(|cuts, backend| cuts.next(backend, number))
    }

    fn end_cut(&mut self, number: u64) {
        self.cuts.end(number);
    }

    fn held_bytes(&self) -> u64 {
        self.cuts.held_bytes()
    }
}

fn mismatch(at: Address<'_>) -> impl FnOnce(Misfit) -> StateError {
    move |what| StateError::Mismatch { state: at.state, what }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::{
        slice::{MAX_SLICE_BYTES, MAX_SLICE_CELLS, MIN_SPLIT_CELLS},
        *,
    };
    use crate::{
        state::{Action, conformance},
        types::StateKind,
    };

    const GROUP: KeyGroup = KeyGroup(3);
    const STATE: StateId = StateId(1);

    fn backend(kind: StateKind) -> HashMapBackend {
        let mut backend = HashMapBackend::new(KeyGroupRange::new(3, 4).unwrap());
        backend.register(STATE, &StateDescriptor::new("s", kind));
        backend
    }

    fn apply(backend: &mut HashMapBackend, key: u32, action: Action<'_>) {
        let at = Address { state: STATE, key_group: GROUP, key: &key.to_be_bytes(), namespace: b"" };
        backend.apply(&Change { at, action }).unwrap();
    }

    /// Asserts that the counters equal the numbers found by counting.
    fn audit(backend: &HashMapBackend) {
        for (state, table) in &backend.states {
            assert_eq!(table.usage(), table.recount(), "{state:?}");
        }
        assert_eq!(backend.bytes, backend.states.iter().map(|(_, table)| table.usage().bytes).sum::<u64>());
    }

    #[test]
    fn conforms() {
        conformance::all(&|range| Box::new(HashMapBackend::new(range)));
    }

    #[test]
    fn equals_the_model_under_random_operations() {
        conformance::model::random_operations_equal_the_model(&|range| Box::new(HashMapBackend::new(range)));
    }

    #[test]
    fn equals_the_model_as_time_passes() {
        conformance::aging::random_operations_equal_the_model(&|range| Box::new(HashMapBackend::new(range)), 256);
    }

    #[test]
    fn pieces_copied_amid_changes_rebuild_it() {
        let factory: conformance::Factory<'_> = &|range| Box::new(HashMapBackend::new(range));
        conformance::snapshot::pieces_copied_amid_changes_rebuild_the_backend(factory);
    }

    /// The ranges of the pieces of the group, and the number of cells that each copy hands out.
    fn pieces(backend: &HashMapBackend) -> Vec<(HashRange, usize)> {
        let (mut pieces, mut from) = (Vec::new(), Some(0));
        while let Some(first) = from {
            let mut cells = 0;
            let last = backend.copy_piece(STATE, GROUP, first, &mut |_| cells += 1).unwrap();
            pieces.push((HashRange { first, last }, cells));
            from = last.checked_add(1);
        }
        pieces
    }

    #[test]
    fn a_copy_is_bounded_by_a_slice() {
        let mut backend = backend(StateKind::Value);
        for key in 0..20_000 {
            apply(&mut backend, key, Action::Put(b"v"));
        }
        let pieces = pieces(&backend);
        assert_eq!(pieces.len(), backend.slices(STATE, GROUP).len());
        assert!(pieces.iter().all(|(_, cells)| *cells <= MAX_SLICE_CELLS), "{pieces:?}");
        assert_eq!(pieces.iter().map(|(_, cells)| cells).sum::<usize>(), 20_000);
        let (range, cells) = pieces[1];
        let mut upper = 0;
        let last = backend.copy_piece(STATE, GROUP, range.first.midpoint(range.last), &mut |_| upper += 1);
        assert_eq!(last.unwrap(), range.last, "a copy from within a slice ends with it");
        assert!((1..cells).contains(&upper), "{upper} of {cells}");
    }

    #[test]
    fn stamps_outlive_splits_merges_and_removed_cells() {
        let mut backend = backend(StateKind::Value);
        let changed = |backend: &HashMapBackend, range| backend.changed(STATE, GROUP, range);
        backend.set_stamp(1);
        for key in 0..20_000 {
            apply(&mut backend, key, Action::Put(b"v"));
        }
        let full = pieces(&backend);
        assert!(full.len() > 4 && full.iter().all(|(range, _)| changed(&backend, *range) == 1), "{full:?}");
        let hash = |key: u32| stable_hash(&key.to_be_bytes(), b"");
        let (of_key, others): (Vec<_>, Vec<_>) = full.iter().copied().partition(|(range, _)| range.contains(hash(7)));
        backend.set_stamp(2);
        apply(&mut backend, 7, Action::Clear);
        assert_eq!(changed(&backend, of_key[0].0), 2);
        assert!(others.iter().all(|(range, _)| changed(&backend, *range) == 1));
        backend.set_stamp(3);
        apply(&mut backend, 7, Action::Clear);
        assert_eq!(changed(&backend, HashRange::ALL), 2, "nothing was there any more");
        for key in (0..20_000).filter(|key| !of_key[0].0.contains(hash(*key))) {
            apply(&mut backend, key, Action::Clear);
        }
        assert!(others.iter().all(|(range, _)| changed(&backend, *range) == 3));
        backend.set_stamp(4);
        for key in 0..20_000 {
            apply(&mut backend, key, Action::Clear);
        }
        assert_eq!(pieces(&backend), [(HashRange::ALL, 0)]);
        assert!(full.iter().all(|(range, _)| changed(&backend, *range) == 4));
    }

    #[test]
    fn slices_split_and_merge_and_memory_is_given_back() {
        let mut backend = backend(StateKind::Value);
        apply(&mut backend, 0, Action::Put(b""));
        let small = backend.bytes();
        let keys = 100_000_u32;
        for key in 0..keys {
            apply(&mut backend, key, Action::Put(&key.to_be_bytes()));
        }
        audit(&backend);
        let slices = backend.slices(STATE, GROUP);
        assert!(slices.iter().all(|slice| slice.cells <= MAX_SLICE_CELLS), "{slices:?}");
        assert_eq!(slices.iter().map(|slice| slice.cells).sum::<usize>(), keys as usize);
        assert!((28..100).contains(&slices.len()), "{} slices", slices.len());
        for key in 0..keys {
            let at = Address { state: STATE, key_group: GROUP, key: &key.to_be_bytes(), namespace: b"" };
            backend.value(at, &mut |value| assert_eq!(value, Some(&key.to_be_bytes()[..]))).unwrap();
        }
        for key in 0..keys {
            apply(&mut backend, key, Action::Clear);
            if key % 10_000 == 0 {
                audit(&backend);
            }
        }
        audit(&backend);
        assert_eq!(backend.entries(STATE).unwrap(), 0);
        assert_eq!(backend.slices(STATE, GROUP).len(), 1);
        assert!(backend.bytes() <= 2 * small, "{} bytes after {small}", backend.bytes());
    }

    #[test]
    fn slices_are_bounded_in_bytes_too() {
        let mut backend = backend(StateKind::Value);
        let value = vec![0; 100_000];
        for key in 0..300 {
            apply(&mut backend, key, Action::Put(&value));
        }
        audit(&backend);
        let bounded = |slice: &SliceExtent| slice.bytes <= MAX_SLICE_BYTES + 100_000 || slice.cells < MIN_SPLIT_CELLS;
        assert!(backend.slices(STATE, GROUP).iter().all(bounded));
        for key in 0..300 {
            apply(&mut backend, key, Action::Put(b"small"));
        }
        audit(&backend);
    }

    #[test]
    fn a_giant_map_stays_one_cell() {
        let mut backend = backend(StateKind::Map);
        for key in 0..100_u32 {
            apply(&mut backend, key, Action::MapPut { map_key: b"m", value: b"v" });
        }
        for i in 0..30_000_u32 {
            apply(&mut backend, 7, Action::MapPut { map_key: &i.to_be_bytes(), value: &[1; 100] });
        }
        audit(&backend);
        assert_eq!(backend.entries(STATE).unwrap(), 30_100);
        let largest = backend.slices(STATE, GROUP).into_iter().max_by_key(|slice| slice.bytes).unwrap();
        assert!(largest.cells < MIN_SPLIT_CELLS && largest.bytes > MAX_SLICE_BYTES, "{largest:?}");
        for i in 0..30_000_u32 {
            apply(&mut backend, 7, Action::MapRemove { map_key: &i.to_be_bytes() });
        }
        audit(&backend);
        assert_eq!(backend.entries(STATE).unwrap(), 100);
    }
}

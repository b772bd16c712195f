//! Snapshots of a backend in memory at exactly one moment, made while it is written.
//!
//! ```text
//!   hashes of one (state, key group)   0 ▒▒▒▒▒▒▒▒│░░░░░░░░│▒▒▒▒▒▒│░░░░░░░░░░░ MAX
//!                                        walked   not yet  ▲      not yet
//!                                                          a write came: copied before it
//! ```
//!
//! A [cut](Cuts::begin) is a moment. The part that it covers was returned as [`CutPiece`]s; the rest is still as it was
//! at that moment. A walk goes over everything, slice by slice. A write to a slice that is not covered yet makes the
//! cut cover that slice first. So a write waits for at most one copied slice per cut, and the copies are the state at
//! the cut.
//!
//! Several cuts may be under way. A slice that did not change between two of them is copied once and shared.
//! [`Cuts::held_bytes`] counts the memory of copies that were not yet taken, once for each cut that holds them.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Bound,
    sync::Arc,
};

use super::{
    Address, StateError,
    hash::stable_hash,
    piece::{HashRange, PieceSnapshots},
    snapshot::{PieceBuilder, PieceContents},
};
use crate::types::{KeyGroup, KeyGroupRange, StateId};

/// The pieces of an older snapshot. For a hash of (state, key group) it returns the hashes that its piece covers, and
/// the stamp below which the piece has every change.
pub type Kept = Arc<dyn Fn(StateId, KeyGroup, u64) -> Option<(HashRange, u64)> + Send + Sync>;

/// A part of the contents as it was at a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutPiece {
    /// The state that it is a part of.
    pub state: StateId,
    /// The key group that it is a part of.
    pub key_group: KeyGroup,
    /// The stable hashes that it covers.
    pub hashes: HashRange,
    /// A stamp at or above the highest of any change to it.
    pub changed: u64,
    /// The contents of the piece, or that they did not change.
    pub contents: CutContents,
}

/// The contents of a [`CutPiece`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CutContents {
    /// The same as those of the [kept](Kept) piece, which covers exactly these hashes.
    Kept,
    /// A copy; `None` if it is empty.
    Copied(Option<PieceContents>),
}

impl CutContents {
    fn bytes(&self) -> u64 {
        match self {
            Self::Copied(Some(contents)) => contents.bytes.len() as u64,
            Self::Kept | Self::Copied(None) => 0,
        }
    }
}

/// Disjoint ranges of hashes, by their first hash; adjacent ranges are joined.
#[derive(Debug, Default)]
struct Coverage(BTreeMap<u64, u64>);

impl Coverage {
    /// The uncovered range around `hash`; `None` if `hash` is covered.
    fn gap(&self, hash: u64) -> Option<HashRange> {
        let first = match self.0.range(..=hash).next_back() {
            Some((_, last)) if *last >= hash => return None,
            // This `last` is below `hash`, so the sum does not overflow. Below, `next` is above `hash`, so the
            // difference does not either.
            Some((_, last)) => last + 1,
            None => 0,
        };
        let behind = self.0.range((Bound::Excluded(hash), Bound::Unbounded)).next();
        Some(HashRange { first, last: behind.map_or(u64::MAX, |(next, _)| next - 1) })
    }

    /// Covers a range inside a gap.
    fn insert(&mut self, range: HashRange) {
        let HashRange { mut first, mut last } = range;
        // Ranges are disjoint, so the one before ends below `first`, and the sum does not overflow. `last` may be the
        // highest hash, behind which there is nothing.
        if let Some((before, end)) = self.0.range(..first).next_back()
            && *end + 1 == first
        {
            first = *before;
        }
        if let Some(end) = last.checked_add(1).and_then(|next| self.0.remove(&next)) {
            last = end;
        }
        self.0.insert(first, last);
    }

    /// The lowest hash that is not covered.
    fn lowest_gap(&self) -> Option<u64> {
        self.0.get(&0).map_or(Some(0), |last| last.checked_add(1))
    }
}

/// A position in the contents of a backend: a stable hash of (state, key group).
#[derive(Debug, Clone, Copy)]
struct Spot {
    state: StateId,
    key_group: KeyGroup,
    hash: u64,
}

/// A cut that is under way.
///
/// Invariant: `covered` has no place before `walked`, since all of these are covered.
struct Cut {
    number: u64,
    kept: Kept,
    states: Vec<StateId>,
    key_groups: KeyGroupRange,
    /// The present place of the walk: position in `states`, and key group; `None` at its end.
    walked: Option<(usize, KeyGroup)>,
    covered: BTreeMap<(StateId, KeyGroup), Coverage>,
    pieces: VecDeque<CutPiece>,
    held_bytes: u64,
}

impl Cut {
    /// The uncovered range around a spot; `None` if the spot is covered, or no part of the cut.
    fn gap(&self, spot: Spot) -> Option<HashRange> {
        let Spot { state, key_group, hash } = spot;
        let (position, at) = self.walked?;
        let walking = *self.states.get(position)?;
        // New states get higher ids, so a state above the last one was registered after the cut began. Places before
        // the walk are covered, though `covered` has forgotten them (`step`).
        let is_of_cut = self.states.last().is_some_and(|last| state <= *last);
        if !is_of_cut || (state, key_group) < (walking, at) {
            return None;
        }
        self.covered.get(&(state, key_group)).map_or(Some(HashRange::ALL), |covered| covered.gap(hash))
    }

    /// Covers the range around a spot whose gap is `gap`: by the kept piece if it has not changed since, or else by
    /// copying a slice. `copied` may have the copy already.
    fn cover(
        &mut self,
        backend: &dyn PieceSnapshots,
        spot: Spot,
        gap: HashRange,
        copied: &mut Option<CutPiece>,
    ) -> Result<(), StateError> {
        let Spot { state, key_group, hash } = spot;
        // A kept piece that reaches beyond the gap would bring hashes that another piece of this cut has already. Each
        // hash is in one piece.
        let within = |range: HashRange| gap.first <= range.first && range.last <= gap.last;
        let kept = (self.kept)(state, key_group, hash).filter(|(range, _)| within(*range));
        let kept = kept.map(|(range, sqn)| (range, sqn, backend.changed(state, key_group, range)));
        // The kept piece has every change below its stamp. A change at or above the stamp may have come after the piece
        // was made.
        if let Some((hashes, _, changed)) = kept.filter(|(_, sqn, changed)| changed < sqn) {
            self.push(CutPiece { state, key_group, hashes, changed, contents: CutContents::Kept });
            return Ok(());
        }
        let slice = backend.slice(state, key_group, hash);
        // Slices are split and merged while the cut is under way, so a slice may reach into a part that is covered
        // already.
        let hashes = HashRange { first: gap.first.max(slice.first), last: gap.last.min(slice.last) };
        // The copy was made for another cut before the same write. Equal hashes mean equal contents: a write between
        // the two cuts would have made the older one cover the slice, and its gap would be smaller.
        let is_same = |piece: &&CutPiece| (piece.state, piece.key_group, piece.hashes) == (state, key_group, hashes);
        let piece = match copied.as_ref().filter(is_same) {
            Some(piece) => piece.clone(),
            None => copied.insert(copy(backend, state, key_group, hashes)?).clone(),
        };
        self.push(piece);
        Ok(())
    }

    fn push(&mut self, piece: CutPiece) {
        self.covered.entry((piece.state, piece.key_group)).or_default().insert(piece.hashes);
        self.held_bytes += piece.contents.bytes();
        self.pieces.push_back(piece);
    }

    /// Goes on to the next place.
    fn step(&mut self) {
        let Some((position, at)) = self.walked else { return };
        // The coverage of a place behind the walk is not needed: `gap` refuses the place by its order. So memory is
        // bounded by the places that writes touch ahead of the walk.
        if let Some(state) = self.states.get(position) {
            self.covered.remove(&(*state, at));
        }
        let next = (at < self.key_groups.last()).then(|| (position, KeyGroup(at.0 + 1)));
        let after = (position + 1 < self.states.len()).then(|| (position + 1, self.key_groups.first()));
        self.walked = next.or(after);
    }
}

/// Copies hashes of one slice.
fn copy(
    backend: &dyn PieceSnapshots,
    state: StateId,
    key_group: KeyGroup,
    hashes: HashRange,
) -> Result<CutPiece, StateError> {
    let mut contents = PieceBuilder::default();
    let changed = backend.changed(state, key_group, hashes);
    backend.copy_piece(state, key_group, hashes.first, &mut |change| {
        // The backend copies to the end of its slice, which may be behind `hashes`. Without an upper end no hash is
        // computed.
        if hashes.last == u64::MAX || stable_hash(change.at.key, change.at.namespace) <= hashes.last {
            contents.push(change);
        }
    })?;
    Ok(CutPiece { state, key_group, hashes, changed, contents: CutContents::Copied(contents.finish()) })
}

/// The cuts of one backend that are under way.
#[derive(Default)]
pub struct Cuts {
    /// In the order in which they began.
    running: Vec<Cut>,
}

impl Cuts {
    /// Begins a cut of everything that exists now: `states` of `key_groups`, in ascending order. The caller chooses the
    /// number.
    pub fn begin(&mut self, number: u64, states: Vec<StateId>, key_groups: KeyGroupRange, kept: Kept) {
        debug_assert!(states.is_sorted() && self.running.iter().all(|cut| cut.number != number));
        let walked = (!states.is_empty()).then_some((0, key_groups.first()));
        let (covered, pieces) = (BTreeMap::new(), VecDeque::new());
        self.running.push(Cut { number, kept, states, key_groups, walked, covered, pieces, held_bytes: 0 });
    }

    /// Ends a cut and frees its copies. An unknown number has no effect.
    pub fn end(&mut self, number: u64) {
        self.running.retain(|cut| cut.number != number);
    }

    /// Sets the pieces that a cut need not copy.
    pub fn keep(&mut self, number: u64, kept: Kept) {
        if let Some(cut) = self.find(number) {
            cut.kept = kept;
        }
    }

    /// Whether no cut is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Bytes of copies that were not yet taken.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.running.iter().map(|cut| cut.held_bytes).sum()
    }

    /// Has to be called before anything at `at` changes.
    ///
    /// # Errors
    /// As [`PieceSnapshots::copy_piece`].
    pub fn before(&mut self, backend: &dyn PieceSnapshots, at: Address<'_>) -> Result<(), StateError> {
        let hash = stable_hash(at.key, at.namespace);
        let spot = Spot { state: at.state, key_group: at.key_group, hash };
        // Ordering: every cut is covered before the caller changes anything, so each gets the contents at its moment.
        // Cuts that need the same hashes share one copy.
        let mut copied = None;
        for cut in &mut self.running {
            if let Some(gap) = cut.gap(spot) {
                cut.cover(backend, spot, gap, &mut copied)?;
            }
        }
        Ok(())
    }

    /// The next piece of a cut: one that a write made it copy, or else the next of the walk. Each part is returned
    /// once; `None` when all parts were.
    ///
    /// # Errors
    /// As [`PieceSnapshots::copy_piece`].
    pub fn next(&mut self, backend: &dyn PieceSnapshots, number: u64) -> Result<Option<CutPiece>, StateError> {
        let Some(cut) = self.find(number) else { return Ok(None) };
        loop {
            // Ordering: copies that writes have caused go first. They hold memory until they are taken, while the walk
            // holds none.
            if let Some(piece) = cut.pieces.pop_front() {
                cut.held_bytes -= piece.contents.bytes();
                return Ok(Some(piece));
            }
            let Some((position, key_group)) = cut.walked else { return Ok(None) };
            let state = *cut.states.get(position).expect("the walk is at a state");
            let lowest = cut.covered.get(&(state, key_group)).map_or(Some(0), Coverage::lowest_gap);
            let spot = lowest.map(|hash| Spot { state, key_group, hash });
            match spot.and_then(|spot| Some((spot, cut.gap(spot)?))) {
                Some((spot, gap)) => cut.cover(backend, spot, gap, &mut None)?,
                // There is a gap at the lowest uncovered hash of the place of the walk. So `None` means that all of the
                // place is covered.
                None => cut.step(),
            }
        }
    }

    fn find(&mut self, number: u64) -> Option<&mut Cut> {
        self.running.iter_mut().find(|cut| cut.number == number)
    }
}

impl fmt::Debug for Cuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.running.iter().map(|cut| cut.number)).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        state::{Action, Change, StateBackend, hashmap::HashMapBackend, snapshot::changes},
        types::{StateDescriptor, StateKind},
    };

    #[test]
    fn coverage_joins_neighbours_and_knows_its_gaps() {
        let range = |first, last| HashRange { first, last };
        let mut covered = Coverage::default();
        assert_eq!((covered.gap(7), covered.lowest_gap()), (Some(HashRange::ALL), Some(0)));
        covered.insert(range(10, 19));
        assert_eq!((covered.gap(9), covered.gap(10), covered.gap(19)), (Some(range(0, 9)), None, None));
        assert_eq!(covered.gap(20), Some(range(20, u64::MAX)));
        covered.insert(range(30, u64::MAX));
        assert_eq!((covered.gap(25), covered.gap(u64::MAX)), (Some(range(20, 29)), None));
        covered.insert(range(0, 9));
        assert_eq!(covered.lowest_gap(), Some(20));
        covered.insert(range(20, 29));
        assert_eq!((covered.lowest_gap(), covered.0.len()), (None, 1));
    }

    type Model = BTreeMap<(u32, u16, Vec<u8>), Vec<u8>>;

    /// State, key group and first hash of pieces.
    type Seen = BTreeSet<(u32, u16, u64)>;

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % n
        }
    }

    /// Adds the contents of a piece to those of earlier pieces; asserts that its hashes are covered once.
    fn collect(piece: &CutPiece, into: &mut Model, seen: &mut Seen) {
        assert!(seen.insert((piece.state.0, piece.key_group.0, piece.hashes.first)), "{piece:?} came twice");
        let CutContents::Copied(contents) = &piece.contents else { panic!("nothing is kept") };
        for change in contents.iter().flat_map(|contents| changes(piece.key_group, &contents.bytes)) {
            let change = change.unwrap();
            assert!(piece.hashes.contains(stable_hash(change.at.key, change.at.namespace)));
            let Action::Put(value) = change.action else { panic!("a value is put") };
            into.insert((piece.state.0, piece.key_group.0, change.at.key.to_vec()), value.to_vec());
        }
    }

    #[test]
    fn every_cut_is_what_was_there_when_it_began_whatever_is_written_meanwhile() {
        for seed in 0..6 {
            let mut random = Random(seed);
            let mut backend = HashMapBackend::new(KeyGroupRange::new(3, 5).unwrap());
            let descriptor = StateDescriptor::new("s", StateKind::Value);
            backend.register(StateId(1), &descriptor);
            backend.register(StateId(4), &descriptor);
            let mut model = Model::new();
            let mut running: Vec<(u64, Model, Model, Seen)> = vec![];
            let (mut number, mut done) = (0, 0);
            // Growing, so that slices split, then shrinking, so that they merge.
            for step in 0..60_000_u64 {
                let state = if random.below(9) == 0 { 4 } else { 1 };
                let group = KeyGroup(3 + u16::try_from(random.below(3)).unwrap());
                let key = random.below(12_000).to_be_bytes().to_vec();
                let at = Address { state: StateId(state), key_group: group, key: &key, namespace: b"" };
                backend.set_stamp(step + 1);
                let value = step.to_le_bytes();
                let clears = if step < 30_000 { 10 } else { 70 };
                if random.below(100) < clears {
                    backend.apply(&Change { at, action: Action::Clear }).unwrap();
                    model.remove(&(state, group.0, key));
                } else {
                    backend.apply(&Change { at, action: Action::Put(&value) }).unwrap();
                    model.insert((state, group.0, key), value.to_vec());
                }
                if step % 4_000 == 999 {
                    number += 1;
                    backend.pieces_mut().unwrap().begin_cut(number, Arc::new(|_, _, _| None));
                    running.push((number, model.clone(), Model::new(), BTreeSet::new()));
                }
                let Some(at) = (!running.is_empty()).then(|| random.below(running.len() as u64)) else { continue };
                if random.below(60) > 0 {
                    continue;
                }
                let (number, expected, found, seen) = &mut running[usize::try_from(at).unwrap()];
                if let Some(piece) = backend.pieces_mut().unwrap().next_of_cut(*number).unwrap() {
                    collect(&piece, found, seen);
                } else {
                    assert_eq!(found, expected, "seed {seed}, cut {number}");
                    backend.pieces_mut().unwrap().end_cut(*number);
                    running.swap_remove(usize::try_from(at).unwrap());
                    done += 1;
                }
            }
            for (number, expected, mut found, mut seen) in running {
                while let Some(piece) = backend.pieces_mut().unwrap().next_of_cut(number).unwrap() {
                    collect(&piece, &mut found, &mut seen);
                }
                assert_eq!(found, expected, "seed {seed}, cut {number} at the end");
                backend.pieces_mut().unwrap().end_cut(number);
            }
            assert!(done > 0, "some end amid the writes");
            assert_eq!(backend.pieces().unwrap().held_bytes(), 0);
        }
    }

    #[test]
    fn a_slice_is_copied_before_its_first_write_alone_and_not_if_it_is_kept() {
        let mut backend = HashMapBackend::new(KeyGroupRange::new(0, 0).unwrap());
        backend.register(StateId(1), &StateDescriptor::new("s", StateKind::Value));
        let put = |backend: &mut HashMapBackend, stamp: u64| {
            let at = Address { state: StateId(1), key_group: KeyGroup(0), key: b"key", namespace: b"" };
            backend.set_stamp(stamp);
            backend.apply(&Change { at, action: Action::Put(&stamp.to_le_bytes()) }).unwrap();
        };
        put(&mut backend, 5);
        backend.pieces_mut().unwrap().begin_cut(1, Arc::new(|_, _, _| Some((HashRange::ALL, 5))));
        backend.pieces_mut().unwrap().begin_cut(2, Arc::new(|_, _, _| Some((HashRange::ALL, 6))));
        assert_eq!(backend.pieces().unwrap().held_bytes(), 0);
        put(&mut backend, 6);
        let held = backend.pieces().unwrap().held_bytes();
        assert!(held > 0, "the first cut's piece has changes below 5 only, the second's has this one");
        put(&mut backend, 7);
        assert_eq!(backend.pieces().unwrap().held_bytes(), held);
        let pieces = backend.pieces_mut().unwrap();
        assert_eq!(pieces.next_of_cut(2).unwrap().unwrap().contents, CutContents::Kept);
        assert!(matches!(pieces.next_of_cut(1).unwrap().unwrap().contents, CutContents::Copied(Some(_))));
        assert_eq!((pieces.next_of_cut(1).unwrap(), pieces.next_of_cut(2).unwrap()), (None, None));
        pieces.end_cut(1);
        pieces.end_cut(2);
        assert_eq!(pieces.held_bytes(), 0);
    }
}

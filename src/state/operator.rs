//! Operator state, which belongs to a subtask rather than to a key.
//!
//! ```text
//!   WithOperatorState ─┬─ key group 0, 1, …     ─▶ keyed: any inner backend
//!                      └─ KeyGroup::OPERATOR    ─▶ operator: a hash map in memory, whatever the other is
//! ```
//!
//! A state with a [`Redistribution`] has one cell: the empty key in the void namespace of [`KeyGroup::OPERATOR`]. So
//! its changes and pieces are like those of any state, in a key group that keyed state cannot have.
//!
//! # Redistribution
//!
//! [`share`] distributes the contents of the subtasks of one parallelism over those of another. It is a function of all
//! old contents, so each subtask computes its own share alone, and the same share again after a crash. Nothing is lost
//! or duplicated:
//!
//! ```text
//!   had:     0: a b c     1: d     2: e f                  3 subtasks
//!   split    0: a b c     1: d e f                         2 subtasks; the first `total mod p` get one more
//!   union    0: a b c d e f   1: a b c d e f               also with the same parallelism
//!   broadcast: subtask i the copy of i mod 3
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    Address, Change, Counting, HashRange, ImageSnapshots, MapKeys, PageLimit, PieceSnapshots, StateBackend, StateError,
    TimerRef,
    cut::{CutPiece, Kept},
    hashmap::HashMapBackend,
};
use crate::types::{KeyGroup, KeyGroupRange, Redistribution, StateDescriptor, StateId, StateKind, TimeMs, Ttl};

/// An inner backend of keyed state, and beside it operator state in memory.
pub struct WithOperatorState {
    keyed: Box<dyn StateBackend>,
    operator: HashMapBackend,
    /// The states that are operator state.
    states: BTreeSet<StateId>,
}

/// A subtask that takes over operator state from subtasks of another parallelism, or of the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Successor {
    /// The number of the subtask.
    pub subtask: u32,
    /// The parallelism of its operator, above `subtask`.
    pub parallelism: u32,
}

/// The whole contents of one subtask's operator state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// The list elements, in order.
    Elements(Vec<Bytes>),
    /// The map entries, in order of their keys.
    Entries(Vec<(Bytes, Bytes)>),
}

/// The address of the one cell of an operator state.
#[must_use]
pub fn address(state: StateId) -> Address<'static> {
    Address { state, key_group: KeyGroup::OPERATOR, key: &[], namespace: &[] }
}

/// The key groups in which a state lies, in a backend with the key groups `keyed`.
#[must_use]
pub fn key_groups_of(descriptor: &StateDescriptor, keyed: KeyGroupRange) -> KeyGroupRange {
    if descriptor.redistribution.is_some() { KeyGroupRange::OPERATOR } else { keyed }
}

/// The whole contents of an operator state in `backend`.
///
/// # Errors
/// The error of the backend; [`StateError::Mismatch`] for a value state.
pub fn contents(backend: &dyn StateBackend, state: StateId, kind: StateKind) -> Result<Contents, StateError> {
    let all = PageLimit { entries: usize::MAX, bytes: usize::MAX };
    match kind {
        StateKind::List => {
            let mut elements = vec![];
            let mut read = |element: &[u8]| elements.push(Bytes::copy_from_slice(element));
            backend.list_page(address(state), 0, all, &mut read)?;
            Ok(Contents::Elements(elements))
        }
        StateKind::Map => {
            let mut entries = vec![];
            let mut read = |key: &[u8], value: &[u8]| {
                entries.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            };
            backend.map_page(address(state), MapKeys::default(), all, &mut read)?;
            Ok(Contents::Entries(entries))
        }
        StateKind::Value | StateKind::Timer => {
            Err(StateError::Mismatch { state, what: "operator state is a list or a map" })
        }
    }
}

/// The subtasks, among `old`, whose state is needed to compute the share of `to`.
#[must_use]
pub fn sources(redistribution: Redistribution, old: u32, to: Successor) -> Vec<u32> {
    match redistribution {
        Redistribution::Union => (0..old).collect(),
        Redistribution::Split if old != to.parallelism => (0..old).collect(),
        // With the same parallelism each subtask keeps its own elements, and any copy of a map will do. If there were
        // no old subtasks, the one named here has nothing.
        Redistribution::Split | Redistribution::Broadcast => vec![to.subtask.checked_rem(old).unwrap_or(0)],
    }
}

/// The share of `to` in a state of which the `old` subtasks had `had`. Subtasks without contents
/// may be missing, and so may those that are not [`sources`] of the share. Pure.
#[must_use]
pub fn share(redistribution: Redistribution, had: &BTreeMap<u32, Contents>, old: u32, to: Successor) -> Contents {
    let from = sources(redistribution, old, to);
    // Subtasks are visited in ascending order, so every subtask that computes shares sees the same order of elements.
    let mut found = from.iter().filter_map(|source| had.get(source));
    if redistribution == Redistribution::Broadcast {
        return found.next().cloned().unwrap_or(Contents::Entries(vec![]));
    }
    let elements = |contents: &Contents| match contents {
        Contents::Elements(elements) => elements.clone(),
        Contents::Entries(_) => vec![],
    };
    let mut all: Vec<Bytes> = found.flat_map(elements).collect();
    if redistribution == Redistribution::Split && old != to.parallelism {
        let (subtask, new) = (to.subtask as usize, to.parallelism as usize);
        // `new` is above 0, since a subtask of it asks. The first `more` subtasks get one element more.
        let (each, more) = (all.len() / new, all.len() % new);
        let begin = |subtask: usize| subtask * each + subtask.min(more);
        all = all.drain(begin(subtask)..begin(subtask + 1)).collect();
    }
    Contents::Elements(all)
}

impl Contents {
    /// Whether there is no element or entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Elements(elements) => elements.is_empty(),
            Self::Entries(entries) => entries.is_empty(),
        }
    }
}

impl WithOperatorState {
    /// Puts empty operator state beside `keyed`, which must not know any states.
    #[must_use]
    pub fn new(keyed: Box<dyn StateBackend>) -> Self {
        Self { keyed, operator: HashMapBackend::new(KeyGroupRange::OPERATOR), states: BTreeSet::new() }
    }

    /// Copies operator state piece by piece, for every kind of keyed backend.
    #[must_use]
    pub fn operator_pieces(&self) -> &dyn PieceSnapshots {
        &self.operator
    }

    /// The target of cuts at exactly one moment: everything, or only operator state if keyed state is copied by images.
    pub fn cuts(&mut self) -> &mut dyn PieceSnapshots {
        if self.keyed.pieces().is_some() { self } else { &mut self.operator }
    }

    #[inline]
    fn of(&self, key_group: KeyGroup) -> &dyn StateBackend {
        if key_group == KeyGroup::OPERATOR { &self.operator } else { &*self.keyed }
    }

    fn pieces_of(&self, key_group: KeyGroup) -> Option<&dyn PieceSnapshots> {
        if key_group == KeyGroup::OPERATOR { Some(&self.operator) } else { self.keyed.pieces() }
    }
}

impl StateBackend for WithOperatorState {
    fn register(&mut self, state: StateId, descriptor: &StateDescriptor) {
        if descriptor.redistribution.is_some() {
            self.states.insert(state);
            self.operator.register(state, descriptor);
        } else {
            self.keyed.register(state, descriptor);
        }
    }

    #[inline]
    fn apply(&mut self, change: &Change<'_>) -> Result<(), StateError> {
        if change.at.key_group == KeyGroup::OPERATOR { self.operator.apply(change) } else { self.keyed.apply(change) }
    }

    #[inline]
    fn value(&self, at: Address<'_>, read: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), StateError> {
        self.of(at.key_group).value(at, read)
    }

    #[inline]
    fn map_value(
        &self,
        at: Address<'_>,
        map_key: &[u8],
        read: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<(), StateError> {
        self.of(at.key_group).map_value(at, map_key, read)
    }

    fn map_page(
        &self,
        at: Address<'_>,
        keys: MapKeys<'_>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, StateError> {
        self.of(at.key_group).map_page(at, keys, limit, read)
    }

    fn list_page(
        &self,
        at: Address<'_>,
        from: u64,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StateError> {
        self.of(at.key_group).list_page(at, from, limit, read)
    }

    #[inline]
    fn timer(&self, at: Address<'_>, time: i64) -> Result<bool, StateError> {
        self.of(at.key_group).timer(at, time)
    }

    /// Timers are always keyed.
    fn timer_page(
        &self,
        state: StateId,
        after: Option<TimerRef<'_>>,
        up_to: i64,
        limit: PageLimit,
        read: &mut dyn FnMut(TimerRef<'_>),
    ) -> Result<bool, StateError> {
        self.keyed.timer_page(state, after, up_to, limit, read)
    }

    fn timer_count(&self, state: StateId) -> Result<u64, StateError> {
        self.keyed.timer_count(state)
    }

    fn len(&self, at: Address<'_>) -> Result<u64, StateError> {
        self.of(at.key_group).len(at)
    }

    fn has_entries(&self, at: Address<'_>, kind: StateKind) -> Result<bool, StateError> {
        self.of(at.key_group).has_entries(at, kind)
    }

    fn name_page(
        &self,
        state: StateId,
        key_group: KeyGroup,
        after: Option<(&[u8], &[u8])>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, StateError> {
        self.of(key_group).name_page(state, key_group, after, limit, read)
    }

    /// Operator state has only one name, so any rank will do.
    fn name_rank(&self, key: &[u8], namespace: &[u8], rank: &mut Vec<u8>) {
        self.keyed.name_rank(key, namespace, rank);
    }

    fn counting(&self) -> Counting {
        let (keyed, operator) = (self.keyed.counting(), self.operator.counting());
        Box::new(move |go_on| {
            let mut counts = keyed(go_on)?;
            // Operator state is counted from memory, too fast to ask whether to go on.
            counts.entries.extend(operator(&mut || true)?.entries);
            Ok(counts)
        })
    }

    fn bytes(&self) -> u64 {
        self.keyed.bytes() + self.operator.bytes()
    }

    fn memory_bytes(&self) -> u64 {
        self.keyed.memory_bytes() + self.operator.memory_bytes()
    }

    fn set_stamp(&mut self, stamp: u64) {
        self.keyed.set_stamp(stamp);
        self.operator.set_stamp(stamp);
    }

    fn set_time(&mut self, time: TimeMs) {
        self.keyed.set_time(time);
        self.operator.set_time(time);
    }

    fn set_ttl(&mut self, state: StateId, ttl: Ttl) {
        if self.states.contains(&state) {
            self.operator.set_ttl(state, ttl);
        } else {
            self.keyed.set_ttl(state, ttl);
        }
    }

    fn may_block(&self) -> bool {
        self.keyed.may_block()
    }

    /// Keyed and operator state, if both are copied by pieces.
    fn pieces(&self) -> Option<&dyn PieceSnapshots> {
        self.keyed.pieces().map(|_| self as &dyn PieceSnapshots)
    }

    /// The same; for operator state alone use [`cuts`](Self::cuts).
    fn pieces_mut(&mut self) -> Option<&mut dyn PieceSnapshots> {
        if self.keyed.pieces().is_some() { Some(self) } else { None }
    }

    /// Keyed state only; for operator state see [`operator_pieces`](Self::operator_pieces).
    fn images(&mut self) -> Option<&mut dyn ImageSnapshots> {
        self.keyed.images()
    }

    /// Places of operator state are left out: they do not fit there, and are so few that they stay in the caches.
    fn warm(&self, places: &mut dyn Iterator<Item = Address<'_>>) {
        self.keyed.warm(places);
    }

    fn finish_batch(&mut self) -> Result<(), StateError> {
        self.keyed.finish_batch()?;
        self.operator.finish_batch()
    }
}

impl PieceSnapshots for WithOperatorState {
    fn copy_piece(
        &self,
        state: StateId,
        key_group: KeyGroup,
        from: u64,
        copy: &mut dyn FnMut(&Change<'_>),
    ) -> Result<u64, StateError> {
        let pieces = self.pieces_of(key_group);
        let pieces = pieces.ok_or(StateError::Mismatch { state, what: "the backend is not copied by pieces" })?;
        pieces.copy_piece(state, key_group, from, copy)
    }

    fn changed(&self, state: StateId, key_group: KeyGroup, range: HashRange) -> u64 {
        self.pieces_of(key_group).map_or(0, |pieces| pieces.changed(state, key_group, range))
    }

    fn slice(&self, state: StateId, key_group: KeyGroup, hash: u64) -> HashRange {
        self.pieces_of(key_group).map_or(HashRange::ALL, |pieces| pieces.slice(state, key_group, hash))
    }

    fn begin_cut(&mut self, number: u64, kept: Kept) {
        // No change comes between the two calls, so both cuts are of one moment.
        if let Some(keyed) = self.keyed.pieces_mut() {
            keyed.begin_cut(number, kept.clone());
        }
        self.operator.begin_cut(number, kept);
    }

    fn keep(&mut self, number: u64, kept: Kept) {
        if let Some(keyed) = self.keyed.pieces_mut() {
            keyed.keep(number, kept.clone());
        }
        self.operator.keep(number, kept);
    }

    fn next_of_cut(&mut self, number: u64) -> Result<Option<CutPiece>, StateError> {
        if let Some(keyed) = self.keyed.pieces_mut()
            && let Some(piece) = keyed.next_of_cut(number)?
        {
            return Ok(Some(piece));
        }
        self.operator.next_of_cut(number)
    }

    fn end_cut(&mut self, number: u64) {
        if let Some(keyed) = self.keyed.pieces_mut() {
            keyed.end_cut(number);
        }
        self.operator.end_cut(number);
    }

    fn held_bytes(&self) -> u64 {
        self.keyed.pieces().map_or(0, PieceSnapshots::held_bytes) + self.operator.held_bytes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::conformance;

    fn elements(of: &[&str]) -> Contents {
        Contents::Elements(of.iter().map(|element| Bytes::copy_from_slice(element.as_bytes())).collect())
    }

    #[test]
    fn keyed_state_conforms_beside_operator_state() {
        conformance::all(&|range| Box::new(WithOperatorState::new(Box::new(HashMapBackend::new(range)))));
    }

    #[test]
    fn a_backend_of_operator_state_alone_keeps_one_cell_under_the_empty_key() {
        let mut backend = WithOperatorState::new(Box::new(HashMapBackend::new(KeyGroupRange::new(0, 7).unwrap())));
        let descriptor = StateDescriptor {
            redistribution: Some(Redistribution::Split),
            ..StateDescriptor::new("buffer", StateKind::List)
        };
        backend.register(StateId(1), &StateDescriptor::new("keyed", StateKind::Value));
        backend.register(StateId(2), &descriptor);
        backend.set_stamp(5);
        let put = |index, element| Change {
            at: address(StateId(2)),
            action: crate::state::Action::ListPut { index, element },
        };
        backend.apply(&put(0, b"a")).unwrap();
        backend.apply(&put(1, b"")).unwrap();
        let keyed = Address { state: StateId(1), key_group: KeyGroup(3), key: b"k", namespace: b"" };
        backend.apply(&Change { at: keyed, action: crate::state::Action::Put(b"v") }).unwrap();
        assert_eq!(contents(&backend, StateId(2), StateKind::List).unwrap(), elements(&["a", ""]));
        assert_eq!([1, 2].map(|id| backend.entries(StateId(id)).unwrap()), [1, 2]);
        assert_eq!(backend.operator_pieces().changed(StateId(2), KeyGroup::OPERATOR, HashRange::ALL), 5);
        assert!(backend.bytes() > backend.keyed.bytes());
        let mixed = Address { state: StateId(2), key_group: KeyGroup(3), key: b"k", namespace: b"" };
        assert!(backend.len(mixed).is_err() && backend.value(address(StateId(1)), &mut |_| ()).is_err());
        let mut copied = 0;
        let last = backend.pieces().unwrap().copy_piece(StateId(2), KeyGroup::OPERATOR, 0, &mut |change| {
            assert_eq!(change.at, address(StateId(2)));
            copied += 1;
        });
        assert_eq!((last.unwrap(), copied), (u64::MAX, 2));
    }

    #[test]
    fn a_cut_has_operator_state_as_it_was_when_it_began_whatever_is_written_meanwhile() {
        let mut backend = WithOperatorState::new(Box::new(HashMapBackend::new(KeyGroupRange::new(0, 1).unwrap())));
        let operator = StateDescriptor {
            redistribution: Some(Redistribution::Union),
            ..StateDescriptor::new("offsets", StateKind::List)
        };
        backend.register(StateId(1), &StateDescriptor::new("keyed", StateKind::Value));
        backend.register(StateId(2), &operator);
        let put = |index, element| Change {
            at: address(StateId(2)),
            action: crate::state::Action::ListPut { index, element },
        };
        backend.set_stamp(5);
        backend.apply(&put(0, b"before")).unwrap();
        backend.cuts().begin_cut(1, std::sync::Arc::new(|_, _, _| None));
        backend.set_stamp(6);
        backend.apply(&put(1, b"after")).unwrap();
        assert!(backend.pieces().unwrap().held_bytes() > 0);
        let mut restored = HashMapBackend::new(KeyGroupRange::OPERATOR);
        restored.register(StateId(2), &operator);
        let mut places = vec![];
        while let Some(piece) = backend.cuts().next_of_cut(1).unwrap() {
            places.push((piece.state, piece.key_group, piece.hashes));
            let crate::state::cut::CutContents::Copied(contents) = piece.contents else { panic!("nothing is kept") };
            for change in contents.iter().flat_map(|of| crate::state::snapshot::changes(piece.key_group, &of.bytes)) {
                restored.apply(&change.unwrap()).unwrap();
            }
        }
        let at = |state, group| (StateId(state), group, HashRange::ALL);
        assert_eq!(places, [at(1, KeyGroup(0)), at(1, KeyGroup(1)), at(2, KeyGroup::OPERATOR)]);
        assert_eq!(contents(&restored, StateId(2), StateKind::List).unwrap(), elements(&["before"]));
        backend.cuts().end_cut(1);
        assert_eq!((backend.cuts().held_bytes(), backend.cuts().next_of_cut(1).unwrap()), (0, None));
    }

    #[test]
    fn the_examples_of_the_front_page_hold() {
        let had = BTreeMap::from([(0, elements(&["a", "b", "c"])), (1, elements(&["d"])), (2, elements(&["e", "f"]))]);
        let split = |subtask, parallelism| share(Redistribution::Split, &had, 3, Successor { subtask, parallelism });
        assert_eq!([split(0, 2), split(1, 2)], [elements(&["a", "b", "c"]), elements(&["d", "e", "f"])]);
        let four = [0, 1, 2, 3].map(|subtask| split(subtask, 4));
        assert_eq!(four, [elements(&["a", "b"]), elements(&["c", "d"]), elements(&["e"]), elements(&["f"])]);
        assert_eq!([split(1, 3), split(2, 3)], [elements(&["d"]), elements(&["e", "f"])], "each keeps its own");
        let all = elements(&["a", "b", "c", "d", "e", "f"]);
        let union = |parallelism| share(Redistribution::Union, &had, 3, Successor { subtask: 1, parallelism });
        assert_eq!([3, 5].map(union), [all.clone(), all]);
        let copy = |n: u8| Contents::Entries(vec![(Bytes::from(vec![n]), Bytes::new())]);
        let copies = (0..3_u8).map(|n| (n.into(), copy(n))).collect();
        let broadcast = |subtask| share(Redistribution::Broadcast, &copies, 3, Successor { subtask, parallelism: 5 });
        assert_eq!([broadcast(2), broadcast(3), broadcast(4)], [copy(2), copy(0), copy(1)]);
    }

    proptest! {
        #[test]
        fn a_split_gives_each_element_to_one_subtask_in_order_and_evenly(
            had in prop::collection::vec(prop::collection::vec(any::<u16>(), 0..9), 1..6), new in 1..7_u32,
        ) {
            let old = u32::try_from(had.len()).unwrap();
            let bytes = |of: &[u16]| of.iter().map(|n| Bytes::copy_from_slice(&n.to_be_bytes())).collect::<Vec<_>>();
            let before = (0..).zip(&had).map(|(n, of)| (n, Contents::Elements(bytes(of)))).collect();
            let mut all = vec![];
            let mut lengths = vec![];
            for subtask in 0..new {
                let to = Successor { subtask, parallelism: new };
                let Contents::Elements(got) = share(Redistribution::Split, &before, old, to) else {
                    panic!("a list stays one")
                };
                lengths.push(got.len());
                all.extend(got);
            }
            prop_assert_eq!(all, bytes(&had.concat()));
            if old != new {
                prop_assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1);
                prop_assert!(lengths.is_sorted_by(|a, b| a >= b));
            }
        }
    }
}

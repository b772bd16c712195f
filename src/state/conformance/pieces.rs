//! Checks of copies and stamps.

use super::{Bench, Factory, bench::*};
use crate::{
    state::{Action, Address, Change, HashRange, PieceSnapshots, StateBackend, StateError, op::Op, stable_hash},
    types::{KeyGroup, StateId},
};

/// A copied piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) state: StateId,
    pub(super) key_group: KeyGroup,
    pub(super) range: HashRange,
    /// The changes that rebuild it, encoded.
    pub(super) changes: Vec<Vec<u8>>,
}

impl Piece {
    /// Copies the piece that begins at `from`.
    pub(super) fn copy(backend: &dyn PieceSnapshots, state: StateId, key_group: KeyGroup, from: u64) -> Self {
        let mut changes = Vec::new();
        let mut copy = |change: &Change<'_>| {
            let mut bytes = Vec::new();
            change.encode(&mut bytes);
            changes.push(bytes);
        };
        let last = backend.copy_piece(state, key_group, from, &mut copy).unwrap();
        let piece = Self { state, key_group, range: HashRange { first: from, last }, changes };
        assert!(last >= from, "{:?} goes back", piece.range);
        for change in piece.changes() {
            let place = (change.at.state, change.at.key_group);
            assert_eq!(place, (state, key_group), "what is copied lies where it was asked for");
            assert!(piece.range.contains(hash(change.at)), "{:?} holds {change:?}", piece.range);
        }
        piece
    }

    /// Copies every piece of a (state, key group) from the hash `from` on.
    pub(super) fn copy_from(backend: &dyn PieceSnapshots, state: StateId, key_group: KeyGroup, from: u64) -> Vec<Self> {
        let mut pieces = vec![Self::copy(backend, state, key_group, from)];
        while let Some(from) = pieces.last().and_then(|piece| piece.range.last.checked_add(1)) {
            pieces.push(Self::copy(backend, state, key_group, from));
        }
        pieces
    }

    /// The changes of the piece.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        self.changes.iter().map(|bytes| Change::decode(self.key_group, bytes).unwrap())
    }

    /// Applies the changes of the piece to `backend`.
    pub(super) fn load(&self, backend: &mut dyn StateBackend) {
        for change in self.changes() {
            backend.apply(&change).unwrap();
        }
    }
}

/// The stable hash of a place.
pub(super) fn hash(at: Address<'_>) -> u64 {
    stable_hash(at.key, at.namespace)
}

/// A few entries of every kind, in void and other namespaces.
fn fill(bench: &mut Bench) -> Vec<Address<'static>> {
    let mut places = Vec::new();
    for key in ["a", "key", "another key"] {
        for namespace in ["", "ns", "key"] {
            bench.run(at_namespace(VALUE, key, namespace), Op::Put(key.as_bytes()));
            bench.run(at_namespace(SUM, key, namespace), Op::Merge(&1_i64.to_le_bytes()));
            bench.run(at_namespace(LIST, key, namespace), Op::ListAddAll(&elements(&["b", "", "a"])));
            for map_key in ["m", "", "l"] {
                let put = Op::MapPut { map_key: map_key.as_bytes(), value: namespace.as_bytes() };
                bench.run(at_namespace(MAP, key, namespace), put);
            }
            for time in [7, -7, i64::MAX] {
                bench.run(at_namespace(TIMER, key, namespace), Op::TimerRegister { time });
            }
            places.extend([VALUE, OTHER_VALUE, SUM, LIST, MAP, TIMER].map(|state| at_namespace(state, key, namespace)));
        }
    }
    bench.run(at(VALUE, "empty"), Op::Put(b""));
    places.push(at(VALUE, "empty"));
    places
}

pub(super) fn pieces_rebuild_every_kind(factory: Factory<'_>) {
    let (mut bench, mut rebuilt) = (Bench::new(factory), Bench::new(factory));
    let places = fill(&mut bench);
    for state in bench.states() {
        for key_group in range().iter() {
            for piece in Piece::copy_from(bench.pieces(), state, key_group, 0) {
                piece.load(&mut *rebuilt.backend);
            }
        }
    }
    rebuilt.backend.finish_batch().unwrap();
    bench.assert_equals(&mut rebuilt, &places);
}

pub(super) fn pieces_start_where_they_are_told(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let places = fill(&mut bench);
    for &start in places.iter().filter(|place| place.state == LIST) {
        let copied_from = |from| -> Vec<(Vec<u8>, Vec<u8>)> {
            let pieces = Piece::copy_from(bench.pieces(), start.state, start.key_group, from);
            let cells = pieces.iter().flat_map(Piece::changes);
            let mut cells: Vec<_> =
                cells.map(|change| (change.at.key.to_vec(), change.at.namespace.to_vec())).collect();
            cells.sort();
            cells
        };
        let expected_from = |from| -> Vec<(Vec<u8>, Vec<u8>)> {
            let here = |place: &&Address<'_>| (place.state, place.key_group) == (start.state, start.key_group);
            let cells = places.iter().filter(here).filter(|place| hash(**place) >= from);
            let mut cells: Vec<_> =
                cells.flat_map(|place| vec![(place.key.to_vec(), place.namespace.to_vec()); 3]).collect();
            cells.sort();
            cells
        };
        for from in [0, hash(start), hash(start) + 1, u64::MAX] {
            assert_eq!(copied_from(from), expected_from(from), "from {from}");
        }
    }
}

pub(super) fn nothing_is_copied_of_what_was_never_written(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let assert_untouched = |bench: &Bench, state, key_group| {
        for from in [0, 7, u64::MAX] {
            let piece = Piece::copy(bench.pieces(), state, key_group, from);
            assert_eq!((piece.range.last, piece.changes.len()), (u64::MAX, 0), "{state:?} {key_group:?}");
        }
        assert_eq!(bench.pieces().changed(state, key_group, HashRange::ALL), 0);
    };
    bench.backend.set_stamp(3);
    range().iter().for_each(|key_group| assert_untouched(&bench, VALUE, key_group));
    let written = at(VALUE, "key");
    bench.run(written, Op::Put(b"v"));
    range().iter().filter(|group| *group != written.key_group).for_each(|group| assert_untouched(&bench, VALUE, group));
    assert_untouched(&bench, LIST, written.key_group);
    let foreign = KeyGroup(range().last().0 + 1);
    for (state, key_group) in [(StateId(2), written.key_group), (VALUE, foreign), (OTHER_VALUE, foreign)] {
        let error = bench.pieces().copy_piece(state, key_group, 0, &mut |_| unreachable!("nothing is there"));
        assert!(matches!(error, Err(StateError::Mismatch { state: named, .. }) if named == state), "{error:?}");
        assert_eq!(bench.pieces().changed(state, key_group, HashRange::ALL), 0);
    }
}

pub(super) fn stamps_of_changes_are_found(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let (value, list, map) = (at(VALUE, "key"), at(LIST, "key"), at_namespace(MAP, "key", "ns"));
    let timer = at(TIMER, "key");
    let (map_key, bytes) = (&b"m"[..], &b"v"[..]);
    let changes = [
        (value, Action::Put(bytes)),
        (value, Action::Put(bytes)),
        (value, Action::Append(bytes)),
        (value, Action::Clear),
        (list, Action::ListPut { index: 0, element: bytes }),
        (list, Action::ListPut { index: 1, element: bytes }),
        (list, Action::ListPut { index: 0, element: bytes }),
        (list, Action::Clear),
        (map, Action::MapPut { map_key, value: bytes }),
        (map, Action::MapAppend { map_key, value: bytes }),
        (map, Action::MapPut { map_key: b"n", value: bytes }),
        (map, Action::MapRemove { map_key }),
        (map, Action::MapRemove { map_key: b"n" }),
        (timer, Action::TimerPut { time: 1 }),
        (timer, Action::TimerPut { time: 2 }),
        (timer, Action::TimerRemove { time: 1 }),
        (timer, Action::TimerRemove { time: 2 }),
        (value, Action::Put(bytes)),
    ];
    for (stamp, (at, action)) in (1..).map(|i| i * 1_000_000_000_000).zip(changes) {
        let cell = HashRange { first: hash(at), last: hash(at) };
        assert!(bench.pieces().changed(at.state, at.key_group, HashRange::ALL) < stamp, "before {action:?}");
        bench.backend.set_stamp(stamp);
        assert!(bench.pieces().changed(at.state, at.key_group, HashRange::ALL) < stamp, "a stamp alone is no change");
        bench.backend.apply(&Change { at, action }).unwrap();
        for range in [cell, HashRange { last: u64::MAX, ..cell }, HashRange { first: 0, ..cell }, HashRange::ALL] {
            assert_eq!(bench.pieces().changed(at.state, at.key_group, range), stamp, "after {action:?}");
        }
        bench.backend.finish_batch().unwrap();
        assert_eq!(bench.pieces().changed(at.state, at.key_group, cell), stamp, "after {action:?} and its batch");
    }
    let before = bench.pieces().changed(value.state, value.key_group, HashRange::ALL);
    bench.backend.set_stamp(u64::MAX);
    bench.value(value);
    Piece::copy(bench.pieces(), value.state, value.key_group, 0);
    let after = bench.pieces().changed(value.state, value.key_group, HashRange::ALL);
    assert_eq!(after, before, "reads and copies are no changes");
}

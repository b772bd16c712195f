//! Fuzzy snapshots: random operations go on while the backend is copied piece by piece.

#![allow(clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::{
    Bench, Factory,
    bench::*,
    model,
    pieces::{Piece, hash},
};
use crate::{
    state::{Address, HashRange, op::Op},
    types::{KeyGroup, StateId},
};

/// Number of cells in a block. Two blocks fill more than one slice of the hash map.
const BLOCK_CELLS: u32 = 2000;

/// Number of blocks.
const BLOCKS: u32 = 3;

/// States that blocks are written to, all in the same key group.
const BLOCK_STATES: [StateId; 2] = [VALUE, LIST];

/// Number of random cases; each writes many cells.
const CASES: u32 = 32;

/// An event between two copies.
#[derive(Debug, Clone)]
enum Step {
    /// One operation on one of a few places.
    One(model::Step),
    /// Writes every cell of a block.
    Fill(StateId, u32),
    /// Clears every cell of a block.
    Drain(StateId, u32),
    /// Raises the stamp of later changes.
    Stamp(u64),
    /// Copies this many pieces.
    Copy(usize),
}

impl Step {
    fn any() -> impl Strategy<Value = Self> {
        let block = || (prop::sample::select(&BLOCK_STATES[..]), 0..BLOCKS);
        prop_oneof![
            12 => model::Step::any().prop_map(Self::One),
            3 => block().prop_map(|(state, block)| Self::Fill(state, block)),
            2 => block().prop_map(|(state, block)| Self::Drain(state, block)),
            2 => (1..5_u64).prop_map(Self::Stamp),
            6 => (1..12_usize).prop_map(Self::Copy),
        ]
    }
}

/// A piece, and the lowest stamp of the changes that it does not have.
struct Copied {
    piece: Piece,
    upto: u64,
}

/// A live backend, and a copy of it that is being made: pieces from hash 0 to the end, for one (state, key group) after
/// the other.
struct Run {
    live: Bench,
    stamp: u64,
    /// The stamp of each logged change.
    stamps: Vec<u64>,
    places: Vec<(StateId, KeyGroup)>,
    copied: Vec<Copied>,
    /// The beginning of the next piece: position in `places`, and hash.
    next: (usize, u64),
}

impl Run {
    fn new(factory: Factory<'_>) -> Self {
        let live = Bench::new(factory);
        let places = live.states().flat_map(|state| range().iter().map(move |group| (state, group))).collect();
        Self { live, stamp: 0, stamps: Vec::new(), places, copied: Vec::new(), next: (0, 0) }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::One(step) => _ = self.live.run(step.at(), step.op()),
            Step::Fill(state, block) => self.each_of_block(*state, *block, |bench, at| {
                bench.run(at, if at.state == LIST { Op::ListAdd(b"element") } else { Op::Put(b"value") });
            }),
            Step::Drain(state, block) => self.each_of_block(*state, *block, |bench, at| _ = bench.run(at, Op::Clear)),
            Step::Stamp(by) => self.raise_stamp(*by),
            Step::Copy(pieces) => {
                (0..*pieces).for_each(|_| self.copy());
            }
        }
        self.stamps.resize(self.live.logged(), self.stamp);
    }

    fn each_of_block(&mut self, state: StateId, block: u32, act: impl Fn(&mut Bench, Address<'_>)) {
        for key in block * BLOCK_CELLS..(block + 1) * BLOCK_CELLS {
            let key = key.to_be_bytes();
            act(&mut self.live, Address { state, key_group: range().first(), key: &key, namespace: b"" });
        }
    }

    fn raise_stamp(&mut self, by: u64) {
        self.stamp += by;
        self.live.backend.set_stamp(self.stamp);
    }

    fn copy(&mut self) {
        let (place, from) = self.next;
        let Some(&(state, key_group)) = self.places.get(place) else { return };
        let piece = Piece::copy(self.live.pieces(), state, key_group, from);
        self.next = piece.range.last.checked_add(1).map_or((place + 1, 0), |from| (place, from));
        // Later changes are not in this piece.
        self.raise_stamp(1);
        self.copied.push(Copied { piece, upto: self.stamp });
    }

    fn finish_copying(&mut self) {
        while self.next.0 < self.places.len() {
            self.copy();
        }
    }

    /// Asserts that the pieces, with the changes that they do not have, make an equal backend.
    fn assert_rebuilds(&mut self, factory: Factory<'_>) {
        let mut rebuilt = Bench::new(factory);
        let mut covered: BTreeMap<(StateId, KeyGroup), BTreeMap<u64, u64>> = BTreeMap::new();
        for Copied { piece, upto } in &self.copied {
            piece.load(&mut *rebuilt.backend);
            covered.entry((piece.state, piece.key_group)).or_default().insert(piece.range.first, *upto);
        }
        let mut places = BTreeSet::new();
        for (change, stamp) in self.live.changes(0).zip(&self.stamps) {
            let pieces = &covered[&(change.at.state, change.at.key_group)];
            let (_, upto) = pieces.range(..=hash(change.at)).next_back().expect("pieces begin at hash 0");
            if stamp >= upto {
                rebuilt.backend.apply(&change).unwrap();
            }
            let (key, namespace) = (change.at.key.to_vec(), change.at.namespace.to_vec());
            places.insert((change.at.state, change.at.key_group, key, namespace));
        }
        rebuilt.backend.finish_batch().unwrap();
        let places: Vec<_> = places
            .iter()
            .map(|(state, key_group, key, namespace)| Address { state: *state, key_group: *key_group, key, namespace })
            .collect();
        self.live.assert_equals(&mut rebuilt, &places);
    }

    /// Asserts that pieces whose cells did not change still have the same contents, and stamps them anew.
    fn reuse_unchanged(&mut self) {
        for Copied { piece, upto } in &mut self.copied {
            let changed = self.live.pieces().changed(piece.state, piece.key_group, piece.range);
            assert!(changed <= self.stamp, "no change has the stamp {changed} yet");
            if changed < *upto {
                let again = Piece::copy_from(self.live.pieces(), piece.state, piece.key_group, piece.range.first);
                let again = cells(again.iter(), piece.range);
                assert_eq!(again, cells([&*piece].into_iter(), piece.range), "{:?} is unchanged", piece.range);
                *upto = self.stamp + 1;
            }
        }
    }
}

/// The changes that rebuild each cell of `range`, by hash, key and namespace.
#[allow(clippy::type_complexity)]
fn cells<'a>(
    pieces: impl Iterator<Item = &'a Piece>,
    range: HashRange,
) -> BTreeMap<(u64, &'a [u8], &'a [u8]), Vec<crate::state::Action<'a>>> {
    let mut cells: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for change in pieces.flat_map(Piece::changes).filter(|change| range.contains(hash(change.at))) {
        cells.entry((hash(change.at), change.at.key, change.at.namespace)).or_default().push(change.action);
    }
    cells
}

/// Runs random operations on a backend while it is copied. A backend rebuilt from the pieces and the log must be equal,
/// and pieces that [`changed`](crate::state::StateBackend::changed) calls unchanged must be unchanged.
pub(crate) fn pieces_copied_amid_changes_rebuild_the_backend(factory: Factory<'_>) {
    let steps = || prop::collection::vec(Step::any(), 0..40);
    let config = Config { cases: CASES, ..Config::default() };
    let result = TestRunner::new(config).run(&(steps(), steps()), |(during, after)| {
        let mut run = Run::new(factory);
        during.iter().for_each(|step| run.step(step));
        run.finish_copying();
        after.iter().for_each(|step| run.step(step));
        run.assert_rebuilds(factory);
        run.reuse_unchanged();
        run.assert_rebuilds(factory);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

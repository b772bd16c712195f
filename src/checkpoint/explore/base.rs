//! Materializations of the exploration, and their files.

use std::{
    hash::{Hash, Hasher},
    ops::RangeInclusive,
};

use uuid::Uuid;

use super::script::{Objects, Request};
use crate::{
    changelog::compression::Compression,
    checkpoint::{
        base::{Piece, PieceBlock},
        manifest::{Materialization, SnapshotFile},
    },
    types::{HashRange, KeyGroupRange, Sqn, StateId},
};

/// Files of a materialization on their way.
#[derive(Debug, Clone, Hash)]
pub(super) struct Sent {
    pub(super) requests: Vec<Request>,
    pub(super) has_arrived: bool,
    pub(super) made: Made,
}

/// A materialization that is or will be durable.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) uuid: Uuid,
    pub(super) from: Sqn,
    pub(super) complete_at: Sqn,
    pub(super) index: SnapshotFile,
    /// The piece of it that the next snapshot may use again.
    pub(super) piece: Option<SnapshotFile>,
    pub(super) files: Vec<SnapshotFile>,
}

impl Hash for Made {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let piece = self.piece.as_ref().map(|file| file.name.as_str());
        (self.uuid, self.from, self.complete_at, piece).hash(state);
    }
}

impl Sent {
    /// All its requests take effect.
    pub(super) fn arrive(&mut self, objects: &mut Objects) {
        self.has_arrived = true;
        self.requests.iter().for_each(|request| _ = request.arrive(objects));
    }

    /// Its requests that have not arrived.
    pub(super) fn left(&self) -> Vec<Request> {
        if self.has_arrived { vec![] } else { self.requests.clone() }
    }
}

impl Made {
    pub(super) fn record(&self) -> Materialization {
        let Self { uuid, from, complete_at, index, .. } = self.clone();
        Materialization { uuid, from, complete_at, index, index_crc: None, stored_bytes: 0, changes: 0 }
    }
}

/// A piece of the state; without a file it is empty.
pub(super) fn piece(key_groups: RangeInclusive<u32>, sqn: Sqn, file: Option<SnapshotFile>) -> Piece {
    let (first, last) = key_groups.into_inner();
    let last = if file.is_some() { first } else { last };
    let key_groups = KeyGroupRange::new(first, last).unwrap();
    let block = file.map(|file| PieceBlock {
        file,
        offset: 0,
        stored_length: 1,
        length: 1,
        crc: 0,
        compression: Compression::None,
        changes: 1,
    });
    Piece { state: StateId(1), key_groups, hashes: HashRange::ALL, sqn, block }
}

//! The bytes of every small durable object, as files: what a version wrote once, each later one reads.

use std::{collections::BTreeMap, fs, path::PathBuf};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    base::{BaseIndex, Piece, PieceBlock},
    envelope::{self, Kind},
    handle::CheckpointHandle,
    index::{Page, tests::handle, tests::tail},
    manifest::{Contents, Manifest, Materialization, Registration, SnapshotFile, tests::sample},
    pin::Pin,
};
use crate::{
    changelog::compression::Compression,
    proto::store,
    types::{HashRange, KeyGroupRange, Sqn, StateId},
};

/// Compares with the golden bytes, or writes them if there are none (delete a fixture to make it again).
fn fixture(name: &str, now: &Bytes) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    if !path.exists() {
        fs::write(&path, now).unwrap();
    }
    let golden: Bytes = fs::read(path).unwrap().into();
    assert_eq!(golden, now, "{name}: the bytes have changed; a format that changes gets a new version");
    golden
}

fn file(number: u64, kind: &str) -> SnapshotFile {
    SnapshotFile { instance: Uuid::from_u128(7), name: SnapshotFile::name(2, number, kind), bytes: 100 * number }
}

/// A manifest that has everything that one may have.
fn manifest() -> Manifest {
    let mut manifest = sample();
    let at = |n| Sqn(Sqn::first_of(2).0 + n);
    manifest.materializations.push(Materialization {
        uuid: Uuid::from_u128(8),
        from: at(5),
        complete_at: at(15),
        index: file(3, "index"),
        stored_bytes: 900,
        changes: 90,
    });
    manifest.checkpoints[2].base = Some(Uuid::from_u128(8));
    manifest.checkpoints[2].missing_states = vec![StateId(9)];
    let changed = Registration { migrating_from: vec![StateId(7)], ..manifest.states[&StateId(1)].clone() };
    manifest.states.insert(StateId(2), changed);
    let run = manifest.runs.get_mut(&2).unwrap();
    while run.handles.len() <= super::index::INLINE_ENTRIES {
        let next = run.handles.last().unwrap().range.to.0;
        run.handles.push(handle(next, next + 1));
    }
    run.fold(|| Uuid::from_u128(77)).unwrap();
    run.handles.truncate(2);
    let (of, groups) = (sample(), KeyGroupRange::new(70, 80).unwrap());
    let names = BTreeMap::from([(StateId(1), StateId(4))]);
    manifest.imports = of.export(&of.checkpoints[1], groups, &names, || Uuid::from_u128(5));
    manifest.imports[0].materialization = Some(manifest.materializations[0].clone());
    manifest.imports[0].origin.subtask = 6;
    manifest.epochs[0].contents = Contents { imports: vec![Uuid::from_u128(5)], ..Contents::default() };
    manifest.epochs[0].is_fence = true;
    manifest
}

#[test]
fn the_bytes_of_a_manifest_are_golden() {
    let manifest = manifest();
    assert_eq!(Manifest::decode(&fixture("manifest-v1.bin", &manifest.encode())).unwrap(), manifest);
}

#[test]
fn the_bytes_of_pages_are_golden() {
    let job = sample().backend.job;
    let handles = Page::Handles(vec![handle(3, 5), handle(5, 9)]);
    let pages = Page::Pages(manifest().runs[&2].pages.clone());
    let tails = Page::Handles(vec![tail(3, 5, 20), handle(5, 9)]);
    let all = [("page-v1-handles.bin", handles), ("page-v1-pages.bin", pages), ("page-v1-tails.bin", tails)];
    for (name, page) in all {
        assert_eq!(Page::read(&job, &fixture(name, &page.encode())).unwrap(), page);
    }
}

#[test]
fn the_bytes_of_a_job_record_are_golden() {
    let restore = Some(store::JobCheckpoint { attempt: 4, id: 17 });
    let record = store::JobRecord { number: 3, attempt: 5, restore, spoilt: vec![] };
    let golden = fixture("job-record-v1.bin", &envelope::seal(Kind::JobRecord, &record));
    assert_eq!(envelope::open::<store::JobRecord>(Kind::JobRecord, &golden).unwrap(), record);
}

#[test]
fn the_bytes_of_a_handle_are_golden() {
    let sample = sample();
    let handle = CheckpointHandle { backend: sample.backend, checkpoint: sample.checkpoints[2].identity };
    assert_eq!(CheckpointHandle::decode(&fixture("handle-v1.bin", &handle.encode())).unwrap(), handle);
}

#[test]
fn the_bytes_of_a_pin_are_golden() {
    let manifest = manifest();
    let mut imports = manifest.imports;
    let run = imports[0].runs.values_mut().next().unwrap();
    let next = run.handles.last().unwrap().range.to.0;
    run.handles.push(tail(next, next + 4, 20));
    let pin = Pin { operator: manifest.backend.operator, lease_ms: 600_000, imports };
    let golden = fixture("pin-v1.bin", &pin.encode(&manifest.backend.job));
    assert_eq!(Pin::decode(&manifest.backend.job, &golden).unwrap(), pin);
}

#[test]
fn the_bytes_of_a_base_index_are_golden() {
    let block = |number| PieceBlock {
        file: file(number, "pieces"),
        offset: 16,
        stored_length: 40,
        length: 80,
        crc: 3,
        compression: Compression::Lz4,
        changes: 2,
    };
    let piece = |groups: (u32, u32), hashes: (u64, u64), block| Piece {
        state: StateId(1),
        key_groups: KeyGroupRange::new(groups.0, groups.1).unwrap(),
        hashes: HashRange { first: hashes.0, last: hashes.1 },
        sqn: Sqn(9),
        block,
    };
    let pieces = [
        piece((3, 3), (0, 99), Some(block(1))),
        piece((3, 3), (100, u64::MAX), Some(block(2))),
        piece((4, 9), (0, u64::MAX), None),
    ];
    let index = BaseIndex::new(pieces).unwrap();
    assert_eq!(BaseIndex::decode(&fixture("base-index-v1.bin", &index.encode())).unwrap(), index);
}

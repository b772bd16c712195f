//! The bytes of every small durable object, as files: later versions must read everything that an earlier version
//! wrote.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    base::{BaseIndex, Piece, PieceBlock},
    envelope::{self, Kind},
    handle::CheckpointHandle,
    index::{
        Bounds, Folding, Page, Run, Source, Stretch,
        tests::{HOME, handle, tail},
    },
    job::{Asked, Beginning, Commit, Declaration, JobCheckpoint, JobRecord, Report, Spoilt, Start},
    manifest::{Attachment, Contents, Manifest, Materialization, Registration, SnapshotFile, tests::sample},
    pin::Pin,
};
use crate::{
    changelog::compression::Compression,
    object::ObjectName,
    proto::store,
    types::{CheckpointIdentity, HashRange, KeyGroupRange, Name, Sqn, StateId},
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

fn past() -> Page {
    let at = |n| Sqn(Sqn::first_of(1).0 + n);
    let pages = vec![Page::Handles(vec![handle(at(2).0, at(5).0)]).seal(HOME, Uuid::from_u128(76)).reference];
    let run = Run { pages, handles: vec![handle(at(5).0, at(9).0), tail(at(9).0, at(10).0, 7)] };
    Page::Past(vec![Stretch { source: Source { epoch: 1, from: at(3), to: at(10) }, run }])
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
        index_crc: None,
        stored_bytes: 900,
        changes: 90,
    });
    manifest.checkpoints[2].base = Some(Uuid::from_u128(8));
    manifest.checkpoints[2].missing_states = vec![StateId(9)];
    let changed = Registration { migrating_from: vec![StateId(7)], ..manifest.states[&StateId(1)].clone() };
    manifest.states.insert(StateId(2), changed);
    let run = manifest.runs.get_mut(&2).unwrap();
    for _ in 0..6 {
        let next = run.handles.last().unwrap().range.to.0;
        run.handles.push(handle(next, next + 1));
    }
    let bounds = &Bounds { entries: 8, page_entries: 7, inline_bytes: 0 };
    run.fold(&mut Folding { bounds, home: HOME, uuid: &mut || Uuid::from_u128(77) });
    assert_eq!((run.pages.len(), run.handles.len()), (1, 2));
    manifest.epochs[1].contents.past = vec![past().seal(HOME, Uuid::from_u128(78)).reference];
    let (of, groups) = (sample(), KeyGroupRange::new(70, 80).unwrap());
    let names = BTreeMap::from([(StateId(1), StateId(4))]);
    manifest.imports = of.export(&of.checkpoints[1], groups, &names, || Uuid::from_u128(5));
    manifest.imports[0].materialization = Some(manifest.materializations[0].clone());
    manifest.imports[0].origin.subtask = 6;
    manifest.imports[0].past = manifest.epochs[1].contents.past.clone();
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
fn the_bytes_of_a_manifest_that_tells_of_those_before_it_are_golden() {
    let mut manifest = manifest();
    for number in [2, 5, 12] {
        manifest.fences.open(number);
    }
    manifest.epochs[1].published_to = Some(9);
    assert_eq!(Manifest::decode(&fixture("manifest-v1-told.bin", &manifest.encode())).unwrap(), manifest);
}

#[test]
fn the_bytes_of_a_manifest_with_the_checksums_of_its_indexes_are_golden() {
    let mut manifest = manifest();
    manifest.materializations[0].index_crc = Some(0xc0ff_ee00);
    assert_eq!(Manifest::decode(&fixture("manifest-v1-index-crc.bin", &manifest.encode())).unwrap(), manifest);
}

#[test]
fn the_bytes_of_a_manifest_with_attachments_in_pages_are_golden() {
    let mut manifest = manifest();
    let page = Page::Attachments(vec![(manifest.checkpoints[1].identity, Bytes::from_static(b"offsets"))]);
    manifest.checkpoints[1].attachment = Attachment::Page(page.seal(HOME, Uuid::from_u128(80)).reference);
    assert_eq!(Manifest::decode(&fixture("manifest-v1-attached.bin", &manifest.encode())).unwrap(), manifest);
}

#[test]
fn the_bytes_of_pages_are_golden() {
    let job = sample().backend.job;
    let handles = Page::Handles(vec![handle(3, 5), handle(5, 9)]);
    let pages = Page::Pages(manifest().runs[&2].pages.clone());
    let tails = Page::Handles(vec![tail(3, 5, 20), handle(5, 9)]);
    let of = |n: usize| (sample().checkpoints[n].identity, Bytes::from(vec![7; n]));
    let attachments = Page::Attachments(vec![of(1), of(2)]);
    let all =
        [("handles", handles), ("pages", pages), ("tails", tails), ("past", past()), ("attachments", attachments)];
    for (name, page) in all {
        let sealed = page.seal(HOME, Uuid::from_u128(79));
        let golden = fixture(&format!("page-v1-{name}.bin"), &sealed.bytes);
        assert_eq!(Page::read(&job, &golden).unwrap(), (page, HOME, Uuid::from_u128(79)));
    }
}

#[test]
fn the_bytes_of_a_job_record_are_golden() {
    let restore = Some(store::JobCheckpoint { attempt: 4, id: 17 });
    let record = store::JobRecord { number: 3, attempt: 5, restore, ..store::JobRecord::default() };
    let golden = fixture("job-record-v1.bin", &envelope::seal(Kind::JobRecord, &record));
    assert_eq!(envelope::open::<store::JobRecord>(Kind::JobRecord, &golden).unwrap(), record);
}

/// A record that has everything that one may have.
fn declared() -> JobRecord {
    let (count, sink) = (sample().backend.operator, Name::new("sink").unwrap());
    let checkpoint = |attempt, id| JobCheckpoint { attempt, id };
    let part = |n| CheckpointIdentity { epoch: 2, id: 17, uuid: Uuid::from_u128(n) };
    let asked = Asked::Given { id: 17, attempt: Some(4) };
    JobRecord {
        number: 9,
        attempt: 5,
        began: 8,
        beginning: Beginning::Chosen(Some(checkpoint(4, 17))),
        spoilt: vec![Spoilt { checkpoint: checkpoint(4, 18), what: "gone".into(), object: String::new() }],
        declared: Some(Declaration { operators: BTreeMap::from([(count.clone(), 2), (sink.clone(), 1)]), asked }),
        new_operators: BTreeSet::from([sink]),
        commit: Some(Commit {
            checkpoint: checkpoint(4, 17),
            parts: BTreeMap::from([(count, vec![part(1), part(2)])]),
        }),
        earlier: vec![checkpoint(3, 9), checkpoint(4, 2)],
        unheld: false,
        starts: vec![],
        deciding: None,
    }
}

#[test]
fn the_bytes_of_the_record_of_a_declared_job_are_golden() {
    let record = declared();
    assert_eq!(JobRecord::decode(&fixture("job-record-v1-declared.bin", &record.encode())).unwrap(), record);
    for asked in [Asked::Latest, Asked::Empty, Asked::Given { id: 3, attempt: None }] {
        let mut record = record.clone();
        record.declared.as_mut().unwrap().asked = asked;
        assert_eq!(JobRecord::decode(&record.encode()).unwrap(), record);
    }
    let mut marked = record.clone();
    marked.spoilt[0].object = "job/segments/1".into();
    assert_eq!(JobRecord::decode(&fixture("job-record-v1-spoilt.bin", &marked.encode())).unwrap(), marked);
    let undeclared = JobRecord::undeclared(Some(&record), 6, Beginning::Undecided, vec![]);
    assert_eq!(JobRecord::decode(&undeclared.encode()).unwrap(), undeclared);
}

#[test]
fn the_bytes_of_a_record_whose_checkpoint_is_not_held_yet_are_golden() {
    let record = JobRecord { unheld: true, ..declared() };
    assert_eq!(JobRecord::decode(&fixture("job-record-v1-unheld.bin", &record.encode())).unwrap(), record);
}

#[test]
fn the_bytes_of_a_job_record_with_starts_are_golden() {
    let start = |token: &'static [u8], attempt| Start {
        token: Bytes::from_static(token),
        attempt,
        peers: Bytes::from_static(b"graph"),
        at: 1_700_000_000_000 + attempt,
    };
    let record = JobRecord { starts: vec![start(b"graph/0", 6), start(&[0, 255, 7], 7)], ..declared() };
    assert_eq!(JobRecord::decode(&fixture("job-record-v1-starts.bin", &record.encode())).unwrap(), record);
}

#[test]
fn the_bytes_of_a_manifest_of_runs_and_peers_are_golden() {
    let mut manifest = manifest();
    let owner = manifest.epochs.last_mut().unwrap();
    (owner.peers, owner.job_run) = (Bytes::from_static(b"graph"), Bytes::from_static(b"first graph"));
    manifest.checkpoints[0].job_run = Bytes::from_static(&[0, 255]);
    assert_eq!(Manifest::decode(&fixture("manifest-v1-runs.bin", &manifest.encode())).unwrap(), manifest);
}

#[test]
fn the_bytes_of_a_report_are_golden() {
    let part = CheckpointIdentity { epoch: 2, id: 17, uuid: Uuid::from_u128(1) };
    let report = Report { backend: sample().backend, attempt: 5, part };
    assert_eq!(Report::decode(&fixture("report-v1.bin", &report.encode())).unwrap(), report);
    assert_eq!(Report::of(ObjectName::parse(&report.name().path()).unwrap()), Some(report));
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

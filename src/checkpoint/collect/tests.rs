//! Tests of verdicts on single objects; `model` tests whole jobs.

mod model;

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::*;
use crate::{
    checkpoint::{
        index::page_id,
        job::{Asked, Beginning, Commit, Declaration, JobCheckpoint, JobRecord, KEPT_RECORDS},
        manifest::{Fences, SnapshotFile},
    },
    object::ObjectName,
    types::{CheckpointIdentity, Epoch, Name},
};

fn job() -> Name {
    Name::new("job").unwrap()
}

fn backend(subtask: u32) -> BackendId {
    BackendId { job: job(), operator: Name::new("op").unwrap(), subtask }
}

fn segment(at: (Uuid, u64)) -> ObjectName {
    ObjectName::Segment { job: job(), instance: at.0, number: at.1 }
}

fn page(subtask: u32, at: (u64, Uuid)) -> ObjectName {
    ObjectName::IndexPage { backend: backend(subtask), epoch: at.0, id: at.1 }
}

fn chain_of(head: u64, instance: u128, low_water: u64) -> Chain {
    Chain {
        head,
        epoch: Epoch { number: 2, owner: Uuid::from_u128(2) },
        instance: Uuid::from_u128(instance),
        segment_low_water: low_water,
        segments: BTreeSet::from([(Uuid::from_u128(7), 3)]),
        pages: BTreeSet::from([(1, Uuid::from_u128(5))]),
        snapshots: BTreeSet::from([(Uuid::from_u128(7), SnapshotFile::name(1, 3, "pieces"))]),
        imported: BTreeSet::new(),
        page_low_water: 6,
        snapshot_low_water: 5,
        told: Fences::default(),
        older: BTreeMap::new(),
    }
}

fn judge(view: &View, name: &ObjectName) -> Verdict {
    view.judge(name, false, |_| false)
}

#[test]
fn a_segment_stays_while_it_is_named_or_its_owner_may_still_name_it() {
    let view =
        View::new(BTreeMap::from([(backend(0), chain_of(9, 7, 5)), (backend(1), chain_of(9, 8, 0))]), Pins::default());
    let at = |instance, number| judge(&view, &segment((Uuid::from_u128(instance), number)));
    assert_eq!(at(7, 3), Verdict::Live(Live::Named(backend(0))));
    assert_eq!(at(7, 4), Verdict::Garbage(Garbage::Unnamed));
    assert_eq!(at(7, 5), Verdict::Kept(Kept::MayBeNamed(backend(0))));
    assert_eq!(at(8, 1), Verdict::Kept(Kept::MayBeNamed(backend(1))));
    assert_eq!(at(6, 1), Verdict::Garbage(Garbage::Unnamed), "no owner of that instance is left");
    let none = View::new(BTreeMap::new(), Pins::default());
    assert_eq!(judge(&none, &segment((Uuid::from_u128(7), 4))), Verdict::Kept(Kept::NoChain));
}

#[test]
fn a_page_stays_while_it_is_named_or_its_owner_may_still_name_it() {
    let view = View::new(BTreeMap::from([(backend(0), chain_of(9, 7, 5))]), Pins::default());
    let at = |epoch, id| judge(&view, &page(0, (epoch, Uuid::from_u128(id))));
    let numbered = |epoch, number| judge(&view, &page(0, (epoch, page_id(number, Uuid::from_u128(1)))));
    assert_eq!(at(1, 5), Verdict::Live(Live::Named(backend(0))));
    assert_eq!(at(1, 6), Verdict::Garbage(Garbage::Outdated(1)));
    assert_eq!(numbered(2, 5), Verdict::Garbage(Garbage::Unnamed));
    assert_eq!(numbered(2, 6), Verdict::Kept(Kept::MayBeNamed(backend(0))));
    assert_eq!(numbered(3, 5), Verdict::Kept(Kept::MayBeNamed(backend(0))), "of who is about to open");
    assert_eq!(judge(&view, &page(1, (1, Uuid::from_u128(6)))), Verdict::Kept(Kept::NoChain));
}

#[test]
fn of_the_manifests_the_first_and_last_of_each_epoch_and_the_newest_stay() {
    let mut chain = chain_of(30, 7, 5);
    let old = Epoch { number: 1, owner: Uuid::from_u128(1) };
    chain.older = (1..=10).map(|n| (n, (old, n == 1))).chain((11..30).map(|n| (n, (chain.epoch, n == 11)))).collect();
    chain.older.remove(&5);
    let view = View::new(BTreeMap::from([(backend(0), chain)]), Pins::default());
    let at = |number| judge(&view, &ObjectName::Manifest { backend: backend(0), number });
    assert_eq!(at(1), Verdict::Live(Live::Opens(1)));
    assert_eq!(at(10), Verdict::Live(Live::Ends(1)));
    assert_eq!(at(11), Verdict::Live(Live::Opens(2)));
    assert_eq!(at(5), Verdict::Kept(Kept::Unreadable));
    assert_eq!(at(23), Verdict::Live(Live::Recent));
    assert_eq!(at(30), Verdict::Live(Live::Head));
    let gone: Vec<u64> = (1..=30).filter(|n| at(*n).is_garbage()).collect();
    assert_eq!(gone, (2..=4).chain(6..=9).chain(12..=22).collect::<Vec<_>>());
}

#[test]
fn garbage_stays_within_grace_and_beside_pins_of_later_versions() {
    let chains = BTreeMap::from([(backend(0), chain_of(9, 7, 5))]);
    let name = segment((Uuid::from_u128(6), 1));
    let view = View::new(chains.clone(), Pins::default());
    assert_eq!(view.judge(&name, true, |_| false), Verdict::Kept(Kept::Grace));
    let mut pins = Pins::default();
    pins.add_unknown(Uuid::from_u128(1));
    let pinned = View::new(chains, pins);
    assert_eq!(judge(&pinned, &name), Verdict::Kept(Kept::Pins));
}

#[test]
fn what_a_pin_names_stays_while_the_pin_exists_and_the_pin_goes_once_its_lease_is_over() {
    let (id, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let (named, file) = ((Uuid::from_u128(6), 1), SnapshotFile::name(1, 9, "pieces"));
    let snapshot = ObjectName::SnapshotFile { backend: backend(0), instance: Uuid::from_u128(7), file };
    let held = pins::Held {
        lease_ms: 100,
        segments: BTreeSet::from([named]),
        objects: BTreeSet::from([page(0, (1, Uuid::from_u128(6))), snapshot.clone()]),
    };
    for (now_ms, expected) in [(1_099, Verdict::Live(Live::Pin)), (1_100, Verdict::Garbage(Garbage::Expired))] {
        let mut pins = Pins::default();
        pins.add(id, held.clone(), 1_000, now_ms);
        let view = View::new(BTreeMap::from([(backend(0), chain_of(9, 7, 5))]), pins);
        for name in [segment(named), page(0, (1, Uuid::from_u128(6))), snapshot.clone()] {
            assert_eq!(judge(&view, &name), Verdict::Live(Live::Pinned(id)), "{name}");
        }
        assert_eq!(judge(&view, &segment((Uuid::from_u128(6), 2))), Verdict::Garbage(Garbage::Unnamed));
        assert_eq!(judge(&view, &ObjectName::Pin { job: job(), id }), expected);
        let renewal = |id| ObjectName::PinRenewal { job: job(), id, number: 1 };
        assert_eq!(judge(&view, &renewal(id)).is_garbage(), expected.is_garbage());
        assert_eq!(judge(&view, &renewal(other)), Verdict::Garbage(Garbage::Released));
    }
}

#[test]
fn a_temporary_goes_when_its_target_exists_or_would_be_garbage() {
    let view = View::new(BTreeMap::from([(backend(0), chain_of(9, 7, 5))]), Pins::default());
    let at = |of, exists| {
        let name = ObjectName::Temporary { of: Box::new(of), number: 1 };
        view.judge(&name, false, |_| exists)
    };
    let manifest = |number| ObjectName::Manifest { backend: backend(0), number };
    let record = ObjectName::JobRecord { job: job(), number: 1 };
    let gone = Verdict::Garbage(Garbage::Temporary);
    let stays = Verdict::Kept(Kept::InTheMaking);
    assert_eq!(at(record.clone(), true), gone);
    assert_eq!(at(record, false), stays);
    assert_eq!(at(segment((Uuid::from_u128(7), 4)), false), gone);
    assert_eq!(at(segment((Uuid::from_u128(7), 5)), false), stays);
    assert_eq!(at(manifest(9), false), gone);
    assert_eq!(at(manifest(10), false), stays);
}

#[test]
fn a_snapshot_file_stays_while_it_is_named_or_its_owner_may_still_name_it() {
    let view = View::new(BTreeMap::from([(backend(0), chain_of(9, 7, 5))]), Pins::default());
    let verdict = |instance: u128, epoch, number| {
        let file = SnapshotFile::name(epoch, number, "pieces");
        judge(&view, &ObjectName::SnapshotFile { backend: backend(0), instance: Uuid::from_u128(instance), file })
    };
    assert_eq!(verdict(7, 1, 3), Verdict::Live(Live::Named(backend(0))));
    assert_eq!(verdict(7, 1, 4), Verdict::Garbage(Garbage::Outdated(1)));
    assert_eq!(verdict(7, 2, 4), Verdict::Garbage(Garbage::Unnamed), "below the owner's low water");
    assert_eq!(verdict(7, 2, 5), Verdict::Kept(Kept::MayBeNamed(backend(0))));
    assert_eq!(verdict(7, 3, 1), Verdict::Kept(Kept::MayBeNamed(backend(0))), "of a successor");
    assert_eq!(verdict(8, 2, 1), Verdict::Kept(Kept::MayBeNamed(backend(0))));
}

#[test]
fn what_this_version_does_not_make_is_never_deleted() {
    let view = View::new(BTreeMap::from([(backend(0), chain_of(9, 7, 5))]), Pins::default());
    let name = |name: &str| Name::new(name).unwrap();
    let instance = Uuid::from_u128(1);
    for object in [
        ObjectName::SnapshotFile { backend: backend(0), instance, file: name("a.sst") },
        ObjectName::SavepointFile { job: job(), savepoint: name("s"), file: vec![name("a")] },
        ObjectName::JobRecord { job: job(), number: 1 },
    ] {
        assert!(!judge(&view, &object).is_garbage(), "{object}");
    }
}

#[test]
fn reports_stay_while_their_checkpoint_may_be_committed_and_records_while_somebody_may_read_them() {
    let checkpoint = |attempt, id| JobCheckpoint { attempt, id };
    let report = |attempt, id| {
        let part = CheckpointIdentity { epoch: 2, id, uuid: Uuid::from_u128(1) };
        ObjectName::Report { backend: backend(0), attempt, checkpoint: part }
    };
    let record = |number| ObjectName::JobRecord { job: job(), number };
    let mut newest = JobRecord::undeclared(None, 4, Beginning::Chosen(None), vec![]);
    newest.number = 100;
    let operators = BTreeMap::from([(backend(0).operator, 1)]);
    newest.declared = Some(Declaration { operators, asked: Asked::Latest });
    newest.commit = Some(Commit { checkpoint: checkpoint(4, 7), parts: BTreeMap::new() });
    let view = View::new(BTreeMap::new(), Pins::default()).with_job(Some(newest.clone()));
    let outdated = Verdict::Garbage(Garbage::OutdatedReport);
    for (attempt, id) in [(3, 9), (4, 6), (4, 7)] {
        assert_eq!(judge(&view, &report(attempt, id)), outdated, "{attempt} {id}");
    }
    for (attempt, id) in [(4, 8), (5, 1)] {
        assert_eq!(judge(&view, &report(attempt, id)), Verdict::Live(Live::Report), "{attempt} {id}");
    }
    assert_eq!(judge(&view, &record(100 - KEPT_RECORDS)), Verdict::Garbage(Garbage::Superseded));
    assert_eq!(judge(&view, &record(101 - KEPT_RECORDS)), Verdict::Live(Live::JobRecord));
    assert_eq!(judge(&view, &record(101)), Verdict::Live(Live::JobRecord), "made after the newest was read");
    newest.declared = None;
    let view = View::new(BTreeMap::new(), Pins::default()).with_job(Some(newest));
    assert_eq!(judge(&view, &report(4, 8)), outdated, "the generation was withdrawn");
    let unknown = View::new(BTreeMap::new(), Pins::default());
    assert_eq!(judge(&unknown, &report(1, 1)), Verdict::Live(Live::Report));
}

//! Owners in the hands of model checks, and regressions.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    time::{Duration, Instant},
};

use bytes::Bytes;
use uuid::Uuid;

use super::*;
use crate::{
    changelog::block::ChangeSetBuilder,
    checkpoint::{
        ledger::{NoticeKind, NoticeTarget, Retention},
        manifest::{Materialization, SnapshotFile, tests::sample},
    },
    types::{Epoch, KeyGroup},
};

/// Everything that matters for later decisions. Times are left out: no decision of a model check depends on them.
impl Hash for Owner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { epoch, options: _, writer, ledger, manifest, crc, publishing, .. } = self;
        let Self { pages_under_way, next_page, opened_number, deleted_below, settling, .. } = self;
        let Self { heard: _, dirty_since: _, withdrawing, closing, base, files_to, snapshots, .. } = self;
        let Self { since_barrier, sustained, rules: _, .. } = self;
        (epoch.number, epoch.owner, manifest.encode(), crc, publishing).hash(state);
        (pages_under_way, next_page, opened_number, deleted_below, settling).hash(state);
        (withdrawing, closing, base.as_ref().map(|base| base.uuid), files_to, snapshots).hash(state);
        (since_barrier.bytes, since_barrier.changes).hash(state);
        // In one piece: hashers are slow on many small ones.
        format!("{writer:?}{ledger:?}{sustained:?}").hash(state);
    }
}

/// An owner without log.
fn unlogged() -> Owner {
    let mut manifest = sample();
    (manifest.checkpoints, manifest.runs, manifest.materializations) = (vec![], BTreeMap::new(), vec![]);
    let mut record = manifest.owner().clone();
    (record.epoch, record.contents) = (Epoch { number: 3, owner: Uuid::nil() }, Default::default());
    (manifest.epochs, manifest.imports) = (vec![record], vec![]);
    (manifest.shape.changelog, manifest.segment_low_water, manifest.page_low_water) = (false, 0, 0);
    let blocks = ChangeSetBuilder::new(manifest.shape.key_groups.parts(128).collect(), 100);
    let begins = Beginning { manifest, crc: 0, retention: Retention::Explicit, is_claimed: true, blocks };
    Owner::new(begins, Options::new(Duration::ZERO), Instant::now())
}

fn write(owner: &mut Owner) {
    owner.begin_batch(0, 1);
    owner.log().push(KeyGroup(70), |_| {});
    owner.end_batch(0);
}

/// Triggers a checkpoint whose snapshot begins.
fn snapshot(owner: &mut Owner, id: u64) {
    assert!(owner.cut_durable(1).is_none());
    let cut = owner.begin_snapshot(id, 1, None);
    let (uuid, attachment, missing_states) = (Uuid::from_u128(id.into()), Bytes::new(), vec![]);
    let barrier =
        Barrier { id, uuid, attachment, applied_to: 1, triggered_at: 0, time: 1, states_to: 0, missing_states };
    owner.trigger(barrier, cut);
}

/// The snapshot of `id` gets durable.
fn made(owner: &mut Owner, id: u64) -> Uuid {
    let cut = owner.snapshot_cut(id).unwrap();
    assert_eq!(owner.take_turn(id, id, None), Some(Turn::Works));
    let index = SnapshotFile { instance: Uuid::nil(), name: SnapshotFile::name(3, id, "index"), bytes: 0 };
    let uuid = Uuid::from_u128(100 + u128::from(id));
    let made =
        Materialization { uuid, from: cut, complete_at: cut, index, index_crc: None, stored_bytes: 0, changes: 0 };
    assert_eq!(owner.snapshotted(id, Ok((made, 1))), Some(true));
    uuid
}

fn publish(owner: &mut Owner) -> Publication {
    let outside = Outside { segments_to: 1, next_file: 9 };
    assert!(owner.is_due(Instant::now(), outside, false));
    let publication = owner.begin(outside, [], Uuid::nil);
    owner.published(1, Instant::now());
    owner.pages_written();
    publication
}

#[test]
fn a_durable_base_that_a_snapshot_equals_stays_named_until_the_snapshot_is_done() {
    let mut owner = unlogged();
    write(&mut owner);
    snapshot(&mut owner, 1);
    snapshot(&mut owner, 2);
    let base = made(&mut owner, 1);
    assert_eq!(owner.take_turn(2, 5, None), Some(Turn::Durable(base)));
    publish(&mut owner);
    owner.notice(NoticeKind::Discard, NoticeTarget { epoch: 3, id: 1, uuid: None });
    write(&mut owner);
    snapshot(&mut owner, 3);
    made(&mut owner, 3);
    let without = publish(&mut owner);
    assert!(without.manifest.materialization(base).is_some(), "the second checkpoint will build on it");
    owner.snapshotted(2, Err(base));
    let with = publish(&mut owner);
    assert_eq!(with.manifest.checkpoints.first().and_then(|record| record.base), Some(base));
}

#[test]
fn the_last_manifest_names_no_more_and_none_follows_it() {
    let mut owner = unlogged();
    owner.close();
    let outside = Outside { segments_to: 1, next_file: 9 };
    assert!(!owner.is_sealed() && owner.is_due(Instant::now(), outside, true));
    let last = owner.begin(outside, [], Uuid::nil).manifest;
    assert_eq!((last.segment_low_water, last.snapshot_low_water, last.page_low_water), (u64::MAX, u64::MAX, u64::MAX));
    assert!(owner.is_sealed() && !owner.is_due(Instant::now(), outside, true));
    owner.published(1, Instant::now());
    assert!(owner.is_sealed() && !owner.is_due(Instant::now(), outside, true) && !owner.wants_pages());
}

//! Manifests by hand: a sample that has everything, and the rules of pruning.

use super::*;
use crate::{
    changelog::segment::SegmentHandle,
    checkpoint::index::tests::handle,
    types::{MergeFunction, Name, Schema, Serializer, StateDescriptor, StateKind, Ttl},
};

pub(crate) fn sample() -> Manifest {
    let name = |s: &str| Name::new(s).unwrap();
    let epoch = |number| Epoch { number, owner: Uuid::from_u128(u128::from(number)) };
    let handles = |epoch: u64, n: u64| -> Vec<SegmentHandle> {
        (0..n).map(|i| handle(Sqn::first_of(epoch).0 + 10 * i, Sqn::first_of(epoch).0 + 10 * (i + 1))).collect()
    };
    let checkpoint = |epoch: u64, id: u64, cut: u64| CheckpointRecord {
        identity: CheckpointIdentity { epoch, id, uuid: Uuid::from_u128(u128::from(id)) },
        attempt: epoch,
        cut: Sqn(Sqn::first_of(epoch).0 + cut),
        applied_to: cut,
        attachment: Bytes::from_static(b"offsets").into(),
        job_run: Bytes::new(),
        completed: true,
        pinned: false,
        subsumed: false,
        triggered_at: 1_700_000_000_000,
        time: 0,
        incremental_bytes: 100,
        changes: 7,
        states_to: 1,
        base: None,
        missing_states: vec![],
    };
    let run = |epoch, n| (epoch, Run { pages: vec![], handles: handles(epoch, n) });
    let shape = Shape {
        parallelism: 2,
        max_parallelism: 128,
        key_groups: KeyGroupRange::new(64, 127).unwrap(),
        assignment: KeyGroupAssignment::Hashed,
        inner: InnerBackend::HashMap,
        changelog: true,
    };
    Manifest {
        number: 12,
        backend: BackendId { job: name("job"), operator: name("count"), subtask: 1 },
        shape,
        epochs: vec![
            EpochRecord {
                epoch: epoch(1),
                attempt: 1,
                restored: None,
                contents: Contents::default(),
                span: shape.span(),
                peers: Bytes::new(),
                job_run: Bytes::new(),
                is_fence: false,
                published_to: None,
            },
            EpochRecord {
                epoch: epoch(2),
                attempt: 2,
                restored: Some((CheckpointIdentity { epoch: 1, id: 5, uuid: Uuid::from_u128(5) }, 1)),
                contents: Contents {
                    sources: vec![Source { epoch: 1, from: Sqn::first_of(1), to: Sqn(Sqn::first_of(1).0 + 20) }],
                    ..Contents::default()
                },
                span: shape.span(),
                peers: Bytes::new(),
                job_run: Bytes::new(),
                is_fence: false,
                published_to: None,
            },
        ],
        states: BTreeMap::from([(
            StateId(1),
            Registration::first(
                StateId(1),
                StateDescriptor {
                    schema: Schema {
                        value: Serializer { id: "i64".into(), version: 3 },
                        namespace: Serializer { id: "window".into(), version: 0 },
                        ..Schema::default()
                    },
                    ttl: Some(Ttl::new(60_000)),
                    ..StateDescriptor::new("count", StateKind::Value).with_merge(MergeFunction::SumI64)
                },
            ),
        )]),
        runs: BTreeMap::from([run(1, 4), run(2, 3)]),
        checkpoints: vec![checkpoint(1, 5, 20), checkpoint(1, 6, 30), checkpoint(2, 7, 20)],
        materializations: vec![],
        imports: vec![],
        instance: Uuid::from_u128(99),
        segment_low_water: 41,
        snapshot_low_water: 3,
        page_low_water: 5,
        previous_crc: 0xdead_beef,
        opens_epoch: false,
        fences: Fences::default(),
    }
}

#[test]
fn a_checkpoint_is_its_epochs_sources_and_its_run_up_to_the_cut() {
    let manifest = sample();
    let at = |epoch, n| Source { epoch, from: Sqn::first_of(epoch), to: Sqn(Sqn::first_of(epoch).0 + n) };
    let sources = |id| manifest.contents(manifest.checkpoint_by_id(id).unwrap()).sources;
    assert_eq!(sources(6), [at(1, 30)]);
    assert_eq!(sources(7), [at(1, 20), at(2, 20)]);
}

#[test]
fn pruning_drops_what_lies_beyond_every_retained_cut() {
    let mut manifest = sample();
    manifest.prune(&[]);
    assert_eq!(manifest.runs[&1].handles.len(), 3, "checkpoint 6 needs 30 of the dead owner's 40");
    assert_eq!(manifest.runs[&2].handles.len(), 3, "the present run is kept whole");
    manifest.checkpoints.retain(|record| record.identity.epoch == 2);
    manifest.prune(&[]);
    assert_eq!(manifest.runs[&1].handles.len(), 2, "the source needs 20");
    assert_eq!(manifest.epochs.len(), 1);
}

/// A materialization of epoch 2 whose pieces have sqns from 5 to 15.
fn base() -> Materialization {
    let at = |n| Sqn(Sqn::first_of(2).0 + n);
    let index = SnapshotFile { instance: Uuid::nil(), name: Name::new("x.index").unwrap(), bytes: 1 };
    Materialization {
        uuid: Uuid::from_u128(8),
        from: at(5),
        complete_at: at(15),
        index,
        index_crc: None,
        stored_bytes: 9,
        changes: 9,
    }
}

#[test]
fn a_materialization_frees_the_log_only_when_every_checkpoint_builds_on_it() {
    let mut manifest = sample();
    manifest.materializations.push(base());
    let mut newer = manifest.checkpoints[2].clone();
    (newer.identity.id, newer.base, newer.cut) = (8, Some(base().uuid), Sqn(Sqn::first_of(2).0 + 20));
    manifest.checkpoints.push(newer);
    manifest.prune(&[]);
    assert_eq!((manifest.runs[&1].handles.len(), manifest.runs[&2].handles.len()), (3, 3), "7 builds on the log alone");
    let in_flight = manifest.contents_at(2, None, Sqn(Sqn::first_of(2).0 + 25));
    manifest.checkpoints.retain(|record| record.identity.id == 8);
    manifest.prune(&[in_flight]);
    assert_eq!((manifest.runs[&1].handles.len(), manifest.runs[&2].handles.len()), (2, 3), "one in flight does, too");
    manifest.prune(&[]);
    assert_eq!(manifest.runs.keys().collect::<Vec<_>>(), [&2]);
    assert_eq!(manifest.runs[&2].handles.len(), 3, "the first set reaches beyond the lowest piece");
    let mut later = base();
    (later.uuid, later.from) = (Uuid::from_u128(9), Sqn(Sqn::first_of(2).0 + 20));
    manifest.materializations.push(later.clone());
    manifest.checkpoints[0].base = Some(later.uuid);
    manifest.prune(&[]);
    assert_eq!(manifest.runs[&2].handles.len(), 1);
    assert_eq!(manifest.materializations, [later]);
}

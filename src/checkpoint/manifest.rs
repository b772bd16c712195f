//! Manifests: the numbered durable record of a backend.
//!
//! ```text
//!   epochs        1 ──restores nothing   2 ──restores [1, cut of 5)     3 ──restores [1, cut of 5) [2, cut of 9)
//!   runs          1: ▒▒▒▒▒▒░░            2: ▒▒▒▒░                       3: ▒▒▒…
//!   checkpoints          5↑                     9↑                          12↑
//! ```
//!
//! Each epoch has one *run* of the changelog, and *sources*: what it began with, as earlier runs each up to some sequence
//! number. The contents of a checkpoint are its epoch's sources and then its epoch's run up to the cut. What an owner logged
//! beyond the checkpoint that its successor restored (░) belongs to no later state; it stays for as long as a retained
//! checkpoint has it.

mod codec;

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use super::index::Run;
use crate::types::{
    Attempt, BackendId, CheckpointIdentity, Epoch, InnerBackend, KeyGroupAssignment, KeyGroupRange, Sqn,
    StateDescriptor, StateId, TimeMs,
};

/// The record of one backend at one moment.
///
/// Invariants: epochs ascend and the last one wrote it; every source and checkpoint names an epoch that has a record, and a
/// run where its part of the log is not empty; checkpoints ascend by (epoch, id).
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Position in the chain, from 1.
    pub number: u64,
    /// Whose.
    pub backend: BackendId,
    /// What the backend was opened as.
    pub shape: Shape,
    /// Owners, oldest first.
    pub epochs: Vec<EpochRecord>,
    /// Registered states by id.
    pub states: BTreeMap<StateId, StateDescriptor>,
    /// The changelog by epoch.
    pub runs: BTreeMap<u64, Run>,
    /// Retained checkpoints, oldest first.
    pub checkpoints: Vec<CheckpointRecord>,
    /// The daemon instance that `segment_low_water` speaks of.
    pub instance: Uuid,
    /// Segments of `instance` below this number that no manifest names by now will never be named.
    pub segment_low_water: u64,
    /// Checksum of the manifest before; 0 for the first.
    pub previous_crc: u32,
    /// Whether it opened its epoch.
    pub opens_epoch: bool,
}

/// What a backend was opened as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Subtasks of the operator.
    pub parallelism: u32,
    /// Key groups of the operator; fixed for the life of the state.
    pub max_parallelism: u32,
    /// Those of this subtask.
    pub key_groups: KeyGroupRange,
    /// Fixed for the life of the state.
    pub assignment: KeyGroupAssignment,
    /// Where the state lives.
    pub inner: InnerBackend,
    /// Whether changes are logged.
    pub changelog: bool,
}

/// One owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochRecord {
    /// Who.
    pub epoch: Epoch,
    /// The engine's attempt.
    pub attempt: Attempt,
    /// What it restored, and under which attempt that was made; `None` if it began empty.
    pub restored: Option<(CheckpointIdentity, Attempt)>,
    /// What it began with, in order.
    pub sources: Vec<Source>,
}

/// The run of `epoch` below `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Names the run.
    pub epoch: u64,
    /// Exclusive.
    pub to: Sqn,
}

/// One retained checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRecord {
    /// Its name.
    pub identity: CheckpointIdentity,
    /// The attempt that made it: (attempt, id) names a checkpoint of the whole job.
    pub attempt: Attempt,
    /// Everything of its epoch's run below this.
    pub cut: Sqn,
    /// Batches of its epoch below this.
    pub applied_to: u64,
    /// The task's bytes.
    pub attachment: Bytes,
    /// Whether the engine said that it completed.
    pub completed: bool,
    /// Whether a user keeps it.
    pub pinned: bool,
    /// Whether retention let it go and only the pin keeps it.
    pub subsumed: bool,
    /// When its barrier came.
    pub triggered_at: TimeMs,
    /// Bytes of log between the checkpoint before and it, before compression.
    pub incremental_bytes: u64,
    /// Changes likewise.
    pub changes: u64,
    /// States with ids up to this one existed at the cut, without `missing_states`.
    pub states_to: u32,
    /// Ids of states that an owner registered whose changes are no part of the checkpoint.
    pub missing_states: Vec<StateId>,
}

impl Manifest {
    /// The owner that wrote it.
    #[must_use]
    pub fn owner(&self) -> &EpochRecord {
        self.epochs.last().expect("a manifest is written by an owner")
    }

    /// The record of an epoch.
    #[must_use]
    pub fn epoch(&self, number: u64) -> Option<&EpochRecord> {
        self.epochs.iter().find(|record| record.epoch.number == number)
    }

    /// The newest checkpoint with `id`.
    #[must_use]
    pub fn checkpoint_by_id(&self, id: u64) -> Option<&CheckpointRecord> {
        self.checkpoints.iter().rev().find(|record| record.identity.id == id)
    }

    /// The parts of the log that `checkpoint` consists of, in order, empty ones left out.
    #[must_use]
    pub fn contents(&self, checkpoint: &CheckpointRecord) -> Vec<Source> {
        let epoch = checkpoint.identity.epoch;
        let mut sources = self.epoch(epoch).map(|record| record.sources.clone()).unwrap_or_default();
        if checkpoint.cut > Sqn::first_of(epoch) {
            sources.push(Source { epoch, to: checkpoint.cut });
        }
        sources
    }

    /// Removes epochs, runs and the tails of runs that neither a retained checkpoint nor the present owner needs.
    pub fn prune(&mut self) {
        let present = self.owner().epoch.number;
        let mut needed: BTreeMap<u64, Sqn> = BTreeMap::new();
        let mut need = |source: Source| {
            let to = needed.entry(source.epoch).or_default();
            *to = (*to).max(source.to);
        };
        let retained: Vec<Vec<Source>> = self.checkpoints.iter().map(|record| self.contents(record)).collect();
        retained.into_iter().flatten().for_each(&mut need);
        self.owner().sources.iter().copied().for_each(&mut need);
        need(Source { epoch: present, to: Sqn(u64::MAX) });
        self.runs.retain(|epoch, run| {
            if let Some(to) = needed.get(epoch) {
                run.drop_from(*to);
            }
            needed.contains_key(epoch) && !run.is_empty()
        });
        let made_a_checkpoint = |number| self.checkpoints.iter().any(|record| record.identity.epoch == number);
        let keep: Vec<bool> = self
            .epochs
            .iter()
            .map(|record| record.epoch.number)
            .map(|number| number == present || made_a_checkpoint(number))
            .collect();
        let mut keep = keep.into_iter();
        self.epochs.retain(|_| keep.next().unwrap_or(true));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
pub(crate) mod tests {
    use super::*;
    use crate::{changelog::segment::SegmentHandle, checkpoint::index::tests::handle, types::Name};

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
            attachment: Bytes::from_static(b"offsets"),
            completed: true,
            pinned: false,
            subsumed: false,
            triggered_at: 1_700_000_000_000,
            incremental_bytes: 100,
            changes: 7,
            states_to: 1,
            missing_states: vec![],
        };
        let run = |epoch, n| (epoch, Run { pages: vec![], handles: handles(epoch, n) });
        Manifest {
            number: 12,
            backend: BackendId { job: name("job"), operator: name("count"), subtask: 1 },
            shape: Shape {
                parallelism: 2,
                max_parallelism: 128,
                key_groups: KeyGroupRange::new(64, 127).unwrap(),
                assignment: KeyGroupAssignment::Hashed,
                inner: InnerBackend::HashMap,
                changelog: true,
            },
            epochs: vec![
                EpochRecord { epoch: epoch(1), attempt: 1, restored: None, sources: vec![] },
                EpochRecord {
                    epoch: epoch(2),
                    attempt: 2,
                    restored: Some((CheckpointIdentity { epoch: 1, id: 5, uuid: Uuid::from_u128(5) }, 1)),
                    sources: vec![Source { epoch: 1, to: Sqn(Sqn::first_of(1).0 + 20) }],
                },
            ],
            states: BTreeMap::from([(
                StateId(1),
                StateDescriptor {
                    name: "count".into(),
                    kind: crate::types::StateKind::Value,
                    merge: Some(crate::types::MergeFunction::SumI64),
                    serializer: "i64".into(),
                },
            )]),
            runs: BTreeMap::from([run(1, 4), run(2, 3)]),
            checkpoints: vec![checkpoint(1, 5, 20), checkpoint(1, 6, 30), checkpoint(2, 7, 20)],
            instance: Uuid::from_u128(99),
            segment_low_water: 41,
            previous_crc: 0xdead_beef,
            opens_epoch: false,
        }
    }

    #[test]
    fn a_checkpoint_is_its_epochs_sources_and_its_run_up_to_the_cut() {
        let manifest = sample();
        let at = |epoch, n| Source { epoch, to: Sqn(Sqn::first_of(epoch).0 + n) };
        assert_eq!(manifest.contents(manifest.checkpoint_by_id(6).unwrap()), [at(1, 30)]);
        assert_eq!(manifest.contents(manifest.checkpoint_by_id(7).unwrap()), [at(1, 20), at(2, 20)]);
    }

    #[test]
    fn pruning_drops_what_lies_beyond_every_retained_cut() {
        let mut manifest = sample();
        manifest.prune();
        assert_eq!(manifest.runs[&1].handles.len(), 3, "checkpoint 6 needs 30 of the dead owner's 40");
        assert_eq!(manifest.runs[&2].handles.len(), 3, "the present run is kept whole");
        manifest.checkpoints.retain(|record| record.identity.epoch == 2);
        manifest.prune();
        assert_eq!(manifest.runs[&1].handles.len(), 2, "the source needs 20");
        assert_eq!(manifest.epochs.len(), 1);
    }
}

//! Manifests as bytes: protobuf (`proto/dstl/store/v1/manifest.proto`) in an [`envelope`].

use bytes::Bytes;
use uuid::Uuid;

use super::{CheckpointRecord, EpochRecord, Manifest, Shape, Source};
use crate::{
    checkpoint::{
        envelope::{self, EnvelopeError, Kind},
        handle::{identity_of, name_of},
        index::Run,
    },
    proto::store,
    types::{
        BackendId, Epoch, InnerBackend, KeyGroupAssignment, KeyGroupRange, MergeFunction, Name, Sqn, StateDescriptor,
        StateId, StateKind,
    },
};

impl Manifest {
    /// The manifest as an object.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        assert!(!self.epochs.is_empty(), "a manifest is written by an owner");
        let shape = &self.shape;
        envelope::seal(
            Kind::Manifest,
            &store::Manifest {
                number: self.number,
                job: self.backend.job.to_string(),
                operator: self.backend.operator.to_string(),
                subtask: self.backend.subtask,
                parallelism: shape.parallelism,
                max_parallelism: shape.max_parallelism,
                key_group_first: shape.key_groups.first().0.into(),
                key_group_last: shape.key_groups.last().0.into(),
                key_group_assignment: match shape.assignment {
                    KeyGroupAssignment::Hashed => 1,
                    KeyGroupAssignment::Given => 2,
                },
                inner: match shape.inner {
                    InnerBackend::HashMap => 1,
                    InnerBackend::RocksDb => 2,
                },
                changelog: shape.changelog,
                epochs: self.epochs.iter().map(encode_epoch).collect(),
                states: self.states.iter().map(|(id, state)| encode_state(*id, state)).collect(),
                runs: self.runs.iter().map(|(epoch, run)| run.encode(*epoch)).collect(),
                checkpoints: self.checkpoints.iter().map(encode_checkpoint).collect(),
                instance: Bytes::copy_from_slice(self.instance.as_bytes()),
                segment_low_water: self.segment_low_water,
                previous_crc: self.previous_crc,
                opens_epoch: self.opens_epoch,
            },
        )
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// If the bytes are damaged, or say what no manifest says.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let message: store::Manifest = envelope::open(Kind::Manifest, bytes)?;
        decode(&message).map_err(|what| EnvelopeError::Contents(what.to_owned()))
    }
}

fn decode(message: &store::Manifest) -> Result<Manifest, &'static str> {
    let name = |name: &str| Name::new(name).map_err(|_| "a malformed name");
    let job = name(&message.job)?;
    let decode_run = |run: &store::Run| Ok((run.epoch, Run::decode(&job, run)?));
    let manifest = Manifest {
        number: message.number,
        backend: BackendId { job: job.clone(), operator: name(&message.operator)?, subtask: message.subtask },
        shape: Shape {
            parallelism: message.parallelism,
            max_parallelism: message.max_parallelism,
            key_groups: KeyGroupRange::new(message.key_group_first, message.key_group_last)
                .map_err(|_| "a malformed range of key groups")?,
            assignment: match message.key_group_assignment {
                1 => KeyGroupAssignment::Hashed,
                2 => KeyGroupAssignment::Given,
                _ => return Err("an unknown key-group assignment"),
            },
            inner: match message.inner {
                1 => InnerBackend::HashMap,
                2 => InnerBackend::RocksDb,
                _ => return Err("an unknown inner backend"),
            },
            changelog: message.changelog,
        },
        epochs: message.epochs.iter().map(decode_epoch).collect::<Result<_, _>>()?,
        states: message.states.iter().map(decode_state).collect::<Result<_, _>>()?,
        runs: message.runs.iter().map(decode_run).collect::<Result<_, &'static str>>()?,
        checkpoints: message.checkpoints.iter().map(decode_checkpoint).collect::<Result<_, _>>()?,
        instance: Uuid::from_slice(&message.instance).map_err(|_| "a malformed UUID")?,
        segment_low_water: message.segment_low_water,
        previous_crc: message.previous_crc,
        opens_epoch: message.opens_epoch,
    };
    if manifest.epochs.is_empty() {
        return Err("no epoch");
    }
    Ok(manifest)
}

fn encode_epoch(record: &EpochRecord) -> store::EpochRecord {
    store::EpochRecord {
        number: record.epoch.number,
        owner: Bytes::copy_from_slice(record.epoch.owner.as_bytes()),
        attempt: record.attempt,
        restored: record.restored.as_ref().map(|(identity, _)| name_of(identity)),
        restored_attempt: record.restored.map_or(0, |(_, attempt)| attempt),
        sources: record.sources.iter().map(|s| store::Source { epoch: s.epoch, to: s.to.0 }).collect(),
    }
}

fn decode_epoch(message: &store::EpochRecord) -> Result<EpochRecord, &'static str> {
    let restored = match &message.restored {
        Some(name) => Some((identity_of(name).ok_or("a malformed UUID")?, message.restored_attempt)),
        None => None,
    };
    let owner = Uuid::from_slice(&message.owner).map_err(|_| "a malformed UUID")?;
    if message.number == 0 || message.number > Sqn::MAX_EPOCH {
        return Err("an epoch number out of range");
    }
    Ok(EpochRecord {
        epoch: Epoch { number: message.number, owner },
        attempt: message.attempt,
        restored,
        sources: message.sources.iter().map(|s| Source { epoch: s.epoch, to: Sqn(s.to) }).collect(),
    })
}

fn encode_state(id: StateId, state: &StateDescriptor) -> store::State {
    store::State {
        id: id.0,
        name: state.name.clone(),
        kind: match state.kind {
            StateKind::Value => 1,
            StateKind::List => 2,
            StateKind::Map => 3,
        },
        merge: match state.merge {
            None => 0,
            Some(MergeFunction::SumI64) => 1,
            Some(MergeFunction::MinI64) => 2,
            Some(MergeFunction::MaxI64) => 3,
            Some(MergeFunction::SumF64) => 4,
            Some(MergeFunction::MinF64) => 5,
            Some(MergeFunction::MaxF64) => 6,
            Some(MergeFunction::Append) => 7,
        },
        serializer: state.serializer.clone(),
    }
}

fn decode_state(message: &store::State) -> Result<(StateId, StateDescriptor), &'static str> {
    let kind = match message.kind {
        1 => StateKind::Value,
        2 => StateKind::List,
        3 => StateKind::Map,
        _ => return Err("an unknown kind of state"),
    };
    let merge = match message.merge {
        0 => None,
        1 => Some(MergeFunction::SumI64),
        2 => Some(MergeFunction::MinI64),
        3 => Some(MergeFunction::MaxI64),
        4 => Some(MergeFunction::SumF64),
        5 => Some(MergeFunction::MinF64),
        6 => Some(MergeFunction::MaxF64),
        7 => Some(MergeFunction::Append),
        _ => return Err("an unknown merge function"),
    };
    let descriptor =
        StateDescriptor { name: message.name.clone(), kind, merge, serializer: message.serializer.clone() };
    Ok((StateId(message.id), descriptor))
}

fn encode_checkpoint(record: &CheckpointRecord) -> store::Checkpoint {
    store::Checkpoint {
        name: Some(name_of(&record.identity)),
        attempt: record.attempt,
        cut: record.cut.0,
        applied_to: record.applied_to,
        attachment: record.attachment.clone(),
        completed: record.completed,
        pinned: record.pinned,
        subsumed: record.subsumed,
        triggered_at_ms: record.triggered_at,
        incremental_bytes: record.incremental_bytes,
        changes: record.changes,
        states_to: record.states_to,
        missing_states: record.missing_states.iter().map(|id| id.0).collect(),
    }
}

fn decode_checkpoint(message: &store::Checkpoint) -> Result<CheckpointRecord, &'static str> {
    let identity = message.name.as_ref().and_then(identity_of).ok_or("a checkpoint without name")?;
    let cut = Sqn(message.cut);
    if cut.epoch() != identity.epoch {
        return Err("a checkpoint whose cut is of another epoch");
    }
    Ok(CheckpointRecord {
        identity,
        attempt: message.attempt,
        cut,
        applied_to: message.applied_to,
        attachment: message.attachment.clone(),
        completed: message.completed,
        pinned: message.pinned,
        subsumed: message.subsumed,
        triggered_at: message.triggered_at_ms,
        incremental_bytes: message.incremental_bytes,
        changes: message.changes,
        states_to: message.states_to,
        missing_states: message.missing_states.iter().copied().map(StateId).collect(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_survives_its_bytes() {
        let manifest = super::super::tests::sample();
        assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
    }

    #[test]
    fn refuses_contents_that_no_manifest_has() {
        let mut manifest = super::super::tests::sample();
        manifest.checkpoints[0].identity.epoch = 2;
        assert!(matches!(Manifest::decode(&manifest.encode()), Err(EnvelopeError::Contents(_))));
    }
}

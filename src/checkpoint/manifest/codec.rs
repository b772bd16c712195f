//! Manifests as bytes: protobuf (`proto/dstl/store/v1/manifest.proto`) in an [`envelope`].

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use super::{
    Attachment, CheckpointRecord, Contents, EpochRecord, Fences, Import, Manifest, Materialization, Shape,
    SnapshotFile, Span, check,
    states::{decode_state, encode_state},
};
use crate::{
    checkpoint::{
        envelope::{self, EnvelopeError, Kind},
        handle::{identity_of, name_of},
        index::{Run, Source, ascend, decode_page_ref, decode_past, decode_source, encode_page_ref, encode_source},
    },
    proto::store,
    types::{BackendId, Epoch, InnerBackend, KeyGroupAssignment, KeyGroupRange, Name, Sqn, StateId},
};

/// Most bytes of one file of a snapshot: sums over all files of an index stay far from the end of a `u64`.
const MAX_FILE_BYTES: u64 = 1 << 48;

impl Manifest {
    /// The manifest as the bytes of an object.
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
                key_group_assignment: encode_assignment(shape.assignment),
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
                snapshot_low_water: self.snapshot_low_water,
                page_low_water: self.page_low_water,
                previous_crc: self.previous_crc,
                opens_epoch: self.opens_epoch,
                materializations: self.materializations.iter().map(encode_materialization).collect(),
                imports: self.imports.iter().map(|import| encode_import(&self.backend, import)).collect(),
                openers: self.fences.openers.clone(),
                tracked_from: self.fences.tracked_from,
            },
        )
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// If the bytes are damaged, or are not a valid manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let message: store::Manifest = envelope::open(Kind::Manifest, bytes)?;
        // With the message beside it: entries that a map has folded together can be seen only there.
        let checked = decode(&message).and_then(|manifest| check::check(&message, &manifest).map(|()| manifest));
        checked.map_err(|what| EnvelopeError::Contents(what.to_owned()))
    }
}

fn decode(message: &store::Manifest) -> Result<Manifest, &'static str> {
    let name = |name: &str| Name::new(name).map_err(|_| "a malformed name");
    let backend = BackendId { job: name(&message.job)?, operator: name(&message.operator)?, subtask: message.subtask };
    Ok(Manifest {
        number: message.number,
        shape: Shape {
            parallelism: message.parallelism,
            max_parallelism: message.max_parallelism,
            key_groups: decode_range(message.key_group_first, message.key_group_last)?,
            assignment: decode_assignment(message.key_group_assignment)?,
            inner: match message.inner {
                1 => InnerBackend::HashMap,
                2 => InnerBackend::RocksDb,
                _ => return Err("an unknown inner backend"),
            },
            changelog: message.changelog,
        },
        epochs: message.epochs.iter().map(decode_epoch).collect::<Result<_, _>>()?,
        states: message.states.iter().map(decode_state).collect::<Result<_, _>>()?,
        runs: decode_runs(&backend, &message.runs)?,
        checkpoints: message.checkpoints.iter().map(decode_checkpoint).collect::<Result<_, _>>()?,
        instance: Uuid::from_slice(&message.instance).map_err(|_| "a malformed UUID")?,
        segment_low_water: message.segment_low_water,
        snapshot_low_water: message.snapshot_low_water,
        page_low_water: message.page_low_water,
        previous_crc: message.previous_crc,
        opens_epoch: message.opens_epoch,
        materializations: message.materializations.iter().map(decode_materialization).collect::<Result<_, _>>()?,
        imports: message.imports.iter().map(|import| decode_import(&backend, import)).collect::<Result<_, _>>()?,
        fences: decode_fences(message)?,
        backend,
    })
}

fn decode_fences(message: &store::Manifest) -> Result<Fences, &'static str> {
    let (tracked_from, openers) = (message.tracked_from, message.openers.clone());
    // Ranges between openers are computed by subtraction, and loops run over them.
    let ascends = [&[tracked_from], openers.as_slice()].concat().is_sorted();
    if !ascends || openers.last().is_some_and(|newest| *newest > message.number) {
        return Err("manifests that opened epochs out of order");
    }
    Ok(Fences { tracked_from, openers })
}

fn encode_assignment(assignment: KeyGroupAssignment) -> u32 {
    match assignment {
        KeyGroupAssignment::Hashed => 1,
        KeyGroupAssignment::Given => 2,
    }
}

fn decode_assignment(code: u32) -> Result<KeyGroupAssignment, &'static str> {
    match code {
        1 => Ok(KeyGroupAssignment::Hashed),
        2 => Ok(KeyGroupAssignment::Given),
        _ => Err("an unknown key-group assignment"),
    }
}

fn decode_runs(backend: &BackendId, runs: &[store::Run]) -> Result<BTreeMap<u64, Run>, &'static str> {
    // Two runs of one epoch would become one entry, and a part of the log would be missing without an error.
    if !runs.is_sorted_by(|one, next| one.epoch < next.epoch) {
        return Err("runs that are out of order, or there twice");
    }
    runs.iter().map(|run| Ok((run.epoch, Run::decode(&backend.job, run)?))).collect()
}

fn decode_sources(sources: &[store::Source]) -> Result<Vec<Source>, &'static str> {
    let sources: Vec<Source> = sources.iter().map(decode_source).collect::<Result<_, _>>()?;
    // Sources are replayed in this order. Overlapping ones would apply changes twice.
    ascend(sources.iter().map(Source::range))?;
    Ok(sources)
}

pub(in crate::checkpoint) fn encode_import(backend: &BackendId, import: &Import) -> store::Import {
    let own = (&backend.job, &backend.operator);
    // Only the subtask is stored, so another operator's import would name objects of the wrong chain.
    assert_eq!((&import.origin.job, &import.origin.operator), own, "imports are of the same operator");
    store::Import {
        uuid: Bytes::copy_from_slice(import.uuid.as_bytes()),
        origin_subtask: import.origin.subtask,
        key_group_first: import.key_groups.first().0.into(),
        key_group_last: import.key_groups.last().0.into(),
        states: import.states.iter().map(|(from, to)| store::ImportedState { origin_id: from.0, id: to.0 }).collect(),
        materialization: import.materialization.as_ref().map(encode_materialization),
        runs: import.runs.iter().map(|(epoch, run)| run.encode(*epoch)).collect(),
        sources: import.sources.iter().map(encode_source).collect(),
        past: import.past.iter().map(encode_page_ref).collect(),
    }
}

pub(in crate::checkpoint) fn decode_import(
    backend: &BackendId,
    message: &store::Import,
) -> Result<Import, &'static str> {
    Ok(Import {
        uuid: Uuid::from_slice(&message.uuid).map_err(|_| "a malformed UUID")?,
        origin: BackendId { subtask: message.origin_subtask, ..backend.clone() },
        key_groups: KeyGroupRange::stored(message.key_group_first, message.key_group_last)
            .map_err(|_| "a malformed range of key groups")?,
        states: message.states.iter().map(|state| (StateId(state.origin_id), StateId(state.id))).collect(),
        materialization: message.materialization.as_ref().map(decode_materialization).transpose()?,
        past: decode_past(&message.past)?,
        runs: decode_runs(backend, &message.runs)?,
        sources: decode_sources(&message.sources)?,
    })
}

fn decode_range(first: u32, last: u32) -> Result<KeyGroupRange, &'static str> {
    KeyGroupRange::new(first, last).map_err(|_| "a malformed range of key groups")
}

fn encode_epoch(record: &EpochRecord) -> store::EpochRecord {
    let span = &record.span;
    store::EpochRecord {
        number: record.epoch.number,
        owner: Bytes::copy_from_slice(record.epoch.owner.as_bytes()),
        attempt: record.attempt,
        restored: record.restored.as_ref().map(|(identity, _)| name_of(identity)),
        restored_attempt: record.restored.map_or(0, |(_, attempt)| attempt),
        sources: record.contents.sources.iter().map(encode_source).collect(),
        base: encode_base(record.contents.base),
        imports: record.contents.imports.iter().map(|uuid| Bytes::copy_from_slice(uuid.as_bytes())).collect(),
        parallelism: span.parallelism,
        max_parallelism: span.max_parallelism,
        key_group_first: span.key_groups.first().0.into(),
        key_group_last: span.key_groups.last().0.into(),
        key_group_assignment: encode_assignment(span.assignment),
        fence: record.is_fence,
        past: record.contents.past.iter().map(encode_page_ref).collect(),
        published_to: record.published_to,
        peer_group: record.peers.clone(),
        job_run: record.job_run.clone(),
    }
}

/// 16 bytes for a UUID, no bytes for `None`.
fn encode_base(base: Option<Uuid>) -> Bytes {
    base.map(|uuid| Bytes::copy_from_slice(uuid.as_bytes())).unwrap_or_default()
}

fn decode_base(base: &[u8]) -> Result<Option<Uuid>, &'static str> {
    if base.is_empty() { Ok(None) } else { Uuid::from_slice(base).map(Some).map_err(|_| "a malformed UUID") }
}

fn encode_materialization(base: &Materialization) -> store::Materialization {
    store::Materialization {
        uuid: Bytes::copy_from_slice(base.uuid.as_bytes()),
        from: base.from.0,
        complete_at: base.complete_at.0,
        index: Some(encode_file(&base.index)),
        index_crc: base.index_crc,
        stored_bytes: base.stored_bytes,
        changes: base.changes,
    }
}

fn decode_materialization(message: &store::Materialization) -> Result<Materialization, &'static str> {
    // The log is replayed from `from` on, and cuts are compared with `complete_at`.
    if message.from > message.complete_at {
        return Err("a materialization that is complete before it begins");
    }
    Ok(Materialization {
        uuid: Uuid::from_slice(&message.uuid).map_err(|_| "a malformed UUID")?,
        from: Sqn(message.from),
        complete_at: Sqn(message.complete_at),
        index: decode_file(message.index.as_ref().ok_or("a materialization without index")?)?,
        index_crc: message.index_crc,
        stored_bytes: message.stored_bytes,
        changes: message.changes,
    })
}

pub(in crate::checkpoint) fn encode_file(file: &SnapshotFile) -> store::SnapshotFile {
    store::SnapshotFile {
        instance: Bytes::copy_from_slice(file.instance.as_bytes()),
        name: file.name.to_string(),
        bytes: file.bytes,
    }
}

pub(in crate::checkpoint) fn decode_file(message: &store::SnapshotFile) -> Result<SnapshotFile, &'static str> {
    // Bounded here, so that sums over all files need no check of their own.
    if message.bytes > MAX_FILE_BYTES {
        return Err("a file of more bytes than files have");
    }
    Ok(SnapshotFile {
        instance: Uuid::from_slice(&message.instance).map_err(|_| "a malformed UUID")?,
        name: Name::new(&message.name).map_err(|_| "a malformed name")?,
        bytes: message.bytes,
    })
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
    let imports = message.imports.iter().map(|uuid| Uuid::from_slice(uuid).map_err(|_| "a malformed UUID"));
    Ok(EpochRecord {
        epoch: Epoch { number: message.number, owner },
        attempt: message.attempt,
        restored,
        contents: Contents {
            imports: imports.collect::<Result<_, _>>()?,
            base: decode_base(&message.base)?,
            past: decode_past(&message.past)?,
            sources: decode_sources(&message.sources)?,
        },
        span: Span {
            parallelism: message.parallelism,
            max_parallelism: message.max_parallelism,
            key_groups: decode_range(message.key_group_first, message.key_group_last)?,
            assignment: decode_assignment(message.key_group_assignment)?,
        },
        peers: message.peer_group.clone(),
        job_run: message.job_run.clone(),
        is_fence: message.fence,
        published_to: message.published_to,
    })
}

fn encode_checkpoint(record: &CheckpointRecord) -> store::Checkpoint {
    store::Checkpoint {
        name: Some(name_of(&record.identity)),
        attempt: record.attempt,
        cut: record.cut.0,
        applied_to: record.applied_to,
        attachment: match &record.attachment {
            Attachment::Here(bytes) => bytes.clone(),
            Attachment::Page(_) => Bytes::new(),
        },
        attachment_page: record.attachment.page().as_ref().map(encode_page_ref),
        job_run: record.job_run.clone(),
        completed: record.completed,
        pinned: record.pinned,
        subsumed: record.subsumed,
        triggered_at_ms: record.triggered_at,
        time_ms: record.time,
        incremental_bytes: record.incremental_bytes,
        changes: record.changes,
        states_to: record.states_to,
        base: encode_base(record.base),
        missing_states: record.missing_states.iter().map(|id| id.0).collect(),
    }
}

fn decode_checkpoint(message: &store::Checkpoint) -> Result<CheckpointRecord, &'static str> {
    let identity = message.name.as_ref().and_then(identity_of).ok_or("a checkpoint without name")?;
    let cut = Sqn(message.cut);
    // The cut lies in the run of the checkpoint's own epoch. One of another epoch would have no changes at all, or all.
    if cut.epoch() != identity.epoch {
        return Err("a checkpoint whose cut is of another epoch");
    }
    Ok(CheckpointRecord {
        identity,
        attempt: message.attempt,
        cut,
        applied_to: message.applied_to,
        attachment: match &message.attachment_page {
            Some(page) => Attachment::Page(decode_page_ref(page)?),
            None => Attachment::Here(message.attachment.clone()),
        },
        job_run: message.job_run.clone(),
        completed: message.completed,
        pinned: message.pinned,
        subsumed: message.subsumed,
        triggered_at: message.triggered_at_ms,
        time: message.time_ms,
        incremental_bytes: message.incremental_bytes,
        changes: message.changes,
        states_to: message.states_to,
        base: decode_base(&message.base)?,
        missing_states: message.missing_states.iter().copied().map(StateId).collect(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_survives_its_bytes() {
        let mut manifest = super::super::tests::sample();
        manifest.checkpoints[0].time = 1_700_000_000_001;
        assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
    }

    #[test]
    fn refuses_contents_that_no_manifest_has() {
        let mut manifest = super::super::tests::sample();
        manifest.checkpoints[0].identity.epoch = 2;
        assert!(matches!(Manifest::decode(&manifest.encode()), Err(EnvelopeError::Contents(_))));
    }
}

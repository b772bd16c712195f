//! Making a savepoint of a checkpoint that the store has, while whoever owns it goes on.
//!
//! ```text
//!   checkpoint, pinned ([`source`]) ──▶ parts ([`reader`](crate::restore::reader)) ──▶ rows ([`rows`]) ──▶ files ──▶ metadata
//! ```
//!
//! In memory are the state of some key groups and one file. What was written of a savepoint that does not come to be is
//! deleted; what a killed process left is removed with [`remove`].

pub mod files;
pub mod native;
pub mod pages;
pub mod part;
pub mod rows;
pub mod source;

use std::collections::BTreeMap;

use self::{
    files::Files,
    rows::RowError,
    source::{Found, Parts, Source, SourceError},
};
use crate::{
    checkpoint::manifest::{CheckpointRecord, Manifest},
    object::{Path, PutPayload, Retry, Store, StoreError},
    restore::{
        Progress,
        reader::{Reader, ReaderOptions},
    },
    savepoint::{Metadata, OperatorMeta, SavepointError, SavepointId, StateMeta, SubtaskMeta},
    types::{Attempt, Name, StateDescriptor, TimeMs},
};

/// A checkpoint to make a savepoint of.
#[derive(Debug, Clone)]
pub struct Export {
    /// The checkpoint that the savepoint is made of.
    pub source: Source,
    /// The name of the savepoint.
    pub name: Name,
    /// The present time, which becomes the time of the savepoint.
    pub now: TimeMs,
}

/// Why no savepoint was made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The name is taken.
    #[error("`{0}` exists already, whole or in part: choose another name, or remove it (`dstl savepoint rm`)")]
    Exists(Path),
    /// Two states of one name.
    #[error(
        "operator `{operator}`: state `{state}` is there in two forms, since its schema is being changed; make the savepoint of a checkpoint \
         after that is done in every subtask"
    )]
    TwoForms {
        /// The operator that has both.
        operator: Name,
        /// The name that both forms have.
        state: String,
    },
    /// The key groups of the subtasks are no partition.
    #[error("the checkpoint would make no savepoint that can be restored: {0}")]
    Unfit(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A savepoint cannot be read.
    #[error(transparent)]
    Savepoint(#[from] SavepointError),
    /// A file cannot be made.
    #[error("writing rows: {0}")]
    Rows(String),
}

impl From<RowError> for ExportError {
    fn from(error: RowError) -> Self {
        Self::Rows(error.to_string())
    }
}

/// Makes a savepoint; tells `progress` what was read of each part. Cancel-safe: dropped, files may stay, without
/// metadata.
///
/// # Errors
/// [`ExportError`]; then there is no savepoint.
pub async fn create(
    export: &Export,
    options: &ReaderOptions<'_>,
    progress: impl FnMut(Progress),
) -> Result<Metadata, ExportError> {
    create_of(export, None, options, progress).await
}

/// As [`create`], of the checkpoint that this attempt made.
///
/// # Errors
/// As for [`create`].
pub async fn create_of(
    export: &Export,
    attempt: Option<Attempt>,
    options: &ReaderOptions<'_>,
    mut progress: impl FnMut(Progress),
) -> Result<Metadata, ExportError> {
    let id = SavepointId { job: export.source.job.clone(), name: export.name.clone() };
    let mut files = Files::new(options, &id).await?;
    let read = async |found: &Found<'_>| {
        let written = write(export, options, found, &mut files, &mut progress).await;
        // Without metadata these files are no savepoint, and would be in the way of the next one of this name.
        if written.is_err() {
            files.delete().await;
        }
        written
    };
    export.source.read_of(attempt, options, read).await
}

/// Deletes all of a savepoint, its metadata first; tells how many objects there were. Cancel-safe: dropped, some stay,
/// and it is no savepoint any more.
///
/// # Errors
/// [`SavepointError::NotFound`] if there is nothing of it.
pub async fn remove(id: &SavepointId, store: &Store, retry: Retry) -> Result<u64, ExportError> {
    let objects = store.list(&id.folder(), retry).await?;
    if objects.is_empty() {
        return Err(SavepointError::NotFound(id.folder()).into());
    }
    // Ordering: the metadata goes first. From then on there is no savepoint, and the same call deletes the rest if this
    // one stops half-way. In the other order there could be a savepoint whose files are gone.
    store.delete(&id.metadata(), retry).await?;
    let count = objects.len() as u64;
    store.delete_all(objects.into_iter().map(|object| object.path).collect(), retry).await?;
    Ok(count)
}

/// Writes the rows of every operator, and the metadata after them.
async fn write(
    export: &Export,
    options: &ReaderOptions<'_>,
    found: &Found<'_>,
    files: &mut Files<'_>,
    progress: &mut impl FnMut(Progress),
) -> Result<Metadata, ExportError> {
    let mut metadata = Metadata {
        job: export.source.job.to_string(),
        checkpoint: found.checkpoint.id,
        attempt: found.checkpoint.attempt,
        created_ms: export.now,
        operators: BTreeMap::new(),
    };
    for (operator, parts) in &found.operators {
        let states = states(operator, parts)?;
        // Ordering: attachments are read before rows. A damaged one then ends the savepoint before most of the work.
        let mut subtasks = vec![];
        for (manifest, record) in parts {
            subtasks.push(subtask(manifest, record, options).await?);
        }
        files.begin(operator);
        for (manifest, record) in parts {
            let mut reader = Reader::new(options.clone(), manifest, record);
            let unreadable = |source| SourceError::Unreadable { of: manifest.backend.clone(), source };
            while let Some(part) = reader.next().await.map_err(unreadable)? {
                files.add(manifest.backend.subtask, reader.states(), &part).await?;
                progress(reader.progress());
            }
        }
        let (rows, written) = files.end().await?;
        let Some((first, record)) = parts.first() else { continue };
        let span = first.span(record);
        let states = states.into_values().map(|descriptor| {
            let rows = rows.get(&descriptor.name).copied().unwrap_or(0);
            StateMeta { rows, descriptor }
        });
        let operator_meta = OperatorMeta {
            parallelism: span.parallelism,
            max_parallelism: span.max_parallelism,
            assignment: span.assignment,
            states: states.collect(),
            subtasks,
            files: written,
        };
        metadata.operators.insert(operator.to_string(), operator_meta);
    }
    // Ordering: the metadata is written last, since the savepoint exists as soon as it does.
    let bytes = metadata.encode();
    // What nobody could read is not written.
    Metadata::decode(&bytes).map_err(ExportError::Unfit)?;
    files.create(&files.id().metadata(), PutPayload::from_bytes(bytes)).await?;
    Ok(metadata)
}

async fn subtask(
    manifest: &Manifest,
    record: &CheckpointRecord,
    options: &ReaderOptions<'_>,
) -> Result<SubtaskMeta, ExportError> {
    Ok(SubtaskMeta {
        key_groups: manifest.span(record).key_groups.into(),
        epoch: record.identity.epoch,
        uuid: record.identity.uuid.to_string(),
        attachment: source::attachment(manifest, record, options).await?,
        time_ms: record.time,
    })
}

/// The states of an operator by name. Pure.
///
/// # Errors
/// If its subtasks have one in two forms.
pub fn states(operator: &Name, parts: &Parts<'_>) -> Result<BTreeMap<String, StateDescriptor>, ExportError> {
    let mut states: BTreeMap<String, StateDescriptor> = BTreeMap::new();
    for (manifest, record) in parts {
        let in_force = manifest.states.iter().filter(|(id, _)| record.has_state(**id));
        for descriptor in in_force.map(|(_, registration)| &registration.descriptor) {
            let known = states.entry(descriptor.name.clone()).or_insert_with(|| descriptor.clone());
            // While a schema is being changed, the old form and the new one have the same name.
            let is_twice = manifest
                .states
                .iter()
                .filter(|(id, other)| record.has_state(**id) && other.descriptor.name == descriptor.name)
                .count()
                > 1;
            if *known != *descriptor || is_twice {
                return Err(ExportError::TwoForms { operator: operator.clone(), state: descriptor.name.clone() });
            }
        }
    }
    Ok(states)
}

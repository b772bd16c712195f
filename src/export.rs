//! Making a savepoint of a checkpoint that the store has, while whoever owns it goes on.
//!
//! ```text
//!   heads ──▶ checkpoint that all operators have ──▶ pin ──▶ heads again ──▶ read part by part ──▶ files ──▶ metadata ──▶ unpin
//! ```
//!
//! Nothing of the job is stopped, fenced or written to, but for the pin, which is renewed while it is read. In memory are the state of
//! some key groups ([`reader`](crate::restore::reader)) and one file. What was written of a savepoint that does not come to be is deleted; what a
//! killed process left is removed with [`remove`].

mod rows;

use std::collections::BTreeMap;

use crate::{
    checkpoint::{
        chain::ChainError,
        generation,
        job::{self, JobCheckpoint, JobView, Latest},
        manifest::{CheckpointRecord, Import, Manifest},
        pin::{self, Held, Pin, PinLost, release_all},
    },
    object::{Path, PutPayload, StoreError},
    restore::{
        Progress, RestoreError,
        reader::{Reader, ReaderError, ReaderOptions},
    },
    savepoint::{Metadata, OperatorMeta, SavepointError, SavepointId, StateMeta, SubtaskMeta},
    types::{KeyGroupRange, Name, StateDescriptor, StateId, TimeMs},
};

/// A checkpoint to make a savepoint of.
#[derive(Debug, Clone)]
pub struct Export {
    /// The job.
    pub job: Name,
    /// The id of the checkpoint; `None` for the newest that all operators have.
    pub checkpoint: Option<u64>,
    /// The name of the savepoint.
    pub name: Name,
    /// Lease of the pins that keep what is read, in milliseconds.
    pub lease_ms: u64,
    /// The time.
    pub now: TimeMs,
}

/// Why no savepoint was made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no such job.
    #[error("the store has no backend of job `{0}`")]
    NoJob(Name),
    /// There is no such checkpoint.
    #[error("job `{job}` has no checkpoint {wanted} that every subtask of every operator retains; there are: {there}")]
    NoCheckpoint {
        /// The job.
        job: Name,
        /// What was asked for.
        wanted: String,
        /// Those that could be had.
        there: String,
    },
    /// The name is taken.
    #[error("`{0}` exists already, whole or in part: choose another name, or remove it (`dstl savepoint rm`)")]
    Exists(Path),
    /// The checkpoint was let go of before it was pinned.
    #[error("checkpoint {0} was let go of meanwhile; try again")]
    LetGo(u64),
    /// Two states of one name.
    #[error(
        "operator `{operator}`: state `{state}` is there in two forms, since its schema is being changed; make the savepoint of a checkpoint \
         after that is done in every subtask"
    )]
    TwoForms {
        /// Of which.
        operator: Name,
        /// Of both.
        state: String,
    },
    /// The key groups of the subtasks are no partition.
    #[error("the checkpoint would make no savepoint that can be restored: {0}")]
    Unfit(String),
    /// A part of the checkpoint cannot be read.
    #[error("`{job}/{operator}/{subtask}`: {source}", job = .of.0, operator = .of.1, subtask = .of.2)]
    Unreadable {
        /// Of which backend.
        of: (Name, Name, u32),
        /// Why.
        source: ReaderError,
    },
    /// What was to keep the checkpoint is gone.
    #[error("{0}; what is read may be deleted meanwhile")]
    Pin(Box<PinLost>),
    /// A chain cannot be read.
    #[error(transparent)]
    Chain(#[from] ChainError),
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

impl From<PinLost> for ExportError {
    fn from(lost: PinLost) -> Self {
        Self::Pin(Box::new(lost))
    }
}

/// The parts of a checkpoint of one operator, by subtask.
type Parts<'a> = Vec<(&'a Manifest, &'a CheckpointRecord)>;

/// Makes a savepoint; tells `progress` what was read of each part. Cancel-safe: dropped, files may stay, without metadata.
///
/// # Errors
/// [`ExportError`]; then there is no savepoint.
pub async fn create(
    export: &Export,
    options: &ReaderOptions<'_>,
    mut progress: impl FnMut(Progress),
) -> Result<Metadata, ExportError> {
    let id = SavepointId { job: export.job.clone(), name: export.name.clone() };
    if !options.store.list(&id.folder(), options.retry).await?.is_empty() {
        return Err(ExportError::Exists(id.folder()));
    }
    let heads = job::read_heads(options.store, &export.job, options.retry).await?;
    let chosen = choose(export, &heads)?;
    let operators = parts(&heads, chosen);
    let mut pins = vec![];
    let made = async {
        make_pins(export, options, &operators, &mut pins).await?;
        let again = job::read_heads(options.store, &export.job, options.retry).await?;
        if is_gone(&operators, &again) {
            return Err(ExportError::LetGo(chosen.id));
        }
        let mut files = rows::Files::new(options, &id);
        let write = write(export, options, (&operators, chosen), (&mut files, &mut progress));
        let written = tokio::select! {
            biased;
            lost = pin::keep_all(&mut pins) => Err(lost.into()),
            written = write => written,
        };
        if written.is_err() {
            files.delete().await;
        }
        written
    };
    let made = made.await;
    release_all(pins).await;
    made
}

/// Deletes all of a savepoint, its metadata first; tells how many objects there were. Cancel-safe: dropped, some stay, and it is no
/// savepoint any more.
///
/// # Errors
/// [`SavepointError::NotFound`] if there is nothing of it.
pub async fn remove(id: &SavepointId, options: &ReaderOptions<'_>) -> Result<u64, ExportError> {
    let objects = options.store.list(&id.folder(), options.retry).await?;
    if objects.is_empty() {
        return Err(SavepointError::NotFound(id.folder()).into());
    }
    options.store.delete(&id.metadata(), options.retry).await?;
    let count = objects.len() as u64;
    options.store.delete_all(objects.into_iter().map(|object| object.path).collect(), options.retry).await?;
    Ok(count)
}

/// The checkpoint that is meant. Pure.
fn choose(export: &Export, heads: &[Manifest]) -> Result<JobCheckpoint, ExportError> {
    if heads.is_empty() {
        return Err(ExportError::NoJob(export.job.clone()));
    }
    let view = JobView::of(heads);
    let chosen = match export.checkpoint {
        Some(id) => view.consistent.iter().rev().find(|checkpoint| checkpoint.id == id).copied(),
        None => match view.latest() {
            Latest::Checkpoint(latest) => Some(latest),
            Latest::Nothing | Latest::Inconsistent => None,
        },
    };
    let ids = || view.consistent.iter().map(|checkpoint| checkpoint.id.to_string()).collect::<Vec<_>>();
    chosen.ok_or_else(|| ExportError::NoCheckpoint {
        job: export.job.clone(),
        wanted: export.checkpoint.map_or_else(|| "at all".to_owned(), |id| id.to_string()),
        there: if ids().is_empty() { "none".to_owned() } else { ids().join(", ") },
    })
}

fn parts(heads: &[Manifest], chosen: JobCheckpoint) -> BTreeMap<Name, Parts<'_>> {
    let names = heads.iter().map(|head| head.backend.operator.clone());
    let mut operators: BTreeMap<Name, Parts<'_>> = BTreeMap::new();
    for operator in names {
        operators.entry(operator.clone()).or_insert_with(|| generation::parts(heads, &operator, chosen));
    }
    operators
}

async fn make_pins(
    export: &Export,
    options: &ReaderOptions<'_>,
    operators: &BTreeMap<Name, Parts<'_>>,
    pins: &mut Vec<Held>,
) -> Result<(), ExportError> {
    for (operator, parts) in operators {
        let imports = parts.iter().flat_map(|(manifest, record)| everything(manifest, record, options)).collect();
        let pin = Pin { operator: operator.clone(), lease_ms: export.lease_ms, imports };
        pins.push(Held::make(options.store, &export.job, &pin, options.random, options.retry).await?);
    }
    Ok(())
}

/// All that a part of the checkpoint names.
fn everything(manifest: &Manifest, record: &CheckpointRecord, options: &ReaderOptions<'_>) -> Vec<Import> {
    let ids: BTreeMap<StateId, StateId> = manifest.states.values().map(|state| (state.data, state.data)).collect();
    let ranges = [manifest.span(record).key_groups, KeyGroupRange::OPERATOR];
    ranges.iter().flat_map(|range| manifest.export(record, *range, &ids, || options.random.uuid())).collect()
}

/// Whether one of the parts is retained no longer.
fn is_gone(operators: &BTreeMap<Name, Parts<'_>>, heads: &[Manifest]) -> bool {
    operators.values().flatten().any(|(manifest, record)| {
        let head = heads.iter().find(|head| head.backend == manifest.backend);
        !head.is_some_and(|head| head.checkpoints.iter().any(|other| other.identity == record.identity))
    })
}

/// Writes everything.
async fn write(
    export: &Export,
    options: &ReaderOptions<'_>,
    (operators, chosen): (&BTreeMap<Name, Parts<'_>>, JobCheckpoint),
    (files, progress): (&mut rows::Files<'_>, &mut impl FnMut(Progress)),
) -> Result<Metadata, ExportError> {
    let mut metadata = Metadata {
        job: export.job.to_string(),
        checkpoint: chosen.id,
        attempt: chosen.attempt,
        created_ms: export.now,
        operators: BTreeMap::new(),
    };
    for (operator, parts) in operators {
        let states = states(operator, parts)?;
        let mut subtasks = vec![];
        for (manifest, record) in parts {
            subtasks.push(subtask(manifest, record, options).await?);
        }
        files.begin(operator);
        for (manifest, record) in parts {
            let mut reader = Reader::new(options.clone(), manifest, record);
            let subtask = manifest.backend.subtask;
            let unreadable =
                |source| ExportError::Unreadable { of: (export.job.clone(), operator.clone(), subtask), source };
            while let Some(part) = reader.next().await.map_err(unreadable)? {
                files.add(subtask, reader.states(), &part).await?;
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
    let backend = &manifest.backend;
    let of = (backend.job.clone(), backend.operator.clone(), backend.subtask);
    let read = record.attachment.read(options.store, (backend, record.identity), options.retry).await?;
    let damaged = |fault| RestoreError::Damaged { checkpoint: record.identity.id, fault };
    let attachment = read.map_err(|fault| ExportError::Unreadable { of, source: damaged(fault).into() })?;
    Ok(SubtaskMeta {
        key_groups: manifest.span(record).key_groups.into(),
        epoch: record.identity.epoch,
        uuid: record.identity.uuid.to_string(),
        attachment,
        time_ms: record.time,
    })
}

/// The states of an operator by name.
///
/// # Errors
/// If its subtasks have one in two forms.
fn states(operator: &Name, parts: &Parts<'_>) -> Result<BTreeMap<String, StateDescriptor>, ExportError> {
    let mut states: BTreeMap<String, StateDescriptor> = BTreeMap::new();
    for (manifest, record) in parts {
        let in_force = manifest.states.iter().filter(|(id, _)| record.has_state(**id));
        for descriptor in in_force.map(|(_, registration)| &registration.descriptor) {
            let known = states.entry(descriptor.name.clone()).or_insert_with(|| descriptor.clone());
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

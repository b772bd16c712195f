//! A checkpoint of a whole job that the store has, kept by pins while it is read.
//!
//! ```text
//!   heads ──▶ checkpoint that all operators have ──▶ pin ──▶ heads again ──▶ read part by part ──▶ unpin
//! ```
//!
//! Nothing of the job is stopped, fenced or written to, but for the pins, which are renewed while it is read.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::rows::RowError;
use crate::{
    checkpoint::{
        chain::ChainError,
        generation,
        job::{self, JobCheckpoint, JobView, Latest},
        manifest::{CheckpointRecord, Import, Manifest},
        pin::{self, Held, Pin, PinLost, release_all},
    },
    object::StoreError,
    restore::{
        RestoreError,
        reader::{ReaderError, ReaderOptions},
    },
    types::{Attempt, BackendId, KeyGroupRange, Name, StateId},
};

/// A checkpoint to read.
#[derive(Debug, Clone)]
pub struct Source {
    /// The job whose checkpoint is read.
    pub job: Name,
    /// The id of the checkpoint; `None` for the newest that all operators have.
    pub checkpoint: Option<u64>,
    /// Lease of the pins that keep the checkpoint while it is read, in milliseconds. 0 for no pins, where nobody
    /// deletes its objects.
    pub lease_ms: u64,
}

/// The checkpoint that a [`Source`] names.
#[derive(Debug)]
pub struct Found<'a> {
    /// Its id, and the attempt that made it.
    pub checkpoint: JobCheckpoint,
    /// The parts of each operator, by subtask.
    pub operators: BTreeMap<Name, Parts<'a>>,
}

/// The parts of a checkpoint of one operator, by subtask.
pub type Parts<'a> = Vec<(&'a Manifest, &'a CheckpointRecord)>;

/// Why a checkpoint is not read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no such job.
    #[error("the store has no backend of job `{0}`")]
    NoJob(Name),
    /// There is no such checkpoint.
    #[error("job `{job}` has no checkpoint {wanted} that every subtask of every operator retains; there are: {there}")]
    NoCheckpoint {
        /// The job that was asked for its checkpoints.
        job: Name,
        /// The id that was asked for.
        wanted: String,
        /// The ids that could be had.
        there: String,
    },
    /// There is no such checkpoint of one subtask.
    #[error("backend `{of}` retains no checkpoint {id} of epoch {epoch}: it never completed, or was let go of")]
    NoPart {
        /// The backend that the part would belong to.
        of: BackendId,
        /// The id of the checkpoint.
        id: u64,
        /// The number of the epoch that made it.
        epoch: u64,
    },
    /// The checkpoint was let go of before it was pinned.
    #[error("checkpoint {0} was let go of meanwhile; try again")]
    LetGo(u64),
    /// A part of the checkpoint cannot be read.
    #[error("`{of}`: {source}")]
    Unreadable {
        /// The backend that the part belongs to.
        of: BackendId,
        /// The fault that the reader found.
        source: ReaderError,
    },
    /// A change in a part of the checkpoint makes no row.
    #[error("`{of}`: {source}")]
    Rows {
        /// The backend that the part belongs to.
        of: BackendId,
        /// The fault of the row.
        source: RowError,
    },
    /// A pin that was to keep the checkpoint is gone.
    #[error("{0}; what is read may be deleted meanwhile")]
    Pin(Box<PinLost>),
    /// A chain cannot be read.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<PinLost> for SourceError {
    fn from(lost: PinLost) -> Self {
        Self::Pin(Box::new(lost))
    }
}

impl Source {
    /// Finds the checkpoint, and lets `read` read it. Cancel-safe: dropped, the pins stay until their lease ends.
    ///
    /// # Errors
    /// [`SourceError`], as `E`, or that of `read`.
    pub async fn read<T, E: From<SourceError>>(
        &self,
        options: &ReaderOptions<'_>,
        read: impl AsyncFnOnce(&Found<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.read_of(None, options, read).await
    }

    /// As [`read`](Self::read), of the checkpoint that this attempt made, if there is one.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub async fn read_of<T, E: From<SourceError>>(
        &self,
        attempt: Option<Attempt>,
        options: &ReaderOptions<'_>,
        read: impl AsyncFnOnce(&Found<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let heads = job::read_heads(options.store, &self.job, options.retry).await.map_err(SourceError::from)?;
        let checkpoint = self.choose(&heads, attempt)?;
        let found = Found { checkpoint, operators: parts(&heads, checkpoint) };
        // The pins are kept outside of the future that makes them: those that were made are released even if the next
        // one fails.
        let mut pins = vec![];
        let pinned = async {
            // Ordering 1: the pins are written.
            // Ordering 2: the heads are read again. A deleter publishes the removal of a checkpoint, and then lists the
            // pins. So either the deleter sees the pin, or this reading sees the removal. Without it, a checkpoint that
            // was removed between the first reading and the pin would be deleted while it is read.
            self.pin(&found, options, &mut pins).await?;
            let again = job::read_heads(options.store, &self.job, options.retry).await?;
            if is_gone(&found.operators, &again) { Err(SourceError::LetGo(checkpoint.id)) } else { Ok(()) }
        };
        let done = match pinned.await {
            Err(error) => Err(error.into()),
            Ok(()) => tokio::select! {
                biased;
                // Ordering: a lost pin is looked at first, and ends the reading at once. What is read without a pin may
                // be deleted under the reader, which would take that for damage.
                lost = pin::keep_all(&mut pins) => Err(SourceError::from(lost).into()),
                done = read(&found) => done,
            },
        };
        release_all(pins).await;
        done
    }

    /// The checkpoint that is meant, among those that `heads` retain; that of `attempt`, if one is given. Pure.
    ///
    /// # Errors
    /// [`SourceError::NoJob`], [`SourceError::NoCheckpoint`].
    pub fn choose(&self, heads: &[Manifest], attempt: Option<Attempt>) -> Result<JobCheckpoint, SourceError> {
        if heads.is_empty() {
            return Err(SourceError::NoJob(self.job.clone()));
        }
        let view = JobView::of(heads);
        let is_of = |checkpoint: &JobCheckpoint| attempt.is_none_or(|attempt| checkpoint.attempt == attempt);
        let chosen = match self.checkpoint {
            Some(id) => view.consistent.iter().rev().find(|it| it.id == id && is_of(it)).copied(),
            None => match view.latest() {
                Latest::Checkpoint(latest) => Some(latest),
                Latest::Nothing | Latest::Inconsistent => None,
            },
        };
        let ids = || view.consistent.iter().map(|checkpoint| checkpoint.id.to_string()).collect::<Vec<_>>();
        chosen.ok_or_else(|| SourceError::NoCheckpoint {
            job: self.job.clone(),
            wanted: self.checkpoint.map_or_else(|| "at all".to_owned(), |id| id.to_string()),
            there: if ids().is_empty() { "none".to_owned() } else { ids().join(", ") },
        })
    }

    async fn pin(
        &self,
        found: &Found<'_>,
        options: &ReaderOptions<'_>,
        pins: &mut Vec<Held>,
    ) -> Result<(), SourceError> {
        if self.lease_ms == 0 {
            return Ok(());
        }
        for (operator, parts) in &found.operators {
            let imports = parts.iter().flat_map(|(manifest, record)| everything(manifest, record, options)).collect();
            let pin = Pin { operator: operator.clone(), lease_ms: self.lease_ms, imports };
            pins.push(Held::make(options.store, &self.job, &pin, options.random, options.retry).await?);
        }
        Ok(())
    }
}

/// The attachment of a part.
///
/// # Errors
/// If it cannot be read.
pub async fn attachment(
    manifest: &Manifest,
    record: &CheckpointRecord,
    options: &ReaderOptions<'_>,
) -> Result<Bytes, SourceError> {
    let backend = &manifest.backend;
    let read = record.attachment.read(options.store, backend, record.identity, options.retry).await?;
    let damaged = |fault| RestoreError::Damaged { checkpoint: record.identity.id, fault };
    read.map_err(|fault| SourceError::Unreadable { of: backend.clone(), source: damaged(fault).into() })
}

/// The parts of the checkpoint `chosen` that `heads` retain, by operator. Pure.
#[must_use]
pub fn parts(heads: &[Manifest], chosen: JobCheckpoint) -> BTreeMap<Name, Parts<'_>> {
    let names = heads.iter().map(|head| head.backend.operator.clone());
    let mut operators: BTreeMap<Name, Parts<'_>> = BTreeMap::new();
    for operator in names {
        operators.entry(operator.clone()).or_insert_with(|| generation::parts(heads, &operator, chosen));
    }
    operators
}

/// All that a part of the checkpoint names.
pub(super) fn everything(manifest: &Manifest, record: &CheckpointRecord, options: &ReaderOptions<'_>) -> Vec<Import> {
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

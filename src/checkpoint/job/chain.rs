//! The chain of a job's records on the store.
//!
//! As in a backend's manifest chain, a record is made by create-if-absent at the number after the one that it is
//! derived from, and the highest number is the authority. Each record says everything that is still true. So older ones
//! are never read, and a sweep deletes all but the newest [`KEPT_RECORDS`] of them. A writer that was stopped for long
//! may then create one of those numbers again. Below the newest record that has no effect, and the writer notices,
//! because it looks at the chain again after its request.

use super::{ATTEMPTS, JobError, JobRecord};
use crate::{
    object::{
        Created, PutPayload, Retry, Store, StoreError,
        layout::{self, ObjectName},
    },
    types::Name,
};

/// Newest records that stay: more than are made between a listing and a read.
pub const KEPT_RECORDS: u64 = 64;

/// Reads the newest record of `job`. Cancel-safe.
///
/// # Errors
/// If it cannot be read.
pub async fn newest(store: &Store, job: &Name, retry: Retry) -> Result<Option<JobRecord>, JobError> {
    newer(store, job, 0, retry).await
}

/// Reads the newest record of `job` if its number is above `seen`. Cancel-safe.
///
/// # Errors
/// If it cannot be read.
pub async fn newer(store: &Store, job: &Name, seen: u64, retry: Retry) -> Result<Option<JobRecord>, JobError> {
    let mut lost = None;
    for _ in 0..ATTEMPTS {
        let newest = newest_number(store, job, retry).await?;
        let Some(number) = newest.filter(|number| *number > seen) else { return Ok(None) };
        let path = ObjectName::JobRecord { job: job.clone(), number }.path();
        // Never falls back to an older record if the newest is damaged: the newest may be a commit, and a generation
        // that is derived from the record before it would restore an older checkpoint.
        match store.get_checked(&path, retry, |bytes| JobRecord::decode(bytes)).await {
            Ok(decoded) => {
                let (job, object) = (job.clone(), path.to_string());
                return decoded.map(Some).map_err(|source| JobError::Corrupt { job, object, source });
            }
            // The record was swept meanwhile; but if it is listed as the newest again, it is missing.
            Err(StoreError::NotFound { .. }) if lost != Some(number) => lost = Some(number),
            Err(error) => return Err(error.into()),
        }
    }
    Err(JobError::Contended(job.clone()))
}

/// Reads the record of one number; `None` if it is damaged or does not exist.
pub(super) async fn read(store: &Store, job: &Name, number: u64, retry: Retry) -> Result<Option<JobRecord>, JobError> {
    let path = ObjectName::JobRecord { job: job.clone(), number }.path();
    let bytes = store.get_optional(&path, retry).await?;
    Ok(bytes.and_then(|bytes| JobRecord::decode(&bytes).ok()))
}

async fn newest_number(store: &Store, job: &Name, retry: Retry) -> Result<Option<u64>, JobError> {
    Ok(numbers(store, job, retry).await?.last().copied())
}

/// The numbers of all existing records, ascending.
pub(super) async fn numbers(store: &Store, job: &Name, retry: Retry) -> Result<Vec<u64>, JobError> {
    let objects = store.list(&layout::job_records(job), retry).await?;
    let number = |name| match name {
        ObjectName::JobRecord { number, .. } => Some(number),
        _ => None,
    };
    let mut numbers: Vec<u64> =
        objects.iter().filter_map(|meta| ObjectName::parse(&meta.path)).filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Appends `record`, which was derived from the newest one. Returns whether it is the newest now. If not, it may still
/// be part of the chain, so read the chain again. Cancel-safe: if dropped, it may be appended.
///
/// # Errors
/// The error of the store.
pub(super) async fn append(store: &Store, job: &Name, record: &JobRecord, retry: Retry) -> Result<bool, JobError> {
    // The number is that of the record before plus one, so the create succeeds for one of all those who derived from
    // it.
    let path = ObjectName::JobRecord { job: job.clone(), number: record.number }.path();
    match store.create(&path, PutPayload::from_bytes(record.encode()), retry).await? {
        // Ordering 1: the record becomes durable. Ordering 2: only then the chain is listed. A writer that was stopped
        // for long may create a number that a sweep has deleted below newer records; the create alone would look like
        // success, and the writer would rely on a record that nobody ever reads.
        Created::New | Created::Identical => Ok(newest_number(store, job, retry).await? == Some(record.number)),
        Created::Conflict => Ok(false),
    }
}

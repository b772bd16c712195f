//! A way past a newest job record that is damaged for good: a record above it, in which the choice of the next attempt
//! is open.
//!
//! The damaged record stays, as its number must not become free. It may have recorded the choice of an attempt that has
//! begun. So the new record is of the attempt after the highest one that the job knows of, and tasks with a lower
//! attempt have to begin again.

use super::{Beginning, JobError, JobRecord, chain, read_heads};
use crate::{
    object::{Retry, Store},
    types::{Attempt, Name},
};

/// Adds a record above the newest one of `job`, which is damaged, with at least `attempt`. Returns it; `None` if the
/// newest record is whole. Cancel-safe: if dropped, it may be done.
///
/// # Errors
/// If the chains cannot be read, or the store fails.
pub async fn mend_records(
    store: &Store,
    job: &Name,
    attempt: Attempt,
    retry: Retry,
) -> Result<Option<JobRecord>, JobError> {
    // Read twice: one wrong answer of the store is no proof.
    for _ in 0..2 {
        match chain::newest(store, job, retry).await {
            Err(JobError::Corrupt { .. }) => {}
            newest => return newest.map(|_| None),
        }
    }
    let numbers = chain::numbers(store, job, retry).await?;
    let Some(newest) = numbers.last().copied() else { return Ok(None) };
    let mut older = None;
    for number in numbers.into_iter().rev().skip(1) {
        // Only its marks and its attempt are used. Its commit is not: the damaged record may have committed a newer
        // checkpoint, and a later generation would restore the older one without telling.
        older = chain::read(store, job, number, retry).await?;
        if older.is_some() {
            break;
        }
    }
    let heads = read_heads(store, job, retry).await?;
    let known = heads.iter().map(|head| head.owner().attempt).chain(older.as_ref().map(|older| older.attempt));
    let attempt = known.max().map_or(1, |known| known.saturating_add(1)).max(attempt);
    let spoilt = older.map_or_else(Vec::new, |older| older.spoilt);
    let number = newest + 1;
    let undeclared = JobRecord::undeclared(None, attempt, Beginning::Undecided, spoilt);
    // Above the damaged record, whose number stays taken.
    let record = JobRecord { number, began: number, ..undeclared };
    if chain::append(store, job, &record, retry).await? {
        return Ok(Some(record));
    }
    // Another caller was faster and mended it.
    chain::newest(store, job, retry).await.map(|_| None)
}

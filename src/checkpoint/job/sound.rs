//! Falling back: the newest consistent checkpoint of which nothing is damaged, as far as that shows without loading it.
//!
//! Whoever chooses for the others examines the whole job, newest checkpoint first, and records what it skipped along
//! with its choice. What shows only while a restore reads is recorded too ([`mark`]), by whoever met it. The choice of
//! an attempt is never changed, since other subtasks may go on from it already: the next attempt skips what is marked,
//! unless the object that spoilt it now reads well: then the mark is taken back.

use std::collections::BTreeSet;

use super::{ATTEMPTS, Beginning, JobCheckpoint, JobError, JobRecord, JobView, chain, choose, read_heads};
use crate::{
    checkpoint::{
        chain::ChainError,
        damage::{self, Fault},
        generation,
        manifest::Manifest,
    },
    object::{Path, Retry, Store},
    types::{Attempt, BackendId},
};

/// Bytes that a record tells of why a checkpoint is damaged, at most.
const MAX_REASON_BYTES: usize = 400;

/// A checkpoint that is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoilt {
    /// Which.
    pub checkpoint: JobCheckpoint,
    /// An object that is missing or corrupt, and how.
    pub what: String,
    /// The path of that object, if it is one that a part names; empty if not.
    pub object: String,
}

impl Spoilt {
    /// Of `checkpoint`, by `fault`; the reason is cut short where it is long.
    #[must_use]
    pub fn new(checkpoint: JobCheckpoint, fault: &Fault) -> Self {
        let what = &fault.what;
        let mut end = what.len().min(MAX_REASON_BYTES);
        while !what.is_char_boundary(end) {
            end -= 1;
        }
        Self { checkpoint, what: what.get(..end).unwrap_or_default().to_owned(), object: fault.object.clone() }
    }
}

/// The newest consistent checkpoint of `view` up to `not_after` that shows no damage. What does is added to `marks`,
/// which stay ordered; where what a mark tells of reads well now, the mark goes.
pub(super) async fn newest(
    store: &Store,
    heads: &[Manifest],
    (view, not_after): (&JobView, Option<JobCheckpoint>),
    marks: &mut Vec<Spoilt>,
    retry: Retry,
) -> Result<Option<JobCheckpoint>, JobError> {
    for candidate in view.consistent.iter().rev().filter(|candidate| not_after.is_none_or(|last| **candidate <= last)) {
        let position = marks.binary_search_by_key(candidate, |spoilt| spoilt.checkpoint);
        let suspect = position.ok().and_then(|at| marks.get(at)).map(|spoilt| Path::parse(&spoilt.object));
        let suspects: BTreeSet<Path> = match suspect {
            None => BTreeSet::new(),
            Some(Ok(object)) if !object.as_ref().is_empty() => BTreeSet::from([object]),
            // There is nothing to look at.
            Some(_) => continue,
        };
        let parts = view.operators.keys().flat_map(|operator| generation::parts(heads, operator, *candidate));
        let parts: Vec<_> = parts.collect();
        let damage = damage::survey(store, &parts, (&[], &suspects), retry).await.map_err(ChainError::from)?;
        let fault = (0..parts.len()).find_map(|part| damage.first_of(part));
        match (position, fault) {
            (Err(_), None) => return Ok(Some(*candidate)),
            (Ok(position), None) if damage.unexamined.is_empty() => {
                // Not within the line of the log: without a subscriber, its arguments are not evaluated.
                let mark = marks.remove(position);
                tracing::warn!(checkpoint = %candidate, object = %mark.object, "reads well again: no longer damaged");
                return Ok(Some(*candidate));
            }
            (Err(position), Some(fault)) => marks.insert(position, Spoilt::new(*candidate, fault)),
            (Ok(_), _) => {}
        }
    }
    Ok(None)
}

/// Records that `spoilt` are damaged. Returns whether nobody but `backend`, of `parallelism` subtasks, can have
/// followed the choice of `attempt`: then it may choose anew. Idempotent. Cancel-safe.
///
/// # Errors
/// [`JobError`] of reading and writing the job's records.
pub async fn mark(
    store: &Store,
    (backend, parallelism): (&BackendId, u32),
    attempt: Attempt,
    spoilt: &[Spoilt],
    retry: Retry,
) -> Result<bool, JobError> {
    let job = &backend.job;
    for _ in 0..ATTEMPTS {
        let newest = chain::newest(store, job, retry).await?;
        let heads = read_heads(store, job, retry).await?;
        let is_alone = choose::is_alone(&heads, backend, parallelism);
        let is_declared = newest.as_ref().is_some_and(|newest| newest.attempt == attempt && newest.declared.is_some());
        let mut known = newest.as_ref().map_or_else(Vec::new, |newest| newest.spoilt.clone());
        let before = known.len();
        for spoilt in spoilt {
            if let Err(position) = known.binary_search_by_key(&spoilt.checkpoint, |known| known.checkpoint) {
                known.insert(position, spoilt.clone());
            }
        }
        if known.len() == before {
            return Ok(is_alone && !is_declared);
        }
        let next = match &newest {
            Some(newest) => JobRecord { spoilt: known, ..newest.successor() },
            None => JobRecord::undeclared(None, attempt, Beginning::Undecided, known),
        };
        if chain::append(store, job, &next, retry).await? {
            return Ok(is_alone && !is_declared);
        }
    }
    Err(JobError::Chain(ChainError::Contended(backend.clone())))
}

/// The checkpoints of the job of which it is recorded that they are damaged, oldest first. Cancel-safe.
///
/// # Errors
/// [`JobError`] of reading the job's records.
pub async fn known_damage(store: &Store, job: &crate::types::Name, retry: Retry) -> Result<Vec<Spoilt>, JobError> {
    Ok(chain::newest(store, job, retry).await?.map_or_else(Vec::new, |record| record.spoilt))
}

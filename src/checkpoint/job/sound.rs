//! Falling back: the newest consistent checkpoint without damage, as far as that can be seen without loading it.
//!
//! The subtask that chooses for the others examines the whole job, newest checkpoint first, and records with its choice
//! which checkpoints it skipped. Damage that only a restore finds is recorded by the subtask that found it ([`mark`]).
//! The choice of an attempt is never changed, since other subtasks may have begun with it already. The next attempt
//! skips marked checkpoints. If the object that spoilt one can be read again, the mark is removed.

use std::collections::BTreeSet;

use super::{ATTEMPTS, Beginning, JobCheckpoint, JobError, JobRecord, JobView, Opener, chain, lost::Lost, read_heads};
use crate::{
    checkpoint::{
        chain::ChainError,
        damage::{self, Fault},
        generation,
        manifest::Manifest,
    },
    object::{Path, Retry, Store},
};

/// Most bytes of the text that says why a checkpoint is damaged.
const MAX_REASON_BYTES: usize = 400;

/// A damaged checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoilt {
    /// The checkpoint that is damaged.
    pub checkpoint: JobCheckpoint,
    /// An object that is missing or corrupt, and how, for people.
    pub what: String,
    /// The path of that object, if a part names it; otherwise empty.
    pub object: String,
}

impl Spoilt {
    /// The mark of `checkpoint`, because of `fault`; a long reason is cut short.
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

/// The consistent checkpoints of a job that may be chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidates<'a> {
    /// The newest manifests of all subtasks of the job.
    pub(super) heads: &'a [Manifest],
    /// The view over these heads.
    pub(super) view: &'a JobView,
    /// The newest completed checkpoint of which a part is lost, if it is newer than the consistent ones.
    pub(super) lost: Option<&'a Lost>,
    /// The newest checkpoint that is allowed; `None` if all are.
    pub(super) not_after: Option<JobCheckpoint>,
}

impl Candidates<'_> {
    /// Whether `checkpoint` is not newer than the newest one that is allowed.
    pub(super) fn allows(&self, checkpoint: JobCheckpoint) -> bool {
        self.not_after.is_none_or(|last| checkpoint <= last)
    }
}

/// The newest of `candidates` that shows no damage. Damaged ones are added to `marks`, which stay ordered. If the
/// object of a mark can be read again, the mark is removed.
pub(super) async fn newest(
    store: &Store,
    candidates: &Candidates<'_>,
    marks: &mut Vec<Spoilt>,
    retry: Retry,
) -> Result<Option<JobCheckpoint>, JobError> {
    let Candidates { heads, view, .. } = *candidates;
    for candidate in view.consistent.iter().rev().filter(|candidate| candidates.allows(**candidate)) {
        let position = marks.binary_search_by_key(candidate, |spoilt| spoilt.checkpoint);
        let suspect = position.ok().and_then(|at| marks.get(at)).map(|spoilt| Path::parse(&spoilt.object));
        let suspects: BTreeSet<Path> = match suspect {
            None => BTreeSet::new(),
            Some(Ok(object)) if !object.as_ref().is_empty() => BTreeSet::from([object]),
            // No object is known that could be looked at.
            Some(_) => continue,
        };
        let parts = view.operators.keys().flat_map(|operator| generation::parts(heads, operator, *candidate));
        let parts: Vec<_> = parts.collect();
        // The newest candidate first, and no further than to the first sound one: a survey reads indexes and pages of
        // all subtasks, and older candidates are not needed.
        let damage = damage::survey(store, &parts, &[], &suspects, retry).await.map_err(ChainError::from)?;
        let fault = (0..parts.len()).find_map(|part| damage.first_of(part));
        match (position, fault) {
            (Err(_), None) => return Ok(Some(*candidate)),
            // The suspect was read, and is whole. If no part needs the suspect as far as can be seen, it was not read,
            // and the mark stays: absence of a fault is no proof then.
            (Ok(position), None) if damage.unexamined.is_empty() => {
                // Outside of the log call, whose arguments are not evaluated without a subscriber.
                let mark = marks.remove(position);
                tracing::warn!(checkpoint = %candidate, object = %mark.object, "reads well again: no longer damaged");
                return Ok(Some(*candidate));
            }
            // At its place in the order, which `binary_search` relies on.
            (Err(position), Some(fault)) => marks.insert(position, Spoilt::new(*candidate, fault)),
            // Known to be damaged, and not disproved.
            (Ok(_), _) => {}
        }
    }
    Ok(None)
}

/// Records that `spoilt` are damaged. Returns whether only `opener` can have followed the choice of its attempt; then
/// it may choose again. Idempotent. Cancel-safe.
///
/// # Errors
/// [`JobError`] of reading and writing the job's records.
pub async fn mark(store: &Store, opener: Opener<'_>, spoilt: &[Spoilt], retry: Retry) -> Result<bool, JobError> {
    let Opener { backend, attempt, .. } = opener;
    let job = &backend.job;
    for _ in 0..ATTEMPTS {
        let newest = chain::newest(store, job, retry).await?;
        let heads = read_heads(store, job, retry).await?;
        let is_alone = opener.is_alone(&heads);
        let is_declared = newest.as_ref().is_some_and(|newest| newest.attempt == attempt && newest.declared.is_some());
        let mut known = newest.as_ref().map_or_else(Vec::new, |newest| newest.spoilt.clone());
        let before = known.len();
        for spoilt in spoilt {
            if let Err(position) = known.binary_search_by_key(&spoilt.checkpoint, |known| known.checkpoint) {
                known.insert(position, spoilt.clone());
            }
        }
        // All of it is recorded already, by an earlier call whose answer was lost or by another subtask.
        if known.len() == before {
            return Ok(is_alone && !is_declared);
        }
        let next = match &newest {
            Some(newest) => JobRecord { spoilt: known, ..newest.successor() },
            // The first record of the job. It marks the damage, and leaves the choice open.
            None => JobRecord::undeclared(None, attempt, Beginning::Undecided, known),
        };
        if chain::append(store, job, &next, retry).await? {
            return Ok(is_alone && !is_declared);
        }
    }
    Err(JobError::Chain(ChainError::Contended(backend.clone())))
}

/// The checkpoints of the job that are recorded as damaged, oldest first. Cancel-safe.
///
/// # Errors
/// [`JobError`] of reading the job's records.
pub async fn known_damage(store: &Store, job: &crate::types::Name, retry: Retry) -> Result<Vec<Spoilt>, JobError> {
    Ok(chain::newest(store, job, retry).await?.map_or_else(Vec::new, |record| record.spoilt))
}

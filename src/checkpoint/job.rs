//! The view over a job, and its chain of records: the checkpoints that every subtask can restore, the choice that all
//! subtasks of one attempt share, and the checkpoints that are committed for a job without a coordinating engine.
//!
//! Ids of checkpoints are unique within an attempt, so (attempt, id) names a checkpoint of the whole job. It is
//! *consistent* if every operator retains it whole: all subtasks of the generation that made it retain their parts,
//! however many subtasks there are now.
//!
//! # The chain
//!
//! ```text
//!   <job>/job/7           8                9               10               11
//!   generation 4     commit (4, 1)    commit (4, 3)    generation 5     commit (5, 2)       each: all that is still true of the job
//!   restores (3, 9)                                    restores (4, 3)
//! ```
//!
//! A *generation* is an attempt together with the checkpoint that all its subtasks restore. Generations and commits
//! share one chain of numbered records ([`JobRecord`]). Each record is made by create-if-absent and derived from the
//! one before, and only the newest counts. So all of them are in one order. The writer of a record looks at the chain
//! again afterwards, and relies on what it reads there, never on the outcome of its request (`chain`).
//!
//! The subtasks of a new attempt open at different moments, while old owners may still publish. All must restore the
//! same checkpoint. So the first subtask to ask records its choice, and the others follow it, whether they ask for the
//! latest ([`choose`]) or name a checkpoint ([`agree`]). That also makes a generation of the attempt.
//!
//! # Jobs without a coordinator
//!
//! An engine may *declare* a generation ([`declare`]): its tasks, and the checkpoint that they restore. Then dstl
//! completes its checkpoints. Each task whose part is durable *reports* it ([`report`]). Once all tasks of the
//! generation have reported, any daemon *commits* the checkpoint ([`finish`]). This is right for five reasons:
//!
//! 1. **No commit of a generation after the next one's record.** A commit is derived from the newest record, and only
//!    if that is of its own generation. So the checkpoint that a recorded generation restores was the newest commit,
//!    and stays it.
//! 2. **A part that was reported stays restorable until it is outdated**, by a newer commit or a newer generation's. (A
//!    part that was not reported may go, since a commit needs the reports of all.) Its owner lets go of it for no
//!    notice and no timeout, and a forced discard ends the generation first ([`withdraw`]). Another owner of the task
//!    would have to open. Under the same attempt it finds the part in its chain and is refused ([`JobError::Used`]).
//!    Under a higher attempt it must be recorded as a generation before it opens, which outdates this generation even
//!    if the new one was not declared. So while the commit is possible, all its parts are there.
//! 3. **A task has one part.** By the same argument, a task has at most one part of an id that was ever reported in an
//!    attempt. A later attempt may use the id again, but that is another checkpoint, since the attempt is part of every
//!    name.
//! 4. **Any daemon may finish.** Reports are never taken back, and a commit needs nothing else. So any daemon of the
//!    job may commit, and so may the next declaration before it outdates the generation: a checkpoint that was fully
//!    reported by then is not lost. A report that comes after the next generation's record has no effect.
//! 5. **The newest one is committed.** A commit subsumes older ids of its generation, whether or not they were
//!    reported. So commits ascend within a generation. Over the whole chain they ascend as attempts do.
//!
//! A generation that restores another checkpoint than the one that the job stood on *holds* it first, by fences
//! (`hold`).
//!
//! The chains of the owners name the parts of a commit, which protects them from sweeps: until the commit by rule 2,
//! and then as long as the job would restore it, because owners let go of commits only for newer ones. A vanished
//! subtask's part stays as long as a surviving subtask retains its own ([`super::generation`]).
//!
//! # Starts by token
//!
//! An engine whose own attempts begin anew names each start of the job by a token. The record numbers the tokens
//! ([`number`]). So all subtasks of a start have one attempt, and a later start has a higher one, in every operator of
//! the job.
//!
//! The next generation restores the newest commit of the newest generation, or else the checkpoint that this generation
//! restored itself. So if a user goes back to an older checkpoint on purpose, a crash before the first new commit does
//! not bring the newer checkpoint back.

mod agree;
mod chain;
mod choose;
mod commit;
mod declare;
mod defer;
mod hold;
mod lost;
mod mend;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod model;
mod opener;
mod record;
mod reports;
mod seen;
mod sound;
mod start;
mod view;

use std::{collections::BTreeMap, fmt};

use futures::{StreamExt as _, TryStreamExt as _, stream};

pub use self::{
    agree::{Named, agree},
    chain::{KEPT_RECORDS, newer, newest},
    choose::{Choice, Wish, choose, outdate, withdraw},
    commit::{Finished, Report, finish, is_outdated, tally},
    declare::{Generation, declare},
    hold::Declaring,
    lost::Lost,
    mend::mend_records,
    opener::Opener,
    record::{Asked, Beginning, Commit, Declaration, JobRecord},
    reports::{delete_outdated, report, reported},
    seen::{Decisions, Records, Seen},
    sound::{Spoilt, known_damage, mark},
    start::{Naming, Start, number},
    view::{JobView, Latest, OperatorCheckpoint, latest},
};
use super::{
    chain::{self as manifests, ChainError},
    envelope::EnvelopeError,
    manifest::{CheckpointRecord, Manifest},
};
use crate::{
    object::{
        ObjectMeta, Path, Retry, Store,
        layout::{self, ObjectName},
    },
    types::{Attempt, BackendId, CheckpointId, Name},
};

/// How often a record is tried when others append, too.
const ATTEMPTS: usize = 16;

/// Heads that are read at the same time.
const CONCURRENT_READS: usize = 16;

/// A checkpoint of the whole job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobCheckpoint {
    /// The attempt that made it.
    pub attempt: Attempt,
    /// The id that the engine gave it.
    pub id: CheckpointId,
}

impl JobCheckpoint {
    /// The checkpoint that `record` is a part of.
    #[must_use]
    pub fn of(record: &CheckpointRecord) -> Self {
        Self { attempt: record.attempt, id: record.identity.id }
    }
}

impl fmt::Display for JobCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of attempt {}", self.id, self.attempt)
    }
}

/// A job's chain could not be read, or the request does not fit it.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// A later attempt has begun.
    #[error("job `{job}`: attempt {attempt} is outdated, attempt {newer} has begun")]
    Outdated {
        /// The job whose attempt it is.
        job: Name,
        /// The caller's attempt.
        attempt: Attempt,
        /// The newest attempt.
        newer: Attempt,
    },
    /// The attempt has already made checkpoints from another restored state.
    #[error(
        "job `{job}`: attempt {attempt} has made checkpoints since it began; to take all subtasks back to the newest \
         consistent one, or to rescale, open them with a higher attempt"
    )]
    Used {
        /// The job whose attempt it is.
        job: Name,
        /// The caller's attempt.
        attempt: Attempt,
    },
    /// There is no checkpoint that all subtasks retain.
    #[error(
        "job `{0}` has completed checkpoints, but none that every subtask of every operator retains; restore by id or handle"
    )]
    Inconsistent(Name),
    /// There was a newer checkpoint, but a part of it is lost.
    #[error(
        "job `{job}`: {lost}; bring them back, or restore an older checkpoint: by id or handle, or with `fallback`, the newest that is whole"
    )]
    Lost {
        /// The job that lost it.
        job: Name,
        /// The lost checkpoint, and the missing part.
        lost: Box<Lost>,
    },
    /// The checkpoint that must not be exceeded is not retained whole.
    #[error("no subtasks of the operator of backend `{0}` retain checkpoint {1} whole")]
    NotRetained(BackendId, CheckpointId),
    /// Another subtask chose a newer checkpoint for this attempt than this one allows.
    #[error(
        "job `{job}`: this attempt restores checkpoint {chosen}, which is newer than {asked}; let all subtasks of an attempt ask for \
         the same"
    )]
    ChosenNewer {
        /// The job whose attempt it is.
        job: Name,
        /// The checkpoint that the first subtask chose.
        chosen: JobCheckpoint,
        /// The checkpoint that this subtask asked for.
        asked: JobCheckpoint,
    },
    /// Another subtask chose another checkpoint for this attempt.
    #[error(
        "job `{job}`: this attempt restores {}, not checkpoint {asked}; let all subtasks of an attempt ask for the same, or open all with a \
         higher attempt",
        chosen.map_or_else(|| "nothing".to_owned(), |chosen| format!("checkpoint {chosen}"))
    )]
    ChosenOther {
        /// The job whose attempt it is.
        job: Name,
        /// The checkpoint that the first subtask chose; `None` for the empty state.
        chosen: Option<JobCheckpoint>,
        /// The checkpoint that this subtask asked for.
        asked: JobCheckpoint,
    },
    /// Several attempts used this id, and the job retains none of their checkpoints whole.
    #[error(
        "backend `{backend}`: the job retains checkpoint {one} and checkpoint {other}, and neither whole: their id does not say which to \
         restore; restore by handles"
    )]
    Ambiguous {
        /// The backend that asked.
        backend: BackendId,
        /// One of the checkpoints with the id.
        one: JobCheckpoint,
        /// Another checkpoint with the id.
        other: JobCheckpoint,
    },
    /// There is no older sound checkpoint to fall back to.
    #[error("job `{job}`: every checkpoint that all its subtasks retain is damaged: {}", list(skipped))]
    AllDamaged {
        /// The job whose checkpoints are damaged.
        job: Name,
        /// The damaged checkpoints, oldest first.
        skipped: Vec<Spoilt>,
    },
    /// The attempt was declared before, with another declaration.
    #[error(
        "job `{job}`: attempt {attempt} was declared with {declared}, not with {asked}; declare the same, or a higher attempt"
    )]
    DeclaredOtherwise {
        /// The job whose attempt it is.
        job: Name,
        /// The caller's attempt.
        attempt: Attempt,
        /// The first declaration.
        declared: Box<Declaration>,
        /// The declaration that the caller makes.
        asked: Box<Declaration>,
    },
    /// The attempt has begun without a declaration.
    #[error(
        "job `{job}`: attempt {attempt} has begun without being declared; declare a higher attempt before any of its tasks open"
    )]
    BegunUndeclared {
        /// The job whose attempt it is.
        job: Name,
        /// The caller's attempt.
        attempt: Attempt,
    },
    /// The declaration contradicts itself.
    #[error("job `{0}`: a declaration {1}")]
    Malformed(Name, String),
    /// The checkpoint to restore is no longer there.
    #[error("job `{job}`: checkpoint {checkpoint} is what a declaration restores, but {what}; declare an id, or empty")]
    NotThere {
        /// The job that is declared.
        job: Name,
        /// The checkpoint that the declaration restores.
        checkpoint: JobCheckpoint,
        /// Names the missing part.
        what: String,
    },
    /// The checkpoint that was asked for is not consistent.
    #[error(
        "job `{0}`: there is no checkpoint {1} that every operator retains whole; declare another id, the newest commit, or empty"
    )]
    NotConsistent(Name, String),
    /// The records were deleted from the store.
    #[error("the records of job `{0}` are gone from the store")]
    Gone(Name),
    /// A record is damaged.
    #[error(
        "job record `{object}` is damaged: {source}; bring it back from a backup, same path, same bytes; or let `dstl fence {job}` add a \
         record above it; or restore by id or handle, which needs no job record"
    )]
    Corrupt {
        /// The job of the record.
        job: Name,
        /// Path of the record.
        object: String,
        /// The offset and kind of the damage.
        source: EnvelopeError,
    },
    /// Other writers appended first at every attempt.
    #[error("job `{0}`: others append to its chain all the time")]
    Contended(Name),
    /// A subtask's manifest cannot be read.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

fn list(spoilt: &[Spoilt]) -> String {
    let texts: Vec<String> = spoilt.iter().map(|s| format!("{} ({})", s.checkpoint, s.what)).collect();
    texts.join("; ")
}

impl From<crate::object::StoreError> for JobError {
    fn from(error: crate::object::StoreError) -> Self {
        Self::Chain(error.into())
    }
}

/// Reads the newest manifests of all subtasks of `job`. Cancel-safe.
///
/// # Errors
/// If one cannot be read.
pub async fn read_heads(store: &Store, job: &Name, retry: Retry) -> Result<Vec<Manifest>, ChainError> {
    heads_below(store, &layout::operators(job), retry).await
}

/// Reads the newest manifests of all subtasks of one operator, of whichever generation, by subtask. Cancel-safe.
///
/// # Errors
/// If one cannot be read.
pub async fn read_operator(
    store: &Store,
    job: &Name,
    operator: &Name,
    retry: Retry,
) -> Result<Vec<Manifest>, ChainError> {
    heads_below(store, &layout::operator(job, operator), retry).await
}

/// Every backend of `job` that has a chain, in order. Cancel-safe.
///
/// # Errors
/// The error of the store.
pub async fn backends(store: &Store, job: &Name, retry: Retry) -> Result<Vec<BackendId>, ChainError> {
    Ok(head_numbers_of_job(store, job, retry).await?.into_keys().collect())
}

/// The numbers of the newest manifests of all subtasks of the operator of `backend`. Cancel-safe.
///
/// # Errors
/// The error of the store.
pub async fn head_numbers(
    store: &Store,
    backend: &BackendId,
    retry: Retry,
) -> Result<BTreeMap<BackendId, u64>, ChainError> {
    numbers_below(store, &layout::operator(&backend.job, &backend.operator), retry).await
}

/// The numbers of the newest manifests of all subtasks of `job`.
async fn head_numbers_of_job(store: &Store, job: &Name, retry: Retry) -> Result<BTreeMap<BackendId, u64>, ChainError> {
    numbers_below(store, &layout::operators(job), retry).await
}

async fn numbers_below(store: &Store, prefix: &Path, retry: Retry) -> Result<BTreeMap<BackendId, u64>, ChainError> {
    Ok(newest_of(&store.list(prefix, retry).await?))
}

/// The number of the newest manifest of each chain among `objects`.
fn newest_of(objects: &[ObjectMeta]) -> BTreeMap<BackendId, u64> {
    let mut numbers = BTreeMap::new();
    for name in objects.iter().filter_map(|meta| ObjectName::parse(&meta.path)) {
        if let ObjectName::Manifest { backend, number } = name {
            let newest = numbers.entry(backend).or_insert(number);
            *newest = number.max(*newest);
        }
    }
    numbers
}

/// Lists the chains once, and reads their heads, some at the same time.
async fn heads_below(store: &Store, prefix: &Path, retry: Retry) -> Result<Vec<Manifest>, ChainError> {
    // One listing tells both the heads and the retirements.
    let objects = store.list(prefix, retry).await?;
    let newest = newest_of(&objects);
    let mut retired = BTreeMap::new();
    for name in objects.iter().filter_map(|meta| ObjectName::parse(&meta.path)) {
        if let ObjectName::Retired { backend, number } = name {
            retired.insert(backend, number);
        }
    }
    let reads = newest.into_iter().map(|(backend, number)| {
        let retired = retired.get(&backend).copied();
        read_unless_retired(store, backend, number, retired, retry)
    });
    let reads: Vec<_> = reads.collect();
    let heads: Vec<_> = stream::iter(reads).buffered(CONCURRENT_READS).try_collect().await?;
    Ok(heads.into_iter().flatten().collect())
}

/// Reads the head of a chain that was manifest `number` when it was listed. `None` if the head is damaged and a durable
/// object says that manifest `retired` retired the chain, so that the head names nothing.
async fn read_unless_retired(
    store: &Store,
    backend: BackendId,
    number: u64,
    retired: Option<u64>,
    retry: Retry,
) -> Result<Option<Manifest>, ChainError> {
    match manifests::read_listed(store, backend.clone(), number, retry).await {
        // Only if the damaged manifest is the very one that retired the chain. A damaged head above it is of an opener
        // that came later, and its chain names something again.
        Err(ChainError::Corrupt { object, .. }) if manifests::is_manifest(&object, &backend, retired) => {
            tracing::warn!(%object, "the damaged head of a retired chain is passed over");
            Ok(None)
        }
        head => head,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
pub(crate) mod tests {
    use super::*;
    use crate::checkpoint::manifest::tests::sample;

    /// The head of a subtask of an operator with `parallelism` subtasks that retains `checkpoints` as (attempt, id).
    pub(crate) fn head(subtask: u32, parallelism: u32, checkpoints: &[(u64, u64)], completed: bool) -> Manifest {
        let mut head = sample();
        head.backend.subtask = subtask;
        head.shape.parallelism = parallelism;
        for epoch in &mut head.epochs {
            epoch.span.parallelism = parallelism;
        }
        let template = head.checkpoints[0].clone();
        let record = |&(attempt, id)| {
            let mut record = template.clone();
            (record.attempt, record.identity.id, record.completed) = (attempt, id, completed);
            record
        };
        head.checkpoints = checkpoints.iter().map(record).collect();
        head
    }

    #[test]
    fn the_latest_is_the_newest_that_every_subtask_retains() {
        let common = [head(0, 2, &[(1, 4), (1, 5), (1, 6)], true), head(1, 2, &[(1, 4), (1, 5)], true)];
        assert_eq!(latest(&common), Latest::Checkpoint(JobCheckpoint { attempt: 1, id: 5 }));
        let ids_used_again = [head(0, 2, &[(1, 5), (2, 6)], true), head(1, 2, &[(1, 5), (1, 6)], true)];
        assert_eq!(latest(&ids_used_again), Latest::Checkpoint(JobCheckpoint { attempt: 1, id: 5 }));
    }

    #[test]
    fn the_latest_of_another_generation_is_what_all_its_subtasks_retain() {
        // From 3 to 2: subtask 0 is open again, has made a checkpoint that subtask 1 has not, and retains the one it
        // restored.
        let mut first = head(0, 3, &[(1, 4), (1, 5)], true);
        let mut record = first.owner().clone();
        (record.epoch.number, record.attempt, record.span.parallelism) = (3, 2, 2);
        first.epochs.push(record);
        let mut newer = first.checkpoints[0].clone();
        (newer.identity.epoch, newer.identity.id, newer.attempt, newer.completed) = (3, 6, 2, false);
        first.checkpoints.push(newer.clone());
        let mut second = head(1, 3, &[(1, 4), (1, 5)], true);
        let third = head(2, 3, &[(1, 4), (1, 5)], true);
        let heads = [first.clone(), second.clone(), third.clone()];
        assert_eq!(latest(&heads), Latest::Checkpoint(JobCheckpoint { attempt: 1, id: 5 }));
        assert_eq!(latest(&heads[..2]), Latest::Inconsistent, "without the vanishing one");
        second.epochs.push(first.owner().clone());
        second.checkpoints.push(newer);
        let heads = [first.clone(), second.clone(), third.clone()];
        let newest = Latest::Checkpoint(JobCheckpoint { attempt: 2, id: 6 });
        assert_eq!(latest(&heads), newest, "the vanished one is not asked");
        assert_eq!(latest(&[first, second]), newest, "nor when it is gone");
    }

    #[test]
    fn a_subtask_that_has_nothing_makes_the_job_inconsistent_once_others_completed() {
        assert_eq!(latest(&[]), Latest::Nothing);
        assert_eq!(latest(&[head(0, 2, &[(1, 1)], false)]), Latest::Nothing);
        assert_eq!(latest(&[head(0, 2, &[(1, 1)], true)]), Latest::Inconsistent);
        assert_eq!(latest(&[head(0, 2, &[(1, 1)], true), head(1, 2, &[(1, 2)], true)]), Latest::Inconsistent);
    }
}

//! The view over a job, and its chain: what every subtask can restore, the choice that all subtasks of one attempt
//! share, and the checkpoints that are committed for the job where no engine does.
//!
//! Ids of checkpoints are unique within an attempt, so (attempt, id) names a checkpoint of the whole job. One is
//! *consistent* if every operator retains it whole: all subtasks of the generation that made it do, however many there
//! are now.
//!
//! # The chain
//!
//! ```text
//!   <job>/job/7           8                9               10               11
//!   generation 4     commit (4, 1)    commit (4, 3)    generation 5     commit (5, 2)       each: all that is still true of the job
//!   restores (3, 9)                                    restores (4, 3)
//! ```
//!
//! A *generation* is an attempt together with what all its subtasks restore. Generations and commits share one chain of
//! numbered records ([`JobRecord`]), each made by create-if-absent and derived from the one before, and only the newest
//! counts. So all of them are in one order. Whoever makes one looks at the chain again afterwards, and goes by what he
//! reads there, never by the outcome of his request (`chain`).
//!
//! The subtasks of a new attempt open at different moments, while old owners may still publish. So that all restore the
//! same, the first to ask records its choice, and the others follow it, whether they ask for the latest ([`choose`]) or
//! name a checkpoint ([`agree`]). That makes a generation of its attempt, too.
//!
//! # Jobs without a coordinator
//!
//! An engine may *declare* a generation ([`declare`]): which tasks it has, and what they restore. Then its checkpoints
//! are completed here. Each task whose part is durable *reports* it ([`report`]); once all tasks of the generation
//! have, anyone *commits* the checkpoint ([`finish`]). What makes this right:
//!
//! 1. **No commit of a generation after the next one's record.** A commit is derived from the newest record, and only
//!    if that is of its own generation. So what a generation restores, once recorded, was the newest commit and stays
//!    it.
//! 2. **A part that was reported stays restorable until it is outdated** (one that was not may go: a commit needs the
//!    reports of all), by a newer commit or a newer generation's: its owner lets go of it for no notice nor timeout,
//!    and who discards it by force ends the generation first ([`withdraw`]). Another owner of the task would have to
//!    open: under the same attempt it finds the part in its chain and is refused ([`JobError::Used`]); under a higher
//!    one it must be recorded as a generation before it opens. That outdates this one even if it was not declared. So
//!    while the commit is possible, all its parts are there.
//! 3. **A part is one.** By the same argument, a task has at most one part of an id that was ever reported in an
//!    attempt. Ids that a later attempt uses again are others, since the attempt is part of every name.
//! 4. **Anyone may finish.** Reports are never taken back and a commit needs nothing else, so any daemon of the job may
//!    make it, and so may the next declaration before it outdates the generation: what was fully reported by then is
//!    not lost. A report that comes after the next generation's record means nothing.
//! 5. **Of several, the newest.** A commit subsumes older ids of its generation, whether or not they were reported. So
//!    commits ascend within a generation, and as attempts do between them, over the whole chain.
//!
//! A generation that restores anything else than what the job stood on *holds* it first, by fences (`hold`).
//!
//! The commit's parts need no other protection from sweeps than that the chains of their owners name them: by rule 2
//! until it is a commit, and as long as it is what the job would restore, because owners let go of commits only for
//! newer ones. A vanished subtask's part stays as long as a surviving one retains its own ([`super::generation`]).
//!
//! # Starts by token
//!
//! An engine whose own attempts begin anew names each start of the job by a token. The record numbers them
//! ([`number`]), so all subtasks of a start have one attempt, and a later start has a higher one, in every operator of
//! the job.
//!
//! What the next generation restores is the newest commit of the newest generation, or what that restored itself: so
//! who goes back on purpose to an older checkpoint does not meet the newer one again because of a crash before his
//! first commit.

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
    record::{Asked, Beginning, Commit, Declaration, JobRecord},
    reports::{delete_outdated, report, reported},
    seen::{Decisions, Seen},
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

/// How often a contended record is tried.
const ATTEMPTS: usize = 16;

/// Heads that are read at once.
const CONCURRENT_READS: usize = 16;

/// A checkpoint of the whole job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobCheckpoint {
    /// Under which it was made.
    pub attempt: Attempt,
    /// The engine's id.
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

/// Why a job's chain could not be read, or has no place for what was asked.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// A later attempt has begun.
    #[error("job `{job}`: attempt {attempt} is outdated, attempt {newer} has begun")]
    Outdated {
        /// The job.
        job: Name,
        /// The caller's.
        attempt: Attempt,
        /// The newest.
        newer: Attempt,
    },
    /// This attempt restored another state already.
    #[error(
        "job `{job}`: attempt {attempt} has made checkpoints since it began; to take all subtasks back to the newest \
         consistent one, or to rescale, open them with a higher attempt"
    )]
    Used {
        /// The job.
        job: Name,
        /// The caller's.
        attempt: Attempt,
    },
    /// There is no common checkpoint.
    #[error(
        "job `{0}` has completed checkpoints, but none that every subtask of every operator retains; restore by id or handle"
    )]
    Inconsistent(Name),
    /// A newer one was there.
    #[error(
        "job `{job}`: {lost}; bring them back, or restore an older checkpoint: by id or handle, or with `fallback`, the newest that is whole"
    )]
    Lost {
        /// The job.
        job: Name,
        /// What is missing.
        lost: Box<Lost>,
    },
    /// The checkpoint to begin with, at most, is not there.
    #[error("no subtasks of the operator of backend `{0}` retain checkpoint {1} whole")]
    NotRetained(BackendId, CheckpointId),
    /// Another subtask chose for this attempt, and asked for more.
    #[error(
        "job `{job}`: this attempt restores checkpoint {chosen}, which is newer than {asked}; let all subtasks of an attempt ask for \
         the same"
    )]
    ChosenNewer {
        /// The job.
        job: Name,
        /// By the first.
        chosen: JobCheckpoint,
        /// By this one.
        asked: JobCheckpoint,
    },
    /// Another subtask chose for this attempt, or named something else.
    #[error(
        "job `{job}`: this attempt restores {}, not checkpoint {asked}; let all subtasks of an attempt ask for the same, or open all with a \
         higher attempt",
        chosen.map_or_else(|| "nothing".to_owned(), |chosen| format!("checkpoint {chosen}"))
    )]
    ChosenOther {
        /// The job.
        job: Name,
        /// By the first; `None`: to begin empty.
        chosen: Option<JobCheckpoint>,
        /// By this one.
        asked: JobCheckpoint,
    },
    /// An id that several attempts used, none of which has it whole.
    #[error(
        "backend `{backend}`: the job retains checkpoint {one} and checkpoint {other}, and neither whole: their id does not say which to \
         restore; restore by handles"
    )]
    Ambiguous {
        /// Who asked.
        backend: BackendId,
        /// One.
        one: JobCheckpoint,
        /// Another.
        other: JobCheckpoint,
    },
    /// Nothing is left to fall back to.
    #[error("job `{job}`: every checkpoint that all its subtasks retain is damaged: {}", list(skipped))]
    AllDamaged {
        /// The job.
        job: Name,
        /// Oldest first.
        skipped: Vec<Spoilt>,
    },
    /// The attempt was declared, and otherwise.
    #[error(
        "job `{job}`: attempt {attempt} was declared with {declared}, not with {asked}; declare the same, or a higher attempt"
    )]
    DeclaredOtherwise {
        /// The job.
        job: Name,
        /// The caller's.
        attempt: Attempt,
        /// By the first.
        declared: Box<Declaration>,
        /// By this one.
        asked: Box<Declaration>,
    },
    /// The attempt has begun without.
    #[error(
        "job `{job}`: attempt {attempt} has begun without being declared; declare a higher attempt before any of its tasks open"
    )]
    BegunUndeclared {
        /// The job.
        job: Name,
        /// The caller's.
        attempt: Attempt,
    },
    /// What was declared makes no sense.
    #[error("job `{0}`: a declaration {1}")]
    Malformed(Name, String),
    /// The checkpoint to restore is not there any more.
    #[error("job `{job}`: checkpoint {checkpoint} is what a declaration restores, but {what}; declare an id, or empty")]
    NotThere {
        /// The job.
        job: Name,
        /// Which.
        checkpoint: JobCheckpoint,
        /// Whose part is missing.
        what: String,
    },
    /// The checkpoint that was asked for is not consistent.
    #[error(
        "job `{0}`: there is no checkpoint {1} that every operator retains whole; declare another id, the newest commit, or empty"
    )]
    NotConsistent(Name, String),
    /// The records were deleted.
    #[error("the records of job `{0}` are gone from the store")]
    Gone(Name),
    /// A record is damaged.
    #[error(
        "job record `{object}` is damaged: {source}; bring it back from a backup, same path, same bytes; or let `dstl fence {job}` add a \
         record above it; or restore by id or handle, which needs no job record"
    )]
    Corrupt {
        /// The job.
        job: Name,
        /// Its path.
        object: String,
        /// How.
        source: EnvelopeError,
    },
    /// Others are always faster.
    #[error("job `{0}`: others append to its chain all the time")]
    Contended(Name),
    /// Reading the subtasks' manifests.
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

/// The newest manifests of all subtasks of `job`. Cancel-safe.
///
/// # Errors
/// If one cannot be read.
pub async fn read_heads(store: &Store, job: &Name, retry: Retry) -> Result<Vec<Manifest>, ChainError> {
    heads_below(store, &layout::operators(job), retry).await
}

/// The newest manifests of all subtasks of one operator, whichever generation, by subtask. Cancel-safe.
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
/// Those of the store.
pub async fn backends(store: &Store, job: &Name, retry: Retry) -> Result<Vec<BackendId>, ChainError> {
    Ok(head_numbers_of_job(store, job, retry).await?.into_keys().collect())
}

/// The numbers of the newest manifests of all subtasks of the operator of `backend`. Cancel-safe.
///
/// # Errors
/// Those of the store.
pub async fn head_numbers(
    store: &Store,
    backend: &BackendId,
    retry: Retry,
) -> Result<BTreeMap<BackendId, u64>, ChainError> {
    numbers_below(store, &layout::operator(&backend.job, &backend.operator), retry).await
}

/// The same of all subtasks of `job`.
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

/// One listing, and a read of each head, some at a time.
async fn heads_below(store: &Store, prefix: &Path, retry: Retry) -> Result<Vec<Manifest>, ChainError> {
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
        read_unless_retired(store, backend, (number, retired), retry)
    });
    let reads: Vec<_> = reads.collect();
    let heads: Vec<_> = stream::iter(reads).buffered(CONCURRENT_READS).try_collect().await?;
    Ok(heads.into_iter().flatten().collect())
}

/// The head of a chain that was manifest `number` when it was listed; none if it is damaged, and a durable object says
/// that it retired the chain, so that it names nothing.
async fn read_unless_retired(
    store: &Store,
    backend: BackendId,
    (number, retired): (u64, Option<u64>),
    retry: Retry,
) -> Result<Option<Manifest>, ChainError> {
    match manifests::read_listed(store, backend.clone(), number, retry).await {
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

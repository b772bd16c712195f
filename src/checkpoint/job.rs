//! The view over a job: what every subtask can restore, and the choice that all subtasks of one attempt share.
//!
//! Ids of checkpoints are unique within an attempt, so (attempt, id) names a checkpoint of the whole job. One is
//! *consistent* if every operator retains it whole: all subtasks of the generation that made it do, however many there are now.
//!
//! The subtasks of a new attempt open at different moments, while old owners may still publish. So that all restore the same,
//! the first to ask records its choice in the job's chain (`<job>/job/<number>`, create-if-absent), and the others follow it.

mod sound;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

pub use self::{
    sound::{Spoilt, known_damage, mark},
    view::{JobView, Latest, OperatorCheckpoint, latest},
};
use super::{
    chain::{self, ChainError},
    envelope::{self, EnvelopeError, Kind},
    manifest::{CheckpointRecord, Manifest},
};
use crate::{
    object::{
        Created, Path, PutPayload, Retry, Store,
        layout::{self, ObjectName},
    },
    proto::store,
    types::{Attempt, BackendId, CheckpointId, Name},
};

/// How often a contended choice is tried.
const CHOICE_ATTEMPTS: usize = 16;

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

/// What a backend asks for that opens with the choice of its job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// With `fallback`: no newer checkpoint than the one with this id, of the newest attempt of which the operator retains it whole.
    pub not_after: Option<CheckpointId>,
    /// Skip checkpoints that are damaged.
    pub fallback: bool,
}

/// What all subtasks of an attempt begin with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// `None`: empty.
    pub checkpoint: Option<JobCheckpoint>,
    /// Newer ones that are damaged, newest first.
    pub skipped: Vec<Spoilt>,
}

impl Choice {
    /// `checkpoint`, of what is known to be damaged: `marks`.
    fn new(checkpoint: Option<JobCheckpoint>, marks: &[Spoilt]) -> Self {
        let is_newer = |spoilt: &&Spoilt| checkpoint.is_some_and(|chosen| spoilt.checkpoint > chosen);
        Self { checkpoint, skipped: marks.iter().rev().filter(is_newer).cloned().collect() }
    }
}

impl fmt::Display for JobCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of attempt {}", self.id, self.attempt)
    }
}

/// Why no choice could be made.
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
    /// Nothing is left to fall back to.
    #[error("job `{job}`: every checkpoint that all its subtasks retain is damaged: {}", list(skipped))]
    AllDamaged {
        /// The job.
        job: Name,
        /// Oldest first.
        skipped: Vec<Spoilt>,
    },
    /// A record is damaged.
    #[error("job record `{object}` is damaged: {source}; restore by id or handle, which needs no job record")]
    Corrupt {
        /// Its path.
        object: String,
        /// How.
        source: EnvelopeError,
    },
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

/// The numbers of the newest manifests of all subtasks of the operator of `backend`. Cancel-safe.
///
/// # Errors
/// Those of the store.
pub async fn head_numbers(
    store: &Store,
    backend: &BackendId,
    retry: Retry,
) -> Result<BTreeMap<BackendId, u64>, ChainError> {
    let objects = store.list(&layout::operator(&backend.job, &backend.operator), retry).await?;
    let mut numbers = BTreeMap::new();
    for name in objects.iter().filter_map(|meta| ObjectName::parse(&meta.path)) {
        if let ObjectName::Manifest { backend, number } = name {
            let newest = numbers.entry(backend).or_insert(number);
            *newest = number.max(*newest);
        }
    }
    Ok(numbers)
}

async fn heads_below(store: &Store, prefix: &Path, retry: Retry) -> Result<Vec<Manifest>, ChainError> {
    let objects = store.list(prefix, retry).await?;
    let backend = |name| match name {
        ObjectName::Manifest { backend, .. } => Some(backend),
        _ => None,
    };
    let backends: BTreeSet<BackendId> =
        objects.iter().filter_map(|meta| ObjectName::parse(&meta.path)).filter_map(backend).collect();
    let mut heads = vec![];
    for backend in backends {
        heads.extend(chain::read_head(store, &backend, retry).await?.map(|head| head.manifest));
    }
    Ok(heads)
}

/// What `backend`, one of `parallelism` subtasks, restores when it opens with `attempt` and asks for the latest. The first subtask of an
/// attempt decides, the others follow. Cancel-safe.
///
/// # Errors
/// [`JobError`] says why there is no choice.
pub async fn choose(
    store: &Store,
    (backend, parallelism): (&BackendId, u32),
    attempt: Attempt,
    wish: Wish,
    retry: Retry,
) -> Result<Choice, JobError> {
    let job = &backend.job;
    for _ in 0..CHOICE_ATTEMPTS {
        let record = newest_record(store, job, retry).await?;
        if let Some((_, newest)) = &record
            && newest.attempt > attempt
        {
            return Err(JobError::Outdated { job: job.clone(), attempt, newer: newest.attempt });
        }
        let heads = read_heads(store, job, retry).await?;
        let own = heads.iter().find(|head| head.backend == *backend);
        let opened_before = own.is_some_and(|head| head.owner().attempt == attempt && !head.owner().is_fence);
        let again_alone = opened_before && is_alone(&heads, backend, parallelism);
        // Those of a generation that had the same attempt would be lost to the subtasks that are new.
        let is_used = |head: &Manifest| {
            let mut used = head.checkpoints.iter().filter(|record| record.attempt == attempt);
            used.any(|record| head.backend == *backend || head.span(record).parallelism != parallelism)
        };
        let mut operator = heads.iter().filter(|head| head.backend.operator == backend.operator);
        if !again_alone && operator.any(is_used) {
            return Err(JobError::Used { job: job.clone(), attempt });
        }
        let view = JobView::of(&heads);
        let not_after = wish.limit(&view, backend)?;
        let mut marks = sound::marks(record.as_ref().map(|(_, record)| record));
        if let Some((_, chosen)) = record.as_ref().filter(|(_, newest)| newest.attempt == attempt)
            && !again_alone
        {
            let chosen = chosen.restore.as_ref().map(|c| JobCheckpoint { attempt: c.attempt, id: c.id });
            if let (Some(chosen), Some(last)) = (chosen, not_after)
                && chosen > last
            {
                return Err(JobError::ChosenNewer { job: job.clone(), chosen, asked: last });
            }
            return Ok(Choice::new(chosen, &marks));
        }
        // What no subtask retains any more is never chosen.
        marks.retain(|spoilt| view.consistent.contains(&spoilt.checkpoint));
        let restore = decide(store, &heads, (&view, not_after), (wish, &mut marks), (job, retry)).await?;
        // A subtask that opened before, by id or handle, chooses for the others all the same: they may come back too.
        if again_alone {
            return Ok(Choice::new(restore, &marks));
        }
        let message = store::JobRecord {
            number: record.map_or(1, |(number, _)| number + 1),
            attempt,
            restore: restore.map(|c| store::JobCheckpoint { attempt: c.attempt, id: c.id }),
            spoilt: sound::to_records(&marks),
        };
        if put_record(store, job, &message, retry).await? {
            return Ok(Choice::new(restore, &marks));
        }
    }
    Err(JobError::Chain(ChainError::Contended(backend.clone())))
}

impl Wish {
    /// The newest checkpoint that is allowed, if not every one is.
    fn limit(&self, view: &JobView, backend: &BackendId) -> Result<Option<JobCheckpoint>, JobError> {
        let limit = |id| view.by_id(&backend.operator, id).ok_or_else(|| JobError::NotRetained(backend.clone(), id));
        self.not_after.map(limit).transpose()
    }
}

/// What the first subtask of an attempt chooses.
async fn decide(
    store: &Store,
    heads: &[Manifest],
    (view, not_after): (&JobView, Option<JobCheckpoint>),
    (wish, marks): (Wish, &mut Vec<Spoilt>),
    (job, retry): (&Name, Retry),
) -> Result<Option<JobCheckpoint>, JobError> {
    let newest = match (view.latest(), not_after) {
        (Latest::Nothing, None) => return Ok(None),
        (Latest::Nothing | Latest::Inconsistent, _) => return Err(JobError::Inconsistent(job.clone())),
        (Latest::Checkpoint(newest), _) => newest,
    };
    if !wish.fallback {
        return Ok(Some(newest));
    }
    match sound::newest(store, heads, (view, not_after), marks, retry).await? {
        Some(sound) => Ok(Some(sound)),
        None => Err(JobError::AllDamaged { job: job.clone(), skipped: marks.clone() }),
    }
}

/// Whether the job has no other subtask than `backend`.
fn is_alone(heads: &[Manifest], backend: &BackendId, parallelism: u32) -> bool {
    let is_only = |head: &Manifest| head.backend == *backend && head.shape.parallelism <= 1;
    parallelism <= 1 && heads.iter().all(is_only)
}

/// Appends `record`; whether nobody else was there first.
async fn put_record(store: &Store, job: &Name, record: &store::JobRecord, retry: Retry) -> Result<bool, JobError> {
    let path = ObjectName::JobRecord { job: job.clone(), number: record.number }.path();
    let bytes = envelope::seal(Kind::JobRecord, record);
    let created = store.create(&path, PutPayload::from_bytes(bytes), retry).await?;
    Ok(matches!(created, Created::New | Created::Identical))
}

async fn newest_record(store: &Store, job: &Name, retry: Retry) -> Result<Option<(u64, store::JobRecord)>, JobError> {
    let objects = store.list(&layout::job_records(job), retry).await?;
    let number = |name| match name {
        ObjectName::JobRecord { number, .. } => Some(number),
        _ => None,
    };
    let newest = objects.iter().filter_map(|meta| ObjectName::parse(&meta.path)).filter_map(number).max();
    let Some(number) = newest else { return Ok(None) };
    let path = ObjectName::JobRecord { job: job.clone(), number }.path();
    let bytes = store.get(&path, retry).await?;
    let record = envelope::open(Kind::JobRecord, &bytes)
        .map_err(|source| JobError::Corrupt { object: path.to_string(), source })?;
    Ok(Some((number, record)))
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
        // From 3 to 2: subtask 0 is open again, has made a checkpoint that subtask 1 has not, and retains the one it restored.
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

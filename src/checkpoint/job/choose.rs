//! Chooses the checkpoint that all subtasks of an attempt begin with.

use super::{
    ATTEMPTS, Beginning, JobCheckpoint, JobError, JobRecord, JobView, Latest, Opener, Records, Spoilt, chain,
    defer::shall_decide,
    latest,
    lost::{Lost, newest_lost},
    numbers_below, read_heads,
    sound::{self, Candidates},
};
use crate::{
    checkpoint::{
        chain::{self as manifests, ChainError},
        manifest::Manifest,
    },
    object::{Retry, Store, layout},
    types::{Attempt, BackendId, CheckpointId, Name},
};

/// The request of a backend that begins with the choice of its job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// With `fallback`: the id of the newest checkpoint that is allowed, taken from the newest attempt for which the
    /// operator retains it whole.
    pub not_after: Option<CheckpointId>,
    /// Whether to skip damaged checkpoints.
    pub fallback: bool,
}

/// The checkpoint that all subtasks of an attempt begin with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// The checkpoint; `None` for the empty state.
    pub checkpoint: Option<JobCheckpoint>,
    /// Newer checkpoints that are damaged, newest first.
    pub skipped: Vec<Spoilt>,
}

impl Choice {
    /// The choice of `checkpoint`, with the newer ones among `marks` as skipped.
    fn new(checkpoint: Option<JobCheckpoint>, marks: &[Spoilt]) -> Self {
        let is_newer = |spoilt: &&Spoilt| checkpoint.is_some_and(|chosen| spoilt.checkpoint > chosen);
        Self { checkpoint, skipped: marks.iter().rev().filter(is_newer).cloned().collect() }
    }
}

/// The checkpoint that `opener` restores when it asks for the latest. The first subtask of an attempt decides, over all
/// chains of the job. The others follow, and read only their own chain, whose newest manifest is `head`. Cancel-safe.
///
/// # Errors
/// [`JobError`] says why there is no choice.
pub async fn choose(
    records: &mut Records<'_>,
    opener: Opener<'_>,
    head: Option<&Manifest>,
    wish: Wish,
) -> Result<Choice, JobError> {
    let Opener { backend, parallelism, attempt } = opener;
    let job = &backend.job;
    for _ in 0..ATTEMPTS {
        // The record may be an old one that this daemon has seen before. A choice that is derived from it then fails to
        // append, and a subtask that follows it looks again after its manifest is durable. Later rounds read the chain
        // anew.
        let record = records.newest(job).await?;
        if let Some(newest) = record.as_ref().filter(|newest| newest.attempt > attempt) {
            return Err(JobError::Outdated { job: job.clone(), attempt, newer: newest.attempt });
        }
        let own_attempt = record.as_ref().filter(|newest| newest.attempt == attempt);
        let is_declared = own_attempt.is_some_and(|newest| newest.declared.is_some());
        if wish.not_after.is_none()
            && let Some(newest) = own_attempt
            // The common case comes first: a follower reads its own chain only. Otherwise a restart would cost each
            // subtask the reading of all chains, which is quadratic in the subtasks.
            && follows(records.store, opener, head, records.retry).await?
            && let Beginning::Chosen(chosen) = newest.beginning
        {
            let chosen = chosen.filter(|_| !newest.new_operators.contains(&backend.operator));
            return Ok(Choice::new(chosen, &newest.spoilt));
        }
        let is_chosen = own_attempt.is_some_and(|newest| newest.beginning != Beginning::Undecided);
        if !is_chosen && !shall_decide(records, opener).await? {
            continue;
        }
        // An announcement may be the newest by now.
        let record = records.newest(job).await?;
        let own_attempt = record.as_ref().filter(|newest| newest.attempt == attempt);
        let (heads, lost) = heads_and_lost(records.store, job, records.retry).await?;
        // Among the heads that were read just now, and not the caller's `head`, which may be older.
        let own = heads.iter().find(|head| head.backend == *backend);
        let opened_before = own.is_some_and(|head| head.owner().attempt == attempt && !head.owner().is_fence);
        let alone = opener.is_alone(&heads) && !is_declared;
        let again_alone = opened_before && alone;
        // Checkpoints of an earlier generation with the same attempt would be lost to new subtasks.
        let is_used = |head: &Manifest| {
            let mut used = head.checkpoints.iter().filter(|record| record.attempt == attempt);
            used.any(|record| head.backend == *backend || head.span(record).parallelism != parallelism)
        };
        let mut operator = heads.iter().filter(|head| head.backend.operator == backend.operator);
        if !again_alone && operator.any(is_used) {
            return Err(JobError::Used { job: job.clone(), attempt });
        }
        // View, marks and candidates all speak of these heads.
        let view = JobView::of(&heads);
        let not_after = wish.limit(&view, backend)?;
        let mut marks = record.as_ref().map_or_else(Vec::new, |record| record.spoilt.clone());
        // A subtask that is the whole job has no followers. It chooses again, so that it also gets what an earlier
        // owner published until it was fenced.
        if let Some(newest) = own_attempt.filter(|_| !alone)
            && let Beginning::Chosen(chosen) = newest.beginning
        {
            let chosen = chosen.filter(|_| !newest.new_operators.contains(&backend.operator));
            if let (Some(chosen), Some(last)) = (chosen, not_after)
                && chosen > last
            {
                return Err(JobError::ChosenNewer { job: job.clone(), chosen, asked: last });
            }
            return Ok(Choice::new(chosen, &marks));
        }
        // A checkpoint that no subtask retains any more is never chosen, so its mark is not needed.
        marks.retain(|spoilt| view.consistent.contains(&spoilt.checkpoint));
        let candidates = Candidates { heads: &heads, view: &view, lost: lost.as_ref(), not_after };
        let restore = decide(records, job, &candidates, wish, &mut marks).await?;
        // Even if a subtask has opened before by id or handle, this one chooses for the others: they may come back,
        // too. A choice that is recorded already needs no further record: the others read the same one.
        let is_recorded =
            own_attempt.is_some_and(|newest| newest.beginning == Beginning::Chosen(restore) && newest.spoilt == marks);
        if again_alone || is_recorded {
            return Ok(Choice::new(restore, &marks));
        }
        let next = JobRecord::undeclared(record.as_ref(), attempt, Beginning::Chosen(restore), marks.clone());
        // The choice counts only as the newest record. If another one is newer, this subtask begins anew with it, so
        // that two subtasks never begin with different checkpoints.
        if records.append(job, &next).await? {
            return Ok(Choice::new(restore, &marks));
        }
    }
    Err(JobError::Chain(ChainError::Contended(backend.clone())))
}

/// Whether a subtask follows the choice of others for its attempt, as far as that can be seen without reading all
/// chains. It does if it is not alone, has made no checkpoint under the attempt, and its operator was not opened under
/// the attempt with another parallelism.
async fn follows(store: &Store, opener: Opener<'_>, head: Option<&Manifest>, retry: Retry) -> Result<bool, JobError> {
    let Opener { backend, parallelism, attempt } = opener;
    let has_made = |head: &Manifest| head.checkpoints.iter().any(|record| record.attempt == attempt);
    // A checkpoint under this attempt shows that the subtask served before. It may not simply follow: `choose` refuses
    // it, or lets it choose again if it is alone.
    if head.is_some_and(has_made) {
        return Ok(false);
    }
    // Only a subtask that may be alone has to ask. One listing tells, without reading a chain.
    if parallelism <= 1 {
        let others = numbers_below(store, &layout::operators(&backend.job), retry).await?;
        if others.keys().all(|other| other == backend) {
            return Ok(false);
        }
    }
    let was = head.and_then(Manifest::served).map(|served| served.span.parallelism);
    if was == Some(parallelism) || backend.subtask == 0 {
        return Ok(was == Some(parallelism));
    }
    // With this parallelism, subtask 0 would have been opened with the others, and could not be opened again.
    let first = manifests::read_head(store, &BackendId { subtask: 0, ..backend.clone() }, retry).await?;
    let is_of_another = |first: &Manifest| {
        let of_attempt = first.epochs.iter().filter(|epoch| epoch.attempt == attempt && !epoch.is_fence);
        of_attempt.last().is_some_and(|epoch| epoch.span.parallelism != parallelism)
    };
    Ok(!first.is_some_and(|head| is_of_another(&head.manifest)))
}

/// Reads the heads of all chains of `job`, and finds the newest checkpoint of which a part is lost.
///
/// The heads are not read at one moment, and owners publish meanwhile. For example, the head of `a` is read, then both
/// `a` and `b` publish checkpoint 7 and learn that it is complete, then the head of `b` is read: 7 looks lost in `a`.
/// So if a part looks lost, all heads are read once more. By then every chain has each checkpoint that one of the first
/// heads calls completed.
async fn heads_and_lost(store: &Store, job: &Name, retry: Retry) -> Result<(Vec<Manifest>, Option<Lost>), JobError> {
    // The first heads are the witnesses. A part is lost only if the second heads lack it, too, which were all read
    // after each of the first.
    let first = read_heads(store, job, retry).await?;
    match latest(&first) {
        Latest::Checkpoint(newest) if newest_lost(&first, &first, Some(newest)).is_some() => {
            let heads = read_heads(store, job, retry).await?;
            let lost = match latest(&heads) {
                Latest::Checkpoint(newest) => newest_lost(&first, &heads, Some(newest)),
                Latest::Nothing | Latest::Inconsistent => None,
            };
            Ok((heads, lost))
        }
        _ => Ok((first, None)),
    }
}

/// Ends the declared generation of `job`, if there is one, because a checkpoint that it may commit or restore is being
/// discarded. Nothing more is committed for it, and the next generation restores the newest remaining checkpoint.
/// Idempotent. Cancel-safe.
///
/// # Errors
/// If the job's records cannot be read or written.
pub async fn withdraw(store: &Store, job: &Name, retry: Retry) -> Result<(), JobError> {
    for _ in 0..ATTEMPTS {
        let newest = chain::newest(store, job, retry).await?;
        let Some(newest) = newest.filter(|newest| newest.declared.is_some()) else { return Ok(()) };
        // Of the same attempt, so that its tasks are not outdated. Without a declaration nothing is committed for them
        // any more.
        let next = JobRecord::undeclared(Some(&newest), newest.attempt, Beginning::Undecided, newest.spoilt.clone());
        if chain::append(store, job, &next, retry).await? {
            return Ok(());
        }
    }
    Err(JobError::Contended(job.clone()))
}

/// Outdates the declared generation `newest` of `job` by `attempt`, which was not declared and has not chosen its
/// checkpoint yet. Nothing more is committed for the declared one. Idempotent. Cancel-safe.
///
/// # Errors
/// If `attempt` is outdated itself, or the job's records cannot be read or written.
pub async fn outdate(store: &Store, job: &Name, attempt: Attempt, retry: Retry) -> Result<(), JobError> {
    for _ in 0..ATTEMPTS {
        // Without a record nothing was declared, so there is nothing to outdate.
        let Some(newest) = chain::newest(store, job, retry).await? else { return Ok(()) };
        if newest.attempt > attempt {
            return Err(JobError::Outdated { job: job.clone(), attempt, newer: newest.attempt });
        }
        // An undeclared generation commits nothing, so there is nothing to end.
        if newest.attempt == attempt || newest.declared.is_none() {
            return Ok(());
        }
        let next = JobRecord::undeclared(Some(&newest), attempt, Beginning::Undecided, newest.spoilt.clone());
        if chain::append(store, job, &next, retry).await? {
            return Ok(());
        }
    }
    Err(JobError::Contended(job.clone()))
}

impl Wish {
    /// The newest checkpoint that is allowed; `None` if all are.
    fn limit(&self, view: &JobView, backend: &BackendId) -> Result<Option<JobCheckpoint>, JobError> {
        let limit = |id| view.by_id(&backend.operator, id).ok_or_else(|| JobError::NotRetained(backend.clone(), id));
        self.not_after.map(limit).transpose()
    }
}

/// The choice of the first subtask of an attempt. Candidates that are lost or damaged are added to `marks`.
async fn decide(
    records: &Records<'_>,
    job: &Name,
    candidates: &Candidates<'_>,
    wish: Wish,
    marks: &mut Vec<Spoilt>,
) -> Result<Option<JobCheckpoint>, JobError> {
    let newest = match (candidates.view.latest(), candidates.not_after) {
        (Latest::Nothing, None) => return Ok(None),
        // Not the empty state: the job has completed checkpoints, and beginning empty would lose them silently.
        (Latest::Nothing | Latest::Inconsistent, _) => return Err(JobError::Inconsistent(job.clone())),
        (Latest::Checkpoint(newest), _) => newest,
    };
    // A lost checkpoint that is newer than the wanted one is no concern of this choice.
    let lost = candidates.lost.filter(|lost| candidates.allows(lost.checkpoint));
    if !wish.fallback {
        return match lost {
            Some(lost) => Err(JobError::Lost { job: job.clone(), lost: Box::new(lost.clone()) }),
            None => Ok(Some(newest)),
        };
    }
    if let Some(lost) = lost
        && let Err(position) = marks.binary_search_by_key(&lost.checkpoint, |spoilt| spoilt.checkpoint)
    {
        // The missing part is in no manifest, so no object can be named that might be read well again.
        let (checkpoint, what) = (lost.checkpoint, lost.to_string());
        marks.insert(position, Spoilt { checkpoint, what, object: String::new() });
    }
    match sound::newest(records.store, candidates, marks, records.retry).await? {
        Some(sound) => Ok(Some(sound)),
        None => Err(JobError::AllDamaged { job: job.clone(), skipped: marks.clone() }),
    }
}

//! Declarations begin the generation of an engine that lets dstl coordinate.

use std::collections::BTreeSet;

use super::{
    ATTEMPTS, Asked, Beginning, Commit, Declaration, Declaring, JobCheckpoint, JobError, JobRecord, JobView, Latest,
    chain, commit, hold, read_heads, reports,
};
use crate::{
    checkpoint::manifest::Manifest,
    types::{Attempt, Name},
};

/// Most subtasks of an operator, which is the highest number of key groups.
const MAX_PARALLELISM: u32 = 1 << 15;

/// A declared generation, as its tasks are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The number of its record in the job's chain.
    pub number: u64,
    /// The checkpoint that its subtasks begin with; `None` for the empty state.
    pub restore: Option<JobCheckpoint>,
    /// Operators that begin empty in any case.
    pub new_operators: BTreeSet<Name>,
}

/// The checkpoint that a new generation restores.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Restored {
    pub(super) checkpoint: Option<JobCheckpoint>,
    /// The newest commit, if its checkpoint is the restored one.
    pub(super) commit: Option<Commit>,
    pub(super) new_operators: BTreeSet<Name>,
}

impl Generation {
    fn of(record: &JobRecord) -> Self {
        Self { number: record.began, restore: record.restore(), new_operators: record.new_operators.clone() }
    }
}

/// Begins the generation `attempt` of `job`, or finds it begun by the same declaration. Before that, commits the
/// checkpoint that the generation before has fully reported. Idempotent. Cancel-safe: if dropped, it may have begun.
///
/// # Errors
/// If there is a later one, this one was declared otherwise or has begun without a declaration, or the checkpoint to
/// begin with does not exist.
pub async fn declare(
    by: &Declaring<'_>,
    job: &Name,
    attempt: Attempt,
    declaration: &Declaration,
) -> Result<Generation, JobError> {
    check(job, declaration)?;
    let Declaring { store, retry, .. } = *by;
    let mut refused = None;
    for _ in 0..ATTEMPTS {
        let newest = chain::newest(store, job, retry).await?;
        if let Some(newest) = &newest
            && newest.attempt >= attempt
        {
            let generation = answer(job, newest, attempt, declaration)?;
            // The caller before may have died between the record and the hold, so any caller of the same declaration
            // finishes it.
            if !newest.unheld || by.hold(job, newest).await? {
                return Ok(generation);
            }
            continue;
        }
        if let Some(newest) = &newest {
            // Order: 1. commit the checkpoint that the generation before has fully reported, 2. the record of the new
            // generation, after which reports of the old one have no effect, 3. look at the chains again.
            let reports = reports::reported(store, job, newest.attempt, retry).await?;
            if let Some(commit) = commit::complete(newest, &reports) {
                // Whether it was appended does not matter: the next round reads the newest record, with this commit or
                // that of another daemon.
                chain::append(store, job, &commit::committed(newest, commit), retry).await?;
                continue;
            }
        }
        let heads = read_heads(store, job, retry).await?;
        let number = newest.as_ref().map(|newest| newest.number);
        let begun = begun(job, &heads, attempt).and_then(|()| restored(job, newest.as_ref(), &heads, declaration));
        match begun {
            Ok(restored) => {
                let next = generation(newest.as_ref(), attempt, declaration, restored);
                if chain::append(store, job, &next, retry).await? {
                    // 3. An opener that read the records before step 2 is in no record yet. Its manifest is there by
                    // now, or it looks at the records after its manifest and finds this one.
                    by.refuse_overtaken(job, &heads, attempt).await?;
                    reports::delete_outdated(store, job, &next, retry).await;
                    if !next.unheld {
                        return Ok(Generation::of(&next));
                    }
                }
            }
            // Others of the same attempt may have declared it, and opened, after the record was read.
            // The refusal stands only if the record has not changed since the first one.
            Err(error) if refused == Some(number) => return Err(error),
            Err(_) => refused = Some(number),
        }
    }
    Err(JobError::Contended(job.clone()))
}

/// Checks that a declaration does not contradict itself. Pure.
fn check(job: &Name, declaration: &Declaration) -> Result<(), JobError> {
    let malformed = |what: String| Err(JobError::Malformed(job.clone(), what));
    if declaration.operators.is_empty() {
        return malformed("without tasks".to_owned());
    }
    match declaration.operators.iter().find(|(_, parallelism)| !(1..=MAX_PARALLELISM).contains(*parallelism)) {
        Some((operator, parallelism)) => malformed(format!(
            "with {parallelism} subtasks of operator `{operator}`; allowed are 1 to {MAX_PARALLELISM}"
        )),
        None => Ok(()),
    }
}

/// The answer to the declaration of an attempt if `newest` is of that attempt or a later one. Pure.
pub(super) fn answer(
    job: &Name,
    newest: &JobRecord,
    attempt: Attempt,
    declaration: &Declaration,
) -> Result<Generation, JobError> {
    let job = job.clone();
    if newest.attempt > attempt {
        return Err(JobError::Outdated { job, attempt, newer: newest.attempt });
    }
    match &newest.declared {
        // The same declaration comes again if its answer was lost, or from another daemon of the engine.
        Some(declared) if declared == declaration => Ok(Generation::of(newest)),
        Some(declared) => {
            let (declared, asked) = (Box::new(declared.clone()), Box::new(declaration.clone()));
            Err(JobError::DeclaredOtherwise { job, attempt, declared, asked })
        }
        None => Err(JobError::BegunUndeclared { job, attempt }),
    }
}

/// Refuses an attempt that an owner has already. Pure.
fn begun(job: &Name, heads: &[Manifest], attempt: Attempt) -> Result<(), JobError> {
    let job = job.clone();
    match heads.iter().map(|head| head.owner().attempt).max() {
        Some(newer) if newer > attempt => Err(JobError::Outdated { job, attempt, newer }),
        Some(same) if same == attempt => Err(JobError::BegunUndeclared { job, attempt }),
        _ => Ok(()),
    }
}

/// The checkpoint that the generation after `newest` restores. Pure.
pub(super) fn restored(
    job: &Name,
    newest: Option<&JobRecord>,
    heads: &[Manifest],
    declaration: &Declaration,
) -> Result<Restored, JobError> {
    let view = JobView::of(heads);
    let beyond_view = || {
        let new = declaration.operators.keys().filter(|operator| !view.operators.contains_key(*operator));
        new.cloned().collect()
    };
    let stands_on = newest.and_then(JobRecord::stands_on);
    let given = match (declaration.asked, newest.filter(|newest| newest.declared.is_some())) {
        (Asked::Empty, _) => None,
        (Asked::Given { id, attempt }, _) => {
            let same =
                |found: &&JobCheckpoint| found.id == id && attempt.is_none_or(|attempt| found.attempt == attempt);
            // Operators that began after the checkpoint that the job stands on need not know it.
            let found = stands_on.filter(|on| same(&on)).or_else(|| view.consistent.iter().rev().find(same).copied());
            let name = || attempt.map_or(id.to_string(), |attempt| JobCheckpoint { attempt, id }.to_string());
            Some(found.ok_or_else(|| JobError::NotConsistent(job.clone(), name()))?)
        }
        // The records decide, and not the chains: a chain may have checkpoints that were never committed.
        (Asked::Latest, Some(_)) => stands_on,
        // The first declared generation of the job, or the first after an undeclared one. The checkpoints before it are
        // known by the chains alone.
        (Asked::Latest, None) => match view.latest() {
            Latest::Nothing => None,
            Latest::Checkpoint(newest) => Some(newest),
            Latest::Inconsistent => return Err(JobError::Inconsistent(job.clone())),
        },
    };
    let Some(checkpoint) = given else {
        return Ok(Restored { checkpoint: None, commit: None, new_operators: BTreeSet::new() });
    };
    let commit = newest.and_then(|newest| newest.commit.clone()).filter(|commit| commit.checkpoint == checkpoint);
    if let Some(commit) = commit {
        check_parts(job, &commit, heads)?;
        let new = declaration.operators.keys().filter(|operator| !commit.parts.contains_key(*operator));
        let new_operators = new.cloned().collect();
        return Ok(Restored { checkpoint: Some(checkpoint), commit: Some(commit), new_operators });
    }
    // It is not the newest commit, so its parts are found by the view.
    if view.consistent.contains(&checkpoint) {
        return Ok(Restored { checkpoint: Some(checkpoint), commit: None, new_operators: beyond_view() });
    }
    let what = "not every operator retains it whole".to_owned();
    Err(JobError::NotThere { job: job.clone(), checkpoint, what })
}

/// Checks that `heads` retain exactly the parts of `commit`. Pure.
pub(super) fn check_parts(job: &Name, commit: &Commit, heads: &[Manifest]) -> Result<(), JobError> {
    for (operator, parts) in &commit.parts {
        for (part, subtask) in parts.iter().zip(0..) {
            let of_task = |head: &&Manifest| head.backend.operator == *operator && head.backend.subtask == subtask;
            let mut retained = heads.iter().filter(of_task).flat_map(|head| &head.checkpoints);
            if !retained.any(|record| record.identity == *part) {
                let what = format!("subtask {subtask} of operator `{operator}` does not retain its part {part}");
                return Err(JobError::NotThere { job: job.clone(), checkpoint: commit.checkpoint, what });
            }
        }
    }
    Ok(())
}

/// The record with which the generation begins. Pure.
pub(super) fn generation(
    newest: Option<&JobRecord>,
    attempt: Attempt,
    declaration: &Declaration,
    restored: Restored,
) -> JobRecord {
    let spoilt = newest.map_or_else(Vec::new, |newest| newest.spoilt.clone());
    let mut record = JobRecord::undeclared(newest, attempt, Beginning::Chosen(restored.checkpoint), spoilt);
    if let Some(newest) = newest {
        // `undeclared` drops the commits, since an engine that coordinates decides about them itself. A declared
        // generation goes on with them.
        (record.commit, record.earlier) = (newest.commit.clone(), newest.earlier.clone());
    }
    if record.commit != restored.commit {
        record.commit(restored.commit);
    }
    record.declared = Some(declaration.clone());
    record.unheld = hold::needs_holding(newest, record.restore());
    record.new_operators = restored.new_operators;
    record
}

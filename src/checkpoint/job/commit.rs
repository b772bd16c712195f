//! Commits: finds the checkpoint that all tasks of a declared generation have reported, and makes the record that says
//! so.

use std::collections::{BTreeMap, BTreeSet};

use super::{ATTEMPTS, Commit, JobCheckpoint, JobError, JobRecord, chain, reports};
use crate::{
    object::{ObjectName, Retry, Store},
    types::{Attempt, BackendId, CheckpointId, CheckpointIdentity, Name},
};

/// The report of one task that its part of a checkpoint is durable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Report {
    /// The backend of the task.
    pub backend: BackendId,
    /// The attempt of its generation.
    pub attempt: Attempt,
    /// The part that is durable.
    pub part: CheckpointIdentity,
}

/// The state of the checkpoints that tasks wait for.
#[derive(Debug)]
pub enum Finished {
    /// The generation is the newest.
    Current {
        /// The newest record, which is of this generation.
        record: Box<JobRecord>,
        /// Whether this call appended it, with a new commit.
        appended: bool,
        /// The checkpoints that at least one task has reported and that may still be committed, as of the listing of
        /// reports.
        reported: BTreeSet<CheckpointId>,
    },
    /// A later attempt has begun, so nothing more is committed.
    Outdated {
        /// The later attempt.
        by: Attempt,
    },
}

impl Report {
    /// The report that has this object name.
    #[must_use]
    pub fn of(name: ObjectName) -> Option<Self> {
        match name {
            ObjectName::Report { backend, attempt, checkpoint } => Some(Self { backend, attempt, part: checkpoint }),
            _ => None,
        }
    }

    /// The checkpoint of the whole job that it is a part of.
    #[must_use]
    pub fn checkpoint(&self) -> JobCheckpoint {
        JobCheckpoint { attempt: self.attempt, id: self.part.id }
    }
}

/// Whether `report` cannot contribute to any commit after `record`, because its checkpoint is committed or subsumed, or
/// its generation is over. This never changes back. Pure.
#[must_use]
pub fn is_outdated(record: &JobRecord, report: &Report) -> bool {
    // Compares attempts first, so reports of earlier attempts are past, too.
    let is_past = |commit: &Commit| report.checkpoint() <= commit.checkpoint;
    let is_over = report.attempt < record.attempt || report.attempt == record.attempt && record.declared.is_none();
    is_over || record.commit.as_ref().is_some_and(is_past)
}

/// The tasks of `record`'s generation that have reported, for each checkpoint that may still be committed, by operator
/// and subtask. Pure.
#[must_use]
pub fn tally(
    record: &JobRecord,
    reports: &[Report],
) -> BTreeMap<JobCheckpoint, BTreeMap<(Name, u32), CheckpointIdentity>> {
    let mut tally: BTreeMap<_, BTreeMap<_, CheckpointIdentity>> = BTreeMap::new();
    let Some(declared) = &record.declared else { return tally };
    let counts = |report: &&Report| {
        let parallelism = declared.operators.get(&report.backend.operator);
        // A report of a subtask that the declaration does not have must not count: it would stand in for a task that is
        // missing.
        let is_task = parallelism.is_some_and(|parallelism| report.backend.subtask < *parallelism);
        is_task && report.attempt == record.attempt && !is_outdated(record, report)
    };
    for report in reports.iter().filter(counts) {
        let task = (report.backend.operator.clone(), report.backend.subtask);
        let part = tally.entry(report.checkpoint()).or_default().entry(task).or_insert(report.part);
        debug_assert_eq!(*part, report.part, "a task reports one part of a checkpoint");
        // If there are two parts nevertheless, all daemons take the same one, whatever the order of the listing.
        *part = report.part.max(*part);
    }
    tally
}

/// The newest checkpoint that all tasks of `record`'s generation have reported, if it is newer than the newest commit.
/// Pure.
#[must_use]
pub(super) fn complete(record: &JobRecord, reports: &[Report]) -> Option<Commit> {
    let tasks = record.declared.as_ref()?.tasks();
    let tally = tally(record, reports);
    // The newest one only. It subsumes the older ones, so committing them first would be two records for the same end.
    let (checkpoint, parts) = tally.into_iter().rev().find(|(_, parts)| parts.len() == tasks)?;
    let mut commit = Commit { checkpoint, parts: BTreeMap::new() };
    for ((operator, _), part) in parts {
        // In order of the subtasks, none of which is missing.
        commit.parts.entry(operator).or_default().push(part);
    }
    Some(commit)
}

/// The record after `newest` that commits `commit`. Pure.
#[must_use]
pub(super) fn committed(newest: &JobRecord, commit: Commit) -> JobRecord {
    // This is the rule that closes the past: once a later generation is recorded, no commit of an earlier one can be
    // derived from the newest record.
    assert_eq!(commit.checkpoint.attempt, newest.attempt, "only the newest generation commits");
    let before = newest.commit.as_ref().map(|commit| commit.checkpoint);
    assert!(before.is_none_or(|before| before < commit.checkpoint), "commits ascend");
    let mut record = newest.successor();
    record.commit(Some(commit));
    record
}

/// Commits the newest checkpoint that all tasks of the generation `attempt` of `job` have reported, if there is a new
/// one; returns the present state. Any daemon may call it at any time. Idempotent. Cancel-safe.
///
/// # Errors
/// If the job's records cannot be read or written.
pub async fn finish(store: &Store, job: &Name, attempt: Attempt, retry: Retry) -> Result<Finished, JobError> {
    for _ in 0..ATTEMPTS {
        // The record first, then the reports: later reports only add to earlier ones.
        let Some(newest) = chain::newest(store, job, retry).await? else {
            return Err(JobError::Gone(job.clone()));
        };
        if newest.attempt != attempt || newest.declared.is_none() {
            return Ok(Finished::Outdated { by: newest.attempt });
        }
        let reports = reports::reported(store, job, attempt, retry).await?;
        let reported = tally(&newest, &reports).into_keys().map(|checkpoint| checkpoint.id).collect();
        let Some(commit) = complete(&newest, &reports) else {
            return Ok(Finished::Current { record: Box::new(newest), appended: false, reported });
        };
        let checkpoint = commit.checkpoint;
        // Derived from the record that was read before the reports. If a generation begins in between, it takes the
        // number, this append fails, and the next round finds the attempt outdated.
        let next = committed(&newest, commit);
        if chain::append(store, job, &next, retry).await? {
            tracing::info!(%job, %checkpoint, number = next.number, "committed a checkpoint");
            return Ok(Finished::Current { record: Box::new(next), appended: true, reported });
        }
    }
    Err(JobError::Contended(job.clone()))
}

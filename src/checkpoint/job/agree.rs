//! The agreement of all subtasks of an attempt on a checkpoint that each of them names, by id or by handles.
//!
//! An id alone does not tell which attempt made the checkpoint. Which attempts have it whole may change while subtasks
//! open one after the other, since owners of older attempts may still publish. So the first subtask that names a
//! checkpoint of the whole job records which one it is, as for the latest ([`choose`](super::choose)), and the others
//! follow. A subtask that names another one is refused, with two exceptions: a subtask that is the whole job may change
//! its mind, and a subtask that comes back within the attempt may name a checkpoint of the attempt itself.
//!
//! A checkpoint that the job does not have whole concerns no other subtask, as long as its id is unambiguous.

use std::collections::BTreeSet;

use super::{
    ATTEMPTS, Beginning, JobCheckpoint, JobError, JobRecord, JobView, Opener, OperatorCheckpoint, Records,
    defer::shall_decide, read_heads,
};
use crate::{
    checkpoint::manifest::Manifest,
    types::{BackendId, CheckpointId},
};

/// How a subtask names the checkpoint that it begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// By its id, of any attempt.
    Id(CheckpointId),
    /// By attempt and id.
    Exactly(JobCheckpoint),
}

impl Named {
    fn means(self, checkpoint: JobCheckpoint) -> bool {
        match self {
            Self::Id(id) => checkpoint.id == id,
            Self::Exactly(named) => checkpoint == named,
        }
    }
}

/// The checkpoint that `opener` begins with when it names it; `None` if no such checkpoint is retained. Cancel-safe.
///
/// # Errors
/// If the attempt restores another checkpoint, or is outdated; or if the id means checkpoints of several attempts, and
/// the job has none of them whole.
pub async fn agree(
    records: &mut Records<'_>,
    opener: Opener<'_>,
    named: Named,
) -> Result<Option<JobCheckpoint>, JobError> {
    let Opener { backend, attempt, .. } = opener;
    let job = &backend.job;
    for _ in 0..ATTEMPTS {
        let record = records.newest(job).await?;
        if let Some(newest) = record.as_ref().filter(|newest| newest.attempt > attempt) {
            return Err(JobError::Outdated { job: job.clone(), attempt, newer: newest.attempt });
        }
        let chosen = match record.as_ref().filter(|newest| newest.attempt == attempt).map(|newest| newest.beginning) {
            None | Some(Beginning::Undecided) => None,
            Some(Beginning::Chosen(chosen)) => Some(chosen),
        };
        if let Some(Some(chosen)) = chosen
            && named.means(chosen)
        {
            return Ok(Some(chosen));
        }
        // Another daemon decides, or has decided meanwhile; the next round follows its record.
        if chosen.is_none() && !shall_decide(records, opener).await? {
            continue;
        }
        // An announcement may be the newest by now.
        let record = records.newest(job).await?;
        let heads = read_heads(records.store, job, records.retry).await?;
        let found = meant(backend, &heads, named)?;
        let Some(Meant { checkpoint, is_whole }) = found else { return Ok(None) };
        if let Some(chosen) = chosen.filter(|_| checkpoint.attempt != attempt && !opener.is_alone(&heads)) {
            return Err(JobError::ChosenOther { job: job.clone(), chosen, asked: checkpoint });
        }
        // A subtask that comes back within its attempt begins with a checkpoint that this attempt itself made. The
        // choice of the attempt stays, as the other subtasks began with it.
        let comes_back = checkpoint.attempt == attempt && chosen.is_some();
        // Not recorded: a checkpoint that the job does not have whole concerns no other subtask.
        if !is_whole || comes_back {
            return Ok(Some(checkpoint));
        }
        let spoilt = record.as_ref().map_or_else(Vec::new, |record| record.spoilt.clone());
        let next = JobRecord::undeclared(record.as_ref(), attempt, Beginning::Chosen(Some(checkpoint)), spoilt);
        if records.append(job, &next).await? {
            return Ok(Some(checkpoint));
        }
    }
    Err(JobError::Contended(job.clone()))
}

/// The checkpoint that a name means.
#[derive(Debug, PartialEq, Eq)]
struct Meant {
    checkpoint: JobCheckpoint,
    /// Whether every operator that has a checkpoint of this id has it whole.
    is_whole: bool,
}

/// The checkpoint that `named` means, given `heads`: the newest that the whole job has, or else the only one there is.
/// Pure.
fn meant(backend: &BackendId, heads: &[Manifest], named: Named) -> Result<Option<Meant>, JobError> {
    let view = JobView::of(heads);
    let found: BTreeSet<JobCheckpoint> =
        view.operators.values().flatten().map(|found| found.checkpoint).filter(|found| named.means(*found)).collect();
    if let Some(checkpoint) = found.iter().rev().copied().find(|checkpoint| is_whole(&view, *checkpoint)) {
        return Ok(Some(Meant { checkpoint, is_whole: true }));
    }
    // No attempt has the checkpoint whole. If only one attempt has parts of it, the id still means one checkpoint.
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(checkpoint), None) => Ok(Some(Meant { checkpoint, is_whole: false })),
        (Some(one), Some(other)) => Err(JobError::Ambiguous { backend: backend.clone(), one, other }),
    }
}

/// Whether every operator that has a checkpoint with the id of `checkpoint`, of any attempt, has this one whole. An
/// operator without such a checkpoint did not take part. Pure.
fn is_whole(view: &JobView, checkpoint: JobCheckpoint) -> bool {
    let concerns = |found: &&Vec<OperatorCheckpoint>| found.iter().any(|it| it.checkpoint.id == checkpoint.id);
    let has = |found: &Vec<OperatorCheckpoint>| found.iter().any(|it| it.checkpoint == checkpoint && it.is_whole);
    view.operators.values().filter(concerns).all(has)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::job::tests::head,
        types::{Attempt, Name},
    };

    fn of(operator: &str, mut head: Manifest) -> Manifest {
        head.backend.operator = Name::new(operator).unwrap();
        head
    }

    fn id(heads: &[Manifest], id: CheckpointId) -> Result<Option<(Attempt, bool)>, JobError> {
        let found = meant(&heads[0].backend, heads, Named::Id(id))?;
        Ok(found.map(|meant| (meant.checkpoint.attempt, meant.is_whole)))
    }

    #[test]
    fn an_id_means_the_newest_checkpoint_that_the_whole_job_has() {
        let two = |a: &[(u64, u64)], b: &[(u64, u64)]| [head(0, 2, a, true), head(1, 2, b, true)];
        assert_eq!(id(&two(&[(1, 7), (2, 7)], &[(1, 7)]), 7).unwrap(), Some((1, true)));
        assert_eq!(id(&two(&[(1, 7), (2, 7)], &[(1, 7), (2, 7)]), 7).unwrap(), Some((2, true)));
        let operators = |left: &[(u64, u64)], right: &[(u64, u64)]| {
            [of("left", head(0, 1, left, true)), of("right", head(0, 1, right, true))]
        };
        assert_eq!(id(&operators(&[(1, 7), (2, 7)], &[(1, 7)]), 7).unwrap(), Some((1, true)));
        // One that was not there at that id has no say.
        assert_eq!(id(&operators(&[(1, 6), (2, 7)], &[(1, 6)]), 7).unwrap(), Some((2, true)));
    }

    #[test]
    fn an_id_that_means_parts_of_several_attempts_is_refused() {
        let two = |a: &[(u64, u64)], b: &[(u64, u64)]| [head(0, 2, a, true), head(1, 2, b, true)];
        assert_eq!(id(&two(&[(1, 7)], &[]), 7).unwrap(), Some((1, false)));
        assert_eq!(id(&two(&[(1, 7)], &[(1, 8)]), 9).unwrap(), None);
        assert!(matches!(id(&two(&[(1, 7)], &[(2, 7)]), 7), Err(JobError::Ambiguous { .. })));
    }
}

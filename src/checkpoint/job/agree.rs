//! The agreement of all subtasks of an attempt on a checkpoint that each of them names: by id, or by handles.
//!
//! An id alone does not tell which attempt made the checkpoint, and which attempts have it whole changes while subtasks
//! open one after the other: owners of older attempts may still publish. So the first subtask to name a checkpoint that
//! the whole job has records which one that is, as with the latest ([`choose`](super::choose)), and the others follow.
//! Whoever names another one is refused, but for two: a subtask that is the whole job may change its mind, and a
//! checkpoint of the attempt itself can be named by who comes back within the attempt.
//!
//! What the job does not have whole is nobody else's business, as long as its id means one thing only.

use std::collections::BTreeSet;

use super::{
    ATTEMPTS, Beginning, JobCheckpoint, JobError, JobRecord, JobView, OperatorCheckpoint, Seen, chain,
    choose::is_alone, defer::shall_decide, read_heads,
};
use crate::{
    checkpoint::manifest::Manifest,
    object::{Retry, Store},
    types::{Attempt, BackendId, CheckpointId},
};

/// How a subtask names what it begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// By its id, of whichever attempt.
    Id(CheckpointId),
    /// Exactly.
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

/// Which checkpoint `backend`, one of `parallelism` subtasks, begins with when it opens with `attempt` and names it;
/// `None` if nobody retains such a one. `seen` is the newest record that the caller knows, and then the one that was
/// made, if one was. Cancel-safe.
///
/// # Errors
/// If the attempt restores another one, or is outdated; if the id means checkpoints of several attempts of which the
/// job has none whole.
pub async fn agree(
    store: &Store,
    (backend, parallelism): (&BackendId, u32),
    attempt: Attempt,
    (named, seen): (Named, &mut Seen),
    retry: Retry,
) -> Result<Option<JobCheckpoint>, JobError> {
    let job = &backend.job;
    for _ in 0..ATTEMPTS {
        let record = seen.get(store, job, retry).await?;
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
        if chosen.is_none() && !shall_decide(store, (backend, parallelism), attempt, (seen, retry)).await? {
            continue;
        }
        // An announcement may be the newest by now.
        let record = seen.get(store, job, retry).await?;
        let heads = read_heads(store, job, retry).await?;
        let found = meant(backend, &heads, named)?;
        let Some(Meant { checkpoint, is_whole }) = found else { return Ok(None) };
        if let Some(chosen) =
            chosen.filter(|_| checkpoint.attempt != attempt && !is_alone(&heads, backend, parallelism))
        {
            return Err(JobError::ChosenOther { job: job.clone(), chosen, asked: checkpoint });
        }
        let comes_back = checkpoint.attempt == attempt && chosen.is_some();
        if !is_whole || comes_back {
            return Ok(Some(checkpoint));
        }
        let spoilt = record.as_ref().map_or_else(Vec::new, |record| record.spoilt.clone());
        let next = JobRecord::undeclared(record.as_ref(), attempt, Beginning::Chosen(Some(checkpoint)), spoilt);
        if chain::append(store, job, &next, retry).await? {
            seen.made(next);
            return Ok(Some(checkpoint));
        }
        seen.forget();
    }
    Err(JobError::Contended(job.clone()))
}

/// What a name means.
#[derive(Debug, PartialEq, Eq)]
struct Meant {
    checkpoint: JobCheckpoint,
    /// Whether every operator that has a checkpoint of this id has it whole.
    is_whole: bool,
}

/// What `named` means over `heads`: the newest that the whole job has, or the only one that there is. Pure.
fn meant(backend: &BackendId, heads: &[Manifest], named: Named) -> Result<Option<Meant>, JobError> {
    let view = JobView::of(heads);
    let found: BTreeSet<JobCheckpoint> =
        view.operators.values().flatten().map(|found| found.checkpoint).filter(|found| named.means(*found)).collect();
    if let Some(checkpoint) = found.iter().rev().copied().find(|checkpoint| is_whole(&view, *checkpoint)) {
        return Ok(Some(Meant { checkpoint, is_whole: true }));
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(checkpoint), None) => Ok(Some(Meant { checkpoint, is_whole: false })),
        (Some(one), Some(other)) => Err(JobError::Ambiguous { backend: backend.clone(), one, other }),
    }
}

/// Whether every operator that has a checkpoint of the id of `checkpoint`, of whichever attempt, has this one whole. An
/// operator that has none was not there.
fn is_whole(view: &JobView, checkpoint: JobCheckpoint) -> bool {
    let concerns = |found: &&Vec<OperatorCheckpoint>| found.iter().any(|it| it.checkpoint.id == checkpoint.id);
    let has = |found: &Vec<OperatorCheckpoint>| found.iter().any(|it| it.checkpoint == checkpoint && it.is_whole);
    view.operators.values().filter(concerns).all(has)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::{checkpoint::job::tests::head, types::Name};

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

//! Detects lost manifests: the newest manifests of one chain may vanish without a gap, so that the chain looks as it
//! did before.
//!
//! That chain alone cannot tell this from "never written". But a completed checkpoint was published by all subtasks,
//! and each owner records the highest id that it has published. So if one chain says that a checkpoint is complete, and
//! the owner of another chain never came to that id, manifests of the other chain are missing. A checkpoint that an
//! owner let go of is not taken for a lost one.

use std::fmt;

use super::JobCheckpoint;
use crate::{
    checkpoint::manifest::{CheckpointRecord, Manifest},
    types::BackendId,
};

/// A completed checkpoint of which a part is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The checkpoint of which a part is lost.
    pub checkpoint: JobCheckpoint,
    /// The backend whose chain says that it is complete.
    pub witness: BackendId,
    /// The backend whose chain should have, or have had, a part of it.
    pub missing: BackendId,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "checkpoint {} completed, as the chain of `{}` says, but that of `{}` ends before it: its newest manifests are missing \
             from the store",
            self.checkpoint, self.witness, self.missing
        )
    }
}

/// The newest completed checkpoint after `after` that `witnesses` tell of and `heads` lack a part of. The witnesses
/// must have been read before the heads; otherwise a witness may tell of a completion that is newer than a head. Pure.
pub(super) fn newest_lost(witnesses: &[Manifest], heads: &[Manifest], after: Option<JobCheckpoint>) -> Option<Lost> {
    let completed = witnesses.iter().flat_map(|head| head.checkpoints.iter().map(move |record| (head, record)));
    let newer = completed.filter(|(_, record)| record.completed && Some(JobCheckpoint::of(record)) > after);
    let lost = newer.filter_map(|(witness, record)| {
        let missing = heads.iter().find(|head| has_lost(head, witness, record))?.backend.clone();
        Some(Lost { checkpoint: JobCheckpoint::of(record), witness: witness.backend.clone(), missing })
    });
    lost.max_by_key(|lost| lost.checkpoint)
}

/// Whether the chain of `head` has lost its part of the checkpoint in `record` of `witness`.
fn has_lost(head: &Manifest, witness: &Manifest, record: &CheckpointRecord) -> bool {
    let checkpoint = JobCheckpoint::of(record);
    if head.checkpoints.iter().any(|other| JobCheckpoint::of(other) == checkpoint) {
        return false;
    }
    let is_sibling = head.backend.operator == witness.backend.operator;
    // A subtask that did not exist when the checkpoint was made has no part of it.
    if is_sibling && head.backend.subtask >= witness.span(record).parallelism {
        return false;
    }
    match head.published_to(checkpoint.attempt) {
        // Published further: the part was there and was let go. Published less: the manifest with the part has
        // vanished, since a checkpoint completes only after every subtask has published. An older version's record does
        // not tell, and counts as there.
        Some(published_to) => published_to.is_some_and(|last| last < checkpoint.id),
        // Another operator may not have been part of that attempt.
        None => is_sibling && head.owner().attempt < checkpoint.attempt,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::checkpoint::job::tests::head;

    /// The head of a subtask whose owner of attempt 1 published up to `published_to`.
    fn told(subtask: u32, checkpoints: &[(u64, u64)], completed: bool, published_to: Option<u64>) -> Manifest {
        let mut head = head(subtask, 2, checkpoints, completed);
        head.epochs.truncate(1);
        head.epochs[0].published_to = published_to;
        head
    }

    fn id(heads: &[Manifest]) -> Option<(u64, u32)> {
        newest_lost(heads, heads, Some(JobCheckpoint { attempt: 1, id: 1 }))
            .map(|it| (it.checkpoint.id, it.missing.subtask))
    }

    #[test]
    fn what_completed_and_another_chain_never_came_to_is_lost() {
        let witness = told(0, &[(1, 1), (1, 2)], true, Some(2));
        assert_eq!(id(&[witness.clone(), told(1, &[(1, 1)], true, Some(1))]), Some((2, 1)));
        assert_eq!(id(&[witness.clone(), told(1, &[(1, 1), (1, 2)], false, Some(2))]), None);
        assert_eq!(id(&[witness.clone(), told(1, &[(1, 1)], true, Some(2))]), None, "it was let go");
        assert_eq!(id(&[witness, told(1, &[(1, 1)], true, None)]), None, "an owner that does not tell");
        let uncompleted = told(0, &[(1, 1), (1, 2)], false, Some(2));
        assert_eq!(id(&[uncompleted, told(1, &[(1, 1)], true, Some(1))]), None);
    }

    #[test]
    fn what_a_witness_tells_that_was_read_before_the_other_chain_counts() {
        let after = Some(JobCheckpoint { attempt: 1, id: 1 });
        let (one, other) = (told(0, &[(1, 1), (1, 2)], true, Some(2)), told(1, &[(1, 1)], true, Some(1)));
        let later = told(1, &[(1, 1), (1, 2)], true, Some(2));
        assert_eq!(newest_lost(&[one.clone(), other.clone()], &[one.clone(), later], after), None);
        assert!(newest_lost(&[one.clone(), other.clone()], &[one, other], after).is_some());
    }

    #[test]
    fn a_chain_that_lost_all_of_an_attempt_is_told_by_its_siblings_alone() {
        let mut witness = told(0, &[(1, 1), (3, 2)], true, Some(2));
        witness.epochs[0].attempt = 3;
        let mut behind = told(1, &[(1, 1)], true, Some(1));
        assert_eq!(id(&[witness.clone(), behind.clone()]), Some((2, 1)));
        behind.backend.subtask = 2;
        assert_eq!(id(&[witness.clone(), behind.clone()]), None, "beyond the parallelism");
        behind.backend.subtask = 1;
        behind.backend.operator = crate::types::Name::new("other").unwrap();
        assert_eq!(id(&[witness.clone(), behind.clone()]), None, "maybe no part of the attempt");
        behind.epochs[0].attempt = 3;
        assert_eq!(id(&[witness.clone(), behind.clone()]), Some((2, 1)));
        behind.epochs[0].attempt = 4;
        assert_eq!(id(&[witness, behind]), None, "what an attempt long ago published is forgotten");
    }
}

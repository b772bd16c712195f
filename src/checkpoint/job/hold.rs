//! Holds the checkpoint that a declared generation restores, before any task is told of it.
//!
//! Owners of a declared attempt never let go of the checkpoint that the job stands on. But a generation may restore
//! another one: an older checkpoint that was asked for, or one of an attempt that was not declared. Its owners may have
//! let go of it already, which their next manifest will show; or a user discards it.
//!
//! So there are three steps. First the generation's record, which every discard looks at. Then a fence under its
//! attempt in every chain that has a part. If all parts are still there after that, a second record says that they are
//! *held*. Until then no task is told which checkpoint the generation restores.
//!
//! If an owner let go of a part before the fence, the fence shows it, and the generation is withdrawn. An owner that
//! comes later meets the fence, looks again, and finds the record.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    ATTEMPTS, Beginning, JobCheckpoint, JobError, JobRecord, JobView, chain, declare::check_parts, head_numbers_of_job,
    outdate, read_heads,
};
use crate::{
    checkpoint::{
        chain::{self as manifests, ChainError},
        generation,
        manifest::Manifest,
    },
    object::{Retry, Store},
    random::Random,
    types::{Attempt, BackendId, Name},
};

/// Chains that are fenced at the same time.
const CONCURRENT_FENCES: usize = 16;

/// The resources of a declaration.
#[derive(Debug, Clone, Copy)]
pub struct Declaring<'a> {
    /// The store that has the job.
    pub store: &'a Store,
    /// Makes UUIDs for the fences.
    pub random: &'a Random,
    /// How requests are retried.
    pub retry: Retry,
}

impl Declaring<'_> {
    /// Holds the checkpoint that `record`, the newest one of `job`, restores, and appends that it is held. Returns
    /// whether that is the newest record now.
    ///
    /// # Errors
    /// [`JobError::NotThere`] if a part was let go; the generation is withdrawn then.
    pub(super) async fn hold(&self, job: &Name, record: &JobRecord) -> Result<bool, JobError> {
        // Order: 1. (by the caller) the generation's record, 2. the fences, 3. the record that it is held. Tasks are
        // told of the checkpoint only after that.
        let mut next = JobRecord { unheld: false, ..record.successor() };
        let is_past = record.commit.as_ref().is_some_and(|commit| commit.checkpoint.attempt == record.attempt);
        // A generation that has committed a checkpoint of its own no longer depends on the one that it restored.
        let gone = match record.restore().filter(|_| !is_past) {
            Some(checkpoint) => self.fence_all(job, checkpoint, record).await?,
            None => None,
        };
        if gone.is_some() {
            let spoilt = record.spoilt.clone();
            // The generation is withdrawn by the same append that would have said that it holds. So no task can be told
            // of a checkpoint that is gone, whichever of two callers is faster.
            next = JobRecord::undeclared(Some(record), record.attempt, Beginning::Undecided, spoilt);
        }
        let is_newest = chain::append(self.store, job, &next, self.retry).await?;
        gone.map_or(Ok(is_newest), Err)
    }

    /// Fences every chain that has a part of `checkpoint`. Returns an error if a part is missing then.
    async fn fence_all(
        &self,
        job: &Name,
        checkpoint: JobCheckpoint,
        record: &JobRecord,
    ) -> Result<Option<JobError>, JobError> {
        let heads = read_heads(self.store, job, self.retry).await?;
        let fenced = heads.into_iter().map(|head| async move {
            // A chain without a part has nothing to let go of, and its owner goes on.
            let has_part = head.checkpoints.iter().any(|part| JobCheckpoint::of(part) == checkpoint);
            if has_part { self.fence(head.backend, record.attempt).await } else { Ok(head) }
        });
        let fenced: Vec<_> = fenced.collect();
        // The head of a chain with a part is the fence itself, or it is not older than this attempt.
        let heads: Vec<Manifest> = stream::iter(fenced).buffered(CONCURRENT_FENCES).try_collect().await?;
        Ok(is_there(job, checkpoint, record, &heads).err())
    }

    /// Makes sure that no owner before `attempt` can write to the chain of `backend`. Returns its head.
    async fn fence(&self, backend: BackendId, attempt: Attempt) -> Result<Manifest, ChainError> {
        for _ in 0..ATTEMPTS {
            let Some(head) = manifests::read_head(self.store, &backend, self.retry).await? else { break };
            // The owner is of this generation or a later one, or a fence is there already. So no earlier owner can
            // write any more.
            if head.manifest.owner().attempt >= attempt {
                return Ok(head.manifest);
            }
            // If no epoch number is left, the chain can never be written again. A declaration has no peers of another
            // attempt.
            let fence = generation::fence(&head, attempt, &Bytes::new(), self.random.uuid());
            let Some(fence) = fence else { return Ok(head.manifest) };
            match manifests::append(self.store, &fence, self.retry).await {
                Ok(_) => return Ok(fence),
                // Another writer was first. Its manifest may lack the part, so the next round looks at it.
                Err(ChainError::Fenced { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ChainError::Contended(backend))
    }

    /// Looks at the chains again after the record of the generation `attempt` is durable, since an opener with a higher
    /// attempt may have read the records before that. `heads` are those that were read first.
    ///
    /// # Errors
    /// [`JobError::Outdated`] if there is such an opener; its attempt is recorded then.
    pub(super) async fn refuse_overtaken(
        &self,
        job: &Name,
        heads: &[Manifest],
        attempt: Attempt,
    ) -> Result<(), JobError> {
        let numbers = head_numbers_of_job(self.store, job, self.retry).await?;
        let is_known = |(backend, number): &(BackendId, u64)| {
            heads.iter().any(|head| head.backend == *backend && head.number >= *number)
        };
        // Only chains that moved since the first look are read again.
        let moved: Vec<_> = numbers.into_iter().filter(|moved| !is_known(moved)).collect();
        let mut newest = attempt;
        for (backend, _) in moved {
            let head = manifests::read_head(self.store, &backend, self.retry).await?;
            newest = head.map_or(newest, |head| newest.max(head.manifest.owner().attempt));
        }
        if newest == attempt {
            return Ok(());
        }
        // Recorded, so that tasks of this attempt that open later are refused by the record and need not look at every
        // chain.
        outdate(self.store, job, newest, self.retry).await?;
        Err(JobError::Outdated { job: job.clone(), attempt, newer: newest })
    }
}

/// Checks that `heads` retain all of `checkpoint`, which `record` restores. Pure.
fn is_there(job: &Name, checkpoint: JobCheckpoint, record: &JobRecord, heads: &[Manifest]) -> Result<(), JobError> {
    match record.commit.as_ref().filter(|commit| commit.checkpoint == checkpoint) {
        Some(commit) => check_parts(job, commit, heads),
        None if JobView::of(heads).consistent.contains(&checkpoint) => Ok(()),
        None => {
            let what = "an owner let it go meanwhile".to_owned();
            Err(JobError::NotThere { job: job.clone(), checkpoint, what })
        }
    }
}

/// Whether the generation after `before` restores a checkpoint that an owner before it may let go of. Pure.
pub(super) fn needs_holding(before: Option<&JobRecord>, restore: Option<JobCheckpoint>) -> bool {
    let stands_on = before.filter(|before| before.declared.is_some() && !before.unheld).and_then(JobRecord::stands_on);
    restore.is_some() && restore != stands_on
}

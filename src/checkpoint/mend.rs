//! A way past a newest manifest that is damaged for good: a fence above it, derived from the newest manifest that can
//! be read.
//!
//! ```text
//!   6 │ epoch 3      7 │ damaged      8 │ fence, epoch 5: the retained parts of 6 that still exist
//! ```
//!
//! The damaged object stays. If its number became free, an owner that made it could publish beside its successor. It
//! may have opened an epoch that is recorded nowhere else, so the fence skips as many epochs as there are unreadable
//! manifests. For the same reason its attempt is the highest that the job knows of. Objects that only the damaged
//! manifest named are lost and become garbage. Objects that an older manifest names may have been deleted since, so
//! checkpoints that lack one are let go.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    chain::{self, ChainError, Head},
    damage, envelope, generation,
    job::{self, JobError},
    manifest::{CheckpointRecord, Fences, Manifest},
};
use crate::{
    object::{Retry, Store, StoreError},
    random::Random,
    types::{Attempt, BackendId, CheckpointIdentity, Epoch, Sqn},
};

/// How often it looks again when the chain moves.
const ATTEMPTS: usize = 4;

/// The result of mending a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mended {
    /// The number of the fence.
    pub number: u64,
    /// The epoch of the fence.
    pub epoch: Epoch,
    /// The attempt of the fence; a backend can be opened only with at least this attempt.
    pub attempt: Attempt,
    /// The number of the manifest that it was derived from.
    pub from: u64,
    /// Checkpoints that the fence retains, oldest first.
    pub kept: Vec<CheckpointIdentity>,
    /// Checkpoints of the older manifest that lack an object, each with a description of the loss.
    pub lost: Vec<(CheckpointIdentity, String)>,
}

/// The reason why a chain was not mended.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// There is no such chain.
    #[error("the store has no backend `{0}`")]
    Unknown(BackendId),
    /// The newest manifest is whole.
    #[error("manifest {number} of backend `{backend}`, its newest one, is whole: open the backend")]
    Whole {
        /// The backend of the chain.
        backend: BackendId,
        /// The number of the manifest.
        number: u64,
    },
    /// No manifest can be read.
    #[error("no manifest of backend `{0}` can be read: bring the newest one back from a backup, same path, same bytes")]
    AllDamaged(BackendId),
    /// No epoch number is left.
    #[error("backend `{0}` was opened {max} times, the most there may be", max = Sqn::MAX_EPOCH)]
    TooManyEpochs(BackendId),
    /// The job's records cannot be read or written.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The chain cannot be read or written.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl From<StoreError> for MendError {
    fn from(error: StoreError) -> Self {
        Self::Chain(error.into())
    }
}

/// Adds a fence above the newest manifest of `backend`, which is damaged, with at least `attempt`. Idempotent: the
/// second call finds the chain whole. Cancel-safe: if dropped, it may be done.
///
/// # Errors
/// [`MendError`].
pub async fn mend(
    store: &Store,
    backend: &BackendId,
    attempt: Attempt,
    random: &Random,
    retry: Retry,
) -> Result<Mended, MendError> {
    // A local copy cannot prove that the store's object is whole or damaged.
    let store = &store.clone().with_copies(None);
    for _ in 0..ATTEMPTS {
        let (newest, head) = newest_readable(store, backend, retry).await?;
        // The attempt of the damaged manifest cannot be read. The highest one that the job knows of stands for it: by a
        // lower one, an owner could come back that was outdated.
        let attempt = attempt.max(highest_attempt(store, backend, retry).await?);
        let from = head.manifest.number;
        let mut fence =
            fence_above(newest, &head, attempt, random).ok_or_else(|| MendError::TooManyEpochs(backend.clone()))?;
        // Before the fence is appended, so that it never retains a checkpoint that cannot be restored. An owner that
        // opens the chain right after it would offer such a checkpoint.
        let lost = let_go_of_lost(store, &mut fence, retry).await?;
        match chain::append(store, &fence, retry).await {
            Ok(_) => {
                let kept = fence.checkpoints.iter().map(|record| record.identity).collect();
                let (number, epoch, attempt) = (fence.number, fence.owner().epoch, fence.owner().attempt);
                return Ok(Mended { number, epoch, attempt, from, kept, lost });
            }
            // The owner is alive, and its manifests are whole.
            Err(ChainError::Fenced { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ChainError::Contended(backend.clone()).into())
}

/// The newest number, whose manifest is damaged, and the newest manifest that can be read.
async fn newest_readable(store: &Store, backend: &BackendId, retry: Retry) -> Result<(u64, Head), MendError> {
    let numbers = chain::numbers(store, backend, retry).await?;
    let newest = *numbers.last().ok_or_else(|| MendError::Unknown(backend.clone()))?;
    // The fence is chained to the damaged bytes, and not to the manifest that it was derived from: the chain by
    // checksums then shows that nothing was taken out.
    let mut crc = 0;
    for &number in numbers.iter().rev() {
        let mut read = chain::read(store, backend, number, retry).await?;
        if matches!(read, Some((Err(_), _))) {
            // Read twice: one wrong answer of the store is no proof.
            read = chain::read(store, backend, number, retry).await?;
        }
        match read {
            Some((Ok(_), _)) if number == newest => {
                return Err(MendError::Whole { backend: backend.clone(), number });
            }
            Some((Ok(manifest), _)) => return Ok((newest, Head { manifest, crc })),
            Some((Err(_), bytes)) if number == newest => crc = envelope::crc_of(&bytes),
            // A second damaged manifest, or one that was deleted since. Both are passed over, and the fence skips their
            // epochs.
            Some((Err(_), _)) | None => {}
        }
    }
    Err(MendError::AllDamaged(backend.clone()))
}

/// The highest attempt that the job of `backend` knows of, as far as its records can be read.
async fn highest_attempt(store: &Store, backend: &BackendId, retry: Retry) -> Result<Attempt, MendError> {
    let mut highest = match job::newest(store, &backend.job, retry).await {
        Ok(record) => record.map_or(0, |record| record.attempt),
        // A damaged record tells no attempt. The heads below still do, and the fence does not wait for the record to be
        // mended.
        Err(JobError::Corrupt { .. }) => 0,
        Err(error) => return Err(error.into()),
    };
    for other in job::backends(store, &backend.job, retry).await? {
        match chain::read_head(store, &other, retry).await {
            Ok(head) => highest = highest.max(head.map_or(0, |head| head.manifest.owner().attempt)),
            // That is the damaged chain itself, or another damaged one, which has to be mended by its own call.
            Err(ChainError::Corrupt { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(highest)
}

/// The manifest after number `newest` with the contents of `head`; `None` if no epoch number is left. Pure but for the
/// name.
fn fence_above(newest: u64, head: &Head, attempt: Attempt, random: &Random) -> Option<Manifest> {
    let attempt = attempt.max(head.manifest.owner().attempt);
    let unread = newest - head.manifest.number;
    let mut fence = generation::fence(head, attempt, &Bytes::new(), random.uuid())?;
    let epoch = &mut fence.epochs.last_mut()?.epoch.number;
    // Each manifest that cannot be read may have opened an epoch. Sequence numbers and pages of that epoch may exist,
    // so its number must not be used by another owner.
    *epoch += unread;
    let is_left = *epoch <= Sqn::MAX_EPOCH;
    fence.number = newest + 1;
    // The fence tells nothing about manifests below it, so those that cannot be read stay.
    fence.fences = Fences::default();
    fence.fences.open(fence.number);
    is_left.then_some(fence)
}

/// Lets go of the checkpoints of `fence` that have a missing or corrupt object.
async fn let_go_of_lost(
    store: &Store,
    fence: &mut Manifest,
    retry: Retry,
) -> Result<Vec<(CheckpointIdentity, String)>, StoreError> {
    let whole: &Manifest = fence;
    let parts: Vec<(&Manifest, &CheckpointRecord)> = whole.checkpoints.iter().map(|record| (whole, record)).collect();
    let damage = damage::survey(store, &parts, &[], &BTreeSet::new(), retry).await?;
    let fault_of = |part| damage.first_of(part).map(|fault| fault.what.clone());
    let lost = fence.checkpoints.iter().zip(0..).filter_map(|(record, part)| Some((record.identity, fault_of(part)?)));
    let lost: Vec<(CheckpointIdentity, String)> = lost.collect();
    fence.checkpoints.retain(|record| !lost.iter().any(|(identity, _)| *identity == record.identity));
    // Without the checkpoints, parts of the log and bases may be garbage.
    fence.prune(&[]);
    Ok(lost)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::checkpoint::manifest::tests::sample;

    #[test]
    fn a_fence_above_damage_skips_the_epochs_that_nobody_can_read() {
        let head = Head { manifest: sample(), crc: 7 };
        let fence = fence_above(14, &head, 1, &Random::seeded(1)).unwrap();
        assert_eq!((fence.number, fence.previous_crc), (15, 7));
        assert_eq!((fence.owner().epoch.number, fence.owner().attempt, fence.owner().is_fence), (5, 2, true));
        assert_eq!(fence.checkpoints, head.manifest.checkpoints);
        assert_eq!(Manifest::decode(&fence.encode()).unwrap(), fence);
        assert_eq!(fence_above(14, &head, 9, &Random::seeded(1)).unwrap().owner().attempt, 9);
    }
}

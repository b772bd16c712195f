//! Discards a checkpoint, or all objects of a job, if no backend concerned is open.
//!
//! Only an owner may write to a chain. So to discard is to become an owner, of an epoch that begins nothing and only
//! drops: a [fence](super::generation). The owner before meets the fence with its next manifest and stops. Objects that
//! the chain no longer names are then garbage; those of a whole job are deleted at once.
//!
//! The fence keeps the newest attempt. That attempt may open again, and finds the remaining state. But if the attempt
//! had chosen to restore the discarded checkpoint, which the job's chain remembers, a new choice takes a higher
//! attempt.

use std::time::Duration;

use super::{
    chain::{self, ChainError},
    collect::{self, SweepError, SweepOptions, SweepReport},
    generation,
    job::{self, JobCheckpoint, JobError},
    ledger::NoticeTarget,
    manifest::{CheckpointRecord, Manifest},
};
use crate::{
    object::{Retry, Store, StoreError, layout},
    random::Random,
    types::{BackendId, CheckpointIdentity, Name, Sqn},
};

/// How often it tries again when others write to the chains meanwhile.
const DISCARD_ATTEMPTS: usize = 16;

/// The target of a discard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discard {
    /// Every checkpoint of every backend of this job.
    Job(Name),
    /// One checkpoint of this backend.
    Checkpoint(BackendId, NoticeTarget),
}

/// The result of a discard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Discarded {
    /// Number of checkpoints that were let go.
    pub checkpoints: u64,
    /// Number of objects that were deleted at once.
    pub objects: u64,
    /// Bytes of those objects.
    pub bytes: u64,
}

/// The reason why something was not discarded.
#[derive(Debug, thiserror::Error)]
pub enum DiscardError {
    /// A user pinned it.
    #[error("checkpoint {checkpoint} of backend `{backend}` is pinned; release it, or set `force`")]
    Pinned {
        /// The backend whose checkpoint it is.
        backend: BackendId,
        /// The pinned checkpoint.
        checkpoint: CheckpointIdentity,
    },
    /// A declared job restores the checkpoint, or may commit it.
    #[error(
        "checkpoint {checkpoint} of backend `{backend}` is what the declared job restores, or may commit; declare another attempt that begins \
         elsewhere, or set `force`, which ends this attempt"
    )]
    Coordinated {
        /// The backend whose checkpoint it is.
        backend: BackendId,
        /// The checkpoint that was to be discarded.
        checkpoint: CheckpointIdentity,
    },
    /// The records of the job cannot be read or written.
    #[error(transparent)]
    Job(#[from] JobError),
    /// A clone is reading the job's objects.
    #[error("job `{job}`: a clone is reading it, by pin `{pin}`; wait until it has opened, or set `force`")]
    Read {
        /// The job that it reads.
        job: Name,
        /// Path of the pin.
        pin: String,
    },
    /// Others open its backends faster than they are emptied.
    #[error("job `{0}`: its backends are being opened all the time; stop its tasks first")]
    Opened(Name),
    /// No epoch number is left.
    #[error("backend `{0}` was opened {max} times, the most there may be", max = Sqn::MAX_EPOCH)]
    TooManyEpochs(BackendId),
    /// A chain cannot be read or written.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sweep after the discard failed.
    #[error("what was discarded could not be swept: {0}")]
    Sweep(#[from] SweepError),
}

/// A discard that is under way.
struct Discarding<'a> {
    store: &'a Store,
    random: &'a Random,
    force: bool,
    retry: Retry,
}

/// Discards `what`, with `force` even if it is pinned or being cloned. Owners are fenced. Idempotent. Cancel-safe: if
/// dropped, a part of it may be done.
///
/// # Errors
/// [`DiscardError`], which names the obstacle.
pub async fn discard(
    store: &Store,
    what: &Discard,
    force: bool,
    random: &Random,
    retry: Retry,
) -> Result<Discarded, DiscardError> {
    let discarding = Discarding { store, random, force, retry };
    match what {
        Discard::Job(job) => discarding.job(job).await,
        Discard::Checkpoint(backend, target) => discarding.checkpoint(backend, *target).await,
    }
}

impl Discarding<'_> {
    async fn checkpoint(&self, backend: &BackendId, target: NoticeTarget) -> Result<Discarded, DiscardError> {
        let is_meant = |record: &&CheckpointRecord| {
            let identity = record.identity;
            let same_uuid = target.uuid.is_none_or(|uuid| uuid == identity.uuid);
            (identity.epoch, identity.id) == (target.epoch, target.id) && same_uuid
        };
        for _ in 0..DISCARD_ATTEMPTS {
            let Some(head) = chain::read_head(self.store, backend, self.retry).await? else { break };
            // It is gone already, or was never there: discarding twice is no error.
            let Some(record) = head.manifest.checkpoints.iter().find(is_meant) else { break };
            self.refuse_pinned(&head.manifest, Some(record))?;
            // Ordering: 1. the declared generation ends (or the discard is refused), 2. the fence without the
            // checkpoint. In the other order, a daemon could commit the checkpoint between the two, and the job would
            // stand on a part that is gone.
            self.refuse_coordinated(backend, record).await?;
            let manifest = generation::discard(&head, &record.identity, self.random.uuid());
            // If the chain moved, the head is read again: a newer manifest may have pinned the checkpoint.
            if self.replace(manifest, backend).await? {
                tracing::info!(%backend, checkpoint = %record.identity, "discarded a checkpoint");
                return Ok(Discarded { checkpoints: 1, ..Discarded::default() });
            }
        }
        // If there is a chain, its owner publishes faster than this can append; if not, there is no such checkpoint.
        match chain::read_head(self.store, backend, self.retry).await? {
            Some(head) if head.manifest.checkpoints.iter().any(|record| is_meant(&record)) => {
                Err(ChainError::Contended(backend.clone()).into())
            }
            _ => Ok(Discarded::default()),
        }
    }

    async fn job(&self, job: &Name) -> Result<Discarded, DiscardError> {
        self.pins(job).await?;
        job::withdraw(self.store, job, self.retry).await?;
        // Order: 1. refuse (or by force revoke) clones that read, 2. end the declared generation, 3. empty every chain
        // and look again until all are empty, 4. the same for clones that came meanwhile, 5. delete.
        let mut discarded = Discarded::default();
        for _ in 0..DISCARD_ATTEMPTS {
            let heads = job::read_heads(self.store, job, self.retry).await?;
            let left: Vec<_> = heads.iter().filter(|head| !generation::is_retired(head)).collect();
            if left.is_empty() {
                // Again, since a clone may have begun to read before the chains were retired.
                self.pins(job).await?;
                let deleted = self.sweep(job).await?.deleted();
                (discarded.objects, discarded.bytes) = (deleted.objects, deleted.bytes);
                tracing::info!(%job, checkpoints = discarded.checkpoints, objects = deleted.objects, "discarded a job");
                return Ok(discarded);
            }
            // All chains are looked at before the first is emptied, so that a pinned checkpoint refuses the whole
            // discard and not half of it.
            for manifest in &left {
                self.refuse_pinned(manifest, None)?;
            }
            for manifest in left {
                discarded.checkpoints += self.retire(&manifest.backend).await?;
            }
        }
        Err(DiscardError::Opened(job.clone()))
    }

    /// Empties one chain. Returns how many checkpoints it let go of; new ones may have come meanwhile.
    async fn retire(&self, backend: &BackendId) -> Result<u64, DiscardError> {
        let Some(head) = chain::read_head(self.store, backend, self.retry).await? else { return Ok(0) };
        if generation::is_retired(&head.manifest) {
            return Ok(0);
        }
        // Once more, on the head that is about to be replaced: a pin may have come since the first look.
        self.refuse_pinned(&head.manifest, None)?;
        let manifest = generation::retirement(&head, head.manifest.owner().attempt, self.random.uuid(), |_| true);
        let is_ours = self.replace(manifest, backend).await?;
        Ok(if is_ours { head.manifest.checkpoints.len() as u64 } else { 0 })
    }

    /// Makes `manifest` the head of its chain; `false` if another writer moved the chain on.
    async fn replace(&self, manifest: Option<Manifest>, backend: &BackendId) -> Result<bool, DiscardError> {
        let manifest = manifest.ok_or_else(|| DiscardError::TooManyEpochs(backend.clone()))?;
        match chain::append(self.store, &manifest, self.retry).await {
            Ok(_) => Ok(true),
            Err(ChainError::Fenced { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes the pins of clones on the job: those whose lease is over, or with `force` all.
    async fn pins(&self, job: &Name) -> Result<(), DiscardError> {
        let prefix = layout::pins(job);
        let mut pins = self.store.list(&prefix, self.retry).await?;
        // A sweep deletes pins whose lease is over, by the store's clock. Those that are left are in force.
        if !pins.is_empty() && !self.force {
            self.sweep(job).await?;
            pins = self.store.list(&prefix, self.retry).await?;
            if let Some(pin) = pins.first() {
                return Err(DiscardError::Read { job: job.clone(), pin: pin.path.to_string() });
            }
        }
        Ok(self.store.delete_all(pins.into_iter().map(|pin| pin.path).collect(), self.retry).await?)
    }

    async fn sweep(&self, job: &Name) -> Result<SweepReport, DiscardError> {
        let now_ms = collect::store_time(self.store, job, self.random, self.retry).await?;
        // Without grace, since the user wants the objects gone now. Grace is a safety net only; the proof of the sweep
        // needs none.
        let options = SweepOptions { grace: Duration::ZERO, now_ms, delete: true };
        Ok(collect::sweep(self.store, job, &options, self.retry).await?)
    }

    /// Refuses to drop a checkpoint that a declared job restores, or may commit; with `force` its attempt ends.
    async fn refuse_coordinated(&self, backend: &BackendId, record: &CheckpointRecord) -> Result<(), DiscardError> {
        let newest = job::newest(self.store, &backend.job, self.retry).await?;
        let Some(newest) = newest.filter(|newest| newest.declared.is_some()) else { return Ok(()) };
        // An older checkpoint than the job stands on can neither be restored by the next generation nor be committed.
        if newest.stands_on().is_some_and(|on| JobCheckpoint::of(record) < on) {
            return Ok(());
        }
        if self.force {
            return Ok(job::withdraw(self.store, &backend.job, self.retry).await?);
        }
        Err(DiscardError::Coordinated { backend: backend.clone(), checkpoint: record.identity })
    }

    /// Refuses to drop pinned checkpoints: `record`, or if it is `None`, any.
    fn refuse_pinned(&self, head: &Manifest, record: Option<&CheckpointRecord>) -> Result<(), DiscardError> {
        let is_meant = |r: &CheckpointRecord| record.is_none_or(|only| only.identity == r.identity);
        match head.checkpoints.iter().find(|r| r.pinned && !self.force && is_meant(r)) {
            None => Ok(()),
            Some(pinned) => Err(DiscardError::Pinned { backend: head.backend.clone(), checkpoint: pinned.identity }),
        }
    }
}

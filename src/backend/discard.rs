//! Discarding what is not open: one checkpoint, or everything that a job has.
//!
//! Only an owner may write to a chain. So whoever discards makes itself one, of an epoch that begins nothing and only drops: a
//! [fence](crate::checkpoint::generation). An owner on another daemon meets it with its next manifest and stops. What the
//! chain no longer names is garbage then; of a whole job it is deleted at once.

use std::time::Duration;

use tokio::time::Instant;

use super::Directory;
use crate::{
    checkpoint::{
        chain::{self, ChainError},
        collect::{self, SweepError, SweepOptions, SweepReport},
        generation, job,
        ledger::NoticeTarget,
        manifest::{CheckpointRecord, Manifest},
    },
    error::{Error, Reason},
    object::{Retry, layout},
    types::{BackendId, Name, Sqn},
};

/// How often it looks again when others write to the chains meanwhile.
const DISCARD_ATTEMPTS: usize = 16;

/// What to discard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discard {
    /// Every checkpoint of every backend.
    Job(Name),
    /// One checkpoint of this backend.
    Checkpoint(BackendId, NoticeTarget),
}

/// What was discarded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Discarded {
    /// Checkpoints that were let go.
    pub checkpoints: u64,
    /// Objects that were deleted at once.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Directory {
    /// Lets go of `what`; with `force` also of what is pinned or read by a clone. Owners elsewhere are fenced. Idempotent. Cancel-safe:
    /// dropped, part of it may be done.
    ///
    /// # Errors
    /// [`Reason::InUse`] if a backend concerned is open here, or something is pinned.
    pub async fn discard(&self, what: &Discard, force: bool) -> Result<Discarded, Error> {
        let used = self.in_use(|id| match what {
            Discard::Job(job) => id.job == *job,
            Discard::Checkpoint(backend, _) => id == backend,
        });
        if let Some(id) = used {
            let text =
                format!("backend `{id}` is open on this daemon; close it first, or discard checkpoints by notice");
            return Err(Error::new(Reason::InUse, text));
        }
        let retry = Retry::until(Instant::now() + self.environment().options.open_timeout);
        match what {
            Discard::Job(job) => self.discard_job(job, force, retry).await,
            Discard::Checkpoint(backend, target) => self.discard_checkpoint(backend, *target, force, retry).await,
        }
    }

    async fn discard_checkpoint(
        &self,
        backend: &BackendId,
        target: NoticeTarget,
        force: bool,
        retry: Retry,
    ) -> Result<Discarded, Error> {
        let env = self.environment();
        let is_meant = |record: &&CheckpointRecord| {
            let identity = record.identity;
            let same_uuid = target.uuid.is_none_or(|uuid| uuid == identity.uuid);
            (identity.epoch, identity.id) == (target.epoch, target.id) && same_uuid
        };
        for _ in 0..DISCARD_ATTEMPTS {
            let Some(head) = chain::read_head(&env.store, backend, retry).await? else { break };
            let Some(record) = head.manifest.checkpoints.iter().find(is_meant) else { break };
            refuse_pinned(&head.manifest, Some(record), force)?;
            let manifest = generation::discard(&head, &record.identity, env.random.uuid());
            if self.replace(manifest, backend, retry).await? {
                tracing::info!(%backend, checkpoint = %record.identity, "discarded a checkpoint");
                return Ok(Discarded { checkpoints: 1, ..Discarded::default() });
            }
        }
        // An owner that publishes that fast is there; without, the checkpoint is not.
        match chain::read_head(&env.store, backend, retry).await? {
            Some(head) if head.manifest.checkpoints.iter().any(|record| is_meant(&record)) => {
                Err(ChainError::Contended(backend.clone()).into())
            }
            _ => Ok(Discarded::default()),
        }
    }

    async fn discard_job(&self, job: &Name, force: bool, retry: Retry) -> Result<Discarded, Error> {
        let env = self.environment();
        self.discard_pins(job, force, retry).await?;
        let mut discarded = Discarded::default();
        for _ in 0..DISCARD_ATTEMPTS {
            let heads = job::read_heads(&env.store, job, retry).await?;
            let left: Vec<_> = heads.iter().filter(|head| !generation::is_retired(head)).collect();
            if left.is_empty() {
                // Again: a clone may have begun to read before the chains were retired.
                self.discard_pins(job, force, retry).await?;
                let deleted = self.sweep_now(job, retry).await?.deleted();
                (discarded.objects, discarded.bytes) = (deleted.objects, deleted.bytes);
                tracing::info!(%job, checkpoints = discarded.checkpoints, objects = deleted.objects, "discarded a job");
                return Ok(discarded);
            }
            for manifest in &left {
                refuse_pinned(manifest, None, force)?;
            }
            for manifest in left {
                discarded.checkpoints += self.retire(&manifest.backend, force, retry).await?;
            }
        }
        let text = format!("job `{job}`: its backends are being opened all the time; stop its tasks first");
        Err(Error { retryable: true, ..Error::new(Reason::InUse, text) })
    }

    /// Empties one chain. Returns how many checkpoints it let go; others may have come meanwhile.
    async fn retire(&self, backend: &BackendId, force: bool, retry: Retry) -> Result<u64, Error> {
        let env = self.environment();
        let Some(head) = chain::read_head(&env.store, backend, retry).await? else { return Ok(0) };
        if generation::is_retired(&head.manifest) {
            return Ok(0);
        }
        refuse_pinned(&head.manifest, None, force)?;
        let manifest = generation::retirement(&head, head.manifest.owner().attempt, env.random.uuid());
        let is_ours = self.replace(manifest, backend, retry).await?;
        Ok(if is_ours { head.manifest.checkpoints.len() as u64 } else { 0 })
    }

    /// Makes `manifest` the head of its chain; `false` if somebody else moved the chain on.
    async fn replace(&self, manifest: Option<Manifest>, backend: &BackendId, retry: Retry) -> Result<bool, Error> {
        let Some(manifest) = manifest else {
            let text = format!("backend `{backend}` was opened {} times, the most there may be", Sqn::MAX_EPOCH);
            return Err(Error::new(Reason::LimitExceeded, text));
        };
        match chain::append(&self.environment().store, &manifest, retry).await {
            Ok(_) => Ok(true),
            Err(ChainError::Fenced { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes the leases of clones on the job: those that are over, or all.
    async fn discard_pins(&self, job: &Name, force: bool, retry: Retry) -> Result<(), Error> {
        let store = &self.environment().store;
        let prefix = layout::pins(job);
        let mut pins = store.list(&prefix, retry).await?;
        if !pins.is_empty() && !force {
            self.sweep_now(job, retry).await?;
            pins = store.list(&prefix, retry).await?;
            if let Some(pin) = pins.first() {
                let text = format!(
                    "job `{job}`: a clone is reading it, by pin `{}`; wait until it has opened, or set `force`",
                    pin.path
                );
                return Err(Error { retryable: true, ..Error::new(Reason::InUse, text) });
            }
        }
        Ok(store.delete_all(pins.into_iter().map(|pin| pin.path).collect(), retry).await?)
    }

    async fn sweep_now(&self, job: &Name, retry: Retry) -> Result<SweepReport, Error> {
        let env = self.environment();
        let now_ms = collect::store_time(&env.store, job, &env.random, retry).await.map_err(unswept)?;
        let options = SweepOptions { grace: Duration::ZERO, now_ms, delete: true };
        collect::sweep(&env.store, job, &options, retry).await.map_err(unswept)
    }
}

/// Refuses to drop pinned checkpoints: `record`, or any.
fn refuse_pinned(head: &Manifest, record: Option<&CheckpointRecord>, force: bool) -> Result<(), Error> {
    let mut pinned =
        head.checkpoints.iter().filter(|r| r.pinned && record.is_none_or(|only| only.identity == r.identity));
    match pinned.next().filter(|_| !force) {
        None => Ok(()),
        Some(pinned) => {
            let text = format!(
                "checkpoint {} of backend `{}` is pinned; release it, or set `force`",
                pinned.identity, head.backend
            );
            Err(Error::new(Reason::InUse, text))
        }
    }
}

fn unswept(error: SweepError) -> Error {
    match error {
        SweepError::Store(source) => source.into(),
        SweepError::Chain(source) => source.into(),
        error => Error::new(Reason::CorruptObject, format!("what was discarded could not be swept: {error}")),
    }
}

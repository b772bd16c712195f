//! The part of a checkpoint that one subtask has, kept by a pin while it is read.

use super::source::{SourceError, everything};
use crate::{
    checkpoint::{
        chain,
        manifest::{CheckpointRecord, Manifest},
        pin::{Held, Pin},
    },
    restore::reader::ReaderOptions,
    types::{BackendId, CheckpointIdentity},
};

/// A part to read.
#[derive(Debug, Clone)]
pub struct PartSource {
    /// The backend that it belongs to.
    pub backend: BackendId,
    /// The checkpoint that the part belongs to.
    pub checkpoint: CheckpointIdentity,
    /// Lease of the pin that keeps the part while it is read, in milliseconds.
    pub lease_ms: u64,
}

impl PartSource {
    /// Finds the part, and lets `read` read it. Cancel-safe: dropped, the pin stays until its lease ends.
    ///
    /// # Errors
    /// [`SourceError`], as `E`, or that of `read`.
    pub async fn read<T, E: From<SourceError>>(
        &self,
        options: &ReaderOptions<'_>,
        read: impl AsyncFnOnce(&Manifest, &CheckpointRecord) -> Result<T, E>,
    ) -> Result<T, E> {
        let manifest = self.head(options).await?;
        let record = self.find(&manifest).ok_or_else(|| self.missing())?;
        let imports = everything(&manifest, record, options);
        let pin = Pin { operator: self.backend.operator.clone(), lease_ms: self.lease_ms, imports };
        let made = Held::make(options.store, &self.backend.job, &pin, options.random, options.retry).await;
        let mut held = made.map_err(SourceError::from)?;
        let checked = async {
            // The part may have been let go of before the pin was there.
            let again = self.head(options).await?;
            self.find(&again).ok_or(SourceError::LetGo(self.checkpoint.id))?;
            read(&manifest, record).await
        };
        let done = tokio::select! {
            biased;
            // Ordering: a lost pin is looked at first, as for a whole checkpoint.
            lost = held.keep() => Err(SourceError::from(lost).into()),
            done = checked => done,
        };
        held.release().await;
        done
    }

    async fn head(&self, options: &ReaderOptions<'_>) -> Result<Manifest, SourceError> {
        let head = chain::read_head(options.store, &self.backend, options.retry).await?;
        Ok(head.ok_or_else(|| self.missing())?.manifest)
    }

    fn find<'m>(&self, manifest: &'m Manifest) -> Option<&'m CheckpointRecord> {
        manifest.checkpoints.iter().find(|record| record.identity == self.checkpoint)
    }

    fn missing(&self) -> SourceError {
        SourceError::NoPart { of: self.backend.clone(), id: self.checkpoint.id, epoch: self.checkpoint.epoch }
    }
}

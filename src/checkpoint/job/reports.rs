//! Reports on the store: objects by which tasks announce that their part of a checkpoint is durable.
//!
//! All facts are in the name ([`ObjectName::Report`]). So one listing tells what a generation has reported, however
//! many tasks it has, and two reports of one name never differ. The contents, the handle of the part, are for tools.

use bytes::Bytes;

use super::{JobError, JobRecord, Report, is_outdated, record::to_checkpoint};
use crate::{
    checkpoint::{
        envelope::{self, EnvelopeError, Kind},
        handle::CheckpointHandle,
    },
    object::{
        PutPayload, Retry, Store,
        layout::{self, ObjectName},
    },
    proto::store,
    types::{Attempt, Name},
};

impl Report {
    /// The name of the object.
    #[must_use]
    pub fn name(&self) -> ObjectName {
        ObjectName::Report { backend: self.backend.clone(), attempt: self.attempt, checkpoint: self.part }
    }

    /// The bytes of the object.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let checkpoint = Some(to_checkpoint(self.checkpoint()));
        envelope::seal(Kind::Report, &store::Report { checkpoint, handle: Some(self.handle().to_message()) })
    }

    /// Reads a report.
    ///
    /// # Errors
    /// If the bytes are not exactly a report.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let message: store::Report = envelope::open(Kind::Report, bytes)?;
        let missing = |what: &str| EnvelopeError::Contents(format!("no {what}"));
        let handle = CheckpointHandle::from_message(message.handle.as_ref().ok_or_else(|| missing("handle"))?)?;
        let checkpoint = message.checkpoint.ok_or_else(|| missing("checkpoint"))?;
        Ok(Self { backend: handle.backend, attempt: checkpoint.attempt, part: handle.checkpoint })
    }

    /// The handle of the reported part.
    #[must_use]
    pub fn handle(&self) -> CheckpointHandle {
        CheckpointHandle { backend: self.backend.clone(), checkpoint: self.part }
    }
}

/// Makes `report` durable. Idempotent. Cancel-safe.
///
/// # Errors
/// The error of the store.
pub async fn report(store: &Store, report: &Report, retry: Retry) -> Result<(), JobError> {
    // Every object of this name has the same contents.
    store.create(&report.name().path(), PutPayload::from_bytes(report.encode()), retry).await?;
    Ok(())
}

/// The reports of `attempt` of `job`. Cancel-safe.
///
/// # Errors
/// The error of the store.
pub async fn reported(store: &Store, job: &Name, attempt: Attempt, retry: Retry) -> Result<Vec<Report>, JobError> {
    let objects = store.list(&layout::reports_of_attempt(job, attempt), retry).await?;
    Ok(objects.iter().filter_map(|meta| ObjectName::parse(&meta.path)).filter_map(Report::of).collect())
}

/// Deletes the reports that `record`, the newest one of `job`, outdates, with few attempts; a sweep finds the remaining
/// ones. Cancel-safe.
pub async fn delete_outdated(store: &Store, job: &Name, record: &JobRecord, retry: Retry) {
    let listed = store.list(&layout::reports(job), retry).await;
    let outdated = listed.map(|objects| {
        let names = objects.iter().filter_map(|meta| ObjectName::parse(&meta.path)).filter_map(Report::of);
        names.filter(|report| is_outdated(record, report)).map(|report| report.name().path()).collect::<Vec<_>>()
    });
    // Reports of checkpoints that cannot be committed any more have no effect, so it is enough that a sweep finds them.
    let deleted = match outdated {
        Ok(paths) => store.delete_all(paths, retry).await,
        Err(error) => Err(error),
    };
    if let Err(error) = deleted {
        tracing::debug!(%job, %error, "outdated reports stay for the sweep");
    }
}

//! The view of a whole job, for its engine.

use tokio::time::Instant;

use super::directory::Directory;
use crate::{
    checkpoint::job::{self, Declaration, Declaring, Generation, JobCheckpoint, JobRecord, JobView, Spoilt},
    claim::error::job_error,
    error::Error,
    object::Retry,
    types::{Attempt, Name},
};

/// The checkpoints that a job can be restored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobDescription {
    /// The checkpoints that all its chains retain.
    pub view: JobView,
    /// Checkpoints that are recorded as damaged, oldest first.
    pub damaged: Vec<Spoilt>,
    /// The newest record of the job's chain.
    pub record: Option<JobRecord>,
    /// Checkpoints of a declared job that are reported but not committed, each with the number of tasks that have
    /// reported it; oldest first.
    pub reported: Vec<(JobCheckpoint, usize)>,
}

impl Directory {
    /// Reads the heads of all chains of `job`, wherever its backends are open. A job without chains has an empty view.
    /// Cancel-safe.
    ///
    /// # Errors
    /// If a head or the newest record of the job cannot be read.
    pub async fn describe_job(&self, job: &Name) -> Result<JobDescription, Error> {
        let env = self.environment();
        let retry = Retry::until(Instant::now() + env.options.open_timeout);
        let heads = job::read_heads(&env.store, job, retry).await?;
        let record = job::newest(&env.store, job, retry).await.map_err(job_error)?;
        // Only a declared job has reports, and listing them is a request of its own.
        let reported = match record.as_ref().filter(|record| record.declared.is_some()) {
            Some(record) => {
                let reports = job::reported(&env.store, job, record.attempt, retry).await.map_err(job_error)?;
                job::tally(record, &reports).into_iter().map(|(checkpoint, tasks)| (checkpoint, tasks.len())).collect()
            }
            None => vec![],
        };
        let damaged = record.as_ref().map_or_else(Vec::new, |record| record.spoilt.clone());
        Ok(JobDescription { view: JobView::of(&heads), damaged, record, reported })
    }

    /// Begins an attempt of `job` whose checkpoints dstl coordinates; returns the generation that all its tasks begin
    /// with. Idempotent. Cancel-safe: if dropped, the attempt may have begun.
    ///
    /// # Errors
    /// If a later attempt has begun, this attempt has begun undeclared or with another declaration, or the checkpoint
    /// to begin with does not exist.
    pub async fn declare_job(
        &self,
        job: &Name,
        attempt: Attempt,
        declaration: &Declaration,
    ) -> Result<Generation, Error> {
        let env = self.environment();
        let retry = Retry::until(Instant::now() + env.options.open_timeout);
        let by = Declaring { store: &env.store, random: &env.random, retry };
        let declared = job::declare(&by, job, attempt, declaration).await.map_err(job_error)?;
        let restore = declared.restore.map(tracing::field::display);
        tracing::info!(%job, attempt, number = declared.number, restore, "declared");
        Ok(declared)
    }
}

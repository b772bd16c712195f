//! The view over a job, for its engine.

use tokio::time::Instant;

use super::{Directory, open::job_error};
use crate::{
    checkpoint::job::{self, JobView, Spoilt},
    error::Error,
    object::Retry,
    types::Name,
};

/// What a job can be restored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobDescription {
    /// What all its chains retain.
    pub view: JobView,
    /// Checkpoints of which it is recorded that they are damaged, oldest first.
    pub damaged: Vec<Spoilt>,
}

impl Directory {
    /// Reads the heads of all chains of `job`, wherever its backends are open: of a job without any, empty. Cancel-safe.
    ///
    /// # Errors
    /// If a head or the newest record of the job cannot be read.
    pub async fn describe_job(&self, job: &Name) -> Result<JobDescription, Error> {
        let env = self.environment();
        let retry = Retry::until(Instant::now() + env.options.open_timeout);
        let heads = job::read_heads(&env.store, job, retry).await?;
        let damaged = job::known_damage(&env.store, job, retry).await.map_err(job_error)?;
        Ok(JobDescription { view: JobView::of(&heads), damaged })
    }
}

//! The declaration of a job whose checkpoints the daemons coordinate.

use dstl_proto::v1::{
    DeclareJobRequest, JobTasks,
    declare_job_request::{Empty, Given, Latest, Restore},
};

/// An attempt of a job with its tasks; by default it begins with the newest committed checkpoint.
///
/// ```no_run
/// use dstl_client::{Client, ClientError, JobDeclaration, OpenOptions};
///
/// # async fn task(client: Client, attempt: u64) -> Result<(), ClientError> {
/// client.declare_job(JobDeclaration::new("wc", attempt).tasks("count", 4).tasks("sink", 1)).await?;
/// let backend = client.open(OpenOptions::new("wc", "count").subtask(2, 4).attempt(attempt)).await?;
/// let session = backend.session().await?;
/// let part = session.barrier(7, "offsets").await?.await?;
/// // Every task of the job has its part, too.
/// session.wait_job_completed(7).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct JobDeclaration {
    request: DeclareJobRequest,
}

impl JobDeclaration {
    /// `attempt` of `job`, above every earlier one, without tasks yet.
    #[must_use]
    pub fn new(job: &str, attempt: u64) -> Self {
        let restore = Some(Restore::Latest(Latest {}));
        Self { request: DeclareJobRequest { job: job.to_owned(), attempt, tasks: vec![], restore } }
    }

    /// Adds an operator with this number of subtasks.
    #[must_use]
    pub fn tasks(mut self, operator: &str, parallelism: u32) -> Self {
        self.request.tasks.push(JobTasks { operator: operator.to_owned(), parallelism });
        self
    }

    /// Begins with the checkpoint `id` of `attempt`, or else of the newest attempt that has it whole.
    #[must_use]
    pub fn from_checkpoint(mut self, id: u64, attempt: Option<u64>) -> Self {
        self.request.restore = Some(Restore::Checkpoint(Given { id, attempt }));
        self
    }

    /// Begins with the empty state.
    #[must_use]
    pub fn from_empty(mut self) -> Self {
        self.request.restore = Some(Restore::Empty(Empty {}));
        self
    }

    pub(super) fn into_request(self) -> DeclareJobRequest {
        self.request
    }
}

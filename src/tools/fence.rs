//! `dstl fence`, a way past the newest manifest or job record, if it is damaged for good.

use super::{outline::Node, retry};
use crate::{
    checkpoint::{
        job::{self, JobError},
        mend::{self, MendError, Mended},
    },
    object::Store,
    random::Random,
    types::{Attempt, BackendId, Name},
};

/// The chain to which a fence is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The manifest chain of this backend.
    Backend(BackendId),
    /// The chain of records of this job.
    Job(Name),
}

/// The reason why no fence was added.
#[derive(Debug, thiserror::Error)]
pub enum FenceFault {
    /// The newest record of the job is not damaged.
    #[error("the newest record of job `{0}` is whole, or it has none: open its backends")]
    Whole(Name),
    /// The manifest chain of the backend cannot be mended.
    #[error(transparent)]
    Chain(#[from] MendError),
    /// The chain of records of the job cannot be mended.
    #[error(transparent)]
    Job(#[from] JobError),
}

impl Target {
    /// Reads `JOB`, or `JOB/OPERATOR/SUBTASK`.
    ///
    /// # Errors
    /// The form that `text` should have.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = |text: &str| Name::new(text).map_err(|error| error.to_string());
        match text.split('/').collect::<Vec<_>>().as_slice() {
            [job] => Ok(Self::Job(name(job)?)),
            [job, operator, subtask] => {
                let subtask = subtask.parse().map_err(|_| format!("`{subtask}` is not the number of a subtask"))?;
                Ok(Self::Backend(BackendId { job: name(job)?, operator: name(operator)?, subtask }))
            }
            _ => Err("neither JOB nor JOB/OPERATOR/SUBTASK".to_owned()),
        }
    }
}

/// Adds a fence above the damaged end of the chain `target`. Its attempt is at least `attempt`. Deletes no object.
/// Cancel-safe, but if dropped, the fence may have been added.
///
/// # Errors
/// [`FenceFault`].
pub async fn run(store: &Store, target: &Target, attempt: Attempt, random: &Random) -> Result<Node, FenceFault> {
    match target {
        Target::Backend(backend) => {
            let mended = mend::mend(store, backend, attempt, random, retry()).await?;
            Ok(of_chain(backend, &mended))
        }
        Target::Job(job) => {
            let record = job::mend_records(store, job, attempt, retry()).await?;
            let record = record.ok_or_else(|| FenceFault::Whole(job.clone()))?;
            Ok(Node::Fields(vec![
                ("job", Node::text(job)),
                ("record", record.number.into()),
                ("open_with_attempt", record.attempt.into()),
            ]))
        }
    }
}

fn of_chain(backend: &BackendId, mended: &Mended) -> Node {
    let lost = mended.lost.iter().map(|(checkpoint, what)| Node::text(format_args!("{checkpoint}: {what}")));
    Node::Fields(vec![
        ("backend", Node::text(backend)),
        ("manifest", mended.number.into()),
        ("made_of_manifest", mended.from.into()),
        ("epoch", mended.epoch.number.into()),
        ("open_with_attempt", mended.attempt.into()),
        ("kept", Node::list(mended.kept.iter().map(Node::text))),
        ("lost", Node::list(lost)),
    ])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_job_or_a_backend() {
        let name = |text: &str| Name::new(text).unwrap();
        assert_eq!(Target::parse("wc"), Ok(Target::Job(name("wc"))));
        let backend = BackendId { job: name("wc"), operator: name("count"), subtask: 3 };
        assert_eq!(Target::parse(&backend.to_string()), Ok(Target::Backend(backend)));
        for text in ["", "wc/count", "wc/count/x", "wc/count/3/4", "a b"] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }
}

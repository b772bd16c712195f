//! `dstl fence`: a way past a newest manifest, or job record, that is damaged for good.

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

/// Above what to add a fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The newest manifest of this backend.
    Backend(BackendId),
    /// The newest record of this job.
    Job(Name),
}

/// Why no fence was added.
#[derive(Debug, thiserror::Error)]
pub enum FenceFault {
    /// Nothing is damaged.
    #[error("the newest record of job `{0}` is whole, or it has none: open its backends")]
    Whole(Name),
    /// The backend's chain.
    #[error(transparent)]
    Chain(#[from] MendError),
    /// The job's.
    #[error(transparent)]
    Job(#[from] JobError),
}

impl Target {
    /// `JOB`, or `JOB/OPERATOR/SUBTASK`.
    ///
    /// # Errors
    /// Says what it should be.
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

/// Adds a fence above what is damaged of `target`, of at least `attempt`. Frees no name. Cancel-safe: dropped, it may
/// be done.
///
/// # Errors
/// [`FenceFault`].
pub async fn run(store: &Store, target: &Target, attempt: Attempt, random: &Random) -> Result<Node, FenceFault> {
    match target {
        Target::Backend(backend) => {
            let mended = mend::mend(store, backend, attempt, (random, retry())).await?;
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

//! `dstl discard`: lets go of a checkpoint, or of a whole job, without a daemon.

use super::{outline::Node, retry};
use crate::{
    checkpoint::{
        discard::{self, Discard, DiscardError},
        job,
    },
    object::Store,
    random::Random,
    types::Name,
};

/// Why nothing was discarded.
#[derive(Debug, thiserror::Error)]
pub enum DiscardFault {
    /// There is no such job.
    #[error("the store has no backend of job `{0}`")]
    NoJob(Name),
    /// Something hinders it. With `--force`, less does.
    #[error(transparent)]
    Hindered(#[from] DiscardError),
}

/// Lets go of `what`, as [`discard::discard`]: owners are fenced, whichever daemon has them. Cancel-safe: dropped, part
/// of it may be done.
///
/// # Errors
/// [`DiscardFault`].
pub async fn run(store: &Store, what: &Discard, force: bool, random: &Random) -> Result<Node, DiscardFault> {
    let job = match what {
        Discard::Job(job) => job,
        Discard::Checkpoint(backend, _) => &backend.job,
    };
    if job::read_heads(store, job, retry()).await.map_err(DiscardError::from)?.is_empty() {
        return Err(DiscardFault::NoJob(job.clone()));
    }
    let discarded = discard::discard(store, what, force, random, retry()).await?;
    Ok(Node::Fields(vec![
        ("job", Node::text(job)),
        ("checkpoints", discarded.checkpoints.into()),
        ("objects", discarded.objects.into()),
        ("bytes", discarded.bytes.into()),
    ]))
}

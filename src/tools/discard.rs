//! `dstl discard`, which releases a checkpoint, or a whole job, without a daemon.

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

/// The reason why nothing was discarded.
#[derive(Debug, thiserror::Error)]
pub enum DiscardFault {
    /// There is no such job.
    #[error("the store has no backend of job `{0}`")]
    NoJob(Name),
    /// The discard is hindered, for example by a pin. `--force` overrides some of these reasons.
    #[error(transparent)]
    Hindered(#[from] DiscardError),
}

/// Discards `what` like [`discard::discard`]: its owners are fenced, whichever daemon they belong to. Cancel-safe, but
/// if dropped, part of the discard may be done.
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

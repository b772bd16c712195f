//! Discards checkpoints and jobs through a daemon, unless they are open on it.

use tokio::time::Instant;

use super::directory::Directory;
use crate::{
    checkpoint::{
        collect::SweepError,
        discard::{self, Discard, DiscardError, Discarded},
    },
    claim::error::job_error,
    error::{Error, Reason},
    object::Retry,
};

impl Directory {
    /// Discards `what`, with `force` even if it is pinned or being cloned. Owners elsewhere are fenced. Idempotent.
    /// Cancel-safe: if dropped, a part of it may be done.
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
        let env = self.environment();
        let retry = Retry::until(Instant::now() + env.options.open_timeout);
        discard::discard(&env.store, what, force, &env.random, retry).await.map_err(discard_error)
    }
}

fn discard_error(error: DiscardError) -> Error {
    let (reason, retryable) = match error {
        DiscardError::Store(source) | DiscardError::Sweep(SweepError::Store(source)) => return source.into(),
        DiscardError::Chain(source) | DiscardError::Sweep(SweepError::Chain(source)) => return source.into(),
        DiscardError::Job(source) => return job_error(source),
        DiscardError::Pinned { .. } | DiscardError::Coordinated { .. } => (Reason::InUse, false),
        DiscardError::Read { .. } | DiscardError::Opened(_) => (Reason::InUse, true),
        DiscardError::TooManyEpochs(_) => (Reason::LimitExceeded, false),
        DiscardError::Sweep(_) => (Reason::CorruptObject, false),
    };
    let error = Error::new(reason, error.to_string());
    Error { retryable: retryable || error.retryable, ..error }
}

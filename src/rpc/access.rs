//! The caller of a request, and its permissions.

use std::sync::Arc;

use tonic::{Extensions, Request, Status};
use tracing::Span;

use super::{
    guard::Answers,
    listener::{Caller, Peer},
    status,
};
use crate::{
    error::{Error, Reason},
    types::{AllowedJobs, Identity},
};

/// The caller of one call, the jobs that it may use, and the memory for its answers.
#[derive(Debug, Clone)]
pub(super) struct Access {
    jobs: Arc<AllowedJobs>,
    /// The peer; `None` if the server is not behind our listener.
    peer: Option<Peer>,
    pub(super) answers: Option<Answers>,
}

impl Access {
    /// The caller of a request, and its message.
    pub(super) fn enter<T>(jobs: &Arc<AllowedJobs>, request: Request<T>) -> (Self, T) {
        let (_, extensions, message) = request.into_parts();
        (Self::of(jobs, &extensions), message)
    }

    fn of(jobs: &Arc<AllowedJobs>, extensions: &Extensions) -> Self {
        let caller = extensions.get::<Caller>();
        // In a server without the guard, this is the only place that sees the call.
        caller.iter().for_each(|caller| caller.settle());
        let peer = caller.map(|caller| caller.peer.clone());
        Self { jobs: jobs.clone(), peer, answers: extensions.get::<Answers>().cloned() }
    }

    /// Whether the caller may use `job`.
    pub(super) fn may_use(&self, job: &str) -> bool {
        let who = match &self.peer {
            Some(Peer::Unix { uid, .. }) => Identity::Uid(*uid),
            Some(Peer::Tls { names, .. }) => Identity::Certificate(names),
            Some(Peer::Tcp { .. }) | None => Identity::Unknown,
        };
        self.jobs.allows(who, job)
    }

    /// Refuses a caller that may not use `job`.
    pub(super) fn check(&self, job: &str) -> Result<(), Error> {
        if self.may_use(job) {
            return Ok(());
        }
        let text = format!("{} may not use job `{job}`: see `rpc.allowed-jobs`", self.name());
        Err(Error::new(Reason::NotAllowed, text))
    }

    /// As [`check`](Self::check), with the error as the end of a call.
    pub(super) fn admit(&self, job: &str) -> Result<(), Status> {
        self.check(job).map_err(|error| status::status(&error))
    }

    /// The caller's name, for people.
    pub(super) fn name(&self) -> String {
        self.peer.as_ref().map_or_else(|| "an unknown peer".to_owned(), Peer::to_string)
    }

    /// The span for log events about changes by the caller.
    pub(super) fn span(&self) -> Span {
        tracing::info_span!("call", peer = self.name())
    }

    /// Waits until there is room for the longest answer, before one is read.
    pub(super) async fn make_room(&self, longest: usize) -> Result<(), Error> {
        // A server without the guard has no bound on answers, so nothing is waited for.
        let Some(Answers(share)) = &self.answers else { return Ok(()) };
        share.acquire(longest as u64).await.map_err(|_| given_up())
    }

    /// Waits until the call has to give way.
    pub(super) async fn given_up(&self) -> Error {
        match &self.answers {
            Some(Answers(share)) => std::future::poll_fn(|cx| share.poll_taken_back(cx)).await,
            None => std::future::pending().await,
        };
        given_up()
    }
}

/// The error of a call that held memory for its answer without progress while others needed it.
fn given_up() -> Error {
    Error::new(Reason::TooSlow, "the call was given up: others needed the memory of its answer; ask again")
}

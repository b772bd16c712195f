//! The errors of the client, by the reaction that each needs of the task.

use std::{fmt, sync::Arc, time::Duration};

use tonic::{Code, Status};

use dstl_proto::{status, v1};

pub use dstl_proto::v1::{Reason, Scope};

/// The error of a daemon, as every call and every stream carries it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DaemonError {
    /// The cause, from which the task derives its reaction.
    pub reason: Reason,
    /// The largest unit that is unusable now, for example the session or the backend.
    pub scope: Scope,
    /// Whether the same call may succeed later, unchanged.
    pub retryable: bool,
    /// Text for people: the action, the fault, and a remedy.
    pub message: String,
}

/// The reason why a session is over although it was not closed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Lost {
    /// There is another daemon process now, and the state since the last checkpoint is lost. Open again with a restore.
    #[error("the daemon was restarted: its instance was `{was}` and is `{is}`; open again from a checkpoint")]
    DaemonRestarted {
        /// The instance that the session began with.
        was: String,
        /// The instance that answers now.
        is: String,
    },
    /// The daemon ended the session and gave a reason.
    #[error("the daemon ended it: {0}")]
    Ended(Box<DaemonError>),
    /// The daemon did not come back in time.
    #[error("the daemon did not answer for {waited:?}; last: {last}")]
    Unreachable {
        /// How long the client tried.
        waited: Duration,
        /// The error of the last attempt.
        last: Box<ClientError>,
    },
    /// The daemon sent a message that the protocol does not allow.
    #[error("the daemon broke the protocol: {0}")]
    Protocol(String),
}

/// Every error of this library.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The daemon refused one call, batch or barrier; nothing of it was applied.
    #[error("{0}")]
    Daemon(Box<DaemonError>),
    /// Another owner has the backend: stop.
    #[error("fenced: {0}")]
    Fenced(Box<DaemonError>),
    /// The session is over. Batches that were not acknowledged may or may not be applied.
    #[error("the session is lost: {0}")]
    SessionLost(Lost),
    /// The session, or its last handle, was closed before.
    #[error("the session is closed")]
    Closed,
    /// There is no connection.
    #[error("connecting to `{endpoint}`")]
    Connect {
        /// A socket path or URL.
        endpoint: String,
        /// The error of the transport.
        source: Arc<tonic::transport::Error>,
    },
    /// A call broke off without an answer of the daemon.
    #[error("the call broke off: {0}")]
    Transport(Box<Status>),
    /// A batch exceeds the limits of the daemon; it was not sent.
    #[error("a batch of {bytes} bytes and {operations} operations: the daemon takes {max_bytes} and {max_operations}")]
    BatchTooLarge {
        /// Its encoded length in bytes.
        bytes: usize,
        /// Number of its operations.
        operations: usize,
        /// Longest message of the daemon.
        max_bytes: u64,
        /// Most operations of a batch.
        max_operations: u64,
    },
    /// The stream broke while the checkpoint was in flight, so its outcome is unknown. Trigger a new one with a higher
    /// id; a notice ABORT for this id makes sure that it is gone.
    #[error("the stream broke while checkpoint {checkpoint_id} was in flight")]
    CheckpointInterrupted {
        /// The id of the checkpoint.
        checkpoint_id: u64,
    },
    /// Stored bytes do not fit the type of the handle.
    #[error("{what} of {bytes} bytes does not decode as `{expected}`")]
    Malformed {
        /// A description of the bytes.
        what: &'static str,
        /// Number of the bytes.
        bytes: usize,
        /// The name of the type.
        expected: &'static str,
    },
    /// A write was applied, but its answer was lost with a broken stream, so its effect is unknown. Restore the last
    /// checkpoint.
    #[error("the stream broke before {0} were answered")]
    AnswerLost(&'static str),
    /// Namespaces to merge are not distinct, or one of them is the target.
    #[error("merging a namespace into itself")]
    MergeIntoItself,
    /// An answer lacks a field that the protocol promises.
    #[error("an answer without {0}")]
    Incomplete(&'static str),
}

impl ClientError {
    /// The error of the daemon, if there is one inside.
    #[must_use]
    pub fn daemon(&self) -> Option<&DaemonError> {
        match self {
            Self::Daemon(error) | Self::Fenced(error) | Self::SessionLost(Lost::Ended(error)) => Some(error),
            Self::SessionLost(Lost::Unreachable { last, .. }) => last.daemon(),
            _ => None,
        }
    }

    /// The reason that the daemon gave; [`Reason::Unspecified`] if it gave none.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.daemon().map_or(Reason::Unspecified, |error| error.reason)
    }

    /// Whether another owner has the backend.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Fenced(_))
    }

    /// Whether the same call may succeed later, unchanged.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Transport(_) => true,
            other => other.daemon().is_some_and(|error| error.retryable),
        }
    }
}

impl From<v1::Error> for ClientError {
    fn from(error: v1::Error) -> Self {
        let error = Box::new(DaemonError {
            reason: error.reason(),
            scope: error.scope(),
            retryable: error.retryable,
            message: error.message,
        });
        if error.reason == Reason::Fenced { Self::Fenced(error) } else { Self::Daemon(error) }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        match status::error(status.details()) {
            Some(error) => error.into(),
            None => Self::Transport(Box::new(status)),
        }
    }
}

/// The consequence of a broken or refused session stream: go on with a new stream (`Ok`), or the session's last error.
pub(super) fn after_break(error: ClientError) -> Result<ClientError, ClientError> {
    match error {
        // A daemon without the call will not have it a moment later either.
        ClientError::Transport(status) if status.code() == Code::Unimplemented => Err(ClientError::Transport(status)),
        ClientError::Connect { .. } | ClientError::Transport(_) => Ok(error),
        ClientError::Daemon(inner) if inner.retryable && inner.scope == Scope::Session => {
            Ok(ClientError::Daemon(inner))
        }
        ClientError::Daemon(inner) => Err(ClientError::SessionLost(Lost::Ended(inner))),
        other => Err(other),
    }
}

/// The error for a daemon that violates the protocol.
pub(super) fn violation(what: impl fmt::Display) -> ClientError {
    ClientError::SessionLost(Lost::Protocol(what.to_string()))
}

/// A status with `error` in its details, as a daemon sends it.
#[cfg(test)]
pub(super) fn status_of(code: Code, error: &v1::Error) -> Status {
    Status::with_details(code, error.message.clone(), status::details(code.into(), error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_the_error_of_the_daemon() {
        let error = v1::Error {
            reason: Reason::WrongKind.into(),
            scope: Scope::Batch.into(),
            retryable: false,
            message: "a put into the list `seen`".to_owned(),
        };
        let decoded = ClientError::from(status_of(Code::InvalidArgument, &error));
        let ClientError::Daemon(inner) = &decoded else { panic!("{decoded:?}") };
        assert_eq!((inner.reason, inner.scope, inner.retryable), (Reason::WrongKind, Scope::Batch, false));
        assert_eq!(decoded.to_string(), "a put into the list `seen`");
    }

    #[test]
    fn a_status_without_details_is_a_broken_call() {
        let error = ClientError::from(Status::unavailable("gone"));
        assert!(matches!(error, ClientError::Transport(_)));
        assert!(error.is_retryable());
    }
}

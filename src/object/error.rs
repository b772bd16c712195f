//! Errors of the store. Every error names the object, or the prefix of a listing.

use std::{sync::Arc, time::Duration};

use object_store::path::Path;

use super::Operation;
use crate::error::{Error, Reason};

/// A failed call of the store. Cheap to clone, so that one failed upload can fail all its waiters.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store answered that there is no such object.
    #[error("object `{path}` does not exist")]
    NotFound {
        /// Path of the missing object.
        path: Path,
    },
    /// The object is shorter than the range that was asked for.
    #[error("object `{path}` has {size} bytes, bytes {from} to {to} were asked for")]
    OutOfRange {
        /// Path of the short object.
        path: Path,
        /// First byte of the range that was asked for.
        from: u64,
        /// End of the range, exclusive.
        to: u64,
        /// Size of the object in bytes.
        size: u64,
    },
    /// The object is larger than any object that dstl writes and reads whole.
    #[error("object `{path}` has {size} bytes, more than any object of its kind: it is damaged or forged")]
    TooLarge {
        /// Path of the oversized object.
        path: Path,
        /// Size of the object in bytes.
        size: u64,
    },
    /// No attempt succeeded within the time or number of attempts that the caller allowed. The outcome of a create is
    /// then unknown: the object may exist, or appear later.
    #[error("{operation} of object `{path}`: no answer from the object store after {attempts} attempts")]
    Unavailable {
        /// Path of the object; for a listing, the prefix.
        path: Path,
        /// The operation that was tried.
        operation: Operation,
        /// Number of attempts that were made.
        attempts: u32,
        /// The error of the last attempt.
        source: Arc<AttemptError>,
    },
    /// The store cannot do this at all, so another attempt does not help.
    #[error("{operation} of object `{path}`: the object store does not support it")]
    Unsupported {
        /// Path of the object; for a listing, the prefix.
        path: Path,
        /// The operation that is not supported.
        operation: Operation,
        /// The error that the store returned.
        source: Arc<object_store::Error>,
    },
}

/// The error of one attempt at a request.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// No attempt was made, because the deadline had passed.
    #[error("the deadline had passed before the first attempt")]
    DeadlinePassed,
    /// The store did not answer in time.
    #[error("no answer within {} ms", after.as_millis())]
    Timeout {
        /// The time that the attempt was given.
        after: Duration,
    },
    /// The answer was cut off, or too long.
    #[error("an answer of {got} bytes instead of {expected}")]
    Short {
        /// Number of bytes that were due.
        expected: u64,
        /// Number of bytes that came.
        got: u64,
    },
    /// A deletion in bulk left some objects without an answer.
    #[error("{left} objects are not known to be deleted")]
    Incomplete {
        /// Number of objects without an answer.
        left: usize,
    },
    /// The store refused a create because the object exists, and then did not find it. Another create of it is under
    /// way, or it was just deleted.
    #[error("the object was said to exist, but could not be found")]
    Vanished,
    /// The request was not sent within the time that the caller allowed: the store asked for a pause, or the limit of
    /// requests is used up.
    #[error(
        "not sent in time, as the store asked for a pause, or more than the limit of requests a second is asked of it"
    )]
    Held,
    /// The store, or the way to it, reported an error.
    #[error(transparent)]
    Store(object_store::Error),
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let reason = match &error {
            StoreError::NotFound { .. } => Reason::MissingObject,
            StoreError::OutOfRange { .. } | StoreError::TooLarge { .. } => Reason::CorruptObject,
            StoreError::Unavailable { .. } => Reason::StoreUnavailable,
            StoreError::Unsupported { .. } => Reason::Unsupported,
        };
        let message = match &error {
            StoreError::Unavailable { source, .. } => format!("{error}: {source}"),
            StoreError::Unsupported { source, .. } => format!("{error}: {source}"),
            _ => error.to_string(),
        };
        Self::new(reason, message)
    }
}

/// Text of the error when something other than an object store answers.
pub(super) const NO_STORE: &str = "what answers there is no object store";

/// The kind of an error of the store, which decides whether another attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The object does not exist.
    NotFound,
    /// The object exists already.
    Exists,
    /// The store will never do this.
    Unsupported,
    /// Any other error, which may pass.
    Retry,
}

impl Class {
    /// Classifies `error`. Refused credentials, refused permissions and a missing bucket count as errors that may pass,
    /// because many outages look like that (an expired token whose renewal fails, a policy that is being replaced), and
    /// a late checkpoint is better than a failed task. They stay visible in the metrics and, when the call gives up, in
    /// the error.
    pub(super) fn of(error: &object_store::Error) -> Self {
        match error {
            // A "not found" is believed, so it must be about the object and nothing else.
            object_store::Error::NotFound { source, .. } if !is_about_more(&source.to_string()) => Self::NotFound,
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => Self::Exists,
            object_store::Error::InvalidPath { .. }
            | object_store::Error::NotSupported { .. }
            | object_store::Error::NotImplemented { .. }
            | object_store::Error::UnknownConfigurationKey { .. } => Self::Unsupported,
            // In doubt another attempt: an unknown error that is final costs time, and one that is wrongly taken for
            // final a task.
            _ => Self::Retry,
        }
    }
}

/// Whether the text of a "not found" is about the bucket, or comes from a web server that is no store. All of them
/// answer 404. If one were taken for a missing object, an outage would look like an empty store.
fn is_about_more(text: &str) -> bool {
    ["NoSuchBucket", "ContainerNotFound", "bucket does not exist", NO_STORE].iter().any(|sign| text.contains(sign))
}

/// Whether the store answered that it receives too many requests.
pub(super) fn is_throttled(error: &object_store::Error) -> bool {
    let text = error.to_string();
    let signs = [
        "429 Too Many Requests",
        "503 Service Unavailable",
        "503 Slow Down",
        "SlowDown",
        "ServerBusy",
        "ServerTooBusy",
    ];
    signs.iter().any(|sign| text.contains(sign))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn not_found(text: &str) -> object_store::Error {
        object_store::Error::NotFound { path: "a".into(), source: text.into() }
    }

    #[test]
    fn a_missing_bucket_is_not_a_missing_object() {
        assert_eq!(Class::of(&not_found("<Code>NoSuchKey</Code>")), Class::NotFound);
        assert_eq!(Class::of(&not_found("<Code>NoSuchBucket</Code>")), Class::Retry);
    }

    #[test]
    fn refused_permissions_may_pass() {
        let denied = object_store::Error::PermissionDenied { path: "a".into(), source: "403".into() };
        assert_eq!(Class::of(&denied), Class::Retry);
    }

    #[test]
    fn an_error_says_what_was_asked_of_which_object_and_why_it_failed() {
        let error = StoreError::Unavailable {
            path: Path::from("wc/job/1"),
            operation: Operation::Create,
            attempts: 3,
            source: Arc::new(AttemptError::Timeout { after: Duration::from_secs(5) }),
        };
        let error = Error::from(error);
        assert_eq!(
            error.message,
            "create of object `wc/job/1`: no answer from the object store after 3 attempts: no answer within 5000 ms"
        );
        assert!(error.retryable);
    }
}

//! Errors as gRPC statuses: code, `google.rpc.Status` details, and plain trailers. Every error of dstl becomes a status
//! here, and nowhere else.

use tonic::{
    Code, Status,
    body::Body,
    codegen::http::Response,
    metadata::{MetadataMap, MetadataValue},
};

use crate::{
    error::{Error, Reason, Scope},
    proto::{self, v1},
    tasks::Panicked,
};

/// Trailers with the same facts, for clients without protobuf.
const REASON_TRAILER: &str = "dstl-reason";
const SCOPE_TRAILER: &str = "dstl-scope";
const RETRYABLE_TRAILER: &str = "dstl-retryable";

/// An error in the form of the protocol.
pub(super) fn message(error: &Error) -> v1::Error {
    v1::Error {
        reason: error.reason.into(),
        scope: error.scope.into(),
        retryable: error.retryable,
        message: error.message.clone(),
    }
}

/// An error as the end of a call.
pub(super) fn status(error: &Error) -> Status {
    let code = code(error.reason);
    let details = proto::status::details(code.into(), &message(error));
    let mut trailers = MetadataMap::new();
    let reason = MetadataValue::try_from(error.reason.as_str_name()).expect("names of reasons are ASCII");
    let scope = MetadataValue::try_from(error.scope.as_str_name()).expect("names of scopes are ASCII");
    trailers.insert(REASON_TRAILER, reason);
    trailers.insert(SCOPE_TRAILER, scope);
    trailers.insert(RETRYABLE_TRAILER, MetadataValue::from_static(if error.retryable { "true" } else { "false" }));
    Status::with_details_and_metadata(code, &error.message, details, trailers)
}

/// The status for a handler that panicked.
pub(super) fn panicked(panicked: &Panicked) -> Status {
    status(&Error::new(Reason::Internal, panicked.to_string()))
}

/// The gRPC code of a reason.
fn code(reason: Reason) -> Code {
    match reason {
        Reason::InvalidArgument
        | Reason::UnknownState
        | Reason::WrongKind
        | Reason::WrongKeyGroup
        | Reason::LimitExceeded => Code::InvalidArgument,
        Reason::IncompatibleProtocol
        | Reason::StateMismatch
        | Reason::BackendMismatch
        | Reason::BatchOutOfOrder
        | Reason::CreditExceeded
        | Reason::CheckpointOutOfOrder
        | Reason::SessionHalted
        | Reason::InUse
        | Reason::NoConsistentCheckpoint
        | Reason::DeclarationMismatch
        | Reason::Failsafe => Code::FailedPrecondition,
        Reason::NotAllowed => Code::PermissionDenied,
        Reason::Unsupported => Code::Unimplemented,
        Reason::MessageTooLarge => Code::OutOfRange,
        Reason::BackendNotOpen | Reason::CheckpointNotFound => Code::NotFound,
        Reason::Fenced | Reason::SessionReplaced | Reason::CheckpointAborted => Code::Aborted,
        Reason::StoreUnavailable | Reason::Draining | Reason::BackendClosed | Reason::PinExpired | Reason::TooSlow => {
            Code::Unavailable
        }
        Reason::CheckpointTimeout => Code::DeadlineExceeded,
        Reason::StateMemory
        | Reason::ChangeMemory
        | Reason::TooManyCheckpoints
        | Reason::TooManyStates
        | Reason::TooManyCalls
        | Reason::LocalResources => Code::ResourceExhausted,
        Reason::CorruptObject | Reason::MissingObject => Code::DataLoss,
        Reason::Unspecified | Reason::Internal => Code::Internal,
    }
}

/// The error for a message above the limit; the gRPC library only tells that in words.
pub(super) fn too_large(library_says: &str, limit: usize) -> Error {
    let text = format!("a message exceeds `max_message_bytes`, {limit} bytes: split the batch ({library_says})");
    Error::new(Reason::MessageTooLarge, text)
}

/// The error for a message of at most `limit` bytes that the gRPC library, or the guard before it, refused. `None` if
/// the connection failed, so that there is no client to tell.
pub(super) fn refused(library_says: &Status, limit: usize) -> Option<Error> {
    if let Some(ours) = described(library_says) {
        return Some(ours);
    }
    let text = library_says.message();
    match library_says.code() {
        Code::OutOfRange => Some(too_large(text, limit)),
        // A fault of the message is in the text; a failure of the connection has a source.
        Code::Internal | Code::Unimplemented if std::error::Error::source(library_says).is_none() => {
            Some(Error::new(Reason::InvalidArgument, format!("a message that is none of this protocol: {text}")))
        }
        _ => None,
    }
}

/// The error from which one of our statuses was made; `None` for other statuses.
pub(super) fn described(status: &Status) -> Option<Error> {
    let wire = proto::status::error(status.details())?;
    let (reason, scope) = (wire.reason(), wire.scope());
    Some(Error { reason, scope, retryable: wire.retryable, message: wire.message })
}

/// Adds our details to refusals that the gRPC library makes itself, before a call reaches the service: messages of more
/// than `limit` bytes, bytes that are not a message, unknown methods.
pub fn describe_refusals(response: Response<Body>, limit: usize) -> Response<Body> {
    let headers = response.headers();
    if headers.contains_key(REASON_TRAILER) {
        return response;
    }
    let Some(library_says) = Status::from_header_map(headers) else { return response };
    let error = match library_says.code() {
        Code::Unimplemented => {
            let what = Some(library_says.message()).filter(|what| !what.is_empty());
            Some(Error::new(Reason::Unsupported, what.unwrap_or("this daemon has no such method")))
        }
        _ => refused(&library_says, limit),
    };
    match error {
        Some(error) => status(&error.in_scope(Scope::Batch)).into_http(),
        None => response,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_the_same_in_details_and_trailers() {
        let error = Error::new(Reason::Fenced, "backend `a/b/0` was taken over");
        let status = status(&error);
        assert_eq!(status.code(), Code::Aborted);
        assert_eq!(status.metadata().get("dstl-reason").unwrap(), "REASON_FENCED");
        assert_eq!(status.metadata().get("dstl-retryable").unwrap(), "false");
        assert_eq!(proto::status::error(status.details()), Some(message(&error)));
        assert_eq!(described(&status), Some(error));
        assert_eq!(described(&Status::out_of_range("the library's")), None);
    }

    #[test]
    fn a_refusal_of_the_grpc_library_is_described_in_details_of_the_same_code() {
        let library = Status::out_of_range("decoded message length too large: found 9 bytes").into_http();
        let described = describe_refusals(library, 4);
        let status = Status::from_header_map(described.headers()).unwrap();
        assert_eq!(status.code(), Code::OutOfRange);
        assert!(status.message().contains("too large: found 9 bytes"), "{}", status.message());
        let decoded = proto::status::error(status.details()).unwrap();
        assert_eq!((decoded.reason(), decoded.scope()), (Reason::MessageTooLarge, Scope::Batch));
    }

    #[test]
    fn what_is_no_message_is_told_from_a_client_that_is_gone() {
        let reason = |status: Status| refused(&status, 4).map(|error| error.reason);
        assert_eq!(reason(Status::internal("failed to decode Protobuf message")), Some(Reason::InvalidArgument));
        assert_eq!(reason(Status::out_of_range("found 9 bytes")), Some(Reason::MessageTooLarge));
        let gone = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "reset");
        assert_eq!(reason(Status::from_error(Box::new(gone))), None);
        assert_eq!(reason(Status::cancelled("the stream was reset")), None);
    }

    #[test]
    fn every_refusal_of_the_grpc_library_before_a_call_has_a_reason() {
        let reason = |status: Status| {
            let described = describe_refusals(status.into_http(), 4);
            described.headers().get(REASON_TRAILER).map(|reason| reason.to_str().unwrap().to_owned())
        };
        let cases = [
            (Status::internal("failed to decode Protobuf message"), Some("REASON_INVALID_ARGUMENT")),
            (Status::internal("Missing request message."), Some("REASON_INVALID_ARGUMENT")),
            (Status::unimplemented(""), Some("REASON_UNSUPPORTED")),
            (Status::out_of_range("found 9 bytes"), Some("REASON_MESSAGE_TOO_LARGE")),
            (Status::not_found("a service that the health check does not know"), None),
            (status(&Error::new(Reason::Internal, "ours")), Some("REASON_INTERNAL")),
        ];
        for (library_says, expected) in cases {
            let text = format!("{library_says:?}");
            assert_eq!(reason(library_says).as_deref(), expected, "{text}");
        }
    }
}

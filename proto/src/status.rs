//! Errors of dstl inside a gRPC status: `google.rpc.Status` in the trailer `grpc-status-details-bin`.

use bytes::Bytes;
use prost::Message as _;

use crate::v1;

/// The type of the detail that holds the error.
const TYPE_URL: &str = "type.googleapis.com/dstl.v1.Error";

/// `google.rpc.Status`, the standard carrier of error details.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<RpcAny>,
}

/// The message `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcAny {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// The details of a status with the gRPC code `code` for this error.
#[must_use]
pub fn details(code: i32, error: &v1::Error) -> Bytes {
    let any = RpcAny { type_url: TYPE_URL.to_owned(), value: error.encode_to_vec().into() };
    RpcStatus { code, message: error.message.clone(), details: vec![any] }.encode_to_vec().into()
}

/// The error in the details of a status; `None` if they hold none of dstl's.
#[must_use]
pub fn error(details: &[u8]) -> Option<v1::Error> {
    let status = RpcStatus::decode(details).ok()?;
    let ours = status.details.into_iter().find(|any| any.type_url == TYPE_URL)?;
    v1::Error::decode(ours.value).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn details_hold_the_code_the_message_and_the_error() {
        let fenced =
            v1::Error { reason: v1::Reason::Fenced.into(), message: "taken over".into(), ..v1::Error::default() };
        let details = details(10, &fenced);
        let status = RpcStatus::decode(&details[..]).unwrap();
        assert_eq!((status.code, status.message.as_str()), (10, "taken over"));
        assert_eq!(error(&details), Some(fenced));
        assert_eq!(error(b"the details of another service"), None);
    }
}

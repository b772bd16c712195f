//! The responses of a session. The results of a batch are encoded as soon as they are there: to make a protobuf struct
//! of each would cost as much as reading the value.

use prost::{
    Message as _,
    encoding::{encode_varint, encoded_len_varint},
};
use tonic::Status;

use super::messages::Outgoing;
use crate::proto::{
    v1::{self, SessionResponse, session_response::Response},
    wire::results::tag,
};

/// One response of a session.
#[derive(Debug)]
pub(super) enum Reply {
    /// A response as generated code has it, which is encoded when it is sent.
    Message(SessionResponse),
    /// The encoded contents of a `BatchResult`.
    Results(Vec<u8>),
}

impl From<Response> for Reply {
    fn from(response: Response) -> Self {
        Self::Message(SessionResponse { response: Some(response) })
    }
}

impl Reply {
    /// The same as a message, for a server that encodes it itself.
    pub(super) fn into_message(self) -> SessionResponse {
        match self {
            Self::Message(message) => message,
            Self::Results(contents) => {
                let result = v1::BatchResult::decode(&contents[..]).expect("it was encoded here");
                SessionResponse { response: Some(Response::Result(result)) }
            }
        }
    }
}

impl Outgoing for Reply {
    fn len_in_bytes(&self) -> usize {
        match self {
            Self::Message(message) => message.len_in_bytes(),
            Self::Results(contents) => 1 + encoded_len_varint(contents.len() as u64) + contents.len(),
        }
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        match self {
            Self::Message(message) => message.put(out),
            Self::Results(contents) => {
                out.push(tag::RESULT_IN_RESPONSE);
                encode_varint(contents.len() as u64, out);
                out.extend_from_slice(contents);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;

    use super::{super::convert, *};
    use crate::{backend::BatchResult, state::op::Answer};

    #[test]
    fn results_have_the_bytes_of_their_message() {
        let value = |length| Some(Answer::Value(Some(Bytes::from(vec![7; length]))));
        let answers = [
            value(8),
            value(0),
            value(300),
            Some(Answer::Value(None)),
            Some(Answer::Default(Bytes::from_static(b"default"))),
            Some(Answer::Found(true)),
            Some(Answer::Elements { elements: vec![Bytes::new()], token: Some(Bytes::from_static(b"token")) }),
            Some(Answer::Count(300)),
            Some(Answer::LimitReached),
            None,
        ];
        let answers: Vec<_> = (0..).step_by(100).zip(answers).collect();
        for (answers, repeated) in [(answers.clone(), false), (answers, true), (vec![], false), (vec![], true)] {
            let result = BatchResult { number: 1 << 20, answers, repeated };
            let message = Reply::from(Response::Result(convert::to_batch_result(result.clone())));
            let (mut expected, mut bytes) = (vec![], vec![]);
            message.put(&mut expected).unwrap();
            let reply = convert::to_reply(result);
            reply.put(&mut bytes).unwrap();
            assert_eq!((reply.len_in_bytes(), &bytes), (expected.len(), &expected));
            assert_eq!(reply.into_message(), message.into_message());
        }
    }
}

//! The messages of streams, without tonic's buffers. Those grow to the longest message, stay as long as the stream, and
//! are not counted in any bound. Here each long message has a buffer of its own, which is freed with the message.

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream, stream::BoxStream};
use http_body::{Body as HttpBody, Frame};
use prost::Message;
use tonic::{
    Status,
    body::Body,
    codegen::http::{self, HeaderMap, HeaderValue, header},
};

/// A gRPC message header: a byte for compression, then the length.
const HEADER_BYTES: usize = 5;

/// Short messages that are ready are sent together, up to this many bytes.
const TOGETHER_BYTES: usize = 32 << 10;

/// A message that can be sent.
pub(super) trait Outgoing {
    /// Number of bytes that [`put`](Self::put) appends.
    fn len_in_bytes(&self) -> usize;

    /// Appends its bytes to `out`.
    ///
    /// # Errors
    /// If it cannot be encoded.
    fn put(&self, out: &mut Vec<u8>) -> Result<(), Status>;
}

impl<M: Message> Outgoing for M {
    fn len_in_bytes(&self) -> usize {
        self.encoded_len()
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        self.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

/// The response to a call that streams `messages`.
pub(super) fn respond<M: Outgoing + 'static>(messages: BoxStream<'static, Result<M, Status>>) -> http::Response<Body> {
    let mut response = http::Response::new(Body::new(Messages { messages, together: vec![], end: End::Open }));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The requests of a call, each of at most `most` bytes. The stream ends after an error.
pub(super) fn requests<M: Message + Default>(body: Body, most: usize) -> impl Stream<Item = Result<M, Status>> + Send {
    stream::unfold(Some((body, BytesMut::new())), move |rest| async move {
        let (mut body, mut gathered) = rest?;
        loop {
            if let Some(message) = decode_first(&mut gathered, most) {
                // After an undecodable message the beginning of the next one is unknown, so the stream ends.
                let rest = message.is_ok().then_some((body, gathered));
                return Some((message, rest));
            }
            let ended = match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    // The guard in front delivers whole messages, so they are taken over without a copy.
                    if gathered.is_empty() {
                        gathered = data.into();
                    } else {
                        gathered.extend_from_slice(&data);
                    }
                    continue;
                }
                Some(Err(status)) => status,
                None if gathered.is_empty() => return None,
                None => Status::internal("the stream ended in the middle of a message"),
            };
            return Some((Err(ended), None));
        }
    })
}

/// Decodes the first message in `gathered` once it is whole. The last message leaves no buffer behind.
fn decode_first<M: Message + Default>(gathered: &mut BytesMut, most: usize) -> Option<Result<M, Status>> {
    let (flag, mut length) = (*gathered.first()?, gathered.get(1..HEADER_BYTES)?);
    let length = usize::try_from(length.get_u32()).unwrap_or(usize::MAX);
    if flag != 0 {
        return Some(Err(Status::unimplemented("a compressed message; send messages without compression")));
    }
    if length > most {
        let text = format!("decoded message length too large: found {length} bytes, the limit is {most} bytes");
        return Some(Err(Status::out_of_range(text)));
    }
    if gathered.len() - HEADER_BYTES < length {
        return None;
    }
    let rest = gathered.split_off(HEADER_BYTES + length);
    let mut message = mem::replace(gathered, if rest.is_empty() { BytesMut::new() } else { rest }).freeze();
    message.advance(HEADER_BYTES);
    Some(M::decode(message).map_err(|error| Status::internal(error.to_string())))
}

#[derive(Debug)]
enum End {
    Open,
    With(Status),
    Told,
}

/// The body of such a response.
struct Messages<M> {
    messages: BoxStream<'static, Result<M, Status>>,
    together: Vec<u8>,
    end: End,
}

impl<M: Outgoing> Messages<M> {
    fn encode(&mut self, message: &M) -> Result<(), Status> {
        let length = message.len_in_bytes();
        let header = u32::try_from(length).map_err(|_| Status::internal("a message of more than 4 GiB"))?;
        // Exactly, since the buffer is given away with the frame: room to grow would be memory that nobody uses.
        self.together.reserve_exact(HEADER_BYTES + length);
        self.together.put_u8(0);
        self.together.put_u32(header);
        message.put(&mut self.together)
    }

    /// A frame with all encoded messages; it takes their buffer over.
    fn take(&mut self) -> Frame<Bytes> {
        Frame::data(mem::take(&mut self.together).into())
    }
}

impl<M: Outgoing> HttpBody for Messages<M> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        while matches!(this.end, End::Open) && this.together.len() < TOGETHER_BYTES {
            let end = match this.messages.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(message))) => match this.encode(&message) {
                    Ok(()) => continue,
                    Err(status) => status,
                },
                Poll::Ready(Some(Err(status))) => status,
                Poll::Ready(None) => Status::ok(""),
                Poll::Pending if this.together.is_empty() => return Poll::Pending,
                // Nothing more is ready, so the messages that are go out now.
                Poll::Pending => break,
            };
            this.end = End::With(end);
        }
        if !this.together.is_empty() {
            return Poll::Ready(Some(Ok(this.take())));
        }
        let End::With(status) = mem::replace(&mut this.end, End::Told) else { return Poll::Ready(None) };
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::proto::v1::{QueryRequest, QueryResponse, query_response::Response};

    fn result(bytes: usize) -> QueryResponse {
        let answer = crate::proto::v1::OperationResult { value: vec![7; bytes].into(), ..Default::default() };
        let results = vec![answer];
        QueryResponse {
            response: Some(Response::Result(crate::proto::v1::QueryResult {
                number: 1,
                results,
                ..Default::default()
            })),
        }
    }

    /// The frames that are there at once, and whether the body waits for more.
    fn frames(body: &mut Body) -> (Vec<Frame<Bytes>>, bool) {
        let mut frames = vec![];
        loop {
            match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).now_or_never() {
                Some(Some(frame)) => frames.push(frame.unwrap()),
                Some(None) => return (frames, false),
                None => return (frames, true),
            }
        }
    }

    #[test]
    fn short_messages_go_together_and_long_ones_leave_nothing_behind() {
        let sent = [result(10), result(20), result(3 << 20), result(30)];
        let messages = stream::iter(sent.clone().map(Ok)).chain(stream::pending());
        let mut body = Messages { messages: messages.boxed(), together: vec![], end: End::Open };
        let mut got = vec![];
        let mut frames = 0;
        while let Some(Some(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never() {
            assert_eq!(body.together.capacity(), 0, "what was encoded has gone");
            let mut data = BytesMut::from(frame.unwrap().into_data().unwrap());
            frames += 1;
            while let Some(message) = decode_first::<QueryResponse>(&mut data, 4 << 20) {
                got.push(message.unwrap());
            }
        }
        assert_eq!((got, frames), (sent.to_vec(), 2));
    }

    #[test]
    fn a_stream_ends_with_its_status_after_all_that_came_before() {
        for status in [Status::ok(""), Status::aborted("enough")] {
            let end = (status.code() != tonic::Code::Ok).then(|| Err(status.clone()));
            let messages = stream::iter([Ok(result(1))].into_iter().chain(end)).boxed();
            let response = respond(messages);
            assert_eq!(response.headers().get(header::CONTENT_TYPE).unwrap(), "application/grpc");
            let (frames, waits) = frames(&mut response.into_body());
            assert!(!waits);
            let [data, trailers] = frames.as_slice() else { panic!("{frames:?}") };
            assert!(data.is_data());
            let code = trailers.trailers_ref().unwrap().get("grpc-status").unwrap();
            assert_eq!(code.to_str().unwrap(), (status.code() as i32).to_string());
        }
    }

    #[test]
    fn requests_that_are_compressed_cut_off_or_no_messages_are_refused() {
        let read = |bytes: &'static [u8]| {
            let frames = bytes.chunks(2).map(|piece| Ok::<_, Status>(Frame::data(Bytes::from_static(piece))));
            let body = Body::new(Pieces(frames.collect()));
            requests::<QueryRequest>(body, 9).collect::<Vec<_>>().now_or_never().unwrap()
        };
        for (bytes, code) in [
            (&[1, 0, 0, 0, 1, 0][..], tonic::Code::Unimplemented),
            (&[0, 0, 0, 0, 10, 0], tonic::Code::OutOfRange),
            (&[0, 0, 0, 0, 2, 0], tonic::Code::Internal),
            (&[0, 0], tonic::Code::Internal),
            (&[0, 0, 0, 0, 1, 0xff], tonic::Code::Internal),
        ] {
            let read = read(bytes);
            let [Err(status)] = read.as_slice() else { panic!("{bytes:?}: {read:?}") };
            assert_eq!(status.code(), code, "{bytes:?}");
        }
        assert!(matches!(read(&[0; 10])[..], [Ok(_), Ok(_)]), "two that have nothing");
        assert!(read(&[]).is_empty());
    }

    struct Pieces(std::collections::VecDeque<Result<Frame<Bytes>, Status>>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front())
        }
    }
}

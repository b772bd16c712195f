//! The body of a response, passed to h2 in pieces as the peer takes them. The rest waits here, so that it can be
//! dropped if others need its memory while the peer takes nothing.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tonic::{Status, body::Body, codegen::http::HeaderMap};

use super::Place;
use crate::{
    error::{Error, Reason},
    limits::{Share, TakenBack},
    rpc::status,
};

/// Size of a piece in bytes.
const PIECE_BYTES: usize = 32 << 10;

/// Longest data that is not counted, in bytes.
const FREE_BYTES: usize = 4 << 10;

/// The body of one response.
#[derive(Debug)]
pub(super) struct Outbound {
    body: Body,
    share: Share,
    ended: bool,
    _place: Place,
}

/// Bytes on their way, which are counted until the peer took them.
struct Piece {
    bytes: Bytes,
    share: Share,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.share.release(self.bytes.len() as u64);
    }
}

impl Outbound {
    pub(super) fn new(body: Body, share: Share, place: Place) -> Self {
        Self { body, share, ended: false, _place: place }
    }

    fn piece(&self, bytes: Bytes) -> Frame<Bytes> {
        Frame::data(Bytes::from_owner(Piece { bytes, share: self.share.clone() }))
    }
}

impl HttpBody for Outbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        // Ordering: bytes that are put aside go out before the next frame, since they are the rest of the one before.
        let next = this.share.take_aside(PIECE_BYTES);
        if !next.is_empty() {
            return Poll::Ready(Some(Ok(this.piece(next))));
        }
        if let Poll::Ready(TakenBack) = this.share.poll_taken_back(cx) {
            this.ended = true;
            return Poll::Ready(Some(Ok(Frame::trailers(given_up()))));
        }
        let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)) else { return Poll::Ready(None) };
        let data = match frame.map(Frame::into_data) {
            Ok(Ok(data)) => data,
            Ok(Err(trailers)) => return Poll::Ready(Some(Ok(trailers))),
            Err(status) => return Poll::Ready(Some(Err(status))),
        };
        // The handler has acquired room for the longest answer. From here on the real length counts.
        if data.len() <= FREE_BYTES {
            this.share.settle(0);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        this.share.settle(data.len() as u64);
        if data.len() <= PIECE_BYTES {
            return Poll::Ready(Some(Ok(this.piece(data))));
        }
        // Only a piece at a time goes to h2, which keeps it until the peer takes it and cannot be asked to drop it.
        this.share.put_aside(data);
        Poll::Ready(Some(Ok(this.piece(this.share.take_aside(PIECE_BYTES)))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.share.is_nothing_aside() && self.body.is_end_stream())
    }
}

/// The end of a response whose rest was dropped.
fn given_up() -> HeaderMap {
    let text =
        "the answer was given up: it was not taken while others needed its memory; ask again, and read what comes";
    let mut trailers = HeaderMap::new();
    let status = status::status(&Error::new(Reason::TooSlow, text));
    if status.add_header(&mut trailers).is_err() {
        tracing::debug!("a status that is no header");
    }
    trailers
}

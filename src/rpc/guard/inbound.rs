//! The body of a request. It is passed on message by message, each of them whole, not too long, in time, and after its
//! memory was acquired.

use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use futures::future::BoxFuture;
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Sleep};
use tonic::{Status, body::Body};

use super::{Rules, fields};
use crate::{
    error::{Error, Reason},
    limits::{Share, TakenBack, Times},
    rpc::status,
    types::Limits,
};

/// A gRPC message header: a byte for compression, then the length.
const HEADER_BYTES: usize = 5;

/// Longest message that is not counted, in bytes.
const FREE_BYTES: usize = 16 << 10;

/// Number of copies of a message in memory until it is decoded: here, and in tonic's buffer.
const COPIES: u64 = 2;

/// The body of one request.
pub(super) struct Inbound {
    body: Body,
    rules: Rules,
    limits: Limits,
    times: Times,
    share: Share,
    /// The received part of a message that is not complete.
    gathered: BytesMut,
    paying: Option<BoxFuture<'static, Result<(), TakenBack>>>,
    /// Bytes that the present message has acquired so far.
    paid: u64,
    /// Runs while a message is due.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Number of messages that were passed on.
    given: u64,
    ended: bool,
}

impl Inbound {
    pub(super) fn new(body: Body, rules: Rules, limits: Limits, times: Times, share: Share) -> Self {
        Self {
            body,
            rules,
            limits,
            times,
            share,
            gathered: BytesMut::new(),
            paying: None,
            paid: 0,
            deadline: None,
            given: 0,
            ended: false,
        }
    }

    /// Length of the message whose beginning has come, including its header.
    fn expected(&self) -> Option<usize> {
        let mut length = self.gathered.get(1..HEADER_BYTES)?;
        Some(HEADER_BYTES + usize::try_from(length.get_u32()).unwrap_or(usize::MAX - HEADER_BYTES))
    }

    /// The next message, once it is complete and its memory acquired.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            if let Some(paying) = &mut self.paying {
                let paid = ready!(paying.as_mut().poll(cx));
                self.paying = None;
                if paid.is_err() {
                    return Poll::Ready(Some(Err(too_slow("its memory was needed by others"))));
                }
            }
            let Some(expected) = self.expected() else { return Poll::Ready(None) };
            let most = if self.given == 0 { self.rules.first_bytes } else { self.rules.later_bytes };
            let length = expected - HEADER_BYTES;
            if length > most {
                return Poll::Ready(Some(Err(too_long(length, most))));
            }
            // Ordering: the memory of a long message is acquired by its header, before the rest of it is gathered. Half
            // messages would be free otherwise.
            if length > FREE_BYTES && self.pay(COPIES * length as u64) {
                continue;
            }
            if self.gathered.len() < expected {
                return Poll::Ready(None);
            }
            let is_compressed = self.gathered.first().is_some_and(|flag| *flag != 0);
            let message = self.gathered.get(HEADER_BYTES..expected).unwrap_or_default();
            // tonic refuses compressed messages.
            // Only a whole message shows how much memory it takes once it is decoded. That is paid on top.
            let counted = if is_compressed { Ok(0) } else { fields::cost(self.rules.message, message, &self.limits) };
            match counted {
                Ok(parts) if length > FREE_BYTES || parts > FREE_BYTES as u64 => {
                    if self.pay(COPIES * length as u64 + parts) {
                        continue;
                    }
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(status::status(&error)))),
            }
            self.given += 1;
            self.deadline = None;
            // The last message leaves no buffer behind.
            let rest = self.gathered.split_off(expected);
            let rest = if rest.is_empty() { BytesMut::new() } else { rest };
            return Poll::Ready(Some(Ok(mem::replace(&mut self.gathered, rest).freeze())));
        }
    }

    /// Acquires memory for the present message, up to `all` in sum; `false` if it has that already.
    fn pay(&mut self, all: u64) -> bool {
        // Noted even if the call has to wait for it: the same bytes are not asked for again.
        let missing = all.saturating_sub(self.paid);
        self.paid = self.paid.max(all);
        if missing == 0 || self.share.try_acquire(missing) {
            return false;
        }
        let share = self.share.clone();
        self.paying = Some(Box::pin(async move { share.acquire(missing).await }));
        true
    }

    /// Ends the request, and releases its memory.
    fn give_up(&mut self, status: Status) -> Status {
        self.ended = true;
        self.gathered = BytesMut::new();
        self.share.settle(0);
        status
    }

    /// Ready with an error once the peer has taken too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let expects = self.given == 0 || !self.gathered.is_empty();
        // Runs while the first message is due, or a later one has begun. A client that sends a byte now and then does
        // not prolong it.
        if expects {
            let until = Instant::now() + self.times.request;
            let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            if deadline.as_mut().poll(cx).is_ready() {
                let text =
                    format!("it was not whole after {} ms (`rpc.request-timeout`)", self.times.request.as_millis());
                return Poll::Ready(too_slow(&text));
            }
        }
        self.share.poll_taken_back(cx).map(|TakenBack| too_slow("its memory was needed by others"))
    }
}

impl HttpBody for Inbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        // The backend has reserved memory for a session's later messages, so these pass without being gathered.
        if this.rules.is_session && this.given > 0 && this.gathered.is_empty() {
            return Pin::new(&mut this.body).poll_frame(cx);
        }
        if this.rules.streams && this.paid > 0 && this.paying.is_none() && this.gathered.is_empty() {
            // The message before was handled.
            this.paid = 0;
            this.share.settle(0);
        }
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            // Bytes that came behind the first message are the beginning of the next ones, and go out first.
            let passes = this.rules.is_session && this.given > 0;
            let given = if passes { Some(Ok(this.gathered.split().freeze())) } else { ready!(this.poll_message(cx)) };
            match given {
                Some(Ok(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Some(Err(status)) => return Poll::Ready(Some(Err(this.give_up(status)))),
                None => {}
            }
            if let Poll::Ready(status) = this.poll_patience(cx) {
                return Poll::Ready(Some(Err(this.give_up(status))));
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        this.share.moved();
                        this.gathered.extend_from_slice(&data);
                    }
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => {
                    // An incomplete message; tonic reports it.
                    this.ended = true;
                    let rest = this.gathered.split().freeze();
                    return Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest))));
                }
            }
        }
    }
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbound").field("rules", &self.rules).finish_non_exhaustive()
    }
}

fn too_slow(why: &str) -> Status {
    status::status(&Error::new(Reason::TooSlow, format!("the request was given up: {why}; send it again")))
}

fn too_long(length: usize, most: usize) -> Status {
    let text = format!(
        "a request of {length} bytes: this one may have {most}; split it, or see `max_message_bytes` and `rpc.max-message-size`"
    );
    status::status(&Error::new(Reason::MessageTooLarge, text))
}

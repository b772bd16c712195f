//! Stock gRPC clients on a Unix socket, made acceptable to h2.
//!
//! Clients built on gRPC's C core (Python, C++, Ruby, PHP, C#'s old one) and some builds of grpc-java derive
//! `:authority` from the target that they dial. For a Unix socket this is its path, percent-encoded (`run%2Fdstl.sock`)
//! or raw. Neither is an authority by RFC 3986, and h2 answers such requests with `PROTOCOL_ERROR`. h2 has no switch
//! for it, so [`AuthorityStream`] mends the request on its way in:
//!
//! ```text
//!   client ──▶ preface, SETTINGS … ──▶ first header block ──▶ :authority good or absent ──▶ pass: untouched for ever
//!                  (untouched)              (held back)   └─▶ :authority refused        ──▶ rewrite: every header block
//!                                                                                           decoded and written anew
//! ```
//!
//! * A connection whose first request is good costs the decoding of that one block; after it, reads go straight to the
//!   socket and the bytes are those of the client.
//! * A rewritten connection keeps the HPACK state of the client here. h2 is given literals that touch no dynamic table,
//!   so that the two never need to agree. Frames that carry no header block (DATA above all) are not looked into.
//! * Only what h2 would refuse is replaced, by `localhost`.
//! * What is not understood before the first block is decided is passed on as it is: h2 answers it with the proper
//!   error. In a rewritten connection it ends the connection with [`io::ErrorKind::InvalidData`].
//!
//! Writes are never touched.

mod block;
mod huffman;
mod rewriter;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use self::rewriter::Rewriter;

/// Bytes read at once while header blocks are looked for.
const SCRATCH_BYTES: usize = 16 * 1024;

/// Payload left from which on it is read straight into the caller's buffer instead of through the scratch buffer.
const DIRECT_BYTES: usize = 4 * 1024;

/// A server's side of an HTTP/2 connection whose client may send an `:authority` that h2 refuses.
#[derive(Debug)]
pub(crate) struct AuthorityStream<T> {
    inner: T,
    /// Gone once the connection is known to need nothing.
    inbound: Option<Box<Inbound>>,
}

/// What is kept of a connection that is watched or rewritten.
#[derive(Debug)]
struct Inbound {
    rewriter: Rewriter,
    scratch: Box<[u8]>,
    /// Not yet given to the reader.
    ready: BytesMut,
    ended: bool,
}

impl<T> AuthorityStream<T> {
    /// Watches `inner`, of which nothing has been read.
    pub(crate) fn new(inner: T) -> Self {
        let inbound = Inbound {
            rewriter: Rewriter::new(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            ready: BytesMut::new(),
            ended: false,
        };
        Self { inner, inbound: Some(Box::new(inbound)) }
    }
}

impl Inbound {
    /// Reads until something is ready for `buf` or the client has ended.
    fn poll_read<T: AsyncRead + Unpin>(
        &mut self,
        mut inner: &mut T,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.ready.is_empty() {
                let some = self.ready.split_to(self.ready.len().min(buf.remaining()));
                buf.put_slice(&some);
                return Poll::Ready(Ok(()));
            }
            if self.ended || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let untouched = self.rewriter.untouched();
            if untouched >= DIRECT_BYTES {
                let before = buf.filled().len();
                let limit = u64::try_from(untouched).unwrap_or(u64::MAX);
                ready!(Pin::new(&mut (&mut inner).take(limit)).poll_read(cx, buf))?;
                let read = buf.filled().len() - before;
                self.rewriter.skip(read);
                self.ended = read == 0;
                return Poll::Ready(Ok(()));
            }
            let mut scratch = ReadBuf::new(&mut self.scratch);
            ready!(Pin::new(&mut inner).poll_read(cx, &mut scratch))?;
            if scratch.filled().is_empty() {
                self.ended = true;
                self.rewriter.finish(&mut self.ready);
            } else {
                self.rewriter.push(scratch.filled(), &mut self.ready)?;
            }
        }
    }

    /// Whether the connection needs nothing and nothing of it is held here.
    fn is_done(&self) -> bool {
        self.rewriter.is_passing() && !self.ready.has_remaining()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for AuthorityStream<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, inbound } = &mut *self;
        let Some(watched) = inbound else {
            return Pin::new(inner).poll_read(cx, buf);
        };
        ready!(watched.poll_read(inner, cx, buf))?;
        if watched.is_done() {
            *inbound = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for AuthorityStream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;

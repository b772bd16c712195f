//! Makes stock gRPC clients on a Unix socket acceptable to h2.
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
//! * A connection whose first request is good costs the decoding of one header block. After that, reads go straight to
//!   the socket, and the bytes are those of the client.
//! * For a rewritten connection, the HPACK state of the client is kept here. h2 gets literals that use no dynamic
//!   table, so the two need not agree. Frames without a header block (mostly DATA) are passed on unread.
//! * Only authorities that h2 would refuse are replaced, by `localhost`.
//! * Bytes that cannot be understood before the first block is decided are passed on unchanged: h2 answers them with
//!   the proper error. In a rewritten connection they end the connection with [`io::ErrorKind::InvalidData`].
//!
//! Writes pass unchanged.

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

/// Bytes that one read fetches while header blocks are looked for.
const SCRATCH_BYTES: usize = 16 * 1024;

/// If at least this many bytes of a payload remain, they are read straight into the caller's buffer instead of the
/// scratch buffer.
const DIRECT_BYTES: usize = 4 * 1024;

/// The server's side of an HTTP/2 connection whose client may send an `:authority` that h2 refuses.
#[derive(Debug)]
pub(crate) struct AuthorityStream<T> {
    inner: T,
    /// `None` once the connection is known to need no rewriting.
    inbound: Option<Box<Inbound>>,
}

/// The state of a connection that is watched or rewritten.
#[derive(Debug)]
struct Inbound {
    rewriter: Rewriter,
    scratch: Box<[u8]>,
    /// Bytes that the reader has not taken yet.
    ready: BytesMut,
    ended: bool,
}

impl<T> AuthorityStream<T> {
    /// Watches `inner`, from which nothing was read yet.
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
    /// Reads until bytes are ready for `buf`, or the client has ended.
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
            // Long payloads go straight into the caller's buffer. The read is limited to them, so that the next frame
            // header is not passed on unread.
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

    /// Whether the connection needs no rewriting and no bytes are held here.
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
        // Ordering: read first, and let go of the watch after that. The read may have returned the last bytes that are
        // held here.
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

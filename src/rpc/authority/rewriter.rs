//! The pure part: follows the HTTP/2 framing (RFC 9113) of a client's bytes, wherever they are cut.

use std::io;

use bytes::{BufMut as _, BytesMut};

use super::block::{BlockError, Blocks, MAX_BLOCK_BYTES};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;

/// Largest frame that every peer accepts (RFC 9113, 4.2).
const MAX_FRAME_BYTES: usize = 16_384;

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The bytes of a rewritten connection cannot be followed.
#[derive(Debug, PartialEq, thiserror::Error)]
enum Fault {
    #[error("no http/2 preface")]
    Preface,
    #[error("header block of stream `{stream}` interrupted")]
    Interrupted { stream: u32 },
    #[error("padding or priority longer than the frame")]
    Padding,
    #[error(transparent)]
    Block(#[from] BlockError),
}

/// How the connection is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The first header block is not complete yet.
    Deciding,
    /// Header blocks are encoded again.
    Rewriting,
    /// All bytes pass unchanged, for ever.
    Passing,
}

/// The place of the next byte in the framing.
#[derive(Debug, Clone, Copy)]
enum Position {
    Preface { seen: usize },
    FrameHeader,
    HeaderPayload(Frame),
    Untouched { remaining: usize },
}

/// The header of a frame.
#[derive(Debug, Clone, Copy)]
struct Frame {
    len: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// A header block whose end has not come yet.
#[derive(Debug, Clone, Copy)]
struct OpenBlock {
    stream: u32,
    end_stream: bool,
    /// Bytes of its frames so far, with their headers. Limits the held bytes, even for empty frames.
    wire_bytes: usize,
}

/// Takes the bytes of a client as they come, and returns the bytes that the server is to see.
///
/// Invariant while deciding: `held` is exactly the bytes that were taken and not returned, so giving up means appending
/// it.
#[derive(Debug)]
pub(super) struct Rewriter {
    mode: Mode,
    position: Position,
    open: Option<OpenBlock>,
    blocks: Blocks,
    /// Raw bytes: the current frame, if its header is not complete or it carries headers; while deciding also the
    /// frames of the open block before it.
    held: BytesMut,
    /// Offset of the current frame in `held`.
    frame_start: usize,
    /// The fragments of the open block, without framing.
    fragments: BytesMut,
}

impl Rewriter {
    pub(super) fn new() -> Self {
        Self {
            mode: Mode::Deciding,
            position: Position::Preface { seen: 0 },
            open: None,
            blocks: Blocks::new(),
            held: BytesMut::new(),
            frame_start: 0,
            fragments: BytesMut::new(),
        }
    }

    /// Whether every later byte passes unchanged.
    pub(super) fn is_passing(&self) -> bool {
        self.mode == Mode::Passing
    }

    /// How many of the next bytes are known to pass unchanged.
    pub(super) fn untouched(&self) -> usize {
        match self.position {
            Position::Untouched { remaining } if !self.is_passing() => remaining,
            _ => 0,
        }
    }

    /// Notes that `len` bytes (at most [`untouched`](Self::untouched)) went past.
    pub(super) fn skip(&mut self, len: usize) {
        assert!(len <= self.untouched(), "skipped into a frame head");
        self.position = after_untouched(self.untouched() - len);
    }

    /// Takes `input` and appends the bytes that the server is to see to `out`.
    ///
    /// # Errors
    /// `InvalidData` if the connection is being rewritten and cannot be followed; the connection must end.
    pub(super) fn push(&mut self, mut input: &[u8], out: &mut BytesMut) -> io::Result<()> {
        while !input.is_empty() {
            if self.is_passing() {
                out.extend_from_slice(input);
                return Ok(());
            }
            // While deciding, nothing was changed yet, so the held bytes are passed on, and h2 answers them. A
            // rewritten connection cannot go back: h2 has not seen the client's table of fields.
            if let Err(fault) = self.step(&mut input, out) {
                if self.mode == Mode::Rewriting {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, fault));
                }
                self.pass(out);
            }
        }
        Ok(())
    }

    /// Handles the client's end: returns held bytes, so that the server can judge them.
    pub(super) fn finish(&mut self, out: &mut BytesMut) {
        if self.mode == Mode::Deciding {
            self.pass(out);
        }
    }

    fn pass(&mut self, out: &mut BytesMut) {
        out.extend_from_slice(&self.held);
        self.held = BytesMut::new();
        self.fragments = BytesMut::new();
        self.mode = Mode::Passing;
    }

    /// Takes a part of `input`, or fails. The bytes that it took before failing are in `held`, or were returned.
    fn step(&mut self, input: &mut &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        match self.position {
            Position::Preface { seen } => {
                let wanted = PREFACE.get(seen..).unwrap_or_default();
                let len = wanted.len().min(input.len());
                if input.get(..len) != wanted.get(..len) {
                    return Err(Fault::Preface);
                }
                out.extend_from_slice(take(input, len));
                let seen = seen + len;
                self.position = if seen == PREFACE.len() { Position::FrameHeader } else { Position::Preface { seen } };
                Ok(())
            }
            Position::FrameHeader => {
                let missing = (self.frame_start + FRAME_HEADER_BYTES).saturating_sub(self.held.len());
                self.held.extend_from_slice(take(input, missing));
                match self.held.get(self.frame_start..).and_then(Frame::parse) {
                    Some(frame) => self.on_frame(frame, out),
                    None => Ok(()),
                }
            }
            Position::HeaderPayload(frame) => {
                let end = self.frame_start + FRAME_HEADER_BYTES + frame.len;
                self.held.extend_from_slice(take(input, end.saturating_sub(self.held.len())));
                if self.held.len() == end { self.on_header_frame(frame, out) } else { Ok(()) }
            }
            Position::Untouched { remaining } => {
                let some = take(input, remaining);
                out.extend_from_slice(some);
                self.position = after_untouched(remaining - some.len());
                Ok(())
            }
        }
    }

    /// Handles a complete frame header, which is at the end of `held`.
    fn on_frame(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), Fault> {
        let open = match (self.open, frame.kind) {
            (None, HEADERS) => {
                OpenBlock { stream: frame.stream, end_stream: frame.flags & END_STREAM != 0, wire_bytes: 0 }
            }
            (Some(open), CONTINUATION) if open.stream == frame.stream => open,
            (Some(open), _) => return Err(Fault::Interrupted { stream: open.stream }),
            (None, _) => {
                out.extend_from_slice(&self.held);
                self.held.clear();
                self.position = after_untouched(frame.len);
                return Ok(());
            }
        };
        // Counted with frame headers, so a block of endless empty frames is bounded, too.
        let wire_bytes = open.wire_bytes + FRAME_HEADER_BYTES + frame.len;
        if wire_bytes > MAX_BLOCK_BYTES {
            return Err(BlockError::TooLarge.into());
        }
        self.open = Some(OpenBlock { wire_bytes, ..open });
        self.position = Position::HeaderPayload(frame);
        if frame.len == 0 { self.on_header_frame(frame, out) } else { Ok(()) }
    }

    /// Handles a complete frame with headers, which is at the end of `held`.
    fn on_header_frame(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), Fault> {
        let payload = self.held.get(self.frame_start + FRAME_HEADER_BYTES..).unwrap_or_default();
        let fragment = if frame.kind == HEADERS { strip(payload, frame.flags)? } else { payload };
        self.fragments.extend_from_slice(fragment);
        self.position = Position::FrameHeader;
        if frame.flags & END_HEADERS != 0 {
            return self.on_block(out);
        }
        // While deciding, all frames of the block are held, to be passed on as they came if the block is good.
        if self.mode == Mode::Deciding {
            self.frame_start = self.held.len();
        } else {
            self.held.clear();
        }
        Ok(())
    }

    /// Handles the complete open block, which is in `fragments`.
    fn on_block(&mut self, out: &mut BytesMut) -> Result<(), Fault> {
        let mut block = BytesMut::with_capacity(2 * self.fragments.len());
        let replaced = self.blocks.rewrite(&self.fragments, &mut block)?;
        // The first request is good, and a client sends one authority with all of its requests. So all later bytes
        // pass.
        if self.mode == Mode::Deciding && !replaced {
            self.pass(out);
            return Ok(());
        }
        self.mode = Mode::Rewriting;
        let open = self.open.take().expect("a block ends only after it began");
        put_block(open, &block, out);
        self.held.clear();
        self.frame_start = 0;
        self.fragments.clear();
        Ok(())
    }
}

impl Frame {
    /// Parses a frame header; `None` if `head` is too short.
    fn parse(head: &[u8]) -> Option<Self> {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *head.first_chunk::<FRAME_HEADER_BYTES>()?;
        Some(Self {
            len: usize::try_from(u32::from_be_bytes([0, l0, l1, l2])).ok()?,
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
        })
    }

    fn put(self, out: &mut BytesMut) {
        out.put_uint(u64::try_from(self.len).expect("a frame's length fits 24 bits"), 3);
        out.put_u8(self.kind);
        out.put_u8(self.flags);
        out.put_u32(self.stream);
    }
}

/// Appends `block` in as many frames as necessary, without padding and priority.
fn put_block(open: OpenBlock, block: &[u8], out: &mut BytesMut) {
    out.reserve(block.len() + (block.len() / MAX_FRAME_BYTES + 1) * FRAME_HEADER_BYTES);
    let mut rest = block;
    let mut kind = HEADERS;
    loop {
        // Only the block has to be the same. It need not be cut as the client has cut it.
        let fragment = take(&mut rest, MAX_FRAME_BYTES);
        let end_stream = if kind == HEADERS && open.end_stream { END_STREAM } else { 0 };
        let end_headers = if rest.is_empty() { END_HEADERS } else { 0 };
        Frame { len: fragment.len(), kind, flags: end_stream | end_headers, stream: open.stream }.put(out);
        out.extend_from_slice(fragment);
        if rest.is_empty() {
            return;
        }
        kind = CONTINUATION;
    }
}

/// The payload of a HEADERS frame without padding and priority.
fn strip(payload: &[u8], flags: u8) -> Result<&[u8], Fault> {
    let mut rest = payload;
    if flags & PADDED != 0 {
        let (&padding, padded) = rest.split_first().ok_or(Fault::Padding)?;
        let len = padded.len().checked_sub(usize::from(padding)).ok_or(Fault::Padding)?;
        rest = padded.get(..len).ok_or(Fault::Padding)?;
    }
    if flags & PRIORITY != 0 {
        rest = rest.get(5..).ok_or(Fault::Padding)?;
    }
    Ok(rest)
}

/// Splits up to `len` bytes off `input`.
fn take<'a>(input: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(len.min(input.len()));
    *input = rest;
    taken
}

fn after_untouched(remaining: usize) -> Position {
    if remaining == 0 { Position::FrameHeader } else { Position::Untouched { remaining } }
}

//! The captures are the bytes that grpcio 1.85 sent over `unix:/run/dstl.sock` (the second with
//! `grpc.default_authority` set): three `grpc.health.v1.Health/Check` and one bidirectional reflection stream of three
//! requests, against this server.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use bytes::BufMut as _;
use loona_hpack::Decoder;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::*;

const REFUSED: &[u8] = include_bytes!("../../../tests/fixtures/authority/grpcio-1.85-socket-path.bin");
const GOOD: &[u8] = include_bytes!("../../../tests/fixtures/authority/grpcio-1.85-localhost.bin");
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const MAX_BLOCK: usize = 64 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

#[derive(Debug, Clone, PartialEq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_uint(payload.len() as u64, 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
    out.extend_from_slice(payload);
    out
}

fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    assert_eq!(&bytes[..PREFACE.len()], PREFACE);
    bytes = &bytes[PREFACE.len()..];
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let len = bytes.get_uint(3) as usize;
        let (kind, flags, stream) = (bytes.get_u8(), bytes.get_u8(), bytes.get_u32());
        frames.push(Frame { kind, flags, stream, payload: bytes[..len].to_vec() });
        bytes = &bytes[len..];
    }
    frames
}

/// The header blocks of a connection, decoded in order, without CONTINUATION, padding and priority.
fn headers(bytes: &[u8]) -> Vec<(u32, Vec<(String, String)>)> {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let mut decoder = Decoder::new();
    frames(bytes)
        .into_iter()
        .filter(|frame| frame.kind == HEADERS)
        .map(|frame| {
            let fields = decoder.decode(&frame.payload).unwrap();
            (frame.stream, fields.into_iter().map(|(name, value)| (text(name), text(value))).collect())
        })
        .collect()
}

fn push_all<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> io::Result<Vec<u8>> {
    let mut rewriter = Rewriter::new();
    let mut out = BytesMut::new();
    for chunk in chunks {
        rewriter.push(chunk, &mut out)?;
    }
    rewriter.finish(&mut out);
    Ok(out.to_vec())
}

fn push(bytes: &[u8]) -> io::Result<Vec<u8>> {
    push_all([bytes])
}

fn field(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0, name.len() as u8];
    block.extend_from_slice(name.as_bytes());
    block.push(value.len() as u8);
    block.extend_from_slice(value.as_bytes());
    block
}

/// A connection that is being rewritten, after its first request on stream 1, which stays open.
fn refused_start() -> Vec<u8> {
    let block = [field(":method", "POST"), field(":authority", "run%2Fx.sock")].concat();
    [PREFACE.to_vec(), frame(4, 0, 0, &[]), frame(HEADERS, 0x4, 1, &block)].concat()
}

/// The rewritten form of [`refused_start`].
fn rewritten_start() -> Vec<u8> {
    let block = [field(":method", "POST"), field(":authority", "localhost")].concat();
    [PREFACE.to_vec(), frame(4, 0, 0, &[]), frame(HEADERS, 0x4, 1, &block)].concat()
}

#[test]
fn grpcio_with_a_socket_path_gets_localhost_and_keeps_all_else() {
    let out = push(REFUSED).unwrap();
    let (sent, seen) = (headers(REFUSED), headers(&out));
    assert_eq!(sent.len(), 4);
    let mut expected = sent;
    for (_, fields) in &mut expected {
        let authority = fields.iter_mut().find(|(name, _)| name == ":authority").unwrap();
        assert_eq!(authority.1, "run%2Fdstl.sock");
        authority.1 = "localhost".to_owned();
    }
    assert_eq!(seen, expected);
    let others = |bytes| frames(bytes).into_iter().filter(|frame| frame.kind != HEADERS).collect::<Vec<_>>();
    assert_eq!(others(&out), others(REFUSED));
    let order =
        |bytes| frames(bytes).into_iter().map(|frame| (frame.kind, frame.flags, frame.stream)).collect::<Vec<_>>();
    assert_eq!(order(&out), order(REFUSED));
}

#[test]
fn rewritten_blocks_touch_no_dynamic_table() {
    for frame in frames(&push(REFUSED).unwrap()).into_iter().filter(|frame| frame.kind == HEADERS) {
        // Each block decodes by itself, and only of literals without indexing.
        Decoder::new().decode(&frame.payload).unwrap();
        assert_eq!(frame.payload[0], 0);
    }
}

#[test]
fn a_good_authority_passes_byte_for_byte() {
    assert_eq!(push(GOOD).unwrap(), GOOD);
    let mut rewriter = Rewriter::new();
    rewriter.push(GOOD, &mut BytesMut::new()).unwrap();
    assert!(rewriter.is_passing());
}

#[test]
fn no_authority_passes_byte_for_byte() {
    let bytes = [PREFACE.to_vec(), frame(HEADERS, 0x4, 1, &field(":method", "POST")), vec![7; 100]].concat();
    assert_eq!(push(&bytes).unwrap(), bytes);
}

#[test]
fn it_does_not_matter_where_the_bytes_are_cut() {
    for capture in [REFUSED, GOOD] {
        let whole = push(capture).unwrap();
        for at in 0..=capture.len() {
            let (one, two) = capture.split_at(at);
            assert_eq!(push_all([one, two]).unwrap(), whole, "cut at {at}");
        }
        assert_eq!(push_all(capture.chunks(1)).unwrap(), whole);
    }
}

#[test]
fn settings_are_given_before_the_first_request_is_whole() {
    let mut rewriter = Rewriter::new();
    let mut out = BytesMut::new();
    let start = refused_start();
    let settings_end = PREFACE.len() + 9;
    rewriter.push(&start[..start.len() - 1], &mut out).unwrap();
    assert_eq!(out, &start[..settings_end]);
}

#[test]
fn padding_priority_and_continuation_are_understood_and_removed() {
    let block = [field(":method", "POST"), field(":authority", "/run/x.sock")].concat();
    let (first, second) = block.split_at(7);
    let padded = [&[3, 0, 0, 0, 0, 16][..], first, &[0; 3]].concat();
    let bytes = [
        PREFACE.to_vec(),
        frame(4, 0, 0, &[]),
        frame(HEADERS, 0x1 | 0x8 | 0x20, 1, &padded),
        frame(CONTINUATION, 0, 1, second),
        frame(CONTINUATION, 0x4, 1, &[]),
    ]
    .concat();
    let mut expected = rewritten_start();
    expected[PREFACE.len() + 9 + 4] |= 0x1;
    assert_eq!(push_all(bytes.chunks(1)).unwrap(), expected);
}

#[test]
fn trailers_keep_the_end_of_their_stream() {
    let trailers = frame(HEADERS, 0x5, 1, &field("x", "y"));
    let bytes = [refused_start(), frame(DATA, 0, 1, b"abc"), trailers.clone()].concat();
    let expected = [rewritten_start(), frame(DATA, 0, 1, b"abc"), trailers].concat();
    assert_eq!(push(&bytes).unwrap(), expected);
}

#[test]
fn later_good_authorities_of_a_rewritten_connection_stay() {
    let good = frame(HEADERS, 0x4, 3, &field(":authority", "host:1"));
    assert_eq!(push(&[refused_start(), good.clone()].concat()).unwrap(), [rewritten_start(), good].concat());
}

#[test]
fn blocks_beyond_one_frame_are_continued() {
    let block: Vec<u8> = (0..180).flat_map(|_| field("name", &"v".repeat(120))).collect();
    let (first, second) = block.split_at(16_384);
    let bytes = [refused_start(), frame(HEADERS, 0x1, 3, first), frame(CONTINUATION, 0x4, 3, second)].concat();
    assert_eq!(push(&bytes).unwrap(), [rewritten_start(), bytes[refused_start().len()..].to_vec()].concat());
}

#[test]
fn what_cannot_be_followed_ends_a_rewritten_connection() {
    let half = frame(HEADERS, 0, 3, &field("x", "y"));
    let too_large = [half.clone(), frame(CONTINUATION, 0, 3, &[0; 16_384]).repeat(4)].concat();
    let endless = [half.clone(), frame(CONTINUATION, 0, 3, &[]).repeat(MAX_BLOCK / 9)].concat();
    for (bad, message) in [
        (frame(HEADERS, 0x4, 3, &[0xff]), "undecodable header block"),
        (frame(HEADERS, 0x4, 3, &[0xbe]), "undecodable header block"),
        (frame(HEADERS, 0x4 | 0x8, 3, &[9, 0]), "padding or priority"),
        (frame(HEADERS, 0x4 | 0x8, 3, &[]), "padding or priority"),
        (frame(HEADERS, 0x4 | 0x20, 3, &[0; 4]), "padding or priority"),
        ([half.clone(), frame(DATA, 0, 3, b"")].concat(), "header block of stream `3` interrupted"),
        ([half.clone(), frame(CONTINUATION, 0x4, 5, b"")].concat(), "header block of stream `3` interrupted"),
        (too_large, "more than 65536 bytes"),
        (endless, "more than 65536 bytes"),
    ] {
        let error = push(&[refused_start(), bad].concat()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn what_cannot_be_followed_before_the_decision_is_left_to_the_server() {
    let refused = field(":authority", "a%2Fb");
    let half = frame(HEADERS, 0, 1, &refused);
    for bytes in [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nXX".to_vec(),
        [PREFACE.to_vec(), half.clone(), frame(DATA, 0, 1, b"x"), vec![1; 50]].concat(),
        [PREFACE.to_vec(), half.clone(), frame(CONTINUATION, 0, 1, &[0; 16_384]).repeat(5)].concat(),
        [PREFACE.to_vec(), half.clone(), frame(CONTINUATION, 0, 1, &[]).repeat(MAX_BLOCK / 9)].concat(),
        [PREFACE.to_vec(), frame(HEADERS, 0x4, 1, &[0xff, 0xff]), vec![1; 50]].concat(),
        [PREFACE.to_vec(), half].concat(),
    ] {
        assert_eq!(push(&bytes).unwrap(), bytes);
        assert_eq!(push_all(bytes.chunks(1)).unwrap(), bytes);
    }
}

#[tokio::test]
async fn reading_gives_the_same_bytes_whatever_the_buffers() {
    let data = frame(DATA, 0, 1, &(0..16_384_u32).map(|i| i as u8).collect::<Vec<_>>()).repeat(20);
    for (start, seen) in [(refused_start(), rewritten_start()), (GOOD.to_vec(), GOOD.to_vec())] {
        let (sent, expected) = ([start, data.clone()].concat(), [seen, data.clone()].concat());
        for (pipe, buffer) in [(1 << 20, 1 << 20), (100_000, 8192), (5000, 100_000), (7, 333), (64, 1)] {
            let (mut client, server) = tokio::io::duplex(pipe);
            let sent = sent.clone();
            tokio::spawn(async move { client.write_all(&sent).await.unwrap() });
            let mut stream = AuthorityStream::new(server);
            let mut out = Vec::new();
            let mut chunk = vec![0; buffer];
            loop {
                let read = stream.read(&mut chunk).await.unwrap();
                if read == 0 {
                    break;
                }
                out.extend_from_slice(&chunk[..read]);
            }
            assert!(out == expected, "pipe {pipe}, buffer {buffer}");
        }
    }
}

#[tokio::test]
async fn nothing_is_kept_of_a_good_connection() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    client.write_all(GOOD).await.unwrap();
    let mut stream = AuthorityStream::new(server);
    let mut out = vec![0; GOOD.len()];
    stream.read_exact(&mut out).await.unwrap();
    assert!(stream.inbound.is_none());
    client.write_all(b"whatever").await.unwrap();
    let mut rest = [0; 8];
    stream.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"whatever");
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(DATA), Just(HEADERS), Just(CONTINUATION), any::<u8>()];
    (kind, any::<u8>(), 0..4_u32, prop::collection::vec(any::<u8>(), 0..60))
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}

proptest! {
    #[test]
    fn random_cuts_change_nothing(cuts in prop::collection::vec(0..REFUSED.len(), 0..20)) {
        let mut cuts = cuts;
        cuts.extend([0, REFUSED.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|cut| &REFUSED[cut[0]..cut[1]]);
        prop_assert_eq!(push_all(chunks).unwrap(), push(REFUSED).unwrap());
    }

    #[test]
    fn random_frames_never_panic_and_are_cut_anyhow(
        frames in prop::collection::vec(any_frame(), 0..20),
        size in 1..50_usize,
        refused in any::<bool>(),
    ) {
        let start = if refused { refused_start() } else { PREFACE.to_vec() };
        let bytes = [start, frames.concat()].concat();
        let (whole, cut) = (push(&bytes), push_all(bytes.chunks(size)));
        match whole {
            Ok(whole) => prop_assert_eq!(cut.unwrap(), whole),
            Err(error) => prop_assert_eq!(cut.unwrap_err().to_string(), error.to_string()),
        }
    }

    #[test]
    fn random_bytes_never_panic_and_pass_unless_a_request_was_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        preface in any::<bool>(),
    ) {
        let bytes = if preface { [PREFACE.to_vec(), bytes].concat() } else { bytes };
        prop_assert_eq!(push(&bytes).unwrap(), bytes);
    }

    #[test]
    fn damaged_captures_never_panic(at in 0..REFUSED.len(), with in any::<u8>(), size in 1..100_usize) {
        let mut bytes = REFUSED.to_vec();
        bytes[at] = with;
        let _ = push_all(bytes.chunks(size));
    }
}

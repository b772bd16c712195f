//! One HPACK header block (RFC 7541), decoded and encoded again without state.

use std::fmt;

use bytes::{BufMut as _, BytesMut};
use loona_hpack::{Decoder, decoder::DecoderError};
use tonic::codegen::http::uri::Authority;

use super::huffman;

/// Largest header block in bytes, as received and as encoded again.
pub(super) const MAX_BLOCK_BYTES: usize = 64 * 1024;

/// Most fields of a block. h2's own limit of a header list (16 KiB, counting 32 extra bytes per field) allows no more.
/// It bounds the time of decoding.
const MAX_FIELDS: usize = 512;

/// The replacement for a refused `:authority`.
const REPLACEMENT: &[u8] = b"localhost";

/// Size of the dynamic table that clients may use. h2 offers the protocol's default, and the server does not change it.
const TABLE_BYTES: usize = 4096;

/// A header block that cannot be encoded again.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum BlockError {
    #[error("undecodable header block: {0}")]
    Undecodable(DecoderError),
    #[error("header block of more than {MAX_BLOCK_BYTES} bytes")]
    TooLarge,
    #[error("header block of more than {MAX_FIELDS} fields")]
    TooManyFields,
}

/// The header blocks of one connection, in the client's order.
pub(super) struct Blocks(Decoder<'static>);

impl Blocks {
    pub(super) fn new() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE_BYTES);
        Self(decoder)
    }

    /// Decodes `block` and appends its fields to `out` as literals without indexing; every `:authority` that h2 would
    /// refuse is replaced. Returns whether there was one.
    pub(super) fn rewrite(&mut self, block: &[u8], out: &mut BytesMut) -> Result<bool, BlockError> {
        // Counted before decoding: a byte may stand for a field of the table, and decoding takes time by fields.
        if fields_up_to(block, MAX_FIELDS + 1) > MAX_FIELDS {
            return Err(BlockError::TooManyFields);
        }
        let start = out.len();
        let mut replaced = false;
        let mut too_large = false;
        let mut plain = BytesMut::with_capacity(2 * block.len());
        huffman::uncode(block, &mut plain);
        let decoded = self.0.decode_with_cb(&plain, |name, value| {
            let refused = &*name == b":authority" && Authority::try_from(&*value).is_err();
            replaced |= refused;
            let value = if refused { REPLACEMENT } else { &*value };
            // A block of references to one large table entry decodes to many more bytes than it has.
            too_large |= out.len() - start + name.len() + value.len() > MAX_BLOCK_BYTES;
            if !too_large {
                put_literal(&name, value, out);
            }
        });
        decoded.map_err(BlockError::Undecodable)?;
        if too_large { Err(BlockError::TooLarge) } else { Ok(replaced) }
    }
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blocks")
    }
}

/// Counts the fields (and table size updates) of a block without decoding them, up to `limit` or the first malformed
/// one.
fn fields_up_to(mut block: &[u8], limit: usize) -> usize {
    let mut fields = 0;
    while fields < limit && !block.is_empty() && skip_field(&mut block).is_some() {
        fields += 1;
    }
    fields
}

/// Skips one of the representations of RFC 7541, 6.
fn skip_field(block: &mut &[u8]) -> Option<()> {
    let first = *block.first()?;
    if first & 0x80 != 0 {
        integer(block, 0x7f)?;
        return Some(());
    }
    if first & 0xe0 == 0x20 {
        integer(block, 0x1f)?;
        return Some(());
    }
    let indexed_name = integer(block, if first & 0x40 != 0 { 0x3f } else { 0x0f })? != 0;
    for _ in 0..if indexed_name { 1 } else { 2 } {
        let len = integer(block, 0x7f)?;
        *block = block.get(len..)?;
    }
    Some(())
}

/// Takes an integer (RFC 7541, 5.1). Its first octet holds it in the bits of `prefix`, or has ones in all of them.
pub(super) fn integer(block: &mut &[u8], prefix: u8) -> Option<usize> {
    let (&first, rest) = block.split_first()?;
    *block = rest;
    let mut value = usize::from(first & prefix);
    if first & prefix < prefix {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let (&octet, rest) = block.split_first()?;
        *block = rest;
        value += usize::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A literal header field without indexing, with a new name (RFC 7541, 6.2.2).
fn put_literal(name: &[u8], value: &[u8], out: &mut BytesMut) {
    out.put_u8(0);
    put_string(name, out);
    put_string(value, out);
}

/// A string literal without Huffman coding (RFC 7541, 5.2).
pub(super) fn put_string(string: &[u8], out: &mut BytesMut) {
    const PREFIX_MAX: usize = 0x7f;
    if string.len() < PREFIX_MAX {
        out.put_u8(low_bits(string.len()));
    } else {
        out.put_u8(low_bits(PREFIX_MAX));
        let mut rest = string.len() - PREFIX_MAX;
        while rest > PREFIX_MAX {
            out.put_u8(0x80 | low_bits(rest));
            rest >>= 7;
        }
        out.put_u8(low_bits(rest));
    }
    out.put_slice(string);
}

/// The seven lowest bits.
fn low_bits(number: usize) -> u8 {
    u8::try_from(number & 0x7f).expect("seven bits fit a byte")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    fn fields(block: &[u8]) -> Fields {
        Decoder::new().decode(block).unwrap()
    }

    fn rewritten(block: &[u8]) -> (bool, Fields) {
        let mut out = BytesMut::new();
        let replaced = Blocks::new().rewrite(block, &mut out).unwrap();
        (replaced, fields(&out))
    }

    fn field(name: &[u8], value: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        put_literal(name, value, &mut out);
        out
    }

    #[test]
    fn strings_of_every_length_class_survive() {
        for len in [0, 1, 126, 127, 128, 254, 255, 256, 16_000, 16_510, 16_511, 40_000] {
            let value = vec![b'v'; len];
            assert_eq!(fields(&field(b"x", &value)), [(b"x".to_vec(), value)], "{len}");
        }
    }

    #[test]
    fn replaces_what_is_no_authority_and_nothing_else() {
        for (authority, refused) in [
            ("localhost", false),
            ("host.example:50051", false),
            ("[::1]:50051", false),
            ("x.sock", false),
            ("run%2Fdstl.sock", true),
            ("/run/dstl.sock", true),
            ("", true),
            ("a b", true),
        ] {
            let (replaced, fields) = rewritten(&field(b":authority", authority.as_bytes()));
            assert_eq!(replaced, refused, "{authority}");
            let expected = if refused { "localhost" } else { authority };
            assert_eq!(fields, [(b":authority".to_vec(), expected.as_bytes().to_vec())]);
        }
        assert_eq!(rewritten(&field(b":path", b"/a%2Fb")).1, [(b":path".to_vec(), b"/a%2Fb".to_vec())]);
    }

    #[test]
    fn decodes_indexed_and_huffman_coded_fields() {
        // RFC 7541, C.4.1: a request with Huffman coding, `www.example.com`.
        let block =
            [0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        let (replaced, fields) = rewritten(&block);
        assert!(!replaced);
        assert_eq!(fields[3], (b":authority".to_vec(), b"www.example.com".to_vec()));
    }

    #[test]
    fn refuses_blocks_that_decode_to_too_much() {
        let mut block = BytesMut::new();
        block.put_slice(&[0x40, 0x01, b'x', 0x7f, 0x81, 0x1e]); // 3 968 bytes, into the table
        block.put_bytes(b'v', 3968);
        block.put_bytes(0xbe, 500); // five hundred times the entry
        let mut out = BytesMut::new();
        assert_eq!(Blocks::new().rewrite(&block, &mut out), Err(BlockError::TooLarge));
        assert!(out.len() <= 2 * MAX_BLOCK_BYTES);
    }

    #[test]
    fn refuses_blocks_of_too_many_fields_before_decoding_them() {
        let field = [0x00, 0x81, 0x1f, 0x81, 0x1f];
        let rewrite = |fields| Blocks::new().rewrite(&field.repeat(fields), &mut BytesMut::new());
        assert_eq!(rewrite(MAX_FIELDS), Ok(false));
        assert_eq!(rewrite(MAX_FIELDS + 1), Err(BlockError::TooManyFields));
    }

    #[test]
    fn counts_every_kind_of_field() {
        let long = [&[0x0f, 0x80, 0x01, 0x7f, 0x01][..], &[b'v'; 128]].concat(); // name 143, value of 128 bytes
        let block =
            [&[0x82, 0xff, 0x00, 0x3f, 0xe1, 0x1f][..], &field(b"x", b"y"), &long, &[0x41, 0x00, 0x10, 0x00, 0x00]];
        assert_eq!(fields_up_to(&block.concat(), 100), 7);
        assert_eq!(fields_up_to(&block.concat(), 3), 3);
        assert_eq!(fields_up_to(&[0x00, 0x7f], 100), 0);
    }

    #[test]
    fn refuses_a_larger_table_than_was_offered() {
        let grow = [0x3f, 0xe2, 0x1f, 0x82]; // dynamic table size update to 4 097, then a field
        let error = Blocks::new().rewrite(&grow, &mut BytesMut::new()).unwrap_err();
        assert_eq!(error, BlockError::Undecodable(DecoderError::InvalidMaxDynamicSize));
        let keep = [0x3f, 0xe1, 0x1f, 0x82];
        assert_eq!(Blocks::new().rewrite(&keep, &mut BytesMut::new()), Ok(false));
    }
}

//! Huffman-coded strings of HPACK (RFC 7541, 5.2), replaced by plain ones.
//!
//! The decoder of header blocks builds its code table again for every such string, which takes a hundred times as long
//! as decoding it. So a block goes through here first. This table is built once per process, and the decoder sees no
//! coded strings.
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, and the first code of a
//! length follows the last one of the length before. So the lengths determine the whole code.

use std::sync::LazyLock;

use bytes::BytesMut;

use super::block::{integer, put_string};

/// Code length in bits of each octet (RFC 7541, appendix B).
#[rustfmt::skip]
const BITS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// Length in bits of the longest code of an octet. The last code of this length is the end of a string, which must not
/// be written.
const LONGEST: usize = 30;

/// Most bits that may pad the last octet; all of them are ones.
const PADDING_BITS: usize = 7;

/// The codes of one length.
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    first_code: u32,
    /// Index of their first symbol, in the order of all codes.
    first_symbol: usize,
    codes: u32,
}

/// The code by length.
#[derive(Debug)]
struct Code {
    symbols: Vec<u8>,
    levels: [Level; LONGEST + 1],
}

static CODE: LazyLock<Code> = LazyLock::new(Code::new);

impl Code {
    fn new() -> Self {
        let mut code = Self { symbols: Vec::with_capacity(BITS.len()), levels: [Level::default(); LONGEST + 1] };
        let mut next = 0;
        for (bits, level) in code.levels.iter_mut().enumerate() {
            // Codes of one length follow the last one of the length before, with one more bit.
            next <<= 1;
            let first_symbol = code.symbols.len();
            code.symbols.extend((0..=u8::MAX).zip(BITS).filter(|(_, it)| usize::from(*it) == bits).map(|(it, _)| it));
            let codes = u32::try_from(code.symbols.len() - first_symbol).expect("there are 256 octets");
            *level = Level { first_code: next, first_symbol, codes };
            next += codes;
        }
        code
    }

    /// Decodes `coded` and appends the result. `None` if it is malformed.
    fn decode(&self, coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let (mut code, mut bits) = (0_u32, 0);
        for octet in coded {
            for shift in (0..8).rev() {
                code = code << 1 | u32::from(octet >> shift & 1);
                bits += 1;
                let level = self.levels.get(bits)?;
                // A code below the first one of its length wraps around, to a place that is far too high.
                let place = code.wrapping_sub(level.first_code);
                if place < level.codes {
                    out.push(*self.symbols.get(level.first_symbol + place as usize)?);
                    (code, bits) = (0, 0);
                }
            }
        }
        let is_padding = bits <= PADDING_BITS && code == (1 << bits) - 1;
        is_padding.then_some(())
    }
}

/// Appends `block` to `out`, with every Huffman-coded string decoded. From the first malformed field on, the bytes are
/// appended unchanged; the decoder then reports the fault.
pub(super) fn uncode(mut block: &[u8], out: &mut BytesMut) {
    let mut plain = Vec::new();
    while !block.is_empty() {
        let (field, start) = (block, out.len());
        if uncode_field(&mut block, &mut plain, out).is_none() {
            // The decoder gets the malformed field as it came, so the client is told the fault that its bytes have.
            out.truncate(start);
            out.extend_from_slice(field);
            return;
        }
    }
}

/// Handles one of the representations of RFC 7541, 6.
fn uncode_field(block: &mut &[u8], plain: &mut Vec<u8>, out: &mut BytesMut) -> Option<()> {
    let field = *block;
    let first = *field.first()?;
    let (prefix, is_literal) = match first {
        0x80.. => (0x7f, false),
        0x40..=0x7f => (0x3f, true),
        0x20..=0x3f => (0x1f, false),
        _ => (0x0f, true),
    };
    let name = integer(block, prefix)?;
    out.extend_from_slice(field.get(..field.len() - block.len())?);
    let strings = match (is_literal, name) {
        (false, _) => 0,
        (true, 0) => 2,
        (true, _) => 1,
    };
    for _ in 0..strings {
        let is_coded = block.first()? & 0x80 != 0;
        let len = integer(block, 0x7f)?;
        let (string, rest) = block.split_at_checked(len)?;
        *block = rest;
        if is_coded {
            plain.clear();
            CODE.decode(string, plain)?;
            put_string(plain, out);
        } else {
            put_string(string, out);
        }
    }
    Some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::time::{Duration, Instant};

    use loona_hpack::huffman::HuffmanDecoder;
    use proptest::prelude::*;

    use super::*;

    fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![];
        CODE.decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        let block = [0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&block[2..]).unwrap(), b"www.example.com");
        let mut out = BytesMut::new();
        uncode(&[&[0x82][..], &block].concat(), &mut out);
        assert_eq!(out, [&[0x82, 0x41, 15][..], b"www.example.com"].concat());
    }

    #[test]
    fn what_is_malformed_is_left_to_the_decoder() {
        for block in [&[0x41, 0x81][..], &[0x00, 0x81, 0x00], &[0x41, 0x81, 0x1e], &[0x40]] {
            let mut out = BytesMut::new();
            uncode(&[&[0x82][..], block].concat(), &mut out);
            assert_eq!(out, [&[0x82][..], block].concat(), "{block:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_read_as_the_decoder_reads_them(coded in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(decoded(&coded), HuffmanDecoder::new().decode(&coded).ok());
        }
    }

    #[test]
    fn a_block_full_of_coded_strings_costs_little() {
        let block = [0x00, 0x81, 0x1f, 0x81, 0x1f].repeat(400);
        let mut least = Duration::MAX;
        for _ in 0..20 {
            let (started, mut out) = (Instant::now(), BytesMut::new());
            uncode(&block, &mut out);
            least = least.min(started.elapsed());
            assert_eq!(out.len(), block.len());
        }
        assert!(least < Duration::from_millis(1), "{least:?} for {} octets", block.len());
    }
}

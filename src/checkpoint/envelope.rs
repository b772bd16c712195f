//! The envelope of small durable objects: it tells their kind and detects damage.
//!
//! ```text
//!   0        8         12        16              16+n      20+n
//!   │ magic  │ version │ n       │ n bytes       │ crc     │
//!   │ 8 byte │ u32     │ u32     │ protobuf      │ u32     │     CRC-32 of all bytes before it
//! ```
//!
//! Numbers are little-endian.

mod weight;

use bytes::Bytes;

/// The kind of message in an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The manifest of a backend.
    Manifest,
    /// A page of a log index.
    Page,
    /// A record of a job's chain.
    JobRecord,
    /// A task's report of its part of a checkpoint.
    Report,
    /// A checkpoint handle.
    Handle,
    /// The index of a materialization.
    BaseIndex,
    /// The pin of a reader.
    Pin,
}

impl Kind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Manifest => b"DSTLMANI",
            Self::Page => b"DSTLPAGE",
            Self::JobRecord => b"DSTLJOBR",
            Self::Report => b"DSTLREPT",
            Self::Handle => b"DSTLHAND",
            Self::BaseIndex => b"DSTLBASE",
            Self::Pin => b"DSTLPINS",
        }
    }
}

/// The version that this code writes, and the highest that it reads.
const VERSION: u32 = 1;

const HEADER_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

/// Bytes that are not an envelope of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The bytes do not begin with the magic of this kind.
    #[error("offset 0: does not begin with `{expected}`")]
    Magic {
        /// The magic of this kind.
        expected: &'static str,
    },
    /// A later version wrote them.
    #[error("offset 8: format version {0}, this program reads up to {VERSION}")]
    Version(u32),
    /// There are too few or too many bytes.
    #[error("offset 12: {actual} bytes, the header says {expected}")]
    Length {
        /// Bytes that should be there.
        expected: usize,
        /// Bytes that are there.
        actual: usize,
    },
    /// The bytes are damaged.
    #[error("checksum over bytes 0..{covered} is {actual:08x}, recorded is {expected:08x}")]
    Checksum {
        /// Bytes that the checksum covers.
        covered: usize,
        /// The recorded checksum.
        expected: u32,
        /// The checksum of the bytes that were found.
        actual: u32,
    },
    /// The checksum matches, but this version never writes such contents.
    #[error("contents: {0}")]
    Contents(String),
}

/// Wraps `message` in an envelope.
#[must_use]
pub fn seal(kind: Kind, message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = Vec::with_capacity(HEADER_BYTES + length + CRC_BYTES);
    out.extend_from_slice(kind.magic());
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&u32::try_from(length).expect("small objects stay far below 4 GiB").to_le_bytes());
    message.encode(&mut out).expect("a vector grows");
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.into()
}

/// Checks an envelope and decodes its message.
///
/// # Errors
/// [`EnvelopeError`] names the fault and its offset.
pub fn open<M: prost::Message + Default>(kind: Kind, bytes: &[u8]) -> Result<M, EnvelopeError> {
    let magic = kind.magic();
    let expected_magic = || EnvelopeError::Magic { expected: std::str::from_utf8(magic).unwrap_or("?") };
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or_else(expected_magic)?;
    if !header.starts_with(magic) {
        return Err(expected_magic());
    }
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    // Before length and checksum, whose places a later version may move.
    let version = word(8);
    if version == 0 || version > VERSION {
        return Err(EnvelopeError::Version(version));
    }
    let length = word(12) as usize;
    // Exactly as long as the header says: bytes after the checksum would be covered by nothing.
    let expected = HEADER_BYTES.saturating_add(length).saturating_add(CRC_BYTES);
    if bytes.len() != expected {
        return Err(EnvelopeError::Length { expected, actual: bytes.len() });
    }
    let covered = HEADER_BYTES + length;
    let body = bytes.get(..covered).unwrap_or_default();
    let (recorded, actual) = (word(covered), crc32fast::hash(body));
    if recorded != actual {
        return Err(EnvelopeError::Checksum { covered, expected: recorded, actual });
    }
    let payload = body.get(HEADER_BYTES..).unwrap_or_default();
    // Before decoding: a few bytes per empty element become hundreds in memory, so a small forged object could take
    // gigabytes.
    if !weight::is_bearable(kind, payload) {
        return Err(EnvelopeError::Contents("more elements than its bytes can have: empty ones".to_owned()));
    }
    M::decode(payload).map_err(|error| EnvelopeError::Contents(error.to_string()))
}

/// The checksum at the end of an envelope; 0 if the bytes are too few to have one.
#[must_use]
pub fn crc_of(envelope: &[u8]) -> u32 {
    envelope.last_chunk().map_or(0, |crc| u32::from_le_bytes(*crc))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::proto::store::CheckpointName;

    fn sample() -> CheckpointName {
        CheckpointName { epoch: 3, id: 17, uuid: Bytes::from_static(&[7; 16]) }
    }

    #[test]
    fn has_the_documented_bytes() {
        let sealed = seal(Kind::Handle, &sample());
        let mut expected = b"DSTLHAND\x01\0\0\0\x16\0\0\0\x08\x03\x10\x11\x1a\x10".to_vec();
        expected.extend([7; 16]);
        expected.extend(crc32fast::hash(&expected).to_le_bytes());
        assert_eq!(sealed, expected);
        assert_eq!(open::<CheckpointName>(Kind::Handle, &sealed), Ok(sample()));
        assert_eq!(crc_of(&sealed), crc32fast::hash(&expected[..expected.len() - 4]));
    }

    #[test]
    fn detects_every_flipped_bit_and_every_cut() {
        let sealed = seal(Kind::Manifest, &sample());
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open::<CheckpointName>(Kind::Manifest, &damaged).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(open::<CheckpointName>(Kind::Manifest, &sealed[..length]).is_err(), "length {length}");
        }
        assert!(open::<CheckpointName>(Kind::Page, &sealed).is_err(), "another kind");
    }
}

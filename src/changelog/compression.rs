//! Compression of single blocks: none, lz4 (block format) or zstd (a frame, level 1).
//!
//! A block that does not shrink is stored uncompressed, so readers look at the block's own record and not at an option.
//! Decompression allocates the recorded length, which is at most [`MAX_BLOCK_BYTES`], and only if the stored bytes can
//! become that many.

use bytes::Bytes;

use super::block::MAX_BLOCK_BYTES;
use crate::setting::words;

/// The level of zstd, which is the fastest of the regular ones: a log is read once, if ever.
const ZSTD_LEVEL: i32 = 1;

/// Most bytes that one byte of an LZ4 block can become (it lengthens a match), and bytes to add for the first ones.
const LZ4_GAIN: (u64, u64) = (255, 64);

words! {
    /// The compression of a block.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub enum Compression {
        /// The bytes as they are.
        #[default]
        None = "none",
        /// LZ4 block format, without a size in front.
        Lz4 = "lz4",
        /// One zstd frame.
        Zstd = "zstd",
    }
}

/// A stored block that cannot be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The block has more bytes than any block may have.
    #[error("a block of {0} bytes, where {MAX_BLOCK_BYTES} are allowed")]
    TooLarge(usize),
    /// The stored bytes are not such a block, or decompress to more bytes than recorded.
    #[error("no {0:?} block, or one of more bytes than recorded")]
    Undecodable(Compression),
    /// The block has fewer bytes than recorded.
    #[error("a block of {found} bytes, {expected} recorded")]
    Length {
        /// The recorded length.
        expected: usize,
        /// The length after decompression.
        found: usize,
    },
}

impl Compression {
    /// Its number in the segment format.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    /// The inverse of [`code`](Self::code).
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Compresses `block` if that makes it smaller; returns the compression that was used. [`Compression::None`] does
    /// not copy.
    #[must_use]
    pub fn compress(self, block: &Bytes) -> (Self, Bytes) {
        let compressed = match self {
            Self::None => None,
            Self::Lz4 => Some(lz4_flex::block::compress(block)),
            Self::Zstd => zstd::bulk::compress(block, ZSTD_LEVEL).ok(),
        };
        match compressed {
            // Not `<=`: `check` refuses a compressed block that did not become shorter.
            Some(mut smaller) if smaller.len() < block.len() => {
                // The encoders reserve for the worst case, and the segment keeps these bytes until its upload has
                // ended.
                smaller.shrink_to_fit();
                (self, smaller.into())
            }
            _ => (Self::None, block.clone()),
        }
    }

    /// Checks that `stored` bytes can be a block of `length` bytes.
    ///
    /// # Errors
    /// The reason why they cannot.
    pub fn check(self, stored: u64, length: u64) -> Result<(), &'static str> {
        let is_possible = match self {
            Self::None => stored == length,
            Self::Lz4 => stored < length && length <= stored * LZ4_GAIN.0 + LZ4_GAIN.1,
            Self::Zstd => stored < length,
        };
        if !is_possible || length == 0 || length > MAX_BLOCK_BYTES as u64 {
            return Err("lengths that no block has");
        }
        Ok(())
    }

    /// Decompresses a block that was stored as `stored` and has exactly `length` bytes. [`Compression::None`] does not
    /// copy.
    ///
    /// # Errors
    /// If the stored bytes are not such a block.
    pub fn decompress(self, stored: &Bytes, length: usize) -> Result<Bytes, CompressionError> {
        if length > MAX_BLOCK_BYTES {
            return Err(CompressionError::TooLarge(length));
        }
        let undecodable = CompressionError::Undecodable(self);
        let (gain, more) = LZ4_GAIN;
        // The recorded length is checked against the stored bytes before memory of that length is taken. Otherwise a
        // forged handle of few bytes would make a reader allocate a gigabyte.
        let may_be = match self {
            Self::None => true,
            Self::Lz4 => length as u64 <= stored.len() as u64 * gain + more,
            // Frames are always written with the size of their contents.
            Self::Zstd => zstd::zstd_safe::get_frame_content_size(stored)
                .is_ok_and(|size| size.is_none_or(|size| size == length as u64)),
        };
        if !may_be {
            return Err(undecodable);
        }
        let block: Bytes = match self {
            Self::None => stored.clone(),
            Self::Lz4 => lz4_flex::block::decompress(stored, length).map_err(|_| undecodable)?.into(),
            Self::Zstd => zstd::bulk::decompress(stored, length).map_err(|_| undecodable)?.into(),
        };
        if block.len() == length {
            Ok(block)
        } else {
            Err(CompressionError::Length { expected: length, found: block.len() })
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

    proptest! {
        #[test]
        fn round_trips_whatever_it_is(block in prop::collection::vec(0..4u8, 0..5_000)) {
            let block = Bytes::from(block);
            for wanted in ALL {
                let (used, stored) = wanted.compress(&block);
                prop_assert!(stored.len() <= block.len());
                prop_assert_eq!(used.decompress(&stored, block.len()).unwrap(), block.clone());
                prop_assert_eq!(Compression::from_code(used.code()), Some(used));
            }
        }

        #[test]
        fn garbage_is_refused_without_a_panic(stored in prop::collection::vec(any::<u8>(), 0..300), length in 0..10_000usize) {
            for compression in ALL {
                if let Ok(block) = compression.decompress(&stored.clone().into(), length) {
                    prop_assert_eq!(block.len(), length);
                }
            }
        }
    }

    #[test]
    fn never_decompresses_to_more_than_recorded() {
        let block = Bytes::from(vec![7; 100_000]);
        for wanted in [Compression::Lz4, Compression::Zstd] {
            let (used, stored) = wanted.compress(&block);
            assert_eq!(used, wanted);
            assert!(stored.len() < 1_000);
            assert_eq!(used.decompress(&stored, 99_999), Err(CompressionError::Undecodable(used)));
            assert!(used.decompress(&stored, 100_001).is_err());
            assert_eq!(used.decompress(&stored, MAX_BLOCK_BYTES), Err(CompressionError::Undecodable(used)), "at once");
            let too_large = MAX_BLOCK_BYTES + 1;
            assert_eq!(used.decompress(&stored, too_large), Err(CompressionError::TooLarge(too_large)));
        }
    }

    #[test]
    fn what_does_not_shrink_is_stored_as_it_is() {
        let block = Bytes::from_static(b"abc");
        for wanted in ALL {
            assert_eq!(wanted.compress(&block), (Compression::None, block.clone()));
        }
    }
}

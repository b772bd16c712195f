//! Varints over vectors and slices, including padded ones.

/// Most bytes of a varint.
const MAX_BYTES: usize = 10;

/// Appends `value` with as few bytes as possible.
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_bits(value) | 0x80);
        value >>= 7;
    }
    out.push(low_bits(value));
}

/// Number of bytes that [`put`] takes for `value`: 1 to 10.
pub(super) fn width(value: u64) -> usize {
    // `| 1`, because 0 takes a byte, too.
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Fills `slot`, at least [`width`] and at most ten bytes, with `value`, padded.
pub(super) fn fill(slot: &mut [u8], mut value: u64) {
    debug_assert!((width(value)..=MAX_BYTES).contains(&slot.len()), "{value} in {} bytes", slot.len());
    if let Some((last, front)) = slot.split_last_mut() {
        for byte in front {
            *byte = low_bits(value) | 0x80;
            value >>= 7;
        }
        *last = low_bits(value);
    }
}

/// Takes one varint off the front of `bytes`; `None` if there is none, and `bytes` is undefined then.
#[inline]
pub(super) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    *bytes = rest;
    // Most varints are one byte, so the loop is kept out of the inlined part.
    if first < 0x80 { Some(u64::from(first)) } else { take_more(first, bytes) }
}

fn take_more(first: u8, bytes: &mut &[u8]) -> Option<u64> {
    let mut value = u64::from(first & 0x7f);
    for index in 1..MAX_BYTES {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * index;
        // The tenth byte has room for one bit of a u64. Bits beyond would be lost, and another number returned.
        if (bits << shift) >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Maps small differences of either sign to small numbers.
pub(super) fn zigzag(difference: i64) -> u64 {
    ((difference << 1) ^ (difference >> 63)).cast_unsigned()
}

/// The inverse of [`zigzag`].
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

fn low_bits(value: u64) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low & 0x7f
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_in_every_width() {
        for shift in 0..64 {
            for value in [(1u64 << shift) - 1, 1 << shift, u64::MAX >> shift] {
                let mut out = Vec::new();
                put(&mut out, value);
                assert_eq!(out.len(), width(value), "{value}");
                for slot in width(value)..=MAX_BYTES {
                    let mut padded = vec![0; slot];
                    fill(&mut padded, value);
                    padded.push(7);
                    let mut rest = padded.as_slice();
                    assert_eq!((take(&mut rest), rest), (Some(value), [7].as_slice()), "{value} in {slot}");
                }
                assert_eq!(unzigzag(zigzag(value.cast_signed())), value.cast_signed());
            }
        }
    }

    #[test]
    fn refuses_what_has_no_end_or_too_many_bits() {
        assert_eq!(take(&mut [].as_slice()), None);
        assert_eq!(take(&mut [0x80].as_slice()), None);
        assert_eq!(take(&mut [0x80; 11].as_slice()), None);
        let mut too_large = [0xff; 10];
        too_large[9] = 2;
        assert_eq!(take(&mut too_large.as_slice()), None);
    }
}

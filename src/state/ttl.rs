//! How entries of a state with TTL are stored: behind the time of their last touch.
//!
//! ```text
//!   last touch: u64, little-endian, milliseconds since the Unix epoch │ the value, map value or list element
//! ```
//!
//! Inner backends and the log see these bytes as any others; the operations ([`op`](super::op)) put them together and take them apart.

use super::StateError;
use crate::types::TimeMs;

/// Bytes before the value.
pub const STAMP_BYTES: usize = size_of::<TimeMs>();

/// The stored bytes of `value`, touched at `time`.
#[must_use]
pub fn stamp(time: TimeMs, value: &[u8]) -> Vec<u8> {
    [&time.to_le_bytes(), value].concat()
}

/// Takes stored bytes apart: the time of the last touch, and the value.
///
/// # Errors
/// [`StateError::Undecodable`] if they are too short.
pub fn split(stored: &[u8]) -> Result<(TimeMs, &[u8]), StateError> {
    let (time, value) = stored.split_first_chunk().ok_or(StateError::Undecodable("an entry without time"))?;
    Ok((TimeMs::from_le_bytes(*time), value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_stamped_value_never_change() {
        assert_eq!(stamp(0x0102, b"v"), b"\x02\x01\0\0\0\0\0\0v");
        assert_eq!(split(&stamp(7, b"value")).unwrap(), (7, &b"value"[..]));
        assert_eq!(split(&stamp(u64::MAX, b"")).unwrap(), (u64::MAX, &b""[..]));
        assert!(split(&[1; 7]).is_err());
    }
}

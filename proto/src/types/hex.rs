//! Bytes as lower-case hexadecimal digits, for JSON and messages.

use bytes::Bytes;
use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

/// Two digits for each byte.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that hexadecimal digits stand for; `None` for other characters or an odd number of digits.
#[must_use]
pub fn decode(digits: &str) -> Option<Bytes> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let is_plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit()) && digits.len().is_multiple_of(2);
    is_plain.then(|| digits.as_bytes().chunks(2).map(pair).collect::<Option<Vec<u8>>>().map(Bytes::from))?
}

/// Writes bytes as hexadecimal text, for `#[serde(with)]`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&encode(bytes))
}

/// Reads bytes from hexadecimal text, for `#[serde(with)]`.
///
/// # Errors
/// If it is no text of pairs of hexadecimal digits.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let digits = String::deserialize(deserializer)?;
    decode(&digits).ok_or_else(|| D::Error::custom("bytes are given by pairs of hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_their_digits_and_nothing_else_is_digits() {
        assert_eq!(encode(&[0, 0xab, 255]), "00abff");
        assert_eq!(decode("00abFF").as_deref(), Some(&[0, 0xab, 255][..]));
        assert_eq!(decode("").as_deref(), Some(&[][..]));
        for bad in ["0", "0g", "+1", "ü"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}

//! Decoding of pasted checkpoint handles: hexadecimal, or base64 of either alphabet, padded or not.

use bytes::Bytes;

/// The bytes of the checkpoint handle that `text` encodes, damaged or not. `None` if `text` is no handle in hexadecimal
/// or base64.
#[must_use]
pub fn decode_handle(text: &str) -> Option<Bytes> {
    let is_handle = |bytes: &Vec<u8>| bytes.starts_with(b"DSTLHAND");
    let decoded = from_hex(text).filter(is_handle).or_else(|| from_base64(text).filter(is_handle))?;
    Some(decoded.into())
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.trim_end_matches('=').bytes().map(base64_digit).collect::<Option<_>>()?;
    if digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let bits = group.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit)) << (6 * (4 - group.len()));
        let [_, first, second, third] = bits.to_be_bytes();
        bytes.extend([first, second, third].into_iter().take(group.len() - 1));
    }
    Some(bytes)
}

fn base64_digit(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hexadecimal_and_base64() {
        for text in ["4453544c48414e44ff", "RFNUTEhBTkT/", "RFNUTEhBTkT_"] {
            assert_eq!(decode_handle(text).as_deref(), Some(&b"DSTLHAND\xff"[..]), "{text}");
        }
        assert_eq!(from_base64("_-8="), Some(vec![0xff, 0xef]));
        assert_eq!(from_base64("/+8"), Some(vec![0xff, 0xef]));
        assert_eq!(from_base64("RFNUTEhBTkQ="), Some(b"DSTLHAND".to_vec()));
        for text in ["", "=", "a b", "RFNUT", "neither", "ü", "44"] {
            assert_eq!(decode_handle(text), None, "{text}");
        }
    }
}

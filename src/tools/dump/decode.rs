//! Bytes as people paste them: hexadecimal, or base64 of either alphabet, padded or not.

use bytes::Bytes;

/// The bytes that `text` stands for; `None` if it is neither hexadecimal nor base64. Text that is both is hexadecimal.
#[must_use]
pub fn decode_text(text: &str) -> Option<Bytes> {
    from_hex(text).or_else(|| from_base64(text)).filter(|bytes| !bytes.is_empty()).map(Bytes::from)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
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
        let decoded = |text| decode_text(text).map(|bytes| bytes.to_vec());
        assert_eq!(decoded("44535448"), Some(b"DSTH".to_vec()));
        for text in ["RFNUTEhBTkQ=", "RFNUTEhBTkQ"] {
            assert_eq!(decoded(text), Some(b"DSTLHAND".to_vec()), "{text}");
        }
        assert_eq!(decoded("_-8="), Some(vec![0xff, 0xef]));
        assert_eq!(decoded("/+8"), Some(vec![0xff, 0xef]));
        for text in ["", "=", "a b", "RFNUT", "ü"] {
            assert_eq!(decoded(text), None, "{text}");
        }
    }
}

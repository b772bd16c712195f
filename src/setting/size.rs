//! Memory sizes in Flink's notation: `5 mb`, `64 MiB`, `4096`. Every unit is binary, so `1 kb` is 1024 bytes.

const UNITS: [(&str, u32, &[&str]); 5] = [
    ("TiB", 40, &["t", "tb", "tib", "tebibytes"]),
    ("GiB", 30, &["g", "gb", "gib", "gibibytes"]),
    ("MiB", 20, &["m", "mb", "mib", "mebibytes"]),
    ("KiB", 10, &["k", "kb", "kib", "kibibytes"]),
    ("B", 0, &["", "b", "bytes"]),
];

/// The bytes that `text` stands for: digits (`_` between them is ignored), then a unit in any case. `None` for anything
/// else, and for sizes of more than 64 bits.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number: u64 = digits.replace('_', "").parse().ok()?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let (_, shift, _) = UNITS.iter().find(|(_, _, names)| names.contains(&unit.as_str()))?;
    number.checked_mul(1 << shift)
}

/// `bytes` in the largest unit that divides it; [`parse`] gives the same number back.
pub(crate) fn format(bytes: u64) -> String {
    for (unit, shift, _) in UNITS {
        let scale = 1_u64 << shift;
        if bytes >= scale && bytes.is_multiple_of(scale) {
            return format!("{} {unit}", bytes / scale);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_binary_in_any_case_and_spacing() {
        let expected = [
            ("4096", 4096),
            ("5 mb", 5 << 20),
            ("64 MiB", 64 << 20),
            ("1g", 1 << 30),
            ("2 kb", 2048),
            ("1_000b", 1000),
        ];
        for (text, bytes) in expected {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "mb", "-1", "1.5 GiB", "5 parsecs", "99999999999 TiB", "1 mb 2 kb", "99999999999999999999"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_size_reads_back(bytes: u64) {
            prop_assert_eq!(parse(&format(bytes)), Some(bytes));
        }
    }
}

//! The built-in merge functions.
//!
//! Numbers are 8 bytes, little-endian. A missing value takes the operand. NaN counts as missing for the minimum and the
//! maximum, so that it only remains where nothing else came; -0.0 is less than 0.0 there. What a function returns for
//! given bytes never changes.

use super::StateError;
use crate::types::{MergeFunction, StateId};

/// What a merge does to its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// Sets it to this number.
    Number([u8; 8]),
    /// Appends the operand to it: the result is not made here, since it may be long.
    Append,
}

/// A number that is not 8 bytes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a number of {0} bytes: numbers have 8")]
pub struct WrongWidth(pub usize);

impl WrongWidth {
    /// The same, as found in the stored value of `state`.
    #[must_use]
    pub fn stored(self, state: StateId) -> StateError {
        StateError::Mismatch { state, what: "a stored number is not 8 bytes long" }
    }
}

/// Combines the stored value, if there is one, with the operand.
///
/// # Errors
/// [`WrongWidth`] if the function is numeric and either is no number.
pub fn combine(function: MergeFunction, current: Option<&[u8]>, operand: &[u8]) -> Result<Merged, WrongWidth> {
    let number = match function {
        MergeFunction::Append => return Ok(Merged::Append),
        MergeFunction::SumI64 => integers(current, operand, i64::wrapping_add)?,
        MergeFunction::MinI64 => integers(current, operand, i64::min)?,
        MergeFunction::MaxI64 => integers(current, operand, i64::max)?,
        MergeFunction::SumF64 => floats(current, operand, |a, b| a + b)?,
        MergeFunction::MinF64 => floats(current, operand, |a, b| prefer(a, b, a.total_cmp(&b).is_le()))?,
        MergeFunction::MaxF64 => floats(current, operand, |a, b| prefer(a, b, a.total_cmp(&b).is_ge()))?,
    };
    Ok(Merged::Number(number))
}

fn integers(current: Option<&[u8]>, operand: &[u8], combine: fn(i64, i64) -> i64) -> Result<[u8; 8], WrongWidth> {
    let operand = number(operand)?;
    let Some(current) = current else { return Ok(operand) };
    Ok(combine(i64::from_le_bytes(number(current)?), i64::from_le_bytes(operand)).to_le_bytes())
}

fn floats(current: Option<&[u8]>, operand: &[u8], combine: fn(f64, f64) -> f64) -> Result<[u8; 8], WrongWidth> {
    let operand = number(operand)?;
    let Some(current) = current else { return Ok(operand) };
    Ok(combine(f64::from_le_bytes(number(current)?), f64::from_le_bytes(operand)).to_le_bytes())
}

/// `a` if `a_wins`, else `b`; a NaN never wins against a number.
fn prefer(a: f64, b: f64, a_wins: bool) -> f64 {
    if b.is_nan() || (a_wins && !a.is_nan()) { a } else { b }
}

fn number(bytes: &[u8]) -> Result<[u8; 8], WrongWidth> {
    bytes.try_into().map_err(|_| WrongWidth(bytes.len()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn integer(function: MergeFunction, current: i64, operand: i64) -> i64 {
        match combine(function, Some(&current.to_le_bytes()), &operand.to_le_bytes()).unwrap() {
            Merged::Number(bytes) => i64::from_le_bytes(bytes),
            Merged::Append => panic!("a number"),
        }
    }

    fn float(function: MergeFunction, current: f64, operand: f64) -> f64 {
        match combine(function, Some(&current.to_le_bytes()), &operand.to_le_bytes()).unwrap() {
            Merged::Number(bytes) => f64::from_le_bytes(bytes),
            Merged::Append => panic!("a number"),
        }
    }

    #[test]
    fn a_missing_value_takes_the_operand() {
        use MergeFunction::{MaxF64, MaxI64, MinF64, MinI64, SumF64, SumI64};
        for function in [SumI64, MinI64, MaxI64, SumF64, MinF64, MaxF64] {
            let operand = f64::NAN.to_le_bytes();
            assert_eq!(combine(function, None, &operand), Ok(Merged::Number(operand)));
        }
    }

    #[test]
    fn integers_sum_around_and_compare_signed() {
        assert_eq!(integer(MergeFunction::SumI64, 40, 2), 42);
        assert_eq!(integer(MergeFunction::SumI64, i64::MAX, 1), i64::MIN);
        assert_eq!(integer(MergeFunction::MinI64, -1, 1), -1);
        assert_eq!(integer(MergeFunction::MaxI64, -1, 1), 1);
    }

    #[test]
    fn nan_spreads_in_sums_and_counts_as_missing_elsewhere() {
        assert!(float(MergeFunction::SumF64, f64::NAN, 1.0).is_nan());
        assert!(float(MergeFunction::SumF64, f64::INFINITY, f64::NEG_INFINITY).is_nan());
        for function in [MergeFunction::MinF64, MergeFunction::MaxF64] {
            for nan in [f64::NAN, -f64::NAN] {
                assert_eq!(float(function, nan, 3.0).to_bits(), 3.0_f64.to_bits());
                assert_eq!(float(function, 3.0, nan).to_bits(), 3.0_f64.to_bits());
                assert!(float(function, nan, nan).is_nan());
            }
        }
    }

    #[test]
    fn floats_compare_with_infinities_and_signed_zeros() {
        assert_eq!(float(MergeFunction::SumF64, 0.5, 0.25).to_bits(), 0.75_f64.to_bits());
        assert_eq!(float(MergeFunction::MinF64, f64::NEG_INFINITY, 1.0), f64::NEG_INFINITY);
        assert_eq!(float(MergeFunction::MaxF64, f64::INFINITY, 1.0), f64::INFINITY);
        for (a, b) in [(0.0, -0.0), (-0.0, 0.0)] {
            assert_eq!(float(MergeFunction::MinF64, a, b).to_bits(), (-0.0_f64).to_bits());
            assert_eq!(float(MergeFunction::MaxF64, a, b).to_bits(), 0.0_f64.to_bits());
        }
    }

    #[test]
    fn numbers_of_another_width_are_refused() {
        assert_eq!(combine(MergeFunction::SumI64, None, &[0; 7]), Err(WrongWidth(7)));
        assert_eq!(combine(MergeFunction::MinF64, Some(&[0; 9]), &[0; 8]), Err(WrongWidth(9)));
        assert_eq!(combine(MergeFunction::Append, Some(b"any"), b""), Ok(Merged::Append));
    }
}

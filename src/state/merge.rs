//! The built-in merge functions.
//!
//! Every function combines two values in their stored form; [`check_value`] checks that form. The operand of a merge
//! may have another form ([`check_operand`]), which [`combine`] converts first:
//!
//! | function | stored | operand |
//! | --- | --- | --- |
//! | sums, minimum, maximum | a number | the same |
//! | append | any bytes | the same |
//! | count | a number | the same, or nothing for 1 |
//! | averages | sum, count (i64) | the same, or one number |
//! | set union | a [set] | the same |
//! | `HyperLogLog` | a [`Sketch`] | any bytes |
//!
//! Numbers are 8 bytes, little-endian. If there is no value yet, the result is the operand. For minimum and maximum,
//! NaN counts as missing, so that it remains only if nothing else came, and -0.0 is less than 0.0. Integers wrap
//! around. The result of a function for given bytes never changes.

pub mod set;

use std::borrow::Cow;

use super::StateError;
use crate::types::{MergeFunction, Sketch, StateId};

/// The effect of a merge on its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// The entry becomes this number.
    Number([u8; 8]),
    /// The entry becomes this sum and count.
    Average([u8; 16]),
    /// The entry becomes these bytes.
    Bytes(Vec<u8>),
    /// The operand is appended to the entry. The result is not made here, since it may be long.
    Append,
    /// The entry stays: the set or sketch has all of the operand already.
    Unchanged,
}

/// Bytes that a merge function cannot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes that do not fit the merge function of the state: {expected}")]
pub struct Unfit {
    /// Number of bytes.
    pub bytes: usize,
    /// A description of the bytes that the function takes.
    pub expected: &'static str,
}

impl Unfit {
    /// The error for such bytes in the stored value of `state`.
    #[must_use]
    pub fn stored(self, state: StateId) -> StateError {
        StateError::Mismatch { state, what: "a stored value does not fit the merge function" }
    }
}

/// Checks that `value` has the form that `function` stores.
///
/// # Errors
/// [`Unfit`] if not.
pub fn check_value(function: MergeFunction, value: &[u8]) -> Result<(), Unfit> {
    use MergeFunction as F;
    match function {
        F::Append => Ok(()),
        F::SumI64 | F::MinI64 | F::MaxI64 | F::SumF64 | F::MinF64 | F::MaxF64 | F::Count => number(value).map(drop),
        F::AverageI64 | F::AverageF64 => average(value).map(drop),
        F::SetUnion => set::check(value),
        F::HyperLogLog => sketch(value).map(drop),
    }
}

/// Checks that `function` takes `operand`.
///
/// # Errors
/// [`Unfit`] if not.
pub fn check_operand(function: MergeFunction, operand: &[u8]) -> Result<(), Unfit> {
    use MergeFunction as F;
    let unfit = |expected| Unfit { bytes: operand.len(), expected };
    match (function, operand.len()) {
        (F::Count, 0 | 8) | (F::AverageI64 | F::AverageF64, 8 | 16) | (F::HyperLogLog, _) => Ok(()),
        (F::Count, _) => Err(unfit("how many to count has 8 bytes, or none for 1")),
        (F::AverageI64 | F::AverageF64, _) => Err(unfit("a number has 8 bytes, a sum with its count 16")),
        _ => check_value(function, operand),
    }
}

/// Combines the stored value, if there is one, with the operand of a merge.
///
/// # Errors
/// [`Unfit`] if either has a wrong form.
pub fn combine(function: MergeFunction, current: Option<&[u8]>, operand: &[u8]) -> Result<Merged, Unfit> {
    use MergeFunction as F;
    check_operand(function, operand)?;
    let one = 1_i64.to_le_bytes();
    let value: Cow<'_, [u8]> = match (function, operand.len()) {
        (F::Count, 0) => Cow::Owned(one.to_vec()),
        (F::AverageI64 | F::AverageF64, 8) => Cow::Owned([operand, &one[..]].concat()),
        (F::HyperLogLog, _) => {
            let mut all = current.map(sketch).transpose()?.unwrap_or_default();
            return Ok(if all.insert(operand) { Merged::Bytes(all.encode()) } else { Merged::Unchanged });
        }
        _ => Cow::Borrowed(operand),
    };
    join(function, current, &value)
}

/// Combines the stored value, if there is one, with another one of the same form.
///
/// # Errors
/// [`Unfit`] if either has a wrong form.
pub fn join(function: MergeFunction, current: Option<&[u8]>, value: &[u8]) -> Result<Merged, Unfit> {
    Ok(match function {
        MergeFunction::Append => Merged::Append,
        MergeFunction::SumI64 | MergeFunction::Count => integers(current, value, i64::wrapping_add)?,
        MergeFunction::MinI64 => integers(current, value, i64::min)?,
        MergeFunction::MaxI64 => integers(current, value, i64::max)?,
        MergeFunction::SumF64 => floats(current, value, |a, b| a + b)?,
        // `total_cmp` puts -0.0 before 0.0, so the result does not depend on the order of the operands.
        MergeFunction::MinF64 => floats(current, value, |a, b| prefer(a, b, a.total_cmp(&b).is_le()))?,
        MergeFunction::MaxF64 => floats(current, value, |a, b| prefer(a, b, a.total_cmp(&b).is_ge()))?,
        MergeFunction::AverageI64 => averages(current, value, add_integers)?,
        MergeFunction::AverageF64 => {
            averages(current, value, |a, b| (f64::from_le_bytes(a) + f64::from_le_bytes(b)).to_le_bytes())?
        }
        MergeFunction::SetUnion => {
            set::check(value)?;
            match current {
                None => Merged::Bytes(value.to_vec()),
                Some(current) => set::union(current, value)?.map_or(Merged::Unchanged, Merged::Bytes),
            }
        }
        MergeFunction::HyperLogLog => {
            let value = sketch(value)?;
            let mut all = current.map(sketch).transpose()?.unwrap_or_default();
            // An empty sketch adds nothing. Without a stored one it is stored all the same, so that the entry exists.
            if value.is_empty() && current.is_some() {
                return Ok(Merged::Unchanged);
            }
            all.unite(&value);
            Merged::Bytes(all.encode())
        }
    })
}

fn integers(current: Option<&[u8]>, value: &[u8], combine: fn(i64, i64) -> i64) -> Result<Merged, Unfit> {
    let value = number(value)?;
    let Some(current) = current else { return Ok(Merged::Number(value)) };
    let combined = combine(i64::from_le_bytes(number(current)?), i64::from_le_bytes(value));
    Ok(Merged::Number(combined.to_le_bytes()))
}

fn floats(current: Option<&[u8]>, value: &[u8], combine: fn(f64, f64) -> f64) -> Result<Merged, Unfit> {
    let value = number(value)?;
    let Some(current) = current else { return Ok(Merged::Number(value)) };
    let combined = combine(f64::from_le_bytes(number(current)?), f64::from_le_bytes(value));
    Ok(Merged::Number(combined.to_le_bytes()))
}

fn averages(current: Option<&[u8]>, value: &[u8], add: fn([u8; 8], [u8; 8]) -> [u8; 8]) -> Result<Merged, Unfit> {
    let (mut sum, mut count) = average(value)?;
    if let Some(current) = current {
        let (sum_before, count_before) = average(current)?;
        (sum, count) = (add(sum_before, sum), add_integers(count_before, count));
    }
    let mut out = [0; 16];
    let (first, second) = out.split_at_mut(8);
    first.copy_from_slice(&sum);
    second.copy_from_slice(&count);
    Ok(Merged::Average(out))
}

fn add_integers(a: [u8; 8], b: [u8; 8]) -> [u8; 8] {
    i64::from_le_bytes(a).wrapping_add(i64::from_le_bytes(b)).to_le_bytes()
}

/// `a` if `a_wins`, otherwise `b`; a NaN never wins against a number.
fn prefer(a: f64, b: f64, a_wins: bool) -> f64 {
    if b.is_nan() || (a_wins && !a.is_nan()) { a } else { b }
}

fn number(bytes: &[u8]) -> Result<[u8; 8], Unfit> {
    bytes.try_into().map_err(|_| Unfit { bytes: bytes.len(), expected: "numbers have 8 bytes" })
}

/// The sum and count in `bytes`, a stored value or an operand.
fn average(bytes: &[u8]) -> Result<([u8; 8], [u8; 8]), Unfit> {
    match bytes.as_chunks() {
        ([sum, count], []) => Ok((*sum, *count)),
        _ => Err(Unfit { bytes: bytes.len(), expected: "averages have 16 bytes, the sum and the count" }),
    }
}

fn sketch(bytes: &[u8]) -> Result<Sketch, Unfit> {
    Sketch::decode(bytes)
        .ok_or(Unfit { bytes: bytes.len(), expected: "sketches are HLL sketches of Apache DataSketches with lgK 12" })
}

#[cfg(test)]
#[path = "merge/tests.rs"]
mod tests;

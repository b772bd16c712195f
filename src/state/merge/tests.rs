//! Tests of the merge functions.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use super::*;

fn integer(function: MergeFunction, current: i64, operand: i64) -> i64 {
    match combine(function, Some(&current.to_le_bytes()), &operand.to_le_bytes()).unwrap() {
        Merged::Number(bytes) => i64::from_le_bytes(bytes),
        other => panic!("{other:?}"),
    }
}

fn float(function: MergeFunction, current: f64, operand: f64) -> f64 {
    match combine(function, Some(&current.to_le_bytes()), &operand.to_le_bytes()).unwrap() {
        Merged::Number(bytes) => f64::from_le_bytes(bytes),
        other => panic!("{other:?}"),
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

fn average(function: MergeFunction, values: &[&[u8]]) -> ([u8; 8], i64) {
    let mut stored: Option<Vec<u8>> = None;
    for value in values {
        match combine(function, stored.as_deref(), value).unwrap() {
            Merged::Average(bytes) => stored = Some(bytes.to_vec()),
            other => panic!("{other:?}"),
        }
    }
    let (sum, count) = super::average(&stored.unwrap()).unwrap();
    (sum, i64::from_le_bytes(count))
}

fn set(members: &[&str]) -> Vec<u8> {
    let one = |member: &&str| [&u32::try_from(member.len()).unwrap().to_le_bytes()[..], member.as_bytes()].concat();
    members.iter().flat_map(one).collect()
}

#[test]
fn counts_take_how_many_or_nothing_for_one() {
    let count = |current: i64, operand: &[u8]| combine(MergeFunction::Count, Some(&current.to_le_bytes()), operand);
    let number = |number: i64| Ok(Merged::Number(number.to_le_bytes()));
    assert_eq!(combine(MergeFunction::Count, None, b""), number(1));
    assert_eq!(count(41, b""), number(42));
    assert_eq!(count(41, &(-2_i64).to_le_bytes()), number(39));
    assert_eq!(count(i64::MAX, b""), number(i64::MIN));
    assert!(count(41, &[0; 7]).is_err());
    assert!(join(MergeFunction::Count, None, b"").is_err(), "nothing is no count");
}

#[test]
fn averages_keep_sum_and_count() {
    let (a, b) = (5_i64.to_le_bytes(), i64::MAX.to_le_bytes());
    let partial = [10_i64.to_le_bytes(), 4_i64.to_le_bytes()].concat();
    assert_eq!(average(MergeFunction::AverageI64, &[&a]), (a, 1));
    assert_eq!(average(MergeFunction::AverageI64, &[&a, &partial, &a]), (20_i64.to_le_bytes(), 6));
    assert_eq!(average(MergeFunction::AverageI64, &[&a, &b]), ((i64::MIN + 4).to_le_bytes(), 2), "around");
    let full = [0_i64.to_le_bytes(), i64::MAX.to_le_bytes()].concat();
    assert_eq!(average(MergeFunction::AverageI64, &[&full, &a]), (a, i64::MIN));
    let [c, d] = [0.5_f64, f64::INFINITY].map(f64::to_le_bytes);
    assert_eq!(average(MergeFunction::AverageF64, &[&c, &c, &c]), (1.5_f64.to_le_bytes(), 3));
    assert_eq!(average(MergeFunction::AverageF64, &[&c, &d]), (d, 2));
}

#[test]
fn sets_grow_by_what_they_have_not() {
    let union = |current: Option<&[u8]>, operand: &[u8]| combine(MergeFunction::SetUnion, current, operand);
    assert_eq!(union(None, b""), Ok(Merged::Bytes(vec![])), "the empty set is a value");
    let some = set(&["a", "c"]);
    assert_eq!(union(Some(&some), &set(&["b", "c", "d"])), Ok(Merged::Bytes(set(&["a", "b", "c", "d"]))));
    assert_eq!(union(Some(&some), &set(&["c"])), Ok(Merged::Unchanged));
    assert!(union(Some(&some), &set(&["c", "b"])).is_err());
    assert!(union(None, &set(&["c", "c"])).is_err());
    assert!(union(Some(b"foreign"), &some).is_err());
}

#[test]
fn sketches_take_any_bytes() {
    let insert = |current: Option<&[u8]>, operand: &[u8]| combine(MergeFunction::HyperLogLog, current, operand);
    let mut sketch = Sketch::new();
    sketch.insert(b"key");
    let key = sketch.encode();
    assert_eq!(insert(None, b"key"), Ok(Merged::Bytes(key.clone())));
    assert_eq!(insert(Some(&key), b"key"), Ok(Merged::Unchanged));
    assert_eq!(insert(Some(&Sketch::new().encode()), b"key"), Ok(Merged::Bytes(key.clone())));
    assert!(matches!(insert(Some(&key), b""), Ok(Merged::Bytes(both)) if both.len() == key.len() + 4));
    assert!(insert(Some(b"foreign"), b"key").is_err());
    assert_eq!(join(MergeFunction::HyperLogLog, None, &key), Ok(Merged::Bytes(key.clone())));
    assert!(join(MergeFunction::HyperLogLog, Some(&key), b"key!").is_err());
}

#[test]
fn bytes_of_another_form_are_refused() {
    let bytes = |combined: Result<Merged, Unfit>| combined.unwrap_err().bytes;
    assert_eq!(bytes(combine(MergeFunction::SumI64, None, &[0; 7])), 7);
    assert_eq!(bytes(combine(MergeFunction::MinF64, Some(&[0; 9]), &[0; 8])), 9);
    assert_eq!(bytes(combine(MergeFunction::AverageF64, Some(&[0; 8]), &[0; 8])), 8);
    assert_eq!(combine(MergeFunction::Append, Some(b"any"), b""), Ok(Merged::Append));
    for function in MergeFunction::ALL {
        for length in [0, 3, 8, 16, 17] {
            let value = vec![1; length];
            assert_eq!(check_value(function, &value), join(function, None, &value).map(drop), "{function:?}");
            assert_eq!(check_operand(function, &value), combine(function, None, &value).map(drop), "{function:?}");
        }
    }
}

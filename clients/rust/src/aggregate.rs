//! The values of merge functions that are not plain numbers: averages, sets and sketches.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{ClientError, Decode, Encode, codec::malformed};
use dstl_proto::types::Sketch;

/// The value of `AverageI64` (`Average<i64>`) and `AverageF64` (`Average<f64>`), and one form of their operands.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Average<N> {
    /// The sum of all numbers.
    pub sum: N,
    /// How many numbers there were.
    pub count: i64,
}

impl<N> Average<N> {
    /// The average of one number.
    #[must_use]
    pub fn of(number: N) -> Self {
        Self { sum: number, count: 1 }
    }
}

macro_rules! averages {
    ($($number:ty),*) => {$(
        impl Average<$number> {
            /// Sum divided by count; NaN if there is no number.
            #[must_use]
            pub fn mean(&self) -> f64 {
                self.sum as f64 / self.count as f64
            }
        }

        impl Encode for Average<$number> {
            fn encoded_len(&self) -> usize {
                16
            }

            fn encode(&self, out: &mut Vec<u8>) {
                self.sum.encode(out);
                self.count.encode(out);
            }
        }

        impl Decode for Average<$number> {
            fn decode(bytes: Bytes) -> Result<Self, ClientError> {
                if bytes.len() != 16 {
                    return Err(malformed::<Self>(bytes.len()));
                }
                Ok(Self { sum: Decode::decode(bytes.slice(..8))?, count: Decode::decode(bytes.slice(8..))? })
            }
        }
    )*};
}

averages!(i64, f64);

/// Implements sets whose members are ordered like their bytes: the values of `SetUnion`.
macro_rules! sets {
    ($($member:ty),*) => {$(
        impl Encode for BTreeSet<$member> {
            fn encoded_len(&self) -> usize {
                self.iter().map(|member| 4 + member.len()).sum()
            }

            fn encode(&self, out: &mut Vec<u8>) {
                for member in self {
                    let length = u32::try_from(member.len()).expect("no value is allowed 4 GiB");
                    out.extend_from_slice(&length.to_le_bytes());
                    out.extend_from_slice(member.as_ref());
                }
            }
        }

        impl Decode for BTreeSet<$member> {
            fn decode(mut bytes: Bytes) -> Result<Self, ClientError> {
                let length = bytes.len();
                let mut set = Self::new();
                while !bytes.is_empty() {
                    let prefix = *bytes.first_chunk::<4>().ok_or_else(|| malformed::<Self>(length))?;
                    let member = u32::from_le_bytes(prefix) as usize;
                    if bytes.len() - 4 < member {
                        return Err(malformed::<Self>(length));
                    }
                    let _ = bytes.split_to(4);
                    set.insert(Decode::decode(bytes.split_to(member))?);
                }
                Ok(set)
            }
        }
    )*};
}

sets!(Bytes, Vec<u8>, String);

/// The value of `HyperLogLog`; its operands are any bytes: see
/// [`ValueState::merge_operand`](super::ValueState::merge_operand).
impl Encode for Sketch {
    fn encoded_len(&self) -> usize {
        Self::encode(self).len()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(Self::encode(self));
    }
}

impl Decode for Sketch {
    fn decode(bytes: Bytes) -> Result<Self, ClientError> {
        Self::decode(&bytes).ok_or_else(|| malformed::<Self>(bytes.len()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn round_trip<T: Encode + Decode + PartialEq + std::fmt::Debug>(value: &T) -> Vec<u8> {
        let mut out = Vec::new();
        Encode::encode(value, &mut out);
        assert_eq!(out.len(), value.encoded_len(), "{value:?}");
        assert_eq!(<T as Decode>::decode(out.clone().into()).unwrap(), *value);
        out
    }

    #[test]
    fn what_is_encoded_decodes_equal() {
        assert_eq!(round_trip(&Average { sum: 7_i64, count: 2 })[..9], [7, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert!((Average { sum: 7_i64, count: 2 }.mean() - 3.5).abs() < 1e-9);
        round_trip(&Average::of(-0.5_f64));
        let set = BTreeSet::from(["b".to_owned(), "ä".to_owned(), String::new()]);
        assert_eq!(round_trip(&set), b"\0\0\0\0\x01\0\0\0b\x02\0\0\0\xc3\xa4");
        round_trip(&BTreeSet::<Bytes>::new());
        round_trip(&BTreeSet::from([vec![255_u8], vec![0, 1]]));
        let mut sketch = Sketch::new();
        sketch.insert(b"thing");
        assert_eq!(round_trip(&sketch).len(), 12);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert!(Average::<i64>::decode(Bytes::from_static(b"12345678")).is_err());
        assert!(BTreeSet::<Bytes>::decode(Bytes::from_static(b"\x01\0\0\0")).is_err());
        assert!(BTreeSet::<Bytes>::decode(Bytes::from_static(b"\x01\0")).is_err());
        assert!(<Sketch as Decode>::decode(Bytes::from_static(b"12")).is_err());
    }
}

//! The encoding of keys, namespaces, map keys and values.
//!
//! The daemon sees only bytes. Numbers are 8 bytes, little-endian, as its merge functions expect. Text is UTF-8, and
//! byte strings are unchanged. In a tuple, each part except the last is preceded by its length as 4 bytes,
//! little-endian.
//!
//! Maps are ordered by the bytes of their keys, so little-endian numbers are not in numeric order; [`Ordered`] numbers
//! are.

use bytes::Bytes;

use super::ClientError;

/// A type that can be written into state.
///
/// A type and its borrowed forms (`String` and `str`) must write the same bytes.
pub trait Encode {
    /// The exact number of bytes that [`encode`](Self::encode) appends.
    fn encoded_len(&self) -> usize;

    /// Appends the bytes to `out`.
    fn encode(&self, out: &mut Vec<u8>);
}

/// A type that can be read back from state.
pub trait Decode: Sized {
    /// Decodes bytes that [`Encode`] wrote.
    ///
    /// # Errors
    /// [`ClientError::Malformed`] if `bytes` are not such bytes.
    fn decode(bytes: Bytes) -> Result<Self, ClientError>;
}

/// The error for bytes that are not a `T`.
pub(super) fn malformed<T>(bytes: usize) -> ClientError {
    ClientError::Malformed { what: "a stored value", bytes, expected: std::any::type_name::<T>() }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Encode for $number {
            #[inline]
            fn encoded_len(&self) -> usize {
                8
            }

            #[inline]
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }

        impl Decode for $number {
            fn decode(bytes: Bytes) -> Result<Self, ClientError> {
                let array = <[u8; 8]>::try_from(&bytes[..]).map_err(|_| malformed::<Self>(bytes.len()))?;
                Ok(Self::from_le_bytes(array))
            }
        }
    )*};
}

/// An integer whose bytes sort in numeric order: 8 bytes, big-endian, with the sign bit of signed integers inverted.
/// Use it for map keys that are read in order or by range; merge functions need plain numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ordered<N>(pub N);

macro_rules! ordered {
    ($($number:ty, $flip:expr);*) => {$(
        impl Encode for Ordered<$number> {
            #[inline]
            fn encoded_len(&self) -> usize {
                8
            }

            #[inline]
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&(self.0 ^ $flip).to_be_bytes());
            }
        }

        impl Decode for Ordered<$number> {
            fn decode(bytes: Bytes) -> Result<Self, ClientError> {
                let array = <[u8; 8]>::try_from(&bytes[..]).map_err(|_| malformed::<Self>(bytes.len()))?;
                Ok(Self(<$number>::from_be_bytes(array) ^ $flip))
            }
        }
    )*};
}

ordered!(u64, 0; i64, i64::MIN);

macro_rules! byte_strings {
    ($($string:ty),*) => {$(
        impl Encode for $string {
            #[inline]
            fn encoded_len(&self) -> usize {
                self.len()
            }

            #[inline]
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.as_ref());
            }
        }
    )*};
}

numbers!(u64, i64, f64);
byte_strings!(str, String, [u8], Vec<u8>, Bytes);

impl<T: Encode + ?Sized> Encode for &T {
    #[inline]
    fn encoded_len(&self) -> usize {
        (**self).encoded_len()
    }

    #[inline]
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

/// No bytes: the void namespace, or the value of a set.
impl Encode for () {
    #[inline]
    fn encoded_len(&self) -> usize {
        0
    }

    #[inline]
    fn encode(&self, _out: &mut Vec<u8>) {}
}

impl Decode for () {
    fn decode(bytes: Bytes) -> Result<Self, ClientError> {
        if bytes.is_empty() { Ok(()) } else { Err(malformed::<Self>(bytes.len())) }
    }
}

impl Decode for String {
    fn decode(bytes: Bytes) -> Result<Self, ClientError> {
        let length = bytes.len();
        Self::from_utf8(bytes.into()).map_err(|_| malformed::<Self>(length))
    }
}

impl Decode for Vec<u8> {
    fn decode(bytes: Bytes) -> Result<Self, ClientError> {
        Ok(bytes.into())
    }
}

impl Decode for Bytes {
    fn decode(bytes: Bytes) -> Result<Self, ClientError> {
        Ok(bytes)
    }
}

impl<A: Encode, B: Encode> Encode for (A, B) {
    fn encoded_len(&self) -> usize {
        4 + self.0.encoded_len() + self.1.encoded_len()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        prefixed(&self.0, out);
        self.1.encode(out);
    }
}

impl<A: Decode, B: Decode> Decode for (A, B) {
    fn decode(mut bytes: Bytes) -> Result<Self, ClientError> {
        let first = A::decode(take_prefixed::<Self>(&mut bytes)?)?;
        Ok((first, B::decode(bytes)?))
    }
}

impl<A: Encode, B: Encode, C: Encode> Encode for (A, B, C) {
    fn encoded_len(&self) -> usize {
        8 + self.0.encoded_len() + self.1.encoded_len() + self.2.encoded_len()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        prefixed(&self.0, out);
        prefixed(&self.1, out);
        self.2.encode(out);
    }
}

impl<A: Decode, B: Decode, C: Decode> Decode for (A, B, C) {
    fn decode(mut bytes: Bytes) -> Result<Self, ClientError> {
        let first = A::decode(take_prefixed::<Self>(&mut bytes)?)?;
        let second = B::decode(take_prefixed::<Self>(&mut bytes)?)?;
        Ok((first, second, C::decode(bytes)?))
    }
}

/// Appends the length of `part`, then `part`.
fn prefixed(part: &impl Encode, out: &mut Vec<u8>) {
    let length = u32::try_from(part.encoded_len()).expect("no key or value is allowed 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    part.encode(out);
}

/// Takes one part of the tuple `T` off the front of `bytes`.
fn take_prefixed<T>(bytes: &mut Bytes) -> Result<Bytes, ClientError> {
    let length = bytes.len();
    let prefix = bytes.first_chunk::<4>().ok_or_else(|| malformed::<T>(length))?;
    let part = u32::from_le_bytes(*prefix) as usize;
    if length - 4 < part {
        return Err(malformed::<T>(length));
    }
    let _ = bytes.split_to(4);
    Ok(bytes.split_to(part))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn round_trip<T: Encode + Decode + PartialEq + std::fmt::Debug>(value: T) {
        let mut out = Vec::new();
        value.encode(&mut out);
        assert_eq!(out.len(), value.encoded_len(), "{value:?}");
        assert_eq!(T::decode(out.into()).unwrap(), value);
    }

    #[test]
    fn what_is_encoded_decodes_equal() {
        round_trip(u64::MAX);
        round_trip(i64::MIN);
        round_trip(-0.5_f64);
        round_trip("Wörter".to_owned());
        round_trip(vec![0_u8, 255]);
        round_trip(Bytes::from_static(b"\0"));
        round_trip(());
        round_trip((7_u64, "a".to_owned()));
        round_trip(("a".to_owned(), vec![1_u8], -1_i64));
    }

    #[test]
    fn ordered_numbers_sort_by_their_bytes() {
        let bytes = |number: i64| {
            let mut out = Vec::new();
            Ordered(number).encode(&mut out);
            assert_eq!(Ordered::<i64>::decode(out.clone().into()).unwrap().0, number);
            out
        };
        assert!([i64::MIN, -256, -1, 0, 1, 256, i64::MAX].map(bytes).is_sorted());
        round_trip(Ordered(u64::MAX));
        round_trip((Ordered(1_u64 << 40), 7_u64));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert!(u64::decode(Bytes::from_static(b"1234567")).is_err());
        assert!(String::decode(Bytes::from_static(b"\xff")).is_err());
        assert!(<(u64, u64)>::decode(Bytes::from_static(b"\x09\0\0\0abc")).is_err());
        assert!(<(u64, u64)>::decode(Bytes::from_static(b"\x09")).is_err());
    }
}

//! Results of batches in place: reads of one value make up nearly all of them, and prost would walk each four times.
//!
//! ```text
//!  SessionResponse  1a len │ 08 number │ 12 len result │ 12 len result │ … │ 18 repeated
//!                          └ BatchResult ─────────────────────────────────────────────
//!                                                 └ 08 operation │ 10 found │ 1a len value
//! ```

use bytes::Bytes;
use prost::{
    Message as _,
    encoding::{encode_varint, encoded_len_varint, message},
};

use super::{take_bytes, take_tag, take_varint};
use crate::v1::{BatchResult, OperationResult};

/// Tags of the fields: number and wire type, in one byte each.
#[allow(missing_docs, reason = "each is named like its field")]
pub mod tag {
    pub const RESULT_IN_RESPONSE: u8 = 0x1a;
    pub const NUMBER_IN_RESULT: u8 = 0x08;
    pub const OPERATION_IN_RESULT: u8 = 0x12;
    pub const REPEATED_IN_RESULT: u8 = 0x18;

    pub const OPERATION: u8 = 0x08;
    pub const FOUND: u8 = 0x10;
    pub const VALUE: u8 = 0x1a;
}

/// Bytes of the shortest usual result, which bounds the guess how many results there are.
const SHORT_BYTES: usize = 8;

/// Begins the encoded contents of a `BatchResult`, which the results follow.
pub fn begin(out: &mut Vec<u8>, number: u64) {
    put_number(out, tag::NUMBER_IN_RESULT, number);
}

/// Appends the result of an operation that read one value: the same bytes as prost's.
#[inline]
pub fn put_value(out: &mut Vec<u8>, operation: u32, found: bool, value: &[u8]) {
    let of_number = if operation == 0 { 0 } else { 1 + encoded_len_varint(operation.into()) };
    let of_value = if value.is_empty() { 0 } else { 1 + encoded_len_varint(value.len() as u64) + value.len() };
    out.push(tag::OPERATION_IN_RESULT);
    encode_varint((of_number + 2 * usize::from(found) + of_value) as u64, out);
    put_number(out, tag::OPERATION, operation.into());
    put_number(out, tag::FOUND, found.into());
    if !value.is_empty() {
        put_number(out, tag::VALUE, value.len() as u64);
        out.extend_from_slice(value);
    }
}

/// Appends any result.
pub fn put(out: &mut Vec<u8>, result: &OperationResult) {
    message::encode(u32::from(tag::OPERATION_IN_RESULT >> 3), result, out);
}

/// Reads a response that is only a batch result, in the form of any generated code; `None` for others. Values are not
/// copied, so they keep the memory of the response.
#[must_use]
pub fn read(response: &Bytes) -> Option<BatchResult> {
    let mut rest: &[u8] = response;
    take_tag(&mut rest, tag::RESULT_IN_RESPONSE)?;
    let mut contents = take_bytes(&mut rest)?;
    if !rest.is_empty() {
        return None;
    }
    let mut batch = BatchResult::default();
    while let Some((&field, rest)) = contents.split_first() {
        contents = rest;
        match field {
            tag::NUMBER_IN_RESULT => batch.number = take_varint(&mut contents)?,
            tag::OPERATION_IN_RESULT => {
                let bytes = take_bytes(&mut contents)?;
                if batch.results.is_empty() {
                    // A guess: the others are as long as the first.
                    batch.results.reserve_exact(1 + contents.len() / bytes.len().max(SHORT_BYTES));
                }
                batch.results.push(read_one(response, bytes)?);
            }
            tag::REPEATED_IN_RESULT => batch.repeated_batch = take_varint(&mut contents)? != 0,
            _ => return None,
        }
    }
    Some(batch)
}

#[inline]
fn read_one(response: &Bytes, bytes: &[u8]) -> Option<OperationResult> {
    let mut result = OperationResult::default();
    let mut rest = bytes;
    while let Some((&field, after)) = rest.split_first() {
        rest = after;
        match field {
            tag::OPERATION => result.operation = u32::try_from(take_varint(&mut rest)?).ok()?,
            tag::FOUND => result.found = take_varint(&mut rest)? != 0,
            tag::VALUE => result.value = response.slice_ref(take_bytes(&mut rest)?),
            // Lists, scans and the like.
            _ => return OperationResult::decode(response.slice_ref(bytes)).ok(),
        }
    }
    Some(result)
}

#[inline]
fn put_number(out: &mut Vec<u8>, tag: u8, number: u64) {
    if number != 0 {
        out.push(tag);
        encode_varint(number, out);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::v1::{SessionResponse, session_response::Response};

    fn bytes(range: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), range).prop_map(Bytes::from)
    }

    fn any_result() -> impl Strategy<Value = OperationResult> {
        let value = (prop_oneof![0..3_u32, any::<u32>()], any::<bool>(), bytes(0..200));
        let rare = prop_oneof![
            4 => Just((vec![], 0, 0)),
            1 => (vec(bytes(0..3), 0..2), any::<u64>(), 0..3_i32),
        ];
        (value, rare).prop_map(|((operation, found, value), (elements, count, outcome))| OperationResult {
            operation,
            found,
            value,
            elements,
            count,
            outcome,
            ..Default::default()
        })
    }

    fn any_batch() -> impl Strategy<Value = BatchResult> {
        (any::<u64>(), vec(any_result(), 0..5), any::<bool>())
            .prop_map(|(number, results, repeated_batch)| BatchResult { number, results, repeated_batch })
    }

    fn response(batch: BatchResult) -> Bytes {
        SessionResponse { response: Some(Response::Result(batch)) }.encode_to_vec().into()
    }

    proptest! {
        #[test]
        fn results_are_read_as_prost_wrote_them(batch in any_batch()) {
            prop_assert_eq!(read(&response(batch.clone())), Some(batch));
        }

        #[test]
        fn results_are_written_as_prost_writes_them(number in any::<u64>(), results in vec(any_result(), 0..5)) {
            let batch = BatchResult { number, results, repeated_batch: false };
            let mut by_hand = vec![];
            begin(&mut by_hand, number);
            for result in &batch.results {
                let OperationResult { operation, found, value, .. } = result.clone();
                if *result == (OperationResult { operation, found, value: value.clone(), ..Default::default() }) {
                    put_value(&mut by_hand, operation, found, &value);
                } else {
                    put(&mut by_hand, result);
                }
            }
            prop_assert_eq!(by_hand, batch.encode_to_vec());
        }

        #[test]
        fn other_bytes_are_read_as_prost_reads_them(
            batch in any_batch(),
            tail in any_batch(),
            cuts in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let mut bytes = [response(batch), response(tail)].concat();
            prop_assert_eq!(read(&bytes.clone().into()), None, "two in one");
            for (place, byte) in cuts {
                let place = place.index(bytes.len());
                *bytes.get_mut(place).unwrap() = byte;
            }
            if let Some(read) = read(&bytes.clone().into()) {
                let decoded = SessionResponse::decode(&bytes[..]).unwrap().response;
                prop_assert_eq!(decoded, Some(Response::Result(read)));
            }
        }
    }

    #[test]
    fn another_response_is_none() {
        assert_eq!(read(&Bytes::new()), None);
        let other = SessionResponse { response: Some(Response::Acknowledgement(Default::default())) };
        assert_eq!(read(&other.encode_to_vec().into()), None);
    }
}

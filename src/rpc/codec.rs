//! Reads the stream of a session: batches stay as bytes, and their operations are borrowed from these.
//!
//! Nearly everything that a session sends is batches in the form of any generated code. Making a protobuf struct of
//! every operation would cost as much as applying it. So these batches are read in place. Other valid encodings (fields
//! in several pieces, unknown fields, lists of elements, messages other than batches) are decoded by prost. A property
//! test checks that both readers agree wherever both can read.

use bytes::{Buf as _, Bytes};
use prost::Message as _;
use tonic::{
    Status,
    codec::{BufferSettings, DecodeBuf, Decoder},
};

use super::{convert, guard, status};
use crate::{
    backend::Operation,
    proto::{
        v1::{Batch, SessionRequest},
        wire::{Fields, tag, take_bytes, take_tag, take_varint},
    },
    types::Limits,
};

/// Bytes of the shortest useful operation, which bounds the guess how many operations a batch has.
const SHORT_OPERATION_BYTES: usize = 16;

const BUFFER_BYTES: usize = 8 << 10;
const YIELD_BYTES: usize = 32 << 10;

/// A request of a session.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Incoming {
    /// The bytes of a `Batch`, not decoded.
    Batch(Bytes),
    /// Any other request.
    Request(SessionRequest),
}

/// The decoder of a session: it reads each request of the client as [`Incoming`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SessionCodec {
    /// Limits of a request.
    pub(super) limits: Limits,
}

impl Decoder for SessionCodec {
    type Item = Incoming;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Incoming>, Status> {
        let message = bytes.copy_to_bytes(bytes.remaining());
        // The session itself counts the parts of a batch in the usual form.
        if let Some(batch) = decode_usual(&message) {
            return Ok(Some(batch));
        }
        guard::check_request(&message, &self.limits).map_err(|error| status::status(&error))?;
        decode(message).map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }
}

/// One whole message.
fn decode(message: Bytes) -> Result<Incoming, prost::DecodeError> {
    match decode_usual(&message) {
        Some(batch) => Ok(batch),
        None => SessionRequest::decode(message).map(Incoming::Request),
    }
}

/// A message that is only a batch, in the form of any generated code.
pub(super) fn decode_usual(message: &Bytes) -> Option<Incoming> {
    let mut rest: &[u8] = message;
    let batch = take_tag(&mut rest, tag::BATCH_IN_REQUEST).and_then(|()| take_bytes(&mut rest))?;
    rest.is_empty().then(|| Incoming::Batch(message.slice_ref(batch)))
}

/// The number and the operations of a batch, if it has the usual form, can be carried out, and has at most `most`
/// operations. After `None`, prost has to decode it.
pub(super) fn operations(mut batch: &[u8], most: usize) -> Option<(u64, Vec<Operation<'_>>)> {
    let mut number = 0;
    let mut operations = Vec::new();
    while let Some((&field, rest)) = batch.split_first() {
        batch = rest;
        match field {
            tag::NUMBER_IN_BATCH => number = take_varint(&mut batch)?,
            tag::OPERATION_IN_BATCH if operations.len() < most => {
                let bytes = take_bytes(&mut batch)?;
                if operations.is_empty() {
                    // A guess: the others are as long as the first. It is bounded by the bytes that have come, so a
                    // client cannot make the daemon take memory by a number alone.
                    let others = batch.len() / bytes.len().max(SHORT_OPERATION_BYTES);
                    operations.reserve_exact((1 + others).min(most));
                }
                let fields = Fields::read(bytes)?;
                // A wrong operation is left to the other reader as well, whose error names its index and field.
                operations.push(convert::operation(&fields).ok()?);
            }
            _ => return None,
        }
    }
    Some((number, operations))
}

/// The number of a batch that begins with it, as batches in the usual form do; otherwise 0.
pub(super) fn number(mut batch: &[u8]) -> u64 {
    take_tag(&mut batch, tag::NUMBER_IN_BATCH).and_then(|()| take_varint(&mut batch)).unwrap_or(0)
}

/// A batch decoded by prost, for batches that [`operations`] does not read.
pub(super) fn decode_batch(batch: Bytes) -> Result<Batch, prost::DecodeError> {
    Batch::decode(batch)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::proto::v1::{self, session_request::Request};

    fn bytes(range: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), range).prop_map(Bytes::from)
    }

    /// Operations as clients send them, right and wrong ones.
    fn any_operation() -> impl Strategy<Value = v1::Operation> {
        let numbers = (
            prop_oneof![4 => -1..27_i32, 1 => 40..45_i32],
            prop_oneof![0..3_u32, any::<u32>()],
            option::of(any::<u32>()),
        );
        let some = || prop_oneof![4 => Just(0_u64), 1 => any::<u64>()];
        let little = || prop_oneof![2 => Just(Bytes::new()), 1 => bytes(0..4)];
        let blobs = (bytes(0..200), little(), little(), bytes(0..300));
        let time = prop_oneof![2 => Just(0_i64), 1 => any::<i64>()];
        (numbers, blobs, vec(bytes(0..3), 0..2), (some(), some()), time).prop_map(
            |((kind, state, key_group), (key, namespace, map_key, value), values, (start, limit), time)| {
                v1::Operation {
                    kind,
                    state,
                    key,
                    namespace,
                    map_key,
                    value,
                    values,
                    start,
                    limit,
                    key_group,
                    time,
                    ..Default::default()
                }
            },
        )
    }

    fn any_batch() -> impl Strategy<Value = v1::Batch> {
        (any::<u64>(), vec(any_operation(), 0..5)).prop_map(|(number, operations)| v1::Batch { number, operations })
    }

    fn request(batch: v1::Batch) -> SessionRequest {
        SessionRequest { request: Some(Request::Batch(batch)) }
    }

    /// The walk reads the same values as prost.
    fn agree(bytes: &[u8]) {
        let Some((number, walked)) = operations(bytes, usize::MAX) else { return };
        let batch = v1::Batch::decode(bytes).unwrap();
        assert_eq!(number, batch.number);
        assert_eq!(format!("{walked:?}"), format!("{:?}", convert::operations(&batch).unwrap()));
    }

    proptest! {
        #[test]
        fn batches_are_read_as_prost_reads_them(batch in any_batch()) {
            let encoded = Bytes::from(request(batch.clone()).encode_to_vec());
            let Incoming::Batch(raw) = decode(encoded).unwrap() else { panic!("a batch stays as it came") };
            prop_assert_eq!(&v1::Batch::decode(raw.clone()).unwrap(), &batch);
            let is_usual = batch.operations.iter().all(|operation| operation.values.is_empty());
            prop_assert_eq!(operations(&raw, usize::MAX).is_some(), is_usual && convert::operations(&batch).is_ok());
            agree(&raw);
        }

        #[test]
        fn unusual_encodings_are_read_as_prost_reads_them(
            batch in any_batch(),
            tail in any_batch(),
            cuts in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            // Fields that come twice, then bytes that are changed.
            let mut encoded = [batch.encode_to_vec(), tail.encode_to_vec()].concat();
            agree(&encoded);
            for (place, byte) in cuts {
                if !encoded.is_empty() {
                    let place = place.index(encoded.len());
                    encoded[place] = byte;
                }
            }
            agree(&encoded);
            let whole = [request(batch).encode_to_vec(), request(tail).encode_to_vec()].concat();
            prop_assert_eq!(
                decode(Bytes::from(whole.clone())).unwrap(),
                Incoming::Request(SessionRequest::decode(&whole[..]).unwrap())
            );
        }

        #[test]
        fn any_bytes_are_read_as_prost_reads_them(noise in vec(any::<u8>(), 0..64)) {
            agree(&noise);
            match (decode(Bytes::from(noise.clone())), SessionRequest::decode(&noise[..])) {
                (Ok(Incoming::Request(request)), decoded) => prop_assert_eq!(Ok(request), decoded),
                (Err(_), decoded) => prop_assert!(decoded.is_err()),
                // Whether the batch itself can be read is asked later.
                (Ok(Incoming::Batch(_)), _) => {}
            }
        }
    }

    #[test]
    fn unknown_fields_are_left_to_prost() {
        let mut batch = v1::Batch { number: 7, operations: vec![] }.encode_to_vec();
        assert_eq!(operations(&batch, usize::MAX).map(|(number, operations)| (number, operations.len())), Some((7, 0)));
        batch.extend_from_slice(&[0x7a, 1, 0]);
        assert_eq!(operations(&batch, usize::MAX).map(|_| ()), None);
        assert_eq!(decode_batch(batch.into()).unwrap().number, 7);
    }
}

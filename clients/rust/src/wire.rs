//! Batches as bytes: operations are encoded once, when they are pushed.
//!
//! A batch is kept as the encoded `operations` field of its message, without its number. So it gets its number when it
//! is sent, and a new number after a halt. [`dstl_proto::wire`] has the picture, and reads these bytes.
//!
//! The bytes are the same as prost's: defaults are omitted and fields ascend. So the encoded length, which costs
//! credit, is the same on both sides.

use bytes::{Buf as _, BufMut, Bytes};
use prost::{
    Message as _,
    encoding::{encode_varint, encoded_len_varint},
};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use super::{ClientError, Encode};
use dstl_proto::{
    v1::{OperationKind, SessionRequest, SessionResponse, session_response::Response},
    wire::{kind_and_state, results, tag, take_bytes, take_tag},
};

/// Most bytes of a request besides the operations of its batch: two tags with the number and the length.
pub(super) const BATCH_OVERHEAD: usize = 17;

const ENCODE_BUFFER_BYTES: usize = 64 << 10;
const YIELD_BYTES: usize = 256 << 10;

/// The fields that all operations on one state share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) kind: OperationKind,
    pub(super) state: u32,
    pub(super) namespace: &'a [u8],
    pub(super) key_group: Option<u32>,
}

/// The fields of one operation besides its [`Target`]; `()` for a missing one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a, K: ?Sized, M: ?Sized, V: ?Sized> {
    pub(super) key: &'a K,
    pub(super) map_key: &'a M,
    pub(super) value: &'a V,
    pub(super) start: u64,
    pub(super) limit: u64,
}

/// Appends one operation.
#[inline]
pub(super) fn put_operation<K, M, V>(out: &mut Vec<u8>, target: &Target<'_>, fields: &Fields<'_, K, M, V>)
where
    K: Encode + ?Sized,
    M: Encode + ?Sized,
    V: Encode + ?Sized,
{
    // The length of the whole comes first, so all lengths are computed before anything is written.
    let key = fields.key.encoded_len();
    let map_key = fields.map_key.encoded_len();
    let value = fields.value.encoded_len();
    let length = target_len(target)
        + field_len(key)
        + field_len(map_key)
        + field_len(value)
        + number_len(fields.start)
        + number_len(fields.limit);
    open_operation(out, length, target);
    put_field(out, tag::KEY, key, fields.key);
    put_field(out, tag::NAMESPACE, target.namespace.len(), target.namespace);
    put_field(out, tag::MAP_KEY, map_key, fields.map_key);
    put_field(out, tag::VALUE, value, fields.value);
    put_number(out, tag::START, fields.start);
    put_number(out, tag::LIMIT, fields.limit);
    put_key_group(out, target.key_group);
}

/// Appends one operation with elements.
pub(super) fn put_elements<K, V>(out: &mut Vec<u8>, target: &Target<'_>, key: &K, values: &[V])
where
    K: Encode + ?Sized,
    V: Encode,
{
    let key_len = key.encoded_len();
    let elements: usize = values.iter().map(|value| element_len(value.encoded_len())).sum();
    open_operation(out, target_len(target) + field_len(key_len) + elements, target);
    put_field(out, tag::KEY, key_len, key);
    put_field(out, tag::NAMESPACE, target.namespace.len(), target.namespace);
    for value in values {
        put_element(out, tag::VALUES, value.encoded_len(), value);
    }
    put_key_group(out, target.key_group);
}

/// Appends one operation on a timer.
pub(super) fn put_timer<K: Encode + ?Sized>(out: &mut Vec<u8>, target: &Target<'_>, key: &K, time: i64) {
    let key_len = key.encoded_len();
    let time = time.cast_unsigned();
    open_operation(out, target_len(target) + field_len(key_len) + number_len(time), target);
    put_field(out, tag::KEY, key_len, key);
    put_field(out, tag::NAMESPACE, target.namespace.len(), target.namespace);
    // Fields ascend, so the time comes behind the key group.
    put_key_group(out, target.key_group);
    put_number(out, tag::TIME, time);
}

/// Whether operations of `kind` return a result and change nothing (unless reads touch their entries).
#[inline]
pub(super) fn is_read(kind: OperationKind) -> bool {
    matches!(
        kind,
        OperationKind::Get
            | OperationKind::MapGet
            | OperationKind::MapContains
            | OperationKind::MapEntries
            | OperationKind::MapCount
            | OperationKind::ListGet
            | OperationKind::ListCount
            | OperationKind::Keys
            | OperationKind::Timers
            | OperationKind::TimerCount
    )
}

/// The length of a `Batch` message with this number and these operations, which is its cost if it writes.
pub(super) fn batch_len(number: u64, operations: &[u8]) -> usize {
    number_len(number) + operations.len()
}

/// Cuts encoded operations into one slice per operation, including its tag and length.
///
/// # Errors
/// [`ClientError::Incomplete`] if this module did not write them.
pub(super) fn split_operations(operations: &Bytes) -> Result<Vec<Bytes>, ClientError> {
    let mut rest: &[u8] = operations;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let before = rest;
        let is_whole = take_tag(&mut rest, tag::OPERATION_IN_BATCH).and_then(|()| take_bytes(&mut rest)).is_some();
        let (part, _) = before.split_at(before.len() - rest.len());
        if !is_whole {
            return Err(ClientError::Incomplete("whole operations"));
        }
        parts.push(operations.slice_ref(part));
    }
    Ok(parts)
}

/// Whether one slice of [`split_operations`] is a read.
pub(super) fn part_is_read(part: &Bytes) -> bool {
    part_head(part).is_some_and(|(kind, _)| OperationKind::try_from(kind).is_ok_and(is_read))
}

/// The state of one slice of [`split_operations`].
pub(super) fn part_state(part: &Bytes) -> Option<u32> {
    part_head(part).map(|(_, state)| state)
}

fn part_head(mut part: &[u8]) -> Option<(i32, u32)> {
    take_tag(&mut part, tag::OPERATION_IN_BATCH)?;
    kind_and_state(take_bytes(&mut part)?)
}

#[inline]
fn number_len(number: u64) -> usize {
    if number == 0 { 0 } else { 1 + encoded_len_varint(number) }
}

#[inline]
fn field_len(length: usize) -> usize {
    if length == 0 { 0 } else { element_len(length) }
}

#[inline]
fn element_len(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

#[inline]
fn kind_number(kind: OperationKind) -> u64 {
    u64::try_from(i32::from(kind)).expect("no operation kind is negative")
}

#[inline]
fn target_len(target: &Target<'_>) -> usize {
    let key_group = target.key_group.map_or(0, |group| 1 + encoded_len_varint(u64::from(group)));
    number_len(kind_number(target.kind))
        + number_len(u64::from(target.state))
        + field_len(target.namespace.len())
        + key_group
}

#[inline]
fn open_operation(out: &mut Vec<u8>, length: usize, target: &Target<'_>) {
    // Besides the operation: one byte of tag, and up to five of its length.
    out.reserve(length + 6);
    out.push(tag::OPERATION_IN_BATCH);
    put_varint(out, length as u64);
    put_number(out, tag::KIND, kind_number(target.kind));
    put_number(out, tag::STATE, u64::from(target.state));
}

/// Nearly every varint here is one byte.
#[inline]
fn put_varint(out: &mut Vec<u8>, number: u64) {
    match u8::try_from(number) {
        Ok(byte) if byte < 0x80 => out.push(byte),
        _ => encode_varint(number, out),
    }
}

#[inline]
fn put_number(out: &mut Vec<u8>, tag: u8, number: u64) {
    if number != 0 {
        out.push(tag);
        put_varint(out, number);
    }
}

#[inline]
fn put_field(out: &mut Vec<u8>, tag: u8, length: usize, value: &(impl Encode + ?Sized)) {
    if length != 0 {
        put_element(out, tag, length, value);
    }
}

#[inline]
fn put_element(out: &mut Vec<u8>, tag: u8, length: usize, value: &(impl Encode + ?Sized)) {
    out.push(tag);
    put_varint(out, length as u64);
    let before = out.len();
    value.encode(out);
    assert_eq!(out.len() - before, length, "`Encode::encoded_len` must tell what `encode` writes");
}

#[inline]
fn put_key_group(out: &mut Vec<u8>, key_group: Option<u32>) {
    if let Some(group) = key_group {
        out.push(tag::KEY_GROUP);
        put_varint(out, u64::from(group));
    }
}

/// One message of the session stream.
#[derive(Debug, Clone)]
pub(super) enum Frame {
    /// A batch whose operations are already encoded.
    Batch { number: u64, operations: Bytes },
    /// Any other request.
    Request(SessionRequest),
}

/// Writes [`Frame`]s and reads `SessionResponse`s.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SessionCodec;

impl Codec for SessionCodec {
    type Decode = SessionResponse;
    type Decoder = Self;
    type Encode = Frame;
    type Encoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for SessionCodec {
    type Error = Status;
    type Item = Frame;

    fn encode(&mut self, frame: Frame, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        match frame {
            Frame::Batch { number, operations } => {
                out.reserve(operations.len() + BATCH_OVERHEAD);
                put_batch(number, &operations, out);
                Ok(())
            }
            Frame::Request(request) => request.encode(out).map_err(|error| Status::internal(error.to_string())),
        }
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(ENCODE_BUFFER_BYTES, YIELD_BYTES)
    }
}

impl Decoder for SessionCodec {
    type Error = Status;
    type Item = SessionResponse;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<SessionResponse>, Status> {
        let message = bytes.copy_to_bytes(bytes.remaining());
        if let Some(result) = results::read(&message) {
            return Ok(Some(SessionResponse { response: Some(Response::Result(result)) }));
        }
        SessionResponse::decode(message).map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(ENCODE_BUFFER_BYTES, YIELD_BYTES)
    }
}

/// Appends a whole `SessionRequest` with a batch.
fn put_batch(number: u64, operations: &[u8], out: &mut impl BufMut) {
    out.put_u8(tag::BATCH_IN_REQUEST);
    encode_varint(batch_len(number, operations) as u64, out);
    // Defaults are left out as prost does, so that both sides compute the same cost.
    if number != 0 {
        out.put_u8(tag::NUMBER_IN_BATCH);
        encode_varint(number, out);
    }
    out.put_slice(operations);
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;

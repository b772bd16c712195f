//! Batches of a session in place: both sides write and read their operations without a protobuf struct for each.
//!
//! ```text
//!  SessionRequest  12 len │ 08 number │ 12 len operation │ 12 len operation │ …
//!                         └ Batch ────┴──────────────────────────────────────
//! ```
//!
//! These tags, in ascending order and each at most once, are the form of any generated code. It is called the *usual
//! form* here. A message in another form is left to prost. [`results`] does the same for the answers.

pub mod results;

use bytes::Bytes;
use prost::encoding::decode_varint;

use crate::v1;

/// Tags of the fields: number and wire type, in one byte each.
#[allow(missing_docs, reason = "each is named like its field")]
pub mod tag {
    pub const BATCH_IN_REQUEST: u8 = 0x12;
    pub const NUMBER_IN_BATCH: u8 = 0x08;
    pub const OPERATION_IN_BATCH: u8 = 0x12;

    pub const KIND: u8 = 0x08;
    pub const STATE: u8 = 0x10;
    pub const KEY: u8 = 0x1a;
    pub const NAMESPACE: u8 = 0x22;
    pub const MAP_KEY: u8 = 0x2a;
    pub const VALUE: u8 = 0x32;
    pub const VALUES: u8 = 0x3a;
    pub const START: u8 = 0x40;
    pub const LIMIT: u8 = 0x48;
    pub const KEY_GROUP: u8 = 0x50;
    pub const TIME: u8 = 0x68;
}

/// The fields of an operation, borrowed from its message.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs, reason = "those of `Operation` in the protocol")]
pub struct Fields<'a> {
    pub kind: i32,
    pub state: u32,
    pub key: &'a [u8],
    pub namespace: &'a [u8],
    pub map_key: &'a [u8],
    pub value: &'a [u8],
    pub values: &'a [Bytes],
    pub start: u64,
    pub limit: u64,
    pub key_group: Option<u32>,
    pub all_namespaces: bool,
    pub token: &'a [u8],
    pub time: i64,
    pub map_key_to: &'a [u8],
    pub map_prefix: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Reads an operation in the usual form; `None` for other forms and rare fields, such as lists of elements.
    #[inline]
    #[must_use]
    pub fn read(mut bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Self::default();
        while let Some((&tag, rest)) = bytes.split_first() {
            bytes = rest;
            match tag {
                tag::KIND => fields.kind = i32::try_from(take_varint(&mut bytes)?).ok()?,
                tag::STATE => fields.state = u32::try_from(take_varint(&mut bytes)?).ok()?,
                tag::KEY => fields.key = take_bytes(&mut bytes)?,
                tag::NAMESPACE => fields.namespace = take_bytes(&mut bytes)?,
                tag::MAP_KEY => fields.map_key = take_bytes(&mut bytes)?,
                tag::VALUE => fields.value = take_bytes(&mut bytes)?,
                tag::START => fields.start = take_varint(&mut bytes)?,
                tag::LIMIT => fields.limit = take_varint(&mut bytes)?,
                tag::TIME => fields.time = take_varint(&mut bytes)?.cast_signed(),
                tag::KEY_GROUP => fields.key_group = Some(u32::try_from(take_varint(&mut bytes)?).ok()?),
                _ => return None,
            }
        }
        Some(fields)
    }
}

impl<'a> From<&'a v1::Operation> for Fields<'a> {
    fn from(wire: &'a v1::Operation) -> Self {
        Self {
            kind: wire.kind,
            state: wire.state,
            key: &wire.key,
            namespace: &wire.namespace,
            map_key: &wire.map_key,
            value: &wire.value,
            values: &wire.values,
            start: wire.start,
            limit: wire.limit,
            key_group: wire.key_group,
            all_namespaces: wire.all_namespaces,
            token: &wire.token,
            time: wire.time,
            map_key_to: &wire.map_key_to,
            map_prefix: &wire.map_prefix,
        }
    }
}

/// Kind and state of an operation in the usual form, which are its first fields; 0 for one that is left out.
#[must_use]
pub fn kind_and_state(mut operation: &[u8]) -> Option<(i32, u32)> {
    let kind = take_field(&mut operation, tag::KIND)?;
    let state = take_field(&mut operation, tag::STATE)?;
    Some((i32::try_from(kind).ok()?, u32::try_from(state).ok()?))
}

/// Takes the number of a field that may be left out.
fn take_field(bytes: &mut &[u8], tag: u8) -> Option<u64> {
    if bytes.first() == Some(&tag) { take_tag(bytes, tag).and_then(|()| take_varint(bytes)) } else { Some(0) }
}

/// Takes this tag from the front; `None` if it is not there.
#[inline]
pub fn take_tag(bytes: &mut &[u8], tag: u8) -> Option<()> {
    let (&first, rest) = bytes.split_first()?;
    *bytes = rest;
    (first == tag).then_some(())
}

/// Takes a number from the front; `None` if there is none. Nearly every number is one byte.
#[inline]
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    match bytes.split_first() {
        Some((&byte, rest)) if byte < 0x80 => {
            *bytes = rest;
            Some(u64::from(byte))
        }
        _ => decode_varint(bytes).ok(),
    }
}

/// Takes a length and so many bytes from the front; `None` if they are not there.
#[inline]
pub fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

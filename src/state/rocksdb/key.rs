//! The layout of entries as RocksDB keys.
//!
//! ```text
//!   key group: u16, big-endian │ state: varint │ by kind
//!
//!   all but timers: key: varint length, bytes │ namespace: varint length, bytes │ rest
//!   value    (nothing)                    ─▶ the value
//!   map      map key…                     ─▶ its value
//!   list     (nothing)                    ─▶ number of elements: u64, little-endian
//!            index: u64, big-endian       ─▶ the element
//!
//!   timers: time: i64 with the sign bit turned over, big-endian │ key, 0 as 0 1, then 0 0 │ namespace… ─▶ (nothing)
//! ```
//!
//! The kind of a state is not part of the key, but needed to read the part behind the state. Timers of one key group
//! are in order of time, then of the bytes of key and namespace. All other entries are grouped by key group, then by
//! state, then by (key, namespace); map entries are in order of their keys, and elements in order of their indices.
//! Lengths make the part before the rest prefix-free.

use std::borrow::Cow;

use crate::{
    state::{Address, StateError, TimerRef},
    types::{KeyGroup, StateId},
};

/// Bytes of the index of a list element.
const INDEX_BYTES: usize = size_of::<u64>();

/// Bytes of the time of a timer.
const TIME_BYTES: usize = size_of::<i64>();

/// Combined with a timer's time by XOR, so that bytes sort as times.
const SIGN: u64 = 1 << 63;

/// The beginning of a key of any kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head<'a> {
    pub(super) key_group: KeyGroup,
    pub(super) state: StateId,
    /// The rest, whose form depends on the kind.
    pub(super) rest: &'a [u8],
}

/// The parts of the rest of a timer's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ParsedTimer<'a> {
    pub(super) time: i64,
    pub(super) key: Cow<'a, [u8]>,
    pub(super) namespace: &'a [u8],
}

/// The parts of a key of any kind except timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parsed<'a> {
    pub(super) at: Address<'a>,
    pub(super) rest: &'a [u8],
}

/// Empties `out`, and writes the prefix of all entries of (key, namespace) into it.
pub(super) fn prefix(at: Address<'_>, out: &mut Vec<u8>) {
    out.clear();
    state_prefix(at.key_group, at.state, out);
    push_name(at.key, at.namespace, out);
}

/// Appends the part that distinguishes the (key, namespace) pairs of one (key group, state).
pub(super) fn push_name(key: &[u8], namespace: &[u8], out: &mut Vec<u8>) {
    for part in [key, namespace] {
        prost::encoding::encode_varint(part.len() as u64, out);
        out.extend_from_slice(part);
    }
}

/// Appends the prefix of all entries of (key group, state).
pub(super) fn state_prefix(group: KeyGroup, state: StateId, out: &mut Vec<u8>) {
    out.extend_from_slice(&group.0.to_be_bytes());
    prost::encoding::encode_varint(u64::from(state.0), out);
}

/// Appends the rest of a list element's key.
pub(super) fn push_index(index: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&index.to_be_bytes());
}

/// Appends the rest of a timer's key.
pub(super) fn push_timer(time: i64, key: &[u8], namespace: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(time.cast_unsigned() ^ SIGN).to_be_bytes());
    for byte in key {
        // The end is 0 0 and a zero byte is 0 1, so a key sorts before all longer keys that begin with it.
        out.push(*byte);
        if *byte == 0 {
            out.push(1);
        }
    }
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(namespace);
}

/// The time of a timer, from the rest of its key.
pub(super) fn time(rest: &[u8]) -> Result<i64, StateError> {
    let time = rest.first_chunk::<TIME_BYTES>().ok_or(StateError::Undecodable("the time of a timer"))?;
    Ok((u64::from_be_bytes(*time) ^ SIGN).cast_signed())
}

/// Splits the rest of a timer's key into its parts.
pub(super) fn parse_timer(rest: &[u8]) -> Result<ParsedTimer<'_>, StateError> {
    let damaged = || StateError::Undecodable("the key of a timer");
    let time = time(rest)?;
    let name = rest.get(TIME_BYTES..).ok_or_else(damaged)?;
    let (mut key, mut from) = (Cow::Borrowed(&[][..]), 0);
    loop {
        let zero =
            from + name.get(from..).and_then(|rest| rest.iter().position(|byte| *byte == 0)).ok_or_else(damaged)?;
        let part = name.get(from..zero).ok_or_else(damaged)?;
        // A key without zero bytes, which is the usual case, is borrowed whole.
        if key.is_empty() && from == 0 {
            key = Cow::Borrowed(part)
        } else {
            key.to_mut().extend_from_slice(part)
        }
        match name.get(zero + 1) {
            Some(0) => {
                let namespace = name.get(zero + 2..).ok_or_else(damaged)?;
                return Ok(ParsedTimer { time, key, namespace });
            }
            Some(1) => key.to_mut().push(0),
            _ => return Err(damaged()),
        }
        from = zero + 2;
    }
}

impl ParsedTimer<'_> {
    /// The timer, in this key group.
    pub(super) fn of(&self, key_group: KeyGroup) -> TimerRef<'_> {
        TimerRef { time: self.time, key: &self.key, namespace: self.namespace, key_group }
    }
}

/// The first key behind all keys that begin with `prefix`; `None` if there cannot be one.
pub(super) fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut behind = prefix.get(..=kept)?.to_vec();
    *behind.last_mut()? += 1;
    Some(behind)
}

/// The first key of a key group. For the group after the last one, this is the end.
pub(super) fn group_start(group: u32) -> Vec<u8> {
    // Key groups are below 2^15, so the one after the last one fits, too.
    u16::try_from(group).unwrap_or(u16::MAX).to_be_bytes().to_vec()
}

/// The index of a list element, from the rest of its key; `None` for the record of the list's length.
pub(super) fn index(rest: &[u8]) -> Result<Option<u64>, StateError> {
    match <[u8; INDEX_BYTES]>::try_from(rest) {
        Ok(index) => Ok(Some(u64::from_be_bytes(index))),
        Err(_) if rest.is_empty() => Ok(None),
        Err(_) => Err(StateError::Undecodable("the index of a list element")),
    }
}

/// The number of elements of a list, from its record.
pub(super) fn length(record: &[u8]) -> Result<u64, StateError> {
    let bytes = record.try_into().map_err(|_| StateError::Undecodable("the length of a list"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Splits off the beginning of a key of any kind.
pub(super) fn head(key: &[u8]) -> Result<Head<'_>, StateError> {
    let (group, rest) = key.split_first_chunk().ok_or(StateError::Undecodable("a key without key group"))?;
    let (state, rest) = varint(rest)?;
    let state = StateId(u32::try_from(state).map_err(|_| StateError::Undecodable("the state id of a key"))?);
    Ok(Head { key_group: KeyGroup(u16::from_be_bytes(*group)), state, rest })
}

/// Splits a key of any kind except timers.
pub(super) fn parse(key: &[u8]) -> Result<Parsed<'_>, StateError> {
    let Head { key_group, state, rest } = head(key)?;
    let (key, rest) = part(rest)?;
    let (namespace, rest) = part(rest)?;
    Ok(Parsed { at: Address { state, key_group, key, namespace }, rest })
}

fn varint(mut bytes: &[u8]) -> Result<(u64, &[u8]), StateError> {
    let value = prost::encoding::decode_varint(&mut bytes).map_err(|_| StateError::Undecodable("a varint of a key"))?;
    Ok((value, bytes))
}

fn part(bytes: &[u8]) -> Result<(&[u8], &[u8]), StateError> {
    let (length, rest) = varint(bytes)?;
    let length = usize::try_from(length).map_err(|_| StateError::Undecodable("a length of a key"))?;
    rest.split_at_checked(length).ok_or(StateError::Undecodable("a key that ends early"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_come_apart_as_they_were_put_together(
            (state, group) in (any::<u32>(), 0..u16::MAX),
            (key, namespace, rest) in (prop::collection::vec(any::<u8>(), 0..200), prop::collection::vec(any::<u8>(), 0..9),
                prop::collection::vec(any::<u8>(), 0..9)),
        ) {
            let at = Address { state: StateId(state), key_group: KeyGroup(group), key: &key, namespace: &namespace };
            let mut bytes = vec![7];
            prefix(at, &mut bytes);
            let own = bytes.clone();
            bytes.extend_from_slice(&rest);
            prop_assert_eq!(parse(&bytes).unwrap(), Parsed { at, rest: &rest });
            prop_assert!(behind(&own).is_none_or(|behind| own < behind && bytes < behind));
        }

        #[test]
        fn damaged_keys_are_errors_or_other_keys(
            (state, group, time) in (any::<u32>(), 0..u16::MAX, any::<i64>()),
            (key, namespace) in (prop::collection::vec(0..3_u8, 0..6), prop::collection::vec(0..3_u8, 0..6)),
            (place, byte, noise) in (any::<prop::sample::Index>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..12)),
        ) {
            let at = Address { state: StateId(state), key_group: KeyGroup(group), key: &key, namespace: &namespace };
            let (mut entry, mut timer) = (vec![], vec![]);
            prefix(at, &mut entry);
            push_timer(time, &key, &namespace, &mut timer);
            for end in 0..entry.len() {
                prop_assert!(parse(&entry[..end]).is_err(), "cut off at {end}");
            }
            for end in 0..timer.len() - namespace.len() {
                prop_assert!(parse_timer(&timer[..end]).is_err(), "cut off at {end}");
            }
            // The parts must be exactly the bytes of the key: put together again, they are never longer (a varint may
            // have been padded).
            let changed = |bytes: &[u8]| {
                let mut bytes = bytes.to_vec();
                let place = place.index(bytes.len());
                bytes[place] = byte;
                bytes
            };
            for bytes in [changed(&entry), noise.clone()] {
                let Ok(parsed) = parse(&bytes) else { continue };
                let mut again = vec![];
                prefix(parsed.at, &mut again);
                again.extend_from_slice(parsed.rest);
                prop_assert!(again.len() <= bytes.len());
                prop_assert_eq!(parse(&again).unwrap(), parsed);
            }
            for bytes in [changed(&timer), noise] {
                let Ok(parsed) = parse_timer(&bytes) else { continue };
                let mut again = vec![];
                push_timer(parsed.time, &parsed.key, parsed.namespace, &mut again);
                prop_assert_eq!(again, bytes);
            }
        }

        #[test]
        fn timers_come_apart_as_they_were_put_together_and_sort_as_they_do(timers in prop::collection::vec(
            (prop_oneof![any::<i64>(), -1..2_i64], prop::collection::vec(0..3_u8, 0..4), prop::collection::vec(0..3_u8, 0..3)),
            2,
        )) {
            let rows: Vec<_> = timers.iter().map(|(time, key, namespace)| {
                let mut row = vec![];
                push_timer(*time, key, namespace, &mut row);
                row
            }).collect();
            for ((time, key, namespace), row) in timers.iter().zip(&rows) {
                let expected = ParsedTimer { time: *time, key: Cow::Borrowed(key), namespace };
                prop_assert_eq!(parse_timer(row).unwrap(), expected);
            }
            prop_assert_eq!(timers[0].cmp(&timers[1]), rows[0].cmp(&rows[1]));
        }
    }

    #[test]
    fn the_bytes_of_a_key_never_change() {
        let at = Address { state: StateId(300), key_group: KeyGroup(0x0102), key: b"key", namespace: b"ns" };
        let mut bytes = vec![];
        prefix(at, &mut bytes);
        push_index(5, &mut bytes);
        assert_eq!(bytes, b"\x01\x02\xac\x02\x03key\x02ns\0\0\0\0\0\0\0\x05");
        let mut bytes = vec![];
        push_timer(5, b"k\0y", b"ns", &mut bytes);
        assert_eq!(bytes, b"\x80\0\0\0\0\0\0\x05k\0\x01y\0\0ns");
    }

    #[test]
    fn what_lies_behind_a_prefix() {
        assert_eq!(behind(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(behind(&[1, 255]), Some(vec![2]));
        assert_eq!(behind(&[255, 255]), None);
    }
}

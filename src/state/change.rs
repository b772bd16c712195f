//! State changes and their bytes.
//!
//! ```text
//!   kind: u8 │ state: varint │ key: varint length, bytes │ namespace: varint length, bytes │ rest, by kind
//!
//!   0 Clear                            (nothing)       all of (key, namespace)
//!   1 Put, 2 Append                    value…          a value
//!   3 MapPut, 5 MapAppend              map key: varint length, bytes │ value…
//!   4 MapRemove                        map key…
//!   6 ListPut                          index: varint │ element…
//!   7 TimerPut, 8 TimerRemove          time: i64, little-endian
//! ```
//!
//! A varint is LEB128, as in protobuf. The last field takes all remaining bytes, since the log frames each change. The
//! key group is not repeated here; the log keeps it beside the bytes.

use super::{Address, StateError};
use crate::types::{KeyGroup, StateId};

/// A recorded change of one entry, or the removal of all entries of one key and namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// The place that it changes.
    pub at: Address<'a>,
    /// The kind of change, with its data.
    pub action: Action<'a>,
}

/// The kinds of changes. None of them needs another entry, or user code, to be applied again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// Removes all of (key, namespace), of any kind except timers.
    Clear,
    /// Sets a value.
    Put(&'a [u8]),
    /// Appends to a value, or creates it.
    Append(&'a [u8]),
    /// Sets a map entry.
    MapPut {
        /// The key of the map entry.
        map_key: &'a [u8],
        /// The new value of the map entry.
        value: &'a [u8],
    },
    /// Removes a map entry, if it is there.
    MapRemove {
        /// The key of the map entry.
        map_key: &'a [u8],
    },
    /// Appends to a map entry, or creates it.
    MapAppend {
        /// The key of the map entry.
        map_key: &'a [u8],
        /// The bytes to append.
        value: &'a [u8],
    },
    /// Sets the list element with this index, which is an existing one or the next.
    ListPut {
        /// The index of the element, from 0.
        index: u64,
        /// The new element.
        element: &'a [u8],
    },
    /// Adds a timer, if it is not set.
    TimerPut {
        /// The time of the timer, above the lowest `i64`.
        time: i64,
    },
    /// Removes a timer, if it is set.
    TimerRemove {
        /// The time of the timer.
        time: i64,
    },
}

impl<'a> Change<'a> {
    /// Appends the change's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let time;
        let (kind, index, map_key, value): (u8, Option<u64>, Option<&[u8]>, &[u8]) = match self.action {
            Action::Clear => (0, None, None, &[]),
            Action::Put(value) => (1, None, None, value),
            Action::Append(value) => (2, None, None, value),
            Action::MapPut { map_key, value } => (3, None, Some(map_key), value),
            Action::MapRemove { map_key } => (4, None, None, map_key),
            Action::MapAppend { map_key, value } => (5, None, Some(map_key), value),
            Action::ListPut { index, element } => (6, Some(index), None, element),
            Action::TimerPut { time: at } => {
                time = at.to_le_bytes();
                (7, None, None, &time)
            }
            Action::TimerRemove { time: at } => {
                time = at.to_le_bytes();
                (8, None, None, &time)
            }
        };
        out.push(kind);
        put_varint(out, u64::from(self.at.state.0));
        put_bytes(out, self.at.key);
        put_bytes(out, self.at.namespace);
        if let Some(index) = index {
            put_varint(out, index);
        }
        if let Some(map_key) = map_key {
            put_bytes(out, map_key);
        }
        out.extend_from_slice(value);
    }

    /// Reads a change from exactly `bytes`.
    ///
    /// # Errors
    /// [`StateError::Undecodable`] if they are not a change.
    pub fn decode(key_group: KeyGroup, bytes: &'a [u8]) -> Result<Self, StateError> {
        let (&kind, rest) = bytes.split_first().ok_or(StateError::Undecodable("empty"))?;
        let (state, rest) = take_varint(rest)?;
        let state = StateId(u32::try_from(state).map_err(|_| StateError::Undecodable("state id"))?);
        let (key, rest) = take_bytes(rest)?;
        let (namespace, rest) = take_bytes(rest)?;
        let action = match kind {
            // The last field takes all remaining bytes. A clear has no such field, so bytes behind it are damage.
            0 if rest.is_empty() => Action::Clear,
            0 => return Err(StateError::Undecodable("bytes after a clear")),
            1 => Action::Put(rest),
            2 => Action::Append(rest),
            3 | 5 => {
                let (map_key, value) = take_bytes(rest)?;
                if kind == 3 { Action::MapPut { map_key, value } } else { Action::MapAppend { map_key, value } }
            }
            4 => Action::MapRemove { map_key: rest },
            6 => {
                let (index, element) = take_varint(rest)?;
                Action::ListPut { index, element }
            }
            7 | 8 => {
                let time = rest.try_into().map_err(|_| StateError::Undecodable("a time that has not 8 bytes"))?;
                let time = i64::from_le_bytes(time);
                if kind == 7 { Action::TimerPut { time } } else { Action::TimerRemove { time } }
            }
            _ => return Err(StateError::Undecodable("unknown kind")),
        };
        Ok(Self { at: Address { state, key_group, key, namespace }, action })
    }
}

/// The value or map entry of an encoded change, and whether the change sets it, whatever it was before, or appends to
/// it. The entry is a part of the bytes: equal in all such changes of the entry, and different for other entries of the
/// same key group. `None` for changes of any other kind, and for bytes that are none.
#[must_use]
pub fn set_or_extended(bytes: &[u8]) -> Option<(&[u8], bool)> {
    let (kind, of_state) = bytes.split_first()?;
    let (_, rest) = take_varint(of_state).ok()?;
    let (_, rest) = take_bytes(rest).ok()?;
    let (_, rest) = take_bytes(rest).ok()?;
    let value = match kind {
        1 | 2 => rest,
        3 | 5 => take_bytes(rest).ok()?.1,
        // An element of a list is set only if the ones before it are there, so an earlier change may matter to later
        // ones.
        _ => return None,
    };
    // Without the kind of change. A state has values or map entries, so they are not mixed up.
    Some((of_state.get(..of_state.len() - value.len())?, matches!(kind, 1 | 3)))
}

/// Nearly every varint here is one byte.
#[inline]
fn put_varint(out: &mut Vec<u8>, value: u64) {
    match u8::try_from(value) {
        Ok(byte) if byte < 0x80 => out.push(byte),
        _ => prost::encoding::encode_varint(value, out),
    }
}

#[inline]
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn take_varint(mut bytes: &[u8]) -> Result<(u64, &[u8]), StateError> {
    let value = prost::encoding::decode_varint(&mut bytes).map_err(|_| StateError::Undecodable("varint"))?;
    Ok((value, bytes))
}

fn take_bytes(bytes: &[u8]) -> Result<(&[u8], &[u8]), StateError> {
    let (length, rest) = take_varint(bytes)?;
    let length = usize::try_from(length).map_err(|_| StateError::Undecodable("length"))?;
    rest.split_at_checked(length).ok_or(StateError::Undecodable("shorter than its length says"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY_GROUP: KeyGroup = KeyGroup(7);

    fn change<'a>(state: u32, key: &'a [u8], namespace: &'a [u8], action: Action<'a>) -> Change<'a> {
        Change { at: Address { state: StateId(state), key_group: KEY_GROUP, key, namespace }, action }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_bytes_of_each_kind_never_change() {
        let (map_key, value) = (&b"m"[..], &b"value"[..]);
        let golden = [
            (Action::Clear, "0001036b6579026e73"),
            (Action::Put(value), "0101036b6579026e7376616c7565"),
            (Action::Append(value), "0201036b6579026e7376616c7565"),
            (Action::MapPut { map_key, value }, "0301036b6579026e73016d76616c7565"),
            (Action::MapRemove { map_key }, "0401036b6579026e736d"),
            (Action::MapAppend { map_key, value }, "0501036b6579026e73016d76616c7565"),
            (Action::ListPut { index: 300, element: value }, "0601036b6579026e73ac0276616c7565"),
            (Action::TimerPut { time: 300 }, "0701036b6579026e732c01000000000000"),
            (Action::TimerRemove { time: -2 }, "0801036b6579026e73feffffffffffffff"),
        ];
        for (action, bytes) in golden {
            let mut out = Vec::new();
            change(1, b"key", b"ns", action).encode(&mut out);
            assert_eq!(hex(&out), bytes, "{action:?}");
        }
        let mut out = vec![0xee];
        change(u32::MAX, &[b'k'; 128], b"", Action::Put(b"")).encode(&mut out);
        assert_eq!(hex(&out), format!("ee01ffffffff0f8001{}00", "6b".repeat(128)), "appends; long varints");
    }

    #[test]
    fn only_values_and_map_entries_are_set_whatever_they_were() {
        let (map_key, value) = (&b"m"[..], &b"value"[..]);
        let entry = |namespace: &[u8], action| {
            let mut out = Vec::new();
            change(1, b"key", namespace, action).encode(&mut out);
            set_or_extended(&out).map(|(entry, sets)| (hex(entry), sets))
        };
        let of_value = "01036b6579026e73".to_owned();
        assert_eq!(entry(b"ns", Action::Put(value)).unwrap(), (of_value.clone(), true));
        assert_eq!(entry(b"ns", Action::Put(b"")).unwrap(), (of_value.clone(), true));
        assert_eq!(entry(b"ns", Action::Append(value)).unwrap(), (of_value.clone(), false));
        let of_entry = format!("{of_value}016d");
        assert_eq!(entry(b"ns", Action::MapPut { map_key, value }).unwrap(), (of_entry.clone(), true));
        assert_eq!(entry(b"ns", Action::MapAppend { map_key, value }).unwrap(), (of_entry, false));
        let others = [
            Action::Clear,
            Action::MapRemove { map_key },
            Action::ListPut { index: 0, element: value },
            Action::TimerPut { time: 1 },
            Action::TimerRemove { time: 1 },
        ];
        assert!(others.into_iter().all(|action| entry(b"", action).is_none()));
        assert_eq!(set_or_extended(b""), None);
        assert_eq!(set_or_extended(&[1, 1, 9, b'k']), None);
    }

    #[test]
    fn refuses_what_is_no_change() {
        let garbage: [&[u8]; 12] = [
            b"",
            &[1],
            &[9, 1, 1, b'k', 0],
            &[7, 1, 1, b'k', 0, 0, 0, 0, 0, 0, 0, 0],
            &[8, 1, 1, b'k', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[255, 1, 1, b'k', 0],
            &[0, 1, 1, b'k', 0, 0],
            &[1, 1, 2, b'k'],
            &[1, 1, 1, b'k', 1],
            &[3, 1, 1, b'k', 0, 1],
            &[6, 1, 1, b'k', 0, 0x80],
            &[1, 0xff, 0xff, 0xff, 0xff, 0x1f, 1, b'k', 0],
        ];
        for bytes in garbage {
            let error = Change::decode(KEY_GROUP, bytes).unwrap_err();
            assert!(matches!(error, StateError::Undecodable(_)), "{bytes:?}: {error}");
        }
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..200)
    }

    proptest! {
        #[test]
        fn every_change_comes_back_as_it_was(
            (kind, state, index, time) in (0..9, any::<u32>(), any::<u64>(), any::<i64>()),
            (key, namespace, map_key, value) in (bytes(), bytes(), bytes(), bytes()),
        ) {
            let (map_key, value) = (&map_key[..], &value[..]);
            let action = match kind {
                0 => Action::Clear,
                1 => Action::Put(value),
                2 => Action::Append(value),
                3 => Action::MapPut { map_key, value },
                4 => Action::MapRemove { map_key },
                5 => Action::MapAppend { map_key, value },
                6 => Action::ListPut { index, element: value },
                7 => Action::TimerPut { time },
                _ => Action::TimerRemove { time },
            };
            let change = change(state, &key, &namespace, action);
            let mut out = Vec::new();
            change.encode(&mut out);
            prop_assert_eq!(Change::decode(KEY_GROUP, &out).unwrap(), change);
        }

        #[test]
        fn no_bytes_make_decoding_fail_otherwise_than_by_an_error(bytes in bytes()) {
            if let Ok(change) = Change::decode(KEY_GROUP, &bytes) {
                let mut out = Vec::new();
                change.encode(&mut out);
                prop_assert_eq!(Change::decode(KEY_GROUP, &out).unwrap(), change);
            }
        }
    }
}

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
//! ```
//!
//! A varint is LEB128, as in protobuf. The last field takes all bytes that remain: the log frames each change. The key group
//! is not repeated here, the log keeps it beside the bytes.

use super::{Address, StateError};
use crate::types::{KeyGroup, StateId};

/// One recorded change of one entry (or the removal of all entries of one key and namespace).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// Where.
    pub at: Address<'a>,
    /// What.
    pub action: Action<'a>,
}

/// What a change does. None needs another entry, or user code, to be applied again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// Removes all of (key, namespace), of any kind.
    Clear,
    /// Sets a value.
    Put(&'a [u8]),
    /// Appends to a value; creates it if missing.
    Append(&'a [u8]),
    /// Sets a map entry.
    MapPut {
        /// Its key.
        map_key: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// Removes a map entry, if it is there.
    MapRemove {
        /// Its key.
        map_key: &'a [u8],
    },
    /// Appends to a map entry; creates it if missing.
    MapAppend {
        /// Its key.
        map_key: &'a [u8],
        /// What to append.
        value: &'a [u8],
    },
    /// Sets the list element with this index: an existing one, or the next.
    ListPut {
        /// From 0.
        index: u64,
        /// The element.
        element: &'a [u8],
    },
}

impl<'a> Change<'a> {
    /// Appends the change's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, index, map_key, value): (u8, Option<u64>, Option<&[u8]>, &[u8]) = match self.action {
            Action::Clear => (0, None, None, &[]),
            Action::Put(value) => (1, None, None, value),
            Action::Append(value) => (2, None, None, value),
            Action::MapPut { map_key, value } => (3, None, Some(map_key), value),
            Action::MapRemove { map_key } => (4, None, None, map_key),
            Action::MapAppend { map_key, value } => (5, None, Some(map_key), value),
            Action::ListPut { index, element } => (6, Some(index), None, element),
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
    /// [`StateError::Undecodable`] if they are no change.
    pub fn decode(key_group: KeyGroup, bytes: &'a [u8]) -> Result<Self, StateError> {
        let (&kind, rest) = bytes.split_first().ok_or(StateError::Undecodable("empty"))?;
        let (state, rest) = take_varint(rest)?;
        let state = StateId(u32::try_from(state).map_err(|_| StateError::Undecodable("state id"))?);
        let (key, rest) = take_bytes(rest)?;
        let (namespace, rest) = take_bytes(rest)?;
        let action = match kind {
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
            _ => return Err(StateError::Undecodable("unknown kind")),
        };
        Ok(Self { at: Address { state, key_group, key, namespace }, action })
    }
}

fn put_varint(out: &mut Vec<u8>, value: u64) {
    prost::encoding::encode_varint(value, out);
}

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

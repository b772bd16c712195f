//! The journal of a layer: old values one behind the other, as they were overwritten.
//!
//! ```text
//!   │ state │ key group │ key length │ namespace length │ key │ namespace │ length of the value + 1; 0: none │ value │ next …
//!   │ u32   │ u16       │ u32        │ u32              │     │           │ u32                             │       │
//! ```
//!
//! Appending copies the old value, which is at hand in the cache as it is about to be overwritten, and looks for nothing. So a value
//! that changes often has many records, of which the first counts. While they take much room, [`Undo::settle`] moves the oldest ones to the
//! cells of their layer, where there is one for each value.

use std::collections::{HashSet, VecDeque};

use super::{Address, Cell, Change, Layer, Old, Undo, put_id};
use crate::{
    state::{Action, StateBackend, StateError},
    types::{KeyGroup, StateId},
};

/// Bytes of the first block; each is twice as long as the one before.
const FIRST_BLOCK_BYTES: usize = 4 << 10;

/// Bytes of the longest block.
const BLOCK_BYTES: usize = 256 << 10;

/// Bytes of a record before its names.
const HEAD_BYTES: usize = 14;

/// Old values in the order of their changes.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Oldest first; a record lies within one.
    blocks: VecDeque<Vec<u8>>,
    /// Of the oldest block, what was taken.
    taken: usize,
    /// Of the records that are left.
    bytes: u64,
}

/// One record.
#[derive(Debug, Clone, Copy)]
struct Record<'a> {
    /// What tells which value it is of.
    name: &'a [u8],
    at: Address<'a>,
    old: Option<&'a [u8]>,
    bytes: usize,
}

impl Journal {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends what a value is before it changes. Returns the bytes that it took.
    pub(super) fn push(&mut self, at: Address<'_>, old: Option<&[u8]>) -> u64 {
        let bytes = HEAD_BYTES + at.key.len() + at.namespace.len() + 4 + old.map_or(0, <[u8]>::len);
        let fits = self.blocks.back().is_some_and(|block| block.capacity() - block.len() >= bytes);
        if !fits {
            let doubled = self.blocks.back().map_or(FIRST_BLOCK_BYTES, |last| 2 * last.capacity());
            self.blocks.push_back(Vec::with_capacity(doubled.min(BLOCK_BYTES).max(bytes)));
        }
        let block = self.blocks.back_mut().expect("there is one now");
        let mut head = [0; HEAD_BYTES];
        let (state, rest) = head.split_at_mut(4);
        state.copy_from_slice(&at.state.0.to_le_bytes());
        let (group, rest) = rest.split_at_mut(2);
        group.copy_from_slice(&at.key_group.0.to_le_bytes());
        let (key, namespace) = rest.split_at_mut(4);
        key.copy_from_slice(&length(at.key.len()));
        namespace.copy_from_slice(&length(at.namespace.len()));
        block.extend_from_slice(&head);
        block.extend_from_slice(at.key);
        block.extend_from_slice(at.namespace);
        block.extend_from_slice(&length(old.map_or(0, |old| old.len() + 1)));
        block.extend_from_slice(old.unwrap_or_default());
        self.bytes += bytes as u64;
        bytes as u64
    }

    fn front(&self) -> Option<Record<'_>> {
        self.blocks.front().and_then(|block| read(block.get(self.taken..)?))
    }

    /// Forgets the oldest record, which takes so many bytes.
    fn pop(&mut self, bytes: usize) {
        self.taken += bytes;
        self.bytes -= bytes as u64;
        if self.blocks.front().is_none_or(|block| self.taken >= block.len()) {
            self.blocks.pop_front();
            self.taken = 0;
        }
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut taken = self.taken;
        self.blocks.iter().flat_map(move |block| {
            let mut rest = block.get(std::mem::take(&mut taken)..).unwrap_or_default();
            std::iter::from_fn(move || {
                let record = read(rest)?;
                rest = rest.get(record.bytes..).unwrap_or_default();
                Some(record)
            })
        })
    }
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("keys and values are bounded by the longest message, below 4 GiB").to_le_bytes()
}

/// The first record of `bytes`.
fn read(bytes: &[u8]) -> Option<Record<'_>> {
    let (state, rest) = bytes.split_first_chunk()?;
    let (group, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_first_chunk()?;
    let (namespace, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key) as usize)?;
    let (namespace, rest) = rest.split_at_checked(u32::from_le_bytes(*namespace) as usize)?;
    let (old, rest) = rest.split_first_chunk()?;
    let old = match u32::from_le_bytes(*old) {
        0 => None,
        length => Some(rest.get(..length as usize - 1)?),
    };
    let name = bytes.get(..HEAD_BYTES + key.len() + namespace.len())?;
    let (state, key_group) = (StateId(u32::from_le_bytes(*state)), KeyGroup(u16::from_le_bytes(*group)));
    let at = Address { state, key_group, key, namespace };
    Some(Record { name, at, old, bytes: name.len() + 4 + old.map_or(0, <[u8]>::len) })
}

impl Undo {
    /// Records a value that is about to change in the newest layer's journal.
    pub(super) fn journal(&mut self, live: &dyn StateBackend, at: Address<'_>) -> Result<(), StateError> {
        let Some(layer) = self.layers.back_mut() else { return Ok(()) };
        let mut bytes = 0;
        live.value(at, &mut |old| bytes = layer.journal.push(at, old))?;
        layer.bytes += bytes;
        self.bytes += bytes;
        self.journaled += 1;
        Ok(())
    }

    /// Bytes of all journals.
    pub(super) fn journal_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.journal.bytes()).sum()
    }

    /// Moves the oldest records of journals to the cells of their layers, at most `left`; those of layer `only`, or of all.
    pub(super) fn dissolve(&mut self, live: &dyn StateBackend, only: Option<usize>, left: &mut usize) {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            if only.is_some_and(|only| only != index) {
                continue;
            }
            self.bytes -= layer.bytes;
            layer.dissolve(live, &mut self.id, left);
            self.bytes += layer.bytes;
        }
    }
}

impl Layer {
    fn dissolve(&mut self, live: &dyn StateBackend, id: &mut Vec<u8>, left: &mut usize) {
        while *left > 0
            && let Some(record) = self.journal.front()
        {
            *left -= 1;
            let bytes = record.bytes;
            put_id(live, record.at, id);
            // What the layer has already is older.
            if !self.cells.contains_key(&id[..]) {
                let (key, namespace) = (record.at.key.into(), record.at.namespace.into());
                let cell = Cell { key, namespace, old: Old::Value(record.old.map(Box::from)) };
                self.bytes += cell.bytes(id.len());
                self.cells.insert(id.as_slice().into(), cell);
            }
            self.bytes -= bytes as u64;
            self.journal.pop(bytes);
        }
    }
}

/// Brings the values of the journal of the last of `layers` back of which neither a layer has a cell nor `done` a name.
pub(super) fn roll_back<'a>(
    live: &mut dyn StateBackend,
    layers: &'a [Layer],
    done: &mut HashSet<&'a [u8]>,
    log: &mut dyn FnMut(&Change<'_>),
) -> Result<(), StateError> {
    let mut id = vec![];
    for record in layers.iter().rev().take(1).flat_map(|layer| layer.journal.records()) {
        put_id(live, record.at, &mut id);
        if layers.iter().any(|layer| layer.cells.contains_key(&id[..])) || !done.insert(record.name) {
            continue;
        }
        let mut is_there = false;
        live.value(record.at, &mut |stored| is_there = stored.is_some())?;
        let action = match record.old {
            Some(old) => Action::Put(old),
            None if is_there => Action::Clear,
            None => continue,
        };
        let change = Change { at: record.at, action };
        live.apply(&change)?;
        log(&change);
    }
    Ok(())
}

/// The name of a value, as journals have it.
pub(super) fn name(at: Address<'_>) -> Vec<u8> {
    let mut journal = Journal::default();
    journal.push(at, None);
    journal.front().map(|record| record.name.to_vec()).unwrap_or_default()
}

//! The journal of a layer: for each change, in order, the change that undoes it.
//!
//! ```text
//!   │ length of the bytes: u32 │ key group: u16 │ kind of the state: u8 │ bytes of a `Change` │ next …
//! ```
//!
//! Appending copies the bytes that will be overwritten, which are in the cache at that moment, and looks nothing up. So
//! an entry that changes often has many records. While journals take much room, [`Undo::settle`] moves the oldest
//! records to the cells of their layer, which have one record per entry. Applied from the last to the first, the
//! records bring everything back.

use std::{collections::VecDeque, iter, mem};

use super::{Action, Address, Cell, Change, Layer, Old, OldMap, PAGE, Undo, put_id, timers};
use crate::{
    state::{MapKeys, StateBackend, StateError, WARM_PLACES},
    types::{KeyGroup, StateKind},
};

/// Size of the first block in bytes; each block is twice as long as the one before.
const FIRST_BLOCK_BYTES: usize = 4 << 10;

/// Size of the longest block in bytes, unless one record is longer.
const BLOCK_BYTES: usize = 256 << 10;

/// Bytes of a record before those of its change.
const HEAD_BYTES: usize = 7;

/// Most bytes of a change besides its keys and value.
const CHANGE_BYTES: usize = 48;

/// The records that undo changes, in order of the changes.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Oldest first; each record lies within one block.
    blocks: VecDeque<Vec<u8>>,
    /// Bytes of the oldest block that were taken.
    taken: usize,
    /// Bytes of the remaining records.
    bytes: u64,
}

/// One record of a journal.
struct Record<'a> {
    is_map: bool,
    change: Change<'a>,
    bytes: usize,
}

impl Journal {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends the change that undoes a change of a state of `kind`, in one of the `spare` blocks if it needs a long
    /// one. Returns the bytes that it takes.
    fn push(&mut self, spare: &mut Vec<Vec<u8>>, kind: StateKind, change: &Change<'_>) -> u64 {
        let Change { at, action: undoing } = *change;
        let value = match undoing {
            Action::Put(value) => value.len(),
            Action::MapPut { map_key, value } => map_key.len() + value.len(),
            Action::MapRemove { map_key } => map_key.len(),
            _ => 0,
        };
        let most = HEAD_BYTES + CHANGE_BYTES + at.key.len() + at.namespace.len() + value;
        // `most` is above the length of the record, so the block never grows by itself, which would copy all of it.
        let fits = self.blocks.back().is_some_and(|block| block.capacity() - block.len() >= most);
        if !fits {
            let doubled = self.blocks.back().map_or(FIRST_BLOCK_BYTES, |last| 2 * last.capacity());
            let bytes = doubled.min(BLOCK_BYTES).max(most);
            let used = if bytes == BLOCK_BYTES { spare.pop() } else { None };
            self.blocks.push_back(used.unwrap_or_else(|| Vec::with_capacity(bytes)));
        }
        let block = self.blocks.back_mut().expect("there is one now");
        let from = block.len();
        let [low, high] = at.key_group.0.to_le_bytes();
        block.extend_from_slice(&[0, 0, 0, 0, low, high, u8::from(kind == StateKind::Map)]);
        change.encode(block);
        let bytes = block.len() - from;
        let length =
            u32::try_from(bytes - HEAD_BYTES).expect("a change is bounded by the longest message, below 4 GiB");
        if let Some(head) = block.get_mut(from..from + 4) {
            head.copy_from_slice(&length.to_le_bytes());
        }
        self.bytes += bytes as u64;
        bytes as u64
    }

    /// Number of blocks.
    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Moves its long blocks to `spare`, as far as that has room within `most` bytes; the rest is to be dropped.
    pub(super) fn retire(&mut self, spare: &mut Vec<Vec<u8>>, most: u64) {
        let room = usize::try_from(most / BLOCK_BYTES as u64).unwrap_or(usize::MAX);
        while spare.len() < room
            && let Some(mut block) = self.blocks.pop_back_if(|block| block.capacity() == BLOCK_BYTES)
        {
            block.clear();
            spare.push(block);
        }
        // With blocks left the journal does not count as empty, so its layer goes to the garbage, which others free.
        if self.blocks.is_empty() {
            self.bytes = 0;
        }
    }

    fn front(&self) -> Result<Option<Record<'_>>, StateError> {
        let block = self.blocks.front().and_then(|block| block.get(self.taken..));
        block.filter(|block| !block.is_empty()).map(read).transpose()
    }

    /// Removes the oldest record, which takes `bytes`.
    fn pop(&mut self, bytes: usize) {
        self.taken += bytes;
        self.bytes -= bytes as u64;
        if self.blocks.front().is_none_or(|block| self.taken >= block.len()) {
            self.blocks.pop_front();
            self.taken = 0;
        }
    }

    /// Restores the state before the first record, if `live` is in the state after the last one.
    pub(super) fn roll_back(
        &self,
        live: &mut dyn StateBackend,
        log: &mut dyn FnMut(&Change<'_>),
    ) -> Result<(), StateError> {
        for (index, block) in self.blocks.iter().enumerate().rev() {
            let mut rest = block.get(if index == 0 { self.taken } else { 0 }..).unwrap_or_default();
            let records = iter::from_fn(|| {
                let record = (!rest.is_empty()).then(|| read(rest))?;
                rest = record.as_ref().ok().and_then(|record| rest.get(record.bytes..)).unwrap_or_default();
                Some(record)
            });
            // A record tells its length at its beginning. So a block is read forwards, and then undone backwards.
            let records: Vec<Record<'_>> = records.collect::<Result<_, _>>()?;
            for together in records.rchunks(WARM_PLACES) {
                live.warm(&mut together.iter().map(|record| record.change.at));
                for Record { change, .. } in together.iter().rev() {
                    live.apply(change)?;
                    log(change);
                }
            }
        }
        Ok(())
    }
}

/// The first record of `bytes`.
fn read(bytes: &[u8]) -> Result<Record<'_>, StateError> {
    let parts = || {
        let (length, rest) = bytes.split_first_chunk()?;
        let (group, rest) = rest.split_first_chunk()?;
        let (kind, rest) = rest.split_first()?;
        let change = rest.get(..u32::from_le_bytes(*length) as usize)?;
        Some((KeyGroup(u16::from_le_bytes(*group)), *kind != 0, change))
    };
    let (group, is_map, change) = parts().ok_or(StateError::Undecodable("a record of a journal"))?;
    Ok(Record { is_map, bytes: HEAD_BYTES + change.len(), change: Change::decode(group, change)? })
}

impl Undo {
    /// Records, in the newest layer's journal, the bytes that `change` will overwrite. Returns `false` for lists, which
    /// journals do not have.
    pub(super) fn journal(
        &mut self,
        live: &dyn StateBackend,
        kind: StateKind,
        change: &Change<'_>,
    ) -> Result<bool, StateError> {
        let at = change.at;
        match (kind, change.action) {
            (StateKind::Value, _) => {
                live.value(at, &mut |old| self.push(kind, at, old.map_or(Action::Clear, Action::Put)))?
            }
            (StateKind::Map, Action::Clear) => self.journal_map(live, at)?,
            (
                StateKind::Map,
                Action::MapPut { map_key, .. } | Action::MapRemove { map_key } | Action::MapAppend { map_key, .. },
            ) => live.map_value(at, map_key, &mut |old| {
                let removed = Action::MapRemove { map_key };
                self.push(kind, at, old.map_or(removed, |value| Action::MapPut { map_key, value }));
            })?,
            (StateKind::Timer, Action::TimerPut { time } | Action::TimerRemove { time }) => {
                let is_there = live.timer(at, time)?;
                let undoing = if is_there { Action::TimerPut { time } } else { Action::TimerRemove { time } };
                self.push(kind, at, undoing);
            }
            (StateKind::List, _) => return Ok(false),
            // The change does not fit the state, so the backend will refuse it.
            (StateKind::Map | StateKind::Timer, _) => {}
        }
        self.keep_to_limit();
        Ok(true)
    }

    /// Records all entries of a map that will be cleared.
    fn journal_map(&mut self, live: &dyn StateBackend, at: Address<'_>) -> Result<(), StateError> {
        let mut from: Vec<u8> = vec![];
        loop {
            let mut last = None;
            let more = live.map_page(at, MapKeys::from(&from), PAGE, &mut |map_key, value| {
                self.push(StateKind::Map, at, Action::MapPut { map_key, value });
                last = Some(map_key.to_vec());
            })?;
            self.keep_to_limit();
            match last {
                Some(last) if more && self.is_recording() => {
                    from = last;
                    from.push(0);
                }
                _ => break,
            }
        }
        // Ordering: the clear is the last record, so it is undone first: the map is emptied, and then the old entries
        // come back. In the other order, the clear would remove them.
        // The map had no other entries, so entries that are added later have to be removed.
        self.push(StateKind::Map, at, Action::Clear);
        Ok(())
    }

    fn push(&mut self, kind: StateKind, at: Address<'_>, undoing: Action<'_>) {
        let Some(layer) = self.layers.back_mut() else { return };
        let bytes = layer.journal.push(&mut self.spare, kind, &Change { at, action: undoing });
        layer.bytes += bytes;
        self.bytes += bytes;
        self.journaled += 1;
    }

    /// Bytes of all journals.
    pub(super) fn journal_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.journal.bytes()).sum()
    }

    /// Moves the oldest records of journals to the cells of their layers, at most `left`; of layer `only`, or of all
    /// layers.
    pub(super) fn dissolve(&mut self, live: &dyn StateBackend, only: Option<usize>, left: &mut usize) {
        let mut id = mem::take(&mut self.id);
        for (_, layer) in self.layers.iter_mut().enumerate().filter(|(index, _)| only.is_none_or(|only| only == *index))
        {
            self.bytes -= layer.bytes;
            layer.dissolve(live, &mut id, left);
            self.bytes += layer.bytes;
        }
        self.id = id;
    }
}

impl Layer {
    fn dissolve(&mut self, live: &dyn StateBackend, id: &mut Vec<u8>, left: &mut usize) {
        while *left > 0 {
            let Some(Record { is_map, change, bytes }) =
                self.journal.front().expect("what was recorded here is read here")
            else {
                return;
            };
            *left -= 1;
            put_id(live, change.at, id);
            self.bytes -= bytes as u64;
            let before = self.cells.get(&id[..]).map_or(0, |cell| cell.bytes(id.len()));
            let cell = self.cells.entry(id.as_slice().into()).or_insert_with(|| Cell {
                key: change.at.key.into(),
                namespace: change.at.namespace.into(),
                old: old(is_map, change.action),
            });
            // Ordering: records are moved from the oldest on, and `add` keeps an entry's first one. That is the
            // contents at the mark.
            add(&mut cell.old, change.action);
            self.bytes = self.bytes - before + cell.bytes(id.len());
            self.journal.pop(bytes);
        }
    }
}

/// The content of a cell according to its oldest record.
fn old(is_map: bool, undoing: Action<'_>) -> Old {
    match undoing {
        _ if is_map => Old::Map(OldMap::default()),
        Action::TimerPut { .. } | Action::TimerRemove { .. } => Old::Timers(OldMap::default()),
        Action::Put(value) => Old::Value(Some(value.into())),
        _ => Old::Value(None),
    }
}

/// Adds the content of a record to a cell, except where an older record has told it.
fn add(old: &mut Old, undoing: Action<'_>) {
    // Once a map is whole, a later record is of an entry that came after the map was cleared.
    match (old, undoing) {
        (Old::Map(map), Action::Clear) => map.is_whole = true,
        (Old::Map(map), Action::MapPut { map_key, value }) if !map.is_whole => {
            map.insert(map_key.into(), Some(value.into()));
        }
        (Old::Map(map), Action::MapRemove { map_key }) if !map.is_whole => map.insert(map_key.into(), None),
        (Old::Timers(map), Action::TimerPut { time }) => map.insert(timers::entry(time).into(), Some(Box::default())),
        (Old::Timers(map), Action::TimerRemove { time }) => map.insert(timers::entry(time).into(), None),
        _ => {}
    }
}

//! Reads lists page by page.
//!
//! ```text
//!   token: version u8 │ scope u64 │ state u32 │ crc of key and namespace u32 │ index u64 │ cursor u64
//! ```
//!
//! A token has the stored index at which the next page begins. A removed element keeps its place, so elements that
//! expire between two pages move no others. Only the rewriting of a list that is mostly expired moves elements;
//! [`Cursors`] then adjusts the tokens of the list. For example, a page ends before index 6; the first 4 elements
//! expire and the list is rewritten; the next page begins at index 2. If a list is replaced or cleared between two
//! pages, the next page begins at the same index of the new list.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    scan::{take_header, token_header},
    upkeep::Tally,
};
use crate::{state::Address, types::StateId};

/// Distinguishes these tokens from those of keys and timers.
const VERSION: u8 = 0x81;

/// Most cursors of one backend. The oldest are dropped, and their tokens refused.
const MOST: usize = 4_096;

/// The positions of pages of lists with TTL that were returned, so that no page misses an element when its list is
/// rewritten.
#[derive(Debug, Default)]
pub struct Cursors(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// By the hash of the list's address.
    of: HashMap<u64, Vec<Cursor>>,
    /// The lists of the cursors, oldest first.
    order: VecDeque<u64>,
    last: u64,
    hasher: RandomState,
}

#[derive(Debug)]
struct Cursor {
    number: u64,
    place: Place,
}

/// The beginning of a page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// The stored index.
    pub(super) index: u64,
    /// A summary of the elements before it, as the earlier pages saw them.
    pub(super) before: Tally,
}

/// The contents of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) index: u64,
    /// The number of its cursor; 0 for a list that is never rewritten.
    cursor: u64,
}

impl Token {
    /// A token of a list that is never rewritten.
    pub(super) fn at(index: u64) -> Self {
        Self { index, cursor: 0 }
    }

    pub(super) fn encode(self, at: Address<'_>, scope: u64) -> Bytes {
        let mut out = token_header(VERSION, at.state, scope);
        out.extend(checksum(at).to_le_bytes());
        out.extend(self.index.to_le_bytes());
        out.extend(self.cursor.to_le_bytes());
        out.into()
    }

    /// Reads a token; `None` if it was not made by this owner for this list.
    pub(super) fn decode(token: &[u8], at: Address<'_>, scope: u64) -> Option<Self> {
        let rest = take_header(token, VERSION, at.state, scope)?;
        let (of, rest) = rest.split_first_chunk()?;
        let (index, rest) = rest.split_first_chunk()?;
        let cursor = rest.try_into().ok()?;
        let token = Self { index: u64::from_le_bytes(*index), cursor: u64::from_le_bytes(cursor) };
        (u32::from_le_bytes(*of) == checksum(at)).then_some(token)
    }
}

impl Cursors {
    /// Notes where a page begins; returns its token.
    pub(super) fn note(&self, at: Address<'_>, place: Place) -> Token {
        let mut table = self.0.lock();
        table.last += 1;
        let (number, list) = (table.last, table.list(at));
        table.of.entry(list).or_default().push(Cursor { number, place });
        table.order.push_back(list);
        if table.order.len() > MOST {
            table.drop_oldest();
        }
        Token { index: place.index, cursor: number }
    }

    /// The present beginning of the page of this token; `None` if its cursor was dropped.
    pub(super) fn find(&self, at: Address<'_>, token: Token) -> Option<Place> {
        let table = self.0.lock();
        let cursors = table.of.get(&table.list(at))?;
        cursors.iter().find(|cursor| cursor.number == token.cursor).map(|cursor| cursor.place)
    }

    /// Adjusts cursors to a rewritten list, which now has only the elements with an index in `kept`, in ascending
    /// order.
    pub(super) fn rewritten(&self, at: Address<'_>, kept: &[u64]) {
        let mut table = self.0.lock();
        let list = table.list(at);
        for Cursor { place, .. } in table.of.get_mut(&list).into_iter().flatten() {
            // As many elements are before the page as were kept of those before it. None of them is gone.
            place.index = kept.partition_point(|index| *index < place.index) as u64;
            place.before = Tally { gone: 0, kept: place.index, ..place.before };
        }
    }

    /// Drops the cursors, because elements are being stored again.
    pub(crate) fn clear(&self) {
        let mut table = self.0.lock();
        table.of.clear();
        table.order.clear();
    }
}

impl Table {
    fn list(&self, at: Address<'_>) -> u64 {
        let StateId(state) = at.state;
        self.hasher.hash_one((state, at.key_group.0, at.key, at.namespace))
    }

    fn drop_oldest(&mut self) {
        let Some(list) = self.order.pop_front() else { return };
        let Some(cursors) = self.of.get_mut(&list) else { return };
        // Numbers ascend, so the first cursor of a list is its oldest.
        cursors.remove(0);
        if cursors.is_empty() {
            self.of.remove(&list);
        }
    }
}

fn checksum(at: Address<'_>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&at.key_group.0.to_le_bytes());
    hasher.update(&(at.key.len() as u64).to_le_bytes());
    hasher.update(at.key);
    hasher.update(at.namespace);
    hasher.finalize()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::KeyGroup;

    fn at<'a>(key: &'a [u8], namespace: &'a [u8]) -> Address<'a> {
        Address { state: StateId(7), key_group: KeyGroup(3), key, namespace }
    }

    fn place(index: u64) -> Place {
        Place { index, before: Tally { gone: 1, kept: index - 1, kept_bytes: 9 } }
    }

    #[test]
    fn a_token_is_good_for_its_owner_and_list_alone() {
        let token = Token { index: u64::MAX, cursor: 5 };
        let encoded = token.encode(at(b"key", b"ns"), 99);
        assert_eq!(Token::decode(&encoded, at(b"key", b"ns"), 99), Some(token));
        assert_eq!(Token::decode(&encoded, at(b"keyn", b"s"), 99), None);
        assert_eq!(Token::decode(&encoded, at(b"key", b""), 99), None);
        assert_eq!(Token::decode(&encoded, at(b"key", b"ns"), 98), None);
        let other = Address { state: StateId(8), ..at(b"key", b"ns") };
        assert_eq!(Token::decode(&encoded, other, 99), None);
        for end in 0..encoded.len() {
            assert_eq!(Token::decode(encoded.get(..end).unwrap(), at(b"key", b"ns"), 99), None);
        }
    }

    #[test]
    fn tokens_move_with_what_is_kept_before_them() {
        let (cursors, list) = (Cursors::default(), at(b"k", b""));
        let tokens = [4, 6, 9].map(|index| cursors.note(list, place(index)));
        let other = cursors.note(at(b"other", b""), place(6));
        cursors.rewritten(list, &[2, 5, 6, 8]);
        let now = tokens.map(|token| cursors.find(list, token).unwrap().index);
        assert_eq!(now, [1, 2, 4]);
        assert_eq!(cursors.find(list, tokens[1]).unwrap().before, Tally { gone: 0, kept: 2, kept_bytes: 9 });
        assert_eq!(cursors.find(at(b"other", b""), other), Some(place(6)));
        assert_eq!(cursors.find(list, other), None);
    }

    #[test]
    fn the_oldest_are_dropped() {
        let (cursors, list) = (Cursors::default(), at(b"k", b""));
        let first = cursors.note(list, place(1));
        let second = cursors.note(list, place(2));
        (0..MOST as u32 - 1).for_each(|key| _ = cursors.note(at(&key.to_le_bytes(), b""), place(1)));
        assert_eq!(cursors.find(list, first), None);
        assert_eq!(cursors.find(list, second), Some(place(2)));
    }
}

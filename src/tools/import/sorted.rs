//! Rows in memory, in the order of a savepoint.

use crate::{
    savepoint::{Entry, Place, Row},
    tools::{hex, import::declared::States},
    types::{KeyGroup, StateKind},
};

/// Bytes of memory counted for a row beyond its key, namespace, map key and value. They include the allocator's share.
pub(super) const HELD_BYTES: u64 = size_of::<Held>() as u64 + 16;

/// Most bytes of a key that messages show.
const SHOWN_BYTES: usize = 32;

/// The row group from which a row comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    /// Number of the file, from 0.
    pub(super) input: usize,
    /// Number of the row group in the file, from 0.
    pub(super) group: usize,
}

/// Rows of some key groups, or of operator state.
pub(super) struct Sorted(Vec<Held>);

struct Held {
    /// The key, the namespace, the map key and the value, one after the other.
    bytes: Box<[u8]>,
    /// Offsets in `bytes` at which the key, the namespace and the map key end.
    ends: [u32; 3],
    state: u32,
    /// The index of an element, or the time of a timer; else 0.
    number: i64,
    touched: Option<u64>,
    place: Place,
    input: u32,
    group: u32,
}

impl Sorted {
    /// No rows, with room for `rows`.
    pub(super) fn with_capacity(rows: usize) -> Self {
        Self(Vec::with_capacity(rows))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a row, whose state must be one of `states`.
    ///
    /// # Errors
    /// If there is no such state, or the row is too long.
    pub(super) fn push(&mut self, row: &Row<'_>, states: &States, origin: Origin) -> Result<(), String> {
        let (state, _) = states.find(row.state).ok_or_else(|| format!("state `{}` is new", row.state))?;
        let cells = row.entry.cells();
        let parts = [row.key, row.namespace, cells.map_key.unwrap_or_default(), cells.value.unwrap_or_default()];
        let narrow = |length: usize| u32::try_from(length).map_err(|_| "it has too many bytes".to_owned());
        let (key, namespace) = (row.key.len(), row.namespace.len());
        let map_key = cells.map_key.map_or(0, <[u8]>::len);
        self.0.push(Held {
            bytes: parts.concat().into_boxed_slice(),
            ends: [narrow(key)?, narrow(key + namespace)?, narrow(key + namespace + map_key)?],
            state,
            number: cells.index.map(u64::cast_signed).or(cells.time).unwrap_or(0),
            touched: row.touched,
            place: row.place,
            input: narrow(origin.input)?,
            group: narrow(origin.group)?,
        });
        Ok(())
    }

    /// Sorts the rows, and checks that no entry appears twice and that no list has a gap. `name` returns the name of a
    /// file, for messages.
    ///
    /// # Errors
    /// The origin of the row with the fault, and the fault.
    pub(super) fn sort<'n>(
        &mut self,
        states: &States,
        name: impl Fn(Origin) -> &'n str,
    ) -> Result<(), (Origin, String)> {
        // Two equal rows are a fault, so their order does not matter.
        self.0.sort_unstable_by(|one, other| one.order().cmp(&other.order()));
        let mut before: Option<&Held> = None;
        for held in &self.0 {
            let state = states.by_number(held.state);
            let called = || {
                let place = match held.place {
                    Place::KeyGroup(_) => format!("key 0x{}", shown(held.key())),
                    Place::Subtask(subtask) => format!("subtask {subtask}"),
                };
                format!("{}, {place}", state.map(States::named).unwrap_or_default())
            };
            if let Some(first) = before.filter(|before| before.order() == held.order()) {
                let (file, group) = (name(first.origin()), first.group);
                let what = format!("{}: this entry is there twice, also in `{file}`, row group {group}", called());
                return Err((held.origin(), what));
            }
            if state.is_some_and(|state| state.kind == StateKind::List) {
                let next = before.filter(|before| before.is_same_list(held)).map_or(0, |before| before.number + 1);
                if held.number != next {
                    let what = format!("{}: element {} of the list, {next} is missing", called(), held.number);
                    return Err((held.origin(), what));
                }
            }
            before = Some(held);
        }
        Ok(())
    }

    /// The rows in order.
    pub(super) fn rows<'s>(&'s self, states: &'s States) -> impl Iterator<Item = Row<'s>> {
        self.0.iter().filter_map(|held| {
            let state = states.by_number(held.state)?;
            let entry = match state.kind {
                StateKind::Value => Entry::Value(held.value()),
                StateKind::List => Entry::Element(held.number.cast_unsigned(), held.value()),
                StateKind::Map => Entry::Map(held.map_key(), held.value()),
                StateKind::Timer => Entry::Timer(held.number),
            };
            let (place, touched) = (held.place, held.touched);
            Some(Row { place, state: &state.name, key: held.key(), namespace: held.namespace(), entry, touched })
        })
    }
}

impl Held {
    fn order(&self) -> (u32, u32, &[u8], &[u8], &[u8], i64) {
        let place = match self.place {
            Place::KeyGroup(KeyGroup(group)) => group.into(),
            Place::Subtask(subtask) => subtask,
        };
        (place, self.state, self.key(), self.namespace(), self.map_key(), self.number)
    }

    fn is_same_list(&self, other: &Self) -> bool {
        (self.place, self.state, self.key(), self.namespace())
            == (other.place, other.state, other.key(), other.namespace())
    }

    fn origin(&self) -> Origin {
        Origin { input: self.input as usize, group: self.group as usize }
    }

    fn key(&self) -> &[u8] {
        self.part(0, self.ends[0])
    }

    fn namespace(&self) -> &[u8] {
        self.part(self.ends[0], self.ends[1])
    }

    fn map_key(&self) -> &[u8] {
        self.part(self.ends[1], self.ends[2])
    }

    fn value(&self) -> &[u8] {
        self.bytes.get(self.ends[2] as usize..).unwrap_or_default()
    }

    fn part(&self, from: u32, to: u32) -> &[u8] {
        self.bytes.get(from as usize..to as usize).unwrap_or_default()
    }
}

/// The first bytes of a key, as hexadecimal digits.
fn shown(key: &[u8]) -> String {
    match key.get(..SHOWN_BYTES) {
        Some(first) if key.len() > SHOWN_BYTES => format!("{}…", hex(first)),
        _ => hex(key),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sorted(rows: &[Row<'_>]) -> Result<Vec<String>, (Origin, String)> {
        let mut states = States::new(None);
        let mut sorted = Sorted::with_capacity(rows.len());
        for (group, row) in rows.iter().enumerate() {
            states.learn(row).unwrap();
            sorted.push(row, &states, Origin { input: 0, group }).unwrap();
        }
        sorted.sort(&states, |_| "f")?;
        Ok(sorted.rows(&states).map(|row| format!("{row:?}")).collect())
    }

    #[test]
    fn rows_are_sorted_by_key_group_and_list_index_and_are_there_once() {
        let row = |group, key, entry| Row {
            place: Place::KeyGroup(KeyGroup(group)),
            state: "s",
            key,
            namespace: b"n",
            entry,
            touched: None,
        };
        let (first, second) = (row(2, b"a", Entry::Element(0, b"x")), row(2, b"a", Entry::Element(1, b"y")));
        let low = row(1, b"b", Entry::Element(0, b"z"));
        let expected = [&low, &first, &second].map(|row| format!("{row:?}"));
        assert_eq!(sorted(&[second, first, low]).unwrap(), expected);
        let (origin, what) = sorted(&[first, second, first]).unwrap_err();
        assert!(what.contains("`s` (list), key 0x61: this entry is there twice"), "{what}");
        assert!([0, 2].contains(&origin.group));
        let (origin, what) = sorted(&[low, second]).unwrap_err();
        assert_eq!(origin.group, 1);
        assert!(what.contains("element 1 of the list, 0 is missing"), "{what}");
    }
}

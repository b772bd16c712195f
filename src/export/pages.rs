//! A part of a checkpoint as pages of entries, for whoever reads it over the wire.
//!
//! Pages come in order of key groups, then states; operator state comes last. A page is about as long as it was asked
//! to be, unless one element of an entry alone is longer.

use std::{collections::BTreeSet, mem};

use bytes::Bytes;

use super::{
    rows::{self, RowError},
    source::{SourceError, attachment},
};
use crate::{
    checkpoint::manifest::{CheckpointRecord, Manifest},
    restore::reader::{Reader, ReaderOptions},
    savepoint::{Entry, Place, Row},
    types::{KeyGroupRange, StateDescriptor, StateId},
};

/// Bytes of memory that an entry takes besides its contents, about.
const ENTRY_BYTES: usize = 48;

/// The parts of a checkpoint that are wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The key groups; `None` for all, and operator state.
    pub key_groups: Option<KeyGroupRange>,
    /// The states, by name; empty for all.
    pub states: BTreeSet<String>,
    /// Bytes of a page, about.
    pub page_bytes: usize,
}

/// What is known of a part before its first page.
#[derive(Debug, Clone)]
pub struct Header {
    /// The states that the part has, by id.
    pub states: Vec<(StateId, StateDescriptor)>,
    /// The key groups that its subtask had.
    pub key_groups: KeyGroupRange,
    /// Number of key groups of the operator.
    pub max_parallelism: u32,
    /// The bytes that the task attached to its barrier.
    pub attachment: Bytes,
}

/// Entries of one state and key group.
#[derive(Debug, Clone)]
pub struct Page {
    /// The key group, or the subtask of operator state.
    pub place: Place,
    /// The state that all entries belong to.
    pub state: StateId,
    /// The entries, in the order of the reader.
    pub entries: Vec<Stored>,
    /// Whether the last entry goes on in the next page.
    pub continued: bool,
}

/// What a state has for one key and namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// The key that the values belong to; empty in operator state.
    pub key: Bytes,
    /// The namespace of the key; empty for the void namespace.
    pub namespace: Bytes,
    /// The value, of a state of that kind.
    pub value: Option<Bytes>,
    /// The keys and values of a map.
    pub entries: Vec<(Bytes, Bytes)>,
    /// The elements of a list, in order.
    pub elements: Vec<Bytes>,
    /// The times at which timers fire.
    pub times: Vec<i64>,
    /// Of a state with time-to-live: the time of the last touch of each of the above.
    pub touched: Vec<u64>,
}

/// A message of the reading of a part.
#[derive(Debug, Clone)]
pub enum Message {
    /// The first one.
    Header(Header),
    /// Any number of further ones.
    Page(Page),
}

/// Why reading has ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A state is wanted that the checkpoint does not have.
    #[error("the checkpoint has no state `{0}`")]
    NoState(String),
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Nobody takes the messages.
    #[error("a page was not taken in time")]
    NotTaken,
}

/// Reads what is `wanted` of a part, and hands each message to `send`, which says whether it was taken. Beside the
/// state that the reader may hold, the pages of one piece of it are in memory, which has about a megabyte unless one
/// entry is larger.
///
/// # Errors
/// [`ReadError`].
pub async fn read(
    manifest: &Manifest,
    record: &CheckpointRecord,
    options: &ReaderOptions<'_>,
    wanted: &Wanted,
    mut send: impl AsyncFnMut(Message) -> bool,
) -> Result<(), ReadError> {
    let mut reader = Reader::new(options.clone(), manifest, record);
    let has = |name: &String| reader.states().values().any(|state| state.name == *name);
    if let Some(missing) = wanted.states.iter().find(|name| !has(name)) {
        return Err(ReadError::NoState(missing.clone()));
    }
    if let Some(key_groups) = wanted.key_groups {
        reader = reader.only(key_groups);
    }
    let span = manifest.span(record);
    let header = Header {
        states: reader.states().iter().map(|(id, state)| (*id, state.clone())).collect(),
        key_groups: span.key_groups,
        max_parallelism: span.max_parallelism,
        attachment: attachment(manifest, record, options).await?,
    };
    taken(send(Message::Header(header)).await)?;
    let unreadable = |source| SourceError::Unreadable { of: manifest.backend.clone(), source };
    while let Some(part) = reader.next().await.map_err(unreadable)? {
        let places = rows::places(&part, manifest.backend.subtask, reader.states());
        for at in places.filter(|at| wanted.states.is_empty() || wanted.states.contains(&at.descriptor.name)) {
            let rows::At { state, place, .. } = at;
            let mut pages = Pages { place, state, page_bytes: wanted.page_bytes, bytes: 0, open: vec![], done: vec![] };
            let mut next = Some(0);
            while let Some(first) = next {
                let add = |row: &Row<'_>| {
                    pages.add(row);
                    Ok::<_, RowError>(())
                };
                let added = rows::piece(&part, at, first, add);
                next = added.map_err(|source| SourceError::Rows { of: manifest.backend.clone(), source })?;
                // Full pages are sent before the next piece is read, so memory holds the pages of one piece and no
                // more.
                for page in mem::take(&mut pages.done) {
                    taken(send(Message::Page(page)).await)?;
                }
            }
            for page in pages.end() {
                taken(send(Message::Page(page)).await)?;
            }
        }
    }
    Ok(())
}

fn taken(taken: bool) -> Result<(), ReadError> {
    if taken { Ok(()) } else { Err(ReadError::NotTaken) }
}

/// The pages of one state and key group.
struct Pages {
    place: Place,
    state: StateId,
    page_bytes: usize,
    /// Bytes of `open`.
    bytes: usize,
    open: Vec<Stored>,
    done: Vec<Page>,
}

impl Pages {
    fn add(&mut self, row: &Row<'_>) {
        let goes_on = self.open.last().is_some_and(|last| last.key == row.key && last.namespace == row.namespace);
        // Ordering: a full page is closed when the next row comes, and not before. Only that row tells whether the last
        // entry goes on.
        if self.bytes >= self.page_bytes {
            self.close(goes_on);
        }
        if !goes_on || self.open.is_empty() {
            let (key, namespace) = (Bytes::copy_from_slice(row.key), Bytes::copy_from_slice(row.namespace));
            self.open.push(Stored { key, namespace, ..Stored::default() });
        }
        self.bytes += row.bytes() + ENTRY_BYTES;
        let Some(stored) = self.open.last_mut() else { return };
        stored.touched.extend(row.touched);
        let copy = Bytes::copy_from_slice;
        match row.entry {
            Entry::Value(value) => stored.value = Some(copy(value)),
            Entry::Map(key, value) => stored.entries.push((copy(key), copy(value))),
            Entry::Element(_, value) => stored.elements.push(copy(value)),
            Entry::Timer(time) => stored.times.push(time),
        }
    }

    fn close(&mut self, continued: bool) {
        self.bytes = 0;
        let entries = mem::take(&mut self.open);
        self.done.push(Page { place: self.place, state: self.state, entries, continued });
    }

    fn end(mut self) -> Vec<Page> {
        if !self.open.is_empty() {
            self.close(false);
        }
        self.done
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::types::KeyGroup;

    #[test]
    fn an_entry_that_is_too_long_for_a_page_goes_on_in_the_next() {
        let place = Place::KeyGroup(KeyGroup(3));
        let mut pages = Pages { place, state: StateId(1), page_bytes: 200, bytes: 0, open: vec![], done: vec![] };
        let row = |key, index, touched| Row {
            place,
            state: "list",
            key,
            namespace: b"n",
            entry: Entry::Element(index, &[7; 50]),
            touched,
        };
        pages.add(&row(b"a", 0, None));
        (0..4).for_each(|index| pages.add(&row(b"b", index, Some(index))));
        pages.add(&row(b"c", 0, None));
        let pages = pages.end();
        let shape: Vec<_> = pages
            .iter()
            .map(|page| {
                let entries = page.entries.iter().map(|entry| (entry.key.clone(), entry.elements.len()));
                (entries.collect::<Vec<_>>(), page.continued)
            })
            .collect();
        let (a, b, c) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"), Bytes::from_static(b"c"));
        assert_eq!(
            shape,
            [(vec![(a, 1), (b.clone(), 1)], true), (vec![(b.clone(), 2)], true), (vec![(b, 1), (c, 1)], false)]
        );
        assert_eq!(pages[1].entries[0].touched, [1, 2]);
    }
}

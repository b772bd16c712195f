//! Rows of a savepoint, and the columns that hold them.

use std::sync::Arc;

use bytes::Bytes;
use parquet::{
    data_type::ByteArray,
    errors::ParquetError,
    schema::{
        parser::parse_message_type,
        types::{SchemaDescriptor, Type},
    },
};

use crate::{
    state::{Action, Address, Change, ttl},
    types::{KeyGroup, StateDescriptor, StateId, StateKind, TimeMs},
};

/// The schema of a file, with its columns in order.
const SCHEMA: &str = "
    message dstl_savepoint {
        optional int32 key_group;
        optional int32 subtask;
        required binary state (STRING);
        required binary kind (STRING);
        required binary key;
        required binary namespace;
        optional binary map_key;
        optional int64 list_index;
        optional binary value;
        optional int64 touched_ms;
        optional int64 time;
    }";

/// Bytes counted for each row beyond those of its key, namespace, map key and value.
const ROW_BYTES: usize = 64;

/// The owner of an entry: a key group or a subtask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The key group of an entry of keyed state.
    KeyGroup(KeyGroup),
    /// The subtask of an entry of operator state.
    Subtask(u32),
}

/// An entry of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// The key group or subtask that owns the entry.
    pub place: Place,
    /// Name of the state.
    pub state: &'a str,
    /// Bytes of the key; empty for operator state.
    pub key: &'a [u8],
    /// Bytes of the namespace; empty for the void namespace.
    pub namespace: &'a [u8],
    /// The value, element, map entry or timer.
    pub entry: Entry<'a>,
    /// When the entry was touched last; `None` unless the state has time-to-live.
    pub touched: Option<TimeMs>,
}

/// The kind-specific part of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'a> {
    /// Bytes of the value of a value state.
    Value(&'a [u8]),
    /// Index and bytes of a list element.
    Element(u64, &'a [u8]),
    /// Bytes of a map key and of its value.
    Map(&'a [u8], &'a [u8]),
    /// Time at which a timer fires.
    Timer(i64),
}

impl<'a> Row<'a> {
    /// The row of a change that sets an entry of `state`. `None` for a list element that was removed. The index of an
    /// element is that of its change.
    ///
    /// # Errors
    /// If the change sets no entry, or an entry of another kind.
    pub fn of(change: &Change<'a>, place: Place, state: &'a StateDescriptor) -> Result<Option<Self>, String> {
        let stored = |stored: &'a [u8]| match state.ttl {
            None => Ok((None, stored)),
            Some(_) => ttl::split(stored).map(|(time, value)| (Some(time), value)).map_err(|error| error.to_string()),
        };
        let (touched, entry) = match change.action {
            // Without time-to-live, these bytes are an element like any other.
            Action::ListPut { element, .. } if state.ttl.is_some() && element == ttl::REMOVED => return Ok(None),
            Action::Put(value) => stored(value).map(|(touched, value)| (touched, Entry::Value(value)))?,
            Action::ListPut { index, element } => {
                stored(element).map(|(touched, value)| (touched, Entry::Element(index, value)))?
            }
            Action::MapPut { map_key, value } => {
                stored(value).map(|(touched, value)| (touched, Entry::Map(map_key, value)))?
            }
            Action::TimerPut { time } => (None, Entry::Timer(time)),
            _ => return Err(format!("state `{}` is rebuilt by what sets no entry", state.name)),
        };
        if entry.kind() != state.kind {
            return Err(format!("state `{}` has an entry of kind {:?}", state.name, entry.kind()));
        }
        let Address { key, namespace, .. } = change.at;
        Ok(Some(Self { place, state: &state.name, key, namespace, entry, touched }))
    }

    /// Checks that the row can belong to `state`.
    ///
    /// # Errors
    /// The property of the row that `state` forbids.
    pub fn check(&self, state: &StateDescriptor) -> Result<(), String> {
        let is_operator = matches!(self.place, Place::Subtask(_));
        if self.entry.kind() != state.kind {
            let (is, name, kind) = (self.entry.kind(), &state.name, state.kind);
            return Err(format!("a row of kind {is:?}, state `{name}` is of kind {kind:?}"));
        }
        if is_operator != state.redistribution.is_some() || is_operator != self.key.is_empty() {
            return Err(format!(
                "state `{}`: keyed state has a key group and a key, operator state has a subtask",
                state.name
            ));
        }
        if self.touched.is_some() != state.ttl.is_some() {
            return Err(format!(
                "state `{}`: `touched_ms` is for states with time-to-live, and all of those",
                state.name
            ));
        }
        Ok(())
    }

    /// Total bytes of the key, the namespace, the map key and the value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let Cells { map_key, value, .. } = self.entry.cells();
        self.key.len() + self.namespace.len() + map_key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len)
    }

    /// Calls `apply` with the change that sets the entry, where `id` is the id of the state.
    pub fn change<T>(&self, id: StateId, apply: impl FnOnce(&Change<'_>) -> T) -> T {
        let key_group = match self.place {
            Place::KeyGroup(key_group) => key_group,
            Place::Subtask(_) => KeyGroup::OPERATOR,
        };
        let stamped;
        let value: &[u8] = match (self.entry, self.touched) {
            (Entry::Timer(_), _) => &[],
            (Entry::Value(value) | Entry::Element(_, value) | Entry::Map(_, value), None) => value,
            (Entry::Value(value) | Entry::Element(_, value) | Entry::Map(_, value), Some(touched)) => {
                stamped = ttl::stamp(touched, value);
                &stamped
            }
        };
        let action = match self.entry {
            Entry::Value(_) => Action::Put(value),
            Entry::Element(index, _) => Action::ListPut { index, element: value },
            Entry::Map(map_key, _) => Action::MapPut { map_key, value },
            Entry::Timer(time) => Action::TimerPut { time },
        };
        apply(&Change { at: Address { state: id, key_group, key: self.key, namespace: self.namespace }, action })
    }
}

/// The columns whose value depends on the kind of the entry.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cells<'a> {
    /// The key of a map entry.
    pub map_key: Option<&'a [u8]>,
    /// The index of a list element.
    pub index: Option<u64>,
    /// The value; `None` for a timer.
    pub value: Option<&'a [u8]>,
    /// The time at which a timer fires.
    pub time: Option<i64>,
}

impl<'a> Entry<'a> {
    /// The values of the entry in these columns.
    #[must_use]
    pub fn cells(self) -> Cells<'a> {
        let none = Cells::default();
        match self {
            Self::Value(value) => Cells { value: Some(value), ..none },
            Self::Element(index, value) => Cells { index: Some(index), value: Some(value), ..none },
            Self::Map(map_key, value) => Cells { map_key: Some(map_key), value: Some(value), ..none },
            Self::Timer(time) => Cells { time: Some(time), ..none },
        }
    }

    /// Kind of the states that have such entries.
    #[must_use]
    pub fn kind(&self) -> StateKind {
        match self {
            Self::Value(_) => StateKind::Value,
            Self::Element(..) => StateKind::List,
            Self::Map(..) => StateKind::Map,
            Self::Timer(_) => StateKind::Timer,
        }
    }
}

/// The name of a kind of state in the column `kind`.
#[must_use]
pub fn word(kind: StateKind) -> &'static str {
    match kind {
        StateKind::Value => "value",
        StateKind::List => "list",
        StateKind::Map => "map",
        StateKind::Timer => "timer",
    }
}

/// The kind of state with this name.
pub(super) fn kind(word: &[u8]) -> Option<StateKind> {
    let kinds = [StateKind::Value, StateKind::List, StateKind::Map, StateKind::Timer];
    kinds.into_iter().find(|kind| self::word(*kind).as_bytes() == word)
}

/// The schema that all files share.
pub(super) fn schema() -> Result<Arc<Type>, ParquetError> {
    parse_message_type(SCHEMA).map(Arc::new)
}

/// The columns of the schema.
pub(super) fn descriptor() -> Result<SchemaDescriptor, ParquetError> {
    schema().map(SchemaDescriptor::new)
}

/// A column of values that may be missing.
#[derive(Debug)]
pub(super) struct Column<T> {
    /// Values of the rows that have one.
    pub(super) values: Vec<T>,
    /// Definition level of each row: 1 if it has a value, else 0.
    pub(super) levels: Vec<i16>,
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self { values: vec![], levels: vec![] }
    }
}

impl<T> Column<T> {
    fn push(&mut self, value: Option<T>) {
        self.levels.push(i16::from(value.is_some()));
        self.values.extend(value);
    }
}

/// Rows by columns, to be written as a row group.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    pub(super) key_group: Column<i32>,
    pub(super) subtask: Column<i32>,
    pub(super) state: Column<ByteArray>,
    pub(super) kind: Column<ByteArray>,
    pub(super) key: Column<ByteArray>,
    pub(super) namespace: Column<ByteArray>,
    pub(super) map_key: Column<ByteArray>,
    pub(super) list_index: Column<i64>,
    pub(super) value: Column<ByteArray>,
    pub(super) touched_ms: Column<i64>,
    pub(super) time: Column<i64>,
}

impl Columns {
    pub(super) fn push(&mut self, row: &Row<'_>) {
        let (key_group, subtask) = match row.place {
            Place::KeyGroup(key_group) => (Some(i32::from(key_group.0)), None),
            Place::Subtask(subtask) => (None, Some(subtask.cast_signed())),
        };
        let Cells { map_key, index, value, time } = row.entry.cells();
        self.rows += 1;
        self.bytes += ROW_BYTES + row.bytes();
        self.key_group.push(key_group);
        self.subtask.push(subtask);
        // Rows of a state follow each other, so they mostly share the bytes of its name.
        let state = self.state.values.last().filter(|last| last.data() == row.state.as_bytes()).cloned();
        self.state.push(Some(state.unwrap_or_else(|| row.state.into())));
        self.kind.push(Some(Bytes::from_static(word(row.entry.kind()).as_bytes()).into()));
        self.key.push(Some(row.key.into()));
        self.namespace.push(Some(row.namespace.into()));
        self.map_key.push(map_key.map(ByteArray::from));
        self.list_index.push(index.map(u64::cast_signed));
        self.value.push(value.map(ByteArray::from));
        self.touched_ms.push(row.touched.map(u64::cast_signed));
        self.time.push(time);
    }
}

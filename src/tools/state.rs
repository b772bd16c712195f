//! `dstl state`, which shows the entries of a checkpoint or a savepoint without its engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use bytes::Bytes;
use serde_json::json;

use super::{hex, savepoint::MAX_GROUP_BYTES, target::Target};
use crate::{
    backend::hash_key_group,
    checkpoint::manifest::{CheckpointRecord, Manifest, Span},
    export::{
        rows::{self, RowError},
        source::{Found, Parts, Source, SourceError},
    },
    restore::reader::{Reader, ReaderOptions},
    savepoint::{Cells, Metadata, OperatorMeta, Place, Row, SavepointError, SavepointId, read_rows, word},
    types::{KeyGroup, KeyGroupAssignment, KeyGroupRange, Name},
};

/// A selection of entries. An entry is shown if it matches every field that is given.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Entries of this operator.
    pub operator: Option<Name>,
    /// Entries of the state with this name.
    pub state: Option<String>,
    /// Entries of keyed state with this key group.
    pub key_group: Option<u16>,
    /// Entries with these key groups; [`KeyGroupRange::OPERATOR`] selects operator state alone.
    pub key_groups: Option<KeyGroupRange>,
    /// Entries of keyed state with this key.
    pub key: Option<Bytes>,
    /// Entries with this namespace; empty for the void namespace.
    pub namespace: Option<Bytes>,
}

/// The reason why entries are not shown.
#[derive(Debug, thiserror::Error)]
pub enum StateFault {
    /// The checkpoint or savepoint has no such operator.
    #[error("it has no operator `{wanted}`, but {there}")]
    NoOperator {
        /// The name that was asked for.
        wanted: Name,
        /// The operators that it has, as text.
        there: String,
    },
    /// The checkpoint or savepoint has no such state.
    #[error("it has no state `{wanted}`, but {there}")]
    NoState {
        /// The name that was asked for.
        wanted: String,
        /// The states that it has, as text.
        there: String,
    },
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The savepoint cannot be read.
    #[error(transparent)]
    Savepoint(#[from] SavepointError),
}

/// A function that receives each entry with its operator, and decides whether to continue.
pub trait Show: FnMut(&Name, &Row<'_>) -> ControlFlow<()> {}

impl<F: FnMut(&Name, &Row<'_>) -> ControlFlow<()>> Show for F {}

/// The reason why the reading of rows ends.
enum End {
    Enough,
    Fault(RowError),
}

impl From<RowError> for End {
    fn from(error: RowError) -> Self {
        Self::Fault(error)
    }
}

/// The names that were met, so that a wrong name in a filter is an error.
#[derive(Default)]
pub(super) struct Met {
    operators: BTreeSet<String>,
    states: BTreeSet<String>,
}

/// Shows the entries of `target` that match `filter`, in order of operators and key groups. Cancel-safe, but if
/// dropped, its pins stay until their lease of `lease_ms` ends.
///
/// # Errors
/// [`StateFault`].
pub async fn scan(
    target: &Target,
    filter: &Filter,
    options: &ReaderOptions<'_>,
    lease_ms: u64,
    mut show: impl Show,
) -> Result<(), StateFault> {
    let mut met = Met::default();
    let read = async |opened: Opened<'_>| opened.rows(filter, &mut met, options, &mut show).await;
    let flow = open(target, options, lease_ms, read).await?;
    if flow.is_break() { Ok(()) } else { met.check(filter) }
}

/// A checkpoint or a savepoint that can be read.
#[derive(Clone, Copy)]
pub(super) enum Opened<'a> {
    Checkpoint(&'a Found<'a>),
    Savepoint(&'a SavepointId, &'a Metadata),
}

/// Opens `target`, and passes it to `read`.
pub(super) async fn open<T>(
    target: &Target,
    options: &ReaderOptions<'_>,
    lease_ms: u64,
    read: impl AsyncFnOnce(Opened<'_>) -> Result<T, StateFault>,
) -> Result<T, StateFault> {
    match target {
        Target::Checkpoint(job, checkpoint) => {
            let source = Source { job: job.clone(), checkpoint: *checkpoint, lease_ms };
            source.read(options, async |found: &Found<'_>| read(Opened::Checkpoint(found)).await).await
        }
        Target::Savepoint(id) => {
            let metadata = Metadata::read(options.store, id, options.retry).await?;
            read(Opened::Savepoint(id, &metadata)).await
        }
    }
}

impl Opened<'_> {
    /// The number of key groups of each operator.
    pub(super) fn operators(&self) -> BTreeMap<Name, u32> {
        let of_parts = |parts: &Parts<'_>| parts.first().map(|(head, record)| head.span(record).max_parallelism);
        match self {
            Self::Checkpoint(found) => {
                found.operators.iter().filter_map(|(name, parts)| Some((name.clone(), of_parts(parts)?))).collect()
            }
            Self::Savepoint(_, metadata) => {
                let of = |(name, meta): (&String, &OperatorMeta)| Some((Name::new(name).ok()?, meta.max_parallelism));
                metadata.operators.iter().filter_map(of).collect()
            }
        }
    }

    /// Shows the entries that match `filter`, and notes in `met` the names that there are.
    pub(super) async fn rows(
        self,
        filter: &Filter,
        met: &mut Met,
        options: &ReaderOptions<'_>,
        show: &mut impl Show,
    ) -> Result<ControlFlow<()>, StateFault> {
        let mut scan = Scan { filter, met, options };
        match self {
            Self::Checkpoint(found) => Ok(scan.checkpoint(found, show).await?),
            Self::Savepoint(id, metadata) => Ok(scan.savepoint(id, metadata, show).await?),
        }
    }
}

/// A pass over the entries of a checkpoint or a savepoint.
struct Scan<'a> {
    filter: &'a Filter,
    /// The names that the pass met, whether or not an entry of theirs matched.
    met: &'a mut Met,
    options: &'a ReaderOptions<'a>,
}

impl Scan<'_> {
    async fn checkpoint(&mut self, found: &Found<'_>, show: &mut impl Show) -> Result<ControlFlow<()>, SourceError> {
        for (operator, parts) in &found.operators {
            // The name is noted before the filter looks at it: the check of names lists every operator that there is.
            self.met.operators.insert(operator.to_string());
            if !self.filter.has_operator(operator) {
                continue;
            }
            for (manifest, record) in parts {
                if self.part(operator, manifest, record, show).await?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Shows the entries of the part of one subtask of `operator`.
    async fn part(
        &mut self,
        operator: &Name,
        manifest: &Manifest,
        record: &CheckpointRecord,
        show: &mut impl Show,
    ) -> Result<ControlFlow<()>, SourceError> {
        let filter = self.filter;
        let mut reader = Reader::new(self.options.clone(), manifest, record);
        if let Some(key_groups) = filter.key_groups(manifest.span(record)) {
            reader = reader.only(key_groups);
        }
        self.met.states.extend(reader.states().values().map(|state| state.name.clone()));
        let unreadable = |source| SourceError::Unreadable { of: manifest.backend.clone(), source };
        while let Some(part) = reader.next().await.map_err(unreadable)? {
            let places = rows::places(&part, manifest.backend.subtask, reader.states());
            for at in places.filter(|at| filter.has_state(&at.descriptor.name)) {
                let read = rows::each(&part, at, |row| {
                    let flow = if filter.has(row) { show(operator, row) } else { ControlFlow::Continue(()) };
                    if flow.is_break() { Err(End::Enough) } else { Ok(()) }
                });
                match read {
                    Ok(()) => {}
                    Err(End::Enough) => return Ok(ControlFlow::Break(())),
                    Err(End::Fault(source)) => return Err(SourceError::Rows { of: manifest.backend.clone(), source }),
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn savepoint(
        &mut self,
        id: &SavepointId,
        metadata: &Metadata,
        show: &mut impl Show,
    ) -> Result<ControlFlow<()>, SavepointError> {
        let (filter, options) = (self.filter, self.options);
        for (operator, meta) in &metadata.operators {
            let operator = Name::new(operator).expect("it was checked");
            self.met.operators.insert(operator.to_string());
            if !filter.has_operator(&operator) {
                continue;
            }
            self.met.states.extend(meta.states.iter().map(|state| state.descriptor.name.clone()));
            let wanted = filter.key_groups_of(meta.assignment, meta.max_parallelism);
            for file in &meta.files {
                let has = |wanted| file.key_groups().unwrap_or(KeyGroupRange::OPERATOR).overlaps(wanted);
                if wanted.is_some_and(|wanted| !has(wanted)) {
                    continue;
                }
                let (path, bytes) = OperatorMeta::read_file(options.store, id, &operator, file, options.retry).await?;
                let mut flow = ControlFlow::Continue(());
                // The reader of a file stops early only for an error, and there is none here: the rows after the last
                // one that is shown are passed over.
                read_rows(&path, &bytes, MAX_GROUP_BYTES, |row| {
                    if flow.is_continue() && filter.has_state(row.state) && filter.has(row) {
                        flow = show(&operator, row);
                    }
                    Ok(())
                })?;
                if flow.is_break() {
                    return Ok(flow);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl Filter {
    fn has_operator(&self, operator: &Name) -> bool {
        self.operator.as_ref().is_none_or(|wanted| wanted == operator)
    }

    fn has_state(&self, state: &str) -> bool {
        self.state.as_ref().is_none_or(|wanted| wanted == state)
    }

    fn has(&self, row: &Row<'_>) -> bool {
        let is_in_group = |wanted| row.place == Place::KeyGroup(KeyGroup(wanted));
        let is_keyed = matches!(row.place, Place::KeyGroup(_));
        let group = match row.place {
            Place::KeyGroup(group) => group,
            Place::Subtask(_) => KeyGroup::OPERATOR,
        };
        self.key_groups.is_none_or(|wanted| wanted.contains(group))
            && self.key_group.is_none_or(is_in_group)
            && self.key.as_ref().is_none_or(|wanted| is_keyed && *wanted == row.key)
            && self.namespace.as_ref().is_none_or(|wanted| *wanted == row.namespace)
    }

    fn key_groups(&self, span: Span) -> Option<KeyGroupRange> {
        self.key_groups_of(span.assignment, span.max_parallelism)
    }

    /// The key groups that can have entries which match; `None` if all key groups can.
    fn key_groups_of(&self, assignment: KeyGroupAssignment, max_parallelism: u32) -> Option<KeyGroupRange> {
        self.key_groups.or_else(|| key_group_of(self.key_group, self.key.as_ref(), assignment, max_parallelism))
    }
}

/// The key group that can have entries of this key group, or of this key. `None` if all key groups can.
pub(super) fn key_group_of(
    key_group: Option<u16>,
    key: Option<&Bytes>,
    assignment: KeyGroupAssignment,
    max_parallelism: u32,
) -> Option<KeyGroupRange> {
    let of_key = |key: &Bytes| match assignment {
        KeyGroupAssignment::Hashed => u16::try_from(hash_key_group(key, max_parallelism)).ok(),
        KeyGroupAssignment::Given => None,
    };
    key_group.or_else(|| key.and_then(of_key)).map(|group| KeyGroupRange::one(KeyGroup(group)))
}

/// A list of names, for messages.
pub(super) fn all(names: &BTreeSet<String>) -> String {
    match names.len() {
        0 => "none at all".to_owned(),
        _ => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}

impl Met {
    fn check(&self, filter: &Filter) -> Result<(), StateFault> {
        if let Some(wanted) = filter.operator.as_ref().filter(|wanted| !self.operators.contains(wanted.as_str())) {
            return Err(StateFault::NoOperator { wanted: wanted.clone(), there: all(&self.operators) });
        }
        match filter.state.as_ref().filter(|wanted| !self.states.contains(*wanted)) {
            Some(wanted) => Err(StateFault::NoState { wanted: wanted.clone(), there: all(&self.states) }),
            None => Ok(()),
        }
    }
}

/// An entry as one line for people. Bytes are text if they are printable UTF-8, else hexadecimal digits.
#[must_use]
pub fn line(operator: &Name, row: &Row<'_>) -> String {
    let place = match row.place {
        Place::KeyGroup(key_group) => format!("key group {}, key {}", key_group.0, printed(row.key)),
        Place::Subtask(subtask) => format!("subtask {subtask}"),
    };
    let Cells { map_key, index, value, time } = row.entry.cells();
    let fields = [
        (!row.namespace.is_empty()).then(|| format!(", namespace {}", printed(row.namespace))),
        map_key.map(|key| format!(", map key {}", printed(key))),
        index.map(|index| format!(", element {index}")),
        time.map(|time| format!(", fires at {time}")),
        value.map(|value| format!(": {}", printed(value))),
        row.touched.map(|touched| format!(", touched at {touched} ms")),
    ];
    let fields: String = fields.into_iter().flatten().collect();
    format!("{operator}/{} ({}): {place}{fields}\n", row.state, word(row.entry.kind()))
}

/// An entry as one line of JSON, by the columns of a savepoint; bytes as hexadecimal digits.
#[must_use]
pub fn json_line(operator: &Name, row: &Row<'_>) -> String {
    let (key_group, subtask) = match row.place {
        Place::KeyGroup(key_group) => (Some(key_group.0), None),
        Place::Subtask(subtask) => (None, Some(subtask)),
    };
    let Cells { map_key, index, value, time } = row.entry.cells();
    let object = json!({
        "operator": operator.as_str(),
        "state": row.state,
        "kind": word(row.entry.kind()),
        "key_group": key_group,
        "subtask": subtask,
        "key": hex(row.key),
        "namespace": hex(row.namespace),
        "map_key": map_key.map(hex),
        "list_index": index,
        "value": value.map(hex),
        "touched_ms": row.touched,
        "time": time,
    });
    format!("{object}\n")
}

/// The bytes that `text` stands for: those after `0x` as digits, or those of the text itself.
///
/// # Errors
/// If `0x` is not followed by pairs of hexadecimal digits.
pub fn parse_bytes(text: &str) -> Result<Bytes, String> {
    match text.strip_prefix("0x") {
        Some(digits) => crate::types::hex::decode(digits)
            .ok_or_else(|| "`0x` is to be followed by pairs of hexadecimal digits".to_owned()),
        None => Ok(Bytes::copy_from_slice(text.as_bytes())),
    }
}

/// Bytes as text if they are printable UTF-8, else as hexadecimal digits.
pub(super) fn printed(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{text:?}"),
        _ => format!("0x{}", hex(bytes)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::savepoint::Entry;

    #[test]
    fn an_entry_is_one_line_of_text_or_json() {
        let operator = Name::new("count").unwrap();
        let row = Row {
            place: Place::KeyGroup(KeyGroup(7)),
            state: "seen",
            key: b"word",
            namespace: b"",
            entry: Entry::Map(b"a\"b", &[0, 255]),
            touched: Some(5),
        };
        let text = "count/seen (map): key group 7, key \"word\", map key \"a\\\"b\": 0x00ff, touched at 5 ms\n";
        assert_eq!(line(&operator, &row), text);
        let json: serde_json::Value = serde_json::from_str(&json_line(&operator, &row)).unwrap();
        assert_eq!(
            (&json["key"], &json["map_key"], &json["value"]),
            (&json!("776f7264"), &json!("612262"), &json!("00ff"))
        );
        let row = Row { place: Place::Subtask(1), key: b"", entry: Entry::Element(3, b""), touched: None, ..row };
        assert_eq!(line(&operator, &row), "count/seen (list): subtask 1, element 3: \"\"\n");
    }

    #[test]
    fn bytes_are_given_as_text_or_digits() {
        assert_eq!(parse_bytes("word").unwrap(), "word");
        assert_eq!(parse_bytes("0x00fF").unwrap(), &[0, 255][..]);
        assert!(parse_bytes("0x0").is_err() && parse_bytes("0xg0").is_err());
    }
}

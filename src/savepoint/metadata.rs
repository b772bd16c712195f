//! The metadata of a savepoint, which lists its operators, states and files.
//!
//! ```json
//! { "format": "dstl savepoint", "version": 1, "crc32": "9a3b11f0", "savepoint": { "job": "wc", … } }
//! ```
//!
//! The checksum covers `savepoint` as compact JSON, with the fields in the order in which this version writes them. So
//! a change of white space does not matter, while a changed digit does. A reader refuses a later version, and fields
//! that it does not know.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use super::{error::SavepointError, id::SavepointId};
use crate::{
    object::{Path, Retry, Store, StoreError},
    types::{KeyGroupAssignment, KeyGroupRange, MAX_PARALLELISM_LIMIT, Name, StateDescriptor, TimeMs},
};

/// The newest version of the format, which this daemon writes; it reads the earlier ones too.
pub const FORMAT_VERSION: u64 = 1;

const FORMAT: &str = "dstl savepoint";

/// The contents of `metadata.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// The job whose state the savepoint holds.
    pub job: String,
    /// Id of the checkpoint from which it was made.
    pub checkpoint: u64,
    /// The attempt that made that checkpoint.
    pub attempt: u64,
    /// When it was made, by the clock of the daemon or tool that made it.
    pub created_ms: TimeMs,
    /// The operators by their names.
    pub operators: BTreeMap<String, OperatorMeta>,
}

/// The state of an operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorMeta {
    /// Number of subtasks at the checkpoint.
    pub parallelism: u32,
    /// Number of key groups, which stays the same for the life of the state.
    pub max_parallelism: u32,
    /// Whether the daemon or the client computes the key group of a key.
    pub assignment: KeyGroupAssignment,
    /// The states, in any order. No two have the same name.
    pub states: Vec<StateMeta>,
    /// The subtasks, ordered by their numbers.
    pub subtasks: Vec<SubtaskMeta>,
    /// The files, ordered by their numbers.
    pub files: Vec<FileMeta>,
}

/// A state of an operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateMeta {
    /// Number of rows of the state in all files.
    pub rows: u64,
    /// The descriptor that the task declared.
    pub descriptor: StateDescriptor,
}

/// The part of one subtask in the checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubtaskMeta {
    /// Key groups that the subtask owned.
    pub key_groups: KeyGroups,
    /// Number of the epoch that made the subtask's part.
    pub epoch: u64,
    /// UUID of the subtask's part.
    pub uuid: String,
    /// Bytes that the task attached to the checkpoint, as hexadecimal digits.
    #[serde(with = "crate::types::hex")]
    pub attachment: Bytes,
    /// The time of the subtask's state, which decides about time-to-live.
    pub time_ms: TimeMs,
}

/// A file of rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileMeta {
    /// Name of the file in the folder of the operator.
    pub name: String,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// CRC-32 of the whole file, as hexadecimal digits.
    pub crc32: String,
    /// Number of rows in the file.
    pub rows: u64,
    /// Range that holds the key groups of all rows; `None` for operator state.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key_groups: Option<KeyGroups>,
    /// Subtask whose operator state it was; `None` for keyed state.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subtask: Option<u32>,
}

/// Key groups from `first` to `last`, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyGroups {
    /// First key group, inclusive.
    pub first: u32,
    /// Last key group, inclusive.
    pub last: u32,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    format: String,
    version: u64,
    crc32: String,
    savepoint: Value,
}

impl From<KeyGroupRange> for KeyGroups {
    fn from(range: KeyGroupRange) -> Self {
        Self { first: range.first().0.into(), last: range.last().0.into() }
    }
}

impl KeyGroups {
    /// The same key groups as a range.
    ///
    /// # Errors
    /// If `first` is above `last`, or `last` is beyond the highest key group.
    pub fn range(self) -> Result<KeyGroupRange, String> {
        KeyGroupRange::new(self.first, self.last).map_err(|error| error.to_string())
    }
}

impl FileMeta {
    /// The key groups of the file; `None` for operator state.
    #[must_use]
    pub fn key_groups(&self) -> Option<KeyGroupRange> {
        self.key_groups.and_then(|range| range.range().ok())
    }

    /// Checks length and checksum of `bytes` against this record.
    ///
    /// # Errors
    /// The difference found.
    pub fn check(&self, bytes: &Bytes) -> Result<(), String> {
        let (length, crc) = (bytes.len() as u64, crc32(bytes));
        if length != self.bytes {
            return Err(format!("it has {length} bytes, {} recorded", self.bytes));
        }
        if crc != self.crc32 {
            return Err(format!("its checksum is {crc}, {} recorded", self.crc32));
        }
        Ok(())
    }
}

impl SubtaskMeta {
    /// The key groups that the subtask owned.
    ///
    /// # Panics
    /// If the metadata was not [read](Metadata::read), which checks that the range is valid.
    #[must_use]
    pub fn key_groups(&self) -> KeyGroupRange {
        self.key_groups.range().expect("it was checked")
    }

    /// The UUID of the subtask's part.
    ///
    /// # Panics
    /// If the metadata was not [read](Metadata::read), which checks the UUID.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        Uuid::parse_str(&self.uuid).expect("it was checked")
    }
}

/// A checksum in the form that metadata uses.
fn crc32(bytes: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(bytes))
}

/// `contents` as metadata of the format `format`; see the [module](self).
pub(super) fn seal<T: Serialize>(format: &str, contents: &T) -> Bytes {
    let compact = serde_json::to_vec(contents).expect("maps with text for keys are JSON");
    let envelope = Envelope {
        format: format.to_owned(),
        version: FORMAT_VERSION,
        crc32: crc32(&compact),
        savepoint: serde_json::to_value(contents).expect("maps with text for keys are JSON"),
    };
    let mut bytes = serde_json::to_vec_pretty(&envelope).expect("likewise");
    bytes.push(b'\n');
    bytes.into()
}

/// The contents of metadata whose format must be `format`.
pub(super) fn unseal<T: Serialize + DeserializeOwned>(format: &str, bytes: &[u8]) -> Result<T, String> {
    let envelope: Envelope =
        serde_json::from_slice(bytes).map_err(|error| format!("it is no metadata of a savepoint: {error}"))?;
    if envelope.format != format {
        return Err(format!("its format is `{}`, not `{format}`", envelope.format));
    }
    // Ordering: the version comes before the contents. A later version may have other fields, and the reason would then
    // be a field that is not known.
    if envelope.version > FORMAT_VERSION {
        return Err(format!(
            "it is of version {}, and this dstl reads versions up to {FORMAT_VERSION}; use a newer one",
            envelope.version
        ));
    }
    let contents: T = serde_json::from_value(envelope.savepoint).map_err(|error| error.to_string())?;
    // The checksum is of the contents as this version writes them, so the layout of the file does not matter.
    let crc = crc32(&serde_json::to_vec(&contents).expect("maps with text for keys are JSON"));
    if crc != envelope.crc32 {
        return Err(format!("its checksum is {crc}, {} recorded", envelope.crc32));
    }
    Ok(contents)
}

/// The format that the metadata names.
pub(super) fn format_of(bytes: &[u8]) -> Option<String> {
    serde_json::from_slice::<Envelope>(bytes).ok().map(|envelope| envelope.format)
}

impl Metadata {
    /// The bytes of `metadata.json`.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        seal(FORMAT, self)
    }

    /// Reads the bytes of `metadata.json`.
    ///
    /// # Errors
    /// The first fault found.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let metadata: Self = unseal(FORMAT, bytes)?;
        metadata.operators.iter().try_for_each(|(name, operator)| {
            Name::new(name).map_err(|error| error.to_string())?;
            operator.check().map_err(|what| format!("operator `{name}`: {what}"))
        })?;
        Ok(metadata)
    }

    /// Reads the metadata of `savepoint`. Cancel-safe.
    ///
    /// # Errors
    /// [`SavepointError::NotFound`] if there is no such savepoint.
    pub async fn read(store: &Store, savepoint: &SavepointId, retry: Retry) -> Result<Self, SavepointError> {
        let path = savepoint.metadata();
        match store.get_checked(&path, retry, |bytes| Self::decode(bytes)).await {
            Ok(read) => read.map_err(|what| SavepointError::damaged(&path, None, what)),
            Err(StoreError::NotFound { .. }) => Err(SavepointError::NotFound(savepoint.folder())),
            Err(error) => Err(SavepointError::Store(error)),
        }
    }
}

impl OperatorMeta {
    /// Checks the facts that readers rely on.
    fn check(&self) -> Result<(), String> {
        let (parallelism, max) = (self.parallelism, self.max_parallelism);
        if parallelism == 0
            || parallelism > max
            || max > MAX_PARALLELISM_LIMIT
            || self.subtasks.len() != parallelism as usize
        {
            let subtasks = self.subtasks.len();
            return Err(format!("it has parallelism {parallelism}, {subtasks} subtasks and max parallelism {max}"));
        }
        let ranges = self.subtasks.iter().map(|subtask| {
            Uuid::parse_str(&subtask.uuid).map_err(|error| error.to_string())?;
            subtask.key_groups.range()
        });
        let ranges = ranges.collect::<Result<Vec<_>, _>>()?;
        // Each key group once takes both checks. The number alone would allow a gap beside an overlap, the coverage
        // alone an overlap.
        let all = KeyGroupRange::new(0, max - 1).map_err(|error| error.to_string())?;
        let count: usize = ranges.iter().map(|range| range.count()).sum();
        if count != max as usize || !all.without(ranges).is_empty() {
            return Err(format!("its subtasks have not each of its {max} key groups once"));
        }
        let names: BTreeSet<&str> = self.states.iter().map(|state| state.descriptor.name.as_str()).collect();
        if names.len() != self.states.len() {
            return Err("two of its states have the same name".to_owned());
        }
        self.files
            .iter()
            .try_for_each(|file| self.check_file(file).map_err(|what| format!("file `{}`: {what}", file.name)))
    }

    fn check_file(&self, file: &FileMeta) -> Result<(), String> {
        Name::new(&file.name).map_err(|error| error.to_string())?;
        match (file.key_groups, file.subtask) {
            (Some(range), None) if u32::from(range.range()?.last().0) < self.max_parallelism => Ok(()),
            (None, Some(subtask)) if subtask < self.parallelism => Ok(()),
            _ => Err("it has neither key groups nor a subtask of the operator, or both".to_owned()),
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn state(&self, name: &str) -> Option<&StateDescriptor> {
        let found = self.states.iter().find(|state| state.descriptor.name == name);
        found.map(|state| &state.descriptor)
    }

    /// Reads `file` of operator `operator` of `savepoint`. Returns its path and bytes. Cancel-safe.
    ///
    /// # Errors
    /// If the file is missing, or its length or checksum differs from the record.
    pub async fn read_file(
        store: &Store,
        savepoint: &SavepointId,
        operator: &Name,
        file: &FileMeta,
        retry: Retry,
    ) -> Result<(Path, Bytes), SavepointError> {
        let name = Name::new(&file.name).expect("it was checked");
        let path = savepoint.rows(operator, &name);
        let read = store.get_checked(&path, retry, |bytes| file.check(bytes).map(|()| bytes.clone())).await;
        match read {
            Ok(Ok(bytes)) => Ok((path, bytes)),
            Ok(Err(what)) => Err(SavepointError::damaged(&path, None, what)),
            Err(StoreError::NotFound { .. }) => Err(SavepointError::Missing(path)),
            Err(error) => Err(SavepointError::Store(error)),
        }
    }
}

//! Savepoints: all state of a job at one checkpoint, in files that need neither this store, nor an inner backend, nor
//! dstl to be read.
//!
//! ```text
//!   <job>/savepoints/<name>/metadata.json                  written last: there is a savepoint once it is there
//!   <job>/savepoints/<name>/<operator>/<number>.parquet    rows of some key groups, or of one subtask's operator state
//! ```
//!
//! Nothing in it says where it lies: copied whole to another bucket, or below another job, it is the same savepoint
//! there.
//!
//! # Rows
//!
//! A file is Apache Parquet with one row for each entry of state. Keys, namespaces and values are the bytes that the
//! task wrote; what they mean, its serializers tell, which the metadata names.
//!
//! | column | type | |
//! | --- | --- | --- |
//! | `key_group` | int32, or null | of keyed state; null for operator state |
//! | `subtask` | int32, or null | of operator state: whose it was |
//! | `state` | string | its name |
//! | `kind` | string | `value`, `list`, `map` or `timer` |
//! | `key` | bytes | empty for operator state |
//! | `namespace` | bytes | empty for the void one |
//! | `map_key` | bytes, or null | of a map entry |
//! | `list_index` | int64, or null | of a list element, from 0 without gap |
//! | `value` | bytes, or null | null for a timer |
//! | `touched_ms` | int64, or null | of a state with time-to-live: when the entry was touched last, milliseconds since 1970 |
//! | `time` | int64, or null | of a timer: when it fires |
//!
//! Rows are ordered by key group. A row group has about 8 MiB, a file about 64 MiB, and the metadata says which key
//! groups a file has: so who needs some of them reads few files. Entries that are expired, and not cleaned up, are rows
//! as well: `touched_ms` tells. The value of a state with a merge function is its accumulated value, by the layout that
//! the protocol documents for it.
//!
//! # Metadata
//!
//! JSON: what a restore needs beside the rows ([`Metadata`]), with the length, the number of rows and the CRC-32 of
//! each file, and a CRC-32 of its own.
//!
//! A [native savepoint](Savepoint::Native) has the objects of the checkpoint in place of rows.

mod batch;
mod columns;
mod metadata;
mod native;
mod reader;
mod schema;
mod writer;

pub use self::{
    columns::{Cells, Entry, Place, Row, word},
    metadata::{FORMAT_VERSION, FileMeta, KeyGroups, Metadata, OperatorMeta, StateMeta, SubtaskMeta},
    native::{NativeMetadata, NativeObject, NativeOperator, Savepoint},
    reader::{FileFault, ReadFile, read_rows},
    writer::{FileWriter, WrittenFile},
};

use crate::{
    object::{Path, StoreError, layout::ObjectName},
    types::Name,
};

/// Where a savepoint is, within the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavepointId {
    /// Below which job.
    pub job: Name,
    /// Its name.
    pub name: Name,
}

/// Why a savepoint cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SavepointError {
    /// There is none.
    #[error("there is no savepoint at `{0}`: it has no `metadata.json`")]
    NotFound(Path),
    /// A file of it is damaged, or was not made as it should be.
    #[error("savepoint file `{file}`{}: {what}", .group.map(|group| format!(", row group {group}")).unwrap_or_default())]
    Damaged {
        /// Its path.
        file: Path,
        /// Of Parquet, from 0, if it is about one.
        group: Option<usize>,
        /// How.
        what: String,
    },
    /// A file of it is missing.
    #[error("savepoint file `{0}` is missing")]
    Missing(Path),
    /// The store does not answer.
    #[error(transparent)]
    Store(StoreError),
}

impl SavepointId {
    /// What `path` names, which ends with `<job>/savepoints/<name>`; `None` if it does not.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_end_matches('/').rsplit('/');
        let (name, folder, job) = (parts.next()?, parts.next()?, parts.next()?);
        let id = Self { job: Name::new(job).ok()?, name: Name::new(name).ok()? };
        (folder == "savepoints").then_some(id)
    }

    /// The folder that all of it is in.
    #[must_use]
    pub fn folder(&self) -> Path {
        crate::object::layout::savepoint(&self.job, &self.name)
    }

    /// Its metadata.
    #[must_use]
    pub fn metadata(&self) -> Path {
        self.file(vec![Name::new("metadata.json").expect("it is a name")])
    }

    /// File `file` of `operator`.
    #[must_use]
    pub fn rows(&self, operator: &Name, file: &Name) -> Path {
        self.file(vec![operator.clone(), file.clone()])
    }

    fn file(&self, file: Vec<Name>) -> Path {
        ObjectName::SavepointFile { job: self.job.clone(), savepoint: self.name.clone(), file }.path()
    }
}

impl SavepointError {
    pub(crate) fn damaged(file: &Path, group: Option<usize>, what: impl ToString) -> Self {
        Self::Damaged { file: file.clone(), group, what: what.to_string() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_savepoint_is_named_by_the_end_of_its_path() {
        let id = SavepointId::parse("s3://bucket/some/base/wc/savepoints/before-2.0/").unwrap();
        assert_eq!((id.job.as_str(), id.name.as_str()), ("wc", "before-2.0"));
        assert_eq!(id.metadata().as_ref(), "wc/savepoints/before-2.0/metadata.json");
        assert_eq!(SavepointId::parse("wc/savepoints/before-2.0"), Some(id));
        for bad in ["", "wc", "wc/savepoints", "wc/savepoint/x", "a b/savepoints/x"] {
            assert_eq!(SavepointId::parse(bad), None, "{bad}");
        }
    }
}

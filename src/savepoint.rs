//! Savepoints: all state of a job at one checkpoint, in files that can be read without the store of the job, without an
//! inner backend, and without dstl.
//!
//! ```text
//!   <job>/savepoints/<name>/metadata.json                  written last: the savepoint exists once this file does
//!   <job>/savepoints/<name>/<operator>/<number>.parquet    rows of some key groups, or of one subtask's operator state
//! ```
//!
//! No file of a savepoint says where it is stored. A copy of the whole folder in another bucket, or below another job,
//! is the same savepoint.
//!
//! # Rows
//!
//! A file is Apache Parquet with one row for each entry of state. Keys, namespaces and values are the bytes that the
//! task wrote. The metadata names the serializers that give them their meaning.
//!
//! | column | type | meaning |
//! | --- | --- | --- |
//! | `key_group` | int32, or null | key group of keyed state; null for operator state |
//! | `subtask` | int32, or null | subtask whose operator state it was; null for keyed state |
//! | `state` | string | name of the state |
//! | `kind` | string | `value`, `list`, `map` or `timer` |
//! | `key` | bytes | empty for operator state |
//! | `namespace` | bytes | empty for the void namespace |
//! | `map_key` | bytes, or null | key of a map entry |
//! | `list_index` | int64, or null | index of a list element, from 0 without gap |
//! | `value` | bytes, or null | null for a timer |
//! | `touched_ms` | int64, or null | time of the last touch in a state with time-to-live, milliseconds since 1970 |
//! | `time` | int64, or null | when a timer fires |
//!
//! Rows are ordered by key group. A row group has about 8 MiB, a file about 64 MiB. The metadata says which key groups
//! a file has, so a reader of some of them reads few files. Expired entries that were not cleaned up have rows as well,
//! and `touched_ms` shows that they are expired. The value of a state with a merge function is its accumulated value,
//! in the layout that the protocol documents for it.
//!
//! # Metadata
//!
//! JSON with all that a restore needs beside the rows ([`Metadata`]): among other things the length, the number of rows
//! and the CRC-32 of each file. The metadata has a CRC-32 of its own.
//!
//! A [native savepoint](Savepoint::Native) has the objects of the checkpoint in place of rows.

mod batch;
mod columns;
mod error;
mod id;
mod metadata;
mod native;
mod reader;
mod schema;
mod writer;

pub use self::{
    columns::{Cells, Entry, Place, Row, word},
    error::SavepointError,
    id::SavepointId,
    metadata::{FORMAT_VERSION, FileMeta, KeyGroups, Metadata, OperatorMeta, StateMeta, SubtaskMeta},
    native::{NativeMetadata, NativeObject, NativeOperator, Savepoint},
    reader::{FileFault, ReadFile, read_rows},
    writer::{FileWriter, WrittenFile},
};

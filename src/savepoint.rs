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

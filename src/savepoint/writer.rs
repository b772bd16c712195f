//! The writer of one file of a savepoint. It collects rows into row groups, and row groups into a file in memory.

use std::{mem, sync::Arc};

use bytes::Bytes;
use parquet::{
    basic::{Compression, ZstdLevel},
    data_type::{ByteArrayType, DataType, Int32Type, Int64Type},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::types::ColumnPath,
};

use super::{
    columns::{Column, Columns, Row, schema},
    metadata::FORMAT_VERSION,
    reader::VERSION_KEY,
};

/// Bytes of rows after which a row group ends.
const ROW_GROUP_BYTES: usize = 8 << 20;

/// Bytes after which a file ends.
const FILE_BYTES: usize = 64 << 20;

/// Columns whose values repeat.
const REPEATED: [&str; 4] = ["key_group", "subtask", "state", "kind"];

/// A file being written.
pub struct FileWriter {
    file: SerializedFileWriter<Vec<u8>>,
    columns: Columns,
    rows: u64,
}

/// A complete file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenFile {
    /// The contents of the file.
    pub bytes: Bytes,
    /// Number of rows in the file.
    pub rows: u64,
}

impl FileWriter {
    /// A writer of an empty file.
    ///
    /// # Errors
    /// Errors of the Parquet library.
    pub fn new() -> Result<Self, ParquetError> {
        let zstd = Compression::ZSTD(ZstdLevel::default());
        let properties = WriterProperties::builder()
            .set_created_by(format!("dstl {}", env!("CARGO_PKG_VERSION")))
            .set_key_value_metadata(Some(vec![KeyValue::new(VERSION_KEY.to_owned(), FORMAT_VERSION.to_string())]))
            .set_compression(zstd)
            .set_dictionary_enabled(false);
        let repeats = |properties: parquet::file::properties::WriterPropertiesBuilder, column: &str| {
            properties.set_column_dictionary_enabled(ColumnPath::from(column), true)
        };
        let properties = Arc::new(REPEATED.into_iter().fold(properties, repeats).build());
        let file = SerializedFileWriter::new(vec![], schema()?, properties)?;
        Ok(Self { file, columns: Columns::default(), rows: 0 })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// Errors of the Parquet library.
    pub fn push(&mut self, row: &Row<'_>) -> Result<(), ParquetError> {
        self.columns.push(row);
        self.rows += 1;
        if self.columns.bytes >= ROW_GROUP_BYTES { self.end_group() } else { Ok(()) }
    }

    /// Whether the next row belongs in another file.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.file.bytes_written() + self.columns.bytes >= FILE_BYTES
    }

    /// Ends the last row group and returns the complete file.
    ///
    /// # Errors
    /// Errors of the Parquet library.
    pub fn finish(mut self) -> Result<WrittenFile, ParquetError> {
        if self.columns.rows > 0 {
            self.end_group()?;
        }
        Ok(WrittenFile { bytes: self.file.into_inner()?.into(), rows: self.rows })
    }

    fn end_group(&mut self) -> Result<(), ParquetError> {
        let columns = mem::take(&mut self.columns);
        let mut group = self.file.next_row_group()?;
        optional::<Int32Type>(&mut group, &columns.key_group)?;
        optional::<Int32Type>(&mut group, &columns.subtask)?;
        required::<ByteArrayType>(&mut group, &columns.state)?;
        required::<ByteArrayType>(&mut group, &columns.kind)?;
        required::<ByteArrayType>(&mut group, &columns.key)?;
        required::<ByteArrayType>(&mut group, &columns.namespace)?;
        optional::<ByteArrayType>(&mut group, &columns.map_key)?;
        optional::<Int64Type>(&mut group, &columns.list_index)?;
        optional::<ByteArrayType>(&mut group, &columns.value)?;
        optional::<Int64Type>(&mut group, &columns.touched_ms)?;
        optional::<Int64Type>(&mut group, &columns.time)?;
        group.close().map(|_| ())
    }
}

type Group<'a> = SerializedRowGroupWriter<'a, Vec<u8>>;

fn optional<T: DataType>(group: &mut Group<'_>, column: &Column<T::T>) -> Result<(), ParquetError> {
    write::<T>(group, &column.values, Some(&column.levels))
}

fn required<T: DataType>(group: &mut Group<'_>, column: &Column<T::T>) -> Result<(), ParquetError> {
    write::<T>(group, &column.values, None)
}

fn write<T: DataType>(group: &mut Group<'_>, values: &[T::T], levels: Option<&[i16]>) -> Result<(), ParquetError> {
    let next = group.next_column()?;
    let mut column = next.ok_or_else(|| ParquetError::General("the schema has fewer columns".to_owned()))?;
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()
}

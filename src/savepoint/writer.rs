//! The writer of one file of a savepoint. It collects rows into row groups, and row groups into a file in memory.
//!
//! A file grows by blocks of a fixed size, and its checksum with it. No byte of the file is in memory twice, neither
//! while it grows nor while it is uploaded.

use std::{
    io::{self, Write},
    mem,
    sync::Arc,
};

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
use crate::{
    object::{PutPayload, PutPayloadMut},
    tasks,
};

/// Bytes of rows after which a row group ends.
const ROW_GROUP_BYTES: usize = 8 << 20;

/// Bytes after which a file ends.
const FILE_BYTES: usize = 64 << 20;

/// Bytes by which a file in memory grows.
const BLOCK_BYTES: usize = 1 << 20;

/// Bytes of a page, which is compressed in one go.
const PAGE_BYTES: usize = 128 << 10;

/// The library looks at the size of a page each time that it has so many values more.
const VALUES_PER_LOOK: usize = 64;

/// Rows of a column that are encoded, or freed, in one go.
const ROWS_AT_A_TIME: usize = 1_024;

/// Columns whose values repeat.
const REPEATED: [&str; 4] = ["key_group", "subtask", "state", "kind"];

/// A file being written.
pub struct FileWriter {
    file: SerializedFileWriter<Blocks>,
    columns: Columns,
    rows: u64,
}

/// A complete file.
#[derive(Debug, Clone)]
pub struct WrittenFile {
    /// The contents of the file.
    pub payload: PutPayload,
    /// The checksum of the file.
    pub crc32: u32,
    /// Number of rows in the file.
    pub rows: u64,
}

/// The bytes of a file so far.
struct Blocks {
    payload: PutPayloadMut,
    hasher: crc32fast::Hasher,
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
            .set_data_page_size_limit(PAGE_BYTES)
            .set_write_batch_size(VALUES_PER_LOOK)
            .set_dictionary_enabled(false);
        let repeats = |properties: parquet::file::properties::WriterPropertiesBuilder, column: &str| {
            properties.set_column_dictionary_enabled(ColumnPath::from(column), true)
        };
        let properties = Arc::new(REPEATED.into_iter().fold(properties, repeats).build());
        let file = SerializedFileWriter::new(Blocks::new(), schema()?, properties)?;
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
        // The rows at hand count uncompressed, so a file rather ends a little early.
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
        let Blocks { payload, hasher } = self.file.into_inner()?;
        Ok(WrittenFile { payload: payload.freeze(), crc32: hasher.finalize(), rows: self.rows })
    }

    fn end_group(&mut self) -> Result<(), ParquetError> {
        let columns = mem::take(&mut self.columns);
        // Columns are written in the order of the schema. The library goes by positions, not by names.
        let mut group = self.file.next_row_group()?;
        optional::<Int32Type>(&mut group, columns.key_group)?;
        optional::<Int32Type>(&mut group, columns.subtask)?;
        required::<ByteArrayType>(&mut group, columns.state)?;
        required::<ByteArrayType>(&mut group, columns.kind)?;
        required::<ByteArrayType>(&mut group, columns.key)?;
        required::<ByteArrayType>(&mut group, columns.namespace)?;
        optional::<ByteArrayType>(&mut group, columns.map_key)?;
        optional::<Int64Type>(&mut group, columns.list_index)?;
        optional::<ByteArrayType>(&mut group, columns.value)?;
        optional::<Int64Type>(&mut group, columns.touched_ms)?;
        optional::<Int64Type>(&mut group, columns.time)?;
        group.close().map(|_| ())
    }
}

impl Blocks {
    fn new() -> Self {
        Self { payload: PutPayloadMut::new().with_block_size(BLOCK_BYTES), hasher: crc32fast::Hasher::new() }
    }
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A page was compressed.
        tasks::breathe();
        // A longer piece would become a block of its own length.
        let taken = bytes.get(..BLOCK_BYTES).unwrap_or(bytes);
        self.payload.extend_from_slice(taken);
        self.hasher.update(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Group<'a> = SerializedRowGroupWriter<'a, Blocks>;

fn optional<T: DataType>(group: &mut Group<'_>, column: Column<T::T>) -> Result<(), ParquetError> {
    write::<T>(group, column, true)
}

fn required<T: DataType>(group: &mut Group<'_>, column: Column<T::T>) -> Result<(), ParquetError> {
    write::<T>(group, column, false)
}

fn write<T: DataType>(group: &mut Group<'_>, column: Column<T::T>, is_optional: bool) -> Result<(), ParquetError> {
    let next = group.next_column()?;
    let mut writer = next.ok_or_else(|| ParquetError::General("the schema has fewer columns".to_owned()))?;
    let Column { mut values, levels } = column;
    let mut left = values.as_slice();
    for levels in levels.chunks(ROWS_AT_A_TIME) {
        let present = levels.iter().filter(|level| **level > 0).count();
        let (values, rest) = left.split_at(present);
        writer.typed::<T>().write_batch(values, is_optional.then_some(levels), None)?;
        left = rest;
        tasks::breathe();
    }
    writer.close()?;
    while !values.is_empty() {
        values.truncate(values.len().saturating_sub(ROWS_AT_A_TIME));
        tasks::breathe();
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::{
        object::Path,
        savepoint::{Entry, Place, read_rows},
        types::KeyGroup,
    };

    #[test]
    fn a_file_is_in_memory_once_in_blocks_of_one_size() {
        let mut file = FileWriter::new().unwrap();
        let mut random = StdRng::seed_from_u64(1);
        let values: Vec<[u8; 1_000]> = (0..10_000).map(|_| random.random()).collect();
        for value in &values {
            let place = Place::KeyGroup(KeyGroup(3));
            let entry = Entry::Value(value);
            file.push(&Row { place, state: "a", key: b"k", namespace: b"", entry, touched: None }).unwrap();
        }
        let WrittenFile { payload, crc32, rows } = file.finish().unwrap();
        assert_eq!(rows, 10_000);
        assert!(payload.content_length() > 10_000_000);
        let blocks: Vec<_> = payload.iter().map(bytes::Bytes::len).collect();
        let (last, full) = blocks.split_last().unwrap();
        assert!(full.iter().all(|block| *block == BLOCK_BYTES) && *last <= BLOCK_BYTES, "{blocks:?}");
        let whole: Vec<u8> = payload.iter().flatten().copied().collect();
        assert_eq!(crc32, crc32fast::hash(&whole));
        let mut read = values.iter();
        let check = |row: &Row<'_>| {
            assert_eq!(row.entry, Entry::Value(read.next().unwrap()));
            Ok(())
        };
        assert_eq!(read_rows(&Path::from("a"), &whole.into(), 1 << 30, check).unwrap(), 10_000);
    }
}

//! Reading a file of a savepoint, which may have been written by anybody: some rows at a time.

use std::panic::{self, AssertUnwindSafe};

use bytes::Bytes;
use parquet::file::{
    metadata::{FileMetaData, RowGroupMetaData},
    reader::{ChunkReader, FileReader as _},
    serialized_reader::SerializedFileReader,
};

use super::{
    batch::{KeyGroupOf, Readers},
    columns::Row,
    error::SavepointError,
    metadata::FORMAT_VERSION,
    schema::Positions,
};
use crate::object::Path;

/// Most rows of a row group, of which a file has many.
const MAX_GROUP_ROWS: u64 = 1 << 24;

/// Most rows that are read at once.
const BATCH_ROWS: u64 = 4 << 10;

/// Bytes, uncompressed, that are about read at once.
const BATCH_BYTES: u64 = 4 << 20;

/// The key of the file's metadata that tells the version of the format.
pub(super) const VERSION_KEY: &str = "dstl.savepoint.version";

/// A fault of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", .group.map(|group| format!("row group {group}: ")).unwrap_or_default())]
pub struct FileFault {
    /// The row group, from 0, if it is about one.
    pub group: Option<usize>,
    /// The fault, and the row.
    pub what: String,
}

/// How to read a file.
pub struct ReadFile<'a> {
    /// Most bytes of a row group, uncompressed.
    pub max_group_bytes: u64,
    /// Whether another program wrote the file: then columns may be missing and of other widths.
    pub is_foreign: bool,
    /// Computes the key group of a row of keyed state that has none.
    pub key_group_of: Option<KeyGroupOf<'a>>,
}

/// Hands every row of the file `path`, which has these bytes, to `read`, in order; a row group may have `max_bytes`,
/// uncompressed. Returns how many rows there are. Blocks its thread for as long as it takes to decompress them.
///
/// # Errors
/// [`SavepointError::Damaged`] names file and row group, also for what `read` says of a row.
pub fn read_rows(
    path: &Path,
    bytes: &Bytes,
    max_bytes: u64,
    mut read: impl FnMut(&Row<'_>) -> Result<(), String>,
) -> Result<u64, SavepointError> {
    let how = ReadFile { max_group_bytes: max_bytes, is_foreign: false, key_group_of: None };
    let rows = how.run(bytes.clone(), |_| true, |_, row| read(row));
    rows.map_err(|FileFault { group, what }| SavepointError::damaged(path, group, what))
}

impl ReadFile<'_> {
    /// Hands the rows of those row groups of `file` that are `wanted` to `read`, in order, with the number of their row
    /// group. Returns how many rows these groups have. Blocks its thread.
    ///
    /// # Errors
    /// [`FileFault`], also for what `read` says of a row, and for a panic of the Parquet library.
    pub fn run<R: ChunkReader + 'static>(
        &self,
        file: R,
        mut wanted: impl FnMut(usize) -> bool,
        mut read: impl FnMut(usize, &Row<'_>) -> Result<(), String>,
    ) -> Result<u64, FileFault> {
        // The library checks much of a file and not all; nothing of it outlives a panic.
        let caught = panic::catch_unwind(AssertUnwindSafe(|| self.rows(file, &mut wanted, &mut read)));
        caught.unwrap_or_else(|_| {
            Err(FileFault { group: None, what: "it is not well-formed: the Parquet library panicked".to_owned() })
        })
    }

    fn rows<R: ChunkReader + 'static>(
        &self,
        file: R,
        wanted: &mut impl FnMut(usize) -> bool,
        read: &mut impl FnMut(usize, &Row<'_>) -> Result<(), String>,
    ) -> Result<u64, FileFault> {
        let of_file = |what: String| FileFault { group: None, what };
        let file = SerializedFileReader::new(file).map_err(|error| of_file(error.to_string()))?;
        let metadata = file.metadata().file_metadata();
        check_version(metadata).map_err(of_file)?;
        let find = if self.is_foreign { Positions::of_others } else { Positions::of_dstl };
        let positions = find(metadata.schema_descr()).map_err(of_file)?;
        let mut total = 0;
        for number in (0..file.num_row_groups()).filter(|number| wanted(*number)) {
            let fault = |what: String| FileFault { group: Some(number), what };
            let group = file.get_row_group(number).map_err(|error| fault(error.to_string()))?;
            let (rows, at_once) = self.rows_of(group.metadata()).map_err(fault)?;
            let mut readers = Readers::open(&*group, &positions).map_err(|error| fault(error.to_string()))?;
            let mut done = 0;
            while done < rows {
                let count = usize::try_from(at_once.min(rows - done)).unwrap_or(usize::MAX);
                let batch = readers.next(count).map_err(|error| fault(error.to_string()))?;
                for row in 0..count {
                    let at = |what: String| fault(format!("row {}: {what}", done + row as u64));
                    read(number, &batch.row(row, self.key_group_of).map_err(at)?).map_err(at)?;
                }
                done += count as u64;
            }
            total += rows;
        }
        Ok(total)
    }

    /// How many rows a row group has, and how many to read at once.
    ///
    /// # Errors
    /// If it is larger than it may be.
    fn rows_of(&self, group: &RowGroupMetaData) -> Result<(u64, u64), String> {
        let sizes = group.columns().iter().map(|column| u64::try_from(column.uncompressed_size()).unwrap_or(u64::MAX));
        let (bytes, most) = (sizes.fold(0, u64::saturating_add), self.max_group_bytes);
        if bytes > most {
            return Err(format!(
                "it has {bytes} bytes uncompressed, at most {most} are allowed; write smaller row groups"
            ));
        }
        let rows = group.num_rows();
        let few = u64::try_from(rows).ok().filter(|rows| *rows <= MAX_GROUP_ROWS);
        let few = few.ok_or_else(|| {
            format!("it has {rows} rows, at most {MAX_GROUP_ROWS} are allowed; write smaller row groups")
        });
        let of_bytes = |rows: u64| rows.saturating_mul(BATCH_BYTES) / bytes.max(1);
        few.map(|rows| (rows, of_bytes(rows).clamp(1, BATCH_ROWS)))
    }
}

/// Refuses a file of a later version of dstl; a file of another program has none.
fn check_version(metadata: &FileMetaData) -> Result<(), String> {
    let told = metadata.key_value_metadata().into_iter().flatten().find(|told| told.key == VERSION_KEY);
    match told.map(|told| told.value.as_deref().unwrap_or_default()) {
        Some(version) if version.parse::<u64>().is_ok_and(|version| version <= FORMAT_VERSION) => Ok(()),
        None => Ok(()),
        Some(version) => Err(format!(
            "it is of version `{version}` of savepoints, and this dstl reads versions up to {FORMAT_VERSION}; use a newer one"
        )),
    }
}

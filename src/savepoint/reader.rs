//! The reader of one file of a savepoint, some rows at a time. Any program may have written the file.

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

/// Most rows of a row group. A file has many row groups.
const MAX_GROUP_ROWS: u64 = 1 << 24;

/// Most rows that are read at once.
const BATCH_ROWS: u64 = 4 << 10;

/// Uncompressed bytes that are read at once, approximately.
const BATCH_BYTES: u64 = 4 << 20;

/// The key in the file's metadata whose value is the version of the format.
pub(super) const VERSION_KEY: &str = "dstl.savepoint.version";

/// A fault of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", .group.map(|group| format!("row group {group}: ")).unwrap_or_default())]
pub struct FileFault {
    /// The row group with the fault, counted from 0; `None` if the fault is about the whole file.
    pub group: Option<usize>,
    /// The fault, with the number of the row if it is about one.
    pub what: String,
}

/// Settings for reading a file.
pub struct ReadFile<'a> {
    /// Most bytes of a row group, uncompressed.
    pub max_group_bytes: u64,
    /// Whether another program may have written the file. If so, columns may be missing or have other widths.
    pub is_foreign: bool,
    /// Computes the key group of a row of keyed state that has none.
    pub key_group_of: Option<KeyGroupOf<'a>>,
}

/// Calls `read` with every row of the file `path`, whose contents are `bytes`, in order. A row group may have
/// `max_bytes` uncompressed. Returns the number of rows. Blocks the thread while it decompresses.
///
/// # Errors
/// [`SavepointError::Damaged`], which names file and row group, also for an error of `read`.
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
    /// Calls `read` with the number of the row group and the row, for every row of the row groups of `file` that are
    /// `wanted`, in order. Returns the number of rows in these groups. Blocks its thread.
    ///
    /// # Errors
    /// [`FileFault`], also for an error of `read`, and for a panic of the Parquet library.
    pub fn run<R: ChunkReader + 'static>(
        &self,
        file: R,
        mut wanted: impl FnMut(usize) -> bool,
        mut read: impl FnMut(usize, &Row<'_>) -> Result<(), String>,
    ) -> Result<u64, FileFault> {
        // The library does not check every part of a file, and may panic on a damaged one. No value of it outlives the
        // panic.
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
            // Ordering: the sizes are checked before a column is read. A small file can claim to hold gigabytes, and
            // memory would be taken for them.
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

    /// Number of rows of a row group, and number of rows to read at once.
    ///
    /// # Errors
    /// If the row group is larger than allowed.
    fn rows_of(&self, group: &RowGroupMetaData) -> Result<(u64, u64), String> {
        // A negative size is damage. It counts as the largest one, which is refused below.
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

/// Refuses a file of a later version of dstl. A file of another program has no version.
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

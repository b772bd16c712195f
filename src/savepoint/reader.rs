//! Reading a file of a savepoint, which may have been written by anybody.

use bytes::Bytes;
use parquet::{
    column::reader::get_typed_column_reader,
    data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type},
    errors::ParquetError,
    file::{
        reader::{FileReader as _, RowGroupReader},
        serialized_reader::SerializedFileReader,
    },
    schema::types::SchemaDescriptor,
};

use super::{
    SavepointError,
    columns::{Entry, Place, Row, descriptor, kind},
};
use crate::{
    object::Path,
    types::{KeyGroup, StateKind},
};

/// Most rows of a row group; each takes a few hundred bytes of memory, whatever it has.
const MAX_GROUP_ROWS: usize = 1 << 20;

/// The rows of a row group, by columns; a column that lacks a value in a row has `None` there.
struct Group {
    key_group: Vec<Option<i32>>,
    subtask: Vec<Option<i32>>,
    state: Vec<Option<ByteArray>>,
    kind: Vec<Option<ByteArray>>,
    key: Vec<Option<ByteArray>>,
    namespace: Vec<Option<ByteArray>>,
    map_key: Vec<Option<ByteArray>>,
    list_index: Vec<Option<i64>>,
    value: Vec<Option<ByteArray>>,
    touched_ms: Vec<Option<i64>>,
    time: Vec<Option<i64>>,
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
    let damaged = |group: Option<usize>, what: String| SavepointError::damaged(path, group, what);
    let file = SerializedFileReader::new(bytes.clone()).map_err(|error| damaged(None, error.to_string()))?;
    let positions = positions(file.metadata().file_metadata().schema_descr()).map_err(|what| damaged(None, what))?;
    let mut total = 0;
    for number in 0..file.num_row_groups() {
        let damaged = |what: String| damaged(Some(number), what);
        let group = file.get_row_group(number).map_err(|error| damaged(error.to_string()))?;
        let rows = rows_of(&*group, max_bytes).map_err(damaged)?;
        let group = Group::read(&*group, &positions, rows).map_err(|error| damaged(error.to_string()))?;
        for row in 0..rows {
            let at = |what: String| damaged(format!("row {row}: {what}"));
            read(&group.row(row).map_err(at)?).map_err(at)?;
            total += 1;
        }
    }
    Ok(total)
}

/// The position in the file of each column of the schema; other columns may be there.
///
/// # Errors
/// Names a column that is missing, or of another type.
fn positions(found: &SchemaDescriptor) -> Result<Vec<usize>, String> {
    let wanted = descriptor().map_err(|error| error.to_string())?;
    let position = |column: &parquet::schema::types::ColumnDescPtr| {
        let is_it = |other: &parquet::schema::types::ColumnDescPtr| other.path() == column.path();
        let position = found.columns().iter().position(is_it);
        let position = position.ok_or_else(|| format!("column `{}` is missing", column.path()))?;
        let other = found.column(position);
        if other.physical_type() != column.physical_type() || other.max_rep_level() > 0 || other.max_def_level() > 1 {
            let (path, is, wanted) = (column.path(), other.physical_type(), column.physical_type());
            return Err(format!("column `{path}` is of type {is}, not of a plain {wanted}"));
        }
        Ok(position)
    };
    wanted.columns().iter().map(position).collect()
}

/// How many rows a row group has.
///
/// # Errors
/// If it is larger than it may be.
fn rows_of(group: &dyn RowGroupReader, max_bytes: u64) -> Result<usize, String> {
    let metadata = group.metadata();
    let sizes = metadata.columns().iter().map(|column| u64::try_from(column.uncompressed_size()).unwrap_or(u64::MAX));
    let bytes = sizes.fold(0, u64::saturating_add);
    if bytes > max_bytes {
        return Err(format!(
            "it has {bytes} bytes uncompressed, at most {max_bytes} are allowed; write smaller row groups"
        ));
    }
    let rows = metadata.num_rows();
    let few = usize::try_from(rows).ok().filter(|rows| *rows <= MAX_GROUP_ROWS);
    few.ok_or_else(|| format!("it has {rows} rows, at most {MAX_GROUP_ROWS} are allowed; write smaller row groups"))
}

impl Group {
    fn read(group: &dyn RowGroupReader, positions: &[usize], rows: usize) -> Result<Self, ParquetError> {
        let mut left = positions.iter().copied();
        let mut next = || left.next().unwrap_or(usize::MAX);
        Ok(Self {
            key_group: column::<Int32Type>(group, next(), rows)?,
            subtask: column::<Int32Type>(group, next(), rows)?,
            state: column::<ByteArrayType>(group, next(), rows)?,
            kind: column::<ByteArrayType>(group, next(), rows)?,
            key: column::<ByteArrayType>(group, next(), rows)?,
            namespace: column::<ByteArrayType>(group, next(), rows)?,
            map_key: column::<ByteArrayType>(group, next(), rows)?,
            list_index: column::<Int64Type>(group, next(), rows)?,
            value: column::<ByteArrayType>(group, next(), rows)?,
            touched_ms: column::<Int64Type>(group, next(), rows)?,
            time: column::<Int64Type>(group, next(), rows)?,
        })
    }

    fn row(&self, row: usize) -> Result<Row<'_>, String> {
        let place = match (number(&self.key_group, row), number(&self.subtask, row)) {
            (Some(key_group), None) => u16::try_from(key_group).ok().map(KeyGroup).map(Place::KeyGroup),
            (None, Some(subtask)) => u32::try_from(subtask).ok().map(Place::Subtask),
            _ => None,
        };
        let place = place.ok_or("it has neither a `key_group` nor a `subtask`, or both")?;
        let state = bytes(&self.state, row).and_then(|name| std::str::from_utf8(name).ok());
        let state = state.ok_or("`state` is no text")?;
        let kind =
            bytes(&self.kind, row).and_then(kind).ok_or("`kind` is none of `value`, `list`, `map` and `timer`")?;
        let value = || bytes(&self.value, row).ok_or("`value` is missing");
        let entry = match kind {
            StateKind::Value => Entry::Value(value()?),
            StateKind::List => {
                let index = number(&self.list_index, row).and_then(|index| u64::try_from(index).ok());
                Entry::Element(index.ok_or("`list_index` is missing or negative")?, value()?)
            }
            StateKind::Map => Entry::Map(bytes(&self.map_key, row).ok_or("`map_key` is missing")?, value()?),
            StateKind::Timer => Entry::Timer(number(&self.time, row).ok_or("`time` is missing")?),
        };
        let key = bytes(&self.key, row).unwrap_or_default();
        let namespace = bytes(&self.namespace, row).unwrap_or_default();
        let touched = number(&self.touched_ms, row).map(i64::cast_unsigned);
        Ok(Row { place, state, key, namespace, entry, touched })
    }
}

fn bytes(column: &[Option<ByteArray>], row: usize) -> Option<&[u8]> {
    column.get(row)?.as_ref().map(ByteArray::data)
}

fn number<T: Copy>(column: &[Option<T>], row: usize) -> Option<T> {
    *column.get(row)?
}

/// All values of a column, which was seen to be of this type.
fn column<T: DataType>(
    group: &dyn RowGroupReader,
    position: usize,
    rows: usize,
) -> Result<Vec<Option<T::T>>, ParquetError> {
    let is_optional = group.metadata().column(position).column_descr().max_def_level() > 0;
    let mut reader = get_typed_column_reader::<T>(group.get_column_reader(position)?);
    let (mut values, mut levels) = (vec![], vec![]);
    let (read, _, _) = reader.read_records(rows, is_optional.then_some(&mut levels), None, &mut values)?;
    if read != rows {
        return Err(ParquetError::General(format!("column {position} has {read} of {rows} rows")));
    }
    let mut values = values.into_iter();
    if !is_optional {
        return Ok(values.map(Some).collect());
    }
    Ok(levels.into_iter().map(|level| if level > 0 { values.next() } else { None }).collect())
}

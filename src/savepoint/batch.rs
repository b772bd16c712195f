//! Batches of rows by columns, and the readers of these columns, which widen narrower types of other writers.

use parquet::{
    column::reader::{ColumnReaderImpl, get_typed_column_reader},
    data_type::{ByteArray, ByteArrayType, DataType, FixedLenByteArrayType, Int32Type, Int64Type},
    errors::ParquetError,
    file::reader::RowGroupReader,
};

use super::{
    columns::{Entry, Place, Row, kind},
    schema::Positions,
};
use crate::types::{KeyGroup, StateKind};

/// Computes the key group of a key, for rows without one.
pub(super) type KeyGroupOf<'a> = &'a dyn Fn(&[u8]) -> KeyGroup;

/// The columns of a row group, all read up to the same row.
pub(super) struct Readers {
    key_group: Numbers,
    subtask: Numbers,
    state: Strings,
    kind: Strings,
    key: Strings,
    namespace: Strings,
    map_key: Strings,
    list_index: Numbers,
    value: Strings,
    touched_ms: Numbers,
    time: Numbers,
}

/// A column of integers.
enum Numbers {
    Absent,
    Narrow { reader: ColumnReaderImpl<Int32Type>, is_optional: bool, is_signed: bool },
    Wide { reader: ColumnReaderImpl<Int64Type>, is_optional: bool },
}

/// A column of bytes.
enum Strings {
    Absent,
    Free { reader: ColumnReaderImpl<ByteArrayType>, is_optional: bool },
    Fixed { reader: ColumnReaderImpl<FixedLenByteArrayType>, is_optional: bool },
}

/// Some rows by columns. In a column without a value for a row, that row has `None`.
pub(super) struct Batch {
    key_group: Vec<Option<i64>>,
    subtask: Vec<Option<i64>>,
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

impl Readers {
    /// Readers at the first row of `group`, whose columns are at `positions`.
    pub(super) fn open(group: &dyn RowGroupReader, positions: &Positions) -> Result<Self, ParquetError> {
        let numbers = |column| Numbers::open(group, positions.of(column));
        let strings = |column| Strings::open(group, positions.of(column));
        Ok(Self {
            key_group: numbers("key_group")?,
            subtask: numbers("subtask")?,
            state: strings("state")?,
            kind: strings("kind")?,
            key: strings("key")?,
            namespace: strings("namespace")?,
            map_key: strings("map_key")?,
            list_index: numbers("list_index")?,
            value: strings("value")?,
            touched_ms: numbers("touched_ms")?,
            time: numbers("time")?,
        })
    }

    /// The next `rows` rows.
    pub(super) fn next(&mut self, rows: usize) -> Result<Batch, ParquetError> {
        Ok(Batch {
            key_group: self.key_group.next(rows)?,
            subtask: self.subtask.next(rows)?,
            state: self.state.next(rows)?,
            kind: self.kind.next(rows)?,
            key: self.key.next(rows)?,
            namespace: self.namespace.next(rows)?,
            map_key: self.map_key.next(rows)?,
            list_index: self.list_index.next(rows)?,
            value: self.value.next(rows)?,
            touched_ms: self.touched_ms.next(rows)?,
            time: self.time.next(rows)?,
        })
    }
}

impl Numbers {
    fn open(group: &dyn RowGroupReader, position: Option<usize>) -> Result<Self, ParquetError> {
        let Some(position) = position else { return Ok(Self::Absent) };
        let column = group.metadata().column(position).column_descr();
        let is_optional = column.max_def_level() > 0;
        let reader = group.get_column_reader(position)?;
        Ok(match column.physical_type() {
            parquet::basic::Type::INT32 => {
                let is_signed = super::schema::is_signed(column);
                Self::Narrow { reader: get_typed_column_reader(reader), is_optional, is_signed }
            }
            _ => Self::Wide { reader: get_typed_column_reader(reader), is_optional },
        })
    }

    fn next(&mut self, rows: usize) -> Result<Vec<Option<i64>>, ParquetError> {
        match self {
            Self::Absent => Ok(vec![None; rows]),
            Self::Wide { reader, is_optional } => records(reader, rows, *is_optional),
            Self::Narrow { reader, is_optional, is_signed } => {
                let widened = |value: i32| if *is_signed { value.into() } else { value.cast_unsigned().into() };
                let records = records(reader, rows, *is_optional)?;
                Ok(records.into_iter().map(|value| value.map(widened)).collect())
            }
        }
    }
}

impl Strings {
    fn open(group: &dyn RowGroupReader, position: Option<usize>) -> Result<Self, ParquetError> {
        let Some(position) = position else { return Ok(Self::Absent) };
        let column = group.metadata().column(position).column_descr();
        let is_optional = column.max_def_level() > 0;
        let reader = group.get_column_reader(position)?;
        Ok(match column.physical_type() {
            parquet::basic::Type::FIXED_LEN_BYTE_ARRAY => {
                Self::Fixed { reader: get_typed_column_reader(reader), is_optional }
            }
            _ => Self::Free { reader: get_typed_column_reader(reader), is_optional },
        })
    }

    fn next(&mut self, rows: usize) -> Result<Vec<Option<ByteArray>>, ParquetError> {
        match self {
            Self::Absent => Ok(vec![None; rows]),
            Self::Free { reader, is_optional } => records(reader, rows, *is_optional),
            Self::Fixed { reader, is_optional } => {
                let records = records(reader, rows, *is_optional)?;
                Ok(records.into_iter().map(|value| value.map(ByteArray::from)).collect())
            }
        }
    }
}

/// The next `rows` values of a column.
fn records<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    is_optional: bool,
) -> Result<Vec<Option<T::T>>, ParquetError> {
    let (mut values, mut levels) = (vec![], vec![]);
    let (read, _, _) = reader.read_records(rows, is_optional.then_some(&mut levels), None, &mut values)?;
    if read != rows {
        return Err(ParquetError::General(format!("a column ends {} rows before the row group does", rows - read)));
    }
    let mut values = values.into_iter();
    if !is_optional {
        return Ok(values.map(Some).collect());
    }
    // A missing value has a level of 0 and no place among the values.
    Ok(levels.into_iter().map(|level| if level > 0 { values.next() } else { None }).collect())
}

impl Batch {
    /// Row `row` of the batch. If it has neither a key group nor a subtask, `key_group_of`, if given, computes its key
    /// group.
    ///
    /// # Errors
    /// The cell that the row lacks, or that has a value which cannot be used.
    pub(super) fn row(&self, row: usize, key_group_of: Option<KeyGroupOf<'_>>) -> Result<Row<'_>, String> {
        let key = bytes(&self.key, row).unwrap_or_default();
        // A row has one owner. To guess between two would put the entry where no task finds it.
        let place = match (number(&self.key_group, row), number(&self.subtask, row), key_group_of) {
            (Some(key_group), None, _) => u16::try_from(key_group).ok().map(KeyGroup).map(Place::KeyGroup),
            (None, Some(subtask), _) => u32::try_from(subtask).ok().map(Place::Subtask),
            (None, None, Some(key_group_of)) => Some(Place::KeyGroup(key_group_of(key))),
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

//! The positions of a savepoint's columns in a file, and the check of their types.

use std::collections::BTreeMap;

use parquet::{
    basic::{ConvertedType, LogicalType, TimeUnit, Type},
    schema::types::{ColumnDescPtr, ColumnDescriptor, SchemaDescriptor},
};

use super::columns::descriptor;

/// Columns that a file must have even if another program wrote it.
const NEEDED: [&str; 3] = ["state", "kind", "key"];

/// Columns of times, which may have a Parquet type for times.
const TIMES: [&str; 2] = ["touched_ms", "time"];

/// The positions of the columns in a file.
pub(super) struct Positions(BTreeMap<String, usize>);

impl Positions {
    /// The position of a column; `None` if the file does not have it.
    pub(super) fn of(&self, column: &str) -> Option<usize> {
        self.0.get(column).copied()
    }

    /// The positions in a file of dstl, which must have every column with exactly its type. There may be further
    /// columns.
    ///
    /// # Errors
    /// The column that is missing, or has another type.
    pub(super) fn of_dstl(found: &SchemaDescriptor) -> Result<Self, String> {
        Self::find(found, |column, there| {
            let there = there.ok_or_else(|| format!("column `{}` is missing", column.path().string()))?;
            if there.physical_type() != column.physical_type() { Err(mistyped(column, there)) } else { Ok(()) }
        })
    }

    /// The positions in a file of another program. Columns may hold integers and bytes of any width, and only the
    /// columns in `NEEDED` must exist.
    ///
    /// # Errors
    /// The column that is missing, exists twice, or has another type.
    pub(super) fn of_others(found: &SchemaDescriptor) -> Result<Self, String> {
        Self::find(found, |column, there| match there {
            None if NEEDED.contains(&column.name()) => {
                let names: Vec<String> =
                    found.columns().iter().map(|column| format!("`{}`", column.path().string())).collect();
                Err(format!("column `{}` is missing; there are: {}", column.path().string(), names.join(", ")))
            }
            Some(there) if !is_fit(column, there) => Err(mistyped(column, there)),
            _ => Ok(()),
        })
    }

    fn find(
        found: &SchemaDescriptor,
        check: impl Fn(&ColumnDescPtr, Option<&ColumnDescPtr>) -> Result<(), String>,
    ) -> Result<Self, String> {
        let wanted = descriptor().map_err(|error| error.to_string())?;
        let mut positions = BTreeMap::new();
        for column in wanted.columns() {
            let same = |(_, other): &(usize, &ColumnDescPtr)| other.path() == column.path();
            let mut all = found.columns().iter().enumerate().filter(same);
            let there = all.next();
            if all.next().is_some() {
                return Err(format!("column `{}` is there twice", column.path().string()));
            }
            check(column, there.map(|(_, there)| there))?;
            let Some((position, there)) = there else { continue };
            // A repeated column has several values per row, and a deeper one is in a group that may be missing. Neither
            // fits a cell.
            if there.max_rep_level() > 0 || there.max_def_level() > 1 {
                return Err(mistyped(column, there));
            }
            positions.insert(column.name().to_owned(), position);
        }
        Ok(Self(positions))
    }
}

/// Whether the values of `there` can be read as values of `column`.
fn is_fit(column: &ColumnDescPtr, there: &ColumnDescPtr) -> bool {
    let is_time = || TIMES.contains(&column.name());
    match (column.physical_type(), there.physical_type()) {
        (Type::INT32 | Type::INT64, Type::INT32 | Type::INT64) => match there.logical_type_ref() {
            Some(LogicalType::Integer(_)) => true,
            Some(LogicalType::Timestamp(time)) => is_time() && time.unit == TimeUnit::MILLIS,
            Some(_) => false,
            None => match there.converted_type() {
                ConvertedType::TIMESTAMP_MILLIS => is_time(),
                ConvertedType::DECIMAL
                | ConvertedType::DATE
                | ConvertedType::TIME_MILLIS
                | ConvertedType::TIME_MICROS
                | ConvertedType::TIMESTAMP_MICROS => false,
                _ => true,
            },
        },
        (Type::BYTE_ARRAY, Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY) => match there.logical_type_ref() {
            None => !matches!(there.converted_type(), ConvertedType::DECIMAL | ConvertedType::INTERVAL),
            Some(LogicalType::String | LogicalType::Enum | LogicalType::Json | LogicalType::Bson) => true,
            Some(other) => matches!(other, LogicalType::Uuid),
        },
        _ => false,
    }
}

fn mistyped(column: &ColumnDescPtr, there: &ColumnDescPtr) -> String {
    let meaning = there.logical_type_ref().map(|logical| format!(" ({logical:?})")).unwrap_or_default();
    let nested = if there.max_rep_level() > 0 || there.max_def_level() > 1 { ", nested" } else { "" };
    let (path, is, wanted) = (column.path().string(), there.physical_type(), column.physical_type());
    format!("column `{path}` is of type {is}{meaning}{nested}, not of a plain {wanted}")
}

/// Whether the integers of a column are signed.
pub(super) fn is_signed(column: &ColumnDescriptor) -> bool {
    match column.logical_type_ref() {
        Some(LogicalType::Integer(integer)) => integer.is_signed,
        _ => !matches!(
            column.converted_type(),
            ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64
        ),
    }
}

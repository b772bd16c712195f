//! Errors of reading savepoints.

use crate::object::{Path, StoreError};

/// A savepoint that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SavepointError {
    /// There is no savepoint at this path.
    #[error("there is no savepoint at `{0}`: it has no `metadata.json`")]
    NotFound(Path),
    /// A file of the savepoint is damaged, or does not follow the format.
    #[error("savepoint file `{file}`{}: {what}", .group.map(|group| format!(", row group {group}")).unwrap_or_default())]
    Damaged {
        /// The path of the file within the store.
        file: Path,
        /// The Parquet row group with the fault, counted from 0; `None` if the fault is about the whole file.
        group: Option<usize>,
        /// The fault, for people.
        what: String,
    },
    /// A file of the savepoint is missing.
    #[error("savepoint file `{0}` is missing")]
    Missing(Path),
    /// The store does not answer.
    #[error(transparent)]
    Store(StoreError),
}

impl SavepointError {
    pub(crate) fn damaged(file: &Path, group: Option<usize>, what: impl ToString) -> Self {
        Self::Damaged { file: file.clone(), group, what: what.to_string() }
    }
}

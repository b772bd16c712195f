//! Faults of savepoints.

use crate::object::{Path, StoreError};

/// Why a savepoint cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SavepointError {
    /// There is none.
    #[error("there is no savepoint at `{0}`: it has no `metadata.json`")]
    NotFound(Path),
    /// A file of it is damaged, or was not made as it should be.
    #[error("savepoint file `{file}`{}: {what}", .group.map(|group| format!(", row group {group}")).unwrap_or_default())]
    Damaged {
        /// The path of the file within the store.
        file: Path,
        /// Of Parquet, from 0, if it is about one.
        group: Option<usize>,
        /// How.
        what: String,
    },
    /// A file of it is missing.
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

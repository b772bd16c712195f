//! The errors of a job, and of a savepoint, as an opener sees them.

use crate::{
    checkpoint::job::JobError,
    error::{Error, Reason},
    savepoint::SavepointError,
    types::BackendId,
};

/// The error for a fault of the job's records, or for a request that contradicts them.
pub(crate) fn job_error(error: JobError) -> Error {
    let reason = match &error {
        JobError::Outdated { .. } | JobError::Used { .. } => Reason::Fenced,
        JobError::Inconsistent(_) | JobError::NotThere { .. } | JobError::NotConsistent(..) => {
            Reason::NoConsistentCheckpoint
        }
        JobError::DeclaredOtherwise { .. } | JobError::BegunUndeclared { .. } => Reason::DeclarationMismatch,
        JobError::Malformed(..) => Reason::InvalidArgument,
        JobError::Gone(_) | JobError::Lost { .. } => Reason::MissingObject,
        JobError::Contended(_) => Reason::StoreUnavailable,
        JobError::Corrupt { .. } | JobError::AllDamaged { .. } => Reason::CorruptObject,
        JobError::NotRetained(..) => Reason::CheckpointNotFound,
        JobError::ChosenNewer { .. } | JobError::ChosenOther { .. } | JobError::Ambiguous { .. } => {
            Reason::InvalidArgument
        }
        JobError::Chain(_) => {
            let JobError::Chain(source) = error else { unreachable!("matched above") };
            return source.into();
        }
    };
    Error::new(reason, error.to_string())
}

/// The error for a savepoint that cannot be read.
pub(crate) fn unreadable_savepoint(backend: &BackendId, error: SavepointError) -> Error {
    let reason = match error {
        SavepointError::NotFound(_) => Reason::CheckpointNotFound,
        SavepointError::Damaged { .. } => Reason::CorruptObject,
        SavepointError::Missing(_) => Reason::MissingObject,
        SavepointError::Store(source) => return source.into(),
    };
    Error::new(reason, format!("backend `{backend}`: {error}"))
}

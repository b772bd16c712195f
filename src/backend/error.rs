//! The errors of a backend as its callers see them.

use crate::{
    checkpoint::{chain::ChainError, ledger::TriggerError},
    error::{Error, Reason},
    materialization::target::MaterializationError,
    restore::RestoreError,
    state::{StateError, op::OpError},
    types::{BackendId, Epoch},
};

/// Error numbers for too many open files: of the system, and of this process.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// Texts by which errors say that a resource of the host is used up.
const SCARCE: [&str; 3] = ["Too many open files", "No space left on device", "Disk quota exceeded"];

/// The error for a caller whose epoch is not the owner's.
pub(super) fn fenced(backend: &BackendId, caller: Epoch, owner: Epoch) -> Error {
    Error::new(
        Reason::Fenced,
        format!("backend `{backend}`: the call is of epoch {caller}, the owner is epoch {owner}; stop writing"),
    )
}

/// Not open on this daemon. Retryable for readers, because an owner may still open it.
pub(super) fn not_open(backend: &BackendId) -> Error {
    let text = format!("backend `{backend}` is not open on this daemon");
    Error { retryable: true, ..Error::new(Reason::BackendNotOpen, text) }
}

/// The error of an owner that another owner has fenced.
pub(super) fn fenced_by(backend: &BackendId, by: Epoch) -> Error {
    Error::new(Reason::Fenced, format!("backend `{backend}` was taken over by epoch {by}; stop writing"))
}

/// The error for a write to a backend in failsafe.
pub(super) fn failsafe(backend: &BackendId, why: &str) -> Error {
    Error::new(
        Reason::Failsafe,
        format!("backend `{backend}` refuses writes after a fatal fault: {why}; open it again"),
    )
}

/// The error for a request that needs a changelog, without which there is nothing to do.
pub(super) fn unlogged(backend: &BackendId, what: &str) -> Error {
    let text = format!(
        "backend `{backend}` was opened without changelog, so there is nothing to {what}: take a checkpoint, which is a snapshot \
         then, or open it with CHANGELOG_MODE_ENABLED"
    );
    Error::new(Reason::Unsupported, text)
}

/// The error of an owner that was closed.
pub(super) fn closed(backend: &BackendId) -> Error {
    Error::new(Reason::BackendClosed, format!("backend `{backend}` was closed; open it again"))
}

/// The error for a batch with a wrong operation.
pub(super) fn operation(index: usize, error: &OpError) -> Error {
    let reason = match error {
        OpError::WrongKind { .. } | OpError::NoMergeFunction | OpError::OneByOne => Reason::WrongKind,
        OpError::TooLong { .. } | OpError::TooManySources(_) => Reason::LimitExceeded,
        _ => Reason::InvalidArgument,
    };
    Error::new(reason, format!("operation {index}: {error}"))
}

/// The error for a refused barrier.
pub(super) fn trigger(error: &TriggerError) -> Error {
    let reason = match error {
        TriggerError::OutOfOrder { .. } => Reason::CheckpointOutOfOrder,
        TriggerError::InFlight(_) | TriggerError::Retained(_) => Reason::TooManyCheckpoints,
    };
    Error::new(reason, error.to_string())
}

/// The text of an error of the inner backend, with all its causes.
pub(super) fn inner(error: &StateError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The reason for a fault of the local disk: the host lacks a resource, or else it is an internal fault.
pub(super) fn local(fault: &(dyn std::error::Error + 'static)) -> Reason {
    let mut fault = Some(fault);
    while let Some(cause) = fault {
        // RocksDB passes on errors of the system only as text.
        let text = cause.to_string();
        let lacks = cause.downcast_ref::<std::io::Error>().is_some_and(|error| {
            error.kind() == std::io::ErrorKind::StorageFull
                || error.kind() == std::io::ErrorKind::QuotaExceeded
                || matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
        });
        if lacks || SCARCE.iter().any(|scarce| text.contains(scarce)) {
            return Reason::LocalResources;
        }
        fault = cause.source();
    }
    Reason::Internal
}

/// The error for a fault of the local state store.
pub(super) fn local_store(fault: &StateError) -> Error {
    Error::new(local(fault), inner(fault))
}

/// The error for a restore that failed.
pub(super) fn restore_error(backend: &BackendId, error: RestoreError) -> Error {
    let text = |error: &RestoreError| format!("backend `{backend}`: {error}");
    match error {
        RestoreError::Damaged { ref fault, .. } => {
            let reason = if fault.missing { Reason::MissingObject } else { Reason::CorruptObject };
            Error::new(reason, text(&error))
        }
        RestoreError::Store(source) => source.into(),
        RestoreError::Inner { ref source, .. } => {
            Error::new(local(source), format!("{}: {}", text(&error), inner(source)))
        }
        RestoreError::TooLarge { .. } => Error::new(Reason::StateMemory, text(&error)),
        RestoreError::NoLocalBackends { .. } => Error::new(Reason::Unsupported, text(&error)),
        RestoreError::Folder { .. } => Error::new(local(&error), text(&error)),
        RestoreError::Panicked(_) => Error::new(Reason::Internal, text(&error)),
        RestoreError::Stopped => Error::new(Reason::Draining, text(&error)),
    }
}

impl From<MaterializationError> for Error {
    fn from(error: MaterializationError) -> Self {
        let is_local = matches!(error, MaterializationError::Local { .. });
        Self::new(if is_local { local(&error) } else { Reason::StoreUnavailable }, error.to_string())
    }
}

impl From<ChainError> for Error {
    fn from(error: ChainError) -> Self {
        let reason = match &error {
            ChainError::Fenced { .. } => Reason::Fenced,
            ChainError::Corrupt { .. } => Reason::CorruptObject,
            ChainError::Contended(_) => Reason::StoreUnavailable,
            ChainError::Store(_) => {
                let ChainError::Store(source) = error else { unreachable!("matched above") };
                return source.into();
            }
        };
        Self::new(reason, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_the_host_lacks_is_no_fault_of_ours() {
        let lacks = |error: io::Error| local(&StateError::from(error));
        for error in [
            io::Error::from_raw_os_error(EMFILE),
            io::Error::from_raw_os_error(ENFILE),
            io::ErrorKind::StorageFull.into(),
            io::Error::other("IO error: While open a file for random read: /x/000012.sst: Too many open files"),
        ] {
            let text = error.to_string();
            assert_eq!(lacks(error), Reason::LocalResources, "{text}");
        }
        assert_eq!(lacks(io::Error::other("IO error: /x: Input/output error")), Reason::Internal);
        assert_eq!(local(&StateError::Undecodable("x")), Reason::Internal);
    }
}

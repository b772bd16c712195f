//! The errors of a backend as its callers see them.

use crate::{
    checkpoint::{chain::ChainError, ledger::TriggerError},
    error::{Error, Reason},
    state::{StateError, op::OpError},
    types::{BackendId, Epoch},
};

/// The caller's epoch is not the owner's.
pub(super) fn fenced(backend: &BackendId, caller: Epoch, owner: Epoch) -> Error {
    Error::new(
        Reason::Fenced,
        format!("backend `{backend}`: the call is of epoch {caller}, the owner is epoch {owner}; stop writing"),
    )
}

/// Nobody has the backend open here, for whoever reads it: an owner may come.
pub(super) fn not_open(backend: &BackendId) -> Error {
    let text = format!("backend `{backend}` is not open on this daemon");
    Error { retryable: true, ..Error::new(Reason::BackendNotOpen, text) }
}

/// Another owner extended the chain.
pub(super) fn fenced_by(backend: &BackendId, by: Epoch) -> Error {
    Error::new(Reason::Fenced, format!("backend `{backend}` was taken over by epoch {by}; stop writing"))
}

/// The backend serves only reads.
pub(super) fn failsafe(backend: &BackendId, why: &str) -> Error {
    Error::new(
        Reason::Failsafe,
        format!("backend `{backend}` refuses writes after a fatal fault: {why}; open it again"),
    )
}

/// A batch is refused because of one operation.
pub(super) fn operation(index: usize, error: &OpError) -> Error {
    let reason = match error {
        OpError::WrongKind { .. } | OpError::NoMergeFunction | OpError::OneByOne => Reason::WrongKind,
        OpError::TooLong { .. } | OpError::TooManySources(_) => Reason::LimitExceeded,
        _ => Reason::InvalidArgument,
    };
    Error::new(reason, format!("operation {index}: {error}"))
}

/// A barrier is refused.
pub(super) fn trigger(error: &TriggerError) -> Error {
    let reason = match error {
        TriggerError::OutOfOrder { .. } => Reason::CheckpointOutOfOrder,
        TriggerError::InFlight(_) | TriggerError::Retained(_) => Reason::TooManyCheckpoints,
    };
    Error::new(reason, error.to_string())
}

/// The inner backend failed.
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

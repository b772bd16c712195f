//! What every error tells its caller: the reason, what it spoils, whether to try again.
//!
//! Each folder has its own error enum with data; at the edge of `backend` they become this one [`Error`], whose
//! [`Reason`] says what the caller must do. `rpc/convert.rs` alone maps it to gRPC codes.

pub use crate::proto::v1::{Reason, Scope};

/// An error as an engine sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What to do.
    pub reason: Reason,
    /// What is spoilt.
    pub scope: Scope,
    /// Whether the same call may succeed later, unchanged.
    pub retryable: bool,
    /// For people.
    pub message: String,
}

impl Error {
    /// An error with the scope and retry advice that `reason` usually has.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let (scope, retryable) = usual(reason);
        Self { reason, scope, retryable, message: message.into() }
    }

    /// The same error, spoiling `scope`.
    #[must_use]
    pub fn in_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }
}

/// Scope and retry advice of a reason where nothing else is said.
fn usual(reason: Reason) -> (Scope, bool) {
    match reason {
        Reason::Unspecified | Reason::Internal => (Scope::Backend, false),
        Reason::InvalidArgument
        | Reason::UnknownState
        | Reason::WrongKind
        | Reason::WrongKeyGroup
        | Reason::StateMismatch
        | Reason::BatchOutOfOrder
        | Reason::CheckpointOutOfOrder
        | Reason::LimitExceeded
        | Reason::Unsupported
        | Reason::SessionHalted
        | Reason::InUse
        | Reason::NotAllowed
        | Reason::CheckpointNotFound
        | Reason::TooManyStates => (Scope::Batch, false),
        Reason::StateMemory
        | Reason::TooManyCheckpoints
        | Reason::CheckpointTimeout
        | Reason::CheckpointAborted
        | Reason::TooSlow
        | Reason::TooManyCalls => (Scope::Batch, true),
        Reason::CreditExceeded | Reason::MessageTooLarge | Reason::SessionReplaced => (Scope::Session, false),
        Reason::BackendMismatch
        | Reason::DeclarationMismatch
        | Reason::BackendNotOpen
        | Reason::NoConsistentCheckpoint
        | Reason::Fenced
        | Reason::CorruptObject
        | Reason::MissingObject
        | Reason::Failsafe => (Scope::Backend, false),
        Reason::StoreUnavailable
        | Reason::ChangeMemory
        | Reason::BackendClosed
        | Reason::PinExpired
        | Reason::LocalResources => (Scope::Backend, true),
        Reason::IncompatibleProtocol => (Scope::Daemon, false),
        Reason::Draining => (Scope::Daemon, true),
    }
}

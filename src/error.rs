//! The error that callers see: a reason, the scope of the damage, and whether another try may help.
//!
//! Each folder has its own error enum with data. At the edge of `backend` these enums become this [`Error`], whose
//! [`Reason`] decides the caller's reaction. `rpc/status.rs` alone maps it to gRPC codes.

pub use crate::proto::v1::{Reason, Scope};

/// An error as an engine sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The cause, from which the caller derives its reaction.
    pub reason: Reason,
    /// The largest unit that is unusable now, for example the session or the backend.
    pub scope: Scope,
    /// Whether the same call may succeed later, unchanged.
    pub retryable: bool,
    /// Text for people: the action, the fault, and a remedy.
    pub message: String,
}

impl Error {
    /// An error with the scope and the retry advice that `reason` usually has.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let (scope, retryable) = usual(reason);
        Self { reason, scope, retryable, message: message.into() }
    }

    /// The same error with another scope.
    #[must_use]
    pub fn in_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }
}

/// The usual scope of a reason, and whether a retry may help.
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

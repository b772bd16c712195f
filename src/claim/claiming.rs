//! The resources of a claim, and the settings that it goes by.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    checkpoint::job::Decisions,
    clock::Clock,
    object::Store,
    random::Random,
    setting::words,
    types::{InnerBackend, Limits},
};

words! {
    /// The owner of a checkpoint after a restore from it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum ClaimMode {
        /// The new owner: it builds on the checkpoint and lets it go.
        Claim = "CLAIM",
        /// Neither: the checkpoint stays until a user discards it. The new owner needs none of its objects from its
        /// first own checkpoint on.
        NoClaim = "NO_CLAIM",
    }
}

/// The resources of a claim, and the settings that it goes by: the daemon's answers to questions that a request leaves
/// open, and limits.
#[derive(Debug, Clone)]
pub(crate) struct Claiming {
    /// The object store with all chains.
    pub(crate) store: Store,
    /// The wall clock.
    pub(crate) clock: Clock,
    /// The source of UUIDs.
    pub(crate) random: Random,
    /// Names this daemon process.
    pub(crate) instance: Uuid,
    /// Decisions of this daemon about which checkpoint an attempt begins with.
    pub(crate) decisions: Decisions,
    /// Inner backend if the request names none.
    pub(crate) inner: InnerBackend,
    /// Whether changes are logged if the request does not say.
    pub(crate) changelog: bool,
    /// Owner of a restored checkpoint if the request does not say.
    pub(crate) claim: ClaimMode,
    /// Limits on a client's requests.
    pub(crate) limits: Limits,
    /// How long a pin of a clone stays valid after its last renewal.
    pub(crate) pin_lease: Duration,
    /// How long an open tries to reach the store.
    pub(crate) open_timeout: Duration,
    /// How long a start that was named by a token is remembered after another start has superseded it.
    pub(crate) start_grace: Duration,
}

//! Inner state backends: where the state of a backend lives while its task runs.
//!
//! ```text
//!   Operation ──op::execute──▶ reads the backend, decides ──▶ Change ──▶ StateBackend::apply
//!                                                               └──────▶ the changelog (same bytes; not this folder)
//! ```
//!
//! The semantics of operations (merges, list positions, limits) are written once, in [`op`], over the few primitives of
//! [`StateBackend`]. What `op` decides is a [`Change`]: absolute, touching one entry, needing no other entry and no user
//! code at replay. So live application and replay are the same call.
//!
//! A backend does not know that it is logged, who owns it, or what a checkpoint is. It can be copied piece by piece while it
//! changes in between ([`StateBackend::copy_piece`]): a *piece* is the contents of one (state, key group) whose stable
//! hashes ([`stable_hash`]) are in one [`HashRange`]. Stamps that its owner puts on changes tell which of them a piece holds.
//!
//! Every implementation passes [`conformance`].

pub mod change;
#[doc(hidden)]
pub mod conformance;
pub mod hashmap;
pub mod merge;
pub mod op;
mod piece;

pub use self::{
    change::{Action, Change},
    piece::{HashRange, stable_hash},
};

use crate::types::{KeyGroup, StateDescriptor, StateId};

/// Where an entry (or all entries) of a key and namespace live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address<'a> {
    /// A registered state.
    pub state: StateId,
    /// Inside the backend's range.
    pub key_group: KeyGroup,
    /// 1 or more bytes.
    pub key: &'a [u8],
    /// Empty is the void namespace.
    pub namespace: &'a [u8],
}

/// Bounds one page of a read: it ends before it exceeds either, but a first entry is always returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// Most entries.
    pub entries: usize,
    /// Most bytes of keys and values.
    pub bytes: usize,
}

/// Why an inner backend could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A change or read does not fit the state's kind, or names an unregistered state. A caller's bug, or a damaged log.
    #[error("state {state:?}: {what}")]
    Mismatch {
        /// The state.
        state: StateId,
        /// What does not fit.
        what: &'static str,
    },
    /// The bytes of a change cannot be decoded.
    #[error("undecodable state change: {0}")]
    Undecodable(&'static str),
    /// The local store of the backend failed.
    #[error("local state store")]
    Local(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// An inner state backend: keyed entries of registered states, written by one owner.
///
/// All calls are synchronous and short (microseconds, bounded by the size of what is asked for). Reads see every earlier
/// [`apply`](Self::apply). Owned by one thread at a time; dropped, it frees what it holds.
pub trait StateBackend: Send {
    /// Makes a state known. Called once per state, before anything else names it.
    fn register(&mut self, state: StateId, descriptor: &StateDescriptor);

    /// Applies one change, live or replayed. Changes to one entry come in their order.
    ///
    /// # Errors
    /// [`StateError::Mismatch`] changes nothing; after [`StateError::Local`] the backend's contents are undefined.
    fn apply(&mut self, change: &Change<'_>) -> Result<(), StateError>;

    /// Reads a value; hands it to `read`, `None` if there is none. Does not copy.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn value(&self, at: Address<'_>, read: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), StateError>;

    /// Reads one map entry; hands it to `read`.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn map_value(&self, at: Address<'_>, map_key: &[u8], read: &mut dyn FnMut(Option<&[u8]>))
    -> Result<(), StateError>;

    /// Reads map entries in order of their keys, from `from` on (inclusive), handing each (key, value) to `read`.
    /// Returns whether entries follow the page.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn map_page(
        &self,
        at: Address<'_>,
        from: &[u8],
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, StateError>;

    /// Reads list elements in order, from index `from` on, handing each to `read`. Returns whether elements follow.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn list_page(
        &self,
        at: Address<'_>,
        from: u64,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StateError>;

    /// Number of entries of (key, namespace): 0 or 1 for a value, map entries, list elements.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn len(&self, at: Address<'_>) -> Result<u64, StateError>;

    /// Number of entries of a whole state, exact; 0 for one that is not registered.
    fn entries(&self, state: StateId) -> u64;

    /// Bytes of memory (or local disk) that the contents take, as the backend accounts for them.
    fn bytes(&self) -> u64;

    /// Changes applied from now on carry `stamp`. It means nothing to the backend, never decreases, and is 0 at first.
    ///
    /// Whoever wants to tell by [`changed`](Self::changed) what came after a copy raises it between the copy and the next
    /// change.
    fn set_stamp(&mut self, stamp: u64);

    /// Copies a bounded part of (state, key group): hands to `copy` the changes that rebuild, in an empty backend, every cell
    /// (all of one key and namespace) whose stable hash is at or after `from`, up to an end that the backend chooses so that
    /// the copy is bounded. Cells come in no particular order, the changes of one cell in theirs. Returns the last hash that
    /// was covered (inclusive, not below `from`); the next copy starts behind it. `u64::MAX` is the end: the whole of a key
    /// group in which nothing was ever written is covered at once, without a change.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn copy_piece(
        &self,
        state: StateId,
        key_group: KeyGroup,
        from: u64,
        copy: &mut dyn FnMut(&Change<'_>),
    ) -> Result<u64, StateError>;

    /// The highest stamp of any change to a cell of (state, key group) with a hash in `range`, or above it: a backend may
    /// look at a wider range, never at a narrower one. Changes of cells that were removed since count, and so does their
    /// removal; removing what is not there may count or not. 0 if nothing there ever changed, and for what is not there.
    fn changed(&self, state: StateId, key_group: KeyGroup, range: HashRange) -> u64;

    /// Hints that these places are about to be read or changed. A backend may bring what is there nearer to the processor,
    /// for many places at once; it changes nothing, and ignores places that do not fit.
    fn warm(&self, _places: &mut dyn Iterator<Item = Address<'_>>) {}

    /// Ends a batch: everything applied since the last call belongs together. Backends that buffer writes hand them on
    /// here; reads see them before and after.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn finish_batch(&mut self) -> Result<(), StateError> {
        Ok(())
    }
}

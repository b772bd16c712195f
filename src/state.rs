//! Inner state backends: where the state of a backend lives while its task runs.
//!
//! ```text
//!   Operation ──op::execute──▶ reads the backend, decides ──▶ Change ──▶ StateBackend::apply
//!                                                               └──────▶ the changelog (same bytes; not this folder)
//! ```
//!
//! The semantics of operations (merges, list positions, limits) are written once, in [`op`], over the few primitives of
//! [`StateBackend`]. `op` decides [`Change`]s. A change is absolute and touches one entry; its replay needs no other
//! entry and no user code. So live application and replay are the same call.
//!
//! A backend knows nothing of logs, owners and checkpoints. Its contents are copied in one of two ways, while changes
//! go on. The owner puts stamps on changes; they tell which changes a copy holds.
//!
//! - [`PieceSnapshots`], a backend in memory: a *piece* is the contents of one (state, key group) whose stable hashes
//!   ([`stable_hash`]) are in one [`HashRange`], as changes that any backend can apply.
//! - [`ImageSnapshots`], a backend on local disk: an *image* is the immutable files of a part of its key groups. Most
//!   of them are those of the image before.
//!
//! Operator state, which has no key, lies in memory beside any of them ([`operator`]). [`undo`] keeps older values of
//! changed entries, from which the contents at an earlier moment can be read.
//!
//! Every implementation passes `conformance`, which authors of other backends get with the feature `testing`.

pub mod bounded;
pub mod change;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod cut;
pub mod folder;
mod forward;
#[cfg(any(test, feature = "testing"))]
pub mod gated;
mod hash;
pub mod hashmap;
pub mod image;
pub mod merge;
pub mod op;
pub mod operator;
pub mod options;
mod page;
mod piece;
#[cfg(feature = "rocksdb")]
pub mod rocksdb;
pub mod snapshot;
mod timer;
pub mod ttl;
pub mod undo;

pub use self::{
    change::{Action, Change, set_or_extended},
    hash::stable_hash,
    image::ImageSnapshots,
    page::{MapKeys, PageLimit},
    piece::{HashRange, PieceSnapshots},
    timer::TimerRef,
};

use std::collections::BTreeMap;

use self::page::Page;
use crate::types::{KeyGroup, StateDescriptor, StateId, StateKind, TimeMs, Ttl};

/// The place of an entry, or of all entries of a key and namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address<'a> {
    /// A registered state.
    pub state: StateId,
    /// Inside the backend's range, or [`KeyGroup::OPERATOR`].
    pub key_group: KeyGroup,
    /// Empty for operator state, otherwise at least 1 byte.
    pub key: &'a [u8],
    /// The namespace; empty for the void namespace.
    pub namespace: &'a [u8],
}

/// The reason why an inner backend refused or failed a call.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A change or read does not fit the state's kind, or names an unregistered state. A caller's bug, or a damaged
    /// log.
    #[error("state {state:?}: {what}")]
    Mismatch {
        /// The state that the change or read named.
        state: StateId,
        /// A description of the mismatch.
        what: &'static str,
    },
    /// The bytes of a change cannot be decoded.
    #[error("undecodable state change: {0}")]
    Undecodable(&'static str),
    /// A backend of bounded size has no more room.
    #[error("the state takes more than {allowed} bytes")]
    Full {
        /// Bytes that the state may take.
        allowed: u64,
    },
    /// The local disk or database of the backend failed.
    #[error("local state store")]
    Local(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StateError {
    /// Whether the change or image itself is at fault, rather than the local disk.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Mismatch { .. } | Self::Undecodable(_) => true,
            Self::Full { .. } => false,
            Self::Local(source) => is_damage(source.as_ref()),
        }
    }
}

#[cfg(feature = "rocksdb")]
fn is_damage(source: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let Some(error) = source.downcast_ref::<::rocksdb::Error>() else { return false };
    match error.kind() {
        ::rocksdb::ErrorKind::Corruption | ::rocksdb::ErrorKind::InvalidArgument | ::rocksdb::ErrorKind::NotFound => {
            true
        }
        // An image refers to a file that was not listed with it.
        ::rocksdb::ErrorKind::IOError => error.to_string().contains("No such file or directory"),
        _ => false,
    }
}

#[cfg(not(feature = "rocksdb"))]
fn is_damage(_: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    false
}

impl From<std::io::Error> for StateError {
    fn from(error: std::io::Error) -> Self {
        Self::Local(error.into())
    }
}

/// Numbers of entries by state. Entries are keys of values, map entries, list elements and timers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Only states that have entries.
    pub entries: BTreeMap<StateId, u64>,
    /// `false` if counting was stopped early, so that `entries` is a lower bound.
    pub complete: bool,
}

/// Counts entries, and calls its argument now and then; `false` stops it. Blocks its thread.
pub type Counting = Box<dyn FnOnce(&mut dyn FnMut() -> bool) -> Result<Counts, StateError> + Send>;

/// Places that are worth a [`StateBackend::warm`] together: enough to wait for memory once, and few enough to stay in
/// the nearest cache until they are used.
pub const WARM_PLACES: usize = 64;

/// An inner state backend: keyed entries of registered states, written by one owner.
///
/// Calls are synchronous. In memory they take microseconds, bounded by the size of the entries that are asked for; a
/// backend on local disk may wait for the disk ([`may_block`](Self::may_block)). Reads see every earlier
/// [`apply`](Self::apply). One thread at a time owns a backend. Dropping it frees its resources.
pub trait StateBackend: Send {
    /// Makes a state known. Called once per state, before any other call names it.
    fn register(&mut self, state: StateId, descriptor: &StateDescriptor);

    /// Applies one change, live or replayed. Changes to one entry must come in their order.
    ///
    /// # Errors
    /// [`StateError::Mismatch`] changes nothing; after [`StateError::Local`] the backend's contents are undefined.
    fn apply(&mut self, change: &Change<'_>) -> Result<(), StateError>;

    /// Reads a value and calls `read` with it, or with `None` if there is none. Does not copy.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn value(&self, at: Address<'_>, read: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), StateError>;

    /// Reads one map entry and calls `read` with its value, or with `None` if there is none.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn map_value(&self, at: Address<'_>, map_key: &[u8], read: &mut dyn FnMut(Option<&[u8]>))
    -> Result<(), StateError>;

    /// Reads the map entries of `keys` in order and calls `read` with each key and value. Returns whether more of these
    /// entries follow the page.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn map_page(
        &self,
        at: Address<'_>,
        keys: MapKeys<'_>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, StateError>;

    /// Reads list elements in order, from index `from` on, and calls `read` with each. Returns whether elements follow.
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

    /// Whether this timer is set.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn timer(&self, at: Address<'_>, time: i64) -> Result<bool, StateError>;

    /// Calls `read` with the timers of a state, of all key groups, in order of time, key, namespace and key group. The
    /// page begins behind `after`, which need not exist any more, and ends at `up_to`, inclusive. Each timer takes
    /// [`TimerRef::page_bytes`] of the page. Returns whether more timers follow the page.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn timer_page(
        &self,
        state: StateId,
        after: Option<TimerRef<'_>>,
        up_to: i64,
        limit: PageLimit,
        read: &mut dyn FnMut(TimerRef<'_>),
    ) -> Result<bool, StateError>;

    /// Number of timers of a state, of all key groups. May take as long as reading all of them.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn timer_count(&self, state: StateId) -> Result<u64, StateError> {
        let (mut count, all) = (0, PageLimit { entries: usize::MAX, bytes: usize::MAX });
        let more = self.timer_page(state, None, i64::MAX, all, &mut |_| count += 1)?;
        debug_assert!(!more, "the page has room for all");
        Ok(count)
    }

    /// Number of entries of (key, namespace): 0 or 1 for a value, map entries, list elements, timers.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn len(&self, at: Address<'_>) -> Result<u64, StateError>;

    /// Whether (key, namespace) of a state of this kind has entries. Unlike [`len`](Self::len) it need not count them,
    /// which takes some backends a while.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn has_entries(&self, at: Address<'_>, kind: StateKind) -> Result<bool, StateError> {
        // The first entry of a page is returned at any size, so no bytes are needed.
        let first = PageLimit { entries: 1, bytes: 0 };
        let mut found = false;
        match kind {
            StateKind::Value => self.value(at, &mut |stored| found = stored.is_some())?,
            StateKind::Map => _ = self.map_page(at, MapKeys::default(), first, &mut |_, _| found = true)?,
            StateKind::List => _ = self.list_page(at, 0, first, &mut |_| found = true)?,
            StateKind::Timer => found = self.len(at)? > 0,
        }
        Ok(found)
    }

    /// Calls `read` with key and namespace of each (key, namespace) of (state, key group) that has entries. The order
    /// does not change while others come and go. The page begins behind `after`, which need not exist any more. Returns
    /// whether more follow the page. For timers this may take as long as reading all of the key group.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn name_page(
        &self,
        state: StateId,
        key_group: KeyGroup,
        after: Option<(&[u8], &[u8])>,
        limit: PageLimit,
        read: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool, StateError>;

    /// Appends bytes to `rank` that are different for each name and sort in the order in which
    /// [`name_page`](Self::name_page) returns the names.
    fn name_rank(&self, key: &[u8], namespace: &[u8], rank: &mut Vec<u8>);

    /// A function that counts the entries of every state on another thread, while the writer goes on. It may take as
    /// long as reading all of them.
    fn counting(&self) -> Counting;

    /// Number of entries of a state; 0 if it is not registered.
    ///
    /// # Errors
    /// [`StateError::Local`] if the disk cannot be read.
    fn entries(&self, state: StateId) -> Result<u64, StateError> {
        Ok(self.counting()(&mut || true)?.entries.get(&state).copied().unwrap_or(0))
    }

    /// Bytes of memory or local disk that the contents take, by the backend's own accounting.
    fn bytes(&self) -> u64;

    /// Bytes of memory that belong to this backend alone; memory that backends share is counted elsewhere.
    fn memory_bytes(&self) -> u64 {
        self.bytes()
    }

    /// Sets the stamp of the changes that are applied from now on. A stamp has no meaning to the backend, never
    /// decreases, and is 0 at first.
    ///
    /// To tell which changes came after a copy, the owner raises the stamp between the copy and the next change.
    fn set_stamp(&mut self, stamp: u64);

    /// Sets the time of the last batch that was applied, live or replayed. It never goes back. Entries that are expired
    /// at this time may be dropped.
    fn set_time(&mut self, _time: TimeMs) {}

    /// Sets how the entries of a registered state live from now on, if that has changed since the state was registered.
    fn set_ttl(&mut self, _state: StateId, _ttl: Ttl) {}

    /// Whether calls may wait for a disk. The answer is the same for the whole life of the backend.
    fn may_block(&self) -> bool {
        false
    }

    /// Copies the contents piece by piece; `None` for a backend that makes [`images`](Self::images).
    fn pieces(&self) -> Option<&dyn PieceSnapshots> {
        None
    }

    /// As [`pieces`](Self::pieces), to begin and end snapshots.
    fn pieces_mut(&mut self) -> Option<&mut dyn PieceSnapshots> {
        None
    }

    /// Copies the contents as files; `None` for a backend that makes [`pieces`](Self::pieces).
    fn images(&mut self) -> Option<&mut dyn ImageSnapshots> {
        None
    }

    /// Hints that these places are about to be read or changed. A backend may fetch many of them into the processor's
    /// caches at once. The call changes nothing and ignores places that do not fit. Of more than [`WARM_PLACES`]
    /// places, the first may have left the nearest cache again when they are used.
    fn warm(&self, _places: &mut dyn Iterator<Item = Address<'_>>) {}

    /// Ends a batch: all changes since the last call belong together. Backends that buffer writes pass them on here;
    /// reads see them before and after.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn finish_batch(&mut self) -> Result<(), StateError> {
        Ok(())
    }
}

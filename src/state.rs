//! Inner state backends: where the state of a backend lives while its task runs.
//!
//! ```text
//!   Operation ──op::execute──▶ reads the backend, decides ──▶ Change ──▶ StateBackend::apply
//!                                                               └──────▶ the changelog (same bytes; not this folder)
//! ```
//!
//! The semantics of operations (merges, list positions, limits) are written once, in [`op`], over the few primitives of
//! [`StateBackend`]. What `op` decides is a [`Change`]: absolute, touching one entry, needing no other entry and no
//! user code at replay. So live application and replay are the same call.
//!
//! A backend does not know that it is logged, who owns it, or what a checkpoint is. Its contents are handed out in one
//! of two ways, with changes in between; stamps that its owner puts on changes tell which of them a copy holds.
//!
//! - [`PieceSnapshots`], a backend in memory: a *piece* is the contents of one (state, key group) whose stable hashes
//!   ([`stable_hash`]) are in one [`HashRange`], as changes that any backend can apply.
//! - [`ImageSnapshots`], a backend on local disk: an *image* is the immutable files of a part of its key groups. Most
//!   of them are those of the image before.
//!
//! Operator state, which has no key, lies in memory beside any of them ([`operator`]). What the contents were at an
//! earlier moment is kept, as far as it has changed since, in [`undo`].
//!
//! Every implementation passes [`conformance`].

pub mod bounded;
pub mod change;
#[doc(hidden)]
pub mod conformance;
pub mod cut;
pub mod folder;
mod forward;
#[doc(hidden)]
pub mod gated;
pub mod hashmap;
pub mod image;
pub mod merge;
pub mod op;
pub mod operator;
mod page;
mod piece;
#[cfg(feature = "rocksdb")]
pub mod rocksdb;
pub mod snapshot;
mod timer;
pub mod ttl;
pub mod undo;

pub use self::{
    change::{Action, Change},
    image::ImageSnapshots,
    page::{MapKeys, PageLimit},
    piece::{HashRange, PieceSnapshots, stable_hash},
    timer::TimerRef,
};

use std::collections::BTreeMap;

use self::page::Page;
use crate::types::{KeyGroup, StateDescriptor, StateId, StateKind, TimeMs, Ttl};

/// Where an entry (or all entries) of a key and namespace live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address<'a> {
    /// A registered state.
    pub state: StateId,
    /// Inside the backend's range, or [`KeyGroup::OPERATOR`].
    pub key_group: KeyGroup,
    /// 1 or more bytes; none for operator state.
    pub key: &'a [u8],
    /// Empty is the void namespace.
    pub namespace: &'a [u8],
}

/// Why an inner backend could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A change or read does not fit the state's kind, or names an unregistered state. A caller's bug, or a damaged
    /// log.
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
    /// A backend of bounded size has no more room.
    #[error("the state takes more than {allowed} bytes")]
    Full {
        /// Bytes that it may take.
        allowed: u64,
    },
    /// The local store of the backend failed.
    #[error("local state store")]
    Local(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StateError {
    /// Whether what was to be applied or loaded is at fault, rather than the disk or the moment.
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
        // A file of an image that was not listed with it.
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

/// Numbers of entries by state: keys of values, map entries, list elements, timers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Without states that have none.
    pub entries: BTreeMap<StateId, u64>,
    /// Whether all were counted.
    pub complete: bool,
}

/// Counts, and asks now and then whether to go on. Blocks its thread.
pub type Counting = Box<dyn FnOnce(&mut dyn FnMut() -> bool) -> Result<Counts, StateError> + Send>;

/// An inner state backend: keyed entries of registered states, written by one owner.
///
/// All calls are synchronous and short (microseconds, bounded by the size of what is asked for). Reads see every
/// earlier [`apply`](Self::apply). Owned by one thread at a time; dropped, it frees what it holds.
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

    /// Reads the map entries of `keys` in order, handing each (key, value) to `read`. Returns whether others of them
    /// follow the page.
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

    /// Whether there is a timer.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn timer(&self, at: Address<'_>, time: i64) -> Result<bool, StateError>;

    /// Hands the timers of a state, of all key groups, to `read`, in order of time, key, namespace and key group: those
    /// behind `after`, which need not be there any more, and at or before `up_to`. Each takes [`TimerRef::page_bytes`]
    /// of the page. Returns whether others follow the page.
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

    /// Whether (key, namespace) of a state of this kind has entries. Need not count them, which not every backend has
    /// at hand.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn has_entries(&self, at: Address<'_>, kind: StateKind) -> Result<bool, StateError> {
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

    /// Hands key and namespace of each (key, namespace) of (state, key group) that has entries to `read`, in an order
    /// that does not change while others come and go: those behind `after`, which need not be there any more. Returns
    /// whether others follow the page. Of timers this may take as long as reading all of the key group.
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

    /// Appends bytes to `rank` that are different for each name, and in the order in which
    /// [`name_page`](Self::name_page) hands names out.
    fn name_rank(&self, key: &[u8], namespace: &[u8], rank: &mut Vec<u8>);

    /// What counts the entries of every state, beside the writer: it may take as long as reading all of them.
    fn counting(&self) -> Counting;

    /// Number of entries of a state; 0 for one that is not registered.
    ///
    /// # Errors
    /// [`StateError::Local`].
    fn entries(&self, state: StateId) -> Result<u64, StateError> {
        Ok(self.counting()(&mut || true)?.entries.get(&state).copied().unwrap_or(0))
    }

    /// Bytes of memory or local disk that the contents take, as the backend accounts for them.
    fn bytes(&self) -> u64;

    /// Bytes of memory that belong to this backend alone; what backends share is accounted for where it is shared.
    fn memory_bytes(&self) -> u64 {
        self.bytes()
    }

    /// Changes applied from now on carry `stamp`. It means nothing to the backend, never decreases, and is 0 at first.
    ///
    /// Whoever wants to tell what came after a copy raises it between the copy and the next change.
    fn set_stamp(&mut self, stamp: u64);

    /// The time of the last batch that was applied, live or replayed, which never goes back: what is expired then may
    /// be dropped.
    fn set_time(&mut self, _time: TimeMs) {}

    /// How the entries of a registered state with TTL live from now on, where that has changed since it was registered.
    fn set_ttl(&mut self, _state: StateId, _ttl: Ttl) {}

    /// Whether calls may wait for a disk. It is the same for as long as the backend lives.
    fn may_block(&self) -> bool {
        false
    }

    /// How its contents are copied piece by piece; `None` for a backend of [`images`](Self::images).
    fn pieces(&self) -> Option<&dyn PieceSnapshots> {
        None
    }

    /// The same, to begin and end snapshots.
    fn pieces_mut(&mut self) -> Option<&mut dyn PieceSnapshots> {
        None
    }

    /// How its contents are copied as files; `None` for a backend of [`pieces`](Self::pieces).
    fn images(&mut self) -> Option<&mut dyn ImageSnapshots> {
        None
    }

    /// Hints that these places are about to be read or changed. A backend may bring what is there nearer to the
    /// processor, for many places at once; it changes nothing, and ignores places that do not fit.
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

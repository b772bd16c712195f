//! Idle backends, of which some end when memory runs short.
//!
//! A caller that needs memory holds the core of its own backend. So it only tries the cores of others and never waits
//! for one: a backend whose core is busy is not idle. The list of idle backends is locked meanwhile, and its holder
//! never waits for a core.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// The memory that a backend gives back when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frees {
    /// Memory for changes, which each backend has.
    Changes,
    /// Memory for state, which only some have.
    State,
}

/// A backend that may stay open without session for a while. The list of idle backends lies below backends, and knows
/// no more of them.
pub(super) trait Lingers: Send + Sync {
    /// Since when it is idle. `None` if it is in use, may stay for ever, or does not give back `frees`.
    fn idle_since(&self, frees: Frees) -> Option<Instant>;

    /// Ends it, unless it is in use again; `why` goes into its error. Returns whether it has ended now.
    fn end_idle(&self, why: &str) -> bool;
}

/// The backends of a daemon that may be ended when they are idle. Cheap to clone.
#[derive(Clone, Default)]
pub struct Idle(Arc<Mutex<Vec<Weak<dyn Lingers>>>>);

impl Idle {
    /// Adds a backend.
    pub(super) fn add(&self, lingers: Weak<dyn Lingers>) {
        self.0.lock().push(lingers);
    }

    /// Ends the backend that has been idle for longest among those that give back `frees`; `why` goes into its error.
    /// Returns whether there was one.
    pub(super) fn make_room(&self, why: &str, frees: Frees) -> bool {
        let mut watched = self.0.lock();
        watched.retain(|watched| watched.strong_count() > 0);
        let since = |watched: &Weak<dyn Lingers>| {
            let lingers = watched.upgrade()?;
            Some((lingers.idle_since(frees)?, lingers))
        };
        let longest = watched.iter().filter_map(since).min_by_key(|(since, _)| *since);
        // Ordering: the list is let go before a backend ends. Ending locks its core, and the holder of the list never
        // waits for one.
        drop(watched);
        longest.is_some_and(|(_, lingers)| lingers.end_idle(why))
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idle").field("backends", &self.0.lock().len()).finish()
    }
}

//! Backends without session: how long they stay open, and which one ends first when memory runs short.
//!
//! ```text
//!   opened ──▶ idle ──session──▶ in use ──session ends──▶ idle ──linger is over──────────────▶ ended, forgotten
//!                │                                          ├────memory is short, idle longest─▶
//!                └──────────────────────────────────────────┴────a newer owner in the chain────▶
//! ```
//!
//! A task that is started again elsewhere leaves its backend behind, and no client ever closes it. A backend that was
//! opened with a linger has a watcher, which ends the backend when it was without session for that long. Until then the
//! watcher looks at the manifest chain a few times: an owner that publishes nothing would not notice a successor
//! otherwise.
//!
//! Backends without linger stay open for ever: a tool may use one by unary calls alone.
//!
//! # Locks
//!
//! A caller that needs memory holds the core of its own backend. So it only tries the cores of others and never waits
//! for one: a backend whose core is busy is not idle. The list of idle backends is locked meanwhile, and its holder
//! never waits for a core.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::{
    core::{Condition, Core},
    directory::Directory,
    error,
    handle::{Backend, Shared},
    metrics::LingerEnd,
};
use crate::{
    checkpoint::chain,
    error::{Error, Reason},
    object::Retry,
    types::{BackendId, Epoch},
};

/// How often the watcher looks at the chain during one linger.
const LOOKS: u32 = 4;

/// The backends of a daemon that may be ended when they are idle. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Idle(Arc<Mutex<Vec<Weak<Shared>>>>);

impl Idle {
    /// Ends the backend that has been idle for longest among those that `frees` accepts; `why` goes into its error.
    /// Returns whether there was one.
    pub(super) fn make_room(&self, why: &str, frees: impl Fn(&Core) -> bool) -> bool {
        let mut watched = self.0.lock();
        watched.retain(|watched| watched.strong_count() > 0);
        let since = |watched: &Weak<Shared>| {
            let shared = watched.upgrade()?;
            let core = shared.try_core().filter(|core| frees(core))?;
            core.may_go().map(|(since, _)| (since, shared.clone()))
        };
        let Some((_, shared)) = watched.iter().filter_map(since).min_by_key(|(since, _)| *since) else {
            return false;
        };
        drop(watched);
        // A task may have come back between the two looks.
        let Some(mut core) = shared.try_core().filter(|core| core.may_go().is_some()) else { return false };
        let text = format!("backend `{}` was without session for longest when {why}; open it again", core.id);
        core.end_lingering(&Error::new(Reason::BackendClosed, text), LingerEnd::memory);
        true
    }
}

impl Core {
    /// Whether the state of the backend counts as memory.
    pub(super) fn takes_memory(&self) -> bool {
        self.counted_state_bytes > 0
    }

    /// Since when the backend is idle, and until when it may be; `None` if it is in use, or may stay for ever.
    fn may_go(&self) -> Option<(Instant, Instant)> {
        match self.condition {
            Condition::Serving | Condition::Failsafe(_) => self.idle_since.zip(self.linger).map(|(s, l)| (s, s + l)),
            Condition::Ended(_) => None,
        }
    }

    fn end_lingering(&mut self, error: &Error, cause: LingerEnd) {
        tracing::info!(backend = %self.id, why = error.message, "ending a backend without session");
        self.env.metrics.lingered(cause);
        self.end(error);
    }
}

/// The next step of a watcher.
enum Next {
    Wait(Duration),
    /// Looks at the chain, then waits.
    Look(BackendId, Epoch, Duration),
    /// Ends: the backend has ended, or has no linger any more.
    Leave,
}

impl Directory {
    /// Sets how long `backend` may stay open without session; `None` for ever.
    pub(super) fn let_linger(&self, backend: &Backend, linger: Option<Duration>) {
        let mut core = backend.shared.core();
        core.linger = linger;
        core.idle_since = core.idle_since.map(|_| Instant::now());
        if linger.is_none() || std::mem::replace(&mut core.is_watched, true) {
            return;
        }
        drop(core);
        let (shared, env) = (Arc::downgrade(&backend.shared), self.environment());
        env.idle.0.lock().push(shared.clone());
        env.tasks.spawn(watch(shared));
    }
}

/// Ends a backend when its linger is over; the directory then forgets it.
async fn watch(shared: Weak<Shared>) {
    loop {
        // Not held while waiting, so that a closed backend frees its memory.
        let Some(strong) = shared.upgrade() else { return };
        let wait = match next(&strong) {
            Next::Leave => return,
            Next::Wait(wait) => wait,
            Next::Look(id, epoch, wait) => {
                let head = chain::read_head(&strong.store, &id, Retry::none()).await.ok().flatten();
                let newer = head.map(|head| head.manifest.owner().epoch).filter(|owner| owner.number > epoch.number);
                if let Some(by) = newer {
                    return strong.core().end_lingering(&error::fenced_by(&id, by), LingerEnd::owner);
                }
                wait
            }
        };
        drop(strong);
        sleep(wait).await;
    }
}

/// Decides the next step; ends the backend if its time is over.
fn next(shared: &Shared) -> Next {
    let (mut core, now) = (shared.core(), Instant::now());
    if matches!(core.condition, Condition::Ended(_)) {
        return Next::Leave;
    }
    let Some(linger) = core.linger else {
        core.is_watched = false;
        return Next::Leave;
    };
    match core.may_go() {
        None => Next::Wait(linger),
        Some((_, until)) if until <= now => {
            let text =
                format!("backend `{}` was without session for {} ms; open it again", core.id, linger.as_millis());
            core.end_lingering(&Error::new(Reason::BackendClosed, text), LingerEnd::time);
            Next::Leave
        }
        Some((_, until)) => Next::Look(core.id.clone(), core.owner.epoch(), (linger / LOOKS).min(until - now)),
    }
}

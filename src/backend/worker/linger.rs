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

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::{
    backend::{
        core::Core,
        error,
        idle::{Frees, Lingers},
        metrics::LingerEnd,
        shared::Shared,
    },
    checkpoint::chain,
    error::{Error, Reason},
    object::Retry,
    types::{BackendId, Epoch},
};

/// How often the watcher looks at the chain during one linger.
const LOOKS: u32 = 4;

impl Lingers for Shared {
    fn idle_since(&self, frees: Frees) -> Option<Instant> {
        let core = self.try_core()?;
        let does_free = frees == Frees::Changes || core.table.counted_bytes() > 0;
        may_go(&core).filter(|_| does_free).map(|(since, _)| since)
    }

    fn end_idle(&self, why: &str) -> bool {
        // A task may have come back since the list was looked through.
        let Some(mut core) = self.try_core().filter(|core| may_go(core).is_some()) else { return false };
        let text = format!("backend `{}` was without session for longest when {why}; open it again", core.id);
        end(&mut core, &Error::new(Reason::BackendClosed, text), LingerEnd::memory);
        true
    }
}

/// Since when the backend is idle, and until when it may be; `None` if it is in use, or may stay for ever.
fn may_go(core: &Core) -> Option<(Instant, Instant)> {
    core.lingering.may_go().filter(|_| !core.has_ended())
}

fn end(core: &mut Core, error: &Error, cause: LingerEnd) {
    tracing::info!(backend = %core.id, why = error.message, "ending a backend without session");
    core.env.metrics.lingered(cause);
    core.end(error);
}

/// Sets how long the backend `shared` may stay open without session; `None` for ever.
pub(crate) fn let_linger(shared: &Arc<Shared>, linger: Option<Duration>) {
    let mut core = shared.core();
    if !core.lingering.set(linger, Instant::now()) {
        return;
    }
    let (env, watched) = (core.env.clone(), Arc::downgrade(shared));
    drop(core);
    env.idle.add(watched.clone());
    env.tasks.spawn(watch(watched));
}

/// The next step of a watcher.
enum Next {
    Wait(Duration),
    /// Looks at the chain, then waits.
    Look(BackendId, Epoch, Duration),
    /// Ends: the backend has ended, or has no linger any more.
    Leave,
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
                // One try: if the store does not answer, the next look will tell.
                let head = chain::read_head(&strong.store, &id, Retry::none()).await.ok().flatten();
                let newer = head.map(|head| head.manifest.owner().epoch).filter(|owner| owner.number > epoch.number);
                if let Some(by) = newer {
                    return end(&mut strong.core(), &error::fenced_by(&id, by), LingerEnd::owner);
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
    if core.has_ended() {
        return Next::Leave;
    }
    let Some(linger) = core.lingering.watched() else { return Next::Leave };
    match may_go(&core) {
        None => Next::Wait(linger),
        Some((_, until)) if until <= now => {
            let text =
                format!("backend `{}` was without session for {} ms; open it again", core.id, linger.as_millis());
            end(&mut core, &Error::new(Reason::BackendClosed, text), LingerEnd::time);
            Next::Leave
        }
        Some((_, until)) => Next::Look(core.id.clone(), core.owner.epoch(), (linger / LOOKS).min(until - now)),
    }
}

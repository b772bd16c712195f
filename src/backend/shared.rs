//! The core of a backend, shared between its workers and its callers.
//!
//! One lock guards it. Each call takes it for a short while, and its epoch is checked under the lock. If state is on
//! disk, the holder of the lock may wait for the disk. So a thread that waits for such a core first hands its other
//! tasks to another thread: no worker of the runtime ever stands still because of a disk.
//!
//! A panic while the core is held leaves it half changed, to an unknown extent. So the owner ends then, whichever call
//! or task panicked, and the next owner begins from durable state.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    thread,
};

use parking_lot::{Mutex, MutexGuard};

use super::{core::Core, lane::Lane, signals::Signals};
use crate::{
    object::Store,
    tasks::{self, Panicked},
};

/// The core, and the signals that wake its workers.
pub(super) struct Shared {
    core: Mutex<Core>,
    /// Lane of batches and moves of entries: no other one runs between the slices of one.
    pub(super) batches: Lane,
    pub(super) signals: Arc<Signals>,
    pub(super) store: Store,
}

impl Shared {
    /// Shares the core that `make` makes. The callbacks of that core may keep the weak reference.
    pub(super) fn new(make: impl FnOnce(&Weak<Self>) -> Core) -> Arc<Self> {
        Arc::new_cyclic(|weak| {
            let core = make(weak);
            Self {
                batches: Lane::default(),
                signals: core.signals.clone(),
                store: core.env.store.clone(),
                core: Mutex::new(core),
            }
        })
    }

    /// The core, if it is free.
    pub(super) fn try_core(&self) -> Option<Held<'_>> {
        self.core.try_lock().map(Held::new)
    }

    /// Locks the core. This is the only way to it, except for [`try_core`](Self::try_core).
    ///
    /// If its holder may wait for a disk, this thread hands its other tasks away before it waits, too. Otherwise a
    /// worker of the runtime would keep sockets and timers from running while it waits.
    pub(super) fn core(&self) -> Held<'_> {
        Held::new(match self.core.try_lock() {
            Some(core) => core,
            None => tasks::blocking(|| self.core.lock()),
        })
    }

    /// Wakes the worker that publishes manifests.
    pub(super) fn wake(&self) {
        self.signals.wake.notify_one();
    }
}

/// Exclusive access to the core, which is given back when this is dropped.
pub(super) struct Held<'a> {
    /// `None` once it was given back.
    core: Option<MutexGuard<'a, Core>>,
    /// Whether the thread was unwinding already when it took the core: then the core is not at fault.
    cleans_up: bool,
}

impl<'a> Held<'a> {
    fn new(core: MutexGuard<'a, Core>) -> Self {
        Self { core: Some(core), cleans_up: thread::panicking() }
    }

    /// Gives the core to the longest waiting caller, before any new caller.
    pub(super) fn hand_on(mut self) {
        self.core.take().into_iter().for_each(MutexGuard::unlock_fair);
    }
}

impl Deref for Held<'_> {
    type Target = Core;

    fn deref(&self) -> &Core {
        self.core.as_ref().expect("it is given back at the end")
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Core {
        self.core.as_mut().expect("it is given back at the end")
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(core) = &mut self.core
            && thread::panicking()
            && !self.cleans_up
        {
            // The guard is still held: nobody sees the core between the panic and the end of its owner.
            // A second panic while unwinding would abort the daemon.
            let end = AssertUnwindSafe(|| core.end_panicked(&Panicked::unknown("what held it")));
            _ = catch_unwind(end);
        }
    }
}

impl fmt::Debug for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("core", &self.core.as_ref().map(|core| &core.id)).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        backend::{
            BarrierRequest, RestoreFrom,
            testing::{daemon, get, open, put},
        },
        error::Reason,
        types::StateId,
    };

    const FIRST: StateId = StateId(1);

    #[tokio::test]
    async fn a_panic_of_who_holds_the_core_ends_the_owner_and_nothing_else() {
        let objects = Arc::default();
        let daemon = daemon(&objects, 1);
        let backend = open(&daemon, 1, RestoreFrom::Empty, true).await;
        put(&backend, FIRST, b"one").await;
        let request = BarrierRequest { id: 1, attachment: bytes::Bytes::new(), timeout: None };
        backend.checkpoint(backend.epoch(), request).await.expect("it completes");
        let panics = || {
            let mut core = backend.shared.core();
            core.seat.applied();
            unreachable!("a bug");
        };
        catch_unwind(AssertUnwindSafe(panics)).expect_err("it panics");
        let ended = backend.ended().await.expect("somebody holds it");
        assert_eq!(ended.reason, Reason::Internal);
        assert!(ended.message.contains("panicked"), "{}", ended.message);
        let next = open(&daemon, 2, RestoreFrom::Id(1), true).await;
        assert_eq!(get(&next, FIRST).await, Some(b"one".to_vec()));
    }

    #[tokio::test]
    async fn what_cleans_up_after_a_panic_elsewhere_ends_nothing() {
        struct CleansUp(crate::backend::Backend);
        impl Drop for CleansUp {
            fn drop(&mut self) {
                drop(self.0.shared.core());
            }
        }
        let daemon = daemon(&Arc::default(), 1);
        let backend = open(&daemon, 1, RestoreFrom::Empty, true).await;
        let panics = || {
            let _cleans_up = CleansUp(backend.clone());
            unreachable!("a bug elsewhere");
        };
        catch_unwind(AssertUnwindSafe(panics)).expect_err("it panics");
        put(&backend, FIRST, b"one").await;
        assert_eq!(get(&backend, FIRST).await, Some(b"one".to_vec()));
    }
}

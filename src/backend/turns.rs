//! Turns to materialize: one backend of a daemon at a time, first come, first served. A backend whose log nears its
//! limit goes first, since its writer is about to be pushed back.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// How often a waiting backend checks whether it has become urgent.
const POLL: Duration = Duration::from_secs(1);

/// The turns of one daemon. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    taken: bool,
    tickets: u64,
    waiting: BTreeSet<Place>,
}

/// A place in the queue; lower ones come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    not_urgent: bool,
    ticket: u64,
}

/// A turn; over when it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Turns);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.0.state.lock().taken = false;
        // All are woken: each one knows only by the queue whether it is the first.
        self.0.0.changed.notify_waiters();
    }
}

impl Turn {
    /// Whether others wait for this turn to be over.
    pub(super) fn is_awaited(&self) -> bool {
        !self.0.0.state.lock().waiting.is_empty()
    }
}

/// A place in the queue, which is left when this is dropped.
struct Waiting<'a> {
    turns: &'a Turns,
    place: Place,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.turns.0.state.lock().waiting.remove(&self.place);
        self.turns.0.changed.notify_waiters();
    }
}

impl Turns {
    /// Waits for a turn. Cancel-safe: if dropped, the caller leaves the queue.
    pub(super) async fn wait(&self, is_urgent: impl Fn() -> bool) -> Turn {
        let mut waiting = {
            let mut state = self.0.state.lock();
            state.tickets += 1;
            Waiting { turns: self, place: Place { not_urgent: true, ticket: state.tickets } }
        };
        loop {
            // Ordering: the wake-up is asked for before the queue is looked at. A turn that ends between the two wakes
            // this caller, which would otherwise sleep through it until the next poll.
            let mut changed = pin!(self.0.changed.notified());
            changed.as_mut().enable();
            // Asked without the lock of the queue, since the answer may lock the core of a backend.
            let not_urgent = !is_urgent();
            {
                let mut state = self.0.state.lock();
                let state = &mut *state;
                state.waiting.remove(&waiting.place);
                waiting.place.not_urgent = not_urgent;
                state.waiting.insert(waiting.place);
                if !state.taken && state.waiting.first() == Some(&waiting.place) {
                    state.taken = true;
                    break;
                }
            }
            tokio::select! {
                biased;
                () = changed => {}
                // A log grows without telling the queue, so the caller looks again now and then.
                () = tokio::time::sleep(POLL) => {}
            }
        }
        // The place in the queue goes with `waiting`. From here on `taken` keeps the others out.
        Turn(self.clone())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_urgent_come_first_then_those_who_wait_longest() {
        let (turns, order) = (Turns::default(), Arc::new(Mutex::new(vec![])));
        let first = turns.wait(|| false).await;
        let late = Arc::new(AtomicBool::new(false));
        let mut tasks = vec![];
        for name in ["a", "b", "becomes urgent", "c", "urgent"] {
            let (turns, order, late) = (turns.clone(), order.clone(), late.clone());
            tasks.push(tokio::spawn(async move {
                let is_urgent = || name == "urgent" || (name == "becomes urgent" && late.load(Ordering::Relaxed));
                let _turn = turns.wait(is_urgent).await;
                order.lock().push(name);
                tokio::time::sleep(POLL).await;
            }));
            tokio::task::yield_now().await;
        }
        let gives_up = turns.wait(|| true);
        assert!(tokio::time::timeout(POLL / 2, gives_up).await.is_err());
        late.store(true, Ordering::Relaxed);
        tokio::time::sleep(2 * POLL).await;
        assert!(order.lock().is_empty(), "one at a time");
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), ["becomes urgent", "urgent", "a", "b", "c"]);
    }
}

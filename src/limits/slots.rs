//! Places for connections. When all are taken, a connection whose peer has not asked for anything yet gives way to the
//! next.
//!
//! ```text
//!   take ─▶ waiting (in the order of arrival) ─▶ settled: it has asked for something, and is never made to leave
//!              └──▶ evicted, when all places are taken and it is the oldest
//! ```
//!
//! So silent peers, however many they are, cannot keep out a peer that asks.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

/// The places of one kind. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Mutex<State>>);

/// Invariants: `held` is the number of places in `by_owner` plus those without owner; `waiting` are some of the held
/// places.
#[derive(Debug)]
struct State {
    most: usize,
    most_per_owner: usize,
    next: u64,
    held: usize,
    by_owner: HashMap<u32, usize>,
    waiting: BTreeMap<u64, Waiting>,
    evicted: Counter,
}

#[derive(Debug)]
struct Waiting {
    owner: Option<u32>,
    call: Arc<Call>,
}

/// Tells one peer that it has to leave.
#[derive(Debug, Default)]
struct Call {
    leave: AtomicBool,
    waker: AtomicWaker,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    /// Its key in `waiting`. Changes only while the state is locked.
    number: AtomicU64,
    settled: AtomicBool,
    owner: Option<u32>,
    call: Arc<Call>,
}

impl Slots {
    /// `most` places in all, and `most_per_owner` for each owner.
    #[must_use]
    pub fn new(most: usize, most_per_owner: usize) -> Self {
        let state = State {
            most,
            most_per_owner,
            next: 0,
            held: 0,
            by_owner: HashMap::new(),
            waiting: BTreeMap::new(),
            evicted: Counter::default(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Takes a place for a peer, whose user is `owner` if that is known. `None` if all places are taken by peers that
    /// have asked for something.
    #[must_use]
    pub fn take(&self, owner: Option<u32>) -> Option<Slot> {
        let mut state = self.0.lock();
        // The bound of one owner comes first: then its own oldest peer leaves, and nobody else's.
        if owner.is_some_and(|owner| state.of(owner) >= state.most_per_owner) && !state.evict(owner) {
            return None;
        }
        if state.held >= state.most && !state.evict(None) {
            return None;
        }
        let (number, call) = (state.next, Arc::new(Call::default()));
        state.next += 1;
        state.held += 1;
        if let Some(owner) = owner {
            *state.by_owner.entry(owner).or_default() += 1;
        }
        state.waiting.insert(number, Waiting { owner, call: call.clone() });
        Some(Slot { slots: self.clone(), number: number.into(), settled: false.into(), owner, call })
    }

    /// Number of taken places.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.lock().held
    }

    /// The counter of peers that had to leave.
    #[must_use]
    pub fn evictions(&self) -> Counter {
        self.0.lock().evicted.clone()
    }
}

impl State {
    fn of(&self, owner: u32) -> usize {
        self.by_owner.get(&owner).copied().unwrap_or(0)
    }

    /// Makes the oldest waiting peer leave, or the oldest of `owner` if one is given; `false` if there is none.
    fn evict(&mut self, owner: Option<u32>) -> bool {
        let mut waiting = self.waiting.iter().filter(|(_, it)| owner.is_none() || it.owner == owner);
        let Some(number) = waiting.next().map(|(number, _)| *number) else { return false };
        let Some(Waiting { owner, call }) = self.waiting.remove(&number) else { return false };
        // The place is given back now, and not when the peer leaves, which may take it a while. The next peer need not
        // wait.
        self.give_back(owner);
        self.evicted.inc();
        // Ordering 1: the flag.
        // Ordering 2: the wake-up, so that the woken task sees the flag.
        call.leave.store(true, Ordering::Release);
        call.waker.wake();
        true
    }

    fn give_back(&mut self, owner: Option<u32>) {
        self.held -= 1;
        if let Some(owner) = owner
            && let Some(held) = self.by_owner.get_mut(&owner)
        {
            *held -= 1;
            if *held == 0 {
                self.by_owner.remove(&owner);
            }
        }
    }
}

impl Slot {
    /// Notes that the peer has asked for something; from now on it never has to leave. A peer that was made to leave
    /// before stays unsettled.
    pub fn settle(&self) {
        if self.is_settled() {
            return;
        }
        let mut state = self.slots.0.lock();
        // Ordering: the peer is settled under the lock under which peers are evicted. If it were settled before, an
        // eviction in between would give its place away, and the peer would stay without a place.
        if state.waiting.remove(&self.number.load(Ordering::Relaxed)).is_some() {
            self.settled.store(true, Ordering::Release);
        }
    }

    /// Notes that the peer is idle again. It may have to leave, after the peers that wait already.
    pub fn unsettle(&self) {
        let mut state = self.slots.0.lock();
        // An evicted peer has no place to wait with any more.
        if self.call.leave.load(Ordering::Acquire) {
            return;
        }
        // A new number puts it behind all that wait already. Relaxed, since numbers change only under this lock.
        state.waiting.remove(&self.number.load(Ordering::Relaxed));
        let number = state.next;
        state.next += 1;
        self.number.store(number, Ordering::Relaxed);
        self.settled.store(false, Ordering::Release);
        state.waiting.insert(number, Waiting { owner: self.owner, call: self.call.clone() });
    }

    /// Whether the peer has asked for something.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Ready once the peer has to leave.
    pub fn poll_evicted(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Ordering 1: the waker.
        // Ordering 2: the look at the flag. An eviction between the two is seen, or wakes the task; the other way round
        // it could be missed, and the peer would keep a place that is given away.
        self.call.waker.register(cx.waker());
        if self.call.leave.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits until the peer has to leave. Cancel-safe.
    pub async fn evicted(&self) {
        std::future::poll_fn(|cx| self.poll_evicted(cx)).await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.0.lock();
        state.waiting.remove(&self.number.load(Ordering::Relaxed));
        // The place of an evicted peer was given back when it was evicted.
        if !self.call.leave.load(Ordering::Acquire) {
            state.give_back(self.owner);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn the_oldest_silent_peer_gives_way_to_the_next() {
        let slots = Slots::new(2, 2);
        let (one, two) = (slots.take(None).unwrap(), slots.take(None).unwrap());
        one.settle();
        let three = slots.take(None).unwrap();
        assert_eq!((one.evicted().now_or_never(), two.evicted().now_or_never()), (None, Some(())));
        three.settle();
        assert!(slots.take(None).is_none(), "both have asked for something");
        assert_eq!((slots.held(), slots.evictions().get()), (2, 1));
        drop(two);
        assert_eq!(slots.held(), 2, "it was given back before");
        drop(three);
        assert!(slots.take(None).is_some());
    }

    #[test]
    fn a_peer_that_asks_after_it_was_made_to_leave_leaves() {
        let slots = Slots::new(1, 1);
        let late = slots.take(None).unwrap();
        let next = slots.take(None).unwrap();
        late.settle();
        assert!(!late.is_settled(), "its place was given to the next");
        next.settle();
        assert!(next.is_settled() && slots.take(None).is_none());
    }

    #[test]
    fn an_owner_has_its_own_bound_and_gives_way_to_itself() {
        let slots = Slots::new(10, 2);
        let (theirs, mine) = (slots.take(Some(7)).unwrap(), slots.take(Some(8)).unwrap());
        let other = slots.take(Some(8)).unwrap();
        let next = slots.take(Some(8)).unwrap();
        assert_eq!((theirs.evicted().now_or_never(), mine.evicted().now_or_never()), (None, Some(())));
        other.settle();
        next.settle();
        assert!(slots.take(Some(8)).is_none());
        assert!(slots.take(Some(7)).is_some());
    }

    #[test]
    fn a_peer_that_is_idle_again_gives_way_after_those_that_wait_longer() {
        let slots = Slots::new(2, 2);
        let (one, two) = (slots.take(None).unwrap(), slots.take(None).unwrap());
        one.settle();
        one.unsettle();
        let _three = slots.take(None).unwrap();
        assert_eq!((one.evicted().now_or_never(), two.evicted().now_or_never()), (None, Some(())));
        let _four = slots.take(None).unwrap();
        assert_eq!(one.evicted().now_or_never(), Some(()));
    }
}

//! A bounded pool of bytes that calls hold. A call that finds no room waits in turn. Meanwhile a call that has been
//! stuck for longer than the patience gives way.
//!
//! A call is stuck while its peer neither sends nor takes bytes. It can only be asked to let go: its share is marked as
//! taken back, its task is woken, and the bytes that it put aside are dropped at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::{sync::Notify, time::Instant};

/// The pool. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    size: u64,
    patience: Duration,
    state: Mutex<State>,
    /// Held by the caller that waits for room, so that callers get room in the order in which they came.
    turn: tokio::sync::Mutex<()>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    taken_back: Counter,
    next: u64,
    shares: BTreeMap<u64, Weak<Held>>,
}

/// The bytes that one call holds; given back when the last clone is dropped. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Share(Arc<Held>);

#[derive(Debug)]
struct Held {
    pool: Pool,
    number: u64,
    /// Locked after the pool's state, never before.
    amount: Mutex<Amount>,
    waker: AtomicWaker,
}

#[derive(Debug)]
struct Amount {
    bytes: u64,
    /// The part of `bytes` that was acquired for data that has not come yet.
    reserved: u64,
    /// When the peer last sent or took bytes.
    moved: Instant,
    taken_back: bool,
    /// Bytes put aside until the peer takes them.
    rest: Bytes,
    /// Length of the whole answer whose end is `rest`; its memory is freed only when all of it was taken.
    whole: u64,
}

/// The call was stuck while others waited for its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("others needed the memory that the call held without moving")]
pub struct TakenBack;

impl Pool {
    /// A pool of `size` bytes. A call is stuck if its peer has not moved for `patience`.
    #[must_use]
    pub fn new(size: u64, patience: Duration) -> Self {
        let shared = Shared {
            size,
            patience,
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            freed: Notify::new(),
        };
        Self(Arc::new(shared))
    }

    /// A new share for a call, which holds no bytes yet.
    #[must_use]
    pub fn share(&self) -> Share {
        let mut state = self.0.state.lock();
        let number = state.next;
        state.next += 1;
        let amount =
            Amount { bytes: 0, reserved: 0, moved: Instant::now(), taken_back: false, rest: Bytes::new(), whole: 0 };
        let held = Held { pool: self.clone(), number, amount: Mutex::new(amount), waker: AtomicWaker::new() };
        let held = Arc::new(held);
        state.shares.insert(number, Arc::downgrade(&held));
        Share(held)
    }

    /// Bytes that all calls hold together.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.state.lock().used
    }

    /// The counter of calls that had to give way.
    #[must_use]
    pub fn taken_back(&self) -> Counter {
        self.0.state.lock().taken_back.clone()
    }

    /// Makes the call give way that has been stuck for longest, if one has been stuck for longer than the patience.
    fn take_back_one(&self) {
        let mut state = self.0.state.lock();
        // Ordering: the pool's state is locked before an amount, here as everywhere. Two locks taken in both orders
        // could wait for each other for ever.
        let shares: Vec<_> = state.shares.values().filter_map(Weak::upgrade).map(Share).collect();
        let stuck = |share: &&Share| {
            let amount = share.0.amount.lock();
            amount.bytes > 0 && !amount.taken_back && amount.moved.elapsed() >= self.0.patience
        };
        // A call without bytes has nothing to give back, however long it has been stuck.
        if let Some(share) = shares.iter().filter(stuck).min_by_key(|share| share.0.amount.lock().moved) {
            state.taken_back.inc();
            let mut amount = share.0.amount.lock();
            amount.taken_back = true;
            amount.rest = Bytes::new();
            let whole = std::mem::take(&mut amount.whole);
            amount.bytes -= whole;
            state.used -= whole;
            drop(amount);
            // Ordering 1: the mark.
            // Ordering 2: the wake-up, so that the woken task sees the mark.
            share.0.waker.wake();
            self.0.freed.notify_one();
        }
        drop(state);
        // Dropped after the lock is released: dropping the last clone of a share locks the state.
        drop(shares);
    }
}

impl Share {
    /// Waits until there is room for `bytes` more. A request for more than the whole pool waits for the whole pool.
    /// Cancel-safe.
    ///
    /// # Errors
    /// If the call had to give way.
    pub async fn acquire(&self, bytes: u64) -> Result<(), TakenBack> {
        if self.try_acquire(bytes) {
            return Ok(());
        }
        let shared = &self.0.pool.0;
        // One caller at a time waits for room, the one that came first. A large request would never get through
        // otherwise, since small ones take the room before it.
        let _turn = shared.turn.lock().await;
        loop {
            if self.0.amount.lock().taken_back {
                return Err(TakenBack);
            }
            if self.try_acquire_now(bytes) {
                return Ok(());
            }
            // A release between the try and this wait is kept. Nobody tells that a call has become stuck, so the caller
            // looks for one now and then.
            let _ = tokio::time::timeout(shared.patience / 4, shared.freed.notified()).await;
            self.0.pool.take_back_one();
        }
    }

    /// Takes `bytes` more if there is room and no other call waits; returns whether it did.
    #[must_use]
    pub fn try_acquire(&self, bytes: u64) -> bool {
        self.0.pool.0.turn.try_lock().is_ok() && self.try_acquire_now(bytes)
    }

    fn try_acquire_now(&self, bytes: u64) -> bool {
        let shared = &self.0.pool.0;
        let mut state = shared.state.lock();
        // A request for more than the pool has gets all of it, alone: refused for ever, the largest message could never
        // be read.
        let bytes = bytes.min(shared.size);
        if state.used.saturating_add(bytes) > shared.size {
            return false;
        }
        state.used += bytes;
        let mut amount = self.0.amount.lock();
        amount.bytes += bytes;
        amount.reserved += bytes;
        amount.moved = Instant::now();
        true
    }

    /// Replaces the reservation for data that has now come by its real size `bytes`, even if the pool has no room for
    /// it.
    pub fn settle(&self, bytes: u64) {
        self.change(|amount| {
            amount.bytes = amount.bytes - amount.reserved + bytes;
            amount.reserved = 0;
        });
    }

    /// Gives back `bytes` that the peer took.
    pub fn release(&self, bytes: u64) {
        self.change(|amount| amount.bytes = amount.bytes.saturating_sub(bytes));
    }

    fn change(&self, change: impl FnOnce(&mut Amount)) {
        let mut state = self.0.pool.0.state.lock();
        let mut amount = self.0.amount.lock();
        let before = amount.bytes;
        change(&mut amount);
        amount.moved = Instant::now();
        state.used = state.used - before + amount.bytes;
        let freed = amount.bytes < before;
        drop(amount);
        drop(state);
        if freed {
            self.0.pool.0.freed.notify_one();
        }
    }

    /// Notes that the peer sent or took bytes just now.
    pub fn moved(&self) {
        self.0.amount.lock().moved = Instant::now();
    }

    /// Bytes that the call holds.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.0.amount.lock().bytes
    }

    /// Puts `rest` aside until the peer takes it. It is counted already, and stays counted as long as any of it is
    /// left.
    pub fn put_aside(&self, rest: Bytes) {
        self.change(|amount| {
            let whole = rest.len() as u64;
            // The call has to give way already. The rest is dropped at once, instead of waiting for a peer that takes
            // nothing.
            if amount.taken_back {
                amount.bytes = amount.bytes.saturating_sub(whole);
            } else {
                amount.whole = whole;
                amount.rest = rest;
            }
        });
    }

    /// The next bytes that were put aside, at most `most`; empty once none are left. They are a copy, which does not
    /// keep the whole answer alive. The copy is counted until it is given to [`release`](Self::release).
    #[must_use]
    pub fn take_aside(&self, most: usize) -> Bytes {
        // Asked without the pool's lock, which all calls share: most answers are short, and put nothing aside.
        if self.is_nothing_aside() {
            return Bytes::new();
        }
        let mut next = Bytes::new();
        self.change(|amount| {
            next = amount.rest.split_to(amount.rest.len().min(most));
            amount.bytes += next.len() as u64;
            if amount.rest.is_empty() {
                amount.rest = Bytes::new();
                // Until here the whole answer was in memory, however much of it had been taken.
                amount.bytes -= std::mem::take(&mut amount.whole);
            }
        });
        // Copied here: the lock inside is one for all calls.
        Bytes::copy_from_slice(&next)
    }

    /// Whether no bytes are put aside.
    #[must_use]
    pub fn is_nothing_aside(&self) -> bool {
        self.0.amount.lock().rest.is_empty()
    }

    /// Ready once the call has to give way.
    pub fn poll_taken_back(&self, cx: &mut Context<'_>) -> Poll<TakenBack> {
        // Ordering 1: the waker.
        // Ordering 2: the look at the mark. A mark that is set between the two is seen, or wakes the task; the other
        // way round it could be missed, and the call would hold its memory until its peer moves.
        self.0.waker.register(cx.waker());
        if self.0.amount.lock().taken_back { Poll::Ready(TakenBack) } else { Poll::Pending }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.pool.0.state.lock();
        state.shares.remove(&self.number);
        state.used -= self.amount.get_mut().bytes;
        drop(state);
        self.pool.0.freed.notify_one();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_gets_what_others_give_back_in_turn() {
        let pool = Pool::new(10, PATIENCE);
        let (one, two, three) = (pool.share(), pool.share(), pool.share());
        one.acquire(8).await.unwrap();
        let second = tokio::spawn(async move { two.acquire(6).await.map(|()| two) });
        tokio::task::yield_now().await;
        assert!(!three.try_acquire(1), "others wait");
        one.release(8);
        let two = second.await.unwrap().unwrap();
        assert_eq!(pool.used(), 6);
        assert!(three.try_acquire(4));
        drop((one, two, three));
        assert_eq!((pool.used(), pool.taken_back().get()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_stuck_gives_way_and_one_that_moves_does_not() {
        let pool = Pool::new(10, PATIENCE);
        let (stuck, moving, next) = (pool.share(), pool.share(), pool.share());
        stuck.acquire(9).await.unwrap();
        stuck.settle(5);
        stuck.put_aside(Bytes::from_static(b"12345"));
        moving.acquire(5).await.unwrap();
        let mover = moving.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                mover.moved();
            }
        });
        let started = Instant::now();
        next.acquire(4).await.unwrap();
        assert!((PATIENCE..2 * PATIENCE).contains(&started.elapsed()), "{:?}", started.elapsed());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(stuck.poll_taken_back(&mut cx), Poll::Ready(TakenBack));
        assert_eq!(moving.poll_taken_back(&mut cx), Poll::Pending);
        assert!(stuck.take_aside(10).is_empty());
        assert_eq!((stuck.held(), pool.used(), pool.taken_back().get()), (0, 9, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_there_is_gets_all_alone() {
        let pool = Pool::new(10, PATIENCE);
        let share = pool.share();
        share.acquire(100).await.unwrap();
        assert_eq!(share.held(), 10);
        share.settle(25);
        assert_eq!(pool.used(), 25, "what is there is counted");
    }
}

//! Write credit: the memory for changes that are not yet durable, and how backends share it.
//!
//! ```text
//!   budget ├ guaranteed to A ┼ guaranteed to B ┼ … ┼────────── shared by all, first come ──────────┤
//! ```
//!
//! Every backend is guaranteed room for the largest batch, so that one batch is always possible, however much the
//! others hold. Beyond that it draws from the shared part. A backend *uses* the credit that it granted and that is not
//! yet spent, and the bytes that it holds: spent and not yet durable.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::outbox::Outbox;

/// The credit of one daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CreditPool(Arc<Mutex<Pool>>);

#[derive(Debug)]
struct Pool {
    budget: u64,
    guaranteed: u64,
    accounts: u64,
    /// Sum over the accounts of the bytes that each uses beyond its guarantee.
    shared_used: u64,
    /// Sessions waiting for shared credit; woken when some is released.
    starved: Vec<Weak<Outbox>>,
}

/// The credit of one backend; gives everything back when dropped.
///
/// Invariant: `outstanding + held` beyond the guarantee is counted in the pool's `shared_used`.
#[derive(Debug)]
pub struct Account {
    pool: CreditPool,
    guaranteed: u64,
    outstanding: u64,
    held: u64,
    closed: bool,
}

impl CreditPool {
    /// A pool of `budget` bytes, with `guaranteed` bytes for each account: the cost of the largest batch.
    #[must_use]
    pub fn new(budget: u64, guaranteed: u64) -> Self {
        let pool = Pool { budget, guaranteed, accounts: 0, shared_used: 0, starved: vec![] };
        Self(Arc::new(Mutex::new(pool)))
    }

    /// A new account; `None` if the budget cannot guarantee another largest batch now.
    #[must_use]
    pub fn account(&self) -> Option<Account> {
        // One hold of the lock for look and count: of two backends that open at once, only one gets the last guarantee.
        let mut pool = self.0.lock();
        let guarantees = (pool.accounts + 1).saturating_mul(pool.guaranteed);
        if guarantees.saturating_add(pool.shared_used) > pool.budget {
            return None;
        }
        pool.accounts += 1;
        Some(Account { pool: self.clone(), guaranteed: pool.guaranteed, outstanding: 0, held: 0, closed: false })
    }

    /// The bytes that accounts use beyond their guarantees, and the bytes that they may use.
    #[must_use]
    pub fn shared(&self) -> (u64, u64) {
        let pool = self.0.lock();
        (pool.shared_used, pool.shared_size())
    }
}

impl Pool {
    fn shared_size(&self) -> u64 {
        self.budget.saturating_sub(self.accounts * self.guaranteed)
    }

    fn wake_starved(&mut self) {
        // All are woken, not only as many as there is room for. A session that still gets too little enters itself
        // again.
        for outbox in std::mem::take(&mut self.starved) {
            if let Some(outbox) = outbox.upgrade() {
                outbox.wake();
            }
        }
    }
}

impl Account {
    /// Bytes that are granted and not yet spent.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Bytes that are spent and not yet durable.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Grants up to `wanted` more bytes, as far as there is room; returns how many. If it is less, `outbox` is woken
    /// when there may be more.
    pub fn grant(&mut self, wanted: u64, outbox: &Arc<Outbox>) -> u64 {
        self.grant_at_least(0, wanted, outbox)
    }

    /// Grants exactly `cost` more bytes, or nothing; returns whether. If not, `outbox` is woken when there may be room.
    pub fn grant_exactly(&mut self, cost: u64, outbox: &Arc<Outbox>) -> bool {
        self.grant_at_least(cost, cost, outbox) == cost
    }

    /// Grants as much of `wanted` as there is room for, but nothing if that is less than `least`. It must not grant too
    /// little and give it back: giving back would wake the waiting sessions, the caller itself among them.
    fn grant_at_least(&mut self, least: u64, wanted: u64, outbox: &Arc<Outbox>) -> u64 {
        let used = self.outstanding + self.held;
        let mut pool = self.pool.0.lock();
        // The own guarantee is always there. Only the part beyond it is drawn from the shared bytes.
        let own = self.guaranteed.saturating_sub(used);
        let shared = pool.shared_size().saturating_sub(pool.shared_used);
        let room = wanted.min(own.saturating_add(shared));
        let granted = if room < least { 0 } else { room };
        pool.shared_used += (used + granted).saturating_sub(self.guaranteed) - used.saturating_sub(self.guaranteed);
        // Ordering: the entry is made in the same hold of the lock as the look. A release in between would find nobody
        // to wake, and this session would wait for ever.
        if granted < wanted && !pool.starved.iter().any(|waiting| std::ptr::eq(waiting.as_ptr(), Arc::as_ptr(outbox))) {
            pool.starved.push(Arc::downgrade(outbox));
        }
        drop(pool);
        self.outstanding += granted;
        granted
    }

    /// Spends `cost` of the granted credit on a batch of which `held` bytes must be kept.
    ///
    /// # Panics
    /// If less than `cost` is granted: the caller has to check that.
    pub fn spend(&mut self, cost: u64, held: u64) {
        assert!(cost <= self.outstanding, "spending is checked against what was granted");
        self.set_used(self.outstanding - cost, self.held + held);
    }

    /// Counts `bytes` as held without spending credit.
    pub fn hold(&mut self, bytes: u64) {
        self.set_used(self.outstanding, self.held + bytes);
    }

    /// Takes back credit that will not be spent, because its session is gone.
    pub fn revoke(&mut self) {
        self.set_used(0, self.held);
    }

    /// Gives everything back, including the guarantee, because the backend has ended. Idempotent.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.set_used(0, 0);
        // The guarantee becomes shared room, so the others are woken even if this account used nothing.
        let mut pool = self.pool.0.lock();
        pool.accounts -= 1;
        pool.wake_starved();
    }

    /// Releases `bytes` that became durable.
    pub fn release(&mut self, bytes: u64) {
        self.set_used(self.outstanding, self.held.saturating_sub(bytes));
    }

    fn set_used(&mut self, outstanding: u64, held: u64) {
        let beyond = |used: u64| used.saturating_sub(self.guaranteed);
        let (before, after) = (beyond(self.outstanding + self.held), beyond(outstanding + held));
        (self.outstanding, self.held) = (outstanding, held);
        let mut pool = self.pool.0.lock();
        // Added first: both are unsigned, and the sum never falls below `before`, which it contains.
        pool.shared_used = pool.shared_used + after - before;
        if after < before {
            pool.wake_starved();
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_batch_is_possible_however_much_others_hold() {
        let (pool, outbox) = (CreditPool::new(100, 10), Arc::new(Outbox::default()));
        let (mut a, mut b) = (pool.account().unwrap(), pool.account().unwrap());
        assert_eq!(a.grant(1000, &outbox), 90, "its guarantee and all that is shared");
        assert_eq!(b.grant(10, &outbox), 10);
        assert_eq!(b.grant(1, &outbox), 0);
        a.spend(90, 90);
        a.release(50);
        assert_eq!(b.grant(1000, &outbox), 50);
        assert_eq!(pool.shared(), (80, 80));
    }

    #[test]
    fn a_dropped_account_gives_all_back() {
        let (pool, outbox) = (CreditPool::new(30, 10), Arc::new(Outbox::default()));
        let mut a = pool.account().unwrap();
        a.grant(25, &outbox);
        a.spend(20, 20);
        assert!(pool.account().is_none(), "what is used leaves no room for another guarantee");
        drop(a);
        assert_eq!(pool.shared().0, 0);
        let accounts: Vec<_> = std::iter::from_fn(|| pool.account()).collect();
        assert_eq!(accounts.len(), 3, "as many as the budget guarantees");
    }

    #[tokio::test(start_paused = true)]
    async fn asking_in_vain_wakes_nobody() {
        let (pool, outbox) = (CreditPool::new(20, 10), Arc::new(Outbox::default()));
        let mut account = pool.account().unwrap();
        assert!(account.grant_exactly(20, &outbox));
        account.spend(15, 15);
        assert!(!account.grant_exactly(6, &outbox));
        assert!(!account.grant_exactly(6, &outbox));
        let woken = tokio::time::timeout(std::time::Duration::from_secs(1), outbox.changed()).await;
        assert!(woken.is_err(), "it would ask again for ever");
        account.release(15);
        outbox.changed().await;
        assert!(account.grant_exactly(6, &outbox));
    }

    #[tokio::test]
    async fn whoever_got_less_than_it_wanted_is_woken_when_room_appears() {
        let pool = CreditPool::new(20, 10);
        let (one, two) = (Arc::new(Outbox::default()), Arc::new(Outbox::default()));
        let (mut a, mut b) = (pool.account().unwrap(), pool.account().unwrap());
        a.grant(10, &one);
        b.grant(10, &two);
        assert_eq!(a.grant(5, &one), 0);
        drop(b);
        one.changed().await;
        assert_eq!(a.grant(5, &one), 5);
    }
}

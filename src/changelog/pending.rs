//! Callers that wait until the changelog is durable up to some point. Pure.

use std::collections::BTreeMap;

use crate::types::Sqn;

/// Waiters in order of the sequence number (exclusive) up to which the log must be durable; waiters for the same number
/// in order of arrival.
#[derive(Debug)]
pub struct Pending<T> {
    waiters: BTreeMap<(Sqn, u64), T>,
    arrivals: u64,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { waiters: BTreeMap::new(), arrivals: 0 }
    }
}

impl<T> Pending<T> {
    /// Adds a waiter for everything below `to`.
    pub fn push(&mut self, to: Sqn, waiter: T) {
        self.arrivals += 1;
        self.waiters.insert((to, self.arrivals), waiter);
    }

    /// Removes and returns every waiter whose `to` is at most `persisted_to`, lowest first.
    pub fn release(&mut self, persisted_to: Sqn) -> Vec<T> {
        // Arrivals count from 1. So this key is below every waiter for the next number, and above all waiters for
        // `persisted_to` itself, which are done: `to` is exclusive on both sides.
        let rest = self.waiters.split_off(&(Sqn(persisted_to.0 + 1), 0));
        std::mem::replace(&mut self.waiters, rest).into_values().collect()
    }

    /// Removes and returns all waiters.
    pub fn drain(&mut self) -> Vec<T> {
        std::mem::take(&mut self.waiters).into_values().collect()
    }

    /// All waiters, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiters.values()
    }

    /// Number of waiters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Whether there is no waiter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_in_order_what_has_become_durable() {
        let mut pending = Pending::default();
        pending.push(Sqn(7), "c");
        pending.push(Sqn(3), "a");
        pending.push(Sqn(3), "b");
        assert!(pending.release(Sqn(2)).is_empty());
        assert_eq!(pending.release(Sqn(3)), ["a", "b"]);
        assert_eq!(pending.release(Sqn(9)), ["c"]);
        assert!(pending.is_empty());
    }
}

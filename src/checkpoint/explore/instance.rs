//! Daemon processes of the exploration.

use std::collections::BTreeSet;

use uuid::Uuid;

/// A daemon process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Instance {
    pub(super) id: Uuid,
    pub(super) next: u64,
    pub(super) in_flight: BTreeSet<u64>,
    pub(super) dead: bool,
}

impl Instance {
    pub(super) fn begin(&mut self) -> u64 {
        self.next += 1;
        self.in_flight.insert(self.next);
        self.next
    }

    pub(super) fn low_water(&self) -> u64 {
        self.in_flight.first().copied().unwrap_or(self.next + 1)
    }
}

/// A name that does not depend on the order of events.
pub(super) fn uuid(owner: u64, of: u64) -> Uuid {
    Uuid::from_u128((u128::from(owner) << 64) + u128::from(of))
}

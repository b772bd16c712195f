//! Sequence numbers: the logical time of a changelog.

use std::{fmt, str::FromStr};

/// Low bits of a sequence number that count batches within an epoch: room for 10^12 batches.
const COUNTER_BITS: u32 = 40;

/// A position in the changelog of one backend. It advances by one per applied batch that changes state.
///
/// ```text
///  63            40 39                                    0
/// ┌────────────────┬───────────────────────────────────────┐
/// │ epoch (24 bit) │ batches of that epoch before this one │
/// └────────────────┴───────────────────────────────────────┘
/// ```
///
/// The epoch in the high bits makes sequence numbers unique over all owners of a backend, including a fenced one that
/// still appends. It also orders the changes of a later epoch after all earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sqn(pub u64);

impl Sqn {
    /// Highest epoch number that sequence numbers can carry.
    pub const MAX_EPOCH: u64 = (1 << (64 - COUNTER_BITS)) - 1;

    /// The first sequence number of an epoch.
    ///
    /// # Panics
    /// If `epoch` exceeds [`Sqn::MAX_EPOCH`]: an owner checks that when it opens.
    #[must_use]
    pub fn first_of(epoch: u64) -> Self {
        assert!(epoch <= Self::MAX_EPOCH, "epoch {epoch} is beyond what sequence numbers carry");
        Self(epoch << COUNTER_BITS)
    }

    /// The number of the epoch that this sequence number belongs to.
    #[must_use]
    pub fn epoch(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// The next sequence number of the same epoch.
    ///
    /// # Panics
    /// After 2^40 batches in one epoch.
    #[must_use]
    pub fn next(self) -> Self {
        let next = Self(self.0 + 1);
        assert_eq!(next.epoch(), self.epoch(), "an epoch has room for 2^40 batches");
        next
    }
}

impl FromStr for Sqn {
    type Err = String;

    /// Reads `epoch.batches`, as it is shown.
    fn from_str(text: &str) -> Result<Self, String> {
        let fault = || format!("`{text}` is no sequence number, such as `3.17`: an epoch, and batches of it before");
        let (epoch, count) = text.split_once('.').ok_or_else(fault)?;
        let (epoch, count): (u64, u64) = (epoch.parse().map_err(|_| fault())?, count.parse().map_err(|_| fault())?);
        if epoch > Self::MAX_EPOCH || count >= 1 << COUNTER_BITS {
            return Err(fault());
        }
        Ok(Self(Self::first_of(epoch).0 + count))
    }
}

impl fmt::Display for Sqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch(), self.0 & ((1 << COUNTER_BITS) - 1))
    }
}

/// Sequence numbers from `from` (inclusive) to `to` (exclusive).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqnRange {
    /// The first sequence number, inclusive.
    pub from: Sqn,
    /// The end, exclusive; at least `from`.
    pub to: Sqn,
}

impl SqnRange {
    /// Whether the range has no sequence number.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.from >= self.to
    }

    /// Whether the range is not empty and all of it belongs to `epoch`.
    #[must_use]
    pub fn is_of(self, epoch: u64) -> bool {
        let is_of = |sqn: Sqn| (1..=Sqn::MAX_EPOCH).contains(&epoch) && sqn.epoch() == epoch;
        !self.is_empty() && is_of(self.from) && is_of(self.to)
    }

    /// Whether `sqn` is in the range.
    #[must_use]
    pub fn contains(self, sqn: Sqn) -> bool {
        self.from <= sqn && sqn < self.to
    }
}

impl fmt::Display for SqnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.from, self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_sorts_after_the_one_before() {
        let last_of_first = Sqn((1 << COUNTER_BITS) + (1 << COUNTER_BITS) - 1);
        assert_eq!(last_of_first.epoch(), 1);
        assert!(last_of_first < Sqn::first_of(2));
        assert_eq!(Sqn::first_of(3).next().to_string(), "3.1");
    }
}

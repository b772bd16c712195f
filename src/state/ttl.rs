//! The stored form of entries of a state with TTL: the time of the last touch comes before the value.
//!
//! ```text
//!   last touch: u64, little-endian, milliseconds since the Unix epoch │ the value, map value or list element
//! ```
//!
//! Inner backends and the log see these bytes like any others. The operations ([`op`](super::op)) combine and split
//! them.
//!
//! An element that was removed from a list leaves [`REMOVED`] in its place, since the elements behind it are named by
//! their index. Its time is 0, at which no entry is ever touched.

use super::{Action, Change, StateError};
use crate::types::{TimeMs, Ttl, TtlVisibility};

/// Number of bytes before the value.
pub const STAMP_BYTES: usize = size_of::<TimeMs>();

/// The time of a removed element.
const NEVER: TimeMs = 0;

/// The stored bytes of an element that was removed from its list.
pub const REMOVED: &[u8] = &NEVER.to_le_bytes();

/// The TTL of a state, applied at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifespan {
    ttl: Ttl,
    now: TimeMs,
}

/// A stored entry, as it is at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The time of its last touch.
    pub touched: TimeMs,
    /// Its value, without the time.
    pub value: &'a [u8],
    /// Whether it is expired; a removed element always is.
    pub is_expired: bool,
    /// Whether operations see it.
    pub is_visible: bool,
}

impl Lifespan {
    /// Applies this TTL at the time `now`.
    #[must_use]
    pub fn new(ttl: Ttl, now: TimeMs) -> Self {
        // Only removed elements have the time 0.
        Self { ttl, now: now.max(NEVER + 1) }
    }

    /// The moment at which the TTL is applied.
    #[must_use]
    pub fn now(&self) -> TimeMs {
        self.now
    }

    /// Whether an entry that was touched last at `touched` is expired, which it is from the moment at which its
    /// duration is over.
    #[must_use]
    pub fn is_expired(&self, touched: TimeMs) -> bool {
        touched == NEVER || self.expiry(touched) <= self.now
    }

    /// The time at which an entry that was touched last at `touched` expires; the end of time if it never does.
    #[must_use]
    pub fn expiry(&self, touched: TimeMs) -> TimeMs {
        touched.saturating_add(self.ttl.duration_ms)
    }

    /// Splits stored bytes into an entry.
    ///
    /// # Errors
    /// As [`split`].
    pub fn entry<'a>(&self, stored: &'a [u8]) -> Result<Entry<'a>, StateError> {
        let (touched, value) = split(stored)?;
        let is_expired = self.is_expired(touched);
        let is_shown = self.ttl.visibility == TtlVisibility::ReturnExpiredIfNotCleanedUp && touched != NEVER;
        Ok(Entry { touched, value, is_expired, is_visible: !is_expired || is_shown })
    }

    /// The change that remains of a change that sets an entry (stored bytes), if expired entries are left out: the same
    /// change, none, or a removed element in place of an expired one. A change that does not fit stays as it is.
    #[must_use]
    pub fn without_expired<'a>(&self, change: Change<'a>) -> Option<Change<'a>> {
        let is_expired = |stored: &[u8]| split(stored).is_ok_and(|(touched, _)| self.is_expired(touched));
        match change.action {
            Action::Put(value) | Action::MapPut { value, .. } if is_expired(value) => None,
            Action::ListPut { index, element } if is_expired(element) => {
                Some(Change { action: Action::ListPut { index, element: REMOVED }, ..change })
            }
            _ => Some(change),
        }
    }
}

/// The stored bytes of `value`, touched at `time`.
#[must_use]
pub fn stamp(time: TimeMs, value: &[u8]) -> Vec<u8> {
    [&time.to_le_bytes(), value].concat()
}

/// Splits stored bytes into the time of the last touch and the value.
///
/// # Errors
/// [`StateError::Undecodable`] if they are too short.
pub fn split(stored: &[u8]) -> Result<(TimeMs, &[u8]), StateError> {
    let (time, value) = stored.split_first_chunk().ok_or(StateError::Undecodable("an entry without time"))?;
    Ok((TimeMs::from_le_bytes(*time), value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_stamped_value_never_change() {
        assert_eq!(stamp(0x0102, b"v"), b"\x02\x01\0\0\0\0\0\0v");
        assert_eq!(split(&stamp(7, b"value")).unwrap(), (7, &b"value"[..]));
        assert_eq!(split(&stamp(u64::MAX, b"")).unwrap(), (u64::MAX, &b""[..]));
        assert!(split(&[1; 7]).is_err());
        assert_eq!(REMOVED, stamp(0, b""));
    }

    #[test]
    fn an_entry_is_expired_once_its_duration_has_passed() {
        for (duration, touched, now, is_expired) in [
            (10, 5, 14, false),
            (10, 5, 15, true),
            (10, 5, 4, false),
            (1, 7, 7, false),
            (1, 7, 8, true),
            (u64::MAX, 5, u64::MAX - 1, false),
            (u64::MAX - 5, 5, u64::MAX - 1, false),
            (u64::MAX, 0, 0, true),
        ] {
            let life = Lifespan::new(Ttl::new(duration), now);
            assert_eq!(life.is_expired(touched), is_expired, "{touched} + {duration} at {now}");
        }
    }

    #[test]
    fn what_was_removed_is_never_visible() {
        let visibility = TtlVisibility::ReturnExpiredIfNotCleanedUp;
        let shown = Lifespan::new(Ttl { visibility, ..Ttl::new(u64::MAX) }, 0);
        let hidden = Lifespan::new(Ttl::new(1), 100);
        assert!(shown.entry(&stamp(3, b"v")).unwrap().is_visible);
        assert!(Lifespan::new(Ttl { visibility, ..Ttl::new(1) }, 100).entry(&stamp(3, b"")).unwrap().is_visible);
        assert!(!hidden.entry(&stamp(3, b"v")).unwrap().is_visible);
        for life in [shown, hidden] {
            let removed = life.entry(REMOVED).unwrap();
            assert!(removed.is_expired && !removed.is_visible);
        }
    }
}

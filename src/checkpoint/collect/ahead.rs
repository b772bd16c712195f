//! Store times that lie in the future, because the store's clock went back. Such a time counts as the moment when it
//! was first seen. Pure.
//!
//! So a lease, a pin or the grace of an object that seems to be made next year lasts as long as any other, from that
//! moment on. A single sweep by hand remembers nothing, and counts such times as the present.

use std::collections::BTreeMap;

use crate::{
    object::{ObjectMeta, Path},
    types::TimeMs,
};

/// When objects with a future time were first seen. An entry is forgotten if it is not used between two calls of
/// `tidy`.
#[derive(Debug, Clone, Default)]
pub struct FirstSeen(BTreeMap<Path, Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    at_ms: TimeMs,
    is_asked: bool,
}

impl FirstSeen {
    /// The time that counts for an object while the store's clock shows `now_ms`.
    pub(super) fn time_of(&mut self, meta: &ObjectMeta, now_ms: TimeMs) -> TimeMs {
        if meta.modified_ms <= now_ms {
            return meta.modified_ms;
        }
        // Remembered over sweeps: if each sweep counted the time anew as the present, the object would never grow old.
        let seen = self.0.entry(meta.path.clone()).or_insert(Seen { at_ms: now_ms, is_asked: true });
        // The clock may have gone back once more.
        *seen = Seen { at_ms: seen.at_ms.min(now_ms), is_asked: true };
        seen.at_ms
    }

    /// Forgets unused entries, at the end of a sweep.
    pub(super) fn tidy(&mut self) {
        self.0.retain(|_, seen| std::mem::take(&mut seen.is_asked));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_ahead_counts_from_when_it_was_first_seen() {
        let meta = |modified_ms| ObjectMeta { path: Path::from("a"), size: 0, modified_ms };
        let mut seen = FirstSeen::default();
        assert_eq!((seen.time_of(&meta(50), 100), seen.time_of(&meta(100), 100)), (50, 100));
        assert_eq!((seen.time_of(&meta(900), 100), seen.time_of(&meta(900), 300)), (100, 100));
        seen.tidy();
        assert_eq!(seen.time_of(&meta(900), 400), 100);
        assert_eq!(seen.time_of(&meta(900), 70), 70, "back once more");
        assert_eq!(seen.time_of(&meta(900), 1000), 900);
        seen.tidy();
        seen.tidy();
        assert_eq!(seen.time_of(&meta(900), 500), 500, "it was gone");
    }
}

//! A wall clock that steps, made steady by a clock that does not. Pure.
//!
//! ```text
//!   wall      ──────────╱│ ten years │──────  one wrong answer ─▶ not believed, told
//!   believed  ────────────────────────────
//!
//!   wall      ─────────╲ back by an hour ╱──  believed runs on, a little slower, until the wall clock has come up
//!   believed  ────────────────────────────
//! ```
//!
//! The wall clock is believed as long as it goes about as fast as the steady one. A step *ahead* of more than
//! [`SLACK_MS`] is believed only once it has lasted [`PATIENCE_MS`] (a host that slept): what expires by it could not
//! come back. After a step *back*, time goes on by the steady clock, so that what is written then expires too; slower
//! by a [`SLOWED`]th, so that it meets the wall clock again.

use crate::types::TimeMs;

/// Of a step that is told, or that has to last.
pub(super) const SLACK_MS: u64 = 60_000;

/// How long a step ahead has to last before it is believed.
pub(super) const PATIENCE_MS: u64 = 600_000;

/// Time that lies ahead of its clock goes slower by this part.
pub(super) const SLOWED: u64 = 32;

/// What the wall clock did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is so many milliseconds ahead of what is plausible, and not believed.
    Ahead(u64),
    /// It was ahead for so long that it is believed.
    Believed(u64),
    /// It went back by so many milliseconds; time goes on.
    Back(u64),
    /// It is plausible again.
    Right,
}

/// Time that never goes back and makes no wide step that does not last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steady {
    /// In parts of a millisecond, [`SLOWED`] each.
    believed: u64,
    /// The steady clock then.
    at_ms: u64,
    /// Since when the wall clock is implausibly ahead, by the steady clock.
    ahead_since: Option<u64>,
    /// Whether that it went back was told.
    is_behind: bool,
}

impl Steady {
    /// Believes `wall`, at `at_ms` of the steady clock.
    pub(super) fn new(wall: TimeMs, at_ms: u64) -> Self {
        Self { believed: parts(wall), at_ms, ahead_since: None, is_behind: false }
    }

    /// The believed time.
    pub(super) fn now(&self) -> TimeMs {
        self.believed / SLOWED
    }

    /// The wall clock shows `wall`, the steady one `at_ms`.
    pub(super) fn observe(&mut self, wall: TimeMs, at_ms: u64) -> Option<Step> {
        let passed = at_ms.saturating_sub(self.at_ms);
        self.at_ms = self.at_ms.max(at_ms);
        let (shown, expected) = (parts(wall), self.believed.saturating_add(parts(passed)));
        let slowed = self.believed.saturating_add(passed.saturating_mul(SLOWED - 1));
        if shown < slowed {
            let behind = (slowed - shown) / SLOWED;
            self.believed = slowed;
            self.ahead_since = None;
            let is_new = behind > SLACK_MS && !self.is_behind;
            self.is_behind |= is_new;
            return is_new.then_some(Step::Back(behind));
        }
        let ahead = shown.saturating_sub(expected) / SLOWED;
        if ahead <= SLACK_MS {
            self.believed = shown;
            let was_wrong = self.ahead_since.take().is_some() | std::mem::take(&mut self.is_behind);
            return was_wrong.then_some(Step::Right);
        }
        match self.ahead_since {
            Some(since) if at_ms.saturating_sub(since) >= PATIENCE_MS => {
                (self.believed, self.ahead_since, self.is_behind) = (shown, None, false);
                Some(Step::Believed(ahead))
            }
            Some(_) => {
                self.believed = expected;
                None
            }
            None => {
                (self.believed, self.ahead_since) = (expected, Some(at_ms));
                Some(Step::Ahead(ahead))
            }
        }
    }
}

fn parts(ms: u64) -> u64 {
    ms.saturating_mul(SLOWED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_700_000_000_000;
    const HOUR: u64 = 3_600_000;

    #[test]
    fn a_clock_that_goes_right_is_believed_to_the_millisecond() {
        let mut clock = Steady::new(START, 5);
        for (wall, at) in
            [(START, 5), (START + 1, 6), (START + 970, 1000), (START + 61_500, 2000), (START + HOUR, HOUR)]
        {
            assert_eq!((clock.observe(wall, at), clock.now()), (None, wall));
        }
    }

    #[test]
    fn one_wrong_answer_is_not_believed_and_told() {
        let mut clock = Steady::new(START, 0);
        assert_eq!(clock.observe(START + 90_000 * HOUR, 1000), Some(Step::Ahead(90_000 * HOUR - 1000)));
        assert_eq!(clock.now(), START + 1000);
        assert_eq!((clock.observe(START + 90_000 * HOUR, 2000), clock.now()), (None, START + 2000), "told once");
        assert_eq!((clock.observe(START + 3000, 3000), clock.now()), (Some(Step::Right), START + 3000));
    }

    #[test]
    fn a_step_ahead_that_lasts_is_believed() {
        let mut clock = Steady::new(START, 0);
        assert_eq!(clock.observe(START + HOUR, 1), Some(Step::Ahead(HOUR - 1)));
        assert_eq!(clock.observe(START + HOUR + PATIENCE_MS - 1, PATIENCE_MS), None);
        assert_eq!(clock.now(), START + PATIENCE_MS);
        assert!(matches!(clock.observe(START + HOUR + PATIENCE_MS + 1, PATIENCE_MS + 1), Some(Step::Believed(_))));
        assert_eq!(clock.now(), START + HOUR + PATIENCE_MS + 1);
    }

    #[test]
    fn after_a_step_back_time_goes_on_and_meets_the_clock_again() {
        let mut clock = Steady::new(START, 0);
        assert_eq!(clock.observe(START - HOUR, 0), Some(Step::Back(HOUR)));
        let mut last = clock.now();
        for at in 1..=320_u64 {
            assert_eq!(clock.observe(START - HOUR + at, at), None);
            assert!(clock.now() >= last, "never back");
            last = clock.now();
        }
        assert_eq!(last, START + 310, "however often it is asked");
        assert_eq!(clock.observe(START + HOUR, 2 * HOUR), None);
        assert_eq!(clock.now(), START + 2 * HOUR - 2 * HOUR / SLOWED);
        assert_eq!(clock.observe(START + 39 * HOUR, 40 * HOUR), Some(Step::Right));
        assert_eq!(clock.now(), START + 39 * HOUR);
    }
}

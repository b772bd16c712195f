//! Makes a wall clock that jumps steady, by means of a clock that never does. Pure.
//!
//! ```text
//!   wall      ──────────╱│ ten years │──────  one wrong answer ─▶ not believed, told
//!   believed  ────────────────────────────
//!
//!   wall      ─────────╲ back by an hour ╱──  believed runs on, a little slower, until the wall clock has come up
//!   believed  ────────────────────────────
//! ```
//!
//! The wall clock is believed as long as it runs at about the speed of the steady one. A jump *ahead* of more than
//! [`SLACK_MS`] is believed only once it has lasted [`PATIENCE_MS`] (for example because the host slept), since entries
//! that expire by mistake cannot come back. After a jump *back*, time runs on with the steady clock, so that entries
//! still expire. It runs slower by a [`SLOWED`]th until the wall clock has caught up.

use crate::types::TimeMs;

/// A jump of at most this is not reported, and a jump ahead is then believed at once.
pub(super) const SLACK_MS: u64 = 60_000;

/// How long a jump ahead has to last before it is believed.
pub(super) const PATIENCE_MS: u64 = 600_000;

/// Time that is ahead of its clock runs slower by one part in this many.
pub(super) const SLOWED: u64 = 32;

/// A change of the wall clock's behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The clock is this many milliseconds ahead of the plausible time, and not believed.
    Ahead(u64),
    /// The clock was this many milliseconds ahead for so long that it is now believed.
    Believed(u64),
    /// The clock went back by this many milliseconds; the believed time goes on.
    Back(u64),
    /// The clock is plausible again.
    Right,
}

/// Time that never goes back and follows a jump ahead only if the jump lasts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steady {
    /// The believed time, in parts of a millisecond: [`SLOWED`] parts make one.
    believed: u64,
    /// The time of the steady clock when `believed` was set.
    at_ms: u64,
    /// Since when the wall clock is implausibly ahead, by the steady clock.
    ahead_since: Option<u64>,
    /// Whether the wall clock is behind, and this was reported.
    is_behind: bool,
}

impl Steady {
    /// Begins with `wall` as the believed time, when the steady clock shows `at_ms`.
    pub(super) fn new(wall: TimeMs, at_ms: u64) -> Self {
        Self { believed: parts(wall), at_ms, ahead_since: None, is_behind: false }
    }

    /// The believed time.
    pub(super) fn now(&self) -> TimeMs {
        self.believed / SLOWED
    }

    /// Takes in that the wall clock shows `wall` and the steady one `at_ms`. Returns a step to report, if there is one.
    pub(super) fn observe(&mut self, wall: TimeMs, at_ms: u64) -> Option<Step> {
        let passed = at_ms.saturating_sub(self.at_ms);
        self.at_ms = self.at_ms.max(at_ms);
        let (shown, expected) = (parts(wall), self.believed.saturating_add(parts(passed)));
        // A millisecond that passed is `SLOWED` parts at full speed, and one part less for a time that waits for its
        // clock.
        let slowed = self.believed.saturating_add(passed.saturating_mul(SLOWED - 1));
        // Behind even the slowed time: the believed time goes on slowly and never back. Between the slowed and the
        // expected time the wall clock is believed as it is.
        if shown < slowed {
            let behind = (slowed - shown) / SLOWED;
            self.believed = slowed;
            self.ahead_since = None;
            let is_new = behind > SLACK_MS && !self.is_behind;
            self.is_behind |= is_new;
            return is_new.then_some(Step::Back(behind));
        }
        let ahead = shown.saturating_sub(expected) / SLOWED;
        // A small step ahead is followed at once, and so is a clock that has become right.
        if ahead <= SLACK_MS {
            self.believed = shown;
            let was_wrong = self.ahead_since.take().is_some() | std::mem::take(&mut self.is_behind);
            return was_wrong.then_some(Step::Right);
        }
        match self.ahead_since {
            // It has lasted, so the host has slept, or the clock was wrong before and is right now.
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

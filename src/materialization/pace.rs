//! Spreads the work of a materialization over the time that there is for it, so that the writer keeps the machine.
//! Pure.
//!
//! ```text
//!   done  1 ┤              ╭─ deadline: a tenth before the replay limit, or half of the interval
//!           │           ╭──╯
//!           │     ╭─────╯     ahead of the line: works a tenth of the time
//!         0 ┼─────╯           behind it: works without a pause
//!           └──────────────▶ the log grows, time passes
//! ```
//!
//! A small state is done early all the same: however much time there is, a tenth of it is worked.

use std::time::Duration;

use tokio::time::Instant;

use super::schedule::ScheduleOptions;

/// Share of the time that is worked while there is time enough.
const SHARE: f64 = 0.1;

/// Share of the interval within which a materialization ends.
const OF_INTERVAL: f64 = 0.5;

/// Shorter pauses are saved up: no timer is finer.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);

/// The longest pause: a writer that begins to hurry meanwhile is noticed after it.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The pace of one materialization.
#[derive(Debug, Clone)]
pub struct Pace {
    began: Instant,
    /// By when it should be done.
    window: Option<Duration>,
    /// Changes in the log when it began, and by how many it should be done.
    log: (u64, u64),
    saved: Duration,
}

/// The facts that a pause depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// The present moment.
    pub now: Instant,
    /// Changes that a restore would replay now.
    pub log_changes: u64,
    /// Share of the work that is done, from 0 to 1.
    pub done: f64,
    /// Whether a caller waits for the end.
    pub awaited: bool,
}

impl Pace {
    /// The pace of a materialization that begins `now`, with so many changes in the log.
    #[must_use]
    pub fn new(options: &ScheduleOptions, now: Instant, log_changes: u64) -> Self {
        let window = options.interval.map(|interval| interval.mul_f64(OF_INTERVAL));
        Self { began: now, window, log: (log_changes, options.deadline()), saved: Duration::ZERO }
    }

    /// How long to pause after `worked`; nothing if it should go on.
    pub fn pause(&mut self, worked: Duration, progress: Progress) -> Option<Duration> {
        // Saved pauses lapse: work that is behind the line must not pause for earlier steps.
        if progress.awaited || progress.done < self.due(progress) {
            self.saved = Duration::ZERO;
            return None;
        }
        // A tenth of the time is worked, so a pause is nine times as long as its step.
        self.saved += worked.mul_f64(1.0 / SHARE - 1.0);
        if self.saved < SHORTEST_PAUSE {
            return None;
        }
        let pause = self.saved.min(LONGEST_PAUSE);
        self.saved -= pause;
        Some(pause)
    }

    /// The share of the work that should be done by now.
    fn due(&self, progress: Progress) -> f64 {
        let by_time = self.window.map_or(0.0, |window| {
            progress.now.saturating_duration_since(self.began).as_secs_f64() / window.as_secs_f64()
        });
        let (from, to) = self.log;
        #[allow(clippy::cast_precision_loss, reason = "a ratio")]
        // At least 1: the log may be at its deadline when the work begins. Then a single change more makes everything
        // due.
        let by_log = progress.log_changes.saturating_sub(from) as f64 / to.saturating_sub(from).max(1) as f64;
        // Whichever is nearer: the end of the window, or the limit of the log.
        by_time.max(by_log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(1);

    fn progress(now: Instant, log_changes: u64, done: f64) -> Progress {
        Progress { now, log_changes, done, awaited: false }
    }

    /// Materializes in 1,000 steps while the log grows by `changes` a second; returns the time it took, and the longest
    /// stretch without a pause.
    fn materialize(options: &ScheduleOptions, changes: u64, awaited: bool) -> (Duration, Duration) {
        let start = Instant::now();
        let (mut now, mut stretch, mut longest) = (start, Duration::ZERO, Duration::ZERO);
        let mut pace = Pace::new(options, start, 0);
        for step in 1..=1_000_u32 {
            now += STEP;
            stretch += STEP;
            longest = longest.max(stretch);
            let passed = u64::try_from((now - start).as_millis()).unwrap_or(u64::MAX);
            let log_changes = changes * passed / 1_000;
            let done = f64::from(step) / 1_000.0;
            if let Some(pause) = pace.pause(STEP, Progress { awaited, ..progress(now, log_changes, done) }) {
                now += pause;
                stretch = Duration::ZERO;
            }
        }
        (now - start, longest)
    }

    #[test]
    fn where_there_is_time_a_tenth_of_it_is_worked() {
        let (took, longest) = materialize(&ScheduleOptions::default(), 1_000, false);
        assert!((Duration::from_millis(9_900)..Duration::from_millis(10_100)).contains(&took), "{took:?}");
        assert_eq!(longest, STEP);
    }

    #[test]
    fn a_log_that_nears_its_limit_is_outrun() {
        let options = ScheduleOptions::default();
        let changes = options.deadline() / 4;
        let (took, _) = materialize(&options, changes, false);
        assert!((Duration::from_millis(3_500)..Duration::from_millis(4_050)).contains(&took), "{took:?}");
    }

    #[test]
    fn the_interval_is_kept_too() {
        let options = ScheduleOptions { interval: Some(Duration::from_secs(8)), ..ScheduleOptions::default() };
        let (took, _) = materialize(&options, 0, false);
        assert!((Duration::from_millis(3_500)..Duration::from_millis(4_050)).contains(&took), "{took:?}");
    }

    #[test]
    fn nobody_who_waits_for_the_end_waits_for_a_pause() {
        let (took, _) = materialize(&ScheduleOptions::default(), 0, true);
        assert_eq!(took, 1_000 * STEP);
    }

    #[test]
    fn a_machine_too_slow_for_the_deadline_works_without_a_pause() {
        let options = ScheduleOptions::default();
        let (took, _) = materialize(&options, options.deadline() * 2, false);
        assert_eq!(took, 1_000 * STEP);
    }
}

//! Decides when to materialize. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::setting::{Kind, options};

/// Share of the replay limit at which a materialization begins, so that it is over before the limit is reached.
const BEGIN_AT: f64 = 0.5;

/// Share of the replay limit at which a materialization is over, so that no write waits for it.
const END_AT: f64 = 0.9;

/// Longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

options! {
    /// Settings of one backend's materialization.
    #[derive(Debug, Clone, PartialEq)]
    pub struct ScheduleOptions {
        /// Time between two materializations; `None` if they come only on request and by replay time.
        pub interval: Option<Duration> = from(Periodic);
        /// How long the replay of a changelog may take, as estimated. A materialization begins at half of it; at the
        /// limit the writer waits for one.
        pub max_replay: Duration = option("recovery.max-replay-time", Materialization 3, Kind::AT_LEAST_1_S, "1 min");
        /// State changes that a replay does in a second, for that estimate.
        pub replay_rate: f64 =
            option("recovery.replay-rate", Materialization 4, Kind::Integer { min: 1, max: 1 << 30 }, "500000");
    }
}

options! {
    /// The two options that say when backends materialize by time.
    struct Periodic {
        /// Whether backends materialize by time. Without it they do on request and before a replay gets too long.
        enabled: bool = option("state.changelog.periodic-materialize.enabled", Materialization 1, Kind::Flag, "true");
        /// Time between two materializations of a backend; the first comes at a random moment within it.
        interval: Duration =
            option("state.changelog.periodic-materialize.interval", Materialization 2, Kind::AT_LEAST_1_S, "10 min");
    }
}

impl From<Periodic> for Option<Duration> {
    fn from(periodic: Periodic) -> Self {
        periodic.enabled.then_some(periodic.interval)
    }
}

impl ScheduleOptions {
    /// The estimated time to replay so many changes.
    #[must_use]
    pub fn replay_time(&self, log_changes: u64) -> Duration {
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let seconds = log_changes as f64 / self.replay_rate;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// Whether a replay of so many changes comes near the limit, so that a materialization must begin.
    #[must_use]
    pub fn is_near_limit(&self, log_changes: u64) -> bool {
        self.replay_time(log_changes) >= self.max_replay.mul_f64(BEGIN_AT)
    }

    /// The number of changes in the log by which a materialization should be over.
    #[must_use]
    pub fn deadline(&self) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, and not negative")]
        let changes = (self.max_replay.as_secs_f64() * self.replay_rate * END_AT) as u64;
        changes
    }

    /// Whether a replay of so many changes reaches the limit, so that writes must wait for a materialization.
    #[must_use]
    pub fn is_at_limit(&self, log_changes: u64) -> bool {
        self.replay_time(log_changes) >= self.max_replay
    }
}

/// The facts that a decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The present moment.
    pub now: Instant,
    /// Whether anything changed since the newest materialization.
    pub changed: bool,
    /// Changes that a restore would replay.
    pub log_changes: u64,
    /// Whether a client or operator asked for a materialization.
    pub requested: bool,
    /// Whether the state lies in so many places that the list of them is a burden by itself.
    pub scattered: bool,
}

/// Decides when one backend materializes.
#[derive(Debug, Clone)]
pub struct Schedule {
    options: ScheduleOptions,
    due: Option<Instant>,
    not_before: Instant,
    failures: u32,
}

impl Schedule {
    /// The first materialization comes within the interval, at `fraction` of it, so that backends do not all begin
    /// together.
    #[must_use]
    pub fn new(options: ScheduleOptions, now: Instant, fraction: f64) -> Self {
        let due = options.interval.map(|interval| now + interval.mul_f64(fraction.clamp(0.0, 1.0)));
        Self { options, due, not_before: now, failures: 0 }
    }

    /// Whether to begin a materialization now.
    #[must_use]
    pub fn is_due(&self, facts: Facts) -> bool {
        // A caller waits, so neither the pause after a failure nor an unchanged state holds it up.
        if facts.requested {
            return true;
        }
        let by_time = self.due.is_some_and(|due| due <= facts.now);
        let by_length = self.options.is_near_limit(facts.log_changes);
        facts.changed && self.not_before <= facts.now && (by_time || by_length || facts.scattered)
    }

    /// When to ask again if nothing happens before.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let due = self.due.map(|due| due.max(self.not_before));
        due.filter(|due| *due > now).or_else(|| (self.not_before > now).then_some(self.not_before))
    }

    /// Notes that a materialization was made, or that there was nothing to do.
    pub fn succeeded(&mut self, now: Instant) {
        self.failures = 0;
        self.due = self.options.interval.map(|interval| now + interval);
    }

    /// Notes that a materialization failed: the next comes after a pause that grows with each failure.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        // 2 s after the first failure, doubled with each one; the exponent is bounded before the shift.
        let pause = Duration::from_secs(1).saturating_mul(1 << self.failures.min(6)).min(LONGEST_PAUSE);
        self.not_before = now + pause;
    }

    /// Number of failures since the last success.
    #[must_use]
    pub fn consecutive_failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(now: Instant, log_changes: u64) -> Facts {
        Facts { now, changed: log_changes > 0, log_changes, requested: false, scattered: false }
    }

    #[tokio::test(start_paused = true)]
    async fn begins_within_the_interval_and_skips_when_nothing_changed() {
        let (start, options) = (Instant::now(), ScheduleOptions::default());
        let mut schedule = Schedule::new(options, start, 0.5);
        assert!(!schedule.is_due(facts(start, 5)));
        let later = start + Duration::from_secs(300);
        assert!(!schedule.is_due(facts(later, 0)));
        assert!(schedule.is_due(facts(later, 5)));
        schedule.succeeded(later);
        assert_eq!(schedule.next(later), Some(later + Duration::from_secs(600)));
        assert!(!schedule.is_due(facts(later, 5)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_replay_or_a_request_does_not_wait_for_the_interval() {
        let start = Instant::now();
        let schedule = Schedule::new(ScheduleOptions::default(), start, 1.0);
        assert!(!schedule.is_due(facts(start, 14_999_999)));
        assert!(schedule.is_due(facts(start, 15_000_000)), "30 s at 0.5 M/s");
        assert!(schedule.is_due(Facts { requested: true, ..facts(start, 0) }));
        assert!(schedule.is_due(Facts { scattered: true, ..facts(start, 5) }));
        let options = ScheduleOptions::default();
        assert!(!options.is_at_limit(29_999_999));
        assert!(options.is_at_limit(30_000_000), "60 s at 0.5 M/s");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_pause_longer_each_time_and_are_forgotten_after_a_success() {
        let start = Instant::now();
        let mut schedule = Schedule::new(ScheduleOptions::default(), start, 0.0);
        schedule.failed(start);
        schedule.failed(start);
        assert_eq!(schedule.consecutive_failures(), 2);
        assert!(!schedule.is_due(facts(start + Duration::from_secs(3), 5)));
        assert!(schedule.is_due(facts(start + Duration::from_secs(4), 5)));
        for _ in 0..40 {
            schedule.failed(start);
        }
        assert_eq!(schedule.next(start), Some(start + LONGEST_PAUSE));
        schedule.succeeded(start);
        assert_eq!(schedule.consecutive_failures(), 0);
    }
}

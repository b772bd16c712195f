//! The wall clock, injected. It only tells the time of day. Delays and deadlines use tokio's clock, which tests pause.
//!
//! A daemon's clock is [`steady`](Clock::steady): when the system's clock jumps far ahead or back, the jump is logged
//! and the time that backends see does not jump.

mod steady;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

pub use self::steady::Step;
use self::steady::{SLOWED, Steady};
use crate::types::TimeMs;

/// Tells the wall-clock time. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> TimeMs + Send + Sync>);

impl Clock {
    /// The system's clock. A time before 1970 reads as 0.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is where everybody else gets it from")]
    pub fn system() -> Self {
        Self::new(|| {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
        })
    }

    /// A clock that follows `wall` as long as `wall` runs at about the speed of `elapsed`, which never jumps. `on_step`
    /// is called for each jump of `wall`.
    #[must_use]
    pub fn steady(
        wall: Self,
        elapsed: impl Fn() -> Duration + Send + Sync + 'static,
        on_step: impl Fn(Step) + Send + Sync + 'static,
    ) -> Self {
        let ms = move || u64::try_from(elapsed().as_millis()).unwrap_or(u64::MAX);
        let state = Mutex::new(Steady::new(wall.now_ms(), ms()));
        Self::new(move || {
            let (now, step) = {
                let mut state = state.lock();
                let step = state.observe(wall.now_ms(), ms());
                (state.now(), step)
            };
            // Told without the lock, since the receiver may ask for the time.
            if let Some(step) = step {
                on_step(step);
            }
            now
        })
    }

    /// The system's wall clock, made [`steady`](Self::steady) by the monotonic clock.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "a clock runs before there is a runtime")]
    pub fn steady_system(on_step: impl Fn(Step) + Send + Sync + 'static) -> Self {
        let began = Instant::now();
        Self::steady(Self::system(), move || began.elapsed(), on_step)
    }

    /// A clock that calls `now` for the time.
    #[must_use]
    pub fn new(now: impl Fn() -> TimeMs + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Milliseconds since the Unix epoch. May go back, as wall clocks do.
    #[must_use]
    pub fn now_ms(&self) -> TimeMs {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// The time of one backend, which never goes back. A state that was last changed on a host with a fast clock may be
/// ahead of this host's clock. Then its time runs a little slower than the clock until the clock has caught up. Pure.
#[derive(Debug, Clone, Copy, Default)]
pub struct OwnTime {
    now: TimeMs,
    /// The time of the clock at the last call of `pass`.
    clock: TimeMs,
}

impl OwnTime {
    /// Time that begins at `now`, while the clock shows `clock`.
    #[must_use]
    pub fn new(now: TimeMs, clock: TimeMs) -> Self {
        Self { now, clock }
    }

    /// The time at the last call of [`pass`](Self::pass).
    #[must_use]
    pub fn now(&self) -> TimeMs {
        self.now
    }

    /// Moves on to the moment at which the clock shows `clock`, and returns the new time.
    pub fn pass(&mut self, clock: TimeMs) -> TimeMs {
        // The clock has caught up, or was never behind: the own time is that of the clock.
        if clock >= self.now {
            (self.now, self.clock) = (clock, clock);
            return clock;
        }
        // Whole steps only; the remainder stays in `self.clock`, so that short steps add up.
        let steps = clock.saturating_sub(self.clock) / SLOWED;
        self.clock = self.clock.min(clock) + steps * SLOWED;
        self.now += steps * (SLOWED - 1);
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_is_ahead_of_its_clock_goes_on_until_that_has_come_up() {
        let mut time = OwnTime::new(100_000, 1_000);
        let mut last = 0;
        for clock in (1_000..=33_000).step_by(5) {
            let now = time.pass(clock);
            assert!(now >= last);
            last = now;
        }
        assert_eq!(last, 100_000 + 31_000);
        assert_eq!(time.pass(500), last, "the clock goes back");
        assert_eq!(time.pass(1_140), last + 20 * 31);
        assert_eq!(time.pass(10_000_000), 10_000_000);
        assert_eq!(time.now(), 10_000_000);
    }

    #[test]
    fn a_step_is_told_once_and_not_believed() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let (wall, passed, steps) = (Arc::new(AtomicU64::new(5_000)), Arc::new(AtomicU64::new(0)), Arc::default());
        let told: Arc<Mutex<Vec<Step>>> = Arc::clone(&steps);
        let (of_wall, of_passed) = (wall.clone(), passed.clone());
        let clock = Clock::steady(
            Clock::new(move || of_wall.load(Ordering::Relaxed)),
            move || Duration::from_millis(of_passed.load(Ordering::Relaxed)),
            move |step| told.lock().push(step),
        );
        assert_eq!(clock.now_ms(), 5_000);
        wall.store(9_000_000, Ordering::Relaxed);
        passed.store(100, Ordering::Relaxed);
        assert_eq!((clock.now_ms(), clock.now_ms()), (5_100, 5_100));
        assert_eq!(steps.lock().len(), 1);
    }
}

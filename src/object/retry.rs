//! Retries of requests to the store: when to give up, when to try again, and how long to wait for an answer.
//!
//! The decisions are pure: [`RetryOptions::delay`], [`RetryOptions::timeout`] and [`Retry::allows`]. `Retrier::run`
//! executes them:
//!
//! * A failed attempt is followed by a pause that doubles up to a limit, half of it random.
//! * An attempt that timed out is followed by the next one at once, since the time-out was pause enough. Each time-out
//!   doubles the time that the next attempt may take (up to eight times), so that a store slower than assumed can still
//!   be used.
//! * No attempt starts at or after the deadline, and none continues beyond it.

use std::{future::Future, num::NonZeroU32, sync::Arc, time::Duration};

use object_store::path::Path;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{AttemptError, Operation, StoreError, metered::StoreMetrics, pace::Pace};
use crate::{
    random::Random,
    setting::{Kind, options},
};

/// Number of time-outs after which the time of an attempt is no longer doubled.
const MAX_DOUBLINGS: u32 = 3;

/// From this attempt on, failures are logged at each power of two.
const FIRST_LOGGED_ATTEMPT: u32 = 4;

options! {
    /// Pauses, time-outs and rate of requests to the store.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct RetryOptions {
        /// Delay before the first repetition of an upload; it doubles with each. Uploads are repeated until the
        /// checkpoint's timeout, where Flink gives up after 3 attempts.
        pub first_delay: Duration =
            option("state.changelog.dstl.dfs.upload.next-attempt-delay", Transfer 4, Kind::AT_LEAST_1_MS, "100 ms");
        /// Longest delay between two attempts of an upload.
        pub longest_delay: Duration =
            option("state.changelog.dstl.dfs.upload.max-attempt-delay", Transfer 5, Kind::AT_LEAST_1_MS, "5 s");
        /// Timeout of one attempt of a small upload; it grows with the size. Flink's default is 1 s whatever the size.
        pub attempt_timeout: Duration = option(
            "state.changelog.dstl.dfs.upload.timeout", Transfer 3,
            Kind::Duration { min: Duration::from_millis(10) }, "5 s",
        );
        /// Each so many bytes of a request allow it one more second; 0 counts as 1.
        pub slowest_bytes_per_second: u64 = plain(1 << 20);
        /// Most requests that this daemon makes of the store in a second, over all its backends, repetitions included;
        /// what is beyond waits. `0` is no limit. Not in Flink.
        pub max_requests_per_second: Option<NonZeroU32> = option(
            "state.changelog.dstl.dfs.max-requests-per-second", Transfer 7,
            Kind::Integer { min: 0, max: 1_000_000 }, "0",
        );
    }
}

impl RetryOptions {
    /// The pause after `failures` failed attempts (from 1). It is `first_delay`, doubled for each further failure, at
    /// most `longest_delay`. Its upper half is scaled by `fraction`, from 0 to 1.
    #[must_use]
    pub fn delay(&self, failures: u32, fraction: f64) -> Duration {
        // A shift of a u32 by 32 or more would overflow.
        let doublings = failures.saturating_sub(1).min(31);
        let full = self.first_delay.saturating_mul(1 << doublings).min(self.longest_delay);
        full.mul_f64(0.5 + fraction.clamp(0.0, 1.0) / 2.0)
    }

    /// Longest time to wait for a request that moves `bytes`, after `timeouts` earlier attempts that timed out.
    #[must_use]
    pub fn timeout(&self, bytes: u64, timeouts: u32) -> Duration {
        let transfer_ms = bytes.saturating_mul(1000) / self.slowest_bytes_per_second.max(1);
        let patience = self.attempt_timeout.saturating_add(Duration::from_millis(transfer_ms));
        patience.saturating_mul(1 << timeouts.min(MAX_DOUBLINGS))
    }
}

/// How long one call keeps trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    deadline: Option<Instant>,
    attempts: Option<u32>,
}

impl Retry {
    /// Makes a single attempt.
    #[must_use]
    pub fn none() -> Self {
        Self::forever().at_most(1)
    }

    /// Tries again until an attempt succeeds.
    #[must_use]
    pub fn forever() -> Self {
        Self { deadline: None, attempts: None }
    }

    /// Tries again until `deadline` on tokio's clock. If the deadline has passed, makes no attempt at all.
    #[must_use]
    pub fn until(deadline: Instant) -> Self {
        Self { deadline: Some(deadline), attempts: None }
    }

    /// Sets a limit of `attempts` attempts, the first included.
    #[must_use]
    pub fn at_most(self, attempts: u32) -> Self {
        Self { attempts: Some(attempts), ..self }
    }

    /// Whether another attempt may start at `at` after `made` attempts.
    #[must_use]
    pub fn allows(&self, made: u32, at: Instant) -> bool {
        self.attempts.is_none_or(|most| made < most) && self.deadline.is_none_or(|deadline| at < deadline)
    }
}

/// Why an attempt gave no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another attempt cannot help.
    Final(StoreError),
    /// Another attempt may help.
    Again(AttemptError),
}

/// The time that one attempt may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    options: RetryOptions,
    deadline: Option<Instant>,
    timeouts: u32,
}

impl Bound {
    /// Waits until `requests` more may be made, at most until the deadline.
    pub(super) async fn admitted(self, pace: &Pace, requests: u32) -> Result<(), AttemptError> {
        let Some(deadline) = self.deadline else {
            pace.admit(requests).await;
            return Ok(());
        };
        timeout_at(deadline, pace.admit(requests)).await.map_err(|_| AttemptError::Held)
    }

    /// Runs one request that moves `bytes`, and drops it when its time is up. Cancel-safe if `request` is.
    pub(super) async fn within<T>(
        self,
        bytes: u64,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, AttemptError> {
        let mut patience = self.options.timeout(bytes, self.timeouts);
        if let Some(deadline) = self.deadline {
            // No attempt continues beyond the deadline. A create that is dropped here may still take effect at the
            // store.
            patience = patience.min(deadline.saturating_duration_since(Instant::now()));
        }
        match timeout(patience, request).await {
            Ok(answer) => answer.map_err(AttemptError::Store),
            Err(_) => Err(AttemptError::Timeout { after: patience }),
        }
    }
}

/// Runs attempts as [`Retry`] and [`RetryOptions`] decide.
#[derive(Debug)]
pub(super) struct Retrier {
    options: RetryOptions,
    random: Random,
    metrics: StoreMetrics,
    /// Time and text of the newest failed attempt.
    trouble: Mutex<Option<(Instant, String)>>,
}

impl Retrier {
    pub(super) fn new(options: RetryOptions, random: Random, metrics: StoreMetrics) -> Self {
        Self { options, random, metrics, trouble: Mutex::default() }
    }

    /// The newest failed attempt at any request, if it was at or after `since`: how long ago it was, and its error.
    pub(super) fn trouble(&self, since: Instant) -> Option<(Duration, String)> {
        let trouble = self.trouble.lock();
        let (at, text) = trouble.as_ref().filter(|(at, _)| *at >= since)?;
        Some((at.elapsed(), text.clone()))
    }

    /// Calls `attempt` until it succeeds, fails for good, or `retry` allows no more. Returns the answer and the number
    /// of attempts made. As cancel-safe as `attempt` is.
    pub(super) async fn run<T, F>(
        &self,
        operation: Operation,
        path: &Path,
        retry: Retry,
        mut attempt: impl FnMut(Bound) -> F + Send,
    ) -> Result<(T, u32), StoreError>
    where
        F: Future<Output = Result<T, Failure>> + Send,
    {
        let mut attempts = 0;
        let mut timeouts = 0;
        let mut last = AttemptError::DeadlinePassed;
        // Also before the first attempt: a deadline that has passed allows none.
        while retry.allows(attempts, Instant::now()) {
            attempts += 1;
            let bound = Bound { options: self.options, deadline: retry.deadline, timeouts };
            let pause = match attempt(bound).await {
                Ok(answer) => return Ok((answer, attempts)),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(error)) => {
                    let timed_out = matches!(error, AttemptError::Timeout { .. });
                    timeouts += u32::from(timed_out);
                    *self.trouble.lock() = Some((Instant::now(), format!("{operation} of `{path}`: {error}")));
                    last = error;
                    // Random, so that the callers that failed together in an outage do not come back together.
                    if timed_out { Duration::ZERO } else { self.options.delay(attempts, self.random.fraction()) }
                }
            };
            if attempts >= FIRST_LOGGED_ATTEMPT && attempts.is_power_of_two() {
                tracing::warn!(%operation, %path, attempts, error = %last, "the object store does not answer");
            }
            // Gives up now instead of sleeping until a moment at which no attempt may start.
            if !retry.allows(attempts, Instant::now() + pause) {
                break;
            }
            self.metrics.retried(operation);
            sleep(pause).await;
        }
        Err(StoreError::Unavailable { path: path.clone(), operation, attempts, source: Arc::new(last) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::metrics::Metrics;

    const SECOND: Duration = Duration::from_secs(1);

    fn retrier() -> Retrier {
        Retrier::new(RetryOptions::default(), Random::seeded(1), StoreMetrics::register(&Metrics::new()))
    }

    fn failure() -> Failure {
        Failure::Again(AttemptError::Vanished)
    }

    /// Fails `failures` times, then answers. Returns the answer and the number of calls.
    async fn flaky(failures: u32, retry: Retry) -> (Result<(u32, u32), StoreError>, u32) {
        let calls = AtomicU32::new(0);
        let answer = retrier()
            .run(Operation::Get, &Path::from("a"), retry, |_| {
                let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
                async move { if call > failures { Ok(call) } else { Err(failure()) } }
            })
            .await;
        (answer, calls.load(Ordering::Relaxed))
    }

    #[test]
    fn delays_double_up_to_the_longest_and_half_of_each_is_random() {
        let options = RetryOptions::default();
        let delays: Vec<_> = (1..=8).map(|n| options.delay(n, 1.0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(options.delay(1, 0.0), Duration::from_millis(50));
        assert_eq!(options.delay(u32::MAX, 0.5), Duration::from_millis(3750));
    }

    #[test]
    fn patience_grows_with_size_and_with_time_outs() {
        let options = RetryOptions::default();
        assert_eq!(options.timeout(0, 0), 5 * SECOND);
        assert_eq!(options.timeout(10 << 20, 0), 15 * SECOND);
        assert_eq!(options.timeout(10 << 20, 1), 30 * SECOND);
        assert_eq!(options.timeout(0, 100), 40 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn no_retry_means_one_attempt() {
        let (answer, calls) = flaky(1, Retry::none()).await;
        assert!(matches!(answer, Err(StoreError::Unavailable { attempts: 1, .. })));
        assert_eq!(calls, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn succeeds_on_the_attempt_after_the_failures() {
        let (answer, calls) = flaky(6, Retry::forever()).await;
        assert_eq!(answer.unwrap(), (7, 7));
        assert_eq!(calls, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn stops_after_the_attempts_that_are_allowed() {
        let (answer, calls) = flaky(9, Retry::forever().at_most(3)).await;
        assert!(matches!(answer, Err(StoreError::Unavailable { attempts: 3, .. })));
        assert_eq!(calls, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_followed_by_a_pause() {
        let start = Instant::now();
        flaky(1, Retry::forever()).await.0.unwrap();
        let pause = start.elapsed();
        assert!((50..=101).contains(&pause.as_millis()), "{pause:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_when_no_attempt_can_start_before_the_deadline() {
        let start = Instant::now();
        let (answer, calls) = flaky(u32::MAX, Retry::until(start + 10 * SECOND)).await;
        assert!(matches!(answer, Err(StoreError::Unavailable { .. })));
        assert!(calls > 5);
        assert!(start.elapsed() <= 10 * SECOND);
        let (answer, calls) = flaky(0, Retry::until(start)).await;
        assert!(matches!(answer, Err(StoreError::Unavailable { attempts: 0, .. })));
        assert_eq!(calls, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_out_is_followed_at_once_by_a_more_patient_attempt() {
        let start = Instant::now();
        let answer: Result<((), u32), _> = retrier()
            .run(Operation::Get, &Path::from("a"), Retry::until(start + 100 * SECOND).at_most(3), |bound| async move {
                bound.within(0, std::future::pending()).await.map_err(Failure::Again)
            })
            .await;
        assert!(matches!(answer, Err(StoreError::Unavailable { attempts: 3, .. })));
        assert_eq!(start.elapsed().as_secs(), 5 + 10 + 20);
    }

    #[tokio::test(start_paused = true)]
    async fn no_attempt_outlives_the_deadline() {
        let start = Instant::now();
        let answer: Result<((), u32), _> = retrier()
            .run(Operation::Get, &Path::from("a"), Retry::until(start + 7 * SECOND), |bound| async move {
                bound.within(100 << 20, std::future::pending()).await.map_err(Failure::Again)
            })
            .await;
        assert!(matches!(answer, Err(StoreError::Unavailable { attempts: 1, .. })));
        assert_eq!(start.elapsed().as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_failure_is_told_to_those_who_began_before_it() {
        let (retrier, start) = (retrier(), Instant::now());
        assert_eq!(retrier.trouble(start), None);
        let fails = |_| async { Err::<(), _>(failure()) };
        sleep(SECOND).await;
        retrier.run(Operation::Create, &Path::from("a"), Retry::none(), fails).await.unwrap_err();
        sleep(SECOND).await;
        let (ago, text) = retrier.trouble(start).unwrap();
        assert_eq!(ago, SECOND);
        assert!(text.starts_with("create of `a`: "), "{text}");
        assert_eq!(retrier.trouble(Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_final_failure_is_not_retried() {
        let calls = AtomicU32::new(0);
        let answer: Result<((), u32), _> = retrier()
            .run(Operation::Get, &Path::from("a"), Retry::forever(), |_| {
                calls.fetch_add(1, Ordering::Relaxed);
                async { Err(Failure::Final(StoreError::NotFound { path: Path::from("a") })) }
            })
            .await;
        assert!(matches!(answer, Err(StoreError::NotFound { .. })));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}

//! The rate of all requests that one process sends to its store.
//!
//! * **A limit**, if one is configured. Requests are spread evenly. After a rest, the requests of [`BURST`] may go at
//!   once.
//! * **A pause**, if the store asked for one (`Retry-After`). No request is sent before it ends. The requests that
//!   waited begin within [`SPREAD`] of its end, not all at once.
//!
//! A request that waits here has not been sent. The wait counts against the deadline of the call, but it is neither
//! counted as a request nor as a time-out.

use std::{
    num::NonZeroU32,
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, sleep_until};

use crate::{metrics::Metrics, random::Random};

/// The part of the limit that may be used at once after a rest.
const BURST: Duration = Duration::from_millis(100);

/// The time over which waiting requests are spread after a pause.
const SPREAD: Duration = Duration::from_secs(1);

/// The longest pause that a store is granted. A store that wants a longer one can ask again then.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The pace of one store.
#[derive(Debug)]
pub(super) struct Pace {
    limit: Option<NonZeroU32>,
    state: Mutex<State>,
    random: Random,
    waited: Counter<f64, AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    /// The time at which all admitted requests would be through if they were spread evenly.
    through: Option<Instant>,
    paused_until: Option<Instant>,
}

impl Pace {
    /// At most `limit` requests a second, if there is a limit. Registers its metric; `random` spreads the requests that
    /// waited for the end of a pause.
    pub(super) fn new(limit: Option<NonZeroU32>, metrics: &Metrics, random: Random) -> Self {
        let waited = metrics.register(
            "object_paced_seconds",
            "Time that requests waited before they were sent, for the limit or as the store asked for a pause",
            Counter::default(),
        );
        Self { limit, state: Mutex::default(), random, waited }
    }

    /// The most requests a second, if there is a limit.
    pub(super) fn limit(&self) -> Option<NonZeroU32> {
        self.limit
    }

    /// Waits until `requests` more may be made. A caller that is dropped while it waits may have used up its turn.
    pub(super) async fn admit(&self, requests: u32) {
        let mut may_be_late = false;
        loop {
            // Ordering: turns are taken after the pause. If callers took them before it, they would all be due at its
            // end.
            while let Some(end) = self.paused_until() {
                self.wait_until(end + SPREAD.mul_f64(self.random.fraction())).await;
            }
            // The turn is taken once. If the wait for it is interrupted by a pause, another one is taken after the
            // pause, and this one is lost, which only makes the pace a little slower.
            let (now, turn) = self.take_turn(requests);
            if turn <= now {
                return;
            }
            self.wait_until(turn).await;
            // Callers that a stalled process wakes late are all due at once. Each takes another turn, or they would
            // exceed the limit together; but only one, since in a process that is always late none would ever go.
            if turn.elapsed() > BURST && !may_be_late {
                may_be_late = true;
                continue;
            }
            // The store may have asked for a pause while this caller waited for its turn.
            if self.paused_until().is_none() {
                return;
            }
        }
    }

    /// Counts `requests` that were made without admission: later requests wait for them.
    pub(super) fn charge(&self, requests: u32) {
        self.take_turn(requests);
    }

    /// Holds all requests for `pause`, but at most for [`LONGEST_PAUSE`]. If a longer pause is under way, it stays.
    pub(super) fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause.min(LONGEST_PAUSE);
        let mut state = self.state.lock();
        // `None` is below every time, so the first pause counts as it is.
        state.paused_until = state.paused_until.max(Some(until));
    }

    fn paused_until(&self) -> Option<Instant> {
        self.state.lock().paused_until.filter(|until| *until > Instant::now())
    }

    /// Reserves the next turn for `requests`. Returns the present time, and the time of the turn.
    fn take_turn(&self, requests: u32) -> (Instant, Instant) {
        let now = Instant::now();
        let Some(limit) = self.limit else { return (now, now) };
        let mut state = self.state.lock();
        // Never in the past: a long rest saves up no more than one burst.
        let begin = state.through.map_or(now, |through| through.max(now));
        state.through = Some(begin + Duration::from_secs(u64::from(requests)) / limit.get());
        (now, begin.checked_sub(BURST).map_or(now, |turn| turn.max(now)))
    }

    async fn wait_until(&self, at: Instant) {
        let begun = Instant::now();
        sleep_until(at).await;
        self.waited.inc_by(begun.elapsed().as_secs_f64());
    }
}

/// The pause that a `Retry-After` header with this value asks for: a number of seconds, or a time, seen from `now`.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(value.trim()).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::{sync::Arc, time::UNIX_EPOCH};

    use futures::future::join_all;

    use super::*;

    fn pace(limit: u32) -> (Arc<Pace>, Metrics) {
        let metrics = Metrics::new();
        (Arc::new(Pace::new(NonZeroU32::new(limit), &metrics, Random::seeded(1))), metrics)
    }

    /// The times at which `callers` that come at once are admitted, in milliseconds from now, sorted.
    async fn admitted(pace: &Pace, callers: usize) -> Vec<u128> {
        let begun = Instant::now();
        let mut times = join_all((0..callers).map(|_| async {
            pace.admit(1).await;
            begun.elapsed().as_millis()
        }))
        .await;
        times.sort_unstable();
        times
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nobody_waits() {
        let (pace, metrics) = pace(0);
        assert_eq!(admitted(&pace, 1000).await, vec![0; 1000]);
        pace.charge(1000);
        assert_eq!(admitted(&pace, 1).await, [0]);
        assert!(metrics.encode().contains("dstl_object_paced_seconds_total 0.0\n"), "{}", metrics.encode());
    }

    #[tokio::test(start_paused = true)]
    async fn in_no_second_more_are_let_through_than_the_limit_and_one_burst() {
        let (pace, metrics) = pace(50);
        let times = admitted(&pace, 500).await;
        for begin in &times {
            let within = times.iter().filter(|at| (*begin..*begin + 1000).contains(at)).count();
            assert!(within <= 56, "{within} from {begin} on");
        }
        // And not fewer than it allows.
        assert!((9_800..=10_000).contains(times.last().unwrap()), "{times:?}");
        let waited = metrics.encode();
        let waited = waited.lines().find_map(|line| line.strip_prefix("dstl_object_paced_seconds_total ")).unwrap();
        let all: u128 = times.iter().sum();
        assert!((waited.parse::<f64>().unwrap() * 1000.0 - all as f64).abs() < 1000.0, "{waited} s, {all} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_a_stalled_process_wakes_late_do_not_go_at_once() {
        let (pace, _) = pace(50);
        let begun = Instant::now();
        let callers = (0..30).map(|_| {
            let pace = pace.clone();
            tokio::spawn(async move {
                pace.admit(1).await;
                begun.elapsed().as_millis()
            })
        });
        let callers: Vec<_> = callers.collect();
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(2)).await;
        let times: Vec<u128> = join_all(callers).await.into_iter().map(Result::unwrap).collect();
        let at_once = times.iter().filter(|at| (2_000..2_010).contains(*at)).count();
        assert!(at_once <= 7, "{times:?}");
        assert!(times.iter().all(|at| *at <= 2_600), "{times:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_stands_for_many_takes_the_turns_of_all() {
        let (pace, _) = pace(10);
        pace.admit(20).await;
        assert_eq!(admitted(&pace, 2).await, [1900, 2000]);
        pace.charge(10);
        assert_eq!(admitted(&pace, 1).await, [1100]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_everybody_who_then_do_not_come_at_once() {
        for limit in [0, 1_000_000] {
            let (pace, _) = pace(limit);
            pace.pause(Duration::from_secs(3));
            // A shorter one does not end it.
            pace.pause(Duration::from_secs(1));
            let times = admitted(&pace, 100).await;
            assert!(times.iter().all(|at| (3_000..=4_001).contains(at)), "{times:?}");
            let first_half = times.iter().filter(|at| **at < 3_500).count();
            assert!((20..80).contains(&first_half), "{times:?}");
            assert_eq!(admitted(&pace, 1).await, [0]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_store_gets_a_pause_of_a_day() {
        let (pace, _) = pace(0);
        pace.pause(Duration::from_hours(24));
        assert!(admitted(&pace, 1).await[0] <= 31_000);
    }

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_until_a_time() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after(" 7 ", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:50:37 GMT", now), Some(Duration::from_mins(1)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:36 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
        assert_eq!(retry_after("-1", now), None);
    }
}

//! The sweep by schedule: a daemon sweeps the jobs of its backends at intervals.
//!
//! ```text
//!   backend opens ──▶ its job is swept each interval ──▶ last backend here closes ──grace──▶ swept once more ──▶ forgotten
//! ```
//!
//! The objects that the last backend left become garbage only when they are older than the grace, so the job is swept
//! once more after that. If a daemon stops before, the daemon that opens the job next does it, or `dstl gc`.
//!
//! If several daemons have backends of one job, one of them sweeps it at a time (`lease`). So a job is swept about once
//! per interval, however many daemons there are. A sweep runs beside everything else, and no caller waits for it. If
//! the store fails, the failure is counted, and the next interval tries again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{FirstSeen, SweepError, SweepOptions, SweepReport, lease::Lease, metrics::GcMetrics, sweep_on};
use crate::{
    object::{Retry, Store},
    random::Random,
    tasks::Tasks,
    types::Name,
};

/// Attempts of each request of a sweep.
const REQUEST_ATTEMPTS: u32 = 4;

/// Share of the interval by which it is varied, half of it in each direction.
const JITTER: f64 = 0.2;

/// Share of the interval for which a lease keeps others away. It is less than the shortest interval with jitter, so
/// that a daemon that has a job alone sweeps it every time.
const TERM: f64 = 0.5;

/// When to sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleOptions {
    /// Time between two sweeps of a job.
    pub interval: Duration,
    /// Objects younger than this, by the store's clock, stay.
    pub grace: Duration,
}

/// Sweeps jobs by schedule.
#[derive(Debug)]
pub struct Collector {
    store: Store,
    random: Random,
    tasks: Tasks,
    options: ScheduleOptions,
    metrics: GcMetrics,
    roster: Roster,
    /// For each job the objects whose time lies in the future.
    seen: BTreeMap<Name, FirstSeen>,
}

impl Collector {
    /// A collector that has not swept yet.
    #[must_use]
    pub fn new(store: Store, random: Random, tasks: Tasks, options: ScheduleOptions, metrics: GcMetrics) -> Self {
        Self { store, random, tasks, options, metrics, roster: Roster::default(), seen: BTreeMap::new() }
    }

    /// Sweeps until it is dropped. `jobs` returns the jobs that have an open backend, or had one since the last call.
    /// The first sweep comes at a random moment within the interval, so that daemons do not all begin together.
    /// Cancel-safe: if dropped, a part of the garbage may be deleted.
    pub async fn run(mut self, jobs: impl Fn() -> BTreeSet<Name> + Send) {
        // Daemons of a job start together, and would otherwise contend for each lease.
        sleep(self.options.interval.mul_f64(self.random.fraction())).await;
        loop {
            for job in self.roster.due(jobs(), Instant::now(), self.options.grace) {
                self.turn(&job).await;
            }
            let factor = 1.0 + JITTER * (self.random.fraction() - 0.5);
            sleep(self.options.interval.mul_f64(factor)).await;
        }
    }

    /// Sweeps one job, unless another daemon does.
    async fn turn(&mut self, job: &Name) {
        let started = Instant::now();
        // After a panic, the next turn comes as after a failure; other jobs are swept meanwhile.
        let tasks = self.tasks.clone();
        let swept = tasks.catch("a sweep", self.sweep(job)).await;
        match swept.unwrap_or_else(|panicked| Err(panicked.into())) {
            Ok(Some(report)) => {
                let (deleted, kept) = (report.deleted(), report.tally("kept"));
                self.metrics.completed(job, started.elapsed(), deleted);
                if deleted.objects > 0 {
                    tracing::info!(%job, objects = deleted.objects, bytes = deleted.bytes, kept = kept.objects, "swept");
                }
            }
            Ok(None) => self.metrics.skipped(job),
            Err(error) => {
                self.metrics.failed(job, started.elapsed());
                tracing::warn!(%job, %error, "the job was not swept");
                return;
            }
        }
        // Only after a success, or after another daemon's turn. A job whose last sweep failed stays on the roster.
        if self.roster.swept(job) {
            self.seen.remove(job);
            self.metrics.forgotten(job);
        }
    }

    async fn sweep(&mut self, job: &Name) -> Result<Option<SweepReport>, SweepError> {
        let retry = Retry::forever().at_most(REQUEST_ATTEMPTS);
        let term = self.options.interval.mul_f64(TERM);
        let Some(lease) = Lease::take(&self.store, job, term, &self.random, retry).await? else { return Ok(None) };
        let options = SweepOptions { grace: self.options.grace, now_ms: lease.now_ms, delete: true };
        let seen = self.seen.entry(job.clone()).or_default();
        let swept = sweep_on(&self.store, job, &options, seen, retry).await;
        // Also after a failed sweep: this lease is the newest, and the older ones say nothing more.
        lease.supersede(&self.store, retry).await;
        swept.map(Some)
    }
}

/// The jobs to sweep, each with the moment since when it has no open backend here. Pure.
#[derive(Debug, Default)]
struct Roster(BTreeMap<Name, Option<Instant>>);

impl Roster {
    /// The jobs that are due: all of `open`, and those that closed so long ago that all their objects are older than
    /// the grace.
    fn due(&mut self, open: BTreeSet<Name>, now: Instant, grace: Duration) -> Vec<Name> {
        for (job, closed) in &mut self.0 {
            if !open.contains(job) {
                // The first call that misses the job dates its closing; later ones must not postpone the last sweep.
                closed.get_or_insert(now);
            }
        }
        // Replaces the time of closing of a job that has opened again.
        self.0.extend(open.into_iter().map(|job| (job, None)));
        let is_due = |closed: &Option<Instant>| closed.is_none_or(|since| since + grace <= now);
        self.0.iter().filter(|(_, closed)| is_due(closed)).map(|(job, _)| job.clone()).collect()
    }

    /// Notes that `job` was swept; returns whether that was the last time.
    fn swept(&mut self, job: &Name) -> bool {
        let last = self.0.get(job).is_some_and(Option::is_some);
        if last {
            self.0.remove(job);
        }
        last
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<Name> {
        names.iter().map(|name| Name::new(name).unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_job_is_due_once_more_after_the_grace_until_that_succeeds() {
        let (mut roster, start) = (Roster::default(), Instant::now());
        let (grace, job) = (Duration::from_secs(100), Name::new("a").unwrap());
        let due = |roster: &mut Roster, open: &[&str], at: u64| {
            let due = roster.due(names(open), start + Duration::from_secs(at), grace);
            due.iter().map(Name::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(due(&mut roster, &["a", "b"], 0), "a b");
        assert!(!roster.swept(&job), "it is open");
        assert_eq!(due(&mut roster, &["b"], 10), "b");
        assert_eq!(due(&mut roster, &["b"], 109), "b");
        assert_eq!(due(&mut roster, &["b"], 110), "a b");
        assert_eq!(due(&mut roster, &["b"], 150), "a b", "it failed");
        assert!(roster.swept(&job));
        assert_eq!(due(&mut roster, &["b"], 500), "b");
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_opens_again_is_swept_as_before() {
        let (mut roster, now) = (Roster::default(), Instant::now());
        let grace = Duration::from_secs(100);
        roster.due(names(&["a"]), now, grace);
        assert!(roster.due(names(&[]), now, grace).is_empty());
        assert_eq!(roster.due(names(&["a"]), now, grace).len(), 1);
        assert!(!roster.swept(&Name::new("a").unwrap()));
    }
}

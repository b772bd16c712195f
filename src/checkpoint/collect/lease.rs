//! The lease of a scheduled sweep: of the daemons that have a job's backends, one at a time sweeps it.
//!
//! ```text
//!   <job>/sweeps/7  made at 12:00 ──▶ daemons that come within the term leave the job alone
//!   <job>/sweeps/8  made at 13:02 ──▶ create-if-absent: one of several daemons gets it, sweeps, deletes number 7
//! ```
//!
//! A lease only saves work. A sweep is safe beside others, so nothing depends on whether the holder is alive, how long
//! it takes, or whether the lease was deleted. A lease is never renewed or released; only the store's clock tells
//! whether its term is over. Each lease has a new name, so that a late holder does not touch the lease of its
//! successor.

use std::time::Duration;

use super::{SweepError, store_time};
use crate::{
    object::{
        Created, PutPayload, Retry, Store,
        layout::{self, ObjectName},
    },
    random::Random,
    types::{Name, TimeMs},
};

/// The permission to sweep a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    job: Name,
    /// The time by the store's clock just before it was taken.
    pub(super) now_ms: TimeMs,
    /// Numbers of the leases before it.
    older: Vec<u64>,
}

impl Lease {
    /// Takes the lease of `job`, unless there is one younger than `term`. Cancel-safe: if dropped, it may be taken.
    ///
    /// # Errors
    /// The error of the store.
    pub(super) async fn take(
        store: &Store,
        job: &Name,
        term: Duration,
        random: &Random,
        retry: Retry,
    ) -> Result<Option<Self>, SweepError> {
        // By the store's clock, and before the listing: the clocks of daemons may differ by more than a term.
        let now_ms = store_time(store, job, random, retry).await?;
        let mut older = vec![];
        for meta in store.list(&layout::sweep_leases(job), retry).await? {
            let Some(ObjectName::SweepLease { number, .. }) = ObjectName::parse(&meta.path) else { continue };
            // One lease in force is enough. The older ones are deleted by its holder.
            if is_in_force(meta.modified_ms, now_ms, term) {
                return Ok(None);
            }
            older.push(number);
        }
        let number = older.iter().max().map_or(1, |newest| newest.saturating_add(1));
        let path = ObjectName::SweepLease { job: job.clone(), number }.path();
        // Unique bytes, so that only the maker of the lease finds its own bytes there.
        let payload = PutPayload::from(random.uuid().to_string());
        match store.create(&path, payload, retry).await? {
            Created::New | Created::Identical => Ok(Some(Self { job: job.clone(), now_ms, older })),
            // Another daemon took this number at the same moment, and sweeps.
            Created::Conflict => Ok(None),
        }
    }

    /// Deletes the leases before this one, with few attempts; the next holder finds the remaining ones.
    pub(super) async fn supersede(self, store: &Store, retry: Retry) {
        let path = |number| ObjectName::SweepLease { job: self.job.clone(), number }.path();
        if let Err(error) = store.delete_all(self.older.iter().copied().map(path).collect(), retry).await {
            tracing::debug!(job = %self.job, %error, "leases of older sweeps stay for the next one");
        }
    }
}

/// Whether a lease made at `made_ms` is still in force. If it lies further in the future than any lease lasts, a wrong
/// clock made it, and it is not. Pure.
fn is_in_force(made_ms: TimeMs, now_ms: TimeMs, term: Duration) -> bool {
    Duration::from_millis(made_ms.abs_diff(now_ms)) < term
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use super::*;
    use crate::{
        clock::Clock,
        metrics::Metrics,
        object::{MemoryStore, Path, RetryOptions},
    };

    const TERM: Duration = Duration::from_secs(10);

    fn store() -> (Store, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(1_000_000));
        let clock = time.clone();
        let memory = Arc::new(MemoryStore::new(Clock::new(move || clock.load(Ordering::Relaxed))));
        let random = Random::seeded(1);
        (Store::new(memory, Path::default(), RetryOptions::default(), &Metrics::new(), random), time)
    }

    async fn take(store: &Store, random: &Random) -> Option<Lease> {
        Lease::take(store, &Name::new("job").unwrap(), TERM, random, Retry::none()).await.unwrap()
    }

    async fn leases(store: &Store) -> Vec<String> {
        let all = store.list(&Path::default(), Retry::none()).await.unwrap();
        all.into_iter().map(|meta| meta.path.to_string()).collect()
    }

    #[tokio::test]
    async fn one_from_the_future_lasts_no_longer_than_any_other() {
        let (store, time) = store();
        let first = take(&store, &Random::seeded(1)).await.unwrap();
        time.store(999_995, Ordering::Relaxed);
        assert_eq!(take(&store, &Random::seeded(2)).await, None, "a little ahead counts as now");
        time.store(500_000, Ordering::Relaxed);
        let second = take(&store, &Random::seeded(3)).await.unwrap();
        assert_eq!((first.older, second.older), (vec![], vec![1]));
    }

    #[tokio::test]
    async fn one_of_many_gets_it_and_the_next_only_after_its_term_by_the_stores_clock() {
        let (store, time) = store();
        let randoms: Vec<_> = (0..8).map(Random::seeded).collect();
        let all = futures::future::join_all(randoms.iter().map(|random| take(&store, random))).await;
        let taken: Vec<_> = all.into_iter().flatten().collect();
        assert_eq!(taken.iter().map(|lease| lease.now_ms).collect::<Vec<_>>(), [1_000_000]);
        time.store(1_009_999, Ordering::Relaxed);
        assert_eq!(take(&store, &Random::seeded(9)).await, None);
        // It was never released: its holder died, or has long finished.
        time.store(1_010_000, Ordering::Relaxed);
        let second = take(&store, &Random::seeded(9)).await.unwrap();
        assert_eq!(second.older, [1]);
        second.supersede(&store, Retry::none()).await;
        assert_eq!(leases(&store).await, ["job/sweeps/00000000000000000002"]);
    }
}

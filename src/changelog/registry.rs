//! The uploads of one daemon, with one worker per job: the backends of a job share segments, and different jobs do not.
//!
//! A job's worker and its metrics exist as long as a backend of the job does. A later worker of the job goes on with
//! the segment numbers of the instance. Segments that are still in flight from the earlier worker are named by no
//! backend of the later one, since the backends that submitted them have ended.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Deref,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::{
    metrics::UploadMetrics,
    squash::EntryOf,
    uploader::{Client, SegmentNumbers, UploadEdge, UploadOptions},
};
use crate::{object::Store, tasks::Tasks, types::Name};

/// Uploads by job. Cheap to clone.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    store: Store,
    tasks: Tasks,
    numbers: SegmentNumbers,
    options: UploadOptions,
    metrics: UploadMetrics,
    entry_of: EntryOf,
    jobs: Mutex<BTreeMap<Name, Weak<Entry>>>,
}

/// The uploads of one job. They end with the last of the values that [`Registry::of_job`] returned.
#[derive(Debug, Clone)]
pub struct JobUploads(Arc<Entry>);

struct Entry {
    job: Name,
    client: Client,
    registry: Weak<Inner>,
}

impl Registry {
    /// A registry without jobs. `entry_of` tells which changes overwrite others.
    #[must_use]
    pub fn new(
        store: Store,
        tasks: Tasks,
        numbers: SegmentNumbers,
        options: UploadOptions,
        metrics: UploadMetrics,
        entry_of: EntryOf,
    ) -> Self {
        Self(Arc::new(Inner { store, tasks, numbers, options, metrics, entry_of, jobs: Mutex::default() }))
    }

    /// The uploads of `job`, which are started if they do not run.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn of_job(&self, job: &Name) -> JobUploads {
        let Inner { store, tasks, numbers, options, metrics, entry_of, jobs } = &*self.0;
        // Dropped after the lock is released: dropping the last clone of an entry takes the lock.
        let found;
        let mut jobs = jobs.lock();
        found = jobs.get(job).and_then(Weak::upgrade);
        // A worker that has panicked is replaced, so that one bug does not end the job's uploads until the daemon
        // restarts. Its entry is kept alive by its holders, who find their tickets called.
        if let Some(entry) = found.as_ref().filter(|entry| !entry.client.has_ended()) {
            return JobUploads(entry.clone());
        }
        let edge = UploadEdge {
            store: store.clone(),
            tasks: tasks.clone(),
            numbers: numbers.clone(),
            metrics: metrics.of_job(job),
            entry_of: *entry_of,
        };
        // Started under the lock: two callers at once would otherwise start two workers, and the job's backends would
        // no longer share segments.
        let client = Client::start(job.clone(), options.clone(), edge);
        let entry = Arc::new(Entry { job: job.clone(), client, registry: Arc::downgrade(&self.0) });
        jobs.insert(job.clone(), Arc::downgrade(&entry));
        JobUploads(entry)
    }
}

impl Deref for JobUploads {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0.client
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Without the registry there is no list to leave.
        let Some(registry) = self.registry.upgrade() else { return };
        let mut jobs = registry.jobs.lock();
        // The job's uploads may have been started again meanwhile.
        if jobs.get(&self.job).is_some_and(|entry| entry.strong_count() == 0) {
            jobs.remove(&self.job);
            registry.metrics.forget(&self.job);
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({})", self.job)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.jobs.lock().keys()).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        metrics::Metrics,
        object::{MemoryStore, Path, RetryOptions},
        random::Random,
    };

    #[tokio::test]
    async fn uploads_and_series_of_a_job_go_with_the_last_who_has_them() {
        let (metrics, random) = (Metrics::new(), Random::seeded(1));
        let memory = Arc::new(MemoryStore::new(Clock::new(|| 5)));
        let store = Store::new(memory, Path::default(), RetryOptions::default(), &metrics, random.clone());
        let numbers = SegmentNumbers::new(random.uuid());
        let uploads = UploadMetrics::register(&metrics);
        let registry = Registry::new(store, Tasks::default(), numbers, UploadOptions::default(), uploads, |_| None);
        let jobs: Vec<Name> = ["a", "b"].iter().map(|job| Name::new(job).unwrap()).collect();
        let series = || metrics.encode().lines().filter(|line| line.contains("job=\"a\"")).count();
        let (one, _other) = (registry.of_job(&jobs[0]), registry.of_job(&jobs[1]));
        let same = registry.of_job(&jobs[0]);
        assert!(Arc::ptr_eq(&one.0, &same.0));
        drop(one);
        assert!(series() > 0);
        drop(same);
        assert_eq!((series(), registry.0.jobs.lock().len()), (0, 1));
        let again = registry.of_job(&jobs[0]);
        assert!(series() > 0);
        assert_eq!(again.low_water(), 1, "numbers go on");
    }
}

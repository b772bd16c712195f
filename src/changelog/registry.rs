//! The uploads of one daemon: one worker per job, so that the backends of a job share segments and different jobs do not.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;

use super::{
    metrics::UploadMetrics,
    uploader::{Client, SegmentNumbers, UploadEdge, UploadOptions},
};
use crate::{object::Store, tasks::Tasks, types::Name};

/// Uploads by job. Cheap to clone. A job's worker lives as long as the registry: segment numbers of an instance go on.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    store: Store,
    tasks: Tasks,
    numbers: SegmentNumbers,
    options: UploadOptions,
    metrics: UploadMetrics,
    jobs: Mutex<BTreeMap<Name, Client>>,
}

impl Registry {
    /// A registry without jobs.
    #[must_use]
    pub fn new(
        store: Store,
        tasks: Tasks,
        numbers: SegmentNumbers,
        options: UploadOptions,
        metrics: UploadMetrics,
    ) -> Self {
        Self(Arc::new(Inner { store, tasks, numbers, options, metrics, jobs: Mutex::default() }))
    }

    /// The uploads of `job`, started at the first call.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn of_job(&self, job: &Name) -> Client {
        let Inner { store, tasks, numbers, options, metrics, jobs } = &*self.0;
        let mut jobs = jobs.lock();
        if let Some(client) = jobs.get(job) {
            return client.clone();
        }
        let edge = UploadEdge {
            store: store.clone(),
            tasks: tasks.clone(),
            numbers: numbers.clone(),
            metrics: metrics.of_job(job),
        };
        let client = Client::start(job.clone(), options.clone(), edge);
        jobs.insert(job.clone(), client.clone());
        client
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.jobs.lock().keys()).finish()
    }
}

//! Simulated daemons: an environment each, over the one faulty store, and a way to die at any request to it or moment.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use dstl::{
    backend::{BackendMetrics, CreditPool, Directory, Environment, Turns},
    changelog::{
        batcher::BatchOptions,
        metrics::UploadMetrics,
        registry::Registry,
        uploader::{SegmentNumbers, UploadOptions},
    },
    checkpoint::job::Decisions,
    clock::Clock,
    metrics::Metrics,
    object::{Path, Store},
    random::Random,
    state::set_or_extended,
    tasks::Tasks,
};
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{plan::Plan, trace::Trace};

/// How wrong the clock of a daemon is, at most.
const SKEW_MS: u64 = 600_000;

/// Whether a daemon lives, and what dies with it.
#[derive(Debug, Default)]
pub(super) struct Life {
    dead: AtomicBool,
    died: Notify,
    tasks: Tasks,
    /// Dies at the request after so many.
    requests_left: Mutex<Option<u64>>,
}

impl Life {
    pub(super) fn is_over(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Ends the daemon at once: nothing that it began goes on.
    pub(super) fn crash(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.tasks.abort_all();
        self.died.notify_waiters();
    }

    pub(super) fn crash_at_request(&self, after: u64) {
        *self.requests_left.lock() = Some(after);
    }

    /// Waits until the daemon is dead.
    pub(super) async fn over(&self) {
        loop {
            let died = self.died.notified();
            if self.is_over() {
                return;
            }
            died.await;
        }
    }

    fn is_last_request(&self) -> bool {
        let mut left = self.requests_left.lock();
        if *left == Some(0) {
            return true;
        }
        *left = left.map(|left| left - 1);
        false
    }
}

/// One daemon.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) directory: Directory,
    pub(super) life: Arc<Life>,
}

/// What daemons run on.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    pub(super) store: Arc<dyn ObjectStore>,
    /// Of the network, not of a daemon.
    pub(super) tasks: Tasks,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) trace: Trace,
}

impl Host {
    pub(super) fn start(name: String, ground: &Ground, plan: &Plan) -> Self {
        let life = Arc::new(Life::default());
        let random = Random::seeded(ground.random.below(u64::MAX));
        let tap = Tap { ground: ground.clone(), life: life.clone(), name: name.clone() };
        let metrics = Metrics::new();
        let store = Store::new(Arc::new(tap), Path::default(), plan.retry, &metrics, random.clone());
        let instance = random.uuid();
        let options = UploadOptions {
            batch: BatchOptions { persist_delay: plan.persist_delay, persist_size_threshold: plan.segment_bytes },
            num_threads: plan.upload_threads,
            compression: plan.compression,
        };
        let (tasks, numbers) = (life.tasks.clone(), SegmentNumbers::new(instance));
        let metered = UploadMetrics::register(&metrics);
        let uploads = Registry::new(store.clone(), tasks.clone(), numbers, options, metered, set_or_extended);
        let directory = Directory::new(Environment {
            store,
            clock: skewed(&ground.clock, random.below(2 * SKEW_MS)),
            random,
            tasks,
            instance,
            options: Arc::new(plan.backend.clone()),
            uploads,
            credit: CreditPool::new(plan.credit_bytes, plan.backend.limits.max_message_bytes as u64),
            state_bytes: Arc::new(AtomicU64::new(0)),
            local: None,
            materializing: Turns::default(),
            decisions: Decisions::default(),
            idle: dstl::backend::Idle::default(),
            metrics: BackendMetrics::register(&metrics),
        });
        Self { name, directory, life }
    }
}

/// A clock of its own: wrong by up to [`SKEW_MS`] either way, and as fast as the store's.
fn skewed(clock: &Clock, ahead_ms: u64) -> Clock {
    let clock = clock.clone();
    Clock::new(move || clock.now_ms() + ahead_ms - SKEW_MS)
}

impl Drop for Host {
    fn drop(&mut self) {
        self.life.crash();
    }
}

/// The store as one daemon sees it: traced, and dead with the daemon.
#[derive(Debug, Clone)]
struct Tap {
    ground: Ground,
    life: Arc<Life>,
    name: String,
}

impl Tap {
    async fn pass<T: Send + 'static>(
        &self,
        operation: &str,
        path: Option<&Path>,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if self.life.is_over() {
            return std::future::pending().await;
        }
        let path = path.map_or("", |path| path.as_ref());
        self.ground.trace.note(|| format!("{} {operation} {path}", self.name));
        if self.life.is_last_request() {
            self.ground.trace.note(|| format!("{} crashes at this request", self.name));
            if self.ground.random.below(2) == 0 {
                self.ground.tasks.spawn(async move { drop(request.await) });
            }
            self.life.crash();
            return std::future::pending().await;
        }
        let result = request.await;
        if self.life.is_over() {
            return std::future::pending().await;
        }
        self.ground.trace.note(|| {
            let answer = result.as_ref().map_or_else(|error| error.to_string(), |_| "done".to_owned());
            format!("{} {operation} {path}: {answer}", self.name)
        });
        result
    }
}

impl fmt::Display for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store of {}", self.name)
    }
}

#[async_trait]
impl ObjectStore for Tap {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (store, path) = (self.ground.store.clone(), location.clone());
        self.pass("put", Some(location), async move { store.put_opts(&path, payload, options).await }).await
    }

    async fn put_multipart_opts(&self, path: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("multipart upload of {path}")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (store, path) = (self.ground.store.clone(), location.clone());
        self.pass("get", Some(location), async move { store.get_opts(&path, options).await }).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let tap = self.clone();
        let delete = move |location: Result<Path>| {
            let tap = tap.clone();
            async move {
                let location = location?;
                let (store, path) = (tap.ground.store.clone(), location.clone());
                tap.pass("delete", Some(&location), async move { store.delete(&path).await }).await?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (tap, store, prefix) = (self.clone(), self.ground.store.clone(), prefix.cloned());
        let listing = async move {
            let from = prefix.clone();
            let list = async move { Ok(store.list(from.as_ref()).collect::<Vec<_>>().await) };
            futures::stream::iter(tap.pass("list", prefix.as_ref(), list).await.unwrap_or_default())
        };
        futures::stream::once(listing).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (store, from) = (self.ground.store.clone(), prefix.cloned());
        self.pass("list", prefix, async move { store.list_with_delimiter(from.as_ref()).await }).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, _: CopyOptions) -> Result<()> {
        panic!("copy of {from} to {to}")
    }
}

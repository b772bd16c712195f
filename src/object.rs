//! The object store: whole, immutable objects that are created, read, listed and deleted.
//!
//! All access goes through [`Store`]. Callers name objects by paths relative to the store's base; only [`layout`] makes
//! and parses these paths. The store promises:
//!
//! * **Create-if-absent.** An object is never overwritten. If several callers create one path, exactly one of them
//!   wins. This is the only conditional write that dstl uses, because every store has it.
//! * **Ambiguity is resolved here.** When a create gets no answer, or an answer that leaves its outcome open, the store
//!   tries the identical bytes again. When another object is in the way, the store reads it and compares. The caller
//!   learns whether *these bytes* are the object.
//! * **Durable.** An object that was created, or found identical, survives a crash of the host (local directories are
//!   fsynced).
//! * **Whole answers.** A read returns exactly the bytes that were asked for, or fails.
//! * **Retries.** Each call says by [`Retry`] how long it keeps trying. A refused permission is retried like any other
//!   error that may pass.
//!
//! | file | |
//! | --- | --- |
//! | [`layout`] | the names of objects |
//! | [`open`] | from a URL to a store |
//! | `attempt` | one attempt at each operation |
//! | `retry` | when to give up and when to try again |
//! | `checked` | a second read before an object is called damaged |
//! | [`copies`] | local copies of the objects that this daemon created |
//! | `recall` | the reads for which a local copy was missing |
//! | [`metered`] | requests, bytes, durations |
//! | `pace` | how fast requests follow each other |
//! | `cloud`, `http` | errors of cloud stores, with the setting to look at; their HTTP client |
//! | `local`, `memory` | directories; a store for tests and trials |
//! | `hdfs` | HDFS |
//! | `faulty` | a store that fails, for simulations; only with the feature `testing` |
//! | [`conformance`] | the contract of stores, as callable checks |
//!
//! All futures of [`Store`] may be dropped at any time. A create or delete that is dropped before its answer may or may
//! not take effect, even later.

mod attempt;
mod checked;
mod cloud;
pub mod conformance;
pub mod copies;
mod error;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod fake_s3;
#[cfg(any(test, feature = "testing"))]
pub mod faulty;
#[cfg(feature = "hdfs")]
mod hdfs;
mod http;
pub mod layout;
mod local;
mod memory;
pub mod metered;
pub mod open;
mod pace;
mod recall;
mod retry;

use std::{fmt, num::NonZeroU32, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use object_store::{ObjectStore, path::PathPart};
use parking_lot::Mutex;
use tokio::time::Instant;

pub use self::{
    copies::{Copies, CopyOptions, CopyScope},
    error::{AttemptError, StoreError},
    layout::ObjectName,
    memory::MemoryStore,
    open::{OpenError, StoreOptions, local_folder},
    recall::Recall,
    retry::{Retry, RetryOptions},
};
pub use object_store::{PutPayload, PutPayloadMut, path::Path};

use self::{copies::Label, metered::StoreMetrics, pace::Pace, retry::Retrier};
use crate::{metrics::Metrics, random::Random, types::TimeMs};

/// Most objects that one chunk of [`Store::delete_all`] has: the limit that S3 sets to one request.
const DELETE_CHUNK: usize = 1000;

/// Most bytes of an object that is read whole, such as a manifest, a page or an index. The largest, a manifest with a
/// thousand attachments of 64 KiB, has a quarter of this.
pub const MAX_WHOLE_BYTES: u64 = 256 << 20;

/// A kind of request to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Creates an object, unless the path is taken.
    Create,
    /// Reads a whole object.
    Get,
    /// Reads a range of bytes of an object.
    GetRange,
    /// Asks for the size and time of an object.
    Head,
    /// Lists the objects below a prefix.
    List,
    /// Deletes one or more objects.
    Delete,
    /// Copies an object within the store.
    Copy,
}

impl Operation {
    /// Every operation, in the order of the report. in the order of their declaration.
    pub const ALL: [Self; 7] =
        [Self::Create, Self::Get, Self::GetRange, Self::Head, Self::List, Self::Delete, Self::Copy];

    /// The value of the label `operation`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Get => "get",
            Self::GetRange => "get_range",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Copy => "copy",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The outcome of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// This call created the object.
    New,
    /// The object exists with these very bytes. An earlier attempt with unknown outcome created it, or another writer
    /// did.
    Identical,
    /// The object exists with other bytes.
    Conflict,
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Path relative to the base of the store.
    pub path: Path,
    /// Size in bytes.
    pub size: u64,
    /// Time of its creation, by the store's clock.
    pub modified_ms: TimeMs,
}

/// Access to the store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>, Option<Copies>, Option<Arc<Recall>>);

struct Inner {
    store: Arc<dyn ObjectStore>,
    base: Path,
    retrier: Arc<Retrier>,
    metrics: StoreMetrics,
    pace: Arc<Pace>,
    /// Number of objects that one delete request of the store names; 1 if it has no deletion in bulk.
    deletes_per_request: usize,
}

/// Parts of a new [`Store`], before its metrics are registered.
struct Asked {
    store: Arc<dyn ObjectStore>,
    base: Path,
    pace: Arc<Pace>,
    deletes_per_request: usize,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({}, {:?})", self.0.store, self.0.base.as_ref())
    }
}

impl Store {
    /// Access to the objects of `store` below `base`. Registers the metrics of the store; `random` gives the jitter of
    /// pauses.
    #[must_use]
    pub fn new(
        store: Arc<dyn ObjectStore>,
        base: Path,
        options: RetryOptions,
        metrics: &Metrics,
        random: Random,
    ) -> Self {
        let pace = Arc::new(Pace::new(options.max_requests_per_second, metrics, random.clone()));
        let asked = Asked { store, base, pace, deletes_per_request: 1 };
        Self::asking(asked, options, metrics, random)
    }

    fn asking(asked: Asked, options: RetryOptions, metrics: &Metrics, random: Random) -> Self {
        let metrics = StoreMetrics::register(metrics);
        let retrier = Arc::new(Retrier::new(options, random, metrics.clone()));
        let Asked { store, base, pace, deletes_per_request } = asked;
        Self(Arc::new(Inner { store, base, retrier, metrics, pace, deletes_per_request }), None, None)
    }

    /// The same store, which reads an object from `copies` if they have it.
    #[must_use]
    pub fn with_copies(self, copies: Option<Copies>) -> Self {
        Self(self.0, copies, self.2)
    }

    /// The same store as seen from `folder`: all paths are relative to that folder. It has no local copies.
    #[must_use]
    pub fn below(&self, folder: &Path) -> Self {
        let Inner { store, retrier, metrics, pace, deletes_per_request, .. } = &*self.0;
        let inner = Inner {
            store: store.clone(),
            base: self.absolute(folder),
            retrier: retrier.clone(),
            metrics: metrics.clone(),
            pace: pace.clone(),
            deletes_per_request: *deletes_per_request,
        };
        Self(Arc::new(inner), None, None)
    }

    /// The same store, which tries local copies first even if their settings forbid reading, and a record of the reads
    /// that found no copy.
    #[must_use]
    pub fn recalling(&self) -> (Self, Arc<Recall>) {
        let recall = Arc::new(Recall::default());
        (Self(self.0.clone(), self.1.clone(), Some(recall.clone())), recall)
    }

    /// The local copies, if there are any.
    #[must_use]
    pub fn copies(&self) -> Option<&Copies> {
        self.1.as_ref()
    }

    /// Queues a local copy of an object that was created here, if the store has local copies. Never waits.
    pub fn copy(&self, path: &Path, payload: PutPayload, label: impl FnOnce() -> Label) {
        if let Some(copies) = &self.1 {
            copies.keep(path, payload, label());
        }
    }

    /// Creates the object at `path` unless there is one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]. It is then unknown whether the object exists, and it may still appear.
    pub async fn create(&self, path: &Path, payload: PutPayload, retry: Retry) -> Result<Created, StoreError> {
        Ok(self.create_counted(path, payload, retry).await?.0)
    }

    /// Like [`Store::create`], but also returns the number of attempts made.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub async fn create_counted(
        &self,
        path: &Path,
        payload: PutPayload,
        retry: Retry,
    ) -> Result<(Created, u32), StoreError> {
        let run = |bound| self.create_once(bound, path, payload.clone());
        self.0.retrier.run(Operation::Create, path, retry, run).await
    }

    /// Copies the object `from`, of `bytes` bytes, to `to`, where no other caller creates an object. Stores that can
    /// copy do so by themselves; with others the whole object is read into memory and created again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::OutOfRange`] if `from` has fewer bytes, or [`StoreError::Unavailable`].
    /// In the last case `to` may exist, or may still appear.
    pub async fn copy_object(&self, from: &Path, to: &Path, bytes: u64, retry: Retry) -> Result<(), StoreError> {
        let run = |bound| self.copy_once(bound, from, to, bytes);
        if self.0.retrier.run(Operation::Copy, from, retry, run).await?.0 {
            return Ok(());
        }
        // By range and not as a whole, since the object may be larger than `MAX_WHOLE_BYTES`.
        let read = self.get_range(from, 0..bytes, retry).await?;
        self.create(to, PutPayload::from_bytes(read), retry).await.map(|_| ())
    }

    /// The whole object at `path`, of at most [`MAX_WHOLE_BYTES`] bytes. Read a larger object by ranges.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::TooLarge`], or [`StoreError::Unavailable`].
    pub async fn get(&self, path: &Path, retry: Retry) -> Result<Bytes, StoreError> {
        if let Some(bytes) = self.copied(path, None) {
            return Ok(bytes);
        }
        let run = |bound| self.get_once(bound, path, MAX_WHOLE_BYTES);
        Ok(self.0.retrier.run(Operation::Get, path, retry, run).await?.0)
    }

    /// The whole object at `path`, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn get_optional(&self, path: &Path, retry: Retry) -> Result<Option<Bytes>, StoreError> {
        optional(self.get(path, retry).await)
    }

    /// Bytes `range.start` to `range.end` (exclusive) of the object at `path`: exactly that many, or an error.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::OutOfRange`] if the object ends before the range does, or
    /// [`StoreError::Unavailable`].
    pub async fn get_range(&self, path: &Path, range: Range<u64>, retry: Retry) -> Result<Bytes, StoreError> {
        // HTTP has no empty range.
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = self.copied(path, Some(range.clone())) {
            return Ok(bytes);
        }
        let run = |bound| self.get_range_once(bound, path, range.clone());
        Ok(self.0.retrier.run(Operation::GetRange, path, retry, run).await?.0)
    }

    /// Size and time of the object at `path`, or `None` if there is none. The time of an object that was just created
    /// tells the time of the store's clock.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn head(&self, path: &Path, retry: Retry) -> Result<Option<ObjectMeta>, StoreError> {
        let run = |bound| self.head_once(bound, path);
        optional(self.0.retrier.run(Operation::Head, path, retry, run).await.map(|(meta, _)| meta))
    }

    /// All objects below `prefix` (whole segments of the path), ordered by path. Only objects that are created or
    /// deleted during the listing may be missing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn list(&self, prefix: &Path, retry: Retry) -> Result<Vec<ObjectMeta>, StoreError> {
        let run = |bound| self.list_once(bound, prefix, None);
        Ok(self.0.retrier.run(Operation::List, prefix, retry, run).await?.0)
    }

    /// Like [`Store::list`], but only objects after `after` (exclusive, relative to the base). `after` need not exist.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn list_after(&self, prefix: &Path, after: &Path, retry: Retry) -> Result<Vec<ObjectMeta>, StoreError> {
        let run = |bound| self.list_once(bound, prefix, Some(after));
        Ok(self.0.retrier.run(Operation::List, prefix, retry, run).await?.0)
    }

    /// Deletes the object at `path`, which need not exist.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn delete(&self, path: &Path, retry: Retry) -> Result<(), StoreError> {
        self.delete_all(vec![path.clone()], retry).await
    }

    /// Deletes the objects at `paths`, in bulk if the store can. They need not exist.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] names the first object that may remain. Others may remain too.
    pub async fn delete_all(&self, paths: Vec<Path>, retry: Retry) -> Result<(), StoreError> {
        for chunk in paths.chunks(self.delete_chunk()) {
            let Some(first) = chunk.first() else { continue };
            // Shared by all attempts at this chunk: an object that one attempt has deleted is not asked for again.
            let left = Mutex::new(chunk.iter().map(|path| self.absolute(path)).collect());
            let run = |bound| self.delete_once(bound, &left);
            let mut answer = self.0.retrier.run(Operation::Delete, first, retry, run).await;
            // The retrier knows only the first path of the chunk, which may be gone by now.
            if let (Err(StoreError::Unavailable { path, .. }), Some(remaining)) = (&mut answer, left.lock().first()) {
                *path = self.relative(remaining);
            }
            answer?;
        }
        Ok(())
    }

    /// Number of objects in one chunk of a deletion. Where requests are limited, a chunk takes at most as many requests
    /// as one second allows.
    fn delete_chunk(&self) -> usize {
        let limited = |limit: NonZeroU32| usize::try_from(limit.get()).unwrap_or(usize::MAX);
        // A chunk is admitted as a whole. With more requests than the limit of one second, it would hold up all others
        // meanwhile.
        let most = self.0.pace.limit().map_or(DELETE_CHUNK, limited);
        most.saturating_mul(self.0.deletes_per_request).min(DELETE_CHUNK)
    }

    /// Asks for an object that never exists, to see whether the store answers: this tests bucket, credentials and
    /// network.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], with the fault as its source.
    pub async fn probe(&self, retry: Retry) -> Result<(), StoreError> {
        self.get_optional(&Path::from(".probe"), retry).await.map(|_| ())
    }

    /// Number of requests of each operation that have ended so far.
    #[must_use]
    pub fn requests(&self) -> [(Operation, u64); Operation::ALL.len()] {
        Operation::ALL.map(|operation| (operation, self.0.metrics.requests(operation)))
    }

    /// The newest failed attempt at any request, if it was at or after `since`: how long ago it was, and its error. For
    /// messages to people who wait.
    #[must_use]
    pub fn trouble(&self, since: Instant) -> Option<(Duration, String)> {
        self.0.retrier.trouble(since)
    }

    /// The bytes of a local copy, if there is one and reading it is allowed. With a [`Recall`], every copy may be read,
    /// and a missing one is recorded.
    fn copied(&self, path: &Path, range: Option<Range<u64>>) -> Option<Bytes> {
        let copies = self.1.as_ref();
        // Without a recall the settings decide whether copies may be read.
        let Some(recall) = &self.2 else { return copies?.read(path, range) };
        let found = copies.and_then(|copies| copies.recall(path, range));
        if found.is_none() {
            recall.missed(path);
        }
        found
    }

    fn absolute(&self, path: &Path) -> Path {
        Path::from_iter(self.0.base.parts().chain(path.parts()))
    }

    /// The inverse of `absolute`. A path that is not below the base stays as it is.
    fn relative(&self, path: &Path) -> Path {
        match path.prefix_match(&self.0.base) {
            Some(parts) => Path::from_iter(parts.collect::<Vec<PathPart<'_>>>()),
            None => path.clone(),
        }
    }
}

/// Turns [`StoreError::NotFound`] into `None`.
fn optional<T>(answer: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{
        faulty::{FaultPlan, Faults, FaultyStore},
        *,
    };
    use crate::{clock::Clock, tasks::Tasks};

    /// A faulty store below `a/b`, and a store at the root of the same memory without faults.
    fn stores() -> (Store, Store, Faults) {
        let memory = MemoryStore::new(Clock::new(|| 5));
        let faulty = FaultyStore::new(Arc::new(memory.clone()), Random::seeded(1), Tasks::default());
        let faults = faulty.faults();
        let store = |store, base| {
            Store::new(store, Path::from(base), RetryOptions::default(), &Metrics::new(), Random::seeded(2))
        };
        (store(Arc::new(faulty), "a/b"), store(Arc::new(memory), ""), faults)
    }

    #[tokio::test(start_paused = true)]
    async fn paths_are_relative_to_the_base_in_both_directions() {
        let (below, root, _) = stores();
        let temporary = Path::parse("x/y#1").unwrap();
        for path in [&Path::from("x/y"), &temporary] {
            below.create(path, "1".into(), Retry::none()).await.unwrap();
        }
        root.create(&Path::from("a/bx/y"), "1".into(), Retry::none()).await.unwrap();
        let listed = below.list(&Path::default(), Retry::none()).await.unwrap();
        let expected =
            ["x/y", "x/y#1"].map(|path| ObjectMeta { path: Path::parse(path).unwrap(), size: 1, modified_ms: 5 });
        assert_eq!(listed, expected);
        let listed = root.list(&Path::default(), Retry::none()).await.unwrap();
        let listed: Vec<_> = listed.iter().map(|meta| meta.path.as_ref()).collect();
        assert_eq!(listed, ["a/b/x/y", "a/b/x/y#1", "a/bx/y"]);
        below.delete(&temporary, Retry::none()).await.unwrap();
        assert_eq!(below.list(&Path::default(), Retry::none()).await.unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_is_a_store_and_objects_are_copied_into_it() {
        let (store, _, _) = stores();
        let (path, folder) = (Path::from("x/y"), Path::from("savepoints/s"));
        store.create(&path, "123".into(), Retry::none()).await.unwrap();
        store.copy_object(&path, &Path::from("savepoints/s/x/y"), 3, Retry::none()).await.unwrap();
        let below = store.below(&folder);
        assert_eq!(below.get(&path, Retry::none()).await.unwrap(), "123");
        assert_eq!(below.list(&Path::default(), Retry::none()).await.unwrap()[0].path, path);
        let short = store.copy_object(&path, &Path::from("z"), 4, Retry::none()).await.unwrap_err();
        assert!(matches!(short, StoreError::OutOfRange { size: 3, .. }), "{short}");
        let none = store.copy_object(&Path::from("none"), &Path::from("z"), 4, Retry::none()).await.unwrap_err();
        assert!(matches!(none, StoreError::NotFound { .. }), "{none}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_in_an_outage_fails_at_its_deadline_and_names_the_object() {
        let (store, _, faults) = stores();
        faults.set_outage(true);
        let start = Instant::now();
        let retry = Retry::until(start + Duration::from_secs(30));
        let error = store.create(&Path::from("x"), "1".into(), retry).await.unwrap_err();
        assert!(start.elapsed() <= Duration::from_secs(30));
        match &error {
            StoreError::Unavailable { path, operation: Operation::Create, attempts, .. } => {
                assert_eq!(path.as_ref(), "x");
                assert!(*attempts > 5, "{attempts}");
            }
            other => panic!("{other:?}"),
        }
        faults.set_outage(false);
        assert_eq!(store.create(&Path::from("x"), "1".into(), Retry::none()).await.unwrap(), Created::New);
    }

    #[tokio::test(start_paused = true)]
    async fn the_attempts_of_a_create_are_counted() {
        let (store, _, faults) = stores();
        faults.set_plan(FaultPlan { hang: 1.0, ..FaultPlan::none() });
        let calm = async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            faults.set_plan(FaultPlan::none());
        };
        let path = Path::from("x");
        let (created, ()) = tokio::join!(store.create_counted(&path, "1".into(), Retry::forever()), calm);
        // The first attempt waits 5 s, the second 10 s.
        assert_eq!(created.unwrap().1, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_that_is_cut_short_names_an_object_that_remains() {
        let (store, _, faults) = stores();
        let paths: Vec<_> = (0..9).map(|i| Path::from(format!("{i}"))).collect();
        for path in &paths {
            store.create(path, "1".into(), Retry::none()).await.unwrap();
        }
        faults.set_plan(FaultPlan { error_before: 0.5, ..FaultPlan::none() });
        let error = store.delete_all(paths.clone(), Retry::none()).await.unwrap_err();
        let StoreError::Unavailable { path, .. } = error else { panic!("{error:?}") };
        faults.set_plan(FaultPlan::none());
        let left = store.list(&Path::default(), Retry::none()).await.unwrap();
        assert!(left.len() < 9);
        assert_eq!(left[0].path, path);
        faults.set_plan(FaultPlan { error_before: 0.3, error_after: 0.3, ..FaultPlan::none() });
        store.delete_all(paths, Retry::forever()).await.unwrap();
        faults.set_plan(FaultPlan::none());
        assert_eq!(store.list(&Path::default(), Retry::none()).await.unwrap(), []);
    }
}

//! A store that fails: it passes requests to another store as if over a bad network.
//!
//! [`Faults`] is the handle that adjusts it while it runs. The fate of a request is decided when it arrives, by the
//! seeded randomness alone, so that a seed repeats a run under paused time:
//!
//! * it takes a while, and its effect comes either before or after that time: a caller that drops the request in
//!   between cannot know which;
//! * it fails before its effect, or after it (the ambiguous outcome);
//! * a create is refused although there is no object;
//! * it hangs until the caller gives up, with or without its effect;
//! * a create or delete is *delayed*: the caller gets no answer, and the effect comes later, perhaps after the caller
//!   tried again, gave up or died;
//! * during an outage every request fails.
//!
//! Multipart uploads, which dstl never makes, are refused. So are copies, so that
//! [`Store::copy_object`](super::Store::copy_object) reads and creates instead.

use std::{fmt, future::Future, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use parking_lot::Mutex;
use tokio::time::sleep;

use super::memory::not_implemented;
use crate::{random::Random, tasks::Tasks};

/// Probability of each fault, from 0 to 1 per request. The faults are tried in the order of the fields.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultPlan {
    /// Duration of a request, evenly distributed; the upper end is exclusive.
    pub latency: Range<Duration>,
    /// The request fails before its effect.
    pub error_before: f64,
    /// The request fails after its effect.
    pub error_after: f64,
    /// A create is refused as if the object existed, as stores do while another create is under way. Other requests
    /// fail before their effect.
    pub refused: f64,
    /// The request is never answered. It has its effect in half of the cases.
    pub hang: f64,
    /// The request is never answered. The effect of a create or delete comes after `delay`; other requests have none.
    pub delayed: f64,
    /// Delay of such an effect, evenly distributed; the upper end is exclusive.
    pub delay: Range<Duration>,
}

impl FaultPlan {
    /// No faults and no latency.
    #[must_use]
    pub fn none() -> Self {
        let zero = Duration::ZERO..Duration::ZERO;
        Self {
            latency: zero.clone(),
            error_before: 0.0,
            error_after: 0.0,
            refused: 0.0,
            hang: 0.0,
            delayed: 0.0,
            delay: zero,
        }
    }
}

/// Number of requests of each kind that have arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Creates, whatever their outcome.
    pub puts: u64,
    /// Reads of objects, of ranges, and of size and time.
    pub gets: u64,
    /// Listings, whatever their number of entries.
    pub lists: u64,
    /// Objects to delete, each counted as one request.
    pub deletes: u64,
    /// Requests of all kinds that met a fault or an outage.
    pub faults: u64,
}

/// The handle to a [`FaultyStore`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Faults(Arc<Mutex<Knobs>>);

#[derive(Debug)]
struct Knobs {
    plan: FaultPlan,
    outage: bool,
    counts: RequestCounts,
}

impl Faults {
    /// Applies `plan` to all requests that arrive from now on.
    pub fn set_plan(&self, plan: FaultPlan) {
        self.0.lock().plan = plan;
    }

    /// Begins or ends an outage. Requests that arrive during an outage fail before their effect; earlier ones go on.
    pub fn set_outage(&self, outage: bool) {
        self.0.lock().outage = outage;
    }

    /// Number of requests that have arrived so far.
    #[must_use]
    pub fn counts(&self) -> RequestCounts {
        self.0.lock().counts
    }
}

/// A store that fails as its [`Faults`] say. Clones share everything.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    store: Arc<dyn ObjectStore>,
    faults: Faults,
    random: Random,
    tasks: Tasks,
}

/// The kinds of requests that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Put,
    Get,
    List,
    Delete,
}

/// The fate of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answer { effect_first: bool },
    ErrorBefore,
    ErrorAfter,
    Refused,
    Hang { effect: bool },
    Delayed { by: Duration },
}

impl FaultyStore {
    /// Puts faults, none at first, before `store`. Delayed effects run in `tasks`, which must be tasks of the store and
    /// not of the daemon that a simulation crashes.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, random: Random, tasks: Tasks) -> Self {
        let knobs = Knobs { plan: FaultPlan::none(), outage: false, counts: RequestCounts::default() };
        Self { store, faults: Faults(Arc::new(Mutex::new(knobs))), random, tasks }
    }

    /// The handle that adjusts the faults of this store and its clones.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Counts a request, and decides its fate and latency.
    fn arrive(&self, kind: Kind) -> (Fate, Duration) {
        let mut knobs = self.faults.0.lock();
        let (fate, latency) = self.decide(&knobs);
        let counts = &mut knobs.counts;
        let count = match kind {
            Kind::Put => &mut counts.puts,
            Kind::Get => &mut counts.gets,
            Kind::List => &mut counts.lists,
            Kind::Delete => &mut counts.deletes,
        };
        *count += 1;
        counts.faults += u64::from(!matches!(fate, Fate::Answer { .. }));
        (fate, latency)
    }

    /// Draws the same number of random numbers for every plan, so that a changed probability does not shift the fate of
    /// later requests.
    fn decide(&self, knobs: &Knobs) -> (Fate, Duration) {
        // Drawn before the plan is looked at, and all four of them.
        let [latency, delay, choice, coin] = std::array::from_fn(|_| self.random.fraction());
        let plan = &knobs.plan;
        let latency = within(&plan.latency, latency);
        let mut left = choice;
        let mut falls = |probability: f64| {
            left -= probability;
            left < 0.0
        };
        let fate = if knobs.outage || falls(plan.error_before) {
            Fate::ErrorBefore
        } else if falls(plan.error_after) {
            Fate::ErrorAfter
        } else if falls(plan.refused) {
            Fate::Refused
        } else if falls(plan.hang) {
            Fate::Hang { effect: coin < 0.5 }
        } else if falls(plan.delayed) {
            Fate::Delayed { by: within(&plan.delay, delay) }
        } else {
            Fate::Answer { effect_first: coin < 0.5 }
        };
        (fate, latency)
    }

    /// Runs `effect` as the fate of the request says.
    async fn request<T>(&self, kind: Kind, effect: impl Future<Output = Result<T>> + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
    {
        let (fate, latency) = self.arrive(kind);
        match fate {
            Fate::Answer { effect_first: true } => {
                let answer = effect.await;
                sleep(latency).await;
                answer
            }
            Fate::Answer { effect_first: false } => {
                sleep(latency).await;
                effect.await
            }
            Fate::ErrorBefore => {
                sleep(latency).await;
                Err(injected("before"))
            }
            Fate::ErrorAfter => {
                drop(effect.await);
                sleep(latency).await;
                Err(injected("after"))
            }
            Fate::Refused => {
                sleep(latency).await;
                Err(if kind == Kind::Put { conflict() } else { injected("before") })
            }
            Fate::Hang { effect: takes_effect } => {
                if takes_effect {
                    drop(effect.await);
                }
                std::future::pending().await
            }
            Fate::Delayed { by } => {
                if matches!(kind, Kind::Put | Kind::Delete) {
                    // The effect comes after the caller has given up, as with a request that hangs in a network. That
                    // is the case that create-if-absent and fencing have to survive.
                    self.tasks.spawn(async move {
                        sleep(by).await;
                        drop(effect.await);
                    });
                }
                std::future::pending().await
            }
        }
    }

    fn listing(
        &self,
        list: impl FnOnce(&dyn ObjectStore) -> BoxStream<'static, Result<ObjectMeta>> + Send + 'static,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        let found = async move {
            let inner = Arc::clone(&store.store);
            // The listing as of one moment: a lazy stream would be polled after the fault was decided.
            let found: Vec<_> = store.request(Kind::List, async move { list(&*inner).try_collect().await }).await?;
            Ok::<_, Error>(stream::iter(found).map(Ok))
        };
        stream::once(found).try_flatten().boxed()
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.store)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (store, location) = (Arc::clone(&self.store), location.clone());
        self.request(Kind::Put, async move { store.put_opts(&location, payload, options).await }).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        not_implemented("multipart upload", self)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (store, location) = (Arc::clone(&self.store), location.clone());
        self.request(Kind::Get, async move { store.get_opts(&location, options).await }).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let faulty = self.clone();
        locations
            .then(move |location| {
                let faulty = faulty.clone();
                async move {
                    let location = location?;
                    let (store, deleted) = (Arc::clone(&faulty.store), location.clone());
                    faulty.request(Kind::Delete, async move { store.delete(&deleted).await }).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned();
        self.listing(move |store| store.list(prefix.as_ref()))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (prefix, offset) = (prefix.cloned(), offset.clone());
        self.listing(move |store| store.list_with_offset(prefix.as_ref(), &offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (store, prefix) = (Arc::clone(&self.store), prefix.cloned());
        self.request(Kind::List, async move { store.list_with_delimiter(prefix.as_ref()).await }).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        not_implemented("copy", self)
    }
}

/// The point of `range` at `fraction`, from 0 to 1.
fn within(range: &Range<Duration>, fraction: f64) -> Duration {
    range.start + range.end.saturating_sub(range.start).mul_f64(fraction)
}

fn conflict() -> Error {
    Error::AlreadyExists { path: String::new(), source: "injected conflict".into() }
}

fn injected(when: &str) -> Error {
    Error::Generic { store: "faulty", source: format!("injected fault {when} the effect").into() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::{
        clock::Clock,
        metrics::Metrics,
        object::{Created, MemoryStore, Retry, RetryOptions, Store, StoreError},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn faulty(seed: u64) -> FaultyStore {
        let memory = MemoryStore::new(Clock::new(|| 0));
        FaultyStore::new(Arc::new(memory), Random::seeded(seed), Tasks::default())
    }

    fn store_over(faulty: &FaultyStore, seed: u64) -> Store {
        let random = Random::seeded(seed + 1000);
        Store::new(Arc::new(faulty.clone()), Path::default(), RetryOptions::default(), &Metrics::new(), random)
    }

    fn bad_network() -> FaultPlan {
        FaultPlan {
            latency: Duration::from_millis(5)..Duration::from_millis(500),
            error_before: 0.15,
            error_after: 0.15,
            refused: 0.1,
            hang: 0.1,
            delayed: 0.1,
            delay: Duration::ZERO..20 * SECOND,
        }
    }

    /// Creates, reads and deletes over a bad network. Returns the counts of the requests, and the duration of the run.
    async fn run(seed: u64) -> (RequestCounts, Duration) {
        let start = Instant::now();
        let faulty = faulty(seed);
        faulty.faults().set_plan(bad_network());
        let store = store_over(&faulty, seed);
        for i in 0..30_u64 {
            let path = Path::from(format!("{i}"));
            let created = store.create(&path, format!("value {i}").into(), Retry::forever()).await.unwrap();
            assert_ne!(created, Created::Conflict, "seed {seed}");
            assert_eq!(store.get(&path, Retry::forever()).await.unwrap(), format!("value {i}"), "seed {seed}");
            let conflict = store.create(&path, "other".into(), Retry::forever()).await.unwrap();
            assert_eq!(conflict, Created::Conflict, "seed {seed}");
        }
        assert_eq!(store.list(&Path::default(), Retry::forever()).await.unwrap().len(), 30, "seed {seed}");
        (faulty.faults().counts(), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn creates_are_exact_over_a_bad_network() {
        for seed in 0..20 {
            let (counts, _) = run(seed).await;
            assert!(counts.faults > 10, "seed {seed}: {counts:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_seed_gives_one_run() {
        assert_eq!(run(7).await, run(7).await);
        assert_ne!(run(7).await, run(8).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_answer_to_a_create_is_resolved_as_identical() {
        let faulty = faulty(1);
        faulty.faults().set_plan(FaultPlan { error_after: 1.0, ..FaultPlan::none() });
        let store = store_over(&faulty, 1);
        let path = Path::from("a");
        store.create(&path, "1".into(), Retry::none()).await.unwrap_err();
        faulty.faults().set_plan(FaultPlan::none());
        assert_eq!(store.create(&path, "1".into(), Retry::none()).await.unwrap(), Created::Identical);
        assert_eq!(store.create(&path, "2".into(), Retry::none()).await.unwrap(), Created::Conflict);
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_refused_for_an_object_that_is_not_there_is_tried_again() {
        let faulty = faulty(1);
        faulty.faults().set_plan(FaultPlan { refused: 1.0, ..FaultPlan::none() });
        let store = store_over(&faulty, 1);
        let path = Path::from("a");
        let error = store.create(&path, "1".into(), Retry::none()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { attempts: 1, .. }), "{error:?}");
        faulty.faults().set_plan(FaultPlan { refused: 0.7, ..FaultPlan::none() });
        assert_eq!(store.create(&path, "1".into(), Retry::forever()).await.unwrap(), Created::New);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_makes_calls_late_and_its_end_lets_them_through() {
        let faulty = faulty(1);
        faulty.faults().set_outage(true);
        let store = store_over(&faulty, 1);
        let start = Instant::now();
        let faults = faulty.faults();
        let end = async {
            sleep(60 * SECOND).await;
            faults.set_outage(false);
        };
        let path = Path::from("a");
        let (created, ()) = tokio::join!(store.create(&path, "1".into(), Retry::forever()), end);
        assert_eq!(created.unwrap(), Created::New);
        assert!((60..66).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_create_may_or_may_not_have_happened() {
        let mut happened = 0;
        for seed in 0..100 {
            let faulty = faulty(seed);
            faulty.faults().set_plan(FaultPlan { latency: SECOND..2 * SECOND, ..FaultPlan::none() });
            let path = Path::from("a");
            timeout(SECOND / 2, faulty.put(&path, "1".into())).await.unwrap_err();
            sleep(10 * SECOND).await;
            happened += u32::from(faulty.store.head(&path).await.is_ok());
        }
        assert!((30..70).contains(&happened), "{happened}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_create_comes_after_its_caller_gave_up() {
        let faulty = faulty(1);
        faulty.faults().set_plan(FaultPlan { delayed: 1.0, delay: 9 * SECOND..10 * SECOND, ..FaultPlan::none() });
        let path = Path::from("a");
        timeout(SECOND, faulty.put(&path, "1".into())).await.unwrap_err();
        assert!(faulty.store.head(&path).await.is_err());
        sleep(10 * SECOND).await;
        assert!(faulty.store.head(&path).await.is_ok());
    }
}

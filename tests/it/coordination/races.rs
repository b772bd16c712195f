//! Two who append to a job's chain at the same time, in every order of their requests to the store, and stopped after
//! each of them.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use dstl::{
    checkpoint::job::{self, Asked, Commit, Declaring, Finished, JobCheckpoint, JobRecord, Report},
    metrics::Metrics,
    object::{ObjectName, Retry, RetryOptions, Store},
    random::Random,
    types::BackendId,
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

use super::{checkpoint, declaration, name, on, open_all, record, running};
use tokio::task::unconstrained;

use crate::support::World;

/// A store whose requests about the job's chain and its reports wait once before their effect, so that each poll of a
/// caller makes one. Reads are not waited for: nobody changes an object.
#[derive(Debug, Clone)]
struct Gated(Arc<InMemory>);

impl fmt::Display for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gated")
    }
}

/// Pending once, if `path` is one that matters.
async fn gate(path: &Path) {
    let path = path.as_ref();
    let mut passed = !path.starts_with("job/job") && !path.starts_with("job/reports/");
    std::future::poll_fn(|_| if std::mem::replace(&mut passed, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

#[async_trait]
impl ObjectStore for Gated {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        gate(location).await;
        self.0.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("multipart upload of {path}")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.0.clone(), prefix.cloned().unwrap_or_default());
        let gated = prefix.clone();
        let passed = async move { gate(&gated).await };
        stream::once(passed).flat_map(move |()| store.list(Some(&prefix))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, _: CopyOptions) -> Result<()> {
        panic!("copy of {from} to {to}")
    }
}

/// The objects of a job of which attempt 1 has committed 1, and reported 2 but for its commit.
#[derive(Clone)]
struct Scene {
    objects: Vec<(Path, bytes::Bytes)>,
    reports: Vec<Report>,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new();
        let (_daemons, mut tasks) = running(&world).await;
        checkpoint(&mut tasks, 2, "value 2").await;
        let record = record(&world).await;
        let commit: Commit = record.commit.clone().unwrap();
        let last = ObjectName::JobRecord { job: name("job"), number: record.number }.path();
        let mut objects = vec![];
        for path in world.paths("").await {
            let path = Path::from(path);
            if path != last {
                objects.push((path.clone(), world.objects.get(&path).await.unwrap().bytes().await.unwrap()));
            }
        }
        let report = |operator: &dstl::types::Name, subtask: u32| Report {
            backend: BackendId { job: name("job"), operator: operator.clone(), subtask },
            attempt: 1,
            part: commit.part(operator, subtask).unwrap(),
        };
        let reports = commit.parts.keys().flat_map(|operator| (0..2).map(move |subtask| report(operator, subtask)));
        Self { objects, reports: reports.collect() }
    }

    /// The store at the beginning, with the first so many reports.
    async fn store(&self, reports: usize) -> (Store, Store) {
        let memory = Arc::new(InMemory::new());
        for (path, bytes) in &self.objects {
            memory.put(path, bytes.clone().into()).await.unwrap();
        }
        for report in &self.reports[..reports] {
            memory.put(&report.name().path(), report.encode().into()).await.unwrap();
        }
        let options = RetryOptions::default;
        let store = |objects: Arc<dyn ObjectStore>| {
            Store::new(objects, Path::default(), options(), &Metrics::new(), Random::seeded(1))
        };
        (store(Arc::new(Gated(memory.clone()))), store(memory))
    }
}

/// What came of an actor.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// What the newest record then said to have been committed last.
    Finished(Option<dstl::checkpoint::job::JobCheckpoint>),
    Outdated,
    Declared(Option<dstl::checkpoint::job::JobCheckpoint>),
}

type Actor = BoxFuture<'static, Outcome>;

fn finish(store: Store, last: Option<Report>) -> Actor {
    // Polled by hand, it would use up the budget of the test's own task.
    unconstrained(async move {
        if let Some(last) = last {
            job::report(&store, &last, Retry::none()).await.unwrap();
        }
        match job::finish(&store, &name("job"), 1, Retry::none()).await.unwrap() {
            Finished::Current { record, .. } => Outcome::Finished(record.commits().last().copied()),
            Finished::Outdated { by } => {
                assert_eq!(by, 2);
                Outcome::Outdated
            }
        }
    })
    .boxed()
}

fn declare(store: Store) -> Actor {
    unconstrained(async move { Outcome::Declared(declare_on(&store).await) }).boxed()
}

/// Declares attempt 2 from the newest commit.
async fn declare_on(store: &Store) -> Option<JobCheckpoint> {
    let by = Declaring { store, random: &Random::seeded(7), retry: Retry::none() };
    job::declare(&by, &name("job"), 2, &declaration(Asked::Latest)).await.unwrap().restore
}

/// Lets `actor` make one request.
fn poll(actor: &mut Actor) -> Option<Outcome> {
    match actor.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

/// Runs both, one request at a time, in the order that `choices` begins with; completes `choices` by what was chosen
/// where there was one.
fn interleave(actors: [Actor; 2], choices: &mut Vec<bool>) -> [Outcome; 2] {
    let mut actors = actors;
    let mut outcomes = [None, None];
    let mut step = 0;
    while outcomes.iter().any(Option::is_none) {
        let at = match (&outcomes[0], &outcomes[1]) {
            (None, None) => {
                if step == choices.len() {
                    choices.push(false);
                }
                step += 1;
                usize::from(choices[step - 1])
            }
            (Some(_), _) => 1,
            (_, Some(_)) => 0,
        };
        outcomes[at] = poll(&mut actors[at]);
    }
    choices.truncate(step);
    outcomes.map(Option::unwrap)
}

/// The next order after `choices`; whether there is one.
fn advance(choices: &mut Vec<bool>) -> bool {
    while let Some(last) = choices.pop() {
        if !last {
            choices.push(true);
            return true;
        }
    }
    false
}

/// Checks the whole chain; returns it.
async fn check(store: &Store) -> Vec<JobRecord> {
    let mut chain = vec![];
    for number in 1.. {
        let path = ObjectName::JobRecord { job: name("job"), number }.path();
        let Ok(bytes) = store.get(&path, Retry::none()).await else { break };
        chain.push(JobRecord::decode(&bytes).unwrap());
    }
    for (before, after) in chain.iter().zip(&chain[1..]) {
        assert!(after.attempt >= before.attempt);
        if after.attempt == before.attempt {
            assert!(after.commits().last() > before.commits().last());
            assert_eq!(after.commits().last().unwrap().attempt, after.attempt);
        } else {
            assert_eq!(after.restore(), before.stands_on());
        }
    }
    chain
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_meets_the_next_declaration_comes_before_it_or_not_at_all() {
    let scene = Scene::new().await;
    let mut choices = vec![];
    let (mut orders, mut commits) = (0, 0);
    loop {
        let (gated, store) = scene.store(3).await;
        let last = scene.reports[3].clone();
        let outcomes = interleave([finish(gated.clone(), Some(last)), declare(gated)], &mut choices);
        let chain = check(&store).await;
        let newest = chain.last().unwrap();
        let restored = newest.restore();
        assert_eq!((newest.attempt, &outcomes[1]), (2, &Outcome::Declared(restored)));
        match &outcomes[0] {
            Outcome::Finished(commit) if *commit == Some(on(1, 2)) => {
                assert_eq!(restored, *commit, "who is told so is right");
                commits += 1;
            }
            // It read the chain before the next generation was in it, and the reports when they were deleted: it looks
            // again later.
            Outcome::Finished(commit) => assert_eq!(*commit, Some(on(1, 1))),
            Outcome::Outdated => assert!([Some(on(1, 1)), Some(on(1, 2))].contains(&restored)),
            Outcome::Declared(_) => unreachable!(),
        }
        orders += 1;
        if !advance(&mut choices) {
            break;
        }
    }
    assert!(orders > 1_000 && commits > 0 && commits < orders, "{commits} of {orders}");
}

#[tokio::test(start_paused = true)]
async fn several_who_declare_or_finish_at_once_agree() {
    let scene = Scene::new().await;
    let agreed = |outcomes: [Outcome; 2]| {
        let [one, other] = outcomes;
        assert_eq!(one, other);
        assert!([Outcome::Finished(Some(on(1, 2))), Outcome::Declared(Some(on(1, 2)))].contains(&one), "{one:?}");
    };
    let mut choices = vec![];
    loop {
        let (gated, store) = scene.store(4).await;
        agreed(interleave([finish(gated.clone(), None), finish(gated, None)], &mut choices));
        check(&store).await;
        if !advance(&mut choices) {
            break;
        }
    }
    // There are too many orders of all their requests.
    let random = Random::seeded(1);
    for _ in 0..500 {
        let mut choices = (0..40).map(|_| random.below(2) == 0).collect();
        let (gated, store) = scene.store(4).await;
        agreed(interleave([declare(gated.clone()), declare(gated)], &mut choices));
        check(&store).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_after_any_request_leaves_a_chain_that_others_go_on_with() {
    let scene = Scene::new().await;
    let makers: [fn(Store) -> Actor; 2] = [|store| finish(store, None), declare];
    for make in makers {
        for requests in 0.. {
            let (gated, store) = scene.store(4).await;
            let mut stopped = make(gated);
            let is_done = (0..requests).any(|_| poll(&mut stopped).is_some());
            drop(stopped);
            assert_eq!(declare_on(&store).await, Some(on(1, 2)), "after {requests} requests");
            check(&store).await;
            if is_done {
                assert!(requests > 4);
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_scene_restores() {
    let world = World::new();
    let scene = Scene::new().await;
    for (path, bytes) in &scene.objects {
        world.objects.put(path, bytes.clone().into()).await.unwrap();
    }
    let daemon = super::start(&world, 400);
    super::declare(&daemon, 2, Asked::Latest).await.unwrap();
    for task in &mut open_all([&daemon, &daemon], 2).await {
        assert_eq!(super::value(task), Some("value 1".to_owned()));
    }
}

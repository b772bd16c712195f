//! Runs the real futures that talk to the store, one request at a time, by replaying their answers.
//!
//! A future cannot be copied, but the states of an exploration must be. So a [`Script`] is only the list of answers
//! that its future had so far. Each step makes the future anew, plays the answers back and adds one. With equal answers
//! the future does the same.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    sync::Arc,
    time::UNIX_EPOCH,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use parking_lot::Mutex;

use crate::{
    metrics::Metrics,
    object::{ObjectName, RetryOptions, Store},
    random::Random,
};

/// A request to the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Request {
    Create(Path, Bytes),
    Get(Path),
    List(Path),
    Delete(Vec<Path>),
}

/// An answer of the store.
#[derive(Debug, Clone)]
enum Answer {
    Created(bool),
    Got(Option<Bytes>),
    Listed(Arc<[(Path, u64)]>),
    Deleted,
}

/// A future at some point of its work.
#[derive(Debug, Clone, Default)]
pub(super) struct Script {
    answers: Vec<Answer>,
    /// Fingerprint of all answers.
    print: u64,
    next: Option<Request>,
}

/// The objects on the store.
#[derive(Debug, Clone, Default)]
pub(super) struct Objects {
    objects: Arc<BTreeMap<Path, Bytes>>,
    /// The sum of the fingerprints of all objects.
    print: u64,
}

impl Objects {
    pub(super) fn get(&self, path: &Path) -> Option<&Bytes> {
        self.objects.get(path)
    }

    pub(super) fn has(&self, path: &Path) -> bool {
        self.objects.contains_key(path)
    }

    /// The last object in `range`.
    pub(super) fn last_in(&self, range: Range<&Path>) -> Option<(&Path, &Bytes)> {
        self.objects.range::<Path, _>(range).next_back()
    }

    fn add(&mut self, path: &Path, bytes: &Bytes) -> bool {
        let is_new = !self.has(path);
        if is_new {
            Arc::make_mut(&mut self.objects).insert(path.clone(), bytes.clone());
            self.print = self.print.wrapping_add(print(path, bytes));
        }
        is_new
    }

    fn remove(&mut self, path: &Path) {
        if let Some(bytes) = Arc::make_mut(&mut self.objects).remove(path) {
            self.print = self.print.wrapping_sub(print(path, &bytes));
        }
    }

    fn list(&self, prefix: &Path) -> Answer {
        let below = self.objects.iter().filter(|(path, _)| path.prefix_matches(prefix));
        Answer::Listed(below.map(|(path, bytes)| (path.clone(), bytes.len() as u64)).collect())
    }
}

impl Hash for Objects {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.print.hash(state);
    }
}

impl Hash for Script {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.print, self.answers.len()).hash(state);
    }
}

fn print(path: &Path, bytes: &Bytes) -> u64 {
    let mut hasher = DefaultHasher::new();
    (path, bytes).hash(&mut hasher);
    hasher.finish()
}

impl Request {
    /// Whether no other step can change its answer: objects never change, and of the objects that are read here only
    /// pins are deleted.
    fn is_independent(&self) -> bool {
        matches!(self, Self::Get(path) if !matches!(ObjectName::parse(path), Some(ObjectName::Pin { .. })))
    }

    /// Lets the request take effect.
    pub(super) fn arrive(&self, objects: &mut Objects) -> bool {
        match self {
            Self::Create(path, bytes) => objects.add(path, bytes),
            Self::Delete(paths) => {
                paths.iter().for_each(|path| objects.remove(path));
                true
            }
            Self::Get(_) | Self::List(_) => false,
        }
    }

    fn answer(&self, objects: &mut Objects) -> Answer {
        let created = self.arrive(objects);
        match self {
            Self::Create(..) => Answer::Created(created),
            Self::Delete(_) => Answer::Deleted,
            Self::Get(path) => Answer::Got(objects.get(path).cloned()),
            Self::List(prefix) => objects.list(prefix),
        }
    }
}

impl Script {
    /// The request that takes effect next; `None` before the first step.
    pub(super) fn next(&self) -> Option<&Request> {
        self.next.as_ref()
    }

    /// Runs the future that `make` makes up to its first request.
    pub(super) fn begin<T, F: Future<Output = T>>(stage: &Stage, make: impl FnOnce(Store) -> F) -> Self {
        let mut script = Self::default();
        assert!(script.run(stage, make).is_none(), "it asks the store for something");
        script
    }

    /// Lets the next request take effect and be answered. Returns the result of the future once it is done.
    pub(super) fn step<T, F: Future<Output = T>>(
        &mut self,
        stage: &Stage,
        objects: &mut Objects,
        make: impl Fn(Store) -> F,
    ) -> Option<T> {
        loop {
            let request = self.next.take().expect("it waits for an answer");
            let answer = request.answer(objects);
            let mut hasher = DefaultHasher::new();
            (self.print, format!("{answer:?}")).hash(&mut hasher);
            self.print = hasher.finish();
            self.answers.push(answer);
            if let Some(done) = self.run(stage, &make) {
                return Some(done);
            }
            if !self.next.as_ref().is_some_and(Request::is_independent) {
                return None;
            }
        }
    }

    /// Runs the whole future at once.
    pub(super) fn whole<T, F: Future<Output = T>>(
        stage: &Stage,
        objects: &mut Objects,
        make: impl Fn(Store) -> F,
    ) -> T {
        let mut script = Self::begin(stage, &make);
        loop {
            if let Some(done) = script.step(stage, objects, &make) {
                return done;
            }
        }
    }

    fn run<T, F: Future<Output = T>>(&mut self, stage: &Stage, make: impl FnOnce(Store) -> F) -> Option<T> {
        {
            let mut tape = stage.tape.0.lock();
            *tape = Tape { answers: std::mem::take(&mut self.answers), at: 0, next: None };
        }
        let _time = stage.runtime.enter();
        let done = make(stage.store.clone()).now_or_never();
        let mut tape = stage.tape.0.lock();
        self.answers = std::mem::take(&mut tape.answers);
        self.next = tape.next.take();
        assert!(done.is_some() || self.next.is_some(), "it waits for nothing but the store");
        done
    }
}

/// The surroundings in which scripts run.
pub(super) struct Stage {
    store: Store,
    tape: Player,
    runtime: tokio::runtime::Runtime,
}

#[derive(Debug, Default)]
struct Tape {
    answers: Vec<Answer>,
    at: usize,
    /// The first request without an answer.
    next: Option<Request>,
}

/// A store that plays answers back. The first request without an answer, and all later ones, wait for ever.
#[derive(Debug, Clone, Default)]
struct Player(Arc<Mutex<Tape>>);

impl Stage {
    pub(super) fn new() -> Self {
        let tape = Player::default();
        let player = Arc::new(tape.clone());
        let store = Store::new(player, Path::default(), RetryOptions::default(), &Metrics::new(), Random::seeded(1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        Self { store, tape, runtime }
    }
}

impl Player {
    async fn ask(&self, request: Request) -> Answer {
        let answer = {
            let mut tape = self.0.lock();
            tape.at += 1;
            let at = tape.at - 1;
            let answer = tape.answers.get(at).cloned();
            if answer.is_none() {
                tape.next.get_or_insert(request);
            }
            answer
        };
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

fn meta(path: Path, size: u64) -> ObjectMeta {
    ObjectMeta { location: path, last_modified: UNIX_EPOCH.into(), size, e_tag: None, version: None }
}

fn not_implemented<T>() -> Result<T> {
    Err(Error::NotImplemented { operation: "this".to_owned(), implementer: "a script".to_owned() })
}

impl fmt::Display for Player {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("script")
    }
}

#[async_trait]
impl ObjectStore for Player {
    async fn put_opts(&self, location: &Path, payload: PutPayload, _: PutOptions) -> Result<PutResult> {
        match self.ask(Request::Create(location.clone(), payload.into())).await {
            Answer::Created(true) => Ok(PutResult { e_tag: None, version: None, extensions: Default::default() }),
            Answer::Created(false) => {
                Err(Error::AlreadyExists { path: location.to_string(), source: "it is there".into() })
            }
            other => panic!("{other:?} to a create"),
        }
    }

    async fn get_opts(&self, location: &Path, _: GetOptions) -> Result<GetResult> {
        match self.ask(Request::Get(location.clone())).await {
            Answer::Got(Some(bytes)) => {
                let (size, meta) = (bytes.len() as u64, meta(location.clone(), bytes.len() as u64));
                let payload = GetResultPayload::Stream(stream::iter([Ok(bytes)]).boxed());
                let (attributes, extensions) = (Default::default(), Default::default());
                Ok(GetResult { payload, meta, range: 0..size, attributes, extensions })
            }
            Answer::Got(None) => Err(Error::NotFound { path: location.to_string(), source: "it is gone".into() }),
            other => panic!("{other:?} to a get"),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = async move {
            let paths: Vec<Path> = locations.try_collect().await?;
            store.ask(Request::Delete(paths.clone())).await;
            Ok::<_, Error>(stream::iter(paths).map(Ok))
        };
        stream::once(deleted).try_flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        let listed = async move {
            match store.ask(Request::List(prefix)).await {
                Answer::Listed(found) => {
                    let found: Vec<_> = found.iter().map(|(path, size)| Ok(meta(path.clone(), *size))).collect();
                    Ok::<_, Error>(stream::iter(found))
                }
                other => panic!("{other:?} to a list"),
            }
        };
        stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        not_implemented()
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        not_implemented()
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        not_implemented()
    }
}

//! A clone that is stopped before each of its requests to the store, while its source moves on, is swept or discarded.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use dstl::{
    backend::RestoreFrom,
    checkpoint::discard::Discard,
    error::Reason,
    types::{InnerBackend, Name},
};
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, path::Path,
};
use tokio::sync::Semaphore;

use super::{check, checkpoint, count, dated, fill, open, settings, source, spec_of, sweep_job};
use crate::support::{Daemon, World, on_both};

/// Stops before one request, or before each.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    requests: Arc<AtomicU64>,
    /// `None`: before each.
    stops_at: Option<u64>,
    pub(crate) stopped: Arc<Semaphore>,
    pub(crate) goes_on: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn before(stops_at: u64) -> Self {
        let closed = || Arc::new(Semaphore::new(0));
        Self { requests: Arc::default(), stops_at: Some(stops_at), stopped: closed(), goes_on: closed() }
    }

    fn before_each() -> Self {
        Self { stops_at: None, ..Self::before(0) }
    }

    async fn pass(&self) {
        let request = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if self.stops_at.is_none_or(|stops_at| request == stops_at) {
            self.stopped.add_permits(1);
            self.goes_on.acquire().await.unwrap().forget();
        }
    }
}

/// A store that stops there.
#[derive(Debug)]
pub(crate) struct SteppingStore {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) gate: Gate,
}

impl fmt::Display for SteppingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stepping {}", self.store)
    }
}

#[async_trait]
impl ObjectStore for SteppingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.gate.pass().await;
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("multipart upload of {path}")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.gate.pass().await;
        self.store.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (gate, store) = (self.gate.clone(), self.store.clone());
        let passed = futures::stream::once(async move {
            gate.pass().await;
            store.delete_stream(locations)
        });
        passed.flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (gate, store, prefix) = (self.gate.clone(), self.store.clone(), prefix.cloned());
        let passed = futures::stream::once(async move {
            gate.pass().await;
            store.list(prefix.as_ref())
        });
        passed.flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.gate.pass().await;
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, _: CopyOptions) -> Result<()> {
        panic!("copy of {from} to {to}")
    }
}

/// What happens to the source meanwhile.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    /// It completes other checkpoints, subsumes the one that is cloned, and is swept.
    MovesOn,
    /// And the clone is late: its lease is over.
    Expires,
    /// All of it is discarded.
    IsDiscarded,
}

/// Clones with `trouble` before request `stops_at`; `None` once the clone is done before that. Else whether it
/// succeeded.
async fn attempt(inner: InnerBackend, trouble: Trouble, stops_at: u64) -> Option<bool> {
    let world = dated();
    let gate = Gate::before(stops_at);
    let stepping = Arc::new(SteppingStore { store: world.objects.clone(), gate: gate.clone() });
    let slow = World { objects: stepping, ..world.clone() };
    let (one, two) = (Daemon::start(&world, settings(inner, 1)), Daemon::start(&slow, settings(inner, 100)));
    let (mut running, handle) = source(&one).await;
    let directory = two.directory.clone();
    let opening = open(&directory, spec_of("other", 1, handle, None));
    tokio::pin!(opening);
    let stopped = tokio::select! {
        biased;
        _ = gate.stopped.acquire() => true,
        opened = &mut opening => {
            opened.unwrap();
            false
        }
    };
    if !stopped {
        return None;
    }
    for id in [2, 3] {
        fill(&mut running, id);
        let epoch = running.opened.backend.epoch();
        running.opened.backend.materialize(epoch).await.unwrap();
        checkpoint(&mut running, id).await;
    }
    running.checkpoint(4).await;
    if trouble == Trouble::Expires {
        world.time.fetch_add(600_000, Ordering::Relaxed);
        sweep_job(&world, "job").await;
    }
    if trouble == Trouble::IsDiscarded {
        let backend = running.opened.backend.clone();
        one.directory.close(backend.id(), backend.epoch()).await.unwrap();
        one.directory.discard(&Discard::Job(Name::new("job").unwrap()), true).await.unwrap();
    }
    sweep_job(&world, "job").await;
    gate.goes_on.add_permits(1);
    let succeeded = match opening.await {
        Ok(mut clone) => {
            check(&mut clone, 1);
            fill(&mut clone, 8);
            checkpoint(&mut clone, 1).await;
            true
        }
        Err(error) => {
            let expected = match trouble {
                Trouble::MovesOn => vec![Reason::CheckpointNotFound],
                _ => vec![Reason::CheckpointNotFound, Reason::PinExpired],
            };
            assert!(expected.contains(&error.reason), "before request {stops_at}: {error:?}");
            false
        }
    };
    assert_eq!(count(&world, "/pins/").await, 0, "before request {stops_at}");
    if trouble != Trouble::IsDiscarded {
        // The source is what it was.
        let again = Daemon::start(&world, settings(inner, 300));
        check(&mut open(&again.directory, spec_of("job", 2, RestoreFrom::Id(3), None)).await.unwrap(), 3);
    }
    if succeeded {
        two.directory.environment().tasks.abort_all();
        let three = Daemon::start(&world, settings(inner, 200));
        check(&mut open(&three.directory, spec_of("other", 2, RestoreFrom::Id(1), None)).await.unwrap(), 8);
    }
    Some(succeeded)
}

async fn at_every_step(inner: InnerBackend, trouble: Trouble) {
    let (mut outcomes, mut request) = (vec![], 1);
    // A local store takes long to open and has many files, one as good as the other.
    let stride = if inner == InnerBackend::RocksDb { 4 } else { 1 };
    while let Some(succeeded) = attempt(inner, trouble, request).await {
        outcomes.push(succeeded);
        request += stride;
    }
    assert!(outcomes.contains(&true) && outcomes.contains(&false), "{outcomes:?}");
    // Once it counts, the pin holds.
    let first = outcomes.iter().position(|succeeded| *succeeded).unwrap();
    assert!(trouble != Trouble::MovesOn || outcomes[first..].iter().all(|succeeded| *succeeded), "{outcomes:?}");
}

async fn a_clone_is_not_disturbed_by_sweeps_before_each_of_its_requests(inner: InnerBackend) {
    let world = dated();
    let gate = Gate::before_each();
    let stepping = Arc::new(SteppingStore { store: world.objects.clone(), gate: gate.clone() });
    let slow = World { objects: stepping, ..world.clone() };
    let (one, two) = (Daemon::start(&world, settings(inner, 1)), Daemon::start(&slow, settings(inner, 100)));
    let (mut running, handle) = source(&one).await;
    let opening = open(&two.directory, spec_of("other", 1, handle, None));
    tokio::pin!(opening);
    let (mut sweeps, mut next) = (0, 2);
    let mut clone = loop {
        tokio::select! {
            biased;
            stopped = gate.stopped.acquire() => stopped.unwrap().forget(),
            opened = &mut opening => break opened.unwrap(),
        }
        // Once it counts, the source lets go of it, and of the next ones.
        if count(&world, "other/operators").await > 0 && next < 6 {
            fill(&mut running, next);
            running.opened.backend.materialize(running.opened.backend.epoch()).await.unwrap();
            checkpoint(&mut running, next).await;
            next += 1;
        }
        sweep_job(&world, "job").await;
        sweep_job(&world, "other").await;
        sweeps += 1;
        gate.goes_on.add_permits(1);
    };
    assert!(sweeps > 10 && next == 6, "{sweeps} sweeps");
    check(&mut clone, 1);
}

async fn a_clone_holds_what_it_reads_while_its_source_subsumes_and_is_swept(inner: InnerBackend) {
    at_every_step(inner, Trouble::MovesOn).await;
}

async fn a_clone_whose_lease_is_over_stops_with_a_typed_error_or_has_all(inner: InnerBackend) {
    at_every_step(inner, Trouble::Expires).await;
}

async fn a_clone_whose_source_is_discarded_stops_with_a_typed_error_or_has_all(inner: InnerBackend) {
    at_every_step(inner, Trouble::IsDiscarded).await;
}

on_both! {
    a_clone_is_not_disturbed_by_sweeps_before_each_of_its_requests
    a_clone_holds_what_it_reads_while_its_source_subsumes_and_is_swept
    a_clone_whose_lease_is_over_stops_with_a_typed_error_or_has_all
    a_clone_whose_source_is_discarded_stops_with_a_typed_error_or_has_all
}

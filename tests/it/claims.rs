//! Claim modes, clones and discarding: who owns what is restored, and that nobody's deletion harms anybody else.

mod discarding;
mod first_cut;
mod leases;
mod rescaled;
mod runs;
pub(crate) mod stepping;
mod vouched;

use std::{sync::atomic::Ordering, time::Duration};

use dstl::{
    backend::{ClaimMode, Directory, OpenSpec, RestoreFrom, Session},
    changelog::segment::SegmentHandle,
    checkpoint::{
        collect::{self, SweepOptions, SweepReport, Verdict},
        discard::{Discard, Discarded},
        handle::CheckpointHandle,
        ledger::{NoticeKind, NoticeTarget, Retention},
    },
    clock::Clock,
    error::{Error, Reason},
    object::{MemoryStore, Retry, faulty::FaultPlan},
    types::{BackendId, InnerBackend, Name},
};

use crate::support::{Daemon, Settings, Task, World, on_both, spec, states};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };
const KEYS: u64 = 30;

fn settings(inner: InnerBackend, seed: u64) -> Settings {
    let mut settings = Settings::on_request(inner, seed);
    settings.options.retention = Retention::Count(1);
    settings.options.notice_delay = Duration::ZERO;
    settings.options.preemptive_persist_threshold = 100;
    settings
}

/// A world whose store's clock is told.
pub(crate) fn dated() -> World {
    let world = World::new();
    let time = world.time.clone();
    let clock = Clock::new(move || time.load(Ordering::Relaxed));
    World { objects: std::sync::Arc::new(MemoryStore::new(clock)), ..world }
}

async fn sweep_job(world: &World, job: &str) -> SweepReport {
    let now_ms = world.time.load(Ordering::Relaxed);
    let options = SweepOptions { grace: Duration::ZERO, now_ms, delete: true };
    collect::sweep(&world.store(), &Name::new(job).unwrap(), &options, Retry::none()).await.unwrap()
}

/// Job `job` is the source; `other` the clone.
fn spec_of(job: &str, attempt: u64, restore: RestoreFrom, claim: Option<ClaimMode>) -> OpenSpec {
    let plain = spec(0, 1, attempt);
    OpenSpec { id: BackendId { job: Name::new(job).unwrap(), ..plain.id.clone() }, restore, claim, ..plain }
}

async fn open(directory: &Directory, spec: OpenSpec) -> Result<Task, Error> {
    let opened = directory.open(spec, |_| {}).await?;
    let backend = opened.backend.clone();
    backend.register(backend.epoch(), &states())?;
    let session = Session::start(backend.clone(), backend.epoch())?;
    Ok(Task { opened, session })
}

/// Writes `value` under every key, as one batch for each.
fn fill(task: &mut Task, value: u64) {
    for key in 0..KEYS {
        let number = task.session.acknowledgement().0.applied_to;
        task.put(number, &[(&format!("key {key}"), format!("{value} of {key}").as_bytes())]);
    }
}

fn check(task: &mut Task, value: u64) {
    for key in 0..KEYS {
        let number = task.session.acknowledgement().0.applied_to;
        assert_eq!(task.get(number, &format!("key {key}")), Some(format!("{value} of {key}").into_bytes()));
    }
}

async fn checkpoint(task: &mut Task, id: u64) -> RestoreFrom {
    let completed = task.checkpoint(id).await;
    task.notice(NoticeKind::Complete, id);
    RestoreFrom::Handles(vec![CheckpointHandle::decode(&completed.handle).unwrap()])
}

/// A source at work: checkpoint 1 has a base and some log. Returns its handle.
async fn source(daemon: &Daemon) -> (Task, RestoreFrom) {
    let mut task = open(&daemon.directory, spec_of("job", 1, LATEST, None)).await.unwrap();
    fill(&mut task, 0);
    task.opened.backend.materialize(task.opened.backend.epoch()).await.unwrap();
    fill(&mut task, 1);
    let handle = checkpoint(&mut task, 1).await;
    (task, handle)
}

/// Everything of job `job` in the store, told by `part`.
async fn count(world: &World, part: &str) -> usize {
    world.paths(part).await.len()
}

async fn a_clone_survives_the_deletion_of_its_whole_source_after_its_first_checkpoint(inner: InnerBackend) {
    let world = dated();
    let (one, two) = (Daemon::start(&world, settings(inner, 1)), Daemon::start(&world, settings(inner, 100)));
    let (mut running, handle) = source(&one).await;
    let mut clone = open(&two.directory, spec_of("other", 1, handle.clone(), None)).await.unwrap();
    assert_eq!(clone.opened.self_sustained_since, 0);
    assert_eq!(clone.opened.checkpoint.map(|c| c.id), Some(1));
    assert_eq!(&clone.opened.attachment[..], b"at 1");
    assert_eq!(count(&world, "/pins/").await, 0, "released once it is self-sustained");
    check(&mut clone, 1);
    // The source has noticed nothing.
    fill(&mut running, 2);
    checkpoint(&mut running, 2).await;
    sweep_job(&world, "job").await;
    fill(&mut clone, 7);
    assert_eq!(clone.checkpoint(1).await.self_sustained_since, 1);
    clone.notice(NoticeKind::Complete, 1);
    assert_eq!(clone.checkpoint(2).await.self_sustained_since, 1);
    assert_eq!(clone.opened.backend.describe().self_sustained_since, 1);
    let manifest = clone.opened.backend.outline().manifest;
    assert_eq!(manifest.imports, []);
    let segments = manifest.runs.values().flat_map(|run| &run.handles);
    assert!(segments.filter_map(SegmentHandle::segment).all(|segment| segment.job.as_str() == "other"));
    let id = running.opened.backend.id().clone();
    one.directory.close(&id, running.opened.backend.epoch()).await.unwrap();
    let discarded = one.directory.discard(&Discard::Job(id.job.clone()), false).await.unwrap();
    assert!(discarded.checkpoints >= 1 && discarded.objects > 0, "{discarded:?}");
    for part in ["job/segments", "job/operators/op/0/snapshot", "job/operators/op/0/index", "job/pins"] {
        assert_eq!(count(&world, part).await, 0, "{part}");
    }
    two.crash();
    let three = Daemon::start(&world, settings(inner, 200));
    for restore in [RestoreFrom::Id(1), LATEST] {
        let attempt = if restore == LATEST { 3 } else { 2 };
        let mut again = open(&three.directory, spec_of("other", attempt, restore, None)).await.unwrap();
        check(&mut again, 7);
    }
}

async fn without_a_claim_the_restored_checkpoint_stays_and_nothing_of_it_is_needed(inner: InnerBackend) {
    let world = dated();
    let one = Daemon::start(&world, settings(inner, 1));
    let (running, _) = source(&one).await;
    drop(running);
    one.crash();
    let two = Daemon::start(&world, settings(inner, 100));
    let no_claim = Some(ClaimMode::NoClaim);
    let mut task = open(&two.directory, spec_of("job", 2, LATEST, no_claim)).await.unwrap();
    check(&mut task, 1);
    fill(&mut task, 5);
    assert_eq!(task.checkpoint(2).await.self_sustained_since, 2);
    task.notice(NoticeKind::Complete, 2);
    checkpoint(&mut task, 3).await;
    let pinned = NoticeTarget { epoch: 1, id: 1, uuid: None };
    task.session.notice(NoticeKind::Discard, pinned).unwrap();
    task.checkpoint(4).await;
    sweep_job(&world, "job").await;
    let manifest = task.opened.backend.outline().manifest;
    assert!(manifest.checkpoints.iter().any(|record| record.identity.id == 1 && record.pinned));
    let own = manifest.checkpoints.last().unwrap();
    let contents = manifest.contents(own);
    let epoch = task.opened.backend.epoch().number;
    assert!(contents.imports.is_empty() && contents.sources.iter().all(|source| source.epoch == epoch));
    let base = manifest.materialization(contents.base.unwrap()).unwrap();
    assert_eq!((base.from.epoch(), base.index.instance), (epoch, two.directory.environment().instance));
    // Whatever becomes of it.
    let old = format!("segments/{}", one_instance(&manifest));
    assert!(count(&world, &old).await > 0);
    two.crash();
    let three = Daemon::start(&world, settings(inner, 200));
    let mut first = open(&three.directory, spec_of("job", 3, RestoreFrom::Id(1), None)).await.unwrap();
    check(&mut first, 1);
    let refused = three.directory.discard(&Discard::Job(Name::new("job").unwrap()), true).await.unwrap_err();
    assert_eq!(refused.reason, Reason::InUse);
}

async fn a_warm_restart_without_a_claim_needs_nothing_of_the_checkpoint_either(inner: InnerBackend) {
    let world = dated();
    let warm = |seed| {
        let mut settings = settings(inner, seed);
        settings.options.warm = true;
        settings
    };
    let one = Daemon::start(&world, warm(1));
    let (running, handle) = source(&one).await;
    let named = |report: SweepReport| {
        let named = report.findings.into_iter().filter(|f| matches!(f.verdict, Verdict::Live(collect::Live::Named(_))));
        named.map(|finding| finding.meta.path.to_string()).collect::<Vec<_>>()
    };
    let before = named(sweep_job(&world, "job").await);
    assert!(!before.is_empty());
    let no_claim = Some(ClaimMode::NoClaim);
    let mut task = open(&one.directory, spec_of("job", 2, handle.clone(), no_claim)).await.unwrap();
    assert!(task.opened.warm, "{}", task.opened.not_warm);
    drop(running);
    check(&mut task, 1);
    for id in 2..4 {
        let number = task.session.acknowledgement().0.applied_to;
        task.put(number, &[("new", format!("{id}").as_bytes())]);
        assert_eq!(task.checkpoint(id).await.self_sustained_since, 2);
        task.notice(NoticeKind::Complete, id);
    }
    let kept = named(sweep_job(&world, "job").await);
    assert!(before.iter().all(|path| kept.contains(path)), "it is pinned");
    one.crash();
    let two = Daemon::start(&world, warm(100));
    let RestoreFrom::Handles(handles) = &handle else { unreachable!() };
    let identity = handles[0].checkpoint;
    let target = NoticeTarget { epoch: identity.epoch, id: identity.id, uuid: Some(identity.uuid) };
    let discard = Discard::Checkpoint(handles[0].backend.clone(), target);
    assert_eq!(two.directory.discard(&discard, true).await.unwrap().checkpoints, 1);
    sweep_job(&world, "job").await;
    let left = world.paths("").await;
    assert!(before.iter().all(|path| !left.contains(path)), "nothing else named them");
    let mut again = open(&two.directory, spec_of("job", 3, LATEST, None)).await.unwrap();
    check(&mut again, 1);
    assert_eq!(again.get(KEYS, "new"), Some(b"3".to_vec()));
}

/// The instance that wrote the log of the first epoch.
fn one_instance(manifest: &dstl::checkpoint::manifest::Manifest) -> uuid::Uuid {
    manifest.runs[&1].handles.iter().filter_map(SegmentHandle::segment).map(|segment| segment.instance).next().unwrap()
}

async fn a_clone_that_dies_before_its_first_checkpoint_is_cloned_again_and_its_pin_expires(inner: InnerBackend) {
    let world = dated();
    let (one, two) = (Daemon::start(&world, settings(inner, 1)), Daemon::start(&world, settings(inner, 100)));
    let (mut running, handle) = source(&one).await;
    // Its materialization hangs, until it is killed.
    let reader = spec_of("other", 1, handle.clone(), None);
    two.directory.environment().tasks.spawn({
        let (directory, reader) = (two.directory.clone(), reader.clone());
        async move { drop(directory.open(reader, |_| {}).await) }
    });
    while count(&world, "/pins/").await == 0 {
        tokio::task::yield_now().await;
    }
    two.crash();
    fill(&mut running, 2);
    running.opened.backend.materialize(running.opened.backend.epoch()).await.unwrap();
    checkpoint(&mut running, 2).await;
    fill(&mut running, 3);
    let newest = checkpoint(&mut running, 3).await;
    let kept = sweep_job(&world, "job").await;
    assert!(kept.findings.iter().any(|f| matches!(f.verdict, Verdict::Live(collect::Live::Pinned(_)))));
    let three = Daemon::start(&world, settings(inner, 200));
    let gone = open(&three.directory, spec_of("other", 2, handle, None)).await.err().unwrap();
    assert_eq!(gone.reason, Reason::CheckpointNotFound, "the pin was not its own: {gone}");
    let mut clone = open(&three.directory, spec_of("other", 2, newest, None)).await.unwrap();
    check(&mut clone, 3);
    assert_eq!(count(&world, "/pins/").await, 1, "that of the dead one");
    world.time.fetch_add(700_000, Ordering::Relaxed);
    sweep_job(&world, "job").await;
    assert_eq!(count(&world, "/pins/").await, 0);
    let after = sweep_job(&world, "job").await;
    assert!(after.deleted().objects > 0);
    let pinned = |f: &&collect::Finding| matches!(f.verdict, Verdict::Live(collect::Live::Pinned(_)));
    assert_eq!(after.findings.iter().filter(pinned).count(), 0);
}

async fn a_checkpoint_that_is_not_open_is_discarded_by_handle_and_its_owner_elsewhere_is_fenced(inner: InnerBackend) {
    let world = dated();
    let (one, two) = (Daemon::start(&world, settings(inner, 1)), Daemon::start(&world, settings(inner, 100)));
    let (mut running, handle) = source(&one).await;
    let RestoreFrom::Handles(handles) = &handle else { unreachable!() };
    let identity = handles[0].checkpoint;
    let target = NoticeTarget { epoch: identity.epoch, id: identity.id, uuid: Some(identity.uuid) };
    let discard = Discard::Checkpoint(handles[0].backend.clone(), target);
    assert_eq!(one.directory.discard(&discard, true).await.unwrap_err().reason, Reason::InUse, "it is open here");
    running.opened.backend.pin(running.opened.backend.epoch(), target).await.unwrap();
    assert_eq!(two.directory.discard(&discard, false).await.unwrap_err().reason, Reason::InUse, "it is pinned");
    assert_eq!(two.directory.discard(&discard, true).await.unwrap().checkpoints, 1);
    assert_eq!(two.directory.discard(&discard, false).await.unwrap().checkpoints, 0, "idempotent");
    running.barrier(9);
    let event = running.event().await;
    assert!(format!("{event:?}").contains("Fenced"), "{event:?}");
    sweep_job(&world, "job").await;
    assert_eq!(count(&world, "job/segments").await, 0);
    assert_eq!(count(&world, "/snapshot/").await, 0);
    let gone = open(&two.directory, spec_of("job", 2, RestoreFrom::Id(1), None)).await.err().unwrap();
    assert_eq!(gone.reason, Reason::CheckpointNotFound);
    let missing = Discard::Job(Name::new("nobody").unwrap());
    assert_eq!(two.directory.discard(&missing, false).await.unwrap(), Discarded::default());
}

async fn claiming_what_is_anothers_and_mixing_operators_are_refused(inner: InnerBackend) {
    let world = dated();
    let one = Daemon::start(&world, settings(inner, 1));
    let (_running, handle) = source(&one).await;
    let refused = |spec| async { open(&one.directory, spec).await.err().unwrap().reason };
    let claim = spec_of("other", 1, handle.clone(), Some(ClaimMode::Claim));
    assert_eq!(refused(claim).await, Reason::InvalidArgument);
    let RestoreFrom::Handles(mut handles) = handle else { unreachable!() };
    let mut foreign = handles[0].clone();
    foreign.backend.operator = Name::new("another").unwrap();
    handles.push(foreign);
    let mixed = spec_of("other", 1, RestoreFrom::Handles(handles), None);
    assert_eq!(refused(mixed).await, Reason::InvalidArgument);
    assert_eq!(count(&world, "/pins/").await + count(&world, "other/").await, 0);
}

on_both! {
    a_clone_survives_the_deletion_of_its_whole_source_after_its_first_checkpoint
    without_a_claim_the_restored_checkpoint_stays_and_nothing_of_it_is_needed
    a_warm_restart_without_a_claim_needs_nothing_of_the_checkpoint_either
    a_clone_that_dies_before_its_first_checkpoint_is_cloned_again_and_its_pin_expires
    a_checkpoint_that_is_not_open_is_discarded_by_handle_and_its_owner_elsewhere_is_fenced
    claiming_what_is_anothers_and_mixing_operators_are_refused
}

//! What stays bounded however often something happens, and what one wrong or lost answer of the store costs.

use std::{sync::atomic::Ordering, time::Duration};

use dstl::{
    backend::{BackendOptions, OpenSpec, Opened, RestoreFrom},
    checkpoint::{
        collect::{self, SweepOptions},
        ledger::{NoticeKind, Retention},
    },
    error::{Error, Reason},
    object::Retry,
    types::{InnerBackend, Limits, Name, StateDescriptor, StateKind, Ttl},
};
use object_store::ObjectStoreExt as _;
use tokio::time::{sleep, timeout};

use crate::{
    lying::Lie,
    picky::Refused,
    support::{Daemon, Settings, Task, World, on_both, spec},
};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };

on_both! {
    retention_holds_where_each_attempt_dies_soon_after_its_only_checkpoint: super::retention_over_restarts;
    at_the_limit_of_retained_checkpoints_barriers_go_on: super::at_the_limit;
    one_wrong_answer_is_no_damage: super::one_wrong_answer;
    a_mark_of_damage_is_taken_back_once_the_object_reads_well: super::taken_back;
    a_lost_newest_manifest_of_one_subtask_is_told: super::lost_manifest;
    entries_expire_on_a_host_whose_clock_is_behind: super::clock_behind;
    a_sweep_does_not_read_what_every_restart_left: super::fences;
    a_silent_backend_keeps_no_segments_of_others: super::silent_neighbour;
}

fn settings(inner: InnerBackend, seed: u64) -> Settings {
    let settings = Settings::on_request(inner, seed);
    Settings { options: BackendOptions { retention: Retention::Count(2), ..settings.options }, ..settings }
}

fn job() -> Name {
    Name::new("job").unwrap()
}

fn retained(task: &Task) -> usize {
    task.opened.backend.outline().manifest.checkpoints.len()
}

async fn sweep(world: &World) -> collect::SweepReport {
    let options = SweepOptions { grace: Duration::ZERO, now_ms: 0, delete: true };
    collect::sweep(&world.store(), &job(), &options, Retry::none()).await.unwrap()
}

async fn retention_over_restarts(inner: InnerBackend) {
    let world = World::new();
    for attempt in 1..=20 {
        let daemon = Daemon::start(&world, settings(inner, 10 * attempt));
        let mut task = daemon.task(attempt, LATEST).await.unwrap();
        if attempt > 1 {
            assert_eq!(task.get(0, "key"), Some(vec![(attempt - 1) as u8]));
        }
        assert!(retained(&task) <= 3, "attempt {attempt} begins with {}", retained(&task));
        task.put(u64::from(attempt > 1), &[("key", &[attempt as u8])]);
        task.checkpoint(1).await;
        task.notice(NoticeKind::Complete, 1);
        // Before anything says that on the store.
        daemon.crash();
    }
    let daemon = Daemon::start(&world, settings(inner, 999));
    let error = daemon.task(50, RestoreFrom::Id(2)).await.err().unwrap();
    assert_eq!(error.reason, Reason::CheckpointNotFound);
}

async fn at_the_limit(inner: InnerBackend) {
    let world = World::new();
    let settings = |seed| {
        let mut settings = settings(inner, seed);
        settings.options.limits = Limits { max_retained_checkpoints: 6, ..Limits::default() };
        settings
    };
    let daemon = Daemon::start(&world, settings(1));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    task.put(0, &[("key", b"first")]);
    let first = task.checkpoint(1).await;
    // Each goes back to the first one, and none of their own completes.
    for attempt in 2..=12 {
        let handle = dstl::checkpoint::handle::CheckpointHandle::decode(&first.handle).unwrap();
        let mut task = daemon.task(attempt, RestoreFrom::Handles(vec![handle])).await.unwrap();
        assert_eq!(task.get(0, "key"), Some(b"first".to_vec()), "attempt {attempt}");
        task.put(1, &[("key", b"other")]);
        task.checkpoint(2).await;
        assert!(retained(&task) <= 6, "{}", retained(&task));
    }
}

/// A job of one task with checkpoints 1 to 3, all completed, and a base.
async fn three_checkpoints(world: &World, inner: InnerBackend) {
    let daemon = Daemon::start(world, settings(inner, 1));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    for id in 1..=3 {
        task.put(id - 1, &[("key", &[id as u8; 100_000])]);
        task.checkpoint(id).await;
        task.notice(NoticeKind::Complete, id);
        if id == 1 {
            task.opened.backend.materialize(task.opened.backend.epoch()).await.unwrap();
        }
    }
    let backend = &task.opened.backend;
    daemon.directory.close(backend.id(), backend.epoch()).await.unwrap();
}

async fn open_latest(daemon: &Daemon, attempt: u64, fallback: bool) -> Result<Opened, Error> {
    let spec = OpenSpec { restore: RestoreFrom::Latest { or_empty: false }, fallback, ..spec(0, 1, attempt) };
    daemon.directory.open(spec, |_| {}).await
}

async fn one_wrong_answer(inner: InnerBackend) {
    for part in ["/segments/", "/snapshot/", "/manifest/", "/job/0"] {
        for fallback in [true, false] {
            let lie = Lie::default();
            let world = lie.by(World::new());
            three_checkpoints(&world, inner).await;
            let daemon = Daemon::start(&world, settings(inner, 100));
            // So that there is a record of the job.
            drop(open_latest(&daemon, 2, fallback).await.unwrap());
            let daemon = Daemon::start(&world, settings(inner, 200));
            lie.about(part);
            let opened = open_latest(&daemon, 3, fallback).await.unwrap_or_else(|error| panic!("{part}: {error}"));
            assert!(lie.is_told(), "{part} was not read");
            assert_eq!((opened.checkpoint.unwrap().id, opened.skipped.len()), (3, 0), "{part}");
            assert!(daemon.directory.describe_job(&job()).await.unwrap().damaged.is_empty(), "{part}");
        }
    }
}

async fn taken_back(inner: InnerBackend) {
    let world = World::new();
    three_checkpoints(&world, inner).await;
    // Large, so that only a restore finds it.
    let segment = world.paths("/segments/").await.pop().unwrap();
    let path = object_store::path::Path::from(segment.as_str());
    let whole = world.objects.get(&path).await.unwrap().bytes().await.unwrap();
    let mut damaged = whole.to_vec();
    damaged[50_000] ^= 1;
    world.objects.put(&path, damaged.into()).await.unwrap();
    let daemon = Daemon::start(&world, settings(inner, 100));
    let opened = open_latest(&daemon, 2, true).await.unwrap();
    assert_eq!(opened.checkpoint.unwrap().id, 2);
    assert_eq!(opened.skipped.len(), 1, "{:?}", opened.skipped);
    let again = open_latest(&Daemon::start(&world, settings(inner, 200)), 3, true).await.unwrap();
    assert_eq!(again.checkpoint.unwrap().id, 2, "looked at again, and damaged still");
    world.objects.put(&path, whole.into()).await.unwrap();
    let daemon = Daemon::start(&world, settings(inner, 300));
    let back = open_latest(&daemon, 4, true).await.unwrap();
    assert_eq!((back.checkpoint.unwrap().id, back.skipped.len()), (3, 0));
    assert_eq!(daemon.directory.describe_job(&job()).await.unwrap().damaged, []);
}

async fn lost_manifest(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut tasks = [daemon.subtask(0, 2, 1, LATEST).await.unwrap(), daemon.subtask(1, 2, 1, LATEST).await.unwrap()];
    for id in 1..=2 {
        for task in &mut tasks {
            task.put(id - 1, &[("key", &[id as u8])]);
            task.checkpoint(id).await;
        }
        for task in &mut tasks {
            task.notice(NoticeKind::Complete, id);
        }
        // So that the notices are durable.
        sleep(Duration::from_secs(20)).await;
    }
    daemon.crash();
    let manifests = world.paths("op/1/manifest/").await;
    let number = |path: &String| path.rsplit('/').next().unwrap().parse::<u64>().unwrap();
    // Opened, 1, its completion, 2, its completion.
    for path in manifests.iter().filter(|path| number(path) > 3) {
        world.objects.delete(&object_store::path::Path::from(path.as_str())).await.unwrap();
    }
    for (attempt, or_empty) in [(2, false), (3, true)] {
        let daemon = Daemon::start(&world, settings(inner, 10 * attempt));
        for subtask in [0, 1] {
            let open = daemon.subtask(subtask, 2, attempt, RestoreFrom::Latest { or_empty }).await;
            let error = open.err().unwrap();
            assert_eq!(error.reason, Reason::MissingObject, "{error}");
            assert!(error.message.contains("`job/op/1`") && error.message.contains("checkpoint 2"), "{error}");
        }
    }
    let daemon = Daemon::start(&world, settings(inner, 90));
    for subtask in [0, 1] {
        let restore = RestoreFrom::Latest { or_empty: false };
        let spec = OpenSpec { restore, fallback: true, ..spec(subtask, 2, 4) };
        let opened = daemon.directory.open(spec, |_| {}).await.unwrap();
        assert_eq!(opened.checkpoint.unwrap().id, 1);
        assert_eq!(opened.skipped.iter().map(|it| it.checkpoint.id).collect::<Vec<_>>(), [2]);
    }
}

async fn clock_behind(inner: InnerBackend) {
    const LIVES: u64 = 3_000;
    let world = World::new();
    world.time.store(1_000_000_000, Ordering::Relaxed);
    let ages = [StateDescriptor { ttl: Some(Ttl::new(LIVES)), ..StateDescriptor::new("ages", StateKind::Value) }];
    let daemon = Daemon::start(&world, settings(inner, 1));
    let open = async |daemon: &Daemon, attempt| {
        let spec = OpenSpec { restore: LATEST, ..spec(0, 1, attempt) };
        let opened = daemon.directory.open(spec, |_| {}).await.unwrap();
        opened.backend.register(opened.backend.epoch(), &ages).unwrap();
        let session = dstl::backend::Session::start(opened.backend.clone(), opened.backend.epoch()).unwrap();
        Task { opened, session }
    };
    let mut task = open(&daemon, 1).await;
    task.put(0, &[("old", b"1")]);
    task.checkpoint(1).await;
    daemon.crash();
    // A week behind.
    world.time.store(1_000_000_000 - 604_800_000, Ordering::Relaxed);
    let daemon = Daemon::start(&world, settings(inner, 9));
    let mut task = open(&daemon, 2).await;
    assert!(task.get(0, "old").is_some(), "nothing live vanishes");
    task.put(1, &[("new", b"2")]);
    world.time.fetch_add(LIVES / 2, Ordering::Relaxed);
    assert!(task.get(2, "new").is_some());
    world.time.fetch_add(LIVES * 3 / 5, Ordering::Relaxed);
    assert_eq!((task.get(3, "new"), task.get(4, "old")), (None, None), "though the clock is a week behind");
    // Back once more: nothing that expired comes back.
    world.time.fetch_sub(LIVES * 10, Ordering::Relaxed);
    assert_eq!(task.get(5, "new"), None);
}

async fn fences(inner: InnerBackend) {
    let refused = Refused::default();
    let world = refused.by(World::new());
    let daemon = Daemon::start(&world, settings(inner, 1));
    for attempt in 1..=40 {
        let mut task = daemon.task(attempt, LATEST).await.unwrap();
        // Epochs of 2, 3 and 4 manifests.
        for id in 1..=1 + attempt % 3 {
            task.put(id - 1, &[("key", &[attempt as u8])]);
            task.checkpoint(id).await;
            task.notice(NoticeKind::Complete, id);
        }
    }
    let mut task = daemon.task(41, LATEST).await.unwrap();
    task.checkpoint(1).await;
    sleep(Duration::from_secs(10)).await;
    let manifests = world.paths("/manifest/").await.len();
    assert!((80..110).contains(&manifests), "the first and last of each epoch, and the newest: {manifests}");
    refused.take_reads();
    let report = sweep(&world).await;
    let reads = refused.take_reads().iter().filter(|path| path.contains("/manifest/")).count();
    assert!(reads <= 20, "{reads} manifests of {manifests} were read");
    assert!(report.findings.iter().all(|it| it.verdict.word() != "unknown"));
    let mut task = daemon.task(42, LATEST).await.unwrap();
    assert_eq!(task.get(0, "key"), Some(vec![40]));
}

async fn silent_neighbour(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let _silent = daemon.subtask(0, 2, 1, LATEST).await.unwrap();
    let mut busy = daemon.subtask(1, 2, 1, LATEST).await.unwrap();
    for id in 1..=50 {
        busy.put(id - 1, &[("key", &[id as u8; 1000])]);
        busy.checkpoint(id).await;
        busy.notice(NoticeKind::Complete, id);
    }
    let backend = &busy.opened.backend;
    timeout(Duration::from_secs(600), backend.materialize(backend.epoch())).await.unwrap().unwrap();
    for id in 51..=53 {
        busy.put(id - 1, &[("key", &[id as u8; 1000])]);
        busy.checkpoint(id).await;
        busy.notice(NoticeKind::Complete, id);
    }
    sleep(Duration::from_secs(120)).await;
    sweep(&world).await;
    let left = world.paths("/segments/").await.len();
    assert!(left <= 10, "{left} segments are kept for a backend that is silent");
}

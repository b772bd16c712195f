//! The sweep by schedule: daemons delete the garbage of the jobs that they serve, and nobody waits for it.

use std::{collections::BTreeMap, process::Command, sync::Arc, time::Duration};

use dstl::{
    backend::RestoreFrom,
    checkpoint::{
        collect::{
            metrics::GcMetrics,
            schedule::{Collector, ScheduleOptions},
        },
        ledger::NoticeKind,
    },
    client::{Client, OpenOptions},
    clock::Clock,
    object::{MemoryStore, Retry},
};
use object_store::{ObjectStoreExt as _, path::Path};
use tokio::time::Instant;

use crate::support::{Daemon, Settings, World};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };

/// The schedule of these tests.
const SCHEDULE: ScheduleOptions =
    ScheduleOptions { interval: Duration::from_secs(100), grace: Duration::from_secs(1000) };

/// A world whose store's clock goes with tokio's, which is paused.
fn ticking() -> World {
    let start = Instant::now();
    let clock = Clock::new(move || 1_000_000 + u64::try_from(start.elapsed().as_millis()).unwrap());
    World { objects: Arc::new(MemoryStore::new(clock)), ..World::new() }
}

fn start(world: &World, seed: u64) -> Daemon {
    let daemon = Daemon::start(world, Settings { seed, ..Settings::default() });
    let (env, directory) = (daemon.directory.environment().clone(), daemon.directory.clone());
    let metrics = GcMetrics::register(&daemon.metrics);
    let collector = Collector::new(env.store.clone(), env.random.clone(), env.tasks.clone(), SCHEDULE, metrics);
    env.tasks.spawn(collector.run(move || directory.jobs()));
    daemon
}

/// The values of the samples of `dstl_gc_…` metrics, without buckets.
fn samples(daemon: &Daemon) -> BTreeMap<String, f64> {
    let text = daemon.metrics.encode();
    let lines = text.lines().filter(|line| line.starts_with("dstl_gc_") && !line.contains("_bucket"));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, value)| (name.into(), value.parse().unwrap())).collect()
}

fn sweeps(daemon: &Daemon, outcome: &str) -> f64 {
    let name = format!(r#"dstl_gc_sweeps_total{{job="job",outcome="{outcome}"}}"#);
    samples(daemon).get(&name).copied().unwrap_or_default()
}

/// Leaves a segment that no manifest names; returns its path and size.
async fn lose_a_segment(world: &World) -> (Path, u64) {
    let daemon = Daemon::start(world, Settings { seed: 1, ..Settings::default() });
    let mut task = daemon.task(1, LATEST).await.unwrap();
    task.put(0, &[("key", b"1")]);
    task.checkpoint(1).await;
    task.notice(NoticeKind::Complete, 1);
    task.put(1, &[("key", b"lost")]);
    task.session.persist(1).unwrap();
    task.event().await;
    daemon.crash();
    let segments = world.store().list(&Path::from("job/segments"), Retry::none()).await.unwrap();
    let last = segments.last().unwrap();
    (last.path.clone(), last.size)
}

#[tokio::test(start_paused = true)]
async fn garbage_goes_after_its_grace_and_metrics_are_exact() {
    let world = ticking();
    let (lost, size) = lose_a_segment(&world).await;
    let daemon = start(&world, 10);
    let mut task = daemon.task(2, LATEST).await.unwrap();
    tokio::time::sleep(Duration::from_secs(900)).await;
    assert!(world.objects.head(&lost).await.is_ok(), "it is young");
    assert!((7.0..=10.0).contains(&sweeps(&daemon, "completed")), "{}", sweeps(&daemon, "completed"));
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(world.objects.head(&lost).await.is_err());
    let completed = sweeps(&daemon, "completed");
    let job = |name: &str| format!(r#"dstl_gc_{name}{{job="job"}}"#);
    let expected: BTreeMap<String, f64> = [
        (r#"dstl_gc_sweeps_total{job="job",outcome="completed"}"#.to_owned(), completed),
        (job("consecutive_failures"), 0.0),
        (job("deleted_objects_total"), 1.0),
        (job("deleted_bytes_total"), size as f64),
        ("dstl_gc_sweep_duration_seconds_count".to_owned(), completed),
        ("dstl_gc_sweep_duration_seconds_sum".to_owned(), 0.0),
    ]
    .into();
    assert_eq!(samples(&daemon), expected);
    assert_eq!(world.paths("/sweeps/").await, [format!("job/sweeps/{completed:020}")], "only the newest lease stays");
    assert_eq!(task.get(0, "key"), Some(b"1".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_counted_and_the_next_interval_tries_again() {
    let world = ticking();
    let daemon = start(&world, 10);
    let mut task = daemon.task(1, LATEST).await.unwrap();
    tokio::time::sleep(Duration::from_secs(250)).await;
    let completed = sweeps(&daemon, "completed");
    assert!(completed >= 2.0);
    daemon.faults.set_outage(true);
    task.put(0, &[("key", b"1")]);
    task.barrier(1);
    tokio::time::sleep(Duration::from_secs(350)).await;
    let failed = sweeps(&daemon, "failed");
    assert!((3.0..=4.0).contains(&failed), "{failed}");
    assert_eq!(samples(&daemon)[r#"dstl_gc_consecutive_failures{job="job"}"#], failed);
    assert_eq!(sweeps(&daemon, "completed"), completed);
    daemon.faults.set_outage(false);
    assert!(matches!(task.event().await, dstl::backend::SessionEvent::CheckpointCompleted(_)));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(samples(&daemon)[r#"dstl_gc_consecutive_failures{job="job"}"#], 0.0);
    assert_eq!(sweeps(&daemon, "failed"), failed);
}

#[tokio::test(start_paused = true)]
async fn daemons_of_one_job_share_its_sweeps() {
    let world = ticking();
    let daemons: Vec<_> = (1..=3).map(|n| start(&world, n * 100)).collect();
    for (subtask, daemon) in daemons.iter().enumerate() {
        daemon.subtask(subtask as u32, 3, 1, LATEST).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2000)).await;
    let sum = |outcome| daemons.iter().map(|daemon| sweeps(daemon, outcome)).sum::<f64>();
    let (completed, skipped) = (sum("completed"), sum("skipped"));
    assert!((54.0..=66.0).contains(&(completed + skipped)), "each daemon looks every 100 s: {completed} + {skipped}");
    assert!((18.0..=41.0).contains(&completed), "at most every 50 s: {completed}");
    assert_eq!(world.paths("/sweeps/").await, [format!("job/sweeps/{completed:020}")]);
    // The one that sweeps may die: another goes on.
    for daemon in &daemons[..2] {
        daemon.directory.environment().tasks.abort_all();
    }
    let before = sweeps(&daemons[2], "completed");
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(sweeps(&daemons[2], "completed") - before >= 8.0);
}

#[tokio::test(start_paused = true)]
async fn a_closed_job_is_swept_once_more_after_the_grace_and_then_left_alone() {
    let world = ticking();
    let (lost, _) = lose_a_segment(&world).await;
    let daemon = start(&world, 10);
    let backend = daemon.task(2, LATEST).await.unwrap().opened.backend;
    daemon.directory.close(backend.id(), backend.epoch()).await.unwrap();
    drop(backend);
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(world.objects.head(&lost).await.is_ok(), "it is young");
    assert!(sweeps(&daemon, "completed") > 0.0);
    tokio::time::sleep(Duration::from_secs(350)).await;
    assert!(world.objects.head(&lost).await.is_err());
    assert!(!samples(&daemon).keys().any(|name| name.contains("job=")), "the job is forgotten");
    let requests = daemon.faults.counts();
    tokio::time::sleep(Duration::from_secs(5000)).await;
    assert_eq!(daemon.faults.counts(), requests);
}

/// A daemon of the real binary; killed when dropped.
struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_daemon_sweeps_as_configured() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let garbage = store.join("job/segments/11111111-1111-4111-8111-111111111111/00000000000000000001");
    std::fs::create_dir_all(garbage.parent().unwrap()).unwrap();
    std::fs::write(&garbage, "of a daemon that died before its manifest").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dstl"));
    command.args(["serve", "--admin", "off", "--socket"]).arg(folder.path().join("s")).arg("--store").arg(&store);
    for setting in ["gc.interval=1 s", "gc.grace-period=1 s", "execution.checkpointing.timeout=1 s"] {
        command.args(["--set", setting]);
    }
    command.args(["--set", "state.changelog.dstl.dfs.upload.timeout=1 s"]).env_clear();
    let _daemon = Process(command.stderr(std::process::Stdio::null()).spawn().unwrap());
    let begun = Instant::now();
    let patience = Duration::from_secs(30);
    let client = loop {
        match Client::connect(folder.path().join("s")).await {
            Ok(client) => break client,
            Err(error) => assert!(begun.elapsed() < patience, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let _backend = client.open(OpenOptions::new("job", "operator").attempt(1)).await.unwrap();
    while garbage.exists() {
        assert!(begun.elapsed() < patience, "it is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

//! The scenarios of many backends: `multi` and `idle`.

use std::{
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dstl::client::{BatchBuilder, Client, OpenOptions, Session, StateOptions, ValueState};
use serde::Serialize;
use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::{Fault, Options, Scenario, daemon::Daemon, report::Distribution, source::Source};

/// Backends of `multi`, and their checkpoints.
const BUSY: u32 = 8;
const CHECKPOINT_EVERY: Duration = Duration::from_millis(100);

/// Updates of a backend of `multi` between two checkpoints.
const UPDATES: usize = 100;

/// Backends of `idle`.
const IDLE: u32 = 100;

/// The cost of many backends.
#[derive(Debug, Serialize)]
pub(crate) struct Scaled {
    scenario: Scenario,
    backends: u32,
    checkpoint_ms: Distribution,
    /// Requests to the store that create an object.
    objects_per_second: f64,
    /// Of one core.
    daemon_cpu_share: f64,
    daemon_rss_bytes: u64,
}

/// Eight backends that write little, each with ten checkpoints a second.
pub(crate) async fn multi(options: &Options) -> Result<Scaled, Fault> {
    let (daemon, client) = Daemon::start(options).await?;
    let mut tasks = JoinSet::new();
    for subtask in 0..BUSY {
        let (session, state) = open(&client, (subtask, BUSY)).await?;
        tasks.spawn(checkpoints(session, state, Source::new(options), options.window() * 2));
    }
    // The first half is the warm-up.
    tokio::time::sleep(options.window()).await;
    let before = Sample::of(&daemon)?;
    let mut durations = vec![];
    while let Some(done) = tasks.join_next().await {
        durations.extend(done??);
    }
    scaled(Scenario::Multi, (BUSY, durations), (&daemon, before))
}

/// A hundred open backends, to which nothing happens.
pub(crate) async fn idle(options: &Options) -> Result<Scaled, Fault> {
    // Each backend is guaranteed memory for its largest batch.
    let guaranteed = "state.changelog.dstl.dfs.upload.max-in-flight=1 GiB".to_owned();
    let set = options.set.iter().cloned().chain([guaranteed]).collect();
    let (daemon, client) = Daemon::start(&Options { set, ..options.clone() }).await?;
    let mut open_ones = vec![];
    for subtask in 0..IDLE {
        open_ones.push(open(&client, (subtask, IDLE)).await?);
    }
    tokio::time::sleep(Duration::from_secs(options.warm_up)).await;
    let before = Sample::of(&daemon)?;
    tokio::time::sleep(options.window()).await;
    scaled(Scenario::Idle, (IDLE, vec![]), (&daemon, before))
}

async fn open(client: &Client, (subtask, of): (u32, u32)) -> Result<(Session, ValueState<u64, Vec<u8>>), Fault> {
    let backend = client.open(OpenOptions::new("load", "scale").subtask(subtask, of).attempt(1)).await?;
    let state = backend.value_state("values", StateOptions::new()).await?;
    // Keys of all key groups: each operation names one that the subtask has.
    let first = backend.opened().key_groups.as_ref().map_or(0, |range| range.first);
    Ok((backend.session().await?, state.key_group(first)))
}

/// Checkpoints and writes for so long; tells how many milliseconds each took, but for the first half.
async fn checkpoints(
    session: Session,
    state: ValueState<u64, Vec<u8>>,
    mut source: Source,
    time: Duration,
) -> Result<Vec<f64>, Fault> {
    let (begun, mut durations) = (Instant::now(), vec![]);
    let mut ticks = tokio::time::interval(CHECKPOINT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for id in 1.. {
        ticks.tick().await;
        if begun.elapsed() > time {
            break;
        }
        let mut batch = BatchBuilder::new();
        for _ in 0..UPDATES {
            batch.push(state.put(&source.key(), source.value()));
        }
        session.send(batch).await?;
        let triggered = Instant::now();
        let completed = session.barrier(id, Bytes::new()).await?.await?;
        if begun.elapsed() > time / 2 {
            durations.push(triggered.elapsed().as_secs_f64() * 1e3);
        }
        if let Some(identity) = &completed.checkpoint {
            session.complete(identity).await?;
        }
    }
    Ok(durations)
}

/// The daemon's use of time and store so far.
struct Sample {
    at: Instant,
    objects: f64,
    cpu: Duration,
}

impl Sample {
    fn of(daemon: &Daemon) -> Result<Self, Fault> {
        let objects = daemon.metric("dstl_object_requests_total", "operation=\"create\"")?;
        Ok(Self { at: Instant::now(), objects, cpu: daemon.usage()?.cpu })
    }
}

fn scaled(
    scenario: Scenario,
    (backends, durations): (u32, Vec<f64>),
    (daemon, before): (&Daemon, Sample),
) -> Result<Scaled, Fault> {
    let after = Sample::of(daemon)?;
    let seconds = (after.at - before.at).as_secs_f64();
    Ok(Scaled {
        scenario,
        backends,
        checkpoint_ms: Distribution::of(durations),
        objects_per_second: (after.objects - before.objects) / seconds,
        daemon_cpu_share: (after.cpu - before.cpu).as_secs_f64() / seconds,
        daemon_rss_bytes: daemon.usage()?.rss_bytes,
    })
}

impl fmt::Display for Scaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, backends, checkpoint_ms: ms, objects_per_second, daemon_cpu_share, daemon_rss_bytes } =
            self;
        writeln!(f, "{scenario}, {backends} backends")?;
        if ms.count > 0 {
            writeln!(
                f,
                "  checkpoints      {} in ms p50 {:.1}, p99 {:.1}, max {:.1}",
                ms.count, ms.p50, ms.p99, ms.max
            )?;
        }
        writeln!(f, "  objects/s        {objects_per_second:.1}")?;
        write!(f, "  daemon           {:.2} % of a core, {} MiB", daemon_cpu_share * 100.0, daemon_rss_bytes >> 20)
    }
}

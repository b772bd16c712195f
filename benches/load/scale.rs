//! The scenarios of many backends: `multi` and `idle`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dstl::{
    client::{BatchBuilder, Client, OpenOptions, Session, StateOptions, ValueState},
    proto::v1::KeyGroupAssignment,
};
use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::{
    Fault, Scenario,
    daemon::{Daemon, Metrics},
    figures::{Distribution, Figures},
    options::Options,
    process::Usage,
    source::Source,
};

/// Backends of `multi`, and their checkpoints.
const BUSY: u32 = 8;
const CHECKPOINT_EVERY: Duration = Duration::from_millis(100);

/// Updates of a backend of `multi` between two checkpoints.
const UPDATES: usize = 100;

/// Backends of `idle`.
const IDLE: u32 = 100;

/// Eight backends that write little, each with ten checkpoints a second.
pub(crate) async fn multi(options: &Options) -> Result<Vec<Figures>, Fault> {
    let (daemon, client) = Daemon::start(options).await?;
    let mut tasks = JoinSet::new();
    for subtask in 0..BUSY {
        let (session, state) = open(&client, subtask, BUSY).await?;
        tasks.spawn(checkpoints(session, state, Source::new(options), options.window() * 2));
    }
    // The first half is the warm-up.
    tokio::time::sleep(options.window()).await;
    let before = Sample::of(&daemon)?;
    let mut durations = vec![];
    while let Some(done) = tasks.join_next().await {
        durations.extend(done??);
    }
    let operations = durations.len() * UPDATES;
    let mut figures = before.figures(Scenario::Multi, &daemon, options)?.with("backends", BUSY);
    figures.operations = Some(operations as u64);
    figures.checkpoint_ms = Some(Distribution::of(durations));
    Ok(vec![figures])
}

/// A hundred open backends, to which nothing happens.
pub(crate) async fn idle(options: &Options) -> Result<Vec<Figures>, Fault> {
    // Each backend is guaranteed memory for its largest batch.
    let guaranteed = "state.changelog.dstl.dfs.upload.max-in-flight=1 GiB".to_owned();
    let (daemon, client) = Daemon::start(&options.with(&[guaranteed])).await?;
    let mut open_ones = vec![];
    for subtask in 0..IDLE {
        open_ones.push(open(&client, subtask, IDLE).await?);
    }
    tokio::time::sleep(Duration::from_secs(options.warm_up)).await;
    let before = Sample::of(&daemon)?;
    tokio::time::sleep(options.window()).await;
    Ok(vec![before.figures(Scenario::Idle, &daemon, options)?.with("backends", IDLE)])
}

/// Opens one of `parallelism` subtasks, with a state whose keys are all in one of its key groups.
pub(crate) async fn open(
    client: &Client,
    subtask: u32,
    parallelism: u32,
) -> Result<(Session, ValueState<u64, Vec<u8>>), Fault> {
    let options = OpenOptions::new("load", "scale").subtask(subtask, parallelism).attempt(1);
    let backend = client.open(options.key_group_assignment(KeyGroupAssignment::Given)).await?;
    let state = backend.value_state("values", StateOptions::new()).await?;
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
        let receipt = session.send(batch).await?;
        let triggered = Instant::now();
        let completed = session.barrier(id, Bytes::new()).await?.await?;
        if begun.elapsed() > time / 2 {
            durations.push(triggered.elapsed().as_secs_f64() * 1e3);
        }
        receipt.applied().await?;
        if let Some(identity) = &completed.checkpoint {
            session.complete(identity).await?;
        }
    }
    Ok(durations)
}

/// The daemon's use of time and store so far.
struct Sample {
    at: Instant,
    metrics: Metrics,
    daemon: Usage,
}

impl Sample {
    fn of(daemon: &Daemon) -> Result<Self, Fault> {
        Ok(Self { at: Instant::now(), metrics: daemon.metrics()?, daemon: daemon.usage()? })
    }

    /// The work of the daemon since then.
    fn figures(&self, scenario: Scenario, daemon: &Daemon, options: &Options) -> Result<Figures, Fault> {
        let after = Self::of(daemon)?;
        let seconds = (after.at - self.at).as_secs_f64();
        let since = |name: &str, label: &str| after.metrics.sum_of(name, label) - self.metrics.sum_of(name, label);
        let objects = since("dstl_object_requests_total", "operation=\"create\"");
        let written = since("dstl_object_written_bytes_total", "");
        let appended = since("dstl_changelog_appended_bytes_total", "");
        let mut figures = Figures::new(scenario, options);
        figures.objects_written = Some(objects as u64);
        figures.bytes_written = Some(written as u64);
        figures.daemon_rss_bytes = Some(after.daemon.rss_bytes);
        figures.set("seconds", seconds);
        figures.set("objects_per_second", objects / seconds);
        figures.set("requests_per_second", since("dstl_object_requests_total", "") / seconds);
        figures.set("daemon_cores", (after.daemon.cpu - self.daemon.cpu).as_secs_f64() / seconds);
        figures.set("change_bytes", appended as u64);
        if appended > 0.0 {
            figures.set("written_to_change_bytes", written / appended);
        }
        figures.set("materializations", since("dstl_materialization_completed_total", "") as u64);
        Ok(figures)
    }
}

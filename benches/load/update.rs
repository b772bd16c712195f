//! The scenario `update`: one task that has nothing to do but write, as fast as it is let.

use std::{
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dstl::client::{BatchBuilder, Client, ClientError, OpenOptions, Session, StateOptions, ValueState};
use serde::Serialize;
use tokio::{sync::mpsc, task::JoinHandle, time::MissedTickBehavior};

use super::{
    Fault, Options,
    daemon::Daemon,
    process::Usage,
    report::{Distribution, Spread},
};

/// Random bytes that values are cut from, at random places: no two windows of the log look alike.
const POOL_BYTES: usize = 8 << 20;

/// What the windows came to.
#[derive(Debug, Serialize)]
pub(crate) struct Updates {
    updates: u64,
    updates_per_second: Spread,
    checkpoints: Checkpoints,
    cpu_seconds: Cpu,
    daemon_rss_bytes: u64,
    daemon_peak_rss_bytes: u64,
    /// That the daemon handed to the block layer.
    written_bytes: u64,
    segments: f64,
    segment_bytes: f64,
    /// In the store at the end.
    objects: u64,
    object_bytes: u64,
}

#[derive(Debug, Default, Serialize)]
struct Checkpoints {
    /// As the task sees it: from the barrier's hand-over until the answer.
    duration_ms: Distribution,
    /// As the daemon sees it: from the barrier's arrival.
    daemon_ms: Distribution,
    bytes: Distribution,
    total_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Cpu {
    daemon: f64,
    client: f64,
    daemon_per_million_updates: f64,
    client_per_million_updates: f64,
}

/// One completed checkpoint.
struct Checkpoint {
    duration: Duration,
    daemon_ms: f64,
    bytes: u64,
}

/// A backend with every key written.
pub(crate) struct Prepared {
    pub(crate) backend: dstl::client::Backend,
    pub(crate) session: Session,
    pub(crate) state: ValueState<u64, Vec<u8>>,
    pub(crate) source: Source,
}

/// Keys and values.
pub(crate) struct Source {
    state: u64,
    keys: u64,
    value_bytes: usize,
    pool: Vec<u8>,
}

impl Source {
    fn new(options: &Options) -> Self {
        let (keys, value_bytes) = (options.keys.max(1), options.value_bytes);
        let mut source = Self { state: 1, keys, value_bytes, pool: Vec::new() };
        source.pool = (0..POOL_BYTES.max(2 * value_bytes) / 8).flat_map(|_| source.next().to_le_bytes()).collect();
        source
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform below `bound`, but for a bias of `bound` / 2^64.
    fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(bound)) >> 64).unwrap_or_default()
    }

    pub(crate) fn key(&mut self) -> u64 {
        self.below(self.keys)
    }

    pub(crate) fn value(&mut self) -> &[u8] {
        let places = self.pool.len() - self.value_bytes;
        let at = usize::try_from(self.below(places as u64)).unwrap_or_default();
        self.pool.get(at..at + self.value_bytes).unwrap_or_default()
    }
}

/// Opens a backend and writes every key once.
pub(crate) async fn prepare(client: &Client, operator: &str, options: &Options) -> Result<Prepared, Fault> {
    let backend = client.open(OpenOptions::new("load", operator).attempt(1)).await?;
    let state = backend.value_state::<u64, Vec<u8>>("values", StateOptions::new()).await?;
    let session = backend.session().await?;
    let mut source = Source::new(options);
    let mut batch = BatchBuilder::new();
    for key in 0..source.keys {
        batch.put(&state, &key, source.value());
        if batch.operations() >= options.batch {
            session.send(std::mem::take(&mut batch)).await?;
        }
    }
    session.send(batch).await?;
    session.persist().await?;
    Ok(Prepared { backend, session, state, source })
}

/// Runs the scenario with a daemon of its own.
pub(crate) async fn measure(options: &Options) -> Result<Updates, Fault> {
    let (daemon, client) = Daemon::start(options).await?;
    let Prepared { backend, session, state, source } = prepare(&client, "update", options).await?;
    let writing = tokio::spawn(write(session.clone(), state, source, options.batch));
    let (report, mut completed) = mpsc::unbounded_channel();
    let checkpointing = tokio::spawn(checkpoint(session.clone(), options.checkpoint_ms, report));
    tokio::time::sleep(Duration::from_secs(options.warm_up)).await;

    while completed.try_recv().is_ok() {}
    let (daemon_before, client_before) = (daemon.usage()?, Usage::own()?);
    let uploads_before = uploads(&daemon)?;
    let mut rates = Vec::new();
    let mut updates = 0;
    for _ in 0..options.windows {
        let (begun, before) = (Instant::now(), session.acknowledged().applied_to);
        tokio::time::sleep(options.window()).await;
        if writing.is_finished() || checkpointing.is_finished() {
            return Err(reason(writing, checkpointing).await);
        }
        let done = (session.acknowledged().applied_to - before) * options.batch as u64;
        updates += done;
        rates.push(done as f64 / begun.elapsed().as_secs_f64());
    }
    let (daemon_after, client_after) = (daemon.usage()?, Usage::own()?);
    let uploads_after = uploads(&daemon)?;
    let mut checkpoints = Vec::new();
    while let Ok(checkpoint) = completed.try_recv() {
        checkpoints.push(checkpoint);
    }
    checkpointing.abort();
    writing.abort();
    session.persist().await?;
    backend.close().await?;
    let stored = daemon.stored();
    let daemon_cpu = (daemon_after.cpu - daemon_before.cpu).as_secs_f64();
    let client_cpu = (client_after.cpu - client_before.cpu).as_secs_f64();
    let millions = updates as f64 / 1e6;
    Ok(Updates {
        updates,
        updates_per_second: Spread::of(rates),
        checkpoints: summary(&checkpoints),
        cpu_seconds: Cpu {
            daemon: daemon_cpu,
            client: client_cpu,
            daemon_per_million_updates: daemon_cpu / millions,
            client_per_million_updates: client_cpu / millions,
        },
        daemon_rss_bytes: daemon_after.rss_bytes,
        daemon_peak_rss_bytes: daemon_after.peak_rss_bytes,
        written_bytes: daemon_after.written_bytes - daemon_before.written_bytes,
        segments: uploads_after.0 - uploads_before.0,
        segment_bytes: uploads_after.1 - uploads_before.1,
        objects: stored.objects,
        object_bytes: stored.bytes,
    })
}

/// Segments and their bytes so far.
fn uploads(daemon: &Daemon) -> Result<(f64, f64), Fault> {
    Ok((daemon.metric("dstl_changelog_uploads_total")?, daemon.metric("dstl_changelog_stored_bytes_total")?))
}

/// Writes until aborted.
async fn write(
    session: Session,
    state: ValueState<u64, Vec<u8>>,
    mut source: Source,
    size: usize,
) -> Result<(), ClientError> {
    let bytes = size * (source.value_bytes + 24);
    loop {
        let mut batch = BatchBuilder::with_capacity(bytes);
        for _ in 0..size {
            let key = source.key();
            batch.put(&state, &key, source.value());
        }
        session.send(batch).await?;
    }
}

/// Takes checkpoints until aborted.
async fn checkpoint(
    session: Session,
    interval_ms: u64,
    report: mpsc::UnboundedSender<Checkpoint>,
) -> Result<(), ClientError> {
    if interval_ms == 0 {
        return std::future::pending().await;
    }
    let mut ticks = tokio::time::interval(Duration::from_millis(interval_ms));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for id in 1.. {
        ticks.tick().await;
        let begun = Instant::now();
        let completed = session.barrier(id, Bytes::new()).await?.await?;
        let duration = begun.elapsed();
        let (daemon_ms, bytes) = (completed.total_ms, completed.incremental_bytes);
        if let Some(identity) = &completed.checkpoint {
            session.complete(identity).await?;
        }
        let _ = report.send(Checkpoint { duration, daemon_ms, bytes });
    }
    Ok(())
}

/// Why one of the tasks ended.
async fn reason(
    writing: JoinHandle<Result<(), ClientError>>,
    checkpointing: JoinHandle<Result<(), ClientError>>,
) -> Fault {
    let ended = if writing.is_finished() { writing } else { checkpointing };
    match ended.await {
        Ok(Ok(())) => "a task ended by itself".into(),
        Ok(Err(error)) => error.into(),
        Err(error) => error.into(),
    }
}

fn summary(checkpoints: &[Checkpoint]) -> Checkpoints {
    let of = |value: fn(&Checkpoint) -> f64| Distribution::of(checkpoints.iter().map(value).collect());
    Checkpoints {
        duration_ms: of(|checkpoint| checkpoint.duration.as_secs_f64() * 1e3),
        daemon_ms: of(|checkpoint| checkpoint.daemon_ms),
        bytes: of(|checkpoint| checkpoint.bytes as f64),
        total_bytes: checkpoints.iter().map(|checkpoint| checkpoint.bytes).sum(),
    }
}

impl fmt::Display for Updates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { updates_per_second: rate, checkpoints, cpu_seconds: cpu, .. } = self;
        let (k, mib) = (|rate: f64| rate / 1e3, |bytes: u64| bytes >> 20);
        let [durations, daemon] = [&checkpoints.duration_ms, &checkpoints.daemon_ms];
        writeln!(f, "update, {} of them", self.updates)?;
        writeln!(f, "  k updates/s      {:.0} (windows {:.0} to {:.0})", k(rate.median), k(rate.min), k(rate.max))?;
        writeln!(
            f,
            "  checkpoints      {} in ms p50 {:.0}, p99 {:.0}, max {:.0} (daemon {:.0}, {:.0}, {:.0}), {:.0} MiB each",
            durations.count,
            durations.p50,
            durations.p99,
            durations.max,
            daemon.p50,
            daemon.p99,
            daemon.max,
            checkpoints.bytes.p50 / f64::from(1 << 20)
        )?;
        writeln!(
            f,
            "  cpu seconds      daemon {:.1} ({:.2} per M updates), client {:.1} ({:.2})",
            cpu.daemon, cpu.daemon_per_million_updates, cpu.client, cpu.client_per_million_updates
        )?;
        writeln!(
            f,
            "  daemon's memory  {} MiB, peak {} MiB",
            mib(self.daemon_rss_bytes),
            mib(self.daemon_peak_rss_bytes)
        )?;
        write!(
            f,
            "  written          {} MiB in {} segments; left {} objects, {} MiB",
            mib(self.written_bytes),
            self.segments,
            self.objects,
            mib(self.object_bytes)
        )
    }
}

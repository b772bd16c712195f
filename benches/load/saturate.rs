//! The scenarios of one task that has nothing else to do, as fast as it is let, or at a given rate.

use std::{
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dstl::client::Session;
use serde::Serialize;
use tokio::{sync::mpsc, task::JoinHandle, time::MissedTickBehavior};

use super::{
    Fault, Options, Scenario,
    daemon::{Daemon, Stored},
    process::Usage,
    report::{Distribution, Spread},
    work::{Worker, prepare},
};

/// Summary of the windows.
#[derive(Debug, Serialize)]
pub(crate) struct Saturated {
    scenario: Scenario,
    operations: u64,
    pub(crate) operations_per_second: Spread,
    /// The median over that of the floor of the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) to_floor: Option<f64>,
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
    daemon_per_million: f64,
    client_per_million: f64,
}

/// One completed checkpoint.
struct Checkpoint {
    duration: Duration,
    daemon_ms: f64,
    bytes: u64,
}

/// Runs `scenario` with a daemon, or a floor, of its own.
pub(crate) async fn measure(scenario: Scenario, options: &Options) -> Result<Saturated, Fault> {
    let is_floor = scenario == Scenario::Floor;
    let (daemon, client) = if is_floor { Daemon::floor(options).await? } else { Daemon::start(options).await? };
    let prepared = prepare(&client, "load", options).await?;
    let session = prepared.session.clone();
    let worker = Worker::new(scenario, &prepared, options).await?;
    let writing = tokio::spawn(worker.run());
    let (report, mut completed) = mpsc::unbounded_channel();
    let interval_ms = if is_floor { 0 } else { options.checkpoint_ms };
    let checkpointing = tokio::spawn(checkpoint(session.clone(), interval_ms, report));
    tokio::time::sleep(Duration::from_secs(options.warm_up)).await;

    while completed.try_recv().is_ok() {}
    let (daemon_before, client_before) = (daemon.usage()?, Usage::own()?);
    let uploads_before = if is_floor { (0.0, 0.0) } else { uploads(&daemon)? };
    let mut rates = Vec::new();
    let mut operations = 0;
    for _ in 0..options.windows {
        let (begun, before) = (Instant::now(), session.acknowledged().applied_to);
        tokio::time::sleep(options.window()).await;
        if writing.is_finished() || checkpointing.is_finished() {
            return Err(reason(writing, checkpointing).await);
        }
        let batches = session.acknowledged().applied_to - before;
        let done = batches * options.batch as u64 / Worker::batches_per_round(scenario);
        operations += done;
        rates.push(done as f64 / begun.elapsed().as_secs_f64());
    }
    let (daemon_after, client_after) = (daemon.usage()?, Usage::own()?);
    let uploads_after = if is_floor { (0.0, 0.0) } else { uploads(&daemon)? };
    let mut checkpoints = Vec::new();
    while let Ok(checkpoint) = completed.try_recv() {
        checkpoints.push(checkpoint);
    }
    checkpointing.abort();
    writing.abort();
    session.persist().await?;
    prepared.backend.close().await?;
    let stored = if is_floor { Stored::default() } else { daemon.stored() };
    let daemon_cpu = (daemon_after.cpu - daemon_before.cpu).as_secs_f64();
    let client_cpu = (client_after.cpu - client_before.cpu).as_secs_f64();
    let millions = operations as f64 / 1e6;
    Ok(Saturated {
        scenario,
        operations,
        operations_per_second: Spread::of(rates),
        to_floor: None,
        checkpoints: summary(&checkpoints),
        cpu_seconds: Cpu {
            daemon: daemon_cpu,
            client: client_cpu,
            daemon_per_million: daemon_cpu / millions,
            client_per_million: client_cpu / millions,
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
    Ok((daemon.metric("dstl_changelog_uploads_total", "")?, daemon.metric("dstl_changelog_stored_bytes_total", "")?))
}

/// Takes checkpoints until aborted.
async fn checkpoint(
    session: Session,
    interval_ms: u64,
    report: mpsc::UnboundedSender<Checkpoint>,
) -> Result<(), Fault> {
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
async fn reason(writing: JoinHandle<Result<(), Fault>>, checkpointing: JoinHandle<Result<(), Fault>>) -> Fault {
    let ended = if writing.is_finished() { writing } else { checkpointing };
    match ended.await {
        Ok(Ok(())) => "a task ended by itself".into(),
        Ok(Err(error)) => error,
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

impl fmt::Display for Saturated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations_per_second: rate, checkpoints, cpu_seconds: cpu, .. } = self;
        let (k, mib) = (|rate: f64| rate / 1e3, |bytes: u64| bytes >> 20);
        let [durations, daemon] = [&checkpoints.duration_ms, &checkpoints.daemon_ms];
        writeln!(f, "{}, {} of them", self.scenario, self.operations)?;
        let to_floor = self.to_floor.map_or_else(String::new, |ratio| format!(", {ratio:.2} of the floor"));
        let (median, min, max) = (k(rate.median), k(rate.min), k(rate.max));
        writeln!(f, "  k operations/s   {median:.0} (windows {min:.0} to {max:.0}){to_floor}")?;
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
            "  cpu seconds      daemon {:.1} ({:.2} per M operations), client {:.1} ({:.2})",
            cpu.daemon, cpu.daemon_per_million, cpu.client, cpu.client_per_million
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

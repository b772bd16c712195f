//! A task at work: it writes and takes checkpoints in the background, until it is told to end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dstl::client::{Session, ValueState};
use tokio::{sync::mpsc, task::JoinHandle, time::MissedTickBehavior};

use super::{
    Fault, Scenario,
    daemon::{Daemon, Metrics},
    figures::{Distribution, Figures, Latency},
    options::Options,
    probe::Probe,
    process::Usage,
    work::{Prepared, Worker, settle},
};

/// A task at work.
pub(crate) struct Running {
    scenario: Scenario,
    batch: u64,
    session: Session,
    state: ValueState<u64, Vec<u8>>,
    logged: bool,
    probe: Probe,
    writing: JoinHandle<Result<(), Fault>>,
    checkpointing: JoinHandle<Result<(), Fault>>,
    completed: mpsc::UnboundedReceiver<Checkpoint>,
}

/// One completed checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checkpoint {
    /// When its barrier was handed over.
    pub(crate) begun: Instant,
    /// As the task sees it: from the barrier's hand-over until the answer.
    pub(crate) duration: Duration,
    /// As the daemon sees it: from the barrier's arrival.
    daemon_ms: f64,
    bytes: u64,
}

/// All counts at one moment.
pub(crate) struct Moment {
    pub(crate) at: Instant,
    pub(crate) daemon: Usage,
    client: Usage,
    pub(crate) metrics: Metrics,
    /// Operations of the scenario so far, of all that are applied.
    pub(crate) operations: u64,
}

impl Running {
    /// Begins with the work of `scenario`, and with a checkpoint every so many milliseconds; 0 for none.
    pub(crate) async fn begin(
        scenario: Scenario,
        prepared: &Prepared,
        checkpoint_ms: u64,
        options: &Options,
    ) -> Result<Self, Fault> {
        let session = prepared.session.clone();
        let (worker, probe) = Worker::new(scenario, prepared, options).await?;
        let (report, completed) = mpsc::unbounded_channel();
        Ok(Self {
            scenario,
            batch: options.batch as u64,
            writing: tokio::spawn(worker.run()),
            checkpointing: tokio::spawn(checkpoint(session.clone(), checkpoint_ms, report)),
            session,
            state: prepared.state.clone(),
            logged: prepared.logged,
            probe,
            completed,
        })
    }

    /// Lets it work for so long.
    ///
    /// # Errors
    /// Why it ended before.
    pub(crate) async fn work_for(&mut self, time: Duration) -> Result<(), Fault> {
        tokio::select! {
            biased;
            ended = &mut self.writing => Err(reason(ended)),
            ended = &mut self.checkpointing => Err(reason(ended)),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// Operations that were applied so far. An operation of the scenario may take several batches.
    pub(crate) fn operations(&self) -> u64 {
        self.session.acknowledged().applied_to * self.batch / Worker::batches_per_round(self.scenario)
    }

    /// The counts of now.
    pub(crate) fn moment(&self, daemon: &Daemon) -> Result<Moment, Fault> {
        Ok(Moment {
            at: Instant::now(),
            daemon: daemon.usage()?,
            client: Usage::own()?,
            metrics: daemon.metrics()?,
            operations: self.operations(),
        })
    }

    /// Takes the checkpoints that completed since the last call.
    pub(crate) fn checkpoints(&mut self) -> Vec<Checkpoint> {
        std::iter::from_fn(|| self.completed.try_recv().ok()).collect()
    }

    /// Forgets latencies and checkpoints so far.
    pub(crate) fn reset(&mut self) {
        self.checkpoints();
        self.probe.take();
    }

    /// The latencies since the last call.
    pub(crate) fn latencies(&self) -> hdrhistogram::Histogram<u64> {
        self.probe.take()
    }

    /// Works for `windows` of `window`; returns the rate of each.
    pub(crate) async fn windows(&mut self, windows: usize, window: Duration) -> Result<Vec<f64>, Fault> {
        let mut rates = vec![];
        for _ in 0..windows {
            let (begun, before) = (Instant::now(), self.operations());
            self.work_for(window).await?;
            rates.push((self.operations() - before) as f64 / begun.elapsed().as_secs_f64());
        }
        Ok(rates)
    }

    /// Stops writing, and returns once all is durable; without a changelog, once it is applied. Takes no further
    /// checkpoint.
    pub(crate) async fn end(&self) -> Result<(), Fault> {
        self.stop();
        settle(&self.session, &self.state, self.logged).await
    }

    /// Stops writing, whatever becomes of the daemon.
    pub(crate) fn stop(&self) {
        self.checkpointing.abort();
        self.writing.abort();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Moment {
    /// Puts the work since then into the figures: operations, processor time, memory.
    pub(crate) fn fill(&self, until: &Self, figures: &mut Figures) {
        let operations = until.operations.saturating_sub(self.operations);
        figures.operations = Some(operations);
        let millions = operations as f64 / 1e6;
        let per_million = |after: Duration, before: Duration| Some((after - before).as_secs_f64() / millions);
        if operations > 0 {
            figures.daemon_cpu_s_per_million = per_million(until.daemon.cpu, self.daemon.cpu);
            figures.client_cpu_s_per_million = per_million(until.client.cpu, self.client.cpu);
        }
        figures.daemon_rss_bytes = Some(until.daemon.rss_bytes);
        let cores = (until.daemon.cpu - self.daemon.cpu).as_secs_f64() / (until.at - self.at).as_secs_f64();
        figures.set("daemon_cores", cores);
        figures.set("daemon_peak_rss_bytes", until.daemon.peak_rss_bytes);
    }

    /// Puts what was written to the store since then into the figures. Both moments are at the end of a persist, so
    /// that what was written belongs to these changes; each operation made so many.
    pub(crate) fn fill_store(&self, until: &Self, changes_per_operation: u64, figures: &mut Figures) {
        let since = |name: &str, label: &str| until.metrics.sum_of(name, label) - self.metrics.sum_of(name, label);
        figures.objects_written = Some(since("dstl_object_requests_total", "operation=\"create\"") as u64);
        let written = since("dstl_object_written_bytes_total", "");
        figures.bytes_written = Some(written as u64);
        let (segments, stored) =
            (since("dstl_changelog_uploads_total", ""), since("dstl_changelog_stored_bytes_total", ""));
        let changes = until.operations.saturating_sub(self.operations) * changes_per_operation;
        if changes > 0 && stored > 0.0 {
            figures.log_bytes_per_change = Some(stored / changes as f64);
        }
        let appended = since("dstl_changelog_appended_bytes_total", "");
        figures.set("segments", segments as u64);
        figures.set("segment_bytes", stored as u64);
        figures.set("change_bytes", appended as u64);
        if appended > 0.0 {
            figures.set("written_to_change_bytes", written / appended);
        }
        figures.set("materializations", since("dstl_materialization_completed_total", "") as u64);
        figures.set("block_layer_bytes", until.daemon.written_bytes.saturating_sub(self.daemon.written_bytes));
    }
}

/// Puts latencies and checkpoints into the figures.
pub(crate) fn fill_times(histogram: &hdrhistogram::Histogram<u64>, checkpoints: &[Checkpoint], figures: &mut Figures) {
    figures.latency_us = (!histogram.is_empty()).then(|| Latency::of(histogram));
    let of = |value: fn(&Checkpoint) -> f64| Distribution::of(checkpoints.iter().map(value).collect());
    figures.checkpoint_ms = Some(of(|checkpoint| checkpoint.duration.as_secs_f64() * 1e3));
    if !checkpoints.is_empty() {
        let in_daemon = of(|checkpoint| checkpoint.daemon_ms);
        figures.set("checkpoint_daemon_ms", serde_json::json!(in_daemon));
        figures.set("checkpoint_bytes_p50", of(|checkpoint| checkpoint.bytes as f64).p50);
    }
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
        let _ = report.send(Checkpoint { begun, duration, daemon_ms, bytes });
    }
    Ok(())
}

/// Why a task ended that never should.
fn reason(ended: Result<Result<(), Fault>, tokio::task::JoinError>) -> Fault {
    match ended {
        Ok(Ok(())) => "a task ended by itself".into(),
        Ok(Err(error)) => error,
        Err(error) => error.into(),
    }
}

//! The scenario `export`: how long batches take while a savepoint is made, and while none is, in turns of one run.

use std::time::{Duration, Instant};

use dstl::{
    client::{BatchBuilder, Client},
    proto::v1::{BackendRef, Barrier, CheckpointCompleted, SavepointMade},
};
use hdrhistogram::Histogram;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Fault, Scenario,
    daemon::Daemon,
    figures::{Figures, Latency},
    options::Options,
    probe,
    restore::materialize,
    work::{Prepared, prepare},
};

/// Operations a second where the options say nothing: a steady task, which leaves the processors time.
const RATE: u64 = 50_000;

/// Runs the scenario with a daemon of its own.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Figures>, Fault> {
    let (daemon, client) = Daemon::start(options).await?;
    let mut prepared = prepare(&client, "export", options).await?;
    // As in a task that has run for a while: most of its state is in a base.
    materialize(&daemon, &prepared).await?;
    let backend = prepared.backend.reference().clone();
    let mut work =
        Work { client, backend, checkpoint: 0, made: SavepointMade::default(), savepoints: 0, time: Duration::ZERO };
    work.write(&mut prepared, options, Duration::from_secs(options.warm_up), &mut probe::empty()?).await?;
    let (mut without, mut with) = (probe::empty()?, probe::empty()?);
    for _ in 0..options.windows {
        work.write(&mut prepared, options, options.window(), &mut without).await?;
        work.write_beside_savepoints(&mut prepared, options, &mut with).await?;
    }
    drop(daemon);
    let p99 = |histogram: &Histogram<u64>| histogram.value_at_quantile(0.99) as f64;
    let figures = |case: &str, histogram: &Histogram<u64>| {
        let mut figures = Figures::new(Scenario::Export, options).case(case);
        figures.operations = Some(histogram.len() * options.batch as u64);
        figures.latency_us = Some(Latency::of(histogram));
        figures
    };
    let beside = figures("beside_savepoints", &with)
        .with("p99_ratio", p99(&with) / p99(&without))
        .with("savepoints", work.savepoints)
        .with("savepoint_rows", work.made.rows)
        .with("savepoint_bytes", work.made.bytes)
        .with("savepoint_seconds", work.time.as_secs_f64() / work.savepoints.max(1) as f64);
    Ok(vec![figures("without_savepoints", &without), beside])
}

struct Work {
    client: Client,
    backend: BackendRef,
    checkpoint: u64,
    made: SavepointMade,
    savepoints: u64,
    time: Duration,
}

impl Work {
    /// Writes at the rate, and takes a checkpoint now and then, for so long; times each batch until it is applied.
    async fn write(
        &mut self,
        prepared: &mut Prepared,
        options: &Options,
        time: Duration,
        histogram: &mut Histogram<u64>,
    ) -> Result<(), Fault> {
        let until = Instant::now() + time;
        self.write_while(prepared, options, histogram, || Instant::now() < until).await
    }

    async fn write_while(
        &mut self,
        prepared: &mut Prepared,
        options: &Options,
        histogram: &mut Histogram<u64>,
        goes_on: impl Fn() -> bool,
    ) -> Result<(), Fault> {
        let rate = options.rate.unwrap_or(RATE).max(1);
        let mut ticks = interval(Duration::from_secs_f64(options.batch as f64 / rate as f64));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next = Instant::now() + Duration::from_millis(options.checkpoint_ms());
        while goes_on() {
            ticks.tick().await;
            let mut batch = BatchBuilder::new();
            for _ in 0..options.batch {
                let key = prepared.source.key();
                batch.push(prepared.state.put(&key, prepared.source.value()));
            }
            let begun = Instant::now();
            prepared.session.send(batch).await?.applied().await?;
            histogram.record(u64::try_from(begun.elapsed().as_nanos())?)?;
            if options.checkpoint_ms() > 0 && Instant::now() >= next {
                next += Duration::from_millis(options.checkpoint_ms());
                self.checkpoint += 1;
                let pending = prepared.session.barrier(self.checkpoint, "").await?;
                let session = prepared.session.clone();
                tokio::spawn(async move {
                    if let Ok(CheckpointCompleted { checkpoint: Some(checkpoint), .. }) = pending.await {
                        let _ = session.complete(&checkpoint).await;
                    }
                });
            }
        }
        Ok(())
    }

    /// Writes for a window, or for as long as a savepoint takes, while one savepoint after the other is made.
    async fn write_beside_savepoints(
        &mut self,
        prepared: &mut Prepared,
        options: &Options,
        histogram: &mut Histogram<u64>,
    ) -> Result<(), Fault> {
        let until = Instant::now() + options.window();
        while Instant::now() < until {
            self.checkpoint += 1;
            let name = format!("s{}", self.checkpoint);
            let barrier = Barrier { checkpoint_id: self.checkpoint, savepoint: name, ..Barrier::default() };
            let (client, backend, begun) = (self.client.clone(), self.backend.clone(), Instant::now());
            let making = tokio::spawn(async move { client.checkpoint(&backend, barrier).await });
            // Its barrier is taken before a later one.
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.write_while(prepared, options, histogram, || !making.is_finished()).await?;
            self.made = making.await??.savepoint.ok_or("no savepoint")?;
            self.time += begun.elapsed();
            self.savepoints += 1;
        }
        Ok(())
    }
}

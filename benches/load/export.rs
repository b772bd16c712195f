//! The scenario `export`: how long batches take while a savepoint is made, and while none is, in turns of one run.

use std::time::{Duration, Instant};

use dstl::{
    client::{BatchBuilder, Client},
    proto::v1::{BackendRef, Barrier, CheckpointCompleted, SavepointMade},
};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Fault, Options,
    daemon::Daemon,
    report::Latency,
    restore::materialize,
    work::{Prepared, prepare},
};

/// Operations a second where the options say nothing: a steady task, which leaves the processors time.
const RATE: u64 = 50_000;

/// The result of the measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Exported {
    pub(crate) without: Latency,
    pub(crate) with: Latency,
    /// The p99 with over that without.
    pub(crate) p99_ratio: f64,
    pub(crate) savepoints: u64,
    /// Of the last savepoint.
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// How long one took, the mean.
    pub(crate) seconds: f64,
}

/// Runs the scenario with a daemon of its own.
pub(crate) async fn measure(options: &Options) -> Result<Exported, Fault> {
    let (daemon, client) = Daemon::start(options).await?;
    let mut prepared = prepare(&client, "export", options).await?;
    // As in a task that has run for a while: most of its state is in a base.
    materialize(&daemon, &prepared).await?;
    let backend = prepared.backend.reference().clone();
    let mut work =
        Work { client, backend, checkpoint: 0, made: SavepointMade::default(), savepoints: 0, time: Duration::ZERO };
    work.write(&mut prepared, options, Duration::from_secs(options.warm_up), &mut Histogram::new(3)?).await?;
    let (mut without, mut with) = (Histogram::new(3)?, Histogram::new(3)?);
    for _ in 0..options.windows {
        work.write(&mut prepared, options, options.window(), &mut without).await?;
        work.write_beside_savepoints(&mut prepared, options, &mut with).await?;
    }
    drop(daemon);
    let p99 = |histogram: &Histogram<u64>| histogram.value_at_quantile(0.99) as f64;
    Ok(Exported {
        p99_ratio: p99(&with) / p99(&without),
        without: Latency::of("batch", &without, None),
        with: Latency::of("batch_beside_savepoint", &with, None),
        savepoints: work.savepoints,
        rows: work.made.rows,
        bytes: work.made.bytes,
        seconds: work.time.as_secs_f64() / work.savepoints.max(1) as f64,
    })
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
        let mut next = Instant::now() + Duration::from_millis(options.checkpoint_ms);
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
            if options.checkpoint_ms > 0 && Instant::now() >= next {
                next += Duration::from_millis(options.checkpoint_ms);
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

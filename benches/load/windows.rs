//! The scenario `materialization`: what a writer at full speed gets done while its state is materialized, and while it
//! is not, told apart in one run. Materializations come by the daemon's own schedule.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    Fault, Scenario,
    daemon::{Daemon, Metrics},
    figures::{Distribution, Figures, median},
    options::Options,
    running::{Checkpoint, Running, fill_times},
    work::prepare,
};

/// Length of the slices of time that are told apart.
const SLICE: Duration = Duration::from_millis(250);

/// If no materialization comes, the scenario ends after so many times the time of its windows.
const PATIENCE: u32 = 10;

/// A slice of time in which a materialization ran from end to end, or none did.
#[derive(Debug, Clone, Copy)]
struct Slice {
    from: Instant,
    to: Instant,
    materializing: bool,
    rate: f64,
}

/// Runs the scenario with a daemon of its own, until as many materializations as windows were seen.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Figures>, Fault> {
    let (daemon, client) = Daemon::start(options).await?;
    let prepared = prepare(&client, "load", options).await?;
    let mut running = Running::begin(Scenario::Update, &prepared, options.checkpoint_ms(), options).await?;
    let first = running.moment(&daemon)?;
    running.work_for(Duration::from_secs(options.warm_up)).await?;
    running.reset();

    let before = running.moment(&daemon)?;
    let least = options.window() * u32::try_from(options.windows)?;
    let completed = |metrics: &Metrics| metrics.sum("dstl_materialization_completed_total");
    let (mut slices, mut last) = (vec![], before.metrics.clone());
    while before.at.elapsed() < least * PATIENCE {
        let seen = completed(&last) - completed(&before.metrics);
        if before.at.elapsed() >= least && seen >= options.windows as f64 {
            break;
        }
        let (from, applied) = (Instant::now(), running.operations());
        running.work_for(SLICE).await?;
        let (to, metrics) = (Instant::now(), daemon.metrics()?);
        let rate = (running.operations() - applied) as f64 / (to - from).as_secs_f64();
        if let Some(materializing) = is_whole(&last, &metrics) {
            slices.push(Slice { from, to, materializing, rate });
        }
        last = metrics;
    }
    let checkpoints = running.checkpoints();
    let latencies = running.latencies();
    let after = running.moment(&daemon)?;
    running.end().await?;
    let durable = running.moment(&daemon)?;

    let mut figures = Figures::new(Scenario::Materialization, options);
    before.fill(&after, &mut figures);
    fill_times(&latencies, &checkpoints, &mut figures);
    first.fill_store(&durable, 1, &mut figures);
    let seconds = (after.at - before.at).as_secs_f64();
    figures.set_rates(vec![(after.operations - before.operations) as f64 / seconds]);
    let (with, without) = (Part::of(&slices, true, &checkpoints), Part::of(&slices, false, &checkpoints));
    // A ratio is told only where both were seen.
    if with.rate > 0.0 && without.rate > 0.0 {
        figures.set("rate_to_rate_without", with.rate / without.rate);
    }
    if with.checkpoint_ms.count > 0 && without.checkpoint_ms.count > 0 {
        figures.set("checkpoint_p50_to_that_without", with.checkpoint_ms.p50 / without.checkpoint_ms.p50);
    }
    for (name, part) in [("materializing", with), ("not_materializing", without)] {
        let Part { seconds, rate, checkpoint_ms } = part;
        figures.set(name, json!({"seconds": seconds, "operations_per_second": rate, "checkpoint_ms": checkpoint_ms}));
    }
    Ok(vec![figures])
}

/// Whether a materialization ran during a whole slice of time, or none did; nothing if one began or ended in it.
fn is_whole(before: &Metrics, after: &Metrics) -> Option<bool> {
    let counts = |metrics: &Metrics| {
        ["started", "completed", "failed"].map(|what| metrics.sum(&format!("dstl_materialization_{what}_total")))
    };
    let [started, completed, failed] = counts(before);
    (counts(before) == counts(after)).then_some(started > completed + failed)
}

/// The operations in the slices of one kind.
#[derive(Debug, Clone, Copy)]
struct Part {
    seconds: f64,
    rate: f64,
    checkpoint_ms: Distribution,
}

impl Part {
    /// Of all slices of one kind, and of the checkpoints whose barriers lie in them.
    fn of(slices: &[Slice], materializing: bool, checkpoints: &[Checkpoint]) -> Self {
        let own: Vec<_> = slices.iter().filter(|slice| slice.materializing == materializing).collect();
        let lies_in = |it: &&Checkpoint| own.iter().any(|slice| (slice.from..slice.to).contains(&it.begun));
        let durations = checkpoints.iter().filter(lies_in).map(|it| it.duration.as_secs_f64() * 1e3);
        Self {
            seconds: own.iter().map(|slice| (slice.to - slice.from).as_secs_f64()).sum(),
            rate: median(&own.iter().map(|slice| slice.rate).collect::<Vec<_>>()),
            checkpoint_ms: Distribution::of(durations.collect()),
        }
    }
}

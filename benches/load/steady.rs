//! The scenarios of a steady writer: `checkpoint`, with more and more state, and `tail`, the slowest batches while
//! state is materialized or grows.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::{
    Fault, Scenario,
    daemon::Daemon,
    figures::Figures,
    options::{Options, no_materialization},
    probe,
    running::{Checkpoint, Moment, Running, fill_times},
    work::prepare,
};

/// Operations a second where the options say nothing.
const RATE: u64 = 100_000;

/// Milliseconds between two checkpoints of `checkpoint`.
const CHECKPOINT_MS: u64 = 200;

/// Megabytes of state of `checkpoint`, and of `tail`.
const SIZES: [u64; 4] = [10, 100, 1_000, 4_000];
const TAIL_SIZE: u64 = 1_000;

/// Checkpoints five times a second beside a steady writer, with more and more state, which is materialized meanwhile.
pub(crate) async fn checkpoint(options: &Options) -> Result<Vec<Figures>, Fault> {
    let sizes = if options.state_mb.is_empty() { &SIZES[..] } else { &options.state_mb };
    let interval = materialize_every(options);
    let mut cases: Vec<Figures> = vec![];
    for &megabytes in sizes {
        let options = Options {
            rate: options.rate.or(Some(RATE)),
            checkpoint_ms: options.checkpoint_ms.or(Some(CHECKPOINT_MS)),
            ..options.with(std::slice::from_ref(&interval)).of_size(megabytes)
        };
        let mut turn = Turn::begin(&options).await?;
        let measured = turn.measure(&options).await?;
        let mut figures = turn.end(measured, Scenario::Checkpoint, &options).await?;
        figures = figures.case(format!("{megabytes}_mb"));
        let first = cases.first().and_then(|first| first.checkpoint_ms);
        if let Some((first, own)) = first.zip(figures.checkpoint_ms) {
            figures.set("p50_to_first", own.p50 / first.p50);
            figures.set("p99_to_first", own.p99 / first.p99);
        }
        cases.push(figures);
    }
    Ok(cases)
}

/// The setting that has backends materialize as often as the options say.
fn materialize_every(options: &Options) -> String {
    format!("state.changelog.periodic-materialize.interval={} s", options.materialize_every.max(1))
}

/// A kind of turn of `tail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    Materialization,
    Growth,
}

impl Beside {
    const ALL: [Self; 3] = [Self::Nothing, Self::Materialization, Self::Growth];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "quiet",
            Self::Materialization => "materializing",
            Self::Growth => "growing",
        }
    }
}

/// Latencies of the batches of a steady writer: with nothing beside it, with materializations, and with only new keys,
/// in turns, each with a daemon of its own.
pub(crate) async fn tail(options: &Options) -> Result<Vec<Figures>, Fault> {
    let megabytes = options.state_mb.first().copied().unwrap_or(TAIL_SIZE);
    let rounds = options.windows;
    let mut cases: Vec<Option<(Measured, Figures)>> = vec![None, None, None];
    for _ in 0..rounds {
        for (beside, case) in Beside::ALL.into_iter().zip(&mut cases) {
            let settings = match beside {
                Beside::Materialization => vec![materialize_every(options)],
                Beside::Nothing | Beside::Growth => no_materialization(),
            };
            let options = Options {
                rate: options.rate.or(Some(RATE)),
                windows: 1,
                grows: beside == Beside::Growth,
                ..options.with(&settings).of_size(megabytes)
            };
            let mut turn = Turn::begin(&options).await?;
            let mut measured = turn.measure(&options).await?;
            if let Some((before, _)) = case.take() {
                measured.add(before)?;
            }
            let figures = turn.end(measured.clone(), Scenario::Tail, &options).await?;
            *case = Some((measured, figures.case(beside.name())));
        }
    }
    let mut cases: Vec<_> = cases.into_iter().flatten().map(|(_, figures)| figures).collect();
    let quiet = cases.first().and_then(|figures| figures.latency_us).ok_or("no batch was measured")?;
    for figures in cases.iter_mut().skip(1) {
        if let Some(latency) = figures.latency_us {
            figures.set("p999_above_quiet_ms", (latency.p999 - quiet.p999) / 1e3);
            figures.set("p9999_above_quiet_ms", (latency.p9999 - quiet.p9999) / 1e3);
        }
    }
    Ok(cases)
}

/// A steady writer with a daemon of its own.
struct Turn {
    daemon: Daemon,
    running: Running,
    first: Moment,
}

/// Times of batches and checkpoints, and rates of windows.
#[derive(Clone)]
struct Measured {
    latencies: Histogram<u64>,
    checkpoints: Vec<Checkpoint>,
    rates: Vec<f64>,
}

impl Measured {
    fn add(&mut self, other: Self) -> Result<(), Fault> {
        self.latencies.add(other.latencies)?;
        self.checkpoints.extend(other.checkpoints);
        self.rates.extend(other.rates);
        Ok(())
    }
}

impl Turn {
    /// Fills the state, then lets the writer warm up.
    async fn begin(options: &Options) -> Result<Self, Fault> {
        let (daemon, client) = Daemon::start(options).await?;
        let prepared = prepare(&client, "load", options).await?;
        let mut running = Running::begin(Scenario::Update, &prepared, options.checkpoint_ms(), options).await?;
        let first = running.moment(&daemon)?;
        running.work_for(Duration::from_secs(options.warm_up)).await?;
        running.reset();
        Ok(Self { daemon, running, first })
    }

    async fn measure(&mut self, options: &Options) -> Result<Measured, Fault> {
        let rates = self.running.windows(options.windows, options.window()).await?;
        let mut latencies = probe::empty()?;
        latencies.add(self.running.latencies())?;
        Ok(Measured { latencies, checkpoints: self.running.checkpoints(), rates })
    }

    /// Ends it, and puts what was measured into figures; the counts are those since the beginning.
    async fn end(self, measured: Measured, scenario: Scenario, options: &Options) -> Result<Figures, Fault> {
        self.running.end().await?;
        let last = self.running.moment(&self.daemon)?;
        let mut figures = Figures::new(scenario, options);
        self.first.fill(&last, &mut figures);
        figures.set_rates(measured.rates);
        fill_times(&measured.latencies, &measured.checkpoints, &mut figures);
        self.first.fill_store(&last, 1, &mut figures);
        let pauses = last.metrics.sum("dstl_materialization_pause_seconds_sum");
        figures.set("materialization_pause_seconds", pauses);
        Ok(figures)
    }
}

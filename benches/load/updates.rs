//! The scenarios that compare updates with something else: `changelog`, `hot-keys`, `memory`.

use std::time::Duration;

use super::{
    Fault, Scenario,
    daemon::Daemon,
    figures::Figures,
    options::{
        Changelog::{Off, On},
        Options, no_materialization, no_periodic_materialization,
    },
    running::{Moment, Running, fill_times},
    saturate::run,
    work::prepare,
};

/// The exponent of `hot-keys`.
const HOT: f64 = 0.99;

/// Updates with and without a changelog, in turns, without checkpoints.
pub(crate) async fn changelog(options: &Options) -> Result<Vec<Figures>, Fault> {
    let mut rates = [vec![], vec![]];
    let mut last = [None, None];
    for _ in 0..options.windows {
        for (changelog, (rates, last)) in [On, Off].into_iter().zip(rates.iter_mut().zip(&mut last)) {
            let options = Options { changelog, checkpoint_ms: Some(0), windows: 1, ..options.clone() };
            let (daemon, client) = Daemon::start(&options).await?;
            let prepared = prepare(&client, "load", &options).await?;
            let figures = run(Scenario::Update, &daemon, &prepared, &options).await?;
            // All is persisted by the end of the time that counts.
            rates.extend(figures.other("durable_operations_per_second"));
            *last = Some(figures);
        }
    }
    let mut cases = vec![];
    for (name, (rates, figures)) in ["on", "off"].into_iter().zip(rates.into_iter().zip(last)) {
        let mut figures = figures.ok_or("no window was measured")?.case(name);
        figures.scenario = Scenario::Changelog;
        figures.set_rates(rates);
        cases.push(figures);
    }
    let rate = |at: usize| cases.get(at).and_then(|figures| figures.operations_per_second);
    let ratio = rate(0).zip(rate(1)).map(|(on, off)| on / off);
    if let (Some(ratio), Some(figures)) = (ratio, cases.first_mut()) {
        figures.set("on_to_off", ratio);
    }
    Ok(cases)
}

/// A number of skewed updates with a checkpoint each second, of which the log has all: nothing is materialized.
pub(crate) async fn hot_keys(options: &Options) -> Result<Vec<Figures>, Fault> {
    let options = Options { zipf: options.zipf.or(Some(HOT)), ..options.with(&no_materialization()) };
    let (daemon, client) = Daemon::start(&options).await?;
    let prepared = prepare(&client, "load", &options).await?;
    let mut running = Running::begin(Scenario::Update, &prepared, options.checkpoint_ms(), &options).await?;
    let before = running.moment(&daemon)?;
    while running.operations() - before.operations < options.updates {
        running.work_for(Duration::from_millis(5)).await?;
    }
    let latencies = running.latencies();
    let checkpoints = running.checkpoints();
    running.end().await?;
    let after = running.moment(&daemon)?;
    let mut figures = Figures::new(Scenario::HotKeys, &options);
    before.fill(&after, &mut figures);
    figures.set_rates(vec![rate(&before, &after)]);
    fill_times(&latencies, &checkpoints, &mut figures);
    before.fill_store(&after, 1, &mut figures);
    Ok(vec![figures])
}

/// Operations a second between two moments.
fn rate(before: &Moment, after: &Moment) -> f64 {
    (after.operations - before.operations) as f64 / (after.at - before.at).as_secs_f64()
}

/// The memory of the daemon over the bytes of keys and values that it keeps, and over its budget.
pub(crate) async fn memory(options: &Options) -> Result<Vec<Figures>, Fault> {
    let options = options.with(&[no_periodic_materialization()]);
    let (daemon, client) = Daemon::start(&options).await?;
    let empty = daemon.usage()?;
    let prepared = prepare(&client, "load", &options).await?;
    // What the allocator gives back, it gives back soon.
    tokio::time::sleep(Duration::from_secs(options.warm_up)).await;
    let filled = daemon.usage()?;
    let mut figures = run(Scenario::Update, &daemon, &prepared, &options).await?;
    figures.scenario = Scenario::Memory;
    let (live, metrics) = ((options.keys * options.entry_bytes()) as f64, daemon.metrics()?);
    let after = daemon.usage()?;
    let budget = metrics.sum("dstl_memory_budget_bytes");
    figures.set("live_bytes", live as u64);
    figures.set("empty_rss_bytes", empty.rss_bytes);
    figures.set("filled_rss_bytes", filled.rss_bytes);
    figures.set("filled_rss_to_live_bytes", filled.rss_bytes as f64 / live);
    figures.set("updated_rss_to_live_bytes", after.rss_bytes as f64 / live);
    figures.set("peak_rss_to_live_bytes", after.peak_rss_bytes as f64 / live);
    figures.set("budget_bytes", budget as u64);
    figures.set("peak_rss_to_budget", after.peak_rss_bytes as f64 / budget);
    Ok(vec![figures])
}

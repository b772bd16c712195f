//! The scenarios of one task that has nothing else to do, as fast as it is let, or at a given rate.

use std::time::{Duration, Instant};

use super::{
    Fault, Scenario,
    daemon::{Daemon, Metrics},
    figures::Figures,
    latency,
    options::{Inner, Options},
    running::{Running, fill_times},
    work::{Prepared, Worker, prepare},
};

/// How often RocksDB is asked for its memtables.
const POLL: Duration = Duration::from_millis(100);

/// Runs `scenario` with a daemon, or a floor, of its own.
pub(crate) async fn measure(scenario: Scenario, options: &Options) -> Result<Vec<Figures>, Fault> {
    let is_floor = scenario == Scenario::Floor;
    let options = if options.inner == Inner::Rocksdb && !is_floor {
        options.with(&["state.backend.rocksdb.metrics=num-entries-active-mem-table".to_owned()])
    } else {
        options.clone()
    };
    let (daemon, client) = if is_floor { Daemon::floor(&options).await? } else { Daemon::start(&options).await? };
    let prepared = prepare(&client, "load", &options).await?;
    let mut figures = vec![run(scenario, &daemon, &prepared, &options).await?];
    if is_floor {
        let alone = latency::floor(&prepared, &options).await?;
        figures.push(alone);
    }
    prepared.backend.close().await?;
    if let (Some(figures), Some(stored)) = (figures.first_mut(), daemon.stored()) {
        figures.set("store_objects", stored.objects);
        figures.set("store_bytes", stored.bytes);
        if let Some(state) = figures.other("state_bytes").filter(|bytes| *bytes > 0.0) {
            figures.set("store_to_state_bytes", stored.bytes as f64 / state);
        }
    }
    Ok(figures)
}

/// Runs `scenario` on a prepared backend.
pub(crate) async fn run(
    scenario: Scenario,
    daemon: &Daemon,
    prepared: &Prepared,
    options: &Options,
) -> Result<Figures, Fault> {
    let is_floor = scenario == Scenario::Floor;
    let checkpoint_ms = if is_floor { 0 } else { options.checkpoint_ms() };
    let mut running = Running::begin(scenario, prepared, checkpoint_ms, options).await?;
    let first = running.moment(daemon)?;
    running.work_for(Duration::from_secs(options.warm_up)).await?;
    running.reset();

    let mut memtables = Memtables::default();
    let before = running.moment(daemon)?;
    let mut rates = vec![];
    for _ in 0..options.windows {
        let (begun, applied) = (Instant::now(), running.operations());
        while begun.elapsed() < options.window() {
            let left = options.window().saturating_sub(begun.elapsed());
            if options.inner == Inner::Rocksdb && !is_floor {
                running.work_for(left.min(POLL)).await?;
                memtables.look(&daemon.metrics()?);
            } else {
                running.work_for(left).await?;
            }
        }
        rates.push((running.operations() - applied) as f64 / begun.elapsed().as_secs_f64());
    }
    let after = running.moment(daemon)?;
    let mut figures = Figures::new(scenario, options);
    before.fill(&after, &mut figures);
    figures.set_rates(rates);
    fill_times(&running.latencies(), &running.checkpoints(), &mut figures);
    running.end().await?;
    let durable = running.moment(daemon)?;
    let seconds = (durable.at - before.at).as_secs_f64();
    figures.set("durable_operations_per_second", (durable.operations - before.operations) as f64 / seconds);
    first.fill_store(&durable, Worker::changes_per_operation(scenario), &mut figures);
    figures.set("state_bytes", durable.metrics.sum("dstl_state_bytes") as u64);
    if options.inner == Inner::Rocksdb && !is_floor {
        figures.set("memtables_filled", memtables.filled);
    }
    Ok(figures)
}

/// Counts the memtables that were filled, and so flushed: their entries become fewer only then.
#[derive(Debug, Default)]
struct Memtables {
    entries: f64,
    filled: u64,
}

impl Memtables {
    fn look(&mut self, metrics: &Metrics) {
        let entries = metrics.sum("dstl_rocksdb_num_entries_active_mem_table");
        self.filled += u64::from(entries < self.entries);
        self.entries = entries;
    }
}
